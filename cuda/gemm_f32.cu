/* gemm_f32.cu -- the own product in float: fused multiply-adds on the CUDA cores, no TF32.
 *
 * For checking and for small models: 128 x 128 tiles, 256 threads with 8 x 8 sums each, k in steps
 * of 8 through two shared-memory buffers. Every sum runs over k in order, so the result does not
 * depend on the device. */
#include "cuda/gemm_tile.h"

namespace
{
enum { TILE = 128, DEPTH = 8, THREADS = 256, LINE = TILE + 4 };

struct gemm_f32_shared {
    float a[2][DEPTH][LINE], b[2][DEPTH][LINE]; // [k][row of a or column of b]
};

/* The thread's 4 elements of a step: K_LINES, of line k of [k][outer]; else of row `outer` of
 * [outer][k]. Zeros beyond the ends. */
template <bool K_LINES, bool ALIGNED>
__device__ __forceinline__ void f32_fetch(float v[4], const float *from, int32_t width,
                                          int32_t outer, int32_t outer_end, int32_t k,
                                          int32_t k_end)
{
    const int t = (int)threadIdx.x;
    const int32_t line = K_LINES ? k + t / 32 : outer + t / 2;
    const int32_t first = K_LINES ? outer + t % 32 * 4 : k + t % 2 * 4;
    const int32_t line_end = K_LINES ? k_end : outer_end, end = K_LINES ? outer_end : k_end;
    const int count = line >= line_end ? 0 : end - first < 4 ? end - first : 4;
    const float *p = from + (int64_t)line * width + first;
    if (ALIGNED && count == 4) {
        gemm_load<true, 4>(v, p, 4);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = i < count ? p[i] : 0.0f;
    }
}

template <bool K_LINES> __device__ __forceinline__ void f32_put(float (*s)[LINE], const float v[4])
{
    const int t = (int)threadIdx.x;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if constexpr (K_LINES)
            s[t / 32][t % 32 * 4 + i] = v[i];
        else
            s[t % 2 * 4 + i][t / 2] = v[i];
}

template <int PRODUCT, int EPILOGUE, bool ALIGNED>
__global__ __launch_bounds__(THREADS, 2) void gemm_f32(pk_gemm_args g)
{
    constexpr bool A_K = PRODUCT == PK_PRODUCT_TN, B_K = PRODUCT != PK_PRODUCT_NT;
    PK_SHARED(gemm_f32_shared, s);
    const float *a = (const float *)g.a, *b = (const float *)g.b;
    const int x = (int)threadIdx.x % 16, y = (int)threadIdx.x / 16;
    const gemm_place at = gemm_locate<TILE, TILE>(g, (int32_t)blockIdx.x);
    const bool add_up = A_K && g.sums && at.col == 0;
    const int32_t first = at.part * g.range;
    const int32_t last = g.k - first < g.range ? g.k : first + g.range;
    float d[8][8] = {}, sum[8] = {}, va[4], vb[4];
    auto fetch = [&](int32_t k) {
        f32_fetch<A_K, ALIGNED>(va, a, A_K ? g.m : g.k, at.row, g.m, k, last);
        f32_fetch<B_K, ALIGNED>(vb, b, B_K ? g.n : g.k, at.col, g.n, k, last);
    };
    fetch(first);
    int slot = 0;
    for (int32_t k = first; k < last; k += DEPTH, slot ^= 1) {
        f32_put<A_K>(s.a[slot], va);
        f32_put<B_K>(s.b[slot], vb);
        __syncthreads(); // the other buffer is free again: its readers have passed here
        if (k + DEPTH < last) fetch(k + DEPTH);
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            float fa[8], fb[8];
#pragma unroll
            for (int j = 0; j < 8; j += 4) {
                gemm_load<true, 4>(fa + j, &s.a[slot][i][y * 4 + j * 16], 4);
                gemm_load<true, 4>(fb + j, &s.b[slot][i][x * 4 + j * 16], 4);
            }
#pragma unroll
            for (int r = 0; r < 8; r++)
#pragma unroll
                for (int c = 0; c < 8; c++) d[r][c] = fmaf(fa[r], fb[c], d[r][c]);
#pragma unroll
            for (int r = 0; r < 8 && A_K; r++) sum[r] += add_up ? fa[r] : 0.0f;
        }
    }
    const float *side = (const float *)gemm_side<PRODUCT, EPILOGUE>(g);
#pragma unroll
    for (int r = 0; r < 8; r++) {
        const int32_t row = at.row + y * 4 + r % 4 + r / 4 * 64;
        if (row >= g.m) continue;
#pragma unroll
        for (int c = 0; c < 8; c += 4) {
            const int32_t col = at.col + x * 4 + c * 16;
            const int count = g.n - col < 4 ? g.n - col : 4;
            const int64_t here = (int64_t)row * g.n + col;
            float w[4];
            if (col >= g.n) continue;
            if (side) gemm_load<ALIGNED, 4>(w, side + here, count);
            gemm_finish<PRODUCT, EPILOGUE, ALIGNED, float, float, 4>(g, here, col, at.part,
                                                                     d[r] + c, w);
        }
        if (!add_up || x) continue;
        float *to = g.sums + (int64_t)at.part * g.m + row;
        *to = g.sums_accumulate ? *to + sum[r] : sum[r];
    }
}

template <int PRODUCT, int EPILOGUE>
enum pk_status launch(const struct pk_queue *q, bool aligned, const pk_gemm_args &g, int64_t tiles,
                      struct pk_err *err)
{
    auto gemm = aligned ? gemm_f32<PRODUCT, EPILOGUE, true> : gemm_f32<PRODUCT, EPILOGUE, false>;
    return PK_LAUNCH(gemm, dim3((unsigned)tiles), dim3(THREADS), sizeof(gemm_f32_shared), q, err,
                     g);
}
} // namespace

enum pk_status pk_cuda_gemm_f32(const struct pk_queue *q, const struct pk_cuda_gemm *g,
                                struct pk_gemm_args *args, struct pk_err *err)
{
    const int64_t along = g->product == PK_PRODUCT_TN ? g->m : g->k;
    const uintptr_t ends = (uintptr_t)g->a | (uintptr_t)g->b | (uintptr_t)g->bias |
                           (uintptr_t)g->pre | (uintptr_t)g->at | (uintptr_t)g->y;
    const bool aligned = along % 4 == 0 && g->n % 4 == 0 && ends % 16 == 0;
    args->m_tiles = (int32_t)((g->m + TILE - 1) / TILE);
    args->n_tiles = (int32_t)((g->n + TILE - 1) / TILE);
    const int64_t tiles = (int64_t)args->m_tiles * args->n_tiles * args->parts;
    if (tiles > INT32_MAX / 2) return pk_fail(err, PK_ESHAPE, "too many tiles for one product");
    switch ((int)g->product * 4 + (int)g->epilogue) {
    case PK_PRODUCT_NT * 4 + PK_EPILOGUE_PLAIN:
        return launch<PK_PRODUCT_NT, PK_EPILOGUE_PLAIN>(q, aligned, *args, tiles, err);
    case PK_PRODUCT_NT * 4 + PK_EPILOGUE_GELU:
        return launch<PK_PRODUCT_NT, PK_EPILOGUE_GELU>(q, aligned, *args, tiles, err);
    case PK_PRODUCT_NN * 4 + PK_EPILOGUE_PLAIN:
        return launch<PK_PRODUCT_NN, PK_EPILOGUE_PLAIN>(q, aligned, *args, tiles, err);
    case PK_PRODUCT_NN * 4 + PK_EPILOGUE_GELU_GRAD:
        return launch<PK_PRODUCT_NN, PK_EPILOGUE_GELU_GRAD>(q, aligned, *args, tiles, err);
    case PK_PRODUCT_TN * 4 + PK_EPILOGUE_PLAIN:
        return launch<PK_PRODUCT_TN, PK_EPILOGUE_PLAIN>(q, aligned, *args, tiles, err);
    default:
        return pk_fail(err, PK_EINVAL, "this product has no such epilogue");
    }
}
