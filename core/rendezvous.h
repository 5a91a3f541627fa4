/* rendezvous.h -- ranks find each other: from pk_launch (who am I) to a full mesh of connections.
 *
 * Rank 0 listens on one interface; the others connect, say who they are, and get the list of all.
 * Then every pair connects, plus a second connection of everybody to rank 0 for the heartbeat.
 * Nothing is left over if that fails anywhere: every rank ends with an error that names the rank
 * at fault, since rank 0 tells the others.
 *
 * Where rank 0 is: MASTER_ADDR and MASTER_PORT; or a file in a shared folder (PURKINJE_RENDEZVOUS),
 * written by rank 0 with address, port and a random token, readable by its owner only; or, where
 * the job has a name that all its ranks know (Slurm), the first host and one of eight ports that
 * are derived from the name.
 *
 * The token keeps other jobs out, by accident or by other users: PURKINJE_TOKEN, else the one in
 * the file, else the job's name (which others on a cluster can guess). It travels in the clear, and
 * what follows is neither encrypted nor signed: against somebody who reads or changes packets there
 * is no protection. docs/decisions/014-launch.md */
#ifndef PK_RENDEZVOUS_H
#define PK_RENDEZVOUS_H

#include "core/launch_env.h"
#include "core/reception.h"

/* What a rank tells about itself. Zero stands for "find out". */
struct pk_world_identity {
    uint64_t binary;                          // must be the same everywhere, like the next two
    uint64_t recipe;                          // hash of the resolved recipe
    const char *version;                      // NULL: this build's
    const char *host;                         // NULL: the system's
    double clock;                             // wall clock in seconds; tests only
    void (*say)(void *ctx, const char *line); // notes and warnings for the user, or NULL
    void *ctx;
};

struct pk_peer {
    char host[PK_HOST_TEXT];
    char address[PK_ADDRESS_TEXT]; // numeric, where it listened
    int port;
    int64_t pid;
    double clock_ahead; // its clock minus rank 0's, s (with the time the hello took)
    double connect_ms;  // how long connecting to it took, 0 where it connected
};

struct pk_world {
    int rank, size;
    int local_rank, local_size; // on this host
    struct pk_peer *peer;       // [size]
    int *fd;                    // [size] connections, blocking, TCP_NODELAY; -1 for itself
    int *beat_fd;               // [size] rank 0: one each; others: only beat_fd[0], else -1
    char interface[32];         // that this rank listened on
    int rejected;               // connections turned away
    bool told;                  // a failed join: rank 0 knows and says it
};

enum { PK_CLOCK_APART = 5 }; // seconds between clocks that are worth a warning

/* Joins; returns when every pair of ranks is connected. A world of one needs nothing and has no
 * connections. On failure *out is empty (but for `told`).
 * Errors  PK_ERANK   ranks missing after the timeout, started twice, unreachable, too many
 *         PK_EUSAGE  ranks run different programs or recipes; no such interface */
enum pk_status pk_world_join(struct pk_world *out, const struct pk_launch *l,
                             const struct pk_world_identity *mine, struct pk_err *err);
/* Closes what is still in fd and beat_fd; set to -1 what others took over. Twice is fine. */
void pk_world_leave(struct pk_world *w);

/* Prints ranks as "0, 2-5" into text. */
void pk_rank_list(char *text, size_t size, const bool *set, int n);

#endif
