/* pk_host_maths.h -- integer intrinsics, maths and min/max of CUDA C++, for cuda_runtime.h. */
#ifndef PK_HOST_MATHS_H
#define PK_HOST_MATHS_H

#include <math.h>
#include <stdint.h>

/* ---- bits ---- */
inline int __float_as_int(float x)
{
    return pk_host::from_bits<int>(pk_host::to_bits(x));
}
inline unsigned __float_as_uint(float x)
{
    return (unsigned)pk_host::to_bits(x);
}
inline float __int_as_float(int x)
{
    return pk_host::from_bits<float>(pk_host::to_bits(x));
}
inline float __uint_as_float(unsigned x)
{
    return pk_host::from_bits<float>(x);
}
inline long long __double_as_longlong(double x)
{
    return (long long)pk_host::to_bits(x);
}
inline double __longlong_as_double(long long x)
{
    return pk_host::from_bits<double>((uint64_t)x);
}
inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}
inline unsigned __brev(unsigned x)
{
    x = ((x >> 1) & 0x55555555u) | ((x & 0x55555555u) << 1);
    x = ((x >> 2) & 0x33333333u) | ((x & 0x33333333u) << 2);
    x = ((x >> 4) & 0x0f0f0f0fu) | ((x & 0x0f0f0f0fu) << 4);
    return __builtin_bswap32(x);
}
inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)(((uint64_t)a * b) >> 32);
}
inline int __mulhi(int a, int b)
{
    return (int)(((int64_t)a * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    __extension__ typedef unsigned __int128 wide;
    return (unsigned long long)(((wide)a * b) >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n)
{
    return (unsigned)(((((uint64_t)high << 32) | low) << (n & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n)
{
    return (unsigned)((((uint64_t)high << 32) | low) >> (n & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned select)
{
    const uint64_t bytes = ((uint64_t)b << 32) | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned s = (select >> (4 * i)) & 15;
        unsigned byte = (unsigned)(bytes >> (8 * (s & 7))) & 0xff;
        if (s & 8) byte = byte & 0x80 ? 0xff : 0; // the sign, replicated
        out |= byte << (8 * i);
    }
    return out;
}

/* ---- maths. Fast forms are computed exactly here: the device's differ in the last bits. ---- */
#define rsqrtf(x) pk_host_rsqrtf(x)
#define rsqrt(x)  pk_host_rsqrt(x)
inline float pk_host_rsqrtf(float x)
{
    return (float)(1.0 / sqrt((double)x));
}
inline double pk_host_rsqrt(double x)
{
    return 1.0 / sqrt(x);
}
inline float __expf(float x)
{
    return expf(x);
}
inline float __exp2f(float x)
{
    return exp2f(x);
}
inline float __logf(float x)
{
    return logf(x);
}
inline float __log2f(float x)
{
    return log2f(x);
}
inline float __sinf(float x)
{
    return sinf(x);
}
inline float __cosf(float x)
{
    return cosf(x);
}
inline float __powf(float x, float y)
{
    return powf(x, y);
}
inline float __fdividef(float x, float y)
{
    return x / y;
}
inline float __fdiv_rn(float x, float y)
{
    return x / y;
}
inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
inline float __frsqrt_rn(float x)
{
    return pk_host_rsqrtf(x);
}
inline float __fadd_rn(float x, float y)
{
    return x + y;
}
inline float __fsub_rn(float x, float y)
{
    return x - y;
}
inline float __fmul_rn(float x, float y)
{
    return x * y;
}
inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}
inline double __dadd_rn(double x, double y)
{
    return x + y;
}
inline double __dmul_rn(double x, double y)
{
    return x * y;
}
inline double __fma_rn(double x, double y, double z)
{
    return fma(x, y, z);
}
inline float __saturatef(float x)
{
    return x >= 1.0f ? 1.0f : x > 0.0f ? x : 0.0f;
}

/* To integers as the device does: cut to the range, NaN is 0. */
inline int pk_host_to_int(double x)
{
    return !(x == x)            ? 0
           : x >= 2147483647.0  ? 2147483647
           : x <= -2147483648.0 ? -2147483647 - 1
                                : (int)x;
}
inline unsigned pk_host_to_uint(double x)
{
    return !(x > 0.0) ? 0u : x >= 4294967295.0 ? 4294967295u : (unsigned)x;
}
inline int __float2int_rn(float x)
{
    return pk_host_to_int(nearbyintf(x));
}
inline int __float2int_rz(float x)
{
    return pk_host_to_int(x);
}
inline int __float2int_rd(float x)
{
    return pk_host_to_int(floorf(x));
}
inline int __float2int_ru(float x)
{
    return pk_host_to_int(ceilf(x));
}
inline unsigned __float2uint_rn(float x)
{
    return pk_host_to_uint(nearbyintf(x));
}
inline unsigned __float2uint_rz(float x)
{
    return pk_host_to_uint(x);
}
inline float __int2float_rn(int x)
{
    return (float)x;
}
inline float __uint2float_rn(unsigned x)
{
    return (float)x;
}
inline float __ll2float_rn(long long x)
{
    return (float)x;
}
inline float __ull2float_rn(unsigned long long x)
{
    return (float)x;
}
inline float __double2float_rn(double x)
{
    return (float)x;
}

#define PK_HOST_MIN_MAX(T)                                                                         \
    inline T min(T a, T b)                                                                         \
    {                                                                                              \
        return a < b ? a : b;                                                                      \
    }                                                                                              \
    inline T max(T a, T b)                                                                         \
    {                                                                                              \
        return a > b ? a : b;                                                                      \
    }
PK_HOST_MIN_MAX(int)
PK_HOST_MIN_MAX(unsigned)
PK_HOST_MIN_MAX(long)
PK_HOST_MIN_MAX(unsigned long)
PK_HOST_MIN_MAX(long long)
PK_HOST_MIN_MAX(unsigned long long)
#undef PK_HOST_MIN_MAX
inline unsigned min(int a, unsigned b)
{
    return min((unsigned)a, b);
}
inline unsigned min(unsigned a, int b)
{
    return min(a, (unsigned)b);
}
inline unsigned max(int a, unsigned b)
{
    return max((unsigned)a, b);
}
inline unsigned max(unsigned a, int b)
{
    return max(a, (unsigned)b);
}
inline float min(float a, float b)
{
    return fminf(a, b);
}
inline float max(float a, float b)
{
    return fmaxf(a, b);
}
inline double min(double a, double b)
{
    return fmin(a, b);
}
inline double max(double a, double b)
{
    return fmax(a, b);
}

#endif
