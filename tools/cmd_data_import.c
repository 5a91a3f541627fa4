/* cmd_data_import.c -- purkinje data import: from public databases to a corpus. */
#include "core/json.h"
#include "datasets/import_part.h"
#include "datasets/ptbxl_import.h"
#include "datasets/ppg_import.h"
#include "tools/cli.h"
#include "tools/rows.h"
#include "tools/world.h"

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

static bool parse_band(const char *text, double band[2]);

/* One key=value of PTB-XL; false when the value is not what the key takes, *known tells the key. */
static bool ptbxl_setting(struct pk_ptbxl_import *job, const char *word, bool *known)
{
    int64_t rate;
    *known = true;
    if (!strncmp(word, "rate=", 5)) {
        if (!pk_parse_i64(word + 5, &rate) || rate < 10 || rate > 2000) return false;
        job->rate = (int32_t)rate;
        return true;
    }
    if (!strncmp(word, "band=", 5)) return parse_band(word + 5, job->band);
    if (!strncmp(word, "norm=", 5)) {
        job->standardise = !strcmp(word + 5, "record");
        return job->standardise || !strcmp(word + 5, "none");
    }
    *known = false;
    return false;
}

static enum pk_status parse_words(const struct pk_args *args, struct pk_ptbxl_import *job,
                                  struct pk_err *err)
{
    job->folder = args->word[1];
    job->out = args->word[2];
    for (int i = 3; i < args->count; i++) {
        bool known;
        if (ptbxl_setting(job, args->word[i], &known)) continue;
        return pk_fail(err, PK_EUSAGE,
                       known
                           ? "%s: rate=HZ takes 10 to 2000, band=LOW-HIGH two frequencies or off, "
                             "norm=record or none"
                           : "'%s' is not a setting of this source; rate=, band= and norm= are",
                       args->word[i]);
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
        if (s->incomplete)
            printf("leads:    %lld records without a signal in some lead\n",
                   (long long)s->incomplete);
        if (s->missing || s->rejected || s->incomplete)
            printf("each is in %s, with the reason\n", s->report);
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
    pk_json_put_i64(&w, "incomplete", s->incomplete);
    pk_json_put_f64(&w, "seconds", seconds);
    pk_json_put_string(&w, "report", s->report);
    pk_json_close(&w);
    return pk_print(&text, err);
}

static enum pk_status parse_ptbxl(const struct pk_args *args, struct pk_ptbxl_import *job,
                                  struct pk_err *err)
{
    struct pk_folds folds;
    PK_TRY(parse_words(args, job, err));
    PK_TRY(pk_arg_i64(args, "shard-records", 1, 10000000, &job->shard_records, err));
    PK_TRY(pk_folds_parse(&folds, pk_arg(args, "folds"), 10, err));
    job->folds = folds.all ? 0 : (uint32_t)folds.bits[0];
    return PK_OK;
}

static enum pk_status run_ptbxl(const struct pk_args *args, struct pk_ptbxl_import *job,
                                struct progress *progress, struct pk_err *err)
{
    struct pk_ptbxl_summary *summary;
    const bool leads = pk_import_leads(job->ranks);
    job->progress_self = progress;
    job->allow_missing = pk_arg(args, "allow-missing") != NULL;
    if (!args->quiet && leads) job->progress = show_progress;
    PK_TRY(pk_alloc(&summary, 1, sizeof *summary, "summary", err));
    enum pk_status s = pk_ptbxl_import(job, summary, err);
    if (s == PK_OK && leads)
        s = print_summary(summary, job->out, pk_seconds() - progress->start,
                          pk_arg(args, "json") != NULL, err);
    free(summary);
    return s;
}

/* ---- PPG, and ECG recorded with it ---- */

/* "0.5-12" or "off". */
static bool parse_band(const char *text, double band[2])
{
    char low[32];
    const char *dash = strchr(text, '-');
    band[0] = band[1] = 0;
    if (!strcmp(text, "off")) return true;
    if (!dash || (size_t)(dash - text) >= sizeof low) return false;
    snprintf(low, sizeof low, "%.*s", (int)(dash - text), text);
    return pk_parse_f64(low, &band[0]) && pk_parse_f64(dash + 1, &band[1]) && band[0] > 0 &&
           band[1] > band[0] && band[1] < 1e6;
}

/* Index of text in words (ends with NULL), or -1. */
static int choice(const char *text, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (!strcmp(text, words[i])) return i;
    return -1;
}

/* One key=value; false when the value is not what the key takes, *key NULL when there is no such.
 */
static bool ppg_setting(struct pk_ppg_job *job, const char *word, const char **key)
{
    static const char *const polarity[] = {"keep", "flip", "auto", NULL},
                             *const norm[] = {"none", "z", NULL},
                             *const folds[] = {"none", "subject", NULL};
    struct pk_ppg_options *o = &job->options;
    const struct {
        const char *key;
        double *number;
        double *band;
        const char **text;
    } table[] = {{"rate=", &o->rate, NULL, NULL},
                 {"window=", &o->window, NULL, NULL},
                 {"stride=", &o->stride, NULL, NULL},
                 {"stop=", &o->stop_db, NULL, NULL},
                 {"gap=", &o->gap, NULL, NULL},
                 {"flat=", &o->flat, NULL, NULL},
                 {"band=", NULL, o->band, NULL},
                 {"ecg_band=", NULL, o->ecg_band, NULL},
                 {"leads=", NULL, NULL, &job->leads},
                 {"subject=", NULL, NULL, &job->subject},
                 {"description=", NULL, NULL, &job->description}};
    for (size_t i = 0; i < PK_COUNT(table); i++) {
        size_t n = strlen(*key = table[i].key);
        if (strncmp(word, *key, n)) continue;
        if (table[i].number) { // what is possible is checked when all are known; 0 is "not given"
            bool positive =
                !strcmp(*key, "rate=") || !strcmp(*key, "window=") || !strcmp(*key, "stride=");
            return pk_parse_f64(word + n, table[i].number) && (!positive || *table[i].number > 0);
        }
        if (table[i].band) return parse_band(word + n, table[i].band);
        *table[i].text = word + n;
        return word[n] != 0;
    }
    const char *equal = strchr(word, '=');
    int k = -1;
    *key = word;
    if (!strncmp(word, "polarity=", 9)) {
        o->polarity = (enum pk_polarity)PK_MAX(k = choice(equal + 1, polarity), 0);
    } else if (!strncmp(word, "norm=", 5)) {
        o->zscore = (k = choice(equal + 1, norm)) == 1;
    } else if (!strncmp(word, "folds=", 6)) {
        job->no_folds = (k = choice(equal + 1, folds)) == 0;
    } else {
        *key = NULL;
    }
    return k >= 0;
}

static enum pk_status print_ppg(const struct pk_ppg_summary *s, const char *out, double seconds,
                                bool json, struct pk_err *err)
{
    const struct pk_ppg_counts *n = &s->counts;
    if (!json) {
        printf("%s: %lld of %lld windows of %lld recordings imported to %s in %.1f s\n", s->version,
               (long long)n->kept, (long long)n->windows, (long long)s->recordings, out, seconds);
        if (n->incomplete)
            printf("leads:    %lld windows without a signal in some lead\n",
                   (long long)n->incomplete);
        if (n->flat) printf("flat:     %lld windows\n", (long long)n->flat);
        if (n->gap) printf("gaps:     %lld windows\n", (long long)n->gap);
        if (n->flipped) printf("turned:   %d channels\n", n->flipped);
        if (s->rejected) printf("rejected: %lld recordings\n", (long long)s->rejected);
        printf("each recording is in %s\n", s->report);
        return PK_OK;
    }
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    pk_json_open(&w, NULL, '{');
    pk_json_put_string(&w, "source", s->version);
    pk_json_put_string(&w, "corpus", out);
    pk_json_put_i64(&w, "recordings", s->recordings);
    pk_json_put_i64(&w, "rejected", s->rejected);
    pk_json_put_i64(&w, "windows", n->windows);
    pk_json_put_i64(&w, "imported", n->kept);
    pk_json_put_i64(&w, "incomplete", n->incomplete);
    pk_json_put_i64(&w, "flat", n->flat);
    pk_json_put_i64(&w, "gap", n->gap);
    pk_json_put_i64(&w, "flipped_channels", n->flipped);
    pk_json_put_f64(&w, "seconds", seconds);
    pk_json_put_string(&w, "report", s->report);
    pk_json_close(&w);
    return pk_print(&text, err);
}

static enum pk_status parse_ppg(const struct pk_args *args, struct pk_ppg_job *job,
                                struct pk_err *err)
{
    const char *key;
    *job = (struct pk_ppg_job){.source = args->word[0],
                               .folder = args->word[1],
                               .out = args->word[2],
                               .options = {.band = {0.5, 12},
                                           .ecg_band = {0.5, 40},
                                           .stop_db = 20,
                                           .gap = 0.25,
                                           .flat = 0.25,
                                           .zscore = true}};
    if (pk_arg(args, "folds") || pk_arg(args, "allow-missing"))
        return pk_fail(err, PK_EUSAGE, "--folds and --allow-missing are of the source ptbxl");
    for (int i = 3; i < args->count; i++) {
        if (ppg_setting(job, args->word[i], &key)) continue;
        return pk_fail(err, PK_EUSAGE,
                       "'%s' is not %s; 'purkinje data import --help' lists the "
                       "settings",
                       args->word[i], key ? "a value of this setting" : "a setting of this source");
    }
    return pk_arg_i64(args, "shard-records", 1, 10000000, &job->shard_records, err);
}

static enum pk_status run_ppg(const struct pk_args *args, struct pk_ppg_job *job,
                              struct progress *progress, struct pk_err *err)
{
    struct pk_ppg_summary *summary;
    const bool leads = pk_import_leads(job->ranks);
    job->progress = args->quiet || !leads ? NULL : show_progress;
    job->progress_self = progress;
    PK_TRY(pk_alloc(&summary, 1, sizeof *summary, "summary", err));
    enum pk_status s = pk_ppg_import(job, summary, err);
    if (s == PK_OK && leads)
        s = print_ppg(summary, job->out, pk_seconds() - progress->start,
                      pk_arg(args, "json") != NULL, err);
    free(summary);
    return s;
}

/* ---- the ranks ---- */

static enum pk_status agree(void *self, enum pk_status s, struct pk_err *err)
{
    struct pk_job *world = self;
    return pk_comm_agree(world->comm, s, err);
}

static enum pk_status gather(void *self, void *all, size_t bytes, struct pk_err *err)
{
    struct pk_job *world = self;
    return pk_comm_all_gather(world->comm, all, bytes, err);
}

static enum pk_status watch(void *self, struct pk_err *err)
{
    struct pk_job *world = self;
    if (!pk_heartbeat_verdict(world->heartbeat, 0, NULL)) return PK_OK;
    return pk_fail(err, PK_ERANK, "another rank failed"); // pk_world_close says which
}

/* All that decides what comes out; the number of workers does not, and may differ. */
static uint64_t hash_settings(const struct pk_args *args)
{
    static const char *const option[] = {"allow-missing", "folds", "shard-records"};
    uint64_t hash = 0;
    for (int i = 0; i < args->count; i++)
        hash = pk_hash64(args->word[i], strlen(args->word[i]) + 1, hash);
    for (size_t i = 0; i < PK_COUNT(option); i++) {
        const char *given = pk_arg(args, option[i]);
        hash = given ? pk_hash64(given, strlen(given) + 1, hash + i + 1) : hash;
    }
    return hash;
}

/* ---- the command ---- */

struct request { // what the command line asks for
    bool ptbxl;
    int64_t workers; // 0: as many as there are cores
    struct pk_ptbxl_import of_ptbxl;
    struct pk_ppg_job of_ppg;
};

static enum pk_status parse(const struct pk_args *args, struct request *q, struct pk_err *err)
{
    const struct pk_ppg_source *ppg = pk_ppg_sources;
    struct pk_text have = {0};
    enum pk_status s = PK_OK;
    *q = (struct request){.of_ptbxl = {.rate = 100}};
    q->ptbxl = args->count > 0 && !strcmp(args->word[0], "ptbxl");
    for (; ppg->name && !(args->count && !strcmp(ppg->name, args->word[0])); ppg++)
        pk_text_add(&have, ", %s", ppg->name);
    if (!q->ptbxl && !ppg->name)
        s = pk_fail(err, PK_EUSAGE, "%s%s%s; the sources that can be imported are: ptbxl%s",
                    args->count ? "unknown source '" : "data import needs a source",
                    args->count ? args->word[0] : "", args->count ? "'" : "", have.s ? have.s : "");
    pk_text_free(&have);
    PK_TRY(s);
    if (args->count < 3 || strchr(args->word[1], '=') || strchr(args->word[2], '='))
        return pk_fail(err, PK_EUSAGE,
                       "data import %s takes the folder of %s and the folder of "
                       "the corpus: purkinje data import %s DIR OUT [key=value ...]",
                       args->word[0], q->ptbxl ? "PTB-XL" : "the recordings", args->word[0]);
    PK_TRY(pk_arg_i64(args, "workers", 1, PK_IMPORT_WORKERS_MAX, &q->workers, err));
    return q->ptbxl ? parse_ptbxl(args, &q->of_ptbxl, err) : parse_ppg(args, &q->of_ppg, err);
}

static enum pk_status import_as_rank(const struct pk_args *args, struct pk_job *world,
                                     struct pk_err *err)
{
    struct progress progress = {.terminal = isatty(STDERR_FILENO), .start = pk_seconds()};
    struct pk_import_ranks ranks = {.rank = world->comm->rank,
                                    .size = world->comm->size,
                                    .settings = hash_settings(args),
                                    .self = world,
                                    .agree = agree,
                                    .gather = gather,
                                    .watch = watch};
    const int64_t cores = PK_MAX(PK_MIN(sysconf(_SC_NPROCESSORS_ONLN), 64L), 1L);
    struct request q;
    PK_TRY(pk_import_agree(&ranks, parse(args, &q, err), err));
    if (!q.workers) q.workers = PK_MAX(cores / PK_MAX(world->world.local_size, 1), (int64_t)1);
    progress.last = progress.start;
    q.of_ptbxl.workers = q.of_ppg.workers = (int32_t)q.workers;
    q.of_ptbxl.ranks = q.of_ppg.ranks = &ranks;
    return q.ptbxl ? run_ptbxl(args, &q.of_ptbxl, &progress, err)
                   : run_ppg(args, &q.of_ppg, &progress, err);
}

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    struct pk_job world;
    PK_TRY(pk_world_open(&world, &(struct pk_world_options){.quiet = args->quiet}, err));
    enum pk_status s = import_as_rank(args, &world, err);
    return pk_world_close(&world, s, err);
}

static const struct pk_option options[] = {
    {"workers", "N", "processes of a rank that convert records (default: its share of the cores)"},
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
    {"data import ptbxl ptb-xl-1.0.3 corpus_250hz rate=250 band=0.67-40 norm=record "
     "--allow-missing",
     "250 Hz, band-passed, each lead of a record with mean 0 and deviation 1"},
    {"data import bidmc bidmc_csv bidmc_64hz rate=64 stride=5",
     "PPG in 10-s windows every 5 s, with heart rate and SpO2 as targets"},
    {"data import bidmc bidmc_csv bidmc_mixed leads=II,PPG band=off norm=none",
     "ECG and PPG together; a window may lack one of them"},
    {"data import files my_folder my_corpus description=my_ppg.yaml",
     "your own files; docs/ppg.md explains the description"},
    {0}};

const struct pk_command pk_cmd_data_import = {
    .name = "data import",
    .synopsis = "SOURCE DIR OUT [key=value ...]",
    .summary = "convert a database to a corpus",
    .details =
        "Sources:\n"
        "  ptbxl   PTB-XL 1.0.1 or 1.0.3: the folder with ptbxl_database.csv\n"
        "  bidmc   BIDMC PPG and Respiration, CSV: PPG, ECG, heart rate, SpO2\n"
        "  ppg-bp  PPG-BP (Liang et al. 2018): subjects.csv and segments of 2.1 s: blood pressure\n"
        "  e4      Empatica E4 sessions: folders with BVP.csv (and HR.csv)\n"
        "  wfdb    WFDB records with PPG (PLETH) or ECG leads, also both\n"
        "  files   your own CSV or NPY files, described by a YAML file\n\n"
        "The corpus is the same, byte for byte, whatever the number of workers and ranks. A "
        "record\n"
        "that cannot be read is left out and listed with its reason in OUT/import_report.json. An\n"
        "interrupted import leaves no valid corpus: start it again, it begins from the first "
        "record.\n\n"
        "Several ranks (srun -N2 -n2 purkinje data import ..., mpirun, purkinje launch) share the\n"
        "records. All take the same arguments and must see the same DIR and OUT; a rank that does\n"
        "not see the OUT of rank 0 ends the import before it begins. Until rank 0 has taken it\n"
        "over, what the others convert lies in OUT/import-*.part. When a rank dies, all end with\n"
        "exit code 71 and there is no corpus.\n\n"
        "ptbxl: leads are ordered by name (I II III aVR aVL aVF V1-V6) and stored as int16 with an "
        "LSB\n"
        "of 1 uV. rate=HZ: 100 (unless told) and 500 are the source's, others are resampled from "
        "500.\n"
        "band=LOW-HIGH: Butterworth of order 4, zero phase (off). norm=record: (x - mean) / std of "
        "each\n"
        "record's leads (none). All six labellings of PTB-XL come along (likelihoods\n"
        "are ignored), the official folds, hashed patient numbers, and the targets age and sex. "
        "Age\n"
        "is missing above 89, where the table has 300; sex is 0 male, 1 female.\n\n"
        "The other sources cut recordings into windows (docs/ppg.md); their settings:\n"
        "  rate=HZ        of the corpus (bidmc, ppg-bp, wfdb, files 125; e4 64)\n"
        "  window=S       seconds of a window (10; ppg-bp 2.1)\n"
        "  stride=S       from one window to the next (window)\n"
        "  band=LOW-HIGH  PPG: Chebyshev-2 band-pass of order 4, zero phase, Hz, or off (0.5-12)\n"
        "  ecg_band=LOW-HIGH  the same for ECG leads (0.5-40)\n"
        "  stop=DB        damping of one pass at the band's edges (20)\n"
        "  norm=z|none    PPG windows: (x - mean) / std, or the source's units (z)\n"
        "  polarity=keep|flip|auto  PPG: auto turns a recording over whose pulses fall faster "
        "than\n"
        "                 they rise (keep)\n"
        "  gap=S          longest gap without values that is interpolated (0.25)\n"
        "  flat=SHARE     largest share of flat samples of a window (0.25); 1 keeps all\n"
        "  leads=A,B      leads of the corpus, e.g. II,PPG (bidmc, wfdb)\n"
        "  subject=REGEX  its first group in a recording's path is the subject (not ppg-bp)\n"
        "  folds=subject|none  fold 1-10 by a hash of the subject, so that nobody is in two "
        "(subject)\n"
        "  description=FILE  of the source files\n",
    .options = options,
    .examples = examples,
    .run = run};
