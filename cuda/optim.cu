/* optim.cu -- the flat pass over the arenas (see optim.h).
 *
 * Bytes per element: 4 read for the norm; then weight, m, v, ema and grad read (20), weight, m, v
 * and ema written (16), two bf16 copies written (4). For the 22 M parameters of ViT-S with EMA that
 * is 88 MB + 880 MB, 20 us + 205 us at the 4.3 TB/s that a copy reaches on an H200; without a
 * target network (no EMA, one bf16 copy) 30 bytes, 154 us. One pass, since separate kernels for
 * AdamW, EMA and two casts would move 20 bytes more.
 *
 * A block takes one chunk of 4,096 elements with the same flags, a thread four neighbours at a
 * time: five 16-byte loads in flight per thread, 80 bytes, hence 120 KB per SM with 1,536 threads,
 * where 30 KB cover the latency. Chunks start at parameter offsets, which are multiples of 64
 * bytes. */
#include "cuda/device.h"
#include "cuda/optim.h"

#include <stdlib.h>

struct pk_cuda_optim {
    struct pk_optim_chunk *chunk; // device, [chunks]
    double *square;               // device, [chunks]: sums of squared gradients
    float *grad_scale;            // device: clipping, of the update at work
    int64_t chunks, first, last;  // of which [first, last) are this rank's
    int64_t moments;              // element at which m and v begin
};

namespace
{

static_assert(sizeof(struct pk_cuda_scalars) == 64, "one copy of 64 bytes per step");

enum { THREADS = 256, CHUNK = 4096, DECIDERS = 1024, V = 4 };

struct block_sums {
    double of_warp[32];
};

/* square[chunk] = sum of the chunk's squared gradients, 0 where nothing is trained. */
__global__ void __launch_bounds__(THREADS)
    square_sums(double *square, const float *grad, const struct pk_optim_chunk *chunk)
{
    PK_SHARED(block_sums, scratch);
    const struct pk_optim_chunk c = chunk[blockIdx.x];
    const float *const g = grad + c.offset;
    double sum = 0;
    if (c.trained && !c.state) {
        for (int64_t i = (int64_t)threadIdx.x * V; i + V <= c.count; i += THREADS * V) {
            const vec<float, V> x = load<float, V>(g + i);
#pragma unroll
            for (int k = 0; k < V; k++) sum += (double)x.at[k] * (double)x.at[k];
        }
        const int64_t rest = c.count / V * V + threadIdx.x;
        if (rest < c.count) sum += (double)g[rest] * (double)g[rest];
    }
    sum = block_sum(sum, scratch.of_warp);
    if (threadIdx.x == 0) square[blockIdx.x] = sum;
}

struct decider {
    const struct pk_cuda_scalars *scalars;
    struct pk_cuda_report *report;
    float *grad_scale;
    const double *square; // [chunks]
    const struct pk_optim_chunk *chunk;
    const float *grad;
    int64_t chunks, own, end; // of which [own, end) are this rank's
};

struct decider_scratch {
    double of_warp[32];
    int64_t first[DECIDERS];
};

/* The smallest of the threads' numbers, in all threads; slow, for the way to an error. */
__device__ int64_t block_first(int64_t mine, int64_t *scratch)
{
    __syncthreads();
    scratch[threadIdx.x] = mine;
    __syncthreads();
    int64_t first = scratch[0];
    for (int i = 1; i < DECIDERS; i++) first = min(first, scratch[i]);
    return first;
}

/* The first gradient that is not finite, as an element of the arena; -1 when there is none here. */
__device__ int64_t first_bad(const decider &a, int64_t *scratch)
{
    int64_t first = a.chunks;
    for (int64_t i = threadIdx.x; i < a.chunks && first == a.chunks; i += DECIDERS)
        if (!isfinite(a.square[i])) first = i;
    first = block_first(first, scratch);
    if (first < a.own || first >= a.end) return -1;
    const struct pk_optim_chunk c = a.chunk[first];
    int64_t bad = c.count;
    for (int64_t i = threadIdx.x; i < c.count && bad == c.count; i += DECIDERS)
        if (!isfinite(a.grad[c.offset + i])) bad = i;
    bad = block_first(bad, scratch);
    return bad == c.count ? -1 : c.offset + bad;
}

/* Norm, clipping, and whether the update is taken; one block. */
__global__ void __launch_bounds__(DECIDERS) decide(const decider a)
{
    PK_SHARED(decider_scratch, scratch);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < a.chunks; i += DECIDERS) sum += a.square[i];
    const double norm = sqrt(block_sum(sum, scratch.of_warp)), clip = a.scalars->clip;
    const int64_t bad = isfinite(norm) ? -1 : first_bad(a, scratch.first);
    if (threadIdx.x) return;
    struct pk_cuda_report *const r = a.report;
    const bool finite = isfinite(norm) && isfinite(r->loss);
    r->norm = norm;
    r->step = a.scalars->step;
    r->bad = bad;
    r->bad_value = bad < 0 ? 0 : a.grad[bad];
    r->taken = finite && !r->stopped;
    if (!finite && a.scalars->stop_on_nan) r->stopped = 1;
    *a.grad_scale = clip > 0 && clip < norm + 1e-6 ? (float)(clip / (norm + 1e-6)) : 1.0f;
}

struct update_args {
    struct pk_cuda_optim_arenas at;
    const struct pk_optim_chunk *chunk; // that of block 0
    const struct pk_cuda_scalars *scalars;
    const struct pk_cuda_report *report;
    const float *grad_scale;
    int64_t moments;
};

/* The factors of one update, and those of this chunk. */
struct rates {
    struct pk_optim_factors f;
    float grad_scale, keep;
    int64_t moments; // element at which m and v begin
};

template <int N>
__device__ __forceinline__ void put_low(void *low, int64_t i, const vec<float, N> &x)
{
    if (!low) return;
    vec<bf16, N> y;
#pragma unroll
    for (int k = 0; k < N; k++) y.at[k] = from_float<bf16>(x.at[k]);
    store<bf16, N>((bf16 *)low + i, y);
}

/* ema += (weight - ema) * rate: equal values stay equal. */
template <int N>
__device__ __forceinline__ void blend(const struct pk_cuda_optim_arenas &a, const struct rates &s,
                                      int64_t i, const vec<float, N> &w, vec<float, N> e)
{
#pragma unroll
    for (int k = 0; k < N; k++) e.at[k] += (w.at[k] - e.at[k]) * s.f.ema_rate;
    store<float, N>(a.ema + i, e);
    put_low<N>(a.ema_low, i, e);
}

/* N elements from i on, the arithmetic of core/cpu/adamw.c. */
template <int N, bool Trained, bool Ema>
__device__ __forceinline__ void update_at(const struct pk_cuda_optim_arenas &a,
                                          const struct rates &s, int64_t i)
{
    vec<float, N> w = load<float, N>(a.weight + i), m, v, g, e;
    const int64_t at = i - s.moments;
    if (Ema) e = load<float, N>(a.ema + i);
    if (Trained) {
        m = load<float, N>(a.m + at);
        v = load<float, N>(a.v + at);
        g = load<float, N>(a.grad + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            const float x = g.at[k] * s.grad_scale;
            m.at[k] = m.at[k] + (x - m.at[k]) * s.f.m_rate;
            v.at[k] = v.at[k] * s.f.beta2 + x * x * s.f.v_rate;
            w.at[k] =
                w.at[k] * s.keep - s.f.step * m.at[k] / (sqrtf(v.at[k]) * s.f.v_scale + s.f.eps);
        }
        store<float, N>(a.m + at, m);
        store<float, N>(a.v + at, v);
        store<float, N>(a.weight + i, w);
        put_low<N>(a.weight_low, i, w);
    }
    if (Ema) blend<N>(a, s, i, w, e);
}

template <bool Trained, bool Ema>
__device__ __forceinline__ void update_chunk(const struct pk_cuda_optim_arenas &a,
                                             const struct rates &s, const struct pk_optim_chunk &c)
{
    for (int64_t i = (int64_t)threadIdx.x * V; i + V <= c.count; i += THREADS * V)
        update_at<V, Trained, Ema>(a, s, c.offset + i);
    const int64_t rest = c.count / V * V + threadIdx.x;
    if (rest < c.count) update_at<1, Trained, Ema>(a, s, c.offset + rest);
}

/* Running statistics have no moments. */
__device__ __forceinline__ void move_state(const struct pk_cuda_optim_arenas &a,
                                           const struct pk_optim_chunk &c)
{
    for (int64_t i = threadIdx.x; i < c.count; i += THREADS) {
        float *const state = a.weight + c.offset + i;
        *state = *state * c.keep + a.grad[c.offset + i] * c.gain;
        put_low<1>(a.weight_low, c.offset + i, load<float, 1>(state));
    }
    __syncthreads();
}

__global__ void __launch_bounds__(THREADS) update_chunks(const update_args a)
{
    if (!a.report->taken) return;
    const struct pk_optim_chunk c = a.chunk[blockIdx.x];
    struct rates s = {a.scalars->factors, *a.grad_scale, 1.0f, a.moments};
    if (c.decay) s.keep = s.f.decay_keep;
    const bool ema = c.ema && a.at.ema, weights = c.trained && !c.state;
    if (c.trained && c.state) move_state(a.at, c);
    if (weights && ema)
        update_chunk<true, true>(a.at, s, c);
    else if (weights)
        update_chunk<true, false>(a.at, s, c);
    else if (ema)
        update_chunk<false, true>(a.at, s, c);
}

__global__ void __launch_bounds__(THREADS) cast_low(bf16 *low, const float *from, int64_t count)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (i + V <= count)
        put_low<V>(low, i, load<float, V>(from + i));
    else
        for (int64_t k = i; k < count; k++) low[k] = from_float<bf16>(from[k]);
}

__global__ void add_loss(struct pk_cuda_report *report, const float *loss, const float *seed,
                         bool add)
{
    if (threadIdx.x) return;
    report->loss = (add ? report->loss : 0) + (double)*loss * (double)*seed;
}

/* Block b: the b-th chunk that is another rank's, whose new weights have come. Its EMA copy moves
 * as at the owner, and nobody need send it. */
__global__ void __launch_bounds__(THREADS)
    follow_chunks(const update_args a, int64_t own, int64_t end)
{
    if (!a.report->taken) return;
    const int64_t b = blockIdx.x;
    const struct pk_optim_chunk c = a.chunk[b < own ? b : b + end - own];
    const struct rates s = {a.scalars->factors, 1.0f, 1.0f, 0};
    const bool ema = c.ema && a.at.ema;
    for (int64_t k = threadIdx.x; k < c.count; k += THREADS) {
        const int64_t i = c.offset + k;
        const vec<float, 1> w = load<float, 1>(a.at.weight + i);
        if (c.trained) put_low<1>(a.at.weight_low, i, w);
        if (ema) blend<1>(a.at, s, i, w, load<float, 1>(a.at.ema + i));
    }
}

enum pk_status device_alloc(void *out, size_t bytes, const char *what, struct pk_err *err)
{
    return pk_cuda_check(cudaMalloc((void **)out, bytes), what, err);
}

/* Table, partial sums and the clipping factor on the device. */
enum pk_status allocate(struct pk_cuda_optim *o, const struct pk_optim_chunk *chunk,
                        struct pk_err *err)
{
    const char *const what = "memory of the optimizer's tables";
    const size_t n = (size_t)PK_MAX(o->chunks, 1);
    PK_TRY(device_alloc(&o->chunk, n * sizeof *o->chunk, what, err));
    PK_TRY(device_alloc(&o->square, n * sizeof *o->square, what, err));
    PK_TRY(device_alloc(&o->grad_scale, sizeof *o->grad_scale, what, err));
    if (!o->chunks) return PK_OK;
    return pk_cuda_check(
        cudaMemcpy(o->chunk, chunk, (size_t)o->chunks * sizeof *chunk, cudaMemcpyHostToDevice),
        "table of the optimizer's chunks", err);
}

} // namespace

extern "C" {

void pk_cuda_scalars_set(struct pk_cuda_scalars *out, const struct pk_optim_spec *spec,
                         const struct pk_optim_step *step, bool skip_nan)
{
    struct pk_cuda_scalars s = {};
    s.clip = spec->clip;
    s.step = step->step;
    s.stop_on_nan = !skip_nan;
    pk_optim_factors(spec, step, &s.factors);
    *out = s;
}

enum pk_status pk_cuda_optim_create(struct pk_cuda_optim **out, const struct pk_params *params,
                                    int64_t first, int64_t last, struct pk_err *err)
{
    struct pk_cuda_optim *o;
    struct pk_optim_chunk *chunk = NULL;
    *out = NULL;
    PK_TRY(pk_alloc(&o, 1, sizeof *o, "optimizer", err));
    enum pk_status s = pk_optim_chunks(params, CHUNK, &chunk, &o->chunks, err);
    o->moments = first;
    while (o->first < o->chunks && chunk[o->first].offset < first) o->first++;
    for (o->last = o->first; o->last < o->chunks && chunk[o->last].offset < last;) o->last++;
    if (s == PK_OK) s = allocate(o, chunk, err);
    free(chunk);
    if (s == PK_OK)
        *out = o;
    else
        pk_cuda_optim_free(o);
    return s;
}

void pk_cuda_optim_free(struct pk_cuda_optim *o)
{
    if (!o) return;
    cudaFree(o->chunk);
    cudaFree(o->square);
    cudaFree(o->grad_scale);
    free(o);
}

void pk_cuda_optim_sums(const struct pk_cuda_optim *o, double **sums, int64_t *count)
{
    *sums = o->square;
    *count = o->chunks;
}

enum pk_status pk_cuda_optim_measure(struct pk_cuda_optim *o, const struct pk_queue *q,
                                     const float *grad, struct pk_err *err)
{
    const int64_t own = o->last - o->first;
    if (own < o->chunks)
        PK_TRY(pk_cuda_check(
            cudaMemsetAsync(o->square, 0, (size_t)o->chunks * sizeof *o->square, q->stream),
            "gradient norm", err));
    if (!own) return PK_OK;
    return PK_LAUNCH(square_sums, (unsigned)own, THREADS, sizeof(block_sums), q, err,
                     o->square + o->first, grad, (const pk_optim_chunk *)o->chunk + o->first);
}

enum pk_status pk_cuda_optim_apply(struct pk_cuda_optim *o, const struct pk_queue *q,
                                   const struct pk_cuda_optim_arenas *arenas,
                                   const struct pk_cuda_scalars *scalars,
                                   struct pk_cuda_report *report, struct pk_err *err)
{
    const unsigned grid = (unsigned)(o->last - o->first);
    const decider d = {scalars,      report,    o->grad_scale, o->square, o->chunk,
                       arenas->grad, o->chunks, o->first,      o->last};
    const update_args u = {*arenas, o->chunk + o->first, scalars,
                           report,  o->grad_scale,       o->moments};
    PK_TRY(PK_LAUNCH(decide, 1, DECIDERS, sizeof(decider_scratch), q, err, d));
    return grid ? PK_LAUNCH(update_chunks, grid, THREADS, 0, q, err, u) : PK_OK;
}

enum pk_status pk_cuda_optim_follow(struct pk_cuda_optim *o, const struct pk_queue *q,
                                    const struct pk_cuda_optim_arenas *arenas,
                                    const struct pk_cuda_scalars *scalars,
                                    const struct pk_cuda_report *report, struct pk_err *err)
{
    const unsigned grid = (unsigned)(o->chunks - (o->last - o->first));
    const update_args a = {*arenas, o->chunk, scalars, report, o->grad_scale, 0};
    return grid ? PK_LAUNCH(follow_chunks, grid, THREADS, 0, q, err, a, o->first, o->last) : PK_OK;
}

enum pk_status pk_cuda_optim_clear(const struct pk_queue *q, struct pk_cuda_report *report,
                                   struct pk_err *err)
{
    return pk_cuda_check(cudaMemsetAsync(&report->stopped, 0, sizeof report->stopped, q->stream),
                         "end of a stop", err);
}

enum pk_status pk_cuda_add_loss(const struct pk_queue *q, struct pk_cuda_report *report,
                                const float *loss, const float *seed, bool add, struct pk_err *err)
{
    return PK_LAUNCH(add_loss, 1, PK_WARP, 0, q, err, report, loss, seed, add);
}

enum pk_status pk_cuda_cast(const struct pk_queue *q, void *low, const float *from, int64_t count,
                            struct pk_err *err)
{
    const int64_t blocks = (count + THREADS * V - 1) / (THREADS * V);
    if (!blocks) return PK_OK;
    return PK_LAUNCH(cast_low, (unsigned)blocks, THREADS, 0, q, err, (bf16 *)low, from, count);
}

} // extern "C"
