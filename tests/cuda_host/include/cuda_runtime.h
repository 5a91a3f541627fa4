/* cuda_runtime.h -- CUDA C++ on the CPU: the language, the thread's identity, warp and block
 * operations, atomics and device maths, for kernels compiled by a host compiler.
 *
 * Found instead of the toolkit's header by include path. Every thread of a block is a fiber; an
 * operation that waits for other threads gives the processor to them (block.cc). */
#ifndef PK_HOST_CUDA_RUNTIME_H
#define PK_HOST_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n)    __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

/* ---- vector types ---- */
#define PK_HOST_VECTORS(T, name, two, four)                                                        \
    struct name##1                                                                                 \
    {                                                                                              \
        T x;                                                                                       \
    };                                                                                             \
    struct alignas(two) name##2                                                                    \
    {                                                                                              \
        T x, y;                                                                                    \
    };                                                                                             \
    struct name##3                                                                                 \
    {                                                                                              \
        T x, y, z;                                                                                 \
    };                                                                                             \
    struct alignas(four) name##4                                                                   \
    {                                                                                              \
        T x, y, z, w;                                                                              \
    };                                                                                             \
    static inline name##1 make_##name##1(T x)                                                      \
    {                                                                                              \
        return {x};                                                                                \
    }                                                                                              \
    static inline name##2 make_##name##2(T x, T y)                                                 \
    {                                                                                              \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline name##3 make_##name##3(T x, T y, T z)                                            \
    {                                                                                              \
        return {x, y, z};                                                                          \
    }                                                                                              \
    static inline name##4 make_##name##4(T x, T y, T z, T w)                                       \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
PK_HOST_VECTORS(signed char, char, 2, 4)
PK_HOST_VECTORS(unsigned char, uchar, 2, 4)
PK_HOST_VECTORS(short, short, 4, 8)
PK_HOST_VECTORS(unsigned short, ushort, 4, 8)
PK_HOST_VECTORS(int, int, 8, 16)
PK_HOST_VECTORS(unsigned, uint, 8, 16)
PK_HOST_VECTORS(long long, longlong, 16, 16)
PK_HOST_VECTORS(unsigned long long, ulonglong, 16, 16)
PK_HOST_VECTORS(float, float, 8, 16)
PK_HOST_VECTORS(double, double, 16, 16)
#undef PK_HOST_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z)
    {
    }
    constexpr operator uint3() const
    {
        return uint3{x, y, z};
    }
};

/* ---- the executor's side ---- */
namespace pk_host
{

struct position {
    uint3 thread, block;
    dim3 threads, blocks;
};
extern position *here; // of the running thread; null outside kernels

enum wait_kind {
    WAIT_NOTHING,
    WAIT_BARRIER,
    WAIT_BARRIER_AND,
    WAIT_BARRIER_OR,
    WAIT_BARRIER_COUNT,
    WAIT_SYNCWARP,
    WAIT_SHFL,
    WAIT_SHFL_UP,
    WAIT_SHFL_DOWN,
    WAIT_SHFL_XOR,
    WAIT_BALLOT,
    WAIT_ANY,
    WAIT_ALL,
    WAIT_MATCH,
    WAIT_REDUCE,
    WAIT_MMA,
    WAIT_LOAD_MATRIX,
    WAIT_LOAD_MATRIX_TRANSPOSED,
    WAIT_KINDS
};

/* Ends the kernel with this error, "kernel, block, thread: text". Never returns inside a kernel. */
[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* file and line are those of the call: a barrier is one call that all threads reach. */
int barrier(wait_kind kind, int predicate, const char *file, int line);
/* Waits until all lanes of the mask call it with the same kind and mask; then `complete` is run
 * once with the arguments of every lane (null where the lane is not in the mask). */
typedef void (*warp_function)(void *const argument[32], unsigned mask);
void warp(wait_kind kind, unsigned mask, warp_function complete, void *argument);
int lane();
unsigned active_lanes();
void *shared(size_t bytes, const char *type); // checks bytes against those of the launch
uint32_t shared_address(const void *p);       // checks that p lies in shared memory
void copy_async(void *to, const void *from, bool valid);
void copy_commit();
void copy_wait(int pending);
uint64_t clock_ticks();

/* Sizes of a grid or block as written at the launch, before they are cut to 32 bits. */
struct extent {
    int64_t x, y, z;
    extent(dim3 d) : x(d.x), y(d.y), z(d.z)
    {
    }
    template <typename I, typename = std::enable_if_t<std::is_integral_v<I> || std::is_enum_v<I>>>
    extent(I n) : x(static_cast<int64_t>(n)), y(1), z(1)
    {
    }
};
typedef void (*invoke_function)(const void *call);
typedef void (*discard_function)(void *call);
void enqueue_kernel(const void *kernel, const char *name, extent grid, extent block,
                    int64_t shared_bytes, cudaStream_t stream, invoke_function invoke,
                    discard_function discard, void *call);

template <typename T> struct same {
    typedef T type;
};
template <typename... P> struct launcher {
    void (*kernel)(P...);
    const char *name;
    extent grid, block;
    int64_t shared_bytes;
    cudaStream_t stream;
    struct call {
        void (*kernel)(P...);
        std::tuple<P...> arguments;
    };
    void operator()(typename same<P>::type... p) const
    {
        enqueue_kernel(
            reinterpret_cast<const void *>(kernel), name, grid, block, shared_bytes, stream,
            [](const void *c) {
                const call *k = static_cast<const call *>(c);
                std::apply(k->kernel, k->arguments);
            },
            [](void *c) { delete static_cast<call *>(c); },
            new call{kernel, std::tuple<P...>(p...)});
    }
};
template <typename... P>
launcher<P...> launch(void (*kernel)(P...), const char *name, extent grid, extent block,
                      int64_t shared_bytes, cudaStream_t stream)
{
    return {kernel, name, grid, block, shared_bytes, stream};
}

template <typename T> uint64_t to_bits(T x)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a shuffle moves 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &x, sizeof x);
    return bits;
}
template <typename T> T from_bits(uint64_t bits)
{
    T x;
    memcpy(static_cast<void *>(&x), &bits, sizeof x);
    return x;
}
uint64_t shuffle(wait_kind kind, unsigned mask, uint64_t value, int lane_or_delta, int width);
unsigned ballot(wait_kind kind, unsigned mask, int predicate);
unsigned match(unsigned mask, uint64_t value);
enum reduction { REDUCE_ADD, REDUCE_MIN, REDUCE_MAX, REDUCE_AND, REDUCE_OR, REDUCE_XOR };
int64_t reduce(reduction how, unsigned mask, int64_t value);

} // namespace pk_host

/* As in cuda/device.h, for the executor. */
#define PK_LAUNCH(kernel, grid, block, shared_bytes, queue, err, ...)                              \
    (pk_cuda_allow_shared((const void *)(kernel), #kernel, (size_t)(shared_bytes), (err)) == PK_OK \
         ? (pk_host::launch((kernel), #kernel, (grid), (block), (int64_t)(shared_bytes),           \
                            (queue)->stream)(__VA_ARGS__),                                         \
            pk_cuda_launched(#kernel, (err)))                                                      \
         : PK_EDEVICE)
#define PK_SHARED(type, name)                                                                      \
    type &name = *static_cast<type *>(pk_host::shared(sizeof(type), #type))

#define threadIdx (pk_host::here->thread)
#define blockIdx  (pk_host::here->block)
#define blockDim  (pk_host::here->threads)
#define gridDim   (pk_host::here->blocks)
constexpr int warpSize = 32;

/* ---- barriers and warps ---- */
inline void __syncthreads(const char *file = __builtin_FILE(), int line = __builtin_LINE())
{
    pk_host::barrier(pk_host::WAIT_BARRIER, 0, file, line);
}
inline int __syncthreads_and(int p, const char *file = __builtin_FILE(),
                             int line = __builtin_LINE())
{
    return pk_host::barrier(pk_host::WAIT_BARRIER_AND, p, file, line);
}
inline int __syncthreads_or(int p, const char *file = __builtin_FILE(), int line = __builtin_LINE())
{
    return pk_host::barrier(pk_host::WAIT_BARRIER_OR, p, file, line);
}
inline int __syncthreads_count(int p, const char *file = __builtin_FILE(),
                               int line = __builtin_LINE())
{
    return pk_host::barrier(pk_host::WAIT_BARRIER_COUNT, p, file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    pk_host::warp(pk_host::WAIT_SYNCWARP, mask, nullptr, nullptr);
}

template <typename T> inline T __shfl_sync(unsigned mask, T x, int lane, int width = 32)
{
    return pk_host::from_bits<T>(
        pk_host::shuffle(pk_host::WAIT_SHFL, mask, pk_host::to_bits(x), lane, width));
}
template <typename T> inline T __shfl_up_sync(unsigned mask, T x, unsigned delta, int width = 32)
{
    return pk_host::from_bits<T>(
        pk_host::shuffle(pk_host::WAIT_SHFL_UP, mask, pk_host::to_bits(x), (int)delta, width));
}
template <typename T> inline T __shfl_down_sync(unsigned mask, T x, unsigned delta, int width = 32)
{
    return pk_host::from_bits<T>(
        pk_host::shuffle(pk_host::WAIT_SHFL_DOWN, mask, pk_host::to_bits(x), (int)delta, width));
}
template <typename T> inline T __shfl_xor_sync(unsigned mask, T x, int lanes, int width = 32)
{
    return pk_host::from_bits<T>(
        pk_host::shuffle(pk_host::WAIT_SHFL_XOR, mask, pk_host::to_bits(x), lanes, width));
}
inline unsigned __ballot_sync(unsigned mask, int p)
{
    return pk_host::ballot(pk_host::WAIT_BALLOT, mask, p);
}
inline int __any_sync(unsigned mask, int p)
{
    return pk_host::ballot(pk_host::WAIT_ANY, mask, p) != 0;
}
inline int __all_sync(unsigned mask, int p)
{
    return pk_host::ballot(pk_host::WAIT_ALL, mask, p) == mask;
}
template <typename T> inline unsigned __match_any_sync(unsigned mask, T x)
{
    return pk_host::match(mask, pk_host::to_bits(x));
}
inline unsigned __activemask()
{
    return pk_host::active_lanes();
}

#define PK_HOST_REDUCE(name, T, how)                                                               \
    inline T name(unsigned mask, T x)                                                              \
    {                                                                                              \
        return (T)pk_host::reduce(pk_host::how, mask, (int64_t)x);                                 \
    }
PK_HOST_REDUCE(__reduce_add_sync, unsigned, REDUCE_ADD)
PK_HOST_REDUCE(__reduce_add_sync, int, REDUCE_ADD)
PK_HOST_REDUCE(__reduce_min_sync, unsigned, REDUCE_MIN)
PK_HOST_REDUCE(__reduce_min_sync, int, REDUCE_MIN)
PK_HOST_REDUCE(__reduce_max_sync, unsigned, REDUCE_MAX)
PK_HOST_REDUCE(__reduce_max_sync, int, REDUCE_MAX)
PK_HOST_REDUCE(__reduce_and_sync, unsigned, REDUCE_AND)
PK_HOST_REDUCE(__reduce_or_sync, unsigned, REDUCE_OR)
PK_HOST_REDUCE(__reduce_xor_sync, unsigned, REDUCE_XOR)
#undef PK_HOST_REDUCE

/* One OS thread runs all fibers, so only the compiler must be kept from moving accesses. */
inline void __threadfence()
{
    __asm__ volatile("" ::: "memory");
}
inline void __threadfence_block()
{
    __asm__ volatile("" ::: "memory");
}
inline void __threadfence_system()
{
    __asm__ volatile("" ::: "memory");
}
inline void __nanosleep(unsigned)
{
}
inline long long clock64()
{
    return (long long)pk_host::clock_ticks();
}
[[noreturn]] inline void __trap()
{
    pk_host::fault("__trap");
}
inline uint32_t __cvta_generic_to_shared(const void *p)
{
    return pk_host::shared_address(p);
}

/* ---- atomics: fibers change only at waits, so these are plain ---- */
#define PK_HOST_ATOMICS(T)                                                                         \
    inline T atomicAdd(T *p, T x)                                                                  \
    {                                                                                              \
        const T old = *p;                                                                          \
        *p = (T)(old + x);                                                                         \
        return old;                                                                                \
    }                                                                                              \
    inline T atomicExch(T *p, T x)                                                                 \
    {                                                                                              \
        const T old = *p;                                                                          \
        *p = x;                                                                                    \
        return old;                                                                                \
    }                                                                                              \
    inline T atomicMax(T *p, T x)                                                                  \
    {                                                                                              \
        const T old = *p;                                                                          \
        *p = x > old ? x : old;                                                                    \
        return old;                                                                                \
    }                                                                                              \
    inline T atomicMin(T *p, T x)                                                                  \
    {                                                                                              \
        const T old = *p;                                                                          \
        *p = x < old ? x : old;                                                                    \
        return old;                                                                                \
    }                                                                                              \
    inline T atomicCAS(T *p, T was, T x)                                                           \
    {                                                                                              \
        const T old = *p;                                                                          \
        if (old == was) *p = x;                                                                    \
        return old;                                                                                \
    }
#define PK_HOST_ATOMIC_BITS(T)                                                                     \
    inline T atomicAnd(T *p, T x)                                                                  \
    {                                                                                              \
        const T old = *p;                                                                          \
        *p = old & x;                                                                              \
        return old;                                                                                \
    }                                                                                              \
    inline T atomicOr(T *p, T x)                                                                   \
    {                                                                                              \
        const T old = *p;                                                                          \
        *p = old | x;                                                                              \
        return old;                                                                                \
    }                                                                                              \
    inline T atomicXor(T *p, T x)                                                                  \
    {                                                                                              \
        const T old = *p;                                                                          \
        *p = old ^ x;                                                                              \
        return old;                                                                                \
    }
PK_HOST_ATOMICS(int)
PK_HOST_ATOMICS(unsigned)
PK_HOST_ATOMICS(unsigned long long)
PK_HOST_ATOMIC_BITS(int)
PK_HOST_ATOMIC_BITS(unsigned)
PK_HOST_ATOMIC_BITS(unsigned long long)
#undef PK_HOST_ATOMICS
#undef PK_HOST_ATOMIC_BITS
inline int atomicSub(int *p, int x)
{
    const int old = *p;
    *p = old - x;
    return old;
}
inline float atomicAdd(float *p, float x)
{
    const float old = *p;
    *p = old + x;
    return old;
}
inline double atomicAdd(double *p, double x)
{
    const double old = *p;
    *p = old + x;
    return old;
}
inline float atomicExch(float *p, float x)
{
    const float old = *p;
    *p = x;
    return old;
}

/* ---- loads with a cache hint ---- */
template <typename T> inline T __ldg(const T *p)
{
    return *p;
}
template <typename T> inline T __ldcs(const T *p)
{
    return *p;
}
template <typename T> inline T __ldcg(const T *p)
{
    return *p;
}
template <typename T> inline T __ldca(const T *p)
{
    return *p;
}
template <typename T> inline T __ldlu(const T *p)
{
    return *p;
}
template <typename T> inline T __ldcv(const T *p)
{
    return *p;
}
template <typename T> inline void __stcs(T *p, typename pk_host::same<T>::type x)
{
    *p = x;
}
template <typename T> inline void __stcg(T *p, typename pk_host::same<T>::type x)
{
    *p = x;
}
template <typename T> inline void __stwb(T *p, typename pk_host::same<T>::type x)
{
    *p = x;
}
template <typename T> inline void __stwt(T *p, typename pk_host::same<T>::type x)
{
    *p = x;
}

#include <pk_host_maths.h>

#endif
#endif
