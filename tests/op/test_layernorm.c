/* test_layernorm.c -- layer norm forward, fused with an addition, and backward. */
#include "tests/op/op_sweep.h"

static const struct {
    int64_t rows, cols;
    double shift; // added to x, in units of its standard deviation
    const char *why;
} shapes[] = {
    {1, 1, 0, "one number: variance 0, y = bias"},
    {3, 7, 0, "less than a vector of AVX2, rows left over from groups of four"},
    {4, 16, 0, "one vector of AVX-512, one group of rows"},
    {5, 33, 0, "two vectors and one element"},
    {9, 192, 0, "width of ViT-XS"},
    {6, 203, 50, "large mean: the one-pass variance would cancel"},
    {4, 769, 0, "last vector holds one element"},
    {67, 96, 3, "many rows: sums over rows"},
    {3, 8, 0, "one vector of bf16"},
    {10, 100, 0, "whole vectors of float, not of bf16"},
    {301, 192, 0, "sums over rows in many blocks, the last one short"},
    {130, 384, 1, "width of ViT-S"},
    {17, 768, 0, "width of ViT-B"},
    {5, 2056, 0, "more columns than a warp keeps in registers"},
    {3, 4999, 0, "the same, not aligned"},
    {1, 1536, 0, "one wide row"},
    {11, 1024, 0, "the widest row that stays in registers"},
    {37, 520, 0, "one vector into the third (bf16) or second (float) round of lanes"},
    {19, 136, 0, "one vector beyond half a warp (bf16) or a whole one (float)"},
    {8500, 136, 0, "more rows than a GPU has warps for (132 SMs of 64): some come to a second"},
};

static void stats(const double *x, int64_t cols, double eps, sweep_round R, double *mean,
                  double *rstd)
{
    double sum = 0, spread = 0;
    for (int64_t i = 0; i < cols; i++) sum = R(sum + x[i]);
    *mean = R(sum / (double)cols);
    for (int64_t i = 0; i < cols; i++) {
        double d = R(x[i] - *mean);
        spread = R(spread + R(d * d));
    }
    *rstd = R(1 / R(sqrt(R(R(spread / (double)cols) + eps))));
}

/* in: x (, b), gain, bias. */
static void forward(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int two = t->node.op == PK_OP_ADD_LAYERNORM;
    const int64_t rows = pk_view_rows(&t->in[0]), cols = pk_view_cols(&t->in[0]);
    double *x = malloc((size_t)cols * sizeof *x);
    if (!x) exit(1);
    for (int64_t r = 0; r < rows; r++) {
        double mean, rstd;
        for (int64_t i = 0; i < cols; i++) {
            x[i] = sweep_at(t, 0, r * cols + i);
            if (two) y[0][r * cols + i] = R(x[i] + sweep_at(t, 1, r * cols + i));
            if (two) x[i] = op_stored(t, y[0][r * cols + i]); // what the backward pass will see
        }
        stats(x, cols, (double)t->node.attr.layernorm.eps, R, &mean, &rstd);
        for (int64_t i = 0; i < cols; i++) {
            double v = R(R(R(x[i] - mean) * rstd) * sweep_at(t, 1 + two, i));
            y[two][r * cols + i] = t->data[2 + two] ? R(v + sweep_at(t, 2 + two, i)) : v;
        }
        if (t->call.out[1 + two]) y[1 + two][r] = mean;
        if (t->call.out[2 + two]) y[2 + two][r] = rstd;
    }
    free(x);
}

/* in: dy, x, gain, mean, rstd. */
static void backward(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]), cols = pk_view_cols(&t->in[0]);
    for (int64_t i = 0; i < cols; i++) {
        if (y[1]) y[1][i] = 0;
        if (y[2]) y[2][i] = 0;
    }
    for (int64_t r = 0; r < rows; r++) {
        const double mean = sweep_at(t, 3, r), rstd = sweep_at(t, 4, r);
        double g_sum = 0, gx_sum = 0;
        for (int64_t i = 0; i < cols; i++) {
            const double dy = sweep_at(t, 0, r * cols + i), g = R(dy * sweep_at(t, 2, i));
            const double xhat = R(R(sweep_at(t, 1, r * cols + i) - mean) * rstd);
            g_sum = R(g_sum + g);
            gx_sum = R(gx_sum + R(g * xhat));
            if (y[1]) y[1][i] = R(y[1][i] + R(dy * xhat));
            if (y[2]) y[2][i] = R(y[2][i] + dy);
        }
        const double g_mean = R(g_sum / (double)cols), gx_mean = R(gx_sum / (double)cols);
        for (int64_t i = 0; i < cols; i++) {
            const double g = R(sweep_at(t, 0, r * cols + i) * sweep_at(t, 2, i));
            const double xhat = R(R(sweep_at(t, 1, r * cols + i) - mean) * rstd);
            if (y[0]) y[0][r * cols + i] = R(rstd * R(R(g - g_mean) - R(xhat * gx_mean)));
        }
    }
}

static void shift(struct op_sweep *t, int k, double by)
{
    float *x = t->c.data[k];
    for (int64_t i = 0; i < pk_view_count(&t->c.in[k]); i++) x[i] += (float)by;
}

static void test_forward(size_t s, bool two, bool bias, bool saved)
{
    const int64_t rows = shapes[s].rows, cols = shapes[s].cols;
    struct op_sweep t;
    sweep_begin(&t, two ? PK_OP_ADD_LAYERNORM : PK_OP_LAYERNORM, shapes[s].why);
    t.reference = forward;
    t.c.node.attr.layernorm.eps = 1e-6f;
    sweep_in(&t, DIMS(1, rows, cols));
    shift(&t, 0, shapes[s].shift);
    if (two) sweep_in(&t, DIMS(1, rows, cols));
    sweep_in_vector(&t, DIMS(cols));
    if (bias)
        sweep_in_vector(&t, DIMS(cols));
    else
        sweep_in_absent(&t);
    if (two) sweep_out(&t, false, DIMS(1, rows, cols));
    sweep_out(&t, false, DIMS(1, rows, cols));
    for (int k = 0; k < 2; k++)
        if (saved)
            sweep_out_vector(&t, false, DIMS(rows));
        else
            sweep_out_absent(&t);
    sweep_run(&t);
}

/* wanted: bit k says that output k is asked for. */
static void test_backward(size_t s, int wanted)
{
    const int64_t rows = shapes[s].rows, cols = shapes[s].cols;
    struct op_sweep t;
    sweep_begin(&t, PK_OP_LAYERNORM_GRAD, shapes[s].why);
    t.reference = backward;
    sweep_in(&t, DIMS(rows, cols));
    sweep_in(&t, DIMS(rows, cols));
    shift(&t, 1, shapes[s].shift);
    sweep_in_vector(&t, DIMS(cols));
    float *mean = sweep_in_vector(&t, DIMS(rows)), *rstd = sweep_in_vector(&t, DIMS(rows));
    for (int64_t r = 0; r < rows; r++) {
        double m = 0, v = 0;
        for (int64_t i = 0; i < cols; i++) m += sweep_at(&t.c, 1, r * cols + i) / (double)cols;
        for (int64_t i = 0; i < cols; i++)
            v += pow(sweep_at(&t.c, 1, r * cols + i) - m, 2) / (double)cols;
        mean[r] = (float)m;
        rstd[r] = (float)(1 / sqrt(v + 1e-6));
    }
    for (int k = 0; k < 3; k++)
        if (!(wanted >> k & 1))
            sweep_out_absent(&t);
        else if (k)
            sweep_out_vector(&t, true, DIMS(cols));
        else
            sweep_out(&t, true, DIMS(rows, cols));
    sweep_run(&t);
}

int main(void)
{
    for (size_t s = 0; s + 1 < PK_COUNT(shapes); s++) {
        for (int bias = 0; bias < 2; bias++)
            for (int two = 0; two < 2; two++)
                for (int saved = 0; saved < 2; saved++) test_forward(s, two, bias, saved);
        for (int wanted = 1; wanted < 8; wanted++) test_backward(s, wanted);
    }
    test_forward(PK_COUNT(shapes) - 1, true, true, true); // dear, so once
    return op_test_end();
}
