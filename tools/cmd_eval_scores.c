/* cmd_eval_scores.c -- purkinje eval scores: metrics of saved predictions against labels.
 *
 * Needs no model and no corpus: two .npy files, from Purkinje or from anything else. */
#include "core/json.h"
#include "core/metrics.h"
#include "core/npy.h"
#include "tools/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_LIMIT ((size_t)16 << 30) // bytes of one array; a guard against the wrong file

struct evaluation {
    const char *labels_path, *scores_path;
    struct pk_npy labels, scores;
    uint8_t *label;  // [rows, classes], 0 or 1
    double *widened; // [rows, classes] when scores are of another type than float and double
    char *names;     // text of --classes, lines ended by NUL; NULL without
    char **name;     // [classes] into names
    struct pk_metrics m;
};

static void release(struct evaluation *e)
{
    pk_npy_free(&e->labels);
    pk_npy_free(&e->scores);
    pk_metrics_free(&e->m);
    free(e->label);
    free(e->widened);
    free(e->names);
    free(e->name);
}

static void shape_text(char *out, size_t size, const struct pk_npy *a)
{
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < a->rank && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%lld", i ? " x " : "",
                                 (long long)a->shape[i]);
}

/* Both arrays [rows, classes], or [rows] for one class, of the same shape. */
static enum pk_status check_shapes(const struct evaluation *e, int64_t *rows, int64_t *classes,
                                   struct pk_err *err)
{
    const struct pk_npy *a = &e->labels, *b = &e->scores;
    char left[200], right[200];
    bool same = a->rank == b->rank && a->rank >= 1 && a->rank <= 2;
    for (int i = 0; same && i < a->rank; i++) same = a->shape[i] == b->shape[i];
    shape_text(left, sizeof left, a);
    shape_text(right, sizeof right, b);
    if (!same)
        return pk_fail(err, PK_EDATA,
                       "labels (%s: %s) and scores (%s: %s) must both be rows x classes",
                       e->labels_path, left, e->scores_path, right);
    *rows = a->shape[0];
    *classes = a->rank == 2 ? a->shape[1] : 1;
    if (*rows < 1 || *classes < 1 || *classes > INT32_MAX)
        return pk_fail(err, PK_EDATA, "%s: %s leaves nothing to score", e->labels_path, left);
    return PK_OK;
}

static enum pk_status convert(struct evaluation *e, struct pk_scores *in, struct pk_err *err)
{
    int64_t rows = 0, classes = 0;
    PK_TRY(check_shapes(e, &rows, &classes, err));
    PK_TRY(pk_alloc(&e->label, (size_t)e->labels.count, 1, "labels", err));
    for (int64_t i = 0; i < e->labels.count; i++) {
        double v = pk_npy_f64(&e->labels, i);
        if (v != 0 && v != 1)
            return pk_fail(err, PK_EDATA,
                           "%s: label of row %lld, class %lld is %g; it must be 0 or 1",
                           e->labels_path, (long long)(i / classes), (long long)(i % classes), v);
        e->label[i] = v != 0;
    }
    *in = (struct pk_scores){.rows = rows, .classes = (int32_t)classes, .labels = e->label};
    if (e->scores.type == PK_NPY_F32) {
        in->f32 = e->scores.data;
    } else if (e->scores.type == PK_NPY_F64) {
        in->f64 = e->scores.data;
    } else {
        PK_TRY(pk_alloc(&e->widened, (size_t)e->scores.count, sizeof(double), "scores", err));
        for (int64_t i = 0; i < e->scores.count; i++) e->widened[i] = pk_npy_f64(&e->scores, i);
        in->f64 = e->widened;
    }
    return PK_OK;
}

/* One class name a line. They are printed, so control characters are refused. */
static enum pk_status load_names(struct evaluation *e, const char *path, int32_t classes,
                                 struct pk_err *err)
{
    size_t size;
    int32_t n = 0;
    PK_TRY(pk_read_file(path, 16 << 20, &e->names, &size, err));
    PK_TRY(pk_alloc(&e->name, (size_t)classes, sizeof *e->name, "class names", err));
    for (char *at = e->names, *end = at + size; at < end; n++) {
        char *line = at;
        while (at < end && *at != '\n') at++;
        size_t length = (size_t)(at - line);
        *at++ = 0;
        if (length && line[length - 1] == '\r') line[--length] = 0;
        if (!length)
            return pk_fail(err, PK_EDATA, "%s:%d: empty line; a class name was expected", path,
                           n + 1);
        for (size_t i = 0; i < length; i++)
            if ((unsigned char)line[i] < 32 || line[i] == 127)
                return pk_fail(err, PK_EDATA, "%s:%d:%zu: control character in a class name", path,
                               n + 1, i + 1);
        if (n < classes) e->name[n] = line;
    }
    if (n != classes)
        return pk_fail(err, PK_EDATA, "%s names %d classes, the scores have %d", path, n, classes);
    return PK_OK;
}

static const char *class_name(const struct evaluation *e, int32_t c, char buffer[24])
{
    if (e->name) return e->name[c];
    snprintf(buffer, 24, "class %d", c);
    return buffer;
}

static void print_number(const char *what, double v, const char *note, ...) PK_PRINTF(3, 4);
static void print_number(const char *what, double v, const char *note, ...)
{
    va_list ap;
    if (isnan(v))
        printf("%-26s %10s  ", what, "undefined");
    else
        printf("%-26s %10.6f  ", what, v);
    va_start(ap, note);
    vprintf(note, ap);
    va_end(ap);
    printf("\n");
}

static void print_interval(const char *what, const struct pk_interval *i,
                           const struct pk_bootstrap *b)
{
    if (isnan(i->low)) return;
    printf("%-26s %10.6f  to %.6f (percentiles %g to %g of %lld resamples, seed %llu)\n", what,
           i->low, i->high, b->low, b->high, (long long)b->resamples, (unsigned long long)b->seed);
}

static void print_bootstrap_failure(const struct pk_metrics *m)
{
    const struct pk_bootstrap *b = &m->bootstrap;
    if (!b->resamples || b->possible) return;
    if (m->undefined == m->classes)
        printf("no intervals: no class has an AUC\n");
    else
        printf("no intervals: resample %lld found no draw of the rows with a positive and a "
               "negative of every class; too few positives\n",
               (long long)b->failed_at);
}

static void print_classes(const struct evaluation *e)
{
    const struct pk_metrics *m = &e->m;
    char buffer[24];
    printf("\n%-24s %10s %10s %10s %10s %10s\n", "class", "positives", "AUC", "low", "high", "AP");
    for (int32_t c = 0; c < m->classes; c++) {
        const struct pk_class_metrics *k = &m->per_class[c];
        double v[4] = {k->auc, k->interval.low, k->interval.high, k->average_precision};
        printf("%-24s %10lld", class_name(e, c, buffer), (long long)k->positives);
        for (int i = 0; i < 4; i++) {
            if (isnan(v[i]))
                printf(" %10s", i == 1 || i == 2 ? "-" : "undefined");
            else
                printf(" %10.6f", v[i]);
        }
        printf("\n");
    }
}

static void print_table(const struct evaluation *e, bool classes)
{
    const struct pk_metrics *m = &e->m;
    const struct pk_bootstrap *b = &m->bootstrap;
    char buffer[24];
    printf("%-26s %10lld  x %d classes\n", "rows", (long long)m->rows, m->classes);
    if (m->undefined)
        print_number("macro AUC, partial", m->macro_auc,
                     "mean over %d of %d classes; the others have no AUC, see below",
                     m->classes - m->undefined, m->classes);
    else
        print_number("macro AUC", m->macro_auc, "mean over all %d classes", m->classes);
    print_interval("  interval", &b->macro_auc, b);
    print_number("macro AUC, frequent", m->macro_auc_frequent,
                 "mean over the %d classes with at least %lld positives", m->frequent,
                 (long long)m->min_positives);
    print_interval("  interval", &b->macro_auc_frequent, b);
    print_number("macro AUPRC", m->macro_average_precision,
                 "mean average precision over %d of %d classes", m->classes - m->without_positive,
                 m->classes);
    print_number("Fmax", m->fmax, "sample-centric, at threshold %.2f of %s", m->fmax_threshold,
                 m->logits ? "the sigmoid: scores outside [0, 1] were taken as logits"
                           : "the scores, taken as probabilities");
    if (m->rows_not_single)
        print_number("accuracy", m->accuracy, "%lld rows have not exactly one label",
                     (long long)m->rows_not_single);
    else
        print_number("accuracy", m->accuracy, "largest score at the one label of the row");
    print_bootstrap_failure(m);
    for (int32_t c = 0; c < m->classes; c++)
        if (isnan(m->per_class[c].auc))
            printf("no AUC: %s has no %s\n", class_name(e, c, buffer),
                   m->per_class[c].positives ? "negative" : "positive");
    if (classes) print_classes(e);
}

static void json_interval(struct pk_json_writer *w, const struct pk_interval *i)
{
    pk_json_open(w, "interval", '{');
    pk_json_put_f64(w, "low", i->low);
    pk_json_put_f64(w, "high", i->high);
    pk_json_put_f64(w, "mean", i->mean);
    pk_json_close(w);
}

static void json_macros(struct pk_json_writer *w, const struct pk_metrics *m)
{
    pk_json_open(w, "macro_auc", '{');
    pk_json_put_f64(w, "value", m->macro_auc);
    pk_json_put_i64(w, "classes", m->classes - m->undefined);
    pk_json_put_bool(w, "over_all_classes", m->undefined == 0);
    json_interval(w, &m->bootstrap.macro_auc);
    pk_json_close(w);
    pk_json_open(w, "macro_auc_frequent", '{');
    pk_json_put_f64(w, "value", m->macro_auc_frequent);
    pk_json_put_i64(w, "classes", m->frequent);
    pk_json_put_i64(w, "min_positives", m->min_positives);
    json_interval(w, &m->bootstrap.macro_auc_frequent);
    pk_json_close(w);
    pk_json_open(w, "macro_average_precision", '{');
    pk_json_put_f64(w, "value", m->macro_average_precision);
    pk_json_put_i64(w, "classes", m->classes - m->without_positive);
    pk_json_close(w);
    pk_json_open(w, "fmax", '{');
    pk_json_put_f64(w, "value", m->fmax);
    pk_json_put_f64(w, "threshold", m->fmax_threshold);
    pk_json_put_string(w, "averaging", "sample-centric, thresholds 0 to 1 by 0.01");
    pk_json_put_string(w, "scores_taken_as", m->logits ? "logits" : "probabilities");
    pk_json_close(w);
    pk_json_open(w, "accuracy", '{');
    pk_json_put_f64(w, "value", m->accuracy);
    pk_json_put_i64(w, "rows_without_exactly_one_label", m->rows_not_single);
    pk_json_close(w);
}

static void json_bootstrap(struct pk_json_writer *w, const struct pk_bootstrap *b)
{
    pk_json_open(w, "bootstrap", '{');
    pk_json_put_i64(w, "resamples", b->resamples);
    if (b->resamples) {
        pk_json_put_bool(w, "possible", b->possible);
        pk_json_put_i64(w, "seed", (int64_t)b->seed);
        pk_json_put_i64(w, "rejected_draws", b->rejected);
        pk_json_put_f64(w, "low_percentile", b->low);
        pk_json_put_f64(w, "high_percentile", b->high);
        pk_json_put_string(w, "rule",
                           "rows drawn with replacement until every class that has an "
                           "AUC keeps a positive and a negative");
    }
    pk_json_close(w);
}

static enum pk_status print_json(const struct evaluation *e, struct pk_err *err)
{
    const struct pk_metrics *m = &e->m;
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    char buffer[24];
    pk_json_open(&w, NULL, '{');
    pk_json_put_string(&w, "labels", e->labels_path);
    pk_json_put_string(&w, "scores", e->scores_path);
    pk_json_put_i64(&w, "rows", m->rows);
    pk_json_put_i64(&w, "classes", m->classes);
    json_macros(&w, m);
    json_bootstrap(&w, &m->bootstrap);
    pk_json_open(&w, "per_class", '[');
    for (int32_t c = 0; c < m->classes; c++) {
        const struct pk_class_metrics *k = &m->per_class[c];
        pk_json_open(&w, NULL, '{');
        pk_json_put_string(&w, "name", class_name(e, c, buffer));
        pk_json_put_i64(&w, "positives", k->positives);
        pk_json_put_f64(&w, "auc", k->auc);
        json_interval(&w, &k->interval);
        pk_json_put_f64(&w, "average_precision", k->average_precision);
        pk_json_close(&w);
    }
    pk_json_close(&w);
    pk_json_close(&w);
    return pk_print(&text, err);
}

static enum pk_status evaluate(struct evaluation *e, const struct pk_args *args, struct pk_err *err)
{
    struct pk_scores in;
    int64_t resamples = 1000, seed = 0, min_positives = 10;
    int64_t threads = PK_MIN(PK_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1), 64);
    PK_TRY(pk_arg_i64(args, "bootstrap", 0, 1000000, &resamples, err));
    PK_TRY(pk_arg_i64(args, "seed", 0, INT64_MAX, &seed, err));
    PK_TRY(pk_arg_i64(args, "min-positives", 1, INT32_MAX, &min_positives, err));
    PK_TRY(pk_arg_i64(args, "threads", 1, 256, &threads, err));
    PK_TRY(pk_npy_load(&e->labels, e->labels_path, FILE_LIMIT, err));
    PK_TRY(pk_npy_load(&e->scores, e->scores_path, FILE_LIMIT, err));
    PK_TRY(convert(e, &in, err));
    if (pk_arg(args, "classes")) PK_TRY(load_names(e, pk_arg(args, "classes"), in.classes, err));
    struct pk_metrics_options o = {.min_positives = min_positives,
                                   .resamples = resamples,
                                   .seed = (uint64_t)seed,
                                   .threads = (int)threads};
    enum pk_status s = pk_metrics_compute(&e->m, &in, &o, err);
    if (s == PK_EDATA) pk_err_context(err, "%s", e->scores_path);
    PK_TRY(s);
    if (pk_arg(args, "json")) return print_json(e, err);
    print_table(e, pk_arg(args, "per-class") != NULL);
    return PK_OK;
}

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    struct evaluation e = {0};
    if (args->count != 2)
        return pk_fail(err, PK_EUSAGE,
                       "eval scores takes LABELS.npy and SCORES.npy, %d words given", args->count);
    e.labels_path = args->word[0];
    e.scores_path = args->word[1];
    enum pk_status s = evaluate(&e, args, err);
    release(&e);
    return s;
}

static const struct pk_option options[] = {
    {"json", NULL, "everything as JSON, per class too; undefined values are null"},
    {"classes", "FILE", "class names, one a line, in the order of the columns"},
    {"per-class", NULL, "also a line for each class"},
    {"bootstrap", "N", "resamples of the rows for 95 % intervals (default 1000, 0 for none)"},
    {"seed", "N", "of the bootstrap (default 0)"},
    {"min-positives", "N", "what makes a class frequent (default 10)"},
    {"threads", "N", "of the bootstrap (default: all cores); the result does not depend on it"},
    {0}};

static const struct pk_example examples[] = {
    {"eval scores labels.npy scores.npy", "macro AUC with its 95 % interval, AUPRC, Fmax"},
    {"eval scores labels.npy scores.npy --per-class --classes classes.txt --bootstrap 100",
     "the same and a line for each class, by name"},
    {"eval scores labels.npy scores.npy --json --bootstrap 0", "for a script, without intervals"},
    {0}};

const struct pk_command pk_cmd_eval_scores = {
    .name = "eval scores",
    .synopsis = "LABELS.npy SCORES.npy",
    .summary = "metrics of saved predictions",
    .details =
        "Labels are 0 or 1, scores probabilities or logits, both rows x classes, in NumPy's .npy\n"
        "format. Macro AUC is the unweighted mean of the classes' ROC AUC with mid-rank ties; a\n"
        "class without a positive or a negative has none and is listed, never skipped silently.\n"
        "Fmax is sample-centric over thresholds 0 to 1 by 0.01; if a score lies outside [0, 1] "
        "all\n"
        "are taken as logits for it. Do not score a softmax: multi-label scores are sigmoids.\n"
        "Exit code 65 when a score is NaN or infinite, or a label is not 0 or 1.",
    .options = options,
    .examples = examples,
    .run = run};
