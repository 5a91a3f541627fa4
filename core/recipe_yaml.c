/* recipe_yaml.c -- YAML to a tree with places, on libyaml's event parser. The only file that
 * includes yaml.h.
 *
 * Refused: aliases, anchors, tags, several documents, duplicate keys, keys that are not scalars,
 * more than PK_RECIPE_* of depth, nodes, members, bytes. Everything is read as UTF-8. Scalars stay
 * text here; what they mean is decided by the schema (recipe_value.c), because libyaml and PyYAML
 * follow YAML 1.1, where `no` is false and 1e-3 a string. */
#include "core/recipe_internal.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct reader {
    yaml_parser_t parser;
    const char *text;
    size_t size;
    int source, shift;
    int64_t nodes;
    struct pk_diags *d;
    struct pk_err *err;
    enum pk_status status; // of trouble other than diagnostics
    bool stop;             // nothing more can be read
};

static struct pk_place place(const struct reader *r, yaml_mark_t from, yaml_mark_t to)
{
    int line = (int)from.line + 1, column = (int)from.column + 1;
    int width = from.line == to.line ? (int)(to.column - from.column) : PK_RECIPE_TEXT_MAX;
    if (line == 1) column += r->shift;
    return (struct pk_place){r->source, line, column, PK_MAX(width, 1)};
}

static void stop_with(struct reader *r, enum pk_status s)
{
    r->stop = true;
    if (r->status == PK_OK) r->status = s;
}

/* libyaml says what it stumbled over; bad bytes come with an offset instead of a mark. */
static void syntax_error(struct reader *r)
{
    const yaml_parser_t *p = &r->parser;
    struct pk_place at = place(r, p->problem_mark, p->problem_mark);
    const char *problem = p->problem ? p->problem : "unreadable";
    r->stop = true;
    if (p->error == YAML_MEMORY_ERROR) {
        stop_with(r, pk_fail(r->err, PK_ENOMEM, "out of memory while reading a recipe"));
        return;
    }
    if (p->error == YAML_READER_ERROR) {
        at.line = at.column = 1;
        for (size_t i = 0; i < p->problem_offset && i < r->size; i++) {
            at.column++;
            if (r->text[i] != '\n') continue;
            at.line++;
            at.column = 1;
        }
    }
    pk_diag_add(r->d, at, "not valid YAML: %s%s%s", problem, p->context ? ", " : "",
                p->context ? p->context : "");
    if (strstr(problem, "cannot start any token"))
        pk_diag_help(r->d, "indent with spaces, never tabs; quote texts that start with @ or `");
    else if (strstr(problem, "mapping values are not allowed"))
        pk_diag_help(r->d, "quote texts that hold ': ', and check the indentation");
}

static bool next(struct reader *r, yaml_event_t *e)
{
    if (r->stop) return false;
    if (yaml_parser_parse(&r->parser, e)) return true;
    syntax_error(r);
    return false;
}

static void refuse_properties(struct reader *r, const yaml_event_t *e, const yaml_char_t *anchor,
                              const yaml_char_t *tag)
{
    struct pk_place at = place(r, e->start_mark, e->end_mark);
    if (anchor) {
        pk_diag_add(r->d, at, "anchors such as '&%.40s' are not allowed in recipes", anchor);
        pk_diag_help(r->d, "use 'extends:' to share settings between recipes");
    }
    if (tag) pk_diag_add(r->d, at, "tags such as '%.60s' are not allowed in recipes", tag);
}

static enum pk_status copy_text(struct reader *r, struct pk_node *n, const yaml_event_t *e)
{
    size_t size = e->data.scalar.length;
    const char *text = (const char *)e->data.scalar.value;
    if (size > PK_RECIPE_TEXT_MAX)
        pk_diag_add(r->d, n->at, "text of %zu bytes: at most %d are allowed", size,
                    PK_RECIPE_TEXT_MAX);
    else if (strlen(text) != size)
        pk_diag_add(r->d, n->at, "text with a NUL character");
    size = PK_MIN(strlen(text), (size_t)PK_RECIPE_TEXT_MAX);
    PK_TRY(pk_alloc(&n->text, size + 1, 1, "recipe text", r->err));
    memcpy(n->text, text, size);
    n->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return PK_OK;
}

static void read_node(struct reader *r, struct pk_node *n, yaml_event_t *e, int depth);

/* Appends a member to a list or map, or frees it when it does not fit. */
static void append(struct reader *r, struct pk_node *n, struct pk_node *member)
{
    for (int64_t i = 0; member->key && i < n->count; i++) {
        if (strcmp(n->item[i].key, member->key)) continue;
        pk_diag_add(r->d, member->key_at, "duplicate key '%.60s'", member->key);
        pk_diag_help(r->d, "it is set on line %d already", n->item[i].key_at.line);
        pk_node_free(member);
        return;
    }
    if (n->count >= PK_RECIPE_MEMBERS_MAX) {
        pk_diag_add(r->d, member->at, "more than %d members in one list or map",
                    PK_RECIPE_MEMBERS_MAX);
        r->stop = true;
    } else {
        enum pk_status s =
            pk_grow(&n->item, &n->capacity, n->count + 1, sizeof *n->item, "recipe tree", r->err);
        if (s == PK_OK) {
            n->item[n->count++] = *member;
            return;
        }
        stop_with(r, s);
    }
    pk_node_free(member);
}

/* Members up to the event that ends the collection. */
static void read_members(struct reader *r, struct pk_node *n, int depth)
{
    yaml_event_t e;
    while (next(r, &e)) {
        if (e.type == YAML_SEQUENCE_END_EVENT || e.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&e);
            return;
        }
        struct pk_node member = {0}, key = {0};
        if (n->kind == PK_NODE_MAP) {
            read_node(r, &key, &e, depth);
            yaml_event_delete(&e);
            if (!r->stop && key.kind != PK_NODE_SCALAR)
                pk_diag_add(r->d, key.at, "a list or map cannot be a key");
            if (r->stop || !next(r, &e)) {
                pk_node_free(&key);
                return;
            }
        }
        read_node(r, &member, &e, depth);
        yaml_event_delete(&e);
        if (n->kind == PK_NODE_MAP) {
            bool usable = key.kind == PK_NODE_SCALAR && key.text;
            member.key = usable ? key.text : NULL;
            member.key_at = key.at;
            if (usable) key.text = NULL;
            pk_node_free(&key);
            if (!usable) {
                pk_node_free(&member);
                continue;
            }
        }
        if (member.kind == PK_NODE_SCALAR && !member.text)
            pk_node_free(&member); // stopped
        else
            append(r, n, &member);
    }
}

/* Reads the node that event *e begins; the event stays the caller's. */
static void read_node(struct reader *r, struct pk_node *n, yaml_event_t *e, int depth)
{
    enum pk_status s;
    n->at = place(r, e->start_mark, e->end_mark);
    if (++r->nodes > PK_RECIPE_NODES_MAX || depth > PK_RECIPE_DEPTH_MAX) {
        if (depth > PK_RECIPE_DEPTH_MAX)
            pk_diag_add(r->d, n->at, "nested deeper than %d levels", PK_RECIPE_DEPTH_MAX);
        else
            pk_diag_add(r->d, n->at, "more than %d values in one file", PK_RECIPE_NODES_MAX);
        r->stop = true;
        return;
    }
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        refuse_properties(r, e, e->data.scalar.anchor, e->data.scalar.tag);
        n->kind = PK_NODE_SCALAR;
        if ((s = copy_text(r, n, e)) != PK_OK) stop_with(r, s);
        break;
    case YAML_SEQUENCE_START_EVENT:
        refuse_properties(r, e, e->data.sequence_start.anchor, e->data.sequence_start.tag);
        n->kind = PK_NODE_LIST;
        read_members(r, n, depth + 1);
        break;
    case YAML_MAPPING_START_EVENT:
        refuse_properties(r, e, e->data.mapping_start.anchor, e->data.mapping_start.tag);
        n->kind = PK_NODE_MAP;
        read_members(r, n, depth + 1);
        break;
    case YAML_ALIAS_EVENT:
        pk_diag_add(r->d, n->at, "aliases such as '*%.40s' are not allowed in recipes",
                    (const char *)e->data.alias.anchor);
        pk_diag_help(r->d, "use 'extends:' to share settings between recipes");
        n->kind = PK_NODE_SCALAR;
        n->plain = true;
        if ((s = pk_alloc(&n->text, 1, 1, "recipe text", r->err)) != PK_OK) stop_with(r, s);
        break;
    default:
        pk_diag_add(r->d, n->at, "not valid YAML here");
        r->stop = true;
    }
}

static void read_stream(struct reader *r, struct pk_node *root)
{
    yaml_event_t e;
    int documents = 0;
    while (next(r, &e)) {
        yaml_event_type_t type = e.type;
        if (type == YAML_DOCUMENT_START_EVENT && documents++) {
            pk_diag_add(r->d, place(r, e.start_mark, e.end_mark),
                        "a second document: a recipe file holds one");
            r->stop = true;
        } else if (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT ||
                   type == YAML_MAPPING_START_EVENT || type == YAML_ALIAS_EVENT) {
            read_node(r, root, &e, 0);
        }
        yaml_event_delete(&e);
        if (type == YAML_STREAM_END_EVENT) return;
    }
}

enum pk_status pk_yaml_parse(struct pk_node *root, const char *text, size_t size, int source,
                             int shift, struct pk_diags *d, struct pk_err *err)
{
    struct reader r = {
        .text = text, .size = size, .source = source, .shift = shift, .d = d, .err = err};
    *root = (struct pk_node){.at = {source, 1, 1 + shift, 1}};
    if (!yaml_parser_initialize(&r.parser))
        return pk_fail(err, PK_ENOMEM, "out of memory while reading a recipe");
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, size);
    read_stream(&r, root);
    yaml_parser_delete(&r.parser);
    if (r.status != PK_OK) pk_node_free(root);
    return r.status;
}
