/* trainer.c -- arenas, ranks and logs of a training run (see trainer.h). */
#include "tools/trainer_checkpoint.h"
#include "core/loader.h"
#include "core/sink.h"
#include "core/stop.h"
#include "tools/device.h"
#include "tools/training_settings.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* --- ranks --------------------------------------------------------------------------------- */

enum pk_status pk_trainer_join(struct pk_trainer *t, struct pk_comm *comm, struct pk_err *err)
{
    uint64_t program = 0;
    int64_t bytes;
    if (!comm || comm->size == 1) return PK_OK;
    t->comm = comm;
    if (comm->rank) {
        t->run.lock_fd = t->run.metrics_fd = t->run.log_fd = -1;
        t->quiet = true;
    }
    enum pk_status s = pk_xxh64_file("/proc/self/exe", &program, &bytes, err);
    PK_TRY(pk_comm_agree(comm, s, err));
    PK_TRY(pk_comm_same(comm, program, "program (the file of purkinje " PK_VERSION ")", err));
    PK_TRY(pk_device_alike(t->backend, comm, err));
    return pk_comm_same(comm, pk_recipe_hash(t->recipe), "recipe", err);
}

enum pk_status pk_trainer_together(struct pk_trainer *t, enum pk_status s, struct pk_err *err)
{
    if (t->comm) s = pk_comm_agree(t->comm, s, err);
    t->agreed = t->comm && s != PK_OK;
    return s;
}

enum pk_status pk_trainer_micro(const struct pk_trainer *t, int64_t batch, int32_t tokens,
                                const struct pk_encoder *encoder, int64_t *micro,
                                struct pk_err *err)
{
    const bool whole = t->backend || pk_recipe_bool(t->recipe, "train.sync_norm");
    const int64_t ranks = whole ? pk_trainer_ranks(t) : 1; // else CPUs share out the micro-batches
    if (batch % ranks)
        return pk_fail(err, PK_ERECIPE,
                       "%s: train.batch_size is %lld records, which cannot be shared out to %lld "
                       "ranks%s\nhelp: choose a number of ranks that divides it",
                       pk_recipe_origin(t->recipe, "train.batch_size"), (long long)batch,
                       (long long)ranks, t->backend ? " on GPUs" : "");
    return pk_micro_batch(t->recipe, batch / ranks, tokens, encoder, t->backend != NULL, micro,
                          err);
}

enum pk_status pk_trainer_connect(struct pk_trainer *t, struct pk_err *err)
{
    struct pk_text where = {0};
    const enum pk_status s = pk_exec_connect(&t->exec, &where, err);
    if (s == PK_OK && where.s && !t->quiet) fputs(where.s, stderr);
    pk_text_free(&where);
    return pk_trainer_together(t, s, err);
}

enum pk_status pk_trainer_share_out(const struct pk_trainer *t, int64_t micros, int64_t micro,
                                    bool pairs, int64_t *mine, struct pk_err *err)
{
    const int64_t ranks = pk_trainer_ranks(t), parts = pk_recipe_i64(t->recipe, "train.accumulate");
    *mine = micros / ranks;
    if (pk_recipe_bool(t->recipe, "train.sync_norm") && micros != ranks)
        return pk_fail(
            err, PK_ERECIPE,
            "%s: train.sync_norm takes statistics over what all ranks compute at the same time, so "
            "each must compute one micro-batch, and not %.4g of %lld records\n"
            "help: leave train.micro_batch out; fine-tuning also needs train.accumulate=1",
            pk_recipe_origin(t->recipe, "train.sync_norm"), (double)micros / (double)ranks,
            (long long)micro);
    const bool torn = pairs && ranks > 1 && *mine * micro % 2;
    if (micros % ranks == 0 && !torn) return PK_OK;
    return pk_fail(
        err, PK_ERECIPE,
        "%s: %s is %lld micro-batches of %lld records, which cannot be shared out to "
        "%lld ranks%s\nhelp: choose a number of ranks that divides it, a batch_size that "
        "is a multiple of %lld, or another train.micro_batch",
        pk_recipe_origin(t->recipe, "train.batch_size"),
        parts > 1 ? "train.batch_size / train.accumulate" : "train.batch_size", (long long)micros,
        (long long)micro, (long long)ranks, torn ? " in whole pairs" : "",
        (long long)(ranks * PK_SHARDS));
}

uint32_t pk_trainer_vote(const struct pk_trainer *t, int64_t step)
{
    const bool save = pk_trainer_leads(t) && pk_trainer_due(t, step);
    return (pk_stop_requested() ? PK_VOTE_STOP : 0) | (save ? PK_VOTE_SAVE : 0) |
           (pk_trainer_writing(t) ? PK_VOTE_WRITING : 0);
}

uint32_t pk_trainer_votes(const struct pk_trainer *t, int64_t step)
{
    return t->comm ? t->exec.votes : pk_trainer_vote(t, step);
}

enum pk_status pk_trainer_replicas(struct pk_trainer *t, struct pk_err *err)
{
    uint64_t hash;
    if (!t->comm) return PK_OK;
    PK_TRY(pk_exec_hash(&t->exec, &hash, err));
    return pk_comm_same(t->comm, hash,
                        t->backend ? "weights and moments (memory of the GPU or the CPU fails?)"
                                   : "weights and moments (memory or CPU fail?)",
                        err);
}

enum pk_status pk_trainer_precision(struct pk_trainer *t, struct pk_err *err)
{
    const char *precision = pk_recipe_str(t->recipe, "train.precision");
    bool bf16 = !strcmp(precision, "bf16") || (t->backend && !strcmp(precision, "auto"));
    t->params.storage = bf16 ? PK_BF16 : PK_F32;
    if (!bf16 || t->backend) return PK_OK;
    return pk_fail(err, PK_ERECIPE,
                   "%s: bf16 needs a GPU; the CPU computes in fp32\n"
                   "help: give train.precision=auto, or fp32",
                   pk_recipe_origin(t->recipe, "train.precision"));
}

/* A resumed run computes its products as before, if it can. */
static void load_choices(struct pk_trainer *t)
{
    char path[PK_PATH_MAX], *text = NULL;
    size_t n = 0;
    struct pk_err why = {0};
    if (!t->run_open || !t->backend ||
        pk_path(path, NULL, "%s/%s", t->run.dir, PK_TRAINER_CHOICES) != PK_OK || !pk_exists(path))
        return;
    enum pk_status s = pk_read_file(path, (size_t)4 << 20, &text, &n, &why);
    if (s == PK_OK) s = pk_exec_choose(&t->exec, text, n, &why);
    free(text);
    if (s == PK_OK) return;
    pk_run_log(&t->run, "note: products are timed anew, so bits may differ: %s", why.message);
    if (!t->quiet)
        fprintf(stderr, "note: products are timed anew, so bits may differ: %s\n", why.message);
}

/* Of gradients between GPUs; CPUs sum fp32. */
static enum pk_dtype wire_of(const struct pk_trainer *t)
{
    if (!t->comm || !t->backend) return PK_F32;
    return strcmp(pk_recipe_str(t->recipe, "train.wire"), "bf16") ? PK_F32 : PK_BF16;
}

enum pk_status pk_trainer_arenas(struct pk_trainer *t, bool ema, struct pk_err *err)
{
    struct pk_exec_spec spec = {.params = &t->params,
                                .threads = (int)pk_recipe_i64(t->recipe, "train.threads"),
                                .ema = ema,
                                .train = true,
                                .comm = t->comm,
                                .backend = t->backend,
                                .zero1 = pk_recipe_bool(t->recipe, "train.zero1"),
                                .sync_norm = pk_recipe_bool(t->recipe, "train.sync_norm"),
                                .wire = wire_of(t),
                                .skip_nan =
                                    !strcmp(pk_recipe_str(t->recipe, "train.on_nan"), "skip")};
    PK_TRY(pk_exec_create(&t->exec, &spec, err));
    load_choices(t);
    return PK_OK;
}

/* With auto as much again stays free, for programs that are bound later. */
enum pk_status pk_trainer_resident(struct pk_trainer *t, const struct pk_dataset *d,
                                   struct pk_err *err)
{
    enum { CHUNK = 64 };
    const char *want = pk_recipe_str(t->recipe, "data.on_gpu");
    struct pk_resident *r = &t->resident;
    *r = (struct pk_resident){.records = d->count, .leads = d->leads, .samples = d->samples};
    int64_t row = (int64_t)d->leads * d->samples, bytes = d->count * row * (int64_t)sizeof(int16_t);
    bool must = !strcmp(want, "yes");
    if (!t->backend || !strcmp(want, "no")) return PK_OK;
    if (!pk_exec_resident(&t->exec, r, must ? 0 : bytes))
        return must ? pk_fail(err, PK_EDEVICE,
                              "%s: %lld records need %.1f GiB, which the GPU does not have free\n"
                              "help: data.on_gpu=no reads them from files",
                              pk_recipe_origin(t->recipe, "data.on_gpu"), (long long)d->count,
                              (double)bytes / 1073741824.0)
                    : PK_OK;
    int16_t *chunk;
    PK_TRY(pk_alloc(&chunk, (size_t)(CHUNK * row), sizeof *chunk, "records", err));
    enum pk_status s = PK_OK;
    for (int64_t i = 0; s == PK_OK && i < d->count; i += CHUNK) {
        int64_t n = PK_MIN((int64_t)CHUNK, d->count - i);
        for (int64_t k = 0; s == PK_OK && k < n; k++) s = d->read(d, i + k, chunk + k * row, err);
        if (s == PK_OK) s = pk_exec_resident_write(&t->exec, r, i, n, chunk, err);
    }
    free(chunk);
    return s;
}

enum pk_status pk_trainer_pin(struct pk_trainer *t, const struct pk_loader *l, struct pk_err *err)
{
    void *memory;
    size_t bytes;
    for (int i = 0; pk_loader_memory(l, i, &memory, &bytes); i++)
        PK_TRY(pk_exec_pin(&t->exec, memory, bytes, err));
    return PK_OK;
}

enum pk_status pk_trainer_write_recipe(struct pk_trainer *t, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    struct pk_text text = {0};
    PK_TRY(pk_path(path, err, "%s/recipe.yaml", t->run.dir));
    enum pk_status s = pk_recipe_print(t->recipe, &text, err);
    if (s == PK_OK) s = pk_write_file(path, text.s, text.len, err);
    pk_text_free(&text);
    return s;
}

enum pk_status pk_trainer_open_run(struct pk_trainer *t, enum pk_run_mode mode, int argc,
                                   char **argv, struct pk_err *err)
{
    if (!pk_trainer_leads(t)) return PK_OK;
    char dir[PK_PATH_MAX];
    PK_TRY(pk_recipe_path(t->recipe, "output.dir", dir, err));
    PK_TRY(pk_run_open(&t->run, dir, mode, argc, argv, err));
    t->run_open = true;
    if (t->run.note[0] && !t->quiet) fprintf(stderr, "note: %s\n", t->run.note);
    if (t->run.note[0]) pk_run_log(&t->run, "note: %s", t->run.note);
    PK_TRY(pk_ckpt_clean(t->run.checkpoints, err));
    return mode == PK_RUN_RESUME ? PK_OK : pk_trainer_write_recipe(t, err);
}

enum pk_status pk_trainer_open_events(struct pk_trainer *t, int64_t steps, struct pk_err *err)
{
    char dir[PK_PATH_MAX];
    if (!pk_trainer_leads(t)) return PK_OK;
    if (!pk_recipe_bool(t->recipe, "output.tensorboard")) return PK_OK;
    PK_TRY(pk_path(dir, err, "%s/tb", t->run.dir));
    return pk_tfevents_open(&t->events, dir, steps, err);
}

enum pk_status pk_trainer_stopped(const struct pk_trainer *t, int64_t step, struct pk_err *err)
{
    if (!pk_trainer_leads(t))
        return pk_fail(err, PK_ESTOPPED, "rank %d of %d stopped after step %lld", t->comm->rank,
                       t->comm->size, (long long)step);
    if (!pk_stop_requested())
        return pk_fail(err, PK_ESTOPPED,
                       "stopped after step %lld, since another rank got a signal; go on with "
                       "'purkinje resume %s'",
                       (long long)step, t->run.dir);
    return pk_fail(err, PK_ESTOPPED,
                   "stopped by signal %d after step %lld; go on with 'purkinje resume %s'",
                   pk_stop_requested(), (long long)step, t->run.dir);
}

void pk_trainer_free(struct pk_trainer *t)
{
    struct pk_err ignored;
    pk_ckpt_writer_stop(t->writer, &ignored);
    pk_ckpt_ranks_stop(t->share);
    pk_ckpt_close(&t->source);
    pk_tfevents_close(&t->events, &ignored);
    if (t->run_open) pk_run_close(&t->run, t->run.state, &ignored);
    pk_exec_resident_free(&t->exec, &t->resident);
    pk_exec_free(&t->exec);
    pk_params_free(&t->params);
    free(t->best);
}

enum pk_status pk_trainer_metrics(struct pk_trainer *t, int64_t step, const char *kind,
                                  const struct pk_scalar *scalar, int count, struct pk_err *err)
{
    struct pk_text line = {0};
    struct pk_json_writer w = {.out = &line};
    if (!pk_trainer_leads(t)) return PK_OK;
    pk_json_open(&w, NULL, '{');
    pk_json_put_i64(&w, "step", step);
    pk_json_put_string(&w, "kind", kind);
    for (int i = 0; i < count; i++) {
        const char *slash = strrchr(scalar[i].tag, '/');
        pk_json_put_f64(&w, slash ? slash + 1 : scalar[i].tag, scalar[i].value);
    }
    pk_json_close(&w);
    enum pk_status s = line.failed ? pk_fail(err, PK_ENOMEM, "out of memory: metrics")
                                   : pk_run_metric(&t->run, line.s, err);
    pk_text_free(&line);
    for (int i = 0; i < count; i++) {
        const char *slash = strrchr(scalar[i].tag, '/');
        pk_text_add(&line, "  %s %.4g", slash ? slash + 1 : scalar[i].tag, scalar[i].value);
    }
    if (line.s) pk_run_log(&t->run, "%s step %lld%s", kind, (long long)step, line.s);
    pk_text_free(&line);
    if (s == PK_OK && t->events.f) s = pk_tfevents_write(&t->events, step, scalar, count, err);
    return s;
}

static enum pk_status end_run(struct pk_trainer *t, enum pk_status s, int64_t step,
                              struct pk_err *err)
{
    s = pk_trainer_finish_checkpoints(t, s, err);
    enum pk_run_state state = s == PK_OK          ? PK_RUN_DONE
                              : s == PK_ESTOPPED  ? PK_RUN_STOPPED
                              : s == PK_EDIVERGED ? PK_RUN_DIVERGED
                                                  : PK_RUN_FAILED;
    struct pk_err closing = {0};
    if (!t->run_open) return s;
    pk_run_log(&t->run, "%s after step %lld%s%s", pk_run_state_name(state), (long long)step,
               s == PK_OK ? "" : ": ", s == PK_OK ? "" : err->message);
    t->run.state = state;
    t->run_open = false;
    enum pk_status closed = pk_run_close(&t->run, state, &closing);
    if (s == PK_OK && closed != PK_OK) {
        *err = closing;
        return closed;
    }
    return s;
}

static bool ends_for_all(enum pk_status s)
{
    return s == PK_OK || s == PK_ESTOPPED || s == PK_EDIVERGED;
}

enum pk_status pk_trainer_end(struct pk_trainer *t, enum pk_status s, int64_t step,
                              struct pk_err *err)
{
    const bool together = t->comm && ends_for_all(s);
    struct pk_err broken = {0};
    s = end_run(t, s, step, err);
    if (together && !ends_for_all(s)) pk_comm_abort(t->comm, err->message);
    if (!together || !ends_for_all(s)) return s;
    /* Nobody leaves before rank 0 has its checkpoint on the disk: mpirun, torchrun and many a Slurm
     * kill a job's ranks soon after the first has ended with an error, and 75 is one to them. */
    pk_heartbeat_at(t->heartbeat, step, "leaving");
    enum pk_status left = pk_comm_barrier(t->comm, &broken);
    if (left != PK_OK) *err = broken;
    return left == PK_OK ? s : left;
}

static enum pk_status keep_batch(struct pk_trainer *t, int64_t step, const struct pk_batch *b,
                                 int32_t classes, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    PK_TRY(pk_path(path, err, "%s/nan-step-%lld.safetensors", t->run.dir, (long long)step));
    struct pk_tensor_ref refs[] = {{"crop", PK_TENSOR_I32, 1, {b->n}, b->crop},
                                   {"gain", PK_TENSOR_F32, 2, {b->n, b->leads}, b->gain},
                                   {"offset", PK_TENSOR_F32, 2, {b->n, b->leads}, b->offset},
                                   {"sample", PK_TENSOR_I64, 1, {b->n}, b->sample},
                                   {"row", PK_TENSOR_I64, 1, {b->n}, b->row},
                                   {0},
                                   {0}};
    int64_t count = 5;
    if (b->signal)
        refs[count++] = (struct pk_tensor_ref){
            "signal", PK_TENSOR_I16, 3, {b->n, b->leads, b->samples}, b->signal};
    if (b->label)
        refs[count++] = (struct pk_tensor_ref){"label", PK_TENSOR_U8, 2, {b->n, classes}, b->label};
    PK_TRY(pk_safetensors_write(path, refs, count, NULL, 0, err));
    pk_run_log(&t->run, "the batch of step %lld is kept in %s", (long long)step, path);
    pk_progress_print(&t->progress, "the batch is kept in %s", path);
    return PK_OK;
}

/* All ranks' records, one rank's after the other's, at rank 0. Free *all in any case. */
static enum pk_status gather_batch(struct pk_trainer *t, const struct pk_batch *b, int32_t classes,
                                   struct pk_batch *all, struct pk_err *err)
{
    const size_t n = (size_t)b->n, leads = (size_t)b->leads;
    const struct {
        const void *mine;
        size_t bytes;
        void *all;
    } field[] = {{b->signal, n * leads * (size_t)b->samples * sizeof *b->signal, &all->signal},
                 {b->crop, n * sizeof *b->crop, &all->crop},
                 {b->gain, n * leads * sizeof *b->gain, &all->gain},
                 {b->offset, n * leads * sizeof *b->offset, &all->offset},
                 {b->sample, n * sizeof *b->sample, &all->sample},
                 {b->row, n * sizeof *b->row, &all->row},
                 {b->label, n * (size_t)classes, &all->label}};
    *all = (struct pk_batch){
        .step = b->step, .n = b->n * t->comm->size, .leads = b->leads, .samples = b->samples};
    for (size_t i = 0; i < PK_COUNT(field); i++) {
        void *to = NULL;
        if (!field[i].mine) continue;
        if (pk_trainer_leads(t))
            PK_TRY(pk_alloc(&to, (size_t)t->comm->size, field[i].bytes, "batch", err));
        memcpy(field[i].all, &to, sizeof to);
        PK_TRY(pk_comm_gather(t->comm, 0, field[i].mine, to, field[i].bytes, err));
    }
    return PK_OK;
}

static enum pk_status keep_batches(struct pk_trainer *t, int64_t step, const struct pk_batch *b,
                                   int32_t classes, struct pk_err *err)
{
    struct pk_batch all;
    if (!t->comm) return keep_batch(t, step, b, classes, err);
    enum pk_status s = gather_batch(t, b, classes, &all, err);
    if (s == PK_OK && pk_trainer_leads(t)) s = keep_batch(t, step, &all, classes, err);
    pk_batch_free(&all);
    return s;
}

enum pk_status pk_trainer_diverged(struct pk_trainer *t, int64_t step, const struct pk_batch *b,
                                   int32_t classes, struct pk_err *err)
{
    enum { SKIPS_MAX = 10, KEPT_MAX = 8 };
    struct pk_err why = *err, keeping = {0};
    if (t->skipped++ == 0 && t->kept++ < KEPT_MAX &&
        keep_batches(t, step, b, classes, &keeping) != PK_OK)
        pk_progress_print(&t->progress, "warning: the batch is not kept: %s", keeping.message);
    *err = why;
    if (strcmp(pk_recipe_str(t->recipe, "train.on_nan"), "skip")) return PK_EDIVERGED;
    if (t->skipped >= SKIPS_MAX) {
        pk_err_context(err, "%d steps in a row were skipped", t->skipped);
        return PK_EDIVERGED;
    }
    pk_run_log(&t->run, "warning: %s; the step is skipped", why.message);
    pk_progress_print(&t->progress, "warning: %s; the step is skipped", why.message);
    return PK_OK;
}

void pk_batch_feed(struct pk_feed feed[PK_BATCH_FEEDS], const struct pk_batch *b, int64_t first,
                   int64_t micro, const int32_t *start)
{
    size_t n = (size_t)micro, leads = (size_t)b->leads;
    size_t row = leads * (size_t)b->samples, at = (size_t)first;
    feed[0] = (struct pk_feed){"signal", b->signal ? b->signal + at * row : NULL,
                               n * row * sizeof *b->signal};
    feed[1] = (struct pk_feed){"gain", b->gain + at * leads, n * leads * sizeof *b->gain};
    feed[2] = (struct pk_feed){"offset", b->offset + at * leads, n * leads * sizeof *b->offset};
    feed[3] = (struct pk_feed){"start", start, 0};
    feed[4] = (struct pk_feed){"sample", b->sample + at, n * sizeof *b->sample};
}

struct pk_cut pk_batch_cut(const struct pk_trainer *t, const struct pk_batch *b, int64_t first)
{
    if (!t->resident.memory) return (struct pk_cut){0};
    return (struct pk_cut){"signal", &t->resident, b->row + first, b->crop + first};
}

enum pk_status pk_trainer_agrees(const struct pk_model_info *m, const struct pk_recipe *r,
                                 struct pk_err *err)
{
    const struct {
        const char *key;
        double have;
    } all[] = {{"data.rate", m->rate},
               {"model.encoder.width", m->encoder.width},
               {"model.encoder.channels", m->encoder.channels},
               {"model.encoder.depth", m->encoder.vit.depth},
               {"model.encoder.heads", m->encoder.vit.heads},
               {"model.encoder.mlp_ratio", m->encoder.vit.mlp_ratio},
               {"model.encoder.registers", m->registers},
               {"model.encoder.patch", m->patch / m->rate},
               {"data.leads", m->leads}};
    const char *kind = pk_encoder_name(m->encoder.kind);
    if (pk_recipe_given(r, "model.encoder.kind") &&
        strcmp(pk_recipe_str(r, "model.encoder.kind"), kind))
        return pk_fail(
            err, PK_ERECIPE,
            "%s: the encoder of init_from is of the kind %s, and this one must be as well",
            pk_recipe_origin(r, "model.encoder.kind"), kind);
    if (pk_recipe_given(r, "model.encoder.qkv_bias") &&
        pk_recipe_bool(r, "model.encoder.qkv_bias") != m->encoder.vit.qkv_bias)
        return pk_fail(err, PK_ERECIPE,
                       "%s: the encoder of init_from was trained %s a qkv bias; leave the key out",
                       pk_recipe_origin(r, "model.encoder.qkv_bias"),
                       m->encoder.vit.qkv_bias ? "with" : "without");
    for (size_t i = 0; i < PK_COUNT(all); i++) {
        bool list = !strcmp(all[i].key, "data.leads");
        int64_t leads = list ? pk_recipe_count(r, all[i].key) : 0;
        if (!pk_recipe_given(r, all[i].key) || (list && !leads)) continue;
        double want = list ? (double)leads : pk_recipe_f64(r, all[i].key);
        bool same = fabs(want - all[i].have) < 1e-9 * fmax(1, want);
        for (int32_t k = 0; same && k < leads; k++)
            same = !strcmp(pk_recipe_item_str(r, all[i].key, k), m->lead_name[k]);
        if (!same && list)
            return pk_fail(
                err, PK_ERECIPE,
                "%s: data.leads are not the %d leads of the encoder in their order; leave "
                "the key out to take them from init_from",
                pk_recipe_origin(r, all[i].key), m->leads);
        if (!same)
            return pk_fail(
                err, PK_ERECIPE,
                "%s: %s is %g, that of the encoder %g; leave the key out to take it from "
                "init_from",
                pk_recipe_origin(r, all[i].key), all[i].key, want, all[i].have);
    }
    return PK_OK;
}

double pk_peak_memory(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? 1024.0 * (double)u.ru_maxrss : 0;
}
