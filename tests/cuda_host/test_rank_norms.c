/* test_rank_norms.c -- batch norm over the records of two ranks, through the CUDA executor with the
 * stand-in for NCCL: graphs that end at every gather, kernel by kernel, and with every node timed
 * give the same bits, on both ranks, and a single rank with all records is near. A run of several
 * micro-batches is refused. */
#include "models/resnet1d.h"
#include "cuda/backend.h"
#include "tests/dist/ranks.h"
#include "tests/model/case.h"

enum { PAIR = 2, SHORT_RUN = 3 };

enum mode { GRAPHS, EAGER, TIMED, MODES };

struct outcome {
    double loss[SHORT_RUN];
    float *weight;
    int64_t elements;
};

struct run {
    struct pk_params params;
    struct pk_prog prog;
    struct pk_bound bound;
    struct pk_exec exec;
    struct pk_comm *comm;
    int64_t records;
};

static enum pk_status build(struct run *r, struct pk_err *err)
{
    struct pk_build *b;
    struct pk_signal signal = case_signal();
    struct pk_resnet1d wang = pk_resnet1d_wang(true);
    const struct pk_concat_head head = {.hidden = 10, .classes = CLASSES, .train = true};
    signal.patch = 1, signal.tokens = 200, wang.width = 12;
    PK_TRY(pk_build_begin(&b, &r->prog, &r->params, err));
    struct pk_signal_in in = pk_signal_inputs(b, &signal, r->records);
    struct pk_val z = pk_concat_head(b, pk_resnet1d_encode(b, in.patches, &wang), in.sample, &head);
    struct pk_val label = pk_input(b, "label", PK_U8, 2, (int64_t[]){r->records, CLASSES});
    pk_loss(b, pk_bce_loss(b, z, label));
    return pk_build_finish(b, err);
}

static enum pk_status open_run(struct run *r, enum mode mode, struct pk_err *err)
{
    const struct step_plan plan = case_steps();
    PK_TRY(build(r, err));
    const struct pk_exec_spec spec = {.params = &r->params,
                                      .threads = 1,
                                      .train = true,
                                      .backend = pk_cuda_backend(),
                                      .eager = mode == EAGER,
                                      .comm = r->comm,
                                      .sync_norm = true};
    PK_TRY(pk_exec_create(&r->exec, &spec, err));
    PK_TRY(pk_exec_connect(&r->exec, NULL, err));
    PK_TRY(pk_exec_optim(&r->exec, &plan.optim, err));
    PK_TRY(pk_exec_bind(&r->exec, &r->bound, &r->prog, err));
    if (mode == TIMED)
        PK_TRY(pk_alloc(&r->bound.seconds, (size_t)r->prog.nodes, sizeof(double), "times", err));
    pk_params_init(&r->params, 3, r->exec.weight);
    return pk_exec_push(&r->exec, err);
}

static enum pk_status step(struct run *r, const struct batch *b, int64_t number, double *loss,
                           struct pk_err *err)
{
    const size_t at = (size_t)(r->comm->rank * r->records);
    const struct pk_feed feed[] = {{"signal", b->signal + at, 0}, {"gain", b->gain + at, 0},
                                   {"offset", b->offset + at, 0}, {"start", b->start + at, 0},
                                   {"sample", b->sample + at, 0}, {"label", b->label + at, 0}};
    struct pk_exec_batch batch = {
        .feed = feed, .feeds = PK_COUNT(feed), .micros = 2, .loss_scale = 1.0 / r->comm->size};
    struct pk_exec_result result = {0};
    bool have = false;
    if (r->comm->size > 1)
        CHECK_FAILS(pk_exec_run(&r->exec, &r->bound, &batch, err), PK_EINTERNAL, err,
                    "2 micro-batches");
    batch.micros = 1;
    PK_TRY(pk_exec_run(&r->exec, &r->bound, &batch, err));
    PK_TRY(pk_exec_update(&r->exec, &(struct pk_optim_step){.step = number, .learning_rate = 1e-3},
                          err));
    PK_TRY(pk_exec_result(&r->exec, 0, &result, &have, err));
    CHECK(have && result.taken);
    *loss = result.loss;
    return PK_OK;
}

static void train(struct pk_comm *comm, enum mode mode, struct outcome *o)
{
    static struct batch b;
    struct run r = {.comm = comm, .records = RECORDS / comm->size};
    struct pk_err err = {0};
    case_batch(&b, false);
    enum pk_status s = open_run(&r, mode, &err);
    for (int i = 0; s == PK_OK && i < SHORT_RUN; i++) s = step(&r, &b, i, &o->loss[i], &err);
    if (s == PK_OK) s = pk_exec_pull(&r.exec, &err);
    CHECK_OK(s, &err);
    o->elements = r.params.elements;
    CHECK_OK(pk_alloc(&o->weight, (size_t)o->elements, sizeof(float), "weights", &err), &err);
    if (s == PK_OK) memcpy(o->weight, r.exec.weight, (size_t)o->elements * sizeof(float));
    for (int64_t k = 0; mode == TIMED && k < r.prog.nodes; k++) CHECK(r.bound.seconds[k] >= 0);
    if (mode == TIMED) CHECK(r.bound.profiled == SHORT_RUN);
    pk_bound_free(&r.bound);
    pk_exec_free(&r.exec);
    pk_prog_free(&r.prog);
    pk_params_free(&r.params);
}

/* Both ranks' weights, which must be the same. */
static void compare_ranks(struct pk_comm *comm, const struct outcome *o)
{
    struct pk_err err = {0};
    float *all;
    CHECK_OK(pk_alloc(&all, (size_t)(PAIR * o->elements), sizeof *all, "weights", &err), &err);
    const size_t bytes = (size_t)o->elements * sizeof(float);
    memcpy(all + comm->rank * o->elements, o->weight, bytes);
    CHECK_OK(pk_comm_all_gather(comm, all, bytes, &err), &err);
    CHECK(!memcmp(all, all + o->elements, bytes));
    free(all);
}

static void run_rank(struct pk_comm *comm, void *ctx)
{
    struct outcome o[MODES] = {0}, one = {0};
    struct pk_comm *alone = NULL;
    struct pk_err err = {0};
    double far = 0, size = 0;
    (void)ctx;
    CHECK_OK(pk_comm_locate(comm, &err), &err);
    for (int m = 0; m < MODES; m++) {
        train(comm, (enum mode)m, &o[m]);
        compare_ranks(comm, &o[m]);
        CHECK(!memcmp(o[m].loss, o[0].loss, sizeof o[0].loss));
        CHECK(!memcmp(o[m].weight, o[0].weight, (size_t)o[0].elements * sizeof(float)));
    }
    CHECK_OK(pk_comm_single(&alone, &err), &err);
    train(alone, GRAPHS, &one);
    for (int i = 0; i < SHORT_RUN; i++) CHECK_NEAR(o[0].loss[i], one.loss[i], 1e-5);
    for (int64_t i = 0; i < one.elements; i++) {
        far += pow((double)(o[0].weight[i] - one.weight[i]), 2);
        size += pow((double)one.weight[i], 2);
    }
    if (!comm->rank) fprintf(stderr, "weights of 2 ranks and of 1: %.1e apart\n", sqrt(far / size));
    CHECK(one.elements == o[0].elements && far <= 1e-4 * 1e-4 * size);
    for (int m = 0; m < MODES; m++) free(o[m].weight);
    free(one.weight);
    pk_comm_free(alone);
}

int main(void)
{
    // before anything of the device's: processes are forked here
    CHECK(setenv("PURKINJE_NCCL", PK_FAKE_NCCL, 1) == 0);
    CHECK(setenv("PURKINJE_SHARE_GPU", "1", 1) == 0);
    world_run(PAIR, 30, 0, run_rank, NULL);
    return TEST_END();
}
