/* vit.h -- a pre-norm vision transformer over signal patches (Dosovitskiy et al. 2021; the variant
 * of Weimann & Conrad 2024): no bias anywhere, exact GELU, fixed sine-cosine positions, one
 * learnable register token in front, final layer norm. Other tokens: see models/mae.h. */
#ifndef PK_VIT_H
#define PK_VIT_H

#include "core/ops.h"
#include "core/recipe.h"

/* What a token is. Written into model descriptions as "register", "time", "patch", "lead". */
enum pk_tokenise {
    PK_TOKENISE_REGISTER, // a patch of all leads, and a register in front (pk_vit_encode)
    PK_TOKENISE_TIME,     // a patch of all leads (models/mae.h, like the others below)
    PK_TOKENISE_PATCH,    // a patch of one lead, with separators around each lead's run
    PK_TOKENISE_LEAD,     // a whole lead
    PK_TOKENISE_COUNT
};
const char *pk_tokenise_name(enum pk_tokenise t);
/* PK_TOKENISE_COUNT for a word that is none of the names. */
enum pk_tokenise pk_tokenise_named(const char *name);

struct pk_vit {
    enum pk_tokenise tokenise;
    bool qkv_bias; // of the attention's queries, keys and values
    int32_t width, depth, heads, mlp_ratio;
    int32_t tokens;     // positions in the table
    float eps;          // of the layer norms
    float residual_std; // initial std of projections that end in the residual stream
    float dropout;      // after the attention projection and twice in the MLP; 0 for none
    float drop_path;    // of the last block, rising from 0 at the first
    uint64_t seed;      // of both
};

/* Reads model.encoder.* and seed. */
struct pk_vit pk_vit_config(const struct pk_recipe *r, int32_t tokens);
/* x [B, T, width] through all blocks and the norm; parameters blocks.N.* and norm.weight. sample
 * [B] keys dropout and may be PK_NONE without it. */
struct pk_val pk_vit_blocks(struct pk_build *b, struct pk_val x, struct pk_val sample,
                            const struct pk_vit *v);
/* patches [B, T, values] at positions index [B, T] (PK_NONE: 0..T-1) -> [B, 1 + T, width], the
 * register first. Parameters patch_embed.weight, register, and those of the blocks. */
struct pk_val pk_vit_encode(struct pk_build *b, struct pk_val patches, struct pk_val index,
                            struct pk_val sample, const struct pk_vit *v);
/* Forward FLOPs of the blocks over this many tokens of one record, 2 per multiply-add. */
double pk_vit_flops(const struct pk_vit *v, double tokens);
/* [tokens, width] as a constant: even channels sine, odd cosine, base 10,000. With separators
 * [tokens + 2, width]: row t is position 1 + t, and the last two are those before the first and
 * behind the last token, 0 and tokens + 1. */
struct pk_val pk_vit_positions(struct pk_build *b, int32_t tokens, int32_t width, bool separators);

#endif
