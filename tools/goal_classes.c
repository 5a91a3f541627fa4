/* goal_classes.c -- learning the classes of a task: labels, balanced weights, AUC (see goal.h). */
#include "tools/goal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum pk_status columns(int32_t *out, const struct pk_goal *g, struct pk_err *err)
{
    if (!g->in->task)
        return pk_fail(err, PK_ERECIPE, "data.task is not set: which labels are to be learned?");
    *out = g->in->task->classes;
    return PK_OK;
}

/* Weights that make rare classes count as much as frequent ones, from the training rows. Of
 * questions by class: positives by negatives / positives (PyTorch's pos_weight), at most 100. Of
 * one label of many: rows / (classes x rows of the class), as scikit-learn's "balanced". A class
 * without a row keeps 1. */
static enum pk_status balance(struct pk_goal *g, struct pk_classifier *c, struct pk_err *err)
{
    const size_t classes = (size_t)g->columns;
    uint8_t *label = NULL;
    if (strcmp(pk_recipe_str(g->recipe, "objective.class_weights"), "balanced")) return PK_OK;
    PK_TRY(pk_evaluate_labels(&label, g->in->task, &g->in->train, err));
    enum pk_status s = pk_alloc(&g->class_weight, classes, sizeof *g->class_weight, "weights", err);
    for (size_t k = 0; s == PK_OK && k < classes; k++) {
        double count[2] = {0, 0}, all;
        for (int64_t i = 0; i < g->in->train.count; i++) {
            const uint8_t y = label[(size_t)i * classes + k];
            if (y <= 1) count[y]++;
        }
        all = count[0] + count[1];
        const double odds = fmin(count[0] / fmax(count[1], 1), 100);
        g->class_weight[k] = (float)(count[1] == 0 || count[0] == 0 ? 1
                                     : c->softmax ? all / ((double)classes * count[1])
                                                  : odds);
    }
    free(label);
    *(c->softmax ? &c->multiclass.class_weight : &c->multilabel.positive_weight) = g->class_weight;
    return s;
}

static enum pk_status prepare(struct pk_goal *g, struct pk_classifier *model, int64_t batch,
                              struct pk_err *err)
{
    (void)batch; // the loader delivers the labels
    g->labels = g->columns;
    PK_TRY(balance(g, model, err));
    return pk_evaluate_labels(&g->label, g->in->task, &g->in->validation, err);
}

static void describe(const struct pk_goal *g, struct pk_model_info *m)
{
    snprintf(m->task, sizeof m->task, "%.31s", g->in->task->name);
    m->single_label = pk_recipe_bool(g->recipe, "objective.single_label");
    for (int32_t k = 0; k < g->columns; k++)
        memcpy(m->class_name[k], g->in->task->class_name[k], sizeof m->class_name[k]);
}

static struct pk_feed feed(struct pk_goal *g, const struct pk_batch *b, int64_t step, int64_t micro)
{
    (void)step;
    return (struct pk_feed){"label", b->label, (size_t)micro * (size_t)g->columns};
}

static enum pk_status score_rows(const struct pk_goal *g, struct pk_evaluator *e,
                                 const struct pk_rows *rows, float *score, const uint8_t *label,
                                 int64_t resamples, struct pk_metrics *out, struct pk_err *err)
{
    const struct pk_metrics_options o = pk_goal_bootstrap(g, e, resamples);
    return pk_evaluate_metrics(out, e, &g->in->data, rows,
                               (const double(*)[PK_LEADS_MAX])g->in->mean,
                               (const double(*)[PK_LEADS_MAX])g->in->std, label, &o, score, err);
}

static enum pk_status validate(struct pk_goal *g, struct pk_evaluator *e, double *metric,
                               struct pk_err *err)
{
    struct pk_metrics m = {0};
    enum pk_status s = score_rows(g, e, &g->in->validation, g->score, g->label, 0, &m, err);
    *metric = m.macro_auc;
    pk_metrics_free(&m);
    return s;
}

static enum pk_status report(struct pk_goal *g, struct pk_evaluator *e,
                             const struct pk_goal_report *to, struct pk_err *err)
{
    struct pk_metrics m = {0};
    float *score = NULL;
    uint8_t *label = NULL;
    const size_t n = (size_t)to->rows->count * (size_t)g->columns;
    enum pk_status s = pk_alloc(&score, n, sizeof *score, "scores", err);
    if (s == PK_OK) s = pk_evaluate_labels(&label, g->in->task, to->rows, err);
    if (s == PK_OK)
        s = score_rows(g, e, to->rows, score, label,
                       pk_recipe_i64(g->recipe, "evaluation.bootstrap"), &m, err);
    if (s == PK_OK) s = pk_goal_save(g, to, "scores", PK_NPY_F32, score, err);
    if (s == PK_OK) s = pk_goal_save(g, to, "labels", PK_NPY_U8, label, err);
    if (s == PK_OK && to->leads) {
        pk_result_write(to->json, to->split, &m, to->info);
        pk_result_print(to->split, &m, to->info);
    }
    pk_metrics_free(&m);
    free(score);
    free(label);
    return s;
}

static void put_protocol(const struct pk_goal *g, struct pk_json_writer *w)
{
    pk_json_put_string(w, "task", g->in->task->name);
    pk_json_put_bool(w, "single_label", pk_recipe_bool(g->recipe, "objective.single_label"));
}

const struct pk_goal_kind pk_goal_classes = {.objective = "classify",
                                             .metric = "macro_auc",
                                             .text = "macro AUC",
                                             .selection =
                                                 "highest validation macro AUC of the last stage",
                                             .columns = columns,
                                             .prepare = prepare,
                                             .describe = describe,
                                             .feed = feed,
                                             .validate = validate,
                                             .report = report,
                                             .put_protocol = put_protocol};
