/* model_card.c -- preprocessing and model card of an export (see model_card.h). */
#include "tools/model_card.h"
#include "core/metrics_regression.h"

#include <math.h>
#include <string.h>
#include <strings.h>

static double window_of(const struct pk_model_info *m)
{
    return m->head[0] ? m->window : m->tokens * m->patch / m->rate;
}

/* Whether the corpus was filtered, so that new signals must be, too. */
static bool filtered(const struct pk_model_info *m)
{
    return strstr(m->preprocessing, "band-pass") != NULL;
}

void pk_preprocessor_write(struct pk_text *out, const struct pk_model_info *m)
{
    struct pk_json_writer w = {.out = out, .indent = 2};
    double window = window_of(m);
    pk_json_open(&w, NULL, '{');
    pk_json_put_string(&w, "format", "purkinje");
    pk_json_put_i64(&w, "schema", 1);
    pk_json_put_f64(&w, "rate_hz", m->rate);
    pk_json_put_string(&w, "resampler",
                       "signals of another rate are resampled with an anti-aliasing (polyphase) "
                       "filter to rate_hz first");
    pk_json_open(&w, "leads", '[');
    for (int32_t i = 0; i < m->leads; i++) pk_json_put_string(&w, NULL, m->lead_name[i]);
    pk_json_close(&w);
    pk_json_put_string(&w, "units", m->units);
    pk_json_put_string(&w, "filter", filtered(m) ? "as in source_preprocessing" : "none");
    pk_json_open(&w, "normalisation", '{');
    pk_json_put_string(&w, "formula", "clip((x - mean) / std, -clip, clip), per lead");
    pk_json_put_f64s(&w, "mean", m->mean, m->leads);
    pk_json_put_f64s(&w, "std", m->std, m->leads);
    pk_json_put_f64(&w, "clip", (double)m->clip);
    pk_json_put_string(&w, "statistics_of", m->source);
    pk_json_close(&w);
    pk_json_put_f64(&w, "window_s", window);
    pk_json_put_i64(&w, "window_samples", llround(window * m->rate));
    pk_json_put_f64(&w, "stride_s", m->head[0] ? m->stride : window);
    pk_json_put_string(&w, "aggregation", m->head[0] ? m->aggregation : "mean_embeddings");
    pk_json_put_string(&w, "padding",
                       "none: windows lie within the record, and a shorter record is refused");
    pk_json_put_string(&w, "missing_leads", "zeros after normalisation");
    pk_json_put_string(&w, "missing_samples", "zeros after normalisation");
    pk_json_put_string(&w, "source_preprocessing", m->preprocessing);
    pk_json_close(&w);
}

/* A string as a double-quoted YAML scalar: JSON's quoting is a subset of it. */
static void yaml_string(struct pk_text *out, const char *s)
{
    struct pk_json_writer w = {.out = out};
    pk_json_put_string(&w, NULL, s);
}

/* Licences that are known for sure; for anything else the card says where to look. */
static const char *licence_of(const struct pk_model_info *m)
{
    if (strstr(m->data, "PTB-XL")) return "CC BY 4.0";
    if (!strncmp(m->data, "synthetic", 9)) return "none needed, the signals are generated";
    return NULL;
}

static void front_matter(struct pk_text *out, const struct pk_model_info *m)
{
    const char *licence = licence_of(m);
    pk_text_add(out,
                "---\nlibrary_name: purkinje\nlicense: other\ntags:\n  - ecg\n  - %s\n"
                "  - %s\n",
                pk_encoder_name(m->encoder.kind),
                m->regresses ? "ecg-regression"
                : m->head[0] ? "ecg-classification"
                             : "self-supervised");
    pk_text_add(out, "datasets_used:\n  - ");
    yaml_string(out, m->data[0] ? m->data : "unknown");
    pk_text_add(out, "\ndata_licence: ");
    yaml_string(out, licence ? licence : "see the licence of the data");
    pk_text_add(out, "\n---\n\n");
}

static void say_what(struct pk_text *out, const struct pk_model *model, const char *name)
{
    const struct pk_model_info *m = &model->file.info;
    char encoder[96];
    pk_encoder_describe(&m->encoder, encoder);
    pk_text_add(out, "# %s\n\n", name);
    pk_text_add(out, "An encoder of cardiac signals: %s, %lld parameters, ", encoder,
                (long long)pk_params_total(&model->params, ""));
    if (!pk_encoder_convolves(&m->encoder))
        pk_text_add(out, "patches of %d samples%s, ", m->patch,
                    m->registers ? ", one register token" : "");
    pk_text_add(out, "written by purkinje %s.\n", PK_VERSION);
    if (!m->head[0]) {
        pk_text_add(out, "It computes embeddings; it has no head and classifies nothing.\n");
        return;
    }
    if (m->regresses) {
        pk_text_add(out,
                    "Its %s head predicts %d number%s, each as output * std + mean:\n\n"
                    "| target | mean | std |\n| --- | --- | --- |\n",
                    m->head, m->classes, m->classes > 1 ? "s" : "");
        for (int32_t k = 0; k < m->classes; k++)
            pk_text_add(out, "| `%s` | %.6g | %.6g |\n", m->class_name[k], m->target_mean[k],
                        m->target_std[k]);
        return;
    }
    pk_text_add(out, "Its %s head gives one logit for each of the %d classes of the task `%s`:\n\n",
                m->head, m->classes, m->task);
    for (int32_t k = 0; k < m->classes; k++)
        pk_text_add(out, "%s`%s`", k ? ", " : "", m->class_name[k]);
    pk_text_add(out, ".\n\nLogits become scores by %s.\n",
                !strcmp(m->loss, "softmax") ? "a softmax over the classes"
                                            : "a sigmoid per class (never a softmax)");
}

static void say_preprocessing(struct pk_text *out, const struct pk_model_info *m)
{
    bool mv = !strcmp(m->units, "mV");
    pk_text_add(out,
                "\n## Preprocessing\n\n"
                "`preprocessor_config.json` holds all numbers. In words: %d leads in this order:",
                m->leads);
    for (int32_t i = 0; i < m->leads; i++) pk_text_add(out, "%s %s", i ? "," : "", m->lead_name[i]);
    pk_text_add(out,
                "; %s%s; %g Hz (resample with an anti-aliasing filter if yours differ); %s; (x - "
                "mean) / std per lead, clipped to +-%g; missing leads and samples "
                "are zeros after that. Windows of %g s.\n",
                mv ? "millivolts" : "units ", mv ? "" : m->units, m->rate,
                filtered(m) ? "prepared as the corpus was (below)" : "no other filter",
                (double)m->clip, window_of(m));
    if (m->regresses)
        pk_text_add(out, "A record's prediction is the mean of its windows, one every %g s.\n",
                    m->stride);
    else if (m->head[0])
        pk_text_add(out, "A record's score is the %s of its windows, one every %g s.\n",
                    !strcmp(m->aggregation, "max_sigmoid") ? "maximum of the sigmoids"
                                                           : "mean of the logits",
                    m->stride);
}

static const char *const splits[] = {"validation", "test"};

static void put_metric(struct pk_text *out, const struct pk_json *split, const char *key)
{
    double v = pk_json_f64(split, key, NAN);
    if (isfinite(v))
        pk_text_add(out, " %.4f |", v);
    else
        pk_text_add(out, " - |");
}

static void say_regression(struct pk_text *out, const struct pk_json *result)
{
    pk_text_add(out,
                "\n## Results\n\n| split | target | records | MAE | RMSE | R2 | Pearson r | MAE of "
                "the training mean |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (size_t i = 0; i < PK_COUNT(splits); i++) {
        const struct pk_json *all = pk_json_get(pk_json_get(result, splits[i]), "targets");
        for (int64_t k = 0; all && k < all->count; k++) {
            const struct pk_json *t = &all->item[k], *s = pk_json_get(t, "scores");
            pk_text_add(out, "| %s | `%s` | %lld |", splits[i], pk_json_string(t, "target", "?"),
                        (long long)pk_json_i64(s, "rows", 0));
            for (int score = 0; score < PK_REGRESSION_SCORES; score++)
                put_metric(out, s, pk_regression_score_name(score));
            put_metric(out, pk_json_get(pk_json_get(t, "chance"), "training_mean"), "mae");
            pk_text_add(out, "\n");
        }
    }
}

static void say_classes(struct pk_text *out, const struct pk_json *result)
{
    pk_text_add(out, "\n## Results\n\n| split | records | macro AUC | AUC, >= 10 positives | macro "
                     "AUPRC | Fmax |\n| --- | --- | --- | --- | --- | --- |\n");
    for (size_t i = 0; i < PK_COUNT(splits); i++) {
        const struct pk_json *s = pk_json_get(result, splits[i]);
        if (!s) continue;
        pk_text_add(out, "| %s | %lld |", splits[i], (long long)pk_json_i64(s, "rows", 0));
        put_metric(out, s, "macro_auc");
        put_metric(out, s, "macro_auc_10_positives");
        put_metric(out, s, "macro_auprc");
        put_metric(out, s, "fmax");
        pk_text_add(out, "\n");
    }
}

static void say_results(struct pk_text *out, const struct pk_json *result, bool regresses)
{
    if (!result) {
        pk_text_add(out, "\n## Results\n\nNone are recorded with this model.\n");
        return;
    }
    (regresses ? say_regression : say_classes)(out, result);
    const struct pk_json *p = pk_json_get(result, "protocol");
    if (*pk_json_string(p, "init_from", ""))
        pk_text_add(out, "\nThe encoder was taken from %s (%s weights).\n",
                    pk_json_string(p, "init_from", ""), pk_json_string(p, "weights", "?"));
    pk_text_add(out,
                "\nProtocol: recipe %s, %s, windows of %g s every %g s, %s; checkpoint selected by "
                "%s, seed %lld.\n",
                pk_json_string(p, "recipe", "?"), pk_json_string(p, "data", "?"),
                pk_json_f64(p, "window_s", NAN), pk_json_f64(p, "stride_s", NAN),
                pk_json_string(p, "aggregation", "?"), pk_json_string(p, "selection", "?"),
                (long long)pk_json_i64(p, "seed", 0));
}

static void say_training(struct pk_text *out, const struct pk_model_file *f)
{
    const struct pk_model_info *m = &f->info;
    const char *licence = licence_of(m);
    pk_text_add(out, "\n## Training\n\nObjective: %s. Data: %s. ",
                m->objective[0] ? m->objective : "unknown", m->data[0] ? m->data : "unknown");
    if (m->preprocessing[0]) pk_text_add(out, "What was done to it: %s. ", m->preprocessing);
    if (f->step >= 0) pk_text_add(out, "%lld optimizer steps. ", (long long)f->step);
    if (f->recipe_hash[0]) pk_text_add(out, "Recipe hash %s. ", f->recipe_hash);
    if (f->weights[0])
        pk_text_add(out, "Weights: %s. ",
                    !strcmp(f->weights, "best")  ? "of the best validation"
                    : !strcmp(f->weights, "ema") ? "the EMA encoder"
                                                 : "the last step's");
    pk_text_add(out, "Data licence: %s.\n", licence ? licence : "see the source of the data");
}

static const char how_to_load[] =
    "```python\nfrom load_model import Model\n"
    "model = Model(\"path/of/this/folder\")\n"
    "embedding = model.embedding(x)     # x: [records, leads, samples] in mV -> [records, width]\n";

void pk_model_card_write(struct pk_text *out, const struct pk_model *m, const char *name,
                         const struct pk_json *result)
{
    const struct pk_model_info *info = &m->file.info;
    front_matter(out, info);
    say_what(out, m, name);
    say_preprocessing(out, info);
    say_training(out, &m->file);
    if (info->head[0]) say_results(out, result, info->regresses);
    pk_text_add(out,
                "\n## How to load\n\n`docs/examples/load_model.py` of purkinje%s needs PyTorch, "
                "safetensors and numpy:\n\n%s",
                pk_encoder_convolves(&info->encoder) ? ", with `conv_encoders.py` beside it," : "",
                how_to_load);
    if (info->head[0])
        pk_text_add(out, "%s           # of one window -> [records, %d]\n",
                    info->regresses ? "values = model.targets(x)" : "logits = model.logits(x)",
                    info->classes);
    pk_text_add(out, "```\n\nOr: `purkinje embed FOLDER CORPUS OUT.h5`%s.\n",
                info->head[0] ? ", `purkinje eval FOLDER CORPUS`" : "");
    pk_text_add(
        out, "\n## Limitations\n\n"
             "A research model, not a medical device: it has not been validated for clinical use. "
             "It knows the population, devices and leads of its training data; on others its "
             "scores and embeddings may mean something else. Scores are not calibrated "
             "probabilities.\n");
}
