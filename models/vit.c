/* vit.c -- vision transformer blocks and encoder (see vit.h). */
#include "models/vit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const tokenise_name[] = {"register", "time", "patch", "lead"};

const char *pk_tokenise_name(enum pk_tokenise t)
{
    return t < PK_TOKENISE_COUNT ? tokenise_name[t] : "unknown";
}

enum pk_tokenise pk_tokenise_named(const char *name)
{
    int t = 0;
    while (t < PK_TOKENISE_COUNT && strcmp(name, tokenise_name[t])) t++;
    return (enum pk_tokenise)t;
}

struct pk_vit pk_vit_config(const struct pk_recipe *r, int32_t tokens)
{
    struct pk_vit v = {.qkv_bias = pk_recipe_bool(r, "model.encoder.qkv_bias"),
                       .width = (int32_t)pk_recipe_i64(r, "model.encoder.width"),
                       .depth = (int32_t)pk_recipe_i64(r, "model.encoder.depth"),
                       .heads = (int32_t)pk_recipe_i64(r, "model.encoder.heads"),
                       .mlp_ratio = (int32_t)pk_recipe_i64(r, "model.encoder.mlp_ratio"),
                       .dropout = (float)pk_recipe_f64(r, "model.encoder.dropout"),
                       .drop_path = (float)pk_recipe_f64(r, "model.encoder.drop_path"),
                       .tokens = tokens,
                       .eps = 1e-6f,
                       .seed = (uint64_t)pk_recipe_i64(r, "seed")};
    v.residual_std = 0.02f / sqrtf(2.0f * (float)v.depth);
    return v;
}

double pk_vit_flops(const struct pk_vit *v, double tokens)
{
    double width = v->width, layer = (8 + 4 * v->mlp_ratio) * width * width;
    return v->depth * tokens * (layer + 4 * tokens * width);
}

/* The end of a branch: x + h, with what training drops of h. */
static struct pk_val join(struct pk_build *b, struct pk_val x, struct pk_val h,
                          struct pk_val sample, float drop_path, const struct pk_vit *v)
{
    h = pk_dropout(b, h, sample, v->dropout, v->seed);
    return pk_add(b, x, pk_drop_path(b, h, sample, drop_path, v->seed));
}

static struct pk_val block(struct pk_build *b, struct pk_val x, struct pk_val sample,
                           float drop_path, const struct pk_vit *v)
{
    struct pk_val h = pk_layernorm(b, x, v->eps, "norm1");
    h = v->qkv_bias ? pk_linear_bias(b, h, 3 * (int64_t)v->width, "attn.qkv") // [B, T, 3C]
                    : pk_linear(b, h, 3 * (int64_t)v->width, "attn.qkv");
    h = pk_attention(b, h, v->heads); // [B, T, C]
    pk_init_std(b, v->residual_std);
    h = pk_linear(b, h, v->width, "attn.proj");
    pk_init_std(b, 0.02f);
    x = join(b, x, h, sample, drop_path, v);
    h = pk_layernorm(b, x, v->eps, "norm2");
    h = pk_gelu(b, pk_linear(b, h, (int64_t)v->mlp_ratio * v->width, "mlp.fc1"));
    h = pk_dropout(b, h, sample, v->dropout, v->seed);
    pk_init_std(b, v->residual_std);
    h = pk_linear(b, h, v->width, "mlp.fc2");
    pk_init_std(b, 0.02f);
    return join(b, x, h, sample, drop_path, v);
}

struct pk_val pk_vit_blocks(struct pk_build *b, struct pk_val x, struct pk_val sample,
                            const struct pk_vit *v)
{
    for (int32_t i = 0; i < v->depth; i++) {
        pk_scope(b, "blocks.%d", i);
        const float drop_path = i ? v->drop_path * (float)i / (float)(v->depth - 1) : 0;
        x = block(b, x, sample, drop_path, v);
        pk_scope_end(b);
    }
    return pk_layernorm(b, x, v->eps, "norm");
}

struct pk_val pk_vit_positions(struct pk_build *b, int32_t tokens, int32_t width, bool separators)
{
    const int32_t rows = tokens + (separators ? 2 : 0);
    float *table = NULL;
    struct pk_val out = PK_NONE;
    if (width % 2) {
        pk_build_fail(b, PK_ESHAPE, "sine-cosine positions need an even width, not %d", width);
        return out;
    }
    if (pk_alloc(&table, (size_t)rows * (size_t)width, sizeof *table, "positions", NULL) != PK_OK) {
        pk_build_fail(b, PK_ENOMEM, "out of memory: position table");
        return out;
    }
    for (int32_t t = 0; t < rows; t++)
        for (int32_t c = 0; c < width; c += 2) {
            const int32_t at = !separators ? t : t < tokens ? t + 1 : t == tokens ? 0 : t;
            double angle = at * exp(-log(10000.0) * c / width);
            table[(size_t)t * (size_t)width + (size_t)c] = (float)sin(angle);
            table[(size_t)t * (size_t)width + (size_t)c + 1] = (float)cos(angle);
        }
    out = pk_constant(b, 2, (int64_t[]){rows, width}, table);
    free(table);
    return out;
}

struct pk_val pk_vit_encode(struct pk_build *b, struct pk_val patches, struct pk_val index,
                            struct pk_val sample, const struct pk_vit *v)
{
    int64_t width = v->width;
    struct pk_val x = pk_linear(b, patches, width, "patch_embed");
    x = pk_add_position(b, x, pk_vit_positions(b, v->tokens, v->width, false), index);
    struct pk_val reg = pk_weight(b, "register", 1, &width, PK_INIT_TRUNC_NORMAL, false);
    x = pk_prepend_token(b, reg, x);
    return pk_vit_blocks(b, x, sample, v);
}
