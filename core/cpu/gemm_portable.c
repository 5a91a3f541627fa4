/* gemm_portable.c -- pk_gemm_f32 without a library: correct everywhere, not fast. */
#include "core/cpu/gemm.h"

enum pk_status pk_gemm_f32(const struct pk_gemm *g, struct pk_err *err)
{
    (void)err;
    for (int64_t i = 0; i < g->m; i++) {
        float *c = g->c + i * g->ldc;
        for (int64_t j = 0; j < g->n; j++) c[j] = g->beta == 0 ? 0 : g->beta * c[j];
        for (int64_t p = 0; p < g->k; p++) {
            float a = g->trans_a ? g->a[p * g->lda + i] : g->a[i * g->lda + p];
            const float *b = g->trans_b ? g->b + p : g->b + p * g->ldb;
            int64_t step = g->trans_b ? g->ldb : 1;
            for (int64_t j = 0; j < g->n; j++) c[j] += a * b[j * step];
        }
    }
    return PK_OK;
}

void pk_gemm_thread_init(void)
{
}

const char *pk_gemm_library(void)
{
    return "portable";
}
