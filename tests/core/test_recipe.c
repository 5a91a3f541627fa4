/* test_recipe.c -- recipes: values, units, defaults, extends, overrides, origins, every class of
 * error with its place, and 2000 damaged recipes that must not crash. */
#include "core/recipe.h"
#include "tests/test.h"

#define FOLDER "test_recipe_files"

/* A good recipe that the cases below break in one place. */
static const char good[] = "schema: 1\n"
                           "seed: 7\n"
                           "data:\n"
                           "  corpus: here\n"
                           "  rate: 500 Hz\n"
                           "  crop: 10 s\n"
                           "  leads: [I, II, V1]\n"
                           "  mixture: {a: 0.25, b: 3}\n"
                           "model:\n"
                           "  encoder: {width: 64, depth: 2, heads: 4, patch: 50 ms}\n"
                           "objective:\n"
                           "  kind: jepa\n"
                           "  predictor: {width: 32, depth: 1, heads: 4}\n"
                           "train:\n"
                           "  steps: 100\n"
                           "  batch_size: 64\n"
                           "  learning_rate: {peak: 1e-3, warmup: 10 steps}\n";

static void put(const char *name, const char *text, size_t n)
{
    char path[PK_PATH_MAX];
    struct pk_err err = {0};
    FILE *f;
    CHECK_OK(pk_mkdirs(FOLDER "/base", &err), &err);
    snprintf(path, sizeof path, FOLDER "/%s", name);
    CHECK_OK(pk_open(&f, path, "wb", &err), &err);
    if (!f) return;
    CHECK_OK(pk_write(f, text, n, path, &err), &err);
    fclose(f);
}

static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

static enum pk_status load(struct pk_recipe **r, const char *name, char *override,
                           struct pk_err *err)
{
    char path[PK_PATH_MAX];
    *err = (struct pk_err){0};
    snprintf(path, sizeof path, FOLDER "/%s", name);
    return pk_recipe_load(r, path, override ? 1 : 0, &override, NULL, err);
}

static void values(void)
{
    struct pk_err err;
    struct pk_recipe *r;
    put_text("good.yaml", good);
    CHECK_OK(load(&r, "good.yaml", NULL, &err), &err);
    if (!r) return;
    CHECK(pk_recipe_i64(r, "seed") == 7 && pk_recipe_f64(r, "seed") == 7);
    CHECK(pk_recipe_f64(r, "data.rate") == 500 && pk_recipe_f64(r, "data.crop") == 10);
    CHECK(pk_recipe_f64(r, "model.encoder.patch") == 0.05);
    CHECK(pk_recipe_i64(r, "train.learning_rate.warmup") == 10);
    CHECK(pk_recipe_f64(r, "train.learning_rate.peak") == 1e-3);
    CHECK(!strcmp(pk_recipe_str(r, "data.corpus"), "here"));
    CHECK(!strcmp(pk_recipe_str(r, "objective.kind"), "jepa"));
    CHECK(pk_recipe_count(r, "data.leads") == 3);
    CHECK(!strcmp(pk_recipe_item_str(r, "data.leads", 2), "V1"));
    CHECK(pk_recipe_count(r, "data.mixture") == 2 && pk_recipe_item_f64(r, "data.mixture", 1) == 3);
    CHECK(!strcmp(pk_recipe_item_key(r, "data.mixture", 0), "a"));
    /* defaults */
    CHECK(pk_recipe_i64(r, "model.encoder.mlp_ratio") == 4);
    CHECK(pk_recipe_item_f64(r, "train.optimizer.beta", 1) == 0.99);
    CHECK(pk_recipe_bool(r, "output.tensorboard"));
    CHECK(!strcmp(pk_recipe_str(r, "name"), "good"));
    CHECK(!strcmp(pk_recipe_str(r, "output.dir"), "runs/good"));
    CHECK(pk_recipe_f64(r, "train.weight_decay.end") ==
          pk_recipe_f64(r, "train.weight_decay.start"));
    /* given and origin */
    CHECK(pk_recipe_given(r, "train.steps") && pk_recipe_given(r, "train.learning_rate"));
    CHECK(!pk_recipe_given(r, "train.accumulate") && !pk_recipe_given(r, "data.synthetic"));
    CHECK(!strcmp(pk_recipe_origin(r, "train.steps"), FOLDER "/good.yaml:15:3"));
    CHECK(!strcmp(pk_recipe_origin(r, "train.accumulate"), "default"));
    /* a caller's mistakes are harmless */
    CHECK(pk_recipe_i64(r, "train.nothing") == 0 && !*pk_recipe_str(r, "data.rate"));
    CHECK(!*pk_recipe_item_str(r, "data.leads", 3) && pk_recipe_item_f64(r, "seed", -1) == 0);
    CHECK(!pk_recipe_bool(r, "train.steps") && pk_recipe_count(r, "stages") == 0);
    pk_recipe_free(r);
}

/* What each unit and each way to write a number gives. */
static void scalars(void)
{
    static const struct {
        const char *override, *path;
        double value;
    } cases[] = {{"data.crop=5s", "data.crop", 5},
                 {"data.crop=5000 ms", "data.crop", 5},
                 {"data.crop=0.5 min", "data.crop", 30},
                 {"data.crop=1e1 s", "data.crop", 10},
                 {"data.crop=\"5 s\"", "data.crop", 5}, // quoted: texts with units are texts anyway
                 {"data.rate=1 kHz", "data.rate", 1000},
                 {"output.checkpoint.every_time=2 h", "output.checkpoint.every_time", 7200},
                 {"output.checkpoint.every_time=0", "output.checkpoint.every_time", 0},
                 {"output.checkpoint.every=1 step", "output.checkpoint.every", 1},
                 {"seed=0x1F", "seed", 31},
                 {"seed=0o17", "seed", 15},
                 {"seed=+12", "seed", 12},
                 {"seed=010", "seed", 10}, // YAML 1.2: decimal
                 {"train.steps=1e5", "train.steps", 100000},
                 {"train.learning_rate.peak=1e-3", "train.learning_rate.peak", 1e-3},
                 {"train.learning_rate.peak=.5", "train.learning_rate.peak", 0.5},
                 {"train.optimizer.clip=1.", "train.optimizer.clip", 1},
                 {"output.tensorboard=False", "output.tensorboard", 0}};
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_err err;
        struct pk_recipe *r;
        char text[128];
        snprintf(text, sizeof text, "%s", cases[i].override);
        CHECK_OK(load(&r, "good.yaml", text, &err), &err);
        if (!r) continue;
        if (pk_recipe_f64(r, cases[i].path) != cases[i].value)
            fprintf(stderr, "%s gave %g\n", text, pk_recipe_f64(r, cases[i].path));
        CHECK(pk_recipe_f64(r, cases[i].path) == cases[i].value);
        CHECK(!strncmp(pk_recipe_origin(r, cases[i].path), "override ", 9));
        pk_recipe_free(r);
    }
}

/* One setting that must be refused, and what the message must hold. */
static void refused_values(void)
{
    static const struct {
        const char *override, *says;
    } cases[] = {
        {"seed=no", "'seed' must be a whole number, found 'no'"},
        {"seed='7'", "found the text \"7\"\n"},
        {"seed='7'", "help: remove the quotes"},
        {"seed=1.5", "must be a whole number"},
        {"seed=1e300", "must be a whole number"},
        {"seed=-1", "out of range: at least 0, found '-1'"},
        {"seed=99999999999999999999", "must be a whole number"},
        {"seed=", "found nothing"},
        {"seed=[1]", "found a list"},
        {"seed={a: 1}", "found a section"},
        {"train.steps=1_000", "found '1_000'"},
        {"train.steps=0", "out of range: at least 1"},
        {"train.learning_rate.peak=.nan", "out of range"},
        {"train.learning_rate.peak=.inf", "out of range"},
        {"train.learning_rate.peak=1e400", "out of range"},
        {"output.tensorboard=no", "must be true or false, found 'no'"},
        {"output.tensorboard=no", "in YAML 1.2 'no' is a text; write false"},
        {"output.tensorboard=on", "write true"},
        {"output.tensorboard=off", "write false"},
        {"output.tensorboard=1", "must be true or false"},
        {"data.rate=500", "is a frequency and needs a unit, found '500'"},
        {"data.rate=500", "help: write '500 Hz'"},
        {"data.rate=5 MHz", "unknown unit of frequency 'MHz'"},
        {"data.rate=fast", "a frequency with its unit"},
        {"data.crop=-10 s", "out of range"},
        {"output.checkpoint.every=30 min", "wall time is 'every_time: 30 min'"},
        {"objective.kind=jeap",
         "help: did you mean 'jepa'? (choices: jepa, mae, contrastive, classify, regress)"},
        {"train.precision=int4", "help: choices: auto, fp32, bf16"},
        {"train.optimizer.beta=[0.9]", "needs 2 elements, found 1"},
        {"train.optimizer.beta=[0.9, x]", "'train.optimizer.beta[1]' must be a number, found 'x'"},
        {"data.leads=I", "help: write '[I]'"},
        {"data.leads=[I, 2]", "put it in quotes: \"2\""},
        {"data.leads=[aVR, AVR]", "lead 'AVR' is in 'data.leads' twice"},
        {"data.mixture=[1]", "map of numbers by name"},
        {"data.mixture={a: -1}", "'data.mixture.a' is out of range"},
        {"data.mixture={a: 0}", "are all 0"},
        {"data.corpus=12", "put it in quotes: \"12\""},
        {"data=3", "'data' must be a section"},
        {"data=", "section 'data' is empty"},
        {"train.batchsize=1", "unknown key 'batchsize' in 'train'"},
        {"train.batchsize=1", "help: did you mean 'batch_size'? ('purkinje recipe keys train'"},
        {"trian.steps=1", "help: did you mean 'train'? ('purkinje recipe keys' lists them)"},
        {"train.seed=1", "'seed' belongs at the top level"},
        {"train.zzzzzz=1", "help: 'purkinje recipe keys train' lists what fits here"},
        {"train.steps.more=1", "'train.steps' must be a whole number, found a section"},
        {"extends=[x]", "'extends' cannot be given on the command line"},
        {"stages.0.steps=3", "'stages' has no element '0'"},
        {"no equals sign", "an override has the form section.key=value"},
        {"=3", "an override has the form"},
        {"train.=3", "an override has the form"},
        {"train..steps=3", "unknown key ''"},
        {"*=3", "unknown key '*'"},
        {"stages.*.steps=3", "'stages' has no element '*'"},
        {"seed=[1", "not valid YAML"},
        {"seed=*a", "aliases such as '*a' are not allowed"},
        {"data.corpus=!!str x", "tags such as"},
        {"schema=2", "'schema' must be 1, found '2'"},
        {"data.task=all", "'data.task' has no meaning when objective.kind is jepa"},
        {"model.encoder.drop_path=1", "'model.encoder.drop_path' is out of range: 0 to 0.95"}};
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_err err;
        struct pk_recipe *r;
        char text[128];
        snprintf(text, sizeof text, "%s", cases[i].override);
        CHECK_FAILS(load(&r, "good.yaml", text, &err), PK_ERECIPE, &err, cases[i].says);
        CHECK(!r);
    }
}

/* Checks across keys. */
static void refused_together(void)
{
    static const struct {
        const char *override, *says;
    } cases[] = {
        {"data.synthetic={records: 5}", "'data' has both 'corpus' and 'synthetic'"},
        {"data.corpus=", "'data' has neither 'corpus' nor 'synthetic'"},
        {"data.rate=250 Hz", "a patch of 0.05 s at 250 Hz is 12.5 samples"},
        {"data.rate=250 Hz", "rate does not fit the patches"},
        {"data.crop=10.01 s", "is not a multiple of the patch of 25 samples"},
        {"data.crop=10.01 s", "help: 'data.crop: 10 s' would do"},
        {"data.crop=10.001 s", "a crop of 10.001 s at 500 Hz is 5000.5 samples"},
        {"model.encoder.heads=6", "'model.encoder.width' 64 is not a multiple of"},
        {"model.encoder.heads=6", "60 or 66 would do"},
        {"model.encoder={width: 65, heads: 5}", "is odd"},
        {"objective.predictor.heads=5", "'objective.predictor.width' 32 is not a multiple of"},
        {"objective.mask.min_block=201", "is more than the 200 tokens"},
        {"objective.mask.keep=[0.3, 0.2]", "must be ascending"},
        {"objective.mask.keep=[0, 0.2]", "above 0 and below 1"},
        {"objective.mask.keep=[0.1, 0.999]", "hides none"},
        {"train.micro_batch=7", "not a multiple of accumulate x micro_batch = 7"},
        {"train.accumulate=3", "not a multiple of 'train.accumulate' 3"},
        {"train.steps=9", "'train.learning_rate.warmup' 10 is more than 'train.steps' 9"},
        {"train.learning_rate.start=0.1", "'train.learning_rate.start' 0.1 is above"},
        {"train.learning_rate.end=0.1", "'train.learning_rate.end' 0.1 is above"},
        {"objective.ema.end=0.1", "'objective.ema.start' 0.998 is above"},
        {"data.folds={train: [1, 9]}", "fold 9 is in 'data.folds.train' and in "
                                       "'data.folds.validation'"}};
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_err err;
        struct pk_recipe *r;
        char text[128];
        snprintf(text, sizeof text, "%s", cases[i].override);
        CHECK_FAILS(load(&r, "good.yaml", text, &err), PK_ERECIPE, &err, cases[i].says);
    }
}

/* Files that are wrong as files, with the exact place of the complaint. */
/* Contrastive pretraining, and encoders and heads that do not fit. */
static void refused_contrastive(void)
{
    static const char vit[] = "width: 64, depth: 2, heads: 4, patch: 50 ms";
    static const char wang[] = "kind: resnet1d_wang, channels: 16";
    static const struct {
        const char *encoder, *objective, *override, *says;
    } cases[] = {
        {vit, "kind: contrastive", "train.batch_size=2", "2 records at once cannot be compared"},
        {vit, "kind: contrastive", "train.batch_size=2", "counts both records of a pair"},
        {vit, "kind: contrastive", "train={batch_size: 30, accumulate: 2}", "15 records at once"},
        {vit, "kind: contrastive", "objective.temperature=0", "'objective.temperature'"},
        {vit, "kind: contrastive", "objective.pairs=records", "did you mean 'record'"},
        {vit, "kind: contrastive", "objective.ema.start=1", "'objective.ema.start' 1 is above"},
        {vit, "kind: contrastive", "objective.mask_ratio=0.5", "has no meaning when"},
        {vit, "kind: contrastive", "objective.augment.noise=[0.5]",
         "'objective.augment.noise' must be [probability, low, high]"},
        {vit, "kind: contrastive", "objective.augment.noise=[1.5, 0, 0]", "probability up to 1"},
        {vit, "kind: contrastive", "objective.augment.noise=[0.5, 2, 1]", "low <= high <= 100"},
        {vit, "kind: contrastive", "objective.augment.time_warp=[0.5, 0.1, 1]", "high <= 0.99"},
        {vit, "kind: contrastive", "objective.augment.permute=[0.5, 1]", "takes 0 to 1 elements"},
        {wang, "kind: contrastive", "data.crop=10.001 s", "is 5000.5 samples"},
        {wang, "kind: contrastive", "model.encoder.width=64",
         "'model.encoder.width' has no meaning"},
        {vit, "kind: contrastive", "model.encoder.channels=64", "'model.encoder.channels' has no"},
        {"kind: efficientnet1d", "kind: contrastive", "model.encoder.channels=8",
         "those of efficientnet1d are as published"},
        {"kind: resnet1d_wong", "kind: contrastive", NULL, "did you mean 'resnet1d_wang'?"},
        {wang, "kind: mae", NULL, "'objective.kind: mae' hides tokens, which 'resnet1d_wang' does"},
        {wang, "kind: jepa, predictor: {width: 8, depth: 1, heads: 1}", NULL,
         "'model.encoder.kind: vit', or 'objective.kind: contrastive'"}};
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_err err;
        struct pk_recipe *r;
        char text[1024], change[128];
        snprintf(text, sizeof text,
                 "schema: 1\ndata: {corpus: here, rate: 500 Hz, crop: 10 s}\n"
                 "model: {encoder: {%s}}\nobjective: {%s}\n"
                 "train: {steps: 100, batch_size: 64, learning_rate: {peak: 1e-3}}\n",
                 cases[i].encoder, cases[i].objective);
        put_text("bad.yaml", text);
        if (cases[i].override) snprintf(change, sizeof change, "%s", cases[i].override);
        CHECK_FAILS(load(&r, "bad.yaml", cases[i].override ? change : NULL, &err), PK_ERECIPE, &err,
                    cases[i].says);
        if (!cases[i].override) continue;
        CHECK_OK(load(&r, "bad.yaml", NULL, &err), &err); // it is the override alone
        pk_recipe_free(r);
    }
}

/* Heads: what a convolutional encoder cannot have, and what it can. */
static void heads(void)
{
    static const struct {
        const char *encoder, *head, *says;
    } cases[] = {
        {"kind: xresnet1d50", "kind: register_linear", "register_linear' needs a transformer"},
        {"width: 64, depth: 2, heads: 4, patch: 50 ms, registers: 0", "kind: register_linear",
         "needs 'model.encoder.registers' of 1"},
        {"kind: xresnet1d50", "kind: concat_pool, hidden: -1", "'objective.head.hidden'"},
        {"kind: xresnet1d50", "kind: concat_pool, dropout: 1", "'objective.head.dropout'"},
        {"kind: xresnet1d50", "kind: concat_pool", NULL},
        {"kind: xresnet1d50", "kind: attentive", NULL},
        {"kind: efficientnet1d", "kind: mean_linear", NULL},
        {"width: 64, depth: 2, heads: 4, patch: 50 ms", "kind: concat_pool, hidden: 0", NULL}};
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_err err;
        struct pk_recipe *r;
        char text[1024];
        snprintf(text, sizeof text,
                 "schema: 1\ndata: {corpus: here, rate: 500 Hz, crop: 10 s, task: all}\n"
                 "model: {encoder: {%s}}\nobjective: {kind: classify, head: {%s}}\n"
                 "stages: [{steps: 100, learning_rate: {peak: 1e-3}}]\ntrain: {batch_size: 64}\n",
                 cases[i].encoder, cases[i].head);
        put_text("bad.yaml", text);
        if (cases[i].says)
            CHECK_FAILS(load(&r, "bad.yaml", NULL, &err), PK_ERECIPE, &err, cases[i].says);
        else
            CHECK_OK(load(&r, "bad.yaml", NULL, &err), &err);
        pk_recipe_free(r);
    }
}

static void refused_files(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {{"", "a recipe is a map"},
                 {"[1, 2]\n", "bad.yaml:1:1: a recipe is a map of keys"},
                 {"just text\n", "bad.yaml:1:1: a recipe is a map of keys"},
                 {"schema: 1\nseed: 1\nseed: 2\n",
                  "bad.yaml:3:1: duplicate key 'seed'\n  3 | seed: 2\n"
                  "    | ^~~~\nhelp: it is set on line 2 already"},
                 {"seed: &x 1\n", "bad.yaml:1:7: anchors such as '&x'"},
                 {"seed: 1\nname: *x\n", "bad.yaml:2:7: aliases such as '*x'"},
                 {"seed: !!int 1\n", "bad.yaml:1:7: tags such as 'tag:yaml.org,2002:int'"},
                 {"seed: 1\n---\nseed: 2\n", "bad.yaml:2:1: a second document"},
                 {"data:\n\trate: 1 Hz\n", "bad.yaml:2:1: not valid YAML"},
                 {"data:\n\trate: 1 Hz\n", "never tabs"},
                 {"name: a: b\n", "bad.yaml:1:8: not valid YAML: mapping values are not allowed"},
                 {"? [a, b]\n: 1\n", "bad.yaml:1:3: a list or map cannot be a key"},
                 {"name: \"a\\0b\"\n", "bad.yaml:1:7: text with a NUL character"},
                 {"name: \xff\n", "bad.yaml:1:7: not valid YAML"},
                 {"name: a\x01z\n", "not valid YAML: control characters are not allowed"},
                 {"a: 1\n\xc3\xa9\xc3\xa0: 1\n", "bad.yaml:2:1: unknown key '\xc3\xa9\xc3\xa0'\n"
                                                 "  2 | \xc3\xa9\xc3\xa0: 1\n    | ^~\n"},
                 {"? |\n  two\n  lines\n: 1\n", "unknown key 'two?lines?'"},
                 {"\"\\e[31m\": 1\n", "unknown key '?[31m'"},
                 {"extends: [nothere]\n", "bad.yaml:1:11: no recipe 'nothere' to extend"},
                 {"extends: 3\n", "'extends' must be a list, found '3'"},
                 {"extends: [bad.yaml]\n", "bad.yaml:1:11: a circle of 'extends'"},
                 {"seed: 1\n", "bad.yaml: missing key 'schema'"},
                 {"schema: 1\nobjective: {kind: jepa}\n", "missing key 'steps' in 'train'"},
                 {"schema: 1\n<<: {seed: 1}\n", "unknown key '<<'"}};
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_err err;
        struct pk_recipe *r;
        put_text("bad.yaml", cases[i].text);
        CHECK_FAILS(load(&r, "bad.yaml", NULL, &err), PK_ERECIPE, &err, cases[i].says);
    }
    struct pk_err err;
    struct pk_recipe *r;
    CHECK_FAILS(load(&r, "is_not_there.yaml", NULL, &err), PK_ERECIPE, &err, "no recipe");
    CHECK_FAILS(pk_recipe_load(&r, "jepa_dmeo", 0, NULL, NULL, &err), PK_ERECIPE, &err,
                "did you mean 'jepa_demo'?");
}

/* Sizes: a recipe of the limit is refused in good time, never by a crash. */
static void refused_sizes(void)
{
    struct pk_err err;
    struct pk_recipe *r;
    size_t n = 2u << 20;
    char *text = malloc(n + 1);
    CHECK(text != NULL);
    if (!text) return;
    memset(text, 'x', n);
    put("bad.yaml", text, n);
    CHECK(load(&r, "bad.yaml", NULL, &err) != PK_OK && strstr(err.message, "bad.yaml"));
    put("bad.yaml", text, 5000);
    CHECK_FAILS(load(&r, "bad.yaml", NULL, &err), PK_ERECIPE, &err, "text of 5000 bytes");
    memset(text, '[', 100000);
    put("bad.yaml", text, 100000);
    CHECK_FAILS(load(&r, "bad.yaml", NULL, &err), PK_ERECIPE, &err, "nested deeper than 64 levels");
    for (size_t i = 0; i < 100000; i += 4) memcpy(text + i, "{a: ", 4);
    put("bad.yaml", text, 100000);
    CHECK_FAILS(load(&r, "bad.yaml", NULL, &err), PK_ERECIPE, &err, "nested deeper than 64 levels");
    size_t used = 0;
    for (int i = 0; i < 90000; i++) used += (size_t)snprintf(text + used, n - used, "k%d: 1\n", i);
    put("bad.yaml", text, used);
    CHECK_FAILS(load(&r, "bad.yaml", NULL, &err), PK_ERECIPE, &err, "more errors; 'purkinje");
    used = (size_t)snprintf(text, n, "a: [");
    for (int i = 0; i < 300; i++) {
        used += (size_t)snprintf(text + used, n - used, "%s[", i ? "," : "");
        for (int k = 0; k < 1000; k++) {
            text[used++] = '1';
            text[used++] = ',';
        }
        text[used++] = ']';
    }
    put("bad.yaml", text, used);
    CHECK_FAILS(load(&r, "bad.yaml", NULL, &err), PK_ERECIPE, &err, "more than 65536 values");
    free(text);
}

static void many_errors(void)
{
    struct pk_err err = {0};
    struct pk_recipe *r;
    struct pk_text report = {0};
    char text[8192];
    size_t used = (size_t)snprintf(text, sizeof text, "schema: 1\n");
    for (int i = 0; i < 120; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "wrong_key_%d: 1\n", i);
    put("bad.yaml", text, used);
    CHECK_FAILS(pk_recipe_load(&r, FOLDER "/bad.yaml", 0, NULL, &report, &err), PK_ERECIPE, &err,
                "more errors; 'purkinje recipe validate' shows all");
    CHECK(strstr(report.s, "bad.yaml:101:1: unknown key 'wrong_key_99'") != NULL);
    CHECK(strstr(report.s, "more errors\n") != NULL && strlen(err.message) < PK_ERR_MAX - 1);
    pk_text_free(&report);
    /* Long lines are scrolled to the place of the error. */
    memset(text, ' ', 600);
    memcpy(text, "seed: {", 7);
    memcpy(text + 500, "abc: 1}\n", 9);
    put_text("bad.yaml", text);
    CHECK_FAILS(pk_recipe_load(&r, FOLDER "/bad.yaml", 0, NULL, NULL, &err), PK_ERECIPE, &err,
                "bad.yaml:1:7");
}

static void composition(void)
{
    struct pk_err err;
    struct pk_recipe *r;
    put_text("base/one.yaml",
             "schema: 1\nseed: 1\nname: one\ndata: {mixture: {x: 1}, leads: [I]}\n");
    put_text("base/two.yaml", "schema: 1\nextends: [one.yaml]\nseed: 2\ntrain: {threads: 3}\n");
    char text[2048];
    snprintf(text, sizeof text, "extends: [base/one.yaml, base/two.yaml]\n%s",
             strchr(good, '\n') + 1);
    char *seed = strstr(text, "seed: 7\n");
    memmove(seed, seed + 8, strlen(seed + 8) + 1);
    put_text("top.yaml", text);
    CHECK_FAILS(load(&r, "top.yaml", "data.synthetic.rate=1 Hz", &err), PK_ERECIPE, &err, "both");
    put_text("both.yaml", "extends: [top.yaml]\ndata: {synthetic: {records: 5}}\n");
    put_text("one.yaml", "extends: [both.yaml]\ndata: {synthetic: \"\"}\n");
    put_text("none.yaml", "extends: [both.yaml]\ndata: {synthetic: }\n");
    CHECK_FAILS(load(&r, "both.yaml", NULL, &err), PK_ERECIPE, &err, "both");
    CHECK_FAILS(load(&r, "none.yaml", NULL, &err), PK_ERECIPE, &err, "is empty: leave it out");
    char *away[][2] = {{"both.yaml", "data.synthetic="}, {"one.yaml", NULL}};
    for (int i = 0; i < 2; i++) {
        CHECK_OK(load(&r, away[i][0], away[i][1], &err), &err);
        if (!r) return;
        CHECK(!pk_recipe_given(r, "data.synthetic") && *pk_recipe_str(r, "data.corpus"));
        pk_recipe_free(r);
    }
    CHECK_OK(load(&r, "top.yaml", "train.threads=5", &err), &err);
    if (!r) return;
    CHECK(pk_recipe_i64(r, "seed") == 2); // the later base wins
    CHECK(!strcmp(pk_recipe_origin(r, "seed"), FOLDER "/base/two.yaml:3:1"));
    CHECK(pk_recipe_i64(r, "train.threads") == 5);
    CHECK(!strcmp(pk_recipe_origin(r, "train.threads"), "override train.threads"));
    CHECK(!strcmp(pk_recipe_str(r, "name"), "one"));
    CHECK(!strcmp(pk_recipe_str(r, "output.dir"), "runs/one"));
    CHECK(pk_recipe_count(r, "data.mixture") == 2); // replaced as a whole
    CHECK(pk_recipe_count(r, "data.leads") == 3);
    pk_recipe_free(r);
    /* a diamond that doubles at every level ends by the limit of files */
    for (int i = 0; i < 12; i++) {
        char name[32];
        snprintf(name, sizeof name, "d%d.yaml", i);
        snprintf(text, sizeof text, "extends: [d%d.yaml, d%d.yaml]\n", i + 1, i + 1);
        put_text(name, text);
    }
    put_text("d12.yaml", "seed: 1\n");
    CHECK_FAILS(load(&r, "d0.yaml", NULL, &err), PK_ERECIPE, &err, "'extends' goes too far");
}

static void stages(void)
{
    struct pk_err err = {0};
    struct pk_recipe *r;
    char *const change[] = {"stages.1.steps=50", "stages.1.learning_rate.warmup=5",
                            "stages.1.learning_rate.peak=2e-4"};
    CHECK_OK(pk_recipe_load(&r, "finetune_two_stage", 3, change, NULL, &err), &err);
    if (!r) return;
    CHECK(pk_recipe_count(r, "stages") == 2);
    CHECK(pk_recipe_bool(r, "stages.0.freeze_encoder"));
    CHECK(!pk_recipe_bool(r, "stages.1.freeze_encoder"));
    CHECK(pk_recipe_i64(r, "stages.0.steps") == 5000 && pk_recipe_i64(r, "stages.1.steps") == 50);
    CHECK(pk_recipe_f64(r, "stages.1.learning_rate.peak") == 2e-4);
    CHECK(pk_recipe_f64(r, "stages.1.dropout") == 0.1);
    CHECK(!strcmp(pk_recipe_str(r, "stages.0.learning_rate.shape"), "constant"));
    CHECK(pk_recipe_item_f64(r, "stages.0.optimizer.beta", 1) == 0.999);
    CHECK(!strcmp(pk_recipe_origin(r, "stages.1.steps"), "override stages.1.steps"));
    CHECK(!pk_recipe_given(r, "stages.2.steps") && pk_recipe_i64(r, "stages.9.steps") == 0);
    CHECK(!pk_recipe_given(r, "model.encoder.width") &&
          pk_recipe_i64(r, "model.encoder.width") == 0);
    /* what is left out comes from the run that init_from names */
    struct pk_recipe *from;
    CHECK_OK(load(&from, "good.yaml", NULL, &err), &err);
    if (from) {
        CHECK_OK(pk_recipe_inherit(r, from, NULL, &err), &err);
        CHECK(pk_recipe_i64(r, "model.encoder.width") == 64);
        CHECK(pk_recipe_f64(r, "data.rate") == 500 && pk_recipe_count(r, "data.leads") == 3);
        CHECK(strstr(pk_recipe_origin(r, "model.encoder.width"), "init_from, " FOLDER) != NULL);
        CHECK(pk_recipe_f64(r, "data.crop") == 2.5);
        pk_recipe_free(from);
    }
    CHECK_OK(load(&from, "good.yaml", "data.rate=1 kHz", &err), &err);
    char *const bad[] = {"data.crop=2.51 s"};
    pk_recipe_free(r);
    CHECK_OK(pk_recipe_load(&r, "finetune_linear", 1, bad, NULL, &err), &err);
    if (r && from)
        CHECK_FAILS(pk_recipe_inherit(r, from, NULL, &err), PK_ERECIPE, &err, "not a multiple");
    pk_recipe_free(r);
    pk_recipe_free(from);
    char *const none[] = {"init_from=", NULL};
    CHECK_FAILS(pk_recipe_load(&r, "finetune_linear", 1, none, NULL, &err), PK_ERECIPE, &err,
                "missing key 'model.encoder.width'");
    char *const soft[] = {"objective.loss=softmax", NULL};
    CHECK_FAILS(pk_recipe_load(&r, "finetune_linear", 1, soft, NULL, &err), PK_ERECIPE, &err,
                "needs records with exactly one label");
    char *const empty[] = {"stages=[{steps: 3}]", NULL};
    CHECK_FAILS(pk_recipe_load(&r, "finetune_linear", 1, empty, NULL, &err), PK_ERECIPE, &err,
                "missing key 'peak' in 'stages.0.learning_rate'");
}

static void paths(void)
{
    struct pk_err err;
    struct pk_recipe *r;
    char out[PK_PATH_MAX];
    CHECK_OK(load(&r, "good.yaml", "data.corpus=${PK_TEST_FOLDER}/a${PK_TEST_FOLDER}", &err), &err);
    if (!r) return;
    unsetenv("PK_TEST_FOLDER");
    CHECK_FAILS(pk_recipe_path(r, "data.corpus", out, &err), PK_ERECIPE, &err,
                "the environment has no PK_TEST_FOLDER");
    setenv("PK_TEST_FOLDER", "/x y", 1);
    CHECK_OK(pk_recipe_path(r, "data.corpus", out, &err), &err);
    CHECK(!strcmp(out, "/x y/a/x y"));
    pk_recipe_free(r);
    CHECK_OK(load(&r, "good.yaml", "data.corpus=~/corpus/~/a", &err), &err);
    if (!r) return;
    setenv("HOME", "/home/of me", 1);
    CHECK_OK(pk_recipe_path(r, "data.corpus", out, &err), &err);
    CHECK(!strcmp(out, "/home/of me/corpus/~/a")); // the first ~ only
    pk_recipe_free(r);
    CHECK_OK(load(&r, "good.yaml", "data.corpus='${PK_TEST'", &err), &err);
    if (!r) return;
    CHECK_FAILS(pk_recipe_path(r, "data.corpus", out, &err), PK_ERECIPE, &err, "without a NAME}");
    pk_recipe_free(r);
}

/* Prints, loads what was printed, and compares the hashes. */
static void round_trip(const char *path, char *override)
{
    struct pk_err err = {0};
    struct pk_recipe *r, *again;
    struct pk_text t = {0};
    CHECK_OK(pk_recipe_load(&r, path, override ? 1 : 0, &override, NULL, &err), &err);
    if (!r) return;
    CHECK_OK(pk_recipe_print(r, &t, &err), &err);
    put("again.yaml", t.s, t.len);
    CHECK_OK(load(&again, "again.yaml", NULL, &err), &err);
    if (again) CHECK(pk_recipe_hash(again) == pk_recipe_hash(r));
    if (again && pk_recipe_hash(again) != pk_recipe_hash(r)) fprintf(stderr, "%s\n%s", path, t.s);
    pk_text_free(&t);
    pk_recipe_free(again);
    pk_recipe_free(r);
}

static void printing(void)
{
    static const char *const names[] = {"jepa_demo",
                                        "jepa_vit_s_500hz",
                                        "jepa_vit_b_500hz",
                                        "jepa_vit_tiny_ptbxl_100hz",
                                        "finetune_two_stage",
                                        "finetune_one_stage",
                                        "finetune_linear",
                                        "finetune_scratch",
                                        "probe_attentive",
                                        "probe_random",
                                        "finetune_demo",
                                        "simclr_demo",
                                        "participant_vit_tiny_ptbxl_100hz",
                                        "contrastive_effnet_ppg",
                                        "supervised_xresnet1d101_ptbxl_100hz",
                                        FOLDER "/good.yaml",
                                        FOLDER "/top.yaml"};
    static char *const texts[] = {"name='no'",
                                  "name='12'",
                                  "name=''",
                                  "name='null'",
                                  "name=\"a\\nb\\t\\\"\\\\ \\x01\\u0085\\e\"",
                                  "name=' # '",
                                  "name='- x'",
                                  "name='\xc3\xa9\xe2\x82\xac'",
                                  "name='{a: b}'",
                                  "name='~'",
                                  "name=\"\\ufeff\\u2028\"",
                                  "data.crop=7.05 s",
                                  "train.learning_rate.peak=0.1234567890123456789",
                                  "data.mixture={'no': 0.1, '7': 1e-9, 'a: b': 3}",
                                  "model.encoder.patch=2 ms",
                                  "output.checkpoint.every_time=0.1 min"};
    for (size_t i = 0; i < PK_COUNT(names); i++) round_trip(names[i], NULL);
    for (size_t i = 0; i < PK_COUNT(texts); i++) round_trip(FOLDER "/good.yaml", texts[i]);
    struct pk_err err;
    struct pk_recipe *a, *b;
    CHECK_OK(load(&a, "good.yaml", NULL, &err), &err);
    CHECK_OK(load(&b, "good.yaml", "train.steps=101", &err), &err);
    if (a && b) CHECK(pk_recipe_hash(a) != pk_recipe_hash(b));
    pk_recipe_free(a);
    pk_recipe_free(b);
}

/* Damages recipes with a fixed seed: nothing may crash, and what loads must survive printing. */
static void damaged(void)
{
    static const char *const names[] = {"jepa_demo", "finetune_two_stage", "jepa_vit_s_500hz"};
    static const char bits[] = "{}[]:,-&*!|>'\"#%@`?\n\t \\0.~=$e\xff\xc3";
    char *text[4];
    size_t size[4];
    struct pk_err err = {0};
    int loaded = 0;
    for (size_t i = 0; i < PK_COUNT(names); i++) {
        char path[PK_PATH_MAX];
        CHECK_OK(pk_recipe_find(path, names[i], &err), &err);
        CHECK_OK(pk_read_file(path, 1 << 20, &text[i], &size[i], &err), &err);
    }
    text[3] = pk_strdup(good);
    size[3] = strlen(good);
    for (uint32_t t = 0; t < 2000; t++) {
        size_t n = size[t % 4];
        char buf[8192];
        uint64_t seed = pk_hash64(&t, sizeof t, 5);
        struct pk_recipe *r;
        memcpy(buf, text[t % 4], n);
        for (uint64_t k = 0; k <= seed % 4; k++) {
            uint32_t word[2] = {t, (uint32_t)k};
            uint64_t x = pk_hash64(word, sizeof word, 9);
            size_t at = (size_t)(x >> 8) % n, len = (size_t)(x >> 40) % 16;
            size_t from = (size_t)(x >> 24) % n;
            len = PK_MIN(len, n - PK_MAX(at, from));
            switch (x & 3) {
            case 0:
                buf[at] = bits[(x >> 48) % sizeof bits];
                break;
            case 1:
                buf[at] ^= (char)(1 << ((x >> 48) & 7));
                break;
            case 2:
                memmove(buf + at, buf + from, len);
                break;
            default:
                memmove(buf + at, buf + at + len, n - at - len);
                n -= n > len + 16 ? len : 0;
            }
        }
        put("fuzz.yaml", buf, n);
        if (load(&r, "fuzz.yaml", NULL, &err) == PK_OK) {
            loaded++;
            pk_recipe_free(r);
            if (t % 16 == 0) round_trip(FOLDER "/fuzz.yaml", NULL);
        } else {
            CHECK(err.message[0] != 0);
        }
    }
    fprintf(stderr, "%d of 2000 damaged recipes still loaded\n", loaded);
    CHECK(loaded > 20 && loaded < 1500);
    for (int i = 0; i < 4; i++) free(text[i]);
}

/* Another encoder, objective or corpus on the command line replaces what the file says of its own.
 */
static void replaced(void)
{
    char net[] = "model.encoder.kind=resnet1d_wang", objective[] = "objective.kind=contrastive",
         corpus[] = "data.corpus=here", width[] = "model.encoder.width=8",
         nothing[] = "data.corpus=", records[] = "data.synthetic.records=5";
    char *const both[] = {net, objective, corpus}, *const late[] = {net, objective, width},
                *const none[] = {nothing}, *const two[] = {corpus, records};
    struct pk_text shown = {0};
    struct pk_err err = {0};
    struct pk_recipe *r = NULL;
    CHECK_OK(pk_recipe_load(&r, "jepa_demo", 3, both, NULL, &err), &err);
    if (!r) return;
    CHECK(!pk_recipe_given(r, "data.synthetic") && !pk_recipe_given(r, "data.synthetic.records"));
    CHECK_OK(pk_recipe_print(r, &shown, &err), &err);
    CHECK(shown.s && !strstr(shown.s, "synthetic:") && !strstr(shown.s, "predictor:") &&
          !strstr(shown.s, "heads:"));
    put_text("shown.yaml", shown.s);
    pk_text_free(&shown);
    const uint64_t hash = pk_recipe_hash(r);
    pk_recipe_free(r);
    CHECK_OK(load(&r, "shown.yaml", NULL, &err), &err);
    CHECK(r && pk_recipe_hash(r) == hash);
    pk_recipe_free(r);
    CHECK_FAILS(pk_recipe_load(&r, "jepa_demo", 3, late, NULL, &err), PK_ERECIPE, &err,
                "'model.encoder.width' has no meaning when model.encoder.kind is resnet1d_wang");
    CHECK_FAILS(pk_recipe_load(&r, "jepa_demo", 2, two, NULL, &err), PK_ERECIPE, &err, "both");
    CHECK_OK(pk_recipe_load(&r, "jepa_demo", 1, none, NULL, &err), &err);
    CHECK(pk_recipe_given(r, "data.synthetic"));
    pk_recipe_free(r);
}

int main(void)
{
    struct pk_err err = {0};
    struct pk_recipe *r;
    if (pk_recipe_load(&r, "jepa_demo", 0, NULL, NULL, &err) == PK_EMISSING) {
        fprintf(stderr, "skipped: %s\n", err.message); // built without libyaml
        return strstr(err.message, "libyaml") ? 0 : 1;
    }
    pk_recipe_free(r);
    values();
    scalars();
    refused_values();
    refused_together();
    refused_contrastive();
    heads();
    refused_files();
    refused_sizes();
    many_errors();
    composition();
    stages();
    paths();
    replaced();
    printing();
    damaged();
    return TEST_END();
}
