/* test_activate.c -- ReLU, SiLU, sigmoid, their slopes, and the gate of a squeeze-excite. */
#include "tests/op/op_sweep.h"

static double sigmoid(double x, sweep_round R)
{
    return R(1 / R(1 + R(exp(-x))));
}

static void values(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    for (int64_t i = 0; i < op_count(&t->in[0]); i++) {
        const double x = sweep_at(t, 0, i);
        const int kind = t->node.attr.activate.kind;
        y[0][i] = kind == PK_RELU   ? fmax(x, 0)
                  : kind == PK_SILU ? R(x * sigmoid(x, R))
                                    : sigmoid(x, R);
    }
}

static void slopes(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    for (int64_t i = 0; i < op_count(&t->in[0]); i++) {
        const double x = sweep_at(t, 1, i), s = sigmoid(x, R), rest = R(1 - s);
        const int kind = t->node.attr.activate.kind;
        const double slope = kind == PK_RELU   ? (double)(x > 0)
                             : kind == PK_SILU ? R(s * R(1 + R(x * rest)))
                                               : R(s * rest);
        y[0][i] = R(sweep_at(t, 0, i) * slope);
    }
}

static void test_activation(int64_t count, enum pk_activation kind)
{
    for (int backward = 0; backward < 2; backward++) {
        struct op_sweep t;
        sweep_begin(&t, backward ? PK_OP_ACTIVATE_GRAD : PK_OP_ACTIVATE, "all lengths");
        t.reference = backward ? slopes : values;
        t.c.node.attr.activate.kind = kind;
        if (backward) sweep_in(&t, DIMS(1, count));
        float *x = sweep_in(&t, DIMS(1, count));
        for (int64_t i = 0; i < count; i++) // from -100 to 100, and 0, which ReLU's slope is 0 at
            x[i] = i % 5 ? (float)((double)(i % 401) - 200) / 2 * (i % 3 ? 0.1f : 1) : x[i];
        x[count > 7 ? 7 : 0] = 0; // of one element the naive error says nothing: an exact case
        sweep_out(&t, backward, DIMS(1, count));
        sweep_run(&t);
    }
}

/* in: x, gate. */
static void scale(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t tokens = t->in[0].dim[1], cols = t->in[0].dim[2];
    for (int64_t i = 0; i < op_count(&t->in[0]); i++)
        y[0][i] = R(sweep_at(t, 0, i) * sweep_at(t, 1, i / (tokens * cols) * cols + i % cols));
}

/* in: dy, x, gate. */
static void scale_gradient(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t tokens = t->in[0].dim[1], cols = t->in[0].dim[2];
    for (int64_t i = 0; y[1] && i < op_count(&t->in[2]); i++) y[1][i] = 0;
    for (int64_t i = 0; i < op_count(&t->in[0]); i++) {
        const int64_t g = i / (tokens * cols) * cols + i % cols;
        if (y[0]) y[0][i] = R(sweep_at(t, 0, i) * sweep_at(t, 2, g));
        if (y[1]) y[1][g] = R(y[1][g] + R(sweep_at(t, 0, i) * sweep_at(t, 1, i)));
    }
}

static void test_scale(int64_t batch, int64_t tokens, int64_t cols, const char *why)
{
    struct op_sweep t;
    sweep_begin(&t, PK_OP_CHANNEL_SCALE, why);
    t.reference = scale;
    sweep_in(&t, DIMS(batch, tokens, cols));
    sweep_in(&t, DIMS(batch, cols));
    sweep_out(&t, false, DIMS(batch, tokens, cols));
    sweep_run(&t);
    for (int wanted = 1; wanted < 4; wanted++) {
        sweep_begin(&t, PK_OP_CHANNEL_SCALE_GRAD, why);
        t.reference = scale_gradient;
        for (int k = 0; k < 2; k++) sweep_in(&t, DIMS(batch, tokens, cols));
        sweep_in(&t, DIMS(batch, cols));
        if (wanted & 1)
            sweep_out(&t, true, DIMS(batch, tokens, cols));
        else
            sweep_out_absent(&t);
        if (wanted & 2) sweep_out(&t, true, DIMS(batch, cols));
        sweep_run(&t);
    }
}

int main(void)
{
    const int64_t lengths[] = {1, 7, 8, 16, 33, 4099, 20000};
    for (size_t i = 0; i < PK_COUNT(lengths); i++)
        for (int kind = PK_RELU; kind <= PK_SIGMOID; kind++)
            test_activation(lengths[i], (enum pk_activation)kind);
    test_scale(1, 1, 1, "the smallest there is");
    test_scale(2, 5, 7, "odd channels");
    test_scale(3, 31, 64, "whole vectors");
    test_scale(2, 9, 36, "whole vectors of float, not of bf16");
    test_scale(1, 130, 100, "more samples than lanes");
    return op_test_end();
}
