/* op_device.c -- the CUDA side of op_device.h, for the host executor and for a GPU: one device, one
 * stream, and a fault record that kernels write into. */
#include "tests/op/op_device.h"

#include "cuda/conv.h"
#include "cuda/matmul.h"

#include <string.h>
#ifndef PK_TEST_DEVICE
#include "tests/cuda_host/include/pk_host.h"
#endif

_Static_assert((int)OP_FAULT_INDEX == PK_FAULT_INDEX && (int)OP_FAULT_WINDOW == PK_FAULT_WINDOW &&
                   (int)OP_FAULT_LABEL == PK_FAULT_LABEL,
               "op_fault_code repeats pk_cuda_fault_code");

static struct pk_queue queue;
static bool open_;
static int64_t shared_max;

static void need(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

/* On the host executor all device memory can be read by the host. */
static void *take(size_t bytes)
{
    void *p = NULL;
#ifdef PK_TEST_DEVICE
    need(cudaMallocManaged(&p, PK_MAX(bytes, 1u), cudaMemAttachGlobal), "managed memory");
#else
    need(cudaMalloc(&p, PK_MAX(bytes, 1u)), "device memory");
#endif
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
    need(cudaSetDevice(0), "device 0");
    need(cudaGetDeviceProperties(&d, 0), "device 0");
    q->sms = d.multiProcessorCount;
    q->arch = 10 * d.major + d.minor;
    q->shared_max = shared_max = (int64_t)d.sharedMemPerBlockOptin;
    need(cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking), "stream");
}

struct pk_queue *op_device_queue(void)
{
    if (open_) return &queue;
    open_ = true;
    describe(&queue);
    queue.fault = take(sizeof *queue.fault);
    memset(queue.fault, 0, sizeof *queue.fault);
    return &queue;
}

/* The environment says `own` by itself where it says nothing: the kernels are what is tested. */
enum pk_status op_device_prepare(const struct pk_call *c, struct pk_err *err)
{
    struct pk_queue *q = op_device_queue();
    if (!getenv("PURKINJE_GEMM") && !getenv("PURKINJE_CONV")) return PK_OK;
    if (!q->matmul) PK_TRY(pk_matmul_open(&q->matmul, q, err));
    PK_TRY(pk_matmul_prepare(q, c, err));
    PK_TRY(pk_conv_prepare(q, c, err));
    return op_device_sync(err);
}

void *op_device_alloc(size_t bytes)
{
    op_device_queue();
    return take(bytes);
}

void op_device_free(void *p)
{
    if (p) need(cudaFree(p), "free");
}

enum pk_status op_device_sync(struct pk_err *err)
{
    const cudaError_t e = cudaStreamSynchronize(op_device_queue()->stream);
    if (e == cudaSuccess) return PK_OK;
    return pk_fail(err, PK_EDEVICE, "a kernel crashed: %s", cudaGetErrorString(e));
}

struct op_fault op_device_fault(void)
{
    const struct pk_cuda_fault f = *op_device_queue()->fault;
    memset(queue.fault, 0, sizeof *queue.fault);
    return (struct op_fault){(enum op_fault_code)f.code, f.node, f.record, f.value};
}

void op_device_order(int turn)
{
#ifndef PK_TEST_DEVICE
    pk_host_order(turn ? PK_HOST_RANDOM : PK_HOST_ASCENDING);
#else
    (void)turn;
#endif
}

void op_device_shared(int64_t bytes)
{
    op_device_queue()->shared_max = PK_MIN(bytes, shared_max);
}
