/* reception.c -- accepting connections that say a proper hello (see reception.h). */
#include "core/reception.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { VISITORS = 1024 }; // connections that have not said hello yet; the oldest goes when full
#define HELLO_SECONDS 5.0

struct pk_visitor {
    int fd;
    size_t got;
    double since;
    struct pk_hello hello;
};

uint64_t pk_hello_magic(void)
{
    return 0x314a4b5249414850u; // bytes that no text protocol starts with by accident
}

enum pk_status pk_reception_open(struct pk_reception *r, struct pk_listener *listener,
                                 const char *token, struct pk_err *err)
{
    *r = (struct pk_reception){.listener = listener};
    snprintf(r->token, sizeof r->token, "%s", token);
    return pk_alloc(&r->visitor, VISITORS, sizeof *r->visitor, "reception", err);
}

void pk_reception_close(struct pk_reception *r)
{
    for (int i = 0; i < r->visitors; i++) close(r->visitor[i].fd);
    free(r->visitor);
    r->visitor = NULL;
    r->visitors = 0;
}

static void drop(struct pk_reception *r, int i)
{
    memmove(r->visitor + i, r->visitor + i + 1, (size_t)(r->visitors - i - 1) * sizeof *r->visitor);
    r->visitors--;
}

static void reject(struct pk_reception *r, int i)
{
    close(r->visitor[i].fd);
    r->rejected++;
    drop(r, i);
}

/* The time this takes must not depend on where the first difference is. */
static bool same_token(const char *a, const char *b)
{
    unsigned char differ = 0;
    for (size_t i = 0; i < PK_TOKEN_BYTES; i++) differ |= (unsigned char)(a[i] ^ b[i]);
    return differ == 0;
}

static void let_in(struct pk_reception *r)
{
    for (;;) {
        int on = 1, fd = accept(r->listener->fd, NULL, NULL);
        if (fd < 0 && errno == EINTR) continue;
        if (fd < 0) return; // nobody else, or gone again
        if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0 ||
            fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
            close(fd);
            continue;
        }
        if (r->visitors == VISITORS) reject(r, 0);
        r->visitor[r->visitors++] = (struct pk_visitor){.fd = fd, .since = pk_seconds()};
    }
}

/* Reads on; 1 when the hello is complete and good, -1 when the visitor has to go. */
static int listen_to(struct pk_reception *r, struct pk_visitor *v)
{
    char *to = (char *)&v->hello;
    while (v->got < sizeof v->hello) {
        ssize_t n = recv(v->fd, to + v->got, sizeof v->hello - v->got, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
        if (n <= 0) return -1;
        v->got += (size_t)n;
        if (v->got >= sizeof v->hello.magic && v->hello.magic != pk_hello_magic()) return -1;
    }
    v->hello.version[PK_VERSION_TEXT - 1] = v->hello.host[PK_HOST_TEXT - 1] = 0;
    v->hello.address[PK_ADDRESS_TEXT - 1] = 0;
    return same_token(v->hello.token, r->token) ? 1 : -1;
}

/* One that is done, or -1; closes those that took too long. */
static int find_done(struct pk_reception *r)
{
    double now = pk_seconds();
    for (int i = 0; i < r->visitors; i++) {
        int state = listen_to(r, &r->visitor[i]);
        if (state > 0) return i;
        if (state == 0 && now - r->visitor[i].since < HELLO_SECONDS) continue;
        reject(r, i--);
    }
    return -1;
}

enum pk_status pk_reception_next(struct pk_reception *r, const int *watch, int watches,
                                 double deadline, enum pk_event *event, struct pk_hello *hello,
                                 int *fd, char from[PK_ADDRESS_TEXT], struct pk_err *err)
{
    struct pollfd *p;
    enum pk_status s = PK_OK;
    PK_TRY(pk_alloc(&p, (size_t)watches + VISITORS + 1, sizeof *p, "poll", err));
    for (*event = PK_EVENT_TIMEOUT;;) {
        int n = 0, done = find_done(r);
        if (done >= 0) {
            *event = PK_EVENT_HELLO;
            *fd = r->visitor[done].fd;
            *hello = r->visitor[done].hello;
            drop(r, done);
            if (!pk_socket_name(*fd, NULL, from, NULL)) from[0] = 0;
            break;
        }
        for (int i = 0; i < watches; i++) p[n++] = (struct pollfd){watch[i], POLLIN, 0};
        p[n++] = (struct pollfd){r->listener->fd, POLLIN, 0};
        for (int i = 0; i < r->visitors; i++) p[n++] = (struct pollfd){r->visitor[i].fd, POLLIN, 0};
        double left = deadline - pk_seconds();
        if (left <= 0) break;
        int ready = poll(p, (nfds_t)n, (int)(PK_MIN(left, 0.5) * 1e3) + 1);
        if (ready < 0 && errno != EINTR) {
            s = pk_fail_errno(err, PK_EINTERNAL, "poll");
            break;
        }
        if (ready <= 0) continue;
        for (int i = 0; i < watches && *event == PK_EVENT_TIMEOUT; i++)
            if (watch[i] >= 0 && p[i].revents) *event = PK_EVENT_WATCHED, *fd = i;
        if (*event != PK_EVENT_TIMEOUT) break;
        if (p[watches].revents) let_in(r);
    }
    free(p);
    return s;
}
