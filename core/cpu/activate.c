/* activate.c -- ReLU, SiLU, sigmoid and their slopes; the gate of a squeeze-excite. */
#include "core/base.h"
#include "core/cpu/kernels.h"
#include "core/cpu/simd.h"
#include "core/view.h"

/* s = 1 / (1 + e^-x), and 1 - s, as e^-x s since the difference would cancel; the exponent is held
 * below 87 so that it stays a finite number. */
static pk_v sigmoid(pk_v x, pk_v *rest)
{
    const pk_v one = pk_v_set(1);
    const pk_v e = pk_v_exp(pk_v_min(pk_v_set(87), pk_v_sub(pk_v_zero(), x)));
    const pk_v s = pk_v_div(one, pk_v_add(one, e));
    *rest = pk_v_mul(e, s);
    return s;
}

static pk_v value(pk_v x, enum pk_activation kind)
{
    if (kind == PK_RELU) return pk_v_select(pk_v_less(x, pk_v_zero()), pk_v_zero(), x);
    pk_v rest, s = sigmoid(x, &rest);
    return kind == PK_SILU ? pk_v_mul(x, s) : s;
}

static pk_v slope(pk_v x, enum pk_activation kind)
{
    const pk_v one = pk_v_set(1);
    if (kind == PK_RELU) return pk_v_select(pk_v_less(pk_v_zero(), x), one, pk_v_zero());
    pk_v rest, s = sigmoid(x, &rest);
    if (kind == PK_SIGMOID) return pk_v_mul(s, rest);
    return pk_v_mul(s, pk_v_fma(x, rest, one));
}

/* in: x -> y. NaN stays NaN. */
enum pk_status PK_ISA_NAME(pk_cpu_activate)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const enum pk_activation kind = (enum pk_activation)c->node->attr.activate.kind;
    const int64_t count = pk_view_count(c->in[0]);
    const float *x = c->src[0];
    float *y = c->dst[0];
    for (int64_t i = 0; i < count; i += PK_V) {
        const int64_t n = PK_MIN(count - i, PK_V);
        pk_v_store_n(y + i, n, value(pk_v_load_n(x + i, n), kind));
    }
    return PK_OK;
}

/* in: dy, x -> dx, accumulating */
enum pk_status PK_ISA_NAME(pk_cpu_activate_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const enum pk_activation kind = (enum pk_activation)c->node->attr.activate.kind;
    const int64_t count = pk_view_count(c->in[0]);
    const float *dy = c->src[0], *x = c->src[1];
    float *dx = c->dst[0];
    for (int64_t i = 0; i < count; i += PK_V) {
        const int64_t n = PK_MIN(count - i, PK_V);
        pk_v d = pk_v_mul(pk_v_load_n(dy + i, n), slope(pk_v_load_n(x + i, n), kind));
        if (pk_call_accumulates(c, 0)) d = pk_v_add(d, pk_v_load_n(dx + i, n));
        pk_v_store_n(dx + i, n, d);
    }
    return PK_OK;
}

/* in: x [B, T, C], gate [B, C] -> y */
enum pk_status PK_ISA_NAME(pk_cpu_channel_scale)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t *dim = c->in[0]->dim, cols = dim[2];
    const float *x = c->src[0], *gate = c->src[1];
    float *y = c->dst[0];
    for (int64_t r = 0; r < dim[0] * dim[1]; r++) {
        const float *g = gate + r / dim[1] * cols;
        for (int64_t i = 0; i < cols; i++) y[r * cols + i] = x[r * cols + i] * g[i];
    }
    return PK_OK;
}

/* in: dy, x, gate -> dx, dgate, each may be absent, both accumulating */
enum pk_status PK_ISA_NAME(pk_cpu_channel_scale_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t batch = c->in[0]->dim[0], tokens = c->in[0]->dim[1], cols = c->in[0]->dim[2];
    const float *dy = c->src[0], *x = c->src[1], *gate = c->src[2];
    float *dx = c->dst[0], *dgate = c->dst[1];
    for (int64_t b = 0; b < batch; b++)
        for (int64_t i = 0; i < cols; i += PK_V) {
            const int64_t n = PK_MIN(cols - i, PK_V), first = b * tokens * cols + i;
            const pk_v g = pk_v_load_n(gate + b * cols + i, n);
            pk_v sum = pk_v_zero();
            for (int64_t t = 0, at = first; t < tokens; t++, at += cols) {
                const pk_v d = pk_v_load_n(dy + at, n);
                sum = pk_v_fma(d, pk_v_load_n(x + at, n), sum);
                pk_v to = pk_v_mul(d, g);
                if (dx && pk_call_accumulates(c, 0)) to = pk_v_add(to, pk_v_load_n(dx + at, n));
                if (dx) pk_v_store_n(dx + at, n, to);
            }
            if (dgate && pk_call_accumulates(c, 1))
                sum = pk_v_add(sum, pk_v_load_n(dgate + b * cols + i, n));
            if (dgate) pk_v_store_n(dgate + b * cols + i, n, sum);
        }
    return PK_OK;
}
