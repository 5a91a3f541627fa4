/* signal.c -- inputs of every model (see signal.h). */
#include "models/signal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

int32_t pk_shape_lead(const struct pk_batch_shape *s, const char *name)
{
    for (int32_t l = 0; l < s->leads; l++)
        if (!strcasecmp(s->lead_name[l], name)) return l;
    return -1;
}

static enum pk_status select_leads(struct pk_signal *s, const struct pk_recipe *r,
                                   struct pk_err *err)
{
    int64_t wanted = pk_recipe_count(r, "data.leads");
    if (wanted == 0)
        for (; s->leads < s->shape.leads; s->leads++) s->lead[s->leads] = (uint8_t)s->leads;
    for (int64_t i = 0; i < wanted; i++) {
        const char *name = pk_recipe_item_str(r, "data.leads", i);
        int32_t at = pk_shape_lead(&s->shape, name);
        if (at < 0 || s->leads == (int32_t)PK_COUNT(s->lead)) {
            struct pk_text have = {0};
            for (int32_t l = 0; l < s->shape.leads; l++)
                pk_text_add(&have, "%s%s", l ? ", " : "", s->shape.lead_name[l]);
            enum pk_status e =
                pk_fail(err, PK_EDATA,
                        "%s: lead '%s' is not in the data, which has %s\n"
                        "help: data.leads=[] takes all that it has",
                        pk_recipe_origin(r, "data.leads"), name, have.s ? have.s : "none");
            pk_text_free(&have);
            return e;
        }
        s->lead[s->leads++] = (uint8_t)at;
    }
    return PK_OK;
}

enum pk_status pk_signal_config(struct pk_signal *out, const struct pk_recipe *r,
                                const struct pk_batch_shape *shape, struct pk_err *err)
{
    *out = (struct pk_signal){.shape = *shape, .clip = 5};
    if (strcmp(pk_recipe_str(r, "model.encoder.kind"), "vit")) {
        out->patch = 1;
        out->tokens = shape->samples;
        return select_leads(out, r, err);
    }
    double patch = pk_recipe_f64(r, "model.encoder.patch") * shape->rate;
    out->patch = (int32_t)lround(patch);
    if (out->patch < 1 || fabs(patch - out->patch) > 1e-6)
        return pk_fail(err, PK_ERECIPE,
                       "%s: the rate does not fit the patches: %g ms at %g Hz are %g samples",
                       pk_recipe_origin(r, "model.encoder.patch"),
                       1e3 * pk_recipe_f64(r, "model.encoder.patch"), shape->rate, patch);
    out->tokens = shape->samples / out->patch;
    if (out->tokens < 1 || shape->samples % out->patch)
        return pk_fail(err, PK_ERECIPE,
                       "%s: the crop of %d samples is not a multiple of the patch of %d",
                       pk_recipe_origin(r, "data.crop"), shape->samples, out->patch);
    return select_leads(out, r, err);
}

struct pk_signal_in pk_signal_inputs(struct pk_build *b, const struct pk_signal *s, int64_t records)
{
    int64_t leads = s->shape.leads;
    struct pk_val signal =
        pk_input(b, "signal", PK_I16, 3, (int64_t[]){records, leads, s->shape.samples});
    struct pk_val gain = pk_input(b, "gain", PK_F32, 2, (int64_t[]){records, leads});
    struct pk_val offset = pk_input(b, "offset", PK_F32, 2, (int64_t[]){records, leads});
    struct pk_val start = pk_input(b, "start", PK_I32, 1, &records);
    struct pk_patchify a = {.tokens = s->tokens,
                            .patch = s->patch,
                            .leads = s->leads,
                            .lead = s->lead,
                            .clip = s->clip,
                            .layout = s->layout};
    struct pk_signal_in in = {.patches = pk_patchify(b, signal, gain, offset, start, &a),
                              .gain = gain};
    in.sample = pk_input(b, "sample", PK_I64, 1, &records);
    return in;
}

struct pk_signal_in pk_signal_augmented(struct pk_build *b, const struct pk_signal *s,
                                        int64_t records, const struct pk_augment_range *range,
                                        uint64_t seed)
{
    struct pk_signal whole = *s;
    if (!range) return pk_signal_inputs(b, s, records);
    whole.tokens = 1;
    whole.patch = s->tokens * s->patch;
    const struct pk_augment a = {.leads = whole.leads,
                                 .patch = s->patch,
                                 .rate = (float)whole.shape.rate,
                                 .seed = seed,
                                 .range = range};
    struct pk_signal_in in = pk_signal_inputs(b, &whole, records);
    in.patches = pk_augment(b, in.patches, in.sample, &a);
    return in;
}

bool pk_signal_ranges(struct pk_augment_range range[PK_AUGMENT_KINDS], const struct pk_recipe *r)
{
    static const char *const path[PK_AUGMENT_KINDS] = {
#define PK_X(KIND, key, high, doc) "objective.augment." #key,
        PK_AUGMENTS(PK_X)
#undef PK_X
    };
    bool any = false;
    for (int k = 0; k < PK_AUGMENT_KINDS; k++) {
        const int64_t n = pk_recipe_count(r, path[k]); // 0, or 1 and 3 as recipe_check.c demands
        range[k] = (struct pk_augment_range){0, 0, 0};
        if (n) range[k].probability = (float)pk_recipe_item_f64(r, path[k], 0);
        if (n == 3) {
            range[k].low = (float)pk_recipe_item_f64(r, path[k], 1);
            range[k].high = (float)pk_recipe_item_f64(r, path[k], 2);
        }
        any |= range[k].probability > 0;
    }
    return any;
}
