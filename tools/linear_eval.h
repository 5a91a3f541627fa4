/* linear_eval.h -- linear and nearest-neighbour evaluation of frozen embeddings: the protocol, its
 * results, and what is written of them. */
#ifndef PK_LINEAR_EVAL_H
#define PK_LINEAR_EVAL_H

#include "core/knn.h"
#include "tools/embeddings.h"
#include "tools/regression.h"

enum { PK_FRACTIONS_MAX = 16, PK_PENALTIES_MAX = 64 };

struct pk_linear_spec { // what was asked for
    bool knn;
    bool single; // only records with exactly one label; multinomial regression
    int fractions, penalties;
    double percent[PK_FRACTIONS_MAX]; // of the training subjects
    double penalty[PK_PENALTIES_MAX]; // falling
    int32_t folds;                    // of cross-validation
    struct pk_knn_options neighbours;
    uint64_t seed;     // of subsets and shuffles
    int64_t resamples; // of the bootstrap
    uint64_t bootstrap_seed;
    int64_t shuffles; // refits with shuffled labels
    int threads;
    const char *train_folds, *test_folds; // as given
};

struct pk_linear_outcome { // of one fraction
    double percent;
    int64_t *train; // [trains] rows used
    int64_t trains, subjects;
    double penalty;
    struct pk_search search;
    struct pk_standard standard;
    struct pk_linear model;
    double *score;                      // [tests, outputs]
    struct pk_metrics m, prior;         // of a task; prior: every record gets the same scores
    struct pk_regression_result target; // of a target
    double *shuffled; // [shuffles, PK_REGRESSION_SCORES]; of a task the first is the macro AUC
    int64_t shuffles;
};

struct pk_linear_eval {
    struct pk_linear_spec spec;
    const struct pk_dataset *data;
    const struct pk_task *task; // one of the two
    const struct pk_target *target;
    struct pk_rows rows;         // dataset rows of train and test, ascending; owned
    float *embedding;            // [rows.count, width], owned
    struct pk_learning learning; // over those rows
    uint8_t *label;              // owned, as are the following
    double *value;
    uint64_t *subject;
    int64_t *train, *test; // [trains], [tests] indices into rows
    int64_t trains, tests, test_subjects;
    int64_t missing; // rows of the folds without a value of the target
    int64_t unknown; // rows without a patient, each taken as a subject of its own
    struct pk_linear_outcome outcome[PK_FRACTIONS_MAX];
    int outcomes;
};

/* Chooses the records of the two sets of folds that have what is to be learned. e->spec, data, task
 * or target are set.
 * Errors  PK_EUSAGE  a fold on both sides
 *         PK_EDATA   no record on a side; a subject on both sides (records are named) */
enum pk_status pk_linear_eval_rows(struct pk_linear_eval *e, const struct pk_folds *train,
                                   const struct pk_folds *test, struct pk_err *err);
/* Fits and scores every fraction; e->embedding [rows.count, width] is set.
 * Errors  PK_EDATA  embeddings that are not finite, too few subjects, no convergence */
enum pk_status pk_linear_eval_run(struct pk_linear_eval *e, int32_t width, struct pk_err *err);
void pk_linear_eval_free(struct pk_linear_eval *e);

/* JSON of protocol and results; a table for people; and a folder with result.json, the lists of
 * record ids, predictions and models. */
enum pk_status pk_linear_eval_json(struct pk_text *out, const struct pk_linear_eval *e,
                                   const struct pk_embeddings *from, struct pk_err *err);
enum pk_status pk_linear_eval_print(const struct pk_linear_eval *e,
                                    const struct pk_embeddings *from, struct pk_err *err);
enum pk_status pk_linear_eval_save(const struct pk_linear_eval *e, const char *folder,
                                   const struct pk_embeddings *from, struct pk_err *err);

#endif
