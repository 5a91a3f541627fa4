/* launch.c -- starting and supervising the ranks of one host (see launch.h). */
#include "tools/launch.h"

#include "core/rendezvous_file.h"
#include "tools/world.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUNG_SECONDS  0.5 // for the rank at fault
#define LEAVE_SECONDS 2.0 // for the others to end by themselves
#define KILL_SECONDS  3.5
#define LINE          4096

struct rank {
    pid_t pid;
    bool alive, by_us;  // ended by our signal
    int status;         // of waitpid
    double ended;       // pk_seconds()
    int stopped;        // the signal that stopped it, 0 while it runs
    int output, report; // read ends of its stderr (-1: not ours) and of its reports
    char line[LINE];    // of output, not yet complete
    size_t used;
};

struct launch {
    const struct pk_launch_spec *spec;
    struct pk_bind_plan bind;
    struct pk_listener listener;
    char host[PK_HOST_TEXT], token[PK_TOKEN_BYTES];
    struct rank *rank;
    int signals; // signalfd
    sigset_t before;
    int alive, first_bad; // the rank that ended badly first, -1
    double failed_at;     // of it, or of the verdict; 0 before
    bool has_verdict, term_sent, kill_sent;
    struct pk_verdict verdict;
};

static const char *signal_name(int number, char text[32])
{
    static const struct {
        int number;
        const char *name;
    } names[] = {{SIGKILL, "SIGKILL"}, {SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"},
                 {SIGSEGV, "SIGSEGV"}, {SIGBUS, "SIGBUS"},   {SIGABRT, "SIGABRT"},
                 {SIGFPE, "SIGFPE"},   {SIGILL, "SIGILL"},   {SIGSTOP, "SIGSTOP"},
                 {SIGTSTP, "SIGTSTP"}, {SIGHUP, "SIGHUP"},   {SIGUSR1, "SIGUSR1"},
                 {SIGUSR2, "SIGUSR2"}, {SIGPIPE, "SIGPIPE"}, {SIGXCPU, "SIGXCPU"},
                 {SIGTTIN, "SIGTTIN"}, {SIGQUIT, "SIGQUIT"}, {SIGALRM, "SIGALRM"}};
    for (size_t i = 0; i < PK_COUNT(names); i++)
        if (names[i].number == number) return names[i].name;
    snprintf(text, 32, "signal %d", number);
    return text;
}

static bool set_number(const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    return setenv(name, text, 1) == 0;
}

/* In the child: the environment of rank r. */
static bool set_environment(const struct launch *l, int r, int report)
{
    int n = l->spec->ranks;
    bool good =
        set_number("RANK", r) && set_number("WORLD_SIZE", n) && set_number("LOCAL_RANK", r) &&
        set_number("LOCAL_WORLD_SIZE", n) && set_number("MASTER_PORT", l->listener.port) &&
        setenv("MASTER_ADDR", "127.0.0.1", 1) == 0 && setenv("PURKINJE_TOKEN", l->token, 1) == 0 &&
        set_number("PURKINJE_REPORT_FD", report) && unsetenv("PURKINJE_RENDEZVOUS") == 0 &&
        unsetenv("PURKINJE_LISTEN_FD") == 0;
    if (good && !getenv("PURKINJE_THREADS"))
        good = set_number("PURKINJE_THREADS", pk_bind_threads(&l->bind, r));
    return good && (r > 0 || set_number("PURKINJE_LISTEN_FD", l->listener.fd));
}

/* The child; does not return. Descriptors are close-on-exec unless the rank needs them. */
static void become_rank(const struct launch *l, int r, int output, int report, pid_t launcher)
{
    int listener = l->listener.fd;
    setpgid(0, 0);
    bool good = prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == launcher &&
                fcntl(report, F_SETFD, 0) == 0 && (output < 0 || dup2(output, 2) == 2) &&
                (r > 0 || fcntl(listener, F_SETFD, 0) == 0) && set_environment(l, r, report) &&
                sigprocmask(SIG_SETMASK, &l->before, NULL) == 0;
    if (good && !pk_bind_apply(&l->bind, r))
        fprintf(stderr, "warning: rank %d cannot be bound to its cores\n", r);
    if (good) execv(l->spec->program, l->spec->argv);
    fprintf(stderr, "error: rank %d: cannot run %s: %s\n", r, l->spec->program, strerror(errno));
    _exit(pk_exit_code(PK_EMISSING));
}

static enum pk_status start_rank(struct launch *l, int r, struct pk_err *err)
{
    struct rank *k = &l->rank[r];
    int output[2] = {-1, -1}, report[2];
    pid_t launcher = getpid();
    if ((r > 0 && pipe(output) != 0) || pipe(report) != 0)
        return pk_fail_errno(err, PK_EINTERNAL, "rank %d: no pipe", r);
    for (int i = 0; i < 2; i++) {
        if (output[i] >= 0) fcntl(output[i], F_SETFD, FD_CLOEXEC);
        fcntl(report[i], F_SETFD, FD_CLOEXEC);
    }
    k->pid = fork();
    if (k->pid == 0) become_rank(l, r, output[1], report[1], launcher);
    int why = errno;
    if (output[1] >= 0) close(output[1]);
    close(report[1]);
    k->output = output[0];
    k->report = report[0];
    errno = why;
    if (k->pid < 0) return pk_fail_errno(err, PK_EINTERNAL, "cannot start rank %d", r);
    setpgid(k->pid, k->pid); // the child does so, too: whoever is first
    k->alive = true;
    l->alive++;
    return PK_OK;
}

static void signal_all(struct launch *l, int number, bool groups)
{
    for (int r = 0; r < l->spec->ranks; r++) {
        struct rank *k = &l->rank[r];
        if (!k->alive) continue;
        if (groups) k->by_us = true;
        kill(groups ? -k->pid : k->pid, number);
        if (groups) kill(-k->pid, SIGCONT); // a stopped process would not notice SIGTERM
    }
}

/* One complete line of a rank above 0; what is an error says whose. */
static void print_line(int r, const char *line, size_t n)
{
    static const char *const marked[] = {"error:", "warning:"};
    for (size_t i = 0; i < PK_COUNT(marked); i++)
        if (n >= strlen(marked[i]) && !strncmp(line, marked[i], strlen(marked[i])))
            fprintf(stderr, "rank %d: ", r);
    fwrite(line, 1, n, stderr);
}

/* False when there is nothing left. */
static bool read_output(struct rank *k, int r)
{
    ssize_t n = read(k->output, k->line + k->used, sizeof k->line - k->used);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return true;
    size_t begin = 0;
    k->used += (size_t)PK_MAX(n, (ssize_t)0);
    for (size_t i = 0; i < k->used; i++) {
        if (k->line[i] != '\n') continue;
        print_line(r, k->line + begin, i + 1 - begin);
        begin = i + 1;
    }
    if (begin == 0 && (k->used == sizeof k->line || (n <= 0 && k->used))) {
        print_line(r, k->line, k->used); // longer than the buffer, or without an end
        if (n <= 0) fputc('\n', stderr);
        begin = k->used;
    }
    memmove(k->line, k->line + begin, k->used - begin);
    k->used -= begin;
    if (n <= 0) {
        close(k->output);
        k->output = -1;
    }
    return n > 0;
}

static bool read_report(struct launch *l, struct rank *k)
{
    struct pk_world_report p;
    ssize_t n = read(k->report, &p, sizeof p);
    if (n < 0 && errno == EINTR) return true;
    if (n <= 0) {
        close(k->report);
        k->report = -1;
        return false;
    }
    if (n == (ssize_t)sizeof p && p.magic == PK_WORLD_REPORT && !l->has_verdict) {
        l->verdict = p.verdict;
        l->has_verdict = true;
        if (l->failed_at <= 0) l->failed_at = pk_seconds();
    }
    return true;
}

static bool is_clean(int status)
{
    return WIFEXITED(status) &&
           (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == pk_exit_code(PK_ESTOPPED));
}

static void reap(struct launch *l)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED)) > 0)
        for (int r = 0; r < l->spec->ranks; r++) {
            struct rank *k = &l->rank[r];
            if (k->pid != pid || !k->alive) continue;
            if (WIFSTOPPED(status)) k->stopped = WSTOPSIG(status);
            if (WIFCONTINUED(status) && !l->has_verdict) k->stopped = 0;
            if (!WIFEXITED(status) && !WIFSIGNALED(status)) continue;
            k->alive = false;
            k->status = status;
            k->ended = pk_seconds();
            l->alive--;
            kill(-pid, SIGKILL); // what it left of its group
            if (is_clean(status) || k->by_us) continue;
            // ranks that fail as a consequence can be reaped first; they end with an exit code
            if (l->first_bad < 0 ||
                (WIFSIGNALED(status) && !WIFSIGNALED(l->rank[l->first_bad].status)))
                l->first_bad = r;
            if (l->failed_at <= 0) l->failed_at = k->ended;
        }
}

static void read_signals(struct launch *l)
{
    struct signalfd_siginfo s;
    while (read(l->signals, &s, sizeof s) == (ssize_t)sizeof s)
        if (s.ssi_signo != SIGCHLD) signal_all(l, (int)s.ssi_signo, false);
    reap(l);
}

/* After a failure: patience, SIGTERM, SIGKILL; little patience with the one that hangs. */
static void press(struct launch *l)
{
    double since = l->failed_at > 0 ? pk_seconds() - l->failed_at : 0;
    int hung = l->has_verdict ? l->verdict.rank : -1;
    if (since > HUNG_SECONDS && hung >= 0 && hung < l->spec->ranks && l->rank[hung].alive) {
        l->rank[hung].by_us = true;
        kill(-l->rank[hung].pid, SIGKILL);
    }
    if (since > LEAVE_SECONDS && !l->term_sent) {
        l->term_sent = true;
        signal_all(l, SIGTERM, true);
    }
    if (since > KILL_SECONDS && !l->kill_sent) {
        l->kill_sent = true;
        signal_all(l, SIGKILL, true);
    }
}

static enum pk_status supervise(struct launch *l, struct pk_err *err)
{
    int n = l->spec->ranks;
    struct pollfd *p;
    PK_TRY(pk_alloc(&p, 2 * (size_t)n + 1, sizeof *p, "ranks", err));
    while (l->alive > 0) {
        p[0] = (struct pollfd){l->signals, POLLIN, 0};
        for (int r = 0; r < n; r++) {
            p[1 + 2 * r] = (struct pollfd){l->rank[r].output, POLLIN, 0};
            p[2 + 2 * r] = (struct pollfd){l->rank[r].report, POLLIN, 0};
        }
        poll(p, 2 * (nfds_t)n + 1, l->failed_at > 0 ? 50 : 1000);
        for (int r = 0; r < n; r++) {
            if (p[1 + 2 * r].revents) read_output(&l->rank[r], r);
            if (p[2 + 2 * r].revents) read_report(l, &l->rank[r]);
        }
        read_signals(l);
        press(l);
    }
    free(p);
    // what is still in the pipes; a grandchild may hold one open, so only what is there
    for (int r = 0; r < n; r++)
        for (int i = 0; i < 2; i++) {
            struct pollfd q = {i ? l->rank[r].report : l->rank[r].output, POLLIN, 0};
            while (q.fd >= 0 && poll(&q, 1, 0) > 0)
                if (!(i ? read_report(l, &l->rank[r]) : read_output(&l->rank[r], r))) break;
        }
    return PK_OK;
}

/* The exit code, and whether there is a failure to speak about. */
static int judge(const struct launch *l, bool *failed)
{
    int n = l->spec->ranks, clean = 0, stopped = 0, same = 0;
    for (int r = 0; r < n; r++) {
        int s = l->rank[r].status;
        clean += is_clean(s);
        stopped += WIFEXITED(s) && WEXITSTATUS(s) == pk_exit_code(PK_ESTOPPED);
        same += WIFEXITED(s) && s == l->rank[0].status;
    }
    *failed = clean < n && (same < n || l->has_verdict);
    if (clean == n) return stopped ? pk_exit_code(PK_ESTOPPED) : 0;
    return same == n ? WEXITSTATUS(l->rank[0].status) : pk_exit_code(PK_ERANK);
}

/* The one line: who, how (a signal is known here only), where (known from the heartbeat only). */
static void tell(const struct launch *l)
{
    char text[PK_ERR_MAX], name[32], how[256];
    struct pk_verdict v = l->verdict;
    int r = l->first_bad, blamed = l->has_verdict ? v.rank : -1;
    if (blamed >= 0 && blamed < l->spec->ranks && !l->rank[blamed].by_us &&
        WIFSIGNALED(l->rank[blamed].status))
        r = blamed; // of several that were killed
    bool signaled = r >= 0 && WIFSIGNALED(l->rank[r].status);
    if (!signaled && l->has_verdict) r = v.rank; // others fail as a consequence
    if (!l->has_verdict || v.rank != r) v = (struct pk_verdict){.rank = r, .step = -1};
    if (r >= 0 && r < l->spec->ranks) {
        const struct rank *k = &l->rank[r];
        snprintf(v.host, sizeof v.host, "%s", l->host);
        v.pid = k->pid;
        if (signaled)
            snprintf(v.what, sizeof v.what, "was killed by %s",
                     signal_name(WTERMSIG(k->status), name));
        else if (!v.what[0])
            snprintf(v.what, sizeof v.what, "ended with exit code %d", WEXITSTATUS(k->status));
        if (k->stopped && !signaled) {
            snprintf(how, sizeof how, " (it is stopped: %s)", signal_name(k->stopped, name));
            size_t used = strlen(v.what);
            snprintf(v.what + used, sizeof v.what - used, "%s", how);
        }
    }
    pk_verdict_text(&v, text, sizeof text);
    fprintf(stderr, "error: %s\n", text);
}

static enum pk_status prepare(struct launch *l, struct pk_err *err)
{
    sigset_t set;
    const int caught[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR2};
    if (gethostname(l->host, sizeof l->host - 1) != 0) snprintf(l->host, sizeof l->host, "here");
    PK_TRY(pk_bind_open(&l->bind, l->spec->bind, l->spec->ranks, err));
    PK_TRY(pk_listen(&l->listener, "127.0.0.1", 0, err));
    PK_TRY(pk_token_random(l->token, err));
    PK_TRY(pk_alloc(&l->rank, (size_t)l->spec->ranks, sizeof *l->rank, "ranks", err));
    for (int r = 0; r < l->spec->ranks; r++) l->rank[r].output = l->rank[r].report = -1;
    sigemptyset(&set);
    for (size_t i = 0; i < PK_COUNT(caught); i++) sigaddset(&set, caught[i]);
    if (sigprocmask(SIG_BLOCK, &set, &l->before) != 0 ||
        (l->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)) < 0)
        return pk_fail_errno(err, PK_EINTERNAL, "cannot receive signals");
    return PK_OK;
}

static void release(struct launch *l)
{
    for (int r = 0; l->rank && r < l->spec->ranks; r++) {
        if (l->rank[r].output >= 0) close(l->rank[r].output);
        if (l->rank[r].report >= 0) close(l->rank[r].report);
    }
    if (l->signals >= 0) {
        close(l->signals);
        sigprocmask(SIG_SETMASK, &l->before, NULL);
    }
    pk_listen_close(&l->listener);
    pk_bind_free(&l->bind);
    free(l->rank);
}

static void announce(const struct launch *l)
{
    int n = l->spec->ranks, threads = pk_bind_threads(&l->bind, 0);
    const char *said = getenv("PURKINJE_THREADS");
    char count[32];
    snprintf(count, sizeof count, "%d", threads);
    if (!l->spec->quiet)
        fprintf(stderr, "launch: %d rank%s on %s, %s thread%s each\n", n, n > 1 ? "s" : "", l->host,
                said ? said : count, !said && threads == 1 ? "" : "s");
}

static void say_cores(const struct launch *l)
{
    char text[384];
    for (int r = 0; r < l->spec->ranks && l->bind.bind != PK_BIND_NONE && !l->spec->quiet; r++) {
        pk_bind_text(&l->bind, r, text, sizeof text);
        fprintf(stderr, "launch: rank %d (process %lld) on %s\n", r, (long long)l->rank[r].pid,
                text);
    }
}

enum pk_status pk_launch_run(const struct pk_launch_spec *spec, int *code, struct pk_err *err)
{
    struct launch l = {.spec = spec, .first_bad = -1, .signals = -1, .listener = {.fd = -1}};
    bool failed = false;
    enum pk_status s = prepare(&l, err);
    if (s == PK_OK) announce(&l);
    for (int r = 0; r < spec->ranks && s == PK_OK; r++) s = start_rank(&l, r, err);
    if (s == PK_OK)
        say_cores(&l);
    else if (l.rank)
        signal_all(&l, SIGKILL, true);
    pk_listen_close(&l.listener); // rank 0 has it
    if (l.rank) {
        struct pk_err e = {0};
        enum pk_status waited = supervise(&l, s == PK_OK ? err : &e);
        if (s == PK_OK) s = waited;
    }
    if (s == PK_OK) *code = judge(&l, &failed);
    if (failed) tell(&l);
    release(&l);
    return s;
}
