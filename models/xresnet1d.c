/* xresnet1d.c -- see xresnet1d.h. */
#include "models/xresnet1d.h"

struct pk_xresnet1d pk_xresnet1d50(bool train)
{
    return (struct pk_xresnet1d){.stem = {32, 32, 64},
                                 .width = 64,
                                 .expansion = 4,
                                 .layers = {3, 4, 6, 3},
                                 .kernel = 5,
                                 .train = train};
}

struct pk_xresnet1d pk_xresnet1d101(bool train)
{
    struct pk_xresnet1d a = pk_xresnet1d50(train);
    a.layers[2] = 23;
    return a;
}

struct layer {
    int32_t width, kernel, stride;
    float gain; // of the norm, at the start
};

/* Convolution and norm: numbers 0 and 1 of the layer's own Sequential. */
static struct pk_val layer(struct pk_build *b, struct pk_val x, struct layer l, bool train,
                           const char *name)
{
    const struct pk_conv1d conv = {.width = l.width,
                                   .kernel = l.kernel,
                                   .stride = l.stride,
                                   .left = (l.kernel - 1) / 2,
                                   .right = (l.kernel - 1) / 2,
                                   .init = PK_CONV1D_HE};
    const struct pk_batchnorm bn = {.eps = 1e-5f, .momentum = 0.1f, .gain = l.gain, .train = train};
    pk_scope(b, "%s", name);
    x = pk_batchnorm(b, pk_conv1d(b, x, &conv, "0"), &bn, "1");
    pk_scope_end(b);
    return x;
}

static struct pk_val shortcut(struct pk_build *b, struct pk_val x, int32_t width, int32_t stride,
                              bool train)
{
    const int32_t odd = (int32_t)(pk_dim(b, x, 1) % 2);
    const struct pk_pool1d halve = {.kernel = 2, .stride = 2, .right = odd};
    const bool widens = pk_dim(b, x, -1) != width;
    if (stride != 1) x = pk_mean_pool1d(b, x, &halve);
    if (!widens) return x;
    return layer(b, x, (struct layer){width, 1, 1, 1}, train,
                 stride != 1 ? "idpath.1" : "idpath.0");
}

static struct pk_val block(struct pk_build *b, struct pk_val x, const struct pk_xresnet1d *a,
                           int32_t stride)
{
    const int32_t inner = a->width, outer = a->width * a->expansion;
    struct pk_val h = x;
    if (a->expansion == 1) {
        h = pk_relu(b,
                    layer(b, h, (struct layer){inner, a->kernel, stride, 1}, a->train, "convs.0"));
        h = layer(b, h, (struct layer){outer, a->kernel, 1, 0}, a->train, "convs.1");
    } else {
        h = pk_relu(b, layer(b, h, (struct layer){inner, 1, 1, 1}, a->train, "convs.0"));
        h = pk_relu(b,
                    layer(b, h, (struct layer){inner, a->kernel, stride, 1}, a->train, "convs.1"));
        h = layer(b, h, (struct layer){outer, 1, 1, 0}, a->train, "convs.2");
    }
    return pk_relu(b, pk_add(b, h, shortcut(b, x, outer, stride, a->train)));
}

struct pk_val pk_xresnet1d_encode(struct pk_build *b, struct pk_val x, const struct pk_xresnet1d *a)
{
    static const char *const stem[] = {"0", "1", "2"};
    const struct pk_pool1d pool = {.kernel = 3, .stride = 2, .left = 1, .right = 1}; // number 3
    enum { FIRST = 4 };
    for (int i = 0; i < 3; i++) {
        const struct layer l = {a->stem[i], a->kernel, i ? 1 : 2, 1};
        x = pk_relu(b, layer(b, x, l, a->train, stem[i]));
    }
    x = pk_max_pool1d(b, x, &pool);
    for (int i = 0; i < PK_XRESNET1D_STAGES; i++)
        for (int k = 0; k < a->layers[i]; k++) {
            pk_scope(b, "%d.%d", FIRST + i, k);
            x = block(b, x, a, i && !k ? 2 : 1);
            pk_scope_end(b);
        }
    return x;
}
