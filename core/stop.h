/* stop.h -- asking a run to stop at the next step edge, by signal.
 *
 * SIGTERM and SIGUSR2 (preemption: Slurm, Kubernetes) and SIGINT (Ctrl-C) set a flag that the
 * training loop polls; it then writes a checkpoint and exits with 75. A second SIGINT kills at
 * once, since a person is waiting.
 *
 * The handlers run on a stack of their own, in the thread that installed them; threads that
 * multiply matrices block signals (core/thread.c). For code that GEMM libraries generate at run
 * time may keep data below the stack pointer, where a handler's frame would go: with oneDNN 2.7,
 * one preemption in seven ended in a corrupted heap (tests/fault/test_stop_gemm.c).
 *
 * The flag, and that stack, are the mutable globals of the library: a signal handler has no
 * argument to reach anything else by. */
#ifndef PK_STOP_H
#define PK_STOP_H

#include "core/base.h"

/* Installs the handlers, for the calling thread, and clears the flag. System calls are restarted
 * (SA_RESTART). */
enum pk_status pk_stop_install(struct pk_err *err);
/* Number of the signal that asked, 0 while none has. Cheap; from any thread. */
int pk_stop_requested(void);

#endif
