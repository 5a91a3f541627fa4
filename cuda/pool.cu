/* pool.cu -- maximum and mean over windows of time, and over whole records.
 *
 * Windows: one thread per output, or per input in the gradient, which asks each window that holds
 * it whether it is the first of its largest: no atomics, no stored index. Neighbouring threads have
 * neighbouring channels; a sample is read by kernel / stride threads, from the caches but for the
 * first time. Whole records: a block has 32 channels of one record, 8 lanes over time. */
#include "cuda/entry.h"
#include "cuda/device.h"

extern "C" {
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, CHANNELS = 32, LANES = THREADS / CHANNELS };

struct pool {
    const void *x, *dy;
    void *to;
    int64_t batch, in, out, cols;
    int32_t kernel, stride, left;
    bool mean, add, zeros;
};

/* The first of the largest samples from, from + step ... below `to`; a NaN counts as larger. */
template <typename S>
__device__ __forceinline__ int64_t largest(const S *x, int64_t cols, int64_t from, int64_t to,
                                           int step, float *value)
{
    int64_t at = from;
    float best = from < to ? to_float(x[from * cols]) : 0;
    for (int64_t t = from + step; t < to && !isnan(best); t += step) {
        const float v = to_float(x[t * cols]);
        if (!(v <= best)) best = v, at = t;
    }
    *value = best;
    return at;
}

struct window {
    int64_t from, to;
    bool before, behind; // zeros of the padding that count, on either side
    float share;         // of one sample in the mean
};

__device__ __forceinline__ window window_of(const pool &p, int64_t u)
{
    const int64_t start = u * p.stride - p.left;
    const int64_t from = max(start, (int64_t)0), to = min(start + p.kernel, p.in);
    const float share = 1 / (float)(p.zeros ? p.kernel : to - from);
    return {from, to, p.zeros && start < 0, p.zeros && start + p.kernel > p.in, share};
}

/* A zero of the padding is the maximum: it comes first where it is before the samples. */
__device__ __forceinline__ bool zero_wins(float largest, const window &w)
{
    return w.before ? largest <= 0 : w.behind && largest < 0;
}

template <typename S> __global__ void __launch_bounds__(THREADS) pool_windows(pool p)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= p.batch * p.out * p.cols) return;
    const int64_t row = i / p.cols, b = row / p.out;
    const S *x = (const S *)p.x + b * p.in * p.cols + i % p.cols;
    const window w = window_of(p, row % p.out);
    float y = 0;
    if (p.mean) {
        for (int64_t t = w.from; t < w.to; t++) y += to_float(x[t * p.cols]);
        y *= w.share;
    } else {
        largest(x, p.cols, w.from, w.to, 1, &y);
        if (zero_wins(y, w)) y = 0;
    }
    ((S *)p.to)[i] = from_float<S>(y);
}

template <typename S> __global__ void __launch_bounds__(THREADS) pool_windows_grad(pool p)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= p.batch * p.in * p.cols) return;
    const int64_t row = i / p.cols, b = row / p.in, t = row % p.in, c = i % p.cols;
    const S *x = (const S *)p.x + b * p.in * p.cols + c;
    const S *dy = (const S *)p.dy + b * p.out * p.cols + c;
    const int64_t late = t + p.left; // windows [first, last] hold sample t
    const int64_t first = late < p.kernel ? 0 : (late - p.kernel) / p.stride + 1;
    const int64_t last = min(late / p.stride, p.out - 1);
    float sum = 0, top;
    for (int64_t u = first; u <= last; u++) {
        const window w = window_of(p, u);
        const float d = to_float(dy[u * p.cols]);
        if (p.mean)
            sum += d * w.share;
        else if (largest(x, p.cols, w.from, w.to, 1, &top) == t && !zero_wins(top, w))
            sum += d;
    }
    S *to = (S *)p.to + i;
    *to = from_float<S>(p.add ? to_float(*to) + sum : sum);
}

struct lanes {
    float best[LANES][CHANNELS], sum[LANES][CHANNELS];
    int64_t at[LANES][CHANNELS];
};

/* Largest of a channel over a whole record, its place and the sum, by all lanes of its channel. */
template <typename S>
__device__ __forceinline__ int64_t reduce_record(lanes &s, const pool &p, const S *x, bool mine,
                                                 float *best, float *sum)
{
    const int lane = (int)threadIdx.x / CHANNELS, local = (int)threadIdx.x % CHANNELS;
    float total = 0, value = 0;
    int64_t at = p.in;
    if (mine) at = largest(x, p.cols, lane, p.in, LANES, &value);
    for (int64_t t = lane; mine && t < p.in; t += LANES) total += to_float(x[t * p.cols]);
    s.best[lane][local] = value, s.sum[lane][local] = total, s.at[lane][local] = at;
    __syncthreads();
    value = s.best[0][local], total = s.sum[0][local], at = s.at[0][local];
    for (int l = 1; l < LANES; l++) {
        const float v = s.best[l][local];
        const int64_t there = s.at[l][local];
        total += s.sum[l][local];
        if (there >= p.in || (isnan(value) && !(isnan(v) && there < at))) continue;
        if (v > value || isnan(v) || (v == value && there < at)) value = v, at = there;
    }
    *best = value, *sum = total;
    return at;
}

template <typename S> __global__ void __launch_bounds__(THREADS) pool_record(pool p)
{
    PK_SHARED(lanes, s);
    const int64_t b = blockIdx.x, i = (int64_t)blockIdx.y * CHANNELS + threadIdx.x % CHANNELS;
    const bool mine = i < p.cols;
    float best, sum;
    reduce_record<S>(s, p, (const S *)p.x + b * p.in * p.cols + i, mine, &best, &sum);
    if (!mine || threadIdx.x >= CHANNELS) return;
    S *y = (S *)p.to + b * 2 * p.cols + i;
    y[0] = from_float<S>(best);
    y[p.cols] = from_float<S>(sum * (1 / (float)p.in));
}

template <typename S> __global__ void __launch_bounds__(THREADS) pool_record_grad(pool p)
{
    PK_SHARED(lanes, s);
    const int64_t b = blockIdx.x, i = (int64_t)blockIdx.y * CHANNELS + threadIdx.x % CHANNELS;
    const bool mine = i < p.cols;
    float best, sum;
    const int64_t at =
        reduce_record<S>(s, p, (const S *)p.x + b * p.in * p.cols + i, mine, &best, &sum);
    if (!mine) return;
    const S *dy = (const S *)p.dy + b * 2 * p.cols + i;
    const float top = to_float(dy[0]), each = to_float(dy[p.cols]) * (1 / (float)p.in);
    S *dx = (S *)p.to + b * p.in * p.cols + i;
    for (int64_t t = threadIdx.x / CHANNELS; t < p.in; t += LANES) {
        const float d = t == at ? each + top : each;
        dx[t * p.cols] = from_float<S>(p.add ? to_float(dx[t * p.cols]) + d : d);
    }
}

enum pass { FORWARD, BACKWARD };

template <typename S>
enum pk_status windows(const struct pk_queue *q, const pool &p, enum pass pass, struct pk_err *err)
{
    const int64_t count = p.batch * (pass == FORWARD ? p.out : p.in) * p.cols;
    const unsigned grid = (unsigned)((count + THREADS - 1) / THREADS);
    if (pass == FORWARD) return PK_LAUNCH((pool_windows<S>), grid, THREADS, 0, q, err, p);
    return PK_LAUNCH((pool_windows_grad<S>), grid, THREADS, 0, q, err, p);
}

template <typename S>
enum pk_status records(const struct pk_queue *q, const pool &p, enum pass pass, struct pk_err *err)
{
    const dim3 grid((unsigned)p.batch, (unsigned)((p.cols + CHANNELS - 1) / CHANNELS));
    if (pass == FORWARD)
        return PK_LAUNCH((pool_record<S>), grid, THREADS, sizeof(lanes), q, err, p);
    return PK_LAUNCH((pool_record_grad<S>), grid, THREADS, sizeof(lanes), q, err, p);
}

pool pool_of(const struct pk_call *c, const struct pk_value *x, const struct pk_value *y)
{
    pool p = {};
    p.batch = x->dim[0], p.in = x->dim[1], p.cols = x->dim[2], p.out = y->dim[1];
    p.kernel = c->node->attr.pool1d.kernel, p.stride = c->node->attr.pool1d.stride;
    p.left = c->node->attr.pool1d.left, p.mean = c->node->attr.pool1d.mean;
    p.zeros = c->node->attr.pool1d.zeros;
    p.to = c->dst[0];
    return p;
}

pool forward_of(const struct pk_call *c)
{
    pool p = pool_of(c, c->in[0], c->out[0]);
    p.x = c->src[0];
    return p;
}

pool backward_of(const struct pk_call *c)
{
    pool p = pool_of(c, c->in[1], c->in[0]);
    p.dy = c->src[0], p.x = c->src[1], p.add = pk_call_accumulates(c, 0);
    return p;
}

bool is_low(const struct pk_call *c)
{
    return c->in[0]->dtype == PK_BF16;
}

} // namespace

extern "C" {

/* in: x [B, T, C] -> y [B, U, C] */
enum pk_status pk_cuda_pool1d(const struct pk_call *c, struct pk_err *err)
{
    const pool p = forward_of(c);
    return is_low(c) ? windows<bf16>(c->queue, p, FORWARD, err)
                     : windows<float>(c->queue, p, FORWARD, err);
}

/* in: dy [B, U, C], x [B, T, C] -> dx, accumulating */
enum pk_status pk_cuda_pool1d_grad(const struct pk_call *c, struct pk_err *err)
{
    const pool p = backward_of(c);
    return is_low(c) ? windows<bf16>(c->queue, p, BACKWARD, err)
                     : windows<float>(c->queue, p, BACKWARD, err);
}

/* in: x [B, T, C] -> y [B, 2C]: maxima, then means */
enum pk_status pk_cuda_concat_pool(const struct pk_call *c, struct pk_err *err)
{
    const pool p = forward_of(c);
    return is_low(c) ? records<bf16>(c->queue, p, FORWARD, err)
                     : records<float>(c->queue, p, FORWARD, err);
}

/* in: dy [B, 2C], x [B, T, C] -> dx, accumulating */
enum pk_status pk_cuda_concat_pool_grad(const struct pk_call *c, struct pk_err *err)
{
    const pool p = backward_of(c);
    return is_low(c) ? records<bf16>(c->queue, p, BACKWARD, err)
                     : records<float>(c->queue, p, BACKWARD, err);
}

PK_NO_WORKSPACE(pool1d)
PK_NO_WORKSPACE(pool1d_grad)
PK_NO_WORKSPACE(concat_pool)
PK_NO_WORKSPACE(concat_pool_grad)
}
