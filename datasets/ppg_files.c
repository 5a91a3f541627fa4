/* ppg_files.c -- recordings of any kind, described by a small YAML file (docs/ppg.md has the keys).
 *
 * One recording per file: a text table (samples down the rows, chosen columns become leads) or an
 * NPY array ([samples], [leads, samples] or [samples, leads]). Samples are equidistant (`rate`) or
 * have times (`time`), which are put on a grid by linear interpolation (pk_ppg_grid). Subjects come
 * from the path by a regular expression, and may have a CSV table of their own with targets and
 * classes. */
#include "core/npy.h"
#include "core/settings.h"
#include "datasets/csv.h"
#include "datasets/lead.h"
#include "datasets/numbers.h"
#include "datasets/ppg_import.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE_MAX = 64 << 20, CLASSES_MAX = 64 };
static const char keys[] =
    "name, version, files, format, layout, delimiter, header, skip, comment, rate, window, time."
    "column, time.unit, time.grid, time.gap, leads.N.name, leads.N.column, leads.N.kind, "
    "leads.N.scale, "
    "targets.N.name, targets.N.column, subject, subjects.file, subjects.column, subjects.targets.N."
    "name, subjects.targets.N.column, subjects.tasks.N.name, subjects.tasks.N.column";

struct description {
    struct pk_settings yaml;
    bool npy, samples_first;
    struct pk_numbers_spec spec;
    const char *column[PK_NUMBERS_COLUMNS]; // leads, then series, then the time
    double scale[PK_LEADS_MAX];
    int32_t series; // numeric columns of the recording that are targets, the first of the catalog's
    double rate, factor, grid, gap; // Hz, s per unit of time, Hz (0: from the data), s
    bool timed;
    const char *files, *subject;
    struct pk_csv subjects;
    int32_t id, tables; // column of the subject; targets of the table
    int32_t table_column[PK_TARGETS_MAX], task_column[PK_TASKS_MAX];
};

/* ---- the description ---- */

/* Copies a text into out, an error where it is empty or does not fit. */
static enum pk_status text(struct description *d, const struct pk_setting *k, const char *what,
                           char *out, size_t size, struct pk_err *err)
{
    if (!k) return pk_settings_fail(&d->yaml, NULL, err, "'%s' is missing", what);
    if (!*k->text || strlen(k->text) >= size || strchr(k->text, '/'))
        return pk_settings_fail(&d->yaml, k, err,
                                "'%s' must be a text of 1 to %d bytes without "
                                "'/'",
                                what, (int)size - 1);
    snprintf(out, size, "%s", k->text);
    return PK_OK;
}

static enum pk_status truth(struct description *d, const struct pk_setting *k, bool *out,
                            struct pk_err *err)
{
    if (!k) return PK_OK;
    *out = !strcmp(k->text, "true");
    if (*out || !strcmp(k->text, "false")) return PK_OK;
    return pk_settings_fail(&d->yaml, k, err, "'%s' must be true or false, found '%.40s'", k->path,
                            k->text);
}

static enum pk_status take_format(struct description *d, struct pk_err *err)
{
    struct pk_settings *y = &d->yaml;
    const struct pk_setting *k = pk_settings_find(y, "format");
    double skip = 0;
    const struct pk_setting *files = pk_settings_find(y, "files");
    const size_t n = files ? strlen(files->text) : 0;
    d->npy = k ? !strcmp(k->text, "npy") : n >= 4 && !strcmp(files->text + n - 4, ".npy");
    if (k && !d->npy && strcmp(k->text, "csv"))
        return pk_settings_fail(y, k, err, "'format' must be csv or npy, found '%.40s'", k->text);
    if ((k = pk_settings_find(y, "layout"))) {
        d->samples_first = !strcmp(k->text, "samples_first");
        if (!d->npy || (!d->samples_first && strcmp(k->text, "leads_first")))
            return pk_settings_fail(y, k, err,
                                    "'layout' is leads_first or samples_first, of an "
                                    "array in an npy file");
    }
    d->spec.delimiter = ',';
    d->spec.header = true;
    if ((k = pk_settings_find(y, "delimiter"))) {
        d->spec.delimiter = !strcmp(k->text, "tab")     ? '\t'
                            : !strcmp(k->text, "space") ? ' '
                                                        : k->text[0];
        if (!strchr(",;\t ", d->spec.delimiter) || !d->spec.delimiter)
            return pk_settings_fail(y, k, err, "'delimiter' must be \",\", \";\", tab or space");
    }
    PK_TRY(truth(d, pk_settings_find(y, "header"), &d->spec.header, err));
    PK_TRY(pk_settings_f64(y, pk_settings_find(y, "skip"), NULL, 0, 1e6, &skip, err));
    d->spec.skip = (int64_t)skip;
    if ((k = pk_settings_find(y, "comment"))) {
        if (strlen(k->text) != 1)
            return pk_settings_fail(y, k, err, "'comment' must be one character");
        d->spec.comment = k->text[0];
    }
    return PK_OK;
}

static enum pk_status take_time(struct description *d, struct pk_err *err)
{
    struct pk_settings *y = &d->yaml;
    const struct pk_setting *k = pk_settings_find(y, "rate"),
                            *t = pk_settings_find(y, "time.column");
    PK_TRY(pk_settings_f64(y, k, "Hz", 0.001, 1e6, &d->rate, err));
    d->timed = t != NULL;
    if (d->timed == (k != NULL))
        return pk_settings_fail(y, k, err,
                                "either 'rate' or 'time.column' says when samples were "
                                "taken; %s",
                                k ? "not both" : "one is needed");
    if (!t) return PK_OK;
    d->column[d->spec.columns++] = t->text;
    d->factor = 1;
    if ((k = pk_settings_find(y, "time.unit"))) {
        d->factor = !strcmp(k->text, "s")    ? 1
                    : !strcmp(k->text, "ms") ? 1e-3
                    : !strcmp(k->text, "us") ? 1e-6
                                             : 0;
        if (d->factor == 0) return pk_settings_fail(y, k, err, "'time.unit' must be s, ms or us");
    }
    d->gap = 0.25;
    PK_TRY(pk_settings_f64(y, pk_settings_find(y, "time.grid"), "Hz", 1, 10000, &d->grid, err));
    return pk_settings_f64(y, pk_settings_find(y, "time.gap"), "s", 0.001, 60, &d->gap, err);
}

static enum pk_status take_leads(struct pk_ppg_catalog *c, struct description *d,
                                 struct pk_err *err)
{
    struct pk_settings *y = &d->yaml;
    while (pk_settings_has(y, "leads.%d", c->leads)) {
        int32_t l = c->leads;
        if (l == PK_LEADS_MAX)
            return pk_settings_fail(y, NULL, err, "more than %d leads", PK_LEADS_MAX);
        const struct pk_setting *k = pk_settings_find(y, "leads.%d.name", l);
        PK_TRY(text(d, k, "leads.N.name", c->lead_name[l], sizeof c->lead_name[l], err));
        int32_t standard = pk_lead_index(c->lead_name[l]);
        c->lead_ecg[l] = standard >= 0;
        const struct pk_setting *kind = pk_settings_find(y, "leads.%d.kind", l);
        if (kind && strcmp(kind->text, "ecg") && strcmp(kind->text, "ppg"))
            return pk_settings_fail(y, kind, err, "'kind' must be ecg or ppg, found '%.40s'",
                                    kind->text);
        if (kind) c->lead_ecg[l] = !strcmp(kind->text, "ecg");
        if (standard >= 0) // one spelling in all corpora
            snprintf(c->lead_name[l], sizeof c->lead_name[l], "%s", pk_lead_ecg[standard]);
        for (int32_t i = 0; i < l; i++)
            if (!strcmp(c->lead_name[i], c->lead_name[l]))
                return pk_settings_fail(y, k, err, "lead %s twice", c->lead_name[l]);
        k = pk_settings_find(y, "leads.%d.column", l);
        if (!k) return pk_settings_fail(y, NULL, err, "'leads.%d.column' is missing", l);
        d->column[d->spec.columns++] = k->text;
        d->scale[l] = 1;
        PK_TRY(pk_settings_f64(y, pk_settings_find(y, "leads.%d.scale", l), NULL, -1e12, 1e12,
                               &d->scale[l], err));
        c->leads++;
    }
    if (!c->leads)
        return pk_settings_fail(y, NULL, err,
                                "'leads' is missing: a list of {name: PPG, column: "
                                "...}");
    return PK_OK;
}

static enum pk_status take_series(struct pk_ppg_catalog *c, struct description *d,
                                  struct pk_err *err)
{
    struct pk_settings *y = &d->yaml;
    while (pk_settings_has(y, "targets.%d", c->targets)) {
        int32_t t = c->targets;
        const struct pk_setting *k = pk_settings_find(y, "targets.%d.name", t);
        if (t == PK_NUMBERS_COLUMNS - PK_LEADS_MAX - 1 || d->npy)
            return pk_settings_fail(y, k, err, "'targets' are columns of a table, at most %d",
                                    PK_NUMBERS_COLUMNS - PK_LEADS_MAX - 1);
        PK_TRY(text(d, k, "targets.N.name", c->target_name[t], PK_NAME_MAX, err));
        k = pk_settings_find(y, "targets.%d.column", t);
        if (!k) return pk_settings_fail(y, NULL, err, "'targets.%d.column' is missing", t);
        d->column[d->spec.columns++] = k->text;
        c->targets++;
    }
    d->series = c->targets;
    return PK_OK;
}

static int by_text(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

/* A task whose classes are the texts of a column, sorted. */
static enum pk_status take_classes(struct pk_ppg_catalog *c, struct description *d,
                                   const struct pk_setting *at, const char *name, int32_t column,
                                   struct pk_err *err)
{
    const char *seen[CLASSES_MAX];
    int32_t n = 0;
    for (int64_t i = 0; i < d->subjects.rows; i++) {
        const char *s = pk_csv_text(&d->subjects, i, column);
        int32_t k = 0;
        while (k < n && strcmp(seen[k], s)) k++;
        if (!*s || k < n) continue;
        if (n == CLASSES_MAX || strlen(s) >= PK_NAME_MAX)
            return pk_csv_fail(&d->subjects, i, column, 0, err,
                               "a class of task %s: at most %d "
                               "classes of at most %d bytes are possible",
                               name, CLASSES_MAX, PK_NAME_MAX - 1);
        seen[n++] = s;
    }
    if (!n) return pk_settings_fail(&d->yaml, at, err, "the column of task %s is empty", name);
    qsort(seen, (size_t)n, sizeof *seen, by_text);
    return pk_ppg_add_task(c, name, n, seen, err);
}

static int by_subject(const void *a, const void *b)
{
    return strcmp((*(const struct pk_csv_field *const *)a)->text,
                  (*(const struct pk_csv_field *const *)b)->text);
}

static enum pk_status check_unique(const struct pk_csv *t, int32_t column, struct pk_err *err)
{
    const struct pk_csv_field **f;
    enum pk_status s = PK_OK;
    if (!t->rows) return pk_fail(err, PK_EDATA, "%s has no rows", t->path);
    PK_TRY(pk_alloc(&f, (size_t)t->rows, sizeof *f, "subjects", err));
    for (int64_t i = 0; i < t->rows; i++) f[i] = &t->field[i * t->columns + column];
    qsort(f, (size_t)t->rows, sizeof *f, by_subject);
    for (int64_t i = 1; i < t->rows && s == PK_OK; i++)
        if (!strcmp(f[i]->text, f[i - 1]->text))
            s = pk_fail(err, PK_EDATA, "%s: subject '%.60s' is in lines %d and %d", t->path,
                        f[i]->text, PK_MIN(f[i]->line, f[i - 1]->line),
                        PK_MAX(f[i]->line, f[i - 1]->line));
    free(f);
    return s;
}

static enum pk_status take_table(struct pk_ppg_catalog *c, struct description *d,
                                 const char *folder, struct pk_err *err)
{
    struct pk_settings *y = &d->yaml;
    const struct pk_setting *k = pk_settings_find(y, "subjects.file");
    char path[PK_PATH_MAX], name[PK_NAME_MAX];
    if (!k) return PK_OK;
    PK_TRY(pk_path(path, err, "%s%s%s", k->text[0] == '/' ? "" : folder,
                   k->text[0] == '/' ? "" : "/", k->text));
    PK_TRY(pk_csv_load(&d->subjects, path, TABLE_MAX, err));
    k = pk_settings_find(y, "subjects.column");
    if (!k) return pk_settings_fail(y, NULL, err, "'subjects.column' is missing");
    PK_TRY(pk_csv_column(&d->subjects, k->text, &d->id, err));
    PK_TRY(check_unique(&d->subjects, d->id, err));
    for (int32_t i = 0; pk_settings_has(y, "subjects.targets.%d", i); i++) {
        k = pk_settings_find(y, "subjects.targets.%d.name", i);
        if (c->targets == PK_TARGETS_MAX)
            return pk_settings_fail(y, k, err, "more than %d targets", PK_TARGETS_MAX);
        PK_TRY(text(d, k, "subjects.targets.N.name", c->target_name[c->targets], PK_NAME_MAX, err));
        k = pk_settings_find(y, "subjects.targets.%d.column", i);
        if (!k) return pk_settings_fail(y, NULL, err, "'subjects.targets.%d.column' is missing", i);
        PK_TRY(pk_csv_column(&d->subjects, k->text, &d->table_column[i], err));
        d->tables++;
        c->targets++;
    }
    for (int32_t i = 0; pk_settings_has(y, "subjects.tasks.%d", i); i++) {
        const struct pk_setting *at = pk_settings_find(y, "subjects.tasks.%d.name", i);
        if (i == PK_TASKS_MAX)
            return pk_settings_fail(y, at, err, "more than %d tasks", PK_TASKS_MAX);
        PK_TRY(text(d, at, "subjects.tasks.N.name", name, sizeof name, err));
        k = pk_settings_find(y, "subjects.tasks.%d.column", i);
        if (!k) return pk_settings_fail(y, NULL, err, "'subjects.tasks.%d.column' is missing", i);
        PK_TRY(pk_csv_column(&d->subjects, k->text, &d->task_column[i], err));
        PK_TRY(take_classes(c, d, at, name, d->task_column[i], err));
    }
    return PK_OK;
}

static enum pk_status describe(struct pk_ppg_catalog *c, struct description *d,
                               const struct pk_ppg_job *job, struct pk_err *err)
{
    struct pk_settings *y = &d->yaml;
    const struct pk_setting *k;
    PK_TRY(pk_settings_load(y, job->description, err));
    PK_TRY(text(d, pk_settings_find(y, "name"), "name", c->name, sizeof c->name, err));
    k = pk_settings_find(y, "version");
    snprintf(c->version, sizeof c->version, "%.63s", k ? k->text : c->name);
    PK_TRY(take_format(d, err));
    k = pk_settings_find(y, "files");
    d->files = k ? k->text : d->npy ? "*.npy" : "*.csv";
    PK_TRY(take_leads(c, d, err));
    PK_TRY(take_series(c, d, err));
    PK_TRY(take_time(d, err));
    d->spec.column = d->column;
    c->window = 10;
    PK_TRY(pk_settings_f64(y, pk_settings_find(y, "window"), "s", 0.1, 1e5, &c->window, err));
    k = pk_settings_find(y, "subject");
    d->subject = job->subject ? job->subject : k ? k->text : NULL;
    PK_TRY(take_table(c, d, job->folder, err));
    return pk_settings_all_used(y, keys, err);
}

/* ---- one recording ---- */

/* Values of a column on equidistant samples; x [n] is freed or becomes *y. */
static enum pk_status even(const struct description *d, const double *t, double *x, int64_t n,
                           double rate, double **y, int64_t *count, struct pk_err *err)
{
    *y = x;
    *count = n;
    if (!d->timed) return PK_OK;
    enum pk_status s = pk_ppg_grid(t, x, n, rate, d->gap, y, count, err);
    free(x);
    return s;
}

static int by_number(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* The whole number of Hz nearest to one over the median spacing. */
static enum pk_status median_rate(const double *t, int64_t n, double *rate, struct pk_err *err)
{
    double *step;
    if (n < 2) return pk_fail(err, PK_EDATA, "one sample: no rate can be told from its time");
    PK_TRY(pk_alloc(&step, (size_t)n - 1, sizeof *step, "times", err));
    for (int64_t i = 1; i < n; i++) step[i - 1] = t[i] - t[i - 1];
    qsort(step, (size_t)n - 1, sizeof *step, by_number);
    *rate = fmax(rint(1 / step[(n - 1) / 2]), 1);
    free(step);
    return *rate <= 10000 ? PK_OK
                          : pk_fail(err, PK_EDATA,
                                    "times are %g s apart, more than 10000 samples "
                                    "a second: is time.unit right?",
                                    1 / *rate);
}

static enum pk_status take_columns(const struct pk_ppg_catalog *c, const struct description *d,
                                   struct pk_numbers *n, struct pk_recording *out,
                                   struct pk_err *err)
{
    double *t = d->timed ? n->value[n->columns - 1] : NULL, *y, rate = d->rate;
    int64_t count;
    if (d->timed) {
        PK_TRY(pk_ppg_check_times(n, n->columns - 1, true, err));
        for (int64_t i = 0; i < n->rows; i++) t[i] *= d->factor;
        rate = d->grid;
        if (rate == 0) PK_TRY(median_rate(t, n->rows, &rate, err));
    }
    for (int32_t k = 0; k < c->leads + d->series; k++) {
        double *x = n->value[k];
        n->value[k] = NULL;
        for (int64_t i = 0; k < c->leads && d->scale[k] != 1 && i < n->rows; i++)
            x[i] *= d->scale[k];
        PK_TRY(even(d, t, x, n->rows, rate, &y, &count, err));
        if (k < c->leads)
            PK_TRY(pk_ppg_add_channel(c, out, k, rate, y, count, err));
        else
            PK_TRY(pk_ppg_add_series(out, k - c->leads, 0, rate, y, count, err));
    }
    return PK_OK;
}

static enum pk_status take_array(const struct pk_ppg_catalog *c, const struct description *d,
                                 const char *path, struct pk_recording *out, struct pk_err *err)
{
    struct pk_npy a;
    enum pk_status s = pk_npy_load(&a, path, PK_NUMBERS_LIMIT, err);
    int64_t rows = a.rank == 2 ? a.shape[d->samples_first] : 1;
    int64_t n = a.rank == 2 ? a.shape[!d->samples_first] : a.rank == 1 ? a.shape[0] : 0;
    if (s == PK_OK && (a.rank < 1 || a.rank > 2 || n < 1))
        s = pk_fail(err, PK_EDATA,
                    "%s: an array of %d dimensions; [samples] or [leads, samples] "
                    "was expected",
                    path, a.rank);
    for (int32_t l = 0; l < c->leads && s == PK_OK; l++) {
        int64_t row;
        double *x;
        if (!pk_parse_i64(d->column[l], &row) || row < 1 || row > rows) {
            s = pk_fail(err, PK_EDATA, "%s has %lld leads, numbered from 1; there is no '%s'", path,
                        (long long)rows, d->column[l]);
            break;
        }
        s = pk_alloc(&x, (size_t)n, sizeof *x, "lead", err);
        if (s != PK_OK) break;
        for (int64_t i = 0; i < n && s == PK_OK; i++) {
            x[i] = d->scale[l] *
                   pk_npy_f64(&a, d->samples_first ? i * rows + row - 1 : (row - 1) * n + i);
            if (isinf(x[i]))
                s = pk_fail(err, PK_EDATA, "%s: sample %lld of lead %lld is infinite", path,
                            (long long)i, (long long)row);
        }
        if (s == PK_OK)
            s = pk_ppg_add_channel(c, out, l, d->rate, x, n, err);
        else
            free(x);
    }
    pk_npy_free(&a);
    return s;
}

static enum pk_status read(const struct pk_ppg_catalog *c, const struct pk_ppg_item *item,
                           struct pk_recording *out, struct pk_err *err)
{
    const struct description *d = c->self;
    struct pk_numbers n;
    if (d->npy) return take_array(c, d, item->path, out, err);
    PK_TRY(pk_numbers_load(&n, item->path, &d->spec, err));
    enum pk_status s = take_columns(c, d, &n, out, err);
    pk_numbers_free(&n);
    return s;
}

/* ---- the list ---- */

static enum pk_status take_subject(struct pk_ppg_catalog *c, const struct description *d,
                                   struct pk_ppg_item *item, const char *subject,
                                   struct pk_err *err)
{
    const struct pk_csv *t = &d->subjects;
    int64_t row = 0;
    double v;
    item->patient = pk_subject_hash(c->name, subject);
    if (!t->columns) return PK_OK;
    while (row < t->rows && strcmp(pk_csv_text(t, row, d->id), subject)) row++;
    if (row == t->rows) {
        pk_fail(err, PK_EDATA, "%s: subject '%s' is not in %s", item->path, subject, t->path);
        return pk_ppg_set_problem(item, err);
    }
    for (int32_t i = 0; i < d->tables; i++) {
        PK_TRY(pk_csv_f64(t, row, d->table_column[i], &v, err));
        item->target[d->series + i] = (float)v;
    }
    size_t labels = 0, at = 0;
    for (int32_t i = 0; i < c->tasks; i++) labels += (size_t)c->task[i].classes;
    if (labels) PK_TRY(pk_alloc(&item->label, labels, 1, "labels", err));
    for (int32_t i = 0; i < c->tasks; i++)
        for (int32_t k = 0; k < c->task[i].classes; k++, at++)
            item->label[at] =
                !strcmp(pk_csv_text(t, row, d->task_column[i]), c->task[i].class_name[k]);
    return PK_OK;
}

static enum pk_status add(struct pk_ppg_catalog *c, const struct description *d, const char *folder,
                          const char *name, struct pk_err *err)
{
    char path[PK_PATH_MAX], id[PK_PATH_MAX], subject[256];
    struct pk_ppg_item *item;
    PK_TRY(pk_path(path, err, "%s/%s", folder, name));
    PK_TRY(pk_path(id, err, "%s", name));
    char *dot = strrchr(id, '.'), *slash = strrchr(id, '/');
    if (dot && dot > (slash ? slash : id)) *dot = 0;
    for (char *p = id; *p; p++)
        if (*p == '/') *p = '-';
    PK_TRY(pk_ppg_add_item(c, id, path, &item, err));
    enum pk_status s = pk_ppg_subject(subject, d->subject, name, id, err);
    if (s == PK_EDATA) return pk_ppg_set_problem(item, err);
    return s == PK_OK ? take_subject(c, d, item, subject, err) : s;
}

static void close_description(void *self)
{
    struct description *d = self;
    pk_settings_free(&d->yaml);
    pk_csv_free(&d->subjects);
    free(d);
}

enum pk_status pk_ppg_open_files(struct pk_ppg_catalog *c, const struct pk_ppg_job *job,
                                 struct pk_err *err)
{
    struct description *d;
    struct pk_file_list files = {0};
    struct pk_err local = {0};
    if (!job->description)
        return pk_fail(err, PK_EUSAGE,
                       "the source 'files' needs description=FILE.yaml; docs/ppg.md "
                       "shows one");
    if (job->leads)
        return pk_fail(err, PK_EUSAGE,
                       "leads= is not a setting of this source; the description "
                       "has them");
    PK_TRY(pk_alloc(&d, 1, sizeof *d, "description", err));
    c->self = d;
    c->close = close_description;
    c->read = read;
    enum pk_status s = describe(c, d, job, &local);
    if (s == PK_OK) s = pk_list_files(&files, job->folder, d->files, &local);
    for (int64_t i = 0; i < files.count && s == PK_OK; i++) {
        char path[PK_PATH_MAX];
        s = pk_path(path, &local, "%s/%s", job->folder, files.name[i]);
        // the table of the subjects may match the pattern
        if (s == PK_OK && strcmp(path, d->subjects.path))
            s = add(c, d, job->folder, files.name[i], &local);
    }
    if (s != PK_OK) pk_fail(err, s, "%s", local.message);
    pk_file_list_free(&files);
    return s;
}
