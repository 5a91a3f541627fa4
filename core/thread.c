/* thread.c -- the worker pool (see thread.h): one mutex, a round counter that wakes the workers and
 * a count of those still busy. A round costs some ten microseconds, against milliseconds of work.
 */
#define _GNU_SOURCE // sched_getaffinity
#include "core/thread.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

struct worker {
    struct pk_pool *pool;
    int number;
    pthread_t thread;
};

struct pk_pool {
    pthread_mutex_t lock;    // guards all below but `workers` and `start`, which never change
    pthread_cond_t go, done; // a round began (or the end); the last worker finished
    uint64_t round;          // of pk_pool_run
    int busy;                // threads that have not finished this round
    bool stop;
    void (*fn)(void *ctx, int worker);
    void *ctx;
    void (*start)(void);
    int workers, started;  // with the caller; threads to join
    struct worker *worker; // [workers - 1]
};

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pk_pool *p = w->pool;
    if (p->start) p->start();
    uint64_t seen = 0;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->stop && p->round == seen) pthread_cond_wait(&p->go, &p->lock);
        if (p->stop) break;
        seen = p->round;
        void (*fn)(void *, int) = p->fn;
        void *ctx = p->ctx;
        pthread_mutex_unlock(&p->lock);
        fn(ctx, w->number);
        pthread_mutex_lock(&p->lock);
        if (--p->busy == 0) pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Starts a thread that takes no signals: on its stack they could do harm (core/stop.h). Returns an
 * error number. */
static int start_worker(struct worker *w)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int number = pthread_create(&w->thread, NULL, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return number;
}

enum pk_status pk_pool_create(struct pk_pool **out, int workers, void (*start)(void),
                              struct pk_err *err)
{
    *out = NULL;
    if (workers < 1 || workers > PK_POOL_MAX)
        return pk_fail(err, PK_EINVAL, "%d worker threads: give 1 to %d", workers, PK_POOL_MAX);
    struct pk_pool *p;
    PK_TRY(pk_alloc(&p, 1, sizeof *p, "thread pool", err));
    enum pk_status s = pk_alloc(&p->worker, (size_t)workers, sizeof *p->worker, "thread pool", err);
    if (s != PK_OK) {
        free(p);
        return s;
    }
    p->workers = workers;
    p->start = start;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->go, NULL);
    pthread_cond_init(&p->done, NULL);
    for (int i = 0; i < workers - 1; i++) {
        struct worker *w = &p->worker[i];
        w->pool = p;
        w->number = i + 1;
        errno = start_worker(w);
        if (errno) {
            s = pk_fail_errno(err, PK_ENOMEM, "cannot start worker thread %d of %d", i + 1,
                              workers);
            pk_pool_free(p);
            return s;
        }
        p->started++;
    }
    if (start) start();
    *out = p;
    return PK_OK;
}

int pk_pool_workers(const struct pk_pool *pool)
{
    return pool->workers;
}

void pk_pool_run(struct pk_pool *pool, void (*fn)(void *ctx, int worker), void *ctx)
{
    pthread_mutex_lock(&pool->lock);
    pool->fn = fn;
    pool->ctx = ctx;
    pool->busy = pool->workers - 1;
    pool->round++;
    pthread_cond_broadcast(&pool->go);
    pthread_mutex_unlock(&pool->lock);
    fn(ctx, 0);
    pthread_mutex_lock(&pool->lock);
    while (pool->busy) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void pk_pool_free(struct pk_pool *pool)
{
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->go);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->started; i++) pthread_join(pool->worker[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->go);
    pthread_mutex_destroy(&pool->lock);
    free(pool->worker);
    free(pool);
}

int pk_threads_available(void)
{
    const char *said = getenv("PURKINJE_THREADS");
    int64_t n;
    cpu_set_t mine;
    if (said && pk_parse_i64(said, &n) && n >= 1 && n <= PK_POOL_MAX) return (int)n;
    if (sched_getaffinity(0, sizeof mine, &mine) == 0) return PK_MAX(CPU_COUNT(&mine), 1);
    return (int)PK_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L); // more cores than cpu_set_t holds
}
