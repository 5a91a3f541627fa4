/* test_recipe_refused.c -- recipes that are refused: every class of error with its place. */
#define FOLDER "test_recipe_refused_files"
#include "tests/core/recipe_case.h"

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

/* Files that are wrong as files, with the exact place of the complaint. */
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

int main(void)
{
    if (no_yaml()) return 0;
    put_text("good.yaml", good);
    refused_values();
    refused_together();
    refused_contrastive();
    refused_files();
    refused_sizes();
    many_errors();
    return TEST_END();
}
