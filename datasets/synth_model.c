/* synth_model.c -- beats and waves of synthetic ECG and PPG (see synth_model.h).
 *
 * After McSharry, Clifford, Tarassenko & Smith (IEEE TBME 50, 2003): each beat is a train of
 * Gaussian events P Q R S T at fixed phases of the RR interval, and RR itself oscillates with
 * respiration and at 0.1 Hz. As in Sameni et al. (2007) the events are those of a heart vector in
 * three dimensions; twelve leads follow from it by the matrix of Dower, Machado & Osborne (1980).
 * Good for teaching and testing a pipeline, not a substitute for patients. */
#include "datasets/synth_model.h"

#include "core/base.h"

#include <math.h>
#include <string.h>

#define TAU 6.283185307179586476925

enum { STREAM_RECORD, STREAM_PERSON, STREAM_NOISE, FREE_LEADS = 8 };

/* --- people and beats ---------------------------------------------------------------------- */

static double between(struct pk_rng *r, double low, double high)
{
    return low + (high - low) * pk_rng_uniform(r);
}

struct pk_synth_person pk_synth_person(uint64_t seed, int64_t patient)
{
    struct pk_rng r = pk_rng_make(seed, PK_RNG_SYNTH, (uint64_t)patient, STREAM_PERSON);
    struct pk_synth_person p;
    p.age = floor(between(&r, 20, 90));
    p.heart_rate = between(&r, 64, 90);
    p.variability = (0.075 - 0.0006 * p.age) * between(&r, 0.6, 1.4);
    p.amplitude = exp(0.15 * pk_rng_trunc_normal(&r, 1, 2.5));
    p.axis = 0.25 * pk_rng_trunc_normal(&r, 1, 2.5);
    p.delay = between(&r, 0.20, 0.30) - 0.0008 * (p.age - 50);
    return p;
}

/* Labels with fixed frequencies: sinus .50, bradycardia .16, tachycardia .16, AF .18, PVCs in .15
 * of each; normal .40, LBBB .10, RBBB .12, LVH .13, ST depression .10, ST elevation .08, T
 * inversion .07; and .40 of those with LVH have ST depression too (strain), half of these T
 * inversion. */
static void draw_labels(struct pk_synth_plan *p, struct pk_rng *r)
{
    static const struct {
        double until;
        unsigned bit;
    } rhythm[] = {{0.50, PK_SYNTH_SINUS},
                  {0.66, PK_SYNTH_BRADYCARDIA},
                  {0.82, PK_SYNTH_TACHYCARDIA},
                  {2, PK_SYNTH_AF}};
    static const struct {
        double until;
        unsigned bit;
    } morphology[] = {{0.40, PK_SYNTH_NORMAL},        {0.50, PK_SYNTH_LBBB},
                      {0.62, PK_SYNTH_RBBB},          {0.75, PK_SYNTH_LVH},
                      {0.85, PK_SYNTH_ST_DEPRESSION}, {0.93, PK_SYNTH_ST_ELEVATION},
                      {2, PK_SYNTH_T_INVERSION}};
    double u = pk_rng_uniform(r), v = pk_rng_uniform(r);
    int i = 0, k = 0;
    while (u >= rhythm[i].until) i++;
    while (v >= morphology[k].until) k++;
    p->rhythm = rhythm[i].bit | (pk_rng_uniform(r) < 0.15 ? PK_SYNTH_PVC : 0);
    p->morphology = morphology[k].bit;
    double strain = pk_rng_uniform(r);
    if (p->morphology == PK_SYNTH_LVH && strain < 0.4)
        p->morphology |= PK_SYNTH_ST_DEPRESSION | (strain < 0.2 ? PK_SYNTH_T_INVERSION : 0);
}

static double next_rr(const struct pk_synth_plan *p, const struct pk_synth_person *person,
                      struct pk_rng *r, double t, double slow_phase)
{
    double rr, noise = pk_rng_trunc_normal(r, 1, 3);
    if (p->rhythm & PK_SYNTH_AF) // the node conducts at random: no memory from beat to beat
        rr = p->mean_rr * exp(0.24 * noise);
    else
        rr = p->mean_rr *
             (1 + person->variability * sin(TAU * p->breath * t + p->breath_phase) +
              0.7 * person->variability * sin(TAU * 0.1 * t + slow_phase) + 0.008 * noise);
    return PK_MAX(rr, 0.3);
}

/* A premature beat comes early and the next one waits until two intervals are full, so that the
 * sinus node keeps its beat. The first one is forced into the record. */
static void draw_beats(struct pk_synth_plan *p, const struct pk_synth_person *person,
                       struct pk_rng *r, double seconds)
{
    double t = -2 + between(r, 0, p->mean_rr), slow_phase = between(r, 0, TAU);
    double forced = between(r, 0.15, 0.6) * seconds;
    bool any = false, after = false;
    int capacity = PK_SYNTH_BEATS(seconds);
    p->beats = 0;
    while (t < seconds + 1 && p->beats + 2 < capacity) {
        double rr = next_rr(p, person, r, t, slow_phase), u = pk_rng_uniform(r);
        bool early = p->rhythm & PK_SYNTH_PVC && !after && ((t > forced && !any) || u < 0.1);
        if (early) {
            double coupling = PK_MAX(0.62 * rr, 0.3);
            any = any || t > forced;
            p->beat[p->beats++] = (struct pk_synth_beat){t + coupling, coupling, true};
            p->beat[p->beats++] =
                (struct pk_synth_beat){t + 2 * rr, PK_MAX(2 * rr - coupling, 0.3), false};
            t += 2 * rr;
        } else {
            p->beat[p->beats++] = (struct pk_synth_beat){t + rr, rr, false};
            t += rr;
        }
        after = early;
    }
    int n = 0;
    double first = 0, last = 0;
    for (int i = 0; i < p->beats; i++) {
        if (p->beat[i].at < 0 || p->beat[i].at >= seconds) continue;
        if (n++ == 0) first = p->beat[i].at;
        last = p->beat[i].at;
    }
    p->heart_rate = n > 1 ? 60 * (n - 1) / (last - first) : 60 / p->mean_rr;
}

void pk_synth_plan(struct pk_synth_plan *p, const struct pk_synth_person *person, uint64_t seed,
                   int64_t record, double seconds)
{
    struct pk_rng r = pk_rng_make(seed, PK_RNG_SYNTH, (uint64_t)record, STREAM_RECORD);
    double rate = person->heart_rate + between(&r, -4, 8);
    double slow = between(&r, 42, 57), fast = between(&r, 104, 145), af = between(&r, 75, 130);
    draw_labels(p, &r);
    if (p->rhythm & PK_SYNTH_BRADYCARDIA) rate = slow;
    if (p->rhythm & PK_SYNTH_TACHYCARDIA) rate = fast;
    if (p->rhythm & PK_SYNTH_AF) rate = af;
    p->mean_rr = 60 / rate;
    p->breath = between(&r, 0.18, 0.32);
    p->breath_phase = between(&r, 0, TAU);
    p->st = between(&r, 0.8, 1.7);
    p->t = between(&r, 0.7, 1.1);
    p->hypertrophy = between(&r, 1.8, 2.4);
    draw_beats(p, person, &r, seconds);
}

/* --- waves --------------------------------------------------------------------------------- */

struct wave {
    double at, width; // s after R, s (standard deviation)
    double v[3];      // mV: left, down, back
};

/* Adds a Gaussian over +-4.5 standard deviations; it falls off by recurrence, so there are three
 * exp() for a wave and not one for a sample. */
static void add_wave(float *axis[3], int axes, const struct wave *w, double at, double rate,
                     int32_t samples)
{
    double center = (at + w->at) * rate, sd = w->width * rate;
    int32_t from = (int32_t)PK_MAX(0.0, ceil(center - 4.5 * sd));
    double until = PK_MIN((double)samples - 1, floor(center + 4.5 * sd));
    double x = ((double)from - center) / sd, step = 1 / sd;
    double g = exp(-0.5 * x * x), ratio = exp(-step * (x + 0.5 * step)), bend = exp(-step * step);
    for (int32_t t = from; t <= until; t++) {
        for (int k = 0; k < axes; k++) axis[k][t] += (float)(w->v[k] * g);
        g *= ratio;
        ratio *= bend;
    }
}

static int scaled(struct wave *w, int n, double at, double width, double x, double y, double z,
                  double by)
{
    w[n] = (struct wave){at, width, {x * by, y * by, z * by}};
    return n + 1;
}

static int qrs_waves(struct wave *w, int n, const struct pk_synth_plan *p)
{
    double big = p->morphology & PK_SYNTH_LVH ? p->hypertrophy : 1;
    if (p->morphology & PK_SYNTH_LBBB) { // no septal q, late left ventricle: broad and notched
        n = scaled(w, n, 0.000, 0.020, 0.75, 0.35, 0.55, 1);
        return scaled(w, n, 0.045, 0.022, 0.80, 0.20, 0.50, 1);
    }
    n = scaled(w, n, -0.022, 0.008, -0.12, 0.05, -0.25, 1);
    n = scaled(w, n, 0.000, 0.011, 1.00, 0.70, 0.35, big);
    if (p->morphology & PK_SYNTH_RBBB) // late right ventricle: r' in V1, broad s in I and V6
        return scaled(w, n, 0.060, 0.020, -0.55, -0.10, -0.55, 1);
    return scaled(w, n, 0.026, 0.012, -0.15, -0.12, 0.30, big);
}

static int repolarisation_waves(struct wave *w, int n, const struct pk_synth_plan *p, double sq)
{
    double x = 0.28, y = 0.16, z = -0.13, by = 1;
    if (p->morphology & PK_SYNTH_LBBB) x = -0.25, y = -0.05, z = -0.20; // against the QRS
    if (p->morphology & PK_SYNTH_RBBB) x = 0.30, y = 0.16, z = 0.05;
    if (p->morphology & PK_SYNTH_T_INVERSION) by = -p->t;
    n = scaled(w, n, 0.24 * sq, 0.055 * sq, x, y, z, 0.45 * by);
    n = scaled(w, n, 0.30 * sq, 0.040 * sq, x, y, z, 0.85 * by);
    for (int k = 0; k < 2; k++) { // two bumps make the plateau of the ST segment
        double at = 0.09 + 0.07 * k * sq;
        if (p->morphology & PK_SYNTH_ST_ELEVATION)
            n = scaled(w, n, at, 0.032, 0.10, 0.04, -0.22, p->st);
        if (p->morphology & PK_SYNTH_ST_DEPRESSION)
            n = scaled(w, n, at, 0.032, -0.14, -0.06, 0.10, p->st);
    }
    return n;
}

static int beat_waves(struct wave *w, const struct pk_synth_plan *p, const struct pk_synth_beat *b)
{
    double sq = sqrt(PK_MIN(b->rr, 1.4)); // QT and PR follow the root of RR, as Bazett has it
    int n = 0;
    if (b->ventricular) {
        n = scaled(w, n, 0.00, 0.030, -0.95, 0.50, -0.95, 1);
        return scaled(w, n, 0.32 * sq, 0.065 * sq, 0.45, -0.20, 0.40, 1);
    }
    if (!(p->rhythm & PK_SYNTH_AF)) n = scaled(w, n, -0.17 * sq, 0.021, 0.06, 0.09, -0.02, 1);
    n = qrs_waves(w, n, p);
    return repolarisation_waves(w, n, p, sq);
}

/* --- noise --------------------------------------------------------------------------------- */

struct oscillator {
    double s, c, ds, dc; // state and one step of rotation
};

static struct oscillator oscillator(double hz, double phase, double rate)
{
    return (struct oscillator){sin(phase), cos(phase), sin(TAU * hz / rate), cos(TAU * hz / rate)};
}

static void add_sine(float *out, int32_t samples, double amplitude, struct oscillator o)
{
    for (int32_t t = 0; t < samples; t++) {
        double s = o.s * o.dc + o.c * o.ds;
        out[t] += (float)(amplitude * o.s);
        o.c = o.c * o.dc - o.s * o.ds;
        o.s = s;
    }
}

/* White noise of this standard deviation. The sum of four random bytes is close enough to a normal
 * variate for muscle noise, and four of them come from one Philox block. */
static void add_noise(float *out, int32_t samples, double sd, uint64_t seed, int64_t record,
                      int lead)
{
    const float scale = (float)(sd / 147.80167); // sqrt(4 * (256^2 - 1) / 12)
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, word[4];
    struct pk_rng r =
        pk_rng_make(seed, PK_RNG_SYNTH, (uint64_t)record, STREAM_NOISE + 1 + (uint32_t)lead);
    for (int32_t t = 0; t < samples; t += 4) {
        int32_t n = PK_MIN(4, samples - t);
        pk_philox(word, r.counter, key);
        r.counter[0]++;
        for (int32_t k = 0; k < n; k++) {
            uint32_t w = word[k];
            int32_t sum = (int32_t)((w & 255) + (w >> 8 & 255) + (w >> 16 & 255) + (w >> 24));
            out[t + k] += scale * (float)(sum - 510);
        }
    }
}

static void quantise(int16_t *out, const float *x, int32_t samples, double lsb)
{
    const float per_lsb = (float)(1 / lsb), limit = 32767;
    for (int32_t t = 0; t < samples; t++) {
        float v = x[t] * per_lsb;
        v = v > limit ? limit : v < -limit ? -limit : v;
        out[t] = (int16_t)(v < 0 ? v - 0.5f : v + 0.5f);
    }
}

/* --- records ------------------------------------------------------------------------------- */

static void heart_vector(float *axis[3], const struct pk_synth_plan *p,
                         const struct pk_synth_person *person, double rate, int32_t samples)
{
    double c = person->amplitude * cos(person->axis), s = person->amplitude * sin(person->axis);
    for (int i = 0; i < p->beats; i++) {
        struct wave w[16];
        int n = beat_waves(w, p, &p->beat[i]);
        for (int k = 0; k < n; k++) {
            double x = w[k].v[0], y = w[k].v[1];
            w[k].v[0] = c * x - s * y;
            w[k].v[1] = s * x + c * y;
            w[k].v[2] *= person->amplitude;
            add_wave(axis, 3, &w[k], p->beat[i].at, rate, samples);
        }
    }
}

/* Limb leads from I and II by Einthoven's and Goldberger's equations, noise included. */
static void limb_leads(int16_t *out, const float *one, const float *two, float *scratch, int32_t n,
                       double lsb)
{
    static const float a[4][2] = {
        {-1, 1}, {-0.5f, -0.5f}, {1, -0.5f}, {-0.5f, 1}}; // III aVR aVL aVF
    for (int l = 0; l < 4; l++) {
        for (int32_t t = 0; t < n; t++) scratch[t] = a[l][0] * one[t] + a[l][1] * two[t];
        quantise(out + (size_t)(2 + l) * (size_t)n, scratch, n, lsb);
    }
}

void pk_synth_ecg(int16_t *out, float *frame, const struct pk_synth_plan *p,
                  const struct pk_synth_person *person, uint64_t seed, int64_t record, double rate,
                  int32_t samples, double lsb)
{
    static const double dower[FREE_LEADS][3] = {// I II V1-V6 from left, down, back
                                                {0.632, -0.235, 0.059},  {0.235, 1.066, -0.132},
                                                {-0.515, 0.157, -0.917}, {0.044, 0.164, -1.387},
                                                {0.882, 0.098, -1.277},  {1.213, 0.127, -0.601},
                                                {1.125, 0.127, -0.086},  {0.831, 0.076, 0.230}};
    size_t n = (size_t)samples;
    float *axis[3] = {frame, frame + n, frame + 2 * n},
          *x[3] = {frame + 3 * n, frame + 4 * n, frame + 5 * n};
    struct pk_rng r = pk_rng_make(seed, PK_RNG_SYNTH, (uint64_t)record, STREAM_NOISE);
    double muscle = 0.004 - 0.007 * log(1 - 0.98 * pk_rng_uniform(&r));
    double mains = pk_rng_uniform(&r) < 0.5 ? 50 : 60, hum = 0.008 * pow(pk_rng_uniform(&r), 3);
    double drift = between(&r, 0.02, 0.09), slow = between(&r, 0.04, 0.09);
    double hum_phase = between(&r, 0, TAU);

    memset(frame, 0, 3 * n * sizeof *frame);
    heart_vector(axis, p, person, rate, samples);
    if (p->rhythm & PK_SYNTH_AF) { // fibrillatory waves, largest in V1
        double hz = between(&r, 4.5, 8);
        add_sine(axis[2], samples, 0.045, oscillator(hz, between(&r, 0, TAU), rate));
        add_sine(axis[0], samples, -0.025, oscillator(0.83 * hz, between(&r, 0, TAU), rate));
    }
    for (int l = 0; l < FREE_LEADS; l++) {
        float *y = l < 2 ? x[l] : x[2];
        const float *m[3] = {axis[0], axis[1], axis[2]};
        const float d[3] = {(float)dower[l][0], (float)dower[l][1], (float)dower[l][2]};
        for (int32_t t = 0; t < samples; t++)
            y[t] = d[0] * m[0][t] + d[1] * m[1][t] + d[2] * m[2][t];
        // Draws are statements of their own: C leaves the order of arguments to the compiler.
        double of_breath = drift * between(&r, -1, 1), of_slow = drift * between(&r, -1, 1);
        double slow_phase = between(&r, 0, TAU), of_hum = hum * between(&r, -1, 1);
        add_sine(y, samples, of_breath, oscillator(p->breath, p->breath_phase, rate));
        add_sine(y, samples, of_slow, oscillator(slow, slow_phase, rate));
        add_sine(y, samples, of_hum, oscillator(mains, hum_phase, rate));
        add_noise(y, samples, muscle, seed, record, l);
        quantise(out + n * (size_t)(l < 2 ? l : l + 4), y, samples, lsb);
    }
    limb_leads(out, x[0], x[1], x[2], samples, lsb);
}

void pk_synth_ppg(int16_t *out, float *frame, const struct pk_synth_plan *p,
                  const struct pk_synth_person *person, uint64_t seed, int64_t record, double rate,
                  int32_t samples, double lsb)
{
    float *axis[3] = {frame, NULL, NULL};
    struct pk_rng r = pk_rng_make(seed, PK_RNG_SYNTH, (uint64_t)record, STREAM_NOISE);
    double drift = between(&r, 0.05, 0.2), noise = between(&r, 0.003, 0.02);
    double reflected = between(&r, 0.35, 0.5) + 0.003 * (person->age - 50); // stiffer arteries
    memset(frame, 0, (size_t)samples * sizeof *frame);
    for (int i = 0; i < p->beats; i++) {
        const struct pk_synth_beat *b = &p->beat[i];
        double sq = sqrt(PK_MIN(b->rr, 1.4));
        double filling = PK_MIN(pow(b->rr / p->mean_rr, 0.6), 1.4); // a late beat ejects more
        double a = person->amplitude * filling * (b->ventricular ? 0.45 : 1) *
                   (1 + 0.12 * sin(TAU * p->breath * b->at + p->breath_phase));
        struct wave systolic = {person->delay + 0.12, 0.055 * sq, {a, 0, 0}};
        struct wave dicrotic = {
            person->delay + 0.12 + 0.24 * sq, 0.075 * sq, {a * reflected, 0, 0}};
        add_wave(axis, 1, &systolic, b->at, rate, samples);
        add_wave(axis, 1, &dicrotic, b->at, rate, samples);
    }
    add_sine(frame, samples, drift, oscillator(p->breath, p->breath_phase, rate));
    add_sine(frame, samples, drift, oscillator(0.07, between(&r, 0, TAU), rate));
    add_noise(frame, samples, noise, seed, record, 0);
    quantise(out, frame, samples, lsb);
}
