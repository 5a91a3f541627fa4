/* mae.c -- masked autoencoders (see mae.h). */
#include "models/mae.h"

#include <math.h>
#include <string.h>

struct pk_token_grid pk_token_grid(const struct pk_signal *s, enum pk_tokenise t)
{
    if (t == PK_TOKENISE_PATCH) return (struct pk_token_grid){s->leads, s->tokens};
    return (struct pk_token_grid){1, t == PK_TOKENISE_LEAD ? s->leads : s->tokens};
}

int32_t pk_record_tokens(const struct pk_signal *s, enum pk_tokenise t)
{
    struct pk_token_grid g = pk_token_grid(s, t);
    if (t == PK_TOKENISE_REGISTER) return g.tokens + 1;
    return g.runs * (g.tokens + (t == PK_TOKENISE_PATCH ? 2 : 0));
}

enum pk_layout pk_token_layout(enum pk_tokenise t)
{
    if (t == PK_TOKENISE_PATCH) return PK_LAYOUT_PATCH;
    return t == PK_TOKENISE_LEAD ? PK_LAYOUT_LEAD : PK_LAYOUT_JOINT;
}

enum pk_status pk_mae_config(struct pk_mae *out, const struct pk_recipe *r,
                             const struct pk_batch_shape *shape, struct pk_err *err)
{
    *out = (struct pk_mae){.seed = (uint64_t)pk_recipe_i64(r, "seed")};
    PK_TRY(pk_signal_config(&out->signal, r, shape, err));
    enum pk_tokenise t = pk_tokenise_named(pk_recipe_str(r, "objective.variant"));
    if (t == PK_TOKENISE_LEAD && out->signal.tokens != 1)
        return pk_fail(err, PK_ERECIPE,
                       "%s: a token is a whole lead, so that the patch must be as long as the "
                       "crop of %d samples, not %d",
                       pk_recipe_origin(r, "model.encoder.patch"), shape->samples,
                       out->signal.patch);
    struct pk_token_grid grid = pk_token_grid(&out->signal, t);
    out->signal.layout = pk_token_layout(t);
    out->encoder = pk_vit_config(r, grid.tokens);
    out->encoder.tokenise = t;
    out->decoder = out->encoder;
    out->decoder.dropout = out->decoder.drop_path = 0;
    out->decoder.width = (int32_t)pk_recipe_i64(r, "objective.decoder.width");
    out->decoder.depth = (int32_t)pk_recipe_i64(r, "objective.decoder.depth");
    out->decoder.heads = (int32_t)pk_recipe_i64(r, "objective.decoder.heads");
    out->decoder.residual_std = 0.02f / sqrtf(2.0f * (float)out->decoder.depth);
    double ratio = pk_recipe_f64(r, "objective.mask_ratio");
    out->keep = (int32_t)floor(grid.tokens * (1 - ratio) + 1e-9);
    if (out->keep < 1 || out->keep >= grid.tokens)
        return pk_fail(err, PK_ERECIPE, "%s: hiding %g of %d tokens leaves nothing to %s",
                       pk_recipe_origin(r, "objective.mask_ratio"), ratio, grid.tokens,
                       out->keep < 1 ? "see" : "predict");
    return PK_OK;
}

int32_t pk_mae_encoder_tokens(const struct pk_mae *m)
{
    bool single = m->encoder.tokenise == PK_TOKENISE_PATCH;
    return pk_token_grid(&m->signal, m->encoder.tokenise).runs * (m->keep + (single ? 2 : 0));
}

/* Values of one token. */
static double token_values(const struct pk_signal *s, enum pk_tokenise t)
{
    return (pk_token_layout(t) == PK_LAYOUT_JOINT ? s->leads : 1) * (double)s->patch;
}

struct pk_mae_flops pk_mae_flops(const struct pk_mae *m)
{
    const struct pk_vit *e = &m->encoder, *d = &m->decoder;
    struct pk_token_grid grid = pk_token_grid(&m->signal, e->tokenise);
    double runs = grid.runs, values = token_values(&m->signal, e->tokenise);
    double seen = pk_mae_encoder_tokens(m), kept = runs * m->keep;
    double hidden = runs * (grid.tokens - m->keep), run = seen / runs + grid.tokens - m->keep;
    return (struct pk_mae_flops){
        .encoder = 3 * (pk_vit_flops(e, seen) + 2 * kept * values * e->width),
        .decoder = 3 * (runs * pk_vit_flops(d, run) + 2 * seen * e->width * (double)d->width +
                        2 * hidden * d->width * values)};
}

struct pk_val pk_mae_encode(struct pk_build *b, struct pk_val patches, struct pk_val kept,
                            struct pk_val present, struct pk_val sample, const struct pk_signal *s,
                            const struct pk_vit *v)
{
    int64_t width = v->width, leads = s->leads;
    struct pk_val x = kept.id >= 0 ? pk_gather_tokens(b, patches, kept) : patches;
    x = pk_layernorm(b, x, v->eps, "patch_norm");
    x = pk_layernorm(b, pk_linear(b, x, width, "patch_embed"), v->eps, "embed_norm");
    bool single = v->tokenise == PK_TOKENISE_PATCH;
    int32_t tokens = pk_token_grid(s, v->tokenise).tokens;
    struct pk_val table = pk_vit_positions(b, tokens, v->width, single);
    if (!single) {
        x = pk_add_position(b, x, table, kept);
        return pk_vit_blocks(b, x, sample, v);
    }
    struct pk_lead_tokens a = {.table = table, .index = kept, .present = present};
    a.lead = pk_weight(b, "lead_embed", 2, (int64_t[]){leads, width}, PK_INIT_TRUNC_NORMAL, false);
    a.separator = pk_weight(b, "separator", 1, &width, PK_INIT_TRUNC_NORMAL, false);
    a.absent = pk_weight(b, "absent", 1, &width, PK_INIT_TRUNC_NORMAL, false);
    return pk_vit_blocks(b, pk_lead_tokens(b, x, &a), sample, v);
}

struct pk_val pk_mae_pool(struct pk_build *b, struct pk_val h, struct pk_val present,
                          const struct pk_vit *v)
{
    return v->tokenise == PK_TOKENISE_PATCH ? pk_lead_pool(b, h, present) : pk_mean_pool(b, h, 0);
}

struct masked { // what a record shows and hides
    struct pk_val kept, hidden, seen;
};

/* Each run on its own with shared weights: runs are folded into the batch. */
static struct pk_val decode(struct pk_build *b, struct pk_val h, const struct masked *mask,
                            int64_t records, const struct pk_mae *m)
{
    int64_t width = m->decoder.width;
    bool single = m->encoder.tokenise == PK_TOKENISE_PATCH;
    struct pk_token_grid grid = pk_token_grid(&m->signal, m->encoder.tokenise);
    int32_t front = m->keep + (single ? 2 : 0);
    pk_scope(b, "decoder");
    h = pk_linear(b, h, width, "embed");
    if (single) h = pk_reshape(b, h, 3, (int64_t[]){records * grid.runs, front, width});
    struct pk_val token = pk_weight(b, "mask_token", 1, &width, PK_INIT_TRUNC_NORMAL, false);
    struct pk_val table = pk_vit_positions(b, grid.tokens, m->decoder.width, single);
    h = pk_assemble_tokens(b, h, token, table, single ? mask->seen : mask->kept, mask->hidden);
    h = pk_vit_blocks(b, h, PK_NONE, &m->decoder);
    h = pk_slice_tokens(b, h, front, grid.tokens - m->keep); // only these reach the loss
    h = pk_linear(b, h, (int64_t)token_values(&m->signal, m->encoder.tokenise), "proj");
    pk_scope_end(b);
    return h;
}

enum pk_status pk_mae_build(struct pk_prog *out, struct pk_params *params, const struct pk_mae *m,
                            int64_t records, bool reconstruct, struct pk_err *err)
{
    struct pk_build *b;
    struct masked mask;
    struct pk_val present = PK_NONE;
    struct pk_token_grid grid = pk_token_grid(&m->signal, m->encoder.tokenise);
    PK_TRY(pk_build_begin(&b, out, params, err));
    if (reconstruct) pk_scope_frozen(b, true);
    struct pk_signal_in in = pk_signal_inputs(b, &m->signal, records);
    struct pk_lead_mask a = {grid.runs, grid.tokens, m->keep, m->seed};
    pk_lead_mask(b, in.sample, &a, &mask.kept, &mask.hidden, &mask.seen);
    if (m->encoder.tokenise != PK_TOKENISE_TIME)
        present = pk_lead_present(b, in.gain, m->signal.leads, m->signal.lead);
    pk_scope(b, "encoder");
    struct pk_val h =
        pk_mae_encode(b, in.patches, mask.kept, present, in.sample, &m->signal, &m->encoder);
    pk_scope_end(b);
    pk_output(b, pk_mae_pool(b, h, present, &m->encoder), "embedding");
    struct pk_val x = decode(b, h, &mask, records, m);
    if (reconstruct) {
        pk_scope_frozen(b, false);
        pk_output(b, in.patches, "patches");
        pk_output(b, mask.hidden, "hidden");
        pk_output(b, x, "prediction");
    } else {
        pk_loss(b, pk_patch_loss(b, x, in.patches, mask.hidden, present, PK_MAE_EPS));
    }
    return pk_build_finish(b, err);
}
