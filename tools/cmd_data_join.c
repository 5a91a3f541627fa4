/* cmd_data_join.c -- purkinje data join: ECG and PPG corpora as one. */
#include "datasets/join.h"
#include "tools/cli.h"

#include <stdlib.h>
#include <string.h>

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    struct pk_join_part part[PK_JOIN_MAX];
    char name[PK_JOIN_MAX][64];
    int64_t shard_records = 0, records;
    double start = pk_seconds();
    const int parts = a->count - 1;
    if (parts < 1 || parts > PK_JOIN_MAX)
        return pk_fail(err, PK_EUSAGE, "data join takes a folder to write to and 1 to %d corpora",
                       PK_JOIN_MAX);
    for (int i = 0; i < parts; i++) {
        const char *word = a->word[i + 1], *equal = strchr(word, '='), *slash = strchr(word, '/');
        bool named = equal && equal > word && equal - word < (long)sizeof name[i] &&
                     (!slash || slash > equal);
        if (named) snprintf(name[i], sizeof name[i], "%.*s", (int)(equal - word), word);
        part[i] = (struct pk_join_part){named ? equal + 1 : word, named ? name[i] : NULL};
    }
    PK_TRY(pk_arg_i64(a, "shard-records", 1, 1 << 30, &shard_records, err));
    PK_TRY(pk_corpus_join(a->word[0], part, parts, shard_records, &records, err));
    if (!a->quiet)
        fprintf(stderr, "%lld records of %d corpora in %.1f s\n", (long long)records, parts,
                pk_seconds() - start);
    printf("%s\n", a->word[0]);
    return PK_OK;
}

static const struct pk_option options[] = {
    {"shard-records", "N", "records in a shard, about 2 GB unless told"}, {0}};

static const struct pk_example examples[] = {
    {"data join mixed ecg=demo ppg=pulse_100hz",
     "12 ECG leads and PPG; the sources get names, since both are called synthetic"},
    {"data join mixed_small ecg=demo ppg=pulse_100hz --shard-records 64",
     "the same in shards of 64 records"},
    {0}};

const struct pk_command pk_cmd_data_join = {
    .name = "data join",
    .synopsis = "OUT [NAME=]CORPUS ...",
    .summary = "several corpora of one rate as one, with all their leads",
    .details =
        "The leads are those of all corpora (at most 16): standard ECG leads first, then PPG. A\n"
        "record keeps the leads it had, the others are absent from its mask. Sources keep their\n"
        "names and statistics, NAME= renames the only source of a corpus. Folds are kept;\n"
        "patients of two sources are different people. Tasks and targets of the same name are\n"
        "one (with other classes a task becomes SOURCE.task), and are missing elsewhere. Equal\n"
        "corpora give equal bytes.",
    .options = options,
    .examples = examples,
    .run = run,
    .alone = true};
