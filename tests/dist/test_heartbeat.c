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
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUSY 4.0 // s by which a busy machine may hold up one process more than another
enum { RANKS = 4, SCENES = 13, PATIENCE = 60 }; // s that a scene may take to begin, or to be judged

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
    bool found, aborted;
    atomic_bool overdue;
    struct pk_verdict verdict;
    double at; // pk_seconds() of the verdict, which all processes of a host share
};

/* What the processes of a scene share. */
struct stage {
    struct seen seen[RANKS];
    atomic_int here[2]; // ranks that have come to the first step, and to that of the deed
    double deed;        // pk_seconds(); 0 before it
};

struct scene {
    const char *name;
    struct pk_heartbeat_limits limits;
    int victim;
    enum { DIES, STOPS, HANGS, FAILS, LEAVES, ALL_HANG } deed;
    const char *what; // in the verdict's text, NULL for no verdict
    int who;          // at fault
    double after;     // s of standing or silence that the verdict has to tell, 0 for none
    double within;    // s from the deed, for the first rank that has it
};

static struct stage *stages; // one for each scene, shared

static void on_abort(void *ctx, const struct pk_verdict *v)
{
    struct seen *s = ctx;
    (void)v;
    s->aborted = true;
    s->at = pk_seconds();
}

static void on_overdue(void *ctx, const struct pk_verdict *v)
{
    struct seen *s = ctx;
    (void)v;
    atomic_store(&s->overdue, true);
}

/* Waits for all ranks, however long each of them takes. */
static void gather(atomic_int *here)
{
    atomic_fetch_add(here, 1);
    while (atomic_load(here) < RANKS) pk_pause(0.001);
}

/* Twelve steps of ranks that begin and end them together. */
static void come_together(struct pk_heartbeat *h, struct stage *stage)
{
    gather(&stage->here[0]); // as yet no watchdog is at work
    for (int64_t step = 0; step < 12; step++) {
        pk_heartbeat_at(h, step, "compute");
        pk_pause(0.01);
        pk_heartbeat_at(h, step, "all-reduce");
    }
    pk_pause(1); // the others hear of them
    gather(&stage->here[1]);
    pk_heartbeat_at(h, 12, "compute");
}

static void do_deed(const struct scene *c, struct pk_heartbeat *h, struct pk_world *w,
                    struct stage *stage)
{
    if (w->rank == PK_MAX(c->victim, 0)) stage->deed = pk_seconds();
    if (c->deed == DIES) _exit(9);
    if (c->deed == STOPS) raise(SIGSTOP);
    if (c->deed == FAILS) {
        pk_heartbeat_stop(h, PK_EDATA, "record 7 is damaged");
        pk_world_leave(w);
        _exit(3);
    }
    // the others said goodbye before they would have been silent for too long
    if (c->deed == LEAVES) pk_pause(c->limits.silent_s + 0.5);
}

static void act(const struct scene *c, const struct pk_launch *launch, struct stage *stage)
{
    struct pk_world w;
    struct pk_heartbeat *h = NULL;
    struct pk_err err = {0};
    struct seen *out = &stage->seen[launch->rank];
    struct pk_heartbeat_hooks hooks = {on_abort, on_overdue, out};
    if (pk_world_join(&w, launch, NULL, &err) != PK_OK ||
        pk_heartbeat_start(&h, &w, &c->limits, &hooks, &err) != PK_OK) {
        fprintf(stderr, "%s: rank %d: %s\n", c->name, launch->rank, err.message);
        _exit(1);
    }
    come_together(h, stage);
    if (w.rank == c->victim || c->deed == ALL_HANG)
        do_deed(c, h, &w, stage);
    else
        pk_heartbeat_at(h, 12, "all-reduce"); // waits for the victim
    out->found = pk_heartbeat_verdict(h, c->deed == LEAVES ? 0.3 : PATIENCE, &out->verdict);
    const double end = pk_seconds() + PATIENCE;
    while (c->limits.grace_s < 1 && !atomic_load(&out->overdue) && pk_seconds() < end)
        pk_pause(0.01); // does not stop in time
    pk_heartbeat_stop(h, out->found ? PK_ERANK : PK_OK, NULL);
    pk_world_leave(&w);
    _exit(0);
}

/* Whether the verdict came in time: others than the first rank that has it may be held up. */
static bool in_time(const struct scene *c, const struct stage *stage)
{
    double first = INFINITY;
    for (int r = 0; r < RANKS; r++)
        if (stage->seen[r].found) first = fmin(first, stage->seen[r].at - stage->deed);
    if (c->what && !(first < c->within)) fprintf(stderr, "%s: after %.2f s\n", c->name, first);
    return !c->what || first < c->within;
}

/* Whether a rank was told what it should be, in time. */
static bool judge(const struct scene *c, const struct stage *stage, int rank, const pid_t *pid)
{
    char text[PK_ERR_MAX] = "";
    const struct seen *s = &stage->seen[rank];
    const bool overdue = atomic_load(&s->overdue), late = c->limits.grace_s < 1;
    bool good = s->found == (c->what != NULL) && s->aborted == s->found;
    if (s->found) pk_verdict_text(&s->verdict, text, sizeof text);
    if (c->what) {
        const char *at = strstr(text, c->what);
        good = good && at && s->verdict.rank == c->who && overdue == late &&
               s->at - stage->deed < c->within + BUSY;
        if (at && c->after > 0) good = good && strtod(at + strlen(c->what), NULL) >= c->after;
    }
    if (c->what && c->who >= 0) good = good && s->verdict.pid == pid[c->who] && s->verdict.host[0];
    if (!good)
        fprintf(stderr, "%s: rank %d after %.2f s: '%s'\n", c->name, rank, s->at - stage->deed,
                text);
    return good;
}

static void play(const struct scene *c, struct stage *stage, const char *folder)
{
    pid_t pid[RANKS];
    for (int r = 0; r < RANKS; r++) {
        struct pk_launch l = {.rank = r,
                              .size = RANKS,
                              .local_rank = r,
                              .local_size = RANKS,
                              .listen_fd = -1,
                              .timeout_s = PATIENCE};
        snprintf(l.file, sizeof l.file, "%s/%td", folder, stage - stages);
        pid[r] = fork();
        if (pid[r] == 0) act(c, &l, stage);
    }
    for (int r = 0; r < RANKS; r++)
        if (r != c->victim) CHECK(waitpid(pid[r], NULL, 0) == pid[r]);
    if (c->victim >= 0) {
        kill(pid[c->victim], SIGKILL);
        CHECK(waitpid(pid[c->victim], NULL, 0) == pid[c->victim]);
    }
    for (int r = 0; r < RANKS; r++)
        if (r != c->victim) CHECK(judge(c, stage, r, pid));
    CHECK(in_time(c, stage));
}

/* All scenes at once, each in a process of its own: they mostly wait, for limits so wide that a
 * busy machine, which holds up any of them for a while, does not reach them. */
static void test_verdicts(const char *folder)
{
    static const struct pk_heartbeat_limits dead = {0.5, 30, 60, 30}, quick = {0.5, 4, 60, 30},
                                            dog = {0.5, 30, 4, 30}, late = {0.5, 30, 60, 0.2};
    const struct scene scenes[SCENES] = {
        {"death", dead, 2, DIES, "died at step 1", 2, 0, 5},
        {"death of rank 0", dead, 0, DIES, "died at step 1", 0, 0, 5},
        {"silence", quick, 3, STOPS, "sent no heartbeat for ", 3, 4, 4 + 2},
        {"silence of rank 0", quick, 0, STOPS, "sent no heartbeat for ", 0, 4, 4 + 2},
        {"stopped", dog, 1, STOPS, "stopped answering and made no progress for ", 1, 4, 4 + 2},
        {"stopped rank 0", dog, 0, STOPS, "stopped answering; no progress for ", 0, 4, 4 + 2},
        {"hang", dog, 1, HANGS, "made no progress for ", 1, 4, 4 + 2},
        {"hang of rank 0", dog, 0, HANGS, "at step 12 in compute", 0, 0, 4 + 2},
        {"all hang", dog, -1, ALL_HANG, "the ranks made no progress for ", -1, 4, 4 + 2},
        {"error", dead, 1, FAILS, "ended with an error (record 7 is damaged) at step 12", 1, 0, 5},
        {"error of rank 0", dead, 0, FAILS, "ended with an error (record 7", 0, 0, 5},
        {"overdue", late, 2, DIES, "died", 2, 0, 5},
        {"all well", quick, 1, LEAVES, NULL, -1, 0, 0},
    };
    pid_t pid[SCENES];
    fflush(NULL);
    for (int i = 0; i < SCENES; i++) {
        pid[i] = fork();
        if (pid[i]) continue;
        test_bad_ = 0;
        play(&scenes[i], &stages[i], folder);
        fflush(NULL);
        _exit(test_bad_ != 0);
    }
    for (int i = 0; i < SCENES; i++) {
        int status = -1;
        CHECK(waitpid(pid[i], &status, 0) == pid[i] && WIFEXITED(status) && !WEXITSTATUS(status));
    }
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
    stages = mmap(NULL, SCENES * sizeof *stages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                  -1, 0);
    if (stages == MAP_FAILED || !mkdtemp(folder)) return 1;
    test_single();
    test_verdicts(folder);
    CHECK(rmdir(folder) == 0);
    return TEST_END();
}
