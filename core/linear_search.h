/* linear_search.h -- which rows a linear evaluation learns from, and how strongly it is
 * regularised: folds of subjects, subsets of subjects, and the penalty by cross-validation.
 *
 * A subject is a 64-bit key; rows with equal keys are one person, and never on both sides. */
#ifndef PK_LINEAR_SEARCH_H
#define PK_LINEAR_SEARCH_H

#include "core/linear_model.h"

/* What is learned, for all rows of the features: exactly one of label and value. */
struct pk_learning {
    struct pk_features x;
    const uint8_t *label; // [rows, classes]
    int32_t classes;
    bool multinomial;        // every used row has exactly one label
    const double *value;     // [rows] of a regression; finite in the used rows
    const uint64_t *subject; // [rows]
};

/* Folds of whole subjects, into fold [rows] (0 .. *folds - 1), of the chosen rows: subjects by
 * falling number of rows (equals by rising key), each to the fold with the fewest rows so far (the
 * first of equals). Nothing random. With fewer subjects than *folds there are as many folds as
 * subjects.
 * Errors  PK_EDATA  fewer than two subjects, or *folds < 2;  PK_ENOMEM */
enum pk_status pk_folds_by_subject(int32_t *fold, int32_t *folds, const struct pk_learning *l,
                                   const int64_t *row, int64_t rows, struct pk_err *err);

/* Keeps about `fraction` (0 .. 1] of the subjects of row [*rows], in place, all rows of each.
 * Strata: a subject belongs to the rarest class (fewest subjects, the first of equals) among the
 * labels of its rows, those without any to one stratum of their own; in a regression to one tenth
 * of the subjects, by the mean of its values. Of each stratum the first max(1, round(fraction n))
 * subjects are kept in the order of pk_hash64({seed, subject}), so that every stratum stays present
 * and smaller subsets of one seed lie within larger ones.
 * Errors  PK_EINVAL fraction;  PK_ENOMEM */
enum pk_status pk_subset_by_subject(int64_t *row, int64_t *rows, const struct pk_learning *l,
                                    double fraction, uint64_t seed, struct pk_err *err);

struct pk_search {
    int count; // penalties, as given
    const double *penalty;
    int32_t folds; // as used
    int32_t *fold; // [rows], owned
    double *score; // [count] mean over the folds that count: macro AUC, or - mean squared error
    double *fold_score; // [count, folds]; NaN: no class of the fold has an AUC, it does not count
    int best;           // the first of equals
    bool edge;          // best is the first or the last of several
};

/* Chooses among penalty [count] (give them falling, so that ties go to the strongest): for each
 * fold features are standardised and models fitted on the other folds, and scored on it. A
 * penalty's score is the mean over folds, as scikit-learn's GridSearchCV over a pipeline with a
 * scaler. When no fold has a score the first penalty is taken. One penalty is taken untried. Free
 * with pk_search_free, also after a failure. */
enum pk_status pk_search_penalty(struct pk_search *out, const struct pk_learning *l,
                                 const int64_t *row, int64_t rows, int32_t folds,
                                 const double *penalty, int count, struct pk_pool *pool,
                                 struct pk_err *err);
void pk_search_free(struct pk_search *s);

/* Fits all rows of row [rows] with one penalty. *standard and *model are the caller's to free, also
 * after a failure. */
enum pk_status pk_learn(struct pk_standard *standard, struct pk_linear *model,
                        const struct pk_learning *l, const int64_t *row, int64_t rows,
                        double penalty, struct pk_pool *pool, struct pk_err *err);
/* Predictions for rows: probabilities [rows, classes] or values [rows]. */
enum pk_status pk_apply(double *out, const struct pk_standard *standard,
                        const struct pk_linear *model, const struct pk_learning *l,
                        const int64_t *row, int64_t rows, struct pk_pool *pool, struct pk_err *err);

#endif
