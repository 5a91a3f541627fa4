/* param.c -- the parameter table (see param.h). */
#include "core/param.h"
#include "core/rng.h"

#include <stdlib.h>
#include <string.h>

void pk_params_free(struct pk_params *p)
{
    free(p->item);
    *p = (struct pk_params){0};
}

int64_t pk_params_find(const struct pk_params *p, const char *name)
{
    for (int64_t i = 0; i < p->count; i++)
        if (!strcmp(p->item[i].name, name)) return i;
    return -1;
}

int64_t pk_params_total(const struct pk_params *p, const char *prefix)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->count; i++)
        if (!p->item[i].state && !strncmp(p->item[i].name, prefix, strlen(prefix)))
            n += p->item[i].count;
    return n;
}

bool pk_param_alike(const struct pk_param *a, const struct pk_param *b)
{
    return a->trained == b->trained && a->decay == b->decay && a->ema == b->ema &&
           a->state == b->state && a->keep == b->keep && a->gain == b->gain;
}

/* The start of a run of alike parameters that is nearest to part / parts of the arena. */
static int64_t share_at(const struct pk_params *p, int part, int parts)
{
    const int64_t want = p->elements / parts * part + p->elements % parts * part / parts;
    int64_t best = 0;
    for (int64_t i = 1; i <= p->count && part > 0; i++) {
        if (i < p->count && pk_param_alike(&p->item[i - 1], &p->item[i])) continue;
        const int64_t at = i < p->count ? p->item[i].offset : p->elements;
        const int64_t old = p->count ? p->item[best].offset : 0;
        if (llabs(at - want) < llabs(old - want) || part == parts) best = i;
        if (at >= want && part < parts) break;
    }
    return best;
}

void pk_params_share(const struct pk_params *p, int rank, int ranks, int64_t *first, int64_t *last)
{
    *first = share_at(p, rank, ranks);
    *last = share_at(p, rank + 1, ranks);
}

void pk_params_init(const struct pk_params *p, uint64_t seed, float *weight)
{
    memset(weight, 0, (size_t)p->elements * sizeof *weight);
    for (int64_t i = 0; i < p->count; i++) {
        const struct pk_param *q = &p->item[i];
        float *w = weight + q->offset;
        uint64_t key = pk_hash64(q->name, strlen(q->name), 0) >> 8;
        struct pk_rng r = pk_rng_make(seed, PK_RNG_INIT, key, 0);
        for (int64_t k = 0; k < q->count; k++) {
            if (q->init == PK_INIT_ONE) w[k] = 1;
            if (q->init == PK_INIT_TRUNC_NORMAL)
                w[k] = (float)pk_rng_trunc_normal(&r, q->init_std, 2);
            if (q->init == PK_INIT_UNIFORM)
                w[k] = (float)((2 * pk_rng_uniform(&r) - 1) * (double)q->init_std);
        }
    }
}
