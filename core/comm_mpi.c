/* comm_mpi.c -- ranks over MPI (see comm.h); the only file that knows MPI.
 *
 * Point-to-point messages alone: the sums' association is ours and not the library's. Waiting
 * polls, since MPI has no way to be woken; after a while it sleeps between polls, so that more
 * ranks than cores get along. A rank that gives up sends a text with a tag of its own to all
 * others, who look for it while they wait. A rank that dies without a word is the launcher's
 * business: mpirun ends the job. */
#include "core/comm.h"

#include <mpi.h>

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TAG_HEAD = 1, TAG_DATA, TAG_ABORT, TAG_LEAVE, TEXT = 224 };

struct mpi {
    struct pk_comm c; // first
    bool ours;        // MPI_Init was called here
    double timeout;
    atomic_bool asked;    // to abort; `why` was written before
    pthread_mutex_t lock; // of `why`
    char why[200];
    pthread_t owner;      // the thread that talks to MPI
    struct pk_err failed; // the first error; PK_OK before
    char told[TEXT];      // what the others are sent; must last until the end
    char bye[TEXT];
};

/* buffer must last until the end. */
static void tell_all(struct mpi *t, const char *buffer, int tag)
{
    for (int k = 0; k < t->c.size; k++) {
        MPI_Request r;
        if (k == t->c.rank) continue;
        if (MPI_Isend(buffer, TEXT, MPI_CHAR, k, tag, MPI_COMM_WORLD, &r) == MPI_SUCCESS)
            MPI_Request_free(&r);
    }
}

static void tell(struct mpi *t, const char *text)
{
    snprintf(t->told, sizeof t->told, "%.*s", TEXT - 1, text);
    tell_all(t, t->told, TAG_ABORT);
}

static enum pk_status give_up(struct mpi *t, const char *text, struct pk_err *err)
{
    pk_comm_fail(&t->c, &t->failed, "%s", text);
    tell(t, text);
    if (err) *err = t->failed;
    return PK_ERANK;
}

static enum pk_status asked_to_abort(struct mpi *t, struct pk_err *err)
{
    char text[TEXT];
    pthread_mutex_lock(&t->lock);
    snprintf(text, sizeof text, "rank %d gave up: %s", t->c.rank, t->why);
    pthread_mutex_unlock(&t->lock);
    return give_up(t, text, err);
}

static enum pk_status refused(struct mpi *t, const char *what, int code, struct pk_err *err)
{
    char why[MPI_MAX_ERROR_STRING], text[TEXT];
    int n = 0;
    if (MPI_Error_string(code, why, &n) != MPI_SUCCESS) n = 0;
    snprintf(text, sizeof text, "%s at rank %d: %.*s", what, t->c.rank, PK_MIN(n, 120), why);
    return give_up(t, text, err);
}

/* Takes a word of any rank, if there is one. */
static bool hear(int tag, char text[TEXT])
{
    int there = 0;
    MPI_Status from;
    if (MPI_Iprobe(MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &there, &from) != MPI_SUCCESS || !there ||
        MPI_Recv(text, TEXT, MPI_CHAR, from.MPI_SOURCE, tag, MPI_COMM_WORLD, &from) != MPI_SUCCESS)
        return false;
    text[TEXT - 1] = 0;
    return true;
}

static enum pk_status listen_to_all(struct mpi *t, struct pk_err *err)
{
    char text[TEXT];
    return hear(TAG_ABORT, text) ? give_up(t, text, err) : PK_OK;
}

static enum pk_status silent(struct mpi *t, const struct pk_comm_exchange *e, struct pk_err *err)
{
    char text[TEXT];
    snprintf(text, sizeof text, "rank %d has %s for %g s; it hangs, or the network does",
             e->from >= 0 ? e->from : e->to, e->from >= 0 ? "sent nothing" : "taken nothing",
             t->timeout);
    return give_up(t, text, err);
}

static enum pk_status wait_all(struct mpi *t, const struct pk_comm_exchange *e, MPI_Request *r,
                               int n, struct pk_err *err)
{
    enum { SPINS = 2000 };
    const double since = pk_seconds();
    MPI_Status unused[2]; // MPI_STATUSES_IGNORE draws a warning with MPICH's header
    for (int64_t spin = 0;; spin++) {
        int done = 0;
        const int code = MPI_Testall(n, r, &done, unused);
        if (code != MPI_SUCCESS) return refused(t, "a message fails", code, err);
        if (done) return PK_OK;
        if (atomic_load(&t->asked)) return asked_to_abort(t, err);
        if (spin < SPINS) continue;
        PK_TRY(listen_to_all(t, err));
        if (t->timeout > 0 && pk_seconds() - since > t->timeout) return silent(t, e, err);
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
}

/* Heads first, so that data never arrive where another size is expected. */
static enum pk_status exchange(struct mpi *t, const struct pk_comm_exchange *e, struct pk_err *err)
{
    struct pk_comm_head out = pk_comm_head_make(&t->c, e->out_bytes), in = {0};
    MPI_Request r[2];
    int n = 0, code = MPI_SUCCESS;
    if (e->from >= 0)
        code = MPI_Irecv(&in, (int)sizeof in, MPI_BYTE, e->from, TAG_HEAD, MPI_COMM_WORLD, &r[n++]);
    if (e->to >= 0 && code == MPI_SUCCESS)
        code = MPI_Isend(&out, (int)sizeof out, MPI_BYTE, e->to, TAG_HEAD, MPI_COMM_WORLD, &r[n++]);
    if (code != MPI_SUCCESS) return refused(t, "a message is refused", code, err);
    PK_TRY(wait_all(t, e, r, n, err));
    if (e->from >= 0 && pk_comm_head_check(&t->c, &in, e->from, e->in_bytes, &t->failed) != PK_OK) {
        tell(t, t->failed.message);
        if (err) *err = t->failed;
        return PK_ERANK;
    }
    n = 0;
    if (e->from >= 0 && e->in_bytes)
        code = MPI_Irecv(e->in, (int)e->in_bytes, MPI_BYTE, e->from, TAG_DATA, MPI_COMM_WORLD,
                         &r[n++]);
    if (e->to >= 0 && e->out_bytes && code == MPI_SUCCESS)
        code = MPI_Isend(e->out, (int)e->out_bytes, MPI_BYTE, e->to, TAG_DATA, MPI_COMM_WORLD,
                         &r[n++]);
    if (code != MPI_SUCCESS) return refused(t, "a message is refused", code, err);
    return n ? wait_all(t, e, r, n, err) : PK_OK;
}

static enum pk_status mpi_exchange(struct pk_comm *c, const struct pk_comm_exchange *e,
                                   struct pk_err *err)
{
    struct mpi *t = (struct mpi *)c;
    if (t->failed.status != PK_OK) {
        if (err) *err = t->failed;
        return PK_ERANK;
    }
    if (e->out_bytes > INT_MAX || e->in_bytes > INT_MAX)
        return give_up(t, "a message of 2 GiB or more", err);
    if (atomic_load(&t->asked)) return asked_to_abort(t, err);
    return exchange(t, e, err);
}

/* Another thread only leaves word: the thread that talks to MPI tells the others. */
static void mpi_abort(struct pk_comm *c, const char *why)
{
    struct mpi *t = (struct mpi *)c;
    pthread_mutex_lock(&t->lock);
    if (!atomic_load(&t->asked))
        snprintf(t->why, sizeof t->why, "%.*s", (int)sizeof t->why - 1, why);
    pthread_mutex_unlock(&t->lock);
    atomic_store(&t->asked, true);
    if (pthread_equal(t->owner, pthread_self()) && t->failed.status == PK_OK)
        asked_to_abort(t, NULL);
}

/* After a failure MPI_Finalize could wait for ranks that are gone, so it is left out. mpirun ends
 * everything when the first rank leaves like that, so the ranks wait until all have got here. */
static void mpi_free(struct pk_comm *c)
{
    enum { PATIENCE = 5 }; // seconds, on a busy machine
    struct mpi *t = (struct mpi *)c;
    const double since = pk_seconds();
    const bool failed = t->failed.status != PK_OK;
    char text[TEXT];
    if (failed) tell_all(t, t->bye, TAG_LEAVE);
    for (int here = 1; failed && here < c->size && pk_seconds() - since < PATIENCE;) {
        if (hear(TAG_LEAVE, text))
            here++;
        else
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    if (t->failed.status == PK_OK && t->ours) MPI_Finalize();
    pthread_mutex_destroy(&t->lock);
    if (t->failed.status == PK_OK) free(t); // else MPI may still read `told`
}

enum pk_status pk_comm_mpi(struct pk_comm **out, double timeout_s, struct pk_err *err)
{
    static const struct pk_comm_ops ops = {"MPI", mpi_exchange, mpi_abort, mpi_free};
    struct mpi *t;
    int there = 0, over = 0, level;
    *out = NULL;
    MPI_Initialized(&there);
    MPI_Finalized(&over);
    if (over) return pk_fail(err, PK_ERANK, "MPI was ended before in this process");
    if (!there && MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS)
        return pk_fail(err, PK_ERANK, "MPI does not start in this process");
    PK_TRY(pk_alloc(&t, 1, sizeof *t, "communication", err));
    t->c.ops = &ops;
    t->ours = !there;
    t->timeout = timeout_s;
    t->owner = pthread_self();
    pthread_mutex_init(&t->lock, NULL);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &t->c.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &t->c.size);
    *out = &t->c;
    return PK_OK;
}
