/* conv1d.c -- convolution over time, channels last.
 *
 *     y[b, u, n] = bias[n] + sum over k, c of x[b, u stride + k - left, c] w[n, c, k]
 *
 * With the channels last the window of one output is one run of kernel * C floats of x, so a dense
 * convolution is a matrix product whose rows are copied by one memcpy each (a copy per group where
 * there are groups). They are laid out a panel at a time, which the product reads from the cache:
 * a copy of K C floats against the K C N multiply-adds of its row. A kernel of one sample without
 * stride needs no copy: it is a linear layer. Depthwise convolutions run over whole vectors of
 * channels. The weight is brought from PyTorch's [N, C, K] to [N, K, C] in the workspace. */
#include "core/cpu/gemm.h"
#include "core/cpu/kernels.h"
#include "core/cpu/simd.h"
#include "core/cpu/workspace.h"
#include "core/view.h"

struct conv {
    int64_t batch, in, out, c, n, kernel; // in, out: samples of a record; c, n: all channels
    int64_t stride, left, groups, cg, ng; // cg, ng: channels of one group
    int64_t window, rows, panel;          // cg * kernel; batch * out; rows laid out at a time
    bool depthwise, plain;                // plain: a linear layer
};

static struct conv conv_of(const struct pk_call *c, const struct pk_value *x,
                           const struct pk_value *y, int64_t kernel)
{
    struct conv v = {.batch = x->dim[0],
                     .in = x->dim[1],
                     .out = y->dim[1],
                     .c = x->dim[2],
                     .n = y->dim[2],
                     .kernel = kernel,
                     .stride = c->node->attr.conv1d.stride,
                     .left = c->node->attr.conv1d.left,
                     .groups = c->node->attr.conv1d.groups};
    v.cg = v.c / v.groups;
    v.ng = v.n / v.groups;
    v.window = v.cg * kernel;
    v.rows = v.batch * v.out;
    v.panel = pk_cpu_conv1d_rows(v.rows, v.window);
    v.plain = kernel == 1 && v.stride == 1 && v.groups == 1 && v.in == v.out && !v.left;
    v.depthwise = v.cg == 1 && v.ng == 1 && !v.plain;
    return v;
}

/* to[n, k, c] = w[n, c, k]; depthwise: to[k, n]. */
static void pack(float *to, const float *w, const struct conv *v)
{
    for (int64_t n = 0; n < v->n; n++, w += v->window)
        for (int64_t c = 0; c < v->cg; c++)
            for (int64_t k = 0; k < v->kernel; k++)
                to[v->depthwise ? k * v->n + n : (n * v->kernel + k) * v->cg + c] =
                    w[c * v->kernel + k];
}

/* dw[n, c, k] (+)= the packed form. */
static void unpack(float *dw, const float *from, const struct conv *v, bool add)
{
    for (int64_t n = 0; n < v->n; n++, dw += v->window)
        for (int64_t c = 0; c < v->cg; c++)
            for (int64_t k = 0; k < v->kernel; k++) {
                float *to = dw + c * v->kernel + k;
                const float g = from[v->depthwise ? k * v->n + n : (n * v->kernel + k) * v->cg + c];
                *to = add ? *to + g : g;
            }
}

/* The taps [*from, *to) of output row r whose samples are inside the record; returns the sample of
 * tap 0, which may be outside. */
static int64_t taps(const struct conv *v, int64_t r, int64_t *from, int64_t *to)
{
    const int64_t start = r % v->out * v->stride - v->left;
    *from = PK_MIN(PK_MAX(-start, 0), v->kernel);
    *to = PK_MAX(PK_MIN(v->in - start, v->kernel), *from);
    return start;
}

/* panel[rows][K][cg]: the windows of rows r, r + 1 ... of one group. */
static void lay_out(float *panel, const float *x, const struct conv *v, int64_t r, int64_t rows,
                    int64_t group)
{
    for (int64_t end = r + rows; r < end; r++, panel += v->window) {
        int64_t from, to, start = taps(v, r, &from, &to);
        const float *record = x + r / v->out * v->in * v->c + group * v->cg;
        memset(panel, 0, (size_t)(from * v->cg) * sizeof *panel);
        if (v->groups == 1)
            memcpy(panel + from * v->cg, record + (start + from) * v->c,
                   (size_t)((to - from) * v->cg) * sizeof *panel);
        else
            for (int64_t k = from; k < to; k++)
                memcpy(panel + k * v->cg, record + (start + k) * v->c,
                       (size_t)v->cg * sizeof *panel);
        memset(panel + to * v->cg, 0, (size_t)((v->kernel - to) * v->cg) * sizeof *panel);
    }
}

/* The reverse: windows are added to where they came from. */
static void add_back(float *dx, const float *panel, const struct conv *v, int64_t r, int64_t rows,
                     int64_t group)
{
    for (int64_t end = r + rows; r < end; r++, panel += v->window) {
        int64_t from, to, start = taps(v, r, &from, &to);
        float *record = dx + r / v->out * v->in * v->c + group * v->cg;
        for (int64_t k = from; k < to; k++) {
            float *d = record + (start + k) * v->c;
            const float *g = panel + k * v->cg;
            for (int64_t c = 0; c < v->cg; c++) d[c] += g[c];
        }
    }
}

static void add_bias(float *y, const float *bias, int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++, y += cols)
        for (int64_t i = 0; i < cols; i++) y[i] += bias[i];
}

/* d[0, n) += a[0, n) b[0, n) */
static void multiply_add(float *d, const float *a, const float *b, int64_t n)
{
    int64_t i = 0;
    for (; i + PK_V <= n; i += PK_V)
        pk_v_store(d + i, pk_v_fma(pk_v_load(a + i), pk_v_load(b + i), pk_v_load(d + i)));
    for (; i < n; i++) d[i] += a[i] * b[i];
}

static void depthwise_row(float *y, const float *x, const float *w, const float *bias,
                          const struct conv *v, int64_t r)
{
    int64_t from, to, start = taps(v, r, &from, &to), c = 0;
    const float *record = x + r / v->out * v->in * v->c;
    for (; c < v->c; c += PK_V) {
        const int64_t lanes = PK_MIN(v->c - c, PK_V);
        pk_v sum = bias ? pk_v_load_n(bias + c, lanes) : pk_v_zero();
        for (int64_t k = from; k < to; k++)
            sum = pk_v_fma(pk_v_load_n(record + (start + k) * v->c + c, lanes),
                           pk_v_load_n(w + k * v->c + c, lanes), sum);
        pk_v_store_n(y + r * v->c + c, lanes, sum);
    }
}

/* in: x [B, T, C], w [N, C / groups, K], bias [N] or absent -> y [B, U, N] */
enum pk_status PK_ISA_NAME(pk_cpu_conv1d)(const struct pk_call *c, struct pk_err *err)
{
    const struct conv v = conv_of(c, c->in[0], c->out[0], c->in[1]->dim[2]);
    const float *x = c->src[0], *w = c->src[1], *bias = c->in[2] ? c->src[2] : NULL;
    float *y = c->dst[0], *packed = c->workspace, *panel = packed + pk_cpu_pad(v.n * v.window);
    if (!v.plain) pack(packed, w, &v);
    for (int64_t r = 0; v.depthwise && r < v.rows; r++) depthwise_row(y, x, packed, bias, &v, r);
    const int64_t step = v.depthwise ? 0 : v.plain ? v.rows : v.panel;
    for (int64_t r = 0; step && r < v.rows; r += step) {
        const int64_t rows = PK_MIN(step, v.rows - r);
        for (int64_t g = 0; g < v.groups; g++) {
            if (!v.plain) lay_out(panel, x, &v, r, rows, g);
            PK_TRY(pk_gemm_f32(&(struct pk_gemm){.m = rows,
                                                 .n = v.ng,
                                                 .k = v.window,
                                                 .trans_b = true,
                                                 .a = v.plain ? x + r * v.c : panel,
                                                 .lda = v.window,
                                                 .b = v.plain ? w : packed + g * v.ng * v.window,
                                                 .ldb = v.window,
                                                 .c = y + r * v.n + g * v.ng,
                                                 .ldc = v.n},
                               err));
        }
        if (bias) add_bias(y + r * v.n, bias, rows, v.n);
    }
    return PK_OK;
}

/* in: dy [B, U, N], w -> dx [B, T, C], accumulating */
enum pk_status PK_ISA_NAME(pk_cpu_conv1d_dx)(const struct pk_call *c, struct pk_err *err)
{
    const struct conv v = conv_of(c, c->out[0], c->in[0], c->in[1]->dim[2]);
    const float *dy = c->src[0], *w = c->src[1];
    float *dx = c->dst[0], *packed = c->workspace, *panel = packed + pk_cpu_pad(v.n * v.window);
    const bool add = pk_call_accumulates(c, 0);
    if (!add && !v.plain) memset(dx, 0, (size_t)(v.batch * v.in * v.c) * sizeof *dx);
    if (!v.plain) pack(packed, w, &v);
    for (int64_t r = 0; v.depthwise && r < v.rows; r++) {
        int64_t from, to, start = taps(&v, r, &from, &to);
        float *record = dx + r / v.out * v.in * v.c;
        for (int64_t k = from; k < to; k++)
            multiply_add(record + (start + k) * v.c, dy + r * v.c, packed + k * v.c, v.c);
    }
    const int64_t step = v.depthwise ? 0 : v.plain ? v.rows : v.panel;
    for (int64_t r = 0; step && r < v.rows; r += step) {
        const int64_t rows = PK_MIN(step, v.rows - r);
        for (int64_t g = 0; g < v.groups; g++) {
            PK_TRY(pk_gemm_f32(&(struct pk_gemm){.m = rows,
                                                 .n = v.window,
                                                 .k = v.ng,
                                                 .beta = v.plain && add ? 1 : 0,
                                                 .a = dy + r * v.n + g * v.ng,
                                                 .lda = v.n,
                                                 .b = v.plain ? w : packed + g * v.ng * v.window,
                                                 .ldb = v.window,
                                                 .c = v.plain ? dx + r * v.c : panel,
                                                 .ldc = v.window},
                               err));
            if (!v.plain) add_back(dx, panel, &v, r, rows, g);
        }
    }
    return PK_OK;
}

static void bias_gradient(float *dbias, const float *dy, const struct conv *v, bool add)
{
    for (int64_t i = 0; i < v->n; i += PK_V) {
        const int64_t lanes = PK_MIN(v->n - i, PK_V);
        pk_v sum = pk_v_zero();
        for (int64_t r = 0; r < v->rows; r++)
            sum = pk_v_add(sum, pk_v_load_n(dy + r * v->n + i, lanes));
        if (add) sum = pk_v_add(sum, pk_v_load_n(dbias + i, lanes));
        pk_v_store_n(dbias + i, lanes, sum);
    }
}

/* in: dy [B, U, N], x [B, T, C] -> dw [N, C / groups, K] or absent, dbias [N] or absent, both
 * accumulating */
enum pk_status PK_ISA_NAME(pk_cpu_conv1d_dw)(const struct pk_call *c, struct pk_err *err)
{
    const int64_t kernel = c->out[0] ? c->out[0]->dim[2] : 1;
    const struct conv v = conv_of(c, c->in[1], c->in[0], kernel);
    const float *dy = c->src[0], *x = c->src[1];
    if (c->out[1]) bias_gradient(c->dst[1], dy, &v, pk_call_accumulates(c, 1));
    if (!c->out[0]) return PK_OK;
    const bool add = pk_call_accumulates(c, 0);
    float *packed = v.plain ? c->dst[0] : c->workspace;
    float *panel = v.plain ? NULL : packed + pk_cpu_pad(v.n * v.window);
    if (v.depthwise) memset(packed, 0, (size_t)(v.n * v.window) * sizeof *packed);
    for (int64_t r = 0; v.depthwise && r < v.rows; r++) {
        int64_t from, to, start = taps(&v, r, &from, &to);
        const float *record = x + r / v.out * v.in * v.c;
        for (int64_t k = from; k < to; k++)
            multiply_add(packed + k * v.c, dy + r * v.c, record + (start + k) * v.c, v.c);
    }
    const int64_t step = v.depthwise ? 0 : v.plain ? v.rows : v.panel;
    for (int64_t r = 0; step && r < v.rows; r += step) {
        const int64_t rows = PK_MIN(step, v.rows - r);
        for (int64_t g = 0; g < v.groups; g++) {
            if (!v.plain) lay_out(panel, x, &v, r, rows, g);
            PK_TRY(pk_gemm_f32(&(struct pk_gemm){.m = v.ng,
                                                 .n = v.window,
                                                 .k = rows,
                                                 .trans_a = true,
                                                 .beta = r || (v.plain && add) ? 1 : 0,
                                                 .a = dy + r * v.n + g * v.ng,
                                                 .lda = v.n,
                                                 .b = v.plain ? x + r * v.c : panel,
                                                 .ldb = v.window,
                                                 .c = packed + g * v.ng * v.window,
                                                 .ldc = v.window},
                               err));
        }
    }
    if (!v.plain) unpack(c->dst[0], packed, &v, add);
    return PK_OK;
}
