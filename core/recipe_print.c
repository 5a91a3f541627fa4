/* recipe_print.c -- the resolved recipe as YAML, and its hash (see recipe.h). */
#include "core/recipe_internal.h"

#include <math.h>
#include <string.h>

enum { ORIGIN_COLUMN = 52 };

/* Shortest decimal that reads back to the same double. */
static void put_number(struct pk_text *t, double v)
{
    char text[40];
    for (int precision = 15; precision <= 17; precision++) {
        double back;
        snprintf(text, sizeof text, "%.*g", precision, v);
        if (pk_parse_f64(text, &back) && back == v) break;
    }
    pk_text_add(t, "%s", text);
}

static bool is_word(const char *s)
{
    for (const char *p = s; *p; p++)
        if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
              *p == '_' || *p == '/' || *p == '.' || ((*p == '-' || *p == '+') && p > s)))
            return false;
    return pk_plain_is_text(s) && s[0] != '.';
}

static void put_string(struct pk_text *t, const char *s)
{
    if (is_word(s)) {
        pk_text_add(t, "%s", s);
        return;
    }
    pk_text_add(t, "\"");
    for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
        if (*p == '"' || *p == '\\')
            pk_text_add(t, "\\%c", *p);
        else if (*p < 0x20 || *p == 0x7f)
            pk_text_add(t, "\\x%02x", *p);
        else if (*p == 0xc2 && p[1] >= 0x80 && p[1] <= 0xa0)
            pk_text_add(t, "\\x%02x", *++p);
        else
            pk_text_add(t, "%c", *p);
    }
    pk_text_add(t, "\"");
}

static void put_scalar(struct pk_text *t, const struct pk_key *key, const struct pk_scalar *s)
{
    switch (key->type) {
    case PK_KEY_INT:
    case PK_KEY_INTS:
        pk_text_add(t, "%lld", (long long)s->integer);
        break;
    case PK_KEY_BOOL:
        pk_text_add(t, "%s", s->integer ? "true" : "false");
        break;
    case PK_KEY_FLOAT:
    case PK_KEY_FLOATS:
    case PK_KEY_WEIGHTS:
        put_number(t, s->number);
        if (key->unit == PK_UNIT_TIME) pk_text_add(t, " s");
        if (key->unit == PK_UNIT_FREQUENCY) pk_text_add(t, " Hz");
        break;
    default:
        put_string(t, s->text ? s->text : "");
    }
}

static void put_value(struct pk_text *t, const struct pk_key *key, const struct pk_value *v)
{
    bool map = key->type == PK_KEY_WEIGHTS;
    bool list =
        key->type == PK_KEY_INTS || key->type == PK_KEY_FLOATS || key->type == PK_KEY_STRINGS;
    if (!map && !list) {
        put_scalar(t, key, &v->one);
        return;
    }
    pk_text_add(t, map ? "{" : "[");
    for (int64_t i = 0; i < v->count; i++) {
        if (i) pk_text_add(t, ", ");
        if (map) {
            put_string(t, v->item[i].name);
            pk_text_add(t, ": ");
        }
        put_scalar(t, key, &v->item[i]);
    }
    pk_text_add(t, map ? "}" : "]");
}

static int depth_of(const char *path)
{
    int depth = 0;
    for (; *path; path++) depth += *path == '.';
    return depth;
}

/* One line, "key: value   # origin". `dash` begins an element of a list of sections. */
static void put_line(struct pk_text *t, const struct pk_recipe *r, int k, int item, bool dash,
                     bool origins)
{
    int count;
    const struct pk_key *key = &pk_keys(&count)[k];
    const struct pk_value *v = &r->value[pk_recipe_slot(k, item)];
    size_t start = t->len;
    pk_text_add(t, "%*s%s%s:", 2 * depth_of(key->path) - (dash ? 2 : 0), "", dash ? "- " : "",
                pk_key_name(key));
    if (key->type == PK_KEY_SECTION || key->type == PK_KEY_SECTIONS) {
        pk_text_add(t, "\n");
        return;
    }
    pk_text_add(t, " ");
    put_value(t, key, v);
    if (origins) {
        int pad = ORIGIN_COLUMN - (int)(t->len - start);
        pk_text_add(t, "%*s# %s", PK_MAX(pad, 1), "", v->origin ? v->origin : "default");
    }
    pk_text_add(t, "\n");
}

/* A section is printed when one of its keys is. */
static bool printed(const struct pk_recipe *r, const struct pk_key *key, int k, int item)
{
    if (!pk_recipe_applies(r, key) || !strcmp(key->path, "extends")) return false;
    if (key->type == PK_KEY_SECTION || key->type == PK_KEY_SECTIONS) return true;
    return r->value[pk_recipe_slot(k, item)].set;
}

static void put_stages(struct pk_text *t, const struct pk_recipe *r, int first, int last,
                       bool origins)
{
    int count;
    const struct pk_key *keys = pk_keys(&count);
    for (int item = 0; item < r->stages; item++)
        for (int k = first; k < last; k++)
            if (printed(r, &keys[k], k, item)) put_line(t, r, k, item, k == first, origins);
}

static void render(const struct pk_recipe *r, struct pk_text *t, bool origins)
{
    int count;
    const struct pk_key *keys = pk_keys(&count);
    for (int k = 0; k < count; k++) {
        if (!printed(r, &keys[k], k, 0)) continue;
        if (origins && keys[k].type <= PK_KEY_SECTIONS && !strchr(keys[k].path, '.'))
            pk_text_add(t, "\n");
        if (keys[k].type != PK_KEY_SECTIONS) {
            if (!strchr(keys[k].path, '*')) put_line(t, r, k, 0, false, origins);
            continue;
        }
        int last = k + 1;
        while (last < count && strstr(keys[last].path, ".*.")) last++;
        put_line(t, r, k, 0, false, origins);
        put_stages(t, r, k + 1, last, origins);
    }
}

enum pk_status pk_recipe_print(const struct pk_recipe *r, struct pk_text *out, struct pk_err *err)
{
    pk_text_add(out, "# The resolved recipe: every value, and where it comes from.\n");
    render(r, out, true);
    if (out->failed) return pk_fail(err, PK_ENOMEM, "out of memory while printing a recipe");
    return PK_OK;
}

uint64_t pk_recipe_hash(const struct pk_recipe *r)
{
    struct pk_text t = {0};
    render(r, &t, false);
    uint64_t h = t.failed ? 0 : pk_hash64(t.s, t.len, 1);
    pk_text_free(&t);
    return h;
}

static void take_line(char out[160], const char *line)
{
    line += strspn(line, " ");
    snprintf(out, 160, "%.*s", (int)PK_MIN(strcspn(line, "\n"), (size_t)159), line);
}

bool pk_recipe_differs(const struct pk_recipe *a, const struct pk_recipe *b, char in_a[160],
                       char in_b[160])
{
    struct pk_text text[2] = {{0}};
    size_t line = 0, at = 0;
    render(a, &text[0], false);
    render(b, &text[1], false);
    in_a[0] = in_b[0] = 0;
    const char *x = text[0].s, *y = text[1].s;
    for (; x && y && x[at] && x[at] == y[at]; at++)
        if (x[at] == '\n') line = at + 1;
    const bool differ = !x || !y || x[at] != y[at];
    if (differ && x && y) {
        take_line(in_a, x + line);
        take_line(in_b, y + line);
    }
    pk_text_free(&text[0]);
    pk_text_free(&text[1]);
    return differ;
}
