/* ppg_bp.c -- PPG-BP (Liang, Chen, Liu and Elgendi 2018): finger PPG and blood pressure.
 *
 * Segments 0_subject/SUBJECT_SEGMENT.txt of 2100 numbers (2.1 s at 1 kHz, up to three a subject)
 * and the subjects' table as CSV (subjects.csv: the sheet of the original .xlsx). The record's
 * targets are the subject's; tasks are the stage of hypertension and whether diabetes is noted. */
#include "datasets/csv.h"
#include "datasets/numbers.h"
#include "datasets/ppg_import.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 2100, RATE = 1000, TABLE_MAX = 16 << 20 };
enum { SBP, DBP, HR, AGE, SEX, HEIGHT, WEIGHT, BMI, TARGETS };
static const char *const target_name[TARGETS] = {"sbp", "dbp",    "hr",     "age",
                                                 "sex", "height", "weight", "bmi"};
static const char *const column_name[TARGETS] = {"Systolic Blood Pressure(mmHg)",
                                                 "Diastolic Blood Pressure(mmHg)",
                                                 "Heart Rate(b/m)",
                                                 "Age(year)",
                                                 "Sex(M/F)",
                                                 "Height(cm)",
                                                 "Weight(kg)",
                                                 "BMI(kg/m^2)"};
static const char *const stage[] = {"Normal", "Prehypertension", "Stage 1 hypertension",
                                    "Stage 2 hypertension"};
static const char *const diabetes[] = {"Diabetes", "None"};
static const char *const note[] = {"Hypertension", "Diabetes", "cerebral infarction",
                                   "cerebrovascular disease"};
enum { STAGES = PK_COUNT(stage), LABELS = STAGES + 2, NOTES = PK_COUNT(note) };

struct table {
    struct pk_csv csv;
    int32_t id, target[TARGETS], note[NOTES];
    bool *used; // [rows] has a segment
};

static enum pk_status read(const struct pk_ppg_catalog *c, const struct pk_ppg_item *item,
                           struct pk_recording *out, struct pk_err *err)
{
    double *x;
    int64_t n;
    PK_TRY(pk_numbers_list(&x, &n, item->path, err));
    if (n == SAMPLES) return pk_ppg_add_channel(c, out, 0, RATE, x, n, err);
    free(x);
    return pk_fail(err, PK_EDATA, "%s has %lld numbers; a segment is 2100, 2.1 s at 1 kHz",
                   item->path, (long long)n);
}

static enum pk_status open_table(struct table *t, const char *folder, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    PK_TRY(pk_path(path, err, "%s/subjects.csv", folder));
    PK_TRY(pk_csv_load(&t->csv, path, TABLE_MAX, err));
    PK_TRY(pk_csv_column(&t->csv, "subject_ID", &t->id, err));
    for (int k = 0; k < TARGETS; k++)
        PK_TRY(pk_csv_column(&t->csv, column_name[k], &t->target[k], err));
    for (int k = 0; k < (int)NOTES; k++) PK_TRY(pk_csv_column(&t->csv, note[k], &t->note[k], err));
    PK_TRY(pk_alloc(&t->used, (size_t)t->csv.rows, sizeof *t->used, "subjects", err));
    for (int64_t i = 0; i < t->csv.rows; i++)
        for (int64_t k = 0; k < i; k++)
            if (!strcmp(pk_csv_text(&t->csv, i, t->id), pk_csv_text(&t->csv, k, t->id)))
                return pk_csv_fail(&t->csv, i, t->id, 0, err, "subject %s is in two rows",
                                   pk_csv_text(&t->csv, i, t->id));
    return PK_OK;
}

static enum pk_status take_row(const struct table *t, int64_t row, struct pk_ppg_item *item,
                               struct pk_err *err)
{
    const struct pk_csv *v = &t->csv;
    struct pk_text notes = {0};
    double x;
    int k;
    for (k = 0; k < TARGETS; k++) {
        if (k == SEX) {
            const char *s = pk_csv_text(v, row, t->target[k]);
            if (*s && strcmp(s, "Male") && strcmp(s, "Female"))
                return pk_csv_fail(v, row, t->target[k], 0, err, "'%s' is not Male or Female", s);
            x = *s ? *s == 'F' : NAN;
        } else {
            PK_TRY(pk_csv_f64(v, row, t->target[k], &x, err));
        }
        item->target[k] = (float)x;
    }
    PK_TRY(pk_alloc(&item->label, LABELS, 1, "labels", err));
    const char *s = pk_csv_text(v, row, t->note[0]);
    for (k = 0; k < STAGES && strcmp(stage[k], s); k++) continue;
    if (k == STAGES && *s)
        return pk_csv_fail(v, row, t->note[0], 0, err, "'%s' is no stage of hypertension", s);
    if (*s) item->label[k] = 1;
    item->label[STAGES + !*pk_csv_text(v, row, t->note[1])] = 1;
    for (k = 0; k < (int)NOTES; k++) {
        s = pk_csv_text(v, row, t->note[k]);
        if (*s) pk_text_add(&notes, "%s%s", notes.len ? "; " : "", s);
    }
    if (notes.failed) return pk_fail(err, PK_ENOMEM, "out of memory: labels");
    item->statements = notes.s;
    return PK_OK;
}

static enum pk_status add(struct pk_ppg_catalog *c, struct table *t, const char *folder,
                          const char *name, struct pk_err *err)
{
    char path[PK_PATH_MAX], id[PK_ID_MAX], subject[PK_ID_MAX];
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
    const char *line = strchr(base, '_');
    struct pk_ppg_item *item;
    int64_t row = 0;
    PK_TRY(pk_path(path, err, "%s/%s", folder, name));
    snprintf(id, sizeof id, "%.*s", (int)PK_MIN(strlen(base) - 4, sizeof id - 8), base);
    snprintf(subject, sizeof subject, "%.*s", (int)(line ? line - base : 0), base);
    PK_TRY(pk_ppg_add_item(c, id, path, &item, err));
    while (row < t->csv.rows && strcmp(pk_csv_text(&t->csv, row, t->id), subject)) row++;
    if (row == t->csv.rows) {
        pk_fail(err, PK_EDATA, "%s: subject '%s' is not in %s", path, subject, t->csv.path);
        return pk_ppg_set_problem(item, err);
    }
    t->used[row] = true;
    item->patient = pk_subject_hash(c->name, subject);
    return take_row(t, row, item, err);
}

/* A subject without a segment is reported, too. */
static enum pk_status add_missing(struct pk_ppg_catalog *c, const struct table *t,
                                  struct pk_err *err)
{
    struct pk_ppg_item *item;
    for (int64_t i = 0; i < t->csv.rows; i++) {
        if (t->used[i]) continue;
        PK_TRY(pk_ppg_add_item(c, pk_csv_text(&t->csv, i, t->id), t->csv.path, &item, err));
        pk_csv_fail(&t->csv, i, t->id, 0, err, "there is no segment of subject %s", item->id);
        PK_TRY(pk_ppg_set_problem(item, err));
    }
    return PK_OK;
}

enum pk_status pk_ppg_open_ppgbp(struct pk_ppg_catalog *c, const struct pk_ppg_job *job,
                                 struct pk_err *err)
{
    static const char *const known[] = {"PPG=PPG", NULL};
    struct pk_file_list files = {0};
    struct table t = {0};
    struct pk_err local = {0};
    snprintf(c->name, sizeof c->name, "ppg-bp");
    snprintf(c->version, sizeof c->version, "PPG-BP (Liang et al. 2018)");
    c->rate = 125;
    c->window = 2.1;
    c->one_window = true;
    c->targets = TARGETS;
    for (int k = 0; k < TARGETS; k++)
        snprintf(c->target_name[k], PK_NAME_MAX, "%s", target_name[k]);
    c->read = read;
    PK_TRY(pk_ppg_add_task(c, "hypertension", STAGES, stage, err));
    PK_TRY(pk_ppg_add_task(c, "diabetes", 2, diabetes, err));
    PK_TRY(pk_ppg_choose_leads(c, job->leads, "PPG", known, err));
    enum pk_status s = open_table(&t, job->folder, &local);
    if (s == PK_OK) s = pk_list_files(&files, job->folder, "[0-9]*_[0-9]*.txt", &local);
    for (int64_t i = 0; i < files.count && s == PK_OK; i++)
        s = add(c, &t, job->folder, files.name[i], &local);
    if (s == PK_OK && files.count) s = add_missing(c, &t, &local);
    if (s != PK_OK) pk_fail(err, s, "%s", local.message);
    pk_csv_free(&t.csv);
    free(t.used);
    pk_file_list_free(&files);
    return s;
}
