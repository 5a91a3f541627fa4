/* elementwise.c -- add, copy, dropout, and channels of zeros. */
#include "core/cpu/kernels.h"
#include "core/view.h"
#include "core/rng.h"

#include <string.h>

enum pk_status PK_ISA_NAME(pk_cpu_add)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *restrict a = c->src[0], *restrict b = c->src[1];
    float *restrict y = c->dst[0];
    const int64_t count = pk_view_count(c->out[0]);
    for (int64_t i = 0; i < count; i++) y[i] = a[i] + b[i];
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_copy)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *restrict x = c->src[0];
    float *restrict y = c->dst[0];
    const int64_t count = pk_view_count(c->out[0]);
    if (!pk_call_accumulates(c, 0)) {
        memcpy(y, x, (size_t)count * sizeof *y);
        return PK_OK;
    }
    for (int64_t i = 0; i < count; i++) y[i] += x[i];
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_reshape)(const struct pk_call *c, struct pk_err *err)
{
    return PK_ISA_NAME(pk_cpu_copy)(c, err);
}

/* Counters drawn together, and the elements they serve. More than 16: gcc unrolls shorter loops
 * before it looks for vectors, and then finds none (five times slower). */
enum { LANES = 32, GROUP = 4 * LANES };

static inline uint32_t high_word(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)a * b >> 32);
}

/* Philox4x32-10 (core/rng.c) for LANES consecutive values of counter[0], written so that each loop
 * becomes a few vector instructions. word[i] belongs to element i of the group. */
static void philox_group(uint32_t word[GROUP], const struct pk_rng *at, uint32_t first)
{
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES], h0[LANES], h2[LANES];
    uint32_t k0 = at->key[0], k1 = at->key[1];
    for (uint32_t i = 0; i < LANES; i++) {
        c0[i] = first + i;
        c1[i] = at->counter[1];
        c2[i] = at->counter[2];
        c3[i] = at->counter[3];
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < LANES; i++) h0[i] = high_word(0xD2511F53u, c0[i]);
        for (int i = 0; i < LANES; i++) h2[i] = high_word(0xCD9E8D57u, c2[i]);
        for (int i = 0; i < LANES; i++) {
            const uint32_t n0 = h2[i] ^ c1[i] ^ k0, n2 = h0[i] ^ c3[i] ^ k1;
            c1[i] = 0xCD9E8D57u * c2[i];
            c3[i] = 0xD2511F53u * c0[i];
            c0[i] = n0;
            c2[i] = n2;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < LANES; i++) {
        word[4 * i] = c0[i];
        word[4 * i + 1] = c1[i];
        word[4 * i + 2] = c2[i];
        word[4 * i + 3] = c3[i];
    }
}

/* y (+)= x * scale, for one record of a dropped path; scale is 0 where it was dropped. */
static void scale_record(float *restrict y, const float *restrict x, float scale, int64_t count,
                         bool add)
{
    if (scale == 0) {
        if (!add) memset(y, 0, (size_t)count * sizeof *y);
        return;
    }
    for (int64_t i = 0; add && i < count; i++) y[i] += x[i] * scale;
    for (int64_t i = 0; !add && i < count; i++) y[i] = x[i] * scale;
}

/* Element i of a record is kept when word i % 4 of the Philox block i / 4 is at least p * 2^32;
 * attribute record: all of its elements when the first is. */
enum pk_status PK_ISA_NAME(pk_cpu_dropout)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t *sample = c->src[1];
    const int64_t batch = c->in[1]->dim[0], count = pk_view_count(c->in[0]) / batch;
    const float p = c->node->attr.dropout.p, scale = 1 / (1 - p);
    const uint32_t threshold = (uint32_t)((double)p * 0x1p32);
    const bool add = pk_call_accumulates(c, 0);
    for (int64_t b = 0; b < batch; b++) {
        const float *restrict x = (const float *)c->src[0] + b * count;
        float *restrict y = (float *)c->dst[0] + b * count;
        const struct pk_rng at = pk_rng_make(c->node->attr.dropout.seed, PK_RNG_DROPOUT,
                                             (uint64_t)sample[b], c->node->attr.dropout.site);
        if (c->node->attr.dropout.record) {
            uint32_t word[4];
            pk_philox(word, at.counter, at.key);
            scale_record(y, x, word[0] >= threshold ? scale : 0, count, add);
            continue;
        }
        for (int64_t i = 0; i < count; i += GROUP) {
            uint32_t word[GROUP];
            philox_group(word, &at, (uint32_t)(i / 4));
            const int64_t n = PK_MIN((int64_t)GROUP, count - i);
            if (add)
                for (int64_t k = 0; k < n; k++)
                    y[i + k] += word[k] >= threshold ? x[i + k] * scale : 0;
            else
                for (int64_t k = 0; k < n; k++)
                    y[i + k] = word[k] >= threshold ? x[i + k] * scale : 0;
        }
    }
    return PK_OK;
}

/* in: x [..., C] -> y [..., left + C + right], accumulating */
enum pk_status PK_ISA_NAME(pk_cpu_pad_channels)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t from = pk_view_cols(c->in[0]), to = pk_view_cols(c->out[0]);
    const int64_t left = c->node->attr.pad_channels.left, first = PK_MAX(left, 0);
    const int64_t count = PK_MIN(from, to);
    const float *x = (const float *)c->src[0] + PK_MAX(-left, 0);
    float *y = c->dst[0];
    for (int64_t r = 0; r < pk_view_rows(c->in[0]); r++, x += from, y += to) {
        if (pk_call_accumulates(c, 0)) {
            for (int64_t i = 0; i < count; i++) y[first + i] += x[i];
            continue;
        }
        memset(y, 0, (size_t)first * sizeof *y);
        memcpy(y + first, x, (size_t)count * sizeof *y);
        memset(y + first + count, 0, (size_t)(to - first - count) * sizeof *y);
    }
    return PK_OK;
}
