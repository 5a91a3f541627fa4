/* exec.c -- arenas, binding, and the optimizer step on the CPU, or a backend's (see exec.h).
 * Running is exec_run.c. */
#include "core/exec.h"
#include "core/cpu/gemm.h"
#include "core/sink.h"

#include <math.h>
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

/* Numbers of a rank that a node exchanges with the others': of a norm two a channel, of a loss
 * whose rows are shared out what is told of a row. */
static int64_t exchanged(const struct pk_exec *x, const struct pk_prog *p, const struct pk_node *n,
                         int32_t *ranks)
{
    const struct pk_value *in = n->in[0] < 0 ? NULL : &p->value[n->in[0]];
    *ranks = 1;
    if (n->op == PK_OP_BATCHNORM && x->sync_norm && n->attr.batchnorm.train)
        return 2 * in->dim[in->rank - 1];
    if (n->op == PK_OP_CONTRAST_LOSS || n->op == PK_OP_CONTRAST_LOSS_GRAD)
        *ranks = n->attr.contrast.ranks;
    if (n->op == PK_OP_KOLEO_LOSS || n->op == PK_OP_KOLEO_LOSS_GRAD) *ranks = n->attr.koleo.ranks;
    return *ranks > 1 ? PK_TOLD_FLOATS * (pk_value_count(in) / in->dim[in->rank - 1]) / *ranks : 0;
}

/* Room for what the ranks exchange within a program. */
static enum pk_status join_nodes(struct pk_exec *x, struct pk_bound *b, struct pk_err *err)
{
    const struct pk_prog *p = b->prog;
    for (int64_t k = 0; k < p->nodes; k++) {
        int32_t ranks;
        b->joined = PK_MAX(b->joined, exchanged(x, p, &p->node[k], &ranks));
        if (ranks > 1 && (!x->comm || x->comm->size != ranks))
            return pk_fail(err, PK_EINTERNAL, "rows of a loss for %d ranks in a job of %d", ranks,
                           x->comm ? x->comm->size : 1);
        b->shared |= ranks > 1;
    }
    if (x->backend || !b->joined) return PK_OK;
    return pk_grow(&x->joined, &x->joined_cap, b->joined * (x->comm->size + 1), sizeof *x->joined,
                   "statistics of the ranks", err);
}

enum pk_status pk_exec_bind(struct pk_exec *x, struct pk_bound *out, const struct pk_prog *prog,
                            struct pk_err *err)
{
    *out = (struct pk_bound){.prog = prog, .backend = x->backend};
    PK_TRY(check_storage(x, prog, err));
    PK_TRY(join_nodes(x, out, err));
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

enum pk_status pk_exec_rows(struct pk_exec *x, struct pk_exec_rows *r, int64_t count,
                            const char *what, struct pk_err *err)
{
    *r = (struct pk_exec_rows){.count = count, .backend = x->backend};
    if (!x->backend) return pk_alloc_aligned(&r->data, (size_t)count, sizeof *r->data, what, err);
    return x->backend->rows(x, r, what, err);
}

void pk_exec_rows_free(struct pk_exec *x, struct pk_exec_rows *r)
{
    if (!r->backend)
        free(r->data);
    else if (r->data)
        r->backend->rows_free(x, r);
    *r = (struct pk_exec_rows){0};
}

enum pk_status pk_exec_rows_gather(struct pk_exec *x, const struct pk_exec_rows *r,
                                   struct pk_err *err)
{
    if (!x->comm) return PK_OK;
    if (x->backend) return x->backend->rows_gather(x, r, err);
    const int64_t own = r->count / x->comm->size;
    return pk_comm_all_gather(x->comm, r->data, (size_t)own * sizeof *r->data, err);
}

enum pk_status pk_exec_rows_scale(struct pk_exec *x, const struct pk_exec_rows *r, int64_t first,
                                  int64_t count, float factor, struct pk_err *err)
{
    if (x->backend) return x->backend->rows_scale(x, r, first, count, factor, err);
    for (int64_t i = first; i < first + count; i++) r->data[i] *= factor;
    return PK_OK;
}

enum pk_status pk_exec_rows_read(struct pk_exec *x, const struct pk_exec_rows *r, float *out,
                                 struct pk_err *err)
{
    if (x->backend) return x->backend->rows_read(x, r, out, err);
    memcpy(out, r->data, (size_t)r->count * sizeof *out);
    return PK_OK;
}

void pk_exec_choices(const struct pk_exec *x, struct pk_text *out)
{
    if (x->backend) x->backend->choices(x, out);
}

enum pk_status pk_exec_choose(struct pk_exec *x, const char *text, size_t n, struct pk_err *err)
{
    return x->backend ? x->backend->choose(x, text, n, err) : PK_OK;
}
