/* activate.cu -- ReLU, SiLU, sigmoid and their slopes; the gate of a squeeze-excite.
 *
 * All are bound by memory; bytes per element with storage S: activate 2 S, its gradient 3 S, the
 * gate 2 S (it stays in the caches), its gradient 3 S. Two vectors of 16 bytes per thread and
 * operand are in flight where the shape allows. */
#include "cuda/entry.h"
#include "cuda/device.h"

extern "C" {
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, TURNS = 2, CHANNELS = 32, LANES = THREADS / CHANNELS };

/* s = 1 / (1 + e^-x), and 1 - s, as e^-x s since the difference would cancel. */
__device__ __forceinline__ float sigmoid(float x, float *rest)
{
    const float e = expf(x < -87 ? 87.0f : -x), s = 1 / (1 + e);
    *rest = e * s;
    return s;
}

__device__ __forceinline__ float value(float x, int32_t kind)
{
    if (kind == PK_RELU) return x < 0 ? 0 : x;
    float rest;
    const float s = sigmoid(x, &rest);
    return kind == PK_SILU ? x * s : s;
}

__device__ __forceinline__ float slope(float x, int32_t kind)
{
    if (kind == PK_RELU) return x > 0 ? 1 : 0;
    float rest;
    const float s = sigmoid(x, &rest);
    return kind == PK_SIGMOID ? s * rest : s * fmaf(x, rest, 1);
}

struct flat {
    const void *x, *dy, *gate; // dy: backward; gate: [batch, cols]
    void *to;
    int64_t count;
    uint32_t record, cols; // record: elements of one, with a gate; 32 bits, for the division
    int32_t kind;
    bool add;
};

enum map { VALUE, SLOPE, GATE };

/* N elements from `at` on; with a gate they are of one row. */
template <typename S, int N, int MAP>
__device__ __forceinline__ void map_values(const flat &f, int64_t at, const vec<S, N> &first)
{
    float x[N], y[N], before[N] = {};
    to_floats(x, first);
    if (f.add) to_floats(before, load<S, N>((const S *)f.to + at));
    if constexpr (MAP == SLOPE) to_floats(y, load<S, N>((const S *)f.dy + at));
    if constexpr (MAP == GATE)
        to_floats(y, load<S, N>((const S *)f.gate + (uint32_t)at / f.record * f.cols +
                                (uint32_t)at % f.cols));
#pragma unroll
    for (int k = 0; k < N; k++) {
        if constexpr (MAP == VALUE) x[k] = value(x[k], f.kind);
        if constexpr (MAP == SLOPE) x[k] = y[k] * slope(x[k], f.kind);
        if constexpr (MAP == GATE) x[k] *= y[k];
        if (f.add) x[k] += before[k];
    }
    store<S, N>((S *)f.to + at, from_floats<S, N>(x));
}

template <typename S, int N, int MAP> __global__ void __launch_bounds__(THREADS) map_flat(flat f)
{
    const int64_t first = (int64_t)blockIdx.x * TURNS * THREADS + threadIdx.x;
    vec<S, N> x[TURNS];
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int64_t at = (first + i * THREADS) * N;
        if (at + N <= f.count) x[i] = load<S, N>((const S *)f.x + at);
    }
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int64_t at = (first + i * THREADS) * N;
        if (at + N <= f.count)
            map_values<S, N, MAP>(f, at, x[i]);
        else
            for (int64_t k = at; k < f.count; k++)
                map_values<S, 1, MAP>(f, k, load<S, 1>((const S *)f.x + k));
    }
}

template <typename S, int N, int MAP>
enum pk_status launch(const struct pk_queue *q, const flat &f, struct pk_err *err)
{
    const int64_t each = (int64_t)N * TURNS * THREADS;
    return PK_LAUNCH((map_flat<S, N, MAP>), (unsigned)((f.count + each - 1) / each), THREADS, 0, q,
                     err, f);
}

template <int MAP> enum pk_status run(const struct pk_call *c, const flat &f, struct pk_err *err)
{
    const struct pk_queue *q = c->queue;
    if (c->in[0]->dtype == PK_BF16)
        return MAP != GATE || f.cols % 8 == 0 ? launch<bf16, 8, MAP>(q, f, err)
                                              : launch<bf16, 1, MAP>(q, f, err);
    return MAP != GATE || f.cols % 4 == 0 ? launch<float, 4, MAP>(q, f, err)
                                          : launch<float, 1, MAP>(q, f, err);
}

struct lanes {
    float at[LANES][CHANNELS];
};

/* Block (record, channels): dgate = sum over T of dy x, the lanes' shares added in order. */
template <typename S>
__global__ void __launch_bounds__(THREADS)
    gate_gradient(S *dgate, const S *dy, const S *x, int64_t tokens, int64_t cols, bool add)
{
    PK_SHARED(lanes, s);
    const int lane = (int)threadIdx.x / CHANNELS, local = (int)threadIdx.x % CHANNELS;
    const int64_t b = blockIdx.x, i = (int64_t)blockIdx.y * CHANNELS + local;
    float sum = 0;
    for (int64_t t = lane; i < cols && t < tokens; t += LANES) {
        const int64_t at = (b * tokens + t) * cols + i;
        sum = fmaf(to_float(dy[at]), to_float(x[at]), sum);
    }
    s.at[lane][local] = sum;
    __syncthreads();
    if (lane || i >= cols) return;
    for (int l = 1; l < LANES; l++) sum += s.at[l][local];
    S *to = dgate + b * cols + i;
    *to = from_float<S>(add ? to_float(*to) + sum : sum);
}

template <typename S> enum pk_status run_gate_gradient(const struct pk_call *c, struct pk_err *err)
{
    const int64_t *dim = c->in[0]->dim;
    const dim3 grid((unsigned)dim[0], (unsigned)((dim[2] + CHANNELS - 1) / CHANNELS));
    return PK_LAUNCH((gate_gradient<S>), grid, THREADS, sizeof(lanes), c->queue, err,
                     (S *)c->dst[1], (const S *)c->src[0], (const S *)c->src[1], dim[1], dim[2],
                     pk_call_accumulates(c, 1));
}

flat flat_of(const struct pk_call *c)
{
    flat f = {};
    f.count = pk_view_count(c->in[0]), f.cols = (uint32_t)pk_view_cols(c->in[0]);
    f.to = c->dst[0], f.add = pk_call_accumulates(c, 0);
    f.kind = c->node->attr.activate.kind;
    return f;
}

} // namespace

extern "C" {

/* in: x -> y */
enum pk_status pk_cuda_activate(const struct pk_call *c, struct pk_err *err)
{
    flat f = flat_of(c);
    f.x = c->src[0];
    return run<VALUE>(c, f, err);
}

/* in: dy, x -> dx, accumulating */
enum pk_status pk_cuda_activate_grad(const struct pk_call *c, struct pk_err *err)
{
    flat f = flat_of(c);
    f.dy = c->src[0], f.x = c->src[1];
    return run<SLOPE>(c, f, err);
}

/* in: x [B, T, C], gate [B, C] -> y */
enum pk_status pk_cuda_channel_scale(const struct pk_call *c, struct pk_err *err)
{
    flat f = flat_of(c);
    f.x = c->src[0], f.gate = c->src[1], f.record = (uint32_t)(f.count / c->in[0]->dim[0]);
    return run<GATE>(c, f, err);
}

/* in: dy, x, gate -> dx, dgate, each may be absent, both accumulating */
enum pk_status pk_cuda_channel_scale_grad(const struct pk_call *c, struct pk_err *err)
{
    flat f = flat_of(c);
    f.x = c->src[0], f.gate = c->src[2], f.record = (uint32_t)(f.count / c->in[0]->dim[0]);
    if (c->dst[0]) PK_TRY(run<GATE>(c, f, err));
    if (!c->dst[1]) return PK_OK;
    return c->in[0]->dtype == PK_BF16 ? run_gate_gradient<bf16>(c, err)
                                      : run_gate_gradient<float>(c, err);
}

PK_NO_WORKSPACE(activate)
PK_NO_WORKSPACE(activate_grad)
PK_NO_WORKSPACE(channel_scale)
PK_NO_WORKSPACE(channel_scale_grad)
}
