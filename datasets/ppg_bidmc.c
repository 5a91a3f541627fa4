/* ppg_bidmc.c -- the BIDMC PPG and Respiration Dataset (Pimentel et al. 2016), CSV edition.
 *
 * bidmc_NN_Signals.csv (Time [s], RESP, PLETH, V, AVR, II ..., 125 Hz), bidmc_NN_Numerics.csv (HR,
 * PULSE, RESP, SpO2, 1 Hz), bidmc_NN_Fix.txt (age, sex, the patient in MIMIC II). Several
 * recordings are of one patient, so the subject is the MIMIC II identifier and not the recording.
 * Times are rounded in the files and only checked; the rate is Fix.txt's. The CSV gives no units:
 * ECG leads are taken as mV. */
#include "datasets/numbers.h"
#include "datasets/ppg_import.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HR, PULSE, RESP, SPO2, AGE, SEX, TARGETS, NUMERICS = AGE };
static const char *const target_name[TARGETS] = {"hr", "pulse", "resp", "spo2", "age", "sex"};
static const char *const numeric_name[NUMERICS + 1] = {"HR", "PULSE", "RESP", "SpO2", "Time [s]"};
static const char *const known[] = {"PPG=PLETH", "I=I",     "II=II", "III=III", "aVR=AVR",
                                    "aVL=AVL",   "aVF=AVF", "V1=V1", "V2=V2",   "V3=V3",
                                    "V4=V4",     "V5=V5",   "V6=V6", "V=V",     NULL};
static const char signals[] = "_Signals.csv";

struct fix { // of bidmc_NN_Fix.txt
    double rate;
    float age, sex;
    char subject[64];
};

/* Text after "KEY" up to the end of its line, or NULL. */
static const char *line_of(const char *text, const char *key, char out[128])
{
    size_t n = strlen(key);
    for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
        if (strncmp(p, key, n)) continue;
        p += n + strspn(p + n, " \t");
        size_t len = strcspn(p, "\r\n");
        while (len && (p[len - 1] == ' ' || p[len - 1] == '\t')) len--;
        snprintf(out, 128, "%.*s", (int)PK_MIN(len, (size_t)127), p);
        return out;
    }
    return NULL;
}

static enum pk_status read_fix(struct fix *f, const char *path, const char *id, struct pk_err *err)
{
    char *text, line[128], *end;
    size_t size;
    double v;
    *f = (struct fix){.rate = 125, .age = NAN, .sex = NAN};
    snprintf(f->subject, sizeof f->subject, "%s", id);
    if (!pk_exists(path)) return PK_OK;
    PK_TRY(pk_read_file(path, 1 << 20, &text, &size, err));
    enum pk_status s = PK_OK;
    if (line_of(text, "Signals sampling frequency:", line)) {
        f->rate = strtod(line, &end);
        if (end == line || strcmp(end, " Hz") || !(f->rate >= 1 && f->rate <= 10000))
            s = pk_fail(err, PK_EDATA,
                        "%s: signals sampling frequency '%s'; e.g. 125 Hz was "
                        "expected",
                        path, line);
    }
    // "90+" and the like stay missing, as does "NaN"
    if (line_of(text, "Age:", line) && pk_parse_f64(line, &v) && v >= 0 && v <= 130)
        f->age = (float)v;
    if (line_of(text, "Gender:", line)) f->sex = *line == 'M' ? 0 : *line == 'F' ? 1 : NAN;
    if (line_of(text, "MIMIC II matched wdb ID:", line) && *line)
        snprintf(f->subject, sizeof f->subject, "%.63s", line);
    free(text);
    return s;
}

/* folder/prefix of a Signals.csv. */
static enum pk_status stem_of(const char *path, char out[PK_PATH_MAX], struct pk_err *err)
{
    return pk_path(out, err, "%.*s", (int)(strlen(path) - strlen(signals)), path);
}

/* The span of the times must be that of so many samples, to 1 %. */
static enum pk_status check_rate(const struct pk_numbers *n, int32_t time, double rate,
                                 struct pk_err *err)
{
    double span = n->value[time][n->rows - 1] - n->value[time][0];
    double want = (double)(n->rows - 1) / rate;
    PK_TRY(pk_ppg_check_times(n, time, false, err));
    if (n->rows < 2 || fabs(span - want) <= 0.01 * want + 0.02) return PK_OK;
    return pk_fail(err, PK_EDATA, "%s: %lld rows in %g s are %g Hz; %g Hz was expected", n->path,
                   (long long)n->rows, span, (double)(n->rows - 1) / span, rate);
}

static enum pk_status take_numerics(struct pk_recording *out, const char *path, struct pk_err *err)
{
    struct pk_numbers n;
    const struct pk_numbers_spec spec = {.delimiter = ',',
                                         .header = true,
                                         .columns = NUMERICS + 1,
                                         .optional = (1u << NUMERICS) - 1,
                                         .column = numeric_name};
    if (!pk_exists(path)) return PK_OK;
    PK_TRY(pk_numbers_load(&n, path, &spec, err));
    enum pk_status s = check_rate(&n, NUMERICS, 1, err);
    for (int32_t k = 0; k < NUMERICS && s == PK_OK; k++) {
        if (!n.value[k]) continue;
        s = pk_ppg_add_series(out, k, n.value[NUMERICS][0], 1, n.value[k], n.rows, err);
        n.value[k] = NULL;
    }
    pk_numbers_free(&n);
    return s;
}

static enum pk_status take_signals(const struct pk_ppg_catalog *c, const char *path, double rate,
                                   struct pk_recording *out, struct pk_err *err)
{
    struct pk_numbers n;
    const char *column[PK_LEADS_MAX + 1] = {"Time [s]"};
    for (int32_t l = 0; l < c->leads; l++) column[1 + l] = c->lead_source[l];
    const struct pk_numbers_spec spec = {.delimiter = ',',
                                         .header = true,
                                         .columns = 1 + c->leads,
                                         .column = column,
                                         .optional =
                                             c->leads > 1 ? ((1u << c->leads) - 1) << 1 : 0};
    PK_TRY(pk_numbers_load(&n, path, &spec, err));
    enum pk_status s = check_rate(&n, 0, rate, err);
    for (int32_t l = 0; l < c->leads && s == PK_OK; l++) {
        if (!n.value[1 + l]) continue;
        s = pk_ppg_add_channel(c, out, l, rate, n.value[1 + l], n.rows, err);
        n.value[1 + l] = NULL;
    }
    if (s == PK_OK && !out->channels)
        s = pk_fail(err, PK_EDATA, "%s has none of the leads asked for", path);
    pk_numbers_free(&n);
    return s;
}

static enum pk_status read(const struct pk_ppg_catalog *c, const struct pk_ppg_item *item,
                           struct pk_recording *out, struct pk_err *err)
{
    char stem[PK_PATH_MAX], path[PK_PATH_MAX];
    struct fix fix;
    PK_TRY(stem_of(item->path, stem, err));
    PK_TRY(pk_path(path, err, "%s_Fix.txt", stem));
    PK_TRY(read_fix(&fix, path, item->id, err));
    PK_TRY(take_signals(c, item->path, fix.rate, out, err));
    PK_TRY(pk_path(path, err, "%s_Numerics.csv", stem));
    return take_numerics(out, path, err);
}

static enum pk_status add(struct pk_ppg_catalog *c, const char *folder, const char *name,
                          const char *expression, struct pk_err *err)
{
    char path[PK_PATH_MAX], stem[PK_PATH_MAX], subject[256];
    struct pk_ppg_item *item;
    struct fix fix;
    PK_TRY(stem_of(name, stem, err));
    const char *slash = strrchr(stem, '/'), *id = slash ? slash + 1 : stem;
    PK_TRY(pk_path(path, err, "%s/%s", folder, name));
    PK_TRY(pk_ppg_add_item(c, id, path, &item, err));
    PK_TRY(pk_path(path, err, "%s/%s_Fix.txt", folder, stem));
    enum pk_status s = read_fix(&fix, path, id, err);
    if (s == PK_OK) s = pk_ppg_subject(subject, expression, name, fix.subject, err);
    if (s == PK_EDATA || s == PK_EIO) return pk_ppg_set_problem(item, err);
    if (s != PK_OK) return s;
    item->patient = pk_subject_hash(c->name, subject);
    item->target[AGE] = fix.age;
    item->target[SEX] = fix.sex;
    return PK_OK;
}

enum pk_status pk_ppg_open_bidmc(struct pk_ppg_catalog *c, const struct pk_ppg_job *job,
                                 struct pk_err *err)
{
    struct pk_file_list files;
    struct pk_err local = {0};
    snprintf(c->name, sizeof c->name, "bidmc");
    snprintf(c->version, sizeof c->version, "BIDMC PPG and Respiration (CSV)");
    c->rate = 125;
    c->window = 10;
    c->targets = TARGETS;
    for (int k = 0; k < TARGETS; k++)
        snprintf(c->target_name[k], PK_NAME_MAX, "%s", target_name[k]);
    c->read = read;
    PK_TRY(pk_ppg_choose_leads(c, job->leads, "PPG", known, err));
    PK_TRY(pk_list_files(&files, job->folder, "*_Signals.csv", err));
    enum pk_status s = PK_OK;
    for (int64_t i = 0; i < files.count && s == PK_OK; i++)
        s = add(c, job->folder, files.name[i], job->subject, &local);
    if (s != PK_OK) pk_fail(err, s, "%s", local.message);
    pk_file_list_free(&files);
    return s;
}
