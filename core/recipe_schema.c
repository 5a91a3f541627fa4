/* recipe_schema.c -- the table of all recipe keys (see recipe_schema.h). Rows are in the order in
 * which a resolved recipe is printed; a section stands before its keys. */
#include "core/recipe_schema.h"
#include "core/augment.h"

#include <math.h>
#include <string.h>

#define SECTION(p, w, d)                                                                           \
    {                                                                                              \
        .path = p, .type = PK_KEY_SECTION, .when = PK_WHEN_##w, .doc = d                           \
    }
#define NUMBER(p, t, u, w, lo, hi, def, d)                                                         \
    {                                                                                              \
        .path = p, .type = PK_KEY_##t, .unit = PK_UNIT_##u, .when = PK_WHEN_##w, .low = lo,        \
        .high = hi, .fallback = def, .doc = d                                                      \
    }
#define NEEDED(p, t, u, w, lo, hi, d)                                                              \
    {                                                                                              \
        .path = p, .type = PK_KEY_##t, .unit = PK_UNIT_##u, .when = PK_WHEN_##w, .low = lo,        \
        .high = hi, .required = true, .doc = d                                                     \
    }
#define BOOLEAN(p, w, def, d)                                                                      \
    {                                                                                              \
        .path = p, .type = PK_KEY_BOOL, .when = PK_WHEN_##w, .fallback = def, .doc = d             \
    }
#define TEXT(p, w, def, d)                                                                         \
    {                                                                                              \
        .path = p, .type = PK_KEY_STRING, .when = PK_WHEN_##w, .fallback = def, .doc = d           \
    }
#define CHOICE(p, w, c, def, d)                                                                    \
    {                                                                                              \
        .path = p, .type = PK_KEY_ENUM, .when = PK_WHEN_##w, .choices = c, .fallback = def,        \
        .doc = d                                                                                   \
    }
#define LIST(p, t, w, lo, hi, n0, n1, def, d)                                                      \
    {                                                                                              \
        .path = p, .type = PK_KEY_##t, .when = PK_WHEN_##w, .low = lo, .high = hi,                 \
        .count_low = n0, .count_high = n1, .fallback = def, .doc = d                               \
    }

/* Schedules and the optimizer look alike for pretraining and for every stage. */
#define RATE_KEYS(p, w)                                                                            \
    SECTION(p, w, "learning rate over the steps: linear warm-up, then the shape"),                 \
        NEEDED(p ".peak", FLOAT, NONE, w, 0, 100, "learning rate after the warm-up"),              \
        NUMBER(p ".warmup", INT, STEPS, w, 0, 1e9, "0", "steps of linear warm-up from start"),     \
        NUMBER(p ".start", FLOAT, NONE, w, 0, 100, "1e-6", "learning rate before the warm-up"),    \
        NUMBER(p ".end", FLOAT, NONE, w, 0, 100, "1e-6", "learning rate at the end of a cosine"),  \
        CHOICE(p ".shape", w, "constant|cosine|one_cycle", "cosine",                               \
               "what follows the warm-up; one_cycle: half a cosine up from start, another down "   \
               "to end"),                                                                          \
        NUMBER(p ".rise", FLOAT, NONE, w, 0, 0.99, "0.3",                                          \
               "one_cycle: share of the steps before the top"),                                    \
        LIST(p ".beta1", FLOATS, w, 0, 0.999999, 0, 2, "[]",                                       \
             "one_cycle: beta1 at both ends and at the top; empty: as the optimizer has it")
#define DECAY_KEYS(p, w)                                                                           \
    SECTION(p, w, "decoupled weight decay, of weights of linear and convolution only"),            \
        NUMBER(p ".start", FLOAT, NONE, w, 0, 100, "0.01", "weight decay at the first step"),      \
        NUMBER(p ".end", FLOAT, NONE, w, 0, 100, "@" p ".start", "weight decay at the last step"), \
        CHOICE(p ".shape", w, "constant|cosine", "cosine", "how it goes from start to end")
#define OPTIMIZER_KEYS(p, w, beta)                                                                 \
    LIST(p ".beta", FLOATS, w, 0, 0.999999, 2, 2, beta, "decay of first and second moment"),       \
        NUMBER(p ".eps", FLOAT, NONE, w, 1e-16, 1, "1e-6", "added to the root of the 2nd moment"), \
        NUMBER(p ".clip", FLOAT, NONE, w, 0, 1e9, "0", "limit of the gradient norm; 0: none")

/* clang-format off */
static const struct pk_key keys[] = {
    NEEDED("schema", INT, NONE, ALWAYS, 1, 1, "version of this schema: 1"),
    LIST("extends", STRINGS, ALWAYS, 0, 0, 0, 16, "[]", "recipes this one starts from, relative to its file or in the recipe folders; later ones win"),
    TEXT("name", ALWAYS, "@name", "name of the run; default: name of the file"),
    TEXT("description", ALWAYS, "''", "what the run is for, for reports"),
    NUMBER("seed", INT, NONE, ALWAYS, 0, 9007199254740992.0, "0", "of initial weights, order, crops, masks and dropout"),
    TEXT("init_from", ALWAYS, "''", "run, checkpoint or safetensors file to take weights from; empty: random weights"),
    CHOICE("weights", ALWAYS, "ema|online", "ema", "which encoder of init_from: the moving average or the trained one"),

    SECTION("data", ALWAYS, "what is read: a corpus or synthetic records"),
    TEXT("data.corpus", ALWAYS, "''", "folder of a corpus; ${VAR} takes environment variables"),
    SECTION("data.synthetic", SYNTHETIC, "records generated in memory, instead of a corpus"),
    NUMBER("data.synthetic.records", INT, NONE, SYNTHETIC, 1, 1e8, "2000", "how many"),
    NUMBER("data.synthetic.seconds", FLOAT, NONE, SYNTHETIC, 0.1, 86400, "10", "length of each, in seconds"),
    NUMBER("data.synthetic.rate", FLOAT, FREQUENCY, SYNTHETIC, 1, 1e6, "@data.rate", "sampling rate; must equal data.rate"),
    NUMBER("data.synthetic.seed", INT, NONE, SYNTHETIC, 0, 9007199254740992.0, "0", "of the records"),
    BOOLEAN("data.synthetic.ppg", SYNTHETIC, "false", "one PPG channel instead of 12 ECG leads"),
    LIST("data.mixture", WEIGHTS, ALWAYS, 0, 1e9, 0, 64, "{}", "weight of each database of the corpus; empty: all records alike"),
    NUMBER("data.rate", FLOAT, FREQUENCY, ALWAYS, 1, 1e6, NULL, "sampling rate; may be left to init_from"),
    NEEDED("data.crop", FLOAT, TIME, ALWAYS, 1e-3, 86400, "length of the random crop seen in training"),
    LIST("data.leads", STRINGS, ALWAYS, 0, 0, 0, 16, "[]", "leads and their order; empty: as in the corpus (or init_from)"),
    SECTION("data.folds", ALWAYS, "which of the source's folds are used for what; records of no fold are trained on"),
    LIST("data.folds.train", INTS, ALWAYS, 1, 32767, 0, 256, "[]", "folds to train on; empty: all but validation and test"),
    LIST("data.folds.validation", INTS, ALWAYS, 1, 32767, 0, 256, "[9]", "folds that choose checkpoints"),
    LIST("data.folds.test", INTS, ALWAYS, 1, 32767, 0, 256, "[10]", "folds for the final number, never trained on"),
    {.path = "data.task", .type = PK_KEY_STRING, .when = PK_WHEN_CLASSIFY, .required = true, .doc = "labels of the corpus to learn, e.g. all, superdiagnostic"},
    {.path = "data.targets", .type = PK_KEY_STRINGS, .when = PK_WHEN_REGRESS, .count_low = 1, .count_high = PK_RECIPE_TARGETS_MAX, .required = true, .doc = "numbers of the corpus to learn, e.g. [age]; records without any are left out"},
    CHOICE("data.statistics", ALWAYS, "source|task_rows|scalar", "source", "mean and std: per lead of each database, per lead of the task's training rows, or one pair for all leads"),
    NUMBER("data.threads", INT, NONE, ALWAYS, 1, 256, "2", "threads that read records"),
    CHOICE("data.on_gpu", ALWAYS, "auto|yes|no", "auto", "keep all records in GPU memory; auto: where they take at most half of what is free"),
    NUMBER("data.read_ahead", INT, NONE, ALWAYS, 1, 256, "2", "batches read ahead"),

    SECTION("model", ALWAYS, "the network"),
    SECTION("model.encoder", ALWAYS, "the encoder; width, depth, heads and patch may be left to init_from"),
    CHOICE("model.encoder.kind", ALWAYS, "vit|resnet1d_wang|xresnet1d50|xresnet1d101|efficientnet1d|net1d", "vit", "family; all but vit are convolutional, and their tokens are samples"),
    NUMBER("model.encoder.channels", INT, NONE, CONVOLUTION, 0, 16384, "0", "channels of the blocks of resnet1d_wang and xresnet1d; 0: as published"),
    NUMBER("model.encoder.width", INT, NONE, VIT, 2, 16384, NULL, "channels; even, a multiple of heads"),
    NUMBER("model.encoder.depth", INT, NONE, VIT, 1, 256, NULL, "blocks"),
    NUMBER("model.encoder.heads", INT, NONE, VIT, 1, 256, NULL, "attention heads"),
    NUMBER("model.encoder.patch", FLOAT, TIME, VIT, 1e-4, 3600, NULL, "length of one token over all leads; a whole number of samples"),
    NUMBER("model.encoder.registers", INT, NONE, VIT, 0, 16, "1", "learnable tokens put in front"),
    NUMBER("model.encoder.mlp_ratio", INT, NONE, VIT, 1, 16, "4", "hidden width of the MLP over the width"),
    BOOLEAN("model.encoder.qkv_bias", VIT, "false", "a bias on queries, keys and values, in the decoder too"),
    NUMBER("model.encoder.dropout", FLOAT, NONE, VIT, 0, 0.95, "0", "after attention and twice in the MLP, in pretraining; stages have their own"),
    NUMBER("model.encoder.drop_path", FLOAT, NONE, ALWAYS, 0, 0.95, "@published", "stochastic depth of the last block, rising from 0 at the first; of vit, efficientnet1d (as published 0.2) and net1d"),

    SECTION("objective", ALWAYS, "what is learned"),
    {.path = "objective.kind", .type = PK_KEY_ENUM, .choices = "jepa|mae|contrastive|classify|regress", .required = true, .doc = "jepa, mae and contrastive pretrain; classify learns data.task, regress data.targets"},
    SECTION("objective.predictor", JEPA, "the predictor of hidden tokens"),
    NEEDED("objective.predictor.width", INT, NONE, JEPA, 2, 16384, "channels; even, a multiple of heads"),
    NEEDED("objective.predictor.depth", INT, NONE, JEPA, 1, 256, "blocks"),
    NEEDED("objective.predictor.heads", INT, NONE, JEPA, 1, 256, "attention heads"),
    SECTION("objective.mask", JEPA, "which tokens are hidden"),
    NUMBER("objective.mask.min_block", INT, NONE, JEPA, 1, 1000000, "10", "shortest block of hidden tokens"),
    LIST("objective.mask.keep", FLOATS, JEPA, 0, 1, 2, 2, "[0.15, 0.25]", "share of tokens kept, drawn per batch from this interval"),
    SECTION("objective.ema", EMA, "momentum of the target encoder, linear over the run; contrastive: where objective.momentum asks for one"),
    NUMBER("objective.ema.start", FLOAT, NONE, EMA, 0, 1, "0.998", "momentum at the first step"),
    NUMBER("objective.ema.end", FLOAT, NONE, EMA, 0, 1, "0.9995", "momentum at the last step"),
    CHOICE("objective.variant", MAE, "patch|time|lead", "patch", "a token is a patch of one lead (ST-MEM), a patch of all leads (MTAE), or a whole lead (MLAE: patch = crop)"),
    NUMBER("objective.mask_ratio", FLOAT, NONE, MAE, 0, 1, "0.75", "share of the tokens that are hidden, of each lead's (patch) or of all; the kept number is rounded down"),
    SECTION("objective.decoder", MAE, "what reconstructs hidden tokens, each lead on its own (patch)"),
    NUMBER("objective.decoder.width", INT, NONE, MAE, 2, 16384, "256", "channels; even, a multiple of heads"),
    NUMBER("objective.decoder.depth", INT, NONE, MAE, 1, 256, "4", "blocks"),
    NUMBER("objective.decoder.heads", INT, NONE, MAE, 1, 256, "4", "attention heads"),
    CHOICE("objective.pairs", CONTRASTIVE, "record|adjacent|participant", "record", "what belongs together: two crops of a record (SimCLR), two adjacent crops (CMSC), crops of two records of a participant"),
    BOOLEAN("objective.single_records", CONTRASTIVE, "true", "pairs of participants: leave out those with one record; false refuses them"),
    NUMBER("objective.temperature", FLOAT, NONE, CONTRASTIVE, 1e-3, 100, "0.1", "cosines are divided by it"),
    BOOLEAN("objective.momentum", CONTRASTIVE, "false", "keys come from a moving average of the encoder, and the online side has a predictor (MoCo v3)"),
    NUMBER("objective.koleo", FLOAT, NONE, CONTRASTIVE, 0, 1000, "0", "weight of the KoLeo term, which spreads embeddings"),
    SECTION("objective.projection", CONTRASTIVE, "linear, GELU, linear on the mean of the tokens; dropped after pretraining"),
    NUMBER("objective.projection.hidden", INT, NONE, CONTRASTIVE, 1, 65536, "1024", "hidden width"),
    NUMBER("objective.projection.width", INT, NONE, CONTRASTIVE, 2, 4096, "128", "numbers that are compared"),
    BOOLEAN("objective.projection.norm", CONTRASTIVE, "false", "batch norm behind both layers, by micro-batch, as SimCLR and MoCo v3 have it"),
    SECTION("objective.augment", AUGMENT, "random changes of training signals, each [probability, low, high]; [] is off; docs/augmentations.svg shows them"),
#define PK_X(KIND, key, high, doc)                                                                 \
    LIST("objective.augment." #key, FLOATS, AUGMENT, 0, (high) > 1 ? (high) : 1, 0, (high) > 0 ? 3 : 1, "[]", doc),
    PK_AUGMENTS(PK_X)
#undef PK_X
    SECTION("objective.head", SUPERVISED, "from tokens to classes or targets"),
    CHOICE("objective.head.kind", SUPERVISED, "attentive|register_linear|mean_linear|concat_pool", "attentive", "one query attending to all tokens, the register, the mean of the patches, or their maximum and mean through a hidden layer"),
    NUMBER("objective.head.hidden", INT, NONE, SUPERVISED, 0, 65536, "128", "width of the hidden layer of concat_pool; 0: none"),
    NUMBER("objective.head.dropout", FLOAT, NONE, SUPERVISED, 0, 0.95, "0.5", "of concat_pool, before its last layer; half of it before the hidden one"),
    CHOICE("objective.loss", SUPERVISED, "bce|focal|asymmetric|softmax|mse|mae|huber", "bce; regress: mse", "classify: per-class sigmoid (bce; focal: Lin et al. 2017; asymmetric: Ridnik et al. 2021), or cross-entropy over classes (softmax, with single_label); regress: of targets in deviations of their training values"),
    NUMBER("objective.delta", FLOAT, NONE, REGRESS, 1e-6, 1e6, "1", "huber: where squares become straight lines, in deviations"),
    LIST("objective.gamma", FLOATS, CLASSIFY, 0, 20, 0, 2, "[]", "focusing powers of positives and negatives; empty: [2, 2] of focal, [0, 4] of asymmetric"),
    NUMBER("objective.alpha", FLOAT, NONE, CLASSIFY, 0, 1, "0", "focal: weight of positives, 1 - alpha of negatives; 0: none"),
    NUMBER("objective.margin", FLOAT, NONE, CLASSIFY, 0, 0.99, "0.05", "asymmetric: taken off the probability of negatives"),
    NUMBER("objective.smoothing", FLOAT, NONE, CLASSIFY, 0, 0.99, "0", "share of a label that goes to the other classes"),
    CHOICE("objective.class_weights", CLASSIFY, "none|balanced", "none", "balanced: rare classes count more, by the training rows (bce family: positives by negatives / positives; softmax: inverse frequency)"),
    NUMBER("objective.mixup", FLOAT, NONE, CLASSIFY, 0, 10, "0", "alpha of mixup between neighbours in a micro-batch; 0: none"),
    BOOLEAN("objective.single_label", CLASSIFY, "false", "use only records with exactly one label of the task"),

    {.path = "stages", .type = PK_KEY_SECTIONS, .when = PK_WHEN_SUPERVISED, .required = true, .count_low = 1, .count_high = PK_STAGES_MAX, .doc = "what is trained, one stage after the other, each from the best checkpoint of the last"},
    TEXT("stages.*.name", SUPERVISED, "''", "for logs and reports"),
    BOOLEAN("stages.*.freeze_encoder", SUPERVISED, "false", "train the head only; the encoder is in evaluation mode"),
    NEEDED("stages.*.steps", INT, STEPS, SUPERVISED, 1, 1e9, "optimizer steps"),
    NUMBER("stages.*.patience", INT, STEPS, SUPERVISED, 0, 1e9, "0", "stop after so many steps without a better validation score; 0: never"),
    NUMBER("stages.*.dropout", FLOAT, NONE, SUPERVISED, 0, 0.95, "0", "of the encoder in this stage"),
    SECTION("stages.*.optimizer", SUPERVISED, "AdamW"),
    OPTIMIZER_KEYS("stages.*.optimizer", SUPERVISED, "[0.9, 0.999]"),
    RATE_KEYS("stages.*.learning_rate", SUPERVISED),
    DECAY_KEYS("stages.*.weight_decay", SUPERVISED),

    SECTION("train", ALWAYS, "how it is trained"),
    NEEDED("train.steps", INT, STEPS, PRETRAIN, 1, 1e9, "optimizer steps of pretraining"),
    NEEDED("train.batch_size", INT, NONE, ALWAYS, 1, 1048576, "records per optimizer step, over all ranks"),
    NUMBER("train.micro_batch", INT, NONE, ALWAYS, 0, 1048576, "0", "records computed at once per rank; 0: chosen"),
    NUMBER("train.accumulate", INT, NONE, ALWAYS, 1, 65536, "1", "parts of a batch computed one after the other"),
    NUMBER("train.threads", INT, NONE, ALWAYS, 0, 1024, "0", "compute threads per rank; 0: all cores"),
    BOOLEAN("train.zero1", PRETRAIN, "false",
            "each rank keeps moments of, and updates, its share of the parameters only (ZeRO stage 1)"),
    BOOLEAN("train.sync_norm", ALWAYS, "false",
            "batch norm over the records of all ranks, each computing its share of a batch at once"),
    CHOICE("train.precision", ALWAYS, "auto|fp32|bf16", "auto",
           "storage of activations and working weights; auto is bf16 on a GPU, fp32 on the CPU"),
    CHOICE("train.wire", ALWAYS, "fp32|bf16", "fp32",
           "gradients on their way between GPUs; bf16 is half the bytes, and rounds their sums"),
    SECTION("train.optimizer", PRETRAIN, "optimizer of pretraining"),
    CHOICE("train.optimizer.kind", PRETRAIN, "adamw", "adamw", "rule"),
    OPTIMIZER_KEYS("train.optimizer", PRETRAIN, "[0.9, 0.99]"),
    RATE_KEYS("train.learning_rate", PRETRAIN),
    DECAY_KEYS("train.weight_decay", PRETRAIN),
    NUMBER("train.log_every", INT, STEPS, ALWAYS, 1, 1e9, "10", "steps between lines of log and metrics"),
    CHOICE("train.on_nan", ALWAYS, "stop|skip", "stop", "a loss or gradient that is not finite: stop (exit 76), or skip the step"),

    SECTION("evaluation", SUPERVISED, "scores on the validation and test folds"),
    NUMBER("evaluation.every", INT, STEPS, SUPERVISED, 1, 1e9, "100", "steps between validations"),
    NUMBER("evaluation.window", FLOAT, TIME, SUPERVISED, 1e-3, 86400, "@data.crop", "length of a window"),
    NUMBER("evaluation.stride", FLOAT, TIME, SUPERVISED, 1e-3, 86400, "@evaluation.window", "distance of the windows' starts"),
    CHOICE("evaluation.aggregation", CLASSIFY, "mean_logits|max_sigmoid", "mean_logits", "from windows to a record"),
    CHOICE("evaluation.metric", SUPERVISED, "macro_auc|rmse", "macro_auc; regress: rmse", "what chooses the checkpoint, on the validation folds; rmse: mean over targets, in deviations"),
    NUMBER("evaluation.bootstrap", INT, NONE, SUPERVISED, 0, 1000000, "1000", "resamples of the test set for intervals; 0: none"),
    NUMBER("evaluation.bootstrap_seed", INT, NONE, SUPERVISED, 0, 9007199254740992.0, "0", "of the resamples"),
    BOOLEAN("evaluation.test", SUPERVISED, "false", "score the test folds once, at the end"),

    SECTION("output", ALWAYS, "what is written"),
    TEXT("output.dir", ALWAYS, "@dir", "folder of the run; ${VAR} takes environment variables; default: runs/NAME"),
    SECTION("output.checkpoint", ALWAYS, "when checkpoints are written and which are kept"),
    NUMBER("output.checkpoint.every", INT, STEPS, ALWAYS, 0, 1e9, "1000", "steps between checkpoints; 0: only the last"),
    NUMBER("output.checkpoint.every_time", FLOAT, TIME, ALWAYS, 0, 8640000, "0", "wall time between checkpoints; 0: off"),
    NUMBER("output.checkpoint.keep_last", INT, NONE, ALWAYS, 1, 1000000, "2", "newest checkpoints to keep"),
    NUMBER("output.checkpoint.keep_every", INT, STEPS, ALWAYS, 0, 1e9, "0", "keep those at multiples of so many steps for ever; 0: none"),
    BOOLEAN("output.tensorboard", ALWAYS, "true", "write TensorBoard event files"),
};
/* clang-format on */

const struct pk_key *pk_keys(int *count)
{
    *count = (int)PK_COUNT(keys);
    return keys;
}

int pk_key_index(const char *path)
{
    for (int i = 0; i < (int)PK_COUNT(keys); i++)
        if (!strcmp(keys[i].path, path)) return i;
    return -1;
}

int pk_key_resolve(const char *path, int *item)
{
    char norm[256];
    size_t n = 0;
    *item = 0;
    for (const char *p = path; *p; p++) {
        bool starts = p == path || p[-1] == '.';
        if (n + 2 > sizeof norm) return -1;
        if (!starts || *p < '0' || *p > '9') {
            norm[n++] = *p;
            continue;
        }
        int v = 0;
        for (; *p >= '0' && *p <= '9'; p++)
            if ((v = v * 10 + (*p - '0')) >= PK_STAGES_MAX) return -1;
        if (*p && *p != '.') return -1;
        *item = v;
        norm[n++] = '*';
        p--;
    }
    norm[n] = 0;
    /* "stages.1" is the section itself, which has no row of its own. */
    if (n > 2 && !strcmp(norm + n - 2, ".*")) norm[n - 2] = 0;
    return pk_key_index(norm);
}

const char *pk_key_name(const struct pk_key *key)
{
    const char *dot = strrchr(key->path, '.');
    return dot ? dot + 1 : key->path;
}

bool pk_key_in(const struct pk_key *key, const char *section)
{
    size_t n = strlen(section);
    const char *name = pk_key_name(key);
    if (!n) return name == key->path;
    return (size_t)(name - key->path) == n + 1 && !strncmp(key->path, section, n);
}

const char *pk_key_type_name(enum pk_key_type type)
{
    static const char *const names[] = {"section",       "list of sections",      "whole number",
                                        "number",        "true or false",         "text",
                                        "choice",        "list of whole numbers", "list of numbers",
                                        "list of texts", "map of numbers by name"};
    return names[type];
}

const char *pk_key_unit_name(enum pk_key_unit unit)
{
    static const char *const names[] = {"", "time", "frequency", "steps"};
    return names[unit];
}

void pk_key_range(const struct pk_key *key, char out[256])
{
    out[0] = 0;
    if (key->type == PK_KEY_ENUM) {
        size_t n = 0;
        for (const char *p = key->choices; *p && n + 3 < 256; p++) {
            out[n++] = *p == '|' ? ',' : *p;
            if (*p == '|') out[n++] = ' ';
        }
        out[n] = 0;
        return;
    }
    bool number = key->type == PK_KEY_INT || key->type == PK_KEY_FLOAT ||
                  key->type == PK_KEY_INTS || key->type == PK_KEY_FLOATS ||
                  key->type == PK_KEY_WEIGHTS;
    const char *unit = key->unit == PK_UNIT_TIME        ? " s"
                       : key->unit == PK_UNIT_FREQUENCY ? " Hz"
                                                        : "";
    if (number && key->low == key->high)
        snprintf(out, 256, "%.10g", key->low);
    else if (number && key->high >= 1e8)
        snprintf(out, 256, "at least %.10g%s", key->low, unit);
    else if (number)
        snprintf(out, 256, "%.10g%s to %.10g%s", key->low, unit, key->high, unit);
}
