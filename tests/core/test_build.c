/* test_build.c -- what the builder and the executor refuse, and the words they use: the first error
 * sticks, carries the scope path, and leaves nothing behind. */
#include "core/exec.h"
#include "core/ops.h"
#include "tests/test.h"

struct made { // a build in progress
    struct pk_build *b;
    struct pk_prog p;
    struct pk_params params;
    struct pk_err err;
    struct pk_val x; // [2, 5, 8]
};

static void begin(struct made *m)
{
    *m = (struct made){0};
    CHECK_OK(pk_build_begin(&m->b, &m->p, &m->params, &m->err), &m->err);
    m->x = pk_input(m->b, "x", PK_F32, 3, (int64_t[]){2, 5, 8});
}

/* The build must end in this error, and free everything. */
static void fails(struct made *m, enum pk_status s, const char *text)
{
    CHECK_FAILS(pk_build_finish(m->b, &m->err), s, &m->err, text);
    CHECK(!m->p.node && !m->p.value && m->p.nodes == 0);
    pk_params_free(&m->params);
}

static void test_sticky(void)
{
    struct made m;
    begin(&m);
    pk_scope(m.b, "encoder");
    pk_scope(m.b, "blocks.%d", 7);
    struct pk_val y = pk_linear(m.b, m.x, 6, "attn.proj");
    pk_scope_end(m.b);
    y = pk_add(m.b, y, m.x); // the first error, in scope encoder
    pk_scope(m.b, "later");
    y = pk_layernorm(m.b, pk_gelu(m.b, y), 1e-6f, "norm"); // more calls, on nothing
    pk_scope_end(m.b);
    y = pk_attention(m.b, y, 4);
    pk_output(m.b, y, "y");
    pk_loss(m.b, y);
    CHECK(y.id < 0);
    fails(&m, PK_ESHAPE, "encoder: add([2, 5, 6], [2, 5, 8]): the shapes differ");
}

static void test_scope_path(void)
{
    struct made m;
    begin(&m);
    pk_scope(m.b, "encoder");
    pk_scope(m.b, "blocks.%d", 7);
    pk_attention(m.b, pk_linear(m.b, m.x, 770, "attn.qkv"), 12);
    fails(&m, PK_ESHAPE, "encoder.blocks.7: attention([2, 5, 770]): 12 heads do not divide");

    begin(&m);
    pk_build_fail(m.b, PK_ERECIPE, "a model's own %s", "words");
    pk_linear(m.b, PK_NONE, 3, "fc");
    fails(&m, PK_ERECIPE, "a model's own words");

    begin(&m);
    for (int i = 0; i < 40; i++) pk_scope(m.b, "s");
    for (int i = 0; i < 40; i++) pk_scope_end(m.b);
    fails(&m, PK_EINTERNAL, "scopes inside each other");

    begin(&m);
    pk_scope(m.b, "%0200d", 1);
    fails(&m, PK_EINTERNAL, "scope path longer than");
}

static void test_parameters(void)
{
    struct made m;
    begin(&m);
    pk_scope(m.b, "encoder");
    pk_linear(m.b, m.x, 8, "fc");
    pk_linear(m.b, m.x, 9, "fc");
    fails(&m, PK_ESHAPE, "'encoder.fc.weight' is used with two shapes");

    begin(&m);
    int64_t n = 8;
    struct pk_val w = pk_weight(m.b, "w", 1, &n, PK_INIT_ONE, false);
    CHECK(pk_weight(m.b, "w", 1, &n, PK_INIT_ONE, false).id == w.id);
    pk_scope_frozen(m.b, true);
    CHECK(pk_weight(m.b, "w", 1, &n, PK_INIT_ONE, false).id != w.id);
    pk_scope_frozen(m.b, false);
    pk_scope_ema(m.b, true);
    pk_weight(m.b, "w", 1, &n, PK_INIT_ONE, false);
    pk_scope_ema(m.b, false);
    CHECK(m.params.count == 1 && m.params.item[0].trained && m.params.item[0].ema);
    char name[PK_PARAM_NAME_MAX + 1];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    pk_weight(m.b, name, 1, &n, PK_INIT_ONE, false);
    fails(&m, PK_EINTERNAL, "parameter name longer than");
}

/* Shapes, one per op that can be misused. */
static void record_bad(struct made *m, int which)
{
    struct pk_build *b = m->b;
    int64_t three = 3;
    struct pk_val x = m->x, flat = pk_input(b, "flat", PK_F32, 2, (int64_t[]){2, 8});
    struct pk_val index = pk_input(b, "index", PK_I32, 2, (int64_t[]){3, 2});
    struct pk_val sample = pk_input(b, "sample", PK_I64, 1, &three);
    struct pk_val raw = pk_input(b, "raw", PK_I16, 3, (int64_t[]){2, 3, 50});
    struct pk_val gain = pk_input(b, "gain", PK_F32, 2, (int64_t[]){2, 3});
    struct pk_val start = pk_input(b, "start", PK_I32, 1, (int64_t[]){2}), k, h;
    struct pk_val token = pk_weight(b, "token", 1, &three, PK_INIT_ONE, false);
    struct pk_val table = pk_weight(b, "table", 2, (int64_t[]){5, 8}, PK_INIT_ONE, false);
    struct pk_patchify patchify = {
        .tokens = 5, .patch = 10, .leads = 1, .lead = (const uint8_t[]){3}, .clip = 5};
    switch (which) {
    case 0:
        pk_gather_tokens(b, x, index);
        break;
    case 1:
        pk_gather_tokens(b, flat, index);
        break;
    case 2:
        pk_slice_tokens(b, x, 3, 3);
        break;
    case 3:
        pk_mean_pool(b, x, 5);
        break;
    case 4:
        pk_prepend_token(b, token, x);
        break;
    case 5:
        pk_add_position(b, x, pk_linear(b, table, 8, "t"), PK_NONE);
        break;
    case 6:
        pk_l1_loss(b, x, pk_linear(b, x, 8, "target"));
        break;
    case 7:
        pk_bce_loss(b, x, raw);
        break;
    case 8:
        pk_dropout(b, x, sample, 0.5f, 1);
        break;
    case 9:
        pk_dropout(b, x, sample, 1.5f, 1);
        break;
    case 10:
        pk_patchify(b, raw, gain, gain, start, &patchify);
        break;
    case 11:
        pk_block_mask(b, sample, &(struct pk_mask){40, 40, 3, 1}, &k, &h);
        break;
    case 12:
        pk_attention_pool(b, token, x, 1);
        break;
    case 13:
        pk_gelu(b, PK_NONE);
        break;
    case 14:
        pk_loss(b, x);
        break;
    case 15:
        pk_loss(b, pk_l1_loss(b, flat, flat));
        break;
    case 16:
        pk_pad_channels(b, x, 2, -1);
        break;
    case 17:
        pk_pad_channels(b, x, -4, -4);
        break;
    case 18:
        pk_drop_path(b, x, PK_NONE, 0.2f, 1);
        break;
    default:
        pk_assemble_tokens(b, x, token, table, index, index);
        break;
    }
}

/* Gradients of inputs: what is refused, and that they are outputs, also where two are one buffer.
 */
static void test_input_gradients(void)
{
    static const char *const wanted[] = {
        "'g' is the gradient of something that is no real input",
        "'g' is asked for after its input was used",
        "the loss does not depend on input 'unused'",
        "gradients of more than 4 inputs",
    };
    const int64_t dim[] = {2, 5, 8};
    for (int i = 0; i <= (int)PK_COUNT(wanted); i++) {
        struct made m;
        begin(&m);
        struct pk_val y = pk_input(m.b, "y", PK_F32, 3, dim),
                      z = pk_input(m.b, "z", PK_F32, 3, dim);
        if (i == 0) pk_input_gradient(m.b, pk_input(m.b, "k", PK_I64, 3, dim), "g");
        if (i == 1) pk_input_gradient(m.b, (pk_gelu(m.b, y), y), "g");
        if (i == 2) pk_input_gradient(m.b, pk_input(m.b, "unused", PK_F32, 3, dim), "g");
        for (int k = 0; i == 3 && k < 5; k++) pk_input_gradient(m.b, y, "g");
        if (i == 4) pk_input_gradient(m.b, y, "dy");
        if (i == 4) pk_input_gradient(m.b, z, "dz");
        if (i == 2) y = pk_linear(m.b, y, 8, "fc");
        pk_loss(m.b, pk_dot_loss(m.b, pk_add(m.b, y, z), m.x));
        if (i < 4) {
            fails(&m, PK_EINTERNAL, wanted[i]);
            continue;
        }
        CHECK_OK(pk_build_finish(m.b, &m.err), &m.err);
        const int32_t a = pk_prog_find(&m.p, PK_STORE_ACT, "dy");
        const int32_t c = pk_prog_find(&m.p, PK_STORE_ACT, "dz");
        CHECK(a >= 0 && c >= 0 && a != c);
        pk_prog_free(&m.p);
        pk_params_free(&m.params);
    }
}

/* Losses against labels and targets, and mixup. */
static void test_supervised_shapes(void)
{
    static const char *const wanted[] = {
        "predictions and labels differ in shape",
        "predictions and targets differ in shape",
        "targets are u8, f32 was expected",
        "focusing exponents -1 and 0: 0 or more was expected",
        "margin 1, alpha 0, smoothing 0: numbers from 0 to below 1",
        "smoothing 1.5: a number from 0 to below 1",
        "delta 0 of Huber's loss",
        "the rows are not whole records",
        "alpha -1: a number above 0",
        "single_label is for labels",
        "weight -2 of column 1 of a loss",
    };
    const float bad[8] = {1, -2};
    for (int i = 0; i < (int)PK_COUNT(wanted); i++) {
        struct made m;
        begin(&m);
        struct pk_build *b = m.b;
        struct pk_val few = pk_input(b, "few", PK_F32, 3, (int64_t[]){2, 5, 7});
        struct pk_val label = pk_input(b, "label", PK_U8, 3, (int64_t[]){2, 5, 8});
        struct pk_val sample = pk_input(b, "sample", PK_I64, 1, (int64_t[]){i == 7 ? 3 : 2});
        struct pk_val raw = pk_input(b, "raw", PK_I16, 2, (int64_t[]){2, 8});
        struct pk_multilabel_spec spec = {.gamma_positive = i == 3 ? -1 : 0, .margin = i == 4};
        struct pk_regression_spec huber = {.kind = PK_REGRESSION_HUBER};
        struct pk_mixup mix = {.alpha = i == 8 ? -1 : 1, .single_label = i == 9};
        if (i == 10) spec.class_weight = bad;
        if (i == 0) pk_multiclass_loss(b, m.x, few, &(struct pk_multiclass_spec){0});
        if (i == 1) pk_regression_loss(b, m.x, few, &(struct pk_regression_spec){0});
        if (i == 2) pk_regression_loss(b, m.x, label, &(struct pk_regression_spec){0});
        if (i == 3 || i == 4 || i == 10) pk_multilabel_loss(b, m.x, label, &spec);
        if (i == 5)
            pk_multiclass_loss(b, m.x, label, &(struct pk_multiclass_spec){.smoothing = 1.5f});
        if (i == 6) pk_regression_loss(b, m.x, m.x, &huber);
        if (i == 7 || i == 8) pk_mixup(b, m.x, sample, &mix);
        if (i == 9) pk_mixup(b, raw, sample, &mix);
        fails(&m, i == 10 ? PK_ERECIPE : PK_ESHAPE, wanted[i]);
    }
    struct made m;
    begin(&m);
    CHECK(pk_mixup(m.b, m.x, PK_NONE, &(struct pk_mixup){.alpha = 0}).id == m.x.id); // off
    CHECK_OK(pk_build_finish(m.b, &m.err), &m.err);
    pk_prog_free(&m.p);
    pk_params_free(&m.params);
}

/* The losses over a batch. */
static void test_contrast_shapes(void)
{
    static const char *const wanted[] = {
        "one group number per row was expected in input 2",
        "queries and keys differ in width or type",
        "the temperature must be above 0",
        "a single row has nothing to be compared with",
        "1 rows: two at least are needed",
        "eps must be above 0",
        "input 1 has 2 axes, 3 were expected",
        "input 0 is one row, several are needed",
        "10 rows cannot be shared out to 3 ranks",
        "1 rows cannot be shared out to 2 ranks",
        "10 rows cannot be shared out to 0 ranks",
    };
    for (int i = 0; i < (int)PK_COUNT(wanted); i++) {
        struct made m;
        begin(&m);
        struct pk_build *b = m.b;
        struct pk_val group = pk_input(b, "group", PK_I64, 1, (int64_t[]){10});
        struct pk_val few = pk_input(b, "few", PK_I64, 1, (int64_t[]){1});
        struct pk_val one = pk_input(b, "one", PK_F32, 2, (int64_t[]){1, 8});
        struct pk_val wide = pk_input(b, "wide", PK_F32, 2, (int64_t[]){1, 9});
        struct pk_val row = pk_input(b, "row", PK_F32, 1, (int64_t[]){8});
        if (i == 0) pk_contrast_loss(b, m.x, PK_NONE, few, PK_NONE, 1, 1, 1);
        if (i == 1) pk_contrast_loss(b, m.x, wide, group, few, 1, 1, 1);
        if (i == 2) pk_contrast_loss(b, m.x, one, group, few, 0, 1, 1);
        if (i == 3) pk_contrast_loss(b, one, PK_NONE, few, PK_NONE, 1, 1, 1);
        if (i == 4) pk_koleo_loss(b, one, 1, 0, 1);
        if (i == 5) pk_l2_normalize(b, m.x, 0);
        if (i == 6) pk_dot_loss(b, m.x, one);
        if (i == 7) pk_l2_normalize(b, row, 1e-6f);
        if (i == 8) pk_contrast_loss(b, m.x, PK_NONE, group, PK_NONE, 1, 1, 3);
        if (i == 9) pk_contrast_loss(b, m.x, one, group, few, 1, 1, 2);
        if (i == 10) pk_koleo_loss(b, m.x, 1, 0, 0);
        fails(&m, PK_ESHAPE, wanted[i]);
    }
}

static void test_shapes(void)
{
    static const struct {
        enum pk_status status;
        const char *text;
    } wanted[] = {
        {PK_ESHAPE, "gather_tokens([2, 5, 8], [3, 2]): input 1 has another batch"},
        {PK_ESHAPE, "gather_tokens([2, 8], [3, 2]): input 0 has 2 axes, 3 were expected"},
        {PK_ESHAPE, "slice_tokens([2, 5, 8]): tokens 3 to 5 are not there"},
        {PK_ESHAPE, "no token is left after skipping 5"},
        {PK_ESHAPE, "the token is of another width"},
        {PK_ESHAPE, "input 1 is trained, but this op passes no gradient to it"},
        {PK_ESHAPE, "input 1 is trained, but this op passes no gradient to it"},
        {PK_ESHAPE, "labels are i16, u8 or f32 was expected"},
        {PK_ESHAPE, "one sample number per record"},
        {PK_ESHAPE, "dropout([2, 5, 8], [3])"},
        {PK_ESHAPE, "lead 3 is not in the batch"},
        {PK_ESHAPE, "cannot keep 40 of 40 tokens"},
        {PK_ESHAPE, "keys and values must be twice the query's width"},
        {PK_ESHAPE, "gelu(-): input 0 is missing"},
        {PK_ESHAPE, "the loss must be one number"},
        {PK_EINTERNAL, "the loss does not depend on any trained parameter"},
        {PK_ESHAPE, "pad_channels([2, 5, 8]): channels are added or taken away, not both"},
        {PK_ESHAPE, "pad_channels([2, 5, 8]): no channel would be left"},
        {PK_ESHAPE, "dropout([2, 5, 8], -): input 1 is missing"},
        {PK_ESHAPE, "assemble_tokens("},
    };
    for (size_t i = 0; i < PK_COUNT(wanted); i++) {
        struct made m;
        begin(&m);
        record_bad(&m, (int)i);
        fails(&m, wanted[i].status, wanted[i].text);
    }
}

/* The executor: inputs by name, outputs by name, kernels' own errors, arenas too small. */
static void test_exec(void)
{
    struct made m;
    struct pk_exec x;
    struct pk_bound bound;
    float in[2][5][8] = {{{0}}}, out[2][2][8];
    int32_t index[2][2] = {{0, 4}, {1, 2}};
    begin(&m);
    struct pk_val i = pk_input(m.b, "index", PK_I32, 2, (int64_t[]){2, 2});
    pk_output(m.b, pk_linear(m.b, pk_gather_tokens(m.b, m.x, i), 8, "fc"), "y");
    CHECK_OK(pk_build_finish(m.b, &m.err), &m.err);
    CHECK_OK(pk_exec_create(&x, &(struct pk_exec_spec){.params = &m.params, .threads = 2}, &m.err),
             &m.err);
    CHECK_OK(pk_exec_bind(&x, &bound, &m.p, &m.err), &m.err);
    struct pk_feed feed[] = {{"x", in, 0}, {"index", index, 0}};
    struct pk_fetch fetch = {"y", out};
    struct pk_exec_batch run = {
        .feed = feed, .feeds = 1, .fetch = &fetch, .fetches = 1, .micros = 1};
    CHECK_FAILS(pk_exec_run(&x, &bound, &run, &m.err), PK_EINTERNAL, &m.err,
                "input 'index' of the program was not given");
    run.feeds = 2;
    CHECK_OK(pk_exec_run(&x, &bound, &run, &m.err), &m.err);
    run.micros = 0;
    CHECK_FAILS(pk_exec_run(&x, &bound, &run, &m.err), PK_EINTERNAL, &m.err, "micro-batches");
    run.micros = 1;
    fetch.name = "z";
    CHECK_FAILS(pk_exec_run(&x, &bound, &run, &m.err), PK_EINTERNAL, &m.err, "no output 'z'");
    fetch.name = "y";
    feed[1].name = "nothing";
    CHECK_FAILS(pk_exec_run(&x, &bound, &run, &m.err), PK_EINTERNAL, &m.err, "no input 'nothing'");
    feed[1].name = "index";
    index[1][0] = 5;
    CHECK_FAILS(pk_exec_run(&x, &bound, &run, &m.err), PK_EDATA, &m.err,
                "token index 5 at place 2 is outside 0 to 4");
    index[1][0] = 1;
    CHECK_OK(pk_exec_run(&x, &bound, &run, &m.err), &m.err); // an error leaves it usable
    pk_bound_free(&bound);

    struct made late = {.params = m.params}; // another program adds a parameter
    CHECK_OK(pk_build_begin(&late.b, &late.p, &m.params, &late.err), &late.err);
    late.x = pk_input(late.b, "x", PK_F32, 2, (int64_t[]){2, 8});
    pk_loss(late.b, pk_l1_loss(late.b, pk_linear(late.b, late.x, 8, "late"), late.x));
    CHECK_OK(pk_build_finish(late.b, &late.err), &late.err);
    CHECK_FAILS(pk_exec_bind(&x, &bound, &late.p, &late.err), PK_EINTERNAL, &late.err,
                "parameters were added");
    pk_exec_free(&x);
    CHECK_OK(pk_exec_create(&x, &(struct pk_exec_spec){.params = &m.params, .threads = 1}, &m.err),
             &m.err);
    CHECK_FAILS(pk_exec_bind(&x, &bound, &late.p, &late.err), PK_EINTERNAL, &late.err,
                "needs an arena that was not made");
    pk_exec_free(&x);
    pk_prog_free(&late.p);
    pk_prog_free(&m.p);
    pk_params_free(&m.params);
}

int main(void)
{
    test_sticky();
    test_scope_path();
    test_parameters();
    test_shapes();
    test_input_gradients();
    test_supervised_shapes();
    test_contrast_shapes();
    test_exec();
    return TEST_END();
}
