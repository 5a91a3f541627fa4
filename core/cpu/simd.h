/* simd.h -- one vector of float for the three instruction sets: pk_v is 16 lanes with AVX-512, 8
 * with AVX2, and 4 (the compiler's generic vectors) elsewhere. PK_V is the number of lanes.
 *
 * For kernel files only, which are compiled once per set. Loads and stores are unaligned. The
 * *_n forms touch the first n (0..PK_V) elements of memory and no other; missing lanes read as 0.
 * Sums over lanes have a fixed order, so results repeat bit for bit for one set. */
#ifndef PK_CPU_SIMD_H
#define PK_CPU_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(PK_ISA_avx512)
#include <immintrin.h>
enum { PK_V = 16 };
typedef __m512 pk_v;
typedef __mmask16 pk_vmask;

static inline pk_v pk_v_zero(void)
{
    return _mm512_setzero_ps();
}
static inline pk_v pk_v_set(float x)
{
    return _mm512_set1_ps(x);
}
static inline pk_v pk_v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void pk_v_store(float *p, pk_v a)
{
    _mm512_storeu_ps(p, a);
}
static inline pk_v pk_v_load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
static inline void pk_v_store_n(float *p, int64_t n, pk_v a)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
}
static inline pk_v pk_v_add(pk_v a, pk_v b)
{
    return _mm512_add_ps(a, b);
}
static inline pk_v pk_v_sub(pk_v a, pk_v b)
{
    return _mm512_sub_ps(a, b);
}
static inline pk_v pk_v_mul(pk_v a, pk_v b)
{
    return _mm512_mul_ps(a, b);
}
static inline pk_v pk_v_div(pk_v a, pk_v b)
{
    return _mm512_div_ps(a, b);
}
/* a * b + c, c - a * b */
static inline pk_v pk_v_fma(pk_v a, pk_v b, pk_v c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline pk_v pk_v_fnma(pk_v a, pk_v b, pk_v c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
/* Where a or b is NaN the result is b. */
static inline pk_v pk_v_max(pk_v a, pk_v b)
{
    return _mm512_max_ps(a, b);
}
static inline pk_v pk_v_min(pk_v a, pk_v b)
{
    return _mm512_min_ps(a, b);
}
static inline pk_v pk_v_abs(pk_v a)
{
    return _mm512_abs_ps(a);
}
static inline pk_v pk_v_sqrt(pk_v a)
{
    return _mm512_sqrt_ps(a);
}
static inline pk_v pk_v_round(pk_v a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a < b, false where either is NaN; select gives a where the mask is set. */
static inline pk_vmask pk_v_less(pk_v a, pk_v b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
static inline pk_v pk_v_select(pk_vmask m, pk_v a, pk_v b)
{
    return _mm512_mask_blend_ps(m, b, a);
}
/* a * 2^n for integral n within +-252. */
static inline pk_v pk_v_scale2(pk_v a, pk_v n)
{
    return _mm512_scalef_ps(a, n);
}
static inline float pk_v_sum(pk_v a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
static inline float pk_v_max_lane(pk_v a)
{
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

#elif defined(PK_ISA_avx2)
#include <immintrin.h>
enum { PK_V = 8 };
typedef __m256 pk_v;
typedef __m256 pk_vmask;

static inline pk_v pk_v_zero(void)
{
    return _mm256_setzero_ps();
}
static inline pk_v pk_v_set(float x)
{
    return _mm256_set1_ps(x);
}
static inline pk_v pk_v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
static inline void pk_v_store(float *p, pk_v a)
{
    _mm256_storeu_ps(p, a);
}
static inline __m256i pk_v_first_(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline pk_v pk_v_load_n(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, pk_v_first_(n));
}
static inline void pk_v_store_n(float *p, int64_t n, pk_v a)
{
    _mm256_maskstore_ps(p, pk_v_first_(n), a);
}
static inline pk_v pk_v_add(pk_v a, pk_v b)
{
    return _mm256_add_ps(a, b);
}
static inline pk_v pk_v_sub(pk_v a, pk_v b)
{
    return _mm256_sub_ps(a, b);
}
static inline pk_v pk_v_mul(pk_v a, pk_v b)
{
    return _mm256_mul_ps(a, b);
}
static inline pk_v pk_v_div(pk_v a, pk_v b)
{
    return _mm256_div_ps(a, b);
}
static inline pk_v pk_v_fma(pk_v a, pk_v b, pk_v c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline pk_v pk_v_fnma(pk_v a, pk_v b, pk_v c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
static inline pk_v pk_v_max(pk_v a, pk_v b)
{
    return _mm256_max_ps(a, b);
}
static inline pk_v pk_v_min(pk_v a, pk_v b)
{
    return _mm256_min_ps(a, b);
}
static inline pk_v pk_v_abs(pk_v a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
static inline pk_v pk_v_sqrt(pk_v a)
{
    return _mm256_sqrt_ps(a);
}
static inline pk_v pk_v_round(pk_v a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline pk_vmask pk_v_less(pk_v a, pk_v b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
static inline pk_v pk_v_select(pk_vmask m, pk_v a, pk_v b)
{
    return _mm256_blendv_ps(b, a, m);
}
/* In two steps, so that results near the ends of the range neither overflow nor vanish early. */
static inline pk_v pk_v_scale2(pk_v a, pk_v n)
{
    __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1);
    __m256i rest = _mm256_sub_epi32(i, half), bias = _mm256_set1_epi32(127);
    a = _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(a,
                         _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}
static inline float pk_v_sum(pk_v a)
{
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
static inline float pk_v_max_lane(pk_v a)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

#else
#include <math.h>
enum { PK_V = 4 };
typedef float pk_v __attribute__((vector_size(16)));
typedef int32_t pk_vmask __attribute__((vector_size(16)));

static inline pk_v pk_v_zero(void)
{
    return (pk_v){0, 0, 0, 0};
}
static inline pk_v pk_v_set(float x)
{
    return (pk_v){x, x, x, x};
}
static inline pk_v pk_v_load(const float *p)
{
    pk_v a;
    memcpy(&a, p, sizeof a);
    return a;
}
static inline void pk_v_store(float *p, pk_v a)
{
    memcpy(p, &a, sizeof a);
}
static inline pk_v pk_v_load_n(const float *p, int64_t n)
{
    pk_v a = {0, 0, 0, 0};
    for (int64_t i = 0; i < n; i++) a[i] = p[i];
    return a;
}
static inline void pk_v_store_n(float *p, int64_t n, pk_v a)
{
    for (int64_t i = 0; i < n; i++) p[i] = a[i];
}
static inline pk_v pk_v_add(pk_v a, pk_v b)
{
    return a + b;
}
static inline pk_v pk_v_sub(pk_v a, pk_v b)
{
    return a - b;
}
static inline pk_v pk_v_mul(pk_v a, pk_v b)
{
    return a * b;
}
static inline pk_v pk_v_div(pk_v a, pk_v b)
{
    return a / b;
}
static inline pk_v pk_v_fma(pk_v a, pk_v b, pk_v c)
{
    return a * b + c;
}
static inline pk_v pk_v_fnma(pk_v a, pk_v b, pk_v c)
{
    return c - a * b;
}
static inline pk_vmask pk_v_less(pk_v a, pk_v b)
{
    return a < b;
}
static inline pk_v pk_v_select(pk_vmask m, pk_v a, pk_v b)
{
    return (pk_v)((m & (pk_vmask)a) | (~m & (pk_vmask)b));
}
static inline pk_v pk_v_max(pk_v a, pk_v b)
{
    return pk_v_select(a > b, a, b);
}
static inline pk_v pk_v_min(pk_v a, pk_v b)
{
    return pk_v_select(a < b, a, b);
}
static inline pk_v pk_v_abs(pk_v a)
{
    return (pk_v)((pk_vmask)a & (pk_vmask){INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX});
}
static inline pk_v pk_v_sqrt(pk_v a)
{
    for (int i = 0; i < PK_V; i++) a[i] = sqrtf(a[i]);
    return a;
}
/* Nearest integer for |a| < 2^22, which is all that exp needs: adding 1.5 * 2^23 drops the
 * fraction. NaN stays NaN. */
static inline pk_v pk_v_round(pk_v a)
{
    pk_v t = a + 12582912.0f;
    return t - 12582912.0f;
}
static inline pk_v pk_v_scale2(pk_v a, pk_v n)
{
    /* The integer sits in the low bits of n + 1.5 * 2^23. */
    pk_vmask i = (pk_vmask)(n + 12582912.0f) - 0x4B400000, half = i >> 1;
    a *= (pk_v)((half + 127) << 23);
    return a * (pk_v)((i - half + 127) << 23);
}
static inline float pk_v_sum(pk_v a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
}
static inline float pk_v_max_lane(pk_v a)
{
    float m = a[0] > a[1] ? a[0] : a[1], n = a[2] > a[3] ? a[2] : a[3];
    return m > n ? m : n;
}
#endif

static inline pk_v pk_v_rcp(pk_v a)
{
    return pk_v_div(pk_v_set(1), a);
}

/* e^a within 2 ulp: 2^n e^r with |r| <= ln 2 / 2 and ln 2 in two parts (Cody & Waite 1980), e^r by
 * a minimax polynomial. 0 below -104, infinity above 88.73; NaN stays NaN. */
static inline pk_v pk_v_exp(pk_v a)
{
    a = pk_v_min(pk_v_set(89.0f), pk_v_max(pk_v_set(-105.0f), a));
    pk_v n = pk_v_round(pk_v_mul(a, pk_v_set(1.44269504f)));
    pk_v r = pk_v_fnma(n, pk_v_set(0.693359375f), a);
    r = pk_v_fnma(n, pk_v_set(-2.12194440e-4f), r);
    pk_v p = pk_v_set(0.00138145625f);
    p = pk_v_fma(p, r, pk_v_set(0.0083687391f));
    p = pk_v_fma(p, r, pk_v_set(0.0416683901f));
    p = pk_v_fma(p, r, pk_v_set(0.166665204f));
    p = pk_v_fma(p, r, pk_v_set(0.499999934f));
    p = pk_v_fma(p, r, pk_v_set(1.0f));
    p = pk_v_fma(p, r, pk_v_set(1.0f));
    return pk_v_scale2(p, n);
}

/* 2^a within 1 ulp for finite a; the low end vanishes smoothly (0 below -150), and no bound on a is
 * needed with AVX-512. Cheaper than pk_v_exp: a softmax keeps its scores in units of log 2. */
static inline pk_v pk_v_exp2(pk_v a)
{
#if !defined(PK_ISA_avx512)
    a = pk_v_min(pk_v_set(130.0f), pk_v_max(pk_v_set(-151.0f), a));
#endif
    pk_v n = pk_v_round(a), r = pk_v_sub(a, n), p = pk_v_set(0.000153533734f);
    p = pk_v_fma(p, r, pk_v_set(0.00133988789f));
    p = pk_v_fma(p, r, pk_v_set(0.00961843736f));
    p = pk_v_fma(p, r, pk_v_set(0.0555033246f));
    p = pk_v_fma(p, r, pk_v_set(0.240226479f));
    p = pk_v_fma(p, r, pk_v_set(0.693147203f));
    p = pk_v_fma(p, r, pk_v_set(1.0f));
    return pk_v_scale2(p, n);
}

/* erfc(a) for a >= 0, within 2e-6 of itself: e^(-a^2) times a polynomial in 1 / (1 + 0.3 a), the
 * form of Abramowitz & Stegun 7.1.26 fitted to degree 9 for a <= 9.4. Also gives e^(-a^2). */
static inline pk_v pk_v_erfc_(pk_v a, pk_v *gauss)
{
    static const float c[] = {-0.129406637f, 0.484952095f,   -0.510900823f,
                              0.545984241f,  -0.0933146756f, 0.214283914f,
                              0.14852709f,   0.170684656f,   0.169190119f};
    pk_v t = pk_v_rcp(pk_v_fma(a, pk_v_set(0.3f), pk_v_set(1)));
    pk_v p = pk_v_set(c[0]);
    for (int i = 1; i < 9; i++) p = pk_v_fma(p, t, pk_v_set(c[i]));
    *gauss = pk_v_exp(pk_v_sub(pk_v_zero(), pk_v_mul(a, a)));
    return pk_v_mul(pk_v_mul(p, t), *gauss);
}

/* erf(a) for |a| < 1, within 1e-7: odd polynomial through Chebyshev nodes. */
static inline pk_v pk_v_erf_small_(pk_v a)
{
    static const float c[] = {7.88249732e-05f, -0.000801885505f, 0.00518931195f, -0.0268543288f,
                              0.112835975f,    -0.376126269f,    1.12837917f};
    pk_v t = pk_v_mul(a, a), p = pk_v_set(c[0]);
    for (int i = 1; i < 7; i++) p = pk_v_fma(p, t, pk_v_set(c[i]));
    return pk_v_mul(p, a);
}

/* erf(a) within 2e-7. */
static inline pk_v pk_v_erf(pk_v a)
{
    pk_v gauss, x = pk_v_abs(a), big = pk_v_sub(pk_v_set(1), pk_v_erfc_(x, &gauss));
    big = pk_v_select(pk_v_less(a, pk_v_zero()), pk_v_sub(pk_v_zero(), big), big);
    return pk_v_select(pk_v_less(x, pk_v_set(1)), pk_v_erf_small_(a), big);
}

/* The normal distribution function of a, within 1e-7 and, for negative a, a few 1e-6 of itself;
 * *density gets the normal density. GELU is a times the first; its derivative is the first plus a
 * times the second. */
static inline pk_v pk_v_normal(pk_v a, pk_v *density)
{
    pk_v half = pk_v_set(0.5f), s = pk_v_mul(a, pk_v_set(0.70710678f)), x = pk_v_abs(s), gauss;
    pk_v tail = pk_v_mul(half, pk_v_erfc_(x, &gauss));
    pk_v big = pk_v_select(pk_v_less(a, pk_v_zero()), tail, pk_v_sub(pk_v_set(1), tail));
    pk_v small = pk_v_fma(half, pk_v_erf_small_(s), half);
    *density = pk_v_mul(gauss, pk_v_set(0.39894228f));
    return pk_v_select(pk_v_less(x, pk_v_set(1)), small, big);
}

#endif
