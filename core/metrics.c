/* metrics.c -- AUC, average precision, Fmax, accuracy and bootstrap intervals (see metrics.h).
 *
 * Each class is sorted once. A bootstrap resample only changes the weight of each row (how often it
 * was drawn), so that it costs one pass over the sorted order and no sort. */
#include "core/metrics.h"
#include "core/rng.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { ATTEMPTS_MAX = 10000, THREADS_MAX = 256, THRESHOLDS = 101 };

/* A row in the sorted order of a class: row << 2 | TIED | POSITIVE. */
enum { POSITIVE = 1, TIED = 2 }; // TIED: the score equals that of the entry before

static double score_at(const struct pk_scores *in, int64_t i)
{
    return in->f64 ? in->f64[i] : (double)in->f32[i];
}

static enum pk_status check(const struct pk_scores *in, const struct pk_metrics_options *o,
                            struct pk_err *err)
{
    if (in->rows < 1 || in->rows >= 1 << 30 || in->classes < 1)
        return pk_fail(
            err, PK_EINVAL,
            "scores of %lld rows x %d classes: 1 to 2^30 - 1 rows and 1 class are needed",
            (long long)in->rows, in->classes);
    if (!in->labels || !in->f32 == !in->f64)
        return pk_fail(err, PK_EINVAL, "labels and either float or double scores are needed");
    if (o->resamples < 0 || o->threads < 0 || o->min_positives < 0 || !(o->low >= 0) ||
        !(o->high <= 100) || o->low > o->high)
        return pk_fail(err, PK_EINVAL,
                       "bootstrap of %lld resamples, %d threads, percentiles %g, %g",
                       (long long)o->resamples, o->threads, o->low, o->high);
    for (int64_t r = 0; r < in->rows; r++)
        for (int32_t c = 0; c < in->classes; c++) {
            int64_t i = r * in->classes + c;
            if (in->labels[i] > 1)
                return pk_fail(err, PK_EDATA,
                               "label of row %lld, class %d is %d; it must be 0 or 1", (long long)r,
                               c, in->labels[i]);
            if (!isfinite(score_at(in, i)))
                return pk_fail(err, PK_EDATA,
                               "score of row %lld, class %d is %g; the model diverged "
                               "or the file is damaged",
                               (long long)r, c, score_at(in, i));
        }
    return PK_OK;
}

struct scored {
    double score;
    uint32_t row;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Fills order [classes, rows] with entries of falling score. */
static enum pk_status sort_classes(const struct pk_scores *in, uint32_t *order, struct pk_err *err)
{
    struct scored *s;
    PK_TRY(pk_alloc(&s, (size_t)in->rows, sizeof *s, "sorted scores", err));
    for (int32_t c = 0; c < in->classes; c++) {
        uint32_t *e = order + c * in->rows;
        for (int64_t r = 0; r < in->rows; r++)
            s[r] = (struct scored){score_at(in, r * in->classes + c), (uint32_t)r};
        qsort(s, (size_t)in->rows, sizeof *s, by_score);
        for (int64_t i = 0; i < in->rows; i++)
            e[i] = s[i].row << 2 | (i && s[i].score == s[i - 1].score ? TIED : 0) |
                   (in->labels[s[i].row * (int64_t)in->classes + c] ? POSITIVE : 0);
    }
    free(s);
    return PK_OK;
}

struct curve {
    int64_t positives, negatives;
    double auc;               // NaN where undefined
    double average_precision; // NaN where undefined
};

/* One pass over the sorted rows of a class, each counted weight[row] times (once if NULL). Groups
 * of equal score are closed at the first entry of the next one. Twice the number of won pairs fits
 * 63 bits because rows < 2^30. */
static struct curve walk(const uint32_t *entry, int64_t rows, const uint32_t *weight)
{
    int64_t above[2] = {0, 0}; // negatives and positives in the groups before
    int64_t group[2] = {0, 0}; // in this group
    int64_t twice_won = 0;     // 2 x (pairs with the positive ahead) + tied pairs
    double precision_sum = 0;
    for (int64_t i = 0; i <= rows; i++) {
        if (i == rows || !(entry[i] & TIED)) {
            int64_t p = above[1] + group[1], q = above[0] + group[0];
            twice_won += group[0] * (above[1] + p);
            if (group[1]) precision_sum += (double)group[1] * ((double)p / (double)(p + q));
            above[0] = q;
            above[1] = p;
            group[0] = group[1] = 0;
            if (i == rows) break;
        }
        group[entry[i] & POSITIVE] += weight ? weight[entry[i] >> 2] : 1;
    }
    double p = (double)above[1], q = (double)above[0];
    return (struct curve){.positives = above[1],
                          .negatives = above[0],
                          .auc = p > 0 && q > 0 ? (double)twice_won / (2 * p * q) : (double)NAN,
                          .average_precision = p > 0 ? precision_sum / p : (double)NAN};
}

static void score_classes(struct pk_metrics *out, const uint32_t *order)
{
    double auc = 0, frequent = 0, ap = 0;
    for (int32_t c = 0; c < out->classes; c++) {
        struct curve k = walk(order + c * out->rows, out->rows, NULL);
        struct pk_interval none = {(double)NAN, (double)NAN, (double)NAN};
        out->per_class[c] =
            (struct pk_class_metrics){k.positives, k.auc, k.average_precision, none};
        if (isnan(k.average_precision))
            out->without_positive++;
        else
            ap += k.average_precision;
        if (isnan(k.auc)) {
            out->undefined++;
            continue;
        }
        auc += k.auc;
        if (k.positives < out->min_positives) continue;
        frequent += k.auc;
        out->frequent++;
    }
    int32_t defined = out->classes - out->undefined;
    int32_t positive = out->classes - out->without_positive;
    out->macro_auc = defined ? auc / defined : (double)NAN;
    out->macro_auc_frequent = out->frequent ? frequent / out->frequent : (double)NAN;
    out->macro_average_precision = positive ? ap / positive : (double)NAN;
}

/* How many of the thresholds k/100 are <= the probability p, that is the first k not predicted. */
static int thresholds_passed(double p)
{
    int k = (int)(p * (THRESHOLDS - 1));
    k = PK_MIN(k, THRESHOLDS - 1);
    while (k > 0 && (double)k / (THRESHOLDS - 1) > p) k--;
    while (k + 1 < THRESHOLDS && (double)(k + 1) / (THRESHOLDS - 1) <= p) k++;
    return k + 1;
}

static void score_samples(struct pk_metrics *out, const struct pk_scores *in)
{
    double precision[THRESHOLDS] = {0}, recall[THRESHOLDS] = {0};
    int64_t predicting[THRESHOLDS] = {0}, labelled = 0, correct = 0;
    for (int64_t i = 0; i < in->rows * in->classes && !out->logits; i++)
        out->logits = score_at(in, i) < 0 || score_at(in, i) > 1;
    for (int64_t r = 0; r < in->rows; r++) {
        int64_t all[THRESHOLDS + 1] = {0}, right[THRESHOLDS + 1] = {0}; // by first k not predicted
        int64_t labels = 0, base = r * in->classes, best = base, predictions = 0, hits = 0;
        for (int64_t i = base; i < base + in->classes; i++) {
            double s = score_at(in, i);
            int k = thresholds_passed(out->logits ? pk_sigmoid(s) : s);
            all[k]++;
            right[k] += in->labels[i];
            labels += in->labels[i];
            if (s > score_at(in, best)) best = i;
        }
        for (int k = THRESHOLDS - 1; k >= 0; k--) {
            predictions += all[k + 1];
            hits += right[k + 1];
            if (predictions) precision[k] += (double)hits / (double)predictions;
            if (predictions) predicting[k]++;
            if (labels) recall[k] += (double)hits / (double)labels;
        }
        labelled += labels > 0;
        correct += in->labels[best];
        out->rows_not_single += labels != 1;
    }
    out->accuracy = out->rows_not_single ? (double)NAN : (double)correct / (double)in->rows;
    out->fmax = out->fmax_threshold = (double)NAN;
    if (labelled) out->fmax = out->fmax_threshold = 0;
    for (int k = 0; k < THRESHOLDS && labelled; k++) {
        double p = predicting[k] ? precision[k] / (double)predicting[k] : 0;
        double q = recall[k] / (double)labelled;
        double f = p + q > 0 ? 2 * p * q / (p + q) : 0;
        if (!(f > out->fmax)) continue;
        out->fmax = f;
        out->fmax_threshold = (double)k / (THRESHOLDS - 1);
    }
}

struct boot { // shared, read only but for `auc`
    const struct pk_metrics *m;
    const uint32_t *order;       // [classes, rows]
    const int32_t *rarest_first; // [defined], so that a draw is rejected early
    int32_t defined;
    double *auc;    // [resamples, classes]
    int32_t *group; // [rows] subject of a row, numbered by first row; NULL: each is its own
    int64_t groups; // what is drawn from
};

struct boot_thread {
    const struct boot *boot;
    int first, stride; // resamples first, first + stride, ...
    uint32_t *weight;  // [rows]
    uint32_t *drawn;   // [groups], the same memory as weight without subjects
    int64_t rejected, failed_at;
    pthread_t thread;
    bool started;
};

static bool resample(struct boot_thread *t, int64_t b, uint32_t attempt)
{
    const struct pk_metrics *m = t->boot->m;
    struct pk_rng rng = pk_rng_make(m->bootstrap.seed, PK_RNG_BOOTSTRAP, (uint64_t)b, attempt);
    const int64_t groups = t->boot->groups;
    memset(t->drawn, 0, (size_t)groups * sizeof *t->drawn);
    for (int64_t i = 0; i < groups; i++) t->drawn[pk_rng_below(&rng, (uint64_t)groups)]++;
    for (int64_t i = 0; t->boot->group && i < m->rows; i++)
        t->weight[i] = t->drawn[t->boot->group[i]];
    for (int32_t k = 0; k < t->boot->defined; k++) {
        int32_t c = t->boot->rarest_first[k];
        struct curve v = walk(t->boot->order + c * m->rows, m->rows, t->weight);
        if (isnan(v.auc)) return false;
        t->boot->auc[b * m->classes + c] = v.auc;
    }
    return true;
}

static void *run_thread(void *arg)
{
    struct boot_thread *t = arg;
    for (int64_t b = t->first; b < t->boot->m->bootstrap.resamples; b += t->stride) {
        uint32_t attempt = 0;
        while (attempt < ATTEMPTS_MAX && !resample(t, b, attempt)) attempt++;
        t->rejected += attempt;
        if (attempt < ATTEMPTS_MAX) continue;
        t->failed_at = b; // the smallest of these over the threads is the same for any stride
        break;
    }
    return NULL;
}

static enum pk_status run_threads(struct pk_metrics *m, const struct boot *boot, int threads,
                                  struct pk_err *err)
{
    struct boot_thread t[THREADS_MAX] = {{0}};
    uint32_t *weight;
    const int64_t room = boot->group ? 2 * m->rows : m->rows;
    PK_TRY(pk_alloc(&weight, (size_t)room * (size_t)threads, sizeof *weight, "bootstrap weights",
                    err));
    for (int i = 0; i < threads; i++) {
        t[i] = (struct boot_thread){.boot = boot, .first = i, .stride = threads, .failed_at = -1};
        t[i].weight = weight + i * room;
        t[i].drawn = t[i].weight + (boot->group ? m->rows : 0);
        if (i) t[i].started = pthread_create(&t[i].thread, NULL, run_thread, &t[i]) == 0;
    }
    for (int i = 0; i < threads; i++) {
        if (t[i].started)
            pthread_join(t[i].thread, NULL);
        else
            run_thread(&t[i]); // the caller's own share, or no thread was to be had
        m->bootstrap.rejected += t[i].rejected;
        if (t[i].failed_at < 0) continue;
        if (m->bootstrap.possible || t[i].failed_at < m->bootstrap.failed_at)
            m->bootstrap.failed_at = t[i].failed_at;
        m->bootstrap.possible = false;
    }
    free(weight);
    return PK_OK;
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static double percentile(const double *sorted, int64_t n, double percent)
{
    double at = percent / 100 * (double)(n - 1);
    int64_t i = PK_MIN((int64_t)at, n - 1), j = PK_MIN(i + 1, n - 1);
    return sorted[i] + (at - (double)i) * (sorted[j] - sorted[i]);
}

struct pk_interval pk_interval_of(double *value, int64_t n, double low, double high)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += value[i];
    qsort(value, (size_t)n, sizeof *value, by_value);
    return (struct pk_interval){.mean = sum / (double)n,
                                .low = percentile(value, n, low),
                                .high = percentile(value, n, high)};
}

/* Intervals of the classes and of the two means; value [resamples] is scratch. */
static void summarise_all(struct pk_metrics *m, const double *auc, double *value)
{
    struct pk_bootstrap *b = &m->bootstrap;
    for (int32_t c = 0; c < m->classes; c++) {
        if (isnan(m->per_class[c].auc)) continue;
        for (int64_t i = 0; i < b->resamples; i++) value[i] = auc[i * m->classes + c];
        m->per_class[c].interval = pk_interval_of(value, b->resamples, b->low, b->high);
    }
    for (int frequent = 0; frequent < 2; frequent++) {
        int32_t count = frequent ? m->frequent : m->classes - m->undefined;
        if (!count) continue;
        for (int64_t i = 0; i < b->resamples; i++) {
            value[i] = 0;
            for (int32_t c = 0; c < m->classes; c++)
                if (!isnan(m->per_class[c].auc) &&
                    (!frequent || m->per_class[c].positives >= m->min_positives))
                    value[i] += auc[i * m->classes + c];
            value[i] /= count;
        }
        *(frequent ? &b->macro_auc_frequent : &b->macro_auc) =
            pk_interval_of(value, b->resamples, b->low, b->high);
    }
}

/* Classes that have an AUC, fewest of the rarer label first; insertion keeps equals in order. */
static int32_t order_by_rarity(const struct pk_metrics *m, int32_t *rarest_first)
{
    int32_t n = 0;
    for (int32_t c = 0; c < m->classes; c++) {
        const struct pk_class_metrics *k = m->per_class;
        if (isnan(k[c].auc)) continue;
        int64_t rare = PK_MIN(k[c].positives, m->rows - k[c].positives);
        int32_t i = n++;
        for (; i > 0; i--) {
            int32_t d = rarest_first[i - 1];
            if (PK_MIN(k[d].positives, m->rows - k[d].positives) <= rare) break;
            rarest_first[i] = d;
        }
        rarest_first[i] = c;
    }
    return n;
}

struct seat {
    uint64_t subject;
    int64_t row;
};

static int by_subject(const void *a, const void *b)
{
    const struct seat *x = a, *y = b;
    if (x->subject != y->subject) return x->subject < y->subject ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

/* Numbers the subjects by their first row, so that subjects of one row each are drawn as rows are.
 */
static enum pk_status group_rows(struct boot *b, const uint64_t *subject, int64_t rows,
                                 struct pk_err *err)
{
    struct seat *seat;
    int64_t first = 0;
    b->groups = rows;
    if (!subject) return PK_OK;
    PK_TRY(pk_alloc(&b->group, (size_t)rows, sizeof *b->group, "subjects", err));
    PK_TRY(pk_alloc(&seat, (size_t)rows, sizeof *seat, "subjects", err));
    for (int64_t i = 0; i < rows; i++) seat[i] = (struct seat){subject[i], i};
    qsort(seat, (size_t)rows, sizeof *seat, by_subject);
    for (int64_t i = 0; i < rows; i++) {
        if (!i || seat[i].subject != seat[i - 1].subject) first = seat[i].row;
        b->group[seat[i].row] = (int32_t)first;
    }
    b->groups = 0;
    for (int64_t i = 0; i < rows; i++) // a first row comes before the others of its subject
        b->group[i] = b->group[i] == i ? (int32_t)b->groups++ : b->group[b->group[i]];
    free(seat);
    return PK_OK;
}

static enum pk_status bootstrap(struct pk_metrics *m, const uint32_t *order,
                                const struct pk_metrics_options *o, struct pk_err *err)
{
    struct pk_interval none = {(double)NAN, (double)NAN, (double)NAN};
    struct pk_bootstrap *b = &m->bootstrap;
    struct boot boot = {.m = m, .order = order};
    double *value = NULL;
    int32_t *rarest = NULL;
    enum pk_status s;
    bool default_percentiles = o->low == 0 && o->high == 0;
    *b = (struct pk_bootstrap){.resamples = o->resamples,
                               .possible = m->undefined < m->classes,
                               .seed = o->seed,
                               .low = default_percentiles ? 2.5 : o->low,
                               .high = default_percentiles ? 97.5 : o->high,
                               .macro_auc = none,
                               .macro_auc_frequent = none};
    if (!b->resamples || !b->possible) return PK_OK;
    if ((s = pk_alloc(&rarest, (size_t)m->classes, sizeof *rarest, "class order", err)) != PK_OK)
        goto done;
    if ((s = pk_alloc(&value, (size_t)b->resamples, sizeof *value, "resamples", err)) != PK_OK)
        goto done;
    if ((s = pk_alloc(&boot.auc, (size_t)b->resamples, (size_t)m->classes * sizeof *boot.auc,
                      "resampled AUCs", err)) != PK_OK)
        goto done;
    if ((s = group_rows(&boot, o->subject, m->rows, err)) != PK_OK) goto done;
    boot.defined = order_by_rarity(m, rarest);
    boot.rarest_first = rarest;
    int threads = (int)PK_MIN((int64_t)PK_MIN(PK_MAX(o->threads, 1), THREADS_MAX), b->resamples);
    if ((s = run_threads(m, &boot, threads, err)) != PK_OK) goto done;
    if (b->possible) summarise_all(m, boot.auc, value);
done:
    free(rarest);
    free(value);
    free(boot.auc);
    free(boot.group);
    return s;
}

enum pk_status pk_metrics_compute(struct pk_metrics *out, const struct pk_scores *in,
                                  const struct pk_metrics_options *options, struct pk_err *err)
{
    uint32_t *order = NULL;
    enum pk_status s;
    *out = (struct pk_metrics){0};
    PK_TRY(check(in, options, err));
    out->rows = in->rows;
    out->classes = in->classes;
    out->min_positives = options->min_positives ? options->min_positives : 10;
    if ((s = pk_alloc(&out->per_class, (size_t)in->classes, sizeof *out->per_class, "class metrics",
                      err)) != PK_OK)
        goto done;
    if ((s = pk_alloc(&order, (size_t)in->rows, (size_t)in->classes * sizeof *order, "sorted rows",
                      err)) != PK_OK)
        goto done;
    if ((s = sort_classes(in, order, err)) != PK_OK) goto done;
    score_classes(out, order);
    score_samples(out, in);
    s = bootstrap(out, order, options, err);
done:
    free(order);
    if (s != PK_OK) pk_metrics_free(out);
    return s;
}

void pk_metrics_free(struct pk_metrics *m)
{
    free(m->per_class);
    *m = (struct pk_metrics){0};
}

double pk_sigmoid(double x)
{
    double e = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

void pk_windows_mean_logit(float *out, const float *logits, int64_t rows, int64_t windows,
                           int64_t classes)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < classes; c++) {
            double sum = 0;
            for (int64_t w = 0; w < windows; w++)
                sum += (double)logits[(r * windows + w) * classes + c];
            out[r * classes + c] = (float)(sum / (double)windows);
        }
}

void pk_windows_max_sigmoid(float *out, const float *logits, int64_t rows, int64_t windows,
                            int64_t classes)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < classes; c++) {
            float best = 0;
            for (int64_t w = 0; w < windows; w++) {
                float p = (float)pk_sigmoid((double)logits[(r * windows + w) * classes + c]);
                if (!(p <= best) && !isnan(best)) best = p; // a NaN logit must stay visible
            }
            out[r * classes + c] = best;
        }
}
