/* optim.h -- AdamW with clipping by global norm and an EMA copy, over the flat parameter arenas.
 *
 * Same results whatever the number of threads: every element has its own update, and the norm is
 * summed over fixed chunks in a fixed order. Padding between parameters must be zero in all arenas
 * at the start, and stays so. */
#ifndef PK_OPTIM_H
#define PK_OPTIM_H

#include "core/comm.h"
#include "core/param.h"
#include "core/thread.h"

struct pk_optim_spec {
    double beta1, beta2; // in [0, 1)
    double eps;          // added to the root of the corrected second moment; > 0
    double clip;         // largest global gradient norm; 0 for no clipping
};

/* All [params->elements], the parameters at pk_param.offset; borrowed. */
struct pk_optim_arenas {
    float *weight, *m, *v;
    float *ema; // NULL when nothing has an EMA copy
    const float *grad;
    /* Parameters shared out over ranks, as by pk_params_share, or NULL: element k of share is where
     * rank k's begin, [comm->size + 1]. m and v then hold those of this rank alone; grad has to be
     * right there alone; weight and ema are whole, and the same everywhere after the step. */
    const int64_t *share;
    struct pk_comm *comm;
};

struct pk_optim_step {
    int64_t step; // 0-based: the first ever is 0, also after a resume
    double learning_rate, weight_decay, ema_momentum;
    double beta1; // of this step, in (0, 1); 0: that of struct pk_optim_spec
};

/* PK_EINVAL unless beta1 of the step is in [0, 1). */
enum pk_status pk_optim_step_check(const struct pk_optim_step *step, struct pk_err *err);

/* What a step multiplies with, computed in double (1 - beta in float would lose digits) and rounded
 * once; struct pk_adamw says how they are used. Shared by the backends. */
struct pk_optim_factors {
    float m_rate;        // 1 - beta1
    float beta2, v_rate; // v_rate = 1 - beta2
    float step;          // learning rate / (1 - beta1^t), t = step + 1
    float v_scale;       // 1 / sqrt(1 - beta2^t)
    float eps;
    float ema_rate;   // 1 - momentum
    float decay_keep; // 1 - learning rate * weight decay
};
void pk_optim_factors(const struct pk_optim_spec *spec, const struct pk_optim_step *step,
                      struct pk_optim_factors *out);

/* A stretch of the arenas whose parameters have the same flags, padding between them included. */
struct pk_optim_chunk {
    int64_t offset, count;
    bool trained, decay, ema, state;
    float keep, gain; // of state, as in struct pk_param
};
/* Cuts the arenas into chunks of at most `size` elements, ascending, leaving out what is neither
 * trained nor has an EMA copy. *out is owned (free), NULL when there is nothing to do. */
enum pk_status pk_optim_chunks(const struct pk_params *params, int64_t size,
                               struct pk_optim_chunk **out, int64_t *count, struct pk_err *err);

struct pk_optim;

/* The flags of params are read here and must not change; params is borrowed, *out owned.
 * Errors  PK_EINVAL a constant outside the range above;  PK_ENOMEM */
enum pk_status pk_optim_create(struct pk_optim **out, const struct pk_params *params,
                               const struct pk_optim_spec *spec, struct pk_err *err);
void pk_optim_free(struct pk_optim *o);
const struct pk_optim_spec *pk_optim_constants(const struct pk_optim *o);

/* One optimizer step as torch.optim.AdamW takes it after torch.nn.utils.clip_grad_norm_(clip):
 *
 *     grad *= min(1, clip / (norm + 1e-6))
 *     weight *= 1 - lr * decay           (parameters with the decay flag)
 *     m = beta1 m + (1 - beta1) grad;    v = beta2 v + (1 - beta2) grad^2
 *     weight -= lr * (m / c1) / (sqrt(v / c2) + eps),    c = 1 - beta^(step + 1)
 *
 * (c1 with the beta1 of this step, whatever those before had, as PyTorch has it under a schedule of
 * beta1)
 *
 * for trained parameters, and state = state * keep + term * gain for state that is moved (the term
 * is where a gradient would be, is not clipped and no part of the norm); then ema = momentum * ema
 * + (1 - momentum) * weight for those with the ema flag. grad itself is left as it is. *norm (may
 * be NULL) gets the global norm before clipping; its sum of squares is in double. pool NULL runs in
 * this thread.
 * With shares every rank calls it, and the bits are those of one that has all parameters: the sums
 * of squares are exchanged, and added by everybody in the same order.
 * Errors  PK_EDIVERGED the norm is not finite; names a parameter, and no arena has changed
 *         PK_EINVAL    the beta1 of the step is out of range
 *         PK_ERANK     with shares; weights may have changed */
enum pk_status pk_optim_step(struct pk_optim *o, struct pk_pool *pool,
                             const struct pk_optim_arenas *arenas, const struct pk_optim_step *step,
                             double *norm, struct pk_err *err);

/* The message for a gradient that is not finite at this element of the arena, naming the parameter.
 * Returns PK_EDIVERGED; PK_EINTERNAL when no parameter is there. */
enum pk_status pk_optim_diverged(const struct pk_params *p, int64_t step, int64_t at, double value,
                                 struct pk_err *err);

#endif
