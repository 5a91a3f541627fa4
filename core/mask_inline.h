/* mask_inline.h -- the multi-block mask sampler of core/mask.h as a function of bits.
 *
 * One text for the host and for devices (see rng_inline.h): the draws and their order are those of
 * mask.h. A record's state is one bit per token, set when hidden, 32 tokens to a word; tokens
 * beyond the record's end count as hidden. Word w is gone[w * stride]: a device interleaves the
 * records of a warp, the host has stride 1. Cost of a block: one walk over the words, tokens / 32
 * of them. */
#ifndef PK_MASK_INLINE_H
#define PK_MASK_INLINE_H

#include "core/mask.h"
#include "core/rng_inline.h"

struct pk_mask_span {
    int32_t from, to; // tokens [from, to)
};

/* Words of a record. */
PK_INLINE int32_t pk_mask_words(int32_t tokens)
{
    return (tokens + 31) / 32;
}

PK_INLINE int32_t pk_bits_count(uint32_t x)
{
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0fu;
    return (int32_t)(x * 0x01010101u >> 24);
}

/* Index of the lowest and of the highest set bit; x is not 0. */
PK_INLINE int32_t pk_bits_lowest(uint32_t x)
{
    return pk_bits_count((x & (0u - x)) - 1);
}

PK_INLINE int32_t pk_bits_highest(uint32_t x)
{
    x |= x >> 1;
    x |= x >> 2;
    x |= x >> 4;
    x |= x >> 8;
    x |= x >> 16;
    return pk_bits_count(x) - 1;
}

/* The bits [from, to) of a word, 0 <= from < to <= 32. */
PK_INLINE uint32_t pk_bits_span(int32_t from, int32_t to)
{
    return 0xffffffffu << from & 0xffffffffu >> (32 - to);
}

/* The run of visible tokens that holds the u-th visible one; there are more than u. */
PK_INLINE struct pk_mask_span pk_mask_interval(const uint32_t *gone, int32_t stride, int32_t words,
                                               int32_t tokens, int32_t u)
{
    int32_t w = 0;
    for (int32_t n; u >= (n = pk_bits_count(~gone[w * stride])); w++) u -= n;
    uint32_t visible = ~gone[w * stride];
    for (; u > 0; u--) visible &= visible - 1;
    const int32_t at = pk_bits_lowest(visible);
    uint32_t before = at ? gone[w * stride] & pk_bits_span(0, at) : 0;
    uint32_t after = gone[w * stride] & pk_bits_span(at, 32);
    int32_t first = w, last = w;
    while (!before && first > 0) before = gone[--first * stride];
    while (!after && last + 1 < words) after = gone[++last * stride];
    struct pk_mask_span s;
    s.from = before ? 32 * first + pk_bits_highest(before) + 1 : 0;
    s.to = after ? 32 * last + pk_bits_lowest(after) : tokens;
    return s;
}

/* The part of the interval that the next block hides; draws 2 and 3. */
PK_INLINE struct pk_mask_span pk_mask_place(struct pk_rng *r, struct pk_mask_span s, int32_t left,
                                            int32_t min_block, int32_t tokens)
{
    const bool whole = s.from == 0 && s.to == tokens;
    int32_t length = left, skip;
    if (left >= min_block)
        length = min_block + (int32_t)pk_rng_below_inline(r, (uint64_t)(left - min_block) + 1);
    const int32_t room = s.to - s.from - length;
    if (room <= 0) return s;
    if (left >= min_block || whole)
        skip = (int32_t)pk_rng_below_inline(r, (uint64_t)room + 1);
    else if (s.from > 0 && s.to < tokens)
        skip = pk_rng_below_inline(r, 2) ? room : 0;
    else
        skip = s.from > 0 ? 0 : room;
    s.from += skip;
    s.to = s.from + length;
    return s;
}

/* The uniform mask of one lead (core/mask.h). */
PK_INLINE void pk_lead_mask_inline(uint64_t seed, uint64_t sample, uint32_t lead, int32_t tokens,
                                   int32_t keep, int32_t *kept, int32_t *hidden)
{
    struct pk_rng r = pk_rng_make_inline(seed, PK_RNG_LEAD_MASK, sample, lead);
    int32_t have = 0;
    for (int32_t t = 0; t < tokens; t++)
        if ((int32_t)pk_rng_below_inline(&r, (uint64_t)(tokens - t)) < keep - have)
            kept[have++] = t;
        else
            hidden[t - have] = t;
}

/* Sets gone[pk_mask_words(tokens)], whatever was in it, to the mask of a record. The arguments must
 * have passed pk_mask_check. */
PK_INLINE void pk_mask_bits(uint32_t *gone, int32_t stride, uint64_t seed, uint64_t sample,
                            int32_t tokens, int32_t keep, int32_t min_block)
{
    const int32_t words = pk_mask_words(tokens);
    for (int32_t w = 0; w < words; w++) gone[w * stride] = 0;
    if (tokens % 32) gone[(words - 1) * stride] = pk_bits_span(tokens % 32, 32);
    struct pk_rng r = pk_rng_make_inline(seed, PK_RNG_MASK, sample, 0);
    for (int32_t left = tokens - keep; left > 0;) {
        const int32_t u = (int32_t)pk_rng_below_inline(&r, (uint64_t)(keep + left));
        const struct pk_mask_span block = pk_mask_place(
            &r, pk_mask_interval(gone, stride, words, tokens, u), left, min_block, tokens);
        for (int32_t w = block.from / 32; 32 * w < block.to; w++) {
            const int32_t from = block.from - 32 * w, to = block.to - 32 * w;
            gone[w * stride] |= pk_bits_span(from > 0 ? from : 0, to < 32 ? to : 32);
        }
        left -= block.to - block.from;
    }
}

#endif
