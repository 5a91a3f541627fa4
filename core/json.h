/* json.h -- reading and writing JSON (RFC 8259), for corpus.json, configs, manifests and results.
 *
 * Reading is strict: UTF-8, no duplicate keys, depth at most 64, nothing after the value. */
#ifndef PK_JSON_H
#define PK_JSON_H

#include "core/base.h"

enum pk_json_kind {
    PK_JSON_NULL,
    PK_JSON_BOOL,
    PK_JSON_NUMBER,
    PK_JSON_STRING,
    PK_JSON_ARRAY,
    PK_JSON_OBJECT
};

struct pk_json {
    enum pk_json_kind kind;
    bool boolean;
    double number;   // finite
    bool is_integer; // number was written without fraction or exponent and fits int64
    int64_t integer;
    char *string;         // NUL terminated; NULL when not a string
    int64_t count;        // members of an array or object
    char **key;           // [count] of an object
    struct pk_json *item; // [count]
};

/* Parses text; `name` is used in messages ("corpus.json:12:3: ..."). Free with pk_json_free. */
enum pk_status pk_json_parse(struct pk_json *out, const char *text, size_t n, const char *name,
                             struct pk_err *err);
enum pk_status pk_json_load(struct pk_json *out, const char *path, size_t limit,
                            struct pk_err *err);
void pk_json_free(struct pk_json *j);

/* Lookups never fail: a missing member yields NULL / the default. j may be NULL. */
const struct pk_json *pk_json_get(const struct pk_json *j, const char *key);
const char *pk_json_string(const struct pk_json *j, const char *key, const char *fallback);
int64_t pk_json_i64(const struct pk_json *j, const char *key, int64_t fallback);
double pk_json_f64(const struct pk_json *j, const char *key, double fallback);

/* Writing: a cursor that knows where commas and indentation go. indent 0 writes one line.
 *     struct pk_json_writer w = {.out = &text, .indent = 2};
 *     pk_json_open(&w, NULL, '{'); pk_json_put_i64(&w, "n", 3); pk_json_close(&w);
 * key is NULL inside arrays and at the top. NaN and infinities are written as null. */
struct pk_json_writer {
    struct pk_text *out;
    int indent;
    int depth;
    char close[64];
    bool some[64]; // this level has a member already
};
void pk_json_open(struct pk_json_writer *w, const char *key, char bracket); // '{' or '['
void pk_json_close(struct pk_json_writer *w);
void pk_json_put_string(struct pk_json_writer *w, const char *key, const char *value);
void pk_json_put_i64(struct pk_json_writer *w, const char *key, int64_t value);
void pk_json_put_f64(struct pk_json_writer *w, const char *key, double value); // shortest of %.17g
void pk_json_put_f64s(struct pk_json_writer *w, const char *key, const double *value, int64_t n);
void pk_json_put_bool(struct pk_json_writer *w, const char *key, bool value);
void pk_json_put_null(struct pk_json_writer *w, const char *key);
void pk_json_put_raw(struct pk_json_writer *w, const char *key, const char *json);

#endif
