/* koleo.cu -- KoLeo: every row away from its nearest row (core/ops.h).
 *
 * Nearest rows are found by differences, not by a product of the rows: between rows that nearly
 * collapsed, which is what the loss is against, |x|^2 + |y|^2 - 2 xy cancels.
 *
 * Determinism: every sum has a fixed order that depends on the shapes alone; no atomics. */
#include "cuda/row_losses.h"

namespace
{

enum { TILE = 64, DEPTH = 16 };

struct neighbour {
    float square; // of the distance
    int32_t row;
};

struct koleo {
    const void *x;     // [rows, cols]
    neighbour *part;   // [tiles, own rows]: nearest row among each tile's
    pk_told_row *told; // [rows]
    int64_t rows, cols;
    int64_t first, count; // this rank's
    int32_t tiles;
    float eps;
};

struct koleo_tile {
    float a[DEPTH][TILE + 4], b[DEPTH][TILE + 4];
};

/* The 16 columns from k on of 64 rows, turned. */
template <typename S>
__device__ __forceinline__ void stage(float (*to)[TILE + 4], const koleo &a, int64_t row, int64_t k)
{
    const int r = threadIdx.x / 4, first = threadIdx.x % 4 * 4;
    const S *const x = (const S *)a.x + (row + r) * a.cols;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int64_t col = k + first + i;
        to[first + i][r] = row + r < a.rows && col < a.cols ? to_float(x[col]) : 0.0f;
    }
}

__device__ __forceinline__ bool nearer(const neighbour &a, const neighbour &b)
{
    return a.square < b.square || (a.square == b.square && a.row < b.row);
}

/* 64 rows against 64 rows, 4 x 4 distances a thread. */
template <typename S> __global__ void __launch_bounds__(THREADS) nearest_in_tile(const koleo a)
{
    PK_SHARED(koleo_tile, s);
    const int64_t row = a.first + (int64_t)blockIdx.x * TILE, col = (int64_t)blockIdx.y * TILE;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    float d[4][4] = {};
    for (int64_t k = 0; k < a.cols; k += DEPTH) {
        stage<S>(s.a, a, row, k);
        stage<S>(s.b, a, col, k);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            const vec<float, 4> p = load<float, 4>(&s.a[i][4 * y]);
            const vec<float, 4> q = load<float, 4>(&s.b[i][4 * x]);
#pragma unroll
            for (int e = 0; e < 16; e++) {
                const float gap = p.at[e / 4] - q.at[e % 4];
                d[e / 4][e % 4] += gap * gap;
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int64_t i = row + 4 * y + r;
        neighbour best = {INFINITY, INT32_MAX};
        for (int e = 0; e < 4; e++) {
            const int64_t j = col + 4 * x + e;
            const neighbour one = {d[r][e], (int32_t)j};
            if (j < a.rows && j != i && nearer(one, best)) best = one;
        }
        for (int lane = 8; lane > 0; lane /= 2) { // over the 16 lanes of the row
            neighbour other;
            other.square = __shfl_xor_sync(0xffffffffu, best.square, lane);
            other.row = __shfl_xor_sync(0xffffffffu, best.row, lane);
            if (nearer(other, best)) best = other;
        }
        if (x == 0 && i - a.first < a.count) a.part[blockIdx.y * a.count + i - a.first] = best;
    }
}

/* A row without any finite distance has NaN for one. */
__global__ void __launch_bounds__(THREADS) finish_nearest(const koleo a)
{
    const int64_t r = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = a.first + r;
    if (r >= a.count) return;
    neighbour best = {INFINITY, INT32_MAX};
    for (int32_t t = 0; t < a.tiles; t++) {
        const neighbour one = a.part[t * a.count + r];
        if (nearer(one, best)) best = one;
    }
    const bool found = best.row < a.rows;
    const float distance = found ? sqrtf(best.square) : nanf("");
    a.told[i].of[0] = found ? (float)best.row : i == 0;
    a.told[i].of[1] = distance;
    a.told[i].term = -log((double)distance + (double)a.eps);
}

struct koleo_grad {
    const void *x;          // [rows, cols]
    const int32_t *nearest; // [rows]
    const float *distance;  // [rows]
    const float *seed;
    void *dx;
    int64_t rows, cols, first; // first: of this rank's
    float weight, eps;
    bool add;
};

/* A block per row, a thread per column. All warps go over the rows whose nearest row this is, 32 at
 * a time, in order: rows / 32 votes, 128 at 4,096 rows. */
template <typename S> __global__ void __launch_bounds__(THREADS) koleo_slopes(const koleo_grad a)
{
    const int64_t i = a.first + blockIdx.x;
    const int lane = threadIdx.x % PK_WARP;
    const S *const x = (const S *)a.x;
    for (int64_t first = 0; first < a.cols; first += THREADS) {
        const int64_t col = first + threadIdx.x;
        const bool mine = col < a.cols;
        const float here = mine ? to_float(x[i * a.cols + col]) : 0.0f;
        float sum = 0;
        for (int64_t r0 = 0; r0 < a.rows; r0 += PK_WARP) {
            const int64_t r = r0 + lane;
            const bool hit = r < a.rows && (r == i || a.nearest[r] == i);
            for (uint32_t left = __ballot_sync(0xffffffffu, hit); left; left &= left - 1) {
                const int64_t row = r0 + __ffs((int)left) - 1;
                const int64_t other = row == i ? a.nearest[i] : row;
                const float d = a.distance[row];
                if (d == 0 || other < 0 || other >= a.rows || !mine) continue;
                sum += (here - to_float(x[other * a.cols + col])) / (d * (d + a.eps));
            }
        }
        if (!mine) continue;
        S *const dx = (S *)a.dx + i * a.cols + col;
        sum *= -*a.seed * a.weight / (float)a.rows;
        *dx = from_float<S>(a.add ? to_float(*dx) + sum : sum);
    }
}

koleo koleo_sizes(const struct pk_node *n, const struct pk_value *x, char *base, size_t *bytes)
{
    koleo a = {};
    *bytes = 0;
    a.rows = pk_view_rows(x);
    a.cols = pk_view_cols(x);
    a.count = a.rows / n->attr.koleo.ranks;
    a.tiles = (int32_t)((a.rows + TILE - 1) / TILE);
    a.part = carve<neighbour>(base, bytes, (size_t)(a.tiles * a.count));
    a.told = carve<pk_told_row>(base, bytes, (size_t)a.rows);
    return a;
}

template <typename S> enum pk_status koleo_loss(const struct pk_call *c, struct pk_err *err)
{
    const int32_t ranks = c->node->attr.koleo.ranks;
    size_t bytes;
    koleo a = koleo_sizes(c->node, c->in[0], (char *)c->workspace, &bytes);
    a.x = c->src[0];
    a.first = pk_call_first_row(c, ranks, a.rows);
    a.told = told_rows(c, ranks, a.told);
    a.eps = c->node->attr.koleo.eps;
    const dim3 grid((unsigned)((a.count + TILE - 1) / TILE), (unsigned)a.tiles, 1);
    PK_TRY(PK_LAUNCH(nearest_in_tile<S>, grid, THREADS, sizeof(koleo_tile), c->queue, err, a));
    PK_TRY(PK_LAUNCH(finish_nearest, blocks_of(a.count), THREADS, 0, c->queue, err, a));
    return take(c, a.told, ranks, a.rows, c->node->attr.koleo.weight, NULL, (int32_t *)c->dst[1],
                (float *)c->dst[2], err);
}

template <typename S> enum pk_status koleo_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    koleo_grad a = {};
    a.x = c->src[0];
    a.nearest = (const int32_t *)c->src[1];
    a.distance = (const float *)c->src[2];
    a.seed = (const float *)c->src[3];
    a.dx = c->dst[0];
    a.rows = pk_view_rows(c->in[0]);
    a.cols = pk_view_cols(c->in[0]);
    a.weight = c->node->attr.koleo.weight;
    a.eps = c->node->attr.koleo.eps;
    a.add = pk_call_accumulates(c, 0);
    const int32_t ranks = c->node->attr.koleo.ranks;
    const int64_t count = a.rows / ranks;
    a.first = pk_call_first_row(c, ranks, a.rows);
    PK_TRY(clear_others(c, 0, a.first, count, err));
    return PK_LAUNCH(koleo_slopes<S>, (unsigned)count, THREADS, 0, c->queue, err, a);
}

} // namespace

extern "C" {

#define PK_KOLEO_OP(name)                                                                          \
    enum pk_status pk_cuda_##name(const struct pk_call *c, struct pk_err *err);                    \
    size_t pk_cuda_##name##_workspace(const struct pk_prog *p, const struct pk_node *n)
PK_KOLEO_OP(koleo_loss);
PK_KOLEO_OP(koleo_loss_grad);
#undef PK_KOLEO_OP

enum pk_status pk_cuda_koleo_loss(const struct pk_call *c, struct pk_err *err)
{
    return c->in[0]->dtype == PK_BF16 ? koleo_loss<bf16>(c, err) : koleo_loss<float>(c, err);
}

size_t pk_cuda_koleo_loss_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    size_t bytes;
    koleo_sizes(n, &p->value[n->in[0]], NULL, &bytes);
    return bytes;
}

enum pk_status pk_cuda_koleo_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    return c->in[0]->dtype == PK_BF16 ? koleo_loss_grad<bf16>(c, err)
                                      : koleo_loss_grad<float>(c, err);
}

size_t pk_cuda_koleo_loss_grad_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

} // extern "C"
