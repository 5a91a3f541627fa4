/* ptbxl_labels.c -- from the statements of a row to the six multi-hot labellings of PTB-XL. */
#include "datasets/ptbxl.h"

#include <stdlib.h>
#include <string.h>

/* ---- the Python dict in scp_codes ---- */

static void skip_blanks(const char **p)
{
    while (**p == ' ') ++*p;
}

static enum pk_status take_string(const char **p, char out[PK_NAME_MAX], struct pk_err *err)
{
    char quote = **p;
    if (quote != '\'' && quote != '"')
        return pk_fail(err, PK_EDATA, "a quoted statement was expected");
    const char *start = ++*p;
    while (**p && **p != quote && **p != '\\') ++*p;
    if (**p != quote)
        return pk_fail(err, PK_EDATA,
                       **p ? "escapes are not used in statements"
                           : "this statement's quote is not closed");
    size_t n = (size_t)(*p - start);
    if (n == 0 || n >= PK_NAME_MAX)
        return pk_fail(err, PK_EDATA, "a statement has 1 to %d bytes", PK_NAME_MAX - 1);
    memcpy(out, start, n);
    out[n] = 0;
    ++*p;
    return PK_OK;
}

static enum pk_status take_likelihood(const char **p, double *out, struct pk_err *err)
{
    char text[32];
    size_t n = strspn(*p, "0123456789.+-eE");
    if (n == 0 || n >= sizeof text)
        return pk_fail(err, PK_EDATA, "a number (the likelihood) was expected");
    memcpy(text, *p, n);
    text[n] = 0;
    if (!pk_parse_f64(text, out)) return pk_fail(err, PK_EDATA, "'%s' is not a number", text);
    *p += n;
    return PK_OK;
}

static enum pk_status take_code(const char **p, struct pk_scp_code *codes, int32_t count,
                                struct pk_err *err)
{
    struct pk_scp_code *c = &codes[count];
    const char *start = *p;
    PK_TRY(take_string(p, c->name, err));
    for (int32_t i = 0; i < count; i++)
        if (!strcmp(codes[i].name, c->name)) {
            *p = start;
            return pk_fail(err, PK_EDATA, "statement '%s' is there twice", c->name);
        }
    skip_blanks(p);
    if (**p != ':') return pk_fail(err, PK_EDATA, "':' was expected after '%s'", c->name);
    ++*p;
    skip_blanks(p);
    return take_likelihood(p, &c->likelihood, err);
}

static enum pk_status take_dict(const char **p, struct pk_scp_code *codes, int32_t *count,
                                struct pk_err *err)
{
    if (**p != '{') return pk_fail(err, PK_EDATA, "'{' was expected");
    ++*p;
    skip_blanks(p);
    while (**p != '}') {
        if (*count == PK_PTBXL_STATEMENTS)
            return pk_fail(err, PK_EDATA, "more than %d statements", PK_PTBXL_STATEMENTS);
        PK_TRY(take_code(p, codes, *count, err));
        ++*count;
        skip_blanks(p);
        if (**p == '}') break;
        if (**p != ',') return pk_fail(err, PK_EDATA, "',' or '}' was expected");
        ++*p;
        skip_blanks(p);
        if (**p == '}') return pk_fail(err, PK_EDATA, "a statement was expected after ','");
    }
    ++*p;
    if (**p) return pk_fail(err, PK_EDATA, "text after '}'");
    return PK_OK;
}

enum pk_status pk_scp_parse(const char *text, struct pk_scp_code *codes, int32_t *count,
                            int32_t *column, struct pk_err *err)
{
    const char *p = text;
    *count = 0;
    enum pk_status s = take_dict(&p, codes, count, err);
    *column = (int32_t)(p - text);
    return s;
}

/* ---- scp_statements.csv: what each statement counts as ---- */

struct statement {
    char name[PK_NAME_MAX];
    const char *class_of[PK_PTBXL_TASKS]; // NULL where the statement is not of the task
    int32_t index[PK_PTBXL_TASKS];        // of that class, -1 where it is not
};

struct statements {
    struct pk_csv table;
    int32_t count;
    struct statement *item;
};

static const char *const task_names[PK_PTBXL_TASKS] = {
    "all", "diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm"};

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static enum pk_status is_set(const struct pk_csv *t, int64_t row, int32_t column, bool *out,
                             struct pk_err *err)
{
    double v;
    PK_TRY(pk_csv_f64(t, row, column, &v, err));
    if (!(v == 0 || v == 1 || !*pk_csv_text(t, row, column)))
        return pk_csv_fail(t, row, column, 0, err, "1 or nothing was expected");
    *out = v == 1;
    return PK_OK;
}

static enum pk_status load_statements(struct statements *s, const char *folder, struct pk_err *err)
{
    enum { DIAGNOSTIC, FORM, RHYTHM, SUPER, SUB, COLUMNS };
    static const char *const names[COLUMNS] = {"diagnostic", "form", "rhythm", "diagnostic_class",
                                               "diagnostic_subclass"};
    char path[PK_PATH_MAX];
    int32_t at[COLUMNS];
    struct pk_csv *t = &s->table;
    PK_TRY(pk_path(path, err, "%s/scp_statements.csv", folder));
    PK_TRY(pk_csv_load(t, path, 1 << 20, err));
    for (int i = 0; i < COLUMNS; i++) PK_TRY(pk_csv_column(t, names[i], &at[i], err));
    if (t->rows > PK_PTBXL_STATEMENTS)
        return pk_fail(err, PK_EDATA, "%s has %lld rows, more than %d statements", path,
                       (long long)t->rows, PK_PTBXL_STATEMENTS);
    PK_TRY(pk_alloc(&s->item, (size_t)t->rows, sizeof *s->item, "statements", err));
    for (int64_t i = 0; i < t->rows; i++) {
        struct statement *item = &s->item[s->count++];
        const char *name = pk_csv_text(t, i, 0); // the first column has no name in the table
        bool diagnostic = false, form = false, rhythm = false;
        if (!*name || strlen(name) >= PK_NAME_MAX)
            return pk_csv_fail(t, i, 0, 0, err, "a statement has 1 to %d bytes", PK_NAME_MAX - 1);
        snprintf(item->name, sizeof item->name, "%s", name);
        PK_TRY(is_set(t, i, at[DIAGNOSTIC], &diagnostic, err));
        PK_TRY(is_set(t, i, at[FORM], &form, err));
        PK_TRY(is_set(t, i, at[RHYTHM], &rhythm, err));
        item->class_of[0] = name;
        if (diagnostic) {
            item->class_of[1] = name;
            item->class_of[2] = pk_csv_text(t, i, at[SUB]);
            item->class_of[3] = pk_csv_text(t, i, at[SUPER]);
            for (int k = 2; k < 4; k++)
                if (!*item->class_of[k] || strlen(item->class_of[k]) >= PK_NAME_MAX)
                    return pk_csv_fail(t, i, at[k == 2 ? SUB : SUPER], 0, err,
                                       "diagnostic statement '%s' needs a class of 1 to %d bytes",
                                       name, PK_NAME_MAX - 1);
        }
        item->class_of[4] = form ? name : NULL;
        item->class_of[5] = rhythm ? name : NULL;
    }
    return PK_OK;
}

/* Sorted, distinct classes of one task; every statement learns the index of its class. */
static enum pk_status make_classes(struct statements *s, int k, struct pk_task *task,
                                   struct pk_err *err)
{
    const char *names[PK_PTBXL_STATEMENTS];
    int32_t n = 0;
    for (int32_t i = 0; i < s->count; i++)
        if (s->item[i].class_of[k]) names[n++] = s->item[i].class_of[k];
    qsort(names, (size_t)n, sizeof *names, by_name);
    snprintf(task->name, sizeof task->name, "%s", task_names[k]);
    PK_TRY(pk_alloc(&task->class_name, (size_t)n, sizeof *task->class_name, "classes", err));
    for (int32_t i = 0; i < n; i++) {
        if (i && !strcmp(names[i], names[i - 1])) {
            if (k == 0)
                return pk_fail(err, PK_EDATA, "%s: statement '%s' is there twice", s->table.path,
                               names[i]);
            continue;
        }
        snprintf(task->class_name[task->classes++], PK_NAME_MAX, "%s", names[i]);
    }
    for (int32_t i = 0; i < s->count; i++) {
        s->item[i].index[k] = -1;
        for (int32_t c = 0; s->item[i].class_of[k] && c < task->classes; c++)
            if (!strcmp(task->class_name[c], s->item[i].class_of[k])) s->item[i].index[k] = c;
    }
    return PK_OK;
}

/* The statement of a code; codes are few enough for a linear search (21,799 rows: 30 ms). */
static const struct statement *find(const struct statements *s, const char *name)
{
    for (int32_t i = 0; i < s->count; i++)
        if (!strcmp(s->item[i].name, name)) return &s->item[i];
    return NULL;
}

static enum pk_status label_row(struct pk_ptbxl *p, const struct statements *s, int64_t row,
                                int32_t column, struct pk_scp_code *codes, struct pk_err *err)
{
    int32_t count, at;
    struct pk_err inner = {0};
    if (pk_scp_parse(p->row[row].statements, codes, &count, &at, &inner) != PK_OK)
        return pk_csv_fail(&p->database, row, column, at, err, "%s", inner.message);
    for (int32_t i = 0; i < count; i++) {
        const struct statement *item = find(s, codes[i].name);
        if (!item)
            return pk_csv_fail(&p->database, row, column, 0, err,
                               "statement '%s' is not in scp_statements.csv", codes[i].name);
        for (int k = 0; k < PK_PTBXL_TASKS; k++)
            if (item->index[k] >= 0)
                p->task[k].label[row * p->task[k].classes + item->index[k]] = 1;
    }
    return PK_OK;
}

enum pk_status pk_ptbxl_label(struct pk_ptbxl *out, const char *folder, struct pk_err *err)
{
    struct statements s = {0};
    struct pk_scp_code *codes = NULL;
    int32_t column = 0;
    enum pk_status status = load_statements(&s, folder, err);
    for (int k = 0; status == PK_OK && k < PK_PTBXL_TASKS; k++) {
        struct pk_task *task = &out->task[k];
        status = make_classes(&s, k, task, err);
        if (status == PK_OK)
            status =
                pk_alloc(&task->label, (size_t)out->count, (size_t)task->classes, "labels", err);
    }
    if (status == PK_OK) status = pk_csv_column(&out->database, "scp_codes", &column, err);
    if (status == PK_OK)
        status = pk_alloc(&codes, PK_PTBXL_STATEMENTS, sizeof *codes, "statements", err);
    for (int64_t i = 0; status == PK_OK && i < out->count; i++)
        status = label_row(out, &s, i, column, codes, err);
    free(codes);
    free(s.item);
    pk_csv_free(&s.table);
    return status;
}
