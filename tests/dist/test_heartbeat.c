/* test_heartbeat.c -- verdicts of the heartbeat, by ranks that are processes of this host.
 *
 * With the argument "rank" this program is such a rank under `purkinje launch` or anything else
 * that sets RANK (test_launch.py):
 *     test_heartbeat rank STEPS MILLISECONDS [hang=RANK:STEP] [fail=RANK:STEP] [busy=RANK:STEP]
 * It steps as training does: computes, then sums over all ranks. hang
 * computes for ever, fail ends with an error of its own, busy ignores the abort, too. */
#include "core/stop.h"
#include "tests/test.h"
#include "tools/world.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS = 4 };

/* ---- a rank that trains ---- */

struct loop {
    struct pk_job job;
    int64_t steps;
    double pause;
    int64_t hang[2], fail[2], busy[2]; // rank and step, -1 for never
};

static bool now(const int64_t when[2], const struct loop *l, int64_t step)
{
    return when[0] == l->job.world.rank && when[1] == step;
}

static enum pk_status train(struct loop *l, struct pk_err *err)
{
    float stop = 0;
    for (int64_t step = 0; step < l->steps && stop == 0; step++) {
        pk_heartbeat_at(l->job.heartbeat, step, "compute");
        pk_pause(l->pause);
        while (now(l->hang, l, step) && !pk_heartbeat_verdict(l->job.heartbeat, 0.01, NULL))
            continue;
        while (now(l->busy, l, step)) pk_pause(0.01);
        if (now(l->fail, l, step)) return pk_fail(err, PK_EDATA, "record 7 is damaged");
        pk_heartbeat_at(l->job.heartbeat, step, "all-reduce");
        stop = pk_stop_requested() != 0;
        PK_TRY(pk_comm_sum(l->job.comm, &stop, 1, err)); // everybody stops when one is asked to
        if (step == 0 && l->job.world.rank == 0) fprintf(stderr, "training\n");
    }
    return stop != 0 ? pk_fail(err, PK_ESTOPPED, "stopped") : PK_OK;
}

static bool parse_when(const char *word, const char *name, int64_t out[2])
{
    char rank[32];
    size_t n = strlen(name);
    const char *colon = strchr(word, ':');
    if (strncmp(word, name, n) != 0 || !colon) return false;
    snprintf(rank, sizeof rank, "%.*s", (int)(colon - word - (long)n), word + n);
    return pk_parse_i64(rank, &out[0]) && pk_parse_i64(colon + 1, &out[1]);
}

static int be_rank(int argc, char **argv)
{
    struct loop l = {.hang = {-1, -1}, .fail = {-1, -1}, .busy = {-1, -1}};
    struct pk_err err = {0};
    int64_t ms;
    if (argc < 4 || !pk_parse_i64(argv[2], &l.steps) || !pk_parse_i64(argv[3], &ms)) return 2;
    for (int i = 4; i < argc; i++)
        if (!parse_when(argv[i], "hang=", l.hang) && !parse_when(argv[i], "fail=", l.fail) &&
            !parse_when(argv[i], "busy=", l.busy))
            return 2;
    l.pause = (double)ms * 1e-3;
    enum pk_status s = pk_stop_install(&err);
    struct pk_world_options options = {.recipe = 1};
    if (s == PK_OK) s = pk_world_open(&l.job, &options, &err);
    if (s == PK_OK) s = train(&l, &err);
    s = pk_world_close(&l.job, s, &err);
    if (s != PK_OK && s != PK_ESTOPPED && !err.said) fprintf(stderr, "error: %s\n", err.message);
    return pk_exit_code(s);
}

/* ---- verdicts, one by one ---- */

struct seen {
    bool found, aborted, overdue;
    struct pk_verdict verdict;
    double seconds; // from the deed to the verdict
};

struct scene {
    const char *name;
    struct pk_heartbeat_limits limits;
    int victim;
    enum { DIES, STOPS, HANGS, FAILS, LEAVES, ALL_HANG } deed;
    const char *what; // in the verdict's text, NULL for no verdict
    int who;          // at fault
    double within;    // s
};

static struct seen *seen; // [RANKS], shared

static void on_abort(void *ctx, const struct pk_verdict *v)
{
    struct seen *s = ctx;
    (void)v;
    s->aborted = true;
}

static void on_overdue(void *ctx, const struct pk_verdict *v)
{
    struct seen *s = ctx;
    (void)v;
    s->overdue = true;
}

static void act(const struct scene *c, const struct pk_launch *launch, struct seen *out)
{
    struct pk_world w;
    struct pk_heartbeat *h = NULL;
    struct pk_err err = {0};
    struct pk_heartbeat_hooks hooks = {on_abort, on_overdue, out};
    if (pk_world_join(&w, launch, NULL, &err) != PK_OK ||
        pk_heartbeat_start(&h, &w, &c->limits, &hooks, &err) != PK_OK) {
        fprintf(stderr, "%s\n", err.message);
        _exit(1);
    }
    bool victim = w.rank == c->victim;
    double begun = 0;
    for (int64_t step = 0; step < 20; step++) { // the others wait in all-reduce from step 12 on
        pk_heartbeat_at(h, step, "compute");
        pk_pause(0.01);
        if (step == 12) begun = pk_seconds();
        if (step == 12 && victim && c->deed == DIES) _exit(9);
        if (step == 12 && victim && c->deed == STOPS) raise(SIGSTOP);
        if (step == 12 && victim && c->deed == FAILS) {
            pk_heartbeat_stop(h, PK_EDATA, "record 7 is damaged");
            pk_world_leave(&w);
            _exit(3);
        }
        if (step == 12 && c->deed != LEAVES && (victim || c->deed == ALL_HANG)) break;
        pk_heartbeat_at(h, step, "all-reduce");
        if (step == 12 && c->deed != LEAVES) break;
    }
    if (c->deed == LEAVES && victim) pk_pause(0.5); // the others said goodbye long ago
    double wait = c->deed == LEAVES ? 0.3 : 5;
    out->found = pk_heartbeat_verdict(h, wait, &out->verdict);
    out->seconds = pk_seconds() - begun;
    if (c->limits.grace_s < 1) pk_pause(0.4); // does not stop in time
    pk_heartbeat_stop(h, out->found ? PK_ERANK : PK_OK, NULL);
    pk_world_leave(&w);
    _exit(0);
}

static void play(const struct scene *c, const char *folder)
{
    pid_t pid[RANKS];
    memset(seen, 0, RANKS * sizeof *seen);
    for (int r = 0; r < RANKS; r++) {
        struct pk_launch l = {.rank = r,
                              .size = RANKS,
                              .local_rank = r,
                              .local_size = RANKS,
                              .listen_fd = -1,
                              .timeout_s = 10};
        snprintf(l.file, sizeof l.file, "%s/meet", folder);
        pid[r] = fork();
        if (pid[r] == 0) act(c, &l, &seen[r]);
    }
    for (int r = 0; r < RANKS; r++)
        if (r != c->victim) CHECK(waitpid(pid[r], NULL, 0) == pid[r]);
    if (c->victim >= 0) {
        kill(pid[c->victim], SIGKILL);
        CHECK(waitpid(pid[c->victim], NULL, 0) == pid[c->victim]);
    }
    for (int r = 0; r < RANKS; r++) {
        char text[PK_ERR_MAX] = "";
        const struct seen *s = &seen[r];
        if (r == c->victim && c->deed != LEAVES) continue;
        bool good = s->found == (c->what != NULL) && s->aborted == s->found;
        if (s->found) pk_verdict_text(&s->verdict, text, sizeof text);
        if (c->what)
            good = good && strstr(text, c->what) && s->verdict.rank == c->who &&
                   s->seconds < c->within && s->overdue == (c->limits.grace_s < 1);
        if (c->what && c->who >= 0)
            good = good && s->verdict.pid == pid[c->who] && s->verdict.host[0];
        CHECK(good);
        if (!good)
            fprintf(stderr, "%s: rank %d after %.2f s: '%s'\n", c->name, r, s->seconds, text);
    }
}

static void test_verdicts(const char *folder)
{
    static const struct pk_heartbeat_limits quick = {0.05, 0.6, 5, 2}, dog = {0.05, 30, 0.6, 2},
                                            late = {0.05, 30, 5, 0.2}, calm = {0.05, 30, 30, 2};
    const struct scene scenes[] = {
        {"death", quick, 2, DIES, "died at step ", 2, 3},
        {"death of rank 0", quick, 0, DIES, "died at step ", 0, 3},
        {"silence", quick, 3, STOPS, "sent no heartbeat for 0.", 3, 2},
        {"silence of rank 0", quick, 0, STOPS, "sent no heartbeat for 0.", 0, 2},
        {"stopped", dog, 1, STOPS, "stopped answering and made no progress for", 1, 2.6},
        {"stopped rank 0", dog, 0, STOPS, "stopped answering; no progress for", 0, 2.6},
        {"hang", dog, 1, HANGS, "made no progress for 0.", 1, 2.6},
        {"hang of rank 0", dog, 0, HANGS, "at step 12 in compute", 0, 2.6},
        {"all hang", dog, -1, ALL_HANG, "the ranks made no progress", -1, 2.6},
        {"error", calm, 1, FAILS, "ended with an error (record 7 is damaged) at step 12", 1, 3},
        {"error of rank 0", calm, 0, FAILS, "ended with an error (record 7", 0, 3},
        {"overdue", late, 2, DIES, "died", 2, 3},
        {"all well", quick, 1, LEAVES, NULL, -1, 0},
    };
    for (size_t i = 0; i < PK_COUNT(scenes); i++) play(&scenes[i], folder);
}

static void test_single(void)
{
    struct pk_world w = {.size = 1};
    struct pk_heartbeat *h;
    struct pk_err err = {0};
    CHECK_OK(pk_heartbeat_start(&h, &w, NULL, NULL, &err), &err);
    CHECK(h == NULL);
    pk_heartbeat_at(h, 1, "compute");
    CHECK(!pk_heartbeat_verdict(h, 0, NULL));
    pk_heartbeat_stop(h, PK_OK, NULL);
}

int main(int argc, char **argv)
{
    char folder[] = "/tmp/purkinje-heartbeat-XXXXXX";
    if (argc > 1) return be_rank(argc, argv);
    seen =
        mmap(NULL, RANKS * sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (seen == MAP_FAILED || !mkdtemp(folder)) return 1;
    test_single();
    test_verdicts(folder);
    CHECK(rmdir(folder) == 0);
    return TEST_END();
}
