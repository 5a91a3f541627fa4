/* recipe_load.c -- from files and overrides to values: `extends`, binding to the schema, defaults
 * (see recipe.h). Bases are read before the file that extends them, overrides last; each value
 * replaces the one before, lists and maps as a whole. Errors are collected, not returned, so that
 * all are reported at once. */
#include "core/recipe_internal.h"

#include <stdlib.h>
#include <string.h>

enum { EXTENDS_DEPTH_MAX = 16 };

struct load {
    struct pk_recipe *r;
    struct pk_diags d;
    struct pk_err *err;
    int files;
    bool broken; // some file is not valid YAML: do not complain of what is missing
    struct pk_place stage_at[PK_STAGES_MAX];
    int depth;
    const char *chain[EXTENDS_DEPTH_MAX]; // resolved paths of the files being read
};

static const struct pk_place nowhere = {-1, 0, 0, 0};

/* Binding to the schema --------------------------------------------------------------------- */

static void unknown_key(struct load *l, const char *section, const struct pk_node *n)
{
    int count, best = PK_RECIPE_TEXT_MAX;
    const struct pk_key *keys = pk_keys(&count);
    const char *guess = NULL, *elsewhere = NULL;
    for (int i = 0; i < count; i++) {
        const char *name = pk_key_name(&keys[i]);
        if (pk_key_in(&keys[i], section) && pk_better_guess(n->key, name, &best)) guess = name;
        if (!strcmp(name, n->key) && !elsewhere) elsewhere = keys[i].path;
    }
    if (*section)
        pk_diag_add(&l->d, n->key_at, "unknown key '%.60s' in '%s'", n->key, section);
    else
        pk_diag_add(&l->d, n->key_at, "unknown key '%.60s'", n->key);
    const char *space = *section ? " " : "";
    if (guess)
        pk_diag_help(&l->d, "did you mean '%s'? ('purkinje recipe keys%s%s' lists them)", guess,
                     space, section);
    else if (elsewhere)
        pk_diag_help(&l->d, "'%s' belongs %s ('purkinje recipe keys%s%s' lists what fits here)",
                     elsewhere, strchr(elsewhere, '.') ? "there" : "at the top level", space,
                     section);
    else
        pk_diag_help(&l->d, "'purkinje recipe keys%s%s' lists what fits here", space, section);
}

static void give(struct load *l, struct pk_value *v, const struct pk_node *n)
{
    char origin[PK_PATH_MAX];
    const struct pk_source_text *s = &l->r->sources.item[n->at.source];
    v->given = v->set = true;
    v->at = n->at;
    v->key_at = n->key ? n->key_at : n->at;
    if (s->override)
        snprintf(origin, sizeof origin, "override %.*s", (int)PK_MIN(strcspn(s->name, "="), 200u),
                 s->name);
    else
        snprintf(origin, sizeof origin, "%.4000s:%d:%d", s->name, v->key_at.line, v->key_at.column);
    pk_make_printable(origin);
    if (!(v->origin = pk_strdup(origin))) l->d.failed = true;
}

static void bind_section(struct load *l, const char *section, int item, const struct pk_node *n);

/* Removes everything that earlier files set in stage `item`. */
static void clear_stage(struct load *l, int item)
{
    int count;
    const struct pk_key *keys = pk_keys(&count);
    for (int i = 0; i < count; i++)
        if (strstr(keys[i].path, ".*.")) pk_value_free(&l->r->value[pk_recipe_slot(i, item)]);
}

/* `stages` as a list replaces the stages; "stages.0.steps=1" of an override changes one. */
static void bind_sections(struct load *l, const struct pk_key *key, int slot,
                          const struct pk_node *n)
{
    char section[PK_RECIPE_KEY_MAX];
    snprintf(section, sizeof section, "%s.*", key->path);
    if (n->kind == PK_NODE_MAP && n->patch) {
        int64_t i;
        if (!pk_parse_i64(n->item[0].key, &i) || i < 0 || i >= l->r->stages) {
            pk_diag_add(&l->d, n->item[0].key_at, "'%s' has no element '%.40s'", key->path,
                        n->item[0].key);
            pk_diag_help(&l->d, "there are %d, counted from 0", l->r->stages);
            return;
        }
        bind_section(l, section, (int)i, &n->item[0]);
        return;
    }
    if (n->kind != PK_NODE_LIST || n->count < key->count_low || n->count > key->count_high) {
        pk_diag_add(&l->d, n->at, "'%s' must be a list of %d to %d sections", key->path,
                    key->count_low, key->count_high);
        return;
    }
    pk_value_free(&l->r->value[slot]);
    give(l, &l->r->value[slot], n);
    l->r->stages = (int)n->count;
    for (int i = 0; i < PK_STAGES_MAX; i++) clear_stage(l, i);
    for (int i = 0; i < l->r->stages; i++) {
        l->stage_at[i] = n->item[i].at;
        bind_section(l, section, i, &n->item[i]);
    }
}

static void show_path(char out[256], const char *path, int item)
{
    const char *star = strchr(path, '*');
    if (star)
        snprintf(out, 256, "%.*s%d%s", (int)(star - path), path, item, star + 1);
    else
        snprintf(out, 256, "%s", path);
}

/* A section and all that is in it, as if nobody had given it. */
static void drop_section(struct load *l, const char *section)
{
    int count;
    const struct pk_key *keys = pk_keys(&count);
    const size_t length = strlen(section);
    for (int i = 0; i < count; i++)
        if (!strncmp(keys[i].path, section, length) && strchr(".", keys[i].path[length]))
            pk_value_free(&l->r->value[pk_recipe_slot(i, 0)]);
}

/* "data.synthetic=" takes inherited synthetic records away, as "data.corpus=" does a corpus. In a
 * file: synthetic: "". */
static bool takes_away(const struct load *l, const struct pk_key *key, const struct pk_node *n)
{
    const bool override = l->r->sources.item[n->at.source].override;
    return !strcmp(key->path, "data.synthetic") && n->kind == PK_NODE_SCALAR && n->text &&
           !*n->text && (override || !n->plain);
}

static void bind_key(struct load *l, int k, int item, const struct pk_node *n)
{
    int count, slot = pk_recipe_slot(k, item);
    const struct pk_key *key = &pk_keys(&count)[k];
    struct pk_value v = {0}, *old = &l->r->value[slot];
    char path[256];
    show_path(path, key->path, item);
    if (!strcmp(key->path, "extends")) {
        if (l->r->sources.item[n->at.source].override) {
            pk_diag_add(&l->d, n->at, "'extends' cannot be given on the command line");
            pk_diag_help(&l->d, "write a small recipe file that extends both");
        }
        return; // read before the rest of the file
    }
    if (key->type == PK_KEY_SECTIONS) {
        bind_sections(l, key, slot, n);
    } else if (key->type == PK_KEY_SECTION && takes_away(l, key, n)) {
        drop_section(l, key->path);
    } else if (key->type == PK_KEY_SECTION) {
        if (n->kind == PK_NODE_MAP) {
            pk_value_free(old);
            give(l, old, n);
        }
        bind_section(l, key->path, item, n);
    } else if (pk_value_read(&v, key, path, n, &l->d)) {
        give(l, &v, n);
        pk_value_free(old);
        *old = v;
    } else {
        pk_value_free(&v);
        old->at = n->at;
        old->given = old->set = true; // wrong, but there: not "missing" on top of it
    }
}

static void bind_section(struct load *l, const char *section, int item, const struct pk_node *n)
{
    char path[256], shown[256];
    show_path(shown, section, item);
    if (n->kind != PK_NODE_MAP) {
        if (!*section)
            pk_diag_add(&l->d, n->at, "a recipe is a map of keys, and this is none");
        else if (n->kind == PK_NODE_SCALAR && !*n->text)
            pk_diag_add(&l->d, n->at, "section '%s' is empty: leave it out", shown);
        else
            pk_diag_add(&l->d, n->at, "'%s' must be a section (key: value)", shown);
        return;
    }
    for (int64_t i = 0; i < n->count; i++) {
        const char *dot = *section ? "." : "";
        int k = -1;
        if (strlen(n->item[i].key) < PK_RECIPE_KEY_MAX && !strpbrk(n->item[i].key, ".*")) {
            snprintf(path, sizeof path, "%s%s%s", section, dot, n->item[i].key);
            k = pk_key_index(path);
        }
        if (k < 0)
            unknown_key(l, section, &n->item[i]);
        else
            bind_key(l, k, item, &n->item[i]);
    }
}

/* Files ------------------------------------------------------------------------------------- */

static enum pk_status add_source(struct load *l, const char *name, char *text, size_t size,
                                 int override)
{
    struct pk_sources *s = &l->r->sources;
    enum pk_status st =
        pk_grow(&s->item, &s->capacity, s->count + 1, sizeof *s->item, "recipe sources", l->err);
    char *copy = st == PK_OK ? pk_strdup(name) : NULL;
    if (!copy || !text) {
        free(copy);
        free(text);
        return pk_fail(l->err, PK_ENOMEM, "out of memory while reading %s", name);
    }
    s->item[s->count++] = (struct pk_source_text){copy, text, size, override};
    return PK_OK;
}

static enum pk_status load_file(struct load *l, const char *path, struct pk_place from);

/* Where `name` in the extends list of file `path` points to. */
static bool locate_base(char out[PK_PATH_MAX], const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    if (name[0] == '/') return pk_path(out, NULL, "%s", name) == PK_OK && pk_recipe_is_file(out);
    if (pk_path(out, NULL, "%.*s%s", folder, path, name) == PK_OK && pk_recipe_is_file(out))
        return true;
    return pk_recipe_in_folders(out, name);
}

static enum pk_status load_bases(struct load *l, const char *path, const struct pk_node *root)
{
    struct pk_value list = {0};
    enum pk_status s = PK_OK;
    int count, k = pk_key_index("extends");
    const struct pk_node *n = NULL;
    for (int64_t i = 0; root->kind == PK_NODE_MAP && i < root->count; i++)
        if (!strcmp(root->item[i].key, "extends")) n = &root->item[i];
    if (!n) return PK_OK;
    if (!pk_value_read(&list, &pk_keys(&count)[k], "extends", n, &l->d)) {
        pk_value_free(&list);
        return PK_OK;
    }
    for (int64_t i = 0; s == PK_OK && i < list.count; i++) {
        char base[PK_PATH_MAX];
        if (locate_base(base, path, list.item[i].text)) {
            s = load_file(l, base, n->item[i].at);
        } else {
            pk_diag_add(&l->d, n->item[i].at, "no recipe '%.200s' to extend", list.item[i].text);
            pk_diag_help(&l->d, "it is looked for beside this file, then in the recipe folders "
                                "('purkinje recipe ls')");
        }
    }
    pk_value_free(&list);
    return s;
}

static bool is_cycle(struct load *l, const char *real, struct pk_place from)
{
    for (int i = 0; i < l->depth; i++) {
        if (strcmp(l->chain[i], real)) continue;
        pk_diag_add(&l->d, from, "a circle of 'extends': %.400s is being read already", real);
        return true;
    }
    if (l->depth < EXTENDS_DEPTH_MAX && l->files < PK_RECIPE_FILES_MAX) return false;
    pk_diag_add(&l->d, from, "'extends' goes too far: more than %d levels or %d files",
                EXTENDS_DEPTH_MAX, PK_RECIPE_FILES_MAX);
    return true;
}

static enum pk_status read_tree(struct load *l, const char *path, struct pk_node *root)
{
    char *text;
    size_t size;
    PK_TRY(pk_read_file(path, PK_RECIPE_BYTES_MAX, &text, &size, l->err));
    PK_TRY(add_source(l, path, text, size, 0));
    int64_t source = l->r->sources.count - 1;
    return pk_yaml_parse(root, l->r->sources.item[source].text, size, (int)source, 0, &l->d,
                         l->err);
}

static enum pk_status load_file(struct load *l, const char *path, struct pk_place from)
{
    struct pk_node root = {0};
    char *real = realpath(path, NULL);
    if (!real) return pk_fail_errno(l->err, PK_EIO, "cannot open %s", path);
    if (is_cycle(l, real, from)) {
        free(real);
        return PK_OK;
    }
    l->chain[l->depth++] = real;
    l->files++;
    int64_t before = l->d.count;
    enum pk_status s = read_tree(l, path, &root);
    l->broken |= l->d.count != before || root.kind != PK_NODE_MAP;
    if (s == PK_OK) s = load_bases(l, path, &root);
    if (s == PK_OK && (l->d.count == before || root.count)) bind_section(l, "", 0, &root);
    pk_node_free(&root);
    l->depth--;
    free(real);
    return s;
}

/* Overrides --------------------------------------------------------------------------------- */

/* "a.b.c" at `path` around `leaf` becomes nested maps. Takes leaf over. */
static enum pk_status wrap(struct load *l, struct pk_node *root, const char *path, size_t n,
                           int source, struct pk_node *leaf)
{
    enum pk_status s = PK_OK;
    struct pk_node node = *leaf;
    for (size_t end = n; end > 0;) {
        size_t start = end;
        while (start > 0 && path[start - 1] != '.') start--;
        struct pk_node map = {.kind = PK_NODE_MAP, .patch = true, .at = node.at};
        node.key_at = (struct pk_place){source, 1, (int)start + 1, (int)(end - start)};
        s = pk_alloc(&node.key, end - start + 1, 1, "override", l->err);
        if (s == PK_OK) memcpy(node.key, path + start, end - start);
        if (s == PK_OK)
            s = pk_grow(&map.item, &map.capacity, 1, sizeof *map.item, "override", l->err);
        if (s != PK_OK) {
            pk_node_free(&node);
            return s;
        }
        map.item[map.count++] = node;
        node = map;
        end = start ? start - 1 : 0;
    }
    *root = node;
    return PK_OK;
}

static enum pk_status apply_override(struct load *l, const char *text, int number)
{
    struct pk_node leaf = {0}, root = {0};
    const char *eq = strchr(text, '=');
    int source = (int)l->r->sources.count;
    size_t size = strlen(text);
    if (size > PK_RECIPE_BYTES_MAX)
        return pk_fail(l->err, PK_ERECIPE, "override %d is longer than a recipe may be", number);
    PK_TRY(add_source(l, text, pk_strdup(text), size, number));
    if (!eq || eq == text || text[0] == '.' || eq[-1] == '.' || eq - text > 200) {
        pk_diag_add(&l->d, (struct pk_place){source, 1, 1, (int)PK_MIN(size, (size_t)100)},
                    "an override has the form section.key=value");
        return PK_OK;
    }
    int64_t before = l->d.count;
    PK_TRY(pk_yaml_parse(&leaf, eq + 1, size - (size_t)(eq + 1 - text), source,
                         (int)(eq + 1 - text), &l->d, l->err));
    if (l->d.count > before) {
        pk_node_free(&leaf);
        return PK_OK;
    }
    if (!leaf.text && leaf.kind == PK_NODE_SCALAR) { // nothing after '='
        leaf.plain = true;
        if (!(leaf.text = pk_strdup("")))
            return pk_fail(l->err, PK_ENOMEM, "out of memory while reading overrides");
    }
    PK_TRY(wrap(l, &root, text, (size_t)(eq - text), source, &leaf));
    bind_section(l, "", 0, &root);
    pk_node_free(&root);
    return PK_OK;
}

/* Defaults ---------------------------------------------------------------------------------- */

static bool set_text(struct load *l, struct pk_value *v, const char *fmt, const char *a)
{
    char text[PK_PATH_MAX];
    snprintf(text, sizeof text, fmt, a);
    if (!(v->one.text = pk_strdup(text))) l->d.failed = true;
    return v->set = v->one.text != NULL;
}

static void file_stem(const char *path, char out[128])
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    snprintf(out, 128, "%.*s", (int)(dot && dot > base ? dot - base : (int)strlen(base)), base);
    pk_make_printable(out);
}

/* The part of a default that holds for this objective, see struct pk_key. */
static size_t default_text(const struct load *l, const char **text)
{
    static const char mark[] = "; regress: ";
    const char *other = strstr(*text, mark);
    if (!other) return strlen(*text);
    if (strcmp(pk_recipe_str(l->r, "objective.kind"), "regress")) return (size_t)(other - *text);
    *text = other + sizeof mark - 1;
    return strlen(*text);
}

/* The default of one value: a YAML text, another key's value, or derived from the file's name. */
static enum pk_status set_default(struct load *l, const struct pk_key *key, int item,
                                  struct pk_value *v)
{
    struct pk_node n = {0};
    char path[256], other[256], stem[128];
    if (!key->fallback || !strcmp(key->fallback, "@published") || v->set) return PK_OK;
    show_path(path, key->path, item);
    if (!strcmp(key->fallback, "@name")) {
        file_stem(l->r->name, stem);
        set_text(l, v, "%s", stem);
    } else if (!strcmp(key->fallback, "@dir")) {
        set_text(l, v, "runs/%s", pk_recipe_str(l->r, "name"));
    } else if (key->fallback[0] == '@') {
        show_path(other, key->fallback + 1, item);
        const struct pk_value *from = pk_recipe_value(l->r, other);
        if (!from || !from->set) return PK_OK;
        if (!pk_value_copy(v, from)) l->d.failed = true;
        free(v->origin);
        v->origin = NULL;
        v->given = false;
    } else {
        const char *text = key->fallback;
        size_t size = default_text(l, &text);
        PK_TRY(pk_yaml_parse(&n, text, size, -1, 0, &l->d, l->err));
        v->set = pk_value_read(v, key, path, &n, &l->d);
        v->at = nowhere;
        pk_node_free(&n);
    }
    return PK_OK;
}

static void missing(struct load *l, const struct pk_key *key, int item)
{
    char path[256];
    struct pk_place at = {0, 0, 0, 0};
    show_path(path, key->path, item);
    char *dot = strrchr(path, '.');
    if (!dot) {
        pk_diag_add(&l->d, at, "missing key '%s': %s", path, key->doc);
        if (!strcmp(path, "schema")) pk_diag_help(&l->d, "write 'schema: 1' at the top");
        return;
    }
    *dot = 0;
    const struct pk_value *section = pk_recipe_value(l->r, path);
    const char *star = strstr(key->path, ".*.");
    if (star) at = l->stage_at[item]; // stages.0 itself has no value to ask
    if ((!star || strchr(star + 3, '.')) && section && section->given) at = section->key_at;
    pk_diag_add(&l->d, at, "missing key '%s' in '%s': %s", dot + 1, path, key->doc);
}

static enum pk_status fill(struct load *l)
{
    int count;
    const struct pk_key *keys = pk_keys(&count);
    for (int i = 0; i < count; i++) {
        bool stage = strstr(keys[i].path, ".*.") != NULL;
        for (int item = 0; item < (stage ? l->r->stages : 1); item++) {
            struct pk_value *v = &l->r->value[pk_recipe_slot(i, item)];
            PK_TRY(set_default(l, &keys[i], item, v));
            if (keys[i].required && !v->given && !l->broken && pk_recipe_applies(l->r, &keys[i]))
                missing(l, &keys[i], item);
        }
    }
    return PK_OK;
}

static bool overridden(const struct load *l, const char *path)
{
    const struct pk_value *v = pk_recipe_value(l->r, path);
    return v->given && v->key_at.source >= 0 && l->r->sources.item[v->key_at.source].override;
}

/* A corpus on the command line takes the place of a recipe's generated records, so that every demo
 * runs on one's own data. The other way round is an error: nobody should train on them by accident.
 */
static void replace_synthetic(struct load *l)
{
    static const char section[] = "data.synthetic";
    if (overridden(l, "data.corpus") && *pk_recipe_str(l->r, "data.corpus") &&
        !overridden(l, section))
        drop_section(l, section);
}

/* A key that means nothing with this encoder or objective is an error where that was chosen, or
 * later: in the main file or an override. What a base brings along is ignored, and so is what the
 * main file says of the encoder or objective that an override has replaced. */
static void refuse_useless(struct load *l)
{
    int count;
    const struct pk_key *keys = pk_keys(&count);
    const char *kind = pk_recipe_str(l->r, "objective.kind");
    for (int i = 0; *kind && i < count; i++) {
        const struct pk_value *v = &l->r->value[pk_recipe_slot(i, 0)];
        if (pk_recipe_applies(l->r, &keys[i]) || !v->given || !v->origin) continue;
        const bool encoder = keys[i].when == PK_WHEN_VIT || keys[i].when == PK_WHEN_CONVOLUTION;
        const char *chosen = encoder ? "model.encoder.kind" : "objective.kind";
        bool main = l->r->sources.item[v->key_at.source].override ||
                    (v->key_at.source == 0 && !overridden(l, chosen));
        if (!main || keys[i].type == PK_KEY_SECTION || strchr(keys[i].path, '*')) continue;
        pk_diag_add(&l->d, v->key_at, "'%s' has no meaning when %s is %s", keys[i].path, chosen,
                    pk_recipe_str(l->r, chosen));
    }
}

static enum pk_status load_all(struct load *l, const char *path, int overrides,
                               char *const *override)
{
    char found[PK_PATH_MAX];
    if (pk_recipe_is_file(path))
        PK_TRY(pk_path(found, l->err, "%s", path));
    else
        PK_TRY(pk_recipe_find(found, path, l->err));
    snprintf(l->r->name, sizeof l->r->name, "%s", found);
    PK_TRY(load_file(l, found, nowhere));
    for (int i = 0; i < overrides; i++) PK_TRY(apply_override(l, override[i], i + 1));
    replace_synthetic(l);
    PK_TRY(fill(l));
    refuse_useless(l);
    if (!l->d.count) pk_recipe_check(l->r, &l->d);
    return PK_OK;
}

enum pk_status pk_recipe_load(struct pk_recipe **out, const char *path, int overrides,
                              char *const *override, struct pk_text *report, struct pk_err *err)
{
    struct load l = {.err = err};
    int keys;
    *out = NULL;
    pk_keys(&keys);
    PK_TRY(pk_alloc(&l.r, 1, sizeof *l.r, "recipe", err));
    enum pk_status s = pk_alloc(&l.r->value, (size_t)pk_recipe_slot(keys, 0), sizeof *l.r->value,
                                "recipe values", err);
    if (s == PK_OK) s = load_all(&l, path, overrides, override);
    if (s == PK_OK) s = pk_diags_report(&l.d, &l.r->sources, report, err);
    pk_diags_free(&l.d);
    if (s == PK_OK)
        *out = l.r;
    else
        pk_recipe_free(l.r);
    return s;
}

enum pk_status pk_recipe_inherit(struct pk_recipe *r, const struct pk_recipe *from,
                                 struct pk_text *report, struct pk_err *err)
{
    static const char *const paths[] = {"data.rate",
                                        "data.leads",
                                        "model.encoder.kind",
                                        "model.encoder.channels",
                                        "model.encoder.width",
                                        "model.encoder.depth",
                                        "model.encoder.heads",
                                        "model.encoder.patch",
                                        "model.encoder.registers",
                                        "model.encoder.mlp_ratio",
                                        "model.encoder.qkv_bias"};
    struct pk_diags d = {0};
    char origin[PK_PATH_MAX];
    for (size_t i = 0; i < PK_COUNT(paths); i++) {
        struct pk_value *to = pk_recipe_value(r, paths[i]);
        const struct pk_value *v = pk_recipe_value(from, paths[i]);
        if (to->given || !v->set) continue;
        snprintf(origin, sizeof origin, "init_from, %.4000s", pk_recipe_origin(from, paths[i]));
        if (!pk_value_copy(to, v)) d.failed = true;
        free(to->origin);
        if (!(to->origin = pk_strdup(origin))) d.failed = true;
        to->given = false;
        to->at = to->key_at = nowhere;
    }
    struct pk_value *rate = pk_recipe_value(r, "data.synthetic.rate");
    if (!rate->set && !pk_value_copy(rate, pk_recipe_value(r, "data.rate"))) d.failed = true;
    rate->given = rate->given && rate->at.source >= 0;
    if (!d.failed) pk_recipe_check(r, &d);
    enum pk_status s = pk_diags_report(&d, &r->sources, report, err);
    pk_diags_free(&d);
    return s;
}
