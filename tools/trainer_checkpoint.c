/* trainer_checkpoint.c -- checkpoints of a training run: saving, loading, and sharing what was
 * loaded with the other ranks (see trainer.h). */
#include "tools/trainer_checkpoint.h"

#include <stdlib.h>
#include <string.h>

enum pk_status pk_trainer_share(struct pk_trainer *t, struct pk_err *err)
{
    float *arena[] = {t->exec.weight, t->exec.ema, t->exec.m, t->exec.v};
    for (size_t i = 0; t->comm && i < PK_COUNT(arena); i++)
        if (arena[i])
            PK_TRY(pk_comm_broadcast(t->comm, 0, arena[i],
                                     (size_t)t->params.elements * sizeof(float), err));
    return PK_OK;
}

static enum pk_status save_choices(const struct pk_trainer *t, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    struct pk_text text = {0};
    pk_exec_choices(&t->exec, &text);
    enum pk_status s = pk_path(path, err, "%s/%s", t->run.dir, PK_TRAINER_CHOICES);
    if (s == PK_OK && text.failed) s = pk_fail(err, PK_ENOMEM, "out of memory: choices");
    if (s == PK_OK && text.len) s = pk_write_file(path, text.s, text.len, err);
    pk_text_free(&text);
    return s;
}

enum { FILES = 5 };

/* The files of a checkpoint, in a fixed order; refs are freed by the caller. */
static enum pk_status list_files(struct pk_trainer *t, struct pk_ckpt_file file[FILES],
                                 struct pk_tensor_ref *refs[FILES], int *count, struct pk_err *err)
{
    const struct {
        const char *name;
        bool ema;
        float *arena;
    } all[FILES] = {{"model.safetensors", false, t->exec.weight},
                    {"moment1.safetensors", false, t->exec.m},
                    {"moment2.safetensors", false, t->exec.v},
                    {"ema.safetensors", true, t->exec.ema},
                    {"best.safetensors", false, t->best}};
    *count = 0;
    for (int i = 0; i < FILES; i++) {
        int64_t n;
        if (!all[i].arena) continue;
        PK_TRY(pk_weights_refs(&refs[*count], &n, &t->params, all[i].ema, all[i].arena, err));
        file[*count] =
            (struct pk_ckpt_file){.name = all[i].name, .tensor = refs[*count], .count = n};
        ++*count;
    }
    return PK_OK;
}

/* run.json names the newest checkpoint that is known to be on disk. */
static enum pk_status note_written(struct pk_trainer *t, struct pk_err *err)
{
    int64_t done = pk_ckpt_writer_done(t->writer);
    return done >= 0 && done != t->run.last_step ? pk_run_update(&t->run, PK_RUN_RUNNING, done, err)
                                                 : PK_OK;
}

enum pk_status pk_trainer_save(struct pk_trainer *t, int64_t step,
                               void (*put)(struct pk_json_writer *w, void *ctx), void *ctx,
                               struct pk_err *err)
{
    struct pk_ckpt_file file[FILES];
    struct pk_tensor_ref *refs[FILES] = {NULL};
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    char hash[24];
    int files = 0;
    if (!pk_trainer_leads(t)) return PK_OK;
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)pk_recipe_hash(t->recipe));
    pk_json_open(&w, NULL, '{');
    pk_json_put_i64(&w, "step", step);
    pk_json_put_string(&w, "recipe_hash", hash);
    pk_json_put_i64(&w, "seed", pk_recipe_i64(t->recipe, "seed"));
    if (put) put(&w, ctx);
    pk_model_info_write(&w, "model", &t->info);
    pk_json_close(&w);
    enum pk_status s = pk_exec_pull(&t->exec, err);
    if (s == PK_OK) s = list_files(t, file, refs, &files, err);
    if (s == PK_OK && text.failed) s = pk_fail(err, PK_ENOMEM, "out of memory: checkpoint state");
    struct pk_ckpt_keep keep = {
        .last = (int32_t)pk_recipe_i64(t->recipe, "output.checkpoint.keep_last"),
        .every = pk_recipe_i64(t->recipe, "output.checkpoint.keep_every")};
    if (s == PK_OK && !t->writer) s = pk_ckpt_writer_start(&t->writer, t->run.checkpoints, err);
    if (s == PK_OK) {
        struct pk_ckpt_content c = {.step = step, .files = files, .file = file, .state = text.s};
        s = pk_ckpt_writer_submit(t->writer, &c, &keep, err);
    }
    if (s == PK_OK) s = note_written(t, err);
    if (s == PK_OK) s = save_choices(t, err);
    for (int i = 0; i < FILES; i++) free(refs[i]);
    pk_text_free(&text);
    t->last_checkpoint = pk_seconds();
    return s;
}

bool pk_trainer_has_checkpoint(const char *dir)
{
    char path[PK_PATH_MAX];
    int64_t *steps = NULL, count = 0;
    if (pk_path(path, NULL, "%s/checkpoints", dir) != PK_OK) return false;
    pk_ckpt_steps(path, &steps, &count, NULL);
    free(steps);
    return count > 0;
}

enum pk_status pk_trainer_load(struct pk_trainer *t, int64_t *step, struct pk_json *state,
                               struct pk_err *err)
{
    struct pk_ckpt c;
    struct pk_ckpt_file file[FILES];
    struct pk_tensor_ref *refs[FILES] = {NULL};
    int files = 0;
    *step = 0;
    *state = (struct pk_json){0};
    int64_t steps = pk_recipe_i64(t->recipe, "train.steps"); // 0 for stages
    if (!pk_trainer_has_checkpoint(t->run.dir)) {
        PK_TRY(pk_run_rewind(&t->run, 0, err));
        return pk_trainer_write_recipe(t, err);
    }
    PK_TRY(pk_ckpt_open(&c, t->run.checkpoints, err));
    if (c.warning[0] && !t->quiet) fprintf(stderr, "warning: %s\n", c.warning);
    if (c.warning[0]) pk_run_log(&t->run, "warning: %s", c.warning);
    enum pk_status s = list_files(t, file, refs, &files, err);
    if (s == PK_OK && steps && c.step > steps)
        s = pk_fail(err, PK_EUSAGE, "%s has %lld steps already, more than train.steps=%lld",
                    t->run.dir, (long long)c.step, (long long)steps);
    for (int i = 0; s == PK_OK && i < files; i++)
        s = pk_ckpt_read(&c, file[i].name, file[i].tensor, file[i].count, true, err);
    if (s == PK_OK) s = pk_exec_push(&t->exec, err);
    if (s == PK_OK) s = pk_json_parse(state, c.state, strlen(c.state), c.path, err);
    if (s == PK_OK) s = pk_ckpt_drop_after(t->run.checkpoints, c.step, err);
    if (s == PK_OK) s = pk_run_rewind(&t->run, c.step, err);
    if (s == PK_OK) s = pk_trainer_write_recipe(t, err);
    *step = c.step;
    for (int i = 0; i < FILES; i++) free(refs[i]);
    pk_ckpt_close(&c);
    return s;
}

bool pk_trainer_due(const struct pk_trainer *t, int64_t step)
{
    int64_t every = pk_recipe_i64(t->recipe, "output.checkpoint.every");
    double seconds = pk_recipe_f64(t->recipe, "output.checkpoint.every_time");
    return (every && step % every == 0) ||
           (seconds > 0 && pk_seconds() - t->last_checkpoint >= seconds);
}

enum pk_status pk_trainer_finish_checkpoints(struct pk_trainer *t, enum pk_status s,
                                             struct pk_err *err)
{
    struct pk_err why = {0};
    if (!t->writer) return s;
    enum pk_status written = pk_ckpt_writer_wait(t->writer, &why);
    if (written == PK_OK) written = note_written(t, &why);
    pk_ckpt_writer_stop(t->writer, NULL);
    t->writer = NULL;
    if (written == PK_OK || (s != PK_OK && s != PK_ESTOPPED)) return s;
    *err = why;
    return written;
}
