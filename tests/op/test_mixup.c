/* test_mixup.c -- mixup against its definition in core/mixup_inline.h, written again here in
 * double; the distribution of the shares; labels that are missing. */
#include "tests/op/op_sweep.h"

#include "core/mixup_inline.h"

static const struct {
    int64_t batch, rows, cols; // rows of a record
    float alpha;
    const char *why;
} cases[] = {
    {1, 1, 3, 1, "a record without a partner"},
    {2, 1, 1, 0.2f, "a pair of single numbers"},
    {5, 1, 71, 0.2f, "labels of PTB-XL, an odd batch"},
    {4, 3, 7, 1, "records of several rows"},
    {3, 1, 12 * 250, 8, "a signal: more values than a block has"},
    {130, 1, 5, 0.05f, "more records than a block draws for"},
};

static double share(const struct op_case *t, int64_t b)
{
    const uint64_t sample = (uint64_t)((const int64_t *)t->data[1])[b];
    struct pk_rng r = pk_rng_make(t->node.attr.mixup.seed, PK_RNG_MIXUP, sample, 0);
    const double u = 1 - pk_rng_uniform(&r), c = cos(2 * acos(-1) * pk_rng_uniform(&r));
    const double square = (pow(u, -1 / (double)t->node.attr.mixup.alpha) - 1) * c * c;
    const double part = isinf(square) ? 1 : sqrt(square / (1 + square));
    return c < 0 ? (1 - part) / 2 : (1 + part) / 2;
}

static double value(const struct op_case *t, int64_t i)
{
    const int64_t cols = pk_view_cols(&t->in[0]);
    const bool byte = t->in[0].dtype == PK_U8;
    bool none = t->node.attr.mixup.single_label;
    for (int64_t k = i / cols * cols; k < (i / cols + 1) * cols; k++)
        none = none && (byte ? ((const uint8_t *)t->data[0])[k] : sweep_at(t, 0, k)) == 0;
    if (none) return (double)NAN;
    if (!byte) return sweep_at(t, 0, i);
    const uint8_t label = ((const uint8_t *)t->data[0])[i];
    return label == 255 ? (double)NAN : label;
}

static void mixed(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t batch = t->in[1].dim[0], each = pk_view_count(&t->in[0]) / batch;
    for (int64_t b = 0; b < batch; b++) {
        const int64_t other = b % 2 ? b - 1 : b + 1;
        const double s = other < batch ? R(share(t, b - b % 2)) : 1;
        for (int64_t i = 0; i < each; i++) {
            y[0][b * each + i] = value(t, b * each + i);
            if (other < batch)
                y[0][b * each + i] =
                    R(R(s * value(t, b * each + i)) + R(R(1 - s) * value(t, other * each + i)));
        }
    }
}

static void begin(struct op_sweep *t, size_t k, bool byte, bool single)
{
    sweep_begin(t, PK_OP_MIXUP, cases[k].why);
    t->reference = mixed;
    t->c.node.attr.mixup.seed = 77;
    t->c.node.attr.mixup.alpha = cases[k].alpha;
    t->c.node.attr.mixup.single_label = single;
    const int64_t batch = cases[k].batch, rows = batch * cases[k].rows, cols = cases[k].cols;
    uint8_t *label = byte ? sweep_in_of(t, PK_U8, DIMS(rows, cols)) : NULL;
    if (!byte) sweep_in(t, DIMS(rows, cols));
    for (int64_t i = 0; byte && i < rows * cols; i++) label[i] = pk_rng_below(&t->c.rng, 2) == 1;
    int64_t *sample = sweep_in_of(t, PK_I64, DIMS(batch));
    for (int64_t b = 0; b < batch; b++) sample[b] = 1000 + 3 * b;
    if (byte)
        sweep_out_vector(t, false, DIMS(rows, cols));
    else
        sweep_out(t, false, DIMS(rows, cols));
}

/* One kernel call on labels in which some are missing: NaN in both partners, nowhere else. */
static void test_missing(const struct op_variant *v, bool byte, bool single)
{
    enum { ROWS = 5, COLS = 3 }; // row 2 has no label; labels 0 and 14 are not known
    static const uint8_t labels[ROWS * COLS] = {255, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 255};
    struct op_sweep t;
    sweep_begin(&t, PK_OP_MIXUP, "missing labels");
    t.c.node.attr.mixup.alpha = 1;
    t.c.node.attr.mixup.single_label = single;
    void *x = byte ? sweep_in_of(&t, PK_U8, DIMS(ROWS, COLS))
                   : (void *)sweep_in_vector(&t, DIMS(ROWS, COLS));
    for (int i = 0; i < ROWS * COLS; i++) {
        if (byte)
            ((uint8_t *)x)[i] = labels[i];
        else
            ((float *)x)[i] = labels[i] == 255 ? (float)NAN : (float)labels[i];
    }
    int64_t *sample = sweep_in_of(&t, PK_I64, DIMS(ROWS));
    for (int b = 0; b < ROWS; b++) sample[b] = b;
    sweep_out_vector(&t, false, DIMS(ROWS, COLS));
    if (op_there(v, PK_OP_MIXUP)) {
        CHECK_OK(sweep_call(&t, v), &t.c.err);
        for (int i = 0; i < ROWS * COLS; i++) {
            const bool unlabelled = single && (i / COLS == 2 || i / COLS == 3);
            CHECK((isnan(op_got(&t.c, 0, i)) != 0) == (i == 0 || i == 3 || i == 14 || unlabelled));
        }
        CHECK_NEAR(op_got(&t.c, 0, 1) + op_got(&t.c, 0, 4), 2, 1e-6); // both are 1
        CHECK_NEAR(op_got(&t.c, 0, 13), 1, 0);                        // the last one has no partner
    }
    sweep_free(&t);
}

/* What P(s <= x) is for Beta(alpha, alpha) of these alphas. */
static double below(double alpha, double x)
{
    if (alpha == 0.5) return 2 / acos(-1) * asin(sqrt(x));
    if (alpha == 1) return x;
    return x * x * (3 - 2 * x); // 2
}

/* Kolmogorov-Smirnov: the largest distance from the distribution, below the 0.1 % bound. */
static void test_distribution(float alpha)
{
    enum { DRAWS = 20000, BINS = 1000 };
    int count[BINS + 1] = {0}, sum = 0;
    double mean = 0, square = 0, far = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        const double s = pk_mixup_share(5, i, alpha);
        CHECK(s >= 0 && s <= 1);
        mean += s / DRAWS;
        square += (s - 0.5) * (s - 0.5) / DRAWS;
        count[(int)(s * BINS)]++;
    }
    const double var = 1 / (4 * (2 * (double)alpha + 1));
    CHECK_NEAR(mean, 0.5, 4 * sqrt(var / DRAWS));
    CHECK_NEAR(square, var, 4 * var * sqrt(2.0 / DRAWS));
    if (alpha != 0.5f && alpha != 1 && alpha != 2) return;
    for (int k = 0; k < BINS; k++) {
        sum += count[k];
        far = fmax(far, fabs((double)sum / DRAWS - below((double)alpha, (k + 1.0) / BINS)));
    }
    CHECK(far < 1.95 / sqrt(DRAWS));
}

int main(void)
{
    int count;
    const struct op_variant *v = op_variants(&count);
    for (size_t k = 0; k < PK_COUNT(cases); k++)
        for (int kind = 0; kind < 2; kind++) {
            struct op_sweep t;
            begin(&t, k, kind, false);
            sweep_run(&t);
        }
    for (int i = 0; i < count; i++)
        for (int kind = 0; kind < 4; kind++) test_missing(&v[i], kind & 1, kind & 2);
    const float alphas[] = {0.01f, 0.2f, 0.5f, 1, 2, 50};
    for (size_t k = 0; k < PK_COUNT(alphas); k++) test_distribution(alphas[k]);
    return op_test_end();
}
