/* targets.h -- the numbers of a corpus that a regression learns: which records have them, their
 * scale, and how well they are predicted. */
#ifndef PK_TOOLS_TARGETS_H
#define PK_TOOLS_TARGETS_H

#include "core/json.h"
#include "core/metrics_regression.h"
#include "core/recipe.h"
#include "tools/rows.h"

enum { PK_LEARNED_TARGETS_MAX = 16 };

struct pk_targets {
    int32_t count;
    const struct pk_target *item[PK_LEARNED_TARGETS_MAX]; // of the dataset
    /* Of the training rows that have a value. A model predicts (value - mean) / std. */
    double mean[PK_LEARNED_TARGETS_MAX], std[PK_LEARNED_TARGETS_MAX];
};

/* Appends the target of this name.
 * Errors  PK_EDATA  there is none (those there are get listed); a record's value is infinite (the
 *                   record is named)
 *         PK_EINVAL more than PK_LEARNED_TARGETS_MAX */
enum pk_status pk_targets_add(struct pk_targets *t, const struct pk_dataset *d, const char *name,
                              struct pk_err *err);
/* Whether a record has a value of one of them; true where there are no targets at all. */
bool pk_targets_known(const struct pk_targets *t, int64_t row);
/* Leaves only rows with a value; PK_EDATA when there are none. */
enum pk_status pk_targets_rows(const struct pk_targets *t, struct pk_rows *rows,
                               struct pk_err *err);
/* Sets mean and std from the training rows. PK_EDATA: fewer than two values, or all alike. */
enum pk_status pk_targets_scale(struct pk_targets *t, const struct pk_rows *train,
                                struct pk_err *err);
/* out [rows, count], by (value - mean) / std where scaled; NaN where missing. */
void pk_targets_take(float *out, const struct pk_targets *t, const int64_t *row, int64_t rows,
                     bool scaled);

/* Outputs of a model [rows, count], scaled, become predictions in the targets' own units. */
void pk_targets_unscale(float *x, const struct pk_targets *t, int64_t rows);

struct pk_regression_result;
/* Scores prediction [rows, count], in the targets' own units, each target on the rows that have it;
 * out [count]. A target without any has rows 0, and NaN for all else. Subjects are patients, or the
 * record where the patient is unknown. */
enum pk_status pk_targets_score(struct pk_regression_result *out, const struct pk_targets *t,
                                const struct pk_dataset *d, const struct pk_rows *rows,
                                const float *prediction, const struct pk_metrics_options *options,
                                struct pk_err *err);
/* Mean over targets with rows of RMSE / std: 1 is what predicting the mean gives. NaN for none. */
double pk_targets_rmse(const struct pk_targets *t, const struct pk_regression_result *result);
/* The scores of one split as a JSON object, and as a table for people. */
void pk_targets_put(struct pk_json_writer *w, const char *key, const struct pk_targets *t,
                    const struct pk_regression_result *result);
void pk_targets_print(const char *title, const struct pk_targets *t,
                      const struct pk_regression_result *result);

#endif
