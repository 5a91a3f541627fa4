/* mixup.c -- records mixed with their neighbours (core/mixup_inline.h). */
#include "core/cpu/kernels.h"
#include "core/mixup_inline.h"
#include "core/view.h"

/* Value i of labels or activations as float; NaN for a label that is not known. */
static float value_at(const struct pk_call *c, int64_t i)
{
    if (c->in[0]->dtype != PK_U8) return ((const float *)c->src[0])[i];
    const uint8_t label = ((const uint8_t *)c->src[0])[i];
    return label == PK_LABEL_MISSING ? NAN : (float)label;
}

/* A row of labels [n] that names no class. */
static bool unlabelled(const float *y, int64_t n)
{
    for (int64_t k = 0; k < n; k++)
        if (y[k] != 0) return false;
    return true;
}

/* in: x [B ...], sample [B]; out: y. Copies, then mixes pairs in place. */
enum pk_status PK_ISA_NAME(pk_cpu_mixup)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t *sample = c->src[1];
    const int64_t batch = c->in[1]->dim[0], each = pk_view_count(c->in[0]) / batch,
                  cols = pk_view_cols(c->in[0]);
    const union pk_attr *a = &c->node->attr;
    float *y = c->dst[0];
    for (int64_t i = 0; i < batch * each; i++) y[i] = value_at(c, i);
    for (int64_t r = 0; a->mixup.single_label && r < batch * each; r += cols)
        if (unlabelled(y + r, cols))
            for (int64_t k = 0; k < cols; k++) y[r + k] = NAN;
    for (int64_t b = 0; b + 1 < batch; b += 2) {
        const float s = (float)pk_mixup_share(a->mixup.seed, (uint64_t)sample[b], a->mixup.alpha);
        const float rest = 1 - s;
        float *restrict first = y + b * each, *restrict second = first + each;
        for (int64_t i = 0; i < each; i++) {
            const float own = first[i], other = second[i];
            first[i] = s * own + rest * other;
            second[i] = s * other + rest * own;
        }
    }
    return PK_OK;
}
