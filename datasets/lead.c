/* lead.c -- lead order by name and quantisation to int16 (see lead.h). */
#include "datasets/lead.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char pk_lead_ecg[PK_LEADS_ECG][8] = {"I",  "II", "III", "aVR", "aVL", "aVF",
                                           "V1", "V2", "V3",  "V4",  "V5",  "V6"};

int32_t pk_lead_index(const char *name)
{
    name += strspn(name, " \t");
    size_t n = strcspn(name, " \t");
    if (name[n + strspn(name + n, " \t")]) return -1; // two words
    for (int32_t i = 0; i < PK_LEADS_ECG; i++)
        if (strlen(pk_lead_ecg[i]) == n && !strncasecmp(pk_lead_ecg[i], name, n)) return i;
    return -1;
}

double pk_lead_millivolts(const char *units)
{
    static const struct {
        const char *name;
        double factor;
    } known[] = {{"mV", 1},       {"uV", 1e-3},        {"\xc2\xb5V", 1e-3}, // micro sign, UTF-8
                 {"V", 1e3},      {"\xce\xbcV", 1e-3},                      // Greek mu
                 {"\xb5V", 1e-3},                                           // micro sign, Latin-1
                 {"nV", 1e-6}};
    for (size_t i = 0; i < PK_COUNT(known); i++)
        if (!strcasecmp(units, known[i].name)) return known[i].factor;
    return 0;
}

/* Straight lines over the gaps; returns the number of samples filled, n when there is no value. */
static int64_t fill_gaps(double *x, int64_t n)
{
    int64_t filled = 0, last = -1;
    for (int64_t i = 0; i <= n; i++) {
        if (i < n && isnan(x[i])) continue;
        int64_t gap = i - last - 1;
        if (gap > 0 && last < 0 && i == n) return n;
        for (int64_t k = last + 1; k < i; k++) {
            if (last < 0)
                x[k] = x[i];
            else if (i == n)
                x[k] = x[last];
            else
                x[k] = x[last] + (x[i] - x[last]) * (double)(k - last) / (double)(i - last);
        }
        filled += gap;
        last = i;
    }
    return filled;
}

enum pk_status pk_lead_quantise(double *mv, int64_t n, int16_t *dst, int64_t samples, float *scale,
                                uint32_t *quality, bool *present, struct pk_err *err)
{
    double peak = 0, low = INFINITY, high = -INFINITY, lsb = 0.001;
    int64_t filled = fill_gaps(mv, n);
    *scale = (float)lsb;
    *present = filled < n;
    if (filled) *quality |= PK_QUALITY_INVALID;
    for (int64_t i = *present ? n : 0; i < samples; i++) dst[i] = PK_INVALID;
    if (!*present) return PK_OK;
    for (int64_t i = 0; i < n; i++) {
        low = fmin(low, mv[i]);
        high = fmax(high, mv[i]);
    }
    peak = fmax(fabs(low), fabs(high));
    if (!(peak < 1e30)) return pk_fail(err, PK_EDATA, "values as large as %g mV", peak);
    if (low == high) *quality |= PK_QUALITY_FLAT;
    if (!(rint(peak * 1000) <= 32767)) {
        *scale = nextafterf((float)(peak / 32767), INFINITY); // the stored number is the divisor
        lsb = (double)*scale;
    }
    for (int64_t i = 0; i < n; i++)
        dst[i] = (int16_t)rint(lsb == 0.001 ? mv[i] * 1000 : mv[i] / lsb);
    return PK_OK;
}

static bool resamples(const struct pk_lead_preparation *how)
{
    return how->up != how->down;
}

static bool constant(const double *x, int64_t n)
{
    for (int64_t i = 1; i < n; i++)
        if (x[i] != x[0]) return false;
    return n > 0;
}

/* *x [*n] without NaN, allocated; may be replaced. *flat: it is constant, and cannot be
 * standardised.
 */
static enum pk_status prepare(double **x, int64_t *n, const struct pk_lead_preparation *how,
                              bool *flat, struct pk_err *err)
{
    double mean = 0, square = 0, low = INFINITY, high = -INFINITY;
    *flat = false;
    if (resamples(how)) {
        const int64_t count = pk_resample_count(*n, how->up, how->down);
        double *y;
        PK_TRY(pk_alloc(&y, (size_t)count, sizeof *y, "lead", err));
        const enum pk_status s = pk_resample(*x, *n, how->up, how->down, y, err);
        free(*x);
        *x = y;
        *n = count;
        PK_TRY(s);
    }
    for (int64_t i = 0; i < *n; i++) {
        low = fmin(low, (*x)[i]);
        high = fmax(high, (*x)[i]);
    }
    *flat = how->standardised && !(high > low);
    if (*flat) return PK_OK;
    if (how->filtered) PK_TRY(pk_filter_both_ways(&how->filter, *x, *n, err));
    if (!how->standardised) return PK_OK;
    for (int64_t i = 0; i < *n; i++) mean += (*x)[i] / (double)*n;
    for (int64_t i = 0; i < *n; i++) square += ((*x)[i] - mean) * ((*x)[i] - mean) / (double)*n;
    *flat = !(square > 1e-12); // (1 nV)^2: rounding is all that the filter left
    for (int64_t i = 0; i < *n; i++) (*x)[i] = *flat ? 0 : ((*x)[i] - mean) / sqrt(square);
    return PK_OK;
}

static enum pk_status convert_lead(struct pk_lead_rows *rows, const struct pk_wfdb_record *record,
                                   int32_t channel, int32_t lead, int32_t samples,
                                   const struct pk_lead_preparation *how, struct pk_err *err)
{
    const struct pk_wfdb_channel *c = &record->channel[channel];
    double factor = pk_lead_millivolts(c->units), *mv;
    bool present = true, flat = false;
    int64_t n = c->count;
    if (factor == 0)
        return pk_fail(err, PK_EDATA, "%s: lead %s is in '%.40s', which is not a voltage",
                       record->header.path, pk_lead_ecg[lead], c->units);
    PK_TRY(pk_alloc(&mv, (size_t)c->count, sizeof *mv, "lead", err));
    pk_wfdb_physical(c, mv);
    for (int64_t i = 0; factor != 1 && i < c->count; i++) mv[i] *= factor;
    enum pk_status s = PK_OK;
    if (resamples(how) || how->filtered || how->standardised) {
        const int64_t filled = fill_gaps(mv, n);
        if (filled) rows->quality |= PK_QUALITY_INVALID;
        if (constant(mv, n)) rows->quality |= PK_QUALITY_FLAT; // resampling adds rounding
        if (filled < n) s = prepare(&mv, &n, how, &flat, err);
        if (flat) rows->quality |= PK_QUALITY_FLAT;
        for (int64_t i = 0; flat && i < n; i++) mv[i] = NAN; // as if the lead had not been there
    }
    const uint32_t quality = rows->quality;
    if (s == PK_OK)
        s = pk_lead_quantise(mv, n, rows->signal + (int64_t)lead * samples, samples,
                             &rows->scale[lead], &rows->quality, &present, err);
    if (flat) rows->quality = quality;
    if (s != PK_OK)
        pk_err_context(err, "%s: lead %s", record->header.path, pk_lead_ecg[lead]);
    else if (present)
        rows->lead_mask |= (uint16_t)(1u << lead);
    free(mv);
    return s;
}

enum pk_status pk_lead_from_wfdb(struct pk_lead_rows *rows, const struct pk_wfdb_record *record,
                                 double rate, int32_t samples,
                                 const struct pk_lead_preparation *how, struct pk_err *err)
{
    int32_t found[PK_LEADS_ECG], count = 0;
    const char *path = record->header.path;
    memset(found, -1, sizeof found);
    rows->lead_mask = 0;
    rows->quality = 0;
    rows->length = 0;
    for (int32_t i = 0; i < record->channels; i++) {
        const struct pk_wfdb_channel *c = &record->channel[i];
        int32_t lead = pk_lead_index(c->description);
        if (lead < 0) continue;
        if (found[lead] >= 0)
            return pk_fail(err, PK_EDATA, "%s: signals %d and %d are both lead %s", path,
                           found[lead], i, pk_lead_ecg[lead]);
        if (!(fabs(record->header.rate * c->samples_per_frame - rate) <= 1e-6 * rate))
            return pk_fail(err, PK_EDATA, "%s: lead %s has %g samples per second, %g were expected",
                           path, pk_lead_ecg[lead], record->header.rate * c->samples_per_frame,
                           rate);
        const int64_t stored =
            resamples(how) ? pk_resample_count(c->count, how->up, how->down) : c->count;
        if (c->count < 1 || stored > samples)
            return pk_fail(err, PK_EDATA, "%s: lead %s has %lld samples, 1 to %d were expected",
                           path, pk_lead_ecg[lead], (long long)stored, samples);
        found[lead] = i;
        rows->length = (int32_t)stored;
        count++;
    }
    if (!count)
        return pk_fail(err, PK_EDATA, "%s: none of its %d signals has the name of a standard lead",
                       path, record->channels);
    for (int32_t lead = 0; lead < PK_LEADS_ECG; lead++) {
        int16_t *row = rows->signal + (int64_t)lead * samples;
        rows->scale[lead] = 0.001f;
        if (found[lead] >= 0)
            PK_TRY(convert_lead(rows, record, found[lead], lead, samples, how, err));
        else
            for (int32_t i = 0; i < samples; i++) row[i] = PK_INVALID;
    }
    if (!rows->lead_mask) return pk_fail(err, PK_EDATA, "%s: no lead has a valid sample", path);
    return PK_OK;
}
