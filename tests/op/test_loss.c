/* test_loss.c -- losses, their gradients and the feature moments. */
#include "tests/op/op_sweep.h"

static const struct {
    int64_t rows, cols;
    double scale; // of the logits
    const char *why;
} shapes[] = {
    {1, 1, 1, "one number"},
    {3, 5, 1, "15 elements: one less than the lanes of the L1 sum"},
    {4, 4, 1, "exactly one round of lanes"},
    {7, 33, 1, "one column beyond a tile"},
    {128, 71, 4, "batch and classes of PTB-XL"},
    {9, 5, 60, "logits where e^z overflows in float"},
    {5, 8, 1, "one vector of bf16 in a row"},
    {33, 100, 2, "whole vectors of float, not of bf16"},
    {3, 1031, 1, "more classes than a block has threads"},
    {301, 192, 1, "many rows, width of ViT-XS"},
    {2, 40 * 384, 1, "a long row"},
    {9001, 5, 1, "partial sums of many rows, narrow"},
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

static int label_at(const struct op_case *t, int64_t i)
{
    return ((const uint8_t *)t->data[1])[i];
}

static void bce(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t n = pk_view_count(&t->in[0]);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double z = label_at(t, i) ? sweep_at(t, 0, i) : -sweep_at(t, 0, i);
        // -log sigmoid(z)
        sum = R(sum + R(fmax(-z, 0) + R(log1p(R(exp(-fabs(z)))))));
    }
    y[0][0] = R(sum / (double)n);
}

static void bce_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t n = pk_view_count(&t->in[0]);
    for (int64_t i = 0; i < n; i++) {
        const double p = R(1 / R(1 + R(exp(-sweep_at(t, 0, i)))));
        y[0][i] = R(R(sweep_at(t, 2, 0) / (double)n) * R(p - label_at(t, i)));
    }
}

static double lse(const struct op_case *t, int64_t r, sweep_round R)
{
    const int64_t n = pk_view_cols(&t->in[0]);
    double top = -INFINITY, sum = 0;
    for (int64_t k = 0; k < n; k++) top = fmax(top, sweep_at(t, 0, r * n + k));
    for (int64_t k = 0; k < n; k++) sum = R(sum + R(exp(R(sweep_at(t, 0, r * n + k) - top))));
    return R(top + R(log(sum)));
}

static void softmax(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]), n = pk_view_cols(&t->in[0]);
    double sum = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < n; k++)
            if (label_at(t, r * n + k)) sum = R(sum + R(lse(t, r, R) - sweep_at(t, 0, r * n + k)));
    y[0][0] = R(sum / (double)rows);
}

static void softmax_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]), n = pk_view_cols(&t->in[0]);
    for (int64_t r = 0; r < rows; r++) {
        const double l = lse(t, r, R);
        bool any = false;
        for (int64_t k = 0; k < n; k++) any = any || label_at(t, r * n + k);
        for (int64_t k = 0; k < n; k++) {
            const double p = R(exp(R(sweep_at(t, 0, r * n + k) - l)));
            const double d = any ? R(p - label_at(t, r * n + k)) : 0;
            y[0][r * n + k] = R(R(sweep_at(t, 2, 0) / (double)rows) * d);
        }
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

static void test_labels(size_t s, bool one_hot, bool grad)
{
    const int64_t rows = shapes[s].rows, cols = shapes[s].cols;
    const enum pk_op op[2][2] = {{PK_OP_BCE_LOSS, PK_OP_BCE_LOSS_GRAD},
                                 {PK_OP_SOFTMAX_LOSS, PK_OP_SOFTMAX_LOSS_GRAD}};
    struct op_sweep t;
    sweep_begin(&t, op[one_hot][grad], shapes[s].why);
    t.reference = one_hot ? grad ? softmax_grad : softmax : grad ? bce_grad : bce;
    float *z = sweep_in(&t, DIMS(rows, cols));
    for (int64_t i = 0; i < rows * cols; i++) z[i] *= (float)shapes[s].scale;
    uint8_t *label = sweep_in_of(&t, PK_U8, DIMS(rows, cols));
    for (int64_t r = 0; r < rows; r++)
        if (one_hot && r != 1) // row 1 has no label
            label[r * cols + (int64_t)pk_rng_below(&t.c.rng, (uint64_t)cols)] = 1;
    for (int64_t i = 0; !one_hot && i < rows * cols; i++) label[i] = pk_rng_below(&t.c.rng, 3) == 0;
    if (grad) sweep_in_vector(&t, DIMS(1));
    if (grad)
        sweep_out(&t, true, DIMS(rows, cols));
    else
        sweep_out_vector(&t, false, DIMS(1));
    sweep_run(&t);
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

/* Logits of +-1000 give the finite losses that the definition has. */
static void test_extremes(const struct op_variant *v)
{
    for (int one_hot = 0; one_hot < 2; one_hot++) {
        struct op_sweep t;
        sweep_begin(&t, one_hot ? PK_OP_SOFTMAX_LOSS : PK_OP_BCE_LOSS, "extreme logits");
        float *z = sweep_in(&t, DIMS(1, 2));
        uint8_t *label = sweep_in_of(&t, PK_U8, DIMS(1, 2));
        sweep_out_vector(&t, false, DIMS(1));
        z[0] = 1000; // both are numbers of bf16
        z[1] = -1000;
        label[1] = 1; // wrong by 2000 (softmax), by 1000 twice (sigmoids)
        if (op_there(v, t.c.node.op)) {
            CHECK_OK(sweep_call(&t, v), &t.c.err);
            CHECK_NEAR(op_got(&t.c, 0, 0), one_hot ? 2000 : 1000, 1e-3);
        }
        sweep_free(&t);
    }
}

/* The loader lets only 0 and 1 through, so the CPU does not look again; a device does, because a
 * wrong label would be a wrong number and no more. */
static void test_bad_label(enum pk_op op, bool grad)
{
    struct op_sweep t;
    sweep_begin(&t, op, "label that is neither 0 nor 1");
    sweep_in(&t, DIMS(3, 5));
    uint8_t *label = sweep_in_of(&t, PK_U8, DIMS(3, 5));
    if (grad) sweep_in_vector(&t, DIMS(1));
    if (grad)
        sweep_out(&t, false, DIMS(3, 5));
    else
        sweep_out_vector(&t, false, DIMS(1));
    label[0] = label[6] = label[14] = 1;
    label[6] = 2;
    sweep_refused(&t, OP_FAULT_LABEL, 1, 2, NULL);
    label[6] = 255;
    sweep_refused(&t, OP_FAULT_LABEL, 1, 255, NULL);
    sweep_free(&t);
}

int main(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++) {
        test_l1(shapes[s].rows, shapes[s].cols, shapes[s].why);
        for (int k = 0; k < 4; k++) test_labels(s, k & 1, k & 2);
        test_moments(s, 0);
        test_moments(s, 100);
    }
    test_l1(1031, 1025, "more than one vector for every thread of 1,024 blocks");
    test_bad_label(PK_OP_BCE_LOSS, false);
    test_bad_label(PK_OP_BCE_LOSS_GRAD, true);
    test_bad_label(PK_OP_SOFTMAX_LOSS, false);
    test_bad_label(PK_OP_SOFTMAX_LOSS_GRAD, true);
    int count;
    const struct op_variant *v = op_variants(&count);
    for (int i = 0; i < count; i++) test_extremes(&v[i]);
    return op_test_end();
}
