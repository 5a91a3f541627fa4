/* test_mask.c -- the mask sampler: exact counts, order, block lengths, purity. Its distribution is
 * compared with an independent simulation in tests/model/test_mask_statistics.py. */
#include "core/mask.h"
#include "tests/test.h"

static const struct {
    int32_t tokens, keep, min_block;
    const char *why;
} cases[] = {
    {200, 40, 10, "pretraining"},
    {200, 30, 10, "fewest kept"},
    {200, 50, 10, "most kept"},
    {50, 12, 10, "short record: the last block is mostly a rest"},
    {20, 13, 10, "less to hide than a block"},
    {17, 16, 4, "one token to hide"},
    {17, 1, 4, "one token to keep"},
    {17, 17, 4, "nothing to hide"},
    {17, 0, 4, "nothing to keep"},
    {1, 1, 1, "one token"},
    {64, 32, 1, "single tokens as blocks"},
    {PK_MASK_TOKENS_MAX, 7, 1, "the largest"},
};

static void test_one(size_t c, uint64_t seed, uint64_t sample)
{
    static int32_t kept[PK_MASK_TOKENS_MAX], hidden[PK_MASK_TOKENS_MAX];
    const int32_t n = cases[c].tokens, keep = cases[c].keep;
    memset(kept, 0xff, sizeof kept);
    memset(hidden, 0xff, sizeof hidden);
    pk_mask_sample(seed, sample, n, keep, cases[c].min_block, kept, hidden);
    // Merging the two lists must give 0, 1, ... n - 1: exact counts, ascending, complementary.
    int32_t k = 0, h = 0, run = 0, shorter = 0;
    for (int32_t t = 0; t < n; t++) {
        const bool hide = h < n - keep && hidden[h] == t;
        if (hide)
            h++;
        else if (k < keep && kept[k] == t)
            k++;
        else
            break;
        run = hide ? run + 1 : 0;
        const bool ends = hide && (t + 1 == n || hidden[h] != t + 1);
        // A rest is glued to a block and a swallowed interval merges with its neighbours, so a
        // whole run is short only when all that was to be hidden is.
        if (ends && run < cases[c].min_block) shorter++;
    }
    CHECK(k == keep && h == n - keep);
    CHECK(k == PK_MASK_TOKENS_MAX || kept[k] == -1); // nothing written beyond
    CHECK(h == PK_MASK_TOKENS_MAX || hidden[h] == -1);
    CHECK(shorter == (n - keep > 0 && n - keep < cases[c].min_block));
}

static void test_pure(void)
{
    int32_t kept[3][40], hidden[3][160];
    pk_mask_sample(5, 77, 200, 40, 10, kept[0], hidden[0]);
    pk_mask_sample(5, 78, 200, 40, 10, kept[1], hidden[1]);
    pk_mask_sample(5, 77, 200, 40, 10, kept[2], hidden[2]);
    CHECK(!memcmp(kept[0], kept[2], sizeof kept[0]));
    CHECK(!memcmp(hidden[0], hidden[2], sizeof hidden[0]));
    CHECK(memcmp(kept[0], kept[1], sizeof kept[0]));
    pk_mask_sample(6, 77, 200, 40, 10, kept[1], hidden[1]);
    CHECK(memcmp(kept[0], kept[1], sizeof kept[0]));
}

/* Masks are part of a run's identity: a change of the order of draws must not go unnoticed, since
 * the CUDA kernel replays it. */
static void test_golden(void)
{
    int32_t kept[12], hidden[48];
    static const int32_t want[12] = {21, 22, 23, 24, 29, 30, 31, 32, 33, 57, 58, 59};
    pk_mask_sample(1, 2, 60, 12, 4, kept, hidden);
    CHECK(!memcmp(kept, want, sizeof want));
    if (memcmp(kept, want, sizeof want))
        for (int i = 0; i < 12; i++) fprintf(stderr, "%d%s", kept[i], i < 11 ? ", " : "\n");
}

static void test_check(void)
{
    struct pk_err err = {0};
    CHECK_OK(pk_mask_check(200, 40, 10, &err), &err);
    CHECK_FAILS(pk_mask_check(0, 0, 1, &err), PK_ESHAPE, &err, "over 0 tokens");
    CHECK_FAILS(pk_mask_check(PK_MASK_TOKENS_MAX + 1, 1, 1, &err), PK_ESHAPE, &err, "tokens");
    CHECK_FAILS(pk_mask_check(10, 11, 1, &err), PK_ESHAPE, &err, "keeps 11 of 10");
    CHECK_FAILS(pk_mask_check(10, -1, 1, &err), PK_ESHAPE, &err, "keeps -1");
    CHECK_FAILS(pk_mask_check(10, 1, 0, &err), PK_ESHAPE, &err, "at least 0");
}

int main(void)
{
    for (size_t c = 0; c < PK_COUNT(cases); c++)
        for (uint64_t i = 0; i < (cases[c].tokens > 1000 ? 5 : 500); i++) test_one(c, i % 3, i);
    test_pure();
    test_golden();
    test_check();
    return TEST_END();
}
