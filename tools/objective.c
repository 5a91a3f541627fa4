/* objective.c -- the objectives of pretraining (see objective.h). */
#include "tools/objective.h"

#include <stddef.h>
#include <string.h>

_Static_assert(offsetof(struct pk_jepa, encoder) == offsetof(union pk_pretext, encoder) &&
                   offsetof(struct pk_jepa, predictor) == offsetof(union pk_pretext, partner),
               "a pretext model begins with signal, encoder and partner");
_Static_assert(offsetof(struct pk_mae, encoder) == offsetof(union pk_pretext, encoder) &&
                   offsetof(struct pk_mae, decoder) == offsetof(union pk_pretext, partner),
               "a pretext model begins with signal, encoder and partner");

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
    out[0] = (struct pk_probe_tower){&m->encoder, records * (tokens + 1), 1};
    out[1] = (struct pk_probe_tower){&m->encoder, records * (keep + 1), 3};
    out[2] = (struct pk_probe_tower){&m->partner, records * tokens, 3};
    return 3;
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
    struct pk_token_grid g = pk_token_grid(&m->signal, m->encoder.tokenise);
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
    out[0] = (struct pk_probe_tower){&m->encoder, records * pk_mae_encoder_tokens(&m->mae), 3};
    out[1] = (struct pk_probe_tower){&m->partner, records * mae_tokens(m), 3};
    return 2;
}

static const struct pk_objective objectives[] = {
    {"jepa", "predictor", true, jepa_config, jepa_keep_min, jepa_keep_max, jepa_keep, jepa_tokens,
     jepa_build, jepa_work, jepa_towers},
    {"mae", "decoder", false, mae_config, mae_kept, mae_kept, mae_keep, mae_tokens, mae_build,
     mae_work, mae_towers}};

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
