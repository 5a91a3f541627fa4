/* test_conv.c -- convolutional encoders with their head: parameters, training and evaluation.
 *
 *     test_conv                    the checks
 *     test_conv dump DIR NET HOW   for tests/model/test_conv_parity.py: a small NET, HOW "t"
 * trains, "e" uses the running statistics test_conv table NET          names and shapes of the
 * published size, 12 leads, 71 classes
 *
 * NET: wang, xresnet, xresnet18 (no bottlenecks), efficientnet, droppath (that with it), net1d
 * (as ECGFounder's), net1d_bn (with norms); both Net1D drop paths. */
#include "models/efficientnet1d.h"
#include "models/net1d.h"
#include "models/resnet1d.h"
#include "models/xresnet1d.h"
#include "tests/model/case.h"

enum { TOKENS = 200 };

struct net {
    const char *kind;
    struct pk_resnet1d wang;
    struct pk_xresnet1d xresnet;
    struct pk_efficientnet1d efficient;
    struct pk_net1d net1d;
    struct pk_concat_head head;
    bool train;  // batch norm by the micro-batch, a loss
    bool frozen; // the encoder
};

/* Widths that are no multiples of a vector; one block of each kind. */
static struct net small(const char *kind, bool train)
{
    struct net n = {.kind = kind, .train = train};
    n.wang = pk_resnet1d_wang(train);
    n.wang.width = 12;
    n.xresnet = (struct pk_xresnet1d){.stem = {6, 7, 8},
                                      .width = 8,
                                      .expansion = strcmp(kind, "xresnet18") ? 4 : 1,
                                      .layers = {1, 2, 1, 1},
                                      .kernel = 5,
                                      .train = train};
    n.efficient =
        (struct pk_efficientnet1d){.stem = 6,
                                   .stage = {{1, 5, 1, 1, 3}, {6, 7, 2, 2, 5}, {3, 7, 1, 1, 3}},
                                   .features = 9,
                                   .train = train};
    if (!strcmp(kind, "droppath"))
        n.efficient =
            (struct pk_efficientnet1d){.stem = 8,
                                       .stage = {{1, 8, 1, 1, 3}, {6, 8, 2, 2, 5}, {3, 8, 2, 1, 3}},
                                       .features = 9,
                                       .drop_path = 0.5f,
                                       .seed = 19,
                                       .train = train};
    n.net1d = (struct pk_net1d){.stem = 6,
                                .width = {9, 12, 21},
                                .blocks = {2, 1, 2},
                                .kernel = 16,
                                .group = 3,
                                .squeeze = 2,
                                .norm = !strcmp(kind, "net1d_bn"),
                                .drop_path = 0.6f,
                                .seed = 19,
                                .train = train};
    n.head = (struct pk_concat_head){
        .hidden = 10, .classes = CLASSES, .he = strcmp(kind, "wang") != 0, .train = train};
    return n;
}

static struct net published(const char *kind)
{
    struct net n = {.kind = kind, .wang = pk_resnet1d_wang(true)};
    n.efficient = pk_efficientnet1d_b0(true);
    n.net1d = pk_net1d_ecgfounder(true);
    n.net1d.norm = !strcmp(kind, "net1d_bn");
    n.xresnet = strcmp(kind, "xresnet1d50") ? pk_xresnet1d101(true) : pk_xresnet1d50(true);
    n.head = (struct pk_concat_head){
        .hidden = 128, .classes = 71, .dropout = 0.5f, .he = strcmp(kind, "wang") != 0};
    n.train = n.head.train = true;
    return n;
}

static struct pk_val encode(struct pk_build *b, struct pk_val x, struct pk_val sample,
                            const struct net *n)
{
    if (!strcmp(n->kind, "wang")) return pk_resnet1d_encode(b, x, &n->wang);
    if (!strcmp(n->kind, "efficientnet") || !strcmp(n->kind, "droppath"))
        return pk_efficientnet1d_encode(b, x, sample, &n->efficient);
    if (!strncmp(n->kind, "net1d", 5)) return pk_net1d_encode(b, x, sample, &n->net1d);
    return pk_xresnet1d_encode(b, x, &n->xresnet);
}

static enum pk_status build(struct model *x, const struct net *n, int32_t leads, int32_t samples,
                            struct pk_err *err)
{
    struct pk_build *b;
    struct pk_signal signal = case_signal();
    signal.patch = 1;
    signal.tokens = samples;
    signal.leads = signal.shape.leads = leads;
    signal.shape.samples = PK_MAX(samples, SAMPLES);
    for (int i = 0; i < leads; i++) signal.lead[i] = (uint8_t)i;
    if (leads == 3) memcpy(signal.lead, case_signal().lead, 3), signal.shape.leads = LEADS;
    PK_TRY(pk_build_begin(&b, &x->prog, &x->params, err));
    struct pk_signal_in in = pk_signal_inputs(b, &signal, x->records);
    pk_scope(b, "encoder");
    if (n->frozen) pk_scope_frozen(b, true);
    struct pk_val h = encode(b, in.patches, n->train ? in.sample : PK_NONE, n);
    if (n->frozen) pk_scope_frozen(b, false);
    pk_scope_end(b);
    pk_scope(b, "head");
    struct pk_val z = pk_concat_head(b, h, in.sample, &n->head);
    pk_scope_end(b);
    pk_output(b, z, "logits");
    struct pk_val label = pk_input(b, "label", PK_U8, 2, (int64_t[]){x->records, n->head.classes});
    pk_loss(b, pk_bce_loss(b, z, label));
    return pk_build_finish(b, err);
}

static bool start(struct model *x, const struct net *n, int64_t records, int threads)
{
    struct pk_err err = {0};
    *x = (struct model){.records = records};
    enum pk_status s = build(x, n, 3, TOKENS, &err);
    CHECK_OK(s, &err);
    if (s == PK_OK) CHECK_OK(s = model_start(x, threads, false, &err), &err);
    if (s == PK_OK) model_perturb_norms(x);
    return s == PK_OK;
}

static const float *at(const struct model *x, const char *name)
{
    int64_t i = pk_params_find(&x->params, name);
    CHECK(i >= 0);
    return x->exec.weight + (i < 0 ? 0 : x->params.item[i].offset);
}

/* Every weight gets a gradient; with running statistics the cut into micro-batches does not matter,
 * with those of the micro-batch it does (ghost batch norm). */
static void test_gradients(const char *kind, bool train)
{
    static struct batch b;
    struct net n = small(kind, train);
    struct model x, y;
    struct pk_err err = {0};
    double loss = 0, other = 0;
    case_batch(&b, false);
    if (!start(&x, &n, RECORDS, 1) || !start(&y, &n, 2, 2)) return;
    CHECK_OK(model_run(&x, &b, &loss, NULL, 0, &err), &err);
    CHECK_OK(model_run(&y, &b, &other, NULL, 0, &err), &err);
    CHECK(isfinite(loss) && loss > 0);
    CHECK(train ? fabs(other - loss) > 1e-4 * loss : fabs(other - loss) < 1e-5 * loss);
    for (int64_t i = 0; i < x.params.count; i++) {
        const struct pk_param *q = &x.params.item[i];
        double sum = 0;
        for (int64_t k = q->offset; k < q->offset + q->count; k++)
            sum += (double)x.exec.grad[k] * (double)x.exec.grad[k];
        CHECK(q->trained == (!q->state || train));
        CHECK(q->trained ? sum > 0 : sum == 0);
    }
    model_free(&x), model_free(&y);
}

/* A frozen encoder keeps weights and running statistics bit for bit, also in a training program. */
static void test_frozen(void)
{
    static struct batch b;
    struct net n = small("xresnet", true);
    struct step_plan plan = case_steps();
    struct pk_err err = {0};
    struct model x;
    double loss[STEPS];
    n.frozen = true;
    case_batch(&b, false);
    if (!start(&x, &n, 4, 2)) return;
    const size_t bytes = (size_t)x.params.elements * sizeof(float);
    float *before = malloc(bytes);
    if (!before) exit(1);
    memcpy(before, x.exec.weight, bytes);
    CHECK_OK(model_train(&x, &b, STEPS, &plan, loss, &err), &err);
    for (int64_t i = 0; i < x.params.count; i++) {
        const struct pk_param *q = &x.params.item[i];
        const bool same = !memcmp(before + q->offset, x.exec.weight + q->offset,
                                  (size_t)q->count * sizeof(float));
        CHECK(same == !strncmp(q->name, "encoder.", 8));
    }
    CHECK_NEAR((double)*at(&x, "head.2.num_batches_tracked"), STEPS, 1e-4);
    free(before);
    model_free(&x);
}

/* Starts as published: He's spread for xresnet1d, branches that begin as nothing. */
static void test_start(void)
{
    struct model x = {.records = 2};
    struct pk_err err = {0};
    struct net n = published("xresnet1d50");
    CHECK_OK(build(&x, &n, 12, 250, &err), &err);
    float *w = malloc((size_t)x.params.elements * sizeof *w);
    if (!w) exit(1);
    pk_params_init(&x.params, 1, w);
    for (int64_t i = 0; i < x.params.count; i++) {
        const struct pk_param *q = &x.params.item[i];
        double square = 0;
        for (int64_t k = q->offset; k < q->offset + q->count; k++)
            square += (double)w[k] * (double)w[k];
        const double want = 2.0 / (double)(q->dim[1] * q->dim[2]);
        if (q->rank == 3 && q->count > 4000)
            CHECK_NEAR(square / (double)q->count, want, 0.1 * want);
        if (strstr(q->name, "convs.2.1.weight")) CHECK(square == 0);
    }
    free(w);
    pk_prog_free(&x.prog);
    pk_params_free(&x.params);
}

struct path { // a drop path of the program
    float p;
    float kept[RECORDS]; // 1 or 0, by the definition in core/ops.h
};

/* Drop paths in the order of the blocks; the gradient's are those of the same site. */
static int paths_of(const struct pk_prog *p, const struct batch *b, struct path out[], int room)
{
    int count = 0;
    for (int64_t k = 0; k < p->nodes; k++) {
        const union pk_attr *a = &p->node[k].attr;
        if (p->node[k].op != PK_OP_DROPOUT || !a->dropout.record) continue;
        if ((int)a->dropout.site != count || count == room) continue;
        out[count].p = a->dropout.p;
        for (int i = 0; i < RECORDS; i++) {
            struct pk_rng r = pk_rng_make(a->dropout.seed, PK_RNG_DROPOUT, (uint64_t)b->sample[i],
                                          a->dropout.site);
            uint32_t word[4];
            pk_philox(word, r.counter, r.key);
            out[count].kept[i] = (double)word[0] / 0x1p32 >= (double)a->dropout.p;
        }
        count++;
    }
    return count;
}

/* Rates rise over the blocks that have a shortcut; nothing is dropped where nothing is trained. */
static void test_paths(const char *kind, bool train, bool frozen, int want, double last)
{
    static struct batch b;
    enum { ROOM = 32 };
    struct path path[ROOM];
    struct model x = {.records = 2};
    struct pk_err err = {0};
    struct net n = strncmp(kind, "b0", 2) ? small(kind, train) : published("efficientnet");
    n.frozen = frozen;
    case_batch(&b, false);
    CHECK_OK(build(&x, &n, 12, 250, &err), &err);
    const int count = paths_of(&x.prog, &b, path, ROOM);
    CHECK(count == want);
    for (int i = 1; i < count; i++) CHECK(path[i].p > path[i - 1].p);
    if (count && count == want) CHECK_NEAR((double)path[count - 1].p, last, 1e-6);
    pk_prog_free(&x.prog);
    pk_params_free(&x.params);
}

static void dump_all(const char *dir, const char *kind, bool train)
{
    static struct batch b;
    struct model x;
    struct pk_err err = {0};
    struct step_plan plan = case_steps();
    struct net n = small(kind, train);
    double loss[STEPS];
    float logit[RECORDS][CLASSES];
    char config[100];
    struct path path[8];
    struct pk_fetch fetch = {"logits", logit};
    case_batch(&b, false);
    if (!start(&x, &n, RECORDS, 1)) return;
    CHECK_OK(pk_mkdirs(dir, &err), &err);
    dump_batch(dir, &b);
    const int paths = paths_of(&x.prog, &b, path, (int)PK_COUNT(path));
    dump(dir, "paths.f32", path, (size_t)paths * sizeof path[0]);
    dump_arena(dir, &x, "weight.f32", x.exec.weight);
    CHECK_OK(model_run(&x, &b, NULL, &fetch, 1, &err), &err);
    dump(dir, "logits.f32", logit, sizeof logit);
    dump_arena(dir, &x, "grad.f32", x.exec.grad);
    CHECK_OK(model_train(&x, &b, STEPS, &plan, loss, &err), &err);
    dump_arena(dir, &x, "weight_after.f32", x.exec.weight);
    snprintf(config, sizeof config, "\"net\": \"%s\", \"train\": %s,", kind,
             train ? "true" : "false");
    dump_meta(dir, &x, &plan, loss, config);
    model_free(&x);
}

static void print_table(const char *kind)
{
    struct model x = {.records = 2};
    struct pk_err err = {0};
    struct net n = published(kind);
    CHECK_OK(build(&x, &n, 12, 250, &err), &err);
    for (int64_t i = 0; i < x.params.count; i++) {
        printf("%s", x.params.item[i].name);
        for (int k = 0; k < x.params.item[i].rank; k++)
            printf(" %lld", (long long)x.params.item[i].dim[k]);
        printf("\n");
    }
    pk_prog_free(&x.prog);
    pk_params_free(&x.params);
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "dump")) {
        dump_all(argv[2], argv[3], !strcmp(argv[4], "t"));
        return TEST_END();
    }
    if (argc == 3 && !strcmp(argv[1], "table")) {
        print_table(argv[2]);
        return TEST_END();
    }
    for (int train = 0; train < 2; train++) {
        test_gradients("wang", train);
        test_gradients("xresnet", train);
        test_gradients("xresnet18", train);
        test_gradients("efficientnet", train);
        test_gradients("droppath", train);
        test_gradients("net1d", train);
        test_gradients("net1d_bn", train);
    }
    test_paths("droppath", true, false, 3, 0.5 * 4 / 5);
    test_paths("droppath", false, false, 0, 0);
    test_paths("droppath", true, true, 0, 0);
    test_paths("efficientnet", true, false, 0, 0);
    test_paths("net1d", true, false, 4, 0.6 * 4 / 5);
    test_paths("net1d", false, false, 0, 0);
    test_paths("b0", true, false, 9, 0.2 * 14 / 16);
    test_frozen();
    test_start();
    return TEST_END();
}
