/* recipe.c -- recipes held in memory: the values behind every key and how callers get at them (see
 * recipe.h). Loading is in recipe_load.c, checks across keys in recipe_check.c. */
#include "core/recipe_internal.h"

#include <stdlib.h>
#include <string.h>

int pk_recipe_slot(int k, int item)
{
    return k * PK_STAGES_MAX + item; // few keys: a dense table is simplest
}

struct pk_value *pk_recipe_value(const struct pk_recipe *r, const char *path)
{
    int item, k = pk_key_resolve(path, &item);
    return k < 0 ? NULL : &r->value[pk_recipe_slot(k, item)];
}

void pk_recipe_free(struct pk_recipe *r)
{
    int keys;
    if (!r) return;
    pk_keys(&keys);
    for (int i = 0; r->value && i < pk_recipe_slot(keys, 0); i++) pk_value_free(&r->value[i]);
    for (int64_t i = 0; i < r->sources.count; i++) {
        free(r->sources.item[i].name);
        free(r->sources.item[i].text);
    }
    free(r->sources.item);
    free(r->value);
    free(r);
}

static bool text_is(const struct pk_recipe *r, const char *path, const char *text)
{
    return !strcmp(pk_recipe_str(r, path), text);
}

bool pk_recipe_supervised(const struct pk_recipe *r)
{
    return text_is(r, "objective.kind", "classify") || text_is(r, "objective.kind", "regress");
}

bool pk_recipe_applies(const struct pk_recipe *r, const struct pk_key *key)
{
    switch (key->when) {
    case PK_WHEN_PRETRAIN:
        return !pk_recipe_supervised(r);
    case PK_WHEN_CONTRASTIVE:
        return text_is(r, "objective.kind", "contrastive");
    case PK_WHEN_EMA:
        return text_is(r, "objective.kind", "jepa") || text_is(r, "objective.kind", "contrastive");
    case PK_WHEN_AUGMENT:
        return text_is(r, "objective.kind", "contrastive") || pk_recipe_supervised(r);
    case PK_WHEN_VIT:
        return text_is(r, "model.encoder.kind", "vit");
    case PK_WHEN_CONVOLUTION:
        return !text_is(r, "model.encoder.kind", "vit");
    case PK_WHEN_MAE:
        return text_is(r, "objective.kind", "mae");
    case PK_WHEN_JEPA:
        return text_is(r, "objective.kind", "jepa");
    case PK_WHEN_CLASSIFY:
        return text_is(r, "objective.kind", "classify");
    case PK_WHEN_REGRESS:
        return text_is(r, "objective.kind", "regress");
    case PK_WHEN_SUPERVISED:
        return pk_recipe_supervised(r);
    case PK_WHEN_SYNTHETIC:
        return pk_recipe_given(r, "data.synthetic");
    default:
        return true;
    }
}

int64_t pk_recipe_i64(const struct pk_recipe *r, const char *path)
{
    const struct pk_value *v = pk_recipe_value(r, path);
    return v ? v->one.integer : 0;
}

double pk_recipe_f64(const struct pk_recipe *r, const char *path)
{
    const struct pk_value *v = pk_recipe_value(r, path);
    return v ? v->one.number : 0;
}

bool pk_recipe_bool(const struct pk_recipe *r, const char *path)
{
    int item, k = pk_key_resolve(path, &item), n;
    if (k < 0 || pk_keys(&n)[k].type != PK_KEY_BOOL) return false;
    return r->value[pk_recipe_slot(k, item)].one.integer != 0;
}

const char *pk_recipe_str(const struct pk_recipe *r, const char *path)
{
    const struct pk_value *v = pk_recipe_value(r, path);
    return v && v->one.text ? v->one.text : "";
}

int64_t pk_recipe_count(const struct pk_recipe *r, const char *path)
{
    if (!strcmp(path, "stages")) return r->stages;
    const struct pk_value *v = pk_recipe_value(r, path);
    return v ? v->count : 0;
}

static const struct pk_scalar *item(const struct pk_recipe *r, const char *path, int64_t i)
{
    const struct pk_value *v = pk_recipe_value(r, path);
    return v && i >= 0 && i < v->count ? &v->item[i] : NULL;
}

double pk_recipe_item_f64(const struct pk_recipe *r, const char *path, int64_t i)
{
    const struct pk_scalar *s = item(r, path, i);
    return s ? s->number : 0;
}

const char *pk_recipe_item_str(const struct pk_recipe *r, const char *path, int64_t i)
{
    const struct pk_scalar *s = item(r, path, i);
    return s && s->text ? s->text : "";
}

const char *pk_recipe_item_key(const struct pk_recipe *r, const char *path, int64_t i)
{
    const struct pk_scalar *s = item(r, path, i);
    return s && s->name ? s->name : "";
}

bool pk_recipe_given(const struct pk_recipe *r, const char *path)
{
    int at, n, k = pk_key_resolve(path, &at);
    const struct pk_key *keys = pk_keys(&n);
    if (k < 0) return false;
    if (r->value[pk_recipe_slot(k, at)].given) return true;
    if (keys[k].type != PK_KEY_SECTION) return false;
    size_t length = strlen(keys[k].path);
    for (int i = k + 1; i < n; i++)
        if (!strncmp(keys[i].path, keys[k].path, length) && keys[i].path[length] == '.' &&
            r->value[pk_recipe_slot(i, at)].given)
            return true;
    return false;
}

const char *pk_recipe_origin(const struct pk_recipe *r, const char *path)
{
    const struct pk_value *v = pk_recipe_value(r, path);
    return v && v->origin ? v->origin : "default";
}

static bool name_char(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (!first && c >= '0' && c <= '9');
}

enum pk_status pk_recipe_path(const struct pk_recipe *r, const char *path, char out[PK_PATH_MAX],
                              struct pk_err *err)
{
    size_t used = 0;
    const char *text = pk_recipe_str(r, path), *home = getenv("HOME");
    // No shell replaces the ~ of data.corpus=~/corpus, and a folder called '~' is not what is
    // meant.
    if (text[0] == '~' && text[1] == '/' && home && strlen(home) < PK_PATH_MAX) {
        used = strlen(home);
        memcpy(out, home, used);
        text++;
    }
    for (const char *p = text; *p;) {
        char name[PK_RECIPE_KEY_MAX + 1];
        const char *piece = p, *end;
        size_t n = 1;
        if (p[0] == '$' && p[1] == '{') {
            for (end = p + 2; name_char(*end, end == p + 2);) end++;
            n = (size_t)(end - p - 2);
            if (!n || *end != '}' || n > PK_RECIPE_KEY_MAX)
                return pk_fail(err, PK_ERECIPE,
                               "%s: '%s' has a '${' without a NAME} after it: %.200s",
                               pk_recipe_origin(r, path), path, pk_recipe_str(r, path));
            snprintf(name, sizeof name, "%.*s", (int)n, p + 2);
            if (!(piece = getenv(name)))
                return pk_fail(err, PK_ERECIPE,
                               "%s: '%s' is '%.200s', but the environment has no %s\n"
                               "help: export %s=..., or give %s=... on the command line",
                               pk_recipe_origin(r, path), path, pk_recipe_str(r, path), name, name,
                               path);
            n = strlen(piece);
            p = end + 1;
        } else {
            p++;
        }
        if (used + n >= PK_PATH_MAX)
            return pk_fail(err, PK_ERECIPE, "%s: '%s' is longer than %d bytes",
                           pk_recipe_origin(r, path), path, PK_PATH_MAX - 1);
        memcpy(out + used, piece, n);
        used += n;
    }
    out[used] = 0;
    return PK_OK;
}
