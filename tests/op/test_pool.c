/* test_pool.c -- maximum and mean over windows and over records, with their gradients. */
#include "tests/op/op_sweep.h"

static const struct shape {
    int64_t batch, in, cols;
    int32_t kernel, stride, left, right;
    bool zeros;
    const char *why;
} shapes[] = {
    {1, 1, 1, 1, 1, 0, 0, false, "the smallest there is"},
    {2, 50, 64, 3, 2, 1, 1, false, "stem of xresnet1d"},
    {3, 13, 20, 2, 2, 0, 1, false, "odd length, the last window half outside"},
    {2, 12, 33, 2, 2, 0, 0, false, "even length"},
    {2, 9, 7, 5, 1, 4, 4, false, "windows that hold one sample"},
    {1, 10, 9, 2, 3, 0, 0, false, "samples between the windows"},
    {2, 125, 40, 7, 3, 3, 2, false, "more samples than lanes"},
    {2, 13, 20, 2, 2, 0, 1, true, "shortcut of Net1D, the last window holds a zero"},
    {2, 12, 33, 2, 2, 0, 1, true, "the same, no window reaches the zero"},
    {3, 9, 7, 5, 1, 4, 4, true, "zeros before, behind, and on neither side"},
    {2, 2, 9, 7, 2, 4, 3, true, "windows that reach over both ends"},
};

static const struct shape *now;

static int64_t out_length(const struct shape *s)
{
    return (s->in + s->left + s->right - s->kernel) / s->stride + 1;
}

static void range(int64_t u, int64_t *from, int64_t *to)
{
    *from = PK_MAX(u * now->stride - now->left, 0);
    *to = PK_MIN(u * now->stride - now->left + now->kernel, now->in);
}

static double x_at(const struct op_case *t, int k, int64_t b, int64_t s, int64_t i)
{
    return sweep_at(t, k, (b * now->in + s) * now->cols + i);
}

static int64_t first_largest(const struct op_case *t, int k, int64_t b, int64_t from, int64_t to,
                             int64_t i)
{
    int64_t at = from;
    for (int64_t s = from; s < to; s++)
        if (x_at(t, k, b, s, i) > x_at(t, k, b, at, i)) at = s;
    return at;
}

/* -1: no sample is larger than the window's zeros, of which the first decides between equals. */
static int64_t winner(const struct op_case *t, int k, int64_t b, int64_t u, int64_t i)
{
    const int64_t start = u * now->stride - now->left;
    int64_t from, to, at = -1;
    double top = -INFINITY;
    range(u, &from, &to);
    if (!now->zeros) return first_largest(t, k, b, from, to, i);
    for (int64_t s = start; s < start + now->kernel; s++) {
        const bool inside = s >= 0 && s < now->in;
        const double x = inside ? x_at(t, k, b, s, i) : 0;
        if (x > top) at = inside ? s : -1, top = x;
    }
    return at;
}

static double mean(const struct op_case *t, int64_t b, int64_t from, int64_t to, int64_t i,
                   int64_t count, sweep_round R)
{
    double sum = 0;
    for (int64_t s = from; s < to; s++) sum = R(sum + x_at(t, 0, b, s, i));
    return R(sum * R(1 / (double)count));
}

static int64_t samples_of(int64_t from, int64_t to)
{
    return now->zeros ? now->kernel : to - from;
}

static void forward(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t out = out_length(now);
    for (int64_t e = 0; e < now->batch * out * now->cols; e++) {
        const int64_t i = e % now->cols, u = e / now->cols % out, b = e / now->cols / out;
        int64_t from, to;
        range(u, &from, &to);
        const int64_t at = winner(t, 0, b, u, i);
        y[0][e] = t->node.attr.pool1d.mean ? mean(t, b, from, to, i, samples_of(from, to), R)
                  : at < 0                 ? 0
                                           : x_at(t, 0, b, at, i);
    }
}

static void give(double *dx, int64_t b, int64_t s, int64_t i, double d, sweep_round R)
{
    double *to = dx + (b * now->in + s) * now->cols + i;
    *to = R(*to + d);
}

/* in: dy, x. */
static void backward(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t out = out_length(now);
    for (int64_t i = 0; i < op_count(&t->out[0]); i++) y[0][i] = 0;
    for (int64_t e = 0; e < now->batch * out * now->cols; e++) {
        const int64_t i = e % now->cols, u = e / now->cols % out, b = e / now->cols / out;
        const double dy = sweep_at(t, 0, e);
        int64_t from, to;
        range(u, &from, &to);
        const int64_t at = winner(t, 1, b, u, i);
        if (!t->node.attr.pool1d.mean && at >= 0) give(y[0], b, at, i, dy, R);
        for (int64_t s = from; t->node.attr.pool1d.mean && s < to; s++)
            give(y[0], b, s, i, R(dy * R(1 / (double)samples_of(from, to))), R);
    }
}

static void concat(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    for (int64_t e = 0; e < now->batch * now->cols; e++) {
        const int64_t i = e % now->cols, b = e / now->cols;
        double *to = y[0] + b * 2 * now->cols + i;
        to[0] = x_at(t, 0, b, first_largest(t, 0, b, 0, now->in, i), i);
        to[now->cols] = mean(t, b, 0, now->in, i, now->in, R);
    }
}

static void concat_backward(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    for (int64_t i = 0; i < op_count(&t->out[0]); i++) y[0][i] = 0;
    for (int64_t e = 0; e < now->batch * now->cols; e++) {
        const int64_t i = e % now->cols, b = e / now->cols, dy = b * 2 * now->cols + i;
        for (int64_t s = 0; s < now->in; s++)
            give(y[0], b, s, i, R(sweep_at(t, 0, dy + now->cols) * R(1 / (double)now->in)), R);
        give(y[0], b, first_largest(t, 1, b, 0, now->in, i), i, sweep_at(t, 0, dy), R);
    }
}

/* Values with ties: quarters, which bf16 holds too. */
static void samples(struct op_sweep *t, const struct shape *s)
{
    float *x = sweep_in(t, DIMS(s->batch, s->in, s->cols));
    for (int64_t i = 0; i < s->batch * s->in * s->cols; i++) x[i] = roundf(4 * x[i]) / 4;
}

static void begin(struct op_sweep *t, enum pk_op op, const struct shape *s, bool averages)
{
    now = s;
    sweep_begin(t, op, s->why);
    t->c.node.attr.pool1d.mean = averages;
    t->c.node.attr.pool1d.kernel = s->kernel;
    t->c.node.attr.pool1d.stride = s->stride;
    t->c.node.attr.pool1d.left = s->left;
    t->c.node.attr.pool1d.right = s->right;
    t->c.node.attr.pool1d.zeros = s->zeros;
}

static void check_shape(const struct shape *s)
{
    const int64_t out = out_length(s);
    struct op_sweep t;
    for (int averages = 0; averages < 2; averages++) {
        begin(&t, PK_OP_POOL1D, s, averages);
        t.reference = forward;
        samples(&t, s);
        sweep_out(&t, false, DIMS(s->batch, out, s->cols));
        sweep_run(&t);
        begin(&t, PK_OP_POOL1D_GRAD, s, averages);
        t.reference = backward;
        sweep_in(&t, DIMS(s->batch, out, s->cols));
        samples(&t, s);
        sweep_out(&t, true, DIMS(s->batch, s->in, s->cols));
        sweep_run(&t);
    }
    begin(&t, PK_OP_CONCAT_POOL, s, false);
    t.reference = concat;
    samples(&t, s);
    sweep_out(&t, false, DIMS(s->batch, 2 * s->cols));
    sweep_run(&t);
    begin(&t, PK_OP_CONCAT_POOL_GRAD, s, false);
    t.reference = concat_backward;
    sweep_in(&t, DIMS(s->batch, 2 * s->cols));
    samples(&t, s);
    sweep_out(&t, true, DIMS(s->batch, s->in, s->cols));
    sweep_run(&t);
}

int main(void)
{
    for (size_t i = 0; i < PK_COUNT(shapes); i++) check_shape(&shapes[i]);
    return op_test_end();
}
