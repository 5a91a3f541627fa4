/* test_leads.c -- tokens that are patches of single leads: presence, masks, the sequence with
 * separators and its mean, and their gradients. */
#include "core/mask.h"
#include "tests/op/op_sweep.h"

static const struct {
    int64_t batch, leads, keep, cols;
    const char *why;
} shapes[] = {
    {1, 1, 1, 1, "one number"},
    {2, 3, 2, 7, "less than a vector"},
    {3, 2, 5, 64, "whole vectors"},
    {2, 12, 7, 96, "pretraining of a tiny ViT"},
    {67, 2, 3, 24, "sums over many records"},
    {2, 3, 30, 65, "one column beyond a tile; every token kept"},
    {5, 16, 1, 100, "whole vectors of float, not of bf16"},
    {2, 12, 7, 768, "ViT-B"},
    {1, 2, 2, 3000, "few wide rows"},
    {301, 12, 2, 8, "more records than parts"},
};

/* [B, G] of presence as pk_lead_present makes it: about a third are absent, of record 0 none, of
 * record 1 all. */
static void fill_present(struct op_sweep *t, float *present, int64_t batch, int64_t leads)
{
    for (int64_t b = 0; b < batch; b++) {
        int count = 0;
        for (int64_t l = 0; l < leads; l++)
            count += present[b * leads + l] = b == 0 || (b > 1 && pk_rng_below(&t->c.rng, 3) > 0);
        for (int64_t l = 0; l < leads; l++)
            if (present[b * leads + l] != 0) present[b * leads + l] = (float)leads / (float)count;
    }
}

static int32_t index_at(const struct op_case *t, int k, int64_t i)
{
    return ((const int32_t *)t->data[k])[i];
}

static void present_ref(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t batch = t->in[0].dim[0], all = t->in[0].dim[1], leads = t->out[0].dim[1];
    for (int64_t b = 0; b < batch; b++) {
        double count = 0;
        for (int64_t l = 0; l < leads; l++)
            count += sweep_at(t, 0, b * all + t->node.attr.lead_present.lead[l]) != 0;
        for (int64_t l = 0; l < leads; l++)
            y[0][b * leads + l] = sweep_at(t, 0, b * all + t->node.attr.lead_present.lead[l]) != 0
                                      ? R((double)leads / count)
                                      : 0;
    }
}

static void test_present(size_t s)
{
    const int64_t B = shapes[s].batch, G = shapes[s].leads, all = G == 16 ? 16 : G + 2;
    struct op_sweep t;
    sweep_begin(&t, PK_OP_LEAD_PRESENT, shapes[s].why);
    t.reference = present_ref;
    t.exact = SWEEP_EXACT;
    t.c.node.attr.lead_present.leads = (int32_t)G;
    for (int64_t l = 0; l < G; l++) // reversed, so that the order shows
        t.c.node.attr.lead_present.lead[l] = (uint8_t)(all - 1 - l);
    float *gain = sweep_in_vector(&t, DIMS(B, all));
    for (int64_t i = 0; i < B * all; i++)
        if (i / all == 1 || pk_rng_below(&t.c.rng, 3) == 0) gain[i] = 0;
    sweep_out_vector(&t, false, DIMS(B, G));
    sweep_run(&t);
}

static void mask_ref(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int32_t leads = t->node.attr.lead_mask.leads, tokens = t->node.attr.lead_mask.tokens,
                  keep = t->node.attr.lead_mask.keep, hide = tokens - keep;
    int32_t *list = op_alloc(tokens, sizeof *list);
    (void)R;
    for (int64_t r = 0; r < t->in[0].dim[0] * leads; r++) {
        pk_lead_mask_sample(t->node.attr.lead_mask.seed, ((const uint64_t *)t->data[0])[r / leads],
                            (uint32_t)(r % leads), tokens, keep, list, list + keep);
        for (int32_t k = 0; k < tokens; k++)
            if (k < keep && y[0])
                y[0][r * keep + k] = list[k];
            else if (k >= keep && y[1])
                y[1][r * hide + k - keep] = list[k];
        if (!y[2]) continue;
        y[2][r * (keep + 2)] = tokens;
        for (int32_t k = 0; k < keep; k++) y[2][r * (keep + 2) + 1 + k] = list[k];
        y[2][r * (keep + 2) + keep + 1] = tokens + 1;
    }
    free(list);
}

/* wanted: bit k says that output k is asked for. */
static void test_mask(int32_t batch, int32_t leads, int32_t tokens, int32_t keep, int wanted,
                      const char *why)
{
    struct op_sweep t;
    const int64_t rows = (int64_t)batch * leads, length[3] = {keep, tokens - keep, keep + 2};
    sweep_begin(&t, PK_OP_LEAD_MASK, why);
    t.reference = mask_ref;
    t.c.node.attr.lead_mask.leads = leads;
    t.c.node.attr.lead_mask.tokens = tokens;
    t.c.node.attr.lead_mask.keep = keep;
    t.c.node.attr.lead_mask.seed = 99 + ((uint64_t)tokens << 40);
    int64_t *sample = sweep_in_of(&t, PK_I64, DIMS(batch));
    for (int64_t i = 0; i < batch; i++) sample[i] = i * 1000003 + (i % 2 ? (int64_t)1 << 50 : 0);
    for (int k = 0; k < 3; k++)
        if (wanted >> k & 1)
            sweep_out_index(&t, DIMS(rows, length[k]));
        else
            sweep_out_absent(&t);
    sweep_run(&t);
}

static void test_bad_mask(void)
{
    struct op_sweep t;
    int count;
    const struct op_variant *v = op_variants(&count);
    sweep_begin(&t, PK_OP_LEAD_MASK, "more kept than there are");
    t.c.node.attr.lead_mask.leads = 1;
    t.c.node.attr.lead_mask.tokens = 5;
    t.c.node.attr.lead_mask.keep = 6;
    sweep_in_of(&t, PK_I64, DIMS(1));
    sweep_out_index(&t, DIMS(1, 6));
    for (int i = 0; i < count; i++)
        if (op_there(&v[i], PK_OP_LEAD_MASK))
            CHECK_FAILS(sweep_call(&t, &v[i]), PK_ESHAPE, &t.c.err, "keeps 6 of 5");
    sweep_free(&t);
}

static void tokens_ref(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = t->in[0].dim[0], keep = t->in[0].dim[1], cols = t->in[0].dim[2];
    const int64_t leads = t->in[3].dim[0], places = t->in[1].dim[0], run = keep + 2;
    for (int64_t i = 0; i < rows * run * cols; i++) {
        const int64_t c = i % cols, k = i / cols % run, r = i / cols / run;
        int64_t at = k == 0 ? places - 2 : places - 1;
        double v = sweep_at(t, 4, c);
        if (k > 0 && k <= keep) {
            at = t->data[2] ? index_at(t, 2, r * keep + k - 1) : k - 1;
            v = sweep_at(t, 6, r) != 0 ? sweep_at(t, 0, (r * keep + k - 1) * cols + c)
                                       : sweep_at(t, 5, c);
        }
        y[0][i] = R(R(v + sweep_at(t, 1, at * cols + c)) + sweep_at(t, 3, r % leads * cols + c));
    }
}

static void tokens_grad_ref(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t batch = t->in[0].dim[0], cols = t->in[0].dim[2], leads = t->in[1].dim[1];
    const int64_t run = t->in[0].dim[1] / leads, keep = run - 2;
    for (int k = 1; k < 4; k++)
        for (int64_t i = 0; y[k] && i < op_count(&t->out[k]); i++) y[k][i] = 0;
    for (int64_t i = 0; i < batch * leads * run * cols; i++) {
        const int64_t c = i % cols, k = i / cols % run, r = i / cols / run,
                      l = r % leads * cols + c;
        const bool patch = k > 0 && k <= keep, there = sweep_at(t, 1, r) != 0;
        const double v = sweep_at(t, 0, i);
        if (patch && y[0]) y[0][(r * keep + k - 1) * cols + c] = there ? v : 0;
        if (y[1]) y[1][l] = R(y[1][l] + v);
        if (!patch && y[2]) y[2][c] = R(y[2][c] + v);
        if (patch && !there && y[3]) y[3][c] = R(y[3][c] + v);
    }
}

static void test_tokens(size_t s, bool indexed)
{
    const int64_t B = shapes[s].batch, G = shapes[s].leads, K = shapes[s].keep, C = shapes[s].cols;
    const int64_t places = (indexed ? 2 * K + 1 : K) + 2;
    struct op_sweep t;
    sweep_begin(&t, PK_OP_LEAD_TOKENS, shapes[s].why);
    t.reference = tokens_ref;
    t.exact = SWEEP_EXACT;
    sweep_in(&t, DIMS(B * G, K, C));
    sweep_in_vector(&t, DIMS(places, C));
    if (indexed) {
        int32_t *index = sweep_in_of(&t, PK_I32, DIMS(B * G, K));
        for (int64_t i = 0; i < B * G * K; i++)
            index[i] = (int32_t)(i % K * 2 + (int64_t)pk_rng_below(&t.c.rng, 2));
    } else {
        sweep_in_absent(&t);
    }
    sweep_in_vector(&t, DIMS(G, C));
    sweep_in_vector(&t, DIMS(C));
    sweep_in_vector(&t, DIMS(C));
    fill_present(&t, sweep_in_vector(&t, DIMS(B, G)), B, G);
    sweep_out(&t, false, DIMS(B, G * (K + 2), C));
    sweep_run(&t);
}

static void test_tokens_grad(size_t s, int wanted)
{
    const int64_t B = shapes[s].batch, G = shapes[s].leads, K = shapes[s].keep, C = shapes[s].cols;
    struct op_sweep t;
    sweep_begin(&t, PK_OP_LEAD_TOKENS_GRAD, shapes[s].why);
    t.reference = tokens_grad_ref;
    sweep_in(&t, DIMS(B, G * (K + 2), C));
    fill_present(&t, sweep_in_vector(&t, DIMS(B, G)), B, G);
    if (wanted & 1)
        sweep_out(&t, true, DIMS(B * G, K, C));
    else
        sweep_out_absent(&t);
    if (wanted & 2)
        sweep_out_vector(&t, true, DIMS(G, C));
    else
        sweep_out_absent(&t);
    for (int k = 2; k < 4; k++)
        if (wanted >> k & 1)
            sweep_out_vector(&t, true, DIMS(C));
        else
            sweep_out_absent(&t);
    sweep_run(&t);
}

static void pool_ref(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t batch = t->in[0].dim[0], cols = t->in[0].dim[2], leads = t->in[1].dim[1];
    const int64_t run = t->in[0].dim[1] / leads;
    const double share = R(1 / (double)(leads * (run - 2)));
    for (int64_t i = 0; i < batch * cols; i++) {
        y[0][i] = 0;
        for (int64_t l = 0; l < leads; l++)
            for (int64_t k = 1; k <= run - 2; k++) {
                const int64_t r = i / cols * leads + l;
                y[0][i] = R(y[0][i] + R(R(sweep_at(t, 1, r) * share) *
                                        sweep_at(t, 0, (r * run + k) * cols + i % cols)));
            }
    }
}

static void pool_grad_ref(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t batch = t->out[0].dim[0], cols = t->out[0].dim[2], leads = t->in[1].dim[1];
    const int64_t run = t->out[0].dim[1] / leads;
    const double share = R(1 / (double)(leads * (run - 2)));
    for (int64_t i = 0; i < batch * leads * run * cols; i++) {
        const int64_t k = i / cols % run, r = i / cols / run;
        y[0][i] =
            k > 0 && k < run - 1
                ? R(R(sweep_at(t, 1, r) * share) * sweep_at(t, 0, r / leads * cols + i % cols))
                : 0;
    }
}

static void test_pool(size_t s)
{
    const int64_t B = shapes[s].batch, G = shapes[s].leads, K = shapes[s].keep, C = shapes[s].cols;
    struct op_sweep t;
    sweep_begin(&t, PK_OP_LEAD_POOL, shapes[s].why);
    t.reference = pool_ref;
    sweep_in(&t, DIMS(B, G * (K + 2), C));
    fill_present(&t, sweep_in_vector(&t, DIMS(B, G)), B, G);
    sweep_out(&t, false, DIMS(B, C));
    sweep_run(&t);
    sweep_begin(&t, PK_OP_LEAD_POOL_GRAD, shapes[s].why);
    t.reference = pool_grad_ref;
    sweep_in(&t, DIMS(B, C));
    fill_present(&t, sweep_in_vector(&t, DIMS(B, G)), B, G);
    sweep_in(&t, DIMS(B, G * (K + 2), C));
    sweep_out(&t, true, DIMS(B, G * (K + 2), C));
    sweep_run(&t);
}

static void test_bad_index(void)
{
    enum { B = 2, G = 2, K = 2, C = 3, P = 6 };
    const int32_t bad[] = {P, -1, INT32_MAX, INT32_MIN};
    struct op_sweep t;
    sweep_begin(&t, PK_OP_LEAD_TOKENS, "index out of range");
    sweep_in(&t, DIMS(B * G, K, C));
    sweep_in_vector(&t, DIMS(P, C));
    int32_t *index = sweep_in_of(&t, PK_I32, DIMS(B * G, K));
    sweep_in_vector(&t, DIMS(G, C));
    sweep_in_vector(&t, DIMS(C));
    sweep_in_vector(&t, DIMS(C));
    sweep_in_vector(&t, DIMS(B, G));
    sweep_out(&t, false, DIMS(B, G * (K + 2), C));
    for (size_t k = 0; k < PK_COUNT(bad); k++) {
        char text[32];
        snprintf(text, sizeof text, "index %d ", bad[k]);
        index[3] = bad[k];
        sweep_refused(&t, OP_FAULT_INDEX, 1, bad[k], text);
    }
    sweep_free(&t);
}

int main(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++) {
        test_present(s);
        test_tokens(s, false);
        test_tokens(s, true);
        test_tokens_grad(s, 1);
        test_tokens_grad(s, 2);
        test_tokens_grad(s, 12);
        if (shapes[s].batch * shapes[s].cols < 1000) test_tokens_grad(s, 15);
        test_pool(s);
    }
    for (int wanted = 1; wanted < 8; wanted++)
        test_mask(5, 12, 30, 7, wanted, "pretraining, some of the outputs");
    test_mask(1, 1, 1, 1, 1, "nothing to hide");
    test_mask(3, 2, 2, 0, 2, "nothing to keep");
    test_mask(130, 3, 64, 63, 7, "one token hidden");
    test_mask(2, 1, PK_MASK_TOKENS_MAX, 5000, 7, "the longest record");
    test_bad_mask();
    test_bad_index();
    return op_test_end();
}
