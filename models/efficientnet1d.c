/* efficientnet1d.c -- see efficientnet1d.h. */
#include "models/efficientnet1d.h"

#include <math.h>

struct pk_efficientnet1d pk_efficientnet1d_b0(bool train)
{
    return (struct pk_efficientnet1d){.stem = 32,
                                      .stage = {{1, 16, 1, 1, 3},
                                                {6, 24, 2, 2, 3},
                                                {6, 40, 2, 2, 5},
                                                {6, 80, 3, 2, 3},
                                                {6, 112, 3, 1, 5},
                                                {6, 192, 4, 2, 5},
                                                {6, 320, 1, 1, 3}},
                                      .features = 256,
                                      .drop_path = 0.2f,
                                      .train = train};
}

struct layer {
    int32_t width, kernel, stride;
    bool depthwise, active;
};

/* Convolution, norm and SiLU, as the reference code initialises them: by the fan out. */
static struct pk_val layer(struct pk_build *b, struct pk_val x, struct layer l, bool train,
                           const char *name)
{
    const struct pk_conv1d conv = {.width = l.width,
                                   .kernel = l.kernel,
                                   .stride = l.stride,
                                   .left = (l.kernel - 1) / 2,
                                   .right = (l.kernel - 1) / 2,
                                   .groups = l.depthwise ? l.width : 1,
                                   .init = PK_CONV1D_HE_OUT};
    const struct pk_batchnorm bn = {.eps = 1e-5f, .momentum = 0.1f, .gain = 1, .train = train};
    pk_scope(b, "%s", name);
    x = pk_batchnorm(b, pk_conv1d(b, x, &conv, "0"), &bn, "1");
    pk_scope_end(b);
    return l.active ? pk_silu(b, x) : x;
}

static struct pk_val dense(struct pk_build *b, struct pk_val x, int32_t width, const char *name)
{
    pk_init_std(b, sqrtf(2 / (float)width));
    x = pk_linear_bias(b, x, width, name);
    pk_init_std(b, 0.02f);
    return x;
}

struct place { // of a block
    int32_t stride;
    float drop_path;
};

static struct pk_val block(struct pk_build *b, struct pk_val x, struct pk_val sample,
                           const struct pk_efficientnet1d *a,
                           const struct pk_efficientnet1d_stage *s, struct place p)
{
    const bool train = a->train;
    const int32_t before = (int32_t)pk_dim(b, x, -1), inner = before * s->expand;
    const int32_t squeezed = before / 4 > 0 ? before / 4 : 1;
    struct pk_val h = x;
    if (s->expand > 1) h = layer(b, h, (struct layer){inner, 1, 1, false, true}, train, "expand");
    h = layer(b, h, (struct layer){inner, s->kernel, p.stride, true, true}, train, "depthwise");
    struct pk_val gate = pk_silu(b, dense(b, pk_mean_pool(b, h, 0), squeezed, "se.fc1"));
    gate = pk_logistic(b, dense(b, gate, inner, "se.fc2"));
    h = pk_channel_scale(b, h, gate);
    h = layer(b, h, (struct layer){s->width, 1, 1, false, false}, train, "project");
    if (p.stride != 1 || before != s->width) return h;
    return pk_add(b, pk_drop_path(b, h, sample, p.drop_path, a->seed), x);
}

struct pk_val pk_efficientnet1d_encode(struct pk_build *b, struct pk_val x, struct pk_val sample,
                                       const struct pk_efficientnet1d *a)
{
    int32_t blocks = 0, n = 0;
    for (int i = 0; i < PK_EFFICIENTNET1D_STAGES; i++) blocks += a->stage[i].repeats;
    x = layer(b, x, (struct layer){a->stem, 3, 2, false, true}, a->train, "stem");
    for (int i = 0; i < PK_EFFICIENTNET1D_STAGES; i++)
        for (int k = 0; k < a->stage[i].repeats; k++, n++) {
            const float drop = a->train ? a->drop_path * (float)n / (float)blocks : 0;
            const struct place p = {k ? 1 : a->stage[i].stride, drop};
            pk_scope(b, "blocks.%d", n);
            x = block(b, x, sample, a, &a->stage[i], p);
            pk_scope_end(b);
        }
    return layer(b, x, (struct layer){a->features, 1, 1, false, true}, a->train, "final");
}
