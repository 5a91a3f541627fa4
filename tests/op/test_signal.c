/* test_signal.c -- raw samples to patches, and masks as an op. */
#include "core/data.h"
#include "core/mask.h"
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
};

static void patches(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *x = t->in[0].dim, tokens = t->out[0].dim[1];
    const int64_t patch = t->node.attr.patchify.patch, chosen = t->node.attr.patchify.leads;
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
                    y[0][((b * tokens + i) * chosen + l) * patch + j] = raw == PK_INVALID ? 0 : v;
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
    for (int64_t b = 0; b < shapes[s].batch; b++) // both ends of the range among them
        start[b] = (int32_t)(b      ? room
                             : room ? (int64_t)pk_rng_below(&t->c.rng, (uint64_t)room)
                                    : 0);
}

static void test_patchify(size_t s)
{
    struct op_sweep t;
    sweep_begin(&t, PK_OP_PATCHIFY, shapes[s].why);
    t.reference = patches;
    t.c.node.attr.patchify.patch = shapes[s].patch;
    t.c.node.attr.patchify.leads = shapes[s].chosen;
    t.c.node.attr.patchify.clip = 5;
    for (int32_t l = 0; l < shapes[s].chosen; l++) // reversed, so that the order shows
        t.c.node.attr.patchify.lead[l] = (uint8_t)(shapes[s].leads - 1 - l);
    fill_signal(&t, s);
    sweep_out(&t, false,
              DIMS(shapes[s].batch, shapes[s].tokens, shapes[s].chosen * shapes[s].patch));
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
    int32_t kept[64], hidden[64];
    (void)R;
    for (int64_t b = 0; b < t->in[0].dim[0]; b++) {
        pk_mask_sample(t->node.attr.block_mask.seed, ((const uint64_t *)t->data[0])[b],
                       (int32_t)(keep + hide), (int32_t)keep, t->node.attr.block_mask.min_block,
                       kept, hidden);
        for (int64_t i = 0; i < keep; i++) y[0][b * keep + i] = kept[i];
        for (int64_t i = 0; i < hide; i++) y[1][b * hide + i] = hidden[i];
    }
}

/* The op is the sampler, whichever batch a sample is in; the sampler has its own test. */
static void test_block_mask(void)
{
    struct op_sweep t;
    int count;
    const struct op_variant *v = op_variants(&count);
    sweep_begin(&t, PK_OP_BLOCK_MASK, "mask of 50 tokens");
    t.reference = masks;
    t.c.node.attr.block_mask.tokens = 50;
    t.c.node.attr.block_mask.keep = 11;
    t.c.node.attr.block_mask.min_block = 4;
    t.c.node.attr.block_mask.seed = 99;
    int64_t *sample = sweep_in_of(&t, PK_I64, DIMS(5));
    for (int i = 0; i < 5; i++) sample[i] = i * 1000003;
    sweep_out_index(&t, DIMS(5, 11));
    sweep_out_index(&t, DIMS(5, 39));
    t.c.node.attr.block_mask.keep = 51;
    for (int i = 0; i < count; i++)
        if (op_there(&v[i], PK_OP_BLOCK_MASK))
            CHECK_FAILS(sweep_call(&t, &v[i]), PK_ESHAPE, &t.c.err, "keeps 51 of 50");
    t.c.node.attr.block_mask.keep = 11;
    sweep_run(&t);
}

int main(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++) test_patchify(s);
    test_block_mask();
    return op_test_end();
}
