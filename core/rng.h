/* rng.h -- counter-based randomness: Philox4x32-10 (Salmon et al., SC 2011) and a keyed bijection.
 *
 * A draw depends on (seed, purpose, sample, step) and its place in the stream, never on rank,
 * thread or time. Nothing needs saving for a resume. */
#ifndef PK_RNG_H
#define PK_RNG_H

#include <stdint.h>

enum pk_purpose { // keeps the streams of different uses apart; append only, numbers are in files
    PK_RNG_INIT = 1,
    PK_RNG_ORDER,
    PK_RNG_MIXTURE,
    PK_RNG_CROP,
    PK_RNG_MASK,
    PK_RNG_KEEP,
    PK_RNG_DROPOUT,
    PK_RNG_BOOTSTRAP,
    PK_RNG_SYNTH,
    PK_RNG_AUGMENT,
    PK_RNG_TEST,
    PK_RNG_SHUFFLE,   // of labels, for chance levels
    PK_RNG_LEAD_MASK, // step: number of the lead
    PK_RNG_MIXUP
};

void pk_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

struct pk_rng {
    uint32_t key[2], counter[4];
    uint32_t word[4];
    int left; // words not yet used
};

/* A stream of its own for each (seed, purpose, sample, step); step up to 2^32 - 1, sample 2^56. */
struct pk_rng pk_rng_make(uint64_t seed, enum pk_purpose purpose, uint64_t sample, uint32_t step);
uint32_t pk_rng_u32(struct pk_rng *r);
uint64_t pk_rng_u64(struct pk_rng *r);
double pk_rng_uniform(struct pk_rng *r);             // [0, 1), 53 bits
uint64_t pk_rng_below(struct pk_rng *r, uint64_t n); // [0, n) without modulo bias; n > 0
double pk_rng_normal(struct pk_rng *r);              // N(0, 1), Box-Muller, two words pairs
/* Normal of the given std, redrawn until |x| <= cut (absolute, as torch's trunc_normal_). */
double pk_rng_trunc_normal(struct pk_rng *r, double std, double cut);

/* The image of i under a bijection of [0, n) chosen by key: Feistel network + cycle walking. */
uint64_t pk_bijection(uint64_t i, uint64_t n, uint64_t key);

#endif
