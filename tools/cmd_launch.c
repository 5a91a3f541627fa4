/* cmd_launch.c -- purkinje launch: several ranks of one command on this host, or a check that the
 * ranks of a job reach each other. */
#include "tools/cli.h"
#include "tools/launch.h"
#include "tools/world.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

enum { RANKS_MAX = 1024 };

/* ---- --check ---- */

static void add_rank(struct pk_text *t, const struct pk_world *w, int r, const double *ms)
{
    const struct pk_peer *p = &w->peer[r];
    double worst = 0;
    int to = 0;
    for (int k = 0; k < r; k++)
        if (ms[r * w->size + k] >= worst) worst = ms[r * w->size + k], to = k;
    pk_text_add(t, "rank %-4d %-20s process %-8lld %s port %d", r, p->host, (long long)p->pid,
                p->address, p->port);
    if (r > 0) {
        pk_text_add(t, ", clock %+.3f s, reached rank%s 0", p->clock_ahead, r > 1 ? "s" : "");
        if (r > 1) pk_text_add(t, "-%d", r - 1);
        pk_text_add(t, " (slowest: %d, %.1f ms)", to, worst);
    }
    pk_text_add(t, "\n");
}

static enum pk_status report(const struct pk_job *job, struct pk_err *err)
{
    const struct pk_world *w = &job->world;
    struct pk_text t = {0};
    double *ms; // [size][size], how long rank r took to connect to rank k
    size_t size = (size_t)w->size;
    PK_TRY(pk_alloc(&ms, size * size, sizeof *ms, "times", err));
    for (int r = 0; r < w->size; r++) ms[w->rank * w->size + r] = w->peer[r].connect_ms;
    enum pk_status s = pk_comm_all_gather(job->comm, ms, size * sizeof *ms, err);
    if (s == PK_OK && w->rank == 0) {
        pk_text_add(&t, "launched by  %s\n", pk_launch_source_name(job->launch.source));
        for (int r = 0; r < w->size; r++) add_rank(&t, w, r, ms);
        pk_text_add(&t, w->size > 1 ? "all %d ranks reach each other\n" : "a single process\n",
                    w->size);
        s = pk_print(&t, err);
    }
    free(ms);
    return s;
}

static enum pk_status check(const struct pk_world_options *options, struct pk_err *err)
{
    struct pk_job job;
    enum pk_status s = pk_world_open(&job, options, err);
    if (s == PK_OK) s = report(&job, err);
    return pk_world_close(&job, s, err);
}

/* ---- launching ---- */

/* The program that a word names: one of ours, a path, or one in PATH. */
static enum pk_status find_program(char path[PK_PATH_MAX], char **word, bool *ours,
                                   struct pk_err *err)
{
    int count;
    const struct pk_command *const *c = pk_commands(&count);
    const char *list = getenv("PATH");
    *ours = false;
    for (int i = 0; i < count; i++) {
        size_t n = strlen(word[0]);
        const char *name = c[i]->name;
        bool first = !strncmp(name, word[0], n) && (name[n] == 0 || name[n] == ' ');
        *ours = *ours || (first && (name[n] == 0 || (word[1] && !strcmp(name + n + 1, word[1]))));
    }
    if (*ours) {
        ssize_t n = readlink("/proc/self/exe", path, PK_PATH_MAX - 1);
        if (n <= 0) return pk_fail_errno(err, PK_EINTERNAL, "cannot find this program");
        path[n] = 0;
        return PK_OK;
    }
    if (strchr(word[0], '/')) {
        PK_TRY(pk_path(path, err, "%s", word[0]));
        if (access(path, X_OK) == 0) return PK_OK;
        return pk_fail_errno(err, PK_EUSAGE, "cannot run %s", path);
    }
    while (list && *list) {
        size_t n = strcspn(list, ":");
        PK_TRY(pk_path(path, err, "%.*s/%s", (int)PK_MIN(n, (size_t)PK_PATH_MAX), n ? list : ".",
                       word[0]));
        if (access(path, X_OK) == 0) return PK_OK;
        list += n + (list[n] != 0);
    }
    return pk_fail(err, PK_EUSAGE,
                   "'%s' is neither a command of purkinje ('purkinje --help' lists them) nor a "
                   "program",
                   word[0]);
}

/* A launcher per node is not what this is: each would make a job of its own. */
static enum pk_status check_alone(struct pk_err *err)
{
    struct pk_launch l;
    if (pk_launch_detect(&l, (const char *const *)environ, NULL, NULL) != PK_OK || l.size == 1)
        return PK_OK;
    return pk_fail(err, PK_EUSAGE,
                   "this process is already rank %d of %d (%s), and launch starts ranks of one "
                   "host only; start the command itself there, without 'purkinje launch'",
                   l.rank, l.size, pk_launch_source_name(l.source));
}

static enum pk_status launch(const struct pk_args *a, int ranks, char **word, struct pk_err *err)
{
    struct pk_launch_spec spec = {ranks, pk_arg(a, "bind"), NULL, NULL, a->quiet};
    char path[PK_PATH_MAX], *self = a->argv[0];
    bool ours;
    int count = 0, code = 0;
    PK_TRY(check_alone(err));
    PK_TRY(find_program(path, word, &ours, err));
    while (word[count]) count++;
    PK_TRY(pk_alloc(&spec.argv, (size_t)count + 2, sizeof *spec.argv, "arguments", err));
    spec.program = path;
    if (ours) spec.argv[0] = self;
    memcpy(spec.argv + ours, word, (size_t)count * sizeof *word);
    enum pk_status s = pk_launch_run(&spec, &code, err);
    free(spec.argv);
    if (s != PK_OK || code == 0) return s;
    // the ranks or pk_launch_run have said why; exit code `code`
    fflush(stdout);
    _exit(code);
}

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    struct pk_world_options options = {.quiet = a->quiet};
    int64_t ranks = 0;
    options.flags.rank = pk_arg(a, "rank");
    options.flags.world_size = pk_arg(a, "world-size");
    options.flags.master = pk_arg(a, "master");
    options.flags.interface = pk_arg(a, "interface");
    bool checks = pk_arg(a, "check") != NULL;
    PK_TRY(pk_arg_i64(a, "n", 1, RANKS_MAX, &ranks, err));
    if (checks && a->count) return pk_fail(err, PK_EUSAGE, "--check runs no command");
    if (checks && !ranks) return check(&options, err);
    if (options.flags.rank || options.flags.world_size || options.flags.master ||
        options.flags.interface)
        return pk_fail(err, PK_EUSAGE,
                       "--rank, --world-size, --master and --interface go with "
                       "--check, where no -n starts the ranks");
    if (!ranks)
        return pk_fail(err, PK_EUSAGE, "how many ranks? for example: purkinje launch -n 4 %s",
                       a->count ? a->word[0] : "pretrain RECIPE");
    if (checks) return launch(a, (int)ranks, (char *[]){"launch", "--check", NULL}, err);
    if (!a->count) return pk_fail(err, PK_EUSAGE, "which command? 'purkinje launch --help'");
    a->word[a->count] = NULL; // there is room: argv[0] is not among them
    return launch(a, (int)ranks, a->word, err);
}

static const struct pk_option options[] = {
    {"n", "N", "ranks to start on this host"},
    {"bind", "MODE", "cores of a rank: none (default), core (a share of its own), numa (a node)"},
    {"check", NULL, "no command: ranks connect to each other, and rank 0 tells who reached whom"},
    {"rank", "R", "with --check: which rank this is, where no launcher says so"},
    {"world-size", "N", "with --check: how many ranks there are"},
    {"master", "HOST:PORT", "with --check: where rank 0 listens"},
    {"interface", "NAME", "with --check: the network interface to use, such as ib0"},
    {0}};

static const struct pk_example examples[] = {
    {"launch -n 2 doctor", "two ranks of one command"},
    {"launch -n 2 --check", "can ranks of this host reach each other"},
    {"launch --check", "under srun, mpirun, torchrun: the same for the ranks of the job"},
    {0}};

const struct pk_command pk_cmd_launch = {
    .name = "launch",
    .synopsis = "-n N COMMAND ... | [-n N] --check",
    .summary = "start ranks on this host, or check that ranks reach each other",
    .details =
        "COMMAND is a command of purkinje or any program. Every rank gets RANK, WORLD_SIZE,\n"
        "LOCAL_RANK, MASTER_ADDR, MASTER_PORT, a random PURKINJE_TOKEN, and its share of the "
        "cores\n"
        "as PURKINJE_THREADS. Signals are passed on to all ranks. When a rank fails, one line "
        "says\n"
        "which and how, and the others are ended.\n\n"
        "Exit code: 0, or what all ranks agree on; 75 when all stopped cleanly, 71 when a rank "
        "failed.\n\n"
        "On several hosts, start the command itself with srun, mpirun, torchrun or as an Indexed\n"
        "Job; it finds its rank by itself.",
    .options = options,
    .examples = examples,
    .run = run,
    .rest = true};
