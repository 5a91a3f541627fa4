/* test_state.c -- running statistics of batch norm through whole steps: what a step moves, what it
 * leaves alone, and that neither threads nor the cut into runs change a bit. */
#include "core/build.h"
#include "core/exec.h"
#include "core/rng.h"
#include "tests/test.h"
#include "tools/weights.h"

enum { MICROS = 12, B = 2, T = 9, C = 5, CLASSES = 3, STEPS = 3 };

static float x[MICROS][B][T][C];
static uint8_t label[MICROS][B][CLASSES];

struct run {
    struct pk_params params;
    struct pk_prog prog;
    struct pk_exec exec;
    struct pk_bound bound;
};

static void fill(void)
{
    struct pk_rng r = pk_rng_make(5, PK_RNG_TEST, 0, 0);
    float *at = &x[0][0][0][0];
    for (size_t i = 0; i < sizeof x / sizeof *at; i++) at[i] = (float)(2 + 3 * pk_rng_normal(&r));
    for (int m = 0; m < MICROS; m++)
        for (int b = 0; b < B; b++) label[m][b][pk_rng_below(&r, CLASSES)] = 1;
}

/* x -> batch norm -> linear -> pooled -> loss; `frozen` holds the norm in a frozen scope. */
static void start(struct run *t, int threads, bool train, bool frozen)
{
    struct pk_err err = {0};
    struct pk_build *b;
    const struct pk_batchnorm bn = {.eps = 1e-5f, .momentum = 0.1f, .gain = 1, .train = train};
    *t = (struct run){.params = {0}};
    CHECK_OK(pk_build_begin(&b, &t->prog, &t->params, &err), &err);
    struct pk_val in = pk_input(b, "x", PK_F32, 3, (int64_t[]){B, T, C});
    struct pk_val y = pk_input(b, "label", PK_U8, 2, (int64_t[]){B, CLASSES});
    if (frozen) pk_scope_frozen(b, true);
    struct pk_val h = pk_batchnorm(b, in, &bn, "bn");
    if (frozen) pk_scope_frozen(b, false);
    h = pk_linear_bias(b, pk_mean_pool(b, pk_gelu(b, h), 0), CLASSES, "out");
    pk_loss(b, pk_bce_loss(b, h, y));
    CHECK_OK(pk_build_finish(b, &err), &err);
    struct pk_exec_spec spec = {.params = &t->params, .threads = threads, .train = true};
    CHECK_OK(pk_exec_create(&t->exec, &spec, &err), &err);
    CHECK_OK(pk_exec_bind(&t->exec, &t->bound, &t->prog, &err), &err);
    CHECK_OK(pk_exec_optim(&t->exec, &(struct pk_optim_spec){0.9, 0.99, 1e-6, 0.01}, &err), &err);
    pk_params_init(&t->params, 1, t->exec.weight);
}

static void stop(struct run *t)
{
    pk_bound_free(&t->bound);
    pk_exec_free(&t->exec);
    pk_prog_free(&t->prog);
    pk_params_free(&t->params);
}

/* A step over all micro-batches in `runs` runs, the gradient multiplied by `loss_scale` MICROS. */
static struct pk_exec_result step(struct run *t, int64_t number, int runs)
{
    struct pk_err err = {0};
    struct pk_exec_result result = {0};
    bool have = false;
    for (int i = 0; i < runs; i++) {
        const int64_t from = (int64_t)MICROS * i / runs, to = (int64_t)MICROS * (i + 1) / runs;
        const struct pk_feed feed[] = {{"x", x[from], sizeof x[0]},
                                       {"label", label[from], sizeof label[0]}};
        const struct pk_exec_batch batch = {.feed = feed,
                                            .feeds = 2,
                                            .micros = to - from,
                                            .loss_scale = 1.0 / MICROS,
                                            .add = i > 0};
        CHECK_OK(pk_exec_run(&t->exec, &t->bound, &batch, &err), &err);
    }
    CHECK_OK(pk_exec_update(&t->exec,
                            &(struct pk_optim_step){.step = number, .learning_rate = 1e-3}, &err),
             &err);
    CHECK_OK(pk_exec_result(&t->exec, 0, &result, &have, &err), &err);
    CHECK(have);
    return result;
}

static const float *state(const struct run *t, const char *name)
{
    int64_t i = pk_params_find(&t->params, name);
    CHECK(i >= 0);
    if (i < 0) exit(1);
    CHECK(t->params.item[i].state && !t->params.item[i].decay);
    return t->exec.weight + t->params.item[i].offset;
}

/* Mean over micro-batches of each one's mean and unbiased variance, in double. */
static void statistics(double mean[C], double var[C])
{
    for (int c = 0; c < C; c++) mean[c] = var[c] = 0;
    for (int m = 0; m < MICROS; m++)
        for (int c = 0; c < C; c++) {
            double s = 0, d = 0;
            for (int i = 0; i < B * T; i++) s += (double)x[m][i / T][i % T][c] / (B * T);
            for (int i = 0; i < B * T; i++) {
                const double off = (double)x[m][i / T][i % T][c] - s;
                d += off * off / (B * T - 1);
            }
            mean[c] += s / MICROS;
            var[c] += d / MICROS;
        }
}

static void test_moves(void)
{
    struct run t;
    double mean[C], var[C], keep = pow(0.9, STEPS);
    statistics(mean, var);
    start(&t, 2, true, false);
    for (int64_t s = 0; s < STEPS; s++) CHECK(step(&t, s, 1).taken);
    for (int c = 0; c < C; c++) { // from 0 and 1, by a tenth each step, clipping or not
        CHECK_NEAR((double)state(&t, "bn.running_mean")[c], mean[c] * (1 - keep), 1e-5);
        CHECK_NEAR((double)state(&t, "bn.running_var")[c], var[c] * (1 - keep) + keep, 1e-5);
    }
    CHECK_NEAR((double)*state(&t, "bn.num_batches_tracked"), STEPS, 1e-5);
    CHECK(!t.params.item[pk_params_find(&t.params, "bn.running_mean")].ema);
    stop(&t);
}

/* Any number of threads, and a step in three runs, give the same bits where shards are the same. */
static void test_repeats(void)
{
    struct run one, many;
    start(&one, 1, true, false);
    start(&many, 3, true, false);
    for (int64_t s = 0; s < STEPS; s++) {
        const double a = step(&one, s, 1).norm, b = step(&many, s, 1).norm;
        CHECK(a == b);
    }
    CHECK(!memcmp(one.exec.weight, many.exec.weight, (size_t)one.params.elements * sizeof(float)));
    stop(&many);
    start(&many, 2, true, false);
    for (int64_t s = 0; s < STEPS; s++) step(&many, s, 3);
    for (int c = 0; c < C; c++)
        CHECK_NEAR((double)state(&one, "bn.running_var")[c],
                   (double)state(&many, "bn.running_var")[c], 1e-5);
    stop(&one), stop(&many);
}

/* Frozen, or with the running statistics, nothing of the norm moves. */
static void test_still(void)
{
    for (int frozen = 0; frozen < 2; frozen++) {
        struct run t;
        start(&t, 2, frozen, frozen);
        for (int64_t s = 0; s < STEPS; s++) CHECK(step(&t, s, 1).taken);
        for (int c = 0; c < C; c++) {
            CHECK(state(&t, "bn.running_mean")[c] == 0);
            CHECK(state(&t, "bn.running_var")[c] == 1);
        }
        CHECK(*state(&t, "bn.num_batches_tracked") == 0);
        stop(&t);
    }
}

/* A step that is not finite moves no state either, and the norm of the gradient ignores it. */
static void test_not_taken(void)
{
    struct run t;
    start(&t, 2, true, false);
    const float keep = x[3][1][2][1];
    x[3][1][2][1] = NAN;
    CHECK(!step(&t, 0, 1).taken);
    x[3][1][2][1] = keep;
    CHECK(state(&t, "bn.running_mean")[1] == 0 && state(&t, "bn.running_var")[1] == 1);
    const struct pk_exec_result r = step(&t, 0, 1);
    double square = 0;
    for (int64_t i = 0; i < t.params.count; i++) {
        const struct pk_param *p = &t.params.item[i];
        for (int64_t k = p->offset; !p->state && k < p->offset + p->count; k++)
            square += (double)t.exec.grad[k] * (double)t.exec.grad[k];
    }
    CHECK(r.taken);
    CHECK_NEAR(r.norm, sqrt(square), 1e-6 * r.norm);
    stop(&t);
}

/* What a checkpoint holds: the state under PyTorch's names, and enough to go on bit for bit. */
static void test_checkpoint(void)
{
    struct run straight, cut;
    struct pk_err err = {0};
    struct pk_tensor_ref *ref[3];
    struct pk_ckpt_file file[3] = {
        {.name = "model.safetensors"}, {.name = "m.safetensors"}, {.name = "v.safetensors"}};
    struct pk_ckpt saved;
    start(&straight, 2, true, false), start(&cut, 2, true, false);
    for (int64_t s = 0; s < 2 * STEPS; s++) step(&straight, s, 1);
    for (int64_t s = 0; s < STEPS; s++) step(&cut, s, 1);
    float *const arena[] = {cut.exec.weight, cut.exec.m, cut.exec.v};
    for (int i = 0; i < 3; i++) {
        CHECK_OK(pk_weights_refs(&ref[i], &file[i].count, &cut.params, false, arena[i], &err),
                 &err);
        file[i].tensor = ref[i];
    }
    const struct pk_ckpt_content content = {.step = STEPS, .files = 3, .file = file, .state = "{}"};
    CHECK_OK(pk_ckpt_write("test_state_checkpoints", &content, &err), &err);
    for (int i = 0; i < 3; i++) memset(arena[i], 0, (size_t)cut.params.elements * sizeof(float));
    CHECK_OK(pk_ckpt_open(&saved, "test_state_checkpoints", &err), &err);
    for (int i = 0; i < 3; i++)
        CHECK_OK(pk_ckpt_read(&saved, file[i].name, ref[i], file[i].count, true, &err), &err);
    pk_ckpt_close(&saved);
    CHECK_NEAR((double)*state(&cut, "bn.num_batches_tracked"), STEPS, 1e-5);
    for (int64_t s = STEPS; s < 2 * STEPS; s++) step(&cut, s, 1);
    CHECK(!memcmp(straight.exec.weight, cut.exec.weight,
                  (size_t)cut.params.elements * sizeof(float)));
    CHECK_OK(pk_ckpt_drop_after("test_state_checkpoints", -1, &err), &err);
    for (int i = 0; i < 3; i++) free(ref[i]);
    stop(&straight), stop(&cut);
}

/* One row has no variance to learn from. */
static void test_refused(void)
{
    struct pk_params params = {0};
    struct pk_prog prog;
    struct pk_build *b;
    struct pk_err err = {0};
    const struct pk_batchnorm bn = {.eps = 1e-5f, .momentum = 0.1f, .gain = 1, .train = true};
    CHECK_OK(pk_build_begin(&b, &prog, &params, &err), &err);
    pk_batchnorm(b, pk_input(b, "x", PK_F32, 2, (int64_t[]){1, C}), &bn, "bn");
    CHECK_FAILS(pk_build_finish(b, &err), PK_ESHAPE, &err, "one row");
    pk_params_free(&params);
}

int main(void)
{
    fill();
    test_moves();
    test_repeats();
    test_still();
    test_not_taken();
    test_checkpoint();
    test_refused();
    return TEST_END();
}
