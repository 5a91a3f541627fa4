/* recipe_value.c -- from YAML scalars to typed values: the YAML 1.2 core schema read strictly,
 * units, ranges and choices (see recipe_internal.h). */
#include "core/recipe_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a plain scalar is under the YAML 1.2 core schema (section 10.3.2). */
enum core_kind { CORE_NULL, CORE_BOOL, CORE_INT, CORE_FLOAT, CORE_TEXT };

static bool one_of(const char *s, const char *const *words)
{
    for (; *words; words++)
        if (!strcmp(s, *words)) return true;
    return false;
}

static size_t digits(const char *s, const char *set)
{
    return strspn(s, set);
}

/* [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )? ; bytes matched, or 0. */
static size_t float_length(const char *s)
{
    const char *p = s, *const set = "0123456789";
    if (*p == '+' || *p == '-') p++;
    size_t whole = digits(p, set), part = 0;
    p += whole;
    if (*p == '.') {
        part = digits(p + 1, set);
        if (!whole && !part) return 0;
        p += 1 + part;
    }
    if (!whole && !part) return 0;
    if (*p == 'e' || *p == 'E') {
        const char *q = p + 1;
        if (*q == '+' || *q == '-') q++;
        size_t n = digits(q, set);
        if (n) p = q + n;
    }
    return (size_t)(p - s);
}

/* 0o17 and 0x1F; -1 when it is neither or too large. */
static int64_t radix_integer(const char *s)
{
    int base = !strncmp(s, "0o", 2) ? 8 : !strncmp(s, "0x", 2) ? 16 : 0;
    const char *set = base == 8 ? "01234567" : "0123456789abcdefABCDEF";
    if (!base || !s[2] || strlen(s) > 16 || s[2 + digits(s + 2, set)]) return -1;
    return strtoll(s + 2, NULL, base);
}

static enum core_kind core_kind(const char *s, bool plain, double *number, int64_t *integer)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const yes[] = {"true", "True", "TRUE", NULL};
    static const char *const no[] = {"false", "False", "FALSE", NULL};
    static const char *const nan[] = {".nan", ".NaN", ".NAN", NULL};
    static const char *const inf[] = {".inf", ".Inf", ".INF", NULL};
    if (!plain) return CORE_TEXT;
    if (one_of(s, nulls)) return CORE_NULL;
    if (one_of(s, yes) || one_of(s, no)) {
        *integer = one_of(s, yes);
        return CORE_BOOL;
    }
    bool sign = *s == '-' || *s == '+';
    if (one_of(s, nan) || one_of(s + sign, inf)) {
        *number = one_of(s, nan) ? NAN : *s == '-' ? -INFINITY : INFINITY;
        return CORE_FLOAT;
    }
    if ((*integer = radix_integer(s)) >= 0) {
        *number = (double)*integer;
        return CORE_INT;
    }
    size_t n = float_length(s);
    if (!n || s[n]) return CORE_TEXT;
    *number = strtod(s, NULL);
    return pk_parse_i64(s, integer) ? CORE_INT : CORE_FLOAT;
}

bool pk_plain_is_text(const char *text)
{
    double number;
    int64_t integer;
    return core_kind(text, true, &number, &integer) == CORE_TEXT;
}

struct read {
    const struct pk_key *key;
    const char *path;
    const struct pk_node *n;
    struct pk_diags *d;
};

static const char *found(const struct pk_node *n, char out[96])
{
    double number;
    int64_t integer;
    if (n->kind == PK_NODE_LIST) return "a list";
    if (n->kind == PK_NODE_MAP) return "a section";
    if (!n->plain)
        snprintf(out, 96, "the text \"%.60s\"", n->text);
    else if (core_kind(n->text, true, &number, &integer) == CORE_NULL)
        return "nothing";
    else
        snprintf(out, 96, "'%.60s'", n->text);
    return out;
}

static bool expected(const struct read *r, const char *what)
{
    char text[96];
    pk_diag_add(r->d, r->n->at, "'%s' must be %s, found %s", r->path, what, found(r->n, text));
    return false;
}

static bool in_range(const struct read *r, double v)
{
    char range[256], shown[96];
    if (v >= r->key->low && v <= r->key->high) return true;
    pk_key_range(r->key, range);
    if (r->key->low == r->key->high)
        pk_diag_add(r->d, r->n->at, "'%s' must be %s, found %s", r->path, range,
                    found(r->n, shown));
    else
        pk_diag_add(r->d, r->n->at, "'%s' is out of range: %s, found %s", r->path, range,
                    found(r->n, shown));
    return false;
}

struct unit {
    const char *name;
    double over, times; // v / over * times; dividing keeps 50 ms == 0.05 s exact
};

/* Splits "50 ms" into number and unit; the number alone is allowed only when it is 0. */
static bool read_unit(const struct read *r, double *out)
{
    static const struct unit times[] = {{"s", 1, 1},    {"ms", 1000, 1}, {"us", 1e6, 1},
                                        {"min", 1, 60}, {"h", 1, 3600},  {NULL, 0, 0}};
    static const struct unit rates[] = {{"Hz", 1, 1}, {"kHz", 1, 1000}, {NULL, 0, 0}};
    bool time = r->key->unit == PK_UNIT_TIME;
    const char *kind = time ? "time" : "frequency", *names = time ? "us, ms, s, min, h" : "Hz, kHz";
    size_t n = float_length(r->n->text);
    if (!n) {
        expected(r, time ? "a time with its unit" : "a frequency with its unit");
        pk_diag_help(r->d, "write for example '%s'", time ? "10 s" : "500 Hz");
        return false;
    }
    const char *unit = r->n->text + n + strspn(r->n->text + n, " ");
    double v = strtod(r->n->text, NULL);
    if (!*unit && v == 0) {
        *out = 0;
        return true;
    }
    if (!*unit) {
        pk_diag_add(r->d, r->n->at, "'%s' is a %s and needs a unit, found '%.60s'", r->path, kind,
                    r->n->text);
        pk_diag_help(r->d, "write '%.60s %s' (units: %s)", r->n->text, time ? "s" : "Hz", names);
        return false;
    }
    for (const struct unit *u = time ? times : rates; u->name; u++) {
        if (strcmp(u->name, unit)) continue;
        *out = v / u->over * u->times;
        return true;
    }
    pk_diag_add(r->d, r->n->at, "'%s': unknown unit of %s '%.40s'", r->path, kind, unit);
    pk_diag_help(r->d, "units: %s", names);
    return false;
}

/* "10000 steps" -> 10000; other texts are left to the caller. */
static bool read_steps(const struct read *r, double *v)
{
    size_t n = float_length(r->n->text);
    const char *unit = r->n->text + n + strspn(r->n->text + n, " ");
    if (!n || (strcmp(unit, "steps") && strcmp(unit, "step"))) return false;
    *v = strtod(r->n->text, NULL);
    return true;
}

static bool read_number(const struct read *r, bool whole, struct pk_scalar *out)
{
    int64_t integer = 0;
    double v = 0;
    if (r->n->kind != PK_NODE_SCALAR) return expected(r, whole ? "a whole number" : "a number");
    if (r->key->unit == PK_UNIT_TIME || r->key->unit == PK_UNIT_FREQUENCY) {
        if (!read_unit(r, &v)) return false;
    } else if (r->key->unit != PK_UNIT_STEPS || !read_steps(r, &v)) {
        enum core_kind k = core_kind(r->n->text, r->n->plain, &v, &integer);
        if (k != CORE_INT && k != CORE_FLOAT) {
            expected(r, whole ? "a whole number" : "a number");
            size_t n = float_length(r->n->text);
            if (n && !r->n->text[n] && !r->n->plain)
                pk_diag_help(r->d, "remove the quotes");
            else if (!strcmp(r->path, "output.checkpoint.every"))
                pk_diag_help(r->d, "write '1000 steps'; wall time is 'every_time: 30 min'");
            else if (r->key->unit == PK_UNIT_STEPS)
                pk_diag_help(r->d, "write '100' or '100 steps'");
            return false;
        }
    }
    if (whole && (v != floor(v) || fabs(v) > 9007199254740992.0))
        return expected(r, "a whole number");
    if (!in_range(r, v)) return false;
    out->number = v == 0 ? 0 : v; // no minus zero
    out->integer = whole ? (int64_t)v : 0;
    return true;
}

static bool read_bool(const struct read *r, struct pk_scalar *out)
{
    static const char *const old[] = {"yes", "Yes", "YES", "on",  "On",  "ON", "y", "no",
                                      "No",  "NO",  "off", "Off", "OFF", "n",  NULL};
    double number;
    if (r->n->kind == PK_NODE_SCALAR &&
        core_kind(r->n->text, r->n->plain, &number, &out->integer) == CORE_BOOL) {
        out->number = (double)out->integer;
        return true;
    }
    expected(r, "true or false");
    if (r->n->kind == PK_NODE_SCALAR && one_of(r->n->text, old))
        pk_diag_help(r->d, "in YAML 1.2 '%s' is a text; write %s", r->n->text,
                     strchr("yY", r->n->text[0]) || !strcmp(r->n->text + 1, "n") ||
                             !strcmp(r->n->text + 1, "N")
                         ? "true"
                         : "false");
    return false;
}

static bool read_text(const struct read *r, struct pk_scalar *out)
{
    double number;
    int64_t integer;
    if (r->n->kind != PK_NODE_SCALAR) return expected(r, "a text");
    enum core_kind k = core_kind(r->n->text, r->n->plain, &number, &integer);
    if (k != CORE_TEXT && k != CORE_NULL) {
        expected(r, "a text");
        pk_diag_help(r->d, "put it in quotes: \"%.60s\"", r->n->text);
        return false;
    }
    out->text = pk_strdup(k == CORE_NULL && *r->n->text ? "" : r->n->text);
    if (!out->text) r->d->failed = true;
    return out->text != NULL;
}

static bool read_choice(const struct read *r, struct pk_scalar *out)
{
    char range[256], word[64], guess[64] = "";
    int best = PK_RECIPE_TEXT_MAX;
    pk_key_range(r->key, range);
    if (r->n->kind != PK_NODE_SCALAR || !*r->n->text) {
        expected(r, "a choice");
        pk_diag_help(r->d, "choices: %s", range);
        return false;
    }
    for (const char *p = r->key->choices; *p;) {
        size_t n = strcspn(p, "|");
        snprintf(word, sizeof word, "%.*s", (int)n, p);
        if (!strcmp(word, r->n->text)) {
            if (!(out->text = pk_strdup(word))) r->d->failed = true;
            return out->text != NULL;
        }
        if (pk_better_guess(r->n->text, word, &best)) snprintf(guess, sizeof guess, "%s", word);
        p += n + (p[n] == '|');
    }
    pk_diag_add(r->d, r->n->at, "'%.60s' is not a choice of '%s'", r->n->text, r->path);
    if (*guess)
        pk_diag_help(r->d, "did you mean '%s'? (choices: %s)", guess, range);
    else
        pk_diag_help(r->d, "choices: %s", range);
    return false;
}

static bool read_one(const struct read *r, enum pk_key_type type, struct pk_scalar *out)
{
    switch (type) {
    case PK_KEY_INT:
        return read_number(r, true, out);
    case PK_KEY_FLOAT:
        return read_number(r, false, out);
    case PK_KEY_BOOL:
        return read_bool(r, out);
    case PK_KEY_ENUM:
        return read_choice(r, out);
    default:
        return read_text(r, out);
    }
}

static bool read_elements(const struct read *r, enum pk_key_type type, struct pk_value *v)
{
    bool good = true;
    int64_t capacity = 0, n = r->n->count;
    const struct pk_key *k = r->key;
    if (n < k->count_low || n > k->count_high) {
        if (k->count_low == k->count_high)
            pk_diag_add(r->d, r->n->at, "'%s' needs %d elements, found %lld", r->path, k->count_low,
                        (long long)n);
        else
            pk_diag_add(r->d, r->n->at, "'%s' takes %d to %d elements, found %lld", r->path,
                        k->count_low, k->count_high, (long long)n);
        return false;
    }
    if (pk_grow(&v->item, &capacity, n, sizeof *v->item, "recipe list", NULL) != PK_OK) {
        r->d->failed = true;
        return false;
    }
    for (int64_t i = 0; i < n; i++) {
        char path[256];
        struct read one = *r;
        one.n = &r->n->item[i];
        one.path = path;
        if (one.n->key)
            snprintf(path, sizeof path, "%.120s.%.60s", r->path, one.n->key);
        else
            snprintf(path, sizeof path, "%.120s[%lld]", r->path, (long long)i);
        if (one.n->key && !(v->item[i].name = pk_strdup(one.n->key))) r->d->failed = true;
        v->count = i + 1;
        good &= read_one(&one, type, &v->item[i]);
    }
    return good && !r->d->failed;
}

bool pk_value_read(struct pk_value *v, const struct pk_key *key, const char *path,
                   const struct pk_node *n, struct pk_diags *d)
{
    struct read r = {key, path, n, d};
    switch (key->type) {
    case PK_KEY_INTS:
    case PK_KEY_FLOATS:
    case PK_KEY_STRINGS:
        if (n->kind != PK_NODE_LIST) {
            expected(&r, "a list");
            if (n->kind == PK_NODE_SCALAR && *n->text) pk_diag_help(d, "write '[%.60s]'", n->text);
            return false;
        }
        return read_elements(&r,
                             key->type == PK_KEY_INTS     ? PK_KEY_INT
                             : key->type == PK_KEY_FLOATS ? PK_KEY_FLOAT
                                                          : PK_KEY_STRING,
                             v);
    case PK_KEY_WEIGHTS:
        if (n->kind == PK_NODE_MAP) return read_elements(&r, PK_KEY_FLOAT, v);
        expected(&r, "a map of numbers by name");
        pk_diag_help(d, "write for example '{ptb-xl: 0.2, code-15: 0.8}'");
        return false;
    default:
        return read_one(&r, key->type, &v->one);
    }
}

static void scalar_free(struct pk_scalar *s)
{
    free(s->name);
    free(s->text);
}

void pk_value_free(struct pk_value *v)
{
    scalar_free(&v->one);
    for (int64_t i = 0; i < v->count; i++) scalar_free(&v->item[i]);
    free(v->item);
    free(v->origin);
    *v = (struct pk_value){0};
}

static bool scalar_copy(struct pk_scalar *to, const struct pk_scalar *from)
{
    *to = *from;
    to->name = to->text = NULL;
    if (from->name && !(to->name = pk_strdup(from->name))) return false;
    return !from->text || (to->text = pk_strdup(from->text)) != NULL;
}

bool pk_value_copy(struct pk_value *to, const struct pk_value *from)
{
    pk_value_free(to);
    *to = *from;
    to->item = NULL;
    to->origin = NULL;
    to->count = 0;
    if (from->origin && !(to->origin = pk_strdup(from->origin))) {
        to->one.name = to->one.text = NULL;
        return false;
    }
    if (!scalar_copy(&to->one, &from->one)) return false;
    if (from->count && !(to->item = calloc((size_t)from->count, sizeof *to->item))) return false;
    for (int64_t i = 0; i < from->count; i++) {
        to->count = i + 1;
        if (!scalar_copy(&to->item[i], &from->item[i])) return false;
    }
    return true;
}
