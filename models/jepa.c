/* jepa.c -- the JEPA training program (see jepa.h). */
#include "models/jepa.h"
#include "core/rng.h"

#include <math.h>

enum pk_status pk_jepa_config(struct pk_jepa *out, const struct pk_recipe *r,
                              const struct pk_batch_shape *shape, struct pk_err *err)
{
    *out = (struct pk_jepa){.seed = (uint64_t)pk_recipe_i64(r, "seed"),
                            .min_block = (int32_t)pk_recipe_i64(r, "objective.mask.min_block")};
    PK_TRY(pk_signal_config(&out->signal, r, shape, err));
    for (int i = 0; i < 2; i++) out->keep[i] = pk_recipe_item_f64(r, "objective.mask.keep", i);
    out->encoder = pk_vit_config(r, out->signal.tokens);
    out->predictor = out->encoder;
    out->predictor.dropout = out->predictor.drop_path = 0;
    out->predictor.width = (int32_t)pk_recipe_i64(r, "objective.predictor.width");
    out->predictor.depth = (int32_t)pk_recipe_i64(r, "objective.predictor.depth");
    out->predictor.heads = (int32_t)pk_recipe_i64(r, "objective.predictor.heads");
    if (pk_jepa_keep_max(out) >= out->signal.tokens)
        return pk_fail(err, PK_ERECIPE, "%s: a share of %g of %d tokens leaves nothing to predict",
                       pk_recipe_origin(r, "objective.mask.keep"), out->keep[1],
                       out->signal.tokens);
    return PK_OK;
}

static int32_t kept(const struct pk_jepa *j, double share)
{
    int32_t n = (int32_t)ceil(j->signal.tokens * share - 1e-9);
    return PK_MAX(n, 1);
}

int32_t pk_jepa_keep(const struct pk_jepa *j, int64_t step)
{
    struct pk_rng r = pk_rng_make(j->seed, PK_RNG_KEEP, (uint64_t)step, 0);
    return kept(j, j->keep[0] + (j->keep[1] - j->keep[0]) * pk_rng_uniform(&r));
}

int32_t pk_jepa_keep_min(const struct pk_jepa *j)
{
    return kept(j, j->keep[0]);
}

int32_t pk_jepa_keep_max(const struct pk_jepa *j)
{
    return kept(j, j->keep[1]);
}

struct pk_jepa_flops pk_jepa_flops(const struct pk_jepa *j, int32_t keep)
{
    const struct pk_vit *e = &j->encoder, *p = &j->predictor;
    double tokens = j->signal.tokens, kept = keep, ends = 2.0 * e->width * p->width;
    double embed = 2.0 * j->signal.leads * j->signal.patch * e->width;
    return (struct pk_jepa_flops){
        .target = pk_vit_flops(e, tokens + 1) + tokens * embed,
        .context = 3 * (pk_vit_flops(e, kept + 1) + kept * embed),
        .predictor = 3 * (pk_vit_flops(p, tokens) + kept * ends + (tokens - kept) * ends)};
}

/* The EMA encoder sees all patches; [B, T, width] without the register. */
static struct pk_val encode_target(struct pk_build *b, struct pk_val patches,
                                   const struct pk_jepa *j)
{
    pk_scope_ema(b, true);
    pk_scope(b, "encoder");
    struct pk_val h = pk_vit_encode(b, patches, PK_NONE, PK_NONE, &j->encoder);
    pk_scope_end(b);
    pk_scope_ema(b, false);
    return pk_slice_tokens(b, h, 1, j->signal.tokens);
}

static struct pk_val encode_context(struct pk_build *b, const struct pk_signal_in *in,
                                    struct pk_val index, int32_t keep, const struct pk_jepa *j)
{
    pk_scope(b, "encoder");
    struct pk_val seen = pk_gather_tokens(b, in->patches, index);
    struct pk_val h = pk_vit_encode(b, seen, index, in->sample, &j->encoder);
    pk_scope_end(b);
    return pk_slice_tokens(b, h, 1, keep);
}

static struct pk_val predict(struct pk_build *b, struct pk_val context, struct pk_val index,
                             struct pk_val hidden, int32_t keep, const struct pk_jepa *j)
{
    int64_t width = j->predictor.width;
    pk_scope(b, "predictor");
    struct pk_val h = pk_linear(b, context, width, "embed");
    struct pk_val token = pk_weight(b, "mask_token", 1, &width, PK_INIT_TRUNC_NORMAL, false);
    struct pk_val table = pk_vit_positions(b, j->signal.tokens, j->predictor.width, false);
    h = pk_assemble_tokens(b, h, token, table, index, hidden);
    h = pk_vit_blocks(b, h, PK_NONE, &j->predictor);
    h = pk_slice_tokens(b, h, keep, j->signal.tokens - keep); // only these reach the loss
    h = pk_linear(b, h, j->encoder.width, "proj");
    pk_scope_end(b);
    return h;
}

enum pk_status pk_jepa_build(struct pk_prog *out, struct pk_params *params, const struct pk_jepa *j,
                             int64_t records, int32_t keep, struct pk_err *err)
{
    struct pk_build *b;
    struct pk_val index = PK_NONE, hidden = PK_NONE;
    PK_TRY(pk_build_begin(&b, out, params, err));
    struct pk_signal_in in = pk_signal_inputs(b, &j->signal, records);
    struct pk_mask mask = {
        .tokens = j->signal.tokens, .keep = keep, .min_block = j->min_block, .seed = j->seed};
    pk_block_mask(b, in.sample, &mask, &index, &hidden);
    struct pk_val all = encode_target(b, in.patches, j);
    struct pk_val target = pk_gather_tokens(b, all, hidden);
    pk_output(b, pk_feature_moments(b, target), "target_moments");
    pk_output(b, pk_mean_pool(b, all, 0), "embedding");
    struct pk_val context = encode_context(b, &in, index, keep, j);
    struct pk_val predicted = predict(b, context, index, hidden, keep, j);
    pk_loss(b, pk_l1_loss(b, predicted, target));
    return pk_build_finish(b, err);
}
