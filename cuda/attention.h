/* attention.h -- what the attention kernels share: arguments, tiles in shared memory, products.
 *
 * The tensor-core kernels know one kind of tile: 16 rows (tokens) of one head, HEAD bf16 columns,
 * in shared memory. Every product of attention is one of two forms over such tiles:
 *     product_rows      S (16 x 16)    += A (16 x HEAD)  tile^T      scores, dP
 *     product_columns   C (16 x HEAD)  += A (16 x 16)    tile        P V, P^T dO, dS^T Q, dS K */
#ifndef PK_CUDA_ATTENTION_H
#define PK_CUDA_ATTENTION_H

#include "cuda/device.h"
#include "cuda/mma.h"

enum { ATTENTION_MAX_TOKENS = 512, ATTENTION_MAX_HEAD = 256, ATTENTION_MAX_MMA_HEAD = 128 };
/* Keeps offsets within one record below 2^31: 512 * 3 * 2^20. */
enum { ATTENTION_MAX_WIDTH = 1 << 20 };

struct attention_shape {
    int batch, tokens, heads, head; // head: columns of one head
    int width;                      // heads * head, at most ATTENTION_MAX_WIDTH
    float scale;                    // of the scores, positive
};

/* qkv [batch, tokens, 3 width] in three parts, heads inside each -> out [batch, tokens, width] and,
 * if not NULL, lse [batch, heads, tokens], natural log of the sum of exp(scale * score). */
struct attention_forward {
    struct attention_shape s;
    const void *qkv;
    void *out;
    float *lse;
};

/* dqkv (+)= gradient of qkv, from dout and what the forward pass read and wrote. */
struct attention_backward {
    struct attention_shape s;
    const void *dout, *qkv, *out;
    const float *lse;
    void *dqkv;
    bool accumulate;
};

/* Tensor cores: bf16, head a multiple of 8 (rows are then 16-byte aligned), at most 128.
 * CUDA cores: float or bf16, any head up to 256, float arithmetic throughout.
 * Errors  PK_EDEVICE the launch was refused. Same bits on every run; no workspace. */
enum pk_status attention_forward_mma(const struct attention_forward *a, const struct pk_queue *q,
                                     struct pk_err *err);
enum pk_status attention_backward_mma(const struct attention_backward *a, const struct pk_queue *q,
                                      struct pk_err *err);
enum pk_status attention_forward_general(const struct attention_forward *a, enum pk_dtype type,
                                         const struct pk_queue *q, struct pk_err *err);
enum pk_status attention_backward_general(const struct attention_backward *a, enum pk_dtype type,
                                          const struct pk_queue *q, struct pk_err *err);

#define PK_LOG2E 1.44269504f
#define PK_LN2   0.693147181f

/* One head of one record: where its rows start. blockIdx.x = record * heads + head. */
template <typename T> struct head_view {
    const T *q, *k, *v;
    int stride;   // between rows of qkv
    int64_t out;  // offset of the head's first row in out and dout (stride: width)
    int64_t dqkv; // offset of q in qkv and dqkv
};
template <typename T>
__device__ __forceinline__ head_view<T> view_head(const attention_shape &s, const void *qkv)
{
    const int record = (int)blockIdx.x / s.heads, column = (int)blockIdx.x % s.heads * s.head;
    const int64_t first = (int64_t)record * s.tokens * s.width, at = 3 * first + column;
    const T *q = static_cast<const T *>(qkv) + at;
    return {q, q + s.width, q + 2 * s.width, 3 * s.width, first + column, at};
}

/* How rows of HEAD bf16 lie in shared memory so that the same 16-byte chunk of eight consecutive
 * rows, which is what ldmatrix reads at a time, is in 32 different banks:
 *   padded    rows are HEAD + 8 elements apart, an odd number of chunks. An address is affine in
 * row and column, so column steps are immediate operands: fewest registers. swizzled  rows follow
 * each other, an exclusive or moves the chunk. 64, 128: a row is whole lines of 128 bytes, 8
 * places, moved by row % 8; 32: two rows a line, places 4 (row % 2) + (chunk ^ row / 2 % 4); 48:
 * place 6 row + chunk, 6 row % 8 = 0 6 4 2 0 6 4 2, the second four rows take odd places. Smallest.
 */
enum tile_layout { swizzled, padded };
template <int HEAD, tile_layout LAYOUT>
constexpr int row_length = LAYOUT == padded ? HEAD + 8 : HEAD;

template <int HEAD, tile_layout LAYOUT>
__device__ __forceinline__ int chunk_offset(int row, int chunk)
{
    static_assert(HEAD == 32 || HEAD == 48 || HEAD == 64 || HEAD == 128, "head");
    if constexpr (LAYOUT == padded) return row * (HEAD + 8) + 8 * chunk;
    if constexpr (HEAD == 32) return row * HEAD + 8 * (chunk ^ (row >> 1 & 3));
    if constexpr (HEAD == 48) return row * HEAD + 8 * (chunk ^ (row >> 2 & 1));
    return row * HEAD + 8 * (chunk ^ (row & 7));
}

/* Starts copying `total` rows to shared memory, `valid` of them from memory, the rest and the
 * columns from head on as zeros. After every 16 rows `gap` elements are left out. All threads of
 * the block. */
template <int HEAD, tile_layout LAYOUT>
__device__ __forceinline__ void load_rows(bf16 *to, const bf16 *from, int stride, int valid,
                                          int total, int head, int gap = 0)
{
    constexpr int chunks = HEAD / 8;
    for (int i = (int)threadIdx.x; i < total * chunks; i += (int)blockDim.x) {
        const int row = i / chunks, chunk = i % chunks;
        const bool there = row < valid && chunk * 8 < head;
        copy_async_16(to + row / 16 * gap + chunk_offset<HEAD, LAYOUT>(row, chunk),
                      there ? from + row * stride + chunk * 8 : from, there);
    }
}

/* Where in a tile a lane's row of four 8 x 8 matrices lies, for columns [16 k, 16 k + 16). A
 * product wants the registers of one operand next to each other, so there are two orders of the
 * matrices: order_rows     B of product_rows: rows 0-7 left, rows 0-7 right, rows 8-15 left, right
 *   order_columns  B of product_columns (transposed load) and A of product_rows: rows 0-7 left,
 *                  rows 8-15 left, rows 0-7 right, rows 8-15 right */
enum tile_order { order_rows, order_columns };
template <int HEAD, tile_layout LAYOUT>
__device__ __forceinline__ void tile_offsets(int (&at)[HEAD / 16], tile_order order)
{
    const int lane = (int)threadIdx.x % PK_WARP, low = lane / 8 % 2, high = lane / 16;
    const int lower = order == order_rows ? high : low, right = order == order_rows ? low : high;
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++)
        at[k] = chunk_offset<HEAD, LAYOUT>(lane % 8 + 8 * lower, 2 * k + right);
}

/* One step of product_rows, 16 columns of A and of the tile: the tile's rows are columns of S, rows
 * 0-7 of `first`, rows 8-15 of `second`. */
__device__ __forceinline__ void product_rows_step(float (&first)[4], float (&second)[4],
                                                  const uint32_t (&a)[4], const bf16 *tile, int at)
{
    uint32_t r[4];
    load_matrix_x4(r, tile + at);
    mma_m16n8k16(first, a, r);
    mma_m16n8k16(second, a, r + 2);
}

/* c += a tile for COLUMNS of the tile's columns, `at` the offsets of the first ones. */
template <int COLUMNS>
__device__ __forceinline__ void product_columns(float (&c)[COLUMNS / 8][4], const uint32_t (&a)[4],
                                                const bf16 *tile, const int *at)
{
#pragma unroll
    for (int n = 0; n < COLUMNS / 16; n++) {
        uint32_t r[4];
        load_matrix_x4_transposed(r, tile + at[n]);
        mma_m16n8k16(c[2 * n], a, r);
        mma_m16n8k16(c[2 * n + 1], a, r + 2);
    }
}

template <int N> __device__ __forceinline__ void clear(float (&c)[N][4])
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) c[n][i] = 0;
}

/* A head that is padded to HEAD columns has more than this many: columns before need no check. */
template <int HEAD>
constexpr int least_head = HEAD == 32   ? 0
                           : HEAD == 48 ? 32
                           : HEAD == 64 ? 48
                                        : 64;

/* Writes (or adds) 16 rows of HEAD accumulators, times factor[0] for rows 0-7 and factor[1] for
 * rows 8-15, to rows of `stride` elements, of which `valid` rows and, from column `first` of the
 * head on, COLUMNS of its `head` columns exist. Neighbouring lanes swap halves of two 8-column
 * tiles first: a lane then has 8 bytes, four lanes one full 32-byte sector of a row. */
template <int HEAD, int COLUMNS, bool ADD>
__device__ __forceinline__ void store_rows(bf16 *to, int stride, int valid, int head, int first,
                                           const float (&c)[COLUMNS / 8][4], const float *factor)
{
    const int lane = (int)threadIdx.x % PK_WARP, g = lane / 4, t = lane % 4, odd = t % 2;
    const int at = first + 8 * odd + 4 * (t / 2); // column of this lane in the first two tiles
    bf16 *line = to + (g * stride + at);
#pragma unroll
    for (int half = 0; half < 2; half++, line += 8 * stride)
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n += 2) {
            float x[4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float low = c[n][2 * half + i] * factor[half];
                const float high = c[n + 1][2 * half + i] * factor[half];
                const float got = __shfl_xor_sync(0xffffffffu, odd ? low : high, 1);
                x[i] = odd ? got : low;
                x[2 + i] = odd ? high : got;
            }
            if (g + 8 * half >= valid) continue;
            if ((COLUMNS < HEAD || 8 * n + 16 > least_head<HEAD>)&&at + 8 * n >= head) continue;
            vec<bf16, 4> y;
            if (ADD) y = load<bf16, 4>(line + 8 * n);
#pragma unroll
            for (int i = 0; i < 4; i++)
                y.at[i] = from_float<bf16>(ADD ? to_float(y.at[i]) + x[i] : x[i]);
            store<bf16, 4>(line + 8 * n, y);
        }
}

/* HEAD of the tensor-core kernels that holds this head, in shared memory and registers only. */
static inline int attention_padded_head(int head)
{
    return head <= 32 ? 32 : head <= 48 ? 48 : head <= 64 ? 64 : 128;
}

#endif
