/* metrics_regression.h -- scores of a regression, with bootstrap intervals over subjects.
 *
 *   MAE        mean |p - y|            RMSE  sqrt(mean (p - y)^2)
 *   R2         1 - sum (p - y)^2 / sum (y - mean y)^2, as sklearn's r2_score
 *   Pearson r  of p and y; NaN when either is constant
 *
 * A resample draws whole subjects with replacement, as many as there are, since the records of one
 * person are not independent: intervals over records would be too narrow. */
#ifndef PK_METRICS_REGRESSION_H
#define PK_METRICS_REGRESSION_H

#include "core/metrics.h"

enum pk_regression_score { PK_MAE, PK_RMSE, PK_R2, PK_PEARSON, PK_REGRESSION_SCORES };

struct pk_regression {
    int64_t rows, subjects;
    double mean, deviation; // of y, population
    double value[PK_REGRESSION_SCORES];
    int64_t resamples; // of the bootstrap; 0: not run
    uint64_t seed;
    int64_t undefined[PK_REGRESSION_SCORES]; // resamples left out of the interval
    // NaN without a bootstrap, of one subject, or if all were
    struct pk_interval interval[PK_REGRESSION_SCORES];
};

const char *
pk_regression_score_name(enum pk_regression_score s); // "mae", "rmse", "r2", "pearson_r"

/* y, prediction [rows]; subject [rows]: equal keys are one subject. options: resamples, seed, low
 * and high count. Philox, purpose PK_RNG_BOOTSTRAP, one stream per resample. R2 and r are undefined
 * in a resample without variance, which is then left out of their intervals and counted.
 * Errors  PK_EINVAL rows < 1;  PK_EDATA a value is NaN or infinite;  PK_ENOMEM
 * Cost    resamples * subjects, about 10 ns each */
enum pk_status pk_regression_compute(struct pk_regression *out, const double *y,
                                     const double *prediction, const uint64_t *subject,
                                     int64_t rows, const struct pk_metrics_options *options,
                                     struct pk_err *err);

#endif
