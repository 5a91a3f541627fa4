/* trainer.h -- what pretraining and fine-tuning share: arenas, optimizer, checkpoints, logs. */
#ifndef PK_TRAINER_H
#define PK_TRAINER_H

#include "core/ckpt_ranks.h"
#include "core/comm.h"
#include "core/exec.h"
#include "core/heartbeat.h"
#include "core/loader.h"
#include "core/optim.h"
#include "core/progress.h"
#include "core/run.h"
#include "core/tfevents.h"
#include "tools/model_info.h"
#include "tools/weights.h"

struct pk_trainer {
    const struct pk_recipe *recipe;
    struct pk_params params;
    struct pk_exec exec;
    struct pk_comm *comm;             // the ranks that train together, or NULL: this process alone
    bool agreed;                      // a failure that all ranks know of, by pk_trainer_together
    struct pk_heartbeat *heartbeat;   // of the ranks, borrowed; NULL without
    const struct pk_backend *backend; // NULL: the CPU
    struct pk_resident resident;      // all records, in a device's memory
    float *best;                      // fine-tuning: weights of the best validation, or NULL
    struct pk_run run;
    bool run_open;
    struct pk_ckpt_writer *writer; // of this process alone; NULL before the first checkpoint
    struct pk_ckpt_ranks *share;   // or with all ranks
    struct pk_ckpt source;   // train.zero1: rank 0's, from pk_trainer_load to pk_trainer_share
    char moment_name[2][48]; // of this rank's files
    struct pk_tfevents events;
    struct pk_progress progress;
    struct pk_model_info info;
    bool quiet;
    int skipped;            // steps in a row whose loss or gradient was not finite
    int kept;               // batches kept of such steps
    double started;         // pk_seconds when this process began to train
    double last_checkpoint; // pk_seconds
};

/* --- ranks ---------------------------------------------------------------------------------
 * Every rank trains the same weights on its share of each batch, and writes its share of each
 * checkpoint. Rank 0 leads: it alone reads the run's folder, writes logs and shows progress; what
 * decides is agreed. */

/* First of all, with t->recipe set: t trains with the ranks of comm (borrowed; NULL or a world of
 * one: alone). All must run the same recipe with the same program and kernels.
 * Errors  PK_ERANK naming the rank that differs */
enum pk_status pk_trainer_join(struct pk_trainer *t, struct pk_comm *comm, struct pk_err *err);
static inline int pk_trainer_rank(const struct pk_trainer *t)
{
    return t->comm ? t->comm->rank : 0;
}
static inline int pk_trainer_ranks(const struct pk_trainer *t)
{
    return t->comm ? t->comm->size : 1;
}
static inline bool pk_trainer_leads(const struct pk_trainer *t)
{
    return pk_trainer_rank(t) == 0;
}
/* pk_comm_agree: a failure of one rank is one of all. */
enum pk_status pk_trainer_together(struct pk_trainer *t, enum pk_status s, struct pk_err *err);
/* pk_micro_batch for a batch of all ranks: on a device a micro-batch is all that a rank has of a
 * part. */
enum pk_status pk_trainer_micro(const struct pk_trainer *t, int64_t batch, int32_t tokens,
                                const struct pk_encoder *encoder, int64_t *micro,
                                struct pk_err *err);
/* After every rank has its arenas: joins their devices, and says which rank has which. */
enum pk_status pk_trainer_connect(struct pk_trainer *t, struct pk_err *err);
/* This rank's part of `micros` micro-batches of `micro` records; pairs: none may be torn.
 * Errors  PK_ERECIPE they cannot be shared out */
enum pk_status pk_trainer_share_out(const struct pk_trainer *t, int64_t micros, int64_t micro,
                                    bool pairs, int64_t *mine, struct pk_err *err);
/* What ranks want after a step: to stop, as a signal asked, and, by rank 0's clock, to write a
 * checkpoint; and whether their share of the last one is still being written. Goes along with
 * pk_exec_update as exec.vote; pk_trainer_votes are those of all. */
enum { PK_VOTE_STOP = 1, PK_VOTE_SAVE = 2, PK_VOTE_WRITING = 4 };
uint32_t pk_trainer_vote(const struct pk_trainer *t, int64_t step);
uint32_t pk_trainer_votes(const struct pk_trainer *t, int64_t step);
/* Rank 0's weights, EMA copy, moments and best weights for all; with train.zero1 the moments that
 * are each rank's, from the checkpoint that rank 0 has loaded. Then finds out who can write
 * checkpoints, so this comes before the first.
 * Errors  PK_EWRITE train.zero1, and a rank does not see the run's folder */
enum pk_status pk_trainer_share(struct pk_trainer *t, struct pk_err *err);
/* The replicas are compared every so many steps, and before each checkpoint. */
enum { PK_REPLICA_CHECK = 100 };
/* PK_ERANK when a rank's weights, EMA copy or moments are not the others', naming it. */
enum pk_status pk_trainer_replicas(struct pk_trainer *t, struct pk_err *err);

/* Sets the storage type of the programs to come from train.precision and the backend.
 * Errors  PK_ERECIPE bf16 on the CPU */
enum pk_status pk_trainer_precision(struct pk_trainer *t, struct pk_err *err);
/* After the parameters are known: arenas and moments. ema: with the EMA copy. */
enum pk_status pk_trainer_arenas(struct pk_trainer *t, bool ema, struct pk_err *err);
/* Opens the run directory and writes recipe.yaml into it; that of a resumed run is written when
 * pk_trainer_load has succeeded. Of several ranks the first alone does; metrics are nothing
 * to do for the others. argv: for run.json, borrowed. */
enum pk_status pk_trainer_open_run(struct pk_trainer *t, enum pk_run_mode mode, int argc,
                                   char **argv, struct pk_err *err);
/* Opens TensorBoard's log if the recipe asks for it. steps: done before, -1 for a new run. */
enum pk_status pk_trainer_open_events(struct pk_trainer *t, int64_t steps, struct pk_err *err);
/* PK_ESTOPPED: a signal at some rank asked for it, and a checkpoint of `step` is written. */
enum pk_status pk_trainer_stopped(const struct pk_trainer *t, int64_t step, struct pk_err *err);
/* Whether a run's folder has a checkpoint, valid or not. */
bool pk_trainer_has_checkpoint(const char *dir);
void pk_trainer_free(struct pk_trainer *t);

/* Keeps all records of the data in the device's memory, if data.on_gpu and the device say so. To be
 * called before the loader is opened, with plan_only = t->resident.memory != NULL then.
 * Errors  PK_EDEVICE data.on_gpu=yes, and they do not fit; a record that cannot be read */
enum pk_status pk_trainer_resident(struct pk_trainer *t, const struct pk_dataset *d,
                                   struct pk_err *err);
/* Lets a device copy straight from the loader's batches; t must be freed before the loader. */
enum pk_status pk_trainer_pin(struct pk_trainer *t, const struct pk_loader *l, struct pk_err *err);

/* One checkpoint, written in the background while training goes on; an error of the one before is
 * reported here, of the last one by pk_trainer_end: model, moments, EMA, best, and state.json with
 * the members that `put` writes. Collective: where all ranks see the run's folder, each writes its
 * share of the moments, the first the weights as well, the last the EMA copy; else the first writes
 * everything. An error is all ranks'. */
enum pk_status pk_trainer_save(struct pk_trainer *t, int64_t step,
                               void (*put)(struct pk_json_writer *w, void *ctx), void *ctx,
                               struct pk_err *err);
/* Whether this rank's share of a checkpoint is still being written; and, collective, after a step
 * in which no rank votes so: has it completed. A save and pk_trainer_end do so in any case. */
bool pk_trainer_writing(const struct pk_trainer *t);
enum pk_status pk_trainer_settle(struct pk_trainer *t, struct pk_err *err);
/* Restores the newest valid checkpoint of the run; *state gets its state.json (free it) and *step
 * the number of steps done. A run that was interrupted before its first checkpoint starts anew:
 * *step is 0, *state empty and no weight touched. Metrics after *step are cut off.
 * PK_EUSAGE: there are more steps already than train.steps. */
enum pk_status pk_trainer_load(struct pk_trainer *t, int64_t *step, struct pk_json *state,
                               struct pk_err *err);
/* True when recipe and clock ask for a checkpoint after `step` steps. */
bool pk_trainer_due(const struct pk_trainer *t, int64_t step);
/* Appends one object to metrics.jsonl and the same numbers to TensorBoard. */
enum pk_status pk_trainer_metrics(struct pk_trainer *t, int64_t step, const char *kind,
                                  const struct pk_scalar *scalar, int count, struct pk_err *err);
/* Ends the run: state, progress, log; passes s on, adding the run's folder for a stopped run. Ranks
 * whose s is that of all leave together, after rank 0 has written. */
enum pk_status pk_trainer_end(struct pk_trainer *t, enum pk_status s, int64_t step,
                              struct pk_err *err);
/* A step whose loss or gradient was not finite, as *err says; the weights have not changed. Keeps
 * the batch of all ranks, RUN/nan-step-N.safetensors (the first of a row of such steps, and at most
 * 8 of a process, since a batch may be large); every rank calls this. PK_OK: the recipe skips such
 * steps; PK_EDIVERGED: it does not, or this is the tenth in a row. classes: columns of the batch's
 * labels, 0 without. */
struct pk_batch;
enum pk_status pk_trainer_diverged(struct pk_trainer *t, int64_t step, const struct pk_batch *b,
                                   int32_t classes, struct pk_err *err);
/* Where the inputs of pk_signal_inputs lie in a batch, from record `first` on, for micro-batches of
 * `micro`. start: [micro] zeros, since the loader delivers the crop itself. */
enum { PK_BATCH_FEEDS = 5 };
void pk_batch_feed(struct pk_feed feed[PK_BATCH_FEEDS], const struct pk_batch *b, int64_t first,
                   int64_t micro, const int32_t *start);
/* The same records' signals where they are resident on the device; else nothing. */
struct pk_cut pk_batch_cut(const struct pk_trainer *t, const struct pk_batch *b, int64_t first);
/* What the recipe itself says about the encoder (rate, leads, sizes, patch) must be what the file
 * that init_from names holds: PK_ERECIPE where it is not. */
enum pk_status pk_trainer_agrees(const struct pk_model_info *m, const struct pk_recipe *r,
                                 struct pk_err *err);
/* Largest resident set so far, bytes. */
double pk_peak_memory(void);

#endif
