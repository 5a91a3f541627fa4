/* linear_report.c -- what is written of a linear evaluation (see linear_eval.h). */
#include "core/npy.h"
#include "tools/linear_eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Whose embeddings, in a line. */
static void print_source(const struct pk_embeddings *from)
{
    printf("embeddings: %s", from->made_by[0] ? from->made_by : from->path);
    if (from->weights[0]) printf(", %s weights", from->weights);
    printf(", %d numbers", from->width);
    if (isfinite(from->window) && isfinite(from->stride))
        printf(", windows of %g s every %g s", from->window, from->stride);
    printf("\n");
}

static const char *head_of(const struct pk_linear_eval *e)
{
    if (e->spec.knn) return "k nearest neighbours";
    if (e->target) return "ridge regression";
    return e->spec.single ? "multinomial logistic regression" : "one-vs-rest logistic regression";
}

/* Class names in the form that pk_result_write and pk_result_print take. */
static enum pk_status make_info(struct pk_model_info **out, const struct pk_linear_eval *e,
                                struct pk_err *err)
{
    PK_TRY(pk_alloc(out, 1, sizeof **out, "class names", err));
    if (!e->task) return PK_OK;
    memcpy((*out)->task, e->task->name, sizeof(*out)->task);
    (*out)->classes = PK_MIN(e->task->classes, PK_CLASSES_MAX);
    for (int32_t k = 0; k < (*out)->classes; k++)
        memcpy((*out)->class_name[k], e->task->class_name[k], PK_NAME_MAX);
    return PK_OK;
}

/* --- JSON ---------------------------------------------------------------------------------- */

static void put_source(struct pk_json_writer *w, const struct pk_linear_eval *e,
                       const struct pk_embeddings *from)
{
    if (from->file) pk_json_put_string(w, "embeddings", from->path);
    pk_json_put_string(w, "model", from->made_by);
    pk_json_put_string(w, "weights", from->weights);
    pk_json_put_f64(w, "step", from->step);
    pk_json_put_i64(w, "features", from->width);
    pk_json_put_string(w, "features_are", "patch tokens, mean over positions and windows; frozen");
    pk_json_put_f64(w, "window_s", from->window);
    pk_json_put_f64(w, "stride_s", from->stride);
    pk_json_put_string(w, "corpus", e->data->name);
    pk_json_put_string(w, "data", e->data->version);
    pk_json_put_f64(w, "rate_hz", e->data->rate);
}

static void put_protocol(struct pk_json_writer *w, const struct pk_linear_eval *e,
                         const struct pk_embeddings *from)
{
    const struct pk_linear_spec *s = &e->spec;
    pk_json_open(w, "protocol", '{');
    pk_json_put_string(w, "head", head_of(e));
    put_source(w, e, from);
    pk_json_put_string(w, e->task ? "task" : "target", e->task ? e->task->name : e->target->name);
    if (e->task) pk_json_put_bool(w, "single_label", s->single);
    pk_json_put_string(w, "train_folds", s->train_folds);
    pk_json_put_string(w, "test_folds", s->test_folds);
    pk_json_put_i64(w, "records_without_patient", e->unknown);
    if (e->target) pk_json_put_i64(w, "records_without_value", e->missing);
    if (s->knn) {
        pk_json_put_i64(w, "k", s->neighbours.k);
        pk_json_put_f64(w, "temperature", s->neighbours.temperature);
        pk_json_put_string(w, "similarity", "cosine, features as they are");
    } else {
        pk_json_put_string(w, "standardisation", "mean and deviation of the training rows");
        pk_json_put_f64s(w, "penalties", s->penalty, s->penalties);
        pk_json_put_i64(w, "cross_validation_folds", s->folds);
        pk_json_put_string(w, "cross_validation", "whole subjects, within the training rows");
        pk_json_put_string(w, "penalty_chosen_by",
                           e->task ? "macro AUC, mean over the folds"
                                   : "mean squared error, mean over the folds");
    }
    pk_json_put_string(w, "bootstrap_unit", "subject");
    pk_json_put_string(w, "subset_rule", "subjects, by rarest class or tenth of the target");
    pk_json_put_i64(w, "seed", (int64_t)s->seed);
    pk_json_close(w);
}

static void put_search(struct pk_json_writer *w, const struct pk_linear_outcome *o)
{
    pk_json_put_f64(w, "penalty", o->penalty);
    pk_json_put_bool(w, "penalty_at_edge", o->search.edge);
    pk_json_put_i64(w, "cross_validation_folds", o->search.folds);
    if (o->search.folds)
        pk_json_put_f64s(w, "cross_validation_score", o->search.score, o->search.count);
    pk_json_put_i64(w, "iterations", o->model.iterations);
    pk_json_put_f64(w, "gradient_left", o->model.gradient);
}

struct spread {
    double mean, low, high;
};

static struct spread spread_of(const struct pk_linear_outcome *o, int column)
{
    struct spread s = {0, INFINITY, -INFINITY};
    for (int64_t i = 0; i < o->shuffles; i++) {
        double v = o->shuffled[i * PK_REGRESSION_SCORES + column];
        s.mean += v / (double)o->shuffles;
        s.low = fmin(s.low, v);
        s.high = fmax(s.high, v);
    }
    return s;
}

/* What the main score says beside the level of knowing nothing of the signal; NULL without an
 * interval. */
static const char *verdict_of(const struct pk_linear_eval *e, const struct pk_linear_outcome *o)
{
    if (e->target) return pk_regression_verdict(&o->target);
    if (!e->spec.resamples) return NULL;
    return pk_verdict_beside(&o->m.bootstrap.macro_auc, 0.5, e->test_subjects);
}

static void print_words(const struct pk_linear_eval *e, const struct pk_linear_outcome *o)
{
    const char *verdict = verdict_of(e, o);
    const struct pk_interval *i = &o->m.bootstrap.macro_auc;
    if (!verdict) return;
    printf("  in words: macro AUC %.3f [%.3f, %.3f]; guessing gives 0.5: %s\n", o->m.macro_auc,
           i->low, i->high, verdict);
}

static void put_chance(struct pk_json_writer *w, const struct pk_linear_eval *e,
                       const struct pk_linear_outcome *o, const struct pk_model_info *info)
{
    const char *verdict = verdict_of(e, o);
    pk_json_open(w, "chance", '{');
    if (e->target) {
        pk_regression_put_chance(w, &o->target);
    } else {
        if (verdict) pk_json_put_string(w, "verdict", verdict);
        pk_result_write(w, "training_frequency", &o->prior, info);
    }
    pk_json_open(w, "shuffled_labels", '{');
    pk_json_put_i64(w, "shuffles", o->shuffles);
    for (int k = 0; o->shuffles && k < (e->task ? 1 : PK_REGRESSION_SCORES); k++) {
        struct spread s = spread_of(o, k);
        pk_json_open(w, e->task ? "macro_auc" : pk_regression_score_name(k), '{');
        pk_json_put_f64(w, "mean", s.mean);
        pk_json_put_f64(w, "lowest", s.low);
        pk_json_put_f64(w, "highest", s.high);
        pk_json_close(w);
    }
    pk_json_close(w);
    pk_json_close(w);
}

enum pk_status pk_linear_eval_json(struct pk_text *out, const struct pk_linear_eval *e,
                                   const struct pk_embeddings *from, struct pk_err *err)
{
    struct pk_json_writer w = {.out = out, .indent = 2};
    struct pk_model_info *info;
    PK_TRY(make_info(&info, e, err));
    pk_json_open(&w, NULL, '{');
    put_protocol(&w, e, from);
    pk_json_put_i64(&w, "test_rows", e->tests);
    pk_json_put_i64(&w, "test_subjects", e->test_subjects);
    pk_json_open(&w, "results", '[');
    for (int i = 0; i < e->outcomes; i++) {
        const struct pk_linear_outcome *o = &e->outcome[i];
        pk_json_open(&w, NULL, '{');
        pk_json_put_f64(&w, "percent", o->percent);
        pk_json_put_i64(&w, "train_rows", o->trains);
        pk_json_put_i64(&w, "train_subjects", o->subjects);
        if (!e->spec.knn) put_search(&w, o);
        if (e->task)
            pk_result_write(&w, "test", &o->m, info);
        else
            pk_regression_put(&w, "test", &o->target.r);
        put_chance(&w, e, o, info);
        pk_json_close(&w);
    }
    pk_json_close(&w);
    pk_json_close(&w);
    free(info);
    return PK_OK;
}

/* --- for people ---------------------------------------------------------------------------- */

static void print_chance_line(const struct pk_linear_outcome *o, int column)
{
    struct spread s = spread_of(o, column);
    if (o->shuffles) printf("; shuffled labels %.4f (%.4f to %.4f)", s.mean, s.low, s.high);
    printf("\n");
}

static void print_regression(const struct pk_linear_eval *e, const struct pk_linear_outcome *o)
{
    for (int k = 0; k < PK_REGRESSION_SCORES; k++) {
        pk_regression_print_score(&o->target, k);
        print_chance_line(o, k);
    }
    pk_regression_print_words(&o->target, e->target->name);
}

static void print_outcome(const struct pk_linear_eval *e, const struct pk_linear_outcome *o,
                          const struct pk_model_info *info)
{
    char title[400];
    printf("%g %% of the training subjects: %lld records of %lld subjects", o->percent,
           (long long)o->trains, (long long)o->subjects);
    if (e->spec.knn)
        printf("\n");
    else if (o->search.folds)
        printf("; penalty %g, by cross-validation in %d folds of subjects\n", o->penalty,
               o->search.folds);
    else
        printf("; penalty %g, as given\n", o->penalty);
    if (o->search.edge)
        printf("  note: the penalty is at the end of the grid; give a longer one with --penalty\n");
    if (!e->task) {
        print_regression(e, o);
        return;
    }
    snprintf(title, sizeof title, "  test, folds %s", e->spec.test_folds);
    pk_result_print(title, &o->m, info);
    printf("  chance, macro AUC       %.4f", o->prior.macro_auc);
    print_chance_line(o, 0);
    printf("  chance, macro AUPRC     %.4f; Fmax %.4f (frequencies of training)\n",
           o->prior.macro_average_precision, o->prior.fmax);
    print_words(e, o);
}

enum pk_status pk_linear_eval_print(const struct pk_linear_eval *e,
                                    const struct pk_embeddings *from, struct pk_err *err)
{
    struct pk_model_info *info;
    PK_TRY(make_info(&info, e, err));
    printf("%s: %s of %s on frozen embeddings\n", e->data->name, head_of(e),
           e->task ? e->task->name : e->target->name);
    print_source(from);
    printf("train: folds %s; test: folds %s, %lld records of %lld subjects", e->spec.train_folds,
           e->spec.test_folds, (long long)e->tests, (long long)e->test_subjects);
    if (e->missing) printf("; %lld without a value left out", (long long)e->missing);
    if (e->unknown)
        printf("; %lld without a patient, taken as subjects of their own", (long long)e->unknown);
    printf("\n");
    for (int i = 0; i < e->outcomes; i++) {
        printf("\n");
        print_outcome(e, &e->outcome[i], info);
    }
    if (e->spec.resamples)
        printf("\nintervals: %lld resamples of subjects, seed %llu\n", (long long)e->spec.resamples,
               (unsigned long long)e->spec.bootstrap_seed);
    free(info);
    return PK_OK;
}

/* --- files --------------------------------------------------------------------------------- */

static enum pk_status save_ids(const struct pk_linear_eval *e, const int64_t *row, int64_t rows,
                               const char *path, struct pk_err *err)
{
    struct pk_text text = {0};
    for (int64_t i = 0; i < rows; i++) {
        char id[PK_ID_MAX];
        e->data->record_id(e->data, e->rows.row[row[i]], id);
        pk_text_add(&text, "%s\n", id);
    }
    enum pk_status s = text.failed ? pk_fail(err, PK_ENOMEM, "out of memory: record names")
                                   : pk_write_file(path, text.s ? text.s : "", text.len, err);
    pk_text_free(&text);
    return s;
}

static enum pk_status save_array(const char *folder, const char *name, double percent,
                                 enum pk_npy_type type, int64_t rows, int64_t columns,
                                 const void *data, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    int64_t shape[2] = {rows, columns};
    PK_TRY(percent > 0 ? pk_path(path, err, "%s/%s-%g.npy", folder, name, percent)
                       : pk_path(path, err, "%s/%s.npy", folder, name));
    return pk_npy_save(path, type, columns ? 2 : 1, shape, data, err);
}

static enum pk_status save_outcome(const struct pk_linear_eval *e,
                                   const struct pk_linear_outcome *o, const char *folder,
                                   struct pk_err *err)
{
    char path[PK_PATH_MAX];
    const struct pk_linear *m = &o->model;
    double p = o->percent;
    int64_t columns = e->task ? e->learning.classes : 0;
    PK_TRY(pk_path(path, err, "%s/train-%g.txt", folder, p));
    PK_TRY(save_ids(e, o->train, o->trains, path, err));
    PK_TRY(save_array(folder, "scores", p, PK_NPY_F64, e->tests, columns, o->score, err));
    if (e->spec.knn) return PK_OK;
    if (o->search.folds)
        PK_TRY(save_array(folder, "folds", p, PK_NPY_I32, o->trains, 0, o->search.fold, err));
    PK_TRY(save_array(folder, "weight", p, PK_NPY_F64, m->outputs, m->features, m->weight, err));
    PK_TRY(save_array(folder, "intercept", p, PK_NPY_F64, m->outputs, 0, m->intercept, err));
    PK_TRY(save_array(folder, "mean", p, PK_NPY_F64, m->features, 0, o->standard.mean, err));
    return save_array(folder, "scale", p, PK_NPY_F64, m->features, 0, o->standard.scale, err);
}

static enum pk_status save_truth(const struct pk_linear_eval *e, const char *folder,
                                 struct pk_err *err)
{
    size_t k = (size_t)e->learning.classes, size = e->task ? 1 : sizeof(double);
    char *truth;
    PK_TRY(pk_alloc(&truth, (size_t)e->tests, k * size, "labels", err));
    for (int64_t i = 0; i < e->tests; i++) {
        const void *from = e->task ? (const void *)(e->label + e->test[i] * (int64_t)k)
                                   : (const void *)(e->value + e->test[i]);
        memcpy(truth + (size_t)i * k * size, from, k * size);
    }
    enum pk_status s =
        e->task ? save_array(folder, "labels", 0, PK_NPY_U8, e->tests, (int64_t)k, truth, err)
                : save_array(folder, "targets", 0, PK_NPY_F64, e->tests, 0, truth, err);
    free(truth);
    return s;
}

enum pk_status pk_linear_eval_save(const struct pk_linear_eval *e, const char *folder,
                                   const struct pk_embeddings *from, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    struct pk_text text = {0};
    PK_TRY(pk_mkdirs(folder, err));
    PK_TRY(pk_path(path, err, "%s/test.txt", folder));
    PK_TRY(save_ids(e, e->test, e->tests, path, err));
    PK_TRY(save_truth(e, folder, err));
    for (int i = 0; i < e->outcomes; i++) PK_TRY(save_outcome(e, &e->outcome[i], folder, err));
    PK_TRY(pk_path(path, err, "%s/result.json", folder));
    enum pk_status s = pk_linear_eval_json(&text, e, from, err);
    if (s == PK_OK && text.failed) s = pk_fail(err, PK_ENOMEM, "out of memory: results");
    if (s == PK_OK) s = pk_write_file(path, text.s, text.len, err);
    pk_text_free(&text);
    return s;
}
