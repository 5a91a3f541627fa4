/* recipe_diag.c -- errors of recipes: collected with their places, printed all at once with the
 * source line, a marker and a suggestion (see recipe_internal.h). */
#include "core/recipe_internal.h"

#include <stdlib.h>
#include <string.h>

enum { LINE_SHOWN = 120 }; // characters of a source line that are printed

void pk_make_printable(char *s)
{
    unsigned char *p = (unsigned char *)s;
    for (; *p; p++) {
        if (*p < 0x20 || *p == 0x7f) *p = '?';
        if (*p == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f) p[0] = p[1] = '?'; // C1 controls
    }
}

static char *format(const char *fmt, va_list ap)
{
    char text[1024];
    vsnprintf(text, sizeof text, fmt, ap);
    /* Do not cut a character in two. */
    size_t n = strlen(text);
    if (n == sizeof text - 1)
        while (n && ((unsigned char)text[n - 1] & 0xc0) == 0x80) text[--n] = 0;
    pk_make_printable(text);
    return pk_strdup(text);
}

void pk_diag_add(struct pk_diags *d, struct pk_place at, const char *fmt, ...)
{
    if (d->count >= PK_RECIPE_ERRORS_MAX) {
        d->dropped++;
        return;
    }
    if (pk_grow(&d->item, &d->capacity, d->count + 1, sizeof *d->item, "recipe errors", NULL)) {
        d->failed = true;
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    char *message = format(fmt, ap);
    va_end(ap);
    if (!message) d->failed = true;
    d->item[d->count] = (struct pk_diag){.at = at, .order = (int)d->count, .message = message};
    d->count++;
}

void pk_diag_help(struct pk_diags *d, const char *fmt, ...)
{
    if (!d->count || d->dropped) return;
    struct pk_diag *last = &d->item[d->count - 1];
    va_list ap;
    va_start(ap, fmt);
    char *help = format(fmt, ap);
    va_end(ap);
    if (!help) d->failed = true;
    free(last->help);
    last->help = help;
}

void pk_diags_free(struct pk_diags *d)
{
    for (int64_t i = 0; i < d->count; i++) {
        free(d->item[i].message);
        free(d->item[i].help);
    }
    free(d->item);
    *d = (struct pk_diags){0};
}

static int by_place(const void *a, const void *b)
{
    const struct pk_diag *x = a, *y = b;
    /* Errors without a place come last. */
    unsigned sx = (unsigned)x->at.source, sy = (unsigned)y->at.source;
    if (sx != sy) return sx < sy ? -1 : 1;
    if (x->at.line != y->at.line) return x->at.line < y->at.line ? -1 : 1;
    if (x->at.column != y->at.column) return x->at.column < y->at.column ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* Start of 1-based line `line`, its length in *n; NULL when there is none. */
static const char *find_line(const struct pk_source_text *s, int line, size_t *n)
{
    const char *p = s->text, *end = s->text + s->size;
    for (int i = 1; i < line; i++) {
        while (p < end && *p != '\n' && *p != '\r') p++;
        if (p == end) return NULL;
        p += *p == '\r' && p + 1 < end && p[1] == '\n' ? 2 : 1;
    }
    const char *stop = p;
    while (stop < end && *stop != '\n' && *stop != '\r') stop++;
    *n = (size_t)(stop - p);
    return p;
}

static size_t char_bytes(const char *p, size_t left)
{
    size_t n = 1;
    while (n < left && ((unsigned char)p[n] & 0xc0) == 0x80) n++;
    return n;
}

/* "  14 |   batchsize: 2048" and the line of the marker below it. */
static void show_line(struct pk_text *out, const struct pk_source_text *s, struct pk_place at)
{
    char number[16], shown[LINE_SHOWN * 4 + 1], pad[LINE_SHOWN + 1];
    size_t n, used = 0;
    const char *p = find_line(s, at.line, &n);
    if (!p) return;
    int first = at.column > LINE_SHOWN - 40 ? at.column - 40 : 1; // scroll long lines
    int column = 1, chars = 0, padded = 0;
    for (size_t i = 0; i < n && chars < LINE_SHOWN; column++) {
        size_t b = char_bytes(p + i, n - i);
        if (column >= first && b <= 4) {
            memcpy(shown + used, p + i, b);
            used += b;
            chars++;
            if (column < at.column) pad[padded++] = p[i] == '\t' ? '\t' : ' ';
        }
        i += b;
    }
    for (size_t i = 0; i < used; i++) // keep tabs: the marker line repeats them
        if ((unsigned char)shown[i] < 0x20 && shown[i] != '\t') shown[i] = '?';
    shown[used] = pad[padded] = 0;
    snprintf(number, sizeof number, "%d", s->override ? s->override : at.line);
    int width = PK_MAX(1, PK_MIN(at.width, PK_MAX(1, chars - padded)));
    pk_text_add(out, "  %s | %s\n  %*s | %s^", number, shown, (int)strlen(number), "", pad);
    for (int i = 1; i < width; i++) pk_text_add(out, "~");
    pk_text_add(out, "\n");
}

static void show(struct pk_text *out, const struct pk_diag *g, const struct pk_sources *s)
{
    if (g->at.source < 0) {
        pk_text_add(out, "error: %s\n", g->message ? g->message : "");
    } else {
        const struct pk_source_text *t = &s->item[g->at.source];
        char name[PK_PATH_MAX];
        snprintf(name, sizeof name, "%s", t->name);
        pk_make_printable(name);
        if (t->override)
            pk_text_add(out, "error: override '%s': %s\n", name, g->message);
        else if (g->at.line < 1)
            pk_text_add(out, "error: %s: %s\n", name, g->message);
        else
            pk_text_add(out, "error: %s:%d:%d: %s\n", name, g->at.line, g->at.column, g->message);
        if (g->at.line > 0) show_line(out, t, g->at);
    }
    if (g->help) pk_text_add(out, "help: %s\n", g->help);
}

enum pk_status pk_diags_report(struct pk_diags *d, const struct pk_sources *s,
                               struct pk_text *report, struct pk_err *err)
{
    if (d->failed) return pk_fail(err, PK_ENOMEM, "out of memory while reading a recipe");
    if (!d->count) return PK_OK;
    struct pk_text all = {0};
    size_t fits = 0;
    int64_t shown = 0;
    qsort(d->item, (size_t)d->count, sizeof *d->item, by_place);
    for (int64_t i = 0; i < d->count; i++) {
        show(&all, &d->item[i], s);
        if (all.len + 100 < PK_ERR_MAX) { // room for the line that counts the rest
            fits = all.len;
            shown = i + 1;
        }
    }
    if (d->dropped) pk_text_add(&all, "%lld more errors\n", (long long)d->dropped);
    if (report && all.s) pk_text_bytes(report, all.s, all.len);
    int64_t rest = d->count - shown + d->dropped;
    if (rest)
        pk_fail(err, PK_ERECIPE, "%.*s%lld more errors; 'purkinje recipe validate' shows all",
                (int)fits, all.s ? all.s : "", (long long)rest);
    else
        pk_fail(err, PK_ERECIPE, "%.*s", (int)(fits ? fits - 1 : 0), all.s ? all.s : "");
    bool failed = all.failed;
    pk_text_free(&all);
    return failed ? pk_fail(err, PK_ENOMEM, "out of memory while reading a recipe") : PK_ERECIPE;
}

int pk_edit_distance(const char *a, const char *b, int limit)
{
    enum { MAX = 64 };
    int rows[3][MAX + 1];
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > MAX || m > MAX || abs(n - m) > limit) return limit + 1;
    int *before = rows[0], *last = rows[1], *now = rows[2];
    for (int j = 0; j <= m; j++) before[j] = last[j] = j;
    for (int i = 1; i <= n; i++) {
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int v = last[j - 1] + (a[i - 1] != b[j - 1]);
            v = PK_MIN(v, PK_MIN(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                v = PK_MIN(v, before[j - 2] + 1);
            now[j] = v;
        }
        int *t = before;
        before = last;
        last = now;
        now = t;
    }
    return PK_MIN(last[m], limit + 1);
}

bool pk_better_guess(const char *word, const char *candidate, int *best)
{
    size_t n = PK_MAX(strlen(word), strlen(candidate));
    int limit = PK_MAX(1, (int)n / 3);
    int d = pk_edit_distance(word, candidate, limit);
    /* "warm" for "warmup", "lr" aside: what was typed is the beginning of the real name. */
    if (d > limit && strlen(word) >= 3 && !strncmp(word, candidate, strlen(word))) d = limit;
    if (d > limit || d >= *best) return false;
    *best = d;
    return true;
}
