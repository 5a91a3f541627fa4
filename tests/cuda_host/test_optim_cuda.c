/* test_optim_cuda.c -- the optimizer step of the CUDA backend against core/optim.c and against
 * double precision: flags, clipping, bf16 copies, steps that are not finite, graphs. */
#include "cuda/optim.h"
#include "cuda/queue.h"

#include "core/rng.h"
#include "tests/test.h"
#include "tests/cuda_host/include/pk_host.h"

enum { WEIGHT, M, V, EMA, GRAD, ARENAS, STEPS = 10, GUARD = 64, LOW_GUARD = 0x5a5a };

/* Every combination of flags, neighbours that merge, sizes around the chunk of 4,096 elements and
 * not multiples of a vector. */
static const struct {
    int64_t count;
    bool trained, decay, ema;
    float keep, gain; // of state; weights have 0
} table[] = {
    {100, true, true, true, 0, 0},         {4083, true, true, true, 0, 0},
    {9001, true, false, true, 0, 0},       {1, false, true, true, 0, 0},
    {33, false, false, false, 0, 0},       {4096, true, true, false, 0, 0},
    {5, true, false, false, 0, 0},         {4099, false, false, true, 0, 0},
    {17, false, true, false, 0, 0},        {70, true, true, true, 0, 0},
    {5001, true, false, true, 0.9f, 0.1f}, {1, true, false, false, 1, 1},
    {40, false, false, true, 0.9f, 0.1f},
};
enum { PARAMS = sizeof table / sizeof *table };

struct model {
    struct pk_params params;
    struct pk_param item[PARAMS];
    float *cpu[ARENAS], *host[ARENAS];   // [elements]: core/optim.c's, and the device's copied back
    float *device[ARENAS];               // [elements + GUARD]
    uint16_t *low[2], *device_low[2];    // of weight and ema; device: [elements + GUARD]
    double *exact[4];                    // [elements]
    struct pk_cuda_scalars *scalars;     // device
    struct pk_cuda_report *report, told; // device; copied back
    float *loss, *seed;                  // device
    struct pk_queue queue;
};

static void *take(size_t bytes)
{
    void *p = NULL;
    CHECK(cudaMalloc(&p, bytes) == cudaSuccess);
    if (!p) exit(1);
    return p;
}

static void *zeros(int64_t n, size_t size)
{
    void *p = calloc((size_t)n, size);
    if (!p) exit(1);
    return p;
}

static void copy(void *to, const void *from, size_t bytes)
{
    CHECK(cudaMemcpy(to, from, bytes, cudaMemcpyDefault) == cudaSuccess);
}

static void model_layout(struct model *m)
{
    *m = (struct model){.params = {.item = m->item, .count = PARAMS}};
    int64_t at = 0;
    for (int i = 0; i < PARAMS; i++) {
        struct pk_param *p = &m->item[i];
        *p = (struct pk_param){.rank = 1,
                               .dim = {table[i].count},
                               .count = table[i].count,
                               .offset = at,
                               .decay = table[i].decay,
                               .trained = table[i].trained,
                               .ema = table[i].ema,
                               .state = table[i].gain != 0,
                               .keep = table[i].keep,
                               .gain = table[i].gain};
        at += (p->count + 15) / 16 * 16;
    }
    m->params.elements = at - 7; // the last chunk is no whole number of vectors
}

static void model_make(struct model *m)
{
    const float one = 1;
    model_layout(m);
    const int64_t n = m->params.elements;
    CHECK(cudaStreamCreateWithFlags(&m->queue.stream, cudaStreamNonBlocking) == cudaSuccess);
    for (int k = 0; k < ARENAS; k++) {
        m->cpu[k] = zeros(n, sizeof(float));
        m->host[k] = zeros(n + GUARD, sizeof(float));
        m->device[k] = take((size_t)(n + GUARD) * sizeof(float));
    }
    for (int k = 0; k < 4; k++) m->exact[k] = zeros(n, sizeof(double));
    for (int k = 0; k < 2; k++) {
        m->low[k] = zeros(n + GUARD, sizeof(uint16_t));
        m->device_low[k] = take((size_t)(n + GUARD) * sizeof(uint16_t));
    }
    m->scalars = take(sizeof *m->scalars);
    m->report = take(sizeof *m->report);
    m->loss = take(sizeof *m->loss);
    m->seed = take(sizeof *m->seed);
    copy(m->report, &m->told, sizeof m->told);
    copy(m->loss, &one, sizeof one);
    copy(m->seed, &one, sizeof one);
}

static void model_free(struct model *m)
{
    for (int k = 0; k < ARENAS; k++) {
        free(m->cpu[k]);
        free(m->host[k]);
        CHECK(cudaFree(m->device[k]) == cudaSuccess);
    }
    for (int k = 0; k < 4; k++) free(m->exact[k]);
    for (int k = 0; k < 2; k++) {
        free(m->low[k]);
        CHECK(cudaFree(m->device_low[k]) == cudaSuccess);
    }
    cudaFree(m->scalars);
    cudaFree(m->report);
    cudaFree(m->loss);
    cudaFree(m->seed);
    CHECK(cudaStreamDestroy(m->queue.stream) == cudaSuccess);
}

#define EACH(m, q, i)                                                                              \
    for (const struct pk_param *q = (m)->item; q < (m)->item + PARAMS; q++)                        \
        for (int64_t i = q->offset; i < q->offset + q->count && i < (m)->params.elements; i++)

static void fill(struct model *m, int arena, uint64_t key, double scale)
{
    struct pk_rng r = pk_rng_make(12, PK_RNG_TEST, key, 0);
    EACH(m, q, i) m->cpu[arena][i] = (float)(scale * pk_rng_normal(&r));
}

/* cpu -> device, the guards behind it 7. */
static void push(struct model *m, int arena)
{
    const size_t n = (size_t)m->params.elements;
    memcpy(m->host[arena], m->cpu[arena], n * sizeof(float));
    for (int i = 0; i < GUARD; i++) m->host[arena][n + (size_t)i] = 7;
    copy(m->device[arena], m->host[arena], (n + GUARD) * sizeof(float));
}

static void pull(struct model *m)
{
    const size_t n = (size_t)m->params.elements;
    CHECK(cudaStreamSynchronize(m->queue.stream) == cudaSuccess);
    for (int k = 0; k < ARENAS; k++) {
        copy(m->host[k], m->device[k], (n + GUARD) * sizeof(float));
        for (int i = 0; i < GUARD; i++) CHECK(m->host[k][n + (size_t)i] == 7);
    }
    for (int k = 0; k < 2; k++) {
        copy(m->low[k], m->device_low[k], (n + GUARD) * sizeof(uint16_t));
        for (int i = 0; i < GUARD; i++) CHECK(m->low[k][n + (size_t)i] == LOW_GUARD);
    }
    copy(&m->told, m->report, sizeof m->told);
}

/* Weights and EMA at the start, everywhere. */
static void start(struct model *m)
{
    struct pk_err err = {0};
    const int64_t n = m->params.elements;
    fill(m, WEIGHT, 1000, 0.1);
    fill(m, EMA, 1001, 0.1);
    for (int k = M; k <= V; k++) memset(m->cpu[k], 0, (size_t)n * sizeof(float));
    for (int k = 0; k < ARENAS; k++) push(m, k);
    for (int k = 0; k < 4; k++)
        for (int64_t i = 0; i < n; i++) m->exact[k][i] = (double)m->cpu[k][i];
    for (int k = 0; k < 2; k++) {
        memset(m->low[k], 0x5a, (size_t)(n + GUARD) * sizeof(uint16_t));
        copy(m->device_low[k], m->low[k], (size_t)(n + GUARD) * sizeof(uint16_t));
        CHECK_OK(pk_cuda_cast(&m->queue, m->device_low[k], m->device[k ? EMA : WEIGHT], n, &err),
                 &err);
    }
}

static struct pk_optim_step step_of(int64_t step)
{
    return (struct pk_optim_step){step, 1e-3 * (1 + (double)step), 0.05, 0.99,
                                  step % 2 ? 0.8 + 0.01 * (double)step : 0};
}

/* One step in double, with the float factors that both sides get. */
static void step_exactly(struct model *m, const struct pk_optim_spec *spec,
                         const struct pk_optim_step *step, double norm)
{
    struct pk_optim_factors f;
    pk_optim_factors(spec, step, &f);
    const bool clips = spec->clip > 0 && spec->clip < norm + 1e-6;
    const double scale = clips ? (double)(float)(spec->clip / (norm + 1e-6)) : 1;
    EACH(m, q, i)
    {
        double *w = &m->exact[WEIGHT][i], *m1 = &m->exact[M][i], *v = &m->exact[V][i];
        const double g = (double)m->cpu[GRAD][i] * scale;
        if (q->trained && q->state)
            *w = *w * (double)q->keep + (double)m->cpu[GRAD][i] * (double)q->gain;
        else if (q->trained) {
            *m1 += (g - *m1) * (double)f.m_rate;
            *v = *v * (double)f.beta2 + g * g * (double)f.v_rate;
            *w = *w * (q->decay ? (double)f.decay_keep : 1) -
                 (double)f.step * *m1 / (sqrt(*v) * (double)f.v_scale + (double)f.eps);
        }
        if (q->ema) m->exact[EMA][i] += (*w - m->exact[EMA][i]) * (double)f.ema_rate;
    }
}

/* Which of the optional arenas the device has. */
struct form {
    bool ema, low;
    double clip;
};

static struct pk_cuda_optim_arenas arenas(const struct model *m, const struct form *f)
{
    return (struct pk_cuda_optim_arenas){.weight = m->device[WEIGHT],
                                         .m = m->device[M],
                                         .v = m->device[V],
                                         .ema = f->ema ? m->device[EMA] : NULL,
                                         .grad = m->device[GRAD],
                                         .weight_low = f->low ? m->device_low[0] : NULL,
                                         .ema_low = f->low && f->ema ? m->device_low[1] : NULL};
}

static void enqueue(struct model *m, struct pk_cuda_optim *o, const struct form *f,
                    const struct pk_optim_spec *spec, const struct pk_optim_step *step, bool skip)
{
    struct pk_err err = {0};
    struct pk_cuda_scalars s;
    const struct pk_cuda_optim_arenas a = arenas(m, f);
    pk_cuda_scalars_set(&s, spec, step, skip);
    CHECK(cudaStreamSynchronize(m->queue.stream) == cudaSuccess);
    copy(m->scalars, &s, sizeof s);
    CHECK_OK(pk_cuda_add_loss(&m->queue, m->report, m->loss, m->seed, false, &err), &err);
    CHECK_OK(pk_cuda_optim_measure(o, &m->queue, a.grad, &err), &err);
    CHECK_OK(pk_cuda_optim_apply(o, &m->queue, &a, m->scalars, m->report, &err), &err);
    CHECK(cudaStreamSynchronize(m->queue.stream) == cudaSuccess);
    copy(&m->told, m->report, sizeof m->told);
}

/* To nearest even, as the format's definition has it. */
static uint16_t low_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void check_low(const struct model *m, const struct form *f)
{
    static float before[2][65536];
    struct model *first = (struct model *)zeros(1, sizeof *first);
    int64_t bad = 0;
    model_layout(first);
    for (int k = 0; k < 2; k++) { // what the copies held at the start
        first->cpu[0] = before[k];
        fill(first, 0, 1000 + (uint64_t)k, 0.1);
    }
    EACH(m, q, i)
    for (int k = 0; k < 2; k++) {
        const bool rewritten = f->low && (k == 0 || f->ema);
        const float *now = m->host[k ? EMA : WEIGHT];
        bad += m->low[k][i] != low_of(rewritten ? now[i] : before[k][i]);
    }
    free(first);
    CHECK(!bad);
}

/* The device may be twice as far from double precision as core/optim.c, give or take four roundings
 * of the largest value. On the host executor, where neither side contracts multiplications and
 * additions (portable kernels on x86-64, no clipping factor in between), the bits are the same. */
static void compare(const struct model *m, const struct form *f)
{
    for (int k = 0; k < 4; k++) {
        double off = 0, allowed = 0, largest = 0;
        int64_t differ = 0;
        if (k == EMA && !f->ema) continue;
        EACH(m, q, i)
        {
            const double e = fabs((double)m->host[k][i] - m->exact[k][i]);
            off = e <= off ? off : e;
            allowed = fmax(allowed, fabs((double)m->cpu[k][i] - m->exact[k][i]));
            largest = fmax(largest, fabs(m->exact[k][i]));
        }
        for (int64_t i = 0; i < m->params.elements; i++) // padding too
            differ += memcmp(&m->host[k][i], &m->cpu[k][i], sizeof(float)) != 0;
        CHECK(off <= 2 * allowed + 4 * largest * 0x1p-24);
#if defined(PK_CUDA_HOST) && defined(__x86_64__) && !defined(__FMA__)
        if (f->clip == 0) CHECK(!differ);
#endif
    }
    CHECK(!memcmp(m->host[GRAD], m->cpu[GRAD], (size_t)m->params.elements * sizeof(float)));
}

static void test_steps(const struct form *f)
{
    static const double scales[] = {1e-2, 1e-5, 3}; // above and below the clip norm
    const struct pk_optim_spec spec = {0.9, 0.99, 1e-6, f->clip};
    struct pk_err err = {0};
    struct model m;
    struct pk_optim *cpu;
    struct pk_cuda_optim *device;
    model_make(&m);
    start(&m);
    CHECK_OK(pk_optim_create(&cpu, &m.params, &spec, &err), &err);
    CHECK_OK(pk_cuda_optim_create(&device, &m.params, 0, m.params.elements, &err), &err);
    const struct pk_optim_arenas a = {.weight = m.cpu[WEIGHT],
                                      .m = m.cpu[M],
                                      .v = m.cpu[V],
                                      .ema = f->ema ? m.cpu[EMA] : NULL,
                                      .grad = m.cpu[GRAD]};
    for (int64_t s = 0; s < STEPS; s++) {
        const struct pk_optim_step step = step_of(s);
        double norm;
        fill(&m, GRAD, (uint64_t)s, scales[s % 3]);
        push(&m, GRAD);
        CHECK_OK(pk_optim_step(cpu, NULL, &a, &step, &norm, &err), &err);
        step_exactly(&m, &spec, &step, norm);
        enqueue(&m, device, f, &spec, &step, false);
        CHECK(m.told.taken == 1 && m.told.step == s && m.told.bad == -1 && m.told.loss == 1);
        CHECK_NEAR(m.told.norm, norm, 1e-14 * norm);
    }
    pull(&m);
    compare(&m, f);
    check_low(&m, f);
    pk_optim_free(cpu);
    pk_cuda_optim_free(device);
    model_free(&m);
}

/* A snapshot of all that an update may change. */
struct snapshot {
    float *arena[ARENAS];
    uint16_t *low[2];
};

static void snapshot_make(struct snapshot *s, struct model *m)
{
    const size_t n = (size_t)m->params.elements;
    pull(m);
    for (int k = 0; k < ARENAS; k++) {
        s->arena[k] = zeros((int64_t)n, sizeof(float));
        memcpy(s->arena[k], m->host[k], n * sizeof(float));
    }
    for (int k = 0; k < 2; k++) {
        s->low[k] = zeros((int64_t)n, sizeof(uint16_t));
        memcpy(s->low[k], m->low[k], n * sizeof(uint16_t));
    }
}

/* Arenas whose bits differ from the snapshot's. */
static int changed(const struct snapshot *s, struct model *m)
{
    const size_t n = (size_t)m->params.elements;
    int count = 0;
    pull(m);
    for (int k = 0; k < ARENAS; k++)
        count += memcmp(s->arena[k], m->host[k], n * sizeof(float)) != 0;
    for (int k = 0; k < 2; k++) count += memcmp(s->low[k], m->low[k], n * sizeof(uint16_t)) != 0;
    return count;
}

static void snapshot_free(struct snapshot *s)
{
    for (int k = 0; k < ARENAS; k++) free(s->arena[k]);
    for (int k = 0; k < 2; k++) free(s->low[k]);
}

static const struct form full = {true, true, 1};
static const struct pk_optim_spec usual = {0.9, 0.99, 1e-6, 1};

/* Puts a gradient into element i of all, takes a step, and sees that nothing happened. */
static void refused(struct model *m, struct pk_cuda_optim *o, int64_t at, float value, bool skip)
{
    struct snapshot before;
    const struct pk_optim_step step = step_of(5);
    fill(m, GRAD, 5, 1);
    m->cpu[GRAD][at] = value;
    m->cpu[GRAD][m->item[PARAMS - 1].offset + 3] = -INFINITY; // a later one is not what is told
    push(m, GRAD);
    snapshot_make(&before, m);
    enqueue(m, o, &full, &usual, &step, skip);
    CHECK(changed(&before, m) == 0);
    CHECK(!m->told.taken && m->told.stopped == !skip && !isfinite(m->told.norm));
    CHECK(m->told.bad == at && m->told.step == 5);
    CHECK(isnan(value) ? isnan(m->told.bad_value) : m->told.bad_value == value);
    snapshot_free(&before);
}

/* A step with good gradients; how many arenas it changed. */
static int good_step(struct model *m, struct pk_cuda_optim *o)
{
    struct snapshot before;
    const struct pk_optim_step step = step_of(6);
    fill(m, GRAD, 6, 1);
    m->cpu[GRAD][m->item[4].offset] = NAN; // not trained: nobody reads it
    push(m, GRAD);
    snapshot_make(&before, m);
    enqueue(m, o, &full, &usual, &step, true);
    const int n = changed(&before, m);
    snapshot_free(&before);
    return n;
}

static void test_not_finite(void)
{
    struct pk_err err = {0};
    struct model m;
    struct pk_cuda_optim *o;
    model_make(&m);
    start(&m);
    CHECK_OK(pk_cuda_optim_create(&o, &m.params, 0, m.params.elements, &err), &err);
    refused(&m, o, 0, NAN, true);
    CHECK(good_step(&m, o) == 6 && m.told.taken && !m.told.stopped); // all but the gradient
    refused(&m, o, m.item[2].offset + 8999, INFINITY, true);
    refused(&m, o, m.item[6].offset + 4, NAN, false);
    CHECK(good_step(&m, o) == 0 && !m.told.taken && m.told.stopped && m.told.bad == -1);
    CHECK_OK(pk_cuda_optim_clear(&m.queue, m.report, &err), &err);
    CHECK(good_step(&m, o) == 6 && m.told.taken && !m.told.stopped);
    const float bad = NAN, fine = 2;
    copy(m.loss, &bad, sizeof bad);
    CHECK(good_step(&m, o) == 0 && !m.told.taken && m.told.bad == -1 && isfinite(m.told.norm));
    copy(m.loss, &fine, sizeof fine);
    CHECK(good_step(&m, o) == 6 && m.told.taken && m.told.loss == 2);
    pk_cuda_optim_free(o);
    model_free(&m);
}

/* Twice the same from the same start, in whatever order threads run. */
static void test_repeats(void)
{
    struct pk_err err = {0};
    struct model m;
    struct snapshot first = {{NULL}, {NULL}};
    struct pk_cuda_optim *o;
    double norm = 0;
    model_make(&m);
    CHECK_OK(pk_cuda_optim_create(&o, &m.params, 0, m.params.elements, &err), &err);
    for (int turn = 0; turn < 2; turn++) {
        start(&m);
        pk_host_order(turn ? PK_HOST_RANDOM : PK_HOST_ASCENDING);
        good_step(&m, o);
        if (turn == 0)
            snapshot_make(&first, &m);
        else
            CHECK(changed(&first, &m) == 0 && m.told.norm == norm);
        norm = m.told.norm;
    }
    snapshot_free(&first);
    pk_cuda_optim_free(o);
    model_free(&m);
}

/* Where a parameter begins, or the arena ends. */
static int64_t at(const struct model *m, int64_t param)
{
    return param < PARAMS ? m->item[param].offset : m->params.elements;
}

/* The sums of squares of all ranks meet at each, as they do over NCCL. */
static void join(struct pk_cuda_optim *const *o, int ranks)
{
    double *sums, *all = NULL, *part = NULL;
    int64_t count;
    for (int k = 0; k < ranks; k++) {
        pk_cuda_optim_sums(o[k], &sums, &count);
        if (!all) {
            all = zeros(count, sizeof *all);
            part = zeros(count, sizeof *part);
        }
        copy(part, sums, (size_t)count * sizeof *part);
        for (int64_t i = 0; i < count; i++) {
            CHECK(all[i] == 0 || part[i] == 0); // nobody else's
            all[i] += part[i];
        }
    }
    for (int k = 0; k < ranks; k++) {
        pk_cuda_optim_sums(o[k], &sums, &count);
        copy(sums, all, (size_t)count * sizeof *all);
    }
    free(all);
    free(part);
}

/* Every rank its share, one after the other on the same arenas. o: [ranks], the caller's to free.
 */
static void step_by_shares(struct model *m, struct pk_cuda_optim **o, int ranks,
                           struct pk_cuda_report *told)
{
    int64_t from[PARAMS + 1];
    const struct pk_optim_step step = step_of(3);
    const struct pk_cuda_optim_arenas whole = arenas(m, &full);
    struct pk_cuda_scalars s;
    struct pk_err err = {0};
    pk_cuda_scalars_set(&s, &usual, &step, true);
    copy(m->scalars, &s, sizeof s);
    for (int k = 0; k < ranks; k++) {
        int64_t first, last;
        pk_params_share(&m->params, k, ranks, &first, &last);
        from[k] = at(m, first);
        CHECK_OK(pk_cuda_optim_create(&o[k], &m->params, from[k], at(m, last), &err), &err);
        CHECK_OK(pk_cuda_optim_measure(o[k], &m->queue, whole.grad, &err), &err);
    }
    CHECK(cudaStreamSynchronize(m->queue.stream) == cudaSuccess);
    join(o, ranks);
    for (int k = 0; k < ranks; k++) {
        struct pk_cuda_optim_arenas a = whole;
        a.m += from[k];
        a.v += from[k];
        copy(m->report, &(struct pk_cuda_report){.loss = 1}, sizeof *m->report);
        CHECK_OK(pk_cuda_optim_apply(o[k], &m->queue, &a, m->scalars, m->report, &err), &err);
        CHECK(cudaStreamSynchronize(m->queue.stream) == cudaSuccess);
        copy(&told[k], m->report, sizeof told[k]);
    }
}

static void free_all(struct pk_cuda_optim **o, int ranks)
{
    for (int k = 0; k < ranks; k++) pk_cuda_optim_free(o[k]);
}

/* Rank k after the step: it has all weights, and its own share's EMA and bf16 copies. */
static void check_follower(struct model *m, struct pk_cuda_optim *o, const struct snapshot *before,
                           const struct snapshot *after, int64_t from, int64_t to)
{
    const struct pk_cuda_optim_arenas a = arenas(m, &full);
    const size_t n = (size_t)m->params.elements, first = (size_t)from, own = (size_t)(to - from);
    struct pk_err err = {0};
    copy(m->device[EMA], before->arena[EMA], n * sizeof(float));
    copy(m->device[EMA] + first, after->arena[EMA] + first, own * sizeof(float));
    for (int k = 0; k < 2; k++) {
        copy(m->device_low[k], before->low[k], n * sizeof(uint16_t));
        copy((uint16_t *)m->device_low[k] + first, after->low[k] + first, own * sizeof(uint16_t));
    }
    CHECK_OK(pk_cuda_optim_follow(o, &m->queue, &a, m->scalars, m->report, &err), &err);
    CHECK(changed(after, m) == 0);
}

/* ZeRO stage 1: shares take the step of the whole, bit for bit, and one alone names a bad element.
 */
static void test_shares(void)
{
    struct pk_err err = {0};
    struct model m;
    struct snapshot all = {{NULL}, {NULL}}, before;
    struct pk_cuda_optim *o[PARAMS + 1] = {NULL};
    struct pk_cuda_report told[PARAMS + 1], one = {0};
    model_make(&m);
    start(&m);
    snapshot_make(&before, &m);
    for (int ranks = 1; ranks <= PARAMS + 1; ranks++) { // more ranks than runs: empty shares
        start(&m);
        fill(&m, GRAD, 9, 1);
        push(&m, GRAD);
        step_by_shares(&m, o, ranks, told);
        if (ranks == 1) {
            one = told[0];
            snapshot_make(&all, &m);
        }
        CHECK(changed(&all, &m) == 0);
        for (int k = 0; k < ranks; k++)
            CHECK(told[k].taken && told[k].norm == one.norm && told[k].bad == -1);
        for (int k = 0; k < ranks; k++) {
            int64_t first, last;
            pk_params_share(&m.params, k, ranks, &first, &last);
            check_follower(&m, o[k], &before, &all, at(&m, first), at(&m, last));
        }
        free_all(o, ranks);
    }
    snapshot_free(&before);
    snapshot_free(&all);
    start(&m);
    fill(&m, GRAD, 9, 1);
    const int64_t bad = m.item[2].offset + 5;
    m.cpu[GRAD][bad] = NAN;
    push(&m, GRAD);
    snapshot_make(&all, &m);
    step_by_shares(&m, o, 4, told);
    for (int k = 0; k < 4; k++) {
        const struct pk_cuda_optim_arenas a = arenas(&m, &full);
        CHECK_OK(pk_cuda_optim_follow(o[k], &m.queue, &a, m.scalars, m.report, &err), &err);
    }
    CHECK(changed(&all, &m) == 0);
    free_all(o, 4);
    int named = 0;
    for (int k = 0; k < 4; k++) {
        CHECK(!told[k].taken && (told[k].bad == -1 || told[k].bad == bad));
        named += told[k].bad == bad;
    }
    CHECK(named == 1);
    snapshot_free(&all);
    model_free(&m);
}

static void test_loss_sum(void)
{
    struct pk_err err = {0};
    struct model m;
    const float third = 1.0f / 3, values[] = {1, 10, 100};
    model_make(&m);
    copy(m.seed, &third, sizeof third);
    for (int turn = 0; turn < 2; turn++) // the second turn forgets the first
        for (int i = 0; i < 3; i++) {
            copy(m.loss, &values[i], sizeof values[i]);
            CHECK_OK(pk_cuda_add_loss(&m.queue, m.report, m.loss, m.seed, i > 0, &err), &err);
            CHECK(cudaStreamSynchronize(m.queue.stream) == cudaSuccess);
        }
    copy(&m.told, m.report, sizeof m.told);
    CHECK_NEAR(m.told.loss, 111 * (double)third, 1e-13);
    model_free(&m);
}

static void test_cast(void)
{
    static const float odd[] = {0, -0.0f, 1, 1.00390625f, 1.01171875f, -3e38f, 1e-40f, INFINITY, 7};
    struct pk_err err = {0};
    struct model m;
    model_make(&m);
    for (int64_t n = 0; n < (int64_t)PK_COUNT(odd); n++) {
        memset(m.low[0], 0x5a, (PK_COUNT(odd) + 1) * sizeof(uint16_t));
        copy(m.device[0], odd, sizeof odd);
        copy(m.device_low[0], m.low[0], (PK_COUNT(odd) + 1) * sizeof(uint16_t));
        CHECK_OK(pk_cuda_cast(&m.queue, m.device_low[0], m.device[0], n, &err), &err);
        CHECK(cudaStreamSynchronize(m.queue.stream) == cudaSuccess);
        copy(m.low[0], m.device_low[0], (PK_COUNT(odd) + 1) * sizeof(uint16_t));
        for (int64_t i = 0; i < n; i++) CHECK(m.low[0][i] == low_of(odd[i]));
        CHECK(m.low[0][n] == LOW_GUARD);
    }
    model_free(&m);
}

/* An optimizer over nothing still tells the norm, 0. */
static void test_nothing_trained(void)
{
    struct pk_err err = {0};
    struct model m;
    struct pk_cuda_optim *o;
    const struct pk_optim_step step = step_of(0);
    model_make(&m);
    start(&m);
    for (int i = 0; i < PARAMS; i++) m.item[i].trained = m.item[i].ema = false;
    CHECK_OK(pk_cuda_optim_create(&o, &m.params, 0, m.params.elements, &err), &err);
    enqueue(&m, o, &full, &usual, &step, false);
    CHECK(m.told.taken && m.told.norm == 0);
    pk_cuda_optim_free(o);
    model_free(&m);
}

int main(void)
{
    static const struct form forms[] = {
        {true, true, 0},   // all arenas, no clipping
        {true, true, 1},   // all arenas, most steps clipped
        {true, false, 1},  // float program
        {false, true, 0},  // no target network
        {false, false, 0}, // weights, moments and gradients alone
    };
    setenv("PURKINJE_ISA", "portable", 1); // core/optim.c without contraction
    for (size_t i = 0; i < PK_COUNT(forms); i++) test_steps(&forms[i]);
    test_not_finite();
    test_repeats();
    test_shares();
    test_loss_sum();
    test_cast();
    test_nothing_trained();
    return TEST_END();
}
