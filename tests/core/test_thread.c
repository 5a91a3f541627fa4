/* test_thread.c -- the worker pool: every worker runs once a round, writes are visible after it. */
#include "core/thread.h"
#include "tests/test.h"

#include <pthread.h>

enum { WORKERS = 5, ROUNDS = 2000 };

struct count {
    int64_t round, sum[WORKERS][16]; // a cache line each
    pthread_t thread[WORKERS];
};

static void step(void *ctx, int worker)
{
    struct count *c = ctx;
    c->sum[worker][0] += c->round; // round is written by the caller between rounds
    c->thread[worker] = pthread_self();
}

static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;
static int starts;

static void start(void)
{
    pthread_mutex_lock(&start_lock);
    starts++;
    pthread_mutex_unlock(&start_lock);
}

static void test_rounds(int workers)
{
    struct pk_err err = {0};
    struct pk_pool *pool;
    struct count c = {0};
    starts = 0;
    CHECK_OK(pk_pool_create(&pool, workers, start, &err), &err);
    CHECK(pk_pool_workers(pool) == workers);
    for (int64_t i = 1; i <= ROUNDS; i++) {
        c.round = i;
        pk_pool_run(pool, step, &c);
    }
    for (int w = 0; w < workers; w++) CHECK(c.sum[w][0] == (int64_t)ROUNDS * (ROUNDS + 1) / 2);
    CHECK(pthread_equal(c.thread[0], pthread_self()));
    for (int w = 1; w < workers; w++) CHECK(!pthread_equal(c.thread[w], pthread_self()));
    pk_pool_free(pool);
    CHECK(starts == workers);
}

static void test_unused(void)
{
    struct pk_err err = {0};
    struct pk_pool *pool;
    CHECK_OK(pk_pool_create(&pool, 3, NULL, &err), &err); // freed without a single round
    pk_pool_free(pool);
    pk_pool_free(NULL);
    CHECK_FAILS(pk_pool_create(&pool, 0, NULL, &err), PK_EINVAL, &err, "worker threads");
    CHECK(pool == NULL);
}

int main(void)
{
    test_rounds(1); // no thread at all
    test_rounds(2);
    test_rounds(WORKERS);
    test_unused();
    return TEST_END();
}
