/* join.c -- batch norm over the records of all ranks: what their norms exchange, and when
 * (docs/decisions/016-ranks-on-gpus.md).
 *
 *     compute stream  | graph | norm: sums, gather, merge, y | graph | norm ...
 *
 * A norm needs two numbers a channel of every rank before it can go on, forward and backward, so
 * the gather goes into the compute stream itself, between kernels of one node. A program is cut at
 * these nodes: they are launched kernel by kernel, the nodes between them are graphs.
 *
 * Gathers share one communicator with the sums of buckets (ranks.c), which are on another stream.
 * Every rank's host makes the same calls in the same order, that of the program's nodes, and the
 * library carries them out in that order. So a gather also waits for the sums that were begun
 * before it: they run beside what is computed up to the next norm, and no further. Nothing waits in
 * a circle, since a sum waits for kernels before it only. */
#include "cuda/state.h"

#include <stdlib.h>

/* The host stays at most PK_CUDA_AHEAD gathers in front of the device. Where a rank has died the
 * device stands still in a gather, and a host that went on would fill the queue of launches, which
 * then blocks it where nothing can be polled. */
static enum pk_status gather(const struct pk_joined *j, int64_t count, struct pk_err *err)
{
    static const char what[] = "the statistics of batch norm";
    struct pk_exec *x = j->ctx;
    struct pk_cuda *c = x->device;
    struct pk_nccl *nccl = c->ranks.nccl;
    const cudaEvent_t over = c->join.over[c->join.gathers++ % PK_CUDA_AHEAD];
    const struct pk_nccl_range all = {j->all, count, PK_NCCL_F32, PK_NCCL_GATHER, 0};
    if (!nccl) return pk_fail(err, PK_EINTERNAL, "the ranks' devices are not connected");
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

/* Statistics of the micro-batch, or gradients that go through them. */
static bool gathers(const struct pk_node *n)
{
    if (n->op == PK_OP_BATCHNORM) return n->attr.batchnorm.train;
    return n->op == PK_OP_BATCHNORM_GRAD && n->attr.batchnorm.train && n->out[0] >= 0;
}

enum pk_status pk_cuda_cut_joins(const struct pk_prog *p, struct pk_cuda_part **part,
                                 int32_t *parts, struct pk_err *err)
{
    struct pk_cuda_part *out;
    int64_t joins = 0, node = 0;
    int32_t n = 0;
    for (int64_t k = 0; k < p->nodes; k++) joins += gathers(&p->node[k]);
    PK_TRY(pk_alloc(&out, (size_t)(*parts + 2 * joins), sizeof *out, "parts of a program", err));
    for (int32_t k = 0; k < *parts; k++) {
        const struct pk_cuda_part *whole = &(*part)[k];
        int64_t done = node; // nodes that are in parts
        for (; node < whole->end; node++) {
            if (!gathers(&p->node[node])) continue;
            if (node > done) out[n++].end = node;
            out[n++] = (struct pk_cuda_part){.end = node + 1, .joins = true};
            done = node + 1;
        }
        const bool by_norm = n && done == whole->end && out[n - 1].end == done &&
                             out[n - 1].joins && !out[n - 1].ranges;
        if (!by_norm) out[n++].end = whole->end;
        out[n - 1].range = whole->range, out[n - 1].ranges = whole->ranges; // the bucket
    }
    free(*part);
    *part = out, *parts = n;
    return PK_OK;
}
