/* linear_model.c -- standardisation, Gram matrices, ridge regression and predictions (see
 * linear_model.h); core/logistic.c has the rest. */
#include "core/linear_model.h"
#include "core/dense.h"
#include "core/metrics.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- features ------------------------------------------------------------------------------ */

static enum pk_status check_finite(const struct pk_features *x, const int64_t *row, int64_t rows,
                                   struct pk_err *err)
{
    for (int64_t i = 0; i < rows; i++)
        for (int32_t j = 0; j < x->features; j++)
            if (!isfinite(x->x[row[i] * x->features + j]))
                return pk_fail(err, PK_EDATA,
                               "feature %d of row %lld is %g; the model diverged or the embeddings "
                               "are damaged",
                               j, (long long)row[i], (double)x->x[row[i] * x->features + j]);
    return PK_OK;
}

enum pk_status pk_standard_fit(struct pk_standard *out, const struct pk_features *x,
                               const int64_t *row, int64_t rows, struct pk_err *err)
{
    size_t d = (size_t)x->features;
    double n = (double)rows;
    *out = (struct pk_standard){.features = x->features};
    if (rows < 1 || x->features < 1)
        return pk_fail(err, PK_EDATA, "%lld rows of %d features: nothing to learn from",
                       (long long)rows, x->features);
    PK_TRY(check_finite(x, row, rows, err));
    PK_TRY(pk_alloc(&out->mean, d, sizeof *out->mean, "means", err));
    enum pk_status s = pk_alloc(&out->scale, d, sizeof *out->scale, "deviations", err);
    if (s != PK_OK) {
        pk_standard_free(out);
        return s;
    }
    for (int64_t i = 0; i < rows; i++)
        for (size_t j = 0; j < d; j++) out->mean[j] += (double)x->x[(size_t)row[i] * d + j];
    for (size_t j = 0; j < d; j++) out->mean[j] /= n;
    for (int64_t i = 0; i < rows; i++)
        for (size_t j = 0; j < d; j++) {
            double e = (double)x->x[(size_t)row[i] * d + j] - out->mean[j];
            out->scale[j] += e * e;
        }
    for (size_t j = 0; j < d; j++) {
        double variance = out->scale[j] / n, slip = n * out->mean[j] * DBL_EPSILON;
        bool constant = variance <= n * DBL_EPSILON * variance + slip * slip;
        out->scale[j] = constant ? 1 : sqrt(variance);
    }
    return PK_OK;
}

void pk_standard_free(struct pk_standard *s)
{
    free(s->mean);
    free(s->scale);
    *s = (struct pk_standard){0};
}

enum pk_status pk_design_make(struct pk_design *out, const struct pk_standard *s,
                              const struct pk_features *x, const int64_t *row, int64_t rows,
                              struct pk_err *err)
{
    size_t d = (size_t)x->features;
    *out = (struct pk_design){.rows = rows, .features = x->features};
    PK_TRY(check_finite(x, row, rows, err));
    PK_TRY(pk_alloc(&out->z, (size_t)rows, d * sizeof *out->z, "standardised features", err));
    for (int64_t i = 0; i < rows; i++)
        for (size_t j = 0; j < d; j++)
            out->z[(size_t)i * d + j] =
                ((double)x->x[(size_t)row[i] * d + j] - s->mean[j]) / s->scale[j];
    return PK_OK;
}

void pk_design_free(struct pk_design *d)
{
    free(d->z);
    *d = (struct pk_design){0};
}

/* --- Gram matrices ------------------------------------------------------------------------- */

enum pk_status pk_gram_make(struct pk_gram *out, const struct pk_design *z, struct pk_pool *pool,
                            struct pk_err *err)
{
    *out = (struct pk_gram){.dual = z->rows < z->features, .z = z};
    out->order = out->dual ? z->rows : z->features;
    size_t n = (size_t)out->order;
    enum pk_status s = pk_alloc(&out->g, n, n * sizeof(double), "Gram matrix", err);
    if (s == PK_OK) s = pk_alloc(&out->factor, n, n * sizeof(double), "Cholesky factor", err);
    if (s == PK_OK) s = pk_alloc(&out->scratch, n, sizeof(double), "Cholesky factor", err);
    if (s != PK_OK) {
        pk_gram_free(out);
        return s;
    }
    if (out->dual)
        pk_dense_dots(out->g, z->z, z->rows, z->z, z->rows, z->features, pool);
    else
        pk_dense_cross(out->g, z->z, z->features, z->z, z->features, z->rows, true, pool);
    return PK_OK;
}

enum pk_status pk_gram_factor(struct pk_gram *g, double scale, double shift, struct pk_err *err)
{
    for (int64_t i = 0; i < g->order; i++) {
        for (int64_t j = 0; j <= i; j++)
            g->factor[i * g->order + j] = scale * g->g[i * g->order + j];
        g->factor[i * g->order + i] += shift;
    }
    g->scale = scale;
    g->shift = shift;
    return pk_dense_cholesky(g->factor, g->order, err);
}

void pk_gram_solve(struct pk_gram *g, double *v)
{
    const struct pk_design *z = g->z;
    if (!g->dual) {
        pk_dense_cholesky_solve(g->factor, g->order, v);
        return;
    }
    // (shift + scale Z'Z)^-1 v = (v - scale Z' (shift + scale ZZ')^-1 Z v) / shift
    for (int64_t i = 0; i < z->rows; i++)
        g->scratch[i] = pk_dense_dot(z->z + i * z->features, v, z->features);
    pk_dense_cholesky_solve(g->factor, g->order, g->scratch);
    for (int64_t i = 0; i < z->rows; i++)
        pk_dense_add(v, -g->scale * g->scratch[i], z->z + i * z->features, z->features);
    for (int32_t j = 0; j < z->features; j++) v[j] /= g->shift;
}

void pk_gram_free(struct pk_gram *g)
{
    free(g->g);
    free(g->factor);
    free(g->scratch);
    *g = (struct pk_gram){0};
}

/* --- models -------------------------------------------------------------------------------- */

enum pk_status pk_linear_alloc(struct pk_linear *m, int32_t features, int32_t outputs,
                               struct pk_err *err)
{
    *m = (struct pk_linear){.features = features, .outputs = outputs};
    size_t d = (size_t)features, k = (size_t)outputs;
    PK_TRY(pk_alloc(&m->weight, k, d * sizeof *m->weight, "weights", err));
    PK_TRY(pk_alloc(&m->intercept, k, sizeof *m->intercept, "intercepts", err));
    return pk_alloc(&m->constant, k, sizeof *m->constant, "outputs", err);
}

void pk_linear_free(struct pk_linear *m)
{
    free(m->weight);
    free(m->intercept);
    free(m->constant);
    *m = (struct pk_linear){0};
}

/* One penalty: weights of the centred y [rows]. */
static enum pk_status ridge(struct pk_linear *m, struct pk_gram *g, const struct pk_design *z,
                            const double *centred, double *dual, struct pk_err *err)
{
    PK_TRY(pk_gram_factor(g, 1, m->penalty, err));
    if (!g->dual) {
        for (int64_t i = 0; i < z->rows; i++)
            pk_dense_add(m->weight, centred[i], z->z + i * z->features, z->features);
        pk_dense_cholesky_solve(g->factor, g->order, m->weight);
        return PK_OK;
    }
    memcpy(dual, centred, (size_t)z->rows * sizeof *dual);
    pk_dense_cholesky_solve(g->factor, g->order, dual);
    for (int64_t i = 0; i < z->rows; i++)
        pk_dense_add(m->weight, dual[i], z->z + i * z->features, z->features);
    return PK_OK;
}

enum pk_status pk_ridge_path(struct pk_linear *out, const struct pk_design *z, const double *y,
                             const double *penalty, int count, struct pk_pool *pool,
                             struct pk_err *err)
{
    struct pk_gram g = {0};
    double *centred = NULL, mean = 0;
    for (int k = 0; k < count; k++) out[k] = (struct pk_linear){0};
    for (int k = 0; k < count; k++)
        if (!(penalty[k] > 0) || !isfinite(penalty[k]))
            return pk_fail(err, PK_EINVAL, "ridge penalty %g: it must be above 0", penalty[k]);
    for (int64_t i = 0; i < z->rows; i++) {
        if (!isfinite(y[i]))
            return pk_fail(err, PK_EDATA, "target of row %lld is %g", (long long)i, y[i]);
        mean += y[i];
    }
    mean /= (double)z->rows;
    enum pk_status s = pk_alloc(&centred, 2 * (size_t)z->rows, sizeof *centred, "targets", err);
    if (s == PK_OK) s = pk_gram_make(&g, z, pool, err);
    for (int64_t i = 0; s == PK_OK && i < z->rows; i++) centred[i] = y[i] - mean;
    for (int k = 0; s == PK_OK && k < count; k++) {
        s = pk_linear_alloc(&out[k], z->features, 1, err);
        if (s != PK_OK) break;
        out[k].penalty = penalty[k];
        out[k].intercept[0] = mean; // the columns of z have mean 0
        s = ridge(&out[k], &g, z, centred, centred + z->rows, err);
    }
    free(centred);
    pk_gram_free(&g);
    return s;
}

/* --- predictions --------------------------------------------------------------------------- */

void pk_linear_scores(double *out, const struct pk_linear *m, const struct pk_design *z,
                      struct pk_pool *pool)
{
    pk_dense_dots(out, z->z, z->rows, m->weight, m->outputs, z->features, pool);
    for (int64_t i = 0; i < z->rows; i++)
        for (int32_t k = 0; k < m->outputs; k++) out[i * m->outputs + k] += m->intercept[k];
}

static void softmax(double *x, const struct pk_linear *m)
{
    double most = -INFINITY, sum = 0;
    for (int32_t k = 0; k < m->outputs; k++)
        if (!m->constant[k]) most = fmax(most, x[k]);
    for (int32_t k = 0; k < m->outputs; k++) {
        x[k] = m->constant[k] ? 0 : exp(x[k] - most);
        sum += x[k];
    }
    for (int32_t k = 0; k < m->outputs; k++) x[k] /= sum;
}

void pk_logistic_probabilities(double *out, const struct pk_linear *m, const struct pk_design *z,
                               bool multinomial, struct pk_pool *pool)
{
    pk_linear_scores(out, m, z, pool);
    for (int64_t i = 0; i < z->rows; i++)
        if (multinomial)
            softmax(out + i * m->outputs, m);
        else
            for (int32_t k = 0; k < m->outputs; k++)
                out[i * m->outputs + k] = pk_sigmoid(out[i * m->outputs + k]);
}
