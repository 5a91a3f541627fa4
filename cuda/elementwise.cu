/* elementwise.cu -- add, copy, dropout, and channels of zeros.
 *
 * Memory traffic with storage S, and the time at 4.3 TB/s for 79 M elements of bf16 (411,648 rows
 * of 192):
 *
 *     add       read a, b, write y     6 B per element    110 us
 *     copy      read x, write y        4 B                 74 us    adding to y       6 B   110 us
 *               bf16 to float          6 B                110 us    adding to y      10 B   184 us
 *     dropout   read x, write y        4 B                 74 us    adding to y       6 B   110 us
 *
 * Channels of zeros are read nowhere, so that op moves x once and y once.
 *
 * Arrays are flat, so all but their last few elements move in vectors of 16 bytes. A thread has
 * four vectors in flight: 2,048 threads of an SM then ask for 128 KB or more, where 4.3 TB/s over
 * 132 SMs at 900 ns of latency need 29. */
#include "cuda/rng.h"

extern "C" {
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, AHEAD = 4 };

/* Elements [i, i + N) of an array of `count`, as floats; those beyond its end are 0. i is a
 * multiple of N; VECTORS: element 0 is aligned to N elements. */
template <bool VECTORS = true, typename T, int N>
__device__ __forceinline__ void load_part(float (&x)[N], const T *p, int64_t i, int64_t count)
{
    if (VECTORS && i + N <= count) {
        to_floats(x, load<T, N>(p + i));
        return;
    }
    for (int k = 0; k < N; k++) x[k] = i + k < count ? to_float(p[i + k]) : 0;
}

template <bool VECTORS = true, typename T, int N>
__device__ __forceinline__ void store_part(T *p, const float (&x)[N], int64_t i, int64_t count)
{
    if (VECTORS && i + N <= count) {
        store<T, N>(p + i, from_floats<T, N>(x));
        return;
    }
    for (int k = 0; k < N; k++)
        if (i + k < count) p[i + k] = from_float<T>(x[k]);
}

unsigned blocks_for(int64_t count, int N)
{
    const int64_t each = (int64_t)AHEAD * THREADS * N;
    return (unsigned)((count + each - 1) / each);
}

/* y = a + b, or a alone without SUM; a is of another type than y in some copies. A thread's vectors
 * are THREADS apart, so that neighbouring threads have neighbouring vectors. */
template <typename A, typename Y, int N, bool SUM>
__global__ void __launch_bounds__(THREADS) combine(const A *a, const Y *b, Y *y, int64_t count)
{
    constexpr int64_t block = (int64_t)AHEAD * THREADS * N;
    const int64_t first = blockIdx.x * block + threadIdx.x * N;
    float x[N], z[N];
    if ((blockIdx.x + 1) * block > count) { // the last block
        for (int k = 0; k < AHEAD; k++) {
            const int64_t i = first + k * THREADS * N;
            load_part(x, a, i, count);
            if (SUM) load_part(z, b, i, count);
            for (int e = 0; SUM && e < N; e++) x[e] += z[e];
            store_part(y, x, i, count);
        }
        return;
    }
    vec<A, N> av[AHEAD];
    vec<Y, N> bv[AHEAD];
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        av[k] = load<A, N>(a + first + k * THREADS * N);
        if (SUM) bv[k] = load<Y, N>(b + first + k * THREADS * N);
    }
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        to_floats(x, av[k]);
        if (SUM) to_floats(z, bv[k]);
        for (int e = 0; SUM && e < N; e++) x[e] += z[e];
        store<Y, N>(y + first + k * THREADS * N, from_floats<Y, N>(x));
    }
}

/* b is NULL for a copy. */
template <typename A, typename Y>
enum pk_status run(const struct pk_call *c, const void *b, struct pk_err *err)
{
    constexpr int N = 16 / (sizeof(A) > sizeof(Y) ? sizeof(A) : sizeof(Y));
    const int64_t count = pk_view_count(c->out[0]);
    const A *a = (const A *)c->src[0];
    Y *y = (Y *)c->dst[0];
    const unsigned blocks = blocks_for(count, N);
    if (b)
        return PK_LAUNCH((combine<A, Y, N, true>), blocks, THREADS, 0, c->queue, err, a,
                         (const Y *)b, y, count);
    return PK_LAUNCH((combine<A, Y, N, false>), blocks, THREADS, 0, c->queue, err, a,
                     (const Y *)NULL, y, count);
}

struct dropping {
    const void *x;
    void *y;
    const int64_t *sample; // [batch]
    int64_t batch, count;  // records, elements of one
    uint32_t groups;       // groups of 4 or 8 elements per record
    uint64_t seed;
    uint32_t site, threshold;
    float scale;
    bool add, record;
};

/* Element i of a record is kept when word i % 4 of the Philox block i / 4 is at least p * 2^32, as
 * on the CPU (core/cpu/elementwise.c); `record`: all of its elements when the first is. A thread
 * takes N elements of a record and N / 4 blocks: about 17 instructions per element, 0.6 of what the
 * time for the memory has room for. VECTORS: records start aligned to N elements. */
template <typename S, int N, bool VECTORS>
__global__ void __launch_bounds__(THREADS) drop(dropping d)
{
    const uint32_t group = blockIdx.x * THREADS + threadIdx.x, b = group / d.groups;
    if (b >= d.batch) return;
    const int64_t i = (int64_t)(group - b * d.groups) * N;
    const S *x = (const S *)d.x + b * d.count;
    S *y = (S *)d.y + b * d.count;
    float v[N], before[N];
    load_part<VECTORS>(v, x, i, d.count);
    if (d.add) load_part<VECTORS>(before, y, i, d.count);
    struct pk_rng at = pk_rng_make_inline(d.seed, PK_RNG_DROPOUT, (uint64_t)d.sample[b], d.site);
    uint32_t word[4];
    if (d.record) {
        pk_philox_inline(word, at.counter, at.key);
        for (int k = 0; k < N; k++) v[k] = word[0] >= d.threshold ? v[k] * d.scale : 0;
    }
#pragma unroll
    for (int k = 0; k < N && !d.record; k += 4) {
        at.counter[0] = (uint32_t)((i + k) / 4);
        pk_philox_inline(word, at.counter, at.key);
        for (int e = 0; e < 4; e++) v[k + e] = word[e] >= d.threshold ? v[k + e] * d.scale : 0;
    }
    for (int k = 0; d.add && k < N; k++) v[k] += before[k];
    store_part<VECTORS>(y, v, i, d.count);
}

template <typename S>
enum pk_status dropout(const struct pk_call *c, dropping d, struct pk_err *err)
{
    constexpr int N = 16 / sizeof(S);
    const int64_t groups = (d.count + N - 1) / N,
                  blocks = (d.batch * groups + THREADS - 1) / THREADS;
    if (blocks * THREADS > UINT32_MAX)
        return pk_fail(err, PK_ESHAPE,
                       "dropout over %lld records of %lld elements: the batch is too large",
                       (long long)d.batch, (long long)d.count);
    d.groups = (uint32_t)groups;
    if (d.count % N == 0)
        return PK_LAUNCH((drop<S, N, true>), (unsigned)blocks, THREADS, 0, c->queue, err, d);
    return PK_LAUNCH((drop<S, N, false>), (unsigned)blocks, THREADS, 0, c->queue, err, d);
}

struct padding {
    const void *x;
    void *y;
    int64_t rows, from, to, left; // channels of x and of y; where those of x begin in y
    bool add;
};

/* N channels of y a thread: all from x, or all zeros, as from, to and left are multiples of N. */
template <typename S, int N> __global__ void __launch_bounds__(THREADS) pad(padding p)
{
    const int64_t group = (int64_t)blockIdx.x * THREADS + threadIdx.x, each = p.to / N;
    const int64_t row = group / each, col = (group - row * each) * N, at = col - p.left;
    if (row >= p.rows) return;
    S *y = (S *)p.y + row * p.to + col;
    float v[N] = {}, before[N];
    if (at >= 0 && at < p.from) to_floats(v, load<S, N>((const S *)p.x + row * p.from + at));
    if (p.add) to_floats(before, load<S, N>(y));
    for (int k = 0; p.add && k < N; k++) v[k] += before[k];
    store<S, N>(y, from_floats<S, N>(v));
}

template <typename S>
enum pk_status pad_channels(const struct pk_call *c, const padding &p, struct pk_err *err)
{
    constexpr int N = 16 / sizeof(S);
    const bool vectors = p.from % N == 0 && p.to % N == 0 && p.left % N == 0;
    const int64_t threads = p.rows * p.to / (vectors ? N : 1);
    const unsigned blocks = (unsigned)((threads + THREADS - 1) / THREADS);
    if (vectors) return PK_LAUNCH((pad<S, N>), blocks, THREADS, 0, c->queue, err, p);
    return PK_LAUNCH((pad<S, 1>), blocks, THREADS, 0, c->queue, err, p);
}

} // namespace

extern "C" size_t pk_cuda_add_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

extern "C" enum pk_status pk_cuda_add(const struct pk_call *c, struct pk_err *err)
{
    return c->out[0]->dtype == PK_BF16 ? run<bf16, bf16>(c, c->src[1], err)
                                       : run<float, float>(c, c->src[1], err);
}

extern "C" size_t pk_cuda_copy_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

extern "C" enum pk_status pk_cuda_copy(const struct pk_call *c, struct pk_err *err)
{
    const bool from = c->in[0]->dtype == PK_BF16, to = c->out[0]->dtype == PK_BF16;
    const void *before = pk_call_accumulates(c, 0) ? c->dst[0] : NULL;
    if (from) return to ? run<bf16, bf16>(c, before, err) : run<bf16, float>(c, before, err);
    return to ? run<float, bf16>(c, before, err) : run<float, float>(c, before, err);
}

extern "C" size_t pk_cuda_reshape_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

extern "C" enum pk_status pk_cuda_reshape(const struct pk_call *c, struct pk_err *err)
{
    return pk_cuda_copy(c, err);
}

extern "C" size_t pk_cuda_dropout_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

extern "C" enum pk_status pk_cuda_dropout(const struct pk_call *c, struct pk_err *err)
{
    const float p = c->node->attr.dropout.p;
    dropping d = {};
    d.x = c->src[0];
    d.y = c->dst[0];
    d.sample = (const int64_t *)c->src[1];
    d.batch = c->in[1]->dim[0];
    d.count = pk_view_count(c->in[0]) / d.batch;
    d.seed = c->node->attr.dropout.seed;
    d.site = c->node->attr.dropout.site;
    d.threshold = (uint32_t)((double)p * 0x1p32);
    d.scale = 1 / (1 - p);
    d.record = c->node->attr.dropout.record;
    d.add = pk_call_accumulates(c, 0);
    return c->in[0]->dtype == PK_BF16 ? dropout<bf16>(c, d, err) : dropout<float>(c, d, err);
}

extern "C" size_t pk_cuda_pad_channels_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

/* in: x [..., C] -> y [..., left + C + right], accumulating */
extern "C" enum pk_status pk_cuda_pad_channels(const struct pk_call *c, struct pk_err *err)
{
    padding p = {};
    p.x = c->src[0], p.y = c->dst[0], p.rows = pk_view_rows(c->in[0]);
    p.from = pk_view_cols(c->in[0]), p.to = pk_view_cols(c->out[0]);
    p.left = c->node->attr.pad_channels.left, p.add = pk_call_accumulates(c, 0);
    return c->in[0]->dtype == PK_BF16 ? pad_channels<bf16>(c, p, err)
                                      : pad_channels<float>(c, p, err);
}
