/* test_gelu.cc -- exact GELU over every bf16 there is, and over floats, against double. */
#include "cuda/gelu.h"

#include "tests/test.h"

namespace
{
double exact(double x)
{
    return 0.5 * x * erfc(-x * sqrt(0.5));
}

double exact_slope(double x)
{
    return 0.5 * erfc(-x * sqrt(0.5)) + x * exp(-0.5 * x * x) / sqrt(2 * acos(-1.0));
}

/* Distance of got from want in units of the last place that bf16 (or float) has at want. */
double units(double got, double want, int digits)
{
    int e;
    frexp(want, &e);
    return fabs(got - want) / ldexp(1.0, e - digits);
}

void test_bf16()
{
    double worst = 0, slope = 0;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        const bf16 b = __ushort_as_bfloat16((unsigned short)bits);
        const float x = to_float(b);
        if (isnan(x)) {
            CHECK(isnan(gelu<bf16>(x)) && isnan(gelu_slope<bf16>(x)));
            continue;
        }
        if (isinf(x)) {
            CHECK(isnan(gelu<bf16>(x)));
            continue;
        }
        const double want = exact((double)x);
        const double got = (double)to_float(from_float<bf16>(gelu<bf16>(x)));
        if (fabs(want) >= 0x1p-120) // results below have fewer digits, or are flushed to 0
            worst = fmax(worst, units(got, want, 8));
        else
            CHECK(fabs(got) <= 0x1p-119);
        /* The slope multiplies a gradient: what counts is its error beside 1, and near its zero. */
        const double s = (double)gelu_slope<bf16>(x), t = exact_slope((double)x);
        slope = fmax(slope, fabs(s - t) / fmax(fabs(t), 1e-3));
    }
    fprintf(stderr, "bf16: GELU within %.4f units in the last place, slope within %.2g\n", worst,
            slope);
    CHECK(worst <= 0.51);
    CHECK(slope <= 4e-5);
}

void test_float()
{
    double worst = 0, slope = 0;
    for (int i = -400000; i <= 400000; i++) {
        const float x = (float)i * 1.5e-5f * 2;
        const double want = exact((double)x);
        if (fabs((double)x) < 1) worst = fmax(worst, units((double)gelu<float>(x), want, 24));
        CHECK_NEAR((double)gelu<float>(x), want, 1.2e-7 * fmax(fabs((double)x), 0.2));
        slope = fmax(slope, fabs((double)gelu_slope<float>(x) - exact_slope((double)x)));
    }
    fprintf(stderr,
            "float: GELU within %.2f units in the last place for |x| < 1, slope within %.2g\n",
            worst, slope);
    CHECK(worst <= 4);
    CHECK(slope <= 2.5e-7);
}
} // namespace

int main(void)
{
    test_bf16();
    test_float();
    return TEST_END();
}
