/* mma.h -- the only PTX: tensor-core products, matrix loads, asynchronous copies (sm_80 and later).
 *
 * Fragment layouts are those of the PTX ISA, "Warp-level matrix instructions", mma.m16n8k16. With
 * lane = 4 * g + t (g 0..7, t 0..3), each 32-bit register holding two bf16, the lower column first:
 *   A (16 x 16, row-major)   a[0] rows g    cols 2t..   a[1] rows g+8  cols 2t..
 *                            a[2] rows g    cols 2t+8.. a[3] rows g+8  cols 2t+8..
 *   B (16 x 8, k by n)       b[0] k 2t, 2t+1  n g       b[1] k 2t+8, 2t+9  n g
 *   C, D (16 x 8, float)     d[0], d[1] row g cols 2t, 2t+1    d[2], d[3] row g+8
 * The host versions are in tests/cuda_host/pk_mma_host.h. */
#ifndef PK_CUDA_MMA_H
#define PK_CUDA_MMA_H

#include "cuda/device.h"

#ifndef __CUDACC__
#include <pk_mma_host.h>
#else

/* d += a b; all 32 lanes. */
__device__ __forceinline__ void mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 bf16 matrices from shared memory: lane i gives the address of row i % 8 of matrix
 * i / 8 (16 bytes, aligned); r[m] is matrix m, lane 4g + t holding row g, columns 2t, 2t+1. The
 * transposed form gives lane 4g + t rows 2t, 2t+1 of column g. */
__device__ __forceinline__ void load_matrix_x4(uint32_t r[4], const bf16 *row)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t r[4], const bf16 *row)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes from global to shared memory in the background, both aligned; zeros when !valid (then
 * `from` is not read but must be a valid address). */
__device__ __forceinline__ void copy_async_16(void *to_shared, const void *from, bool valid)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(to_shared);
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes)
                 : "memory");
}
/* The same, and kept in L1: for bytes that this SM will ask for again. */
__device__ __forceinline__ void copy_async_16_cached(void *to_shared, const void *from, bool valid)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(to_shared);
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes)
                 : "memory");
}
/* Closes the group of copies issued since the last one; waits until at most n groups are pending
 * (a barrier is still needed before other threads read). */
__device__ __forceinline__ void copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int n> __device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}
/* 2^x by the special function unit, error about 2 ulp; 2^-inf is 0. */
__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

/* Asks for the 128-byte line of global memory that holds `at`, so that a later load finds it in L2.
 */
__device__ __forceinline__ void prefetch_l2(const void *at)
{
#ifdef __CUDACC__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#else
    (void)at;
#endif
}

/* Two floats as one register of two bf16, `low` in the lower half (the lower column). */
__device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    const __nv_bfloat162 p = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&p);
}

#endif
