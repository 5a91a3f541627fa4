/* ppg_import.c -- the import of PPG recordings, whatever their source (see ppg_import.h).
 *
 * A recording has any number of windows, so a worker writes them to a file of its own next to the
 * shards (recording-N.part) and hands on only their number; the parent appends that file to the
 * corpus and removes it. */
#include "datasets/ppg_import.h"
#include "core/json.h"
#include "datasets/fold.h"
#include "datasets/import_part.h"
#include "datasets/lead.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct state {
    const struct pk_ppg_job *job;
    struct pk_ppg_summary *sum;
    struct pk_ppg_catalog catalog;
    struct pk_ppg_options options; // complete
    int32_t samples;
    int64_t *pick, picked; // items without a problem
    int64_t *waiting;      // items whose problem is known already
    int16_t *signal;
    struct pk_corpus_writer *writer;
    struct pk_text report_text;
    struct pk_json_writer report;
    char first_problem[400]; // of a recording that was rejected
    int64_t done;
    double last_progress;
};

struct spill { // a worker's file of windows
    FILE *f;
    const char *path;
    size_t bytes; // of a signal
};

static enum pk_status spill_path(void *self, int64_t item, char path[PK_PATH_MAX],
                                 struct pk_err *err)
{
    const struct state *st = self;
    return pk_path(path, err, "%s/recording-%lld.part", st->job->out, (long long)item);
}

/* ---- in a worker ---- */

static enum pk_status spill_window(void *self, const struct pk_ppg_window *w, const int16_t *signal,
                                   struct pk_err *err)
{
    struct spill *s = self;
    PK_TRY(pk_write(s->f, w, sizeof *w, s->path, err));
    return pk_write(s->f, signal, s->bytes, s->path, err);
}

static enum pk_status convert(void *self, int64_t item, void *slot, struct pk_err *err)
{
    struct state *st = self;
    const struct pk_ppg_catalog *c = &st->catalog;
    const struct pk_ppg_item *it = &c->item[st->pick[item]];
    struct pk_recording r = {0};
    struct pk_ppg_options o = st->options;
    char path[PK_PATH_MAX];
    PK_TRY(spill_path(st, item, path, err));
    enum pk_status s = c->read(c, it, &r, err);
    if (s == PK_OK) {
        struct spill sp = {.path = path,
                           .bytes = (size_t)c->leads * (size_t)st->samples * sizeof(int16_t)};
        s = pk_open(&sp.f, path, "wb", err);
        if (s == PK_OK) s = pk_ppg_windows(&r, &o, c->leads, spill_window, &sp, slot, err);
        if (s != PK_OK) pk_err_context(err, "%s", it->path);
        if (sp.f && fclose(sp.f) != 0 && s == PK_OK)
            s = pk_fail_errno(err, PK_EWRITE, "cannot write %s", path);
    }
    pk_recording_free(&r);
    return s;
}

/* ---- the report ---- */

static void put_problem(struct state *st, const struct pk_ppg_item *it, const char *why)
{
    pk_json_put_string(&st->report, "problem", "rejected");
    pk_json_put_string(&st->report, "why", why);
    if (!*st->first_problem)
        snprintf(st->first_problem, sizeof st->first_problem, "%s: %.*s", it->id,
                 (int)strcspn(why, "\n"), why);
    st->sum->rejected++;
}

static void open_item(struct state *st, const struct pk_ppg_item *it)
{
    pk_json_open(&st->report, NULL, '{');
    pk_json_put_string(&st->report, "recording", it->id);
    pk_json_put_string(&st->report, "file", it->path);
}

static void report_problem(struct state *st, const struct pk_ppg_item *it, const char *why)
{
    open_item(st, it);
    put_problem(st, it, why);
    pk_json_close(&st->report);
}

static void report_windows(struct state *st, const struct pk_ppg_item *it,
                           const struct pk_ppg_counts *n)
{
    struct pk_json_writer *w = &st->report;
    open_item(st, it);
    if (!n->kept)
        put_problem(st, it,
                    n->windows ? "none of its windows is usable" : "it is shorter than a window");
    pk_json_put_i64(w, "windows", n->windows);
    pk_json_put_i64(w, "kept", n->kept);
    pk_json_put_i64(w, "incomplete", n->incomplete);
    pk_json_put_i64(w, "gap", n->gap);
    pk_json_put_i64(w, "flat", n->flat);
    pk_json_put_i64(w, "flipped_channels", n->flipped);
    pk_json_close(w);
}

static void open_report(struct state *st, const char *preprocessing)
{
    struct pk_json_writer *w = &st->report;
    *w = (struct pk_json_writer){.out = &st->report_text, .indent = 2};
    pk_json_open(w, NULL, '{');
    pk_json_put_string(w, "source", st->catalog.version);
    pk_json_put_f64(w, "rate", st->options.rate);
    pk_json_put_f64(w, "window", st->options.window);
    pk_json_put_f64(w, "stride", st->options.stride);
    pk_json_put_string(w, "preprocessing", preprocessing);
    pk_json_put_string(w, "folds", st->job->no_folds ? "none" : "by hash of the subject, 1 to 10");
    pk_json_open(w, "recordings", '[');
}

static enum pk_status write_report(struct state *st, struct pk_err *err)
{
    struct pk_json_writer *w = &st->report;
    const struct pk_ppg_counts *n = &st->sum->counts;
    pk_json_close(w);
    pk_json_put_i64(w, "count", st->sum->recordings);
    pk_json_put_i64(w, "rejected", st->sum->rejected);
    pk_json_put_i64(w, "windows", n->windows);
    pk_json_put_i64(w, "imported", n->kept);
    pk_json_put_i64(w, "incomplete", n->incomplete);
    pk_json_put_i64(w, "gap", n->gap);
    pk_json_put_i64(w, "flat", n->flat);
    pk_json_put_i64(w, "flipped_channels", n->flipped);
    pk_json_close(w);
    pk_text_add(&st->report_text, "\n");
    if (st->report_text.failed) return pk_fail(err, PK_ENOMEM, "out of memory: import report");
    PK_TRY(pk_path(st->sum->report, err, "%s/import_report.json", st->job->out));
    return pk_write_file(st->sum->report, st->report_text.s, st->report_text.len, err);
}

static void tell_progress(struct state *st, bool last)
{
    double now = pk_seconds();
    if (!st->job->progress || (!last && (now - st->last_progress < 0.2 || st->done == st->picked)))
        return;
    st->last_progress = now;
    st->job->progress(st->job->progress_self, st->done, st->picked, st->sum->rejected);
}

/* ---- in the parent ---- */

static enum pk_status add_window(struct state *st, const struct pk_ppg_item *it,
                                 const struct pk_ppg_window *w, struct pk_err *err)
{
    float target[PK_TARGETS_MAX];
    struct pk_corpus_record out = {.signal = st->signal, .label = it->label, .target = target};
    out.meta = (struct pk_record){.patient = it->patient,
                                  .length = st->samples,
                                  .fold = st->job->no_folds ? 0 : pk_fold_of_subject(it->patient),
                                  .lead_mask = w->lead_mask,
                                  .quality = w->quality};
    memcpy(out.meta.scale, w->scale, sizeof out.meta.scale);
    for (int32_t k = 0; k < st->catalog.targets; k++)
        target[k] = isnan(w->target[k]) ? it->target[k] : w->target[k];
    if (st->catalog.one_window)
        snprintf(out.id, sizeof out.id, "%s", it->id);
    else
        snprintf(out.id, sizeof out.id, "%.56s_%05lld", it->id, (long long)w->number);
    if (it->statements) snprintf(out.statements, sizeof out.statements, "%s", it->statements);
    return pk_corpus_add(st->writer, &out, err);
}

static enum pk_status add_windows(struct state *st, const struct pk_ppg_item *it, FILE *f,
                                  int64_t count, struct pk_err *err)
{
    size_t n = (size_t)st->catalog.leads * (size_t)st->samples;
    for (int64_t i = 0; i < count; i++) {
        struct pk_ppg_window w;
        if (fread(&w, sizeof w, 1, f) != 1 || fread(st->signal, sizeof(int16_t), n, f) != n)
            return pk_fail(err, PK_EIO, "the windows of %s in %s are fewer than were written",
                           it->path, st->job->out);
        PK_TRY(add_window(st, it, &w, err));
    }
    return PK_OK;
}

static enum pk_status accept(void *self, int64_t item, const void *slot, FILE *spill,
                             struct pk_err *err)
{
    struct state *st = self;
    const struct pk_ppg_counts *n = slot;
    struct pk_ppg_counts *all = &st->sum->counts;
    const struct pk_ppg_item *it = &st->catalog.item[st->pick[item]];
    PK_TRY(add_windows(st, it, spill, n->kept, err));
    report_windows(st, it, n);
    all->windows += n->windows;
    all->kept += n->kept;
    all->incomplete += n->incomplete;
    all->gap += n->gap;
    all->flat += n->flat;
    all->flipped += n->flipped;
    st->done++;
    tell_progress(st, false);
    return PK_OK;
}

static enum pk_status reject(void *self, int64_t item, const char *why, struct pk_err *err)
{
    struct state *st = self;
    (void)err;
    report_problem(st, &st->catalog.item[st->pick[item]], why);
    st->done++;
    tell_progress(st, false);
    return PK_OK;
}

/* ---- the corpus ---- */

static void describe(const struct state *st, char out[512])
{
    const struct pk_ppg_options *o = &st->options;
    bool ppg = false, ecg = false;
    for (int32_t l = 0; l < st->catalog.leads; l++) *(st->catalog.lead_ecg[l] ? &ecg : &ppg) = true;
    size_t n = (size_t)snprintf(out, 512, "windows of %g s every %g s", o->window, o->stride);
    if (ppg && o->band[1] > 0)
        n += (size_t)snprintf(out + n, 512 - n,
                              "; PPG band-pass %g-%g Hz, Chebyshev-2 order 4, %g dB, zero phase",
                              o->band[0], o->band[1], o->stop_db);
    if (ppg)
        n += (size_t)snprintf(out + n, 512 - n, "; PPG %s; polarity %s",
                              o->zscore ? "z-scored by window, LSB 0.001" : "in the source's units",
                              o->polarity == PK_POLARITY_KEEP   ? "kept"
                              : o->polarity == PK_POLARITY_FLIP ? "turned over"
                                                                : "by skewness");
    if (ecg && o->ecg_band[1] > 0)
        n += (size_t)snprintf(out + n, 512 - n, "; ECG band-pass %g-%g Hz of the same kind",
                              o->ecg_band[0], o->ecg_band[1]);
    snprintf(out + n, 512 - n,
             "; polyphase resampling; gaps up to %g s interpolated; flat share up to %g", o->gap,
             o->flat);
}

static enum pk_status create_corpus(struct state *st, const char *preprocessing, struct pk_err *err)
{
    const struct pk_ppg_catalog *c = &st->catalog;
    struct pk_corpus_spec *spec;
    bool ppg = false, ecg = false;
    PK_TRY(pk_alloc(&spec, 1, sizeof *spec, "corpus description", err));
    for (int32_t l = 0; l < c->leads; l++) {
        *(c->lead_ecg[l] ? &ecg : &ppg) = true;
        memcpy(spec->lead_name[l], c->lead_name[l], sizeof spec->lead_name[l]);
    }
    const char *unit = st->options.zscore ? "z" : "a.u.";
    snprintf(spec->modality, sizeof spec->modality, "%s", !ecg ? "ppg" : ppg ? "ecg+ppg" : "ecg");
    snprintf(spec->version, sizeof spec->version, "%s", c->version);
    snprintf(spec->preprocessing, sizeof spec->preprocessing, "%s", preprocessing);
    snprintf(spec->units, sizeof spec->units, "%s%s%s", ecg ? "mV" : "", ecg && ppg ? ", PPG " : "",
             ppg ? unit : "");
    spec->rate = st->options.rate;
    spec->leads = c->leads;
    spec->samples = st->samples;
    spec->sources = 1;
    snprintf(spec->source_name[0], PK_NAME_MAX, "%s", c->name);
    spec->tasks = c->tasks;
    spec->task = c->task;
    spec->targets = c->targets;
    memcpy(spec->target_name, c->target_name, sizeof spec->target_name);
    spec->shard_records = st->job->shard_records;
    enum pk_status s = pk_corpus_create(&st->writer, st->job->out, spec, err);
    free(spec);
    return s;
}

/* Which recordings, in which order: all ranks must find the same. */
static uint64_t hash_plan(const struct state *st)
{
    const struct pk_ppg_catalog *c = &st->catalog;
    uint64_t hash = pk_hash64(c->version, strlen(c->version), 0);
    for (int64_t i = 0; i < c->count; i++) {
        const struct pk_ppg_item *it = &c->item[i];
        hash = pk_hash64(it->id, strlen(it->id) + 1, hash);
        hash = pk_hash64(it->path, strlen(it->path) + 1, hash);
        if (it->problem) hash = pk_hash64(it->problem, strlen(it->problem), hash);
    }
    return hash;
}

static enum pk_status run_pool(struct state *st, struct pk_err *err)
{
    const struct pk_import pool = {.count = st->picked,
                                   .slot_bytes = sizeof(struct pk_ppg_counts),
                                   .workers = st->job->workers,
                                   .stall_seconds = 600,
                                   .self = st,
                                   .convert = convert,
                                   .spill = spill_path,
                                   .accept = accept,
                                   .reject = reject};
    return pk_import_share(&pool, st->job->ranks, st->job->out, hash_plan(st), err);
}

/* What an import that was killed left behind. */
static void remove_leftovers(const char *out)
{
    struct pk_file_list left;
    char path[PK_PATH_MAX];
    struct pk_err ignored;
    if (pk_list_files(&left, out, "recording-*.part", &ignored) != PK_OK) return;
    for (int64_t i = 0; i < left.count; i++)
        if (!strchr(left.name[i], '/') &&
            pk_path(path, &ignored, "%s/%s", out, left.name[i]) == PK_OK)
            remove(path);
    pk_file_list_free(&left);
    pk_import_clean(out);
}

static enum pk_status prepare(struct state *st, struct pk_err *err)
{
    char preprocessing[512];
    const struct pk_ppg_catalog *c = &st->catalog;
    st->sum->recordings = c->count;
    memcpy(st->sum->version, c->version, sizeof st->sum->version);
    bool ppg = false, ecg = false;
    for (int32_t l = 0; l < c->leads; l++) *(c->lead_ecg[l] ? &ecg : &ppg) = true;
    // a band of leads that there are none of must not refuse a rate
    if (!ppg) st->options.band[0] = st->options.band[1] = 0;
    if (!ecg) st->options.ecg_band[0] = st->options.ecg_band[1] = 0;
    PK_TRY(pk_ppg_check(&st->options, &st->samples, err));
    PK_TRY(pk_alloc(&st->pick, (size_t)c->count, sizeof *st->pick, "recordings", err));
    PK_TRY(pk_alloc(&st->signal, (size_t)c->leads * (size_t)st->samples, sizeof *st->signal,
                    "window", err));
    describe(st, preprocessing);
    if (pk_import_leads(st->job->ranks)) {
        PK_TRY(create_corpus(st, preprocessing, err));
        remove_leftovers(st->job->out);
    }
    open_report(st, preprocessing);
    for (int64_t i = 0; i < c->count; i++)
        if (c->item[i].problem)
            report_problem(st, &c->item[i], c->item[i].problem);
        else
            st->pick[st->picked++] = i;
    return PK_OK;
}

static enum pk_status import(struct state *st, struct pk_err *err)
{
    PK_TRY(run_pool(st, err));
    if (!pk_import_leads(st->job->ranks)) return PK_OK;
    tell_progress(st, true);
    PK_TRY(write_report(st, err)); // also of an import of which nothing was left
    if (!st->sum->counts.kept)
        return pk_fail(err, PK_EDATA,
                       "not one window could be imported from %lld recordings; %s tells why%s%s",
                       (long long)st->sum->recordings, st->sum->report,
                       *st->first_problem ? ". The first: " : "", st->first_problem);
    struct pk_corpus_writer *w = st->writer;
    st->writer = NULL;
    return pk_corpus_finish(w, err);
}

/* The catalog, and what the user has left open. */
static enum pk_status open_source(struct state *st, struct pk_err *err)
{
    const struct pk_ppg_job *job = st->job;
    const struct pk_ppg_source *source = pk_ppg_sources;
    while (source->name && strcmp(source->name, job->source)) source++;
    if (!source->name) return pk_fail(err, PK_EUSAGE, "unknown source '%s'", job->source);
    st->options = job->options;
    PK_TRY(source->open(&st->catalog, job, err));
    if (st->catalog.rate == 0) st->catalog.rate = 125;
    if (st->options.rate == 0) st->options.rate = st->catalog.rate;
    if (job->options.window > 0)
        st->catalog.one_window = false;
    else // the default, in whole samples of whatever rate was chosen
        st->options.window = floor(st->catalog.window * st->options.rate + 1e-6) / st->options.rate;
    if (st->options.stride == 0) st->options.stride = st->options.window;
    if (!st->catalog.count)
        return pk_fail(err, PK_EMISSING, "%s holds nothing of the source '%s' (%s)", job->folder,
                       source->name, source->summary);
    return PK_OK;
}

enum pk_status pk_ppg_import(const struct pk_ppg_job *job, struct pk_ppg_summary *summary,
                             struct pk_err *err)
{
    struct state *st;
    *summary = (struct pk_ppg_summary){0};
    enum pk_status s = pk_alloc(&st, 1, sizeof *st, "import", err);
    if (s == PK_OK) {
        st->job = job;
        st->sum = summary;
        s = open_source(st, err);
        if (s == PK_OK) s = prepare(st, err);
    }
    s = pk_import_agree(job->ranks, s, err);
    if (s == PK_OK) s = pk_import_agree(job->ranks, import(st, err), err);
    if (!st) return s;
    pk_corpus_abandon(st->writer);
    pk_text_free(&st->report_text);
    pk_ppg_catalog_free(&st->catalog);
    free(st->pick);
    free(st->signal);
    free(st);
    return s;
}
