/* numbers.c -- see numbers.h. The file is held in memory once; cells are read where they lie. */
#include "datasets/numbers.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { CELLS_MAX = 4096 }; // of a line

struct cell {
    const char *s;
    int32_t n; // without the blanks around it
};

struct reader {
    const struct pk_numbers_spec *spec;
    struct pk_numbers *out;
    const char *at, *end; // of the text
    const char *line_start;
    int32_t line, width; // cells of the first line
    struct cell *cell;   // [CELLS_MAX] of the current line
    char (*name)[80];    // [width] as the header says
    int32_t want[PK_NUMBERS_COLUMNS];
    int64_t capacity;
};

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

static enum pk_status fail_at(const struct reader *r, const char *at, struct pk_err *err,
                              const char *what)
{
    return pk_fail(err, PK_EDATA, "%s:%d:%lld: %s", r->out->path, r->line,
                   (long long)(at - r->line_start) + 1, what);
}

/* "nan" and "NA" in any case, or nothing. */
static bool is_missing(const struct cell *c)
{
    static const char *const word[] = {"nan", "na", "n/a", "null"};
    for (size_t i = 0; i < PK_COUNT(word); i++)
        if (c->n == (int32_t)strlen(word[i]) && !strncasecmp(c->s, word[i], (size_t)c->n))
            return true;
    return c->n == 0;
}

/* A decimal number that ends where the cell ends; strtod alone also takes hexadecimal and "inf". */
static bool take_number(const struct cell *c, double *out)
{
    char *end;
    if (is_missing(c)) {
        *out = NAN;
        return true;
    }
    for (int32_t i = 0; i < c->n; i++)
        if (!strchr("0123456789+-.eE", c->s[i])) return false;
    *out = strtod(c->s, &end);
    return end == c->s + c->n && fabs(*out) <= FLT_MAX; // what a corpus can hold
}

/* The next line's cells; *count -1 at the end of the file. */
static enum pk_status split_line(struct reader *r, int32_t *count, struct pk_err *err)
{
    const char *p = r->at, *stop;
    char delimiter = r->spec->delimiter;
    *count = -1;
    if (p >= r->end) return PK_OK;
    r->line++;
    r->line_start = p;
    const char *lf = memchr(p, '\n', (size_t)(r->end - p));
    r->at = lf ? lf + 1 : r->end;
    stop = lf ? lf : r->end;
    if (stop > p && stop[-1] == '\r') stop--;
    *count = 0;
    for (bool more = true; more;) {
        while (p < stop && blank(*p) && *p != delimiter) p++;
        if (delimiter == ' ') {
            while (p < stop && blank(*p)) p++;
            if (p == stop && *count) break;
        }
        const char *q = p;
        while (q < stop && *q != delimiter && !(delimiter == ' ' && *q == '\t')) q++;
        more = q < stop;
        const char *next = q + 1;
        while (q > p && blank(q[-1])) q--;
        if (*count == CELLS_MAX) return fail_at(r, p, err, "more than 4096 cells in a line");
        r->cell[(*count)++] = (struct cell){p, (int32_t)PK_MIN(q - p, (ptrdiff_t)INT32_MAX)};
        p = next;
    }
    return PK_OK;
}

static bool empty_line(const struct reader *r, int32_t count)
{
    return count == 1 && r->cell[0].n == 0;
}

static bool comment_line(const struct reader *r)
{
    return r->spec->comment && r->line_start < r->end && *r->line_start == r->spec->comment;
}

/* ---- the first line ---- */

static enum pk_status no_column(const struct reader *r, const char *name, const char *what,
                                struct pk_err *err)
{
    struct pk_text have = {0};
    for (int32_t i = 0; i < r->width && i < 40; i++)
        pk_text_add(&have, "%s'%s'", i ? ", " : "", r->name[i]);
    enum pk_status s = pk_fail(err, PK_EDATA, "%s:%d: %s column '%s'; it has %s", r->out->path,
                               r->line, what, name, have.s ? have.s : "none");
    pk_text_free(&have);
    return s;
}

static enum pk_status find_columns(struct reader *r, struct pk_err *err)
{
    PK_TRY(pk_alloc(&r->name, (size_t)r->width, sizeof *r->name, "column names", err));
    for (int32_t i = 0; i < r->width; i++) {
        struct cell c = r->cell[i];
        bool quoted = c.n >= 2 && c.s[0] == '"' && c.s[c.n - 1] == '"';
        if (r->spec->header)
            snprintf(r->name[i], sizeof r->name[i], "%.*s", (int)(quoted ? c.n - 2 : c.n),
                     c.s + quoted);
        else
            snprintf(r->name[i], sizeof r->name[i], "%d", i + 1);
    }
    for (int32_t k = 0; k < r->spec->columns; k++) {
        r->want[k] = -1;
        for (int32_t i = 0; i < r->width; i++) {
            if (strcmp(r->name[i], r->spec->column[k])) continue;
            if (r->want[k] >= 0)
                return no_column(r, r->spec->column[k], "there is more than one", err);
            r->want[k] = i;
        }
        if (r->want[k] < 0 && !(r->spec->optional >> k & 1))
            return no_column(r, r->spec->column[k], "there is no", err);
    }
    return PK_OK;
}

/* ---- rows ---- */

static enum pk_status keep_row(struct reader *r, struct pk_err *err)
{
    struct pk_numbers *n = r->out;
    if (n->rows == r->capacity) {
        int64_t old = r->capacity, to = PK_MAX(2 * old, (int64_t)4096), cap = old;
        for (int32_t k = 0; k < n->columns; k++) {
            cap = old;
            if (r->want[k] < 0) continue;
            PK_TRY(pk_grow(&n->value[k], &cap, to, sizeof(double), "columns", err));
        }
        cap = old;
        PK_TRY(pk_grow(&n->line, &cap, to, sizeof *n->line, "columns", err));
        r->capacity = to;
    }
    for (int32_t k = 0; k < n->columns; k++) {
        if (r->want[k] < 0) continue;
        const struct cell *c = &r->cell[r->want[k]];
        char what[240];
        if (take_number(c, &n->value[k][n->rows])) continue;
        snprintf(what, sizeof what, "column '%.60s': '%.*s' is not a number", r->name[r->want[k]],
                 (int)PK_MIN(c->n, 60), c->s);
        return fail_at(r, c->s, err, what);
    }
    n->line[n->rows++] = r->line;
    return PK_OK;
}

static enum pk_status read_lines(struct reader *r, struct pk_err *err)
{
    int32_t count, hole = 0;
    for (int64_t i = 0; i < r->spec->skip && r->at < r->end; i++) {
        const char *lf = memchr(r->at, '\n', (size_t)(r->end - r->at));
        r->at = lf ? lf + 1 : r->end;
        r->line++;
    }
    for (;;) {
        PK_TRY(split_line(r, &count, err));
        if (count < 0) break;
        if (comment_line(r)) continue;
        if (empty_line(r, count) && (r->spec->columns > 1 || r->width != 1 || r->at >= r->end)) {
            if (!hole) hole = r->line;
            continue;
        }
        if (hole) return pk_fail(err, PK_EDATA, "%s:%d: an empty line", r->out->path, hole);
        if (!r->name) {
            r->width = count;
            PK_TRY(find_columns(r, err));
            if (r->spec->header) continue;
        }
        if (count != r->width)
            return pk_fail(err, PK_EDATA, "%s:%d: %d cells, the first line has %d", r->out->path,
                           r->line, count, r->width);
        PK_TRY(keep_row(r, err));
    }
    // a column of its own may hold empty cells, which look like empty lines: not those at the end
    while (r->out->rows && r->width == 1 && r->want[0] >= 0 &&
           isnan(r->out->value[0][r->out->rows - 1]))
        r->out->rows--;
    if (!r->out->rows) return pk_fail(err, PK_EDATA, "%s has no rows", r->out->path);
    return PK_OK;
}

static enum pk_status load_text(char **text, size_t *size, const char *path, struct pk_err *err)
{
    PK_TRY(pk_read_file(path, PK_NUMBERS_LIMIT, text, size, err));
    const char *zero = memchr(*text, 0, *size);
    if (!zero) return PK_OK;
    enum pk_status s = pk_fail(err, PK_EDATA, "%s: byte %lld is 0: this is not text", path,
                               (long long)(zero - *text));
    free(*text);
    *text = NULL;
    return s;
}

enum pk_status pk_numbers_load(struct pk_numbers *out, const char *path,
                               const struct pk_numbers_spec *spec, struct pk_err *err)
{
    struct reader r = {.spec = spec, .out = out};
    char *text;
    size_t size;
    *out = (struct pk_numbers){.columns = spec->columns};
    if (spec->columns < 1 || spec->columns > PK_NUMBERS_COLUMNS)
        return pk_fail(err, PK_EINVAL, "%d columns; 1 to %d can be read", spec->columns,
                       PK_NUMBERS_COLUMNS);
    PK_TRY(pk_path(out->path, err, "%s", path));
    PK_TRY(load_text(&text, &size, path, err));
    r.at = text;
    r.end = text + size;
    if (size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) r.at += 3;
    enum pk_status s = pk_alloc(&r.cell, CELLS_MAX, sizeof *r.cell, "cells", err);
    if (s == PK_OK) s = read_lines(&r, err);
    free(r.cell);
    free(r.name);
    free(text);
    if (s != PK_OK) pk_numbers_free(out);
    return s;
}

void pk_numbers_free(struct pk_numbers *n)
{
    for (int32_t k = 0; k < PK_NUMBERS_COLUMNS; k++) free(n->value[k]);
    free(n->line);
    *n = (struct pk_numbers){0};
}

static enum pk_status list_text(const char *text, const char *path, double **x, int64_t *count,
                                struct pk_err *err)
{
    int64_t capacity = 0;
    int line = 1;
    const char *start = text;
    for (const char *p = text;;) {
        for (; *p == ' ' || *p == '\t' || *p == '\r' || *p == '\n'; p++)
            if (*p == '\n') {
                line++;
                start = p + 1;
            }
        struct cell c = {p, (int32_t)PK_MIN(strcspn(p, " \t\r\n"), (size_t)INT32_MAX)};
        if (!c.n) return *count ? PK_OK : pk_fail(err, PK_EDATA, "%s has no numbers", path);
        if (*count == capacity)
            PK_TRY(pk_grow(x, &capacity, PK_MAX(2 * capacity, (int64_t)4096), sizeof **x, "numbers",
                           err));
        if (!take_number(&c, &(*x)[*count]))
            return pk_fail(err, PK_EDATA, "%s:%d:%lld: '%.*s' is not a number", path, line,
                           (long long)(p - start) + 1, (int)PK_MIN(c.n, 60), p);
        ++*count;
        p += c.n;
    }
}

enum pk_status pk_numbers_list(double **x, int64_t *count, const char *path, struct pk_err *err)
{
    char *text;
    size_t size;
    *x = NULL;
    *count = 0;
    PK_TRY(load_text(&text, &size, path, err));
    enum pk_status s = list_text(text, path, x, count, err);
    free(text);
    if (s != PK_OK) {
        free(*x);
        *x = NULL;
    }
    return s;
}
