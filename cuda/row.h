/* row.h -- rows that stay in registers: a group of L lanes (16 or 32) holds a row as V vectors of
 * 16 bytes per lane, so that a kernel can go over it several times and touch memory once.
 *
 * That is for rows of at most ROW_COLS columns whose length is a multiple of 16 bytes; the rest
 * takes load_row, a few elements at a time. */
#ifndef PK_CUDA_ROW_H
#define PK_CUDA_ROW_H

#include "cuda/mma.h"

enum { ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / PK_WARP, ROW_COLS = 1024 };

/* Sum over a group of L neighbouring lanes, the same in each of them. */
template <int L> __device__ __forceinline__ float group_sum(float x)
{
#pragma unroll
    for (int lane = L / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

/* A lane's share of one row: V vectors, L lanes apart, as they lie in memory. In words, since the
 * compiler would give each bf16 a register of its own. */
using words = vec<uint32_t, 4>;
template <int V> struct share {
    words at[V];
};

__device__ __forceinline__ void unpack(float (&y)[4], const words &x)
{
    for (int i = 0; i < 4; i++) y[i] = __uint_as_float(x.at[i]);
}
/* A bf16 is the upper half of a float. */
__device__ __forceinline__ void unpack(float (&y)[8], const words &x)
{
    for (int i = 0; i < 4; i++) {
        y[2 * i] = __uint_as_float(x.at[i] << 16);
        y[2 * i + 1] = __uint_as_float(x.at[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ words pack(const float (&x)[4])
{
    words y;
    for (int i = 0; i < 4; i++) y.at[i] = __float_as_uint(x[i]);
    return y;
}
__device__ __forceinline__ words pack(const float (&x)[8])
{
    words y;
    for (int i = 0; i < 4; i++) y.at[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
    return y;
}
__device__ __forceinline__ void store_words(void *p, const words &x)
{
    *reinterpret_cast<words *>(p) = x;
}

/* at: element of the matrix where the lane's first vector of the row lies. */
template <typename S, int V, int L>
__device__ __forceinline__ share<V> load_share(const void *matrix, int64_t at, int cols, bool valid)
{
    constexpr int N = 16 / sizeof(S);
    const int lane = threadIdx.x % L;
    share<V> s = {};
#pragma unroll
    for (int v = 0; v < V; v++)
        if (valid && (v * L + lane) * N < cols)
            s.at[v] = *reinterpret_cast<const words *>((const S *)matrix + at + v * L * N);
    return s;
}

/* The rows of one group: every step-th one, from `row` on. Blocks walk over the rows, so that what
 * belongs to columns stays in registers. All groups of a block go `rounds` rounds, since two of
 * them share a warp, whose lanes must stay together for its sums; this one has `mine` rows. */
struct walk {
    int64_t row, step;
    int64_t at, stride; // the same in elements, for the lane's first vector
    int rounds, mine;
};
template <int N, int L> __device__ __forceinline__ walk walk_rows(int64_t rows, int cols)
{
    constexpr int groups = ROW_THREADS / L;
    const int64_t base = (int64_t)blockIdx.x * groups;
    walk w;
    w.row = base + threadIdx.x / L;
    w.step = (int64_t)gridDim.x * groups;
    w.at = w.row * cols + (int)threadIdx.x % L * N;
    w.stride = w.step * cols;
    w.rounds = base < rows ? (int)((rows - base - 1) / w.step) + 1 : 0;
    w.mine = w.rounds - (w.row + (w.rounds - 1) * w.step >= rows);
    return w;
}
__device__ __forceinline__ void walk_on(walk &w)
{
    w.row += w.step;
    w.at += w.stride;
}

struct statistics { // of a row
    float mean, rstd;
};

/* Gain and bias of the lane's columns; a lane beyond the row's end gets zeros. */
template <int N> struct affine {
    float gain[N], bias[N];
};
template <int N>
__device__ __forceinline__ void load_affine(affine<N> &a, const float *gain, const float *bias,
                                            int column, int cols)
{
    for (int i = 0; i < N; i++) a.gain[i] = a.bias[i] = 0;
    if (column < cols) load_floats<N>(a.gain, gain + column);
    if (bias && column < cols) load_floats<N>(a.bias, bias + column);
}

template <typename S, int N>
__device__ __forceinline__ void load_row(float (&y)[N], const void *x, int64_t row, int cols, int i)
{
    to_floats(y, load<S, N>((const S *)x + row * cols + i));
}

#endif
