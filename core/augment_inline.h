/* augment_inline.h -- the draws and the arithmetic of core/augment.h, one text for the host and for
 * devices (see rng_inline.h). What happens, orders of leads and all uniform numbers are the same
 * bits everywhere; a level may differ in the last bit of its double, since compilers may contract a
 * product and a sum. Positions are in double, values in float. */
#ifndef PK_AUGMENT_INLINE_H
#define PK_AUGMENT_INLINE_H

#include "core/augment.h"
#include "core/rng_inline.h"

#include <math.h>

#define PK_TURN 6.283185307179586476925286766559

/* Starts kind k's stream; false when it does not happen. *level is low without a range. */
PK_INLINE bool pk_augment_happens(struct pk_rng *r, const struct pk_augment_range *range, int32_t k,
                                  uint64_t seed, uint64_t sample, uint32_t view, double *level)
{
    *r = pk_rng_make_inline(seed, PK_RNG_AUGMENT, sample, view * 256 + (uint32_t)k);
    const bool happens = pk_rng_uniform_inline(r) < (double)range[k].probability;
    const double low = (double)range[k].low, high = (double)range[k].high;
    *level = low + (high - low) * pk_rng_uniform_inline(r);
    return happens;
}

/* A random order of the leads: nibble l is the l-th. */
PK_INLINE uint64_t pk_augment_order(struct pk_rng *r, int32_t leads)
{
    uint64_t order = 0xfedcba9876543210u;
    for (int32_t i = leads - 1; i > 0; i--) {
        const int32_t j = (int32_t)pk_rng_below_inline(r, (uint64_t)i + 1);
        const uint64_t swap = (order >> 4 * i ^ order >> 4 * j) & 15;
        order ^= swap << 4 * i;
        if (i != j) order ^= swap << 4 * j;
    }
    return order;
}

PK_INLINE void pk_augment_draw_shape(struct pk_augment_plan *p,
                                     const struct pk_augment_range *range, uint64_t seed,
                                     uint64_t sample, uint32_t view, int32_t leads, int64_t samples)
{
    struct pk_rng r;
    double level;
    p->warp[0] = p->warp[1] = p->from = 0;
    p->stretch = 1;
    if (pk_augment_happens(&r, range, PK_AUGMENT_TIME_WARP, seed, sample, view, &level)) {
        const double a = 2 * pk_rng_uniform_inline(&r) - 1;
        const double b = (1 - fabs(a)) * (2 * pk_rng_uniform_inline(&r) - 1);
        p->warp[0] = level / PK_TURN * a;
        p->warp[1] = level / PK_TURN * b / 2;
    }
    if (pk_augment_happens(&r, range, PK_AUGMENT_CROP_RESIZE, seed, sample, view, &level)) {
        p->from = pk_rng_uniform_inline(&r) * (1 - level) * (double)(samples - 1);
        p->stretch = level;
    }
    p->lead = 0xfedcba9876543210u;
    if (pk_augment_happens(&r, range, PK_AUGMENT_PERMUTE, seed, sample, view, &level))
        p->lead = pk_augment_order(&r, leads);
    p->masked = 0;
    if (pk_augment_happens(&r, range, PK_AUGMENT_LEAD_MASK, seed, sample, view, &level)) {
        const uint64_t order = pk_augment_order(&r, leads);
        int32_t n = (int32_t)(level * leads + 0.5);
        n = n < leads - 1 ? n : leads - 1;
        for (int32_t i = 0; i < n; i++) p->masked |= 1u << (order >> 4 * i & 15);
    }
    p->cut_from = p->cut = 0;
    if (pk_augment_happens(&r, range, PK_AUGMENT_CUT_OUT, seed, sample, view, &level)) {
        const int64_t n = (int64_t)(level * (double)samples + 0.5);
        p->cut = (int32_t)(n < samples ? n : samples);
        p->cut_from = (int32_t)pk_rng_below_inline(&r, (uint64_t)(samples - p->cut) + 1);
    }
}

PK_INLINE void pk_augment_draw_values(struct pk_augment_plan *p,
                                      const struct pk_augment_range *range, uint64_t seed,
                                      uint64_t sample, uint32_t view)
{
    struct pk_rng r;
    double level;
    p->sign = pk_augment_happens(&r, range, PK_AUGMENT_NEGATE, seed, sample, view, &level) ? -1 : 1;
    bool on = pk_augment_happens(&r, range, PK_AUGMENT_MAGNITUDE, seed, sample, view, &level);
    for (int i = 0; i < PK_AUGMENT_KNOTS; i++)
        p->knot[i] =
            on ? (float)(level * 1.7320508075688772 * (2 * pk_rng_uniform_inline(&r) - 1)) : 0.0f;
    on = pk_augment_happens(&r, range, PK_AUGMENT_WANDER, seed, sample, view, &level);
    p->wander = on ? (float)level : 0.0f;
    p->wander_turn[0] = 0.05 + 0.2 * pk_rng_uniform_inline(&r);
    p->wander_turn[1] = pk_rng_uniform_inline(&r);
    p->wander_turn[2] = 0.25 + 0.25 * pk_rng_uniform_inline(&r);
    p->wander_turn[3] = pk_rng_uniform_inline(&r);
    on = pk_augment_happens(&r, range, PK_AUGMENT_POWERLINE, seed, sample, view, &level);
    p->power = on ? (float)level : 0.0f;
    p->powerline[0] = pk_rng_uniform_inline(&r) < 0.5 ? 50 : 60;
    p->powerline[1] = pk_rng_uniform_inline(&r);
    on = pk_augment_happens(&r, range, PK_AUGMENT_NOISE, seed, sample, view, &level);
    p->noise = on ? (float)level : 0.0f;
}

/* Everything that is drawn for one record. */
PK_INLINE void pk_augment_draw(struct pk_augment_plan *p, const struct pk_augment_range *range,
                               uint64_t seed, uint64_t sample, uint32_t view, int32_t leads,
                               int64_t samples)
{
    pk_augment_draw_shape(p, range, seed, sample, view, leads, samples);
    pk_augment_draw_values(p, range, seed, sample, view);
}

/* Where in the record sample s comes from, within [0, samples - 1]. */
PK_INLINE double pk_augment_time(const struct pk_augment_plan *p, int64_t s, int64_t samples)
{
    double t = (double)s;
    if ((p->warp[0] != 0 || p->warp[1] != 0) && samples > 1) {
        const double r = t / (double)(samples - 1);
        t = (double)(samples - 1) *
            (r + p->warp[0] * sin(PK_TURN * r) + p->warp[1] * sin(2 * PK_TURN * r));
    }
    t = p->from + p->stretch * t;
    const double last = (double)(samples - 1);
    return t < 0 ? 0 : t > last ? last : t;
}

/* sin of 2pi times a number of turns, which loses no digits however many there are. */
PK_INLINE float pk_augment_wave(double turns)
{
    return sinf((float)PK_TURN * (float)(turns - floor(turns)));
}

/* 1 + level c of the magnitude curve at sample s. */
PK_INLINE float pk_augment_gain(const struct pk_augment_plan *p, int64_t s, int64_t samples)
{
    const double at = samples > 1 ? (double)s / (double)(samples - 1) * (PK_AUGMENT_KNOTS - 1) : 0;
    const int32_t k = at < PK_AUGMENT_KNOTS - 1 ? (int32_t)at : PK_AUGMENT_KNOTS - 2;
    const float part = 0.5f - 0.5f * cosf((float)(PK_TURN / 2) * (float)(at - k));
    return 1 + (p->knot[k] + (p->knot[k + 1] - p->knot[k]) * part);
}

/* The standard normal number of element i of a record; `key` is its stream of kind 255. */
PK_INLINE float pk_augment_normal(const struct pk_rng *stream, int64_t i)
{
    uint32_t word[4], counter[4];
    for (int k = 0; k < 4; k++) counter[k] = stream->counter[k];
    counter[0] = (uint32_t)(i / 4);
    pk_philox_inline(word, counter, stream->key);
    const uint32_t even = i % 4 < 2 ? word[0] : word[2], odd = i % 4 < 2 ? word[1] : word[3];
    const float u = (float)(((double)even + 1) * 0x1p-32), turn = (float)((double)odd * 0x1p-32);
    const float length = sqrtf(-2 * logf(u)), angle = (float)PK_TURN * turn;
    return length * (i % 2 ? sinf(angle) : cosf(angle));
}

/* What is added to lead l at sample s, and the factor before: everything behind the interpolation.
 */
PK_INLINE float pk_augment_value(const struct pk_augment_plan *p, const struct pk_rng *stream,
                                 float v, int32_t l, int64_t s, int64_t samples, double rate)
{
    if ((p->masked >> l & 1) || (s >= p->cut_from && s < p->cut_from + p->cut)) return 0;
    v = p->sign * v;
    v *= pk_augment_gain(p, s, samples);
    if (p->wander != 0) {
        const double time = (double)s / rate, shift = 0.381966 * l;
        v += p->wander *
             (0.7f * pk_augment_wave(p->wander_turn[0] * time + p->wander_turn[1] + shift) +
              0.3f * pk_augment_wave(p->wander_turn[2] * time + p->wander_turn[3] + shift));
    }
    if (p->power != 0)
        v += p->power * pk_augment_wave(p->powerline[0] * (double)s / rate + p->powerline[1]);
    if (p->noise != 0) v += p->noise * pk_augment_normal(stream, l * samples + s);
    return v;
}

#endif
