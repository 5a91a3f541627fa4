/* test_signal.c -- raw samples to patches, and masks as an op. */
#include "core/data.h"
#include "core/mask.h"
#include "core/ops.h"
#include "tests/op/op_sweep.h"

static const struct {
    int64_t batch, leads, samples, tokens;
    int32_t patch, chosen;
    const char *why;
} shapes[] = {
    {1, 1, 1, 1, 1, 1, "one sample"},
    {2, 3, 40, 7, 5, 2, "patch of 100 Hz, less than a vector, some leads"},
    {2, 12, 1290, 50, 25, 12, "patch of 500 Hz, all leads"},
    {1, 2, 200, 3, 33, 2, "one element beyond whole vectors"},
    {3, 12, 5003, 200, 25, 12, "a whole record of 10 s, 500 Hz"},
    {5, 8, 1000, 50, 20, 8, "patch of 400 Hz, nothing left over: every window starts at 0"},
    {2, 1, 2100, 60, 32, 1, "whole vectors, one lead"},
    {17, 3, 333, 39, 8, 3, "windows that start anywhere, patches of one vector"},
    {5, 11, 1811, 600, 3, 10, "patches that a vector crosses twice, several tiles"},
    {2, 2, 3001, 2999, 1, 2, "patches of one sample"},
    {3, 1, 7777, 6, 1234, 1, "patches longer than a warp reads at once"},
    {2, 16, 2301, 2, 1100, 16, "tokens too long for shared memory"},
    {3, 5, 2290, 1, 2250, 4, "one token"},
    {2, 2, 20011, 1, 20000, 2, "one token, too long for shared memory"},
};

static void patches(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *x = t->in[0].dim;
    const int64_t patch = t->node.attr.patchify.patch, chosen = t->node.attr.patchify.leads;
    const int64_t tokens = op_count(&t->out[0]) / (x[0] * chosen * patch);
    const double clip = (double)t->node.attr.patchify.clip;
    const int16_t *signal = t->data[0];
    const int32_t *start = t->data[3];
    for (int64_t b = 0; b < x[0]; b++)
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t l = 0; l < chosen; l++)
                for (int64_t j = 0; j < patch; j++) {
                    const int64_t row = b * x[1] + t->node.attr.patchify.lead[l];
                    const int16_t raw = signal[row * x[2] + start[b] + i * patch + j];
                    double v = R(R(raw * sweep_at(t, 1, row)) - sweep_at(t, 2, row));
                    v = fmin(fmax(v, -clip), clip);
                    const int64_t at = t->node.attr.patchify.layout == PK_LAYOUT_JOINT
                                           ? (b * tokens + i) * chosen + l
                                           : (b * chosen + l) * tokens + i;
                    y[0][at * patch + j] = raw == PK_INVALID ? 0 : v;
                }
}

static void fill_signal(struct op_sweep *t, size_t s)
{
    const int64_t n = shapes[s].batch * shapes[s].leads * shapes[s].samples;
    int16_t *signal =
        sweep_in_of(t, PK_I16, DIMS(shapes[s].batch, shapes[s].leads, shapes[s].samples));
    float *gain = sweep_in_vector(t, DIMS(shapes[s].batch, shapes[s].leads));
    sweep_in_vector(t, DIMS(shapes[s].batch, shapes[s].leads));
    int32_t *start = sweep_in_of(t, PK_I32, DIMS(shapes[s].batch));
    const int64_t room = shapes[s].samples - shapes[s].tokens * shapes[s].patch;
    for (int64_t i = 0; i < n; i++) {
        signal[i] = (int16_t)((int64_t)pk_rng_below(&t->c.rng, 65536) - 32768);
        if (pk_rng_below(&t->c.rng, 16) == 0) signal[i] = PK_INVALID;
    }
    // About a third of the samples fall beyond +-5.
    for (int64_t i = 0; i < shapes[s].batch * shapes[s].leads; i++) gain[i] *= 7.0f / 32768;
    for (int64_t b = 0; b < shapes[s].batch; b++) // the end of the range among them
        start[b] = (int32_t)(b == 1 ? room : (int64_t)pk_rng_below(&t->c.rng, (uint64_t)room + 1));
}

static void test_patchify(size_t s, enum pk_layout layout)
{
    const int64_t B = shapes[s].batch, T = shapes[s].tokens, L = shapes[s].chosen,
                  P = shapes[s].patch;
    if (layout == PK_LAYOUT_LEAD && T != 1) return;
    struct op_sweep t;
    sweep_begin(&t, PK_OP_PATCHIFY, shapes[s].why);
    t.reference = patches;
    t.c.node.attr.patchify.patch = shapes[s].patch;
    t.c.node.attr.patchify.leads = shapes[s].chosen;
    t.c.node.attr.patchify.clip = 5;
    for (int32_t l = 0; l < shapes[s].chosen; l++) // reversed, so that the order shows
        t.c.node.attr.patchify.lead[l] = (uint8_t)(shapes[s].leads - 1 - l);
    fill_signal(&t, s);
    t.c.node.attr.patchify.layout = layout;
    if (layout == PK_LAYOUT_JOINT)
        sweep_out(&t, false, DIMS(B, T, L * P));
    else if (layout == PK_LAYOUT_PATCH)
        sweep_out(&t, false, DIMS(B * L, T, P));
    else
        sweep_out(&t, false, DIMS(B, L, P));
    int32_t *start = t.c.data[3], good = start[0];
    const int32_t beyond = (int32_t)(shapes[s].samples - shapes[s].tokens * shapes[s].patch + 1);
    const int32_t bad[] = {-1, beyond, INT32_MAX, INT32_MIN};
    for (size_t k = 0; k < PK_COUNT(bad); k++) {
        start[0] = bad[k];
        sweep_refused(&t, OP_FAULT_WINDOW, 0, bad[k], "outside");
    }
    start[0] = good;
    sweep_run(&t);
}

static void masks(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t keep = t->out[0].dim[1], hide = t->out[1].dim[1];
    int32_t *kept = op_alloc(keep + hide, sizeof *kept), *hidden = op_alloc(hide, sizeof *hidden);
    (void)R;
    for (int64_t b = 0; b < t->in[0].dim[0]; b++) {
        pk_mask_sample(t->node.attr.block_mask.seed, ((const uint64_t *)t->data[0])[b],
                       (int32_t)(keep + hide), (int32_t)keep, t->node.attr.block_mask.min_block,
                       kept, hidden);
        for (int64_t i = 0; i < keep; i++) y[0][b * keep + i] = kept[i];
        for (int64_t i = 0; i < hide; i++) y[1][b * hide + i] = hidden[i];
    }
    free(kept), free(hidden);
}

static const struct {
    int64_t batch;
    int32_t tokens, keep, min_block;
    const char *why;
} mask_shapes[] = {
    {5, 50, 11, 4, "finetuning length"},
    {130, 200, 40, 10, "pretraining"},
    {1, 1, 1, 1, "nothing to hide"},
    {3, 2, 0, 1, "nothing to keep"},
    {33, 64, 63, 1, "one token hidden"},
    {7, 300, 1, 50, "one token kept"},
    {4, 513, 100, 3, "one token beyond a multiple of any block, many short blocks"},
    {2, 40, 20, 30, "blocks longer than what is to be hidden"},
    {17, 96, 33, 1, "whole words, single tokens as blocks"},
    {1, PK_MASK_TOKENS_MAX, 5000, 64, "the longest record"},
};

static void mask_case(struct op_sweep *t, size_t s)
{
    sweep_begin(t, PK_OP_BLOCK_MASK, mask_shapes[s].why);
    t->reference = masks;
    t->c.node.attr.block_mask.tokens = mask_shapes[s].tokens;
    t->c.node.attr.block_mask.keep = mask_shapes[s].keep;
    t->c.node.attr.block_mask.min_block = mask_shapes[s].min_block;
    t->c.node.attr.block_mask.seed = 99 + ((uint64_t)s << 40);
    int64_t *sample = sweep_in_of(t, PK_I64, DIMS(mask_shapes[s].batch));
    for (int64_t i = 0; i < mask_shapes[s].batch; i++)
        sample[i] = i * 1000003 + (i % 2 ? (int64_t)1 << 50 : 0);
    sweep_out_index(t, DIMS(mask_shapes[s].batch, mask_shapes[s].keep));
    sweep_out_index(t, DIMS(mask_shapes[s].batch, mask_shapes[s].tokens - mask_shapes[s].keep));
}

/* The op is the sampler, whichever batch a sample is in, bit by bit on every backend; the sampler
 * has its own test. */
static void test_block_mask(size_t s)
{
    struct op_sweep t;
    mask_case(&t, s);
    sweep_run(&t);
}

static void test_bad_mask(void)
{
    struct op_sweep t;
    int count;
    const struct op_variant *v = op_variants(&count);
    mask_case(&t, 0);
    t.c.node.attr.block_mask.keep = 51;
    for (int i = 0; i < count; i++)
        if (op_there(&v[i], PK_OP_BLOCK_MASK))
            CHECK_FAILS(sweep_call(&t, &v[i]), PK_ESHAPE, &t.c.err, "keeps 51 of 50");
    sweep_free(&t);
}

int main(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++) {
        test_patchify(s, PK_LAYOUT_JOINT);
        test_patchify(s, PK_LAYOUT_PATCH);
        test_patchify(s, PK_LAYOUT_LEAD);
    }
    for (size_t s = 0; s < PK_COUNT(mask_shapes); s++) test_block_mask(s);
    test_bad_mask();
    return op_test_end();
}
