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

/* Generates into memory, records * leads * samples * 2 bytes. Record i depends on (seed, i) alone,
 * whatever `records` and `threads`.
 * Task "rhythm", multi-hot: af bradycardia pvc sinus tachycardia. ECG only: task "morphology",
 * multi-hot: lbbb lvh normal rbbb st_depression st_elevation t_inversion.
 * Targets: heart_rate in 1/min, from the beats of the record; age in years, NaN for every 33rd
 * patient. Patients have 1 to 4 records, all in one of folds 1-10.
 * Free with pk_dataset_free.
 * Errors  PK_EINVAL a field out of range; PK_ENOMEM */
enum pk_status pk_synth_open(struct pk_dataset *out, const struct pk_synth_spec *spec,
                             struct pk_err *err);

#endif
