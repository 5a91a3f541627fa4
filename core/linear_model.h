/* linear_model.h -- ridge and logistic regression on fixed features: what researchers mean by
 * linear evaluation of frozen embeddings, in double precision and to convergence.
 *
 *   ridge     minimises  sum_i (y_i - z_i.w - b)^2 + penalty |w|^2
 *   logistic  minimises  sum_i loss_i + penalty/2 |w|^2, with for each output (one-vs-rest)
 *             loss = log(1 + exp(z.w + b)) - y (z.w + b), or over all outputs (multinomial)
 *             loss = log sum_k exp(z.w_k + b_k) - (z.w_y + b_y)
 *
 * The intercept b is not penalised; z are standardised features. `penalty` is scikit-learn's alpha
 * of Ridge, and 1 / C of LogisticRegression. Both are strictly convex in w, so there is one answer,
 * and the way to it (below) is nobody's hyperparameter. Results are the same bits for any number of
 * threads; `pool` may be NULL. */
#ifndef PK_LINEAR_MODEL_H
#define PK_LINEAR_MODEL_H

#include "core/thread.h"

struct pk_features { // a view of embeddings, one row per record
    int64_t rows;
    int32_t features;
    const float *x; // [rows, features], finite
};

struct pk_standard { // z = (x - mean) / scale
    int32_t features;
    double *mean, *scale; // [features], owned; scale is the population deviation
};

struct pk_design { // standardised rows
    int64_t rows;
    int32_t features;
    double *z; // [rows, features], owned
};

struct pk_linear {
    int32_t features, outputs;
    double *weight;    // [outputs, features], of standardised features; owned
    double *intercept; // [outputs], owned
    bool *constant;    // [outputs]: nothing could be learned (a class without one of both labels)
    double penalty;
    int32_t iterations; // of logistic regression: the most of all outputs
    double gradient;    // its largest component left (of the loss summed over rows)
};

/* Mean and deviation of the rows `row` [rows] of x. A feature whose variance is rounding error only
 * (sklearn's rule: variance <= n eps variance + (n mean eps)^2) gets scale 1.
 * Errors  PK_EDATA   a value is NaN or infinite (row and feature named), no row;  PK_ENOMEM */
enum pk_status pk_standard_fit(struct pk_standard *out, const struct pk_features *x,
                               const int64_t *row, int64_t rows, struct pk_err *err);
void pk_standard_free(struct pk_standard *s);
/* The chosen rows, standardised. Errors as above. */
enum pk_status pk_design_make(struct pk_design *out, const struct pk_standard *s,
                              const struct pk_features *x, const int64_t *row, int64_t rows,
                              struct pk_err *err);
void pk_design_free(struct pk_design *d);

/* Ridge regression for each of penalty [count] (> 0), into out [count]; y [rows], finite. z must be
 * standardised by its own rows. Solved by Cholesky: the normal equations (features^2), or their
 * dual (rows^2) when rows < features; one Gram matrix serves all penalties.
 * Errors  PK_EINVAL a penalty that is not > 0;  PK_EDATA;  PK_ENOMEM. Free each with
 *         pk_linear_free, also after a failure. */
enum pk_status pk_ridge_path(struct pk_linear *out, const struct pk_design *z, const double *y,
                             const double *penalty, int count, struct pk_pool *pool,
                             struct pk_err *err);

struct pk_logistic_options {
    bool multinomial;   // every row has exactly one label; else one-vs-rest, any number of labels
    double tolerance;   // 0: 1e-8
    int32_t iterations; // limit for each penalty; 0: 2000
};

/* Logistic regression for each of penalty [count] (> 0), each starting from the one before, so
 * give them falling; label [rows, outputs], 0 or 1. L-BFGS preconditioned by Boehning and Lindsay's
 * bound of the Hessian, transpose(z) z / 4 + penalty (1988), for each output on its own
 * (one-vs-rest) or for all at once (multinomial), until the largest component of the gradient is
 * below tolerance * min(1, penalty); |w - optimum| is then at most sqrt(features) * tolerance. The
 * target is not below 16 eps rows, what the sum over rows resolves, and where the loss no longer
 * falls for rounding a gradient within 1000 times the target is taken; `gradient` says which it is.
 * One-vs-rest output without a positive or a negative: `constant`, weight 0, intercept
 * log((positives + 1) / (negatives + 1)). Multinomial output without a row: `constant`, weight 0
 * and probability 0 (its intercept is not used).
 * Errors  PK_EINVAL a penalty that is not > 0;  PK_EDATA a row of a multinomial without exactly one
 *         label, or no convergence within the limit;  PK_ENOMEM */
enum pk_status pk_logistic_path(struct pk_linear *out, const struct pk_design *z,
                                const uint8_t *label, int32_t outputs, const double *penalty,
                                int count, const struct pk_logistic_options *options,
                                struct pk_pool *pool, struct pk_err *err);

void pk_linear_free(struct pk_linear *m);
/* z.w + b, out [rows, outputs]. */
void pk_linear_scores(double *out, const struct pk_linear *m, const struct pk_design *z,
                      struct pk_pool *pool);
/* The same as probabilities: sigmoid of each, or softmax over the outputs that are not constant. */
void pk_logistic_probabilities(double *out, const struct pk_linear *m, const struct pk_design *z,
                               bool multinomial, struct pk_pool *pool);

/* transpose(z) z, or z transpose(z) when rows < features: shared by the two solvers. */
struct pk_gram {
    bool dual;
    int64_t order;   // features, or rows when dual
    double *g;       // [order, order], lower triangle; owned
    double *factor;  // of scale g + shift, see pk_gram_factor; owned
    double *scratch; // [order]
    double scale, shift;
    const struct pk_design *z; // borrowed
};
enum pk_status pk_gram_make(struct pk_gram *out, const struct pk_design *z, struct pk_pool *pool,
                            struct pk_err *err);
enum pk_status pk_gram_factor(struct pk_gram *g, double scale, double shift, struct pk_err *err);
/* v := inverse(scale transpose(z) z + shift) v; v [features]. */
void pk_gram_solve(struct pk_gram *g, double *v);
void pk_gram_free(struct pk_gram *g);

enum pk_status pk_linear_alloc(struct pk_linear *m, int32_t features, int32_t outputs,
                               struct pk_err *err);

#endif
