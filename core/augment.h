/* augment.h -- random changes of a signal that leave its meaning alone, for views of contrastive
 * objectives and for supervised training.
 *
 * What happens to a record is a pure function of (seed, sample, view): kind k draws from the Philox
 * stream pk_rng_make(seed, PK_RNG_AUGMENT, sample, view * 256 + k), in this order:
 *     u < probability   whether it happens
 *     level             low + (high - low) u
 *     then its own draws, below; u is a fresh uniform number each time
 * so that kinds do not disturb each other. x [leads, samples] is normalised, S samples at `rate`
 * Hz. All that happen are applied in one pass, in this order (s a sample, l a lead):
 *
 *   where from    t = s, lead m = l
 *     TIME_WARP    t = (S-1) (r + level / 2pi (a sin 2pi r + b / 2 sin 4pi r)),  r = t / (S-1)
 *                  a = 2u - 1, b = (1 - |a|) (2u - 1): speed within 1 +- level, ends stay; level <
 * 1 CROP_RESIZE  t = u (1 - level) (S-1) + level t: a share `level` of the record, stretched
 *     PERMUTE      m: a random order of the leads (Fisher-Yates from the last lead down)
 *     v = x[m] at t, linear between samples
 *   amplitude
 *     NEGATE       v = -v
 *     MAGNITUDE    v *= 1 + level c, c a curve through KNOTS equidistant numbers sqrt(3) (2u - 1),
 *                  of unit variance, joined by half cosines
 *   added
 *     WANDER       level (.7 sin 2pi(f1 s/rate + p1 + g l) + .3 sin 2pi(f2 s/rate + p2 + g l)):
 *                  f1 = .05 + .2 u, p1 = u, f2 = .25 + .25 u, p2 = u, g = .381966 the golden angle
 *     POWERLINE    level sin 2pi(f s/rate + p): f = 50 if u < .5 else 60, p = u; in all leads alike
 *     NOISE        level n, n standard normal, independent for all samples
 *   erased, to 0, which is the mean
 *     LEAD_MASK    round(level leads) leads, at most all but one (the first of a random order)
 *     CUT_OUT      samples [from, from + n): n = round(level S), from = below(S - n + 1)
 *
 * Normal numbers: word w of the Philox block i / 4 of the stream of kind 255, i = l S + s:
 * element pairs (0, 1) and (2, 3) are r cos, r sin of Box-Muller with
 * r = sqrt(-2 ln((w_even + 1) / 2^32)), angle = 2pi w_odd / 2^32. */
#ifndef PK_AUGMENT_H
#define PK_AUGMENT_H

#include <stdbool.h>
#include <stdint.h>

/* X(KIND, key in recipes, highest level, what it does); a highest level of 0: it has none. The
 * numbers of the kinds key random streams. */
#define PK_AUGMENTS(X)                                                                             \
    X(TIME_WARP, time_warp, 0.99, "speed varies by this share")                                    \
    X(CROP_RESIZE, crop_resize, 1, "this share of the crop, stretched to all of it")               \
    X(PERMUTE, permute, 0, "leads in random order; [probability]")                                 \
    X(NEGATE, negate, 0, "the sign changes; [probability]")                                        \
    X(MAGNITUDE, magnitude, 100, "amplitude times a smooth curve that deviates from 1 by this")    \
    X(WANDER, wander, 100, "baseline wander of this amplitude, in standard deviations")            \
    X(POWERLINE, powerline, 100, "50 or 60 Hz of this amplitude, in standard deviations")          \
    X(NOISE, noise, 100, "Gaussian noise of this standard deviation")                              \
    X(LEAD_MASK, lead_mask, 1, "this share of the leads becomes zeros")                            \
    X(CUT_OUT, cut_out, 1, "this share of the crop, in one piece, becomes zeros")

enum pk_augment_kind {
#define PK_X(KIND, key, high, doc) PK_AUGMENT_##KIND,
    PK_AUGMENTS(PK_X)
#undef PK_X
        PK_AUGMENT_KINDS,
    PK_AUGMENT_SAMPLES = 255
};

enum { PK_AUGMENT_LEADS = 16, PK_AUGMENT_KNOTS = 6 };

struct pk_augment_range { // of one kind; all floats, so that a table of them is [KINDS, 3]
    float probability, low, high;
};

/* What was drawn for one record. */
struct pk_augment_plan {
    double warp[2];               // level / 2pi times a and b / 2; 0 without
    double from, stretch;         // t = from + stretch t
    double wander_turn[4];        // f1, p1, f2, p2
    double powerline[2];          // f, p
    float knot[PK_AUGMENT_KNOTS]; // level c at the knots
    float wander, power, noise;   // levels; 0 without
    float sign;
    uint64_t lead;         // m of lead l in bits 4l
    uint32_t masked;       // bit l: lead l is erased
    int32_t cut_from, cut; // samples erased
};

#endif
