/* synth.h -- synthetic records: a dynamical 12-lead ECG model and PPG from the same beats. */
#ifndef PK_SYNTH_H
#define PK_SYNTH_H

#include "core/data.h"

struct pk_synth_spec {
    int64_t records;
    double rate;    // Hz
    double seconds; // per record
    bool ppg;       // one PPG channel instead of 12 leads
    uint64_t seed;
    int threads;
};

/* Generates into memory. The dataset carries the task "rhythm" and "morphology" (multi-hot), the
 * targets heart_rate, age, and folds 1-10 by record. Free with pk_dataset_free. */
enum pk_status pk_synth_open(struct pk_dataset *out, const struct pk_synth_spec *spec,
                             struct pk_err *err);

#endif
