/* fiber.h -- stacks that take turns on one OS thread; the threads of a block run on them.
 *
 * The switch is hand-written for x86-64 (about 2 ns) and goes through ucontext elsewhere, or where
 * PK_HOST_UCONTEXT is defined. AddressSanitizer is told of every switch. */
#ifndef PK_HOST_FIBER_H
#define PK_HOST_FIBER_H

#include <cstddef>

#if !defined(PK_HOST_UCONTEXT) && !defined(__x86_64__)
#define PK_HOST_UCONTEXT 1
#endif
#ifdef PK_HOST_UCONTEXT
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#define PK_HOST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PK_HOST_ASAN 1
#endif
#endif

namespace pk_host
{

struct fiber {
    void *sp; // saved stack pointer while it does not run
#ifdef PK_HOST_UCONTEXT
    ucontext_t context;
#endif
    char *stack;                // lowest usable address; a guard page lies below
    size_t bytes;               // of the stack
    void *fake;                 // AddressSanitizer's handle while it does not run
    void (*entry)(fiber *self); // never returns
};

/* Maps a stack (the guard page makes an overflow a segmentation fault). False: out of memory. */
bool fiber_alloc(fiber *f, size_t bytes);
void fiber_free(fiber *f);
/* The next fiber_run starts entry(f) on an empty stack; `colour` shifts the top of the stack by
 * some cache lines, so that the stacks of a block do not all want the same lines of the first
 * cache. */
void fiber_reset(fiber *f, void (*entry)(fiber *), unsigned colour);
/* From the scheduler: runs f until it pauses. */
void fiber_run(fiber *f);
/* From f: back to the scheduler. */
void fiber_pause(fiber *f);

} // namespace pk_host

#endif
