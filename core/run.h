/* run.h -- a run's folder: who owns it, what state it is in, its metrics and its log.
 *
 *     lock            host and pid of the process that runs it; empty when nobody does
 *     run.json        state, command line, version, host, pid, last good step
 *     recipe.yaml     the resolved recipe (written by the caller)
 *     metrics.jsonl   one JSON object per line, each with a "step"
 *     train.log       what the terminal showed, with times
 *     checkpoints/    core/ckpt.h
 *
 * The lock is flock(2), which the system releases when its owner dies, plus the owner's name for
 * the message. A lock left by a dead process of this host is taken over with a note. Where flock
 * does not reach other hosts, a lock left by another host is believed as long as its run.json or
 * metrics changed within ten minutes. With several ranks, rank 0 opens the run. */
#ifndef PK_RUN_H
#define PK_RUN_H

#include "core/base.h"

enum pk_run_mode {
    PK_RUN_NEW,   // refused when the folder holds a run
    PK_RUN_OVER,  // what a run wrote there is deleted first (export/ is kept)
    PK_RUN_RESUME // the folder must hold a run
};

enum pk_run_state { PK_RUN_RUNNING, PK_RUN_STOPPED, PK_RUN_DONE, PK_RUN_FAILED, PK_RUN_DIVERGED };
const char *pk_run_state_name(enum pk_run_state s); // "running", static

struct pk_run {
    char dir[PK_PATH_MAX];
    char checkpoints[PK_PATH_MAX]; // DIR/checkpoints, for core/ckpt.h
    char host[256];
    int lock_fd; // -1 while not locked
    int metrics_fd, log_fd;
    enum pk_run_state state;
    int64_t last_step; // of the newest good checkpoint, -1 before
    int64_t resumes;   // how often this run was resumed
    char started[32];  // ISO 8601, UTC, of the first start
    int argc;
    char **argv;    // borrowed
    char note[512]; // "" or what happened that the user should know (a lock taken over)
};

/* Whether `mode` is possible there, before hours of preparation: the refusals of pk_run_open but
 * for the lock. Changes nothing. */
enum pk_status pk_run_check(const char *dir, enum pk_run_mode mode, struct pk_err *err);
/* Creates (with parents) or reopens the folder, locks it, and writes run.json with state running.
 * argv is borrowed until pk_run_close.
 * Errors  PK_EUSAGE    PK_RUN_NEW over an existing run
 *         PK_EMISSING  PK_RUN_RESUME where there is none; or the run is locked (names host and pid)
 *         PK_EWRITE    the folder cannot be made or written */
enum pk_status pk_run_open(struct pk_run *r, const char *dir, enum pk_run_mode mode, int argc,
                           char **argv, struct pk_err *err);
/* Rewrites run.json atomically. */
enum pk_status pk_run_update(struct pk_run *r, enum pk_run_state state, int64_t last_step,
                             struct pk_err *err);
/* Appends one line; json is one object without newlines, {"step": 12, ...}. */
enum pk_status pk_run_metric(struct pk_run *r, const char *json, struct pk_err *err);
/* Cuts metrics.jsonl back to what was logged up to `step`, so that a resumed run does not show
 * steps twice: the first line of a later step, and all after it, goes. So does a line that a crash
 * tore. */
enum pk_status pk_run_rewind(struct pk_run *r, int64_t step, struct pk_err *err);
/* Appends "2026-11-22T17:15:48Z text" to train.log. Losing a log line is no error. */
void pk_run_log(struct pk_run *r, const char *fmt, ...) PK_PRINTF(2, 3);
/* Writes the final state and releases the lock. Safe on a zeroed struct and twice. */
enum pk_status pk_run_close(struct pk_run *r, enum pk_run_state state, struct pk_err *err);

#endif
