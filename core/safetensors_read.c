/* safetensors_read.c -- reading safetensors files that may be damaged or hostile (see
 * safetensors.h).
 *
 * The header is the only part that is parsed. Its JSON tree costs some 90 bytes per value, so a
 * header is also refused when it has more commas than a file of 100,000 tensors would. */
#include "core/json.h"
#include "core/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COMMAS_MAX = 1000000 };

static bool type_from_name(const char *name, enum pk_tensor_type *out)
{
    static const char *const names[] = {
#define PK_X(name, bytes) #name,
        PK_SAFETENSORS_TYPES(PK_X)
#undef PK_X
    };
    for (size_t i = 0; i < PK_COUNT(names); i++) {
        if (strcmp(names[i], name) != 0) continue;
        *out = (enum pk_tensor_type)i;
        return true;
    }
    return false;
}

static enum pk_status bad(const struct pk_safetensors *st, struct pk_err *err, const char *name,
                          const char *what)
{
    return pk_fail(err, PK_EDATA, "%s: tensor '%.200s': %s", st->path, name, what);
}

/* A tensor's entry of the header; offsets become offsets in the file. */
static enum pk_status read_entry(struct pk_safetensors *st, const char *name,
                                 const struct pk_json *j, int64_t data_start, struct pk_err *err)
{
    struct pk_tensor_info *t = &st->tensor[st->count];
    const struct pk_json *shape = pk_json_get(j, "shape"), *at = pk_json_get(j, "data_offsets");
    const char *type = pk_json_string(j, "dtype", NULL);
    char text[160];
    if (!type || !shape || !at || j->count != 3)
        return bad(st, err, name, "expected exactly dtype, shape and data_offsets");
    if (!type_from_name(type, &t->type))
        return pk_fail(err, PK_EDATA, "%s: tensor '%.200s' has the unknown type '%.40s'", st->path,
                       name, type);
    if (shape->kind != PK_JSON_ARRAY || shape->count > PK_SAFETENSORS_RANK_MAX)
        return bad(st, err, name, "the shape is not an array of at most 8 sizes");
    struct pk_tensor_ref ref = {.type = t->type, .rank = (int32_t)shape->count};
    for (int64_t i = 0; i < shape->count; i++) {
        if (!shape->item[i].is_integer) return bad(st, err, name, "a size is not a whole number");
        ref.shape[i] = t->shape[i] = shape->item[i].integer;
    }
    t->rank = ref.rank;
    t->bytes = pk_tensor_ref_bytes(&ref);
    if (t->bytes < 0) return bad(st, err, name, "the shape is negative or overflows");
    if (at->kind != PK_JSON_ARRAY || at->count != 2 || !at->item[0].is_integer ||
        !at->item[1].is_integer)
        return bad(st, err, name, "data_offsets are not two whole numbers");
    int64_t begin = at->item[0].integer, end = at->item[1].integer;
    if (begin < 0 || end < begin || end > INT64_MAX / 2)
        return bad(st, err, name, "data_offsets are negative, reversed or too large");
    if (end - begin != t->bytes) {
        pk_shape_text(text, t->rank, t->shape);
        return pk_fail(err, PK_EDATA,
                       "%s: tensor '%.200s': %s %s needs %lld bytes, data_offsets give %lld",
                       st->path, name, type, text, (long long)t->bytes, (long long)(end - begin));
    }
    t->offset = data_start + begin;
    t->name = pk_strdup(name);
    if (!t->name) return pk_fail(err, PK_ENOMEM, "out of memory reading %s", st->path);
    st->count++;
    return PK_OK;
}

static enum pk_status read_metadata(struct pk_safetensors *st, const struct pk_json *j,
                                    struct pk_err *err)
{
    if (j->kind != PK_JSON_OBJECT)
        return pk_fail(err, PK_EDATA, "%s: __metadata__ is not an object", st->path);
    PK_TRY(pk_alloc(&st->meta, (size_t)j->count, sizeof *st->meta, "metadata", err));
    for (int64_t i = 0; i < j->count; i++) {
        if (j->item[i].kind != PK_JSON_STRING)
            return pk_fail(err, PK_EDATA, "%s: metadata '%.200s' is not a string", st->path,
                           j->key[i]);
        struct pk_metadata m = {pk_strdup(j->key[i]), pk_strdup(j->item[i].string)};
        st->meta[st->metas++] = m;
        if (!m.key || !m.value)
            return pk_fail(err, PK_ENOMEM, "out of memory reading %s", st->path);
    }
    return PK_OK;
}

static int by_offset(const void *x, const void *y)
{
    const struct pk_tensor_info *a = x, *b = y;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1; // empty ones come first
    return strcmp(a->name, b->name);
}

/* qsort has no context argument, so names are sorted through pointers to the entries. */
static int by_name(const void *x, const void *y)
{
    return strcmp((*(struct pk_tensor_info *const *)x)->name,
                  (*(struct pk_tensor_info *const *)y)->name);
}

static enum pk_status sort_names(struct pk_safetensors *st, struct pk_err *err)
{
    struct pk_tensor_info **p;
    PK_TRY(pk_alloc(&st->by_name, (size_t)st->count, sizeof *st->by_name, "tensor index", err));
    PK_TRY(pk_alloc(&p, (size_t)st->count, sizeof *p, "tensor index", err));
    for (int64_t i = 0; i < st->count; i++) p[i] = &st->tensor[i];
    qsort(p, (size_t)st->count, sizeof *p, by_name);
    for (int64_t i = 0; i < st->count; i++) st->by_name[i] = p[i] - st->tensor;
    free(p);
    return PK_OK;
}

/* The tensors must tile [data_start, end of file) exactly. */
static enum pk_status check_tiling(const struct pk_safetensors *st, int64_t data_start,
                                   struct pk_err *err)
{
    int64_t at = data_start;
    for (int64_t i = 0; i < st->count; i++) {
        const struct pk_tensor_info *t = &st->tensor[i];
        if (t->offset != at)
            return pk_fail(err, PK_EDATA,
                           "%s: %s: tensor '%.200s' starts at byte %lld of the data, expected %lld",
                           st->path, t->offset > at ? "a hole" : "tensors overlap", t->name,
                           (long long)(t->offset - data_start), (long long)(at - data_start));
        at += t->bytes;
    }
    if (at > st->file_bytes)
        return pk_fail(err, PK_EDATA,
                       "%s is truncated: the header promises %lld bytes, it has %lld", st->path,
                       (long long)at, (long long)st->file_bytes);
    if (at < st->file_bytes)
        return pk_fail(err, PK_EDATA,
                       "%s has surplus bytes: the header accounts for %lld bytes, it has %lld",
                       st->path, (long long)at, (long long)st->file_bytes);
    return PK_OK;
}

static enum pk_status parse_header(struct pk_safetensors *st, const char *text, size_t n,
                                   struct pk_err *err)
{
    struct pk_json j;
    int64_t commas = 0, data_start = 8 + (int64_t)n;
    for (size_t i = 0; i < n; i++) commas += text[i] == ',';
    if (commas > COMMAS_MAX)
        return pk_fail(err, PK_EDATA, "%s: the header lists more than 100,000 tensors", st->path);
    if (text[0] != '{')
        return pk_fail(err, PK_EDATA, "%s: not a safetensors file: the header is not JSON",
                       st->path);
    PK_TRY(pk_json_parse(&j, text, n, st->path, err));
    enum pk_status s = pk_alloc(&st->tensor, (size_t)j.count, sizeof *st->tensor, "tensors", err);
    for (int64_t i = 0; i < j.count && s == PK_OK; i++)
        s = !strcmp(j.key[i], "__metadata__")
                ? read_metadata(st, &j.item[i], err)
                : read_entry(st, j.key[i], &j.item[i], data_start, err);
    pk_json_free(&j);
    if (s != PK_OK) return s;
    qsort(st->tensor, (size_t)st->count, sizeof *st->tensor, by_offset);
    PK_TRY(check_tiling(st, data_start, err));
    return sort_names(st, err);
}

static enum pk_status read_header(struct pk_safetensors *st, struct pk_err *err)
{
    uint64_t n;
    char *text;
    if (st->file_bytes < 10)
        return pk_fail(err, PK_EDATA, "%s: not a safetensors file: %lld bytes, the least is 10",
                       st->path, (long long)st->file_bytes);
    PK_TRY(pk_pread(st->fd, &n, sizeof n, 0, st->path, err));
    if (n < 2 || n > PK_SAFETENSORS_HEADER_MAX)
        return pk_fail(err, PK_EDATA,
                       "%s: not a safetensors file: header length %llu, expected 2 to %d", st->path,
                       (unsigned long long)n, PK_SAFETENSORS_HEADER_MAX);
    if ((int64_t)n > st->file_bytes - 8)
        return pk_fail(err, PK_EDATA,
                       "%s is truncated: the header alone ends at byte %llu, the file at %lld",
                       st->path, (unsigned long long)n + 8, (long long)st->file_bytes);
    PK_TRY(pk_alloc(&text, (size_t)n + 1, 1, "safetensors header", err));
    enum pk_status s = pk_pread(st->fd, text, (size_t)n, 8, st->path, err);
    if (s == PK_OK) s = parse_header(st, text, (size_t)n, err);
    free(text);
    return s;
}

enum pk_status pk_safetensors_open(struct pk_safetensors *out, const char *path, struct pk_err *err)
{
    struct stat info;
    *out = (struct pk_safetensors){.fd = -1};
    PK_TRY(pk_path(out->path, err, "%s", path));
    out->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (out->fd < 0) return pk_fail_errno(err, PK_EIO, "cannot open %s", path);
    enum pk_status s = PK_OK;
    if (fstat(out->fd, &info) != 0)
        s = pk_fail_errno(err, PK_EIO, "cannot stat %s", path);
    else if (!S_ISREG(info.st_mode))
        s = pk_fail(err, PK_EIO, "%s is not a regular file", path);
    if (s == PK_OK) {
        out->file_bytes = info.st_size;
        s = read_header(out, err);
    }
    if (s != PK_OK) pk_safetensors_close(out);
    return s;
}

void pk_safetensors_close(struct pk_safetensors *st)
{
    for (int64_t i = 0; i < st->count; i++) free(st->tensor[i].name);
    for (int64_t i = 0; i < st->metas; i++) {
        free((char *)st->meta[i].key);
        free((char *)st->meta[i].value);
    }
    free(st->tensor);
    free(st->by_name);
    free(st->meta);
    if (st->path[0] && st->fd >= 0) close(st->fd);
    *st = (struct pk_safetensors){.fd = -1};
}

const struct pk_tensor_info *pk_safetensors_find(const struct pk_safetensors *st, const char *name)
{
    int64_t low = 0, high = st->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        const struct pk_tensor_info *t = &st->tensor[st->by_name[middle]];
        int order = strcmp(name, t->name);
        if (order == 0) return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *pk_safetensors_metadata(const struct pk_safetensors *st, const char *key)
{
    for (int64_t i = 0; i < st->metas; i++)
        if (!strcmp(st->meta[i].key, key)) return st->meta[i].value;
    return NULL;
}

enum pk_status pk_safetensors_pread(const struct pk_safetensors *st, const struct pk_tensor_info *t,
                                    int64_t from, void *dst, int64_t bytes, struct pk_err *err)
{
    if (from < 0 || bytes < 0 || from > t->bytes - bytes)
        return pk_fail(err, PK_EINTERNAL, "%s: bytes %lld+%lld of tensor '%s', which has %lld",
                       st->path, (long long)from, (long long)bytes, t->name, (long long)t->bytes);
    return pk_pread(st->fd, dst, (size_t)bytes, t->offset + from, st->path, err);
}

/* Adds a line to the list of differences; the list stops growing after ten. */
static void differ(struct pk_text *list, int *differences, const char *name, const char *what)
{
    if (++*differences <= 10) pk_text_add(list, "\n  %.200s: %s", name, what);
}

static void compare(struct pk_text *list, int *differences, const struct pk_tensor_ref *want,
                    const struct pk_tensor_info *have)
{
    char wanted[160], found[160], line[400];
    if (!have) {
        differ(list, differences, want->name, "missing from the file");
        return;
    }
    bool same = want->type == have->type && want->rank == have->rank;
    for (int i = 0; same && i < want->rank; i++) same = want->shape[i] == have->shape[i];
    if (same) return;
    pk_shape_text(wanted, want->rank, want->shape);
    pk_shape_text(found, have->rank, have->shape);
    snprintf(line, sizeof line, "expected %s %s, the file has %s %s",
             pk_tensor_type_name(want->type), wanted, pk_tensor_type_name(have->type), found);
    differ(list, differences, want->name, line);
}

/* Marks what is wanted by index and lists what nobody wants. */
static enum pk_status list_surplus(const struct pk_safetensors *st,
                                   const struct pk_tensor_ref *tensor, int64_t count,
                                   struct pk_text *list, int *differences, struct pk_err *err)
{
    bool *wanted;
    PK_TRY(pk_alloc(&wanted, (size_t)st->count, sizeof *wanted, "tensor index", err));
    for (int64_t i = 0; i < count; i++) {
        const struct pk_tensor_info *t = pk_safetensors_find(st, tensor[i].name);
        if (t) wanted[t - st->tensor] = true;
    }
    for (int64_t i = 0; i < st->count; i++)
        if (!wanted[i]) differ(list, differences, st->tensor[i].name, "in the file, not expected");
    free(wanted);
    return PK_OK;
}

enum pk_status pk_safetensors_read(const struct pk_safetensors *st,
                                   const struct pk_tensor_ref *tensor, int64_t count, bool exact,
                                   struct pk_err *err)
{
    struct pk_text list = {0};
    int differences = 0;
    enum pk_status s = PK_OK;
    for (int64_t i = 0; i < count; i++)
        compare(&list, &differences, &tensor[i], pk_safetensors_find(st, tensor[i].name));
    if (exact) s = list_surplus(st, tensor, count, &list, &differences, err);
    if (s == PK_OK && differences)
        s = pk_fail(err, PK_EDATA, "%s does not fit this model; %d tensors differ:%s%s", st->path,
                    differences, list.s ? list.s : "", differences > 10 ? "\n  ..." : "");
    pk_text_free(&list);
    for (int64_t i = 0; i < count && s == PK_OK; i++) {
        const struct pk_tensor_info *t = pk_safetensors_find(st, tensor[i].name);
        s = pk_safetensors_pread(st, t, 0, tensor[i].data, t->bytes, err);
    }
    return s;
}
