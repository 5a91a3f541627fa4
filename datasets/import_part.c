/* import_part.c -- ranges of items, part files, and their way into the corpus (see import_part.h).
 *
 * A part is a sequence of records: struct record, then of an accepted item its slot and its spilled
 * bytes, of a rejected one the reason. Length and checksum of the whole file do not lie in it, the
 * ranks exchange them: a part is believed only as its rank has finished it. */
#include "datasets/import_part.h"
#include "datasets/checksum.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A network file system may show another host's new file late. */
#define VISIBLE_SECONDS 5.0

enum { COPY = 1 << 16 };

struct record {
    int64_t item;
    int64_t why;   // bytes of the reason with its NUL; 0: accepted
    int64_t spill; // bytes behind the slot
};

struct outcome { // of a rank, exchanged
    int64_t bytes;
    uint64_t checksum;
};

struct share {
    const struct pk_import *job;
    struct pk_import_ranks *ranks;
    const char *folder;
    uint64_t id;   // of this import
    int64_t first; // of this rank's items
    FILE *part;
    char path[PK_PATH_MAX]; // of this rank's part; of the token at rank 0
    struct pk_checksum checksum;
    struct outcome mine;
};

bool pk_import_leads(const struct pk_import_ranks *ranks)
{
    return !ranks || ranks->rank == 0;
}

enum pk_status pk_import_agree(struct pk_import_ranks *ranks, enum pk_status s, struct pk_err *err)
{
    if (!ranks || ranks->size == 1 || ranks->failed) return s;
    s = ranks->agree(ranks->self, s, err);
    ranks->failed = s != PK_OK;
    return s;
}

void pk_import_clean(const char *folder)
{
    char path[PK_PATH_MAX];
    struct pk_err ignored;
    struct dirent *e;
    DIR *d = opendir(folder);
    if (!d) return;
    while ((e = readdir(d))) {
        size_t n = strlen(e->d_name);
        if (!strncmp(e->d_name, "import-", 7) && n > 12 && !strcmp(e->d_name + n - 5, ".part") &&
            pk_path(path, &ignored, "%s/%s", folder, e->d_name) == PK_OK)
            remove(path);
    }
    closedir(d);
}

static enum pk_status part_path(const struct share *sh, int rank, char path[PK_PATH_MAX],
                                struct pk_err *err)
{
    return pk_path(path, err, "%s/import-%016llx-r%d.part", sh->folder, (unsigned long long)sh->id,
                   rank);
}

static int64_t first_item(const struct share *sh, int rank)
{
    int64_t n = sh->job->count, size = sh->ranks->size; // rank * n could overflow
    return n / size * rank + PK_MIN((int64_t)rank, n % size);
}

/* Waits until the file is there with at least `bytes` bytes. */
static bool wait_visible(const char *path, int64_t bytes)
{
    const struct timespec pause = {.tv_nsec = 20000000};
    const double end = pk_seconds() + VISIBLE_SECONDS;
    for (;;) {
        struct stat st;
        if (stat(path, &st) == 0 && st.st_size >= bytes) return true;
        if (pk_seconds() > end) return false;
        nanosleep(&pause, NULL);
    }
}

/* ---- before anything is converted ---- */

/* Differs between any two imports that could meet in a folder. */
static uint64_t make_id(const char *folder)
{
    struct timespec now = {0};
    char host[256] = "";
    clock_gettime(CLOCK_REALTIME, &now);
    gethostname(host, sizeof host - 1);
    const int64_t seed[] = {(int64_t)now.tv_sec, (int64_t)now.tv_nsec, (int64_t)getpid()};
    uint64_t hash = pk_hash64(folder, strlen(folder), 0);
    return pk_hash64(seed, sizeof seed, pk_hash64(host, strlen(host), hash));
}

static enum pk_status see_token(struct share *sh, const uint64_t *mine, const uint64_t *lead,
                                struct pk_err *err)
{
    char token[PK_PATH_MAX];
    const struct pk_import_ranks *r = sh->ranks;
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    if (mine[1] != lead[1])
        return pk_fail(err, PK_EUSAGE,
                       "rank %d of %d on host %s would import other records than rank 0, or with "
                       "other settings: all ranks take the same arguments and must find the same "
                       "source files",
                       r->rank, r->size, host);
    PK_TRY(part_path(sh, 0, token, err));
    PK_TRY(part_path(sh, r->rank, sh->path, err));
    if (wait_visible(token, 1)) return PK_OK;
    return pk_fail(err, PK_EMISSING,
                   "rank %d of %d on host %s does not see the folder %s that rank 0 writes to: the "
                   "ranks of an import need one folder that all of them see, for the corpus and "
                   "the parts of it that they convert",
                   r->rank, r->size, host, sh->folder);
}

/* Do all ranks mean the same items, and see the same folder? */
static enum pk_status meet(struct share *sh, uint64_t plan, struct pk_err *err)
{
    struct pk_import_ranks *r = sh->ranks;
    const uint64_t what[] = {plan, r->settings, (uint64_t)sh->job->count,
                             (uint64_t)sh->job->slot_bytes};
    uint64_t(*all)[2]; // [size], id and plan
    enum pk_status s = pk_alloc(&all, (size_t)r->size, sizeof *all, "plans of the ranks", err);
    if (s == PK_OK && r->rank == 0) {
        sh->id = make_id(sh->folder);
        s = part_path(sh, 0, sh->path, err);
        if (s == PK_OK) s = pk_write_file(sh->path, "token\n", 6, err);
    }
    s = pk_import_agree(r, s, err);
    if (s == PK_OK) {
        all[r->rank][0] = sh->id;
        all[r->rank][1] = pk_hash64(what, sizeof what, 0);
        s = r->gather(r->self, all, sizeof *all, err);
        r->failed = s != PK_OK;
    }
    if (s == PK_OK) {
        sh->id = all[0][0];
        if (r->rank > 0) s = see_token(sh, all[r->rank], all[0], err);
        s = pk_import_agree(r, s, err);
    }
    free(all);
    return s;
}

/* ---- a range of items ---- */

static enum pk_status convert(void *self, int64_t item, void *slot, struct pk_err *err)
{
    const struct share *sh = self;
    return sh->job->convert(sh->job->self, sh->first + item, slot, err);
}

static enum pk_status spill(void *self, int64_t item, char path[PK_PATH_MAX], struct pk_err *err)
{
    const struct share *sh = self;
    return sh->job->spill(sh->job->self, sh->first + item, path, err);
}

static enum pk_status watch(void *self, struct pk_err *err)
{
    const struct share *sh = self;
    return sh->ranks->watch(sh->ranks->self, err);
}

static enum pk_status put(struct share *sh, const void *bytes, size_t n, struct pk_err *err)
{
    pk_checksum_update(&sh->checksum, bytes, n);
    sh->mine.bytes += (int64_t)n;
    return pk_write(sh->part, bytes, n, sh->path, err);
}

static enum pk_status put_spill(struct share *sh, FILE *f, int64_t left, struct pk_err *err)
{
    char bytes[COPY];
    while (left > 0) {
        size_t n = (size_t)PK_MIN(left, (int64_t)COPY);
        if (fread(bytes, 1, n, f) != n)
            return pk_fail(err, PK_EIO, "a recording's file in %s is shorter than it was written",
                           sh->folder);
        PK_TRY(put(sh, bytes, n, err));
        left -= (int64_t)n;
    }
    return PK_OK;
}

static enum pk_status keep(void *self, int64_t item, const void *slot, FILE *f, struct pk_err *err)
{
    struct share *sh = self;
    struct record r = {.item = sh->first + item};
    struct stat st;
    if (f && fstat(fileno(f), &st) != 0)
        return pk_fail_errno(err, PK_EIO, "cannot stat a recording's file in %s", sh->folder);
    if (f) r.spill = (int64_t)st.st_size;
    PK_TRY(put(sh, &r, sizeof r, err));
    PK_TRY(put(sh, slot, sh->job->slot_bytes, err));
    return f ? put_spill(sh, f, r.spill, err) : PK_OK;
}

static enum pk_status keep_reason(void *self, int64_t item, const char *why, struct pk_err *err)
{
    struct share *sh = self;
    struct record r = {.item = sh->first + item, .why = (int64_t)strlen(why) + 1};
    PK_TRY(put(sh, &r, sizeof r, err));
    return put(sh, why, (size_t)r.why, err);
}

static enum pk_status accept(void *self, int64_t item, const void *slot, FILE *f,
                             struct pk_err *err)
{
    const struct share *sh = self;
    return sh->job->accept(sh->job->self, item, slot, f, err);
}

static enum pk_status reject(void *self, int64_t item, const char *why, struct pk_err *err)
{
    const struct share *sh = self;
    return sh->job->reject(sh->job->self, item, why, err);
}

/* This rank's range: into the corpus at rank 0, else into its part. */
static enum pk_status convert_range(struct share *sh, struct pk_err *err)
{
    const bool leads = sh->ranks->rank == 0;
    struct pk_import job = *sh->job;
    sh->first = first_item(sh, sh->ranks->rank);
    job.count = first_item(sh, sh->ranks->rank + 1) - sh->first;
    job.self = sh;
    job.convert = convert;
    job.watch = watch;
    job.spill = job.spill ? spill : NULL;
    job.accept = leads ? accept : keep;
    job.reject = leads ? reject : keep_reason;
    if (leads) return pk_import_run(&job, err);
    sh->checksum = pk_checksum_start();
    PK_TRY(pk_open(&sh->part, sh->path, "wb", err));
    PK_TRY(pk_import_run(&job, err));
    sh->mine.checksum = pk_checksum_end(&sh->checksum);
    return pk_sync_close(&sh->part, sh->path, err);
}

/* ---- parts into the corpus ---- */

static enum pk_status check_part(const char *path, const struct outcome *o, struct pk_err *err)
{
    struct pk_checksum sum = pk_checksum_start();
    int fd = wait_visible(path, o->bytes) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return pk_fail(err, PK_EIO, "%s, which another rank has written, is not there or too short",
                       path);
    enum pk_status s = pk_checksum_file(&sum, fd, 0, o->bytes, path, err);
    if (s == PK_OK && pk_checksum_end(&sum) != o->checksum)
        s = pk_fail(err, PK_EIO, "%s is damaged: its checksum is not that of what was written",
                    path);
    close(fd);
    return s;
}

static enum pk_status get(FILE *f, void *bytes, size_t n, const char *path, struct pk_err *err)
{
    if (fread(bytes, 1, n, f) == n) return PK_OK;
    return pk_fail_errno(err, PK_EIO, "cannot read %s", path);
}

static enum pk_status take_item(const struct share *sh, FILE *f, int64_t item, void *slot,
                                const char *path, struct pk_err *err)
{
    const struct pk_import *job = sh->job;
    char why[PK_ERR_MAX];
    struct record r;
    PK_TRY(get(f, &r, sizeof r, path, err));
    if (r.item != item || r.why < 0 || r.why > (int64_t)sizeof why || r.spill < 0)
        return pk_fail(err, PK_EIO, "%s: item %lld was expected, not %lld", path, (long long)item,
                       (long long)r.item);
    if (r.why) {
        PK_TRY(get(f, why, (size_t)r.why, path, err));
        why[r.why - 1] = 0;
        return job->reject(job->self, item, why, err);
    }
    PK_TRY(get(f, slot, job->slot_bytes, path, err));
    const off_t end = ftello(f) + (off_t)r.spill;
    PK_TRY(job->accept(job->self, item, slot, job->spill ? f : NULL, err));
    if (fseeko(f, end, SEEK_SET) != 0) return pk_fail_errno(err, PK_EIO, "cannot read %s", path);
    return PK_OK;
}

static enum pk_status take_part(const struct share *sh, int rank, const struct outcome *o,
                                void *slot, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    FILE *f = NULL;
    PK_TRY(part_path(sh, rank, path, err));
    PK_TRY(check_part(path, o, err));
    PK_TRY(pk_open(&f, path, "rb", err));
    enum pk_status s = PK_OK;
    for (int64_t i = first_item(sh, rank); i < first_item(sh, rank + 1) && s == PK_OK; i++) {
        s = sh->ranks->watch(sh->ranks->self, err);
        if (s == PK_OK) s = take_item(sh, f, i, slot, path, err);
    }
    fclose(f);
    remove(path); // there may be no room for all of it and the corpus
    return s;
}

static enum pk_status take_parts(struct share *sh, struct outcome *all, struct pk_err *err)
{
    struct pk_import_ranks *r = sh->ranks;
    void *slot;
    all[r->rank] = sh->mine;
    enum pk_status s = r->gather(r->self, all, sizeof *all, err);
    r->failed = s != PK_OK;
    if (s != PK_OK || r->rank > 0) return s;
    PK_TRY(pk_alloc_aligned(&slot, sh->job->slot_bytes, 1, "a converted record", err));
    for (int k = 1; k < r->size && s == PK_OK; k++) s = take_part(sh, k, &all[k], slot, err);
    free(slot);
    return s;
}

/* What this rank has made; rank 0 also that of ranks which may be gone. */
static void remove_parts(const struct share *sh)
{
    char path[PK_PATH_MAX];
    struct pk_err ignored;
    if (!sh->id) return;
    for (int k = sh->ranks->rank; k < (sh->ranks->rank ? sh->ranks->rank + 1 : sh->ranks->size);
         k++)
        if (part_path(sh, k, path, &ignored) == PK_OK) remove(path);
}

enum pk_status pk_import_share(const struct pk_import *job, struct pk_import_ranks *ranks,
                               const char *folder, uint64_t plan, struct pk_err *err)
{
    if (!ranks || ranks->size == 1) return pk_import_run(job, err);
    struct outcome *all;
    struct share *sh = NULL;
    enum pk_status s = pk_alloc(&all, (size_t)ranks->size, sizeof *all, "parts of the ranks", err);
    if (s == PK_OK) s = pk_alloc(&sh, 1, sizeof *sh, "shared import", err);
    s = pk_import_agree(ranks, s, err);
    if (s == PK_OK) {
        sh->job = job;
        sh->ranks = ranks;
        sh->folder = folder;
        s = meet(sh, plan, err);
    }
    if (s == PK_OK) {
        s = convert_range(sh, err);
        // the others need not finish their ranges to hear of it: they watch
        if (s != PK_OK) ranks->failed = true;
        s = pk_import_agree(ranks, s, err);
    }
    if (s == PK_OK) s = take_parts(sh, all, err);
    if (sh && sh->part) fclose(sh->part);
    // a part of another rank is removed by rank 0, once it is in the corpus
    if (sh && (s != PK_OK || ranks->rank == 0)) remove_parts(sh);
    free(sh);
    free(all);
    return s;
}
