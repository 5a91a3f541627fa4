/* test_adamw.c -- the flat kernels: AdamW with EMA, EMA alone, addition and sum of squares, for
 * every instruction set, against double and the naive float algorithm. */
#include "core/cpu/kernels.h"
#include "core/rng.h"
#include "tests/test.h"

#include <float.h>

enum { MOST = 5000, ARRAYS = 5 };

static const int64_t counts[] = {
    0,    // nothing
    1,    // one number
    15,   // one less than a vector
    16,   // a whole vector
    37,   // two and a rest
    4999, // many
};

struct state { // weight, m, v, ema, grad
    float x[ARRAYS][MOST + 16];
};

static void fill(struct state *s, int64_t count)
{
    struct pk_rng r = pk_rng_make(3, PK_RNG_TEST, (uint64_t)count, 0);
    for (int k = 0; k < ARRAYS; k++)
        for (int64_t i = 0; i < MOST + 16; i++) {
            s->x[k][i] = (float)pk_rng_normal(&r) * (k == 4 ? 0.01f : 0.1f);
            if (k == 2) s->x[k][i] *= 0.01f * s->x[k][i]; // second moments are not negative
        }
}

static double identity(double x)
{
    return x;
}
static double single(double x)
{
    return (double)(float)x;
}

static const struct pk_adamw step = {.grad_scale = 0.7f,
                                     .m_rate = 0.1f,
                                     .beta2 = 0.99f,
                                     .v_rate = 0.01f,
                                     .keep = 0.9999f,
                                     .step = 0.003f,
                                     .v_scale = 1.7f,
                                     .eps = 1e-6f,
                                     .ema_rate = 0.002f};

/* y[k] after one step of element i. */
static void reference(const struct state *s, int64_t i, double (*R)(double), double y[4])
{
    const double g = R((double)s->x[4][i] * (double)step.grad_scale);
    const double m = (double)s->x[1][i], v = (double)s->x[2][i];
    y[1] = R(m + R(R(g - m) * (double)step.m_rate));
    y[2] = R(R(v * (double)step.beta2) + R(R(g * g) * (double)step.v_rate));
    const double root = R(R(R(sqrt(y[2])) * (double)step.v_scale) + (double)step.eps);
    const double w = R((double)s->x[0][i] * (double)step.keep);
    y[0] = R(w - R(R((double)step.step * y[1]) / root));
    y[3] = R((double)s->x[3][i] + R(R(y[0] - (double)s->x[3][i]) * (double)step.ema_rate));
}

static void test_step(enum pk_isa isa, int64_t count, bool ema)
{
    static struct state before, after;
    fill(&before, count);
    after = before;
    struct pk_adamw a = step;
    a.count = count;
    a.weight = after.x[0];
    a.m = after.x[1];
    a.v = after.x[2];
    a.ema = ema ? after.x[3] : NULL;
    a.grad = after.x[4];
    pk_cpu_flat(isa)->adamw(&a);
    double off[4] = {0}, naive[4] = {0}, top[4] = {0};
    for (int64_t i = 0; i < count; i++) {
        double want[4], simple[4];
        reference(&before, i, identity, want);
        reference(&before, i, single, simple);
        for (int k = 0; k < (ema ? 4 : 3); k++) {
            double e = fabs((double)after.x[k][i] - want[k]);
            off[k] = e <= off[k] ? off[k] : e; // NaN sticks
            naive[k] = fmax(naive[k], fabs(simple[k] - want[k]));
            top[k] = fmax(top[k], fabs(want[k]));
        }
    }
    for (int k = 0; k < (ema ? 4 : 3); k++)
        CHECK(off[k] <= 2 * naive[k] + (double)FLT_EPSILON * top[k]);
    for (int k = 0; k < ARRAYS; k++) {
        const int64_t from = k < 3 || (k == 3 && ema) ? count : 0; // the gradient stays as it is
        CHECK(!memcmp(&after.x[k][from], &before.x[k][from],
                      (size_t)(MOST + 16 - from) * sizeof(float)));
    }
}

/* A zero element (padding) stays zero, and equal EMA stays equal. */
static void test_fixed_points(enum pk_isa isa)
{
    float zero[4][40] = {{0}}, grad[40] = {0}, w[40], ema[40];
    struct pk_adamw a = step;
    a.count = 37;
    a.weight = zero[0];
    a.m = zero[1];
    a.v = zero[2];
    a.ema = zero[3];
    a.grad = grad;
    pk_cpu_flat(isa)->adamw(&a);
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 40; i++) CHECK(zero[k][i] == 0);
    for (int i = 0; i < 40; i++) w[i] = ema[i] = 0.1f * (float)i;
    pk_cpu_flat(isa)->ema(ema, w, 0.004f, 37);
    CHECK(!memcmp(ema, w, sizeof w));
}

static void test_sums(enum pk_isa isa, int64_t count)
{
    static struct state s;
    fill(&s, count);
    static float sum[MOST + 16], ema[MOST + 16];
    memcpy(sum, s.x[0], sizeof sum);
    memcpy(ema, s.x[3], sizeof ema);
    pk_cpu_flat(isa)->add(sum, s.x[1], count);
    pk_cpu_flat(isa)->ema(ema, s.x[0], 0.25f, count);
    double square = 0;
    for (int64_t i = 0; i < count; i++) {
        square += (double)s.x[0][i] * (double)s.x[0][i];
        CHECK(sum[i] == s.x[0][i] + s.x[1][i]);
        CHECK_NEAR((double)ema[i], 0.75 * (double)s.x[3][i] + 0.25 * (double)s.x[0][i], 1e-7);
    }
    CHECK(sum[count] == s.x[0][count] && ema[count] == s.x[3][count]);
    CHECK_NEAR(pk_cpu_flat(isa)->square_sum(s.x[0], count), square, 1e-13 * square);
    // The order is the same for all sets; only fused multiply-adds may round differently.
    CHECK(pk_cpu_flat(isa)->square_sum(s.x[0], count) ==
          pk_cpu_flat(isa)->square_sum(s.x[0], count));
}

int main(void)
{
    for (int isa = 0; isa <= (int)pk_isa_best(); isa++) {
        for (size_t c = 0; c < PK_COUNT(counts); c++) {
            test_step((enum pk_isa)isa, counts[c], true);
            test_step((enum pk_isa)isa, counts[c], false);
            test_sums((enum pk_isa)isa, counts[c]);
        }
        test_fixed_points((enum pk_isa)isa);
    }
    return TEST_END();
}
