/* rows.c -- choosing records (see rows.h). */
#include "tools/rows.h"

#include <stdlib.h>
#include <string.h>

/* The whole number at *p, which moves behind its digits; 0 for none, and for one above the most. */
static int take_fold(const char **p, int most)
{
    int fold = 0;
    for (; **p >= '0' && **p <= '9' && fold <= most; ++*p) fold = 10 * fold + (**p - '0');
    return fold <= most ? fold : 0;
}

enum pk_status pk_folds_parse(struct pk_folds *out, const char *text, int most, struct pk_err *err)
{
    *out = (struct pk_folds){.all = !text};
    for (const char *part = text; part;) {
        const char *p = part, *end = part + strcspn(part, ",");
        int low = take_fold(&p, most), high = low;
        if (*p == '-') {
            p++;
            high = take_fold(&p, most);
        }
        if (!low || high < low || p != end)
            return pk_fail(err, PK_EUSAGE,
                           "--folds %.80s: '%.*s' is not a fold from 1 to %d, or a range of them; "
                           "give e.g. 9 or 1-8,10",
                           text, (int)PK_MIN(end - part, (ptrdiff_t)20), part, most);
        for (int f = low; f <= high; f++) out->bits[f / 64] |= UINT64_C(1) << f % 64;
        part = *end ? end + 1 : NULL;
    }
    return PK_OK;
}

static bool in_folds(const struct pk_folds *f, int fold)
{
    return f->all || (fold > 0 && fold <= PK_FOLD_MAX && f->bits[fold / 64] >> fold % 64 & 1);
}

bool pk_row_labelled(const struct pk_task *task, int64_t row, bool single)
{
    int labels = 0;
    if (!task) return true;
    for (int32_t c = 0; c < task->classes; c++) labels += task->label[row * task->classes + c];
    return single ? labels == 1 : labels > 0;
}

uint64_t pk_row_subject(const struct pk_dataset *d, int64_t row)
{
    char id[64];
    if (d->record[row].patient) return d->record[row].patient;
    d->record_id(d, row, id);
    return pk_hash64(id, strlen(id), 0);
}

enum pk_status pk_rows_select(struct pk_rows *out, const struct pk_dataset *d,
                              const struct pk_folds *folds, int32_t source,
                              const struct pk_task *task, bool single, struct pk_err *err)
{
    out->count = 0;
    PK_TRY(pk_alloc(&out->row, (size_t)d->count, sizeof *out->row, "row list", err));
    for (int64_t i = 0; i < d->count; i++)
        if (in_folds(folds, d->record[i].fold) && (source < 0 || d->record[i].source == source) &&
            pk_row_labelled(task, i, single))
            out->row[out->count++] = i;
    if (out->count) return PK_OK;
    free(out->row);
    out->row = NULL;
    return pk_fail(err, PK_EDATA,
                   "%s: no record is left (folds%s%s%s); 'purkinje data info' shows what there is",
                   d->name, source < 0 ? "" : ", source", task ? ", labels of task " : "",
                   task ? task->name : "");
}

enum pk_status pk_task_find(const struct pk_task **out, const struct pk_dataset *d,
                            const char *name, struct pk_err *err)
{
    *out = pk_dataset_task(d, name);
    if (*out) return PK_OK;
    struct pk_text have = {0};
    for (int32_t i = 0; i < d->tasks; i++)
        pk_text_add(&have, "%s%s", i ? ", " : "", d->task[i].name);
    enum pk_status s = pk_fail(err, PK_EDATA, "%s has no task '%s'; it has: %s", d->name, name,
                               have.s ? have.s : "none");
    pk_text_free(&have);
    return s;
}
