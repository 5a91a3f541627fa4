/* metrics.h -- scores of multi-label classifiers: ROC AUC, average precision, Fmax, accuracy, and
 * bootstrap intervals.
 *
 *   AUC       P(score of a positive > score of a negative) + P(equal) / 2: mid-rank ties, counted
 * in integers, so equal to sklearn's roc_auc_score but for the last rounding. AP        average
 * precision, sum over distinct scores of (recall step) x precision, as sklearn's
 *             average_precision_score: no interpolation, equal scores are one step.
 *   Fmax      sample-centric, thresholds t = k/100 for k = 0..100; a class is predicted when its
 *             probability >= t. precision(t) = mean over the rows with at least one prediction of
 *             (right predictions / predictions); recall(t) = mean over the rows with at least one
 *             label of (right predictions / labels); F = 2 p r / (p + r); Fmax = the largest F,
 *             at the smallest such t. This reproduces the published Fmax of
 *             helme/ecg_ptbxl_benchmarking (Strodthoff et al. 2021) on its own predictions.
 *   accuracy  rows whose largest score is at the label (the first of equals), for data with
 *             exactly one label per row.
 *
 * A class without a positive or without a negative has no AUC: it is NaN, it is counted in
 * `undefined`, and the macro AUC is then the mean over the others, to be reported as such.
 * Scores are compared as they are; AUC and AP are the same for logits and for probabilities (but
 * a float sigmoid saturates and makes ties). Softmax is not for multi-label scores. */
#ifndef PK_METRICS_H
#define PK_METRICS_H

#include "core/base.h"

struct pk_scores {         // a view; nothing is owned
    int64_t rows;          // at least 1, below 2^30
    int32_t classes;       // at least 1
    const uint8_t *labels; // [rows, classes], each 0 or 1
    const float *f32;      // [rows, classes]; exactly one of f32 and f64 is not NULL
    const double *f64;     // [rows, classes]
};

struct pk_metrics_options {
    int64_t min_positives;   // for macro_auc_frequent; 0 means 10
    int64_t resamples;       // of the bootstrap; 0 for none
    uint64_t seed;           // of the bootstrap
    int threads;             // of the bootstrap; 0 means 1. Results do not depend on it
    double low, high;        // percentiles of the intervals; both 0 mean 2.5 and 97.5 (95 %)
    const uint64_t *subject; // [rows] or NULL; equal keys are one subject, and the bootstrap of
                             // pk_metrics_compute draws whole subjects instead of rows
};

struct pk_interval {
    double mean;      // of the resamples
    double low, high; // percentiles, interpolated linearly (numpy.percentile)
};
/* Of value [n], n >= 1, which is sorted by this; low, high in percent. */
struct pk_interval pk_interval_of(double *value, int64_t n, double low, double high);

struct pk_class_metrics {
    int64_t positives;
    double auc;                  // NaN: no positive or no negative
    double average_precision;    // NaN: no positive
    struct pk_interval interval; // of auc; NaN without a bootstrap
};

struct pk_bootstrap {
    int64_t resamples; // asked for; 0: not run
    bool possible;     // false: a resample could not be found, all intervals are NaN
    int64_t rejected;  // draws thrown away because a class lacked positives or negatives
    int64_t failed_at; // !possible: the first resample that could not be found
    uint64_t seed;
    double low, high; // percentiles
    struct pk_interval macro_auc, macro_auc_frequent;
};

struct pk_metrics {
    int64_t rows;
    int32_t classes;
    struct pk_class_metrics *per_class; // [classes], owned
    int32_t undefined;                  // classes without an AUC
    double macro_auc;                   // mean over the classes - undefined others; NaN if none
    int64_t min_positives;              // as used
    int32_t frequent;                   // classes with an AUC and >= min_positives positives
    double macro_auc_frequent;          // mean over those; NaN if none
    int32_t without_positive;           // classes without an average precision
    double macro_average_precision;     // mean over the others (macro AUPRC)
    bool logits;                        // a score was outside [0, 1]: Fmax used their sigmoids
    double fmax, fmax_threshold;        // NaN: no row has a label
    int64_t rows_not_single;            // rows whose number of labels is not 1
    double accuracy;                    // NaN unless rows_not_single is 0
    struct pk_bootstrap bootstrap;
};

/* Computes everything. Free out with pk_metrics_free, also after a failure.
 * The bootstrap draws rows with replacement (Philox, purpose PK_RNG_BOOTSTRAP, one stream for each
 * resample and attempt) and keeps a draw in which every class that has an AUC still has one; after
 * 10,000 rejected draws for one resample it gives up and says so in out->bootstrap.
 * Errors       PK_EDATA   a score is NaN or infinite, a label is not 0 or 1 (row and class named)
 *              PK_EINVAL  sizes or options out of range
 * Determinism  bitwise, for any number of threads
 * Cost         classes * rows * (log(rows) + resamples), about 3 ns each (one thread) */
enum pk_status pk_metrics_compute(struct pk_metrics *out, const struct pk_scores *in,
                                  const struct pk_metrics_options *options, struct pk_err *err);
void pk_metrics_free(struct pk_metrics *m);

/* 1 / (1 + exp(-x)) without overflow. */
double pk_sigmoid(double x);

/* One score per record from several windows, logits [rows, windows, classes] -> out [rows,
 * classes]. The mean of the logits (JEPA's protocol), in double, then rounded. */
void pk_windows_mean_logit(float *out, const float *logits, int64_t rows, int64_t windows,
                           int64_t classes);
/* The element-wise maximum of the sigmoids (helme's protocol): probabilities, not logits. */
void pk_windows_max_sigmoid(float *out, const float *logits, int64_t rows, int64_t windows,
                            int64_t classes);

#endif
