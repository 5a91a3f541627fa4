/* test_optim.c -- the optimizer step against a double-precision AdamW, with clipping, flags, EMA,
 * threads and divergence. With an argument it takes 20 steps from a file of float32 instead and
 * prints the result, for tests/core/test_optim_torch.py. */
#include "core/optim.h"
#include "tests/test.h"

#include "core/rng.h"

enum { PARAMS = 7, STEPS = 20 };

/* Sizes around the chunk of 65,536 elements and small ones; flags so that neighbours merge, and
 * some don't. */
static const struct {
    int64_t count;
    bool trained, decay, ema;
} table[PARAMS] = {{100, true, true, true}, {17, true, true, true},    {70000, true, false, true},
                   {1, false, true, true},  {33, false, false, false}, {65536, true, true, false},
                   {5, true, false, false}};

struct model {
    struct pk_params params;
    struct pk_param item[PARAMS];
    float *arena[5]; // weight, m, v, ema, grad
};

static void model_make(struct model *m)
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
                               .ema = table[i].ema};
        snprintf(p->name, sizeof p->name, "p%d", i);
        at += (p->count + 15) / 16 * 16;
    }
    m->params.elements = at;
    for (int k = 0; k < 5; k++) m->arena[k] = calloc((size_t)at, sizeof(float));
    for (int k = 0; k < 5; k++)
        if (!m->arena[k]) exit(1);
}

static void model_free(struct model *m)
{
    for (int k = 0; k < 5; k++) free(m->arena[k]);
}

/* Calls body with i running over all elements but padding, q being the parameter. */
#define EACH(m, q, i)                                                                              \
    for (const struct pk_param *q = (m)->item; q < (m)->item + PARAMS; q++)                        \
        for (int64_t i = q->offset; i < q->offset + q->count; i++)

static void fill(struct model *m, int arena, uint64_t key, double scale)
{
    struct pk_rng r = pk_rng_make(11, PK_RNG_TEST, key, 0);
    EACH(m, q, i) m->arena[arena][i] = (float)(scale * pk_rng_normal(&r));
}

static struct pk_optim_arenas arenas(const struct model *m)
{
    return (struct pk_optim_arenas){.weight = m->arena[0],
                                    .m = m->arena[1],
                                    .v = m->arena[2],
                                    .ema = m->arena[3],
                                    .grad = m->arena[4]};
}

/* Odd steps have a beta1 of their own. */
static struct pk_optim_step step_of(int64_t step)
{
    return (struct pk_optim_step){step, 1e-3 * (1 + (double)step), 0.05, 0.99,
                                  step % 2 ? 0.85 + 0.005 * (double)step : 0};
}

/* Takes STEPS steps; norms [STEPS]. */
static void train(struct model *m, const struct pk_optim_spec *spec, struct pk_pool *pool,
                  double *norm)
{
    struct pk_err err = {0};
    struct pk_optim *o;
    struct pk_optim_arenas a = arenas(m);
    fill(m, 0, 1000, 0.1);
    memcpy(m->arena[3], m->arena[0], (size_t)m->params.elements * sizeof(float));
    CHECK_OK(pk_optim_create(&o, &m->params, spec, &err), &err);
    for (int64_t s = 0; s < STEPS; s++) {
        struct pk_optim_step step = step_of(s);
        fill(m, 4, (uint64_t)s, s % 3 ? 1e-2 : 1e-5); // above and below the clip norm
        CHECK_OK(pk_optim_step(o, pool, &a, &step, &norm[s], &err), &err);
    }
    pk_optim_free(o);
}

/* The same in double, element by element as PyTorch's documentation has it. */
static void train_double(struct model *m, const struct pk_optim_spec *spec, double *w[4],
                         double *norm)
{
    fill(m, 0, 1000, 0.1);
    EACH(m, q, i) w[0][i] = w[3][i] = (double)m->arena[0][i];
    for (int64_t s = 0; s < STEPS; s++) {
        const struct pk_optim_step step = step_of(s);
        const double beta1 = step.beta1 > 0 ? step.beta1 : spec->beta1;
        const double c1 = 1 - pow(beta1, (double)s + 1), c2 = 1 - pow(spec->beta2, (double)s + 1);
        double square = 0;
        fill(m, 4, (uint64_t)s, s % 3 ? 1e-2 : 1e-5);
        EACH(m, q, i) if (q->trained) square += pow((double)m->arena[4][i], 2);
        norm[s] = sqrt(square);
        const double scale = spec->clip > 0 ? fmin(1, spec->clip / (norm[s] + 1e-6)) : 1;
        EACH(m, q, i)
        {
            const double g = (double)m->arena[4][i] * scale;
            if (q->trained) {
                if (q->decay) w[0][i] *= 1 - step.learning_rate * step.weight_decay;
                w[1][i] = beta1 * w[1][i] + (1 - beta1) * g;
                w[2][i] = spec->beta2 * w[2][i] + (1 - spec->beta2) * g * g;
                w[0][i] -= step.learning_rate * (w[1][i] / c1) / (sqrt(w[2][i] / c2) + spec->eps);
            }
            if (q->ema) w[3][i] = step.ema_momentum * w[3][i] + (1 - step.ema_momentum) * w[0][i];
        }
    }
}

static void test_against_double(double clip)
{
    const struct pk_optim_spec spec = {0.9, 0.99, 1e-6, clip};
    struct model m;
    double norm[STEPS], want[STEPS], *w[4], off[4] = {0};
    model_make(&m);
    for (int k = 0; k < 4; k++) {
        w[k] = calloc((size_t)m.params.elements, sizeof(double));
        if (!w[k]) exit(1);
    }
    train_double(&m, &spec, w, want);
    train(&m, &spec, NULL, norm);
    for (int s = 0; s < STEPS; s++) CHECK_NEAR(norm[s], want[s], 1e-12 * want[s]);
    for (int k = 0; k < 4; k++) {
        EACH(&m, q, i)
        {
            const double e = fabs((double)m.arena[k][i] - w[k][i]);
            off[k] = e <= off[k] ? off[k] : e;
        }
        // Weights are below 1, a step adds at most a few units in the last place.
        CHECK(off[k] <= (k == 1 || k == 2 ? 1e-8 : STEPS * 4 * 0x1p-24));
        for (int i = 1; i < PARAMS; i++) // padding
            for (int64_t p = m.item[i - 1].offset + m.item[i - 1].count; p < m.item[i].offset; p++)
                CHECK(m.arena[k][p] == 0);
        free(w[k]);
    }
    model_free(&m);
}

static void test_threads(void)
{
    const struct pk_optim_spec spec = {0.9, 0.999, 1e-8, 0.5};
    struct pk_err err = {0};
    struct model one, many;
    double norm[2][STEPS];
    model_make(&one);
    train(&one, &spec, NULL, norm[0]);
    for (int threads = 1; threads <= 7; threads += 2) {
        struct pk_pool *pool;
        CHECK_OK(pk_pool_create(&pool, threads, NULL, &err), &err);
        model_make(&many);
        train(&many, &spec, pool, norm[1]);
        CHECK(!memcmp(norm[0], norm[1], sizeof norm[0]));
        for (int k = 0; k < 4; k++)
            CHECK(
                !memcmp(one.arena[k], many.arena[k], (size_t)one.params.elements * sizeof(float)));
        model_free(&many);
        pk_pool_free(pool);
    }
    model_free(&one);
}

/* A gradient that is not finite changes nothing; one of a frozen parameter does not matter. */
static void test_divergence(void)
{
    const struct pk_optim_spec spec = {0.9, 0.999, 1e-8, 1};
    struct pk_err err = {0};
    struct model m;
    double norm[STEPS];
    model_make(&m);
    train(&m, &spec, NULL, norm);
    const size_t bytes = (size_t)m.params.elements * sizeof(float);
    float *copy = malloc(4 * bytes);
    struct pk_optim *o;
    if (!copy) exit(1);
    for (int k = 0; k < 4; k++) memcpy((char *)copy + (size_t)k * bytes, m.arena[k], bytes);
    CHECK_OK(pk_optim_create(&o, &m.params, &spec, &err), &err);
    const struct pk_optim_arenas a = arenas(&m);
    const struct pk_optim_step step = step_of(STEPS);
    const float bad[] = {(float)NAN, (float)INFINITY};
    for (int b = 0; b < 2; b++) {
        m.arena[4][m.item[2].offset + 69999] = bad[b];
        CHECK_FAILS(pk_optim_step(o, NULL, &a, &step, norm, &err), PK_EDIVERGED, &err,
                    "gradient of p2");
        CHECK(strstr(err.message, "element 69999") != NULL);
        for (int k = 0; k < 4; k++)
            CHECK(!memcmp((char *)copy + (size_t)k * bytes, m.arena[k], bytes));
    }
    m.arena[4][m.item[2].offset + 69999] = 0;
    m.arena[4][m.item[3].offset] = (float)NAN;
    CHECK_OK(pk_optim_step(o, NULL, &a, &step, norm, &err), &err);
    CHECK(norm[0] > 0 && norm[0] < 1e6);
    const double betas[] = {1, -0.1, (double)NAN};
    for (size_t b = 0; b < PK_COUNT(betas); b++) {
        struct pk_optim_step wrong = step;
        wrong.beta1 = betas[b];
        CHECK_FAILS(pk_optim_step(o, NULL, &a, &wrong, norm, &err), PK_EINVAL, &err, "beta1");
    }
    pk_optim_free(o);
    free(copy);
    model_free(&m);
}

static void test_refusals(void)
{
    struct pk_err err = {0};
    struct pk_optim *o;
    struct pk_params none = {0};
    static const struct pk_optim_spec bad[] = {{1, 0.9, 1e-8, 0},           {0.9, -0.1, 1e-8, 0},
                                               {0.9, 0.99, 0, 0},           {0.9, 0.99, 1e-8, -1},
                                               {0.9, 0.99, 1e-8, INFINITY}, {NAN, 0.99, 1e-8, 0}};
    for (size_t i = 0; i < PK_COUNT(bad); i++)
        CHECK_FAILS(pk_optim_create(&o, &none, &bad[i], &err), PK_EINVAL, &err, "give");
    CHECK(o == NULL);
}

/* Shares tile the table, never part alike neighbours, and are as even as these allow. */
static void test_shares(void)
{
    struct model m;
    struct pk_params none = {0};
    int64_t first, last, largest = 0;
    model_make(&m);
    for (int i = 0; i < PARAMS; i++) largest = PK_MAX(largest, m.item[i].count + 16);
    for (int ranks = 1; ranks <= 9; ranks++) {
        int64_t next = 0;
        for (int k = 0; k < ranks; k++) {
            pk_params_share(&m.params, k, ranks, &first, &last);
            CHECK(first == next && last >= first);
            CHECK(first != 1); // p0 and p1 are alike
            const int64_t to = last < PARAMS ? m.item[last].offset : m.params.elements;
            const int64_t from = first < PARAMS ? m.item[first].offset : m.params.elements;
            CHECK(to - from <= m.params.elements / ranks + largest);
            next = last;
        }
        CHECK(next == PARAMS);
    }
    pk_params_share(&m.params, 0, 2, &first, &last);
    CHECK(first == 0 && (last == 3 || last == 4 || last == 5)); // 70,112 of 135,808 elements
    pk_params_share(&none, 1, 2, &first, &last);
    CHECK(first == 0 && last == 0);
    model_free(&m);
}

/* FILE holds, as float32: weights [elements], then a gradient [elements] for each step, where the
 * elements are the parameters of `table` one after another. Prints weights and EMA after the last
 * step, one element a line. */
static int dump(const char *path, double clip)
{
    const struct pk_optim_spec spec = {0.9, 0.99, 1e-6, clip};
    struct pk_err err = {0};
    struct model m;
    struct pk_optim *o;
    FILE *f = fopen(path, "rb");
    model_make(&m);
    bool good = f && pk_optim_create(&o, &m.params, &spec, &err) == PK_OK;
    if (!good) return 1;
    const struct pk_optim_arenas a = arenas(&m);
    EACH(&m, q, i) good = good && fread(&m.arena[0][i], sizeof(float), 1, f) == 1;
    memcpy(m.arena[3], m.arena[0], (size_t)m.params.elements * sizeof(float));
    for (int64_t s = 0; s < STEPS && good; s++) {
        const struct pk_optim_step step = step_of(s);
        EACH(&m, q, i) good = good && fread(&m.arena[4][i], sizeof(float), 1, f) == 1;
        good = good && pk_optim_step(o, NULL, &a, &step, NULL, &err) == PK_OK;
    }
    EACH(&m, q, i) printf("%.9g %.9g\n", (double)m.arena[0][i], (double)m.arena[3][i]);
    fclose(f);
    pk_optim_free(o);
    model_free(&m);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 3) return dump(argv[1], strtod(argv[2], NULL));
    test_against_double(0);
    test_against_double(1);
    test_threads();
    test_divergence();
    test_refusals();
    test_shares();
    return TEST_END();
}
