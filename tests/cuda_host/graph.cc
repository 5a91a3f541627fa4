/* graph.cc -- stream capture and graphs. Captured work goes into the graph of its capture, after
 * the nodes of its stream's frontier; branches that do not depend on each other run as the schedule
 * says. */
#include "tests/cuda_host/stream.h"

#include <utility>

namespace pk_host
{
namespace
{

/* What this thread allows itself while captures go on. */
thread_local enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

} // namespace

cudaError_t forbid_capture()
{
    context &c = ctx();
    cudaError_t e = cudaSuccess;
    if (thread_mode == cudaStreamCaptureModeRelaxed) return e;
    for (const auto &cap : c.captures) {
        const bool mine = cap->thread == std::this_thread::get_id();
        if (cap->mode == cudaStreamCaptureModeRelaxed) continue;
        if (!mine && (cap->mode == cudaStreamCaptureModeThreadLocal ||
                      thread_mode == cudaStreamCaptureModeThreadLocal))
            continue;
        cap->invalid = true;
        e = cudaErrorStreamCaptureUnsupported;
    }
    return e;
}

cudaError_t forbid_captured(pk_host_stream *s)
{
    if (s->capture) {
        s->capture->invalid = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    if (s == &ctx().legacy)
        for (const auto &cap : ctx().captures)
            for (const pk_host_stream *t : cap->streams)
                if (t->blocking) {
                    cap->invalid = true;
                    return cudaErrorStreamCaptureImplicit;
                }
    return cudaSuccess;
}

} // namespace pk_host

using namespace pk_host;

namespace
{

/* Marks in `seen` the nodes that come before these. */
void ancestors(const pk_host_graph &g, const std::vector<int> &from, std::vector<bool> &seen)
{
    for (int n : from) {
        if (seen[static_cast<size_t>(n)]) continue;
        seen[static_cast<size_t>(n)] = true;
        ancestors(g, g.nodes[static_cast<size_t>(n)].after, seen);
    }
}

/* Runs the nodes, any that is ready next at random (schedule random), else first or last ready. */
void run_graph(const pk_host_graph &g)
{
    context &c = ctx();
    std::vector<bool> done(g.nodes.size(), false);
    for (size_t left = g.nodes.size(); left && c.sticky == cudaSuccess; left--) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < g.nodes.size(); i++) {
            bool ok = !done[i];
            for (int a : g.nodes[i].after) ok = ok && done[static_cast<size_t>(a)];
            if (ok) ready.push_back(i);
            if (ready.size() == 8) break;
        }
        size_t pick = 0;
        if (c.schedule == PK_HOST_SCHEDULE_RANDOM) pick = next_random(c) % ready.size();
        if (c.schedule == PK_HOST_SCHEDULE_EARLY) pick = ready.size() - 1;
        if (g.nodes[ready[pick]].run) g.nodes[ready[pick]].run();
        done[ready[pick]] = true;
    }
}

} // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    api a("cudaStreamBeginCapture");
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    if (!s) return give(cudaErrorInvalidResourceHandle);
    if (s == &ctx().legacy) return give(cudaErrorStreamCaptureUnsupported);
    if (s->capture) return give(cudaErrorInvalidValue);
    s->capture = std::make_shared<pk_host_capture>();
    s->capture->graph = new pk_host_graph();
    s->capture->origin = s;
    s->capture->mode = mode;
    s->capture->thread = std::this_thread::get_id();
    s->capture->streams.insert(s);
    s->frontier.clear();
    ctx().captures.insert(s->capture);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    api a("cudaStreamEndCapture");
    if (graph) *graph = nullptr;
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    if (!s || !graph) return give(cudaErrorInvalidValue);
    if (!s->capture) return give(cudaErrorInvalidValue);
    const std::shared_ptr<pk_host_capture> cap = s->capture;
    if (cap->origin != s) {
        cap->invalid = true;
        return give(cudaErrorStreamCaptureUnmatched);
    }
    if (cap->mode != cudaStreamCaptureModeRelaxed && cap->thread != std::this_thread::get_id())
        return give(cudaErrorStreamCaptureWrongThread);
    std::vector<bool> joined(cap->graph->nodes.size(), false);
    ancestors(*cap->graph, s->frontier, joined);
    cudaError_t e = cap->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
    for (pk_host_stream *t : cap->streams) {
        for (int n : t->frontier)
            if (!joined[static_cast<size_t>(n)] && !e) e = cudaErrorStreamCaptureUnjoined;
        t->frontier.clear();
        t->capture.reset();
    }
    ctx().captures.erase(cap);
    if (e) {
        delete cap->graph;
        return give(e);
    }
    ctx().graphs.insert(cap->graph);
    *graph = cap->graph;
    return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
    if (!mode) return give(cudaErrorInvalidValue);
    std::swap(*mode, thread_mode);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    api a("cudaStreamIsCapturing");
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    if (!s || !status) return give(cudaErrorInvalidValue);
    *status = !s->capture           ? cudaStreamCaptureStatusNone
              : s->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                    : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    api a("cudaGraphInstantiate");
    if (a.error) return give(a.error);
    if (!exec || !ctx().graphs.count(graph)) return give(cudaErrorInvalidValue);
    *exec = new pk_host_graph_exec{std::make_shared<const pk_host_graph>(*graph)};
    ctx().execs.insert(*exec);
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph,
                                          unsigned long long flags)
{
    return cudaGraphInstantiate(exec, graph, flags);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    api a("cudaGraphUpload");
    if (a.error) return give(a.error);
    return give(ctx().execs.count(exec) && find_stream(stream) ? cudaSuccess
                                                               : cudaErrorInvalidValue);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    api a("cudaGraphLaunch");
    if (a.error) return give(a.error);
    pk_host_stream *s = find_stream(stream);
    if (!s || !ctx().execs.count(exec)) return give(cudaErrorInvalidValue);
    const std::shared_ptr<const pk_host_graph> g = exec->graph;
    return give(enqueue(s, [g] { run_graph(*g); }));
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    api a("cudaGraphGetNodes");
    if (a.error) return give(a.error);
    if (!ctx().graphs.count(graph) || !count || nodes) return give(cudaErrorInvalidValue);
    *count = graph->nodes.size();
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    api a("cudaGraphExecDestroy");
    if (!ctx().execs.erase(exec)) return give(cudaErrorInvalidValue);
    delete exec;
    return give(a.error);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    api a("cudaGraphDestroy");
    if (!ctx().graphs.erase(graph)) return give(cudaErrorInvalidValue);
    delete graph;
    return give(a.error);
}

} // extern "C"
