/* report.c -- what 'purkinje doctor' says about the GPU. */
#include "cuda/backend.h"
#include "cuda/matmul.h"

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

/* Copy bandwidth in bytes read and written per second, on 1 GiB for about 0.1 s. */
static enum pk_status copy_ceiling(double *bytes_per_s, struct pk_err *err)
{
    enum { TURNS = 200 };
    const size_t bytes = (size_t)512 << 20;
    char *memory = NULL;
    float ms = 0;
    cudaEvent_t from = NULL, to = NULL;
    enum pk_status s = pk_cuda_check(cudaMalloc((void **)&memory, 2 * bytes), "1 GiB", err);
    if (s == PK_OK) s = pk_cuda_check(cudaEventCreate(&from), "event", err);
    if (s == PK_OK) s = pk_cuda_check(cudaEventCreate(&to), "event", err);
    for (int i = -3; s == PK_OK && i < TURNS; i++) {
        if (i == 0) s = pk_cuda_check(cudaEventRecord(from, NULL), "event", err);
        if (s == PK_OK)
            s = pk_cuda_check(cudaMemcpyAsync(memory + (i & 1 ? bytes : 0),
                                              memory + (i & 1 ? 0 : bytes), bytes,
                                              cudaMemcpyDeviceToDevice, NULL),
                              "copy", err);
    }
    if (s == PK_OK) s = pk_cuda_check(cudaEventRecord(to, NULL), "event", err);
    if (s == PK_OK) s = pk_cuda_check(cudaEventSynchronize(to), "copy", err);
    if (s == PK_OK) s = pk_cuda_check(cudaEventElapsedTime(&ms, from, to), "event", err);
    if (s == PK_OK) *bytes_per_s = 2.0 * (double)bytes * TURNS / (1e-3 * (double)ms);
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    cudaFree(memory);
    return s;
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
    add_devices(out);
    if (pk_cuda_usable(&why) != PK_OK)
        pk_text_add(out, "%-12s not usable: %s\n", "cuda", why.message);
    else if (measure)
        add_ceilings(out);
}
