/* stream.cc -- streams and events. Nothing runs when it is enqueued: work runs when
 * somebody waits for it, and what other streams have done by then is up to the schedule
 * (pk_host.h), so that a missing dependency gives other numbers under one schedule or the other. */
#include "tests/cuda_host/stream.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace pk_host
{

context::context()
{
    legacy.blocking = true;
    streams.push_back(&legacy);
    const char *s = getenv("PK_CUDA_HOST_ORDER");
    const std::string o = s ? s : "", known = "alternate ascending descending random";
    if (o == "ascending")
        order = PK_HOST_ASCENDING;
    else if (o == "descending")
        order = PK_HOST_DESCENDING;
    else if (o == "random")
        order = PK_HOST_RANDOM;
    else if (!o.empty() && o != "alternate")
        fprintf(stderr, "PK_CUDA_HOST_ORDER=%s is none of: %s\n", s, known.c_str());
    s = getenv("PK_CUDA_HOST_SCHEDULE");
    const std::string p = s ? s : "";
    if (p == "late")
        schedule = PK_HOST_SCHEDULE_LATE;
    else if (p == "early")
        schedule = PK_HOST_SCHEDULE_EARLY;
    else if (!p.empty() && p != "random")
        fprintf(stderr, "PK_CUDA_HOST_SCHEDULE=%s is none of: random late early\n", s);
    s = getenv("PK_CUDA_HOST_SEED");
    if (s) random = strtoull(s, nullptr, 10);
}

context &ctx()
{
    static context *c = new context(); // never destroyed: threads may outlive main
    return *c;
}

uint64_t next_random(context &c)
{
    uint64_t z = c.random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

pk_host_stream *find_stream(cudaStream_t s)
{
    context &c = ctx();
    if (!s || s == cudaStreamLegacy) return &c.legacy;
    for (pk_host_stream *t : c.streams)
        if (t == s) return t;
    return nullptr;
}

namespace
{

double now()
{
    if (ctx().clock) return ctx().clock();
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

bool ready(const pk_host_stream *s)
{
    if (s->queue.empty()) return false;
    for (const pk_host_work_ptr &w : s->queue.front()->after)
        if (!w->done) return false;
    const pk_host_work &front = *s->queue.front();
    return !front.may || front.may();
}

void run_front(pk_host_stream *s)
{
    const pk_host_work_ptr w = s->queue.front();
    s->queue.pop_front();
    if (w->run) w->run();
    w->run = nullptr;
    w->may = nullptr;
    w->after.clear();
    w->seconds = now();
    w->done = true;
}

/* Runs the first piece of work that w waits for, or w. */
void step_towards(const pk_host_work_ptr &w)
{
    pk_host_work *at = w.get();
    for (;;) {
        pk_host_work *front = at->stream->queue.front().get(), *blocker = nullptr;
        for (const pk_host_work_ptr &a : front->after)
            if (!a->done) blocker = a.get();
        if (!blocker) {
            if (!front->may || front->may())
                run_front(front->stream);
            else // as a device would spin
                std::this_thread::sleep_for(std::chrono::microseconds(50));
            return;
        }
        at = blocker;
    }
}

/* A stream whose next work can run, other than `not_this`; null if there is none. */
pk_host_stream *any_ready(const pk_host_stream *not_this)
{
    context &c = ctx();
    const size_t n = c.streams.size(), first = next_random(c) % n;
    for (size_t i = 0; i < n; i++) {
        pk_host_stream *s = c.streams[(first + i) % n];
        if (s != not_this && ready(s)) return s;
    }
    return nullptr;
}

void step(const pk_host_work_ptr &w)
{
    context &c = ctx();
    pk_host_stream *other = nullptr;
    if (c.schedule == PK_HOST_SCHEDULE_EARLY) other = any_ready(w->stream);
    if (c.schedule == PK_HOST_SCHEDULE_RANDOM) other = any_ready(nullptr);
    if (other)
        run_front(other);
    else
        step_towards(w);
}

cudaError_t enqueue_captured(pk_host_stream *s, std::function<void()> run)
{
    pk_host_capture &cap = *s->capture;
    if (cap.invalid) return cudaErrorStreamCaptureInvalidated;
    cap.graph->nodes.push_back({std::move(run), s->frontier});
    s->frontier = {static_cast<int>(cap.graph->nodes.size()) - 1};
    return cudaSuccess;
}

} // namespace

cudaError_t enqueue(pk_host_stream *s, std::function<void()> run, pk_host_work_ptr *out,
                    const pk_host_work_ptr &also, std::function<bool()> may)
{
    context &c = ctx();
    if (s->capture) return enqueue_captured(s, std::move(run));
    if (s == &c.legacy)
        for (const auto &cap : c.captures)
            for (const pk_host_stream *t : cap->streams)
                if (t->blocking) {
                    cap->invalid = true;
                    return cudaErrorStreamCaptureImplicit;
                }
    pk_host_work_ptr w = std::make_shared<pk_host_work>();
    w->run = std::move(run);
    w->may = std::move(may);
    w->stream = s;
    if (also) w->after.push_back(also);
    if (s == &c.legacy) {
        for (pk_host_stream *t : c.streams)
            if (t != s && t->blocking && t->last && !t->last->done) w->after.push_back(t->last);
    } else if (s->blocking && c.legacy.last && !c.legacy.last->done) {
        w->after.push_back(c.legacy.last);
    }
    s->queue.push_back(w);
    s->last = w;
    if (out) *out = w;
    // A device may also be quick: at random some work runs at once.
    if (c.schedule == PK_HOST_SCHEDULE_RANDOM && next_random(c) % 4 == 0)
        if (pk_host_stream *t = any_ready(nullptr)) run_front(t);
    return cudaSuccess;
}

void force(const pk_host_work_ptr &w)
{
    while (w && !w->done) step(w);
}

void force_stream(pk_host_stream *s)
{
    force(s->last);
}

void force_all()
{
    for (size_t i = 0; i < ctx().streams.size(); i++) force_stream(ctx().streams[i]);
}

bool poll(const pk_host_work_ptr &w)
{
    if (w && !w->done) step(w);
    return !w || w->done;
}

void drop_all()
{
    for (pk_host_stream *s : ctx().streams) {
        for (const pk_host_work_ptr &w : s->queue) {
            w->run = nullptr;
            w->may = nullptr;
            w->after.clear();
            w->done = true;
        }
        s->queue.clear();
    }
}

} // namespace pk_host

using namespace pk_host;

namespace
{

cudaError_t make_stream(cudaStream_t *out, unsigned flags)
{
    if (!out || flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    pk_host_stream *s = new pk_host_stream();
    s->blocking = flags != cudaStreamNonBlocking;
    ctx().streams.push_back(s);
    *out = s;
    return cudaSuccess;
}

} // namespace

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    api a("cudaStreamCreate");
    return give(a.error ? a.error : make_stream(stream, cudaStreamDefault));
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    api a("cudaStreamCreateWithFlags");
    return give(a.error ? a.error : make_stream(stream, flags));
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    api a("cudaStreamCreateWithPriority");
    return give(a.error ? a.error : make_stream(stream, flags));
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    api a("cudaDeviceGetStreamPriorityRange");
    if (a.error) return give(a.error);
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    api a("cudaStreamDestroy");
    if (a.error && a.error != ctx().sticky) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    if (!s || s == &ctx().legacy) return give(cudaErrorInvalidResourceHandle);
    if (cudaError_t e = forbid_captured(s)) return give(e);
    force_stream(s);
    std::vector<pk_host_stream *> &all = ctx().streams;
    all.erase(std::find(all.begin(), all.end(), s));
    delete s;
    return give(ctx().sticky);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    api a("cudaStreamSynchronize");
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    if (!s) return give(cudaErrorInvalidResourceHandle);
    if (cudaError_t e = forbid_captured(s)) return give(e);
    force_stream(s);
    return give(ctx().sticky);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    api a("cudaStreamQuery");
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    if (!s) return give(cudaErrorInvalidResourceHandle);
    if (cudaError_t e = forbid_captured(s)) return give(e);
    const bool done = poll(s->last);
    if (ctx().sticky) return give(ctx().sticky);
    return give(done ? cudaSuccess : cudaErrorNotReady); // the last error too, as in CUDA
}

void pk_host_progress(cudaStream_t stream)
{
    api a("pk_host_progress");
    if (pk_host_stream *s = find_stream(stream)) poll(s->last);
}

cudaError_t cudaDeviceSynchronize(void)
{
    api a("cudaDeviceSynchronize");
    if (a.error) return give(a.error);
    if (cudaError_t e = forbid_capture()) return give(e);
    force_all();
    return give(ctx().sticky);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *user)
{
    api a("cudaLaunchHostFunc");
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    if (!s || !fn) return give(s ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle);
    return give(enqueue(s, [fn, user] { fn(user); }));
}

cudaError_t pk_host_await(cudaStream_t stream, bool (*done)(void *user), void (*then)(void *user),
                          void *user)
{
    api a("pk_host_await");
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    if (!s) return give(cudaErrorInvalidResourceHandle);
    if (s->capture) return give(cudaErrorStreamCaptureUnsupported);
    return give(enqueue(
        s, [then, user] { then(user); }, nullptr, nullptr, [done, user] { return done(user); }));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    api a("cudaEventCreateWithFlags");
    if (a.error) return give(a.error);
    if (!event) return give(cudaErrorInvalidValue);
    *event = new pk_host_event();
    (*event)->timing = !(flags & cudaEventDisableTiming);
    ctx().events.insert(*event);
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    api a("cudaEventDestroy");
    if (a.error && a.error != ctx().sticky) return give(a.error);
    if (!ctx().events.erase(event)) return give(cudaErrorInvalidResourceHandle);
    delete event; // work that was recorded in it goes on
    return give(ctx().sticky);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    api a("cudaEventRecord");
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    if (!s || !ctx().events.count(event)) return give(cudaErrorInvalidResourceHandle);
    if (s->capture) {
        if (s->capture->invalid) return give(cudaErrorStreamCaptureInvalidated);
        event->capture = s->capture;
        event->nodes = s->frontier;
        return cudaSuccess;
    }
    event->capture.reset();
    return give(enqueue(s, nullptr, &event->work));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    api a("cudaStreamWaitEvent");
    if (a.error) return give(a.error);
    context &c = ctx();
    pk_host_stream *s = find_stream(stream);
    if (!s || !c.events.count(event)) return give(cudaErrorInvalidResourceHandle);
    if (event->capture && c.captures.count(event->capture)) {
        if (s->capture && s->capture != event->capture) {
            s->capture->invalid = event->capture->invalid = true;
            return give(cudaErrorStreamCaptureMerge);
        }
        if (s == &c.legacy) {
            event->capture->invalid = true;
            return give(cudaErrorStreamCaptureImplicit);
        }
        if (!s->capture) {
            s->capture = event->capture;
            s->capture->streams.insert(s);
            s->frontier.clear();
        }
        for (int n : event->nodes)
            if (std::find(s->frontier.begin(), s->frontier.end(), n) == s->frontier.end())
                s->frontier.push_back(n);
        return cudaSuccess;
    }
    if (s->capture) {
        s->capture->invalid = true;
        return give(cudaErrorStreamCaptureIsolation);
    }
    if (!event->work || event->work->done) return cudaSuccess;
    return give(enqueue(s, nullptr, nullptr, event->work));
}

static cudaError_t check_event(cudaEvent_t event)
{
    if (!ctx().events.count(event)) return cudaErrorInvalidResourceHandle;
    if (event->capture && ctx().captures.count(event->capture)) {
        event->capture->invalid = true;
        return cudaErrorCapturedEvent;
    }
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    api a("cudaEventQuery");
    if (a.error) return give(a.error);
    if (cudaError_t e = check_event(event)) return give(e);
    if (cudaError_t e = forbid_capture()) return give(e);
    const bool done = poll(event->work);
    if (ctx().sticky) return give(ctx().sticky);
    return give(done ? cudaSuccess : cudaErrorNotReady); // the last error too, as in CUDA
}
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    api a("cudaEventSynchronize");
    if (a.error) return give(a.error);
    if (cudaError_t e = check_event(event)) return give(e);
    force(event->work);
    return give(ctx().sticky);
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    api a("cudaEventElapsedTime");
    if (a.error) return give(a.error);
    if (!milliseconds) return give(cudaErrorInvalidValue);
    if (cudaError_t e = check_event(start)) return give(e);
    if (cudaError_t e = check_event(end)) return give(e);
    if (!start->timing || !end->timing || !start->work || !end->work)
        return give(cudaErrorInvalidResourceHandle);
    if (!start->work->done || !end->work->done) return give(cudaErrorNotReady);
    *milliseconds = static_cast<float>((end->work->seconds - start->work->seconds) * 1e3);
    return cudaSuccess;
}

} // extern "C"
