/* op_device.c -- the CUDA side of op_device.h, for the host executor and for a GPU.
 *
 * On the host executor a device buffer is an allocation of its own, so that ASan sees a kernel that
 * leaves it; the device it claims to be is small (few multiprocessors), so that blocks get more than
 * one share of the work. */
#include "tests/op/op_device.h"

#include "cuda/queue.h"

#include <string.h>
#ifndef PK_TEST_DEVICE
#include "tests/cuda_host/host.h"
#endif

_Static_assert((int)OP_FAULT_INDEX == PK_FAULT_INDEX && (int)OP_FAULT_WINDOW == PK_FAULT_WINDOW &&
                   (int)OP_FAULT_LABEL == PK_FAULT_LABEL,
               "op_fault_code repeats pk_cuda_fault_code");

static struct pk_queue queue;
static bool open_;

static void need(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

#ifdef PK_TEST_DEVICE
static void *take(size_t bytes)
{
    void *p = NULL;
    need(cudaMallocManaged(&p, PK_MAX(bytes, 1u), cudaMemAttachGlobal), "managed memory");
    return p;
}

static void describe(struct pk_queue *q)
{
    struct cudaDeviceProp d;
    int count = 0;
    const cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess || count < 1) {
        fprintf(stderr, "skipped: no CUDA device (%s)\n", cudaGetErrorString(e));
        exit(77);
    }
    need(cudaGetDeviceProperties(&d, 0), "device 0");
    need(cudaSetDevice(0), "device 0");
    q->sms = d.multiProcessorCount;
    q->arch = 10 * d.major + d.minor;
    q->shared_max = (int64_t)d.sharedMemPerBlockOptin;
    need(cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking), "stream");
}
#else
static void *take(size_t bytes)
{
    void *p = NULL;
    if (pk_alloc_aligned(&p, PK_MAX(bytes, 1u), 1, "test buffer", NULL) != PK_OK) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static void describe(struct pk_queue *q)
{
    q->sms = 3;
    q->arch = 80;
    q->shared_max = 227 * 1024;
}
#endif

static struct pk_queue *ready(void)
{
    if (open_) return &queue;
    open_ = true;
    describe(&queue);
    queue.fault = take(sizeof *queue.fault);
    memset(queue.fault, 0, sizeof *queue.fault);
    return &queue;
}

struct pk_queue *op_device_queue(void)
{
    return ready();
}

void *op_device_alloc(size_t bytes)
{
    ready();
    return take(bytes);
}

void op_device_free(void *p)
{
#ifdef PK_TEST_DEVICE
    if (p) need(cudaFree(p), "free");
#else
    free(p);
#endif
}

enum pk_status op_device_sync(struct pk_err *err)
{
    const cudaError_t e = cudaStreamSynchronize(ready()->stream);
    if (e == cudaSuccess) return PK_OK;
    return pk_fail(err, PK_EDEVICE, "a kernel crashed: %s", cudaGetErrorString(e));
}

struct op_fault op_device_fault(void)
{
    const struct pk_cuda_fault f = *ready()->fault;
    memset(queue.fault, 0, sizeof *queue.fault);
    return (struct op_fault){(enum op_fault_code)f.code, f.record, f.value};
}

void op_device_order(int turn)
{
#ifndef PK_TEST_DEVICE
    pk_host_order(turn);
#else
    (void)turn;
#endif
}
