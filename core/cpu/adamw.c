/* adamw.c -- optimizer and reductions over flat arenas, one pass each. */
#include "core/cpu/kernels.h"

#include <math.h>

/* Arguments as locals, so that the compiler need not fear that a store changes one. With `ema`
 * constant there are two loops without a branch inside. */
static inline __attribute__((always_inline)) void adamw_loop(const struct pk_adamw *a,
                                                             const bool ema_too)
{
    const struct pk_adamw s = *a;
    float *restrict weight = a->weight, *restrict m = a->m, *restrict v = a->v,
                    *restrict ema = a->ema;
    const float *restrict grad = a->grad;
    for (int64_t i = 0; i < s.count; i++) {
        const float g = grad[i] * s.grad_scale;
        const float m1 = m[i] + (g - m[i]) * s.m_rate;
        const float v1 = v[i] * s.beta2 + g * g * s.v_rate;
        const float w1 = weight[i] * s.keep - s.step * m1 / (sqrtf(v1) * s.v_scale + s.eps);
        m[i] = m1;
        v[i] = v1;
        weight[i] = w1;
        if (ema_too) ema[i] += (w1 - ema[i]) * s.ema_rate;
    }
}

static void adamw(const struct pk_adamw *a)
{
    if (a->ema)
        adamw_loop(a, true);
    else
        adamw_loop(a, false);
}

static void blend(float *restrict ema, const float *restrict weight, float rate, int64_t count)
{
    for (int64_t i = 0; i < count; i++) ema[i] += (weight[i] - ema[i]) * rate;
}

static void add(float *restrict dst, const float *restrict src, int64_t count)
{
    for (int64_t i = 0; i < count; i++) dst[i] += src[i];
}

/* Sixteen interleaved sums, so that the order is fixed whatever the vector width. */
static double square_sum(const float *x, int64_t count)
{
    enum { LANES = 16 };
    double s[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; k++) s[k] += (double)x[i + k] * (double)x[i + k];
    for (; i < count; i++) s[i % LANES] += (double)x[i] * (double)x[i];
    for (int half = LANES / 2; half; half /= 2)
        for (int k = 0; k < half; k++) s[k] += s[k + half];
    return s[0];
}

extern const struct pk_cpu_flat PK_ISA_NAME(pk_cpu_flat);
const struct pk_cpu_flat PK_ISA_NAME(pk_cpu_flat) = {
    .adamw = adamw, .ema = blend, .add = add, .square_sum = square_sum};
