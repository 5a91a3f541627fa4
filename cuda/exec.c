/* exec.c -- the CUDA executor: programs bound to addresses, captured as graphs, replayed.
 *
 * A step never waits for the device. Inputs go by the copy stream into a staging area while the
 * step before is at work; at the start of a step the compute stream copies them to where the
 * program reads them, which is where its graph was captured with. What varies from step to step
 * (learning rate, step number ...) is one small record, copied before the update's graph. Loss and
 * norm come back in another, one step late.
 *
 *     copy stream      | inputs of n+1      |          | inputs of n+2 ...
 *     compute stream   | step n: in, graph, update     | step n+1 ...
 *     host             enqueues n+1, then waits for the record of n
 *
 * Eager mode launches the same kernels with the same arguments in the same order. */
#include "cuda/conv.h"
#include "cuda/matmul.h"
#include "cuda/resident.h"
#include "cuda/rows.h"
#include "cuda/state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct bound { // pk_bound.device
    struct pk_exec *x;
    struct pk_cuda_block constants;
    int64_t *input;            // [inputs] byte offset of each slot in the input area
    int64_t input_bytes;       // of all
    struct pk_cuda_part *part; // [parts]
    int32_t parts;
    uint64_t generation;         // of the addresses in their graphs
    const struct pk_feed **feed; // [inputs] scratch of a run
};

static struct pk_cuda_small *small_of(const struct pk_cuda *c)
{
    return c->small.memory;
}

/* --- binding --------------------------------------------------------------------------------- */

static int64_t aligned(int64_t bytes)
{
    enum { DEVICE_ALIGN = 256 };
    return (bytes + DEVICE_ALIGN - 1) / DEVICE_ALIGN * DEVICE_ALIGN;
}

static void *address(const struct pk_cuda *c, const struct pk_bound *b, int32_t i)
{
    const struct pk_value *v = &b->prog->value[i];
    const struct bound *d = b->device;
    const int64_t at = v->param >= 0 ? b->prog->params->item[v->param].offset : 0;
    const bool low = v->dtype == PK_BF16;
    switch (v->storage) {
    case PK_STORE_IN:
        return i == b->prog->seed ? (void *)&small_of(c)->seed
                                  : (char *)c->input.memory + d->input[v->input];
    case PK_STORE_PARAM:
        return low ? (void *)((uint16_t *)c->weight_low.memory + at)
                   : (void *)((float *)c->weight.memory + at);
    case PK_STORE_STATE:
        return (float *)c->weight.memory + at;
    case PK_STORE_EMA:
        return low ? (void *)((uint16_t *)c->ema_low.memory + at)
                   : (void *)((float *)c->ema.memory + at);
    case PK_STORE_GRAD:
        return (float *)c->grad.memory + at;
    case PK_STORE_CONST:
        return (char *)d->constants.memory + v->constant;
    case PK_STORE_ACT:
        return (char *)c->arena.memory + b->plan.offset[i];
    }
    return NULL;
}

static struct pk_call call_of(const struct pk_cuda *c, const struct pk_bound *b, int64_t k)
{
    const struct pk_prog *p = b->prog;
    const struct pk_node *n = &p->node[k];
    struct pk_call call = {.node = n,
                           .queue = (struct pk_queue *)(uintptr_t)&c->q,
                           .joined = b->joined ? &c->join.joined : NULL};
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] < 0) continue;
        call.in[i] = &p->value[n->in[i]];
        call.src[i] = address(c, b, n->in[i]);
    }
    for (int i = 0; i < n->n_out; i++) {
        if (n->out[i] < 0) continue;
        call.out[i] = &p->value[n->out[i]];
        call.dst[i] = address(c, b, n->out[i]);
    }
    if (b->plan.workspace[k] >= 0) call.workspace = (char *)c->arena.memory + b->plan.workspace[k];
    return call;
}

/* Moves one of the two areas that all programs share; graphs that know the old address are void. */
static enum pk_status grow_area(struct pk_exec *x, struct pk_cuda_block *b, int64_t bytes,
                                const char *what, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    if (bytes <= b->bytes) return PK_OK;
    PK_TRY(pk_cuda_finish(x, err));
    c->generation++;
    return pk_cuda_alloc(x, b, bytes, what, err);
}

/* Room for what the ranks' norms and losses exchange. */
static enum pk_status join_nodes(struct pk_exec *x, struct pk_bound *b, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    if (!b->joined) return PK_OK;
    PK_TRY(grow_area(x, &c->join.rows, b->joined * x->comm->size * (int64_t)sizeof(float),
                     "statistics of the ranks", err));
    return pk_cuda_open_join(x, err);
}

static enum pk_status place_inputs(struct bound *d, const struct pk_prog *p, struct pk_err *err)
{
    PK_TRY(pk_alloc(&d->input, (size_t)PK_MAX(p->inputs, 1), sizeof *d->input, "inputs", err));
    PK_TRY(pk_alloc(&d->feed, (size_t)PK_MAX(p->inputs, 1), sizeof *d->feed, "inputs", err));
    for (int64_t v = 0; v < p->values; v++) {
        if (p->value[v].storage != PK_STORE_IN || v == p->seed) continue;
        d->input[p->value[v].input] = d->input_bytes;
        d->input_bytes += aligned((int64_t)pk_value_bytes(&p->value[v]));
    }
    return PK_OK;
}

/* The libraries' choices are timed on the real buffers, whose contents do not matter yet. */
static enum pk_status choose_products(struct pk_exec *x, struct pk_bound *b, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    for (int64_t k = 0; k < b->prog->nodes; k++) {
        struct pk_call call = call_of(c, b, k);
        PK_TRY(pk_matmul_prepare(&c->q, &call, err));
        PK_TRY(pk_conv_prepare(&c->q, &call, err));
    }
    if (!c->grad.memory) return PK_OK;
    return pk_cuda_check(cudaMemsetAsync(c->grad.memory, 0, (size_t)c->grad.bytes, c->q.stream),
                         "gradients", err);
}

enum pk_status pk_cuda_bind(struct pk_exec *x, struct pk_bound *b, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    struct bound *d;
    const struct pk_prog *p = b->prog;
    PK_TRY(pk_alloc(&d, 1, sizeof *d, "bound program", err));
    b->device = d;
    d->x = x;
    PK_TRY(place_inputs(d, p, err));
    PK_TRY(pk_cuda_parts(x, p, &d->part, &d->parts, err));
    PK_TRY(join_nodes(x, b, err));
    PK_TRY(grow_area(x, &c->input, d->input_bytes, "inputs", err));
    PK_TRY(grow_area(x, &c->staging, d->input_bytes, "inputs", err));
    PK_TRY(grow_area(x, &c->arena, b->plan.arena, "activations", err));
    if (p->constant_len) {
        PK_TRY(pk_cuda_alloc(x, &d->constants, p->constant_len, "constants", err));
        PK_TRY(pk_cuda_check(cudaMemcpy(d->constants.memory, p->constants, (size_t)p->constant_len,
                                        cudaMemcpyHostToDevice),
                             "constants", err));
        c->constants += d->constants.bytes;
    }
    x->arena_bytes = c->arena.bytes;
    return choose_products(x, b, err);
}

static void drop_graphs(struct bound *d)
{
    for (int32_t k = 0; k < d->parts; k++)
        for (int i = 0; i < 2; i++) pk_cuda_free_graphs(&d->part[k].graphs[i]);
}

void pk_cuda_unbind(struct pk_bound *b)
{
    struct bound *d = b->device;
    if (!d) return;
    if (d->x->device) pk_cuda_quiet(d->x->device);
    cudaDeviceSynchronize();
    drop_graphs(d);
    pk_cuda_free_parts(d->part, d->parts);
    if (d->x->device) ((struct pk_cuda *)d->x->device)->constants -= d->constants.bytes;
    pk_cuda_release(&d->constants);
    free(d->input);
    free(d->feed);
    free(d);
    b->device = NULL;
}

/* --- a run ----------------------------------------------------------------------------------- */

static enum pk_status add_loss(struct pk_exec *x, const struct pk_bound *b, bool add,
                               struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    if (b->prog->loss < 0) return PK_OK;
    return pk_cuda_add_loss(&c->q, &small_of(c)->report, address(c, b, b->prog->loss),
                            &small_of(c)->counted, add, err);
}

/* Part k of forward and backward on what lies in the input area; after the last one the loss into
 * the record. */
static enum pk_status enqueue_part(struct pk_exec *x, struct pk_bound *b, int32_t k, bool add,
                                   struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    const struct bound *d = b->device;
    const struct pk_prog *p = b->prog;
    if (k == 0 && p->loss >= 0 && !add)
        PK_TRY(pk_cuda_check(cudaMemsetAsync(c->grad.memory, 0, (size_t)c->grad.bytes, c->q.stream),
                             "gradients", err));
#ifdef PK_DEBUG_FILL
    if (k == 0)
        PK_TRY(pk_cuda_check(
            cudaMemsetAsync(c->arena.memory, 0xff, (size_t)c->arena.bytes, c->q.stream), "poison",
            err));
#endif
    for (int64_t i = k ? d->part[k - 1].end : 0; i < d->part[k].end; i++) {
        struct pk_call call = call_of(c, b, i);
        PK_TRY(pk_cuda_kernels[p->node[i].op](&call, err));
    }
    return k == d->parts - 1 ? add_loss(x, b, add, err) : PK_OK;
}

static enum pk_status send_part(struct pk_exec *x, const struct bound *d, int32_t k,
                                struct pk_err *err)
{
    const bool last = k == d->parts - 1;
    return last || d->part[k].ranges ? pk_cuda_send(x, &d->part[k], last, err) : PK_OK;
}

/* All nodes, with an event before each and one behind the last; *made counts them. */
static enum pk_status mark_nodes(struct pk_exec *x, struct pk_bound *b, bool add, bool send,
                                 cudaEvent_t *mark, int64_t *made, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    const struct bound *d = b->device;
    const struct pk_prog *p = b->prog;
    int32_t part = 0;
    for (int64_t k = 0; k <= p->nodes; k++) {
        PK_TRY(pk_cuda_check(cudaEventCreate(&mark[k]), "event", err));
        ++*made;
        PK_TRY(pk_cuda_check(cudaEventRecord(mark[k], c->q.stream), "event", err));
        if (k == p->nodes) break;
        struct pk_call call = call_of(c, b, k);
        PK_TRY(pk_cuda_kernels[p->node[k].op](&call, err));
        for (; send && part < d->parts - 1 && d->part[part].end == k + 1; part++)
            PK_TRY(send_part(x, d, part, err)); // where every run does, for the order of messages
    }
    PK_TRY(add_loss(x, b, add, err));
    return send ? send_part(x, d, d->parts - 1, err) : PK_OK;
}

/* The same with the time of every node, for the profile. */
static enum pk_status time_nodes(struct pk_exec *x, struct pk_bound *b, bool add, bool send,
                                 struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    const struct pk_prog *p = b->prog;
    cudaEvent_t *mark;
    int64_t made = 0;
    PK_TRY(pk_alloc(&mark, (size_t)p->nodes + 1, sizeof *mark, "profile", err));
    if (p->loss >= 0 && !add)
        cudaMemsetAsync(c->grad.memory, 0, (size_t)c->grad.bytes, c->q.stream);
    enum pk_status s = mark_nodes(x, b, add, send, mark, &made, err);
    if (s == PK_OK) s = pk_cuda_finish(x, err);
    for (int64_t k = 0; s == PK_OK && k < p->nodes; k++) {
        float ms = 0;
        s = pk_cuda_check(cudaEventElapsedTime(&ms, mark[k], mark[k + 1]), "event", err);
        b->seconds[k] += 1e-3 * (double)ms;
    }
    if (s == PK_OK) b->profiled++;
    for (int64_t k = 0; k < made; k++) cudaEventDestroy(mark[k]);
    free(mark);
    return s;
}

static enum pk_status capture(struct pk_exec *x, struct pk_bound *b, int32_t k, bool add,
                              struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    struct bound *d = b->device;
    PK_TRY(pk_cuda_begin_graphs(c, &d->part[k].graphs[add], err));
    return pk_cuda_end_graphs(c, enqueue_part(x, b, k, add, err), err);
}

static enum pk_status launch_part(struct pk_exec *x, struct pk_bound *b, int32_t k, bool add,
                                  struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    struct bound *d = b->device;
    if (x->eager) return enqueue_part(x, b, k, add, err);
    if (!d->part[k].graphs[add].count) PK_TRY(capture(x, b, k, add, err));
    return pk_cuda_launch_graphs(c, &d->part[k].graphs[add], err);
}

/* send: this is the last of the step, so that gradients leave as they get ready. */
static enum pk_status launch(struct pk_exec *x, struct pk_bound *b, bool add, bool send,
                             struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    struct bound *d = b->device;
    if (b->seconds) return time_nodes(x, b, add, send, err);
    if (d->generation != c->generation) drop_graphs(d);
    d->generation = c->generation;
    for (int32_t k = 0; k < d->parts; k++) {
        PK_TRY(launch_part(x, b, k, add, err));
        if (send) PK_TRY(send_part(x, d, k, err));
    }
    return PK_OK;
}

static bool is_cut(const struct pk_cut *cut, const struct pk_value *v)
{
    return cut->resident && !strcmp(cut->name, v->name);
}

static enum pk_status upload(struct pk_cuda *c, int64_t at, const void *from, size_t bytes,
                             const char *name, struct pk_err *err)
{
    return pk_cuda_check(cudaMemcpyAsync((char *)c->staging.memory + at, from, bytes,
                                         cudaMemcpyHostToDevice, c->copy),
                         name, err);
}

/* One input to the staging area, unless it is on the device; of records that live there, their
 * numbers and starts. */
static enum pk_status stage(struct pk_cuda *c, const struct bound *d, const struct pk_value *v,
                            const struct pk_cut *cut, int64_t micro, struct pk_err *err)
{
    const struct pk_feed *f = d->feed[v->input];
    const int64_t at = d->input[v->input], n = v->dim[0];
    if (pk_cuda_in_rows(c, f->data)) return PK_OK;
    if (!is_cut(cut, v))
        return upload(c, at, (const char *)f->data + (size_t)micro * f->stride, pk_value_bytes(v),
                      f->name, err);
    PK_TRY(upload(c, at, cut->record + micro * n, (size_t)n * sizeof *cut->record, f->name, err));
    return upload(c, at + n * (int64_t)sizeof *cut->record, cut->start + micro * n,
                  (size_t)n * sizeof *cut->start, f->name, err);
}

/* From the staging area, or from rows, to where the program reads it. */
static enum pk_status place(struct pk_cuda *c, const struct bound *d, const struct pk_value *v,
                            const struct pk_cut *cut, int64_t micro, struct pk_err *err)
{
    const struct pk_feed *f = d->feed[v->input];
    char *to = (char *)c->input.memory + d->input[v->input];
    const char *from = (const char *)c->staging.memory + d->input[v->input];
    const int64_t *record = (const int64_t *)(const void *)from;
    if (is_cut(cut, v))
        return pk_cuda_cut_batch(&c->q, cut->resident, (int16_t *)(void *)to, record,
                                 (const int32_t *)(const void *)(record + v->dim[0]), v->dim[0],
                                 v->dim[2], err);
    if (pk_cuda_in_rows(c, f->data)) from = (const char *)f->data + (size_t)micro * f->stride;
    return pk_cuda_check(
        cudaMemcpyAsync(to, from, pk_value_bytes(v), cudaMemcpyDeviceToDevice, c->q.stream),
        f->name, err);
}

/* The inputs of one micro-batch: to the staging area beside the step at work, then into place. */
static enum pk_status feed_inputs(struct pk_exec *x, struct pk_bound *b, const struct pk_cut *cut,
                                  int64_t micro, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    const struct bound *d = b->device;
    const struct pk_prog *p = b->prog;
    PK_TRY(pk_cuda_check(cudaStreamWaitEvent(c->copy, c->consumed, 0), "inputs", err));
    for (int64_t v = 0; v < p->values; v++)
        if (p->value[v].storage == PK_STORE_IN && v != p->seed)
            PK_TRY(stage(c, d, &p->value[v], cut, micro, err));
    PK_TRY(pk_cuda_check(cudaEventRecord(c->copied, c->copy), "inputs", err));
    PK_TRY(pk_cuda_check(cudaStreamWaitEvent(c->q.stream, c->copied, 0), "inputs", err));
    for (int64_t v = 0; v < p->values; v++)
        if (p->value[v].storage == PK_STORE_IN && v != p->seed)
            PK_TRY(place(c, d, &p->value[v], cut, micro, err));
    return pk_cuda_check(cudaEventRecord(c->consumed, c->q.stream), "inputs", err);
}

/* counts: this rank's copy of the loss is the one that goes into the step's. */
static enum pk_status set_seed(struct pk_cuda *c, double scale, bool counts, struct pk_err *err)
{
    const float seed[2] = {(float)scale, counts ? (float)scale : 0};
    if (seed[0] == c->seed[0] && seed[1] == c->seed[1]) return PK_OK;
    memcpy(c->seed, seed, sizeof seed);
    return pk_cuda_put_pair(&c->q, &small_of(c)->seed, seed[0], seed[1], err); // and counted
}

static float bf16_to_float(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* From the pinned area, where the micro-batches of each output lie behind each other, to the
 * caller, as float. */
static void deliver(struct pk_cuda *c, const struct pk_prog *p, const int32_t *fetched,
                    const struct pk_exec_batch *run)
{
    const char *at = c->fetch.memory;
    for (int i = 0; i < run->fetches; i++) {
        const struct pk_value *v = &p->value[fetched[i]];
        const size_t bytes = pk_value_bytes(v) * (size_t)run->micros;
        if (pk_cuda_in_rows(c, run->fetch[i].data)) continue;
        if (v->dtype == PK_BF16)
            for (size_t k = 0; k < bytes / sizeof(uint16_t); k++)
                ((float *)run->fetch[i].data)[k] =
                    bf16_to_float(((const uint16_t *)(const void *)at)[k]);
        else
            memcpy(run->fetch[i].data, at, bytes);
        at += aligned((int64_t)bytes);
    }
}

static enum pk_status fetch_outputs(struct pk_exec *x, struct pk_bound *b, const int32_t *fetched,
                                    const struct pk_exec_batch *run, int64_t micro,
                                    struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    char *at = c->fetch.memory;
    for (int i = 0; i < run->fetches; i++) {
        const struct pk_value *v = &b->prog->value[fetched[i]];
        const size_t bytes = pk_value_bytes(v);
        if (pk_cuda_in_rows(c, run->fetch[i].data)) {
            PK_TRY(pk_cuda_to_rows(c, (float *)run->fetch[i].data + micro * pk_value_count(v), v,
                                   address(c, b, fetched[i]), err));
            continue;
        }
        PK_TRY(pk_cuda_check(cudaMemcpyAsync(at + (size_t)micro * bytes, address(c, b, fetched[i]),
                                             bytes, cudaMemcpyDeviceToHost, c->q.stream),
                             run->fetch[i].name, err));
        at += aligned((int64_t)bytes * run->micros);
    }
    return PK_OK;
}

/* *waits: some go to the host. */
static enum pk_status reserve_fetch(struct pk_cuda *c, const struct pk_prog *p,
                                    const int32_t *fetched, const struct pk_exec_batch *run,
                                    bool *waits, struct pk_err *err)
{
    int64_t bytes = 0;
    for (int i = 0; i < run->fetches; i++)
        if (!pk_cuda_in_rows(c, run->fetch[i].data))
            bytes += aligned((int64_t)pk_value_bytes(&p->value[fetched[i]]) * run->micros);
    *waits = bytes > 0;
    if (bytes <= c->fetch.bytes) return PK_OK;
    cudaFreeHost(c->fetch.memory);
    c->fetch = (struct pk_cuda_block){0};
    PK_TRY(pk_cuda_check(cudaMallocHost(&c->fetch.memory, (size_t)bytes), "pinned outputs", err));
    c->fetch.bytes = bytes;
    return PK_OK;
}

enum pk_status pk_cuda_run(struct pk_exec *x, struct pk_bound *b, const struct pk_exec_batch *run,
                           struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    const struct bound *d = b->device;
    int32_t fetched[16];
    bool waits;
    if (run->fetches > (int)PK_COUNT(fetched))
        return pk_fail(err, PK_EINTERNAL, "more than %d outputs asked for", (int)PK_COUNT(fetched));
    PK_TRY(pk_exec_resolve(b->prog, run, d->feed, fetched, err));
    PK_TRY(reserve_fetch(c, b->prog, fetched, run, &waits, err));
    const bool trains = b->prog->loss >= 0, counts = !run->shared || !x->comm || !x->comm->rank;
    if (trains) PK_TRY(set_seed(c, run->loss_scale, counts, err));
    c->prog = b->prog;
    for (int64_t m = 0; m < run->micros; m++) {
        PK_TRY(feed_inputs(x, b, &run->cut, m, err));
        const bool send = trains && x->comm && !run->more && m == run->micros - 1;
        PK_TRY(launch(x, b, run->add || m > 0, send, err));
        PK_TRY(fetch_outputs(x, b, fetched, run, m, err));
    }
    if (!waits) return PK_OK;
    PK_TRY(pk_cuda_finish(x, err));
    deliver(c, b->prog, fetched, run);
    return PK_OK;
}

/* --- the optimizer step ---------------------------------------------------------------------- */

static enum pk_status enqueue_update(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    struct pk_cuda_optim_arenas a = {.weight = c->weight.memory,
                                     .m = c->m.memory,
                                     .v = c->v.memory,
                                     .ema = c->ema.memory,
                                     .grad = c->grad.memory,
                                     .weight_low = c->weight_low.memory,
                                     .ema_low = c->ema_low.memory};
    PK_TRY(pk_cuda_optim_measure(c->optim, &c->q, c->grad.memory, err));
    if (x->share) PK_TRY(pk_cuda_join_norms(x, err));
    PK_TRY(
        pk_cuda_optim_apply(c->optim, &c->q, &a, &small_of(c)->scalars, &small_of(c)->report, err));
    if (!x->share) return PK_OK;
    PK_TRY(pk_cuda_share_weights(x, err));
    return pk_cuda_optim_follow(c->optim, &c->q, &a, &small_of(c)->scalars, &small_of(c)->report,
                                err);
}

static enum pk_status launch_update(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    if (x->eager || x->share) return enqueue_update(x, err); // no message is captured
    if (!c->update.count) {
        PK_TRY(pk_cuda_begin_graphs(c, &c->update, err));
        PK_TRY(pk_cuda_end_graphs(c, enqueue_update(x, err), err));
    }
    return pk_cuda_launch_graphs(c, &c->update, err);
}

enum pk_status pk_cuda_update(struct pk_exec *x, const struct pk_optim_step *step,
                              struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    const int slot = (int)(c->enqueued % PK_CUDA_RING);
    struct pk_cuda_small *host = &c->host[slot];
    if (c->enqueued - c->told >= PK_CUDA_RING)
        return pk_fail(err, PK_EINTERNAL, "%d steps are under way and nobody asks how they went",
                       PK_CUDA_RING);
    PK_TRY(pk_optim_step_check(step, err));
    if (x->comm) PK_TRY(pk_cuda_receive(x, err));
    pk_cuda_scalars_set(&host->scalars, pk_optim_constants(x->optim), step, x->skip_nan);
    PK_TRY(pk_cuda_check(cudaMemcpyAsync(&small_of(c)->scalars, &host->scalars,
                                         sizeof host->scalars, cudaMemcpyHostToDevice, c->q.stream),
                         "step record", err));
    PK_TRY(launch_update(x, err));
    PK_TRY(pk_cuda_check(cudaMemcpyAsync(&host->report, &small_of(c)->report,
                                         sizeof host->report + sizeof host->fault,
                                         cudaMemcpyDeviceToHost, c->q.stream),
                         "step record", err));
    PK_TRY(pk_cuda_check(cudaEventRecord(c->done[slot], c->q.stream), "step record", err));
    c->enqueued++;
    return PK_OK;
}

static enum pk_status check_fault(const struct pk_cuda *c, const struct pk_cuda_fault *f,
                                  struct pk_err *err)
{
    static const char *const what[] = {"", "index", "window start", "label"};
    if (f->code == PK_FAULT_NONE) return PK_OK;
    const char *scope =
        c->prog && f->node >= 0 && f->node < c->prog->text_len ? c->prog->text + f->node : "";
    return pk_fail(err, PK_EDATA, "%srecord %lld of the batch: %s %lld is out of range", scope,
                   (long long)f->record, what[f->code], (long long)f->value);
}

static void diverged(const struct pk_exec *x, const struct pk_cuda_report *r, struct pk_err *err)
{
    if (!isfinite(r->loss)) {
        pk_fail(err, PK_EDIVERGED, "the loss of step %lld is not finite", (long long)r->step);
        return;
    }
    if (r->bad >= 0)
        pk_optim_diverged(x->params, r->step, r->bad, (double)r->bad_value, err);
    else // the squares of finite gradients overflow
        pk_fail(err, PK_EDIVERGED, "the gradient norm of step %lld is not finite",
                (long long)r->step);
}

enum pk_status pk_cuda_result(struct pk_exec *x, int lag, struct pk_exec_result *out, bool *have,
                              struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    const int slot = (int)(c->told % PK_CUDA_RING);
    struct pk_cuda_small *host = &c->host[slot];
    *have = c->enqueued - c->told > lag;
    if (!*have) return PK_OK;
    PK_TRY(pk_cuda_wait_event(c, c->done[slot], err));
    PK_TRY(check_fault(c, &host->fault, err));
    c->told++;
    if (x->share && !host->report.taken) PK_TRY(pk_cuda_find_bad(x, &host->report, err));
    *out = (struct pk_exec_result){.step = host->report.step,
                                   .loss = host->report.loss,
                                   .norm = host->report.norm,
                                   .taken = host->report.taken != 0};
    if (!out->taken) diverged(x, &host->report, &out->why);
    return PK_OK;
}

enum pk_status pk_cuda_finish(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    struct pk_cuda_fault fault;
    PK_TRY(pk_cuda_wait_stream(c, c->copy, "copy", err));
    PK_TRY(pk_cuda_wait_stream(c, c->q.stream, "training step", err));
    PK_TRY(
        pk_cuda_check(cudaMemcpy(&fault, &small_of(c)->fault, sizeof fault, cudaMemcpyDeviceToHost),
                      "faults", err));
    return check_fault(c, &fault, err);
}
