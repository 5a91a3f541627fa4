/* ranks.c -- several ranks on GPUs: whose device is whose, and gradients that meet while the
 * backward pass goes on (docs/decisions/016-ranks-on-gpus.md).
 *
 *     compute stream  | part 0 | part 1 | part 2 | loss ... waits ... | update
 *     ranks' stream            | bucket 0 | bucket 1  | bucket 2, loss |
 *
 * A program's gradients are packed into buckets in the order in which they are touched for the last
 * time, and its nodes are cut there into parts, each a graph of its own; the sums are launched
 * between the graphs and are in none. A bucket is a few ranges of the gradient arena, summed in
 * place, or by way of a bf16 copy. */
#include "cuda/nccl.h"
#include "cuda/state.h"
#include "core/scaling.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- devices --------------------------------------------------------------------------------- */

enum pk_status pk_cuda_pick(const struct pk_exec *x, int *device, struct pk_err *err)
{
    int visible = 0;
    *device = 0;
    if (!x->comm) return PK_OK;
    PK_TRY(pk_cuda_check(cudaGetDeviceCount(&visible), "number of GPUs", err));
    *device = x->comm->local_rank % PK_MAX(visible, 1);
    return PK_OK;
}

struct place { // of one rank
    unsigned char uuid[16];
    char name[64], host[64];
    int32_t device, visible;
};

static enum pk_status my_place(const struct pk_cuda *c, struct place *out, struct pk_err *err)
{
    struct cudaDeviceProp p;
    int visible = 0;
    memset(out, 0, sizeof *out); // padding travels, too
    PK_TRY(pk_cuda_check(cudaGetDeviceProperties(&p, c->q.device), "device", err));
    PK_TRY(pk_cuda_check(cudaGetDeviceCount(&visible), "number of GPUs", err));
    memcpy(out->uuid, &p.uuid, sizeof out->uuid);
    snprintf(out->name, sizeof out->name, "%.63s", p.name);
    if (gethostname(out->host, sizeof out->host - 1) != 0)
        snprintf(out->host, sizeof out->host, "a host");
    out->device = c->q.device;
    out->visible = visible;
    return PK_OK;
}

static bool may_share(void)
{
    const char *text = getenv("PURKINJE_SHARE_GPU");
    return text && !strcmp(text, "1");
}

static enum pk_status check_places(const struct place *all, const struct pk_comm *comm,
                                   struct pk_err *err)
{
    for (int b = 1; b < comm->size && !may_share(); b++)
        for (int a = 0; a < b; a++)
            if (!memcmp(all[a].uuid, all[b].uuid, sizeof all[a].uuid))
                return pk_fail(err, PK_EUSAGE,
                               "ranks %d and %d would both train on GPU %d of %s (%s), which shows "
                               "%d GPU%s to a rank\n"
                               "help: start as many ranks on a host as it has GPUs, and let each "
                               "see all of them or one of its own (CUDA_VISIBLE_DEVICES); "
                               "PURKINJE_SHARE_GPU=1 allows it, but NCCL does not",
                               a, b, all[b].device, all[b].host, all[b].name, all[b].visible,
                               all[b].visible == 1 ? "" : "s");
    return PK_OK;
}

static void print_places(const struct place *all, int ranks, struct pk_text *out)
{
    for (int k = 0; k < ranks; k++)
        pk_text_add(out, "rank %-4d GPU %d of %s (%s)\n", k, all[k].device, all[k].host,
                    all[k].name);
}

/* All ranks see the same places, so all come to the same verdict. */
static enum pk_status meet(struct pk_exec *x, struct pk_text *out, struct pk_err *err)
{
    struct place *all;
    struct pk_comm *comm = x->comm;
    PK_TRY(pk_alloc(&all, (size_t)comm->size, sizeof *all, "devices of the ranks", err));
    enum pk_status s = pk_comm_agree(comm, my_place(x->device, &all[comm->rank], err), err);
    if (s == PK_OK) s = pk_comm_all_gather(comm, all, sizeof *all, err);
    if (s == PK_OK) s = pk_comm_agree(comm, check_places(all, comm, err), err);
    if (s == PK_OK && out) print_places(all, comm->size, out);
    free(all);
    return s;
}

static enum pk_status open_wire(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    struct pk_cuda_ranks *r = &c->ranks;
    int least = 0, most = 0;
    // its few blocks should not queue behind those of a whole layer
    PK_TRY(pk_cuda_check(cudaDeviceGetStreamPriorityRange(&least, &most), "stream", err));
    PK_TRY(pk_cuda_check(cudaStreamCreateWithPriority(&r->stream, cudaStreamNonBlocking, most),
                         "stream", err));
    PK_TRY(
        pk_cuda_check(cudaEventCreateWithFlags(&r->ready, cudaEventDisableTiming), "event", err));
    PK_TRY(
        pk_cuda_check(cudaEventCreateWithFlags(&r->summed, cudaEventDisableTiming), "event", err));
    if (x->wire != PK_BF16 || !c->grad.memory) return PK_OK;
    return pk_cuda_alloc(x, &r->low, x->elements * (int64_t)sizeof(uint16_t),
                         "gradients on the wire", err);
}

enum pk_status pk_cuda_connect(struct pk_exec *x, struct pk_text *out, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    PK_TRY(meet(x, out, err));
    PK_TRY(pk_comm_agree(x->comm, open_wire(x, err), err));
    PK_TRY(pk_nccl_open(&c->ranks.nccl, x->comm, err));
    if (!out) return PK_OK;
    pk_text_add(out, "gradients travel as %s over NCCL ", pk_dtype_name(x->wire));
    pk_nccl_version(c->ranks.nccl, out);
    pk_text_add(out, "\n");
    return PK_OK;
}

void pk_cuda_disconnect(struct pk_cuda *c)
{
    struct pk_cuda_ranks *r = &c->ranks;
    pk_nccl_close(r->nccl);
    pk_cuda_release(&r->low);
    if (r->ready) cudaEventDestroy(r->ready);
    if (r->summed) cudaEventDestroy(r->summed);
    if (r->stream) cudaStreamDestroy(r->stream);
    *r = (struct pk_cuda_ranks){0};
}

/* --- buckets --------------------------------------------------------------------------------- */

static int by_param(const void *a, const void *b)
{
    const struct pk_scaling_gradient *x = a, *y = b;
    return x->param < y->param ? -1 : x->param > y->param;
}

/* Which rank updates the parameter at this element of the arenas; -1 for all. */
static int owner_of(const struct pk_exec *x, int64_t element)
{
    int k = 0;
    if (!x->share) return -1;
    while (element >= x->share[k + 1]) k++;
    return k;
}

/* Neighbours in the parameter table are neighbours in the arena, but for padding, which stays 0. */
static enum pk_status find_ranges(const struct pk_exec *x, struct pk_cuda_part *part,
                                  struct pk_scaling_gradient *g, int64_t count, struct pk_err *err)
{
    PK_TRY(pk_alloc(&part->range, (size_t)count, sizeof *part->range, "bucket", err));
    qsort(g, (size_t)count, sizeof *g, by_param);
    for (int64_t i = 0; i < count; i++) {
        const struct pk_param *w = &x->params->item[g[i].param];
        const int owner = owner_of(x, w->offset);
        struct pk_cuda_range *r = part->range + part->ranges - 1;
        if (!i || g[i].param != g[i - 1].param + 1 || owner != r->owner) {
            r = &part->range[part->ranges++];
            *r = (struct pk_cuda_range){.first = w->offset, .owner = owner};
        }
        r->count = w->offset + w->count - r->first;
    }
    return PK_OK;
}

static enum pk_status cut(const struct pk_exec *x, const struct pk_prog *p,
                          struct pk_cuda_part *part, int32_t *parts, struct pk_err *err)
{
    struct pk_scaling_bucket bucket[PK_SCALING_BUCKETS];
    struct pk_scaling_gradient *g;
    int64_t count, at = 0;
    PK_TRY(pk_scaling_gradients(&g, &count, p, NULL, err));
    const int32_t buckets = pk_scaling_pack(bucket, PK_CUDA_BUCKETS, g, count);
    enum pk_status s = PK_OK;
    for (*parts = 0; s == PK_OK && *parts < buckets; at += bucket[(*parts)++].gradients) {
        const int64_t n = bucket[*parts].gradients;
        part[*parts].end = g[at + n - 1].node + 1;
        s = find_ranges(x, &part[*parts], g + at, n, err);
    }
    if (s == PK_OK) part[*parts - 1].end = p->nodes;
    free(g);
    return s;
}

enum pk_status pk_cuda_parts(const struct pk_exec *x, const struct pk_prog *p,
                             struct pk_cuda_part **out, int32_t *parts, struct pk_err *err)
{
    bool gradients = false;
    for (int64_t v = 0; v < p->values; v++) gradients |= p->value[v].storage == PK_STORE_GRAD;
    PK_TRY(pk_alloc(out, PK_CUDA_BUCKETS, sizeof **out, "parts of a program", err));
    *parts = 1;
    (*out)[0].end = p->nodes;
    return x->comm && gradients ? cut(x, p, *out, parts, err) : PK_OK;
}

void pk_cuda_free_parts(struct pk_cuda_part *part, int32_t parts)
{
    for (int32_t k = 0; part && k < parts; k++) free(part[k].range);
    free(part);
}

/* --- a step ---------------------------------------------------------------------------------- */

/* The queue of a kernel that runs beside the compute stream. */
static struct pk_queue beside(const struct pk_cuda *c)
{
    struct pk_queue q = c->q;
    q.stream = c->ranks.stream;
    return q;
}

static enum pk_status lower(struct pk_cuda *c, const struct pk_cuda_part *part, struct pk_err *err)
{
    const struct pk_queue q = beside(c);
    for (int32_t i = 0; i < part->ranges; i++)
        PK_TRY(pk_cuda_cast(&q, (uint16_t *)c->ranks.low.memory + part->range[i].first,
                            (const float *)c->grad.memory + part->range[i].first,
                            part->range[i].count, err));
    return PK_OK;
}

static enum pk_status raise_again(struct pk_cuda *c, const struct pk_cuda_part *part,
                                  struct pk_err *err)
{
    const struct pk_queue q = beside(c);
    for (int32_t i = 0; i < part->ranges; i++) // those of others come out as whatever is there
        PK_TRY(pk_cuda_widen(&q, (float *)c->grad.memory + part->range[i].first,
                             (const uint16_t *)c->ranks.low.memory + part->range[i].first,
                             part->range[i].count, err));
    return PK_OK;
}

static enum pk_status sum(struct pk_cuda *c, const struct pk_cuda_part *part, bool last,
                          struct pk_err *err)
{
    struct pk_nccl_range *range;
    const bool low = c->ranks.low.memory != NULL;
    int n = 0;
    PK_TRY(pk_alloc(&range, (size_t)part->ranges + 1, sizeof *range, "bucket", err));
    for (; n < part->ranges; n++)
        range[n] = (struct pk_nccl_range){
            .data = low ? (void *)((uint16_t *)c->ranks.low.memory + part->range[n].first)
                        : (void *)((float *)c->grad.memory + part->range[n].first),
            .count = part->range[n].count,
            .type = low ? PK_NCCL_BF16 : PK_NCCL_F32,
            .kind = part->range[n].owner < 0 ? PK_NCCL_SUM : PK_NCCL_REDUCE,
            .root = PK_MAX(part->range[n].owner, 0)};
    if (last)
        range[n++] = (struct pk_nccl_range){&((struct pk_cuda_small *)c->small.memory)->report.loss,
                                            1, PK_NCCL_F64, PK_NCCL_SUM, 0};
    const enum pk_status s =
        pk_nccl_collect(c->ranks.nccl, range, n, c->ranks.stream, "the gradient sum", err);
    free(range);
    return s;
}

enum pk_status pk_cuda_send(struct pk_exec *x, const struct pk_cuda_part *part, bool last,
                            struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    struct pk_cuda_ranks *r = &c->ranks;
    if (!r->nccl) return pk_fail(err, PK_EINTERNAL, "the ranks' devices are not connected");
    PK_TRY(pk_cuda_check(cudaEventRecord(r->ready, c->q.stream), "bucket", err));
    PK_TRY(pk_cuda_check(cudaStreamWaitEvent(r->stream, r->ready, 0), "bucket", err));
    if (r->low.memory) PK_TRY(lower(c, part, err));
    PK_TRY(sum(c, part, last, err));
    if (r->low.memory) PK_TRY(raise_again(c, part, err));
    if (!last) return PK_OK;
    r->sent = true;
    return pk_cuda_check(cudaEventRecord(r->summed, r->stream), "bucket", err);
}

enum pk_status pk_cuda_receive(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    if (!c->ranks.sent)
        return pk_fail(err, PK_EINTERNAL, "a step's gradients were not sent to the other ranks");
    c->ranks.sent = false;
    return pk_cuda_check(cudaStreamWaitEvent(c->q.stream, c->ranks.summed, 0), "bucket", err);
}

/* --- waiting --------------------------------------------------------------------------------- */

enum pk_status pk_cuda_wait_event(struct pk_cuda *c, cudaEvent_t e, struct pk_err *err)
{
    static const char what[] = "training step";
    if (c->ranks.nccl) return pk_nccl_wait_event(c->ranks.nccl, e, what, err);
    return pk_cuda_check(cudaEventSynchronize(e), what, err);
}

enum pk_status pk_cuda_wait_stream(struct pk_cuda *c, cudaStream_t s, const char *what,
                                   struct pk_err *err)
{
    if (c->ranks.nccl) return pk_nccl_wait_stream(c->ranks.nccl, s, what, err);
    return pk_cuda_check(cudaStreamSynchronize(s), what, err);
}

void pk_cuda_quiet(struct pk_cuda *c)
{
    if (!c->ranks.nccl) return;
    pk_nccl_settle(c->ranks.nccl, c->ranks.stream);
    pk_nccl_settle(c->ranks.nccl, c->q.stream);
}
