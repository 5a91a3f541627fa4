/* tensor_stats.c -- statistics of a tensor in a file (see tensor_stats.h). */
#include "tools/tensor_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20 }; // bytes, a multiple of every element size

static double half_to_double(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double v;
    if (exponent == 31)
        v = fraction ? NAN : INFINITY;
    else if (exponent == 0)
        v = ldexp(fraction, -24);
    else
        v = ldexp(1024 + fraction, exponent - 25);
    return h & 0x8000 ? -v : v;
}

static double bfloat_to_double(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

/* Element i of a buffer of this type. */
static double element(const uint8_t *p, int64_t i, enum pk_tensor_type type)
{
#define LOAD(ctype)                                                                                \
    do {                                                                                           \
        ctype v;                                                                                   \
        memcpy(&v, p + (size_t)i * sizeof v, sizeof v);                                            \
        return (double)v;                                                                          \
    } while (0)
    uint16_t h;
    switch (type) {
    case PK_TENSOR_BOOL:
    case PK_TENSOR_U8:
        LOAD(uint8_t);
    case PK_TENSOR_I8:
        LOAD(int8_t);
    case PK_TENSOR_I16:
        LOAD(int16_t);
    case PK_TENSOR_U16:
        LOAD(uint16_t);
    case PK_TENSOR_I32:
        LOAD(int32_t);
    case PK_TENSOR_U32:
        LOAD(uint32_t);
    case PK_TENSOR_F32:
        LOAD(float);
    case PK_TENSOR_F64:
        LOAD(double);
    case PK_TENSOR_I64:
        LOAD(int64_t);
    case PK_TENSOR_U64:
        LOAD(uint64_t);
    case PK_TENSOR_F16:
        memcpy(&h, p + 2 * i, sizeof h);
        return half_to_double(h);
    case PK_TENSOR_BF16:
        memcpy(&h, p + 2 * i, sizeof h);
        return bfloat_to_double(h);
    }
#undef LOAD
    return NAN;
}

enum pk_status pk_tensor_stats(const struct pk_safetensors *st, const struct pk_tensor_info *t,
                               struct pk_tensor_stats *out, struct pk_err *err)
{
    uint8_t *piece;
    int64_t size = pk_tensor_type_bytes(t->type), finite = 0;
    double shift = 0, sum = 0, squares = 0;
    enum pk_status s = PK_OK;
    *out = (struct pk_tensor_stats){
        .elements = t->bytes / size, .min = NAN, .max = NAN, .mean = NAN, .std = NAN};
    PK_TRY(pk_alloc(&piece, PIECE, 1, "statistics", err));
    for (int64_t at = 0; at < t->bytes && s == PK_OK; at += PIECE) {
        int64_t n = PK_MIN(t->bytes - at, (int64_t)PIECE);
        if ((s = pk_safetensors_pread(st, t, at, piece, n, err)) != PK_OK) break;
        for (int64_t i = 0; i < n / size; i++) {
            double x = element(piece, i, t->type);
            out->nan += isnan(x) != 0;
            out->infinite += isinf(x) != 0;
            if (!isfinite(x)) continue;
            if (finite++ == 0) shift = out->min = out->max = x;
            out->min = fmin(out->min, x);
            out->max = fmax(out->max, x);
            sum += x - shift;
            squares += (x - shift) * (x - shift);
        }
    }
    free(piece);
    if (s != PK_OK || finite == 0) return s;
    double mean = sum / (double)finite;
    out->mean = shift + mean;
    out->std = sqrt(fmax(0, squares / (double)finite - mean * mean));
    return PK_OK;
}
