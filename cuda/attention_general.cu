/* attention_general.cu -- self-attention on CUDA cores: float storage, and bf16 heads that the
 * tensor cores do not take (not a multiple of 8, or beyond 128).
 *
 * A block of 256 threads has 32 own rows of one head and walks over the other side in chunks of 32
 * rows, all in shared memory as float, heads padded with zeros to WIDE columns. Two kinds of
 * product, both in float and in a fixed order:
 *   scores   32 x 32: a thread makes 2 x 2, four columns of the head at a time, 16 multiply-adds
 *            for four 16-byte loads; rows are WIDE + 4 floats apart, an odd number of 16 bytes, so
 *            that neighbouring rows are in different banks
 *   sums     32 x WIDE += 32 x 32 times the chunk: a thread makes WIDE / 32 times four neighbouring
 *            columns
 * The forward pass keeps a running maximum and sum per row; the backward pass recomputes the
 * probabilities from lse, once with keys as own rows (dK, dV) and once with queries (dQ). */
#include "cuda/attention.h"

namespace
{

enum { ROWS = 32, THREADS = 256, PAIR_STRIDE = ROWS + 4 };

/* to[ROWS][WIDE + 4] = `valid` rows of `head` columns; the rest zero. */
template <int WIDE, typename T>
__device__ __forceinline__ void fetch(float *to, const T *from, int stride, int valid, int head)
{
    for (int i = (int)threadIdx.x; i < ROWS * WIDE; i += THREADS) {
        const int row = i / WIDE, column = i % WIDE;
        to[row * (WIDE + 4) + column] =
            row < valid && column < head ? to_float(from[row * stride + column]) : 0;
    }
}

/* s[2 * i + j] = row (own + 16 i) of a times row (other + 16 j) of b; own = thread / 16, other =
 * thread % 16. */
template <int WIDE>
__device__ __forceinline__ void score(float (&s)[4], const float *a, const float *b)
{
    constexpr int stride = WIDE + 4;
    a += (int)threadIdx.x / 16 * stride;
    b += (int)threadIdx.x % 16 * stride;
    for (int i = 0; i < 4; i++) s[i] = 0;
#pragma unroll 4
    for (int c = 0; c < WIDE; c += 4) {
        const vec<float, 4> x[2] = {load<float, 4>(a + c), load<float, 4>(a + 16 * stride + c)};
        const vec<float, 4> y[2] = {load<float, 4>(b + c), load<float, 4>(b + 16 * stride + c)};
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int k = 0; k < 4; k++) s[i] = fmaf(x[i / 2].at[k], y[i % 2].at[k], s[i]);
    }
}

/* c += p[ROWS][PAIR_STRIDE] times x[ROWS][WIDE + 4]: unit u of a thread is row
 * thread / (WIDE / 4) + u * (4 * THREADS / WIDE), columns 4 * (thread % (WIDE / 4)) and on. */
template <int WIDE>
__device__ __forceinline__ void add_product(float (&c)[WIDE / 32][4], const float *p,
                                            const float *x)
{
    constexpr int lines = 4 * THREADS / WIDE;
    p += (int)threadIdx.x / (WIDE / 4) * PAIR_STRIDE;
    x += (int)threadIdx.x % (WIDE / 4) * 4;
#pragma unroll 4
    for (int k = 0; k < ROWS; k++) {
        const vec<float, 4> y = load<float, 4>(x + k * (WIDE + 4));
#pragma unroll
        for (int u = 0; u < WIDE / 32; u++) {
            const float f = p[u * lines * PAIR_STRIDE + k];
#pragma unroll
            for (int i = 0; i < 4; i++) c[u][i] = fmaf(f, y.at[i], c[u][i]);
        }
    }
}

template <int WIDE, typename T>
__device__ __forceinline__ void put(T *to, int stride, int valid, int head,
                                    const float (&c)[WIDE / 32][4], float factor, bool accumulate)
{
    const int column = (int)threadIdx.x % (WIDE / 4) * 4;
#pragma unroll
    for (int u = 0; u < WIDE / 32; u++) {
        const int row = (int)threadIdx.x / (WIDE / 4) + u * (4 * THREADS / WIDE);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (row >= valid || column + i >= head) continue;
            T *at = to + row * stride + column + i;
            const float x = c[u][i] * factor;
            *at = from_float<T>(accumulate ? to_float(*at) + x : x);
        }
    }
}

template <int WIDE> struct general_forward {
    float q[ROWS * (WIDE + 4)], k[ROWS * (WIDE + 4)], v[ROWS * (WIDE + 4)];
    float p[ROWS * PAIR_STRIDE];
    float top[ROWS], sum[ROWS], shrink[ROWS]; // maximum in log 2, sum, factor of what was before
};

/* Rows of scores in `p` (units of log 2) to probabilities of the running maximum; a warp has four
 * rows, a lane one key. */
template <int WIDE>
__device__ __forceinline__ void running_softmax(general_forward<WIDE> &sh, bool there)
{
    const int lane = (int)threadIdx.x % PK_WARP;
    for (int row = (int)threadIdx.x / PK_WARP; row < ROWS; row += THREADS / PK_WARP) {
        const float x = there ? sh.p[row * PAIR_STRIDE + lane] : -INFINITY, before = sh.top[row];
        const float top = fmaxf(before, warp_max(x));
        const float e = there ? exp2f(x - top) : 0, sum = warp_sum(e);
        sh.p[row * PAIR_STRIDE + lane] = e;
        __syncwarp();
        if (lane == 0) {
            sh.top[row] = top;
            sh.shrink[row] = exp2f(before - top);
            sh.sum[row] = sh.sum[row] * sh.shrink[row] + sum;
        }
    }
}

/* blockIdx.y: blocks of ROWS queries. */
template <typename T, int WIDE>
__global__ void __launch_bounds__(THREADS, 1) attention_general(attention_forward a)
{
    using shared = general_forward<WIDE>;
    PK_SHARED(shared, sh);
    const int tid = (int)threadIdx.x, tokens = a.s.tokens, row = (int)blockIdx.y * ROWS;
    const head_view<T> from = view_head<T>(a.s, a.qkv);
    fetch<WIDE>(sh.q, from.q + row * from.stride, from.stride, tokens - row, a.s.head);
    if (tid < ROWS) sh.top[tid] = -INFINITY, sh.sum[tid] = 0;
    float c[WIDE / 32][4];
    clear(c);
    for (int key = 0; key < tokens; key += ROWS) {
        fetch<WIDE>(sh.k, from.k + key * from.stride, from.stride, tokens - key, a.s.head);
        fetch<WIDE>(sh.v, from.v + key * from.stride, from.stride, tokens - key, a.s.head);
        __syncthreads();
        float s[4];
        score<WIDE>(s, sh.q, sh.k);
        for (int i = 0; i < 4; i++)
            sh.p[(tid / 16 + i / 2 * 16) * PAIR_STRIDE + tid % 16 + i % 2 * 16] =
                s[i] * a.s.scale * PK_LOG2E;
        __syncthreads();
        running_softmax<WIDE>(sh, key + tid % PK_WARP < tokens);
        __syncthreads();
#pragma unroll
        for (int u = 0; u < WIDE / 32; u++) {
            const float f = sh.shrink[tid / (WIDE / 4) + u * (4 * THREADS / WIDE)];
            for (int i = 0; i < 4; i++) c[u][i] *= f;
        }
        add_product<WIDE>(c, sh.p, sh.v);
        __syncthreads();
    }
#pragma unroll
    for (int u = 0; u < WIDE / 32; u++) {
        const float f = 1 / sh.sum[tid / (WIDE / 4) + u * (4 * THREADS / WIDE)];
        for (int i = 0; i < 4; i++) c[u][i] *= f;
    }
    put<WIDE>(static_cast<T *>(a.out) + from.out + row * a.s.width, a.s.width, tokens - row,
              a.s.head, c, 1, false);
    if (a.lse && tid < ROWS && row + tid < tokens)
        a.lse[(int64_t)blockIdx.x * tokens + row + tid] =
            (sh.top[tid] + log2f(sh.sum[tid])) * PK_LN2;
}

template <int WIDE> struct general_backward {
    float own1[ROWS * (WIDE + 4)], own2[ROWS * (WIDE + 4)]; // K, V or Q, dO
    float x1[ROWS * (WIDE + 4)], x2[ROWS * (WIDE + 4)];     // the other side
    float p[ROWS * PAIR_STRIDE], ds[ROWS * PAIR_STRIDE];    // own row, other row
    float lse2[ROWS], delta[ROWS];                          // of the queries at hand
};

/* lse in units of log 2 and rowsum(dout * out) of ROWS queries from `first` on; infinity and 0 for
 * those that do not exist. A warp takes four rows. */
template <typename T>
__device__ __forceinline__ void statistics(float *lse2, float *delta, const attention_backward &a,
                                           int64_t at, int first)
{
    const int lane = (int)threadIdx.x % PK_WARP;
    for (int r = (int)threadIdx.x / PK_WARP; r < ROWS; r += THREADS / PK_WARP) {
        const int row = first + r;
        const bool there = row < a.s.tokens;
        const T *dout = static_cast<const T *>(a.dout) + at + row * a.s.width;
        const T *out = static_cast<const T *>(a.out) + at + row * a.s.width;
        float sum = 0;
        for (int i = lane; there && i < a.s.head; i += PK_WARP)
            sum = fmaf(to_float(dout[i]), to_float(out[i]), sum);
        sum = warp_sum(sum);
        if (lane) continue;
        delta[r] = sum;
        lse2[r] = there ? a.lse[(int64_t)blockIdx.x * a.s.tokens + row] * PK_LOG2E : INFINITY;
    }
}

/* P and dS of the own rows against the other ones, to shared memory; `keys` exist. */
template <int WIDE, bool KEYS_OWN>
__device__ __forceinline__ void pair_block(general_backward<WIDE> &sh, int keys, float scale_log2)
{
    float s[4], dp[4];
    score<WIDE>(s, sh.own1, sh.x1);
    score<WIDE>(dp, sh.own2, sh.x2);
    for (int i = 0; i < 4; i++) {
        const int own = (int)threadIdx.x / 16 + i / 2 * 16;
        const int other = (int)threadIdx.x % 16 + i % 2 * 16;
        const int query = KEYS_OWN ? other : own, key = KEYS_OWN ? own : other;
        const float p = key < keys ? exp2f(fmaf(s[i], scale_log2, -sh.lse2[query])) : 0;
        sh.p[own * PAIR_STRIDE + other] = p;
        sh.ds[own * PAIR_STRIDE + other] = p * (dp[i] - sh.delta[query]);
    }
}

/* KEYS_OWN: dK and dV of ROWS keys from ROWS * blockIdx.y on; else dQ of as many queries. */
template <typename T, int WIDE, bool KEYS_OWN>
__global__ void __launch_bounds__(THREADS, 1) attention_general_gradient(attention_backward a)
{
    using shared = general_backward<WIDE>;
    PK_SHARED(shared, sh);
    const int tokens = a.s.tokens, row = (int)blockIdx.y * ROWS, width = a.s.width;
    const head_view<T> from = view_head<T>(a.s, a.qkv);
    const T *const dout = static_cast<const T *>(a.dout) + from.out;
    const T *const own1 = KEYS_OWN ? from.k : from.q, *const own2 = KEYS_OWN ? from.v : dout;
    const T *const x1 = KEYS_OWN ? from.q : from.k, *const x2 = KEYS_OWN ? dout : from.v;
    const int own_stride = KEYS_OWN ? from.stride : width,
              x_stride = KEYS_OWN ? width : from.stride;
    fetch<WIDE>(sh.own1, own1 + row * from.stride, from.stride, tokens - row, a.s.head);
    fetch<WIDE>(sh.own2, own2 + row * own_stride, own_stride, tokens - row, a.s.head);
    if (!KEYS_OWN) statistics<T>(sh.lse2, sh.delta, a, from.out, row);
    float c1[WIDE / 32][4], c2[WIDE / 32][4];
    clear(c1);
    clear(c2);
    for (int at = 0; at < tokens; at += ROWS) {
        fetch<WIDE>(sh.x1, x1 + at * from.stride, from.stride, tokens - at, a.s.head);
        fetch<WIDE>(sh.x2, x2 + at * x_stride, x_stride, tokens - at, a.s.head);
        if (KEYS_OWN) statistics<T>(sh.lse2, sh.delta, a, from.out, at);
        __syncthreads();
        pair_block<WIDE, KEYS_OWN>(sh, tokens - (KEYS_OWN ? row : at), a.s.scale * PK_LOG2E);
        __syncthreads();
        add_product<WIDE>(c1, sh.ds, sh.x1);
        if (KEYS_OWN) add_product<WIDE>(c2, sh.p, sh.x2);
        __syncthreads();
    }
    T *const to = static_cast<T *>(a.dqkv) + from.dqkv + row * 3 * width;
    put<WIDE>(to + (KEYS_OWN ? width : 0), 3 * width, tokens - row, a.s.head, c1, a.s.scale,
              a.accumulate);
    if (KEYS_OWN) put<WIDE>(to + 2 * width, 3 * width, tokens - row, a.s.head, c2, 1, a.accumulate);
}

dim3 grid_of(const attention_shape &s)
{
    return dim3((unsigned)(s.batch * s.heads), (unsigned)((s.tokens + ROWS - 1) / ROWS));
}

template <typename T, int WIDE>
enum pk_status forward(const attention_forward *a, const struct pk_queue *q, struct pk_err *err)
{
    const dim3 grid = grid_of(a->s);
    const size_t bytes = sizeof(general_forward<WIDE>);
    return PK_LAUNCH((attention_general<T, WIDE>), grid, THREADS, bytes, q, err, *a);
}

template <typename T, int WIDE>
enum pk_status backward(const attention_backward *a, const struct pk_queue *q, struct pk_err *err)
{
    const dim3 grid = grid_of(a->s);
    const size_t bytes = sizeof(general_backward<WIDE>);
    PK_TRY(
        PK_LAUNCH((attention_general_gradient<T, WIDE, false>), grid, THREADS, bytes, q, err, *a));
    return PK_LAUNCH((attention_general_gradient<T, WIDE, true>), grid, THREADS, bytes, q, err, *a);
}

} // namespace

enum pk_status attention_forward_general(const struct attention_forward *a, enum pk_dtype type,
                                         const struct pk_queue *q, struct pk_err *err)
{
    const bool f = type == PK_F32;
    if (a->s.head <= 32) return f ? forward<float, 32>(a, q, err) : forward<bf16, 32>(a, q, err);
    if (a->s.head <= 64) return f ? forward<float, 64>(a, q, err) : forward<bf16, 64>(a, q, err);
    if (a->s.head <= 128) return f ? forward<float, 128>(a, q, err) : forward<bf16, 128>(a, q, err);
    return f ? forward<float, 256>(a, q, err) : forward<bf16, 256>(a, q, err);
}

enum pk_status attention_backward_general(const struct attention_backward *a, enum pk_dtype type,
                                          const struct pk_queue *q, struct pk_err *err)
{
    const bool f = type == PK_F32;
    if (a->s.head <= 32) return f ? backward<float, 32>(a, q, err) : backward<bf16, 32>(a, q, err);
    if (a->s.head <= 64) return f ? backward<float, 64>(a, q, err) : backward<bf16, 64>(a, q, err);
    if (a->s.head <= 128)
        return f ? backward<float, 128>(a, q, err) : backward<bf16, 128>(a, q, err);
    return f ? backward<float, 256>(a, q, err) : backward<bf16, 256>(a, q, err);
}
