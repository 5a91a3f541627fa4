/* leads.cu -- tokens that are patches of single leads: which leads are there, which tokens are
 * kept, the sequence with separators, and its mean. A record's sequence is, for each of G leads,
 * one separator, K patches and another separator.
 *
 * Traffic with storage S, and the time at 4.3 TB/s for ST-MEM's batch of 1,024 records, 12 leads, 7
 * kept patches, 768 channels of bf16 (66 M values patches, 85 M with separators):
 *     lead_tokens       read x, write y                  302 MB   70 us
 *     lead_tokens_grad  read dy, write dx; dy again for the sums   472 MB  110 us
 *     lead_pool         read the patches                 132 MB   31 us
 *     lead_pool_grad    write dx                         170 MB   40 us
 * Tables, embeddings and separators are at most 150 KB of float and stay in L2. The two samplers
 * take a thread for each record or lead: microseconds. */
#include "cuda/rng.h"
#include "cuda/fault.h"
#include "cuda/reduce.h"

extern "C" {
#include "core/mask.h"
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, AHEAD = 4 };

struct presence {
    const float *gain; // [batch, all]
    float *y;          // [batch, leads]
    int64_t batch, all;
    int32_t leads;
    uint64_t lead[2]; // 16 lead numbers of 8 bits, the first in the lowest
};

__device__ __forceinline__ bool there(const presence &a, int64_t b, int32_t l)
{
    const int32_t at = (int32_t)((l < 8 ? a.lead[0] : a.lead[1]) >> 8 * (l % 8) & 255);
    return a.gain[b * a.all + at] != 0;
}

__global__ void __launch_bounds__(THREADS) present_leads(const presence a)
{
    const int64_t b = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (b >= a.batch) return;
    int32_t present = 0;
    for (int32_t l = 0; l < a.leads; l++) present += there(a, b, l);
    for (int32_t l = 0; l < a.leads; l++)
        a.y[b * a.leads + l] = there(a, b, l) ? (float)a.leads / (float)present : 0.0f;
}

struct masking {
    const int64_t *sample;         // [batch]
    int32_t *kept, *hidden, *seen; // [rows, keep], [rows, tokens - keep], [rows, keep + 2]; or NULL
    int64_t rows;                  // batch x leads
    uint64_t seed;
    int32_t leads, tokens, keep;
};

/* The draws of pk_lead_mask_sample, one thread per record and lead. */
__global__ void __launch_bounds__(THREADS) lead_masks(const masking a)
{
    const int64_t r = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (r >= a.rows) return;
    struct pk_rng g = pk_rng_make_inline(a.seed, PK_RNG_LEAD_MASK, (uint64_t)a.sample[r / a.leads],
                                         (uint32_t)(r % a.leads));
    int32_t have = 0;
    if (a.seen) a.seen[r * (a.keep + 2)] = a.tokens;
    if (a.seen) a.seen[r * (a.keep + 2) + a.keep + 1] = a.tokens + 1;
    for (int32_t t = 0; t < a.tokens; t++) {
        if ((int32_t)pk_rng_below_inline(&g, (uint64_t)(a.tokens - t)) < a.keep - have) {
            if (a.kept) a.kept[r * a.keep + have] = t;
            if (a.seen) a.seen[r * (a.keep + 2) + 1 + have] = t;
            have++;
        } else if (a.hidden) {
            a.hidden[r * (a.tokens - a.keep) + t - have] = t;
        }
    }
}

/* What the kernels over tokens have in common. */
struct tokens {
    const void *x;        // S
    void *y;              // S
    const float *present; // [batch * leads]
    const float *table, *lead, *separator, *absent;
    const int32_t *index; // [batch * leads, keep] or NULL
    struct pk_cuda_fault *fault;
    int64_t rows; // that the threads run over
    int32_t node;
    int32_t leads, keep, positions;
    int32_t cols, width; // width: vectors of one block's tile of columns
    float share;
};

/* Where a thread works: its first row, the distance to its next one, and its columns. */
struct spot {
    int64_t row;
    int32_t step, column;
};

template <int N> __device__ __forceinline__ spot spot_of(const tokens &a)
{
    const int lanes = blockDim.x / a.width, lane = threadIdx.x / a.width;
    spot s;
    s.row = (int64_t)blockIdx.x * (lanes * AHEAD) + lane;
    s.step = lanes;
    s.column = (int32_t)(blockIdx.y * a.width + threadIdx.x % a.width) * N;
    return s;
}

/* y: row r of the output is token i of run r / (keep + 2). */
template <typename S, int N> __global__ void __launch_bounds__(THREADS) put_tokens(const tokens a)
{
    const spot s = spot_of<N>(a);
    const int32_t run = a.keep + 2;
    if (s.column >= a.cols) return;
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        const int64_t row = s.row + (int64_t)k * s.step;
        if (row >= a.rows) continue;
        const int64_t r = row / run;
        const int32_t i = (int32_t)(row - r * run) - 1;
        const bool patch = i >= 0 && i < a.keep;
        int32_t at = i < 0 ? a.positions - 2 : a.positions - 1;
        if (patch) at = a.index ? a.index[r * a.keep + i] : i;
        float y[N] = {}, v[N];
        if (at >= 0 && at < a.positions) {
            if (!patch)
                load_floats<N>(y, a.separator + s.column);
            else if (a.present[r] != 0)
                to_floats(y, load<S, N>((const S *)a.x + (r * a.keep + i) * a.cols + s.column));
            else
                load_floats<N>(y, a.absent + s.column);
            load_floats<N>(v, a.table + (int64_t)at * a.cols + s.column);
            for (int c = 0; c < N; c++) y[c] += v[c];
            load_floats<N>(v, a.lead + r % a.leads * a.cols + s.column);
            for (int c = 0; c < N; c++) y[c] += v[c];
        } else {
            raise_fault(a.fault, PK_FAULT_INDEX, a.node, r, at);
        }
        store<S, N>((S *)a.y + row * a.cols + s.column, from_floats<S, N>(y));
    }
}

/* dx: row r of the output is patch i of run r / keep; zero where the lead is absent. */
template <typename S, int N, bool ADD>
__global__ void __launch_bounds__(THREADS) take_tokens(const tokens a)
{
    const spot s = spot_of<N>(a);
    if (s.column >= a.cols) return;
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        const int64_t row = s.row + (int64_t)k * s.step;
        if (row >= a.rows) continue;
        const int64_t r = row / a.keep, from = r * (a.keep + 2) + 1 + (row - r * a.keep);
        float y[N] = {}, v[N];
        if (a.present[r] != 0) to_floats(y, load<S, N>((const S *)a.x + from * a.cols + s.column));
        S *const to = (S *)a.y + row * a.cols + s.column;
        if (ADD) {
            to_floats(v, load<S, N>(to));
            for (int c = 0; c < N; c++) y[c] += v[c];
        }
        store<S, N>(to, from_floats<S, N>(y));
    }
}

enum { ALL, SEPARATORS, ABSENT, SUMS };

/* partial[part][lead][sum][cols]: sums over the records of a part. Block (part, lead, tile); the
 * lanes take every lanes-th token of the lead, and are added in order. `rows`: records. */
template <typename S, int N>
__global__ void __launch_bounds__(THREADS) sum_tokens(const tokens a, float *partial)
{
    PK_SHARED(float, scratch); // [lanes][N][width]
    const int lanes = blockDim.x / a.width, lane = threadIdx.x / a.width;
    const int v = threadIdx.x % a.width, tile = a.width * N;
    const int column = (int)(blockIdx.z * a.width + v) * N;
    const int32_t run = a.keep + 2, g = blockIdx.y;
    const int64_t per = (a.rows + gridDim.x - 1) / gridDim.x, from = blockIdx.x * per;
    const int64_t to = min(a.rows, from + per);
    float sum[SUMS][N] = {};
    for (int64_t k = lane; column < a.cols && k < (to - from) * run; k += lanes) {
        const int64_t b = from + k / run, r = b * a.leads + g;
        const int32_t i = (int32_t)(k % run) - 1;
        const bool patch = i >= 0 && i < a.keep;
        float y[N];
        to_floats(y, load<S, N>((const S *)a.x + (r * run + i + 1) * a.cols + column));
        const float gone = patch && a.present[r] == 0 ? 1.0f : 0.0f;
        for (int c = 0; c < N; c++) {
            sum[ALL][c] += y[c];
            sum[SEPARATORS][c] += patch ? 0.0f : y[c];
            sum[ABSENT][c] += gone * y[c];
        }
    }
    float *const out = partial + ((int64_t)blockIdx.x * a.leads + g) * SUMS * a.cols;
    for (int which = 0; which < SUMS; which++) {
        for (int c = 0; c < N; c++) (&scratch)[(lane * N + c) * a.width + v] = sum[which][c];
        __syncthreads();
        for (int t = threadIdx.x; t < tile; t += blockDim.x) {
            const int c = (int)(blockIdx.z * a.width + t % a.width) * N + t / a.width;
            float total = 0;
            for (int l = 0; l < lanes; l++) total += (&scratch)[l * tile + t];
            if (c < a.cols) out[which * a.cols + c] = total;
        }
        __syncthreads();
    }
}

struct sums {
    const float *partial;             // [parts, leads, SUMS, cols]
    float *lead, *separator, *absent; // [leads, cols], [cols], [cols]; NULL where not wanted
    int32_t parts, leads, cols;
    uint32_t add; // bit 0: lead, 1: separator, 2: absent
};

/* Row blockIdx.y of the results: a lead, or the separator, or the absent token. */
__global__ void __launch_bounds__(THREADS) finish_tokens(const sums a)
{
    const int c = blockIdx.x * THREADS + threadIdx.x, q = blockIdx.y;
    if (c >= a.cols) return;
    const int which = q < a.leads ? ALL : q == a.leads ? SEPARATORS : ABSENT;
    float *const y = which == ALL          ? a.lead ? a.lead + (int64_t)q * a.cols : NULL
                     : which == SEPARATORS ? a.separator
                                           : a.absent;
    if (!y) return;
    float sum = 0;
    for (int p = 0; p < a.parts; p++)
        for (int g = which == ALL ? q : 0; g < (which == ALL ? q + 1 : a.leads); g++)
            sum += a.partial[(((int64_t)p * a.leads + g) * SUMS + which) * a.cols + c];
    y[c] = (a.add >> which & 1 ? y[c] : 0.0f) + sum;
}

/* y[b] = share * sum over leads and patches of present * x. Block (b, tile). */
template <typename S, int N> __global__ void __launch_bounds__(THREADS) pool_leads(const tokens a)
{
    PK_SHARED(float, scratch); // [lanes][N][width]
    const int lanes = blockDim.x / a.width, lane = threadIdx.x / a.width;
    const int v = threadIdx.x % a.width, tile = a.width * N;
    const int column = (int)(blockIdx.y * a.width + v) * N;
    const int64_t b = blockIdx.x;
    float sum[N] = {};
    for (int k = lane; column < a.cols && k < a.leads * a.keep; k += lanes) {
        const int64_t r = b * a.leads + k / a.keep;
        const float w = a.present[r] * a.share;
        if (w == 0) continue; // what stands for an absent lead must not count, not even as NaN
        float y[N];
        to_floats(
            y, load<S, N>((const S *)a.x + (r * (a.keep + 2) + 1 + k % a.keep) * a.cols + column));
        for (int c = 0; c < N; c++) sum[c] += w * y[c];
    }
    for (int c = 0; c < N; c++) (&scratch)[(lane * N + c) * a.width + v] = sum[c];
    __syncthreads();
    for (int t = threadIdx.x; t < tile; t += blockDim.x) {
        const int c = (int)(blockIdx.y * a.width + t % a.width) * N + t / a.width;
        float total = 0;
        for (int l = 0; l < lanes; l++) total += (&scratch)[l * tile + t];
        if (c < a.cols) ((S *)a.y)[b * a.cols + c] = from_float<S>(total);
    }
}

/* dx: row r of the output is token i of run r / (keep + 2). */
template <typename S, int N, bool ADD>
__global__ void __launch_bounds__(THREADS) spread_leads(const tokens a)
{
    const spot s = spot_of<N>(a);
    const int32_t run = a.keep + 2;
    if (s.column >= a.cols) return;
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        const int64_t row = s.row + (int64_t)k * s.step;
        if (row >= a.rows) continue;
        const int64_t r = row / run;
        const int32_t i = (int32_t)(row - r * run);
        const float w = i > 0 && i <= a.keep ? a.present[r] * a.share : 0.0f;
        if (ADD && w == 0) continue;
        float y[N], v[N];
        to_floats(y, load<S, N>((const S *)a.x + r / a.leads * a.cols + s.column));
        S *const to = (S *)a.y + row * a.cols + s.column;
        for (int c = 0; c < N; c++) y[c] *= w;
        if (ADD) {
            to_floats(v, load<S, N>(to));
            for (int c = 0; c < N; c++) y[c] += v[c];
        }
        store<S, N>(to, from_floats<S, N>(y));
    }
}

/* ---- launches ---- */

/* Splits the columns into tiles of at most `most` vectors, as even as they come. */
unsigned tiles_of(tokens &a, int N, int most)
{
    const int vectors = a.cols / N, tiles = (vectors + most - 1) / most;
    a.width = (vectors + tiles - 1) / tiles;
    return (unsigned)tiles;
}

enum kind { PUT, TAKE, TAKE_ADD, SPREAD, SPREAD_ADD, POOL, SUM };

/* Records that one part of the sums takes; their number depends on shapes only. */
int32_t sum_parts(int64_t batch, int64_t leads)
{
    return (int32_t)PK_MAX(PK_MIN(batch, PK_CUDA_PARTS / leads), (int64_t)1);
}

template <typename S, int N, kind KIND>
enum pk_status launch(const struct pk_call *c, tokens a, struct pk_err *err)
{
    const bool reduces = KIND == POOL || KIND == SUM;
    const unsigned tiles = tiles_of(a, N, reduces ? (int)PK_WARP : (int)THREADS);
    const int lanes = THREADS / a.width, threads = lanes * a.width;
    const size_t shared = (size_t)(threads * N) * sizeof(float);
    if (a.rows == 0) return PK_OK;
    if constexpr (KIND == POOL) {
        return PK_LAUNCH((pool_leads<S, N>), dim3((unsigned)a.rows, tiles), threads, shared,
                         c->queue, err, a);
    } else if constexpr (KIND == SUM) {
        const unsigned parts = (unsigned)sum_parts(a.rows, a.leads);
        return PK_LAUNCH((sum_tokens<S, N>), dim3(parts, (unsigned)a.leads, tiles), threads, shared,
                         c->queue, err, a, (float *)c->workspace);
    } else {
        const int64_t blocks = (a.rows + lanes * AHEAD - 1) / (lanes * AHEAD);
        const dim3 grid((unsigned)blocks, tiles);
        if constexpr (KIND == PUT)
            return PK_LAUNCH((put_tokens<S, N>), grid, threads, 0, c->queue, err, a);
        else if constexpr (KIND == TAKE)
            return PK_LAUNCH((take_tokens<S, N, false>), grid, threads, 0, c->queue, err, a);
        else if constexpr (KIND == TAKE_ADD)
            return PK_LAUNCH((take_tokens<S, N, true>), grid, threads, 0, c->queue, err, a);
        else if constexpr (KIND == SPREAD)
            return PK_LAUNCH((spread_leads<S, N, false>), grid, threads, 0, c->queue, err, a);
        else
            return PK_LAUNCH((spread_leads<S, N, true>), grid, threads, 0, c->queue, err, a);
    }
}

/* storage: of x and y. */
template <kind KIND>
enum pk_status run(const struct pk_call *c, const tokens &a, enum pk_dtype storage,
                   struct pk_err *err)
{
    if (storage == PK_BF16)
        return a.cols % 8 == 0 ? launch<bf16, 8, KIND>(c, a, err)
                               : launch<bf16, 1, KIND>(c, a, err);
    return a.cols % 4 == 0 ? launch<float, 4, KIND>(c, a, err) : launch<float, 1, KIND>(c, a, err);
}

/* sequence: [batch, leads * run, cols]. present: [batch, leads]. */
tokens tokens_of(const struct pk_call *c, const struct pk_value *sequence, const void *present,
                 int64_t leads)
{
    tokens a = {};
    a.present = (const float *)present;
    a.fault = c->queue->fault;
    a.node = c->node->scope;
    a.leads = (int32_t)leads;
    a.keep = (int32_t)(sequence->dim[1] / leads) - 2;
    a.cols = (int32_t)sequence->dim[2];
    a.share = 1 / (float)(a.leads * a.keep);
    return a;
}

enum pk_status finish_sums(const struct pk_call *c, const tokens &a, int64_t batch,
                           struct pk_err *err)
{
    sums s = {};
    s.partial = (const float *)c->workspace;
    s.lead = (float *)c->dst[1];
    s.separator = (float *)c->dst[2];
    s.absent = (float *)c->dst[3];
    s.parts = sum_parts(batch, a.leads);
    s.leads = a.leads;
    s.cols = a.cols;
    for (int k = 0; k < SUMS; k++) s.add |= (uint32_t)pk_call_accumulates(c, k + 1) << k;
    return PK_LAUNCH(finish_tokens,
                     dim3((unsigned)(a.cols + THREADS - 1) / THREADS, (unsigned)a.leads + 2),
                     THREADS, 0, c->queue, err, s);
}

} // namespace

#define NO_WORKSPACE(op)                                                                           \
    extern "C" size_t pk_cuda_##op##_workspace(const struct pk_prog *, const struct pk_node *)     \
    {                                                                                              \
        return 0;                                                                                  \
    }
NO_WORKSPACE(lead_present)
NO_WORKSPACE(lead_mask)
NO_WORKSPACE(lead_tokens)
NO_WORKSPACE(lead_pool)
NO_WORKSPACE(lead_pool_grad)

/* in: gain. */
extern "C" enum pk_status pk_cuda_lead_present(const struct pk_call *c, struct pk_err *err)
{
    presence a = {};
    a.gain = (const float *)c->src[0];
    a.y = (float *)c->dst[0];
    a.batch = c->in[0]->dim[0];
    a.all = c->in[0]->dim[1];
    a.leads = (int32_t)c->out[0]->dim[1];
    for (int l = 0; l < 16; l++)
        a.lead[l / 8] |= (uint64_t)c->node->attr.lead_present.lead[l] << 8 * (l % 8);
    return PK_LAUNCH(present_leads, (unsigned)((a.batch + THREADS - 1) / THREADS), THREADS, 0,
                     c->queue, err, a);
}

/* in: sample; out: kept, hidden, seen. Bit for bit what pk_lead_mask_sample gives on the host. */
extern "C" enum pk_status pk_cuda_lead_mask(const struct pk_call *c, struct pk_err *err)
{
    masking a = {};
    a.sample = (const int64_t *)c->src[0];
    a.kept = (int32_t *)c->dst[0];
    a.hidden = (int32_t *)c->dst[1];
    a.seen = (int32_t *)c->dst[2];
    a.leads = c->node->attr.lead_mask.leads;
    a.rows = c->in[0]->dim[0] * a.leads;
    a.seed = c->node->attr.lead_mask.seed;
    a.tokens = c->node->attr.lead_mask.tokens;
    a.keep = c->node->attr.lead_mask.keep;
    PK_TRY(pk_mask_check(a.tokens, a.keep, 1, err));
    return PK_LAUNCH(lead_masks, (unsigned)((a.rows + THREADS - 1) / THREADS), THREADS, 0, c->queue,
                     err, a);
}

/* in: x, table, index, lead, separator, absent, present. */
extern "C" enum pk_status pk_cuda_lead_tokens(const struct pk_call *c, struct pk_err *err)
{
    tokens a = tokens_of(c, c->out[0], c->src[6], c->in[3]->dim[0]);
    a.x = c->src[0];
    a.y = c->dst[0];
    a.table = (const float *)c->src[1];
    a.index = (const int32_t *)c->src[2];
    a.lead = (const float *)c->src[3];
    a.separator = (const float *)c->src[4];
    a.absent = (const float *)c->src[5];
    a.positions = (int32_t)c->in[1]->dim[0];
    a.rows = c->in[0]->dim[0] * (a.keep + 2);
    return run<PUT>(c, a, c->out[0]->dtype, err);
}

extern "C" size_t pk_cuda_lead_tokens_grad_workspace(const struct pk_prog *p,
                                                     const struct pk_node *n)
{
    const struct pk_value *dy = &p->value[n->in[0]], *present = &p->value[n->in[1]];
    const int64_t leads = present->dim[1];
    return (size_t)(sum_parts(dy->dim[0], leads) * leads * SUMS * dy->dim[2]) * sizeof(float);
}

/* in: dy, present; out: dx, dlead, dseparator, dabsent. */
extern "C" enum pk_status pk_cuda_lead_tokens_grad(const struct pk_call *c, struct pk_err *err)
{
    const int64_t batch = c->in[0]->dim[0];
    tokens a = tokens_of(c, c->in[0], c->src[1], c->in[1]->dim[1]);
    a.x = c->src[0];
    if (c->dst[1] || c->dst[2] || c->dst[3]) {
        a.rows = batch;
        PK_TRY(run<SUM>(c, a, c->in[0]->dtype, err));
        PK_TRY(finish_sums(c, a, batch, err));
    }
    if (!c->dst[0]) return PK_OK;
    a.y = c->dst[0];
    a.rows = batch * a.leads * a.keep;
    return pk_call_accumulates(c, 0) ? run<TAKE_ADD>(c, a, c->in[0]->dtype, err)
                                     : run<TAKE>(c, a, c->in[0]->dtype, err);
}

/* in: x, present. */
extern "C" enum pk_status pk_cuda_lead_pool(const struct pk_call *c, struct pk_err *err)
{
    tokens a = tokens_of(c, c->in[0], c->src[1], c->in[1]->dim[1]);
    a.x = c->src[0];
    a.y = c->dst[0];
    a.rows = c->in[0]->dim[0];
    return run<POOL>(c, a, c->in[0]->dtype, err);
}

/* in: dy, present, x (for its shape). */
extern "C" enum pk_status pk_cuda_lead_pool_grad(const struct pk_call *c, struct pk_err *err)
{
    tokens a = tokens_of(c, c->out[0], c->src[1], c->in[1]->dim[1]);
    a.x = c->src[0];
    a.y = c->dst[0];
    a.rows = c->out[0]->dim[0] * c->out[0]->dim[1];
    return pk_call_accumulates(c, 0) ? run<SPREAD_ADD>(c, a, c->out[0]->dtype, err)
                                     : run<SPREAD>(c, a, c->out[0]->dtype, err);
}
