/* signal.h -- how models take a batch: shape, leads, patches; shared by all objectives. */
#ifndef PK_SIGNAL_H
#define PK_SIGNAL_H

#include "core/ops.h"
#include "core/recipe.h"

struct pk_batch_shape {     // of the records that the loader delivers
    int32_t leads, samples; // samples per lead in a batch row
    double rate;            // Hz
    char lead_name[16][8];
};

struct pk_signal {
    struct pk_batch_shape shape;
    int32_t leads;         // selected by the recipe
    uint8_t lead[16];      // index of each in the batch
    int32_t patch, tokens; // samples of a patch, patches of a crop
    float clip;
    enum pk_layout layout; // how patches become rows
};

/* Index of the lead of this name, in capital or small letters; -1 when there is none. */
int32_t pk_shape_lead(const struct pk_batch_shape *s, const char *name);
/* Reads data.leads, data.crop, data.rate and, of a transformer, model.encoder.patch; tokens of
 * other encoders are samples. */
enum pk_status pk_signal_config(struct pk_signal *out, const struct pk_recipe *r,
                                const struct pk_batch_shape *shape, struct pk_err *err);
struct pk_signal_in {
    struct pk_val patches; // [B, tokens, leads * patch], or as the layout has it
    struct pk_val sample;  // [B] i64
    struct pk_val gain;    // [B, leads of the batch], 0 for a lead that is absent
};
/* Declares the inputs signal, gain, offset, start, sample and cuts the patches. */
struct pk_signal_in pk_signal_inputs(struct pk_build *b, const struct pk_signal *s,
                                     int64_t records);
/* The same, augmented as a whole signal before it is cut into patches of all leads. range
 * [PK_AUGMENT_KINDS], borrowed; NULL: no augmentation. Keyed by seed and "sample". */
struct pk_signal_in pk_signal_augmented(struct pk_build *b, const struct pk_signal *s,
                                        int64_t records, const struct pk_augment_range *range,
                                        uint64_t seed);
/* Reads objective.augment.* into range; false when all are off. */
bool pk_signal_ranges(struct pk_augment_range range[PK_AUGMENT_KINDS], const struct pk_recipe *r);

#endif
