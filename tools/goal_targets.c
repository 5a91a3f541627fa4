/* goal_targets.c -- learning numbers: what the corpus measured beside the signal, in deviations of
 * the training records, missing values left out (see goal.h). */
#include "tools/goal.h"
#include "tools/regression.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum pk_status columns(int32_t *out, const struct pk_goal *g, struct pk_err *err)
{
    if (!g->in->targets.count)
        return pk_fail(err, PK_ERECIPE, "data.targets is empty: which numbers are to be learned?");
    *out = g->in->targets.count;
    return PK_OK;
}

static enum pk_status prepare(struct pk_goal *g, struct pk_classifier *model, int64_t batch,
                              struct pk_err *err)
{
    const size_t n = (size_t)batch * (size_t)g->columns;
    (void)model;
    for (int i = 0; i < 2; i++)
        PK_TRY(pk_alloc(&g->target[i], n, sizeof *g->target[i], "targets of a batch", err));
    return PK_OK;
}

static void describe(const struct pk_goal *g, struct pk_model_info *m)
{
    const struct pk_targets *t = &g->in->targets;
    m->regresses = true;
    for (int32_t k = 0; k < t->count; k++) {
        memcpy(m->class_name[k], t->item[k]->name, sizeof m->class_name[k]);
        m->target_mean[k] = t->mean[k];
        m->target_std[k] = t->std[k];
    }
}

static struct pk_feed feed(struct pk_goal *g, const struct pk_batch *b, int64_t step, int64_t micro)
{
    float *target = g->target[step % 2]; // a device may still read the one before
    pk_targets_take(target, &g->in->targets, b->row, b->n, true);
    return (struct pk_feed){"target", target, (size_t)micro * (size_t)g->columns * sizeof *target};
}

/* Predictions of the rows in the targets' own units, and their scores. */
static enum pk_status score_rows(const struct pk_goal *g, struct pk_evaluator *e,
                                 const struct pk_rows *rows, float *prediction, int64_t resamples,
                                 struct pk_regression_result *out, struct pk_err *err)
{
    const struct pk_metrics_options o = pk_goal_bootstrap(g, e, resamples);
    const struct pk_targets *t = &g->in->targets;
    PK_TRY(pk_goal_outputs(g, e, rows, prediction, err));
    pk_targets_unscale(prediction, t, rows->count);
    return pk_targets_score(out, t, &g->in->data, rows, prediction, &o, err);
}

static enum pk_status validate(struct pk_goal *g, struct pk_evaluator *e, double *metric,
                               struct pk_err *err)
{
    struct pk_regression_result result[PK_LEARNED_TARGETS_MAX];
    PK_TRY(score_rows(g, e, &g->in->validation, g->score, 0, result, err));
    *metric = pk_targets_rmse(&g->in->targets, result);
    return PK_OK;
}

static enum pk_status report(struct pk_goal *g, struct pk_evaluator *e,
                             const struct pk_goal_report *to, struct pk_err *err)
{
    struct pk_regression_result result[PK_LEARNED_TARGETS_MAX];
    float *prediction = NULL, *truth = NULL;
    const struct pk_targets *t = &g->in->targets;
    const size_t n = (size_t)to->rows->count * (size_t)g->columns;
    enum pk_status s = pk_alloc(&prediction, n, sizeof *prediction, "predictions", err);
    if (s == PK_OK) s = pk_alloc(&truth, n, sizeof *truth, "targets", err);
    if (s == PK_OK)
        s = score_rows(g, e, to->rows, prediction, pk_recipe_i64(g->recipe, "evaluation.bootstrap"),
                       result, err);
    if (s == PK_OK) s = pk_goal_save(g, to, "predictions", PK_NPY_F32, prediction, err);
    if (s == PK_OK) pk_targets_take(truth, t, to->rows->row, to->rows->count, false);
    if (s == PK_OK) s = pk_goal_save(g, to, "targets", PK_NPY_F32, truth, err);
    if (s == PK_OK && to->leads) {
        pk_targets_put(to->json, to->split, t, result);
        pk_targets_print(to->split, t, result);
    }
    free(prediction);
    free(truth);
    return s;
}

static void put_protocol(const struct pk_goal *g, struct pk_json_writer *w)
{
    pk_json_open(w, "targets", '[');
    for (int32_t k = 0; k < g->columns; k++)
        pk_json_put_string(w, NULL, g->in->targets.item[k]->name);
    pk_json_close(w);
}

const struct pk_goal_kind pk_goal_targets = {
    .objective = "regress",
    .metric = "rmse",
    .text = "RMSE in deviations",
    .falls = true,
    .selection = "lowest validation RMSE, mean over targets in deviations, of the last stage",
    .columns = columns,
    .prepare = prepare,
    .describe = describe,
    .feed = feed,
    .validate = validate,
    .report = report,
    .put_protocol = put_protocol};
