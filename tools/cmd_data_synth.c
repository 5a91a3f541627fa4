/* cmd_data_synth.c -- purkinje data synth: writes a corpus of synthetic records. */
#include "datasets/corpus.h"
#include "datasets/synth.h"
#include "tools/cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct pk_corpus_spec describe(const struct pk_dataset *d, int64_t shard_records)
{
    struct pk_corpus_spec c = {.rate = d->rate,
                               .leads = d->leads,
                               .samples = d->samples,
                               .sources = d->sources,
                               .tasks = d->tasks,
                               .task = d->task,
                               .targets = d->targets,
                               .shard_records = shard_records,
                               .preprocessing = "none: generated"};
    memcpy(c.modality, d->modality, sizeof c.modality);
    memcpy(c.version, d->version, sizeof c.version);
    memcpy(c.lead_name, d->lead_name, sizeof c.lead_name);
    snprintf(c.units, sizeof c.units, "%s", strcmp(d->modality, "ppg") ? "mV" : "a.u.");
    for (int32_t i = 0; i < d->sources; i++)
        memcpy(c.source_name[i], d->source[i].name, PK_NAME_MAX);
    for (int32_t i = 0; i < d->targets; i++)
        memcpy(c.target_name[i], d->target[i].name, PK_NAME_MAX);
    return c;
}

/* The names of the classes a record has, as a source would state them. */
static void state(char out[PK_STATEMENTS_MAX], const struct pk_dataset *d, int64_t i)
{
    size_t used = 0;
    out[0] = 0;
    for (int32_t t = 0; t < d->tasks; t++)
        for (int32_t k = 0; k < d->task[t].classes && used < PK_STATEMENTS_MAX - PK_NAME_MAX; k++)
            if (d->task[t].label[i * d->task[t].classes + k])
                used += (size_t)snprintf(out + used, PK_STATEMENTS_MAX - used, "%s%s",
                                         used ? "," : "", d->task[t].class_name[k]);
}

static enum pk_status add_record(struct pk_corpus_writer *w, const struct pk_dataset *d, int64_t i,
                                 int16_t *signal, struct pk_err *err)
{
    struct pk_corpus_record r = {.meta = d->record[i], .signal = signal};
    uint8_t label[64];
    float target[PK_TARGETS_MAX];
    size_t classes = 0;
    PK_TRY(d->read(d, i, signal, err));
    d->record_id(d, i, r.id);
    state(r.statements, d, i);
    for (int32_t t = 0; t < d->tasks; t++) {
        size_t k = (size_t)d->task[t].classes;
        memcpy(label + classes, d->task[t].label + (size_t)i * k, k);
        classes += k;
    }
    for (int32_t t = 0; t < d->targets; t++) target[t] = d->target[t].value[i];
    r.label = label;
    r.target = target;
    return pk_corpus_add(w, &r, err);
}

static enum pk_status write_corpus(const struct pk_dataset *d, const char *dir,
                                   int64_t shard_records, struct pk_err *err)
{
    struct pk_corpus_spec spec = describe(d, shard_records);
    struct pk_corpus_writer *w;
    int16_t *signal;
    PK_TRY(pk_alloc(&signal, (size_t)d->leads * (size_t)d->samples, 2, "record", err));
    enum pk_status s = pk_corpus_create(&w, dir, &spec, err);
    for (int64_t i = 0; i < d->count && s == PK_OK; i++) {
        s = add_record(w, d, i, signal, err);
        if (s != PK_OK) pk_corpus_abandon(w);
    }
    free(signal);
    return s == PK_OK ? pk_corpus_finish(w, err) : s;
}

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    int64_t records = 1000, seed = 1, shard_records = 0;
    struct pk_synth_spec spec = {.rate = 500, .seconds = 10};
    struct pk_dataset d;
    if (a->count != 1) return pk_fail(err, PK_EUSAGE, "data synth needs one folder to write to");
    PK_TRY(pk_arg_i64(a, "records", 1, 100000000, &records, err));
    PK_TRY(pk_arg_f64(a, "rate", 25, 2000, &spec.rate, err));
    PK_TRY(pk_arg_f64(a, "seconds", 1, 3600, &spec.seconds, err));
    PK_TRY(pk_arg_i64(a, "seed", 0, INT64_MAX, &seed, err));
    PK_TRY(pk_arg_i64(a, "shard-records", 1, 1 << 30, &shard_records, err));
    char path[PK_PATH_MAX]; // said again by the writer, but before the minutes of generating
    PK_TRY(pk_path(path, err, "%s/corpus.json", a->word[0]));
    if (pk_exists(path))
        return pk_fail(err, PK_EWRITE,
                       "%s holds a corpus already; choose another folder or remove "
                       "it first",
                       a->word[0]);
    spec.records = records;
    spec.seed = (uint64_t)seed;
    spec.ppg = pk_arg(a, "ppg") != NULL;
    spec.threads = (int)PK_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L);
    double start = pk_seconds();
    PK_TRY(pk_synth_open(&d, &spec, err));
    double made = pk_seconds();
    enum pk_status s = write_corpus(&d, a->word[0], shard_records, err);
    if (s == PK_OK && !a->quiet)
        fprintf(stderr,
                "%lld records of %d leads x %d samples: generated in %.1f s, written in %.1f s\n",
                (long long)d.count, d.leads, d.samples, made - start, pk_seconds() - made);
    if (s == PK_OK) printf("%s\n", a->word[0]);
    pk_dataset_free(&d);
    return s;
}

static const struct pk_option options[] = {
    {"records", "N", "how many, 1000 unless told"},
    {"rate", "HZ", "sampling rate, 500 unless told"},
    {"seconds", "S", "length of a record, 10 unless told"},
    {"seed", "N", "another seed gives other patients, 1 unless told"},
    {"ppg", NULL, "one PPG channel instead of 12 ECG leads"},
    {"shard-records", "N", "records in a shard, about 2 GB unless told"},
    {0}};

static const struct pk_example examples[] = {
    {"data synth demo --records 200 --rate 100", "200 ECGs of 10 s at 100 Hz in the folder demo"},
    {"data synth pulse --ppg --records 50 --rate 64 --seconds 30 --seed 7",
     "50 PPG segments of 30 s, always the same ones"},
    {"data synth pulse_100hz --ppg --records 50 --rate 100",
     "PPG at the rate of the first example"},
    {0}};

const struct pk_command pk_cmd_data_synth = {
    .name = "data synth",
    .synopsis = "OUT",
    .summary = "writes a corpus of synthetic ECG or PPG",
    .details =
        "The ECG is a dynamical model (beats of P QRS T waves, a heart vector, 12 leads) with "
        "rhythm\n"
        "and morphology labels; PPG comes from the same beats. Equal options give equal bytes.",
    .options = options,
    .examples = examples,
    .run = run,
    .alone = true};
