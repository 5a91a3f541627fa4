/* attention_pool.cu -- pooling of a record's tokens by one learnable query per head, and its
 * gradient. Bound by memory: kv is read once forward, once (twice where dquery is wanted) backward.
 *
 * One block per (record, head). LANES neighbouring lanes hold one token's columns, VEC each (16
 * bytes where rows allow), so a block reads THREADS / LANES tokens at a time; heads wider than
 * LANES * VEC columns are walked in strips. 200 tokens of head 64 in bf16: 8 lanes a token, 32
 * tokens a step, 7 steps of 4 KiB for K and again for V; eight blocks on an SM keep more than the
 * 26 KB in flight that 4.8 TB/s over 132 SMs at 0.7 us needs. */
extern "C" {
#include "core/view.h"
}
#include "cuda/attention.h"
#include "cuda/reduce.h"

namespace
{

enum { THREADS = 256, WARPS = THREADS / PK_WARP };

struct pool {
    int64_t tokens;
    int heads, head, width; // width: heads * head
    float scale;
    const float *query; // [width]
    const void *kv;     // [batch, tokens, 2 width]
    void *out;          // [batch, width]
    float *prob;        // [batch, heads, tokens]
};

struct pool_gradient {
    int64_t tokens;
    int heads, head, width;
    float scale;
    const void *dout; // [batch, width]
    const float *query, *prob;
    const void *kv;
    float *dquery; // [batch, width], one row per record, or NULL
    void *dkv;     // or NULL
    bool accumulate;
};

/* Where a block works: its record's first row of the head in kv, and in [batch, width]. */
struct place {
    int64_t kv, row, prob;
    int column; // of the head
};
template <typename A> __device__ __forceinline__ place place_of(const A &a)
{
    const int64_t record = blockIdx.x / (unsigned)a.heads;
    const int column = (int)(blockIdx.x % (unsigned)a.heads) * a.head;
    return {record * a.tokens * 2 * a.width + column, record * a.width + column,
            (int64_t)blockIdx.x * a.tokens, column};
}

/* Sum over the block's groups of LANES of x, for each lane of a group and each of VEC columns; in
 * the first LANES threads. scratch [WARPS][LANES * VEC]. All threads. */
template <int LANES, int VEC>
__device__ __forceinline__ void sum_groups(float (&x)[VEC], float *scratch)
{
    const int lane = (int)threadIdx.x % PK_WARP, warp = (int)threadIdx.x / PK_WARP;
#pragma unroll
    for (int i = 0; i < VEC; i++)
        for (int d = PK_WARP / 2; d >= LANES; d /= 2) x[i] += __shfl_xor_sync(0xffffffffu, x[i], d);
    __syncthreads(); // the scratch's last readers
    if (lane < LANES)
        for (int i = 0; i < VEC; i++) scratch[(warp * LANES + lane) * VEC + i] = x[i];
    __syncthreads();
    if ((int)threadIdx.x >= LANES) return;
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        x[i] = 0;
        for (int w = 0; w < WARPS; w++) x[i] += scratch[(w * LANES + lane) * VEC + i];
    }
}

/* Sum of x over LANES neighbouring lanes, the same in each. */
template <int LANES> __device__ __forceinline__ float sum_lanes(float x)
{
    for (int d = LANES / 2; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

/* weight[i] = dot of row i of `rows` with the `head` values of f (float in shared memory). */
template <typename T, int LANES, int VEC>
__device__ __forceinline__ void dot_rows(float *weight, const T *rows, int64_t stride,
                                         int64_t tokens, int head, const float *f)
{
    const int at = (int)threadIdx.x % LANES * VEC;
    const int64_t steps = (tokens + THREADS / LANES - 1) / (THREADS / LANES);
#pragma unroll 4
    for (int64_t step = 0; step < steps; step++) {
        const int64_t i = step * (THREADS / LANES) + (int)threadIdx.x / LANES;
        float sum = 0;
        if (i < tokens)
            for (int c = at; c < head; c += LANES * VEC) {
                const vec<T, VEC> x = load<T, VEC>(rows + i * stride + c);
#pragma unroll
                for (int k = 0; k < VEC; k++) sum = fmaf(to_float(x.at[k]), f[c + k], sum);
            }
        sum = sum_lanes<LANES>(sum);
        if (i < tokens && at == 0) weight[i] = sum;
    }
}

__device__ __forceinline__ float block_max(float x, float *scratch)
{
    x = warp_max(x);
    if (threadIdx.x % PK_WARP == 0) scratch[threadIdx.x / PK_WARP] = x;
    __syncthreads();
    x = scratch[0];
    for (int i = 1; i < WARPS; i++) x = fmaxf(x, scratch[i]);
    __syncthreads();
    return x;
}

/* Floats of shared memory: scratch of the sums, the head's vectors, one number per token. */
enum { SCRATCH = WARPS * 32 * 8 };

template <typename T, int LANES, int VEC>
__global__ void __launch_bounds__(THREADS) attention_pool(pool a)
{
    PK_SHARED(float, shared);
    float *const scratch = &shared, *const f = scratch + SCRATCH, *const p = f + a.head;
    const place at = place_of(a);
    const T *const k = static_cast<const T *>(a.kv) + at.kv, *const v = k + a.width;
    for (int c = (int)threadIdx.x; c < a.head; c += THREADS) f[c] = a.query[at.column + c];
    __syncthreads();
    dot_rows<T, LANES, VEC>(p, k, 2 * (int64_t)a.width, a.tokens, a.head, f);
    __syncthreads();

    float top = -INFINITY, sum = 0;
    for (int64_t i = threadIdx.x; i < a.tokens; i += THREADS) top = fmaxf(top, p[i] * a.scale);
    top = block_max(top, scratch);
    for (int64_t i = threadIdx.x; i < a.tokens; i += THREADS)
        sum += p[i] = expf(fmaf(p[i], a.scale, -top));
    sum = block_sum(sum, scratch);
    for (int64_t i = threadIdx.x; i < a.tokens; i += THREADS) a.prob[at.prob + i] = p[i] /= sum;
    __syncthreads();

    const int lane = (int)threadIdx.x % LANES * VEC;
    for (int first = 0; first < a.head; first += LANES * VEC) { // the same in all threads
        float o[VEC] = {};
        if (first + lane < a.head)
#pragma unroll 4
            for (int64_t i = (int)threadIdx.x / LANES; i < a.tokens; i += THREADS / LANES) {
                const vec<T, VEC> x = load<T, VEC>(v + i * 2 * a.width + first + lane);
#pragma unroll
                for (int c = 0; c < VEC; c++) o[c] = fmaf(p[i], to_float(x.at[c]), o[c]);
            }
        sum_groups<LANES, VEC>(o, scratch);
        if ((int)threadIdx.x < LANES && first + lane < a.head)
            for (int c = 0; c < VEC; c++)
                static_cast<T *>(a.out)[at.row + first + lane + c] = from_float<T>(o[c]);
    }
}

/* dkv of one strip of a token: ds times the query, prob times dout. */
template <typename T, int VEC>
__device__ __forceinline__ void put_token(T *to, float factor, const float *f, bool accumulate)
{
    vec<T, VEC> x;
    if (accumulate) x = load<T, VEC>(to);
#pragma unroll
    for (int c = 0; c < VEC; c++)
        x.at[c] = from_float<T>(accumulate ? fmaf(factor, f[c], to_float(x.at[c])) : factor * f[c]);
    store<T, VEC>(to, x);
}

template <typename T, int LANES, int VEC>
__global__ void __launch_bounds__(THREADS) attention_pool_gradient(pool_gradient a)
{
    PK_SHARED(float, shared);
    float *const scratch = &shared, *const f = scratch + SCRATCH, *const g = f + a.head,
                 *const ds = g + a.head;
    const place at = place_of(a);
    const T *const k = static_cast<const T *>(a.kv) + at.kv, *const v = k + a.width;
    for (int c = (int)threadIdx.x; c < a.head; c += THREADS) {
        f[c] = a.query[at.column + c];
        g[c] = to_float(static_cast<const T *>(a.dout)[at.row + c]);
    }
    __syncthreads();
    dot_rows<T, LANES, VEC>(ds, v, 2 * (int64_t)a.width, a.tokens, a.head, g);
    __syncthreads();
    const float *const prob = a.prob + at.prob;
    float mean = 0;
    for (int64_t i = threadIdx.x; i < a.tokens; i += THREADS) mean = fmaf(prob[i], ds[i], mean);
    mean = block_sum(mean, scratch);
    for (int64_t i = threadIdx.x; i < a.tokens; i += THREADS)
        ds[i] = a.scale * prob[i] * (ds[i] - mean);
    __syncthreads();

    const int lane = (int)threadIdx.x % LANES * VEC;
    for (int first = 0; first < a.head; first += LANES * VEC) {
        float o[VEC] = {};
        const int c = first + lane;
        if (c < a.head)
#pragma unroll 4
            for (int64_t i = (int)threadIdx.x / LANES; i < a.tokens; i += THREADS / LANES) {
                const int64_t row = i * 2 * a.width + c;
                if (a.dquery) {
                    const vec<T, VEC> x = load<T, VEC>(k + row);
#pragma unroll
                    for (int j = 0; j < VEC; j++) o[j] = fmaf(ds[i], to_float(x.at[j]), o[j]);
                }
                if (!a.dkv) continue;
                T *const to = static_cast<T *>(a.dkv) + at.kv + row;
                put_token<T, VEC>(to, ds[i], f + c, a.accumulate);
                put_token<T, VEC>(to + a.width, prob[i], g + c, a.accumulate);
            }
        if (!a.dquery) continue;
        sum_groups<LANES, VEC>(o, scratch);
        if ((int)threadIdx.x < LANES && c < a.head)
            for (int j = 0; j < VEC; j++) a.dquery[at.row + c + j] = o[j];
    }
}

/* Lanes of one token: the power of two that covers the head in strips of VEC, at most a warp. */
int lanes_for(int head, int vec)
{
    int lanes = 4;
    while (lanes < PK_WARP && lanes * vec < head) lanes *= 2;
    return lanes;
}

#define PK_POOL_LANES(launch, T, VEC)                                                              \
    switch (lanes_for(a.head, VEC)) {                                                              \
    case 4:                                                                                        \
        return launch<T, 4, VEC>(a, blocks, c->queue, err);                                        \
    case 8:                                                                                        \
        return launch<T, 8, VEC>(a, blocks, c->queue, err);                                        \
    case 16:                                                                                       \
        return launch<T, 16, VEC>(a, blocks, c->queue, err);                                       \
    default:                                                                                       \
        return launch<T, 32, VEC>(a, blocks, c->queue, err);                                       \
    }

template <typename T, int LANES, int VEC>
enum pk_status launch_forward(const pool &a, unsigned blocks, const struct pk_queue *q,
                              struct pk_err *err)
{
    const size_t bytes = (size_t)(SCRATCH + a.head + a.tokens) * sizeof(float);
    return PK_LAUNCH((attention_pool<T, LANES, VEC>), blocks, THREADS, bytes, q, err, a);
}

template <typename T, int LANES, int VEC>
enum pk_status launch_gradient(const pool_gradient &a, unsigned blocks, const struct pk_queue *q,
                               struct pk_err *err)
{
    const size_t bytes = (size_t)(SCRATCH + 2 * a.head + a.tokens) * sizeof(float);
    return PK_LAUNCH((attention_pool_gradient<T, LANES, VEC>), blocks, THREADS, bytes, q, err, a);
}

template <typename T>
enum pk_status forward(const struct pk_call *c, const pool &a, unsigned blocks, struct pk_err *err)
{
    constexpr int whole = 16 / sizeof(T);
    if (a.head % whole == 0) PK_POOL_LANES(launch_forward, T, whole);
    PK_POOL_LANES(launch_forward, T, 1);
}

template <typename T>
enum pk_status gradient(const struct pk_call *c, const pool_gradient &a, unsigned blocks,
                        struct pk_err *err)
{
    constexpr int whole = 16 / sizeof(T);
    if (a.head % whole == 0) PK_POOL_LANES(launch_gradient, T, whole);
    PK_POOL_LANES(launch_gradient, T, 1);
}

/* Checks kv [batch, tokens, 2 heads head]; vectors: floats of the head in shared memory. */
enum pk_status check(const struct pk_call *c, const struct pk_value *kv, int vectors,
                     struct pk_err *err)
{
    const int64_t heads = c->node->attr.attention.heads;
    if (kv->rank != 3 || heads < 1 || kv->dim[2] % (2 * heads))
        return pk_fail(err, PK_ESHAPE,
                       "attention pooling by %lld heads needs [batch, tokens, 2 x heads x head]",
                       (long long)heads);
    if (kv->dim[0] * heads > INT32_MAX || kv->dim[2] > INT32_MAX)
        return pk_fail(err, PK_ESHAPE, "attention pooling of %lld records, width %lld: too large",
                       (long long)kv->dim[0], (long long)kv->dim[2] / 2);
    const int64_t head = kv->dim[2] / 2 / heads;
    const int64_t bytes = (SCRATCH + vectors * head + kv->dim[1]) * (int64_t)sizeof(float);
    if (bytes > c->queue->shared_max)
        return pk_fail(err, PK_ESHAPE,
                       "attention pooling of %lld tokens, head %lld, needs %lld bytes of shared "
                       "memory; this device has %lld",
                       (long long)kv->dim[1], (long long)head, (long long)bytes,
                       (long long)c->queue->shared_max);
    return PK_OK;
}

template <typename A> void take_shape(A *a, const struct pk_call *c, const struct pk_value *kv)
{
    a->heads = c->node->attr.attention.heads;
    a->tokens = kv->dim[1];
    a->width = (int)(kv->dim[2] / 2);
    a->head = a->width / a->heads;
    a->scale = c->node->attr.attention.scale;
}

} // namespace

extern "C" {

enum pk_status pk_cuda_attention_pool(const struct pk_call *c, struct pk_err *err);
size_t pk_cuda_attention_pool_workspace(const struct pk_prog *p, const struct pk_node *n);
enum pk_status pk_cuda_attention_pool_grad(const struct pk_call *c, struct pk_err *err);
size_t pk_cuda_attention_pool_grad_workspace(const struct pk_prog *p, const struct pk_node *n);

/* in: query [C], kv [B, T, 2C] -> out [B, C], prob [B, H, T]. */
enum pk_status pk_cuda_attention_pool(const struct pk_call *c, struct pk_err *err)
{
    const struct pk_value *kv = c->in[1];
    PK_TRY(check(c, kv, 1, err));
    pool a = {};
    take_shape(&a, c, kv);
    a.query = static_cast<const float *>(c->src[0]);
    a.kv = c->src[1];
    a.out = c->dst[0];
    a.prob = static_cast<float *>(c->dst[1]);
    const unsigned blocks = (unsigned)(kv->dim[0] * a.heads);
    if (blocks == 0) return PK_OK;
    return kv->dtype == PK_BF16 ? forward<bf16>(c, a, blocks, err)
                                : forward<float>(c, a, blocks, err);
}
size_t pk_cuda_attention_pool_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

/* in: dout [B, C], query, kv, prob -> dquery [C] and dkv, either absent, both accumulating. */
enum pk_status pk_cuda_attention_pool_grad(const struct pk_call *c, struct pk_err *err)
{
    const struct pk_value *kv = c->in[2];
    PK_TRY(check(c, kv, 2, err));
    pool_gradient a = {};
    take_shape(&a, c, kv);
    a.dout = c->src[0];
    a.query = static_cast<const float *>(c->src[1]);
    a.kv = c->src[2];
    a.prob = static_cast<const float *>(c->src[3]);
    a.dquery = c->out[0] ? static_cast<float *>(c->workspace) : NULL;
    a.dkv = c->out[1] ? c->dst[1] : NULL;
    a.accumulate = pk_call_accumulates(c, 1);
    const unsigned blocks = (unsigned)(kv->dim[0] * a.heads);
    if (blocks > 0)
        PK_TRY(kv->dtype == PK_BF16 ? gradient<bf16>(c, a, blocks, err)
                                    : gradient<float>(c, a, blocks, err));
    if (!a.dquery) return PK_OK;
    return pk_cuda_sum_parts(c->queue, static_cast<float *>(c->dst[0]), a.dquery, kv->dim[0],
                             a.width, pk_call_accumulates(c, 0), err);
}
/* One row of dquery per record. */
size_t pk_cuda_attention_pool_grad_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *kv = &p->value[n->in[2]];
    return n->out[0] < 0 ? 0 : (size_t)(kv->dim[0] * (kv->dim[2] / 2)) * sizeof(float);
}

} // extern "C"
