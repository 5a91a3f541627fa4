/* join.c -- batch norm over the records of all ranks, and losses whose rows they share out: what
 * these exchange, and graphs that end where they do (docs/decisions/016-ranks-on-gpus.md).
 *
 *     compute stream  | graph, to a norm's own statistics | gather | graph, from their merging ...
 *
 * A norm needs two numbers a channel of every rank before it can go on, forward and backward, a
 * loss what the others tell of their rows (struct pk_told_row), so the gather goes into the compute
 * stream, between two kernels of one node. No message is captured: while a capture goes on, a
 * gather ends the graph and begins the next one.
 *
 * Gathers share one communicator with the sums of buckets (ranks.c), which are on another stream.
 * Every rank's host makes the same calls in the same order, that of the program's nodes, and the
 * library carries them out in that order. So a gather also waits for the sums that were begun
 * before it: they run beside what is computed up to the next norm, and no further. Nothing waits in
 * a circle, since a sum waits for kernels before it only. */
#include "cuda/state.h"

#include <stdlib.h>

static enum pk_status split(struct pk_cuda *c, int64_t numbers, struct pk_err *err);

/* The host stays at most PK_CUDA_AHEAD gathers in front of the device. Where a rank has died the
 * device stands still in a gather, and a host that went on would fill the queue of launches, which
 * then blocks it where nothing can be polled. */
static enum pk_status gather(const struct pk_joined *j, int64_t count, struct pk_err *err)
{
    static const char what[] = "gathering what norms and losses exchange";
    struct pk_exec *x = j->ctx;
    struct pk_cuda *c = x->device;
    struct pk_nccl *nccl = c->ranks.nccl;
    const struct pk_nccl_range all = {j->all, count, PK_NCCL_F32, PK_NCCL_GATHER, 0};
    if (c->join.capturing) return split(c, count, err);
    if (!nccl) return pk_fail(err, PK_EINTERNAL, "the ranks' devices are not connected");
    const cudaEvent_t over = c->join.over[c->join.gathers++ % PK_CUDA_AHEAD];
    PK_TRY(pk_nccl_wait_event(nccl, over, what, err)); // of as many gathers ago
    PK_TRY(pk_nccl_collect(nccl, &all, 1, c->q.stream, what, err));
    return pk_cuda_check(cudaEventRecord(over, c->q.stream), what, err);
}

enum pk_status pk_cuda_open_join(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    c->join.joined = (struct pk_joined){.rank = x->comm->rank,
                                        .size = x->comm->size,
                                        .all = c->join.rows.memory,
                                        .gather = gather,
                                        .ctx = x};
    for (int k = 0; k < PK_CUDA_AHEAD; k++)
        if (!c->join.over[k])
            PK_TRY(pk_cuda_check(cudaEventCreateWithFlags(&c->join.over[k], cudaEventDisableTiming),
                                 "event", err));
    return PK_OK;
}

void pk_cuda_close_join(struct pk_cuda *c)
{
    for (int k = 0; k < PK_CUDA_AHEAD; k++)
        if (c->join.over[k]) cudaEventDestroy(c->join.over[k]);
    pk_cuda_release(&c->join.rows);
    c->join = (struct pk_cuda_join){0};
}

/* --- graphs between gathers ------------------------------------------------------------------ */

static enum pk_status begin_graph(struct pk_cuda *c, struct pk_err *err)
{
    return pk_cuda_check(cudaStreamBeginCapture(c->q.stream, cudaStreamCaptureModeThreadLocal),
                         "capture", err);
}

static enum pk_status end_graph(struct pk_cuda *c, enum pk_status s, int64_t numbers,
                                struct pk_err *err)
{
    struct pk_cuda_graphs *g = c->join.capturing;
    cudaGraph_t graph = NULL;
    const cudaError_t e = cudaStreamEndCapture(c->q.stream, &graph);
    if (s == PK_OK) s = pk_cuda_check(e, "end of capture", err);
    if (s == PK_OK) s = pk_grow(&g->item, &g->cap, g->count + 1, sizeof *g->item, "graphs", err);
    if (s == PK_OK) {
        struct pk_cuda_graph *to = &g->item[g->count];
        *to = (struct pk_cuda_graph){.gather = numbers};
        s = pk_cuda_check(cudaGraphInstantiate(&to->exec, graph, 0), "graph", err);
        if (s == PK_OK) g->count++;
    }
    if (graph) cudaGraphDestroy(graph);
    return s;
}

static enum pk_status split(struct pk_cuda *c, int64_t numbers, struct pk_err *err)
{
    PK_TRY(end_graph(c, PK_OK, numbers, err));
    return begin_graph(c, err);
}

enum pk_status pk_cuda_begin_graphs(struct pk_cuda *c, struct pk_cuda_graphs *g, struct pk_err *err)
{
    PK_TRY(begin_graph(c, err));
    c->join.capturing = g;
    return PK_OK;
}

enum pk_status pk_cuda_end_graphs(struct pk_cuda *c, enum pk_status s, struct pk_err *err)
{
    s = end_graph(c, s, 0, err);
    if (s != PK_OK) pk_cuda_free_graphs(c->join.capturing);
    c->join.capturing = NULL;
    return s;
}

enum pk_status pk_cuda_launch_graphs(struct pk_cuda *c, const struct pk_cuda_graphs *g,
                                     struct pk_err *err)
{
    for (int64_t k = 0; k < g->count; k++) {
        PK_TRY(pk_cuda_check(cudaGraphLaunch(g->item[k].exec, c->q.stream), "graph", err));
        if (g->item[k].gather) PK_TRY(gather(&c->join.joined, g->item[k].gather, err));
    }
    return PK_OK;
}

void pk_cuda_free_graphs(struct pk_cuda_graphs *g)
{
    for (int64_t k = 0; k < g->count; k++) cudaGraphExecDestroy(g->item[k].exec);
    free(g->item);
    *g = (struct pk_cuda_graphs){0};
}
