/* corpus.c -- opening and verifying a corpus; records by pread (see corpus.h).
 *
 * A shard's columns are compared with their checksum before libhdf5 sees the file, so that damaged
 * bytes are reported as such and never reach its parser. */
#include "datasets/corpus_json.h"
#include "datasets/checksum.h"
#include "datasets/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct corpus { // pk_dataset.self
    char dir[PK_PATH_MAX];
    struct pk_corpus_info info;
    int *fd;               // [info.shards], -1 while closed
    char (*id)[PK_ID_MAX]; // [records]
};

static enum pk_status shard_path(const struct corpus *c, int64_t shard, char path[PK_PATH_MAX],
                                 struct pk_err *err)
{
    return pk_path(path, err, "%s/%s", c->dir, c->info.shard[shard].file);
}

/* --- records ------------------------------------------------------------------------------- */

/* One preadv for all leads: what lies between the wanted parts of two leads goes to a scratch that
 * is overwritten again and again. For gaps wider than that, and after a short answer, a pread for
 * each lead: a system call costs about as much as copying 5 kB (native) to 30 kB (in a sandbox that
 * intercepts them). */
static enum pk_status read_part(const struct pk_dataset *d, int64_t index, int32_t start,
                                int32_t samples, int16_t *dst, struct pk_err *err)
{
    const struct corpus *c = d->self;
    char gap[16384], path[PK_PATH_MAX];
    struct iovec io[2 * PK_LEADS_MAX];
    if (index < 0 || index >= d->count || start < 0 || samples < 1 || samples > d->samples - start)
        return pk_fail(err, PK_EINVAL, "record %lld of %lld, samples %d to %d of %d do not exist",
                       (long long)index, (long long)d->count, start, start + samples, d->samples);
    int64_t shard = index / c->info.shard_capacity;
    size_t row = (size_t)c->info.padded * 2, part = (size_t)samples * 2;
    int64_t offset = c->info.shard[shard].offset + (int64_t)start * 2 +
                     index % c->info.shard_capacity * d->leads * (int64_t)row;
    if (row - part <= sizeof gap) {
        int n = 0;
        for (int32_t l = 0; l < d->leads; l++) {
            if (l && row > part) io[n++] = (struct iovec){gap, row - part};
            io[n++] = (struct iovec){dst + (size_t)l * (size_t)samples, part};
        }
        ssize_t want = (ssize_t)(row * (size_t)(d->leads - 1) + part);
        if (preadv(c->fd[shard], io, n, (off_t)offset) == want) return PK_OK;
    }
    PK_TRY(shard_path(c, shard, path, err));
    for (int32_t l = 0; l < d->leads; l++)
        PK_TRY(pk_pread(c->fd[shard], dst + (size_t)l * (size_t)samples, part,
                        offset + (int64_t)row * l, path, err));
    return PK_OK;
}

static enum pk_status read_whole(const struct pk_dataset *d, int64_t index, int16_t *dst,
                                 struct pk_err *err)
{
    return read_part(d, index, 0, d->samples, dst, err);
}

static void record_id(const struct pk_dataset *d, int64_t index, char out[64])
{
    const struct corpus *c = d->self;
    memset(out, 0, 64);
    if (index >= 0 && index < d->count) snprintf(out, 64, "%s", c->id[index]);
}

static void close_corpus(struct pk_dataset *d)
{
    struct corpus *c = d->self;
    if (!c) return;
    for (int64_t i = 0; c->fd && i < c->info.shards; i++)
        if (c->fd[i] >= 0) close(c->fd[i]);
    free(c->fd);
    free(c->id);
    pk_corpus_info_free(&c->info);
    free(c);
    d->self = NULL;
}

/* --- opening ------------------------------------------------------------------------------- */

static enum pk_status open_shard_file(const char *path, const struct pk_shard_entry *e, int *fd,
                                      struct pk_err *err)
{
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0 && errno == ENOENT)
        return pk_fail(err, PK_EDATA, "%s is missing; the corpus lists it with %lld records", path,
                       (long long)e->records);
    if (*fd < 0) return pk_fail_errno(err, PK_EIO, "cannot open %s", path);
    if (fstat(*fd, &st) != 0) return pk_fail_errno(err, PK_EIO, "cannot stat %s", path);
    if (st.st_size != (off_t)e->bytes)
        return pk_fail(
            err, PK_EDATA,
            "%s has %lld bytes, corpus.json says %lld: it was %s; copy or import it again", path,
            (long long)st.st_size, (long long)e->bytes,
            st.st_size < (off_t)e->bytes ? "truncated" : "changed");
    return PK_OK;
}

static enum pk_status open_shard_files(struct corpus *c, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    PK_TRY(pk_alloc(&c->fd, (size_t)c->info.shards, sizeof *c->fd, "shard files", err));
    for (int64_t i = 0; i < c->info.shards; i++) c->fd[i] = -1;
    for (int64_t i = 0; i < c->info.shards; i++) {
        PK_TRY(shard_path(c, i, path, err));
        PK_TRY(open_shard_file(path, &c->info.shard[i], &c->fd[i], err));
    }
    return PK_OK;
}

static enum pk_status check_columns(const struct corpus *c, int64_t shard, const char *path,
                                    struct pk_err *err)
{
    const struct pk_shard_entry *e = &c->info.shard[shard];
    int64_t end = e->offset + e->records * c->info.spec.leads * (int64_t)c->info.padded * 2;
    struct pk_checksum sum = pk_checksum_start();
    PK_TRY(pk_checksum_file(&sum, c->fd[shard], 0, e->offset, path, err));
    PK_TRY(pk_checksum_file(&sum, c->fd[shard], end, e->bytes - end, path, err));
    if (pk_checksum_end(&sum) != e->columns_checksum)
        return pk_fail(err, PK_EDATA,
                       "%s is damaged: the checksum of its columns is %016llx, corpus.json says "
                       "%016llx; copy or import it again",
                       path, (unsigned long long)pk_checksum_end(&sum),
                       (unsigned long long)e->columns_checksum);
    return PK_OK;
}

/* Columns must be safe to index with: a shard may be intact and still not made by us. */
static enum pk_status check_record(const struct pk_dataset *d, const struct pk_shard *s, int64_t i,
                                   const char *path, struct pk_err *err)
{
    const struct pk_record *r = &s->record[i];
    if (r->source < 0 || r->source >= d->sources || r->length < 1 || r->length > d->samples)
        return pk_fail(err, PK_EDATA, "%s: record %s has source %d of %d and length %d of %d", path,
                       s->id[i], r->source, d->sources, r->length, d->samples);
    for (int32_t l = 0; l < d->leads; l++)
        if (!(r->scale[l] > 0 && isfinite(r->scale[l])))
            return pk_fail(err, PK_EDATA, "%s: record %s has scale %g of lead %s", path, s->id[i],
                           (double)r->scale[l], d->lead_name[l]);
    return PK_OK;
}

static enum pk_status load_shard(struct pk_dataset *d, int64_t shard, struct pk_err *err)
{
    struct corpus *c = d->self;
    const struct pk_shard_entry *e = &c->info.shard[shard];
    size_t n = (size_t)e->records, first = (size_t)(shard * c->info.shard_capacity);
    char path[PK_PATH_MAX];
    struct pk_shard s = {.spec = &c->info.spec, .count = e->records, .padded = c->info.padded};
    PK_TRY(shard_path(c, shard, path, err));
    PK_TRY(check_columns(c, shard, path, err));
    PK_TRY(pk_shard_read(path, &s, err));
    enum pk_status st = PK_OK;
    if (s.offset != e->offset)
        st = pk_fail(err, PK_EDATA, "%s: the signal starts at byte %lld, corpus.json says %lld",
                     path, (long long)s.offset, (long long)e->offset);
    for (int64_t i = 0; i < e->records && st == PK_OK; i++) st = check_record(d, &s, i, path, err);
    if (st == PK_OK) {
        memcpy(d->record + first, s.record, n * sizeof *s.record);
        memcpy(c->id + first, s.id, n * sizeof *s.id);
        for (int32_t t = 0; t < d->tasks; t++) {
            size_t k = (size_t)d->task[t].classes;
            memcpy(d->task[t].label + first * k, s.label[t], n * k);
        }
        for (int32_t t = 0; t < d->targets; t++)
            memcpy(d->target[t].value + first, s.target[t], n * sizeof(float));
    }
    pk_shard_free(&s);
    return st;
}

static enum pk_status alloc_columns(struct pk_dataset *d, struct corpus *c, struct pk_err *err)
{
    const struct pk_corpus_spec *spec = &c->info.spec;
    size_t n = (size_t)c->info.records;
    PK_TRY(pk_alloc(&d->record, n, sizeof *d->record, "records", err));
    PK_TRY(pk_alloc(&c->id, n, sizeof *c->id, "record identifiers", err));
    PK_TRY(pk_alloc(&d->source, (size_t)spec->sources, sizeof *d->source, "sources", err));
    d->sources = spec->sources;
    memcpy(d->source, c->info.source, (size_t)spec->sources * sizeof *d->source);
    PK_TRY(pk_alloc(&d->task, (size_t)spec->tasks, sizeof *d->task, "tasks", err));
    d->tasks = spec->tasks;
    for (int32_t t = 0; t < spec->tasks; t++) {
        const struct pk_task *f = &spec->task[t];
        size_t k = (size_t)f->classes;
        memcpy(d->task[t].name, f->name, sizeof f->name);
        d->task[t].classes = f->classes;
        PK_TRY(pk_alloc(&d->task[t].class_name, k, PK_NAME_MAX, "class names", err));
        memcpy(d->task[t].class_name, f->class_name, k * PK_NAME_MAX);
        PK_TRY(pk_alloc(&d->task[t].label, n, k, "labels", err));
    }
    PK_TRY(pk_alloc(&d->target, (size_t)spec->targets, sizeof *d->target, "targets", err));
    d->targets = spec->targets;
    for (int32_t t = 0; t < spec->targets; t++) {
        memcpy(d->target[t].name, spec->target_name[t], PK_NAME_MAX);
        PK_TRY(pk_alloc(&d->target[t].value, n, sizeof(float), "targets", err));
    }
    return PK_OK;
}

static enum pk_status open_into(struct pk_dataset *d, const char *dir, struct pk_err *err)
{
    struct corpus *c;
    PK_TRY(pk_alloc(&c, 1, sizeof *c, "corpus", err));
    d->self = c;
    d->close = close_corpus;
    d->read = read_whole;
    d->read_part = read_part;
    d->record_id = record_id;
    PK_TRY(pk_path(c->dir, err, "%s", dir));
    PK_TRY(pk_corpus_json_read(dir, &c->info, err));
    PK_TRY(open_shard_files(c, err));

    const struct pk_corpus_spec *spec = &c->info.spec;
    snprintf(d->name, sizeof d->name, "%.255s", dir);
    memcpy(d->modality, spec->modality, sizeof d->modality);
    memcpy(d->version, spec->version, sizeof d->version);
    memcpy(d->units, spec->units, sizeof d->units);
    memcpy(d->preprocessing, spec->preprocessing, sizeof d->preprocessing);
    memcpy(d->lead_name, spec->lead_name, sizeof d->lead_name);
    d->count = c->info.records;
    d->leads = spec->leads;
    d->samples = spec->samples;
    d->rate = spec->rate;
    PK_TRY(alloc_columns(d, c, err));
    for (int64_t i = 0; i < c->info.shards; i++) PK_TRY(load_shard(d, i, err));
    return PK_OK;
}

enum pk_status pk_corpus_open(struct pk_dataset *out, const char *dir, struct pk_err *err)
{
    *out = (struct pk_dataset){0};
    enum pk_status s = open_into(out, dir, err);
    if (s != PK_OK) pk_dataset_free(out);
    return s;
}

/* --- verifying ----------------------------------------------------------------------------- */

/* PK_EDATA and PK_EIO say that this shard is bad; anything else ends the verification. */
static enum pk_status verify_shard(const char *dir, const struct pk_shard_entry *e,
                                   struct pk_err *err)
{
    char path[PK_PATH_MAX];
    int fd = -1;
    struct pk_checksum sum = pk_checksum_start();
    PK_TRY(pk_path(path, err, "%s/%s", dir, e->file));
    enum pk_status s = open_shard_file(path, e, &fd, err);
    if (s == PK_OK) s = pk_checksum_file(&sum, fd, 0, e->bytes, path, err);
    if (fd >= 0) close(fd);
    if (s == PK_OK && pk_checksum_end(&sum) != e->checksum)
        s = pk_fail(err, PK_EDATA,
                    "%s is damaged: its checksum is %016llx, corpus.json says %016llx", path,
                    (unsigned long long)pk_checksum_end(&sum), (unsigned long long)e->checksum);
    return s;
}

enum pk_status pk_corpus_verify(const char *dir, int64_t *bad, struct pk_text *report,
                                struct pk_err *err)
{
    struct pk_corpus_info info;
    enum pk_status s = PK_OK;
    *bad = 0;
    PK_TRY(pk_corpus_json_read(dir, &info, err));
    for (int64_t i = 0; i < info.shards && s == PK_OK; i++) {
        struct pk_err one = {0};
        s = verify_shard(dir, &info.shard[i], &one);
        if (s == PK_EDATA || s == PK_EIO) {
            pk_text_add(report, "%s\n", one.message);
            ++*bad;
            s = PK_OK;
        } else if (s != PK_OK) {
            s = pk_fail(err, s, "%s", one.message);
        }
    }
    pk_corpus_info_free(&info);
    return s;
}
