/* import_part.h -- one import by several ranks that share a folder.
 *
 * Items are divided into one contiguous range per rank. Rank 0 converts the first and accepts it at
 * once; every other rank converts its own and writes the results, rejections included, to a part
 * file in the corpus's folder, which rank 0 then accepts in the order of the ranks. So rank 0 does
 * what a single process does, in the same order, and the corpus has the same bytes.
 *
 * This folder does not know how ranks talk: the caller brings that along as functions. A part is
 * for one import: import-ID-rR.part, with an ID of that import, and what an import that was killed
 * has left is removed by the next. docs/decisions/015-import-by-ranks.md says why. */
#ifndef PK_IMPORT_PART_H
#define PK_IMPORT_PART_H

#include "datasets/import.h"

struct pk_import_ranks {
    int rank, size;
    uint64_t settings; // hash of what the user asked for: ranks must agree
    bool failed;       // all ranks know of a failure, or this one is leaving: no further agreement
    void *self;        // passed to the functions below
    /* Whether all ranks are fine so far: s of this rank in, the common outcome out. */
    enum pk_status (*agree)(void *self, enum pk_status s, struct pk_err *err);
    /* all: [size][bytes], by rank; each rank has filled its own. */
    enum pk_status (*gather)(void *self, void *all, size_t bytes, struct pk_err *err);
    /* Often called: PK_ERANK once another rank has failed. */
    enum pk_status (*watch)(void *self, struct pk_err *err);
};

/* Whether this process writes the corpus: rank 0, or there is only one (ranks NULL). */
bool pk_import_leads(const struct pk_import_ranks *ranks);

/* The common outcome of what each rank did by itself; s where ranks is NULL or has failed. All
 * ranks call it equally often until the first failure. */
enum pk_status pk_import_agree(struct pk_import_ranks *ranks, enum pk_status s, struct pk_err *err);

/* Removes the parts in `folder` that an import left which was killed. */
void pk_import_clean(const char *folder);

/* pk_import_run by all ranks. folder: of the corpus, which rank 0 has made; plan: hash of the items
 * in their order. accept and reject are called at rank 0 alone. When it has returned PK_OK, rank 0
 * has accepted all items, but another rank only knows that its own part is written.
 * Errors  PK_EMISSING a rank does not see rank 0's folder (all ranks get it)
 *         PK_EUSAGE   a rank has other items or settings than rank 0 (all ranks get it)
 *         PK_ERANK    another rank failed; PK_EIO a part is not what its rank wrote
 *         those of pk_import_run. No part is left behind. */
enum pk_status pk_import_share(const struct pk_import *job, struct pk_import_ranks *ranks,
                               const char *folder, uint64_t plan, struct pk_err *err);

#endif
