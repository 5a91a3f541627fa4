/* base.c -- statuses, the error record, checked memory, strings and files (see base.h). */
#include "core/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int pk_exit_code(enum pk_status s)
{
    static const int codes[] = {
#define PK_X(name, code, text) code,
        PK_STATUSES(PK_X)
#undef PK_X
    };
    return (size_t)s < PK_COUNT(codes) ? codes[s] : 70;
}

const char *pk_status_text(enum pk_status s)
{
    static const char *const texts[] = {
#define PK_X(name, code, text) text,
        PK_STATUSES(PK_X)
#undef PK_X
    };
    return (size_t)s < PK_COUNT(texts) ? texts[s] : "unknown status";
}

enum pk_status pk_fail(struct pk_err *err, enum pk_status s, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->status = s;
        vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
    }
    return s;
}

enum pk_status pk_fail_errno(struct pk_err *err, enum pk_status s, const char *fmt, ...)
{
    int saved = errno;
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->status = s;
        vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
        size_t used = strlen(err->message);
        snprintf(err->message + used, sizeof err->message - used, ": %.200s", strerror(saved));
    }
    return s;
}

void pk_err_context(struct pk_err *err, const char *fmt, ...)
{
    char text[PK_ERR_MAX / 2], old[PK_ERR_MAX];
    if (!err) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(old, err->message, sizeof old);
    snprintf(err->message, sizeof err->message, "%s: ", text);
    size_t used = strlen(err->message), more = strlen(old);
    more = PK_MIN(more, sizeof err->message - 1 - used);
    memcpy(err->message + used, old, more);
    err->message[used + more] = 0;
}

enum pk_status pk_alloc(void *out, size_t count, size_t size, const char *what, struct pk_err *err)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    memcpy(out, &p, sizeof p);
    if (!p)
        return pk_fail(err, PK_ENOMEM, "out of memory: %s needs %zu x %zu bytes", what, count,
                       size);
    return PK_OK;
}

enum pk_status pk_alloc_aligned(void *out, size_t count, size_t size, const char *what,
                                struct pk_err *err)
{
    void *p = NULL;
    if (size && count > (SIZE_MAX - 64) / size)
        p = NULL;
    else if (posix_memalign(&p, 64, PK_MAX(count * size, (size_t)1)) != 0)
        p = NULL;
    else
        memset(p, 0, count * size);
    memcpy(out, &p, sizeof p);
    if (!p)
        return pk_fail(err, PK_ENOMEM, "out of memory: %s needs %zu x %zu bytes", what, count,
                       size);
    return PK_OK;
}

enum pk_status pk_grow(void *array, int64_t *capacity, int64_t need, size_t size, const char *what,
                       struct pk_err *err)
{
    void *p;
    if (need <= *capacity) return PK_OK;
    int64_t cap = PK_MAX(need, *capacity + *capacity / 2);
    cap = PK_MAX(cap, (int64_t)8);
    memcpy(&p, array, sizeof p);
    if ((uint64_t)cap > SIZE_MAX / size || !(p = realloc(p, (size_t)cap * size)))
        return pk_fail(err, PK_ENOMEM, "out of memory: %s needs %lld x %zu bytes", what,
                       (long long)cap, size);
    memset((char *)p + (size_t)*capacity * size, 0, (size_t)(cap - *capacity) * size);
    memcpy(array, &p, sizeof p);
    *capacity = cap;
    return PK_OK;
}

enum pk_status pk_path(char out[PK_PATH_MAX], struct pk_err *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, PK_PATH_MAX, fmt, ap);
    va_end(ap);
    if (n < 0 || n >= PK_PATH_MAX)
        return pk_fail(err, PK_EINVAL, "path longer than %d bytes: %.200s...", PK_PATH_MAX, out);
    return PK_OK;
}

char *pk_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = malloc(n);
    if (p) memcpy(p, s, n);
    return p;
}

bool pk_parse_i64(const char *s, int64_t *out)
{
    char *end;
    if (!((*s >= '0' && *s <= '9') || *s == '-' || *s == '+')) return false;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (errno || end == s || *end) return false;
    *out = v;
    return true;
}

bool pk_parse_f64(const char *s, double *out)
{
    char *end;
    if (!*s || *s == ' ' || *s == '\t' || *s == '\n') return false;
    double v = strtod(s, &end);
    if (end == s || *end) return false;
    *out = v;
    return true;
}

static bool text_reserve(struct pk_text *t, size_t more)
{
    if (t->failed) return false;
    if (t->len + more + 1 <= t->cap) return true;
    size_t cap = PK_MAX(t->cap * 2, t->len + more + 64);
    char *s = realloc(t->s, cap);
    if (!s) {
        t->failed = true;
        return false;
    }
    t->s = s;
    t->cap = cap;
    return true;
}

void pk_text_add(struct pk_text *t, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && text_reserve(t, (size_t)n)) {
        vsnprintf(t->s + t->len, (size_t)n + 1, fmt, again);
        t->len += (size_t)n;
    }
    va_end(again);
}

void pk_text_bytes(struct pk_text *t, const void *bytes, size_t n)
{
    if (!text_reserve(t, n)) return;
    if (n) memcpy(t->s + t->len, bytes, n);
    t->len += n;
    t->s[t->len] = 0;
}

void pk_text_free(struct pk_text *t)
{
    free(t->s);
    *t = (struct pk_text){0};
}

enum pk_status pk_open(FILE **f, const char *path, const char *mode, struct pk_err *err)
{
    *f = fopen(path, mode);
    if (*f) return PK_OK;
    return pk_fail_errno(err, mode[0] == 'r' ? PK_EIO : PK_EWRITE, "cannot open %s", path);
}

enum pk_status pk_write(FILE *f, const void *bytes, size_t n, const char *path, struct pk_err *err)
{
    if (n && fwrite(bytes, 1, n, f) != n)
        return pk_fail_errno(err, PK_EWRITE, "cannot write %zu bytes to %s", n, path);
    return PK_OK;
}

enum pk_status pk_sync_close(FILE **f, const char *path, struct pk_err *err)
{
    FILE *file = *f;
    *f = NULL;
    if (fflush(file) != 0 || fsync(fileno(file)) != 0) {
        enum pk_status s = pk_fail_errno(err, PK_EWRITE, "cannot write %s to disk", path);
        fclose(file);
        return s;
    }
    if (fclose(file) != 0) return pk_fail_errno(err, PK_EWRITE, "cannot close %s", path);
    return PK_OK;
}

enum pk_status pk_rename(const char *from, const char *to, struct pk_err *err)
{
    if (rename(from, to) != 0)
        return pk_fail_errno(err, PK_EWRITE, "cannot rename %s to %s", from, to);
    return PK_OK;
}

enum pk_status pk_fsync_dir(const char *path, struct pk_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    if (fd < 0) return pk_fail_errno(err, PK_EIO, "cannot open folder %s", path);
    int bad;
    do {
        bad = fsync(fd);
    } while (bad != 0 && errno == EINTR);
    close(fd);
    return bad ? pk_fail_errno(err, PK_EWRITE, "cannot sync folder %s", path) : PK_OK;
}

enum pk_status pk_mkdirs(const char *path, struct pk_err *err)
{
    char buf[PK_PATH_MAX];
    PK_TRY(pk_path(buf, err, "%s", path));
    for (char *p = buf + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        if (mkdir(buf, 0777) != 0 && errno != EEXIST)
            return pk_fail_errno(err, PK_EWRITE, "cannot create folder %s", buf);
        *p = '/';
    }
    if (mkdir(buf, 0777) != 0 && errno != EEXIST)
        return pk_fail_errno(err, PK_EWRITE, "cannot create folder %s", buf);
    struct stat st;
    if (stat(buf, &st) != 0 || !S_ISDIR(st.st_mode))
        return pk_fail(err, PK_EWRITE, "%s is in the way: it is not a folder", buf);
    return PK_OK;
}

bool pk_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

enum pk_status pk_read_file(const char *path, size_t limit, char **out, size_t *size,
                            struct pk_err *err)
{
    FILE *f;
    struct stat st;
    enum pk_status s;
    *out = NULL;
    PK_TRY(pk_open(&f, path, "rb", err));
    if (fstat(fileno(f), &st) != 0) {
        s = pk_fail_errno(err, PK_EIO, "cannot stat %s", path);
        goto done;
    }
    if (S_ISDIR(st.st_mode)) {
        s = pk_fail(err, PK_EIO, "%s is a folder, a file was expected", path);
        goto done;
    }
    if ((uint64_t)st.st_size > limit) {
        s = pk_fail(err, PK_EDATA, "%s has %lld bytes, more than the %zu allowed here", path,
                    (long long)st.st_size, limit);
        goto done;
    }
    if ((s = pk_alloc(out, (size_t)st.st_size + 1, 1, path, err)) != PK_OK) goto done;
    size_t got = fread(*out, 1, (size_t)st.st_size, f);
    if (got != (size_t)st.st_size) {
        s = pk_fail_errno(err, PK_EIO, "read %zu of %lld bytes of %s", got, (long long)st.st_size,
                          path);
        free(*out);
        *out = NULL;
        goto done;
    }
    if (size) *size = got;
done:
    fclose(f);
    return s;
}

enum pk_status pk_parent(char out[PK_PATH_MAX], const char *path, struct pk_err *err)
{
    PK_TRY(pk_path(out, err, "%s", path));
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') out[--n] = 0;
    char *slash = strrchr(out, '/');
    if (!slash) return pk_path(out, err, ".");
    if (slash == out) slash++;
    *slash = 0;
    return PK_OK;
}

enum pk_status pk_fsync_parent(const char *path, struct pk_err *err)
{
    char dir[PK_PATH_MAX];
    PK_TRY(pk_parent(dir, path, err));
    return pk_fsync_dir(dir, err);
}

enum pk_status pk_write_file(const char *path, const void *bytes, size_t n, struct pk_err *err)
{
    char tmp[PK_PATH_MAX];
    FILE *f = NULL;
    enum pk_status s;
    PK_TRY(pk_path(tmp, err, "%s.part", path));
    PK_TRY(pk_open(&f, tmp, "wb", err));
    if ((s = pk_write(f, bytes, n, tmp, err)) != PK_OK) goto fail;
    if ((s = pk_sync_close(&f, tmp, err)) != PK_OK) goto fail;
    if ((s = pk_rename(tmp, path, err)) != PK_OK) goto fail;
    return pk_fsync_parent(path, err);
fail:
    if (f) fclose(f);
    remove(tmp);
    return s;
}

enum pk_status pk_pread(int fd, void *dst, size_t n, int64_t offset, const char *path,
                        struct pk_err *err)
{
    size_t got = 0;
    while (got < n) {
        ssize_t r = pread(fd, (char *)dst + got, n - got, (off_t)(offset + (int64_t)got));
        if (r < 0 && errno == EINTR) continue;
        if (r < 0)
            return pk_fail_errno(err, PK_EIO, "cannot read %zu bytes at %lld of %s", n,
                                 (long long)offset, path);
        if (r == 0)
            return pk_fail(err, PK_EIO, "%s ends early: wanted %zu bytes at %lld, got %zu", path, n,
                           (long long)offset, got);
        got += (size_t)r;
    }
    return PK_OK;
}

double pk_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

uint64_t pk_hash64(const void *bytes, size_t n, uint64_t seed)
{
    const unsigned char *p = bytes;
    uint64_t h = 0xcbf29ce484222325u ^ (seed * 0x9e3779b97f4a7c15u);
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    return h;
}
