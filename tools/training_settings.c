/* training_settings.c -- schedules, optimizer and micro-batches (see training_settings.h). */
#include "tools/training_settings.h"
#include "core/exec.h"

#include <string.h>

static double number(const struct pk_recipe *r, const char *prefix, const char *key)
{
    char path[128];
    snprintf(path, sizeof path, "%s.%s", prefix, key);
    return pk_recipe_f64(r, path);
}

static enum pk_shape shape(const struct pk_recipe *r, const char *prefix)
{
    char path[128];
    snprintf(path, sizeof path, "%s.shape", prefix);
    const char *name = pk_recipe_str(r, path);
    return !strcmp(name, "constant")    ? PK_SHAPE_CONSTANT
           : !strcmp(name, "one_cycle") ? PK_SHAPE_ONE_CYCLE
                                        : PK_SHAPE_COSINE;
}

struct pk_schedule pk_recipe_rate(const struct pk_recipe *r, const char *prefix, int64_t steps)
{
    return (struct pk_schedule){.shape = shape(r, prefix),
                                .start = number(r, prefix, "start"),
                                .peak = number(r, prefix, "peak"),
                                .end = number(r, prefix, "end"),
                                .warmup = (int64_t)number(r, prefix, "warmup"),
                                .steps = steps,
                                .rise = number(r, prefix, "rise")};
}

double pk_recipe_beta1(const struct pk_recipe *r, const char *prefix, int64_t steps, int64_t step)
{
    char path[128];
    snprintf(path, sizeof path, "%s.beta1", prefix);
    if (shape(r, prefix) != PK_SHAPE_ONE_CYCLE || pk_recipe_count(r, path) != 2) return 0;
    const double ends = pk_recipe_item_f64(r, path, 0);
    const struct pk_schedule s = {.shape = PK_SHAPE_ONE_CYCLE,
                                  .start = ends,
                                  .peak = pk_recipe_item_f64(r, path, 1),
                                  .end = ends,
                                  .steps = steps,
                                  .rise = number(r, prefix, "rise")};
    return pk_schedule_at(&s, step);
}

struct pk_schedule pk_recipe_decay(const struct pk_recipe *r, const char *prefix, int64_t steps)
{
    return (struct pk_schedule){.shape = shape(r, prefix),
                                .peak = number(r, prefix, "start"),
                                .end = number(r, prefix, "end"),
                                .steps = steps};
}

struct pk_optim_spec pk_recipe_optimizer(const struct pk_recipe *r, const char *prefix)
{
    char path[128];
    snprintf(path, sizeof path, "%s.beta", prefix);
    return (struct pk_optim_spec){.beta1 = pk_recipe_item_f64(r, path, 0),
                                  .beta2 = pk_recipe_item_f64(r, path, 1),
                                  .eps = number(r, prefix, "eps"),
                                  .clip = number(r, prefix, "clip")};
}

/* A head or projection that normalises one row of a record: of a single record it would leave
 * nothing. */
static bool normalises_records(const struct pk_recipe *r)
{
    if (!strcmp(pk_recipe_str(r, "objective.kind"), "contrastive"))
        return pk_recipe_bool(r, "objective.projection.norm");
    return pk_recipe_supervised(r) &&
           !strcmp(pk_recipe_str(r, "objective.head.kind"), "concat_pool");
}

enum pk_status pk_micro_batch(const struct pk_recipe *r, int64_t batch, int32_t tokens,
                              const struct pk_encoder *encoder, bool whole, int64_t *micro,
                              struct pk_err *err)
{
    int64_t parts = pk_recipe_i64(r, "train.accumulate");
    int64_t share = batch / parts, want = pk_recipe_i64(r, "train.micro_batch");
    whole |= pk_recipe_bool(r, "train.sync_norm");
    if (batch % parts || (want && share % want))
        return pk_fail(err, PK_ERECIPE,
                       "%s: %lld parts of micro-batches of %lld do not divide a batch of %lld",
                       pk_recipe_origin(r, "train.micro_batch"), (long long)parts, (long long)want,
                       (long long)batch);
    const int64_t width = encoder->width;
    int64_t target = PK_MIN(width * PK_MICRO_TOKENS_PER_CHANNEL, (int64_t)PK_MICRO_TOKENS);
    const bool normalises = normalises_records(r);
    if (normalises || pk_encoder_convolves(encoder)) target = share * tokens;
    *micro = want ? want : PK_MAX((int64_t)1, PK_MIN(target / tokens, share / PK_SHARDS));
    if (whole && !want) *micro = share;
    const bool even = !whole && !want && share % PK_SHARDS == 0;
    const int64_t unit = even ? share / PK_SHARDS : share;
    while (unit % *micro) --*micro;
    if (!want && *micro == 1 && (normalises || pk_encoder_convolves(encoder)))
        for (*micro = 2; *micro < share && share % *micro;) ++*micro;
    *micro = PK_MIN(*micro, share);
    if (*micro > 1 || !normalises) return PK_OK;
    return pk_fail(
        err, PK_ERECIPE,
        "%s: a micro-batch of one record, but batch norm in %s compares records\n"
        "help: 'train.micro_batch' and 'train.batch_size' / 'train.accumulate' must be 2 "
        "or more",
        pk_recipe_origin(r, want ? "train.micro_batch" : "train.batch_size"),
        pk_recipe_supervised(r) ? "the head 'concat_pool'" : "'objective.projection'");
}
