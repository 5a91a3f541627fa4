/* ppg_wfdb.c -- WFDB records that hold PPG, ECG or both: windows with the leads that are there.
 *
 * Every NAME.hea below DIR is a recording, but for headers that a multi-segment record uses. A lead
 * of the corpus is present in a record when one of its signals is called so (commas and blanks at
 * the end of a description do not count: BIDMC writes "II,"): PPG is PLETH, PPG or BVP. ECG leads
 * must be in volts; PPG may be in any unit. Rates may differ between signals. */
#include "datasets/lead.h"
#include "datasets/ppg_import.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Lead of the corpus that a signal's description names, or -1. */
static int32_t lead_of(const struct pk_ppg_catalog *c, const char *description)
{
    static const char *const ppg[] = {"PLETH", "PPG", "BVP"};
    char name[64];
    snprintf(name, sizeof name, "%s", description);
    for (size_t n = strlen(name); n && strchr(", \t", name[n - 1]); n--) name[n - 1] = 0;
    int32_t standard = pk_lead_index(name);
    for (int32_t l = 0; l < c->leads; l++) {
        if (c->lead_ecg[l]) {
            if (standard >= 0 && !strcmp(pk_lead_ecg[standard], c->lead_name[l])) return l;
            continue;
        }
        for (size_t i = 0; i < PK_COUNT(ppg); i++)
            if (!strcasecmp(name, ppg[i])) return l;
    }
    return -1;
}

static enum pk_status take_channel(const struct pk_ppg_catalog *c, const struct pk_wfdb_record *w,
                                   int32_t index, int32_t lead, struct pk_recording *out,
                                   struct pk_err *err)
{
    const struct pk_wfdb_channel *ch = &w->channel[index];
    double factor = 1, *x;
    if (c->lead_ecg[lead]) {
        factor = pk_lead_millivolts(ch->units);
        if (factor == 0)
            return pk_fail(err, PK_EDATA, "%s: lead %s is in '%.40s', which is not a voltage",
                           w->header.path, c->lead_name[lead], ch->units);
    }
    PK_TRY(pk_alloc(&x, (size_t)ch->count, sizeof *x, "lead", err));
    pk_wfdb_physical(ch, x);
    for (int64_t i = 0; factor != 1 && i < ch->count; i++) x[i] *= factor;
    return pk_ppg_add_channel(c, out, lead, w->header.rate * ch->samples_per_frame, x, ch->count,
                              err);
}

static enum pk_status read(const struct pk_ppg_catalog *c, const struct pk_ppg_item *item,
                           struct pk_recording *out, struct pk_err *err)
{
    struct pk_wfdb_record w;
    PK_TRY(pk_wfdb_read(&w, item->path, NULL, err));
    enum pk_status s = PK_OK;
    for (int32_t i = 0; i < w.channels && s == PK_OK; i++) {
        int32_t lead = lead_of(c, w.channel[i].description);
        if (lead >= 0) s = take_channel(c, &w, i, lead, out, err);
    }
    if (s == PK_OK && !out->channels)
        s = pk_fail(err, PK_EDATA, "%s: none of its %d signals is one of the corpus's leads",
                    w.header.path, w.channels);
    pk_wfdb_free(&w);
    return s;
}

/* True when a multi-segment header of the same folder names it. segments: "folder/name". */
static bool is_segment(const struct pk_file_list *segments, const char *record)
{
    for (int64_t i = 0; i < segments->count; i++)
        if (!strcmp(segments->name[i], record)) return true;
    return false;
}

/* Adds the names of the segments of a header, if it is a multi-segment one. */
static enum pk_status note_segments(struct pk_file_list *out, const char *folder,
                                    const char *record, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    struct pk_wfdb_header h;
    struct pk_err ignored;
    const char *slash = strrchr(record, '/');
    enum pk_status s = PK_OK;
    PK_TRY(pk_path(path, err, "%s/%s", folder, record));
    if (pk_wfdb_header_load(&h, path, &ignored) != PK_OK) return PK_OK; // reading it will tell
    for (int64_t i = 0; i < h.segments && s == PK_OK; i++) {
        s = pk_path(path, err, "%.*s%s", (int)(slash ? slash + 1 - record : 0), record,
                    h.segment[i].name);
        if (s == PK_OK)
            s = pk_grow(&out->name, &out->capacity, out->count + 1, sizeof *out->name, "segments",
                        err);
        if (s == PK_OK && !(out->name[out->count] = pk_strdup(path)))
            s = pk_fail(err, PK_ENOMEM, "out of memory: segments");
        if (s == PK_OK) out->count++;
    }
    pk_wfdb_header_free(&h);
    return s;
}

static enum pk_status add(struct pk_ppg_catalog *c, const struct pk_ppg_job *job,
                          const char *record, struct pk_err *err)
{
    char path[PK_PATH_MAX], id[PK_PATH_MAX], subject[256];
    struct pk_ppg_item *item;
    PK_TRY(pk_path(path, err, "%s/%s", job->folder, record));
    PK_TRY(pk_path(id, err, "%s", record));
    for (char *p = id; *p; p++)
        if (*p == '/') *p = '-';
    PK_TRY(pk_ppg_add_item(c, id, path, &item, err));
    enum pk_status s = pk_ppg_subject(subject, job->subject, record, id, err);
    if (s == PK_EDATA) return pk_ppg_set_problem(item, err);
    if (s == PK_OK) item->patient = pk_subject_hash(c->name, subject);
    return s;
}

static enum pk_status add_all(struct pk_ppg_catalog *c, const struct pk_ppg_job *job,
                              struct pk_file_list *files, struct pk_file_list *segments,
                              struct pk_err *err)
{
    for (int64_t i = 0; i < files->count; i++) {
        files->name[i][strlen(files->name[i]) - 4] = 0; // ".hea"
        PK_TRY(note_segments(segments, job->folder, files->name[i], err));
    }
    for (int64_t i = 0; i < files->count; i++)
        if (!is_segment(segments, files->name[i])) PK_TRY(add(c, job, files->name[i], err));
    return PK_OK;
}

enum pk_status pk_ppg_open_wfdb(struct pk_ppg_catalog *c, const struct pk_ppg_job *job,
                                struct pk_err *err)
{
    static const char *const known[] = {"I=",  "II=", "III=", "aVR=", "aVL=", "aVF=", "V1=",
                                        "V2=", "V3=", "V4=",  "V5=",  "V6=",  "PPG=", NULL};
    struct pk_file_list files, segments = {0};
    struct pk_err local = {0};
    snprintf(c->name, sizeof c->name, "wfdb");
    snprintf(c->version, sizeof c->version, "WFDB records");
    c->rate = 125;
    c->window = 10;
    c->read = read;
    PK_TRY(pk_ppg_choose_leads(c, job->leads, "I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6,PPG", known,
                               err));
    PK_TRY(pk_list_files(&files, job->folder, "?*.hea", err));
    enum pk_status s = add_all(c, job, &files, &segments, &local);
    if (s != PK_OK) pk_fail(err, s, "%s", local.message);
    pk_file_list_free(&files);
    pk_file_list_free(&segments);
    return s;
}
