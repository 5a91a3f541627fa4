/* settings.h -- a small YAML file as a list of named values, for tools that are not recipes.
 *
 * Read by the parser of recipes (YAML 1.2, no aliases, duplicate keys are errors). Every scalar
 * becomes one setting with its dotted path, in the order of the file: "leads.0.name". What was
 * never asked for is an unknown key, so the reader's questions are the schema. */
#ifndef PK_SETTINGS_H
#define PK_SETTINGS_H

#include "core/base.h"

struct pk_setting {
    char *path; // "time.column", "leads.1.name"; owned
    char *text; // owned
    int line, column;
    bool used; // somebody asked for it
};

struct pk_settings {
    char file[PK_PATH_MAX];
    struct pk_setting *item;
    int64_t count, capacity;
};

/* Errors  PK_EIO, PK_ENOMEM; PK_ERECIPE not YAML (file:line:column), PK_EMISSING without libyaml */
enum pk_status pk_settings_load(struct pk_settings *out, const char *file, struct pk_err *err);
void pk_settings_free(struct pk_settings *s); // safe on a zeroed struct

/* The setting of this path (printf-like), marked as used, or NULL. */
struct pk_setting *pk_settings_find(struct pk_settings *s, const char *path, ...) PK_PRINTF(2, 3);
/* True when there is a setting below PATH ("leads.3" has "leads.3.name"). */
bool pk_settings_has(const struct pk_settings *s, const char *path, ...) PK_PRINTF(2, 3);
/* PK_ERECIPE with "file:line:column: " in front; item NULL gives only the file. */
enum pk_status pk_settings_fail(const struct pk_settings *s, const struct pk_setting *item,
                                struct pk_err *err, const char *fmt, ...) PK_PRINTF(4, 5);
/* A number, with a unit where `unit` is not NULL ("Hz", "s"; it may be left out by the user); *out
 * keeps its value when item is NULL. */
enum pk_status pk_settings_f64(const struct pk_settings *s, const struct pk_setting *item,
                               const char *unit, double low, double high, double *out,
                               struct pk_err *err);
/* PK_ERECIPE naming the first setting that nobody asked for. `known` lists the keys, for help. */
enum pk_status pk_settings_all_used(const struct pk_settings *s, const char *known,
                                    struct pk_err *err);

#endif
