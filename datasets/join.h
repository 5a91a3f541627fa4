/* join.h -- several corpora of one rate as one corpus: ECG and PPG databases side by side.
 *
 * Leads      the union: standard ECG leads in their order, then the others as they come. A record
 *            has the leads it had; the others are absent from its mask and hold PK_INVALID.
 * Records    corpus by corpus, in their order, streamed; shorter rows end in PK_INVALID.
 * Sources    keep name and order; no name may come twice, so statistics stay those of the database.
 * Patients   are hashed again together with their source's name: equal numbers of two databases are
 *            two people. Folds are kept.
 * Tasks      of the same name and classes are one, as are targets of the same name. A task of the
 *            same name with other classes is called SOURCE.task. What a corpus does not have is a
 *            row of zeros (no label), or NaN.
 * Ids        stay; where two corpora share one, all are called SOURCE:id.
 * The same corpora in the same order give the same bytes. */
#ifndef PK_JOIN_H
#define PK_JOIN_H

#include "datasets/corpus.h"

enum { PK_JOIN_MAX = PK_SOURCES_MAX };

struct pk_join_part {
    const char *folder;
    const char *name; // its source is called so; NULL: as it is. Only for corpora of one source
};

/* Errors  PK_EDATA  rates or units of ECG or PPG leads differ, a source twice, more leads, sources,
 *                   tasks or targets than a corpus holds;  PK_EWRITE  out holds a corpus already */
enum pk_status pk_corpus_join(const char *out, const struct pk_join_part *part, int32_t parts,
                              int64_t shard_records, int64_t *records, struct pk_err *err);

#endif
