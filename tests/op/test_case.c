/* test_case.c -- the judge of the op tests (op_check.h, op_case.h) judged: what it must let pass
 * and what it must catch, on a kernel table of its own with faults built in. */
#include "tests/op/op_sweep.h"

static enum fault {
    NONE,
    ONE_WRONG,    // one small element off by two per cent
    CUT_OFF,      // stores by dropping bits
    ROUNDS_TWICE, // stores the product before it adds
    HOLE,         // one element never written
    OVERRUN,      // writes one element too many
    GREEDY,       // writes beyond the workspace
    RESTLESS,     // another result each time
    USES_SCRATCH, // believes that the workspace is zero
    WRITES_INPUT,
    FAULTS
} fault;

static const char *const fault_name[FAULTS] = {
    "none",    "one wrong", "cut off",  "rounds twice", "hole",
    "overrun", "greedy",    "restless", "uses scratch", "writes input"};

static const float FACTOR = 1.7f;

static uint16_t cut(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)(u >> 16);
}

static float load(const void *p, enum pk_dtype dtype, int64_t i)
{
    return dtype == PK_BF16 ? op_from_bf16(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static void store(void *p, enum pk_dtype dtype, int64_t i, float x)
{
    if (dtype == PK_BF16)
        ((uint16_t *)p)[i] = fault == CUT_OFF ? cut(x) : op_bf16(x);
    else
        ((float *)p)[i] = x;
}

/* y (+)= FACTOR * x, with 8 bytes of workspace. */
static enum pk_status scale(const struct pk_call *c, struct pk_err *err)
{
    static int calls;
    (void)err;
    const enum pk_dtype dtype = c->out[0]->dtype;
    const int64_t n = pk_view_count(c->out[0]);
    float *work = c->workspace;
    for (int64_t i = fault == HOLE; i < n + (fault == OVERRUN); i++) {
        float y = FACTOR * load(c->src[0], dtype, PK_MIN(i, n - 1));
        if (fault == ROUNDS_TWICE) y = op_round_to(dtype, y);
        if (pk_call_accumulates(c, 0)) y += load(c->dst[0], dtype, i);
        if (fault == ONE_WRONG && i == n / 2) y *= 1.02f;
        if (fault == USES_SCRATCH && i == n / 2) y += work[1];
        if (fault == RESTLESS && i == n / 2) y *= 1 + 0.01f * (float)(calls++ % 2);
        store(c->dst[0], dtype, i, y);
    }
    work[0] = work[1] = 1;
    if (fault == GREEDY) work[2] = 1;
    if (fault == WRITES_INPUT) store((void *)(uintptr_t)c->src[0], dtype, 0, 0);
    return PK_OK;
}

/* Whether op_run and op_check find the run good. */
static bool accepted(enum pk_dtype storage, enum fault f, bool accumulate, int64_t n)
{
    static const pk_kernel table[PK_OP_COUNT] = {[PK_OP_COPY] = scale};
    const struct op_variant v = {"faulty", table, NULL, storage, false, INFINITY};
    struct op_case c;
    const int good = test_good_, bad = test_bad_;
    fault = f;
    op_begin(&c, PK_OP_COPY, &v);
    float *x = op_in(&c, 0, OP_DIMS(n));
    x[n / 2] = 0.01f; // small beside the others
    op_out(&c, 0, accumulate, OP_DIMS(n));
    if (accumulate) c.before[0][n / 2] = 0.0001f;
    for (int64_t i = 0; accumulate && i < n; i += 3) // nothing much left of the sum
        c.before[0][i] = -FACTOR * x[i] * 0.99f;
    op_settle(&c);
    float *naive = op_floats(n);
    double *exact = op_doubles(n);
    for (int64_t i = 0; i < n; i++)
        naive[i] = FACTOR * x[i], exact[i] = (double)FACTOR * (double)x[i];
    if (op_run(&c, 8)) op_check(&c, 0, naive, exact, "judge");
    op_end(&c);
    free(naive), free(exact);
    const bool fine = test_bad_ == bad;
    test_good_ = good, test_bad_ = bad; // what was found is what was asked for
    return fine;
}

static void test_rounding(void)
{
    static const struct {
        uint32_t bits;
        uint16_t want;
    } at[] = {
        {0x3f800000, 0x3f80},                       // 1
        {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, // ties go to even
        {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80}, // beside a tie
        {0x7f7fffff, 0x7f80},                       // the largest float is beyond the largest bf16
        {0xff800000, 0xff80}, {0x80000000, 0x8000}, // -infinity, -0
        {0x00000001, 0x0000},
    };
    for (size_t i = 0; i < PK_COUNT(at); i++) {
        float x;
        memcpy(&x, &at[i].bits, sizeof x);
        CHECK(op_bf16(x) == at[i].want);
    }
    CHECK(isnan(op_from_bf16(op_bf16((float)NAN))));
}

int main(void)
{
    test_rounding();
    for (int f = 0; f < FAULTS; f++)
        for (int k = 0; k < 4; k++) {
            const enum pk_dtype storage = k & 1 ? PK_BF16 : PK_F32;
            const bool add = k & 2;
            // Float is stored as it is, so that two of the faults do nothing there.
            bool want = !f || (f == CUT_OFF && storage == PK_F32);
            if (f == ROUNDS_TWICE) want = storage == PK_F32 || !add;
            const bool got = accepted(storage, (enum fault)f, add, 1000);
            if (got != want)
                fprintf(stderr, "%s in %s%s: %s\n", fault_name[f], pk_dtype_name(storage),
                        add ? ", added" : "", got ? "not caught" : "rejected");
            CHECK(got == want);
        }
    fprintf(stderr, "(the messages above are of faults that had to be found)\n");
    return op_test_end();
}
