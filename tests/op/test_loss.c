/* test_loss.c -- the L1 loss, its gradient and the feature moments. */
#include "tests/op/op_sweep.h"

static const struct {
    int64_t rows, cols;
    const char *why;
} shapes[] = {
    {1, 1, "one number"},
    {3, 5, "15 elements: one less than the lanes of the L1 sum"},
    {4, 4, "exactly one round of lanes"},
    {7, 33, "one column beyond a tile"},
    {128, 71, "an odd number of columns"},
    {5, 8, "one vector of bf16 in a row"},
    {33, 100, "whole vectors of float, not of bf16"},
    {3, 1031, "more columns than a block has threads"},
    {301, 192, "many rows, width of ViT-XS"},
    {2, 40 * 384, "a long row"},
    {9001, 5, "partial sums of many rows, narrow"},
};

static void l1(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t n = pk_view_count(&t->in[0]);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum = R(sum + fabs(R(sweep_at(t, 0, i) - sweep_at(t, 1, i))));
    y[0][0] = R(sum / (double)n);
}

static void l1_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t n = pk_view_count(&t->in[0]);
    for (int64_t i = 0; i < n; i++) {
        const double d = sweep_at(t, 0, i) - sweep_at(t, 1, i),
                     step = R(sweep_at(t, 2, 0) / (double)n);
        y[0][i] = d > 0 ? step : d < 0 ? -step : 0;
    }
}

static void moments(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]), n = pk_view_cols(&t->in[0]);
    for (int64_t k = 0; k < n; k++) {
        double sum = 0, spread = 0;
        for (int64_t r = 0; r < rows; r++) sum = R(sum + sweep_at(t, 0, r * n + k));
        const double mean = y[0][k] = R(sum / (double)rows);
        for (int64_t r = 0; r < rows; r++) {
            const double d = R(sweep_at(t, 0, r * n + k) - mean);
            spread = R(spread + R(d * d));
        }
        y[0][n + k] = R(spread / (double)rows);
    }
}

static void test_l1(int64_t rows, int64_t cols, const char *why)
{
    struct op_sweep t;
    for (int grad = 0; grad < 2; grad++) {
        sweep_begin(&t, grad ? PK_OP_L1_LOSS_GRAD : PK_OP_L1_LOSS, why);
        t.reference = grad ? l1_grad : l1;
        float *x = sweep_in(&t, DIMS(1, rows, cols));
        float *target = sweep_in(&t, DIMS(1, rows, cols));
        x[0] = target[0]; // the corner of the absolute value
        if (grad) sweep_in_vector(&t, DIMS(1));
        if (grad)
            sweep_out(&t, true, DIMS(1, rows, cols));
        else
            sweep_out_vector(&t, false, DIMS(1));
        sweep_run(&t);
    }
}

static void test_moments(size_t s, float mean)
{
    struct op_sweep t;
    sweep_begin(&t, PK_OP_FEATURE_MOMENTS, shapes[s].why);
    t.reference = moments;
    float *x = sweep_in(&t, DIMS(1, shapes[s].rows, shapes[s].cols));
    for (int64_t i = 0; i < shapes[s].rows * shapes[s].cols; i++) x[i] += mean;
    sweep_out_vector(&t, false, DIMS(2, shapes[s].cols));
    sweep_run(&t);
}

int main(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++) {
        test_l1(shapes[s].rows, shapes[s].cols, shapes[s].why);
        test_moments(s, 0);
        test_moments(s, 100);
    }
    test_l1(1031, 1025, "more than one vector for every thread of 1,024 blocks");
    return op_test_end();
}
