/* mma_tile.h -- operands of a product in shared memory and the products of one step on the tensor
 * cores: what the matrix product (cuda/gemm.cu) and the convolution (cuda/conv1d_mma.cu) share.
 *
 * An operand lies in its slot as lines of 16-byte chunks, as in memory: lines are rows of a or b
 * when k is the contiguous axis, else lines are steps of k. Chunk c of line l sits at place
 * c ^ (l mod 8) (lines of 4 chunks: c ^ (l / 2 mod 4), of 2: c ^ (l / 4 mod 2)), so that the 8
 * addresses of one matrix load, the same chunk of 8 lines, touch all 32 banks. */
#ifndef PK_CUDA_MMA_TILE_H
#define PK_CUDA_MMA_TILE_H

#include "cuda/mma.h"

namespace
{
template <int ROWS, int COLS, int DEPTH, int STAGES> struct gemm_slots {
    bf16 a[STAGES][ROWS * DEPTH];
    bf16 b[STAGES][COLS * DEPTH];
};

/* Element offset of a chunk in a slot whose lines have CHUNKS chunks. */
template <int CHUNKS> __device__ __forceinline__ int gemm_chunk(int line, int chunk)
{
    static_assert(CHUNKS == 2 || CHUNKS == 4 || CHUNKS % 8 == 0, "chunks that turn within a line");
    const int turn = CHUNKS >= 8 ? line & 7 : CHUNKS == 4 ? line >> 1 & 3 : line >> 2 & 1;
    return (line * CHUNKS + (chunk ^ turn)) * 8;
}

/* Fills a slot with LINES lines of CHUNKS chunks from [line, line_end) x [col, col_end) of a
 * row-major matrix with `width` columns; zeros beyond. ALIGNED: width is a multiple of 8. CACHED:
 * other CTAs of the SM are likely to read the same. */
template <int LINES, int CHUNKS, int THREADS, bool ALIGNED, bool CACHED = false>
__device__ __forceinline__ void gemm_fetch(bf16 *slot, const bf16 *from, int32_t width,
                                           int32_t line, int32_t line_end, int32_t col,
                                           int32_t col_end)
{
    static_assert(LINES * CHUNKS % THREADS == 0 || LINES * CHUNKS < THREADS, "the last turn");
#pragma unroll
    for (int i = 0; i < (LINES * CHUNKS + THREADS - 1) / THREADS; i++) {
        const int at = i * THREADS + (int)threadIdx.x, l = at / CHUNKS, c = at % CHUNKS;
        if (LINES * CHUNKS < THREADS && at >= LINES * CHUNKS) break;
        const int32_t y = line + l, x = col + c * 8;
        const int64_t source = (int64_t)y * width + x;
        bf16 *to = slot + gemm_chunk<CHUNKS>(l, c);
        if constexpr (ALIGNED) {
            const bool valid = y < line_end && x < col_end;
            if constexpr (CACHED)
                copy_async_16_cached(to, valid ? from + source : from, valid);
            else
                copy_async_16(to, valid ? from + source : from, valid);
        } else {
            vec<bf16, 8> v;
#pragma unroll
            for (int j = 0; j < 8; j++)
                v.at[j] =
                    y < line_end && x + j < col_end ? from[source + j] : __float2bfloat16_rn(0.0f);
            store(to, v);
        }
    }
}

/* Four 8 x 8 matrices of an operand that starts at (outer, k) of its slot, `outer` being a row of a
 * or a column of b. FLIP exchanges the second and third: a wants (outer, k), (outer + 8, k),
 * (outer, k + 8), (outer + 8, k + 8); b wants k to run first. */
template <bool K_LINES, int CHUNKS, bool FLIP>
__device__ __forceinline__ void gemm_fragment(uint32_t r[4], const bf16 *slot, int outer, int k)
{
    const int lane = (int)threadIdx.x % PK_WARP, matrix = lane / 8;
    const int low = matrix & 1, high = matrix >> 1;
    const int o = outer + (FLIP ? high : low) * 8, i = k + (FLIP ? low : high) * 8;
    if constexpr (K_LINES)
        load_matrix_x4_transposed(r, slot + gemm_chunk<CHUNKS>(i + lane % 8, o / 8));
    else
        load_matrix_x4(r, slot + gemm_chunk<CHUNKS>(o + lane % 8, i / 8));
}

/* d += the products of 16 steps of k, from step k of the slots a and b: a warp's MI x NJ pieces of
 * 16 x 8, the first at (row, col). fa: a's fragments, for who wants to go on with them. */
template <bool A_K, bool B_K, int A_CHUNKS, int B_CHUNKS, int MI, int NJ>
__device__ __forceinline__ void gemm_multiply(float d[MI][NJ][4], uint32_t fa[MI][4], const bf16 *a,
                                              const bf16 *b, int row, int col, int k)
{
    uint32_t fb[NJ / 2][4];
#pragma unroll
    for (int i = 0; i < MI; i++) gemm_fragment<A_K, A_CHUNKS, false>(fa[i], a, row + i * 16, k);
#pragma unroll
    for (int j = 0; j < NJ / 2; j++) gemm_fragment<B_K, B_CHUNKS, true>(fb[j], b, col + j * 16, k);
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++) mma_m16n8k16(d[i][j], fa[i], &fb[j / 2][j % 2 * 2]);
}

/* A quad of lanes holds, in lane t, columns 2t and 2t+1 of four 8-column pieces. Afterwards lane t
 * holds all 8 columns of piece t: a 4 x 4 transposition in two exchanges. */
__device__ __forceinline__ void gemm_gather(float v[4][2])
{
    const int t = (int)threadIdx.x % 4;
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 2 && !(j & bit); e++) {
                const bool upper = t & bit;
                const float send = upper ? v[j][e] : v[j | bit][e];
                const float got = __shfl_xor_sync(0xffffffffu, send, bit);
                v[j][e] = upper ? got : v[j][e];
                v[j | bit][e] = upper ? v[j | bit][e] : got;
            }
}
} // namespace

#endif
