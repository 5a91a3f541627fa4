/* linear_eval.c -- the protocol of linear evaluation (see linear_eval.h). */
#include "tools/linear_eval.h"
#include "core/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN = 5 }; // leaks that a message names

/* --- rows ---------------------------------------------------------------------------------- */

/* Rows of the folds that have what is learned. */
static enum pk_status select_side(struct pk_rows *out, struct pk_linear_eval *e,
                                  const struct pk_folds *folds, const char *side,
                                  struct pk_err *err)
{
    enum pk_status s =
        pk_rows_select(out, e->data, folds, -1, e->task, e->task && e->spec.single, err);
    if (s != PK_OK) {
        pk_err_context(err, "%s records", side);
        return s;
    }
    if (!e->target) return PK_OK;
    int64_t kept = 0;
    for (int64_t i = 0; i < out->count; i++)
        if (isfinite(e->target->value[out->row[i]])) out->row[kept++] = out->row[i];
    e->missing += out->count - kept;
    out->count = kept;
    if (kept) return PK_OK;
    return pk_fail(err, PK_EDATA, "%s records: none has a value of target %s", side,
                   e->target->name);
}

/* The union of both sides by rising dataset row, and where each side lies in it. */
static enum pk_status merge(struct pk_linear_eval *e, const struct pk_rows *train,
                            const struct pk_rows *test, struct pk_err *err)
{
    size_t n = (size_t)(train->count + test->count);
    PK_TRY(pk_alloc(&e->rows.row, n, sizeof *e->rows.row, "rows", err));
    PK_TRY(pk_alloc(&e->train, (size_t)train->count, sizeof *e->train, "rows", err));
    PK_TRY(pk_alloc(&e->test, (size_t)test->count, sizeof *e->test, "rows", err));
    int64_t a = 0, b = 0;
    while (a < train->count || b < test->count) {
        int64_t at = e->rows.count++;
        bool left = b == test->count || (a < train->count && train->row[a] < test->row[b]);
        if (left)
            e->train[e->trains++] = at;
        else
            e->test[e->tests++] = at;
        e->rows.row[at] = left ? train->row[a++] : test->row[b++];
    }
    return PK_OK;
}

/* Keys of subjects: the patient, or the record itself where that is unknown. */
static enum pk_status take_subjects(struct pk_linear_eval *e, struct pk_err *err)
{
    PK_TRY(pk_alloc(&e->subject, (size_t)e->rows.count, sizeof *e->subject, "subjects", err));
    for (int64_t i = 0; i < e->rows.count; i++) {
        e->subject[i] = pk_row_subject(e->data, e->rows.row[i]);
        e->unknown += e->data->record[e->rows.row[i]].patient == 0;
    }
    return PK_OK;
}

struct seat {
    uint64_t subject;
    int64_t row; // among e->rows
};

static int by_subject(const void *a, const void *b)
{
    const struct seat *x = a, *y = b;
    return x->subject < y->subject ? -1 : x->subject > y->subject;
}

static void name_record(struct pk_text *out, const struct pk_linear_eval *e, int64_t row)
{
    char id[PK_ID_MAX];
    e->data->record_id(e->data, e->rows.row[row], id);
    pk_text_add(out, "%s (fold %d)", id, e->data->record[e->rows.row[row]].fold);
}

/* No subject may be on both sides: its records are alike for reasons other than the label. */
static enum pk_status refuse_leaks(const struct pk_linear_eval *e, struct pk_err *err)
{
    struct seat *seat;
    struct pk_text names = {0};
    int64_t leaks = 0;
    PK_TRY(pk_alloc(&seat, (size_t)e->trains, sizeof *seat, "subjects", err));
    for (int64_t i = 0; i < e->trains; i++)
        seat[i] = (struct seat){e->subject[e->train[i]], e->train[i]};
    qsort(seat, (size_t)e->trains, sizeof *seat, by_subject);
    for (int64_t i = 0; i < e->tests; i++) {
        struct seat want = {.subject = e->subject[e->test[i]]};
        struct seat *at = bsearch(&want, seat, (size_t)e->trains, sizeof *seat, by_subject);
        if (!at || leaks++ >= SHOWN) continue;
        pk_text_add(&names, "%s", leaks > 1 ? "; " : "");
        name_record(&names, e, e->test[i]);
        pk_text_add(&names, " and ");
        name_record(&names, e, at->row);
    }
    free(seat);
    enum pk_status s = PK_OK;
    if (leaks)
        s = pk_fail(err, PK_EDATA,
                    "%lld test records are of subjects who are in training too, which makes scores "
                    "too good: %s%s; choose folds that keep subjects together",
                    (long long)leaks, names.s ? names.s : "", leaks > SHOWN ? "; ..." : "");
    pk_text_free(&names);
    return s;
}

static enum pk_status count_subjects(int64_t *out, const uint64_t *subject, const int64_t *row,
                                     int64_t rows, struct pk_err *err)
{
    struct seat *seat;
    PK_TRY(pk_alloc(&seat, (size_t)rows, sizeof *seat, "subjects", err));
    for (int64_t i = 0; i < rows; i++) seat[i].subject = subject[row[i]];
    qsort(seat, (size_t)rows, sizeof *seat, by_subject);
    *out = 0;
    for (int64_t i = 0; i < rows; i++) *out += !i || seat[i].subject != seat[i - 1].subject;
    free(seat);
    return PK_OK;
}

static enum pk_status take_values(struct pk_linear_eval *e, struct pk_err *err)
{
    struct pk_learning *l = &e->learning;
    l->subject = e->subject;
    l->multinomial = e->task && e->spec.single;
    if (e->task) {
        PK_TRY(pk_evaluate_labels(&e->label, e->task, &e->rows, err));
        l->label = e->label;
        l->classes = e->task->classes;
        return PK_OK;
    }
    PK_TRY(pk_alloc(&e->value, (size_t)e->rows.count, sizeof *e->value, "targets", err));
    for (int64_t i = 0; i < e->rows.count; i++)
        e->value[i] = (double)e->target->value[e->rows.row[i]];
    l->value = e->value;
    l->classes = 1;
    return PK_OK;
}

enum pk_status pk_linear_eval_rows(struct pk_linear_eval *e, const struct pk_folds *train,
                                   const struct pk_folds *test, struct pk_err *err)
{
    struct pk_rows left = {0}, right = {0};
    if (train->all || test->all || (train->bits[0] & test->bits[0]) ||
        (train->bits[1] & test->bits[1]))
        return pk_fail(err, PK_EUSAGE, "folds %s to train and %s to test have a fold in common",
                       e->spec.train_folds, e->spec.test_folds);
    enum pk_status s = select_side(&left, e, train, "training", err);
    if (s == PK_OK) s = select_side(&right, e, test, "test", err);
    if (s == PK_OK) s = merge(e, &left, &right, err);
    free(left.row);
    free(right.row);
    if (s == PK_OK) s = take_subjects(e, err);
    if (s == PK_OK) s = refuse_leaks(e, err);
    if (s == PK_OK) s = count_subjects(&e->test_subjects, e->subject, e->test, e->tests, err);
    return s == PK_OK ? take_values(e, err) : s;
}

/* --- fitting and scoring ------------------------------------------------------------------- */

/* Predictions for the test rows after learning from o->train, from l, which may have labels
 * shuffled. keep: the model stays in o. */
static enum pk_status predict(double *out, struct pk_linear_eval *e, struct pk_linear_outcome *o,
                              const struct pk_learning *l, bool keep, struct pk_pool *pool,
                              struct pk_err *err)
{
    struct pk_standard standard = {0};
    struct pk_linear model = {0};
    if (e->spec.knn)
        return pk_knn(out, l, o->train, o->trains, e->test, e->tests, &e->spec.neighbours, pool,
                      err);
    enum pk_status s = pk_learn(&standard, &model, l, o->train, o->trains, o->penalty, pool, err);
    if (s == PK_OK) s = pk_apply(out, &standard, &model, l, e->test, e->tests, pool, err);
    if (s == PK_OK && keep) {
        o->standard = standard;
        o->model = model;
    } else {
        pk_standard_free(&standard);
        pk_linear_free(&model);
    }
    return s;
}

/* Labels, values and subjects of the test rows, one after the other. */
struct truth {
    uint8_t *label;
    double *value;
    uint64_t *subject;
};

static enum pk_status take_truth(struct truth *t, const struct pk_linear_eval *e,
                                 struct pk_err *err)
{
    size_t n = (size_t)e->tests, k = (size_t)e->learning.classes;
    PK_TRY(pk_alloc(&t->label, n, k, "labels", err));
    PK_TRY(pk_alloc(&t->value, n, sizeof *t->value, "targets", err));
    PK_TRY(pk_alloc(&t->subject, n, sizeof *t->subject, "subjects", err));
    for (size_t i = 0; i < n; i++) {
        size_t row = (size_t)e->test[i];
        if (e->label) memcpy(t->label + i * k, e->label + row * k, k);
        if (e->value) t->value[i] = e->value[row];
        t->subject[i] = e->subject[row];
    }
    return PK_OK;
}

static struct pk_metrics_options options_of(const struct pk_linear_eval *e, const struct truth *t,
                                            int64_t resamples)
{
    return (struct pk_metrics_options){.resamples = resamples,
                                       .seed = e->spec.bootstrap_seed,
                                       .threads = e->spec.threads,
                                       .subject = t->subject};
}

static enum pk_status score_classes(struct pk_metrics *m, const struct pk_linear_eval *e,
                                    const struct truth *t, const double *p, int64_t resamples,
                                    struct pk_err *err)
{
    const struct pk_metrics_options o = options_of(e, t, resamples);
    struct pk_scores in = {
        .rows = e->tests, .classes = e->learning.classes, .labels = t->label, .f64 = p};
    return pk_metrics_compute(m, &in, &o, err);
}

/* The outcome, and the level of knowing nothing but the training labels' frequencies, or the
 * values' mean. p: scratch [tests, classes]. */
static enum pk_status score(struct pk_linear_outcome *o, const struct pk_linear_eval *e,
                            const struct truth *t, double *p, struct pk_err *err)
{
    const struct pk_metrics_options options = options_of(e, t, e->spec.resamples);
    int32_t k = e->learning.classes;
    for (int32_t c = 0; c < k; c++) {
        double sum = 0;
        for (int64_t i = 0; i < o->trains; i++)
            sum += e->task ? (double)e->label[o->train[i] * k + c] : e->value[o->train[i]];
        for (int64_t i = 0; i < e->tests; i++) p[i * k + c] = sum / (double)o->trains;
    }
    if (e->target) {
        const struct pk_regression_truth truth = {e->tests, t->value, t->subject, p[0]};
        return pk_regression_score(&o->target, &truth, o->score, &options, err);
    }
    PK_TRY(score_classes(&o->m, e, t, o->score, e->spec.resamples, err));
    return score_classes(&o->prior, e, t, p, 0, err);
}

/* Copies of the labels in which those of the training rows have changed places. */
static void shuffle(const struct pk_linear_eval *e, const struct pk_linear_outcome *o,
                    uint64_t number, uint8_t *label, double *value)
{
    size_t k = (size_t)e->learning.classes;
    struct pk_rng rng = pk_rng_make(e->spec.seed, PK_RNG_SHUFFLE, number, 0);
    if (label) memcpy(label, e->label, (size_t)e->rows.count * k);
    if (value) memcpy(value, e->value, (size_t)e->rows.count * sizeof *value);
    for (int64_t i = o->trains - 1; i > 0; i--) {
        int64_t a = o->train[i], b = o->train[pk_rng_below(&rng, (uint64_t)i + 1)];
        for (size_t c = 0; label && c < k; c++) {
            uint8_t kept = label[(size_t)a * k + c];
            label[(size_t)a * k + c] = label[(size_t)b * k + c];
            label[(size_t)b * k + c] = kept;
        }
        if (value) {
            double kept = value[a];
            value[a] = value[b];
            value[b] = kept;
        }
    }
}

static enum pk_status score_shuffled(struct pk_linear_outcome *o, struct pk_linear_eval *e,
                                     const struct truth *t, double *p, struct pk_pool *pool,
                                     struct pk_err *err)
{
    struct pk_learning l = e->learning;
    uint8_t *label = NULL;
    double *value = NULL;
    enum pk_status s = pk_alloc(&o->shuffled, (size_t)e->spec.shuffles,
                                PK_REGRESSION_SCORES * sizeof(double), "chance levels", err);
    if (s == PK_OK && e->task)
        s = pk_alloc(&label, (size_t)e->rows.count, (size_t)l.classes, "labels", err);
    if (s == PK_OK && !e->task)
        s = pk_alloc(&value, (size_t)e->rows.count, sizeof *value, "targets", err);
    l.label = label;
    l.value = value;
    for (int64_t i = 0; s == PK_OK && i < e->spec.shuffles; i++) {
        const struct pk_metrics_options options = options_of(e, t, 0);
        struct pk_metrics m = {0};
        struct pk_regression r = {0};
        shuffle(e, o, (uint64_t)i, label, value);
        s = predict(p, e, o, &l, false, pool, err);
        if (s == PK_OK && e->task) s = score_classes(&m, e, t, p, 0, err);
        if (s == PK_OK && e->target)
            s = pk_regression_compute(&r, t->value, p, t->subject, e->tests, &options, err);
        if (s != PK_OK) break;
        double *at = o->shuffled + i * PK_REGRESSION_SCORES;
        memcpy(at, r.value, sizeof r.value);
        if (e->task) at[0] = m.macro_auc;
        pk_metrics_free(&m);
        o->shuffles++;
    }
    free(label);
    free(value);
    return s;
}

static enum pk_status run_fraction(struct pk_linear_eval *e, struct pk_linear_outcome *o,
                                   const struct truth *t, double *scratch, struct pk_pool *pool,
                                   struct pk_err *err)
{
    const struct pk_linear_spec *spec = &e->spec;
    size_t outputs = (size_t)e->learning.classes;
    PK_TRY(pk_alloc(&o->train, (size_t)e->trains, sizeof *o->train, "rows", err));
    memcpy(o->train, e->train, (size_t)e->trains * sizeof *o->train);
    o->trains = e->trains;
    PK_TRY(pk_subset_by_subject(o->train, &o->trains, &e->learning, o->percent / 100, spec->seed,
                                err));
    PK_TRY(count_subjects(&o->subjects, e->subject, o->train, o->trains, err));
    PK_TRY(pk_alloc(&o->score, (size_t)e->tests, outputs * sizeof *o->score, "scores", err));
    if (!spec->knn) {
        PK_TRY(pk_search_penalty(&o->search, &e->learning, o->train, o->trains, spec->folds,
                                 spec->penalty, spec->penalties, pool, err));
        o->penalty = spec->penalty[o->search.best];
    }
    PK_TRY(predict(o->score, e, o, &e->learning, true, pool, err));
    PK_TRY(score(o, e, t, scratch, err));
    return score_shuffled(o, e, t, scratch, pool, err);
}

/* Embeddings that are no numbers, by record. */
static enum pk_status check_embeddings(const struct pk_linear_eval *e, int32_t width,
                                       struct pk_err *err)
{
    for (int64_t i = 0; i < e->rows.count; i++)
        for (int32_t j = 0; j < width; j++) {
            double v = (double)e->embedding[i * width + j];
            char id[PK_ID_MAX];
            if (isfinite(v)) continue;
            e->data->record_id(e->data, e->rows.row[i], id);
            return pk_fail(err, PK_EDATA,
                           "the embedding of record %s is %g in feature %d; the model diverged or "
                           "the file is damaged",
                           id, v, j);
        }
    return PK_OK;
}

enum pk_status pk_linear_eval_run(struct pk_linear_eval *e, int32_t width, struct pk_err *err)
{
    struct truth t = {0};
    struct pk_pool *pool = NULL;
    double *scratch = NULL;
    PK_TRY(check_embeddings(e, width, err));
    e->learning.x = (struct pk_features){e->rows.count, width, e->embedding};
    enum pk_status s = pk_pool_create(&pool, e->spec.threads, NULL, err);
    if (s == PK_OK) s = take_truth(&t, e, err);
    if (s == PK_OK)
        s = pk_alloc(&scratch, (size_t)e->tests, (size_t)e->learning.classes * sizeof *scratch,
                     "scores", err);
    for (int i = 0; s == PK_OK && i < e->spec.fractions; i++) {
        struct pk_linear_outcome *o = &e->outcome[e->outcomes++];
        o->percent = e->spec.percent[i];
        s = run_fraction(e, o, &t, scratch, pool, err);
        if (s != PK_OK) pk_err_context(err, "%g %% of the training subjects", o->percent);
    }
    pk_pool_free(pool);
    free(scratch);
    free(t.label);
    free(t.value);
    free(t.subject);
    return s;
}

void pk_linear_eval_free(struct pk_linear_eval *e)
{
    for (int i = 0; i < e->outcomes; i++) {
        struct pk_linear_outcome *o = &e->outcome[i];
        free(o->train);
        free(o->score);
        free(o->shuffled);
        pk_search_free(&o->search);
        pk_standard_free(&o->standard);
        pk_linear_free(&o->model);
        pk_metrics_free(&o->m);
        pk_metrics_free(&o->prior);
    }
    free(e->rows.row);
    free(e->embedding);
    free(e->label);
    free(e->value);
    free(e->subject);
    free(e->train);
    free(e->test);
    *e = (struct pk_linear_eval){0};
}
