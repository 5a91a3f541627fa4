/* attention.c -- multi-head self-attention on whole short sequences, and attention pooling.
 *
 * One (record, head) at a time, everything it needs packed into scratch that fits the second-level
 * cache: K transposed, so that a register tile of scores is rows of Q times columns of keys
 * (core/cpu/tile.h); the other operands are used as they lie, padded to whole vectors. A strip of
 * scores lives in the first-level cache between the two products of the forward pass.
 *
 * The backward pass recomputes the probabilities from the saved log-sum-exp (Dao et al. 2022,
 * FlashAttention, without its tiling over keys: short rows need none) and keeps P and dS of a block
 * of query rows, so that dV = P^T dO and dK = dS^T Q are reductions in registers too. */
#include "core/cpu/kernels.h"
#include "core/cpu/tile.h"
#include "core/cpu/transpose.h"
#include "core/cpu/workspace.h"

#include <math.h>

static const float LN2 = 0.693147181f, LOG2E = 1.44269504f;

/* Shape of one call and the padded strides of its scratch. */
struct shape {
    int64_t batch, tokens, width, heads, head;
    int64_t key_stride;  // tokens, padded
    int64_t head_stride; // head, padded
    float scale;
};

static enum pk_status shape_of(struct shape *s, const struct pk_call *c, const struct pk_value *v,
                               int64_t parts, struct pk_err *err)
{
    int64_t heads = c->node->attr.attention.heads, last = v->dim[2];
    if (v->rank != 3 || heads < 1 || last % (parts * heads))
        return pk_fail(err, PK_ESHAPE,
                       "attention of %lld heads needs [batch, tokens, %lld x heads x head]",
                       (long long)heads, (long long)parts);
    *s = (struct shape){.batch = v->dim[0],
                        .tokens = v->dim[1],
                        .width = last / parts,
                        .heads = heads,
                        .head = last / parts / heads,
                        .key_stride = pk_cpu_pad(v->dim[1]),
                        .head_stride = pk_cpu_pad(last / parts / heads),
                        .scale = c->node->attr.attention.scale};
    return PK_OK;
}

/* dst[rows, padded] = src[rows, cols] * factor, the padding zero. */
static void pack(float *dst, int64_t stride, const float *src, int64_t ld, int64_t rows,
                 int64_t cols, float factor)
{
    pk_v f = pk_v_set(factor);
    for (int64_t i = 0; i < rows; i++, dst += stride, src += ld) {
        int64_t j = 0;
        for (; j + PK_V <= cols; j += PK_V) pk_v_store(dst + j, pk_v_mul(f, pk_v_load(src + j)));
        if (j < cols) pk_v_store(dst + j, pk_v_mul(f, pk_v_load_n(src + j, cols - j))), j += PK_V;
        for (; j < stride; j += PK_V) pk_v_store(dst + j, pk_v_zero());
    }
}

/* dst[cols, stride] = transpose of src[rows, cols], the padding zero. */
static void pack_transposed(float *dst, int64_t stride, const float *src, int64_t ld, int64_t rows,
                            int64_t cols)
{
    pk_transpose(dst, stride, src, ld, rows, cols);
    for (int64_t c = 0; c < cols; c++)
        for (int64_t j = rows; j < stride; j++) dst[c * stride + j] = 0;
}

/* 0 in the lanes of the last vector that hold keys, -1e30 in the padding: added to a row of scores
 * it takes the padding out of the softmax. (Not -infinity, for which pk_v_exp2 is NaN.) */
static pk_v key_bias(const struct shape *s, int64_t vecs)
{
    float b[PK_V];
    for (int64_t l = 0; l < PK_V; l++) b[l] = (vecs - 1) * PK_V + l < s->tokens ? 0 : -1e30f;
    return pk_v_load(b);
}

/* Replaces a row of scores, in units of log 2, by 2^(score - max); gives 1 / sum and the natural
 * log-sum-exp. */
static void softmax_row(float *row, int64_t vecs, pk_v bias, float *inverse, float *lse)
{
    float *end = row + (vecs - 1) * PK_V;
    pk_v last = pk_v_add(pk_v_load(end), bias), top = last, sum;
    for (float *p = row; p < end; p += PK_V) top = pk_v_max(top, pk_v_load(p));
    float m = pk_v_max_lane(top);
    pk_v max = pk_v_set(m);
    sum = pk_v_exp2(pk_v_sub(last, max));
    pk_v_store(end, sum);
    for (float *p = row; p < end; p += PK_V) {
        pk_v e = pk_v_exp2(pk_v_sub(pk_v_load(p), max));
        pk_v_store(p, e);
        sum = pk_v_add(sum, e);
    }
    float total = pk_v_sum(sum);
    *inverse = 1 / total;
    *lse = (m + log2f(total)) * LN2;
}

static void attend_head(const struct shape *s, const float *qkv, float *out, float *lse,
                        float *scratch)
{
    const int64_t t = s->tokens, d = s->head, ts = s->key_stride, ds = s->head_stride;
    float *q = scratch, *v = q + t * ds, *kt = v + t * ds, *score = kt + d * ts;
    float inverse[8], unused;
    int64_t ld = 3 * s->width, vecs = (t + PK_V - 1) / PK_V;
    pk_v bias = key_bias(s, vecs);

    pack(q, ds, qkv, ld, t, d, s->scale * LOG2E);
    pack_transposed(kt, ts, qkv + s->width, ld, t, d);
    pack(v, ds, qkv + 2 * s->width, ld, t, d, 1);
    const int64_t strips = (t + PK_TILE_ROWS - 1) / PK_TILE_ROWS;
    for (int64_t n = 0, i = 0, rows; n < strips; n++, i += rows) {
        rows = t / strips + (n < t % strips);
        pk_tile_product(&(struct pk_tile){.m = rows,
                                          .n = vecs * PK_V,
                                          .k = d,
                                          .a = q + i * ds,
                                          .a_row = ds,
                                          .a_k = 1,
                                          .b = kt,
                                          .ldb = ts,
                                          .c = score,
                                          .ldc = ts});
        for (int64_t r = 0; r < rows; r++)
            softmax_row(score + r * ts, vecs, bias, inverse + r, lse ? lse + i + r : &unused);
        pk_tile_product(&(struct pk_tile){.m = rows,
                                          .n = d,
                                          .k = t,
                                          .a = score,
                                          .a_row = ts,
                                          .a_k = 1,
                                          .b = v,
                                          .ldb = ds,
                                          .c = out + i * s->width,
                                          .ldc = s->width,
                                          .row_scale = inverse});
    }
}

/* in: qkv [B, T, 3C] -> out [B, T, C], lse [B, H, T] or absent. */
enum pk_status PK_ISA_NAME(pk_cpu_attention)(const struct pk_call *c, struct pk_err *err)
{
    struct shape s = {0};
    PK_TRY(shape_of(&s, c, c->in[0], 3, err));
    const float *qkv = c->src[0];
    float *out = c->dst[0], *lse = c->out[1] ? c->dst[1] : NULL;
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t h = 0; h < s.heads; h++) {
            int64_t row = b * s.tokens, col = h * s.head;
            attend_head(&s, qkv + row * 3 * s.width + col, out + row * s.width + col,
                        lse ? lse + (b * s.heads + h) * s.tokens : NULL, c->workspace);
        }
    return PK_OK;
}

/* Scratch of the backward pass of one head. */
struct grad_scratch {
    float *q, *k, *dout, *dk, *dv; // [tokens, head_stride]
    float *kt, *vt;                // [head, key_stride]
    float *p, *ds;                 // [block of rows, key_stride]
    float *delta;                  // [tokens] sum over c of dout * out
};

static struct grad_scratch grad_layout(const struct shape *s, float *base)
{
    const int64_t panel = s->tokens * s->head_stride, turned = s->head * s->key_stride;
    struct grad_scratch g;
    g.q = base;
    g.k = g.q + panel;
    g.dout = g.k + panel;
    g.dk = g.dout + panel;
    g.dv = g.dk + panel;
    g.kt = g.dv + panel;
    g.vt = g.kt + turned;
    g.p = g.vt + turned;
    g.ds = g.p + pk_cpu_attention_rows(s->tokens) * s->key_stride;
    g.delta = g.ds + pk_cpu_attention_rows(s->tokens) * s->key_stride;
    return g;
}

static float dot(const float *a, const float *b, int64_t n)
{
    pk_v sum = pk_v_zero();
    int64_t i = 0;
    for (; i + PK_V <= n; i += PK_V) sum = pk_v_fma(pk_v_load(a + i), pk_v_load(b + i), sum);
    if (i < n) sum = pk_v_fma(pk_v_load_n(a + i, n - i), pk_v_load_n(b + i, n - i), sum);
    return pk_v_sum(sum);
}

/* From scores in units of log 2 in p and dout v^T in ds: p = 2^(score - lse), ds = p (ds - delta).
 */
static void grad_row(float *p, float *ds, int64_t vecs, pk_v bias, float lse, float delta)
{
    pk_v l = pk_v_set(lse), log2e = pk_v_set(LOG2E), d = pk_v_set(delta);
    for (int64_t v = 0; v < vecs; v++, p += PK_V, ds += PK_V) {
        pk_v x = pk_v_fnma(l, log2e, pk_v_load(p));
        if (v == vecs - 1) x = pk_v_add(x, bias);
        x = pk_v_exp2(x);
        pk_v_store(p, x);
        pk_v_store(ds, pk_v_mul(x, pk_v_sub(pk_v_load(ds), d)));
    }
}

/* P and dS of `rows` query rows from i, and their share of dq, dk and dv. */
static void grad_block(const struct shape *s, const struct grad_scratch *g, int64_t i, int64_t rows,
                       const float *lse, float *dqkv, bool accumulate)
{
    const int64_t t = s->tokens, d = s->head, ts = s->key_stride, ds = s->head_stride;
    int64_t vecs = (t + PK_V - 1) / PK_V;
    pk_v bias = key_bias(s, vecs);
    float scale[8];
    for (int r = 0; r < 8; r++) scale[r] = s->scale;
    for (int64_t r = 0; r < rows; r += PK_TILE_ROWS) {
        int64_t n = PK_MIN(rows - r, PK_TILE_ROWS);
        float *p = g->p + r * ts, *dp = g->ds + r * ts;
        struct pk_tile score = {.m = n,
                                .n = vecs * PK_V,
                                .k = d,
                                .a = g->q + (i + r) * ds,
                                .a_row = ds,
                                .a_k = 1,
                                .b = g->kt,
                                .ldb = ts,
                                .c = p,
                                .ldc = ts};
        pk_tile_product(&score);
        score.a = g->dout + (i + r) * ds, score.b = g->vt, score.c = dp;
        pk_tile_product(&score);
        for (int64_t x = 0; x < n; x++)
            grad_row(p + x * ts, dp + x * ts, vecs, bias, lse[i + r + x], g->delta[i + r + x]);
        pk_tile_product(&(struct pk_tile){.m = n,
                                          .n = d,
                                          .k = t,
                                          .a = dp,
                                          .a_row = ts,
                                          .a_k = 1,
                                          .b = g->k,
                                          .ldb = ds,
                                          .c = dqkv + (i + r) * 3 * s->width,
                                          .ldc = 3 * s->width,
                                          .row_scale = scale,
                                          .accumulate = accumulate});
    }
    struct pk_tile keys = {.m = t,
                           .n = (d + PK_V - 1) / PK_V * PK_V,
                           .k = rows,
                           .a = g->ds,
                           .a_row = 1,
                           .a_k = ts,
                           .b = g->q + i * ds,
                           .ldb = ds,
                           .c = g->dk,
                           .ldc = ds,
                           .accumulate = i > 0};
    pk_tile_product(&keys);
    keys.a = g->p, keys.b = g->dout + i * ds, keys.c = g->dv;
    pk_tile_product(&keys);
}

/* dst[rows, cols] (+)= src[rows, cols] * factor */
static void unpack(float *dst, int64_t ld, const float *src, int64_t stride, int64_t rows,
                   int64_t cols, float factor, bool accumulate)
{
    for (int64_t i = 0; i < rows; i++, dst += ld, src += stride)
        for (int64_t j = 0; j < cols; j += PK_V) {
            int64_t n = PK_MIN(cols - j, PK_V);
            pk_v x = pk_v_mul(pk_v_set(factor), pk_v_load(src + j));
            if (accumulate) x = pk_v_add(x, pk_v_load_n(dst + j, n));
            pk_v_store_n(dst + j, n, x);
        }
}

/* in: dout [B, T, C], qkv [B, T, 3C], out, lse [B, H, T] -> dqkv, accumulating. */
enum pk_status PK_ISA_NAME(pk_cpu_attention_grad)(const struct pk_call *c, struct pk_err *err)
{
    struct shape s = {0};
    PK_TRY(shape_of(&s, c, c->in[1], 3, err));
    const struct grad_scratch g = grad_layout(&s, c->workspace);
    const int64_t t = s.tokens, d = s.head, w = s.width, block = pk_cpu_attention_rows(t);
    bool accumulate = pk_call_accumulates(c, 0);
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t h = 0; h < s.heads; h++) {
            const float *dout = (const float *)c->src[0] + b * t * w + h * d;
            const float *qkv = (const float *)c->src[1] + b * t * 3 * w + h * d;
            const float *out = (const float *)c->src[2] + b * t * w + h * d;
            const float *lse = (const float *)c->src[3] + (b * s.heads + h) * t;
            float *dqkv = (float *)c->dst[0] + b * t * 3 * w + h * d;

            pack(g.q, s.head_stride, qkv, 3 * w, t, d, s.scale * LOG2E);
            pack(g.k, s.head_stride, qkv + w, 3 * w, t, d, 1);
            pack(g.dout, s.head_stride, dout, w, t, d, 1);
            pack_transposed(g.kt, s.key_stride, qkv + w, 3 * w, t, d);
            pack_transposed(g.vt, s.key_stride, qkv + 2 * w, 3 * w, t, d);
            for (int64_t i = 0; i < t; i++) g.delta[i] = dot(dout + i * w, out + i * w, d);
            for (int64_t i = 0; i < t; i += block)
                grad_block(&s, &g, i, PK_MIN(t - i, block), lse, dqkv, accumulate);
            /* The packed q carries scale / log 2, of which dk wants the scale. */
            unpack(dqkv + w, 3 * w, g.dk, s.head_stride, t, d, LN2, accumulate);
            unpack(dqkv + 2 * w, 3 * w, g.dv, s.head_stride, t, d, 1, accumulate);
        }
    return PK_OK;
}

/* y[0..n) (+)= f * x */
static void axpy(float *y, const float *x, float f, int64_t n, bool accumulate)
{
    pk_v fv = pk_v_set(f);
    int64_t i = 0;
    for (; i + PK_V <= n; i += PK_V) {
        pk_v p = pk_v_mul(fv, pk_v_load(x + i));
        pk_v_store(y + i, accumulate ? pk_v_add(p, pk_v_load(y + i)) : p);
    }
    for (; i < n; i++) y[i] = f * x[i] + (accumulate ? y[i] : 0);
}

/* in: query [C], kv [B, T, 2C] -> out [B, C], prob [B, H, T]. Bound by reading kv once. */
enum pk_status PK_ISA_NAME(pk_cpu_attention_pool)(const struct pk_call *c, struct pk_err *err)
{
    struct shape s = {0};
    PK_TRY(shape_of(&s, c, c->in[1], 2, err));
    const int64_t t = s.tokens, d = s.head, w = s.width;
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t h = 0; h < s.heads; h++) {
            const float *query = (const float *)c->src[0] + h * d;
            const float *kv = (const float *)c->src[1] + b * t * 2 * w + h * d;
            float *out = (float *)c->dst[0] + b * w + h * d;
            float *prob = (float *)c->dst[1] + (b * s.heads + h) * t;
            float top = -INFINITY, sum = 0;
            for (int64_t i = 0; i < t; i++) {
                prob[i] = s.scale * dot(query, kv + i * 2 * w, d);
                top = prob[i] > top ? prob[i] : top;
            }
            for (int64_t i = 0; i < t; i += PK_V) {
                int64_t n = PK_MIN(t - i, PK_V);
                pk_v_store_n(prob + i, n,
                             pk_v_exp(pk_v_sub(pk_v_load_n(prob + i, n), pk_v_set(top))));
            }
            for (int64_t i = 0; i < t; i++) sum += prob[i];
            for (int64_t i = 0; i < t; i++) {
                prob[i] /= sum;
                axpy(out, kv + w + i * 2 * w, prob[i], d, i > 0);
            }
        }
    return PK_OK;
}

/* in: dout [B, C], query [C], kv [B, T, 2C], prob [B, H, T] -> dquery [C], dkv, either absent, both
 * accumulating. dquery is summed apart and added once, so that what it held costs no rounding. */
enum pk_status PK_ISA_NAME(pk_cpu_attention_pool_grad)(const struct pk_call *c, struct pk_err *err)
{
    struct shape s = {0};
    PK_TRY(shape_of(&s, c, c->in[2], 2, err));
    const int64_t t = s.tokens, d = s.head, w = s.width;
    float *dscore = c->workspace, *dq = dscore + s.key_stride;
    bool add = pk_call_accumulates(c, 1);
    for (int64_t h = 0; h < s.heads; h++) {
        const float *query = (const float *)c->src[1] + h * d;
        memset(dq, 0, (size_t)d * sizeof *dq);
        for (int64_t b = 0; b < s.batch; b++) {
            const float *dout = (const float *)c->src[0] + b * w + h * d;
            const float *kv = (const float *)c->src[2] + b * t * 2 * w + h * d;
            const float *prob = (const float *)c->src[3] + (b * s.heads + h) * t;
            float mean = 0;
            for (int64_t i = 0; i < t; i++) {
                dscore[i] = dot(dout, kv + w + i * 2 * w, d);
                mean += prob[i] * dscore[i];
            }
            for (int64_t i = 0; i < t; i++) {
                float ds = s.scale * prob[i] * (dscore[i] - mean);
                axpy(dq, kv + i * 2 * w, ds, d, true);
                if (!c->out[1]) continue;
                float *dkv = (float *)c->dst[1] + (b * t + i) * 2 * w + h * d;
                axpy(dkv, query, ds, d, add);
                axpy(dkv + w, dout, prob[i], d, add);
            }
        }
        if (c->out[0]) axpy((float *)c->dst[0] + h * d, dq, 1, d, pk_call_accumulates(c, 0));
    }
    return PK_OK;
}
