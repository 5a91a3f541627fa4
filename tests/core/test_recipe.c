/* test_recipe.c -- recipes: values, units, defaults, extends, overrides, origins, printing. What is
 * refused is in test_recipe_refused.c, damaged files in tests/fuzz. */
#define FOLDER "test_recipe_files"
#include "tests/core/recipe_case.h"

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
    if (no_yaml()) return 0;
    values();
    scalars();
    heads();
    composition();
    stages();
    paths();
    replaced();
    printing();
    return TEST_END();
}
