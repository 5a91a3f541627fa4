/* stop.h -- asking a run to stop at the next step edge, by signal.
 *
 * SIGTERM and SIGUSR2 (preemption: Slurm, Kubernetes) and SIGINT (Ctrl-C) set a flag that the
 * training loop polls; it then writes a checkpoint and exits with 75. A second SIGINT kills at
 * once, since a person is waiting.
 *
 * The flag is the one mutable global of the library: a signal handler has no argument to reach
 * anything else by. */
#ifndef PK_STOP_H
#define PK_STOP_H

#include "core/base.h"

/* Installs the handlers and clears the flag. System calls are restarted (SA_RESTART). */
enum pk_status pk_stop_install(struct pk_err *err);
/* Number of the signal that asked, 0 while none has. Cheap; from any thread. */
int pk_stop_requested(void);

#endif
