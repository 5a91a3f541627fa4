/* kernels.h -- the CPU kernel tables, one per instruction set, a row for each op. */
#ifndef PK_CPU_KERNELS_H
#define PK_CPU_KERNELS_H

#include "core/cpu/isa.h"
#include "core/prog.h"

/* NULL when this binary has no kernels for the set. */
const pk_kernel *pk_cpu_table(enum pk_isa isa);

/* One pass over a flat arena slice: AdamW (Loshchilov & Hutter 2019) and the EMA copy. */
struct pk_adamw {
    int64_t count;
    float *weight, *m, *v;       // [count]
    float *ema;                  // [count] or NULL
    const float *grad;           // [count]
    float grad_scale;            // the gradient is multiplied by this first (clipping)
    float learning_rate, weight_decay;  // decay is decoupled: w -= lr * decay * w
    float beta1, beta2, eps;
    float correction1, correction2;     // 1 - beta^t
    float ema_momentum;          // ema = momentum * ema + (1 - momentum) * new weight
};
typedef void (*pk_adamw_kernel)(const struct pk_adamw *a);
/* dst += src over count floats; and the sum of squares in double, a fixed order. */
typedef void (*pk_add_kernel)(float *dst, const float *src, int64_t count);
typedef double (*pk_square_sum_kernel)(const float *x, int64_t count);

struct pk_cpu_flat {
    pk_adamw_kernel adamw;
    pk_add_kernel add;
    pk_square_sum_kernel square_sum;
};
const struct pk_cpu_flat *pk_cpu_flat(enum pk_isa isa);

#endif
