/* recipe_check.c -- the checks that look at more than one key: sizes that must divide, schedules
 * that must fit, folds that must not meet (see recipe_internal.h). Runs when every key on its own
 * is good. */
#include "core/augment.h"
#include "core/recipe_internal.h"

#include <math.h>
#include <string.h>
#include <strings.h>

struct check {
    const struct pk_recipe *r;
    struct pk_diags *d;
};

static double f64(const struct check *c, const char *path)
{
    return pk_recipe_f64(c->r, path);
}

static long long i64(const struct check *c, const char *path)
{
    return (long long)pk_recipe_i64(c->r, path);
}

static bool is(const struct check *c, const char *path, const char *text)
{
    return !strcmp(pk_recipe_str(c->r, path), text);
}

/* Where to point: at the first of the two that somebody wrote. */
static struct pk_place at(const struct check *c, const char *path, const char *other)
{
    const struct pk_value *v = pk_recipe_value(c->r, path);
    if (v && v->given) return v->at;
    if (other) return at(c, other, NULL);
    return (struct pk_place){-1, 0, 0, 0};
}

/* Samples of a time at the recipe's rate; 0 and an error when that is not a whole number. */
static int64_t samples(const struct check *c, const char *path, const char *what)
{
    double rate = f64(c, "data.rate"), exact = f64(c, path) * rate, whole = round(exact);
    if (whole >= 1 && fabs(exact - whole) <= 1e-6 * PK_MAX(1.0, exact)) return (int64_t)whole;
    pk_diag_add(c->d, at(c, path, "data.rate"),
                "%s of %.10g s at %.10g Hz is %.10g samples: it must be a whole number", what,
                f64(c, path), rate, exact);
    if (!strcmp(path, "model.encoder.patch"))
        pk_diag_help(c->d, "rate does not fit the patches: change 'data.rate' or "
                           "'model.encoder.patch'");
    return 0;
}

static void check_data(const struct check *c)
{
    bool corpus = *pk_recipe_str(c->r, "data.corpus") != 0;
    bool synthetic = pk_recipe_given(c->r, "data.synthetic");
    if (corpus == synthetic) {
        pk_diag_add(c->d, at(c, "data.synthetic", "data"),
                    corpus ? "'data' has both 'corpus' and 'synthetic'"
                           : "'data' has neither 'corpus' nor 'synthetic'");
        pk_diag_help(
            c->d, corpus
                      ? "keep one of them; 'data.corpus=' and 'data.synthetic=' take an inherited "
                        "one away"
                      : "write 'corpus: FOLDER', or 'synthetic: {records: 2000}'");
    }
    if (synthetic) {
        double rate = f64(c, "data.synthetic.rate"), seconds = f64(c, "data.synthetic.seconds");
        if (rate != f64(c, "data.rate"))
            pk_diag_add(c->d, at(c, "data.synthetic.rate", "data.rate"),
                        "'data.synthetic.rate' is %.10g Hz, but 'data.rate' is %.10g Hz", rate,
                        f64(c, "data.rate"));
        if (seconds < f64(c, "data.crop"))
            pk_diag_add(c->d, at(c, "data.crop", "data.synthetic.seconds"),
                        "a crop of %.10g s is longer than the synthetic records of %.10g s",
                        f64(c, "data.crop"), seconds);
    }
    double sum = 0;
    int64_t n = pk_recipe_count(c->r, "data.mixture");
    for (int64_t i = 0; i < n; i++) sum += pk_recipe_item_f64(c->r, "data.mixture", i);
    if (n && !(sum > 0))
        pk_diag_add(c->d, at(c, "data.mixture", NULL), "the weights of 'data.mixture' are all 0");
    n = pk_recipe_count(c->r, "data.leads");
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < i; k++)
            if (!strcasecmp(pk_recipe_item_str(c->r, "data.leads", i),
                            pk_recipe_item_str(c->r, "data.leads", k)))
                pk_diag_add(c->d, at(c, "data.leads", NULL),
                            "lead '%.40s' is in 'data.leads' twice",
                            pk_recipe_item_str(c->r, "data.leads", i));
}

static void check_folds(const struct check *c)
{
    static const char *const name[] = {"data.folds.train", "data.folds.validation",
                                       "data.folds.test"};
    for (int a = 0; a < 3; a++)
        for (int b = a + 1; b < 3; b++)
            for (int64_t i = 0; i < pk_recipe_count(c->r, name[a]); i++)
                for (int64_t k = 0; k < pk_recipe_count(c->r, name[b]); k++) {
                    double fold = pk_recipe_item_f64(c->r, name[a], i);
                    if (fold != pk_recipe_item_f64(c->r, name[b], k)) continue;
                    pk_diag_add(c->d, at(c, name[a], name[b]), "fold %g is in '%s' and in '%s'",
                                fold, name[a], name[b]);
                    pk_diag_help(c->d, "records of one fold may serve one purpose only");
                }
}

static void check_width(const struct check *c, const char *section)
{
    char width[64], heads[64];
    snprintf(width, sizeof width, "%s.width", section);
    snprintf(heads, sizeof heads, "%s.heads", section);
    long long w = i64(c, width), h = i64(c, heads);
    if (w && h && w % h) {
        pk_diag_add(c->d, at(c, width, heads), "'%s' %lld is not a multiple of '%s' %lld", width, w,
                    heads, h);
        pk_diag_help(c->d, "each head has width / heads channels: %lld or %lld would do",
                     PK_MAX(h, w - w % h), w - w % h + h);
    }
    if (w % 2)
        pk_diag_add(c->d, at(c, width, NULL),
                    "'%s' %lld is odd: half of the position's channels are sines, half cosines",
                    width, w);
}

/* What a masked autoencoder hides. Where tokens are leads, how many there are is only known with
 * the data. */
static void check_hidden(const struct check *c, int64_t tokens)
{
    double ratio = f64(c, "objective.mask_ratio");
    if (is(c, "objective.variant", "lead")) {
        if (tokens == 1) return;
        pk_diag_add(c->d, at(c, "objective.variant", "model.encoder.patch"),
                    "'objective.variant: lead' makes a token of a whole lead, but a patch is %.10g "
                    "s of a crop of %.10g s",
                    f64(c, "model.encoder.patch"), f64(c, "data.crop"));
        pk_diag_help(c->d, "'model.encoder.patch: %.10g s' would do", f64(c, "data.crop"));
        return;
    }
    double kept = floor((double)tokens * (1 - ratio) + 1e-9);
    if (kept >= 1 && kept < (double)tokens) return;
    pk_diag_add(c->d, at(c, "objective.mask_ratio", "data.crop"),
                "'objective.mask_ratio' %.10g of %lld tokens leaves none to %s", ratio,
                (long long)tokens, kept < 1 ? "see" : "predict");
}

static void check_drop_path(const struct check *c)
{
    static const char *const dropping[] = {"vit", "efficientnet1d", "net1d"};
    if (!pk_recipe_given(c->r, "model.encoder.drop_path")) return;
    for (size_t i = 0; i < PK_COUNT(dropping); i++)
        if (is(c, "model.encoder.kind", dropping[i])) return;
    pk_diag_add(
        c->d, at(c, "model.encoder.drop_path", "model.encoder.kind"),
        "'model.encoder.drop_path': the blocks of %s were published without stochastic depth",
        pk_recipe_str(c->r, "model.encoder.kind"));
}

/* The family whose blocks differ, so that one number cannot name their channels. */
static void check_channels(const struct check *c)
{
    const bool fixed =
        is(c, "model.encoder.kind", "efficientnet1d") || is(c, "model.encoder.kind", "net1d");
    if (!fixed || !i64(c, "model.encoder.channels")) return;
    pk_diag_add(c->d, at(c, "model.encoder.channels", NULL),
                "'model.encoder.channels': those of %s are as published, none can be chosen",
                pk_recipe_str(c->r, "model.encoder.kind"));
}

/* What a convolutional encoder reads. */
static void check_samples(const struct check *c)
{
    samples(c, "data.crop", "a crop");
    if (!pk_recipe_supervised(c->r)) return;
    samples(c, "evaluation.window", "a window");
    samples(c, "evaluation.stride", "a stride");
}

static void check_tokens(const struct check *c)
{
    const bool vit = is(c, "model.encoder.kind", "vit");
    if (f64(c, "data.rate") == 0) return; // of init_from
    if (!vit) check_samples(c);
    if (!vit || f64(c, "model.encoder.patch") == 0) return;
    int64_t patch = samples(c, "model.encoder.patch", "a patch");
    int64_t crop = samples(c, "data.crop", "a crop");
    if (!patch || !crop) return;
    if (crop % patch) {
        pk_diag_add(c->d, at(c, "data.crop", "model.encoder.patch"),
                    "a crop of %lld samples is not a multiple of the patch of %lld samples",
                    (long long)crop, (long long)patch);
        double s = f64(c, "model.encoder.patch") * (double)PK_MAX(crop / patch, (int64_t)1);
        pk_diag_help(c->d, "'data.crop: %.10g s' would do", s);
        return;
    }
    int64_t tokens = crop / patch;
    if (pk_recipe_supervised(c->r)) {
        int64_t window = samples(c, "evaluation.window", "a window");
        samples(c, "evaluation.stride", "a stride");
        if (window % patch)
            pk_diag_add(c->d, at(c, "evaluation.window", "model.encoder.patch"),
                        "a window of %lld samples is not a multiple of the patch of %lld samples",
                        (long long)window, (long long)patch);
        return;
    }
    if (is(c, "objective.kind", "mae")) {
        check_hidden(c, tokens);
        return;
    }
    if (is(c, "objective.kind", "contrastive")) return;
    double low = pk_recipe_item_f64(c->r, "objective.mask.keep", 0);
    double high = pk_recipe_item_f64(c->r, "objective.mask.keep", 1);
    if (!(low > 0 && low <= high && high < 1)) {
        pk_diag_add(c->d, at(c, "objective.mask.keep", NULL),
                    "'objective.mask.keep' must be ascending, above 0 and below 1");
        return;
    }
    if (ceil(high * (double)tokens) >= (double)tokens)
        pk_diag_add(c->d, at(c, "objective.mask.keep", "data.crop"),
                    "keeping %.10g of %lld tokens hides none", high, (long long)tokens);
    if (i64(c, "objective.mask.min_block") > tokens)
        pk_diag_add(c->d, at(c, "objective.mask.min_block", "data.crop"),
                    "'objective.mask.min_block' %lld is more than the %lld tokens of a crop",
                    i64(c, "objective.mask.min_block"), (long long)tokens);
}

/* Learning rate of `section` ("train", "stages.0") against its steps. */
static void check_schedule(const struct check *c, const char *section)
{
    char peak[64], warmup[64], start[64], end[64], shape[64], steps[64];
    snprintf(peak, sizeof peak, "%s.learning_rate.peak", section);
    snprintf(warmup, sizeof warmup, "%s.learning_rate.warmup", section);
    snprintf(start, sizeof start, "%s.learning_rate.start", section);
    snprintf(end, sizeof end, "%s.learning_rate.end", section);
    snprintf(shape, sizeof shape, "%s.learning_rate.shape", section);
    snprintf(steps, sizeof steps, "%s.steps", section);
    const bool cycle = is(c, shape, "one_cycle");
    if (cycle && i64(c, warmup)) {
        pk_diag_add(c->d, at(c, warmup, shape),
                    "'%s' %lld has no meaning with '%s: one_cycle', whose rise is its warm-up",
                    warmup, i64(c, warmup), shape);
        pk_diag_help(c->d, "set it to 0, and 'rise' to a share of the steps");
    }
    if (cycle && f64(c, start) > f64(c, peak))
        pk_diag_add(c->d, at(c, start, peak), "'%s' %g is above '%s' %g", start, f64(c, start),
                    peak, f64(c, peak));
    if (i64(c, warmup) > i64(c, steps)) {
        pk_diag_add(c->d, at(c, warmup, steps), "'%s' %lld is more than '%s' %lld", warmup,
                    i64(c, warmup), steps, i64(c, steps));
        pk_diag_help(c->d, "shorten both when you shorten a run");
    }
    if (i64(c, warmup) && f64(c, start) > f64(c, peak))
        pk_diag_add(c->d, at(c, start, peak), "'%s' %g is above '%s' %g", start, f64(c, start),
                    peak, f64(c, peak));
    if (!is(c, shape, "constant") && f64(c, end) > f64(c, peak))
        pk_diag_add(c->d, at(c, end, peak), "'%s' %g is above '%s' %g", end, f64(c, end), peak,
                    f64(c, peak));
}

static void check_batch(const struct check *c)
{
    long long batch = i64(c, "train.batch_size"), parts = i64(c, "train.accumulate");
    long long micro = i64(c, "train.micro_batch"), unit = parts * PK_MAX(micro, 1);
    if (batch % unit == 0) return;
    pk_diag_add(c->d, at(c, micro ? "train.micro_batch" : "train.accumulate", "train.batch_size"),
                micro
                    ? "'train.batch_size' %lld is not a multiple of accumulate x micro_batch = %lld"
                    : "'train.batch_size' %lld is not a multiple of 'train.accumulate' %lld",
                batch, unit);
    if (micro) pk_diag_help(c->d, "'micro_batch: 0' lets the program choose");
}

/* What may be left to init_from must be given without it. */
static void check_inherited(const struct check *c)
{
    static const char *const paths[] = {"data.rate", "model.encoder.width", "model.encoder.depth",
                                        "model.encoder.heads", "model.encoder.patch"};
    if (*pk_recipe_str(c->r, "init_from")) return;
    for (size_t i = 0; i < PK_COUNT(paths); i++) {
        if (pk_recipe_value(c->r, paths[i])->set) continue;
        if (i && !is(c, "model.encoder.kind", "vit")) return;
        pk_diag_add(c->d, at(c, i ? "model.encoder" : "data", NULL),
                    "missing key '%s' (only with 'init_from' it may be left out)", paths[i]);
    }
}

/* Only a transformer has tokens that can be hidden. */
static void check_hideable(const struct check *c)
{
    if (is(c, "model.encoder.kind", "vit")) return;
    pk_diag_add(c->d, at(c, "model.encoder.kind", "objective.kind"),
                "'objective.kind: %s' hides tokens, which '%s' does not have",
                pk_recipe_str(c->r, "objective.kind"), pk_recipe_str(c->r, "model.encoder.kind"));
    pk_diag_help(c->d, "'model.encoder.kind: vit', or 'objective.kind: contrastive'");
}

static void check_ema(const struct check *c)
{
    if (f64(c, "objective.ema.start") > f64(c, "objective.ema.end"))
        pk_diag_add(c->d, at(c, "objective.ema.start", "objective.ema.end"),
                    "'objective.ema.start' %g is above 'objective.ema.end' %g",
                    f64(c, "objective.ema.start"), f64(c, "objective.ema.end"));
}

static void check_jepa(const struct check *c)
{
    check_hideable(c);
    check_width(c, "objective.predictor");
    check_schedule(c, "train");
    check_ema(c);
}

/* [], [probability] of those without a range, [probability, low, high] of the others. */
static void check_augment(const struct check *c)
{
    static const struct {
        const char *path;
        double high; // 0: no range
    } all[] = {
#define PK_X(KIND, key, high, doc) {"objective.augment." #key, high},
        PK_AUGMENTS(PK_X)
#undef PK_X
    };
    for (size_t i = 0; i < PK_COUNT(all); i++) {
        const int64_t n = pk_recipe_count(c->r, all[i].path);
        const double p = n ? pk_recipe_item_f64(c->r, all[i].path, 0) : 0;
        const double low = n == 3 ? pk_recipe_item_f64(c->r, all[i].path, 1) : 0;
        const double high = n == 3 ? pk_recipe_item_f64(c->r, all[i].path, 2) : 0;
        if (n == 0) continue;
        if (n == (all[i].high > 0 ? 3 : 1) && p <= 1 && low <= high && high <= all[i].high)
            continue;
        pk_diag_add(c->d, at(c, all[i].path, NULL),
                    all[i].high > 0 ? "'%s' must be [probability, low, high], with a probability "
                                      "up to 1 and low <= high <= %g"
                                    : "'%s' must be [probability], up to 1",
                    all[i].path, all[i].high);
    }
}

static void check_contrastive(const struct check *c)
{
    const long long batch = i64(c, "train.batch_size"), parts = i64(c, "train.accumulate");
    check_schedule(c, "train");
    check_ema(c);
    check_augment(c);
    if (batch % parts == 0 && (batch / parts % 2 || batch / parts < 4)) {
        pk_diag_add(c->d, at(c, "train.batch_size", "train.accumulate"),
                    "%lld records at once cannot be compared: an even number of 4 or more is "
                    "needed, two for each pair",
                    batch / parts);
        pk_diag_help(c->d, "'train.batch_size' counts both records of a pair");
    }
}

static void check_mae(const struct check *c)
{
    check_hideable(c);
    check_width(c, "objective.decoder");
    check_schedule(c, "train");
    const struct pk_value *registers = pk_recipe_value(c->r, "model.encoder.registers");
    if (registers && registers->given && i64(c, "model.encoder.registers"))
        pk_diag_add(c->d, at(c, "model.encoder.registers", NULL),
                    "the encoder of a masked autoencoder has no registers: leave the key out, or "
                    "set it to 0");
}

/* Settings of one loss that another one would not read. */
static void check_loss(const struct check *c)
{
    const bool focal = is(c, "objective.loss", "focal");
    const bool asymmetric = is(c, "objective.loss", "asymmetric");
    const int64_t powers = pk_recipe_count(c->r, "objective.gamma");
    if (powers && !focal && !asymmetric)
        pk_diag_add(c->d, at(c, "objective.gamma", "objective.loss"),
                    "'objective.gamma' is of the losses focal and asymmetric, not of '%s'",
                    pk_recipe_str(c->r, "objective.loss"));
    if (powers == 1)
        pk_diag_add(c->d, at(c, "objective.gamma", NULL),
                    "'objective.gamma' must be [of positives, of negatives], or empty");
    if (f64(c, "objective.alpha") > 0 && !focal)
        pk_diag_add(c->d, at(c, "objective.alpha", "objective.loss"),
                    "'objective.alpha' is of the loss focal, not of '%s'",
                    pk_recipe_str(c->r, "objective.loss"));
    if (f64(c, "objective.mixup") > 0 && i64(c, "train.micro_batch") == 1)
        pk_diag_add(c->d, at(c, "objective.mixup", "train.micro_batch"),
                    "'objective.mixup' mixes records of a micro-batch, and this has one");
}

/* Losses and scores are of classes or of targets. */
static void check_learned(const struct check *c)
{
    const bool classes = is(c, "objective.kind", "classify");
    const bool of_targets = is(c, "objective.loss", "mse") || is(c, "objective.loss", "mae") ||
                            is(c, "objective.loss", "huber");
    if (classes == of_targets) {
        pk_diag_add(c->d, at(c, "objective.loss", "objective.kind"),
                    "'objective.loss: %s' is of 'objective.kind: %s'",
                    pk_recipe_str(c->r, "objective.loss"), classes ? "regress" : "classify");
        pk_diag_help(c->d,
                     classes ? "take bce, focal, asymmetric or softmax" : "take mse, mae or huber");
    }
    if (classes == is(c, "evaluation.metric", "rmse")) {
        pk_diag_add(c->d, at(c, "evaluation.metric", "objective.kind"),
                    "'evaluation.metric: %s' is of 'objective.kind: %s'",
                    pk_recipe_str(c->r, "evaluation.metric"), classes ? "regress" : "classify");
        pk_diag_help(c->d, "leave the key out");
    }
    if (!classes && pk_recipe_value(c->r, "objective.delta")->given &&
        !is(c, "objective.loss", "huber"))
        pk_diag_add(c->d, at(c, "objective.delta", "objective.loss"),
                    "'objective.delta' is of the loss huber, not of '%s'",
                    pk_recipe_str(c->r, "objective.loss"));
    const int64_t n = pk_recipe_count(c->r, "data.targets");
    for (int64_t i = 0; !classes && i < n; i++)
        for (int64_t k = 0; k < i; k++)
            if (!strcmp(pk_recipe_item_str(c->r, "data.targets", i),
                        pk_recipe_item_str(c->r, "data.targets", k)))
                pk_diag_add(c->d, at(c, "data.targets", NULL),
                            "target '%.40s' is in 'data.targets' twice",
                            pk_recipe_item_str(c->r, "data.targets", i));
}

static void check_supervised(const struct check *c)
{
    check_augment(c);
    check_learned(c);
    if (is(c, "objective.kind", "classify")) check_loss(c);
    if (is(c, "objective.head.kind", "register_linear") && !is(c, "model.encoder.kind", "vit"))
        pk_diag_add(c->d, at(c, "objective.head.kind", "model.encoder.kind"),
                    "'objective.head.kind: register_linear' needs a transformer");
    for (int i = 0; i < c->r->stages; i++) {
        char section[32];
        snprintf(section, sizeof section, "stages.%d", i);
        check_schedule(c, section);
    }
    if (is(c, "objective.kind", "classify") && is(c, "objective.loss", "softmax") &&
        !pk_recipe_bool(c->r, "objective.single_label")) {
        pk_diag_add(c->d, at(c, "objective.loss", "objective.single_label"),
                    "'objective.loss: softmax' needs records with exactly one label");
        pk_diag_help(c->d, "set 'single_label: true', or use 'loss: bce'");
    }
    if (is(c, "objective.head.kind", "register_linear") && !i64(c, "model.encoder.registers"))
        pk_diag_add(c->d, at(c, "objective.head.kind", "model.encoder.registers"),
                    "'objective.head.kind: register_linear' needs 'model.encoder.registers' of 1 "
                    "or more");
}

void pk_recipe_check(const struct pk_recipe *r, struct pk_diags *d)
{
    struct check c = {r, d};
    check_data(&c);
    check_folds(&c);
    check_inherited(&c);
    if (is(&c, "model.encoder.kind", "vit")) check_width(&c, "model.encoder");
    check_channels(&c);
    check_drop_path(&c);
    check_tokens(&c);
    check_batch(&c);
    if (is(&c, "objective.kind", "jepa"))
        check_jepa(&c);
    else if (is(&c, "objective.kind", "mae"))
        check_mae(&c);
    else if (is(&c, "objective.kind", "contrastive"))
        check_contrastive(&c);
    else
        check_supervised(&c);
}
