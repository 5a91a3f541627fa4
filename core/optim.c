/* optim.c -- AdamW, clipping and EMA over flat arenas (see optim.h). Neighbouring parameters with
 * the same flags form one segment, and segments are cut into chunks: the unit of work of a thread
 * and of the sum of squares. */
#include "core/optim.h"
#include "core/cpu/kernels.h"

#include <math.h>
#include <stdlib.h>

enum { CHUNK = 1 << 16 }; // elements: long enough for streaming, short enough to share out

struct pk_optim {
    const struct pk_params *params;
    struct pk_optim_spec spec;
    const struct pk_cpu_flat *flat;
    struct pk_optim_chunk *chunk; // [chunks]
    double *square;               // [chunks] sums of squared gradients
    int64_t chunks;
    int64_t *part; // [size + 1] of the ranks that parameters are shared out over: floats in square
    int parts;     // size, 0 before
};

struct chunk_list {
    struct pk_optim_chunk *item;
    int64_t count, cap, size;
};

static enum pk_status cut_segment(struct chunk_list *l, int64_t from, int64_t to,
                                  const struct pk_param *like, struct pk_err *err)
{
    for (; from < to; from += l->size) {
        PK_TRY(pk_grow(&l->item, &l->cap, l->count + 1, sizeof *l->item, "optimizer chunks", err));
        l->item[l->count++] = (struct pk_optim_chunk){.offset = from,
                                                      .count = PK_MIN(l->size, to - from),
                                                      .trained = like->trained,
                                                      .decay = like->decay,
                                                      .ema = like->ema,
                                                      .state = like->state,
                                                      .keep = like->keep,
                                                      .gain = like->gain};
    }
    return PK_OK;
}

enum pk_status pk_optim_chunks(const struct pk_params *p, int64_t size, struct pk_optim_chunk **out,
                               int64_t *count, struct pk_err *err)
{
    struct chunk_list l = {.size = size};
    *out = NULL;
    *count = 0;
    for (int64_t i = 0, next; i < p->count; i = next) {
        const struct pk_param *first = &p->item[i];
        for (next = i + 1; next < p->count && pk_param_alike(first, &p->item[next]);) next++;
        if (!first->trained && !first->ema) continue;
        const int64_t to = next < p->count ? p->item[next].offset : p->elements;
        enum pk_status s = cut_segment(&l, first->offset, to, first, err);
        if (s != PK_OK) {
            free(l.item);
            return s;
        }
    }
    *out = l.item;
    *count = l.count;
    return PK_OK;
}

enum pk_status pk_optim_step_check(const struct pk_optim_step *step, struct pk_err *err)
{
    if (step->beta1 >= 0 && step->beta1 < 1) return PK_OK;
    return pk_fail(err, PK_EINVAL, "step %lld: AdamW beta1 %g: give a number from 0 to below 1",
                   (long long)step->step, step->beta1);
}

void pk_optim_factors(const struct pk_optim_spec *s, const struct pk_optim_step *step,
                      struct pk_optim_factors *out)
{
    const double t = (double)step->step + 1, beta1 = step->beta1 > 0 ? step->beta1 : s->beta1;
    *out = (struct pk_optim_factors){.m_rate = (float)(1 - beta1),
                                     .beta2 = (float)s->beta2,
                                     .v_rate = (float)(1 - s->beta2),
                                     .step = (float)(step->learning_rate / (1 - pow(beta1, t))),
                                     .v_scale = (float)(1 / sqrt(1 - pow(s->beta2, t))),
                                     .eps = (float)s->eps,
                                     .ema_rate = (float)(1 - step->ema_momentum),
                                     .decay_keep =
                                         (float)(1 - step->learning_rate * step->weight_decay)};
}

enum pk_status pk_optim_create(struct pk_optim **out, const struct pk_params *params,
                               const struct pk_optim_spec *spec, struct pk_err *err)
{
    *out = NULL;
    if (!(spec->beta1 >= 0 && spec->beta1 < 1 && spec->beta2 >= 0 && spec->beta2 < 1))
        return pk_fail(err, PK_EINVAL, "AdamW betas %g and %g: give numbers from 0 to below 1",
                       spec->beta1, spec->beta2);
    if (!(spec->eps > 0 && isfinite(spec->eps)))
        return pk_fail(err, PK_EINVAL, "AdamW eps %g: give a positive number", spec->eps);
    if (!(spec->clip >= 0 && isfinite(spec->clip)))
        return pk_fail(err, PK_EINVAL,
                       "gradient norm clipped to %g: give a positive number, or 0 for no clipping",
                       spec->clip);
    struct pk_optim *o;
    PK_TRY(pk_alloc(&o, 1, sizeof *o, "optimizer", err));
    o->params = params;
    o->spec = *spec;
    o->flat = pk_cpu_flat(pk_isa_best());
    enum pk_status s = pk_optim_chunks(params, CHUNK, &o->chunk, &o->chunks, err);
    if (s == PK_OK)
        s = pk_alloc(&o->square, (size_t)PK_MAX(o->chunks, 1), sizeof *o->square,
                     "optimizer chunks", err);
    if (s != PK_OK) {
        pk_optim_free(o);
        return s;
    }
    *out = o;
    return PK_OK;
}

void pk_optim_free(struct pk_optim *o)
{
    if (!o) return;
    free(o->chunk);
    free(o->square);
    free(o->part);
    free(o);
}

const struct pk_optim_spec *pk_optim_constants(const struct pk_optim *o)
{
    return &o->spec;
}

struct job {
    struct pk_optim *o;
    int workers;
    const struct pk_optim_arenas *arenas;
    struct pk_adamw kernel; // everything but the pointers and `keep`
    float decay_keep;       // 1 - learning rate * weight decay
    int64_t first, last;    // this rank's chunks
    int64_t moments;        // element at which m and v begin
};

/* The chunks of a worker: a contiguous share of the list. */
static void share(const struct job *j, int worker, int64_t *from, int64_t *to)
{
    const int64_t n = j->last - j->first;
    *from = j->first + n * worker / j->workers;
    *to = j->first + n * (worker + 1) / j->workers;
}

static void square_chunks(void *ctx, int worker)
{
    struct job *j = ctx;
    int64_t i, to;
    for (share(j, worker, &i, &to); i < to; i++) {
        const struct pk_optim_chunk *c = &j->o->chunk[i];
        const float *grad = j->arenas->grad + c->offset;
        j->o->square[i] = c->trained && !c->state ? j->o->flat->square_sum(grad, c->count) : 0;
    }
}

static void update_chunks(void *ctx, int worker)
{
    struct job *j = ctx;
    const struct pk_optim_arenas *a = j->arenas;
    int64_t i, to;
    for (share(j, worker, &i, &to); i < to; i++) {
        const struct pk_optim_chunk *c = &j->o->chunk[i];
        float *ema = c->ema && a->ema ? a->ema + c->offset : NULL;
        if (c->trained && c->state) {
            float *state = a->weight + c->offset;
            const float *term = a->grad + c->offset;
            for (int64_t k = 0; k < c->count; k++)
                state[k] = state[k] * c->keep + term[k] * c->gain;
        }
        if (!c->trained || c->state) {
            if (ema) j->o->flat->ema(ema, a->weight + c->offset, j->kernel.ema_rate, c->count);
            continue;
        }
        struct pk_adamw k = j->kernel;
        k.count = c->count;
        k.weight = a->weight + c->offset;
        k.m = a->m + (c->offset - j->moments);
        k.v = a->v + (c->offset - j->moments);
        k.ema = ema;
        k.grad = a->grad + c->offset;
        k.keep = c->decay ? j->decay_keep : 1;
        j->o->flat->adamw(&k);
    }
}

static void run_job(struct pk_pool *pool, void (*fn)(void *, int), struct job *j)
{
    if (pool)
        pk_pool_run(pool, fn, j);
    else
        fn(j, 0);
}

enum pk_status pk_optim_diverged(const struct pk_params *p, int64_t step, int64_t at, double value,
                                 struct pk_err *err)
{
    for (int64_t i = p->count - 1; i >= 0; i--) {
        const struct pk_param *q = &p->item[i];
        if (at < q->offset || at >= q->offset + q->count) continue;
        return pk_fail(err, PK_EDIVERGED,
                       "step %lld: the gradient of %s is %g at element %lld; the step was not "
                       "taken. A lower learning rate, a longer warm-up or clipping may help; check "
                       "the data too",
                       (long long)step, q->name, value, (long long)(at - q->offset));
    }
    return pk_fail(err, PK_EINTERNAL, "step %lld: gradient padding is not finite", (long long)step);
}

struct bad {    // a gradient that is not finite
    int64_t at; // element of the arena, INT64_MAX for none
    double value;
};

static struct bad find_bad(const struct pk_optim *o, const float *grad, int64_t from, int64_t to)
{
    for (int64_t i = 0; i < o->params->count; i++) {
        const struct pk_param *p = &o->params->item[i];
        const int64_t end = PK_MIN(p->offset + p->count, to);
        for (int64_t k = PK_MAX(p->offset, from); p->trained && !p->state && k < end; k++)
            if (!isfinite(grad[k])) return (struct bad){k, (double)grad[k]};
    }
    return (struct bad){INT64_MAX, 0};
}

/* All ranks name the same element. */
static enum pk_status diverged(const struct pk_optim *o, const struct pk_optim_arenas *a,
                               int64_t step, struct pk_err *err)
{
    struct bad first = {INT64_MAX, 0}, *all;
    if (!a->share) {
        first = find_bad(o, a->grad, 0, o->params->elements);
    } else {
        const int rank = a->comm->rank, size = a->comm->size;
        PK_TRY(pk_alloc(&all, (size_t)size, sizeof *all, "gradients of the ranks", err));
        all[rank] = find_bad(o, a->grad, a->share[rank], a->share[rank + 1]);
        enum pk_status s = pk_comm_all_gather(a->comm, all, sizeof *all, err);
        for (int k = 0; s == PK_OK && k < size; k++)
            if (all[k].at < first.at) first = all[k];
        free(all);
        PK_TRY(s);
    }
    return pk_optim_diverged(o->params, step, first.at == INT64_MAX ? -1 : first.at, first.value,
                             err);
}

static int64_t chunk_at(const struct pk_optim *o, int64_t element)
{
    int64_t i = 0;
    while (i < o->chunks && o->chunk[i].offset < element) i++;
    return i;
}

/* Which chunks are whose: shares are whole runs of alike parameters, hence whole chunks. */
static enum pk_status cut_shares(struct pk_optim *o, const struct pk_optim_arenas *a,
                                 struct pk_err *err)
{
    if (!a->share || o->parts == a->comm->size) return PK_OK;
    PK_TRY(pk_alloc(&o->part, (size_t)a->comm->size + 1, sizeof *o->part, "optimizer shares", err));
    o->parts = a->comm->size;
    for (int k = 0; k <= o->parts; k++) {
        const int64_t i = chunk_at(o, a->share[k]);
        if (i > 0 && o->chunk[i - 1].offset + o->chunk[i - 1].count > a->share[k])
            return pk_fail(err, PK_EINTERNAL, "a share begins within a chunk of the optimizer");
        o->part[k] = 2 * i;
    }
    return PK_OK;
}

enum pk_status pk_optim_step(struct pk_optim *o, struct pk_pool *pool,
                             const struct pk_optim_arenas *arenas, const struct pk_optim_step *step,
                             double *norm, struct pk_err *err)
{
    const struct pk_optim_spec *s = &o->spec;
    PK_TRY(pk_optim_step_check(step, err));
    struct job j = {
        .o = o, .workers = pool ? pk_pool_workers(pool) : 1, .arenas = arenas, .last = o->chunks};
    PK_TRY(cut_shares(o, arenas, err));
    if (arenas->share) {
        const int rank = arenas->comm->rank;
        j.first = o->part[rank] / 2;
        j.last = o->part[rank + 1] / 2;
        j.moments = arenas->share[rank];
    }
    run_job(pool, square_chunks, &j);
    if (arenas->share) // doubles travel as two floats each; nothing is computed with them
        PK_TRY(pk_comm_gather_parts(arenas->comm, (float *)(void *)o->square, o->part, err));
    double total = 0;
    for (int64_t i = 0; i < o->chunks; i++) total += o->square[i];
    total = sqrt(total);
    if (norm) *norm = total;
    if (!isfinite(total)) return diverged(o, arenas, step->step, err);

    double scale = 1;
    if (s->clip > 0 && s->clip < total + 1e-6) scale = s->clip / (total + 1e-6);
    struct pk_optim_factors f;
    pk_optim_factors(s, step, &f);
    j.kernel = (struct pk_adamw){.grad_scale = (float)scale,
                                 .m_rate = f.m_rate,
                                 .beta2 = f.beta2,
                                 .v_rate = f.v_rate,
                                 .step = f.step,
                                 .v_scale = f.v_scale,
                                 .eps = f.eps,
                                 .ema_rate = f.ema_rate};
    j.decay_keep = f.decay_keep;
    run_job(pool, update_chunks, &j);
    if (!arenas->share) return PK_OK;
    PK_TRY(pk_comm_gather_parts(arenas->comm, arenas->weight, arenas->share, err));
    return arenas->ema ? pk_comm_gather_parts(arenas->comm, arenas->ema, arenas->share, err)
                       : PK_OK;
}
