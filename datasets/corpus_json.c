/* corpus_json.c -- writing and strict reading of corpus.json (see corpus_json.h). */
#include "datasets/corpus_json.h"
#include "datasets/shard.h"

#include "core/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_LIMIT = 64 << 20 }; // bytes; a corpus of a billion records stays below

/* --- writing ------------------------------------------------------------------------------- */

static void put_hex(struct pk_json_writer *w, const char *key, uint64_t v)
{
    char text[20];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)v);
    pk_json_put_string(w, key, text);
}

static void put_sources(struct pk_json_writer *w, const struct pk_corpus_info *c)
{
    pk_json_open(w, "sources", '[');
    for (int32_t i = 0; i < c->spec.sources; i++) {
        pk_json_open(w, NULL, '{');
        pk_json_put_string(w, "name", c->source[i].name);
        pk_json_put_i64(w, "records", c->source[i].count);
        pk_json_put_f64s(w, "mean", c->source[i].mean, c->spec.leads);
        pk_json_put_f64s(w, "std", c->source[i].std, c->spec.leads);
        pk_json_close(w);
    }
    pk_json_close(w);
}

static void put_tasks(struct pk_json_writer *w, const struct pk_corpus_spec *spec)
{
    pk_json_open(w, "tasks", '[');
    for (int32_t t = 0; t < spec->tasks; t++) {
        pk_json_open(w, NULL, '{');
        pk_json_put_string(w, "name", spec->task[t].name);
        pk_json_open(w, "classes", '[');
        for (int32_t k = 0; k < spec->task[t].classes; k++)
            pk_json_put_string(w, NULL, spec->task[t].class_name[k]);
        pk_json_close(w);
        pk_json_close(w);
    }
    pk_json_close(w);
    pk_json_open(w, "targets", '[');
    for (int32_t t = 0; t < spec->targets; t++) pk_json_put_string(w, NULL, spec->target_name[t]);
    pk_json_close(w);
}

static void put_shards(struct pk_json_writer *w, const struct pk_corpus_info *c)
{
    pk_json_open(w, "shards", '[');
    for (int64_t i = 0; i < c->shards; i++) {
        const struct pk_shard_entry *e = &c->shard[i];
        pk_json_open(w, NULL, '{');
        pk_json_put_string(w, "file", e->file);
        pk_json_put_i64(w, "records", e->records);
        pk_json_put_i64(w, "bytes", e->bytes);
        pk_json_put_i64(w, "signal_offset", e->offset);
        put_hex(w, "checksum", e->checksum);
        put_hex(w, "columns_checksum", e->columns_checksum);
        pk_json_close(w);
    }
    pk_json_close(w);
}

enum pk_status pk_corpus_json_write(const char *dir, const struct pk_corpus_info *c,
                                    struct pk_err *err)
{
    struct pk_text t = {0};
    struct pk_json_writer w = {.out = &t, .indent = 1};
    char path[PK_PATH_MAX];
    PK_TRY(pk_path(path, err, "%s/corpus.json", dir));
    pk_json_open(&w, NULL, '{');
    pk_json_put_i64(&w, "purkinje_corpus", PK_CORPUS_SCHEMA);
    pk_json_put_i64(&w, "shard_version", PK_SHARD_VERSION);
    pk_json_put_string(&w, "modality", c->spec.modality);
    pk_json_put_string(&w, "version", c->spec.version);
    pk_json_put_string(&w, "preprocessing", c->spec.preprocessing);
    pk_json_put_f64(&w, "rate", c->spec.rate);
    pk_json_put_string(&w, "units", c->spec.units);
    pk_json_open(&w, "leads", '[');
    for (int32_t l = 0; l < c->spec.leads; l++) pk_json_put_string(&w, NULL, c->spec.lead_name[l]);
    pk_json_close(&w);
    pk_json_put_i64(&w, "samples", c->spec.samples);
    pk_json_put_i64(&w, "samples_padded", c->padded);
    pk_json_put_i64(&w, "records", c->records);
    put_sources(&w, c);
    put_tasks(&w, &c->spec);
    put_shards(&w, c);
    pk_json_close(&w);
    enum pk_status s = t.failed ? pk_fail(err, PK_ENOMEM, "out of memory writing %s", path)
                                : pk_write_file(path, t.s, t.len, err);
    pk_text_free(&t);
    return s;
}

/* --- reading ------------------------------------------------------------------------------- */

struct reader {
    const char *path;
    struct pk_corpus_info *c;
    struct pk_err *err;
};

static enum pk_status bad(struct reader *r, const char *member, const char *what)
{
    return pk_fail(r->err, PK_EDATA, "%s: '%s' %s", r->path, member, what);
}

static enum pk_status get_string(struct reader *r, const struct pk_json *j, const char *key,
                                 char *out, size_t size)
{
    const char *s = key                         ? pk_json_string(j, key, NULL)
                    : j->kind == PK_JSON_STRING ? j->string
                                                : NULL;
    if (!s) return bad(r, key ? key : "name", "is missing or no string");
    if (strlen(s) >= size) return bad(r, key ? key : s, "is too long");
    memcpy(out, s, strlen(s) + 1);
    return PK_OK;
}

static enum pk_status get_i64(struct reader *r, const struct pk_json *j, const char *key,
                              int64_t low, int64_t high, int64_t *out)
{
    const struct pk_json *m = pk_json_get(j, key);
    if (!m || m->kind != PK_JSON_NUMBER || !m->is_integer)
        return bad(r, key, "is missing or no whole number");
    if (m->integer < low || m->integer > high)
        return pk_fail(r->err, PK_EDATA, "%s: '%s' is %lld, from %lld to %lld was expected",
                       r->path, key, (long long)m->integer, (long long)low, (long long)high);
    *out = m->integer;
    return PK_OK;
}

static enum pk_status get_i32(struct reader *r, const struct pk_json *j, const char *key,
                              int64_t low, int64_t high, int32_t *out)
{
    int64_t v = 0;
    PK_TRY(get_i64(r, j, key, low, high, &v));
    *out = (int32_t)v;
    return PK_OK;
}

static enum pk_status get_hex(struct reader *r, const struct pk_json *j, const char *key,
                              uint64_t *out)
{
    const char *s = pk_json_string(j, key, "");
    if (strlen(s) != 16 || strspn(s, "0123456789abcdef") != 16)
        return bad(r, key, "is not a checksum of 16 hexadecimal digits");
    *out = strtoull(s, NULL, 16);
    return PK_OK;
}

static enum pk_status get_array(struct reader *r, const struct pk_json *j, const char *key,
                                int64_t low, int64_t high, const struct pk_json **out)
{
    *out = pk_json_get(j, key);
    if (!*out || (*out)->kind != PK_JSON_ARRAY) return bad(r, key, "is missing or no list");
    if ((*out)->count < low || (*out)->count > high)
        return pk_fail(r->err, PK_EDATA,
                       "%s: '%s' has %lld members, from %lld to %lld are possible", r->path, key,
                       (long long)(*out)->count, (long long)low, (long long)high);
    return PK_OK;
}

static enum pk_status get_numbers(struct reader *r, const struct pk_json *j, const char *key,
                                  double *out)
{
    const struct pk_json *a;
    PK_TRY(get_array(r, j, key, r->c->spec.leads, r->c->spec.leads, &a));
    for (int64_t i = 0; i < a->count; i++) {
        if (a->item[i].kind != PK_JSON_NUMBER || !isfinite(a->item[i].number))
            return bad(r, key, "holds something that is no number");
        out[i] = a->item[i].number;
    }
    return PK_OK;
}

static enum pk_status read_sources(struct reader *r, const struct pk_json *j)
{
    const struct pk_json *a;
    int64_t sum = 0;
    PK_TRY(get_array(r, j, "sources", 1, PK_SOURCES_MAX, &a));
    r->c->spec.sources = (int32_t)a->count;
    for (int64_t i = 0; i < a->count; i++) {
        struct pk_source *s = &r->c->source[i];
        PK_TRY(get_string(r, &a->item[i], "name", s->name, sizeof s->name));
        memcpy(r->c->spec.source_name[i], s->name, sizeof s->name);
        PK_TRY(get_i64(r, &a->item[i], "records", 0, r->c->records, &s->count));
        PK_TRY(get_numbers(r, &a->item[i], "mean", s->mean));
        PK_TRY(get_numbers(r, &a->item[i], "std", s->std));
        sum += s->count;
    }
    return sum == r->c->records ? PK_OK : bad(r, "sources", "do not add up to 'records'");
}

static enum pk_status read_task(struct reader *r, const struct pk_json *j, struct pk_task *t)
{
    const struct pk_json *a;
    PK_TRY(get_string(r, j, "name", t->name, sizeof t->name));
    if (!t->name[0] || strchr(t->name, '/'))
        return bad(r, "tasks", "has a name that is not allowed");
    PK_TRY(get_array(r, j, "classes", 1, 4096, &a));
    PK_TRY(pk_alloc(&t->class_name, (size_t)a->count, PK_NAME_MAX, "class names", r->err));
    t->classes = (int32_t)a->count;
    for (int64_t k = 0; k < a->count; k++)
        PK_TRY(get_string(r, &a->item[k], NULL, t->class_name[k], PK_NAME_MAX));
    return PK_OK;
}

static enum pk_status read_tasks(struct reader *r, const struct pk_json *j)
{
    const struct pk_json *a;
    struct pk_corpus_spec *spec = &r->c->spec;
    PK_TRY(get_array(r, j, "tasks", 0, PK_TASKS_MAX, &a));
    PK_TRY(pk_alloc(&spec->task, (size_t)a->count, sizeof *spec->task, "tasks", r->err));
    spec->tasks = (int32_t)a->count;
    for (int64_t t = 0; t < a->count; t++) PK_TRY(read_task(r, &a->item[t], &spec->task[t]));
    PK_TRY(get_array(r, j, "targets", 0, PK_TARGETS_MAX, &a));
    spec->targets = (int32_t)a->count;
    for (int64_t t = 0; t < a->count; t++) {
        PK_TRY(get_string(r, &a->item[t], NULL, spec->target_name[t], PK_NAME_MAX));
        if (!spec->target_name[t][0] || strchr(spec->target_name[t], '/'))
            return bad(r, "targets", "has a name that is not allowed");
    }
    return PK_OK;
}

static enum pk_status read_shard_entry(struct reader *r, const struct pk_json *j, int64_t left,
                                       struct pk_shard_entry *e)
{
    int64_t record_bytes = (int64_t)r->c->spec.leads * r->c->padded * 2;
    PK_TRY(get_string(r, j, "file", e->file, sizeof e->file));
    if (!e->file[0] || strchr(e->file, '/') || e->file[0] == '.')
        return bad(r, "file", "is not the name of a file in the corpus folder");
    PK_TRY(get_i64(r, j, "records", 1, left, &e->records));
    PK_TRY(get_i64(r, j, "bytes", 1, (int64_t)1 << 50, &e->bytes));
    PK_TRY(get_i64(r, j, "signal_offset", 0, e->bytes, &e->offset));
    PK_TRY(get_hex(r, j, "checksum", &e->checksum));
    PK_TRY(get_hex(r, j, "columns_checksum", &e->columns_checksum));
    if (e->records > (e->bytes - e->offset) / record_bytes)
        return bad(r, "bytes", "is too small for the records of the shard");
    return PK_OK;
}

static enum pk_status read_shards(struct reader *r, const struct pk_json *j)
{
    const struct pk_json *a;
    int64_t left = r->c->records;
    PK_TRY(get_array(r, j, "shards", 1, 1 << 20, &a));
    PK_TRY(pk_alloc(&r->c->shard, (size_t)a->count, sizeof *r->c->shard, "shard list", r->err));
    r->c->shards = a->count;
    for (int64_t i = 0; i < a->count; i++) {
        struct pk_shard_entry *e = &r->c->shard[i];
        PK_TRY(read_shard_entry(r, &a->item[i], left, e));
        left -= e->records;
        if (i == 0) r->c->shard_capacity = e->records;
        bool last = i + 1 == a->count;
        if (last ? e->records > r->c->shard_capacity : e->records != r->c->shard_capacity)
            return bad(r, "shards", "are not all of one length but the last");
    }
    return left == 0 ? PK_OK : bad(r, "shards", "do not add up to 'records'");
}

static enum pk_status read_members(struct reader *r, const struct pk_json *j)
{
    struct pk_corpus_info *c = r->c;
    const struct pk_json *a;
    int64_t schema = pk_json_i64(j, "purkinje_corpus", -1);
    if (schema < 0)
        return bad(r, "purkinje_corpus", "is missing: this is not the file of a corpus");
    if (schema != PK_CORPUS_SCHEMA)
        return pk_fail(
            r->err, PK_EDATA,
            "%s: corpus schema %lld, this program reads schema %d; import the data again "
            "or use the program that wrote it",
            r->path, (long long)schema, PK_CORPUS_SCHEMA);
    PK_TRY(get_string(r, j, "modality", c->spec.modality, sizeof c->spec.modality));
    PK_TRY(get_string(r, j, "version", c->spec.version, sizeof c->spec.version));
    PK_TRY(get_string(r, j, "preprocessing", c->spec.preprocessing, sizeof c->spec.preprocessing));
    PK_TRY(get_string(r, j, "units", c->spec.units, sizeof c->spec.units));
    c->spec.rate = pk_json_f64(j, "rate", 0);
    if (!(c->spec.rate > 0 && c->spec.rate <= 1e6)) return bad(r, "rate", "is no rate in Hz");
    PK_TRY(get_array(r, j, "leads", 1, PK_LEADS_MAX, &a));
    c->spec.leads = (int32_t)a->count;
    for (int32_t l = 0; l < c->spec.leads; l++)
        PK_TRY(get_string(r, &a->item[l], NULL, c->spec.lead_name[l], sizeof c->spec.lead_name[l]));
    PK_TRY(get_i32(r, j, "samples", 1, PK_SAMPLES_MAX, &c->spec.samples));
    PK_TRY(get_i32(r, j, "samples_padded", c->spec.samples, 2 * PK_SAMPLES_MAX, &c->padded));
    if ((int64_t)c->spec.leads * c->padded * 2 % PK_SHARD_ALIGN || c->padded % 8)
        return bad(r, "samples_padded", "does not keep records aligned");
    PK_TRY(get_i64(r, j, "records", 1, (int64_t)1 << 40, &c->records));
    PK_TRY(read_sources(r, j));
    PK_TRY(read_tasks(r, j));
    return read_shards(r, j);
}

enum pk_status pk_corpus_json_read(const char *dir, struct pk_corpus_info *c, struct pk_err *err)
{
    struct pk_json j;
    char path[PK_PATH_MAX];
    *c = (struct pk_corpus_info){0};
    PK_TRY(pk_path(path, err, "%s/corpus.json", dir));
    if (!pk_exists(path))
        return pk_fail(err, PK_EMISSING,
                       "%s is not there: %s is no corpus, or its import was not finished%s", path,
                       dir,
                       *dir == '/' ? ""
                                   : "\nhelp: a relative path begins at the current folder; "
                                     "'purkinje data import' makes a corpus");
    PK_TRY(pk_json_load(&j, path, JSON_LIMIT, err));
    enum pk_status s = read_members(&(struct reader){.path = path, .c = c, .err = err}, &j);
    pk_json_free(&j);
    if (s != PK_OK) pk_corpus_info_free(c);
    return s;
}

void pk_corpus_info_free(struct pk_corpus_info *c)
{
    for (int32_t t = 0; c->spec.task && t < c->spec.tasks; t++) free(c->spec.task[t].class_name);
    free(c->spec.task);
    free(c->shard);
    *c = (struct pk_corpus_info){0};
}
