/* regression.c -- scores of predicted numbers beside chance, for files and people (see
 * regression.h). */
#include "tools/regression.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Mean and interval of |level - y| - |prediction - y|: the same subjects judge both predictions, so
 * that a hard subject among those drawn counts against neither. The scores of a regression serve:
 * the mean of errors lifted above 0 by a constant is their MAE. */
static enum pk_status score_gain(struct pk_regression_result *out,
                                 const struct pk_regression_truth *t, const double *prediction,
                                 double *error, double *zero,
                                 const struct pk_metrics_options *options, struct pk_err *err)
{
    struct pk_regression r;
    double lift = 1;
    for (int64_t i = 0; i < t->rows; i++) {
        error[i] = fabs(t->level - t->value[i]) - fabs(prediction[i] - t->value[i]);
        lift = fmax(lift, 2 * fabs(error[i]));
        zero[i] = 0;
    }
    for (int64_t i = 0; i < t->rows; i++) error[i] += lift;
    PK_TRY(pk_regression_compute(&r, zero, error, t->subject, t->rows, options, err));
    const struct pk_interval *v = &r.interval[PK_MAE];
    out->gain = r.value[PK_MAE] - lift;
    out->gain_interval = (struct pk_interval){v->mean - lift, v->low - lift, v->high - lift};
    return PK_OK;
}

enum pk_status pk_regression_score(struct pk_regression_result *out,
                                   const struct pk_regression_truth *t, const double *prediction,
                                   const struct pk_metrics_options *options, struct pk_err *err)
{
    double *level, *zero = NULL;
    struct pk_metrics_options once = *options;
    const size_t n = (size_t)t->rows;
    once.resamples = 0;
    *out = (struct pk_regression_result){.gain = 0};
    PK_TRY(pk_regression_compute(&out->r, t->value, prediction, t->subject, t->rows, options, err));
    PK_TRY(pk_alloc(&level, n, sizeof *level, "predictions of the mean", err));
    for (size_t i = 0; i < n; i++) level[i] = t->level;
    enum pk_status s =
        pk_regression_compute(&out->mean, t->value, level, t->subject, t->rows, &once, err);
    if (s == PK_OK) s = pk_alloc(&zero, n, sizeof *zero, "errors", err);
    if (s == PK_OK) s = score_gain(out, t, prediction, level, zero, options, err);
    free(level);
    free(zero);
    return s;
}

const char *pk_verdict_beside(const struct pk_interval *i, double chance, int64_t subjects)
{
    if (isnan(i->low) || isnan(i->high)) return NULL;
    if (subjects < PK_VERDICT_SUBJECTS) return "too few test subjects to tell";
    if (i->low <= chance && chance <= i->high) return "no better than chance";
    return i->low > chance ? "better than chance" : "worse than chance";
}

const char *pk_regression_verdict(const struct pk_regression_result *r)
{
    return r->r.resamples ? pk_verdict_beside(&r->gain_interval, 0, r->r.subjects) : NULL;
}

const char *pk_target_unit(const char *target)
{
    static const char *const known[][2] = {{"sbp", " mmHg"},
                                           {"dbp", " mmHg"},
                                           {"hr", " beats/min"},
                                           {"pulse", " beats/min"},
                                           {"heart_rate", " beats/min"},
                                           {"resp", " breaths/min"},
                                           {"spo2", " %"},
                                           {"age", " years"},
                                           {"height", " cm"},
                                           {"weight", " kg"}};
    for (size_t k = 0; k < PK_COUNT(known); k++)
        if (!strcmp(known[k][0], target)) return known[k][1];
    return "";
}

static void put_interval(struct pk_json_writer *w, const char *key, const struct pk_interval *i)
{
    pk_json_open(w, key, '[');
    pk_json_put_f64(w, NULL, i->low);
    pk_json_put_f64(w, NULL, i->high);
    pk_json_close(w);
}

void pk_regression_put(struct pk_json_writer *w, const char *key, const struct pk_regression *r)
{
    pk_json_open(w, key, '{');
    pk_json_put_i64(w, "rows", r->rows);
    pk_json_put_i64(w, "subjects", r->subjects);
    pk_json_put_f64(w, "target_mean", r->mean);
    pk_json_put_f64(w, "target_std", r->deviation);
    for (int k = 0; k < PK_REGRESSION_SCORES; k++)
        pk_json_put_f64(w, pk_regression_score_name(k), r->value[k]);
    if (r->resamples) {
        pk_json_open(w, "interval_95", '{');
        for (int k = 0; k < PK_REGRESSION_SCORES; k++)
            put_interval(w, pk_regression_score_name(k), &r->interval[k]);
        pk_json_close(w);
        pk_json_put_string(w, "bootstrap_unit", "subject");
        pk_json_put_i64(w, "bootstrap_resamples", r->resamples);
        pk_json_put_i64(w, "bootstrap_seed", (int64_t)r->seed);
    }
    pk_json_close(w);
}

void pk_regression_put_chance(struct pk_json_writer *w, const struct pk_regression_result *r)
{
    const char *verdict = pk_regression_verdict(r);
    if (verdict) pk_json_put_string(w, "verdict", verdict);
    pk_regression_put(w, "training_mean", &r->mean);
    pk_json_put_f64(w, "mae_above_ours", r->gain);
    put_interval(w, "mae_above_ours_interval_95", &r->gain_interval);
}

void pk_regression_print_score(const struct pk_regression_result *r, enum pk_regression_score k)
{
    static const char *const title[] = {"MAE", "RMSE", "R2", "Pearson r"};
    const struct pk_interval *i = &r->r.interval[k];
    printf("  %-22s %9.4f", title[k], r->r.value[k]);
    if (r->r.resamples && !isnan(i->low)) printf("  [%.4f, %.4f] 95 %%", i->low, i->high);
    if (isnan(r->mean.value[k]))
        printf("  chance: mean of training: none");
    else
        printf("  chance: mean of training %.4f", r->mean.value[k]);
}

void pk_regression_print_words(const struct pk_regression_result *r, const char *target)
{
    const char *verdict = pk_regression_verdict(r);
    const struct pk_interval *i = &r->r.interval[PK_MAE];
    if (!verdict && r->r.resamples && r->r.subjects == 1)
        printf("  in words: all test records are of one subject, who stands for nobody else: no "
               "interval\n");
    if (!verdict) return; // without an interval nothing can be said
    printf("  in words: MAE %.1f [%.1f, %.1f]%s; predicting the mean gives %.1f, which is %.1f "
           "[%.1f, %.1f] more: %s\n",
           r->r.value[PK_MAE], i->low, i->high, pk_target_unit(target), r->mean.value[PK_MAE],
           r->gain, r->gain_interval.low, r->gain_interval.high, verdict);
}
