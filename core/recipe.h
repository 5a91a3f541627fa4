/* recipe.h -- a recipe: every setting of a run, validated against one closed schema.
 *
 * A recipe file is YAML 1.2 (core scalars, read strictly). `extends:` composes files, key=value
 * overrides go through the same checks. Every schema key has a value after loading (its default if
 * nothing set it), in SI units (seconds, Hz). Keys are dotted paths: "train.batch_size"; a list of
 * sections has its number in the path: "stages.0.steps", pk_recipe_count(r, "stages") of them.
 * core/recipe_schema.h holds the table of all keys. */
#ifndef PK_RECIPE_H
#define PK_RECIPE_H

#include "core/base.h"

struct pk_recipe; // immutable once loaded (and inherited)

/* Loads file `path` (or a built-in recipe's name, see pk_recipe_find), applies `override`
 * ["train.steps=100", ...] and validates. All errors are reported at once, in err->message if
 * they fit and in *report (may be NULL) in full: "error: file:line:column: ..." with the source
 * line, a marker and a help line. */
enum pk_status pk_recipe_load(struct pk_recipe **out, const char *path, int overrides,
                              char *const *override, struct pk_text *report, struct pk_err *err);
void pk_recipe_free(struct pk_recipe *r);
/* Recipes with `init_from` may leave data.rate, data.leads and model.encoder.* out (they are 0 or
 * empty then, and unchecked). This fills what was left out from the recipe of the run that
 * init_from names, and repeats the checks across keys. Values that r gives itself stay: comparing
 * them with the checkpoint is the caller's. */
enum pk_status pk_recipe_inherit(struct pk_recipe *r, const struct pk_recipe *from,
                                 struct pk_text *report, struct pk_err *err);

/* Values. A path that is not in the schema, or of another type, is a bug of the caller: these
 * return 0, 0.0, "" or false. */
int64_t pk_recipe_i64(const struct pk_recipe *r, const char *path);
double pk_recipe_f64(const struct pk_recipe *r, const char *path); // integers too; SI units
bool pk_recipe_bool(const struct pk_recipe *r, const char *path);
const char *pk_recipe_str(const struct pk_recipe *r, const char *path); // strings and enums
/* Lists: element count, and element access. */
int64_t pk_recipe_count(const struct pk_recipe *r, const char *path);
double pk_recipe_item_f64(const struct pk_recipe *r, const char *path, int64_t i);
const char *pk_recipe_item_str(const struct pk_recipe *r, const char *path, int64_t i);
/* Maps of number by name (data.mixture): key of element i; its value by pk_recipe_item_f64. */
const char *pk_recipe_item_key(const struct pk_recipe *r, const char *path, int64_t i);
/* A path of the recipe (data.corpus, init_from, output.dir) with ${VAR} replaced from the
 * environment and a leading ~/ by $HOME; pk_recipe_str gives the text as written. PK_ERECIPE when a
 * variable is not set. */
enum pk_status pk_recipe_path(const struct pk_recipe *r, const char *path, char out[PK_PATH_MAX],
                              struct pk_err *err);
/* True when the file, a base or an override gave the value; false when it is the default (or the
 * section is absent). Works for sections too. */
bool pk_recipe_given(const struct pk_recipe *r, const char *path);
/* Whether it learns labels or targets (objective.kind: classify, regress), in stages. */
bool pk_recipe_supervised(const struct pk_recipe *r);
/* "recipes/mine.yaml:14:3" or "override train.steps" or "default": where the value comes from. */
const char *pk_recipe_origin(const struct pk_recipe *r, const char *path);

/* The resolved recipe as YAML with the origin of every value in comments; loads again to the same
 * recipe. */
enum pk_status pk_recipe_print(const struct pk_recipe *r, struct pk_text *out, struct pk_err *err);
/* Hash of all values, not of origins or formatting. */
uint64_t pk_recipe_hash(const struct pk_recipe *r);
/* False when their values are the same; else the first line of either that differs, as printed. */
bool pk_recipe_differs(const struct pk_recipe *a, const struct pk_recipe *b, char in_a[160],
                       char in_b[160]);

/* The recipe folders, searched in order: PURKINJE_RECIPES (environment), the built source tree,
 * the installed share folder. Finds "jepa_demo" -> path. */
enum pk_status pk_recipe_find(char out[PK_PATH_MAX], const char *name, struct pk_err *err);
/* Folder i of that search, false when there are no more. */
bool pk_recipe_folder(int i, char out[PK_PATH_MAX]);

#endif
