/* batchnorm.cu -- batch norm over the rows of a matrix, columns being channels.
 *
 *     y = xhat * gain + bias,  xhat = (x - mean) * rstd,  rstd = 1 / sqrt(var + eps),  var with 1/n
 *
 * Statistics come in parts: a block reduces some rows of 32 channels to their mean and to the sum
 * of squared deviations from it (its rows, 256 x 32 elements, come from the caches the second
 * time), and a second kernel merges the parts in order (Chan et al. 1979). Nothing cancels, and the
 * bits repeat. For norms over all ranks (pk_call.joined) what a rank has merged is its part of the
 * whole: the ranks' parts are gathered on the stream, and merged by the same kernel in their order.
 *
 * Traffic per element with storage S: forward 3 S (statistics, then y), backward 5 S: dy and x are
 * read for their sums and again for dx. With 2 bytes that is 6 B and 10 B, 16 us and 26 us for
 * 128 x 1,250 x 64 elements (10 M) at 4.3 TB/s, were it all of the bandwidth. */
#include "cuda/device.h"
#include "cuda/reduce.h"

extern "C" {
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, CHANNELS = 32, LANES = THREADS / CHANNELS };

struct lanes {
    float at[2][LANES][CHANNELS];
};

struct batch_norm {
    const void *x, *dy;
    const float *gain, *bias, *mean, *rstd, *var; // [cols]; mean and var: running where not train
    void *to;                                     // y or dx
    float *saved[3];                              // mean, rstd, variance; each may be NULL
    float *partial;                               // [parts][2][cols]
    float *used;                                  // [2][cols]: mean and rstd; sums backwards
    float *part;       // [2][cols]: where mean and spread go that others' are merged with; or NULL
    int64_t rows, all; // of this rank, of all that are normalised together
    int64_t cols, range, parts;
    float eps;
    bool train, add;
};

/* Sums over the lanes of a block, for its channels, in order. */
__device__ __forceinline__ float lane_sum(lanes &s, int k, float x)
{
    const int lane = (int)threadIdx.x / CHANNELS, local = (int)threadIdx.x % CHANNELS;
    float sum = 0;
    s.at[k][lane][local] = x;
    __syncthreads();
    for (int l = 0; l < LANES; l++) sum += s.at[k][l][local];
    return sum;
}

/* Block (channels, part): mean and spread of its rows. */
template <typename S> __global__ void __launch_bounds__(THREADS) part_statistics(batch_norm v)
{
    PK_SHARED(lanes, s);
    const int lane = (int)threadIdx.x / CHANNELS;
    const int64_t i = (int64_t)blockIdx.x * CHANNELS + threadIdx.x % CHANNELS;
    const int64_t first = blockIdx.y * v.range, last = min(first + v.range, v.rows);
    const bool mine = i < v.cols;
    const S *x = (const S *)v.x + i;
    float sum = 0, spread = 0;
    for (int64_t r = first + lane; mine && r < last; r += LANES) sum += to_float(x[r * v.cols]);
    const float mean = lane_sum(s, 0, sum) / (float)(last - first);
    for (int64_t r = first + lane; mine && r < last; r += LANES) {
        const float d = to_float(x[r * v.cols]) - mean;
        spread = fmaf(d, d, spread);
    }
    spread = lane_sum(s, 1, spread);
    if (lane || !mine) return;
    v.partial[(blockIdx.y * 2) * v.cols + i] = mean;
    v.partial[(blockIdx.y * 2 + 1) * v.cols + i] = spread;
}

/* One thread per channel: all parts merged, or the running statistics. The mean of part p moves the
 * whole by its share; the spread gains what lies between the two means. */
__global__ void __launch_bounds__(THREADS) merge(batch_norm v)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= v.cols) return;
    float mean, var;
    if (v.train) {
        float spread = v.partial[v.cols + i], seen = (float)min(v.range, v.rows);
        mean = v.partial[i];
        for (int64_t p = 1; p < v.parts; p++) {
            const float count = (float)(min((p + 1) * v.range, v.rows) - p * v.range);
            const float d = v.partial[2 * p * v.cols + i] - mean, all = seen + count;
            mean = fmaf(d, count / all, mean);
            spread += v.partial[(2 * p + 1) * v.cols + i] + d * d * (seen * count / all);
            seen = all;
        }
        if (v.part) {
            v.part[i] = mean, v.part[v.cols + i] = spread;
            return;
        }
        var = spread / (float)v.rows;
    } else {
        mean = v.mean[i], var = v.var[i];
    }
    const float rstd = 1 / sqrtf(var + v.eps);
    v.used[i] = mean, v.used[v.cols + i] = rstd;
    if (v.saved[0]) v.saved[0][i] = mean;
    if (v.saved[1]) v.saved[1][i] = rstd;
    if (v.saved[2]) v.saved[2][i] = var;
}

/* N neighbouring channels of a row; N divides cols. */
template <typename S, int N> __global__ void __launch_bounds__(THREADS) normalise(batch_norm v)
{
    const int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    if (at >= v.rows * v.cols) return;
    const int64_t i = at % v.cols;
    float x[N];
    to_floats(x, load<S, N>((const S *)v.x + at));
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float xhat = (x[k] - v.used[i + k]) * v.used[v.cols + i + k];
        x[k] = fmaf(xhat, v.gain[i + k], v.bias[i + k]);
    }
    store<S, N>((S *)v.to + at, from_floats<S, N>(x));
}

/* Block (channels, part): sums of dy * xhat and of dy over its rows. */
template <typename S> __global__ void __launch_bounds__(THREADS) part_sums(batch_norm v)
{
    PK_SHARED(lanes, s);
    const int lane = (int)threadIdx.x / CHANNELS;
    const int64_t i = (int64_t)blockIdx.x * CHANNELS + threadIdx.x % CHANNELS;
    const int64_t first = blockIdx.y * v.range, last = min(first + v.range, v.rows);
    const bool mine = i < v.cols;
    const float mean = mine ? v.mean[i] : 0, rstd = mine ? v.rstd[i] : 0;
    float weighted = 0, sum = 0;
    for (int64_t r = first + lane; mine && r < last; r += LANES) {
        const float dy = to_float(((const S *)v.dy)[r * v.cols + i]);
        const float xhat = (to_float(((const S *)v.x)[r * v.cols + i]) - mean) * rstd;
        weighted = fmaf(dy, xhat, weighted);
        sum += dy;
    }
    weighted = lane_sum(s, 0, weighted);
    sum = lane_sum(s, 1, sum);
    if (lane || !mine) return;
    v.partial[(blockIdx.y * 2) * v.cols + i] = weighted;
    v.partial[(blockIdx.y * 2 + 1) * v.cols + i] = sum;
}

/* dx (+)= gain rstd (dy - mean(dy) - xhat mean(dy xhat)), the means 0 without train. */
template <typename S, int N> __global__ void __launch_bounds__(THREADS) input_gradient(batch_norm v)
{
    const int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    if (at >= v.rows * v.cols) return;
    const int64_t i = at % v.cols;
    const float inverse = v.train ? 1 / (float)v.all : 0;
    float dy[N], x[N], before[N];
    to_floats(dy, load<S, N>((const S *)v.dy + at));
    to_floats(x, load<S, N>((const S *)v.x + at));
    if (v.add) to_floats(before, load<S, N>((const S *)v.to + at));
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float rstd = v.rstd[i + k], xhat = (x[k] - v.mean[i + k]) * rstd;
        const float m = v.used[v.cols + i + k] * inverse, w = v.used[i + k] * inverse;
        const float d = v.gain[i + k] * rstd * (dy[k] - m - xhat * w);
        dy[k] = v.add ? before[k] + d : d;
    }
    store<S, N>((S *)v.to + at, from_floats<S, N>(dy));
}

__global__ void __launch_bounds__(THREADS)
    state_terms(float *mean_to, float *var_to, float *count_to, const float *mean, const float *var,
                const float *seed, float unbias, int64_t cols, unsigned add)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= cols) return;
    if (mean_to) mean_to[i] = (add & 1 ? mean_to[i] : 0) + *seed * mean[i];
    if (var_to) var_to[i] = (add & 2 ? var_to[i] : 0) + *seed * unbias * var[i];
    if (count_to && i == 0) *count_to = (add & 4 ? *count_to : 0) + *seed;
}

/* Parts of at least 256 rows, at most PK_CUDA_PARTS blocks in all: it depends on shapes alone. */
int64_t parts_of(int64_t rows, int64_t cols)
{
    const int64_t tiles = (cols + CHANNELS - 1) / CHANNELS;
    return PK_MAX(PK_MIN((rows + 255) / 256, PK_CUDA_PARTS / tiles), 1);
}

size_t workspace_of(const struct pk_value *x)
{
    const int64_t rows = pk_view_rows(x), cols = pk_view_cols(x);
    return (size_t)(2 * cols * (parts_of(rows, cols) + 1)) * sizeof(float);
}

batch_norm norm_of(const struct pk_call *c, const struct pk_value *x)
{
    batch_norm v = {};
    v.rows = v.all = pk_view_rows(x), v.cols = pk_view_cols(x);
    const int64_t most = parts_of(v.rows, v.cols);
    v.range = (v.rows + most - 1) / most;
    v.parts = (v.rows + v.range - 1) / v.range;
    v.used = (float *)c->workspace, v.partial = v.used + 2 * v.cols;
    v.eps = c->node->attr.batchnorm.eps, v.train = c->node->attr.batchnorm.train;
    return v;
}

dim3 part_grid(const batch_norm &v)
{
    return dim3((unsigned)((v.cols + CHANNELS - 1) / CHANNELS), (unsigned)v.parts);
}

unsigned flat_grid(const batch_norm &v, int N)
{
    const int64_t each = (int64_t)THREADS * N;
    return (unsigned)((v.rows * v.cols + each - 1) / each);
}

/* The ranks that v's rows are normalised with, or NULL. */
const struct pk_joined *ranks_of(const struct pk_call *c, const batch_norm &v)
{
    return v.train ? c->joined : NULL;
}

float *row_of(const struct pk_joined *j, int rank, int64_t cols)
{
    return j->all + rank * 2 * cols;
}

/* This rank's parts are merged into its row of what the ranks exchange; the parts that are left to
 * be merged are then the ranks'. */
enum pk_status join(const struct pk_call *c, batch_norm *v, struct pk_err *err)
{
    const struct pk_joined *j = c->joined;
    const unsigned blocks = (unsigned)((v->cols + THREADS - 1) / THREADS);
    v->part = row_of(j, j->rank, v->cols);
    PK_TRY(PK_LAUNCH(merge, blocks, THREADS, 0, c->queue, err, *v));
    v->part = NULL, v->partial = j->all;
    v->range = v->rows, v->parts = j->size, v->rows = v->all = v->rows * j->size;
    return j->gather(j, 2 * v->cols, err);
}

template <typename S>
enum pk_status forward(const struct pk_call *c, const batch_norm &v, struct pk_err *err)
{
    constexpr int N = 16 / sizeof(S);
    const struct pk_queue *q = c->queue;
    batch_norm whole = v;
    if (v.train)
        PK_TRY(PK_LAUNCH((part_statistics<S>), part_grid(v), THREADS, sizeof(lanes), q, err, v));
    if (ranks_of(c, v)) PK_TRY(join(c, &whole, err));
    PK_TRY(
        PK_LAUNCH(merge, (unsigned)((v.cols + THREADS - 1) / THREADS), THREADS, 0, q, err, whole));
    if (v.cols % N == 0)
        return PK_LAUNCH((normalise<S, N>), flat_grid(v, N), THREADS, 0, q, err, v);
    return PK_LAUNCH((normalise<S, 1>), flat_grid(v, 1), THREADS, 0, q, err, v);
}

template <typename S>
enum pk_status backward(const struct pk_call *c, const batch_norm &v, struct pk_err *err)
{
    constexpr int N = 16 / sizeof(S);
    const struct pk_queue *q = c->queue;
    float *const wanted[2] = {(float *)c->dst[1], (float *)c->dst[2]};
    const bool add[2] = {pk_call_accumulates(c, 1), pk_call_accumulates(c, 2)};
    float *const used[2] = {v.used, v.used + v.cols};
    const bool fresh[2] = {false, false};
    PK_TRY(PK_LAUNCH((part_sums<S>), part_grid(v), THREADS, sizeof(lanes), q, err, v));
    if (wanted[0] || wanted[1])
        PK_TRY(pk_cuda_sum_parts_of_two(q, wanted, add, v.partial, v.parts, v.cols, err));
    if (!v.to) return PK_OK;
    if (const struct pk_joined *j = ranks_of(c, v)) {
        float *const mine = row_of(j, j->rank, v.cols), *const row[2] = {mine, mine + v.cols};
        PK_TRY(pk_cuda_sum_parts_of_two(q, row, fresh, v.partial, v.parts, v.cols, err));
        PK_TRY(j->gather(j, 2 * v.cols, err));
        PK_TRY(pk_cuda_sum_parts_of_two(q, used, fresh, j->all, j->size, v.cols, err));
    } else {
        PK_TRY(pk_cuda_sum_parts_of_two(q, used, fresh, v.partial, v.parts, v.cols, err));
    }
    if (v.cols % N == 0)
        return PK_LAUNCH((input_gradient<S, N>), flat_grid(v, N), THREADS, 0, q, err, v);
    return PK_LAUNCH((input_gradient<S, 1>), flat_grid(v, 1), THREADS, 0, q, err, v);
}

} // namespace

extern "C" {

/* in: x, gain, bias, running mean, running variance; out: y, mean, rstd, variance (each of the last
 * three may be absent) */
enum pk_status pk_cuda_batchnorm(const struct pk_call *c, struct pk_err *err)
{
    batch_norm v = norm_of(c, c->in[0]);
    v.x = c->src[0], v.gain = (const float *)c->src[1], v.bias = (const float *)c->src[2];
    v.mean = (const float *)c->src[3], v.var = (const float *)c->src[4];
    v.to = c->dst[0];
    for (int k = 0; k < 3; k++) v.saved[k] = (float *)c->dst[k + 1];
    return c->in[0]->dtype == PK_BF16 ? forward<bf16>(c, v, err) : forward<float>(c, v, err);
}

/* in: dy, x, gain, mean, rstd; out: dx, dgain, dbias, each may be absent, all accumulating */
enum pk_status pk_cuda_batchnorm_grad(const struct pk_call *c, struct pk_err *err)
{
    batch_norm v = norm_of(c, c->in[0]);
    v.dy = c->src[0], v.x = c->src[1], v.gain = (const float *)c->src[2];
    v.mean = (const float *)c->src[3], v.rstd = (const float *)c->src[4];
    v.to = c->dst[0], v.add = pk_call_accumulates(c, 0);
    if (const struct pk_joined *j = ranks_of(c, v)) v.all = v.rows * j->size;
    return c->in[0]->dtype == PK_BF16 ? backward<bf16>(c, v, err) : backward<float>(c, v, err);
}

/* in: mean, variance, seed; out: terms of the running statistics, accumulating */
enum pk_status pk_cuda_batchnorm_state(const struct pk_call *c, struct pk_err *err)
{
    const int64_t cols = pk_view_cols(c->in[0]);
    const int64_t rows = c->node->attr.batchnorm.rows * (c->joined ? c->joined->size : 1);
    const float unbias = (float)((double)rows / (double)(rows - 1));
    return PK_LAUNCH(state_terms, (unsigned)((cols + THREADS - 1) / THREADS), THREADS, 0, c->queue,
                     err, (float *)c->dst[0], (float *)c->dst[1], (float *)c->dst[2],
                     (const float *)c->src[0], (const float *)c->src[1], (const float *)c->src[2],
                     unbias, cols, (unsigned)c->node->accumulate);
}

size_t pk_cuda_batchnorm_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    return workspace_of(&p->value[n->in[0]]);
}

size_t pk_cuda_batchnorm_grad_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    return workspace_of(&p->value[n->in[0]]);
}

size_t pk_cuda_batchnorm_state_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    (void)p, (void)n;
    return 0;
}
}
