/* gelu.h -- exact GELU, x F(x) with F the normal distribution function, and its slope. For kernels.
 *
 * Everything goes through the tail p = F(-|x|), which keeps its relative accuracy where 1 + erf
 * would cancel:
 *     gelu(x)  = max(x, 0) - |x| p        slope(x) = (x > 0 ? 1 - p : p) + x F'(x)
 * NaN stays NaN; an infinite x gives NaN.
 *
 * In bf16 storage p = 2^(q(u) - u^2 log2(e) / 2), u = |x|, where q, the logarithm of a smooth
 * function, is a polynomial of degree 10 that interpolates at eleven nodes of [0, 14]:
 * within 2.5e-5 of the truth, so p is within 1.7e-5 of itself. One node is 0.75179, where the slope
 * at -u is 0: its terms cancel there, and the error of q has to vanish with it. That is one
 * instruction of the special function unit and 11 multiply-adds; erfcf is about 30 instructions,
 * and an epilogue that writes 4 bytes an element can pay about 28 (4 B / 18.5 B per cycle x 128
 * lanes). Beyond 14 p is below 2^-126 and becomes 0. Over all bf16 inputs gelu is within 0.51 units
 * in the last place after rounding (tests/cuda_host/test_gelu.cc). */
#ifndef PK_CUDA_GELU_H
#define PK_CUDA_GELU_H

#include "cuda/mma.h"

namespace
{
/* -u^2 log2(e) / 2: both F' and the tail are 2 to this power times something smooth. */
__device__ __forceinline__ float gelu_exponent(float u)
{
    return -0.72134752f * u * u;
}

/* F(-u) for u >= 0, good enough for a result that is stored as S. */
template <typename S> __device__ __forceinline__ float gelu_tail(float u)
{
    if constexpr (sizeof(S) == sizeof(float)) {
        return 0.5f * erfcf(u * 0.70710678f);
    } else {
        u = fminf(u, 14.0f);
        float q = 7.88186877e-11f;
        q = fmaf(q, u, -7.12933712e-09f);
        q = fmaf(q, u, 2.86944726e-07f);
        q = fmaf(q, u, -6.79993991e-06f);
        q = fmaf(q, u, 0.000106020918f);
        q = fmaf(q, u, -0.00115502253f);
        q = fmaf(q, u, 0.00916467328f);
        q = fmaf(q, u, -0.0550477281f);
        q = fmaf(q, u, 0.263825476f);
        q = fmaf(q, u, -1.15159369f);
        q = fmaf(q, u, -0.999975145f);
        return exp2_fast(q + gelu_exponent(u));
    }
}

template <typename S> __device__ __forceinline__ float gelu(float x)
{
    const float u = fabsf(x);
    return fmaf(-u, gelu_tail<S>(u), fmaxf(x, 0.0f));
}

template <typename S> __device__ __forceinline__ float gelu_slope(float x)
{
    const float u = fabsf(x), p = gelu_tail<S>(u);
    const float density = 0.39894228f * exp2_fast(gelu_exponent(fminf(u, 14.0f)));
    return fmaf(x, density, x > 0 ? 1 - p : p);
}
} // namespace

#endif
