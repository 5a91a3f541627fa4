/* layernorm.c -- layer normalisation over the last axis.
 *
 *     y = xhat * gain + bias,  xhat = (x - mean) * rstd,  rstd = 1 / sqrt(var + eps),  var with 1/n
 *
 * A row is a few KiB, so the passes over it below run from the first-level cache; what is counted
 * is one read and one write of memory. The variance takes a second pass: the one-pass form cancels.
 */
#include "core/cpu/kernels.h"
#include "core/cpu/simd.h"
#include "core/view.h"

#include <math.h>
#include <string.h>

/* Loops below run over whole vectors with n = PK_V, a constant after inlining, and then once over
 * the rest of the row. */
#define INLINE static inline __attribute__((always_inline))

INLINE pk_v load(const float *p, int64_t n)
{
    return n >= PK_V ? pk_v_load(p) : pk_v_load_n(p, n);
}

INLINE void store(float *p, int64_t n, pk_v a)
{
    if (n >= PK_V)
        pk_v_store(p, a);
    else
        pk_v_store_n(p, n, a);
}

static float row_sum(const float *x, int64_t cols)
{
    pk_v s0 = pk_v_zero(), s1 = pk_v_zero();
    int64_t i = 0;
    for (; i + 2 * PK_V <= cols; i += 2 * PK_V) {
        s0 = pk_v_add(s0, pk_v_load(x + i));
        s1 = pk_v_add(s1, pk_v_load(x + i + PK_V));
    }
    for (; i < cols; i += PK_V) s0 = pk_v_add(s0, load(x + i, cols - i));
    return pk_v_sum(pk_v_add(s0, s1));
}

/* y = a + b; returns the sum over y. */
static float row_add(float *y, const float *a, const float *b, int64_t cols)
{
    pk_v s = pk_v_zero();
    int64_t i = 0;
    for (; i + PK_V <= cols; i += PK_V) {
        pk_v v = pk_v_add(pk_v_load(a + i), pk_v_load(b + i));
        pk_v_store(y + i, v);
        s = pk_v_add(s, v);
    }
    if (i < cols) {
        pk_v v = pk_v_add(load(a + i, cols - i), load(b + i, cols - i));
        store(y + i, cols - i, v);
        s = pk_v_add(s, v);
    }
    return pk_v_sum(s);
}

/* Sum of (x - mean)^2. */
static float row_spread(const float *x, float mean, int64_t cols)
{
    const pk_v m = pk_v_set(mean);
    pk_v s0 = pk_v_zero(), s1 = pk_v_zero();
    int64_t i = 0;
    for (; i + 2 * PK_V <= cols; i += 2 * PK_V) {
        pk_v d0 = pk_v_sub(pk_v_load(x + i), m), d1 = pk_v_sub(pk_v_load(x + i + PK_V), m);
        s0 = pk_v_fma(d0, d0, s0);
        s1 = pk_v_fma(d1, d1, s1);
    }
    for (; i + PK_V <= cols; i += PK_V) {
        pk_v d = pk_v_sub(pk_v_load(x + i), m);
        s0 = pk_v_fma(d, d, s0);
    }
    float s = pk_v_sum(pk_v_add(s0, s1));
    for (; i < cols; i++) s += (x[i] - mean) * (x[i] - mean);
    return s;
}

struct affine {
    const float *gain, *bias; // [cols]; bias may be NULL
    float eps;
    int64_t cols;
};

INLINE void normalise_part(float *y, const float *x, const struct affine *a, pk_v mean, pk_v rstd,
                           int64_t i, int64_t n)
{
    pk_v v = pk_v_mul(pk_v_mul(pk_v_sub(load(x + i, n), mean), rstd), load(a->gain + i, n));
    if (a->bias) v = pk_v_add(v, load(a->bias + i, n));
    store(y + i, n, v);
}

static void normalise_row(float *y, const float *x, float total, const struct affine *a,
                          float *mean_out, float *rstd_out)
{
    const float mean = total / (float)a->cols;
    const float rstd = 1 / sqrtf(row_spread(x, mean, a->cols) / (float)a->cols + a->eps);
    const pk_v m = pk_v_set(mean), s = pk_v_set(rstd);
    int64_t i = 0;
    for (; i + PK_V <= a->cols; i += PK_V) normalise_part(y, x, a, m, s, i, PK_V);
    if (i < a->cols) normalise_part(y, x, a, m, s, i, a->cols - i);
    if (mean_out) *mean_out = mean;
    if (rstd_out) *rstd_out = rstd;
}

/* in: x, gain, bias; out: y, mean, rstd. */
enum pk_status PK_ISA_NAME(pk_cpu_layernorm)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t rows = pk_view_rows(c->in[0]), cols = pk_view_cols(c->in[0]);
    const struct affine a = {c->src[1], c->src[2], c->node->attr.layernorm.eps, cols};
    const float *x = c->src[0];
    float *y = c->dst[0], *mean = c->dst[1], *rstd = c->dst[2];
    for (int64_t r = 0; r < rows; r++, x += cols, y += cols)
        normalise_row(y, x, row_sum(x, cols), &a, mean ? mean + r : NULL, rstd ? rstd + r : NULL);
    return PK_OK;
}

/* in: a, b, gain, bias; out: a + b, its layer norm, mean, rstd. */
enum pk_status PK_ISA_NAME(pk_cpu_add_layernorm)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t rows = pk_view_rows(c->in[0]), cols = pk_view_cols(c->in[0]);
    const struct affine a = {c->src[2], c->src[3], c->node->attr.layernorm.eps, cols};
    const float *x = c->src[0], *b = c->src[1];
    float *sum = c->dst[0], *y = c->dst[1], *mean = c->dst[2], *rstd = c->dst[3];
    for (int64_t r = 0; r < rows; r++, x += cols, b += cols, sum += cols, y += cols)
        normalise_row(y, sum, row_add(sum, x, b, cols), &a, mean ? mean + r : NULL,
                      rstd ? rstd + r : NULL);
    return PK_OK;
}

struct backward {
    const float *dy, *x, *gain, *mean, *rstd;
    float *dx, *dgain, *dbias; // each may be NULL
    bool add;                  // to dx
    int64_t cols;
};

/* Adds a part of row r to the sums of g = dy * gain and of g * xhat. */
INLINE void means_part(const struct backward *a, int64_t r, int64_t i, int64_t n, pk_v *g_sum,
                       pk_v *gx_sum)
{
    // Lanes beyond the row have dy = gain = 0 and add nothing.
    const int64_t at = r * a->cols + i;
    const pk_v g = pk_v_mul(load(a->dy + at, n), load(a->gain + i, n));
    const pk_v d = pk_v_sub(load(a->x + at, n), pk_v_set(a->mean[r]));
    *g_sum = pk_v_add(*g_sum, g);
    *gx_sum = pk_v_fma(g, pk_v_mul(d, pk_v_set(a->rstd[r])), *gx_sum);
}

static void row_means(const struct backward *a, int64_t r, float *g_mean, float *gx_mean)
{
    pk_v g = pk_v_zero(), gx = pk_v_zero();
    int64_t i = 0;
    for (; i + PK_V <= a->cols; i += PK_V) means_part(a, r, i, PK_V, &g, &gx);
    if (i < a->cols) means_part(a, r, i, a->cols - i, &g, &gx);
    *g_mean = pk_v_sum(g) / (float)a->cols;
    *gx_mean = pk_v_sum(gx) / (float)a->cols;
}

struct means { // of g and g * xhat over each of a few rows
    float g[4], gx[4];
};

/* Columns i to i + n of `rows` rows from row r on. */
INLINE void grad_part(const struct backward *a, const struct means *s, int64_t r, const int rows,
                      int64_t i, int64_t n)
{
    const pk_v gain = load(a->gain + i, n);
    pk_v sum_gain = pk_v_zero(), sum_bias = pk_v_zero();
    for (int k = 0; k < rows; k++) {
        const int64_t at = (r + k) * a->cols + i;
        const pk_v rstd = pk_v_set(a->rstd[r + k]), dy = load(a->dy + at, n);
        const pk_v xhat = pk_v_mul(pk_v_sub(load(a->x + at, n), pk_v_set(a->mean[r + k])), rstd);
        if (a->dx) {
            pk_v d = pk_v_sub(pk_v_mul(dy, gain), pk_v_set(s->g[k]));
            d = pk_v_mul(rstd, pk_v_fnma(xhat, pk_v_set(s->gx[k]), d));
            store(a->dx + at, n, a->add ? pk_v_add(load(a->dx + at, n), d) : d);
        }
        sum_gain = pk_v_fma(dy, xhat, sum_gain);
        sum_bias = pk_v_add(sum_bias, dy);
    }
    if (a->dgain) store(a->dgain + i, n, pk_v_add(load(a->dgain + i, n), sum_gain));
    if (a->dbias) store(a->dbias + i, n, pk_v_add(load(a->dbias + i, n), sum_bias));
}

/* dx of `rows` (at most 4) rows from row r on, and their share of dgain and dbias:
 *     dx = rstd * (g - mean(g) - xhat * mean(g * xhat))
 * Several rows at a time, so that dgain and dbias are read and written once for all of them. */
INLINE void grad_rows(const struct backward *whole, int64_t r, const int rows)
{
    const struct backward a = *whole; // a copy that no store can change
    struct means s;
    int64_t i = 0;
    for (int k = 0; a.dx && k < rows; k++) row_means(&a, r + k, &s.g[k], &s.gx[k]);
    for (; i + PK_V <= a.cols; i += PK_V) grad_part(&a, &s, r, rows, i, PK_V);
    if (i < a.cols) grad_part(&a, &s, r, rows, i, a.cols - i);
}

/* in: dy, x, gain, mean, rstd; out: dx, dgain, dbias. */
enum pk_status PK_ISA_NAME(pk_cpu_layernorm_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t rows = pk_view_rows(c->in[0]), cols = pk_view_cols(c->in[0]);
    const struct backward a = {.dy = c->src[0],
                               .x = c->src[1],
                               .gain = c->src[2],
                               .mean = c->src[3],
                               .rstd = c->src[4],
                               .dx = c->dst[0],
                               .dgain = c->dst[1],
                               .dbias = c->dst[2],
                               .add = pk_call_accumulates(c, 0),
                               .cols = cols};
    if (a.dgain && !pk_call_accumulates(c, 1)) memset(a.dgain, 0, (size_t)cols * sizeof *a.dgain);
    if (a.dbias && !pk_call_accumulates(c, 2)) memset(a.dbias, 0, (size_t)cols * sizeof *a.dbias);
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) grad_rows(&a, r, 4);
    for (; r < rows; r++) grad_rows(&a, r, 1);
    return PK_OK;
}
