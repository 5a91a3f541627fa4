/* warp.cc -- shuffles, votes, reductions, matrix products and matrix loads of a warp.
 *
 * Each lane hands a record of what it brings to pk_host::warp; the last one to arrive fills in
 * everybody's result. */
#include "tests/cuda_host/block.h"

#include <pk_mma_host.h>

namespace pk_host
{
namespace
{

struct shuffle_lane {
    uint64_t value, result;
    int source; // lane to read from
};
struct vote_lane {
    uint64_t value;
    unsigned result;
};
struct reduce_lane {
    reduction how;
    int64_t value;
};
struct mma_lane {
    float *d;
    const uint32_t *a, *b;
};
struct matrix_lane {
    const unsigned char *row;
    uint32_t *r;
};

void do_shuffle(void *const argument[32], unsigned mask)
{
    for (int lane = 0; lane < LANES; lane++) {
        if (!(mask >> lane & 1)) continue;
        shuffle_lane *s = static_cast<shuffle_lane *>(argument[lane]);
        s->result = static_cast<shuffle_lane *>(argument[s->source])->value;
    }
}

void do_ballot(void *const argument[32], unsigned mask)
{
    unsigned set = 0;
    for (int lane = 0; lane < LANES; lane++)
        if ((mask >> lane & 1) && static_cast<vote_lane *>(argument[lane])->value)
            set |= 1u << lane;
    for (int lane = 0; lane < LANES; lane++)
        if (mask >> lane & 1) static_cast<vote_lane *>(argument[lane])->result = set;
}

void do_match(void *const argument[32], unsigned mask)
{
    for (int i = 0; i < LANES; i++) {
        if (!(mask >> i & 1)) continue;
        vote_lane *v = static_cast<vote_lane *>(argument[i]);
        v->result = 0;
        for (int j = 0; j < LANES; j++)
            if ((mask >> j & 1) && static_cast<vote_lane *>(argument[j])->value == v->value)
                v->result |= 1u << j;
    }
}

void do_reduce(void *const argument[32], unsigned mask)
{
    int64_t sum = 0;
    bool first = true;
    for (int lane = 0; lane < LANES; lane++) {
        if (!(mask >> lane & 1)) continue;
        const reduce_lane *r = static_cast<reduce_lane *>(argument[lane]);
        const int64_t x = r->value;
        if (first)
            sum = x;
        else if (r->how == REDUCE_ADD)
            sum += x;
        else if (r->how == REDUCE_MIN)
            sum = x < sum ? x : sum;
        else if (r->how == REDUCE_MAX)
            sum = x > sum ? x : sum;
        else if (r->how == REDUCE_AND)
            sum &= x;
        else if (r->how == REDUCE_OR)
            sum |= x;
        else
            sum ^= x;
        first = false;
    }
    for (int lane = 0; lane < LANES; lane++)
        if (mask >> lane & 1) static_cast<reduce_lane *>(argument[lane])->value = sum;
}

float low(uint32_t r)
{
    return __uint_as_float(r << 16);
}
float high(uint32_t r)
{
    return __uint_as_float(r & 0xffff0000u);
}

void do_mma(void *const argument[32], unsigned)
{
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < LANES; lane++) {
        const mma_lane *m = static_cast<mma_lane *>(argument[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) {
            const int row = g + 8 * (i % 2), col = 2 * t + 8 * (i / 2);
            a[row][col] = low(m->a[i]);
            a[row][col + 1] = high(m->a[i]);
            d[g + 8 * (i / 2)][2 * t + i % 2] = m->d[i];
        }
        for (int i = 0; i < 2; i++) {
            b[2 * t + 8 * i][g] = low(m->b[i]);
            b[2 * t + 8 * i + 1][g] = high(m->b[i]);
        }
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) d[row][n] += a[row][k] * b[k][n];
    for (int lane = 0; lane < LANES; lane++) {
        const mma_lane *m = static_cast<mma_lane *>(argument[lane]);
        for (int i = 0; i < 4; i++) m->d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
    }
}

/* Element (row, col) of 8 x 8 matrix m. */
uint32_t element(void *const argument[32], int m, int row, int col)
{
    uint16_t x;
    memcpy(&x, static_cast<matrix_lane *>(argument[8 * m + row])->row + 2 * col, sizeof x);
    return x;
}

void do_load(void *const argument[32], bool transposed)
{
    for (int lane = 0; lane < LANES; lane++) {
        uint32_t *r = static_cast<matrix_lane *>(argument[lane])->r;
        const int g = lane / 4, t = lane % 4;
        for (int m = 0; m < 4; m++)
            r[m] = transposed
                       ? element(argument, m, 2 * t, g) | element(argument, m, 2 * t + 1, g) << 16
                       : element(argument, m, g, 2 * t) | element(argument, m, g, 2 * t + 1) << 16;
    }
}
void do_load_rows(void *const argument[32], unsigned)
{
    do_load(argument, false);
}
void do_load_columns(void *const argument[32], unsigned)
{
    do_load(argument, true);
}

} // namespace

uint64_t shuffle(wait_kind kind, unsigned mask, uint64_t value, int n, int width)
{
    if (width < 1 || width > 32 || (width & (width - 1)))
        fault("shuffle width %d is not a power of two up to 32", width);
    const int me = lane(), first = me & ~(width - 1), last = first + width - 1;
    int source = me;
    if (kind == WAIT_SHFL) source = first + (n & (width - 1));
    if (kind == WAIT_SHFL_UP && n >= 0 && me - n >= first) source = me - n;
    if (kind == WAIT_SHFL_DOWN && n >= 0 && n <= last - me) source = me + n;
    if (kind == WAIT_SHFL_XOR && (me ^ (n & 31)) <= last) source = me ^ (n & 31);
    if (!(mask >> source & 1))
        fault("shuffle with mask 0x%08x reads lane %d, which the mask lacks", mask, source);
    shuffle_lane s = {value, 0, source};
    warp(kind, mask, do_shuffle, &s);
    return s.result;
}

unsigned ballot(wait_kind kind, unsigned mask, int predicate)
{
    vote_lane v = {predicate != 0, 0};
    warp(kind, mask, do_ballot, &v);
    return v.result;
}

unsigned match(unsigned mask, uint64_t value)
{
    vote_lane v = {value, 0};
    warp(WAIT_MATCH, mask, do_match, &v);
    return v.result;
}

int64_t reduce(reduction how, unsigned mask, int64_t value)
{
    reduce_lane r = {how, value};
    warp(WAIT_REDUCE, mask, do_reduce, &r);
    return r.value;
}

void mma_16_8_16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    mma_lane m = {d, a, b};
    warp(WAIT_MMA, 0xffffffffu, do_mma, &m);
}

void load_matrix(uint32_t r[4], const void *row, bool transposed)
{
    const uint32_t at = shared_address(row),
                   last = shared_address(static_cast<const char *>(row) + 15);
    if (at % 16) fault("matrix load from shared offset %u, which is not a multiple of 16", at);
    (void)last;
    matrix_lane m = {static_cast<const unsigned char *>(row), r};
    warp(transposed ? WAIT_LOAD_MATRIX_TRANSPOSED : WAIT_LOAD_MATRIX, 0xffffffffu,
         transposed ? do_load_columns : do_load_rows, &m);
}

} // namespace pk_host
