/* test_grad.c -- differentiation held against finite differences, on programs made to be ugly: real
 * models are too well-behaved to test a differentiator.
 *
 * The differences are taken in double by the naive interpreter (ref_interp.h). Along a random
 * direction of every parameter |D(h) - gradient| must fall like h^2 until float rounding; single
 * elements are compared with the extrapolated difference. */
#include "core/exec.h"
#include "models/classifier.h"
#include "models/jepa.h"
#include "tests/core/ref_interp.h"
#include "tests/model/case.h"

enum { B = 3, T = 7, C = 8, KEEP = 3, HEADS = 2 };

struct in { // inputs of the ugly programs; some programs leave some unused
    struct pk_val x, y, kept, hidden, sample, label, partial, soft, far, gain, group, segment;
    int turn; // which of several orders
};

static struct {
    float x[B][T][C], y[B][T][C];
    float far[B][C]; // +-10, so that an L1 loss against it has no kink nearby
    int32_t kept[B][KEEP], hidden[B][T - KEEP];
    int64_t sample[B];
    uint8_t label[B][CLASSES], partial[B][CLASSES]; // the second with some not known
    float soft[B][CLASSES];                         // shares of classes, the last row not known
    float gain[4];        // of one record, whose leads are the rows of x; the second is absent
    int64_t group[B * T]; // of tokens: 1 to 4 of a group, one alone
    int64_t segment[B];   // of records: keys of them
} data;

static void make_data(void)
{
    struct pk_rng r = pk_rng_make(21, PK_RNG_TEST, 0, 0);
    data.gain[0] = data.gain[2] = data.gain[3] = 0.5f;
    for (int b = 0; b < B; b++) {
        data.sample[b] = 100 + 7 * b;
        for (int t = 0; t < T; t++)
            for (int c = 0; c < C; c++) {
                data.x[b][t][c] = (float)pk_rng_normal(&r);
                data.y[b][t][c] = (float)pk_rng_normal(&r);
            }
        for (int c = 0; c < C; c++) data.far[b][c] = pk_rng_below(&r, 2) ? 10 : -10;
        pk_mask_sample(3, (uint64_t)b, T, KEEP, 2, data.kept[b], data.hidden[b]);
        data.label[b][pk_rng_below(&r, CLASSES)] = 1;
        data.segment[b] = 3 - b;
        for (int k = 0; k < CLASSES; k++) {
            data.partial[b][k] = (b + k) % 4 == 3 ? PK_LABEL_MISSING : (b + k) % 2 != 0;
            data.soft[b][k] =
                b == B - 1 ? (float)NAN : (float)(k + 1) * 2 / (CLASSES * (CLASSES + 1));
        }
    }
    for (int i = 1; i < B * T; i++) data.group[i] = 1 + i % 6; // token 0 is a group of its own
}

static const struct pk_feed feeds[] = {{"x", data.x, 0},
                                       {"y", data.y, 0},
                                       {"kept", data.kept, 0},
                                       {"far", data.far, 0},
                                       {"hidden", data.hidden, 0},
                                       {"sample", data.sample, 0},
                                       {"label", data.label, 0},
                                       {"gain", data.gain, 0},
                                       {"group", data.group, 0},
                                       {"segment", data.segment, 0},
                                       {"partial", data.partial, 0},
                                       {"soft", data.soft, 0}};

/* Building blocks. */
static struct pk_val pool(struct pk_build *b, struct pk_val h) // [B, T, C] -> [B, C]
{
    return pk_mean_pool(b, h, 0);
}

static void finish(struct pk_build *b, struct in *in, struct pk_val h)
{
    pk_loss(b, pk_bce_loss(b, pk_linear_bias(b, pool(b, h), CLASSES, "out"), in->label));
}

static struct pk_val param(struct pk_build *b, const char *name, int64_t n)
{
    return pk_weight(b, name, 1, &n, PK_INIT_TRUNC_NORMAL, false);
}

static struct pk_val table(struct pk_build *b)
{
    float v[T * C];
    for (int i = 0; i < T * C; i++) v[i] = (float)sin(i);
    return pk_constant(b, 2, (int64_t[]){T, C}, v);
}

static struct pk_val block(struct pk_build *b, struct pk_val x, int i)
{
    pk_scope(b, "block%d", i);
    struct pk_val h = pk_layernorm(b, x, 1e-6f, "norm1");
    h = pk_linear(b, pk_attention(b, pk_linear(b, h, 3 * C, "qkv"), HEADS), C, "proj");
    x = pk_add(b, x, h);
    h = pk_gelu(b, pk_linear_bias(b, pk_layernorm(b, x, 1e-6f, "norm2"), 2 * C, "fc1"));
    x = pk_add(b, x, pk_linear(b, h, C, "fc2"));
    pk_scope_end(b);
    return x;
}

/* The ugly programs. */
static void used_four_times(struct pk_build *b, struct in *in)
{
    struct pk_val x = pk_linear(b, in->x, C, "a");
    struct pk_val h = pk_add(b, pk_add(b, x, pk_gelu(b, x)), x);
    finish(b, in, pk_add(b, h, pk_layernorm(b, x, 1e-6f, "n")));
}

static void same_operand(struct pk_build *b, struct in *in)
{
    struct pk_val x = pk_gelu(b, pk_linear(b, in->x, C, "a"));
    struct pk_val twice = pk_add(b, x, x);
    finish(b, in, pk_add(b, pk_add(b, twice, twice), pk_add(b, x, twice)));
}

static void two_towers(struct pk_build *b, struct in *in)
{
    struct pk_val z[2], loss[2];
    for (int i = 0; i < 2; i++) {
        pk_scope(b, "tower");
        z[i] = block(b, pk_linear(b, i ? in->y : in->x, C, "embed"), 0);
        z[i] = pk_linear_bias(b, pool(b, z[i]), CLASSES, "out");
        pk_scope_end(b);
        loss[i] = i ? pk_softmax_loss(b, z[i], in->label) : pk_bce_loss(b, z[i], in->label);
    }
    pk_loss(b, pk_add(b, loss[0], loss[1]));
}

static void dead_branches(struct pk_build *b, struct in *in)
{
    struct pk_val x = pk_linear(b, in->x, C, "a");
    struct pk_val dead = pk_linear(b, pk_gelu(b, x), C, "dead");
    dead = pk_add(b, dead, x);
    finish(b, in, pk_gelu(b, x));
    pk_layernorm(b, pk_add(b, dead, dead), 1e-6f, "dead_too");
}

static void residual_chain(struct pk_build *b, struct in *in)
{
    struct pk_val x = pk_linear(b, in->x, C, "a");
    for (int i = 0; i < 3; i++) x = block(b, x, i);
    finish(b, in, pk_layernorm(b, x, 1e-6f, "norm"));
}

/* x and h both alias the gradient of x + h, and are used again in every order around it. */
static void alias_then_use(struct pk_build *b, struct in *in)
{
    struct pk_val x = pk_linear(b, in->x, C, "a"), h = pk_gelu(b, x), early = PK_NONE;
    if (in->turn & 1) early = pk_gelu(b, pk_linear(b, h, C, "early"));
    struct pk_val z = pk_add(b, x, h);
    if (in->turn & 2) z = pk_add(b, z, x);
    if (in->turn & 4) z = pk_add(b, h, z);
    struct pk_val late = pk_layernorm(b, in->turn & 8 ? x : h, 1e-6f, "late");
    z = pk_add(b, z, late);
    if (in->turn & 1) z = pk_add(b, early, z);
    if (in->turn & 16) z = pk_add(b, z, pk_gelu(b, pk_add(b, x, h)));
    finish(b, in, z);
}

/* An alias of an alias: positions and sums pass one buffer down to values used elsewhere. */
static void alias_chain(struct pk_build *b, struct in *in)
{
    struct pk_val x = pk_linear(b, in->x, C, "a"), y = pk_linear(b, in->y, C, "b");
    struct pk_val p = pk_add_position(b, x, table(b), PK_NONE);
    struct pk_val s = pk_add(b, p, y), t = pk_add(b, s, pk_gelu(b, in->turn & 1 ? s : p));
    struct pk_val u = pk_add(b, t, in->turn & 2 ? y : x);
    finish(b, in, pk_add(b, u, pk_add(b, pk_gelu(b, y), pk_add(b, s, x))));
}

/* The gradient of a GELU's output is a sum: its first term must not be fused with the GELU. */
static void gelu_twice(struct pk_build *b, struct in *in)
{
    struct pk_val h = pk_gelu(b, pk_linear(b, in->x, C, "a"));
    struct pk_val u = pk_linear(b, h, C, "u");
    struct pk_val v = in->turn & 1 ? pk_linear(b, h, C, "u") : pk_linear(b, h, C, "v");
    finish(b, in, pk_add(b, u, pk_gelu(b, v)));
}

static struct pk_val consume(struct pk_build *b, struct in *in, struct pk_val x, int how)
{
    switch (how) {
    case 0:
        return pool(b, pk_gelu(b, x));
    case 1:
        return pk_mean_pool(b, pk_layernorm(b, x, 1e-6f, "norm"), 2);
    case 2:
        return pool(b, pk_attention(b, pk_linear(b, x, 3 * C, "qkv"), HEADS));
    case 3:
        return pool(b, pk_gelu(b, pk_gather_tokens(b, x, in->kept)));
    case 4:
        return pool(b, pk_gelu(b, pk_slice_tokens(b, x, 2, 3)));
    case 5:
        return pk_mean_pool(b, x, 1);
    case 6:
        x = pk_prepend_token(b, param(b, "token", C), x);
        return pool(b, pk_layernorm(b, x, 1e-6f, "norm"));
    case 7:
        x = pk_gather_tokens(b, x, in->kept);
        x = pk_assemble_tokens(b, x, param(b, "token", C), table(b), in->kept, in->hidden);
        return pool(b, pk_gelu(b, x));
    case 8:
        return pool(b, pk_gelu(b, pk_dropout(b, x, in->sample, 0.4f, 77)));
    case 9:
        return pool(b, pk_gelu(b, pk_linear(b, x, C, "fc")));
    case 10:
        return pool(b, pk_gelu(b, pk_add_position(b, x, table(b), PK_NONE)));
    case 11:
        return pool(b, pk_add(b, x, pk_gelu(b, x)));
    case 12:
        return pk_attention_pool(b, pk_linear(b, param(b, "query", C), C, "q"),
                                 pk_linear(b, x, 2 * C, "kv"), HEADS);
    default:
        return pool(b, pk_linear_bias(b, x, C, "fc"));
    }
}

/* Every op reads one value; the turn decides which of them assigns its gradient. */
static void consumers(struct pk_build *b, struct in *in)
{
    enum { KINDS = 14 };
    struct pk_val x = pk_layernorm(b, pk_linear(b, in->x, C, "a"), 1e-6f, "n"), sum = PK_NONE;
    for (int i = 0; i < KINDS; i++) {
        int how = (i + in->turn) % KINDS;
        pk_scope(b, "c%d", how);
        struct pk_val h = consume(b, in, x, how);
        pk_scope_end(b);
        sum = i ? pk_add(b, sum, h) : h;
    }
    pk_loss(b, pk_bce_loss(b, pk_linear_bias(b, sum, CLASSES, "out"), in->label));
}

/* Gradients of packed queries, keys, values, of contexts and of logits accumulate as well. */
static void packed_twice(struct pk_build *b, struct in *in)
{
    struct pk_val qkv = pk_linear(b, in->x, 3 * C, "qkv"), h[3];
    h[in->turn % 3] = pk_attention(b, qkv, HEADS);
    h[(in->turn + 1) % 3] = pk_attention(b, qkv, 1);
    h[(in->turn + 2) % 3] = pk_linear(b, pk_gelu(b, qkv), C, "g");
    struct pk_val kv = pk_linear(b, pk_add(b, pk_add(b, h[0], h[1]), h[2]), 2 * C, "kv");
    struct pk_val q = param(b, "query", C);
    q = pk_add(b, q, q);
    struct pk_val u = pk_attention_pool(b, q, kv, HEADS), v = pk_attention_pool(b, q, kv, 1);
    struct pk_val w = pk_linear(b, pool(b, pk_gelu(b, kv)), C, "w");
    u = pk_add(b, pk_add(b, u, v), w);
    pk_loss(b, pk_bce_loss(b, pk_linear_bias(b, u, CLASSES, "out"), in->label));
}

static void context_twice(struct pk_build *b, struct in *in)
{
    struct pk_val x = pk_linear(b, in->x, C, "a"), token = param(b, "token", C);
    struct pk_val c = pk_gather_tokens(b, x, in->kept);
    struct pk_val u = pk_assemble_tokens(b, c, token, table(b), in->kept, in->hidden);
    struct pk_val v = pk_assemble_tokens(b, c, token, table(b), in->kept, in->hidden);
    struct pk_val w = pk_prepend_token(b, token, pk_prepend_token(b, token, c));
    struct pk_val s = pk_gather_tokens(b, x, in->hidden);
    struct pk_val p = pk_add(b, pool(b, pk_gelu(b, u)), pool(b, block(b, v, 0)));
    p = pk_add(b, p, pk_add(b, pool(b, pk_gelu(b, s)), pool(b, block(b, w, 1))));
    pk_loss(b, pk_bce_loss(b, pk_linear_bias(b, p, CLASSES, "out"), in->label));
}

/* Several losses of one prediction, added up in two orders. */
static void loss_sums(struct pk_build *b, struct in *in)
{
    struct pk_val h = pool(b, pk_linear(b, in->x, C, "a"));
    struct pk_val z = pk_linear_bias(b, h, CLASSES, "out"), l[4];
    l[in->turn & 3] = pk_bce_loss(b, z, in->label);
    l[(in->turn + 1) & 3] = pk_softmax_loss(b, z, in->label);
    l[(in->turn + 2) & 3] = pk_l1_loss(b, h, in->far);
    l[(in->turn + 3) & 3] = pk_softmax_loss(b, pk_gelu(b, z), in->label);
    struct pk_val pairs = pk_add(b, pk_add(b, l[0], l[1]), pk_add(b, l[2], l[3]));
    pk_loss(b, pk_add(b, pairs, pk_l1_loss(b, pk_gelu(b, h), in->far)));
}

/* The loss is the sum of a number and of a function of it: its gradient is the seed itself, an
 * input that nothing may add to. */
static void loss_of_loss(struct pk_build *b, struct in *in)
{
    struct pk_val z = pk_linear(b, pool(b, in->x), CLASSES, "out");
    struct pk_val l = pk_bce_loss(b, z, in->label), g = pk_gelu(b, pk_gelu(b, l));
    pk_loss(b, in->turn & 1 ? pk_add(b, l, g) : pk_add(b, pk_add(b, g, l), l));
}

/* No gradient of the normalised input is wanted, only that of the gain. */
static void norm_of_input(struct pk_build *b, struct in *in)
{
    struct pk_val h = pk_layernorm(b, in->x, 1e-6f, "n");
    if (in->turn) h = pk_layernorm(b, pk_add(b, in->x, in->y), 1e-6f, "n");
    finish(b, in, pk_gelu(b, h));
}

/* A frozen piece in the middle: nothing flows through it; its weights are trained elsewhere. */
static void frozen_middle(struct pk_build *b, struct in *in)
{
    struct pk_val x = block(b, pk_linear(b, in->x, C, "a"), 0);
    pk_scope_frozen(b, true);
    struct pk_val still = block(b, x, 0), other = pk_linear(b, in->y, C, "frozen");
    pk_scope_frozen(b, false);
    finish(b, in, pk_add(b, pk_add(b, x, still), pk_gelu(b, pk_add(b, other, x))));
}

/* The EMA copy of a tower gives the target of an L1 loss, as in JEPA. */
static void ema_target(struct pk_build *b, struct in *in)
{
    struct pk_val h[2];
    for (int ema = 0; ema < 2; ema++) {
        if (ema) pk_scope_ema(b, true);
        pk_scope(b, "tower");
        h[ema] = pool(b, block(b, pk_linear(b, in->x, C, "embed"), 0));
        pk_scope_end(b);
        if (ema) pk_scope_ema(b, false);
        if (!ema) h[0] = pk_linear_bias(b, h[0], C, "predict");
    }
    pk_loss(b, pk_l1_loss(b, pk_add(b, h[0], in->far), h[1]));
}

/* A masked autoencoder by hand: what the encoder made of the leads is used by the decoder, by the
 * mean, and again by another sequence. */
static void lead_runs(struct pk_build *b, struct in *in)
{
    const int64_t width = C, leads = B;
    float places[(T + 2) * C];
    for (int i = 0; i < (T + 2) * C; i++) places[i] = (float)sin(i);
    struct pk_val kept, hidden, seen, l[3];
    pk_lead_mask(b, in->sample, &(struct pk_lead_mask){1, T, KEEP, 5}, &kept, &hidden, &seen);
    struct pk_lead_tokens a = {.index = kept, .separator = param(b, "separator", C)};
    a.present = pk_lead_present(b, in->gain, B, (const uint8_t[]){3, 1, 0});
    a.table = pk_constant(b, 2, (int64_t[]){T + 2, C}, places);
    a.lead = pk_weight(b, "lead", 2, (int64_t[]){leads, width}, PK_INIT_TRUNC_NORMAL, false);
    a.absent = in->turn & 1 ? a.separator : param(b, "absent", C);
    struct pk_val x = pk_gather_tokens(b, pk_linear(b, in->x, C, "a"), kept);
    struct pk_val h = block(b, pk_lead_tokens(b, x, &a), 0);
    struct pk_val mean = pk_lead_pool(b, h, a.present), other = pk_lead_tokens(b, x, &a);
    struct pk_val z = pk_reshape(b, h, 3, (int64_t[]){leads, KEEP + 2, width});
    z = pk_assemble_tokens(b, z, param(b, "token", C), a.table, seen, hidden);
    z = pk_slice_tokens(b, pk_gelu(b, z), KEEP + 2, T - KEEP);
    l[0] = pk_patch_loss(b, pk_linear(b, z, C, "proj"), in->y, hidden,
                         in->turn & 2 ? PK_NONE : a.present, 1e-3f);
    mean = pk_add(b, mean, pk_lead_pool(b, pk_gelu(b, other), a.present));
    mean = pk_reshape(b, pk_linear(b, mean, B * C, "spread"), 2, (int64_t[]){leads, width});
    l[1] = pk_l1_loss(b, mean, in->far);
    h = pk_add(b, h, other);
    h = pk_reshape(b, h, 3, (int64_t[]){leads, KEEP + 2, width});
    l[2] = pk_bce_loss(b, pk_linear_bias(b, pool(b, h), CLASSES, "out"), in->label);
    pk_loss(b, pk_add(b, pk_add(b, l[0], l[1]), l[2]));
}

/* NT-Xent, InfoNCE both ways and KoLeo on normalised rows, in any order. */
static void contrasts(struct pk_build *b, struct in *in)
{
    struct pk_val z = pk_l2_normalize(b, pk_linear(b, in->x, C, "a"), 1e-6f);
    struct pk_val k = pk_l2_normalize(b, pool(b, pk_linear(b, in->y, C, "b")), 1e-6f), l[4];
    l[in->turn & 3] = pk_contrast_loss(b, z, PK_NONE, in->group, PK_NONE, 0.5f, 1, 1);
    l[(in->turn + 1) & 3] = pk_contrast_loss(b, z, k, in->group, in->segment, 0.3f, 0.5f, 1);
    l[(in->turn + 2) & 3] = pk_contrast_loss(b, k, z, in->segment, in->group, 0.4f, 0.5f, 1);
    l[(in->turn + 3) & 3] = pk_koleo_loss(b, k, 0.1f, 1e-8f, 1); // few rows: no kink nearby
    pk_loss(b, pk_add(b, pk_add(b, l[0], l[1]), pk_add(b, l[2], l[3])));
}

/* Rows that are not normalised, and queries that are their own keys: each among its positives. */
static void contrast_same(struct pk_build *b, struct in *in)
{
    struct pk_val z = pk_linear(b, in->x, C, "a");
    struct pk_val l = pk_contrast_loss(b, z, z, in->group, in->group, 2, 1, 1);
    if (in->turn) l = pk_add(b, pk_contrast_loss(b, z, PK_NONE, in->group, PK_NONE, 2, 1, 1), l);
    pk_loss(b, l);
}

/* MoCo: keys from the EMA copy get no gradient. */
static void contrast_momentum(struct pk_build *b, struct in *in)
{
    struct pk_val h[2];
    for (int ema = 0; ema < 2; ema++) {
        if (ema) pk_scope_ema(b, true);
        h[ema] = pk_linear(b, in->x, C, "encoder");
        if (!ema) h[0] = pk_linear(b, pk_gelu(b, h[0]), C, "predict");
        h[ema] = pk_l2_normalize(b, h[ema], 1e-6f);
        if (ema) pk_scope_ema(b, false);
    }
    pk_loss(b, pk_contrast_loss(b, h[0], h[1], in->group, in->group, 0.2f, 1, 1));
}

/* A gradient that comes from outside. */
static void injected(struct pk_build *b, struct in *in)
{
    struct pk_val h = pool(b, block(b, pk_linear(b, in->x, C, "a"), 0));
    struct pk_val l = pk_dot_loss(b, h, in->far);
    if (in->turn) l = pk_add(b, l, pk_dot_loss(b, pk_gelu(b, h), in->far));
    pk_loss(b, l);
}

/* Dense, strided, grouped and depthwise kernels, one weight used twice. */
static void convolutions(struct pk_build *b, struct in *in)
{
    struct pk_conv1d same = {.width = C, .kernel = 3, .left = 1, .right = 1, .bias = true};
    struct pk_conv1d depthwise = same, strided = same, narrow = {.width = C, .kernel = 1};
    depthwise.groups = C;
    strided.stride = 2, strided.groups = in->turn & 1 ? 2 : 1;
    pk_conv1d_same(T, &strided);
    struct pk_val x = pk_conv1d(b, in->x, &same, "a");
    struct pk_val h = pk_gelu(b, pk_conv1d(b, x, &depthwise, "depthwise"));
    h = pk_add(b, pk_conv1d(b, h, &same, "a"),
               in->turn & 2 ? x : pk_conv1d(b, x, &narrow, "short"));
    finish(b, in, pk_gelu(b, pk_conv1d(b, pk_gelu(b, h), &strided, "strided")));
}

/* Statistics of the micro-batch and running ones, the same layer used twice, a frozen one. */
static void batch_norms(struct pk_build *b, struct in *in)
{
    struct pk_batchnorm bn = {.eps = 1e-5f, .momentum = 0.1f, .gain = 1, .train = !(in->turn & 1)};
    struct pk_val x = pk_batchnorm(b, pk_linear(b, in->x, C, "a"), &bn, "n1");
    struct pk_val h = pk_batchnorm(b, pk_gelu(b, x), &bn, "n2");
    pk_scope_frozen(b, true);
    struct pk_val still = pk_batchnorm(b, in->y, &bn, "still");
    pk_scope_frozen(b, false);
    if (in->turn & 2) h = pk_add(b, x, pk_gelu(b, pk_batchnorm(b, h, &bn, "n2")));
    h = pk_add(b, h, pk_batchnorm(b, pk_add(b, still, x), &bn, "n3"));
    finish(b, in, pk_gelu(b, h));
}

/* Samples 4 apart and more, so that the largest of a window stays the largest. */
static struct pk_val apart(struct pk_build *b, struct pk_val x)
{
    float v[T * C];
    for (int i = 0; i < T * C; i++) v[i] = (float)(4 * (i / C * 5 % T + i % 2) - 12);
    return pk_add_position(b, x, pk_constant(b, 2, (int64_t[]){T, C}, v), PK_NONE);
}

/* Squeeze-excite, activations and pools. */
static void gates_and_pools(struct pk_build *b, struct in *in)
{
    const struct pk_pool1d wide = {.kernel = 3, .stride = 2, .left = 1, .right = 1};
    const struct pk_pool1d halve = {.kernel = 2, .stride = 2, .right = 1};
    struct pk_val x = pk_linear_bias(b, in->x, C, "a");
    struct pk_val s = pk_silu(b, pk_linear_bias(b, pool(b, x), 3, "squeeze"));
    struct pk_val g = pk_logistic(b, pk_linear_bias(b, s, C, "excite"));
    struct pk_val h = pk_channel_scale(b, in->turn & 1 ? pk_silu(b, x) : x, g);
    h = pk_add(b, h, pk_channel_scale(b, x, g));
    struct pk_val u = pk_mean_pool1d(b, pk_add(b, h, x), &halve);
    struct pk_val v =
        in->turn & 2 ? pk_max_pool1d(b, apart(b, h), &wide) : pk_mean_pool1d(b, h, &wide);
    struct pk_val w = pk_linear(b, pk_concat_pool(b, apart(b, h)), C, "w");
    w = pk_add(b, pk_silu(b, w), pool(b, pk_gelu(b, pk_add(b, u, v))));
    pk_loss(b, pk_bce_loss(b, pk_linear_bias(b, w, CLASSES, "out"), in->label));
}

/* A residual block as Net1D's: pools whose padding counts, a shortcut widened by zeros, a branch
 * that is dropped for some records, channels taken away again. */
static void padded_shortcut(struct pk_build *b, struct in *in)
{
    const struct pk_pool1d ends = {.kernel = 3, .stride = 2, .left = 2, .right = 1, .zeros = true};
    struct pk_val x = pk_linear_bias(b, in->x, C, "a");
    struct pk_val s =
        in->turn & 1 ? pk_max_pool1d(b, apart(b, x), &ends) : pk_mean_pool1d(b, x, &ends);
    struct pk_val h = pk_linear(b, pk_gelu(b, s), C + 3, "wide");
    s = pk_pad_channels(b, s, 1, 2);
    s = pk_add(b, s, pk_drop_path(b, h, in->sample, 0.4f, 77));
    if (in->turn & 2) s = pk_add(b, s, pk_pad_channels(b, pk_pad_channels(b, s, -2, -2), 0, 4));
    finish(b, in, pk_gelu(b, pk_add(b, s, pk_pad_channels(b, pk_gelu(b, s), 0, 0))));
}

/* Every supervised loss, of labels that are bytes, soft, partly missing and mixed. */
static void supervised(struct pk_build *b, struct in *in)
{
    float positive[CLASSES], weight[CLASSES], scale[C];
    for (int k = 0; k < CLASSES; k++)
        positive[k] = 1 + 0.5f * (float)k, weight[k] = 2 - positive[k] / 4;
    for (int k = 0; k < C; k++) scale[k] = (float)(k + 1) / C;
    struct pk_multilabel_spec focal = {.gamma_positive = 2, .gamma_negative = 2, .alpha = .25f};
    struct pk_multilabel_spec weighted = {.smoothing = .1f, .positive_weight = positive};
    struct pk_multilabel_spec asymmetric = {
        .gamma_positive = 1, .gamma_negative = 4, .margin = .01f};
    struct pk_multiclass_spec softmax = {.smoothing = .1f, .class_weight = weight};
    struct pk_regression_spec squared = {.kind = PK_REGRESSION_SQUARED, .weight = scale};
    struct pk_regression_spec huber = {.kind = PK_REGRESSION_HUBER, .delta = 3};
    const struct pk_mixup mix = {.alpha = .4f, .seed = 9},
                          whole = {.alpha = 1, .single_label = true};
    weighted.class_weight = asymmetric.class_weight = weight;
    struct pk_val x = pk_mixup(b, in->x, in->sample, &mix);
    struct pk_val h = pool(b, pk_linear(b, x, C, "a")), z = pk_linear_bias(b, h, CLASSES, "out");
    struct pk_val mixed = pk_mixup(b, in->partial, in->sample, &mix), l[4];
    const int turn = in->turn;
    l[0] = pk_multilabel_loss(b, z, turn & 1 ? mixed : in->partial, &focal);
    l[1] = pk_multilabel_loss(b, z, turn & 2 ? in->partial : mixed,
                              turn & 1 ? &weighted : &asymmetric);
    l[2] = pk_multiclass_loss(b, z, turn & 1 ? in->soft : in->label, &softmax);
    if (turn & 2) l[2] = pk_softmax_loss(b, z, pk_mixup(b, in->label, in->sample, &whole));
    if (turn & 1) // |d| is about 10: the line of Huber, the parabola with the soft labels
        l[3] = pk_regression_loss(b, h, in->far, turn & 2 ? &squared : &huber);
    else
        l[3] = pk_regression_loss(b, z, in->soft, &huber);
    pk_loss(b, pk_add(b, pk_add(b, l[0], l[1]), pk_add(b, l[2], l[3])));
}

static const struct ugly {
    const char *name;
    void (*build)(struct pk_build *b, struct in *in);
    int turns;
    bool stops; // holds scopes that are not differentiated
} uglies[] = {
    {"used_four_times", used_four_times, 1, false},
    {"same_operand", same_operand, 1, false},
    {"two_towers", two_towers, 1, false},
    {"dead_branches", dead_branches, 1, false},
    {"residual_chain", residual_chain, 1, false},
    {"alias_then_use", alias_then_use, 32, false},
    {"alias_chain", alias_chain, 4, false},
    {"gelu_twice", gelu_twice, 2, false},
    {"consumers", consumers, 14, false},
    {"packed_twice", packed_twice, 3, false},
    {"context_twice", context_twice, 1, false},
    {"loss_sums", loss_sums, 4, false},
    {"loss_of_loss", loss_of_loss, 2, false},
    {"norm_of_input", norm_of_input, 2, false},
    {"frozen_middle", frozen_middle, 1, true},
    {"convolutions", convolutions, 4, false},
    {"batch_norms", batch_norms, 4, false},
    {"gates_and_pools", gates_and_pools, 4, false},
    {"padded_shortcut", padded_shortcut, 4, false},
    {"ema_target", ema_target, 1, true},
    {"lead_runs", lead_runs, 4, false},
    {"contrasts", contrasts, 4, false},
    {"contrast_same", contrast_same, 2, false},
    {"contrast_ema", contrast_momentum, 1, true},
    {"injected", injected, 2, false},
    {"supervised", supervised, 4, false},
};

static int steep_slopes; // directions whose fall by 4 could be seen

struct checked { // one program with everything that a comparison needs
    const char *name;
    struct model m;
    struct ref ref;
    double *weight, *ema;
    double scale; // of the loss
    double worst; // largest difference seen, relative
};

static double loss_at(struct checked *c, const struct pk_param *q, const double *way, double h)
{
    for (int64_t k = 0; k < q->count; k++) c->weight[q->offset + k] += h * way[k];
    double loss = ref_run(&c->ref);
    for (int64_t k = 0; k < q->count; k++)
        c->weight[q->offset + k] = (double)c->m.exec.weight[q->offset + k];
    return loss;
}

static double slope(struct checked *c, const struct pk_param *q, const double *way, double h)
{
    return c->scale * (loss_at(c, q, way, h) - loss_at(c, q, way, -h)) / (2 * h);
}

/* |D(h) - gradient| along one direction for h = 1, 1/2 ... 1/1024 falls by 4 at a halving, judged
 * at the last one that is clear of the rounding of a float gradient. A gradient that is wrong stays
 * at the same distance however small h gets. */
static void check_direction(struct checked *c, const struct pk_param *q, struct pk_rng *r)
{
    enum { HALVINGS = 13, SMALL = 3 }; // from h = 1/8 on the h^4 term hardly shows
    const float *g = c->m.exec.grad + q->offset;
    double *way = calloc((size_t)q->count, sizeof *way), length = 0, ours = 0, size = 0;
    double error[HALVINGS + 1], h = 1;
    for (int64_t k = 0; k < q->count; k++) {
        way[k] = pk_rng_normal(r);
        length += way[k] * way[k];
    }
    for (int64_t k = 0; k < q->count; k++) {
        way[k] /= sqrt(length);
        ours += way[k] * (double)g[k];
        size += (double)g[k] * (double)g[k];
    }
    double rounding = 1e-6 * sqrt(size) + 1e-9, ratio = 4;
    for (int i = 0; i <= HALVINGS; i++, h /= 2) error[i] = fabs(slope(c, q, way, h) - ours);
    int last = HALVINGS - 1;
    while (last >= 0 && !(error[last + 1] > 10 * rounding)) last--;
    if (last >= SMALL) {
        ratio = error[last] / error[last + 1];
        steep_slopes++;
    }
    bool good = ratio > 3.4 && error[HALVINGS] <= 2 * rounding;
    if (!good)
        fprintf(stderr, "%s: %s: error at h = 1/%d is %.2g, then %.2g, at last %.2g of %.3g\n",
                c->name, q->name, 1 << PK_MAX(last, 0), error[PK_MAX(last, 0)],
                error[PK_MAX(last, 0) + 1], error[HALVINGS], sqrt(size));
    CHECK(good);
    free(way);
}

/* Single elements against the extrapolated difference (4 D(h/2) - D(h)) / 3. */
static void check_elements(struct checked *c, const struct pk_param *q, struct pk_rng *r)
{
    enum { MOST = 20 };
    const float *g = c->m.exec.grad + q->offset;
    double *way = calloc((size_t)q->count, sizeof *way), top = 0;
    for (int64_t k = 0; k < q->count; k++) top = fmax(top, fabs((double)g[k]));
    for (int i = 0; i < MOST && i < q->count; i++) {
        int64_t k = q->count <= MOST ? i : (int64_t)pk_rng_below(r, (uint64_t)q->count);
        double h = 4e-3;
        way[k] = 1;
        double exact = (4 * slope(c, q, way, h / 2) - slope(c, q, way, h)) / 3;
        way[k] = 0;
        double off = fabs((double)g[k] - exact), allowed = 4e-6 * top + 1e-8;
        if (!(off <= allowed))
            fprintf(stderr, "%s: %s[%d]: %.9g, finite difference %.9g\n", c->name, q->name, (int)k,
                    (double)g[k], exact);
        CHECK(off <= allowed);
        if (top > 0) c->worst = fmax(c->worst, off / top);
    }
    free(way);
}

/* Compares a program that has been run with the interpreter; feed as the executor had it. */
static void check_program(struct checked *c, const struct pk_feed *feed, int count, double loss,
                          bool stops)
{
    struct pk_rng r = pk_rng_make(31, PK_RNG_TEST, 0, 0);
    const struct pk_params *ps = &c->m.params;
    size_t n = (size_t)ps->elements;
    c->weight = calloc(n, sizeof(double));
    c->ema = calloc(n, sizeof(double));
    for (size_t i = 0; i < n; i++) c->weight[i] = (double)c->m.exec.weight[i];
    for (size_t i = 0; i < n; i++) c->ema[i] = (double)c->m.exec.ema[i];
    ref_init(&c->ref, &c->m.prog);
    c->ref.weight = c->weight;
    c->ref.ema = c->ema;
    c->ref.stops = stops;
    for (int i = 0; i < count; i++) ref_feed(&c->ref, feed[i].name, feed[i].data);
    double exact = ref_run(&c->ref);
    CHECK_NEAR(loss, exact, 1e-6 * fabs(exact));
    for (int64_t i = 0; i < ps->count; i++) {
        if (!ps->item[i].trained || ps->item[i].state) continue;
        for (int k = 0; k < 2; k++) check_direction(c, &ps->item[i], &r);
        check_elements(c, &ps->item[i], &r);
    }
    ref_free(&c->ref);
    free(c->weight);
    free(c->ema);
}

static void test_ugly(const struct ugly *u, int turn)
{
    struct checked c = {.name = u->name, .scale = 0.75};
    struct pk_err err = {0};
    struct pk_build *b;
    float loss[2] = {0};
    CHECK_OK(pk_build_begin(&b, &c.m.prog, &c.m.params, &err), &err);
    struct in in = {
        .x = pk_input(b, "x", PK_F32, 3, (int64_t[]){B, T, C}),
        .y = pk_input(b, "y", PK_F32, 3, (int64_t[]){B, T, C}),
        .kept = pk_input(b, "kept", PK_I32, 2, (int64_t[]){B, KEEP}),
        .hidden = pk_input(b, "hidden", PK_I32, 2, (int64_t[]){B, T - KEEP}),
        .sample = pk_input(b, "sample", PK_I64, 1, (int64_t[]){B}),
        .label = pk_input(b, "label", PK_U8, 2, (int64_t[]){B, CLASSES}),
        .partial = pk_input(b, "partial", PK_U8, 2, (int64_t[]){B, CLASSES}),
        .soft = pk_input(b, "soft", PK_F32, 2, (int64_t[]){B, CLASSES}),
        .far = pk_input(b, "far", PK_F32, 2, (int64_t[]){B, C}),
        .gain = pk_input(b, "gain", PK_F32, 2, (int64_t[]){1, 4}),
        .group = pk_input(b, "group", PK_I64, 1, (int64_t[]){B * T}),
        .segment = pk_input(b, "segment", PK_I64, 1, (int64_t[]){B}),
        .turn = turn,
    };
    u->build(b, &in);
    enum pk_status s = pk_build_finish(b, &err);
    CHECK_OK(s, &err);
    if (s != PK_OK) return;
    CHECK_OK(model_start(&c.m, 1, true, &err), &err);
    struct pk_fetch fetch = {"loss", loss};
    // two micro-batches that are equal: what one leaves behind must not reach the other
    struct pk_exec_batch run = {.feed = feeds,
                                .feeds = PK_COUNT(feeds),
                                .fetch = &fetch,
                                .fetches = 1,
                                .micros = 2,
                                .loss_scale = c.scale / 2};
    CHECK_OK(pk_exec_run(&c.m.exec, &c.m.bound, &run, &err), &err);
    CHECK(loss[0] == loss[1]);
    int before = test_bad_;
    check_program(&c, feeds, PK_COUNT(feeds), (double)loss[0], u->stops);
    fprintf(stderr, "%-16s %2d: %3d nodes, gradients within %.1e\n", u->name, turn,
            (int)c.m.prog.nodes, c.worst);
    if (test_bad_ > before) {
        struct pk_text t = {0};
        pk_prog_print(&c.m.prog, &t);
        if (t.s) fputs(t.s, stderr);
        pk_text_free(&t);
    }
    model_free(&c.m);
}

int main(void)
{
    make_data();
    const enum pk_isa best = pk_isa_best();
    for (int isa = 0; isa <= (int)best; isa++) {
        setenv("PURKINJE_ISA", pk_isa_name((enum pk_isa)isa), 1);
        fprintf(stderr, "%s kernels\n", pk_isa_name(pk_isa_best()));
        for (size_t i = 0; i < PK_COUNT(uglies); i++)
            for (int turn = 0; turn < uglies[i].turns; turn++) test_ugly(&uglies[i], turn);
    }
    fprintf(stderr, "the fall by h^2 was seen along %d directions\n", steep_slopes);
    CHECK(steep_slopes > 300);
    return TEST_END();
}
