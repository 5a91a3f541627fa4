/* corpus_write.c -- writing a corpus, one record after the other (see corpus.h).
 *
 * The records of a shard are counted only when it is full or the corpus ends, and a contiguous
 * dataset cannot grow. So the signal goes to a raw file first; when the count is known, libhdf5
 * lays out the shard and the raw file is copied into its place. */
#include "datasets/corpus_json.h"
#include "datasets/checksum.h"
#include "datasets/shard.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct pk_corpus_writer {
    char dir[PK_PATH_MAX];
    struct pk_corpus_info info; // shards finished so far; owns a copy of the tasks
    struct pk_shard shard;      // columns of the shard being filled, room for `capacity`
    struct pk_text statements;  // NUL terminated, one after the other
    int64_t count;              // records in it
    int64_t entry_cap;          // of info.shard
    FILE *raw;                  // its signal
    char raw_path[PK_PATH_MAX];
    int16_t *row; // [leads, padded], one record on its way to the file
    struct pk_moments moments[PK_SOURCES_MAX][PK_LEADS_MAX];
    bool failed; // an add failed: only abandoning makes sense
};

/* --- checks of what the caller hands in ---------------------------------------------------- */

static bool good_name(const char *s, size_t size)
{
    size_t n = strnlen(s, size);
    if (n == 0 || n == size || s[0] == '.') return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == '/') return false;
    return true;
}

static enum pk_status check_task(const struct pk_task *t, struct pk_err *err)
{
    if (!good_name(t->name, sizeof t->name) || t->classes < 1 || t->classes > 4096 ||
        !t->class_name)
        return pk_fail(err, PK_EINVAL,
                       "task '%.31s' needs a name without '/' and 1 to 4096 classes", t->name);
    for (int32_t k = 0; k < t->classes; k++)
        if (strnlen(t->class_name[k], PK_NAME_MAX) == PK_NAME_MAX || !t->class_name[k][0])
            return pk_fail(err, PK_EINVAL, "task '%s': class %d needs a name of at most %d bytes",
                           t->name, k, PK_NAME_MAX - 1);
    return PK_OK;
}

static enum pk_status check_spec(const struct pk_corpus_spec *s, struct pk_err *err)
{
    if (!(s->rate > 0 && s->rate <= 1e6))
        return pk_fail(err, PK_EINVAL, "corpus rate %g Hz: more than 0 was expected", s->rate);
    if (s->leads < 1 || s->leads > PK_LEADS_MAX || s->samples < 1 || s->samples > PK_SAMPLES_MAX)
        return pk_fail(err, PK_EINVAL,
                       "corpus of %d leads x %d samples: 1 to %d leads and 1 to %d "
                       "samples are possible",
                       s->leads, s->samples, PK_LEADS_MAX, PK_SAMPLES_MAX);
    if (s->sources < 1 || s->sources > PK_SOURCES_MAX || s->tasks < 0 || s->tasks > PK_TASKS_MAX ||
        s->targets < 0 || s->targets > PK_TARGETS_MAX)
        return pk_fail(err, PK_EINVAL,
                       "corpus of %d sources, %d tasks, %d targets: 1 to %d, at most "
                       "%d and at most %d are possible",
                       s->sources, s->tasks, s->targets, PK_SOURCES_MAX, PK_TASKS_MAX,
                       PK_TARGETS_MAX);
    for (int32_t l = 0; l < s->leads; l++)
        if (!good_name(s->lead_name[l], sizeof s->lead_name[l]))
            return pk_fail(err, PK_EINVAL, "lead %d of the corpus has no proper name", l);
    for (int32_t i = 0; i < s->sources; i++)
        if (!good_name(s->source_name[i], PK_NAME_MAX))
            return pk_fail(err, PK_EINVAL, "source %d of the corpus has no proper name", i);
    for (int32_t i = 0; i < s->targets; i++)
        if (!good_name(s->target_name[i], PK_NAME_MAX))
            return pk_fail(err, PK_EINVAL, "target %d of the corpus has no proper name", i);
    for (int32_t t = 0; t < s->tasks; t++) PK_TRY(check_task(&s->task[t], err));
    return PK_OK;
}

static enum pk_status check_record(const struct pk_corpus_spec *s, const struct pk_corpus_record *r,
                                   struct pk_err *err)
{
    int32_t classes = 0;
    if (strnlen(r->id, sizeof r->id) == sizeof r->id || !r->id[0])
        return pk_fail(err, PK_EINVAL, "record identifier '%.63s' is empty or too long", r->id);
    if (strnlen(r->statements, sizeof r->statements) == sizeof r->statements)
        return pk_fail(err, PK_EDATA, "record %s: more than %d bytes of statements", r->id,
                       PK_STATEMENTS_MAX - 1);
    if (r->meta.length < 1 || r->meta.length > s->samples || r->meta.source < 0 ||
        r->meta.source >= s->sources)
        return pk_fail(err, PK_EINVAL, "record %s: length %d of %d samples, source %d of %d", r->id,
                       r->meta.length, s->samples, r->meta.source, s->sources);
    for (int32_t l = 0; l < s->leads; l++)
        if (!(r->meta.scale[l] > 0 && isfinite(r->meta.scale[l])))
            return pk_fail(err, PK_EDATA, "record %s: scale %g of lead %s is not a positive number",
                           r->id, (double)r->meta.scale[l], s->lead_name[l]);
    for (int32_t t = 0; t < s->tasks; t++) classes += s->task[t].classes;
    for (int32_t k = 0; r->label && k < classes; k++)
        if (r->label[k] > 1)
            return pk_fail(err, PK_EINVAL, "record %s: label %d is %d, not 0 or 1", r->id, k,
                           r->label[k]);
    return PK_OK;
}

/* --- shards -------------------------------------------------------------------------------- */

static int64_t record_bytes(const struct pk_corpus_writer *w)
{
    return (int64_t)w->info.spec.leads * w->info.padded * 2;
}

static enum pk_status begin_shard(struct pk_corpus_writer *w, struct pk_err *err)
{
    PK_TRY(
        pk_path(w->raw_path, err, "%s/shard-%05lld.raw.part", w->dir, (long long)w->info.shards));
    PK_TRY(pk_open(&w->raw, w->raw_path, "wb+", err));
    w->count = 0;
    w->statements.len = 0;
    return PK_OK;
}

/* Statements as rows of one width, the longest of the shard: h5py shows them as fixed strings. */
static enum pk_status pack_statements(struct pk_corpus_writer *w, struct pk_shard *s,
                                      struct pk_err *err)
{
    const char *p = w->statements.s;
    if (w->statements.failed) return pk_fail(err, PK_ENOMEM, "out of memory: statements");
    s->width = 8;
    for (int64_t i = 0; i < s->count; i++, p += strlen(p) + 1)
        s->width = PK_MAX(s->width, (strlen(p) + 8) / 8 * 8);
    PK_TRY(pk_alloc(&s->statements, (size_t)s->count, s->width, "statements", err));
    p = w->statements.s;
    for (int64_t i = 0; i < s->count; i++, p += strlen(p) + 1)
        memcpy(s->statements + (size_t)i * s->width, p, strlen(p));
    return PK_OK;
}

static enum pk_status copy_signal(struct pk_corpus_writer *w, int fd, int64_t offset,
                                  const char *path, struct pk_err *err)
{
    enum { CHUNK = 1 << 20 };
    enum pk_status s = PK_OK;
    char *buffer;
    if (fflush(w->raw) != 0) return pk_fail_errno(err, PK_EWRITE, "cannot write %s", w->raw_path);
    PK_TRY(pk_alloc(&buffer, CHUNK, 1, "copy buffer", err));
    int64_t left = w->count * record_bytes(w);
    for (int64_t at = 0; left > 0 && s == PK_OK;) {
        size_t n = (size_t)PK_MIN(left, (int64_t)CHUNK);
        s = pk_pread(fileno(w->raw), buffer, n, at, w->raw_path, err);
        for (size_t done = 0; done < n && s == PK_OK;) {
            ssize_t put = pwrite(fd, buffer + done, n - done, (off_t)(offset + at) + (off_t)done);
            if (put <= 0)
                s = pk_fail_errno(err, PK_EWRITE, "cannot write %s", path);
            else
                done += (size_t)put;
        }
        at += (int64_t)n;
        left -= (int64_t)n;
    }
    free(buffer);
    return s;
}

static enum pk_status sum_shard(struct pk_corpus_writer *w, int fd, struct pk_shard_entry *e,
                                const char *path, struct pk_err *err)
{
    struct stat st;
    int64_t end = e->offset + e->records * record_bytes(w);
    struct pk_checksum all = pk_checksum_start(), columns = pk_checksum_start();
    if (fstat(fd, &st) != 0) return pk_fail_errno(err, PK_EIO, "cannot stat %s", path);
    e->bytes = (int64_t)st.st_size;
    PK_TRY(pk_checksum_file(&all, fd, 0, e->bytes, path, err));
    PK_TRY(pk_checksum_file(&columns, fd, 0, e->offset, path, err));
    PK_TRY(pk_checksum_file(&columns, fd, end, e->bytes - end, path, err));
    e->checksum = pk_checksum_end(&all);
    e->columns_checksum = pk_checksum_end(&columns);
    return PK_OK;
}

/* Signal, checksums and fsync of a shard whose columns are in `path` already. */
static enum pk_status fill_shard(struct pk_corpus_writer *w, struct pk_shard_entry *e,
                                 const char *path, struct pk_err *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return pk_fail_errno(err, PK_EWRITE, "cannot open %s", path);
    enum pk_status s = copy_signal(w, fd, e->offset, path, err);
    if (s == PK_OK) s = sum_shard(w, fd, e, path, err);
    if (s == PK_OK && fsync(fd) != 0) s = pk_fail_errno(err, PK_EWRITE, "cannot sync %s", path);
    close(fd);
    return s;
}

static enum pk_status end_shard(struct pk_corpus_writer *w, struct pk_err *err)
{
    char path[PK_PATH_MAX], part[PK_PATH_MAX];
    struct pk_corpus_info *c = &w->info;
    PK_TRY(pk_grow(&c->shard, &w->entry_cap, c->shards + 1, sizeof *c->shard, "shard list", err));
    struct pk_shard_entry *e = &c->shard[c->shards];
    snprintf(e->file, sizeof e->file, "shard-%05lld.h5", (long long)c->shards);
    PK_TRY(pk_path(path, err, "%s/%s", w->dir, e->file));
    PK_TRY(pk_path(part, err, "%s.part", path));

    struct pk_shard s = w->shard; // borrows the columns; only the statements are its own
    s.count = e->records = w->count;
    enum pk_status st = pack_statements(w, &s, err);
    if (st == PK_OK) st = pk_shard_write(part, &s, err);
    free(s.statements);
    e->offset = s.offset;
    if (st == PK_OK) st = fill_shard(w, e, part, err);
    if (st == PK_OK) st = pk_rename(part, path, err);
    if (st != PK_OK) {
        remove(part);
        return st;
    }
    fclose(w->raw);
    w->raw = NULL;
    remove(w->raw_path);
    c->shards++;
    c->records += w->count;
    w->count = 0;
    return PK_OK;
}

/* --- the writer ---------------------------------------------------------------------------- */

static enum pk_status copy_tasks(struct pk_corpus_spec *to, const struct pk_corpus_spec *from,
                                 struct pk_err *err)
{
    to->task = NULL;
    to->tasks = 0;
    PK_TRY(pk_alloc(&to->task, (size_t)from->tasks, sizeof *to->task, "tasks", err));
    to->tasks = from->tasks;
    for (int32_t t = 0; t < from->tasks; t++) {
        const struct pk_task *f = &from->task[t];
        to->task[t] = (struct pk_task){.classes = f->classes};
        memcpy(to->task[t].name, f->name, sizeof f->name);
        PK_TRY(
            pk_alloc(&to->task[t].class_name, (size_t)f->classes, PK_NAME_MAX, "class names", err));
        for (int32_t k = 0; k < f->classes;
             k++) // bytes after the NUL must not depend on the caller
            snprintf(to->task[t].class_name[k], PK_NAME_MAX, "%s", f->class_name[k]);
    }
    return PK_OK;
}

/* Strings of the spec with zeros after their end, since they go into files as they are. */
static void copy_names(struct pk_corpus_spec *to, const struct pk_corpus_spec *from)
{
    memset(to->lead_name, 0, sizeof to->lead_name);
    memset(to->source_name, 0, sizeof to->source_name);
    memset(to->units, 0, sizeof to->units);
    memset(to->modality, 0, sizeof to->modality);
    for (int32_t l = 0; l < from->leads; l++)
        snprintf(to->lead_name[l], sizeof to->lead_name[l], "%s", from->lead_name[l]);
    for (int32_t i = 0; i < from->sources; i++)
        snprintf(to->source_name[i], PK_NAME_MAX, "%s", from->source_name[i]);
    snprintf(to->units, sizeof to->units, "%s", from->units);
    snprintf(to->modality, sizeof to->modality, "%s", from->modality);
}

static enum pk_status start(struct pk_corpus_writer *w, const char *dir,
                            const struct pk_corpus_spec *spec, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    PK_TRY(check_spec(spec, err));
    PK_TRY(pk_path(w->dir, err, "%s", dir));
    PK_TRY(pk_path(path, err, "%s/corpus.json", dir));
    if (pk_exists(path))
        return pk_fail(err, PK_EWRITE,
                       "%s holds a corpus already; choose another folder or remove "
                       "it first",
                       dir);
    PK_TRY(pk_mkdirs(dir, err));
    w->info.spec = *spec;
    PK_TRY(copy_tasks(&w->info.spec, spec, err));
    copy_names(&w->info.spec, spec);
    w->info.padded = pk_shard_padded(spec->leads, spec->samples);
    int64_t capacity = spec->shard_records;
    if (capacity < 1) capacity = PK_MAX((int64_t)2000000000 / record_bytes(w), (int64_t)1);
    w->info.shard_capacity = capacity;
    w->shard =
        (struct pk_shard){.spec = &w->info.spec, .count = capacity, .padded = w->info.padded};
    PK_TRY(pk_alloc(&w->row, (size_t)record_bytes(w), 1, "record buffer", err));
    return pk_shard_alloc(&w->shard, err);
}

enum pk_status pk_corpus_create(struct pk_corpus_writer **out, const char *dir,
                                const struct pk_corpus_spec *spec, struct pk_err *err)
{
    *out = NULL;
    struct pk_corpus_writer *w;
    PK_TRY(pk_alloc(&w, 1, sizeof *w, "corpus writer", err));
    enum pk_status s = start(w, dir, spec, err);
    if (s != PK_OK) {
        pk_corpus_abandon(w);
        return s;
    }
    *out = w;
    return PK_OK;
}

static void count_moments(struct pk_corpus_writer *w, const struct pk_corpus_record *r)
{
    const struct pk_corpus_spec *spec = &w->info.spec;
    for (int32_t l = 0; l < spec->leads; l++) {
        if (!(r->meta.lead_mask >> l & 1)) continue;
        struct pk_moments m = pk_moments_of(r->signal + (size_t)l * (size_t)spec->samples,
                                            r->meta.length, (double)r->meta.scale[l]);
        pk_moments_merge(&w->moments[r->meta.source][l], &m);
    }
    w->info.source[r->meta.source].count++;
}

static enum pk_status add(struct pk_corpus_writer *w, const struct pk_corpus_record *r,
                          struct pk_err *err)
{
    const struct pk_corpus_spec *spec = &w->info.spec;
    const uint8_t *label = r->label;
    int64_t i = w->count;
    if (!w->raw) {
        PK_TRY(begin_shard(w, err));
        i = 0;
    }
    w->shard.record[i] = r->meta;
    memset(w->shard.id[i], 0, PK_ID_MAX);
    snprintf(w->shard.id[i], PK_ID_MAX, "%s", r->id);
    pk_text_bytes(&w->statements, r->statements, strlen(r->statements) + 1);
    for (int32_t t = 0; t < spec->tasks; t++) {
        size_t k = (size_t)spec->task[t].classes;
        uint8_t *to = w->shard.label[t] + (size_t)i * k;
        if (label)
            memcpy(to, label, k);
        else
            memset(to, 0, k);
        if (label) label += k;
    }
    for (int32_t t = 0; t < spec->targets; t++)
        w->shard.target[t][i] = r->target ? r->target[t] : NAN;
    for (int32_t l = 0; l < spec->leads; l++)
        memcpy(w->row + (size_t)l * (size_t)w->info.padded,
               r->signal + (size_t)l * (size_t)spec->samples, (size_t)spec->samples * 2);
    PK_TRY(pk_write(w->raw, w->row, (size_t)record_bytes(w), w->raw_path, err));
    count_moments(w, r);
    w->count++;
    return w->count == w->info.shard_capacity ? end_shard(w, err) : PK_OK;
}

enum pk_status pk_corpus_add(struct pk_corpus_writer *w, const struct pk_corpus_record *r,
                             struct pk_err *err)
{
    if (w->failed) return pk_fail(err, PK_EINVAL, "corpus %s failed before; abandon it", w->dir);
    PK_TRY(check_record(&w->info.spec, r, err)); // refused alone: the corpus is still fine
    enum pk_status s = add(w, r, err);
    w->failed = s != PK_OK;
    return s;
}

/* Shards of an earlier import that died and had more of them. */
static void remove_leftovers(const struct pk_corpus_writer *w)
{
    char path[PK_PATH_MAX];
    struct pk_err ignored;
    for (int64_t i = w->info.shards;; i++)
        if (pk_path(path, &ignored, "%s/shard-%05lld.h5", w->dir, (long long)i) != PK_OK ||
            remove(path) != 0)
            return;
}

static enum pk_status finish(struct pk_corpus_writer *w, struct pk_err *err)
{
    struct pk_corpus_info *c = &w->info;
    if (w->failed) return pk_fail(err, PK_EINVAL, "corpus %s failed before; abandon it", w->dir);
    if (w->raw) PK_TRY(end_shard(w, err));
    if (!c->records)
        return pk_fail(err, PK_EDATA, "no record was added to %s: nothing to finish", w->dir);
    for (int32_t i = 0; i < c->spec.sources; i++) {
        memcpy(c->source[i].name, c->spec.source_name[i], PK_NAME_MAX);
        for (int32_t l = 0; l < c->spec.leads; l++) {
            const struct pk_moments *m = &w->moments[i][l];
            c->source[i].mean[l] = m->mean;
            c->source[i].std[l] = m->count > 0 ? sqrt(m->m2 / m->count) : 0;
        }
    }
    remove_leftovers(w);
    PK_TRY(pk_fsync_dir(w->dir, err));
    return pk_corpus_json_write(w->dir, c, err);
}

static void writer_free(struct pk_corpus_writer *w)
{
    if (w->raw) {
        fclose(w->raw);
        remove(w->raw_path);
    }
    if (w->shard.spec) pk_shard_free(&w->shard);
    pk_text_free(&w->statements);
    pk_corpus_info_free(&w->info);
    free(w->row);
    free(w);
}

enum pk_status pk_corpus_finish(struct pk_corpus_writer *w, struct pk_err *err)
{
    enum pk_status s = finish(w, err);
    if (s != PK_OK)
        pk_corpus_abandon(w);
    else
        writer_free(w);
    return s;
}

void pk_corpus_abandon(struct pk_corpus_writer *w)
{
    char path[PK_PATH_MAX];
    struct pk_err ignored;
    if (!w) return;
    for (int64_t i = 0; i < w->info.shards; i++)
        if (pk_path(path, &ignored, "%s/%s", w->dir, w->info.shard[i].file) == PK_OK) remove(path);
    writer_free(w);
}
