/* cmd_export.c -- purkinje export: a model for other programs. */
#include "tools/cli.h"
#include "tools/export.h"

#include <string.h>

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    const char *format = pk_arg(a, "format"), *weights = pk_arg(a, "weights");
    struct pk_export_options o = {.ema = true, .overwrite = pk_arg(a, "overwrite") != NULL};
    if (a->count != 2)
        return pk_fail(err, PK_EUSAGE, "export needs a run and a folder to write to");
    if (format && strcmp(format, "safetensors"))
        return pk_fail(err, PK_EUSAGE, "--format %s: the only format is safetensors", format);
    if (weights && strcmp(weights, "ema") && strcmp(weights, "online"))
        return pk_fail(err, PK_EUSAGE, "--weights %s: it is ema or online", weights);
    if (weights) o.ema = !strcmp(weights, "ema");
    PK_TRY(pk_export(a->word[0], a->word[1], &o, err));
    printf("%s\n", a->word[1]);
    return PK_OK;
}

static const struct pk_option options[] = {
    {"format", "NAME", "safetensors, which is also what it is unless told"},
    {"weights", "WHICH", "of a pretraining run: the ema encoder (unless told) or the online one"},
    {"overwrite", NULL, "replace an earlier export"},
    {0}};

static const struct pk_example examples[] = {
    {"export runs/demo exported", "the EMA encoder of the newest checkpoint of a pretraining run"},
    {"export runs/demo online --weights online --format safetensors",
     "the encoder that was trained, instead of its average"},
    {"export runs/probe exported --overwrite",
     "a classifier: the encoder and head of the best validation"},
    {0}};

const struct pk_command pk_cmd_export = {
    .name = "export",
    .synopsis = "RUN OUT",
    .summary = "write a model for other programs",
    .details =
        "RUN is a run, one of its checkpoints, or an exported folder. OUT becomes a folder with\n"
        "model.safetensors (PyTorch's names), config.json, preprocessor_config.json (rate, leads,\n"
        "units, normalisation, windows) and a model card. docs/examples/load_model.py reads it.",
    .options = options,
    .examples = examples,
    .run = run,
    .alone = true};
