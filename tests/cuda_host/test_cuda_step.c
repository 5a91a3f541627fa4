/* test_cuda_step.c -- whole JEPA training steps of a tiny model through the CUDA backend.
 *
 * Runs on the host executor in CI and, the same source, on a GPU (PK_TEST_DEVICE). Against the CPU
 * backend: loss, gradients, twenty steps. Against itself: graph and eager mode, run after run, two
 * programs that share an arena, a batch in parts, a resume, on the other device too: the same bits
 * where nothing but the way of running differs. And what goes wrong: a gradient that is not finite,
 * a crop outside its record, memory that runs out. */
#include "models/jepa.h"
#include "cuda/backend.h"
#include "tests/model/case.h"

enum { TOKENS = 40, KEEPS = 2, LONG_RUN = 20 };

static const int32_t keep_of[KEEPS] = {8, 11}; // two programs, one arena

struct run { // a model with both programs, ready to train
    struct pk_params params;
    struct pk_prog prog[KEEPS];
    struct pk_bound bound[KEEPS];
    struct pk_exec exec;
    int64_t micro;
};

struct how {
    bool cuda, eager, skip_nan;
    enum pk_dtype storage;
    int64_t micro; // records of a micro-batch
    const char *name;
};

static const struct how cpu = {.micro = 1, .name = "CPU"};
static const struct how gpu32 = {.cuda = true, .micro = RECORDS, .name = "CUDA fp32"};
static const struct how gpu16 = {
    .cuda = true, .storage = PK_BF16, .micro = RECORDS, .name = "CUDA bf16"};

static struct pk_jepa tiny(void)
{
    struct pk_vit encoder = {.width = 32,
                             .depth = 2,
                             .heads = 1, // 32 wide, a head that tensor cores compute
                             .mlp_ratio = 4,
                             .tokens = TOKENS,
                             .eps = 1e-6f,
                             .residual_std = 0.01f};
    struct pk_vit predictor = encoder;
    predictor.width = 24; // rows that are no multiple of 32 bytes in bf16
    return (struct pk_jepa){.signal = case_signal(),
                            .encoder = encoder,
                            .predictor = predictor,
                            .min_block = 3,
                            .keep = {0.2, 0.2},
                            .seed = 5};
}

static void finish(struct run *r)
{
    for (int i = 0; i < KEEPS; i++) pk_bound_free(&r->bound[i]);
    pk_exec_free(&r->exec);
    for (int i = 0; i < KEEPS; i++) pk_prog_free(&r->prog[i]);
    pk_params_free(&r->params);
}

/* Arenas and programs; the weights are still zero. */
static enum pk_status open_run(struct run *r, const struct how *h, struct pk_err *err)
{
    struct pk_jepa j = tiny();
    memset(r, 0, sizeof *r);
    r->micro = h->micro;
    r->params.storage = h->storage;
    for (int i = 0; i < KEEPS; i++)
        PK_TRY(pk_jepa_build(&r->prog[i], &r->params, &j, h->micro, keep_of[i], err));
    struct pk_exec_spec spec = {.params = &r->params,
                                .threads = 1,
                                .ema = true,
                                .train = true,
                                .backend = h->cuda ? pk_cuda_backend() : NULL,
                                .eager = h->eager,
                                .skip_nan = h->skip_nan};
    struct step_plan plan = case_steps();
    PK_TRY(pk_exec_create(&r->exec, &spec, err));
    PK_TRY(pk_exec_optim(&r->exec, &plan.optim, err));
    for (int i = 0; i < KEEPS; i++) PK_TRY(pk_exec_bind(&r->exec, &r->bound[i], &r->prog[i], err));
    return PK_OK;
}

static bool start(struct run *r, const struct how *h)
{
    struct pk_err err = {0};
    enum pk_status s = open_run(r, h, &err);
    if (s == PK_OK) {
        struct model view = {.params = r->params, .exec = r->exec};
        model_perturb(&view);
        s = pk_exec_push(&r->exec, &err);
    }
    CHECK_OK(s, &err);
    if (s != PK_OK) finish(r);
    return s == PK_OK;
}

/* Forward and backward; in `parts` runs whose gradients add up. */
static enum pk_status compute(struct run *r, const struct batch *b, int which, int parts,
                              const struct pk_fetch *fetch, int fetches, struct pk_err *err)
{
    const size_t n = (size_t)r->micro;
    const int64_t micros = RECORDS / r->micro / parts;
    for (int p = 0; p < parts; p++) {
        const size_t at = (size_t)p * RECORDS / (size_t)parts;
        const struct pk_feed feed[] = {{"signal", b->signal[at], n * sizeof b->signal[0]},
                                       {"gain", b->gain[at], n * sizeof b->gain[0]},
                                       {"offset", b->offset[at], n * sizeof b->offset[0]},
                                       {"start", b->start + at, n * sizeof b->start[0]},
                                       {"sample", b->sample + at, n * sizeof b->sample[0]}};
        struct pk_exec_batch run = {.feed = feed,
                                    .feeds = (int)PK_COUNT(feed),
                                    .fetch = fetch,
                                    .fetches = p == parts - 1 ? fetches : 0,
                                    .micros = micros,
                                    .loss_scale = 1 / (double)(micros * parts),
                                    .add = p > 0};
        PK_TRY(pk_exec_run(&r->exec, &r->bound[which], &run, err));
    }
    return PK_OK;
}

/* Steps [from, to); the programs take turns. loss may be NULL. */
static enum pk_status train(struct run *r, const struct batch *b, int from, int to, int parts,
                            double *loss, struct pk_err *err)
{
    struct step_plan plan = case_steps();
    plan.rate.steps = plan.decay.steps = plan.momentum.steps = LONG_RUN;
    for (int i = from; i < to; i++) {
        struct pk_optim_step step = {.step = i,
                                     .learning_rate = pk_schedule_at(&plan.rate, i),
                                     .weight_decay = pk_schedule_at(&plan.decay, i),
                                     .ema_momentum = pk_schedule_at(&plan.momentum, i)};
        PK_TRY(compute(r, b, i % KEEPS, parts, NULL, 0, err));
        PK_TRY(pk_exec_update(&r->exec, &step, err));
        for (bool have = true; have;) {
            struct pk_exec_result t;
            PK_TRY(
                pk_exec_result(&r->exec, i == to - 1 ? 0 : pk_exec_lag(&r->exec), &t, &have, err));
            if (have && !t.taken) return pk_fail(err, t.why.status, "%s", t.why.message);
            if (have && loss) loss[t.step] = t.loss;
        }
    }
    return pk_exec_pull(&r->exec, err);
}

static double distance(const float *x, const float *y, int64_t n)
{
    double off = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        off += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        size += (double)y[i] * (double)y[i];
    }
    return sqrt(off / size);
}

static bool same_state(const struct run *x, const struct run *y)
{
    const size_t bytes = (size_t)x->params.elements * sizeof(float);
    return !memcmp(x->exec.weight, y->exec.weight, bytes) &&
           !memcmp(x->exec.ema, y->exec.ema, bytes) && !memcmp(x->exec.m, y->exec.m, bytes) &&
           !memcmp(x->exec.v, y->exec.v, bytes);
}

/* The gradient of every parameter, of both programs. fp32 differs from the CPU by the order of
 * sums; bf16 by 2^-9 per stored activation, through four blocks forward and back. */
static void test_gradients(const struct batch *b, const struct how *h, double allowed)
{
    struct run x, y;
    struct pk_err err = {0};
    float moments[2][32], other[2][32];
    const struct pk_fetch fetch = {"target_moments", other};
    struct pk_fetch each[1] = {{"target_moments", NULL}};
    double worst = 0;
    struct how whole = cpu;
    whole.micro = RECORDS; // outputs of the whole batch in one piece
    if (!start(&x, &whole)) return;
    if (!start(&y, h)) {
        finish(&x);
        return;
    }
    each[0].data = moments;
    CHECK_OK(pk_alloc(&y.exec.grad, (size_t)y.params.elements, sizeof(float), "copy", &err), &err);
    for (int k = 0; k < KEEPS; k++) {
        CHECK_OK(compute(&x, b, k, 1, each, 1, &err), &err);
        CHECK_OK(compute(&y, b, k, 1, &fetch, 1, &err), &err);
        CHECK_OK(pk_exec_pull(&y.exec, &err), &err);
        CHECK(distance(&other[0][0], &moments[0][0], 64) < allowed);
        for (int64_t i = 0; i < x.params.count; i++) {
            const struct pk_param *q = &x.params.item[i];
            double d = distance(y.exec.grad + q->offset, x.exec.grad + q->offset, q->count);
            if (!(d < allowed)) fprintf(stderr, "%s: %s is off by %.3g\n", h->name, q->name, d);
            CHECK(d < allowed);
            worst = PK_MAX(worst, d);
        }
    }
    fprintf(stderr, "%s: gradients within %.2g of the CPU's\n", h->name, worst);
    finish(&x);
    finish(&y);
}

/* Twenty steps on one batch: fp32 follows the CPU closely, bf16 learns as much. */
static void test_parity(const struct batch *b)
{
    struct run x, y, z;
    struct pk_err err = {0};
    double loss[3][LONG_RUN], off32 = 0, off16 = 0;
    if (!start(&x, &cpu) || !start(&y, &gpu32) || !start(&z, &gpu16)) return;
    CHECK_OK(train(&x, b, 0, LONG_RUN, 1, loss[0], &err), &err);
    CHECK_OK(train(&y, b, 0, LONG_RUN, 1, loss[1], &err), &err);
    CHECK_OK(train(&z, b, 0, LONG_RUN, 1, loss[2], &err), &err);
    for (int i = 0; i < LONG_RUN; i++) {
        off32 = fmax(off32, fabs(loss[1][i] / loss[0][i] - 1));
        off16 = fmax(off16, fabs(loss[2][i] / loss[0][i] - 1));
    }
    double w32 = distance(y.exec.weight, x.exec.weight, x.params.elements);
    double w16 = distance(z.exec.weight, x.exec.weight, x.params.elements);
    fprintf(stderr,
            "20 steps, loss %.4f -> %.4f; from the CPU's: fp32 loss %.2g, weights %.2g; bf16 loss "
            "%.2g, weights %.2g\n",
            loss[0][0], loss[0][LONG_RUN - 1], off32, w32, off16, w16);
    CHECK(loss[0][LONG_RUN - 1] < 0.9 * loss[0][0]);
    CHECK(off32 < 1e-4 && w32 < 1e-3); // AdamW turns tiny gradients of either sign into steps
    CHECK(off16 < 0.03 && w16 < 0.1);
    finish(&x);
    finish(&y);
    finish(&z);
}

/* A few steps again and again: in graphs, eagerly, resumed. */
static void test_bits(const struct batch *b, const struct how *h)
{
    enum { FEW = 3 };
    struct run x, y;
    struct pk_err err = {0};
    struct how eager = *h;
    double loss[FEW], again[FEW];
    eager.eager = true;
    if (!start(&x, h)) return;
    CHECK_OK(train(&x, b, 0, FEW, 1, loss, &err), &err);
    for (int turn = 0; turn < 3; turn++) { // as it was; eager; resumed after two steps
        if (!start(&y, turn == 1 ? &eager : h)) break;
        CHECK_OK(train(&y, b, 0, turn == 2 ? FEW - 1 : FEW, 1, again, &err), &err);
        struct run z, *last = &y;
        if (turn == 2) {
            if (!start(&z, h)) break;
            const size_t bytes = (size_t)x.params.elements * sizeof(float);
            memcpy(z.exec.weight, y.exec.weight, bytes);
            memcpy(z.exec.ema, y.exec.ema, bytes);
            memcpy(z.exec.m, y.exec.m, bytes);
            memcpy(z.exec.v, y.exec.v, bytes);
            finish(&y);
            last = &z;
            CHECK_OK(pk_exec_push(&z.exec, &err), &err);
            CHECK_OK(train(&z, b, FEW - 1, FEW, 1, again, &err), &err);
        }
        CHECK(same_state(&x, last));
        CHECK(!memcmp(loss, again, sizeof loss));
        finish(last);
    }
    finish(&x);
}

/* A batch in two parts has the gradients of the whole, to rounding. */
static void test_parts(const struct batch *b)
{
    struct run x, y;
    struct pk_err err = {0};
    struct how half = gpu32;
    double loss[2][3];
    half.micro = RECORDS / 2;
    if (!start(&x, &gpu32) || !start(&y, &half)) return;
    CHECK_OK(train(&x, b, 0, 3, 1, loss[0], &err), &err);
    CHECK_OK(train(&y, b, 0, 3, 2, loss[1], &err), &err);
    for (int i = 0; i < 3; i++) CHECK_NEAR(loss[1][i], loss[0][i], 1e-5 * loss[0][i]);
    CHECK(distance(y.exec.weight, x.exec.weight, x.params.elements) < 1e-4);
    finish(&y);
    if (!start(&y, &half)) return; // two micro-batches of one run are the same as two parts
    CHECK_OK(train(&y, b, 0, 3, 1, loss[1], &err), &err);
    for (int i = 0; i < 3; i++) CHECK_NEAR(loss[1][i], loss[0][i], 1e-5 * loss[0][i]);
    finish(&x);
    finish(&y);
}

/* A run that changes the device in the middle goes on as on one. */
static void test_other_device(const struct batch *b)
{
    struct run x, y;
    struct pk_err err = {0};
    double loss[LONG_RUN], mixed[LONG_RUN];
    if (!start(&x, &cpu) || !start(&y, &gpu32)) return;
    const size_t bytes = (size_t)x.params.elements * sizeof(float);
    CHECK_OK(train(&y, b, 0, 4, 1, mixed, &err), &err);
    struct run z;
    if (!start(&z, &cpu)) return;
    memcpy(z.exec.weight, y.exec.weight, bytes);
    memcpy(z.exec.ema, y.exec.ema, bytes);
    memcpy(z.exec.m, y.exec.m, bytes);
    memcpy(z.exec.v, y.exec.v, bytes);
    CHECK_OK(train(&z, b, 4, 8, 1, mixed, &err), &err);
    CHECK_OK(train(&x, b, 0, 8, 1, loss, &err), &err);
    for (int i = 0; i < 8; i++) CHECK_NEAR(mixed[i], loss[i], 1e-4 * loss[i]);
    finish(&x);
    finish(&y);
    finish(&z);
}

/* One step with a weight that is NaN: nothing changes, all later steps are left out unless they are
 * to be skipped only. */
static void test_not_finite(const struct batch *b, bool skip)
{
    struct run x;
    struct pk_err err = {0};
    struct how h = gpu16;
    struct pk_exec_result t;
    struct pk_optim_step step = {.step = 0, .learning_rate = 1e-3, .ema_momentum = 0.5};
    bool have;
    h.skip_nan = skip;
    if (!start(&x, &h)) return;
    const size_t bytes = (size_t)x.params.elements * sizeof(float);
    float *before = malloc(bytes);
    const float good = x.exec.weight[0];
    x.exec.weight[0] = NAN;
    memcpy(before, x.exec.weight, bytes);
    CHECK_OK(pk_exec_push(&x.exec, &err), &err);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(compute(&x, b, 0, 1, NULL, 0, &err), &err);
        CHECK_OK(pk_exec_update(&x.exec, &step, &err), &err);
        CHECK_OK(pk_exec_result(&x.exec, 0, &t, &have, &err), &err);
        CHECK(have && !t.taken && t.why.status == PK_EDIVERGED);
    }
    CHECK(strstr(t.why.message, "loss") != NULL);
    CHECK_OK(pk_exec_pull(&x.exec, &err), &err);
    CHECK(!memcmp(before, x.exec.weight, bytes));
    x.exec.weight[0] = good; // mended: taken again only where steps are skipped
    CHECK_OK(pk_exec_push(&x.exec, &err), &err);
    CHECK_OK(compute(&x, b, 0, 1, NULL, 0, &err), &err);
    CHECK_OK(pk_exec_update(&x.exec, &step, &err), &err);
    CHECK_OK(pk_exec_result(&x.exec, 0, &t, &have, &err), &err);
    CHECK(have && t.taken == skip);
    free(before);
    finish(&x);
}

/* A crop that starts outside its record is named, not read. */
static void test_bad_crop(struct batch *b)
{
    struct run x;
    struct pk_err err = {0};
    struct pk_exec_result t;
    struct pk_optim_step step = {.step = 0, .learning_rate = 1e-3, .ema_momentum = 0.5};
    bool have;
    if (!start(&x, &gpu16)) return;
    const int32_t good = b->start[3];
    b->start[3] = SAMPLES;
    CHECK_OK(compute(&x, b, 0, 1, NULL, 0, &err), &err);
    CHECK_OK(pk_exec_update(&x.exec, &step, &err), &err);
    CHECK_FAILS(pk_exec_result(&x.exec, 0, &t, &have, &err), PK_EDATA, &err, "record 3");
    b->start[3] = good;
    finish(&x);
}

/* What is allocated is what was predicted. */
static void test_memory(void)
{
    struct run x;
    struct pk_text table = {0};
    if (!start(&x, &gpu16)) return;
    struct pk_exec_need need = {
        .elements = x.params.elements, .storage = PK_BF16, .ema = true, .train = true};
    for (int k = 0; k < KEEPS; k++) {
        need.inputs = PK_MAX(need.inputs, x.bound[k].plan.inputs);
        need.arena = PK_MAX(need.arena, x.bound[k].plan.arena);
        need.constants += x.prog[k].constant_len;
    }
    int64_t held = pk_cuda_memory(&x.exec, &table);
    int64_t predicted = pk_cuda_backend()->predict(&need, NULL);
    if (!strstr(table.s ? table.s : "", "GEMM")) predicted -= 32 << 20; // no cuBLASLt here
    fprintf(stderr, "memory held %lld, predicted %lld\n%s", (long long)held, (long long)predicted,
            table.s ? table.s : "");
    CHECK(held > 0 && fabs((double)(held - predicted)) < 0.02 * (double)held);
    CHECK(table.s && strstr(table.s, "activations"));
    pk_text_free(&table);
    finish(&x);
}

int main(void)
{
    static struct batch b;
    struct pk_err err = {0};
    if (pk_cuda_usable(&err) != PK_OK) {
        fprintf(stderr, "skipped: %s\n", err.message);
        return 77;
    }
    case_batch(&b, false);
    test_gradients(&b, &gpu32, 2e-5);
    test_gradients(&b, &gpu16, 0.05);
    test_parity(&b);
    test_bits(&b, &gpu32);
    test_bits(&b, &gpu16);
    test_parts(&b);
    test_other_device(&b);
    test_not_finite(&b, false);
    test_not_finite(&b, true);
    test_bad_crop(&b);
    test_memory();
    return TEST_END();
}
