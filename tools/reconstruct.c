/* reconstruct.c -- reconstructions of masked autoencoders (see reconstruct.h). */
#include "tools/reconstruct.h"
#include "tools/shape.h"
#include "core/exec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct work { // what computing one record needs
    struct pk_recipe *recipe;
    struct pk_mae model;
    struct pk_params params;
    struct pk_prog prog;
    struct pk_exec exec;
    struct pk_bound bound;
    int16_t *signal;            // [leads of the data, samples]
    float gain[16], offset[16]; // [leads of the data]
    double mean[PK_LEADS_MAX], std[PK_LEADS_MAX];
    float *patch, *guess; // [R, T, P], [R, H, P]
    int32_t *hidden;      // [R, H]
};

static void release(struct work *w)
{
    pk_bound_free(&w->bound);
    pk_exec_free(&w->exec);
    pk_prog_free(&w->prog);
    pk_params_free(&w->params);
    pk_recipe_free(w->recipe);
    free(w->signal);
    free(w->patch);
    free(w->guess);
    free(w->hidden);
}

void pk_reconstruction_free(struct pk_reconstruction *x)
{
    free(x->original);
    free(x->guess);
    free(x->hidden);
    *x = (struct pk_reconstruction){0};
}

/* The decoder is described by the run's recipe alone. */
static enum pk_status configure(struct work *w, const struct pk_model_file *file,
                                const struct pk_dataset *d, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    if (strcmp(file->info.objective, "mae") || !file->run[0])
        return pk_fail(err, PK_EUSAGE,
                       "reconstruct needs the folder of a run of a masked autoencoder: %s",
                       file->run[0] ? "this one has another objective" : "exports have no decoder");
    PK_TRY(pk_path(path, err, "%s/recipe.yaml", file->run));
    PK_TRY(pk_recipe_open(&w->recipe, path, 0, NULL, err));
    if (fabs(d->rate - file->info.rate) > 1e-9)
        return pk_fail(err, PK_EDATA, "the model works at %g Hz, the data has %g Hz",
                       file->info.rate, d->rate);
    struct pk_batch_shape shape = {.leads = d->leads, .rate = d->rate};
    shape.samples = file->info.tokens * file->info.patch;
    memcpy(shape.lead_name, d->lead_name, sizeof shape.lead_name);
    PK_TRY(pk_mae_config(&w->model, w->recipe, &shape, err));
    return pk_model_info_leads(&w->model.signal, &file->info, err);
}

static enum pk_status load(struct work *w, const struct pk_model_file *file, struct pk_err *err)
{
    const struct pk_signal *s = &w->model.signal;
    struct pk_token_grid g = pk_token_grid(s, w->model.encoder.tokenise);
    size_t hide = (size_t)(g.runs * (g.tokens - w->model.keep));
    size_t all = (size_t)s->leads * (size_t)s->shape.samples, data = (size_t)s->shape.leads;
    PK_TRY(pk_mae_build(&w->prog, &w->params, &w->model, 1, true, err));
    PK_TRY(
        pk_exec_create(&w->exec, &(struct pk_exec_spec){.params = &w->params, .threads = 1}, err));
    PK_TRY(pk_exec_bind(&w->exec, &w->bound, &w->prog, err));
    PK_TRY(pk_model_read(file, &w->params, "", w->exec.weight, err));
    PK_TRY(pk_exec_push(&w->exec, err));
    PK_TRY(pk_alloc(&w->signal, data * (size_t)s->shape.samples, sizeof *w->signal, "record", err));
    PK_TRY(pk_alloc(&w->patch, all, sizeof *w->patch, "patches", err));
    PK_TRY(pk_alloc(&w->guess, all, sizeof *w->guess, "reconstruction", err));
    return pk_alloc(&w->hidden, hide, sizeof *w->hidden, "hidden tokens", err);
}

static enum pk_status compute(struct work *w, const struct pk_model_file *file,
                              const struct pk_dataset *d, int64_t index, int64_t start,
                              struct pk_err *err)
{
    const struct pk_signal *s = &w->model.signal;
    const int32_t zero = 0;
    for (int32_t l = 0; l < PK_LEADS_MAX; l++) w->std[l] = 1;
    for (int32_t l = 0; l < s->leads; l++) {
        w->mean[s->lead[l]] = file->info.mean[l];
        w->std[s->lead[l]] = file->info.std[l];
    }
    PK_TRY(d->read_part(d, index, (int32_t)start, s->shape.samples, w->signal, err));
    pk_record_scaling(&d->record[index], d->leads, w->mean, w->std, w->gain, w->offset);
    size_t leads = (size_t)d->leads;
    struct pk_feed feed[] = {
        {"signal", w->signal, leads * (size_t)s->shape.samples * sizeof *w->signal},
        {"gain", w->gain, leads * sizeof *w->gain},
        {"offset", w->offset, leads * sizeof *w->offset},
        {"start", &zero, sizeof zero},
        {"sample", &index, sizeof index}};
    struct pk_fetch fetch[] = {
        {"patches", w->patch}, {"hidden", w->hidden}, {"prediction", w->guess}};
    struct pk_exec_batch run = {.feed = feed,
                                .feeds = (int)PK_COUNT(feed),
                                .fetch = fetch,
                                .fetches = (int)PK_COUNT(fetch),
                                .micros = 1};
    return pk_exec_run(&w->exec, &w->bound, &run, err);
}

/* Where value i of token t of run r lies: lead and sample. */
static int64_t place(const struct pk_mae *m, int32_t r, int32_t t, int32_t i)
{
    const struct pk_signal *s = &m->signal;
    const int64_t n = s->shape.samples;
    if (m->encoder.tokenise == PK_TOKENISE_PATCH) return r * n + t * s->patch + i;
    if (m->encoder.tokenise == PK_TOKENISE_LEAD) return t * n + i;
    return i / s->patch * n + t * s->patch + i % s->patch;
}

/* Hidden patches back onto the signal, in the units of the corpus. */
static void unfold(struct pk_reconstruction *out, const struct work *w)
{
    const struct pk_mae *m = &w->model;
    struct pk_token_grid g = pk_token_grid(&m->signal, m->encoder.tokenise);
    const int32_t hide = g.tokens - m->keep, n = out->samples;
    const int32_t size = (int32_t)((int64_t)out->leads * n / (g.runs * g.tokens));
    double sum = 0, count = 0;
    for (int32_t k = 0; k < g.runs * hide; k++) {
        const int32_t r = k / hide, t = w->hidden[k];
        const float *p = w->patch + ((int64_t)r * g.tokens + t) * size;
        const float *q = w->guess + (int64_t)k * size;
        double mean = 0, var = 0;
        for (int32_t i = 0; i < size; i++) mean += (double)p[i] / size;
        for (int32_t i = 0; i < size; i++) var += pow((double)p[i] - mean, 2) / size;
        const double scale = sqrt(var + (double)PK_MAE_EPS);
        for (int32_t i = 0; i < size; i++) {
            const int64_t at = place(m, r, t, i), lead = m->signal.lead[at / n];
            out->hidden[at] = 1;
            if (!out->present[at / n]) continue;
            const double value = mean + (double)q[i] * scale;
            out->guess[at] = (float)(value * w->std[lead] + w->mean[lead]);
            sum += pow((double)q[i] - ((double)p[i] - mean) / scale, 2);
            count++;
        }
    }
    out->loss = count > 0 ? sum / count : NAN;
}

static enum pk_status collect(struct pk_reconstruction *out, const struct work *w,
                              const struct pk_dataset *d, int64_t index, int64_t start,
                              struct pk_err *err)
{
    const struct pk_signal *s = &w->model.signal;
    const int32_t n = out->samples = s->shape.samples;
    size_t all = (size_t)s->leads * (size_t)n;
    out->leads = s->leads;
    out->rate = d->rate;
    memcpy(out->units, d->units, sizeof out->units);
    out->start = (double)start / d->rate;
    d->record_id(d, index, out->id);
    PK_TRY(pk_alloc(&out->original, all, sizeof *out->original, "signal", err));
    PK_TRY(pk_alloc(&out->guess, all, sizeof *out->guess, "reconstruction", err));
    PK_TRY(pk_alloc(&out->hidden, all, 1, "mask", err));
    for (int32_t l = 0; l < s->leads; l++) {
        const int32_t from = s->lead[l];
        memcpy(out->lead_name[l], d->lead_name[from], sizeof out->lead_name[l]);
        out->present[l] = w->gain[from] != 0;
        for (int32_t i = 0; i < n; i++) {
            const int16_t raw = w->signal[(int64_t)from * n + i];
            const bool there = out->present[l] && raw != PK_INVALID;
            out->guess[(int64_t)l * n + i] = NAN;
            out->original[(int64_t)l * n + i] =
                there ? (float)raw * d->record[index].scale[from] : NAN;
        }
    }
    unfold(out, w);
    return PK_OK;
}

enum pk_status pk_reconstruct(struct pk_reconstruction *out, struct pk_model_file *file,
                              const struct pk_dataset *d, int64_t index, int64_t start,
                              struct pk_err *err)
{
    struct work w = {0};
    *out = (struct pk_reconstruction){0};
    if (index < 0 || index >= d->count)
        return pk_fail(err, PK_EUSAGE, "record %lld is not one of the %lld", (long long)index,
                       (long long)d->count);
    enum pk_status s = configure(&w, file, d, err);
    if (s == PK_OK && (start < 0 || start + w.model.signal.shape.samples > d->record[index].length))
        s = pk_fail(err, PK_EUSAGE,
                    "a window of %d samples from sample %lld on is not within the "
                    "%d of the record",
                    w.model.signal.shape.samples, (long long)start, d->record[index].length);
    if (s == PK_OK) s = load(&w, file, err);
    if (s == PK_OK) s = compute(&w, file, d, index, start, err);
    if (s == PK_OK) s = collect(out, &w, d, index, start, err);
    release(&w);
    return s;
}

/* --- drawing ------------------------------------------------------------------------------- */

enum { ROW = 25, TOP = 12, LEFT = 12 };      // mm
static const double SPEED = 25, HEIGHT = 10; // mm/s, mm for 1 mV or other unit

static void add_escaped(struct pk_text *out, const char *s)
{
    for (; *s; s++) {
        const char *word = *s == '&' ? "&amp;" : *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : NULL;
        if (word)
            pk_text_add(out, "%s", word);
        else
            pk_text_add(out, "%c", *s);
    }
}

static double x_of(const struct pk_reconstruction *x, int32_t sample)
{
    return LEFT + SPEED * sample / x->rate;
}

/* "10 mm/mV", "10 mm/z", or both where ECG and PPG differ ("mV, PPG z"). */
static void add_scale(struct pk_text *out, const char *units)
{
    const char *split = strstr(units, ", PPG ");
    pk_text_add(out, "%g mm/", HEIGHT);
    if (split) {
        pk_text_add(out, "%.*s", (int)(split - units), units);
        pk_text_add(out, ", PPG %g mm/", HEIGHT);
        units = split + strlen(", PPG ");
    }
    add_escaped(out, units[0] ? units : "unit");
}

/* A curve around the row's middle, clipped to the row; a gap wherever a value is missing. */
static void draw_curve(struct pk_text *out, const struct pk_reconstruction *x, int32_t lead,
                       const float *v, const char *kind)
{
    const double middle = TOP + ROW * (lead + 0.5);
    bool open = false;
    for (int32_t i = 0; i < x->samples; i++) {
        if (isnan(v[i])) {
            if (open) pk_text_add(out, "\"/>\n");
            open = false;
            continue;
        }
        double y = middle - HEIGHT * (double)v[i];
        y = fmin(fmax(y, middle - 0.5 * ROW), middle + 0.5 * ROW);
        if (!open) pk_text_add(out, "<polyline class=\"%s\" points=\"", kind);
        pk_text_add(out, "%.2f,%.2f ", x_of(x, i), y);
        open = true;
    }
    if (open) pk_text_add(out, "\"/>\n");
}

static void shade(struct pk_text *out, const struct pk_reconstruction *x, int32_t lead)
{
    const uint8_t *hidden = x->hidden + (int64_t)lead * x->samples;
    for (int32_t i = 0, end; i < x->samples; i = end) {
        for (end = i + 1; end < x->samples && hidden[end] == hidden[i]; end++) continue;
        if (hidden[i])
            pk_text_add(out,
                        "<rect class=\"hidden\" x=\"%.2f\" y=\"%d\" width=\"%.2f\" "
                        "height=\"%d\"/>\n",
                        x_of(x, i), TOP + ROW * lead, SPEED * (end - i) / x->rate, ROW);
    }
}

void pk_reconstruction_svg(struct pk_text *out, const struct pk_reconstruction *x,
                           const char *title)
{
    const double width = x_of(x, x->samples) + 5, height = TOP + ROW * x->leads + 5;
    pk_text_add(out,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.2fmm\" height=\"%.2fmm\" "
                "viewBox=\"0 0 %.2f %.2f\">\n<title>",
                width, height, width, height);
    add_escaped(out, title);
    pk_text_add(out,
                "</title>\n<style>text{font:3.2px sans-serif}polyline{fill:none;stroke-width:.3}"
                ".original{stroke:#222}.guess{stroke:#c00}.hidden{fill:#446;fill-opacity:.13}"
                "</style>\n"
                "<defs><pattern id=\"mm\" width=\"5\" height=\"5\" x=\"%d\" y=\"%d\" "
                "patternUnits=\"userSpaceOnUse\">"
                "<path d=\"M1 0V5M2 0V5M3 0V5M4 0V5M0 1H5M0 2H5M0 3H5M0 4H5\" stroke=\"#f3b6b6\" "
                "stroke-width=\".1\"/><path d=\"M0 0V5M0 0H5\" stroke=\"#e88\" "
                "stroke-width=\".25\"/></pattern></defs>\n"
                "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
                "<rect x=\"%d\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"url(#mm)\"/>\n"
                "<text x=\"%d\" y=\"5\">",
                LEFT, TOP, LEFT, TOP, x_of(x, x->samples) - LEFT, ROW * x->leads, LEFT);
    add_escaped(out, title);
    pk_text_add(out, "</text>\n<text x=\"%d\" y=\"9.5\">%g mm/s, ", LEFT, SPEED);
    add_scale(out, x->units);
    pk_text_add(out,
                "; hidden from the model: "
                "shaded; reconstruction: red, with level and scale of the original patch</text>\n");
    for (int32_t l = 0; l < x->leads; l++) {
        shade(out, x, l);
        pk_text_add(out, "<text x=\"1\" y=\"%.2f\">", TOP + ROW * (l + 0.5));
        add_escaped(out, x->lead_name[l]);
        pk_text_add(out, "</text>\n");
        draw_curve(out, x, l, x->original + (int64_t)l * x->samples, "original");
        draw_curve(out, x, l, x->guess + (int64_t)l * x->samples, "guess");
    }
    pk_text_add(out, "</svg>\n");
}
