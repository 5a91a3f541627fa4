/* test_contrastive.c -- contrastive steps of a tiny model: gradient caching against one program
 * over the whole batch, against other micro-batches and threads, accumulation, a batch learned by
 * heart.
 *
 *     test_contrastive                       the checks
 *     test_contrastive dump DIR simclr|momentum|norm|losses       norm: momentum with batch norm
 *                                            what test_contrastive_parity.py compares with PyTorch
 */
#include "models/contrastive.h"
#include "tests/model/case.h"
#include "tools/gradcache.h"

enum { HIDDEN = 24, OUT = 12 };

static struct pk_contrastive tiny(bool momentum, float koleo)
{
    return (struct pk_contrastive){.signal = case_signal(),
                                   .encoder = {.width = 32,
                                               .vit = {.width = 32,
                                                       .depth = 2,
                                                       .heads = 4,
                                                       .mlp_ratio = 4,
                                                       .tokens = 40,
                                                       .eps = 1e-6f,
                                                       .residual_std = 0.01f}},
                                   .hidden = HIDDEN,
                                   .width = OUT,
                                   .momentum = momentum,
                                   .temperature = momentum ? 0.2f : 0.1f,
                                   .koleo = koleo};
}

struct step {               // a model that runs by gradient caching
    struct pk_prog prog[3]; // embed, loss, back
    struct pk_params params, none;
    struct pk_exec exec;
    struct pk_bound embed, loss, back;
    struct pk_gradcache cache;
    int64_t group[RECORDS];
    struct model fill; // borrows exec for model_perturb
};

static void step_free(struct step *s)
{
    pk_gradcache_free(&s->cache);
    pk_bound_free(&s->embed);
    pk_bound_free(&s->loss);
    pk_bound_free(&s->back);
    pk_exec_free(&s->exec);
    for (int i = 0; i < 3; i++) pk_prog_free(&s->prog[i]);
    pk_params_free(&s->params);
}

static bool step_start(struct step *s, const struct pk_contrastive *c, int64_t records, int threads)
{
    struct pk_err err = {0};
    memset(s, 0, sizeof *s);
    const struct pk_contrastive_progs progs = {&s->prog[0], &s->prog[1], &s->prog[2]};
    CHECK_OK(pk_contrastive_build(&progs, &s->params, &s->none, c, records, RECORDS, 1, &err),
             &err);
    if (err.status != PK_OK) return false;
    struct pk_exec_spec spec = {
        .params = &s->params, .threads = threads, .ema = c->momentum, .train = true};
    CHECK_OK(pk_exec_create(&s->exec, &spec, &err), &err);
    CHECK_OK(pk_exec_bind(&s->exec, &s->embed, &s->prog[0], &err), &err);
    CHECK_OK(pk_exec_bind(&s->exec, &s->loss, &s->prog[1], &err), &err);
    CHECK_OK(pk_exec_bind(&s->exec, &s->back, &s->prog[2], &err), &err);
    const struct pk_gradcache g = {.x = &s->exec,
                                   .embed = &s->embed,
                                   .loss = &s->loss,
                                   .back = &s->back,
                                   .records = records,
                                   .micros = RECORDS / records,
                                   .width = c->width,
                                   .keys = c->momentum};
    CHECK_OK(pk_gradcache_create(&s->cache, &g, &err), &err);
    // pairs of records, the first two pairs of one participant
    for (int i = 0; i < RECORDS; i++) s->group[i] = 100 + (i < 4 ? 0 : i / 2);
    if (c->momentum)
        for (int i = 0; i < RECORDS / 2; i++) s->group[i] = 100 + PK_MAX(i, 1);
    s->fill = (struct model){.params = s->params, .exec = s->exec};
    model_perturb(&s->fill);
    return err.status == PK_OK;
}

static enum pk_status step_run(struct step *s, const struct batch *b, bool add, double *loss,
                               struct pk_err *err)
{
    const size_t n = (size_t)s->cache.records;
    const struct pk_feed feed[] = {{"signal", b->signal, n * sizeof b->signal[0]},
                                   {"gain", b->gain, n * sizeof b->gain[0]},
                                   {"offset", b->offset, n * sizeof b->offset[0]},
                                   {"start", b->start, n * sizeof b->start[0]},
                                   {"sample", b->sample, n * sizeof b->sample[0]}};
    const struct pk_exec_batch run = {
        .feed = feed, .feeds = (int)PK_COUNT(feed), .loss_scale = 1, .add = add};
    return pk_gradcache_run(&s->cache, &run, s->group, loss, err);
}

static double distance(const float *x, const float *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += pow((double)x[i] - (double)y[i], 2);
    return sqrt(sum);
}

static double length(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* All gradients of x within `most` of those of y, relative to each tensor. */
static double compare(const struct pk_params *ps, const float *x, const float *y, double most)
{
    double worst = 0;
    for (int64_t i = 0; i < ps->count; i++) {
        const struct pk_param *q = &ps->item[i];
        const double size = length(y + q->offset, q->count),
                     off = distance(x + q->offset, y + q->offset, q->count);
        if (!(size > 1e-6 && off <= most * size))
            fprintf(stderr, "%s: off by %g of %g\n", q->name, off, size);
        CHECK(size > 1e-6 && off <= most * size);
        worst = PK_MAX(worst, off / size);
    }
    return worst;
}

/* The same model written out in one program over the whole batch: the exact gradient. */
static enum pk_status build_whole(struct model *m, const struct pk_contrastive *c,
                                  struct pk_err *err)
{
    struct pk_build *b;
    PK_TRY(pk_build_begin(&b, &m->prog, &m->params, err));
    struct pk_signal_in in = pk_signal_inputs(b, &c->signal, RECORDS);
    pk_scope(b, "encoder");
    struct pk_val h = pk_vit_encode(b, in.patches, PK_NONE, in.sample, &c->encoder.vit);
    pk_scope_end(b);
    pk_scope(b, "projector");
    const struct pk_batchnorm bn = {.eps = 1e-5f, .momentum = 0.1f, .gain = 1, .train = true};
    h = pk_mean_pool(b, h, 1);
    h = c->norm ? pk_batchnorm(b, pk_linear(b, h, c->hidden, "fc1"), &bn, "norm1")
                : pk_linear_bias(b, h, c->hidden, "fc1");
    h = pk_gelu(b, h);
    h = c->norm ? pk_batchnorm(b, pk_linear(b, h, c->width, "fc2"), &bn, "norm2")
                : pk_linear_bias(b, h, c->width, "fc2");
    h = pk_l2_normalize(b, h, 1e-8f);
    pk_scope_end(b);
    struct pk_val group = pk_input(b, "group", PK_I64, 1, (int64_t[]){RECORDS});
    pk_loss(b, pk_contrast_loss(b, h, PK_NONE, group, PK_NONE, c->temperature, 1, 1));
    return pk_build_finish(b, err);
}

/* norm: in one micro-batch, whose statistics are the batch's; running statistics are compared as
 * gradients are, since their terms lie there. */
static void test_against_whole(const struct batch *b, bool norm)
{
    struct pk_contrastive c = tiny(false, 0);
    c.norm = norm;
    c.encoder.vit.dropout = 0.1f; // the second forward pass must drop the same
    c.encoder.vit.seed = 11;
    struct pk_err err = {0};
    struct model whole = {.records = RECORDS};
    struct step s;
    double loss = 0;
    float exact = 0;
    CHECK_OK(build_whole(&whole, &c, &err), &err);
    CHECK_OK(model_start(&whole, 1, false, &err), &err);
    if (err.status != PK_OK || !step_start(&s, &c, norm ? RECORDS : 2, 2)) return;
    memcpy(s.exec.weight, whole.exec.weight, (size_t)s.params.elements * sizeof(float));
    const struct pk_feed feed[] = {{"signal", b->signal, 0}, {"gain", b->gain, 0},
                                   {"offset", b->offset, 0}, {"start", b->start, 0},
                                   {"sample", b->sample, 0}, {"group", s.group, 0}};
    const struct pk_fetch fetch = {"loss", &exact};
    const struct pk_exec_batch run = {.feed = feed,
                                      .feeds = PK_COUNT(feed),
                                      .fetch = &fetch,
                                      .fetches = 1,
                                      .micros = 1,
                                      .loss_scale = 1};
    CHECK_OK(pk_exec_run(&whole.exec, &whole.bound, &run, &err), &err);
    CHECK_OK(step_run(&s, b, false, &loss, &err), &err);
    CHECK(whole.params.count == s.params.count);
    CHECK_NEAR(loss, (double)exact, 2e-7 * (double)exact);
    // what pk_exec_result will tell: rounding of <z, dz> = 0 is all that comes on top
    CHECK_NEAR(s.exec.loss, loss, 1e-6 * loss);
    fprintf(stderr, "against one program: loss %.6f, gradients within %.2g\n", loss,
            compare(&s.params, s.exec.grad, whole.exec.grad, 3e-6));
    step_free(&s);
    model_free(&whole);
}

/* The micro-batches, threads and runs change nothing but rounding; for the same cut not a bit. */
/* All augmentations, each half of the time. */
static const struct pk_augment_range views[PK_AUGMENT_KINDS] = {
    [PK_AUGMENT_TIME_WARP] = {0.5f, 0.1f, 0.3f},   [PK_AUGMENT_CROP_RESIZE] = {0.5f, 0.6f, 0.9f},
    [PK_AUGMENT_PERMUTE] = {0.5f, 0, 0},           [PK_AUGMENT_NEGATE] = {0.5f, 0, 0},
    [PK_AUGMENT_MAGNITUDE] = {0.5f, 0.1f, 0.5f},   [PK_AUGMENT_WANDER] = {0.5f, 0.1f, 0.5f},
    [PK_AUGMENT_POWERLINE] = {0.5f, 0.05f, 0.2f},  [PK_AUGMENT_NOISE] = {0.5f, 0.05f, 0.2f},
    [PK_AUGMENT_LEAD_MASK] = {0.5f, 0.34f, 0.67f}, [PK_AUGMENT_CUT_OUT] = {0.5f, 0.1f, 0.4f},
};

static void augment(struct pk_contrastive *c)
{
    c->augmented = true;
    memcpy(c->range, views, sizeof c->range);
}

/* Two views of one record differ when their sample numbers do, and are the same when those are. */
static void test_views(const struct batch *b)
{
    struct pk_contrastive c = tiny(false, 0);
    struct pk_err err = {0};
    struct step s;
    struct batch twice = *b;
    augment(&c);
    for (int i = 0; i < RECORDS; i++) {
        memcpy(twice.signal[i], b->signal[i / 2], sizeof b->signal[0]);
        memcpy(twice.gain[i], b->gain[i / 2], sizeof b->gain[0]);
        memcpy(twice.offset[i], b->offset[i / 2], sizeof b->offset[0]);
        twice.start[i] = b->start[i / 2];
        twice.sample[i] = i < 2 ? 77 : 2 * b->sample[i / 2] + i % 2; // the first two are one view
    }
    if (!step_start(&s, &c, 2, 1)) return;
    CHECK_OK(step_run(&s, &twice, false, NULL, &err), &err);
    for (int i = 0; i < RECORDS; i += 2) {
        const float *z = s.cache.projected.data + i * OUT;
        CHECK((memcmp(z, z + OUT, OUT * sizeof *z) == 0) == (i == 0));
    }
    step_free(&s);
}

static void test_cuts(const struct batch *b, bool momentum, float koleo, bool augmented)
{
    struct pk_contrastive c = tiny(momentum, koleo);
    if (augmented) augment(&c);
    // KoLeo's slope is 1 / distance, so that it magnifies the rounding of near rows
    const double most = koleo > 0 ? 3e-5 : 5e-6;
    struct pk_err err = {0};
    struct step one, other;
    double loss = 0, again = 0;
    if (!step_start(&one, &c, RECORDS, 1)) return;
    CHECK_OK(step_run(&one, b, false, &loss, &err), &err);
    CHECK(isfinite(loss) && loss > 0);
    for (int64_t records = 1; records < RECORDS; records *= 2) {
        if (!step_start(&other, &c, records, 2)) break;
        CHECK_OK(step_run(&other, b, false, &again, &err), &err);
        CHECK_NEAR(again, loss, 1e-6 * loss);
        fprintf(stderr, "micro-batches of %d: gradients within %.2g\n", (int)records,
                compare(&one.params, other.exec.grad, one.exec.grad, most));
        const size_t bytes = (size_t)one.params.elements * sizeof(float);
        float *kept = malloc(bytes);
        double twice = 0;
        memcpy(kept, other.exec.grad, bytes);
        for (int round = 0; round < 5; round++) {
            CHECK_OK(step_run(&other, b, false, &twice, &err), &err);
            CHECK(twice == again && !memcmp(kept, other.exec.grad, bytes));
        }
        CHECK_OK(step_run(&other, b, true, &twice, &err), &err); // on top of itself
        for (int64_t i = 0; i < one.params.elements; i++) kept[i] *= 2;
        CHECK(distance(kept, other.exec.grad, one.params.elements) <
              1e-6 * length(kept, one.params.elements));
        CHECK_NEAR(other.exec.loss, 2 * again, 4e-6 * again);
        free(kept);
        step_free(&other);
    }
    step_free(&one);
}

static enum pk_status train(struct step *s, const struct batch *b, int steps,
                            const struct step_plan *plan, double *loss, struct pk_err *err)
{
    PK_TRY(pk_exec_optim(&s->exec, &plan->optim, err));
    for (int i = 0; i < steps; i++) {
        const struct pk_optim_step step = {.step = i,
                                           .learning_rate = pk_schedule_at(&plan->rate, i),
                                           .weight_decay = pk_schedule_at(&plan->decay, i),
                                           .ema_momentum = pk_schedule_at(&plan->momentum, i)};
        PK_TRY(step_run(s, b, false, &loss[i], err));
        PK_TRY(pk_exec_update(&s->exec, &step, err));
    }
    return PK_OK;
}

static void test_overfit(const struct batch *b)
{
    enum { LONG = 300 };
    static double loss[LONG];
    const struct pk_contrastive c = tiny(false, 0);
    struct pk_err err = {0};
    struct step s;
    struct step_plan plan = case_steps();
    plan.rate = (struct pk_schedule){PK_SHAPE_COSINE, 1e-4, 3e-3, 1e-5, 10, LONG, 0};
    if (!step_start(&s, &c, 4, 2)) return;
    for (int i = 0; i < RECORDS; i++) s.group[i] = i / 2;
    CHECK_OK(train(&s, b, LONG, &plan, loss, &err), &err);
    fprintf(stderr, "one batch by heart: loss %.4f -> %.4f\n", loss[0], loss[LONG - 1]);
    CHECK(loss[LONG - 1] < 0.1 * loss[0]);
    step_free(&s);
}

static void test_refused(void)
{
    const struct pk_contrastive c = tiny(false, 0);
    struct pk_prog prog[3];
    const struct pk_contrastive_progs progs = {&prog[0], &prog[1], &prog[2]};
    struct pk_params params = {0}, none = {0};
    struct pk_err err = {0};
    for (int64_t total = 2; total < 6; total += 3) {
        enum pk_status s = pk_contrastive_build(&progs, &params, &none, &c, 1, total, 1, &err);
        CHECK_FAILS(s, PK_EINVAL, &err, "an even number of 4 or more");
    }
    pk_params_free(&params);
}

static void dump_all(const char *dir, const struct batch *b, bool momentum, bool norm)
{
    struct pk_contrastive c = tiny(momentum, momentum ? 0.1f : 0);
    struct pk_err err = {0};
    struct step s;
    struct step_plan plan = case_steps();
    double loss[STEPS], first;
    c.norm = norm;
    if (!step_start(&s, &c, norm ? RECORDS : 2, 1))
        return; // statistics of all, as PyTorch has them
    struct model *x = &s.fill;
    CHECK_OK(pk_mkdirs(dir, &err), &err);
    dump_batch(dir, b);
    dump(dir, "group.i64", s.group, sizeof s.group);
    dump_arena(dir, x, "weight.f32", s.exec.weight);
    if (momentum) dump_arena(dir, x, "ema.f32", s.exec.ema);
    CHECK_OK(step_run(&s, b, false, &first, &err), &err);
    dump(dir, "projected.f32", s.cache.projected.data, sizeof(float) * RECORDS * OUT);
    float d[RECORDS * OUT];
    for (int i = 0; i < RECORDS * OUT; i++) d[i] = s.cache.gradient.data[i] / (float)s.cache.micros;
    dump(dir, "d_projected.f32", d, sizeof d);
    dump_arena(dir, x, "grad.f32", s.exec.grad);
    CHECK_OK(train(&s, b, STEPS, &plan, loss, &err), &err);
    dump_arena(dir, x, "weight_after.f32", s.exec.weight);
    if (momentum) dump_arena(dir, x, "ema_after.f32", s.exec.ema);
    dump_meta(dir, x, &plan, loss,
              momentum ? "\"encoder\": [32, 2, 4], \"temperature\": 0.2, \"koleo\": 0.1,"
                       : "\"encoder\": [32, 2, 4], \"temperature\": 0.1, \"koleo\": 0,");
    step_free(&s);
}

/* Each loss by itself, on two sets of rows and with gradients into both. */
enum { QUERIES = 30, KEYS = 21, WIDE = 48, LOSSES = 4 };

struct sets {
    float query[QUERIES][WIDE], key[KEYS][WIDE];
    int64_t query_group[QUERIES], key_group[KEYS];
};

static struct pk_val one_loss(struct pk_build *b, int which, struct pk_val q, struct pk_val k,
                              struct pk_val qg, struct pk_val kg)
{
    q = pk_l2_normalize(b, q, 1e-8f);
    k = pk_l2_normalize(b, k, 1e-8f);
    switch (which) {
    case 0: // NT-Xent, CMSC: all rows of both sets would do; here the queries among themselves
        return pk_contrast_loss(b, q, PK_NONE, qg, PK_NONE, 0.1f, 1, 1);
    case 1: // InfoNCE both ways, several positives on both sides
        return pk_add(b, pk_contrast_loss(b, q, k, qg, kg, 0.04f, 0.5f, 1),
                      pk_contrast_loss(b, k, q, kg, qg, 0.04f, 0.5f, 1));
    case 2: // MoCo v3's factor 2 * temperature; here with a gradient into the keys as well
        return pk_contrast_loss(b, q, k, qg, kg, 0.2f, 0.4f, 1);
    default:
        return pk_add(b, pk_koleo_loss(b, q, 1, 1e-8f, 1), pk_koleo_loss(b, k, 0.5f, 1e-8f, 1));
    }
}

static void dump_loss(const char *dir, const struct sets *in, int which)
{
    struct pk_prog prog;
    struct pk_params none = {0};
    struct pk_exec exec;
    struct pk_bound bound;
    struct pk_build *b;
    struct pk_err err = {0};
    char name[3][32];
    static float dq[QUERIES][WIDE], dk[KEYS][WIDE];
    float loss = NAN;
    CHECK_OK(pk_build_begin(&b, &prog, &none, &err), &err);
    struct pk_val q = pk_input(b, "query", PK_F32, 2, (int64_t[]){QUERIES, WIDE});
    struct pk_val k = pk_input(b, "key", PK_F32, 2, (int64_t[]){KEYS, WIDE});
    struct pk_val qg = pk_input(b, "query_group", PK_I64, 1, (int64_t[]){QUERIES});
    struct pk_val kg = pk_input(b, "key_group", PK_I64, 1, (int64_t[]){KEYS});
    pk_input_gradient(b, q, "dq");
    if (which) pk_input_gradient(b, k, "dk");
    pk_loss(b, one_loss(b, which, q, k, qg, kg));
    CHECK_OK(pk_build_finish(b, &err), &err);
    const struct pk_exec_spec spec = {.params = &none, .threads = 1, .train = true};
    CHECK_OK(pk_exec_create(&exec, &spec, &err), &err);
    CHECK_OK(pk_exec_bind(&exec, &bound, &prog, &err), &err);
    const struct pk_feed feed[] = {{"query", in->query, 0},
                                   {"key", in->key, 0},
                                   {"query_group", in->query_group, 0},
                                   {"key_group", in->key_group, 0}};
    const struct pk_fetch fetch[] = {{"loss", &loss}, {"dq", dq}, {"dk", dk}};
    const struct pk_exec_batch run = {.feed = feed,
                                      .feeds = PK_COUNT(feed),
                                      .fetch = fetch,
                                      .fetches = which ? 3 : 2,
                                      .micros = 1,
                                      .loss_scale = 1};
    CHECK_OK(pk_exec_run(&exec, &bound, &run, &err), &err);
    for (int i = 0; i < 3; i++)
        snprintf(name[i], sizeof name[i], "%s%d.f32", i ? i > 1 ? "dk" : "dq" : "loss", which);
    dump(dir, name[0], &loss, sizeof loss);
    dump(dir, name[1], dq, sizeof dq);
    dump(dir, name[2], dk, sizeof dk);
    pk_bound_free(&bound);
    pk_exec_free(&exec);
    pk_prog_free(&prog);
}

static void dump_losses(const char *dir)
{
    static struct sets in;
    struct pk_err err = {0};
    struct pk_rng r = pk_rng_make(5, PK_RNG_TEST, 0, 0);
    for (int i = 0; i < QUERIES * WIDE; i++)
        in.query[i / WIDE][i % WIDE] = (float)pk_rng_normal(&r);
    for (int i = 0; i < KEYS * WIDE; i++) in.key[i / WIDE][i % WIDE] = (float)pk_rng_normal(&r);
    for (int i = 0; i < QUERIES; i++) in.query_group[i] = i % 11; // 2 or 3 of a group
    for (int i = 0; i < KEYS; i++) in.key_group[i] = i / 2;       // 2 of a group, one alone
    CHECK_OK(pk_mkdirs(dir, &err), &err);
    dump(dir, "query.f32", in.query, sizeof in.query);
    dump(dir, "key.f32", in.key, sizeof in.key);
    dump(dir, "query_group.i64", in.query_group, sizeof in.query_group);
    dump(dir, "key_group.i64", in.key_group, sizeof in.key_group);
    for (int which = 0; which < LOSSES; which++) dump_loss(dir, &in, which);
    dump(dir, "meta.json", "{}", 2);
}

int main(int argc, char **argv)
{
    static struct batch b;
    case_batch(&b, false);
    if (argc == 4 && !strcmp(argv[1], "dump") && !strcmp(argv[3], "losses")) {
        dump_losses(argv[2]);
        return TEST_END();
    }
    if (argc == 4 && !strcmp(argv[1], "dump")) {
        dump_all(argv[2], &b, strcmp(argv[3], "simclr") != 0, !strcmp(argv[3], "norm"));
        return TEST_END();
    }
    test_against_whole(&b, false);
    test_against_whole(&b, true);
    test_views(&b);
    test_cuts(&b, false, 0, false);
    test_cuts(&b, false, 0, true);
    test_cuts(&b, true, 0, false);
    test_cuts(&b, true, 0.1f, false);
    test_overfit(&b);
    test_refused();
    return TEST_END();
}
