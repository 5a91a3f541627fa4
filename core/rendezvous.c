/* rendezvous.c -- ranks find each other and connect (see rendezvous.h).
 *
 *     rank r                                   rank 0
 *     hello JOIN            ---------------->  checked: token, rank, size, program, recipe
 *                           <----------------  answer: welcome, or why not
 *                           <----------------  answer, list of peers (when all are there)
 *     hello BEAT            ---------------->
 *     hello MESH to ranks 1 .. r - 1; awaits those above
 *     answer: all reached   ---------------->
 *                           <----------------  answer: all ranks reached all
 *
 * The connection of JOIN stays as the mesh's between 0 and r. */
#include "core/rendezvous.h"
#include "core/rendezvous_file.h"

#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORTS = 8, FIRST_PORT = 20000, PORT_SPAN = 12000 }; // derived ports: below the ephemeral
#define MESH_SECONDS    30.0 // to connect all pairs, once everybody is known
#define GRACE_SECONDS   10.0 // how much longer the others wait than rank 0, which knows more
#define TRY_SECONDS     5.0  // for one connection or answer
#define WELCOME_SECONDS 2.0  // rank 0 answers a hello at once
#define LINGER_SECONDS  1.0  // to tell latecomers why there is no job
#define SAY_SECONDS     10.0 // between notes about who is missing

struct answer {
    uint64_t magic;
    int64_t status; // enum pk_status
    char text[PK_ERR_MAX];
};

struct wire_peer {
    char host[PK_HOST_TEXT], address[PK_ADDRESS_TEXT];
    int64_t port, pid;
    double clock_ahead;
};

struct join {
    struct pk_world *w;
    const struct pk_launch *l;
    const struct pk_world_identity *mine;
    struct pk_hello self;
    struct pk_listener listener;
    struct pk_reception door;
    struct pk_meeting meeting; // rank 0: what was published
    double deadline;
    struct pk_err *err;
};

void pk_rank_list(char *text, size_t size, const bool *set, int n)
{
    size_t used = 0;
    if (size) text[0] = 0;
    for (int i = 0; i < n && used + 1 < size; i++) {
        if (!set[i]) continue;
        int last = i;
        while (last + 1 < n && set[last + 1]) last++;
        const char *comma = used ? ", " : "";
        int k = last > i ? snprintf(text + used, size - used, "%s%d-%d", comma, i, last)
                         : snprintf(text + used, size - used, "%s%d", comma, i);
        used += (size_t)PK_MAX(k, 0);
        i = last;
    }
}

static void say(const struct join *j, const char *fmt, ...) PK_PRINTF(2, 3);
static void say(const struct join *j, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    if (!j->mine->say) return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    j->mine->say(j->mine->ctx, line);
}

static double wall_clock(const struct join *j)
{
    struct timespec t;
    if (j->mine->clock != 0) return j->mine->clock;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fill_self(struct join *j)
{
    struct pk_hello *h = &j->self;
    const char *version = j->mine->version ? j->mine->version : PK_VERSION;
    const char *token = j->l->token[0] ? j->l->token : j->l->job;
    *h = (struct pk_hello){.magic = pk_hello_magic(),
                           .rank = j->l->rank,
                           .size = j->l->size,
                           .pid = getpid(),
                           .binary = j->mine->binary,
                           .recipe = j->mine->recipe};
    snprintf(h->token, sizeof h->token, "%s", token);
    snprintf(h->version, sizeof h->version, "%s", version);
    if (j->mine->host)
        snprintf(h->host, sizeof h->host, "%s", j->mine->host);
    else if (gethostname(h->host, sizeof h->host - 1) != 0)
        snprintf(h->host, sizeof h->host, "unknown");
}

static enum pk_status send_hello(struct join *j, int fd, enum pk_hello_kind kind,
                                 struct pk_err *err)
{
    j->self.kind = kind;
    j->self.clock = wall_clock(j);
    return pk_send_all(fd, &j->self, sizeof j->self, pk_seconds() + TRY_SECONDS, "the other rank",
                       err);
}

static enum pk_status send_answer(int fd, enum pk_status s, const char *text)
{
    struct answer a = {.magic = pk_hello_magic(), .status = s};
    snprintf(a.text, sizeof a.text, "%s", text);
    return pk_send_all(fd, &a, sizeof a, pk_seconds() + TRY_SECONDS, "rank", NULL);
}

/* An answer that reports a failure becomes this rank's. */
static enum pk_status read_answer(struct join *j, int fd, double deadline, const char *who,
                                  struct pk_err *err)
{
    struct answer a;
    PK_TRY(pk_receive_all(fd, &a, sizeof a, deadline, who, err));
    a.text[sizeof a.text - 1] = 0;
    if (a.magic != pk_hello_magic())
        return pk_fail(err, PK_ERANK, "%s answered something else", who);
    if (a.status == PK_OK) return PK_OK;
    j->w->told = true;
    return pk_fail(err, a.status == PK_EUSAGE ? PK_EUSAGE : PK_ERANK, "%s", a.text);
}

static int derived_port(const struct join *j, int i)
{
    return FIRST_PORT + (int)(pk_hash64(j->l->job, strlen(j->l->job), (uint64_t)i) % PORT_SPAN);
}

/* ---- rank 0 ---- */

/* "rank 2 (host b, process 77)" */
static void name_rank(const struct join *j, int rank, char text[256])
{
    const struct pk_peer *p = &j->w->peer[rank];
    snprintf(text, 256, "rank %d (%.100s, process %lld)", rank, p->host, (long long)p->pid);
}

static enum pk_status open_door(struct join *j)
{
    const struct pk_launch *l = j->l;
    char address[PK_ADDRESS_TEXT], interface[32] = "";
    bool local = l->local_size == l->size;
    enum pk_status s = PK_OK;
    if (l->listen_fd >= 0) {
        PK_TRY(pk_listen_adopt(&j->listener, l->listen_fd, j->err));
    } else {
        PK_TRY(pk_local_address(address, interface, l->interface, l->file[0] ? NULL : l->master,
                                local, j->err));
        if (l->port || l->file[0] || !l->job[0])
            s = pk_listen(&j->listener, address, l->port, j->err);
        else
            for (int i = 0; i < PORTS; i++)
                if ((s = pk_listen(&j->listener, address, derived_port(j, i), j->err)) == PK_OK)
                    break;
        if (s != PK_OK) {
            pk_err_context(j->err, "rank 0 (is another rank 0 running, or another job?)");
            return s;
        }
    }
    snprintf(j->listener.interface, sizeof j->listener.interface, "%s", interface);
    snprintf(j->w->interface, sizeof j->w->interface, "%s", interface);
    if (l->file[0] && !l->token[0]) PK_TRY(pk_token_random(j->self.token, j->err));
    PK_TRY(pk_reception_open(&j->door, &j->listener, j->self.token, j->err));
    say(j, "rank 0 of %d listens on %s port %d%s%s", l->size, j->listener.address, j->listener.port,
        interface[0] ? ", interface " : "", interface);
    if (!l->file[0]) return PK_OK;
    struct pk_meeting *m = &j->meeting;
    *m = (struct pk_meeting){.port = j->listener.port, .pid = getpid(), .written = wall_clock(j)};
    memcpy(m->address, j->listener.address, sizeof m->address);
    memcpy(m->host, j->self.host, sizeof m->host);
    snprintf(m->token, sizeof m->token, "%s", l->token[0] ? "given" : j->self.token);
    return pk_meeting_publish(l->file, m, j->err);
}

/* Whether a rank that wants to join fits this job; the message is for all. */
static enum pk_status check_joiner(struct join *j, const struct pk_hello *h, const char *from)
{
    const struct pk_world *w = j->w;
    const char *host = h->host;
    char other[256];
    if (h->size != w->size)
        return pk_fail(j->err, PK_EUSAGE,
                       "rank %lld (%s, process %lld) says there are %lld ranks, rank 0 says %d",
                       (long long)h->rank, host, (long long)h->pid, (long long)h->size, w->size);
    if (h->rank < 0 || h->rank >= w->size)
        return pk_fail(j->err, PK_ERANK,
                       "process %lld on %s (%s) is rank %lld, one too many for %d",
                       (long long)h->pid, host, from, (long long)h->rank, w->size);
    if (h->rank == 0 || w->fd[h->rank] >= 0) {
        name_rank(j, (int)h->rank, other);
        return pk_fail(j->err, PK_ERANK,
                       "%s was started twice: process %lld on %s (%s) says it, too", other,
                       (long long)h->pid, host, from);
    }
    if (strcmp(h->version, j->self.version) != 0 || h->binary != j->self.binary)
        return pk_fail(j->err, PK_EUSAGE,
                       "rank %lld (%s, process %lld) runs another program than rank 0: version %s "
                       "(build %016llx) instead of %s (build %016llx)",
                       (long long)h->rank, host, (long long)h->pid, h->version,
                       (unsigned long long)h->binary, j->self.version,
                       (unsigned long long)j->self.binary);
    if (h->recipe != j->self.recipe)
        return pk_fail(j->err, PK_EUSAGE,
                       "rank %lld (%s, process %lld) has another recipe than rank 0: hash %016llx "
                       "instead of %016llx; give all ranks the same file and overrides",
                       (long long)h->rank, host, (long long)h->pid, (unsigned long long)h->recipe,
                       (unsigned long long)j->self.recipe);
    return PK_OK;
}

static void take_joiner(struct join *j, const struct pk_hello *h, int fd)
{
    struct pk_peer *p = &j->w->peer[h->rank];
    j->w->fd[h->rank] = fd;
    memcpy(p->host, h->host, sizeof p->host);
    memcpy(p->address, h->address, sizeof p->address);
    p->port = (int)h->port;
    p->pid = h->pid;
    p->clock_ahead = h->clock - wall_clock(j);
}

static void list_missing(const struct join *j, const int *fd, char *text, size_t size)
{
    bool *missing;
    snprintf(text, size, "?");
    if (pk_alloc(&missing, (size_t)j->w->size, sizeof *missing, "ranks", NULL) != PK_OK) return;
    for (int r = 1; r < j->w->size; r++) missing[r] = fd[r] < 0;
    pk_rank_list(text, size, missing, j->w->size);
    free(missing);
}

static enum pk_status somebody_missing(struct join *j, const char *what, const int *fd)
{
    char text[512], away[128] = "";
    list_missing(j, fd, text, sizeof text);
    bool several = strpbrk(text, ",-") != NULL;
    if (j->door.rejected)
        snprintf(away, sizeof away,
                 "; %d connections were turned away (another job, or another token)",
                 j->door.rejected);
    return pk_fail(j->err, PK_ERANK,
                   "rank%s %s of %d did not %s within %.0f s (rank 0 is on %s, %s "
                   "port %d)%s",
                   several ? "s" : "", text, j->w->size, what, j->l->timeout_s, j->self.host,
                   j->listener.address, j->listener.port, away);
}

/* Waits until all have joined. */
static enum pk_status collect(struct join *j)
{
    struct pk_world *w = j->w;
    double next_note = pk_seconds() + SAY_SECONDS;
    char from[PK_ADDRESS_TEXT], text[512];
    for (int here = 1; here < w->size;) {
        struct pk_hello h;
        enum pk_event event;
        int fd;
        double until = PK_MIN(j->deadline, next_note);
        PK_TRY(pk_reception_next(&j->door, w->fd, w->size, until, &event, &h, &fd, from, j->err));
        if (event == PK_EVENT_WATCHED) {
            name_rank(j, fd, text);
            return pk_fail(j->err, PK_ERANK, "%s left again while others were awaited", text);
        }
        if (event == PK_EVENT_TIMEOUT) {
            if (pk_seconds() >= j->deadline) return somebody_missing(j, "join", w->fd);
            list_missing(j, w->fd, text, sizeof text);
            say(j, "waiting for ranks %s (%d of %d are here)", text, here, w->size);
            next_note += SAY_SECONDS;
            continue;
        }
        enum pk_status s = h.kind == PK_HELLO_JOIN
                               ? check_joiner(j, &h, from)
                               : pk_fail(j->err, PK_ERANK, "rank %lld is ahead of the protocol",
                                         (long long)h.rank);
        if (s != PK_OK) {
            send_answer(fd, s, j->err->message);
            close(fd);
            return s;
        }
        take_joiner(j, &h, fd);
        send_answer(fd, PK_OK, "");
        here++;
    }
    return PK_OK;
}

static void check_clocks(const struct join *j)
{
    int worst = 0;
    for (int r = 1; r < j->w->size; r++)
        if (fabs(j->w->peer[r].clock_ahead) > fabs(j->w->peer[worst].clock_ahead)) worst = r;
    double ahead = j->w->peer[worst].clock_ahead;
    if (fabs(ahead) > PK_CLOCK_APART)
        say(j,
            "warning: the clock of rank %d (%s) is %.0f s %s rank 0's: times in logs will not "
            "match",
            worst, j->w->peer[worst].host, fabs(ahead), ahead > 0 ? "ahead of" : "behind");
}

static enum pk_status send_peers(struct join *j)
{
    struct pk_world *w = j->w;
    struct wire_peer *list;
    char who[256];
    enum pk_status s = PK_OK;
    PK_TRY(pk_alloc(&list, (size_t)w->size, sizeof *list, "peers", j->err));
    for (int r = 0; r < w->size; r++) {
        memcpy(list[r].host, w->peer[r].host, PK_HOST_TEXT);
        memcpy(list[r].address, w->peer[r].address, PK_ADDRESS_TEXT);
        list[r].port = w->peer[r].port;
        list[r].pid = w->peer[r].pid;
        list[r].clock_ahead = w->peer[r].clock_ahead;
    }
    for (int r = 1; r < w->size && s == PK_OK; r++) {
        name_rank(j, r, who);
        send_answer(w->fd[r], PK_OK, "");
        s = pk_send_all(w->fd[r], list, (size_t)w->size * sizeof *list, pk_seconds() + TRY_SECONDS,
                        who, j->err);
    }
    free(list);
    return s;
}

/* Appends what a rank could not reach. */
static void add_complaint(struct pk_text *all, const char *text)
{
    pk_text_add(all, "%s%s", all->len ? "\n" : "", text);
}

/* Waits for everybody's second connection and for the news that it reached all others. Failures are
 * gathered for a second, since a blocked link is seen by several. */
static enum pk_status await_mesh(struct join *j, bool *ready, struct pk_text *bad)
{
    struct pk_world *w = j->w;
    double deadline = pk_seconds() + MESH_SECONDS + TRY_SECONDS;
    char from[PK_ADDRESS_TEXT], who[256];
    int *watch;
    enum pk_status s = PK_OK;
    PK_TRY(pk_alloc(&watch, (size_t)w->size, sizeof *watch, "ranks", j->err));
    for (int r = 0; r < w->size; r++) watch[r] = r ? w->fd[r] : -1;
    for (int beats = 1, done = 1; (beats < w->size || done < w->size) && s == PK_OK;) {
        struct pk_hello h;
        struct pk_err e = {0};
        enum pk_event event;
        int fd;
        s = pk_reception_next(&j->door, watch, w->size, deadline, &event, &h, &fd, from, j->err);
        if (s != PK_OK || event == PK_EVENT_TIMEOUT) break;
        if (event == PK_EVENT_HELLO) {
            if (h.kind != PK_HELLO_BEAT || h.rank < 1 || h.rank >= w->size ||
                w->beat_fd[h.rank] >= 0) {
                s = check_joiner(j, &h, from); // a rank started twice
                if (s == PK_OK)
                    s = pk_fail(j->err, PK_ERANK, "rank %lld joined twice", (long long)h.rank);
                send_answer(fd, s, j->err->message);
                close(fd);
            } else {
                w->beat_fd[h.rank] = fd;
                beats++;
            }
            continue;
        }
        name_rank(j, fd, who);
        if (read_answer(j, w->fd[fd], pk_seconds() + TRY_SECONDS, who, &e) != PK_OK) {
            if (!bad->len) deadline = PK_MIN(deadline, pk_seconds() + 1);
            add_complaint(bad, e.message);
            j->w->told = false; // that is rank 0's to say
        }
        ready[fd] = true;
        watch[fd] = -1;
        done++;
    }
    free(watch);
    return s;
}

static enum pk_status finish_mesh(struct join *j)
{
    struct pk_world *w = j->w;
    struct pk_text bad = {0};
    bool *ready = NULL;
    int *late = NULL;
    enum pk_status s = pk_alloc(&ready, (size_t)w->size, sizeof *ready, "ranks", j->err);
    if (s == PK_OK) s = pk_alloc(&late, (size_t)w->size, sizeof *late, "ranks", j->err);
    if (s == PK_OK) s = await_mesh(j, ready, &bad);
    bool all = true;
    for (int r = 1; r < w->size && s == PK_OK; r++) {
        late[r] = ready[r] && w->beat_fd[r] >= 0 ? 0 : -1;
        all = all && late[r] == 0;
    }
    if (s == PK_OK && bad.len) s = pk_fail(j->err, PK_ERANK, "%s", bad.s);
    if (s == PK_OK && !all) s = somebody_missing(j, "connect to the others", late);
    for (int r = 1; r < w->size && s == PK_OK; r++) send_answer(w->fd[r], PK_OK, "");
    pk_text_free(&bad);
    free(ready);
    free(late);
    return s;
}

/* Rank 0 has failed: tells those that are here, and for a moment those that come. */
static void tell_all(struct join *j, enum pk_status s)
{
    double until = pk_seconds() + LINGER_SECONDS;
    char from[PK_ADDRESS_TEXT];
    int told = 1, fd;
    for (int r = 1; r < j->w->size; r++) {
        if (j->w->fd[r] < 0) continue;
        send_answer(j->w->fd[r], s, j->err->message);
        told++;
    }
    while (told < j->w->size && j->door.visitor && pk_seconds() < j->deadline) {
        struct pk_hello h;
        enum pk_event event;
        if (pk_reception_next(&j->door, NULL, 0, until, &event, &h, &fd, from, NULL) != PK_OK ||
            event != PK_EVENT_HELLO)
            return;
        send_answer(fd, s, j->err->message);
        close(fd);
        told++;
    }
}

static enum pk_status join_zero(struct join *j)
{
    struct pk_peer *p = &j->w->peer[0];
    memcpy(p->host, j->self.host, sizeof p->host);
    p->pid = j->self.pid;
    enum pk_status s = open_door(j);
    if (s == PK_OK) {
        memcpy(p->address, j->listener.address, sizeof p->address);
        p->port = j->listener.port;
        s = collect(j);
    }
    if (s == PK_OK) s = send_peers(j);
    if (s == PK_OK) s = finish_mesh(j);
    if (s != PK_OK) tell_all(j, s);
    j->w->rejected = j->door.rejected;
    if (j->w->rejected)
        say(j, "warning: %d connections without this job's token were turned away", j->w->rejected);
    if (s == PK_OK) check_clocks(j);
    if (j->meeting.port) pk_meeting_withdraw(j->l->file, &j->meeting);
    return s;
}

/* ---- the others ---- */

/* One attempt to be let in at address:port. *fatal when it was refused for a reason. */
static enum pk_status knock(struct join *j, const char *host, int port, bool *fatal,
                            struct pk_err *err)
{
    char own[PK_ADDRESS_TEXT], interface[32], name[PK_ADDRESS_TEXT];
    double begun = pk_seconds();
    int fd;
    PK_TRY(pk_connect(&fd, host, port, PK_MIN(j->deadline, begun + TRY_SECONDS), err));
    double took = pk_seconds() - begun;
    enum pk_status s = PK_OK;
    pk_listen_close(&j->listener);
    if (!pk_socket_name(fd, own, NULL, NULL)) s = pk_fail(err, PK_ERANK, "the connection broke");
    if (s == PK_OK && j->l->interface[0]) {
        s = pk_local_address(own, interface, j->l->interface, NULL, false, err);
        *fatal = s != PK_OK;
    }
    if (s == PK_OK) s = pk_listen(&j->listener, own, 0, err);
    if (s == PK_OK) {
        j->self.port = j->listener.port;
        memcpy(j->self.address, own, sizeof own);
        s = send_hello(j, fd, PK_HELLO_JOIN, err);
    }
    if (s == PK_OK) {
        s = read_answer(j, fd, pk_seconds() + WELCOME_SECONDS, "what listens there", err);
        *fatal = *fatal || j->w->told;
        if (s != PK_OK && !*fatal)
            pk_err_context(err,
                           "%s port %d is not this job's rank 0 (another job, or another "
                           "PURKINJE_TOKEN)",
                           host, port);
    }
    if (s != PK_OK) {
        close(fd);
        return s;
    }
    j->w->fd[0] = fd;
    j->w->peer[0].connect_ms = took * 1e3;
    if (pk_socket_name(fd, NULL, name, &j->w->peer[0].port))
        memcpy(j->w->peer[0].address, name, sizeof name);
    return PK_OK;
}

/* Tries all the places where rank 0 may be, again and again, until one lets us in. */
static enum pk_status reach_zero(struct join *j)
{
    const struct pk_launch *l = j->l;
    struct pk_err e = {0};
    struct pk_meeting m;
    double wait = 0.01;
    for (;;) {
        bool fatal = false;
        enum pk_status s = PK_ERANK;
        if (l->file[0]) {
            s = pk_meeting_read(l->file, &m, &e);
            if (s == PK_OK && !l->token[0]) memcpy(j->self.token, m.token, sizeof m.token);
            if (s == PK_OK) s = knock(j, m.address, m.port, &fatal, &e);
            if (s != PK_OK && m.port && !fatal)
                pk_err_context(&e, "%s (written %.0f s ago by process %lld on %s)", l->file,
                               wall_clock(j) - m.written, (long long)m.pid, m.host);
        } else if (l->port) {
            s = knock(j, l->master, l->port, &fatal, &e);
        } else {
            for (int i = 0; i < PORTS && s != PK_OK && !fatal; i++)
                s = knock(j, l->master, derived_port(j, i), &fatal, &e);
        }
        if (s == PK_OK) return PK_OK;
        if (fatal) return pk_fail(j->err, e.status, "%s", e.message);
        if (pk_seconds() + wait >= j->deadline) break;
        pk_pause(wait);
        wait = PK_MIN(wait * 1.5, 1.0);
    }
    return pk_fail(j->err, PK_ERANK, "rank %d on %s did not reach rank 0 within %.0f s: %s",
                   l->rank, j->self.host, l->timeout_s, e.message);
}

static enum pk_status receive_peers(struct join *j)
{
    struct pk_world *w = j->w;
    struct wire_peer *list;
    double deadline = j->deadline + GRACE_SECONDS;
    PK_TRY(read_answer(j, w->fd[0], deadline, "rank 0", j->err));
    PK_TRY(pk_alloc(&list, (size_t)w->size, sizeof *list, "peers", j->err));
    enum pk_status s =
        pk_receive_all(w->fd[0], list, (size_t)w->size * sizeof *list, deadline, "rank 0", j->err);
    for (int r = 0; r < w->size && s == PK_OK; r++) {
        struct pk_peer *p = &w->peer[r];
        snprintf(p->host, sizeof p->host, "%.127s", list[r].host);
        p->pid = list[r].pid;
        p->clock_ahead = list[r].clock_ahead;
        if (r == 0) continue; // where we reached it is where it is
        snprintf(p->address, sizeof p->address, "%.63s", list[r].address);
        p->port = (int)list[r].port;
    }
    free(list);
    return s;
}

/* Connects to the ranks below; every one that is out of reach is put into *bad. */
static void connect_below(struct join *j, double deadline, struct pk_text *bad)
{
    struct pk_world *w = j->w;
    struct pk_peer *zero = &w->peer[0];
    struct pk_err e = {0};
    if (pk_connect(&w->beat_fd[0], zero->address, zero->port, deadline, &e) != PK_OK ||
        send_hello(j, w->beat_fd[0], PK_HELLO_BEAT, &e) != PK_OK)
        add_complaint(bad, e.message);
    for (int r = 1; r < w->rank; r++) {
        struct pk_peer *p = &w->peer[r];
        double begun = pk_seconds(), until = PK_MIN(deadline, begun + TRY_SECONDS);
        char line[PK_ERR_MAX + 512];
        enum pk_status s = pk_connect(&w->fd[r], p->address, p->port, until, &e);
        if (s == PK_OK) s = send_hello(j, w->fd[r], PK_HELLO_MESH, &e);
        p->connect_ms = (pk_seconds() - begun) * 1e3;
        if (s == PK_OK) continue;
        snprintf(line, sizeof line, "rank %d (%s, %s) cannot reach rank %d (%s): %s", w->rank,
                 w->peer[w->rank].host, w->peer[w->rank].address, r, p->host, e.message);
        add_complaint(bad, line);
    }
}

static enum pk_status accept_above(struct join *j, double deadline, struct pk_text *bad)
{
    struct pk_world *w = j->w;
    char from[PK_ADDRESS_TEXT], text[256];
    int need = w->size - 1 - w->rank;
    while (need > 0) {
        struct pk_hello h;
        enum pk_event event;
        int fd;
        PK_TRY(pk_reception_next(&j->door, w->fd, 1, deadline, &event, &h, &fd, from, j->err));
        if (event == PK_EVENT_WATCHED) // rank 0 has news, and they are bad
            return read_answer(j, w->fd[0], deadline, "rank 0", j->err);
        if (event == PK_EVENT_TIMEOUT) {
            bool missing[1] = {false};
            for (int r = w->rank + 1; r < w->size && !missing[0]; r++)
                if ((missing[0] = w->fd[r] < 0)) need = r;
            snprintf(text, sizeof text, "rank %d (%.100s) was not reached by rank %d", w->rank,
                     j->self.host, need);
            add_complaint(bad, text);
            return PK_OK;
        }
        if (h.kind == PK_HELLO_MESH && h.rank > w->rank && h.rank < w->size && w->fd[h.rank] < 0) {
            w->fd[h.rank] = fd;
            need--;
        } else {
            close(fd);
            j->door.rejected++;
        }
    }
    return PK_OK;
}

static enum pk_status join_other(struct join *j)
{
    struct pk_text bad = {0};
    PK_TRY(reach_zero(j));
    PK_TRY(pk_reception_open(&j->door, &j->listener, j->self.token, j->err));
    PK_TRY(receive_peers(j));
    double deadline = pk_seconds() + MESH_SECONDS;
    connect_below(j, deadline, &bad);
    enum pk_status s = bad.len ? PK_OK : accept_above(j, deadline, &bad);
    if (s == PK_OK) send_answer(j->w->fd[0], bad.len ? PK_ERANK : PK_OK, bad.len ? bad.s : "");
    pk_text_free(&bad);
    if (s == PK_OK) s = read_answer(j, j->w->fd[0], deadline + GRACE_SECONDS, "rank 0", j->err);
    j->w->rejected = j->door.rejected;
    return s;
}

/* Ranks of one host count up in the order of ranks. */
static void find_local(struct pk_world *w, const struct pk_launch *l)
{
    const char *here = w->peer[w->rank].host;
    w->local_rank = w->local_size = 0;
    for (int r = 0; r < w->size; r++) {
        if (strcmp(w->peer[r].host, here) != 0) continue;
        w->local_rank += r < w->rank;
        w->local_size++;
    }
    if (l->local_rank >= 0) w->local_rank = l->local_rank;
    if (l->local_size > 0) w->local_size = l->local_size;
}

enum pk_status pk_world_join(struct pk_world *out, const struct pk_launch *l,
                             const struct pk_world_identity *mine, struct pk_err *err)
{
    static const struct pk_world_identity nobody;
    struct pk_err own = {0};
    struct join j = {.w = out, .l = l, .mine = mine ? mine : &nobody, .listener = {.fd = -1}};
    *out = (struct pk_world){.rank = l->rank, .size = l->size};
    j.err = err ? err : &own; // rank 0 sends the message to the others
    if (l->size < 1 || l->size > PK_WORLD_MAX || l->rank < 0 || l->rank >= l->size)
        return pk_fail(err, PK_EUSAGE, "rank %d of %d does not exist", l->rank, l->size);
    j.deadline = pk_seconds() + l->timeout_s;
    fill_self(&j);
    enum pk_status s = pk_alloc(&out->peer, (size_t)l->size, sizeof *out->peer, "peers", j.err);
    if (s == PK_OK) s = pk_alloc(&out->fd, (size_t)l->size, sizeof *out->fd, "peers", j.err);
    if (s == PK_OK)
        s = pk_alloc(&out->beat_fd, (size_t)l->size, sizeof *out->beat_fd, "peers", j.err);
    if (s == PK_OK) {
        for (int r = 0; r < l->size; r++) out->fd[r] = out->beat_fd[r] = -1;
        memcpy(out->peer[l->rank].host, j.self.host, PK_HOST_TEXT);
        out->peer[l->rank].pid = j.self.pid;
        if (l->size > 1) s = l->rank == 0 ? join_zero(&j) : join_other(&j);
    }
    if (s == PK_OK) find_local(out, l);
    pk_reception_close(&j.door);
    pk_listen_close(&j.listener);
    if (s != PK_OK) {
        bool told = out->told;
        pk_world_leave(out);
        out->told = told;
    }
    return s;
}

void pk_world_leave(struct pk_world *w)
{
    for (int r = 0; r < w->size; r++) {
        if (w->fd && w->fd[r] >= 0) close(w->fd[r]);
        if (w->beat_fd && w->beat_fd[r] >= 0) close(w->beat_fd[r]);
    }
    free(w->peer);
    free(w->fd);
    free(w->beat_fd);
    *w = (struct pk_world){.rank = w->rank, .size = w->size};
    w->size = 0;
}
