/* cmd_data_import.c -- purkinje data import: from public databases to a corpus. */
#include "core/json.h"
#include "datasets/ptbxl_import.h"
#include "tools/cli.h"
#include "tools/rows.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct progress {
    bool terminal; // stderr is one: rewrite the line; otherwise a line every 10 s
    double start, last;
};

static void show_progress(void *self, int64_t done, int64_t count, int64_t rejected)
{
    struct progress *p = self;
    double now = pk_seconds(), spent = now - p->start;
    if (!p->terminal && done < count && now - p->last < 10) return;
    p->last = now;
    double rate = spent > 0 ? (double)done / spent : 0;
    double left = rate > 0 ? (double)(count - done) / rate : 0;
    fprintf(stderr,
            "%simport %lld/%lld records (%.1f %%), %.0f records/s, %.0f s left, %lld rejected%s",
            p->terminal ? "\r" : "", (long long)done, (long long)count,
            100.0 * (double)done / (double)count, rate, left, (long long)rejected,
            p->terminal && done < count ? "  " : "\n");
}

static enum pk_status parse_words(const struct pk_args *args, struct pk_ptbxl_import *job,
                                  struct pk_err *err)
{
    int64_t rate;
    if (args->count < 1 || strcmp(args->word[0], "ptbxl"))
        return pk_fail(err, PK_EUSAGE, "%s%s%s; the sources that can be imported are: ptbxl",
                       args->count ? "unknown source '" : "data import needs a source",
                       args->count ? args->word[0] : "", args->count ? "'" : "");
    if (args->count < 3 || strchr(args->word[1], '=') || strchr(args->word[2], '='))
        return pk_fail(err, PK_EUSAGE,
                       "data import ptbxl takes the folder of PTB-XL and the folder of "
                       "the corpus: purkinje data import ptbxl DIR OUT [rate=100|500]");
    job->folder = args->word[1];
    job->out = args->word[2];
    for (int i = 3; i < args->count; i++) {
        if (strncmp(args->word[i], "rate=", 5))
            return pk_fail(err, PK_EUSAGE,
                           "'%s' is not a setting of this source; rate=100 and "
                           "rate=500 are",
                           args->word[i]);
        if (!pk_parse_i64(args->word[i] + 5, &rate) || (rate != 100 && rate != 500))
            return pk_fail(err, PK_EUSAGE, "%s: PTB-XL has rate=100 and rate=500 (Hz)",
                           args->word[i]);
        job->rate = (int32_t)rate;
    }
    return PK_OK;
}

static enum pk_status print_summary(const struct pk_ptbxl_summary *s, const char *out,
                                    double seconds, bool json, struct pk_err *err)
{
    if (!json) {
        printf("%s: %lld of %lld records imported to %s in %.1f s\n", s->version,
               (long long)s->imported, (long long)s->selected, out, seconds);
        if (s->missing) printf("missing:  %lld records have no files\n", (long long)s->missing);
        if (s->rejected) printf("rejected: %lld records\n", (long long)s->rejected);
        if (s->missing || s->rejected) printf("each is in %s, with the reason\n", s->report);
        return PK_OK;
    }
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    pk_json_open(&w, NULL, '{');
    pk_json_put_string(&w, "source", s->version);
    pk_json_put_string(&w, "corpus", out);
    pk_json_put_i64(&w, "rows", s->rows);
    pk_json_put_i64(&w, "selected", s->selected);
    pk_json_put_i64(&w, "imported", s->imported);
    pk_json_put_i64(&w, "missing", s->missing);
    pk_json_put_i64(&w, "rejected", s->rejected);
    pk_json_put_f64(&w, "seconds", seconds);
    pk_json_put_string(&w, "report", s->report);
    pk_json_close(&w);
    return pk_print(&text, err);
}

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    struct progress progress = {.terminal = isatty(STDERR_FILENO), .start = pk_seconds()};
    struct pk_folds folds;
    struct pk_ptbxl_import job = {.rate = 100, .progress_self = &progress};
    struct pk_ptbxl_summary *summary;
    int64_t workers = PK_MAX(PK_MIN(sysconf(_SC_NPROCESSORS_ONLN), 64L), 1L);
    PK_TRY(parse_words(args, &job, err));
    PK_TRY(pk_arg_i64(args, "workers", 1, 256, &workers, err));
    PK_TRY(pk_arg_i64(args, "shard-records", 1, 10000000, &job.shard_records, err));
    PK_TRY(pk_folds_parse(&folds, pk_arg(args, "folds"), 10, err));
    job.folds = folds.all ? 0 : (uint32_t)folds.bits[0];
    job.workers = (int32_t)workers;
    job.allow_missing = pk_arg(args, "allow-missing") != NULL;
    if (!args->quiet) job.progress = show_progress;
    progress.last = progress.start;
    PK_TRY(pk_alloc(&summary, 1, sizeof *summary, "summary", err));
    enum pk_status s = pk_ptbxl_import(&job, summary, err);
    if (s == PK_OK)
        s = print_summary(summary, job.out, pk_seconds() - progress.start,
                          pk_arg(args, "json") != NULL, err);
    free(summary);
    return s;
}

static const struct pk_option options[] = {
    {"workers", "N", "processes that convert records (default: one for each core)"},
    {"allow-missing", NULL, "import what is there; the report lists the records without files"},
    {"folds", "LIST", "take only these folds of the source, e.g. 1,2,9"},
    {"shard-records", "N", "records in a shard (default: about 2 GB)"},
    {"json", NULL, "print the summary as JSON"},
    {0}};

static const struct pk_example examples[] = {
    {"data import ptbxl ptb-xl-1.0.3 corpus_100hz --folds 1,2,3,4,5,6,7,8,9",
     "PTB-XL at 100 Hz without the test fold"},
    {"data import ptbxl ptb-xl-1.0.3 corpus_500hz rate=500 --allow-missing --workers 2",
     "500 Hz; records without files become lines of corpus_500hz/import_report.json"},
    {0}};

const struct pk_command pk_cmd_data_import = {
    .name = "data import",
    .synopsis = "SOURCE DIR OUT [rate=100|500]",
    .summary = "convert a database to a corpus",
    .details =
        "Sources:\n"
        "  ptbxl   PTB-XL 1.0.1 or 1.0.3: the folder with ptbxl_database.csv\n\n"
        "Leads are ordered by name (I II III aVR aVL aVF V1-V6) and stored as int16 with an LSB "
        "of\n"
        "1 uV, unfiltered. All six labellings of PTB-XL come along (likelihoods are ignored), the\n"
        "official folds, hashed patient numbers, and the targets age and sex. Age is the table's:\n"
        "300 stands for 'over 89', only a missing age is NaN; sex is 0 male, 1 female.\n\n"
        "The corpus is the same, byte for byte, whatever the number of workers. A record that "
        "cannot\n"
        "be read is left out and listed with its reason in OUT/import_report.json. An interrupted\n"
        "import leaves no valid corpus: start it again, it begins from the first record.",
    .options = options,
    .examples = examples,
    .run = run};
