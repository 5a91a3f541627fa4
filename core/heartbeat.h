/* heartbeat.h -- a rank that dies, hangs or is cut off ends the job on all ranks, by name.
 *
 * A thread of its own, over connections of its own (a star around rank 0), apart from collectives:
 * those block for as long as anybody computes, and only fail where two ranks happen to talk. Every
 * rank tells rank 0 at each beat where it is; rank 0 answers, and judges:
 *
 *     died     its connection closed without a goodbye                at once
 *     silent   no beat for silent_s: host down, network cut, stopped  silent_s
 *     hung     it beats (or is stopped) but its step does not move    watchdog_s
 *     failed   it said goodbye with an error, and nobody else did     1 s
 *
 * Where rank 0 itself is the one, each of the others judges. A verdict goes to all ranks, calls the
 * abort hook once (so that blocked collectives return), and, if the rank has not stopped its
 * heartbeat grace_s later, the overdue hook, which ends the process.
 *
 * Among ranks that wait for each other in a collective the hung one is the one that is not there
 * yet: the one whose count of pk_heartbeat_at calls is lowest. All ranks must make the same calls.
 */
#ifndef PK_HEARTBEAT_H
#define PK_HEARTBEAT_H

#include "core/rendezvous.h"

enum { PK_OPERATION_TEXT = 48 };

/* Seconds; zero stands for the default. */
struct pk_heartbeat_limits {
    double interval_s; // between beats, 1
    double silent_s;   // without a beat, 10; at least 3 intervals
    double watchdog_s; // without progress, 300; longer than the slowest step, checkpoint or
                       // evaluation; negative: never
    double grace_s;    // between verdict and overdue, 3
};

/* Who ended the job and how, as far as this rank knows. */
struct pk_verdict {
    int rank; // at fault; -1 where all ranks stand still together
    char host[PK_HOST_TEXT];
    int64_t pid;
    int64_t step; // it was last seen at; -1 before the first
    char operation[PK_OPERATION_TEXT];
    char what[512]; // "made no progress for 30 s"
};

/* Called by the heartbeat's thread. */
struct pk_heartbeat_hooks {
    void (*decided)(void *ctx, const struct pk_verdict *v);
    void (*overdue)(void *ctx, const struct pk_verdict *v);
    void *ctx;
};

struct pk_heartbeat;

/* Starts the thread; takes over w->beat_fd. A world of one has no heartbeat, *out is NULL then,
 * which all functions here accept. hooks and limits may be NULL; they are copied. Errors
 * PK_EINTERNAL no thread;  PK_ENOMEM */
enum pk_status pk_heartbeat_start(struct pk_heartbeat **out, struct pk_world *w,
                                  const struct pk_heartbeat_limits *limits,
                                  const struct pk_heartbeat_hooks *hooks, struct pk_err *err);
/* Progress: this rank begins `operation` (a literal: the pointer is kept) of a step. Cheap (three
 * relaxed stores); one thread at a time. The watchdog watches a rank from its first call on. */
void pk_heartbeat_at(struct pk_heartbeat *h, int64_t step, const char *operation);
/* Whether there is a verdict; waits for one at most wait_s. What failed first in this process may
 * be the consequence, so ask before reporting it. out may be NULL. */
bool pk_heartbeat_verdict(struct pk_heartbeat *h, double wait_s, struct pk_verdict *out);
/* "rank 2 (host b, process 77) died at step 41 in all-reduce" */
void pk_verdict_text(const struct pk_verdict *v, char *text, size_t size);
/* Says goodbye with how this rank ended (`why` for an error, else NULL), ends the thread, frees. */
void pk_heartbeat_stop(struct pk_heartbeat *h, enum pk_status s, const char *why);

#endif
