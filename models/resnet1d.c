/* resnet1d.c -- resnet1d_wang and the concat-pool head (see resnet1d.h). */
#include "models/resnet1d.h"

#include <math.h>

struct pk_resnet1d pk_resnet1d_wang(bool train)
{
    return (struct pk_resnet1d){
        .width = 128, .blocks = 3, .stem_kernel = 7, .kernel = {5, 3}, .train = train};
}

static struct pk_val convolve(struct pk_build *b, struct pk_val x, const struct pk_resnet1d *a,
                              int32_t kernel, int32_t stride, const char *name)
{
    const struct pk_conv1d conv = {.width = a->width,
                                   .kernel = kernel,
                                   .stride = stride,
                                   .left = (kernel - 1) / 2,
                                   .right = (kernel - 1) / 2};
    return pk_conv1d(b, x, &conv, name);
}

static struct pk_val norm(struct pk_build *b, struct pk_val x, bool train, const char *name)
{
    const struct pk_batchnorm bn = {.eps = 1e-5f, .momentum = 0.1f, .gain = 1, .train = train};
    return pk_batchnorm(b, x, &bn, name);
}

static struct pk_val block(struct pk_build *b, struct pk_val x, const struct pk_resnet1d *a,
                           int32_t stride)
{
    struct pk_val h = convolve(b, x, a, a->kernel[0], stride, "conv1");
    h = pk_relu(b, norm(b, h, a->train, "bn1"));
    h = norm(b, convolve(b, h, a, a->kernel[1], 1, "conv2"), a->train, "bn2");
    if (stride != 1) {
        x = convolve(b, x, a, 1, stride, "downsample.0");
        x = norm(b, x, a->train, "downsample.1");
    }
    return pk_relu(b, pk_add(b, h, x));
}

struct pk_val pk_resnet1d_encode(struct pk_build *b, struct pk_val x, const struct pk_resnet1d *a)
{
    enum { STEM = 3 }; // convolution, norm and ReLU come before the blocks
    x = convolve(b, x, a, a->stem_kernel, 1, "0");
    x = pk_relu(b, norm(b, x, a->train, "1"));
    for (int i = 0; i < a->blocks; i++) {
        pk_scope(b, "%d.0", STEM + i);
        x = block(b, x, a, i ? 2 : 1);
        pk_scope_end(b);
    }
    return x;
}

static struct pk_val layer(struct pk_build *b, struct pk_val x, int32_t width, bool he,
                           const char *name)
{
    if (!he) return pk_linear_uniform(b, x, width, name);
    pk_init_std(b, sqrtf(2 / (float)pk_dim(b, x, -1)));
    x = pk_linear_bias(b, x, width, name);
    pk_init_std(b, 0.02f);
    return x;
}

/* Numbers are places in fastai's Sequential: 0 the pool, 1 its flattening. */
struct pk_val pk_concat_head(struct pk_build *b, struct pk_val x, struct pk_val sample,
                             const struct pk_concat_head *a)
{
    const float drop = a->train ? a->dropout : 0;
    x = norm(b, pk_concat_pool(b, x), a->train, "2");
    if (a->hidden) {
        x = pk_dropout(b, x, sample, drop / 2, a->seed);
        x = pk_relu(b, layer(b, x, a->hidden, a->he, "4"));
        x = norm(b, x, a->train, "6");
    }
    x = pk_dropout(b, x, sample, drop, a->seed);
    return layer(b, x, a->classes, a->he, a->hidden ? "8" : "4");
}
