/* state.h -- the CUDA executor's state, shared by backend.c (memory) and exec.c (steps). */
#ifndef PK_CUDA_STATE_H
#define PK_CUDA_STATE_H

#include "cuda/backend.h"
#include "cuda/optim.h"
#include "cuda/queue.h"

enum {
    PK_CUDA_RING = 4 // optimizer steps whose records may be under way; the lag is smaller
};

struct pk_cuda_block { // one allocation of device memory
    void *memory;
    int64_t bytes;
};

struct pk_cuda { // pk_exec.device
    struct pk_queue q;
    cudaStream_t copy; // inputs travel here beside the step
    /* Device memory. Flat arenas have params->elements elements. */
    struct pk_cuda_block weight, ema, m, v, grad; // float
    struct pk_cuda_block weight_low, ema_low;     // bf16 copies that the products read
    struct pk_cuda_block arena;                   // activations of the largest program
    struct pk_cuda_block input, staging;          // of the step at work; of the next one
    struct pk_cuda_block small;                   // struct pk_cuda_small
    struct pk_cuda_small *host;                   // [PK_CUDA_RING] pinned
    int64_t resident;                             // bytes of records that live here
    int64_t constants;                            // bytes, of all bound programs
    uint64_t generation;  // counts moves of arena and input: graphs made before are void
    cudaEvent_t copied;   // the staging area is filled
    cudaEvent_t consumed; // and may be filled again
    cudaEvent_t done[PK_CUDA_RING];
    struct pk_cuda_optim *optim;
    cudaGraphExec_t update;     // NULL until first used
    int64_t enqueued, told;     // optimizer steps since open
    float seed;                 // what small->seed holds
    const struct pk_prog *prog; // of the last run, to name a faulty node
    struct pk_cuda_block fetch; // pinned host memory
    void *pinned[64];           // registered with the driver by pin()
    int pins;
};

/* Small records on the device, together so that one copy brings them back. */
struct pk_cuda_small {
    struct pk_cuda_scalars scalars; // host -> device before each update
    struct pk_cuda_report report;   // device -> host after it
    struct pk_cuda_fault fault;
    float seed; // d objective / d loss of the runs
};

/* cudaMalloc into *b. what: for the message and the table.
 * Errors  PK_EDEVICE with the table of what is there and what to do */
enum pk_status pk_cuda_alloc(struct pk_exec *x, struct pk_cuda_block *b, int64_t bytes,
                             const char *what, struct pk_err *err);
void pk_cuda_release(struct pk_cuda_block *b);

/* The facts about device 0, and a stream on it. */
enum pk_status pk_cuda_open_queue(struct pk_queue *q, struct pk_err *err);

/* bench.c */
enum pk_status pk_cuda_time_op(struct pk_op_timing *t, struct pk_err *err);
/* report.c */
enum pk_status pk_cuda_rates(double *bytes_per_s, double *flops_per_s, struct pk_err *err);

/* exec.c */
enum pk_status pk_cuda_bind(struct pk_exec *x, struct pk_bound *b, struct pk_err *err);
void pk_cuda_unbind(struct pk_bound *b);
enum pk_status pk_cuda_run(struct pk_exec *x, struct pk_bound *b, const struct pk_exec_batch *run,
                           struct pk_err *err);
enum pk_status pk_cuda_update(struct pk_exec *x, const struct pk_optim_step *step,
                              struct pk_err *err);
enum pk_status pk_cuda_result(struct pk_exec *x, int lag, struct pk_exec_result *out, bool *have,
                              struct pk_err *err);
/* Waits for everything; reports a fault that a kernel has found. */
enum pk_status pk_cuda_finish(struct pk_exec *x, struct pk_err *err);

#endif
