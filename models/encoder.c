/* encoder.c -- the families of encoders (see encoder.h). */
#include "models/encoder.h"
#include "models/efficientnet1d.h"
#include "models/net1d.h"
#include "models/resnet1d.h"
#include "models/xresnet1d.h"

#include <stdio.h>
#include <string.h>

/* A convolutional family. Its signal is [B, T, leads], one token for each sample. */
struct family {
    const char *name, *title;
    int32_t channels;  // of the blocks as published; 0: they differ and cannot be chosen
    int32_t expansion; // channels out for each of the blocks; without choice: all of them
    struct pk_val (*encode)(struct pk_build *b, const struct pk_signal_in *in,
                            const struct pk_encoder *e, bool train);
};

static struct pk_val resnet1d_wang(struct pk_build *b, const struct pk_signal_in *in,
                                   const struct pk_encoder *e, bool train)
{
    struct pk_resnet1d a = pk_resnet1d_wang(train);
    a.width = e->channels;
    return pk_resnet1d_encode(b, in->patches, &a);
}

static struct pk_val xresnet1d50(struct pk_build *b, const struct pk_signal_in *in,
                                 const struct pk_encoder *e, bool train)
{
    struct pk_xresnet1d a = pk_xresnet1d50(train);
    a.width = e->channels;
    return pk_xresnet1d_encode(b, in->patches, &a);
}

static struct pk_val xresnet1d101(struct pk_build *b, const struct pk_signal_in *in,
                                  const struct pk_encoder *e, bool train)
{
    struct pk_xresnet1d a = pk_xresnet1d101(train);
    a.width = e->channels;
    return pk_xresnet1d_encode(b, in->patches, &a);
}

static struct pk_val efficientnet1d(struct pk_build *b, const struct pk_signal_in *in,
                                    const struct pk_encoder *e, bool train)
{
    struct pk_efficientnet1d a = pk_efficientnet1d_b0(train);
    a.seed = e->vit.seed;
    a.drop_path = e->vit.drop_path;
    return pk_efficientnet1d_encode(b, in->patches, in->sample, &a);
}

static struct pk_val net1d(struct pk_build *b, const struct pk_signal_in *in,
                           const struct pk_encoder *e, bool train)
{
    struct pk_net1d a = pk_net1d_ecgfounder(train);
    a.seed = e->vit.seed;
    a.drop_path = e->vit.drop_path;
    return pk_net1d_encode(b, in->patches, in->sample, &a);
}

static const struct family families[PK_ENCODER_KINDS] = {
    [PK_ENCODER_VIT] = {"vit", "ViT", 0, 0, NULL},
    [PK_ENCODER_RESNET1D_WANG] = {"resnet1d_wang", "ResNet1d (wang)", 128, 1, resnet1d_wang},
    [PK_ENCODER_XRESNET1D50] = {"xresnet1d50", "xresnet1d50", 64, 4, xresnet1d50},
    [PK_ENCODER_XRESNET1D101] = {"xresnet1d101", "xresnet1d101", 64, 4, xresnet1d101},
    [PK_ENCODER_EFFICIENTNET1D] = {"efficientnet1d", "EfficientNet-1D", 0, 256, efficientnet1d},
    [PK_ENCODER_NET1D] = {"net1d", "Net1D (ECGFounder)", 0, 1024, net1d}};

const char *pk_encoder_name(enum pk_encoder_kind kind)
{
    return families[kind].name;
}

enum pk_encoder_kind pk_encoder_named(const char *name)
{
    int k = 0;
    while (k < PK_ENCODER_KINDS && strcmp(families[k].name, name)) k++;
    return (enum pk_encoder_kind)k;
}

struct pk_encoder pk_encoder_of_vit(const struct pk_vit *v)
{
    return (struct pk_encoder){.kind = PK_ENCODER_VIT, .width = v->width, .vit = *v};
}

enum pk_status pk_encoder_convolution(struct pk_encoder *out, enum pk_encoder_kind kind,
                                      int32_t channels, struct pk_err *err)
{
    const struct family *f = &families[kind];
    *out = (struct pk_encoder){.kind = kind, .width = f->expansion};
    if (!f->channels && channels)
        return pk_fail(err, PK_EINVAL,
                       "the encoder %s has the channels that were published, none can be chosen",
                       f->name);
    out->channels = channels ? channels : f->channels;
    if (f->channels) out->width = out->channels * f->expansion;
    return PK_OK;
}

float pk_encoder_drop_path(const struct pk_recipe *r, enum pk_encoder_kind kind)
{
    if (pk_recipe_given(r, "model.encoder.drop_path"))
        return (float)pk_recipe_f64(r, "model.encoder.drop_path");
    return kind == PK_ENCODER_EFFICIENTNET1D ? pk_efficientnet1d_b0(true).drop_path : 0;
}

enum pk_status pk_encoder_config(struct pk_encoder *out, const struct pk_recipe *r,
                                 const struct pk_signal *s, struct pk_err *err)
{
    const char *name = pk_recipe_str(r, "model.encoder.kind");
    enum pk_encoder_kind kind = pk_encoder_named(name);
    if (kind == PK_ENCODER_KINDS)
        return pk_fail(err, PK_EINTERNAL, "an encoder of the kind '%s'", name);
    if (kind == PK_ENCODER_VIT) {
        struct pk_vit v = pk_vit_config(r, s->tokens);
        *out = pk_encoder_of_vit(&v);
        return PK_OK;
    }
    enum pk_status e =
        pk_encoder_convolution(out, kind, (int32_t)pk_recipe_i64(r, "model.encoder.channels"), err);
    out->vit.seed = (uint64_t)pk_recipe_i64(r, "seed");
    out->vit.drop_path = pk_encoder_drop_path(r, kind);
    if (e != PK_OK) pk_err_context(err, "%s", pk_recipe_origin(r, "model.encoder.channels"));
    return e;
}

struct pk_encoded pk_encode(struct pk_build *b, const struct pk_signal_in *in,
                            const struct pk_signal *s, const struct pk_encoder *e, bool train)
{
    struct pk_encoded out = {PK_NONE, PK_NONE};
    if (pk_encoder_convolves(e)) {
        out.tokens = families[e->kind].encode(b, in, e, train);
    } else if (e->vit.tokenise == PK_TOKENISE_REGISTER) {
        out.tokens = pk_vit_encode(b, in->patches, PK_NONE, in->sample, &e->vit);
    } else {
        if (e->vit.tokenise == PK_TOKENISE_PATCH)
            out.present = pk_lead_present(b, in->gain, s->leads, s->lead);
        out.tokens = pk_mae_encode(b, in->patches, PK_NONE, out.present, in->sample, s, &e->vit);
    }
    return out;
}

struct pk_val pk_encoder_pool(struct pk_build *b, const struct pk_encoded *x,
                              const struct pk_encoder *e)
{
    if (pk_encoder_convolves(e)) return pk_mean_pool(b, x->tokens, 0);
    if (e->vit.tokenise == PK_TOKENISE_REGISTER) return pk_mean_pool(b, x->tokens, 1);
    return pk_mae_pool(b, x->tokens, x->present, &e->vit);
}

int32_t pk_encoder_heads(const struct pk_encoder *e)
{
    if (!pk_encoder_convolves(e)) return e->vit.heads;
    return e->width % 64 ? 1 : e->width / 64;
}

void pk_encoder_describe(const struct pk_encoder *e, char out[96])
{
    if (pk_encoder_convolves(e))
        snprintf(out, 96, "%s, %d features", families[e->kind].title, e->width);
    else
        snprintf(out, 96, "ViT %d wide, %d deep, %d heads", e->vit.width, e->vit.depth,
                 e->vit.heads);
}
