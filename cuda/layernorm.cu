/* layernorm.cu -- layer normalisation over the last axis, alone and behind a residual addition; its
 * gradient is in layernorm_grad.cu.
 *
 *     y = xhat * gain + bias,  xhat = (x - mean) * rstd,  rstd = 1 / sqrt(var + eps),  var with 1/n
 *
 * Memory traffic with storage S, and the time at 4.3 TB/s for 411,648 rows (2048 records of 201
 * tokens) of 192 bf16, 79 M elements:
 *     layernorm       read x, write y                        4 B per element + 8 B per row   74 us
 *     add_layernorm   read a, b, write the sum, y            8 B                            148 us
 *
 * A row stays in registers (row.h), so the variance is taken from deviations, without cancellation,
 * in one pass over memory. Rows that do not fit take the general kernel at the end, which reads a
 * row again from the caches. */
#include "cuda/row.h"

extern "C" {
#include "core/view.h"
}

namespace
{

/* total / cols, rounded once: the product alone is off by up to 1.5 units in the last place, which
 * a mean far from zero would carry into every deviation. */
__device__ __forceinline__ float mean_of(float total, float cols, float inverse)
{
    const float mean = total * inverse;
    return fmaf(fmaf(-mean, cols, total), inverse, mean);
}

struct forward {
    const void *a, *b;        // x is a, or a + b where b is given
    const float *gain, *bias; // [cols]; bias may be NULL
    void *sum, *y;            // sum: a + b in storage precision
    float *mean, *rstd;       // [rows]; each may be NULL
    int64_t rows;
    int cols;
    float eps, inverse; // inverse: 1 / cols
};

/* x = a + b as it is stored, so that backward sees the row that was normalised. */
template <typename S, int V, int L>
__device__ __forceinline__ void add_share(const forward &f, share<V> &a, const share<V> &b,
                                          int64_t at, bool valid)
{
    constexpr int N = 16 / sizeof(S);
    const int lane = threadIdx.x % L;
#pragma unroll
    for (int v = 0; v < V; v++) {
        float x[N], y[N];
        unpack(x, a.at[v]);
        unpack(y, b.at[v]);
        for (int i = 0; i < N; i++) x[i] += y[i];
        a.at[v] = pack(x);
        if (valid && (v * L + lane) * N < f.cols) store_words((S *)f.sum + at + v * L * N, a.at[v]);
    }
}

/* 1 / sqrt(x) to the last place or nearly: one Newton step on the special function unit's answer,
 * in a fifth of the instructions of the exact root and quotient, which count once per row. */
__device__ __forceinline__ float inverse_root(float x)
{
    const float r = rsqrtf(x);
    return fmaf(r * 0.5f, fmaf(-x * r, r, 1), r);
}

/* Mean and rstd of the row that the group's lanes hold; lanes beyond its end hold zeros. */
template <typename S, int V, int L>
__device__ __forceinline__ statistics row_statistics(const forward &f, const share<V> &x)
{
    constexpr int N = 16 / sizeof(S);
    const int lane = threadIdx.x % L;
    float sum = 0, spread = 0;
#pragma unroll
    for (int v = 0; v < V; v++) {
        float y[N];
        unpack(y, x.at[v]);
        for (int i = 0; i < N; i++) sum += y[i];
    }
    const float mean = mean_of(group_sum<L>(sum), (float)f.cols, f.inverse);
#pragma unroll
    for (int v = 0; v < V; v++) {
        float y[N], part = 0;
        unpack(y, x.at[v]);
        for (int i = 0; i < N; i++) part = fmaf(y[i] - mean, y[i] - mean, part);
        spread += (v * L + lane) * N < f.cols ? part : 0;
    }
    return {mean, inverse_root(group_sum<L>(spread) * f.inverse + f.eps)};
}

template <int N>
__device__ __forceinline__ void normalise_values(float (&x)[N], const statistics &s,
                                                 const affine<N> &a)
{
    for (int i = 0; i < N; i++) x[i] = fmaf((x[i] - s.mean) * s.rstd, a.gain[i], a.bias[i]);
}

/* What is read of a row. */
template <int V> struct row_data {
    share<V> a, b;
};
template <typename S, int V, int L, bool ADD>
__device__ __forceinline__ row_data<V> load_data(const forward &f, int64_t at, bool valid)
{
    row_data<V> d;
    d.a = load_share<S, V, L>(f.a, at, f.cols, valid);
    if (ADD) d.b = load_share<S, V, L>(f.b, at, f.cols, valid);
    return d;
}

/* Gain and bias stay in registers when a lane has one vector, else they come from the first-level
 * cache: 8 bytes per element there, where 128 bytes per clock go through, against 18 of memory. The
 * next row is on its way while one is worked on, where registers allow. A row of 192 takes about
 * 110 instructions, 28 of an SM's clocks; its 776 bytes take 42. */
template <typename S, int V, int L, bool ADD>
__global__ void __launch_bounds__(ROW_THREADS, V == 1 ? 4 : 2) normalise(forward f)
{
    constexpr int N = 16 / sizeof(S);
    constexpr bool ahead = V <= 2;
    const int lane = threadIdx.x % L;
    affine<N> own;
    if (V == 1) load_affine<N>(own, f.gain, f.bias, lane * N, f.cols);
    walk w = walk_rows<N, L>(f.rows, f.cols);
    row_data<V> next;
    if (ahead) next = load_data<S, V, L, ADD>(f, w.at, w.mine > 0);
    for (int r = 0; r < w.rounds; r++) {
        const bool valid = r < w.mine;
        row_data<V> d = ahead ? next : load_data<S, V, L, ADD>(f, w.at, valid);
        if (ahead) next = load_data<S, V, L, ADD>(f, w.at + w.stride, r + 1 < w.mine);
        if (ADD) add_share<S, V, L>(f, d.a, d.b, w.at, valid);
        const statistics s = row_statistics<S, V, L>(f, d.a);
        if (valid && lane == 0) {
            if (f.mean) f.mean[w.row] = s.mean;
            if (f.rstd) f.rstd[w.row] = s.rstd;
        }
#pragma unroll
        for (int v = 0; v < V; v++) {
            const int column = (v * L + lane) * N;
            float y[N];
            if (V > 1) load_affine<N>(own, f.gain, f.bias, column, f.cols);
            unpack(y, d.a.at[v]);
            normalise_values(y, s, own);
            if (valid && column < f.cols) store_words((S *)f.y + w.at + v * L * N, pack(y));
        }
        walk_on(w);
    }
}

/* Any number of columns: one warp per row, N elements per lane at a time (N divides cols). A lane
 * reads again only what itself has written, so the sum needs no barrier. */
template <typename S, int N>
__global__ void __launch_bounds__(ROW_THREADS) normalise_any(forward f, const void *x)
{
    const int lane = threadIdx.x % PK_WARP;
    const int64_t row = (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / PK_WARP;
    const float cols = (float)f.cols;
    float sum = 0, spread = 0;
    if (row >= f.rows) return;
    for (int i = (int)lane * N; i < f.cols; i += PK_WARP * N) {
        float a[N], b[N];
        load_row<S, N>(a, f.a, row, f.cols, i);
        if (f.b) {
            load_row<S, N>(b, f.b, row, f.cols, i);
            for (int k = 0; k < N; k++) a[k] += b[k];
            const vec<S, N> stored = from_floats<S, N>(a);
            store<S, N>((S *)f.sum + row * f.cols + i, stored);
            to_floats(a, stored);
        }
        for (int k = 0; k < N; k++) sum += a[k];
    }
    statistics s = {warp_sum(sum) / cols, 0};
    for (int i = (int)lane * N; i < f.cols; i += PK_WARP * N) {
        float a[N];
        load_row<S, N>(a, x, row, f.cols, i);
        for (int k = 0; k < N; k++) spread = fmaf(a[k] - s.mean, a[k] - s.mean, spread);
    }
    s.rstd = inverse_root(warp_sum(spread) / cols + f.eps);
    if (f.mean && lane == 0) f.mean[row] = s.mean;
    if (f.rstd && lane == 0) f.rstd[row] = s.rstd;
    for (int i = (int)lane * N; i < f.cols; i += PK_WARP * N) {
        affine<N> own;
        load_affine<N>(own, f.gain, f.bias, i, f.cols);
        float y[N];
        load_row<S, N>(y, x, row, f.cols, i);
        normalise_values(y, s, own);
        store<S, N>((S *)f.y + row * f.cols + i, from_floats<S, N>(y));
    }
}

unsigned blocks_for(int64_t rows, int64_t per_block, int64_t most)
{
    return (unsigned)PK_MIN((rows + per_block - 1) / per_block, most);
}

template <typename S, int V, int L>
enum pk_status forward_rows(const struct pk_queue *q, const forward &f, struct pk_err *err)
{
    const unsigned blocks = blocks_for(f.rows, ROW_THREADS / L, q->sms * 8);
    if (f.b) return PK_LAUNCH((normalise<S, V, L, true>), blocks, ROW_THREADS, 0, q, err, f);
    return PK_LAUNCH((normalise<S, V, L, false>), blocks, ROW_THREADS, 0, q, err, f);
}

template <typename S>
enum pk_status forward_of(const struct pk_queue *q, const forward &f, struct pk_err *err)
{
    constexpr int N = 16 / sizeof(S);
    const int vectors = f.cols / N;
    const bool whole = f.cols % N == 0;
    if (whole && f.cols <= ROW_COLS) {
        if (vectors <= 16) return forward_rows<S, 1, 16>(q, f, err);
        if (vectors <= 32) return forward_rows<S, 1, 32>(q, f, err);
        if (vectors <= 64) return forward_rows<S, 2, 32>(q, f, err);
        if (vectors <= 96) return forward_rows<S, 3, 32>(q, f, err);
        if (vectors <= 128) return forward_rows<S, 4, 32>(q, f, err);
        if constexpr (sizeof(S) == sizeof(float)) {
            if (vectors <= 192) return forward_rows<S, 6, 32>(q, f, err);
            return forward_rows<S, 8, 32>(q, f, err);
        }
    }
    const void *x = f.b ? f.sum : f.a;
    const unsigned blocks = (unsigned)((f.rows + ROW_WARPS - 1) / ROW_WARPS);
    if (whole) return PK_LAUNCH((normalise_any<S, N>), blocks, ROW_THREADS, 0, q, err, f, x);
    return PK_LAUNCH((normalise_any<S, 1>), blocks, ROW_THREADS, 0, q, err, f, x);
}

/* first: input that holds the gain; in: x (or a, b), gain, bias; out: (the sum,) y, mean, rstd. */
enum pk_status run_forward(const struct pk_call *c, int first, struct pk_err *err)
{
    const int out = first - 1;
    forward f = {};
    f.a = c->src[0];
    f.b = first == 2 ? c->src[1] : NULL;
    f.gain = (const float *)c->src[first];
    f.bias = (const float *)c->src[first + 1];
    f.sum = first == 2 ? c->dst[0] : NULL;
    f.y = c->dst[out];
    f.mean = (float *)c->dst[out + 1];
    f.rstd = (float *)c->dst[out + 2];
    f.rows = pk_view_rows(c->in[0]);
    f.cols = (int)pk_view_cols(c->in[0]);
    f.eps = c->node->attr.layernorm.eps;
    f.inverse = 1 / (float)f.cols;
    if (c->in[0]->dtype == PK_BF16) return forward_of<bf16>(c->queue, f, err);
    return forward_of<float>(c->queue, f, err);
}

} // namespace

extern "C" size_t pk_cuda_layernorm_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

extern "C" enum pk_status pk_cuda_layernorm(const struct pk_call *c, struct pk_err *err)
{
    return run_forward(c, 1, err);
}

extern "C" size_t pk_cuda_add_layernorm_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

extern "C" enum pk_status pk_cuda_add_layernorm(const struct pk_call *c, struct pk_err *err)
{
    return run_forward(c, 2, err);
}
