/* step.c -- the optimizer step of pretraining (see step.h). */
#include "tools/step.h"
#include "tools/probe.h"
#include "tools/training_settings.h"

#include <math.h>
#include <stdlib.h>

enum pk_status pk_step_program(struct pk_step *s, int32_t keep, struct pk_step_program **out,
                               struct pk_err *err)
{
    struct pk_step_program *v = *out = &s->program[keep];
    if (v->built || s->objective->coupled) return PK_OK;
    PK_TRY(s->objective->build(&v->prog, &s->t->params, &s->model, s->micro, keep, err));
    if (s->t->exec.weight) PK_TRY(pk_exec_bind(&s->t->exec, &v->bound, &v->prog, err));
    v->built = s->t->exec.weight != NULL;
    return PK_OK;
}

/* The three programs of a coupled objective; binding follows when there are arenas. */
static enum pk_status build_coupled(struct pk_step *s, struct pk_err *err)
{
    const struct pk_contrastive_progs progs = {&s->program[0].prog, &s->program[1].prog,
                                               &s->program[2].prog};
    return s->objective->build_coupled(&progs, &s->t->params, &s->none, &s->model, s->micro,
                                       s->batch / s->parts, s->t->comm ? s->t->comm->size : 1, err);
}

static enum pk_status bind_programs(struct pk_step *s, struct pk_err *err)
{
    const int32_t first = s->objective->coupled ? 0 : s->programs - 1;
    for (int32_t i = first; i < s->programs; i++) {
        PK_TRY(pk_exec_bind(&s->t->exec, &s->program[i].bound, &s->program[i].prog, err));
        s->program[i].built = true;
    }
    if (!s->objective->coupled) return PK_OK;
    const struct pk_gradcache spec = {.x = &s->t->exec,
                                      .embed = &s->program[0].bound,
                                      .loss = &s->program[1].bound,
                                      .back = &s->program[2].bound,
                                      .records = s->micro,
                                      .micros = s->micros * s->ranks,
                                      .width = s->model.contrastive.width,
                                      .keys = s->ema};
    PK_TRY(pk_gradcache_create(&s->cache, &spec, err));
    return pk_alloc(&s->group, 2 * (size_t)s->batch, sizeof *s->group, "pairs", err);
}

/* Parameter table, programs, arenas, optimizer. */
static enum pk_status prepare(struct pk_step *s, struct pk_err *err)
{
    struct pk_step_program *v;
    const struct pk_recipe *r = s->t->recipe;
    const int32_t most = s->objective->keep_max(&s->model);
    s->programs = s->objective->coupled ? 3 : most + 1;
    PK_TRY(pk_alloc(&s->program, (size_t)s->programs, sizeof *s->program, "programs", err));
    if (s->objective->coupled)
        PK_TRY(build_coupled(s, err));
    else
        PK_TRY(pk_step_program(s, most, &v, err)); // makes the parameter table
    PK_TRY(pk_trainer_arenas(s->t, s->ema, err));
    PK_TRY(bind_programs(s, err));
    struct pk_optim_spec spec = pk_recipe_optimizer(r, "train.optimizer");
    return pk_exec_optim(&s->t->exec, &spec, err);
}

enum pk_status pk_step_create(struct pk_step *out, struct pk_trainer *t,
                              const struct pk_batch_shape *shape, struct pk_err *err)
{
    const struct pk_recipe *r = t->recipe;
    struct pk_step *s = out;
    *s = (struct pk_step){.t = t,
                          .objective = pk_objective_named(pk_recipe_str(r, "objective.kind")),
                          .batch = pk_recipe_i64(r, "train.batch_size"),
                          .parts = pk_recipe_i64(r, "train.accumulate"),
                          .steps = pk_recipe_i64(r, "train.steps")};
    if (!s->objective)
        return pk_fail(err, PK_ERECIPE, "%s: this recipe is not one of pretraining",
                       pk_recipe_origin(r, "objective.kind"));
    PK_TRY(s->objective->config(&s->model, r, shape, err));
    s->encoder = s->objective->encoder(&s->model);
    s->ema = s->objective->ema(&s->model);
    PK_TRY(pk_trainer_precision(t, err));
    PK_TRY(pk_trainer_micro(t, s->batch, s->objective->tokens(&s->model), &s->encoder, &s->micro,
                            err));
    s->ranks = pk_trainer_ranks(t);
    PK_TRY(pk_trainer_share_out(t, s->batch / s->parts / s->micro, s->micro, s->objective->coupled,
                                &s->micros, err));
    PK_TRY(prepare(s, err));
    s->rate = pk_recipe_rate(r, "train.learning_rate", s->steps);
    s->decay = pk_recipe_decay(r, "train.weight_decay", s->steps);
    if (s->ema)
        s->momentum = (struct pk_schedule){.shape = PK_SHAPE_LINEAR,
                                           .peak = pk_recipe_f64(r, "objective.ema.start"),
                                           .end = pk_recipe_f64(r, "objective.ema.end"),
                                           .steps = s->steps};
    size_t width = (size_t)s->encoder.width, micros = (size_t)(s->micros * s->ranks);
    PK_TRY(pk_alloc(&s->start, (size_t)s->batch, sizeof *s->start, "crop starts", err));
    if (s->objective->moments)
        PK_TRY(pk_alloc(&s->moments, micros * 2 * width, sizeof *s->moments, "moments", err));
    return pk_alloc(&s->embedding, micros * (size_t)s->micro * width, sizeof *s->embedding,
                    "embeddings", err);
}

void pk_step_free(struct pk_step *s)
{
    for (int32_t k = 0; s->program && k < s->programs; k++) {
        pk_bound_free(&s->program[k].bound);
        pk_prog_free(&s->program[k].prog);
    }
    pk_gradcache_free(&s->cache);
    pk_params_free(&s->none);
    free(s->group);
    free(s->program);
    free(s->start);
    free(s->moments);
    free(s->embedding);
    *s = (struct pk_step){0};
}

/* Which rows are positives: crops of one record, or records of one participant. With keys from a
 * moving average pairs are compared as a whole. */
static enum pk_status fill_groups(struct pk_step *s, const struct pk_batch *b, int64_t first,
                                  const int64_t **out, struct pk_err *err)
{
    const bool record = s->objective->pairs(s->t->recipe) == PK_PAIR_RECORD;
    const int64_t every = s->ema ? 2 : 1, n = s->batch / s->parts / s->ranks / every;
    int64_t *all = s->group + s->group_turn * (s->batch / s->parts);
    int64_t *group = all + pk_trainer_rank(s->t) * n;
    s->group_turn = (s->group_turn + 1) % (2 * s->parts);
    *out = all;
    for (int64_t i = 0; i < n; i++) group[i] = (record ? b->row : b->group)[first + every * i];
    if (!s->t->comm) return PK_OK;
    pk_heartbeat_at(s->t->heartbeat, s->cache.step, "gathering the pairs");
    PK_TRY(pk_comm_all_gather(s->t->comm, all, (size_t)n * sizeof *all, err));
    pk_heartbeat_at(s->t->heartbeat, s->cache.step, "computing");
    return PK_OK;
}

/* Forward and backward of one part of the batch (all of it without accumulation). */
static enum pk_status run_part(struct pk_step *s, struct pk_step_program *v,
                               const struct pk_batch *b, int64_t part, bool detail,
                               struct pk_err *err)
{
    const int64_t first = part * (s->batch / s->parts / s->ranks);
    const bool coupled = s->objective->coupled;
    const int64_t *group;
    struct pk_feed feed[PK_BATCH_FEEDS];
    pk_batch_feed(feed, b, first, s->micro, s->start);
    struct pk_fetch fetch[] = {{"embedding", s->embedding}, {"target_moments", s->moments}};
    struct pk_exec_batch run = {.feed = feed,
                                .feeds = (int)PK_COUNT(feed),
                                .cut = pk_batch_cut(s->t, b, first),
                                .fetch = fetch,
                                .fetches = !detail                 ? 0
                                           : s->objective->moments ? 2
                                                                   : 1,
                                .micros = s->micros,
                                .add = part > 0,
                                .more = part + 1 < s->parts};
    run.loss_scale = 1.0 / (double)((coupled ? 1 : s->micros * s->ranks) * s->parts);
    if (!coupled) return pk_exec_run(&s->t->exec, &v->bound, &run, err);
    PK_TRY(fill_groups(s, b, first, &group, err));
    return pk_gradcache_run(&s->cache, &run, group, NULL, err);
}

enum pk_status pk_step_pairs(const struct pk_step *s, struct pk_pair_stats *out, struct pk_err *err)
{
    const struct pk_exec_rows *rows = &s->cache.projected;
    float *projected;
    PK_TRY(pk_alloc(&projected, (size_t)rows->count, sizeof *projected, "projections", err));
    enum pk_status status = pk_exec_rows_read(s->cache.x, rows, projected, err);
    if (status == PK_OK)
        status = pk_pair_stats(out, projected, s->batch / s->parts, s->cache.width, err);
    free(projected);
    return status;
}

enum pk_status pk_step_ceiling(const struct pk_step *s, int32_t keep, double seconds,
                               double *flops_per_s, struct pk_err *err)
{
    struct pk_exec *x = &s->t->exec;
    struct pk_probe_tower tower[PK_TOWERS];
    if (x->backend) return x->backend->ceiling(x, flops_per_s, err);
    int towers = s->objective->towers(&s->model, s->micro, keep, tower);
    return pk_probe_gemm(tower, towers, s->t->exec.threads, seconds, flops_per_s, err);
}

enum pk_status pk_step_run(struct pk_step *s, int64_t step, int32_t keep, const struct pk_batch *b,
                           bool detail, struct pk_err *err)
{
    struct pk_step_program *v;
    PK_TRY(pk_step_program(s, keep, &v, err));
    if (s->objective->coupled)
        s->flops += s->program[1].bound.plan.flops * (double)s->parts +
                    s->program[2].bound.plan.flops * (double)(s->micros * s->parts);
    s->flops += v->bound.plan.flops * (double)(s->micros * s->parts);
    s->cache.heartbeat = s->t->heartbeat;
    s->cache.step = step;
    for (int64_t part = 0; part < s->parts; part++)
        PK_TRY(run_part(s, v, b, part, detail && part == s->parts - 1, err));
    struct pk_optim_step o = {
        .step = step,
        .learning_rate = pk_schedule_at(&s->rate, step),
        .weight_decay = pk_schedule_at(&s->decay, step),
        .ema_momentum = pk_schedule_at(&s->momentum, step),
        .beta1 = pk_recipe_beta1(s->t->recipe, "train.learning_rate", s->steps, step)};
    pk_heartbeat_at(s->t->heartbeat, step, "the gradient sum");
    double begun = pk_seconds();
    enum pk_status status = pk_exec_update(&s->t->exec, &o, err);
    s->optimizer_seconds += pk_seconds() - begun;
    return status;
}

enum pk_status pk_step_gather(struct pk_step *s, struct pk_err *err)
{
    const size_t width = (size_t)s->encoder.width * sizeof(float), micros = (size_t)s->micros;
    if (!s->t->comm) return PK_OK;
    PK_TRY(pk_comm_gather(s->t->comm, 0, s->embedding, s->embedding,
                          micros * (size_t)s->micro * width, err));
    if (!s->moments) return PK_OK;
    return pk_comm_gather(s->t->comm, 0, s->moments, s->moments, micros * 2 * width, err);
}

/* The mean of the micro-batches' variances plus the variance of their means. */
double pk_step_target_variance(const struct pk_step *s)
{
    const int64_t width = s->encoder.width, micros = s->micros * s->ranks;
    double sum = 0;
    for (int64_t c = 0; c < width; c++) {
        double mean = 0, square = 0, within = 0;
        for (int64_t i = 0; i < micros; i++) {
            double m = (double)s->moments[i * 2 * width + c];
            mean += m / (double)micros;
            square += m * m / (double)micros;
            within += (double)s->moments[(i * 2 + 1) * width + c] / (double)micros;
        }
        sum += within + fmax(square - mean * mean, 0);
    }
    return sum / (double)width;
}
