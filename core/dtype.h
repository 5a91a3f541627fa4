/* dtype.h -- element types of values. */
#ifndef PK_DTYPE_H
#define PK_DTYPE_H

#include <stddef.h>

/* name, bytes */
#define PK_DTYPES(X) X(F32, 4) X(BF16, 2) X(I16, 2) X(I32, 4) X(I64, 8) X(U8, 1)

enum pk_dtype {
#define PK_X(name, bytes) PK_##name,
    PK_DTYPES(PK_X)
#undef PK_X
};

static inline size_t pk_dtype_size(enum pk_dtype t)
{
    static const unsigned char bytes[] = {
#define PK_X(name, bytes) bytes,
        PK_DTYPES(PK_X)
#undef PK_X
    };
    return bytes[t];
}

static inline const char *pk_dtype_name(enum pk_dtype t)
{
    static const char *const names[] = {"f32", "bf16", "i16", "i32", "i64", "u8"};
    return names[t];
}

/* A label of PK_U8 that is not known; in labels and targets of PK_F32 that is NaN. */
enum { PK_LABEL_MISSING = 255 };

#endif
