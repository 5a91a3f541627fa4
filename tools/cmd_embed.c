/* cmd_embed.c -- purkinje embed: what a model makes of every record of a corpus. */
#include "core/json.h"
#include "datasets/corpus.h"
#include "datasets/table.h"
#include "tools/device.h"
#include "tools/model.h"

#include <stdlib.h>
#include <string.h>

struct embedding {
    const char *model_path, *out;
    struct pk_model model;
    struct pk_dataset data;
    struct pk_rows rows;
    double window, stride; // s, as asked for, then as used
    float *value, *logit;  // [rows, width], [rows, classes] or NULL
    char (*id)[PK_ID_MAX]; // [rows]
    int32_t *fold;         // [rows]
    uint64_t *patient;     // [rows]
};

static void release(struct embedding *e)
{
    pk_model_free(&e->model);
    pk_dataset_free(&e->data);
    free(e->rows.row);
    free(e->value);
    free(e->logit);
    free(e->id);
    free(e->fold);
    free(e->patient);
}

static enum pk_status compute(struct embedding *e, struct pk_err *err)
{
    const struct pk_model_info *m = &e->model.file.info;
    size_t n = (size_t)e->rows.count;
    PK_TRY(pk_alloc(&e->value, n, (size_t)m->encoder.width * sizeof *e->value, "embeddings", err));
    if (m->head[0])
        PK_TRY(pk_alloc(&e->logit, n, (size_t)m->classes * sizeof *e->logit, "logits", err));
    PK_TRY(pk_alloc(&e->id, n, sizeof *e->id, "record names", err));
    PK_TRY(pk_alloc(&e->fold, n, sizeof *e->fold, "folds", err));
    PK_TRY(pk_alloc(&e->patient, n, sizeof *e->patient, "patients", err));
    for (size_t i = 0; i < n; i++) {
        const struct pk_record *r = &e->data.record[e->rows.row[i]];
        e->data.record_id(&e->data, e->rows.row[i], e->id[i]);
        e->fold[i] = r->fold;
        e->patient[i] = r->patient;
    }
    e->model.eval.max_sigmoid = false; // the file holds logits, whatever the protocol of the model
    PK_TRY(pk_evaluate(&e->model.eval, &e->data, &e->rows,
                       (const double(*)[PK_LEADS_MAX])e->model.mean,
                       (const double(*)[PK_LEADS_MAX])e->model.std, e->logit, e->value, err));
    struct pk_targets t = {.count = m->regresses ? m->classes : 0};
    memcpy(t.mean, m->target_mean, sizeof t.mean);
    memcpy(t.std, m->target_std, sizeof t.std);
    pk_targets_unscale(e->logit, &t, e->rows.count);
    return PK_OK;
}

static enum pk_status write_table(const struct embedding *e, struct pk_err *err)
{
    const struct pk_model_info *m = &e->model.file.info;
    struct pk_table_column column[] = {
        {"embedding", PK_TABLE_F32, m->encoder.width, e->value, NULL, 0, 0},
        {"record_id", PK_TABLE_TEXT, PK_ID_MAX, e->id, NULL, 0, 0},
        {"fold", PK_TABLE_I32, 0, e->fold, NULL, 0, 0},
        {"patient_id", PK_TABLE_U64, 0, e->patient, NULL, 0, 0},
        {m->regresses ? "predictions" : "logits", PK_TABLE_F32, m->classes, e->logit,
         m->class_name[0], PK_NAME_MAX, m->classes}};
    struct pk_table_attribute attribute[] = {{"written_by", "purkinje " PK_VERSION, 0},
                                             {"model", e->model_path, 0},
                                             {"weights", e->model.file.weights, 0},
                                             {"step", NULL, (double)e->model.file.step},
                                             {"corpus", e->data.name, 0},
                                             {"data", e->data.version, 0},
                                             {"rate_hz", NULL, e->data.rate},
                                             {"window_s", NULL, e->window},
                                             {"stride_s", NULL, e->stride},
                                             {"aggregation", "mean over windows", 0},
                                             {"task", m->head[0] ? m->task : "", 0}};
    int columns = (int)PK_COUNT(column) - (e->logit ? 0 : 1);
    return pk_table_write(e->out, e->rows.count, column, columns, attribute,
                          (int)PK_COUNT(attribute), err);
}

static enum pk_status print(const struct embedding *e, bool json, struct pk_err *err)
{
    const struct pk_model_info *m = &e->model.file.info;
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    if (!json) {
        printf("%s: %lld records, embeddings of %d numbers%s; windows of %g s every %g s\n", e->out,
               (long long)e->rows.count, m->encoder.width,
               m->regresses ? " and predictions"
               : m->head[0] ? " and logits"
                            : "",
               e->window, e->stride);
        return PK_OK;
    }
    pk_json_open(&w, NULL, '{');
    pk_json_put_string(&w, "file", e->out);
    pk_json_put_string(&w, "model", e->model_path);
    pk_json_put_i64(&w, "records", e->rows.count);
    pk_json_put_i64(&w, "width", m->encoder.width);
    pk_json_put_i64(&w, "classes", m->head[0] ? m->classes : 0);
    pk_json_put_f64(&w, "window_s", e->window);
    pk_json_put_f64(&w, "stride_s", e->stride);
    pk_json_close(&w);
    return pk_print(&text, err);
}

static enum pk_status prepare(struct embedding *e, const struct pk_args *a, struct pk_err *err)
{
    struct pk_folds folds;
    const char *weights = pk_arg(a, "weights");
    bool ema = !weights || !strcmp(weights, "ema");
    if (weights && !ema && strcmp(weights, "online"))
        return pk_fail(err, PK_EUSAGE, "--weights %s: it is ema or online", weights);
    PK_TRY(pk_arg_f64(a, "window", 1e-3, 86400, &e->window, err));
    PK_TRY(pk_arg_f64(a, "stride", 1e-3, 86400, &e->stride, err));
    PK_TRY(pk_folds_parse(&folds, pk_arg(a, "folds"), PK_FOLD_MAX, err));
    PK_TRY(pk_model_open(&e->model.file, e->model_path, ema, err));
    PK_TRY(pk_dataset_named(&e->data, a->word[1], e->model.file.info.rate, err));
    PK_TRY(pk_rows_select(&e->rows, &e->data, &folds, -1, NULL, false, err));
    return pk_device_choose(pk_arg(a, "device"), &e->model.backend, err);
}

/* Of several ranks each its share; all get all of them. */
static enum pk_status embed(struct embedding *e, const struct pk_args *a, struct pk_job *job,
                            struct pk_err *err)
{
    PK_TRY(pk_comm_agree(job->comm, prepare(e, a, err), err));
    pk_model_share(&e->model, job);
    PK_TRY(pk_model_on(&e->model, &e->data, e->window, e->stride, err));
    e->window = e->model.eval.window / e->data.rate;
    e->stride = e->model.eval.stride / e->data.rate;
    return compute(e, err);
}

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    struct embedding *e;
    struct pk_job job;
    if (a->count != 3)
        return pk_fail(err, PK_EUSAGE, "embed needs a model, a corpus and a file to write");
    PK_TRY(pk_alloc(&e, 1, sizeof *e, "embedding", err));
    e->model_path = a->word[0];
    e->out = a->word[2];
    enum pk_status s = pk_world_open_command(&job, a, err);
    if (s == PK_OK) s = pk_world_close(&job, embed(e, a, &job, err), err);
    if (s == PK_OK && job.launch.rank == 0) s = write_table(e, err);
    if (s == PK_OK && job.launch.rank == 0) s = print(e, pk_arg(a, "json") != NULL, err);
    release(e);
    free(e);
    return s;
}

static const struct pk_option options[] = {
    {"window", "S", "seconds of a window; the model's own unless told"},
    {"stride", "S", "seconds from one window to the next; the model's own unless told"},
    {"folds", "LIST", "only records of these folds, e.g. 1,2"},
    {"weights", "WHICH", "of a pretraining run: the ema encoder (unless told) or the online one"},
    {"json", NULL, "print what was written as JSON"},
    PK_OPTION_DEVICE,
    {0}};

static const struct pk_example examples[] = {
    {"embed runs/demo synthetic:40 embeddings.h5", "40 generated records through the demo encoder"},
    {"embed runs/probe demo probe.h5 --folds 9,10 --window 2.5 --stride 1.25 --json",
     "embeddings and logits of two folds of a corpus"},
    {0}};

const struct pk_command pk_cmd_embed = {
    .name = "embed",
    .synopsis = "MODEL CORPUS OUT.h5",
    .summary = "embeddings (and logits) of the records of a corpus",
    .details =
        "MODEL is a run, a checkpoint or an exported folder; CORPUS a folder, or synthetic:N. The\n"
        "file holds embedding [n, width] (patch tokens, averaged over positions and windows),\n"
        "record_id, fold, patient_id and, of a classifier, logits [n, classes] (mean of the\n"
        "windows), all in the corpus's order; its attributes name model, data and windows.\n"
        "Ranks (purkinje launch, srun, mpirun ...) share out the records; rank 0 writes the file.",
    .options = options,
    .examples = examples,
    .run = run};
