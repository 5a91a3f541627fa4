/* nccl.c -- NCCL, loaded at run time, never waited for blindly (see nccl.h). */
#include "cuda/nccl.h"
#include "cuda/library.h"
#include "cuda/queue.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What nccl.h of version 2.14 declares, as far as it is used here; later versions keep it. */
typedef struct ncclComm *ncclComm_t;
typedef struct {
    char internal[128];
} ncclUniqueId;
typedef int ncclResult_t;
enum { SUCCESS = 0, IN_PROGRESS = 7 };
enum { TYPE_FLOAT32 = 7, TYPE_FLOAT64 = 8, TYPE_BFLOAT16 = 9, OP_SUM = 0 };
struct config { // ncclConfig_t as of CONFIG_VERSION; the library takes it for what it says it is
    size_t size;
    unsigned magic, version;
    int blocking;
};
enum { CONFIG_VERSION = 21400, CONFIG_MAGIC = (int)0xcafebeef, OLDEST = 21400 };

/* X(field, symbol, arguments); all return ncclResult_t. */
#define FUNCTIONS(X)                                                                               \
    X(version, ncclGetVersion, (int *))                                                            \
    X(unique_id, ncclGetUniqueId, (ncclUniqueId *))                                                \
    X(init, ncclCommInitRankConfig, (ncclComm_t *, int, ncclUniqueId, int, struct config *))       \
    X(async_error, ncclCommGetAsyncError, (ncclComm_t, ncclResult_t *))                            \
    X(finalize, ncclCommFinalize, (ncclComm_t))                                                    \
    X(destroy, ncclCommDestroy, (ncclComm_t))                                                      \
    X(abort, ncclCommAbort, (ncclComm_t))                                                          \
    X(group_start, ncclGroupStart, (void))                                                         \
    X(group_end, ncclGroupEnd, (void))                                                             \
    X(all_reduce, ncclAllReduce,                                                                   \
      (const void *, void *, size_t, int, int, ncclComm_t, cudaStream_t))                          \
    X(reduce, ncclReduce, (const void *, void *, size_t, int, int, int, ncclComm_t, cudaStream_t)) \
    X(broadcast, ncclBroadcast,                                                                    \
      (const void *, void *, size_t, int, int, ncclComm_t, cudaStream_t))                          \
    X(all_gather, ncclAllGather, (const void *, void *, size_t, int, ncclComm_t, cudaStream_t))

struct pk_nccl {
    struct pk_comm *host;
    void *file;
#define X(field, symbol, arguments) ncclResult_t(*field) arguments;
    FUNCTIONS(X)
#undef X
    const char *(*error_text)(ncclResult_t);
    const char *(*last_error)(ncclComm_t);
    ncclComm_t comm;      // NULL before init and after abort
    int release;          // e.g. 22703
    struct pk_err failed; // the first failure; all later calls repeat it
};

#define CONNECT_SECONDS  120.0 // all ranks have begun: minutes are a firewall or a missing link
#define FAREWELL_SECONDS 10.0

/* --- loading --------------------------------------------------------------------------------- */

static enum pk_status find(const struct pk_nccl *n, const char *symbol, void *function,
                           struct pk_err *err)
{
    return pk_library_find(n->file, "NCCL", "version 2.14 or later is needed", symbol, function,
                           err);
}

static enum pk_status load(struct pk_nccl *n, struct pk_err *err)
{
    const char *name = getenv("PURKINJE_NCCL");
    if (!name || !*name) name = "libnccl.so.2";
    // its threads may outlive a communicator that was aborted, so its code stays
    n->file = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!n->file) {
        const char *why = dlerror();
        return pk_fail(err, PK_EMISSING,
                       "several ranks on GPUs need NCCL, and '%s' cannot be loaded: %s\n"
                       "help: install NCCL 2.14 or later where the dynamic linker finds it "
                       "(LD_LIBRARY_PATH), name the file in PURKINJE_NCCL, or give --device cpu",
                       name, why ? why : "no reason is given");
    }
#define X(field, symbol, arguments) PK_TRY(find(n, #symbol, &n->field, err));
    FUNCTIONS(X)
#undef X
    PK_TRY(find(n, "ncclGetErrorString", &n->error_text, err));
    PK_TRY(find(n, "ncclGetLastError", &n->last_error, err));
    if (n->version(&n->release) != SUCCESS || n->release < OLDEST)
        return pk_fail(err, PK_EMISSING,
                       "'%s' is NCCL %d.%d.%d; version 2.14 or later is needed, the first whose "
                       "communicators do not block",
                       name, n->release / 10000, n->release / 100 % 100, n->release % 100);
    return PK_OK;
}

void pk_nccl_version(const struct pk_nccl *n, struct pk_text *out)
{
    pk_text_add(out, "%d.%d.%d", n->release / 10000, n->release / 100 % 100, n->release % 100);
}

void pk_nccl_report(struct pk_text *out)
{
    struct pk_nccl n = {0};
    struct pk_err why = {0};
    const enum pk_status s = load(&n, &why);
    why.message[strcspn(why.message, "\n")] = 0; // without the help
    pk_text_add(out, "%-12s ", "nccl");
    if (s == PK_OK)
        pk_nccl_version(&n, out);
    else
        pk_text_add(out, "%s", why.message);
    pk_text_add(out, "\n");
    if (n.file) dlclose(n.file);
}

/* --- failing ----------------------------------------------------------------------------------
 */

static void pause_for(int turn)
{
    if (turn < 64) return; // most waits are short
    const struct timespec t = {.tv_nsec = turn < 1024 ? 20000 : 200000};
    nanosleep(&t, NULL);
}

static enum pk_status abort_for(struct pk_nccl *n, struct pk_err *err)
{
    ncclComm_t comm = n->comm;
    n->comm = NULL;
    if (comm) n->abort(comm);
    if (err) *err = n->failed;
    return n->failed.status;
}

/* A result that is an error, of `what`: ends the communicator. */
static enum pk_status fail(struct pk_nccl *n, ncclResult_t r, const char *what, struct pk_err *err)
{
    const char *more = n->last_error ? n->last_error(NULL) : NULL;
    pk_fail(&n->failed, PK_ERANK, "rank %d of %d: %s over NCCL: %s%s%.300s", n->host->rank,
            n->host->size, what, n->error_text(r), more && *more ? ": " : "",
            more && *more ? more : "");
    return abort_for(n, err);
}

static enum pk_status given_up(struct pk_nccl *n, const char *what, struct pk_err *err)
{
    pk_fail(&n->failed, PK_ERANK, "rank %d of %d: %s over NCCL was given up, since a rank failed",
            n->host->rank, n->host->size, what);
    return abort_for(n, err);
}

/* PK_OK and *busy: the last call is still at work. */
static enum pk_status poll(struct pk_nccl *n, bool *busy, const char *what, struct pk_err *err)
{
    ncclResult_t state = SUCCESS;
    *busy = false;
    if (n->failed.status != PK_OK) {
        if (err) *err = n->failed;
        return n->failed.status;
    }
    if (pk_comm_given_up(n->host)) return given_up(n, what, err);
    const ncclResult_t r = n->async_error(n->comm, &state);
    if (r != SUCCESS) return fail(n, r, what, err);
    if (state != SUCCESS && state != IN_PROGRESS) return fail(n, state, what, err);
    *busy = state == IN_PROGRESS;
    return PK_OK;
}

/* After a call with result r: until it has done its work. */
static enum pk_status finish_call(struct pk_nccl *n, ncclResult_t r, const char *what,
                                  struct pk_err *err)
{
    bool busy = r == IN_PROGRESS;
    if (r != SUCCESS && r != IN_PROGRESS) return fail(n, r, what, err);
    for (int turn = 0; busy; turn++) {
        PK_TRY(poll(n, &busy, what, err));
        if (busy) pause_for(turn);
    }
    return PK_OK;
}

/* --- connecting ------------------------------------------------------------------------------ */

static enum pk_status share_id(struct pk_nccl *n, ncclUniqueId *id, struct pk_err *err)
{
    enum pk_status s = PK_OK;
    if (n->host->rank == 0) {
        const ncclResult_t r = n->unique_id(id);
        if (r != SUCCESS) s = fail(n, r, "making an id", err);
    }
    PK_TRY(pk_comm_agree(n->host, s, err));
    return pk_comm_broadcast(n->host, 0, id, sizeof *id, err);
}

/* Ranks whose own part goes well wait for the others' in rounds, so that all learn of a failure
 * and a dead rank ends the wait as it ends any collective of the host's. */
static enum pk_status connect(struct pk_nccl *n, ncclUniqueId id, struct pk_err *err)
{
    static const char what[] = "connecting";
    struct config config = {sizeof config, (unsigned)CONFIG_MAGIC, CONFIG_VERSION, 0};
    struct pk_err told = {0};
    const double begun = pk_seconds();
    int32_t *state;
    PK_TRY(pk_alloc(&state, (size_t)n->host->size, sizeof *state, "states of the ranks", err));
    const ncclResult_t r = n->init(&n->comm, n->host->size, id, n->host->rank, &config);
    enum pk_status s = r == SUCCESS || r == IN_PROGRESS ? PK_OK : fail(n, r, what, &told);
    bool busy = s == PK_OK, again = true;
    while (again) {
        if (busy) s = poll(n, &busy, what, &told);
        if (busy && pk_seconds() - begun > CONNECT_SECONDS) {
            s = pk_fail(
                &n->failed, PK_ERANK,
                "rank %d of %d: NCCL has not connected the ranks in %.0f s; NCCL_DEBUG=INFO "
                "shows what it tries",
                n->host->rank, n->host->size, CONNECT_SECONDS);
            abort_for(n, &told);
        }
        state[n->host->rank] = s != PK_OK ? 2 : busy;
        enum pk_status gathered = pk_comm_all_gather(n->host, state, sizeof *state, err);
        if (gathered != PK_OK) {
            free(state);
            return gathered;
        }
        again = false;
        bool failed = false;
        for (int k = 0; k < n->host->size; k++) {
            again |= state[k] == 1;
            failed |= state[k] == 2;
        }
        again &= !failed;
        if (again) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    free(state);
    if (s != PK_OK && err) *err = told;
    return pk_comm_agree(n->host, s, err);
}

enum pk_status pk_nccl_open(struct pk_nccl **out, struct pk_comm *host, struct pk_err *err)
{
    struct pk_nccl *n;
    ncclUniqueId id;
    *out = NULL;
    memset(&id, 0, sizeof id);
    PK_TRY(pk_alloc(&n, 1, sizeof *n, "NCCL", err));
    n->host = host;
    enum pk_status s = pk_comm_agree(host, load(n, err), err);
    if (s == PK_OK) s = pk_comm_same(host, (uint64_t)n->release, "version of NCCL", err);
    if (s == PK_OK) s = share_id(n, &id, err);
    if (s == PK_OK) s = connect(n, id, err);
    if (s == PK_OK) {
        *out = n;
        return PK_OK;
    }
    if (n->failed.status == PK_OK) n->failed.status = PK_ERANK; // to be aborted, not to be awaited
    pk_nccl_close(n);
    return s;
}

void pk_nccl_settle(struct pk_nccl *n, cudaStream_t stream)
{
    static const char what[] = "what was under way";
    const double begun = pk_seconds();
    bool busy;
    for (int turn = 0; n->comm && cudaStreamQuery(stream) == cudaErrorNotReady; turn++) {
        cudaGetLastError(); // "not ready" is none
        if (poll(n, &busy, what, NULL) != PK_OK) return;
        if (pk_seconds() - begun > FAREWELL_SECONDS) {
            given_up(n, what, NULL);
            return;
        }
        pause_for(turn);
    }
}

void pk_nccl_close(struct pk_nccl *n)
{
    bool busy = true;
    if (!n) return;
    if (n->comm && n->failed.status == PK_OK && !pk_comm_given_up(n->host)) {
        const double begun = pk_seconds();
        const ncclResult_t r = n->finalize(n->comm);
        if (r != SUCCESS && r != IN_PROGRESS) fail(n, r, "leaving", NULL);
        for (int turn = 0; n->comm && busy && pk_seconds() - begun < FAREWELL_SECONDS; turn++)
            if (poll(n, &busy, "leaving", NULL) == PK_OK && busy) pause_for(turn);
        if (n->comm && !busy) {
            n->destroy(n->comm);
            n->comm = NULL;
        }
    }
    if (n->comm) n->abort(n->comm);
    if (n->file) dlclose(n->file);
    free(n);
}

/* --- collectives and waits -------------------------------------------------------------------- */

static ncclResult_t call(const struct pk_nccl *n, const struct pk_nccl_range *r,
                         cudaStream_t stream)
{
    static const int type_of[] = {TYPE_FLOAT32, TYPE_BFLOAT16, TYPE_FLOAT64};
    static const size_t bytes_of[] = {sizeof(float), sizeof(uint16_t), sizeof(double)};
    const size_t count = (size_t)r->count;
    const int type = type_of[r->type];
    switch (r->kind) {
    case PK_NCCL_SUM:
        return n->all_reduce(r->data, r->data, count, type, OP_SUM, n->comm, stream);
    case PK_NCCL_REDUCE:
        return n->reduce(r->data, r->data, count, type, OP_SUM, r->root, n->comm, stream);
    case PK_NCCL_SHARE:
        return n->broadcast(r->data, r->data, count, type, r->root, n->comm, stream);
    case PK_NCCL_GATHER:
        break;
    }
    const size_t own = (size_t)n->host->rank * count * bytes_of[r->type];
    return n->all_gather((char *)r->data + own, r->data, count, type, n->comm, stream);
}

enum pk_status pk_nccl_collect(struct pk_nccl *n, const struct pk_nccl_range *range, int ranges,
                               cudaStream_t stream, const char *what, struct pk_err *err)
{
    bool busy;
    PK_TRY(poll(n, &busy, what, err));
    ncclResult_t r = n->group_start();
    if (r != SUCCESS) return fail(n, r, what, err);
    for (int i = 0; i < ranges && (r == SUCCESS || r == IN_PROGRESS); i++)
        r = call(n, &range[i], stream);
    const ncclResult_t end = n->group_end();
    if (r != SUCCESS && r != IN_PROGRESS) return fail(n, r, what, err);
    return finish_call(n, end, what, err);
}

enum pk_status pk_nccl_wait_event(struct pk_nccl *n, cudaEvent_t e, const char *what,
                                  struct pk_err *err)
{
    bool busy;
    for (int turn = 0;; turn++) {
        const cudaError_t r = cudaEventQuery(e);
        if (r == cudaSuccess) return poll(n, &busy, what, err); // an abort also ends kernels
        if (r != cudaErrorNotReady) return pk_cuda_check(r, what, err);
        cudaGetLastError(); // "not ready" is none
        PK_TRY(poll(n, &busy, what, err));
        pause_for(turn);
    }
}

enum pk_status pk_nccl_wait_stream(struct pk_nccl *n, cudaStream_t s, const char *what,
                                   struct pk_err *err)
{
    bool busy;
    for (int turn = 0;; turn++) {
        const cudaError_t r = cudaStreamQuery(s);
        if (r == cudaSuccess) return poll(n, &busy, what, err);
        if (r != cudaErrorNotReady) return pk_cuda_check(r, what, err);
        cudaGetLastError();
        PK_TRY(poll(n, &busy, what, err));
        pause_for(turn);
    }
}
