/* csv.c -- RFC 4180 tables, parsed in one pass over the bytes (see csv.h). */
#include "datasets/csv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    struct pk_csv *table;
    char *at, *end;
    char *line_start;
    int32_t line;
    int64_t count, room; // of table->all
};

static enum pk_status fail_here(const struct reader *r, const char *where, struct pk_err *err,
                                const char *what)
{
    return pk_fail(err, PK_EDATA, "%s:%d:%d: %s", r->table->path, r->line,
                   (int)(where - r->line_start) + 1, what);
}

/* Length of the UTF-8 sequence at p, 0 if it is none (overlong forms and surrogates are none). */
static int utf8_length(const unsigned char *p, const unsigned char *end)
{
    static const uint32_t lowest[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (p[0] < 0x80) return 1;
    int n = p[0] >= 0xf0 && p[0] < 0xf8 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] >= 0xf8 || end - p < n) return 0;
    uint32_t code = p[0] & (0xffu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (p[i] & 0x3f);
    }
    if (code < lowest[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 0;
    return n;
}

static enum pk_status check_bytes(struct reader *r, struct pk_err *err)
{
    for (char *p = r->at; p < r->end;) {
        int n = utf8_length((unsigned char *)p, (unsigned char *)r->end);
        if (!n) return fail_here(r, p, err, "this byte is not UTF-8");
        if (!*p) return fail_here(r, p, err, "byte 0 in a text file");
        if (*p == '\n') {
            r->line++;
            r->line_start = p + 1;
        }
        p += n;
    }
    r->line = 1;
    r->line_start = r->at;
    return PK_OK;
}

/* Quoted field: r->at is after the opening quote; unquotes in place. */
static enum pk_status read_quoted(struct reader *r, char **stop, struct pk_err *err)
{
    char *to = r->at, *open = r->at - 1, *open_start = r->line_start;
    int32_t open_line = r->line;
    for (;;) {
        if (r->at == r->end) {
            r->line = open_line;
            r->line_start = open_start;
            return fail_here(r, open, err, "this quote is never closed");
        }
        char c = *r->at++;
        if (c == '"') {
            if (r->at == r->end || *r->at != '"') break;
            r->at++;
        } else if (c == '\n') {
            r->line++;
            r->line_start = r->at;
        }
        *to++ = c;
    }
    *stop = to;
    if (r->at < r->end && *r->at != ',' && *r->at != '\r' && *r->at != '\n')
        return fail_here(r, r->at, err,
                         "text after the closing quote; a quote inside a field is "
                         "written twice");
    return PK_OK;
}

static enum pk_status read_bare(struct reader *r, char **stop, struct pk_err *err)
{
    while (r->at < r->end && *r->at != ',' && *r->at != '\r' && *r->at != '\n') {
        if (*r->at == '"') return fail_here(r, r->at, err, "a quote inside an unquoted field");
        r->at++;
    }
    *stop = r->at;
    return PK_OK;
}

/* Reads a field and what ends it; *more is false when that is the end of the row. */
static enum pk_status read_field(struct reader *r, bool *more, struct pk_err *err)
{
    struct pk_csv *t = r->table;
    char *stop = r->at;
    PK_TRY(pk_grow(&t->all, &r->room, r->count + 1, sizeof *t->all, "table", err));
    struct pk_csv_field *f = &t->all[r->count++];
    f->line = r->line;
    f->column = (int32_t)(r->at - r->line_start) + 1;
    bool quoted = r->at < r->end && *r->at == '"';
    f->text = r->at += quoted;
    PK_TRY(quoted ? read_quoted(r, &stop, err) : read_bare(r, &stop, err));
    *more = r->at < r->end && *r->at == ',';
    if (r->at < r->end && *r->at == '\r') {
        if (r->at + 1 == r->end || r->at[1] != '\n')
            return fail_here(r, r->at, err, "a carriage return without a line feed");
        r->at++;
    }
    if (r->at < r->end) {
        bool line_end = *r->at++ == '\n';
        r->line += line_end;
        if (line_end) r->line_start = r->at;
    }
    *stop = 0; // over the separator or quote, or the NUL that ends the buffer
    return PK_OK;
}

static enum pk_status read_row(struct reader *r, int32_t *fields, struct pk_err *err)
{
    bool more = true;
    for (*fields = 0; more; ++*fields) {
        if (*fields == 65536) return fail_here(r, r->at, err, "more than 65536 fields in a row");
        PK_TRY(read_field(r, &more, err));
    }
    return PK_OK;
}

static bool only_line_ends(const char *p, const char *end)
{
    while (p < end && (*p == '\n' || (*p == '\r' && p + 1 < end && p[1] == '\n'))) p++;
    return p == end;
}

static enum pk_status read_table(struct reader *r, struct pk_err *err)
{
    struct pk_csv *t = r->table;
    PK_TRY(check_bytes(r, err));
    if (only_line_ends(r->at, r->end)) return fail_here(r, r->at, err, "the table is empty");
    PK_TRY(read_row(r, &t->columns, err));
    for (int32_t i = 0; i < t->columns; i++)
        for (int32_t k = 0; k < i; k++)
            if (!strcmp(t->all[i].text, t->all[k].text))
                return pk_fail(err, PK_EDATA, "%s:1:%d: column '%s' is there twice", t->path,
                               t->all[i].column, t->all[i].text);
    while (!only_line_ends(r->at, r->end)) {
        int32_t fields, line = r->line;
        PK_TRY(read_row(r, &fields, err));
        if (fields != t->columns)
            return pk_fail(err, PK_EDATA, "%s:%d: this row has %d fields, the header has %d",
                           t->path, line, fields, t->columns);
        t->rows++;
    }
    t->header = t->all;
    t->field = t->all + t->columns;
    return PK_OK;
}

/* Takes t->bytes [n + 1] and parses it. */
static enum pk_status parse(struct pk_csv *t, size_t n, struct pk_err *err)
{
    enum pk_status s;
    size_t skip = n >= 3 && !memcmp(t->bytes, "\xef\xbb\xbf", 3) ? 3 : 0;
    struct reader r = {.table = t, .at = t->bytes + skip, .end = t->bytes + n, .line = 1};
    r.line_start = r.at;
    if (n > INT32_MAX)
        s = pk_fail(err, PK_EDATA, "%s: tables of more than 2 GiB are not read", t->path);
    else
        s = read_table(&r, err);
    if (s != PK_OK) pk_csv_free(t);
    return s;
}

enum pk_status pk_csv_load(struct pk_csv *out, const char *path, size_t limit, struct pk_err *err)
{
    size_t n = 0;
    *out = (struct pk_csv){0};
    PK_TRY(pk_path(out->path, err, "%s", path));
    PK_TRY(pk_read_file(path, limit, &out->bytes, &n, err));
    return parse(out, n, err);
}

enum pk_status pk_csv_parse(struct pk_csv *out, const char *text, size_t n, const char *name,
                            struct pk_err *err)
{
    *out = (struct pk_csv){0};
    PK_TRY(pk_path(out->path, err, "%s", name));
    PK_TRY(pk_alloc(&out->bytes, n + 1, 1, "table", err));
    if (n) memcpy(out->bytes, text, n);
    return parse(out, n, err);
}

void pk_csv_free(struct pk_csv *c)
{
    free(c->all);
    free(c->bytes);
    *c = (struct pk_csv){0};
}

enum pk_status pk_csv_column(const struct pk_csv *c, const char *name, int32_t *out,
                             struct pk_err *err)
{
    for (*out = 0; *out < c->columns; ++*out)
        if (!strcmp(c->header[*out].text, name)) return PK_OK;
    struct pk_text list = {0};
    for (int32_t i = 0; i < c->columns; i++)
        pk_text_add(&list, "%s'%.100s'", i ? ", " : "", c->header[i].text);
    pk_fail(err, PK_EDATA, "%s has no column '%s'; it has %s", c->path, name,
            list.s ? list.s : "none");
    pk_text_free(&list);
    return PK_EDATA;
}

const char *pk_csv_text(const struct pk_csv *c, int64_t row, int32_t column)
{
    return c->field[row * c->columns + column].text;
}

enum pk_status pk_csv_f64(const struct pk_csv *c, int64_t row, int32_t column, double *out,
                          struct pk_err *err)
{
    const char *text = pk_csv_text(c, row, column);
    *out = NAN;
    if (!*text || pk_parse_f64(text, out)) return PK_OK;
    return pk_csv_fail(c, row, column, 0, err, "'%.60s' is not a number", text);
}

enum pk_status pk_csv_i64(const struct pk_csv *c, int64_t row, int32_t column, int64_t *out,
                          struct pk_err *err)
{
    const char *text = pk_csv_text(c, row, column);
    double v;
    if (pk_parse_i64(text, out)) return PK_OK;
    if (!pk_parse_f64(text, &v) || !(fabs(v) < 9e15) || v != floor(v))
        return pk_csv_fail(c, row, column, 0, err, "'%.60s' is not a whole number", text);
    *out = (int64_t)v;
    return PK_OK;
}

enum pk_status pk_csv_fail(const struct pk_csv *c, int64_t row, int32_t column, int32_t at,
                           struct pk_err *err, const char *fmt, ...)
{
    char text[1024];
    const struct pk_csv_field *f = &c->field[row * c->columns + column];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    // of a quoted field text starts one byte after the column that is kept
    bool quoted = f->text > c->bytes && f->text[-1] == '"';
    return pk_fail(err, PK_EDATA, "%s:%d:%d: column '%s': %s", c->path, f->line,
                   f->column + at + quoted, c->header[column].text, text);
}
