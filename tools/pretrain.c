/* pretrain.c -- the loop of pretraining (see training.h): data, logs and checkpoints around the
 * steps of tools/step.c. */
#include "core/stats.h"
#include "core/stop.h"
#include "tools/inputs.h"
#include "tools/step.h"
#include "tools/training.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct pretrain {
    struct pk_trainer t;
    struct pk_inputs in;
    struct pk_step s;
    struct pk_loader *loader;
    const struct pk_batch *batch[2]; // lent by the loader, by step % 2
    double loss_sum, norm;           // norm: of the last gradient
    int64_t loss_count;              // steps that loss_sum adds up, since the last line of the log
    int64_t skipped;                 // steps not taken, in the whole run
    int64_t timed;                   // steps of this process in the interval
    double ceiling;       // FLOP/s of the GEMM library at these shapes, measured at the start
    double flops;         // of the steps before the interval
    double waited, since; // seconds of data wait, and of all, in the interval
};

static enum pk_status init_weights(struct pretrain *p, struct pk_err *err)
{
    struct pk_model_file file;
    const struct pk_recipe *r = p->t.recipe;
    size_t bytes = (size_t)p->t.params.elements * sizeof(float);
    pk_params_init(&p->t.params, (uint64_t)pk_recipe_i64(r, "seed"), p->t.exec.weight);
    if (*pk_recipe_str(r, "init_from")) {
        PK_TRY(pk_model_open_init(&file, r, err));
        enum pk_status s = pk_trainer_agrees(&file.info, r, err);
        const struct pk_encoder *from = &file.info.encoder, *to = &p->s.encoder;
        if (s == PK_OK && (from->kind != to->kind || from->vit.tokenise != to->vit.tokenise))
            s = pk_fail(err, PK_ERECIPE,
                        "%s: that encoder is %s with tokens of the kind '%s', this recipe's %s "
                        "with '%s'",
                        pk_recipe_origin(r, "init_from"), pk_encoder_name(from->kind),
                        pk_tokenise_name(from->vit.tokenise), pk_encoder_name(to->kind),
                        pk_tokenise_name(to->vit.tokenise));
        if (s == PK_OK) s = pk_model_read(&file, &p->t.params, "encoder.", p->t.exec.weight, err);
        pk_model_close(&file);
        PK_TRY(s);
    }
    if (p->t.exec.ema) memcpy(p->t.exec.ema, p->t.exec.weight, bytes);
    return pk_exec_push(&p->t.exec, err);
}

static enum pk_status log_interval(struct pretrain *p, int64_t step, double seconds,
                                   struct pk_err *err)
{
    struct pk_embedding_stats e;
    int64_t width = p->s.encoder.width, rows = PK_MIN(p->s.batch / p->s.parts, 4 * width);
    PK_TRY(pk_embedding_stats(&e, p->s.embedding, rows, width, err));
    const bool ema = p->s.ema, targets = p->s.objective->moments, pairs = p->s.objective->coupled;
    struct pk_pair_stats pair = {0, 0};
    if (pairs) PK_TRY(pk_step_pairs(&p->s, &pair, err));
    double variance = targets ? pk_step_target_variance(&p->s) : 0, interval = fmax(p->since, 1e-9);
    double loss = p->loss_count ? p->loss_sum / (double)p->loss_count : NAN;
    double rate = pk_schedule_at(&p->s.rate, step - 1);
    double decay = pk_schedule_at(&p->s.decay, step - 1);
    double momentum = ema ? pk_schedule_at(&p->s.momentum, step - 1) : 0;
    double records = (double)(p->timed * p->s.batch) / interval, waited = p->waited / interval;
    double memory = pk_peak_memory(), mfu = (p->s.flops - p->flops) / interval / p->ceiling;
    const struct {
        bool there;
        struct pk_scalar scalar;
    } all[] = {{true, {"train/loss", loss}},
               {true, {"train/learning_rate", rate}},
               {true, {"train/weight_decay", decay}},
               {ema, {"train/ema_momentum", momentum}},
               {true, {"train/grad_norm", p->norm}},
               {true, {"embedding/embedding_std", e.mean_std}},
               {true, {"embedding/effective_rank", e.effective_rank}},
               {targets, {"embedding/target_variance", variance}},
               {pairs, {"embedding/alignment", pair.alignment}},
               {pairs, {"embedding/uniformity", pair.uniformity}},
               {true, {"speed/records_per_s", records}},
               {true, {"speed/data_wait", waited}},
               {true, {"speed/peak_memory", memory}},
               {true, {"speed/seconds", seconds}},
               {true, {"train/skipped", (double)p->skipped}},
               {true, {"speed/mfu", mfu}}};
    struct pk_scalar scalar[PK_COUNT(all)];
    int scalars = 0;
    for (size_t i = 0; i < PK_COUNT(all); i++)
        if (all[i].there) scalar[scalars++] = all[i].scalar;
    PK_TRY(pk_trainer_metrics(&p->t, step, "train", scalar, scalars, err));
    if (targets && (variance < 1e-4 || e.effective_rank < 2))
        pk_progress_print(&p->t.progress,
                          "warning: the encoder collapses: target variance %.2g, effective rank "
                          "%.1f of %lld; lower the learning rate or raise the EMA momentum",
                          variance, e.effective_rank, (long long)width);
    if (pairs && e.effective_rank < 2)
        pk_progress_print(&p->t.progress,
                          "warning: the encoder collapses: effective rank %.1f of %lld; lower the "
                          "learning rate, or take larger batches",
                          e.effective_rank, (long long)width);
    struct pk_progress_field field[14];
    int fields = 0;
    const struct {
        bool there;
        struct pk_progress_field field;
    } shown[] = {{true, {"loss", loss, PK_FORMAT_GENERAL}},
                 {true, {"lr", rate, PK_FORMAT_SCIENTIFIC}},
                 {true, {"wd", decay, PK_FORMAT_GENERAL}},
                 {ema, {"ema", momentum, PK_FORMAT_GENERAL}},
                 {true, {"grad", p->norm, PK_FORMAT_GENERAL}},
                 {true, {"std", e.mean_std, PK_FORMAT_GENERAL}},
                 {true, {"rank", e.effective_rank, PK_FORMAT_GENERAL}},
                 {targets, {"tvar", variance, PK_FORMAT_GENERAL}},
                 {pairs, {"align", pair.alignment, PK_FORMAT_GENERAL}},
                 {pairs, {"unif", pair.uniformity, PK_FORMAT_GENERAL}},
                 {true, {"rec/s", records, PK_FORMAT_GENERAL}},
                 {true, {"mfu", mfu, PK_FORMAT_PERCENT}},
                 {true, {"wait", waited, PK_FORMAT_PERCENT}},
                 {true, {"mem", memory, PK_FORMAT_BYTES}}};
    for (size_t i = 0; i < PK_COUNT(shown); i++)
        if (shown[i].there) field[fields++] = shown[i].field;
    pk_progress_update(&p->t.progress, step, pk_seconds(), field, fields);
    return PK_OK;
}

/* Rank 0 logs; the others hand it what they know. All begin a new interval. */
static enum pk_status end_interval(struct pretrain *p, int64_t step, struct pk_err *err)
{
    PK_TRY(pk_step_gather(&p->s, err));
    if (pk_trainer_leads(&p->t)) PK_TRY(log_interval(p, step, pk_seconds() - p->t.started, err));
    p->loss_sum = 0;
    p->loss_count = p->timed = 0;
    p->flops = p->s.flops;
    p->waited = 0;
    p->since = 0;
    return PK_OK;
}

/* What a resumed run needs so that its next line of the log is the one it would have been. */
static void put_state(struct pk_json_writer *w, void *ctx)
{
    const struct pretrain *p = ctx;
    pk_json_put_f64(w, "loss_sum", p->loss_sum);
    pk_json_put_i64(w, "loss_count", p->loss_count);
    pk_json_put_i64(w, "skipped", p->skipped);
}

/* Rank 0 only; share_state brings it to the others. */
static enum pk_status load_state(struct pretrain *p, int64_t *step, struct pk_err *err)
{
    struct pk_json state;
    PK_TRY(pk_trainer_load(&p->t, step, &state, err));
    p->loss_sum = pk_json_f64(&state, "loss_sum", 0);
    p->loss_count = pk_json_i64(&state, "loss_count", 0);
    p->skipped = pk_json_i64(&state, "skipped", 0);
    pk_json_free(&state);
    return PK_OK;
}

/* All ranks go on from where rank 0 stands. */
static enum pk_status share_state(struct pretrain *p, int64_t *step, struct pk_err *err)
{
    struct {
        int64_t step, loss_count, skipped;
        double loss_sum;
    } s = {*step, p->loss_count, p->skipped, p->loss_sum};
    if (!p->t.comm) return PK_OK;
    PK_TRY(pk_trainer_share(&p->t, err));
    PK_TRY(pk_comm_broadcast(p->t.comm, 0, &s, sizeof s, err));
    *step = s.step;
    p->loss_count = s.loss_count;
    p->skipped = s.skipped;
    p->loss_sum = s.loss_sum;
    return PK_OK;
}

/* Books the steps that are over, all but `lag` of them. After an error *step is the one that
 * failed. */
static enum pk_status take_results(struct pretrain *p, int lag, int64_t *step, struct pk_err *err)
{
    struct pk_exec_result r;
    bool have = true;
    for (;;) {
        PK_TRY(pk_exec_result(&p->t.exec, lag, &r, &have, err));
        if (!have) return PK_OK;
        p->norm = r.norm;
        if (r.taken) {
            p->t.skipped = 0;
            p->loss_sum += r.loss;
            p->loss_count++;
            continue;
        }
        *err = r.why;
        enum pk_status s = pk_trainer_diverged(&p->t, r.step, p->batch[r.step % 2], 0, err);
        if (s != PK_OK) *step = r.step;
        PK_TRY(s);
        p->skipped++;
    }
}

static enum pk_status loop(struct pretrain *p, int64_t *step, struct pk_err *err)
{
    int64_t every = pk_recipe_i64(p->t.recipe, "train.log_every");
    p->t.last_checkpoint = p->t.started = pk_seconds();
    while (*step < p->s.steps) {
        const struct pk_batch *b;
        double waited, begun = pk_seconds();
        pk_heartbeat_at(p->t.heartbeat, *step, "reading data");
        PK_TRY(pk_loader_get(p->loader, *step, &b, &waited, err));
        p->batch[*step % 2] = b;
        bool last = *step + 1 == p->s.steps, log = (*step + 1) % every == 0 || last;
        p->t.exec.vote = pk_trainer_vote(&p->t, *step + 1);
        pk_heartbeat_at(p->t.heartbeat, *step, "computing");
        PK_TRY(pk_step_run(&p->s, *step, p->s.objective->keep(&p->s.model, *step), b, log, err));
        ++*step;
        const uint32_t votes = pk_trainer_votes(&p->t, *step);
        const bool stop = (votes & PK_VOTE_STOP) && !last;
        const bool save = stop || last || (votes & PK_VOTE_SAVE);
        PK_TRY(take_results(p, log || save ? 0 : pk_exec_lag(&p->t.exec), step, err));
        p->timed++;
        p->waited += waited;
        p->since += pk_seconds() - begun;
        if (log) PK_TRY(end_interval(p, *step, err));
        if (save || *step % PK_REPLICA_CHECK == 0) PK_TRY(pk_trainer_replicas(&p->t, err));
        if (!(votes & PK_VOTE_WRITING)) PK_TRY(pk_trainer_settle(&p->t, err));
        if (save) pk_heartbeat_at(p->t.heartbeat, *step, "writing a checkpoint");
        if (save) PK_TRY(pk_trainer_save(&p->t, *step, put_state, p, err));
        if (stop) return pk_trainer_stopped(&p->t, *step, err);
    }
    return PK_OK;
}

static void describe(struct pretrain *p)
{
    const struct pk_objective *o = p->s.objective;
    char encoder[96], partner[96];
    pk_encoder_describe(&p->s.encoder, encoder);
    o->describe(&p->s.model, partner);
    const int64_t all = pk_params_total(&p->t.params, "");
    const int64_t own = pk_params_total(&p->t.params, "encoder.");
    snprintf(p->t.info.objective, sizeof p->t.info.objective, "%s", o->kind);
    p->t.info.encoder = p->s.encoder;
    pk_model_info_input(&p->t.info, &p->s.model.signal, &p->in);
    if (p->t.quiet) return;
    struct pk_text where = {0};
    if (p->t.comm) pk_text_add(&where, "each of %d ranks, ", pk_trainer_ranks(&p->t));
    pk_exec_describe(&p->t.exec, &where);
    fprintf(stderr,
            "model: %s, %lld parameters (+ %lld %s: %s); %d tokens of %d samples\n"
            "batch: %lld records, micro-batches of %lld on %s\n",
            encoder, (long long)own, (long long)(all - own), o->partner, partner,
            p->s.model.signal.tokens, p->s.model.signal.patch, (long long)p->s.batch,
            (long long)p->s.micro, where.s ? where.s : "");
    pk_text_free(&where);
}

/* What every rank does for itself: data, model, arenas, loader. */
static enum pk_status prepare(struct pretrain *p, struct pk_err *err)
{
    PK_TRY(pk_inputs_open(&p->in, p->t.recipe, p->t.quiet, err));
    PK_TRY(pk_step_create(&p->s, &p->t, &p->in.shape, err));
    PK_TRY(pk_step_ceiling(&p->s, p->s.objective->keep_max(&p->s.model), 0.1, &p->ceiling, err));
    PK_TRY(pk_trainer_resident(&p->t, &p->in.data, err));
    p->in.rank = pk_trainer_rank(&p->t);
    p->in.ranks = pk_trainer_ranks(&p->t);
    p->in.parts = p->s.parts;
    PK_TRY(pk_inputs_loader(&p->loader, &p->in, p->t.recipe, p->s.batch, NULL,
                            p->s.objective->pairs(p->t.recipe), p->t.resident.memory != NULL, err));
    PK_TRY(pk_trainer_pin(&p->t, p->loader, err));
    describe(p);
    return PK_OK;
}

/* Rank 0: weights, from a checkpoint or new ones, and the run's folder. A new run's is touched only
 * now that nothing of the recipe can be refused any more. */
static enum pk_status begin(struct pretrain *p, const struct pk_training_options *o,
                            const char *dir, int64_t *step, struct pk_err *err)
{
    const bool resume = o->mode == PK_RUN_RESUME;
    if (!resume || !pk_trainer_has_checkpoint(dir)) PK_TRY(init_weights(p, err));
    if (resume)
        PK_TRY(load_state(p, step, err));
    else
        PK_TRY(pk_trainer_open_run(&p->t, o->mode, o->argc, o->argv, err));
    PK_TRY(pk_trainer_open_events(&p->t, resume ? *step : -1, err));
    if (resume && *step == p->s.steps && !o->quiet)
        fprintf(stderr, "the run is complete: step %lld of %lld; train.steps=N makes it longer\n",
                (long long)*step, (long long)p->s.steps);
    pk_run_log(&p->t.run, "training from step %lld to %lld on %d rank%s", (long long)*step,
               (long long)p->s.steps, pk_trainer_ranks(&p->t), p->t.comm ? "s" : "");
    return PK_OK;
}

static enum pk_status start(struct pretrain *p, const struct pk_training_options *o, int64_t *step,
                            struct pk_err *err)
{
    char dir[PK_PATH_MAX];
    const bool leads = !o->comm || o->comm->rank == 0;
    /* First, so that a signal during a long preparation leaves a run that can be resumed. */
    PK_TRY(pk_stop_install(err));
    PK_TRY(pk_trainer_join(&p->t, o->comm, err));
    enum pk_status s = pk_recipe_path(p->t.recipe, "output.dir", dir, err);
    if (s == PK_OK && leads)
        s = o->mode == PK_RUN_RESUME ? pk_trainer_open_run(&p->t, o->mode, o->argc, o->argv, err)
                                     : pk_run_check(dir, o->mode, err);
    PK_TRY(pk_trainer_together(&p->t, s, err));
    PK_TRY(pk_trainer_together(&p->t, prepare(p, err), err));
    PK_TRY(pk_trainer_connect(&p->t, err));
    PK_TRY(pk_trainer_together(&p->t, leads ? begin(p, o, dir, step, err) : PK_OK, err));
    PK_TRY(share_state(p, step, err));
    pk_progress_begin(&p->t.progress, stderr, "pretrain", *step, p->s.steps, 10, p->t.quiet,
                      pk_seconds());
    return PK_OK;
}

enum pk_status pk_pretrain(const struct pk_recipe *r, const struct pk_training_options *o,
                           struct pk_err *err)
{
    struct pretrain *p;
    int64_t step = 0;
    PK_TRY(pk_alloc(&p, 1, sizeof *p, "training state", err));
    p->t.recipe = r;
    p->t.quiet = o->quiet;
    p->t.backend = o->backend;
    p->t.heartbeat = o->heartbeat;
    enum pk_status s = start(p, o, &step, err);
    if (s == PK_OK) s = loop(p, &step, err);
    /* What ends all ranks alike needs no word; any other failure ends the others' waiting. */
    if (p->t.comm && !p->t.agreed && s != PK_OK && s != PK_ESTOPPED && s != PK_EDIVERGED)
        pk_comm_abort(p->t.comm, err->message);
    pk_progress_end(&p->t.progress);
    s = pk_trainer_end(&p->t, s, step, err);
    pk_step_free(&p->s);
    pk_trainer_free(&p->t);
    pk_loader_close(p->loader);
    pk_inputs_close(&p->in);
    free(p);
    return s;
}
