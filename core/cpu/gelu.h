/* gelu.h -- exact GELU, x F(x) with F the normal distribution function, and its slope, one vector
 * at a time. For kernel files.
 *
 * With AVX-512 a permutation looks up 16 entries, so F(-u) and the slope at -u are polynomials of
 * degree 5 on 16 intervals of [0, 6), by interpolation at Chebyshev nodes: within 5e-9 and 4e-8 of
 * the truth before rounding, and a third of the work of the closed form. The other half comes from
 * F(u) = 1 - F(-u), which holds for the slope as well. Beyond 6 both are less than 4e-8 from 0. */
#ifndef PK_CPU_GELU_H
#define PK_CPU_GELU_H

#include "core/cpu/simd.h"

#if defined(PK_ISA_avx512)
/* F(-u), u = 6 / 16 (interval + 1/2 + t), |t| <= 1/2: coefficients of t^0 .. t^5. */
static const float pk_gelu_tail_[6][16] = {
    {0.425634325f, 0.286887705f, 0.174250722f, 0.0946757421f, 0.0457536243f, 0.0195800774f,
     0.00739460625f, 0.00245790114f, 0.000717542542f, 0.000183670185f, 4.11675937e-05f,
     8.07099605e-06f, 1.38283031e-06f, 2.06901404e-07f, 2.70176166e-08f, 3.07750314e-09f},
    {-0.146996588f, -0.127712846f, -0.0964027196f, -0.0632224455f, -0.0360230617f, -0.0178327095f,
     -0.007669752f, -0.00286597689f, -0.000930446491f, -0.000262444548f, -6.43148378e-05f,
     -1.36934359e-05f, -2.53303642e-06f, -4.07097474e-07f, -5.68438701e-08f, -6.89600288e-09f},
    {0.00516770361f, 0.0134694055f, 0.0169455614f, 0.0155586256f, 0.0113980398f, 0.00689636823f,
     0.0035053785f, 0.00151135994f, 0.000556069484f, 0.000175288122f, 4.7473186e-05f,
     1.10686442e-05f, 2.22508561e-06f, 3.86107359e-07f, 5.78857424e-08f, 7.50326201e-09f},
    {0.00332405185f, 0.00204617204f, 0.000273643294f, -0.00107077078f, -0.00155994284f,
     -0.00135999313f, -0.000888281851f, -0.000464173325f, -0.000199760296f, -7.19129021e-05f,
     -2.18613131e-05f, -5.64692391e-06f, -1.24476685e-06f, -2.34890479e-07f, -3.80334839e-08f,
     -5.29393285e-09f},
    {-0.000178001443f, -0.000420303579f, -0.00041878366f, -0.000232653576f, -2.16006556e-05f,
     9.99973854e-05f, 0.000120168137f, 8.69149371e-05f, 4.68493563e-05f, 2.00867853e-05f,
     7.05588263e-06f, 2.06393065e-06f, 5.07826769e-07f, 1.05812951e-07f, 1.87600708e-08f,
     2.84006907e-09f},
    {-6.71182206e-05f, -2.52220234e-05f, 2.35295574e-05f, 4.51615524e-05f, 3.53536088e-05f,
     1.30887584e-05f, -3.22745245e-06f, -8.4821213e-06f, -6.92798585e-06f, -3.81420978e-06f,
     -1.60595243e-06f, -5.42301791e-07f, -1.50418899e-07f, -3.47539277e-08f, -6.74970968e-09f,
     -1.10884912e-09f},
};
/* The same for the slope, F(-u) - u F'(u). */
static const float pk_gelu_slope_tail_[6][16] = {
    {0.352136046f, 0.095318459f, -0.0667560622f, -0.126602814f, -0.116350174f, -0.0784998313f,
     -0.0424587838f, -0.0190369245f, -0.00719125103f, -0.00230955216f, -0.000634137949f,
     -0.00014940351f, -3.02801545e-05f, -5.28893088e-06f, -7.97223947e-07f, -1.03811892e-07f},
    {-0.288825303f, -0.215016559f, -0.10807649f, -0.0175343584f, 0.0305351745f, 0.0401932597f,
     0.030229615f, 0.0169383734f, 0.0075925882f, 0.00280590006f, 0.000868500734f, 0.000227278535f,
     5.05913158e-05f, 9.61922433e-06f, 1.56697081e-06f, 2.19188507e-07f},
    {0.0204885658f, 0.0496147424f, 0.0528882481f, 0.0354329199f, 0.0131354649f, -0.00175035978f,
     -0.00680526486f, -0.00590990065f, -0.00342577044f, -0.00152369926f, -0.000546224241f,
     -0.000161613265f, -4.00020799e-05f, -8.35396077e-06f, -1.48053789e-06f, -2.23593403e-07f},
    {0.0129368799f, 0.00564313959f, -0.00311733945f, -0.0075435047f, -0.00660612388f,
     -0.00321073178f, -0.000411673624f, 0.00075227645f, 0.00078744418f, 0.000468928774f,
     0.000204774362f, 7.05059574e-05f, 1.97669997e-05f, 4.5925608e-06f, 8.93881634e-07f,
     1.46814756e-07f},
    {-0.00105447881f, -0.00228401553f, -0.00179573719f, -0.000373674644f, 0.000684391765f,
     0.000857679173f, 0.000495434913f, 0.000116924122f, -5.97045182e-05f, -8.04960509e-05f,
     -4.89667655e-05f, -2.08609945e-05f, -6.86962721e-06f, -1.82099609e-06f, -3.96948025e-07f,
     -7.20804749e-08f},
    {-0.000389413297f, -7.24259517e-05f, 0.000237481465f, 0.000284053996f, 0.000122285244f,
     -3.86606043e-05f, -8.76937775e-05f, -5.69794029e-05f, -1.59967294e-05f, 3.98446173e-06f,
     6.87414649e-06f, 4.13482849e-06f, 1.67856933e-06f, 5.18583306e-07f, 1.27775749e-07f,
     2.57220982e-08f},
};

/* Table value of -|x|, or 1 minus it for positive x. */
static inline pk_v pk_gelu_lookup_(const float table[6][16], pk_v x)
{
    const pk_v magic = pk_v_set(12582912.0f); // 1.5 * 2^23: adding it leaves an integer below
    pk_v u = pk_v_abs(x), place = pk_v_fma(u, pk_v_set(16.0f / 6), pk_v_set(-0.5f));
    pk_v shifted = pk_v_add(place, magic), t = pk_v_sub(place, pk_v_sub(shifted, magic));
    __m512i interval = _mm512_castps_si512(shifted); // the permutation reads its low four bits
    pk_v p = _mm512_permutexvar_ps(interval, pk_v_load(table[5]));
    for (int k = 4; k >= 0; k--)
        p = pk_v_fma(p, t, _mm512_permutexvar_ps(interval, pk_v_load(table[k])));
    /* Not "u < 6", so that NaN stays NaN. */
    p = _mm512_mask_mov_ps(p, _mm512_cmp_ps_mask(u, pk_v_set(6), _CMP_GE_OQ), pk_v_zero());
    return _mm512_mask_sub_ps(p, pk_v_less(pk_v_zero(), x), pk_v_set(1), p);
}
#endif

static inline pk_v pk_v_gelu(pk_v x)
{
#if defined(PK_ISA_avx512)
    return pk_v_mul(x, pk_gelu_lookup_(pk_gelu_tail_, x));
#else
    pk_v density;
    return pk_v_mul(x, pk_v_normal(x, &density));
#endif
}

static inline pk_v pk_v_gelu_slope(pk_v x)
{
#if defined(PK_ISA_avx512)
    return pk_gelu_lookup_(pk_gelu_slope_tail_, x);
#else
    pk_v density, below = pk_v_normal(x, &density);
    return pk_v_fma(x, density, below);
#endif
}

#endif
