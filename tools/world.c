/* world.c -- joining a job and leaving it (see world.h). */
#include "tools/world.h"
#include "core/sink.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

#define VERDICT_SECONDS 2.0 // a broken connection is a consequence: its cause is known by then

static void say(void *ctx, const char *line)
{
    const struct pk_job *job = ctx;
    if (!job->options.quiet || !strncmp(line, "warning:", 8)) fprintf(stderr, "%s\n", line);
}

/* The launcher's pipe, if there is one. */
static int find_report_fd(void)
{
    const char *text = getenv("PURKINJE_REPORT_FD");
    int64_t fd;
    struct stat st;
    if (!text || !pk_parse_i64(text, &fd) || fd < 3 || fd > 65535) return -1;
    if (fstat((int)fd, &st) != 0 || !S_ISFIFO(st.st_mode)) return -1;
    if (fcntl((int)fd, F_SETFD, FD_CLOEXEC) != 0) return -1;
    return (int)fd;
}

/* Hash of the running program, so that ranks with different builds are found. */
static uint64_t hash_program(void)
{
    unsigned char bytes[65536];
    uint64_t hash = 0;
    ssize_t n;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    while ((n = read(fd, bytes, sizeof bytes)) > 0) hash = pk_hash64(bytes, (size_t)n, hash);
    close(fd);
    return hash;
}

static enum pk_status seconds_from(const char *name, double *out, struct pk_err *err)
{
    const char *text = getenv(name);
    if (!text) return PK_OK;
    if (!pk_parse_f64(text, out) || !(*out >= -1 && *out <= 86400) || *out == 0)
        return pk_fail(err, PK_EUSAGE, "%s is '%.60s': seconds were expected", name, text);
    return PK_OK;
}

/* One rank of each host stands for those that cannot tell each other any more. */
static bool speaks(const struct pk_job *job, const struct pk_verdict *v)
{
    const struct pk_world *w = &job->world;
    if (job->report_fd >= 0) return false;
    if (w->rank == 0 || v->rank != 0) return w->rank == 0;
    for (int r = 1; r < w->rank; r++)
        if (!strcmp(w->peer[r].host, w->peer[w->rank].host)) return false;
    return true;
}

static void on_abort(void *ctx, const struct pk_verdict *v)
{
    struct pk_job *job = ctx;
    char text[PK_ERR_MAX];
    struct pk_world_report report;
    memset(&report, 0, sizeof report); // padding travels, too
    report.magic = PK_WORLD_REPORT;
    report.verdict = *v;
    // a launcher that is gone needs no report
    if (job->report_fd >= 0 && write(job->report_fd, &report, sizeof report) < 0)
        job->report_fd = -1;
    pk_verdict_text(v, text, sizeof text);
    pk_comm_abort(job->comm, text);
}

/* The training thread did not come back: it is stuck somewhere that the abort does not reach. */
static void on_overdue(void *ctx, const struct pk_verdict *v)
{
    struct pk_job *job = ctx;
    char text[PK_ERR_MAX];
    pk_verdict_text(v, text, sizeof text);
    if (speaks(job, v)) fprintf(stderr, "error: %s\n", text);
    _exit(pk_exit_code(PK_ERANK));
}

static enum pk_status open_comm(struct pk_job *job, struct pk_err *err)
{
    struct pk_world *w = &job->world;
    if (w->size == 1) return pk_comm_single(&job->comm, err);
    PK_TRY(pk_comm_tcp(&job->comm, w->rank, w->size, w->fd, 0, err));
    for (int r = 0; r < w->size; r++) w->fd[r] = -1; // the comm's now
    return PK_OK;
}

static void leave(struct pk_job *job)
{
    pk_comm_free(job->comm);
    job->comm = NULL;
    pk_world_leave(&job->world);
}

enum pk_status pk_world_open(struct pk_job *job, const struct pk_world_options *options,
                             struct pk_err *err)
{
    struct pk_heartbeat_limits limits = {0};
    *job = (struct pk_job){.options = *options, .report_fd = -1};
    PK_TRY(seconds_from("PURKINJE_WATCHDOG", &limits.watchdog_s, err));
    PK_TRY(seconds_from("PURKINJE_SILENCE", &limits.silent_s, err));
    PK_TRY(seconds_from("PURKINJE_HEARTBEAT", &limits.interval_s, err));
    PK_TRY(pk_launch_detect(&job->launch, (const char *const *)environ, &options->flags, err));
    job->report_fd = find_report_fd();
    struct pk_world_identity mine = {.recipe = options->recipe, .say = say, .ctx = job};
    if (job->launch.size > 1) mine.binary = hash_program();
    enum pk_status s = pk_world_join(&job->world, &job->launch, &mine, err);
    if (s == PK_OK) s = open_comm(job, err);
    if (s == PK_OK)
        s = pk_heartbeat_start(
            &job->heartbeat, &job->world, &limits,
            &(struct pk_heartbeat_hooks){.decided = on_abort, .overdue = on_overdue, .ctx = job},
            err);
    if (s != PK_OK && job->world.told && err) err->said = true; // rank 0 says it
    if (s != PK_OK) leave(job);
    return s;
}

enum pk_status pk_world_open_command(struct pk_job *job, const struct pk_args *args,
                                     struct pk_err *err)
{
    struct pk_xxh64 h;
    PK_TRY(pk_world_open(job, &(struct pk_world_options){.quiet = args->quiet}, err));
    pk_xxh64_start(&h);
    for (int i = 1; i < args->argc; i++) pk_xxh64_add(&h, args->argv[i], strlen(args->argv[i]) + 1);
    enum pk_status s = pk_comm_same(job->comm, pk_xxh64_value(&h), "command line", err);
    return s == PK_OK ? s : pk_world_close(job, s, err);
}

/* Which node lacks the corpus? Under `purkinje launch` the launcher puts the rank before each line.
 */
static void name_rank(const struct pk_job *job, struct pk_err *err)
{
    const struct pk_world *w = &job->world;
    char text[PK_ERR_MAX];
    if (!err || err->said || w->rank == 0 || job->report_fd >= 0) return;
    snprintf(text, sizeof text, "%s", err->message);
    snprintf(err->message, sizeof err->message, "rank %d (%s, process %ld): %.*s", w->rank,
             w->peer[w->rank].host, (long)getpid(), PK_ERR_MAX - 400, text);
}

enum pk_status pk_world_close(struct pk_job *job, enum pk_status s, struct pk_err *err)
{
    struct pk_verdict v;
    double wait = s == PK_ERANK ? VERDICT_SECONDS : 0;
    bool failed = s != PK_OK && s != PK_ESTOPPED;
    if (!job->heartbeat) {
        leave(job);
        return s;
    }
    // an error of its own that this rank was about to report goes before what it led to
    bool found = pk_heartbeat_verdict(job->heartbeat, wait, &v) && (s == PK_ERANK || !failed);
    if (found) {
        char text[PK_ERR_MAX];
        pk_verdict_text(&v, text, sizeof text);
        s = pk_fail(err, PK_ERANK, "%s", text);
        if (err) err->said = !speaks(job, &v);
    }
    pk_heartbeat_stop(job->heartbeat, s, failed && err ? err->message : NULL);
    job->heartbeat = NULL;
    if (failed && s != PK_ERANK) name_rank(job, err);
    leave(job);
    return s;
}
