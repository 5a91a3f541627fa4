/* test_stats.c -- collapse measures on matrices whose singular values are known. With an .npy file
 * of float as argument it prints the three measures and those of pairs, for test_stats_numpy.py. */
#include "core/npy.h"
#include "core/rng.h"
#include "core/stats.h"
#include "tests/test.h"

static struct pk_embedding_stats measure(const float *x, int64_t rows, int64_t width)
{
    struct pk_err err = {0};
    struct pk_embedding_stats s;
    CHECK_OK(pk_embedding_stats(&s, x, rows, width, &err), &err);
    return s;
}

/* Element of the 16 x 16 Hadamard matrix: columns are orthogonal, all but the first have mean 0. */
static float hadamard(int r, int c)
{
    int bits = r & c, odd = 0;
    for (; bits; bits >>= 1) odd ^= bits & 1;
    return odd ? -1 : 1;
}

/* Column c scaled by scale[c]: the singular values are 4 scale[c], the variances scale[c]^2. */
static void known_spectra(void)
{
    static const struct {
        int width;
        float scale[15];
    } t[] = {{15, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}}, // isotropic: rank 15
             {4, {3, 3, 0, 0}},                                   // a block: rank 2
             {5, {2, 0, 0, 0, 0}},                                // rank 1
             {1, {7}},                                            // the narrowest
             {6, {1, .5f, .25f, .125f, 1 / 1024.f, 0}}};
    for (size_t i = 0; i < PK_COUNT(t); i++) {
        float x[16 * 15];
        double total = 0, squares = 0, entropy = 0;
        for (int c = 0; c < t[i].width; c++) {
            double s = (double)t[i].scale[c];
            total += s;
            squares += s * s;
            for (int r = 0; r < 16; r++) // an offset must not count; 8 keeps all exact
                x[r * t[i].width + c] = t[i].scale[c] * hadamard(r, c + 1) + 8;
        }
        for (int c = 0; c < t[i].width; c++) {
            double p = (double)t[i].scale[c] / total;
            if (p > 0) entropy -= p * log(p);
        }
        struct pk_embedding_stats s = measure(x, 16, t[i].width);
        CHECK_NEAR(s.effective_rank, exp(entropy), 2e-6);
        CHECK_NEAR(s.mean_std, total / t[i].width, 1e-6);
        CHECK_NEAR(s.mean_variance, squares / t[i].width, 1e-6);
    }
}

static void gaussian(void)
{
    enum { ROWS = 4000, WIDTH = 64 };
    struct pk_rng rng = pk_rng_make(11, PK_RNG_TEST, 0, 0);
    float *x = malloc(sizeof(float) * ROWS * WIDTH);
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = (float)pk_rng_normal(&rng);
    struct pk_embedding_stats s = measure(x, ROWS, WIDTH);
    /* Relative spread of the singular values sqrt(WIDTH / ROWS) / 2 each way costs about 0.3 %. */
    CHECK(s.effective_rank > 63.5 && s.effective_rank < 64);
    CHECK_NEAR(s.mean_std, 1, 5 / sqrt(2. * ROWS * WIDTH));
    CHECK_NEAR(s.mean_variance, 1, 5 * sqrt(2. / (ROWS * WIDTH)));
    /* Fewer rows than dimensions take the other route; repeating the rows changes nothing. */
    struct pk_embedding_stats few = measure(x, 20, WIDTH);
    for (int copy = 1; copy < 5; copy++)
        memcpy(x + 20 * WIDTH * copy, x, sizeof(float) * 20 * WIDTH);
    struct pk_embedding_stats many = measure(x, 100, WIDTH);
    CHECK_NEAR(few.effective_rank, many.effective_rank, 1e-5);
    CHECK_NEAR(few.mean_std, many.mean_std, 1e-12);
    CHECK(few.effective_rank > 15 && few.effective_rank < 19);
    free(x);
}

static void corners(void)
{
    float same[6] = {.1f, -3, 7, .1f, -3, 7};
    struct pk_err err = {0};
    struct pk_embedding_stats s = measure(same, 2, 3);
    CHECK(s.effective_rank == 0 && s.mean_std == 0 && s.mean_variance == 0);
    s = measure(same, 1, 6);
    CHECK(s.effective_rank == 0 && s.mean_std == 0);
    s = measure(same, 2, 2); // two rows are always on a line
    CHECK_NEAR(s.effective_rank, 1, 1e-6);
    same[4] = INFINITY;
    s = measure(same, 2, 3);
    CHECK(isnan(s.effective_rank) && isnan(s.mean_std) && isnan(s.mean_variance));
    CHECK_FAILS(pk_embedding_stats(&s, same, 0, 3, &err), PK_EINVAL, &err, "0 rows x 3");
    float tiny[4] = {1e-30f, 0, 0, 1e-30f}; // almost collapsed is not an error
    s = measure(tiny, 2, 2);
    CHECK_NEAR(s.effective_rank, 1, 1e-6);
}

static struct pk_pair_stats measure_pairs(const float *x, int64_t rows, int64_t width)
{
    struct pk_err err = {0};
    struct pk_pair_stats s = {0, 0};
    CHECK_OK(pk_pair_stats(&s, x, rows, width, &err), &err);
    return s;
}

/* Pairs whose angles are known, and a direct computation from the cosines. */
static void pairs(void)
{
    enum { ROWS = PK_PAIR_ROWS + 200, WIDTH = 7 };
    const float corners[] = {3, 0, 0, 3, -1, 0, 0, -2}; // right angles within pairs, 2 and 4 apart
    struct pk_err err = {0};
    struct pk_pair_stats s = measure_pairs(corners, 4, 2);
    CHECK_NEAR(s.alignment, 2, 1e-12);
    CHECK_NEAR(s.uniformity, log((2 * exp(-8) + 2 * exp(-4)) / 4), 1e-12);
    const float same[] = {1, 2, 2, 4, .5f, 1, 8, 16}; // one direction: collapsed
    s = measure_pairs(same, 4, 2);
    CHECK_NEAR(s.alignment, 0, 1e-12);
    CHECK_NEAR(s.uniformity, 0, 1e-12);
    const float zero[] = {0, 0, 1, 0, 0, 1, 0, 0}; // a row of zeros is 1 away from all
    s = measure_pairs(zero, 4, 2);
    CHECK_NEAR(s.alignment, 1, 1e-12);
    static float x[ROWS * WIDTH];
    static double length[ROWS];
    struct pk_rng rng = pk_rng_make(13, PK_RNG_TEST, 0, 0);
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = (float)pk_rng_normal(&rng);
    for (int i = 0; i < ROWS; i++)
        for (int c = 0; c < WIDTH; c++)
            length[i] += (double)x[i * WIDTH + c] * (double)x[i * WIDTH + c];
    double near = 0, spread = 0;
    for (int i = 0; i < PK_PAIR_ROWS; i++)
        for (int k = i + 1; k < PK_PAIR_ROWS; k++) {
            double cosine = 0;
            for (int c = 0; c < WIDTH; c++)
                cosine += (double)x[i * WIDTH + c] * (double)x[k * WIDTH + c];
            cosine /= sqrt(length[i] * length[k]);
            if (i % 2 == 0 && k == i + 1)
                near += 2 - 2 * cosine;
            else
                spread += exp(-4 * (1 - cosine));
        }
    s = measure_pairs(x, ROWS, WIDTH);
    CHECK_NEAR(s.alignment, near / (PK_PAIR_ROWS / 2), 1e-12);
    CHECK_NEAR(s.uniformity, log(spread / (PK_PAIR_ROWS * (PK_PAIR_ROWS - 2) / 2)), 1e-12);
    x[3] = NAN;
    s = measure_pairs(x, 8, WIDTH);
    CHECK(isnan(s.alignment) && isnan(s.uniformity));
    CHECK_FAILS(pk_pair_stats(&s, x, 5, WIDTH, &err), PK_EINVAL, &err, "5 rows of 7 numbers");
    CHECK_FAILS(pk_pair_stats(&s, x, 2, WIDTH, &err), PK_EINVAL, &err, "2 rows of 7 numbers");
}

static void eigenvalues(void)
{
    enum { N = 50 };
    static double a[N * N], value[N];
    struct pk_err err = {0};
    for (int i = 0; i < N; i++) {
        a[i * N + i] = 2;
        if (i) a[i * N + i - 1] = -1;
    }
    CHECK_OK(pk_symmetric_eigenvalues(value, a, N, &err), &err);
    for (int k = 0; k < N; k++)
        CHECK_NEAR(value[k], 2 - 2 * cos((k + 1) * acos(-1) / (N + 1)), 1e-14);
    /* a = D reflected: I - 2 v v' with a random v; eigenvalues are D's, with a triple one. */
    double v[N], d[N], norm = 0;
    struct pk_rng rng = pk_rng_make(12, PK_RNG_TEST, 0, 0);
    for (int i = 0; i < N; i++) {
        v[i] = pk_rng_normal(&rng);
        norm += v[i] * v[i];
        d[i] = i < 3 ? -5 : i - 20;
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++) {
            double sum = 0;
            for (int k = 0; k < N; k++)
                sum += ((i == k) - 2 * v[i] * v[k] / norm) * d[k] *
                       ((k == j) - 2 * v[k] * v[j] / norm);
            a[i * N + j] = sum;
        }
    CHECK_OK(pk_symmetric_eigenvalues(value, a, N, &err), &err);
    double sorted[N];
    int n = 0;
    for (int w = -20; w < 30; w++)
        for (int i = 0; i < N; i++)
            if (d[i] == w) sorted[n++] = w;
    for (int k = 0; k < N; k++) CHECK_NEAR(value[k], sorted[k], 30 * 1e-14);
    CHECK_FAILS(pk_symmetric_eigenvalues(value, a, 0, &err), PK_EINVAL, &err, "0 x 0");
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        struct pk_err err = {0};
        struct pk_npy a;
        CHECK_OK(pk_npy_load(&a, argv[1], 1 << 28, &err), &err);
        if (a.data && a.rank == 2 && a.type == PK_NPY_F32) {
            double start = pk_seconds();
            struct pk_embedding_stats s = measure(a.data, a.shape[0], a.shape[1]);
            printf("%.17g %.17g %.17g %.3f", s.mean_std, s.mean_variance, s.effective_rank,
                   pk_seconds() - start);
            struct pk_pair_stats p = {0, 0};
            if (a.shape[0] >= 4 && a.shape[0] % 2 == 0)
                p = measure_pairs(a.data, a.shape[0], a.shape[1]);
            printf(" %.17g %.17g\n", p.alignment, p.uniformity);
        }
        pk_npy_free(&a);
        return TEST_END();
    }
    known_spectra();
    gaussian();
    corners();
    pairs();
    eigenvalues();
    return TEST_END();
}
