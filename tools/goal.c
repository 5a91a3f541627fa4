/* goal.c -- what the kinds of supervised goals share (see goal.h). */
#include "tools/goal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum pk_status pk_goal_open(struct pk_goal *g, const struct pk_recipe *r,
                            const struct pk_inputs *in, struct pk_err *err)
{
    const struct pk_goal_kind *const kinds[] = {&pk_goal_classes, &pk_goal_targets};
    const char *objective = pk_recipe_str(r, "objective.kind");
    *g = (struct pk_goal){.recipe = r, .in = in};
    for (size_t i = 0; i < PK_COUNT(kinds); i++)
        if (!strcmp(kinds[i]->objective, objective)) g->kind = kinds[i];
    if (!g->kind) return pk_fail(err, PK_EINVAL, "'objective.kind: %s' has no labels", objective);
    return g->kind->columns(&g->columns, g, err);
}

enum pk_status pk_goal_prepare(struct pk_goal *g, struct pk_classifier *model, int64_t batch,
                               struct pk_err *err)
{
    const size_t rows = (size_t)g->in->validation.count;
    if (!rows)
        return pk_fail(err, PK_EDATA, "%s: no labelled record is left to choose checkpoints by",
                       pk_recipe_origin(g->recipe, "data.folds.validation"));
    PK_TRY(pk_alloc(&g->score, rows * (size_t)g->columns, sizeof *g->score, "scores", err));
    return g->kind->prepare(g, model, batch, err);
}

void pk_goal_close(struct pk_goal *g)
{
    free(g->score);
    free(g->class_weight);
    free(g->label);
    free(g->target[0]);
    free(g->target[1]);
    *g = (struct pk_goal){0};
}

bool pk_goal_better(const struct pk_goal *g, double metric, double best)
{
    return g->kind->falls ? metric < best : metric > best;
}

enum pk_status pk_goal_outputs(const struct pk_goal *g, struct pk_evaluator *e,
                               const struct pk_rows *rows, float *out, struct pk_err *err)
{
    return pk_evaluate(e, &g->in->data, rows, (const double(*)[PK_LEADS_MAX])g->in->mean,
                       (const double(*)[PK_LEADS_MAX])g->in->std, out, NULL, err);
}

struct pk_metrics_options pk_goal_bootstrap(const struct pk_goal *g, const struct pk_evaluator *e,
                                            int64_t resamples)
{
    return (struct pk_metrics_options){
        .resamples = resamples,
        .seed = (uint64_t)pk_recipe_i64(g->recipe, "evaluation.bootstrap_seed"),
        .threads = e->exec->threads};
}

enum pk_status pk_goal_save(const struct pk_goal *g, const struct pk_goal_report *to,
                            const char *what, enum pk_npy_type type, const void *data,
                            struct pk_err *err)
{
    char path[PK_PATH_MAX];
    const int64_t shape[2] = {to->rows->count, g->columns};
    if (!to->leads) return PK_OK;
    PK_TRY(pk_path(path, err, "%s/%s_%s.npy", to->dir, to->split, what));
    return pk_npy_save(path, type, 2, shape, data, err);
}
