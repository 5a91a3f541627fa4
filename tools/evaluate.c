/* evaluate.c -- windows, aggregation and results (see evaluate.h). */
#include "tools/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOWS = PK_EVAL_MICRO * PK_EVAL_MICROS };

enum pk_status pk_evaluator_open(struct pk_evaluator *e, struct pk_exec *exec,
                                 struct pk_params *params, const struct pk_classifier *model,
                                 struct pk_err *err)
{
    e->exec = exec;
    e->model = *model;
    e->micro = exec->backend ? WINDOWS : PK_EVAL_MICRO;
    PK_TRY(pk_classifier_build(&e->prog, params, model, e->micro, false, err));
    return pk_exec_bind(exec, &e->bound, &e->prog, err);
}

void pk_evaluator_close(struct pk_evaluator *e)
{
    pk_bound_free(&e->bound);
    pk_prog_free(&e->prog);
}

struct chunk {            // windows waiting to be computed
    int16_t *signal;      // [WINDOWS, leads, window]
    float *gain, *offset; // [WINDOWS, leads]
    int64_t *sample;      // [WINDOWS] dropout key, not used in evaluation
    int32_t *start;       // zeros
    int64_t row[WINDOWS]; // which of the rows each window belongs to
    int64_t count;
    float *logit, *embedding;    // [WINDOWS, classes], [WINDOWS, width]
    int16_t *record;             // [leads, samples] as read
    double *sum, *sum_embedding; // [rows, classes], [rows, width]
    int64_t *windows;            // [rows]
};

static enum pk_status alloc_chunk(struct chunk *c, const struct pk_evaluator *e,
                                  const struct pk_dataset *d, int64_t rows, struct pk_err *err)
{
    size_t leads = (size_t)d->leads, width = (size_t)e->model.encoder.width;
    size_t classes = (size_t)e->model.classes, n = (size_t)rows;
    size_t samples = (size_t)e->window;
    PK_TRY(pk_alloc(&c->signal, WINDOWS * leads * samples, sizeof *c->signal, "windows", err));
    PK_TRY(pk_alloc(&c->gain, WINDOWS * leads, sizeof *c->gain, "windows", err));
    PK_TRY(pk_alloc(&c->offset, WINDOWS * leads, sizeof *c->offset, "windows", err));
    PK_TRY(pk_alloc(&c->sample, WINDOWS, sizeof *c->sample, "windows", err));
    PK_TRY(pk_alloc(&c->start, WINDOWS, sizeof *c->start, "windows", err));
    PK_TRY(pk_alloc(&c->logit, WINDOWS * classes, sizeof *c->logit, "logits", err));
    PK_TRY(pk_alloc(&c->embedding, WINDOWS * width, sizeof *c->embedding, "embeddings", err));
    PK_TRY(pk_alloc(&c->record, leads * (size_t)d->samples, sizeof *c->record, "record", err));
    PK_TRY(pk_alloc(&c->sum, n * classes, sizeof *c->sum, "scores", err));
    PK_TRY(pk_alloc(&c->sum_embedding, n * width, sizeof *c->sum_embedding, "embeddings", err));
    return pk_alloc(&c->windows, n, sizeof *c->windows, "window counts", err);
}

static void free_chunk(struct chunk *c)
{
    free(c->signal);
    free(c->gain);
    free(c->offset);
    free(c->sample);
    free(c->start);
    free(c->logit);
    free(c->embedding);
    free(c->record);
    free(c->sum);
    free(c->sum_embedding);
    free(c->windows);
}

/* Computes the waiting windows (whole micro-batches; the last is filled up with old ones). */
static enum pk_status flush(struct chunk *c, struct pk_evaluator *e, int32_t leads,
                            struct pk_err *err)
{
    size_t micro = (size_t)e->micro, l = (size_t)leads;
    int64_t classes = e->model.classes, width = e->model.encoder.width;
    struct pk_feed feed[] = {
        {"signal", c->signal, micro * l * (size_t)e->window * sizeof *c->signal},
        {"gain", c->gain, micro * l * sizeof *c->gain},
        {"offset", c->offset, micro * l * sizeof *c->offset},
        {"start", c->start, 0},
        {"sample", c->sample, 0}};
    struct pk_fetch fetch[] = {{"embedding", c->embedding}, {"logits", c->logit}};
    struct pk_exec_batch run = {.feed = feed,
                                .feeds = (int)PK_COUNT(feed),
                                .fetch = fetch,
                                .fetches = e->model.head == PK_HEAD_NONE ? 1 : 2,
                                .micros = (c->count + e->micro - 1) / e->micro};
    if (!c->count) return PK_OK;
    PK_TRY(pk_exec_run(e->exec, &e->bound, &run, err));
    for (int64_t i = 0; i < c->count; i++) {
        double *sum = c->sum + c->row[i] * classes, *mean = c->sum_embedding + c->row[i] * width;
        bool first = c->windows[c->row[i]]++ == 0;
        for (int64_t k = 0; k < classes; k++) {
            double x = (double)c->logit[i * classes + k];
            if (!e->max_sigmoid)
                sum[k] += x;
            else if (first || pk_sigmoid(x) > sum[k])
                sum[k] = pk_sigmoid(x);
        }
        for (int64_t k = 0; k < width; k++) mean[k] += (double)c->embedding[i * width + k];
    }
    c->count = 0;
    return PK_OK;
}

static enum pk_status add_record(struct chunk *c, struct pk_evaluator *e,
                                 const struct pk_dataset *d, int64_t row, int64_t index,
                                 const double *mean, const double *std, struct pk_err *err)
{
    const struct pk_record *r = &d->record[index];
    if (r->length < e->window) {
        char id[64];
        d->record_id(d, index, id);
        return pk_fail(err, PK_EDATA, "record %s has %d samples, a window needs %d", id, r->length,
                       e->window);
    }
    PK_TRY(d->read(d, index, c->record, err));
    for (int32_t at = 0; at + e->window <= r->length; at += e->stride) {
        if (c->count == WINDOWS) PK_TRY(flush(c, e, d->leads, err));
        int16_t *dst = c->signal + c->count * d->leads * e->window;
        for (int32_t l = 0; l < d->leads; l++)
            memcpy(dst + l * e->window, c->record + (size_t)l * (size_t)d->samples + at,
                   (size_t)e->window * sizeof *dst);
        pk_record_scaling(r, d->leads, mean, std, c->gain + c->count * d->leads,
                          c->offset + c->count * d->leads);
        c->row[c->count++] = row;
    }
    return PK_OK;
}

static enum pk_status evaluate_part(struct pk_evaluator *e, const struct pk_dataset *data,
                                    const struct pk_rows *rows, const double (*mean)[PK_LEADS_MAX],
                                    const double (*std)[PK_LEADS_MAX], float *score,
                                    float *embedding, struct pk_err *err)
{
    enum { MARKED = 64 }; // rows from one sign of life to the next
    struct chunk c = {0};
    int64_t classes = e->model.classes, width = e->model.encoder.width;
    enum pk_status s = alloc_chunk(&c, e, data, PK_MAX(rows->count, (int64_t)1), err);
    for (int64_t i = 0; s == PK_OK && i < rows->count; i++) {
        int32_t source = data->record[rows->row[i]].source;
        if (i % MARKED == 0) pk_heartbeat_at(e->heartbeat, i, "scoring records");
        s = add_record(&c, e, data, i, rows->row[i], mean[source], std[source], err);
    }
    if (s == PK_OK) s = flush(&c, e, data->leads, err);
    for (int64_t i = 0; s == PK_OK && i < rows->count; i++) {
        double n = (double)c.windows[i];
        for (int64_t k = 0; score && k < classes; k++)
            score[i * classes + k] = (float)(c.sum[i * classes + k] / (e->max_sigmoid ? 1 : n));
        for (int64_t k = 0; embedding && k < width; k++)
            embedding[i * width + k] = (float)(c.sum_embedding[i * width + k] / n);
    }
    free_chunk(&c);
    return s;
}

/* mine [share, columns] of every rank becomes all [rows, columns]. */
static enum pk_status gather_rows(const struct pk_evaluator *e, float *all, const float *mine,
                                  int64_t share, int64_t rows, int64_t columns, struct pk_err *err)
{
    const size_t part = (size_t)(share * columns);
    float *every;
    PK_TRY(pk_alloc(&every, part * (size_t)e->comm->size, sizeof *every, "scores of ranks", err));
    memcpy(every + part * (size_t)e->comm->rank, mine, part * sizeof *every);
    enum pk_status s = pk_comm_all_gather(e->comm, every, part * sizeof *every, err);
    if (s == PK_OK) memcpy(all, every, (size_t)(rows * columns) * sizeof *all);
    free(every);
    return s;
}

/* Each rank takes as many rows, the last ones perhaps fewer, and gets those of all. */
static enum pk_status evaluate_shared(struct pk_evaluator *e, const struct pk_dataset *data,
                                      const struct pk_rows *rows,
                                      const double (*mean)[PK_LEADS_MAX],
                                      const double (*std)[PK_LEADS_MAX], float *score,
                                      float *embedding, struct pk_err *err)
{
    const int64_t share = (rows->count + e->comm->size - 1) / e->comm->size;
    const int64_t first = PK_MIN(share * e->comm->rank, rows->count);
    const struct pk_rows mine = {.row = rows->row + first,
                                 .count = PK_MIN(share, rows->count - first)};
    const int64_t classes = e->model.classes, width = e->model.encoder.width;
    float *my_score = NULL, *my_embedding = NULL;
    enum pk_status s = PK_OK;
    if (score) s = pk_alloc(&my_score, (size_t)(share * classes), sizeof *my_score, "scores", err);
    if (s == PK_OK && embedding)
        s = pk_alloc(&my_embedding, (size_t)(share * width), sizeof *my_embedding, "embeddings",
                     err);
    if (s == PK_OK) s = evaluate_part(e, data, &mine, mean, std, my_score, my_embedding, err);
    s = pk_comm_agree(e->comm, s, err); // a record that one rank cannot read ends all
    if (s == PK_OK && score) s = gather_rows(e, score, my_score, share, rows->count, classes, err);
    if (s == PK_OK && embedding)
        s = gather_rows(e, embedding, my_embedding, share, rows->count, width, err);
    free(my_score);
    free(my_embedding);
    return s;
}

enum pk_status pk_evaluate(struct pk_evaluator *e, const struct pk_dataset *data,
                           const struct pk_rows *rows, const double (*mean)[PK_LEADS_MAX],
                           const double (*std)[PK_LEADS_MAX], float *score, float *embedding,
                           struct pk_err *err)
{
    return (e->comm ? evaluate_shared : evaluate_part)(e, data, rows, mean, std, score, embedding,
                                                       err);
}

/* Single-label scores are probabilities over the classes, so that rows are comparable. */
static void softmax(float *x, int64_t n)
{
    double most = (double)x[0], sum = 0;
    for (int64_t k = 1; k < n; k++) most = fmax(most, (double)x[k]);
    for (int64_t k = 0; k < n; k++) sum += exp((double)x[k] - most);
    for (int64_t k = 0; k < n; k++) x[k] = (float)(exp((double)x[k] - most) / sum);
}

enum pk_status pk_score_metrics(struct pk_metrics *out, const struct pk_evaluator *e, int64_t rows,
                                const uint8_t *label, const struct pk_metrics_options *options,
                                float *score, struct pk_err *err)
{
    const int32_t classes = e->model.classes;
    for (int64_t i = 0; e->model.softmax && !e->max_sigmoid && i < rows; i++)
        softmax(score + i * classes, classes);
    const struct pk_scores in = {.rows = rows, .classes = classes, .labels = label, .f32 = score};
    return pk_metrics_compute(out, &in, options, err);
}

enum pk_status pk_evaluate_metrics(struct pk_metrics *out, struct pk_evaluator *e,
                                   const struct pk_dataset *data, const struct pk_rows *rows,
                                   const double (*mean)[PK_LEADS_MAX],
                                   const double (*std)[PK_LEADS_MAX], const uint8_t *label,
                                   const struct pk_metrics_options *options, float *score,
                                   struct pk_err *err)
{
    PK_TRY(pk_evaluate(e, data, rows, mean, std, score, NULL, err));
    return pk_score_metrics(out, e, rows->count, label, options, score, err);
}

enum pk_status pk_evaluate_labels(uint8_t **out, const struct pk_task *task,
                                  const struct pk_rows *rows, struct pk_err *err)
{
    size_t classes = (size_t)task->classes;
    PK_TRY(pk_alloc(out, (size_t)rows->count * classes, 1, "labels", err));
    for (int64_t i = 0; i < rows->count; i++)
        memcpy(*out + (size_t)i * classes, task->label + (size_t)rows->row[i] * classes, classes);
    return PK_OK;
}

void pk_result_write(struct pk_json_writer *w, const char *key, const struct pk_metrics *m,
                     const struct pk_model_info *info)
{
    pk_json_open(w, key, '{');
    pk_json_put_i64(w, "rows", m->rows);
    pk_json_put_i64(w, "classes", m->classes);
    pk_json_put_f64(w, "macro_auc", m->macro_auc);
    pk_json_put_i64(w, "classes_without_auc", m->undefined);
    if (m->bootstrap.resamples && m->bootstrap.possible) {
        pk_json_open(w, "macro_auc_interval_95", '[');
        pk_json_put_f64(w, NULL, m->bootstrap.macro_auc.low);
        pk_json_put_f64(w, NULL, m->bootstrap.macro_auc.high);
        pk_json_close(w);
        pk_json_put_i64(w, "bootstrap_resamples", m->bootstrap.resamples);
        pk_json_put_i64(w, "bootstrap_seed", (int64_t)m->bootstrap.seed);
    }
    pk_json_put_f64(w, "macro_auc_10_positives", m->macro_auc_frequent);
    pk_json_put_i64(w, "classes_10_positives", m->frequent);
    pk_json_put_f64(w, "macro_auprc", m->macro_average_precision);
    pk_json_put_f64(w, "fmax", m->fmax);
    if (!isnan(m->accuracy)) pk_json_put_f64(w, "accuracy", m->accuracy);
    pk_json_open(w, "per_class", '[');
    for (int32_t k = 0; k < m->classes; k++) {
        pk_json_open(w, NULL, '{');
        pk_json_put_string(w, "class", k < info->classes ? info->class_name[k] : "");
        pk_json_put_i64(w, "positives", m->per_class[k].positives);
        pk_json_put_f64(w, "auc", m->per_class[k].auc);
        pk_json_put_f64(w, "auprc", m->per_class[k].average_precision);
        pk_json_close(w);
    }
    pk_json_close(w);
    pk_json_close(w);
}

void pk_result_print(const char *title, const struct pk_metrics *m,
                     const struct pk_model_info *info)
{
    printf("%s: %lld records, task %s (%d classes)\n", title, (long long)m->rows, info->task,
           m->classes);
    printf("  macro AUC               %.4f", m->macro_auc);
    if (m->bootstrap.resamples && m->bootstrap.possible)
        printf("  [%.4f, %.4f] 95 %%, %lld resamples", m->bootstrap.macro_auc.low,
               m->bootstrap.macro_auc.high, (long long)m->bootstrap.resamples);
    if (m->undefined) printf("  (without %d classes that have no AUC)", m->undefined);
    printf("\n  macro AUC, >=10 pos.    %.4f  (%d classes)\n", m->macro_auc_frequent, m->frequent);
    printf("  macro AUPRC             %.4f\n  Fmax                    %.4f\n",
           m->macro_average_precision, m->fmax);
    if (!isnan(m->accuracy)) printf("  accuracy                %.4f\n", m->accuracy);
}
