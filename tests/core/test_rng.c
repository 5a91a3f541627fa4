/* test_rng.c -- Philox against the known answers of its authors, the bijection, moments. */
#include "core/rng.h"
#include "tests/test.h"

static void philox_known_answers(void)
{
    /* Random123's kat_vectors for philox4x32-10 */
    static const struct {
        uint32_t c[4], k[2], out[4];
    } kat[] = {{{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
               {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
                {0xffffffff, 0xffffffff},
                {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
               {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                {0xa4093822, 0x299f31d0},
                {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
    for (size_t i = 0; i < PK_COUNT(kat); i++) {
        uint32_t out[4];
        pk_philox(out, kat[i].c, kat[i].k);
        CHECK(!memcmp(out, kat[i].out, sizeof out));
    }
}

static void bijection_is_one(void)
{
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 17, 1000, 4096, 4097, 21799};
    for (size_t s = 0; s < PK_COUNT(sizes); s++) {
        uint64_t n = sizes[s];
        int64_t fixed = 0;
        unsigned char *seen = calloc(n, 1);
        bool ok = seen != NULL;
        for (uint64_t i = 0; ok && i < n; i++) {
            uint64_t j = pk_bijection(i, n, 42);
            ok = j < n && !seen[j]++;
            fixed += j == i;
        }
        CHECK(ok);
        CHECK(n < 1000 || fixed < 12); // a random permutation has about one fixed point
        free(seen);
    }
    CHECK(pk_bijection(5, 1000, 1) != pk_bijection(5, 1000, 2));
}

static void moments(void)
{
    struct pk_rng r = pk_rng_make(7, PK_RNG_TEST, 3, 1);
    double sum = 0, square = 0, largest = 0;
    int n = 200000;
    for (int i = 0; i < n; i++) {
        double x = pk_rng_normal(&r);
        sum += x;
        square += x * x;
    }
    CHECK_NEAR(sum / n, 0, 4 / sqrt(n));
    CHECK_NEAR(square / n, 1, 4 * sqrt(2.0 / n));
    for (int i = 0; i < n; i++) largest = fmax(largest, fabs(pk_rng_trunc_normal(&r, 1, 2)));
    CHECK(largest <= 2 && largest > 1.99);
    int64_t count[3] = {0};
    for (int i = 0; i < 30000; i++) count[pk_rng_below(&r, 3)]++;
    for (int i = 0; i < 3; i++) CHECK_NEAR((double)count[i], 10000, 4 * sqrt(30000 * 2.0 / 9));
}

int main(void)
{
    philox_known_answers();
    bijection_is_one();
    moments();
    return TEST_END();
}
