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
#include "core/rendezvous_internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GRACE_SECONDS   10.0 // how much longer the others wait than rank 0, which knows more
#define WELCOME_SECONDS 2.0  // rank 0 answers a hello at once

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

void pk_join_say(const struct pk_join *j, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    if (!j->mine->say) return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    j->mine->say(j->mine->ctx, line);
}

double pk_join_clock(const struct pk_join *j)
{
    struct timespec t;
    if (j->mine->clock != 0) return j->mine->clock;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fill_self(struct pk_join *j)
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

static enum pk_status send_hello(struct pk_join *j, int fd, enum pk_hello_kind kind,
                                 struct pk_err *err)
{
    j->self.kind = kind;
    j->self.clock = pk_join_clock(j);
    return pk_send_all(fd, &j->self, sizeof j->self, pk_seconds() + PK_TRY_SECONDS,
                       "the other rank", err);
}

enum pk_status pk_join_answer(int fd, enum pk_status s, const char *text)
{
    struct pk_answer a = {.magic = pk_hello_magic(), .status = s};
    snprintf(a.text, sizeof a.text, "%s", text);
    return pk_send_all(fd, &a, sizeof a, pk_seconds() + PK_TRY_SECONDS, "rank", NULL);
}

enum pk_status pk_join_read_answer(struct pk_join *j, int fd, double deadline, const char *who,
                                   struct pk_err *err)
{
    struct pk_answer a;
    PK_TRY(pk_receive_all(fd, &a, sizeof a, deadline, who, err));
    a.text[sizeof a.text - 1] = 0;
    if (a.magic != pk_hello_magic())
        return pk_fail(err, PK_ERANK, "%s answered something else", who);
    if (a.status == PK_OK) return PK_OK;
    j->w->told = true;
    return pk_fail(err, a.status == PK_EUSAGE ? PK_EUSAGE : PK_ERANK, "%s", a.text);
}

int pk_join_port(const struct pk_join *j, int i)
{
    return PK_JOIN_FIRST_PORT +
           (int)(pk_hash64(j->l->job, strlen(j->l->job), (uint64_t)i) % PK_JOIN_PORT_SPAN);
}

void pk_join_complain(struct pk_text *all, const char *text)
{
    pk_text_add(all, "%s%s", all->len ? "\n" : "", text);
}

/* One attempt to be let in at address:port. *fatal when it was refused for a reason. */
static enum pk_status knock(struct pk_join *j, const char *host, int port, bool *fatal,
                            struct pk_err *err)
{
    char own[PK_ADDRESS_TEXT], interface[32], name[PK_ADDRESS_TEXT];
    double begun = pk_seconds();
    int fd;
    PK_TRY(pk_connect(&fd, host, port, PK_MIN(j->deadline, begun + PK_TRY_SECONDS), err));
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
        s = pk_join_read_answer(j, fd, pk_seconds() + WELCOME_SECONDS, "what listens there", err);
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
static enum pk_status reach_zero(struct pk_join *j)
{
    const struct pk_launch *l = j->l;
    // ranks of one host meet on loopback, whatever the host is called (as rank 0 does)
    const char *host = l->local_size == l->size && !l->interface[0] ? "127.0.0.1" : l->master;
    struct pk_err e = {0};
    struct pk_meeting m = {0};
    double wait = 0.01, next_note = pk_seconds() + PK_SAY_SECONDS;
    for (;;) {
        bool fatal = false;
        enum pk_status s = PK_ERANK;
        if (l->file[0]) {
            s = pk_meeting_read(l->file, &m, &e);
            if (s == PK_OK && !l->token[0]) memcpy(j->self.token, m.token, sizeof m.token);
            if (s == PK_OK) s = knock(j, m.address, m.port, &fatal, &e);
            if (s != PK_OK && m.port && !fatal)
                pk_err_context(&e, "%s (written %.0f s ago by process %lld on %s)", l->file,
                               pk_join_clock(j) - m.written, (long long)m.pid, m.host);
        } else if (l->port) {
            s = knock(j, host, l->port, &fatal, &e);
        } else {
            for (int i = 0; i < PK_JOIN_PORTS && s != PK_OK && !fatal; i++)
                s = knock(j, host, pk_join_port(j, i), &fatal, &e);
        }
        if (s == PK_OK) return PK_OK;
        if (fatal) return pk_fail(j->err, e.status, "%s", e.message);
        if (pk_seconds() + wait >= j->deadline) break;
        if (pk_seconds() > next_note) {
            pk_join_say(j, "rank %d on %s is waiting for rank 0: %s", l->rank, j->self.host,
                        e.message);
            next_note += PK_SAY_SECONDS;
        }
        pk_pause(wait);
        wait = PK_MIN(wait * 1.5, 1.0);
    }
    return pk_fail(j->err, PK_ERANK, "rank %d on %s did not reach rank 0 within %.0f s: %s",
                   l->rank, j->self.host, l->timeout_s, e.message);
}

static enum pk_status receive_peers(struct pk_join *j)
{
    struct pk_world *w = j->w;
    struct pk_wire_peer *list;
    double deadline = j->deadline + GRACE_SECONDS;
    PK_TRY(pk_join_read_answer(j, w->fd[0], deadline, "rank 0", j->err));
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
static void connect_below(struct pk_join *j, double deadline, struct pk_text *bad)
{
    struct pk_world *w = j->w;
    struct pk_peer *zero = &w->peer[0];
    struct pk_err e = {0};
    if (pk_connect(&w->beat_fd[0], zero->address, zero->port, deadline, &e) != PK_OK ||
        send_hello(j, w->beat_fd[0], PK_HELLO_BEAT, &e) != PK_OK)
        pk_join_complain(bad, e.message);
    for (int r = 1; r < w->rank; r++) {
        struct pk_peer *p = &w->peer[r];
        double begun = pk_seconds(), until = PK_MIN(deadline, begun + PK_TRY_SECONDS);
        char line[PK_ERR_MAX + 512];
        enum pk_status s = pk_connect(&w->fd[r], p->address, p->port, until, &e);
        if (s == PK_OK) s = send_hello(j, w->fd[r], PK_HELLO_MESH, &e);
        p->connect_ms = (pk_seconds() - begun) * 1e3;
        if (s == PK_OK) continue;
        snprintf(line, sizeof line, "rank %d (%s, %s) cannot reach rank %d (%s): %s", w->rank,
                 w->peer[w->rank].host, w->peer[w->rank].address, r, p->host, e.message);
        pk_join_complain(bad, line);
    }
}

static enum pk_status accept_above(struct pk_join *j, double deadline, struct pk_text *bad)
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
            return pk_join_read_answer(j, w->fd[0], deadline, "rank 0", j->err);
        if (event == PK_EVENT_TIMEOUT) {
            bool missing[1] = {false};
            for (int r = w->rank + 1; r < w->size && !missing[0]; r++)
                if ((missing[0] = w->fd[r] < 0)) need = r;
            snprintf(text, sizeof text, "rank %d (%.100s) was not reached by rank %d", w->rank,
                     j->self.host, need);
            pk_join_complain(bad, text);
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

static enum pk_status join_other(struct pk_join *j)
{
    struct pk_text bad = {0};
    PK_TRY(reach_zero(j));
    PK_TRY(pk_reception_open(&j->door, &j->listener, j->self.token, j->err));
    PK_TRY(receive_peers(j));
    double deadline = pk_seconds() + PK_MESH_SECONDS;
    connect_below(j, deadline, &bad);
    enum pk_status s = bad.len ? PK_OK : accept_above(j, deadline, &bad);
    if (s == PK_OK) pk_join_answer(j->w->fd[0], bad.len ? PK_ERANK : PK_OK, bad.len ? bad.s : "");
    pk_text_free(&bad);
    if (s == PK_OK)
        s = pk_join_read_answer(j, j->w->fd[0], deadline + GRACE_SECONDS, "rank 0", j->err);
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
    struct pk_join j = {.w = out, .l = l, .mine = mine ? mine : &nobody, .listener = {.fd = -1}};
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
        if (l->size > 1) s = l->rank == 0 ? pk_join_zero(&j) : join_other(&j);
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
