/* attention_forward.cu -- bf16 self-attention on tensor cores, forward.
 *
 * Up to 256 tokens (attention_rows): one block per (record, head). K and V of the head are in
 * shared memory once; a warp takes 16 queries, holds their whole score row in registers, and the
 * softmax is exact: one maximum, no rescaling. Registers of a lane at 208 keys, head 64:
 *     scores 16 x 208 / 32 = 104, query fragments 16, key fragments 8, offsets and addresses 20;
 *     then probabilities 52 (bf16 pairs), output 32, the next tile's query fragments 16.
 * That is more than the 128 that 16 warps per SM would leave and less than the 168 of 12 warps. As
 * blocks of three warps, four per SM: 13 tiles of 16 queries are 5 + 4 + 4 (13 of 15 places busy;
 * four warps of three blocks would be 4 + 3 + 3 + 3, 13 of 16), three blocks compute while the
 * fourth loads, and K and V take 2 x 208 x 128 = 53,248 bytes, four times in the 227 KiB of an
 * H200, three times in the 163 KiB of an A100. Queries are read straight into fragments. 201 tokens
 * are padded to 208 in both directions, 7 % more products than needed.
 *
 * More tokens (attention_chunks): a block per 128 queries, keys in chunks of 64 with a running
 * maximum and sum (Milakov and Gimelshein 2018; Dao et al. 2022, FlashAttention).
 *
 * P is rounded to bf16 for P V; the row sum is taken from the unrounded values. */
#include "cuda/attention.h"

namespace
{

/* Narrow heads have the room for padding, and need the registers it saves more. */
template <int HEAD> constexpr tile_layout layout = HEAD <= 48 ? padded : swizzled;
template <int HEAD> constexpr int length = row_length<HEAD, layout<HEAD>>; // of a row

/* One tile of 16 queries against KEYS keys: scores to unnormalised probabilities. `top` holds the
 * row maxima seen so far (rows g and g + 8, unscaled scores) and becomes the new ones; `sum` gets
 * this lane's share of the row sums added. p[n] are the fragments of columns 8 n and on. */
template <int KEYS>
__device__ __forceinline__ void softmax(uint32_t (&p)[KEYS / 8][2], float (&s)[KEYS / 8][4],
                                        float (&top)[2], float (&sum)[2], float scale_log2)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float m = top[half];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) m = fmaxf(m, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
        top[half] = m;
        const float shift = -m * scale_log2;
        float total = 0;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            const float low = exp2_fast(fmaf(s[n][2 * half], scale_log2, shift));
            const float high = exp2_fast(fmaf(s[n][2 * half + 1], scale_log2, shift));
            total += low + high;
            p[n][half] = pack_bf16(low, high);
        }
        sum[half] += total;
    }
}

/* Fragments of 16 queries, `valid` of which exist; all zero when none does. */
template <int HEAD>
__device__ __forceinline__ void load_queries(uint32_t (&q)[HEAD / 16][4], const bf16 *from,
                                             int stride, int valid, int head)
{
    const int lane = (int)threadIdx.x % PK_WARP, g = lane / 4, t = lane % 4;
    const bf16 *line = from + g * stride + 2 * t;
#pragma unroll
    for (int half = 0; half < 2; half++, line += 8 * stride) {
        const bool there = g + 8 * half < valid;
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) {
            const bool inside = 8 * n < least_head<HEAD> || 8 * n < head;
            q[n / 2][n % 2 * 2 + half] =
                there && inside ? *reinterpret_cast<const uint32_t *>(line + 8 * n) : 0u;
        }
    }
}

/* Scores of a tile of queries: s = q k^T over KEYS rows of k, and -infinity for keys from `left`
 * on; only columns from LOWER on can be such. */
template <int HEAD, int KEYS, int LOWER>
__device__ __forceinline__ void score(float (&s)[KEYS / 8][4], const uint32_t (&q)[HEAD / 16][4],
                                      const bf16 *k, const int (&at)[HEAD / 16], int left)
{
    const int t = (int)threadIdx.x % 4;
    clear(s);
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++)
#pragma unroll
        for (int d = 0; d < HEAD / 16; d++)
            product_rows_step(s[2 * n], s[2 * n + 1], q[d], k + 16 * n * length<HEAD>, at[d]);
#pragma unroll
    for (int n = LOWER / 8; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (8 * n + 2 * t + i % 2 >= left) s[n][i] = -INFINITY;
}

/* o += p v over KEYS rows of v. */
template <int HEAD, int KEYS>
__device__ __forceinline__ void weigh(float (&o)[HEAD / 8][4], const uint32_t (&p)[KEYS / 8][2],
                                      const bf16 *v, const int (&at)[HEAD / 16])
{
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
        const uint32_t a[4] = {p[2 * n][0], p[2 * n][1], p[2 * n + 1][0], p[2 * n + 1][1]};
        product_columns<HEAD>(o, a, v + 16 * n * length<HEAD>, at);
    }
}

/* Output rows and lse of a tile whose first row is `row`. */
template <int HEAD>
__device__ __forceinline__ void finish(const attention_forward &a, const head_view<bf16> &head,
                                       int row, const float (&o)[HEAD / 8][4],
                                       const float (&top)[2], float (&sum)[2], float scale_log2)
{
    const int lane = (int)threadIdx.x % PK_WARP, left = a.s.tokens - row;
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        const float log2_sum = log2f(sum[half]); // sum is at least 1
        factor[half] = exp2_fast(-log2_sum);     // its reciprocal; a division is a call
        const int r = lane / 4 + 8 * half;
        if (a.lse && lane % 4 == 0 && r < left)
            a.lse[(int64_t)blockIdx.x * a.s.tokens + row + r] =
                (top[half] * scale_log2 + log2_sum) * PK_LN2;
    }
    bf16 *out = static_cast<bf16 *>(a.out) + head.out + row * a.s.width;
    store_rows<HEAD, HEAD, false>(out, a.s.width, left, a.s.head, 0, o, factor);
}

/* LOWER < tokens <= KEYS. Shared: k [KEYS][HEAD], v [KEYS][HEAD]. */
template <int HEAD, int KEYS, int LOWER, int WARPS, int BLOCKS>
__global__ void __launch_bounds__(PK_WARP *WARPS, BLOCKS) attention_rows(attention_forward a)
{
    PK_SHARED(unsigned char, shared);
    const int tokens = a.s.tokens, tiles = (tokens + 15) / 16, head = a.s.head;
    bf16 *const k = reinterpret_cast<bf16 *>(&shared), *const v = k + KEYS * length<HEAD>;
    const head_view<bf16> from = view_head<bf16>(a.s, a.qkv);
    load_rows<HEAD, layout<HEAD>>(k, from.k, from.stride, tokens, KEYS, head);
    copy_async_commit();
    load_rows<HEAD, layout<HEAD>>(v, from.v, from.stride, tokens, KEYS, head);
    copy_async_commit();

    const float scale_log2 = a.s.scale * PK_LOG2E;
    const int warps = (int)blockDim.x / PK_WARP, first = (int)threadIdx.x / PK_WARP;
    int rows[HEAD / 16], columns[HEAD / 16];
    tile_offsets<HEAD, layout<HEAD>>(rows, order_rows);
    tile_offsets<HEAD, layout<HEAD>>(columns, order_columns);
    uint32_t q[HEAD / 16][4];
    load_queries<HEAD>(q, from.q + 16 * first * from.stride, from.stride, tokens - 16 * first,
                       head);
    copy_async_wait<1>();
    __syncthreads();
    for (int tile = first; tile < tiles; tile += warps) {
        float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
        uint32_t p[KEYS / 8][2];
        {
            float s[KEYS / 8][4];
            score<HEAD, KEYS, LOWER>(s, q, k, rows, tokens);
            softmax<KEYS>(p, s, top, sum, scale_log2);
        }
        if (tile == first) { // every warp has a first tile: no more warps than tiles
            copy_async_wait<0>();
            __syncthreads();
        }
        const int next = 16 * (tile + warps); // past the end: no row is read
        load_queries<HEAD>(q, from.q + next * from.stride, from.stride, tokens - next, head);
        float o[HEAD / 8][4];
        clear(o);
        weigh<HEAD, KEYS>(o, p, v, columns);
        finish<HEAD>(a, from, 16 * tile, o, top, sum, scale_log2);
    }
}

enum { CHUNK = 64, CHUNK_WARPS = 8, CHUNK_ROWS = 16 * CHUNK_WARPS };

/* Any number of tokens; blockIdx.y counts blocks of CHUNK_ROWS queries. Shared: twice k, v
 * [CHUNK][HEAD]: one chunk is copied while the other is used. */
template <int HEAD>
__global__ void __launch_bounds__(PK_WARP *CHUNK_WARPS, 1) attention_chunks(attention_forward a)
{
    PK_SHARED(unsigned char, shared);
    const int tokens = a.s.tokens, head = a.s.head;
    const int row = (int)blockIdx.y * CHUNK_ROWS + 16 * ((int)threadIdx.x / PK_WARP);
    const int chunks = (tokens + CHUNK - 1) / CHUNK;
    bf16 *const keys = reinterpret_cast<bf16 *>(&shared);
    const head_view<bf16> from = view_head<bf16>(a.s, a.qkv);
    const float scale_log2 = a.s.scale * PK_LOG2E;
    uint32_t q[HEAD / 16][4];
    load_queries<HEAD>(q, from.q + row * from.stride, from.stride, tokens - row, head);

    int rows[HEAD / 16], columns[HEAD / 16];
    tile_offsets<HEAD, layout<HEAD>>(rows, order_rows);
    tile_offsets<HEAD, layout<HEAD>>(columns, order_columns);
    float o[HEAD / 8][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    clear(o);
    for (int c = -1; c < chunks; c++) {
        if (c + 1 < chunks) {
            bf16 *const k = keys + (c + 1) % 2 * 2 * CHUNK * length<HEAD>;
            const int skip = (c + 1) * CHUNK;
            const int left = tokens - (c + 1) * CHUNK;
            load_rows<HEAD, layout<HEAD>>(k, from.k + skip * from.stride, from.stride, left, CHUNK,
                                          head);
            load_rows<HEAD, layout<HEAD>>(k + CHUNK * length<HEAD>, from.v + skip * from.stride,
                                          from.stride, left, CHUNK, head);
        }
        copy_async_commit();
        if (c < 0) continue;
        copy_async_wait<1>();
        __syncthreads();
        if (row < tokens) {
            const bf16 *const k = keys + c % 2 * 2 * CHUNK * length<HEAD>;
            float s[CHUNK / 8][4], before[2] = {top[0], top[1]};
            uint32_t p[CHUNK / 8][2];
            score<HEAD, CHUNK, 0>(s, q, k, rows, tokens - c * CHUNK);
            float share[2] = {0, 0};
            softmax<CHUNK>(p, s, top, share, scale_log2);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float shrink = exp2_fast((before[half] - top[half]) * scale_log2);
                sum[half] = sum[half] * shrink + share[half];
#pragma unroll
                for (int n = 0; n < HEAD / 8; n++)
                    o[n][2 * half] *= shrink, o[n][2 * half + 1] *= shrink;
            }
            weigh<HEAD, CHUNK>(o, p, k + CHUNK * length<HEAD>, columns);
        }
        __syncthreads(); // the chunk may be overwritten
    }
    if (row < tokens) finish<HEAD>(a, from, row, o, top, sum, scale_log2);
}

/* Tiles of 16 queries over at most `most` warps so that the rounds are as even as they can be. */
int warps_for(int tokens, int most)
{
    const int tiles = (tokens + 15) / 16, rounds = (tiles + most - 1) / most;
    return (tiles + rounds - 1) / rounds;
}

template <int HEAD, int KEYS, int LOWER, int WARPS, int BLOCKS>
enum pk_status launch_rows(const attention_forward *a, const struct pk_queue *q, struct pk_err *err)
{
    const size_t shared = (size_t)(2 * KEYS * length<HEAD>)*sizeof(bf16);
    const dim3 grid((unsigned)(a->s.batch * a->s.heads));
    const dim3 block((unsigned)(PK_WARP * warps_for(a->s.tokens, WARPS)));
    return PK_LAUNCH((attention_rows<HEAD, KEYS, LOWER, WARPS, BLOCKS>), grid, block, shared, q,
                     err, *a);
}

template <int HEAD>
enum pk_status launch_chunks(const attention_forward *a, const struct pk_queue *q,
                             struct pk_err *err)
{
    const dim3 grid((unsigned)(a->s.batch * a->s.heads),
                    (unsigned)((a->s.tokens + CHUNK_ROWS - 1) / CHUNK_ROWS));
    const size_t shared = (size_t)(4 * CHUNK * length<HEAD>)*sizeof(bf16);
    return PK_LAUNCH(attention_chunks<HEAD>, grid, dim3(PK_WARP * CHUNK_WARPS), shared, q, err, *a);
}

/* The last two numbers of a row: warps of a block, and blocks per SM that the registers must allow:
 * 8 warps leave 255 registers a lane, 12 leave 168, 20 leave 96. */
template <int HEAD>
enum pk_status launch(const attention_forward *a, const struct pk_queue *q, struct pk_err *err)
{
    const int tokens = a->s.tokens, keys = tokens <= 160 ? 160 : tokens <= 208 ? 208 : 256;
    if (tokens > 256 || 2 * keys * length<HEAD> * (int)sizeof(bf16) > q->shared_max)
        return launch_chunks<HEAD>(a, q, err);
    constexpr bool wide = HEAD == 128;
    constexpr int warps = wide ? 4 : 3, blocks = wide ? 2 : 4, most = wide ? 8 : 4;
    constexpr int small = wide ? 2 : 6;
    if (tokens <= 48) return launch_rows<HEAD, 48, 0, 3, small>(a, q, err);
    if (tokens <= 96) return launch_rows<HEAD, 96, 48, 3, blocks>(a, q, err);
    if (tokens <= 160) return launch_rows<HEAD, 160, 96, warps, blocks>(a, q, err);
    if (tokens <= 208) return launch_rows<HEAD, 208, 160, warps, blocks>(a, q, err);
    return launch_rows<HEAD, 256, 208, most, 8 / most>(a, q, err);
}

} // namespace

enum pk_status attention_forward_mma(const struct attention_forward *a, const struct pk_queue *q,
                                     struct pk_err *err)
{
    switch (attention_padded_head(a->s.head)) {
    case 32:
        return launch<32>(a, q, err);
    case 48:
        return launch<48>(a, q, err);
    case 64:
        return launch<64>(a, q, err);
    default:
        return launch<128>(a, q, err);
    }
}
