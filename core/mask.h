/* mask.h -- the multi-block mask of JEPA pretraining (Weimann & Conrad 2024, arXiv 2410.13867).
 *
 * Which tokens of a record stay visible is a pure function of (seed, sample): Philox stream
 * pk_rng_make(seed, PK_RNG_MASK, sample, 0), whose draws are consumed in the order below, so that
 * another backend can replay it bit by bit.
 *
 *     visible = all tokens; left = tokens - keep
 *     while left > 0:
 *         draw 1   u = below(number of visible tokens). The u-th visible token, counted from the
 *                  record's start, picks the interval [a, b): the run of visible tokens around it
 *                  (so an interval is picked with probability proportional to its length).
 *         draw 2   only if left >= min_block: length = min_block + below(left - min_block + 1);
 *                  otherwise length = left.
 *         if b - a <= length: hide the whole interval.
 *         else if left >= min_block, or the interval is the whole record (nothing to glue to):
 *         draw 3   start = a + below(b - a - length + 1); hide [start, start + length).
 *         else glue the block to an end of the interval that borders a hidden block:
 *         draw 3   only if both ends do: below(2), 0 the left end, 1 the right end.
 *         left -= tokens hidden */
#ifndef PK_MASK_H
#define PK_MASK_H

#include "core/base.h"

enum { PK_MASK_TOKENS_MAX = 16384 };

/* 1 <= tokens <= PK_MASK_TOKENS_MAX, 0 <= keep <= tokens, min_block >= 1; else PK_ESHAPE. */
enum pk_status pk_mask_check(int32_t tokens, int32_t keep, int32_t min_block, struct pk_err *err);
/* kept[keep] and hidden[tokens - keep]: ascending, together every token once. The arguments must
 * have passed pk_mask_check. At most tokens - keep blocks, each found in O(tokens). */
void pk_mask_sample(uint64_t seed, uint64_t sample, int32_t tokens, int32_t keep, int32_t min_block,
                    int32_t *kept, int32_t *hidden);

/* The uniform mask of masked autoencoders: `keep` of the `tokens` of one lead, every choice alike.
 * Philox stream pk_rng_make(seed, PK_RNG_LEAD_MASK, sample, lead); for t = 0, 1 ... one draw
 * below(tokens - t): token t is kept when it is less than the number that is still to be kept
 * (selection sampling, Knuth vol. 2, 3.4.2 S). Both lists ascending. */
void pk_lead_mask_sample(uint64_t seed, uint64_t sample, uint32_t lead, int32_t tokens,
                         int32_t keep, int32_t *kept, int32_t *hidden);

#endif
