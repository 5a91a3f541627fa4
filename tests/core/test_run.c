/* test_run.c -- a run's folder: refusals, the lock and its heirs, metrics cut on resume, signals.
 */
#include "core/ckpt.h"
#include "core/json.h"
#include "core/run.h"
#include "core/stop.h"
#include "tests/test.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>

static char *args[] = {"purkinje", "pretrain", "a \"quoted\" recipe.yaml", NULL};

static char *slurp(const char *dir, const char *name)
{
    char path[PK_PATH_MAX], *text = NULL;
    struct pk_err err = {0};
    snprintf(path, sizeof path, "%.2000s/%.1000s", dir, name);
    CHECK_OK(pk_read_file(path, 1 << 20, &text, NULL, &err), &err);
    return text;
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[PK_PATH_MAX];
    struct pk_err err = {0};
    snprintf(path, sizeof path, "%.2000s/%.1000s", dir, name);
    CHECK_OK(pk_write_file(path, text, strlen(text), &err), &err);
}

static bool has_text(const char *dir, const char *name, const char *want)
{
    char *text = slurp(dir, name);
    bool found = text && strstr(text, want);
    free(text);
    return found;
}

static void states(const char *dir)
{
    struct pk_run r, again;
    struct pk_err err = {0};
    char *text;
    CHECK_FAILS(pk_run_open(&r, dir, PK_RUN_RESUME, 3, args, &err), PK_EMISSING, &err, "no run");
    CHECK(!pk_exists(dir));
    CHECK_OK(pk_run_open(&r, dir, PK_RUN_NEW, 3, args, &err), &err);
    CHECK(has_text(dir, "run.json", "\"state\": \"running\""));
    CHECK(has_text(dir, "run.json", "\"a \\\"quoted\\\" recipe.yaml\""));
    CHECK(has_text(dir, "run.json", "\"last_step\": null") && has_text(dir, "run.json", r.host));
    CHECK_FAILS(pk_run_open(&again, dir, PK_RUN_NEW, 3, args, &err), PK_EMISSING, &err,
                "in use by");
    pk_run_log(&r, "step %d", 7);
    CHECK(has_text(dir, "train.log", "Z step 7\n"));
    CHECK_OK(pk_run_metric(&r, "{\"step\": 7, \"loss\": 0.5}", &err), &err);
    CHECK_FAILS(pk_run_metric(&r, "{\n}", &err), PK_EINTERNAL, &err, "newline");
    CHECK_OK(pk_run_update(&r, PK_RUN_RUNNING, 7, &err), &err);
    CHECK_OK(pk_run_close(&r, PK_RUN_STOPPED, &err), &err);
    CHECK_OK(pk_run_close(&r, PK_RUN_STOPPED, &err), &err);
    CHECK(has_text(dir, "run.json", "\"state\": \"stopped\""));
    text = slurp(dir, "lock");
    CHECK(text && !*text);
    free(text);

    CHECK_FAILS(pk_run_open(&r, dir, PK_RUN_NEW, 3, args, &err), PK_EUSAGE, &err, "holds a run");
    CHECK_OK(pk_run_open(&r, dir, PK_RUN_RESUME, 3, args, &err), &err);
    CHECK(r.resumes == 1 && r.last_step == 7 && !r.note[0]);
    CHECK_OK(pk_run_close(&r, PK_RUN_DONE, &err), &err);
    CHECK(has_text(dir, "run.json", "\"resumes\": 1") && has_text(dir, "run.json", "\"done\""));
}

/* Overwriting deletes what a run wrote, and nothing else. */
static void overwrite(const char *dir)
{
    struct pk_run r;
    struct pk_err err = {0};
    char path[PK_PATH_MAX];
    float x = 1;
    struct pk_tensor_ref t = {"x", PK_TENSOR_F32, 0, {0}, &x};
    struct pk_ckpt_file file = {"model.safetensors", &t, 1};
    struct pk_ckpt_content c = {5, 1, &file, "{}"};
    snprintf(path, sizeof path, "%s/checkpoints", dir);
    CHECK_OK(pk_ckpt_write(path, &c, &err), &err);
    snprintf(path, sizeof path, "%s/export", dir);
    CHECK_OK(pk_mkdirs(path, &err), &err);
    put(dir, "export/mine", "keep me");
    snprintf(path, sizeof path, "%s/tb", dir);
    CHECK_OK(pk_mkdirs(path, &err), &err);
    put(dir, "tb/events.out.tfevents.1", "old curve");
    CHECK_OK(pk_run_open(&r, dir, PK_RUN_OVER, 3, args, &err), &err);
    CHECK(r.resumes == 0 && r.last_step == -1 && has_text(dir, "export/mine", "keep me"));
    snprintf(path, sizeof path, "%s/checkpoints/step-000000005", dir);
    CHECK(!pk_exists(path));
    snprintf(path, sizeof path, "%s/tb/events.out.tfevents.1", dir);
    CHECK(!pk_exists(path));
    char *text = slurp(dir, "metrics.jsonl");
    CHECK(text && !*text);
    free(text);
    CHECK_OK(pk_run_close(&r, PK_RUN_DONE, &err), &err);
}

/* A child holds the run until it is killed. */
static void lock(const char *dir)
{
    struct pk_run r;
    struct pk_err err = {0};
    int ready[2];
    char c, pid_text[32];
    CHECK(pipe(ready) == 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (pk_run_open(&r, dir, PK_RUN_RESUME, 3, args, &err) != PK_OK) _exit(1);
        if (write(ready[1], "x", 1) != 1) _exit(1);
        pause();
        _exit(0);
    }
    CHECK(read(ready[0], &c, 1) == 1);
    snprintf(pid_text, sizeof pid_text, "process %d on host ", (int)child);
    CHECK_FAILS(pk_run_open(&r, dir, PK_RUN_RESUME, 3, args, &err), PK_EMISSING, &err, pid_text);
    CHECK_FAILS(pk_run_open(&r, dir, PK_RUN_OVER, 3, args, &err), PK_EMISSING, &err, pid_text);
    CHECK(has_text(dir, "run.json", "\"running\""));
    kill(child, SIGKILL);
    CHECK(waitpid(child, NULL, 0) == child);
    close(ready[0]);
    close(ready[1]);
    CHECK_OK(pk_run_open(&r, dir, PK_RUN_RESUME, 3, args, &err), &err); // the heir of the dead
    CHECK(strstr(r.note, pid_text) && strstr(r.note, "took over"));
    CHECK_OK(pk_run_close(&r, PK_RUN_STOPPED, &err), &err);
}

static void remote_lock(const char *dir)
{
    struct pk_run r;
    struct pk_err err = {0};
    static const char *const names[] = {"lock", "run.json", "metrics.jsonl"};
    put(dir, "lock", "another-host 77\n");
    CHECK_FAILS(pk_run_open(&r, dir, PK_RUN_RESUME, 3, args, &err), PK_EMISSING, &err,
                "process 77 on host another-host");
    for (size_t i = 0; i < PK_COUNT(names); i++) {
        char path[PK_PATH_MAX];
        struct utimbuf hour_ago = {time(NULL) - 3600, time(NULL) - 3600};
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        CHECK(utime(path, &hour_ago) == 0);
    }
    CHECK_OK(pk_run_open(&r, dir, PK_RUN_RESUME, 3, args, &err), &err);
    CHECK(strstr(r.note, "another-host"));
    CHECK_OK(pk_run_close(&r, PK_RUN_STOPPED, &err), &err);
    put(dir, "lock", "garbage"); // nobody's
    CHECK_OK(pk_run_open(&r, dir, PK_RUN_RESUME, 3, args, &err), &err);
    CHECK(!r.note[0]);
    CHECK_OK(pk_run_close(&r, PK_RUN_STOPPED, &err), &err);
}

static void rewind_metrics(const char *dir)
{
    struct pk_run r;
    struct pk_err err = {0};
    char line[64];
    CHECK_OK(pk_run_open(&r, dir, PK_RUN_OVER, 3, args, &err), &err);
    CHECK_OK(pk_run_metric(&r, "{\"note\": \"no step\"}", &err), &err);
    for (int i = 10; i <= 50; i += 10) {
        snprintf(line, sizeof line, "{\"step\": %d, \"loss\": 1.5}", i);
        CHECK_OK(pk_run_metric(&r, line, &err), &err);
    }
    CHECK(write(r.metrics_fd, "{\"step\": 60, \"lo", 16) == 16); // torn by a crash
    CHECK_OK(pk_run_rewind(&r, 1000, &err), &err);
    CHECK(has_text(dir, "metrics.jsonl", "50,") && !has_text(dir, "metrics.jsonl", "60"));
    CHECK_OK(pk_run_rewind(&r, 35, &err), &err);
    CHECK_OK(pk_run_metric(&r, "{\"step\": 40, \"loss\": 2.5}", &err), &err);
    CHECK_OK(pk_run_close(&r, PK_RUN_DONE, &err), &err);
    char *text = slurp(dir, "metrics.jsonl");
    CHECK(text && !strcmp(text, "{\"note\": \"no step\"}\n{\"step\": 10, \"loss\": 1.5}\n"
                                "{\"step\": 20, \"loss\": 1.5}\n{\"step\": 30, \"loss\": 1.5}\n"
                                "{\"step\": 40, \"loss\": 2.5}\n"));
    free(text);
}

static void signals(void)
{
    static const int ask[] = {SIGTERM, SIGUSR2, SIGINT};
    struct pk_err err = {0};
    for (size_t i = 0; i < PK_COUNT(ask); i++) {
        CHECK_OK(pk_stop_install(&err), &err);
        CHECK(pk_stop_requested() == 0);
        raise(ask[i]);
        CHECK(pk_stop_requested() == ask[i]);
    }
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        pk_stop_install(NULL);
        raise(SIGTERM);
        raise(SIGINT);
        raise(SIGINT); // the second Ctrl-C does not wait for a checkpoint
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
}

static void delete_tree(const char *path)
{
    struct dirent *e;
    DIR *d = opendir(path);
    while (d && (e = readdir(d))) {
        char inner[PK_PATH_MAX];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(inner, sizeof inner, "%.2000s/%s", path, e->d_name);
        if (unlink(inner) != 0) delete_tree(inner);
    }
    if (d) closedir(d);
    rmdir(path);
}

int main(void)
{
    char root[] = "test_run.XXXXXX", dir[64];
    CHECK(mkdtemp(root) != NULL);
    snprintf(dir, sizeof dir, "%s/parents/run", root);
    states(dir);
    overwrite(dir);
    lock(dir);
    remote_lock(dir);
    rewind_metrics(dir);
    signals();
    struct pk_err err = {0};
    struct pk_run r;
    put(root, "file", "x");
    snprintf(dir, sizeof dir, "%s/file", root);
    CHECK_FAILS(pk_run_open(&r, dir, PK_RUN_NEW, 3, args, &err), PK_EWRITE, &err, "/file");
    delete_tree(root);
    return TEST_END();
}
