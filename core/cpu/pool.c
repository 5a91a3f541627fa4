/* pool.c -- maximum and mean over windows of time, and over whole records. The gradient of a
 * maximum goes to the first sample that has it, found again in x: cheaper than an index kept from
 * forward. */
#include "core/base.h"
#include "core/cpu/kernels.h"
#include "core/view.h"

#include <math.h>
#include <string.h>

struct window { // samples [from, to) of a record
    int64_t from, to;
    bool before, behind; // zeros of the padding that count, on either side
    float share;         // of one sample in the mean
};

static struct window window_of(const struct pk_call *c, int64_t u, int64_t in)
{
    const int64_t start = u * c->node->attr.pool1d.stride - c->node->attr.pool1d.left;
    const int64_t kernel = c->node->attr.pool1d.kernel, end = start + kernel;
    const bool zeros = c->node->attr.pool1d.zeros;
    struct window w = {PK_MAX(start, 0), PK_MIN(end, in), zeros && start < 0, zeros && end > in, 0};
    w.share = 1 / (float)(zeros ? kernel : w.to - w.from);
    return w;
}

static struct window whole(int64_t in)
{
    return (struct window){.to = in, .share = 1 / (float)in};
}

/* The first of the largest samples of one channel; a NaN counts as larger than all. */
static int64_t largest(const float *x, int64_t cols, struct window w)
{
    int64_t at = w.from;
    for (int64_t t = w.from + 1; t < w.to && !isnan(x[at * cols]); t++)
        if (!(x[t * cols] <= x[at * cols])) at = t;
    return at;
}

/* A zero of the padding is the maximum: it comes first where it is before the samples. */
static bool zero_wins(float largest, struct window w)
{
    return w.before ? largest <= 0 : w.behind && largest < 0;
}

static void mean_row(float *y, const float *x, int64_t cols, struct window w)
{
    for (int64_t i = 0; i < cols; i++) y[i] = 0;
    for (int64_t t = w.from; t < w.to; t++)
        for (int64_t i = 0; i < cols; i++) y[i] += x[t * cols + i];
    for (int64_t i = 0; i < cols; i++) y[i] *= w.share;
}

static void spread_row(float *dx, const float *dy, int64_t cols, struct window w)
{
    for (int64_t t = w.from; t < w.to; t++)
        for (int64_t i = 0; i < cols; i++) dx[t * cols + i] += dy[i] * w.share;
}

static void largest_row(float *y, const float *x, int64_t cols, struct window w)
{
    for (int64_t i = 0; i < cols; i++) {
        const float top = x[largest(x + i, cols, w) * cols + i];
        y[i] = zero_wins(top, w) ? 0 : top;
    }
}

static void give_row(float *dx, const float *dy, const float *x, int64_t cols, struct window w)
{
    for (int64_t i = 0; i < cols; i++) {
        const int64_t at = largest(x + i, cols, w) * cols + i;
        if (!zero_wins(x[at], w)) dx[at] += dy[i];
    }
}

/* in: x [B, T, C] -> y [B, U, C] */
enum pk_status PK_ISA_NAME(pk_cpu_pool1d)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t in = c->in[0]->dim[1], out = c->out[0]->dim[1], cols = c->in[0]->dim[2];
    float *y = c->dst[0];
    for (int64_t r = 0; r < c->in[0]->dim[0] * out; r++, y += cols) {
        const float *x = (const float *)c->src[0] + r / out * in * cols;
        const struct window w = window_of(c, r % out, in);
        if (c->node->attr.pool1d.mean)
            mean_row(y, x, cols, w);
        else
            largest_row(y, x, cols, w);
    }
    return PK_OK;
}

/* in: dy [B, U, C], x [B, T, C] -> dx, accumulating */
enum pk_status PK_ISA_NAME(pk_cpu_pool1d_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t in = c->in[1]->dim[1], out = c->in[0]->dim[1], cols = c->in[1]->dim[2];
    const float *dy = c->src[0];
    if (!pk_call_accumulates(c, 0))
        memset(c->dst[0], 0, (size_t)pk_view_count(c->in[1]) * sizeof(float));
    for (int64_t r = 0; r < c->in[1]->dim[0] * out; r++, dy += cols) {
        const float *x = (const float *)c->src[1] + r / out * in * cols;
        float *dx = (float *)c->dst[0] + r / out * in * cols;
        const struct window w = window_of(c, r % out, in);
        if (c->node->attr.pool1d.mean)
            spread_row(dx, dy, cols, w);
        else
            give_row(dx, dy, x, cols, w);
    }
    return PK_OK;
}

/* in: x [B, T, C] -> y [B, 2C]: maxima, then means */
enum pk_status PK_ISA_NAME(pk_cpu_concat_pool)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t in = c->in[0]->dim[1], cols = c->in[0]->dim[2];
    const struct window all = whole(in);
    for (int64_t b = 0; b < c->in[0]->dim[0]; b++) {
        const float *x = (const float *)c->src[0] + b * in * cols;
        float *y = (float *)c->dst[0] + b * 2 * cols;
        largest_row(y, x, cols, all);
        mean_row(y + cols, x, cols, all);
    }
    return PK_OK;
}

/* in: dy [B, 2C], x [B, T, C] -> dx, accumulating */
enum pk_status PK_ISA_NAME(pk_cpu_concat_pool_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t in = c->in[1]->dim[1], cols = c->in[1]->dim[2];
    const struct window all = whole(in);
    if (!pk_call_accumulates(c, 0))
        memset(c->dst[0], 0, (size_t)pk_view_count(c->in[1]) * sizeof(float));
    for (int64_t b = 0; b < c->in[1]->dim[0]; b++) {
        const float *x = (const float *)c->src[1] + b * in * cols;
        const float *dy = (const float *)c->src[0] + b * 2 * cols;
        float *dx = (float *)c->dst[0] + b * in * cols;
        spread_row(dx, dy + cols, cols, all);
        give_row(dx, dy, x, cols, all);
    }
    return PK_OK;
}
