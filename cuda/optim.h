/* optim.h -- the optimizer step of the CUDA backend: norm, clipping, AdamW, EMA and bf16 copies.
 *
 * Everything that changes from step to step is read from device memory, so that a captured graph
 * stays valid: the caller copies struct pk_cuda_scalars there before an update and struct
 * pk_cuda_report back after it, on the same stream.
 *
 * The update is core/optim.c's with the same float factors; results differ only where one compiler
 * contracts a multiplication and an addition and the other does not, and, through the clipping
 * factor, by the order in which the double-precision norm is summed. */
#ifndef PK_CUDA_OPTIM_H
#define PK_CUDA_OPTIM_H

#include "cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif
#include "core/optim.h"

/* What one update needs, in pinned memory on the host, then on the device. 64 bytes. */
struct pk_cuda_scalars {
    double clip;  // largest norm of the gradient; 0 for no clipping
    int64_t step; // 0-based; told back in the report
    struct pk_optim_factors factors;
    int32_t stop_on_nan; // after a step that is not finite, leave out all that follow
    int32_t unused[3];
};
/* skip_nan: a step that is not finite is left out and training goes on; else it stops there. */
void pk_cuda_scalars_set(struct pk_cuda_scalars *out, const struct pk_optim_spec *spec,
                         const struct pk_optim_step *step, bool skip_nan);

/* How an update went; zero at the start. 48 bytes. */
struct pk_cuda_report {
    double norm;     // of the gradient before clipping
    double loss;     // of the step: pk_cuda_add_loss adds it up here before the update
    int64_t step;    // from the scalars
    int64_t bad;     // arena element of the first gradient that is not finite, -1 for none and
                     // where another rank has it
    float bad_value; // that gradient
    int32_t taken;   // 0: nothing was changed
    int32_t stopped; // this or an earlier step was not finite and was not to be skipped: nothing is
                     // taken from then on, until pk_cuda_optim_clear
    int32_t unused;
};

/* Device memory, each [params->elements], parameters at pk_param.offset; borrowed. */
struct pk_cuda_optim_arenas {
    float *weight;
    float *m, *v;      // of the share: that of element `first` comes first
    float *ema;        // NULL when nothing has an EMA copy
    const float *grad; // left as it is
    void *weight_low;  // bf16 copy of weight, NULL in float programs
    void *ema_low;     // bf16 copy of ema, NULL in float programs or without ema
};

struct pk_cuda_optim;

/* For the parameters in elements [first, last) of the arenas, which are whole runs of alike ones
 * (pk_params_share): all, or this rank's share, whose moments alone are there. The flags of params
 * are read here and must not change; *out is owned.
 * Errors  PK_ENOMEM, PK_EDEVICE */
enum pk_status pk_cuda_optim_create(struct pk_cuda_optim **out, const struct pk_params *params,
                                    int64_t first, int64_t last, struct pk_err *err);
void pk_cuda_optim_free(struct pk_cuda_optim *o);

/* Sums of squared gradients, in device memory, for every chunk of the arenas: 0 outside of the
 * share, so that the sums of all ranks are one addition away. */
void pk_cuda_optim_sums(const struct pk_cuda_optim *o, double **sums, int64_t *count);
/* Enqueues them: a kernel, and a memset where there are shares. */
enum pk_status pk_cuda_optim_measure(struct pk_cuda_optim *o, const struct pk_queue *q,
                                     const float *grad, struct pk_err *err);
/* Enqueues what follows when they are of all ranks, two kernels:
 *
 *     report->norm = sqrt(sum of grad^2 over trained parameters)
 *     when norm and report->loss are finite and report->stopped is 0:
 *         AdamW, EMA and bf16 copies as in core/optim.h
 *     otherwise nothing changes, and report->taken says so
 *
 * scalars and report are device memory. Parameters that are neither trained nor have an EMA copy
 * are not touched, nor are their bf16 values, nor is what lies outside of the share. Determinism:
 * bitwise. Traffic per trained element with EMA and bf16: 44 bytes. */
enum pk_status pk_cuda_optim_apply(struct pk_cuda_optim *o, const struct pk_queue *q,
                                   const struct pk_cuda_optim_arenas *arenas,
                                   const struct pk_cuda_scalars *scalars,
                                   struct pk_cuda_report *report, struct pk_err *err);
/* After the weights of the other shares have come: their EMA copies and bf16 values, as if updated
 * here. One kernel; nothing where all is one share, or after a step that was not taken. */
enum pk_status pk_cuda_optim_follow(struct pk_cuda_optim *o, const struct pk_queue *q,
                                    const struct pk_cuda_optim_arenas *arenas,
                                    const struct pk_cuda_scalars *scalars,
                                    const struct pk_cuda_report *report, struct pk_err *err);
/* Enqueues the end of a stop. */
enum pk_status pk_cuda_optim_clear(const struct pk_queue *q, struct pk_cuda_report *report,
                                   struct pk_err *err);

/* report->loss = (add ? report->loss : 0) + *loss * *seed, in double: the objective, whose
 * derivative by the loss of this run is the seed. All in device memory. */
enum pk_status pk_cuda_add_loss(const struct pk_queue *q, struct pk_cuda_report *report,
                                const float *loss, const float *seed, bool add, struct pk_err *err);
/* low[i] = (bf16)from[i], to nearest even; both in device memory, 16-byte aligned. */
enum pk_status pk_cuda_cast(const struct pk_queue *q, void *low, const float *from, int64_t count,
                            struct pk_err *err);
/* wire.cu. to[i] = (float)low[i], of bf16. */
enum pk_status pk_cuda_widen(const struct pk_queue *q, float *to, const void *low, int64_t count,
                             struct pk_err *err);
/* *sum += what the words at `from` amount to as the array number `arena`: another sum, all but
 * certainly, when a bit or its place changes. The same for the same words, in whatever order. */
enum pk_status pk_cuda_add_hash(const struct pk_queue *q, uint64_t *sum, const float *from,
                                int64_t count, uint64_t arena, struct pk_err *err);

#ifdef __cplusplus
}
#endif

#endif
