/* join.c -- purkinje data join (see join.h). */
#include "datasets/join.h"
#include "datasets/corpus_json.h"
#include "datasets/lead.h"
#include "datasets/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct part {
    struct pk_dataset data;
    struct pk_corpus_info info; // for the shards' statements
    int32_t lead[PK_LEADS_MAX]; // lead l of the part in the whole
    int32_t source[PK_SOURCES_MAX], target[PK_TARGETS_MAX];
    int32_t label[PK_TASKS_MAX]; // where a task's classes begin in a whole row of labels
};

struct join {
    const struct pk_join_part *from;
    int32_t parts;
    struct part *part;
    struct pk_corpus_spec spec; // spec.task's class names are the parts'
    struct pk_task task[PK_TASKS_MAX];
    int32_t first[PK_TASKS_MAX], classes;
    bool prefix;     // ids get their source's name
    int16_t *raw;    // [leads of a part, samples of a part]
    int16_t *signal; // [leads, samples]
    uint8_t *label;  // [classes]
    struct pk_corpus_writer *writer;
};

/* ---- what the parts have in common ---- */

static enum pk_status join_leads(struct join *j, struct pk_err *err)
{
    struct pk_corpus_spec *s = &j->spec;
    for (int32_t want = 0; want <= PK_LEADS_ECG; want++) // the last round: all other leads
        for (int32_t p = 0; p < j->parts; p++)
            for (int32_t l = 0; l < j->part[p].data.leads; l++) {
                const char *name = j->part[p].data.lead_name[l];
                int32_t standard = pk_lead_index(name), at = 0;
                if ((standard < 0 ? PK_LEADS_ECG : standard) != want) continue;
                while (at < s->leads && strcmp(s->lead_name[at], name)) at++;
                if (at == PK_LEADS_MAX)
                    return pk_fail(err, PK_EDATA,
                                   "the corpora have more than %d different leads together",
                                   PK_LEADS_MAX);
                if (at == s->leads) memcpy(s->lead_name[s->leads++], name, sizeof s->lead_name[0]);
                j->part[p].lead[l] = at;
            }
    return PK_OK;
}

/* Units of a corpus by kind of lead, out of "mV", "z" or "mV, PPG z". */
static void units_of(const struct pk_dataset *d, char ecg[16], char ppg[16])
{
    const char *split = strstr(d->units, ", PPG ");
    bool has_ecg = false, has_ppg = false;
    for (int32_t l = 0; l < d->leads; l++)
        *(pk_lead_index(d->lead_name[l]) < 0 ? &has_ppg : &has_ecg) = true;
    ecg[0] = ppg[0] = 0;
    if (has_ecg) snprintf(ecg, 16, "%.*s", split ? (int)(split - d->units) : 15, d->units);
    if (has_ppg) snprintf(ppg, 16, "%s", split ? split + 6 : d->units);
}

static enum pk_status same_unit(char have[16], const char *unit, const char *kind,
                                const char *folder, struct pk_err *err)
{
    if (unit[0] && have[0] && strcmp(unit, have))
        return pk_fail(err, PK_EDATA,
                       "%s: its %s leads are in %s, those of the corpora before it in %s; import "
                       "one of them again (norm= decides for PPG)",
                       folder, kind, unit, have);
    if (unit[0]) snprintf(have, 16, "%s", unit);
    return PK_OK;
}

static enum pk_status join_units(struct join *j, struct pk_err *err)
{
    char ecg[16] = "", ppg[16] = "", e[16], p[16], both[48];
    for (int32_t i = 0; i < j->parts; i++) {
        const struct pk_dataset *d = &j->part[i].data;
        if (fabs(d->rate - j->part[0].data.rate) > 1e-9 * d->rate)
            return pk_fail(err, PK_EDATA,
                           "%s has %g Hz, %s has %g Hz; import one of them again at the other's "
                           "rate: a corpus has one",
                           j->from[i].folder, d->rate, j->from[0].folder, j->part[0].data.rate);
        units_of(d, e, p);
        PK_TRY(same_unit(ecg, e, "ECG", j->from[i].folder, err));
        PK_TRY(same_unit(ppg, p, "PPG", j->from[i].folder, err));
        j->spec.samples = PK_MAX(j->spec.samples, d->samples);
    }
    snprintf(both, sizeof both, "%s%s%s", ecg, ecg[0] && ppg[0] ? ", PPG " : "", ppg);
    if (strlen(both) >= sizeof j->spec.units)
        return pk_fail(err, PK_EDATA, "units '%s' are longer than a corpus holds", both);
    snprintf(j->spec.units, sizeof j->spec.units, "%.15s", both);
    snprintf(j->spec.modality, sizeof j->spec.modality, "%s",
             ecg[0] && ppg[0] ? "ecg+ppg"
             : ecg[0]         ? "ecg"
                              : "ppg");
    j->spec.rate = j->part[0].data.rate;
    return PK_OK;
}

static enum pk_status join_sources(struct join *j, struct pk_err *err)
{
    struct pk_corpus_spec *s = &j->spec;
    for (int32_t p = 0; p < j->parts; p++) {
        const struct pk_dataset *d = &j->part[p].data;
        const char *given = j->from[p].name;
        if (given && (d->sources != 1 || strlen(given) >= PK_NAME_MAX))
            return pk_fail(err, PK_EUSAGE,
                           "%s=%s: a name of at most %d bytes can be given to a corpus of one "
                           "source; this one has %d",
                           given, j->from[p].folder, PK_NAME_MAX - 1, d->sources);
        for (int32_t i = 0; i < d->sources; i++) {
            const char *name = given ? given : d->source[i].name;
            for (int32_t k = 0; k < s->sources; k++)
                if (!strcmp(s->source_name[k], name))
                    return pk_fail(err, PK_EDATA,
                                   "%s: a source '%s' is in a corpus before it too\nhelp: give it "
                                   "another name with NAME=%s, if it is another database",
                                   j->from[p].folder, name, j->from[p].folder);
            if (s->sources == PK_SOURCES_MAX)
                return pk_fail(err, PK_EDATA, "more than %d sources together", PK_SOURCES_MAX);
            snprintf(s->source_name[s->sources], PK_NAME_MAX, "%s", name);
            j->part[p].source[i] = s->sources++;
        }
    }
    return PK_OK;
}

static bool same_classes(const struct pk_task *a, const struct pk_task *b)
{
    bool same = a->classes == b->classes;
    for (int32_t k = 0; same && k < a->classes; k++)
        same = !strcmp(a->class_name[k], b->class_name[k]);
    return same;
}

/* Index of the task in the whole; a new one where there is none of this name and these classes. */
static enum pk_status place_task(struct join *j, const struct part *p, const struct pk_task *t,
                                 int32_t *at, struct pk_err *err)
{
    struct pk_corpus_spec *s = &j->spec;
    char name[2 * PK_NAME_MAX];
    snprintf(name, sizeof name, "%s", t->name);
    for (int round = 0; round < 2; round++) {
        for (*at = 0; *at < s->tasks && strcmp(j->task[*at].name, name);) ++*at;
        if (*at < s->tasks && same_classes(&j->task[*at], t)) return PK_OK;
        if (*at == s->tasks) break;
        snprintf(name, sizeof name, "%s.%s", s->source_name[p->source[0]], t->name);
    }
    if (*at < s->tasks || *at == PK_TASKS_MAX || strlen(name) >= PK_NAME_MAX)
        return pk_fail(err, PK_EDATA,
                       "task '%s' has no place: names have at most %d bytes, and a corpus at most "
                       "%d tasks",
                       name, PK_NAME_MAX - 1, PK_TASKS_MAX);
    struct pk_task *to = &j->task[s->tasks++];
    *to = (struct pk_task){.classes = t->classes, .class_name = t->class_name};
    snprintf(to->name, PK_NAME_MAX, "%.31s", name);
    j->first[*at] = j->classes;
    j->classes += t->classes;
    return PK_OK;
}

static enum pk_status join_answers(struct join *j, struct pk_err *err)
{
    struct pk_corpus_spec *s = &j->spec;
    s->task = j->task;
    for (int32_t p = 0; p < j->parts; p++) {
        struct part *part = &j->part[p];
        for (int32_t t = 0, at; t < part->data.tasks; t++) {
            PK_TRY(place_task(j, part, &part->data.task[t], &at, err));
            part->label[t] = j->first[at];
        }
        for (int32_t t = 0; t < part->data.targets; t++) {
            int32_t at = 0;
            const char *name = part->data.target[t].name;
            while (at < s->targets && strcmp(s->target_name[at], name)) at++;
            if (at == PK_TARGETS_MAX)
                return pk_fail(err, PK_EDATA, "more than %d targets together", PK_TARGETS_MAX);
            if (at == s->targets) snprintf(s->target_name[s->targets++], PK_NAME_MAX, "%s", name);
            part->target[t] = at;
        }
    }
    return PK_OK;
}

/* A text of all parts, cut where it does not fit. */
static void join_texts(struct join *j)
{
    struct pk_corpus_spec *s = &j->spec;
    size_t v = 0, n = 0;
    for (int32_t p = 0; p < j->parts; p++) {
        const struct pk_dataset *d = &j->part[p].data;
        const char *name = s->source_name[j->part[p].source[0]];
        if (v < sizeof s->version)
            v += (size_t)snprintf(s->version + v, sizeof s->version - v, "%s%s", p ? " + " : "",
                                  d->version);
        if (n < sizeof s->preprocessing)
            n += (size_t)snprintf(s->preprocessing + n, sizeof s->preprocessing - n, "%s%s: %s",
                                  p ? " | " : "joined; ", name, d->preprocessing);
    }
    if (n >= sizeof s->preprocessing)
        memcpy(s->preprocessing + sizeof s->preprocessing - 4, "...", 4);
    if (v >= sizeof s->version) memcpy(s->version + sizeof s->version - 4, "...", 4);
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Whether two records of the whole have the same identifier. */
static enum pk_status find_doubles(struct join *j, struct pk_err *err)
{
    uint64_t *hash;
    int64_t count = 0, at = 0;
    for (int32_t p = 0; p < j->parts; p++) count += j->part[p].data.count;
    PK_TRY(pk_alloc(&hash, (size_t)count, sizeof *hash, "record identifiers", err));
    for (int32_t p = 0; p < j->parts; p++)
        for (int64_t i = 0; i < j->part[p].data.count; i++) {
            char id[PK_ID_MAX];
            j->part[p].data.record_id(&j->part[p].data, i, id);
            hash[at++] = pk_hash64(id, strlen(id), 0);
        }
    qsort(hash, (size_t)count, sizeof *hash, by_value);
    for (int64_t i = 1; i < count; i++) j->prefix = j->prefix || hash[i] == hash[i - 1];
    free(hash);
    return PK_OK;
}

/* ---- records ---- */

static enum pk_status fill_record(struct join *j, const struct part *p, int64_t index,
                                  struct pk_corpus_record *out, float *target, struct pk_err *err)
{
    const struct pk_dataset *d = &p->data;
    const struct pk_record *r = &d->record[index];
    const size_t n = (size_t)j->spec.samples;
    char id[PK_ID_MAX];
    PK_TRY(d->read(d, index, j->raw, err));
    for (size_t i = 0; i < (size_t)j->spec.leads * n; i++) j->signal[i] = PK_INVALID;
    out->meta = *r;
    out->meta.lead_mask = 0;
    out->meta.source = p->source[r->source];
    for (int32_t l = 0; l < PK_LEADS_MAX; l++) out->meta.scale[l] = 0.001f;
    for (int32_t l = 0; l < d->leads; l++) {
        const int32_t to = p->lead[l];
        memcpy(j->signal + (size_t)to * n, j->raw + (size_t)l * (size_t)d->samples,
               (size_t)d->samples * sizeof *j->raw);
        out->meta.scale[to] = r->scale[l];
        if (r->lead_mask >> l & 1) out->meta.lead_mask |= (uint16_t)(1u << to);
    }
    const char *source = j->spec.source_name[out->meta.source];
    if (r->patient) {
        out->meta.patient =
            pk_hash64(&r->patient, sizeof r->patient, pk_hash64(source, strlen(source), 0));
        out->meta.patient += !out->meta.patient; // 0 would be unknown
    }
    d->record_id(d, index, id);
    if ((size_t)snprintf(out->id, sizeof out->id, "%s%s%s", j->prefix ? source : "",
                         j->prefix ? ":" : "", id) >= sizeof out->id)
        return pk_fail(err, PK_EDATA, "the identifier %s:%s is longer than a corpus holds", source,
                       id);
    memset(j->label, 0, (size_t)j->classes);
    for (int32_t t = 0; t < d->tasks; t++) {
        size_t k = (size_t)d->task[t].classes;
        memcpy(j->label + p->label[t], d->task[t].label + (size_t)index * k, k);
    }
    for (int32_t t = 0; t < PK_TARGETS_MAX; t++) target[t] = NAN;
    for (int32_t t = 0; t < d->targets; t++) target[p->target[t]] = d->target[t].value[index];
    return PK_OK;
}

/* The records of one shard, whose statements are read as a column. */
static enum pk_status add_shard(struct join *j, const struct part *p, const char *folder,
                                int64_t shard, struct pk_err *err)
{
    const struct pk_shard_entry *e = &p->info.shard[shard];
    int64_t rows = e->records, width = 0;
    char path[PK_PATH_MAX], *text = NULL;
    float target[PK_TARGETS_MAX];
    struct pk_corpus_record *out;
    PK_TRY(pk_path(path, err, "%s/%s", folder, e->file));
    PK_TRY(pk_table_read(path, "statements", PK_TABLE_TEXT, &rows, &width, &text, err));
    enum pk_status s = pk_alloc(&out, 1, sizeof *out, "record", err);
    for (int64_t i = 0; i < rows && s == PK_OK; i++) {
        *out = (struct pk_corpus_record){.signal = j->signal, .label = j->label, .target = target};
        s = fill_record(j, p, shard * p->info.shard_capacity + i, out, target, err);
        snprintf(out->statements, sizeof out->statements, "%.*s", (int)width, text + i * width);
        if (s == PK_OK) s = pk_corpus_add(j->writer, out, err);
    }
    free(out);
    free(text);
    return s;
}

static enum pk_status join(struct join *j, const char *out, int64_t *records, struct pk_err *err)
{
    size_t most = 0;
    for (int32_t p = 0; p < j->parts; p++) {
        const char *folder = j->from[p].folder;
        PK_TRY(pk_corpus_open(&j->part[p].data, folder, err));
        PK_TRY(pk_corpus_json_read(folder, &j->part[p].info, err));
        const struct pk_dataset *d = &j->part[p].data;
        most = PK_MAX(most, (size_t)d->leads * (size_t)d->samples);
        *records += d->count;
    }
    PK_TRY(join_units(j, err));
    PK_TRY(join_leads(j, err));
    PK_TRY(join_sources(j, err));
    PK_TRY(join_answers(j, err));
    PK_TRY(find_doubles(j, err));
    join_texts(j);
    PK_TRY(pk_alloc(&j->raw, most, sizeof *j->raw, "record", err));
    PK_TRY(pk_alloc(&j->signal, (size_t)j->spec.leads * (size_t)j->spec.samples, sizeof *j->signal,
                    "record", err));
    PK_TRY(pk_alloc(&j->label, (size_t)j->classes + 1, 1, "labels", err));
    PK_TRY(pk_corpus_create(&j->writer, out, &j->spec, err));
    for (int32_t p = 0; p < j->parts; p++)
        for (int64_t i = 0; i < j->part[p].info.shards; i++)
            PK_TRY(add_shard(j, &j->part[p], j->from[p].folder, i, err));
    struct pk_corpus_writer *w = j->writer;
    j->writer = NULL;
    return pk_corpus_finish(w, err);
}

enum pk_status pk_corpus_join(const char *out, const struct pk_join_part *part, int32_t parts,
                              int64_t shard_records, int64_t *records, struct pk_err *err)
{
    struct join *j;
    *records = 0;
    if (parts < 1 || parts > PK_JOIN_MAX)
        return pk_fail(err, PK_EUSAGE, "%d corpora; 1 to %d can be joined", parts, PK_JOIN_MAX);
    PK_TRY(pk_alloc(&j, 1, sizeof *j, "join", err));
    j->from = part;
    j->spec.shard_records = shard_records;
    enum pk_status s = pk_alloc(&j->part, (size_t)parts, sizeof *j->part, "corpora", err);
    j->parts = s == PK_OK ? parts : 0;
    if (s == PK_OK) s = join(j, out, records, err);
    pk_corpus_abandon(j->writer);
    for (int32_t p = 0; p < j->parts; p++) {
        pk_dataset_free(&j->part[p].data);
        pk_corpus_info_free(&j->part[p].info);
    }
    free(j->part);
    free(j->raw);
    free(j->signal);
    free(j->label);
    free(j);
    return s;
}
