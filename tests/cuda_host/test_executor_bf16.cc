/* test_executor_bf16.cc -- conversion to and from bf16 of the host executor: every bf16, every tie,
 * and random floats against a search among the neighbours. */
#include "tests/cuda_host/executor_case.h"

namespace
{

float of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Rounding by definition: of the two bf16 around x the nearer one, of two as near the even one. The
 * step past the largest bf16 counts as 2^128, which stands for infinity. */
unsigned short nearest(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const unsigned short down = (unsigned short)(bits >> 16), up = (unsigned short)(down + 1);
    const double below = (double)of_bits((uint32_t)down << 16);
    const double above = (down & 0x7fff) == 0x7f7f ? (x < 0 ? -0x1p128 : 0x1p128)
                                                   : (double)of_bits((uint32_t)up << 16);
    const double a = fabs((double)x - below), b = fabs(above - (double)x);
    return a < b || (a == b && down % 2 == 0) ? down : up;
}

void test_every_value()
{
    for (uint32_t i = 0; i < 65536; i++) {
        const bf16 x = __ushort_as_bfloat16((unsigned short)i);
        const float f = __bfloat162float(x);
        const bool nan = (i & 0x7fff) > 0x7f80;
        CHECK(nan == (bool)isnan(f));
        if (!nan)
            CHECK(f == of_bits(i << 16) && signbit(f) == (int)(i >> 15 ? 1 : 0) * signbit(-1.0f));
        CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(f)) == (nan ? 0x7fff : i));
    }
}

void test_ties()
{
    for (uint32_t i = 0; i < 65536; i++) {
        if ((i & 0x7fff) >= 0x7f80) continue;
        const uint32_t tie = i << 16 | 0x8000;
        const unsigned short even = (unsigned short)(i % 2 ? i + 1 : i);
        CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(of_bits(tie))) == even);
        CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(of_bits(tie - 1))) == i);
        CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(of_bits(tie + 1))) == i + 1);
        CHECK(nearest(of_bits(tie)) == even);
    }
    for (int i = 0; i < 200000; i++) {
        const float x = of_bits(random_bits());
        if (!isfinite(x)) continue;
        CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(x)) == nearest(x));
    }
}

void test_pairs()
{
    const __nv_bfloat162 p = __floats2bfloat162_rn(1.5f, -3.0f);
    uint32_t bits;
    memcpy(&bits, &p, sizeof bits);
    CHECK(bits == 0xc0403fc0u); // the lower column in the lower half
    CHECK(pack_bf16(1.5f, -3.0f) == bits);
    CHECK(__low2float(p) == 1.5f && __high2float(p) == -3.0f);
    const float2 f = __bfloat1622float2(p);
    CHECK(f.x == 1.5f && f.y == -3.0f);
    CHECK(__bfloat162float(__low2bfloat16(p)) == 1.5f);
    CHECK(__bfloat162float(__high2bfloat16(p)) == -3.0f);
    CHECK(sizeof(bf16) == 2 && sizeof p == 4 && alignof(__nv_bfloat162) == 4);
    CHECK(__bfloat162float(__hmul(bf16(3.0f), bf16(0.5f))) == 1.5f);
}

} // namespace

int main()
{
    test_every_value();
    test_ties();
    test_pairs();
    return TEST_END();
}
