/* The band-pass and the resampler against SciPy 1.10.1, on noise that both sides can make:
 *
 *     s = 12345; for each sample: s = s * 6364136223846793005 + 1442695040888963407 (mod 2^64)
 *     x[i] = (s >> 33) / 2^31 - 0.5 + 3 + 0.002 i                         (1000 samples)
 *     y = sosfiltfilt(cheby2(4, stop_db, [low, high], "bandpass", fs=rate, output="sos"), x)
 *     z = resample_poly(x, up, down, padtype="mean")
 *
 * and a few properties. tests/data/ppg_case.py compares whole imports with SciPy. */
#include "datasets/filter.h"
#include "tests/test.h"

enum { N = 1000, PLACES = 8, Z_PLACES = 7 };

static const struct {
    double low, high, rate, stop_db;
    int64_t up, down, count;
    double y[PLACES], z[Z_PLACES];
} golden[] = {
    {0.5,
     12,
     125,
     20,
     64,
     125,
     512,
     {-0.018444001388516512, 0.11117437342505332, 0.3452693050080136, -0.015381840617780675,
      0.09465780750837974, 0.13682170075842845, 0.16777559477278084, 0.03351440716505194},
     {2.9251827319402466, 3.172419373749226, 3.0887217899433477, 3.57352995470212,
      3.7942343248836075, 4.910028823590981, 5.080999559490358}},
    {0.5,
     12,
     64,
     20,
     125,
     64,
     1954,
     {0.03678935396313743, 0.34151064369058903, 0.32435087651932987, -0.04912383924069082,
      0.01965362429834467, 0.14161413579677573, 0.24761419711252, 0.10494509616029715},
     {2.6086332766285016, 2.4318149991304296, 2.788389656798806, 3.224910310683093,
      4.11228476889197, 4.324292118314808, 4.02991956234958}},
    {0.5,
     8,
     1000,
     40,
     1,
     8,
     125,
     {-0.13637666232354323, -0.1316911275365425, -0.07360583294441776, 0.07704077136380741,
      -0.08185058607325033, 0.005630261004238779, 0.0017476023888241838, 0.0016808395068375124},
     {3.408431140170215, 3.0934845846481656, 2.994686560264025, 3.586632734712741,
      3.9790834539516586, 5.01154905383928, 5.211682081557761}},
    {1,
     20,
     50,
     20,
     5,
     1,
     5000,
     {0.03143123029862971, 0.08402119129856483, 0.12296668117546167, -0.03808531071869327,
      0.06591278901297304, 0.2795024329425967, 0.5690370856714992, 0.07899794620940163},
     {2.6086676998761194, 2.457637297447331, 2.4127033262463753, 3.17545026291687,
      4.050192349806394, 4.197653126774845, 4.0851963950889365}},
};

static void make_noise(double *x)
{
    uint64_t s = 12345;
    for (int i = 0; i < N; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        x[i] = (double)(s >> 33) / 2147483648.0 - 0.5 + 3 + 0.002 * i;
    }
}

static void test_golden(size_t k)
{
    static const int at[PLACES] = {0, 1, 13, 250, 500, 777, 998, 999};
    struct pk_err err = {0};
    struct pk_filter f;
    double x[N], y[N], *z;
    int64_t n = golden[k].count, z_at[Z_PLACES] = {0, 1, 2, n / 3, n / 2, n - 2, n - 1};
    make_noise(x);
    memcpy(y, x, sizeof y);
    CHECK_OK(pk_filter_bandpass(&f, golden[k].low, golden[k].high, golden[k].rate,
                                golden[k].stop_db, &err),
             &err);
    CHECK_OK(pk_filter_both_ways(&f, y, N, &err), &err);
    for (int i = 0; i < PLACES; i++) CHECK_NEAR(y[at[i]], golden[k].y[i], 1e-9);
    CHECK(pk_resample_count(N, golden[k].up, golden[k].down) == n);
    z = malloc((size_t)n * sizeof *z); // exactly: a sanitizer sees a sample too many
    CHECK_OK(pk_resample(x, N, golden[k].up, golden[k].down, z, &err), &err);
    for (int i = 0; i < Z_PLACES; i++) CHECK_NEAR(z[z_at[i]], golden[k].z[i], 1e-9);
    free(z);
}

/* A sine inside the band comes through in phase, one outside is damped. Both passes damp by 20 dB:
 * of a constant, too, 1 % is left (order 4 is even; its response at 0 Hz is a maximum). */
static void test_band(void)
{
    const struct {
        double hz, low, high; // amplitude of what comes out, in the middle of 60 s
    } cases[] = {{0, 0.0699, 0.0701}, {0.2, 0, 0.011}, {1.3, 0.98, 1.0001},
                 {4, 0.98, 1.0001},   {20, 0, 0.011},  {40, 0, 0.011}};
    enum { LONG = 7500 };
    struct pk_err err = {0};
    struct pk_filter f;
    static double x[LONG], y[LONG];
    CHECK_OK(pk_filter_bandpass(&f, 0.5, 12, 125, 20, &err), &err);
    for (size_t k = 0; k < PK_COUNT(cases); k++) {
        double peak = 0, lag = 0;
        for (int i = 0; i < LONG; i++)
            x[i] = y[i] = cases[k].hz > 0 ? sin(2 * 3.14159265358979 * cases[k].hz * i / 125) : 7;
        CHECK_OK(pk_filter_both_ways(&f, y, LONG, &err), &err);
        for (int i = 3000; i < 4500; i++) {
            peak = fmax(peak, fabs(y[i]));
            lag = fmax(lag, fabs(y[i] - x[i]));
        }
        CHECK(peak >= cases[k].low);
        CHECK_NEAR(fmax(peak, cases[k].high), cases[k].high, 0);
        if (cases[k].low > 0.5) CHECK(lag < 0.03);
    }
}

static void test_refusals(void)
{
    struct pk_err err = {0};
    struct pk_filter f;
    double x[PK_FILTER_EDGE + 1] = {0};
    int64_t up, down;
    CHECK_FAILS(pk_filter_bandpass(&f, 0.5, 12, 24, 20, &err), PK_EINVAL, &err, "half the rate");
    CHECK_FAILS(pk_filter_bandpass(&f, 0, 12, 125, 20, &err), PK_EINVAL, &err, "0 < low");
    CHECK_FAILS(pk_filter_bandpass(&f, 12, 0.5, 125, 20, &err), PK_EINVAL, &err, "low < high");
    CHECK_FAILS(pk_filter_bandpass(&f, 0.5, 12, NAN, 20, &err), PK_EINVAL, &err, "band-pass");
    CHECK_OK(pk_filter_bandpass(&f, 0.5, 12, 125, 20, &err), &err);
    CHECK_FAILS(pk_filter_both_ways(&f, x, PK_FILTER_EDGE, &err), PK_EDATA, &err, "too few");
    CHECK_OK(pk_filter_both_ways(&f, x, PK_FILTER_EDGE + 1, &err), &err);
    CHECK_OK(pk_resample_ratio(&up, &down, 125, 64, &err), &err);
    CHECK(up == 64 && down == 125);
    CHECK_OK(pk_resample_ratio(&up, &down, 30, 125, &err), &err);
    CHECK(up == 25 && down == 6);
    CHECK_OK(pk_resample_ratio(&up, &down, 62.5, 125, &err), &err);
    CHECK(up == 2 && down == 1);
    CHECK_FAILS(pk_resample_ratio(&up, &down, 29.997, 125, &err), PK_EINVAL, &err, "factor of");
    CHECK_FAILS(pk_resample_ratio(&up, &down, NAN, 125, &err), PK_EINVAL, &err, "rate of");
    CHECK_FAILS(pk_resample_ratio(&up, &down, 125, 0, &err), PK_EINVAL, &err, "rate of 0");
}

int main(void)
{
    for (size_t k = 0; k < PK_COUNT(golden); k++) test_golden(k);
    test_band();
    test_refusals();
    return TEST_END();
}
