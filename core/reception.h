/* reception.h -- the door of a listening rank: strangers never get in, and never hold anyone up.
 *
 * Who connects must say a hello of fixed size with the job's token (compared in constant time).
 * Connections that say something else, nothing within five seconds, or too little, are closed and
 * counted. */
#ifndef PK_RECEPTION_H
#define PK_RECEPTION_H

#include "core/socket.h"

enum { PK_TOKEN_BYTES = 256, PK_HOST_TEXT = 128, PK_VERSION_TEXT = 64 };

enum pk_hello_kind { PK_HELLO_JOIN = 1, PK_HELLO_MESH, PK_HELLO_BEAT };

/* What travels first on every connection. No padding, same byte order everywhere (the magic number
 * would not match otherwise). */
struct pk_hello {
    uint64_t magic;
    int64_t kind; // enum pk_hello_kind
    int64_t rank, size;
    int64_t pid;
    int64_t port; // where this rank listens, 0 for rank 0
    double clock; // seconds of the wall clock when it was sent
    uint64_t binary, recipe;
    char token[PK_TOKEN_BYTES]; // padded with zeros
    char version[PK_VERSION_TEXT];
    char host[PK_HOST_TEXT];
    char address[PK_ADDRESS_TEXT]; // where this rank listens
};
uint64_t pk_hello_magic(void);

struct pk_reception {
    struct pk_listener *listener; // borrowed
    char token[PK_TOKEN_BYTES];
    int rejected; // connections closed so far: strangers, or another job's ranks
    struct pk_visitor *visitor;
    int visitors;
};

enum pk_event { PK_EVENT_TIMEOUT, PK_EVENT_HELLO, PK_EVENT_WATCHED };

enum pk_status pk_reception_open(struct pk_reception *r, struct pk_listener *listener,
                                 const char *token, struct pk_err *err);
void pk_reception_close(struct pk_reception *r);
/* Waits for a complete hello with the right token (its connection, blocking and now the caller's,
 * in *fd; its address in from), for input or an end on one of watch[watches] (-1: none; its index
 * in *fd), or for the deadline. */
enum pk_status pk_reception_next(struct pk_reception *r, const int *watch, int watches,
                                 double deadline, enum pk_event *event, struct pk_hello *hello,
                                 int *fd, char from[PK_ADDRESS_TEXT], struct pk_err *err);

#endif
