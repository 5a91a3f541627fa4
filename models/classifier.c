/* classifier.c -- heads on an encoder (see classifier.h). */
#include "models/classifier.h"
#include "models/resnet1d.h"

#include <string.h>

enum pk_status pk_head_parse(enum pk_head *out, const char *name, struct pk_err *err)
{
    if (!strcmp(name, "register_linear"))
        *out = PK_HEAD_REGISTER_LINEAR;
    else if (!strcmp(name, "mean_linear"))
        *out = PK_HEAD_MEAN_LINEAR;
    else if (!strcmp(name, "attentive"))
        *out = PK_HEAD_ATTENTIVE;
    else if (!strcmp(name, "concat_pool"))
        *out = PK_HEAD_CONCAT;
    else
        return pk_fail(err, PK_ERECIPE, "unknown head '%s'", name);
    return PK_OK;
}

static void config_regression(struct pk_classifier *c, const struct pk_recipe *r)
{
    const char *loss = pk_recipe_str(r, "objective.loss");
    c->regression.kind = !strcmp(loss, "huber") ? PK_REGRESSION_HUBER
                         : !strcmp(loss, "mae") ? PK_REGRESSION_ABSOLUTE
                                                : PK_REGRESSION_SQUARED;
    c->regression.delta = (float)pk_recipe_f64(r, "objective.delta");
}

static void config_loss(struct pk_classifier *c, const struct pk_recipe *r)
{
    const char *loss = pk_recipe_str(r, "objective.loss");
    const bool focal = !strcmp(loss, "focal"), asymmetric = !strcmp(loss, "asymmetric");
    const bool given = pk_recipe_count(r, "objective.gamma") == 2;
    struct pk_multilabel_spec *m = &c->multilabel;
    c->softmax = !strcmp(loss, "softmax");
    c->mixup = (float)pk_recipe_f64(r, "objective.mixup");
    m->smoothing = c->multiclass.smoothing = (float)pk_recipe_f64(r, "objective.smoothing");
    if (!focal && !asymmetric) return;
    m->gamma_positive = given ? (float)pk_recipe_item_f64(r, "objective.gamma", 0) : focal ? 2 : 0;
    m->gamma_negative = given ? (float)pk_recipe_item_f64(r, "objective.gamma", 1) : focal ? 2 : 4;
    if (focal) m->alpha = (float)pk_recipe_f64(r, "objective.alpha");
    if (asymmetric) m->margin = (float)pk_recipe_f64(r, "objective.margin");
}

enum pk_status pk_classifier_config_head(struct pk_classifier *out, const struct pk_recipe *r,
                                         const struct pk_batch_shape *shape, int32_t classes,
                                         struct pk_err *err)
{
    *out = (struct pk_classifier){.classes = classes, .signal = {.shape = *shape, .clip = 5}};
    out->encoder.vit.seed = (uint64_t)pk_recipe_i64(r, "seed");
    out->seed = (uint64_t)pk_recipe_i64(r, "seed");
    out->hidden = (int32_t)pk_recipe_i64(r, "objective.head.hidden");
    out->head_dropout = (float)pk_recipe_f64(r, "objective.head.dropout");
    out->augmented = pk_signal_ranges(out->range, r);
    out->regresses = !strcmp(pk_recipe_str(r, "objective.kind"), "regress");
    if (out->regresses)
        config_regression(out, r);
    else
        config_loss(out, r);
    return pk_head_parse(&out->head, pk_recipe_str(r, "objective.head.kind"), err);
}

enum pk_status pk_classifier_config(struct pk_classifier *out, const struct pk_recipe *r,
                                    const struct pk_batch_shape *shape, int32_t classes,
                                    struct pk_err *err)
{
    PK_TRY(pk_classifier_config_head(out, r, shape, classes, err));
    PK_TRY(pk_signal_config(&out->signal, r, shape, err));
    return pk_encoder_config(&out->encoder, r, &out->signal, err);
}

/* The tokens that are signal, without the register. */
static struct pk_val signal_tokens(struct pk_build *b, const struct pk_encoded *x,
                                   const struct pk_encoder *e)
{
    if (pk_encoder_convolves(e) || e->vit.tokenise != PK_TOKENISE_REGISTER) return x->tokens;
    return pk_slice_tokens(b, x->tokens, 1, (int32_t)pk_dim(b, x->tokens, 1) - 1);
}

static struct pk_val classify(struct pk_build *b, const struct pk_encoded *x, struct pk_val sample,
                              const struct pk_classifier *c, bool train)
{
    int64_t width = c->encoder.width;
    const struct pk_concat_head concat = {.hidden = c->hidden,
                                          .classes = c->classes,
                                          .dropout = c->head_dropout,
                                          .seed = c->seed,
                                          .he = pk_encoder_convolves(&c->encoder),
                                          .train = train};
    if (c->head == PK_HEAD_CONCAT)
        return pk_concat_head(b, signal_tokens(b, x, &c->encoder), sample, &concat);
    if (c->head == PK_HEAD_MEAN_LINEAR)
        return pk_linear_bias(b, pk_encoder_pool(b, x, &c->encoder), c->classes, "proj");
    if (c->head == PK_HEAD_REGISTER_LINEAR)
        return pk_linear_bias(b, pk_mean_pool(b, pk_slice_tokens(b, x->tokens, 0, 1), 0),
                              c->classes, "proj");
    struct pk_val query = pk_weight(b, "query", 1, &width, PK_INIT_TRUNC_NORMAL, false);
    query = pk_linear(b, query, width, "q");
    struct pk_val kv = pk_linear(b, x->tokens, 2 * width, "kv");
    return pk_linear(b, pk_attention_pool(b, query, kv, pk_encoder_heads(&c->encoder)), c->classes,
                     "proj");
}

enum pk_status pk_classifier_build(struct pk_prog *out, struct pk_params *params,
                                   const struct pk_classifier *c, int64_t records, bool train,
                                   struct pk_err *err)
{
    struct pk_build *b;
    PK_TRY(pk_build_begin(&b, out, params, err));
    const struct pk_augment_range *range = train && c->augmented ? c->range : NULL;
    struct pk_signal_in in = pk_signal_augmented(b, &c->signal, records, range, c->seed);
    const struct pk_mixup mixup = {.alpha = train ? c->mixup : 0, .seed = c->seed};
    in.patches = pk_mixup(b, in.patches, in.sample, &mixup);
    bool encoder_frozen = c->frozen || !train;
    if (encoder_frozen) pk_scope_frozen(b, true);
    pk_scope(b, "encoder");
    const struct pk_encoded x = pk_encode(b, &in, &c->signal, &c->encoder, train && !c->frozen);
    pk_scope_end(b);
    if (encoder_frozen) pk_scope_frozen(b, false);
    struct pk_val logit = PK_NONE;
    if (c->head != PK_HEAD_NONE) {
        if (!train) pk_scope_frozen(b, true);
        pk_scope(b, "head");
        logit = classify(b, &x, in.sample, c, train);
        pk_scope_end(b);
        if (!train) pk_scope_frozen(b, false);
        pk_output(b, logit, "logits");
    }
    if (!train) pk_output(b, pk_encoder_pool(b, &x, &c->encoder), "embedding");
    if (train && c->regresses) {
        struct pk_val target = pk_input(b, "target", PK_F32, 2, (int64_t[]){records, c->classes});
        pk_loss(b, pk_regression_loss(b, logit, target, &c->regression));
    } else if (train) {
        struct pk_val label = pk_input(b, "label", PK_U8, 2, (int64_t[]){records, c->classes});
        const struct pk_mixup of_labels = {
            .alpha = c->mixup, .single_label = c->softmax, .seed = c->seed};
        label = pk_mixup(b, label, in.sample, &of_labels);
        pk_loss(b, c->softmax ? pk_multiclass_loss(b, logit, label, &c->multiclass)
                              : pk_multilabel_loss(b, logit, label, &c->multilabel));
    }
    return pk_build_finish(b, err);
}
