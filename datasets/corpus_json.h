/* corpus_json.h -- corpus.json: what a corpus holds, and the checksums of its shards. */
#ifndef PK_CORPUS_JSON_H
#define PK_CORPUS_JSON_H

#include "datasets/corpus.h"

struct pk_shard_entry {
    char file[32]; // name in the folder, "shard-00000.h5"
    int64_t records;
    int64_t bytes;             // of the whole file
    int64_t offset;            // of the signal in it, bytes
    uint64_t checksum;         // of the whole file
    uint64_t columns_checksum; // of everything before and after the signal
};

struct pk_corpus_info {         // corpus.json, parsed; owns everything in it
    struct pk_corpus_spec spec; // spec.task has no label columns
    int32_t padded;             // samples of a stored lead row
    int64_t records;
    struct pk_source source[PK_SOURCES_MAX];
    int64_t shards, shard_capacity;
    struct pk_shard_entry *shard;
};

/* Writes DIR/corpus.json atomically. */
enum pk_status pk_corpus_json_write(const char *dir, const struct pk_corpus_info *c,
                                    struct pk_err *err);
/* Reads and checks it: every count, name and size is in the range that this program can hold.
 * Errors  PK_EMISSING no corpus.json there; PK_EDATA another schema or a bad member, named. */
enum pk_status pk_corpus_json_read(const char *dir, struct pk_corpus_info *c, struct pk_err *err);
void pk_corpus_info_free(struct pk_corpus_info *c);

#endif
