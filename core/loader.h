/* loader.h -- batches in a reproducible order, read ahead by threads.
 *
 * Sample i of step s is global sample g = s * batch + i. One dataset or no mixture: record =
 * bijection(seed, epoch = g / n)(g % n), a fresh full permutation every epoch. Mixture: the source
 * is drawn by weight from Philox(seed, g), then the record uniformly among that source's. The
 * crop start is drawn from Philox(seed, g) among those that lie in the record's valid samples. So
 * (seed, step) is the whole state: resume is O(1), and any world size sees the same samples.
 *
 * Pairs, for contrastive objectives: samples 2p and 2p + 1 belong together.
 * PK_PAIR_RECORD: two crops of one record, drawn each by itself; the record is drawn as without
 *     pairs, for p in place of g.
 * PK_PAIR_PARTICIPANT: two different records of one participant, pk_record.patient. Participants
 *     are numbered by that hash and permuted as records are, afresh every epoch of one pair each;
 *     which two of the participant's c rows is drawn from Philox(seed, p), all c (c - 1) ordered
 *     pairs alike. A participant with a single row cannot make a pair and is left out, or refused
 *     with pair_all. Crops are drawn for each record by itself. Of a mixture the source is drawn by
 *     weight for pair p, then one of its participants; pairs never cross sources.
 * PK_PAIR_ADJACENT: two windows of one record, the second where the first ends (CMSC); record and
 *     first start are drawn as without pairs, for p in place of g.
 * Negatives that are no negatives: a batch may hold a participant twice, at the end of an epoch or
 * in several records; `group` of the batch says so, and losses take equal groups as positives.
 *
 * Readers take the records of a batch in the order they lie in the files; where they end up in the
 * batch does not change. Nothing depends on the number of threads or on `ahead`. */
#ifndef PK_LOADER_H
#define PK_LOADER_H

#include "core/data.h"

enum pk_pair { PK_PAIR_NONE, PK_PAIR_RECORD, PK_PAIR_PARTICIPANT, PK_PAIR_ADJACENT };

struct pk_loader_spec {
    const struct pk_dataset *data; // borrowed
    const int64_t *rows;           // subset of records to draw from, NULL for all; borrowed
    int64_t row_count;
    const double *weight;       // [data->sources] mixture weights (any sum), or NULL: all rows
                                // alike; borrowed
    const struct pk_task *task; // labels to deliver, or NULL; borrowed
    /* Normalisation by source, [data->sources]; NULL: the statistics in data->source. Borrowed. */
    const double (*mean)[PK_LEADS_MAX];
    const double (*std)[PK_LEADS_MAX];
    int32_t batch;               // records in a step, over all ranks
    int32_t first, stride_count; // this rank's slice: samples [first, first + stride_count) of each
                                 // part
    int32_t parts;               // equal parts of a batch, computed one after the other; 0 is 1
    int32_t crop;                // samples delivered per lead, at most data->samples
    bool random_crop;            // else the first `crop` samples
    enum pk_pair pair;
    bool pair_all;  // PK_PAIR_PARTICIPANT: a participant with one record is an error
    bool plan_only; // signals are elsewhere: deliver rows and crops, read nothing
    uint64_t seed;
    int threads; // readers, at least 1
    int ahead;   // batches read ahead, at least 1
};

static inline int32_t pk_loader_parts(const struct pk_loader_spec *s)
{
    return PK_MAX(s->parts, 1);
}

struct pk_batch { // [n] = parts * stride_count records; owned by the loader
    int64_t step;
    int32_t n, leads, samples; // samples = crop
    int16_t *signal;           // [n, leads, samples], as stored; NULL with plan_only
    int32_t *crop;             // [n] first sample of the crop in its record
    float *gain, *offset;      // [n, leads]: normalised = raw * gain - offset; both 0 for a
                               // lead that is absent or whose std is 0
    int64_t *sample;           // [n] global sample number, keys of masks and dropout
    int64_t *row;              // [n] record index in the dataset
    int64_t *group;            // [n] participant, equal for records of one; unknown ones have a
                               // negative number of their record's own
    uint8_t *label;            // [n, task->classes], or NULL
};

/* Frees the arrays of a batch that nobody else owns, not b itself. */
void pk_batch_free(struct pk_batch *b);

struct pk_loader;
/* Checks everything that can be known before reading, allocates ahead + 2 batches and starts the
 * threads, which read from step 0 on.
 * Errors  PK_EINVAL a field out of range, or a mixture without rows (or pairs) to draw from,
 *                   or a batch in pairs that is odd or a single pair
 *         PK_EDATA  fewer rows than a batch, or a record shorter than the crop (named), or too few
 *                   participants with two records, or one unknown
 *         PK_ENOMEM */
enum pk_status pk_loader_open(struct pk_loader **out, const struct pk_loader_spec *spec,
                              struct pk_err *err);
/* Waits for the batch of `step` and lends it until the call after the next, so that a device may
 * still copy it while the next one is fetched. Steps are normally consecutive;
 * another step restarts the read-ahead there (O(1)). *waited (may be NULL) gets the seconds spent
 * waiting. A record that cannot be read fails here, naming it. */
enum pk_status pk_loader_get(struct pk_loader *l, int64_t step, const struct pk_batch **out,
                             double *waited, struct pk_err *err);
/* The memory of the signals of batch buffer i, which batches are lent from; false past the last. */
bool pk_loader_memory(const struct pk_loader *l, int i, void **memory, size_t *bytes);
void pk_loader_close(struct pk_loader *l); // stops the threads; NULL is fine

#endif
