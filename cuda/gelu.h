/* gelu.h -- exact GELU, x F(x) with F the normal distribution function, and its slope. For kernels.
 *
 * Everything goes through the tail p = F(-|x|), which keeps its relative accuracy where 1 + erf
 * would cancel:
 *     gelu(x)  = max(x, 0) - |x| p        slope(x) = (x > 0 ? 1 - p : p) + x F'(x)
 * NaN stays NaN; an infinite x gives NaN.
 *
 * In bf16 storage p = 2^(q(u) - u^2 log2(e) / 2), u = |x|, where q, the logarithm of a smooth
 * function, is a polynomial of degree 8 by interpolation at the Chebyshev nodes of [0, 14]: within
 * 3.5e-4 of the truth, so p is within 2.4e-4 of itself, a sixteenth of a bf16 step. That is one
 * instruction of the special function unit and 9 multiply-adds; erfcf is about 30 instructions, and
 * an epilogue that writes 4 bytes an element can pay about 28 (4 B / 18.5 B per cycle x 128 lanes).
 * Beyond 14 p is below 2^-126 and becomes 0. */
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
        float q = 2.0025446e-08f;
        q = fmaf(q, u, -1.3619004e-06f);
        q = fmaf(q, u, 3.9807896e-05f);
        q = fmaf(q, u, -6.5931118e-04f);
        q = fmaf(q, u, 6.9119741e-03f);
        q = fmaf(q, u, -4.9167420e-02f);
        q = fmaf(q, u, 2.5601423e-01f);
        q = fmaf(q, u, -1.1475661f);
        q = fmaf(q, u, -1.0003111f);
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
