/* test_cuda_mae.c -- training steps of tiny masked autoencoders through the CUDA backend, held
 * against the CPU: gradients, ten steps, the same bits run after run, records that lack leads.
 *
 * Runs on the host executor in CI and, the same source, on a GPU (PK_TEST_DEVICE). What belongs to
 * the backend and not to the model is in test_cuda_step.c. */
#include "models/mae.h"
#include "cuda/backend.h"
#include "tests/model/case.h"

enum { LONG_RUN = 10 };

struct run {
    struct pk_params params;
    struct pk_prog prog;
    struct pk_bound bound;
    struct pk_exec exec;
};

static struct pk_mae tiny(enum pk_tokenise t)
{
    struct pk_mae m = {.signal = case_signal(), .seed = 5};
    if (t == PK_TOKENISE_LEAD) {
        m.signal.patch = 200;
        m.signal.tokens = 1;
    }
    m.signal.layout = pk_token_layout(t);
    m.encoder = (struct pk_vit){.tokenise = t,
                                .qkv_bias = true,
                                .width = 32,
                                .depth = 2,
                                .heads = 1, // 32 wide, a head that tensor cores compute
                                .mlp_ratio = 4,
                                .tokens = pk_token_grid(&m.signal, t).tokens,
                                .eps = 1e-6f,
                                .residual_std = 0.01f};
    m.decoder = m.encoder;
    m.decoder.width = 24; // rows that are no multiple of 32 bytes in bf16
    m.decoder.depth = 1;
    m.keep = t == PK_TOKENISE_LEAD ? 1 : 9;
    return m;
}

static void finish(struct run *r)
{
    pk_bound_free(&r->bound);
    pk_exec_free(&r->exec);
    pk_prog_free(&r->prog);
    pk_params_free(&r->params);
}

static bool start(struct run *r, enum pk_tokenise t, bool cuda, enum pk_dtype storage)
{
    struct pk_err err = {0};
    struct pk_mae m = tiny(t);
    struct step_plan plan = case_steps();
    memset(r, 0, sizeof *r);
    r->params.storage = storage;
    struct pk_exec_spec spec = {.params = &r->params,
                                .threads = 1,
                                .train = true,
                                .backend = cuda ? pk_cuda_backend() : NULL};
    enum pk_status s = pk_mae_build(&r->prog, &r->params, &m, RECORDS, false, &err);
    if (s == PK_OK) s = pk_exec_create(&r->exec, &spec, &err);
    if (s == PK_OK) s = pk_exec_optim(&r->exec, &plan.optim, &err);
    if (s == PK_OK) s = pk_exec_bind(&r->exec, &r->bound, &r->prog, &err);
    if (s == PK_OK) {
        struct model view = {.params = r->params, .exec = r->exec};
        model_perturb(&view);
        s = pk_exec_push(&r->exec, &err);
    }
    CHECK_OK(s, &err);
    if (s != PK_OK) finish(r);
    return s == PK_OK;
}

static enum pk_status compute(struct run *r, const struct batch *b, const struct pk_fetch *fetch,
                              int fetches, struct pk_err *err)
{
    const struct pk_feed feed[] = {{"signal", b->signal, sizeof b->signal},
                                   {"gain", b->gain, sizeof b->gain},
                                   {"offset", b->offset, sizeof b->offset},
                                   {"start", b->start, sizeof b->start},
                                   {"sample", b->sample, sizeof b->sample}};
    struct pk_exec_batch run = {.feed = feed,
                                .feeds = (int)PK_COUNT(feed),
                                .fetch = fetch,
                                .fetches = fetches,
                                .micros = 1,
                                .loss_scale = 1};
    return pk_exec_run(&r->exec, &r->bound, &run, err);
}

static enum pk_status train(struct run *r, const struct batch *b, double loss[LONG_RUN],
                            struct pk_err *err)
{
    struct step_plan plan = case_steps();
    plan.rate.steps = plan.decay.steps = LONG_RUN;
    for (int i = 0; i < LONG_RUN; i++) {
        struct pk_optim_step step = {.step = i,
                                     .learning_rate = pk_schedule_at(&plan.rate, i),
                                     .weight_decay = pk_schedule_at(&plan.decay, i)};
        PK_TRY(compute(r, b, NULL, 0, err));
        PK_TRY(pk_exec_update(&r->exec, &step, err));
        for (bool have = true; have;) {
            struct pk_exec_result t;
            PK_TRY(pk_exec_result(&r->exec, i == LONG_RUN - 1 ? 0 : pk_exec_lag(&r->exec), &t,
                                  &have, err));
            if (have && !t.taken) return pk_fail(err, t.why.status, "%s", t.why.message);
            if (have) loss[t.step] = t.loss;
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

/* fp32 differs from the CPU by the order of sums; bf16 by 2^-9 per stored activation. */
static void test_gradients(const struct batch *b, enum pk_tokenise t, enum pk_dtype storage,
                           double allowed)
{
    struct run x, y;
    struct pk_err err = {0};
    static float embedding[2][RECORDS][32];
    double worst = 0;
    if (!start(&x, t, false, PK_F32) || !start(&y, t, true, storage)) return;
    CHECK_OK(pk_alloc(&y.exec.grad, (size_t)y.params.elements, sizeof(float), "copy", &err), &err);
    CHECK_OK(compute(&x, b, &(struct pk_fetch){"embedding", embedding[0]}, 1, &err), &err);
    CHECK_OK(compute(&y, b, &(struct pk_fetch){"embedding", embedding[1]}, 1, &err), &err);
    CHECK_OK(pk_exec_pull(&y.exec, &err), &err);
    CHECK(distance(embedding[1][0], embedding[0][0], RECORDS * 32) < allowed);
    for (int64_t i = 0; i < x.params.count; i++) {
        const struct pk_param *q = &x.params.item[i];
        double d = distance(y.exec.grad + q->offset, x.exec.grad + q->offset, q->count);
        if (!(d < allowed))
            fprintf(stderr, "%s: %s is off by %.3g\n", pk_tokenise_name(t), q->name, d);
        CHECK(d < allowed);
        worst = PK_MAX(worst, d);
    }
    fprintf(stderr, "%s, %s: gradients within %.2g of the CPU's\n", pk_tokenise_name(t),
            storage == PK_F32 ? "fp32" : "bf16", worst);
    finish(&x);
    finish(&y);
}

/* fp32 follows the CPU closely, bf16 learns as much, and a second run has the same bits. */
static void test_steps(const struct batch *b, enum pk_tokenise t)
{
    struct run x, y, z, again;
    struct pk_err err = {0};
    double loss[4][LONG_RUN], off32 = 0, off16 = 0;
    if (!start(&x, t, false, PK_F32) || !start(&y, t, true, PK_F32)) return;
    if (!start(&z, t, true, PK_BF16) || !start(&again, t, true, PK_BF16)) return;
    CHECK_OK(train(&x, b, loss[0], &err), &err);
    CHECK_OK(train(&y, b, loss[1], &err), &err);
    CHECK_OK(train(&z, b, loss[2], &err), &err);
    CHECK_OK(train(&again, b, loss[3], &err), &err);
    for (int i = 0; i < LONG_RUN; i++) {
        off32 = fmax(off32, fabs(loss[1][i] / loss[0][i] - 1));
        off16 = fmax(off16, fabs(loss[2][i] / loss[0][i] - 1));
    }
    double w32 = distance(y.exec.weight, x.exec.weight, x.params.elements);
    double w16 = distance(z.exec.weight, x.exec.weight, x.params.elements);
    fprintf(stderr,
            "%s: 10 steps, loss %.4f -> %.4f; from the CPU's: fp32 loss %.2g, weights %.2g; bf16 "
            "loss %.2g, weights %.2g\n",
            pk_tokenise_name(t), loss[0][0], loss[0][LONG_RUN - 1], off32, w32, off16, w16);
    CHECK(loss[0][LONG_RUN - 1] < 0.95 * loss[0][0]);
    CHECK(off32 < 1e-4 && w32 < 1e-3); // AdamW turns tiny gradients of either sign into steps
    CHECK(off16 < 0.03 && w16 < 0.1);
    CHECK(!memcmp(loss[2], loss[3], sizeof loss[2]));
    CHECK(!memcmp(z.exec.weight, again.exec.weight,
                  (size_t)z.params.elements * sizeof *z.exec.weight));
    finish(&x);
    finish(&y);
    finish(&z);
    finish(&again);
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
    b.gain[1][0] = b.offset[1][0] = 0; // leads that two of the records do not have
    b.gain[4][2] = b.offset[4][2] = b.gain[4][3] = b.offset[4][3] = 0;
    for (int t = PK_TOKENISE_TIME; t < PK_TOKENISE_COUNT; t++) {
        test_gradients(&b, (enum pk_tokenise)t, PK_F32, 2e-5);
        test_gradients(&b, (enum pk_tokenise)t, PK_BF16, 0.05);
        test_steps(&b, (enum pk_tokenise)t);
    }
    return TEST_END();
}
