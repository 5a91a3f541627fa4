/* settings.cc -- the executor's settings and reports (pk_host.h). */
#include "tests/cuda_host/stream.h"

using namespace pk_host;

extern "C" {

void pk_host_order(enum pk_host_order order)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    ctx().order = order;
}
void pk_host_schedule(enum pk_host_schedule schedule)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    ctx().schedule = schedule;
}
void pk_host_seed(uint64_t seed)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    ctx().random = seed;
}
void pk_host_clock(double (*seconds)(void))
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    ctx().clock = seconds;
}
const char *pk_host_error(void)
{
    static thread_local std::string text;
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    text = ctx().error;
    return text.c_str();
}
void pk_host_reset(void)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    context &c = ctx();
    drop_all();
    for (const auto &cap : c.captures) {
        for (pk_host_stream *s : cap->streams) {
            s->frontier.clear();
            s->capture.reset();
        }
        delete cap->graph;
    }
    c.captures.clear();
    c.sticky = cudaSuccess;
    c.error.clear();
    c.failures.clear();
    c.state = PK_HOST_READY;
    c.device_limit = static_cast<size_t>(80) << 30;
    c.arch = 90;
    c.sms = 132;
    forget_last_error();
}
void pk_host_quiet(bool quiet)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    ctx().quiet = quiet;
}
void pk_host_device(enum pk_host_device state)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    ctx().state = state;
}
void pk_host_memory(size_t bytes)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    ctx().device_limit = bytes == SIZE_MAX ? static_cast<size_t>(80) << 30 : bytes;
}
void pk_host_fail_call(const char *function, int nth, cudaError_t error)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    ctx().failures.erase(function);
    if (nth > 0) ctx().failures[function] = {nth, error};
}
void pk_host_device_facts(int arch, int sms)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    ctx().arch = arch;
    ctx().sms = sms;
}
size_t pk_host_device_bytes(void)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    return ctx().device_bytes;
}
size_t pk_host_device_allocations(void)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    return ctx().device.size();
}
size_t pk_host_pinned_bytes(void)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    size_t n = 0;
    for (const auto &i : ctx().pinned) n += i.second;
    for (const auto &i : ctx().registered) n += i.second;
    return n;
}
size_t pk_host_live_handles(void)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    const context &c = ctx();
    return c.streams.size() - 1 + c.events.size() + c.graphs.size() + c.execs.size();
}
uint64_t pk_host_launches(void)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    return ctx().launches;
}
uint64_t pk_host_copies_out(void)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    return ctx().copies_out;
}
size_t pk_host_pending(void)
{
    std::lock_guard<std::recursive_mutex> hold(ctx().lock);
    size_t n = 0;
    for (const pk_host_stream *s : ctx().streams) n += s->queue.size();
    return n;
}

} // extern "C"
