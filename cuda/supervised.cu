/* supervised.cu -- losses against labels and targets, some of which may be missing (core/ops.h).
 *
 * A classifier's batch is a few thousand rows, 20 KB to 1 MB: the time is that of two launches,
 * some 5 us, so all is in double as on the CPU. Sums are taken in an order that depends on the
 * shape alone: each block leaves its loss and its divisor in the workspace, and a last small kernel
 * adds those. */
#include "cuda/entry.h"
#include "cuda/fault.h"
#include "cuda/rng.h" // PK_INLINE

extern "C" {
#include "core/supervised_inline.h"
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, WARPS = THREADS / PK_WARP, PARTS = 256 };

struct block_sums {
    double of_warp[32];
};

struct supervised {
    const void *x;     // [rows, cols] predictions, S
    const void *label; // [rows, cols] labels or targets: bytes, or floats
    bool bytes, target;
    const float *positive, *weight; // [cols], or NULL: ones
    int64_t rows, cols;
    union pk_attr attr;
    struct pk_cuda_fault *fault;
    int32_t node;
};

struct sums {
    double loss, divisor;
};

/* The block's sums go to their place in partial [2][gridDim.x]. */
__device__ __forceinline__ void leave_part(const sums &s, double *partial)
{
    PK_SHARED(block_sums, scratch);
    const double loss = block_sum(s.loss, scratch.of_warp);
    __syncthreads();
    const double divisor = block_sum(s.divisor, scratch.of_warp);
    if (threadIdx.x) return;
    partial[blockIdx.x] = loss;
    partial[gridDim.x + blockIdx.x] = divisor;
}

/* loss = sum of the losses / sum of the divisors, 0 where there are none; one block. */
__global__ void __launch_bounds__(THREADS)
    finish_mean(float *loss, float *divisor, const double *partial, int32_t parts)
{
    PK_SHARED(block_sums, scratch);
    sums s = {};
    for (int32_t p = threadIdx.x; p < parts; p += THREADS) {
        s.loss += partial[p];
        s.divisor += partial[parts + p];
    }
    s.loss = block_sum(s.loss, scratch.of_warp);
    __syncthreads();
    s.divisor = block_sum(s.divisor, scratch.of_warp);
    if (threadIdx.x) return;
    *loss = s.divisor > 0 ? (float)(s.loss / s.divisor) : 0.0f;
    *divisor = (float)s.divisor;
}

template <typename S> __device__ __forceinline__ double prediction(const supervised &a, int64_t i)
{
    return (double)to_float(((const S *)a.x)[i]);
}

/* Label or target i, NaN where it is not known. A label outside [0, 1] is a fault and counts as 0.
 */
__device__ __forceinline__ double known_at(const supervised &a, int64_t i)
{
    double y;
    if (a.bytes) {
        const uint8_t label = ((const uint8_t *)a.label)[i];
        y = label == PK_LABEL_MISSING ? (double)NAN : (double)label;
    } else {
        y = (double)((const float *)a.label)[i];
    }
    if (a.target || (y >= 0 && y <= 1) || isnan(y)) return y;
    raise_fault(a.fault, PK_FAULT_LABEL, a.node, i / a.cols, (int64_t)fmin(fmax(y, -1e9), 1e9));
    return 0;
}

__device__ __forceinline__ double weight_at(const float *weight, int64_t k)
{
    return weight ? (double)weight[k] : 1;
}

/* What gradients are multiplied with. */
__device__ __forceinline__ double scale_of(const float *divisor, const float *seed)
{
    return *divisor > 0 ? (double)*seed / (double)*divisor : 0;
}

template <typename S>
__device__ __forceinline__ void put_slope(S *dx, int64_t i, bool add, double slope)
{
    dx[i] = from_float<S>((add ? to_float(dx[i]) : 0.0f) + (float)slope);
}

/* Multi-label and regression: entries by themselves. Loss of entry i, which is known to be y, or
 * its slope. */
template <typename S>
__device__ __forceinline__ double entry_loss(const supervised &a, int64_t i, double y,
                                             double *slope)
{
    const int64_t k = i % a.cols;
    const double x = prediction<S>(a, i), weight = weight_at(a.weight, k);
    if (a.target) {
        double by_x,
            loss = weight * pk_distance_loss(a.attr.regression.kind,
                                             (double)a.attr.regression.delta, x - y, &by_x);
        if (slope) *slope = weight * by_x;
        return loss;
    }
    const double alpha = (double)a.attr.multilabel.alpha,
                 smoothing = (double)a.attr.multilabel.smoothing;
    struct pk_focal f;
    f.gamma_positive = (double)a.attr.multilabel.gamma_positive;
    f.gamma_negative = (double)a.attr.multilabel.gamma_negative;
    f.margin = (double)a.attr.multilabel.margin;
    f.positive = (alpha > 0 ? alpha : 1) * weight * weight_at(a.positive, k);
    f.negative = (alpha > 0 ? 1 - alpha : 1) * weight;
    return pk_focal_loss(&f, x, y * (1 - smoothing) + smoothing / 2, slope);
}

template <typename S>
__global__ void __launch_bounds__(THREADS, 1) entry_parts(double *partial, const supervised a)
{
    const int64_t count = a.rows * a.cols, stride = (int64_t)gridDim.x * THREADS;
    sums s = {};
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        const double y = known_at(a, i);
        if (isnan(y)) continue;
        s.loss += entry_loss<S>(a, i, y, NULL);
        s.divisor++;
    }
    leave_part(s, partial);
}

template <typename S>
__global__ void __launch_bounds__(THREADS, 1)
    entry_slopes(S *dx, const supervised a, const float *divisor, const float *seed, bool add)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.rows * a.cols) return;
    const double y = known_at(a, i);
    double slope = 0;
    if (!isnan(y)) entry_loss<S>(a, i, y, &slope);
    put_slope(dx, i, add, scale_of(divisor, seed) * slope);
}

/* Multi-class: a warp per row. */
struct row_sums {
    double labels, weight; // sum of the labels, mean weight of them; 0 for a row left out
    double lse, pull;      // log sum exp of the logits; sum of the weighted labels, smoothed
};

__device__ __forceinline__ double smooth(const supervised &a, double y)
{
    const double smoothing = (double)a.attr.multiclass.smoothing;
    return y * (1 - smoothing) + smoothing / (double)a.cols;
}

/* The same in all lanes. A NaN among the logits does not reach the maximum, but it reaches the sum;
 * one among the labels leaves the row out. */
template <typename S> __device__ __forceinline__ row_sums row_of(const supervised &a, int64_t r)
{
    const int lane = threadIdx.x % PK_WARP;
    float top = -INFINITY;
    double sum = 0, weight = 0;
    row_sums row = {};
    for (int64_t k = lane; k < a.cols; k += PK_WARP) {
        const double y = known_at(a, r * a.cols + k), w = weight_at(a.weight, k);
        top = fmaxf(top, to_float(((const S *)a.x)[r * a.cols + k]));
        row.labels += y;
        weight += w * y;
        row.pull += w * smooth(a, y);
    }
    top = warp_max(top);
    for (int64_t k = lane; k < a.cols; k += PK_WARP)
        sum += exp(prediction<S>(a, r * a.cols + k) - (double)top);
    row.labels = warp_sum(row.labels);
    weight = warp_sum(weight);
    row.pull = warp_sum(row.pull);
    row.lse = (double)top + log(warp_sum(sum));
    if (row.labels > 0)
        row.weight = weight / row.labels;
    else
        row = {};
    return row;
}

/* One block per SM is asked for, since the compiler would else spill to fit more of them. */
template <typename S>
__global__ void __launch_bounds__(THREADS, 1) row_parts(double *partial, const supervised a)
{
    const int lane = threadIdx.x % PK_WARP;
    sums s = {};
    for (int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / PK_WARP; r < a.rows;
         r += (int64_t)gridDim.x * WARPS) {
        const row_sums row = row_of<S>(a, r);
        if (lane == 0) s.divisor += row.weight;
        for (int64_t k = lane; row.labels > 0 && k < a.cols; k += PK_WARP) {
            const int64_t i = r * a.cols + k;
            s.loss += weight_at(a.weight, k) * smooth(a, known_at(a, i)) *
                      (row.lse - prediction<S>(a, i));
        }
    }
    leave_part(s, partial);
}

template <typename S>
__global__ void __launch_bounds__(THREADS, 1)
    row_slopes(S *dx, const supervised a, const float *divisor, const float *seed, bool add)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / PK_WARP;
    if (r >= a.rows) return; // a whole warp
    const double scale = scale_of(divisor, seed);
    const row_sums row = row_of<S>(a, r);
    for (int64_t k = threadIdx.x % PK_WARP; k < a.cols; k += PK_WARP) {
        const int64_t i = r * a.cols + k;
        double slope = 0;
        if (row.labels > 0)
            slope = scale * (row.pull * exp(prediction<S>(a, i) - row.lse) -
                             weight_at(a.weight, k) * smooth(a, known_at(a, i)));
        put_slope(dx, i, add, slope);
    }
}

/* weight: the input slot of class_weight or weight. */
supervised supervised_of(const struct pk_call *c, int weight)
{
    supervised a = {};
    a.x = c->src[0];
    a.label = c->src[1];
    a.bytes = c->in[1]->dtype == PK_U8;
    a.weight = (const float *)c->src[weight];
    a.rows = pk_view_rows(c->in[0]);
    a.cols = pk_view_cols(c->in[0]);
    a.attr = c->node->attr;
    a.fault = c->queue->fault;
    a.node = c->node->scope;
    return a;
}

/* A loss whose work comes in `units` of one thread each. */
enum pk_status mean_loss(const struct pk_call *c, const supervised &a,
                         void (*kernel)(double *, supervised), int64_t units, struct pk_err *err)
{
    const int64_t blocks = (units + THREADS - 1) / THREADS;
    const int32_t parts = (int32_t)PK_MAX(PK_MIN(blocks, (int64_t)PARTS), 1);
    double *const partial = (double *)c->workspace;
    PK_TRY(
        PK_LAUNCH(kernel, (unsigned)parts, THREADS, sizeof(block_sums), c->queue, err, partial, a));
    return PK_LAUNCH(finish_mean, 1, THREADS, sizeof(block_sums), c->queue, err, (float *)c->dst[0],
                     (float *)c->dst[1], (const double *)partial, parts);
}

template <typename S>
enum pk_status slopes(const struct pk_call *c, const supervised &a,
                      void (*kernel)(S *, supervised, const float *, const float *, bool),
                      int64_t units, struct pk_err *err)
{
    const unsigned grid = (unsigned)((units + THREADS - 1) / THREADS);
    const int seed = c->node->n_in - 1;
    return PK_LAUNCH(kernel, grid, THREADS, 0, c->queue, err, (S *)c->dst[0], a,
                     (const float *)c->src[seed - 1], (const float *)c->src[seed],
                     pk_call_accumulates(c, 0));
}

template <typename S> enum pk_status multilabel_loss(const struct pk_call *c, struct pk_err *err)
{
    supervised a = supervised_of(c, 3);
    a.positive = (const float *)c->src[2];
    return mean_loss(c, a, entry_parts<S>, a.rows * a.cols, err);
}

template <typename S>
enum pk_status multilabel_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    supervised a = supervised_of(c, 3);
    a.positive = (const float *)c->src[2];
    return slopes<S>(c, a, entry_slopes<S>, a.rows * a.cols, err);
}

template <typename S> enum pk_status multiclass_loss(const struct pk_call *c, struct pk_err *err)
{
    const supervised a = supervised_of(c, 2);
    return mean_loss(c, a, row_parts<S>, a.rows * PK_WARP, err);
}

template <typename S>
enum pk_status multiclass_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    const supervised a = supervised_of(c, 2);
    return slopes<S>(c, a, row_slopes<S>, a.rows * PK_WARP, err);
}

template <typename S> enum pk_status regression_loss(const struct pk_call *c, struct pk_err *err)
{
    supervised a = supervised_of(c, 2);
    a.target = true;
    return mean_loss(c, a, entry_parts<S>, a.rows * a.cols, err);
}

template <typename S>
enum pk_status regression_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    supervised a = supervised_of(c, 2);
    a.target = true;
    return slopes<S>(c, a, entry_slopes<S>, a.rows * a.cols, err);
}

} // namespace

extern "C" {

/* Scratch: two partial numbers per block for a loss. */
PK_CUDA_ENTRY(multilabel_loss, 2 * PARTS)
PK_CUDA_ENTRY(multilabel_loss_grad, 0)
PK_CUDA_ENTRY(multiclass_loss, 2 * PARTS)
PK_CUDA_ENTRY(multiclass_loss_grad, 0)
PK_CUDA_ENTRY(regression_loss, 2 * PARTS)
PK_CUDA_ENTRY(regression_loss_grad, 0)

} // extern "C"
