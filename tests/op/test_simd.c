/* test_simd.c -- the elementary functions of core/cpu/simd.h in its generic form, which is what a
 * file compiled without an instruction set gets. The other forms share the polynomials and are
 * covered through the kernels. */
#include "core/cpu/simd.h"
#include "tests/test.h"

static double lane0(pk_v a)
{
    float x[PK_V];
    pk_v_store(x, a);
    return (double)x[0];
}

/* Error in units of the last place of the exact value, counting from the smallest normal. */
static double ulps(double got, double exact)
{
    int e;
    frexp(exact, &e);
    return fabs(got - exact) / ldexp(1, (e < -125 ? -125 : e) - 24);
}

static void exponentials(void)
{
    double worst = 0, worst2 = 0;
    for (float x = -100; x < 88.5f; x += 0.0037f) {
        double u = ulps(lane0(pk_v_exp(pk_v_set(x))), exp((double)x));
        double v = ulps(lane0(pk_v_exp2(pk_v_set(x * 1.4f))), exp2((double)(x * 1.4f)));
        if (!(u <= worst)) worst = u;
        if (!(v <= worst2)) worst2 = v;
    }
    CHECK_NEAR(worst, 0, 2);
    CHECK_NEAR(worst2, 0, 2);
    const float low[] = {-106, -1e4f, -1e30f};
    for (size_t i = 0; i < PK_COUNT(low); i++) CHECK(lane0(pk_v_exp(pk_v_set(low[i]))) == 0);
    CHECK(lane0(pk_v_exp(pk_v_set(-INFINITY))) == 0);
    CHECK(lane0(pk_v_exp(pk_v_zero())) == 1 && lane0(pk_v_exp2(pk_v_zero())) == 1);
    CHECK(lane0(pk_v_exp2(pk_v_set(-1e30f))) == 0); // the padding of a row of scores
    CHECK(lane0(pk_v_exp(pk_v_set(89))) == INFINITY && isnan(lane0(pk_v_exp(pk_v_set(NAN)))));
}

static void error_function(void)
{
    double worst = 0, worst_cdf = 0, worst_density = 0, worst_tail = 0;
    for (float x = -12; x < 12; x += 0.0011f) {
        pk_v density;
        double y = (double)x, exact = 0.5 * erfc(-y * sqrt(0.5));
        double a = fabs(lane0(pk_v_erf(pk_v_set(x))) - erf(y));
        double b = fabs(lane0(pk_v_normal(pk_v_set(x), &density)) - exact);
        double c = fabs(lane0(density) - exp(-0.5 * y * y) / sqrt(2 * acos(-1.0)));
        if (!(a <= worst)) worst = a;
        if (!(b <= worst_cdf)) worst_cdf = b;
        if (!(c <= worst_density)) worst_density = c;
        if (x < 0 && x > -6 && !(b / exact <= worst_tail)) worst_tail = b / exact;
    }
    CHECK_NEAR(worst, 0, 2e-7);
    CHECK_NEAR(worst_cdf, 0, 1.2e-7);
    CHECK_NEAR(worst_density, 0, 1e-7);
    CHECK_NEAR(worst_tail, 0, 6e-6); // of itself: GELU of a very negative input keeps its digits
    CHECK(lane0(pk_v_erf(pk_v_set(INFINITY))) == 1 && isnan(lane0(pk_v_erf(pk_v_set(NAN)))));
}

static void partial_vectors(void)
{
    for (int64_t n = 0; n <= PK_V; n++) {
        float in[2 * PK_V], out[2 * PK_V];
        for (int i = 0; i < 2 * PK_V; i++) in[i] = (float)(i + 1), out[i] = -1;
        pk_v_store_n(out, n, pk_v_load_n(in, n));
        for (int64_t i = 0; i < 2 * PK_V; i++) CHECK(out[i] == (i < n ? in[i] : -1));
        CHECK_NEAR(pk_v_sum(pk_v_load_n(in, n)), (double)(n * (n + 1) / 2), 0);
        CHECK_NEAR(pk_v_max_lane(pk_v_load_n(in, n)), (double)n, 0);
    }
}

int main(void)
{
    exponentials();
    error_function();
    partial_vectors();
    return TEST_END();
}
