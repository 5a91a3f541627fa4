/* cuda_bf16.h -- bfloat16 on the CPU, with the toolkit's names: the functions kernels use.
 *
 * A bf16 is the upper half of a float. Conversion rounds to nearest, ties to even; NaN becomes
 * 0x7fff as on the device. Arithmetic converts to float and rounds the result. */
#ifndef PK_HOST_CUDA_BF16_H
#define PK_HOST_CUDA_BF16_H

#ifdef __cplusplus

#include <cuda_runtime.h>

inline unsigned short pk_host_bf16_bits(float x)
{
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
inline float pk_host_bf16_value(unsigned short bits)
{
    return __uint_as_float((uint32_t)bits << 16);
}

struct __nv_bfloat16_raw {
    unsigned short x;
};
struct alignas(2) __nv_bfloat16 {
    unsigned short __x;
    __nv_bfloat16() = default;
    __nv_bfloat16(float f) : __x(pk_host_bf16_bits(f))
    {
    }
    __nv_bfloat16(double d) : __x(pk_host_bf16_bits((float)d))
    {
    }
    __nv_bfloat16(int i) : __x(pk_host_bf16_bits((float)i))
    {
    }
    __nv_bfloat16(__nv_bfloat16_raw r) : __x(r.x)
    {
    }
    operator float() const
    {
        return pk_host_bf16_value(__x);
    }
    operator __nv_bfloat16_raw() const
    {
        return {__x};
    }
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) : x(a), y(b)
    {
    }
};
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    return __nv_bfloat16(__nv_bfloat16_raw{bits});
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x)
{
    return x.__x;
}
inline short __bfloat16_as_short(__nv_bfloat16 x)
{
    return (short)x.__x;
}
inline __nv_bfloat16 __short_as_bfloat16(short x)
{
    return __ushort_as_bfloat16((unsigned short)x);
}

inline __nv_bfloat16 __float2bfloat16(float x)
{
    return __nv_bfloat16(x);
}
inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
    return __nv_bfloat16(x);
}
inline float __bfloat162float(__nv_bfloat16 x)
{
    return pk_host_bf16_value(x.__x);
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__nv_bfloat16(x), __nv_bfloat16(y)};
}
inline __nv_bfloat162 __float2bfloat162_rn(float x)
{
    return __floats2bfloat162_rn(x, x);
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 v)
{
    return __floats2bfloat162_rn(v.x, v.y);
}
inline float2 __bfloat1622float2(__nv_bfloat162 v)
{
    return {__bfloat162float(v.x), __bfloat162float(v.y)};
}
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y)
{
    return {x, y};
}
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x)
{
    return {x, x};
}
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v)
{
    return v.x;
}
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v)
{
    return v.y;
}
inline float __low2float(__nv_bfloat162 v)
{
    return __bfloat162float(v.x);
}
inline float __high2float(__nv_bfloat162 v)
{
    return __bfloat162float(v.y);
}
inline __nv_bfloat162 __lowhigh2highlow(__nv_bfloat162 v)
{
    return {v.y, v.x};
}

inline __nv_bfloat16 __hadd(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return {(float)a + (float)b};
}
inline __nv_bfloat16 __hsub(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return {(float)a - (float)b};
}
inline __nv_bfloat16 __hmul(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return {(float)a * (float)b};
}
inline __nv_bfloat16 __hneg(__nv_bfloat16 a)
{
    return __ushort_as_bfloat16((unsigned short)(a.__x ^ 0x8000));
}
inline __nv_bfloat16 __habs(__nv_bfloat16 a)
{
    return __ushort_as_bfloat16((unsigned short)(a.__x & 0x7fff));
}
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b)
{
    return {__hadd(a.x, b.x), __hadd(a.y, b.y)};
}
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b)
{
    return {__hmul(a.x, b.x), __hmul(a.y, b.y)};
}
inline bool __hisnan(__nv_bfloat16 a)
{
    return (a.__x & 0x7fff) > 0x7f80;
}

#endif
#endif
