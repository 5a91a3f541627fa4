/* test_metrics.c -- the corners of the metrics by hand-computed values; test_metrics_sklearn.py
 * compares with sklearn at large. */
#include "core/metrics.h"
#include "tests/test.h"

static struct pk_metrics score(int64_t rows, int32_t classes, const uint8_t *labels,
                               const double *scores, int64_t resamples)
{
    struct pk_err err = {0};
    struct pk_metrics m;
    struct pk_scores in = {.rows = rows, .classes = classes, .labels = labels, .f64 = scores};
    struct pk_metrics_options o = {.min_positives = 2, .resamples = resamples, .threads = 2};
    CHECK_OK(pk_metrics_compute(&m, &in, &o, &err), &err);
    return m;
}

static void one_class(void)
{
    static const struct {
        int rows;
        uint8_t label[6];
        double score[6], auc, ap;
    } t[] = {
        {4, {0, 0, 1, 1}, {.1, .4, .35, .8}, .75, (2. / 3 + 1) / 2}, // sklearn's own example
        {4, {1, 1, 0, 0}, {.9, .8, .2, .1}, 1, 1},                   // perfect
        {4, {0, 0, 1, 1}, {.9, .8, .2, .1}, 0, (1. / 3 + .5) / 2},   // reversed
        {6, {0, 1, 0, 1, 0, 1}, {.5, .5, .5, .5, .5, .5}, .5, .5},   // all tied
        {5, {0, 0, 1, 0, 0}, {.1, .2, .2, .2, .3}, .5, .25},         // one positive, tied with two
        {2, {1, 0}, {-5, 7}, 0, .5},                                 // the smallest possible
        {4, {1, 0, 1, 0}, {0., -0., 1, 0.}, .75, (1 + .5) / 2},      // -0 ties with +0
    };
    for (size_t i = 0; i < PK_COUNT(t); i++) {
        struct pk_metrics m = score(t[i].rows, 1, t[i].label, t[i].score, 0);
        CHECK_NEAR(m.macro_auc, t[i].auc, 1e-15);
        CHECK_NEAR(m.macro_average_precision, t[i].ap, 1e-15);
        CHECK(m.undefined == 0 && m.per_class[0].auc == m.macro_auc);
        pk_metrics_free(&m);
    }
}

/* Classes: no positive, no negative, one positive, two positives. */
static void degenerate_classes(void)
{
    static const uint8_t label[12] = {0, 1, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1};
    static const double s[12] = {.1, .2, .9, .4, .3, .3, .2, .9, .5, .1, .8, .3};
    struct pk_metrics m = score(3, 4, label, s, 200);
    CHECK(m.undefined == 2 && isnan(m.per_class[0].auc) && isnan(m.per_class[1].auc));
    CHECK(m.per_class[0].positives == 0 && m.per_class[1].positives == 3);
    CHECK(isnan(m.per_class[0].average_precision) && m.per_class[1].average_precision == 1);
    CHECK(m.without_positive == 1);
    CHECK_NEAR(m.per_class[2].auc, 1, 0);
    CHECK_NEAR(m.per_class[3].auc, .5, 0); // .9 above and .3 below the negative's .4
    CHECK_NEAR(m.macro_auc, .75, 0);
    CHECK(m.frequent == 1);
    CHECK_NEAR(m.macro_auc_frequent, .5, 0);
    CHECK(m.bootstrap.possible && m.bootstrap.rejected > 0); // many draws lack a label
    CHECK(isnan(m.per_class[0].interval.low) && m.per_class[2].interval.low == 1);
    CHECK(m.bootstrap.macro_auc.low >= .5 && m.bootstrap.macro_auc.high <= 1);
    pk_metrics_free(&m);

    struct pk_metrics none = score(3, 1, (const uint8_t[]){0, 0, 0}, s, 10);
    CHECK(none.undefined == 1 && isnan(none.macro_auc) && isnan(none.macro_auc_frequent));
    CHECK(isnan(none.macro_average_precision) && isnan(none.fmax) && !none.bootstrap.possible);
    pk_metrics_free(&none);
}

/* 64 classes, each with one positive row of its own: a draw that keeps them all is a permutation of
 * 64 rows, which 10,000 attempts will not find. */
static void impossible_bootstrap(void)
{
    static uint8_t label[64 * 64];
    static double s[64 * 64];
    for (int i = 0; i < 64; i++) label[65 * i] = 1;
    struct pk_metrics m = score(64, 64, label, s, 3);
    CHECK(!m.bootstrap.possible && m.bootstrap.failed_at == 0 && isnan(m.bootstrap.macro_auc.low));
    CHECK_NEAR(m.macro_auc, .5, 0); // the point estimate stands
    CHECK(m.rows_not_single == 0);
    CHECK_NEAR(m.accuracy, 1. / 64, 1e-15); // of equal scores the first wins
    pk_metrics_free(&m);
}

static void best_f(void)
{
    /* .1 < t <= .5: row 0 predicts class 0 (right, one of its two labels), row 1 classes 0 and 1
     * (one of two right, its only label): precision .75, recall .75. .5 < t <= .6: row 0 the same,
     * row 1 class 1 alone: precision 1, recall .75, so F = 6/7, first at .51. */
    static const uint8_t label[6] = {1, 0, 1, 0, 1, 0};
    static const double s[6] = {.6, .1, .05, .5, .9, .1};
    struct pk_metrics m = score(2, 3, label, s, 0);
    CHECK_NEAR(m.fmax, 6. / 7, 1e-15);
    CHECK_NEAR(m.fmax_threshold, .51, 0);
    CHECK(!m.logits && m.rows_not_single == 1 && isnan(m.accuracy));
    pk_metrics_free(&m);

    double logit[6];
    for (int i = 0; i < 6; i++) logit[i] = log(s[i] / (1 - s[i]));
    m = score(2, 3, label, logit, 0);
    CHECK(m.logits);
    CHECK_NEAR(m.fmax, 6. / 7, 1e-15);
    pk_metrics_free(&m);

    /* A score on a threshold counts as predicted there: both are right at .29 exactly. */
    m = score(2, 1, (const uint8_t[]){1, 0}, (const double[]){.29, .28}, 0);
    CHECK_NEAR(m.fmax, 1, 0);
    CHECK_NEAR(m.fmax_threshold, .29, 0);
    pk_metrics_free(&m);
    /* A row without labels has no recall, but its predictions cost precision. */
    m = score(2, 1, (const uint8_t[]){1, 0}, (const double[]){.5, .5}, 0);
    CHECK_NEAR(m.fmax, 2. / 3, 1e-15);
    pk_metrics_free(&m);
}

static void refusals(void)
{
    uint8_t label[4] = {0, 1, 1, 0};
    float s[4] = {0, 1, 0, 1};
    struct pk_err err = {0};
    struct pk_metrics m;
    struct pk_scores in = {.rows = 2, .classes = 2, .labels = label, .f32 = s};
    struct pk_metrics_options o = {0};
    s[3] = NAN;
    CHECK_FAILS(pk_metrics_compute(&m, &in, &o, &err), PK_EDATA, &err, "row 1, class 1");
    s[3] = -INFINITY;
    CHECK_FAILS(pk_metrics_compute(&m, &in, &o, &err), PK_EDATA, &err, "-inf");
    s[3] = 0;
    label[1] = 2;
    CHECK_FAILS(pk_metrics_compute(&m, &in, &o, &err), PK_EDATA, &err, "row 0, class 1 is 2");
    label[1] = 1;
    in.rows = 0;
    CHECK_FAILS(pk_metrics_compute(&m, &in, &o, &err), PK_EINVAL, &err, "0 rows");
    in.rows = 2;
    in.f32 = NULL;
    CHECK_FAILS(pk_metrics_compute(&m, &in, &o, &err), PK_EINVAL, &err, "scores are needed");
    in.f32 = s;
    o.low = NAN;
    CHECK_FAILS(pk_metrics_compute(&m, &in, &o, &err), PK_EINVAL, &err, "percentiles");
    o.low = 5;
    o.high = 95;
    o.resamples = 4;
    CHECK_OK(pk_metrics_compute(&m, &in, &o, &err), &err);
    CHECK(m.min_positives == 10 && m.bootstrap.low == 5 && m.frequent == 0);
    pk_metrics_free(&m);
}

static void windows(void)
{
    static const float logit[12] = {1, -40, 3, 0, 8, -800, /* row 1 */ 0, 0, 0, 0, NAN, 800};
    float out[4];
    pk_windows_mean_logit(out, logit, 2, 3, 2);
    CHECK_NEAR((double)out[0], 4, 0);
    CHECK_NEAR((double)out[1], -280, 0);
    CHECK(isnan(out[2]));
    pk_windows_max_sigmoid(out, logit, 2, 3, 2);
    CHECK_NEAR((double)out[0], 1 / (1 + exp(-8)), 1e-7);
    CHECK_NEAR((double)out[1], .5, 0);
    CHECK(isnan(out[2])); // one broken window must show
    CHECK_NEAR((double)out[3], 1, 0);
    CHECK(pk_sigmoid(-800) == 0 && pk_sigmoid(800) == 1 && pk_sigmoid(0) == .5);
    CHECK_NEAR(pk_sigmoid(-40), 4.248354255291589e-18, 1e-32);
}

/* Subjects of one row each are drawn as rows are; every row four times, as records of one subject,
 * gives the interval of the rows once; the same rows as strangers a narrower one. */
static void bootstrap_of_subjects(void)
{
    enum { N = 40, TIMES = 4 };
    uint8_t label[N * TIMES];
    double score[N * TIMES];
    uint64_t subject[N * TIMES];
    for (int i = 0; i < N * TIMES; i++) {
        int row = i % N;
        label[i] = row % 3 == 0;
        score[i] = label[i] + (row * 7 % 11) / 6.0;
        subject[i] = pk_hash64(&row, sizeof row, 1);
    }
    struct pk_metrics once, alone, people, strangers;
    struct pk_err err = {0};
    struct pk_scores in = {.rows = N, .classes = 1, .labels = label, .f64 = score};
    struct pk_metrics_options o = {.resamples = 200, .seed = 3, .threads = 2};
    CHECK_OK(pk_metrics_compute(&once, &in, &o, &err), &err);
    o.subject = subject;
    CHECK_OK(pk_metrics_compute(&alone, &in, &o, &err), &err);
    in.rows = N * TIMES;
    CHECK_OK(pk_metrics_compute(&people, &in, &o, &err), &err);
    o.subject = NULL;
    CHECK_OK(pk_metrics_compute(&strangers, &in, &o, &err), &err);
    const struct pk_interval *a = &once.bootstrap.macro_auc, *b = &alone.bootstrap.macro_auc;
    const struct pk_interval *c = &people.bootstrap.macro_auc, *d = &strangers.bootstrap.macro_auc;
    CHECK(a->low < a->high && a->low == b->low && a->high == b->high);
    CHECK_NEAR(c->low, a->low, 1e-12);
    CHECK_NEAR(c->high, a->high, 1e-12);
    CHECK(d->high - d->low < 0.75 * (a->high - a->low));
    pk_metrics_free(&once);
    pk_metrics_free(&alone);
    pk_metrics_free(&people);
    pk_metrics_free(&strangers);
}

int main(void)
{
    bootstrap_of_subjects();
    one_class();
    degenerate_classes();
    impossible_bootstrap();
    best_f();
    refusals();
    windows();
    return TEST_END();
}
