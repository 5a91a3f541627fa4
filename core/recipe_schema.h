/* recipe_schema.h -- the closed schema of recipes: one row for every key there is.
 *
 * Parsing, checks, defaults, messages, `recipe keys` and the resolved printout all read this table,
 * so a key that is not in it cannot be set, and one that is in it is documented. */
#ifndef PK_RECIPE_SCHEMA_H
#define PK_RECIPE_SCHEMA_H

#include "core/base.h"

enum pk_key_type {
    PK_KEY_SECTION,  // keys below it
    PK_KEY_SECTIONS, // a list of sections; their keys have the path "NAME.*.KEY"
    PK_KEY_INT,
    PK_KEY_FLOAT,
    PK_KEY_BOOL,
    PK_KEY_STRING,
    PK_KEY_ENUM,
    PK_KEY_INTS, // lists
    PK_KEY_FLOATS,
    PK_KEY_STRINGS,
    PK_KEY_WEIGHTS // a map of numbers by name
};

enum pk_key_unit {
    PK_UNIT_NONE,
    PK_UNIT_TIME,      // "50 ms", "10 s", "30 min", "2 h"; stored in seconds
    PK_UNIT_FREQUENCY, // "500 Hz", "1 kHz"; stored in Hz
    PK_UNIT_STEPS      // "100 steps" or 100; optimizer steps
};

/* When a key means anything. Inherited values that do not apply are left out of the resolved
 * recipe and of its hash. */
enum pk_key_when {
    PK_WHEN_ALWAYS,
    PK_WHEN_PRETRAIN,    // objective.kind is jepa, mae or contrastive
    PK_WHEN_JEPA,        // objective.kind is jepa
    PK_WHEN_MAE,         // objective.kind is mae
    PK_WHEN_CONTRASTIVE, // objective.kind is contrastive
    PK_WHEN_EMA,         // objective.kind is jepa or contrastive
    PK_WHEN_AUGMENT,     // objective.kind is contrastive, classify or regress
    PK_WHEN_CLASSIFY,    // objective.kind is classify
    PK_WHEN_REGRESS,     // objective.kind is regress
    PK_WHEN_SUPERVISED,  // objective.kind is classify or regress
    PK_WHEN_SYNTHETIC,   // data.synthetic is given
    PK_WHEN_VIT,         // model.encoder.kind is vit
    PK_WHEN_CONVOLUTION, // model.encoder.kind is another one
    PK_WHEN_COUNT
};

struct pk_key {
    const char *path; // "train.batch_size", "stages.*.steps"
    enum pk_key_type type;
    enum pk_key_unit unit;
    enum pk_key_when when;
    double low, high;          // inclusive range of numbers; of each element in lists and maps
    int count_low, count_high; // elements of lists and maps
    const char *choices;       // "a|b|c" of an enum
    const char *fallback;      // default as YAML text, "@path" copies another key, NULL: none;
                               // "a; regress: b": b where objective.kind is regress;
                               // "@published": no value, the encoder's family knows
    bool required;             // must be set somewhere when it applies
    const char *doc;           // one line
};

enum { PK_STAGES_MAX = 8, PK_RECIPE_KEY_MAX = 64, PK_RECIPE_TARGETS_MAX = 16 };

/* True when `candidate` is close enough to `word` to be suggested and closer than *best, which is
 * lowered. Start with *best = INT_MAX. */
bool pk_better_guess(const char *word, const char *candidate, int *best);

const struct pk_key *pk_keys(int *count);
/* Index of a key by its schema path ("stages.*.steps"), or -1. */
int pk_key_index(const char *path);
/* Index of a key by a path with numbers ("stages.1.steps"; *item = 1, else 0), or -1. */
int pk_key_resolve(const char *path, int *item);
/* Last word of a path; true when `key` lies directly in `section` ("" is the top). */
const char *pk_key_name(const struct pk_key *key);
bool pk_key_in(const struct pk_key *key, const char *section);

const char *pk_key_type_name(enum pk_key_type type); // "whole number", "list of numbers" ...
const char *pk_key_unit_name(enum pk_key_unit unit); // "time", "frequency", "steps", ""
/* "1 to 64", "at least 0", "jepa, classify", or "" where everything goes. */
void pk_key_range(const struct pk_key *key, char out[256]);

#endif
