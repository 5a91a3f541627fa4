/* test_augment.c -- every augmentation against its definition in core/augment.h, written again here
 * in double; shares and bounds of what is drawn.
 *
 *     test_augment             the checks
 *     test_augment draw        what docs/augmentations.py draws: a line of values for each kind and
 *                              lead, "before" first; five seconds of two leads at 100 Hz */
#include "tests/op/op_sweep.h"

#include "core/augment.h"

static const double TURN = 6.283185307179586476925286766559;

struct draws { // the stream of one kind
    struct pk_rng r;
    bool happens;
    double level;
};

static struct draws draw(const struct op_case *t, int64_t b, int kind)
{
    const float *range = (const float *)t->data[2] + 3 * kind;
    const uint64_t sample = (uint64_t)((const int64_t *)t->data[1])[b];
    struct draws d = {.r = pk_rng_make(t->node.attr.augment.seed, PK_RNG_AUGMENT, sample,
                                       t->node.attr.augment.view * 256 + (uint32_t)kind)};
    d.happens = pk_rng_uniform(&d.r) < (double)range[0];
    d.level = (double)range[1];
    d.level += ((double)range[2] - (double)range[1]) * pk_rng_uniform(&d.r);
    return d;
}

static void shuffle(struct pk_rng *r, int leads, int order[16])
{
    for (int i = 0; i < leads; i++) order[i] = i;
    for (int i = leads - 1; i > 0; i--) {
        const int j = (int)pk_rng_below(r, (uint64_t)i + 1), old = order[i];
        order[i] = order[j];
        order[j] = old;
    }
}

/* Where sample s of the output comes from. */
static double moment(const struct op_case *t, int64_t b, int64_t s, int64_t samples)
{
    double at = (double)s, last = (double)(samples - 1);
    struct draws d = draw(t, b, PK_AUGMENT_TIME_WARP);
    if (d.happens && last > 0) {
        const double a = 2 * pk_rng_uniform(&d.r) - 1, r = at / last;
        const double c = (1 - fabs(a)) * (2 * pk_rng_uniform(&d.r) - 1);
        at = last * (r + d.level / TURN * (a * sin(TURN * r) + c / 2 * sin(2 * TURN * r)));
    }
    d = draw(t, b, PK_AUGMENT_CROP_RESIZE);
    if (d.happens) at = pk_rng_uniform(&d.r) * (1 - d.level) * last + d.level * at;
    return fmin(fmax(at, 0), last);
}

static double gain(const struct op_case *t, int64_t b, int64_t s, int64_t samples, sweep_round R)
{
    struct draws d = draw(t, b, PK_AUGMENT_MAGNITUDE);
    double knot[PK_AUGMENT_KNOTS];
    if (!d.happens) return 1;
    for (int i = 0; i < PK_AUGMENT_KNOTS; i++)
        knot[i] = R(d.level * sqrt(3) * (2 * pk_rng_uniform(&d.r) - 1));
    const double at = samples > 1 ? (double)s / (double)(samples - 1) * (PK_AUGMENT_KNOTS - 1) : 0;
    const int k = PK_MIN((int)at, PK_AUGMENT_KNOTS - 2);
    const double part = R(0.5 - R(0.5 * R(cos(R(TURN / 2 * R(at - k))))));
    return R(1 + R(knot[k] + R(R(knot[k + 1] - knot[k]) * part)));
}

static double wave(double turns, sweep_round R)
{
    return R(sin(R(R(TURN) * R(turns - floor(turns)))));
}

static double added(const struct op_case *t, int64_t b, int l, int64_t s, int64_t samples,
                    sweep_round R)
{
    const double time = (double)s / (double)t->node.attr.augment.rate;
    double sum = 0;
    struct draws d = draw(t, b, PK_AUGMENT_WANDER);
    if (d.happens) {
        double u[4];
        for (int i = 0; i < 4; i++) u[i] = pk_rng_uniform(&d.r);
        sum = R(0.7 * wave((0.05 + 0.2 * u[0]) * time + u[1] + 0.381966 * l, R));
        sum = R(sum + R(0.3 * wave((0.25 + 0.25 * u[2]) * time + u[3] + 0.381966 * l, R)));
        sum = R(sum * d.level);
    }
    d = draw(t, b, PK_AUGMENT_POWERLINE);
    if (d.happens) {
        const double hertz = pk_rng_uniform(&d.r) < 0.5 ? 50 : 60;
        sum = R(sum + R(d.level * wave(hertz * time + pk_rng_uniform(&d.r), R)));
    }
    d = draw(t, b, PK_AUGMENT_NOISE);
    if (d.happens) {
        const int64_t i = l * samples + s;
        struct pk_rng r = draw(t, b, 0).r;
        uint32_t word[4], counter[4];
        memcpy(counter, r.counter, sizeof counter);
        counter[0] = (uint32_t)(i / 4);
        counter[1] = t->node.attr.augment.view * 256 + 255;
        pk_philox(word, counter, r.key);
        const uint32_t *pair = word + i % 4 / 2 * 2;
        const double length = R(sqrt(R(-2 * R(log(R((pair[0] + 1.0) / 0x1p32)))))),
                     angle = R(R(TURN) * R(pair[1] / 0x1p32));
        sum = R(sum + R(d.level * R(length * R(i % 2 ? sin(angle) : cos(angle)))));
    }
    return sum;
}

static bool erased(const struct op_case *t, int64_t b, int l, int64_t s, int64_t samples)
{
    const int leads = t->node.attr.augment.leads;
    struct draws d = draw(t, b, PK_AUGMENT_LEAD_MASK);
    if (d.happens) {
        int order[16], n = PK_MIN((int)(d.level * leads + 0.5), leads - 1);
        shuffle(&d.r, leads, order);
        for (int i = 0; i < n; i++)
            if (order[i] == l) return true;
    }
    d = draw(t, b, PK_AUGMENT_CUT_OUT);
    if (!d.happens) return false;
    const int64_t n = PK_MIN((int64_t)(d.level * (double)samples + 0.5), samples);
    const int64_t from = (int64_t)pk_rng_below(&d.r, (uint64_t)(samples - n) + 1);
    return s >= from && s < from + n;
}

static void augment(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int leads = t->node.attr.augment.leads, patch = t->node.attr.augment.patch;
    const int64_t batch = t->in[0].dim[0], samples = t->in[0].dim[2] / leads;
    for (int64_t b = 0; b < batch; b++) {
        int order[16];
        for (int l = 0; l < 16; l++) order[l] = l;
        struct draws d = draw(t, b, PK_AUGMENT_PERMUTE);
        if (d.happens) shuffle(&d.r, leads, order);
        const double sign = draw(t, b, PK_AUGMENT_NEGATE).happens ? -1 : 1;
        for (int64_t s = 0; s < samples; s++) {
            const double at = moment(t, b, s, samples), g = gain(t, b, s, samples, R);
            const int64_t i = (int64_t)at, j = PK_MIN(i + 1, samples - 1);
            for (int l = 0; l < leads; l++) {
                const int64_t row = (b * leads + order[l]) * samples;
                const double from = sweep_at(t, 0, row + i), to = sweep_at(t, 0, row + j);
                double v = R(from + R(R(to - from) * R(at - (double)i)));
                v = R(R(sign * v * g) + added(t, b, l, s, samples, R));
                y[0][((b * (samples / patch) + s / patch) * leads + l) * patch + s % patch] =
                    erased(t, b, l, s, samples) ? 0 : v;
            }
        }
    }
}

static const struct pk_augment_range usual[PK_AUGMENT_KINDS] = {
    [PK_AUGMENT_TIME_WARP] = {1, 0.2f, 0.6f}, [PK_AUGMENT_CROP_RESIZE] = {1, 0.5f, 0.9f},
    [PK_AUGMENT_PERMUTE] = {1, 0, 0},         [PK_AUGMENT_NEGATE] = {1, 0, 0},
    [PK_AUGMENT_MAGNITUDE] = {1, 0.1f, 0.5f}, [PK_AUGMENT_WANDER] = {1, 0.2f, 1},
    [PK_AUGMENT_POWERLINE] = {1, 0.1f, 0.5f}, [PK_AUGMENT_NOISE] = {1, 0.05f, 0.4f},
    [PK_AUGMENT_LEAD_MASK] = {1, 0.2f, 1},    [PK_AUGMENT_CUT_OUT] = {1, 0.1f, 0.5f},
};

/* kinds: bit k switches kind k on, with probability `share`. */
static void begin(struct op_sweep *t, uint32_t kinds, float share, int64_t batch, int leads,
                  int64_t samples, int patch, const char *why)
{
    sweep_begin(t, PK_OP_AUGMENT, why);
    t->reference = augment;
    t->c.node.attr.augment.leads = leads;
    t->c.node.attr.augment.patch = patch;
    t->c.node.attr.augment.view = 1;
    t->c.node.attr.augment.rate = 100;
    t->c.node.attr.augment.seed = 0x123456789abcdefu;
    sweep_in(t, DIMS(batch, 1, leads * samples));
    int64_t *sample = sweep_in_of(t, PK_I64, DIMS(batch));
    for (int64_t b = 0; b < batch; b++) sample[b] = ((int64_t)1 << 33) + 7 * b;
    float *range = sweep_in_of(t, PK_F32, DIMS(PK_AUGMENT_KINDS, 3));
    memcpy(range, usual, sizeof usual);
    for (int k = 0; k < PK_AUGMENT_KINDS; k++) range[3 * k] = kinds >> k & 1 ? share : 0;
    sweep_out(t, false, DIMS(batch, samples / patch, leads * patch));
}

/* Nothing happens: the patches of the signal, to the bit. */
static void test_still(void)
{
    struct op_sweep t;
    begin(&t, 0, 0, 3, 4, 60, 6, "nothing happens");
    t.exact = SWEEP_EXACT;
    sweep_run(&t);
}

static void test_kinds(void)
{
    static const struct {
        int64_t batch, samples;
        int leads, patch;
        const char *why;
    } shapes[] = {
        {1, 1, 1, 1, "one number"},
        {3, 35, 3, 5, "odd sizes"},
        {2, 1300, 2, 13, "more than one block for a record"},
        {5, 40, 16, 40, "all leads that there can be, one patch"},
    };
    for (size_t i = 0; i < PK_COUNT(shapes); i++) {
        struct op_sweep t;
        for (int k = 0; k <= PK_AUGMENT_KINDS; k++) { // each alone, then all of them
            begin(&t, k < PK_AUGMENT_KINDS ? 1u << k : ~0u, 1, shapes[i].batch, shapes[i].leads,
                  shapes[i].samples, shapes[i].patch, shapes[i].why);
            // nothing is computed with these: the same bits on every backend
            if (k == PK_AUGMENT_PERMUTE || k == PK_AUGMENT_NEGATE || k == PK_AUGMENT_LEAD_MASK ||
                k == PK_AUGMENT_CUT_OUT)
                t.exact = SWEEP_EXACT;
            sweep_run(&t);
        }
        begin(&t, ~0u, 0.5f, 64 / shapes[i].leads, shapes[i].leads, shapes[i].samples,
              shapes[i].patch, "half of them");
        sweep_run(&t);
    }
}

/* Properties that the definition promises, in the output of kernels and not of a reference. */
static void test_promises(const struct op_variant *v)
{
    enum { BATCH = 400, LEADS = 3, SAMPLES = 50 };
    static const double share = 0.3;
    for (int k = 0; k < PK_AUGMENT_KINDS; k++) {
        struct op_sweep t;
        begin(&t, 1u << k, (float)share, BATCH, LEADS, SAMPLES, SAMPLES, "promises");
        if (!op_there(v, PK_OP_AUGMENT)) {
            sweep_free(&t);
            return;
        }
        float *x = t.c.data[0];
        for (int64_t i = 0; i < BATCH * LEADS * SAMPLES; i++) // leads apart, rising with time
            x[i] = (float)(1 + i / SAMPLES % LEADS * 100 + i % SAMPLES);
        CHECK_OK(sweep_call(&t, v), &t.c.err);
        int changed = 0, wrong = 0;
        for (int64_t b = 0; b < BATCH; b++) {
            bool any = false;
            int zeros = 0;
            for (int64_t i = 0; i < LEADS * SAMPLES; i++) {
                const int64_t at = b * LEADS * SAMPLES + i;
                const double got = op_got(&t.c, 0, at), was = op_stored(&t.c, (double)x[at]);
                any |= got != was;
                zeros += got == 0;
                if (k == PK_AUGMENT_NEGATE) wrong += fabs(got) != was;
                if (k == PK_AUGMENT_PERMUTE) wrong += fmod(got, 100) != fmod(was, 100);
                if (k <= PK_AUGMENT_CROP_RESIZE) {
                    wrong += i % SAMPLES && got < op_got(&t.c, 0, at - 1); // time keeps its order
                    wrong += floor((got - 1) / 100) != floor((was - 1) / 100);
                }
                if (k == PK_AUGMENT_TIME_WARP && i % SAMPLES % (SAMPLES - 1) == 0)
                    wrong += got != was; // ends stay
            }
            if (k == PK_AUGMENT_LEAD_MASK) wrong += zeros % SAMPLES || zeros == LEADS * SAMPLES;
            if (k == PK_AUGMENT_CUT_OUT && any)
                wrong +=
                    zeros % LEADS || zeros < LEADS * SAMPLES / 10 || zeros > LEADS * SAMPLES / 2;
            changed += any;
        }
        // a random order of three leads is the old one in a sixth of the cases
        const double p = k == PK_AUGMENT_PERMUTE ? share * 5 / 6 : share;
        // round(level * 3) is 0 for no level from .2 on
        if (wrong) fprintf(stderr, "kind %d: %d broken promises\n", k, wrong);
        CHECK(wrong == 0);
        CHECK_NEAR(changed, BATCH * p, 4 * sqrt(BATCH * p * (1 - p)));
        sweep_free(&t);
    }
}

/* Waves of a heartbeat as bumps: time after the R peak in s, width in s, height in both leads. */
static float beat(double time, int lead)
{
    static const double wave[5][4] = {{-.17, .025, .15, .1},
                                      {-.03, .01, -.1, -.3},
                                      {0, .012, 1.2, .6},
                                      {.03, .012, -.25, -.5},
                                      {.28, .05, .3, -.15}};
    double sum = 0;
    const double since = fmod(time + 0.35, 0.83) - 0.35; // 72 beats a minute
    for (int i = 0; i < 5; i++)
        sum += wave[i][2 + lead] * exp(-pow((since - wave[i][0]) / wave[i][1], 2) / 2);
    return (float)sum;
}

static void print_lead(const char *name, int lead, const struct op_case *t, int64_t samples)
{
    printf("%s %d", name, lead);
    for (int64_t s = 0; s < samples; s++) printf(" %.4f", op_got(t, 0, lead * samples + s));
    printf("\n");
}

static void draw_all(const struct op_variant *v)
{
    static const char *const name[] = {"time_warp", "crop_resize", "permute",   "negate",
                                       "magnitude", "wander",      "powerline", "noise",
                                       "lead_mask", "cut_out"};
    enum { LEADS = 2, SAMPLES = 500 };
    for (int k = -1; k < PK_AUGMENT_KINDS; k++) {
        struct op_sweep t;
        begin(&t, k < 0 ? 0 : 1u << k, 1, 1, LEADS, SAMPLES, SAMPLES, "drawing");
        float *x = t.c.data[0], *range = t.c.data[2];
        for (int i = 0; i < LEADS * SAMPLES; i++) x[i] = beat(i % SAMPLES * 0.01, i / SAMPLES);
        range[3 * PK_AUGMENT_POWERLINE + 2] = range[3 * PK_AUGMENT_NOISE + 2] = 0.1f;
        range[3 * PK_AUGMENT_MAGNITUDE + 1] = 0.5f;
        t.c.node.attr.augment.rate = 100;
        t.c.node.attr.augment.seed = 6; // swaps the leads
        CHECK_OK(sweep_call(&t, v), &t.c.err);
        for (int l = 0; l < LEADS; l++) print_lead(k < 0 ? "before" : name[k], l, &t.c, SAMPLES);
        sweep_free(&t);
    }
}

int main(int argc, char **argv)
{
    int count;
    if (argc == 2 && !strcmp(argv[1], "draw")) {
        draw_all(op_variants(&count));
        return test_bad_ != 0;
    }
    const struct op_variant *v = op_variants(&count);
    test_still();
    test_kinds();
    for (int i = 0; i < count; i++)
        if (v[i].storage == PK_F32) test_promises(&v[i]);
    return op_test_end();
}
