/* wire.cu -- what ranks need beside the optimizer: gradients back from bf16, and a hash of weights
 * and moments that replicas are compared by.
 *
 * Both are bound by memory: 6 and 4 bytes per element. */
#include "cuda/device.h"
#include "cuda/optim.h"

namespace
{

enum { THREADS = 256, V = 4, BLOCKS = 528 }; // blocks of the hash: 4 on each of 132 SMs

__global__ void __launch_bounds__(THREADS) widen(float *to, const bf16 *low, int64_t count)
{
    const int64_t first = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    for (int64_t i = first; i < count && i < first + V; i++) to[i] = to_float(low[i]);
}

/* The finaliser of splitmix64 (Steele, Lea and Flood 2014). */
__device__ __forceinline__ uint64_t mixed(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

struct hash_shared {
    uint64_t sum[THREADS];
};

__global__ void __launch_bounds__(THREADS)
    add_hash(unsigned long long *sum, const float *from, int64_t count, uint64_t arena)
{
    PK_SHARED(hash_shared, s);
    const int64_t stride = (int64_t)gridDim.x * THREADS;
    uint64_t mine = 0;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride)
        mine +=
            mixed(((uint64_t)i << 2 | arena) * 0x9e3779b97f4a7c15ull + __float_as_uint(from[i]));
    s.sum[threadIdx.x] = mine;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) s.sum[threadIdx.x] += s.sum[threadIdx.x + half];
    }
    if (threadIdx.x == 0) atomicAdd(sum, (unsigned long long)s.sum[0]);
}

} // namespace

extern "C" {

enum pk_status pk_cuda_widen(const struct pk_queue *q, float *to, const void *low, int64_t count,
                             struct pk_err *err)
{
    const int64_t blocks = (count + THREADS * V - 1) / (THREADS * V);
    if (!blocks) return PK_OK;
    return PK_LAUNCH(widen, (unsigned)blocks, THREADS, 0, q, err, to, (const bf16 *)low, count);
}

enum pk_status pk_cuda_add_hash(const struct pk_queue *q, uint64_t *sum, const float *from,
                                int64_t count, uint64_t arena, struct pk_err *err)
{
    const int64_t blocks = PK_MIN((count + THREADS - 1) / THREADS, (int64_t)BLOCKS);
    if (!blocks) return PK_OK;
    return PK_LAUNCH(add_hash, (unsigned)blocks, THREADS, sizeof(hash_shared), q, err,
                     (unsigned long long *)sum, from, count, arena);
}

} // extern "C"
