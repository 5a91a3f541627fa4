/* kernels.h -- the CPU kernel tables, one per instruction set, a row for each op. */
#ifndef PK_CPU_KERNELS_H
#define PK_CPU_KERNELS_H

#include "core/cpu/isa.h"
#include "core/prog.h"

/* NULL when this binary has no kernels for the set. */
const pk_kernel *pk_cpu_table(enum pk_isa isa);

/* One pass over a flat arena slice: AdamW (Loshchilov & Hutter 2019) and the EMA copy.
 *
 *     g = grad * grad_scale; m += (g - m) * m_rate; v = v * beta2 + g * g * v_rate
 *     weight = weight * keep - step * m / (sqrt(v) * v_scale + eps)
 *     ema += (weight - ema) * ema_rate
 *
 * The factors are computed in double by core/optim.c: 1 - beta in float would lose digits. */
struct pk_adamw {
    int64_t count;
    float *weight, *m, *v; // [count]
    float *ema;            // [count] or NULL
    const float *grad;     // [count]
    float grad_scale;      // clipping
    float m_rate;          // 1 - beta1
    float beta2, v_rate;   // v_rate = 1 - beta2
    float keep;            // 1 - learning rate * weight decay
    float step;            // learning rate / (1 - beta1^t)
    float v_scale;         // 1 / sqrt(1 - beta2^t)
    float eps;
    float ema_rate; // 1 - momentum
};
typedef void (*pk_adamw_kernel)(const struct pk_adamw *a);
/* ema += (weight - ema) * rate over count floats: equal values stay equal. */
typedef void (*pk_ema_kernel)(float *ema, const float *weight, float rate, int64_t count);
/* dst += src over count floats; and the sum of squares in double, a fixed order. */
typedef void (*pk_add_kernel)(float *dst, const float *src, int64_t count);
typedef double (*pk_square_sum_kernel)(const float *x, int64_t count);

struct pk_cpu_flat {
    pk_adamw_kernel adamw;
    pk_ema_kernel ema;
    pk_add_kernel add;
    pk_square_sum_kernel square_sum;
};
const struct pk_cpu_flat *pk_cpu_flat(enum pk_isa isa);

#endif
