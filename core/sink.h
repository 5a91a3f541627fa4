/* sink.h -- a file being written for keeps: counted, checksummed, synced, and with a full disk
 * explained. Safetensors files and checkpoints are written through it.
 *
 * Writes go straight to the descriptor (no stdio): an interrupted or short write is continued, and
 * the checksum is taken of the bytes in memory, so damage on the way to the disk is found later.
 *
 * The checksum is XXH64 with seed 0 (Y. Collet, specification in xxHash/doc/xxhash_spec.md), hence
 * `xxhsum -H64 FILE` verifies a checkpoint without Purkinje. It guards against accidents, not
 * against an adversary. */
#ifndef PK_SINK_H
#define PK_SINK_H

#include "core/base.h"

/* A running XXH64. */
struct pk_xxh64 {
    uint64_t lane[4];  // accumulators of the four interleaved streams
    uint64_t total;    // bytes so far
    uint8_t tail[32];  // bytes that do not fill a stripe yet
    uint32_t tail_len; // of them, at most 31
};

void pk_xxh64_start(struct pk_xxh64 *h);
void pk_xxh64_add(struct pk_xxh64 *h, const void *bytes, size_t n);
uint64_t pk_xxh64_value(const struct pk_xxh64 *h);
/* Checksum and size in bytes of a whole file. Errors PK_EIO. */
enum pk_status pk_xxh64_file(const char *path, uint64_t *hash, int64_t *bytes, struct pk_err *err);

struct pk_sink {
    char path[PK_PATH_MAX];
    int fd;               // -1 when closed
    int64_t need;         // bytes this file will have, for the message about a full disk; 0 unknown
    int64_t bytes;        // written so far
    struct pk_xxh64 hash; // of them
};

/* Creates or truncates `path`. Errors PK_EWRITE. */
enum pk_status pk_sink_open(struct pk_sink *s, const char *path, int64_t need, struct pk_err *err);
/* On failure the sink is still open: call pk_sink_drop. */
enum pk_status pk_sink_write(struct pk_sink *s, const void *bytes, size_t n, struct pk_err *err);
/* fsync, then close. The descriptor is closed whatever happens. */
enum pk_status pk_sink_close(struct pk_sink *s, struct pk_err *err);
/* Closes and removes the file; safe after any of the above and twice. */
void pk_sink_drop(struct pk_sink *s);

/* Bytes an unprivileged process can still write to the file system of `path` (a file or folder, or
 * a file to be in an existing folder); -1 when that cannot be told. */
int64_t pk_disk_free(const char *path);

#endif
