/* reconstruct.h -- what a masked autoencoder makes of a record: its samples, which of them it was
 * not shown, and what it put in their place. */
#ifndef PK_RECONSTRUCT_H
#define PK_RECONSTRUCT_H

#include "core/data.h"
#include "models/mae.h"
#include "tools/weights.h"

struct pk_reconstruction {
    char id[64];  // of the record
    double rate;  // Hz
    double start; // s, of the window within the record
    int32_t leads, samples;
    char lead_name[16][8];
    char units[16];   // of the values, as the corpus says: "mV", "z", "mV, PPG z"
    bool present[16]; // [leads]
    /* [leads, samples] in `units`; NaN where a lead is absent. The loss does
     * not see level and scale of a hidden patch, so that the reconstruction takes those of the
     * original; where nothing was hidden it is NaN. */
    float *original, *guess;
    uint8_t *hidden; // [leads, samples], 1 where the model did not see the sample
    double loss;     // of this record: mean squared error of standardised hidden patches
};

/* Reads RUN, a run of a masked autoencoder or a checkpoint of one, and reconstructs record `index`
 * from `start` samples on, masked as in training. Errors  PK_EUSAGE  no such run, an export,
 * another objective, no such record;  PK_EDATA  data that do not fit the model */
enum pk_status pk_reconstruct(struct pk_reconstruction *out, struct pk_model_file *file,
                              const struct pk_dataset *d, int64_t index, int64_t start,
                              struct pk_err *err);
void pk_reconstruction_free(struct pk_reconstruction *x);
/* As a drawing on millimetre paper, 25 mm/s and 10 mm for one unit, a row of 25 mm for each lead:
 * original black, hidden stretches shaded, reconstruction red. title: escaped here. */
void pk_reconstruction_svg(struct pk_text *out, const struct pk_reconstruction *x,
                           const char *title);

#endif
