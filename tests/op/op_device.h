/* op_device.h -- where the buffers of an op test lie and how a call reaches its device.
 *
 * The same test sources make three programs:
 *     test_X             CPU tables, ordinary memory, no queue
 *     test_X_cuda_host   PK_TEST_CUDA: the CUDA table compiled for the host (tests/cuda_host/),
 * where device memory is ordinary memory, so that ASan watches the kernels test_X_cuda PK_TEST_CUDA
 * and PK_TEST_DEVICE: a real GPU. Managed memory, which the test reads directly after
 * op_device_sync; exits 77 where there is no device
 *
 * The CUDA versions of these functions are in op_device.c, the one file of the tests that sees CUDA
 * headers. */
#ifndef PK_OP_DEVICE_H
#define PK_OP_DEVICE_H

#include "core/base.h"

#include <stdlib.h>

struct pk_call;
struct pk_queue;

/* What a kernel found wrong in its data, as enum pk_cuda_fault_code. */
enum op_fault_code { OP_FAULT_NONE, OP_FAULT_INDEX, OP_FAULT_WINDOW, OP_FAULT_LABEL };
struct op_fault {
    enum op_fault_code code;
    int32_t node; // pk_node.scope
    int64_t record, value;
};

#ifdef PK_TEST_CUDA
/* Memory that kernels and the test both see, 64-byte aligned; ends the program when there is none.
 * The first call of any of these opens the device. */
void *op_device_alloc(size_t bytes);
void op_device_free(void *p);
struct pk_queue *op_device_queue(void);
/* Waits for all calls; PK_EDEVICE when a kernel crashed. */
enum pk_status op_device_sync(struct pk_err *err);
/* What kernels raised since the last call of this, after op_device_sync. */
struct op_fault op_device_fault(void);
/* Host executor: blocks and threads run in order in turn 0, in random order in turn 1. Nothing on a
 * GPU. */
void op_device_order(int turn);
/* What binding a program does for a call: with PURKINJE_GEMM or PURKINJE_CONV set, chooses who
 * computes it. May write the outputs, and under `tune` the inputs. */
enum pk_status op_device_prepare(const struct pk_call *c, struct pk_err *err);
/* From now on kernels are told that a block may have this much shared memory, or what the device
 * has if that is less. */
void op_device_shared(int64_t bytes);
#else
static inline void *op_device_alloc(size_t bytes)
{
    void *p = NULL;
    if (pk_alloc_aligned(&p, (size_t)PK_MAX(bytes, 1u), 1, "test buffer", NULL) != PK_OK) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}
static inline void op_device_free(void *p)
{
    free(p);
}
static inline struct pk_queue *op_device_queue(void)
{
    return NULL;
}
static inline enum pk_status op_device_sync(struct pk_err *err)
{
    (void)err;
    return PK_OK;
}
static inline struct op_fault op_device_fault(void)
{
    return (struct op_fault){OP_FAULT_NONE, 0, 0, 0};
}
static inline void op_device_order(int turn)
{
    (void)turn;
}
static inline enum pk_status op_device_prepare(const struct pk_call *c, struct pk_err *err)
{
    (void)c, (void)err;
    return PK_OK;
}
static inline void op_device_shared(int64_t bytes)
{
    (void)bytes;
}
#endif

#endif
