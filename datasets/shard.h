/* shard.h -- one HDF5 shard of a corpus: its columns and where its signal lies in the file.
 *
 * datasets/corpus.c is the only user. libhdf5 stays behind these two calls; the signal itself is
 * written and read with pwrite and pread at `offset`. libhdf5 holds one global lock at best, and
 * its Debian build may not even be thread-safe: never call these from two threads at once. */
#ifndef PK_SHARD_H
#define PK_SHARD_H

#include "datasets/corpus.h"

enum { PK_SHARD_ALIGN = 4096 }; // bytes; of the signal in the file and of every record in it

struct pk_shard {
    const struct pk_corpus_spec *spec; // borrowed: rate, leads, names, tasks, targets
    int64_t count;                     // records
    int32_t padded;                    // samples of a stored lead row
    int64_t offset;                    // bytes, of `signal` in the file
    struct pk_record *record;          // [count]
    char (*id)[PK_ID_MAX];             // [count]
    char *statements;                  // [count, width], NUL padded; written only
    size_t width;                      // bytes of one row of statements
    uint8_t **label;                   // [tasks] of [count, classes]
    float **target;                    // [targets] of [count]
};

/* Samples of a stored lead row: a multiple of 2560 where records have that many samples and it
 * keeps each of them 4096-byte aligned (leads a multiple of 4), else the smallest multiple that
 * does. */
int32_t pk_shard_padded(int32_t leads, int32_t samples);

/* Allocates the columns for s->count records (spec and count are set); free with pk_shard_free. */
enum pk_status pk_shard_alloc(struct pk_shard *s, struct pk_err *err);
void pk_shard_free(struct pk_shard *s);

/* Writes a new file with all columns and room for the signal, which starts at s->offset. The same
 * columns give the same bytes.
 * Errors  PK_EWRITE naming the file and what libhdf5 says. */
enum pk_status pk_shard_write(const char *path, struct pk_shard *s, struct pk_err *err);

/* Reads the columns of a file written by pk_shard_write (spec, count and padded say what is
 * expected; columns are allocated here) and finds the signal. Anything else than the layout of
 * corpus.h is refused: other version, shape, type or layout, filters, external or virtual storage,
 * soft or external links.
 * Errors  PK_EDATA naming the file, the object and what was expected. */
enum pk_status pk_shard_read(const char *path, struct pk_shard *s, struct pk_err *err);

#endif
