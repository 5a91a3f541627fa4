/* launch.h -- starting the ranks of a job as processes of this host, and ending them together.
 *
 * Every rank is a process group of its own that the kernel kills should the launcher die. Rank 0
 * inherits the listening socket of the rendezvous, so that no port is taken meanwhile. When a rank
 * fails, the others have two seconds to end by themselves, then SIGTERM, then SIGKILL at 3.5 s; one
 * that the heartbeat found hanging gets half a second. */
#ifndef PK_TOOLS_LAUNCH_H
#define PK_TOOLS_LAUNCH_H

#include "tools/bind.h"

struct pk_launch_spec {
    int ranks;
    const char *bind;    // as of pk_bind_open
    const char *program; // path of what runs
    char **argv;         // its arguments, argv[0] included; ends with NULL
    bool quiet;
};

/* Runs the job to its end. *code is the exit code for the launcher:
 *   0   all ranks ended with 0          75  all stopped cleanly, some after a checkpoint
 *   N   all ranks ended with N          71  a rank failed; stderr has one line that says which
 * SIGTERM, SIGINT, SIGHUP and SIGUSR2 are passed on to all ranks.
 * Errors  PK_EUSAGE, PK_ERANK, PK_EINTERNAL if the ranks cannot be started */
enum pk_status pk_launch_run(const struct pk_launch_spec *spec, int *code, struct pk_err *err);

#endif
