/* metrics_regression.c -- see metrics_regression.h. Each subject is reduced to eight sums once, of
 * which any resample is a weighted total. */
#include "core/metrics_regression.h"
#include "core/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sums { // y and p less the mean of all y, so that squares do not cancel
    double n, error, error2, y, p, yy, pp, yp;
};

struct keyed {
    uint64_t key;
    int64_t row;
};

const char *pk_regression_score_name(enum pk_regression_score s)
{
    static const char *const name[] = {"mae", "rmse", "r2", "pearson_r"};
    return name[s];
}

static void add(struct sums *a, const struct sums *b)
{
    a->n += b->n;
    a->error += b->error;
    a->error2 += b->error2;
    a->y += b->y;
    a->p += b->p;
    a->yy += b->yy;
    a->pp += b->pp;
    a->yp += b->yp;
}

static struct sums of_row(double y, double p)
{
    return (struct sums){1, fabs(p - y), (p - y) * (p - y), y, p, y * y, p * p, y * p};
}

static void scores(double out[PK_REGRESSION_SCORES], const struct sums *s)
{
    double vy = s->yy - s->y * s->y / s->n, vp = s->pp - s->p * s->p / s->n;
    double covariance = s->yp - s->y * s->p / s->n;
    bool flat_y = !(vy > 1e-13 * s->yy), flat_p = !(vp > 1e-13 * s->pp);
    out[PK_MAE] = s->error / s->n;
    out[PK_RMSE] = sqrt(s->error2 / s->n);
    out[PK_R2] = flat_y ? (double)NAN : 1 - s->error2 / vy;
    out[PK_PEARSON] = flat_y || flat_p ? (double)NAN : covariance / sqrt(vy * vp);
}

static int by_key(const void *a, const void *b)
{
    const struct keyed *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Sums per subject, by rising key, into sum [rows]; their number into out. */
static enum pk_status reduce(struct pk_regression *out, struct sums *sum, const double *y,
                             const double *p, const uint64_t *subject, struct pk_err *err)
{
    struct keyed *k;
    PK_TRY(pk_alloc(&k, (size_t)out->rows, sizeof *k, "subjects", err));
    for (int64_t i = 0; i < out->rows; i++) k[i] = (struct keyed){subject[i], i};
    qsort(k, (size_t)out->rows, sizeof *k, by_key);
    for (int64_t i = 0; i < out->rows; i++) {
        if (!i || k[i].key != k[i - 1].key) out->subjects++;
        struct sums r = of_row(y[k[i].row] - out->mean, p[k[i].row] - out->mean);
        add(&sum[out->subjects - 1], &r);
    }
    free(k);
    return PK_OK;
}

static enum pk_status bootstrap(struct pk_regression *out, const struct sums *sum,
                                const struct pk_metrics_options *o, struct pk_err *err)
{
    int64_t n = o->resamples, count[PK_REGRESSION_SCORES] = {0};
    bool usual = o->low == 0 && o->high == 0;
    double *value, v[PK_REGRESSION_SCORES];
    PK_TRY(pk_alloc(&value, (size_t)n, sizeof v, "resamples", err)); // [scores, n]
    for (int64_t b = 0; b < n; b++) {
        struct pk_rng rng = pk_rng_make(o->seed, PK_RNG_BOOTSTRAP, (uint64_t)b, 0);
        struct sums s = {0};
        for (int64_t i = 0; i < out->subjects; i++)
            add(&s, &sum[pk_rng_below(&rng, (uint64_t)out->subjects)]);
        scores(v, &s);
        for (int k = 0; k < PK_REGRESSION_SCORES; k++)
            if (!isnan(v[k])) value[k * n + count[k]++] = v[k];
    }
    for (int k = 0; k < PK_REGRESSION_SCORES; k++) {
        out->undefined[k] = n - count[k];
        if (!count[k]) continue;
        out->interval[k] =
            pk_interval_of(value + k * n, count[k], usual ? 2.5 : o->low, usual ? 97.5 : o->high);
    }
    free(value);
    return PK_OK;
}

enum pk_status pk_regression_compute(struct pk_regression *out, const double *y,
                                     const double *prediction, const uint64_t *subject,
                                     int64_t rows, const struct pk_metrics_options *options,
                                     struct pk_err *err)
{
    struct sums *sum, all = {0};
    *out = (struct pk_regression){
        .rows = rows, .resamples = options->resamples, .seed = options->seed};
    for (int k = 0; k < PK_REGRESSION_SCORES; k++)
        out->interval[k] = (struct pk_interval){(double)NAN, (double)NAN, (double)NAN};
    if (rows < 1 || options->resamples < 0)
        return pk_fail(err, PK_EINVAL, "%lld rows, %lld resamples", (long long)rows,
                       (long long)options->resamples);
    for (int64_t i = 0; i < rows; i++) {
        if (!isfinite(y[i]) || !isfinite(prediction[i]))
            return pk_fail(err, PK_EDATA, "row %lld: target %g, prediction %g", (long long)i, y[i],
                           prediction[i]);
        out->mean += y[i];
    }
    out->mean /= (double)rows;
    PK_TRY(pk_alloc(&sum, (size_t)rows, sizeof *sum, "subjects", err));
    enum pk_status s = reduce(out, sum, y, prediction, subject, err);
    for (int64_t i = 0; s == PK_OK && i < out->subjects; i++) add(&all, &sum[i]);
    if (s == PK_OK) {
        scores(out->value, &all);
        out->deviation = sqrt(fmax(0, all.yy / all.n - all.y / all.n * (all.y / all.n)));
        // one subject drawn with replacement is that one again: no interval, and not one of width 0
        if (options->resamples && out->subjects > 1) s = bootstrap(out, sum, options, err);
    }
    free(sum);
    return s;
}
