/* rendezvous_zero.c -- rank 0's side of the rendezvous: who joins, do they fit, did all reach all
 * (see rendezvous.h, and rendezvous.c for the messages). */
#include "core/rendezvous_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINGER_SECONDS 1.0 // to tell latecomers why there is no job

/* "rank 2 (host b, process 77)" */
static void name_rank(const struct pk_join *j, int rank, char text[256])
{
    const struct pk_peer *p = &j->w->peer[rank];
    snprintf(text, 256, "rank %d (%.100s, process %lld)", rank, p->host, (long long)p->pid);
}

static enum pk_status open_door(struct pk_join *j)
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
            for (int i = 0; i < PK_JOIN_PORTS; i++)
                if ((s = pk_listen(&j->listener, address, pk_join_port(j, i), j->err)) == PK_OK)
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
    pk_join_say(j, "rank 0 of %d listens on %s port %d%s%s", l->size, j->listener.address,
                j->listener.port, interface[0] ? ", interface " : "", interface);
    if (!l->file[0]) return PK_OK;
    struct pk_meeting *m = &j->meeting;
    *m =
        (struct pk_meeting){.port = j->listener.port, .pid = getpid(), .written = pk_join_clock(j)};
    memcpy(m->address, j->listener.address, sizeof m->address);
    memcpy(m->host, j->self.host, sizeof m->host);
    snprintf(m->token, sizeof m->token, "%s", l->token[0] ? "given" : j->self.token);
    return pk_meeting_publish(l->file, m, j->err);
}

/* Whether a rank that wants to join fits this job; the message is for all. */
static enum pk_status check_joiner(struct pk_join *j, const struct pk_hello *h, const char *from)
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

static void take_joiner(struct pk_join *j, const struct pk_hello *h, int fd)
{
    struct pk_peer *p = &j->w->peer[h->rank];
    j->w->fd[h->rank] = fd;
    memcpy(p->host, h->host, sizeof p->host);
    memcpy(p->address, h->address, sizeof p->address);
    p->port = (int)h->port;
    p->pid = h->pid;
    p->clock_ahead = h->clock - pk_join_clock(j);
}

static void list_missing(const struct pk_join *j, const int *fd, char *text, size_t size)
{
    bool *missing;
    snprintf(text, size, "?");
    if (pk_alloc(&missing, (size_t)j->w->size, sizeof *missing, "ranks", NULL) != PK_OK) return;
    for (int r = 1; r < j->w->size; r++) missing[r] = fd[r] < 0;
    pk_rank_list(text, size, missing, j->w->size);
    free(missing);
}

static enum pk_status somebody_missing(struct pk_join *j, const char *what, const int *fd)
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
static enum pk_status collect(struct pk_join *j)
{
    struct pk_world *w = j->w;
    double next_note = pk_seconds() + PK_SAY_SECONDS;
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
            pk_join_say(j, "waiting for rank%s %s (%d of %d are here)",
                        strpbrk(text, ",-") ? "s" : "", text, here, w->size);
            next_note += PK_SAY_SECONDS;
            continue;
        }
        enum pk_status s = h.kind == PK_HELLO_JOIN
                               ? check_joiner(j, &h, from)
                               : pk_fail(j->err, PK_ERANK, "rank %lld is ahead of the protocol",
                                         (long long)h.rank);
        if (s != PK_OK) {
            pk_join_answer(fd, s, j->err->message);
            close(fd);
            return s;
        }
        take_joiner(j, &h, fd);
        pk_join_answer(fd, PK_OK, "");
        here++;
    }
    return PK_OK;
}

static void check_clocks(const struct pk_join *j)
{
    int worst = 0;
    for (int r = 1; r < j->w->size; r++)
        if (fabs(j->w->peer[r].clock_ahead) > fabs(j->w->peer[worst].clock_ahead)) worst = r;
    double ahead = j->w->peer[worst].clock_ahead;
    if (fabs(ahead) > PK_CLOCK_APART)
        pk_join_say(
            j,
            "warning: the clock of rank %d (%s) is %.0f s %s rank 0's: times in logs will not "
            "match",
            worst, j->w->peer[worst].host, fabs(ahead), ahead > 0 ? "ahead of" : "behind");
}

static enum pk_status send_peers(struct pk_join *j)
{
    struct pk_world *w = j->w;
    struct pk_wire_peer *list;
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
        pk_join_answer(w->fd[r], PK_OK, "");
        s = pk_send_all(w->fd[r], list, (size_t)w->size * sizeof *list,
                        pk_seconds() + PK_TRY_SECONDS, who, j->err);
    }
    free(list);
    return s;
}

/* Waits for everybody's second connection and for the news that it reached all others. Failures are
 * gathered for a second, since a blocked link is seen by several. */
static enum pk_status await_mesh(struct pk_join *j, bool *ready, struct pk_text *bad)
{
    struct pk_world *w = j->w;
    double deadline = pk_seconds() + PK_MESH_SECONDS + PK_TRY_SECONDS;
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
                pk_join_answer(fd, s, j->err->message);
                close(fd);
            } else {
                w->beat_fd[h.rank] = fd;
                beats++;
            }
            continue;
        }
        name_rank(j, fd, who);
        if (pk_join_read_answer(j, w->fd[fd], pk_seconds() + PK_TRY_SECONDS, who, &e) != PK_OK) {
            if (!bad->len) deadline = PK_MIN(deadline, pk_seconds() + 1);
            pk_join_complain(bad, e.message);
            j->w->told = false; // that is rank 0's to say
        }
        ready[fd] = true;
        watch[fd] = -1;
        done++;
    }
    free(watch);
    return s;
}

static enum pk_status finish_mesh(struct pk_join *j)
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
    for (int r = 1; r < w->size && s == PK_OK; r++) pk_join_answer(w->fd[r], PK_OK, "");
    pk_text_free(&bad);
    free(ready);
    free(late);
    return s;
}

/* Rank 0 has failed: tells those that are here, and for a moment those that come. */
static void tell_all(struct pk_join *j, enum pk_status s)
{
    double until = pk_seconds() + LINGER_SECONDS;
    char from[PK_ADDRESS_TEXT];
    int told = 1, fd;
    for (int r = 1; r < j->w->size; r++) {
        if (j->w->fd[r] < 0) continue;
        pk_join_answer(j->w->fd[r], s, j->err->message);
        told++;
    }
    while (told < j->w->size && j->door.visitor && pk_seconds() < j->deadline) {
        struct pk_hello h;
        enum pk_event event;
        if (pk_reception_next(&j->door, NULL, 0, until, &event, &h, &fd, from, NULL) != PK_OK ||
            event != PK_EVENT_HELLO)
            return;
        pk_join_answer(fd, s, j->err->message);
        close(fd);
        told++;
    }
}

enum pk_status pk_join_zero(struct pk_join *j)
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
        pk_join_say(j, "warning: %d connections without this job's token were turned away",
                    j->w->rejected);
    if (s == PK_OK) check_clocks(j);
    if (j->meeting.port) pk_meeting_withdraw(j->l->file, &j->meeting);
    return s;
}
