/* socket.h -- TCP with deadlines: listen, connect, send and receive, and which address to use.
 *
 * Every call ends by its deadline, a time of pk_seconds(). Sockets are close-on-exec. */
#ifndef PK_SOCKET_H
#define PK_SOCKET_H

#include "core/base.h"

enum { PK_ADDRESS_TEXT = 64 };

/* Where a socket listens. */
struct pk_listener {
    int fd;                        // non-blocking; -1 while closed
    int port;                      // the one that was bound
    char address[PK_ADDRESS_TEXT]; // numeric; "0.0.0.0" stands for all
    char interface[32];            // its name, "" where all
};

/* Listens on an address; port 0 lets the system choose.
 * Errors  PK_ERANK  the port is taken, or no such address here */
enum pk_status pk_listen(struct pk_listener *out, const char *address, int port,
                         struct pk_err *err);
/* Takes over a socket that somebody else made listen. */
enum pk_status pk_listen_adopt(struct pk_listener *out, int fd, struct pk_err *err);
void pk_listen_close(struct pk_listener *l);

/* The address of this host that others should use, into address and interface [32]:
 *   name given  that interface's;   local  loopback
 *   host given  the one that host's name resolves to, if it is one of ours; 0.0.0.0 if it is not
 *   otherwise   the first interface that is up and neither loopback nor virtual
 * IPv4 goes before IPv6.
 * Errors  PK_EUSAGE no such interface (lists those there are) */
enum pk_status pk_local_address(char address[PK_ADDRESS_TEXT], char interface[32], const char *name,
                                const char *host, bool local, struct pk_err *err);

/* Connects to a host's name or number; blocking afterwards, with TCP_NODELAY. *out is -1 on error.
 * Errors  PK_ERANK  says why in a few words (no such host, refused, no answer) */
enum pk_status pk_connect(int *out, const char *host, int port, double deadline,
                          struct pk_err *err);
/* Numeric addresses of this end of a connection, and of the other. */
bool pk_socket_name(int fd, char own[PK_ADDRESS_TEXT], char other[PK_ADDRESS_TEXT], int *port);

/* All n bytes or an error. `who` is the other side in messages.
 * Errors  PK_ERANK  closed, broken, or not by the deadline */
enum pk_status pk_send_all(int fd, const void *bytes, size_t n, double deadline, const char *who,
                           struct pk_err *err);
enum pk_status pk_receive_all(int fd, void *bytes, size_t n, double deadline, const char *who,
                              struct pk_err *err);

enum pk_status pk_set_blocking(int fd, bool blocking, struct pk_err *err);
void pk_pause(double seconds); // sleeps, through signals

#endif
