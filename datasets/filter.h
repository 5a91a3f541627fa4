/* filter.h -- zero-phase band-passes and change of rate, in double precision.
 *
 * The band-pass is the practice of PPG work (pyPPG, PaPaGei): Chebyshev type 2, designed as order 4
 * (order 8 as a band-pass), run forwards and backwards. The functions give what SciPy gives:
 * cheby2(4, stop_db, [low, high], "bandpass", fs=rate, output="sos"), sosfiltfilt(sos, x) and
 * resample_poly(x, up, down, padtype="mean"), to rounding. */
#ifndef PK_FILTER_H
#define PK_FILTER_H

#include "core/base.h"

enum {
    PK_FILTER_SECTIONS = 4,
    /* The signal must have more samples than are mirrored at each end. */
    PK_FILTER_EDGE = 3 * (2 * PK_FILTER_SECTIONS + 1),
    PK_RESAMPLE_MAX = 10000 // of up and of down
};

struct pk_filter { // second-order sections, a[0] = 1
    double b[PK_FILTER_SECTIONS][3], a[PK_FILTER_SECTIONS][3];
};

/* low, high, rate in Hz. Both are stop-band edges: there and beyond, one pass damps by stop_db (0.5
 * to 12 Hz and 20 dB: half of a sine's power at 0.67 and 9.05 Hz is left after both passes, and 1 %
 * of a constant).
 * Errors  PK_EINVAL  not 0 < low < high < rate / 2, or stop_db not positive */
enum pk_status pk_filter_bandpass(struct pk_filter *out, double low, double high, double rate,
                                  double stop_db, struct pk_err *err);

/* Butterworth of order 4 (order 8 as a band-pass), the practice of ECG work: SciPy's butter(4,
 * [low, high], "bandpass", fs=rate, output="sos"). low and high are where one pass leaves half the
 * power. Errors  PK_EINVAL  not 0 < low < high < rate / 2 */
enum pk_status pk_filter_butterworth(struct pk_filter *out, double low, double high, double rate,
                                     struct pk_err *err);

/* Filters x [n] in place, forwards and backwards; n > PK_FILTER_EDGE. The ends are extended by the
 * signal turned around its last value (SciPy's odd extension), each pass starts in the steady state
 * of its first value. Errors  PK_EDATA too short, PK_ENOMEM */
enum pk_status pk_filter_both_ways(const struct pk_filter *f, double *x, int64_t n,
                                   struct pk_err *err);

/* to / from = up / down, both in Hz and taken to a thousandth of it.
 * Errors  PK_EINVAL  a rate outside of 0.001 to 1e6, or up or down above PK_RESAMPLE_MAX */
enum pk_status pk_resample_ratio(int64_t *up, int64_t *down, double from, double to,
                                 struct pk_err *err);
/* Samples that n become: ceil(n * up / down). */
int64_t pk_resample_count(int64_t n, int64_t up, int64_t down);
/* y [pk_resample_count]: x [n] without NaN at another rate, by a windowed sinc (Kaiser, beta 5, ten
 * zero crossings on each side). Sample k of y is at the time of sample k * down / up of x. */
enum pk_status pk_resample(const double *x, int64_t n, int64_t up, int64_t down, double *y,
                           struct pk_err *err);

#endif
