/* fake_nccl.c -- a shared library with the functions of NCCL that cuda/nccl.c calls, for processes
 * on the host executor.
 *
 * The id names a folder, in which every rank leaves its part of each collective as a file; the sum
 * is taken in the order of ranks by all of them. It is as hard to use as the real one allows: no
 * call of a communicator has done its work when it returns (ncclInProgress, until it was polled a
 * few times), and buffers must not be touched while a sum is under way. For that the memory is
 * filled with 0xff, NaN in all types, when the sum begins in the stream's order, and must hold just
 * that when it ends: who reads it gets NaN, who writes it makes the collective fail.
 *
 * A device works on while its host waits for something else, the executor does not. So a thread of
 * this library drives the streams that hold collectives.
 *
 * Faults, for the rank FAKE_NCCL_RANK:
 *   FAKE_NCCL_VERSION=N       what ncclGetVersion says (every rank)
 *   FAKE_NCCL_FAULT=init      ncclCommInitRankConfig fails
 *   FAKE_NCCL_FAULT=connect   it succeeds, and fails later
 *   FAKE_NCCL_FAULT=call      the collective FAKE_NCCL_AT fails at once
 *   FAKE_NCCL_FAULT=error     that one is issued, and fails later
 *   FAKE_NCCL_FAULT=stall     its part never leaves
 *   FAKE_NCCL_FAULT=die       the process is killed in the middle of it
 *   FAKE_NCCL_FAULT=flip      a bit of its result is wrong
 * FAKE_NCCL_TRACE=FILE: a line for each collective of rank 0 as it begins: number, type, elements,
 * kernels that have run before, kind, root. */
#include <pk_host.h>

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    char internal[128];
} ncclUniqueId;
typedef struct ncclComm *ncclComm_t;
typedef int ncclResult_t;
enum {
    SUCCESS = 0,
    SYSTEM_ERROR = 2,
    INTERNAL_ERROR = 3,
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5,
    REMOTE_ERROR = 6,
    IN_PROGRESS = 7
};
enum { F32 = 7, F64 = 8, BF16 = 9 };
enum { RANKS = 64, OPS = 512, STREAMS = 4, DELAY = 3 }; // polls until something has happened
struct config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

enum kind { SUM, REDUCE, SHARE, GATHER };
struct op {
    struct ncclComm *comm;
    unsigned char *data;
    size_t part, bytes; // of a rank, of all that lies at data
    enum kind kind;
    int type, root;
    cudaStream_t stream;
    int64_t number;
    bool seen[RANKS];
};

struct ncclComm {
    char dir[160];
    int rank, size;
    atomic_int state, delay; // what polls are told, after `delay` of them
    atomic_bool aborted, quit, connecting, leaving;
    struct op *group[OPS]; // to be issued when the delay is over
    int grouped;
    int64_t issued;
    atomic_llong ended;
    cudaStream_t stream[STREAMS]; // that have held collectives; driven by the thread
    atomic_int streams;
    atomic_int pending;
    pthread_t thread;
};

static _Thread_local int depth;
static _Thread_local struct ncclComm *grouping;
static _Thread_local char last[200];

static long long number_in(const char *variable, long long otherwise)
{
    const char *s = getenv(variable);
    return s ? strtoll(s, NULL, 10) : otherwise;
}

static bool fault(const struct ncclComm *c, const char *what, int64_t number)
{
    const char *kind = getenv("FAKE_NCCL_FAULT");
    if (!kind || strcmp(kind, what) != 0 || number_in("FAKE_NCCL_RANK", 0) != c->rank) return false;
    return number < 0 || number == number_in("FAKE_NCCL_AT", 0);
}

static ncclResult_t refuse(ncclResult_t r, const char *why)
{
    snprintf(last, sizeof last, "%s", why);
    return r;
}

static void name(const struct ncclComm *c, char out[256], const char *what, int64_t number, int r)
{
    snprintf(out, 256, "%s/%s%lld.%d", c->dir, what, (long long)number, r);
}

static bool leave_file(const struct ncclComm *c, const char *what, int64_t number, const void *data,
                       size_t bytes)
{
    char path[256], part[256];
    name(c, path, what, number, c->rank);
    name(c, part, "part", number, c->rank);
    FILE *f = fopen(part, "wb");
    const bool ok = f && fwrite(data, 1, bytes, f) == bytes;
    if (f && fclose(f) != 0) return false;
    return ok && rename(part, path) == 0;
}

static bool there(const struct ncclComm *c, const char *what, int64_t number, int r)
{
    char path[256];
    name(c, path, what, number, r);
    return access(path, R_OK) == 0;
}

static bool all_there(const struct ncclComm *c, const char *what)
{
    for (int r = 0; r < c->size; r++)
        if (!there(c, what, 0, r)) return false;
    return true;
}

/* --- what the header has ----------------------------------------------------------------------
 */

ncclResult_t ncclGetVersion(int *version)
{
    *version = (int)number_in("FAKE_NCCL_VERSION", 22703);
    return SUCCESS;
}

const char *ncclGetErrorString(ncclResult_t r)
{
    return r == SUCCESS          ? "no error"
           : r == SYSTEM_ERROR   ? "unhandled system error"
           : r == INTERNAL_ERROR ? "internal error"
           : r == REMOTE_ERROR   ? "remote process exited or there was a network error"
                                 : "the fake library refused it";
}

const char *ncclGetLastError(ncclComm_t c)
{
    (void)c;
    return last;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    const char *folder = getenv("TMPDIR");
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "%s/fake-nccl-XXXXXX", folder ? folder : "/tmp");
    return mkdtemp(id->internal) ? SUCCESS : refuse(SYSTEM_ERROR, "no folder");
}

static void *drive(void *user)
{
    struct ncclComm *c = user;
    while (!atomic_load(&c->quit)) {
        for (int i = 0; atomic_load(&c->pending) && i < atomic_load(&c->streams); i++)
            pk_host_progress(c->stream[i]);
        usleep(100);
    }
    return NULL;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId id, int rank,
                                    struct config *config)
{
    if (size > RANKS || rank < 0 || rank >= size || config->magic != 0xcafebeef ||
        config->size < sizeof *config || config->version < 21400 || config->blocking != 0)
        return refuse(INVALID_ARGUMENT, "configuration");
    struct ncclComm *c = calloc(1, sizeof *c);
    if (!c) return SYSTEM_ERROR;
    snprintf(c->dir, sizeof c->dir, "%.127s", id.internal);
    c->rank = rank;
    c->size = size;
    if (fault(c, "init", -1)) {
        free(c);
        return refuse(SYSTEM_ERROR, "no socket, says the test");
    }
    atomic_store(&c->delay, DELAY);
    atomic_store(&c->state, fault(c, "connect", -1) ? REMOTE_ERROR : SUCCESS);
    atomic_store(&c->connecting, true);
    if (!atomic_load(&c->state) && !leave_file(c, "init", 0, "", 0)) {
        free(c);
        return refuse(SYSTEM_ERROR, "no file in the folder of the id");
    }
    if (pthread_create(&c->thread, NULL, drive, c) != 0) {
        free(c);
        return SYSTEM_ERROR;
    }
    *out = c;
    return IN_PROGRESS;
}

/* --- a collective ----------------------------------------------------------------------------- */

static size_t width(int type)
{
    return type == F64 ? 8 : type == F32 ? 4 : 2;
}

static float from_bf16(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static uint16_t to_bf16(float x) // to nearest even
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void add(int type, void *to, const void *from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (type == F64)
            ((double *)to)[i] += ((const double *)from)[i];
        else if (type == F32)
            ((float *)to)[i] += ((const float *)from)[i];
        else
            ((uint16_t *)to)[i] =
                to_bf16(from_bf16(((uint16_t *)to)[i]) + from_bf16(((const uint16_t *)from)[i]));
}

static void trace(const struct op *o)
{
    const char *path = getenv("FAKE_NCCL_TRACE");
    FILE *f = path && o->comm->rank == 0 ? fopen(path, "a") : NULL;
    if (!f) return;
    static const char *const kind[] = {"sum", "reduce", "share", "gather"};
    fprintf(f, "%lld %s %zu %llu %s %d\n", (long long)o->number,
            o->type == F64   ? "f64"
            : o->type == F32 ? "f32"
                             : "bf16",
            o->part / width(o->type), (unsigned long long)pk_host_launches(), kind[o->kind],
            o->root);
    fclose(f);
}

/* Whether what ends up at data comes from the collective; else nobody is to read it again (REDUCE)
 * or it stays what it was (SHARE, at the root). */
static bool receives(const struct op *o)
{
    return o->kind == REDUCE  ? o->comm->rank == o->root
           : o->kind == SHARE ? o->comm->rank != o->root
                              : true;
}

/* In the stream's order: this rank's part leaves, and the memory is nobody's. */
static void begin(void *user)
{
    struct op *o = user;
    const struct ncclComm *c = o->comm;
    const bool silent = o->kind == SHARE && receives(o);
    const unsigned char *own = o->data + (o->kind == GATHER ? (size_t)c->rank * o->part : 0);
    if (atomic_load(&c->aborted)) return;
    trace(o);
    if (fault(c, "die", o->number)) raise(SIGKILL);
    if (!fault(c, "stall", o->number) && !leave_file(c, "op", o->number, own, silent ? 0 : o->part))
        atomic_store(&o->comm->state, SYSTEM_ERROR);
    if (fault(c, "error", o->number)) atomic_store(&o->comm->state, REMOTE_ERROR);
    if (receives(o) || o->kind == REDUCE) memset(o->data, 0xff, o->bytes);
}

/* A communicator carries out its collectives one after the other, whatever streams they are in. */
static bool turn(void *user)
{
    struct op *o = user;
    return atomic_load(&o->comm->aborted) || atomic_load(&o->comm->ended) == o->number;
}

static bool arrived(void *user)
{
    struct op *o = user;
    bool all = true;
    if (atomic_load(&o->comm->aborted)) return true;
    if (atomic_load(&o->comm->state) != SUCCESS) return false; // hangs until it is aborted
    for (int r = 0; r < o->comm->size && all; r++)
        all = o->seen[r] = o->seen[r] || there(o->comm, "op", o->number, r);
    return all;
}

static bool untouched(const unsigned char *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != 0xff) return false;
    return true;
}

static bool read_part(const struct op *o, int rank, void *to, size_t bytes)
{
    char path[256];
    name(o->comm, path, "op", o->number, rank);
    FILE *f = fopen(path, "rb");
    const bool ok = f && fread(to, 1, bytes, f) == bytes && fgetc(f) == EOF; // of the same size
    if (f) fclose(f);
    return ok;
}

static bool add_parts(const struct op *o, unsigned char *sum)
{
    unsigned char *part = malloc(o->part);
    bool ok = part && read_part(o, 0, sum, o->part);
    for (int r = 1; ok && r < o->comm->size; r++) {
        ok = read_part(o, r, part, o->part);
        if (ok) add(o->type, sum, part, o->part / width(o->type));
    }
    free(part);
    return ok;
}

/* What the ranks' parts make of the memory. */
static bool result_of(const struct op *o, unsigned char *to)
{
    bool ok = true;
    if (o->kind == SHARE) return read_part(o, o->root, to, o->part);
    if (o->kind != GATHER) return add_parts(o, to);
    for (int r = 0; ok && r < o->comm->size; r++)
        ok = read_part(o, r, to + (size_t)r * o->part, o->part);
    return ok;
}

/* The root of SHARE may be read meanwhile, but not written. */
static bool left_alone(const struct op *o, const unsigned char *result)
{
    const bool kept = o->kind == SHARE && !receives(o);
    return kept ? !memcmp(o->data, result, o->bytes) : untouched(o->data, o->bytes);
}

static bool complete(const struct op *o)
{
    char path[256];
    unsigned char *result = malloc(o->bytes);
    const bool there = result && result_of(o, result), ok = there && left_alone(o, result);
    if (!ok)
        fprintf(stderr, "fake NCCL: collective %lld of rank %d: its memory was %s\n",
                (long long)o->number, o->comm->rank,
                there ? "written meanwhile" : "of another size elsewhere");
    if (ok && fault(o->comm, "flip", o->number)) result[o->bytes / 2] ^= 1;
    if (ok && receives(o)) memcpy(o->data, result, o->bytes);
    free(result);
    // all have begun this one, so all have read the one before
    name(o->comm, path, "op", o->number - 1, o->comm->rank);
    if (o->number) unlink(path);
    return ok;
}

static void end(void *user)
{
    struct op *o = user;
    struct ncclComm *c = o->comm;
    if (!atomic_load(&c->aborted) && !complete(o)) atomic_store(&c->state, INTERNAL_ERROR);
    atomic_fetch_add(&c->ended, 1);
    atomic_fetch_sub(&c->pending, 1);
    free(o);
}

/* Only now do the collectives of a group enter their streams, after what the caller has enqueued
 * since, if he did not wait. */
static void drive_stream(struct ncclComm *c, cudaStream_t stream)
{
    const int n = atomic_load(&c->streams);
    for (int i = 0; i < n; i++)
        if (c->stream[i] == stream) return;
    if (n == STREAMS) return; // the caller's waits drive it, too
    c->stream[n] = stream;
    atomic_store(&c->streams, n + 1);
}

static void issue(struct ncclComm *c)
{
    for (int i = 0; i < c->grouped; i++) {
        struct op *o = c->group[i];
        drive_stream(c, o->stream);
        if (pk_host_await(o->stream, turn, begin, o) != cudaSuccess ||
            pk_host_await(o->stream, arrived, end, o) != cudaSuccess)
            atomic_store(&c->state, INTERNAL_ERROR);
        atomic_fetch_add(&c->pending, 1);
    }
    c->grouped = 0;
}

ncclResult_t ncclGroupStart(void)
{
    depth++;
    grouping = NULL;
    return SUCCESS;
}

static ncclResult_t enter(const struct op *spec, bool legal)
{
    struct ncclComm *c = spec->comm;
    if (!c || depth != 1 || !legal || spec->type < F32 || spec->type > BF16 || !spec->part ||
        spec->root < 0 || spec->root >= c->size)
        return refuse(INVALID_ARGUMENT, "not what the fake library can do");
    if (atomic_load(&c->delay) || atomic_load(&c->connecting) || c->grouped == OPS)
        return refuse(INVALID_USAGE, "the communicator is busy");
    if (fault(c, "call", c->issued)) return refuse(SYSTEM_ERROR, "refused, says the test");
    struct op *o = malloc(sizeof *o);
    if (!o) return SYSTEM_ERROR;
    *o = *spec;
    o->part *= width(o->type);
    o->bytes = o->part * (o->kind == GATHER ? (size_t)c->size : 1);
    o->number = c->issued++;
    c->group[c->grouped++] = o;
    grouping = c;
    return SUCCESS;
}

ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, int type, int op,
                           ncclComm_t c, cudaStream_t stream)
{
    const struct op o = {
        .comm = c, .data = receive, .part = count, .kind = SUM, .type = type, .stream = stream};
    return enter(&o, send == receive && op == 0);
}

ncclResult_t ncclReduce(const void *send, void *receive, size_t count, int type, int op, int root,
                        ncclComm_t c, cudaStream_t stream)
{
    const struct op o = {.comm = c,
                         .data = receive,
                         .part = count,
                         .kind = REDUCE,
                         .type = type,
                         .root = root,
                         .stream = stream};
    return enter(&o, send == receive && op == 0);
}

ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, int type, int root,
                           ncclComm_t c, cudaStream_t stream)
{
    const struct op o = {.comm = c,
                         .data = receive,
                         .part = count,
                         .kind = SHARE,
                         .type = type,
                         .root = root,
                         .stream = stream};
    return enter(&o, send == receive);
}

ncclResult_t ncclAllGather(const void *send, void *receive, size_t count, int type, ncclComm_t c,
                           cudaStream_t stream)
{
    const struct op o = {
        .comm = c, .data = receive, .part = count, .kind = GATHER, .type = type, .stream = stream};
    return enter(&o, c && send == (char *)receive + (size_t)c->rank * count * width(type));
}

ncclResult_t ncclGroupEnd(void)
{
    if (depth != 1) return refuse(INVALID_USAGE, "the group was not begun");
    depth = 0;
    if (!grouping) return SUCCESS;
    atomic_store(&grouping->delay, DELAY);
    return IN_PROGRESS;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *state)
{
    if (!c) return refuse(INVALID_ARGUMENT, "no communicator");
    *state = IN_PROGRESS;
    if (atomic_load(&c->delay) && atomic_fetch_sub(&c->delay, 1) > 1) return SUCCESS;
    if (c->grouped) issue(c);
    *state = atomic_load(&c->state);
    if (*state != SUCCESS) return SUCCESS;
    if (atomic_load(&c->connecting)) {
        if (!all_there(c, "init")) *state = IN_PROGRESS;
        if (*state == SUCCESS) atomic_store(&c->connecting, false);
    }
    if (atomic_load(&c->leaving) && (atomic_load(&c->pending) || !all_there(c, "bye")))
        *state = IN_PROGRESS;
    return SUCCESS;
}

/* --- the end --------------------------------------------------------------------------------- */

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    if (!c || atomic_load(&c->delay)) return refuse(INVALID_USAGE, "the communicator is busy");
    atomic_store(&c->leaving, true);
    return leave_file(c, "bye", 0, "", 0) ? IN_PROGRESS : SYSTEM_ERROR;
}

static void stop(struct ncclComm *c)
{
    atomic_store(&c->quit, true);
    pthread_join(c->thread, NULL);
}

/* The last one out takes the folder along. */
static void clear(struct ncclComm *c)
{
    char path[480];
    DIR *d;
    if (!leave_file(c, "gone", 0, "", 0) || !all_there(c, "gone")) return;
    if ((d = opendir(c->dir)) != NULL) {
        for (const struct dirent *e; (e = readdir(d)) != NULL;) {
            snprintf(path, sizeof path, "%s/%s", c->dir, e->d_name);
            if (e->d_name[0] != '.') unlink(path);
        }
        closedir(d);
    }
    rmdir(c->dir);
}

ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    if (!c || !atomic_load(&c->leaving)) return refuse(INVALID_USAGE, "not finalized");
    stop(c);
    clear(c);
    free(c);
    return SUCCESS;
}

/* What is in the stream ends, and leaves the memory as it is. */
ncclResult_t ncclCommAbort(ncclComm_t c)
{
    if (!c) return refuse(INVALID_ARGUMENT, "no communicator");
    atomic_store(&c->aborted, true);
    stop(c);
    for (int i = 0; i < c->grouped; i++) free(c->group[i]);
    c->grouped = 0;
    for (int i = 0; atomic_load(&c->pending) && i < atomic_load(&c->streams); i++)
        cudaStreamSynchronize(c->stream[i]);
    free(c);
    return SUCCESS;
}
