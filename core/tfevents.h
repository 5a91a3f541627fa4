/* tfevents.h -- writing scalars for TensorBoard, without TensorFlow.
 *
 * A file is a sequence of TFRecords (length, masked CRC-32C of the length, bytes, masked CRC-32C of
 * the bytes), each a protobuf Event (tensorflow/core/util/event.proto). Only what training needs is
 * encoded: the file version, scalars, and the session log by which a resumed run takes back the
 * points that the interrupted one wrote beyond its last checkpoint, so that curves do not zig-zag.
 *
 * Each event is on its way to the disk when the call returns (one write, no fsync): a killed run
 * loses nothing but a torn last record, which TensorBoard skips. */
#ifndef PK_TFEVENTS_H
#define PK_TFEVENTS_H

#include "core/base.h"

struct pk_tfevents {
    FILE *f; // NULL when closed
    char path[PK_PATH_MAX];
};

struct pk_scalar {
    const char *tag; // UTF-8, e.g. "train/loss"; "/" makes groups
    double value;    // stored as float; NaN is shown as such
};

/* Creates dir (if it is not there) and a new file events.out.tfevents.TIME.HOST in it; TIME, in
 * seconds since 1970, is moved on until the name is free, because TensorBoard reads the files of a
 * folder in the order of their names. resume_step is -1 for a new run, else the first step that
 * will be written again: points of earlier files at that step or later are dropped by the reader.
 * Close with pk_tfevents_close. Errors: PK_EWRITE, PK_EINVAL (path too long). */
enum pk_status pk_tfevents_open(struct pk_tfevents *w, const char *dir, int64_t resume_step,
                                struct pk_err *err);
/* Appends one event with these scalars. step >= 0. */
enum pk_status pk_tfevents_write(struct pk_tfevents *w, int64_t step,
                                 const struct pk_scalar *scalar, int count, struct pk_err *err);
/* Flushes to disk and closes; harmless on a closed or zeroed writer. */
enum pk_status pk_tfevents_close(struct pk_tfevents *w, struct pk_err *err);

/* CRC-32C (Castagnoli, reflected 0x82f63b78); start with 0. */
uint32_t pk_crc32c(uint32_t crc, const void *bytes, size_t n);

#endif
