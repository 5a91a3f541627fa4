/* exec_run.c -- running a program on the CPU: workers take whole micro-batches, and shards of the
 * gradient meet in a fixed tree (see exec.h). */
#include "core/exec.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct job { // one pk_exec_run, shared by its workers
    struct pk_exec *x;
    struct pk_bound *b;
    const struct pk_exec_batch *run;
    const struct pk_feed **feed; // [inputs] by slot; NULL for "seed"
    int32_t *fetched;            // [fetches] value index
    int64_t groups;              // shards, or micro-batches when there is no gradient
    atomic_int_fast64_t next;    // group to be taken
    atomic_int failed;
    struct pk_err err; // of the first failure
    float seed;
    bool joins; // norms or losses go over all ranks
    struct pk_joined joined;
};

static enum pk_status gather_rows(const struct pk_joined *joined, int64_t count, struct pk_err *err)
{
    return pk_comm_all_gather(joined->ctx, joined->all, (size_t)count * sizeof(float), err);
}

static void join_job(struct job *j)
{
    const struct pk_exec *x = j->x;
    j->joins = j->b->joined > 0;
    if (!j->joins) return;
    j->joined = (struct pk_joined){.rank = x->comm->rank,
                                   .size = x->comm->size,
                                   .all = x->joined,
                                   .gather = gather_rows,
                                   .ctx = x->comm};
}

static void *address(const struct job *j, int worker, int64_t micro, int64_t shard, int32_t i)
{
    const struct pk_value *v = &j->b->prog->value[i];
    const struct pk_exec *x = j->x;
    switch (v->storage) {
    case PK_STORE_IN: {
        const struct pk_feed *f = j->feed[v->input];
        return f ? (char *)(uintptr_t)f->data + (size_t)micro * f->stride
                 : (void *)(uintptr_t)&j->seed;
    }
    case PK_STORE_PARAM:
    case PK_STORE_STATE:
        return x->weight + x->params->item[v->param].offset;
    case PK_STORE_EMA:
        return x->ema + x->params->item[v->param].offset;
    case PK_STORE_GRAD:
        return x->grad + shard * x->params->elements + x->params->item[v->param].offset;
    case PK_STORE_CONST:
        return j->b->prog->constants + v->constant;
    case PK_STORE_ACT:
        return x->arena[worker] + j->b->plan.offset[i];
    }
    return NULL;
}

static enum pk_status run_node(const struct job *j, int worker, int64_t micro, int64_t shard,
                               int64_t k, struct pk_err *err)
{
    const struct pk_prog *p = j->b->prog;
    const struct pk_node *n = &p->node[k];
    struct pk_call c = {.node = n, .joined = j->joins ? &j->joined : NULL};
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] < 0) continue;
        c.in[i] = &p->value[n->in[i]];
        c.src[i] = address(j, worker, micro, shard, n->in[i]);
    }
    for (int i = 0; i < n->n_out; i++) {
        if (n->out[i] < 0) continue;
        c.out[i] = &p->value[n->out[i]];
        c.dst[i] = address(j, worker, micro, shard, n->out[i]);
    }
    if (j->b->plan.workspace[k] >= 0) c.workspace = j->x->arena[worker] + j->b->plan.workspace[k];
    if (!j->b->seconds || worker) return j->x->kernel[n->op](&c, err);
    double start = pk_seconds();
    enum pk_status s = j->x->kernel[n->op](&c, err);
    j->b->seconds[k] += pk_seconds() - start;
    return s;
}

static enum pk_status run_micro(const struct job *j, int worker, int64_t micro, int64_t shard,
                                struct pk_err *err)
{
    const struct pk_prog *p = j->b->prog;
#ifdef PK_DEBUG_FILL
    for (int64_t i = 0; i < j->b->plan.arena / 4; i++) ((float *)j->x->arena[worker])[i] = NAN;
#endif
    for (int64_t k = 0; k < p->nodes; k++) PK_TRY(run_node(j, worker, micro, shard, k, err));
    if (j->b->seconds && !worker) j->b->profiled++;
    if (p->loss >= 0)
        j->x->micro_loss[micro] = *(const float *)address(j, worker, micro, shard, p->loss);
    for (int i = 0; i < j->run->fetches; i++) {
        size_t bytes = pk_value_bytes(&p->value[j->fetched[i]]);
        memcpy((char *)j->run->fetch[i].data + (size_t)micro * bytes,
               address(j, worker, micro, shard, j->fetched[i]), bytes);
    }
    return PK_OK;
}

static void work(void *ctx, int worker)
{
    struct job *j = ctx;
    int64_t micros = j->run->micros, group;
    bool trains = j->b->prog->loss >= 0;
    while ((group = atomic_fetch_add(&j->next, 1)) < j->groups && !atomic_load(&j->failed)) {
        if (trains && !(j->run->add && group < j->x->live))
            memset(j->x->grad + group * j->x->params->elements, 0,
                   (size_t)j->x->params->elements * sizeof(float));
        int64_t last = (group + 1) * micros / j->groups;
        for (int64_t m = group * micros / j->groups; m < last; m++) {
            struct pk_err err = {0};
            if (run_micro(j, worker, m, group, &err) == PK_OK) continue;
            if (!atomic_exchange(&j->failed, 1)) j->err = err;
            break;
        }
    }
}

struct range {
    struct pk_exec *x;
    int64_t count;
    void (*fn)(void *ctx, int64_t first, int64_t last);
    void *ctx;
};

static void work_range(void *ctx, int worker)
{
    const struct range *r = ctx;
    int64_t blocks = (r->count + 15) / 16;
    int64_t first = blocks * worker / r->x->threads * 16;
    int64_t last = PK_MIN(blocks * (worker + 1) / r->x->threads * 16, r->count);
    if (first < last) r->fn(r->ctx, first, last);
}

void pk_exec_range(struct pk_exec *x, int64_t count,
                   void (*fn)(void *ctx, int64_t first, int64_t last), void *ctx)
{
    struct range r = {.x = x, .count = count, .fn = fn, .ctx = ctx};
    pk_pool_run(x->pool, work_range, &r);
}

/* The fixed tree: shard i takes i + 1, then i + 2, then i + 4, blockwise so that it stays in cache.
 */
static void add_shards(void *ctx, int64_t first, int64_t last)
{
    const struct job *j = ctx;
    const struct pk_exec *x = j->x;
    const int64_t shards = x->live;
    enum { BLOCK = 4096 };
    for (int64_t at = first; at < last; at += BLOCK) {
        int64_t n = PK_MIN((int64_t)BLOCK, last - at);
        for (int64_t step = 1; step < shards; step *= 2)
            for (int64_t i = 0; i + step < shards; i += 2 * step)
                x->flat->add(x->grad + i * x->params->elements + at,
                             x->grad + (i + step) * x->params->elements + at, n);
    }
}

enum pk_status pk_exec_resolve(const struct pk_prog *p, const struct pk_exec_batch *run,
                               const struct pk_feed **feed, int32_t *fetched, struct pk_err *err)
{
    if (run->micros < 1) return pk_fail(err, PK_EINTERNAL, "a run without micro-batches");
    for (int32_t i = 0; i < p->inputs; i++) feed[i] = NULL;
    for (int i = 0; i < run->feeds; i++) {
        int32_t v = pk_prog_find(p, PK_STORE_IN, run->feed[i].name);
        if (v < 0)
            return pk_fail(err, PK_EINTERNAL, "the program has no input '%s'", run->feed[i].name);
        feed[p->value[v].input] = &run->feed[i];
    }
    for (int64_t v = 0; v < p->values; v++)
        if (p->value[v].storage == PK_STORE_IN && v != p->seed && !feed[p->value[v].input])
            return pk_fail(err, PK_EINTERNAL, "input '%s' of the program was not given",
                           p->value[v].name);
    for (int i = 0; i < run->fetches; i++) {
        fetched[i] = pk_prog_find(p, PK_STORE_ACT, run->fetch[i].name);
        if (fetched[i] < 0)
            return pk_fail(err, PK_EINTERNAL, "the program has no output '%s'", run->fetch[i].name);
    }
    return PK_OK;
}

/* Keeps the losses of a run until all ranks' can be added in the order of a single one. */
static enum pk_status note_losses(struct pk_exec *x, const struct pk_exec_batch *run,
                                  struct pk_err *err)
{
    if (!run->add) x->notes = x->noted_count = 0;
    const int64_t count = x->noted_count + run->micros;
    PK_TRY(pk_grow(&x->note, &x->note_cap, x->notes + 1, sizeof *x->note, "losses", err));
    PK_TRY(pk_grow(&x->noted, &x->noted_cap, count, sizeof *x->noted, "losses", err));
    x->note[x->notes++] = (struct pk_exec_run_note){run->micros, run->loss_scale, run->shared};
    memcpy(x->noted + x->noted_count, x->micro_loss, (size_t)run->micros * sizeof *x->noted);
    x->noted_count = count;
    return PK_OK;
}

static enum pk_status run_on_cpu(struct pk_exec *x, struct pk_bound *b,
                                 const struct pk_exec_batch *run, struct pk_err *err)
{
    struct job j = {.x = x, .b = b, .run = run, .seed = (float)run->loss_scale};
    bool trains = b->prog->loss >= 0;
    j.groups = trains ? PK_MIN(run->micros, x->shards) : run->micros;
    size_t slots = (size_t)PK_MAX(b->prog->inputs, 1);
    join_job(&j);
    enum pk_status s = pk_alloc(&j.feed, slots, sizeof *j.feed, "feeds", err);
    if (s == PK_OK)
        s = pk_alloc(&j.fetched, (size_t)run->fetches, sizeof *j.fetched, "fetches", err);
    if (s == PK_OK) s = pk_exec_resolve(b->prog, run, j.feed, j.fetched, err);
    if (s == PK_OK && trains)
        s = pk_grow(&x->micro_loss, &x->micro_cap, run->micros, sizeof *x->micro_loss, "losses",
                    err);
    if (s == PK_OK) {
        pk_pool_run(x->pool, work, &j);
        if (atomic_load(&j.failed)) {
            if (err) *err = j.err;
            s = j.err.status;
        }
    }
    if (s == PK_OK && trains) {
        x->live = PK_MAX(j.groups, run->add ? x->live : 0);
        if (!run->more && x->live > 1) {
            pk_exec_range(x, x->params->elements, add_shards, &j);
            x->live = 1;
        }
        if (!run->add) x->loss = 0;
        for (int64_t i = 0; i < run->micros; i++)
            x->loss += (double)x->micro_loss[i] * run->loss_scale;
        if (x->comm) s = note_losses(x, run, err);
    }
    free(j.feed);
    free(j.fetched);
    return s;
}

enum pk_status pk_exec_run(struct pk_exec *x, struct pk_bound *b, const struct pk_exec_batch *run,
                           struct pk_err *err)
{
    // one micro-batch follows the other, so only one of each rank can meet the others'
    if (b->joined && (run->micros != 1 || run->shared != b->shared))
        return pk_fail(err, PK_EINTERNAL, "%s over all ranks in a run of %lld %s at each",
                       b->shared ? "a loss" : "batch norm", (long long)run->micros,
                       run->shared ? "batches of all" : "micro-batches");
    return x->backend ? x->backend->run(x, b, run, err) : run_on_cpu(x, b, run, err);
}

/* --- the optimizer step ---------------------------------------------------------------------- */
