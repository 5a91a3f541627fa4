/* finetune.h -- supervised runs: probes, fine-tuning, training from scratch. */
#ifndef PK_FINETUNE_H
#define PK_FINETUNE_H

#include "core/exec.h"
#include "core/heartbeat.h"
#include "core/recipe.h"
#include "core/run.h"

struct pk_finetune_options {
    enum pk_run_mode mode;
    bool quiet;
    const struct pk_backend *backend; // NULL: the CPU
    struct pk_comm *comm;             // ranks that train together, or NULL: this process alone
    struct pk_heartbeat *heartbeat;   // of the ranks, or NULL
    int argc;                         // for run.json; borrowed
    char **argv;
};
/* Runs all stages of the recipe and, if asked for, the test; writes RUN/result.json. With ranks all
 * of them read data and init_from (of a resumed run its folder), and rank 0 alone writes. */
enum pk_status pk_finetune(const struct pk_recipe *r, const struct pk_finetune_options *o,
                           struct pk_err *err);

#endif
