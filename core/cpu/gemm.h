/* gemm.h -- single-precision matrix product of the CPU backend, row-major, on the calling thread.
 */
#ifndef PK_CPU_GEMM_H
#define PK_CPU_GEMM_H

#include "core/base.h"

struct pk_gemm {
    int64_t m, n, k;       // C is m x n, the inner dimension is k
    bool trans_a, trans_b; // a is [m, k], or [k, m] when transposed; b is [k, n], or [n, k]
    float beta;            // C = A B + beta C; 0 never reads C
    const float *a;
    int64_t lda; // elements between rows
    const float *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
};

enum pk_status pk_gemm_f32(const struct pk_gemm *g, struct pk_err *err);
/* Call once in every thread that will run pk_gemm_f32: keeps the library from starting its own. */
void pk_gemm_thread_init(void);
const char *pk_gemm_library(void); // name and version, for reports

#endif
