/* mask.c -- the multi-block mask sampler (see mask.h). */
#include "core/mask.h"
#include "core/rng.h"

#include <string.h>

struct span {
    int32_t from, to; // tokens [from, to)
};

enum pk_status pk_mask_check(int32_t tokens, int32_t keep, int32_t min_block, struct pk_err *err)
{
    if (tokens < 1 || tokens > PK_MASK_TOKENS_MAX)
        return pk_fail(err, PK_ESHAPE, "block mask over %d tokens: give 1 to %d", tokens,
                       PK_MASK_TOKENS_MAX);
    if (keep < 0 || keep > tokens)
        return pk_fail(err, PK_ESHAPE, "block mask keeps %d of %d tokens: give 0 to %d", keep,
                       tokens, tokens);
    if (min_block < 1)
        return pk_fail(err, PK_ESHAPE,
                       "block mask with blocks of at least %d tokens: give 1 or more", min_block);
    return PK_OK;
}

/* The run of visible tokens that holds the u-th visible one. */
static struct span interval_of(const uint8_t *gone, int32_t tokens, int32_t u)
{
    struct span s = {0, 0};
    for (;;) {
        while (gone[s.to]) s.to++;
        s.from = s.to;
        while (s.to < tokens && !gone[s.to]) s.to++;
        if (u < s.to - s.from) return s;
        u -= s.to - s.from;
    }
}

/* The part of the interval that the next block hides; draws 2 and 3. */
static struct span place(struct pk_rng *r, struct span s, int32_t left, int32_t min_block,
                         int32_t tokens)
{
    const bool whole = s.from == 0 && s.to == tokens;
    int32_t length = left;
    if (left >= min_block)
        length = min_block + (int32_t)pk_rng_below(r, (uint64_t)(left - min_block) + 1);
    if (s.to - s.from <= length) return s;
    int32_t room = s.to - s.from - length, skip;
    if (left >= min_block || whole)
        skip = (int32_t)pk_rng_below(r, (uint64_t)room + 1);
    else if (s.from > 0 && s.to < tokens)
        skip = pk_rng_below(r, 2) ? room : 0;
    else
        skip = s.from > 0 ? 0 : room;
    return (struct span){s.from + skip, s.from + skip + length};
}

void pk_mask_sample(uint64_t seed, uint64_t sample, int32_t tokens, int32_t keep, int32_t min_block,
                    int32_t *kept, int32_t *hidden)
{
    uint8_t gone[PK_MASK_TOKENS_MAX];
    memset(gone, 0, (size_t)tokens);
    struct pk_rng r = pk_rng_make(seed, PK_RNG_MASK, sample, 0);
    for (int32_t left = tokens - keep; left > 0;) {
        uint64_t u = pk_rng_below(&r, (uint64_t)(keep + left));
        struct span block =
            place(&r, interval_of(gone, tokens, (int32_t)u), left, min_block, tokens);
        memset(gone + block.from, 1, (size_t)(block.to - block.from));
        left -= block.to - block.from;
    }
    for (int32_t t = 0; t < tokens; t++)
        if (gone[t])
            *hidden++ = t;
        else
            *kept++ = t;
}
