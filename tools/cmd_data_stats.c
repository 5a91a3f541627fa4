/* cmd_data_stats.c -- purkinje data stats: mean and std per lead over chosen records. */
#include "core/json.h"
#include "datasets/corpus.h"
#include "tools/cli.h"
#include "tools/rows.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum pk_status select_rows(const struct pk_dataset *d, const struct pk_args *a,
                                  struct pk_rows *out, struct pk_err *err)
{
    const char *source = pk_arg(a, "source"), *task = pk_arg(a, "task");
    const struct pk_task *t = task ? pk_dataset_task(d, task) : NULL;
    struct pk_folds set;
    int32_t wanted = -1;
    PK_TRY(pk_folds_parse(&set, pk_arg(a, "folds"), PK_FOLD_MAX, err));
    for (int32_t s = 0; source && s < d->sources; s++)
        if (!strcmp(d->source[s].name, source)) wanted = s;
    if (source && wanted < 0)
        return pk_fail(err, PK_EUSAGE,
                       "--source %s: %s has none of this name; 'purkinje data info' "
                       "lists them",
                       source, d->name);
    if (task && !t)
        return pk_fail(err, PK_EUSAGE,
                       "--task %s: %s has none of this name; 'purkinje data info' "
                       "lists them",
                       task, d->name);
    return pk_rows_select(out, d, &set, wanted, t, false, err);
}

static enum pk_status print_json(const struct pk_dataset *d, int64_t count, const double *mean,
                                 const double *std, struct pk_err *err)
{
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    pk_json_open(&w, NULL, '{');
    pk_json_put_i64(&w, "records", count);
    pk_json_open(&w, "mean", '{');
    for (int32_t l = 0; l < d->leads; l++) pk_json_put_f64(&w, d->lead_name[l], mean[l]);
    pk_json_close(&w);
    pk_json_open(&w, "std", '{');
    for (int32_t l = 0; l < d->leads; l++) pk_json_put_f64(&w, d->lead_name[l], std[l]);
    pk_json_close(&w);
    pk_json_close(&w);
    return pk_print(&text, err);
}

static enum pk_status measure(const struct pk_dataset *d, const struct pk_args *a,
                              struct pk_rows *rows, struct pk_err *err)
{
    double mean[PK_LEADS_MAX], std[PK_LEADS_MAX], start = pk_seconds();
    int threads = (int)PK_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L);
    PK_TRY(select_rows(d, a, rows, err));
    PK_TRY(pk_dataset_stats(d, rows->row, rows->count, threads, mean, std, err));
    if (!a->quiet)
        fprintf(stderr, "%lld records in %.2f s\n", (long long)rows->count, pk_seconds() - start);
    if (pk_arg(a, "json")) return print_json(d, rows->count, mean, std, err);
    printf("%-8s %12s %12s\n", "lead", "mean", "std");
    for (int32_t l = 0; l < d->leads; l++)
        printf("%-8s %12.6f %12.6f\n", d->lead_name[l], mean[l], std[l]);
    return PK_OK;
}

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    struct pk_dataset d;
    struct pk_rows rows = {0};
    if (a->count != 1) return pk_fail(err, PK_EUSAGE, "data stats needs one corpus");
    PK_TRY(pk_corpus_open(&d, a->word[0], err));
    enum pk_status s = measure(&d, a, &rows, err);
    free(rows.row);
    pk_dataset_free(&d);
    return s;
}

static const struct pk_option options[] = {
    {"folds", "LIST", "only records of these folds, such as 1-8 or 1-4,9"},
    {"source", "NAME", "only records of this source"},
    {"task", "NAME", "only records with a label of this task"},
    {"json", NULL, "the result as JSON"},
    {0}};

static const struct pk_example examples[] = {
    {"data stats demo", "mean and std of each lead over the whole corpus demo"},
    {"data stats demo --folds 1-8 --task rhythm --json",
     "over the training rows of a task, as JSON"},
    {0}};

const struct pk_command pk_cmd_data_stats = {
    .name = "data stats",
    .synopsis = "CORPUS",
    .summary = "mean and std per lead over chosen records",
    .details = "Valid samples of leads that are present, in the corpus's units; population std.",
    .options = options,
    .examples = examples,
    .run = run};
