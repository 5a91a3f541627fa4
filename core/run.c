/* run.c -- a run's folder: state, metrics, log (see run.h; the lock is in run_lock.c). */
#include "core/run.h"

#include "core/ckpt.h"
#include "core/json.h"
#include "core/run_lock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RUN_JSON_MAX = 1 << 20, LINE_MAX_BYTES = 1 << 20 };

const char *pk_run_state_name(enum pk_run_state s)
{
    static const char *const names[] = {"running", "stopped", "done", "failed", "diverged"};
    return (size_t)s < PK_COUNT(names) ? names[s] : "?";
}

static void now(char out[32])
{
    struct tm tm;
    time_t t = time(NULL);
    gmtime_r(&t, &tm);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static enum pk_status write_json(const struct pk_run *r, struct pk_err *err)
{
    struct pk_text t = {0};
    struct pk_json_writer w = {.out = &t, .indent = 2};
    char path[PK_PATH_MAX], stamp[32];
    now(stamp);
    PK_TRY(pk_path(path, err, "%s/run.json", r->dir));
    pk_json_open(&w, NULL, '{');
    pk_json_put_string(&w, "state", pk_run_state_name(r->state));
    pk_json_open(&w, "argv", '[');
    for (int i = 0; i < r->argc; i++) pk_json_put_string(&w, NULL, r->argv[i]);
    pk_json_close(&w);
    pk_json_put_string(&w, "version", PK_VERSION);
    pk_json_put_string(&w, "host", r->host);
    pk_json_put_i64(&w, "pid", (int64_t)getpid());
    pk_json_put_string(&w, "started", r->started);
    pk_json_put_string(&w, "updated", stamp);
    pk_json_put_i64(&w, "resumes", r->resumes);
    if (r->last_step >= 0)
        pk_json_put_i64(&w, "last_step", r->last_step);
    else
        pk_json_put_null(&w, "last_step");
    pk_json_close(&w);
    enum pk_status s = t.failed ? pk_fail(err, PK_ENOMEM, "out of memory for %s", path)
                                : pk_write_file(path, t.s, t.len, err);
    pk_text_free(&t);
    return s;
}

/* A run that was resumed keeps its first start and its last good step. */
static enum pk_status read_json(struct pk_run *r, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    struct pk_json j;
    PK_TRY(pk_path(path, err, "%s/run.json", r->dir));
    if (!pk_exists(path)) return PK_OK; // its checkpoints are what matters
    PK_TRY(pk_json_load(&j, path, RUN_JSON_MAX, err));
    snprintf(r->started, sizeof r->started, "%.31s", pk_json_string(&j, "started", ""));
    r->resumes = pk_json_i64(&j, "resumes", 0) + 1;
    r->last_step = pk_json_i64(&j, "last_step", -1);
    pk_json_free(&j);
    return PK_OK;
}

static enum pk_status delete_file(const char *dir, const char *name, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    PK_TRY(pk_path(path, err, "%s/%s", dir, name));
    if (unlink(path) != 0 && errno != ENOENT)
        return pk_fail_errno(err, PK_EWRITE, "cannot delete %s", path);
    return PK_OK;
}

/* Deletes the files of a folder whose names begin so; a folder that does not exist has none. */
static enum pk_status delete_files(const char *folder, const char *begin, struct pk_err *err)
{
    struct dirent *e;
    enum pk_status s = PK_OK;
    DIR *d = opendir(folder);
    if (!d && errno == ENOENT) return PK_OK;
    if (!d) return pk_fail_errno(err, PK_EWRITE, "cannot list %s", folder);
    while (s == PK_OK && (e = readdir(d)))
        if (!strncmp(e->d_name, begin, strlen(begin))) s = delete_file(folder, e->d_name, err);
    closedir(d);
    return s;
}

/* run.json goes last: until then the folder still counts as a run, and asking again goes on. */
static enum pk_status delete_run(const struct pk_run *r, struct pk_err *err)
{
    static const char *const names[] = {
        "metrics.jsonl",   "train.log",       "recipe.yaml",           "result.json",
        "test_scores.npy", "test_labels.npy", "validation_scores.npy", "validation_labels.npy",
        "run.json"};
    char tb[PK_PATH_MAX];
    PK_TRY(pk_ckpt_clean(r->checkpoints, err));
    PK_TRY(pk_ckpt_drop_after(r->checkpoints, -1, err));
    /* TensorBoard's folder would mix the old curves with the new. */
    PK_TRY(pk_path(tb, err, "%s/tb", r->dir));
    PK_TRY(delete_files(tb, "events.", err));
    PK_TRY(delete_files(r->dir, "nan-step-", err));
    for (size_t i = 0; i < PK_COUNT(names); i++) PK_TRY(delete_file(r->dir, names[i], err));
    return PK_OK;
}

static enum pk_status open_append(int *fd, const struct pk_run *r, const char *name,
                                  struct pk_err *err)
{
    char path[PK_PATH_MAX];
    PK_TRY(pk_path(path, err, "%s/%s", r->dir, name));
    *fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (*fd < 0) return pk_fail_errno(err, PK_EWRITE, "cannot open %s", path);
    return PK_OK;
}

static bool holds_run(const char *dir)
{
    char path[PK_PATH_MAX];
    int64_t *steps = NULL, count = 0;
    if (pk_path(path, NULL, "%s/run.json", dir) == PK_OK && pk_exists(path)) return true;
    if (pk_path(path, NULL, "%s/checkpoints", dir) == PK_OK)
        pk_ckpt_steps(path, &steps, &count, NULL);
    free(steps);
    return count > 0;
}

enum pk_status pk_run_check(const char *dir, enum pk_run_mode mode, struct pk_err *err)
{
    bool there = holds_run(dir);
    if (mode == PK_RUN_NEW && there)
        return pk_fail(err, PK_EUSAGE,
                       "%s holds a run already; 'purkinje resume %s' continues it, --overwrite "
                       "deletes it, or give another folder with output.dir=...",
                       dir, dir);
    if (mode == PK_RUN_RESUME && !there)
        return pk_fail(err, PK_EMISSING, "%s holds no run to resume", dir);
    return PK_OK;
}

static enum pk_status prepare(struct pk_run *r, enum pk_run_mode mode, struct pk_err *err)
{
    PK_TRY(pk_run_check(r->dir, mode, err));
    if (mode == PK_RUN_OVER) return delete_run(r, err);
    if (mode == PK_RUN_RESUME) PK_TRY(read_json(r, err));
    return pk_ckpt_clean(r->checkpoints, err);
}

enum pk_status pk_run_open(struct pk_run *r, const char *dir, enum pk_run_mode mode, int argc,
                           char **argv, struct pk_err *err)
{
    *r = (struct pk_run){
        .lock_fd = -1, .metrics_fd = -1, .log_fd = -1, .last_step = -1, .argc = argc, .argv = argv};
    PK_TRY(pk_path(r->dir, err, "%s", dir));
    PK_TRY(pk_path(r->checkpoints, err, "%s/checkpoints", dir));
    if (mode == PK_RUN_RESUME) PK_TRY(pk_run_check(dir, mode, err));
    PK_TRY(pk_mkdirs(dir, err));
    now(r->started);
    enum pk_status s = pk_run_lock(r, err);
    if (s == PK_OK) s = prepare(r, mode, err);
    if (s == PK_OK) s = open_append(&r->metrics_fd, r, "metrics.jsonl", err);
    if (s == PK_OK) s = open_append(&r->log_fd, r, "train.log", err);
    if (s == PK_OK) s = write_json(r, err);
    if (s == PK_OK) return PK_OK;
    if (r->metrics_fd >= 0) close(r->metrics_fd);
    if (r->log_fd >= 0) close(r->log_fd);
    pk_run_unlock(r);
    *r = (struct pk_run){.lock_fd = -1, .metrics_fd = -1, .log_fd = -1};
    return s;
}

enum pk_status pk_run_update(struct pk_run *r, enum pk_run_state state, int64_t last_step,
                             struct pk_err *err)
{
    r->state = state;
    r->last_step = last_step;
    return write_json(r, err);
}

/* One write per line, so that a reader or a crash sees whole lines but for the last. */
static bool append(int fd, const char *line, size_t n)
{
    while (n) {
        ssize_t w = write(fd, line, n);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return false;
        line += w;
        n -= (size_t)w;
    }
    return true;
}

enum pk_status pk_run_metric(struct pk_run *r, const char *json, struct pk_err *err)
{
    struct pk_text t = {0};
    enum pk_status s = PK_OK;
    if (strchr(json, '\n')) return pk_fail(err, PK_EINTERNAL, "a metrics line holds a newline");
    pk_text_add(&t, "%s\n", json);
    if (t.failed)
        s = pk_fail(err, PK_ENOMEM, "out of memory for a metrics line");
    else if (!append(r->metrics_fd, t.s, t.len))
        s = pk_fail_errno(err, PK_EWRITE, "cannot write %s/metrics.jsonl", r->dir);
    pk_text_free(&t);
    return s;
}

/* Whether a line of metrics.jsonl is whole and of a step up to `step`; lines without one stay. */
static bool line_stays(const char *line, size_t n, int64_t step)
{
    struct pk_json j;
    if (n == 0 || line[n - 1] != '\n' || n > LINE_MAX_BYTES) return false;
    if (pk_json_parse(&j, line, n, "metrics", NULL) != PK_OK) return false;
    bool stays = pk_json_i64(&j, "step", step) <= step;
    pk_json_free(&j);
    return stays;
}

enum pk_status pk_run_rewind(struct pk_run *r, int64_t step, struct pk_err *err)
{
    char path[PK_PATH_MAX], *line = NULL;
    size_t capacity = 0;
    int64_t keep = 0;
    ssize_t n;
    FILE *f;
    PK_TRY(pk_path(path, err, "%s/metrics.jsonl", r->dir));
    PK_TRY(pk_open(&f, path, "rb", err));
    while ((n = getline(&line, &capacity, f)) > 0 && line_stays(line, (size_t)n, step)) keep += n;
    bool failed = ferror(f) != 0;
    free(line);
    fclose(f);
    if (failed) return pk_fail(err, PK_EIO, "cannot read %s", path);
    if (ftruncate(r->metrics_fd, (off_t)keep) != 0 || fsync(r->metrics_fd) != 0)
        return pk_fail_errno(err, PK_EWRITE, "cannot cut %s to %lld bytes", path, (long long)keep);
    return PK_OK;
}

void pk_run_log(struct pk_run *r, const char *fmt, ...)
{
    char stamp[32], text[2048];
    struct pk_text t = {0};
    va_list ap;
    if (r->log_fd < 0) return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    now(stamp);
    pk_text_add(&t, "%s %s\n", stamp, text);
    if (!t.failed) append(r->log_fd, t.s, t.len);
    pk_text_free(&t);
}

enum pk_status pk_run_close(struct pk_run *r, enum pk_run_state state, struct pk_err *err)
{
    if (!r->dir[0]) return PK_OK;
    enum pk_status s = pk_run_update(r, state, r->last_step, err);
    close(r->metrics_fd);
    close(r->log_fd);
    pk_run_unlock(r);
    *r = (struct pk_run){.lock_fd = -1, .metrics_fd = -1, .log_fd = -1};
    return s;
}
