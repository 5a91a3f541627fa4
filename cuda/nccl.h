/* nccl.h -- collectives over the GPUs of several ranks, by NCCL.
 *
 * The library is loaded at run time, and nccl.h is not needed to build: one binary runs with and
 * without it. Any version from 2.14 on, the first with communicators that never block; what is
 * declared in nccl.c is what that version has.
 *
 * Nothing here blocks for ever. The communicator is non-blocking: a call that takes longer is
 * polled, and so is every wait of the executor for something that may hang on another rank. Each
 * poll asks NCCL for errors, and whether pk_comm_abort was called here, as the heartbeat does for
 * every rank when one has died. Either aborts the communicator, which ends its kernels on this
 * device, and every later call fails with the same words. One thread uses a pk_nccl. */
#ifndef PK_CUDA_NCCL_H
#define PK_CUDA_NCCL_H

#include "core/comm.h"
#include "core/prog.h"

#include <cuda_runtime_api.h>

struct pk_nccl;

enum pk_nccl_type { PK_NCCL_F32, PK_NCCL_BF16, PK_NCCL_F64 };

enum pk_nccl_kind {
    PK_NCCL_SUM,    // data becomes its sum over ranks
    PK_NCCL_REDUCE, // at rank root; elsewhere nobody may read it again before writing it
    PK_NCCL_SHARE,  // data becomes that of rank root
    PK_NCCL_GATHER  // data [ranks][count]: each rank has its own part, and gets the others'
};

struct pk_nccl_range { // of device memory; what happens to it happens in place
    void *data;
    int64_t count; // elements
    enum pk_nccl_type type;
    enum pk_nccl_kind kind;
    int root;
};

/* Joins this thread's current device to those of the other ranks; a collective over host, which is
 * borrowed and carries the id. Where it fails on one rank it fails on all, told whose fault it is.
 * Errors  PK_EMISSING no library, or one that is too old;  PK_ERANK */
enum pk_status pk_nccl_open(struct pk_nccl **out, struct pk_comm *host, struct pk_err *err);
/* Waits for what is under way, at most some seconds, or aborts it where something has failed, so
 * that the device can be synchronised afterwards. NULL is fine. */
void pk_nccl_close(struct pk_nccl *n);
/* Before somebody waits for the device without polling: waits for a stream that collectives were
 * put into, at most some seconds, or aborts where something has failed. */
void pk_nccl_settle(struct pk_nccl *n, cudaStream_t stream);

/* Every range's collective, after all that the stream holds so far, as one group. Enqueued when
 * this returns. All ranks give the same ranges in the same order; calls for several streams are
 * carried out in the order in which they were made. what: for the message. */
enum pk_status pk_nccl_collect(struct pk_nccl *n, const struct pk_nccl_range *range, int ranges,
                               cudaStream_t stream, const char *what, struct pk_err *err);

/* cudaEventSynchronize and cudaStreamSynchronize that end with PK_ERANK when a rank is gone. */
enum pk_status pk_nccl_wait_event(struct pk_nccl *n, cudaEvent_t e, const char *what,
                                  struct pk_err *err);
enum pk_status pk_nccl_wait_stream(struct pk_nccl *n, cudaStream_t s, const char *what,
                                   struct pk_err *err);

/* "2.27.3" */
void pk_nccl_version(const struct pk_nccl *n, struct pk_text *out);
/* A line on the library that would be loaded, or why there is none. */
void pk_nccl_report(struct pk_text *out);

#endif
