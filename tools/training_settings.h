/* training_settings.h -- what a recipe says of schedules, optimizer and micro-batches. */
#ifndef PK_TRAINING_SETTINGS_H
#define PK_TRAINING_SETTINGS_H

#include "core/optim.h"
#include "core/recipe.h"
#include "core/schedule.h"
#include "models/encoder.h"

/* Reads "PREFIX.start|peak|end|warmup|shape" into a schedule over `steps`. */
struct pk_schedule pk_recipe_rate(const struct pk_recipe *r, const char *prefix, int64_t steps);
/* beta1 of a step that goes against a one-cycle learning rate, "PREFIX.beta1"; 0 where it is that
 * of the optimizer. */
double pk_recipe_beta1(const struct pk_recipe *r, const char *prefix, int64_t steps, int64_t step);
/* Weight decay: no warm-up, so its start is the schedule's peak. */
struct pk_schedule pk_recipe_decay(const struct pk_recipe *r, const char *prefix, int64_t steps);
struct pk_optim_spec pk_recipe_optimizer(const struct pk_recipe *r, const char *prefix);
/* A micro-batch is chosen so that it has about PK_MICRO_TOKENS_PER_CHANNEL tokens for each channel
 * of the encoder, at most PK_MICRO_TOKENS. The weights and their gradients are read once per
 * micro-batch, so it should be many times as large as they are; its activations should stay in the
 * second-level cache, so it should be small: the optimum grows with the width. Measured on two
 * Zen 5 cores with 200 tokens per record: width 96 is best at 1 to 2 records, 192 at 2 to 4. Above
 * that nothing was measured. Constants and not the machine's cache size, because the micro-batch
 * decides the order of summation: a recipe must give the same bits everywhere. */
enum { PK_MICRO_TOKENS_PER_CHANNEL = 5, PK_MICRO_TOKENS = 800 };
/* Records of a micro-batch: the recipe's train.micro_batch, or by the rule above; at least
 * PK_SHARDS micro-batches, and a multiple of that where the batch allows it, keep all threads busy,
 * and let 2, 4 or 8 ranks have the micro-batches that one has. tokens: of a record. A convolutional
 * encoder, whose batch norm needs records to average over, gets PK_SHARDS micro-batches, of two
 * records at least, as the head concat_pool does. On a device (whole) it is all records of a part.
 * Errors  PK_ERECIPE  parts or micro-batches that do not divide the batch, or one record for that
 * head */
enum pk_status pk_micro_batch(const struct pk_recipe *r, int64_t batch, int32_t tokens,
                              const struct pk_encoder *encoder, bool whole, int64_t *micro,
                              struct pk_err *err);

#endif
