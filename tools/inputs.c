/* inputs.c -- datasets, rows and normalisation of a run (see inputs.h). */
#include "tools/inputs.h"
#include "datasets/corpus.h"
#include "datasets/synth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static enum pk_status open_dataset(struct pk_inputs *in, const struct pk_recipe *r,
                                   struct pk_err *err)
{
    char dir[PK_PATH_MAX];
    if (!pk_recipe_given(r, "data.synthetic")) {
        PK_TRY(pk_recipe_path(r, "data.corpus", dir, err));
        return pk_corpus_open(&in->data, dir, err);
    }
    struct pk_synth_spec s = {.records = pk_recipe_i64(r, "data.synthetic.records"),
                              .rate = pk_recipe_f64(r, "data.synthetic.rate"),
                              .seconds = pk_recipe_f64(r, "data.synthetic.seconds"),
                              .ppg = pk_recipe_bool(r, "data.synthetic.ppg"),
                              .seed = (uint64_t)pk_recipe_i64(r, "data.synthetic.seed"),
                              .threads = (int)pk_recipe_i64(r, "data.threads")};
    if (!(s.rate > 0))
        return pk_fail(
            err, PK_ERECIPE,
            "synthetic records of which sampling rate? Give data.rate: init_from names no "
            "run whose recipe has one");
    return pk_synth_open(&in->data, &s, err);
}

static enum pk_status check_shape(struct pk_inputs *in, const struct pk_recipe *r,
                                  struct pk_err *err)
{
    const struct pk_dataset *d = &in->data;
    double rate = pk_recipe_f64(r, "data.rate"), crop = pk_recipe_f64(r, "data.crop") * d->rate;
    if (rate > 0 && fabs(rate - d->rate) > 1e-9)
        return pk_fail(err, PK_EDATA, "%s: the recipe wants %g Hz, %s has %g Hz",
                       pk_recipe_origin(r, "data.rate"), rate, d->name, d->rate);
    if (crop > d->samples + 1e-6)
        return pk_fail(err, PK_EDATA, "%s: a crop of %g s is longer than the records of %s, %g s",
                       pk_recipe_origin(r, "data.crop"), crop / d->rate, d->name,
                       d->samples / d->rate);
    in->shape = (struct pk_batch_shape){
        .leads = d->leads, .samples = (int32_t)lround(crop), .rate = d->rate};
    memcpy(in->shape.lead_name, d->lead_name, sizeof in->shape.lead_name);
    return PK_OK;
}

static bool in_list(const struct pk_recipe *r, const char *path, int fold)
{
    for (int64_t i = 0; i < pk_recipe_count(r, path); i++)
        if ((int)pk_recipe_item_f64(r, path, i) == fold) return true;
    return false;
}

/* A record without a fold trains; a fold that is named nowhere trains unless train folds are given.
 */
static bool in_split(const struct pk_recipe *r, const char *path, int fold)
{
    if (strcmp(path, "data.folds.train")) return fold > 0 && in_list(r, path, fold);
    if (fold == 0 || in_list(r, path, fold)) return true;
    return pk_recipe_count(r, path) == 0 && !in_list(r, "data.folds.validation", fold) &&
           !in_list(r, "data.folds.test", fold);
}

static enum pk_status select_rows(struct pk_rows *out, const struct pk_inputs *in,
                                  const struct pk_recipe *r, const char *path, struct pk_err *err)
{
    bool single = in->task && pk_recipe_bool(r, "objective.single_label");
    PK_TRY(pk_alloc(&out->row, (size_t)in->data.count, sizeof *out->row, "row list", err));
    for (int64_t i = 0; i < in->data.count; i++) {
        if (in_split(r, path, in->data.record[i].fold) && pk_row_labelled(in->task, i, single) &&
            pk_targets_known(&in->targets, i))
            out->row[out->count++] = i;
    }
    return PK_OK;
}

struct seen {
    uint64_t patient;
    int64_t row;
};

static int by_patient(const void *a, const void *b)
{
    const struct seen *x = a, *y = b;
    return (x->patient > y->patient) - (x->patient < y->patient);
}

/* Nobody may be trained on and scored: what is learned of a person's heart would be recognised, not
 * generalised. Records of unknown participants cannot be checked. */
static enum pk_status check_leaks(const struct pk_inputs *in, const struct pk_rows *held,
                                  const char *held_path, const struct pk_recipe *r,
                                  struct pk_err *err)
{
    struct seen *s;
    enum pk_status status = PK_OK;
    size_t n = 0;
    PK_TRY(pk_alloc(&s, (size_t)in->train.count, sizeof *s, "participants", err));
    for (int64_t i = 0; i < in->train.count; i++) {
        const int64_t row = in->train.row[i];
        if (in->data.record[row].patient) s[n++] = (struct seen){in->data.record[row].patient, row};
    }
    qsort(s, n, sizeof *s, by_patient);
    for (int64_t i = 0; i < held->count && status == PK_OK; i++) {
        const struct seen key = {in->data.record[held->row[i]].patient, 0};
        const struct seen *found = bsearch(&key, s, n, sizeof *s, by_patient);
        char a[64], b[64];
        if (!found) continue;
        in->data.record_id(&in->data, found->row, a);
        in->data.record_id(&in->data, held->row[i], b);
        status = pk_fail(err, PK_EDATA,
                         "%s: records %s and %s of %s are of one participant, but the first is "
                         "trained on and the second is held out\n"
                         "help: give all records of a participant one fold; 'purkinje data verify' "
                         "counts such participants",
                         pk_recipe_origin(r, held_path), a, b, in->data.name);
    }
    free(s);
    return status;
}

/* What a supervised recipe learns. A task that a regression inherits means nothing to it. */
static enum pk_status find_learned(struct pk_inputs *in, const struct pk_recipe *r,
                                   struct pk_err *err)
{
    const char *name = pk_recipe_str(r, "data.task");
    if (!strcmp(pk_recipe_str(r, "objective.kind"), "regress")) {
        for (int64_t i = 0; i < pk_recipe_count(r, "data.targets"); i++) {
            enum pk_status s = pk_targets_add(&in->targets, &in->data,
                                              pk_recipe_item_str(r, "data.targets", i), err);
            if (s == PK_OK) continue;
            pk_err_context(err, "%s", pk_recipe_origin(r, "data.targets"));
            return s;
        }
        return PK_OK;
    }
    if (!*name) return PK_OK;
    enum pk_status s = pk_task_find(&in->task, &in->data, name, err);
    if (s != PK_OK) pk_err_context(err, "%s", pk_recipe_origin(r, "data.task"));
    return s;
}

/* Statistics of training rows only. Sources with many rows are represented by every k-th one. */
static enum pk_status source_stats(struct pk_inputs *in, int32_t source, int threads,
                                   struct pk_err *err)
{
    enum { ENOUGH = 100000 };
    int64_t *rows, n = 0, total = 0;
    PK_TRY(pk_alloc(&rows, (size_t)in->train.count, sizeof *rows, "row list", err));
    for (int64_t i = 0; i < in->train.count; i++)
        if (source < 0 || in->data.record[in->train.row[i]].source == source)
            rows[total++] = in->train.row[i];
    int64_t every = total / ENOUGH + 1;
    for (int64_t i = 0; i < total; i += every) rows[n++] = rows[i];
    double mean[PK_LEADS_MAX] = {0}, std[PK_LEADS_MAX] = {0};
    enum pk_status s = n ? pk_dataset_stats(&in->data, rows, n, threads, mean, std, err) : PK_OK;
    free(rows);
    for (int32_t l = 0; l < in->data.leads; l++)
        if (!(std[l] > 0)) std[l] = 1; // a lead that is never there, or no record at all
    for (int32_t k = 0; k < in->data.sources; k++) {
        if (source >= 0 && k != source) continue;
        memcpy(in->mean[k], mean, sizeof mean);
        memcpy(in->std[k], std, sizeof std);
    }
    return s;
}

static void one_scalar(struct pk_inputs *in)
{
    double m = 0, v = 0;
    for (int32_t l = 0; l < in->data.leads; l++) m += in->mean[0][l] / in->data.leads;
    for (int32_t l = 0; l < in->data.leads; l++)
        v += (in->std[0][l] * in->std[0][l] + (in->mean[0][l] - m) * (in->mean[0][l] - m)) /
             in->data.leads;
    for (int32_t k = 0; k < in->data.sources; k++)
        for (int32_t l = 0; l < in->data.leads; l++) {
            in->mean[k][l] = m;
            in->std[k][l] = sqrt(v);
        }
}

static enum pk_status normalise(struct pk_inputs *in, const struct pk_recipe *r, struct pk_err *err)
{
    const char *how = pk_recipe_str(r, "data.statistics");
    int threads = (int)pk_recipe_i64(r, "data.threads");
    size_t n = (size_t)PK_MAX(in->data.sources, 1);
    PK_TRY(pk_alloc(&in->mean, n, sizeof *in->mean, "means", err));
    PK_TRY(pk_alloc(&in->std, n, sizeof *in->std, "deviations", err));
    if (strcmp(how, "source")) {
        PK_TRY(source_stats(in, -1, threads, err));
        if (!strcmp(how, "scalar")) one_scalar(in);
        return PK_OK;
    }
    for (int32_t k = 0; k < in->data.sources; k++) PK_TRY(source_stats(in, k, threads, err));
    return PK_OK;
}

static enum pk_status no_database(const struct pk_inputs *in, const struct pk_recipe *r,
                                  const char *name, struct pk_err *err)
{
    struct pk_text have = {0};
    for (int32_t k = 0; k < in->data.sources; k++)
        pk_text_add(&have, "%s%s", k ? ", " : "", in->data.source[k].name);
    enum pk_status s =
        pk_fail(err, PK_EDATA, "%s: %s has no database '%s'; it has: %.1000s",
                pk_recipe_origin(r, "data.mixture"), in->data.name, name, have.s ? have.s : "none");
    pk_text_free(&have);
    return s;
}

static enum pk_status mixture(struct pk_inputs *in, const struct pk_recipe *r, struct pk_err *err)
{
    int64_t n = pk_recipe_count(r, "data.mixture");
    if (!n) return PK_OK;
    PK_TRY(pk_alloc(&in->weight, (size_t)in->data.sources, sizeof *in->weight, "mixture", err));
    for (int64_t i = 0; i < n; i++) {
        const char *name = pk_recipe_item_key(r, "data.mixture", i);
        int32_t k = 0;
        while (k < in->data.sources && strcasecmp(in->data.source[k].name, name)) k++;
        if (k == in->data.sources) return no_database(in, r, name, err);
        in->weight[k] = pk_recipe_item_f64(r, "data.mixture", i);
    }
    return PK_OK;
}

enum pk_status pk_inputs_select(struct pk_inputs *out, const struct pk_recipe *r,
                                struct pk_err *err)
{
    enum pk_status s;
    *out = (struct pk_inputs){0};
    if ((s = open_dataset(out, r, err)) != PK_OK) return s;
    if ((s = check_shape(out, r, err)) != PK_OK) goto fail;
    if ((s = find_learned(out, r, err)) != PK_OK) goto fail;
    if ((s = select_rows(&out->train, out, r, "data.folds.train", err)) != PK_OK) goto fail;
    s = select_rows(&out->validation, out, r, "data.folds.validation", err);
    if (s == PK_OK) s = select_rows(&out->test, out, r, "data.folds.test", err);
    if (s == PK_OK && !out->train.count)
        s = pk_fail(err, PK_EDATA, "%s: no record of %s is left to train on (folds, %s)",
                    pk_recipe_origin(r, "data.folds.train"), out->data.name,
                    out->targets.count ? "targets" : "task");
    if (s == PK_OK && out->targets.count &&
        (s = pk_targets_scale(&out->targets, &out->train, err)) != PK_OK)
        pk_err_context(err, "%s", pk_recipe_origin(r, "data.targets"));
    if (s == PK_OK) s = check_leaks(out, &out->validation, "data.folds.validation", r, err);
    if (s == PK_OK) s = check_leaks(out, &out->test, "data.folds.test", r, err);
    if (s == PK_OK) s = mixture(out, r, err);
    if (s == PK_OK) return PK_OK;
fail:
    pk_inputs_close(out);
    return s;
}

enum pk_status pk_inputs_open(struct pk_inputs *out, const struct pk_recipe *r, bool quiet,
                              struct pk_err *err)
{
    double start = pk_seconds();
    PK_TRY(pk_inputs_select(out, r, err));
    enum pk_status s = normalise(out, r, err);
    if (s != PK_OK) {
        pk_inputs_close(out);
        return s;
    }
    if (!quiet)
        fprintf(stderr,
                "data: %s, %lld records of %d leads at %g Hz; train %lld, validation %lld, "
                "test %lld (%.1f s)\n",
                out->data.name, (long long)out->data.count, out->data.leads, out->data.rate,
                (long long)out->train.count, (long long)out->validation.count,
                (long long)out->test.count, pk_seconds() - start);
    return PK_OK;
}

enum pk_status pk_inputs_loader(struct pk_loader **out, const struct pk_inputs *in,
                                const struct pk_recipe *r, int64_t batch,
                                const struct pk_task *task, enum pk_pair pair, bool plan_only,
                                struct pk_err *err)
{
    const int64_t share = batch / PK_MAX(in->parts, 1) / PK_MAX(in->ranks, 1);
    struct pk_loader_spec spec = {.data = &in->data,
                                  .pair = pair,
                                  .pair_all = pair == PK_PAIR_PARTICIPANT &&
                                              !pk_recipe_bool(r, "objective.single_records"),
                                  .plan_only = plan_only,
                                  .rows = in->train.row,
                                  .row_count = in->train.count,
                                  .weight = in->weight,
                                  .task = task,
                                  .mean = (const double(*)[PK_LEADS_MAX])in->mean,
                                  .std = (const double(*)[PK_LEADS_MAX])in->std,
                                  .batch = (int32_t)batch,
                                  .first = (int32_t)(share * in->rank),
                                  .stride_count = (int32_t)share,
                                  .parts = (int32_t)in->parts,
                                  .crop = in->shape.samples,
                                  .random_crop = true,
                                  .seed = (uint64_t)pk_recipe_i64(r, "seed"),
                                  .threads = (int)pk_recipe_i64(r, "data.threads"),
                                  .ahead = (int)pk_recipe_i64(r, "data.read_ahead")};
    return pk_loader_open(out, &spec, err);
}

void pk_inputs_close(struct pk_inputs *in)
{
    pk_dataset_free(&in->data);
    free(in->train.row);
    free(in->validation.row);
    free(in->test.row);
    free(in->weight);
    free(in->mean);
    free(in->std);
    *in = (struct pk_inputs){0};
}
