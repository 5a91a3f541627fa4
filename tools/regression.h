/* regression.h -- predictions of a number, scored beside the level of knowing nothing of the
 * signal, which is predicting the mean of the training records. */
#ifndef PK_TOOLS_REGRESSION_H
#define PK_TOOLS_REGRESSION_H

#include "core/json.h"
#include "core/metrics_regression.h"

enum { PK_VERDICT_SUBJECTS = 10 }; // with fewer, intervals are far too narrow to say anything

struct pk_regression_truth { // of the records that have a value; borrowed
    int64_t rows;
    const double *value;     // [rows]
    const uint64_t *subject; // [rows]; equal keys are one subject
    double level;            // mean of the training records
};

struct pk_regression_result {
    struct pk_regression r, mean;     // of the predictions; of predicting the level
    double gain;                      // how far r's MAE is below mean's
    struct pk_interval gain_interval; // subjects resampled, both predictions of each together
};

/* prediction [rows]. options: resamples, seed, low and high count.
 * Errors  those of pk_regression_compute */
enum pk_status pk_regression_score(struct pk_regression_result *out,
                                   const struct pk_regression_truth *t, const double *prediction,
                                   const struct pk_metrics_options *options, struct pk_err *err);

/* What an interval says beside the level of chance; NULL without an interval. */
const char *pk_verdict_beside(const struct pk_interval *i, double chance, int64_t subjects);
const char *pk_regression_verdict(const struct pk_regression_result *r);
/* " mmHg" of the targets that the importers call so (docs/ppg.md); "" for any other. */
const char *pk_target_unit(const char *target);

/* The scores as a JSON object. */
void pk_regression_put(struct pk_json_writer *w, const char *key, const struct pk_regression *r);
/* Members of the object "chance": verdict, the level's scores, gain. */
void pk_regression_put_chance(struct pk_json_writer *w, const struct pk_regression_result *r);
/* A row of the table for people, without the end of the line. */
void pk_regression_print_score(const struct pk_regression_result *r, enum pk_regression_score k);
/* "  in words: MAE 5.7 [5.1, 6.3] years; ..."; nothing without an interval. */
void pk_regression_print_words(const struct pk_regression_result *r, const char *target);

#endif
