/* mixup_inline.h -- which records are mixed and how much, one text for the host and for devices
 * (see rng_inline.h).
 *
 * Record 2 p and 2 p + 1 of a micro-batch are partners. Both take the share s of their own and
 * 1 - s of the other:
 *
 *     y[2 p] = s x[2 p] + (1 - s) x[2 p + 1],    y[2 p + 1] = s x[2 p + 1] + (1 - s) x[2 p]
 *
 * so that every record keeps its weight in the batch. The loader draws the records of a batch in
 * random order, hence neighbours are random partners; an even size of micro-batch gives the same
 * pairs whatever it is. The last record of an odd one stays as it is.
 *
 * s ~ Beta(alpha, alpha), a pure function of (seed, sample number of record 2 p): u in (0, 1] and v
 * in [0, 1) are the first two numbers of the Philox stream (seed, PK_RNG_MIXUP, sample, 0), and
 *
 *     s = 1/2 + sign(c) / 2 sqrt(t / (1 + t)),    c = cos 2 pi v,  t = (u^(-1 / alpha) - 1) c^2
 *
 * since T = sqrt(2 alpha t) is Student's t with 2 alpha degrees of freedom (Bailey 1994), and
 * 1/2 + T / (2 sqrt(2 alpha + T^2)) is then this Beta (Devroye 1996). No draw is ever rejected, so
 * backends differ by the rounding of cos, log and expm1 at most. */
#ifndef PK_MIXUP_INLINE_H
#define PK_MIXUP_INLINE_H

#include "core/rng_inline.h"

#include <math.h>

/* The share of its own that the pair's records keep; `sample` of its first. */
PK_INLINE double pk_mixup_share(uint64_t seed, uint64_t sample, float alpha)
{
    struct pk_rng r = pk_rng_make_inline(seed, PK_RNG_MIXUP, sample, 0);
    const double u = 1 - pk_rng_uniform_inline(&r), v = pk_rng_uniform_inline(&r);
    const double c = cos(6.283185307179586476925286766559 * v);
    const double t = expm1(-log(u) / (double)alpha) * c * c; // may be infinite
    const double half = t > 0 ? 0.5 / sqrt(1 + 1 / t) : 0;
    return c < 0 ? 0.5 - half : 0.5 + half;
}

/* The partner of record b of `batch`; itself when it has none. */
PK_INLINE int64_t pk_mixup_partner(int64_t b, int64_t batch)
{
    return (b ^ 1) < batch ? b ^ 1 : b;
}

#endif
