/* recipe_internal.h -- what the files of the recipe module share: diagnostics with places in source
 * texts, the YAML tree, values. Nothing outside core/recipe*.c includes this. */
#ifndef PK_RECIPE_INTERNAL_H
#define PK_RECIPE_INTERNAL_H

#include "core/recipe.h"
#include "core/recipe_schema.h"

enum {
    PK_RECIPE_BYTES_MAX = 1 << 20, // of one file
    PK_RECIPE_DEPTH_MAX = 64,      // nesting of one file
    PK_RECIPE_NODES_MAX = 65536,   // of one file
    PK_RECIPE_MEMBERS_MAX = 1024,  // keys of one map, elements of one list
    PK_RECIPE_TEXT_MAX = 4095,     // bytes of one scalar
    PK_RECIPE_FILES_MAX = 64,      // loads through extends
    PK_RECIPE_ERRORS_MAX = 100
};

/* Diagnostics ------------------------------------------------------------------------------- */

struct pk_source_text { // a file, or an override from the command line
    char *name;         // as the user wrote it; owned
    char *text;         // owned, NUL terminated
    size_t size;
    int override; // 1.. the number of the override, 0 for a file
};

struct pk_place {
    int source;              // index into pk_sources, or -1: nowhere in particular
    int line, column, width; // 1-based, in characters
};

struct pk_sources {
    struct pk_source_text *item;
    int64_t count, capacity;
};

struct pk_diag {
    struct pk_place at;
    int order;            // of detection
    char *message, *help; // owned; help may be NULL
};

struct pk_diags {
    struct pk_diag *item;
    int64_t count, capacity;
    int64_t dropped; // beyond PK_RECIPE_ERRORS_MAX
    bool failed;     // out of memory
};

void pk_diag_add(struct pk_diags *d, struct pk_place at, const char *fmt, ...) PK_PRINTF(3, 4);
/* A help line for the diagnostic added last. */
void pk_diag_help(struct pk_diags *d, const char *fmt, ...) PK_PRINTF(2, 3);
/* All diagnostics by place; err gets as many of them as fit. PK_OK when there is none. */
enum pk_status pk_diags_report(struct pk_diags *d, const struct pk_sources *s,
                               struct pk_text *report, struct pk_err *err);
void pk_diags_free(struct pk_diags *d);
/* Control characters become '?', so that a file cannot drive the terminal. */
void pk_make_printable(char *s);
/* Number of edits (insert, delete, replace, swap) from a to b, capped at `limit` + 1. */
int pk_edit_distance(const char *a, const char *b, int limit);

/* Finding ------------------------------------------------------------------------------------- */

bool pk_recipe_is_file(const char *path); // or a pipe
/* "base/vit_s.yaml" or "jepa_demo" in the recipe folders. */
bool pk_recipe_in_folders(char out[PK_PATH_MAX], const char *name);

/* The YAML tree ------------------------------------------------------------------------------- */

enum pk_node_kind { PK_NODE_SCALAR, PK_NODE_LIST, PK_NODE_MAP };

struct pk_node {
    enum pk_node_kind kind;
    struct pk_place at; // of the value
    char *key;          // of a map's member, else NULL
    struct pk_place key_at;
    bool plain;           // a scalar without quotes
    bool patch;           // made from an override's path: names elements by number
    char *text;           // of a scalar
    struct pk_node *item; // elements or members
    int64_t count, capacity;
};

/* Parses source `source` of `s` into *root (scalar with NULL text when nothing could be read).
 * Problems go to d. `first_line`... places are moved right by `shift` columns on line 1. */
enum pk_status pk_yaml_parse(struct pk_node *root, const char *text, size_t size, int source,
                             int shift, struct pk_diags *d, struct pk_err *err);
void pk_node_free(struct pk_node *n);

/* Values -------------------------------------------------------------------------------------- */

struct pk_scalar {
    char *name; // of an element of a map, else NULL
    char *text; // of strings and choices, else NULL
    double number;
    int64_t integer; // of integers and booleans
};

struct pk_value {
    bool given; // by a file or an override
    bool set;   // given or by default; false: has no value
    struct pk_place key_at, at;
    char *origin;         // of a given value, for pk_recipe_origin
    struct pk_scalar one; // of everything but lists and maps
    struct pk_scalar *item;
    int64_t count;
};

/* Reads a node as the type of `key`; `path` is for messages. Problems go to d and return false. */
bool pk_value_read(struct pk_value *v, const struct pk_key *key, const char *path,
                   const struct pk_node *n, struct pk_diags *d);
void pk_value_free(struct pk_value *v);
bool pk_value_copy(struct pk_value *to, const struct pk_value *from); // false: out of memory
/* True when a plain scalar of this text is a string under the YAML 1.2 core schema. */
bool pk_plain_is_text(const char *text);

struct pk_recipe {
    char name[PK_PATH_MAX];    // of the main file, for messages
    struct pk_value *value;    // [pk_recipe_slot(keys, 0)]
    struct pk_sources sources; // [0] is the main file
    int stages;
};

/* Index of the value of key k (element `item` of a list of sections). */
int pk_recipe_slot(int k, int item);
struct pk_value *pk_recipe_value(const struct pk_recipe *r, const char *path); // or NULL
/* Does key k mean anything in this recipe (see pk_key_when)? */
bool pk_recipe_applies(const struct pk_recipe *r, const struct pk_key *key);
/* The checks that look at more than one key. */
void pk_recipe_check(const struct pk_recipe *r, struct pk_diags *d);

#endif
