/* safetensors.c -- writing safetensors files, and types and shapes (see safetensors.h). */
#include "core/safetensors.h"

#include "core/json.h"
#include "core/sink.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *pk_tensor_type_name(enum pk_tensor_type t)
{
    static const char *const names[] = {
#define PK_X(name, bytes) #name,
        PK_SAFETENSORS_TYPES(PK_X)
#undef PK_X
    };
    return (size_t)t < PK_COUNT(names) ? names[t] : "?";
}

int64_t pk_tensor_type_bytes(enum pk_tensor_type t)
{
    static const uint8_t sizes[] = {
#define PK_X(name, bytes) bytes,
        PK_SAFETENSORS_TYPES(PK_X)
#undef PK_X
    };
    return (size_t)t < PK_COUNT(sizes) ? sizes[t] : 0;
}

int64_t pk_tensor_ref_bytes(const struct pk_tensor_ref *t)
{
    int64_t n = pk_tensor_type_bytes(t->type);
    bool empty = false;
    if (n == 0 || t->rank < 0 || t->rank > PK_SAFETENSORS_RANK_MAX) return -1;
    for (int i = 0; i < t->rank; i++) {
        if (t->shape[i] < 0) return -1;
        if (t->shape[i] == 0)
            empty = true;
        else if (n > INT64_MAX / t->shape[i])
            return -1;
        else
            n *= t->shape[i];
    }
    return empty ? 0 : n;
}

void pk_shape_text(char out[160], int32_t rank, const int64_t *shape)
{
    size_t used = (size_t)snprintf(out, 160, "[");
    for (int i = 0; i < rank && used < 130; i++)
        used +=
            (size_t)snprintf(out + used, 160 - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(out + used, 160 - used, "]");
}

static int by_element_then_name(const void *x, const void *y)
{
    const struct pk_tensor_ref *a = *(const struct pk_tensor_ref *const *)x;
    const struct pk_tensor_ref *b = *(const struct pk_tensor_ref *const *)y;
    int64_t p = pk_tensor_type_bytes(a->type), q = pk_tensor_type_bytes(b->type);
    return p != q ? (p > q ? -1 : 1) : strcmp(a->name, b->name);
}

static int by_name(const void *x, const void *y)
{
    const struct pk_tensor_ref *a = *(const struct pk_tensor_ref *const *)x;
    const struct pk_tensor_ref *b = *(const struct pk_tensor_ref *const *)y;
    return strcmp(a->name, b->name);
}

static int metadata_by_key(const void *x, const void *y)
{
    const struct pk_metadata *a = *(const struct pk_metadata *const *)x;
    const struct pk_metadata *b = *(const struct pk_metadata *const *)y;
    return strcmp(a->key, b->key);
}

/* Allocates *order [count] of pointers into tensor, in the order of the file. */
static enum pk_status file_order(const struct pk_tensor_ref *tensor, int64_t count,
                                 const struct pk_tensor_ref ***order, struct pk_err *err)
{
    PK_TRY(pk_alloc(order, (size_t)count, sizeof **order, "tensor order", err));
    for (int64_t i = 0; i < count; i++) (*order)[i] = &tensor[i];
    qsort(*order, (size_t)count, sizeof **order, by_name);
    for (int64_t i = 0; i < count; i++) {
        const char *name = (*order)[i]->name;
        enum pk_status s = PK_OK;
        if (!strcmp(name, "__metadata__"))
            s = pk_fail(err, PK_EINVAL, "a tensor cannot be named __metadata__");
        else if (i && !strcmp(name, (*order)[i - 1]->name))
            s = pk_fail(err, PK_EINVAL, "two tensors are named '%s'", name);
        else if (pk_tensor_ref_bytes((*order)[i]) < 0)
            s = pk_fail(err, PK_EINVAL, "tensor '%s' has an impossible type or shape", name);
        if (s == PK_OK) continue;
        free(*order);
        *order = NULL;
        return s;
    }
    qsort(*order, (size_t)count, sizeof **order, by_element_then_name);
    return PK_OK;
}

static enum pk_status put_metadata(struct pk_json_writer *w, const struct pk_metadata *meta,
                                   int64_t metas, struct pk_err *err)
{
    const struct pk_metadata **sorted;
    enum pk_status s = PK_OK;
    if (metas == 0) return PK_OK;
    PK_TRY(pk_alloc(&sorted, (size_t)metas, sizeof *sorted, "metadata", err));
    for (int64_t i = 0; i < metas; i++) sorted[i] = &meta[i];
    qsort(sorted, (size_t)metas, sizeof *sorted, metadata_by_key);
    pk_json_open(w, "__metadata__", '{');
    for (int64_t i = 0; i < metas && s == PK_OK; i++) {
        if (i && !strcmp(sorted[i]->key, sorted[i - 1]->key))
            s = pk_fail(err, PK_EINVAL, "metadata key '%s' is given twice", sorted[i]->key);
        else
            pk_json_put_string(w, sorted[i]->key, sorted[i]->value);
    }
    pk_json_close(w);
    free(sorted);
    return s;
}

/* The header with its padding, without the length in front; *data gets the bytes of the data. */
static enum pk_status make_header(struct pk_text *out, const struct pk_tensor_ref *const *order,
                                  int64_t count, const struct pk_metadata *meta, int64_t metas,
                                  int64_t *data, struct pk_err *err)
{
    struct pk_json_writer w = {.out = out};
    int64_t at = 0;
    pk_json_open(&w, NULL, '{');
    PK_TRY(put_metadata(&w, meta, metas, err));
    for (int64_t i = 0; i < count; i++) {
        int64_t n = pk_tensor_ref_bytes(order[i]);
        if (n > INT64_MAX / 2 - at) return pk_fail(err, PK_EINVAL, "the tensors overflow a file");
        pk_json_open(&w, order[i]->name, '{');
        pk_json_put_string(&w, "dtype", pk_tensor_type_name(order[i]->type));
        pk_json_open(&w, "shape", '[');
        for (int d = 0; d < order[i]->rank; d++) pk_json_put_i64(&w, NULL, order[i]->shape[d]);
        pk_json_close(&w);
        pk_json_open(&w, "data_offsets", '[');
        pk_json_put_i64(&w, NULL, at);
        pk_json_put_i64(&w, NULL, at + n);
        pk_json_close(&w);
        pk_json_close(&w);
        at += n;
    }
    pk_json_close(&w);
    while (out->len % 8 && !out->failed) pk_text_bytes(out, " ", 1);
    if (out->failed) return pk_fail(err, PK_ENOMEM, "out of memory for a safetensors header");
    if (out->len > PK_SAFETENSORS_HEADER_MAX)
        return pk_fail(err, PK_EINVAL, "a safetensors header of %zu bytes; the limit is %d",
                       out->len, PK_SAFETENSORS_HEADER_MAX);
    *data = at;
    return PK_OK;
}

enum pk_status pk_safetensors_size(const struct pk_tensor_ref *tensor, int64_t count,
                                   const struct pk_metadata *meta, int64_t metas, int64_t *bytes,
                                   struct pk_err *err)
{
    const struct pk_tensor_ref **order;
    struct pk_text header = {0};
    int64_t data = 0;
    PK_TRY(file_order(tensor, count, &order, err));
    enum pk_status s = make_header(&header, order, count, meta, metas, &data, err);
    *bytes = 8 + (int64_t)header.len + data;
    pk_text_free(&header);
    free(order);
    return s;
}

enum pk_status pk_safetensors_put(struct pk_sink *sink, const struct pk_tensor_ref *tensor,
                                  int64_t count, const struct pk_metadata *meta, int64_t metas,
                                  struct pk_err *err)
{
    const struct pk_tensor_ref **order;
    struct pk_text header = {0};
    int64_t data;
    PK_TRY(file_order(tensor, count, &order, err));
    enum pk_status s = make_header(&header, order, count, meta, metas, &data, err);
    if (s == PK_OK) {
        uint64_t n = header.len;
        sink->need = PK_MAX(sink->need, sink->bytes + 8 + (int64_t)n + data);
        s = pk_sink_write(sink, &n, sizeof n, err);
        if (s == PK_OK) s = pk_sink_write(sink, header.s, header.len, err);
    }
    for (int64_t i = 0; i < count && s == PK_OK; i++)
        s = pk_sink_write(sink, order[i]->data, (size_t)pk_tensor_ref_bytes(order[i]), err);
    pk_text_free(&header);
    free(order);
    return s;
}

enum pk_status pk_safetensors_write(const char *path, const struct pk_tensor_ref *tensor,
                                    int64_t count, const struct pk_metadata *meta, int64_t metas,
                                    struct pk_err *err)
{
    struct pk_sink sink;
    char part[PK_PATH_MAX];
    PK_TRY(pk_path(part, err, "%s.part", path));
    enum pk_status s = pk_sink_open(&sink, part, 0, err);
    if (s != PK_OK) return s;
    if ((s = pk_safetensors_put(&sink, tensor, count, meta, metas, err)) != PK_OK) goto fail;
    if ((s = pk_sink_close(&sink, err)) != PK_OK) goto fail;
    if ((s = pk_rename(part, path, err)) != PK_OK) goto fail;
    return pk_fsync_parent(path, err);
fail:
    pk_sink_drop(&sink);
    return s;
}
