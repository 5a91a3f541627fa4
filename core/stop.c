/* stop.c -- the stop flag and its signal handlers (see stop.h). */
#include "core/stop.h"

#include <signal.h>
#include <stdatomic.h>

/* Lock-free, so it may be written in a handler; atomic, since any thread may read it. */
static atomic_int stop_signal;

static void on_signal(int number)
{
    atomic_store(&stop_signal, number);
}

/* Gives this thread a stack for handlers, unless it has one (sanitizers bring theirs). The frame of
 * a signal holds all vector registers, 11 KiB where there is AMX. */
static enum pk_status own_stack(struct pk_err *err)
{
    static _Alignas(64) char memory[1 << 16];
    const stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    stack_t old;
    if (sigaltstack(NULL, &old) == 0 && !(old.ss_flags & SS_DISABLE)) return PK_OK;
    if (sigaltstack(&stack, NULL) != 0)
        return pk_fail_errno(err, PK_EINTERNAL, "cannot give signals a stack of their own");
    return PK_OK;
}

enum pk_status pk_stop_install(struct pk_err *err)
{
    static const int signals[] = {SIGTERM, SIGUSR2, SIGINT};
    atomic_store(&stop_signal, 0);
    PK_TRY(own_stack(err));
    for (size_t i = 0; i < PK_COUNT(signals); i++) {
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK};
        if (signals[i] == SIGINT) action.sa_flags |= (int)SA_RESETHAND;
        sigemptyset(&action.sa_mask);
        if (sigaction(signals[i], &action, NULL) != 0)
            return pk_fail_errno(err, PK_EINTERNAL, "cannot handle signal %d", signals[i]);
    }
    return PK_OK;
}

int pk_stop_requested(void)
{
    return atomic_load(&stop_signal);
}
