/* cmd_eval.c -- purkinje eval: a classifier or a regression on a corpus, by the protocol it was
 * made with.
 *
 * Window, stride, aggregation, normalisation and class order are the model's; only the records are
 * chosen here. On the corpus and folds of the run it repeats the run's result.json. */
#include "core/json.h"
#include "tools/device.h"
#include "tools/model.h"
#include "tools/regression.h"

#include <stdlib.h>
#include <string.h>

struct evaluation {
    const char *model_path, *folds_text;
    struct pk_model model;
    struct pk_dataset data;
    struct pk_rows rows;
    const struct pk_task *task; // of a classifier
    struct pk_targets targets;  // of a regression
    float *score;               // [rows, classes or targets]
    uint8_t *label;             // [rows, classes]
    struct pk_metrics_options options;
    struct pk_metrics m;
    struct pk_regression_result regression[PK_LEARNED_TARGETS_MAX];
};

static void release(struct evaluation *e)
{
    pk_model_free(&e->model);
    pk_dataset_free(&e->data);
    pk_metrics_free(&e->m);
    free(e->rows.row);
    free(e->score);
    free(e->label);
}

/* The corpus must mean the same by the same columns: a permuted class list gives nonsense. */
static enum pk_status check_classes(const struct pk_task *t, const struct pk_model_info *m,
                                    struct pk_err *err)
{
    if (t->classes != m->classes)
        return pk_fail(err, PK_EDATA, "task %s of the corpus has %d classes, the model has %d",
                       t->name, t->classes, m->classes);
    for (int32_t k = 0; k < t->classes; k++)
        if (strcmp(t->class_name[k], m->class_name[k]))
            return pk_fail(err, PK_EDATA,
                           "class %d of task %s is '%s' in the corpus and '%s' in the model", k,
                           t->name, t->class_name[k], m->class_name[k]);
    return PK_OK;
}

/* The labels or numbers that the model predicts, and the records that have them. */
static enum pk_status find_rows(struct evaluation *e, const struct pk_folds *folds,
                                const char *task, struct pk_err *err)
{
    const struct pk_model_info *m = &e->model.file.info;
    if (!m->regresses) {
        PK_TRY(pk_task_find(&e->task, &e->data, task ? task : m->task, err));
        PK_TRY(check_classes(e->task, m, err));
        return pk_rows_select(&e->rows, &e->data, folds, -1, e->task, m->single_label, err);
    }
    if (task)
        return pk_fail(err, PK_EUSAGE,
                       "--task %s: the model predicts numbers (%s%s), it has no classes", task,
                       m->class_name[0], m->classes > 1 ? ", ..." : "");
    for (int32_t k = 0; k < m->classes; k++) {
        PK_TRY(pk_targets_add(&e->targets, &e->data, m->class_name[k], err));
        e->targets.mean[k] = m->target_mean[k];
        e->targets.std[k] = m->target_std[k];
    }
    PK_TRY(pk_rows_select(&e->rows, &e->data, folds, -1, NULL, false, err));
    return pk_targets_rows(&e->targets, &e->rows, err);
}

/* Opens model and data, which is generated at the model's rate if at all. */
static enum pk_status open_both(struct evaluation *e, const char *corpus, struct pk_err *err)
{
    const struct pk_model_info *m = &e->model.file.info;
    PK_TRY(pk_model_open(&e->model.file, e->model_path, true, err));
    if (!m->head[0])
        return pk_fail(err, PK_EUSAGE,
                       "%s is an encoder without a head; 'purkinje finetune' makes a classifier of "
                       "it (init_from=%s), 'purkinje embed' computes its embeddings",
                       e->model_path, e->model_path);
    PK_TRY(pk_dataset_named(&e->data, corpus, m->rate, err));
    if (!e->folds_text && !strcmp(e->data.version, m->data))
        return pk_fail(err, PK_EUSAGE,
                       "the model was trained on records of this data (%s): say with --folds which "
                       "ones to evaluate",
                       e->data.version);
    return PK_OK;
}

static void put_protocol(struct pk_json_writer *w, const struct evaluation *e)
{
    const struct pk_model_info *m = &e->model.file.info;
    pk_json_open(w, "protocol", '{');
    pk_json_put_string(w, "model", e->model_path);
    pk_json_put_string(w, "weights", e->model.file.weights);
    pk_json_put_i64(w, "step", e->model.file.step);
    pk_json_put_string(w, "recipe_hash", e->model.file.recipe_hash);
    pk_json_put_string(w, "corpus", e->data.name);
    pk_json_put_string(w, "data", e->data.version);
    pk_json_put_string(w, "trained_on", m->data);
    pk_json_put_f64(w, "rate_hz", e->data.rate);
    if (e->task) pk_json_put_string(w, "task", e->task->name);
    if (e->task) pk_json_put_bool(w, "single_label", m->single_label);
    pk_json_put_string(w, "folds", e->folds_text ? e->folds_text : "all");
    pk_json_put_string(w, "statistics", "the model's");
    pk_json_put_f64(w, "window_s", m->window);
    pk_json_put_f64(w, "stride_s", m->stride);
    pk_json_put_string(w, "aggregation", m->aggregation);
    pk_json_put_string(w, "head", m->head);
    pk_json_close(w);
}

static enum pk_status print(const struct evaluation *e, bool json, struct pk_err *err)
{
    const struct pk_model_info *m = &e->model.file.info;
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    if (!json) {
        if (e->task)
            pk_result_print(e->data.name, &e->m, m);
        else
            pk_targets_print(e->data.name, &e->targets, e->regression);
        printf("  protocol                folds %s; windows of %g s every %g s, %s; %s%s\n",
               e->folds_text ? e->folds_text : "all", m->window, m->stride, m->aggregation,
               "the model's mean and std", m->single_label ? "; records with one label" : "");
        return PK_OK;
    }
    pk_json_open(&w, NULL, '{');
    put_protocol(&w, e);
    if (e->task)
        pk_result_write(&w, "result", &e->m, m);
    else
        pk_targets_put(&w, "result", &e->targets, e->regression);
    pk_json_close(&w);
    return pk_print(&text, err);
}

/* Of several ranks each its share; all get all of them. */
static enum pk_status compute(struct evaluation *e, struct pk_err *err)
{
    const size_t n = (size_t)e->rows.count * (size_t)e->model.file.info.classes;
    PK_TRY(pk_alloc(&e->score, n, sizeof *e->score, "scores", err));
    return pk_evaluate(&e->model.eval, &e->data, &e->rows,
                       (const double(*)[PK_LEADS_MAX])e->model.mean,
                       (const double(*)[PK_LEADS_MAX])e->model.std, e->score, NULL, err);
}

static enum pk_status measure(struct evaluation *e, struct pk_err *err)
{
    e->options.threads = e->model.exec.threads;
    if (!e->task) {
        pk_targets_unscale(e->score, &e->targets, e->rows.count);
        return pk_targets_score(e->regression, &e->targets, &e->data, &e->rows, e->score,
                                &e->options, err);
    }
    PK_TRY(pk_evaluate_labels(&e->label, e->task, &e->rows, err));
    return pk_score_metrics(&e->m, &e->model.eval, e->rows.count, e->label, &e->options, e->score,
                            err);
}

static enum pk_status prepare(struct evaluation *e, const struct pk_args *a, struct pk_err *err)
{
    struct pk_folds folds;
    int64_t resamples = 1000, seed = 0; // the defaults of recipes
    e->folds_text = pk_arg(a, "folds");
    PK_TRY(pk_arg_i64(a, "bootstrap", 0, 1000000, &resamples, err));
    PK_TRY(pk_arg_i64(a, "bootstrap-seed", 0, INT64_MAX, &seed, err));
    PK_TRY(pk_folds_parse(&folds, e->folds_text, PK_FOLD_MAX, err));
    e->options = (struct pk_metrics_options){.resamples = resamples, .seed = (uint64_t)seed};
    PK_TRY(open_both(e, a->word[1], err));
    PK_TRY(find_rows(e, &folds, pk_arg(a, "task"), err));
    return pk_device_choose(pk_arg(a, "device"), &e->model.backend, err);
}

static enum pk_status evaluate(struct evaluation *e, const struct pk_args *a, struct pk_job *job,
                               struct pk_err *err)
{
    PK_TRY(pk_comm_agree(job->comm, prepare(e, a, err), err));
    pk_model_share(&e->model, job);
    PK_TRY(pk_model_on(&e->model, &e->data, 0, 0, err));
    return compute(e, err);
}

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    struct evaluation *e;
    struct pk_job job;
    if (a->count != 2) return pk_fail(err, PK_EUSAGE, "eval needs a model and a corpus");
    PK_TRY(pk_alloc(&e, 1, sizeof *e, "evaluation", err));
    e->model_path = a->word[0];
    enum pk_status s = pk_world_open_command(&job, a, err);
    if (s == PK_OK) s = pk_world_close(&job, evaluate(e, a, &job, err), err);
    if (s == PK_OK && job.launch.rank == 0) s = measure(e, err);
    if (s == PK_OK && job.launch.rank == 0) s = print(e, pk_arg(a, "json") != NULL, err);
    release(e);
    free(e);
    return s;
}

static const struct pk_option options[] = {
    {"task", "NAME", "labels of the corpus; the model's own task unless told"},
    {"folds", "LIST",
     "only records of these folds, e.g. 9; needed on data the model was trained on"},
    {"bootstrap", "N", "resamples for the 95 % interval, 0 for none; 1000 unless told"},
    {"bootstrap-seed", "N", "of the resamples, 0 unless told"},
    {"json", NULL, "protocol and results as JSON"},
    PK_OPTION_DEVICE,
    {0}};

static const struct pk_example examples[] = {
    {"eval runs/probe synthetic:200 --folds 9 --bootstrap 0",
     "a fine-tuned run on the validation fold of generated records"},
    {"eval exported demo --json", "an exported classifier on all labelled records of a corpus"},
    {0}};

const struct pk_command pk_cmd_eval = {
    .name = "eval",
    .synopsis = "MODEL CORPUS",
    .summary = "score a classifier or a regression on a corpus",
    .details =
        "MODEL is a fine-tuned run, one of its checkpoints, or an exported classifier; CORPUS a\n"
        "folder, or synthetic:N. Window, stride, aggregation and normalisation are the model's "
        "own,\n"
        "and the corpus must have its classes or targets. Records without a label or a value do "
        "not count.\nRanks (purkinje launch, srun, mpirun ...) share out the records; the result "
        "is "
        "the same.",
    .options = options,
    .examples = examples,
    .run = run};
