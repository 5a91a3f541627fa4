/* base.h -- what every file needs: statuses and the error record, checked memory, strings, files.
 *
 * Errors: a function that can fail returns enum pk_status and takes `struct pk_err *err` last. The
 * record is filled once, where the failure is detected, worded for the user: what, where, what to
 * do. Callers pass it on untouched (or prefix context with pk_err_context). err may be NULL.
 * Nothing here exits, aborts or prints. */
#ifndef PK_BASE_H
#define PK_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* name, exit code of the program, short text */
#define PK_STATUSES(X)                                                                             \
    X(OK, 0, "ok")                                                                                 \
    X(EINVAL, 2, "invalid argument")                                                               \
    X(EUSAGE, 2, "usage")                                                                          \
    X(ERECIPE, 2, "recipe")                                                                        \
    X(EDATA, 65, "bad data")                                                                       \
    X(EMISSING, 69, "resource missing")                                                            \
    X(EDEVICE, 69, "device refused")                                                               \
    X(ENOMEM, 70, "out of memory")                                                                 \
    X(ESHAPE, 70, "shape")                                                                         \
    X(EINTERNAL, 70, "internal bug")                                                               \
    X(ERANK, 71, "rank or network failed")                                                         \
    X(EWRITE, 73, "cannot write")                                                                  \
    X(EIO, 74, "input/output")                                                                     \
    X(ESTOPPED, 75, "stopped after a checkpoint")                                                  \
    X(EDIVERGED, 76, "diverged")

enum pk_status {
#define PK_X(name, code, text) PK_##name,
    PK_STATUSES(PK_X)
#undef PK_X
};

int pk_exit_code(enum pk_status s);           // process exit code of a status
const char *pk_status_text(enum pk_status s); // short text, static

enum { PK_PATH_MAX = 4096, PK_ERR_MAX = 2048 };

struct pk_err {
    enum pk_status status; // PK_OK when nothing failed
    char message[PK_ERR_MAX];
    bool said; // the user has been told, by this process or another: only the exit code is left
};

#if defined(__GNUC__)
#define PK_PRINTF(a, b) __attribute__((format(printf, a, b)))
#else
#define PK_PRINTF(a, b)
#endif

/* Fills *err (if not NULL) and returns s, so that `return pk_fail(err, PK_EDATA, ...)` reads well.
 */
enum pk_status pk_fail(struct pk_err *err, enum pk_status s, const char *fmt, ...) PK_PRINTF(3, 4);
/* Same, appending ": " and the text of errno (saved on entry). */
enum pk_status pk_fail_errno(struct pk_err *err, enum pk_status s, const char *fmt, ...)
    PK_PRINTF(3, 4);
/* Puts context in front of the message already there, "context: message". */
void pk_err_context(struct pk_err *err, const char *fmt, ...) PK_PRINTF(2, 3);

#define PK_TRY(call)                                                                               \
    do {                                                                                           \
        enum pk_status pk_try_ = (call);                                                           \
        if (pk_try_ != PK_OK) return pk_try_;                                                      \
    } while (0)

#define PK_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define PK_MIN(a, b)    ((a) < (b) ? (a) : (b))
#define PK_MAX(a, b)    ((a) > (b) ? (a) : (b))

/* Memory: zeroed, overflow-checked. On failure *out is NULL and the message names `what`.
 * pk_alloc results are freed with free(); pk_alloc_aligned results (64 bytes) too. */
enum pk_status pk_alloc(void *out, size_t count, size_t size, const char *what, struct pk_err *err);
enum pk_status pk_alloc_aligned(void *out, size_t count, size_t size, const char *what,
                                struct pk_err *err);
/* Grows *array (of *capacity elements of `size` bytes) so that it holds at least `need`; new
 * elements are zeroed. */
enum pk_status pk_grow(void *array, int64_t *capacity, int64_t need, size_t size, const char *what,
                       struct pk_err *err);

/* Strings. All truncate never: they report. */
enum pk_status pk_path(char out[PK_PATH_MAX], struct pk_err *err, const char *fmt, ...)
    PK_PRINTF(3, 4);
char *pk_strdup(const char *s); // NULL when out of memory
/* Strict decimal parsers: the whole string must be the number. Return false otherwise. */
bool pk_parse_i64(const char *s, int64_t *out);
bool pk_parse_f64(const char *s, double *out); // accepts nan, inf; locale "C" only

/* A growing text. Zero-initialise; `failed` is sticky, check it once at the end. */
struct pk_text {
    char *s;    // NUL terminated, owned; NULL while empty
    size_t len; // without the NUL
    size_t cap;
    bool failed; // an allocation failed; later calls do nothing
};
void pk_text_add(struct pk_text *t, const char *fmt, ...) PK_PRINTF(2, 3);
void pk_text_bytes(struct pk_text *t, const void *bytes, size_t n);
void pk_text_free(struct pk_text *t);

/* Files. Messages carry the path. */
enum pk_status pk_open(FILE **f, const char *path, const char *mode, struct pk_err *err);
enum pk_status pk_write(FILE *f, const void *bytes, size_t n, const char *path, struct pk_err *err);
enum pk_status pk_sync_close(FILE **f, const char *path, struct pk_err *err); // flush, fsync, close
enum pk_status pk_rename(const char *from, const char *to, struct pk_err *err);
enum pk_status pk_fsync_dir(const char *path, struct pk_err *err);
/* The folder that holds path: "a/b" -> "a", "b" -> ".", "/b" -> "/"; slashes at the end
 * of path do not count. pk_fsync_parent syncs it, which makes a rename or unlink in it last. */
enum pk_status pk_parent(char out[PK_PATH_MAX], const char *path, struct pk_err *err);
enum pk_status pk_fsync_parent(const char *path, struct pk_err *err);
enum pk_status pk_mkdirs(const char *path, struct pk_err *err); // like mkdir -p
bool pk_exists(const char *path);
/* Whole file into a malloc'ed, NUL-terminated buffer; refuses more than `limit` bytes. */
enum pk_status pk_read_file(const char *path, size_t limit, char **out, size_t *size,
                            struct pk_err *err);
/* Writes atomically: path.part, fsync, rename, fsync of the folder. */
enum pk_status pk_write_file(const char *path, const void *bytes, size_t n, struct pk_err *err);
/* pread until n bytes are there; a short file is PK_EIO with offset, wanted and got. */
enum pk_status pk_pread(int fd, void *dst, size_t n, int64_t offset, const char *path,
                        struct pk_err *err);

double pk_seconds(void);                                        // monotonic clock, s
uint64_t pk_hash64(const void *bytes, size_t n, uint64_t seed); // FNV-1a with a finaliser

#endif
