/* trainer_checkpoint.h -- what trainer.c and trainer_checkpoint.c share; the interface is
 * trainer.h.
 */
#ifndef PK_TRAINER_CHECKPOINT_H
#define PK_TRAINER_CHECKPOINT_H

#include "tools/trainer.h"

#define PK_TRAINER_CHOICES "gemm.json" // in a run's folder: how a device computes its products

/* recipe.yaml into the run's folder. */
enum pk_status pk_trainer_write_recipe(struct pk_trainer *t, struct pk_err *err);
/* Waits for the pending checkpoint. A run that was to end well ends with its error; s else. */
enum pk_status pk_trainer_finish_checkpoints(struct pk_trainer *t, enum pk_status s,
                                             struct pk_err *err);

#endif
