/* objective.c -- the objectives of pretraining (see objective.h). */
#include "tools/objective.h"
#include "core/plan.h"
#include "models/classifier.h"

#include <stdio.h>
#include <string.h>

enum pk_status pk_encoder_flops(double *out, const struct pk_signal *s, const struct pk_encoder *e,
                                struct pk_err *err)
{
    struct pk_params params = {0};
    struct pk_prog prog = {0};
    struct pk_plan plan = {0};
    const struct pk_classifier bare = {.signal = *s, .encoder = *e, .head = PK_HEAD_NONE};
    enum pk_status status = pk_classifier_build(&prog, &params, &bare, 1, false, err);
    if (status == PK_OK) status = pk_plan_make(&plan, &prog, NULL, err);
    *out = plan.flops;
    pk_plan_free(&plan);
    pk_prog_free(&prog);
    pk_params_free(&params);
    return status;
}

struct pk_vit pk_encoder_stand_in(const struct pk_encoder *e)
{
    return pk_encoder_convolves(e)
               ? (struct pk_vit){.width = e->width, .depth = 1, .heads = 1, .mlp_ratio = 1}
               : e->vit;
}

int32_t pk_encoder_tokens(const struct pk_signal *s, const struct pk_encoder *e)
{
    if (pk_encoder_convolves(e)) return s->tokens;
    const struct pk_token_grid g = pk_token_grid(s, e->vit.tokenise);
    return g.runs * g.tokens;
}

static enum pk_pair no_pairs(const struct pk_recipe *r)
{
    (void)r;
    return PK_PAIR_NONE;
}

static void describe_blocks(const struct pk_vit *v, char out[96])
{
    snprintf(out, 96, "%d wide, %d deep, %d heads", v->width, v->depth, v->heads);
}

/* --- JEPA ---------------------------------------------------------------------------------- */

static enum pk_status jepa_config(union pk_pretext *out, const struct pk_recipe *r,
                                  const struct pk_batch_shape *shape, struct pk_err *err)
{
    return pk_jepa_config(&out->jepa, r, shape, err);
}

static int32_t jepa_keep_min(const union pk_pretext *m)
{
    return pk_jepa_keep_min(&m->jepa);
}

static int32_t jepa_keep_max(const union pk_pretext *m)
{
    return pk_jepa_keep_max(&m->jepa);
}

static int32_t jepa_keep(const union pk_pretext *m, int64_t step)
{
    return pk_jepa_keep(&m->jepa, step);
}

static int32_t jepa_tokens(const union pk_pretext *m)
{
    return m->signal.tokens;
}

static enum pk_status jepa_build(struct pk_prog *out, struct pk_params *params,
                                 const union pk_pretext *m, int64_t records, int32_t keep,
                                 struct pk_err *err)
{
    return pk_jepa_build(out, params, &m->jepa, records, keep, err);
}

static int jepa_work(const union pk_pretext *m, int32_t keep,
                     struct pk_work_part out[PK_WORK_PARTS])
{
    struct pk_jepa_flops f = pk_jepa_flops(&m->jepa, keep);
    out[0] = (struct pk_work_part){"target", f.target};
    out[1] = (struct pk_work_part){"context", f.context};
    out[2] = (struct pk_work_part){"predictor", f.predictor};
    return 3;
}

static int jepa_towers(const union pk_pretext *m, int64_t records, int32_t keep,
                       struct pk_probe_tower out[PK_TOWERS])
{
    int64_t tokens = m->signal.tokens;
    out[0] = (struct pk_probe_tower){&m->jepa.encoder, records * (tokens + 1), 1};
    out[1] = (struct pk_probe_tower){&m->jepa.encoder, records * (keep + 1), 3};
    out[2] = (struct pk_probe_tower){&m->jepa.predictor, records * tokens, 3};
    return 3;
}

static struct pk_encoder jepa_encoder(const union pk_pretext *m)
{
    return pk_encoder_of_vit(&m->jepa.encoder);
}

static bool jepa_ema(const union pk_pretext *m)
{
    (void)m;
    return true;
}

static void jepa_describe(const union pk_pretext *m, char out[96])
{
    describe_blocks(&m->jepa.predictor, out);
}

/* --- masked autoencoder -------------------------------------------------------------------- */

static enum pk_status mae_config(union pk_pretext *out, const struct pk_recipe *r,
                                 const struct pk_batch_shape *shape, struct pk_err *err)
{
    return pk_mae_config(&out->mae, r, shape, err);
}

static int32_t mae_kept(const union pk_pretext *m)
{
    return m->mae.keep;
}

static int32_t mae_keep(const union pk_pretext *m, int64_t step)
{
    (void)step; // the share is fixed
    return m->mae.keep;
}

/* The decoder's sequences together: the larger side. */
static int32_t mae_tokens(const union pk_pretext *m)
{
    struct pk_token_grid g = pk_token_grid(&m->signal, m->mae.encoder.tokenise);
    return pk_mae_encoder_tokens(&m->mae) + g.runs * (g.tokens - m->mae.keep);
}

static enum pk_status mae_build(struct pk_prog *out, struct pk_params *params,
                                const union pk_pretext *m, int64_t records, int32_t keep,
                                struct pk_err *err)
{
    struct pk_mae mae = m->mae;
    mae.keep = keep;
    return pk_mae_build(out, params, &mae, records, false, err);
}

static int mae_work(const union pk_pretext *m, int32_t keep, struct pk_work_part out[PK_WORK_PARTS])
{
    struct pk_mae mae = m->mae;
    mae.keep = keep;
    struct pk_mae_flops f = pk_mae_flops(&mae);
    out[0] = (struct pk_work_part){"encoder", f.encoder};
    out[1] = (struct pk_work_part){"decoder", f.decoder};
    return 2;
}

static int mae_towers(const union pk_pretext *m, int64_t records, int32_t keep,
                      struct pk_probe_tower out[PK_TOWERS])
{
    (void)keep;
    out[0] = (struct pk_probe_tower){&m->mae.encoder, records * pk_mae_encoder_tokens(&m->mae), 3};
    out[1] = (struct pk_probe_tower){&m->mae.decoder, records * mae_tokens(m), 3};
    return 2;
}

static struct pk_encoder mae_encoder(const union pk_pretext *m)
{
    return pk_encoder_of_vit(&m->mae.encoder);
}

static bool mae_ema(const union pk_pretext *m)
{
    (void)m;
    return false;
}

static void mae_describe(const union pk_pretext *m, char out[96])
{
    describe_blocks(&m->mae.decoder, out);
}

/* --- contrastive --------------------------------------------------------------------------- */

static enum pk_status contrastive_config(union pk_pretext *out, const struct pk_recipe *r,
                                         const struct pk_batch_shape *shape, struct pk_err *err)
{
    struct pk_contrastive *c = &out->contrastive;
    PK_TRY(pk_contrastive_config(c, r, shape, err));
    out->widest = pk_encoder_stand_in(&c->encoder);
    out->flops[1] = 2.0 * c->hidden * (c->encoder.width + c->width);
    out->flops[2] = c->momentum ? 4.0 * c->hidden * c->width : 0;
    return pk_encoder_flops(&out->flops[0], &c->signal, &c->encoder, err);
}

static int32_t contrastive_no_keep(const union pk_pretext *m)
{
    (void)m;
    return 0;
}

static int32_t contrastive_keep(const union pk_pretext *m, int64_t step)
{
    (void)m, (void)step;
    return 0;
}

static int32_t contrastive_tokens(const union pk_pretext *m)
{
    return pk_encoder_tokens(&m->signal, &m->contrastive.encoder);
}

static enum pk_status contrastive_build(const struct pk_contrastive_progs *out,
                                        struct pk_params *params, struct pk_params *none,
                                        const union pk_pretext *m, int64_t records, int64_t total,
                                        int32_t ranks, struct pk_err *err)
{
    return pk_contrastive_build(out, params, none, &m->contrastive, records, total, ranks, err);
}

static int contrastive_work(const union pk_pretext *m, int32_t keep,
                            struct pk_work_part out[PK_WORK_PARTS])
{
    (void)keep;
    out[0] = (struct pk_work_part){"encoder", 3 * m->flops[0]};
    out[1] = (struct pk_work_part){"projection", 3 * (m->flops[1] + m->flops[2])};
    if (!m->contrastive.momentum) return 2;
    out[2] = (struct pk_work_part){"keys", m->flops[0] + m->flops[1]};
    return 3;
}

static int contrastive_towers(const union pk_pretext *m, int64_t records, int32_t keep,
                              struct pk_probe_tower out[PK_TOWERS])
{
    (void)keep;
    const bool samples = pk_encoder_convolves(&m->contrastive.encoder);
    const int64_t tokens = samples ? m->signal.tokens / 16 + 1 : m->signal.tokens + 1;
    out[0] = (struct pk_probe_tower){&m->widest, records * tokens, 3};
    return 1;
}

static enum pk_pair contrastive_pairs(const struct pk_recipe *r)
{
    const char *name = pk_recipe_str(r, "objective.pairs");
    return !strcmp(name, "adjacent")      ? PK_PAIR_ADJACENT
           : !strcmp(name, "participant") ? PK_PAIR_PARTICIPANT
                                          : PK_PAIR_RECORD;
}

static struct pk_encoder contrastive_encoder(const union pk_pretext *m)
{
    return m->contrastive.encoder;
}

static bool contrastive_ema(const union pk_pretext *m)
{
    return m->contrastive.momentum;
}

static void contrastive_describe(const union pk_pretext *m, char out[96])
{
    const struct pk_contrastive *c = &m->contrastive;
    snprintf(out, 96, "%d to %d%s", c->hidden, c->width, c->momentum ? ", and a predictor" : "");
}

static const struct pk_objective objectives[] = {{.kind = "jepa",
                                                  .partner = "predictor",
                                                  .moments = true,
                                                  .pairs = no_pairs,
                                                  .encoder = jepa_encoder,
                                                  .ema = jepa_ema,
                                                  .describe = jepa_describe,
                                                  .config = jepa_config,
                                                  .keep_min = jepa_keep_min,
                                                  .keep_max = jepa_keep_max,
                                                  .keep = jepa_keep,
                                                  .tokens = jepa_tokens,
                                                  .build = jepa_build,
                                                  .work = jepa_work,
                                                  .towers = jepa_towers},
                                                 {.kind = "mae",
                                                  .partner = "decoder",
                                                  .pairs = no_pairs,
                                                  .encoder = mae_encoder,
                                                  .ema = mae_ema,
                                                  .describe = mae_describe,
                                                  .config = mae_config,
                                                  .keep_min = mae_kept,
                                                  .keep_max = mae_kept,
                                                  .keep = mae_keep,
                                                  .tokens = mae_tokens,
                                                  .build = mae_build,
                                                  .work = mae_work,
                                                  .towers = mae_towers},
                                                 {.kind = "contrastive",
                                                  .partner = "projector",
                                                  .coupled = true,
                                                  .pairs = contrastive_pairs,
                                                  .encoder = contrastive_encoder,
                                                  .ema = contrastive_ema,
                                                  .describe = contrastive_describe,
                                                  .config = contrastive_config,
                                                  .keep_min = contrastive_no_keep,
                                                  .keep_max = contrastive_no_keep,
                                                  .keep = contrastive_keep,
                                                  .tokens = contrastive_tokens,
                                                  .build_coupled = contrastive_build,
                                                  .work = contrastive_work,
                                                  .towers = contrastive_towers}};

const struct pk_objective *pk_objective_named(const char *kind)
{
    for (size_t i = 0; i < PK_COUNT(objectives); i++)
        if (!strcmp(objectives[i].kind, kind)) return &objectives[i];
    return NULL;
}

double pk_objective_flops(const struct pk_objective *o, const union pk_pretext *m, int32_t keep)
{
    struct pk_work_part part[PK_WORK_PARTS];
    int parts = o->work(m, keep, part);
    double sum = 0;
    for (int i = 0; i < parts; i++) sum += part[i].flops;
    return sum;
}
