/* gemm.cu -- the own bf16 product on tensor cores (mma.m16n8k16), and the choice of tiles.
 *
 * A CTA walks over tiles of y; a step multiplies ROWS x DEPTH of a with DEPTH x COLS of b. Steps of
 * all its tiles form one stream through a ring of STAGES shared-memory slots filled by asynchronous
 * copies, so the next tile's operands arrive while this tile's epilogue runs; the epilogue itself
 * needs no shared memory. In flight per SM: 2 CTAs x 3 slots x 16 KiB = 96 KiB, four times what
 * 4.3 TB/s x 700 ns / 132 SMs = 23 KiB asks for.
 *
 * Registers: ROWS * COLS / threads accumulators are 64 floats for 128 x 128 with 256 threads, which
 * leaves 64 for fragments (24) and addresses and lets two CTAs share an SM. */
#include "cuda/gemm_tile.h"
#include "cuda/mma_tile.h"
#include "cuda/reduce.h"

namespace
{
/* Where a CTA's stream of steps has got to. */
struct gemm_cursor {
    int32_t tile, k, k_end; // k of the next step; k_end of this tile
    gemm_place at;
};

template <int ROWS, int COLS>
__device__ __forceinline__ void gemm_open(gemm_cursor &c, const pk_gemm_args &g, int32_t tiles)
{
    if (c.tile >= tiles) return;
    c.at = gemm_locate<ROWS, COLS>(g, c.tile);
    c.k = c.at.part * g.range;
    c.k_end = c.k + g.range;
}

/* Asks for what the epilogue of a tile will read, one 128-byte line per thread and turn: by the
 * time it is loaded it is in L2. Loading it ahead into registers would not leave enough of them. */
template <int PRODUCT, int EPILOGUE, int ROWS, int COLS, int THREADS>
__device__ __forceinline__ void gemm_announce(const pk_gemm_args &g, gemm_place at)
{
    if constexpr (PRODUCT == PK_PRODUCT_NN) {
        const bf16 *side = (const bf16 *)gemm_side<PRODUCT, EPILOGUE>(g);
#pragma unroll
        for (int i = 0; i < ROWS * COLS / 64 / THREADS; i++) {
            const int line = i * THREADS + (int)threadIdx.x;
            const int32_t r = at.row + line / (COLS / 64), c = at.col + line % (COLS / 64) * 64;
            if (side && r < g.m && c < g.n) prefetch_l2(side + (int64_t)r * g.n + c);
        }
    }
}

/* Stores a warp's share of a tile. (row, col): first of the lane's elements after gemm_gather. */
template <int PRODUCT, int EPILOGUE, bool WHOLE, typename O, int MI, int NJ>
__device__ __forceinline__ void gemm_epilogue(const pk_gemm_args &g, int32_t row, int32_t col,
                                              int32_t part, const float d[MI][NJ][4])
{
    const O *side = (const O *)gemm_side<PRODUCT, EPILOGUE>(g);
#pragma unroll
    for (int i = 0; i < 2 * MI; i++)
#pragma unroll
        for (int j = 0; j < NJ; j += 4) {
            const int32_t r = row + i * 8, c = col + j * 8;
            const int64_t at = (int64_t)r * g.n + c;
            float v[4][2], w[8];
#pragma unroll
            for (int p = 0; p < 4; p++) {
                v[p][0] = d[i / 2][j + p][i % 2 * 2];
                v[p][1] = d[i / 2][j + p][i % 2 * 2 + 1];
            }
            gemm_gather(v);
            if (r >= g.m || c >= g.n) continue;
            if (side) gemm_load<WHOLE, 8>(w, side + at, g.n - c < 8 ? g.n - c : 8);
            gemm_finish<PRODUCT, EPILOGUE, WHOLE, bf16, O, 8>(g, at, c, part, &v[0][0], w);
        }
}

template <int PRODUCT> struct gemm_output {
    using type = bf16;
};
template <> struct gemm_output<PK_PRODUCT_TN> {
    using type = float;
};

template <int PRODUCT, int EPILOGUE, int ROWS, int COLS, int DEPTH, int STAGES, int WARPS_M,
          int WARPS_N, int PER_SM, bool ALIGNED>
__global__ __launch_bounds__(WARPS_M *WARPS_N *PK_WARP, PER_SM) void gemm_bf16(pk_gemm_args g)
{
    using slots = gemm_slots<ROWS, COLS, DEPTH, STAGES>;
    using out = typename gemm_output<PRODUCT>::type;
    constexpr int THREADS = WARPS_M * WARPS_N * PK_WARP;
    constexpr bool A_K = PRODUCT == PK_PRODUCT_TN, B_K = PRODUCT != PK_PRODUCT_NT; // lines are k
    constexpr int A_CHUNKS = (A_K ? ROWS : DEPTH) / 8, B_CHUNKS = (B_K ? COLS : DEPTH) / 8;
    constexpr int WARP_ROWS = ROWS / WARPS_M, WARP_COLS = COLS / WARPS_N;
    constexpr int MI = WARP_ROWS / 16, NJ = WARP_COLS / 8;
    constexpr int SHARE = A_K ? MI / WARPS_N : 1; // row pieces whose sums one warp makes
    static_assert(NJ % 4 == 0 && (!A_K || MI % WARPS_N == 0), "the epilogue's pieces");
    PK_SHARED(slots, s);
    const bf16 *a = (const bf16 *)g.a, *b = (const bf16 *)g.b;
    const int warp = (int)threadIdx.x / PK_WARP, lane = (int)threadIdx.x % PK_WARP;
    const int wm = warp / WARPS_N, wn = warp % WARPS_N;
    const int32_t tiles = g.m_tiles * g.n_tiles * g.parts;

    gemm_cursor in = {(int32_t)blockIdx.x, 0, 0, {0, 0, 0}}, now = in;
    gemm_open<ROWS, COLS>(in, g, tiles);
    auto fetch = [&](int slot) {
        if (in.tile < tiles) {
            if constexpr (A_K)
                gemm_fetch<DEPTH, A_CHUNKS, THREADS, ALIGNED>(s.a[slot], a, g.m, in.k, g.k,
                                                              in.at.row, g.m);
            else
                gemm_fetch<ROWS, A_CHUNKS, THREADS, ALIGNED>(s.a[slot], a, g.k, in.at.row, g.m,
                                                             in.k, g.k);
            if constexpr (B_K)
                gemm_fetch<DEPTH, B_CHUNKS, THREADS, ALIGNED>(s.b[slot], b, g.n, in.k, g.k,
                                                              in.at.col, g.n);
            else
                gemm_fetch<COLS, B_CHUNKS, THREADS, ALIGNED>(s.b[slot], b, g.k, in.at.col, g.n,
                                                             in.k, g.k);
            in.k += DEPTH;
            if (in.k >= in.k_end) {
                in.tile += (int32_t)gridDim.x;
                gemm_open<ROWS, COLS>(in, g, tiles);
            }
        }
        copy_async_commit();
    };
    for (int i = 0; i < STAGES - 1; i++) fetch(i);

    int slot = 0;
    for (; now.tile < tiles; now.tile += (int32_t)gridDim.x) {
        gemm_open<ROWS, COLS>(now, g, tiles);
        gemm_announce<PRODUCT, EPILOGUE, ROWS, COLS, THREADS>(g, now.at);
        const bool add_up = A_K && g.sums && now.at.col == 0;
        float d[MI][NJ][4] = {}, sum[SHARE][4] = {};
        for (; now.k < now.k_end; now.k += DEPTH) {
            copy_async_wait<STAGES - 2>();
            __syncthreads(); // this step's slot is full; the one before it is free again
            fetch(slot == 0 ? STAGES - 1 : slot - 1);
#pragma unroll 2
            for (int k = 0; k < DEPTH; k += 16) {
                uint32_t fa[MI][4];
                gemm_multiply<A_K, B_K, A_CHUNKS, B_CHUNKS, MI, NJ>(
                    d, fa, s.a[slot], s.b[slot], wm * WARP_ROWS, wn * WARP_COLS, k);
                if constexpr (A_K) {
                    /* Sums over k of a's columns: a product with ones, shared among the warps that
                     * hold the same rows. */
                    const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
#pragma unroll
                    for (int i = 0; i < MI; i++)
                        if (add_up && i % WARPS_N == wn)
                            mma_m16n8k16(sum[i / WARPS_N], fa[i], ones);
                }
            }
            slot = slot + 1 == STAGES ? 0 : slot + 1;
        }
        const int32_t row = now.at.row + wm * WARP_ROWS + lane / 4;
        const int32_t col = now.at.col + wn * WARP_COLS + lane % 4 * 8;
        gemm_epilogue<PRODUCT, EPILOGUE, ALIGNED, out, MI, NJ>(g, row, col, now.at.part, d);
#pragma unroll
        for (int i = 0; i < 2 * SHARE; i++) {
            const int32_t r = row + (i / 2 * WARPS_N + wn) * 16 + i % 2 * 8;
            if (!add_up || lane % 4 || r >= g.m) continue;
            float *to = g.sums + (int64_t)now.at.part * g.m + r, x = sum[i / 2][i % 2 * 2];
            *to = g.sums_accumulate ? *to + x : x;
        }
    }
    copy_async_wait<0>();
}

/* Launches one kernel: at most as many CTAs as run at once, each of which walks over tiles. */
template <int PRODUCT, int EPILOGUE, int ROWS, int COLS, int DEPTH, int STAGES, int WARPS_M,
          int WARPS_N, int PER_SM, bool ALIGNED>
enum pk_status launch(const struct pk_queue *q, pk_gemm_args *g, struct pk_err *err)
{
    g->m_tiles = (int32_t)((g->m + ROWS - 1) / ROWS);
    g->n_tiles = (int32_t)((g->n + COLS - 1) / COLS);
    g->range = (g->range + DEPTH - 1) / DEPTH * DEPTH;
    const int64_t tiles = (int64_t)g->m_tiles * g->n_tiles * g->parts;
    if (tiles > INT32_MAX / 2) return pk_fail(err, PK_ESHAPE, "too many tiles for one product");
    const int64_t room = (int64_t)(q->sms > 0 ? q->sms : 1) * PER_SM;
    auto gemm =
        gemm_bf16<PRODUCT, EPILOGUE, ROWS, COLS, DEPTH, STAGES, WARPS_M, WARPS_N, PER_SM, ALIGNED>;
    return PK_LAUNCH(gemm, dim3((unsigned)(tiles < room ? tiles : room)),
                     dim3(WARPS_M * WARPS_N * PK_WARP),
                     sizeof(gemm_slots<ROWS, COLS, DEPTH, STAGES>), q, err, *g);
}

template <int PRODUCT, int EPILOGUE>
enum pk_status choose(const struct pk_queue *q, int tile, bool aligned, pk_gemm_args *g,
                      struct pk_err *err)
{
    constexpr int P = PRODUCT, E = EPILOGUE;
    if (!aligned) return launch<P, E, 64, 64, 32, 4, 2, 2, 3, false>(q, g, err);
    switch (tile) {
    case PK_TILE_64X64X32:
        return launch<P, E, 64, 64, 32, 4, 2, 2, 4, true>(q, g, err);
    case PK_TILE_128X64X32:
        return launch<P, E, 128, 64, 32, 4, 4, 2, 2, true>(q, g, err);
    case PK_TILE_128X128X32:
        return launch<P, E, 128, 128, 32, 4, 2, 4, 2, true>(q, g, err);
    case PK_TILE_256X128X32:
        return launch<P, E, 256, 128, 32, 4, 4, 2, 1, true>(q, g, err);
    case PK_TILE_128X128X64: // not TN, whose sums of columns would not fit the registers
        if constexpr (P != PK_PRODUCT_TN)
            return launch<P, E, 128, 128, 64, 3, 2, 4, 2, true>(q, g, err);
    }
    return pk_fail(err, PK_EINVAL, "this product has no GEMM tile %d", tile);
}

enum pk_status product(const struct pk_queue *q, const struct pk_cuda_gemm *g, int tile,
                       pk_gemm_args *args, struct pk_err *err)
{
    /* Chunks of 8 elements run along k in NT, k and n in NN, m and n in TN, and along n in y. */
    const int64_t along = g->product == PK_PRODUCT_TN ? g->m : g->k;
    const uintptr_t ends = (uintptr_t)g->a | (uintptr_t)g->b | (uintptr_t)g->bias |
                           (uintptr_t)g->pre | (uintptr_t)g->at | (uintptr_t)g->y;
    const bool aligned = along % 8 == 0 && g->n % 8 == 0 && ends % 16 == 0;
    switch ((int)g->product * 4 + (int)g->epilogue) {
    case PK_PRODUCT_NT * 4 + PK_EPILOGUE_PLAIN:
        return choose<PK_PRODUCT_NT, PK_EPILOGUE_PLAIN>(q, tile, aligned, args, err);
    case PK_PRODUCT_NT * 4 + PK_EPILOGUE_GELU:
        return choose<PK_PRODUCT_NT, PK_EPILOGUE_GELU>(q, tile, aligned, args, err);
    case PK_PRODUCT_NN * 4 + PK_EPILOGUE_PLAIN:
        return choose<PK_PRODUCT_NN, PK_EPILOGUE_PLAIN>(q, tile, aligned, args, err);
    case PK_PRODUCT_NN * 4 + PK_EPILOGUE_GELU_GRAD:
        return choose<PK_PRODUCT_NN, PK_EPILOGUE_GELU_GRAD>(q, tile, aligned, args, err);
    case PK_PRODUCT_TN * 4 + PK_EPILOGUE_PLAIN:
        return choose<PK_PRODUCT_TN, PK_EPILOGUE_PLAIN>(q, tile, aligned, args, err);
    default:
        return pk_fail(err, PK_EINVAL, "this product has no such epilogue");
    }
}
} // namespace

/* Tiles of 128 x 128 and two CTAs on each of 132 SMs: how well a number of parts fills whole
 * waves. The numbers are constants, not the device's, so that the sums are the same everywhere. */
int64_t pk_cuda_gemm_parts(int64_t m, int64_t n, int64_t k)
{
    const int64_t wave = 264, shortest = 512; // shortest range of k that is worth a part
    const int64_t tiles = ((m + 127) / 128) * ((n + 127) / 128);
    int64_t most = (k + shortest - 1) / shortest, best = 1;
    double best_fill = 0;
    if (most > wave) most = wave;
    for (int64_t parts = 1; parts <= most; parts++) {
        const int64_t waves = (tiles * parts + wave - 1) / wave;
        const double fill = (double)(tiles * parts) / (double)(waves * wave);
        if (fill > best_fill) best_fill = fill, best = parts;
        if (best_fill >= 0.9 || waves > 8) break;
    }
    return best;
}

size_t pk_cuda_gemm_workspace(int64_t m, int64_t n, int64_t k)
{
    const int64_t parts = pk_cuda_gemm_parts(m, n, k);
    return parts > 1 ? (size_t)(parts * (m * n + m)) * sizeof(float) : 0;
}

int pk_cuda_gemm_tile(const struct pk_queue *q, const struct pk_cuda_gemm *g)
{
    if (g->dtype == PK_F32) return 0;
    const int64_t tiles = ((g->m + 127) / 128) * ((g->n + 127) / 128);
    if (g->product != PK_PRODUCT_TN && tiles < q->sms) return PK_TILE_64X64X32;
    if (g->n <= 64) return PK_TILE_128X64X32;
    return PK_TILE_128X128X32;
}

bool pk_cuda_gemm_has(enum pk_product product, int tile)
{
    return tile >= 0 && tile < PK_TILE_COUNT &&
           !(product == PK_PRODUCT_TN && tile == PK_TILE_128X128X64);
}

const char *pk_cuda_gemm_tile_name(int tile)
{
    static const char *const name[PK_TILE_COUNT] = {"64x64x32", "128x64x32", "128x128x32",
                                                    "128x128x64", "256x128x32"};
    return tile >= 0 && tile < PK_TILE_COUNT ? name[tile] : "none";
}

enum pk_status pk_cuda_gemm(const struct pk_queue *q, const struct pk_cuda_gemm *g,
                            struct pk_err *err)
{
    const bool split = g->product == PK_PRODUCT_TN;
    const int tile = g->tile < 0 ? pk_cuda_gemm_tile(q, g) : g->tile;
    if (g->accumulate && (g->product == PK_PRODUCT_NT || g->epilogue != PK_EPILOGUE_PLAIN))
        return pk_fail(err, PK_EINVAL, "this product is not added to its output");
    const int64_t most = INT32_MAX - 512; // a tile beyond must not wrap
    if (g->m > most || g->n > most || g->k > most)
        return pk_fail(err, PK_ESHAPE, "a product of %lld x %lld x %lld has too many rows",
                       (long long)g->m, (long long)g->n, (long long)g->k);
    pk_gemm_args args = {};
    args.m = (int32_t)g->m, args.n = (int32_t)g->n, args.k = (int32_t)g->k;
    args.a = g->a, args.b = g->b, args.bias = g->bias, args.pre = g->pre, args.at = g->at;
    args.y = g->y, args.accumulate = g->accumulate;
    args.sums = split ? g->sums : NULL, args.sums_accumulate = g->sums_accumulate;
    args.parts = split ? (int32_t)pk_cuda_gemm_parts(g->m, g->n, g->k) : 1;
    const int64_t depth = 64, each = (g->k + args.parts - 1) / args.parts;
    args.range = (int32_t)(args.parts == 1 ? g->k : (each + depth - 1) / depth * depth);
    float *partial = (float *)g->workspace, *sums = partial + args.parts * g->m * g->n;
    if (args.parts > 1) {
        args.y = partial, args.accumulate = false;
        if (args.sums) args.sums = sums, args.sums_accumulate = false;
    }
    PK_TRY(g->dtype == PK_F32 ? pk_cuda_gemm_f32(q, g, &args, err)
                              : product(q, g, tile, &args, err));
    if (args.parts == 1) return PK_OK;
    PK_TRY(
        pk_cuda_sum_parts(q, (float *)g->y, partial, args.parts, g->m * g->n, g->accumulate, err));
    if (!g->sums) return PK_OK;
    return pk_cuda_sum_parts(q, g->sums, sums, args.parts, g->m, g->sums_accumulate, err);
}

namespace
{
template <typename T>
__global__ __launch_bounds__(256) void fill_random(T *out, int64_t count, uint32_t seed)
{
    for (int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x; i < count;
         i += (int64_t)gridDim.x * 256) {
        uint32_t x = (uint32_t)i * 0x9e3779b9u ^ (uint32_t)(i >> 32) ^ seed;
        x = (x ^ x >> 16) * 0x7feb352du;
        x = (x ^ x >> 15) * 0x846ca68bu;
        x ^= x >> 16;
        out[i] = from_float<T>((float)(x >> 8) * 0x1p-23f - 1.0f);
    }
}
} // namespace

enum pk_status pk_cuda_fill_random(const struct pk_queue *q, void *out, enum pk_dtype dtype,
                                   int64_t count, uint32_t seed, struct pk_err *err)
{
    const int64_t blocks = (count + 255) / 256, most = 8 * (int64_t)(q->sms > 0 ? q->sms : 1);
    const dim3 grid((unsigned)(blocks < most ? blocks : most));
    if (dtype == PK_BF16)
        return PK_LAUNCH(fill_random<bf16>, grid, dim3(256), 0, q, err, (bf16 *)out, count, seed);
    return PK_LAUNCH(fill_random<float>, grid, dim3(256), 0, q, err, (float *)out, count, seed);
}
