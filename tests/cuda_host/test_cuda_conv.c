/* test_cuda_conv.c -- whole training steps of small convolutional networks through the CUDA
 * backend: against the CPU, running statistics included; graph and eager mode give the same bits;
 * bf16 stays near, and repeats its bits as well. Runs on the host executor in CI and, the same
 * source, on a GPU (PK_TEST_DEVICE).
 */
#include "models/efficientnet1d.h"
#include "models/net1d.h"
#include "models/resnet1d.h"
#include "models/xresnet1d.h"
#include "cuda/backend.h"
#include "tests/model/case.h"

enum { MICRO = 4, MICROS = RECORDS / MICRO, SHORT_RUN = 4 };

struct run {
    struct pk_params params;
    struct pk_prog prog;
    struct pk_bound bound;
    struct pk_exec exec;
};

struct how {
    bool cuda, eager;
    enum pk_dtype storage;
};

enum net { XRESNET, EFFICIENTNET, NET1D, NETS };

/* The last two drop paths: the same records on both devices, or losses would not meet. */
static struct pk_val encode(struct pk_build *b, const struct pk_signal_in *in, enum net net)
{
    const struct pk_efficientnet1d e = {.stem = 6,
                                        .stage = {{1, 5, 1, 1, 3}, {6, 7, 2, 2, 5}},
                                        .features = 9,
                                        .drop_path = 0.6f,
                                        .seed = 5,
                                        .train = true};
    const struct pk_net1d n = {.stem = 6,
                               .width = {6, 8},
                               .blocks = {1, 1},
                               .kernel = 6,
                               .group = 2,
                               .squeeze = 2,
                               .norm = true,
                               .drop_path = 0.6f,
                               .seed = 5,
                               .train = true};
    const struct pk_xresnet1d r = {.stem = {6, 7, 8},
                                   .width = 8,
                                   .expansion = 4,
                                   .layers = {1, 1, 1, 1},
                                   .kernel = 5,
                                   .train = true};
    if (net == EFFICIENTNET) return pk_efficientnet1d_encode(b, in->patches, in->sample, &e);
    if (net == NET1D) return pk_net1d_encode(b, in->patches, in->sample, &n);
    return pk_xresnet1d_encode(b, in->patches, &r);
}

static enum pk_status open_run(struct run *r, const struct how *h, enum net net, struct pk_err *err)
{
    const struct pk_concat_head head = {
        .hidden = 10, .classes = CLASSES, .dropout = 0.5f, .seed = 3, .train = true};
    struct pk_build *b;
    struct pk_signal signal = case_signal();
    signal.patch = 1;
    signal.tokens = 200;
    *r = (struct run){.params = {.storage = h->storage}};
    PK_TRY(pk_build_begin(&b, &r->prog, &r->params, err));
    struct pk_signal_in in = pk_signal_inputs(b, &signal, MICRO);
    struct pk_val z = pk_concat_head(b, encode(b, &in, net), in.sample, &head);
    struct pk_val label = pk_input(b, "label", PK_U8, 2, (int64_t[]){MICRO, CLASSES});
    pk_loss(b, pk_bce_loss(b, z, label));
    PK_TRY(pk_build_finish(b, err));
    struct pk_exec_spec spec = {.params = &r->params,
                                .threads = 1,
                                .train = true,
                                .backend = h->cuda ? pk_cuda_backend() : NULL,
                                .eager = h->eager};
    struct step_plan plan = case_steps();
    PK_TRY(pk_exec_create(&r->exec, &spec, err));
    PK_TRY(pk_exec_optim(&r->exec, &plan.optim, err));
    PK_TRY(pk_exec_bind(&r->exec, &r->bound, &r->prog, err));
    pk_params_init(&r->params, 3, r->exec.weight);
    return pk_exec_push(&r->exec, err);
}

static void finish(struct run *r)
{
    pk_bound_free(&r->bound);
    pk_exec_free(&r->exec);
    pk_prog_free(&r->prog);
    pk_params_free(&r->params);
}

static enum pk_status step(struct run *r, const struct batch *b, int64_t number, double *loss,
                           struct pk_err *err)
{
    const struct pk_feed feed[] = {{"signal", b->signal, MICRO * sizeof b->signal[0]},
                                   {"gain", b->gain, MICRO * sizeof b->gain[0]},
                                   {"offset", b->offset, MICRO * sizeof b->offset[0]},
                                   {"start", b->start, MICRO * sizeof b->start[0]},
                                   {"sample", b->sample, MICRO * sizeof b->sample[0]},
                                   {"label", b->label, MICRO * sizeof b->label[0]}};
    struct pk_exec_result result = {0};
    bool have = false;
    // a device takes one micro-batch a run, so the batch comes in parts that add up
    for (int m = 0; m < MICROS; m++) {
        struct pk_feed part[PK_COUNT(feed)];
        for (size_t i = 0; i < PK_COUNT(feed); i++) {
            part[i] = feed[i];
            part[i].data = (const char *)feed[i].data + (size_t)m * feed[i].stride;
        }
        const struct pk_exec_batch batch = {.feed = part,
                                            .feeds = PK_COUNT(part),
                                            .micros = 1,
                                            .loss_scale = 1.0 / MICROS,
                                            .add = m > 0};
        PK_TRY(pk_exec_run(&r->exec, &r->bound, &batch, err));
    }
    PK_TRY(pk_exec_update(&r->exec, &(struct pk_optim_step){.step = number, .learning_rate = 1e-3},
                          err));
    PK_TRY(pk_exec_result(&r->exec, 0, &result, &have, err));
    CHECK(have && result.taken);
    *loss = result.loss;
    return PK_OK;
}

/* The losses of a few steps; the weights and running statistics behind them stay in *r. */
static bool train(struct run *r, const struct how *h, enum net net, const struct batch *b,
                  double loss[SHORT_RUN])
{
    struct pk_err err = {0};
    enum pk_status s = open_run(r, h, net, &err);
    for (int i = 0; s == PK_OK && i < SHORT_RUN; i++) s = step(r, b, i, &loss[i], &err);
    if (s == PK_OK) s = pk_exec_pull(&r->exec, &err);
    CHECK_OK(s, &err);
    return s == PK_OK;
}

/* Running statistics within `part` of their size, one tensor at a time; a mean, which may be
 * nothing but rounding, within that part of the layer's spread, whose variance comes next in the
 * table. */
static void compare_state(const struct run *want, const struct run *got, double part)
{
    for (int64_t i = 0; i < want->params.count; i++) {
        const struct pk_param *q = &want->params.item[i];
        double off = 0, size = 0;
        if (!q->state) continue;
        for (int64_t k = q->offset; k < q->offset + q->count; k++) {
            const double x = (double)want->exec.weight[k];
            const bool mean = strstr(q->name, "running_mean") != NULL;
            off += pow((double)got->exec.weight[k] - x, 2);
            size += mean ? (double)want->exec.weight[k - q->offset + q[1].offset] : x * x;
        }
        const bool good = sqrt(off) <= part * sqrt(size) + 1e-3 * part;
        if (!good) fprintf(stderr, "%s: off by %g of %g\n", q->name, sqrt(off), sqrt(size));
        CHECK(good && size > 0);
    }
}

static void test_net(const struct batch *b, enum net net)
{
    const struct how cpu = {false}, gpu = {.cuda = true}, eager = {.cuda = true, .eager = true};
    const struct how low = {.cuda = true, .storage = PK_BF16};
    const struct how low_eager = {.cuda = true, .eager = true, .storage = PK_BF16};
    struct run want, got, other, rough, again;
    double loss[5][SHORT_RUN];
    if (!train(&want, &cpu, net, b, loss[0]) || !train(&got, &gpu, net, b, loss[1]) ||
        !train(&other, &eager, net, b, loss[2]) || !train(&rough, &low, net, b, loss[3]) ||
        !train(&again, &low_eager, net, b, loss[4]))
        return;
    for (int i = 0; i < SHORT_RUN; i++) {
        CHECK_NEAR(loss[1][i], loss[0][i], 1e-3 * loss[0][i]);
        CHECK(loss[2][i] == loss[1][i] && loss[4][i] == loss[3][i]);
        CHECK_NEAR(loss[3][i], loss[0][i], 0.1 * loss[0][i]);
    }
    CHECK_NEAR(loss[1][0], loss[0][0], 1e-5 * loss[0][0]);
    compare_state(&want, &got, 0.002);
    compare_state(&want, &rough, 0.15);
    CHECK(!memcmp(got.exec.weight, other.exec.weight, (size_t)got.params.elements * sizeof(float)));
    CHECK(!memcmp(rough.exec.weight, again.exec.weight,
                  (size_t)rough.params.elements * sizeof(float))); // tensor cores, bit for bit
    finish(&want), finish(&got), finish(&other), finish(&rough), finish(&again);
}

int main(void)
{
    static struct batch b;
    struct pk_err err = {0};
    setenv("PURKINJE_GEMM", "own", 0); // timings differ from run to run, and so might the bits
    setenv("PURKINJE_CONV", "own", 0);
    if (pk_cuda_usable(&err) != PK_OK) {
        fprintf(stderr, "skipped: %s\n", err.message);
        return 77;
    }
    case_batch(&b, false);
    for (int net = 0; net < NETS; net++) test_net(&b, (enum net)net);
    return TEST_END();
}
