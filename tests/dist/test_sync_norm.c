/* test_sync_norm.c -- batch norm over the records of all ranks: 2 and 4 ranks train as one process
 * does that has all records in one micro-batch, up to rounding, and as it would not without the
 * exchange. Convolutional encoders with the head concat_pool, and contrastive projections with
 * norms.
 *
 *     test_sync_norm                      the checks
 *     test_sync_norm dump DIR NET RANKS   for tests/dist/test_sync_norm_parity.py: gradients and
 *                                         ten steps of a small NET, wang or xresnet */
#include "models/contrastive.h"
#include "models/resnet1d.h"
#include "models/xresnet1d.h"
#include "tests/dist/ranks.h"
#include "tests/model/case.h"
#include "tools/gradcache.h"

#include <sys/mman.h>

enum { TOKENS = 200, WIDTH = 12 };

enum kind { WANG, XRESNET, SIMCLR, MOCO };

struct outcome { // of a rank, in shared memory
    double loss[STEPS], norm[STEPS];
    float weight[1 << 17];
    int64_t elements;
};

struct task {
    enum kind kind;
    bool sync;
    const char *dump;     // rank 0 writes what the oracle needs
    struct outcome *told; // [WORLD_MAX]
};

struct net {
    struct model x;         // records: of a rank
    struct pk_prog more[2]; // contrastive: loss and back; x.prog is embed
    struct pk_bound bound[2];
    struct pk_params none;
    struct pk_gradcache cache;
    int ranks;
};

static bool coupled(const struct task *t)
{
    return t->kind == SIMCLR || t->kind == MOCO;
}

/* The nets of tests/model/test_conv.c. */
static enum pk_status build_convolution(struct model *x, enum kind kind, struct pk_err *err)
{
    struct pk_build *b;
    struct pk_signal signal = case_signal();
    struct pk_resnet1d wang = pk_resnet1d_wang(true);
    const struct pk_xresnet1d xresnet = {.stem = {6, 7, 8},
                                         .width = 8,
                                         .expansion = 4,
                                         .layers = {1, 2, 1, 1},
                                         .kernel = 5,
                                         .train = true};
    const struct pk_concat_head head = {
        .hidden = 10, .classes = CLASSES, .he = kind != WANG, .train = true};
    signal.patch = 1;
    signal.tokens = TOKENS;
    wang.width = 12;
    PK_TRY(pk_build_begin(&b, &x->prog, &x->params, err));
    struct pk_signal_in in = pk_signal_inputs(b, &signal, x->records);
    pk_scope(b, "encoder");
    struct pk_val h = kind == WANG ? pk_resnet1d_encode(b, in.patches, &wang)
                                   : pk_xresnet1d_encode(b, in.patches, &xresnet);
    pk_scope_end(b);
    pk_scope(b, "head");
    struct pk_val z = pk_concat_head(b, h, in.sample, &head);
    pk_scope_end(b);
    pk_output(b, z, "logits");
    struct pk_val label = pk_input(b, "label", PK_U8, 2, (int64_t[]){x->records, CLASSES});
    pk_loss(b, pk_bce_loss(b, z, label));
    return pk_build_finish(b, err);
}

static enum pk_status build_contrastive(struct net *n, bool momentum, struct pk_err *err)
{
    const struct pk_vit vit = {.width = 32,
                               .depth = 1,
                               .heads = 4,
                               .mlp_ratio = 4,
                               .tokens = 40,
                               .eps = 1e-6f,
                               .residual_std = 0.01f};
    const struct pk_contrastive c = {.signal = case_signal(),
                                     .encoder = {.width = 32, .vit = vit},
                                     .hidden = 24,
                                     .width = WIDTH,
                                     .norm = true,
                                     .momentum = momentum,
                                     .temperature = 0.5f,
                                     .koleo = 0.1f};
    const struct pk_contrastive_progs progs = {&n->x.prog, &n->more[0], &n->more[1]};
    return pk_contrastive_build(&progs, &n->x.params, &n->none, &c, n->x.records, RECORDS, n->ranks,
                                err);
}

static enum pk_status start(struct net *n, const struct task *t, struct pk_comm *c,
                            struct pk_err *err)
{
    const struct step_plan plan = case_steps();
    *n = (struct net){.x.records = RECORDS / c->size, .ranks = c->size};
    PK_TRY(coupled(t) ? build_contrastive(n, t->kind == MOCO, err)
                      : build_convolution(&n->x, t->kind, err));
    const struct pk_exec_spec spec = {.params = &n->x.params,
                                      .threads = 1 + c->rank % 2,
                                      .ema = t->kind == MOCO,
                                      .train = true,
                                      .comm = c,
                                      .sync_norm = t->sync};
    PK_TRY(pk_exec_create(&n->x.exec, &spec, err));
    PK_TRY(pk_exec_bind(&n->x.exec, &n->x.bound, &n->x.prog, err));
    for (int i = 0; i < 2 && coupled(t); i++)
        PK_TRY(pk_exec_bind(&n->x.exec, &n->bound[i], &n->more[i], err));
    model_perturb_norms(&n->x);
    PK_TRY(pk_exec_optim(&n->x.exec, &plan.optim, err));
    if (!coupled(t)) return PK_OK;
    const struct pk_gradcache cache = {.x = &n->x.exec,
                                       .embed = &n->x.bound,
                                       .loss = &n->bound[0],
                                       .back = &n->bound[1],
                                       .records = n->x.records,
                                       .micros = c->size,
                                       .width = WIDTH,
                                       .keys = t->kind == MOCO};
    return pk_gradcache_create(&n->cache, &cache, err);
}

static void stop(struct net *n)
{
    pk_gradcache_free(&n->cache);
    for (int i = 0; i < 2; i++) {
        pk_bound_free(&n->bound[i]);
        pk_prog_free(&n->more[i]);
    }
    model_free(&n->x);
    pk_params_free(&n->none);
}

/* Forward and backward of this rank's records; logits [records][CLASSES] may be NULL. */
static enum pk_status run(struct net *n, const struct task *t, const struct batch *b, float *logits,
                          struct pk_err *err)
{
    static const int64_t group[RECORDS] = {0, 0, 1, 1, 2, 2, 3, 3};
    const size_t at = n->x.exec.comm ? (size_t)(n->x.exec.comm->rank * n->x.records) : 0;
    const struct pk_feed feed[] = {{"signal", b->signal + at, 0}, {"gain", b->gain + at, 0},
                                   {"offset", b->offset + at, 0}, {"start", b->start + at, 0},
                                   {"sample", b->sample + at, 0}, {"label", b->label + at, 0}};
    const struct pk_fetch fetch = {"logits", logits};
    const struct pk_exec_batch batch = {.feed = feed,
                                        .feeds = coupled(t) ? 5 : 6,
                                        .fetch = &fetch,
                                        .fetches = logits != NULL,
                                        .micros = 1,
                                        .loss_scale = coupled(t) ? 1 : 1.0 / n->ranks};
    if (coupled(t)) return pk_gradcache_run(&n->cache, &batch, group, NULL, err);
    return pk_exec_run(&n->x.exec, &n->x.bound, &batch, err);
}

static enum pk_status train(struct net *n, const struct task *t, const struct batch *b,
                            struct outcome *o, struct pk_err *err)
{
    const struct step_plan plan = case_steps();
    for (int i = 0; i < STEPS; i++) {
        const struct pk_optim_step step = {.step = i,
                                           .learning_rate = pk_schedule_at(&plan.rate, i),
                                           .weight_decay = pk_schedule_at(&plan.decay, i),
                                           .ema_momentum = pk_schedule_at(&plan.momentum, i)};
        struct pk_exec_result r = {0};
        bool have;
        PK_TRY(run(n, t, b, NULL, err));
        PK_TRY(pk_exec_update(&n->x.exec, &step, err));
        PK_TRY(pk_exec_result(&n->x.exec, 0, &r, &have, err));
        CHECK(have && r.taken);
        o->loss[i] = r.loss;
        o->norm[i] = r.norm;
    }
    return PK_OK;
}

/* What tests/model/test_conv.c dumps: of all ranks, written by the first. */
static enum pk_status dump_start(struct net *n, const struct task *t, const struct batch *b,
                                 struct pk_comm *c, struct pk_err *err)
{
    const bool leads = c->rank == 0;
    float logit[RECORDS][CLASSES];
    if (leads) PK_TRY(pk_mkdirs(t->dump, err));
    if (leads) dump_batch(t->dump, b);
    if (leads) dump(t->dump, "paths.f32", logit, 0);
    if (leads) dump_arena(t->dump, &n->x, "weight.f32", n->x.exec.weight);
    PK_TRY(run(n, t, b, logit[c->rank * n->x.records], err));
    PK_TRY(pk_comm_all_gather(c, logit, sizeof logit / (size_t)c->size, err));
    PK_TRY(pk_comm_sum(c, n->x.exec.grad, n->x.params.elements, err));
    if (leads) dump(t->dump, "logits.f32", logit, sizeof logit);
    if (leads) dump_arena(t->dump, &n->x, "grad.f32", n->x.exec.grad);
    n->x.exec.notes = n->x.exec.noted_count = 0;
    return PK_OK;
}

static void dump_end(const struct net *n, const struct task *t, const struct outcome *o)
{
    const struct step_plan plan = case_steps();
    dump_arena(t->dump, &n->x, "weight_after.f32", n->x.exec.weight);
    dump_meta(t->dump, &n->x, &plan, o->loss, "\"train\": true,");
}

static void train_rank(struct pk_comm *c, void *ctx)
{
    static struct batch b;
    const struct task *t = ctx;
    struct pk_err err = {0};
    struct net n;
    struct outcome *o = &t->told[c->rank];
    uint64_t hash = 0;
    case_batch(&b, false);
    enum pk_status s = start(&n, t, c, &err);
    if (s == PK_OK && t->dump) s = dump_start(&n, t, &b, c, &err);
    if (s == PK_OK) s = train(&n, t, &b, o, &err);
    if (s == PK_OK) s = pk_exec_hash(&n.x.exec, &hash, &err);
    if (s == PK_OK) s = pk_comm_same(c, hash, "weights, EMA copy and moments", &err);
    CHECK_OK(s, &err);
    o->elements = n.x.params.elements;
    CHECK(o->elements <= (int64_t)PK_COUNT(o->weight));
    memcpy(o->weight, n.x.exec.weight, (size_t)o->elements * sizeof(float));
    if (s == PK_OK && t->dump && c->rank == 0) dump_end(&n, t, o);
    stop(&n);
}

static struct outcome *shared_outcomes(void)
{
    void *p = mmap(NULL, WORLD_MAX * sizeof(struct outcome), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

struct difference {
    double loss, norm, weight, state; // largest; all but the weights' relative
    double first;                     // of loss and norm before the first step
};

static struct difference differ(const struct net *n, const struct outcome *a,
                                const struct outcome *b)
{
    struct difference d = {0};
    for (int i = 0; i < STEPS; i++) {
        d.loss = fmax(d.loss, fabs(a->loss[i] / b->loss[i] - 1));
        d.norm = fmax(d.norm, fabs(a->norm[i] / b->norm[i] - 1));
    }
    d.first = fmax(fabs(a->loss[0] / b->loss[0] - 1), fabs(a->norm[0] / b->norm[0] - 1));
    for (int64_t i = 0; i < n->x.params.count; i++) {
        const struct pk_param *q = &n->x.params.item[i];
        double size = 0, worst = 0;
        for (int64_t k = q->offset; k < q->offset + q->count; k++) {
            size = fmax(size, fabs((double)b->weight[k]));
            worst = fmax(worst, fabs((double)a->weight[k] - (double)b->weight[k]));
        }
        if (q->state) d.state = fmax(d.state, worst / size);
        if (!q->state) d.weight = fmax(d.weight, worst);
    }
    return d;
}

/* Later steps are wider apart than the first: one ReLU on the other side is enough. Portable
 * kernels instead of AVX-512 ones, on one rank, move xresnet1d's weights by 2e-4 and its losses by
 * 1e-5. */
static void test_training(enum kind kind, const char *name)
{
    struct outcome *one = shared_outcomes(), *many = shared_outcomes();
    struct task t = {.kind = kind, .sync = true, .told = one};
    struct pk_comm *alone = NULL;
    struct pk_err err = {0};
    struct net n;
    world_run(1, 0, 0, train_rank, &t);
    CHECK(one->elements > 1000 && one->loss[STEPS - 1] < one->loss[0]);
    CHECK_OK(pk_comm_single(&alone, &err), &err);
    CHECK_OK(start(&n, &t, alone, &err), &err); // for its table of parameters
    t.told = many;
    for (int i = 0; i < 4; i++) {
        const int size = 2 + i / 2 * 2;
        memset(many, 0, WORLD_MAX * sizeof *many);
        t.sync = i % 2 == 0;
        world_run(size, 0, 0, train_rank, &t);
        for (int k = 1; k < size; k++) CHECK(!memcmp(&many[k], &many[0], sizeof many[0]));
        const struct difference d = differ(&n, many, one);
        fprintf(stderr,
                "%s, %d ranks%s: loss %.1e, norm %.1e, weights %.1e, state %.1e, first %.1e\n",
                name, size, t.sync ? "" : " each for itself", d.loss, d.norm, d.weight, d.state,
                d.first);
        if (t.sync)
            CHECK(d.first < 1e-5 && d.loss < 1e-4 && d.norm < 1e-2 && d.weight < 1e-3 &&
                  d.state < 1e-3);
        else
            CHECK(d.loss > 1e-2 && d.norm > 1e-1 && d.weight > 1e-2);
        if (!t.sync && !coupled(&t)) CHECK(d.state > 1e-2);
    }
    stop(&n);
    pk_comm_free(alone);
    munmap(one, WORLD_MAX * sizeof *one);
    munmap(many, WORLD_MAX * sizeof *many);
}

/* Kernels of which one of a norm is the last thing that a rank comes to. */
static pk_kernel mortal[PK_OP_COUNT];
static int norms_left;

static enum pk_status last_norm(const struct pk_call *c, struct pk_err *err)
{
    if (norms_left-- == 0) raise(SIGKILL);
    return pk_cpu_table(pk_isa_best())[c->node->op](c, err);
}

/* A rank that dies in the middle of a pass, when others wait for its part of a norm, ends their
 * run; all of it within world_run's patience. */
static void dies_in_norm(struct pk_comm *c, enum pk_op op)
{
    static struct batch b;
    const struct task t = {.kind = XRESNET, .sync = true};
    struct pk_err err = {0};
    struct net n;
    case_batch(&b, false);
    CHECK_OK(start(&n, &t, c, &err), &err);
    CHECK_OK(run(&n, &t, &b, NULL, &err), &err);
    memcpy(mortal, n.x.exec.kernel, sizeof mortal);
    mortal[op] = last_norm;
    norms_left = 5;
    if (c->rank == 1) n.x.exec.kernel = mortal;
    CHECK_FAILS(run(&n, &t, &b, NULL, &err), PK_ERANK, &err, "rank 1 closed");
    CHECK_FAILS(run(&n, &t, &b, NULL, &err), PK_ERANK, &err, "rank 1 closed");
    stop(&n);
}

static void dies_forward(struct pk_comm *c, void *ctx)
{
    (void)ctx;
    dies_in_norm(c, PK_OP_BATCHNORM);
}

static void dies_backward(struct pk_comm *c, void *ctx)
{
    (void)ctx;
    dies_in_norm(c, PK_OP_BATCHNORM_GRAD);
}

/* Two micro-batches of a rank would wait for each other. */
static void two_at_once(struct pk_comm *c, void *ctx)
{
    const struct task t = {.kind = WANG, .sync = true};
    struct pk_err err = {0};
    struct net n;
    const struct pk_exec_batch batch = {.micros = 2};
    (void)ctx;
    CHECK_OK(start(&n, &t, c, &err), &err);
    CHECK_FAILS(pk_exec_run(&n.x.exec, &n.x.bound, &batch, &err), PK_EINTERNAL, &err,
                "2 micro-batches");
    stop(&n);
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "dump")) {
        struct task t = {.kind = strcmp(argv[3], "wang") ? XRESNET : WANG,
                         .sync = true,
                         .dump = argv[2],
                         .told = shared_outcomes()};
        world_run((int)strtol(argv[4], NULL, 10), 0, 0, train_rank, &t);
        return TEST_END();
    }
    test_training(WANG, "resnet1d_wang");
    test_training(XRESNET, "xresnet1d");
    test_training(SIMCLR, "SimCLR");
    test_training(MOCO, "MoCo");
    world_run(4, 0, 1U << 1, dies_forward, NULL);
    world_run(4, 0, 1U << 1, dies_backward, NULL);
    world_run(2, 0, 0, two_at_once, NULL);
    return TEST_END();
}
