/* ptbxl_import.c -- purkinje data import ptbxl (see ptbxl_import.h). */
#include "datasets/ptbxl_import.h"
#include "core/json.h"
#include "datasets/corpus.h"
#include "datasets/import_part.h"
#include "datasets/lead.h"
#include "datasets/ptbxl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SECONDS = 10, MISSING_SHOWN = 5 };

struct result { // of a worker
    struct pk_lead_rows rows;
    int16_t signal[]; // [12, samples]
};

struct state {
    const struct pk_ptbxl_import *job;
    struct pk_ptbxl_summary *sum;
    struct pk_ptbxl table;
    int64_t *pick; // [present] rows that are imported, in the order of the table
    int64_t present;
    int32_t samples;     // of a record of the corpus
    int32_t source_rate; // Hz
    struct pk_lead_preparation how;
    uint8_t *label; // of one record, all tasks
    struct pk_corpus_writer *writer;
    struct pk_text report_text;
    struct pk_json_writer report;
    char first_problem[400]; // of a record that was rejected
    double last_progress;
};

static const char *file_of(const struct state *st, int64_t row)
{
    const struct pk_ptbxl_row *r = &st->table.row[row];
    return st->source_rate == 500 ? r->file_high : r->file_low;
}

static void report_record(struct state *st, int64_t row, const char *problem, const char *why)
{
    struct pk_json_writer *w = &st->report;
    pk_json_open(w, NULL, '{');
    pk_json_put_string(w, "record", file_of(st, row));
    pk_json_put_i64(w, "line", st->table.row[row].line);
    pk_json_put_i64(w, "fold", st->table.row[row].fold);
    pk_json_put_string(w, "problem", problem);
    pk_json_put_string(w, "why", why);
    pk_json_close(w);
}

/* ---- which records ---- */

/* NULL when the record's two files are there, else the suffix of one that is not. */
static const char *absent(const struct state *st, int64_t row, char path[PK_PATH_MAX])
{
    static const char *const suffix[] = {".hea", ".dat"};
    struct pk_err ignored;
    for (int i = 0; i < 2; i++)
        if (pk_path(path, &ignored, "%s/%s%s", st->job->folder, file_of(st, row), suffix[i]) !=
                PK_OK ||
            !pk_exists(path))
            return suffix[i];
    return NULL;
}

static enum pk_status fail_missing(const struct state *st, const struct pk_text *first,
                                   struct pk_err *err)
{
    return pk_fail(
        err, PK_EMISSING,
        "%lld of %lld records of %s are missing, the first of them %s%s\nhelp: "
        "--allow-missing imports the others and lists these in the report; --folds takes "
        "only the folds you have",
        (long long)st->sum->missing, (long long)st->sum->selected, st->job->folder,
        first->s ? first->s : "", st->sum->missing > MISSING_SHOWN ? ", ..." : "");
}

static enum pk_status choose_records(struct state *st, struct pk_err *err)
{
    struct pk_text first = {0};
    char path[PK_PATH_MAX], why[64];
    enum pk_status s = PK_OK;
    PK_TRY(pk_alloc(&st->pick, (size_t)st->table.count, sizeof *st->pick, "rows", err));
    for (int64_t i = 0; i < st->table.count; i++) {
        if (st->job->folds && !(st->job->folds >> st->table.row[i].fold & 1)) continue;
        st->sum->selected++;
        const char *suffix = absent(st, i, path);
        if (!suffix) {
            st->pick[st->present++] = i;
            continue;
        }
        if (st->sum->missing++ < MISSING_SHOWN)
            pk_text_add(&first, "%s%s%s", first.len ? ", " : "", file_of(st, i), suffix);
        snprintf(why, sizeof why, "its %s file is not there", suffix);
        report_record(st, i, "missing", why);
    }
    if (st->sum->missing && !st->job->allow_missing)
        s = fail_missing(st, &first, err);
    else if (!st->present)
        s = pk_fail(err, PK_EMISSING, "none of the %lld records asked for is in %s",
                    (long long)st->sum->selected, st->job->folder);
    pk_text_free(&first);
    return s;
}

/* An imported record in which not every lead has a signal: absent from its file, without a sample,
 * or constant where leads are standardised. */
static void report_leads(struct state *st, int64_t row, const struct pk_lead_rows *rows)
{
    char why[160];
    size_t used = (size_t)snprintf(why, sizeof why, "no signal in");
    if (rows->lead_mask == (1 << PK_LEADS_ECG) - 1) return;
    for (int l = 0; l < PK_LEADS_ECG; l++)
        if (!(rows->lead_mask >> l & 1))
            used += (size_t)snprintf(why + used, sizeof why - used, " %s", pk_lead_ecg[l]);
    if (rows->quality & PK_QUALITY_FLAT)
        snprintf(why + used, sizeof why - used, " (a lead is constant)");
    report_record(st, row, "leads", why);
    st->sum->incomplete++;
}

/* ---- the three steps of a record ---- */

static enum pk_status convert(void *self, int64_t item, void *slot, struct pk_err *err)
{
    const struct state *st = self;
    struct result *r = slot;
    struct pk_wfdb_record record;
    char path[PK_PATH_MAX];
    r->rows.signal = r->signal;
    PK_TRY(pk_path(path, err, "%s/%s", st->job->folder, file_of(st, st->pick[item])));
    const struct pk_wfdb_options options = {.max_frames = SECONDS * st->source_rate};
    PK_TRY(pk_wfdb_read(&record, path, &options, err));
    enum pk_status s =
        pk_lead_from_wfdb(&r->rows, &record, st->source_rate, st->samples, &st->how, err);
    pk_wfdb_free(&record);
    return s;
}

static void tell_progress(struct state *st, bool last)
{
    double now = pk_seconds();
    int64_t done = st->sum->imported + st->sum->rejected;
    bool due = last || (now - st->last_progress >= 0.2 && done < st->present);
    if (!st->job->progress || !due) return;
    st->last_progress = now;
    st->job->progress(st->job->progress_self, done, st->present, st->sum->rejected);
}

static enum pk_status accept(void *self, int64_t item, const void *slot, FILE *spill,
                             struct pk_err *err)
{
    struct state *st = self;
    (void)spill;
    const struct result *r = slot;
    const struct pk_ptbxl_row *row = &st->table.row[st->pick[item]];
    const char *file = file_of(st, st->pick[item]), *slash = strrchr(file, '/');
    // Nobody is 300 years old: as a number to learn, "over 89" is not known.
    const float age = row->age > 89 ? NAN : row->age;
    const float target[PK_PTBXL_TARGETS] = {age, row->sex};
    struct pk_corpus_record out = {.signal = r->signal, .label = st->label, .target = target};
    out.meta = (struct pk_record){.patient = row->patient,
                                  .length = r->rows.length,
                                  .fold = row->fold,
                                  .lead_mask = r->rows.lead_mask,
                                  .quality = r->rows.quality};
    memcpy(out.meta.scale, r->rows.scale, sizeof out.meta.scale);
    const char *id = slash ? slash + 1 : file;
    if (strlen(id) >= sizeof out.id || strlen(row->statements) >= sizeof out.statements)
        return pk_fail(err, PK_EDATA,
                       "%s:%d: record name or scp_codes is longer than a corpus "
                       "holds (%d and %d bytes)",
                       st->table.database.path, row->line, PK_ID_MAX - 1, PK_STATEMENTS_MAX - 1);
    snprintf(out.id, sizeof out.id, "%s", id);
    snprintf(out.statements, sizeof out.statements, "%s", row->statements);
    uint8_t *label = st->label;
    for (int k = 0; k < PK_PTBXL_TASKS; k++) {
        const struct pk_task *t = &st->table.task[k];
        memcpy(label, t->label + st->pick[item] * t->classes, (size_t)t->classes);
        label += t->classes;
    }
    PK_TRY(pk_corpus_add(st->writer, &out, err));
    report_leads(st, st->pick[item], &r->rows);
    st->sum->imported++;
    tell_progress(st, false);
    return PK_OK;
}

static enum pk_status reject(void *self, int64_t item, const char *why, struct pk_err *err)
{
    struct state *st = self;
    (void)err;
    report_record(st, st->pick[item], "rejected", why);
    if (!st->sum->rejected++)
        snprintf(st->first_problem, sizeof st->first_problem, "%.*s", (int)strcspn(why, "\n"), why);
    tell_progress(st, false);
    return PK_OK;
}

/* ---- the corpus ---- */

static void describe_preparation(const struct state *st, struct pk_corpus_spec *spec)
{
    const struct pk_ptbxl_import *job = st->job;
    char filter[96] = "no filter", rate[64] = "no resampling";
    if (st->how.filtered)
        snprintf(filter, sizeof filter, "Butterworth %g to %g Hz, order 4, forwards and backwards",
                 job->band[0], job->band[1]);
    if (job->rate != st->source_rate)
        snprintf(rate, sizeof rate, "resampled from %d Hz", st->source_rate);
    snprintf(spec->preprocessing, sizeof spec->preprocessing,
             "%s, %s; leads by name; %sint16 with LSB 0.001 %s (larger where a lead would clip); "
             "samples without value interpolated linearly",
             filter, rate,
             job->standardise ? "(x - mean) / std of each record's leads, constant ones left out; "
                              : "",
             job->standardise ? "std" : "mV");
    snprintf(spec->units, sizeof spec->units, "%s", job->standardise ? "std" : "mV");
}

static enum pk_status create_corpus(struct state *st, struct pk_err *err)
{
    struct pk_corpus_spec *spec;
    int32_t classes = 0;
    PK_TRY(pk_alloc(&spec, 1, sizeof *spec, "corpus description", err));
    snprintf(spec->modality, sizeof spec->modality, "ecg");
    snprintf(spec->version, sizeof spec->version, "%s", st->table.version);
    describe_preparation(st, spec);
    spec->rate = st->job->rate;
    spec->leads = PK_LEADS_ECG;
    spec->samples = st->samples;
    for (int l = 0; l < PK_LEADS_ECG; l++)
        memcpy(spec->lead_name[l], pk_lead_ecg[l], sizeof spec->lead_name[l]);
    spec->sources = 1;
    snprintf(spec->source_name[0], PK_NAME_MAX, "ptb-xl");
    spec->tasks = PK_PTBXL_TASKS;
    spec->task = st->table.task;
    spec->targets = PK_PTBXL_TARGETS;
    snprintf(spec->target_name[0], PK_NAME_MAX, "age");
    snprintf(spec->target_name[1], PK_NAME_MAX, "sex");
    spec->shard_records = st->job->shard_records;
    for (int k = 0; k < PK_PTBXL_TASKS; k++) classes += st->table.task[k].classes;
    enum pk_status s = pk_alloc(&st->label, (size_t)classes, 1, "labels", err);
    if (s == PK_OK) s = pk_corpus_create(&st->writer, st->job->out, spec, err);
    free(spec);
    return s;
}

static void open_report(struct state *st)
{
    struct pk_json_writer *w = &st->report;
    *w = (struct pk_json_writer){.out = &st->report_text, .indent = 2};
    pk_json_open(w, NULL, '{');
    pk_json_put_string(w, "source", st->table.version);
    pk_json_put_i64(w, "rate", st->job->rate);
    pk_json_open(w, "folds", '[');
    for (int f = 1; f <= 10; f++)
        if (!st->job->folds || st->job->folds >> f & 1) pk_json_put_i64(w, NULL, f);
    pk_json_close(w);
    pk_json_open(w, "problems", '[');
}

static enum pk_status write_report(struct state *st, struct pk_err *err)
{
    struct pk_json_writer *w = &st->report;
    pk_json_close(w);
    pk_json_put_i64(w, "rows", st->sum->rows);
    pk_json_put_i64(w, "selected", st->sum->selected);
    pk_json_put_i64(w, "missing", st->sum->missing);
    pk_json_put_i64(w, "rejected", st->sum->rejected);
    pk_json_put_i64(w, "imported", st->sum->imported);
    pk_json_put_i64(w, "incomplete", st->sum->incomplete);
    pk_json_close(w);
    pk_text_add(&st->report_text, "\n");
    if (st->report_text.failed) return pk_fail(err, PK_ENOMEM, "out of memory: import report");
    PK_TRY(pk_path(st->sum->report, err, "%s/import_report.json", st->job->out));
    return pk_write_file(st->sum->report, st->report_text.s, st->report_text.len, err);
}

/* Which records, in which order: all ranks must find the same. */
static uint64_t hash_plan(const struct state *st)
{
    uint64_t hash = pk_hash64(st->table.version, strlen(st->table.version), 0);
    for (int64_t i = 0; i < st->present; i++) {
        const char *file = file_of(st, st->pick[i]);
        hash = pk_hash64(file, strlen(file) + 1, hash);
    }
    return hash;
}

/* Everything that comes before the first record. */
static enum pk_status prepare(struct state *st, struct pk_err *err)
{
    const struct pk_ptbxl_import *job = st->job;
    if (job->rate < 10 || job->rate > 2000)
        return pk_fail(err, PK_EINVAL, "rate %d Hz; 10 to 2000 are possible", job->rate);
    if (st->how.filtered)
        PK_TRY(pk_filter_butterworth(&st->how.filter, job->band[0], job->band[1], job->rate, err));
    PK_TRY(pk_resample_ratio(&st->how.up, &st->how.down, st->source_rate, job->rate, err));
    PK_TRY(pk_ptbxl_open(&st->table, job->folder, err));
    st->sum->rows = st->table.count;
    memcpy(st->sum->version, st->table.version, sizeof st->sum->version);
    st->samples = SECONDS * job->rate;
    open_report(st);
    PK_TRY(choose_records(st, err));
    if (!pk_import_leads(job->ranks)) return PK_OK;
    PK_TRY(create_corpus(st, err));
    pk_import_clean(job->out);
    return PK_OK;
}

static enum pk_status finish(struct state *st, struct pk_err *err)
{
    tell_progress(st, true);
    PK_TRY(write_report(st, err)); // also of an import of which nothing was left
    if (!st->sum->imported)
        return pk_fail(err, PK_EDATA, "all %lld records were rejected; %s tells why. The first: %s",
                       (long long)st->sum->rejected, st->sum->report, st->first_problem);
    struct pk_corpus_writer *w = st->writer;
    st->writer = NULL;
    return pk_corpus_finish(w, err);
}

static enum pk_status import(struct state *st, struct pk_err *err)
{
    const struct pk_import pool = {.count = st->present,
                                   .slot_bytes = sizeof(struct result) +
                                                 (size_t)PK_LEADS_ECG * (size_t)st->samples * 2,
                                   .workers = st->job->workers,
                                   .self = st,
                                   .convert = convert,
                                   .accept = accept,
                                   .reject = reject};
    PK_TRY(pk_import_share(&pool, st->job->ranks, st->job->out, hash_plan(st), err));
    return pk_import_leads(st->job->ranks) ? finish(st, err) : PK_OK;
}

enum pk_status pk_ptbxl_import(const struct pk_ptbxl_import *job, struct pk_ptbxl_summary *summary,
                               struct pk_err *err)
{
    *summary = (struct pk_ptbxl_summary){0};
    struct state st = {.job = job,
                       .sum = summary,
                       .source_rate = job->rate == 100 ? 100 : 500,
                       .how = {.filtered = job->band[1] > 0, .standardised = job->standardise}};
    enum pk_status s = pk_import_agree(job->ranks, prepare(&st, err), err);
    if (s == PK_OK) s = pk_import_agree(job->ranks, import(&st, err), err);
    pk_corpus_abandon(st.writer);
    pk_text_free(&st.report_text);
    free(st.label);
    free(st.pick);
    pk_ptbxl_free(&st.table);
    return s;
}
