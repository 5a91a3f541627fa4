/* exec.c -- binding and running programs on the CPU, or handing them to a backend (see exec.h). */
#include "core/exec.h"
#include "core/cpu/gemm.h"
#include "core/sink.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static enum pk_status share_out(struct pk_exec *x, struct pk_err *err)
{
    const struct pk_params *p = x->params;
    const int size = x->comm->size;
    PK_TRY(pk_alloc(&x->share, (size_t)size + 1, sizeof *x->share, "shares of the ranks", err));
    for (int k = 0; k < size; k++) {
        int64_t first, last;
        pk_params_share(p, k, size, &first, &last);
        x->share[k] = first < p->count ? p->item[first].offset : p->elements;
    }
    x->share[size] = p->elements;
    x->moments = x->share[x->comm->rank + 1] - x->share[x->comm->rank];
    return PK_OK;
}

static enum pk_status alloc_arenas(struct pk_exec *x, const struct pk_exec_spec *spec,
                                   struct pk_err *err)
{
    const int64_t shards = x->comm ? PK_MAX(PK_SHARDS / x->comm->size, 1) : PK_SHARDS;
    const bool grad = spec->train && !spec->backend;
    x->moments = x->elements;
    if (spec->zero1 && x->comm) PK_TRY(share_out(x, err));
    const struct {
        float **to;
        bool wanted;
        int64_t elements;
        const char *what;
    } all[] = {{&x->weight, true, x->elements, "weights"},
               {&x->ema, spec->ema, x->elements, "EMA weights"},
               {&x->m, spec->train, x->moments, "first moments"},
               {&x->v, spec->train, x->moments, "second moments"},
               {&x->grad, grad, x->elements * shards, "gradients"}};
    for (size_t i = 0; i < PK_COUNT(all); i++)
        if (all[i].wanted)
            PK_TRY(pk_alloc_aligned(all[i].to, (size_t)all[i].elements, sizeof(float), all[i].what,
                                    err));
    x->shards = x->grad ? shards : 0;
    return PK_OK;
}

enum pk_status pk_exec_create(struct pk_exec *x, const struct pk_exec_spec *spec,
                              struct pk_err *err)
{
    enum pk_status s;
    int threads = spec->threads > 0 ? spec->threads : pk_threads_available();
    *x = (struct pk_exec){.params = spec->params,
                          .threads = PK_MAX(threads, 1),
                          .elements = spec->params->elements,
                          .comm = spec->comm && spec->comm->size > 1 ? spec->comm : NULL,
                          .eager = spec->eager,
                          .skip_nan = spec->skip_nan,
                          .wire = spec->wire};
    x->sync_norm = spec->sync_norm && x->comm;
    if (x->sync_norm && spec->backend)
        return pk_fail(err, PK_EMISSING,
                       "train.sync_norm: batch norm goes over all ranks on CPUs only, not on '%s' "
                       "devices; without it the statistics are those of each rank's records",
                       spec->backend->name);
    if (spec->zero1 && spec->backend)
        return pk_fail(err, PK_EMISSING,
                       "train.zero1: moments are shared out over ranks on CPUs only, not on '%s' "
                       "devices",
                       spec->backend->name);
    x->isa = pk_isa_best();
    x->kernel = pk_cpu_table(x->isa);
    x->flat = pk_cpu_flat(x->isa);
    if ((s = pk_pool_create(&x->pool, x->threads, pk_gemm_thread_init, err)) != PK_OK) goto fail;
    if ((s = alloc_arenas(x, spec, err)) != PK_OK) goto fail;
    s = pk_alloc(&x->arena, (size_t)x->threads, sizeof *x->arena, "arena list", err);
    if (s != PK_OK) goto fail;
    if (!spec->backend) return PK_OK;
    x->backend = spec->backend;
    if ((s = x->backend->open(x, err)) == PK_OK) return PK_OK;
fail:
    pk_exec_free(x);
    return s;
}

void pk_exec_free(struct pk_exec *x)
{
    if (x->backend) x->backend->close(x);
    pk_pool_free(x->pool);
    for (int i = 0; x->arena && i < x->threads; i++) free(x->arena[i]);
    free(x->arena);
    free(x->weight);
    free(x->ema);
    free(x->m);
    free(x->v);
    free(x->share);
    free(x->grad);
    free(x->joined);
    free(x->micro_loss);
    free(x->note);
    free(x->noted);
    pk_optim_free(x->optim);
    *x = (struct pk_exec){0};
}

static enum pk_status check_storage(const struct pk_exec *x, const struct pk_prog *p,
                                    struct pk_err *err)
{
    bool uses = false; // a program without parameters may have been built over another table
    for (int64_t v = 0; v < p->values; v++) {
        enum pk_storage s = p->value[v].storage;
        uses |=
            s == PK_STORE_PARAM || s == PK_STORE_EMA || s == PK_STORE_GRAD || s == PK_STORE_STATE;
    }
    if ((uses && p->params != x->params) || x->params->elements != x->elements)
        return pk_fail(err, PK_EINTERNAL,
                       "parameters were added after the arenas of the model were made");
    for (int64_t v = 0; v < p->values; v++) {
        enum pk_storage s = p->value[v].storage;
        if ((s == PK_STORE_EMA && !x->ema) || (s == PK_STORE_GRAD && !x->m))
            return pk_fail(err, PK_EINTERNAL, "the program needs an arena that was not made");
    }
    if (x->backend) return PK_OK;
    if (x->params->storage != PK_F32)
        return pk_fail(err, PK_EINTERNAL, "a program in %s on the CPU, whose kernels are fp32",
                       pk_dtype_name(x->params->storage));
    for (int64_t k = 0; k < p->nodes; k++)
        if (!x->kernel[p->node[k].op])
            return pk_fail(err, PK_EINTERNAL, "op '%s' has no %s kernel",
                           pk_op_table[p->node[k].op]->name, pk_isa_name(x->isa));
    return PK_OK;
}

/* Room for what the ranks' norms exchange: two numbers for each channel. */
static enum pk_status join_norms(struct pk_exec *x, struct pk_bound *b, struct pk_err *err)
{
    const struct pk_prog *p = b->prog;
    for (int64_t k = 0; k < p->nodes; k++) {
        const struct pk_node *n = &p->node[k];
        if (n->op != PK_OP_BATCHNORM || !n->attr.batchnorm.train) continue;
        const struct pk_value *in = &p->value[n->in[0]];
        b->joined = PK_MAX(b->joined, 2 * in->dim[in->rank - 1]);
    }
    return pk_grow(&x->joined, &x->joined_cap, b->joined * (x->comm->size + 1), sizeof *x->joined,
                   "statistics of the ranks", err);
}

enum pk_status pk_exec_bind(struct pk_exec *x, struct pk_bound *out, const struct pk_prog *prog,
                            struct pk_err *err)
{
    *out = (struct pk_bound){.prog = prog, .backend = x->backend};
    PK_TRY(check_storage(x, prog, err));
    if (x->sync_norm) PK_TRY(join_norms(x, out, err));
    PK_TRY(pk_plan_make(&out->plan, prog, x->backend ? x->backend->workspace : NULL, err));
    if (x->backend) {
        enum pk_status s = x->backend->bind(x, out, err);
        if (s != PK_OK) pk_bound_free(out);
        return s;
    }
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
    if (b->backend) b->backend->unbind(b);
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
    bool joins; // norms go over all ranks
    struct pk_joined joined;
};

static enum pk_status gather_rows(const struct pk_joined *joined, int64_t count, struct pk_err *err)
{
    return pk_comm_all_gather(joined->ctx, joined->all, (size_t)count * sizeof(float), err);
}

/* One micro-batch follows the other here, so only one of each rank can meet the others'. */
static enum pk_status join_job(struct job *j, struct pk_err *err)
{
    const struct pk_exec *x = j->x;
    if (!x->sync_norm || !j->b->joined) return PK_OK;
    if (j->run->micros != 1 || j->run->shared)
        return pk_fail(err, PK_EINTERNAL,
                       "batch norm over all ranks in a run of %lld micro-batches at each",
                       (long long)j->run->micros);
    j->joins = true;
    j->joined = (struct pk_joined){.rank = x->comm->rank,
                                   .size = x->comm->size,
                                   .all = x->joined,
                                   .gather = gather_rows,
                                   .ctx = x->comm};
    return PK_OK;
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
    enum pk_status s = join_job(&j, err);
    if (s == PK_OK) s = pk_alloc(&j.feed, slots, sizeof *j.feed, "feeds", err);
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
    return x->backend ? x->backend->run(x, b, run, err) : run_on_cpu(x, b, run, err);
}

/* --- the optimizer step ---------------------------------------------------------------------- */

enum pk_status pk_exec_optim(struct pk_exec *x, const struct pk_optim_spec *spec,
                             struct pk_err *err)
{
    pk_optim_free(x->optim);
    x->optim = NULL;
    PK_TRY(pk_optim_create(&x->optim, x->params, spec, err));
    return x->backend ? x->backend->optim(x, spec, err) : PK_OK;
}

/* The loss of the step from all ranks' micro-batches: all [ranks][1 + noted_count]. */
static double add_losses(const struct pk_exec *x, const float *all)
{
    const int64_t row = x->noted_count + 1;
    int64_t at = 1;
    double loss = 0;
    for (int64_t i = 0; i < x->notes; i++) {
        const struct pk_exec_run_note *n = &x->note[i];
        const int from = n->shared ? x->comm->rank : 0, to = n->shared ? from + 1 : x->comm->size;
        for (int rank = from; rank < to; rank++)
            for (int64_t k = 0; k < n->micros; k++)
                loss += (double)all[rank * row + at + k] * n->scale;
        at += n->micros;
    }
    return loss;
}

/* Gradients, losses and votes of all ranks meet. The votes are the first number of a row. */
static enum pk_status join_ranks(struct pk_exec *x, struct pk_err *err)
{
    const int64_t row = x->noted_count + 1;
    float *all;
    PK_TRY(pk_alloc(&all, (size_t)(row * x->comm->size), sizeof *all, "losses of the ranks", err));
    float *mine = all + x->comm->rank * row;
    memcpy(mine, &x->vote, sizeof x->vote);
    memcpy(mine + 1, x->noted, (size_t)x->noted_count * sizeof *mine);
    enum pk_status s = pk_comm_all_gather(x->comm, all, (size_t)row * sizeof *all, err);
    if (s == PK_OK)
        s = x->share ? pk_comm_sum_parts(x->comm, x->grad, x->share, err)
                     : pk_comm_sum(x->comm, x->grad, x->params->elements, err);
    x->votes = 0;
    for (int k = 0; s == PK_OK && k < x->comm->size; k++) {
        uint32_t vote;
        memcpy(&vote, all + k * row, sizeof vote);
        x->votes |= vote;
    }
    if (s == PK_OK) x->loss = add_losses(x, all);
    x->notes = x->noted_count = 0;
    free(all);
    return s;
}

/* The votes alone: a device's gradients and losses meet on the devices. */
static enum pk_status join_votes(struct pk_exec *x, struct pk_err *err)
{
    uint32_t *all;
    PK_TRY(pk_alloc(&all, (size_t)x->comm->size, sizeof *all, "votes of the ranks", err));
    all[x->comm->rank] = x->vote;
    const enum pk_status s = pk_comm_all_gather(x->comm, all, sizeof *all, err);
    for (int k = 0; s == PK_OK && k < x->comm->size; k++) x->votes |= all[k];
    free(all);
    return s;
}

enum pk_status pk_exec_update(struct pk_exec *x, const struct pk_optim_step *step,
                              struct pk_err *err)
{
    x->votes = x->vote;
    if (x->backend) {
        PK_TRY(x->backend->update(x, step, err)); // first, so that the device has work meanwhile
        return x->comm ? join_votes(x, err) : PK_OK;
    }
    if (x->comm) PK_TRY(join_ranks(x, err));
    struct pk_exec_result *r = &x->result;
    enum pk_status s = PK_EDIVERGED;
    *r = (struct pk_exec_result){.step = step->step, .loss = x->loss};
    x->has_result = true;
    if (isfinite(r->loss)) {
        struct pk_optim_arenas a = {.weight = x->weight,
                                    .m = x->m,
                                    .v = x->v,
                                    .ema = x->ema,
                                    .grad = x->grad,
                                    .share = x->share,
                                    .comm = x->comm};
        s = pk_optim_step(x->optim, x->pool, &a, step, &r->norm, &r->why);
    } else {
        pk_fail(&r->why, PK_EDIVERGED, "the loss of step %lld is not finite",
                (long long)step->step);
    }
    r->taken = s == PK_OK;
    if (s == PK_OK || s == PK_EDIVERGED) return PK_OK;
    *err = r->why;
    return s;
}

enum pk_status pk_exec_result(struct pk_exec *x, int lag, struct pk_exec_result *out, bool *have,
                              struct pk_err *err)
{
    if (x->backend) return x->backend->result(x, lag, out, have, err);
    *have = x->has_result;
    if (x->has_result) *out = x->result;
    x->has_result = false;
    return PK_OK;
}

int pk_exec_lag(const struct pk_exec *x)
{
    return x->backend ? 1 : 0;
}

enum pk_status pk_exec_push(struct pk_exec *x, struct pk_err *err)
{
    return x->backend ? x->backend->push(x, err) : PK_OK;
}

enum pk_status pk_exec_pull(struct pk_exec *x, struct pk_err *err)
{
    return x->backend ? x->backend->pull(x, err) : PK_OK;
}

enum pk_status pk_exec_connect(struct pk_exec *x, struct pk_text *out, struct pk_err *err)
{
    return x->backend && x->comm ? x->backend->connect(x, out, err) : PK_OK;
}

enum pk_status pk_exec_hash(struct pk_exec *x, uint64_t *out, struct pk_err *err)
{
    const float *arena[] = {x->weight, x->ema, x->m, x->v};
    const size_t replicas = x->share ? 2 : PK_COUNT(arena); // shares of moments have none
    struct pk_xxh64 h;
    if (x->backend) return x->backend->hash(x, out, err);
    pk_xxh64_start(&h);
    for (size_t i = 0; i < replicas; i++)
        if (arena[i]) pk_xxh64_add(&h, arena[i], (size_t)x->elements * sizeof(float));
    *out = pk_xxh64_value(&h);
    return PK_OK;
}

void pk_exec_describe(const struct pk_exec *x, struct pk_text *out)
{
    if (x->backend)
        x->backend->describe(x, out);
    else
        pk_text_add(out, "%d threads, %s kernels", x->threads, pk_isa_name(x->isa));
}

enum pk_status pk_exec_pin(struct pk_exec *x, void *memory, size_t bytes, struct pk_err *err)
{
    return x->backend ? x->backend->pin(x, memory, bytes, err) : PK_OK;
}

bool pk_exec_resident(struct pk_exec *x, struct pk_resident *r, int64_t reserve)
{
    return x->backend && x->backend->resident(x, r, reserve);
}

enum pk_status pk_exec_resident_write(struct pk_exec *x, const struct pk_resident *r, int64_t first,
                                      int64_t count, const int16_t *signal, struct pk_err *err)
{
    return x->backend->resident_write(x, r, first, count, signal, err);
}

void pk_exec_resident_free(struct pk_exec *x, struct pk_resident *r)
{
    if (r->memory) x->backend->resident_free(x, r);
}

void pk_exec_choices(const struct pk_exec *x, struct pk_text *out)
{
    if (x->backend) x->backend->choices(x, out);
}

enum pk_status pk_exec_choose(struct pk_exec *x, const char *text, size_t n, struct pk_err *err)
{
    return x->backend ? x->backend->choose(x, text, n, err) : PK_OK;
}
