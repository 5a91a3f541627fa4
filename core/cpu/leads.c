/* leads.c -- tokens that are patches of single leads. A record's sequence is, for each of G leads,
 * one separator, K patches and another separator. Sums run in the order of the sequence. */
#include "core/cpu/kernels.h"
#include "core/view.h"
#include "core/mask.h"

#include <string.h>

/* in: gain [B, leads of the batch]; out: [B, leads], 0 or leads / present. */
enum pk_status PK_ISA_NAME(pk_cpu_lead_present)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *gain = c->src[0];
    float *y = c->dst[0];
    const int64_t batch = c->in[0]->dim[0], all = c->in[0]->dim[1], leads = c->out[0]->dim[1];
    for (int64_t b = 0; b < batch; b++, gain += all, y += leads) {
        int32_t present = 0;
        for (int64_t l = 0; l < leads; l++)
            present += gain[c->node->attr.lead_present.lead[l]] != 0;
        for (int64_t l = 0; l < leads; l++)
            y[l] =
                gain[c->node->attr.lead_present.lead[l]] != 0 ? (float)leads / (float)present : 0;
    }
    return PK_OK;
}

/* in: sample; out: kept, hidden, seen, of which any may be absent. */
enum pk_status PK_ISA_NAME(pk_cpu_lead_mask)(const struct pk_call *c, struct pk_err *err)
{
    const int64_t *sample = c->src[0], rows = c->in[0]->dim[0] * c->node->attr.lead_mask.leads;
    const int32_t leads = c->node->attr.lead_mask.leads, tokens = c->node->attr.lead_mask.tokens,
                  keep = c->node->attr.lead_mask.keep;
    int32_t list[PK_MASK_TOKENS_MAX];
    PK_TRY(pk_mask_check(tokens, keep, 1, err));
    for (int64_t r = 0; r < rows; r++) {
        pk_lead_mask_sample(c->node->attr.lead_mask.seed, (uint64_t)sample[r / leads],
                            (uint32_t)(r % leads), tokens, keep, list, list + keep);
        if (c->dst[0]) memcpy((int32_t *)c->dst[0] + r * keep, list, (size_t)keep * sizeof *list);
        if (c->dst[1])
            memcpy((int32_t *)c->dst[1] + r * (tokens - keep), list + keep,
                   (size_t)(tokens - keep) * sizeof *list);
        if (!c->dst[2]) continue;
        int32_t *seen = (int32_t *)c->dst[2] + r * (keep + 2);
        seen[0] = tokens;
        memcpy(seen + 1, list, (size_t)keep * sizeof *list);
        seen[keep + 1] = tokens + 1;
    }
    return PK_OK;
}

static void sum3(float *restrict y, const float *restrict a, const float *restrict b,
                 const float *restrict c, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i] + c[i];
}

/* in: x, table, index, lead, separator, absent, present. */
enum pk_status PK_ISA_NAME(pk_cpu_lead_tokens)(const struct pk_call *c, struct pk_err *err)
{
    const float *x = c->src[0], *table = c->src[1], *lead = c->src[3], *separator = c->src[4],
                *absent = c->src[5], *present = c->src[6];
    const int32_t *index = c->src[2];
    float *y = c->dst[0];
    const int64_t rows = c->in[0]->dim[0], keep = c->in[0]->dim[1], cols = c->in[0]->dim[2];
    const int64_t positions = c->in[1]->dim[0], leads = c->in[3]->dim[0];
    for (int64_t r = 0; r < rows; r++) {
        const float *own = lead + r % leads * cols;
        sum3(y, separator, table + (positions - 2) * cols, own, cols);
        y += cols;
        for (int64_t k = 0; k < keep; k++, y += cols) {
            const int64_t at = index ? index[r * keep + k] : k;
            if (at < 0 || at >= positions)
                return pk_fail(err, PK_EDATA, "token index %lld at place %lld is outside 0 to %lld",
                               (long long)at, (long long)(r * keep + k), (long long)positions - 1);
            sum3(y, present[r] != 0 ? x + (r * keep + k) * cols : absent, table + at * cols, own,
                 cols);
        }
        sum3(y, separator, table + (positions - 1) * cols, own, cols);
        y += cols;
    }
    return PK_OK;
}

/* One row onto the running sums of its columns. */
static void gather_row(float *restrict to, const float *restrict row, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] += row[i];
}

/* in: dy, present; out: dx, dlead, dseparator, dabsent. The last three are gradients of
 * parameters and zeroed here unless they accumulate. */
enum pk_status PK_ISA_NAME(pk_cpu_lead_tokens_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *dy = c->src[0], *present = c->src[1];
    float *dx = c->dst[0], *dlead = c->dst[1], *dseparator = c->dst[2], *dabsent = c->dst[3];
    const int64_t batch = c->in[0]->dim[0], cols = c->in[0]->dim[2], leads = c->in[1]->dim[1];
    const int64_t run = c->in[0]->dim[1] / leads, keep = run - 2;
    const bool add = pk_call_accumulates(c, 0);
    for (int k = 1; k < 4; k++)
        if (c->dst[k] && !pk_call_accumulates(c, k))
            memset(c->dst[k], 0, (size_t)pk_view_count(c->out[k]) * sizeof(float));
    for (int64_t r = 0; r < batch * leads; r++) {
        for (int64_t i = 0; i < run; i++, dy += cols) {
            const bool patch = i > 0 && i <= keep;
            if (dlead) gather_row(dlead + r % leads * cols, dy, cols);
            if (!patch && dseparator) gather_row(dseparator, dy, cols);
            if (patch && present[r] == 0 && dabsent) gather_row(dabsent, dy, cols);
            if (!patch || !dx) continue;
            float *to = dx + (r * keep + i - 1) * cols;
            if (present[r] == 0) {
                if (!add) memset(to, 0, (size_t)cols * sizeof *to);
            } else if (add) {
                gather_row(to, dy, cols);
            } else {
                memcpy(to, dy, (size_t)cols * sizeof *to);
            }
        }
    }
    return PK_OK;
}

/* in: x, present. */
enum pk_status PK_ISA_NAME(pk_cpu_lead_pool)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *x = c->src[0], *present = c->src[1];
    float *y = c->dst[0];
    const int64_t batch = c->in[0]->dim[0], cols = c->in[0]->dim[2], leads = c->in[1]->dim[1];
    const int64_t run = c->in[0]->dim[1] / leads;
    const float share = 1 / (float)(leads * (run - 2));
    for (int64_t b = 0; b < batch; b++, y += cols) {
        for (int64_t i = 0; i < cols; i++) y[i] = 0;
        for (int64_t l = 0; l < leads; l++) {
            const float w = present[b * leads + l] * share;
            if (w == 0) continue; // what stands for an absent lead must not count, not even as NaN
            for (int64_t t = 1; t <= run - 2; t++) {
                const float *restrict row = x + ((b * leads + l) * run + t) * cols;
                for (int64_t i = 0; i < cols; i++) y[i] += w * row[i];
            }
        }
    }
    return PK_OK;
}

/* in: dy, present, x (for its shape). */
enum pk_status PK_ISA_NAME(pk_cpu_lead_pool_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *dy = c->src[0], *present = c->src[1];
    float *dx = c->dst[0];
    const int64_t batch = c->out[0]->dim[0], cols = c->out[0]->dim[2], leads = c->in[1]->dim[1];
    const int64_t run = c->out[0]->dim[1] / leads;
    const float share = 1 / (float)(leads * (run - 2));
    const bool add = pk_call_accumulates(c, 0);
    for (int64_t r = 0; r < batch * leads; r++)
        for (int64_t t = 0; t < run; t++, dx += cols) {
            const float w = t > 0 && t < run - 1 ? present[r] * share : 0;
            const float *restrict from = dy + r / leads * cols;
            for (int64_t i = 0; i < cols; i++) dx[i] = (add ? dx[i] : 0) + w * from[i];
        }
    return PK_OK;
}
