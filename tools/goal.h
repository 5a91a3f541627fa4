/* goal.h -- what supervised training learns of a record: the classes of a task (goal_classes.c), or
 * numbers (goal_targets.c). The loop, tools/finetune.c, does not know which. */
#ifndef PK_TOOLS_GOAL_H
#define PK_TOOLS_GOAL_H

#include "core/loader.h"
#include "core/npy.h"
#include "tools/evaluate.h"

struct pk_goal;

struct pk_goal_report { // where the scores of a split go; nowhere where another rank leads
    bool leads;
    const char *split; // "validation"
    const struct pk_rows *rows;
    const char *dir; // of the run: SPLIT_scores.npy and what they are compared with
    const struct pk_model_info *info;
    struct pk_json_writer *json;
};

struct pk_goal_kind {
    const char *objective;     // of recipes: "classify"
    const char *metric, *text; // what chooses the checkpoint: "macro_auc", "macro AUC"
    bool falls;                // the lower the better
    const char *selection;     // of the checkpoint, for reports
    /* Columns of a score; PK_ERECIPE when the recipe does not say what to learn. */
    enum pk_status (*columns)(int32_t *out, const struct pk_goal *g, struct pk_err *err);
    /* What is needed of the training and validation rows; may set the loss's weights in the model.
     * batch: records of a step. */
    enum pk_status (*prepare)(struct pk_goal *g, struct pk_classifier *model, int64_t batch,
                              struct pk_err *err);
    void (*describe)(const struct pk_goal *g, struct pk_model_info *m);
    /* What the training program compares its output with; stays valid until the step after next. */
    struct pk_feed (*feed)(struct pk_goal *g, const struct pk_batch *b, int64_t step,
                           int64_t micro);
    /* Scores the validation rows: the metric, or NaN where it is undefined. */
    enum pk_status (*validate)(struct pk_goal *g, struct pk_evaluator *e, double *metric,
                               struct pk_err *err);
    enum pk_status (*report)(struct pk_goal *g, struct pk_evaluator *e,
                             const struct pk_goal_report *to, struct pk_err *err);
    void (*put_protocol)(const struct pk_goal *g, struct pk_json_writer *w);
};
extern const struct pk_goal_kind pk_goal_classes, pk_goal_targets;

struct pk_goal {
    const struct pk_goal_kind *kind;
    const struct pk_recipe *recipe; // borrowed, as are the inputs
    const struct pk_inputs *in;
    int32_t columns;     // classes or targets
    int32_t labels;      // columns of labels in a batch of the loader: classes, else 0
    float *score;        // [validation rows, columns]
    float *class_weight; // [columns] of a balanced loss, or NULL
    uint8_t *label;      // [validation rows, columns]
    float *target[2];    // [batch, columns] of the steps under way, by step % 2
};

/* By objective.kind. Errors  PK_ERECIPE, PK_EDATA  nothing to learn, or no validation row */
enum pk_status pk_goal_open(struct pk_goal *g, const struct pk_recipe *r,
                            const struct pk_inputs *in, struct pk_err *err);
/* After the model is configured. */
enum pk_status pk_goal_prepare(struct pk_goal *g, struct pk_classifier *model, int64_t batch,
                               struct pk_err *err);
void pk_goal_close(struct pk_goal *g);
/* Whether a metric is better than the best so far. NaN never is. */
bool pk_goal_better(const struct pk_goal *g, double metric, double best);
/* Outputs of the model for the rows [rows, columns], aggregated over windows. */
enum pk_status pk_goal_outputs(const struct pk_goal *g, struct pk_evaluator *e,
                               const struct pk_rows *rows, float *out, struct pk_err *err);
/* The recipe's bootstrap with so many resamples. */
struct pk_metrics_options pk_goal_bootstrap(const struct pk_goal *g, const struct pk_evaluator *e,
                                            int64_t resamples);
/* DIR/SPLIT_WHAT.npy, [rows, columns]. */
enum pk_status pk_goal_save(const struct pk_goal *g, const struct pk_goal_report *to,
                            const char *what, enum pk_npy_type type, const void *data,
                            struct pk_err *err);

#endif
