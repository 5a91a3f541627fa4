/* augment.c -- random changes of a normalised signal, and its patches (core/augment.h). */
#include "core/cpu/kernels.h"
#include "core/augment_inline.h"
#include "core/view.h"

/* in: x [B, 1, leads * samples], sample [B], ranges [KINDS, 3]; out: [B, tokens, leads * patch]. */
enum pk_status PK_ISA_NAME(pk_cpu_augment)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t *sample = c->src[1];
    const struct pk_augment_range *range = c->src[2];
    const int64_t batch = c->in[0]->dim[0], leads = c->node->attr.augment.leads,
                  samples = c->in[0]->dim[2] / leads, patch = c->node->attr.augment.patch;
    const uint64_t seed = c->node->attr.augment.seed;
    const uint32_t view = c->node->attr.augment.view;
    const double rate = (double)c->node->attr.augment.rate;
    for (int64_t b = 0; b < batch; b++) {
        struct pk_augment_plan p;
        pk_augment_draw(&p, range, seed, (uint64_t)sample[b], view, (int32_t)leads, samples);
        const struct pk_rng stream = pk_rng_make_inline(seed, PK_RNG_AUGMENT, (uint64_t)sample[b],
                                                        view * 256 + PK_AUGMENT_SAMPLES);
        const float *x = (const float *)c->src[0] + b * leads * samples;
        float *y = (float *)c->dst[0] + b * leads * samples;
        for (int64_t s = 0; s < samples; s++) {
            const double t = pk_augment_time(&p, s, samples);
            const int64_t at = (int64_t)t, next = at + 1 < samples ? at + 1 : at;
            const float part = (float)(t - (double)at);
            for (int64_t l = 0; l < leads; l++) {
                const float *row = x + (int64_t)(p.lead >> 4 * l & 15) * samples;
                const float v = row[at] + (row[next] - row[at]) * part;
                y[(s / patch * leads + l) * patch + s % patch] =
                    pk_augment_value(&p, &stream, v, (int32_t)l, s, samples, rate);
            }
        }
    }
    return PK_OK;
}
