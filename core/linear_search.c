/* linear_search.c -- folds, subsets and penalties by subject (see linear_search.h). */
#include "core/linear_search.h"
#include "core/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TENTHS = 10 };

/* Models that are only ranked need not be exact: AUCs are then right to about 1e-6. */
#define SEARCH_TOLERANCE 1e-5

struct subject {
    uint64_t key, order; // order: what it is sorted by within a stratum
    int64_t rows;
    double sum;      // of the values of its rows
    int32_t stratum; // of a subset; fold
    bool keep;
};

struct subjects {
    struct subject *s; // [count] by rising key
    int64_t count;
    int64_t *of; // [rows] subject of each chosen row
};

static int by_key(const void *a, const void *b)
{
    const struct subject *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key;
}

static int by_rows(const void *a, const void *b)
{
    const struct subject *x = *(struct subject *const *)a, *y = *(struct subject *const *)b;
    if (x->rows != y->rows) return x->rows > y->rows ? -1 : 1;
    return by_key(x, y);
}

static int by_mean(const void *a, const void *b)
{
    const struct subject *x = *(struct subject *const *)a, *y = *(struct subject *const *)b;
    double left = x->sum / (double)x->rows, right = y->sum / (double)y->rows;
    if (left != right) return left < right ? -1 : 1;
    return by_key(x, y);
}

static int by_stratum(const void *a, const void *b)
{
    const struct subject *x = *(struct subject *const *)a, *y = *(struct subject *const *)b;
    if (x->stratum != y->stratum) return x->stratum < y->stratum ? -1 : 1;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    return by_key(x, y);
}

static void free_subjects(struct subjects *u)
{
    free(u->s);
    free(u->of);
}

static enum pk_status find_subjects(struct subjects *u, const struct pk_learning *l,
                                    const int64_t *row, int64_t rows, struct pk_err *err)
{
    *u = (struct subjects){0};
    PK_TRY(pk_alloc(&u->s, (size_t)rows, sizeof *u->s, "subjects", err));
    PK_TRY(pk_alloc(&u->of, (size_t)rows, sizeof *u->of, "subjects", err));
    for (int64_t i = 0; i < rows; i++) u->s[i].key = l->subject[row[i]];
    qsort(u->s, (size_t)rows, sizeof *u->s, by_key);
    for (int64_t i = 0; i < rows; i++)
        if (!u->count || u->s[i].key != u->s[u->count - 1].key) u->s[u->count++] = u->s[i];
    for (int64_t i = 0; i < rows; i++) {
        struct subject want = {.key = l->subject[row[i]]};
        struct subject *at = bsearch(&want, u->s, (size_t)u->count, sizeof want, by_key);
        if (!at) return pk_fail(err, PK_EINTERNAL, "a subject was lost");
        u->of[i] = at - u->s;
        at->rows++;
        if (l->value) at->sum += l->value[row[i]];
    }
    return PK_OK;
}

static enum pk_status sorted(struct subject ***out, const struct subjects *u,
                             int (*compare)(const void *, const void *), struct pk_err *err)
{
    PK_TRY(pk_alloc(out, (size_t)u->count, sizeof **out, "subjects", err));
    for (int64_t i = 0; i < u->count; i++) (*out)[i] = &u->s[i];
    qsort(*out, (size_t)u->count, sizeof **out, compare);
    return PK_OK;
}

/* --- folds --------------------------------------------------------------------------------- */

static enum pk_status deal(const struct subjects *u, int32_t folds, struct pk_err *err)
{
    struct subject **order;
    int64_t *load;
    PK_TRY(sorted(&order, u, by_rows, err));
    enum pk_status s = pk_alloc(&load, (size_t)folds, sizeof *load, "folds", err);
    for (int64_t i = 0; s == PK_OK && i < u->count; i++) {
        int32_t least = 0;
        for (int32_t f = 1; f < folds; f++)
            if (load[f] < load[least]) least = f;
        order[i]->stratum = least;
        load[least] += order[i]->rows;
    }
    free(order);
    free(load);
    return s;
}

enum pk_status pk_folds_by_subject(int32_t *fold, int32_t *folds, const struct pk_learning *l,
                                   const int64_t *row, int64_t rows, struct pk_err *err)
{
    struct subjects u;
    enum pk_status s = find_subjects(&u, l, row, rows, err);
    if (s == PK_OK && (u.count < 2 || *folds < 2))
        s = pk_fail(err, PK_EDATA,
                    "%lld subjects cannot make %d folds; cross-validation needs two of each, or "
                    "give one penalty",
                    (long long)u.count, *folds);
    if (s == PK_OK) {
        *folds = (int32_t)PK_MIN((int64_t)*folds, u.count);
        s = deal(&u, *folds, err);
    }
    for (int64_t i = 0; s == PK_OK && i < rows; i++) fold[i] = u.s[u.of[i]].stratum;
    free_subjects(&u);
    return s;
}

/* --- subsets ------------------------------------------------------------------------------- */

/* Which classes each subject has, and of those the one that the fewest subjects have. */
static enum pk_status strata_of_classes(struct subjects *u, const struct pk_learning *l,
                                        const int64_t *row, int64_t rows, struct pk_err *err)
{
    size_t k = (size_t)l->classes;
    uint8_t *has;
    int64_t *count = NULL;
    PK_TRY(pk_alloc(&has, (size_t)u->count, k, "classes of subjects", err));
    enum pk_status s = pk_alloc(&count, k, sizeof *count, "classes of subjects", err);
    for (int64_t i = 0; s == PK_OK && i < rows; i++)
        for (size_t c = 0; c < k; c++)
            has[(size_t)u->of[i] * k + c] |= l->label[(size_t)row[i] * k + c];
    for (int64_t i = 0; s == PK_OK && i < u->count; i++)
        for (size_t c = 0; c < k; c++) count[c] += has[(size_t)i * k + c];
    for (int64_t i = 0; s == PK_OK && i < u->count; i++) {
        int32_t best = l->classes; // without a label
        for (int32_t c = 0; c < l->classes; c++)
            if (has[(size_t)i * k + (size_t)c] && (best == l->classes || count[c] < count[best]))
                best = c;
        u->s[i].stratum = best;
    }
    free(has);
    free(count);
    return s;
}

static enum pk_status strata_of_values(struct subjects *u, struct pk_err *err)
{
    struct subject **order;
    PK_TRY(sorted(&order, u, by_mean, err));
    for (int64_t i = 0; i < u->count; i++) order[i]->stratum = (int32_t)(i * TENTHS / u->count);
    free(order);
    return PK_OK;
}

static enum pk_status keep_some(struct subjects *u, double fraction, struct pk_err *err)
{
    struct subject **order;
    PK_TRY(sorted(&order, u, by_stratum, err));
    for (int64_t first = 0, next; first < u->count; first = next) {
        for (next = first; next < u->count && order[next]->stratum == order[first]->stratum;)
            next++;
        int64_t n = next - first;
        int64_t keep = PK_MIN(PK_MAX((int64_t)floor(fraction * (double)n + 0.5), 1), n);
        for (int64_t i = 0; i < keep; i++) order[first + i]->keep = true;
    }
    free(order);
    return PK_OK;
}

enum pk_status pk_subset_by_subject(int64_t *row, int64_t *rows, const struct pk_learning *l,
                                    double fraction, uint64_t seed, struct pk_err *err)
{
    struct subjects u;
    if (!(fraction > 0) || fraction > 1)
        return pk_fail(err, PK_EINVAL, "a fraction of %g: it must be above 0 and at most 1",
                       fraction);
    if (fraction >= 1) return PK_OK;
    enum pk_status s = find_subjects(&u, l, row, *rows, err);
    for (int64_t i = 0; s == PK_OK && i < u.count; i++) {
        uint64_t key[2] = {seed, u.s[i].key};
        u.s[i].order = pk_hash64(key, sizeof key, 0);
    }
    if (s == PK_OK)
        s = l->label ? strata_of_classes(&u, l, row, *rows, err) : strata_of_values(&u, err);
    if (s == PK_OK) s = keep_some(&u, fraction, err);
    int64_t kept = 0;
    for (int64_t i = 0; s == PK_OK && i < *rows; i++)
        if (u.s[u.of[i]].keep) row[kept++] = row[i];
    if (s == PK_OK) *rows = kept;
    free_subjects(&u);
    return s;
}

/* --- fitting ------------------------------------------------------------------------------- */

/* Targets of the chosen rows, one after the other. */
static enum pk_status gather(uint8_t **label, double **value, const struct pk_learning *l,
                             const int64_t *row, int64_t rows, struct pk_err *err)
{
    size_t k = (size_t)l->classes;
    *label = NULL;
    *value = NULL;
    if (l->value) {
        PK_TRY(pk_alloc(value, (size_t)rows, sizeof **value, "targets", err));
        for (int64_t i = 0; i < rows; i++) (*value)[i] = l->value[row[i]];
        return PK_OK;
    }
    PK_TRY(pk_alloc(label, (size_t)rows, k, "labels", err));
    for (int64_t i = 0; i < rows; i++)
        memcpy(*label + (size_t)i * k, l->label + (size_t)row[i] * k, k);
    return PK_OK;
}

static enum pk_status fit(struct pk_standard *standard, struct pk_linear *model,
                          const struct pk_learning *l, const int64_t *row, int64_t rows,
                          const double *penalty, int count, double tolerance, struct pk_pool *pool,
                          struct pk_err *err)
{
    struct pk_design z = {0};
    struct pk_logistic_options o = {.multinomial = l->multinomial, .tolerance = tolerance};
    uint8_t *label = NULL;
    double *value = NULL;
    *standard = (struct pk_standard){0};
    for (int k = 0; k < count; k++) model[k] = (struct pk_linear){0};
    enum pk_status s = pk_standard_fit(standard, &l->x, row, rows, err);
    if (s == PK_OK) s = pk_design_make(&z, standard, &l->x, row, rows, err);
    if (s == PK_OK) s = gather(&label, &value, l, row, rows, err);
    if (s == PK_OK && value) s = pk_ridge_path(model, &z, value, penalty, count, pool, err);
    if (s == PK_OK && label)
        s = pk_logistic_path(model, &z, label, l->classes, penalty, count, &o, pool, err);
    pk_design_free(&z);
    free(label);
    free(value);
    return s;
}

enum pk_status pk_learn(struct pk_standard *standard, struct pk_linear *model,
                        const struct pk_learning *l, const int64_t *row, int64_t rows,
                        double penalty, struct pk_pool *pool, struct pk_err *err)
{
    return fit(standard, model, l, row, rows, &penalty, 1, 0, pool, err);
}

static void predict(double *out, const struct pk_linear *model, const struct pk_learning *l,
                    const struct pk_design *z, struct pk_pool *pool)
{
    if (l->value)
        pk_linear_scores(out, model, z, pool);
    else
        pk_logistic_probabilities(out, model, z, l->multinomial, pool);
}

enum pk_status pk_apply(double *out, const struct pk_standard *standard,
                        const struct pk_linear *model, const struct pk_learning *l,
                        const int64_t *row, int64_t rows, struct pk_pool *pool, struct pk_err *err)
{
    struct pk_design z;
    PK_TRY(pk_design_make(&z, standard, &l->x, row, rows, err));
    predict(out, model, l, &z, pool);
    pk_design_free(&z);
    return PK_OK;
}

/* --- cross-validation ---------------------------------------------------------------------- */

/* Score of predictions, the larger the better; NaN: no class has an AUC. */
static enum pk_status score(double *out, const double *p, const struct pk_learning *l,
                            const uint8_t *label, const double *value, int64_t rows,
                            struct pk_err *err)
{
    *out = 0;
    if (value) {
        for (int64_t i = 0; i < rows; i++) *out -= (p[i] - value[i]) * (p[i] - value[i]);
        *out /= (double)rows;
        return PK_OK;
    }
    struct pk_metrics m;
    struct pk_metrics_options o = {0};
    struct pk_scores in = {.rows = rows, .classes = l->classes, .labels = label, .f64 = p};
    PK_TRY(pk_metrics_compute(&m, &in, &o, err));
    *out = m.macro_auc;
    pk_metrics_free(&m);
    return PK_OK;
}

/* Rows of the fold to test [*tests], the others to train [*trains]. */
static void split(const struct pk_search *s, const int64_t *row, int64_t rows, int32_t fold,
                  int64_t *train, int64_t *trains, int64_t *test, int64_t *tests)
{
    *trains = *tests = 0;
    for (int64_t i = 0; i < rows; i++)
        if (s->fold[i] == fold)
            test[(*tests)++] = row[i];
        else
            train[(*trains)++] = row[i];
}

static enum pk_status score_fold(struct pk_search *out, const struct pk_learning *l,
                                 struct pk_linear *model, const int64_t *train, int64_t trains,
                                 const int64_t *test, int64_t tests, int32_t fold,
                                 struct pk_pool *pool, struct pk_err *err)
{
    struct pk_standard standard;
    struct pk_design z = {0};
    uint8_t *label = NULL;
    double *value = NULL, *p = NULL;
    enum pk_status s = fit(&standard, model, l, train, trains, out->penalty, out->count,
                           SEARCH_TOLERANCE, pool, err);
    if (s == PK_OK) s = pk_design_make(&z, &standard, &l->x, test, tests, err);
    if (s == PK_OK) s = gather(&label, &value, l, test, tests, err);
    if (s == PK_OK)
        s = pk_alloc(&p, (size_t)tests, (size_t)PK_MAX(l->classes, 1) * sizeof *p, "scores", err);
    for (int k = 0; s == PK_OK && k < out->count; k++) {
        predict(p, &model[k], l, &z, pool);
        s = score(&out->fold_score[k * out->folds + fold], p, l, label, value, tests, err);
    }
    for (int k = 0; k < out->count; k++) pk_linear_free(&model[k]);
    pk_standard_free(&standard);
    pk_design_free(&z);
    free(label);
    free(value);
    free(p);
    return s;
}

static void choose(struct pk_search *s)
{
    for (int k = 0; k < s->count; k++) {
        int32_t counted = 0;
        for (int32_t f = 0; f < s->folds; f++) {
            double v = s->fold_score[k * s->folds + f];
            if (isnan(v)) continue;
            s->score[k] += v;
            counted++;
        }
        s->score[k] = counted ? s->score[k] / counted : (double)NAN;
        if (s->score[k] > s->score[s->best]) s->best = k;
    }
    s->edge = s->count > 1 && (s->best == 0 || s->best == s->count - 1);
}

static enum pk_status search(struct pk_search *out, const struct pk_learning *l, const int64_t *row,
                             int64_t rows, struct pk_linear *model, int64_t *part,
                             struct pk_pool *pool, struct pk_err *err)
{
    size_t n = (size_t)out->count;
    PK_TRY(pk_alloc(&out->score, n, sizeof *out->score, "scores", err));
    PK_TRY(pk_alloc(&out->fold_score, n, (size_t)out->folds * sizeof(double), "scores", err));
    for (int32_t f = 0; f < out->folds; f++) {
        int64_t trains, tests;
        split(out, row, rows, f, part, &trains, part + rows, &tests);
        enum pk_status s =
            score_fold(out, l, model, part, trains, part + rows, tests, f, pool, err);
        if (s != PK_OK) pk_err_context(err, "cross-validation, fold %d of %d", f + 1, out->folds);
        PK_TRY(s);
    }
    choose(out);
    return PK_OK;
}

enum pk_status pk_search_penalty(struct pk_search *out, const struct pk_learning *l,
                                 const int64_t *row, int64_t rows, int32_t folds,
                                 const double *penalty, int count, struct pk_pool *pool,
                                 struct pk_err *err)
{
    struct pk_linear *model = NULL;
    int64_t *part = NULL;
    *out = (struct pk_search){.count = count, .penalty = penalty, .folds = folds};
    if (count < 1) return pk_fail(err, PK_EINVAL, "no penalty to choose from");
    if (count == 1) {
        out->folds = 0;
        return PK_OK;
    }
    PK_TRY(pk_alloc(&out->fold, (size_t)rows, sizeof *out->fold, "folds", err));
    PK_TRY(pk_folds_by_subject(out->fold, &out->folds, l, row, rows, err));
    enum pk_status s = pk_alloc(&model, (size_t)count, sizeof *model, "models", err);
    if (s == PK_OK) s = pk_alloc(&part, 2 * (size_t)rows, sizeof *part, "rows of folds", err);
    if (s == PK_OK) s = search(out, l, row, rows, model, part, pool, err);
    free(model);
    free(part);
    return s;
}

void pk_search_free(struct pk_search *s)
{
    free(s->fold);
    free(s->score);
    free(s->fold_score);
    *s = (struct pk_search){0};
}
