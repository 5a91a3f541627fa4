/* synth_model.h -- the signal model behind synth.h: one person, one record, its beats, its samples.
 *
 * Everything random comes from Philox keyed by (seed, record) or (seed, patient), so a record does
 * not depend on how many there are or who computes it. */
#ifndef PK_SYNTH_MODEL_H
#define PK_SYNTH_MODEL_H

#include "core/rng.h"

#include <stdbool.h>
#include <stdint.h>

enum pk_synth_rhythm { // bits of a record's rhythm label; alphabetical as the classes are
    PK_SYNTH_AF = 1,
    PK_SYNTH_BRADYCARDIA = 2,
    PK_SYNTH_PVC = 4, // with any of the others
    PK_SYNTH_SINUS = 8,
    PK_SYNTH_TACHYCARDIA = 16
};
enum pk_synth_morphology {
    PK_SYNTH_LBBB = 1,
    PK_SYNTH_LVH = 2,
    PK_SYNTH_NORMAL = 4,
    PK_SYNTH_RBBB = 8,
    PK_SYNTH_ST_DEPRESSION = 16,
    PK_SYNTH_ST_ELEVATION = 32,
    PK_SYNTH_T_INVERSION = 64
};
enum { PK_SYNTH_RHYTHMS = 5, PK_SYNTH_MORPHOLOGIES = 7, PK_SYNTH_ECG_LEADS = 12 };

struct pk_synth_person { // what records of one patient share
    double age;          // years
    double heart_rate;   // at rest, 1/min
    double variability;  // relative amplitude of RR oscillations, falls with age
    double amplitude;    // of the heart vector
    double axis;         // rotation in the frontal plane, rad
    double delay;        // s from R to the foot of the pulse
};

struct pk_synth_beat {
    double at;        // s, time of R; may lie outside of the record
    double rr;        // s since the beat before
    bool ventricular; // a premature ventricular complex
};

struct pk_synth_plan { // one record before it has samples
    unsigned rhythm, morphology;
    double mean_rr;      // s, without the variability
    double breath;       // Hz, respiration
    double breath_phase; // rad
    double st, t;        // strength of ST shift and T inversion
    double hypertrophy;  // factor of R and S
    int beats;
    struct pk_synth_beat *beat; // [PK_SYNTH_BEATS(seconds)], owned by the caller
    double heart_rate;          // 1/min, mean over the beats in the record
};

/* Room for beats at 0.3 s, the shortest RR, from 2 s before to 1 s after the record. */
#define PK_SYNTH_BEATS(seconds) ((int)((seconds) / 0.3) + 16)

struct pk_synth_person pk_synth_person(uint64_t seed, int64_t patient);
/* plan->beat is set; everything else is filled. */
void pk_synth_plan(struct pk_synth_plan *plan, const struct pk_synth_person *person, uint64_t seed,
                   int64_t record, double seconds);

/* Renders into out [leads, samples] in steps of `lsb`; frame has room for 6 * samples floats.
 * ECG: 12 leads I II III aVR aVL aVF V1-V6, mV. PPG: one channel, arbitrary units. */
void pk_synth_ecg(int16_t *out, float *frame, const struct pk_synth_plan *plan,
                  const struct pk_synth_person *person, uint64_t seed, int64_t record, double rate,
                  int32_t samples, double lsb);
void pk_synth_ppg(int16_t *out, float *frame, const struct pk_synth_plan *plan,
                  const struct pk_synth_person *person, uint64_t seed, int64_t record, double rate,
                  int32_t samples, double lsb);

#endif
