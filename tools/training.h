/* training.h -- a run, from a recipe to checkpoints: pretraining, and supervised training (probes,
 * fine-tuning, from scratch). */
#ifndef PK_TRAINING_H
#define PK_TRAINING_H

#include "core/exec.h"
#include "core/heartbeat.h"
#include "core/recipe.h"
#include "core/run.h"

struct pk_training_options {
    enum pk_run_mode mode;
    bool quiet;
    const struct pk_backend *backend; // NULL: the CPU
    struct pk_comm *comm;             // the ranks that train together, borrowed; NULL: none
    struct pk_heartbeat *heartbeat;   // is told where this rank is, borrowed; NULL: none
    int argc;                         // for run.json; borrowed
    char **argv;
};
/* Run to the end of the recipe, or to a signal: PK_ESTOPPED after a checkpoint. Every rank calls
 * this with the same recipe; a signal at one of them stops all. Where one fails, the others return
 * its error or PK_ERANK. */
enum pk_status pk_pretrain(const struct pk_recipe *r, const struct pk_training_options *o,
                           struct pk_err *err);
/* All stages of the recipe and, if asked for, the test; writes RUN/result.json. With ranks all of
 * them read data and init_from (of a resumed run its folder), and rank 0 alone writes. */
enum pk_status pk_finetune(const struct pk_recipe *r, const struct pk_training_options *o,
                           struct pk_err *err);

#endif
