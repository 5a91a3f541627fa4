/* patch.c -- the loss of masked reconstruction. Sums are in double and in the order of the rows. */
#include "core/cpu/kernels.h"
#include "core/view.h"

#include <math.h>

struct patches {
    const float *x, *patch, *weight;
    const int32_t *hidden;
    int64_t rows, hide, tokens, size; // size: samples of a patch
    bool per_patch;                   // weight has a number for every patch, not for every row
    float eps;
};

static struct patches patches_of(const struct pk_call *c)
{
    const int64_t *d = c->in[0]->dim, tokens = c->in[1]->dim[1];
    return (struct patches){.x = c->src[0],
                            .patch = c->src[1],
                            .weight = c->src[3],
                            .hidden = c->src[2],
                            .rows = d[0],
                            .hide = d[1],
                            .tokens = tokens,
                            .size = d[2],
                            .per_patch = c->src[3] && pk_view_count(c->in[3]) != d[0],
                            .eps = c->node->attr.layernorm.eps};
}

struct target { // (patch - mean) * rstd
    const float *patch;
    double mean, rstd, weight;
};

/* Hidden patch k of row r. */
static enum pk_status target_of(struct target *out, const struct patches *p, int64_t r, int64_t k,
                                struct pk_err *err)
{
    const int32_t t = p->hidden[r * p->hide + k];
    double mean = 0, var = 0;
    if (t < 0 || t >= p->tokens)
        return pk_fail(err, PK_EDATA, "token index %d at place %lld is outside 0 to %lld", t,
                       (long long)(r * p->hide + k), (long long)p->tokens - 1);
    const float *restrict patch = p->patch + (r * p->tokens + t) * p->size;
    for (int64_t i = 0; i < p->size; i++) mean += (double)patch[i];
    mean /= (double)p->size;
    for (int64_t i = 0; i < p->size; i++)
        var += ((double)patch[i] - mean) * ((double)patch[i] - mean);
    var /= (double)p->size;
    out->patch = patch;
    out->mean = mean;
    out->rstd = 1 / sqrt(var + (double)p->eps);
    out->weight = p->weight ? (double)p->weight[p->per_patch ? r * p->tokens + t : r] : 1;
    return PK_OK;
}

/* in: x, patches, hidden, weight. */
enum pk_status PK_ISA_NAME(pk_cpu_patch_loss)(const struct pk_call *c, struct pk_err *err)
{
    const struct patches p = patches_of(c);
    double total = 0;
    for (int64_t r = 0; r < p.rows; r++)
        for (int64_t k = 0; k < p.hide; k++) {
            struct target t;
            double sum = 0;
            PK_TRY(target_of(&t, &p, r, k, err));
            if (t.weight == 0) continue;
            const float *restrict x = p.x + (r * p.hide + k) * p.size;
            for (int64_t i = 0; i < p.size; i++) {
                const double d = (double)x[i] - ((double)t.patch[i] - t.mean) * t.rstd;
                sum += d * d;
            }
            total += t.weight * sum;
        }
    *(float *)c->dst[0] = (float)(total / (double)(p.rows * p.hide * p.size));
    return PK_OK;
}

/* in: x, patches, hidden, weight, seed. */
enum pk_status PK_ISA_NAME(pk_cpu_patch_loss_grad)(const struct pk_call *c, struct pk_err *err)
{
    const struct patches p = patches_of(c);
    const double scale = 2 * (double)*(const float *)c->src[4] / (double)(p.rows * p.hide * p.size);
    const bool add = pk_call_accumulates(c, 0);
    for (int64_t r = 0; r < p.rows; r++)
        for (int64_t k = 0; k < p.hide; k++) {
            struct target t;
            PK_TRY(target_of(&t, &p, r, k, err));
            const float *restrict x = p.x + (r * p.hide + k) * p.size;
            float *restrict dx = (float *)c->dst[0] + (r * p.hide + k) * p.size;
            const double w = t.weight * scale;
            for (int64_t i = 0; i < p.size; i++) {
                const double d = (double)x[i] - ((double)t.patch[i] - t.mean) * t.rstd;
                dx[i] = (add ? dx[i] : 0) + (w == 0 ? 0 : (float)(w * d));
            }
        }
    return PK_OK;
}
