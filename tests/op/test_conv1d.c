/* test_conv1d.c -- convolution over time and its gradients against their definition in double.
 *
 * Bounds are those of tests/op/op_check.h and none is chosen here: twice the error of the naive sum
 * in float plus, for outputs in bf16, twice the rounding of the element itself. The tensor cores
 * multiply exactly the bf16 inputs that the reference reads and add in float, so that y and dx are
 * rounded once, when they are stored, and dw, which is float, has a sum's rounding only. */
#include "core/cpu/gemm.h"
#include "core/cpu/workspace.h"
#include "tests/op/op_sweep.h"

static const struct shape {
    int64_t batch, in, c, n, kernel;
    int32_t stride, left, right, groups;
    const char *why;
} shapes[] = {
    {1, 1, 1, 1, 1, 1, 0, 0, 1, "the smallest there is"},
    {2, 9, 5, 3, 1, 1, 0, 0, 1, "one sample wide: a linear layer"},
    {2, 9, 5, 3, 1, 2, 0, 0, 1, "one sample wide with stride: a shortcut of ResNet"},
    {2, 6, 5, 3, 1, 1, 1, 0, 1, "one sample wide, padded"},
    {2, 50, 12, 32, 5, 2, 2, 2, 1, "stem of xresnet1d"},
    {3, 25, 64, 48, 5, 1, 2, 2, 1, "body of xresnet1d"},
    {2, 13, 24, 40, 3, 2, 1, 1, 1, "odd length halved"},
    {2, 10, 32, 32, 16, 1, 7, 8, 2, "Net1D: even kernel longer than the record, two groups"},
    {1, 33, 24, 48, 16, 2, 7, 7, 3, "the same with stride"},
    {2, 31, 20, 20, 5, 1, 2, 2, 20, "depthwise"},
    {3, 40, 67, 67, 3, 2, 1, 1, 67, "depthwise with stride, odd channels"},
    {1, 12, 6, 12, 3, 1, 1, 1, 6, "two outputs for each channel"},
    {2, 3, 7, 9, 7, 1, 3, 3, 1, "kernel wider than the record"},
    {1, 8, 4, 4, 3, 3, 0, 0, 1, "samples at the end that no window reaches"},
    {1, 4, 3, 5, 3, 1, 6, 5, 1, "windows of nothing but padding"},
    {2, 150, 16, 24, 7, 1, 3, 3, 1, "several panels of windows, sums in several parts"},
    // what the tensor cores of a GPU take in bf16: channels of a group in multiples of 8
    {1, 20, 8, 8, 3, 1, 1, 1, 1, "one chunk of channels, one record"},
    {3, 37, 16, 24, 5, 2, 3, 1, 1, "stride 2, more padding on the left"},
    {2, 41, 24, 16, 5, 3, 0, 4, 1, "stride 3, padding on the right only"},
    {2, 30, 64, 72, 3, 1, 1, 1, 1, "a column beyond the tile of 64"},
    {1, 70, 72, 64, 3, 2, 1, 1, 1, "depth and rows not a multiple of any tile"},
    {2, 70, 16, 32, 15, 1, 7, 7, 2, "two groups of 8 and 16 channels"},
    {3, 47, 64, 64, 16, 2, 7, 7, 4, "groups of 16, even kernel, a record over several tiles"},
    {2, 19, 96, 96, 3, 1, 1, 1, 4, "groups of 24"},
    {1, 140, 128, 128, 3, 1, 1, 1, 2, "groups of 64"},
    {5, 3, 16, 16, 7, 1, 3, 3, 1, "records shorter than the kernel, many to a tile"},
    {2, 5, 16, 8, 2, 3, 0, 0, 1, "a phase that no tap reads"},
    {2, 1, 8, 16, 1, 3, 0, 2, 1, "one sample, phases without any"},
    {2, 17, 16, 8, 1, 2, 0, 0, 1, "one sample wide with stride"},
    {1, 9, 8, 8, 4, 1, 9, 0, 1, "windows of nothing but padding before the record"},
    {2, 700, 8, 8, 3, 1, 1, 1, 1, "weight gradient in several parts"},
    {1, 24, 16, 144, 3, 1, 1, 1, 1, "many filters"},
    {2, 60, 12, 16, 7, 2, 3, 3, 1, "stem of 12 leads, padded to 16"},
    {2, 21, 11, 8, 3, 1, 1, 1, 1, "odd leads, padded to 16"},
};

static int64_t out_length(const struct shape *s)
{
    return (s->in + s->left + s->right - s->kernel) / s->stride + 1;
}

static const struct shape *now; // the case that the references work for

struct term {
    int64_t x, w, y; // elements of input, weight and output
};

/* Calls visit for every multiplication. */
static void each_term(void (*visit)(void *ctx, struct term at), void *ctx)
{
    const struct shape *s = now;
    const int64_t out = out_length(s), cg = s->c / s->groups, ng = s->n / s->groups;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t u = 0; u < out; u++)
            for (int64_t n = 0; n < s->n; n++)
                for (int64_t k = 0; k < s->kernel; k++) {
                    const int64_t t = u * s->stride + k - s->left;
                    if (t < 0 || t >= s->in) continue;
                    for (int64_t c = 0; c < cg; c++)
                        visit(ctx, (struct term){(b * s->in + t) * s->c + n / ng * cg + c,
                                                 (n * cg + c) * s->kernel + k,
                                                 (b * out + u) * s->n + n});
                }
}

struct sums { // to[...] += R(a b)
    const struct op_case *t;
    sweep_round R;
    double *to;
};

static void add_forward(void *ctx, struct term at)
{
    struct sums *s = ctx;
    s->to[at.y] = s->R(s->to[at.y] + s->R(sweep_at(s->t, 0, at.x) * sweep_at(s->t, 1, at.w)));
}

static void add_dx(void *ctx, struct term at)
{
    struct sums *s = ctx;
    s->to[at.x] = s->R(s->to[at.x] + s->R(sweep_at(s->t, 0, at.y) * sweep_at(s->t, 1, at.w)));
}

static void add_dw(void *ctx, struct term at)
{
    struct sums *s = ctx;
    s->to[at.w] = s->R(s->to[at.w] + s->R(sweep_at(s->t, 0, at.y) * sweep_at(s->t, 1, at.x)));
}

static void sum_up(const struct op_case *t, sweep_round R, int slot, double *to,
                   void (*visit)(void *ctx, struct term at))
{
    struct sums s = {t, R, to};
    for (int64_t i = 0; i < op_count(&t->out[slot]); i++) to[i] = 0;
    each_term(visit, &s);
}

static void forward(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    sum_up(t, R, 0, y[0], add_forward);
    for (int64_t i = 0; t->data[2] && i < op_count(&t->out[0]); i++)
        y[0][i] = R(y[0][i] + sweep_at(t, 2, i % now->n));
}

static void input_gradient(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    sum_up(t, R, 0, y[0], add_dx);
}

static void weight_gradient(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    if (y[0]) sum_up(t, R, 0, y[0], add_dw);
    for (int64_t i = 0; y[1] && i < now->n; i++) y[1][i] = 0;
    for (int64_t i = 0; y[1] && i < op_count(&t->in[0]); i++)
        y[1][i % now->n] = R(y[1][i % now->n] + sweep_at(t, 0, i));
}

static void begin(struct op_sweep *t, enum pk_op op, const struct shape *s)
{
    now = s;
    sweep_begin(t, op, s->why);
    t->c.node.attr.conv1d.stride = s->stride;
    t->c.node.attr.conv1d.left = s->left;
    t->c.node.attr.conv1d.right = s->right;
    t->c.node.attr.conv1d.groups = s->groups;
}

static void weight_in(struct op_sweep *t, const struct shape *s)
{
    const int64_t fan = s->c / s->groups * s->kernel;
    float *w = sweep_in(t, DIMS(s->n, s->c / s->groups, s->kernel));
    for (int64_t i = 0; i < s->n * fan; i++) w[i] /= sqrtf((float)fan);
}

/* What the op's row asks for, as the CPU tables take it. */
static void run(struct op_sweep *t, const int64_t w[3], int64_t rows)
{
    t->workspace = pk_cpu_conv1d_workspace(rows, w);
    sweep_run(t);
}

static void check_shape(const struct shape *s)
{
    const int64_t out = out_length(s), w[3] = {s->n, s->c / s->groups, s->kernel};
    struct op_sweep t;
    for (int bias = 0; bias < 2; bias++) {
        begin(&t, PK_OP_CONV1D, s);
        t.reference = forward;
        sweep_in(&t, DIMS(s->batch, s->in, s->c));
        weight_in(&t, s);
        if (bias)
            sweep_in_vector(&t, DIMS(s->n));
        else
            sweep_in_absent(&t);
        sweep_out(&t, false, DIMS(s->batch, out, s->n));
        run(&t, w, s->batch * out);

        begin(&t, PK_OP_CONV1D_DW, s);
        t.reference = weight_gradient;
        sweep_in(&t, DIMS(s->batch, out, s->n));
        sweep_in(&t, DIMS(s->batch, s->in, s->c));
        sweep_out_vector(&t, true, DIMS(w[0], w[1], w[2]));
        if (bias) sweep_out_vector(&t, true, DIMS(s->n));
        run(&t, w, s->batch * out);
    }
    begin(&t, PK_OP_CONV1D_DX, s);
    t.reference = input_gradient;
    sweep_in(&t, DIMS(s->batch, out, s->n));
    weight_in(&t, s);
    sweep_out(&t, true, DIMS(s->batch, s->in, s->c));
    run(&t, w, s->batch * out);

    begin(&t, PK_OP_CONV1D_DW, s); // only the bias is trained
    t.reference = weight_gradient;
    sweep_in(&t, DIMS(s->batch, out, s->n));
    sweep_in(&t, DIMS(s->batch, s->in, s->c));
    sweep_out_absent(&t);
    sweep_out_vector(&t, true, DIMS(s->n));
    run(&t, w, s->batch * out);
}

int main(void)
{
    pk_gemm_thread_init();
    for (size_t i = 0; i < PK_COUNT(shapes); i++) check_shape(&shapes[i]);
    return op_test_end();
}
