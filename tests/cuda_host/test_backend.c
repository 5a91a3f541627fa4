/* test_backend.c -- what the CUDA backend says and leaves behind when the device fails it.
 *
 * Host executor only: it can be told to have no driver, little memory, or a call that fails. After
 * every failure there is a message in the user's words, and nothing is left allocated. */
#include "core/ops.h"
#include "cuda/backend.h"
#include "tests/test.h"

#include <pk_host.h>

enum { ROWS = 6, COLS = 16 };

struct model { // one linear layer that learns a target
    struct pk_params params;
    struct pk_prog prog;
    struct pk_exec exec;
    struct pk_bound bound;
    struct pk_exec_rows rows; // [ROWS, COLS]
};

static enum pk_status build(struct model *m, struct pk_err *err)
{
    struct pk_build *b;
    PK_TRY(pk_build_begin(&b, &m->prog, &m->params, err));
    struct pk_val x = pk_input(b, "x", PK_F32, 2, (int64_t[]){ROWS, COLS});
    struct pk_val target = pk_input(b, "target", PK_F32, 2, (int64_t[]){ROWS, COLS});
    struct pk_val y = pk_layernorm(b, pk_linear_bias(b, x, COLS, "fc"), 1e-6f, "norm");
    pk_output(b, y, "y");
    pk_loss(b, pk_l1_loss(b, y, target));
    return pk_build_finish(b, err);
}

static void finish(struct model *m)
{
    pk_bound_free(&m->bound);
    pk_exec_free(&m->exec);
    pk_exec_rows_free(&m->exec, &m->rows); // which are gone with it
    pk_prog_free(&m->prog);
    pk_params_free(&m->params);
}

/* Two steps: what comes out of the first is the target of the second, scaled, on the device. */
static enum pk_status learn(struct model *m, const float *x, const float *target,
                            struct pk_err *err)
{
    static float y[ROWS * COLS], kept[ROWS * COLS];
    struct pk_exec_result t;
    bool have = false;
    PK_TRY(pk_exec_rows(&m->exec, &m->rows, ROWS * COLS, "outputs", err));
    for (int i = 0; i < 2; i++) {
        const struct pk_optim_step step = {.step = i, .learning_rate = 1e-3};
        const struct pk_feed feed[] = {{"x", x, 0}, {"target", i ? m->rows.data : target, 0}};
        const struct pk_fetch fetch[] = {{"y", m->rows.data}, {"y", y}};
        const struct pk_exec_batch run = {.feed = feed,
                                          .feeds = 2,
                                          .fetch = fetch,
                                          .fetches = 1 + i,
                                          .micros = 1,
                                          .loss_scale = 1};
        PK_TRY(pk_exec_run(&m->exec, &m->bound, &run, err));
        PK_TRY(pk_exec_rows_scale(&m->exec, &m->rows, COLS, 2 * COLS, 0.7f, err));
        PK_TRY(pk_exec_update(&m->exec, &step, err));
        PK_TRY(pk_exec_result(&m->exec, 0, &t, &have, err));
        CHECK(have && t.taken && t.step == i);
    }
    PK_TRY(pk_exec_rows_read(&m->exec, &m->rows, kept, err));
    for (int i = 0; i < ROWS * COLS; i++)
        CHECK(kept[i] == (i >= COLS && i < 3 * COLS ? y[i] * 0.7f : y[i]));
    return PK_OK;
}

/* Everything from opening to two steps and back. */
static enum pk_status use(struct model *m, struct pk_err *err)
{
    static float x[ROWS * COLS], target[ROWS * COLS];
    memset(m, 0, sizeof *m);
    for (int i = 0; i < ROWS * COLS; i++) {
        x[i] = (float)(i * 7 % 13) / 13;
        target[i] = (float)(i * 5 % 11) / 11;
    }
    PK_TRY(build(m, err));
    struct pk_exec_spec spec = {
        .params = &m->params, .threads = 1, .train = true, .backend = pk_cuda_backend()};
    PK_TRY(pk_exec_create(&m->exec, &spec, err));
    struct pk_optim_spec optim = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-6, .clip = 1};
    PK_TRY(pk_exec_optim(&m->exec, &optim, err));
    PK_TRY(pk_exec_bind(&m->exec, &m->bound, &m->prog, err));
    pk_params_init(&m->params, 1, m->exec.weight);
    PK_TRY(pk_exec_push(&m->exec, err));
    PK_TRY(learn(m, x, target, err));
    return pk_exec_pull(&m->exec, err);
}

static bool nothing_left(void)
{
    return !pk_host_device_bytes() && !pk_host_pinned_bytes() && !pk_host_live_handles() &&
           !pk_host_pending();
}

static void test_missing(void)
{
    struct pk_err err = {0};
    const struct {
        enum pk_host_device state;
        const char *says;
    } all[] = {{PK_HOST_NO_DEVICE, "no NVIDIA GPU is visible"},
               {PK_HOST_NO_DRIVER, "no NVIDIA driver is loaded"},
               {PK_HOST_OLD_DRIVER, "update the driver"}};
    for (size_t i = 0; i < PK_COUNT(all); i++) {
        struct model m;
        pk_host_device(all[i].state);
        CHECK_FAILS(pk_cuda_usable(&err), PK_EMISSING, &err, all[i].says);
        CHECK(strstr(err.message, "--device cpu") != NULL);
        err = (struct pk_err){0};
        CHECK_FAILS(use(&m, &err), PK_EMISSING, &err, all[i].says);
        finish(&m);
        struct pk_text said = {0};
        pk_cuda_report(&said, true);
        CHECK(said.s && strstr(said.s, "not usable"));
        pk_text_free(&said);
        pk_host_reset();
        CHECK(nothing_left());
    }
    pk_host_device_facts(70, 80);
    CHECK_FAILS(pk_cuda_usable(&err), PK_EMISSING, &err, "compute capability 7.0");
    pk_host_device_facts(90, 132);
}

/* From no memory at all to enough: the message names what did not fit and what is held. */
static void test_memory(void)
{
    size_t need = 0;
    struct model m;
    struct pk_err err = {0};
    CHECK_OK(use(&m, &err), &err);
    need = pk_host_device_bytes();
    finish(&m);
    CHECK(need > 0 && nothing_left());
    int failed = 0;
    for (size_t bytes = 0; bytes < need; bytes += need / 12 + 1) {
        pk_host_memory(bytes);
        err = (struct pk_err){0};
        CHECK_FAILS(use(&m, &err), PK_EDEVICE, &err, "out of GPU memory");
        CHECK(strstr(err.message, "train.accumulate") && strstr(err.message, "Held so far"));
        finish(&m);
        pk_host_reset();
        CHECK(nothing_left());
        failed++;
    }
    CHECK(failed >= 8);
}

/* Each call of the runtime fails once, at every place where it is made. (Not cudaStreamEndCapture:
 * a real one that fails ends the capture all the same.) */
static void test_calls(void)
{
    static const char *const calls[] = {"cudaStreamCreateWithFlags",
                                        "cudaEventCreateWithFlags",
                                        "cudaMallocHost",
                                        "cudaMemset",
                                        "cudaMemcpy",
                                        "cudaMemcpyAsync",
                                        "cudaMemsetAsync",
                                        "cudaStreamBeginCapture",

                                        "cudaGraphInstantiate",
                                        "cudaGraphLaunch",
                                        "cudaEventRecord",
                                        "cudaStreamWaitEvent",
                                        "cudaEventSynchronize",
                                        "cudaStreamSynchronize",
                                        "PK_LAUNCH"};
    for (size_t i = 0; i < PK_COUNT(calls); i++) {
        int failed = 0;
        for (int nth = 1; nth < 100; nth++) {
            struct model m;
            struct pk_err err = {0};
            pk_host_fail_call(calls[i], nth, cudaErrorInvalidValue);
            enum pk_status s = use(&m, &err);
            finish(&m);
            pk_host_reset();
            if (!nothing_left())
                fprintf(stderr,
                        "%s, call %d: left are %zu bytes, %zu pinned, %zu handles, %zu pending\n",
                        calls[i], nth, pk_host_device_bytes(), pk_host_pinned_bytes(),
                        pk_host_live_handles(), pk_host_pending());
            CHECK(nothing_left());
            if (s == PK_OK) break; // fewer calls than that
            failed++;
            CHECK(s == PK_EDEVICE && strstr(err.message, "CUDA"));
        }
        if (!failed) fprintf(stderr, "%s was never called\n", calls[i]);
        CHECK(failed > 0 && failed < 99);
    }
}

int main(void)
{
    pk_host_quiet(true);
    test_missing();
    test_memory();
    test_calls();
    return TEST_END();
}
