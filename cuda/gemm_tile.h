/* gemm_tile.h -- what the bf16 and the float product share: the kernel's arguments, the order of
 * the tiles, the epilogue. For cuda/gemm*.cu. */
#ifndef PK_CUDA_GEMM_TILE_H
#define PK_CUDA_GEMM_TILE_H

#include "cuda/gelu.h"
#include "cuda/gemm.h"

/* Arguments of a kernel; a tile's partial result of range p of k goes to y + p * m * n. Extents are
 * 32 bits wide, since addresses are what costs registers beside the accumulators. */
struct pk_gemm_args {
    int32_t m, n, k;
    int32_t range; // of k that one part covers, a multiple of every tile's depth
    const void *a, *b;
    const float *bias;
    void *pre;
    const void *at;
    void *y;
    float *sums; // [parts][m]
    bool accumulate, sums_accumulate;
    int32_t m_tiles, n_tiles, parts;
};

#ifdef __cplusplus
extern "C" {
#endif
/* The float product (cuda/gemm_f32.cu); sums of columns are cuda/gemm.cu's business. */
enum pk_status pk_cuda_gemm_f32(const struct pk_queue *q, const struct pk_cuda_gemm *g,
                                struct pk_gemm_args *args, struct pk_err *err);
#ifdef __cplusplus
}
#endif

namespace
{
struct gemm_place {
    int32_t row, col; // first of the tile
    int32_t part;
};

/* Tiles in the order in which they run: within bands of 8 tile rows, column by column, so that the
 * CTAs that run together share 8 row panels of a and a few column panels of b through L2: each is
 * read from memory about once. */
template <int ROWS, int COLS>
__device__ __forceinline__ gemm_place gemm_locate(const pk_gemm_args &g, int32_t tile)
{
    const int32_t band = 8, plane = g.m_tiles * g.n_tiles;
    gemm_place at;
    at.part = tile / plane;
    tile -= at.part * plane;
    const int32_t first = tile / (band * g.n_tiles) * band;
    const int32_t rows = g.m_tiles - first < band ? g.m_tiles - first : band;
    tile -= first * g.n_tiles;
    at.row = (first + tile % rows) * ROWS;
    at.col = tile / rows * COLS;
    return at;
}

/* N neighbouring values of one row, of which `count` exist. WHOLE: all of them do, at a multiple of
 * N elements, so that they move as vectors of at most 16 bytes. */
template <bool WHOLE, int N, typename T>
__device__ __forceinline__ void gemm_load(float v[N], const T *p, int count)
{
    constexpr int step = 16 / sizeof(T) < N ? 16 / sizeof(T) : N;
    if constexpr (WHOLE) {
#pragma unroll
        for (int i = 0; i < N; i += step) {
            const vec<T, step> x = load<T, step>(p + i);
#pragma unroll
            for (int j = 0; j < step; j++) v[i + j] = to_float(x.at[j]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = i < count ? to_float(p[i]) : 0.0f;
    }
}

template <bool WHOLE, int N, typename T>
__device__ __forceinline__ void gemm_store(T *p, const float v[N], int count)
{
    constexpr int step = 16 / sizeof(T) < N ? 16 / sizeof(T) : N;
    if constexpr (WHOLE) {
#pragma unroll
        for (int i = 0; i < N; i += step) {
            vec<T, step> x;
#pragma unroll
            for (int j = 0; j < step; j++) x.at[j] = from_float<T>(v[i + j]);
            store(p + i, x);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < count) p[i] = from_float<T>(v[i]);
    }
}

/* The matrix that the epilogue reads: pre-activations, or y itself where it is added to. A forward
 * product (NT) is never added to anything. */
template <int PRODUCT, int EPILOGUE>
__device__ __forceinline__ const void *gemm_side(const pk_gemm_args &g)
{
    if constexpr (EPILOGUE == PK_EPILOGUE_GELU_GRAD) return g.at;
    if constexpr (PRODUCT == PK_PRODUCT_NT) return NULL;
    return g.accumulate ? g.y : NULL;
}

/* Finishes N neighbouring elements of y, number `at` of the whole, in column col. S: storage of the
 * program, O: of y; side: what gemm_side has for them. */
template <int PRODUCT, int EPILOGUE, bool WHOLE, typename S, typename O, int N>
__device__ __forceinline__ void gemm_finish(const pk_gemm_args &g, int64_t at, int32_t col,
                                            int32_t part, float v[N], const float side[N])
{
    const int count = g.n - col < N ? g.n - col : N;
    if (PRODUCT == PK_PRODUCT_NT && g.bias) {
        float w[N];
        gemm_load<WHOLE, N>(w, g.bias + col, count);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] += w[i];
    }
    if constexpr (EPILOGUE == PK_EPILOGUE_GELU) {
        if (g.pre) gemm_store<WHOLE, N>((S *)g.pre + at, v, count);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = gelu<S>(v[i]);
    }
    if constexpr (EPILOGUE == PK_EPILOGUE_GELU_GRAD) {
#pragma unroll
        for (int i = 0; i < N; i++) v[i] *= gelu_slope<S>(side[i]);
    }
    O *y = (O *)g.y + (int64_t)part * g.m * g.n + at;
    if (PRODUCT != PK_PRODUCT_NT && EPILOGUE == PK_EPILOGUE_PLAIN && g.accumulate) {
#pragma unroll
        for (int i = 0; i < N; i++) v[i] += side[i];
    }
    gemm_store<WHOLE, N>(y, v, count);
}
} // namespace

#endif
