/* state.h -- the CUDA executor's state, shared by backend.c (memory) and exec.c (steps). */
#ifndef PK_CUDA_STATE_H
#define PK_CUDA_STATE_H

#include "cuda/backend.h"
#include "cuda/nccl.h"
#include "cuda/optim.h"
#include "cuda/queue.h"

enum {
    PK_CUDA_RING = 4, // optimizer steps whose records may be under way; the lag is smaller
    PK_CUDA_ROWS = 8  // blocks of pk_exec_rows
};

struct pk_cuda_block { // one allocation of device memory
    void *memory;
    int64_t bytes;
};

struct pk_cuda_range { // elements [first, first + count) of the flat arenas
    int64_t first, count;
    int owner; // the rank that updates them (ZeRO stage 1); -1: all do
};

struct pk_cuda_graph { // what is launched between two messages to other ranks
    cudaGraphExec_t exec;
    int64_t gather; // then this many numbers of each rank are gathered for a norm; 0: none
};
struct pk_cuda_graphs { // one after the other
    struct pk_cuda_graph *item;
    int64_t count, cap;
};

/* Part of a program, captured as graphs of its own: at its end the gradients of one bucket have
 * been touched for the last time. A program without gradients, or of one rank alone, is one part.
 */
struct pk_cuda_part {
    int64_t end;                 // nodes up to here
    struct pk_cuda_range *range; // [ranges] of the bucket
    int32_t ranges;
    struct pk_cuda_graphs graphs[2]; // [gradients and loss are added to those before]
};

struct pk_cuda_ranks { // several ranks: how gradients meet; all zero for one
    struct pk_nccl *nccl;
    cudaStream_t stream;      // buckets travel here beside the backward pass
    cudaEvent_t ready;        // a bucket is complete
    cudaEvent_t summed;       // all buckets and the loss are sums over ranks
    bool sent;                // all of this step's are under way
    struct pk_cuda_block low; // bf16 copies of gradients, of the flat arena's length
};

enum { PK_CUDA_AHEAD = 16 }; // gathers that may be under way; the device's queue has an end

struct pk_cuda_join {          // what norms and losses of several ranks exchange
    struct pk_cuda_block rows; // float [ranks][numbers of a rank], of the largest of them
    struct pk_joined joined;   // these, for kernels
    cudaEvent_t over[PK_CUDA_AHEAD];
    int64_t gathers; // since the start; that of number k is over with over[k % PK_CUDA_AHEAD]
    struct pk_cuda_graphs *capturing; // gathers end a graph; NULL: they take place
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
    struct pk_cuda_block rows[PK_CUDA_ROWS];      // of pk_exec_rows; those without memory are free
    struct pk_cuda_small *host;                   // [PK_CUDA_RING] pinned
    int64_t resident;                             // bytes of records that live here
    int64_t constants;                            // bytes, of all bound programs
    uint64_t generation;  // counts moves of arena and input: graphs made before are void
    cudaEvent_t copied;   // the staging area is filled
    cudaEvent_t consumed; // and may be filled again
    cudaEvent_t done[PK_CUDA_RING];
    struct pk_cuda_optim *optim;
    struct pk_cuda_graphs update; // empty until first used
    int64_t enqueued, told;       // optimizer steps since open
    float seed[2];                // what small->seed and small->counted hold
    const struct pk_prog *prog;   // of the last run, to name a faulty node
    struct pk_cuda_block fetch;   // pinned host memory
    struct pk_cuda_ranks ranks;
    struct pk_cuda_join join;
    void *pinned[64]; // registered with the driver by pin()
    int pins;
};

/* Small records on the device, together so that one copy brings them back. */
struct pk_cuda_small {
    struct pk_cuda_scalars scalars; // host -> device before each update
    struct pk_cuda_report report;   // device -> host after it
    struct pk_cuda_fault fault;
    uint64_t hash; // scratch of pk_exec_hash
    float seed;    // d objective / d loss of the runs
    float counted; // the same for the report's loss: 0 where another rank counts it
};

/* cudaMalloc into *b. what: for the message and the table.
 * Errors  PK_EDEVICE with the table of what is there and what to do */
enum pk_status pk_cuda_alloc(struct pk_exec *x, struct pk_cuda_block *b, int64_t bytes,
                             const char *what, struct pk_err *err);
void pk_cuda_release(struct pk_cuda_block *b);

/* The facts about device 0, and a stream on it. */
enum pk_status pk_cuda_open_queue(struct pk_queue *q, struct pk_err *err);

/* ranks.c: which device this rank takes; joining and leaving them; the buckets of a program, of at
 * most PK_CUDA_BUCKETS, in *out [*parts], which the caller frees with pk_cuda_free_parts. */
enum { PK_CUDA_BUCKETS = 4 };
enum pk_status pk_cuda_pick(const struct pk_exec *x, int *device, struct pk_err *err);
enum pk_status pk_cuda_connect(struct pk_exec *x, struct pk_text *out, struct pk_err *err);
void pk_cuda_disconnect(struct pk_cuda *c);
enum pk_status pk_cuda_parts(const struct pk_exec *x, const struct pk_prog *p,
                             struct pk_cuda_part **out, int32_t *parts, struct pk_err *err);
void pk_cuda_free_parts(struct pk_cuda_part *part, int32_t parts);
/* After the part was enqueued for the last time in this step: its gradients go to the other ranks
 * beside what is enqueued later, with the last part the loss, too. */
enum pk_status pk_cuda_send(struct pk_exec *x, const struct pk_cuda_part *part, bool last,
                            struct pk_err *err);
/* The compute stream goes on when all have arrived. */
enum pk_status pk_cuda_receive(struct pk_exec *x, struct pk_err *err);
/* Ways to wait that end when another rank has failed; with one rank the plain ones. */
enum pk_status pk_cuda_wait_event(struct pk_cuda *c, cudaEvent_t e, struct pk_err *err);
enum pk_status pk_cuda_wait_stream(struct pk_cuda *c, cudaStream_t s, const char *what,
                                   struct pk_err *err);
/* After an error, or where errors are of no interest: nothing is under way any more. */
void pk_cuda_quiet(struct pk_cuda *c);

/* zero1.c: a step of ranks that share out the update (x->share): the chunks' sums of squares meet,
 * later the weights that each has updated are handed round. */
enum pk_status pk_cuda_join_norms(struct pk_exec *x, struct pk_err *err);
enum pk_status pk_cuda_share_weights(struct pk_exec *x, struct pk_err *err);
/* After a step that was not taken, on all ranks: the first gradient that is not finite, which
 * another rank may have. */
enum pk_status pk_cuda_find_bad(struct pk_exec *x, struct pk_cuda_report *r, struct pk_err *err);

/* join.c: batch norm over all ranks (train.sync_norm). Opened after join.rows was made or moved;
 * closing is fine without. */
enum pk_status pk_cuda_open_join(struct pk_exec *x, struct pk_err *err);
void pk_cuda_close_join(struct pk_cuda *c);
/* A capture of the compute stream into *g, which is empty: a graph up to each gather and one behind
 * the last. s: how it went; what fails leaves *g empty. Launching gathers between the graphs. */
enum pk_status pk_cuda_begin_graphs(struct pk_cuda *c, struct pk_cuda_graphs *g,
                                    struct pk_err *err);
enum pk_status pk_cuda_end_graphs(struct pk_cuda *c, enum pk_status s, struct pk_err *err);
enum pk_status pk_cuda_launch_graphs(struct pk_cuda *c, const struct pk_cuda_graphs *g,
                                     struct pk_err *err);
void pk_cuda_free_graphs(struct pk_cuda_graphs *g);

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
