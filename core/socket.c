/* socket.c -- TCP with deadlines (see socket.h). */
#include "core/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 4096 };

void pk_pause(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    while (seconds > 0 && nanosleep(&t, &t) != 0 && errno == EINTR) continue;
}

enum pk_status pk_set_blocking(int fd, bool blocking, struct pk_err *err)
{
    int flags = fcntl(fd, F_GETFL);
    int wanted = blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
    if (flags < 0 || fcntl(fd, F_SETFL, wanted) != 0)
        return pk_fail_errno(err, PK_EINTERNAL, "cannot set up a socket");
    return PK_OK;
}

static bool numeric(const struct sockaddr *a, socklen_t n, char text[PK_ADDRESS_TEXT], int *port)
{
    char service[16];
    int64_t p;
    if (getnameinfo(a, n, text, PK_ADDRESS_TEXT, service, sizeof service,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0 ||
        !pk_parse_i64(service, &p))
        return false;
    if (port) *port = (int)p;
    return true;
}

bool pk_socket_name(int fd, char own[PK_ADDRESS_TEXT], char other[PK_ADDRESS_TEXT], int *port)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (own && (getsockname(fd, (struct sockaddr *)&a, &n) != 0 ||
                !numeric((struct sockaddr *)&a, n, own, other ? NULL : port)))
        return false;
    n = sizeof a;
    return !other || (getpeername(fd, (struct sockaddr *)&a, &n) == 0 &&
                      numeric((struct sockaddr *)&a, n, other, port));
}

static void say_address(const char *host, int port, char text[300])
{
    bool six = strchr(host, ':');
    snprintf(text, 300, "%s%.256s%s:%d", six ? "[" : "", host, six ? "]" : "", port);
}

static enum pk_status resolve(struct addrinfo **out, const char *host, int port, int flags,
                              struct pk_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    *out = NULL;
    int bad = getaddrinfo(host, service, &hints, out);
    if (bad)
        return pk_fail(err, PK_ERANK, "host '%.200s' cannot be resolved: %s", host,
                       gai_strerror(bad));
    return PK_OK;
}

enum pk_status pk_listen(struct pk_listener *out, const char *address, int port, struct pk_err *err)
{
    struct addrinfo *a;
    int on = 1;
    char text[300];
    *out = (struct pk_listener){.fd = -1};
    PK_TRY(resolve(&a, address, port, AI_NUMERICHOST | AI_PASSIVE, err));
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0;
    int why = errno;
    freeaddrinfo(a);
    if (!good) {
        say_address(address, port, text);
        if (fd >= 0) close(fd);
        errno = why;
        return pk_fail_errno(err, PK_ERANK, "cannot listen on %s", text);
    }
    return pk_listen_adopt(out, fd, err);
}

enum pk_status pk_listen_adopt(struct pk_listener *out, int fd, struct pk_err *err)
{
    int listening = 0;
    socklen_t n = sizeof listening;
    *out = (struct pk_listener){.fd = -1};
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) != 0 || !listening ||
        !pk_socket_name(fd, out->address, NULL, &out->port))
        return pk_fail(err, PK_ERANK, "file descriptor %d is no listening socket", fd);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return pk_fail_errno(err, PK_EINTERNAL, "fcntl");
    PK_TRY(pk_set_blocking(fd, false, err));
    out->fd = fd;
    return PK_OK;
}

void pk_listen_close(struct pk_listener *l)
{
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
}

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static bool same_address(const struct sockaddr *a, const struct sockaddr *b)
{
    if (a->sa_family != b->sa_family) return false;
    if (a->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
    return !memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
                   &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr, 16);
}

static bool usable(const struct ifaddrs *i)
{
    if (!i->ifa_addr || !(i->ifa_flags & IFF_UP)) return false;
    if (i->ifa_addr->sa_family == AF_INET) return true;
    if (i->ifa_addr->sa_family != AF_INET6) return false;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)i->ifa_addr;
    return !IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr); // which would need a scope
}

/* Bridges and ends of containers: addresses that other hosts do not reach. */
static bool is_virtual(const char *name)
{
    static const char *const heads[] = {"docker", "veth", "br-", "virbr", "cni", "podman", "lxc"};
    for (size_t i = 0; i < PK_COUNT(heads); i++)
        if (!strncmp(name, heads[i], strlen(heads[i]))) return true;
    return false;
}

static bool take(const struct ifaddrs *i, char address[PK_ADDRESS_TEXT], char interface[32])
{
    socklen_t n = i->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in)
                                                    : sizeof(struct sockaddr_in6);
    snprintf(interface, 32, "%.31s", i->ifa_name);
    return numeric(i->ifa_addr, n, address, NULL);
}

/* The first of our addresses for which the arguments hold; IPv4 in a first pass. */
static bool find_address(const struct ifaddrs *all, const char *name, const struct sockaddr *equal,
                         bool outside, char address[PK_ADDRESS_TEXT], char interface[32])
{
    for (int six = 0; six < 2; six++)
        for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
            if (!usable(i) || (i->ifa_addr->sa_family == AF_INET6) != six) continue;
            if (name && strcmp(name, i->ifa_name) != 0) continue;
            if (equal && !same_address(equal, i->ifa_addr)) continue;
            if (outside && (is_loopback(i->ifa_addr) || is_virtual(i->ifa_name))) continue;
            if (take(i, address, interface)) return true;
        }
    return false;
}

static enum pk_status no_interface(const struct ifaddrs *all, const char *name, struct pk_err *err)
{
    char list[512] = "";
    size_t used = 0;
    for (const struct ifaddrs *i = all; i && used < sizeof list - 64; i = i->ifa_next)
        if (usable(i)) {
            int n = snprintf(list + used, sizeof list - used, " %.31s", i->ifa_name);
            used += (size_t)PK_MAX(n, 0);
        }
    return pk_fail(err, PK_EUSAGE, "no interface '%.60s' with an address here; there are:%s", name,
                   list);
}

/* The address of ours that `host` resolves to. A host's own name that its own table maps to
 * loopback (Debian does) means the address that others see. */
static void address_of_host(const struct ifaddrs *all, const char *host,
                            char address[PK_ADDRESS_TEXT], char interface[32])
{
    struct addrinfo *found = NULL;
    char text[PK_ADDRESS_TEXT];
    snprintf(address, PK_ADDRESS_TEXT, "0.0.0.0");
    if (resolve(&found, host, 0, 0, NULL) != PK_OK) return;
    for (struct addrinfo *a = found; a; a = a->ai_next) {
        bool loop = is_loopback(a->ai_addr);
        bool meant = !strcmp(host, "localhost") ||
                     (numeric(a->ai_addr, a->ai_addrlen, text, NULL) && !strcmp(text, host));
        if (loop && meant) {
            snprintf(address, PK_ADDRESS_TEXT, "%s", text);
            if (!strcmp(host, "localhost")) snprintf(address, PK_ADDRESS_TEXT, "127.0.0.1");
            snprintf(interface, 32, "lo");
            break;
        }
        if (find_address(all, NULL, loop ? NULL : a->ai_addr, loop, address, interface)) break;
    }
    freeaddrinfo(found);
}

enum pk_status pk_local_address(char address[PK_ADDRESS_TEXT], char interface[32], const char *name,
                                const char *host, bool local, struct pk_err *err)
{
    struct ifaddrs *all = NULL;
    enum pk_status s = PK_OK;
    interface[0] = 0;
    if (getifaddrs(&all) != 0) return pk_fail_errno(err, PK_EMISSING, "cannot list interfaces");
    if (name && *name) {
        if (!find_address(all, name, NULL, false, address, interface))
            s = no_interface(all, name, err);
    } else if (local) {
        snprintf(address, PK_ADDRESS_TEXT, "127.0.0.1");
        snprintf(interface, 32, "lo");
    } else if (host && *host) {
        address_of_host(all, host, address, interface);
    } else if (!find_address(all, NULL, NULL, true, address, interface)) {
        snprintf(address, PK_ADDRESS_TEXT, "127.0.0.1");
        snprintf(interface, 32, "lo");
    }
    freeifaddrs(all);
    return s;
}

/* Waits until fd is ready for `events`; 1, or 0 at the deadline. */
static int wait_for(int fd, short events, double deadline)
{
    for (;;) {
        struct pollfd p = {fd, events, 0};
        double left = deadline - pk_seconds();
        if (left < 0) left = 0;
        int n = poll(&p, 1, (int)PK_MIN(left * 1e3 + 1, 1e6));
        if (n > 0) return 1;
        if (n < 0 && errno != EINTR) return 1; // the call that follows says what is wrong
        if (pk_seconds() >= deadline) return 0;
    }
}

static int connect_one(const struct addrinfo *a, double deadline)
{
    int on = 1, error = 0;
    socklen_t n = sizeof error;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0 || errno == EINPROGRESS) {
        if (!wait_for(fd, POLLOUT, deadline))
            error = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0)
            error = errno;
        // a port among the ephemeral ones can connect to itself while nobody listens
        char own[PK_ADDRESS_TEXT], other[PK_ADDRESS_TEXT];
        int here = 0, there = 0;
        if (!error && pk_socket_name(fd, own, NULL, &here) &&
            pk_socket_name(fd, NULL, other, &there) && here == there && !strcmp(own, other))
            error = ECONNREFUSED;
    } else {
        error = errno;
    }
    if (!error && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 &&
        pk_set_blocking(fd, true, NULL) == PK_OK)
        return fd;
    if (!error) error = errno;
    close(fd);
    errno = error;
    return -1;
}

enum pk_status pk_connect(int *out, const char *host, int port, double deadline, struct pk_err *err)
{
    struct addrinfo *found;
    char text[300];
    *out = -1;
    PK_TRY(resolve(&found, host, port, 0, err));
    for (struct addrinfo *a = found; a && *out < 0; a = a->ai_next) *out = connect_one(a, deadline);
    int why = errno;
    freeaddrinfo(found);
    if (*out >= 0) return PK_OK;
    errno = why;
    say_address(host, port, text);
    return pk_fail_errno(err, PK_ERANK, "cannot connect to %s", text);
}

enum pk_status pk_send_all(int fd, const void *bytes, size_t n, double deadline, const char *who,
                           struct pk_err *err)
{
    for (size_t sent = 0; sent < n;) {
        ssize_t k = send(fd, (const char *)bytes + sent, n - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k >= 0)
            sent += (size_t)k;
        else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!wait_for(fd, POLLOUT, deadline))
                return pk_fail(err, PK_ERANK, "%s took nothing in time", who);
        } else if (errno != EINTR)
            return pk_fail_errno(err, PK_ERANK, "the connection to %s broke", who);
    }
    return PK_OK;
}

enum pk_status pk_receive_all(int fd, void *bytes, size_t n, double deadline, const char *who,
                              struct pk_err *err)
{
    for (size_t got = 0; got < n;) {
        ssize_t k = recv(fd, (char *)bytes + got, n - got, MSG_DONTWAIT);
        if (k > 0)
            got += (size_t)k;
        else if (k == 0)
            return pk_fail(err, PK_ERANK, "%s closed the connection", who);
        else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!wait_for(fd, POLLIN, deadline))
                return pk_fail(err, PK_ERANK, "%s sent nothing in time", who);
        } else if (errno != EINTR)
            return pk_fail_errno(err, PK_ERANK, "the connection to %s broke", who);
    }
    return PK_OK;
}
