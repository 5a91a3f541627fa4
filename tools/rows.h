/* rows.h -- which records of a dataset a run or a command takes: by fold, label and source. */
#ifndef PK_ROWS_H
#define PK_ROWS_H

#include "core/data.h"

enum { PK_FOLD_MAX = 127 }; // the highest number of a fold that can be chosen

struct pk_rows {
    int64_t *row; // [count] record indices, ascending; owned
    int64_t count;
};

struct pk_folds { // a set of folds
    bool all;     // every record, also one without a fold
    uint64_t bits[2];
};

/* Parses what --folds was given, such as "9" or "1-8,10"; NULL takes all records. most: the highest
 * fold there is, at most PK_FOLD_MAX. Errors  PK_EUSAGE */
enum pk_status pk_folds_parse(struct pk_folds *out, const char *text, int most, struct pk_err *err);
/* Records of these folds and this source (-1: of all); with a task only those with a label, with
 * `single` exactly one. Free out->row.
 * Errors  PK_EDATA  no record is left;  PK_ENOMEM */
enum pk_status pk_rows_select(struct pk_rows *out, const struct pk_dataset *d,
                              const struct pk_folds *folds, int32_t source,
                              const struct pk_task *task, bool single, struct pk_err *err);

/* Whether a record has a label of the task, with `single` exactly one. True without a task. */
bool pk_row_labelled(const struct pk_task *task, int64_t row, bool single);
/* Key of the subject: the patient, or the record itself where that is unknown. */
uint64_t pk_row_subject(const struct pk_dataset *d, int64_t row);
/* The task of this name; PK_EDATA, listing those there are, when there is none. */
enum pk_status pk_task_find(const struct pk_task **out, const struct pk_dataset *d,
                            const char *name, struct pk_err *err);

#endif
