/* finetune.c -- supervised training in stages (see training.h).
 *
 * The step number counts through all stages, so the loader's order and the checkpoints go on.
 * `best` holds the weights of the best validation of the current stage; a stage ends with them. */
#include "core/stop.h"
#include "tools/goal.h"
#include "tools/objective.h"
#include "tools/trainer.h"
#include "tools/training.h"
#include "tools/training_settings.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct finetune {
    struct pk_trainer t;
    struct pk_inputs in;
    struct pk_goal goal;
    struct pk_classifier model;
    struct pk_loader *loader;
    struct pk_prog prog; // training program of the current stage
    struct pk_bound bound;
    struct pk_evaluator eval;
    int64_t batch, micro, micros;   // micros: of this rank
    int32_t *start;                 // zeros
    const struct pk_batch *lent[2]; // by the loader, by step % 2
    /* where the run is; in the checkpoint */
    int64_t stage, stage_step, step;
    double best_score;     // the goal's metric, -1 before the first validation of a stage
    int64_t best_step;     // within the stage, -1 before
    double loss_sum, norm; // since the last validation; gradient norm of the last step
    int64_t loss_count;
    int64_t timed;        // steps of this process since the last validation
    double waited, since; // seconds of data wait, and of all steps, in them
    uint64_t frozen_hash; // of the encoder, while it is frozen
};

static const char *stage_key(char out[128], int64_t stage, const char *key)
{
    snprintf(out, 128, "stages.%lld.%s", (long long)stage, key);
    return out;
}

static int64_t stage_i64(const struct finetune *f, const char *key)
{
    char path[128];
    return pk_recipe_i64(f->t.recipe, stage_key(path, f->stage, key));
}

static void put_state(struct pk_json_writer *w, void *ctx)
{
    const struct finetune *f = ctx;
    pk_json_put_i64(w, "stage", f->stage);
    pk_json_put_i64(w, "stage_step", f->stage_step);
    pk_json_put_f64(w, "best_score", f->best_score);
    pk_json_put_i64(w, "best_step", f->best_step);
    pk_json_put_f64(w, "loss_sum", f->loss_sum);
    pk_json_put_i64(w, "loss_count", f->loss_count);
}

static enum pk_status load_state(struct finetune *f, struct pk_err *err)
{
    struct pk_json state;
    PK_TRY(pk_trainer_load(&f->t, &f->step, &state, err));
    f->stage = pk_json_i64(&state, "stage", 0);
    f->stage_step = pk_json_i64(&state, "stage_step", 0);
    f->best_score = pk_json_f64(&state, "best_score", -1);
    f->best_step = pk_json_i64(&state, "best_step", -1);
    f->loss_sum = pk_json_f64(&state, "loss_sum", 0);
    f->loss_count = pk_json_i64(&state, "loss_count", 0);
    pk_json_free(&state);
    return PK_OK;
}

/* A run that goes on has its own weights, so that it does not need init_from's file any more. */
static enum pk_status configure(struct finetune *f, const char *own, struct pk_model_file *file,
                                bool *has_file, struct pk_err *err)
{
    const struct pk_recipe *r = f->t.recipe;
    *has_file = own || *pk_recipe_str(r, "init_from");
    PK_TRY(pk_goal_open(&f->goal, r, &f->in, err));
    if (*has_file) {
        PK_TRY(own ? pk_model_open(file, own, false, err) : pk_model_open_init(file, r, err));
        enum pk_status s =
            pk_classifier_config_head(&f->model, r, &f->in.shape, f->goal.columns, err);
        if (s == PK_OK) s = pk_trainer_agrees(&file->info, r, err);
        if (s == PK_OK) s = pk_model_info_architecture(&f->model, &file->info, r, err);
        if (s != PK_OK) pk_model_close(file);
        return s;
    }
    return pk_classifier_config(&f->model, r, &f->in.shape, f->goal.columns, err);
}

static void describe(struct finetune *f)
{
    const struct pk_recipe *r = f->t.recipe;
    struct pk_model_info *m = &f->t.info;
    snprintf(m->objective, sizeof m->objective, "%.31s", f->goal.kind->objective);
    m->encoder = f->model.encoder;
    pk_model_info_input(m, &f->model.signal, &f->in);
    snprintf(m->head, sizeof m->head, "%.31s", pk_recipe_str(r, "objective.head.kind"));
    snprintf(m->loss, sizeof m->loss, "%.31s", pk_recipe_str(r, "objective.loss"));
    snprintf(m->aggregation, sizeof m->aggregation, "%.31s",
             pk_recipe_str(r, "evaluation.aggregation"));
    m->hidden = f->model.hidden;
    m->window = f->eval.window / m->rate;
    m->stride = f->eval.stride / m->rate;
    m->classes = f->goal.columns;
    f->goal.kind->describe(&f->goal, m);
    if (f->t.quiet) return;
    char encoder[96];
    pk_encoder_describe(&m->encoder, encoder);
    fprintf(stderr, "model: %s; head %s, ", encoder, m->head);
    if (m->regresses)
        fprintf(stderr, "%d target%s\n", m->classes, m->classes > 1 ? "s" : "");
    else
        fprintf(stderr, "task %s with %d classes\n", m->task, m->classes);
}

/* Program and optimizer of the current stage. What is trained differs between stages, so the flags
 * are set anew by building. */
static enum pk_status build_stage(struct finetune *f, struct pk_err *err)
{
    char path[128];
    const struct pk_recipe *r = f->t.recipe;
    pk_bound_free(&f->bound);
    pk_prog_free(&f->prog);
    for (int64_t i = 0; i < f->t.params.count; i++) f->t.params.item[i].trained = false;
    f->model.frozen = pk_recipe_bool(r, stage_key(path, f->stage, "freeze_encoder"));
    f->model.encoder.vit.dropout = (float)pk_recipe_f64(r, stage_key(path, f->stage, "dropout"));
    PK_TRY(pk_classifier_build(&f->prog, &f->t.params, &f->model, f->micro, true, err));
    struct pk_optim_spec spec = pk_recipe_optimizer(r, stage_key(path, f->stage, "optimizer"));
    if (!f->t.exec.weight) PK_TRY(pk_trainer_arenas(&f->t, false, err));
    PK_TRY(pk_exec_optim(&f->t.exec, &spec, err));
    return pk_exec_bind(&f->t.exec, &f->bound, &f->prog, err);
}

static uint64_t hash_encoder(const struct finetune *f)
{
    uint64_t h = 0;
    for (int64_t i = 0; i < f->t.params.count; i++) {
        const struct pk_param *q = &f->t.params.item[i];
        if (!strncmp(q->name, "encoder.", 8))
            h = pk_hash64(f->t.exec.weight + q->offset, (size_t)q->count * sizeof(float), h);
    }
    return h;
}

/* Everything up to the first step. file: of init_from, or NULL. */
static enum pk_status prepare_from(struct finetune *f, const struct pk_model_file *file,
                                   struct pk_err *err)
{
    const struct pk_recipe *r = f->t.recipe;
    f->batch = pk_recipe_i64(r, "train.batch_size");
    f->eval.window = (int32_t)lround(pk_recipe_f64(r, "evaluation.window") * f->in.data.rate);
    f->eval.stride = (int32_t)lround(pk_recipe_f64(r, "evaluation.stride") * f->in.data.rate);
    f->eval.max_sigmoid = !strcmp(pk_recipe_str(r, "evaluation.aggregation"), "max_sigmoid");
    if (f->eval.window != f->in.shape.samples)
        return pk_fail(err, PK_ERECIPE, "%s: the window must be as long as data.crop",
                       pk_recipe_origin(r, "evaluation.window"));
    PK_TRY(pk_goal_prepare(&f->goal, &f->model, f->batch, err));
    PK_TRY(pk_trainer_micro(&f->t, f->batch, pk_encoder_tokens(&f->model.signal, &f->model.encoder),
                            &f->model.encoder, &f->micro, err));
    PK_TRY(pk_trainer_precision(&f->t, err));
    PK_TRY(pk_trainer_share_out(&f->t, f->batch / f->micro, f->micro, false, &f->micros, err));
    PK_TRY(build_stage(f, err));
    f->eval.comm = f->t.comm;
    f->eval.heartbeat = f->t.heartbeat;
    PK_TRY(pk_evaluator_open(&f->eval, &f->t.exec, &f->t.params, &f->model, err));
    size_t n = (size_t)f->t.params.elements;
    PK_TRY(pk_alloc_aligned(&f->t.best, n, sizeof(float), "best weights", err));
    pk_params_init(&f->t.params, (uint64_t)pk_recipe_i64(r, "seed"), f->t.exec.weight);
    if (file) PK_TRY(pk_model_read(file, &f->t.params, "encoder.", f->t.exec.weight, err));
    PK_TRY(pk_exec_push(&f->t.exec, err));
    return pk_alloc(&f->start, (size_t)f->batch, sizeof *f->start, "crop starts", err);
}

/* own: the folder of a run that goes on from a checkpoint, else NULL. */
static enum pk_status prepare(struct finetune *f, const char *own, struct pk_err *err)
{
    struct pk_model_file file;
    bool has_file = false;
    PK_TRY(configure(f, own, &file, &has_file, err));
    enum pk_status s = prepare_from(f, has_file ? &file : NULL, err);
    if (has_file) pk_model_close(&file);
    return s;
}

static double rate_at(const struct finetune *f, int64_t stage_step)
{
    char path[128];
    struct pk_schedule s = pk_recipe_rate(f->t.recipe, stage_key(path, f->stage, "learning_rate"),
                                          stage_i64(f, "steps"));
    return pk_schedule_at(&s, stage_step);
}

static double decay_at(const struct finetune *f, int64_t stage_step)
{
    char path[128];
    struct pk_schedule s = pk_recipe_decay(f->t.recipe, stage_key(path, f->stage, "weight_decay"),
                                           stage_i64(f, "steps"));
    return pk_schedule_at(&s, stage_step);
}

static enum pk_status train_step(struct finetune *f, const struct pk_batch *b, struct pk_err *err)
{
    struct pk_feed feed[PK_BATCH_FEEDS + 1];
    pk_batch_feed(feed, b, 0, f->micro, f->start);
    feed[PK_BATCH_FEEDS] = f->goal.kind->feed(&f->goal, b, f->step, f->micro);
    struct pk_exec_batch run = {.feed = feed,
                                .feeds = (int)PK_COUNT(feed),
                                .cut = pk_batch_cut(&f->t, b, 0),
                                .micros = f->micros,
                                .loss_scale = 1.0 / (double)(f->micros * pk_trainer_ranks(&f->t))};
    PK_TRY(pk_exec_run(&f->t.exec, &f->bound, &run, err));
    struct pk_optim_step s = {.step = f->stage_step,
                              .learning_rate = rate_at(f, f->stage_step),
                              .weight_decay = decay_at(f, f->stage_step)};
    char path[128];
    s.beta1 = pk_recipe_beta1(f->t.recipe, stage_key(path, f->stage, "learning_rate"),
                              stage_i64(f, "steps"), f->stage_step);
    pk_heartbeat_at(f->t.heartbeat, f->step, "the gradient sum");
    return pk_exec_update(&f->t.exec, &s, err);
}

/* Books the steps that are over, all but `lag` of them. */
static enum pk_status take_results(struct finetune *f, int lag, struct pk_err *err)
{
    struct pk_exec_result r;
    bool have = true;
    for (;;) {
        PK_TRY(pk_exec_result(&f->t.exec, lag, &r, &have, err));
        if (!have) return PK_OK;
        f->norm = r.norm;
        if (r.taken) {
            f->t.skipped = 0;
            f->loss_sum += r.loss;
            f->loss_count++;
            continue;
        }
        int64_t step = f->step - f->stage_step + r.step; // r.step is of the stage
        *err = r.why;
        PK_TRY(pk_trainer_diverged(&f->t, step, f->lent[step % 2], f->goal.labels, err));
    }
}

static enum pk_status validate(struct finetune *f, struct pk_err *err)
{
    const struct pk_goal_kind *kind = f->goal.kind;
    double metric, loss = f->loss_count ? f->loss_sum / (double)f->loss_count : NAN;
    char name[64], best[64];
    PK_TRY(kind->validate(&f->goal, &f->eval, &metric, err));
    if (!isnan(metric) && (f->best_step < 0 || pk_goal_better(&f->goal, metric, f->best_score))) {
        f->best_score = metric;
        f->best_step = f->stage_step;
        PK_TRY(pk_exec_pull(&f->t.exec, err));
        memcpy(f->t.best, f->t.exec.weight, (size_t)f->t.params.elements * sizeof(float));
    }
    snprintf(name, sizeof name, "validation/%s", kind->metric);
    snprintf(best, sizeof best, "validation/best_%s", kind->metric);
    double interval = fmax(f->since, 1e-9);
    double rate = rate_at(f, f->stage_step - 1), waited = f->waited / interval;
    struct pk_scalar scalar[] = {{"train/loss", loss},
                                 {"train/learning_rate", rate},
                                 {"train/weight_decay", decay_at(f, f->stage_step - 1)},
                                 {"train/grad_norm", f->norm},
                                 {name, metric},
                                 {best, f->best_score},
                                 {"train/stage", (double)f->stage},
                                 {"speed/records_per_s", (double)(f->timed * f->batch) / interval},
                                 {"speed/data_wait", waited},
                                 {"speed/peak_memory", pk_peak_memory()},
                                 {"speed/seconds", pk_seconds() - f->t.started}};
    PK_TRY(pk_trainer_metrics(&f->t, f->step, "validation", scalar, (int)PK_COUNT(scalar), err));
    struct pk_progress_field field[] = {
        {"stage", (double)f->stage, PK_FORMAT_COUNT}, {"loss", loss, PK_FORMAT_GENERAL},
        {"lr", rate, PK_FORMAT_SCIENTIFIC},           {"grad", f->norm, PK_FORMAT_GENERAL},
        {"val", metric, PK_FORMAT_GENERAL},           {"best", f->best_score, PK_FORMAT_GENERAL},
        {"wait", waited, PK_FORMAT_PERCENT}};
    pk_progress_update(&f->t.progress, f->step, pk_seconds(), field, (int)PK_COUNT(field));
    f->loss_sum = 0;
    f->loss_count = f->timed = 0;
    f->waited = f->since = 0;
    return PK_OK;
}

static enum pk_status check_frozen(struct finetune *f, struct pk_err *err)
{
    if (f->model.frozen && hash_encoder(f) != f->frozen_hash)
        return pk_fail(err, PK_EINTERNAL, "the frozen encoder has changed in stage %lld",
                       (long long)f->stage);
    return PK_OK;
}

static enum pk_status run_stage(struct finetune *f, struct pk_err *err)
{
    const struct pk_recipe *r = f->t.recipe;
    int64_t steps = stage_i64(f, "steps"), patience = stage_i64(f, "patience");
    int64_t every = pk_recipe_i64(r, "evaluation.every");
    f->frozen_hash = hash_encoder(f);
    while (f->stage_step < steps &&
           !(patience && f->best_step >= 0 && f->stage_step - f->best_step >= patience)) {
        const struct pk_batch *b;
        double waited, begun = pk_seconds();
        pk_heartbeat_at(f->t.heartbeat, f->step, "reading data");
        PK_TRY(pk_loader_get(f->loader, f->step, &b, &waited, err));
        f->lent[f->step % 2] = b;
        f->t.exec.vote = pk_trainer_vote(&f->t, f->step + 1);
        pk_heartbeat_at(f->t.heartbeat, f->step, "computing");
        PK_TRY(train_step(f, b, err));
        f->step++;
        f->stage_step++;
        const uint32_t votes = pk_trainer_votes(&f->t, f->step);
        const bool check = f->stage_step % every == 0 || f->stage_step == steps;
        const bool stop = votes & PK_VOTE_STOP, save = stop || (votes & PK_VOTE_SAVE);
        PK_TRY(take_results(f, check || save ? 0 : pk_exec_lag(&f->t.exec), err));
        f->timed++;
        f->waited += waited;
        f->since += pk_seconds() - begun;
        if (check) PK_TRY(validate(f, err));
        if (save || f->step % PK_REPLICA_CHECK == 0) PK_TRY(pk_trainer_replicas(&f->t, err));
        if (!(votes & PK_VOTE_WRITING)) PK_TRY(pk_trainer_settle(&f->t, err));
        if (save) pk_heartbeat_at(f->t.heartbeat, f->step, "writing a checkpoint");
        if (save) PK_TRY(pk_trainer_save(&f->t, f->step, put_state, f, err));
        if (stop) return pk_trainer_stopped(&f->t, f->step, err);
    }
    PK_TRY(pk_exec_pull(&f->t.exec, err)); // moments, and nothing is under way
    memcpy(f->t.exec.weight, f->t.best, (size_t)f->t.params.elements * sizeof(float));
    PK_TRY(pk_exec_push(&f->t.exec, err));
    return check_frozen(f, err);
}

static enum pk_status start_stage(struct finetune *f, struct pk_err *err)
{
    size_t bytes = (size_t)f->t.params.elements * sizeof(float);
    f->stage_step = 0;
    f->best_score = -1;
    f->best_step = -1;
    f->loss_sum = 0;
    f->loss_count = 0;
    memset(f->t.exec.m, 0, bytes);
    memset(f->t.exec.v, 0, bytes);
    memcpy(f->t.best, f->t.exec.weight, bytes);
    PK_TRY(pk_exec_push(&f->t.exec, err));
    return f->stage ? build_stage(f, err) : PK_OK;
}

static enum pk_status run_stages(struct finetune *f, struct pk_err *err)
{
    int64_t stages = pk_recipe_count(f->t.recipe, "stages");
    for (bool resumed = f->step > 0; f->stage < stages; f->stage++, resumed = false) {
        if (!resumed)
            PK_TRY(start_stage(f, err));
        else if (f->stage)
            PK_TRY(build_stage(f, err));
        PK_TRY(run_stage(f, err));
        pk_run_log(&f->t.run, "stage %lld: best %s %.4f at step %lld", (long long)f->stage,
                   f->goal.kind->text, f->best_score, (long long)f->best_step);
    }
    return PK_OK;
}

/* Scores a split with the final weights: result, and scores and labels for other tools. */
static enum pk_status report_split(struct finetune *f, const char *name, const struct pk_rows *rows,
                                   struct pk_json_writer *w, struct pk_err *err)
{
    const bool leads = pk_trainer_leads(&f->t);
    const struct pk_goal_report to = {leads, name, rows, f->t.run.dir, &f->t.info, w};
    if (rows->count) return f->goal.kind->report(&f->goal, &f->eval, &to, err);
    if (leads)
        fprintf(stderr,
                "warning: no labelled record is in the %s folds, so there is no %s result\n", name,
                name);
    return PK_OK;
}

static void put_folds(struct pk_json_writer *w, const struct pk_recipe *r, const char *path)
{
    pk_json_open(w, strrchr(path, '.') + 1, '[');
    for (int64_t i = 0; i < pk_recipe_count(r, path); i++)
        pk_json_put_i64(w, NULL, (int64_t)pk_recipe_item_f64(r, path, i));
    pk_json_close(w);
}

static void put_protocol(struct pk_json_writer *w, const struct finetune *f)
{
    const struct pk_recipe *r = f->t.recipe;
    pk_json_open(w, "protocol", '{');
    pk_json_put_string(w, "recipe", pk_recipe_str(r, "name"));
    pk_json_put_string(w, "data", f->in.data.version);
    pk_json_put_f64(w, "rate_hz", f->in.data.rate);
    f->goal.kind->put_protocol(&f->goal, w);
    pk_json_open(w, "folds", '{');
    put_folds(w, r, "data.folds.train");
    put_folds(w, r, "data.folds.validation");
    put_folds(w, r, "data.folds.test");
    pk_json_close(w);
    pk_json_put_i64(w, "train_rows", f->in.train.count);
    pk_json_put_string(w, "statistics", pk_recipe_str(r, "data.statistics"));
    pk_json_put_f64(w, "window_s", f->t.info.window);
    pk_json_put_f64(w, "stride_s", f->t.info.stride);
    pk_json_put_string(w, "aggregation", f->t.info.aggregation);
    pk_json_put_string(w, "head", f->t.info.head);
    pk_json_put_string(w, "init_from", pk_recipe_str(r, "init_from"));
    pk_json_put_string(w, "weights", pk_recipe_str(r, "weights"));
    pk_json_put_i64(w, "seed", pk_recipe_i64(r, "seed"));
    pk_json_put_string(w, "selection", f->goal.kind->selection);
    pk_json_put_i64(w, "selected_stage", pk_recipe_count(r, "stages") - 1);
    pk_json_put_i64(w, "selected_step", f->best_step);
    pk_json_put_i64(w, "steps", f->step);
    pk_json_close(w);
}

static enum pk_status report(struct finetune *f, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    pk_json_open(&w, NULL, '{');
    put_protocol(&w, f);
    enum pk_status s = report_split(f, "validation", &f->in.validation, &w, err);
    if (s == PK_OK && pk_recipe_bool(f->t.recipe, "evaluation.test"))
        s = report_split(f, "test", &f->in.test, &w, err);
    pk_json_close(&w);
    if (s == PK_OK && text.failed) s = pk_fail(err, PK_ENOMEM, "out of memory: results");
    if (s == PK_OK && pk_trainer_leads(&f->t)) {
        s = pk_path(path, err, "%s/result.json", f->t.run.dir);
        if (s == PK_OK) s = pk_write_file(path, text.s, text.len, err);
    }
    pk_text_free(&text);
    return s;
}

/* What every rank does for itself. own: see prepare. */
static enum pk_status prepare_rank(struct finetune *f, const char *own, struct pk_err *err)
{
    PK_TRY(pk_inputs_open(&f->in, f->t.recipe, f->t.quiet, err));
    PK_TRY(prepare(f, own, err));
    PK_TRY(pk_trainer_resident(&f->t, &f->in.data, err));
    f->in.rank = pk_trainer_rank(&f->t);
    f->in.ranks = pk_trainer_ranks(&f->t);
    PK_TRY(pk_inputs_loader(&f->loader, &f->in, f->t.recipe, f->batch, f->in.task, PK_PAIR_NONE,
                            f->t.resident.memory != NULL, err));
    PK_TRY(pk_trainer_pin(&f->t, f->loader, err));
    describe(f);
    return PK_OK;
}

/* Rank 0: the run's folder. A new run's is touched only now that nothing of the recipe can be
 * refused any more. */
static enum pk_status begin(struct finetune *f, const struct pk_training_options *o,
                            struct pk_err *err)
{
    const bool resume = o->mode == PK_RUN_RESUME;
    if (resume)
        PK_TRY(load_state(f, err));
    else
        PK_TRY(pk_trainer_open_run(&f->t, o->mode, o->argc, o->argv, err));
    return pk_trainer_open_events(&f->t, resume ? f->step : -1, err);
}

/* All ranks go on from where rank 0 stands. */
static enum pk_status share_state(struct finetune *f, struct pk_err *err)
{
    struct {
        int64_t stage, stage_step, step, best_step, loss_count;
        double best_score, loss_sum;
    } s = {f->stage,      f->stage_step, f->step,    f->best_step,
           f->loss_count, f->best_score, f->loss_sum};
    if (!f->t.comm) return PK_OK;
    PK_TRY(pk_trainer_share(&f->t, err));
    PK_TRY(pk_comm_broadcast(f->t.comm, 0, &s, sizeof s, err));
    f->stage = s.stage;
    f->stage_step = s.stage_step;
    f->step = s.step;
    f->best_step = s.best_step;
    f->loss_count = s.loss_count;
    f->best_score = s.best_score;
    f->loss_sum = s.loss_sum;
    return PK_OK;
}

static enum pk_status start(struct finetune *f, const struct pk_training_options *o,
                            struct pk_err *err)
{
    char dir[PK_PATH_MAX], path[128];
    const struct pk_recipe *r = f->t.recipe;
    const bool resume = o->mode == PK_RUN_RESUME;
    int64_t total = 0;
    /* First, so that a signal during a long preparation leaves a run that can be resumed. */
    PK_TRY(pk_stop_install(err));
    PK_TRY(pk_trainer_join(&f->t, o->comm, err));
    const bool leads = pk_trainer_leads(&f->t);
    enum pk_status s = pk_recipe_path(r, "output.dir", dir, err);
    if (s == PK_OK && leads)
        s = resume ? pk_trainer_open_run(&f->t, o->mode, o->argc, o->argv, err)
                   : pk_run_check(dir, o->mode, err);
    PK_TRY(pk_trainer_together(&f->t, s, err));
    uint8_t own = resume && leads && pk_trainer_has_checkpoint(dir);
    if (f->t.comm) PK_TRY(pk_comm_broadcast(f->t.comm, 0, &own, sizeof own, err));
    PK_TRY(pk_trainer_together(&f->t, prepare_rank(f, own ? dir : NULL, err), err));
    PK_TRY(pk_trainer_connect(&f->t, err));
    PK_TRY(pk_trainer_together(&f->t, leads ? begin(f, o, err) : PK_OK, err));
    PK_TRY(share_state(f, err));
    for (int64_t i = 0; i < pk_recipe_count(r, "stages"); i++)
        total += pk_recipe_i64(r, stage_key(path, i, "steps"));
    f->t.started = f->t.last_checkpoint = pk_seconds();
    pk_progress_begin(&f->t.progress, stderr, "finetune", f->step, total, 10, f->t.quiet,
                      pk_seconds());
    return PK_OK;
}

enum pk_status pk_finetune(const struct pk_recipe *r, const struct pk_training_options *o,
                           struct pk_err *err)
{
    struct finetune *f;
    PK_TRY(pk_alloc(&f, 1, sizeof *f, "training state", err));
    f->t.recipe = r;
    f->t.quiet = o->quiet;
    f->t.backend = o->backend;
    f->t.heartbeat = o->heartbeat;
    enum pk_status s = start(f, o, err);
    if (s == PK_OK) s = run_stages(f, err);
    pk_progress_end(&f->t.progress);
    if (s == PK_OK) s = pk_trainer_save(&f->t, f->step, put_state, f, err);
    if (s == PK_OK) s = report(f, err);
    /* What ends all ranks alike needs no word; any other failure ends the others' waiting. */
    if (f->t.comm && !f->t.agreed && s != PK_OK && s != PK_ESTOPPED && s != PK_EDIVERGED)
        pk_comm_abort(f->t.comm, err->message);
    s = pk_trainer_end(&f->t, s, f->step, err);
    pk_evaluator_close(&f->eval);
    pk_bound_free(&f->bound);
    pk_prog_free(&f->prog);
    free(f->start);
    pk_goal_close(&f->goal);
    pk_trainer_free(&f->t);
    pk_loader_close(f->loader);
    pk_inputs_close(&f->in);
    free(f);
    return s;
}
