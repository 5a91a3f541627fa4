/* run_lock.h -- the lock of a run's folder; private to core/run*.c. */
#ifndef PK_RUN_LOCK_H
#define PK_RUN_LOCK_H

#include "core/run.h"

/* Locks r->dir; fills host, lock_fd and perhaps note. Errors PK_EMISSING when someone has it. */
enum pk_status pk_run_lock(struct pk_run *r, struct pk_err *err);
void pk_run_unlock(struct pk_run *r);

#endif
