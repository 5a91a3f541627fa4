/* ppg_e4.c -- Empatica E4 sessions: a folder with BVP.csv and, usually, HR.csv.
 *
 * One column: the first line is the start (Unix time, s), the second the rate (Hz), then one sample
 * a line. HR.csv has the same form, starts about 10 s later, and becomes the target hr. A recording
 * is named after its folder below DIR; its subject is the first folder of that path, unless
 * subject=EXPRESSION says otherwise. */
#include "datasets/numbers.h"
#include "datasets/ppg_import.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One file: *x [*n] is owned by the caller. */
static enum pk_status read_stream(const char *path, double *start, double *rate, double **x,
                                  int64_t *count, struct pk_err *err)
{
    static const char *const first[] = {"1"};
    const struct pk_numbers_spec spec = {.delimiter = ',', .columns = 1, .column = first};
    struct pk_numbers n;
    enum pk_status s = PK_OK;
    *x = NULL;
    PK_TRY(pk_numbers_load(&n, path, &spec, err));
    *start = n.value[0][0];
    *rate = n.rows > 1 ? n.value[0][1] : NAN;
    *count = n.rows - 2;
    if (!(*start > 0 && *start < 1e11))
        s = pk_fail(err, PK_EDATA, "%s:1: start time %.15g; seconds since 1970 were expected", path,
                    *start);
    else if (!(*rate >= 0.1 && *rate <= 1000))
        s = pk_fail(err, PK_EDATA, "%s:2: rate %g Hz; 0.1 to 1000 were expected", path, *rate);
    else if (*count < 1)
        s = pk_fail(err, PK_EDATA, "%s has no samples after start time and rate", path);
    if (s == PK_OK) {
        *x = n.value[0];
        n.value[0] = NULL;
        memmove(*x, *x + 2, (size_t)*count * sizeof **x);
    }
    pk_numbers_free(&n);
    return s;
}

static enum pk_status read(const struct pk_ppg_catalog *c, const struct pk_ppg_item *item,
                           struct pk_recording *out, struct pk_err *err)
{
    char folder[PK_PATH_MAX], path[PK_PATH_MAX];
    double start, hr_start, rate, *x;
    int64_t n;
    PK_TRY(read_stream(item->path, &start, &rate, &x, &n, err));
    PK_TRY(pk_ppg_add_channel(c, out, 0, rate, x, n, err));
    PK_TRY(pk_parent(folder, item->path, err));
    PK_TRY(pk_path(path, err, "%s/HR.csv", folder));
    if (!pk_exists(path)) return PK_OK;
    PK_TRY(read_stream(path, &hr_start, &rate, &x, &n, err));
    if (fabs(hr_start - start) <= 86400)
        return pk_ppg_add_series(out, 0, hr_start - start, rate, x, n, err);
    free(x);
    return pk_fail(err, PK_EDATA, "%s:1: starts %g s from BVP.csv: not of this session", path,
                   hr_start - start);
}

static enum pk_status add(struct pk_ppg_catalog *c, const struct pk_ppg_job *job, const char *name,
                          struct pk_err *err)
{
    char path[PK_PATH_MAX], id[PK_PATH_MAX], subject[256];
    struct pk_ppg_item *item;
    PK_TRY(pk_path(path, err, "%s/%s", job->folder, name));
    const char *slash = strrchr(name, '/');
    if (slash) {
        PK_TRY(pk_path(id, err, "%.*s", (int)(slash - name), name));
    } else { // DIR is the session
        char whole[PK_PATH_MAX], *real = realpath(job->folder, NULL);
        enum pk_status s = pk_path(whole, err, "%s", real ? real : job->folder);
        free(real);
        if (s != PK_OK) return s;
        const char *last = strrchr(whole, '/');
        PK_TRY(pk_path(id, err, "%s", last && last[1] ? last + 1 : whole));
    }
    char first[256];
    snprintf(first, sizeof first, "%.*s", (int)PK_MIN(strcspn(id, "/"), sizeof first - 1), id);
    for (char *p = id; *p; p++)
        if (*p == '/') *p = '-';
    PK_TRY(pk_ppg_add_item(c, id, path, &item, err));
    enum pk_status s = pk_ppg_subject(subject, job->subject, name, first, err);
    if (s == PK_EDATA) return pk_ppg_set_problem(item, err);
    if (s == PK_OK) item->patient = pk_subject_hash(c->name, subject);
    return s;
}

enum pk_status pk_ppg_open_e4(struct pk_ppg_catalog *c, const struct pk_ppg_job *job,
                              struct pk_err *err)
{
    static const char *const known[] = {"PPG=BVP", NULL};
    struct pk_file_list files;
    struct pk_err local = {0};
    snprintf(c->name, sizeof c->name, "empatica-e4");
    snprintf(c->version, sizeof c->version, "Empatica E4 sessions");
    c->rate = 64;
    c->window = 10;
    c->targets = 1;
    snprintf(c->target_name[0], PK_NAME_MAX, "hr");
    c->read = read;
    PK_TRY(pk_ppg_choose_leads(c, job->leads, "PPG", known, err));
    PK_TRY(pk_list_files(&files, job->folder, "BVP.csv", err));
    enum pk_status s = PK_OK;
    for (int64_t i = 0; i < files.count && s == PK_OK; i++) s = add(c, job, files.name[i], &local);
    if (s != PK_OK) pk_fail(err, s, "%s", local.message);
    pk_file_list_free(&files);
    return s;
}
