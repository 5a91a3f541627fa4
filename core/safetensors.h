/* safetensors.h -- named tensors in a file, in the format of huggingface/safetensors.
 *
 *     8 bytes   length of the header, little-endian
 *     header    JSON, padded with spaces to a multiple of 8:
 *               {"__metadata__": {"k": "v"}, "name": {"dtype", "shape", "data_offsets"}, ...}
 *     data      the tensors, little-endian, row-major, tiling the rest of the file exactly
 *
 * Written: largest element first, then by name, so that every tensor is aligned to its element.
 * Read: any order, but duplicates, holes, overlaps, truncation, surplus bytes and unknown types are
 * refused with expected and actual sizes. Headers are limited to 16 MiB. Reading uses pread and
 * never mmap, so that a file truncated meanwhile is an error and not a SIGBUS.
 * Little-endian hosts only. */
#ifndef PK_SAFETENSORS_H
#define PK_SAFETENSORS_H

#include "core/base.h"

enum { PK_SAFETENSORS_RANK_MAX = 8, PK_SAFETENSORS_HEADER_MAX = 16 << 20 };

/* name in the file, bytes per element */
#define PK_SAFETENSORS_TYPES(X)                                                                    \
    X(BOOL, 1)                                                                                     \
    X(U8, 1)                                                                                       \
    X(I8, 1)                                                                                       \
    X(I16, 2)                                                                                      \
    X(U16, 2)                                                                                      \
    X(F16, 2)                                                                                      \
    X(BF16, 2)                                                                                     \
    X(I32, 4)                                                                                      \
    X(U32, 4)                                                                                      \
    X(F32, 4)                                                                                      \
    X(F64, 8)                                                                                      \
    X(I64, 8)                                                                                      \
    X(U64, 8)

enum pk_tensor_type {
#define PK_X(name, bytes) PK_TENSOR_##name,
    PK_SAFETENSORS_TYPES(PK_X)
#undef PK_X
};

const char *pk_tensor_type_name(enum pk_tensor_type t); // "F32", static
int64_t pk_tensor_type_bytes(enum pk_tensor_type t);    // of one element

/* A tensor in memory, to be written or to be read into. Borrows everything. */
struct pk_tensor_ref {
    const char *name; // "blocks.0.attn.qkv.weight"
    enum pk_tensor_type type;
    int32_t rank;                           // 0 is a scalar
    int64_t shape[PK_SAFETENSORS_RANK_MAX]; // elements
    void *data;                             // contiguous; only read from when writing
};
/* Bytes of the data, or -1 when the shape is negative, too deep or overflows. */
int64_t pk_tensor_ref_bytes(const struct pk_tensor_ref *t);

struct pk_metadata {
    const char *key, *value;
};

/* Bytes the file will have. */
enum pk_status pk_safetensors_size(const struct pk_tensor_ref *tensor, int64_t count,
                                   const struct pk_metadata *meta, int64_t metas, int64_t *bytes,
                                   struct pk_err *err);

struct pk_sink;
/* Writes into an open sink, which the caller closes or drops.
 * Errors  PK_EINVAL  a duplicate or reserved name, a bad shape, a header over the limit
 *         PK_EWRITE  the disk refused */
enum pk_status pk_safetensors_put(struct pk_sink *sink, const struct pk_tensor_ref *tensor,
                                  int64_t count, const struct pk_metadata *meta, int64_t metas,
                                  struct pk_err *err);
/* Writes the file atomically: path.part, fsync, rename, fsync of the folder. On failure whatever
 * was at `path` is untouched and nothing new is left behind. */
enum pk_status pk_safetensors_write(const char *path, const struct pk_tensor_ref *tensor,
                                    int64_t count, const struct pk_metadata *meta, int64_t metas,
                                    struct pk_err *err);

/* A tensor in a file. */
struct pk_tensor_info {
    char *name; // owned by the pk_safetensors
    enum pk_tensor_type type;
    int32_t rank;
    int64_t shape[PK_SAFETENSORS_RANK_MAX];
    int64_t offset; // from the start of the file, bytes
    int64_t bytes;
};

struct pk_safetensors {
    char path[PK_PATH_MAX];
    int fd;
    int64_t file_bytes;
    int64_t count;
    struct pk_tensor_info *tensor; // [count], in the order of the file
    int64_t *by_name;              // [count], indices into tensor, sorted by name
    int64_t metas;
    struct pk_metadata *meta; // [metas], owned
};

/* Reads and checks the header; data stays on disk.
 * Errors  PK_EIO    the file cannot be opened or read
 *         PK_EDATA  it is not a safetensors file, or a damaged one */
enum pk_status pk_safetensors_open(struct pk_safetensors *out, const char *path,
                                   struct pk_err *err);
void pk_safetensors_close(struct pk_safetensors *st); // safe on a zeroed struct
/* NULL when there is none. */
const struct pk_tensor_info *pk_safetensors_find(const struct pk_safetensors *st, const char *name);
const char *pk_safetensors_metadata(const struct pk_safetensors *st, const char *key);
/* Reads `bytes` bytes at `from` of a tensor (both in bytes). Safe from several threads. */
enum pk_status pk_safetensors_pread(const struct pk_safetensors *st, const struct pk_tensor_info *t,
                                    int64_t from, void *dst, int64_t bytes, struct pk_err *err);
/* Reads tensors into the caller's buffers; name, type and shape must match exactly. With `exact`
 * the file must hold no other tensors. Everything is compared before anything is read, and all
 * differences are listed (PK_EDATA). */
enum pk_status pk_safetensors_read(const struct pk_safetensors *st,
                                   const struct pk_tensor_ref *tensor, int64_t count, bool exact,
                                   struct pk_err *err);
/* "[4, 1152, 384]" */
void pk_shape_text(char out[160], int32_t rank, const int64_t *shape);

#endif
