/* rendezvous_internal.h -- what rank 0 (rendezvous_zero.c) and the others (rendezvous.c) share. */
#ifndef PK_RENDEZVOUS_INTERNAL_H
#define PK_RENDEZVOUS_INTERNAL_H

#include "core/rendezvous.h"
#include "core/rendezvous_file.h"

/* Ports that are derived from a job's name: below the ephemeral ones. */
enum { PK_JOIN_PORTS = 8, PK_JOIN_FIRST_PORT = 20000, PK_JOIN_PORT_SPAN = 12000 };
#define PK_MESH_SECONDS 30.0 // to connect all pairs, once everybody is known
#define PK_SAY_SECONDS  10.0 // between notes about who is awaited
#define PK_TRY_SECONDS  5.0  // for one connection or answer

/* Both ways: all is well, or what is not. */
struct pk_answer {
    uint64_t magic;
    int64_t status; // enum pk_status
    char text[PK_ERR_MAX];
};

/* A line of the list that rank 0 sends; the list has `size` of them. */
struct pk_wire_peer {
    char host[PK_HOST_TEXT], address[PK_ADDRESS_TEXT];
    int64_t port, pid;
    double clock_ahead;
};

/* A join under way. err is never NULL: rank 0 sends its message to the others. */
struct pk_join {
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

void pk_join_say(const struct pk_join *j, const char *fmt, ...) PK_PRINTF(2, 3);
double pk_join_clock(const struct pk_join *j); // wall clock, s
int pk_join_port(const struct pk_join *j, int i);
/* Appends a line on what a rank could not reach. */
void pk_join_complain(struct pk_text *all, const char *text);
enum pk_status pk_join_answer(int fd, enum pk_status s, const char *text);
/* An answer that reports a failure becomes this rank's; w->told is set then. */
enum pk_status pk_join_read_answer(struct pk_join *j, int fd, double deadline, const char *who,
                                   struct pk_err *err);
/* All that rank 0 does. */
enum pk_status pk_join_zero(struct pk_join *j);

#endif
