/* test_plan.c -- addresses and fusion: no two values that live at the same time overlap, the arena
 * is hardly larger than it must be, listings before and after each pattern, sizes of published
 * models. */
#include "core/build.h"
#include "core/plan.h"
#include "models/classifier.h"
#include "models/jepa.h"
#include "tests/test.h"

struct life { // of one value or workspace in the arena
    int64_t offset, size;
    int64_t first, last; // nodes that touch it
};

/* Lifetimes found by looking at every node for every value, not as the planner does it. */
static int64_t find_lives(const struct pk_prog *p, const struct pk_plan *plan, struct life *life)
{
    int64_t n = 0;
    for (int32_t v = 0; v < p->values; v++) {
        struct life l = {.offset = plan->offset[v],
                         .size = (int64_t)pk_value_bytes(&p->value[v]),
                         .first = p->nodes,
                         .last = -1};
        for (int64_t k = 0; k < p->nodes; k++) {
            bool touched = false;
            for (int i = 0; i < PK_NODE_IN; i++) touched |= p->node[k].in[i] == v;
            for (int i = 0; i < PK_NODE_OUT; i++) touched |= p->node[k].out[i] == v;
            if (!touched) continue;
            l.first = PK_MIN(l.first, k);
            l.last = k;
        }
        bool placed = p->value[v].storage == PK_STORE_ACT && l.last >= 0;
        CHECK((l.offset >= 0) == placed);
        if (!placed) continue;
        if (p->value[v].output) l.last = p->nodes;
        life[n++] = l;
    }
    for (int64_t k = 0; k < p->nodes; k++) {
        const struct pk_op_row *row = pk_op_table[p->node[k].op];
        size_t size = row->workspace ? row->workspace(p, &p->node[k]) : 0;
        CHECK((plan->workspace[k] >= 0) == (size > 0));
        if (size) life[n++] = (struct life){plan->workspace[k], (int64_t)size, k, k};
    }
    return n;
}

static void check_plan(const struct pk_prog *p, double most, const char *what)
{
    struct pk_plan plan, again;
    struct pk_err err = {0};
    CHECK_OK(pk_plan_make(&plan, p, NULL, &err), &err);
    CHECK_OK(pk_plan_make(&again, p, NULL, &err), &err);
    struct life *life = calloc((size_t)(p->values + p->nodes), sizeof *life);
    int64_t n = find_lives(p, &plan, life), live = 0, overlaps = 0;
    for (int64_t i = 0; i < n; i++) {
        CHECK(life[i].offset % PK_ALIGN == 0 && life[i].offset >= 0);
        CHECK(life[i].offset + life[i].size <= plan.arena);
        for (int64_t j = 0; j < i; j++)
            overlaps += life[i].first <= life[j].last && life[j].first <= life[i].last &&
                        life[i].offset < life[j].offset + life[j].size &&
                        life[j].offset < life[i].offset + life[i].size;
    }
    CHECK(overlaps == 0);
    for (int64_t k = 0; k < p->nodes; k++) {
        int64_t sum = 0;
        for (int64_t i = 0; i < n; i++)
            if (life[i].first <= k && k <= life[i].last)
                sum += (life[i].size + PK_ALIGN - 1) / PK_ALIGN * PK_ALIGN;
        live = PK_MAX(live, sum);
    }
    CHECK(live == plan.live && plan.arena >= live);
    CHECK(again.arena == plan.arena && again.live == plan.live && again.flops == plan.flops);
    CHECK(!memcmp(again.offset, plan.offset, (size_t)p->values * sizeof *plan.offset));
    CHECK(!memcmp(again.workspace, plan.workspace, (size_t)p->nodes * sizeof *plan.workspace));
    double ratio = (double)plan.arena / (double)live;
    fprintf(stderr, "%s: %d nodes, arena %.2f MB, %.3f of the largest sum of live values\n", what,
            (int)p->nodes, (double)plan.arena / 1e6, ratio);
    CHECK(ratio < most);
    free(life);
    pk_plan_free(&plan);
    pk_plan_free(&again);
}

static struct pk_jepa published(int32_t width, int32_t depth, int32_t heads, int32_t predictor)
{
    struct pk_vit v = {.width = width,
                       .depth = depth,
                       .heads = heads,
                       .mlp_ratio = 4,
                       .tokens = 200,
                       .eps = 1e-6f,
                       .residual_std = 0.005f};
    struct pk_jepa j = {.signal = {.shape = {.leads = 12, .samples = 5000, .rate = 500},
                                   .leads = 12,
                                   .patch = 25,
                                   .tokens = 200,
                                   .clip = 5},
                        .encoder = v,
                        .predictor = v,
                        .min_block = 10,
                        .keep = {0.15, 0.25}};
    for (int l = 0; l < 12; l++) j.signal.lead[l] = (uint8_t)l;
    j.predictor.width = predictor;
    return j;
}

/* The counts of Weimann & Conrad 2024 at 500 Hz, exactly. */
static void test_parameter_counts(void)
{
    static const struct {
        int32_t width, depth, heads, predictor;
        int64_t encoder_count, predictor_count;
    } model[] = {{192, 8, 4, 96, 3600000, 923328},
                 {384, 8, 6, 192, 14277888, 3689856},
                 {768, 12, 12, 384, 85185024, 21833472}};
    for (size_t i = 0; i < PK_COUNT(model); i++) {
        struct pk_prog p;
        struct pk_params params = {0};
        struct pk_err err = {0};
        struct pk_jepa j =
            published(model[i].width, model[i].depth, model[i].heads, model[i].predictor);
        CHECK_OK(pk_jepa_build(&p, &params, &j, 1, 40, &err), &err);
        CHECK(pk_params_total(&params, "encoder.") == model[i].encoder_count);
        CHECK(pk_params_total(&params, "predictor.") == model[i].predictor_count);
        CHECK(pk_params_total(&params, "") == model[i].encoder_count + model[i].predictor_count);
        pk_prog_free(&p);
        pk_params_free(&params);
    }
}

static void test_jepa_plans(void)
{
    uint64_t hash[2];
    for (int64_t records = 1; records <= 16; records *= 4)
        for (int32_t keep = 30; keep <= 50; keep += 10) {
            struct pk_prog p[2];
            struct pk_params params[2] = {{0}, {0}};
            struct pk_err err = {0};
            struct pk_jepa j = published(192, 8, 4, 96);
            char what[80];
            for (int i = 0; i < 2; i++) {
                CHECK_OK(pk_jepa_build(&p[i], &params[i], &j, records, keep, &err), &err);
                hash[i] = pk_prog_hash(&p[i]);
            }
            CHECK(hash[0] == hash[1]);
            snprintf(what, sizeof what, "JEPA ViT-XS, %d records, %d tokens kept", (int)records,
                     keep);
            check_plan(&p[0], 1.15, what);
            for (int i = 0; i < 2; i++) {
                pk_prog_free(&p[i]);
                pk_params_free(&params[i]);
            }
        }
}

static void test_classifier_plans(void)
{
    for (int head = 0; head < 3; head++)
        for (int train = 0; train < 2; train++) {
            struct pk_prog p;
            struct pk_params params = {0};
            struct pk_err err = {0};
            struct pk_jepa j = published(192, 8, 4, 96);
            struct pk_classifier c = {.signal = j.signal,
                                      .encoder = pk_encoder_of_vit(&j.encoder),
                                      .head = (enum pk_head)head,
                                      .classes = 71};
            CHECK_OK(pk_classifier_build(&p, &params, &c, 4, train, &err), &err);
            check_plan(&p, train ? 1.15 : 1.2,
                       train ? "classifier, training" : "classifier, evaluation");
            pk_prog_free(&p);
            pk_params_free(&params);
        }
}

/* Listings. `stage` 0 is the forward program, 1 has gradients, 2 is fused. */
typedef void (*recorder)(struct pk_build *b, struct pk_val x);

static void check_listing(recorder record, int stage, const char *expected)
{
    struct pk_prog p;
    struct pk_params params = {0};
    struct pk_err err = {0};
    struct pk_build *b;
    struct pk_text t = {0};
    CHECK_OK(pk_build_begin(&b, &p, &params, &err), &err);
    record(b, pk_input(b, "x", PK_F32, 2, (int64_t[]){3, 4}));
    p.forward_nodes = p.nodes;
    if (stage > 0 && p.loss >= 0) CHECK(pk_differentiate(b) == PK_OK);
    if (stage > 1) CHECK(pk_fuse(b) == PK_OK);
    pk_prog_print(&p, &t);
    CHECK(t.s && !strcmp(t.s, expected));
    if (t.s && strcmp(t.s, expected)) fprintf(stderr, "expected\n%sgot\n%s", expected, t.s);
    free(b);
    pk_text_free(&t);
    pk_prog_free(&p);
    pk_params_free(&params);
}

static void record_mlp(struct pk_build *b, struct pk_val x)
{
    pk_output(b, pk_linear_bias(b, pk_gelu(b, pk_linear(b, x, 8, "fc1")), 2, "fc2"), "y");
}

static void record_mlp_loss(struct pk_build *b, struct pk_val x)
{
    struct pk_val label = pk_input(b, "label", PK_U8, 2, (int64_t[]){3, 2});
    struct pk_val h = pk_gelu(b, pk_linear(b, x, 8, "fc1"));
    pk_loss(b, pk_bce_loss(b, pk_linear_bias(b, h, 2, "fc2"), label));
}

static void record_residual(struct pk_build *b, struct pk_val x)
{
    x = pk_linear(b, x, 4, "fc1");
    struct pk_val sum = pk_add(b, x, pk_linear(b, x, 4, "fc2"));
    pk_output(b, pk_add(b, sum, pk_layernorm(b, sum, 1e-6f, "norm")), "y");
}

static void record_shared(struct pk_build *b, struct pk_val x)
{
    struct pk_val label = pk_input(b, "label", PK_U8, 2, (int64_t[]){3, 2});
    struct pk_val h = pk_gelu(b, pk_linear(b, x, 8, "fc1"));
    struct pk_val y = pk_linear(b, h, 2, "a"); // one statement each: C leaves their order open
    y = pk_add(b, y, pk_linear(b, h, 2, "b"));
    pk_loss(b, pk_bce_loss(b, y, label));
}

static void test_listings(void)
{
    // linear + gelu; nobody keeps what goes into the GELU
    check_listing(record_mlp, 0,
                  "   0  %2 = linear(in:x, fc1.weight, -) [3, 8]  # fc1\n"
                  "   1  %3 = gelu(%2) [3, 8]\n"
                  "   2  %6 = linear(%3, fc2.weight, fc2.bias) [3, 2]  # fc2\n");
    check_listing(record_mlp, 2,
                  "   0  -, %3 = linear_gelu(in:x, fc1.weight, -) [3, 8]  # fc1\n"
                  "   1  %6 = linear(%3, fc2.weight, fc2.bias) [3, 2]  # fc2\n");
    // backward: linear_dx + gelu_grad; the GELU's input is kept
    check_listing(record_mlp_loss, 1,
                  "   0  %3 = linear(in:x, fc1.weight, -) [3, 8]  # fc1\n"
                  "   1  %4 = gelu(%3) [3, 8]\n"
                  "   2  %7 = linear(%4, fc2.weight, fc2.bias) [3, 2]  # fc2\n"
                  "   3  %8, %9 = multilabel_loss(%7, in:label, -, -) [1]\n"
                  "   4  %11 = multilabel_loss_grad(%7, in:label, -, -, %9, in:seed) [3, 2]\n"
                  "   5  %12 = linear_dx(%11, fc2.weight) [3, 8]  # fc2\n"
                  "   6  d:fc2.weight+, d:fc2.bias+ = linear_dw(%11, %4) [2, 8]  # fc2\n"
                  "   7  %15 = gelu_grad(%12, %3) [3, 8]\n"
                  "   8  d:fc1.weight+, - = linear_dw(%15, in:x) [8, 4]  # fc1\n");
    check_listing(record_mlp_loss, 2,
                  "   0  %3, %4 = linear_gelu(in:x, fc1.weight, -) [3, 8]  # fc1\n"
                  "   1  %7 = linear(%4, fc2.weight, fc2.bias) [3, 2]  # fc2\n"
                  "   2  %8, %9 = multilabel_loss(%7, in:label, -, -) [1]\n"
                  "   3  %11 = multilabel_loss_grad(%7, in:label, -, -, %9, in:seed) [3, 2]\n"
                  "   4  %15 = linear_dx_gelu(%11, fc2.weight, %3) [3, 8]  # fc2\n"
                  "   5  d:fc2.weight+, d:fc2.bias+ = linear_dw(%11, %4) [2, 8]  # fc2\n"
                  "   6  d:fc1.weight+, - = linear_dw(%15, in:x) [8, 4]  # fc1\n");
    // add + layernorm; the sum is read again, the statistics are not
    check_listing(record_residual, 0,
                  "   0  %2 = linear(in:x, fc1.weight, -) [3, 4]  # fc1\n"
                  "   1  %4 = linear(%2, fc2.weight, -) [3, 4]  # fc2\n"
                  "   2  %5 = add(%2, %4) [3, 4]\n"
                  "   3  %7, %8, %9 = layernorm(%5, norm.weight, -) [3, 4]  # norm\n"
                  "   4  %10 = add(%5, %7) [3, 4]\n");
    check_listing(record_residual, 2,
                  "   0  %2 = linear(in:x, fc1.weight, -) [3, 4]  # fc1\n"
                  "   1  %4 = linear(%2, fc2.weight, -) [3, 4]  # fc2\n"
                  "   2  %5, %7, -, - = add_layernorm(%2, %4, norm.weight, -) [3, 4]\n"
                  "   3  %10 = add(%5, %7) [3, 4]\n");
    // %14 is a sum of two terms: gelu_grad must wait for both
    check_listing(record_shared, 2,
                  "   0  %3, %4 = linear_gelu(in:x, fc1.weight, -) [3, 8]  # fc1\n"
                  "   1  %6 = linear(%4, a.weight, -) [3, 2]  # a\n"
                  "   2  %8 = linear(%4, b.weight, -) [3, 2]  # b\n"
                  "   3  %9 = add(%6, %8) [3, 2]\n"
                  "   4  %10, %11 = multilabel_loss(%9, in:label, -, -) [1]\n"
                  "   5  %13 = multilabel_loss_grad(%9, in:label, -, -, %11, in:seed) [3, 2]\n"
                  "   6  %14 = linear_dx(%13, b.weight) [3, 8]  # b\n"
                  "   7  d:b.weight+, - = linear_dw(%13, %4) [2, 8]  # b\n"
                  "   8  %14+ = linear_dx(%13, a.weight) [3, 8]  # a\n"
                  "   9  d:a.weight+, - = linear_dw(%13, %4) [2, 8]  # a\n"
                  "  10  %17 = gelu_grad(%14, %3) [3, 8]\n"
                  "  11  d:fc1.weight+, - = linear_dw(%17, in:x) [8, 4]  # fc1\n");
}

int main(void)
{
    test_listings();
    test_parameter_counts();
    test_jepa_plans();
    test_classifier_plans();
    return TEST_END();
}
