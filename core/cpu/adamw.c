/* adamw.c -- optimizer and reductions over flat arenas, one pass each. */
#include "core/cpu/kernels.h"

#include <math.h>

static void adamw(const struct pk_adamw *a)
{
    const float step = a->learning_rate / a->correction1,
                keep = 1 - a->learning_rate * a->weight_decay;
    const float root = 1 / sqrtf(a->correction2);
    for (int64_t i = 0; i < a->count; i++) {
        float g = a->grad[i] * a->grad_scale;
        float m = a->m[i] = a->beta1 * a->m[i] + (1 - a->beta1) * g;
        float v = a->v[i] = a->beta2 * a->v[i] + (1 - a->beta2) * g * g;
        a->weight[i] = a->weight[i] * keep - step * m / (sqrtf(v) * root + a->eps);
    }
    if (a->ema)
        for (int64_t i = 0; i < a->count; i++)
            a->ema[i] = a->ema_momentum * a->ema[i] + (1 - a->ema_momentum) * a->weight[i];
}

static void add(float *dst, const float *src, int64_t count)
{
    for (int64_t i = 0; i < count; i++) dst[i] += src[i];
}

/* Eight interleaved sums, so that the order is fixed whatever the vector width. */
static double square_sum(const float *x, int64_t count)
{
    double s[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; k++) s[k] += (double)x[i + k] * x[i + k];
    for (; i < count; i++) s[0] += (double)x[i] * x[i];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

extern const struct pk_cpu_flat PK_ISA_NAME(pk_cpu_flat);
const struct pk_cpu_flat PK_ISA_NAME(pk_cpu_flat) = {
    .adamw = adamw, .add = add, .square_sum = square_sum};
