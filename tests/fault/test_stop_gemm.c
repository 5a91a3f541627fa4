/* test_stop_gemm.c -- signals that arrive in the middle of matrix products change nothing.
 *
 * The code that GEMM libraries generate at run time need not keep to the ABI's rule about memory
 * below the stack pointer: a handler that ran on that thread's stack wrote over it (oneDNN 2.7: one
 * preemption in seven ended in a corrupted heap). So signals come here as fast as they can, and
 * every product must have the bits of the one before. */
#include "core/cpu/gemm.h"
#include "core/stop.h"
#include "core/thread.h"
#include "tests/test.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIDE = 256, SHAPES = 5, ROUNDS = 600, WORKERS = 2 };

static const struct {
    bool trans_a, trans_b;
    int64_t m, n, k;
} shapes[SHAPES] = {{false, true, 200, 192, 64},  // x w^T: the forward of a linear layer
                    {false, false, 200, 64, 192}, // dy w
                    {true, false, 192, 64, 200},  // dy^T x
                    {false, true, 37, 65, 33},    // tails everywhere
                    {true, false, 64, 256, 256}};

struct sender {
    atomic_bool quit;
    int64_t sent;
};

static void *send_signals(void *arg)
{
    struct sender *s = arg;
    sigset_t all;
    sigfillset(&all); // they are for the others
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    while (!atomic_load(&s->quit)) {
        kill(getpid(), SIGUSR2);
        s->sent++;
    }
    return NULL;
}

struct products {
    float *a, *b;      // [SIDE * SIDE] each
    float *c[WORKERS]; // [SHAPES][SIDE * SIDE]
    float *expected;
    int wrong[WORKERS];
};

/* All products once, into c. Returns how many were refused. */
static int multiply(const struct products *p, float *c)
{
    int refused = 0;
    struct pk_err err = {0};
    for (int i = 0; i < SHAPES; i++) {
        const int64_t m = shapes[i].m, n = shapes[i].n, k = shapes[i].k;
        const struct pk_gemm g = {.trans_a = shapes[i].trans_a,
                                  .trans_b = shapes[i].trans_b,
                                  .m = m,
                                  .n = n,
                                  .k = k,
                                  .a = p->a,
                                  .lda = shapes[i].trans_a ? m : k,
                                  .b = p->b,
                                  .ldb = shapes[i].trans_b ? k : n,
                                  .c = c + (ptrdiff_t)i * SIDE * SIDE,
                                  .ldc = n};
        refused += pk_gemm_f32(&g, &err) != PK_OK;
    }
    return refused;
}

static void compare(void *ctx, int worker)
{
    struct products *p = ctx;
    const size_t bytes = SHAPES * SIDE * SIDE * sizeof(float);
    memset(p->c[worker], 0, bytes);
    p->wrong[worker] += multiply(p, p->c[worker]);
    p->wrong[worker] += memcmp(p->c[worker], p->expected, bytes) != 0;
}

int main(void)
{
    struct pk_err err = {0};
    struct products p = {0};
    struct sender sender = {0};
    struct pk_pool *pool = NULL;
    pthread_t thread;
    const int64_t all = SHAPES * SIDE * SIDE;
    CHECK_OK(pk_alloc(&p.a, SIDE * SIDE, sizeof(float), "a", &err), &err);
    CHECK_OK(pk_alloc(&p.b, SIDE * SIDE, sizeof(float), "b", &err), &err);
    CHECK_OK(pk_alloc(&p.expected, all, sizeof(float), "products", &err), &err);
    for (int i = 0; i < WORKERS; i++)
        CHECK_OK(pk_alloc(&p.c[i], all, sizeof(float), "products", &err), &err);
    for (int i = 0; i < SIDE * SIDE; i++) {
        p.a[i] = (float)(i * 7 % 31) - 15.0f;
        p.b[i] = (float)(i * 5 % 29) - 14.0f;
    }
    CHECK_OK(pk_stop_install(&err), &err);
    CHECK_OK(pk_pool_create(&pool, WORKERS, pk_gemm_thread_init, &err), &err);
    CHECK(multiply(&p, p.expected) == 0);
    CHECK(pthread_create(&thread, NULL, send_signals, &sender) == 0);
    for (int i = 0; i < ROUNDS; i++) pk_pool_run(pool, compare, &p);
    atomic_store(&sender.quit, true);
    pthread_join(thread, NULL);
    pk_pool_free(pool);
    CHECK(pk_stop_requested() == SIGUSR2);
    CHECK(p.wrong[0] == 0 && p.wrong[1] == 0);
    printf("%lld signals in %d rounds of %d products on %d threads\n", (long long)sender.sent,
           ROUNDS, SHAPES, WORKERS);
    free(p.a);
    free(p.b);
    free(p.expected);
    for (int i = 0; i < WORKERS; i++) free(p.c[i]);
    return TEST_END();
}
