/* npy.c -- reading and writing .npy files (see npy.h).
 *
 * Layout: "\x93NUMPY", major, minor, header length (2 bytes in version 1, else 4), a Python dict
 * literal with the keys descr, fortran_order and shape, then the elements. */
#include "core/npy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { HEADER_MAX = 65536 }; // NumPy writes about 120 bytes

static const struct {
    char letters[3];
    size_t size;
} types[] = {
#define PK_X(name, letters, bytes) {letters, bytes},
    PK_NPY_TYPES(PK_X)
#undef PK_X
};

size_t pk_npy_size(enum pk_npy_type type)
{
    return (size_t)type < PK_COUNT(types) ? types[type].size : 0;
}

/* Parsing of the dict literal. The cursor stays on the NUL when the text ends. */
struct cursor {
    const char *at;
    const char *path;
    struct pk_err *err;
};

static bool take(struct cursor *c, const char *word)
{
    size_t n = strlen(word);
    while (*c->at == ' ' || *c->at == '\n' || *c->at == '\t') c->at++;
    if (strncmp(c->at, word, n) != 0) return false;
    c->at += n;
    return true;
}

static enum pk_status bad_header(const struct cursor *c, const char *wanted)
{
    return pk_fail(c->err, PK_EDATA, "%s: malformed .npy header: %s expected at '%.24s'", c->path,
                   wanted, c->at);
}

static enum pk_status read_descr(struct cursor *c, struct pk_npy *out)
{
    if (take(c, "["))
        return pk_fail(c->err, PK_EDATA,
                       "%s: structured .npy arrays are not read; save one column alone", c->path);
    if (!take(c, "'") && !take(c, "\"")) return bad_header(c, "a quoted type");
    char order = *c->at;
    if (order) c->at++;
    for (size_t i = 0; i < PK_COUNT(types); i++) {
        if (strncmp(c->at, types[i].letters, 2) != 0) continue;
        if (c->at[2] != '\'' && c->at[2] != '"') break;
        if (order == '>' && types[i].size > 1)
            return pk_fail(c->err, PK_EDATA,
                           "%s: big-endian .npy ('>%s'); save a.astype('<%s') instead", c->path,
                           types[i].letters, types[i].letters);
        if (order != '<' && order != '|' && order != '=' && order != '>') break;
        out->type = (enum pk_npy_type)i;
        c->at += 3;
        return PK_OK;
    }
    return pk_fail(
        c->err, PK_EDATA,
        "%s: .npy type '%c%.*s' is not read; save as bool, u1, i1, i2, i4, i8, f2, f4 or f8",
        c->path, order ? order : ' ', (int)PK_MIN(strcspn(c->at, "'\""), (size_t)8), c->at);
}

static enum pk_status read_shape(struct cursor *c, struct pk_npy *out)
{
    if (!take(c, "(")) return bad_header(c, "a tuple");
    out->rank = 0;
    out->count = 1;
    while (!take(c, ")")) {
        int64_t n = 0;
        if (out->rank == PK_NPY_RANK_MAX)
            return pk_fail(c->err, PK_EDATA, "%s: more than %d dimensions", c->path,
                           PK_NPY_RANK_MAX);
        if (*c->at < '0' || *c->at > '9') return bad_header(c, "a dimension");
        for (; *c->at >= '0' && *c->at <= '9'; c->at++) {
            if (n > (INT64_MAX - 9) / 10) return bad_header(c, "a dimension below 2^63");
            n = 10 * n + (*c->at - '0');
        }
        if (n && out->count > INT64_MAX / 16 / n)
            return pk_fail(c->err, PK_EDATA, "%s: the shape has too many elements", c->path);
        out->shape[out->rank++] = n;
        out->count *= n;
        if (!take(c, ",")) {
            if (out->rank == 1 || !take(c, ")")) return bad_header(c, "',' or ')'");
            break;
        }
    }
    return PK_OK;
}

static enum pk_status read_fortran(struct cursor *c)
{
    if (take(c, "True"))
        return pk_fail(c->err, PK_EDATA,
                       "%s: .npy in Fortran order; save numpy.ascontiguousarray(a) instead",
                       c->path);
    return take(c, "False") ? PK_OK : bad_header(c, "True or False");
}

static enum pk_status read_header(struct cursor *c, struct pk_npy *out)
{
    bool descr = false, fortran = false, shape = false;
    if (!take(c, "{")) return bad_header(c, "'{'");
    while (!take(c, "}")) {
        if (!descr && take(c, "'descr'")) {
            if (!take(c, ":")) return bad_header(c, "':'");
            PK_TRY(read_descr(c, out));
            descr = true;
        } else if (!fortran && take(c, "'fortran_order'")) {
            if (!take(c, ":")) return bad_header(c, "':'");
            PK_TRY(read_fortran(c));
            fortran = true;
        } else if (!shape && take(c, "'shape'")) {
            if (!take(c, ":")) return bad_header(c, "':'");
            PK_TRY(read_shape(c, out));
            shape = true;
        } else {
            return bad_header(c, "one each of descr, fortran_order, shape");
        }
        if (!take(c, ",")) {
            if (!take(c, "}")) return bad_header(c, "',' or '}'");
            break;
        }
    }
    (void)take(c, ""); // skips the padding
    if (*c->at) return bad_header(c, "nothing more");
    return descr && fortran && shape ? PK_OK : bad_header(c, "all of descr, fortran_order, shape");
}

static enum pk_status get(FILE *f, void *dst, size_t n, const char *path, struct pk_err *err)
{
    if (fread(dst, 1, n, f) == n) return PK_OK;
    if (ferror(f)) return pk_fail_errno(err, PK_EIO, "cannot read %s", path);
    return pk_fail(err, PK_EDATA, "%s ends before its .npy header does", path);
}

/* Everything before the elements; *start is where these begin. */
static enum pk_status load_header(struct pk_npy *out, FILE *f, size_t *start, const char *path,
                                  struct pk_err *err)
{
    unsigned char fixed[8], length[4] = {0};
    char text[HEADER_MAX + 1];
    PK_TRY(get(f, fixed, sizeof fixed, path, err));
    if (memcmp(fixed, "\x93NUMPY", 6) != 0)
        return pk_fail(err, PK_EDATA, "%s is not an .npy file (it does not begin with \\x93NUMPY)",
                       path);
    if (fixed[6] < 1 || fixed[6] > 3)
        return pk_fail(err, PK_EDATA, "%s: .npy version %d.%d; 1, 2 and 3 are read", path, fixed[6],
                       fixed[7]);
    size_t wide = fixed[6] == 1 ? 2 : 4;
    PK_TRY(get(f, length, wide, path, err));
    size_t n =
        length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16 | (size_t)length[3] << 24;
    if (n > HEADER_MAX)
        return pk_fail(err, PK_EDATA, "%s: .npy header of %zu bytes; at most %d are read", path, n,
                       HEADER_MAX);
    PK_TRY(get(f, text, n, path, err));
    text[n] = 0;
    if (strlen(text) != n) return pk_fail(err, PK_EDATA, "%s: NUL in the .npy header", path);
    *start = sizeof fixed + wide + n;
    struct cursor c = {text, path, err};
    return read_header(&c, out);
}

static enum pk_status load_elements(struct pk_npy *out, FILE *f, size_t limit, const char *path,
                                    struct pk_err *err)
{
    struct stat st;
    size_t start = 0, size;
    if (fstat(fileno(f), &st) != 0) return pk_fail_errno(err, PK_EIO, "cannot stat %s", path);
    if (!S_ISREG(st.st_mode)) return pk_fail(err, PK_EIO, "%s is not a regular file", path);
    if ((uint64_t)st.st_size > limit)
        return pk_fail(err, PK_EDATA, "%s has %lld bytes, more than the %zu allowed here", path,
                       (long long)st.st_size, limit);
    PK_TRY(load_header(out, f, &start, path, err));
    size = (size_t)out->count * pk_npy_size(out->type);
    if ((uint64_t)st.st_size - start != size)
        return pk_fail(err, PK_EDATA,
                       "%s: %zu bytes of elements expected after its header, %lld found", path,
                       size, (long long)st.st_size - (long long)start);
    PK_TRY(pk_alloc_aligned(&out->data, PK_MAX(size, (size_t)1), 1, path, err));
    if (fread(out->data, 1, size, f) != size)
        return pk_fail_errno(err, PK_EIO, "cannot read the %zu bytes of %s", size, path);
    return PK_OK;
}

enum pk_status pk_npy_load(struct pk_npy *out, const char *path, size_t limit, struct pk_err *err)
{
    FILE *f = NULL;
    *out = (struct pk_npy){0};
    PK_TRY(pk_open(&f, path, "rb", err));
    enum pk_status s = load_elements(out, f, limit, path, err);
    fclose(f);
    if (s != PK_OK) pk_npy_free(out);
    return s;
}

void pk_npy_free(struct pk_npy *a)
{
    free(a->data);
    *a = (struct pk_npy){0};
}

static double from_half(uint16_t h)
{
    int exponent = h >> 10 & 31;
    double fraction = h & 1023, sign = h >> 15 ? -1 : 1;
    if (exponent == 31) return fraction != 0 ? NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, -24);
    return sign * ldexp(1024 + fraction, exponent - 25);
}

double pk_npy_f64(const struct pk_npy *a, int64_t i)
{
    switch (a->type) {
    case PK_NPY_BOOL:
        return ((const uint8_t *)a->data)[i] != 0;
    case PK_NPY_U8:
        return ((const uint8_t *)a->data)[i];
    case PK_NPY_I8:
        return ((const int8_t *)a->data)[i];
    case PK_NPY_I16:
        return ((const int16_t *)a->data)[i];
    case PK_NPY_I32:
        return ((const int32_t *)a->data)[i];
    case PK_NPY_I64:
        return (double)((const int64_t *)a->data)[i];
    case PK_NPY_F16:
        return from_half(((const uint16_t *)a->data)[i]);
    case PK_NPY_F32:
        return (double)((const float *)a->data)[i];
    case PK_NPY_F64:
        return ((const double *)a->data)[i];
    }
    return (double)NAN;
}

enum pk_status pk_npy_save(const char *path, enum pk_npy_type type, int rank, const int64_t *shape,
                           const void *data, struct pk_err *err)
{
    struct pk_text t = {0};
    size_t item = pk_npy_size(type), count = 1;
    if (!item || rank < 0 || rank > PK_NPY_RANK_MAX)
        return pk_fail(err, PK_EINVAL, "%s: an .npy file of type %d and rank %d cannot be written",
                       path, (int)type, rank);
    pk_text_bytes(&t, "\x93NUMPY\x01\x00..", 10);
    pk_text_add(&t, "{'descr': '%c%s', 'fortran_order': False, 'shape': (", item == 1 ? '|' : '<',
                types[type].letters);
    for (int i = 0; i < rank; i++) {
        if (shape[i] < 0 || (shape[i] && count > SIZE_MAX / 16 / (size_t)shape[i])) {
            pk_text_free(&t);
            return pk_fail(err, PK_ESHAPE, "%s: dimension %d is %lld", path, i,
                           (long long)shape[i]);
        }
        count *= (size_t)shape[i];
        pk_text_add(&t, rank == 1 ? "%lld," : i ? ", %lld" : "%lld", (long long)shape[i]);
    }
    pk_text_add(&t, "), }");
    while (!t.failed && t.len % 64 != 63) pk_text_bytes(&t, " ", 1); // elements start aligned
    pk_text_bytes(&t, "\n", 1);
    if (!t.failed) {
        t.s[8] = (char)((t.len - 10) & 255);
        t.s[9] = (char)((t.len - 10) >> 8);
    }
    pk_text_bytes(&t, data, count * item);
    enum pk_status s = t.failed ? pk_fail(err, PK_ENOMEM, "out of memory: writing %s", path)
                                : pk_write_file(path, t.s, t.len, err);
    pk_text_free(&t);
    return s;
}
