/* test_ranks.c -- training steps of tiny models on 1, 2, 4 and 8 ranks: weights, moments, losses
 * and norms must be the same bits, whatever the number of threads; on 3 ranks they agree to
 * rounding. JEPA, with and without accumulation, a network with batch norm, and contrastive losses,
 * whose negatives come from all ranks. A replica with one wrong bit is found and named. */
#include "core/sink.h"
#include "models/classifier.h"
#include "models/contrastive.h"
#include "models/jepa.h"
#include "tests/dist/ranks.h"
#include "tests/model/case.h"
#include "tools/gradcache.h"
#include "tools/trainer.h"

#include <malloc.h>
#include <sys/mman.h>

enum { TRAIN_STEPS = 20, ALL = 48, HASHES = 4 };

enum kind { JEPA, CONVOLUTION, SIMCLR, MOCO };

struct outcome {           // of a world, in shared memory; every rank has to come to the same
    uint64_t hash[HASHES]; // weights, moments, EMA; 0 where there is none
    double loss[TRAIN_STEPS], norm[TRAIN_STEPS];
    float weight[1 << 17];
    int64_t elements;
    uint32_t votes[TRAIN_STEPS];
};

struct task {
    enum kind kind;
    int parts;   // runs of a step that are added up
    int records; // of a micro-batch
    int micros;  // of a run, over all ranks
    int threads;
    bool not_finite;      // the batch of step 3
    bool zero1;           // moments are shared out
    struct outcome *told; // [WORLD_MAX]
};

struct data { // the records of a batch
    int16_t signal[ALL][LEADS][SAMPLES];
    float gain[ALL][LEADS], offset[ALL][LEADS];
    int32_t start[ALL];
    int64_t sample[ALL], group[ALL];
    uint8_t label[ALL][CLASSES];
};

static void make_data(struct data *d)
{
    struct pk_rng r = pk_rng_make(7, PK_RNG_TEST, 0, 0);
    for (int i = 0; i < ALL; i++) {
        d->start[i] = (int32_t)pk_rng_below(&r, SAMPLES - 200 + 1);
        d->sample[i] = 1000003 * (int64_t)i + 17;
        d->group[i] = i / 2;
        for (int l = 0; l < LEADS; l++) {
            d->gain[i][l] = (float)(0.002 + 0.001 * pk_rng_uniform(&r));
            for (int t = 0; t < SAMPLES; t++)
                d->signal[i][l][t] = (int16_t)(400 * pk_rng_normal(&r));
        }
        for (int c = 0; c < CLASSES; c++) d->label[i][c] = pk_rng_below(&r, 3) == 0;
    }
}

struct net {
    struct pk_prog prog[3];
    struct pk_params params, none;
    struct pk_exec exec;
    struct pk_bound bound[3];
    struct pk_gradcache cache;
    bool coupled;
};

static enum pk_status build(struct net *n, const struct task *t, int32_t ranks, struct pk_err *err)
{
    const struct pk_vit vit = {.width = 32,
                               .depth = 2,
                               .heads = 4,
                               .mlp_ratio = 4,
                               .tokens = 40,
                               .eps = 1e-6f,
                               .residual_std = 0.01f};
    if (t->kind == JEPA) {
        struct pk_jepa j = {.signal = case_signal(),
                            .encoder = vit,
                            .predictor = vit,
                            .min_block = 3,
                            .keep = {0.2, 0.2},
                            .seed = 5};
        j.predictor.width = 16;
        j.predictor.heads = 2;
        return pk_jepa_build(&n->prog[0], &n->params, &j, t->records, 8, err);
    }
    if (t->kind == CONVOLUTION) {
        struct pk_classifier c = {
            .signal = case_signal(), .head = PK_HEAD_CONCAT, .classes = CLASSES};
        PK_TRY(pk_encoder_convolution(&c.encoder, PK_ENCODER_RESNET1D_WANG, 8, err));
        return pk_classifier_build(&n->prog[0], &n->params, &c, t->records, true, err);
    }
    const struct pk_contrastive c = {.signal = case_signal(),
                                     .encoder = {.width = 32, .vit = vit},
                                     .hidden = 24,
                                     .width = 12,
                                     .momentum = t->kind == MOCO,
                                     .temperature = 0.1f,
                                     .koleo = 0.1f};
    const struct pk_contrastive_progs progs = {&n->prog[0], &n->prog[1], &n->prog[2]};
    n->coupled = true;
    return pk_contrastive_build(&progs, &n->params, &n->none, &c, t->records,
                                t->records * t->micros, ranks, err);
}

static enum pk_status start(struct net *n, const struct task *t, struct pk_comm *comm,
                            struct pk_err *err)
{
    const bool ema = t->kind == JEPA || t->kind == MOCO;
    PK_TRY(build(n, t, comm ? comm->size : 1, err));
    const struct pk_exec_spec spec = {.params = &n->params,
                                      .threads = t->threads,
                                      .ema = ema,
                                      .train = true,
                                      .comm = comm,
                                      .zero1 = t->zero1};
    PK_TRY(pk_exec_create(&n->exec, &spec, err));
    for (int i = 0; i < (n->coupled ? 3 : 1); i++)
        PK_TRY(pk_exec_bind(&n->exec, &n->bound[i], &n->prog[i], err));
    pk_params_init(&n->params, 3, n->exec.weight);
    if (ema) memcpy(n->exec.ema, n->exec.weight, (size_t)n->params.elements * sizeof(float));
    const struct pk_optim_spec optim = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-6, .clip = 1};
    PK_TRY(pk_exec_optim(&n->exec, &optim, err));
    if (!n->coupled) return PK_OK;
    const struct pk_gradcache cache = {.x = &n->exec,
                                       .embed = &n->bound[0],
                                       .loss = &n->bound[1],
                                       .back = &n->bound[2],
                                       .records = t->records,
                                       .micros = t->micros,
                                       .width = 12,
                                       .keys = t->kind == MOCO};
    return pk_gradcache_create(&n->cache, &cache, err);
}

static void stop(struct net *n)
{
    pk_gradcache_free(&n->cache);
    for (int i = 0; i < 3; i++) {
        pk_bound_free(&n->bound[i]);
        pk_prog_free(&n->prog[i]);
    }
    pk_exec_free(&n->exec);
    pk_params_free(&n->params);
    pk_params_free(&n->none);
}

/* One run of a step: this rank's micro-batches of part `part`. */
static enum pk_status run_part(struct net *n, const struct task *t, const struct data *d, int rank,
                               int size, int part, struct pk_err *err)
{
    const int share = t->micros / size;
    const size_t k = (size_t)t->records;
    const size_t at = k * (size_t)(part * t->micros + rank * share);
    const struct pk_feed all[] = {{"signal", d->signal + at, k * sizeof d->signal[0]},
                                  {"gain", d->gain + at, k * sizeof d->gain[0]},
                                  {"offset", d->offset + at, k * sizeof d->offset[0]},
                                  {"start", d->start + at, k * sizeof d->start[0]},
                                  {"sample", d->sample + at, k * sizeof d->sample[0]},
                                  {"label", d->label + at, k * sizeof d->label[0]}};
    struct pk_exec_batch run = {.feed = all,
                                .feeds = t->kind == CONVOLUTION ? 6 : 5,
                                .micros = share,
                                .loss_scale = 1.0 / (n->coupled ? 1 : t->micros) / t->parts,
                                .add = part > 0,
                                .more = part + 1 < t->parts};
    if (!n->coupled) return pk_exec_run(&n->exec, &n->bound[0], &run, err);
    return pk_gradcache_run(&n->cache, &run, d->group + k * (size_t)(part * t->micros), NULL, err);
}

static uint64_t hash_of(const float *x, int64_t n)
{
    struct pk_xxh64 h;
    if (!x) return 0;
    pk_xxh64_start(&h);
    pk_xxh64_add(&h, x, (size_t)n * sizeof *x);
    return pk_xxh64_value(&h);
}

/* Memory of the moments that this rank has: its share, but for the runs of parameters of a kind,
 * which stay together. */
static void check_memory(const struct net *n)
{
    const struct pk_params *p = &n->params;
    int64_t longest = 0, run = 0;
    for (int64_t i = 0; i < p->count; i++) {
        run = i && pk_param_alike(&p->item[i - 1], &p->item[i]) ? run : 0;
        run += (p->item[i].count + 15) / 16 * 16;
        longest = PK_MAX(longest, run);
    }
    const size_t most = (size_t)(p->elements / n->exec.comm->size + longest) * sizeof(float);
    const size_t m = malloc_usable_size(n->exec.m), v = malloc_usable_size(n->exec.v);
    CHECK(m <= most + 256 && v <= most + 256); // the allocator rounds up
    CHECK(n->exec.moments < p->elements / 2 || n->exec.comm->size < 4);
    if (n->exec.comm->rank == 0)
        fprintf(stderr, "moments of rank 0 of %d: %zu of %lld bytes\n", n->exec.comm->size, m + v,
                (long long)p->elements * 8);
}

/* All moments, from the ranks that have them. */
static float *whole(const struct net *n, float *moment)
{
    struct pk_err err = {0};
    const struct pk_exec *x = &n->exec;
    float *all = calloc((size_t)n->params.elements, sizeof *all);
    memcpy(all + (x->share ? x->share[x->comm->rank] : 0), moment,
           (size_t)x->moments * sizeof *all);
    if (x->share) CHECK_OK(pk_comm_gather_parts(x->comm, all, x->share, &err), &err);
    return all;
}

static void keep_outcome(const struct net *n, struct outcome *o)
{
    const int64_t count = n->params.elements;
    float *moment[2] = {whole(n, n->exec.m), whole(n, n->exec.v)};
    const float *arena[HASHES] = {n->exec.weight, moment[0], moment[1], n->exec.ema};
    CHECK(!n->exec.share == (n->exec.moments == count));
    if (n->exec.share) check_memory(n);
    for (int i = 0; i < HASHES; i++) o->hash[i] = hash_of(arena[i], count);
    CHECK(count <= (int64_t)PK_COUNT(o->weight));
    o->elements = count;
    memcpy(o->weight, n->exec.weight, (size_t)count * sizeof(float));
    free(moment[0]);
    free(moment[1]);
}

/* A rank compares its own rows only: it has no gradient of others'. */
static void check_rows(const struct net *n, const struct pk_comm *c)
{
    const struct pk_exec_rows *g = &n->cache.gradient;
    const int64_t own = g->count / c->size, first = own * c->rank;
    bool here = false, elsewhere = false;
    for (int64_t i = 0; i < g->count; i++) {
        const bool mine = i >= first && i < first + own;
        here |= mine && g->data[i] != 0;
        elsewhere |= !mine && g->data[i] != 0;
    }
    CHECK(here && !elsewhere);
}

/* A loss for as many ranks as a job has not. */
static void check_refused(struct pk_comm *c, void *ctx)
{
    const struct task *t = ctx;
    struct pk_err err = {0};
    struct net n = {0};
    CHECK_OK(start(&n, t, c, &err), &err);
    struct net other = {0};
    CHECK_OK(build(&other, t, 2 * c->size, &err), &err);
    struct pk_bound bound;
    CHECK_FAILS(pk_exec_bind(&n.exec, &bound, &other.prog[1], &err), PK_EINTERNAL, &err,
                "rows of a loss for 4 ranks in a job of 2");
    const struct pk_exec_batch torn = {.micros = 1};
    CHECK_FAILS(pk_exec_run(&n.exec, &n.bound[1], &torn, &err), PK_EINTERNAL, &err,
                "a loss over all ranks");
    stop(&other);
    stop(&n);
}

static enum pk_status train(struct net *n, const struct task *t, struct pk_comm *c,
                            struct outcome *o, struct pk_err *err)
{
    struct data *d = calloc(1, sizeof *d);
    enum pk_status s = PK_OK;
    make_data(d);
    for (int step = 0; s == PK_OK && step < TRAIN_STEPS; step++) {
        const float gain = d->gain[0][0];
        bool have;
        struct pk_exec_result r = {0};
        /* Only the first rank sees the record that spoils the step. */
        if (t->not_finite && step == 3) d->gain[0][0] = NAN;
        n->exec.vote = c->rank == step % c->size ? 1U << step % 3 : 0;
        for (int part = 0; s == PK_OK && part < t->parts; part++)
            s = run_part(n, t, d, c->rank, c->size, part, err);
        if (s == PK_OK && n->coupled && step == 0) check_rows(n, c);
        const struct pk_optim_step o_step = {
            .step = step, .learning_rate = 3e-3, .weight_decay = 0.05, .ema_momentum = 0.9};
        if (s == PK_OK) s = pk_exec_update(&n->exec, &o_step, err);
        if (s == PK_OK) s = pk_exec_result(&n->exec, 0, &r, &have, err);
        CHECK(r.taken == !(t->not_finite && step == 3));
        o->loss[step] = r.taken ? r.loss : -1;
        o->norm[step] = r.taken ? r.norm : -1;
        o->votes[step] = n->exec.votes;
        d->gain[0][0] = gain;
    }
    free(d);
    return s;
}

static void train_rank(struct pk_comm *c, void *ctx)
{
    const struct task *t = ctx;
    struct pk_err err = {0};
    struct net n = {0};
    struct outcome *o = &t->told[c->rank];
    CHECK_OK(start(&n, t, c, &err), &err);
    if (err.status == PK_OK) CHECK_OK(train(&n, t, c, o, &err), &err);
    if (err.status == PK_OK) keep_outcome(&n, o);
    CHECK_OK(pk_comm_same(c, o->hash[0], "weights", &err), &err);
    stop(&n);
}

static struct outcome *shared_outcomes(void)
{
    void *p = mmap(NULL, WORLD_MAX * sizeof(struct outcome), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

/* Outcomes of `size` ranks against one alone; exact, or to rounding. */
static void compare(const struct outcome *one, const struct outcome *many, int size, bool exact)
{
    for (int k = 0; k < size; k++) {
        const struct outcome *o = &many[k];
        CHECK(!memcmp(o, &many[0], sizeof *o)); // all ranks alike, whatever the world
        CHECK(!memcmp(o->votes, one->votes, sizeof o->votes));
        if (exact) {
            CHECK(!memcmp(o, one, sizeof *o));
            continue;
        }
        double worst = 0;
        for (int64_t i = 0; i < one->elements; i++)
            worst = fmax(worst, fabs((double)o->weight[i] - (double)one->weight[i]));
        CHECK(o->hash[0] != one->hash[0]); // or else this test shows nothing
        CHECK(worst < 2e-3);
        for (int i = 0; i < TRAIN_STEPS; i++) CHECK_NEAR(o->loss[i], one->loss[i], 1e-4);
    }
}

static void test_task(struct task t, const char *name)
{
    static const int sizes[] = {2, 4, 8};
    struct outcome *one = shared_outcomes(), *many = shared_outcomes();
    t.told = one;
    t.threads = 2;
    world_run(1, 0, 0, train_rank, &t);
    CHECK(one->elements > 1000 && isfinite(one->loss[TRAIN_STEPS - 1]));
    CHECK(one->loss[TRAIN_STEPS - 1] < one->loss[0]);
    CHECK(one->hash[0] && one->hash[1] && one->hash[2]);
    t.told = many;
    for (size_t i = 0; i < 2 * PK_COUNT(sizes); i++) {
        const int size = sizes[i / 2];
        memset(many, 0, WORLD_MAX * sizeof *many);
        t.threads = 1 + size % 3; // 3, 2, 3
        t.zero1 = i % 2;
        if (t.zero1 && size != 4 && (t.kind != JEPA || t.parts != 1)) continue; // takes its time
        world_run(size, 0, 0, train_rank, &t);
        compare(one, many, size, true);
    }
    if (t.micros % 3 == 0) { // with moments shared out
        world_run(3, 0, 0, train_rank, &t);
        compare(one, many, 3, false);
    }
    fprintf(stderr, "%s: loss %.6f to %.6f, %lld weights\n", name, one->loss[0],
            one->loss[TRAIN_STEPS - 1], (long long)one->elements);
    munmap(one, WORLD_MAX * sizeof *one);
    munmap(many, WORLD_MAX * sizeof *many);
}

/* One bit of a weight, a moment or the EMA copy of one rank, a hundred times. */
static void flip(struct pk_comm *c, void *ctx)
{
    const struct task *t = ctx;
    struct pk_err err = {0};
    struct net n = {0};
    CHECK_OK(start(&n, t, c, &err), &err);
    struct pk_trainer trainer = {.comm = c, .exec = n.exec, .params = n.params}; // borrows them
    const int64_t bytes = n.params.elements * 4;
    float *const arena[] = {n.exec.weight, n.exec.m, n.exec.v, n.exec.ema};
    CHECK_OK(pk_trainer_replicas(&trainer, &err), &err);
    for (int round = 0; round < 100; round++) {
        const int whose = round % c->size;
        char text[64];
        unsigned char *byte = (unsigned char *)arena[round / 4 % 4] + round * 997 % bytes;
        if (c->rank == whose) *byte ^= (unsigned char)(1 << round % 8);
        snprintf(text, sizeof text, "rank %d differs from the other 3", whose);
        CHECK_FAILS(pk_trainer_replicas(&trainer, &err), PK_ERANK, &err, text);
        if (c->rank == whose) *byte ^= (unsigned char)(1 << round % 8);
    }
    stop(&n);
}

/* A gradient that is not finite at one rank: all name the same element of the same parameter, and
 * none takes the step. */
static void bad_gradient(struct pk_comm *c, void *ctx)
{
    const struct task *t = ctx;
    struct pk_err err = {0};
    struct net n = {0};
    struct data *d = calloc(1, sizeof *d);
    struct pk_exec_result r = {0};
    bool have;
    make_data(d);
    CHECK_OK(start(&n, t, c, &err), &err);
    const uint64_t before = hash_of(n.exec.weight, n.params.elements);
    const struct pk_param *p = &n.params.item[n.params.count * 2 / 3];
    CHECK_OK(run_part(&n, t, d, c->rank, c->size, 0, &err), &err);
    if (c->rank == 1) n.exec.grad[p->offset + 3] = INFINITY;
    const struct pk_optim_step step = {.learning_rate = 1e-3};
    CHECK_OK(pk_exec_update(&n.exec, &step, &err), &err);
    CHECK_OK(pk_exec_result(&n.exec, 0, &r, &have, &err), &err);
    CHECK(have && !r.taken && strstr(r.why.message, p->name));
    CHECK(strstr(r.why.message, "is inf at element 3;") != NULL);
    CHECK(hash_of(n.exec.weight, n.params.elements) == before);
    stop(&n);
    free(d);
}

/* A rank that dies within a step ends the others' step, and no weight of theirs has changed. */
static void dies_in_step(struct pk_comm *c, void *ctx)
{
    const struct task *t = ctx;
    struct pk_err err = {0};
    struct net n = {0};
    struct data *d = calloc(1, sizeof *d);
    make_data(d);
    CHECK_OK(start(&n, t, c, &err), &err);
    const uint64_t before = hash_of(n.exec.weight, n.params.elements);
    CHECK_OK(run_part(&n, t, d, c->rank, c->size, 0, &err), &err);
    if (c->rank == 1) raise(SIGKILL);
    const struct pk_optim_step step = {.learning_rate = 1e-3};
    CHECK_FAILS(pk_exec_update(&n.exec, &step, &err), PK_ERANK, &err, "rank 1 closed");
    CHECK(hash_of(n.exec.weight, n.params.elements) == before);
    stop(&n);
    free(d);
}

int main(void)
{
    test_task((struct task){.kind = JEPA, .parts = 1, .records = 1, .micros = 24}, "JEPA");
    test_task((struct task){.kind = JEPA, .parts = 2, .records = 2, .micros = 8}, "accumulated");
    test_task(
        (struct task){.kind = JEPA, .parts = 1, .records = 2, .micros = 16, .not_finite = true},
        "one step skipped");
    test_task((struct task){.kind = CONVOLUTION, .parts = 2, .records = 2, .micros = 8},
              "batch norm");
    test_task((struct task){.kind = SIMCLR, .parts = 1, .records = 2, .micros = 8}, "SimCLR");
    test_task((struct task){.kind = MOCO, .parts = 2, .records = 2, .micros = 8}, "MoCo");
    world_run(2, 0, 0, check_refused,
              &(struct task){.kind = SIMCLR, .records = 2, .micros = 8, .threads = 1});
    struct task t = {.kind = JEPA, .parts = 1, .records = 1, .micros = 8, .threads = 1};
    world_run(4, 0, 0, flip, &t);
    world_run(4, 0, 1U << 1, dies_in_step, &t);
    world_run(4, 0, 0, bad_gradient, &t);
    t.zero1 = true;
    world_run(4, 0, 0, bad_gradient, &t);
    world_run(4, 0, 1U << 1, dies_in_step, &t);
    return TEST_END();
}
