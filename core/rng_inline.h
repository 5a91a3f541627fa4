/* rng_inline.h -- the bodies of core/rng.h that kernels run too: Philox4x32-10 and its streams.
 *
 * One text for the host and for devices, so that every backend draws the same bits. It is C11 and
 * C++17; a device backend defines PK_INLINE (the qualifiers of its functions) before it includes
 * this. Everyone else calls core/rng.h. */
#ifndef PK_RNG_INLINE_H
#define PK_RNG_INLINE_H

#include "core/rng.h"

#ifndef PK_INLINE
#define PK_INLINE static inline
#endif

PK_INLINE void pk_philox_inline(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
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

PK_INLINE struct pk_rng pk_rng_make_inline(uint64_t seed, enum pk_purpose purpose, uint64_t sample,
                                           uint32_t step)
{
    struct pk_rng r;
    r.key[0] = (uint32_t)seed;
    r.key[1] = (uint32_t)(seed >> 32);
    r.counter[0] = 0;
    r.counter[1] = step;
    r.counter[2] = (uint32_t)sample;
    r.counter[3] = ((uint32_t)(sample >> 32) & 0x00ffffffu) | (uint32_t)purpose << 24;
    r.word[0] = r.word[1] = r.word[2] = r.word[3] = 0;
    r.left = 0;
    return r;
}

/* The words of a Philox call from the last to the first. Picked by comparison, not by a computed
 * index: on a device that keeps the stream in registers. */
PK_INLINE uint32_t pk_rng_u32_inline(struct pk_rng *r)
{
    if (!r->left) {
        pk_philox_inline(r->word, r->counter, r->key);
        r->counter[0]++;
        r->left = 4;
    }
    r->left--;
    if (r->left >= 2) return r->left == 3 ? r->word[3] : r->word[2];
    return r->left ? r->word[1] : r->word[0];
}

PK_INLINE uint64_t pk_rng_u64_inline(struct pk_rng *r)
{
    uint64_t hi = pk_rng_u32_inline(r);
    return hi << 32 | pk_rng_u32_inline(r);
}

PK_INLINE double pk_rng_uniform_inline(struct pk_rng *r)
{
    return (double)(pk_rng_u64_inline(r) >> 11) * 0x1p-53;
}

PK_INLINE uint64_t pk_rng_below_inline(struct pk_rng *r, uint64_t n)
{
    uint64_t limit = UINT64_MAX - UINT64_MAX % n, x;
    do x = pk_rng_u64_inline(r);
    while (x >= limit);
    return x % n;
}

#endif
