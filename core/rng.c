/* rng.c -- Philox4x32-10 and a keyed bijection (see rng.h). */
#include "core/rng.h"

#include <math.h>

void pk_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

struct pk_rng pk_rng_make(uint64_t seed, enum pk_purpose purpose, uint64_t sample, uint32_t step)
{
    return (struct pk_rng){
        .key = {(uint32_t)seed, (uint32_t)(seed >> 32)},
        .counter = {0, step, (uint32_t)sample,
                    ((uint32_t)(sample >> 32) & 0x00ffffffu) | (uint32_t)purpose << 24}};
}

uint32_t pk_rng_u32(struct pk_rng *r)
{
    if (!r->left) {
        pk_philox(r->word, r->counter, r->key);
        r->counter[0]++;
        r->left = 4;
    }
    return r->word[--r->left];
}

uint64_t pk_rng_u64(struct pk_rng *r)
{
    uint64_t hi = pk_rng_u32(r);
    return hi << 32 | pk_rng_u32(r);
}

double pk_rng_uniform(struct pk_rng *r)
{
    return (double)(pk_rng_u64(r) >> 11) * 0x1p-53;
}

uint64_t pk_rng_below(struct pk_rng *r, uint64_t n)
{
    uint64_t limit = UINT64_MAX - UINT64_MAX % n, x;
    do x = pk_rng_u64(r);
    while (x >= limit);
    return x % n;
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
