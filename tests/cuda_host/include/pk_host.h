/* pk_host.h -- settings and reports of the host executor, for tests. Plain C.
 *
 * The environment sets the defaults, read at the first use: PK_CUDA_HOST_ORDER is alternate
 * (default), ascending, descending or random; PK_CUDA_HOST_SCHEDULE is random (default), late or
 * early; PK_CUDA_HOST_SEED, of both random ones, is 1 unless given. */
#ifndef PK_HOST_H
#define PK_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

enum pk_host_order {
    PK_HOST_ALTERNATE, // ascending and descending in turns, launch by launch
    PK_HOST_ASCENDING,
    PK_HOST_DESCENDING,
    PK_HOST_RANDOM // another permutation at every launch and after every barrier
};
void pk_host_order(enum pk_host_order order);

enum pk_host_schedule {
    PK_HOST_SCHEDULE_RANDOM, // work of other streams at random
    PK_HOST_SCHEDULE_LATE,   // only what somebody waits for
    PK_HOST_SCHEDULE_EARLY   // first all the other streams' work that depends on nothing pending
};
void pk_host_schedule(enum pk_host_schedule schedule);
void pk_host_seed(uint64_t seed);

/* What the executor found wrong last, with kernel, block and thread; "" when nothing. */
const char *pk_host_error(void);
/* Forgets errors, also those that stick to the context. Pending work and captures are dropped. */
void pk_host_reset(void);
/* Messages also go to stderr unless quiet. */
void pk_host_quiet(bool quiet);

/* Failure injection, undone by pk_host_reset. */
enum pk_host_device { PK_HOST_READY, PK_HOST_NO_DEVICE, PK_HOST_NO_DRIVER, PK_HOST_OLD_DRIVER };
void pk_host_device(enum pk_host_device state);
void pk_host_memory(size_t bytes); // of the device; SIZE_MAX for the usual 80 GB
/* The nth call from now (1: the next) of this API function returns the error; a launch is called
 * "PK_LAUNCH". n = 0 takes it back. */
void pk_host_fail_call(const char *function, int nth, cudaError_t error);
/* The device's compute capability, 90 unless said, and its number of SMs, 132 unless said. */
void pk_host_device_facts(int arch, int sms);

/* What events take for the time, in seconds, asked when they are reached; NULL: the real one. */
void pk_host_clock(double (*seconds)(void));

/* Work of a stream that depends on another process: `then` runs when `done` says so, asked again
 * and again after all work before it. Not to be captured. */
cudaError_t pk_host_await(cudaStream_t stream, bool (*done)(void *user), void (*then)(void *user),
                          void *user);

/* What a device does by itself: works on the stream as far as it can, also while the stream is
 * being captured. From any thread. */
void pk_host_progress(cudaStream_t stream);

/* Device memory now allocated, in bytes, and in number of allocations. */
size_t pk_host_device_bytes(void);
size_t pk_host_device_allocations(void);
size_t pk_host_pinned_bytes(void);
/* Streams, events, graphs that were made and not destroyed. */
size_t pk_host_live_handles(void);
/* Kernels run since the start. */
uint64_t pk_host_launches(void);
/* Copies from the device's memory to the host's that were asked for since then. */
uint64_t pk_host_copies_out(void);
/* Work that is queued and has not run. */
size_t pk_host_pending(void);

#ifdef __cplusplus
}
#endif

#endif
