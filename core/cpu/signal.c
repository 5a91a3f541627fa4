/* signal.c -- from raw samples to tokens, and which tokens a record keeps. */
#include "core/cpu/kernels.h"
#include "core/view.h"
#include "core/data.h"
#include "core/mask.h"
#include "core/ops.h"

struct normaliser {
    float gain, offset, clip;
};

/* clip(raw * gain - offset); an invalid sample becomes 0, the lead's mean. */
static void normalise(float *restrict to, const int16_t *restrict raw, int64_t count,
                      struct normaliser n)
{
    for (int64_t i = 0; i < count; i++) {
        float v = (float)raw[i] * n.gain - n.offset;
        v = v > n.clip ? n.clip : v;
        v = v < -n.clip ? -n.clip : v;
        to[i] = raw[i] == PK_INVALID ? 0 : v;
    }
}

enum pk_status PK_ISA_NAME(pk_cpu_patchify)(const struct pk_call *c, struct pk_err *err)
{
    const int16_t *signal = c->src[0];
    const float *gain = c->src[1], *offset = c->src[2];
    const int32_t *start = c->src[3];
    const int64_t batch = c->in[0]->dim[0], leads = c->in[0]->dim[1], samples = c->in[0]->dim[2];
    const int64_t patch = c->node->attr.patchify.patch, chosen = c->node->attr.patchify.leads;
    const int64_t tokens = pk_view_count(c->out[0]) / (batch * chosen * patch);
    const bool joint = c->node->attr.patchify.layout == PK_LAYOUT_JOINT;
    for (int64_t b = 0; b < batch; b++) {
        if (start[b] < 0 || start[b] + tokens * patch > samples)
            return pk_fail(err, PK_EDATA,
                           "record %lld of the batch: window [%lld, %lld) is outside its %lld "
                           "samples",
                           (long long)b, (long long)start[b],
                           (long long)(start[b] + tokens * patch), (long long)samples);
        float *y = (float *)c->dst[0] + b * tokens * chosen * patch;
        for (int64_t l = 0; l < chosen; l++) {
            const int64_t row = b * leads + c->node->attr.patchify.lead[l];
            const int16_t *raw = signal + row * samples + start[b];
            const struct normaliser n = {gain[row], offset[row], c->node->attr.patchify.clip};
            for (int64_t t = 0; t < tokens; t++)
                normalise(y + (joint ? t * chosen + l : l * tokens + t) * patch, raw + t * patch,
                          patch, n);
        }
    }
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_block_mask)(const struct pk_call *c, struct pk_err *err)
{
    const int64_t *sample = c->src[0];
    const int64_t batch = c->in[0]->dim[0];
    const int32_t tokens = c->node->attr.block_mask.tokens, keep = c->node->attr.block_mask.keep,
                  min_block = c->node->attr.block_mask.min_block;
    PK_TRY(pk_mask_check(tokens, keep, min_block, err));
    for (int64_t b = 0; b < batch; b++)
        pk_mask_sample(c->node->attr.block_mask.seed, (uint64_t)sample[b], tokens, keep, min_block,
                       (int32_t *)c->dst[0] + b * keep, (int32_t *)c->dst[1] + b * (tokens - keep));
    return PK_OK;
}
