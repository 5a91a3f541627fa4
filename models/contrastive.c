/* contrastive.c -- the three programs of a contrastive step (see contrastive.h). */
#include "models/contrastive.h"

#include <math.h>

static const float NORM_EPS = 1e-8f, KOLEO_EPS = 1e-8f;

/* Batch norm after both layers, as SimCLR and MoCo v3 have it: it takes away what all records have
 * in common, which is nearly everything at the start. (Without it CMSC on PTB-XL stays at the loss
 * of a guess for hundreds of steps: docs/bench/cpu.md.) */
static struct pk_val layer(struct pk_build *b, struct pk_val x, int32_t width,
                           const struct pk_contrastive *c, bool train, const char *name,
                           const char *norm)
{
    const struct pk_batchnorm bn = {.eps = 1e-5f, .momentum = 0.1f, .gain = 1, .train = train};
    if (!c->norm) return pk_linear_bias(b, x, width, name);
    pk_init_std(b,
                1 / sqrtf((float)pk_dim(b, x, -1))); // norms take scale away, AdamW's steps do not
    x = pk_linear(b, x, width, name);
    pk_init_std(b, 0.02f);
    return pk_batchnorm(b, x, &bn, norm);
}

static struct pk_val mlp(struct pk_build *b, struct pk_val x, const struct pk_contrastive *c,
                         bool train, const char *name)
{
    pk_scope(b, "%s", name);
    x = pk_gelu(b, layer(b, x, c->hidden, c, train, "fc1", "norm1"));
    x = layer(b, x, c->width, c, train, "fc2", "norm2");
    pk_scope_end(b);
    return x;
}

enum pk_status pk_contrastive_config(struct pk_contrastive *out, const struct pk_recipe *r,
                                     const struct pk_batch_shape *shape, struct pk_err *err)
{
    *out =
        (struct pk_contrastive){.hidden = (int32_t)pk_recipe_i64(r, "objective.projection.hidden"),
                                .width = (int32_t)pk_recipe_i64(r, "objective.projection.width"),
                                .norm = pk_recipe_bool(r, "objective.projection.norm"),
                                .momentum = pk_recipe_bool(r, "objective.momentum"),
                                .temperature = (float)pk_recipe_f64(r, "objective.temperature"),
                                .koleo = (float)pk_recipe_f64(r, "objective.koleo"),
                                .seed = (uint64_t)pk_recipe_i64(r, "seed")};
    out->augmented = pk_signal_ranges(out->range, r);
    PK_TRY(pk_signal_config(&out->signal, r, shape, err));
    return pk_encoder_config(&out->encoder, r, &out->signal, err);
}

/* The batch -> projections [B, width]; the mean of the tokens goes to *pooled. */
static struct pk_val tower(struct pk_build *b, const struct pk_signal_in *in,
                           const struct pk_contrastive *c, bool train, struct pk_val *pooled)
{
    pk_scope(b, "encoder");
    const struct pk_encoded h = pk_encode(b, in, &c->signal, &c->encoder, train);
    pk_scope_end(b);
    *pooled = pk_encoder_pool(b, &h, &c->encoder);
    return mlp(b, *pooled, c, train, "projector");
}

static struct pk_val online(struct pk_build *b, const struct pk_signal_in *in,
                            const struct pk_contrastive *c, struct pk_val *pooled)
{
    struct pk_val z = tower(b, in, c, true, pooled);
    return c->momentum ? mlp(b, z, c, true, "predictor") : z;
}

/* The EMA copies, whose norms take the statistics of the batch, as those of MoCo v3 do: running
 * averages would lag behind queries that are normalised by the batch. */
static struct pk_val momentum_key(struct pk_build *b, const struct pk_signal_in *in,
                                  const struct pk_contrastive *c)
{
    struct pk_val pooled;
    pk_scope_ema(b, true);
    struct pk_val k = tower(b, in, c, true, &pooled);
    pk_scope_ema(b, false);
    return k;
}

/* One view of consecutive pairs: [P, 2, width] -> [P, 1, width]. */
static struct pk_val view(struct pk_build *b, struct pk_val x, int32_t i)
{
    return pk_slice_tokens(b, x, i, 1);
}

/* z, key [P, 2, width]. Normalisation is part of the
 * loss: its gradient goes through the norm, and <z, gradient> is 0, since the loss does not depend
 * on the length of a row. */
static struct pk_val loss(struct pk_build *b, struct pk_val z, struct pk_val key,
                          struct pk_val group, const struct pk_contrastive *c, int32_t ranks)
{
    struct pk_val sum, q = pk_l2_normalize(b, z, NORM_EPS);
    if (c->momentum) { // each view against the other view's keys
        struct pk_val k = pk_l2_normalize(b, key, NORM_EPS), part[2];
        for (int i = 0; i < 2; i++)
            part[i] = pk_contrast_loss(b, view(b, q, i), view(b, k, 1 - i), group, group,
                                       c->temperature, 0.5f, ranks);
        sum = pk_add(b, part[0], part[1]);
    } else {
        sum = pk_contrast_loss(b, q, PK_NONE, group, PK_NONE, c->temperature, 1, ranks);
    }
    if (!(c->koleo > 0)) return sum;
    for (int i = 0; i < 2; i++) // within a view, where pairs do not attract
        sum = pk_add(b, sum, pk_koleo_loss(b, view(b, q, i), c->koleo / 2, KOLEO_EPS, ranks));
    return sum;
}

static enum pk_status build_embed(struct pk_prog *out, struct pk_params *params,
                                  const struct pk_contrastive *c, int64_t records, bool back,
                                  struct pk_err *err)
{
    struct pk_build *b;
    struct pk_val pooled;
    PK_TRY(pk_build_begin(&b, out, params, err));
    struct pk_signal_in in =
        pk_signal_augmented(b, &c->signal, records, c->augmented ? c->range : NULL, c->seed);
    struct pk_val z = online(b, &in, c, &pooled);
    if (back) {
        int64_t dim[] = {records, c->width};
        pk_loss(b, pk_dot_loss(b, z, pk_input(b, "d_projected", PK_F32, 2, dim)));
    } else {
        pk_output(b, z, "projected");
        pk_output(b, pooled, "embedding");
        if (c->momentum) pk_output(b, momentum_key(b, &in, c), "key");
    }
    return pk_build_finish(b, err);
}

static struct pk_val group_input(struct pk_build *b, const struct pk_contrastive *c, int64_t total)
{
    return pk_input(b, "group", PK_I64, 1, (int64_t[]){c->momentum ? total / 2 : total});
}

static enum pk_status build_loss(struct pk_prog *out, struct pk_params *none,
                                 const struct pk_contrastive *c, int64_t total, int32_t ranks,
                                 struct pk_err *err)
{
    struct pk_build *b;
    const int64_t dim[] = {total / 2, 2, c->width};
    PK_TRY(pk_build_begin(&b, out, none, err));
    struct pk_val z = pk_input(b, "projected", PK_F32, 3, dim);
    struct pk_val key = c->momentum ? pk_input(b, "key", PK_F32, 3, dim) : PK_NONE;
    pk_input_gradient(b, z, "d_projected");
    pk_loss(b, loss(b, z, key, group_input(b, c, total), c, ranks));
    return pk_build_finish(b, err);
}

static enum pk_status check_total(int64_t total, struct pk_err *err)
{
    if (total >= 4 && total % 2 == 0) return PK_OK;
    return pk_fail(err, PK_EINVAL,
                   "a contrastive batch of %lld records: pairs are compared with pairs, so an even "
                   "number of 4 or more is needed",
                   (long long)total);
}

enum pk_status pk_contrastive_build(const struct pk_contrastive_progs *out,
                                    struct pk_params *params, struct pk_params *none,
                                    const struct pk_contrastive *c, int64_t records, int64_t total,
                                    int32_t ranks, struct pk_err *err)
{
    PK_TRY(check_total(total, err));
    PK_TRY(build_embed(out->embed, params, c, records, false, err));
    PK_TRY(build_loss(out->loss, none, c, total, ranks, err));
    return build_embed(out->back, params, c, records, true, err);
}
