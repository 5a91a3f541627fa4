/* test_attention.c -- attention and attention pooling against their definition in double. */
#include "core/cpu/workspace.h"
#include "tests/op/op_case.h"

/* The naive algorithm in the storage type rounds P and dS before they enter a product: tensor cores
 * take bf16 operands only. */
static enum pk_dtype round_to = PK_F32;

#define REAL    double
#define NAME(f) f##_exact
#define CAST(x) (x)
#define EXP     exp
#define LOG     log
#include "tests/op/reference_attention.h"
#undef REAL
#undef NAME
#undef CAST
#undef EXP
#undef LOG
#define REAL    float
#define NAME(f) f##_naive
#define CAST(x) op_round_to(round_to, x)
#define EXP     expf
#define LOG     logf
#include "tests/op/reference_attention.h"

static const struct row {
    int64_t batch, tokens, heads, head;
    float stretch; // of the queries: large ones make the softmax nearly one-hot
    const char *why;
} rows[] = {
    {1, 1, 1, 12, 1, "one key: the softmax is 1 and its gradient 0"},
    {2, 2, 3, 5, 1, "odd head, smaller than any vector"},
    {2, 7, 2, 24, 1, "fewer rows than a tile, a vector and a half of columns"},
    {1, 31, 2, 17, 1, "one column beyond a vector"},
    {2, 40, 4, 48, 1, "ViT-XS context, whole vectors"},
    {1, 50, 4, 24, 1, "narrow predictor, last key vector partly filled"},
    {2, 65, 2, 64, 1, "one row and one key beyond tiles and vectors"},
    {1, 200, 2, 32, 1, "even key tiles"},
    {2, 201, 4, 48, 1, "ViT-XS target, nine of sixteen lanes in the last key vector"},
    {1, 201, 1, 128, 1, "wide head: several tiles of columns"},
    {1, 41, 2, 48, 40, "scores of several hundred: only the maximum survives"},
    {1, 600, 1, 12, 1, "backward in several blocks of query rows"},
    {3, 16, 2, 32, 1, "one tile of a tensor core"},
    {2, 17, 2, 64, 1, "one row beyond it"},
    {1, 41, 3, 24, 1, "ViT-XS context with its class token, head in eights"},
    {1, 64, 1, 128, 1, "wide head, whole tiles"},
    {1, 129, 1, 40, 1, "one beyond 128 tokens, head in eights"},
    {1, 48, 2, 36, 1, "rows of bf16 that start at multiples of 8 bytes only"},
    {1, 33, 1, 80, 1, "a head between 64 and 128"},
    {1, 20, 1, 160, 1, "a head beyond 128"},
    {1, 208, 1, 48, 1, "a multiple of 16 tokens, not of 32"},
    {1, 201, 1, 64, 1, "head of ViT-S and ViT-B"},
    {1, 201, 1, 24, 1, "a narrow head"},
    {1, 257, 1, 32, 1, "one beyond 256 tokens"},
    {1, 512, 1, 64, 1, "many keys"},
    {1, 2, 2, 64, 1, "two keys, a head of tensor cores"},
    {1, 96, 1, 8, 1, "the narrowest head of tensor cores, six whole tiles"},
    {1, 97, 1, 32, 1, "one beyond 96 tokens"},
    {1, 160, 1, 64, 1, "ten whole tiles"},
    {1, 193, 1, 48, 1, "one row in the last of thirteen tiles"},
    {1, 201, 1, 64, 40, "scores of several hundred over a long row"},
    {1, 207, 1, 24, 1, "all but one of 208 tokens"},
    {1, 209, 1, 48, 1, "one beyond 208 tokens"},
    {1, 256, 1, 64, 1, "as many tokens as a row of scores in registers holds"},
    {1, 257, 1, 32, 40, "scores of several hundred, one key in the last chunk"},
    {1, 512, 1, 128, 1, "the most that shared memory has to hold"}, // last: see main
};

static void forward(const struct row *s, const struct op_variant *v, bool keep_lse)
{
    int64_t b = s->batch, t = s->tokens, h = s->heads, d = s->head, w = h * d;
    struct op_case c;
    op_begin(&c, PK_OP_ATTENTION, v);
    float scale = (float)(1 / sqrt((double)d));
    c.node.attr.attention.heads = (int32_t)h;
    c.node.attr.attention.scale = scale;
    float *qkv = op_in(&c, 0, OP_DIMS(b, t, 3 * w));
    for (int64_t i = 0; i < b * t * 3 * w; i++)
        if (i % (3 * w) < w) qkv[i] *= s->stretch;
    op_out(&c, 0, false, OP_DIMS(b, t, w));
    if (keep_lse) op_out_vector(&c, 1, false, OP_DIMS(b, h, t));
    op_settle(&c);
    round_to = v->storage;

    double *p = op_doubles(t * t), *out = op_doubles(b * t * w), *lse = op_doubles(b * h * t);
    float *pf = op_floats(t * t), *outf = op_floats(b * t * w), *lsef = op_floats(b * h * t);
    for (int64_t i = 0; i < b * h; i++) {
        int64_t at = i / h * t * w + i % h * d, qat = i / h * t * 3 * w + i % h * d;
        attend_exact(t, d, w, scale, qkv + qat, p, out + at, lse + i * t);
        attend_naive(t, d, w, scale, qkv + qat, pf, outf + at, lsef + i * t);
    }
    if (op_run(&c, pk_cpu_attention_workspace(t, d))) {
        op_check(&c, 0, outf, out, s->why);
        if (keep_lse) op_check(&c, 1, lsef, lse, s->why);
    }
    op_end(&c);
    free(p), free(out), free(lse), free(pf), free(outf), free(lsef);
}

static void backward(const struct row *s, const struct op_variant *v, bool accumulate)
{
    int64_t b = s->batch, t = s->tokens, h = s->heads, d = s->head, w = h * d;
    struct op_case c;
    op_begin(&c, PK_OP_ATTENTION_GRAD, v);
    float scale = (float)(1 / sqrt((double)d));
    c.node.attr.attention.heads = (int32_t)h;
    c.node.attr.attention.scale = scale;
    float *dout = op_in(&c, 0, OP_DIMS(b, t, w)), *qkv = op_in(&c, 1, OP_DIMS(b, t, 3 * w));
    for (int64_t i = 0; i < b * t * 3 * w; i++)
        if (i % (3 * w) < w) qkv[i] *= s->stretch;
    float *out_in = op_in(&c, 2, OP_DIMS(b, t, w)), *lse_in = op_in_vector(&c, 3, OP_DIMS(b, h, t));
    op_out(&c, 0, accumulate, OP_DIMS(b, t, 3 * w));
    c.parts[0] = 3; // dq, dk, dv
    op_settle(&c);
    round_to = v->storage;

    double *p = op_doubles(t * t), *out = op_doubles(b * t * w), *lse = op_doubles(b * h * t);
    double *want = op_doubles(b * t * 3 * w);
    float *pf = op_floats(t * t), *naive = op_floats(b * t * 3 * w);
    for (int64_t i = 0; i < b * h; i++) {
        int64_t at = i / h * t * w + i % h * d, qat = i / h * t * 3 * w + i % h * d;
        attend_exact(t, d, w, scale, qkv + qat, p, out + at, lse + i * t);
        /* The op is given out and lse as the forward pass stores them; so are both algorithms. */
        for (int64_t r = 0; r < t; r++) {
            lse_in[i * t + r] = (float)lse[i * t + r];
            for (int64_t x = at + r * w; x < at + r * w + d; x++)
                out[x] = op_stored(&c, out_in[x] = (float)out[x]);
            for (int64_t j = 0; j < t; j++) {
                float sum = 0;
                for (int64_t x = 0; x < d; x++)
                    sum += qkv[qat + r * 3 * w + x] * qkv[qat + j * 3 * w + w + x];
                pf[r * t + j] = expf(sum * scale - lse_in[i * t + r]);
            }
        }
        op_settle(&c); // out_in
        attend_grad_exact(t, d, w, scale, qkv + qat, dout + at, p, out + at, want + qat);
        attend_grad_naive(t, d, w, scale, qkv + qat, dout + at, pf, out_in + at, naive + qat);
    }
    if (op_run(&c, pk_cpu_attention_grad_workspace(t, d))) op_check(&c, 0, naive, want, s->why);
    op_end(&c);
    free(p), free(out), free(lse), free(want), free(pf), free(naive);
}

static void pooling(const struct row *s, const struct op_variant *v, bool accumulate,
                    unsigned wanted)
{
    int64_t b = s->batch, t = s->tokens, h = s->heads, d = s->head, w = h * d;
    struct op_case c, g;
    float scale = (float)(1 / sqrt((double)d));
    op_begin(&c, PK_OP_ATTENTION_POOL, v);
    c.node.attr.attention.heads = (int32_t)h;
    c.node.attr.attention.scale = scale;
    float *query = op_in_vector(&c, 0, OP_DIMS(w)), *kv = op_in(&c, 1, OP_DIMS(b, t, 2 * w));
    for (int64_t i = 0; i < w; i++) query[i] *= s->stretch;
    op_out(&c, 0, false, OP_DIMS(b, w));
    op_out_vector(&c, 1, false, OP_DIMS(b, h, t));
    op_begin(&g, PK_OP_ATTENTION_POOL_GRAD, v);
    g.node.attr = c.node.attr;
    float *dout = op_in(&g, 0, OP_DIMS(b, w)), *query2 = op_in_vector(&g, 1, OP_DIMS(w));
    float *kv2 = op_in(&g, 2, OP_DIMS(b, t, 2 * w)), *prob = op_in_vector(&g, 3, OP_DIMS(b, h, t));
    memcpy(query2, query, (size_t)w * sizeof *query);
    memcpy(kv2, kv, (size_t)(b * t * 2 * w) * sizeof *kv);
    if (wanted & 1) op_out_vector(&g, 0, accumulate, OP_DIMS(w));
    if (wanted & 2) op_out(&g, 1, accumulate, OP_DIMS(b, t, 2 * w));
    g.parts[1] = 2; // dk, dv
    op_settle(&c), op_settle(&g);
    round_to = PK_F32; // no product with operands of its own

    double *out = op_doubles(b * w), *p = op_doubles(b * h * t), *dq = op_doubles(w),
           *dkv = op_doubles(b * t * 2 * w);
    float *outf = op_floats(b * w), *pf = op_floats(b * h * t), *dqf = op_floats(w),
          *dkvf = op_floats(b * t * 2 * w);
    for (int64_t i = 0; i < b * h; i++) {
        int64_t at = i % h * d, row = i / h * w + at, kat = i / h * t * 2 * w + at;
        pool_exact(t, d, w, scale, query + at, kv + kat, out + row, p + i * t);
        pool_naive(t, d, w, scale, query + at, kv + kat, outf + row, pf + i * t);
        pool_grad_exact(t, d, w, scale, dout + row, query + at, kv + kat, p + i * t, dq + at,
                        dkv + kat);
        pool_grad_naive(t, d, w, scale, dout + row, query + at, kv + kat, pf + i * t, dqf + at,
                        dkvf + kat);
    }
    for (int64_t i = 0; i < b * h * t; i++) prob[i] = (float)p[i];
    if (op_run(&c, 0)) {
        op_check(&c, 0, outf, out, s->why);
        op_check(&c, 1, pf, p, s->why);
    }
    if (op_run(&g, pk_cpu_attention_pool_grad_workspace(t, d))) {
        if (wanted & 1) op_check(&g, 0, dqf, dq, s->why);
        if (wanted & 2) op_check(&g, 1, dkvf, dkv, s->why);
    }
    op_end(&c), op_end(&g);
    free(out), free(p), free(dq), free(dkv), free(outf), free(pf), free(dqf), free(dkvf);
}

/* What a GPU's kernels take. */
enum { GPU_TOKENS = 512 };

/* Blocks may have less shared memory than this machine gives: an A100's 163 KiB, 99 KiB of small
 * devices, 64 KiB. The kernels then go another way; results are judged as always. */
static void smaller_devices(const struct op_variant *v)
{
    static const struct row some[] = {
        {1, 41, 2, 64, 1, "fits anywhere"},
        {2, 201, 1, 64, 1, "dS in two parts, or more"},
        {1, 97, 1, 32, 1, "dS in parts of a tile"},
        {1, 200, 1, 128, 1, "keys and values beyond 99 KiB"},
    };
    static const int64_t limit[] = {166912, 101376, 65536};
    for (size_t l = 0; v->storage == PK_BF16 && l < PK_COUNT(limit); l++)
        for (size_t i = 0; i < PK_COUNT(some); i++) {
            if (some[i].head == 128 && limit[l] < 166912) continue; // one way only
            op_device_shared(limit[l]);
            forward(&some[i], v, true);
            backward(&some[i], v, l == 1);
        }
    op_device_shared(INT64_MAX);
}

/* One key: the output is v, bit for bit, and the gradient of q and k is what rounding leaves of
 * zero, against which no tolerance can be derived: dP and D are the same sum in different orders.
 */
static void one_key(const struct op_variant *v)
{
    struct op_case c;
    const int64_t w = 2 * 64;
    op_begin(&c, PK_OP_ATTENTION, v);
    c.node.attr.attention.heads = 2;
    c.node.attr.attention.scale = 0.125f;
    const float *qkv = op_in(&c, 0, OP_DIMS(3, 1, 3 * w));
    op_out(&c, 0, false, OP_DIMS(3, 1, w));
    op_settle(&c);
    double *want = op_doubles(3 * w);
    float *naive = op_floats(3 * w);
    for (int64_t i = 0; i < 3 * w; i++) want[i] = naive[i] = qkv[i / w * 3 * w + 2 * w + i % w];
    if (op_run(&c, pk_cpu_attention_workspace(1, 64))) op_check(&c, 0, naive, want, "one key");
    op_end(&c);
    free(want), free(naive);
}

/* Refused, with the reason. */
static void refusals(const struct op_variant *v)
{
    static const struct {
        int64_t tokens, width;
        int32_t heads;
        float scale;
        enum pk_status status;
        const char *message;
        bool gpu; // only there
    } cases[] = {
        {4, 10, 4, 1, PK_ESHAPE, "4 heads", false},
        {4, 10, 0, 1, PK_ESHAPE, "0 heads", false},
        {GPU_TOKENS + 1, 8, 1, 1, PK_ESHAPE, "at most 512 tokens, not 513", true},
        {4, 257, 1, 1, PK_ESHAPE, "at most 256 columns", true},
        {4, 8, 1, 0, PK_EINVAL, "scale 0", true},
        {4, 8, 1, NAN, PK_EINVAL, "scale nan", true},
    };
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_err err = {0};
        struct pk_value qkv = {
            .dtype = v->storage, .rank = 3, .dim = {1, cases[i].tokens, 3 * cases[i].width}};
        struct pk_node node = {
            .op = PK_OP_ATTENTION,
            .attr.attention = {.heads = cases[i].heads, .scale = cases[i].scale}};
        struct pk_call call = {.node = &node, .in = {&qkv, &qkv}, .queue = op_device_queue()};
        if (!op_there(v, PK_OP_ATTENTION) || (cases[i].gpu && !v->device)) continue;
        CHECK_FAILS(v->kernel[PK_OP_ATTENTION](&call, &err), cases[i].status, &err,
                    cases[i].message);
        CHECK_FAILS(v->kernel[PK_OP_ATTENTION_GRAD](&call, &err), cases[i].status, &err,
                    cases[i].message);
    }
}

/* Multiply-adds of the forward pass. */
static double work(const struct row *s)
{
    return 2.0 * (double)(s->batch * s->heads * s->tokens * s->tokens * s->head);
}

int main(void)
{
    int count;
    const struct op_variant *list = op_variants(&count);
    for (const struct op_variant *v = list; v < list + count; v++) {
        for (size_t i = 0; i < PK_COUNT(rows); i++) {
            const bool fits = op_affords(v, work(&rows[i]));
            if (!fits && i + 1 < PK_COUNT(rows)) continue; // the last row is run anyway, but once
            const bool taken = !v->device || rows[i].tokens <= GPU_TOKENS;
            if (taken) forward(&rows[i], v, i % 2);
            if (taken) backward(&rows[i], v, false);
            if (!fits) continue;
            if (taken) backward(&rows[i], v, true);
            pooling(&rows[i], v, i % 2, i % 3 + 1); // dquery, dkv, both
            pooling(&rows[i], v, i % 2 == 0, 3);
        }
        one_key(v);
        refusals(v);
        if (v->device) smaller_devices(v);
    }
    return op_test_end();
}
