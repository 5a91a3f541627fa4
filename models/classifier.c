/* classifier.c -- heads on an encoder (see classifier.h). */
#include "models/classifier.h"

#include <string.h>

enum pk_status pk_head_parse(enum pk_head *out, const char *name, struct pk_err *err)
{
    if (!strcmp(name, "register_linear"))
        *out = PK_HEAD_REGISTER_LINEAR;
    else if (!strcmp(name, "mean_linear"))
        *out = PK_HEAD_MEAN_LINEAR;
    else if (!strcmp(name, "attentive"))
        *out = PK_HEAD_ATTENTIVE;
    else
        return pk_fail(err, PK_ERECIPE, "unknown head '%s'", name);
    return PK_OK;
}

enum pk_status pk_classifier_config_head(struct pk_classifier *out, const struct pk_recipe *r,
                                         const struct pk_batch_shape *shape, int32_t classes,
                                         struct pk_err *err)
{
    *out = (struct pk_classifier){.classes = classes, .signal = {.shape = *shape, .clip = 5}};
    out->encoder.seed = (uint64_t)pk_recipe_i64(r, "seed");
    out->softmax = !strcmp(pk_recipe_str(r, "objective.loss"), "softmax");
    return pk_head_parse(&out->head, pk_recipe_str(r, "objective.head.kind"), err);
}

enum pk_status pk_classifier_config(struct pk_classifier *out, const struct pk_recipe *r,
                                    const struct pk_batch_shape *shape, int32_t classes,
                                    struct pk_err *err)
{
    PK_TRY(pk_classifier_config_head(out, r, shape, classes, err));
    PK_TRY(pk_signal_config(&out->signal, r, shape, err));
    out->encoder = pk_vit_config(r, out->signal.tokens);
    return PK_OK;
}

/* Mean over the tokens that are signal. */
static struct pk_val pool(struct pk_build *b, struct pk_val h, struct pk_val present,
                          const struct pk_vit *v)
{
    return v->tokenise == PK_TOKENISE_REGISTER ? pk_mean_pool(b, h, 1)
                                               : pk_mae_pool(b, h, present, v);
}

static struct pk_val classify(struct pk_build *b, struct pk_val h, struct pk_val present,
                              const struct pk_classifier *c)
{
    int64_t width = c->encoder.width;
    if (c->head == PK_HEAD_MEAN_LINEAR)
        return pk_linear_bias(b, pool(b, h, present, &c->encoder), c->classes, "proj");
    if (c->head == PK_HEAD_REGISTER_LINEAR)
        return pk_linear_bias(b, pk_mean_pool(b, pk_slice_tokens(b, h, 0, 1), 0), c->classes,
                              "proj");
    struct pk_val query = pk_weight(b, "query", 1, &width, PK_INIT_TRUNC_NORMAL, false);
    query = pk_linear(b, query, width, "q");
    struct pk_val kv = pk_linear(b, h, 2 * width, "kv");
    return pk_linear(b, pk_attention_pool(b, query, kv, c->encoder.heads), c->classes, "proj");
}

enum pk_status pk_classifier_build(struct pk_prog *out, struct pk_params *params,
                                   const struct pk_classifier *c, int64_t records, bool train,
                                   struct pk_err *err)
{
    struct pk_build *b;
    struct pk_vit encoder = c->encoder;
    PK_TRY(pk_build_begin(&b, out, params, err));
    struct pk_signal_in in = pk_signal_inputs(b, &c->signal, records);
    if (!train || c->frozen) encoder.dropout = 0;
    bool encoder_frozen = c->frozen || !train;
    if (encoder_frozen) pk_scope_frozen(b, true);
    pk_scope(b, "encoder");
    struct pk_val present = PK_NONE, h;
    if (encoder.tokenise == PK_TOKENISE_PATCH)
        present = pk_lead_present(b, in.gain, c->signal.leads, c->signal.lead);
    if (encoder.tokenise == PK_TOKENISE_REGISTER)
        h = pk_vit_encode(b, in.patches, PK_NONE, in.sample, &encoder);
    else
        h = pk_mae_encode(b, in.patches, PK_NONE, present, in.sample, &c->signal, &encoder);
    pk_scope_end(b);
    if (encoder_frozen) pk_scope_frozen(b, false);
    struct pk_val logit = PK_NONE;
    if (c->head != PK_HEAD_NONE) {
        if (!train) pk_scope_frozen(b, true);
        pk_scope(b, "head");
        logit = classify(b, h, present, c);
        pk_scope_end(b);
        if (!train) pk_scope_frozen(b, false);
        pk_output(b, logit, "logits");
    }
    if (!train) pk_output(b, pool(b, h, present, &c->encoder), "embedding");
    if (train) {
        struct pk_val label = pk_input(b, "label", PK_U8, 2, (int64_t[]){records, c->classes});
        pk_loss(b, c->softmax ? pk_softmax_loss(b, logit, label) : pk_bce_loss(b, logit, label));
    }
    return pk_build_finish(b, err);
}
