/* stream.h -- inside the executor: the context, streams of deferred work, events, graphs. */
#ifndef PK_HOST_STREAM_H
#define PK_HOST_STREAM_H

#include "tests/cuda_host/block.h"

#include <pk_host.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

/* One piece of work of a stream. It runs after everything before it in its stream and after what it
 * depends on. */
struct pk_host_work {
    std::function<void()> run; // empty for markers
    std::function<bool()> may; // what somebody outside does first; empty: nothing
    std::vector<std::shared_ptr<pk_host_work>> after;
    pk_host_stream *stream;
    bool done = false;
    double seconds = 0; // when it ran
};
typedef std::shared_ptr<pk_host_work> pk_host_work_ptr;

struct pk_host_graph {
    struct node {
        std::function<void()> run;
        std::vector<int> after;
    };
    std::vector<node> nodes;
};
struct pk_host_graph_exec {
    std::shared_ptr<const pk_host_graph> graph;
};

struct pk_host_capture {
    pk_host_graph *graph;
    pk_host_stream *origin;
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    bool invalid = false;
    std::set<pk_host_stream *> streams;
};

struct pk_host_stream {
    bool blocking; // ordered with the legacy stream
    std::deque<pk_host_work_ptr> queue;
    pk_host_work_ptr last;                    // enqueued last, possibly done
    std::shared_ptr<pk_host_capture> capture; // while it takes part in one
    std::vector<int> frontier;                // nodes the next captured node comes after
};
struct pk_host_event {
    bool timing;
    pk_host_work_ptr work;                    // recorded last; null: never
    std::shared_ptr<pk_host_capture> capture; // recorded last in this capture
    std::vector<int> nodes;
};

namespace pk_host
{

struct context {
    std::recursive_mutex lock;
    pk_host_stream legacy;
    std::vector<pk_host_stream *> streams; // with &legacy first
    std::set<pk_host_event *> events;
    std::set<pk_host_graph *> graphs;
    std::set<pk_host_graph_exec *> execs;
    std::set<std::shared_ptr<pk_host_capture>> captures;
    std::map<uintptr_t, size_t> device, pinned, registered; // address, bytes
    size_t device_bytes = 0, device_limit = static_cast<size_t>(80) << 30;
    std::map<const void *, int> shared_limit; // of kernels that raised it
    cudaError_t sticky = cudaSuccess;
    std::string error;
    bool quiet = false;
    enum pk_host_device state = PK_HOST_READY;
    int arch = 90, sms = 132;
    struct planned {
        int left;
        cudaError_t error;
    };
    std::map<std::string, planned> failures;
    uint64_t launches = 0, copies_out = 0, random = 1;
    enum pk_host_order order = PK_HOST_ALTERNATE;
    enum pk_host_schedule schedule = PK_HOST_SCHEDULE_RANDOM;
    double (*clock)() = nullptr; // of a test
    context();
};
context &ctx();

/* Start of every API function: takes the lock, applies injected failures and the sticky error. */
struct api {
    std::unique_lock<std::recursive_mutex> hold;
    cudaError_t error;
    explicit api(const char *function, bool needs_device = true);
};
void forget_last_error(); // of this thread
/* Remembers the error as this thread's last one and returns it. */
cudaError_t give(cudaError_t e);
/* Says on stderr (unless quiet) what was wrong and keeps it for pk_host_error. */
void report(const std::string &text);

pk_host_stream *find_stream(cudaStream_t s); // null: no such stream
uint64_t next_random(context &c);
/* Adds work to a stream, or to the graph it is captured into; it also waits for `also`, and until
 * `may` is true (not in a graph). */
cudaError_t enqueue(pk_host_stream *s, std::function<void()> run, pk_host_work_ptr *out = nullptr,
                    const pk_host_work_ptr &also = nullptr, std::function<bool()> may = nullptr);
void force(const pk_host_work_ptr &w);
void force_stream(pk_host_stream *s);
void force_all();
bool poll(const pk_host_work_ptr &w); // one step of work towards w, then whether it is done
void drop_all();
/* Errors of calls that a capture forbids; invalidates the capture. */
cudaError_t forbid_capture();                   // cudaMalloc, cudaDeviceSynchronize ...
cudaError_t forbid_captured(pk_host_stream *s); // cudaStreamSynchronize ...

} // namespace pk_host

#endif
