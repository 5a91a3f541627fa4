/* wfdb_signal.c -- the sample formats of WFDB signal files, signal(5). */
#include "datasets/wfdb.h"

struct format {
    int32_t code;
    int32_t samples, bytes; // of one packing group
    int32_t part[3];        // bytes needed by 0, 1, 2 samples of a last group
    int32_t invalid;
};

/* Formats 212, 310 and 311 pack 2 or 3 samples; a last group need not be whole. */
static const struct format formats[] = {
    {0, 1, 0, {0, 0, 0}, PK_WFDB_INVALID},
    {8, 1, 1, {0, 0, 0}, PK_WFDB_INVALID}, // differences: no code is left for "invalid"
    {16, 1, 2, {0, 0, 0}, -32768},
    {24, 1, 3, {0, 0, 0}, -8388608},
    {32, 1, 4, {0, 0, 0}, INT32_MIN},
    {61, 1, 2, {0, 0, 0}, -32768},
    {80, 1, 1, {0, 0, 0}, -128},
    {160, 1, 2, {0, 0, 0}, -32768},
    {212, 2, 3, {0, 2, 0}, -2048},
    {310, 3, 4, {0, 2, 4}, -512},
    {311, 3, 4, {0, 2, 3}, -512},
};

static const struct format *find(int32_t code)
{
    for (size_t i = 0; i < PK_COUNT(formats); i++)
        if (formats[i].code == code) return &formats[i];
    return NULL;
}

bool pk_wfdb_format_known(int32_t format)
{
    return find(format) != NULL;
}

int64_t pk_wfdb_bytes(int32_t format, int64_t n)
{
    const struct format *f = find(format);
    return f ? n / f->samples * f->bytes + f->part[n % f->samples] : 0;
}

int64_t pk_wfdb_samples(int32_t format, int64_t bytes)
{
    const struct format *f = find(format);
    if (!f || !f->bytes) return 0;
    int64_t n = bytes / f->bytes * f->samples, left = bytes % f->bytes;
    for (int32_t k = f->samples - 1; k > 0; k--)
        if (left >= f->part[k]) return n + k;
    return n;
}

/* Two's complement of the low `bits` bits. */
static int32_t sign_extend(uint32_t v, int bits)
{
    uint32_t sign = (uint32_t)1 << (bits - 1);
    v &= (sign << 1) - 1;
    return (int32_t)(v ^ sign) - (int32_t)sign;
}

static int32_t little16(const uint8_t *p)
{
    return sign_extend((uint32_t)p[0] | (uint32_t)p[1] << 8, 16);
}

/* Pairs of 12 bits in 3 bytes; byte 1 holds the high nibbles of both. */
static void unpack212(const uint8_t *p, int64_t n, int32_t *dst)
{
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *q = p + i / 2 * 3;
        uint32_t v = i % 2 ? (uint32_t)q[2] | ((uint32_t)q[1] & 0xf0) << 4
                           : (uint32_t)q[0] | ((uint32_t)q[1] & 0x0f) << 8;
        dst[i] = sign_extend(v, 12);
    }
}

/* Three samples of 10 bits in two 16-bit words: bits 1-10 of each, and 5 + 5 of their top bits. */
static void unpack310(const uint8_t *p, int64_t n, int32_t *dst)
{
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *q = p + i / 3 * 4;
        uint32_t v;
        if (i % 3 == 0)
            v = ((uint32_t)q[0] | (uint32_t)q[1] << 8) >> 1;
        else if (i % 3 == 1)
            v = ((uint32_t)q[2] | (uint32_t)q[3] << 8) >> 1;
        else
            v = (uint32_t)q[1] >> 3 | (uint32_t)q[3] >> 3 << 5;
        dst[i] = sign_extend(v, 10);
    }
}

/* Three samples of 10 bits in one 32-bit word, lowest first; only the bytes needed are touched. */
static void unpack311(const uint8_t *p, int64_t n, int32_t *dst)
{
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *q = p + i / 3 * 4;
        uint32_t v;
        if (i % 3 == 0)
            v = (uint32_t)q[0] | (uint32_t)q[1] << 8;
        else if (i % 3 == 1)
            v = (uint32_t)q[1] >> 2 | (uint32_t)q[2] << 6;
        else
            v = (uint32_t)q[2] >> 4 | (uint32_t)q[3] << 4;
        dst[i] = sign_extend(v, 10);
    }
}

static void unpack_bytes(int32_t format, const uint8_t *p, int64_t n, int32_t *dst)
{
    switch (format) {
    case 8:
        for (int64_t i = 0; i < n; i++) dst[i] = sign_extend(p[i], 8);
        break;
    case 16:
        for (int64_t i = 0; i < n; i++) dst[i] = little16(p + 2 * i);
        break;
    case 24:
        for (int64_t i = 0; i < n; i++) {
            const uint8_t *q = p + 3 * i;
            dst[i] = sign_extend((uint32_t)q[0] | (uint32_t)q[1] << 8 | (uint32_t)q[2] << 16, 24);
        }
        break;
    case 32:
        for (int64_t i = 0; i < n; i++) {
            const uint8_t *q = p + 4 * i;
            uint32_t low = (uint32_t)q[0] | (uint32_t)q[1] << 8 | (uint32_t)q[2] << 16;
            dst[i] = (int32_t)low + sign_extend(q[3], 8) * 16777216;
        }
        break;
    case 61: // as 16, high byte first
        for (int64_t i = 0; i < n; i++)
            dst[i] = sign_extend((uint32_t)p[2 * i] << 8 | (uint32_t)p[2 * i + 1], 16);
        break;
    case 80:
        for (int64_t i = 0; i < n; i++) dst[i] = (int32_t)p[i] - 128;
        break;
    case 160:
        for (int64_t i = 0; i < n; i++)
            dst[i] = (int32_t)((uint32_t)p[2 * i] | (uint32_t)p[2 * i + 1] << 8) - 32768;
        break;
    default:
        break;
    }
}

void pk_wfdb_unpack(int32_t format, const uint8_t *bytes, int64_t n, int32_t *dst, int32_t *invalid)
{
    const struct format *f = find(format);
    *invalid = f ? f->invalid : PK_WFDB_INVALID;
    if (format == 212)
        unpack212(bytes, n, dst);
    else if (format == 310)
        unpack310(bytes, n, dst);
    else if (format == 311)
        unpack311(bytes, n, dst);
    else
        unpack_bytes(format, bytes, n, dst);
}
