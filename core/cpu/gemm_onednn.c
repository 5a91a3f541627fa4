/* gemm_onednn.c -- pk_gemm_f32 on oneDNN, the only file that includes it. */
#include "core/cpu/gemm.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#define PK_TEXT_(x) #x
#define PK_TEXT(x)  PK_TEXT_(x)

enum pk_status pk_gemm_f32(const struct pk_gemm *g, struct pk_err *err)
{
    if (g->m == 0 || g->n == 0) return PK_OK;
    dnnl_status_t s = dnnl_sgemm(g->trans_a ? 'T' : 'N', g->trans_b ? 'T' : 'N', g->m, g->n, g->k,
                                 1.0f, g->a, g->lda, g->b, g->ldb, g->beta, g->c, g->ldc);
    if (s != dnnl_success)
        return pk_fail(err, PK_EINTERNAL, "oneDNN refused a %lld x %lld x %lld product (status %d)",
                       (long long)g->m, (long long)g->n, (long long)g->k, (int)s);
    return PK_OK;
}

void pk_gemm_thread_init(void)
{
    omp_set_num_threads(1);
}

const char *pk_gemm_library(void)
{
    return "oneDNN " PK_TEXT(DNNL_VERSION_MAJOR) "." PK_TEXT(DNNL_VERSION_MINOR);
}
