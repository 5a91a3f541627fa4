/* cmd_reconstruct.c -- purkinje reconstruct: what a masked autoencoder puts in place of what it was
 * not shown. */
#include "core/npy.h"
#include "tools/cli.h"
#include "tools/model.h"
#include "tools/reconstruct.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* [3, leads, samples]: original, reconstruction, hidden. */
static enum pk_status write_npy(const char *path, const struct pk_reconstruction *x,
                                struct pk_err *err)
{
    const size_t n = (size_t)x->leads * (size_t)x->samples;
    float *all;
    PK_TRY(pk_alloc(&all, 3 * n, sizeof *all, "array", err));
    memcpy(all, x->original, n * sizeof *all);
    memcpy(all + n, x->guess, n * sizeof *all);
    for (size_t i = 0; i < n; i++) all[2 * n + i] = x->hidden[i];
    enum pk_status s =
        pk_npy_save(path, PK_NPY_F32, 3, (int64_t[]){3, x->leads, x->samples}, all, err);
    free(all);
    return s;
}

static enum pk_status write_svg(const char *path, const struct pk_reconstruction *x,
                                const char *model, int64_t step, struct pk_err *err)
{
    struct pk_text text = {0};
    char title[400];
    snprintf(title, sizeof title, "record %s from %g s, %.200s, step %lld: loss %.4f", x->id,
             x->start, model, (long long)step, x->loss);
    pk_reconstruction_svg(&text, x, title);
    enum pk_status s = text.failed ? pk_fail(err, PK_ENOMEM, "out of memory: drawing")
                                   : pk_write_file(path, text.s, text.len, err);
    pk_text_free(&text);
    return s;
}

static enum pk_status reconstruct(const struct pk_args *a, struct pk_model_file *file,
                                  struct pk_dataset *d, struct pk_err *err)
{
    const char *out = a->word[2], *dot = strrchr(out, '.');
    struct pk_reconstruction x;
    int64_t record = 0;
    double start = 0;
    bool svg = dot && !strcmp(dot, ".svg"), npy = dot && !strcmp(dot, ".npy");
    if (!svg && !npy)
        return pk_fail(err, PK_EUSAGE, "%s: write to a file that ends in .svg or .npy", out);
    PK_TRY(pk_arg_i64(a, "record", 0, INT64_MAX, &record, err));
    PK_TRY(pk_arg_f64(a, "start", 0, 86400, &start, err));
    PK_TRY(pk_model_open(file, a->word[0], true, err));
    PK_TRY(pk_dataset_named(d, a->word[1], file->info.rate, err));
    enum pk_status s = pk_reconstruct(&x, file, d, record, llround(start * d->rate), err);
    if (s == PK_OK && svg) s = write_svg(out, &x, a->word[0], file->step, err);
    if (s == PK_OK && npy) s = write_npy(out, &x, err);
    if (s == PK_OK) printf("%s: record %s, loss of its hidden patches %.4f\n", out, x.id, x.loss);
    pk_reconstruction_free(&x);
    return s;
}

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    struct pk_model_file *file;
    struct pk_dataset d = {0};
    if (a->count != 3)
        return pk_fail(err, PK_EUSAGE, "reconstruct needs a run, a corpus and a file to write");
    PK_TRY(pk_alloc(&file, 1, sizeof *file, "model", err));
    enum pk_status s = reconstruct(a, file, &d, err);
    pk_dataset_free(&d);
    pk_model_close(file);
    free(file);
    return s;
}

static const struct pk_option options[] = {
    {"record", "N", "which record of the corpus, counted from 0 (default 0)"},
    {"start", "S", "seconds into the record (default 0)"},
    {0}};

static const struct pk_example examples[] = {
    {"reconstruct runs/mae synthetic:4 hidden.svg --record 2",
     "a drawing on millimetre paper: original, what was hidden, and what the model made of it"},
    {"reconstruct runs/mae synthetic:4 hidden.npy --start 0.5", "the same as numbers"},
    {0}};

const struct pk_command pk_cmd_reconstruct = {
    .name = "reconstruct",
    .synopsis = "RUN CORPUS OUT.svg|OUT.npy",
    .summary = "what a masked autoencoder makes of what it was not shown",
    .details =
        "RUN is a pretraining run of a masked autoencoder or one of its checkpoints; CORPUS a\n"
        "folder, or synthetic:N. One window, as long as those of training, is masked as in\n"
        "training. The array is [3, leads, samples] float32: original, reconstruction (NaN\n"
        "where nothing was hidden), both in the corpus' units, and 1 where samples were hidden.\n"
        "Level and scale of a reconstructed patch are those of the original, since the loss is\n"
        "of standardised patches.",
    .options = options,
    .examples = examples,
    .run = run,
    .alone = true};
