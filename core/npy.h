/* npy.h -- NumPy's .npy files, the plain exchange of arrays with everything else.
 *
 * Reads format versions 1, 2 and 3 (numpy.lib.format), C order, little-endian, of the types below;
 * refuses Fortran order, big-endian, structured and pickled arrays with a message that says how to
 * convert. Sizes are checked against the file before anything is allocated. Assumes a
 * little-endian host, as all of Purkinje does. */
#ifndef PK_NPY_H
#define PK_NPY_H

#include "core/base.h"

/* name, NumPy's letters, bytes of one element */
#define PK_NPY_TYPES(X)                                                                            \
    X(BOOL, "b1", 1)                                                                               \
    X(U8, "u1", 1)                                                                                 \
    X(I8, "i1", 1)                                                                                 \
    X(I16, "i2", 2)                                                                                \
    X(I32, "i4", 4)                                                                                \
    X(I64, "i8", 8)                                                                                \
    X(F16, "f2", 2)                                                                                \
    X(F32, "f4", 4)                                                                                \
    X(F64, "f8", 8)

enum pk_npy_type {
#define PK_X(name, letters, bytes) PK_NPY_##name,
    PK_NPY_TYPES(PK_X)
#undef PK_X
};

enum { PK_NPY_RANK_MAX = 8 };

struct pk_npy {
    enum pk_npy_type type;
    int rank;                       // 0 for a scalar
    int64_t shape[PK_NPY_RANK_MAX]; // [rank]
    int64_t count;                  // product of shape
    void *data;                     // [count] elements, owned
};

/* Bytes of one element. */
size_t pk_npy_size(enum pk_npy_type type);

/* Reads a whole file of at most `limit` bytes. Free with pk_npy_free, also after a failure.
 * Errors  PK_EIO    the file cannot be opened or read
 *         PK_EDATA  not an .npy file, a kind refused above, or its size is not what it says */
enum pk_status pk_npy_load(struct pk_npy *out, const char *path, size_t limit, struct pk_err *err);
void pk_npy_free(struct pk_npy *a);

/* Element i as a double (bool as 0 or 1; int64 beyond 2^53 is rounded); 0 <= i < count. */
double pk_npy_f64(const struct pk_npy *a, int64_t i);

/* Writes format version 1, atomically (path.part, then rename). data is [shape...], C order. */
enum pk_status pk_npy_save(const char *path, enum pk_npy_type type, int rank, const int64_t *shape,
                           const void *data, struct pk_err *err);

#endif
