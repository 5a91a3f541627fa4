/* cmd_data_verify.c -- purkinje data verify: compares every byte of a corpus with its checksums,
 * and looks for subjects that are in more than one fold. */
#include "core/json.h"
#include "datasets/corpus.h"
#include "datasets/fold.h"
#include "tools/cli.h"

static enum pk_status print_json(int64_t bad, int64_t leaks, const struct pk_text *report,
                                 struct pk_err *err)
{
    struct pk_text t = {0};
    struct pk_json_writer w = {.out = &t, .indent = 2};
    pk_json_open(&w, NULL, '{');
    pk_json_put_bool(&w, "good", bad == 0 && leaks == 0);
    pk_json_put_i64(&w, "damaged_shards", bad);
    pk_json_put_i64(&w, "subjects_in_several_folds", leaks);
    pk_json_put_string(&w, "report", report->s ? report->s : "");
    pk_json_close(&w);
    return pk_print(&t, err);
}

/* Records of one person in two folds make any test result too good. */
static enum pk_status check_folds(const char *dir, int64_t *leaks, struct pk_text *report,
                                  struct pk_err *err)
{
    struct pk_dataset d = {0};
    int64_t a, b;
    char first[64], second[64];
    PK_TRY(pk_corpus_open(&d, dir, err)); // intact, and of a layout that can be read
    enum pk_status s = pk_fold_leaks(&d, leaks, &a, &b, err);
    if (s == PK_OK && *leaks) {
        d.record_id(&d, a, first);
        d.record_id(&d, b, second);
        pk_text_add(
            report,
            "%lld subjects are in more than one fold, e.g. that of records %s (fold %d) and "
            "%s (fold %d)\n",
            (long long)*leaks, first, d.record[a].fold, second, d.record[b].fold);
    }
    pk_dataset_free(&d);
    return s;
}

static enum pk_status check(const char *dir, const struct pk_args *a, struct pk_text *report,
                            struct pk_err *err)
{
    int64_t bad = 0, leaks = 0;
    double start = pk_seconds();
    PK_TRY(pk_corpus_verify(dir, &bad, report, err));
    if (!bad) PK_TRY(check_folds(dir, &leaks, report, err));
    if (report->failed) return pk_fail(err, PK_ENOMEM, "out of memory: report");
    if (pk_arg(a, "json"))
        PK_TRY(print_json(bad, leaks, report, err));
    else if (!bad && !leaks)
        printf("%s is intact\n", dir);
    if (!a->quiet) fprintf(stderr, "checked in %.1f s\n", pk_seconds() - start);
    if (bad)
        return pk_fail(err, PK_EDATA, "%lld damaged shard%s in %s:\n%.1500s", (long long)bad,
                       bad == 1 ? "" : "s", dir, report->s);
    if (leaks) return pk_fail(err, PK_EDATA, "%s: %.1500s", dir, report->s);
    return PK_OK;
}

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    struct pk_text report = {0};
    if (a->count != 1) return pk_fail(err, PK_EUSAGE, "data verify needs one corpus");
    enum pk_status s = check(a->word[0], a, &report, err);
    pk_text_free(&report);
    return s;
}

static const struct pk_option options[] = {{"json", NULL, "the result as JSON"}, {0}};

static const struct pk_example examples[] = {
    {"data verify demo", "reads every byte of the corpus demo; exit code 65 when one is wrong"},
    {"data verify demo --json", "the same for programs"},
    {0}};

const struct pk_command pk_cmd_data_verify = {
    .name = "data verify",
    .synopsis = "CORPUS",
    .summary = "compares every byte of a corpus with its checksums",
    .details = "Also an error: a subject whose records are in more than one fold.",
    .options = options,
    .examples = examples,
    .run = run};
