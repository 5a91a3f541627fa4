/* test_classifier.c -- encoder and head on labelled windows: heads, losses, frozen encoder,
 * dropout, the evaluation program.
 *
 *     test_classifier                      the checks
 *     test_classifier dump DIR HEAD HOW    for tests/model/test_classifier_parity.py; HEAD is a
 *                                          number of enum pk_head, HOW letters: s softmax, f
 * frozen, 2, 1, h regression of targets: squared, absolute, Huber
 */
#include "models/classifier.h"
#include "tests/model/case.h"

enum { TOKENS = 40, WIDTH = 32 };

static struct pk_classifier tiny(enum pk_head head, bool softmax, bool frozen, float dropout)
{
    return (struct pk_classifier){.signal = case_signal(),
                                  .encoder = {.width = WIDTH,
                                              .vit = {.width = WIDTH,
                                                      .depth = 2,
                                                      .heads = 4,
                                                      .mlp_ratio = 4,
                                                      .tokens = TOKENS,
                                                      .eps = 1e-6f,
                                                      .residual_std = 0.01f,
                                                      .dropout = dropout,
                                                      .seed = 9}},
                                  .head = head,
                                  .classes = CLASSES,
                                  .softmax = softmax,
                                  .frozen = frozen};
}

static bool start(struct model *x, const struct pk_classifier *c, int64_t records, int threads,
                  bool train)
{
    struct pk_err err = {0};
    *x = (struct model){.records = records};
    enum pk_status s = pk_classifier_build(&x->prog, &x->params, c, records, train, &err);
    CHECK_OK(s, &err);
    if (s == PK_OK) CHECK_OK(s = model_start(x, threads, false, &err), &err);
    return s == PK_OK;
}

/* The same whatever the head: the encoder is trained unless frozen, bits repeat, the cut of the
 * batch does not matter -- with dropout too, since its draws belong to the sample. */
static void test_case(const struct batch *b, const struct pk_classifier *c)
{
    struct model x, y;
    struct pk_err err = {0};
    double loss = 0, other = 0;
    if (!start(&x, c, RECORDS, 1, true) || !start(&y, c, 2, 2, true)) return;
    CHECK_OK(model_run(&x, b, &loss, NULL, 0, &err), &err);
    CHECK_OK(model_run(&y, b, &other, NULL, 0, &err), &err);
    CHECK(isfinite(loss) && loss > 0);
    CHECK_NEAR(other, loss, 1e-6 * loss);
    for (int64_t i = 0; i < x.params.count; i++) {
        const struct pk_param *q = &x.params.item[i];
        bool trained = !c->frozen || !strncmp(q->name, "head.", 5);
        double sum = 0, off = 0;
        for (int64_t k = q->offset; k < q->offset + q->count; k++) {
            double g = (double)x.exec.grad[k], d = g - (double)y.exec.grad[k];
            sum += g * g;
            off += d * d;
        }
        CHECK(q->trained == trained);
        CHECK(trained ? sum > 1e-14 : sum == 0);
        CHECK(off <= 1e-11 * sum);
    }
    model_free(&x);
    model_free(&y);
}

/* Targets that are not known have no part in the loss: other numbers in their place (NaN) change
 * nothing, and a batch without any costs nothing and moves nothing. */
static void test_regression(const struct batch *b, const struct pk_classifier *c)
{
    static struct batch none;
    struct model x;
    struct pk_err err = {0};
    double loss = 0, nothing = 1, sum = 0;
    none = *b;
    for (int i = 0; i < RECORDS; i++)
        for (int k = 0; k < CLASSES; k++) none.target[i][k] = NAN;
    if (!start(&x, c, RECORDS, 1, true)) return;
    CHECK_OK(model_run(&x, b, &loss, NULL, 0, &err), &err);
    CHECK(isfinite(loss) && loss > 0);
    CHECK_OK(model_run(&x, &none, &nothing, NULL, 0, &err), &err);
    CHECK(nothing == 0);
    for (int64_t i = 0; i < x.params.elements; i++) sum += fabs((double)x.exec.grad[i]);
    CHECK(sum == 0);
    model_free(&x);
}

/* Dropout changes the loss of a trained encoder, never that of a frozen one or of evaluation. */
static void test_dropout(const struct batch *b)
{
    double loss[2][2];
    float logit[2][RECORDS][CLASSES];
    struct pk_err err = {0};
    for (int frozen = 0; frozen < 2; frozen++)
        for (int drop = 0; drop < 2; drop++) {
            struct model x;
            struct pk_classifier c = tiny(PK_HEAD_ATTENTIVE, false, frozen, drop ? 0.3f : 0.0f);
            if (!start(&x, &c, RECORDS, 1, true)) return;
            CHECK_OK(model_run(&x, b, &loss[frozen][drop], NULL, 0, &err), &err);
            model_free(&x);
            struct pk_fetch fetch = {"logits", logit[drop]};
            if (!start(&x, &c, RECORDS, 1, false)) return;
            CHECK_OK(model_run(&x, b, NULL, &fetch, 1, &err), &err);
            model_free(&x);
        }
    CHECK(fabs(loss[0][0] - loss[0][1]) > 1e-4);
    CHECK(loss[1][0] == loss[1][1]);
    CHECK(loss[0][0] == loss[1][0]);
    CHECK(!memcmp(logit[0], logit[1], sizeof logit[0]));
}

/* Training with a frozen encoder leaves it bit for bit as it was. */
static void test_frozen(const struct batch *b)
{
    struct model x;
    struct pk_err err = {0};
    struct pk_classifier c = tiny(PK_HEAD_MEAN_LINEAR, false, true, 0);
    struct step_plan plan = case_steps();
    double loss[STEPS];
    if (!start(&x, &c, 4, 2, true)) return;
    size_t bytes = (size_t)x.params.elements * sizeof(float);
    float *before = malloc(bytes);
    memcpy(before, x.exec.weight, bytes);
    CHECK_OK(model_train(&x, b, STEPS, &plan, loss, &err), &err);
    for (int64_t i = 0; i < x.params.count; i++) {
        const struct pk_param *q = &x.params.item[i];
        bool same = !memcmp(before + q->offset, x.exec.weight + q->offset,
                            (size_t)q->count * sizeof(float));
        CHECK(same == !strncmp(q->name, "encoder.", 8));
    }
    free(before);
    model_free(&x);
}

static struct pk_classifier named(enum pk_head head, const char *how)
{
    struct pk_classifier c = tiny(head, strchr(how, 's') != NULL, strchr(how, 'f') != NULL, 0);
    c.regresses = strpbrk(how, "21h") != NULL;
    c.regression.kind = strchr(how, '2')   ? PK_REGRESSION_SQUARED
                        : strchr(how, '1') ? PK_REGRESSION_ABSOLUTE
                                           : PK_REGRESSION_HUBER;
    c.regression.delta = 0.75f;
    return c;
}

static void dump_all(const char *dir, enum pk_head head, const char *how)
{
    static struct batch b;
    struct model x;
    struct pk_err err = {0};
    struct step_plan plan = case_steps();
    struct pk_classifier c = named(head, how);
    double loss[STEPS];
    char config[200];
    float logit[RECORDS][CLASSES], train_logit[RECORDS][CLASSES], embedding[RECORDS][WIDTH];
    struct pk_fetch fetch[] = {{"logits", logit}, {"embedding", embedding}};
    struct pk_fetch train_fetch = {"logits", train_logit};
    case_batch(&b, c.softmax);
    if (!start(&x, &c, RECORDS, 1, false)) return;
    CHECK_OK(model_run(&x, &b, NULL, fetch, 2, &err), &err);
    model_free(&x);
    if (!start(&x, &c, RECORDS, 1, true)) return;
    CHECK_OK(pk_mkdirs(dir, &err), &err);
    dump_batch(dir, &b);
    dump(dir, "logits.f32", logit, sizeof logit);
    dump(dir, "embedding.f32", embedding, sizeof embedding);
    dump_arena(dir, &x, "weight.f32", x.exec.weight);
    CHECK_OK(model_run(&x, &b, NULL, &train_fetch, 1, &err), &err);
    CHECK(!memcmp(logit, train_logit, sizeof logit));
    dump_arena(dir, &x, "grad.f32", x.exec.grad);
    CHECK_OK(model_train(&x, &b, STEPS, &plan, loss, &err), &err);
    dump_arena(dir, &x, "weight_after.f32", x.exec.weight);
    snprintf(config, sizeof config,
             "\"encoder\": [32, 2, 4], \"head\": %d, \"how\": \"%.8s\", \"frozen\": %s,", (int)head,
             how, c.frozen ? "true" : "false");
    dump_meta(dir, &x, &plan, loss, config);
    model_free(&x);
}

int main(int argc, char **argv)
{
    static struct batch b;
    if (argc == 5 && !strcmp(argv[1], "dump")) {
        dump_all(argv[2], (enum pk_head)(argv[3][0] - '0'), argv[4]);
        return TEST_END();
    }
    for (int head = 0; head < 3; head++)
        for (int how = 0; how < 8; how++) {
            struct pk_classifier c =
                tiny((enum pk_head)head, how & 1, how & 2, how & 4 ? 0.3f : 0.0f);
            case_batch(&b, how & 1);
            test_case(&b, &c);
        }
    case_batch(&b, false);
    for (const char *how = "21h"; *how; how++) {
        struct pk_classifier c = named(PK_HEAD_MEAN_LINEAR, (char[]){*how, 0});
        test_regression(&b, &c);
    }
    test_dropout(&b);
    test_frozen(&b);
    return TEST_END();
}
