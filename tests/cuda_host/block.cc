/* block.cc -- the threads of a block: scheduling, barriers, warp operations, shared memory.
 *
 * Blocks run one after the other. Within a block a warp runs until none of its lanes can go on (all
 * wait or are done), then the next warp: a warp gets as far ahead of the others as barriers let it,
 * so that a missing barrier changes the result when the order of warps changes. A lane runs until
 * it waits. When nobody can run and the block's barrier is not complete, the block is stuck, and
 * the first waiting thread is reported with what it waits for. */
#include "tests/cuda_host/block.h"
#include "tests/cuda_host/fiber.h"

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace pk_host
{

position *here;

namespace
{

const char *const wait_names[WAIT_KINDS] = {
    "nothing",          "__syncthreads",       "__syncthreads_and",
    "__syncthreads_or", "__syncthreads_count", "__syncwarp",
    "__shfl_sync",      "__shfl_up_sync",      "__shfl_down_sync",
    "__shfl_xor_sync",  "__ballot_sync",       "__any_sync",
    "__all_sync",       "__match_any_sync",    "__reduce_sync",
    "mma_m16n8k16",     "load_matrix_x4",      "load_matrix_x4_transposed"};

enum state { READY, WAITING, EXITED };

struct pending_copy {
    void *to;
    const void *from;
    bool valid;
    int64_t group; // number of its group in this thread
};

struct thread {
    fiber f; // first: the fiber's address is the thread's
    position at;
    int number;
    state status;
    wait_kind waits;
    unsigned mask; // of the warp operation it waits in
    void *argument;
    std::vector<pending_copy> copies;
    int64_t groups; // closed so far
};

/* Lanes that have arrived at one warp operation; half warps may be in different ones. */
struct meeting {
    wait_kind kind;
    unsigned mask, arrived;
};
struct warp_state {
    int lanes, ready;
    unsigned exited;
    int meetings;
    meeting met[LANES];
};

#ifdef PK_HOST_ASAN
enum { STACK_BYTES = 512 * 1024 }; // redzones make frames several times as large
#else
enum { STACK_BYTES = 128 * 1024 };
#endif

/* Everything about the block that runs now. One block runs at a time, under the runtime's lock. */
struct block_state {
    const kernel_run *k;
    thread *running;
    int threads, warps, living, at_barrier;
    wait_kind barrier_kind;
    const char *barrier_file; // of the call that reached the barrier first
    int barrier_line, barrier_thread;
    int barrier_and, barrier_or, barrier_count, barrier_result;
    warp_state warp[MAX_THREADS / LANES];
    int warp_order[MAX_THREADS / LANES], lane_order[LANES];
    unsigned char *shared;
    std::string error;
    uint64_t random;
};
block_state b;
thread *threads[MAX_THREADS]; // made at first use, kept: their stacks are large
bool broken[MAX_THREADS];     // its stack was given up in the middle of a kernel, or never begun

uint64_t next_random()
{
    uint64_t z = b.random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void permute(int *p, int n)
{
    for (int i = 0; i < n; i++) p[i] = b.k->order == DESCENDING ? n - 1 - i : i;
    if (b.k->order != SHUFFLED) return;
    for (int i = n - 1; i > 0; i--) {
        const int j = static_cast<int>(next_random() % static_cast<uint64_t>(i + 1));
        const int t = p[i];
        p[i] = p[j];
        p[j] = t;
    }
}

std::string format(const char *text, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char *text, ...)
{
    char line[512];
    va_list list;
    va_start(list, text);
    vsnprintf(line, sizeof line, text, list);
    va_end(list);
    return line;
}

std::string where(const thread *t)
{
    const position &p = t->at;
    return format("kernel %s, block (%u, %u, %u), thread (%u, %u, %u)", b.k->name, p.block.x,
                  p.block.y, p.block.z, p.thread.x, p.thread.y, p.thread.z);
}

void pause_running()
{
    thread *t = b.running;
    fiber_pause(&t->f);
}

/* The body of a fiber: one thread of one block after the other. */
void thread_main(fiber *f)
{
    thread *t = reinterpret_cast<thread *>(f);
    for (;;) {
        b.k->invoke(b.k->call);
        if (!t->copies.empty())
            fault("the kernel ended with %zu asynchronous copies nobody waited for",
                  t->copies.size());
        warp_state &w = b.warp[t->number / LANES];
        t->status = EXITED;
        w.exited |= 1u << (t->number % LANES);
        w.ready--;
        b.living--;
        pause_running();
    }
}

bool ensure_thread(int i)
{
    if (!threads[i]) {
        threads[i] = new thread();
        threads[i]->number = i;
        if (!fiber_alloc(&threads[i]->f, STACK_BYTES)) {
            delete threads[i];
            threads[i] = nullptr;
            return false;
        }
        broken[i] = true;
    }
    if (broken[i]) fiber_reset(&threads[i]->f, thread_main, static_cast<unsigned>(i));
    broken[i] = false;
    return true;
}

std::string waits_in(const thread *t)
{
    if (t->status == EXITED) return "has left the kernel";
    if (t->status == READY) return "has not got there";
    if (t->waits <= WAIT_BARRIER_COUNT) return format("waits in %s", wait_names[t->waits]);
    return format("waits in %s with mask 0x%08x", wait_names[t->waits], t->mask);
}

std::string describe_stuck()
{
    // A warp operation that cannot complete is the cause more often than the barrier is.
    for (int i = 0; i < b.threads; i++) {
        const thread *t = threads[i];
        if (t->status != WAITING || t->waits <= WAIT_BARRIER_COUNT) continue;
        for (int lane = 0; lane < LANES; lane++) {
            if (!(t->mask >> lane & 1)) continue;
            const int other = i / LANES * LANES + lane;
            std::string text = where(t) + format(": %s with mask 0x%08x waits for lane %d, which ",
                                                 wait_names[t->waits], t->mask, lane);
            if (other >= b.threads) return text + "does not exist";
            const thread *o = threads[other];
            if (o->status == WAITING && o->waits == t->waits && o->mask == t->mask) continue;
            return text + waits_in(o);
        }
    }
    for (int i = 0; i < b.threads; i++) {
        const thread *t = threads[i];
        if (t->status != WAITING || t->waits > WAIT_BARRIER_COUNT) continue;
        for (int j = 0; j < b.threads; j++) {
            const thread *o = threads[j];
            if (o->status == WAITING && o->waits != t->waits)
                return where(t) +
                       format(": %s at %s:%d is not reached by thread %d, which ",
                              wait_names[t->waits], b.barrier_file, b.barrier_line, j) +
                       waits_in(o);
        }
    }
    return format("kernel %s: the block is stuck", b.k->name);
}

void release_barrier()
{
    b.barrier_result = b.barrier_kind == WAIT_BARRIER_AND  ? b.barrier_and
                       : b.barrier_kind == WAIT_BARRIER_OR ? b.barrier_or
                                                           : b.barrier_count;
    b.at_barrier = 0;
    for (int i = 0; i < b.threads; i++) {
        if (threads[i]->status != WAITING) continue;
        threads[i]->status = READY;
        b.warp[i / LANES].ready++;
    }
    permute(b.warp_order, b.warps);
}

void run_lane(int i)
{
    thread *t = threads[i];
    b.running = t;
    here = &t->at;
    fiber_run(&t->f);
    here = nullptr;
}

/* Runs the threads of the block until all are done, or something is wrong. */
void schedule()
{
    while (b.living) {
        bool moved = false;
        for (int i = 0; i < b.warps; i++) {
            warp_state &w = b.warp[b.warp_order[i]];
            while (w.ready) {
                moved = true;
                if (b.k->order == SHUFFLED) permute(b.lane_order, LANES);
                for (int j = 0; j < LANES; j++) {
                    const int lane = b.lane_order[j], at = b.warp_order[i] * LANES + lane;
                    if (lane >= w.lanes || threads[at]->status != READY) continue;
                    run_lane(at);
                    if (!b.error.empty()) return;
                }
            }
        }
        if (b.living && b.at_barrier == b.living) {
            release_barrier();
        } else if (!moved) {
            b.error = describe_stuck();
            return;
        }
    }
}

void begin_block(uint3 index)
{
    if (b.k->shared_bytes) memset(b.shared, 0xff, b.k->shared_bytes);
    b.living = b.threads;
    b.at_barrier = 0;
    for (int w = 0; w < b.warps; w++) {
        const int left = b.threads - w * LANES;
        b.warp[w].lanes = b.warp[w].ready = left < LANES ? left : LANES;
        b.warp[w].exited = 0;
        b.warp[w].meetings = 0;
    }
    for (int i = 0; i < b.threads; i++) {
        thread *t = threads[i];
        const unsigned n = static_cast<unsigned>(i);
        t->at.thread = {n % b.k->block.x, n / b.k->block.x % b.k->block.y,
                        n / b.k->block.x / b.k->block.y};
        t->at.block = index;
        t->at.threads = b.k->block;
        t->at.blocks = b.k->grid;
        t->status = READY;
        t->groups = 0;
    }
    permute(b.warp_order, b.warps);
    permute(b.lane_order, LANES);
}

void give_up()
{
    for (int i = 0; i < b.threads; i++) {
        if (threads[i]->status == EXITED) continue;
        broken[i] = true;
        threads[i]->copies.clear();
    }
}

bool completed(thread *t, unsigned mask, wait_kind kind, meeting **found)
{
    warp_state &w = b.warp[t->number / LANES];
    const unsigned me = 1u << (t->number % LANES);
    meeting *m = nullptr;
    for (int i = 0; i < w.meetings && !m; i++)
        if (w.met[i].kind == kind && w.met[i].mask == mask) m = &w.met[i];
    if (!m) {
        m = &w.met[w.meetings++];
        *m = {kind, mask, 0};
    }
    m->arrived |= me;
    *found = m;
    return m->arrived == mask;
}

} // namespace

void fault(const char *text, ...)
{
    char line[512];
    va_list list;
    va_start(list, text);
    vsnprintf(line, sizeof line, text, list);
    va_end(list);
    if (!here) { // host code that calls what only kernels may
        fprintf(stderr, "CUDA host executor: outside a kernel: %s\n", line);
        abort();
    }
    b.error = where(b.running) + ": " + line;
    for (;;) pause_running(); // the scheduler gives the block up
}

int barrier(wait_kind kind, int predicate, const char *file, int line)
{
    thread *t = b.running;
    if (b.at_barrier == 0) {
        b.barrier_kind = kind;
        b.barrier_file = file;
        b.barrier_line = line;
        b.barrier_thread = t->number;
        b.barrier_and = 1;
        b.barrier_or = b.barrier_count = 0;
    } else if (kind != b.barrier_kind || line != b.barrier_line ||
               (file != b.barrier_file && strcmp(file, b.barrier_file) != 0)) {
        fault("%s at %s:%d, but thread %d waits in %s at %s:%d", wait_names[kind], file, line,
              b.barrier_thread, wait_names[b.barrier_kind], b.barrier_file, b.barrier_line);
    }
    b.barrier_and &= predicate != 0;
    b.barrier_or |= predicate != 0;
    b.barrier_count += predicate != 0;
    b.at_barrier++;
    t->waits = kind;
    t->status = WAITING;
    b.warp[t->number / LANES].ready--;
    pause_running();
    return b.barrier_result;
}

void warp(wait_kind kind, unsigned mask, warp_function complete, void *argument)
{
    thread *t = b.running;
    warp_state &w = b.warp[t->number / LANES];
    const int base = t->number / LANES * LANES;
    if (!(mask >> (t->number - base) & 1))
        fault("%s with mask 0x%08x, which lacks the calling lane %d", wait_names[kind], mask,
              t->number - base);
    t->waits = kind;
    t->mask = mask;
    t->argument = argument;
    t->status = WAITING;
    w.ready--;
    meeting *m;
    if (completed(t, mask, kind, &m)) {
        void *arguments[LANES];
        for (int lane = 0; lane < LANES; lane++)
            arguments[lane] = mask >> lane & 1 ? threads[base + lane]->argument : nullptr;
        *m = w.met[--w.meetings];
        if (complete) complete(arguments, mask);
        for (int lane = 0; lane < LANES; lane++)
            if (mask >> lane & 1) threads[base + lane]->status = READY;
        w.ready += __builtin_popcount(mask);
    }
    pause_running();
}

int lane()
{
    return b.running->number % LANES;
}

unsigned active_lanes()
{
    const warp_state &w = b.warp[b.running->number / LANES];
    const unsigned all = w.lanes == LANES ? 0xffffffffu : (1u << w.lanes) - 1;
    return all & ~w.exited;
}

void *shared(size_t bytes, const char *type)
{
    if (bytes > b.k->shared_bytes)
        fault("shared object %s has %zu bytes, the launch gave %zu", type, bytes,
              b.k->shared_bytes);
    return b.shared;
}

uint32_t shared_address(const void *p)
{
    const unsigned char *at = static_cast<const unsigned char *>(p);
    if (!b.k->shared_bytes || at < b.shared || at >= b.shared + b.k->shared_bytes)
        fault("address %p is not in the block's shared memory", p);
    return static_cast<uint32_t>(at - b.shared);
}

void copy_async(void *to, const void *from, bool valid)
{
    const uint32_t at = shared_address(to);
    if (at % 16 || reinterpret_cast<uintptr_t>(from) % 16)
        fault("copy_async_16 of unaligned addresses: shared offset %u, source %p", at, from);
    if (at + 16 > b.k->shared_bytes)
        fault("copy_async_16 writes past the end of shared memory: offset %u of %zu", at,
              b.k->shared_bytes);
    if (valid) { // read now, so that a bad source is reported where it is written
        volatile unsigned char first = static_cast<const volatile unsigned char *>(from)[0];
        volatile unsigned char last = static_cast<const volatile unsigned char *>(from)[15];
        (void)first;
        (void)last;
    }
    memset(to, 0xff, 16);
    b.running->copies.push_back({to, from, valid, b.running->groups});
}

void copy_commit()
{
    b.running->groups++;
}

void copy_wait(int pending)
{
    thread *t = b.running;
    size_t kept = 0;
    for (size_t i = 0; i < t->copies.size(); i++) {
        const pending_copy c = t->copies[i];
        if (c.group >= t->groups - pending) {
            t->copies[kept++] = c;
        } else if (c.valid) {
            memcpy(c.to, c.from, 16);
        } else {
            memset(c.to, 0, 16);
        }
    }
    t->copies.resize(kept);
}

uint64_t clock_ticks()
{
    return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

std::string run_kernel(const kernel_run &k)
{
    b.k = &k;
    b.error.clear();
    b.random = k.seed;
    b.threads = static_cast<int>(k.block.x * k.block.y * k.block.z);
    b.warps = (b.threads + LANES - 1) / LANES;
    b.shared = nullptr;
    for (int i = 0; i < b.threads; i++)
        if (!ensure_thread(i)) return format("kernel %s: no memory for %d stacks", k.name, i + 1);
    void *memory = nullptr;
    if (k.shared_bytes && posix_memalign(&memory, 128, k.shared_bytes) != 0)
        return format("kernel %s: no memory for shared memory", k.name);
    b.shared = static_cast<unsigned char *>(memory);

    const uint64_t blocks = static_cast<uint64_t>(k.grid.x) * k.grid.y * k.grid.z;
    // Shuffled blocks: a walk with a stride that has no common factor with their number.
    uint64_t stride = k.order == SHUFFLED ? (next_random() % blocks) | 1 : 1, first = 0;
    for (uint64_t x = stride, y = blocks; k.order == SHUFFLED;) {
        while (y) {
            const uint64_t r = x % y;
            x = y;
            y = r;
        }
        if (x == 1) break;
        x = stride += 2;
        y = blocks;
    }
    if (k.order == SHUFFLED) first = next_random() % blocks;
    for (uint64_t i = 0; i < blocks && b.error.empty(); i++) {
        const uint64_t n = k.order == DESCENDING ? blocks - 1 - i : (first + i * stride) % blocks;
        begin_block({static_cast<unsigned>(n % k.grid.x),
                     static_cast<unsigned>(n / k.grid.x % k.grid.y),
                     static_cast<unsigned>(n / k.grid.x / k.grid.y)});
        schedule();
    }
    if (!b.error.empty()) give_up();
    here = nullptr;
    free(memory);
    return b.error;
}

} // namespace pk_host
