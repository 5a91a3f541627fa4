/* comm.h -- the ranks of one run talk to each other.
 *
 * Collectives are written once (core/comm.c), over a table of what a transport can do: exchange one
 * message with one peer each way. Transports: none (a world of one), sockets that somebody else has
 * connected (core/comm_tcp.c), MPI (core/comm_mpi.c). Data lie in the host's memory.
 *
 * Sums have one association for every transport: pairs of neighbouring ranks, then pairs of those,
 * as in struct pk_exec, whatever the number of ranks and the timing:
 *
 *     ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))         of 5 ranks: ((0 + 1) + (2 + 3)) + 4
 *
 * Every rank calls the same collectives in the same order with the same sizes; where one does not,
 * the messages tell, and the call fails. All calls block. One thread at a time uses a comm, but for
 * pk_comm_abort.
 *
 * Errors: PK_ERANK, worded "rank 1 of 4: the gradient sum: rank 2 ...". After the first error every
 * call fails with the same words: a rank that failed is not taken back. The other ranks are told,
 * so that none waits for this one. */
#ifndef PK_COMM_H
#define PK_COMM_H

#include "core/base.h"

/* name, for people */
#define PK_COMM_KINDS(X)                                                                           \
    X(BARRIER, "the barrier")                                                                      \
    X(BROADCAST, "the broadcast")                                                                  \
    X(ALL_GATHER, "the exchange of small values")                                                  \
    X(GATHER, "the gathering at one rank")                                                         \
    X(SUM, "the sum over ranks")                                                                   \
    X(SUM_PARTS, "the sum over ranks that is shared out")                                          \
    X(PARTS, "the exchange of parts")

enum pk_comm_kind {
#define PK_X(name, text) PK_COMM_##name,
    PK_COMM_KINDS(PK_X)
#undef PK_X
        PK_COMM_KIND_COUNT
};
const char *pk_comm_kind_text(enum pk_comm_kind k);

enum { PK_COMM_RANKS_MAX = 4096, PK_COMM_BUCKET = 1 << 20 }; // floats of a sum that are under way

struct pk_comm;

struct pk_comm_exchange {       // one message out, one in, at the same time
    int to, from;               // ranks, -1 for none
    const void *out;            // [out_bytes]
    void *in;                   // [in_bytes]
    size_t out_bytes, in_bytes; // what both sides agree on; 0 is a message too
};

struct pk_comm_ops {
    const char *name; // "tcp"
    /* Returns when both messages are through. c->kind and c->call go along, and a peer that sends
     * another call or another size fails it. */
    enum pk_status (*exchange)(struct pk_comm *c, const struct pk_comm_exchange *e,
                               struct pk_err *err);
    void (*abort)(struct pk_comm *c, const char *why);
    void (*free)(struct pk_comm *c); // all of c
};

struct pk_comm {
    const struct pk_comm_ops *ops;
    int rank, size;
    enum pk_comm_kind kind; // of the call that is under way
    uint64_t call;          // its number
    unsigned char *scratch; // of the collectives
    int64_t scratch_bytes;
    int local_rank, local_size; // among the ranks of this host, once pk_comm_locate was called
    int given_up;               // by pk_comm_abort here; read with pk_comm_given_up
};

/* What goes ahead of each message; private to comm.c and the transports. */
struct pk_comm_head {
    uint32_t magic;
    int32_t from;
    int32_t kind, reserved;
    uint64_t call, bytes;
};
struct pk_comm_head pk_comm_head_make(const struct pk_comm *c, size_t bytes);
/* PK_ERANK when the head of a message from rank `from` is not that of this call and size. */
enum pk_status pk_comm_head_check(const struct pk_comm *c, const struct pk_comm_head *h, int from,
                                  size_t bytes, struct pk_err *err);
/* "rank 1 of 4: the sum over ranks: ..." */
enum pk_status pk_comm_fail(const struct pk_comm *c, struct pk_err *err, const char *fmt, ...)
    PK_PRINTF(3, 4);

/* A world of one rank. PK_ENOMEM. */
enum pk_status pk_comm_single(struct pk_comm **out, struct pk_err *err);
/* fd[k] is a connected stream socket to rank k, for all k but `rank` (ignored there), any family.
 * They belong to the comm once this has succeeded; fd itself is borrowed for the call. timeout_s:
 * longest silence of a peer that is waited for, seconds; 0 waits for ever. A rank that computes or
 * writes a checkpoint is silent too, so minutes are right.
 * Errors  PK_EINVAL rank and size do not fit;  PK_EIO a socket refuses;  PK_ENOMEM */
enum pk_status pk_comm_tcp(struct pk_comm **out, int rank, int size, const int *fd,
                           double timeout_s, struct pk_err *err);
/* MPI_COMM_WORLD; calls MPI_Init if nobody has, and then MPI_Finalize at the end, so this works
 * once per process. Errors  PK_EMISSING this build has no MPI;  PK_ERANK MPI refuses */
enum pk_status pk_comm_mpi(struct pk_comm **out, double timeout_s, struct pk_err *err);
void pk_comm_free(struct pk_comm *c); // NULL is fine

/* For people: "rank 1 of 4 over tcp". */
void pk_comm_describe(const struct pk_comm *c, struct pk_text *out);
/* From any thread (no signal handler): this rank gives up. A collective that is blocked here
 * returns PK_ERANK at once, and the other ranks' say who gave up and why. */
void pk_comm_abort(struct pk_comm *c, const char *why);
/* Whether it was called here: who waits for something else, say a device, looks now and then. */
bool pk_comm_given_up(const struct pk_comm *c);
/* Which ranks run on one host, by the kernel's boot id (or the host's name): fills c->local_rank
 * and c->local_size. A collective. */
enum pk_status pk_comm_locate(struct pk_comm *c, struct pk_err *err);

/* Returns when all ranks have called. */
enum pk_status pk_comm_barrier(struct pk_comm *c, struct pk_err *err);
/* All ranks get root's data [bytes]. */
enum pk_status pk_comm_broadcast(struct pk_comm *c, int root, void *data, size_t bytes,
                                 struct pk_err *err);
/* all: [size][bytes], by rank; each rank has filled its own part, and gets the others'. */
enum pk_status pk_comm_all_gather(struct pk_comm *c, void *all, size_t bytes, struct pk_err *err);
/* The same at root alone: mine [bytes]; all [size][bytes] at root, which may hold `mine` in its
 * place, else ignored. */
enum pk_status pk_comm_gather(struct pk_comm *c, int root, const void *mine, void *all,
                              size_t bytes, struct pk_err *err);
/* data [count] becomes the sum over ranks, in the tree above, the same bits everywhere. Each rank
 * sums a share of a bucket and hands the result round: 2 (size - 1) / size * 4 bytes per element
 * out of each rank, and as many in. */
enum pk_status pk_comm_sum(struct pk_comm *c, float *data, int64_t count, struct pk_err *err);

/* The two halves of pk_comm_sum, for parts of the caller's: that of rank k is data[at[k]] to
 * data[at[k + 1]], ascending, and may be empty; at: [size + 1]. First, only this rank's part
 * becomes the sum, by the same tree, and the rest is as it was; second, everybody gets everybody's.
 */
enum pk_status pk_comm_sum_parts(struct pk_comm *c, float *data, const int64_t *at,
                                 struct pk_err *err);
enum pk_status pk_comm_gather_parts(struct pk_comm *c, float *data, const int64_t *at,
                                    struct pk_err *err);

/* All ranks must have the same value. Else PK_ERANK on all of them, with the ranks that differ: the
 * value that most ranks have, or else rank 0's, is held for right. what: "weights". */
enum pk_status pk_comm_same(struct pk_comm *c, uint64_t value, const char *what,
                            struct pk_err *err);
/* Did a part that each rank did by itself succeed everywhere? All get PK_OK, or the ranks that
 * failed keep their own error, and the others get the first one's, told whose it is. Words that
 * another rank has already are marked as said. */
enum pk_status pk_comm_agree(struct pk_comm *c, enum pk_status s, struct pk_err *err);

#endif
