/* rng.c -- Philox4x32-10, shared with devices (rng_inline.h), and what only the host draws. */
#include "core/rng_inline.h"

#include <math.h>

void pk_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    pk_philox_inline(out, counter, key);
}

struct pk_rng pk_rng_make(uint64_t seed, enum pk_purpose purpose, uint64_t sample, uint32_t step)
{
    return pk_rng_make_inline(seed, purpose, sample, step);
}

uint32_t pk_rng_u32(struct pk_rng *r)
{
    return pk_rng_u32_inline(r);
}

uint64_t pk_rng_u64(struct pk_rng *r)
{
    return pk_rng_u64_inline(r);
}

double pk_rng_uniform(struct pk_rng *r)
{
    return pk_rng_uniform_inline(r);
}

uint64_t pk_rng_below(struct pk_rng *r, uint64_t n)
{
    return pk_rng_below_inline(r, n);
}

double pk_rng_normal(struct pk_rng *r)
{
    double u = 1.0 - pk_rng_uniform(r), v = pk_rng_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

double pk_rng_trunc_normal(struct pk_rng *r, double std, double cut)
{
    double x;
    do x = std * pk_rng_normal(r);
    while (!(fabs(x) <= cut));
    return x;
}

/* Four-round Feistel network over 2h bits, the smallest even width that holds n, walked until the
 * image is below n: at most four steps on average. Round function: Philox. */
uint64_t pk_bijection(uint64_t i, uint64_t n, uint64_t key)
{
    unsigned half = 1;
    while (half < 32 && (uint64_t)1 << (2 * half) < n) half++;
    uint32_t mask = half == 32 ? UINT32_MAX : ((uint32_t)1 << half) - 1;
    uint32_t k[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    do {
        uint32_t left = (uint32_t)(i >> half) & mask, right = (uint32_t)i & mask;
        for (uint32_t round = 0; round < 4; round++) {
            uint32_t in[4] = {right, round, (uint32_t)PK_RNG_ORDER, 0}, out[4];
            pk_philox(out, in, k);
            uint32_t next = left ^ (out[0] & mask);
            left = right;
            right = next;
        }
        i = (uint64_t)left << half | right;
    } while (i >= n);
    return i;
}
