/* stats.c -- collapse measures of embeddings, and the eigenvalues they need (see stats.h).
 *
 * Householder reduction to tridiagonal form, then bisection on the number of negative pivots
 * (Golub & Van Loan, Matrix Computations, 8.3 and 8.4.1). Chosen over Jacobi sweeps, which took 4
 * times as long at width 192 and 11 times at 384 (0.63 s against 0.06), too long to be logged while
 * training, and over QL, which may fail to converge. */
#include "core/stats.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

enum { BLOCK = 8 }; // terms added together into the inner products, to read these less often

/* Reduces a (lower triangle) to diagonal d [n] and off-diagonal e [n - 1]; v and p [n] are scratch.
 * Step k removes column k below its subdiagonal by the reflection I - v v' (v'v = 2). */
static void tridiagonalise(double *a, int64_t n, double *d, double *e, double *v, double *p)
{
    for (int64_t k = 0; k < n; k++) {
        double norm = 0, dot = 0;
        d[k] = a[k * n + k];
        if (k + 1 == n) break;
        for (int64_t i = k + 1; i < n; i++) norm = hypot(norm, a[i * n + k]);
        double head = a[(k + 1) * n + k];
        e[k] = head > 0 ? -norm : norm;
        if (norm < 1e-150) { // its square would underflow; it is nothing beside any float squared
            e[k] = 0;
            continue;
        }
        double scale = 1 / sqrt(norm * (norm + fabs(head)));
        for (int64_t i = k + 1; i < n; i++) v[i] = a[i * n + k] * scale;
        v[k + 1] = (head - e[k]) * scale;
        for (int64_t i = k + 1; i < n; i++) p[i] = 0;
        for (int64_t i = k + 1; i < n; i++) { // p = A v from the lower triangle alone
            double sum = a[i * n + i] * v[i];
            for (int64_t j = k + 1; j < i; j++) {
                sum += a[i * n + j] * v[j];
                p[j] += a[i * n + j] * v[i];
            }
            p[i] += sum;
        }
        for (int64_t i = k + 1; i < n; i++) dot += p[i] * v[i];
        for (int64_t i = k + 1; i < n; i++) p[i] -= dot / 2 * v[i];
        for (int64_t i = k + 1; i < n; i++)
            for (int64_t j = k + 1; j <= i; j++) a[i * n + j] -= v[i] * p[j] + p[i] * v[j];
    }
}

/* Eigenvalues below x: the negative pivots of T - x I (Sylvester's law of inertia). */
static int64_t count_below(const double *d, const double *e, int64_t n, double x, double tiny)
{
    int64_t count = 0;
    double pivot = 1;
    for (int64_t i = 0; i < n; i++) {
        pivot = d[i] - x - (i ? e[i - 1] * e[i - 1] / pivot : 0);
        if (fabs(pivot) < tiny) pivot = -tiny;
        count += pivot < 0;
    }
    return count;
}

static void bisect(double *value, const double *d, const double *e, int64_t n)
{
    double low = d[0], high = d[0];
    for (int64_t i = 0; i < n; i++) { // Gershgorin's discs
        double r = (i ? fabs(e[i - 1]) : 0) + (i + 1 < n ? fabs(e[i]) : 0);
        low = fmin(low, d[i] - r);
        high = fmax(high, d[i] + r);
    }
    double size = fmax(fabs(low), fabs(high)), tiny = fmax(size * 1e-150, DBL_MIN);
    double from = low;
    for (int64_t k = 0; k < n; k++) { // the k-th smallest; it is not below the one before
        double a = from, b = high;
        while (b - a > 2 * DBL_EPSILON * size) {
            double middle = a + (b - a) / 2;
            if (middle <= a || middle >= b) break;
            if (count_below(d, e, n, middle, tiny) > k)
                b = middle;
            else
                a = middle;
        }
        from = a;
        value[k] = a + (b - a) / 2;
    }
}

enum pk_status pk_symmetric_eigenvalues(double *value, double *a, int64_t n, struct pk_err *err)
{
    double *work;
    if (n < 1)
        return pk_fail(err, PK_EINVAL, "eigenvalues of a %lld x %lld matrix", (long long)n,
                       (long long)n);
    PK_TRY(pk_alloc(&work, (size_t)n, 4 * sizeof *work, "tridiagonal matrix", err));
    double *d = work, *e = work + n, *v = work + 2 * n, *p = work + 3 * n;
    tridiagonalise(a, n, d, e, v, p);
    bisect(value, d, e, n);
    free(work);
    return PK_OK;
}

/* c [m, m] lower triangle += inner products of the centred columns of x (m = width), or of its
 * centred rows (m = rows), which have the same nonzero eigenvalues. z [BLOCK, m] is scratch. */
static void inner_products(double *c, bool of_rows, const float *x, const double *mean, double *z,
                           int64_t rows, int64_t width)
{
    int64_t m = of_rows ? rows : width, terms = of_rows ? width : rows;
    for (int64_t t = 0; t < terms; t += BLOCK) {
        for (int64_t k = 0; k < BLOCK; k++)
            for (int64_t i = 0; i < m; i++) {
                int64_t row = of_rows ? i : t + k, column = of_rows ? t + k : i;
                bool inside = t + k < terms; // terms past the end count as zeros
                z[k * m + i] = inside ? (double)x[row * width + column] - mean[column] : 0;
            }
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j <= i; j++) {
                double sum = 0;
                for (int64_t k = 0; k < BLOCK; k++) sum += z[k * m + i] * z[k * m + j];
                c[i * m + j] += sum;
            }
    }
}

static double effective_rank(const double *eigenvalue, int64_t n)
{
    double total = 0, entropy = 0;
    for (int64_t i = 0; i < n; i++) total += sqrt(fmax(eigenvalue[i], 0));
    if (!(total > 0)) return 0;
    for (int64_t i = 0; i < n; i++) {
        double p = sqrt(fmax(eigenvalue[i], 0)) / total;
        if (p > 0) entropy -= p * log(p);
    }
    return exp(entropy);
}

/* Means and the two spreads; false if an element is not finite. */
static bool moments(struct pk_embedding_stats *out, double *mean, const float *x, int64_t rows,
                    int64_t width)
{
    double std = 0, variance = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < width; j++) mean[j] += (double)x[r * width + j];
    for (int64_t j = 0; j < width; j++) {
        double square = 0;
        mean[j] /= (double)rows;
        if (!isfinite(mean[j])) return false;
        for (int64_t r = 0; r < rows; r++) {
            double z = (double)x[r * width + j] - mean[j];
            square += z * z;
        }
        variance += square / (double)rows;
        std += sqrt(square / (double)rows);
    }
    out->mean_std = std / (double)width;
    out->mean_variance = variance / (double)width;
    return true;
}

enum pk_status pk_embedding_stats(struct pk_embedding_stats *out, const float *x, int64_t rows,
                                  int64_t width, struct pk_err *err)
{
    int64_t m = PK_MIN(rows, width);
    double *mean = NULL, *matrix = NULL, *z = NULL, *value = NULL;
    enum pk_status s;
    *out = (struct pk_embedding_stats){(double)NAN, (double)NAN, (double)NAN};
    if (m < 1)
        return pk_fail(err, PK_EINVAL, "embedding of %lld rows x %lld", (long long)rows,
                       (long long)width);
    if ((s = pk_alloc(&mean, (size_t)width, sizeof *mean, "means", err)) != PK_OK) goto done;
    if (!moments(out, mean, x, rows, width)) goto done;
    if ((s = pk_alloc(&matrix, (size_t)m, (size_t)m * sizeof *matrix, "covariance", err)) != PK_OK)
        goto done;
    if ((s = pk_alloc(&value, (size_t)m, sizeof *value, "eigenvalues", err)) != PK_OK) goto done;
    if ((s = pk_alloc(&z, (size_t)m, BLOCK * sizeof *z, "centred rows", err)) != PK_OK) goto done;
    inner_products(matrix, rows < width, x, mean, z, rows, width);
    if ((s = pk_symmetric_eigenvalues(value, matrix, m, err)) != PK_OK) goto done;
    out->effective_rank = effective_rank(value, m);
done:
    free(mean);
    free(matrix);
    free(z);
    free(value);
    return s;
}

static double distance2(const double *a, const double *b, int64_t width)
{
    double sum = 0;
    for (int64_t c = 0; c < width; c++) sum += (a[c] - b[c]) * (a[c] - b[c]);
    return sum;
}

enum pk_status pk_pair_stats(struct pk_pair_stats *out, const float *x, int64_t rows, int64_t width,
                             struct pk_err *err)
{
    double *unit, near = 0, spread = 0;
    if (rows < 4 || rows % 2 || width < 1)
        return pk_fail(err, PK_EINVAL, "pair statistics of %lld rows of %lld numbers",
                       (long long)rows, (long long)width);
    const int64_t n = PK_MIN(rows, (int64_t)PK_PAIR_ROWS);
    PK_TRY(pk_alloc(&unit, (size_t)(n * width), sizeof *unit, "unit rows", err));
    for (int64_t i = 0; i < n; i++) {
        double square = 0;
        for (int64_t c = 0; c < width; c++)
            square += (double)x[i * width + c] * (double)x[i * width + c];
        const double scale = square > 0 ? 1 / sqrt(square) : 0;
        for (int64_t c = 0; c < width; c++) unit[i * width + c] = scale * (double)x[i * width + c];
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < i; k++) {
            const double d = distance2(unit + i * width, unit + k * width, width);
            if (i % 2 && k == i - 1)
                near += d;
            else
                spread += exp(-2 * d);
        }
    out->alignment = near / (double)(n / 2);
    out->uniformity = log(spread / (double)(n * (n - 1) / 2 - n / 2));
    free(unit);
    return PK_OK;
}
