/* ptbxl.c -- rows of ptbxl_database.csv (see ptbxl.h). */
#include "datasets/ptbxl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE_MAX = 256 << 20 }; // bytes; the official table has 6 MB

/* One number for one person in every corpus made from PTB-XL, and unlike other databases' numbers.
 */
static const uint64_t patient_seed = 0x5074622d584c0001u;

enum { ID, PATIENT, AGE, SEX, CODES, FOLD, LOW, HIGH, COLUMNS };
static const char *const columns[COLUMNS] = {
    "ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr"};

static enum pk_status take_number(const struct pk_csv *t, int64_t row, int32_t column, double low,
                                  double high, float *out, struct pk_err *err)
{
    double v;
    PK_TRY(pk_csv_f64(t, row, column, &v, err));
    if (!isnan(v) && !(v >= low && v <= high))
        return pk_csv_fail(t, row, column, 0, err, "%g is outside of %g to %g", v, low, high);
    *out = (float)v;
    return PK_OK;
}

/* Relative path inside the folder; the table is as untrusted as any file. */
static enum pk_status take_path(const struct pk_csv *t, int64_t row, int32_t column,
                                const char **out, struct pk_err *err)
{
    const char *s = *out = pk_csv_text(t, row, column);
    if (!*s || strlen(s) > 255)
        return pk_csv_fail(t, row, column, 0, err, "a path of 1 to 255 bytes was expected");
    if (*s == '/' || !strncmp(s, "../", 3) || strstr(s, "/../"))
        return pk_csv_fail(t, row, column, 0, err, "'%s' is outside of the folder", s);
    return PK_OK;
}

static enum pk_status take_row(const struct pk_csv *t, int64_t i, const int32_t at[COLUMNS],
                               struct pk_ptbxl_row *r, struct pk_err *err)
{
    int64_t patient, fold;
    char text[32];
    PK_TRY(pk_csv_i64(t, i, at[ID], &r->ecg_id, err));
    PK_TRY(pk_csv_i64(t, i, at[PATIENT], &patient, err));
    PK_TRY(pk_csv_i64(t, i, at[FOLD], &fold, err));
    if (fold < 1 || fold > 10)
        return pk_csv_fail(t, i, at[FOLD], 0, err, "fold %lld; 1 to 10 are PTB-XL's",
                           (long long)fold);
    r->fold = (int16_t)fold;
    int n = snprintf(text, sizeof text, "%lld", (long long)patient);
    r->patient = pk_hash64(text, (size_t)n, patient_seed);
    if (r->patient == 0) r->patient = 1; // 0 says "unknown"
    PK_TRY(take_number(t, i, at[AGE], 0, 300, &r->age, err));
    PK_TRY(take_number(t, i, at[SEX], 0, 1, &r->sex, err));
    r->statements = pk_csv_text(t, i, at[CODES]);
    r->line = t->field[i * t->columns].line;
    PK_TRY(take_path(t, i, at[LOW], &r->file_low, err));
    return take_path(t, i, at[HIGH], &r->file_high, err);
}

static int by_id(const void *a, const void *b)
{
    const struct pk_ptbxl_row *const *x = a, *const *y = b;
    return ((*x)->ecg_id > (*y)->ecg_id) - ((*x)->ecg_id < (*y)->ecg_id);
}

/* A doubled row would leak between folds and count twice. */
static enum pk_status check_unique(const struct pk_ptbxl *p, struct pk_err *err)
{
    const struct pk_ptbxl_row **order;
    enum pk_status s = PK_OK;
    PK_TRY(pk_alloc(&order, (size_t)p->count, sizeof *order, "rows", err));
    for (int64_t i = 0; i < p->count; i++) order[i] = &p->row[i];
    qsort(order, (size_t)p->count, sizeof *order, by_id);
    for (int64_t i = 1; i < p->count && s == PK_OK; i++)
        if (order[i]->ecg_id == order[i - 1]->ecg_id)
            s = pk_fail(err, PK_EDATA, "%s: ecg_id %lld is in lines %d and %d", p->database.path,
                        (long long)order[i]->ecg_id, PK_MIN(order[i]->line, order[i - 1]->line),
                        PK_MAX(order[i]->line, order[i - 1]->line));
    free(order);
    return s;
}

static enum pk_status open_tables(struct pk_ptbxl *p, const char *folder, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    int32_t at[COLUMNS];
    PK_TRY(pk_path(path, err, "%s/ptbxl_database.csv", folder));
    PK_TRY(pk_csv_load(&p->database, path, TABLE_MAX, err));
    for (int i = 0; i < COLUMNS; i++) PK_TRY(pk_csv_column(&p->database, columns[i], &at[i], err));
    p->count = p->database.rows;
    if (p->count == 0) return pk_fail(err, PK_EDATA, "%s has no rows", path);
    PK_TRY(pk_alloc(&p->row, (size_t)p->count, sizeof *p->row, "rows", err));
    for (int64_t i = 0; i < p->count; i++) PK_TRY(take_row(&p->database, i, at, &p->row[i], err));
    PK_TRY(check_unique(p, err));
    // releases differ in rows: 38 records were withdrawn in 1.0.3
    snprintf(p->version, sizeof p->version, "PTB-XL%s",
             p->count == 21799   ? " 1.0.3"
             : p->count == 21837 ? " 1.0.1"
                                 : "");
    return pk_ptbxl_label(p, folder, err);
}

enum pk_status pk_ptbxl_open(struct pk_ptbxl *out, const char *folder, struct pk_err *err)
{
    *out = (struct pk_ptbxl){0};
    enum pk_status s = open_tables(out, folder, err);
    if (s != PK_OK) pk_ptbxl_free(out);
    return s;
}

void pk_ptbxl_free(struct pk_ptbxl *p)
{
    for (int i = 0; i < PK_PTBXL_TASKS; i++) {
        free(p->task[i].class_name);
        free(p->task[i].label);
    }
    free(p->row);
    pk_csv_free(&p->database);
    *p = (struct pk_ptbxl){0};
}
