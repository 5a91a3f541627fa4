/* attention_backward.cu -- bf16 self-attention on tensor cores, backward.
 *
 * With P = exp(scale q k^T - lse) recomputed, D = rowsum(dO * O), dP = dO V^T, dS = P (dP - D):
 *     dV = P^T dO      dK = scale dS^T Q      dQ = scale dS K
 *
 * attention_gradients, up to 208 tokens and head 64: one block per (record, head), one warp per 16
 * keys, each product once. A warp computes S^T = K Q^T and dP^T = V dO^T of its keys against 16
 * queries at a time. The accumulators of S^T and dP^T, rounded to bf16, are in the layout of a left
 * operand, so P^T dO and dS^T Q follow in registers and only dS goes to shared memory, where after
 * a barrier each warp finds the rows of dS for its share of dQ. dK and dV of one
 * head alone are 208 x 64 x 2 x 4 = 106 KB of the 256 KB of registers of an SM, so there is one
 * block per SM at this size, several at fewer tokens. 13 warps put four on a sub-partition of
 * 16,384 registers: 128 a lane. At head 64: dK and dV 64, fragments of V 16, S and dP 16, P and dS
 * 8, fragments on their way 12, addresses 10. There is no room for K's fragments, which are read
 * anew for every tile; rows are padded, so that one address with immediate offsets serves all
 * columns of Q and of dO. Shared bytes: Q, dO, K 3 x 208 x 144, dS 208 x 432 (V lies there until
 * its fragments are taken), lse and D: 181,376. That fits an H200; where it does not (A100) dS is
 * made for a part of the queries at a time, at the price of two more barriers per part. Rows of dS
 * are an odd number of 16 bytes apart: eight rows are in different banks, written by lane groups or
 * read by ldmatrix.
 *
 * attention_gradient_pass, everything else: a block per 64 keys (dK, dV) and one per 64 queries
 * (dQ), the other side in chunks of 64; S and dP are computed twice, 7 products for 5. */
#include "cuda/attention.h"

namespace
{

/* S, P and dS of 16 own rows (tile o1, fragments o2: K and V if keys, Q and dO if queries) against
 * 16 rows of the other side (tiles x1, x2), as left operands in bf16. stat: lse (log 2)
 * and D of each query, in shared memory if the own rows are keys, of the two own rows of this lane
 * if they are queries. Keys from `keys` on get P = dS = 0; queries that do not exist have lse =
 * infinity, so P = 0. */
template <int HEAD, bool KEYS_OWN>
__device__ __forceinline__ void
pair_tile(uint32_t (&p)[4], uint32_t (&ds)[4], const bf16 *o1, const uint32_t (&o2)[HEAD / 16][4],
          const bf16 *x1, const bf16 *x2, const int (&rows)[HEAD / 16],
          const int (&columns)[HEAD / 16], const float *stat, int keys, float scale_log2)
{
    const int lane = (int)threadIdx.x % PK_WARP, g = lane / 4, t = lane % 4;
    float s[2][4], dp[2][4];
    clear(s);
    clear(dp);
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++) {
        uint32_t f[4];
        load_matrix_x4(f, o1 + columns[k]);
        product_rows_step(s[0], s[1], f, x1, rows[k]);
        product_rows_step(dp[0], dp[1], o2[k], x2, rows[k]);
    }
#pragma unroll
    for (int n = 0; n < 2; n++) {
        float own[4]; // lse2 and D of both columns, or of both rows
        if (KEYS_OWN)
            load_floats(own, stat + 2 * (8 * n + 2 * t));
        else
            for (int i = 0; i < 4; i++) own[i] = stat[i];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int query = KEYS_OWN ? i % 2 : i / 2;
            s[n][i] = exp2_fast(fmaf(s[n][i], scale_log2, -own[2 * query]));
            if (keys < 16 && (KEYS_OWN ? g + i / 2 * 8 : 8 * n + 2 * t + i % 2) >= keys)
                s[n][i] = 0;
            dp[n][i] = s[n][i] * (dp[n][i] - own[2 * query + 1]);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            p[2 * n + half] = pack_bf16(s[n][2 * half], s[n][2 * half + 1]);
            ds[2 * n + half] = pack_bf16(dp[n][2 * half], dp[n][2 * half + 1]);
        }
    }
}

/* stat[r] = lse in units of log 2 and sum of dout * out, of `rows` queries from `first` on, a
 * multiple of 16; infinity and 0 for queries that do not exist. All threads of the block. */
template <int HEAD>
__device__ __forceinline__ void query_statistics(float *stat, const attention_backward &a,
                                                 const head_view<bf16> &head, int first, int rows)
{
    constexpr int lanes = HEAD == 32 ? 4 : HEAD == 128 ? 16 : 8; // 16 bytes each, per row
    const bf16 *dout = static_cast<const bf16 *>(a.dout) + head.out;
    const bf16 *out = static_cast<const bf16 *>(a.out) + head.out;
    const int column = 8 * ((int)threadIdx.x % lanes);
#pragma unroll 4
    for (int r = (int)threadIdx.x / lanes; r < rows; r += (int)blockDim.x / lanes) {
        const int row = first + r;
        float sum = 0;
        if (row < a.s.tokens && column < a.s.head) {
            const vec<bf16, 8> x = load<bf16, 8>(dout + row * a.s.width + column);
            const vec<bf16, 8> y = load<bf16, 8>(out + row * a.s.width + column);
#pragma unroll
            for (int i = 0; i < 8; i++) sum = fmaf(to_float(x.at[i]), to_float(y.at[i]), sum);
        }
        for (int i = lanes / 2; i > 0; i /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
        if (column == 0) {
            const bool there = row < a.s.tokens;
            stat[2 * r + 1] = there ? sum : 0;
            stat[2 * r] =
                there ? a.lse[(int64_t)blockIdx.x * a.s.tokens + row] * PK_LOG2E : INFINITY;
        }
    }
}

template <int HEAD>
__device__ __forceinline__ void load_fragments(uint32_t (&f)[HEAD / 16][4], const bf16 *tile,
                                               const int (&columns)[HEAD / 16])
{
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++) load_matrix_x4(f[k], tile + columns[k]);
}

enum { WARPS = 13 }; // 208 tokens

/* Columns of dQ that one warp makes at a time: few registers beside dK and dV. */
template <int HEAD> constexpr int share = HEAD == 64 ? 32 : HEAD;

/* dQ of the query tiles [first, last) from dS^T (rows: all keys; columns: these queries). */
template <int HEAD, bool ADD>
__device__ __forceinline__ void
query_gradients(const attention_backward &a, bf16 *dq, const bf16 *ds, int stride, const bf16 *k,
                const int (&columns)[HEAD / 16], int first, int last)
{
    constexpr int parts = HEAD / share<HEAD>;
    const int lane = (int)threadIdx.x % PK_WARP, warps = (int)blockDim.x / PK_WARP;
    const int tiles = (a.s.tokens + 15) / 16;
    /* Left operand from its transpose: keys 0-7 of queries 0-7, of 8-15, then keys 8-15. */
    const bf16 *from = ds + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
    const float factor[2] = {a.s.scale, a.s.scale};
    for (int u = (int)threadIdx.x / PK_WARP; u < (last - first) * parts; u += warps) {
        const int tile = u / parts, part = u % parts;
        int at[share<HEAD> / 16];
#pragma unroll
        for (int n = 0; n < share<HEAD> / 16; n++)
            at[n] = parts == 2 && part ? columns[n + HEAD / 16 - share<HEAD> / 16] : columns[n];
        float c[share<HEAD> / 8][4];
        clear(c);
#pragma unroll 2
        for (int key = 0; key < tiles; key++) {
            uint32_t d[4];
            load_matrix_x4_transposed(d, from + 16 * key * stride + 16 * tile);
            product_columns<share<HEAD>>(c, d, k + key * 16 * row_length<HEAD, padded>, at);
        }
        const int row = 16 * (first + tile);
        store_rows<HEAD, share<HEAD>, ADD>(dq + row * 3 * a.s.width, 3 * a.s.width,
                                           a.s.tokens - row, a.s.head, part * share<HEAD>, c,
                                           factor);
    }
}

/* dS stride in elements for a number of query tiles: an odd number of 16-byte chunks. */
__host__ __device__ constexpr int stage_stride(int tiles)
{
    return 8 * (2 * tiles + 1);
}

/* Shared: Q and dO, 16 rows of each in turn, so that one address serves both; K [rows]; dS^T
 * [rows][stage_stride(part)], V [rows] before it; lse and D [rows][2]. rows = 16 * warps; part:
 * query tiles staged at a time. */
template <int HEAD, bool ADD>
__global__ void __launch_bounds__(PK_WARP *WARPS, 1)
    attention_gradients(attention_backward a, int part)
{
    PK_SHARED(unsigned char, shared);
    constexpr int length = row_length<HEAD, padded>, area = 16 * length;
    const int tokens = a.s.tokens, tiles = (int)blockDim.x / PK_WARP, rows = 16 * tiles;
    const int warp = (int)threadIdx.x / PK_WARP, lane = (int)threadIdx.x % PK_WARP;
    const int stride = stage_stride(part), staged = rows * (stride > length ? stride : length);
    bf16 *const q = reinterpret_cast<bf16 *>(&shared), *const dout = q + area;
    bf16 *const k = q + 2 * tiles * area, *const ds = k + tiles * area, *const v = ds;
    float *const stat = reinterpret_cast<float *>(ds + staged);
    const head_view<bf16> from = view_head<bf16>(a.s, a.qkv);
    load_rows<HEAD, padded>(k, from.k, from.stride, tokens, rows, a.s.head);
    load_rows<HEAD, padded>(v, from.v, from.stride, tokens, rows, a.s.head);
    load_rows<HEAD, padded>(q, from.q, from.stride, tokens, rows, a.s.head, area);
    load_rows<HEAD, padded>(dout, static_cast<const bf16 *>(a.dout) + from.out, a.s.width, tokens,
                            rows, a.s.head, area);
    copy_async_commit();
    query_statistics<HEAD>(stat, a, from, 0, rows);

    int row_at[HEAD / 16], column_at[HEAD / 16];
    tile_offsets<HEAD, padded>(row_at, order_rows);
    tile_offsets<HEAD, padded>(column_at, order_columns);
    copy_async_wait<0>();
    __syncthreads();
    uint32_t vf[HEAD / 16][4];
    load_fragments<HEAD>(vf, v + warp * area, column_at);
    __syncthreads(); // V gives way to dS

    const float scale_log2 = a.s.scale * PK_LOG2E;
    float dk[HEAD / 8][4], dv[HEAD / 8][4];
    clear(dk);
    clear(dv);
    bf16 *const dqkv = static_cast<bf16 *>(a.dqkv) + from.dqkv;
    bf16 *const stage = ds + (16 * warp + lane / 4) * stride + lane % 4 * 2;
    for (int first = 0; first < tiles; first += part) {
        const int last = first + part < tiles ? first + part : tiles;
        for (int tile = first; tile < last; tile++) {
            const bf16 *const qt = q + tile * 2 * area, *const ot = qt + area;
            uint32_t p[4], d[4];
            pair_tile<HEAD, true>(p, d, k + warp * area, vf, qt, ot, row_at, column_at,
                                  stat + 32 * tile, tokens - 16 * warp, scale_log2);
            product_columns<HEAD>(dv, p, ot, column_at);
            product_columns<HEAD>(dk, d, qt, column_at);
#pragma unroll
            for (int i = 0; i < 4; i++) // rows g, g + 8 left, then right
                *reinterpret_cast<uint32_t *>(stage + i % 2 * 8 * stride + 16 * (tile - first) +
                                              i / 2 * 8) = d[i];
        }
        __syncthreads();
        query_gradients<HEAD, ADD>(a, dqkv, ds, stride, k, column_at, first, last);
        if (last < tiles) __syncthreads();
    }
    const float one[2] = {1, 1}, scale[2] = {a.s.scale, a.s.scale};
    const int row = 16 * warp;
    bf16 *const to = dqkv + row * 3 * a.s.width;
    store_rows<HEAD, HEAD, ADD>(to + a.s.width, 3 * a.s.width, tokens - row, a.s.head, 0, dk,
                                scale);
    store_rows<HEAD, HEAD, ADD>(to + 2 * a.s.width, 3 * a.s.width, tokens - row, a.s.head, 0, dv,
                                one);
}

enum { PASS_WARPS = 4, PASS_ROWS = 16 * PASS_WARPS };

/* KEYS_OWN: dK and dV of the 64 keys from 64 * blockIdx.y on; else dQ of as many queries. Shared:
 * own rows o1, o2 [64][HEAD] (K, V or Q, dO), twice x1, x2 [64][HEAD] of the other side (one chunk
 * is copied while the other is used), then lse and D of all queries or the own ones. */
template <int HEAD, bool KEYS_OWN, bool ADD>
__global__ void __launch_bounds__(PK_WARP *PASS_WARPS, 1)
    attention_gradient_pass(attention_backward a)
{
    PK_SHARED(unsigned char, shared);
    constexpr int small = 16 * row_length<HEAD, padded>, area = PASS_WARPS * small;
    const int tokens = a.s.tokens, row = (int)blockIdx.y * PASS_ROWS, width = a.s.width;
    const int warp = (int)threadIdx.x / PK_WARP, lane = (int)threadIdx.x % PK_WARP;
    const int chunks = (tokens + PASS_ROWS - 1) / PASS_ROWS, own = row + 16 * warp;
    const int queries = KEYS_OWN ? chunks * PASS_ROWS : PASS_ROWS;
    bf16 *const o1 = reinterpret_cast<bf16 *>(&shared), *const other = o1 + 2 * area;
    float *const stat = reinterpret_cast<float *>(other + 4 * area);
    const head_view<bf16> from = view_head<bf16>(a.s, a.qkv);
    const bf16 *const dout = static_cast<const bf16 *>(a.dout) + from.out;
    const bf16 *const own1 = KEYS_OWN ? from.k : from.q, *const own2 = KEYS_OWN ? from.v : dout;
    const bf16 *const x1 = KEYS_OWN ? from.q : from.k, *const x2 = KEYS_OWN ? dout : from.v;
    const int own_stride = KEYS_OWN ? from.stride : width,
              x_stride = KEYS_OWN ? width : from.stride;
    load_rows<HEAD, padded>(o1, own1 + row * from.stride, from.stride, tokens - row, PASS_ROWS,
                            a.s.head);
    load_rows<HEAD, padded>(o1 + area, own2 + row * own_stride, own_stride, tokens - row, PASS_ROWS,
                            a.s.head);
    query_statistics<HEAD>(stat, a, from, KEYS_OWN ? 0 : row, queries);

    int row_at[HEAD / 16], column_at[HEAD / 16];
    tile_offsets<HEAD, padded>(row_at, order_rows);
    tile_offsets<HEAD, padded>(column_at, order_columns);
    const float scale_log2 = a.s.scale * PK_LOG2E;
    float c1[HEAD / 8][4], c2[KEYS_OWN ? HEAD / 8 : 1][4], own_stat[4];
    clear(c1);
    clear(c2);
    for (int c = -1; c < chunks; c++) {
        if (c + 1 < chunks) {
            bf16 *const to = other + (c + 1) % 2 * 2 * area;
            const int skip = (c + 1) * PASS_ROWS;
            load_rows<HEAD, padded>(to, x1 + skip * from.stride, from.stride, tokens - skip,
                                    PASS_ROWS, a.s.head);
            load_rows<HEAD, padded>(to + area, x2 + skip * x_stride, x_stride, tokens - skip,
                                    PASS_ROWS, a.s.head);
        }
        copy_async_commit();
        if (c < 0) continue;
        copy_async_wait<1>();
        __syncthreads();
        if (!KEYS_OWN && c == 0)
            for (int half = 0; half < 2; half++) {
                own_stat[2 * half] = stat[2 * (16 * warp + lane / 4 + 8 * half)];
                own_stat[2 * half + 1] = stat[2 * (16 * warp + lane / 4 + 8 * half) + 1];
            }
        const bf16 *const to = other + c % 2 * 2 * area;
        for (int tile = 0; tile < PASS_WARPS; tile++) {
            const int at = c * PASS_ROWS + 16 * tile;
            if (own >= tokens || at >= tokens) break;
            uint32_t p[4], d[4];
            const bf16 *const t1 = to + tile * small, *const t2 = t1 + area;
            /* Taken anew from shared memory: kept, they would be 64 registers at head 128. */
            uint32_t f2[HEAD / 16][4];
            load_fragments<HEAD>(f2, o1 + area + warp * small, column_at);
            pair_tile<HEAD, KEYS_OWN>(p, d, o1 + warp * small, f2, t1, t2, row_at, column_at,
                                      KEYS_OWN ? stat + 2 * at : own_stat,
                                      tokens - (KEYS_OWN ? own : at), scale_log2);
            product_columns<HEAD>(c1, d, t1, column_at);
            if constexpr (KEYS_OWN) product_columns<HEAD>(c2, p, t2, column_at);
        }
        __syncthreads(); // the chunk may be overwritten
    }
    if (own >= tokens) return;
    const float one[2] = {1, 1}, scale[2] = {a.s.scale, a.s.scale};
    bf16 *const to = static_cast<bf16 *>(a.dqkv) + from.dqkv + own * 3 * width;
    store_rows<HEAD, HEAD, ADD>(to + (KEYS_OWN ? width : 0), 3 * width, tokens - own, a.s.head, 0,
                                c1, scale);
    if constexpr (KEYS_OWN)
        store_rows<HEAD, HEAD, ADD>(to + 2 * width, 3 * width, tokens - own, a.s.head, 0, c2, one);
}

template <int HEAD, bool KEYS_OWN, bool ADD>
enum pk_status launch_pass(const attention_backward *a, const struct pk_queue *q,
                           struct pk_err *err)
{
    const int blocks = (a->s.tokens + PASS_ROWS - 1) / PASS_ROWS;
    const int queries = KEYS_OWN ? blocks * PASS_ROWS : PASS_ROWS;
    const size_t shared = 6 * PASS_ROWS * row_length<HEAD, padded> * sizeof(bf16) +
                          2 * (size_t)queries * sizeof(float);
    return PK_LAUNCH((attention_gradient_pass<HEAD, KEYS_OWN, ADD>),
                     dim3((unsigned)(a->s.batch * a->s.heads), (unsigned)blocks),
                     dim3(PK_WARP * PASS_WARPS), shared, q, err, *a);
}

/* Shared bytes of attention_gradients. */
template <int HEAD> int64_t gradient_bytes(int tiles, int part)
{
    const int length = row_length<HEAD, padded>;
    const int staged = stage_stride(part) > length ? stage_stride(part) : length;
    return 16 * tiles * ((3 * length + staged) * (int)sizeof(bf16) + 2 * (int)sizeof(float));
}

template <int HEAD, bool ADD>
enum pk_status launch(const attention_backward *a, const struct pk_queue *q, struct pk_err *err)
{
    const int tiles = (a->s.tokens + 15) / 16;
    if constexpr (HEAD <= 64)
        for (int parts = 1; tiles <= WARPS && parts <= tiles; parts++) {
            const int part = (tiles + parts - 1) / parts;
            const int64_t shared = gradient_bytes<HEAD>(tiles, part);
            if (shared > q->shared_max) continue;
            return PK_LAUNCH((attention_gradients<HEAD, ADD>),
                             dim3((unsigned)(a->s.batch * a->s.heads)),
                             dim3((unsigned)(PK_WARP * tiles)), (size_t)shared, q, err, *a, part);
        }
    PK_TRY((launch_pass<HEAD, false, ADD>(a, q, err)));
    return launch_pass<HEAD, true, ADD>(a, q, err);
}

template <bool ADD>
enum pk_status launch_head(const attention_backward *a, const struct pk_queue *q,
                           struct pk_err *err)
{
    switch (attention_padded_head(a->s.head)) {
    case 32:
        return launch<32, ADD>(a, q, err);
    case 48:
        return launch<48, ADD>(a, q, err);
    case 64:
        return launch<64, ADD>(a, q, err);
    default:
        return launch<128, ADD>(a, q, err);
    }
}

} // namespace

enum pk_status attention_backward_mma(const struct attention_backward *a, const struct pk_queue *q,
                                      struct pk_err *err)
{
    return a->accumulate ? launch_head<true>(a, q, err) : launch_head<false>(a, q, err);
}
