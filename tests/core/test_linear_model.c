/* test_linear_model.c -- linear models, folds, neighbours and regression scores by values worked
 * out by hand; test_linear_model_sklearn.py compares with scikit-learn at large. */
#include "core/dense.h"
#include "core/knn.h"
#include "core/metrics_regression.h"
#include "core/rng.h"
#include "tests/test.h"

enum { ROWS = 90, WIDE = 130 };

static float feature[ROWS * WIDE];
static uint8_t label[ROWS * 3];
static double value[ROWS];
static uint64_t subject[ROWS];
static int64_t every[ROWS];

/* Rows of `features` numbers with something about three labels and a value in them. */
static struct pk_learning make(int32_t features, bool regression)
{
    struct pk_rng rng = pk_rng_make(5, PK_RNG_TEST, (uint64_t)features, 0);
    for (int64_t i = 0; i < ROWS; i++) {
        every[i] = i;
        subject[i] = 1000 - (uint64_t)(i / 3);
        value[i] = pk_rng_normal(&rng) * 4 + 60;
        for (int k = 0; k < 3; k++) label[i * 3 + k] = pk_rng_uniform(&rng) < 0.4;
        for (int32_t j = 0; j < features; j++)
            feature[i * features + j] =
                (float)(pk_rng_normal(&rng) + 0.3 * label[i * 3 + j % 3] + 0.05 * value[i]);
    }
    struct pk_learning l = {.x = {ROWS, features, feature}, .classes = 3, .subject = subject};
    if (regression)
        l.value = value;
    else
        l.label = label;
    return l;
}

static void dense(void)
{
    struct pk_pool *pool;
    struct pk_err err = {0};
    static double a[37 * 70], b[37 * 33], out[70 * 33], again[70 * 33];
    struct pk_rng rng = pk_rng_make(1, PK_RNG_TEST, 0, 0);
    for (size_t i = 0; i < PK_COUNT(a); i++) a[i] = pk_rng_normal(&rng);
    for (size_t i = 0; i < PK_COUNT(b); i++) b[i] = pk_rng_normal(&rng);
    CHECK_OK(pk_pool_create(&pool, 3, NULL, &err), &err);
    pk_dense_cross(out, a, 70, b, 33, 37, false, NULL);
    pk_dense_cross(again, a, 70, b, 33, 37, false, pool);
    CHECK(!memcmp(out, again, sizeof out));
    double worst = 0;
    for (int p = 0; p < 70; p++)
        for (int q = 0; q < 33; q++) {
            double sum = 0;
            for (int i = 0; i < 37; i++) sum += a[i * 70 + p] * b[i * 33 + q];
            worst = fmax(worst, fabs(sum - out[p * 33 + q]));
        }
    CHECK_NEAR(worst, 0, 1e-13);
    double m[9] = {4, 0, 0, 2, 5, 0, 2, 3, 6}, x[3] = {8 + 4 - 2, 4 + 10 - 3, 4 + 6 - 6};
    CHECK_OK(pk_dense_cholesky(m, 3, &err), &err);
    pk_dense_cholesky_solve(m, 3, x); // the solution was made 2, 2, -1
    CHECK_NEAR(x[0], 2, 1e-14);
    CHECK_NEAR(x[1], 2, 1e-14);
    CHECK_NEAR(x[2], -1, 1e-14);
    double bad[4] = {1, 0, 2, 1};
    CHECK_FAILS(pk_dense_cholesky(bad, 2, &err), PK_EDATA, &err, "pivot 1 of 2");
    pk_pool_free(pool);
}

/* One feature -1, 0, 1 (deviation sqrt(2/3)) and targets 1, 2, 6: by hand w = z.y / (z.z + a). */
static void ridge_by_hand(void)
{
    static const float x[3] = {-1, 0, 1};
    static const double y[3] = {1, 2, 6};
    static const int64_t row[3] = {0, 1, 2};
    struct pk_features f = {3, 1, x};
    struct pk_standard s;
    struct pk_design z;
    struct pk_linear m[2];
    struct pk_err err = {0};
    double penalty[2] = {3, 1e-12}, out[3];
    CHECK_OK(pk_standard_fit(&s, &f, row, 3, &err), &err);
    CHECK_NEAR(s.scale[0], sqrt(2. / 3), 1e-15);
    CHECK_OK(pk_design_make(&z, &s, &f, row, 3, &err), &err);
    CHECK_OK(pk_ridge_path(m, &z, y, penalty, 2, NULL, &err), &err);
    CHECK_NEAR(m[0].weight[0], 5 * sqrt(1.5) / 6, 1e-14); // z.y = 5 sqrt(3/2), z.z = 3
    CHECK_NEAR(m[0].intercept[0], 3, 1e-15);
    pk_linear_scores(out, &m[1], &z, NULL);
    CHECK_NEAR(out[2], 5.5, 1e-11); // the least-squares line 3 + 2.5 x
    for (int i = 0; i < 2; i++) pk_linear_free(&m[i]);
    penalty[0] = 0;
    CHECK_FAILS(pk_ridge_path(m, &z, y, penalty, 1, NULL, &err), PK_EINVAL, &err, "above 0");
    penalty[0] = (double)NAN;
    CHECK_FAILS(pk_ridge_path(m, &z, y, penalty, 1, NULL, &err), PK_EINVAL, &err, "above 0");
    pk_standard_free(&s);
    pk_design_free(&z);
}

/* The gradient of the objective, from its definition, at what was found. */
static double gradient(const struct pk_linear *m, const struct pk_design *z, bool multinomial)
{
    static double p[ROWS * 3];
    double worst = 0;
    int32_t d = z->features;
    pk_logistic_probabilities(p, m, z, multinomial, NULL);
    for (int32_t k = 0; k < 3; k++)
        for (int32_t j = 0; j <= d; j++) {
            double g = j < d ? m->penalty * m->weight[k * d + j] : 0;
            for (int64_t i = 0; i < z->rows; i++)
                g += (p[i * 3 + k] - label[i * 3 + k]) * (j < d ? z->z[i * d + j] : 1);
            worst = fmax(worst, fabs(g));
        }
    return worst;
}

static void logistic_is_stationary(void)
{
    static const int32_t width[] = {1, 7, WIDE}; // the last: the dual preconditioner
    static const double penalty[] = {1e4, 10, 1e-2};
    struct pk_err err = {0};
    for (size_t t = 0; t < PK_COUNT(width); t++)
        for (int multinomial = 0; multinomial < 2; multinomial++) {
            struct pk_learning l = make(width[t], false);
            struct pk_logistic_options o = {.multinomial = multinomial};
            struct pk_standard s;
            struct pk_design z;
            struct pk_linear m[3];
            for (int64_t i = 0; multinomial && i < ROWS; i++)
                for (int k = 0; k < 3; k++) label[i * 3 + k] = i * i % 7 % 3 == k;
            CHECK_OK(pk_standard_fit(&s, &l.x, every, ROWS, &err), &err);
            CHECK_OK(pk_design_make(&z, &s, &l.x, every, ROWS, &err), &err);
            CHECK_OK(pk_logistic_path(m, &z, label, 3, penalty, 3, &o, NULL, &err), &err);
            for (int i = 0; i < 3; i++) {
                CHECK(gradient(&m[i], &z, multinomial) <= 2e-8 * fmin(1, penalty[i]));
                CHECK(m[i].iterations >= 1 && !m[i].constant[0]);
                pk_linear_free(&m[i]);
            }
            double tiny = 1e-6; // all but separable: the bound of the Hessian is useless here
            o.iterations = 150;
            CHECK_OK(pk_logistic_path(m, &z, label, 3, &tiny, 1, &o, NULL, &err), &err);
            CHECK(gradient(&m[0], &z, multinomial) <= 1e-9);
            pk_linear_free(&m[0]);
            o.iterations = 1; // not enough
            CHECK_FAILS(pk_logistic_path(m, &z, label, 3, penalty + 2, 1, &o, NULL, &err), PK_EDATA,
                        &err, "did not converge");
            pk_linear_free(&m[0]);
            pk_standard_free(&s);
            pk_design_free(&z);
        }
}

static void labels_that_cannot_be_learned(void)
{
    static const uint8_t none[8] = {0, 1, 0, 1, 0, 1, 0, 1}, odd[4] = {0, 1, 1, 1};
    static const float x[4] = {1, 2, 3, 5};
    static const int64_t row[4] = {0, 1, 2, 3};
    struct pk_features f = {4, 1, x};
    struct pk_logistic_options o = {0};
    struct pk_standard s;
    struct pk_design z;
    struct pk_linear m;
    struct pk_err err = {0};
    double penalty = 1, p[8];
    CHECK_OK(pk_standard_fit(&s, &f, row, 4, &err), &err);
    CHECK_OK(pk_design_make(&z, &s, &f, row, 4, &err), &err);
    CHECK_OK(pk_logistic_path(&m, &z, none, 2, &penalty, 1, &o, NULL, &err), &err);
    CHECK(m.constant[0] && m.constant[1] && m.weight[0] == 0 && m.weight[1] == 0);
    CHECK_NEAR(m.intercept[0], log(1. / 5), 1e-15);
    CHECK_NEAR(m.intercept[1], log(5.), 1e-15);
    pk_linear_free(&m);
    o.multinomial = true; // every row is of the second class
    CHECK_OK(pk_logistic_path(&m, &z, none, 2, &penalty, 1, &o, NULL, &err), &err);
    pk_logistic_probabilities(p, &m, &z, true, NULL);
    CHECK(p[0] == 0 && p[1] == 1 && p[6] == 0 && p[7] == 1);
    pk_linear_free(&m);
    CHECK_FAILS(pk_logistic_path(&m, &z, odd, 2, &penalty, 1, &o, NULL, &err), PK_EDATA, &err,
                "row 1 has 2 labels");
    pk_linear_free(&m);
    pk_standard_free(&s);
    pk_design_free(&z);
}

static void features_that_are_no_numbers(void)
{
    static const float x[4] = {1, 2, (float)NAN, 3}, y[2] = {1, (float)INFINITY};
    static const int64_t row[2] = {0, 1};
    struct pk_features f = {2, 2, x}, g = {2, 1, y};
    struct pk_standard s;
    struct pk_err err = {0};
    double out[2];
    struct pk_learning l = {.x = g, .value = value, .subject = subject};
    CHECK_FAILS(pk_standard_fit(&s, &f, row, 2, &err), PK_EDATA, &err, "feature 0 of row 1 is nan");
    CHECK_FAILS(pk_standard_fit(&s, &f, row, 0, &err), PK_EDATA, &err, "nothing to learn");
    CHECK_OK(pk_standard_fit(&s, &f, row, 1, &err), &err); // the damaged row is not used
    CHECK(s.scale[0] == 1 && s.scale[1] == 1 && s.mean[1] == 2);
    pk_standard_free(&s);
    struct pk_knn_options o = {1, 1};
    CHECK_FAILS(pk_knn(out, &l, row, 2, row, 1, &o, NULL, &err), PK_EDATA, &err, "row 1 is inf");
    o.k = 0;
    CHECK_FAILS(pk_knn(out, &l, row, 1, row, 1, &o, NULL, &err), PK_EINVAL, &err, "0 neighbours");
}

/* Subjects of 4, 3, 2, 2, 1 rows in two folds: 4 | 3, then 2 to the lighter, 2, 1. */
static void folds_by_hand(void)
{
    static const uint64_t who[12] = {7, 7, 7, 7, 9, 9, 9, 3, 3, 5, 5, 1};
    static const int32_t want[12] = {0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 1};
    static const int64_t row[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    struct pk_learning l = {.subject = who};
    struct pk_err err = {0};
    int32_t fold[12], folds = 2;
    CHECK_OK(pk_folds_by_subject(fold, &folds, &l, row, 12, &err), &err);
    CHECK(folds == 2 && !memcmp(fold, want, sizeof fold - sizeof *fold)); // subject 1: below
    CHECK(fold[11] == 1);                                                 // 6 rows against 5
    folds = 9;
    CHECK_OK(pk_folds_by_subject(fold, &folds, &l, row, 12, &err), &err);
    CHECK(folds == 5); // as many as subjects
    CHECK_FAILS(pk_folds_by_subject(fold, &folds, &l, row, 4, &err), PK_EDATA, &err, "1 subjects");
}

static void subsets(void)
{
    struct pk_learning l = make(3, true);
    struct pk_err err = {0};
    int64_t row[ROWS], rows = ROWS;
    memcpy(row, every, sizeof row);
    CHECK_OK(pk_subset_by_subject(row, &rows, &l, 1, 4, &err), &err);
    CHECK(rows == ROWS);
    CHECK_OK(pk_subset_by_subject(row, &rows, &l, 0.01, 4, &err), &err);
    CHECK(rows == 30); // one of the three subjects of each tenth, with its three rows
    for (int64_t i = 0; i < rows; i++) CHECK(row[i] / 3 == row[i / 3 * 3] / 3);
    CHECK_FAILS(pk_subset_by_subject(row, &rows, &l, 0, 4, &err), PK_EINVAL, &err, "fraction of 0");
    CHECK_FAILS(pk_subset_by_subject(row, &rows, &l, (double)NAN, 4, &err), PK_EINVAL, &err,
                "fraction");
}

/* The same bits whatever the number of threads. */
static void threads(void)
{
    static const double penalty[] = {100, 1, 0.01};
    struct pk_err err = {0};
    double first[ROWS * 3];
    for (int regression = 0; regression < 2; regression++)
        for (int workers = 1; workers <= 5; workers += 2) {
            struct pk_learning l = make(20, regression);
            struct pk_pool *pool;
            struct pk_search s;
            struct pk_standard standard;
            struct pk_linear m;
            double out[ROWS * 3];
            CHECK_OK(pk_pool_create(&pool, workers, NULL, &err), &err);
            CHECK_OK(pk_search_penalty(&s, &l, every, ROWS, 4, penalty, 3, pool, &err), &err);
            CHECK_OK(pk_learn(&standard, &m, &l, every, ROWS, penalty[s.best], pool, &err), &err);
            CHECK_OK(pk_apply(out, &standard, &m, &l, every, ROWS, pool, &err), &err);
            if (workers == 1)
                memcpy(first, out, sizeof first);
            else
                CHECK(!memcmp(first, out, (regression ? 1 : 3) * ROWS * sizeof *out));
            pk_search_free(&s);
            pk_standard_free(&standard);
            pk_linear_free(&m);
            pk_pool_free(pool);
        }
}

static void neighbours_by_hand(void)
{
    static const float x[10] = {2, 0, 0, 5, 1, 1, 3, 0, 0, 0}; // east, north, between, east, zero
    static const double y[5] = {10, 20, 30, 50, 0};
    static const int64_t train[3] = {0, 1, 2}, test[2] = {3, 4};
    struct pk_learning l = {.x = {5, 2, x}, .value = y, .classes = 1};
    struct pk_knn_options o = {.k = 2, .temperature = 0.5};
    struct pk_err err = {0};
    double out[2], w = exp((sqrt(0.5) - 1) / 0.5);
    CHECK_OK(pk_knn(out, &l, train, 3, test, 2, &o, NULL, &err), &err);
    CHECK_NEAR(out[0], (10 + 30 * w) / (1 + w), 1e-13);
    CHECK_NEAR(out[1], 15, 1e-13); // all as far: the first two, with equal weights
    o.k = 9;
    CHECK_OK(pk_knn(out, &l, train, 3, test, 2, &o, NULL, &err), &err);
    CHECK_NEAR(out[1], 20, 1e-13);
    o.temperature = 1e-6; // without overflow
    CHECK_OK(pk_knn(out, &l, train, 3, test, 2, &o, NULL, &err), &err);
    CHECK_NEAR(out[0], 10, 1e-13);
}

static void regression_by_hand(void)
{
    static const double y[4] = {1, 2, 3, 6}, p[4] = {2, 2, 2, 6}, flat[4] = {3, 3, 3, 3};
    static const uint64_t who[4] = {5, 5, 8, 9}, same[4] = {5, 5, 5, 5};
    struct pk_metrics_options o = {.resamples = 500, .seed = 2};
    struct pk_regression r;
    struct pk_err err = {0};
    CHECK_OK(pk_regression_compute(&r, y, p, who, 4, &o, &err), &err);
    CHECK(r.rows == 4 && r.subjects == 3);
    CHECK_NEAR(r.value[PK_MAE], .5, 1e-15);
    CHECK_NEAR(r.value[PK_RMSE], sqrt(.5), 1e-15);
    CHECK_NEAR(r.value[PK_R2], 1 - 2. / 14, 1e-15);
    CHECK_NEAR(r.value[PK_PEARSON], 12 / sqrt(14. * 12), 1e-14);
    CHECK_NEAR(r.interval[PK_MAE].low, 0, 0);  // the subject without an error three times
    CHECK_NEAR(r.interval[PK_MAE].high, 1, 0); // the subject with an error of 1
    CHECK(r.undefined[PK_R2] > 0 && r.undefined[PK_MAE] == 0);
    CHECK_OK(pk_regression_compute(&r, y, flat, who, 4, &o, &err), &err);
    CHECK_NEAR(r.value[PK_R2], 0, 1e-15);
    CHECK(isnan(r.value[PK_PEARSON]) && r.undefined[PK_PEARSON] == 500);
    CHECK(isnan(r.interval[PK_PEARSON].low) && r.interval[PK_MAE].low < r.value[PK_MAE]);
    CHECK_OK(pk_regression_compute(&r, y, p, same, 4, &o, &err), &err); // nobody to draw
    CHECK(r.subjects == 1 && r.resamples == 500 && r.value[PK_MAE] == .5);
    for (int k = 0; k < PK_REGRESSION_SCORES; k++)
        CHECK(isnan(r.interval[k].low) && isnan(r.interval[k].high) && r.undefined[k] == 0);
    CHECK_OK(pk_regression_compute(&r, flat, p, who, 4, &o, &err), &err);
    CHECK(isnan(r.value[PK_R2]) && isnan(r.value[PK_PEARSON]));
    double bad[4] = {1, (double)NAN, 0, 0};
    CHECK_FAILS(pk_regression_compute(&r, y, bad, who, 4, &o, &err), PK_EDATA, &err, "row 1");
}

int main(void)
{
    dense();
    ridge_by_hand();
    logistic_is_stationary();
    labels_that_cannot_be_learned();
    features_that_are_no_numbers();
    folds_by_hand();
    subsets();
    threads();
    neighbours_by_hand();
    regression_by_hand();
    return TEST_END();
}
