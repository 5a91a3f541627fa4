/* filter.c -- Chebyshev-2 design, forward-backward sections, polyphase resampling (see filter.h).
 *
 * Design: analog prototype, low-pass to band-pass, bilinear transform (Oppenheim & Schafer, ch. 7);
 * even order, so no zero lies at infinity. Conjugate pairs become sections: the pole nearest to the
 * unit circle takes the zero nearest to it, and that section comes last. */
#include "datasets/filter.h"

#include <complex.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ORDER = 4 };

static const double pi = 3.14159265358979323846;

static double complex bilinear(double complex s)
{
    return (4 + s) / (4 - s); // of a prototype at 2 samples a second
}

/* The root above the real axis of each conjugate pair that `s` and conj(s) of the low-pass become.
 */
static void to_band(double complex s, double width, double centre, double complex out[2])
{
    double complex half = s * width / 2, root = csqrt(half * half - centre * centre);
    for (int i = 0; i < 2; i++) {
        double complex v = i ? half - root : half + root;
        out[i] = cimag(v) < 0 ? conj(v) : v;
    }
}

/* Sections from the upper roots of 4 pairs, in the order of the poles' closeness to the circle. */
static void pair_up(struct pk_filter *f, double complex zero[], double complex pole[])
{
    for (int k = PK_FILTER_SECTIONS - 1; k >= 0; k--) {
        int p = 0, z = 0;
        for (int i = 1; i <= k; i++)
            if (cabs(pole[i]) > cabs(pole[p])) p = i;
        for (int i = 1; i <= k; i++)
            if (cabs(zero[i] - pole[p]) < cabs(zero[z] - pole[p])) z = i;
        const double b[3] = {1, -2 * creal(zero[z]), creal(zero[z] * conj(zero[z]))};
        const double a[3] = {1, -2 * creal(pole[p]), creal(pole[p] * conj(pole[p]))};
        memcpy(f->b[k], b, sizeof b);
        memcpy(f->a[k], a, sizeof a);
        pole[p] = pole[k];
        zero[z] = zero[k];
    }
}

static enum pk_status check_band(double low, double high, double rate, struct pk_err *err)
{
    if (low > 0 && high > low && high < rate / 2) return PK_OK;
    return pk_fail(err, PK_EINVAL,
                   "a band-pass of %g to %g Hz at %g Hz: 0 < low < high < half the rate was "
                   "expected",
                   low, high, rate);
}

/* Four zeros at 0 Hz and four at half the rate: one of each for every section. */
enum pk_status pk_filter_butterworth(struct pk_filter *out, double low, double high, double rate,
                                     struct pk_err *err)
{
    double complex pole[PK_FILTER_SECTIONS];
    double gain = 1;
    PK_TRY(check_band(low, high, rate, err));
    const double w1 = 4 * tan(pi * low / rate), w2 = 4 * tan(pi * high / rate);
    for (int i = 0; i < ORDER / 2; i++) {
        const double angle = pi * (2 * i + 1) / (2 * ORDER);
        to_band(-sin(angle) + cos(angle) * _Complex_I, w2 - w1, sqrt(w1 * w2), &pole[2 * i]);
    }
    for (int i = 0; i < PK_FILTER_SECTIONS; i++) {
        const double complex p = 4 - pole[i];
        gain *= 4 * (w2 - w1) / creal(p * conj(p));
        pole[i] = bilinear(pole[i]);
    }
    for (int k = 0; k < PK_FILTER_SECTIONS; k++) {
        const double a[3] = {1, -2 * creal(pole[k]), creal(pole[k] * conj(pole[k]))};
        memcpy(out->b[k], (double[3]){1, 0, -1}, sizeof out->b[k]);
        memcpy(out->a[k], a, sizeof a);
    }
    for (int i = 0; i < 3; i++) out->b[0][i] *= gain;
    return PK_OK;
}

enum pk_status pk_filter_bandpass(struct pk_filter *out, double low, double high, double rate,
                                  double stop_db, struct pk_err *err)
{
    PK_TRY(check_band(low, high, rate, err));
    if (!(stop_db > 0 && stop_db <= 200))
        return pk_fail(err, PK_EINVAL, "a band-pass that damps by %g dB: 0 to 200 were expected",
                       stop_db);
    double complex zero[PK_FILTER_SECTIONS], pole[PK_FILTER_SECTIONS], gain = 1;
    double ripple = 1 / sqrt(pow(10, 0.1 * stop_db) - 1), mu = asinh(1 / ripple) / ORDER;
    double w1 = 4 * tan(pi * low / rate), w2 = 4 * tan(pi * high / rate);
    for (int i = 0; i < ORDER / 2; i++) { // one of each conjugate pair of the low-pass
        double angle = pi * (2 * i + 1) / (2 * ORDER);
        double complex z = 1 / sin(angle) * _Complex_I;
        double complex p = -1 / (sinh(mu) * cos(angle) + cosh(mu) * sin(angle) * _Complex_I);
        gain *= (p * conj(p)) / (z * conj(z));
        to_band(z, w2 - w1, sqrt(w1 * w2), &zero[2 * i]);
        to_band(p, w2 - w1, sqrt(w1 * w2), &pole[2 * i]);
    }
    for (int i = 0; i < PK_FILTER_SECTIONS; i++) {
        double complex z = 4 - zero[i], p = 4 - pole[i];
        gain *= (z * conj(z)) / (p * conj(p));
        zero[i] = bilinear(zero[i]);
        pole[i] = bilinear(pole[i]);
    }
    pair_up(out, zero, pole);
    for (int i = 0; i < 3; i++) out->b[0][i] *= creal(gain);
    return PK_OK;
}

/* One pass over x [n], stepping by `step`; the state starts as if x[first] had always been there.
 */
static void pass(const struct pk_filter *f, double *x, int64_t n, int64_t first, int64_t step)
{
    double level = x[first];
    for (int k = 0; k < PK_FILTER_SECTIONS; k++) {
        const double *b = f->b[k], *a = f->a[k];
        double steady = (b[0] + b[1] + b[2]) / (1 + a[1] + a[2]); // the section's gain at 0 Hz
        double s1 = (steady - b[0]) * level, s2 = (b[2] - a[2] * steady) * level;
        double *p = x + first;
        for (int64_t i = 0; i < n; i++, p += step) {
            double v = *p, y = b[0] * v + s1;
            s1 = b[1] * v - a[1] * y + s2;
            s2 = b[2] * v - a[2] * y;
            *p = y;
        }
        level *= steady;
    }
}

enum pk_status pk_filter_both_ways(const struct pk_filter *f, double *x, int64_t n,
                                   struct pk_err *err)
{
    const int64_t edge = PK_FILTER_EDGE, all = n + 2 * edge;
    double *w;
    if (n <= edge)
        return pk_fail(err, PK_EDATA, "%lld samples are too few to filter; more than %d are needed",
                       (long long)n, PK_FILTER_EDGE);
    PK_TRY(pk_alloc(&w, (size_t)all, sizeof *w, "filter", err));
    memcpy(w + edge, x, (size_t)n * sizeof *w);
    for (int64_t i = 1; i <= edge; i++) {
        w[edge - i] = 2 * x[0] - x[i];
        w[edge + n - 1 + i] = 2 * x[n - 1] - x[n - 1 - i];
    }
    pass(f, w, all, 0, 1);
    pass(f, w, all, all - 1, -1);
    memcpy(x, w + edge, (size_t)n * sizeof *w);
    free(w);
    return PK_OK;
}

/* ---- rates ---- */

enum pk_status pk_resample_ratio(int64_t *up, int64_t *down, double from, double to,
                                 struct pk_err *err)
{
    if (!(from >= 0.001 && from <= 1e6 && to >= 0.001 && to <= 1e6))
        return pk_fail(err, PK_EINVAL, "a rate of %g Hz: 0.001 to 1000000 can be converted",
                       from >= 0.001 && from <= 1e6 ? to : from);
    int64_t a = llround(to * 1000), b = llround(from * 1000), r;
    *up = a;
    *down = b;
    while (b) {
        r = a % b;
        a = b;
        b = r;
    }
    *up /= a;
    *down /= a;
    if (*up > PK_RESAMPLE_MAX || *down > PK_RESAMPLE_MAX)
        return pk_fail(err, PK_EINVAL,
                       "%g Hz to %g Hz is a factor of %lld / %lld; numbers up to %d are possible",
                       from, to, (long long)*up, (long long)*down, PK_RESAMPLE_MAX);
    return PK_OK;
}

int64_t pk_resample_count(int64_t n, int64_t up, int64_t down)
{
    return (n * up + down - 1) / down;
}

/* Modified Bessel function of the first kind, order 0, by its power series (x < 10 here). */
static double bessel_i0(double x)
{
    double sum = 1, term = 1;
    for (int k = 1; k < 100 && term > 1e-18 * sum; k++) {
        term *= (x / (2 * k)) * (x / (2 * k));
        sum += term;
    }
    return sum;
}

/* Low-pass of 2 * half + 1 taps that cuts at 1 / ratio of half the rate, with gain `up` at 0 Hz. */
static void design_taps(double *h, int64_t half, double ratio, double up)
{
    double sum = 0;
    for (int64_t i = -half; i <= half; i++) {
        double t = pi * (double)i / ratio, r = (double)i / (double)half;
        double sinc = i ? sin(t) / t : 1;
        h[i + half] = sinc / ratio * bessel_i0(5 * sqrt(fmax(0, 1 - r * r))) / bessel_i0(5);
        sum += h[i + half];
    }
    for (int64_t i = 0; i <= 2 * half; i++) h[i] *= up / sum;
}

enum pk_status pk_resample(const double *x, int64_t n, int64_t up, int64_t down, double *y,
                           struct pk_err *err)
{
    int64_t ratio = PK_MAX(up, down), half = 10 * ratio, count = pk_resample_count(n, up, down);
    double mean = 0, *h;
    if (up == down) {
        memcpy(y, x, (size_t)n * sizeof *y);
        return PK_OK;
    }
    PK_TRY(pk_alloc(&h, (size_t)(2 * half + 1), sizeof *h, "resampling filter", err));
    design_taps(h, half, (double)ratio, (double)up);
    for (int64_t i = 0; i < n; i++) mean += x[i] / (double)n;
    for (int64_t k = 0; k < count; k++) {
        // y[k] = sum over i of x[i] h[k * down - i * up + half], where that index is in the filter
        int64_t centre = k * down, first = centre - half, last = centre + half;
        int64_t i = first > 0 ? (first + up - 1) / up : 0, end = PK_MIN(last / up, n - 1);
        double sum = 0;
        for (; i <= end; i++) sum += (x[i] - mean) * h[centre - i * up + half];
        y[k] = sum + mean;
    }
    free(h);
    return PK_OK;
}
