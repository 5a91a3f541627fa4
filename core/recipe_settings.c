/* recipe_settings.c -- see settings.h; here because it uses the recipes' parser. */
#include "core/recipe_internal.h"
#include "core/settings.h"

#include <stdlib.h>
#include <string.h>

/* Adds the scalars below n; `path` is n's own and gets longer on the way down. */
static enum pk_status flatten(struct pk_settings *s, const struct pk_node *n, char path[256],
                              struct pk_err *err)
{
    size_t len = strlen(path);
    if (n->kind == PK_NODE_SCALAR) {
        PK_TRY(pk_grow(&s->item, &s->capacity, s->count + 1, sizeof *s->item, "settings", err));
        struct pk_setting *k = &s->item[s->count++];
        k->path = pk_strdup(path);
        k->text = pk_strdup(n->text ? n->text : "");
        k->line = n->at.line;
        k->column = n->at.column;
        return k->path && k->text ? PK_OK : pk_fail(err, PK_ENOMEM, "out of memory: settings");
    }
    for (int64_t i = 0; i < n->count; i++) {
        const struct pk_node *m = &n->item[i];
        int wrote = n->kind == PK_NODE_LIST
                        ? snprintf(path + len, 256 - len, "%s%lld", len ? "." : "", (long long)i)
                        : snprintf(path + len, 256 - len, "%s%s", len ? "." : "", m->key);
        if (wrote < 0 || (size_t)wrote >= 256 - len)
            return pk_fail(err, PK_ERECIPE, "%s:%d:%d: keys longer than 255 bytes", s->file,
                           m->at.line, m->at.column);
        PK_TRY(flatten(s, m, path, err));
        path[len] = 0;
    }
    return PK_OK;
}

static enum pk_status parse(struct pk_settings *s, char *text, size_t size, struct pk_err *err)
{
    struct pk_source_text source = {.name = s->file, .text = text, .size = size};
    const struct pk_sources sources = {.item = &source, .count = 1, .capacity = 1};
    struct pk_diags d = {0};
    struct pk_node root = {0};
    char path[256] = "";
    enum pk_status st = pk_yaml_parse(&root, text, size, 0, 0, &d, err);
    if (st == PK_OK) st = pk_diags_report(&d, &sources, NULL, err);
    if (st == PK_OK && root.kind != PK_NODE_MAP)
        st = pk_fail(err, PK_ERECIPE, "%s: a map of keys was expected", s->file);
    if (st == PK_OK) st = flatten(s, &root, path, err);
    pk_diags_free(&d);
    pk_node_free(&root);
    return st;
}

enum pk_status pk_settings_load(struct pk_settings *out, const char *file, struct pk_err *err)
{
    char *text = NULL;
    size_t size;
    *out = (struct pk_settings){0};
    PK_TRY(pk_path(out->file, err, "%s", file));
    PK_TRY(pk_read_file(file, PK_RECIPE_BYTES_MAX, &text, &size, err));
    enum pk_status s = parse(out, text, size, err);
    free(text);
    if (s != PK_OK) pk_settings_free(out);
    return s;
}

void pk_settings_free(struct pk_settings *s)
{
    for (int64_t i = 0; i < s->count; i++) {
        free(s->item[i].path);
        free(s->item[i].text);
    }
    free(s->item);
    *s = (struct pk_settings){0};
}

struct pk_setting *pk_settings_find(struct pk_settings *s, const char *path, ...)
{
    char name[256];
    va_list ap;
    va_start(ap, path);
    vsnprintf(name, sizeof name, path, ap);
    va_end(ap);
    for (int64_t i = 0; i < s->count; i++) {
        if (strcmp(s->item[i].path, name)) continue;
        s->item[i].used = true;
        return &s->item[i];
    }
    return NULL;
}

bool pk_settings_has(const struct pk_settings *s, const char *path, ...)
{
    char name[256];
    va_list ap;
    va_start(ap, path);
    vsnprintf(name, sizeof name, path, ap);
    va_end(ap);
    size_t n = strlen(name);
    for (int64_t i = 0; i < s->count; i++)
        if (!strncmp(s->item[i].path, name, n) && s->item[i].path[n] == '.') return true;
    return false;
}

enum pk_status pk_settings_fail(const struct pk_settings *s, const struct pk_setting *item,
                                struct pk_err *err, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (item)
        return pk_fail(err, PK_ERECIPE, "%s:%d:%d: %s", s->file, item->line, item->column, text);
    return pk_fail(err, PK_ERECIPE, "%s: %s", s->file, text);
}

enum pk_status pk_settings_f64(const struct pk_settings *s, const struct pk_setting *item,
                               const char *unit, double low, double high, double *out,
                               struct pk_err *err)
{
    char number[64];
    double v;
    if (!item) return PK_OK;
    size_t n = strcspn(item->text, " ");
    snprintf(number, sizeof number, "%.*s", (int)PK_MIN(n, sizeof number - 1), item->text);
    const char *rest = item->text + n + strspn(item->text + n, " ");
    if (!pk_parse_f64(number, &v) || (*rest && (!unit || strcmp(rest, unit))))
        return pk_settings_fail(s, item, err, "'%s' must be a number%s%s, found '%.60s'",
                                item->path, unit ? " of " : "", unit ? unit : "", item->text);
    if (!(v >= low && v <= high))
        return pk_settings_fail(s, item, err, "'%s' is %g; %g to %g is possible", item->path, v,
                                low, high);
    *out = v;
    return PK_OK;
}

enum pk_status pk_settings_all_used(const struct pk_settings *s, const char *known,
                                    struct pk_err *err)
{
    for (int64_t i = 0; i < s->count; i++)
        if (!s->item[i].used)
            return pk_settings_fail(s, &s->item[i], err, "unknown key '%s'; known are %s",
                                    s->item[i].path, known);
    return PK_OK;
}
