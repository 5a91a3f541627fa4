/* comm_tcp.c -- ranks over stream sockets, one to each peer (see comm.h).
 *
 * A message is a head and its bytes. Two more frames, of a fixed length so that they can be found
 * at the end of what a closed socket still holds: BYE before an orderly end, ABORT with a reason.
 * While a rank waits for one peer it listens to the end of all others: whoever dies or gives up is
 * known everywhere at once, and the ranks that see it tell the rest. */
#define _GNU_SOURCE 1 // POLLRDHUP
#include "core/comm.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BYE = -1, ABORT = -2 }; // kinds beside enum pk_comm_kind

struct control { // 256 bytes
    struct pk_comm_head head;
    char text[256 - sizeof(struct pk_comm_head)];
};

struct peer {
    int fd;
    bool ended; // it has said BYE, or its end was seen: no more to be listened for
    bool torn;  // a message to it was cut short, so that no frame can follow
};

struct tcp {
    struct pk_comm c; // first
    struct peer *peer;
    struct pollfd *poll; // [size + 1], the last for `wake`
    int wake[2];         // a pipe; pk_comm_abort writes
    double timeout;
    pthread_mutex_t lock; // an exchange, or telling the others
    atomic_bool asked;    // to abort; `why` was written before
    pthread_mutex_t word; // of `why`
    char why[200];
    struct pk_err failed; // the first error; PK_OK before
};

struct flow { // one direction of an exchange
    int peer; // -1: there is none
    struct pk_comm_head head;
    char *data;
    size_t bytes, done; // done counts the head too
};

static bool complete(const struct flow *f)
{
    return f->peer < 0 || f->done == sizeof f->head + f->bytes;
}

/* Tells every peer that can still be told, and closes this side. */
static void tell(struct tcp *t, int kind, const char *text)
{
    struct control frame = {.head = pk_comm_head_make(&t->c, 0)};
    frame.head.kind = kind;
    snprintf(frame.text, sizeof frame.text, "%.*s", (int)sizeof frame.text - 1, text);
    for (int k = 0; k < t->c.size; k++) {
        struct peer *p = &t->peer[k];
        if (k == t->c.rank || p->fd < 0) continue;
        if (!p->torn && send(p->fd, &frame, sizeof frame, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            p->torn = true; // full or gone: it will see the end of the stream
        shutdown(p->fd, SHUT_WR);
    }
}

/* The first failure: it is kept, and told. text: what the others shall say. */
static enum pk_status give_up(struct tcp *t, const char *text, struct pk_err *err)
{
    pk_comm_fail(&t->c, &t->failed, "%s", text);
    tell(t, ABORT, text);
    if (err) *err = t->failed;
    return PK_ERANK;
}

static enum pk_status lost(struct tcp *t, int k, struct pk_err *err)
{
    char text[200];
    snprintf(text, sizeof text,
             "rank %d closed its connection to rank %d; it has ended or was killed", k, t->c.rank);
    return give_up(t, text, err);
}

static enum pk_status heard(struct tcp *t, int k, struct control *frame, struct pk_err *err)
{
    char text[64];
    frame->text[sizeof frame->text - 1] = 0;
    if (frame->head.kind == ABORT) return give_up(t, frame->text, err);
    snprintf(text, sizeof text, "rank %d has ended already", k);
    return give_up(t, text, err);
}

static bool is_control(const struct pk_comm_head *h)
{
    return h->kind == BYE || h->kind == ABORT;
}

/* Peer k sends no more. Its last frame, behind whatever is still to be received, says why. */
static enum pk_status closed(struct tcp *t, int k, bool needed, struct pk_err *err)
{
    struct control frame = {0};
    int waiting = 0;
    char *bytes = NULL;
    const struct pk_comm_head mine = pk_comm_head_make(&t->c, 0);
    if (ioctl(t->peer[k].fd, FIONREAD, &waiting) == 0 && waiting >= (int)sizeof frame &&
        pk_alloc(&bytes, (size_t)waiting, 1, "frame", NULL) == PK_OK &&
        recv(t->peer[k].fd, bytes, (size_t)waiting, MSG_PEEK | MSG_DONTWAIT) == waiting)
        memcpy(&frame, bytes + waiting - (int)sizeof frame, sizeof frame);
    free(bytes);
    if (frame.head.magic != mine.magic || frame.head.from != k || !is_control(&frame.head))
        return lost(t, k, err);
    if (frame.head.kind == ABORT || needed) return heard(t, k, &frame, err);
    t->peer[k].ended = true;
    return PK_OK;
}

/* Sends what the socket takes. */
static enum pk_status push(struct tcp *t, struct flow *f, struct pk_err *err)
{
    while (!complete(f)) {
        const size_t head = f->done < sizeof f->head ? sizeof f->head - f->done : 0;
        const size_t past = head ? 0 : f->done - sizeof f->head;
        struct iovec part[2] = {{(char *)&f->head + sizeof f->head - head, head},
                                {f->data + past, f->bytes - past}};
        struct msghdr m = {.msg_iov = part + !head, .msg_iovlen = head ? 2 : 1};
        ssize_t n = sendmsg(t->peer[f->peer].fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return PK_OK;
        t->peer[f->peer].torn = true; // until all of it is out
        if (n < 0) return closed(t, f->peer, true, err);
        f->done += (size_t)n;
    }
    t->peer[f->peer].torn = false;
    return PK_OK;
}

/* The rest of a control frame, whose head is there. */
static enum pk_status take_control(struct tcp *t, const struct flow *f, struct pk_err *err)
{
    struct control frame = {.head = f->head};
    const ssize_t n = recv(t->peer[f->peer].fd, frame.text, sizeof frame.text, MSG_DONTWAIT);
    if (n != (ssize_t)sizeof frame.text) return lost(t, f->peer, err);
    return heard(t, f->peer, &frame, err);
}

static enum pk_status check_head(struct tcp *t, const struct flow *f, struct pk_err *err)
{
    struct pk_err why = {0};
    const struct pk_comm_head mine = pk_comm_head_make(&t->c, 0);
    if (f->head.magic == mine.magic && is_control(&f->head)) return take_control(t, f, err);
    if (pk_comm_head_check(&t->c, &f->head, f->peer, f->bytes, &why) == PK_OK) return PK_OK;
    t->failed = why;
    tell(t, ABORT, why.message);
    if (err) *err = why;
    return PK_ERANK;
}

/* Receives what is there. */
static enum pk_status pull(struct tcp *t, struct flow *f, struct pk_err *err)
{
    while (!complete(f)) {
        const bool head = f->done < sizeof f->head;
        char *to = head ? (char *)&f->head + f->done : f->data + (f->done - sizeof f->head);
        const size_t want = head ? sizeof f->head - f->done : sizeof f->head + f->bytes - f->done;
        const ssize_t n = recv(t->peer[f->peer].fd, to, want, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return PK_OK;
        if (n <= 0) return lost(t, f->peer, err);
        f->done += (size_t)n;
        if (head && f->done == sizeof f->head) PK_TRY(check_head(t, f, err));
    }
    return PK_OK;
}

static enum pk_status asked_to_abort(struct tcp *t, struct pk_err *err)
{
    char text[256];
    pthread_mutex_lock(&t->word);
    snprintf(text, sizeof text, "rank %d gave up: %s", t->c.rank, t->why);
    pthread_mutex_unlock(&t->word);
    return give_up(t, text, err);
}

static enum pk_status silent(struct tcp *t, const struct flow *out, const struct flow *in,
                             struct pk_err *err)
{
    char text[200];
    const bool waits = !complete(in);
    snprintf(text, sizeof text, "rank %d has %s for %g s; it hangs, or the network does",
             waits ? in->peer : out->peer, waits ? "sent nothing" : "taken nothing", t->timeout);
    return give_up(t, text, err);
}

/* Waits until something can go on, `wait` ms at most; *ready is how many sockets have news. */
static enum pk_status listen_to_all(struct tcp *t, const struct flow *out, const struct flow *in,
                                    int wait, int *ready, struct pk_err *err)
{
    const int n = t->c.size;
    for (int k = 0; k < n; k++) {
        const struct peer *p = &t->peer[k];
        const bool sends = !complete(out) && out->peer == k, takes = !complete(in) && in->peer == k;
        const int events =
            (p->ended ? 0 : POLLRDHUP) | (sends ? POLLOUT : 0) | (takes ? POLLIN : 0);
        t->poll[k] = (struct pollfd){.fd = events ? p->fd : -1, .events = (short)events};
    }
    t->poll[n] = (struct pollfd){.fd = t->wake[0], .events = POLLIN};
    *ready = poll(t->poll, (nfds_t)n + 1, wait);
    if (*ready < 0 && errno != EINTR) return give_up(t, "poll failed", err);
    for (int k = 0; *ready > 0 && k < n; k++) {
        const bool over = t->poll[k].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL);
        if (t->poll[k].fd < 0 || !over || (!complete(in) && in->peer == k)) continue;
        PK_TRY(closed(t, k, !complete(out) && out->peer == k, err));
    }
    return PK_OK;
}

static enum pk_status move(struct tcp *t, struct flow *out, struct flow *in, struct pk_err *err)
{
    double since = pk_seconds();
    for (;;) {
        const size_t before = out->done + in->done;
        if (atomic_load(&t->asked)) return asked_to_abort(t, err);
        PK_TRY(push(t, out, err));
        PK_TRY(pull(t, in, err));
        if (complete(out) && complete(in)) return PK_OK;
        const double now = pk_seconds();
        if (out->done + in->done != before) since = now;
        const double left = t->timeout - (now - since);
        if (t->timeout > 0 && left <= 0) return silent(t, out, in, err);
        int ready, wait = t->timeout > 0 ? (int)(PK_MIN(left, 3600.0) * 1000) + 1 : -1;
        PK_TRY(listen_to_all(t, out, in, wait, &ready, err));
    }
}

static enum pk_status tcp_exchange(struct pk_comm *c, const struct pk_comm_exchange *e,
                                   struct pk_err *err)
{
    struct tcp *t = (struct tcp *)c;
    enum pk_status s;
    struct flow out = {.peer = e->to,
                       .head = pk_comm_head_make(c, e->out_bytes),
                       .data = (char *)(uintptr_t)e->out,
                       .bytes = e->out_bytes};
    struct flow in = {.peer = e->from, .data = e->in, .bytes = e->in_bytes};
    pthread_mutex_lock(&t->lock);
    if (t->failed.status != PK_OK) {
        if (err) *err = t->failed;
        s = PK_ERANK;
    } else {
        s = move(t, &out, &in, err);
    }
    pthread_mutex_unlock(&t->lock);
    return s;
}

static void tcp_abort(struct pk_comm *c, const char *why)
{
    struct tcp *t = (struct tcp *)c;
    pthread_mutex_lock(&t->word);
    if (!atomic_load(&t->asked))
        snprintf(t->why, sizeof t->why, "%.*s", (int)sizeof t->why - 1, why);
    pthread_mutex_unlock(&t->word);
    atomic_store(&t->asked, true);
    while (write(t->wake[1], "", 1) < 0 && errno == EINTR) continue;
    pthread_mutex_lock(&t->lock);
    if (t->failed.status == PK_OK) asked_to_abort(t, NULL);
    pthread_mutex_unlock(&t->lock);
}

static void tcp_free(struct pk_comm *c)
{
    struct tcp *t = (struct tcp *)c;
    if (t->failed.status == PK_OK) tell(t, BYE, "");
    for (int k = 0; k < c->size; k++)
        if (k != c->rank && t->peer[k].fd >= 0) close(t->peer[k].fd);
    for (int i = 0; i < 2; i++)
        if (t->wake[i] >= 0) close(t->wake[i]);
    pthread_mutex_destroy(&t->lock);
    pthread_mutex_destroy(&t->word);
    free(t->peer);
    free(t->poll);
    free(t);
}

static enum pk_status prepare(struct tcp *t, const int *fd, struct pk_err *err)
{
    const int on = 1;
    PK_TRY(pk_alloc(&t->peer, (size_t)t->c.size, sizeof *t->peer, "peers", err));
    PK_TRY(pk_alloc(&t->poll, (size_t)t->c.size + 1, sizeof *t->poll, "peers", err));
    for (int k = 0; k < t->c.size; k++) t->peer[k].fd = -1;
    if (pipe(t->wake)) return pk_fail_errno(err, PK_EIO, "a pipe");
    for (int i = 0; i < 2; i++)
        if (fcntl(t->wake[i], F_SETFL, O_NONBLOCK) || fcntl(t->wake[i], F_SETFD, FD_CLOEXEC))
            return pk_fail_errno(err, PK_EIO, "a pipe");
    for (int k = 0; k < t->c.size; k++) {
        if (k == t->c.rank) continue;
        const int flags = fcntl(fd[k], F_GETFL);
        if (flags < 0 || fcntl(fd[k], F_SETFL, flags | O_NONBLOCK))
            return pk_fail_errno(err, PK_EIO, "the socket to rank %d of %d", k, t->c.size);
        setsockopt(fd[k], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); // no TCP: no harm
    }
    return PK_OK;
}

enum pk_status pk_comm_tcp(struct pk_comm **out, int rank, int size, const int *fd,
                           double timeout_s, struct pk_err *err)
{
    static const struct pk_comm_ops ops = {"tcp", tcp_exchange, tcp_abort, tcp_free};
    struct tcp *t;
    *out = NULL;
    if (size < 1 || size > PK_COMM_RANKS_MAX || rank < 0 || rank >= size)
        return pk_fail(err, PK_EINVAL, "rank %d of %d: a world has 1 to %d ranks, numbered from 0",
                       rank, size, PK_COMM_RANKS_MAX);
    PK_TRY(pk_alloc(&t, 1, sizeof *t, "communication", err));
    t->c = (struct pk_comm){.ops = &ops, .rank = rank, .size = size};
    t->timeout = timeout_s;
    t->wake[0] = t->wake[1] = -1;
    pthread_mutex_init(&t->lock, NULL);
    pthread_mutex_init(&t->word, NULL);
    enum pk_status s = prepare(t, fd, err);
    if (s != PK_OK) {
        t->c.size = 0; // the sockets stay the caller's
        tcp_free(&t->c);
        return s;
    }
    for (int k = 0; k < size; k++) t->peer[k].fd = k == rank ? -1 : fd[k];
    *out = &t->c;
    return PK_OK;
}
