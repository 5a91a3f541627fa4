/* heartbeat.c -- finding a rank that died, hangs or is cut off (see heartbeat.h). */
#include "core/heartbeat.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAGIC         0x54414542534b5550u
#define BLAME_SECONDS 1.0 // from a goodbye with an error: time for the cause to show elsewhere

enum kind { BEAT = 1, LEAVE, VERDICT };

/* One message, both ways; of fixed size without padding. */
struct beat {
    uint64_t magic;
    int64_t kind;
    int64_t step, ticks; // ticks: how many pk_heartbeat_at calls
    double idle;         // s since the last of them; -1 before the first
    int64_t status;      // LEAVE: enum pk_status
    int64_t rank, pid;   // VERDICT: whose
    char operation[PK_OPERATION_TEXT];
    char host[PK_HOST_TEXT];
    char what[512];
};

/* The other end of a connection, as it was last heard. */
struct end {
    int fd;       // -1 where there is none (any more)
    bool left;    // said goodbye
    double heard; // pk_seconds() of the last message
    double idle;  // as it said then
    int64_t step, ticks;
    double failed_at; // when it said goodbye with an error; 0 if not
    size_t got;
    struct beat in;
    char operation[PK_OPERATION_TEXT], why[512];
};

struct pk_heartbeat {
    int rank, size;
    struct pk_peer *peer; // [size], a copy
    struct end *end;      // [size]; ranks other than 0 use only end[0]
    struct pk_heartbeat_limits limits;
    struct pk_heartbeat_hooks hooks;
    pthread_t thread;
    int wake; // eventfd: stop was asked for
    atomic_bool stop;
    enum pk_status status; // of the goodbye, set before `stop`
    char why[512];
    // progress, written by the training loop
    atomic_int_least64_t step, ticks;
    _Atomic(const char *) operation;
    int64_t seen_ticks; // by the thread
    double moved;       // when they last changed
    // the verdict
    pthread_mutex_t lock;
    pthread_cond_t decided;
    bool has_verdict;
    struct pk_verdict verdict;
    double decided_at;
    bool overdue_called;
};

void pk_heartbeat_at(struct pk_heartbeat *h, int64_t step, const char *operation)
{
    if (!h) return;
    atomic_store_explicit(&h->step, step, memory_order_relaxed);
    atomic_store_explicit(&h->operation, operation, memory_order_relaxed);
    int64_t n = atomic_load_explicit(&h->ticks, memory_order_relaxed);
    atomic_store_explicit(&h->ticks, n + 1, memory_order_relaxed);
}

/* Seconds since this rank's last progress, -1 before the first. */
static double own_idle(struct pk_heartbeat *h, double now)
{
    int64_t ticks = atomic_load_explicit(&h->ticks, memory_order_relaxed);
    if (ticks != h->seen_ticks) {
        h->seen_ticks = ticks;
        h->moved = now;
    }
    return ticks ? now - h->moved : -1;
}

static struct beat make_beat(struct pk_heartbeat *h, enum kind kind)
{
    const char *operation = atomic_load_explicit(&h->operation, memory_order_relaxed);
    struct beat b = {.magic = MAGIC, .kind = kind, .rank = h->rank};
    b.ticks = atomic_load_explicit(&h->ticks, memory_order_relaxed);
    b.step = atomic_load_explicit(&h->step, memory_order_relaxed);
    b.idle = own_idle(h, pk_seconds());
    snprintf(b.operation, sizeof b.operation, "%s", operation ? operation : "");
    return b;
}

/* A peer that takes nothing is found by its silence; half a message must not stay half, though. */
static void send_beat(struct end *e, const struct beat *b)
{
    if (e->fd < 0) return;
    ssize_t n = send(e->fd, b, sizeof *b, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0 && n < (ssize_t)sizeof *b)
        pk_send_all(e->fd, (const char *)b + n, sizeof *b - (size_t)n, pk_seconds() + 1, "rank",
                    NULL);
}

static void send_to_all(struct pk_heartbeat *h, const struct beat *b)
{
    for (int r = 0; r < h->size; r++)
        if (!h->end[r].left) send_beat(&h->end[r], b);
}

static void hang_up(struct end *e)
{
    if (e->fd >= 0) close(e->fd);
    e->fd = -1;
}

void pk_verdict_text(const struct pk_verdict *v, char *text, size_t size)
{
    char who[256] = "the ranks", at[96] = "";
    if (v->rank >= 0)
        snprintf(who, sizeof who, "rank %d (%.127s, process %lld)", v->rank, v->host,
                 (long long)v->pid);
    if (v->step >= 0)
        snprintf(at, sizeof at, " at step %lld%s%s", (long long)v->step,
                 v->operation[0] ? " in " : "", v->operation);
    snprintf(text, size, "%s %s%s", who, v->what, at);
}

/* Keeps the first verdict, tells the other ranks (if this is rank 0), and calls the hook. */
static void decide(struct pk_heartbeat *h, const struct pk_verdict *v)
{
    pthread_mutex_lock(&h->lock);
    bool first = !h->has_verdict;
    if (first) {
        h->verdict = *v;
        h->has_verdict = true;
        h->decided_at = pk_seconds();
        pthread_cond_broadcast(&h->decided);
    }
    pthread_mutex_unlock(&h->lock);
    if (!first) return;
    if (h->rank == 0) {
        struct beat b = make_beat(h, VERDICT);
        b.rank = v->rank;
        b.pid = v->pid;
        b.step = v->step;
        memcpy(b.host, v->host, sizeof b.host);
        memcpy(b.operation, v->operation, sizeof b.operation);
        memcpy(b.what, v->what, sizeof b.what);
        send_to_all(h, &b);
    }
    if (h->hooks.decided) h->hooks.decided(h->hooks.ctx, v);
}

/* A verdict about a rank of which this one has heard. */
static void blame(struct pk_heartbeat *h, int rank, const char *fmt, ...) PK_PRINTF(3, 4);
static void blame(struct pk_heartbeat *h, int rank, const char *fmt, ...)
{
    struct pk_verdict v = {.rank = rank, .step = -1};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(v.what, sizeof v.what, fmt, ap);
    va_end(ap);
    if (rank >= 0) {
        memcpy(v.host, h->peer[rank].host, sizeof v.host);
        v.pid = h->peer[rank].pid;
    }
    if (rank == h->rank || rank < 0) {
        struct beat b = make_beat(h, BEAT);
        v.step = b.ticks ? b.step : -1;
        memcpy(v.operation, b.operation, sizeof v.operation);
    } else {
        v.step = h->end[rank].ticks ? h->end[rank].step : -1;
        memcpy(v.operation, h->end[rank].operation, sizeof v.operation);
    }
    decide(h, &v);
}

static void on_beat(struct pk_heartbeat *h, struct end *e, const struct beat *b)
{
    e->heard = pk_seconds();
    if (b->kind == VERDICT && h->rank != 0) {
        struct pk_verdict v = {.rank = (int)b->rank, .pid = b->pid, .step = b->step};
        memcpy(v.host, b->host, sizeof v.host);
        memcpy(v.operation, b->operation, sizeof v.operation);
        memcpy(v.what, b->what, sizeof v.what);
        decide(h, &v);
    }
    if (b->kind != BEAT && b->kind != LEAVE) return;
    e->step = b->step;
    e->ticks = b->ticks;
    e->idle = b->idle;
    memcpy(e->operation, b->operation, sizeof e->operation);
    if (b->kind == BEAT) return;
    e->left = true;
    if (b->status == PK_OK || b->status == PK_ESTOPPED) return;
    e->failed_at = e->heard;
    memcpy(e->why, b->what, sizeof e->why);
}

static void read_end(struct pk_heartbeat *h, int rank)
{
    struct end *e = &h->end[rank];
    while (e->fd >= 0) {
        ssize_t n = recv(e->fd, (char *)&e->in + e->got, sizeof e->in - e->got, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (n <= 0 || e->in.magic != MAGIC) {
            hang_up(e);
            if (!e->left) blame(h, rank, n > 0 ? "sent nonsense" : "died");
            return;
        }
        e->got += (size_t)n;
        if (e->got < sizeof e->in) continue;
        e->got = 0;
        e->in.operation[PK_OPERATION_TEXT - 1] = e->in.host[PK_HOST_TEXT - 1] = 0;
        e->in.what[sizeof e->in.what - 1] = 0;
        on_beat(h, e, &e->in);
    }
}

/* How long nothing has come from there that may be called a heartbeat. */
static bool is_quiet(const struct pk_heartbeat *h, const struct end *e, double now)
{
    return now - e->heard > PK_MAX(3 * h->limits.interval_s, 0.3);
}

/* Rank 0: has somebody stood still for too long, and who keeps the others waiting? */
static void watch_progress(struct pk_heartbeat *h, double now)
{
    double limit = h->limits.watchdog_s, longest = own_idle(h, now);
    int worst = -1, standing = 0, running = 0;
    int64_t lowest = INT64_MAX, highest = 0;
    bool quiet = false;
    if (limit < 0) return;
    for (int r = 0; r < h->size; r++) {
        const struct end *e = &h->end[r];
        double idle = own_idle(h, now);
        int64_t ticks = h->seen_ticks;
        if (r > 0) {
            if (e->left || e->fd < 0) continue;
            idle = e->idle < 0 ? -1 : e->idle + (now - e->heard);
            ticks = e->ticks;
        }
        running++;
        if (idle > longest) longest = idle;
        if (idle < limit - 2 * h->limits.interval_s) continue; // it may just have arrived
        standing++;
        highest = PK_MAX(highest, ticks);
        bool stopped = r > 0 && is_quiet(h, e, now);
        if ((stopped && !quiet) || (stopped == quiet && ticks < lowest)) {
            worst = r;
            quiet = stopped;
            lowest = ticks;
        }
    }
    if (longest <= limit || worst < 0) return;
    if (!quiet && standing == running && lowest == highest && running > 1) worst = -1;
    if (quiet)
        blame(h, worst, "stopped answering and made no progress for %.1f s", longest);
    else
        blame(h, worst, "made no progress for %.1f s", longest);
}

/* The others judge rank 0 alone, and only when it cannot judge any more. */
static void watch_zero(struct pk_heartbeat *h, double now)
{
    const struct end *e = &h->end[0];
    double idle = own_idle(h, now), limit = h->limits.watchdog_s;
    if (e->left || e->fd < 0 || limit < 0) return;
    if (idle > limit + 0.5 && is_quiet(h, e, now))
        blame(h, 0, "stopped answering; no progress for %.1f s", idle);
}

static void watch(struct pk_heartbeat *h, double now)
{
    for (int r = 0; r < h->size && !h->has_verdict; r++) {
        const struct end *e = &h->end[r];
        if (e->failed_at > 0 && now - e->failed_at > BLAME_SECONDS)
            blame(h, r, "ended with an error (%.400s)", e->why);
        else if (e->fd >= 0 && !e->left && now - e->heard > h->limits.silent_s)
            blame(
                h, r,
                "sent no heartbeat for %.1f s (host down, network cut, or the process is stopped)",
                now - e->heard);
    }
    if (h->has_verdict) return;
    if (h->rank == 0)
        watch_progress(h, now);
    else
        watch_zero(h, now);
}

static void say_goodbye(struct pk_heartbeat *h)
{
    struct beat b = make_beat(h, LEAVE);
    char rest[4096];
    b.status = h->status;
    memcpy(b.what, h->why, sizeof b.what);
    send_to_all(h, &b);
    for (int r = 0; r < h->size; r++) {
        if (h->end[r].fd < 0) continue;
        shutdown(h->end[r].fd, SHUT_WR);
        // closing with unread input would reset the connection under the goodbye
        while (recv(h->end[r].fd, rest, sizeof rest, MSG_DONTWAIT) > 0) continue;
        hang_up(&h->end[r]);
    }
}

static void *run(void *arg)
{
    struct pk_heartbeat *h = arg;
    bool told = false; // the others know that this rank has begun
    double next = 0, period = h->limits.interval_s / 4;
    struct pollfd *p;
    if (pk_alloc(&p, (size_t)h->size + 1, sizeof *p, "heartbeat", NULL) != PK_OK) {
        blame(h, h->rank, "has no memory for a heartbeat");
        return NULL;
    }
    while (!atomic_load(&h->stop)) {
        double now = pk_seconds();
        // the first step is news by itself: a rank that dies soon after should have a place
        bool begun = !told && atomic_load_explicit(&h->ticks, memory_order_relaxed) > 0;
        if (now >= next || begun) {
            struct beat b = make_beat(h, BEAT);
            told = b.ticks > 0;
            send_to_all(h, &b);
            next = now + h->limits.interval_s;
        }
        for (int r = 0; r < h->size; r++) p[r] = (struct pollfd){h->end[r].fd, POLLIN, 0};
        p[h->size] = (struct pollfd){h->wake, POLLIN, 0};
        double slept = pk_seconds();
        poll(p, (nfds_t)h->size + 1, (int)(period * 1e3) + 1);
        for (int r = 0; r < h->size; r++)
            if (p[r].revents) read_end(h, r);
        now = pk_seconds();
        // this process was stopped itself: what it missed says nothing about the others
        if (now - slept > period + h->limits.silent_s / 2)
            for (int r = 0; r < h->size; r++) h->end[r].heard = now;
        if (!h->has_verdict) watch(h, now);
        if (h->has_verdict && !h->overdue_called && now - h->decided_at > h->limits.grace_s) {
            h->overdue_called = true;
            if (h->hooks.overdue) h->hooks.overdue(h->hooks.ctx, &h->verdict);
        }
    }
    free(p);
    say_goodbye(h);
    return NULL;
}

static void set_limits(struct pk_heartbeat *h, const struct pk_heartbeat_limits *l)
{
    h->limits = (struct pk_heartbeat_limits){1, 10, 300, 3};
    if (!l) return;
    if (l->interval_s > 0) h->limits.interval_s = l->interval_s;
    if (l->silent_s > 0) h->limits.silent_s = l->silent_s;
    if (l->watchdog_s != 0) h->limits.watchdog_s = l->watchdog_s;
    if (l->grace_s > 0) h->limits.grace_s = l->grace_s;
    h->limits.silent_s = PK_MAX(h->limits.silent_s, 3 * h->limits.interval_s);
}

static void release(struct pk_heartbeat *h)
{
    for (int r = 0; h->end && r < h->size; r++) hang_up(&h->end[r]);
    if (h->wake >= 0) close(h->wake);
    pthread_cond_destroy(&h->decided);
    pthread_mutex_destroy(&h->lock);
    free(h->peer);
    free(h->end);
    free(h);
}

/* Signals belong to the training thread, whose calls they interrupt. */
static int start_thread(struct pk_heartbeat *h)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int bad = pthread_create(&h->thread, NULL, run, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return bad;
}

enum pk_status pk_heartbeat_start(struct pk_heartbeat **out, struct pk_world *w,
                                  const struct pk_heartbeat_limits *limits,
                                  const struct pk_heartbeat_hooks *hooks, struct pk_err *err)
{
    struct pk_heartbeat *h;
    pthread_condattr_t monotonic;
    *out = NULL;
    if (w->size < 2) return PK_OK;
    PK_TRY(pk_alloc(&h, 1, sizeof *h, "heartbeat", err));
    h->rank = w->rank;
    h->size = w->size;
    h->moved = pk_seconds();
    set_limits(h, limits);
    if (hooks) h->hooks = *hooks;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&h->decided, &monotonic);
    pthread_condattr_destroy(&monotonic);
    h->wake = eventfd(0, EFD_CLOEXEC);
    enum pk_status s = pk_alloc(&h->peer, (size_t)w->size, sizeof *h->peer, "heartbeat", err);
    if (s == PK_OK) s = pk_alloc(&h->end, (size_t)w->size, sizeof *h->end, "heartbeat", err);
    if (s == PK_OK && h->wake < 0) s = pk_fail_errno(err, PK_EINTERNAL, "no event descriptor");
    if (s != PK_OK) {
        free(h->end); // whose descriptors are not set
        h->end = NULL;
        release(h);
        return s;
    }
    memcpy(h->peer, w->peer, (size_t)w->size * sizeof *h->peer);
    for (int r = 0; r < w->size; r++) {
        h->end[r] = (struct end){.fd = w->beat_fd[r], .heard = pk_seconds(), .idle = -1};
        h->end[r].left = w->beat_fd[r] < 0;
        w->beat_fd[r] = -1;
    }
    int bad = start_thread(h);
    if (bad) {
        errno = bad;
        s = pk_fail_errno(err, PK_EINTERNAL, "cannot start the heartbeat's thread");
        release(h);
        return s;
    }
    *out = h;
    return PK_OK;
}

bool pk_heartbeat_verdict(struct pk_heartbeat *h, double wait_s, struct pk_verdict *out)
{
    struct timespec until;
    if (!h) return false;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)wait_s;
    until.tv_nsec += (long)((wait_s - (double)(time_t)wait_s) * 1e9);
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&h->lock);
    while (!h->has_verdict && wait_s > 0)
        if (pthread_cond_timedwait(&h->decided, &h->lock, &until) != 0) break;
    bool found = h->has_verdict;
    if (found && out) *out = h->verdict;
    pthread_mutex_unlock(&h->lock);
    return found;
}

void pk_heartbeat_stop(struct pk_heartbeat *h, enum pk_status s, const char *why)
{
    uint64_t one = 1;
    if (!h) return;
    h->status = s;
    snprintf(h->why, sizeof h->why, "%.511s", why ? why : "");
    atomic_store(&h->stop, true);
    if (write(h->wake, &one, sizeof one) < 0) pk_pause(0); // the thread looks every period anyway
    pthread_join(h->thread, NULL);
    release(h);
}
