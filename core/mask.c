/* mask.c -- the multi-block mask sampler on the host; mask_inline.h has the sampling itself. */
#include "core/mask_inline.h"

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

void pk_mask_sample(uint64_t seed, uint64_t sample, int32_t tokens, int32_t keep, int32_t min_block,
                    int32_t *kept, int32_t *hidden)
{
    uint32_t gone[PK_MASK_TOKENS_MAX / 32];
    pk_mask_bits(gone, 1, seed, sample, tokens, keep, min_block);
    for (int32_t t = 0; t < tokens; t++)
        if (gone[t / 32] >> t % 32 & 1)
            *hidden++ = t;
        else
            *kept++ = t;
}

void pk_lead_mask_sample(uint64_t seed, uint64_t sample, uint32_t lead, int32_t tokens,
                         int32_t keep, int32_t *kept, int32_t *hidden)
{
    pk_lead_mask_inline(seed, sample, lead, tokens, keep, kept, hidden);
}
