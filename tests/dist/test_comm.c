/* test_comm.c -- ranks over sockets: every collective on worlds of one to eight processes, sums bit
 * by bit those of the tree, and what each rank is told when another dies, hangs, gives up or loses
 * step. */
#include "tests/dist/collectives.h"
#include "tests/dist/ranks.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

static void collectives(struct pk_comm *c, void *ctx)
{
    (void)ctx;
    check_collectives(c);
}

/* What any rank but `faulty` is told by its next call, and by every one after that. */
static void expect_failure(struct pk_comm *c, struct pk_err *err, const char *text)
{
    const double since = pk_seconds();
    CHECK_FAILS(pk_comm_barrier(c, err), PK_ERANK, err, text);
    CHECK(pk_seconds() - since < 5); // milliseconds, on an idle machine
    CHECK(pk_exit_code(err->status) == 71);
    struct pk_err again = {0};
    float x = 1;
    CHECK_FAILS(pk_comm_sum(c, &x, 1, &again), PK_ERANK, &again, err->message);
    CHECK_FAILS(pk_comm_all_gather(c, &x, 0, &again), PK_ERANK, &again, err->message);
}

struct death {
    int rank;
    bool kill;
};

static void one_dies(struct pk_comm *c, void *ctx)
{
    const struct death *d = ctx;
    struct pk_err err = {0};
    char text[40];
    if (c->rank == d->rank) {
        if (d->kill) raise(SIGKILL);
        _exit(9);
    }
    snprintf(text, sizeof text, "rank %d closed its connection", d->rank);
    expect_failure(c, &err, text);
}

/* A rank dies in the middle of a large sum, with messages half sent. */
static void one_dies_sending(struct pk_comm *c, void *ctx)
{
    enum { COUNT = 4 * PK_COMM_BUCKET };
    const struct death *d = ctx;
    struct pk_err err = {0};
    float *x = calloc(COUNT, sizeof *x);
    enum pk_status s = pk_comm_sum(c, x, COUNT / 2, &err);
    if (c->rank == d->rank) raise(SIGKILL); // the others may be in the first sum still
    if (s == PK_OK) s = pk_comm_sum(c, x, COUNT, &err);
    /* A rank that has noticed may have gone before this one looks, so any name can be in it; who
     * was first is the heartbeat's to say (test_heartbeat.c). */
    CHECK_FAILS(s, PK_ERANK, &err, "closed its connection");
    free(x);
}

static void *abort_soon(void *ctx)
{
    struct pk_comm *c = ctx;
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    pk_comm_abort(c, "the disk is full");
    return NULL;
}

/* Ranks 1 .. wait for rank 0, which waits for rank 1, a thread of which ends that. */
static void one_gives_up(struct pk_comm *c, void *ctx)
{
    pthread_t thread;
    struct pk_err err = {0};
    char byte = 0, all[WORLD_MAX];
    (void)ctx;
    if (c->rank == 1) CHECK(pthread_create(&thread, NULL, abort_soon, c) == 0);
    const double since = pk_seconds();
    enum pk_status s = c->rank ? pk_comm_broadcast(c, 0, &byte, 1, &err)
                               : pk_comm_gather(c, 0, &byte, all, 1, &err);
    CHECK_FAILS(s, PK_ERANK, &err, "rank 1 gave up: the disk is full");
    CHECK(pk_seconds() - since < 5);
    expect_failure(c, &err, "rank 1 gave up: the disk is full");
    if (c->rank == 1) pthread_join(thread, NULL);
}

/* Nobody is blocked at the rank that gives up. */
static void one_gives_up_idle(struct pk_comm *c, void *ctx)
{
    struct pk_err err = {0};
    (void)ctx;
    if (c->rank == 2) pk_comm_abort(c, "no records");
    expect_failure(c, &err, "rank 2 gave up: no records");
}

static void one_loses_step(struct pk_comm *c, void *ctx)
{
    struct pk_err err = {0};
    float x[64] = {0};
    (void)ctx;
    CHECK(PK_ERANK == (c->rank == 1 ? pk_comm_sum(c, x, 64, &err) : pk_comm_barrier(c, &err)));
    CHECK(strstr(err.message, "lost step"));
}

static void sizes_differ(struct pk_comm *c, void *ctx)
{
    struct pk_err err = {0};
    float x[64] = {0};
    (void)ctx;
    CHECK(pk_comm_sum(c, x, c->rank == 1 ? 64 : 48, &err) == PK_ERANK);
    CHECK(strstr(err.message, "bytes, this one expects"));
}

/* Rank 1 does not come, and does not end before the others have noticed. */
static void one_hangs(struct pk_comm *c, void *ctx)
{
    struct pk_err err = {0};
    atomic_int *noticed = ctx;
    const struct timespec moment = {.tv_nsec = 1000000};
    if (c->rank != 1) {
        CHECK_FAILS(pk_comm_barrier(c, &err), PK_ERANK, &err, "sent nothing for 0.2 s");
        atomic_fetch_add(noticed, 1);
    }
    while (atomic_load(noticed) < c->size - 1) nanosleep(&moment, NULL);
}

/* Ranks whose part is done may leave while others are still needed. */
static void some_leave_early(struct pk_comm *c, void *ctx)
{
    enum { BYTES = 100000 };
    struct pk_err err = {0};
    unsigned char *mine = calloc(BYTES, 1), *all = calloc(BYTES * WORLD_MAX, 1);
    (void)ctx;
    memset(mine, c->rank, BYTES);
    if (c->rank == 1) nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    CHECK_OK(pk_comm_gather(c, 0, mine, all, BYTES, &err), &err);
    for (int k = 0; c->rank == 0 && k < c->size; k++) CHECK(all[(k + 1) * BYTES - 1] == k);
    free(mine);
    free(all);
}

static void ends_too_early(struct pk_comm *c, void *ctx)
{
    struct pk_err err = {0};
    (void)ctx;
    if (c->rank == 2) return;
    CHECK_FAILS(pk_comm_barrier(c, &err), PK_ERANK, &err, "rank 2 has ended already");
}

static void test_refusals(void)
{
    struct pk_comm *c;
    struct pk_err err = {0};
    const int none[2] = {-1, -1};
    CHECK_FAILS(pk_comm_tcp(&c, 2, 2, none, 0, &err), PK_EINVAL, &err, "rank 2 of 2");
    CHECK_FAILS(pk_comm_tcp(&c, 0, 2, none, 0, &err), PK_EIO, &err, "the socket to rank 1 of 2");
    CHECK(!c);
}

int main(void)
{
    static const int sizes[] = {1, 2, 3, 4, 5, 8};
    atomic_int *noticed =
        mmap(NULL, sizeof *noticed, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (noticed == MAP_FAILED) return 1;
    for (size_t i = 0; i < PK_COUNT(sizes); i++) world_run(sizes[i], 0, 0, collectives, NULL);
    for (int k = 0; k < 4; k++) {
        world_run(4, 0, 1U << k, one_dies, &(struct death){k, false});
        world_run(3 + k, 0, 1U << k, one_dies, &(struct death){k, true});
        world_run(4, 0, 1U << k, one_dies_sending, &(struct death){k, true});
    }
    world_run(4, 0, 0, one_gives_up, NULL);
    world_run(2, 0, 0, one_gives_up, NULL);
    world_run(5, 0, 0, one_gives_up_idle, NULL);
    world_run(3, 0, 0, one_loses_step, NULL);
    world_run(3, 0, 0, sizes_differ, NULL);
    world_run(4, 0, 0, some_leave_early, NULL);
    world_run(3, 0, 0, ends_too_early, NULL);
    world_run(3, 0.2, 0, one_hangs, noticed);
    test_refusals();
    return TEST_END();
}
