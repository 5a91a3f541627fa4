/* thread.h -- a fixed set of worker threads that run one function together, again and again.
 *
 * Which worker does what is up to the function (by its worker number), so results don't depend on
 * timing. One thread at a time may call pk_pool_run on a pool; the function must not call it. */
#ifndef PK_THREAD_H
#define PK_THREAD_H

#include "core/base.h"

enum { PK_POOL_MAX = 1024 };

struct pk_pool;

/* Starts workers 1 .. workers - 1; worker 0 is whichever thread calls pk_pool_run. `start` (or
 * NULL) runs once in each new thread before its first work, and once in the calling thread.
 * Errors  PK_EINVAL workers is not 1 .. PK_POOL_MAX;  PK_ENOMEM no memory or no more threads */
enum pk_status pk_pool_create(struct pk_pool **out, int workers, void (*start)(void),
                              struct pk_err *err);
int pk_pool_workers(const struct pk_pool *pool);
/* Calls fn(ctx, 0 .. workers - 1), each in its own thread, and returns when all have returned; what
 * they wrote is visible to the caller then. */
void pk_pool_run(struct pk_pool *pool, void (*fn)(void *ctx, int worker), void *ctx);
/* Threads that a rank should compute with where nobody says: PURKINJE_THREADS (`purkinje launch`
 * sets it to a rank's share), else the cores that this process may use, which the system or a
 * launcher can have restricted. At least 1. */
int pk_threads_available(void);
/* Ends and joins the threads; NULL is fine. No run may be in progress. */
void pk_pool_free(struct pk_pool *pool);

#endif
