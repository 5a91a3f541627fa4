/* step.h -- one optimizer step of pretraining on a batch that is already in memory.
 *
 * Pretraining and 'purkinje bench step' run the same code. The number of kept tokens may differ
 * from batch to batch, so there is one program for each number, built when it first occurs; all
 * share weights and arenas. An objective whose loss couples the batch has three programs, which
 * tools/gradcache.h runs. */
#ifndef PK_STEP_H
#define PK_STEP_H

#include "core/schedule.h"
#include "core/loader.h"
#include "core/stats.h"
#include "tools/gradcache.h"
#include "tools/objective.h"
#include "tools/trainer.h"

struct pk_step_program { // for one number of kept tokens, or one of three
    struct pk_prog prog;
    struct pk_bound bound;
    bool built;
};

struct pk_step {
    struct pk_trainer *t; // borrowed: parameters, arenas, moments, optimizer
    const struct pk_objective *objective;
    union pk_pretext model;
    struct pk_encoder encoder;
    bool ema;
    struct pk_step_program *program; // [programs], by kept tokens; or embed, loss, back
    int32_t programs;
    struct pk_params none;     // of the loss by itself, which has no parameters
    struct pk_gradcache cache; // of a coupled objective
    int64_t *group;            // its positives, [2][parts][records of a part]: of this step and of
                               // the one before, which a device may still be at
    int64_t group_turn;        // which of these are to be filled next
    int64_t batch, parts;      // records of a step, computed in `parts` one after the other
    int64_t micro, micros;     // records of a micro-batch, this rank's micro-batches of a part
    int64_t ranks;             // that share each part
    int64_t steps;             // of the run, for the schedules
    struct pk_schedule rate, decay, momentum;
    int32_t *start;   // [batch] zeros: the loader delivers the crop itself
    float *moments;   // [ranks, micros, 2, width] of targets, last part of a step with detail; or
                      // NULL. Of all ranks after pk_step_gather, at rank 0
    float *embedding; // [ranks, micros * micro, width] of the same
    double flops;     // of all steps so far, as the plans count them
    double optimizer_seconds; // CPU: spent in AdamW and EMA so far
};

/* Reads the recipe t->recipe, makes t's parameter table, arenas and optimizer. The weights are not
 * filled. *out must stay where it is; t is borrowed. With ranks a batch is shared out by whole
 * micro-batches. Errors  PK_ERECIPE they cannot be */
enum pk_status pk_step_create(struct pk_step *out, struct pk_trainer *t,
                              const struct pk_batch_shape *shape, struct pk_err *err);
void pk_step_free(struct pk_step *s);
/* The program for this number of kept tokens, at most objective->keep_max; built if need be. Of a
 * coupled objective the first of three. */
enum pk_status pk_step_program(struct pk_step *s, int32_t keep, struct pk_step_program **out,
                               struct pk_err *err);
/* Forward, backward, AdamW, EMA. b has s->batch / s->ranks records, this rank's of every part, and
 * stays unchanged until the step's pk_exec_result, which tells loss and norm. detail: also fills
 * moments and embedding. */
enum pk_status pk_step_run(struct pk_step *s, int64_t step, int32_t keep, const struct pk_batch *b,
                           bool detail, struct pk_err *err);
/* After a step with detail, on all ranks: their moments and embeddings go to rank 0. */
enum pk_status pk_step_gather(struct pk_step *s, struct pk_err *err);
/* FLOP/s of the GEMM library at the shapes of this step, all threads, measured for `seconds`; of a
 * device at its best shape. */
enum pk_status pk_step_ceiling(const struct pk_step *s, int32_t keep, double seconds,
                               double *flops_per_s, struct pk_err *err);
/* Alignment and uniformity of the projections of the last part, of a coupled objective. Waits for
 * the step, on a device. */
enum pk_status pk_step_pairs(const struct pk_step *s, struct pk_pair_stats *out,
                             struct pk_err *err);
/* Mean over channels of the variance of the targets over records and hidden tokens, of the last
 * part of the last step with detail; of objectives with moments only. */
double pk_step_target_variance(const struct pk_step *s);

#endif
