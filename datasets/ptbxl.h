/* ptbxl.h -- the tables of PTB-XL (Wagner et al. 2020): rows, folds, patients and the six
 * labellings.
 *
 * Reads ptbxl_database.csv and scp_statements.csv of a PTB-XL folder. The tasks are those of
 * Strodthoff et al. 2021 (helme/ecg_ptbxl_benchmarking): every statement counts whatever its
 * likelihood, classes are sorted by their bytes, none is dropped; a row of zeros has no label of
 * the task and is for the user of the task to leave out. */
#ifndef PK_PTBXL_H
#define PK_PTBXL_H

#include "core/data.h"
#include "datasets/csv.h"

enum {
    PK_PTBXL_TASKS = 6,       // all diagnostic subdiagnostic superdiagnostic form rhythm
    PK_PTBXL_TARGETS = 2,     // age sex
    PK_PTBXL_STATEMENTS = 256 // most statements of scp_statements.csv, and of a row
};

struct pk_ptbxl_row {
    int64_t ecg_id;
    uint64_t patient;       // hash of the patient's number, never 0
    int16_t fold;           // strat_fold, 1..10
    float age;              // years, as in the table: 300 stands for "over 89". NaN if missing
    float sex;              // 0 male, 1 female (the table's code). NaN if missing
    const char *statements; // scp_codes as written
    const char *file_low;   // filename_lr: record at 100 Hz, relative to the folder
    const char *file_high;  // filename_hr: record at 500 Hz
    int32_t line;           // in ptbxl_database.csv
};

struct pk_ptbxl {
    char version[64]; // "PTB-XL 1.0.3" where the number of rows tells it
    int64_t count;
    struct pk_ptbxl_row *row;            // [count], in the order of the table
    struct pk_task task[PK_PTBXL_TASKS]; // labels [count, classes]
    struct pk_csv database;              // owns the texts
};

/* Reads and checks both tables.
 * Errors  PK_EIO    a table is missing
 *         PK_EDATA  a column is missing (the message lists those that are there), a value is not
 *                   what the column holds, a statement is unknown: file:line:column */
enum pk_status pk_ptbxl_open(struct pk_ptbxl *out, const char *folder, struct pk_err *err);
void pk_ptbxl_free(struct pk_ptbxl *p); // safe on a zeroed struct

/* ---- ptbxl_labels.c ---- */

struct pk_scp_code {
    char name[PK_NAME_MAX];
    double likelihood;
};

/* Parses a Python dict of strings to numbers, "{'NORM': 100.0, 'SR': 0.0}". Strict: no escapes, no
 * duplicate keys, nothing before or after. On failure *column is the byte where it went wrong and
 * the message has no position. codes [PK_PTBXL_STATEMENTS]. */
enum pk_status pk_scp_parse(const char *text, struct pk_scp_code *codes, int32_t *count,
                            int32_t *column, struct pk_err *err);

/* Fills out->task from scp_statements.csv and the rows' statements. */
enum pk_status pk_ptbxl_label(struct pk_ptbxl *out, const char *folder, struct pk_err *err);

#endif
