/* test_schedule.c -- schedules: exact end points, shapes, refusals. With arguments START PEAK END
 * RISE STEPS it prints a one-cycle schedule instead, a step a line, for
 * tests/core/test_schedule_torch.py. */
#include "core/schedule.h"
#include "tests/test.h"

static void test_learning_rate(void)
{
    const struct pk_schedule s = {PK_SHAPE_COSINE, 1e-6, 1e-3, 2e-6, 10000, 100000, 0};
    CHECK(pk_schedule_at(&s, 0) == 1e-6);
    CHECK_NEAR(pk_schedule_at(&s, 2500), 1e-6 + 0.25 * (1e-3 - 1e-6), 1e-18);
    CHECK(pk_schedule_at(&s, 9999) < 1e-3);
    CHECK(pk_schedule_at(&s, 10000) == 1e-3);
    CHECK_NEAR(pk_schedule_at(&s, 55000), (1e-3 + 2e-6) / 2, 1e-18); // half way of the cosine
    CHECK_NEAR(pk_schedule_at(&s, 32500), 2e-6 + (1e-3 - 2e-6) * (1 + sqrt(0.5)) / 2, 1e-17);
    CHECK(pk_schedule_at(&s, 99999) > 2e-6);
    CHECK(pk_schedule_at(&s, 100000) == 2e-6);
    CHECK(pk_schedule_at(&s, 1000000) == 2e-6);
    for (int64_t i = 1; i <= 100000; i++) {
        const double rise = pk_schedule_at(&s, i) - pk_schedule_at(&s, i - 1);
        if (!(i <= 10000 ? rise > 0 : rise < 0)) {
            CHECK(!"monotonic");
            break;
        }
    }
}

static void test_without_warmup(void)
{
    const struct pk_schedule decay = {PK_SHAPE_COSINE, 0, 0.01, 0.1, 0, 1000, 0};
    CHECK(pk_schedule_at(&decay, 0) == 0.01);
    CHECK_NEAR(pk_schedule_at(&decay, 500), 0.055, 1e-16);
    CHECK(pk_schedule_at(&decay, 1000) == 0.1);
    const struct pk_schedule momentum = {PK_SHAPE_LINEAR, 0, 0.998, 0.9995, 0, 4, 0};
    CHECK(pk_schedule_at(&momentum, 0) == 0.998);
    CHECK_NEAR(pk_schedule_at(&momentum, 3), 0.998 + 0.75 * 0.0015, 1e-15);
    CHECK(pk_schedule_at(&momentum, 4) == 0.9995);
    const struct pk_schedule constant = {PK_SHAPE_CONSTANT, 0, 3, 0, 0, 10, 0};
    CHECK(pk_schedule_at(&constant, 0) == 3 && pk_schedule_at(&constant, 99) == 3);
}

static void test_edges(void)
{
    const struct pk_schedule all_warm = {
        PK_SHAPE_COSINE, 0, 8, 1, 4, 4, 0}; // a run of warm-up alone
    CHECK(pk_schedule_at(&all_warm, 2) == 4 && pk_schedule_at(&all_warm, 3) == 6);
    CHECK(pk_schedule_at(&all_warm, 4) == 1);
    const struct pk_schedule warm = {PK_SHAPE_CONSTANT, 1, 3, 0, 2, 10, 0};
    CHECK(pk_schedule_at(&warm, 0) == 1 && pk_schedule_at(&warm, 1) == 2);
    CHECK(pk_schedule_at(&warm, 2) == 3 && pk_schedule_at(&warm, 10) == 3);
}

static void test_one_cycle(void)
{
    struct pk_schedule s = {.shape = PK_SHAPE_ONE_CYCLE,
                            .start = 4e-4,
                            .peak = 1e-2,
                            .end = 1e-7,
                            .rise = 0.25,
                            .steps = 1000};
    CHECK_NEAR(pk_schedule_at(&s, 0), 4e-4, 1e-18);
    CHECK(pk_schedule_at(&s, 249) == 1e-2);
    CHECK(pk_schedule_at(&s, 999) == 1e-7 && pk_schedule_at(&s, 5000) == 1e-7);
    CHECK_NEAR(pk_schedule_at(&s, 624), (1e-2 + 1e-7) / 2, 1e-17); // half way down
    for (int64_t i = 1; i < 1000; i++) {
        const double rise = pk_schedule_at(&s, i) - pk_schedule_at(&s, i - 1);
        CHECK(i <= 249 ? rise > 0 : rise < 0);
    }
    s.rise = 0; // starts at the top
    CHECK(pk_schedule_at(&s, 0) > 0.99999e-2 && pk_schedule_at(&s, 0) < 1e-2);
    s.steps = 1;
    CHECK(pk_schedule_at(&s, 0) == 1e-7);
}

static void test_check(void)
{
    struct pk_err err = {0};
    struct pk_schedule s = {PK_SHAPE_LINEAR, 0, 1, 2, 3, 10, 0};
    CHECK_OK(pk_schedule_check(&s, "learning rate", &err), &err);
    s.warmup = 11;
    CHECK_FAILS(pk_schedule_check(&s, "learning rate", &err), PK_EINVAL, &err,
                "learning rate: warm-up of 11");
    s.warmup = -1;
    CHECK_FAILS(pk_schedule_check(&s, "x", &err), PK_EINVAL, &err, "warm-up of -1");
    s.warmup = 0;
    s.steps = 0;
    CHECK_FAILS(pk_schedule_check(&s, "x", &err), PK_EINVAL, &err, "0 steps");
    s.steps = 1;
    s.end = NAN;
    CHECK_FAILS(pk_schedule_check(&s, "x", &err), PK_EINVAL, &err, "finite");
    const double rises[] = {-0.1, 1, (double)NAN};
    s = (struct pk_schedule){.shape = PK_SHAPE_ONE_CYCLE, .rise = 0.999, .steps = 3};
    CHECK_OK(pk_schedule_check(&s, "beta1", &err), &err);
    for (size_t k = 0; k < PK_COUNT(rises); k++) {
        s.rise = rises[k];
        CHECK_FAILS(pk_schedule_check(&s, "beta1", &err), PK_EINVAL, &err, "beta1: a share of");
    }
}

static int print_one_cycle(char **argv)
{
    const struct pk_schedule s = {.shape = PK_SHAPE_ONE_CYCLE,
                                  .start = strtod(argv[1], NULL),
                                  .peak = strtod(argv[2], NULL),
                                  .end = strtod(argv[3], NULL),
                                  .rise = strtod(argv[4], NULL),
                                  .steps = strtoll(argv[5], NULL, 10)};
    for (int64_t i = 0; i < s.steps; i++) printf("%.17g\n", pk_schedule_at(&s, i));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 6) return print_one_cycle(argv);
    test_learning_rate();
    test_without_warmup();
    test_edges();
    test_one_cycle();
    test_check();
    return TEST_END();
}
