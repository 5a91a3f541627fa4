/* fiber.cc -- stacks and the switch between them; see fiber.h. */
#include "tests/cuda_host/fiber.h"

#include <cstdint>
#include <sys/mman.h>
#include <unistd.h>

#ifdef PK_HOST_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace pk_host
{
namespace
{

fiber scheduler; // the context that called fiber_run

void before_switch([[maybe_unused]] fiber *from, [[maybe_unused]] const fiber *to)
{
#ifdef PK_HOST_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->stack, to->bytes);
#endif
}
/* `now` runs again; `before` is the one that gave way, whose stack bounds are learned here. */
void after_switch([[maybe_unused]] const fiber *now, [[maybe_unused]] fiber *before)
{
#ifdef PK_HOST_ASAN
    const void *stack = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(now->fake, &stack, &bytes);
    if (before == &scheduler) {
        before->stack = static_cast<char *>(const_cast<void *>(stack));
        before->bytes = bytes;
    }
#endif
}

} // namespace

#ifndef PK_HOST_UCONTEXT
/* Saves the callee-saved registers on the stack and its pointer in *save, then takes over the stack
 * `to`. The first switch to a fiber "returns" into fiber_start with the fiber in rbx. */
extern "C" void pk_host_switch(void **save, void *to);
extern "C" void pk_host_start(void);
extern "C" void pk_host_enter(fiber *f);
__asm__(".text\n"
        ".p2align 4\n"
        ".globl pk_host_switch\n"
        ".type pk_host_switch,@function\n"
        "pk_host_switch:\n"
        "    endbr64\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    popq %rcx\n"
        "    jmpq *%rcx\n"
        ".size pk_host_switch,.-pk_host_switch\n"
        ".p2align 4\n"
        ".globl pk_host_start\n"
        ".type pk_host_start,@function\n"
        "pk_host_start:\n"
        "    endbr64\n"
        "    movq %rbx, %rdi\n"
        "    call pk_host_enter\n"
        "    ud2\n"
        ".size pk_host_start,.-pk_host_start\n");

extern "C" void pk_host_enter(fiber *f)
{
    after_switch(f, &scheduler);
    f->entry(f);
}

void fiber_run(fiber *f)
{
    before_switch(&scheduler, f);
    pk_host_switch(&scheduler.sp, f->sp);
    after_switch(&scheduler, f);
}

void fiber_pause(fiber *f)
{
    before_switch(f, &scheduler);
    pk_host_switch(&f->sp, scheduler.sp);
    after_switch(f, &scheduler);
}

void fiber_reset(fiber *f, void (*entry)(fiber *), unsigned colour)
{
#ifdef PK_HOST_ASAN
    __asan_unpoison_memory_region(f->stack, f->bytes);
#endif
    f->fake = nullptr;
    f->entry = entry;
    // A 16-byte aligned top, then 0 (no caller), start, and six registers of which rbx is fifth.
    const uintptr_t top = reinterpret_cast<uintptr_t>(f->stack + f->bytes) - (colour % 16) * 192;
    void **sp = reinterpret_cast<void **>(top);
    *--sp = nullptr;
    *--sp = nullptr;
    *--sp = reinterpret_cast<void *>(pk_host_start);
    *--sp = nullptr; // rbp
    *--sp = f;       // rbx
    for (int i = 0; i < 4; i++) *--sp = nullptr;
    f->sp = sp;
}
#else
namespace
{
void enter(unsigned high, unsigned low)
{
    fiber *f = reinterpret_cast<fiber *>(
        static_cast<uintptr_t>((static_cast<uint64_t>(high) << 32) | low));
    after_switch(f, &scheduler);
    f->entry(f);
}
} // namespace

void fiber_run(fiber *f)
{
    before_switch(&scheduler, f);
    swapcontext(&scheduler.context, &f->context);
    after_switch(&scheduler, f);
}

void fiber_pause(fiber *f)
{
    before_switch(f, &scheduler);
    swapcontext(&f->context, &scheduler.context);
    after_switch(f, &scheduler);
}

void fiber_reset(fiber *f, void (*entry)(fiber *), unsigned colour)
{
#ifdef PK_HOST_ASAN
    __asan_unpoison_memory_region(f->stack, f->bytes);
#endif
    const uint64_t at = reinterpret_cast<uintptr_t>(f);
    f->fake = nullptr;
    f->entry = entry;
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = f->bytes - (colour % 16) * 192;
    f->context.uc_link = nullptr;
    makecontext(&f->context, reinterpret_cast<void (*)()>(enter), 2,
                static_cast<unsigned>(at >> 32), static_cast<unsigned>(at));
}
#endif

bool fiber_alloc(fiber *f, size_t bytes)
{
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t size = (bytes + page - 1) / page * page;
    void *map = mmap(nullptr, size + page, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return false;
    if (mprotect(map, page, PROT_NONE) != 0) {
        munmap(map, size + page);
        return false;
    }
    f->stack = static_cast<char *>(map) + page;
    f->bytes = size;
    return true;
}

void fiber_free(fiber *f)
{
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    if (f->stack) munmap(f->stack - page, f->bytes + page);
    f->stack = nullptr;
}

} // namespace pk_host
