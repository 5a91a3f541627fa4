/* test_scaling.c -- the model of data-parallel steps against cases computed by hand, and what must
 * hold for any input: no more than linear scaling, faster links never make a step longer. */
#include "core/scaling.h"
#include "tests/test.h"

/* 8 GPUs: 30 us and 205 GB/s of reduced bytes, which is 358.75 GB/s on the wire. */
static const struct pk_scaling_net net = {8, 30e-6, 358.75e9, 10e-6, 50e9};

static struct pk_scaling_result simulate(const struct pk_scaling_step *s,
                                         const struct pk_scaling_net *links, int64_t n)
{
    struct pk_scaling_result r = {0};
    struct pk_err err = {0};
    CHECK_OK(pk_scaling_simulate(&r, s, links, n, &err), &err);
    return r;
}

static void test_links(void)
{
    CHECK_NEAR(pk_scaling_allreduce(&net, 8, 72e6), 30e-6 + 72e6 / 205e9, 1e-12);
    CHECK_NEAR(pk_scaling_allreduce(&net, 2, 72e6), 30e-6 + 72e6 / 358.75e9, 1e-12);
    CHECK(pk_scaling_allreduce(&net, 1, 72e6) == 0);
    // 4 nodes: the ring inside, and an eighth of the bytes 1.5 times over the adapter
    CHECK_NEAR(pk_scaling_allreduce(&net, 32, 72e6),
               30e-6 + 72e6 / 205e9 + 20e-6 + 9e6 * 1.5 / 50e9, 1e-12);
    // one GPU in a node: nothing goes inside; 3 nodes need two doublings
    const struct pk_scaling_net lone = {1, 30e-6, 358.75e9, 10e-6, 50e9};
    CHECK_NEAR(pk_scaling_allreduce(&lone, 3, 6e6), 20e-6 + 6e6 * 4 / 3 / 50e9, 1e-12);
}

static void test_by_hand(void)
{
    const struct pk_scaling_net one = {2, 1, 100, 1, 100}; // 2 ranks: 1 s + bytes / 100
    struct pk_scaling_bucket b[2] = {{2, 100, 1}};         // 400 bytes: 5 s
    struct pk_scaling_step s = {.run_seconds = 10,
                                .runs = 3,
                                .bucket = b,
                                .buckets = 1,
                                .element_bytes = 4,
                                .weight_bytes = 2,
                                .slowdown = 1,
                                .optimizer_seconds = 2};
    struct pk_scaling_result r = simulate(&s, &one, 2);
    CHECK_NEAR(r.step, 32, 1e-9); // hidden: 22..27 of 30
    CHECK_NEAR(r.exposed, 0, 1e-9);
    CHECK_NEAR(r.inside, 400, 1e-9);
    CHECK(r.between == 0 && r.alone == 32);
    s.slowdown = 1.25; // 5 s of sending see 4 s of computing
    CHECK_NEAR(simulate(&s, &one, 2).step, 33, 1e-9);
    b[0].ready = 10; // exposed to the end, and nothing is left to be slowed
    r = simulate(&s, &one, 2);
    CHECK_NEAR(r.step, 37, 1e-9);
    CHECK_NEAR(r.exposed, 5, 1e-9);
    b[0].elements = 0; // latency alone
    CHECK_NEAR(simulate(&s, &one, 2).step, 33, 1e-9);
    b[0] = (struct pk_scaling_bucket){6, 100, 1}; // 26..31, computing slowed by a quarter
    CHECK_NEAR(simulate(&s, &one, 2).step, 33, 1e-9);
    b[1] = (struct pk_scaling_bucket){7, 50, 1}; // waits for the first: 31..34
    s.buckets = 2;
    r = simulate(&s, &one, 2);
    CHECK_NEAR(r.step, 36, 1e-9);
    CHECK_NEAR(r.exposed, 4, 1e-9);
    CHECK_NEAR(r.comm, 8, 1e-9);
    s.element_bytes = 2; // 26..29, then at 7: 27.25; 29..31
    CHECK_NEAR(simulate(&s, &one, 2).step, 33, 1e-9);
    CHECK_NEAR(simulate(&s, &one, 1).step, 32, 1e-9); // alone: no communication at all
}

static void test_zero1(void)
{
    const struct pk_scaling_net one = {2, 1, 100, 1, 100};
    const struct pk_scaling_bucket b = {10, 100, 1};
    const struct pk_scaling_step s = {10, 1, &b, 1, 4, 2, 1, 2, true, 0, 0, 0};
    // scatter .5 + 200/100, norm 1 + 4/100, half of the optimizer, gather .5 + 100/100
    struct pk_scaling_result r = simulate(&s, &one, 2);
    CHECK_NEAR(r.step, 10 + 2.5 + 1.04 + 1 + 1.5, 1e-9);
    CHECK_NEAR(r.exposed, 2.5 + 1.04 + 1.5, 1e-9);
    CHECK_NEAR(r.inside, 200 + 100 + 4, 1e-9);
    CHECK_NEAR(simulate(&s, &one, 1).step, 12, 1e-9);
}

/* Rows are gathered and compared first, and nothing hides that. */
static void test_coupled(void)
{
    const struct pk_scaling_net one = {2, 1, 100, 1, 100};
    const struct pk_scaling_bucket b = {10, 100, 1};
    const struct pk_scaling_step s = {10, 1, &b, 1, 4, 4, 1, 2, false, 7, 800, 2};
    // two gathers of .5 + 400 / 2 / 100 each, one bucket of 1 + 400 / 100 at the end
    struct pk_scaling_result r = simulate(&s, &one, 2);
    CHECK_NEAR(r.step, 7 + 5 + 10 + 5 + 2, 1e-9);
    CHECK_NEAR(r.exposed, 5 + 5, 1e-9);
    CHECK_NEAR(r.comm, 5 + 5, 1e-9);
    CHECK_NEAR(r.inside, 400 + 400, 1e-9);
    r = simulate(&s, &one, 1);
    CHECK_NEAR(r.step, 19, 1e-9);
    CHECK(r.step == r.alone && r.exposed == 0 && r.comm == 0 && r.inside == 0);
}

static void test_invariants(void)
{
    static const int64_t ranks[] = {1, 2, 8, 16, 24, 64, 512};
    const struct pk_scaling_bucket b[] = {
        {2e-3, 6000000, 1}, {5e-3, 6000000, 1}, {7e-3, 6000000, 1}};
    for (int late = 0; late < 2; late++)
        for (size_t i = 0; i < PK_COUNT(ranks); i++) {
            double before = 1e9;
            for (double speed = 1e8; speed < 1e13; speed *= 3) {
                const struct pk_scaling_net links = {8, 30e-6, speed, 10e-6, speed / 7};
                const struct pk_scaling_step s = {
                    7e-3, 2, b + 2 * late, late ? 1 : 3, 4, 4, 1.1, 1e-4, false, 0, 0, 0};
                struct pk_scaling_result r = simulate(&s, &links, ranks[i]);
                CHECK(r.step >= r.alone * (1 - 1e-12)); // efficiency of at most 1
                CHECK(r.step <= before * (1 + 1e-12));  // never longer over a faster link
                CHECK(r.exposed >= -1e-15 && r.exposed <= r.comm + 1e-15);
                if (late) // ready when all is computed: the closed form
                    CHECK_NEAR(r.step, 14.1e-3 + pk_scaling_allreduce(&links, ranks[i], 24e6),
                               1e-9);
                before = r.step;
            }
        }
}

static void test_pack(void)
{
    const struct pk_scaling_gradient g[] = {
        {1, 10, 0, 0}, {2, 50, 1, 0}, {3, 10, 2, 0}, {4, 20, 3, 0}, {5, 10, 4, 0}};
    struct pk_scaling_bucket b[PK_SCALING_BUCKETS];
    CHECK(pk_scaling_pack(b, 1, g, 5) == 1 && b[0].elements == 100 && b[0].ready == 5);
    CHECK(pk_scaling_pack(b, 2, g, 5) == 2); // 10 + 50 pass the half
    CHECK(b[0].gradients == 2 && b[1].gradients == 3);
    CHECK(b[0].elements == 60 && b[0].ready == 2 && b[1].elements == 40 && b[1].ready == 5);
    CHECK(pk_scaling_pack(b, 64, g, 5) == 5); // never split
    for (int i = 0; i < 5; i++) CHECK(b[i].elements == g[i].elements && b[i].ready == g[i].ready);
}

/* Parameter 0 is written twice, 1 once, 2 not at all; 3 is running statistics' term. */
static void test_readiness(void)
{
    struct pk_param item[4] = {{.count = 7}, {.count = 5}, {.count = 3}, {.count = 2}};
    struct pk_params params = {.item = item, .count = 4};
    struct pk_value value[] = {{.storage = PK_STORE_GRAD, .param = 0},
                               {.storage = PK_STORE_GRAD, .param = 1},
                               {.storage = PK_STORE_ACT, .param = -1},
                               {.storage = PK_STORE_PARAM, .param = 2},
                               {.storage = PK_STORE_GRAD, .param = 3}};
    struct pk_node node[] = {{.n_out = 2, .out = {2, 0}},
                             {.n_out = 3, .out = {-1, 1, 4}},
                             {.n_in = 1, .in = {3}, .n_out = 1, .out = {0}},
                             {.n_out = 1, .out = {2}}};
    const struct pk_prog p = {
        .value = value, .values = 5, .node = node, .nodes = 4, .params = &params};
    const double seconds[] = {1, 2, 4, 8};
    struct pk_scaling_gradient *g;
    struct pk_err err = {0};
    int64_t n;
    CHECK_OK(pk_scaling_gradients(&g, &n, &p, seconds, &err), &err);
    CHECK(n == 3);
    CHECK(g[0].elements == 5 && g[0].ready == 3); // by parameter where nodes are the same
    CHECK(g[1].elements == 2 && g[1].ready == 3);
    CHECK(g[2].elements == 7 && g[2].ready == 7 && g[2].node == 2);
    CHECK(g[0].param == 1 && g[1].param == 3 && g[2].param == 0);
    free(g);
    node[3].n_in = 1; // the gradient of 1 is also read: not to be summed before
    node[3].in[0] = 1;
    CHECK_OK(pk_scaling_gradients(&g, &n, &p, NULL, &err), &err);
    CHECK(n == 3 && g[2].param == 1 && g[2].node == 3 && g[2].ready == 4);
    free(g);
    node[3].n_in = 0;
    const struct pk_prog nothing = {
        .value = value, .values = 5, .node = node + 3, .nodes = 1, .params = &params};
    CHECK_FAILS(pk_scaling_gradients(&g, &n, &nothing, seconds, &err), PK_EINVAL, &err,
                "writes no gradient");
}

static void test_refused(void)
{
    const struct pk_scaling_bucket b = {1, 1, 1};
    const struct pk_scaling_step good = {1, 1, &b, 1, 4, 4, 1, 0, false, 0, 0, 0};
    struct pk_scaling_step s = good;
    struct pk_scaling_result r;
    struct pk_err err = {0};
    CHECK_FAILS(pk_scaling_simulate(&r, &s, &net, 12, &err), PK_EINVAL, &err, "12 ranks");
    CHECK_FAILS(pk_scaling_simulate(&r, &s, &net, 0, &err), PK_EINVAL, &err, "0 ranks");
    s.slowdown = NAN;
    CHECK_FAILS(pk_scaling_simulate(&r, &s, &net, 8, &err), PK_EINVAL, &err, "slow-down");
    const struct pk_scaling_net dead = {8, 0, 0, 0, 1};
    CHECK_FAILS(pk_scaling_simulate(&r, &good, &dead, 8, &err), PK_EINVAL, &err, "bandwidth");
}

int main(void)
{
    test_links();
    test_by_hand();
    test_zero1();
    test_coupled();
    test_invariants();
    test_pack();
    test_readiness();
    test_refused();
    return TEST_END();
}
