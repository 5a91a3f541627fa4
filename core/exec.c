/* exec.c -- binding and running programs on the CPU (see exec.h). */
#include "core/exec.h"
#include "core/cpu/gemm.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum pk_status pk_exec_create(struct pk_exec *x, const struct pk_exec_spec *spec,
                              struct pk_err *err)
{
    enum pk_status s;
    int threads = spec->threads > 0 ? spec->threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    size_t n = (size_t)spec->params->elements;
    *x = (struct pk_exec){
        .params = spec->params, .threads = PK_MAX(threads, 1), .elements = spec->params->elements};
    x->isa = pk_isa_best();
    x->kernel = pk_cpu_table(x->isa);
    x->flat = pk_cpu_flat(x->isa);
    if ((s = pk_pool_create(&x->pool, x->threads, pk_gemm_thread_init, err)) != PK_OK) goto fail;
    if ((s = pk_alloc_aligned(&x->weight, n, sizeof(float), "weights", err)) != PK_OK) goto fail;
    if (spec->ema && (s = pk_alloc_aligned(&x->ema, n, sizeof(float), "EMA weights", err)) != PK_OK)
        goto fail;
    x->shards = spec->train ? PK_SHARDS : 0;
    if (spec->train &&
        (s = pk_alloc_aligned(&x->grad, n * PK_SHARDS, sizeof(float), "gradients", err)) != PK_OK)
        goto fail;
    s = pk_alloc(&x->arena, (size_t)x->threads, sizeof *x->arena, "arena list", err);
    if (s != PK_OK) goto fail;
    return PK_OK;
fail:
    pk_exec_free(x);
    return s;
}

void pk_exec_free(struct pk_exec *x)
{
    pk_pool_free(x->pool);
    for (int i = 0; x->arena && i < x->threads; i++) free(x->arena[i]);
    free(x->arena);
    free(x->weight);
    free(x->ema);
    free(x->grad);
    *x = (struct pk_exec){0};
}

static enum pk_status check_storage(const struct pk_exec *x, const struct pk_prog *p,
                                    struct pk_err *err)
{
    if (p->params != x->params || x->params->elements != x->elements)
        return pk_fail(err, PK_EINTERNAL,
                       "parameters were added after the arenas of the model were made");
    for (int64_t v = 0; v < p->values; v++) {
        enum pk_storage s = p->value[v].storage;
        if ((s == PK_STORE_EMA && !x->ema) || (s == PK_STORE_GRAD && !x->grad))
            return pk_fail(err, PK_EINTERNAL, "the program needs an arena that was not made");
    }
    for (int64_t k = 0; k < p->nodes; k++)
        if (!x->kernel[p->node[k].op])
            return pk_fail(err, PK_EINTERNAL, "op '%s' has no %s kernel",
                           pk_op_table[p->node[k].op]->name, pk_isa_name(x->isa));
    return PK_OK;
}

enum pk_status pk_exec_bind(struct pk_exec *x, struct pk_bound *out, const struct pk_prog *prog,
                            struct pk_err *err)
{
    *out = (struct pk_bound){.prog = prog};
    PK_TRY(check_storage(x, prog, err));
    PK_TRY(pk_plan_make(&out->plan, prog, err));
    if (out->plan.arena <= x->arena_bytes) return PK_OK;
    for (int i = 0; i < x->threads; i++) {
        free(x->arena[i]);
        x->arena[i] = NULL;
    }
    x->arena_bytes = 0;
    for (int i = 0; i < x->threads; i++) {
        enum pk_status s = pk_alloc_aligned(&x->arena[i], (size_t)out->plan.arena, 1, "arena", err);
        if (s != PK_OK) {
            pk_bound_free(out);
            return s;
        }
    }
    x->arena_bytes = out->plan.arena;
    return PK_OK;
}

void pk_bound_free(struct pk_bound *b)
{
    pk_plan_free(&b->plan);
    free(b->seconds);
    *b = (struct pk_bound){0};
}

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
};

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
    struct pk_call c = {.node = n};
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
        if (trains && !(j->run->add && group == 0))
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
    enum { BLOCK = 4096 };
    for (int64_t at = first; at < last; at += BLOCK) {
        int64_t n = PK_MIN((int64_t)BLOCK, last - at);
        for (int64_t step = 1; step < j->groups; step *= 2)
            for (int64_t i = 0; i + step < j->groups; i += 2 * step)
                x->flat->add(x->grad + i * x->params->elements + at,
                             x->grad + (i + step) * x->params->elements + at, n);
    }
}

static enum pk_status resolve(struct job *j, struct pk_err *err)
{
    const struct pk_prog *p = j->b->prog;
    if (j->run->micros < 1) return pk_fail(err, PK_EINTERNAL, "a run without micro-batches");
    for (int i = 0; i < j->run->feeds; i++) {
        int32_t v = pk_prog_find(p, PK_STORE_IN, j->run->feed[i].name);
        if (v < 0)
            return pk_fail(err, PK_EINTERNAL, "the program has no input '%s'",
                           j->run->feed[i].name);
        j->feed[p->value[v].input] = &j->run->feed[i];
    }
    for (int64_t v = 0; v < p->values; v++)
        if (p->value[v].storage == PK_STORE_IN && v != p->seed && !j->feed[p->value[v].input])
            return pk_fail(err, PK_EINTERNAL, "input '%s' of the program was not given",
                           p->value[v].name);
    for (int i = 0; i < j->run->fetches; i++) {
        j->fetched[i] = pk_prog_find(p, PK_STORE_ACT, j->run->fetch[i].name);
        if (j->fetched[i] < 0)
            return pk_fail(err, PK_EINTERNAL, "the program has no output '%s'",
                           j->run->fetch[i].name);
    }
    return PK_OK;
}

enum pk_status pk_exec_run(struct pk_exec *x, struct pk_bound *b, const struct pk_exec_batch *run,
                           struct pk_err *err)
{
    struct job j = {.x = x, .b = b, .run = run, .seed = (float)run->loss_scale};
    bool trains = b->prog->loss >= 0;
    j.groups = trains ? PK_MIN(run->micros, x->shards) : run->micros;
    size_t slots = (size_t)PK_MAX(b->prog->inputs, 1);
    enum pk_status s = pk_alloc(&j.feed, slots, sizeof *j.feed, "feeds", err);
    if (s == PK_OK)
        s = pk_alloc(&j.fetched, (size_t)run->fetches, sizeof *j.fetched, "fetches", err);
    if (s == PK_OK) s = resolve(&j, err);
    if (s == PK_OK) {
        pk_pool_run(x->pool, work, &j);
        if (atomic_load(&j.failed)) {
            if (err) *err = j.err;
            s = j.err.status;
        } else if (trains && j.groups > 1) {
            pk_exec_range(x, x->params->elements, add_shards, &j);
        }
    }
    free(j.feed);
    free(j.fetched);
    return s;
}
