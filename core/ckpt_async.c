/* ckpt_async.c -- the background writer of checkpoints (see ckpt_async.h). */
#include "core/ckpt_async.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum job { WHOLE, PART, FINISH };

struct pk_ckpt_writer {
    char dir[PK_PATH_MAX];
    pthread_t thread;
    pthread_mutex_t lock; // guards what follows
    pthread_cond_t change;
    bool pending; // a snapshot waits for, or is in, the thread
    bool quit;
    int64_t done; // step of the newest checkpoint on disk, -1 none
    pk_ckpt_written *written;
    void *written_ctx;
    struct pk_err failed; // of the last write, until someone has been told
    // The snapshot: the caller's while !pending, the thread's while pending.
    struct pk_ckpt_content content;
    struct pk_ckpt_file *file;
    struct pk_tensor_ref *tensor;
    int64_t file_cap, tensor_cap, byte_cap;
    uint8_t *bytes;
    char *state;
    bool prune;
    struct pk_ckpt_keep keep;
    enum job job;
    struct pk_ckpt_entry *entry; // [entries] of a part; of all parts
    int64_t entry_cap;
    int32_t entries;
};

static enum pk_status do_job(struct pk_ckpt_writer *w, struct pk_err *err)
{
    const struct pk_ckpt_content *c = &w->content;
    if (w->job == PART) return pk_ckpt_put(w->dir, c, w->entry, err);
    if (w->job == FINISH)
        return pk_ckpt_finish(w->dir, c->step, c->state, w->entry, w->entries, err);
    return pk_ckpt_write(w->dir, c, err);
}

static void write_snapshot(struct pk_ckpt_writer *w, struct pk_err *err)
{
    if (do_job(w, err) != PK_OK || w->job == PART) return;
    pthread_mutex_lock(&w->lock);
    w->done = w->content.step;
    pthread_mutex_unlock(&w->lock);
    if (w->written && w->written(w->written_ctx, w->content.step, err) != PK_OK) return;
    if (w->prune) pk_ckpt_prune(w->dir, &w->keep, err);
}

static void *work(void *arg)
{
    struct pk_ckpt_writer *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->pending && !w->quit) pthread_cond_wait(&w->change, &w->lock);
        if (!w->pending) break;
        pthread_mutex_unlock(&w->lock);
        struct pk_err err = {0};
        write_snapshot(w, &err);
        pthread_mutex_lock(&w->lock);
        w->failed = err;
        w->pending = false;
        pthread_cond_broadcast(&w->change);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

enum pk_status pk_ckpt_writer_start(struct pk_ckpt_writer **out, const char *dir,
                                    struct pk_err *err)
{
    struct pk_ckpt_writer *w;
    sigset_t all, old;
    PK_TRY(pk_alloc(out, 1, sizeof **out, "checkpoint writer", err));
    w = *out;
    w->done = -1;
    enum pk_status s = pk_path(w->dir, err, "%s", dir);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->change, NULL);
    // Signals belong to the training thread: here they would only interrupt system calls.
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (s == PK_OK && pthread_create(&w->thread, NULL, work, w) != 0)
        s = pk_fail(err, PK_ENOMEM, "cannot start the checkpoint thread");
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (s != PK_OK) {
        pthread_cond_destroy(&w->change);
        pthread_mutex_destroy(&w->lock);
        free(w);
        *out = NULL;
    }
    return s;
}

/* Waits until the thread is idle and hands over its error. */
static enum pk_status wait_idle(struct pk_ckpt_writer *w, struct pk_err *err)
{
    pthread_mutex_lock(&w->lock);
    while (w->pending) pthread_cond_wait(&w->change, &w->lock);
    struct pk_err failed = w->failed;
    w->failed = (struct pk_err){0};
    pthread_mutex_unlock(&w->lock);
    if (failed.status == PK_OK) return PK_OK;
    return pk_fail(err, failed.status, "%s", failed.message);
}

static enum pk_status reserve(struct pk_ckpt_writer *w, int64_t files, int64_t tensors,
                              int64_t bytes, struct pk_err *err)
{
    PK_TRY(pk_grow(&w->file, &w->file_cap, files, sizeof *w->file, "checkpoint copy", err));
    PK_TRY(pk_grow(&w->tensor, &w->tensor_cap, tensors, sizeof *w->tensor, "checkpoint copy", err));
    if (bytes <= w->byte_cap) return PK_OK;
    free(w->bytes);
    w->byte_cap = 0;
    PK_TRY(pk_alloc_aligned(&w->bytes, (size_t)bytes, 1, "checkpoint copy", err));
    w->byte_cap = bytes;
    return PK_OK;
}

static enum pk_status snapshot(struct pk_ckpt_writer *w, const struct pk_ckpt_content *c,
                               struct pk_err *err)
{
    int64_t tensors = 0, bytes = 0, t = 0, at = 0;
    for (int32_t i = 0; i < c->files; i++) {
        tensors += c->file[i].count;
        for (int64_t k = 0; k < c->file[i].count; k++) {
            int64_t n = pk_tensor_ref_bytes(&c->file[i].tensor[k]);
            if (n < 0 || n > INT64_MAX / 2 - bytes)
                return pk_fail(err, PK_EINVAL, "tensor '%s' has an impossible type or shape",
                               c->file[i].tensor[k].name);
            bytes += (n + 63) / 64 * 64;
        }
    }
    PK_TRY(reserve(w, c->files, tensors, bytes, err));
    free(w->state);
    w->state = pk_strdup(c->state ? c->state : "");
    if (!w->state) return pk_fail(err, PK_ENOMEM, "out of memory for the checkpoint state");
    for (int32_t i = 0; i < c->files; i++) {
        w->file[i] = c->file[i];
        w->file[i].tensor = &w->tensor[t];
        for (int64_t k = 0; k < c->file[i].count; k++, t++) {
            int64_t n = pk_tensor_ref_bytes(&c->file[i].tensor[k]);
            w->tensor[t] = c->file[i].tensor[k];
            w->tensor[t].data = w->bytes + at;
            if (n) memcpy(w->tensor[t].data, c->file[i].tensor[k].data, (size_t)n);
            at += (n + 63) / 64 * 64;
        }
    }
    w->content = (struct pk_ckpt_content){c->step, c->files, w->file, w->state};
    return PK_OK;
}

void pk_ckpt_writer_tell(struct pk_ckpt_writer *w, pk_ckpt_written *fn, void *ctx)
{
    w->written = fn;
    w->written_ctx = ctx;
}

static void hand_over(struct pk_ckpt_writer *w, enum job job, const struct pk_ckpt_keep *keep)
{
    w->job = job;
    w->prune = keep != NULL;
    if (keep) w->keep = *keep;
    pthread_mutex_lock(&w->lock);
    w->pending = true;
    pthread_cond_broadcast(&w->change);
    pthread_mutex_unlock(&w->lock);
}

enum pk_status pk_ckpt_writer_submit(struct pk_ckpt_writer *w, const struct pk_ckpt_content *c,
                                     const struct pk_ckpt_keep *keep, struct pk_err *err)
{
    PK_TRY(wait_idle(w, err));
    PK_TRY(snapshot(w, c, err));
    hand_over(w, WHOLE, keep);
    return PK_OK;
}

enum pk_status pk_ckpt_writer_submit_part(struct pk_ckpt_writer *w, const struct pk_ckpt_content *c,
                                          struct pk_err *err)
{
    PK_TRY(wait_idle(w, err));
    PK_TRY(pk_grow(&w->entry, &w->entry_cap, c->files, sizeof *w->entry, "manifest", err));
    PK_TRY(snapshot(w, c, err));
    w->entries = c->files;
    hand_over(w, PART, NULL);
    return PK_OK;
}

enum pk_status pk_ckpt_writer_part(struct pk_ckpt_writer *w, const struct pk_ckpt_entry **entry,
                                   int32_t *files, struct pk_err *err)
{
    PK_TRY(wait_idle(w, err));
    *entry = w->entry;
    *files = w->entries;
    return PK_OK;
}

enum pk_status pk_ckpt_writer_submit_finish(struct pk_ckpt_writer *w, int64_t step,
                                            const char *state, const struct pk_ckpt_entry *entry,
                                            int32_t files, const struct pk_ckpt_keep *keep,
                                            struct pk_err *err)
{
    const struct pk_ckpt_content c = {.step = step, .state = state};
    PK_TRY(wait_idle(w, err));
    PK_TRY(pk_grow(&w->entry, &w->entry_cap, files, sizeof *w->entry, "manifest", err));
    PK_TRY(snapshot(w, &c, err));
    memcpy(w->entry, entry, (size_t)files * sizeof *entry);
    w->entries = files;
    hand_over(w, FINISH, keep);
    return PK_OK;
}

bool pk_ckpt_writer_busy(struct pk_ckpt_writer *w)
{
    pthread_mutex_lock(&w->lock);
    bool busy = w->pending;
    pthread_mutex_unlock(&w->lock);
    return busy;
}

enum pk_status pk_ckpt_writer_wait(struct pk_ckpt_writer *w, struct pk_err *err)
{
    return wait_idle(w, err);
}

int64_t pk_ckpt_writer_done(struct pk_ckpt_writer *w)
{
    pthread_mutex_lock(&w->lock);
    int64_t step = w->done;
    pthread_mutex_unlock(&w->lock);
    return step;
}

enum pk_status pk_ckpt_writer_stop(struct pk_ckpt_writer *w, struct pk_err *err)
{
    if (!w) return PK_OK;
    enum pk_status s = wait_idle(w, err);
    pthread_mutex_lock(&w->lock);
    w->quit = true;
    pthread_cond_broadcast(&w->change);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->change);
    pthread_mutex_destroy(&w->lock);
    free(w->file);
    free(w->tensor);
    free(w->bytes);
    free(w->entry);
    free(w->state);
    free(w);
    return s;
}
