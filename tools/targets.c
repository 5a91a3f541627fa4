/* targets.c -- numbers that a regression learns (see targets.h). */
#include "tools/targets.h"
#include "tools/regression.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum pk_status pk_targets_add(struct pk_targets *t, const struct pk_dataset *d, const char *name,
                              struct pk_err *err)
{
    const struct pk_target *target = pk_dataset_target(d, name);
    struct pk_text have = {0};
    char id[64];
    if (t->count == PK_LEARNED_TARGETS_MAX)
        return pk_fail(err, PK_EINVAL, "more than %d targets", PK_LEARNED_TARGETS_MAX);
    if (!target) {
        for (int32_t i = 0; i < d->targets; i++)
            pk_text_add(&have, "%s%s", i ? ", " : "", d->target[i].name);
        enum pk_status s = pk_fail(err, PK_EDATA, "%s has no target '%s'; it has: %s", d->name,
                                   name, have.s ? have.s : "none");
        pk_text_free(&have);
        return s;
    }
    for (int64_t i = 0; i < d->count; i++) {
        if (!isinf(target->value[i])) continue;
        d->record_id(d, i, id);
        return pk_fail(err, PK_EDATA,
                       "%s: target '%s' of record %s is infinite; a value that is not known has to "
                       "be missing",
                       d->name, name, id);
    }
    t->item[t->count++] = target;
    return PK_OK;
}

bool pk_targets_known(const struct pk_targets *t, int64_t row)
{
    for (int32_t k = 0; k < t->count; k++)
        if (!isnan(t->item[k]->value[row])) return true;
    return t->count == 0;
}

enum pk_status pk_targets_rows(const struct pk_targets *t, struct pk_rows *rows, struct pk_err *err)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < rows->count; i++)
        if (pk_targets_known(t, rows->row[i])) rows->row[kept++] = rows->row[i];
    rows->count = kept;
    if (kept) return PK_OK;
    return pk_fail(err, PK_EDATA, "none of these records has a value of target %s",
                   t->item[0]->name);
}

enum pk_status pk_targets_scale(struct pk_targets *t, const struct pk_rows *train,
                                struct pk_err *err)
{
    for (int32_t k = 0; k < t->count; k++) {
        double n = 0, mean = 0, sum = 0;
        for (int64_t i = 0; i < train->count; i++) {
            const double v = (double)t->item[k]->value[train->row[i]];
            if (isnan(v)) continue;
            const double d = v - mean; // Welford (1962)
            mean += d / ++n;
            sum += d * (v - mean);
        }
        if (n < 2)
            return pk_fail(err, PK_EDATA, "target '%s' has %g values among the training records",
                           t->item[k]->name, n);
        if (!(sum > 0))
            return pk_fail(err, PK_EDATA,
                           "target '%s' is %g in all %g training records that have it: there is "
                           "nothing to learn",
                           t->item[k]->name, mean, n);
        t->mean[k] = mean;
        t->std[k] = sqrt(sum / n);
    }
    return PK_OK;
}

void pk_targets_take(float *out, const struct pk_targets *t, const int64_t *row, int64_t rows,
                     bool scaled)
{
    for (int64_t i = 0; i < rows; i++)
        for (int32_t k = 0; k < t->count; k++) {
            const float v = t->item[k]->value[row[i]];
            const double mean = scaled ? t->mean[k] : 0, std = scaled ? t->std[k] : 1;
            out[i * t->count + k] = (float)(((double)v - mean) / std);
        }
}

void pk_targets_unscale(float *x, const struct pk_targets *t, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++)
        for (int32_t k = 0; k < t->count; k++)
            x[i * t->count + k] = (float)((double)x[i * t->count + k] * t->std[k] + t->mean[k]);
}

/* One target's values, predictions and subjects, of the rows that have it. */
struct known {
    double *value, *prediction;
    uint64_t *subject;
    int64_t rows;
};

static void take_known(struct known *out, const struct pk_targets *t, int32_t k,
                       const struct pk_dataset *d, const struct pk_rows *rows,
                       const float *prediction)
{
    out->rows = 0;
    for (int64_t i = 0; i < rows->count; i++) {
        const double v = (double)t->item[k]->value[rows->row[i]];
        if (isnan(v)) continue;
        out->value[out->rows] = v;
        out->prediction[out->rows] = (double)prediction[i * t->count + k];
        out->subject[out->rows++] = pk_row_subject(d, rows->row[i]);
    }
}

static void nothing(struct pk_regression_result *out)
{
    *out = (struct pk_regression_result){.gain = (double)NAN};
    for (int k = 0; k < PK_REGRESSION_SCORES; k++)
        out->r.value[k] = out->mean.value[k] = (double)NAN;
}

enum pk_status pk_targets_score(struct pk_regression_result *out, const struct pk_targets *t,
                                const struct pk_dataset *d, const struct pk_rows *rows,
                                const float *prediction, const struct pk_metrics_options *options,
                                struct pk_err *err)
{
    struct known x = {0};
    const size_t n = (size_t)rows->count;
    enum pk_status s = pk_alloc(&x.value, n, sizeof *x.value, "targets", err);
    if (s == PK_OK) s = pk_alloc(&x.prediction, n, sizeof *x.prediction, "predictions", err);
    if (s == PK_OK) s = pk_alloc(&x.subject, n, sizeof *x.subject, "subjects", err);
    for (int32_t k = 0; s == PK_OK && k < t->count; k++) {
        nothing(&out[k]);
        take_known(&x, t, k, d, rows, prediction);
        if (!x.rows) continue;
        const struct pk_regression_truth truth = {x.rows, x.value, x.subject, t->mean[k]};
        s = pk_regression_score(&out[k], &truth, x.prediction, options, err);
        if (s != PK_OK) pk_err_context(err, "target '%s'", t->item[k]->name);
    }
    free(x.value);
    free(x.prediction);
    free(x.subject);
    return s;
}

double pk_targets_rmse(const struct pk_targets *t, const struct pk_regression_result *result)
{
    double sum = 0;
    int32_t n = 0;
    for (int32_t k = 0; k < t->count; k++) {
        if (!result[k].r.rows) continue;
        sum += result[k].r.value[PK_RMSE] / t->std[k];
        n++;
    }
    return sum / n;
}

void pk_targets_put(struct pk_json_writer *w, const char *key, const struct pk_targets *t,
                    const struct pk_regression_result *result)
{
    pk_json_open(w, key, '{');
    pk_json_put_f64(w, "rmse_in_deviations", pk_targets_rmse(t, result));
    pk_json_open(w, "targets", '[');
    for (int32_t k = 0; k < t->count; k++) {
        pk_json_open(w, NULL, '{');
        pk_json_put_string(w, "target", t->item[k]->name);
        pk_json_put_f64(w, "training_mean", t->mean[k]);
        pk_json_put_f64(w, "training_std", t->std[k]);
        pk_regression_put(w, "scores", &result[k].r);
        if (result[k].r.rows) {
            pk_json_open(w, "chance", '{');
            pk_regression_put_chance(w, &result[k]);
            pk_json_close(w);
        }
        pk_json_close(w);
    }
    pk_json_close(w);
    pk_json_close(w);
}

void pk_targets_print(const char *title, const struct pk_targets *t,
                      const struct pk_regression_result *result)
{
    for (int32_t k = 0; k < t->count; k++) {
        const char *unit = pk_target_unit(t->item[k]->name);
        printf("%s: target %s%s%s, %lld records of %lld subjects\n", title, t->item[k]->name,
               *unit ? " in" : "", unit, (long long)result[k].r.rows,
               (long long)result[k].r.subjects);
        for (int score = 0; result[k].r.rows && score < PK_REGRESSION_SCORES; score++) {
            pk_regression_print_score(&result[k], score);
            printf("\n");
        }
        if (result[k].r.rows) pk_regression_print_words(&result[k], t->item[k]->name);
    }
}
