/* model.c -- stored models, opened (see model.h). */
#include "tools/model.h"
#include "core/sink.h"
#include "datasets/corpus.h"
#include "datasets/synth.h"
#include "tools/device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum pk_status pk_model_net(struct pk_classifier *out, const struct pk_model_info *m,
                            const struct pk_batch_shape *shape, struct pk_err *err)
{
    *out = (struct pk_classifier){.head = PK_HEAD_NONE,
                                  .classes = m->classes,
                                  .hidden = m->hidden,
                                  .softmax = !strcmp(m->loss, "softmax"),
                                  .encoder = m->encoder,
                                  .signal = {.shape = *shape, .patch = m->patch, .clip = m->clip}};
    if (m->head[0]) PK_TRY(pk_head_parse(&out->head, m->head, err));
    if (fabs(m->rate - shape->rate) > 1e-9)
        return pk_fail(err, PK_EDATA,
                       "the model works at %g Hz, the data has %g Hz; import it at %g Hz", m->rate,
                       shape->rate, m->rate);
    if (shape->samples < m->patch || shape->samples % m->patch)
        return pk_fail(err, PK_EINVAL,
                       "a window of %d samples is not a whole number of the model's patches of %d",
                       shape->samples, m->patch);
    out->signal.tokens = shape->samples / m->patch;
    if (pk_encoder_convolves(&m->encoder)) return pk_model_info_leads(&out->signal, m, err);
    const enum pk_tokenise tokenise = m->encoder.vit.tokenise;
    if (tokenise == PK_TOKENISE_LEAD && out->signal.tokens != 1)
        return pk_fail(err, PK_EINVAL,
                       "the model's tokens are whole leads of %d samples; a window has %d",
                       m->patch, shape->samples);
    out->signal.layout = pk_token_layout(tokenise);
    out->encoder.vit.tokens = out->signal.tokens;
    return pk_model_info_leads(&out->signal, m, err);
}

/* The part of a file that the model is: a pretraining checkpoint also holds a predictor. */
static const char *part_of(const struct pk_model_info *m)
{
    return m->head[0] ? "" : "encoder.";
}

enum pk_status pk_model_load(struct pk_model *m, const char *path, bool ema, float **weight,
                             struct pk_err *err)
{
    memset(m, 0, sizeof *m);
    *weight = NULL;
    PK_TRY(pk_model_open(&m->file, path, ema, err));
    const struct pk_model_info *info = &m->file.info;
    struct pk_prog prog = {0};
    struct pk_batch_shape shape = {
        .leads = info->leads, .samples = info->tokens * info->patch, .rate = info->rate};
    memcpy(shape.lead_name, info->lead_name, sizeof shape.lead_name);
    enum pk_status s = pk_model_net(&m->net, info, &shape, err);
    if (s == PK_OK) s = pk_classifier_build(&prog, &m->params, &m->net, 1, false, err);
    pk_prog_free(&prog);
    if (s == PK_OK)
        s = pk_alloc(weight, (size_t)m->params.elements, sizeof **weight, "weights", err);
    if (s == PK_OK) s = pk_model_read(&m->file, &m->params, part_of(info), *weight, err);
    if (s == PK_OK) return PK_OK;
    free(*weight);
    *weight = NULL;
    pk_model_free(m);
    return s;
}

/* The model's own statistics, whatever the source of the records. */
static enum pk_status take_statistics(struct pk_model *m, const struct pk_dataset *d,
                                      struct pk_err *err)
{
    size_t n = (size_t)PK_MAX(d->sources, 1);
    PK_TRY(pk_alloc(&m->mean, n, sizeof *m->mean, "means", err));
    PK_TRY(pk_alloc(&m->std, n, sizeof *m->std, "deviations", err));
    for (size_t k = 0; k < n; k++) {
        for (int32_t l = 0; l < PK_LEADS_MAX; l++) m->std[k][l] = 1;
        for (int32_t i = 0; i < m->net.signal.leads; i++) {
            m->mean[k][m->net.signal.lead[i]] = m->file.info.mean[i];
            m->std[k][m->net.signal.lead[i]] = m->file.info.std[i];
        }
    }
    return PK_OK;
}

void pk_model_share(struct pk_model *m, const struct pk_job *job)
{
    m->comm = job->comm->size > 1 ? job->comm : NULL;
    m->eval.comm = m->comm;
    m->eval.heartbeat = job->heartbeat;
}

/* Else ranks would put scores of different things together. */
static enum pk_status check_ranks(const struct pk_model *m, const struct pk_dataset *d,
                                  struct pk_err *err)
{
    struct pk_xxh64 weights, data;
    pk_xxh64_start(&weights);
    pk_xxh64_add(&weights, m->exec.weight, (size_t)m->params.elements * sizeof(float));
    pk_xxh64_start(&data);
    pk_xxh64_add(&data, d->version, strlen(d->version));
    PK_TRY(pk_comm_same(m->comm, pk_xxh64_value(&weights), "weights of the model", err));
    return pk_comm_same(m->comm, pk_xxh64_value(&data), "data", err);
}

static enum pk_status model_on(struct pk_model *m, const struct pk_dataset *d, double window,
                               double stride, struct pk_err *err)
{
    const struct pk_model_info *info = &m->file.info;
    double own = info->head[0] ? info->window : info->tokens * info->patch / info->rate;
    if (stride <= 0) stride = window > 0 ? window : info->head[0] ? info->stride : own;
    if (window <= 0) window = own;
    if (!(window * d->rate <= d->samples + 0.5) || !(stride * d->rate >= 0.5))
        return pk_fail(err, PK_EDATA, "windows of %g s every %g s do not fit records of %g s",
                       window, stride, d->samples / d->rate);
    m->eval.window = (int32_t)lround(window * d->rate);
    m->eval.stride = (int32_t)lround(fmin(stride * d->rate, d->samples));
    m->eval.max_sigmoid = !strcmp(info->aggregation, "max_sigmoid");
    struct pk_batch_shape shape = {.leads = d->leads, .samples = m->eval.window, .rate = d->rate};
    memcpy(shape.lead_name, d->lead_name, sizeof shape.lead_name);
    PK_TRY(pk_model_net(&m->net, info, &shape, err));
    PK_TRY(take_statistics(m, d, err));
    struct pk_prog first = {0}; // parameters must be known before there are arenas
    enum pk_status s = pk_classifier_build(&first, &m->params, &m->net, PK_EVAL_MICRO, false, err);
    pk_prog_free(&first);
    PK_TRY(s);
    PK_TRY(pk_exec_create(
        &m->exec,
        &(struct pk_exec_spec){.params = &m->params, .backend = m->backend, .comm = m->comm}, err));
    PK_TRY(pk_evaluator_open(&m->eval, &m->exec, &m->params, &m->net, err));
    PK_TRY(pk_model_read(&m->file, &m->params, part_of(info), m->exec.weight, err));
    return pk_exec_push(&m->exec, err);
}

enum pk_status pk_model_on(struct pk_model *m, const struct pk_dataset *data, double window,
                           double stride, struct pk_err *err)
{
    if (!m->comm) return model_on(m, data, window, stride, err);
    PK_TRY(pk_device_alike(m->backend, m->comm, err));
    PK_TRY(pk_comm_agree(m->comm, model_on(m, data, window, stride, err), err));
    return check_ranks(m, data, err);
}

void pk_model_free(struct pk_model *m)
{
    pk_evaluator_close(&m->eval);
    pk_exec_free(&m->exec);
    pk_params_free(&m->params);
    free(m->mean);
    free(m->std);
    pk_model_close(&m->file);
    memset(m, 0, sizeof *m);
}

enum pk_status pk_dataset_named(struct pk_dataset *out, const char *name, double rate,
                                struct pk_err *err)
{
    int64_t records;
    if (strncmp(name, "synthetic:", 10)) return pk_corpus_open(out, name, err);
    if (!pk_parse_i64(name + 10, &records) || records < 1 || records > 10000000)
        return pk_fail(err, PK_EUSAGE, "'%s': synthetic:N needs a number of records, 1 to 10000000",
                       name);
    struct pk_synth_spec s = {.records = records, .rate = rate, .seconds = 10, .threads = 2};
    return pk_synth_open(out, &s, err);
}
