/* model_info.c -- model descriptions as JSON (see model_info.h). */
#include "tools/model_info.h"

#include <math.h>
#include <string.h>

static void write_head(struct pk_json_writer *w, const struct pk_model_info *m)
{
    pk_json_open(w, "head", '{');
    pk_json_put_string(w, "kind", m->head);
    if (!strcmp(m->head, "concat_pool")) pk_json_put_i64(w, "hidden", m->hidden);
    if (!m->regresses) pk_json_put_string(w, "task", m->task);
    pk_json_put_string(w, "loss", m->loss);
    if (!m->regresses) pk_json_put_bool(w, "single_label", m->single_label);
    pk_json_put_f64(w, "window_s", m->window);
    pk_json_put_f64(w, "stride_s", m->stride);
    pk_json_put_string(w, "aggregation", m->aggregation);
    pk_json_open(w, m->regresses ? "targets" : "classes", '[');
    for (int32_t i = 0; i < m->classes; i++) pk_json_put_string(w, NULL, m->class_name[i]);
    pk_json_close(w);
    if (m->regresses) { // target = output * std + mean
        pk_json_put_f64s(w, "target_mean", m->target_mean, m->classes);
        pk_json_put_f64s(w, "target_std", m->target_std, m->classes);
    }
    pk_json_close(w);
}

static void write_encoder(struct pk_json_writer *w, const struct pk_model_info *m)
{
    const struct pk_encoder *e = &m->encoder;
    pk_json_put_string(w, "kind", pk_encoder_name(e->kind));
    pk_json_put_i64(w, "width", e->width);
    if (pk_encoder_convolves(e)) {
        pk_json_put_i64(w, "channels", e->channels);
        return;
    }
    pk_json_put_i64(w, "depth", e->vit.depth);
    pk_json_put_i64(w, "heads", e->vit.heads);
    pk_json_put_i64(w, "mlp_ratio", e->vit.mlp_ratio);
    pk_json_put_i64(w, "registers", m->registers);
    pk_json_put_string(w, "tokenisation", pk_tokenise_name(e->vit.tokenise));
    pk_json_put_bool(w, "qkv_bias", e->vit.qkv_bias);
    pk_json_put_f64(w, "layer_norm_eps", (double)e->vit.eps);
}

void pk_model_info_write(struct pk_json_writer *w, const char *key, const struct pk_model_info *m)
{
    pk_json_open(w, key, '{');
    pk_json_put_string(w, "format", "purkinje");
    pk_json_put_i64(w, "schema", 1);
    pk_json_put_string(w, "version", PK_VERSION);
    pk_json_put_string(w, "objective", m->objective);
    pk_json_open(w, "encoder", '{');
    write_encoder(w, m);
    pk_json_put_i64(w, "patch_samples", m->patch);
    pk_json_put_i64(w, "tokens", m->tokens);
    pk_json_close(w);
    pk_json_open(w, "input", '{');
    pk_json_put_f64(w, "rate_hz", m->rate);
    pk_json_open(w, "leads", '[');
    for (int32_t i = 0; i < m->leads; i++) pk_json_put_string(w, NULL, m->lead_name[i]);
    pk_json_close(w);
    pk_json_put_string(w, "units", m->units);
    pk_json_put_f64s(w, "mean", m->mean, m->leads);
    pk_json_put_f64s(w, "std", m->std, m->leads);
    pk_json_put_string(w, "statistics_of", m->source);
    pk_json_put_f64(w, "clip", (double)m->clip);
    pk_json_put_string(w, "data", m->data);
    pk_json_put_string(w, "preprocessing", m->preprocessing);
    pk_json_close(w);
    if (m->head[0]) write_head(w, m);
    pk_json_close(w);
}

static bool read_numbers(double *out, const struct pk_json *a, int32_t n)
{
    if (!a || a->count != n) return false;
    for (int32_t i = 0; i < n; i++) {
        if (a->item[i].kind != PK_JSON_NUMBER) return false;
        out[i] = a->item[i].number;
    }
    return true;
}

static bool read_names(char *out, size_t size, int32_t most, int32_t *count,
                       const struct pk_json *a)
{
    if (!a || a->kind != PK_JSON_ARRAY || a->count > most) return false;
    for (int64_t i = 0; i < a->count; i++) {
        if (a->item[i].kind != PK_JSON_STRING) return false;
        snprintf(out + (size_t)i * size, size, "%s", a->item[i].string);
    }
    *count = (int32_t)a->count;
    return true;
}

/* Values that a signal is divided by, or that lengths are made of. */
static bool positive(const double *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (!(x[i] > 0 && x[i] < 1e9)) return false;
    return true;
}

static bool read_input(struct pk_model_info *m, const struct pk_json *j)
{
    m->rate = pk_json_f64(j, "rate_hz", 0);
    m->clip = (float)pk_json_f64(j, "clip", 5);
    snprintf(m->source, sizeof m->source, "%s", pk_json_string(j, "statistics_of", ""));
    snprintf(m->data, sizeof m->data, "%s", pk_json_string(j, "data", ""));
    snprintf(m->preprocessing, sizeof m->preprocessing, "%s",
             pk_json_string(j, "preprocessing", ""));
    snprintf(m->units, sizeof m->units, "%s", pk_json_string(j, "units", "mV"));
    return m->rate > 0 && m->rate <= 1e6 && m->clip > 0 &&
           read_names(m->lead_name[0], sizeof m->lead_name[0], PK_LEADS_MAX, &m->leads,
                      pk_json_get(j, "leads")) &&
           read_numbers(m->mean, pk_json_get(j, "mean"), m->leads) &&
           read_numbers(m->std, pk_json_get(j, "std"), m->leads) && m->leads > 0 &&
           positive(m->std, m->leads);
}

/* A member that must lie within [low, high]; -1, which no range holds, where it does not. */
static int32_t bounded(const struct pk_json *j, const char *key, int64_t fallback, int64_t low,
                       int64_t high)
{
    int64_t v = pk_json_i64(j, key, fallback);
    return v < low || v > high ? -1 : (int32_t)v;
}

/* The bounds are far above any model there is; they keep a damaged file from asking for terabytes.
 */
static bool read_vit(struct pk_model_info *m, const struct pk_json *j)
{
    struct pk_vit *v = &m->encoder.vit;
    v->width = m->encoder.width;
    v->depth = bounded(j, "depth", 0, 1, 1024);
    v->heads = bounded(j, "heads", 0, 1, 1024);
    v->mlp_ratio = bounded(j, "mlp_ratio", 4, 1, 64);
    v->eps = (float)pk_json_f64(j, "layer_norm_eps", 1e-6);
    v->tokenise = pk_tokenise_named(pk_json_string(j, "tokenisation", "register"));
    const struct pk_json *bias = pk_json_get(j, "qkv_bias");
    v->qkv_bias = bias && bias->boolean;
    v->tokens = m->tokens;
    const bool front = v->tokenise == PK_TOKENISE_REGISTER;
    m->registers = bounded(j, "registers", front, front, front);
    return v->width > 0 && v->depth > 0 && v->heads > 0 && v->width % v->heads == 0 &&
           v->mlp_ratio > 0 && v->eps > 0 && m->registers >= 0 && v->tokenise < PK_TOKENISE_COUNT;
}

static bool read_encoder(struct pk_model_info *m, const struct pk_json *j)
{
    const enum pk_encoder_kind kind = pk_encoder_named(pk_json_string(j, "kind", ""));
    const int32_t width = bounded(j, "width", 0, 2, 1 << 16);
    m->patch = bounded(j, "patch_samples", 0, 1, 1 << 20);
    m->tokens = bounded(j, "tokens", 0, 1, 1 << 20);
    if (kind == PK_ENCODER_KINDS || width < 0 || m->patch < 0 || m->tokens < 0) return false;
    m->encoder = (struct pk_encoder){.kind = kind, .width = width};
    if (!pk_encoder_convolves(&m->encoder)) return read_vit(m, j);
    struct pk_err why;
    const int32_t channels = bounded(j, "channels", 0, 0, 1 << 14);
    return channels >= 0 && m->patch == 1 &&
           pk_encoder_convolution(&m->encoder, kind, channels, &why) == PK_OK &&
           m->encoder.width == width;
}

static bool read_targets(struct pk_model_info *m, const struct pk_json *head)
{
    m->regresses = true;
    return read_names(m->class_name[0], sizeof m->class_name[0], PK_LEARNED_TARGETS_MAX,
                      &m->classes, pk_json_get(head, "targets")) &&
           m->classes > 0 &&
           read_numbers(m->target_mean, pk_json_get(head, "target_mean"), m->classes) &&
           read_numbers(m->target_std, pk_json_get(head, "target_std"), m->classes) &&
           positive(m->target_std, m->classes);
}

static bool read_head(struct pk_model_info *m, const struct pk_json *head)
{
    const struct pk_json *single = pk_json_get(head, "single_label");
    snprintf(m->head, sizeof m->head, "%s", pk_json_string(head, "kind", ""));
    m->hidden = bounded(head, "hidden", 0, 0, 1 << 16);
    snprintf(m->task, sizeof m->task, "%s", pk_json_string(head, "task", ""));
    snprintf(m->loss, sizeof m->loss, "%s", pk_json_string(head, "loss", "bce"));
    snprintf(m->aggregation, sizeof m->aggregation, "%s",
             pk_json_string(head, "aggregation", "mean_logits"));
    m->single_label = single ? single->boolean : !strcmp(m->loss, "softmax");
    m->window = pk_json_f64(head, "window_s", 0);
    m->stride = pk_json_f64(head, "stride_s", m->window);
    if (m->hidden < 0 || !positive(&m->window, 1) || !positive(&m->stride, 1)) return false;
    if (pk_json_get(head, "targets")) return read_targets(m, head);
    return read_names(m->class_name[0], sizeof m->class_name[0], PK_CLASSES_MAX, &m->classes,
                      pk_json_get(head, "classes"));
}

enum pk_status pk_model_info_read(struct pk_model_info *out, const struct pk_json *j,
                                  const char *where, struct pk_err *err)
{
    struct pk_model_info *m = out;
    memset(m, 0, sizeof *m);
    const struct pk_json *head = pk_json_get(j, "head");
    const char *kind = pk_json_string(pk_json_get(j, "encoder"), "kind", "");
    if (*kind && pk_encoder_named(kind) == PK_ENCODER_KINDS)
        return pk_fail(err, PK_EDATA,
                       "%s: an encoder of the kind '%.40s', which version %s does not know", where,
                       kind, PK_VERSION);
    snprintf(m->objective, sizeof m->objective, "%s", pk_json_string(j, "objective", ""));
    bool ok = !strcmp(pk_json_string(j, "format", ""), "purkinje") &&
              read_encoder(m, pk_json_get(j, "encoder")) && read_input(m, pk_json_get(j, "input"));
    if (ok && head) ok = read_head(m, head);
    if (ok) return PK_OK;
    return pk_fail(err, PK_EDATA, "%s: this is not a model description that version %s can read",
                   where, PK_VERSION);
}

void pk_model_info_input(struct pk_model_info *m, const struct pk_signal *s,
                         const struct pk_inputs *in)
{
    m->rate = s->shape.rate;
    m->patch = s->patch;
    m->tokens = s->tokens;
    m->leads = s->leads;
    m->clip = s->clip;
    m->registers =
        !pk_encoder_convolves(&m->encoder) && m->encoder.vit.tokenise == PK_TOKENISE_REGISTER;
    for (int32_t l = 0; l < s->leads; l++) {
        memcpy(m->lead_name[l], s->shape.lead_name[s->lead[l]], sizeof m->lead_name[l]);
        m->mean[l] = in->mean[0][s->lead[l]];
        m->std[l] = in->std[0][s->lead[l]];
    }
    snprintf(m->source, sizeof m->source, "%.*s", PK_NAME_MAX - 1,
             in->data.sources ? in->data.source[0].name : in->data.name);
    snprintf(m->data, sizeof m->data, "%s", in->data.version);
    snprintf(m->units, sizeof m->units, "%s", in->data.units);
    snprintf(m->preprocessing, sizeof m->preprocessing, "%s", in->data.preprocessing);
}

enum pk_status pk_model_info_leads(struct pk_signal *s, const struct pk_model_info *m,
                                   struct pk_err *err)
{
    s->leads = 0;
    for (int32_t i = 0; i < m->leads; i++) {
        int32_t at = pk_shape_lead(&s->shape, m->lead_name[i]);
        if (at < 0)
            return pk_fail(err, PK_EDATA, "the model needs lead %s, which the data does not have",
                           m->lead_name[i]);
        s->lead[s->leads++] = (uint8_t)at;
    }
    return PK_OK;
}

enum pk_status pk_model_info_architecture(struct pk_classifier *c, const struct pk_model_info *m,
                                          const struct pk_recipe *r, struct pk_err *err)
{
    struct pk_signal *s = &c->signal;
    if (fabs(m->rate - s->shape.rate) > 1e-9)
        return pk_fail(err, PK_EDATA, "the encoder was trained at %g Hz, the data has %g Hz",
                       m->rate, s->shape.rate);
    s->patch = m->patch;
    s->tokens = s->shape.samples / m->patch;
    PK_TRY(pk_model_info_leads(s, m, err));
    if (s->shape.samples % m->patch)
        return pk_fail(err, PK_ERECIPE,
                       "%s: the crop of %d samples is not a multiple of the encoder's patch of %d",
                       pk_recipe_origin(r, "data.crop"), s->shape.samples, m->patch);
    const struct pk_vit *v = &m->encoder.vit;
    const bool convolves = pk_encoder_convolves(&m->encoder);
    if (!convolves && v->tokenise == PK_TOKENISE_LEAD && s->tokens != 1)
        return pk_fail(err, PK_ERECIPE,
                       "%s: the encoder's tokens are whole leads of %d samples; crops and windows "
                       "must be as long, not %d samples",
                       pk_recipe_origin(r, "data.crop"), m->patch, s->shape.samples);
    if ((convolves || v->tokenise != PK_TOKENISE_REGISTER) && c->head == PK_HEAD_REGISTER_LINEAR)
        return pk_fail(err, PK_ERECIPE,
                       "%s: the encoder has no register; take attentive or mean_linear",
                       pk_recipe_origin(r, "objective.head.kind"));
    if (c->augmented && !convolves && pk_token_layout(v->tokenise) != PK_LAYOUT_JOINT)
        return pk_fail(err, PK_ERECIPE,
                       "%s: augmentation needs tokens of all leads; the encoder's are of the kind "
                       "'%s'",
                       pk_recipe_origin(r, "objective.augment"), pk_tokenise_name(v->tokenise));
    uint64_t seed = c->encoder.vit.seed;
    c->encoder = m->encoder;
    c->encoder.vit.seed = seed;
    c->encoder.vit.drop_path = pk_encoder_drop_path(r, m->encoder.kind);
    if (convolves) return PK_OK;
    s->layout = pk_token_layout(v->tokenise);
    c->encoder.vit.tokens = s->tokens;
    c->encoder.vit.residual_std = 0.02f / sqrtf(2.0f * (float)v->depth);
    return PK_OK;
}
