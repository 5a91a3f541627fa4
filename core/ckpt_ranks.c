/* ckpt_ranks.c -- one checkpoint written by all ranks (see ckpt_ranks.h). */
#include "core/ckpt_ranks.h"

#include "core/ckpt_folder.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct pk_ckpt_ranks {
    struct pk_comm *comm;
    char dir[PK_PATH_MAX];
    struct pk_ckpt_writer *writer;
    int64_t step; // whose shares are being written; -1 none
    // Rank 0: what completes it.
    char *state;
    bool prune;
    struct pk_ckpt_keep keep;
    struct told *told;           // [size]
    struct pk_ckpt_entry *entry; // [size * PK_CKPT_RANK_FILES]; names point into told
};

struct told { // what a rank says of its files
    int32_t files, reserved;
    struct {
        char name[200];
        int64_t bytes;
        uint64_t hash;
    } file[PK_CKPT_RANK_FILES];
};

/* --- the folder ------------------------------------------------------------------------------ */

/* A name that no other folder has: pk_ckpt_clean removes what a crash leaves of it. */
static enum pk_status probe_path(char out[PK_PATH_MAX], const char *dir, uint64_t token,
                                 struct pk_err *err)
{
    return pk_path(out, err, "%s/.tmp-step-%016llx", dir, (unsigned long long)token);
}

static uint64_t make_token(void)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t x = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    return (x ^ (uint64_t)getpid() << 40) * 0x9e3779b97f4a7c15u;
}

static enum pk_status make_probe(const char *dir, uint64_t token, struct pk_err *err)
{
    char probe[PK_PATH_MAX];
    PK_TRY(pk_mkdirs(dir, err));
    PK_TRY(probe_path(probe, dir, token, err));
    return mkdir(probe, 0777) == 0
               ? PK_OK
               : pk_fail_errno(err, PK_EWRITE, "cannot create folder %s", probe);
}

/* A rank leaves its mark, if it sees the folder; whether it could is what rank 0 looks at. */
static void leave_mark(const char *dir, uint64_t token, int rank)
{
    char probe[PK_PATH_MAX], mark[PK_PATH_MAX];
    if (probe_path(probe, dir, token, NULL) != PK_OK || !pk_exists(probe)) return;
    if (pk_path(mark, NULL, "%s/rank-%d", probe, rank) != PK_OK) return;
    const int fd = open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd >= 0) close(fd);
}

/* The first rank without a mark, or -1. */
static int missing_mark(const char *dir, uint64_t token, int ranks)
{
    char probe[PK_PATH_MAX], mark[PK_PATH_MAX];
    int blind = -1;
    if (probe_path(probe, dir, token, NULL) != PK_OK) return 1;
    for (int k = ranks - 1; k > 0; k--)
        if (pk_path(mark, NULL, "%s/rank-%d", probe, k) != PK_OK || !pk_exists(mark)) blind = k;
    pk_ckpt_remove(probe, NULL);
    return blind;
}

enum pk_status pk_ckpt_ranks_see(struct pk_comm *comm, const char *dir, int *blind,
                                 struct pk_err *err)
{
    struct {
        uint64_t token;
        int64_t blind;
    } ask = {.token = make_token(), .blind = -1};
    const bool leads = comm->rank == 0;
    *blind = -1;
    if (comm->size == 1) return PK_OK;
    PK_TRY(pk_comm_agree(comm, leads ? make_probe(dir, ask.token, err) : PK_OK, err));
    PK_TRY(pk_comm_broadcast(comm, 0, &ask, sizeof ask, err));
    if (!leads) leave_mark(dir, ask.token, comm->rank);
    PK_TRY(pk_comm_barrier(comm, err));
    if (leads) ask.blind = missing_mark(dir, ask.token, comm->size);
    PK_TRY(pk_comm_broadcast(comm, 0, &ask, sizeof ask, err));
    *blind = (int)ask.blind;
    return PK_OK;
}

/* --- writing --------------------------------------------------------------------------------- */

enum pk_status pk_ckpt_ranks_start(struct pk_ckpt_ranks **out, struct pk_comm *comm,
                                   const char *dir, struct pk_err *err)
{
    const size_t size = (size_t)comm->size;
    PK_TRY(pk_alloc(out, 1, sizeof **out, "checkpoint ranks", err));
    struct pk_ckpt_ranks *r = *out;
    r->comm = comm;
    r->step = -1;
    enum pk_status s = pk_path(r->dir, err, "%s", dir);
    if (s == PK_OK) s = pk_ckpt_writer_start(&r->writer, dir, err);
    if (s == PK_OK && comm->rank == 0)
        s = pk_alloc(&r->told, size, sizeof *r->told, "manifest", err);
    if (s == PK_OK && comm->rank == 0)
        s = pk_alloc(&r->entry, size * PK_CKPT_RANK_FILES, sizeof *r->entry, "manifest", err);
    if (s == PK_OK) return PK_OK;
    pk_ckpt_ranks_stop(r);
    *out = NULL;
    return s;
}

void pk_ckpt_ranks_stop(struct pk_ckpt_ranks *r)
{
    if (!r) return;
    pk_ckpt_writer_stop(r->writer, NULL);
    /* Others may still be at it and would fail for want of the folder, which hides why the job
     * ends: pk_ckpt_clean takes it away when the next one starts. */
    if (r->step >= 0 && r->comm->size == 1) pk_ckpt_abandon(r->dir, r->step, NULL);
    free(r->state);
    free(r->told);
    free(r->entry);
    free(r);
}

/* A failure of one is one of all, and says whose it is wherever it is read. */
static enum pk_status together(struct pk_ckpt_ranks *r, enum pk_status s, struct pk_err *err)
{
    const bool own = s != PK_OK;
    s = pk_comm_agree(r->comm, s, err);
    if (own && r->comm->size > 1)
        pk_err_context(err, "rank %d of %d", r->comm->rank, r->comm->size);
    return s;
}

/* All ranks come here. The folder goes as soon as nobody writes any more; where a rank is lost that
 * cannot be known, and the folder is left to pk_ckpt_clean. */
static void give_up(struct pk_ckpt_ranks *r)
{
    pk_ckpt_writer_wait(r->writer, NULL);
    if (pk_comm_barrier(r->comm, NULL) == PK_OK && r->comm->rank == 0)
        pk_ckpt_abandon(r->dir, r->step, NULL);
    r->step = -1;
}

static enum pk_status begin(struct pk_ckpt_ranks *r, const struct pk_ckpt_content *c, int64_t need,
                            const struct pk_ckpt_keep *keep, struct pk_err *err)
{
    PK_TRY(pk_ckpt_writer_wait(r->writer, err));
    free(r->state);
    r->state = pk_strdup(c->state ? c->state : "");
    if (!r->state) return pk_fail(err, PK_ENOMEM, "out of memory for the checkpoint state");
    r->prune = keep != NULL;
    if (keep) r->keep = *keep;
    return pk_ckpt_begin(r->dir, c->step, need, err);
}

static enum pk_status check_share(const struct pk_ckpt_content *c, struct pk_err *err)
{
    int64_t bytes;
    if (c->files > PK_CKPT_RANK_FILES)
        return pk_fail(err, PK_EINTERNAL, "%d files of a checkpoint at one rank", c->files);
    return pk_ckpt_bytes(c, &bytes, err);
}

enum pk_status pk_ckpt_ranks_submit(struct pk_ckpt_ranks *r, const struct pk_ckpt_content *c,
                                    int64_t need, const struct pk_ckpt_keep *keep,
                                    struct pk_err *err)
{
    PK_TRY(pk_ckpt_ranks_settle(r, err));
    enum pk_status s = check_share(c, err);
    if (s == PK_OK && r->comm->rank == 0) s = begin(r, c, need, keep, err);
    r->step = c->step;
    s = together(r, s, err);
    if (s != PK_OK) {
        give_up(r);
        return s;
    }
    s = together(r, pk_ckpt_writer_submit_part(r->writer, c, err), err);
    if (s != PK_OK) give_up(r);
    return s;
}

bool pk_ckpt_ranks_writing(struct pk_ckpt_ranks *r)
{
    return r && r->step >= 0 && pk_ckpt_writer_busy(r->writer);
}

/* Rank 0 hears of everybody's files, and completes the checkpoint in the background. */
static enum pk_status complete(struct pk_ckpt_ranks *r, const struct pk_ckpt_entry *entry,
                               int32_t files, struct pk_err *err)
{
    struct told mine = {.files = files};
    int32_t n = 0;
    for (int32_t i = 0; i < files; i++) {
        snprintf(mine.file[i].name, sizeof mine.file[i].name, "%s", entry[i].name);
        mine.file[i].bytes = entry[i].bytes;
        mine.file[i].hash = entry[i].hash;
    }
    PK_TRY(pk_comm_gather(r->comm, 0, &mine, r->told, sizeof mine, err));
    if (r->comm->rank != 0) return together(r, PK_OK, err);
    for (int k = 0; k < r->comm->size; k++)
        for (int32_t i = 0; i < PK_MIN(r->told[k].files, PK_CKPT_RANK_FILES); i++)
            r->entry[n++] = (struct pk_ckpt_entry){
                r->told[k].file[i].name, r->told[k].file[i].bytes, r->told[k].file[i].hash};
    return together(r,
                    pk_ckpt_writer_submit_finish(r->writer, r->step, r->state, r->entry, n,
                                                 r->prune ? &r->keep : NULL, err),
                    err);
}

enum pk_status pk_ckpt_ranks_settle(struct pk_ckpt_ranks *r, struct pk_err *err)
{
    const struct pk_ckpt_entry *entry = NULL;
    int32_t files = 0;
    if (!r || r->step < 0) return PK_OK;
    enum pk_status s = together(r, pk_ckpt_writer_part(r->writer, &entry, &files, err), err);
    if (s == PK_OK) s = complete(r, entry, files, err);
    if (s == PK_OK)
        r->step = -1;
    else
        give_up(r);
    return s;
}

enum pk_status pk_ckpt_ranks_finish(struct pk_ckpt_ranks *r, struct pk_err *err)
{
    if (!r) return PK_OK;
    PK_TRY(pk_ckpt_ranks_settle(r, err));
    return together(r, pk_ckpt_writer_wait(r->writer, err), err);
}

void pk_ckpt_ranks_tell(struct pk_ckpt_ranks *r, pk_ckpt_written *fn, void *ctx)
{
    pk_ckpt_writer_tell(r->writer, fn, ctx);
}

int64_t pk_ckpt_ranks_done(struct pk_ckpt_ranks *r)
{
    return pk_ckpt_writer_done(r->writer);
}
