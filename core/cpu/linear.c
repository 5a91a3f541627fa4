/* linear.c -- linear layers, exact GELU, and the two fused.
 *
 *     y = x w^T + bias        GELU(x) = x F(x), F the normal distribution function
 *
 * A layer with GELU runs over panels of rows, so that the panel that the matrix product has just
 * written is still in the second-level cache when the GELU reads it. */
#include "core/cpu/gelu.h"
#include "core/cpu/gemm.h"
#include "core/cpu/kernels.h"
#include "core/view.h"

/* Elements of a panel of pre-activations: 256 KB, a quarter of the cache, since the product needs
 * the rest for the weights. */
enum { PANEL = 65536 };

static int64_t panel_rows(int64_t width)
{
    int64_t rows = PANEL / width / 8 * 8;
    return rows < 32 ? 32 : rows;
}

static void gelu_span(float *y, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + PK_V <= n; i += PK_V) pk_v_store(y + i, pk_v_gelu(pk_v_load(x + i)));
    if (i < n) pk_v_store_n(y + i, n - i, pk_v_gelu(pk_v_load_n(x + i, n - i)));
}

/* dx (+)= dy * gelu'(x); dx may be dy. */
static void gelu_grad_span(float *dx, const float *dy, const float *x, int64_t n, bool accumulate)
{
    for (int64_t i = 0; i < n; i += PK_V) {
        int64_t k = n - i < PK_V ? n - i : PK_V;
        pk_v g = pk_v_mul(pk_v_load_n(dy + i, k), pk_v_gelu_slope(pk_v_load_n(x + i, k)));
        if (accumulate) g = pk_v_add(g, pk_v_load_n(dx + i, k));
        pk_v_store_n(dx + i, k, g);
    }
}

static void add_bias(float *y, const float *bias, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++, y += cols) {
        int64_t i = 0;
        for (; i + PK_V <= cols; i += PK_V)
            pk_v_store(y + i, pk_v_add(pk_v_load(y + i), pk_v_load(bias + i)));
        for (; i < cols; i++) y[i] += bias[i];
    }
}

/* y[rows, n] = x[rows, k] w[n, k]^T + bias */
static enum pk_status forward(float *y, const float *x, const float *w, const float *bias,
                              int64_t rows, int64_t n, int64_t k, struct pk_err *err)
{
    PK_TRY(pk_gemm_f32(&(struct pk_gemm){.m = rows,
                                         .n = n,
                                         .k = k,
                                         .trans_b = true,
                                         .a = x,
                                         .lda = k,
                                         .b = w,
                                         .ldb = k,
                                         .c = y,
                                         .ldc = n},
                       err));
    if (bias) add_bias(y, bias, rows, n);
    return PK_OK;
}

/* dx[rows, k] = dy[rows, n] w[n, k] + beta dx */
static enum pk_status backward(float *dx, const float *dy, const float *w, int64_t rows, int64_t n,
                               int64_t k, float beta, struct pk_err *err)
{
    return pk_gemm_f32(&(struct pk_gemm){.m = rows,
                                         .n = k,
                                         .k = n,
                                         .beta = beta,
                                         .a = dy,
                                         .lda = n,
                                         .b = w,
                                         .ldb = k,
                                         .c = dx,
                                         .ldc = k},
                       err);
}

/* in: x [..., K], w [N, K], bias [N] or absent -> y [..., N] */
enum pk_status PK_ISA_NAME(pk_cpu_linear)(const struct pk_call *c, struct pk_err *err)
{
    const int64_t rows = pk_view_rows(c->in[0]), k = pk_view_cols(c->in[0]), n = c->in[1]->dim[0];
    const float *x = c->src[0], *w = c->src[1], *bias = c->in[2] ? c->src[2] : NULL;
    float *y = c->dst[0];
    int64_t step = bias ? panel_rows(n) : rows;
    for (int64_t r = 0; r < rows; r += step)
        PK_TRY(forward(y + r * n, x + r * k, w, bias, PK_MIN(step, rows - r), n, k, err));
    return PK_OK;
}

/* in: dy [..., N], w [N, K] -> dx [..., K], accumulating */
enum pk_status PK_ISA_NAME(pk_cpu_linear_dx)(const struct pk_call *c, struct pk_err *err)
{
    return backward(c->dst[0], c->src[0], c->src[1], pk_view_rows(c->in[0]), c->in[1]->dim[0],
                    c->in[1]->dim[1], pk_call_accumulates(c, 0) ? 1 : 0, err);
}

/* in: dy [..., N], x [..., K] -> dw [N, K], dbias [N] or absent, both accumulating */
enum pk_status PK_ISA_NAME(pk_cpu_linear_dw)(const struct pk_call *c, struct pk_err *err)
{
    const int64_t rows = pk_view_rows(c->in[0]), n = pk_view_cols(c->in[0]),
                  k = pk_view_cols(c->in[1]);
    const float *dy = c->src[0];
    if (c->out[1]) {
        float *dbias = c->dst[1];
        if (!pk_call_accumulates(c, 1)) memset(dbias, 0, (size_t)n * sizeof *dbias);
        for (int64_t j = 0; j < n; j += PK_V) {
            int64_t lanes = PK_MIN(n - j, PK_V);
            pk_v sum = pk_v_zero();
            for (int64_t r = 0; r < rows; r++)
                sum = pk_v_add(sum, pk_v_load_n(dy + r * n + j, lanes));
            pk_v_store_n(dbias + j, lanes, pk_v_add(pk_v_load_n(dbias + j, lanes), sum));
        }
    }
    if (!c->out[0]) return PK_OK;
    return pk_gemm_f32(&(struct pk_gemm){.m = n,
                                         .n = k,
                                         .k = rows,
                                         .trans_a = true,
                                         .beta = pk_call_accumulates(c, 0) ? 1 : 0,
                                         .a = dy,
                                         .lda = n,
                                         .b = c->src[1],
                                         .ldb = k,
                                         .c = c->dst[0],
                                         .ldc = k},
                       err);
}

/* in: x -> y */
enum pk_status PK_ISA_NAME(pk_cpu_gelu)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    gelu_span(c->dst[0], c->src[0], pk_view_rows(c->in[0]) * pk_view_cols(c->in[0]));
    return PK_OK;
}

/* in: dy, x -> dx, accumulating */
enum pk_status PK_ISA_NAME(pk_cpu_gelu_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    gelu_grad_span(c->dst[0], c->src[0], c->src[1], pk_view_rows(c->in[0]) * pk_view_cols(c->in[0]),
                   pk_call_accumulates(c, 0));
    return PK_OK;
}

/* in: x [..., K], w [N, K], bias [N] or absent -> pre [..., N] or absent, y [..., N] */
enum pk_status PK_ISA_NAME(pk_cpu_linear_gelu)(const struct pk_call *c, struct pk_err *err)
{
    const int64_t rows = pk_view_rows(c->in[0]), k = pk_view_cols(c->in[0]), n = c->in[1]->dim[0];
    const float *x = c->src[0], *w = c->src[1], *bias = c->in[2] ? c->src[2] : NULL;
    float *y = c->dst[1], *pre = c->out[0] ? c->dst[0] : y;
    int64_t step = panel_rows(n);
    for (int64_t r = 0; r < rows; r += step) {
        int64_t m = PK_MIN(step, rows - r);
        PK_TRY(forward(pre + r * n, x + r * k, w, bias, m, n, k, err));
        gelu_span(y + r * n, pre + r * n, m * n);
    }
    return PK_OK;
}

/* in: dy [..., N], w [N, K], pre [..., K] -> dpre [..., K] = (dy w) gelu'(pre) */
enum pk_status PK_ISA_NAME(pk_cpu_linear_dx_gelu)(const struct pk_call *c, struct pk_err *err)
{
    const int64_t rows = pk_view_rows(c->in[0]), n = c->in[1]->dim[0], k = c->in[1]->dim[1];
    const float *dy = c->src[0], *w = c->src[1], *pre = c->src[2];
    float *dpre = c->dst[0];
    int64_t step = panel_rows(k);
    for (int64_t r = 0; r < rows; r += step) {
        int64_t m = PK_MIN(step, rows - r);
        PK_TRY(backward(dpre + r * k, dy + r * n, w, m, n, k, 0, err));
        gelu_grad_span(dpre + r * k, dpre + r * k, pre + r * k, m * k, false);
    }
    return PK_OK;
}
