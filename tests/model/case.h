/* case.h -- what the tests of whole models share: a generated batch, a model's executor with
 * perturbed weights, training steps by hand, and raw files for the PyTorch oracle. */
#ifndef PK_TEST_CASE_H
#define PK_TEST_CASE_H

#include "core/exec.h"
#include "core/optim.h"
#include "core/rng.h"
#include "core/schedule.h"
#include "models/signal.h"
#include "tests/test.h"

enum { LEADS = 4, SAMPLES = 240, RECORDS = 8, CLASSES = 5, STEPS = 10 };

struct batch {
    int16_t signal[RECORDS][LEADS][SAMPLES];
    float gain[RECORDS][LEADS], offset[RECORDS][LEADS];
    int32_t start[RECORDS];
    int64_t sample[RECORDS];
    uint8_t label[RECORDS][CLASSES];
    float target[RECORDS][CLASSES]; // some are missing
};

/* 3 of 4 leads in another order, patches of 5 samples, 40 tokens of the 48 that the rows hold. */
static inline struct pk_signal case_signal(void)
{
    return (struct pk_signal){.shape = {.leads = LEADS, .samples = SAMPLES, .rate = 100},
                              .leads = 3,
                              .lead = {2, 0, 3},
                              .patch = 5,
                              .tokens = 40,
                              .clip = 5};
}

/* Noise with slow waves; some samples invalid, some so large that they are clipped. */
static inline void case_batch(struct batch *b, bool one_hot)
{
    struct pk_rng r = pk_rng_make(7, PK_RNG_TEST, 0, 0);
    memset(b, 0, sizeof *b);
    for (int i = 0; i < RECORDS; i++) {
        b->start[i] = (int32_t)pk_rng_below(&r, SAMPLES - 200 + 1);
        b->sample[i] = 1000003 * (int64_t)i + 17;
        for (int l = 0; l < LEADS; l++) {
            b->gain[i][l] = (float)(0.002 + 0.001 * pk_rng_uniform(&r));
            b->offset[i][l] = (float)(0.3 * pk_rng_normal(&r));
            double phase = 6.28 * pk_rng_uniform(&r), rate = 0.02 + 0.2 * pk_rng_uniform(&r);
            for (int t = 0; t < SAMPLES; t++) {
                double v = 400 * sin(rate * t + phase) + 200 * pk_rng_normal(&r);
                uint64_t kind = pk_rng_below(&r, 100);
                b->signal[i][l][t] = (int16_t)(kind == 0 ? -32768 : kind == 1 ? 9000 : v);
            }
        }
        for (int c = 0; c < CLASSES; c++) b->label[i][c] = !one_hot && pk_rng_below(&r, 3) == 0;
        if (one_hot) b->label[i][pk_rng_below(&r, CLASSES)] = 1;
    }
    for (int i = 0; i < RECORDS * CLASSES; i++)
        b->target[i / CLASSES][i % CLASSES] = pk_rng_below(&r, 4) ? (float)pk_rng_normal(&r) : NAN;
}

struct model { // one model with its arenas
    struct pk_params params;
    struct pk_prog prog;
    struct pk_exec exec;
    struct pk_bound bound;
    int64_t records; // of a micro-batch
    float *m, *v;    // moments, when an optimizer runs
};

static inline void model_free(struct model *x)
{
    pk_bound_free(&x->bound);
    pk_exec_free(&x->exec);
    pk_prog_free(&x->prog);
    pk_params_free(&x->params);
    free(x->m);
    free(x->v);
    *x = (struct model){0};
}

/* Weights five times as wide as the initialisation, gains off 1: no term of a gradient is small.
 * The EMA copy differs from the weights. */
static inline void model_perturb(struct model *x)
{
    struct pk_rng r = pk_rng_make(11, PK_RNG_TEST, 1, 0);
    pk_params_init(&x->params, 3, x->exec.weight);
    for (int64_t i = 0; i < x->params.count; i++) {
        const struct pk_param *q = &x->params.item[i];
        for (int64_t k = q->offset; k < q->offset + q->count; k++) {
            if (q->init == PK_INIT_TRUNC_NORMAL)
                x->exec.weight[k] *= 5;
            else
                x->exec.weight[k] += (float)(0.2 * pk_rng_normal(&r));
            if (x->exec.ema) x->exec.ema[k] = x->exec.weight[k] + (float)(0.03 * pk_rng_normal(&r));
        }
    }
}

/* Weights as initialised, but for gains and biases off 1 and 0 and running statistics off theirs.
 * The EMA copy is the same. */
static inline void model_perturb_norms(struct model *x)
{
    struct pk_rng r = pk_rng_make(11, PK_RNG_TEST, 1, 0);
    pk_params_init(&x->params, 3, x->exec.weight);
    for (int64_t i = 0; i < x->params.count; i++) {
        const struct pk_param *q = &x->params.item[i];
        for (int64_t k = q->offset; q->rank == 1 && k < q->offset + q->count; k++)
            x->exec.weight[k] += (float)(0.2 * pk_rng_normal(&r));
    }
    if (x->exec.ema)
        memcpy(x->exec.ema, x->exec.weight, (size_t)x->params.elements * sizeof(float));
}

/* Arenas and plan for the program that the caller has built into x->prog. */
static inline enum pk_status model_start(struct model *x, int threads, bool ema, struct pk_err *err)
{
    struct pk_exec_spec spec = {
        .params = &x->params, .threads = threads, .ema = ema, .train = x->prog.loss >= 0};
    size_t n = (size_t)x->params.elements;
    PK_TRY(pk_exec_create(&x->exec, &spec, err));
    PK_TRY(pk_exec_bind(&x->exec, &x->bound, &x->prog, err));
    PK_TRY(pk_alloc_aligned(&x->m, n, sizeof(float), "moments", err));
    PK_TRY(pk_alloc_aligned(&x->v, n, sizeof(float), "moments", err));
    model_perturb(x);
    return PK_OK;
}

/* Runs the batch in micro-batches; the mean loss goes to *loss, other outputs to fetch[]. */
static inline enum pk_status model_run(struct model *x, const struct batch *b, double *loss,
                                       const struct pk_fetch *fetch, int fetches,
                                       struct pk_err *err)
{
    size_t n = (size_t)x->records;
    const struct pk_feed all[] = {
        {"signal", b->signal, n * sizeof b->signal[0]}, {"gain", b->gain, n * sizeof b->gain[0]},
        {"offset", b->offset, n * sizeof b->offset[0]}, {"start", b->start, n * sizeof b->start[0]},
        {"sample", b->sample, n * sizeof b->sample[0]}, {"label", b->label, n * sizeof b->label[0]},
        {"target", b->target, n * sizeof b->target[0]}};
    struct pk_feed feed[PK_COUNT(all)];
    struct pk_fetch out[8];
    float each[RECORDS];
    struct pk_exec_batch run = {.feed = feed, .fetch = out, .micros = RECORDS / x->records};
    for (size_t i = 0; i < PK_COUNT(all); i++)
        if (pk_prog_find(&x->prog, PK_STORE_IN, all[i].name) >= 0) feed[run.feeds++] = all[i];
    for (int i = 0; i < fetches; i++) out[run.fetches++] = fetch[i];
    if (loss) out[run.fetches++] = (struct pk_fetch){"loss", each};
    run.loss_scale = 1 / (double)run.micros;
    PK_TRY(pk_exec_run(&x->exec, &x->bound, &run, err));
    if (loss) *loss = 0;
    for (int64_t i = 0; loss && i < run.micros; i++) *loss += (double)each[i] / (double)run.micros;
    return PK_OK;
}

struct step_plan { // schedules of the steps that the oracle repeats
    struct pk_schedule rate, decay, momentum;
    struct pk_optim_spec optim;
};

static inline struct step_plan case_steps(void)
{
    return (struct step_plan){
        .rate = {PK_SHAPE_COSINE, 1e-4, 3e-3, 1e-4, 3, STEPS, 0},
        .decay = {PK_SHAPE_COSINE, 0, 0.05, 0.5, 0, STEPS, 0},
        .momentum = {PK_SHAPE_LINEAR, 0, 0.9, 0.99, 0, STEPS, 0},
        .optim = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-6},
    };
}

/* `steps` optimizer steps on one batch; loss[i] is taken before step i. rate > 0 is constant. */
static inline enum pk_status model_train(struct model *x, const struct batch *b, int steps,
                                         const struct step_plan *plan, double *loss,
                                         struct pk_err *err)
{
    struct pk_optim *o;
    enum pk_status s = pk_optim_create(&o, &x->params, &plan->optim, err);
    struct pk_optim_arenas a = {
        .weight = x->exec.weight, .m = x->m, .v = x->v, .ema = x->exec.ema, .grad = x->exec.grad};
    for (int i = 0; s == PK_OK && i < steps; i++) {
        struct pk_optim_step step = {.step = i,
                                     .learning_rate = pk_schedule_at(&plan->rate, i),
                                     .weight_decay = pk_schedule_at(&plan->decay, i),
                                     .ema_momentum = pk_schedule_at(&plan->momentum, i)};
        s = model_run(x, b, &loss[i], NULL, 0, err);
        if (s == PK_OK) s = pk_optim_step(o, x->exec.pool, &a, &step, NULL, err);
    }
    pk_optim_free(o);
    return s;
}

/* Files for the oracle: raw little-endian arrays and meta.json. */
static inline void dump(const char *dir, const char *name, const void *data, size_t bytes)
{
    struct pk_err err = {0};
    char path[PK_PATH_MAX];
    CHECK_OK(pk_path(path, &err, "%s/%s", dir, name), &err);
    CHECK_OK(pk_write_file(path, data, bytes, &err), &err);
}

static inline void dump_batch(const char *dir, const struct batch *b)
{
    dump(dir, "signal.i16", b->signal, sizeof b->signal);
    dump(dir, "gain.f32", b->gain, sizeof b->gain);
    dump(dir, "offset.f32", b->offset, sizeof b->offset);
    dump(dir, "start.i32", b->start, sizeof b->start);
    dump(dir, "label.u8", b->label, sizeof b->label);
    dump(dir, "target.f32", b->target, sizeof b->target);
}

static inline void dump_arena(const char *dir, const struct model *x, const char *name,
                              const float *arena)
{
    dump(dir, name, arena, (size_t)x->params.elements * sizeof *arena);
}

/* `config` is a list of JSON members of the model's own, with a comma behind the last. */
static inline void dump_meta(const char *dir, const struct model *x, const struct step_plan *plan,
                             const double *loss, const char *config)
{
    struct pk_text t = {0};
    pk_text_add(&t, "{%s\n\"leads\": [2, 0, 3], \"patch\": 5, \"tokens\": 40, \"clip\": 5,\n",
                config);
    pk_text_add(&t, "\"shape\": [%d, %d, %d], \"classes\": %d,\n", RECORDS, LEADS, SAMPLES,
                CLASSES);
    pk_text_add(&t, "\"beta\": [%.17g, %.17g], \"eps\": %.17g,\n\"steps\": [", plan->optim.beta1,
                plan->optim.beta2, plan->optim.eps);
    for (int i = 0; i < STEPS; i++)
        pk_text_add(&t,
                    "%s{\"rate\": %.17g, \"decay\": %.17g, \"momentum\": %.17g, \"loss\": %.17g}",
                    i ? ",\n" : "", pk_schedule_at(&plan->rate, i), pk_schedule_at(&plan->decay, i),
                    pk_schedule_at(&plan->momentum, i), loss[i]);
    pk_text_add(&t, "],\n\"params\": [");
    for (int64_t i = 0; i < x->params.count; i++) {
        const struct pk_param *q = &x->params.item[i];
        pk_text_add(&t, "%s{\"name\": \"%s\", \"offset\": %lld, \"dim\": [", i ? ",\n" : "",
                    q->name, (long long)q->offset);
        for (int k = 0; k < q->rank; k++)
            pk_text_add(&t, "%s%lld", k ? ", " : "", (long long)q->dim[k]);
        pk_text_add(&t, "], \"decay\": %s, \"trained\": %s, \"ema\": %s, \"state\": %s}",
                    q->decay ? "true" : "false", q->trained && !q->state ? "true" : "false",
                    q->ema ? "true" : "false", q->state ? "true" : "false");
    }
    pk_text_add(&t, "]}\n");
    CHECK(!t.failed);
    dump(dir, "meta.json", t.s, t.len);
    pk_text_free(&t);
}

#endif
