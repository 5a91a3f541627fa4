/* ranks.h -- a world of forked processes that are joined by socket pairs, for tests. */
#ifndef PK_TEST_RANKS_H
#define PK_TEST_RANKS_H

#include "core/comm.h"
#include "tests/test.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORLD_MAX = 8, PATIENCE = 60 }; // seconds that a rank may take before it is killed

struct world {
    int size;
    int fd[WORLD_MAX][WORLD_MAX]; // fd[a][b]: a's end of the connection to b
    pid_t pid[WORLD_MAX];
    double timeout;
};

static inline void world_connect(struct world *w)
{
    for (int a = 0; a < w->size; a++)
        for (int b = 0; b < a; b++) {
            int pair[2] = {-1, -1};
            CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
            w->fd[a][b] = pair[0];
            w->fd[b][a] = pair[1];
        }
}

/* Closes the connections of all ranks but `keep`, -1 for none. */
static inline void world_close(struct world *w, int keep)
{
    for (int a = 0; a < w->size; a++)
        for (int b = 0; b < w->size; b++)
            if (a != b && a != keep) close(w->fd[a][b]);
}

static inline struct pk_comm *world_join(struct world *w, int rank)
{
    struct pk_comm *c = NULL;
    struct pk_err err = {0};
    world_close(w, rank);
    if (w->size == 1)
        CHECK_OK(pk_comm_single(&c, &err), &err);
    else
        CHECK_OK(pk_comm_tcp(&c, rank, w->size, w->fd[rank], w->timeout, &err), &err);
    return c;
}

/* Runs fn in a process of its own for every rank; each must end with 0 failed checks, or, for the
 * ranks in the bit mask `dies`, by _exit(9) or a signal. */
static inline void world_run(int size, double timeout, unsigned dies,
                             void (*fn)(struct pk_comm *c, void *ctx), void *ctx)
{
    struct world w = {.size = size, .timeout = timeout};
    world_connect(&w);
    fflush(NULL);
    for (int k = 0; k < size; k++) {
        w.pid[k] = fork();
        CHECK(w.pid[k] >= 0);
        if (w.pid[k]) continue;
        alarm(PATIENCE);
        test_good_ = test_bad_ = 0;
        struct pk_comm *c = world_join(&w, k);
        if (c) fn(c, ctx);
        pk_comm_free(c);
        fflush(NULL);
        exit(test_bad_ != 0); // not _exit, so that a leak checker sees the end
    }
    world_close(&w, -1);
    for (int k = 0; k < size; k++) {
        int status = -1;
        CHECK(waitpid(w.pid[k], &status, 0) == w.pid[k]);
        const bool died = WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 9);
        const bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        if (!(dies >> k & 1 ? died : good))
            fprintf(stderr, "rank %d of %d ended with %#x\n", k, size, (unsigned)status);
        CHECK(dies >> k & 1 ? died : good);
    }
}

#endif
