/* import.h -- converting many files in parallel, in order, without trusting any of them.
 *
 * Worker processes convert items into slots of shared memory; the parent hands the results on in
 * the order of the items, so what is written does not depend on the number of workers. A worker
 * that dies or hangs costs the one item it was at: that item is rejected and the worker replaced.
 */
#ifndef PK_IMPORT_H
#define PK_IMPORT_H

#include "core/base.h"

enum { PK_IMPORT_WORKERS_MAX = 256 };

struct pk_import {
    int64_t count;        // items, numbered from 0
    size_t slot_bytes;    // of one result
    int32_t workers;      // 1..PK_IMPORT_WORKERS_MAX processes
    double stall_seconds; // a worker at one item for longer is killed; 0 means 120
    void *self;           // passed to the functions below
    /* In a worker: fills slot (zeroed, 64-byte aligned) from item. A failure rejects the item,
     * except PK_ENOMEM and PK_EWRITE, which say nothing about the item and end the import. What it
     * changes elsewhere in memory is lost. */
    enum pk_status (*convert)(void *self, int64_t item, void *slot, struct pk_err *err);
    /* NULL, or the path of a file that convert writes for each item where a slot is too small. It
     * is handed to accept and then removed, also after a failure. */
    enum pk_status (*spill)(void *self, int64_t item, char path[PK_PATH_MAX], struct pk_err *err);
    /* In the parent, for item 0, 1, 2 ...: takes the result, or the reason why there is none. A
     * failure ends the import. spill: where the item's file begins in it; NULL without the above.
     */
    enum pk_status (*accept)(void *self, int64_t item, const void *slot, FILE *spill,
                             struct pk_err *err);
    enum pk_status (*reject)(void *self, int64_t item, const char *why, struct pk_err *err);
    /* In the parent, at least every second; a failure ends the import. May be NULL. */
    enum pk_status (*watch)(void *self, struct pk_err *err);
};

/* Runs all items. Workers are forked from the calling thread and have no other: what convert needs
 * must not depend on them. They end with the calling process, however it ends.
 * Errors  PK_EINVAL    workers out of range, PK_ENOMEM
 *         PK_EINTERNAL workers cannot be started or keep dying with nothing to do
 *         what accept or reject returned. All workers are gone when this returns. */
enum pk_status pk_import_run(const struct pk_import *job, struct pk_err *err);

#endif
