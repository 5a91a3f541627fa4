/* embeddings.c -- see embeddings.h. */
#include "tools/embeddings.h"
#include "datasets/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct by_id {
    const char *id;
    int64_t row;
};

static int compare_ids(const void *a, const void *b)
{
    return strcmp(((const struct by_id *)a)->id, ((const struct by_id *)b)->id);
}

/* Texts of a file may fill their width: give each a NUL of its own. */
static enum pk_status terminate_ids(struct pk_embeddings *e, struct pk_err *err)
{
    char *with;
    size_t size = (size_t)e->id_size;
    PK_TRY(pk_alloc(&with, (size_t)e->rows, size + 1, "record names", err));
    for (size_t i = 0; i < (size_t)e->rows; i++)
        memcpy(with + i * (size + 1), e->id + i * size, size);
    free(e->id);
    e->id = with;
    e->id_size++;
    return PK_OK;
}

static enum pk_status sort_ids(struct pk_embeddings *e, struct pk_err *err)
{
    struct by_id *list;
    size_t n = (size_t)e->rows;
    enum pk_status s = PK_OK;
    PK_TRY(pk_alloc(&e->order, n, sizeof *e->order, "record names", err));
    PK_TRY(pk_alloc(&list, n, sizeof *list, "record names", err));
    for (size_t i = 0; i < n; i++)
        list[i] = (struct by_id){e->id + i * (size_t)e->id_size, (int64_t)i};
    qsort(list, n, sizeof *list, compare_ids);
    for (size_t i = 0; i < n && s == PK_OK; i++) {
        e->order[i] = list[i].row;
        if (i && !compare_ids(&list[i], &list[i - 1]))
            s = pk_fail(err, PK_EDATA, "%s has record %s twice", e->path, list[i].id);
    }
    free(list);
    return s;
}

static enum pk_status open_file(struct pk_embeddings *e, struct pk_err *err)
{
    int64_t width, none;
    e->file = true;
    PK_TRY(pk_table_read(e->path, "embedding", PK_TABLE_F32, &e->rows, &width, &e->value, err));
    PK_TRY(pk_table_read(e->path, "record_id", PK_TABLE_TEXT, &e->rows, &e->id_size, &e->id, err));
    PK_TRY(pk_table_read(e->path, "patient_id", PK_TABLE_U64, &e->rows, &none, &e->patient, err));
    PK_TRY(pk_table_read_text(e->path, "model", e->made_by, sizeof e->made_by, err));
    PK_TRY(pk_table_read_text(e->path, "weights", e->weights, sizeof e->weights, err));
    PK_TRY(pk_table_read_text(e->path, "data", e->data, sizeof e->data, err));
    PK_TRY(pk_table_read_number(e->path, "rate_hz", &e->rate, err));
    PK_TRY(pk_table_read_number(e->path, "window_s", &e->window, err));
    PK_TRY(pk_table_read_number(e->path, "stride_s", &e->stride, err));
    PK_TRY(pk_table_read_number(e->path, "step", &e->step, err));
    if (width < 1 || none)
        return pk_fail(err, PK_EDATA, "%s: embeddings are no rows of numbers", e->path);
    e->width = (int32_t)width;
    PK_TRY(terminate_ids(e, err));
    return sort_ids(e, err);
}

enum pk_status pk_embeddings_open(struct pk_embeddings *e, const char *path, bool ema,
                                  struct pk_err *err)
{
    size_t n = strlen(path);
    *e = (struct pk_embeddings){.path = path};
    if (n > 3 && !strcmp(path + n - 3, ".h5")) return open_file(e, err);
    PK_TRY(pk_model_open(&e->model.file, path, ema, err));
    snprintf(e->made_by, sizeof e->made_by, "%s", path);
    snprintf(e->weights, sizeof e->weights, "%s", e->model.file.weights);
    e->rate = e->model.file.info.rate;
    e->step = (double)e->model.file.step;
    e->width = e->model.file.info.encoder.width;
    return PK_OK;
}

/* The row of the file that has this id, or -1. */
static int64_t find(const struct pk_embeddings *e, const char *id)
{
    int64_t low = 0, high = e->rows;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(e->id + e->order[middle] * e->id_size, id);
        if (!order) return e->order[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

static enum pk_status from_file(float *out, const struct pk_embeddings *e,
                                const struct pk_dataset *d, const struct pk_rows *rows,
                                struct pk_err *err)
{
    for (int64_t i = 0; i < rows->count; i++) {
        char id[PK_ID_MAX];
        d->record_id(d, rows->row[i], id);
        int64_t at = find(e, id);
        if (at < 0)
            return pk_fail(
                err, PK_EDATA,
                "%s has no embedding of record %s; make it with 'purkinje embed' of this "
                "corpus (%s)",
                e->path, id, d->name);
        if (e->patient[at] != d->record[rows->row[i]].patient)
            return pk_fail(err, PK_EDATA,
                           "record %s is another patient's in %s than in %s; the file was made of "
                           "another corpus",
                           id, e->path, d->name);
        memcpy(out + i * e->width, e->value + at * e->width, (size_t)e->width * sizeof *out);
    }
    return PK_OK;
}

enum pk_status pk_embeddings_get(float **out, struct pk_embeddings *e, const struct pk_dataset *d,
                                 const struct pk_rows *rows, const struct pk_backend *backend,
                                 double window, double stride, struct pk_err *err)
{
    struct pk_model *m = &e->model;
    size_t n = (size_t)rows->count;
    PK_TRY(pk_alloc(out, n, (size_t)e->width * sizeof **out, "embeddings", err));
    if (e->file) return from_file(*out, e, d, rows, err);
    m->backend = backend;
    PK_TRY(pk_model_on(m, d, window, stride, err));
    if (e->random) {
        pk_params_init(&m->params, e->seed, m->exec.weight);
        PK_TRY(pk_exec_push(&m->exec, err));
        snprintf(e->weights, sizeof e->weights, "random");
        e->step = 0;
    }
    e->window = m->eval.window / d->rate;
    e->stride = m->eval.stride / d->rate;
    return pk_evaluate(&m->eval, d, rows, (const double(*)[PK_LEADS_MAX])m->mean,
                       (const double(*)[PK_LEADS_MAX])m->std, NULL, *out, err);
}

void pk_embeddings_close(struct pk_embeddings *e)
{
    if (!e->file) pk_model_free(&e->model);
    free(e->value);
    free(e->id);
    free(e->patient);
    free(e->order);
    *e = (struct pk_embeddings){0};
}
