/* data.h -- what training sees of data: a dataset of records, whatever stores it.
 *
 * datasets/ implements it (HDF5 shards, synthetic signals in memory); core/loader.c, evaluation and
 * the tools use it. Records are int16 in rows of `samples` per lead; physical value of a sample is
 * raw * scale[lead] in mV (ECG) or arbitrary units (PPG). PK_INVALID marks a sample without value.
 * Reading is safe from several threads at once. */
#ifndef PK_DATA_H
#define PK_DATA_H

#include "core/base.h"

enum {
    PK_LEADS_MAX = 16,
    PK_NAME_MAX = 32,
    PK_INVALID = -32768,
    PK_THREADS_MAX = 64 // reader threads of one loader or statistic
};

struct pk_record {
    uint64_t patient;          // hashed identifier, equal for records of one person; 0 unknown
    int32_t source;            // index into pk_dataset.source
    int32_t length;            // valid samples, at most pk_dataset.samples
    int16_t fold;              // 1.. where the source has folds, 0 else
    uint16_t lead_mask;        // bit l: lead l is present
    uint32_t quality;          // bit flags, 0 is good: PK_QUALITY_*
    float scale[PK_LEADS_MAX]; // mV per LSB
};

enum {                      // the numbers are in files
    PK_QUALITY_INVALID = 1, // some samples had no value and were interpolated at import
    PK_QUALITY_FLAT = 4     // a lead is constant
};

struct pk_task {            // one labelling of the records, multi-hot
    char name[PK_NAME_MAX]; // "superdiagnostic"
    int32_t classes;
    char (*class_name)[PK_NAME_MAX]; // [classes], sorted
    uint8_t *label;                  // [count, classes] of 0 or 1; a row of zeros has no label
};

struct pk_target {          // one number per record, NaN where missing
    char name[PK_NAME_MAX]; // "age"
    float *value;           // [count]
};

struct pk_source {          // statistics of one database in the corpus, in physical units
    char name[PK_NAME_MAX]; // "ptb-xl"
    int64_t count;
    double mean[PK_LEADS_MAX], std[PK_LEADS_MAX];
};

struct pk_dataset {
    char name[256];             // folder, or "synthetic"
    char modality[PK_NAME_MAX]; // "ecg", "ppg" or "ecg+ppg"
    char version[64];           // of the source, e.g. "PTB-XL 1.0.3"
    char units[16];             // of physical values: "mV", "z", "mV, PPG z"
    char preprocessing[512];    // what was done to the samples, one line
    int64_t count;
    int32_t leads, samples; // row shape of every record, [leads, samples]
    double rate;            // Hz
    char lead_name[PK_LEADS_MAX][8];
    struct pk_record *record; // [count]
    int32_t sources, tasks, targets;
    struct pk_source *source;
    struct pk_task *task;
    struct pk_target *target;
    void *self; // of the implementation
    /* Copies record `index` into dst [leads, samples]. */
    enum pk_status (*read)(const struct pk_dataset *d, int64_t index, int16_t *dst,
                           struct pk_err *err);
    /* Copies samples [start, start + samples) of each lead into dst [leads, samples]; the range
     * must lie within the record's row. */
    enum pk_status (*read_part)(const struct pk_dataset *d, int64_t index, int32_t start,
                                int32_t samples, int16_t *dst, struct pk_err *err);
    /* Writes the source's own identifier of a record ("00001_lr"), for messages and reports. */
    void (*record_id)(const struct pk_dataset *d, int64_t index, char out[64]);
    void (*close)(struct pk_dataset *d); // frees what self owns
};

/* Frees everything, self included; safe on a zeroed struct. */
void pk_dataset_free(struct pk_dataset *d);
/* NULL when there is none of this name. */
const struct pk_task *pk_dataset_task(const struct pk_dataset *d, const char *name);
const struct pk_target *pk_dataset_target(const struct pk_dataset *d, const char *name);

/* How the raw samples of a record become numbers for a model, each lead with its mean and std in
 * physical units: raw * gain - offset. Both are 0 for a lead that is absent or whose std is 0.
 * gain, offset: [leads]. */
void pk_record_scaling(const struct pk_record *r, int32_t leads, const double *mean,
                       const double *std, float *gain, float *offset);

/* Count, mean and sum of squared deviations of some samples. Merging in a fixed order gives the
 * same bits every time. */
struct pk_moments {
    double count, mean, m2;
};
/* Moments of n raw samples times scale; PK_INVALID ones are left out. Sums are exact integers. */
struct pk_moments pk_moments_of(const int16_t *raw, int64_t n, double scale);
/* into := moments of both sets together (Chan, Golub & LeVeque 1979). */
void pk_moments_merge(struct pk_moments *into, const struct pk_moments *more);

/* Mean and std per lead over the given rows (all valid samples of leads that are present, physical
 * units, population std). Each record is summed exactly in integers and records are merged in
 * double in the order of `rows`, so the bits do not depend on `threads`. rows == NULL: all `count`
 * rows. A lead without samples has mean 0 and std 0.
 * Errors  PK_EINVAL a row out of range or threads < 1; whatever reading reports */
enum pk_status pk_dataset_stats(const struct pk_dataset *d, const int64_t *rows, int64_t count,
                                int threads, double mean[PK_LEADS_MAX], double std[PK_LEADS_MAX],
                                struct pk_err *err);

#endif
