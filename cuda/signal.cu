/* signal.cu -- from raw samples to tokens, and which tokens a record keeps.
 *
 * patchify reads every int16 sample once and writes every value once: 2 + sizeof(S) bytes a sample.
 * A batch of 2,048 records x 8 leads x 5,000 samples is 164 MB in and 164 MB (bf16) or 328 MB
 * (float) out: 76 us and 114 us at the 4.3 TB/s that a copy reaches on an H200.
 *
 * A block takes some tokens of one record, about 16 KB of output. Samples of a lead are neighbours
 * in memory, but the tokens they go to are `leads * patch` values apart, so the block puts the
 * values into shared memory where they belong and then copies that out as it lies, 16 bytes a
 * thread on both sides. A window may start at any sample: pieces of 8 samples are cut on the
 * batch's own 16-byte grid, and the first and last of them are used in part.
 *
 * Model: about 14 instructions a value, 36 M warp instructions, 40 us of issue on 132 SMs at
 * 1.7 GHz, below the memory time; six blocks on an SM (40 registers) keep 48 KB of loads in
 * flight. The stores to shared memory are the trap: lanes are 8 values apart, so
 * that in bf16 the same value of every lane falls on 8 of the 32 banks; lane groups of eight
 * therefore start at a different pair of their piece, which spreads them over all banks.
 *
 * block_mask samples one record per thread (its draws depend on each other; 64-bit remainders and
 * Philox, some 10,000 cycles at 200 tokens and blocks of 10 or more), 16 records a block so that a
 * batch of 2,048 gives every SM one, and whole warps write the lists. Model: 10 to 20 us. */
#include "cuda/rng.h"
#include "cuda/fault.h"

extern "C" {
#include "core/data.h"
#include "core/mask.h"
#include "core/ops.h"
#include "core/view.h"
}

namespace
{

enum {
    THREADS = 256,
    TILE_BYTES = 16384,   // of output per block; registers allow six blocks on an SM
    ROW_BYTES = 32768,    // longest token that is staged in shared memory
    PIECE = 8,            // samples of 16 bytes
    SEGMENT = 2 * PK_WARP // pieces of a lead that a warp takes at a time
};

struct patchify_args {
    const int16_t *signal;      // [batch, leads, samples]
    const float *gain, *offset; // [batch, leads]
    const int32_t *start;       // [batch]
    void *out;                  // [batch, tokens, chosen * patch]
    struct pk_cuda_fault *fault;
    int64_t batch, samples;
    int32_t leads, tokens, patch, chosen;
    int32_t fold;   // leads that are rows of the output of their own (chosen is then 1), else 1
    int32_t tile;   // tokens of a block
    uint32_t magic; // i / patch = i * magic >> 32 for the numbers of a tile, patch > 1
    int32_t node;
    float clip;
    uint64_t lead[2]; // 16 lead numbers of 8 bits, the first in the lowest: constant memory can
                      // then be read without a local copy
};

struct normaliser {
    float gain, offset, clip;
};

/* Those of a lead. fminf and fmaxf prefer the number to the NaN, so that a lead whose constants are
 * not finite gets NaN as its limit: it must not look like data. */
__device__ __forceinline__ struct normaliser normaliser_of(const patchify_args &a, int64_t row)
{
    struct normaliser n = {a.gain[row], a.offset[row], a.clip};
    if (!(fabsf(n.gain) <= 3.4e38f && fabsf(n.offset) <= 3.4e38f)) n.clip = nanf("");
    return n;
}

/* The batch's lead that the chosen lead l is. */
__device__ __forceinline__ int32_t lead_of(const patchify_args &a, int32_t l)
{
    return (int32_t)((l < 8 ? a.lead[0] : a.lead[1]) >> 8 * (l % 8) & 255);
}

/* clip(raw * gain - offset); an invalid sample becomes 0, the lead's mean. */
__device__ __forceinline__ float normalise(int16_t raw, const struct normaliser &n)
{
    const float v = fminf(fmaxf((float)raw * n.gain - n.offset, -n.clip), n.clip);
    return raw == PK_INVALID ? 0.0f : v;
}

__device__ __forceinline__ bool window_ok(const patchify_args &a, int64_t b)
{
    const int64_t from = a.start[b];
    return from >= 0 && from + (int64_t)a.tokens * a.patch <= a.samples;
}

/* Piece p of the batch as four words of two samples; behind the last sample zeros. */
__device__ __forceinline__ vec<uint32_t, 4> load_piece(const patchify_args &a, int64_t p)
{
    const int64_t total = a.batch * a.leads * a.samples;
    if ((p + 1) * PIECE <= total)
        return load<uint32_t, 4>(reinterpret_cast<const uint32_t *>(a.signal + p * PIECE));
    vec<uint32_t, 4> v = {};
    for (int k = 0; k < PIECE && p * PIECE + k < total; k++)
        v.at[k / 2] |= (uint32_t)(uint16_t)a.signal[p * PIECE + k] << 16 * (k % 2);
    return v;
}

/* Where samples of a lead go in the tile. */
template <typename S> struct target {
    S *tile;
    int32_t count, patch, row; // samples of the lead in this tile; values of a token
    int32_t column;            // the lead's first value in a token
    uint32_t magic;
};

/* The values of a piece whose first sample is sample i0 of the tile; i0 is -7 at least, and samples
 * outside [0, count) belong to others. Short: patches of less than 8 samples, which a piece may
 * cross more than once. */
template <typename S, bool Short>
__device__ __forceinline__ void scatter(const target<S> &to, vec<uint32_t, 4> raw, int32_t i0,
                                        const struct normaliser &n)
{
    const int turn = threadIdx.x / 8 % 4; // which pair of samples this lane starts with
    uint32_t w[4];
    for (int k = 0; k < 4; k++) w[k] = turn & 1 ? raw.at[(k + 1) % 4] : raw.at[k];
    for (int k = 0; k < 4; k++) raw.at[k] = turn & 2 ? w[(k + 2) % 4] : w[k];
    const int32_t token = Short ? 0 : (int32_t)__umulhi((uint32_t)(i0 + to.patch), to.magic) - 1;
    const int32_t j0 = i0 - token * to.patch, base = token * to.row + to.column + j0;
#pragma unroll
    for (int k = 0; k < PIECE; k++) {
        const int32_t step = (k + 2 * turn) % PIECE, i = i0 + step;
        if ((uint32_t)i >= (uint32_t)to.count) continue;
        int32_t at = base + step + (j0 + step >= to.patch ? to.row - to.patch : 0);
        if (Short) at = i / to.patch * to.row + to.column + i % to.patch;
        to.tile[at] = from_float<S>(normalise((int16_t)(raw.at[k / 2] >> 16 * (k % 2)), n));
    }
}

/* One warp: SEGMENT pieces of the chosen lead l, from piece `from` of the tile on. lead: the number
 * of the tile's first chosen lead. at: the tile's
 * first sample within the lead. */
template <typename S, bool Short>
__device__ __forceinline__ void stage(const patchify_args &a, target<S> to, int64_t b, int32_t l,
                                      int32_t lead, int64_t at, int32_t from)
{
    const int64_t row = b * a.leads + lead_of(a, lead + l), first = row * a.samples + at;
    const int32_t early = (int32_t)(first % PIECE), pieces = (to.count + early + PIECE - 1) / PIECE;
    const int32_t p0 = from + (int32_t)threadIdx.x % PK_WARP, p1 = p0 + PK_WARP;
    vec<uint32_t, 4> raw[2] = {};
    if (p0 < pieces) raw[0] = load_piece(a, first / PIECE + p0);
    if (p1 < pieces) raw[1] = load_piece(a, first / PIECE + p1);
    const struct normaliser n = normaliser_of(a, row);
    to.column = l * a.patch;
    if (p0 < pieces) scatter<S, Short>(to, raw[0], p0 * PIECE - early, n);
    if (p1 < pieces) scatter<S, Short>(to, raw[1], p1 * PIECE - early, n);
}

template <typename S, bool Short>
__global__ void __launch_bounds__(THREADS) patchify_tiles(const patchify_args a)
{
    enum { V = 16 / sizeof(S) };
    PK_SHARED(uint4, shared);
    const int32_t tiles = (a.tokens + a.tile - 1) / a.tile, row = a.chosen * a.patch;
    const uint32_t folded = blockIdx.x / (uint32_t)tiles, record = folded / (uint32_t)a.fold;
    const int32_t lead = (int32_t)(folded - record * (uint32_t)a.fold);
    const int64_t b = record;
    const int32_t t0 = (int32_t)(blockIdx.x % tiles) * a.tile;
    const int32_t tokens = min(a.tile, a.tokens - t0);
    // The tile lies in shared memory as far from a 16-byte boundary as it does in the output.
    const int64_t out = ((int64_t)folded * a.tokens + t0) * row;
    const int32_t shift = (int32_t)(out % V), end = shift + tokens * row;
    S *const staged = reinterpret_cast<S *>(&shared);
    const target<S> to = {staged + shift, tokens * a.patch, a.patch, row, 0, a.magic};
    if (window_ok(a, b)) {
        const int32_t segments = (to.count + 2 * PIECE - 2) / PIECE / SEGMENT + 1;
        const int32_t units = a.chosen * segments;
        for (int32_t u = threadIdx.x / PK_WARP; u < units; u += THREADS / PK_WARP)
            stage<S, Short>(a, to, b, u / segments, lead, a.start[b] + (int64_t)t0 * a.patch,
                            u % segments * SEGMENT);
    } else {
        if (threadIdx.x == 0) raise_fault(a.fault, PK_FAULT_WINDOW, a.node, b, a.start[b]);
        for (int32_t i = threadIdx.x; i < tokens * row; i += THREADS) to.tile[i] = from_float<S>(0);
    }
    __syncthreads();
    S *const y = (S *)a.out + (out - shift);
    for (int32_t i = (int32_t)threadIdx.x * V; i < end; i += THREADS * V) {
        if (i >= shift && i + V <= end)
            store<S, V>(y + i, load<S, V>(staged + i));
        else
            for (int32_t k = max(i, shift); k < min(i + V, end); k++) y[k] = staged[k];
    }
}

/* Tokens too long for shared memory: one value per thread, neighbours next to each other on both
 * sides wherever a patch is long, as it is here. */
template <typename S>
__global__ void __launch_bounds__(THREADS) patchify_long(const patchify_args a, int64_t count)
{
    const int64_t stride = (int64_t)gridDim.x * THREADS, row = (int64_t)a.chosen * a.patch;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        const int64_t token = i / row, folded = token / a.tokens, t = token % a.tokens;
        const int64_t b = folded / a.fold;
        const int32_t l = (int32_t)(i % row / a.patch), j = (int32_t)(i % a.patch);
        const int64_t lead = b * a.leads + lead_of(a, (int32_t)(folded % a.fold) + l);
        float v = 0;
        if (window_ok(a, b))
            v = normalise(a.signal[lead * a.samples + a.start[b] + t * a.patch + j],
                          normaliser_of(a, lead));
        else if (i % (row * a.tokens * a.fold) == 0)
            raise_fault(a.fault, PK_FAULT_WINDOW, a.node, b, a.start[b]);
        ((S *)a.out)[i] = from_float<S>(v);
    }
}

template <typename S>
enum pk_status patchify(const struct pk_queue *q, struct patchify_args *a, struct pk_err *err)
{
    const int64_t row = (int64_t)a->chosen * a->patch, bytes = row * (int64_t)sizeof(S);
    const int64_t count = a->batch * a->fold * a->tokens * row;
    if (bytes > ROW_BYTES) {
        const int64_t blocks = PK_MIN((count + THREADS - 1) / THREADS, (int64_t)1 << 20);
        return PK_LAUNCH(patchify_long<S>, (unsigned)blocks, THREADS, 0, q, err, *a, count);
    }
    const int64_t fit = PK_MAX(TILE_BYTES / bytes, 1);
    int64_t tiles = (a->tokens + fit - 1) / fit;
    a->tile = (int32_t)((a->tokens + tiles - 1) / tiles);
    tiles = (a->tokens + a->tile - 1) / a->tile;
    a->magic = (uint32_t)((((uint64_t)1 << 32) + (uint64_t)a->patch - 1) / (uint64_t)a->patch);
    const unsigned grid = (unsigned)(a->batch * a->fold * tiles);
    const size_t shared = (size_t)(a->tile * bytes) + 32;
    if (a->patch < PIECE)
        return PK_LAUNCH((patchify_tiles<S, true>), grid, THREADS, shared, q, err, *a);
    return PK_LAUNCH((patchify_tiles<S, false>), grid, THREADS, shared, q, err, *a);
}

enum { MASK_RECORDS = 16, MASK_THREADS = 128 };

struct mask_args {
    const int64_t *sample;  // [batch]
    int32_t *kept, *hidden; // [batch, keep] and [batch, tokens - keep]
    int64_t batch;
    uint64_t seed;
    int32_t tokens, keep, min_block;
};

/* The set and the clear bits of a record as two ascending lists; one warp. */
__device__ __forceinline__ void list_bits(const mask_args &a, const uint32_t *gone, int64_t b)
{
    int32_t *const kept = a.kept + b * a.keep, *const hidden = a.hidden + b * (a.tokens - a.keep);
    const int32_t lane = threadIdx.x % PK_WARP;
    int32_t earlier = 0; // hidden tokens before the word
    for (int32_t w = 0; w < pk_mask_words(a.tokens); w++) {
        const uint32_t bits = gone[w * MASK_RECORDS];
        const int32_t t = 32 * w + lane;
        const int32_t before = earlier + pk_bits_count(bits & ((1u << lane) - 1));
        if (t < a.tokens) {
            if (bits >> lane & 1)
                hidden[before] = t;
            else
                kept[t - before] = t;
        }
        earlier += pk_bits_count(bits);
    }
}

__global__ void __launch_bounds__(MASK_THREADS) block_masks(const mask_args a)
{
    PK_SHARED(uint32_t, shared); // word w of record r is [w][r]: no two records on one bank
    uint32_t *const gone = &shared;
    const int64_t first = (int64_t)blockIdx.x * MASK_RECORDS;
    const int32_t records = (int32_t)min((int64_t)MASK_RECORDS, a.batch - first);
    const int32_t me = threadIdx.x;
    if (me < records)
        pk_mask_bits(gone + me, MASK_RECORDS, a.seed, (uint64_t)a.sample[first + me], a.tokens,
                     a.keep, a.min_block);
    __syncthreads();
    for (int32_t r = me / PK_WARP; r < records; r += MASK_THREADS / PK_WARP)
        list_bits(a, gone + r, first + r);
}

} // namespace

extern "C" {

enum pk_status pk_cuda_patchify(const struct pk_call *c, struct pk_err *err);
size_t pk_cuda_patchify_workspace(const struct pk_prog *p, const struct pk_node *n);
enum pk_status pk_cuda_block_mask(const struct pk_call *c, struct pk_err *err);
size_t pk_cuda_block_mask_workspace(const struct pk_prog *p, const struct pk_node *n);

/* Faults    PK_FAULT_WINDOW the window of a record is outside its samples; its tokens are zero
 * Differs   from the CPU only where gain or offset is not finite: the whole lead is NaN here */
enum pk_status pk_cuda_patchify(const struct pk_call *c, struct pk_err *err)
{
    const union pk_attr *attr = &c->node->attr;
    struct patchify_args a = {};
    a.signal = (const int16_t *)c->src[0];
    a.gain = (const float *)c->src[1];
    a.offset = (const float *)c->src[2];
    a.start = (const int32_t *)c->src[3];
    a.out = c->dst[0];
    a.fault = c->queue->fault;
    a.batch = c->in[0]->dim[0];
    a.leads = (int32_t)c->in[0]->dim[1];
    a.samples = c->in[0]->dim[2];
    a.patch = attr->patchify.patch;
    a.chosen = attr->patchify.leads;
    a.tokens = (int32_t)(pk_view_count(c->out[0]) / (a.batch * a.chosen * a.patch));
    a.fold = 1;
    if (attr->patchify.layout != PK_LAYOUT_JOINT) { // a lead is a record of one lead
        a.fold = a.chosen;
        a.chosen = 1;
    }
    a.node = c->node->scope;
    a.clip = attr->patchify.clip;
    for (int l = 0; l < 16; l++) a.lead[l / 8] |= (uint64_t)attr->patchify.lead[l] << 8 * (l % 8);
    if (c->out[0]->dtype == PK_BF16) return patchify<bf16>(c->queue, &a, err);
    return patchify<float>(c->queue, &a, err);
}

size_t pk_cuda_patchify_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

/* Bit for bit what pk_mask_sample gives on the host. */
enum pk_status pk_cuda_block_mask(const struct pk_call *c, struct pk_err *err)
{
    struct mask_args a = {};
    a.sample = (const int64_t *)c->src[0];
    a.kept = (int32_t *)c->dst[0];
    a.hidden = (int32_t *)c->dst[1];
    a.batch = c->in[0]->dim[0];
    a.seed = c->node->attr.block_mask.seed;
    a.tokens = c->node->attr.block_mask.tokens;
    a.keep = c->node->attr.block_mask.keep;
    a.min_block = c->node->attr.block_mask.min_block;
    PK_TRY(pk_mask_check(a.tokens, a.keep, a.min_block, err));
    const int64_t blocks = (a.batch + MASK_RECORDS - 1) / MASK_RECORDS;
    const size_t shared = (size_t)pk_mask_words(a.tokens) * MASK_RECORDS * sizeof(uint32_t);
    return PK_LAUNCH(block_masks, (unsigned)blocks, MASK_THREADS, shared, c->queue, err, a);
}

size_t pk_cuda_block_mask_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

} // extern "C"
