/* loss.cu -- the loss of predicted features and the statistics that watch for collapse.
 *
 * Sums are in double and in an order that depends on the shape alone: each block adds up a fixed
 * share and leaves one number (per column) in the workspace, and a last small kernel adds those, so
 * that a loss compares between runs and devices of one kind to the last bit.
 *
 * Bytes per value, and the time at 4.3 TB/s for the 2,048 x 160 x 384 predictions of ViT-S in bf16
 * (126 M values; float doubles it):
 *     l1_loss          2 S read                     503 MB  117 us
 *     l1_loss_grad     2 S read, 1 S written        755 MB  176 us
 *     feature_moments  1 S read                     252 MB   59 us
 * The sums cost a conversion to double for every value, 16 per clock and SM: 34 us on 132 SMs,
 * hidden behind the loads. */
#include "cuda/entry.h"

extern "C" {
#include "core/view.h"
}

namespace
{

enum {
    THREADS = 256,
    SUM_PARTS = 1024,   // at most: 8 blocks on each of 132 SMs at once
    MOMENT_PARTS = 264, // at most: 2 blocks on each of 132 SMs, whose sums fill the registers
    MOMENT_TILE = 8     // columns of a block of the last kernel, 32 lanes each
};

struct block_sums {
    double of_warp[32];
};

/* The block's sum goes to its place in partial. */
__device__ __forceinline__ void leave_part(double sum, double *partial)
{
    PK_SHARED(block_sums, scratch);
    sum = block_sum(sum, scratch.of_warp);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/* loss = sum of the parts / count; one block. */
__global__ void __launch_bounds__(THREADS)
    finish_sum(float *loss, const double *partial, int32_t parts, double count)
{
    PK_SHARED(block_sums, scratch);
    double sum = 0;
    for (int32_t p = threadIdx.x; p < parts; p += THREADS) sum += partial[p];
    sum = block_sum(sum, scratch.of_warp);
    if (threadIdx.x == 0) *loss = (float)(sum / count);
}

/* Blocks for work that comes in `units` of one thread each. */
int32_t parts_of(int64_t units)
{
    const int64_t blocks = (units + THREADS - 1) / THREADS;
    return (int32_t)PK_MAX(PK_MIN(blocks, (int64_t)SUM_PARTS), 1);
}

/* partial[block] = sum |x - target| over the block's pieces of 16 bytes and, for the last few
 * values, its thread 0 of block 0. */
template <typename S>
__global__ void __launch_bounds__(THREADS, 8)
    l1_parts(double *partial, const S *x, const S *target, int64_t count)
{
    enum { V = 16 / sizeof(S) };
    const int64_t stride = (int64_t)gridDim.x * THREADS;
    const int64_t me = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    double sum = 0;
#pragma unroll 2
    for (int64_t p = me; p < count / V; p += stride) {
        const vec<S, V> a = load<S, V>(x + p * V), b = load<S, V>(target + p * V);
#pragma unroll
        for (int k = 0; k < V; k++) sum += (double)fabsf(to_float(a.at[k]) - to_float(b.at[k]));
    }
    if (me == 0)
        for (int64_t i = count / V * V; i < count; i++)
            sum += (double)fabsf(to_float(x[i]) - to_float(target[i]));
    leave_part(sum, partial);
}

/* scale * sign(x - target) with sign(0) = 0 as PyTorch has it, on top of `before`. */
template <typename S>
__device__ __forceinline__ S l1_slope(S x, S target, float scale, float before)
{
    const float a = to_float(x), b = to_float(target);
    return from_float<S>(before + (a > b ? scale : a < b ? -scale : 0.0f));
}

template <typename S, bool Add>
__global__ void __launch_bounds__(THREADS)
    l1_slopes(S *dx, const S *x, const S *target, const float *seed, int64_t count)
{
    enum { V = 16 / sizeof(S) };
    const int64_t p = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (p * V >= count) return;
    const float scale = *seed / (float)count;
    if ((p + 1) * V > count) {
        for (int64_t i = p * V; i < count; i++)
            dx[i] = l1_slope(x[i], target[i], scale, Add ? to_float(dx[i]) : 0.0f);
        return;
    }
    const vec<S, V> a = load<S, V>(x + p * V), b = load<S, V>(target + p * V);
    vec<S, V> d;
    if (Add) d = load<S, V>(dx + p * V);
#pragma unroll
    for (int k = 0; k < V; k++)
        d.at[k] = l1_slope(a.at[k], b.at[k], scale, Add ? to_float(d.at[k]) : 0.0f);
    store<S, V>(dx + p * V, d);
}

/* The columns and rows of one block of moment_parts. A row is cut into pieces of V columns; up to
 * 256 pieces of a row make a tile. Threads are pieces of a tile x lanes of rows, so that a narrow
 * matrix is read as it lies. */
struct moments {
    const void *x;   // [rows, cols], S
    double *partial; // [parts][2][cols]: sums of x - first row, and of its square
    float *y;        // [2, cols]
    int64_t rows, cols;
    int32_t pieces, parts; // of a tile; of the rows
};

template <typename S, int V> struct moment_scratch {
    double sum[THREADS], square[THREADS]; // of one column of every piece
};

/* The distance to the first row is taken in float, where it is exact for the near-constant columns
 * that collapse makes, and summed in double. 4 V registers of sums and V of the first row. */
template <typename S, int V>
__global__ void __launch_bounds__(THREADS) moment_parts(const moments a)
{
    typedef moment_scratch<S, V> both;
    PK_SHARED(both, scratch);
    const int lanes = THREADS / a.pieces, lane = threadIdx.x / a.pieces;
    const int64_t at = ((int64_t)blockIdx.y * a.pieces + threadIdx.x % a.pieces) * V;
    const bool mine = lane < lanes && at < a.cols;
    const int64_t per_part = (a.rows + a.parts - 1) / a.parts;
    const int64_t to = min(a.rows, (blockIdx.x + (int64_t)1) * per_part);
    const S *const x = (const S *)a.x + at;
    double sum[V] = {}, square[V] = {};
    if (mine) {
        const vec<S, V> first = load<S, V>(x);
#pragma unroll 4
        for (int64_t r = blockIdx.x * per_part + lane; r < to; r += lanes) {
            const vec<S, V> row = load<S, V>(x + r * a.cols);
#pragma unroll
            for (int k = 0; k < V; k++) {
                const double d = (double)(to_float(row.at[k]) - to_float(first.at[k]));
                sum[k] += d;
                square[k] += d * d;
            }
        }
    }
    double *const out = a.partial + blockIdx.x * 2 * a.cols + at;
#pragma unroll
    for (int k = 0; k < V; k++) {
        scratch.sum[threadIdx.x] = sum[k];
        scratch.square[threadIdx.x] = square[k];
        __syncthreads();
        if (mine && lane == 0) {
            double s = sum[k], q = square[k];
            for (int l = 1; l < lanes; l++) {
                s += scratch.sum[threadIdx.x + l * a.pieces];
                q += scratch.square[threadIdx.x + l * a.pieces];
            }
            out[k] = s;
            out[a.cols + k] = q;
        }
        __syncthreads();
    }
}

struct moment_tile {
    double sum[PK_WARP][MOMENT_TILE], square[PK_WARP][MOMENT_TILE];
};

/* A block per MOMENT_TILE columns (64 bytes of a part); lane l adds parts l, l + 32 ..., then the
 * lanes are added in order. */
template <typename S> __global__ void __launch_bounds__(THREADS) finish_moments(const moments a)
{
    PK_SHARED(moment_tile, scratch);
    const int c = threadIdx.x % MOMENT_TILE, lane = threadIdx.x / MOMENT_TILE;
    const int64_t col = (int64_t)blockIdx.x * MOMENT_TILE + c;
    double sum = 0, square = 0;
    if (col < a.cols) {
#pragma unroll 4
        for (int64_t p = lane; p < a.parts; p += PK_WARP) {
            sum += a.partial[p * 2 * a.cols + col];
            square += a.partial[(p * 2 + 1) * a.cols + col];
        }
    }
    scratch.sum[lane][c] = sum;
    scratch.square[lane][c] = square;
    __syncthreads();
    if (lane || col >= a.cols) return;
    for (int l = 1; l < PK_WARP; l++) {
        sum += scratch.sum[l][c];
        square += scratch.square[l][c];
    }
    const double mean = sum / (double)a.rows;
    const double var = square / (double)a.rows - mean * mean;
    a.y[col] = (float)((double)to_float(((const S *)a.x)[col]) + mean);
    a.y[a.cols + col] = (float)(var < 0 ? 0 : var); // NaN stays
}

/* Row shares: at least 16 rows a lane, so that small inputs do not drown in partial sums. */
int32_t moment_part_count(int64_t rows, int64_t cols)
{
    const int64_t parts = (rows * cols + (16 * 8 * THREADS - 1)) / (16 * 8 * THREADS);
    return (int32_t)PK_MAX(PK_MIN(PK_MIN(parts, rows), (int64_t)MOMENT_PARTS), 1);
}

template <typename S, int V>
enum pk_status launch_moments(const struct pk_queue *q, moments a, struct pk_err *err)
{
    const int64_t pieces = a.cols / V, tiles = (pieces + THREADS - 1) / THREADS;
    a.pieces = (int32_t)((pieces + tiles - 1) / tiles);
    const dim3 grid((unsigned)a.parts, (unsigned)tiles, 1);
    PK_TRY(PK_LAUNCH((moment_parts<S, V>), grid, THREADS, sizeof(moment_scratch<S, V>), q, err, a));
    const unsigned blocks = (unsigned)((a.cols + MOMENT_TILE - 1) / MOMENT_TILE);
    return PK_LAUNCH(finish_moments<S>, blocks, THREADS, sizeof(moment_tile), q, err, a);
}

/* Pieces are 16 bytes where rows allow it, else single values. */
template <typename S>
enum pk_status feature_moments(const struct pk_queue *q, const moments &a, struct pk_err *err)
{
    enum { V = 16 / sizeof(S) };
    if (a.cols % V == 0) return launch_moments<S, V>(q, a, err);
    return launch_moments<S, 1>(q, a, err);
}

enum pk_status finish(const struct pk_call *c, int32_t parts, double count, struct pk_err *err)
{
    return PK_LAUNCH(finish_sum, 1, THREADS, sizeof(block_sums), c->queue, err, (float *)c->dst[0],
                     (const double *)c->workspace, parts, count);
}

template <typename S> enum pk_status l1_loss(const struct pk_call *c, struct pk_err *err)
{
    const int64_t count = pk_view_count(c->in[0]);
    const int32_t parts = parts_of(count * (int64_t)sizeof(S) / 16);
    PK_TRY(PK_LAUNCH(l1_parts<S>, (unsigned)parts, THREADS, sizeof(block_sums), c->queue, err,
                     (double *)c->workspace, (const S *)c->src[0], (const S *)c->src[1], count));
    return finish(c, parts, (double)count, err);
}

template <typename S> enum pk_status l1_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    const int64_t count = pk_view_count(c->out[0]), pieces = (count * (int64_t)sizeof(S) + 15) / 16;
    const unsigned grid = (unsigned)((pieces + THREADS - 1) / THREADS);
    S *const dx = (S *)c->dst[0];
    const S *const x = (const S *)c->src[0], *const target = (const S *)c->src[1];
    const float *const seed = (const float *)c->src[2];
    if (pk_call_accumulates(c, 0))
        return PK_LAUNCH((l1_slopes<S, true>), grid, THREADS, 0, c->queue, err, dx, x, target, seed,
                         count);
    return PK_LAUNCH((l1_slopes<S, false>), grid, THREADS, 0, c->queue, err, dx, x, target, seed,
                     count);
}

} // namespace

extern "C" {

/* Scratch: one partial number per block for the loss. */
PK_CUDA_ENTRY(l1_loss, SUM_PARTS)
PK_CUDA_ENTRY(l1_loss_grad, 0)

enum pk_status pk_cuda_feature_moments(const struct pk_call *c, struct pk_err *err);
size_t pk_cuda_feature_moments_workspace(const struct pk_prog *p, const struct pk_node *n);

enum pk_status pk_cuda_feature_moments(const struct pk_call *c, struct pk_err *err)
{
    moments a = {};
    a.x = c->src[0];
    a.partial = (double *)c->workspace;
    a.y = (float *)c->dst[0];
    a.rows = pk_view_rows(c->in[0]);
    a.cols = pk_view_cols(c->in[0]);
    a.parts = moment_part_count(a.rows, a.cols);
    if (c->in[0]->dtype == PK_BF16) return feature_moments<bf16>(c->queue, a, err);
    return feature_moments<float>(c->queue, a, err);
}

size_t pk_cuda_feature_moments_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *x = &p->value[n->in[0]];
    const int64_t cols = pk_view_cols(x);
    return (size_t)(moment_part_count(pk_view_rows(x), cols) * 2 * cols) * sizeof(double);
}

} // extern "C"
