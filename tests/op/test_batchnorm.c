/* test_batchnorm.c -- batch norm with statistics of the batch and with running ones, its gradient,
 * and the terms that move the running statistics. */
#include "tests/op/op_sweep.h"

static const struct {
    int64_t batch, tokens, cols;
    double shift; // added to x, in units of its standard deviation
    const char *why;
} shapes[] = {
    {1, 2, 1, 0, "the fewest rows that have a variance"},
    {2, 3, 7, 0, "less than a vector"},
    {3, 5, 16, 0, "one vector of AVX-512"},
    {4, 63, 64, 0, "a layer of xresnet1d"},
    {2, 31, 33, 0, "two vectors and one channel"},
    {5, 20, 100, 50, "large mean: the one-pass variance would cancel"},
    {3, 401, 40, 3, "many rows: several parts, the last one short"},
    {1, 2600, 9, 1, "more rows than one round of parts"},
};

static double mean_of(const struct op_case *t, int k, int64_t i, sweep_round R)
{
    const int64_t rows = pk_view_rows(&t->in[k]), cols = pk_view_cols(&t->in[k]);
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) sum = R(sum + sweep_at(t, k, r * cols + i));
    return R(sum / (double)rows);
}

/* in: x, gain, bias, running mean, running variance. */
static void forward(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]), cols = pk_view_cols(&t->in[0]);
    for (int64_t i = 0; i < cols; i++) {
        double mean = sweep_at(t, 3, i), var = sweep_at(t, 4, i);
        if (t->node.attr.batchnorm.train) {
            mean = mean_of(t, 0, i, R), var = 0;
            for (int64_t r = 0; r < rows; r++) {
                const double d = R(sweep_at(t, 0, r * cols + i) - mean);
                var = R(var + R(d * d));
            }
            var = R(var / (double)rows);
        }
        const double rstd = R(1 / R(sqrt(R(var + (double)t->node.attr.batchnorm.eps))));
        for (int64_t r = 0; r < rows; r++) {
            const double xhat = R(R(sweep_at(t, 0, r * cols + i) - mean) * rstd);
            y[0][r * cols + i] = R(R(xhat * sweep_at(t, 1, i)) + sweep_at(t, 2, i));
        }
        if (y[1]) y[1][i] = mean;
        if (y[2]) y[2][i] = rstd;
        if (y[3]) y[3][i] = var;
    }
}

/* in: dy, x, gain, mean, rstd. */
static void backward(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]), cols = pk_view_cols(&t->in[0]);
    for (int64_t i = 0; i < cols; i++) {
        const double mean = sweep_at(t, 3, i), rstd = sweep_at(t, 4, i);
        const double scale = R(sweep_at(t, 2, i) * rstd);
        double sum = 0, weighted = 0;
        for (int64_t r = 0; r < rows; r++) {
            const double dy = sweep_at(t, 0, r * cols + i);
            const double xhat = R(R(sweep_at(t, 1, r * cols + i) - mean) * rstd);
            sum = R(sum + dy);
            weighted = R(weighted + R(dy * xhat));
        }
        const bool train = t->node.attr.batchnorm.train;
        const double m = train ? R(sum / (double)rows) : 0;
        const double w = train ? R(weighted / (double)rows) : 0;
        for (int64_t r = 0; y[0] && r < rows; r++) {
            const double xhat = R(R(sweep_at(t, 1, r * cols + i) - mean) * rstd);
            const double d = R(R(sweep_at(t, 0, r * cols + i) - m) - R(xhat * w));
            y[0][r * cols + i] = R(scale * d);
        }
        if (y[1]) y[1][i] = weighted;
        if (y[2]) y[2][i] = sum;
    }
}

/* in: mean, variance, seed. */
static void terms(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const double rows = (double)t->node.attr.batchnorm.rows, seed = sweep_at(t, 2, 0);
    for (int64_t i = 0; i < op_count(&t->in[0]); i++) {
        y[0][i] = R(seed * sweep_at(t, 0, i));
        y[1][i] = R(R(seed * R(rows / (rows - 1))) * sweep_at(t, 1, i));
    }
    y[2][0] = seed;
}

static void begin(struct op_sweep *t, enum pk_op op, size_t s, bool train)
{
    sweep_begin(t, op, shapes[s].why);
    t->c.node.attr.batchnorm.eps = 1e-5f;
    t->c.node.attr.batchnorm.train = train;
    t->c.node.attr.batchnorm.rows = shapes[s].batch * shapes[s].tokens;
}

/* A positive input: variances and their roots. */
static void positive(struct op_sweep *t, int64_t cols)
{
    float *v = sweep_in_vector(t, DIMS(cols));
    for (int64_t i = 0; i < cols; i++) v[i] = 0.2f + v[i] * v[i];
}

static void test_forward(size_t s, bool train, bool saved)
{
    const int64_t batch = shapes[s].batch, tokens = shapes[s].tokens, cols = shapes[s].cols;
    struct op_sweep t;
    begin(&t, PK_OP_BATCHNORM, s, train);
    t.reference = forward;
    float *x = sweep_in(&t, DIMS(batch, tokens, cols));
    for (int64_t i = 0; i < batch * tokens * cols; i++) x[i] += (float)shapes[s].shift;
    for (int k = 0; k < 3; k++) sweep_in_vector(&t, DIMS(cols));
    positive(&t, cols);
    sweep_out(&t, false, DIMS(batch, tokens, cols));
    for (int k = 0; saved && k < 3; k++) sweep_out_vector(&t, false, DIMS(cols));
    sweep_run(&t);
}

/* wanted: bit k for output k. */
static void test_backward(size_t s, bool train, int wanted)
{
    const int64_t batch = shapes[s].batch, tokens = shapes[s].tokens, cols = shapes[s].cols;
    struct op_sweep t;
    begin(&t, PK_OP_BATCHNORM_GRAD, s, train);
    t.reference = backward;
    sweep_in(&t, DIMS(batch, tokens, cols));
    sweep_in(&t, DIMS(batch, tokens, cols));
    sweep_in_vector(&t, DIMS(cols));
    sweep_in_vector(&t, DIMS(cols));
    positive(&t, cols);
    if (wanted & 1)
        sweep_out(&t, true, DIMS(batch, tokens, cols));
    else
        sweep_out_absent(&t);
    for (int k = 1; k < 3; k++) {
        if (wanted >> k & 1)
            sweep_out_vector(&t, true, DIMS(cols));
        else
            sweep_out_absent(&t);
    }
    sweep_run(&t);
}

static void test_terms(size_t s)
{
    const int64_t cols = shapes[s].cols;
    struct op_sweep t;
    begin(&t, PK_OP_BATCHNORM_STATE, s, true);
    t.reference = terms;
    sweep_in_vector(&t, DIMS(cols));
    positive(&t, cols);
    *sweep_in_vector(&t, DIMS(1)) = 0.125f;
    sweep_out_vector(&t, true, DIMS(cols));
    sweep_out_vector(&t, true, DIMS(cols));
    sweep_out_vector(&t, true, DIMS(1));
    sweep_run(&t);
}

int main(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++) {
        test_forward(s, true, true);
        test_forward(s, true, false);
        test_forward(s, false, true);
        test_backward(s, true, 7);
        test_backward(s, false, 7);
        test_backward(s, true, s % 2 ? 1 : 6);
        test_terms(s);
    }
    return op_test_end();
}
