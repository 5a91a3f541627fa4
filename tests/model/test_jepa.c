/* test_jepa.c -- the JEPA program of a tiny model: bits that must not depend on threads or runs,
 * micro-batches that must agree to rounding, a batch that must be learned by heart.
 *
 *     test_jepa             the checks
 *     test_jepa dump DIR    everything that tests/model/test_jepa_parity.py compares with PyTorch
 */
#include "models/jepa.h"
#include "core/mask.h"
#include "tests/model/case.h"

enum { TOKENS = 40, KEEP = 8, WIDTH = 32 };

static struct pk_jepa tiny(void)
{
    struct pk_vit encoder = {.width = WIDTH,
                             .depth = 2,
                             .heads = 4,
                             .mlp_ratio = 4,
                             .tokens = TOKENS,
                             .eps = 1e-6f,
                             .residual_std = 0.01f};
    struct pk_vit predictor = encoder;
    predictor.width = 16;
    predictor.heads = 2;
    return (struct pk_jepa){.signal = case_signal(),
                            .encoder = encoder,
                            .predictor = predictor,
                            .min_block = 3,
                            .keep = {0.2, 0.2},
                            .seed = 5};
}

static bool start(struct model *x, int64_t records, int threads)
{
    struct pk_err err = {0};
    struct pk_jepa j = tiny();
    *x = (struct model){.records = records};
    enum pk_status s = pk_jepa_build(&x->prog, &x->params, &j, records, KEEP, &err);
    CHECK_OK(s, &err);
    if (s == PK_OK) CHECK_OK(s = model_start(x, threads, true, &err), &err);
    return s == PK_OK;
}

static double norm(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static double distance(const float *x, const float *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return sqrt(sum);
}

static void test_keep(void)
{
    struct pk_jepa j = tiny();
    j.keep[0] = 0.15;
    j.keep[1] = 0.25;
    int32_t least = TOKENS, most = 0;
    for (int64_t step = 0; step < 1000; step++) {
        int32_t k = pk_jepa_keep(&j, step);
        least = PK_MIN(least, k);
        most = PK_MAX(most, k);
        CHECK(k == pk_jepa_keep(&j, step));
    }
    // ceil of (6, 10): 6 itself has probability 0, and so has nothing else
    CHECK(least == 7 && most == 10);
    CHECK(pk_jepa_keep_min(&j) == 6 && pk_jepa_keep_max(&j) == 10);
}

/* Same bits with 1 and 2 threads and run after run; all gradients there and finite. */
static void test_bits(const struct batch *b)
{
    struct model x, y;
    struct pk_err err = {0};
    double first = 0, again = 0, other = 0;
    if (!start(&x, 1, 1) || !start(&y, 1, 2)) return;
    int64_t n = x.params.elements;
    float *kept = calloc((size_t)n, sizeof *kept);
    CHECK_OK(model_run(&x, b, &first, NULL, 0, &err), &err);
    CHECK(isfinite(first) && first > 0);
    memcpy(kept, x.exec.grad, (size_t)n * sizeof *kept);
    for (int64_t i = 0; i < x.params.count; i++) {
        const struct pk_param *q = &x.params.item[i];
        double size = norm(kept + q->offset, q->count);
        if (!(size > 1e-6 && isfinite(size)))
            fprintf(stderr, "%s: gradient of norm %g\n", q->name, size);
        CHECK(size > 1e-6 && isfinite(size));
        CHECK(q->trained && q->ema == !strncmp(q->name, "encoder.", 8));
        CHECK(q->decay == (q->rank == 2));
    }
    CHECK_OK(model_run(&x, b, &again, NULL, 0, &err), &err);
    CHECK(first == again && !memcmp(kept, x.exec.grad, (size_t)n * sizeof *kept));
    for (int round = 0; round < 20; round++) {
        CHECK_OK(model_run(&y, b, &other, NULL, 0, &err), &err);
        CHECK(first == other && !memcmp(kept, y.exec.grad, (size_t)n * sizeof *kept));
    }
    free(kept);
    model_free(&x);
    model_free(&y);
}

/* Cutting the batch otherwise changes only the order of sums. */
static void test_micro_batches(const struct batch *b)
{
    struct model whole;
    struct pk_err err = {0};
    double loss = 0, l = 0;
    if (!start(&whole, RECORDS, 1)) return;
    CHECK_OK(model_run(&whole, b, &loss, NULL, 0, &err), &err);
    for (int64_t records = 1; records < RECORDS; records *= 2) {
        struct model x;
        if (!start(&x, records, 2)) break;
        CHECK_OK(model_run(&x, b, &l, NULL, 0, &err), &err);
        CHECK_NEAR(l, loss, 1e-6 * loss);
        double worst = 0;
        for (int64_t i = 0; i < x.params.count; i++) {
            const struct pk_param *q = &x.params.item[i];
            const float *g = whole.exec.grad + q->offset;
            double d = distance(x.exec.grad + q->offset, g, q->count) / norm(g, q->count);
            worst = PK_MAX(worst, d);
            CHECK(d < 2e-6);
        }
        fprintf(stderr, "micro-batches of %d: gradients within %.2g\n", (int)records, worst);
        model_free(&x);
    }
    model_free(&whole);
}

/* A batch given in two runs, added up, is the batch given in one. */
static void test_accumulation(const struct batch *b)
{
    struct model x;
    struct pk_err err = {0};
    if (!start(&x, RECORDS, 1)) return;
    int64_t n = x.params.elements;
    float *once = calloc((size_t)n, sizeof *once);
    const struct pk_feed feed[] = {{"signal", b->signal, 0},
                                   {"gain", b->gain, 0},
                                   {"offset", b->offset, 0},
                                   {"start", b->start, 0},
                                   {"sample", b->sample, 0}};
    struct pk_exec_batch run = {
        .feed = feed, .feeds = PK_COUNT(feed), .micros = 3, .loss_scale = 0.25};
    CHECK_OK(pk_exec_run(&x.exec, &x.bound, &run, &err), &err);
    memcpy(once, x.exec.grad, (size_t)n * sizeof *once);
    run.add = true;
    CHECK_OK(pk_exec_run(&x.exec, &x.bound, &run, &err), &err);
    for (int64_t i = 0; i < n; i++) once[i] *= 2;
    CHECK(distance(once, x.exec.grad, n) < 1e-6 * norm(once, n));
    free(once);
    model_free(&x);
}

static void test_overfit(const struct batch *b)
{
    enum { LONG = 1200 };
    struct model x;
    struct pk_err err = {0};
    static double loss[LONG];
    struct step_plan plan = case_steps();
    plan.rate = (struct pk_schedule){PK_SHAPE_COSINE, 1e-4, 5e-3, 1e-5, 20, LONG, 0};
    plan.decay = (struct pk_schedule){.shape = PK_SHAPE_CONSTANT, .peak = 0, .steps = LONG};
    plan.momentum = (struct pk_schedule){.shape = PK_SHAPE_CONSTANT, .peak = 1, .steps = LONG};
    if (!start(&x, 4, 2)) return;
    CHECK_OK(model_train(&x, b, LONG, &plan, loss, &err), &err);
    fprintf(stderr, "one batch by heart: loss %.4f -> %.4f in %d steps\n", loss[0], loss[LONG - 1],
            LONG);
    CHECK(loss[LONG - 1] < 0.2 * loss[0]);
    model_free(&x);
}

/* Dropout and dropped paths are of the context encoder alone; paths rise over its blocks. The draws
 * are the sample's, so that the cut of the batch does not matter. */
static void test_dropout(const struct batch *b)
{
    struct pk_jepa j = tiny();
    struct pk_err err = {0};
    double loss[3];
    j.encoder.dropout = 0.1f;
    j.encoder.drop_path = 0.5f;
    for (int i = 0; i < 3; i++) {
        const int64_t records = i == 1 ? 2 : RECORDS;
        const struct pk_jepa still = tiny();
        struct model x = {.records = records};
        int drops = 0, paths = 0;
        CHECK_OK(pk_jepa_build(&x.prog, &x.params, i < 2 ? &j : &still, records, KEEP, &err), &err);
        for (int64_t k = 0; k < x.prog.nodes; k++) {
            const struct pk_node *n = &x.prog.node[k];
            const bool path = n->op == PK_OP_DROPOUT && n->attr.dropout.record;
            drops += n->op == PK_OP_DROPOUT && !path;
            paths += path;
            if (path) CHECK(n->attr.dropout.p == 0.5f); // of the last of two blocks
        }
        // both branches of a block, forward and backward
        CHECK(drops == (i < 2 ? 2 * 3 * 2 : 0) && paths == (i < 2 ? 2 * 2 : 0));
        CHECK_OK(model_start(&x, i + 1, true, &err), &err);
        CHECK_OK(model_run(&x, b, &loss[i], NULL, 0, &err), &err);
        model_free(&x);
    }
    CHECK_NEAR(loss[1], loss[0], 1e-6 * loss[0]);
    CHECK(fabs(loss[2] - loss[0]) > 1e-5);
}

static void dump_all(const char *dir, const struct batch *b)
{
    struct model x;
    struct pk_err err = {0};
    struct step_plan plan = case_steps();
    double loss[STEPS];
    int32_t kept[RECORDS][KEEP], hidden[RECORDS][TOKENS - KEEP];
    float moments[2][WIDTH], embedding[RECORDS][WIDTH];
    struct pk_fetch fetch[] = {{"target_moments", moments}, {"embedding", embedding}};
    if (!start(&x, RECORDS, 1)) return;
    for (int i = 0; i < RECORDS; i++)
        pk_mask_sample(5, (uint64_t)b->sample[i], TOKENS, KEEP, 3, kept[i], hidden[i]);
    CHECK_OK(pk_mkdirs(dir, &err), &err);
    dump_batch(dir, b);
    dump(dir, "kept.i32", kept, sizeof kept);
    dump(dir, "hidden.i32", hidden, sizeof hidden);
    dump_arena(dir, &x, "weight.f32", x.exec.weight);
    dump_arena(dir, &x, "ema.f32", x.exec.ema);
    CHECK_OK(model_run(&x, b, NULL, fetch, 2, &err), &err);
    dump(dir, "moments.f32", moments, sizeof moments);
    dump(dir, "embedding.f32", embedding, sizeof embedding);
    dump_arena(dir, &x, "grad.f32", x.exec.grad);
    CHECK_OK(model_train(&x, b, STEPS, &plan, loss, &err), &err);
    dump_arena(dir, &x, "weight_after.f32", x.exec.weight);
    dump_arena(dir, &x, "ema_after.f32", x.exec.ema);
    dump_meta(dir, &x, &plan, loss,
              "\"encoder\": [32, 2, 4], \"predictor\": [16, 2, 2], \"keep\": 8,");
    model_free(&x);
}

int main(int argc, char **argv)
{
    static struct batch b;
    case_batch(&b, false);
    if (argc == 3 && !strcmp(argv[1], "dump")) {
        dump_all(argv[2], &b);
        return TEST_END();
    }
    test_keep();
    test_bits(&b);
    test_micro_batches(&b);
    test_accumulation(&b);
    test_overfit(&b);
    test_dropout(&b);
    return TEST_END();
}
