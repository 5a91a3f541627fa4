/* knn.c -- nearest neighbours by exhaustive search (see knn.h). */
#include "core/knn.h"
#include "core/dense.h"

#include <math.h>
#include <stdlib.h>

enum { TILE = 16 }; // test rows that a training row meets while it is in the cache

struct neighbour {
    double similarity;
    int64_t index; // among the training rows
};

struct search {
    const struct pk_learning *l;
    const int64_t *train_row;
    int64_t trains, tests;
    const double *train, *test; // unit rows
    int32_t k;
    double temperature;
    double *out;
    struct neighbour *near; // [workers, TILE, k], nearest first
};

/* The rows at unit length; zeros stay zeros. */
static enum pk_status unit_rows(double **out, const struct pk_features *x, const int64_t *row,
                                int64_t rows, struct pk_err *err)
{
    int64_t d = x->features;
    PK_TRY(pk_alloc(out, (size_t)rows, (size_t)d * sizeof **out, "embeddings", err));
    for (int64_t i = 0; i < rows; i++) {
        double *u = *out + i * d;
        for (int64_t j = 0; j < d; j++) {
            u[j] = (double)x->x[row[i] * d + j];
            if (!isfinite(u[j]))
                return pk_fail(err, PK_EDATA,
                               "feature %lld of row %lld is %g; the model diverged or the "
                               "embeddings are damaged",
                               (long long)j, (long long)row[i], u[j]);
        }
        double length = sqrt(pk_dense_dot(u, u, d));
        for (int64_t j = 0; j < d && length > 0; j++) u[j] /= length;
    }
    return PK_OK;
}

/* Insertion into a list of the nearest; candidates come by rising index. */
static void insert(struct neighbour *near, int32_t *have, int32_t k, double similarity,
                   int64_t index)
{
    int32_t i = *have;
    if (i == k && !(similarity > near[k - 1].similarity)) return;
    if (i == k) i--;
    for (; i > 0 && near[i - 1].similarity < similarity; i--) near[i] = near[i - 1];
    near[i] = (struct neighbour){similarity, index};
    *have += *have < k;
}

static void vote(const struct search *s, double *out, const struct neighbour *near, int32_t have)
{
    const struct pk_learning *l = s->l;
    double sum = 0;
    int32_t classes = l->value ? 1 : l->classes;
    for (int32_t c = 0; c < classes; c++) out[c] = 0;
    for (int32_t i = 0; i < have; i++) {
        double w = exp((near[i].similarity - near[0].similarity) / s->temperature);
        int64_t row = s->train_row[near[i].index];
        sum += w;
        for (int32_t c = 0; c < classes; c++)
            out[c] += w * (l->value ? l->value[row] : l->label[row * l->classes + c]);
    }
    for (int32_t c = 0; c < classes; c++) out[c] /= sum;
}

static void search_worker(void *ctx, int worker, int workers)
{
    const struct search *s = ctx;
    int64_t d = s->l->x.features, classes = s->l->value ? 1 : s->l->classes;
    struct neighbour *near = s->near + (int64_t)worker * TILE * s->k;
    for (int64_t first = (int64_t)worker * TILE; first < s->tests; first += workers * TILE) {
        int64_t n = PK_MIN(s->tests - first, TILE);
        int32_t have[TILE] = {0};
        for (int64_t j = 0; j < s->trains; j++)
            for (int64_t i = 0; i < n; i++)
                insert(near + i * s->k, &have[i], s->k,
                       pk_dense_dot(s->test + (first + i) * d, s->train + j * d, d), j);
        for (int64_t i = 0; i < n; i++)
            vote(s, s->out + (first + i) * classes, near + i * s->k, have[i]);
    }
}

enum pk_status pk_knn(double *out, const struct pk_learning *l, const int64_t *train,
                      int64_t trains, const int64_t *test, int64_t tests,
                      const struct pk_knn_options *options, struct pk_pool *pool,
                      struct pk_err *err)
{
    double *from = NULL, *to = NULL;
    if (options->k < 1 || !(options->temperature > 0) || trains < 1)
        return pk_fail(err, PK_EINVAL, "%d neighbours of %lld rows at temperature %g", options->k,
                       (long long)trains, options->temperature);
    struct search s = {.l = l,
                       .train_row = train,
                       .trains = trains,
                       .tests = tests,
                       .k = (int32_t)PK_MIN((int64_t)options->k, trains),
                       .temperature = options->temperature,
                       .out = out};
    size_t lists = (size_t)(pool ? pk_pool_workers(pool) : 1) * TILE;
    enum pk_status st = unit_rows(&from, &l->x, train, trains, err);
    if (st == PK_OK) st = unit_rows(&to, &l->x, test, tests, err);
    if (st == PK_OK) st = pk_alloc(&s.near, lists, (size_t)s.k * sizeof *s.near, "neighbours", err);
    s.train = from;
    s.test = to;
    if (st == PK_OK) pk_dense_run(pool, search_worker, &s);
    free(from);
    free(to);
    free(s.near);
    return st;
}
