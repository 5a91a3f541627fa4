/* test_contrastive.c -- contrastive steps of a tiny model: gradient caching against one program
 * over the whole batch, against other micro-batches and threads, accumulation, a batch learned by
 * heart.
 *
 *     test_contrastive                       the checks
 *     test_contrastive dump DIR simclr|momentum
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
                                               .depth = 2,
                                               .heads = 4,
                                               .mlp_ratio = 4,
                                               .tokens = 40,
                                               .eps = 1e-6f,
                                               .residual_std = 0.01f},
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
    CHECK_OK(pk_contrastive_build(&progs, &s->params, &s->none, c, records, RECORDS, &err), &err);
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
    return pk_gradcache_run(&s->cache, feed, PK_COUNT(feed), s->group, NULL, 0, add, loss, err);
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
    struct pk_val h = pk_vit_encode(b, in.patches, PK_NONE, in.sample, &c->encoder);
    pk_scope_end(b);
    pk_scope(b, "projector");
    h = pk_gelu(b, pk_linear_bias(b, pk_mean_pool(b, h, 1), c->hidden, "fc1"));
    h = pk_l2_normalize(b, pk_linear_bias(b, h, c->width, "fc2"), 1e-8f);
    pk_scope_end(b);
    struct pk_val group = pk_input(b, "group", PK_I64, 1, (int64_t[]){RECORDS});
    pk_loss(b, pk_contrast_loss(b, h, PK_NONE, group, PK_NONE, c->temperature, 1));
    return pk_build_finish(b, err);
}

static void test_against_whole(const struct batch *b)
{
    struct pk_contrastive c = tiny(false, 0);
    c.encoder.dropout = 0.1f; // the second forward pass must drop the same
    c.encoder.seed = 11;
    struct pk_err err = {0};
    struct model whole = {.records = RECORDS};
    struct step s;
    double loss = 0;
    float exact = 0;
    CHECK_OK(build_whole(&whole, &c, &err), &err);
    CHECK_OK(model_start(&whole, 1, false, &err), &err);
    if (err.status != PK_OK || !step_start(&s, &c, 2, 2)) return;
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
static void test_cuts(const struct batch *b, bool momentum, float koleo)
{
    const struct pk_contrastive c = tiny(momentum, koleo);
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
    plan.rate = (struct pk_schedule){PK_SHAPE_COSINE, 1e-4, 3e-3, 1e-5, 10, LONG};
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
        enum pk_status s = pk_contrastive_build(&progs, &params, &none, &c, 1, total, &err);
        CHECK_FAILS(s, PK_EINVAL, &err, "an even number of 4 or more");
    }
    pk_params_free(&params);
}

static void dump_all(const char *dir, const struct batch *b, bool momentum)
{
    const struct pk_contrastive c = tiny(momentum, momentum ? 0.1f : 0);
    struct pk_err err = {0};
    struct step s;
    struct step_plan plan = case_steps();
    double loss[STEPS], first;
    if (!step_start(&s, &c, 2, 1)) return;
    struct model *x = &s.fill;
    CHECK_OK(pk_mkdirs(dir, &err), &err);
    dump_batch(dir, b);
    dump(dir, "group.i64", s.group, sizeof s.group);
    dump_arena(dir, x, "weight.f32", s.exec.weight);
    if (momentum) dump_arena(dir, x, "ema.f32", s.exec.ema);
    CHECK_OK(step_run(&s, b, false, &first, &err), &err);
    dump(dir, "projected.f32", s.cache.projected, sizeof(float) * RECORDS * OUT);
    dump(dir, "d_projected.f32", s.cache.gradient, sizeof(float) * RECORDS * OUT);
    dump_arena(dir, x, "grad.f32", s.exec.grad);
    CHECK_OK(train(&s, b, STEPS, &plan, loss, &err), &err);
    dump_arena(dir, x, "weight_after.f32", s.exec.weight);
    if (momentum) dump_arena(dir, x, "ema_after.f32", s.exec.ema);
    dump_meta(dir, x, &plan, loss,
              momentum ? "\"encoder\": [32, 2, 4], \"temperature\": 0.2, \"koleo\": 0.1,"
                       : "\"encoder\": [32, 2, 4], \"temperature\": 0.1, \"koleo\": 0,");
    step_free(&s);
}

int main(int argc, char **argv)
{
    static struct batch b;
    case_batch(&b, false);
    if (argc == 4 && !strcmp(argv[1], "dump")) {
        dump_all(argv[2], &b, !strcmp(argv[3], "momentum"));
        return TEST_END();
    }
    test_against_whole(&b);
    test_cuts(&b, false, 0);
    test_cuts(&b, true, 0);
    test_cuts(&b, true, 0.1f);
    test_overfit(&b);
    test_refused();
    return TEST_END();
}
