/* conv1d_mma.cu -- dense and grouped convolution in bf16 on the tensor cores: an implicit matrix
 * product over channels-last records, mma.m16n8k16, sums in float.
 *
 *                 rows                columns   depth       lines of a      lines of b
 *     forward     (b, u)              n         (k, c)      x, by row       weights, by column
 *     dx          (b, t) of a phase   c         (j, n)      dy, by row      weights, by step
 *     dw          n                   (k, c)    (b, u)      dy, by step     x, by step
 *
 * 8 neighbouring channels of one sample are a chunk of 16 bytes, which one asynchronous copy brings
 * from where it lies in x, dy or the weights, or fills with zeros where there is padding, so a
 * matrix of windows exists nowhere. That needs channels in multiples of 8: weights are brought from
 * [N, C, K] to [N, K, C] in the workspace, and an input of few leads (the stem's 12) is padded to
 * [B, T, 16] there.
 *
 * dx with stride s: sample t = q s + p - left is read by taps k = p + s j, as output q - j. The
 * samples of one phase p are a product of their own over the taps of that phase, so no structural
 * zero is multiplied.
 *
 * dw sums ranges of (b, u) in parts [N, K, C], which are added in order, and brought into the order
 * of the weights by the same kernel. The order of every sum depends on the shape only, not on the
 * tile.
 *
 * A CTA makes one tile with 4 warps. Where it reads from, for Hopper (arithmetic, not measured): a
 * step of 128 x 64 x 32 copies 12 KiB for 524,288 FLOP, 43 per byte; all of it from L2, at some
 * 5.5 TB/s, would be 235 TFLOP/s, well below what mma.sync gives. But the next tap reads the same
 * samples moved by one, so copies go through L1 (a product's bypass it): between a tap and the next
 * lie 4 CTAs x 16 KiB of 64 channels and 8 KiB of weights that all of them read, and 3 slots in
 * shared memory, 4 x (36 + 1) KiB, leave L1 92 KiB. A sample read once from L2 is, for 64 to 64
 * channels under 5 taps, 58 KB for 5.2 MFLOP: 90 per byte. In flight per SM: 4 CTAs x 2 slots x
 * 12 KiB = 96 KiB, where 5.5 TB/s x 700 ns / 132 SMs ask for 29 KiB. Tiles that run together are
 * neighbours in column, then group, then phase, then row, so that x (dx: dy) is read from memory
 * about once. Groups of 16 or 32 channels get tiles as narrow as they are (Net1D).
 *
 * Registers as ptxas (CUDA 13.0) says for sm_80 and sm_90a, without spills: 122 to 127 for
 * 128 x 64, 90 to 96 for 64 x 64 and 128 x 32, 76 to 80 for 128 x 16 and 64 x 32, which is what
 * PER_SM CTAs leave each. */
#include "cuda/conv1d.h"
#include "cuda/gemm_tile.h"
#include "cuda/mma_tile.h"

extern "C" {
#include "core/view.h"
}

namespace
{
enum { THREADS = 128, DEPTH = 32, STAGES = 3, CHUNKS = DEPTH / 8 };
enum { FORWARD = PK_CONV_FORWARD, DX = PK_CONV_DX, DW = PK_CONV_DW };
enum { SUM_COLS = 32, SUM_LANES = 8 }; // of the kernel that adds the parts of dw

struct conv {
    const bf16 *from;  // what is read through the convolution's indices: x, or dy for dx
    const bf16 *other; // weights [N, K, C / groups], or dy for dw
    const float *bias;
    void *to; // y, dx, or the parts of dw
    bool add;
    int32_t batch, in, out, c, n, kernel, stride, left, groups, cg, ng; // c, cg: with padding
    int32_t range;                                                      // dw: rows of one part
    int32_t row_tiles, col_tiles;
};

/* A tile, and what the phase of dx makes of rows and depth. */
struct place {
    int32_t row, col, group;
    int32_t part;        // of dw, phase of dx
    int32_t rows;        // of the whole product
    int32_t taps;        // forward: all
    int32_t first, each; // dx: q of the first sample, samples of one record
};

/* A number as quotient and remainder, moved on without dividing again. */
struct wheel {
    int32_t turn, at;
};
__device__ __forceinline__ wheel wheel_of(int32_t number, int32_t size)
{
    return {number / size, number % size};
}
__device__ __forceinline__ void advance(wheel &w, wheel by, int32_t size)
{
    w.turn += by.turn, w.at += by.at;
    if (w.at >= size) w.at -= size, w.turn++;
}

__device__ __forceinline__ void open_phase(const conv &v, place &p)
{
    const int32_t s = v.stride, from = v.left - p.part, end = v.in + from;
    p.taps = p.part < v.kernel ? (v.kernel - p.part + s - 1) / s : 0;
    p.first = from > 0 ? (from + s - 1) / s : 0;
    p.each = max((end > 0 ? (end + s - 1) / s : 0) - p.first, 0);
    p.rows = v.batch * p.each;
}

template <int PASS, int ROWS, int COLS> __device__ __forceinline__ place locate(const conv &v)
{
    int32_t tile = (int32_t)blockIdx.x;
    place p = {};
    p.col = tile % v.col_tiles * COLS, tile /= v.col_tiles;
    p.group = tile % v.groups, tile /= v.groups;
    if constexpr (PASS == DX) {
        p.part = tile % v.stride, p.row = tile / v.stride * ROWS;
        open_phase(v, p);
    } else {
        p.row = tile % v.row_tiles * ROWS, p.part = tile / v.row_tiles;
        p.rows = PASS == FORWARD ? v.batch * v.out : v.ng, p.taps = v.kernel;
    }
    return p;
}

/* The rows that a thread copies one chunk of in every step (forward, dx): for tap j that is sample
 * first + j (dx: first - j) of the record that starts at sample `record`. */
template <int LINES> struct row_lines {
    int32_t first[LINES], record[LINES];
    wheel tap; // tap and channel of the chunk
};

template <int PASS, int LINES>
__device__ __forceinline__ void open_rows(row_lines<LINES> &r, const conv &v, const place &p)
{
    const int32_t each = PASS == FORWARD ? v.out : p.each, length = PASS == FORWARD ? v.in : v.out;
    const int32_t nowhere = INT32_MIN / 2; // before every record
    r.tap = wheel_of((int)threadIdx.x % CHUNKS * 8, PASS == FORWARD ? v.cg : v.ng);
#pragma unroll
    for (int i = 0; i < LINES; i++) {
        const int32_t m = p.row + (int)threadIdx.x / CHUNKS + i * (THREADS / CHUNKS);
        const wheel at = wheel_of(m, each); // a tile with rows has some in each record
        const int32_t start = PASS == FORWARD ? at.at * v.stride - v.left : p.first + at.at;
        r.first[i] = m < p.rows ? start : nowhere;
        r.record[i] = at.turn * length;
    }
}

template <int PASS, int LINES>
__device__ __forceinline__ void fetch_rows(bf16 *slot, row_lines<LINES> &r, const conv &v,
                                           const place &p, wheel step)
{
    const int32_t length = PASS == FORWARD ? v.in : v.out, width = PASS == FORWARD ? v.c : v.n;
    const int32_t inner = PASS == FORWARD ? v.cg : v.ng;
    const bf16 *from = v.from + p.group * inner + r.tap.at;
#pragma unroll
    for (int i = 0; i < LINES; i++) {
        const int l = (int)threadIdx.x / CHUNKS + i * (THREADS / CHUNKS);
        const int32_t t = PASS == FORWARD ? r.first[i] + r.tap.turn : r.first[i] - r.tap.turn;
        const bool valid = t >= 0 && t < length && r.tap.turn < p.taps;
        copy_async_16_cached(slot + gemm_chunk<CHUNKS>(l, (int)threadIdx.x % CHUNKS),
                             valid ? from + (int64_t)(r.record[i] + t) * width : v.from, valid);
    }
    advance(r.tap, step, inner);
}

/* The steps of the depth that a thread copies a chunk of columns of (b of dx and dw). */
template <int COLS> struct step_lines {
    static constexpr int WIDE = COLS / 8, APART = THREADS / WIDE;
    static constexpr int LINES = (DEPTH + APART - 1) / APART;
    wheel at[LINES];      // dx: tap and channel of dy; dw: record and output
    int32_t tap, channel; // dw: of the chunk
};

template <int PASS, int COLS>
__device__ __forceinline__ void open_steps(step_lines<COLS> &s, const conv &v, const place &p,
                                           int32_t k)
{
    using L = step_lines<COLS>;
    const int32_t col = p.col + (int)threadIdx.x % L::WIDE * 8;
#pragma unroll
    for (int i = 0; i < L::LINES; i++)
        s.at[i] =
            wheel_of(k + (int)threadIdx.x / L::WIDE + i * L::APART, PASS == DX ? v.ng : v.out);
    s.tap = PASS == DX ? 0 : col / v.cg;
    s.channel = PASS == DX ? col : col % v.cg;
}

template <int PASS, int COLS>
__device__ __forceinline__ void fetch_steps(bf16 *slot, step_lines<COLS> &s, const conv &v,
                                            const place &p, int32_t end, wheel step)
{
    using L = step_lines<COLS>;
    const int chunk = (int)threadIdx.x % L::WIDE;
#pragma unroll
    for (int i = 0; i < L::LINES; i++) {
        const int l = (int)threadIdx.x / L::WIDE + i * L::APART;
        const wheel at = s.at[i];
        bool valid;
        const bf16 *from;
        if (L::APART > DEPTH && l >= DEPTH) break; // fewer chunks than threads
        if constexpr (PASS == DX) {
            const int32_t k = p.part + v.stride * at.turn;
            valid = at.turn < p.taps && s.channel < v.cg;
            from = v.other + ((int64_t)(p.group * v.ng + at.at) * v.kernel + k) * v.cg + s.channel;
        } else {
            const int32_t t = at.at * v.stride + s.tap - v.left;
            valid = at.turn * v.out + at.at < end && s.tap < v.kernel && t >= 0 && t < v.in;
            from = v.from + ((int64_t)at.turn * v.in + t) * v.c + p.group * v.cg + s.channel;
        }
        copy_async_16_cached(slot + gemm_chunk<L::WIDE>(l, chunk), valid ? from : v.from, valid);
        advance(s.at[i], step, PASS == DX ? v.ng : v.out);
    }
}

/* Eight neighbouring columns of row m. */
template <int PASS>
__device__ __forceinline__ void put(const conv &v, const place &p, int32_t m, int32_t col,
                                    float x[8])
{
    float w[8];
    if (m >= p.rows) return;
    if constexpr (PASS == FORWARD) {
        const int32_t channel = p.group * v.ng + col;
        if (col >= v.ng) return;
        if (v.bias) gemm_load<true, 8>(w, v.bias + channel, 8);
#pragma unroll
        for (int i = 0; v.bias && i < 8; i++) x[i] += w[i];
        gemm_store<true, 8>((bf16 *)v.to + (int64_t)m * v.n + channel, x, 8);
    } else if constexpr (PASS == DX) {
        const wheel at = wheel_of(m, p.each);
        const int32_t t = (p.first + at.at) * v.stride + p.part - v.left;
        bf16 *dx = (bf16 *)v.to + ((int64_t)at.turn * v.in + t) * v.c + p.group * v.cg + col;
        if (col >= v.cg) return;
        if (v.add) gemm_load<true, 8>(w, dx, 8);
#pragma unroll
        for (int i = 0; v.add && i < 8; i++) x[i] += w[i];
        gemm_store<true, 8>(dx, x, 8);
    } else {
        const int32_t cols = v.kernel * v.cg;
        const int64_t filter = (int64_t)p.part * v.n + p.group * v.ng + m;
        if (col < cols) gemm_store<true, 8>((float *)v.to + filter * cols + col, x, 8);
    }
}

/* Stores a warp's share of a tile: lanes of a quad exchange four 8-column pieces, so that each
 * holds one of them whole. The four are neighbours in one row, or two and two of rows 8 apart where
 * a warp has only 16 columns. */
template <int PASS, int MI, int NJ>
__device__ __forceinline__ void finish(const conv &v, const place &p, int32_t row, int32_t col,
                                       const float d[MI][NJ][4])
{
    static_assert(NJ == 2 || NJ % 4 == 0, "pieces for a quad of lanes");
    const int lane = (int)threadIdx.x % PK_WARP, t = lane % 4;
#pragma unroll
    for (int i = 0; i < (NJ == 2 ? MI : 2 * MI); i++)
#pragma unroll
        for (int j = 0; j < NJ; j += 4) {
            float x[4][2];
#pragma unroll
            for (int q = 0; q < 4; q++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    x[q][e] = NJ == 2 ? d[i][q % 2][q / 2 * 2 + e] : d[i / 2][j + q][i % 2 * 2 + e];
            gemm_gather(x);
            if constexpr (NJ == 2)
                put<PASS>(v, p, row + lane / 4 + i * 16 + t / 2 * 8, col + t % 2 * 8, &x[0][0]);
            else
                put<PASS>(v, p, row + lane / 4 + i * 8, col + (j + t) * 8, &x[0][0]);
        }
}

template <int PASS, int ROWS, int COLS, int WARPS_M, int PER_SM>
__global__ void __launch_bounds__(THREADS, PER_SM) conv_mma(conv v)
{
    using slots = gemm_slots<ROWS, COLS, DEPTH, STAGES>;
    constexpr bool A_K = PASS == DW, B_K = PASS != FORWARD; // lines are steps of the depth
    constexpr int A_CHUNKS = A_K ? ROWS / 8 : CHUNKS, B_CHUNKS = B_K ? COLS / 8 : CHUNKS;
    constexpr int WARPS_N = THREADS / PK_WARP / WARPS_M;
    constexpr int MI = ROWS / WARPS_M / 16, NJ = COLS / WARPS_N / 8;
    PK_SHARED(slots, s);
    const place p = locate<PASS, ROWS, COLS>(v);
    if (p.row >= p.rows) return; // a phase with fewer samples than others
    const int32_t inner = PASS == FORWARD ? v.cg : v.ng;
    const int32_t begin = PASS == DW ? p.part * v.range : 0;
    const int32_t end = PASS == DW ? min(begin + v.range, v.batch * v.out) : p.taps * inner;
    const int32_t steps = (end - begin + DEPTH - 1) / DEPTH;
    const wheel step = wheel_of(DEPTH, inner), row_step = wheel_of(DEPTH, v.out);
    row_lines<A_K ? 1 : ROWS / 32> rows;
    step_lines<COLS> lines;
    if constexpr (!A_K) open_rows<PASS>(rows, v, p);
    if constexpr (B_K) open_steps<PASS, COLS>(lines, v, p, begin);

    auto fetch = [&](int slot, int32_t number) {
        const int32_t k = begin + number * DEPTH;
        if (number < steps) {
            if constexpr (A_K)
                gemm_fetch<DEPTH, A_CHUNKS, THREADS, true>(s.a[slot], v.other + p.group * v.ng, v.n,
                                                           k, end, p.row, v.ng);
            else
                fetch_rows<PASS>(s.a[slot], rows, v, p, step);
            if constexpr (B_K)
                fetch_steps<PASS, COLS>(s.b[slot], lines, v, p, end, A_K ? row_step : step);
            else
                gemm_fetch<COLS, B_CHUNKS, THREADS, true, true>(
                    s.b[slot], v.other + (int64_t)p.group * v.ng * end, end, p.col, v.ng, k, end);
        }
        copy_async_commit();
    };
    for (int i = 0; i < STAGES - 1; i++) fetch(i, i);

    const int warp = (int)threadIdx.x / PK_WARP;
    const int row = warp / WARPS_N * (ROWS / WARPS_M), col = warp % WARPS_N * (COLS / WARPS_N);
    float d[MI][NJ][4] = {};
    int slot = 0;
    for (int32_t i = 0; i < steps; i++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads(); // this step's slot is full; the one before it is free again
        fetch(slot == 0 ? STAGES - 1 : slot - 1, i + STAGES - 1);
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            uint32_t fa[MI][4];
            gemm_multiply<A_K, B_K, A_CHUNKS, B_CHUNKS, MI, NJ>(d, fa, s.a[slot], s.b[slot], row,
                                                                col, k);
        }
        slot = slot + 1 == STAGES ? 0 : slot + 1;
    }
    copy_async_wait<0>();
    finish<PASS, MI, NJ>(v, p, p.row + row, p.col + col, d);
}

/* --- around the product ---------------------------------------------------------------------- */

/* to[n][k][c] = w[n][c][k] for c < channels, else 0; a thread makes 8 channels. Numbers of threads
 * are 32 bits wide, since dividing is most of what they do. */
__global__ void __launch_bounds__(256)
    pack_weights(bf16 *to, const bf16 *w, uint32_t chunks, uint32_t kernel, uint32_t channels,
                 uint32_t wide)
{
    const uint32_t i = blockIdx.x * 256 + threadIdx.x, each = wide / 8, c = i % each * 8;
    const int64_t n = i / each / kernel, k = i / each % kernel;
    vec<bf16, 8> v;
    if (i >= chunks) return;
#pragma unroll
    for (uint32_t j = 0; j < 8; j++)
        v.at[j] =
            c + j < channels ? w[(n * channels + c + j) * kernel + k] : __float2bfloat16_rn(0.0f);
    store(to + (int64_t)i * 8, v);
}

/* out[n][c][k] (+)= sum over p of partial[p][n][k][c], c < channels of `wide`. Lane l adds parts l,
 * l + 8, ...; then the lanes are added in order. */
struct sum_scratch {
    float at[SUM_LANES][SUM_COLS];
};
__global__ void __launch_bounds__(SUM_LANES *SUM_COLS)
    sum_weights(float *out, const float *partial, int64_t weights, int32_t parts, int32_t kernel,
                int32_t channels, int32_t wide, bool add)
{
    PK_SHARED(sum_scratch, s);
    const int lane = (int)threadIdx.x / SUM_COLS, local = (int)threadIdx.x % SUM_COLS;
    const int64_t at = (int64_t)blockIdx.x * SUM_COLS + local;
    float sum = 0;
#pragma unroll 4
    for (int32_t p = lane; at < weights && p < parts; p += SUM_LANES)
        sum += partial[p * weights + at];
    s.at[lane][local] = sum;
    __syncthreads();
    const int32_t c = (int32_t)(at % wide);
    if (lane || at >= weights || c >= channels) return;
    for (int l = 1; l < SUM_LANES; l++) sum += s.at[l][local];
    float *to = out + (at / wide / kernel * channels + c) * kernel + at / wide % kernel;
    *to = add ? *to + sum : sum;
}

int32_t wide_of(const struct pk_cuda_conv *v)
{
    return (v->cg + 7) / 8 * 8;
}

int64_t packed_weights(const struct pk_cuda_conv *v)
{
    return (int64_t)v->n * v->kernel * wide_of(v);
}

/* Bytes of the first part of the workspace: the packed weights, which one sample wide are packed as
 * they are, or the parts of dw. */
size_t first_bytes(const struct pk_cuda_conv *v, enum pk_conv_pass pass)
{
    const bool as_is = v->kernel == 1 && wide_of(v) == v->cg;
    const int64_t bytes = pass == PK_CONV_DW ? packed_weights(v) * v->parts * (int64_t)sizeof(float)
                          : as_is            ? 0
                                             : packed_weights(v) * (int64_t)sizeof(bf16);
    return (size_t)((bytes + 255) / 256 * 256);
}

/* x [rows, c] as [rows, wide] is what pack_weights makes of "filters" of one sample. */
enum pk_status pack(const struct pk_queue *q, bf16 *to, const void *from, int64_t filters,
                    const struct pk_cuda_conv *v, int32_t kernel, struct pk_err *err)
{
    const uint32_t wide = (uint32_t)wide_of(v);
    const int64_t chunks = filters * kernel * (wide / 8);
    if (chunks > UINT32_MAX - 256)
        return pk_fail(err, PK_ESHAPE,
                       "%lld numbers are too many to put in order for a convolution",
                       (long long)chunks * 8);
    return PK_LAUNCH(pack_weights, (unsigned)((chunks + 255) / 256), 256, 0, q, err, to,
                     (const bf16 *)from, (uint32_t)chunks, (uint32_t)kernel, (uint32_t)v->cg, wide);
}

template <int PASS, int ROWS, int COLS, int WARPS_M, int PER_SM>
enum pk_status launch(const struct pk_queue *q, conv *v, int32_t rows, int32_t cols, int32_t parts,
                      struct pk_err *err)
{
    v->row_tiles = (rows + ROWS - 1) / ROWS, v->col_tiles = (cols + COLS - 1) / COLS;
    const int64_t tiles = (int64_t)v->row_tiles * v->col_tiles * v->groups * parts;
    if (tiles > INT32_MAX)
        return pk_fail(err, PK_ESHAPE, "a convolution of %lld tiles is too large for one launch",
                       (long long)tiles);
    return PK_LAUNCH((conv_mma<PASS, ROWS, COLS, WARPS_M, PER_SM>), (unsigned)tiles, THREADS,
                     sizeof(gemm_slots<ROWS, COLS, DEPTH, STAGES>), q, err, *v);
}

/* Tiles as narrow as the groups; the tallest that fill the device, and small ones where none do: a
 * layer of 128 records of 16 samples has 2,048 rows. rows: of the largest phase. */
template <int PASS>
enum pk_status choose(const struct pk_queue *q, conv *v, int32_t rows, int32_t cols, int32_t parts,
                      struct pk_err *err)
{
    const int64_t across = (int64_t)((cols + 63) / 64) * v->groups * parts;
    const int64_t tall = (rows + 127) / 128 * across, low = (rows + 63) / 64 * across;
    if constexpr (PASS == DW) {
        if (rows <= 16) return launch<DW, 16, 128, 1, 6>(q, v, rows, cols, parts, err);
        if (rows <= 32) return launch<DW, 32, 128, 1, 5>(q, v, rows, cols, parts, err);
        if (rows > 64 && tall >= q->sms)
            return launch<DW, 128, 64, 2, 4>(q, v, rows, cols, parts, err);
    } else {
        if (cols <= 16) return launch<PASS, 128, 16, 4, 6>(q, v, rows, cols, parts, err);
        if (cols <= 32) return launch<PASS, 128, 32, 4, 5>(q, v, rows, cols, parts, err);
        if (tall >= q->sms) return launch<PASS, 128, 64, 2, 4>(q, v, rows, cols, parts, err);
        if (low < q->sms) return launch<PASS, 64, 32, 4, 6>(q, v, rows, cols, parts, err);
    }
    return launch<PASS, 64, 64, 2, 5>(q, v, rows, cols, parts, err);
}

/* dw: parts of whole steps, none of them empty, then their sum. */
enum pk_status weights(const struct pk_queue *q, const struct pk_cuda_conv *a, conv *v,
                       struct pk_err *err)
{
    const int32_t rows = v->batch * v->out, each = (rows + a->parts - 1) / a->parts;
    const int64_t sums = packed_weights(a);
    v->range = (each + DEPTH - 1) / DEPTH * DEPTH;
    const int32_t parts = (rows + v->range - 1) / v->range;
    v->to = a->workspace, v->other = (const bf16 *)a->dy;
    PK_TRY(choose<DW>(q, v, v->ng, v->kernel * v->cg, parts, err));
    return PK_LAUNCH(sum_weights, (unsigned)((sums + SUM_COLS - 1) / SUM_COLS),
                     SUM_LANES * SUM_COLS, sizeof(sum_scratch), q, err, (float *)a->to,
                     (const float *)v->to, sums, parts, v->kernel, a->cg, v->cg, a->add);
}
} // namespace

extern "C" {

bool pk_cuda_conv_mma_takes(const struct pk_cuda_conv *v, enum pk_conv_pass pass)
{
    const bool padded = pass != PK_CONV_DX && v->groups == 1 && v->cg >= 4;
    return v->type == PK_BF16 && v->ng % 8 == 0 && (v->cg % 8 == 0 || padded);
}

size_t pk_cuda_conv_mma_workspace(const struct pk_cuda_conv *v, enum pk_conv_pass pass)
{
    const bool padded = wide_of(v) != v->cg;
    return first_bytes(v, pass) +
           (padded ? (size_t)v->batch * v->in * wide_of(v) * sizeof(bf16) : 0);
}

enum pk_status pk_cuda_conv_mma(const struct pk_queue *q, const struct pk_cuda_conv *a,
                                enum pk_conv_pass pass, struct pk_err *err)
{
    const size_t before = first_bytes(a, pass);
    conv v = {};
    v.from = (const bf16 *)(pass == PK_CONV_DX ? a->dy : a->x), v.other = (const bf16 *)a->w;
    v.bias = a->bias, v.to = a->to, v.add = a->add;
    v.batch = a->batch, v.in = a->in, v.out = a->out, v.n = a->n, v.kernel = a->kernel;
    v.stride = a->stride, v.left = a->left, v.groups = a->groups, v.ng = a->ng;
    v.cg = wide_of(a), v.c = v.cg * a->groups;
    if (v.cg != a->cg) {
        bf16 *x = (bf16 *)((char *)a->workspace + before);
        PK_TRY(pack(q, x, a->x, (int64_t)a->batch * a->in, a, 1, err));
        v.from = x;
    }
    if (pass == PK_CONV_DW) return weights(q, a, &v, err);
    if (before) {
        v.other = (const bf16 *)a->workspace;
        PK_TRY(pack(q, (bf16 *)a->workspace, a->w, a->n, a, a->kernel, err));
    }
    if (pass == PK_CONV_FORWARD) return choose<FORWARD>(q, &v, v.batch * v.out, v.ng, 1, err);
    const int32_t longest = (v.in + v.stride - 1) / v.stride; // samples of a record in one phase
    return choose<DX>(q, &v, v.batch * longest, v.cg, v.stride, err);
}
}
