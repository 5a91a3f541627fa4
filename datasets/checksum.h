/* checksum.h -- 64-bit checksum of whole files, fast enough for a corpus of hundreds of gigabytes.
 *
 * Own design in the family of xxHash: four lanes of 8 bytes, each step a bijection of the lane and
 * of the word it takes in, and the final fold a bijection of every lane. So any damage inside one
 * aligned 8-byte word is found for certain, anything wider with probability 1 - 2^-64. Against
 * accidents, not against forgery. */
#ifndef PK_CHECKSUM_H
#define PK_CHECKSUM_H

#include "core/base.h"

struct pk_checksum {
    uint64_t lane[4];
    uint64_t total;         // bytes so far
    unsigned char rest[32]; // total % 32 bytes not yet taken in
};

/* The value depends on the bytes alone, not on how they are divided between updates. */
struct pk_checksum pk_checksum_start(void);
void pk_checksum_update(struct pk_checksum *c, const void *bytes, size_t n);
uint64_t pk_checksum_end(const struct pk_checksum *c);

/* Adds bytes [offset, offset + n) of a file; `path` is for messages.
 * Errors  PK_EIO when the file is shorter or cannot be read, PK_ENOMEM. */
enum pk_status pk_checksum_file(struct pk_checksum *c, int fd, int64_t offset, int64_t n,
                                const char *path, struct pk_err *err);

#endif
