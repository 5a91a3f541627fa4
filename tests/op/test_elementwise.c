/* test_elementwise.c -- add, copy, dropout. */
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
            r.counter[0] = (uint32_t)(i / 4);
            pk_philox(word, r.counter, r.key);
            const bool keep = word[i % 4] >= p * 4294967296.0;
            y[0][b * count + i] = keep ? R(sweep_at(t, 0, b * count + i) * scale) : 0;
        }
    }
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
        }
    }
    int count;
    const struct op_variant *v = op_variants(&count);
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 2 && op_there(&v[i], PK_OP_DROPOUT); k++)
            test_share(&v[i], k ? 0.5f : 0.1f);
    return op_test_end();
}
