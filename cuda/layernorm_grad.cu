/* layernorm_grad.cu -- gradient of layer normalisation: dx, dgain and dbias in one pass.
 *
 *     dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),  g = dy * gain
 *     dgain = sum over rows of dy * xhat,  dbias = sum over rows of dy
 *
 * Memory traffic with storage S, and the time at 4.3 TB/s for 411,648 rows of 192 bf16:
 *     read dy, x, write dx     6 B per element + 8 B per row    111 us
 *     the same, adding to dx   8 B                              148 us
 * The partial sums, 396 * 2 * 192 * 4 B = 0.6 MB, stay in the L2 cache. */
#include "cuda/reduce.h"
#include "cuda/row.h"

extern "C" {
#include "core/view.h"
}

namespace
{

struct backward {
    const void *dy, *x;              // [rows, cols]
    const float *gain, *mean, *rstd; // [cols], [rows], [rows]
    void *dx;                        // may be NULL
    float *partial;                  // [blocks][2][cols] of dgain and dbias, or NULL
    int64_t rows;
    int cols;
    float inverse; // 1 / cols
};

/* What the second half needs to know of a row: dx = rstd * g - slope * xhat - shift, which is
 * rstd * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * gain. */
struct row_terms {
    float mean, rstd, slope, shift;
};

/* First half: adds the row's part of dgain and dbias to the lane's sums, and finds the terms. */
template <typename S, int V, int L>
__device__ __forceinline__ row_terms grad_terms(const backward &a, const share<V> &dy,
                                                const share<V> &x, const statistics &s,
                                                const affine<16 / sizeof(S)> &own,
                                                const float *gain, float *dgain, float *dbias)
{
    constexpr int N = 16 / sizeof(S);
    float g_sum = 0, gx_sum = 0;
#pragma unroll
    for (int v = 0; v < V; v++) {
        affine<N> loaded;
        float dy_v[N], x_v[N];
        unpack(dy_v, dy.at[v]);
        unpack(x_v, x.at[v]);
        if (V > 1) load_affine<N>(loaded, gain, NULL, (v * L + (int)threadIdx.x % L) * N, a.cols);
#pragma unroll
        for (int i = 0; i < N; i++) {
            // Lanes beyond the row's end have dy = 0 and gain = 0, and add nothing.
            const float d = dy_v[i], xhat = (x_v[i] - s.mean) * s.rstd;
            const float g = d * (V > 1 ? loaded.gain[i] : own.gain[i]);
            dgain[v * N + i] = fmaf(d, xhat, dgain[v * N + i]);
            dbias[v * N + i] += d;
            g_sum += g;
            gx_sum = fmaf(g, xhat, gx_sum);
        }
    }
    const float scale = s.rstd * a.inverse; // a division here would cost a call and its registers
    return {s.mean, s.rstd, scale * group_sum<L>(gx_sum), scale * group_sum<L>(g_sum)};
}

/* Second half: dx, from the row as it was loaded. */
template <typename S, int V, int L, bool ADD>
__device__ __forceinline__ void
grad_store(const backward &a, int64_t at, const row_terms &t, const share<V> &dy, const share<V> &x,
           const share<V> &before, const affine<16 / sizeof(S)> &own, const float *gain)
{
    constexpr int N = 16 / sizeof(S);
#pragma unroll
    for (int v = 0; v < V; v++) {
        const int column = (v * L + (int)threadIdx.x % L) * N;
        S *const dx = (S *)a.dx + at + v * L * N;
        affine<N> loaded;
        float d[N], dy_v[N], x_v[N], before_v[N];
        unpack(dy_v, dy.at[v]);
        unpack(x_v, x.at[v]);
        if (ADD && V > 2 && column < a.cols)
            unpack(before_v, *reinterpret_cast<const words *>(dx));
        else if (ADD)
            unpack(before_v, before.at[v]);
        if (V > 1) load_affine<N>(loaded, gain, NULL, column, a.cols);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float g = dy_v[i] * (V > 1 ? loaded.gain[i] : own.gain[i]);
            d[i] = fmaf(g, t.rstd, -t.shift);
            d[i] = fmaf((x_v[i] - t.mean) * t.rstd, -t.slope, d[i]);
            if (ADD) d[i] += before_v[i];
        }
        if (column < a.cols) store_words(dx, pack(d));
    }
}

/* Adds the groups' sums in order and writes one row of the block's partial sums. */
template <int V, int N, int L>
__device__ __forceinline__ void write_partial(float *partial, float *scratch, const float *sum,
                                              int cols)
{
    const int lane = threadIdx.x % L, group = threadIdx.x / L;
#pragma unroll
    for (int v = 0; v < V; v++)
        if ((v * L + lane) * N < cols)
            for (int i = 0; i < N; i++)
                scratch[group * cols + (v * L + lane) * N + i] = sum[v * N + i];
    __syncthreads();
    for (int c = threadIdx.x; c < cols; c += ROW_THREADS) {
        float total = scratch[c];
        for (int g = 1; g < ROW_THREADS / L; g++) total += scratch[g * cols + c];
        partial[c] = total;
    }
    __syncthreads();
}

/* A lane's share of a row of everything that is read. */
template <int V> struct row_data {
    share<V> dy, x, before;
    statistics s;
};

template <typename S, int V, int L, bool ADD>
__device__ __forceinline__ row_data<V> load_data(const backward &a, const walk &w, int next, int r)
{
    const bool valid = r < w.mine;
    const int64_t at = w.at + next * w.stride, row = w.row + next * w.step;
    row_data<V> d;
    d.dy = load_share<S, V, L>(a.dy, at, a.cols, valid);
    d.x = load_share<S, V, L>(a.x, at, a.cols, valid);
    if (ADD && V <= 2) d.before = load_share<S, V, L>(a.dx, at, a.cols, valid);
    d.s = {valid ? a.mean[row] : 0, valid ? a.rstd[row] : 0};
    return d;
}

/* Registers for E = V * N elements per lane: the two sums 2 E; dy, x and the old dx, 3 E floats or
 * half as many pairs of bf16, twice where the next row is fetched ahead. For bf16 that is 40 at 192
 * columns, 80 at 384 and, without fetching ahead, 84 at 768: three blocks per SM (80 registers) and
 * two (128; there the old dx comes in late, to stay within them). Then 27 KB per SM (192 columns)
 * are on the way at any time; 22 KB would do for reads at three quarters of 4.3 TB/s and 900 ns of
 * latency. A row of 192 takes about 200 instructions, 50 of an SM's clocks; its 1544 bytes take 83.
 */
template <typename S, int E>
constexpr int blocks_per_sm = sizeof(S) == sizeof(bf16) ? (E <= 8    ? 3
                                                           : E <= 24 ? 2
                                                                     : 1)
                                                        : (E <= 4    ? 3
                                                           : E <= 16 ? 2
                                                                     : 1);

template <typename S, int V, int L, bool ADD>
__global__ void __launch_bounds__(ROW_THREADS, (blocks_per_sm<S, V *(16 / (int)sizeof(S))>))
    normalise_grad(backward a)
{
    constexpr int N = 16 / sizeof(S), E = V * N;
    constexpr bool ahead = V <= 2;
    PK_SHARED(float, scratch); // the gain where a lane has several vectors; then [groups][cols]
    const int lane = threadIdx.x % L;
    affine<N> own;
    if (V == 1) load_affine<N>(own, a.gain, NULL, lane * N, a.cols);
    for (int c = threadIdx.x; V > 1 && c < a.cols; c += ROW_THREADS) (&scratch)[c] = a.gain[c];
    __syncthreads();
    float dgain[E] = {}, dbias[E] = {};
    walk w = walk_rows<N, L>(a.rows, a.cols);
    row_data<V> next;
    if (ahead) next = load_data<S, V, L, ADD>(a, w, 0, 0);
    for (int r = 0; r < w.rounds; r++) {
        row_data<V> d = ahead ? next : load_data<S, V, L, ADD>(a, w, 0, r);
        if (ahead) next = load_data<S, V, L, ADD>(a, w, 1, r + 1);
        const row_terms t = grad_terms<S, V, L>(a, d.dy, d.x, d.s, own, &scratch, dgain, dbias);
        if (a.dx && r < w.mine)
            grad_store<S, V, L, ADD>(a, w.at, t, d.dy, d.x, d.before, own, &scratch);
        walk_on(w);
    }
    __syncthreads(); // the gain in scratch is done with
    if (!a.partial) return;
    float *partial = a.partial + 2 * blockIdx.x * a.cols;
    write_partial<V, N, L>(partial, &scratch, dgain, a.cols);
    write_partial<V, N, L>(partial + a.cols, &scratch, dbias, a.cols);
}

struct eight_rows {
    float mean[ROW_WARPS], rstd[ROW_WARPS], g[ROW_WARPS], gx[ROW_WARPS];
};

/* Means of g and g * xhat of one row, by one warp. */
template <typename S, int N>
__device__ void warp_means(const backward &a, eight_rows &e, int w, int64_t row)
{
    const statistics s = {a.mean[row], a.rstd[row]};
    float g_sum = 0, gx_sum = 0;
    for (int i = (int)threadIdx.x % PK_WARP * N; i < a.cols; i += PK_WARP * N) {
        float dy[N], x[N], gain[N];
        load_row<S, N>(dy, a.dy, row, a.cols, i);
        load_row<S, N>(x, a.x, row, a.cols, i);
        load_floats<N>(gain, a.gain + i);
        for (int k = 0; k < N; k++) {
            g_sum += dy[k] * gain[k];
            gx_sum = fmaf(dy[k] * gain[k], (x[k] - s.mean) * s.rstd, gx_sum);
        }
    }
    g_sum = warp_sum(g_sum) / (float)a.cols;
    gx_sum = warp_sum(gx_sum) / (float)a.cols;
    if (threadIdx.x % PK_WARP != 0) return;
    e.mean[w] = s.mean;
    e.rstd[w] = s.rstd;
    e.g[w] = g_sum;
    e.gx[w] = gx_sum;
}

/* dx, dgain, dbias of columns i to i + N of `rows` rows from row `first` on, by one thread. */
template <typename S, int N>
__device__ void grad_columns(const backward &a, const eight_rows &e, int64_t first, int rows, int i,
                             float (&dgain)[N], float (&dbias)[N], bool add)
{
    float gain[N];
    load_floats<N>(gain, a.gain + i);
    for (int r = 0; r < rows; r++) {
        float dy[N], x[N], before[N] = {}, d[N];
        load_row<S, N>(dy, a.dy, first + r, a.cols, i);
        load_row<S, N>(x, a.x, first + r, a.cols, i);
        if (add) load_row<S, N>(before, a.dx, first + r, a.cols, i);
        for (int k = 0; k < N; k++) {
            const float xhat = (x[k] - e.mean[r]) * e.rstd[r];
            d[k] = before[k] + e.rstd[r] * (dy[k] * gain[k] - e.g[r] - xhat * e.gx[r]);
            dgain[k] = fmaf(dy[k], xhat, dgain[k]);
            dbias[k] += dy[k];
        }
        if (a.dx) store<S, N>((S *)a.dx + (first + r) * a.cols + i, from_floats<S, N>(d));
    }
}

/* A block takes eight rows at a time: first one warp per row for the means, then each thread owns
 * columns, whose sums it adds to the block's partial row, read and written once per eight rows. */
template <typename S, int N>
__global__ void __launch_bounds__(ROW_THREADS) normalise_grad_any(backward a, bool add)
{
    PK_SHARED(eight_rows, e);
    const int64_t own = (int64_t)blockIdx.x * ROW_WARPS;
    float *partial = a.partial ? a.partial + 2 * blockIdx.x * a.cols : NULL;
    for (int64_t first = own; first < a.rows; first += (int64_t)gridDim.x * ROW_WARPS) {
        const int w = threadIdx.x / PK_WARP, rows = (int)min((int64_t)ROW_WARPS, a.rows - first);
        __syncthreads(); // the rows before are done with
        if (w < rows) warp_means<S, N>(a, e, w, first + w);
        __syncthreads();
        for (int i = (int)threadIdx.x * N; i < a.cols; i += ROW_THREADS * N) {
            float dgain[N] = {}, dbias[N] = {};
            if (partial && first > own) {
                load_floats<N>(dgain, partial + i);
                load_floats<N>(dbias, partial + a.cols + i);
            }
            grad_columns<S, N>(a, e, first, rows, i, dgain, dbias, add);
            for (int k = 0; partial && k < N; k++) {
                partial[i + k] = dgain[k];
                partial[a.cols + i + k] = dbias[k];
            }
        }
    }
}

/* Partial rows of the gradient, at least 32 rows each: as many blocks as 132 SMs (H100, H200) hold
 * at once in bf16. A constant, since workspaces are planned without a device. */
int64_t grad_parts(int64_t rows, int64_t cols)
{
    const int64_t most = 132 * (cols <= 256 ? 3 : 2);
    return PK_MIN((rows + 31) / 32, most);
}

template <typename S, int V, int L>
enum pk_status backward_rows(const struct pk_queue *q, const backward &a, bool add,
                             struct pk_err *err)
{
    const unsigned blocks = (unsigned)grad_parts(a.rows, a.cols);
    const size_t shared = (size_t)(ROW_THREADS / L * a.cols) * sizeof(float);
    if (add)
        return PK_LAUNCH((normalise_grad<S, V, L, true>), blocks, ROW_THREADS, shared, q, err, a);
    return PK_LAUNCH((normalise_grad<S, V, L, false>), blocks, ROW_THREADS, shared, q, err, a);
}

template <typename S>
enum pk_status backward_of(const struct pk_queue *q, const backward &a, bool add,
                           struct pk_err *err)
{
    constexpr int N = 16 / sizeof(S);
    const int vectors = a.cols / N;
    const bool whole = a.cols % N == 0;
    if (whole && a.cols <= ROW_COLS) {
        if (vectors <= 16) return backward_rows<S, 1, 16>(q, a, add, err);
        if (vectors <= 32) return backward_rows<S, 1, 32>(q, a, add, err);
        if (vectors <= 64) return backward_rows<S, 2, 32>(q, a, add, err);
        if (vectors <= 96) return backward_rows<S, 3, 32>(q, a, add, err);
        if (vectors <= 128) return backward_rows<S, 4, 32>(q, a, add, err);
        if constexpr (sizeof(S) == sizeof(float)) {
            if (vectors <= 192) return backward_rows<S, 6, 32>(q, a, add, err);
            return backward_rows<S, 8, 32>(q, a, add, err);
        }
    }
    const unsigned blocks = (unsigned)grad_parts(a.rows, a.cols);
    const size_t shared = sizeof(eight_rows);
    if (whole)
        return PK_LAUNCH((normalise_grad_any<S, N>), blocks, ROW_THREADS, shared, q, err, a, add);
    return PK_LAUNCH((normalise_grad_any<S, 1>), blocks, ROW_THREADS, shared, q, err, a, add);
}

} // namespace

extern "C" size_t pk_cuda_layernorm_grad_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *x = &p->value[n->in[1]];
    const int64_t rows = pk_view_rows(x), cols = pk_view_cols(x);
    return (size_t)(grad_parts(rows, cols) * 2 * cols) * sizeof(float);
}

/* in: dy, x, gain, mean, rstd; out: dx, dgain, dbias. */
extern "C" enum pk_status pk_cuda_layernorm_grad(const struct pk_call *c, struct pk_err *err)
{
    float *const sums[2] = {(float *)c->dst[1], (float *)c->dst[2]};
    const bool wanted = sums[0] || sums[1];
    const bool accumulate[2] = {pk_call_accumulates(c, 1), pk_call_accumulates(c, 2)};
    const bool add = c->dst[0] && pk_call_accumulates(c, 0);
    backward a = {};
    a.dy = c->src[0];
    a.x = c->src[1];
    a.gain = (const float *)c->src[2];
    a.mean = (const float *)c->src[3];
    a.rstd = (const float *)c->src[4];
    a.dx = c->dst[0];
    a.partial = wanted ? (float *)c->workspace : NULL;
    a.rows = pk_view_rows(c->in[1]);
    a.cols = (int)pk_view_cols(c->in[1]);
    a.inverse = 1 / (float)a.cols;
    PK_TRY(c->in[1]->dtype == PK_BF16 ? backward_of<bf16>(c->queue, a, add, err)
                                      : backward_of<float>(c->queue, a, add, err));
    if (!wanted) return PK_OK;
    return pk_cuda_sum_parts_of_two(c->queue, sums, accumulate, a.partial,
                                    grad_parts(a.rows, a.cols), a.cols, err);
}
