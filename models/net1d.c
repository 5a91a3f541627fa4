/* net1d.c -- see net1d.h. */
#include "models/net1d.h"

struct pk_net1d pk_net1d_ecgfounder(bool train)
{
    return (struct pk_net1d){.stem = 64,
                             .width = {64, 160, 160, 400, 400, 1024, 1024},
                             .blocks = {2, 2, 2, 3, 3, 4, 4},
                             .kernel = 16,
                             .group = 16,
                             .squeeze = 2,
                             .train = train};
}

static struct pk_val convolve(struct pk_build *b, struct pk_val x, int32_t width, int32_t kernel,
                              int32_t stride, int32_t groups, const char *name)
{
    struct pk_conv1d conv = {
        .width = width, .kernel = kernel, .stride = stride, .groups = groups, .bias = true};
    pk_conv1d_same(pk_dim(b, x, 1), &conv);
    pk_scope(b, "%s", name);
    x = pk_conv1d(b, x, &conv, "conv");
    pk_scope_end(b);
    return x;
}

static struct pk_val activate(struct pk_build *b, struct pk_val x, const struct pk_net1d *a,
                              const char *name)
{
    const struct pk_batchnorm bn = {.eps = 1e-5f, .momentum = 0.1f, .gain = 1, .train = a->train};
    return pk_silu(b, a->norm ? pk_batchnorm(b, x, &bn, name) : x);
}

static struct pk_val excite(struct pk_build *b, struct pk_val x, const struct pk_net1d *a)
{
    const int32_t width = (int32_t)pk_dim(b, x, -1);
    struct pk_val gate = pk_linear_uniform(b, pk_mean_pool(b, x, 0), width / a->squeeze, "se_fc1");
    gate = pk_logistic(b, pk_linear_uniform(b, pk_silu(b, gate), width, "se_fc2"));
    return pk_channel_scale(b, x, gate);
}

static struct pk_val shortcut(struct pk_build *b, struct pk_val x, int32_t width, int32_t stride)
{
    const struct pk_pool1d halve = {
        .kernel = stride, .stride = stride, .right = stride - 1, .zeros = true};
    const int32_t more = width - (int32_t)pk_dim(b, x, -1);
    if (stride != 1) x = pk_max_pool1d(b, x, &halve);
    return pk_pad_channels(b, x, more / 2, more - more / 2);
}

struct place { // of a block
    int32_t width, stride;
    bool first; // of the network
    float drop_path;
};

static struct pk_val block(struct pk_build *b, struct pk_val x, struct pk_val sample,
                           const struct pk_net1d *a, struct place p)
{
    struct pk_val h = p.first ? x : activate(b, x, a, "bn1");
    h = activate(b, convolve(b, h, p.width, 1, 1, 1, "conv1"), a, "bn2");
    h = convolve(b, h, p.width, a->kernel, p.stride, p.width / a->group, "conv2");
    h = convolve(b, activate(b, h, a, "bn3"), p.width, 1, 1, 1, "conv3");
    h = pk_drop_path(b, excite(b, h, a), sample, p.drop_path, a->seed);
    return pk_add(b, h, shortcut(b, x, p.width, p.stride));
}

struct pk_val pk_net1d_encode(struct pk_build *b, struct pk_val x, struct pk_val sample,
                              const struct pk_net1d *a)
{
    int32_t blocks = 0, n = 0;
    for (int i = 0; i < PK_NET1D_STAGES; i++) blocks += a->blocks[i];
    x = convolve(b, x, a->stem, a->kernel, 2, 1, "first_conv");
    x = activate(b, x, a, "first_bn");
    for (int i = 0; i < PK_NET1D_STAGES; i++)
        for (int k = 0; k < a->blocks[i]; k++, n++) {
            const float drop = a->train ? a->drop_path * (float)n / (float)blocks : 0;
            const struct place p = {a->width[i], k ? 1 : 2, n == 0, drop};
            pk_scope(b, "stage_list.%d.block_list.%d", i, k);
            x = block(b, x, sample, a, p);
            pk_scope_end(b);
        }
    return x;
}
