/* csv.h -- strict reader of CSV tables with a header row (RFC 4180, UTF-8).
 *
 * Fields may be quoted, quotes are doubled inside, lines end in CR LF or LF, every row has as many
 * fields as the header. A byte order mark is skipped; empty lines at the very end are. Anything
 * else that is not RFC 4180 is an error with file:line:column (columns count bytes from 1): a table
 * that is guessed at gives wrong labels. The whole file is held in memory. */
#ifndef PK_CSV_H
#define PK_CSV_H

#include "core/base.h"

struct pk_csv_field {
    char *text;     // NUL terminated, unquoted
    int32_t line;   // where it starts in the file, from 1
    int32_t column; // in bytes, from 1; of the opening quote if there is one
};

struct pk_csv {
    char path[PK_PATH_MAX];
    int32_t columns;
    int64_t rows;                // without the header
    struct pk_csv_field *header; // [columns], names are unique
    struct pk_csv_field *field;  // [rows, columns]
    char *bytes;                 // owns the texts
    struct pk_csv_field *all;    // owns header and field
};

/* Reads a table of at most `limit` bytes. Free with pk_csv_free (safe on a zeroed struct).
 * Errors  PK_EIO the file cannot be read; PK_EDATA it is not CSV or too large; PK_ENOMEM */
enum pk_status pk_csv_load(struct pk_csv *out, const char *path, size_t limit, struct pk_err *err);
/* The same from memory; `name` stands for the file in messages. The text is copied. */
enum pk_status pk_csv_parse(struct pk_csv *out, const char *text, size_t n, const char *name,
                            struct pk_err *err);
void pk_csv_free(struct pk_csv *c);

/* Index of a named column. Error PK_EDATA lists the columns that there are. */
enum pk_status pk_csv_column(const struct pk_csv *c, const char *name, int32_t *out,
                             struct pk_err *err);
const char *pk_csv_text(const struct pk_csv *c, int64_t row, int32_t column);
/* Numbers; an empty field is NaN for f64 and an error for i64, which also takes "17.0". */
enum pk_status pk_csv_f64(const struct pk_csv *c, int64_t row, int32_t column, double *out,
                          struct pk_err *err);
enum pk_status pk_csv_i64(const struct pk_csv *c, int64_t row, int32_t column, int64_t *out,
                          struct pk_err *err);
/* PK_EDATA with "path:line:column: column 'name': " in front of the message. `at` is the byte of
 * the field that is meant (it is exact unless line breaks or doubled quotes come before it). */
enum pk_status pk_csv_fail(const struct pk_csv *c, int64_t row, int32_t column, int32_t at,
                           struct pk_err *err, const char *fmt, ...) PK_PRINTF(6, 7);

#endif
