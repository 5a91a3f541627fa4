/* ppg.h -- from a recording of any length to windows for a corpus: gaps, band-pass, rate, polarity,
 * flat windows, normalisation.
 *
 * In this order, channel by channel:
 *   1. Samples without value (NaN) are interpolated linearly over gaps of at most `gap` seconds. A
 *      longer gap divides the channel into stretches that are treated separately.
 *   2. PPG leads: band-pass `band` (datasets/filter.h), at the source's rate. ECG leads:
 * `ecg_band`.
 *   3. Resampling of each stretch to `rate`.
 *   4. PPG polarity. A pulse rises faster than it falls, so that the differences between
 *      neighbouring samples of the filtered signal have a positive skewness.
 *      PK_POLARITY_AUTO takes its median over blocks of 10 s (a recording shorter than that is one
 *      block) and turns the channel over where it is below -0.1. It needs several beats: on
 *      segments of two seconds it is often wrong.
 *   5. Windows of `window` seconds, one every `stride` seconds from the start. A lead is present in
 *      a window without gap, whose share of flat samples (runs of equal source samples of at least
 *      0.2 s: a sensor that is off or saturated) is at most `flat`. A window without any lead is
 *      left out, and counted.
 *   6. PPG windows become (x - mean) / std of the window (`zscore`), stored as int16 with an LSB of
 *      0.001 standard deviations (larger only beyond 32 of them). Without it the LSB is the
 *      window's peak / 32767. ECG stays in mV, LSB 1 uV. */
#ifndef PK_PPG_H
#define PK_PPG_H

#include "datasets/corpus.h"

enum pk_polarity { PK_POLARITY_KEEP, PK_POLARITY_FLIP, PK_POLARITY_AUTO };

struct pk_ppg_options {
    double rate;           // Hz of the corpus
    double window, stride; // s; both a whole number of samples
    double band[2];        // Hz, stop-band edges; 0 0: no filter
    double ecg_band[2];    // the same for ECG leads
    double stop_db;        // damping of one pass at the edges
    double gap;            // s
    double flat;           // largest share of flat samples, 0..1; 1 keeps flat windows too
    enum pk_polarity polarity;
    bool zscore;
};

struct pk_channel {
    int32_t lead; // of the corpus
    bool ecg;     // steps 2, 4 and 6 differ
    double rate;  // Hz
    int64_t n;
    double *x; // [n], NaN where there is no value; owned
};

struct pk_series {      // a number that changes during the recording, e.g. a monitor's heart rate
    int32_t target;     // of the corpus
    double start, rate; // s from the start of the recording, Hz
    int64_t n;
    double *x; // [n], NaN where missing; a window's target is the mean over it; owned
};

struct pk_recording {
    int32_t channels, series;
    struct pk_channel channel[PK_LEADS_MAX];
    struct pk_series serie[PK_TARGETS_MAX];
};
void pk_recording_free(struct pk_recording *r); // safe on a zeroed struct

struct pk_ppg_window {
    int64_t number; // the window starts at number * stride
    uint16_t lead_mask;
    uint32_t quality;
    float scale[PK_LEADS_MAX];
    float target[PK_TARGETS_MAX]; // of the series; NaN for the others
};

struct pk_ppg_counts {
    int64_t windows; // that fit into the recording
    int64_t kept;
    int64_t incomplete; // of these, without a signal in some lead
    int64_t gap, flat;  // left out: no lead without gap; none that is not flat
    int32_t flipped;    // channels turned over
};

/* Checks the numbers, and that window and stride are whole samples; *samples of a window.
 * Errors  PK_EINVAL, worded as settings of the command line */
enum pk_status pk_ppg_check(const struct pk_ppg_options *o, int32_t *samples, struct pk_err *err);

/* Cuts a recording into windows and hands each to `take`, with signal [leads, samples]. The
 * channels are used up. Errors  PK_EDATA a stretch cannot be converted, PK_ENOMEM; what take says
 */
enum pk_status pk_ppg_windows(struct pk_recording *r, const struct pk_ppg_options *o, int32_t leads,
                              enum pk_status (*take)(void *self, const struct pk_ppg_window *w,
                                                     const int16_t *signal, struct pk_err *err),
                              void *self, struct pk_ppg_counts *counts, struct pk_err *err);

/* Values x [n] at ascending times t [n] (s, any spacing) on the grid t[0] + k / rate, by linear
 * interpolation; grid points in a spacing longer than `gap` s are NaN. *y [*count] is owned by the
 * caller. Times are taken as checked. Error PK_ENOMEM, PK_EDATA more than 2^26 points */
enum pk_status pk_ppg_grid(const double *t, const double *x, int64_t n, double rate, double gap,
                           double **y, int64_t *count, struct pk_err *err);

#endif
