/* test_executor_stream.cc -- the runtime of the host executor: deferred streams show missing
 * dependencies under one schedule or the other, capture and graphs follow CUDA's rules, memory is
 * checked, failures can be injected. */
#include "tests/cuda_host/executor_case.h"

#include <thread>

namespace
{

enum { N = 64 };

__global__ void twice(float *to, const float *from)
{
    to[threadIdx.x] = 2.0f * from[threadIdx.x];
}
__global__ void add_one(float *x)
{
    x[threadIdx.x] += 1.0f;
}
__global__ void boom(float *x)
{
    if (x) __trap();
}

enum pk_status launch_twice(cudaStream_t stream, float *to, const float *from)
{
    struct pk_queue q = {};
    q.stream = stream;
    return PK_LAUNCH(twice, 1, N, 0, &q, &err_, to, from);
}
enum pk_status launch_add(cudaStream_t stream, float *x)
{
    struct pk_queue q = {};
    q.stream = stream;
    return PK_LAUNCH(add_one, 1, N, 0, &q, &err_, x);
}

struct pipeline { // a copy stream and a compute stream, as the executor has
    cudaStream_t copy, compute;
    cudaEvent_t arrived, computed;
    float *host, *in, *out, *back;
};
void make(pipeline *p, unsigned flags)
{
    OK(cudaStreamCreateWithFlags(&p->copy, flags));
    OK(cudaStreamCreateWithFlags(&p->compute, flags));
    OK(cudaEventCreateWithFlags(&p->arrived, cudaEventDisableTiming));
    OK(cudaEventCreateWithFlags(&p->computed, cudaEventDisableTiming));
    OK(cudaMallocHost(&p->host, N * sizeof(float)));
    OK(cudaMallocHost(&p->back, N * sizeof(float)));
    p->in = device_array<float>(N);
    p->out = device_array<float>(N);
}
void unmake(pipeline *p)
{
    OK(cudaStreamDestroy(p->copy));
    OK(cudaStreamDestroy(p->compute));
    OK(cudaEventDestroy(p->arrived));
    OK(cudaEventDestroy(p->computed));
    OK(cudaFreeHost(p->host));
    OK(cudaFreeHost(p->back));
    OK(cudaFree(p->in));
    OK(cudaFree(p->out));
}

struct mistakes {
    bool no_arrival_wait;  // compute does not wait for the copy
    bool early_host_reuse; // the host refills the pinned buffer without waiting for the copy
    bool early_read;       // the host reads the result without waiting
};

/* Five batches through the pipeline; numbers that came out wrong. */
int wrong_numbers(const mistakes &m, enum pk_host_schedule schedule, uint64_t seed, unsigned flags)
{
    pipeline p;
    int wrong = 0;
    pk_host_schedule(schedule);
    pk_host_seed(seed);
    make(&p, flags);
    for (int batch = 0; batch < 5; batch++) {
        if (batch && !m.early_host_reuse) OK(cudaEventSynchronize(p.arrived));
        for (int i = 0; i < N; i++) p.host[i] = (float)(batch * 100 + i);
        if (batch) OK(cudaStreamWaitEvent(p.copy, p.computed, 0));
        OK(cudaMemcpyAsync(p.in, p.host, N * sizeof(float), cudaMemcpyHostToDevice, p.copy));
        OK(cudaEventRecord(p.arrived, p.copy));
        if (!m.no_arrival_wait) OK(cudaStreamWaitEvent(p.compute, p.arrived, 0));
        CHECK_OK(launch_twice(p.compute, p.out, p.in), &err_);
        OK(cudaEventRecord(p.computed, p.compute));
        OK(cudaMemcpyAsync(p.back, p.out, N * sizeof(float), cudaMemcpyDeviceToHost, p.compute));
        if (m.early_host_reuse)
            for (int i = 0; i < N; i++) p.host[i] = -1.0f;
        if (!m.early_read) OK(cudaStreamSynchronize(p.compute));
        for (int i = 0; i < N; i++)
            if (!(p.back[i] == 2.0f * (float)(batch * 100 + i))) wrong++;
        OK(cudaDeviceSynchronize());
    }
    OK(cudaDeviceSynchronize());
    unmake(&p);
    pk_host_schedule(PK_HOST_SCHEDULE_RANDOM);
    return wrong;
}

void test_pipeline(unsigned flags)
{
    const mistakes none = {};
    for (uint64_t seed = 1; seed <= 20; seed++)
        CHECK(wrong_numbers(none, PK_HOST_SCHEDULE_RANDOM, seed, flags) == 0);
    CHECK(wrong_numbers(none, PK_HOST_SCHEDULE_LATE, 1, flags) == 0);
    CHECK(wrong_numbers(none, PK_HOST_SCHEDULE_EARLY, 1, flags) == 0);
    mistakes m = {};
    m.no_arrival_wait = true;
    CHECK(wrong_numbers(m, PK_HOST_SCHEDULE_LATE, 1, flags) > 0);
    m = {};
    m.early_host_reuse = true;
    CHECK(wrong_numbers(m, PK_HOST_SCHEDULE_LATE, 1, flags) > 0);
    m = {};
    m.early_read = true;
    CHECK(wrong_numbers(m, PK_HOST_SCHEDULE_LATE, 1, flags) > 0);
}

/* A copy into a buffer that a queued kernel has still to read, without a wait for the kernel: right
 * when the kernel happens to run first, wrong when copies run early. */
int overwritten(bool wait, enum pk_host_schedule schedule)
{
    pipeline p;
    int wrong = 0;
    pk_host_schedule(schedule);
    make(&p, cudaStreamNonBlocking);
    for (int i = 0; i < N; i++) p.in[i] = 1.0f, p.host[i] = 50.0f;
    CHECK_OK(launch_twice(p.compute, p.out, p.in), &err_);
    OK(cudaEventRecord(p.computed, p.compute));
    if (wait) OK(cudaStreamWaitEvent(p.copy, p.computed, 0));
    OK(cudaMemcpyAsync(p.in, p.host, N * sizeof(float), cudaMemcpyHostToDevice, p.copy));
    OK(cudaStreamSynchronize(p.compute));
    for (int i = 0; i < N; i++)
        if (!(p.out[i] == 2.0f)) wrong++;
    OK(cudaDeviceSynchronize());
    unmake(&p);
    pk_host_schedule(PK_HOST_SCHEDULE_RANDOM);
    return wrong;
}
void test_overwrite()
{
    CHECK(overwritten(true, PK_HOST_SCHEDULE_EARLY) == 0);
    CHECK(overwritten(true, PK_HOST_SCHEDULE_LATE) == 0);
    CHECK(overwritten(false, PK_HOST_SCHEDULE_EARLY) == N);
    CHECK(overwritten(false, PK_HOST_SCHEDULE_LATE) == 0);
}

/* The legacy stream is ordered with blocking streams and not with the others. */
void test_legacy_stream()
{
    for (int flags = 0; flags < 2; flags++) {
        cudaStream_t s;
        float *x = device_array<float>(N), *y = device_array<float>(N);
        pk_host_schedule(PK_HOST_SCHEDULE_LATE);
        OK(cudaStreamCreateWithFlags(&s, flags ? cudaStreamNonBlocking : cudaStreamDefault));
        OK(cudaMemsetAsync(x, 0, N * sizeof(float), nullptr));
        CHECK_OK(launch_add(s, x), &err_);
        CHECK_OK(launch_twice(nullptr, y, x), &err_);
        OK(cudaStreamSynchronize(nullptr));
        CHECK(y[3] == (flags ? 0.0f : 2.0f));
        OK(cudaStreamDestroy(s));
        OK(cudaFree(x));
        OK(cudaFree(y));
    }
    pk_host_schedule(PK_HOST_SCHEDULE_RANDOM);
}

/* Pageable memory is staged on the way in and waited for on the way out. */
void test_pageable()
{
    float host[N], back[N];
    float *x = device_array<float>(N);
    cudaStream_t s;
    pk_host_schedule(PK_HOST_SCHEDULE_LATE);
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    for (int i = 0; i < N; i++) host[i] = (float)i;
    OK(cudaMemcpyAsync(x, host, sizeof host, cudaMemcpyHostToDevice, s));
    for (int i = 0; i < N; i++) host[i] = -1;
    OK(cudaMemcpyAsync(back, x, sizeof back, cudaMemcpyDefault, s));
    for (int i = 0; i < N; i++) CHECK(back[i] == (float)i);
    OK(cudaHostRegister(back, sizeof back, cudaHostRegisterDefault));
    CHECK(pk_host_pinned_bytes() == sizeof back);
    OK(cudaMemsetAsync(x, 0, sizeof back, s));
    OK(cudaMemcpyAsync(back, x, sizeof back, cudaMemcpyDeviceToHost, s));
    CHECK(back[5] == 5.0f && pk_host_pending() == 2); // pinned now: nothing has run yet
    CHECK(cudaStreamQuery(s) == cudaErrorNotReady && cudaGetLastError() == cudaErrorNotReady);
    while (cudaStreamQuery(s) == cudaErrorNotReady) { // asking makes progress
    }
    (void)cudaGetLastError();
    CHECK(back[5] == 0.0f && pk_host_pending() == 0);
    OK(cudaHostUnregister(back));
    CHECK(cudaHostUnregister(back) == cudaErrorHostMemoryNotRegistered);
    (void)cudaGetLastError();
    OK(cudaStreamDestroy(s));
    OK(cudaFree(x));
    pk_host_schedule(PK_HOST_SCHEDULE_RANDOM);
}

/* ---- capture ---- */

void test_graph()
{
    pipeline p;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t nodes = 0;
    enum cudaStreamCaptureStatus status;
    make(&p, cudaStreamNonBlocking);
    OK(cudaStreamBeginCapture(p.compute, cudaStreamCaptureModeThreadLocal));
    OK(cudaStreamIsCapturing(p.compute, &status));
    CHECK(status == cudaStreamCaptureStatusActive);
    OK(cudaMemcpyAsync(p.in, p.host, N * sizeof(float), cudaMemcpyHostToDevice, p.compute));
    OK(cudaEventRecord(p.arrived, p.compute)); // a fork: the other stream joins the capture
    OK(cudaStreamWaitEvent(p.copy, p.arrived, 0));
    CHECK_OK(launch_twice(p.copy, p.out, p.in), &err_);
    OK(cudaEventRecord(p.computed, p.copy));
    CHECK_OK(launch_add(p.compute, p.in), &err_);
    CHECK_OK(launch_add(p.compute, p.in), &err_);
    OK(cudaStreamWaitEvent(p.compute, p.computed, 0));
    OK(cudaMemcpyAsync(p.back, p.out, N * sizeof(float), cudaMemcpyDeviceToHost, p.compute));
    CHECK(p.out[0] != p.out[0]); // captured, not run
    OK(cudaStreamEndCapture(p.compute, &graph));
    OK(cudaGraphGetNodes(graph, nullptr, &nodes));
    CHECK(nodes == 5);
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    // The fork reads `in` while the other branch adds to it: a race that the schedules show.
    pk_host_schedule(PK_HOST_SCHEDULE_LATE); // the branch captured first runs first
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) p.host[i] = (float)(round + i);
        OK(cudaGraphLaunch(exec, p.compute));
        OK(cudaStreamSynchronize(p.compute));
        for (int i = 0; i < N; i++) {
            CHECK(p.back[i] == 2.0f * (float)(round + i));
            CHECK(p.in[i] == (float)(round + i + 2));
        }
    }
    pk_host_schedule(PK_HOST_SCHEDULE_EARLY);
    OK(cudaGraphLaunch(exec, p.compute));
    OK(cudaStreamSynchronize(p.compute));
    CHECK(p.back[0] == 2.0f * (2 + 2));
    pk_host_schedule(PK_HOST_SCHEDULE_RANDOM);
    OK(cudaGraphExecDestroy(exec));
    unmake(&p);
}

/* One forbidden call while `compute` is being captured: the call's error, then the capture's. */
#define CHECK_FORBIDDEN(mode, call, error, ending)                                                 \
    do {                                                                                           \
        cudaGraph_t g_ = nullptr;                                                                  \
        OK(cudaStreamBeginCapture(p.compute, mode));                                               \
        CHECK_OK(launch_add(p.compute, p.in), &err_);                                              \
        CHECK((call) == (error));                                                                  \
        CHECK(cudaStreamEndCapture(p.compute, &g_) == (ending));                                   \
        if (g_) OK(cudaGraphDestroy(g_));                                                          \
        (void)cudaGetLastError();                                                                  \
    } while (0)

void test_capture_errors()
{
    pipeline p;
    void *memory = nullptr;
    float pageable[N];
    const cudaStreamCaptureMode strict = cudaStreamCaptureModeGlobal,
                                local = cudaStreamCaptureModeThreadLocal,
                                relaxed = cudaStreamCaptureModeRelaxed;
    const cudaError_t invalid = cudaErrorStreamCaptureInvalidated,
                      unsupported = cudaErrorStreamCaptureUnsupported;
    make(&p, cudaStreamNonBlocking);
    pk_host_quiet(true);
    CHECK_FORBIDDEN(strict, cudaMalloc(&memory, 8), unsupported, invalid);
    CHECK_FORBIDDEN(local, cudaMalloc(&memory, 8), unsupported, invalid);
    CHECK_FORBIDDEN(relaxed, cudaMalloc(&memory, 8), cudaSuccess, cudaSuccess);
    OK(cudaFree(memory));
    CHECK_FORBIDDEN(strict, cudaStreamSynchronize(p.compute), unsupported, invalid);
    CHECK_FORBIDDEN(relaxed, cudaStreamSynchronize(p.compute), unsupported, invalid);
    CHECK_FORBIDDEN(strict, cudaStreamQuery(p.compute), unsupported, invalid);
    CHECK_FORBIDDEN(strict, cudaDeviceSynchronize(), unsupported, invalid);
    CHECK_FORBIDDEN(strict, cudaFree(p.out), unsupported, invalid);
    CHECK_FORBIDDEN(strict, cudaMemcpy(p.host, p.in, 4, cudaMemcpyDefault), unsupported, invalid);
    CHECK_FORBIDDEN(strict, cudaMemcpyAsync(pageable, p.in, 4, cudaMemcpyDefault, p.compute),
                    unsupported, invalid);
    CHECK_FORBIDDEN(strict, cudaStreamSynchronize(p.copy), cudaSuccess, cudaSuccess);
    CHECK_FORBIDDEN(strict, cudaEventQuery(p.arrived), unsupported, invalid);
    // An event from before the capture; one recorded in it and then waited for by the host.
    OK(cudaEventRecord(p.arrived, p.copy));
    CHECK_FORBIDDEN(strict, cudaStreamWaitEvent(p.compute, p.arrived, 0),
                    cudaErrorStreamCaptureIsolation, invalid);
    CHECK_FORBIDDEN(strict,
                    (cudaEventRecord(p.computed, p.compute), cudaEventSynchronize(p.computed)),
                    cudaErrorCapturedEvent, invalid);
    // A fork that is never joined.
    CHECK_FORBIDDEN(strict,
                    (cudaEventRecord(p.computed, p.compute),
                     cudaStreamWaitEvent(p.copy, p.computed, 0),
                     launch_add(p.copy, p.out) == PK_OK ? cudaSuccess : cudaErrorUnknown),
                    cudaSuccess, cudaErrorStreamCaptureUnjoined);
    CHECK_FORBIDDEN(local, cudaStreamBeginCapture(p.compute, local), cudaErrorInvalidValue,
                    cudaSuccess);
    CHECK(cudaStreamBeginCapture(nullptr, strict) == unsupported);
    cudaGraph_t g;
    CHECK(cudaStreamEndCapture(p.compute, &g) == cudaErrorInvalidValue);
    // The legacy stream with a blocking stream in capture.
    cudaStream_t blocking;
    OK(cudaStreamCreate(&blocking));
    OK(cudaStreamBeginCapture(blocking, strict));
    CHECK(launch_add(nullptr, p.in) == PK_EDEVICE);
    CHECK(strstr(err_.message, "cudaErrorStreamCaptureImplicit"));
    CHECK(cudaStreamEndCapture(blocking, &g) == invalid);
    OK(cudaStreamDestroy(blocking));
    // Another thread may allocate while this one captures, unless the mode is global.
    for (int global = 0; global < 2; global++) {
        cudaError_t e = cudaErrorUnknown;
        OK(cudaStreamBeginCapture(p.compute, global ? strict : local));
        std::thread([&] { e = cudaMalloc(&memory, 8); }).join();
        CHECK(e == (global ? unsupported : cudaSuccess));
        CHECK(cudaStreamEndCapture(p.compute, &g) == (global ? invalid : cudaSuccess));
        if (!global) OK(cudaGraphDestroy(g));
        if (!global) OK(cudaFree(memory));
    }
    // A thread that says it knows what it does may, too.
    cudaStreamCaptureMode mode = relaxed;
    OK(cudaStreamBeginCapture(p.compute, strict));
    OK(cudaThreadExchangeStreamCaptureMode(&mode));
    OK(cudaMalloc(&memory, 8));
    OK(cudaThreadExchangeStreamCaptureMode(&mode));
    CHECK(mode == relaxed);
    OK(cudaStreamEndCapture(p.compute, &g));
    OK(cudaGraphDestroy(g));
    OK(cudaFree(memory));
    (void)cudaGetLastError();
    pk_host_reset();
    pk_host_quiet(false);
    unmake(&p);
}

/* ---- memory, errors, injected failures ---- */

void test_memory()
{
    size_t free_bytes, total, free_now;
    OK(cudaMemGetInfo(&free_bytes, &total));
    char *x = device_array<char>(1000);
    CHECK(pk_host_device_bytes() == 1000 && pk_host_device_allocations() == 1);
    OK(cudaMemGetInfo(&free_now, &total));
    CHECK(free_bytes - free_now == 1000 && (uintptr_t)x % 256 == 0);
    char host[16];
    pk_host_quiet(true);
    CHECK(cudaMemcpy(x + 990, host, 11, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(strstr(pk_host_error(), "no device memory of that size"));
    OK(cudaMemcpy(x + 989, host, 11, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(x, host, 4, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemset(x + 1, 0, 1000) == cudaErrorInvalidValue);
    CHECK(cudaMemset(host, 0, 4) == cudaErrorInvalidValue);
    CHECK(cudaFree(x + 1) == cudaErrorInvalidValue);
    OK(cudaFree(x));
    CHECK(cudaFree(x) == cudaErrorInvalidValue && strstr(pk_host_error(), "cudaFree"));
    OK(cudaFree(nullptr));
    pk_host_memory(1 << 20);
    void *p = nullptr, *q = nullptr;
    OK(cudaMalloc(&p, 1 << 19));
    CHECK(cudaMalloc(&q, (1 << 19) + 1) == cudaErrorMemoryAllocation && !q);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
    OK(cudaMalloc(&q, 1 << 19));
    OK(cudaFree(p));
    OK(cudaFree(q));
    pk_host_reset();
    pk_host_quiet(false);
    CHECK(pk_host_device_bytes() == 0);
}

void test_sticky_error()
{
    struct pk_queue q = {};
    float *x = device_array<float>(N);
    void *p;
    pk_host_quiet(true);
    pk_host_schedule(PK_HOST_SCHEDULE_LATE);
    CHECK(PK_LAUNCH(boom, 2, N, 0, &q, &err_, x) == PK_OK); // found when it runs
    CHECK(cudaStreamSynchronize(nullptr) == cudaErrorLaunchFailure);
    CHECK(cudaMalloc(&p, 8) == cudaErrorLaunchFailure); // and by every later call
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
    CHECK(launch_add(nullptr, x) == PK_EDEVICE);
    CHECK(strstr(pk_host_error(), "kernel boom"));
    pk_host_reset();
    pk_host_quiet(false);
    pk_host_schedule(PK_HOST_SCHEDULE_RANDOM);
    OK(cudaFree(x));
}

void test_injection()
{
    int n = -1;
    void *p = nullptr;
    float *x = device_array<float>(N);
    pk_host_device(PK_HOST_NO_DEVICE);
    CHECK(cudaGetDeviceCount(&n) == cudaErrorNoDevice && n == 0);
    CHECK(cudaSetDevice(0) == cudaErrorNoDevice);
    pk_host_device(PK_HOST_OLD_DRIVER);
    CHECK(cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver);
    OK(cudaDriverGetVersion(&n));
    CHECK(n > 0 && n < CUDART_VERSION);
    pk_host_device(PK_HOST_NO_DRIVER);
    CHECK(cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver);
    OK(cudaDriverGetVersion(&n));
    CHECK(n == 0);
    pk_host_reset();
    OK(cudaGetDeviceCount(&n));
    CHECK(n == 1 && cudaSetDevice(1) == cudaErrorInvalidDevice);
    pk_host_fail_call("cudaMalloc", 2, cudaErrorMemoryAllocation);
    OK(cudaMalloc(&p, 8));
    OK(cudaFree(p));
    CHECK(cudaMalloc(&p, 8) == cudaErrorMemoryAllocation);
    OK(cudaMalloc(&p, 8));
    OK(cudaFree(p));
    (void)cudaGetLastError();
    pk_host_fail_call("PK_LAUNCH", 1, cudaErrorLaunchOutOfResources);
    CHECK_FAILS(launch_add(nullptr, x), PK_EDEVICE, &err_, "cudaErrorLaunchOutOfResources");
    CHECK_OK(launch_add(nullptr, x), &err_);
    struct cudaDeviceProp prop;
    pk_host_device_facts(80, 108);
    OK(cudaGetDeviceProperties(&prop, 0));
    CHECK(prop.major == 8 && prop.minor == 0 && prop.multiProcessorCount == 108);
    OK(cudaDeviceGetAttribute(&n, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    CHECK(n == 227 * 1024);
    CHECK(!strcmp(cudaGetErrorName(cudaErrorNotReady), "cudaErrorNotReady"));
    CHECK(!strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory"));
    pk_host_reset();
    OK(cudaFree(x));
}

void test_events()
{
    cudaEvent_t a, b;
    float ms = -1, *x = device_array<float>(N);
    cudaStream_t s;
    pk_host_schedule(PK_HOST_SCHEDULE_LATE);
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    OK(cudaEventCreate(&a));
    OK(cudaEventCreate(&b));
    OK(cudaEventQuery(a)); // never recorded: done
    OK(cudaEventSynchronize(a));
    OK(cudaMemsetAsync(x, 0, N * sizeof(float), s));
    OK(cudaEventRecord(a, s));
    CHECK_OK(launch_add(s, x), &err_);
    OK(cudaEventRecord(b, s));
    CHECK(cudaEventElapsedTime(&ms, a, b) == cudaErrorNotReady);
    OK(cudaEventSynchronize(a));
    CHECK(x[0] == 0.0f); // only what came before it
    OK(cudaEventSynchronize(b));
    CHECK(x[0] == 1.0f);
    OK(cudaEventElapsedTime(&ms, a, b));
    CHECK(ms >= 0 && ms < 10000);
    (void)cudaGetLastError();
    OK(cudaEventDestroy(a));
    OK(cudaEventDestroy(b));
    CHECK(cudaEventDestroy(b) == cudaErrorInvalidResourceHandle);
    CHECK(cudaStreamSynchronize((cudaStream_t)&ms) == cudaErrorInvalidResourceHandle);
    (void)cudaGetLastError();
    OK(cudaStreamDestroy(s));
    OK(cudaFree(x));
    pk_host_schedule(PK_HOST_SCHEDULE_RANDOM);
}

} // namespace

int main()
{
    test_pipeline(cudaStreamNonBlocking);
    test_pipeline(cudaStreamDefault);
    test_overwrite();
    test_legacy_stream();
    test_pageable();
    test_graph();
    test_capture_errors();
    test_memory();
    test_sticky_error();
    test_injection();
    test_events();
    CHECK(pk_host_device_allocations() == 0);
    CHECK(pk_host_pinned_bytes() == 0);
    CHECK(pk_host_live_handles() == 0);
    return TEST_END();
}
