/* cmd_data_info.c -- purkinje data info: what a corpus holds. */
#include "core/json.h"
#include "datasets/corpus.h"
#include "tools/cli.h"

#include <math.h>
#include <stdlib.h>

enum { FOLDS = 64 }; // folds 1 to 63 are listed, 0 stands for none

static int64_t labelled(const struct pk_task *t, int64_t i)
{
    for (int32_t k = 0; k < t->classes; k++)
        if (t->label[i * t->classes + k]) return 1;
    return 0;
}

static int64_t positives(const struct pk_dataset *d, const struct pk_task *t, int32_t k)
{
    int64_t n = 0;
    for (int64_t i = 0; i < d->count; i++) n += t->label[i * t->classes + k];
    return n;
}

/* Records by fold; of those with a label of the task, or of all for t == NULL. */
static void count_folds(const struct pk_dataset *d, const struct pk_task *t, int64_t by[FOLDS])
{
    for (int f = 0; f < FOLDS; f++) by[f] = 0;
    for (int64_t i = 0; i < d->count; i++) {
        int fold = d->record[i].fold;
        by[fold > 0 && fold < FOLDS ? fold : 0] += t ? labelled(t, i) : 1;
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static enum pk_status count_patients(const struct pk_dataset *d, int64_t *out, struct pk_err *err)
{
    uint64_t *id;
    *out = 0;
    PK_TRY(pk_alloc(&id, (size_t)d->count, sizeof *id, "patients", err));
    for (int64_t i = 0; i < d->count; i++) id[i] = d->record[i].patient;
    qsort(id, (size_t)d->count, sizeof *id, by_value);
    for (int64_t i = 0; i < d->count; i++) *out += id[i] != 0 && (i == 0 || id[i] != id[i - 1]);
    free(id);
    return PK_OK;
}

struct summary {
    int64_t n;
    double low, mean, high;
};

static struct summary summarise(const struct pk_target *t, int64_t count)
{
    struct summary s = {.low = INFINITY, .high = -INFINITY};
    for (int64_t i = 0; i < count; i++) {
        double v = (double)t->value[i];
        if (isnan(v)) continue;
        s.n++;
        s.low = fmin(s.low, v);
        s.high = fmax(s.high, v);
        s.mean += (v - s.mean) / (double)s.n;
    }
    return s;
}

/* --- text ---------------------------------------------------------------------------------- */

static void print_folds(const struct pk_dataset *d, const struct pk_task *t, const char *name)
{
    int64_t by[FOLDS];
    count_folds(d, t, by);
    for (int f = 1; f < FOLDS; f++) {
        if (!by[f]) continue;
        printf("  %-22s by fold", name);
        for (f = 1; f < FOLDS; f++)
            if (by[f]) printf(" %d:%lld", f, (long long)by[f]);
        if (by[0]) printf(" none:%lld", (long long)by[0]);
        printf("\n");
        return;
    }
}

static void print_task(const struct pk_dataset *d, const struct pk_task *t)
{
    int64_t rows = 0;
    for (int64_t i = 0; i < d->count; i++) rows += labelled(t, i);
    printf("task %s: %d classes, %lld records with a label\n", t->name, t->classes,
           (long long)rows);
    for (int32_t k = 0; k < t->classes; k++)
        printf("  %-22s %lld\n", t->class_name[k], (long long)positives(d, t, k));
    print_folds(d, t, "labelled");
}

static void print_text(const struct pk_dataset *d, int64_t patients)
{
    printf("%s: %lld records of %s, %d leads x %d samples at %g Hz (%g s)\n", d->name,
           (long long)d->count, d->modality, d->leads, d->samples, d->rate,
           (double)d->samples / d->rate);
    printf("version  %s\npatients %lld\nleads   ", d->version, (long long)patients);
    for (int32_t l = 0; l < d->leads; l++) printf(" %s", d->lead_name[l]);
    printf("\n");
    print_folds(d, NULL, "records");
    for (int32_t s = 0; s < d->sources; s++) {
        printf("source %s: %lld records\n  %-8s %10s %10s\n", d->source[s].name,
               (long long)d->source[s].count, "lead", "mean", "std");
        for (int32_t l = 0; l < d->leads; l++)
            printf("  %-8s %10.4f %10.4f\n", d->lead_name[l], d->source[s].mean[l],
                   d->source[s].std[l]);
    }
    for (int32_t t = 0; t < d->tasks; t++) print_task(d, &d->task[t]);
    for (int32_t t = 0; t < d->targets; t++) {
        struct summary s = summarise(&d->target[t], d->count);
        printf("target %s: %lld values", d->target[t].name, (long long)s.n);
        if (s.n) printf(", %.4g to %.4g, mean %.4g", s.low, s.high, s.mean);
        printf("\n");
    }
}

/* --- JSON ---------------------------------------------------------------------------------- */

static void put_folds(struct pk_json_writer *w, const struct pk_dataset *d, const struct pk_task *t)
{
    int64_t by[FOLDS];
    char key[16];
    count_folds(d, t, by);
    pk_json_open(w, "folds", '{');
    for (int f = 0; f < FOLDS; f++) {
        snprintf(key, sizeof key, "%d", f);
        if (by[f]) pk_json_put_i64(w, key, by[f]);
    }
    pk_json_close(w);
}

static void put_columns(struct pk_json_writer *w, const struct pk_dataset *d)
{
    pk_json_open(w, "tasks", '[');
    for (int32_t t = 0; t < d->tasks; t++) {
        pk_json_open(w, NULL, '{');
        pk_json_put_string(w, "name", d->task[t].name);
        pk_json_open(w, "classes", '{');
        for (int32_t k = 0; k < d->task[t].classes; k++)
            pk_json_put_i64(w, d->task[t].class_name[k], positives(d, &d->task[t], k));
        pk_json_close(w);
        put_folds(w, d, &d->task[t]);
        pk_json_close(w);
    }
    pk_json_close(w);
    pk_json_open(w, "targets", '[');
    for (int32_t t = 0; t < d->targets; t++) {
        struct summary s = summarise(&d->target[t], d->count);
        pk_json_open(w, NULL, '{');
        pk_json_put_string(w, "name", d->target[t].name);
        pk_json_put_i64(w, "values", s.n);
        pk_json_put_f64(w, "min", s.n ? s.low : NAN);
        pk_json_put_f64(w, "mean", s.n ? s.mean : NAN);
        pk_json_put_f64(w, "max", s.n ? s.high : NAN);
        pk_json_close(w);
    }
    pk_json_close(w);
}

static enum pk_status print_json(const struct pk_dataset *d, int64_t patients, struct pk_err *err)
{
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    pk_json_open(&w, NULL, '{');
    pk_json_put_string(&w, "corpus", d->name);
    pk_json_put_string(&w, "modality", d->modality);
    pk_json_put_string(&w, "version", d->version);
    pk_json_put_i64(&w, "records", d->count);
    pk_json_put_i64(&w, "patients", patients);
    pk_json_put_f64(&w, "rate", d->rate);
    pk_json_put_i64(&w, "samples", d->samples);
    pk_json_open(&w, "leads", '[');
    for (int32_t l = 0; l < d->leads; l++) pk_json_put_string(&w, NULL, d->lead_name[l]);
    pk_json_close(&w);
    put_folds(&w, d, NULL);
    pk_json_open(&w, "sources", '[');
    for (int32_t s = 0; s < d->sources; s++) {
        pk_json_open(&w, NULL, '{');
        pk_json_put_string(&w, "name", d->source[s].name);
        pk_json_put_i64(&w, "records", d->source[s].count);
        pk_json_put_f64s(&w, "mean", d->source[s].mean, d->leads);
        pk_json_put_f64s(&w, "std", d->source[s].std, d->leads);
        pk_json_close(&w);
    }
    pk_json_close(&w);
    put_columns(&w, d);
    pk_json_close(&w);
    return pk_print(&text, err);
}

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    struct pk_dataset d;
    int64_t patients;
    if (a->count != 1) return pk_fail(err, PK_EUSAGE, "data info needs one corpus");
    PK_TRY(pk_corpus_open(&d, a->word[0], err));
    enum pk_status s = count_patients(&d, &patients, err);
    if (s == PK_OK && pk_arg(a, "json"))
        s = print_json(&d, patients, err);
    else if (s == PK_OK)
        print_text(&d, patients);
    pk_dataset_free(&d);
    return s;
}

static const struct pk_option options[] = {{"json", NULL, "the same as JSON"}, {0}};

static const struct pk_example examples[] = {
    {"data info demo",
     "records, patients, leads, statistics, classes and folds of the corpus demo"},
    {"data info demo --json", "the same for programs"},
    {0}};

const struct pk_command pk_cmd_data_info = {
    .name = "data info",
    .synopsis = "CORPUS",
    .summary = "what a corpus holds: records, classes, folds, statistics",
    .options = options,
    .examples = examples,
    .run = run};
