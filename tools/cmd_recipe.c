/* cmd_recipe.c -- purkinje recipe ls|show|cp|validate|keys: find, read, copy, check recipes, and
 * look keys up. Needs no data and no GPU. */
#include "core/json.h"
#include "core/recipe.h"
#include "core/recipe_schema.h"
#include "tools/cli.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static const struct pk_option json_option[] = {{"json", NULL, "print JSON"}, {0}};

/* recipe ls --------------------------------------------------------------------------------- */

struct listed {
    char name[128];
    char summary[512]; // the comment at the file's head, first sentence or line
    char path[PK_PATH_MAX];
};

/* First comment line of a recipe file, without "# ". */
static void read_summary(const char *path, char out[512])
{
    FILE *f = fopen(path, "r");
    out[0] = 0;
    if (!f) return;
    char line[512];
    if (fgets(line, sizeof line, f) && line[0] == '#') {
        size_t n = strcspn(line, "\r\n");
        while (n && line[n - 1] == ' ') n--;
        line[n] = 0;
        snprintf(out, 512, "%s", line + 1 + (line[1] == ' '));
    }
    fclose(f);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct listed *)a)->name, ((const struct listed *)b)->name);
}

/* Adds the recipes of one folder that earlier folders do not shadow. */
static enum pk_status list_folder(const char *folder, struct listed **list, int64_t *count,
                                  int64_t *capacity, struct pk_err *err)
{
    DIR *dir = opendir(folder);
    enum pk_status s = PK_OK;
    if (!dir) return PK_OK; // a folder of the search path need not exist
    for (struct dirent *e; s == PK_OK && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        if (n < 6 || n > 100 || strcmp(e->d_name + n - 5, ".yaml")) continue;
        if ((s = pk_grow(list, capacity, *count + 1, sizeof **list, "recipes", err)) != PK_OK)
            break;
        struct listed *l = &(*list)[*count];
        snprintf(l->name, sizeof l->name, "%.*s", (int)n - 5, e->d_name);
        bool known = false;
        for (int64_t i = 0; i < *count; i++) known |= !strcmp((*list)[i].name, l->name);
        if (known || (s = pk_path(l->path, err, "%s/%s", folder, e->d_name)) != PK_OK) continue;
        read_summary(l->path, l->summary);
        ++*count;
    }
    closedir(dir);
    return s;
}

static enum pk_status run_ls(const struct pk_args *args, struct pk_err *err)
{
    struct listed *list = NULL;
    int64_t count = 0, capacity = 0;
    char folder[PK_PATH_MAX];
    enum pk_status s = PK_OK;
    if (args->count) return pk_fail(err, PK_EUSAGE, "recipe ls takes no arguments");
    for (int i = 0; s == PK_OK && pk_recipe_folder(i, folder); i++)
        s = list_folder(folder, &list, &count, &capacity, err);
    if (s == PK_OK && count) qsort(list, (size_t)count, sizeof *list, by_name);
    if (s == PK_OK && pk_arg(args, "json")) {
        struct pk_text t = {0};
        struct pk_json_writer w = {.out = &t, .indent = 2};
        pk_json_open(&w, NULL, '[');
        for (int64_t i = 0; i < count; i++) {
            pk_json_open(&w, NULL, '{');
            pk_json_put_string(&w, "name", list[i].name);
            pk_json_put_string(&w, "summary", list[i].summary);
            pk_json_put_string(&w, "path", list[i].path);
            pk_json_close(&w);
        }
        pk_json_close(&w);
        s = pk_print(&t, err);
    } else if (s == PK_OK) {
        for (int64_t i = 0; i < count; i++) printf("%-28s %s\n", list[i].name, list[i].summary);
    }
    free(list);
    return s;
}

static const struct pk_example ls_examples[] = {
    {"recipe ls", "names and purposes of the built-in recipes and those in $PURKINJE_RECIPES"},
    {"recipe ls --json", "the same with their paths, for scripts"},
    {0}};

const struct pk_command pk_cmd_recipe_ls = {
    .name = "recipe ls",
    .synopsis = "",
    .summary = "list the recipes there are",
    .details =
        "Recipes are looked for in the folders of $PURKINJE_RECIPES (separated by ':'), then "
        "among the\nbuilt-in ones; the first of a name wins.",
    .options = json_option,
    .examples = ls_examples,
    .run = run_ls};

/* recipe show ------------------------------------------------------------------------------- */

static enum pk_status run_show(const struct pk_args *args, struct pk_err *err)
{
    struct pk_recipe *r;
    struct pk_text t = {0};
    if (args->count < 1) return pk_fail(err, PK_EUSAGE, "recipe show needs the name of a recipe");
    PK_TRY(pk_recipe_load(&r, args->word[0], args->count - 1, args->word + 1, NULL, err));
    enum pk_status s = pk_recipe_print(r, &t, err);
    if (s == PK_OK) s = pk_print(&t, err);
    pk_text_free(&t);
    pk_recipe_free(r);
    return s;
}

static const struct pk_example show_examples[] = {
    {"recipe show jepa_demo", "every value of the recipe, and the file and line it comes from"},
    {"recipe show jepa_vit_s_500hz train.batch_size=512 data.crop=5s",
     "the same with two settings changed"},
    {0}};

const struct pk_command pk_cmd_recipe_show = {
    .name = "recipe show",
    .synopsis = "RECIPE [key=value ...]",
    .summary = "print a recipe with every value and its origin",
    .details = "RECIPE is a file or the name of a built-in recipe. The output is a recipe itself.",
    .examples = show_examples,
    .run = run_show};

/* recipe cp --------------------------------------------------------------------------------- */

static enum pk_status run_cp(const struct pk_args *args, struct pk_err *err)
{
    char from[PK_PATH_MAX], *text;
    size_t size;
    if (args->count != 2) return pk_fail(err, PK_EUSAGE, "recipe cp needs a recipe and a new file");
    if (pk_exists(args->word[0]))
        PK_TRY(pk_path(from, err, "%s", args->word[0]));
    else
        PK_TRY(pk_recipe_find(from, args->word[0], err));
    if (pk_exists(args->word[1]) && !pk_arg(args, "force"))
        return pk_fail(err, PK_EWRITE, "%s exists already; --force replaces it", args->word[1]);
    PK_TRY(pk_read_file(from, 1 << 20, &text, &size, err));
    enum pk_status s = pk_write_file(args->word[1], text, size, err);
    free(text);
    if (s == PK_OK && !args->quiet) fprintf(stderr, "%s -> %s\n", from, args->word[1]);
    return s;
}

static const struct pk_option cp_options[] = {{"force", NULL, "replace the file if it exists"},
                                              {0}};

static const struct pk_example cp_examples[] = {
    {"recipe cp jepa_demo mine.yaml", "a copy to edit; what it extends is still found"},
    {"recipe cp --force finetune_linear mine.yaml", "replaces the file"},
    {0}};

const struct pk_command pk_cmd_recipe_cp = {.name = "recipe cp",
                                            .synopsis = "RECIPE FILE",
                                            .summary = "copy a recipe to a file of your own",
                                            .options = cp_options,
                                            .examples = cp_examples,
                                            .run = run_cp};

/* recipe validate --------------------------------------------------------------------------- */

static bool is_override(const char *word)
{
    return strchr(word, '=') && !pk_exists(word);
}

/* Environment variables are needed only when a run starts: a note, no error. */
static void note_unset(const struct pk_recipe *r, const char *name)
{
    static const char *const paths[] = {"data.corpus", "init_from", "output.dir"};
    char out[PK_PATH_MAX];
    for (size_t i = 0; i < PK_COUNT(paths); i++)
        if (pk_recipe_path(r, paths[i], out, NULL) != PK_OK)
            fprintf(stderr, "note: %s: '%s' is %s, which the environment does not define now\n",
                    name, paths[i], pk_recipe_str(r, paths[i]));
}

static enum pk_status run_validate(const struct pk_args *args, struct pk_err *err)
{
    int files = 0, bad = 0, overrides = 0;
    while (files < args->count && !is_override(args->word[files])) files++;
    overrides = args->count - files;
    if (!files) return pk_fail(err, PK_EUSAGE, "recipe validate needs at least one recipe");
    for (int i = files; i < args->count; i++)
        if (!strchr(args->word[i], '='))
            return pk_fail(err, PK_EUSAGE, "recipes come before the key=value settings: %s",
                           args->word[i]);
    for (int i = 0; i < files; i++) {
        struct pk_recipe *r;
        struct pk_text report = {0};
        struct pk_err why = {0};
        enum pk_status s =
            pk_recipe_load(&r, args->word[i], overrides, args->word + files, &report, &why);
        if (s == PK_OK) {
            if (!args->quiet) note_unset(r, args->word[i]);
            printf("%s: good (%016llx)\n", args->word[i], (unsigned long long)pk_recipe_hash(r));
            pk_recipe_free(r);
        } else {
            bad++;
            if (report.s)
                fputs(report.s, stderr);
            else
                fprintf(stderr, "error: %s\n", why.message);
        }
        pk_text_free(&report);
        if (s != PK_OK && s != PK_ERECIPE) {
            *err = why;
            return s;
        }
    }
    if (bad)
        return pk_fail(err, PK_ERECIPE, "%d of %d recipes %s not valid", bad, files,
                       bad == 1 ? "is" : "are");
    return PK_OK;
}

static const struct pk_example validate_examples[] = {
    {"recipe validate jepa_demo", "prints 'good' and the hash of all values"},
    {"recipe validate jepa_demo finetune_linear seed=3", "checks two with a setting changed"},
    {0}};

const struct pk_command pk_cmd_recipe_validate = {
    .name = "recipe validate",
    .synopsis = "RECIPE ... [key=value ...]",
    .summary = "check recipes and report all errors at once",
    .details = "Neither data nor environment variables are needed; variables that are not set give "
               "a note.",
    .examples = validate_examples,
    .run = run_validate};

/* recipe keys ------------------------------------------------------------------------------- */

/* Is `path` the key `section`, or below it? Numbers in `section` stand for any element. */
static bool below(const char *path, const char *section)
{
    while (*section) {
        if (*path == '*' && *section >= '0' && *section <= '9') {
            section += strspn(section, "0123456789");
            path++;
        } else if (*path++ != *section++) {
            return false;
        }
    }
    return !*path || *path == '.';
}

static const char *default_text(const struct pk_key *k)
{
    if (k->required) return "needed";
    if (!k->fallback) return "of init_from";
    if (!strcmp(k->fallback, "@name")) return "name of the file";
    if (!strcmp(k->fallback, "@dir")) return "runs/NAME";
    if (!strcmp(k->fallback, "@published")) return "as published";
    return k->fallback;
}

/* When a key means anything, "" for always. */
static const char *when_text(const struct pk_key *k)
{
    static const char *const when[PK_WHEN_COUNT] = {
        [PK_WHEN_ALWAYS] = "",
        [PK_WHEN_PRETRAIN] = "objective.kind=jepa|mae|contrastive",
        [PK_WHEN_JEPA] = "objective.kind=jepa",
        [PK_WHEN_MAE] = "objective.kind=mae",
        [PK_WHEN_CONTRASTIVE] = "objective.kind=contrastive",
        [PK_WHEN_EMA] = "objective.kind=jepa|contrastive",
        [PK_WHEN_AUGMENT] = "objective.kind=contrastive|classify|regress",
        [PK_WHEN_CLASSIFY] = "objective.kind=classify",
        [PK_WHEN_REGRESS] = "objective.kind=regress",
        [PK_WHEN_SUPERVISED] = "objective.kind=classify|regress",
        [PK_WHEN_SYNTHETIC] = "data.synthetic",
        [PK_WHEN_VIT] = "model.encoder.kind=vit",
        [PK_WHEN_CONVOLUTION] = "model.encoder.kind of a convolutional network"};
    return when[k->when];
}

static void key_json(struct pk_json_writer *w, const struct pk_key *k)
{
    char range[256];
    bool number = k->type == PK_KEY_INT || k->type == PK_KEY_FLOAT || k->type == PK_KEY_INTS ||
                  k->type == PK_KEY_FLOATS || k->type == PK_KEY_WEIGHTS;
    pk_key_range(k, range);
    pk_json_open(w, NULL, '{');
    pk_json_put_string(w, "key", k->path);
    pk_json_put_string(w, "type", pk_key_type_name(k->type));
    pk_json_put_string(w, "unit", pk_key_unit_name(k->unit));
    pk_json_put_string(w, "range", range);
    if (number) {
        pk_json_put_f64(w, "low", k->low);
        pk_json_put_f64(w, "high", k->high);
    }
    pk_json_put_bool(w, "required", k->required);
    if (k->fallback)
        pk_json_put_string(w, "default", k->fallback);
    else
        pk_json_put_null(w, "default");
    pk_json_put_string(w, "when", when_text(k));
    pk_json_put_string(w, "doc", k->doc);
    pk_json_close(w);
}

static void key_line(const struct pk_key *k)
{
    char range[256];
    const char *when = when_text(k), *only = *when ? "; only with " : "";
    if (k->type == PK_KEY_SECTION || k->type == PK_KEY_SECTIONS) {
        printf("\n%s: %s%s%s%s\n", k->path, k->type == PK_KEY_SECTIONS ? "list; " : "", k->doc,
               only, when);
        return;
    }
    pk_key_range(k, range);
    const char *unit = pk_key_unit_name(k->unit);
    printf("  %-32s %s\n%35s%s%s%s%s%s; default: %s%s%s\n", k->path, k->doc, "",
           pk_key_type_name(k->type), *unit ? ", " : "", unit, *range ? ", " : "", range,
           default_text(k), only, when);
}

static enum pk_status run_keys(const struct pk_args *args, struct pk_err *err)
{
    int count, shown = 0;
    const struct pk_key *keys = pk_keys(&count);
    const char *section = args->count ? args->word[0] : "";
    struct pk_text t = {0};
    struct pk_json_writer w = {.out = &t, .indent = 2};
    if (args->count > 1) return pk_fail(err, PK_EUSAGE, "recipe keys takes one section or key");
    pk_json_open(&w, NULL, '[');
    for (int i = 0; i < count; i++) {
        if (*section && !below(keys[i].path, section)) continue;
        shown++;
        if (pk_arg(args, "json"))
            key_json(&w, &keys[i]);
        else
            key_line(&keys[i]);
    }
    pk_json_close(&w);
    enum pk_status s = PK_OK;
    if (!shown)
        s = pk_fail(err, PK_EUSAGE, "no section or key '%.80s'; 'purkinje recipe keys' lists all",
                    section);
    else if (pk_arg(args, "json"))
        s = pk_print(&t, err);
    pk_text_free(&t);
    return s;
}

static const struct pk_example keys_examples[] = {
    {"recipe keys train", "the keys of a section: type, unit, range, default, meaning"},
    {"recipe keys --json", "all of them, for editors and scripts"},
    {0}};

const struct pk_command pk_cmd_recipe_keys = {
    .name = "recipe keys",
    .synopsis = "[SECTION]",
    .summary = "what can be set, with types, units, ranges and defaults",
    .options = json_option,
    .examples = keys_examples,
    .run = run_keys};
