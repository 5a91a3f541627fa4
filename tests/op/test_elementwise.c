/* test_elementwise.c -- add, copy, dropout of elements and of records, channels of zeros. */
#include "tests/op/op_sweep.h"

static const struct {
    int64_t batch, count;
    const char *why;
} shapes[] = {
    {1, 1, "one number"},
    {3, 7, "less than a vector, records that start unaligned"},
    {2, 64, "one group of Philox blocks"},
    {2, 65, "one element into the second group"},
    {4, 1999, "last group partly filled"},
    {3, 8, "one vector of bf16"},
    {5, 4100, "records of whole vectors of float, not of bf16"},
    {3, 201 * 192, "more than a round of blocks"},
};

static void add(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    for (int64_t i = 0; i < pk_view_count(&t->in[0]); i++)
        y[0][i] = R(sweep_at(t, 0, i) + sweep_at(t, 1, i));
}

static void copy(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    (void)R;
    for (int64_t i = 0; i < pk_view_count(&t->in[0]); i++) y[0][i] = sweep_at(t, 0, i);
}

static void dropout(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t batch = t->in[0].dim[0], count = t->in[0].dim[1];
    const double p = (double)t->node.attr.dropout.p, scale = R(1 / R(1 - p));
    for (int64_t b = 0; b < batch; b++) {
        struct pk_rng r = pk_rng_make(t->node.attr.dropout.seed, PK_RNG_DROPOUT,
                                      ((const uint64_t *)t->data[1])[b], t->node.attr.dropout.site);
        for (int64_t i = 0; i < count; i++) {
            uint32_t word[4];
            const int64_t draw = t->node.attr.dropout.record ? 0 : i;
            r.counter[0] = (uint32_t)(draw / 4);
            pk_philox(word, r.counter, r.key);
            const bool keep = word[draw % 4] >= p * 4294967296.0;
            y[0][b * count + i] = keep ? R(sweep_at(t, 0, b * count + i) * scale) : 0;
        }
    }
}

static void pad_channels(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t from = t->in[0].dim[2], to = t->out[0].dim[2];
    const int64_t left = t->node.attr.pad_channels.left;
    (void)R;
    for (int64_t i = 0; i < op_count(&t->out[0]); i++) {
        const int64_t at = i % to - left;
        y[0][i] = at >= 0 && at < from ? sweep_at(t, 0, i / to * from + at) : 0;
    }
}

static const struct {
    int64_t batch, tokens, cols;
    int32_t left, right;
    const char *why;
} pads[] = {
    {1, 1, 1, 0, 1, "one zero behind"},
    {2, 9, 64, 48, 48, "Net1D from 64 to 160 channels"},
    {2, 9, 160, -48, -48, "its gradient"},
    {3, 7, 5, 1, 2, "odd channels"},
    {3, 7, 8, -1, -2, "odd channels of the gradient"},
    {1, 130, 33, 3, 0, "zeros before alone"},
    {2, 65, 33, 0, -32, "one channel is left"},
};

static void test_pad(size_t s)
{
    struct op_sweep t;
    sweep_begin(&t, PK_OP_PAD_CHANNELS, pads[s].why);
    t.reference = pad_channels;
    t.exact = SWEEP_EXACT;
    t.c.node.attr.pad_channels.left = pads[s].left;
    t.c.node.attr.pad_channels.right = pads[s].right;
    sweep_in(&t, DIMS(pads[s].batch, pads[s].tokens, pads[s].cols));
    sweep_out(&t, true,
              DIMS(pads[s].batch, pads[s].tokens, pads[s].left + pads[s].cols + pads[s].right));
    sweep_run(&t);
}

static void test_plain(size_t s)
{
    struct op_sweep t;
    sweep_begin(&t, PK_OP_ADD, shapes[s].why);
    t.reference = add;
    t.exact = SWEEP_EXACT;
    sweep_in(&t, DIMS(shapes[s].batch, shapes[s].count));
    sweep_in(&t, DIMS(shapes[s].batch, shapes[s].count));
    sweep_out(&t, false, DIMS(shapes[s].batch, shapes[s].count));
    sweep_run(&t);
    sweep_begin(&t, PK_OP_COPY, shapes[s].why);
    t.reference = copy;
    t.exact = SWEEP_EXACT;
    sweep_in(&t, DIMS(shapes[s].batch, shapes[s].count));
    sweep_out(&t, true, DIMS(shapes[s].batch, shapes[s].count));
    sweep_run(&t);
    sweep_begin(&t, PK_OP_RESHAPE, shapes[s].why);
    t.reference = copy;
    t.exact = SWEEP_EXACT;
    sweep_in(&t, DIMS(shapes[s].batch, shapes[s].count));
    sweep_out(&t, false, DIMS(shapes[s].count, 1, shapes[s].batch));
    sweep_run(&t);
    sweep_begin(&t, PK_OP_COPY, shapes[s].why); // the gradient of a parameter
    t.reference = copy;
    t.exact = SWEEP_EXACT;
    sweep_in(&t, DIMS(shapes[s].batch, shapes[s].count));
    sweep_out_vector(&t, true, DIMS(shapes[s].batch, shapes[s].count));
    sweep_run(&t);
}

static int64_t *dropout_case(struct op_sweep *t, const char *why, int64_t batch, int64_t count,
                             float p)
{
    sweep_begin(t, PK_OP_DROPOUT, why);
    t->reference = dropout;
    t->exact = SWEEP_EXACT_ASSIGNED; // the mask, and one product
    t->c.node.attr.dropout.p = p;
    t->c.node.attr.dropout.seed = 12345678901234567ull;
    t->c.node.attr.dropout.site = 3;
    sweep_in(t, DIMS(batch, count));
    int64_t *sample = sweep_in_of(t, PK_I64, DIMS(batch));
    for (int64_t b = 0; b < batch; b++) sample[b] = 7 * b + ((int64_t)1 << 40);
    sweep_out(t, true, DIMS(batch, count));
    return sample;
}

/* Records are kept or dropped as a whole, as often as asked for, and differ between sites. */
static void test_records(const struct op_variant *v, float p)
{
    enum { RECORDS = 2000, EACH = 5 };
    struct op_sweep t;
    int64_t *sample = dropout_case(&t, "records", RECORDS, EACH, p);
    float *x = t.c.data[0];
    int dropped[2] = {0}, split = 0, differ = 0, off = 0;
    bool was[RECORDS];
    for (int i = 0; i < RECORDS * EACH; i++) x[i] = 1;
    for (int i = 0; i < RECORDS; i++) sample[i] = i;
    t.c.node.attr.dropout.record = 1;
    for (int site = 0; site < 2; site++) {
        t.c.node.attr.dropout.site = (uint32_t)site;
        CHECK_OK(sweep_call(&t, v), &t.c.err);
        for (int i = 0; i < RECORDS; i++) {
            const bool zero = op_got(&t.c, 0, i * EACH) == 0;
            for (int k = 0; k < EACH; k++) {
                const double y = op_got(&t.c, 0, i * EACH + k);
                split += (y == 0) != zero;
                off += !zero && !(fabs(y * (1 - (double)p) - 1) < 5e-3);
            }
            dropped[site] += zero;
            differ += site && was[i] != zero;
            was[i] = zero;
        }
    }
    const double q = (double)p, sigma = sqrt(RECORDS * q * (1 - q));
    CHECK(!split && !off);
    for (int site = 0; site < 2; site++) CHECK_NEAR(dropped[site], RECORDS * q, 5 * sigma);
    CHECK_NEAR(differ, RECORDS * 2 * q * (1 - q), 5 * sqrt(RECORDS / 4.0));
    sweep_free(&t);
}

/* The share of zeroed elements is p, and samples and sites differ. */
static void test_share(const struct op_variant *v, float p)
{
    enum { N = 100000 };
    struct op_sweep t;
    int64_t *sample = dropout_case(&t, "share", 2, N, p);
    float *x = t.c.data[0];
    for (int i = 0; i < 2 * N; i++) x[i] = 1;
    CHECK_OK(sweep_call(&t, v), &t.c.err);
    int zeros = 0, differ = 0, same = 0;
    for (int i = 0; i < 2 * N; i++) zeros += op_got(&t.c, 0, i) == 0;
    for (int i = 0; i < N; i++) differ += op_got(&t.c, 0, i) != op_got(&t.c, 0, N + i);
    const double q = (double)p, sigma = sqrt(2 * N * q * (1 - q));
    CHECK_NEAR(zeros, 2 * N * q, 5 * sigma);
    CHECK_NEAR(differ, N * 2 * q * (1 - q), 5 * sqrt(N / 4.0));
    sample[1] = sample[0];
    CHECK_OK(sweep_call(&t, v), &t.c.err);
    for (int i = 0; i < N; i++) same += op_got(&t.c, 0, i) == op_got(&t.c, 0, N + i);
    CHECK(same == N); // the same sample, the same elements
    sweep_free(&t);
}

int main(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++) {
        test_plain(s);
        for (int k = 0; k < 3; k++) {
            struct op_sweep t;
            dropout_case(&t, shapes[s].why, shapes[s].batch, shapes[s].count,
                         (float[]){0, 0.1f, 0.5f}[k]);
            sweep_run(&t);
            dropout_case(&t, shapes[s].why, shapes[s].batch, shapes[s].count,
                         (float[]){0, 0.2f, 0.5f}[k]);
            t.c.node.attr.dropout.record = 1;
            sweep_run(&t);
        }
    }
    for (size_t s = 0; s < PK_COUNT(pads); s++) test_pad(s);
    int count;
    const struct op_variant *v = op_variants(&count);
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 2 && op_there(&v[i], PK_OP_DROPOUT); k++) {
            test_share(&v[i], k ? 0.5f : 0.1f);
            test_records(&v[i], k ? 0.5f : 0.2f);
        }
    return op_test_end();
}
