/* json.c -- a strict JSON reader and a small writer (see json.h). */
#include "core/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LINEAR_KEYS = 64 }; // objects up to here compare every key with every other

struct reader {
    const char *s, *end, *start;
    const char *name;
    int depth;
    struct pk_err *err;
};

static enum pk_status bad(const struct reader *r, const char *what)
{
    int line = 1, column = 1;
    for (const char *p = r->start; p < r->s; p++) {
        column++;
        if (*p == '\n') {
            line++;
            column = 1;
        }
    }
    return pk_fail(r->err, PK_EDATA, "%s:%d:%d: bad JSON: %s", r->name, line, column, what);
}

static void skip_space(struct reader *r)
{
    while (r->s < r->end && (*r->s == ' ' || *r->s == '\t' || *r->s == '\n' || *r->s == '\r'))
        r->s++;
}

static bool hex4(struct reader *r, uint32_t *out)
{
    uint32_t v = 0;
    if (r->end - r->s < 4) return false;
    for (int i = 0; i < 4; i++) {
        char c = *r->s++;
        if (c >= '0' && c <= '9')
            v = v * 16 + (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            v = v * 16 + (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            v = v * 16 + (uint32_t)(c - 'A' + 10);
        else
            return false;
    }
    *out = v;
    return true;
}

static void put_utf8(struct pk_text *t, uint32_t c)
{
    char b[4];
    size_t n = 0;
    if (c < 0x80) {
        b[n++] = (char)c;
    } else if (c < 0x800) {
        b[n++] = (char)(0xc0 | c >> 6);
        b[n++] = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        b[n++] = (char)(0xe0 | c >> 12);
        b[n++] = (char)(0x80 | (c >> 6 & 63));
        b[n++] = (char)(0x80 | (c & 63));
    } else {
        b[n++] = (char)(0xf0 | c >> 18);
        b[n++] = (char)(0x80 | (c >> 12 & 63));
        b[n++] = (char)(0x80 | (c >> 6 & 63));
        b[n++] = (char)(0x80 | (c & 63));
    }
    pk_text_bytes(t, b, n);
}

static enum pk_status read_escape(struct reader *r, struct pk_text *t)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (r->s >= r->end) return bad(r, "string does not end");
    char c = *r->s++;
    if (c == 'u') {
        uint32_t u, low;
        if (!hex4(r, &u)) return bad(r, "bad \\u escape");
        if (u >= 0xd800 && u < 0xdc00) {
            if (r->end - r->s < 2 || r->s[0] != '\\' || r->s[1] != 'u')
                return bad(r, "lone surrogate");
            r->s += 2;
            if (!hex4(r, &low) || low < 0xdc00 || low > 0xdfff) return bad(r, "lone surrogate");
            u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
        } else if (u >= 0xdc00 && u < 0xe000) {
            return bad(r, "lone surrogate");
        }
        if (u == 0) return bad(r, "a string holds NUL");
        put_utf8(t, u);
        return PK_OK;
    }
    const char *at = c ? strchr(from, c) : NULL;
    if (!at) return bad(r, "unknown escape");
    pk_text_bytes(t, to + (at - from), 1);
    return PK_OK;
}

static enum pk_status read_string(struct reader *r, char **out)
{
    struct pk_text t = {0};
    enum pk_status s = PK_OK;
    r->s++;
    while (s == PK_OK) {
        if (r->s >= r->end) {
            s = bad(r, "string does not end");
        } else if (*r->s == '"') {
            r->s++;
            break;
        } else if (*r->s == '\\') {
            r->s++;
            s = read_escape(r, &t);
        } else if ((unsigned char)*r->s < 0x20) {
            s = bad(r, "control character in a string");
        } else {
            pk_text_bytes(&t, r->s++, 1);
        }
    }
    if (s == PK_OK && !t.s) pk_text_bytes(&t, "", 0);
    if (s == PK_OK && t.failed) s = pk_fail(r->err, PK_ENOMEM, "out of memory reading %s", r->name);
    if (s != PK_OK) {
        pk_text_free(&t);
        return s;
    }
    *out = t.s;
    return PK_OK;
}

static enum pk_status read_number(struct reader *r, struct pk_json *j)
{
    const char *p = r->s;
    char buf[64];
    j->is_integer = true;
    if (p < r->end && *p == '-') p++;
    const char *digits = p;
    while (p < r->end && *p >= '0' && *p <= '9') p++;
    if (p == digits || (*digits == '0' && p - digits > 1)) return bad(r, "bad number");
    if (p < r->end && *p == '.') {
        j->is_integer = false;
        digits = ++p;
        while (p < r->end && *p >= '0' && *p <= '9') p++;
        if (p == digits) return bad(r, "bad number");
    }
    if (p < r->end && (*p == 'e' || *p == 'E')) {
        j->is_integer = false;
        p++;
        if (p < r->end && (*p == '+' || *p == '-')) p++;
        digits = p;
        while (p < r->end && *p >= '0' && *p <= '9') p++;
        if (p == digits) return bad(r, "bad number");
    }
    if ((size_t)(p - r->s) >= sizeof buf) return bad(r, "number too long");
    memcpy(buf, r->s, (size_t)(p - r->s));
    buf[p - r->s] = 0;
    j->kind = PK_JSON_NUMBER;
    j->number = strtod(buf, NULL);
    if (!isfinite(j->number)) return bad(r, "a number beyond those of double precision");
    if (j->is_integer) j->is_integer = pk_parse_i64(buf, &j->integer);
    r->s = p;
    return PK_OK;
}

static enum pk_status read_value(struct reader *r, struct pk_json *j);

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Refuses duplicates among many keys in n log n: hostile headers have a million of them. */
static enum pk_status check_keys(struct reader *r, const struct pk_json *j)
{
    char **sorted;
    enum pk_status s = PK_OK;
    PK_TRY(pk_alloc(&sorted, (size_t)j->count, sizeof *sorted, r->name, r->err));
    memcpy(sorted, j->key, (size_t)j->count * sizeof *sorted);
    qsort(sorted, (size_t)j->count, sizeof *sorted, by_text);
    for (int64_t i = 1; i < j->count && s == PK_OK; i++)
        if (!strcmp(sorted[i - 1], sorted[i]))
            s = bad(r, "duplicate key in the object that ends here");
    free(sorted);
    return s;
}

static enum pk_status read_members(struct reader *r, struct pk_json *j, bool object)
{
    int64_t cap = 0, key_cap = 0;
    char close = object ? '}' : ']';
    j->kind = object ? PK_JSON_OBJECT : PK_JSON_ARRAY;
    if (++r->depth > 64) return bad(r, "nested deeper than 64");
    r->s++;
    skip_space(r);
    if (r->s < r->end && *r->s == close) {
        r->s++;
        r->depth--;
        return PK_OK;
    }
    for (;;) {
        PK_TRY(pk_grow(&j->item, &cap, j->count + 1, sizeof *j->item, r->name, r->err));
        PK_TRY(pk_grow(&j->key, &key_cap, j->count + 1, sizeof *j->key, r->name, r->err));
        j->count++; // the new member is zeroed, so freeing after an error is safe
        skip_space(r);
        if (object) {
            if (r->s >= r->end || *r->s != '"') return bad(r, "a key in quotes was expected");
            PK_TRY(read_string(r, &j->key[j->count - 1]));
            // Small objects point at the second of the two; large ones are sorted at the end.
            for (int64_t i = 0; i < j->count - 1 && j->count <= LINEAR_KEYS; i++)
                if (!strcmp(j->key[i], j->key[j->count - 1])) return bad(r, "duplicate key");
            skip_space(r);
            if (r->s >= r->end || *r->s++ != ':') return bad(r, "':' was expected");
        }
        PK_TRY(read_value(r, &j->item[j->count - 1]));
        skip_space(r);
        if (r->s >= r->end) return bad(r, "text ends inside an array or object");
        char c = *r->s++;
        if (c == close) break;
        if (c != ',') return bad(r, "',' or a closing bracket was expected");
    }
    if (object && j->count > LINEAR_KEYS) PK_TRY(check_keys(r, j));
    r->depth--;
    return PK_OK;
}

static enum pk_status read_value(struct reader *r, struct pk_json *j)
{
    static const struct {
        const char *word;
        enum pk_json_kind kind;
        bool value;
    } words[] = {{"true", PK_JSON_BOOL, true},
                 {"false", PK_JSON_BOOL, false},
                 {"null", PK_JSON_NULL, false}};
    skip_space(r);
    if (r->s >= r->end) return bad(r, "text ends where a value was expected");
    if (*r->s == '{') return read_members(r, j, true);
    if (*r->s == '[') return read_members(r, j, false);
    if (*r->s == '"') {
        j->kind = PK_JSON_STRING;
        return read_string(r, &j->string);
    }
    for (size_t i = 0; i < PK_COUNT(words); i++) {
        size_t n = strlen(words[i].word);
        if ((size_t)(r->end - r->s) >= n && !memcmp(r->s, words[i].word, n)) {
            j->kind = words[i].kind;
            j->boolean = words[i].value;
            r->s += n;
            return PK_OK;
        }
    }
    return read_number(r, j);
}

enum pk_status pk_json_parse(struct pk_json *out, const char *text, size_t n, const char *name,
                             struct pk_err *err)
{
    struct reader r = {.s = text, .end = text + n, .start = text, .name = name, .err = err};
    *out = (struct pk_json){0};
    enum pk_status s = read_value(&r, out);
    if (s == PK_OK) {
        skip_space(&r);
        if (r.s < r.end) s = bad(&r, "something follows the value");
    }
    if (s != PK_OK) pk_json_free(out);
    return s;
}

enum pk_status pk_json_load(struct pk_json *out, const char *path, size_t limit, struct pk_err *err)
{
    char *text;
    size_t n;
    *out = (struct pk_json){0};
    PK_TRY(pk_read_file(path, limit, &text, &n, err));
    enum pk_status s = pk_json_parse(out, text, n, path, err);
    free(text);
    return s;
}

void pk_json_free(struct pk_json *j)
{
    for (int64_t i = 0; i < j->count; i++) {
        pk_json_free(&j->item[i]);
        if (j->key) free(j->key[i]);
    }
    free(j->item);
    free(j->key);
    free(j->string);
    *j = (struct pk_json){0};
}

const struct pk_json *pk_json_get(const struct pk_json *j, const char *key)
{
    if (!j || j->kind != PK_JSON_OBJECT) return NULL;
    for (int64_t i = 0; i < j->count; i++)
        if (!strcmp(j->key[i], key)) return &j->item[i];
    return NULL;
}

const char *pk_json_string(const struct pk_json *j, const char *key, const char *fallback)
{
    const struct pk_json *m = pk_json_get(j, key);
    return m && m->kind == PK_JSON_STRING ? m->string : fallback;
}

int64_t pk_json_i64(const struct pk_json *j, const char *key, int64_t fallback)
{
    const struct pk_json *m = pk_json_get(j, key);
    return m && m->kind == PK_JSON_NUMBER && m->is_integer ? m->integer : fallback;
}

double pk_json_f64(const struct pk_json *j, const char *key, double fallback)
{
    const struct pk_json *m = pk_json_get(j, key);
    return m && m->kind == PK_JSON_NUMBER ? m->number : fallback;
}

static void put_quoted(struct pk_text *t, const char *s)
{
    pk_text_bytes(t, "\"", 1);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            pk_text_add(t, "\\%c", c);
        else if (c == '\n')
            pk_text_bytes(t, "\\n", 2);
        else if (c < 0x20)
            pk_text_add(t, "\\u%04x", c);
        else
            pk_text_bytes(t, s, 1);
    }
    pk_text_bytes(t, "\"", 1);
}

static void start_member(struct pk_json_writer *w, const char *key)
{
    if (w->depth > 0) {
        if (w->some[w->depth - 1]) pk_text_add(w->out, w->indent ? "," : ", ");
        if (w->indent) pk_text_add(w->out, "\n%*s", w->indent * w->depth, "");
        w->some[w->depth - 1] = true;
    }
    if (key) {
        put_quoted(w->out, key);
        pk_text_add(w->out, ": ");
    }
}

void pk_json_open(struct pk_json_writer *w, const char *key, char bracket)
{
    start_member(w, key);
    if (w->depth >= 64) {
        w->out->failed = true;
        return;
    }
    pk_text_bytes(w->out, &bracket, 1);
    w->close[w->depth] = bracket == '{' ? '}' : ']';
    w->some[w->depth++] = false;
}

void pk_json_close(struct pk_json_writer *w)
{
    if (w->depth <= 0) return;
    bool some = w->some[--w->depth];
    if (some && w->indent) pk_text_add(w->out, "\n%*s", w->indent * w->depth, "");
    pk_text_bytes(w->out, &w->close[w->depth], 1);
    if (w->depth == 0 && w->indent) pk_text_add(w->out, "\n");
}

void pk_json_put_string(struct pk_json_writer *w, const char *key, const char *value)
{
    start_member(w, key);
    put_quoted(w->out, value ? value : "");
}

void pk_json_put_i64(struct pk_json_writer *w, const char *key, int64_t value)
{
    start_member(w, key);
    pk_text_add(w->out, "%lld", (long long)value);
}

void pk_json_put_f64(struct pk_json_writer *w, const char *key, double value)
{
    char buf[40];
    start_member(w, key);
    if (!isfinite(value)) {
        pk_text_add(w->out, "null");
        return;
    }
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(buf, sizeof buf, "%.*g", digits, value);
        if (strtod(buf, NULL) == value) break;
    }
    pk_text_add(w->out, "%s", buf);
}

void pk_json_put_f64s(struct pk_json_writer *w, const char *key, const double *value, int64_t n)
{
    pk_json_open(w, key, '[');
    for (int64_t i = 0; i < n; i++) pk_json_put_f64(w, NULL, value[i]);
    pk_json_close(w);
}

void pk_json_put_bool(struct pk_json_writer *w, const char *key, bool value)
{
    start_member(w, key);
    pk_text_add(w->out, value ? "true" : "false");
}

void pk_json_put_null(struct pk_json_writer *w, const char *key)
{
    start_member(w, key);
    pk_text_add(w->out, "null");
}

void pk_json_put_raw(struct pk_json_writer *w, const char *key, const char *json)
{
    start_member(w, key);
    pk_text_add(w->out, "%s", json);
}
