/* mae.h -- masked autoencoders of ECG (He et al. 2022; ST-MEM, Na et al., ICLR 2024, arXiv
 * 2402.09450): hide most tokens, encode the others, reconstruct what was hidden.
 *
 * A token is a patch of one lead (PK_TOKENISE_PATCH: ST-MEM), a patch of all leads (TIME: MTAE) or
 * a whole lead (LEAD: MLAE). Patches go through layer norm, linear and layer norm; positions are
 * fixed sine-cosine. Patches of single leads stand between two separators, one learnable vector,
 * and every token of a lead gets that lead's embedding.
 *
 * Leads that a record does not have (gain 0) keep their places, so that shapes stay static and
 * attention needs no mask (docs/decisions/012-absent-leads.md). PATCH: a learnable `absent` token
 * takes the place of their content, and neither the loss nor the mean of the tokens counts them.
 * LEAD: their samples are zeros, and the loss does not count them. TIME: they are zeros. */
#ifndef PK_MAE_H
#define PK_MAE_H

#include "models/signal.h"
#include "models/vit.h"

struct pk_mae {
    struct pk_signal signal;
    struct pk_vit encoder, decoder;
    int32_t keep; // tokens of each run that stay visible
    uint64_t seed;
};

/* Runs of tokens of a record, masked each on its own: one per lead, or a single one. */
struct pk_token_grid {
    int32_t runs, tokens;
};
struct pk_token_grid pk_token_grid(const struct pk_signal *s, enum pk_tokenise t);
/* Tokens that the encoder sees of a whole record: register and separators included. */
int32_t pk_record_tokens(const struct pk_signal *s, enum pk_tokenise t);
/* The layout of patches that a tokenisation wants. */
enum pk_layout pk_token_layout(enum pk_tokenise t);

/* Reads objective.variant, objective.mask_ratio, objective.decoder and what signal and encoder
 * need. Errors  PK_ERECIPE  nothing kept or nothing hidden; a lead token that is not the crop */
enum pk_status pk_mae_config(struct pk_mae *out, const struct pk_recipe *r,
                             const struct pk_batch_shape *shape, struct pk_err *err);
/* Tokens of the encoder for one record, separators included. */
int32_t pk_mae_encoder_tokens(const struct pk_mae *m);
/* The work of one record, 2 per multiply-add, backward twice the forward. */
struct pk_mae_flops {
    double encoder, decoder;
};
struct pk_mae_flops pk_mae_flops(const struct pk_mae *m);

/* The encoder on patches in its layout. kept: index of the visible tokens of each run, PK_NONE for
 * all; present: pk_lead_present, for PK_TOKENISE_PATCH; sample keys dropout. Returns [B, tokens,
 * width]. Parameters patch_norm, patch_embed, embed_norm, the blocks, and for PATCH lead_embed,
 * separator, absent. Not for PK_TOKENISE_REGISTER. */
struct pk_val pk_mae_encode(struct pk_build *b, struct pk_val patches, struct pk_val kept,
                            struct pk_val present, struct pk_val sample, const struct pk_signal *s,
                            const struct pk_vit *v);
/* Mean over the tokens that are signal: [B, width]. */
struct pk_val pk_mae_pool(struct pk_build *b, struct pk_val h, struct pk_val present,
                          const struct pk_vit *v);
/* The training program of one micro-batch. Outputs: loss; embedding [records, width], the mean of
 * the visible tokens. Parameters: encoder.* and decoder.*.
 * reconstruct: a program without loss whose outputs are patches [R, T, P], hidden [R, H] and
 * prediction [R, H, P], of standardised patches; R is records x runs. */
enum pk_status pk_mae_build(struct pk_prog *out, struct pk_params *params, const struct pk_mae *m,
                            int64_t records, bool reconstruct, struct pk_err *err);
/* Added to the variance of a patch before its root is taken (He et al. 2022), in units of the
 * normalised signal squared: a flat patch becomes zeros. The variance divides by the number of
 * samples n; the published code divides by n - 1, which scales targets by sqrt(1 - 1 / n), 0.993
 * for 75 samples. */
#define PK_MAE_EPS 1e-6f

#endif
