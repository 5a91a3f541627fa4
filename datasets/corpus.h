/* corpus.h -- a corpus: a folder with corpus.json and HDF5 shards.
 *
 * Shards are plain HDF5: `signal` int16 [N, leads, samples_padded], contiguous, uncompressed,
 * allocated early, each record 4096-byte aligned; one-dimensional columns record_id, patient_id,
 * dataset, length, scale, lead_mask, quality, fold; labels/TASK uint8 [N, classes] with attribute
 * class names; statements (raw text); targets/NAME float32. libhdf5 is used to write, and once per
 * shard to open; records are read by pread at the dataset's offset. */
#ifndef PK_CORPUS_H
#define PK_CORPUS_H

#include "core/data.h"

enum {
    PK_CORPUS_SCHEMA = 1,
    PK_SHARD_VERSION = 1,
    PK_ID_MAX = 64,
    PK_STATEMENTS_MAX = 1024,
    PK_SOURCES_MAX = 32,
    PK_TASKS_MAX = 32,
    PK_TARGETS_MAX = 16,
    PK_SAMPLES_MAX = 1 << 24
};

struct pk_corpus_spec { // what all records of a corpus share
    char modality[PK_NAME_MAX];
    char version[64];        // of the source
    char preprocessing[512]; // what was done to the samples, one line for people and cards
    double rate;
    int32_t leads, samples; // samples before padding
    char lead_name[PK_LEADS_MAX][8];
    char units[16]; // "mV"
    int32_t sources, tasks, targets;
    char source_name[PK_SOURCES_MAX][PK_NAME_MAX];
    struct pk_task *task; // names, classes and class names; label is not used here
    char target_name[PK_TARGETS_MAX][PK_NAME_MAX];
    int64_t shard_records; // records per shard; 0 chooses about 2 GB
};

struct pk_corpus_record {
    char id[PK_ID_MAX];                 // the source's identifier
    char statements[PK_STATEMENTS_MAX]; // raw labels as the source writes them
    struct pk_record meta;
    const int16_t *signal; // [leads, samples]
    const uint8_t *label;  // all tasks of this record one after the other, or NULL
    const float *target;   // [targets], NaN where missing, or NULL
};

struct pk_corpus_writer;
/* Creates DIR (refused when it already holds a corpus). Nothing of it looks valid until finish:
 * corpus.json is written last. The same records in the same order give the same bytes. */
enum pk_status pk_corpus_create(struct pk_corpus_writer **out, const char *dir,
                                const struct pk_corpus_spec *spec, struct pk_err *err);
enum pk_status pk_corpus_add(struct pk_corpus_writer *w, const struct pk_corpus_record *r,
                             struct pk_err *err);
/* Computes per-source statistics on the way, writes corpus.json with counts and checksums. */
enum pk_status pk_corpus_finish(struct pk_corpus_writer *w, struct pk_err *err);
void pk_corpus_abandon(struct pk_corpus_writer *w); // frees; removes unfinished shards

/* Opens for reading: checks corpus.json and the layout of every shard, loads the columns. */
enum pk_status pk_corpus_open(struct pk_dataset *out, const char *dir, struct pk_err *err);
/* Reads every byte and compares the checksums; *bad gets the number of damaged shards, one line
 * each is appended to `report`. */
enum pk_status pk_corpus_verify(const char *dir, int64_t *bad, struct pk_text *report,
                                struct pk_err *err);

#endif
