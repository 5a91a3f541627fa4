/* encoder.h -- an encoder of any family behind one set of functions: transformers over patches, and
 * convolutional networks over samples, whose tokens are single samples of all leads.
 *
 * A new family is a model in its own file and a row of the table in encoder.c. */
#ifndef PK_ENCODER_H
#define PK_ENCODER_H

#include "models/mae.h"

enum pk_encoder_kind { // as model.encoder.kind and model descriptions name them
    PK_ENCODER_VIT,    // "vit"
    PK_ENCODER_RESNET1D_WANG,
    PK_ENCODER_XRESNET1D50,
    PK_ENCODER_XRESNET1D101,
    PK_ENCODER_EFFICIENTNET1D,
    PK_ENCODER_NET1D,
    PK_ENCODER_KINDS
};
const char *pk_encoder_name(enum pk_encoder_kind kind);
/* PK_ENCODER_KINDS for a word that is none of the names. */
enum pk_encoder_kind pk_encoder_named(const char *name);

struct pk_encoder {
    enum pk_encoder_kind kind;
    int32_t width;     // channels that come out
    int32_t channels;  // convolutional: of the blocks
    struct pk_vit vit; // convolutional: its seed and drop_path alone
};

static inline bool pk_encoder_convolves(const struct pk_encoder *e)
{
    return e->kind != PK_ENCODER_VIT;
}
/* The same transformer as an encoder. */
struct pk_encoder pk_encoder_of_vit(const struct pk_vit *v);
/* A convolutional one; channels 0: as published. Errors  PK_EINVAL  channels that the family does
 * not let one choose */
enum pk_status pk_encoder_convolution(struct pk_encoder *out, enum pk_encoder_kind kind,
                                      int32_t channels, struct pk_err *err);
/* Reads model.encoder.* and seed; s as pk_signal_config left it. */
enum pk_status pk_encoder_config(struct pk_encoder *out, const struct pk_recipe *r,
                                 const struct pk_signal *s, struct pk_err *err);

/* The recipe's model.encoder.drop_path, or what was published with the family. */
float pk_encoder_drop_path(const struct pk_recipe *r, enum pk_encoder_kind kind);

struct pk_encoded {
    struct pk_val tokens;  // [B, T, width]
    struct pk_val present; // pk_lead_present where tokens are patches of one lead, else PK_NONE
};
/* Parameters are those of the family, in the scope that is open. train: batch norm takes the
 * statistics of the micro-batch; dropout and dropped paths are the encoder's own settings. Neither
 * is there where a frozen or EMA scope is open. */
struct pk_encoded pk_encode(struct pk_build *b, const struct pk_signal_in *in,
                            const struct pk_signal *s, const struct pk_encoder *e, bool train);
/* Mean over the tokens that are signal: [B, width]. */
struct pk_val pk_encoder_pool(struct pk_build *b, const struct pk_encoded *x,
                              const struct pk_encoder *e);
/* Heads of an attention over the tokens: a transformer's own, else one for 64 channels. */
int32_t pk_encoder_heads(const struct pk_encoder *e);
/* For people: "ViT 192 wide, 8 deep, 4 heads". */
void pk_encoder_describe(const struct pk_encoder *e, char out[96]);

#endif
