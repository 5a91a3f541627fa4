/* runtime.cc -- the rest of the runtime API: errors, device, memory, copies, kernel launches, and
 * the executor's settings (pk_host.h). */
#include "tests/cuda_host/stream.h"

#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace pk_host
{
namespace
{

thread_local cudaError_t last_error;

typedef std::map<uintptr_t, size_t> ranges;

/* The range that holds [p, p + bytes), as an iterator; end() when none does. */
ranges::const_iterator find_range(const ranges &r, const void *p, size_t bytes)
{
    const uintptr_t at = reinterpret_cast<uintptr_t>(p);
    ranges::const_iterator i = r.upper_bound(at);
    if (i == r.begin()) return r.end();
    --i;
    // One past the end belongs to no range unless nothing is asked for.
    if (at > i->first + i->second || bytes > i->first + i->second - at) return r.end();
    if (at == i->first + i->second && bytes) return r.end();
    return i;
}
bool on_device(const void *p, size_t bytes)
{
    return find_range(ctx().device, p, bytes) != ctx().device.end();
}
bool is_pinned(const void *p, size_t bytes)
{
    context &c = ctx();
    return find_range(c.pinned, p, bytes) != c.pinned.end() ||
           find_range(c.registered, p, bytes) != c.registered.end();
}

std::string text_of(const char *format, ...) __attribute__((format(printf, 1, 2)));
std::string text_of(const char *format, ...)
{
    char line[512];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    return line;
}

/* What is wrong with a launch; "" when nothing. */
std::string check_launch(const void *kernel, const char *name, const extent &g, const extent &t,
                         int64_t shared, cudaError_t *error)
{
    context &c = ctx();
    *error = cudaErrorInvalidConfiguration;
    if (g.x < 1 || g.y < 1 || g.z < 1 || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535)
        return text_of("kernel %s: grid of %" PRId64 " x %" PRId64 " x %" PRId64
                       " blocks (at least 1, at most 2147483647 x 65535 x 65535)",
                       name, g.x, g.y, g.z);
    if (t.x < 1 || t.y < 1 || t.z < 1 || t.x > 1024 || t.y > 1024 || t.z > 64 ||
        t.x * t.y * t.z > MAX_THREADS)
        return text_of("kernel %s: block of %" PRId64 " x %" PRId64 " x %" PRId64
                       " threads (1 to 1024, z at most 64)",
                       name, t.x, t.y, t.z);
    *error = cudaErrorInvalidValue;
    if (shared < 0 || shared > SHARED_LIMIT)
        return text_of("kernel %s: %" PRId64 " bytes of shared memory (at most %d)", name, shared,
                       static_cast<int>(SHARED_LIMIT));
    const auto raised = c.shared_limit.find(kernel);
    const int64_t limit = raised == c.shared_limit.end() ? SHARED_DEFAULT : raised->second;
    if (shared > limit && shared > SHARED_DEFAULT)
        return text_of("kernel %s: %" PRId64 " bytes of shared memory without raising "
                       "cudaFuncAttributeMaxDynamicSharedMemorySize (now %" PRId64 ")",
                       name, shared, limit);
    *error = cudaSuccess;
    return "";
}

} // namespace

api::api(const char *function, bool needs_device) : hold(ctx().lock), error(cudaSuccess)
{
    context &c = ctx();
    const auto f = c.failures.find(function);
    if (f != c.failures.end() && --f->second.left == 0) {
        error = f->second.error;
        c.failures.erase(f);
        return;
    }
    if (!needs_device) return;
    if (c.state == PK_HOST_NO_DEVICE) error = cudaErrorNoDevice;
    if (c.state == PK_HOST_NO_DRIVER || c.state == PK_HOST_OLD_DRIVER)
        error = cudaErrorInsufficientDriver;
    if (!error) error = c.sticky;
}

void forget_last_error()
{
    last_error = cudaSuccess;
}

cudaError_t give(cudaError_t e)
{
    if (e) last_error = e;
    return e;
}

void report(const std::string &text)
{
    ctx().error = text;
    if (!ctx().quiet) fprintf(stderr, "CUDA host executor: %s\n", text.c_str());
}

void enqueue_kernel(const void *kernel, const char *name, extent grid, extent block,
                    int64_t shared_bytes, cudaStream_t stream, invoke_function invoke,
                    discard_function discard, void *call)
{
    const std::shared_ptr<void> arguments(call, discard);
    api a("PK_LAUNCH");
    context &c = ctx();
    cudaError_t e = a.error;
    if (!e) {
        const std::string wrong = check_launch(kernel, name, grid, block, shared_bytes, &e);
        if (e) report(wrong);
    }
    pk_host_stream *s = find_stream(stream);
    if (!e && !s) e = cudaErrorInvalidResourceHandle;
    if (e) {
        give(e);
        return;
    }
    kernel_run k = {};
    k.name = name; // a literal of PK_LAUNCH
    k.grid = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                  static_cast<unsigned>(grid.z));
    k.block = dim3(static_cast<unsigned>(block.x), static_cast<unsigned>(block.y),
                   static_cast<unsigned>(block.z));
    k.shared_bytes = static_cast<size_t>(shared_bytes);
    k.invoke = invoke;
    give(enqueue(s, [k, arguments, &c]() mutable {
        if (c.sticky) return;
        k.call = arguments.get();
        k.order = c.order == PK_HOST_ASCENDING    ? ASCENDING
                  : c.order == PK_HOST_DESCENDING ? DESCENDING
                  : c.order == PK_HOST_RANDOM     ? SHUFFLED
                  : c.launches % 2                ? DESCENDING
                                                  : ASCENDING;
        k.seed = next_random(c);
        c.launches++;
        const std::string wrong = run_kernel(k);
        if (wrong.empty()) return;
        report(wrong);
        c.sticky = cudaErrorLaunchFailure;
    }));
}

namespace
{

cudaError_t copy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, pk_host_stream *s,
                 bool wait)
{
    const bool to_device = on_device(to, bytes), from_device = on_device(from, bytes);
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    if (!bytes) return cudaSuccess;
    if (!to || !from) return cudaErrorInvalidValue;
    const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault && (wants_to != to_device || wants_from != from_device)) {
        report(text_of("copy of %zu bytes from %p to %p: kind %d, but the source is %s and the "
                       "destination %s",
                       bytes, from, to, static_cast<int>(kind),
                       from_device ? "device memory" : "no device memory of that size",
                       to_device ? "device memory" : "no device memory of that size"));
        return cudaErrorInvalidValue;
    }
    if (from_device && !to_device) ctx().copies_out++;
    const bool pageable =
        (!to_device && !is_pinned(to, bytes)) || (!from_device && !is_pinned(from, bytes));
    if (s->capture) {
        if (pageable) { // stricter than CUDA: a graph must not depend on pageable memory
            s->capture->invalid = true;
            report("copy to or from pageable memory while its stream is being captured");
            return cudaErrorStreamCaptureUnsupported;
        }
        return enqueue(s, [=] { memcpy(to, from, bytes); });
    }
    cudaError_t e;
    pk_host_work_ptr w;
    if (!from_device && pageable && to_device) { // staged before the call returns
        const char *first = static_cast<const char *>(from);
        auto staged = std::make_shared<std::vector<char>>(first, first + bytes);
        e = enqueue(
            s, [=] { memcpy(to, staged->data(), bytes); }, &w);
    } else {
        e = enqueue(
            s, [=] { memcpy(to, from, bytes); }, &w);
    }
    if (e) return e;
    const bool between_host = !to_device && !from_device;
    if ((wait && !(to_device && from_device)) || between_host || (from_device && pageable)) {
        force(w);
        return ctx().sticky;
    }
    return cudaSuccess;
}

cudaError_t fill(void *p, int value, size_t bytes, pk_host_stream *s)
{
    if (!bytes) return cudaSuccess;
    if (!on_device(p, bytes)) {
        report(text_of("memset of %zu bytes at %p, which are no device memory", bytes, p));
        return cudaErrorInvalidValue;
    }
    return enqueue(s, [=] { memset(p, value, bytes); });
}

cudaError_t make_pinned(void **p, size_t bytes)
{
    if (!p) return cudaErrorInvalidValue;
    *p = nullptr;
    if (!bytes) return cudaSuccess;
    if (cudaError_t e = forbid_capture()) return e;
    if (posix_memalign(p, 4096, bytes) != 0) return cudaErrorMemoryAllocation;
    memset(*p, 0xff, bytes);
    ctx().pinned[reinterpret_cast<uintptr_t>(*p)] = bytes;
    return cudaSuccess;
}

} // namespace
} // namespace pk_host

using namespace pk_host;

extern "C" {

cudaError_t cudaGetLastError(void)
{
    const cudaError_t e = last_error;
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    last_error = ctx().sticky;
    return e;
}
cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}
const char *cudaGetErrorName(cudaError_t error)
{
    switch (static_cast<int>(error)) {
#define PK_X(name, number, text)                                                                   \
    case number:                                                                                   \
        return #name;
        PK_HOST_ERRORS(PK_X)
#undef PK_X
    }
    return "unrecognized error code";
}
const char *cudaGetErrorString(cudaError_t error)
{
    switch (static_cast<int>(error)) {
#define PK_X(name, number, text)                                                                   \
    case number:                                                                                   \
        return text;
        PK_HOST_ERRORS(PK_X)
#undef PK_X
    }
    return "unrecognized error code";
}

cudaError_t cudaDriverGetVersion(int *version)
{
    api a("cudaDriverGetVersion", false);
    if (a.error || !version) return give(a.error ? a.error : cudaErrorInvalidValue);
    const enum pk_host_device s = ctx().state;
    *version = s == PK_HOST_NO_DRIVER ? 0 : s == PK_HOST_OLD_DRIVER ? 11040 : CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version)
{
    api a("cudaRuntimeGetVersion", false);
    if (a.error || !version) return give(a.error ? a.error : cudaErrorInvalidValue);
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *count)
{
    api a("cudaGetDeviceCount");
    if (!count) return give(cudaErrorInvalidValue);
    *count = a.error ? 0 : 1;
    return give(a.error);
}
cudaError_t cudaGetDevice(int *device)
{
    api a("cudaGetDevice");
    if (a.error || !device) return give(a.error ? a.error : cudaErrorInvalidValue);
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device)
{
    api a("cudaSetDevice");
    return give(a.error ? a.error : device ? cudaErrorInvalidDevice : cudaSuccess);
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    api a("cudaGetDeviceProperties");
    if (a.error) return give(a.error);
    if (!p || device) return give(p ? cudaErrorInvalidDevice : cudaErrorInvalidValue);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "Purkinje host executor");
    memcpy(p->uuid.bytes, "host executor", 13); // one device, whoever asks
    p->totalGlobalMem = ctx().device_limit;
    p->sharedMemPerBlock = SHARED_DEFAULT;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = LANES;
    p->maxThreadsPerBlock = MAX_THREADS;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = ctx().arch / 10;
    p->minor = ctx().arch % 10;
    p->multiProcessorCount = ctx().sms;
    p->canMapHostMemory = 1;
    p->asyncEngineCount = 2;
    p->ECCEnabled = 1;
    p->memoryBusWidth = 5120;
    p->l2CacheSize = 50 << 20;
    p->maxThreadsPerMultiProcessor = 2048;
    p->sharedMemPerMultiprocessor = 228 * 1024;
    p->sharedMemPerBlockOptin = SHARED_LIMIT;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    struct cudaDeviceProp p;
    {
        api a("cudaDeviceGetAttribute");
        if (a.error || !value) return give(a.error ? a.error : cudaErrorInvalidValue);
    }
    if (const cudaError_t e = cudaGetDeviceProperties(&p, device)) return e;
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = static_cast<int>(p.sharedMemPerBlock);
        break;
    case cudaDevAttrWarpSize:
        *value = p.warpSize;
        break;
    case cudaDevAttrMaxRegistersPerBlock:
        *value = p.regsPerBlock;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = p.maxThreadsPerMultiProcessor;
        break;
    case cudaDevAttrAsyncEngineCount:
        *value = p.asyncEngineCount;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = static_cast<int>(p.sharedMemPerMultiprocessor);
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = static_cast<int>(p.sharedMemPerBlockOptin);
        break;
    default:
        return give(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device)
{
    api a("cudaDeviceGetPCIBusId");
    if (a.error) return give(a.error);
    if (!id || length < 13 || device) return give(cudaErrorInvalidValue);
    snprintf(id, static_cast<size_t>(length), "0000:00:00.0");
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    api a("cudaMemGetInfo");
    if (a.error) return give(a.error);
    const context &c = ctx();
    if (total) *total = c.device_limit;
    if (free_bytes)
        *free_bytes = c.device_limit > c.device_bytes ? c.device_limit - c.device_bytes : 0;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attr, int value)
{
    api a("cudaFuncSetAttribute");
    if (a.error) return give(a.error);
    if (!kernel) return give(cudaErrorInvalidDeviceFunction);
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > SHARED_LIMIT)
        return give(cudaErrorInvalidValue);
    ctx().shared_limit[kernel] = value;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    api a("cudaMalloc");
    if (a.error) return give(a.error);
    if (!p) return give(cudaErrorInvalidValue);
    if (cudaError_t e = forbid_capture()) return give(e);
    context &c = ctx();
    *p = nullptr;
    if (!bytes) return cudaSuccess;
    if (c.device_bytes > c.device_limit || bytes > c.device_limit - c.device_bytes)
        return give(cudaErrorMemoryAllocation);
    void *memory = nullptr; // exactly these bytes, so that AddressSanitizer sees the first one past
    if (posix_memalign(&memory, 256, bytes) != 0) return give(cudaErrorMemoryAllocation);
    memset(memory, 0xff, bytes); // NaN, or -1
    c.device[reinterpret_cast<uintptr_t>(memory)] = bytes;
    c.device_bytes += bytes;
    *p = memory;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p)
{
    api a("cudaFree");
    context &c = ctx();
    if (a.error && a.error != c.sticky) return give(a.error);
    if (!p) return give(c.sticky);
    if (cudaError_t e = forbid_capture()) return give(e);
    const auto i = c.device.find(reinterpret_cast<uintptr_t>(p));
    if (i == c.device.end()) {
        report(text_of("cudaFree of %p, which is no live device allocation", p));
        return give(cudaErrorInvalidValue);
    }
    force_all(); // as CUDA does
    c.device_bytes -= i->second;
    c.device.erase(i);
    free(p);
    return give(c.sticky);
}
cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    api a("cudaMallocHost");
    return give(a.error ? a.error : make_pinned(p, bytes));
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    api a("cudaHostAlloc");
    return give(a.error ? a.error : make_pinned(p, bytes));
}
cudaError_t cudaFreeHost(void *p)
{
    api a("cudaFreeHost");
    context &c = ctx();
    if (a.error && a.error != c.sticky) return give(a.error);
    if (!p) return give(c.sticky);
    if (!c.pinned.count(reinterpret_cast<uintptr_t>(p))) {
        report(text_of("cudaFreeHost of %p, which is no live pinned allocation", p));
        return give(cudaErrorInvalidValue);
    }
    force_all();
    c.pinned.erase(reinterpret_cast<uintptr_t>(p));
    free(p);
    return give(c.sticky);
}
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned)
{
    api a("cudaHostRegister");
    if (a.error) return give(a.error);
    if (!p || !bytes) return give(cudaErrorInvalidValue);
    if (is_pinned(p, bytes)) return give(cudaErrorHostMemoryAlreadyRegistered);
    ctx().registered[reinterpret_cast<uintptr_t>(p)] = bytes;
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *p)
{
    api a("cudaHostUnregister");
    if (a.error && a.error != ctx().sticky) return give(a.error);
    if (!ctx().registered.count(reinterpret_cast<uintptr_t>(p)))
        return give(cudaErrorHostMemoryNotRegistered);
    force_all();
    ctx().registered.erase(reinterpret_cast<uintptr_t>(p));
    return give(ctx().sticky);
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p)
{
    api a("cudaPointerGetAttributes");
    if (a.error || !out) return give(a.error ? a.error : cudaErrorInvalidValue);
    void *q = const_cast<void *>(p);
    if (on_device(p, 1))
        *out = {cudaMemoryTypeDevice, 0, q, nullptr};
    else if (is_pinned(p, 1))
        *out = {cudaMemoryTypeHost, 0, q, q};
    else
        *out = {cudaMemoryTypeUnregistered, -1, nullptr, q};
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    api a("cudaMemcpy");
    if (a.error) return give(a.error);
    if (cudaError_t e = forbid_capture()) return give(e);
    return give(copy(to, from, bytes, kind, &ctx().legacy, true));
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    api a("cudaMemcpyAsync");
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    return give(s ? copy(to, from, bytes, kind, s, false) : cudaErrorInvalidResourceHandle);
}
cudaError_t cudaMemset(void *p, int value, size_t bytes)
{
    api a("cudaMemset");
    if (a.error) return give(a.error);
    if (cudaError_t e = forbid_capture()) return give(e);
    return give(fill(p, value, bytes, &ctx().legacy));
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream)
{
    api a("cudaMemsetAsync");
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    return give(s ? fill(p, value, bytes, s) : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaDeviceReset(void)
{
    pk_host_reset();
    return cudaSuccess;
}

} // extern "C"
