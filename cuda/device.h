/* device.h -- what every kernel file includes: launches, shared memory, element types, reductions.
 *
 * The same .cu files are compiled by nvcc for a GPU and by a host C++ compiler against
 * tests/cuda_host/, whose <cuda_runtime.h> and <cuda_bf16.h> run blocks of threads on the CPU.
 * Three rules make that possible, and tests/cuda_host relies on them:
 *   1. kernels are launched by PK_LAUNCH only;
 *   2. shared memory is declared by PK_SHARED only, one object per kernel, its size given at
 * launch;
 *   3. PTX lives in cuda/mma.h only.
 *
 * Templates over element type and vector width, `namespace {}` and `if constexpr` are all the C++
 * there is. */
#ifndef PK_CUDA_DEVICE_H
#define PK_CUDA_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "cuda/queue.h"

#ifdef __CUDACC__
/* clang-format off */ // it would take <<< apart
/* kernel<<<...>>>(...) on a stream; PK_OK, or PK_EDEVICE that names the kernel. A kernel that takes
 * more than 48 KiB of shared memory gets its limit raised first. */
#define PK_LAUNCH(kernel, grid, block, shared_bytes, queue, err, ...)                              \
    (pk_cuda_allow_shared((const void *)(kernel), #kernel, (shared_bytes), (err)) == PK_OK         \
         ? ((kernel)<<<(grid), (block), (shared_bytes), (queue)->stream>>>(__VA_ARGS__),           \
            pk_cuda_launched(#kernel, (err)))                                                      \
         : PK_EDEVICE)
/* clang-format on */
/* The block's shared memory as one object of this type, 128-byte aligned. */
#define PK_SHARED(type, name)                                                                      \
    extern __shared__ __align__(128) unsigned char pk_shared_bytes[];                              \
    type &name = *reinterpret_cast<type *>(pk_shared_bytes)
#endif

using bf16 = __nv_bfloat16;

enum { PK_WARP = 32 };

__device__ __forceinline__ float to_float(float x)
{
    return x;
}
__device__ __forceinline__ float to_float(bf16 x)
{
    return __bfloat162float(x);
}
template <typename T> __device__ __forceinline__ T from_float(float x)
{
    if constexpr (sizeof(T) == sizeof(bf16))
        return __float2bfloat16_rn(x);
    else
        return x;
}

/* N neighbouring elements moved by one instruction: 16 bytes are 8 bf16 or 4 float. The address
 * must be a multiple of the vector's size. */
template <typename T, int N> struct alignas(N * sizeof(T)) vec {
    T at[N];
};
template <typename T, int N> __device__ __forceinline__ vec<T, N> load(const T *p)
{
    return *reinterpret_cast<const vec<T, N> *>(p);
}
template <typename T, int N> __device__ __forceinline__ void store(T *p, const vec<T, N> &v)
{
    *reinterpret_cast<vec<T, N> *>(p) = v;
}

/* A vector as floats, and floats rounded to a vector: two bf16 by one instruction. */
template <typename T, int N>
__device__ __forceinline__ void to_floats(float (&y)[N], const vec<T, N> &x)
{
    for (int i = 0; i < N; i++) y[i] = to_float(x.at[i]);
}
template <typename T, int N> __device__ __forceinline__ vec<T, N> from_floats(const float (&x)[N])
{
    vec<T, N> y;
    if constexpr (sizeof(T) == sizeof(bf16) && N % 2 == 0)
        for (int i = 0; i < N; i += 2) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(x[i], x[i + 1]);
            y.at[i] = pair.x;
            y.at[i + 1] = pair.y;
        }
    else
        for (int i = 0; i < N; i++) y.at[i] = from_float<T>(x[i]);
    return y;
}
/* N floats from memory; 16 bytes at a time where N is a multiple of 4, and p then aligned to it. */
template <int N> __device__ __forceinline__ void load_floats(float (&y)[N], const float *p)
{
    constexpr int width = N % 4 == 0 ? 4 : 1;
    for (int i = 0; i < N; i += width) {
        const vec<float, width> v = load<float, width>(p + i);
        for (int k = 0; k < width; k++) y[i + k] = v.at[k];
    }
}

/* Sums and maxima over a warp, the same in every lane, in a fixed order: all 32 lanes must call. */
__device__ __forceinline__ float warp_sum(float x)
{
    for (int lane = PK_WARP / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}
__device__ __forceinline__ double warp_sum(double x)
{
    for (int lane = PK_WARP / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}
__device__ __forceinline__ float warp_max(float x)
{
    for (int lane = PK_WARP / 2; lane > 0; lane /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

/* Sum over a block of at most 1,024 threads, the same in every thread. scratch: [32] in shared
 * memory, free again after the next barrier. */
template <typename T> __device__ __forceinline__ T block_sum(T x, T *scratch)
{
    const int warps = (int)(blockDim.x + PK_WARP - 1) / PK_WARP;
    x = warp_sum(x);
    if (threadIdx.x % PK_WARP == 0) scratch[threadIdx.x / PK_WARP] = x;
    __syncthreads();
    x = scratch[0];
    for (int i = 1; i < warps; i++) x += scratch[i];
    return x;
}

#endif
