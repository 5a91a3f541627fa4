/* ppg.c -- windows of a recording (see ppg.h). */
#include "datasets/ppg.h"
#include "datasets/filter.h"
#include "datasets/lead.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS_MAX = 1 << 26 };
static const double flat_seconds = 0.2; // shorter runs of equal samples are coarse digitisation
static const double undecided = 0.1;    // a typical skewness nearer to 0 turns nothing over

struct lane { // a channel on its way
    const struct pk_channel *c;
    double *y; // [count] at the corpus's rate, NaN where there is no value
    int64_t count;
    int32_t *flat, *filled; // [n + 1] counts of source samples before each
};

void pk_recording_free(struct pk_recording *r)
{
    for (int i = 0; i < PK_LEADS_MAX; i++) free(r->channel[i].x);
    for (int i = 0; i < PK_TARGETS_MAX; i++) free(r->serie[i].x);
    *r = (struct pk_recording){0};
}

static bool band_is_good(const double band[2], double *most)
{
    *most = PK_MAX(*most, band[1]);
    return (band[0] == 0 && band[1] == 0) || (band[0] > 0 && band[1] > band[0]);
}

enum pk_status pk_ppg_check(const struct pk_ppg_options *o, int32_t *samples, struct pk_err *err)
{
    double n = o->window * o->rate, step = o->stride * o->rate, most = 0;
    if (!(o->rate >= 1 && o->rate <= 10000))
        return pk_fail(err, PK_EINVAL, "rate=%g: 1 to 10000 Hz are possible", o->rate);
    if (!(n >= 16 && n <= 1e6) || !(fabs(n - rint(n)) <= 1e-6))
        return pk_fail(err, PK_EINVAL,
                       "window=%g s at %g Hz is %g samples; a whole number from 16 to 1000000 was "
                       "expected",
                       o->window, o->rate, n);
    if (!(step >= 1 && step <= 1e9) || !(fabs(step - rint(step)) <= 1e-6))
        return pk_fail(err, PK_EINVAL,
                       "stride=%g s at %g Hz is %g samples; a whole number was expected", o->stride,
                       o->rate, step);
    if (!band_is_good(o->band, &most) || !band_is_good(o->ecg_band, &most))
        return pk_fail(err, PK_EINVAL, "a band is two frequencies, the lower one first");
    if (!(most < o->rate / 2))
        return pk_fail(err, PK_EINVAL, "a band up to %g Hz does not fit below half of rate=%g Hz",
                       most, o->rate);
    if (!(o->stop_db >= 1 && o->stop_db <= 120))
        return pk_fail(err, PK_EINVAL, "stop=%g: 1 to 120 dB are possible", o->stop_db);
    if (!(o->gap >= 0 && o->gap <= 60) || !(o->flat >= 0 && o->flat <= 1))
        return pk_fail(err, PK_EINVAL, "gap=%g s and flat=%g: 0 to 60 and 0 to 1 are possible",
                       o->gap, o->flat);
    *samples = (int32_t)lrint(n);
    return PK_OK;
}

/* ---- one channel ---- */

/* Interpolates inner gaps of at most `most` samples; filled [n + 1] counts them. */
static void fill_short_gaps(double *x, int64_t n, int64_t most, int32_t *filled)
{
    int64_t last = -1;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i])) continue;
        int64_t gap = i - last - 1;
        if (gap > 0 && gap <= most && last >= 0)
            for (int64_t k = last + 1; k < i; k++) {
                x[k] = x[last] + (x[i] - x[last]) * (double)(k - last) / (double)(i - last);
                filled[k + 1] = 1;
            }
        last = i;
    }
    for (int64_t i = 0; i < n; i++) filled[i + 1] += filled[i];
}

static void count_flat(const double *x, int64_t n, double rate, int32_t *flat)
{
    int64_t need = PK_MAX((int64_t)ceil(flat_seconds * rate), (int64_t)2);
    for (int64_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && x[end] == x[i]; end++) continue; // NaN ends a run
        if (end - i < need) continue;
        for (int64_t k = i; k < end; k++) flat[k + 1] = 1;
    }
    for (int64_t i = 0; i < n; i++) flat[i + 1] += flat[i];
}

/* Filters x [n] and writes it at the new rate to y, of which `room` samples are left. */
static enum pk_status convert_stretch(double *x, int64_t n, const struct pk_filter *filter,
                                      int64_t up, int64_t down, double *y, int64_t room,
                                      struct pk_err *err)
{
    int64_t count = pk_resample_count(n, up, down);
    if (filter) {
        if (n <= PK_FILTER_EDGE) return PK_OK; // too short to be filtered: stays without value
        PK_TRY(pk_filter_both_ways(filter, x, n, err));
    }
    if (count <= room) return pk_resample(x, n, up, down, y, err);
    return pk_fail(err, PK_EINTERNAL, "a stretch of %lld samples does not fit", (long long)count);
}

static enum pk_status convert_channel(struct lane *l, const struct pk_ppg_options *o,
                                      struct pk_err *err)
{
    const struct pk_channel *c = l->c;
    const double *band = c->ecg ? o->ecg_band : o->band;
    struct pk_filter filter;
    int64_t up, down;
    PK_TRY(pk_resample_ratio(&up, &down, c->rate, o->rate, err));
    if (band[1] > 0)
        PK_TRY(pk_filter_bandpass(&filter, band[0], band[1], c->rate, o->stop_db, err));
    l->count = pk_resample_count(c->n, up, down);
    if (c->n > POINTS_MAX || l->count > POINTS_MAX)
        return pk_fail(err, PK_EDATA, "a recording of %lld samples; at most %d are possible",
                       (long long)PK_MAX(c->n, l->count), POINTS_MAX);
    PK_TRY(pk_alloc(&l->y, (size_t)l->count, sizeof *l->y, "channel", err));
    PK_TRY(pk_alloc(&l->flat, (size_t)c->n + 1, sizeof *l->flat, "channel", err));
    PK_TRY(pk_alloc(&l->filled, (size_t)c->n + 1, sizeof *l->filled, "channel", err));
    for (int64_t i = 0; i < l->count; i++) l->y[i] = NAN;
    count_flat(c->x, c->n, c->rate, l->flat);
    fill_short_gaps(c->x, c->n, (int64_t)floor(o->gap * c->rate + 1e-9), l->filled);
    for (int64_t i = 0, end; i < c->n; i = end + 1) {
        for (end = i; end < c->n && !isnan(c->x[end]); end++) continue;
        // a stretch begins where both rates have a sample, so that all leads stay on one clock
        int64_t start = (i + down - 1) / down * down, at = start / down * up;
        if (start < end)
            PK_TRY(convert_stretch(c->x + start, end - start, band[1] > 0 ? &filter : NULL, up,
                                   down, l->y + at, l->count - at, err));
    }
    return PK_OK;
}

/* Skewness of the differences of y [n]; 0 where there is none. */
static double rise_skew(const double *y, int64_t n)
{
    double mean = (y[n - 1] - y[0]) / (double)(n - 1), m2 = 0, m3 = 0;
    for (int64_t i = 1; i < n; i++) {
        double d = y[i] - y[i - 1] - mean;
        m2 += d * d / (double)(n - 1);
        m3 += d * d * d / (double)(n - 1);
    }
    return m2 > 0 ? m3 / (m2 * sqrt(m2)) : 0;
}

static int by_number(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Median over blocks of 10 s without gaps (one shorter block for a short recording): one movement
 * of the wrist would decide the skewness of the whole. */
static enum pk_status typical_skew(const struct lane *l, double rate, double *out,
                                   struct pk_err *err)
{
    int64_t block = PK_MIN((int64_t)(10 * rate), l->count), used = 0;
    double *skew;
    *out = 0;
    if (block < 3) return PK_OK;
    PK_TRY(pk_alloc(&skew, (size_t)(l->count / block), sizeof *skew, "polarity", err));
    for (int64_t i = 0; i + block <= l->count; i += block) {
        int64_t k = 0;
        while (k < block && !isnan(l->y[i + k])) k++;
        if (k == block) skew[used++] = rise_skew(l->y + i, block);
    }
    if (used) {
        qsort(skew, (size_t)used, sizeof *skew, by_number);
        *out = (skew[(used - 1) / 2] + skew[used / 2]) / 2;
    }
    free(skew);
    return PK_OK;
}

static enum pk_status set_polarity(struct lane *l, const struct pk_ppg_options *o, int32_t *turned,
                                   struct pk_err *err)
{
    double skew;
    if (l->c->ecg || o->polarity == PK_POLARITY_KEEP) return PK_OK;
    if (o->polarity == PK_POLARITY_AUTO) {
        PK_TRY(typical_skew(l, o->rate, &skew, err));
        if (!(skew < -undecided)) return PK_OK;
    }
    for (int64_t i = 0; i < l->count; i++) l->y[i] = -l->y[i];
    ++*turned;
    return PK_OK;
}

/* ---- windows ---- */

enum state { GOOD, GAP, FLAT };

/* Standardises; false for a constant window. */
static bool standardise(double *x, int32_t n)
{
    double mean = 0, square = 0, peak = 0;
    for (int32_t i = 0; i < n; i++) mean += x[i] / n;
    for (int32_t i = 0; i < n; i++) {
        peak = fmax(peak, fabs(x[i]));
        square += (x[i] - mean) * (x[i] - mean) / n;
    }
    double std = sqrt(square);
    if (!(std > 1e-12 * peak)) return false;
    for (int32_t i = 0; i < n; i++) x[i] = (x[i] - mean) / std;
    return true;
}

/* int16 with the finest LSB that does not clip. */
static void quantise_finest(const double *x, int32_t n, int16_t *dst, float *scale)
{
    double peak = 0;
    for (int32_t i = 0; i < n; i++) peak = fmax(peak, fabs(x[i]));
    *scale = peak > 1e-30 ? nextafterf((float)(peak / 32767), INFINITY) : 1.0f;
    for (int32_t i = 0; i < n; i++) dst[i] = (int16_t)rint(x[i] / (double)*scale);
}

/* One lead of one window into dst [samples]; work [samples]. */
static enum pk_status cut_lead(const struct lane *l, const struct pk_ppg_options *o, int64_t first,
                               int32_t samples, double *work, struct pk_ppg_window *w, int16_t *dst,
                               enum state *state, struct pk_err *err)
{
    bool present;
    *state = GAP;
    if (first + samples > l->count) return PK_OK;
    for (int32_t i = 0; i < samples; i++) {
        work[i] = l->y[first + i];
        if (isnan(work[i])) return PK_OK;
    }
    double ratio = l->c->rate / o->rate;
    int64_t a = PK_MIN((int64_t)floor((double)first * ratio + 1e-6), l->c->n);
    int64_t b = PK_MIN((int64_t)ceil((double)(first + samples) * ratio - 1e-6), l->c->n);
    *state = FLAT;
    if (b > a && (double)(l->flat[b] - l->flat[a]) > o->flat * (double)(b - a)) return PK_OK;
    bool moves = standardise(work, samples);
    if (!moves && o->flat < 1) return PK_OK;
    if (!moves)
        for (int32_t i = 0; i < samples; i++) work[i] = 0;
    else if (l->c->ecg || !o->zscore)
        memcpy(work, l->y + first, (size_t)samples * sizeof *work);
    *state = GOOD;
    if (b > a && l->filled[b] > l->filled[a]) w->quality |= PK_QUALITY_INVALID;
    float *scale = &w->scale[l->c->lead];
    if (l->c->ecg || o->zscore)
        PK_TRY(pk_lead_quantise(work, samples, dst, samples, scale, &w->quality, &present, err));
    else
        quantise_finest(work, samples, dst, scale);
    w->lead_mask |= (uint16_t)(1u << l->c->lead);
    return PK_OK;
}

/* Means of the series over [from, to) seconds. */
static void mean_series(const struct pk_recording *r, double from, double to, float *target)
{
    for (int k = 0; k < PK_TARGETS_MAX; k++) target[k] = NAN;
    for (int k = 0; k < r->series; k++) {
        const struct pk_series *s = &r->serie[k];
        double sum = 0, low = ceil((from - s->start) * s->rate - 1e-6);
        double high = ceil((to - s->start) * s->rate - 1e-6);
        int64_t used = 0, i = (int64_t)fmin(fmax(low, 0), (double)s->n);
        for (int64_t end = (int64_t)fmin(fmax(high, 0), (double)s->n); i < end; i++) {
            if (isnan(s->x[i])) continue;
            sum += s->x[i];
            used++;
        }
        if (used) target[s->target] = (float)(sum / (double)used);
    }
}

static enum pk_status cut_windows(const struct pk_recording *r, const struct lane *lane,
                                  const struct pk_ppg_options *o, int32_t leads, int32_t samples,
                                  enum pk_status (*take)(void *, const struct pk_ppg_window *,
                                                         const int16_t *, struct pk_err *),
                                  void *self, struct pk_ppg_counts *counts, struct pk_err *err)
{
    int64_t step = (int64_t)lrint(o->stride * o->rate), longest = 0;
    size_t n = (size_t)leads * (size_t)samples;
    enum pk_status s = PK_OK;
    int16_t *signal = NULL;
    double *work;
    for (int32_t c = 0; c < r->channels; c++) longest = PK_MAX(longest, lane[c].count);
    if (longest >= samples) counts->windows = (longest - samples) / step + 1;
    PK_TRY(pk_alloc(&work, (size_t)samples, sizeof *work, "window", err));
    s = pk_alloc(&signal, n, sizeof *signal, "window", err);
    for (int64_t k = 0; k < counts->windows && s == PK_OK; k++) {
        struct pk_ppg_window w = {.number = k};
        bool flat = false;
        for (int32_t l = 0; l < PK_LEADS_MAX; l++) w.scale[l] = 0.001f;
        for (size_t i = 0; i < n; i++) signal[i] = PK_INVALID;
        for (int32_t c = 0; c < r->channels && s == PK_OK; c++) {
            enum state state;
            s = cut_lead(&lane[c], o, k * step, samples, work, &w,
                         signal + (size_t)lane[c].c->lead * (size_t)samples, &state, err);
            flat = flat || state == FLAT;
        }
        if (s != PK_OK) break;
        if (!w.lead_mask) {
            *(flat ? &counts->flat : &counts->gap) += 1;
            continue;
        }
        mean_series(r, (double)k * o->stride, (double)k * o->stride + o->window, w.target);
        s = take(self, &w, signal, err);
        counts->kept++;
        counts->incomplete += w.lead_mask != (1u << leads) - 1;
    }
    free(work);
    free(signal);
    return s;
}

enum pk_status pk_ppg_windows(struct pk_recording *r, const struct pk_ppg_options *o, int32_t leads,
                              enum pk_status (*take)(void *self, const struct pk_ppg_window *w,
                                                     const int16_t *signal, struct pk_err *err),
                              void *self, struct pk_ppg_counts *counts, struct pk_err *err)
{
    struct lane lane[PK_LEADS_MAX] = {{0}};
    int32_t samples;
    *counts = (struct pk_ppg_counts){0};
    enum pk_status s = pk_ppg_check(o, &samples, err);
    for (int32_t c = 0; c < r->channels && s == PK_OK; c++) {
        lane[c].c = &r->channel[c];
        s = convert_channel(&lane[c], o, err);
        if (s == PK_OK) s = set_polarity(&lane[c], o, &counts->flipped, err);
    }
    if (s == PK_OK) s = cut_windows(r, lane, o, leads, samples, take, self, counts, err);
    for (int32_t c = 0; c < r->channels; c++) {
        free(lane[c].y);
        free(lane[c].flat);
        free(lane[c].filled);
    }
    return s;
}

enum pk_status pk_ppg_grid(const double *t, const double *x, int64_t n, double rate, double gap,
                           double **y, int64_t *count, struct pk_err *err)
{
    double points = floor((t[n - 1] - t[0]) * rate + 1e-9) + 1;
    *y = NULL;
    if (!(points <= POINTS_MAX))
        return pk_fail(err, PK_EDATA, "times span %g s, which at %g Hz is more than %d samples",
                       t[n - 1] - t[0], rate, POINTS_MAX);
    *count = (int64_t)points;
    PK_TRY(pk_alloc(y, (size_t)*count, sizeof **y, "samples", err));
    for (int64_t k = 0, i = 0; k < *count; k++) {
        double at = t[0] + (double)k / rate;
        while (i + 2 < n && t[i + 1] <= at) i++;
        if (n == 1) {
            (*y)[k] = x[0];
            continue;
        }
        double width = t[i + 1] - t[i], part = fmin((at - t[i]) / width, 1);
        bool on = part == 0 || part == 1; // on a sample: its neighbour may be far or missing
        if (on)
            (*y)[k] = x[part == 0 ? i : i + 1];
        else
            (*y)[k] = width > gap ? NAN : x[i] + (x[i + 1] - x[i]) * part;
    }
    return PK_OK;
}
