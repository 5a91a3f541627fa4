/* trainer_checkpoint.c -- checkpoints of a training run: saving, loading, and sharing what was
 * loaded with the other ranks (see trainer.h). */
#include "tools/trainer_checkpoint.h"

#include <stdlib.h>
#include <string.h>

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

enum { MODEL, MOMENT1, MOMENT2, EMA, BEST, FILES };

struct files { // of a checkpoint, in a fixed order
    struct pk_ckpt_file file[FILES];
    struct pk_tensor_ref *refs[FILES]; // to be freed
    int count;
};

static void free_files(struct files *f)
{
    for (int i = 0; i < FILES; i++) free(f->refs[i]);
}

/* The moments that this rank has; it has none of the others. */
static void point_at_share(const struct pk_trainer *t, struct pk_tensor_ref *ref, float *moment)
{
    const int64_t *share = t->exec.share;
    for (int64_t i = 0; i < t->params.count; i++) {
        const int64_t at = t->params.item[i].offset, first = share[t->comm->rank];
        const bool mine = at >= first && at < share[t->comm->rank + 1];
        ref[i].data = mine ? moment + (at - first) : NULL;
    }
}

/* Whole files. What is not there (EMA copy, best weights) has none. */
static enum pk_status list_files(const struct pk_trainer *t, struct files *f, struct pk_err *err)
{
    const struct {
        const char *name;
        float *arena;
    } all[FILES] = {[MODEL] = {"model.safetensors", t->exec.weight},
                    [MOMENT1] = {"moment1.safetensors", t->exec.m},
                    [MOMENT2] = {"moment2.safetensors", t->exec.v},
                    [EMA] = {"ema.safetensors", t->exec.ema},
                    [BEST] = {"best.safetensors", t->best}};
    *f = (struct files){.count = 0};
    for (int i = 0; i < FILES; i++) {
        int64_t n;
        if (!all[i].arena) continue;
        const bool part = t->exec.share && (i == MOMENT1 || i == MOMENT2);
        float *arena = part ? t->exec.weight : all[i].arena; // shapes and names are theirs, too
        PK_TRY(pk_weights_refs(&f->refs[i], &n, &t->params, i == EMA, arena, err));
        if (part) point_at_share(t, f->refs[i], all[i].arena);
        f->file[f->count++] =
            (struct pk_ckpt_file){.name = all[i].name, .tensor = f->refs[i], .count = n};
    }
    return PK_OK;
}

/* Leaves this rank's share of them: both moments of its parameters, as one file each; weights that
 * other programs read stay whole, the EMA copy at the last rank, the others at the first. */
static void take_share(struct pk_trainer *t, struct files *f)
{
    const int rank = t->comm->rank, ranks = t->comm->size, all = f->count;
    int64_t first, last;
    pk_params_share(&t->params, rank, ranks, &first, &last);
    f->count = 0;
    for (int i = 0; i < all; i++) {
        struct pk_ckpt_file file = f->file[i];
        const int moment = file.tensor == f->refs[MOMENT1]   ? 1
                           : file.tensor == f->refs[MOMENT2] ? 2
                                                             : 0;
        if (!moment && rank != (file.tensor == f->refs[EMA] ? ranks - 1 : 0)) continue;
        if (moment) {
            char *name = t->moment_name[moment - 1];
            if (!*name) // else the writer may be reading it
                snprintf(name, sizeof t->moment_name[0], "moment%d-%05d-of-%05d.safetensors",
                         moment, rank + 1, ranks);
            file = (struct pk_ckpt_file){name, file.tensor + first, last - first};
        }
        f->file[f->count++] = file;
    }
}

static enum pk_status put_whole_state(const struct pk_trainer *t, int64_t step,
                                      void (*put)(struct pk_json_writer *w, void *ctx), void *ctx,
                                      struct pk_text *text, struct pk_err *err)
{
    struct pk_json_writer w = {.out = text, .indent = 2};
    char hash[24];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)pk_recipe_hash(t->recipe));
    pk_json_open(&w, NULL, '{');
    pk_json_put_i64(&w, "step", step);
    pk_json_put_string(&w, "recipe_hash", hash);
    pk_json_put_i64(&w, "seed", pk_recipe_i64(t->recipe, "seed"));
    if (put) put(&w, ctx);
    pk_model_info_write(&w, "model", &t->info);
    pk_json_close(&w);
    return text->failed ? pk_fail(err, PK_ENOMEM, "out of memory: checkpoint state") : PK_OK;
}

/* run.json names the newest checkpoint that is known to be on disk. It is synced, so the background
 * thread writes it; the training thread leaves it alone until that thread has ended. */
static enum pk_status note_written(void *ctx, int64_t step, struct pk_err *err)
{
    return pk_run_update(ctx, PK_RUN_RUNNING, step, err);
}

/* What a collective that all ranks fail alike has come to. */
static enum pk_status alike(struct pk_trainer *t, enum pk_status s)
{
    t->agreed = s != PK_OK;
    return s;
}

/* Before the first checkpoint of several ranks: each writes its share if all see the folder. */
static enum pk_status find_writers(struct pk_trainer *t, struct pk_err *err)
{
    char run[PK_PATH_MAX], dir[PK_PATH_MAX];
    int blind;
    enum pk_status s = pk_recipe_path(t->recipe, "output.dir", run, err);
    if (s == PK_OK) s = pk_path(dir, err, "%s/checkpoints", run);
    PK_TRY(pk_trainer_together(t, s, err));
    PK_TRY(alike(t, pk_ckpt_ranks_see(t->comm, dir, &blind, err)));
    if (blind < 0) {
        PK_TRY(pk_trainer_together(t, pk_ckpt_ranks_start(&t->share, t->comm, dir, err), err));
        pk_ckpt_ranks_tell(t->share, note_written, &t->run);
        return PK_OK;
    }
    if (t->exec.share) {
        pk_fail(
            err, PK_EWRITE,
            "train.zero1 needs a folder that all ranks see, because each writes its moments; rank "
            "%d does not see %s",
            blind, dir);
        err->said = !pk_trainer_leads(t);
        return alike(t, PK_EWRITE);
    }
    if (!pk_trainer_leads(t)) return PK_OK;
    pk_run_log(&t->run, "note: rank %d does not see %s, so rank 0 alone writes checkpoints", blind,
               dir);
    if (!t->quiet)
        fprintf(stderr, "note: rank %d does not see %s, so rank 0 alone writes checkpoints\n",
                blind, dir);
    return PK_OK;
}

/* Rank 0 reads the moments of rank k's parameters into part [exec.share[k + 1] - share[k]]. */
static enum pk_status read_moments(const struct pk_trainer *t, const char *name, int k, float *part,
                                   struct pk_err *err)
{
    int64_t first, last, n;
    struct pk_tensor_ref *ref = NULL;
    pk_params_share(&t->params, k, t->comm->size, &first, &last);
    enum pk_status s = pk_weights_refs(&ref, &n, &t->params, false, t->exec.weight, err);
    for (int64_t i = first; s == PK_OK && i < last; i++)
        ref[i].data = part + (t->params.item[i].offset - t->exec.share[k]);
    if (s == PK_OK && last > first)
        s = pk_ckpt_read(&t->source, name, ref + first, last - first, false, err);
    free(ref);
    return s;
}

/* One rank's after the other's, so that none ever holds more than a share besides its own. */
static enum pk_status share_moments(struct pk_trainer *t, struct pk_err *err)
{
    const int64_t *at = t->exec.share;
    const bool leads = pk_trainer_leads(t);
    int64_t longest = 1, loaded = t->source.files;
    float *part;
    PK_TRY(pk_comm_broadcast(t->comm, 0, &loaded, sizeof loaded, err));
    if (!loaded) return PK_OK; // a new run: zeros
    for (int k = 0; k < t->comm->size; k++) longest = PK_MAX(longest, at[k + 1] - at[k]);
    enum pk_status s = pk_alloc(&part, (size_t)longest, sizeof *part, "moments", err);
    PK_TRY(pk_trainer_together(t, s, err));
    for (int i = 0; i < 2 * t->comm->size && s == PK_OK; i++) {
        const int k = i / 2;
        const size_t bytes = (size_t)(at[k + 1] - at[k]) * sizeof *part;
        memset(part, 0, bytes); // padding
        if (leads)
            s = read_moments(t, i % 2 ? "moment2.safetensors" : "moment1.safetensors", k, part,
                             err);
        s = pk_trainer_together(t, s, err);
        if (s == PK_OK) s = pk_comm_broadcast(t->comm, 0, part, bytes, err);
        if (s == PK_OK && k == t->comm->rank && bytes)
            memcpy(i % 2 ? t->exec.v : t->exec.m, part, bytes);
    }
    free(part);
    pk_ckpt_close(&t->source);
    return s;
}

enum pk_status pk_trainer_share(struct pk_trainer *t, struct pk_err *err)
{
    float *arena[] = {t->exec.weight, t->exec.ema, t->best, t->exec.m, t->exec.v};
    const size_t whole = t->exec.share ? 3 : PK_COUNT(arena);
    if (!t->comm) return PK_OK;
    for (size_t i = 0; i < whole; i++)
        if (arena[i])
            PK_TRY(pk_comm_broadcast(t->comm, 0, arena[i],
                                     (size_t)t->params.elements * sizeof(float), err));
    if (t->exec.share) PK_TRY(share_moments(t, err));
    PK_TRY(pk_exec_push(&t->exec, err));
    return find_writers(t, err);
}

static enum pk_status submit(struct pk_trainer *t, int64_t step, struct files *f, const char *state,
                             struct pk_err *err)
{
    const struct pk_ckpt_keep keep = {
        .last = (int32_t)pk_recipe_i64(t->recipe, "output.checkpoint.keep_last"),
        .every = pk_recipe_i64(t->recipe, "output.checkpoint.keep_every")};
    struct pk_ckpt_content c = {.step = step, .files = f->count, .file = f->file, .state = state};
    if (!t->share) {
        if (!t->writer) {
            PK_TRY(pk_ckpt_writer_start(&t->writer, t->run.checkpoints, err));
            pk_ckpt_writer_tell(t->writer, note_written, &t->run);
        }
        return pk_ckpt_writer_submit(t->writer, &c, &keep, err);
    }
    int64_t need = 0;
    PK_TRY(pk_trainer_together(t, pk_ckpt_bytes(&c, &need, err), err));
    take_share(t, f);
    c.files = f->count;
    need += (int64_t)t->comm->size << 16; // more headers, and their rounding
    return alike(t, pk_ckpt_ranks_submit(t->share, &c, need, &keep, err));
}

enum pk_status pk_trainer_save(struct pk_trainer *t, int64_t step,
                               void (*put)(struct pk_json_writer *w, void *ctx), void *ctx,
                               struct pk_err *err)
{
    struct files f = {.count = 0};
    struct pk_text text = {0};
    enum pk_status s = PK_OK;
    t->last_checkpoint = pk_seconds();
    if (!t->share && !pk_trainer_leads(t)) return PK_OK;
    if (pk_trainer_leads(t)) s = put_whole_state(t, step, put, ctx, &text, err);
    if (s == PK_OK) s = pk_exec_pull(&t->exec, err);
    if (s == PK_OK) s = list_files(t, &f, err);
    if (t->share) s = pk_trainer_together(t, s, err);
    if (s == PK_OK) s = submit(t, step, &f, text.s, err);
    if (s == PK_OK && pk_trainer_leads(t)) s = save_choices(t, err);
    free_files(&f);
    pk_text_free(&text);
    t->last_checkpoint = pk_seconds();
    return s;
}

bool pk_trainer_writing(const struct pk_trainer *t)
{
    return pk_ckpt_ranks_writing(t->share);
}

enum pk_status pk_trainer_settle(struct pk_trainer *t, struct pk_err *err)
{
    if (!t->share) return PK_OK;
    return alike(t, pk_ckpt_ranks_settle(t->share, err));
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
    struct files f;
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
    enum pk_status s = list_files(t, &f, err);
    if (s == PK_OK && steps && c.step > steps)
        s = pk_fail(err, PK_EUSAGE, "%s has %lld steps already, more than train.steps=%lld",
                    t->run.dir, (long long)c.step, (long long)steps);
    for (int i = 0; s == PK_OK && i < f.count; i++) {
        const struct pk_tensor_ref *ref = f.file[i].tensor;
        if (t->exec.share && (ref == f.refs[MOMENT1] || ref == f.refs[MOMENT2])) continue;
        s = pk_ckpt_read(&c, f.file[i].name, f.file[i].tensor, f.file[i].count, true, err);
    }
    if (s == PK_OK) s = pk_exec_push(&t->exec, err);
    if (s == PK_OK) s = pk_json_parse(state, c.state, strlen(c.state), c.path, err);
    if (s == PK_OK) s = pk_ckpt_drop_after(t->run.checkpoints, c.step, err);
    if (s == PK_OK) s = pk_run_rewind(&t->run, c.step, err);
    if (s == PK_OK) s = pk_trainer_write_recipe(t, err);
    *step = c.step;
    free_files(&f);
    if (t->exec.share && s == PK_OK)
        t->source = c; // pk_trainer_share reads the moments
    else
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

/* Whether all ranks come here, having ended alike. */
static bool ended_alike(const struct pk_trainer *t, enum pk_status s)
{
    return t->agreed || s == PK_OK || s == PK_ESTOPPED || s == PK_EDIVERGED;
}

enum pk_status pk_trainer_finish_checkpoints(struct pk_trainer *t, enum pk_status s,
                                             struct pk_err *err)
{
    struct pk_err why = {0};
    enum pk_status written = PK_OK;
    if (!t->writer && !t->share) return s;
    if (t->writer) written = pk_ckpt_writer_wait(t->writer, &why);
    if (t->share && ended_alike(t, s)) written = pk_ckpt_ranks_finish(t->share, &why);
    pk_ckpt_writer_stop(t->writer, NULL);
    pk_ckpt_ranks_stop(t->share);
    t->writer = NULL;
    t->share = NULL;
    if (written == PK_OK || (s != PK_OK && s != PK_ESTOPPED)) return s;
    *err = why;
    return written;
}
