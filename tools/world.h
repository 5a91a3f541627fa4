/* world.h -- everything between the command line and the first collective, and the end of it.
 *
 *     struct pk_job job;
 *     PK_TRY(pk_world_open(&job, &(struct pk_world_options){.recipe = hash}, err));
 *     for (...) {
 *         pk_heartbeat_at(job.heartbeat, step, "compute"); ...
 *         pk_heartbeat_at(job.heartbeat, step, "gradient sum");
 *         if ((s = pk_comm_sum(job.comm, ...)) != PK_OK) break;
 *     }
 *     return pk_world_close(&job, s, err);
 *
 * A single process goes the same way: a comm of one, no connections, no thread, heartbeat NULL.
 *
 * Which rank says what went wrong: one. Under `purkinje launch` that is the launcher, which also
 * knows signals; elsewhere rank 0, or where rank 0 is the one that failed, the first rank of every
 * host. The others' errors are marked as said and leave only the exit code, 71. */
#ifndef PK_TOOLS_WORLD_H
#define PK_TOOLS_WORLD_H

#include "core/comm.h"
#include "core/heartbeat.h"
#include "core/launch_env.h"
#include "tools/cli.h"

struct pk_world_options {
    struct pk_launch_flags flags;
    uint64_t recipe; // hash of the resolved recipe; ranks with another one are refused
    bool quiet;      // no notes on stderr (warnings stay)
};

struct pk_job {
    struct pk_launch launch;
    struct pk_world world;          // who the ranks are; its connections belong to the others here
    struct pk_comm *comm;           // collectives; they wait for ever, the heartbeat does not
    struct pk_heartbeat *heartbeat; // NULL in a world of one
    struct pk_world_options options;
    int report_fd; // to `purkinje launch`, -1 without
};

/* Detects, joins, connects the comm, starts the heartbeat. job must not move until pk_world_close.
 * PURKINJE_WATCHDOG, PURKINJE_SILENCE and PURKINJE_HEARTBEAT (seconds) replace the limits of
 * core/heartbeat.h.
 * Errors  those of pk_launch_detect, pk_world_join, pk_comm_tcp, pk_heartbeat_start */
enum pk_status pk_world_open(struct pk_job *job, const struct pk_world_options *options,
                             struct pk_err *err);
/* The same for a command whose ranks share out its work: all were given the same words.
 * Errors  PK_ERANK they were not */
enum pk_status pk_world_open_command(struct pk_job *job, const struct pk_args *args,
                                     struct pk_err *err);
/* Ends it with the status s of the run and returns the status of the process: s, or PK_ERANK with
 * the verdict's words where another rank is at fault and s is a consequence. Safe after a failed
 * open and twice. */
enum pk_status pk_world_close(struct pk_job *job, enum pk_status s, struct pk_err *err);

/* What a rank tells `purkinje launch` through PURKINJE_REPORT_FD: one write of this struct. */
struct pk_world_report {
    uint64_t magic; // PK_WORLD_REPORT
    struct pk_verdict verdict;
};
#define PK_WORLD_REPORT 0x54524f5045524b50u

#endif
