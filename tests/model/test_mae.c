/* test_mae.c -- the masked autoencoders of tiny models: bits that must not depend on threads or
 * runs, micro-batches that must agree to rounding, absent leads that must not matter, a batch that
 * must be learned by heart.
 *
 *     test_mae                    the checks
 *     test_mae dump DIR VARIANT   what tests/model/test_mae_parity.py compares with PyTorch
 */
#include "models/mae.h"
#include "core/mask.h"
#include "tests/model/case.h"

enum { WIDTH = 32, DECODER = 16 };

/* 3 leads, 40 patches of 5 samples; for whole leads one patch of 200. */
static struct pk_mae tiny(enum pk_tokenise t)
{
    struct pk_mae m = {.signal = case_signal(), .seed = 5};
    if (t == PK_TOKENISE_LEAD) {
        m.signal.patch = 200;
        m.signal.tokens = 1;
    }
    m.signal.layout = pk_token_layout(t);
    m.encoder = (struct pk_vit){.tokenise = t,
                                .qkv_bias = t != PK_TOKENISE_TIME,
                                .width = WIDTH,
                                .depth = 2,
                                .heads = 4,
                                .mlp_ratio = 4,
                                .tokens = pk_token_grid(&m.signal, t).tokens,
                                .eps = 1e-6f,
                                .residual_std = 0.01f};
    m.decoder = m.encoder;
    m.decoder.width = DECODER;
    m.decoder.heads = 2;
    m.decoder.depth = 1;
    m.keep = t == PK_TOKENISE_LEAD ? 1 : 9;
    return m;
}

static bool start_as(struct model *x, enum pk_tokenise t, int64_t records, int threads,
                     bool reconstruct)
{
    struct pk_err err = {0};
    struct pk_mae m = tiny(t);
    *x = (struct model){.records = records};
    enum pk_status s = pk_mae_build(&x->prog, &x->params, &m, records, reconstruct, &err);
    CHECK_OK(s, &err);
    if (s == PK_OK) CHECK_OK(s = model_start(x, threads, false, &err), &err);
    return s == PK_OK;
}

static bool start(struct model *x, enum pk_tokenise t, int64_t records, int threads)
{
    return start_as(x, t, records, threads, false);
}

/* Record 1 lacks the batch's lead 0, record 4 leads 2 and 3; both are among the chosen. */
static void take_leads(struct batch *b)
{
    static const int gone[][2] = {{1, 0}, {4, 2}, {4, 3}};
    for (size_t i = 0; i < PK_COUNT(gone); i++) {
        b->gain[gone[i][0]][gone[i][1]] = 0;
        b->offset[gone[i][0]][gone[i][1]] = 0;
    }
}

static double norm(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static double distance(const float *x, const float *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return sqrt(sum);
}

/* Same bits with 1 and 2 threads and run after run; all gradients there and finite. */
static void test_bits(const struct batch *b, enum pk_tokenise t)
{
    struct model x, y;
    struct pk_err err = {0};
    double first = 0, again = 0, other = 0;
    if (!start(&x, t, 1, 1) || !start(&y, t, 1, 2)) return;
    int64_t n = x.params.elements;
    float *kept = calloc((size_t)n, sizeof *kept);
    CHECK_OK(model_run(&x, b, &first, NULL, 0, &err), &err);
    CHECK(isfinite(first) && first > 0);
    memcpy(kept, x.exec.grad, (size_t)n * sizeof *kept);
    for (int64_t i = 0; i < x.params.count; i++) {
        const struct pk_param *q = &x.params.item[i];
        double size = norm(kept + q->offset, q->count);
        if (!(size > 1e-7 && isfinite(size)))
            fprintf(stderr, "%s: gradient of norm %g\n", q->name, size);
        CHECK(size > 1e-7 && isfinite(size));
        CHECK(q->trained && !q->ema);
        CHECK(q->decay == (q->rank == 2 && !strstr(q->name, "lead_embed")));
    }
    CHECK_OK(model_run(&x, b, &again, NULL, 0, &err), &err);
    CHECK(first == again && !memcmp(kept, x.exec.grad, (size_t)n * sizeof *kept));
    for (int round = 0; round < 10; round++) {
        CHECK_OK(model_run(&y, b, &other, NULL, 0, &err), &err);
        CHECK(first == other && !memcmp(kept, y.exec.grad, (size_t)n * sizeof *kept));
    }
    free(kept);
    model_free(&x);
    model_free(&y);
}

/* Cutting the batch otherwise changes only the order of sums, absent leads or not. */
static void test_micro_batches(const struct batch *b, enum pk_tokenise t)
{
    struct model whole;
    struct pk_err err = {0};
    double loss = 0, l = 0;
    if (!start(&whole, t, RECORDS, 1)) return;
    CHECK_OK(model_run(&whole, b, &loss, NULL, 0, &err), &err);
    for (int64_t records = 1; records < RECORDS; records *= 2) {
        struct model x;
        if (!start(&x, t, records, 2)) break;
        CHECK_OK(model_run(&x, b, &l, NULL, 0, &err), &err);
        CHECK_NEAR(l, loss, 1e-6 * loss);
        for (int64_t i = 0; i < x.params.count; i++) {
            const struct pk_param *q = &x.params.item[i];
            const float *g = whole.exec.grad + q->offset;
            double d = distance(x.exec.grad + q->offset, g, q->count) / norm(g, q->count);
            if (!(d < 4e-6)) fprintf(stderr, "%s: gradients %g apart\n", q->name, d);
            CHECK(d < 4e-6);
        }
        model_free(&x);
    }
    model_free(&whole);
}

/* What the samples of an absent lead are must not matter, to the last bit. */
static void test_absent(const struct batch *b, enum pk_tokenise t)
{
    struct model x;
    struct pk_err err = {0};
    double loss[2] = {0};
    static struct batch other;
    static float embedding[2][RECORDS][WIDTH];
    other = *b;
    for (int s = 0; s < SAMPLES; s++) {
        other.signal[1][0][s] = (int16_t)(7 * s);
        other.signal[4][2][s] = (int16_t)(-3 * s);
    }
    if (!start(&x, t, RECORDS, 1)) return;
    for (int k = 0; k < 2; k++) {
        struct pk_fetch fetch = {"embedding", embedding[k]};
        CHECK_OK(model_run(&x, k ? &other : b, &loss[k], &fetch, 1, &err), &err);
    }
    CHECK(loss[0] == loss[1] && !memcmp(embedding[0], embedding[1], sizeof embedding[0]));
    model_free(&x);
}

static void test_overfit(const struct batch *b, enum pk_tokenise t)
{
    enum { LONG = 1000 };
    struct model x;
    struct pk_err err = {0};
    static double loss[LONG];
    struct step_plan plan = case_steps();
    plan.rate = (struct pk_schedule){PK_SHAPE_COSINE, 1e-4, 5e-3, 1e-5, 20, LONG, 0};
    plan.decay = (struct pk_schedule){.shape = PK_SHAPE_CONSTANT, .peak = 0, .steps = LONG};
    if (!start(&x, t, 4, 2)) return;
    CHECK_OK(model_train(&x, b, LONG, &plan, loss, &err), &err);
    fprintf(stderr, "%s: one batch by heart: loss %.4f -> %.4f in %d steps\n", pk_tokenise_name(t),
            loss[0], loss[LONG - 1], LONG);
    CHECK(loss[LONG - 1] < 0.2 * loss[0]);
    model_free(&x);
}

/* The reconstruction program predicts what the training program is scored on. */
static void test_reconstruct(const struct batch *b, enum pk_tokenise t)
{
    struct model train, x;
    struct pk_err err = {0};
    struct pk_mae m = tiny(t);
    struct pk_token_grid g = pk_token_grid(&m.signal, t);
    const int64_t rows = RECORDS * g.runs, hide = g.tokens - m.keep;
    const int64_t size = m.signal.patch * (t == PK_TOKENISE_TIME ? m.signal.leads : 1);
    double loss = 0, sum = 0;
    if (!start(&train, t, RECORDS, 1) || !start_as(&x, t, RECORDS, 1, true)) return;
    float *patch = calloc((size_t)(rows * g.tokens * size), sizeof *patch);
    float *guess = calloc((size_t)(rows * hide * size), sizeof *guess);
    int32_t *hidden = calloc((size_t)(rows * hide), sizeof *hidden);
    struct pk_fetch fetch[] = {{"patches", patch}, {"hidden", hidden}, {"prediction", guess}};
    CHECK(x.params.elements == train.params.elements);
    memcpy(x.exec.weight, train.exec.weight, (size_t)x.params.elements * sizeof(float));
    CHECK_OK(model_run(&train, b, &loss, NULL, 0, &err), &err);
    CHECK_OK(model_run(&x, b, NULL, fetch, 3, &err), &err);
    for (int64_t i = 0; i < rows * hide; i++) {
        const float *p = patch + (i / hide * g.tokens + hidden[i]) * size, *q = guess + i * size;
        double mean = 0, var = 0, square = 0;
        for (int64_t k = 0; k < size; k++) mean += (double)p[k] / (double)size;
        for (int64_t k = 0; k < size; k++) var += pow((double)p[k] - mean, 2) / (double)size;
        for (int64_t k = 0; k < size; k++)
            square += pow((double)q[k] - ((double)p[k] - mean) / sqrt(var + 1e-6), 2);
        sum += square / (double)(rows * hide * size);
    }
    CHECK_NEAR(sum, loss, 1e-5 * loss);
    free(patch);
    free(guess);
    free(hidden);
    model_free(&x);
    model_free(&train);
}

/* Exact count, a function of seed, sample and lead alone, every token kept alike often. */
static void test_mask(void)
{
    enum { TOKENS = 30, KEEP = 7, DRAWS = 20000 };
    int32_t kept[KEEP], hidden[TOKENS - KEEP], again[TOKENS], count[TOKENS] = {0};
    int same = 0;
    for (int i = 0; i < DRAWS; i++) {
        bool there[TOKENS] = {false};
        pk_lead_mask_sample(9, (uint64_t)(i / 12), (uint32_t)(i % 12), TOKENS, KEEP, kept, hidden);
        pk_lead_mask_sample(9, (uint64_t)(i / 12), (uint32_t)(i % 12 + 1), TOKENS, KEEP, again,
                            again + KEEP);
        same += !memcmp(kept, again, sizeof kept);
        for (int k = 0; k < KEEP; k++) {
            CHECK(kept[k] >= 0 && kept[k] < TOKENS && (!k || kept[k] > kept[k - 1]));
            there[kept[k]] = true;
            count[kept[k]]++;
        }
        for (int k = 0; k < TOKENS - KEEP; k++) {
            CHECK(hidden[k] >= 0 && hidden[k] < TOKENS && !there[hidden[k]]);
            CHECK(!k || hidden[k] > hidden[k - 1]);
        }
    }
    CHECK(same < 5); // of 2 million patterns
    const double p = (double)KEEP / TOKENS, sd = sqrt(DRAWS * p * (1 - p));
    for (int t = 0; t < TOKENS; t++) CHECK(fabs(count[t] - DRAWS * p) < 5 * sd);
}

static void dump_all(const char *dir, const struct batch *b, enum pk_tokenise t)
{
    struct model x;
    struct pk_err err = {0};
    struct pk_mae m = tiny(t);
    struct pk_token_grid g = pk_token_grid(&m.signal, t);
    struct step_plan plan = case_steps();
    double loss[STEPS];
    float embedding[RECORDS][WIDTH];
    char config[400];
    const int32_t hide = g.tokens - m.keep;
    struct pk_fetch fetch[] = {{"embedding", embedding}};
    /* Two micro-batches: gradients of tokens are running sums over rows, whose rounding grows with
     * their length, and leads folded into the batch make them three times as long as JEPA's. */
    if (!start(&x, t, RECORDS / 2, 1)) return;
    int32_t *kept = calloc((size_t)(RECORDS * g.runs * m.keep), sizeof *kept);
    int32_t *hidden = calloc((size_t)(RECORDS * g.runs * hide), sizeof *hidden);
    for (int i = 0; i < RECORDS * g.runs; i++)
        pk_lead_mask_sample(5, (uint64_t)b->sample[i / g.runs], (uint32_t)(i % g.runs), g.tokens,
                            m.keep, kept + i * m.keep, hidden + i * hide);
    CHECK_OK(pk_mkdirs(dir, &err), &err);
    dump_batch(dir, b);
    dump(dir, "kept.i32", kept, (size_t)(RECORDS * g.runs * m.keep) * sizeof *kept);
    dump(dir, "hidden.i32", hidden, (size_t)(RECORDS * g.runs * hide) * sizeof *hidden);
    dump_arena(dir, &x, "weight.f32", x.exec.weight);
    CHECK_OK(model_run(&x, b, NULL, fetch, 1, &err), &err);
    dump(dir, "embedding.f32", embedding, sizeof embedding);
    dump_arena(dir, &x, "grad.f32", x.exec.grad);
    CHECK_OK(model_train(&x, b, STEPS, &plan, loss, &err), &err);
    dump_arena(dir, &x, "weight_after.f32", x.exec.weight);
    snprintf(config, sizeof config,
             "\"variant\": \"%s\", \"encoder\": [32, 2, 4], \"decoder\": [16, 1, 2], \"keep\": %d, "
             "\"runs\": %d, \"run\": %d, \"token\": %d, \"qkv_bias\": %s,",
             pk_tokenise_name(t), m.keep, g.runs, g.tokens, m.signal.patch,
             m.encoder.qkv_bias ? "true" : "false");
    dump_meta(dir, &x, &plan, loss, config);
    free(kept);
    free(hidden);
    model_free(&x);
}

int main(int argc, char **argv)
{
    static struct batch b;
    case_batch(&b, false);
    take_leads(&b);
    if (argc == 4 && !strcmp(argv[1], "dump")) {
        dump_all(argv[2], &b, pk_tokenise_named(argv[3]));
        return TEST_END();
    }
    test_mask();
    for (int t = PK_TOKENISE_TIME; t < PK_TOKENISE_COUNT; t++) {
        test_bits(&b, (enum pk_tokenise)t);
        test_micro_batches(&b, (enum pk_tokenise)t);
        test_absent(&b, (enum pk_tokenise)t);
    }
    static struct batch whole; // all leads: the loss that test_reconstruct computes weighs none
    case_batch(&whole, false);
    for (int t = PK_TOKENISE_TIME; t < PK_TOKENISE_COUNT; t++) {
        test_reconstruct(&whole, (enum pk_tokenise)t);
        test_overfit(&whole, (enum pk_tokenise)t);
    }
    return TEST_END();
}
