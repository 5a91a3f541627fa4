/* ppg_catalog.c -- what the sources of PPG recordings share (see ppg_import.h). */
#include "datasets/numbers.h"
#include "datasets/ppg_import.h"

#include <dirent.h>
#include <fnmatch.h>
#include <math.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { DEPTH_MAX = 8, FILES_MAX = 10000000 };

const struct pk_ppg_source pk_ppg_sources[] = {
    {"bidmc", "BIDMC PPG and Respiration, CSV (bidmc_NN_Signals.csv): PPG, II, heart rate, SpO2",
     pk_ppg_open_bidmc},
    {"ppg-bp", "PPG-BP (Liang et al. 2018): segments of text, subjects.csv: blood pressure",
     pk_ppg_open_ppgbp},
    {"e4", "Empatica E4 sessions (BVP.csv, HR.csv), one folder each", pk_ppg_open_e4},
    {"wfdb", "WFDB records below DIR that hold PPG (PLETH) or ECG leads", pk_ppg_open_wfdb},
    {"files", "your own CSV or NPY files, described by a YAML file (description=FILE)",
     pk_ppg_open_files},
    {0}};

enum pk_status pk_ppg_add_item(struct pk_ppg_catalog *c, const char *id, const char *path,
                               struct pk_ppg_item **out, struct pk_err *err)
{
    PK_TRY(pk_grow(&c->item, &c->capacity,
                   c->count + 1 > c->capacity ? 2 * c->count + 16 : c->count, sizeof *c->item,
                   "recordings", err));
    struct pk_ppg_item *item = &c->item[c->count];
    *item = (struct pk_ppg_item){0};
    for (int k = 0; k < PK_TARGETS_MAX; k++) item->target[k] = NAN;
    // room for "_00000"
    if (strlen(id) + 8 > sizeof item->id)
        return pk_fail(err, PK_EDATA, "%s: its name is longer than %d bytes", path, PK_ID_MAX - 8);
    snprintf(item->id, sizeof item->id, "%s", id);
    item->path = pk_strdup(path);
    if (!item->path) return pk_fail(err, PK_ENOMEM, "out of memory: recordings");
    c->count++;
    *out = item;
    return PK_OK;
}

void pk_ppg_catalog_free(struct pk_ppg_catalog *c)
{
    if (c->close) c->close(c->self);
    for (int32_t t = 0; t < c->tasks; t++) free(c->task[t].class_name);
    for (int64_t i = 0; i < c->count; i++) {
        free(c->item[i].path);
        free(c->item[i].label);
        free(c->item[i].statements);
        free(c->item[i].problem);
    }
    free(c->task);
    free(c->item);
}

enum pk_status pk_ppg_set_problem(struct pk_ppg_item *item, struct pk_err *err)
{
    free(item->problem);
    item->problem = pk_strdup(err->message);
    return item->problem ? PK_OK : pk_fail(err, PK_ENOMEM, "out of memory: recordings");
}

enum pk_status pk_ppg_subject(char out[256], const char *expression, const char *path,
                              const char *fallback, struct pk_err *err)
{
    regmatch_t at[2];
    regex_t re;
    char why[200];
    if (!expression) {
        snprintf(out, 256, "%s", fallback);
        return PK_OK;
    }
    int code = regcomp(&re, expression, REG_EXTENDED);
    if (code) {
        regerror(code, &re, why, sizeof why);
        return pk_fail(err, PK_EUSAGE, "subject=%s is no regular expression: %s", expression, why);
    }
    code = regexec(&re, path, 2, at, 0);
    bool group = re.re_nsub > 0;
    regfree(&re);
    if (code || (group && at[1].rm_so < 0))
        return pk_fail(err, PK_EDATA, "the expression for the subject, %s, is not in '%s'",
                       expression, path);
    regmatch_t m = at[group];
    snprintf(out, 256, "%.*s", (int)(m.rm_eo - m.rm_so), path + m.rm_so);
    return PK_OK;
}

enum pk_status pk_ppg_check_times(const struct pk_numbers *n, int32_t column, bool strict,
                                  struct pk_err *err)
{
    const double *t = n->value[column];
    for (int64_t i = 0; i < n->rows; i++) {
        if (isnan(t[i])) return pk_fail(err, PK_EDATA, "%s:%d: no time", n->path, n->line[i]);
        if (i == 0 || t[i] > t[i - 1] || (!strict && t[i] == t[i - 1])) continue;
        if (t[i] == t[i - 1])
            return pk_fail(err, PK_EDATA, "%s:%d: time %.10g is in line %d already", n->path,
                           n->line[i], t[i], n->line[i - 1]);
        return pk_fail(err, PK_EDATA, "%s:%d: time goes backwards, from %.10g to %.10g", n->path,
                       n->line[i], t[i - 1], t[i]);
    }
    return PK_OK;
}

/* Index in `known` of the pair "NAME=source name" of a lead, or -1. */
static int32_t known_lead(const char *const *known, const char *name, size_t n)
{
    for (int32_t i = 0; known[i]; i++)
        if (strcspn(known[i], "=") == n && !strncasecmp(known[i], name, n)) return i;
    return -1;
}

enum pk_status pk_ppg_choose_leads(struct pk_ppg_catalog *c, const char *leads,
                                   const char *fallback, const char *const *known,
                                   struct pk_err *err)
{
    c->leads = 0;
    for (const char *p = leads ? leads : fallback; p;) {
        size_t n = strcspn(p, ",");
        int32_t k = known_lead(known, p, n);
        if (k < 0) {
            struct pk_text have = {0};
            for (int32_t i = 0; known[i]; i++)
                pk_text_add(&have, "%s%.*s", i ? ", " : "", (int)strcspn(known[i], "="), known[i]);
            enum pk_status s =
                pk_fail(err, PK_EUSAGE,
                        "leads=%s: this source has no lead '%.*s'; "
                        "it has %s",
                        leads, (int)PK_MIN(n, (size_t)40), p, have.s ? have.s : "none");
            pk_text_free(&have);
            return s;
        }
        int32_t l = c->leads;
        if (l == PK_LEADS_MAX)
            return pk_fail(err, PK_EUSAGE, "leads=%s: more than %d leads", leads, PK_LEADS_MAX);
        const char *equal = strchr(known[k], '=');
        snprintf(c->lead_name[l], sizeof c->lead_name[l], "%.*s", (int)(equal - known[k]),
                 known[k]);
        snprintf(c->lead_source[l], sizeof c->lead_source[l], "%s", equal + 1);
        for (int32_t i = 0; i < l; i++)
            if (!strcmp(c->lead_name[i], c->lead_name[l]))
                return pk_fail(err, PK_EUSAGE, "leads=%s: lead %s twice", leads, c->lead_name[l]);
        c->lead_ecg[l] = strncmp(c->lead_name[l], "PPG", 3) != 0;
        c->leads++;
        p = p[n] ? p + n + 1 : NULL;
    }
    return PK_OK;
}

enum pk_status pk_ppg_add_task(struct pk_ppg_catalog *c, const char *name, int32_t classes,
                               const char *const *class_name, struct pk_err *err)
{
    int64_t capacity = c->tasks;
    PK_TRY(pk_grow(&c->task, &capacity, c->tasks + 1, sizeof *c->task, "tasks", err));
    struct pk_task *t = &c->task[c->tasks];
    *t = (struct pk_task){.classes = classes};
    snprintf(t->name, sizeof t->name, "%s", name);
    PK_TRY(pk_alloc(&t->class_name, (size_t)classes, PK_NAME_MAX, "class names", err));
    for (int32_t k = 0; k < classes; k++)
        snprintf(t->class_name[k], PK_NAME_MAX, "%s", class_name[k]);
    c->tasks++;
    return PK_OK;
}

enum pk_status pk_ppg_add_channel(const struct pk_ppg_catalog *c, struct pk_recording *r,
                                  int32_t lead, double rate, double *x, int64_t n,
                                  struct pk_err *err)
{
    for (int32_t i = 0; i < r->channels; i++)
        if (r->channel[i].lead == lead) {
            free(x);
            return pk_fail(err, PK_EDATA, "two signals are lead %s", c->lead_name[lead]);
        }
    r->channel[r->channels++] =
        (struct pk_channel){.lead = lead, .ecg = c->lead_ecg[lead], .rate = rate, .x = x, .n = n};
    return PK_OK;
}

enum pk_status pk_ppg_add_series(struct pk_recording *r, int32_t target, double start, double rate,
                                 double *x, int64_t n, struct pk_err *err)
{
    if (r->series == PK_TARGETS_MAX) {
        free(x);
        return pk_fail(err, PK_EDATA, "more than %d series", PK_TARGETS_MAX);
    }
    r->serie[r->series++] =
        (struct pk_series){.target = target, .start = start, .rate = rate, .x = x, .n = n};
    return PK_OK;
}

/* ---- files ---- */

static enum pk_status add_name(struct pk_file_list *l, const char *name, struct pk_err *err)
{
    if (l->count == FILES_MAX) return pk_fail(err, PK_EDATA, "more than %d files", FILES_MAX);
    if (l->count == l->capacity)
        PK_TRY(pk_grow(&l->name, &l->capacity, 2 * l->count + 64, sizeof *l->name, "files", err));
    l->name[l->count] = pk_strdup(name);
    if (!l->name[l->count]) return pk_fail(err, PK_ENOMEM, "out of memory: files");
    l->count++;
    return PK_OK;
}

static enum pk_status list_folder(struct pk_file_list *l, const char *folder, const char *inside,
                                  const char *pattern, int depth, struct pk_err *err)
{
    char path[PK_PATH_MAX], name[PK_PATH_MAX];
    enum pk_status s = PK_OK;
    struct stat st;
    PK_TRY(pk_path(path, err, "%s%s%s", folder, *inside ? "/" : "", inside));
    DIR *d = opendir(path);
    if (!d) return pk_fail_errno(err, PK_EIO, "cannot read the folder %s", path);
    for (struct dirent *e; s == PK_OK && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        s = pk_path(name, err, "%s%s%s", inside, *inside ? "/" : "", e->d_name);
        if (s == PK_OK) s = pk_path(path, err, "%s/%s", folder, name);
        if (s != PK_OK || stat(path, &st) != 0) continue; // a link to nowhere
        if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX)
            s = list_folder(l, folder, name, pattern, depth + 1, err);
        else if (S_ISREG(st.st_mode) &&
                 !fnmatch(pattern, strchr(pattern, '/') ? name : e->d_name, 0))
            s = add_name(l, name, err);
    }
    closedir(d);
    return s;
}

static int by_name(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

enum pk_status pk_list_files(struct pk_file_list *out, const char *folder, const char *pattern,
                             struct pk_err *err)
{
    *out = (struct pk_file_list){0};
    enum pk_status s = list_folder(out, folder, "", pattern, 0, err);
    if (s == PK_OK && out->count) qsort(out->name, (size_t)out->count, sizeof *out->name, by_name);
    if (s != PK_OK) pk_file_list_free(out);
    return s;
}

void pk_file_list_free(struct pk_file_list *l)
{
    for (int64_t i = 0; i < l->count; i++) free(l->name[i]);
    free(l->name);
    *l = (struct pk_file_list){0};
}
