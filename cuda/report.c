/* report.c -- what 'purkinje doctor' says about the GPU. */
#include "cuda/backend.h"
#include "cuda/matmul.h"
#include "cuda/nccl.h"
#include "cuda/state.h"

#include <stdlib.h>

static void add_version(struct pk_text *out, const char *name, int version, const char *none)
{
    if (version > 0)
        pk_text_add(out, "%-12s CUDA %d.%d\n", name, version / 1000, version % 1000 / 10);
    else
        pk_text_add(out, "%-12s %s\n", name, none);
}

static int add_devices(struct pk_text *out)
{
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess) devices = 0;
    for (int i = 0; i < devices; i++) {
        struct cudaDeviceProp p;
        size_t available = 0, all = 0;
        if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
        if (cudaSetDevice(i) == cudaSuccess) cudaMemGetInfo(&available, &all);
        pk_text_add(out,
                    "gpu %-8d %s, compute capability %d.%d, %d multiprocessors, %.1f of %.1f GiB "
                    "free\n",
                    i, p.name, p.major, p.minor, p.multiProcessorCount,
                    (double)available / 1073741824.0, (double)p.totalGlobalMem / 1073741824.0);
    }
    if (devices) cudaSetDevice(0);
    return devices;
}

/* `turns` copies from one half of memory to the other, and back. */
static enum pk_status time_copies(char *memory, size_t bytes, int turns, cudaEvent_t from,
                                  cudaEvent_t to, double *seconds, struct pk_err *err)
{
    float ms = 0;
    PK_TRY(pk_cuda_check(cudaEventRecord(from, NULL), "event", err));
    for (int i = 0; i < turns; i++)
        PK_TRY(pk_cuda_check(cudaMemcpyAsync(memory + (i & 1 ? bytes : 0),
                                             memory + (i & 1 ? 0 : bytes), bytes,
                                             cudaMemcpyDeviceToDevice, NULL),
                             "copy", err));
    PK_TRY(pk_cuda_check(cudaEventRecord(to, NULL), "event", err));
    PK_TRY(pk_cuda_check(cudaEventSynchronize(to), "copy", err));
    PK_TRY(pk_cuda_check(cudaEventElapsedTime(&ms, from, to), "event", err));
    *seconds = 1e-3 * (double)ms;
    return PK_OK;
}

/* Copy bandwidth in bytes read and written per second, on 1 GiB for about 0.1 s. */
static enum pk_status copy_ceiling(double *bytes_per_s, struct pk_err *err)
{
    enum { WARM = 4, TURNS = 200 };
    const size_t bytes = (size_t)512 << 20;
    char *memory = NULL;
    double seconds = 0;
    int turns = WARM;
    cudaEvent_t from = NULL, to = NULL;
    enum pk_status s = pk_cuda_check(cudaMalloc((void **)&memory, 2 * bytes), "1 GiB", err);
    if (s == PK_OK) s = pk_cuda_check(cudaEventCreate(&from), "event", err);
    if (s == PK_OK) s = pk_cuda_check(cudaEventCreate(&to), "event", err);
    if (s == PK_OK) s = time_copies(memory, bytes, WARM, from, to, &seconds, err);
    if (s == PK_OK && seconds < 0.1) { // a GPU; on the host executor that was enough
        turns = TURNS;
        s = time_copies(memory, bytes, TURNS, from, to, &seconds, err);
    }
    if (s == PK_OK) *bytes_per_s = 2.0 * (double)bytes * turns / seconds;
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    cudaFree(memory);
    return s;
}

enum pk_status pk_cuda_rates(double *bytes_per_s, double *flops_per_s, struct pk_err *err)
{
    PK_TRY(pk_cuda_check(cudaSetDevice(0), "device 0", err));
    PK_TRY(copy_ceiling(bytes_per_s, err));
    return pk_matmul_ceiling(flops_per_s, err);
}

static void add_ceilings(struct pk_text *out)
{
    double copied = 0, product = 0;
    struct pk_err err = {0};
    if (copy_ceiling(&copied, &err) == PK_OK)
        pk_text_add(out, "%-12s %.2f TB/s read and written\n", "gpu copy", 1e-12 * copied);
    else
        pk_text_add(out, "%-12s not measured: %s\n", "gpu copy", err.message);
    if (pk_matmul_ceiling(&product, &err) == PK_OK)
        pk_text_add(out, "%-12s %.0f TFLOP/s in bf16, random data\n", "gpu gemm", 1e-12 * product);
    else
        pk_text_add(out, "%-12s not measured: %s\n", "gpu gemm", err.message);
}

void pk_cuda_report(struct pk_text *out, bool measure)
{
    int driver = 0, runtime = 0;
    struct pk_err why = {0};
    if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
    cudaRuntimeGetVersion(&runtime);
    add_version(out, "gpu driver", driver, "none is loaded");
    add_version(out, "gpu runtime", runtime, "unknown");
    pk_matmul_describe(out);
    pk_nccl_report(out);
    add_devices(out);
    if (pk_cuda_usable(&why) != PK_OK)
        pk_text_add(out, "%-12s not usable: %s\n", "cuda", why.message);
    else if (measure)
        add_ceilings(out);
}
