/* ref_interp.h -- programs run naively in double precision: the forward semantics of every op,
 * written from the op list and sharing nothing with the kernels. Finite differences of its loss are
 * what gradients are held against.
 *
 * Gradient nodes are passed over: a node runs when all of its inputs are known, and `seed`, on
 * which every gradient depends, never is. */
#ifndef PK_TEST_REF_INTERP_H
#define PK_TEST_REF_INTERP_H

#include "core/mask.h"
#include "core/mixup_inline.h"
#include "core/ops.h"
#include "core/prog.h"
#include "core/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ref {
    const struct pk_prog *p;
    double **value;       // [values], integers too; NULL until known
    const double *weight; // [params->elements]
    const double *ema;    // the same, or NULL
    /* Values that do not need a gradient keep what the first run gave: this makes ops of frozen and
     * EMA scopes constants, as they are for differentiation. */
    bool stops;
    bool ran;
};

static inline void ref_init(struct ref *r, const struct pk_prog *p)
{
    *r = (struct ref){.p = p, .value = calloc((size_t)p->values, sizeof *r->value)};
}

static inline void ref_free(struct ref *r)
{
    for (int64_t v = 0; v < r->p->values; v++) free(r->value[v]);
    free(r->value);
}

static inline double *ref_room(struct ref *r, int32_t v)
{
    if (!r->value[v]) r->value[v] = calloc((size_t)pk_value_count(&r->p->value[v]), sizeof(double));
    return r->value[v];
}

/* Sets an input from the bytes that the executor would be fed. */
static inline void ref_feed(struct ref *r, const char *name, const void *data)
{
    int32_t v = pk_prog_find(r->p, PK_STORE_IN, name);
    if (v < 0) return;
    double *x = ref_room(r, v);
    for (int64_t i = 0; i < pk_value_count(&r->p->value[v]); i++) switch (r->p->value[v].dtype) {
        case PK_F32:
            x[i] = (double)((const float *)data)[i];
            break;
        case PK_I16:
            x[i] = ((const int16_t *)data)[i];
            break;
        case PK_I32:
            x[i] = ((const int32_t *)data)[i];
            break;
        case PK_I64:
            x[i] = (double)((const int64_t *)data)[i];
            break;
        default:
            x[i] = ((const uint8_t *)data)[i];
            break;
        }
}

struct ref_args { // one node: arrays and sizes
    const struct pk_node *n;
    const struct pk_value *in[PK_NODE_IN];
    const double *src[PK_NODE_IN];
    double *dst[PK_NODE_OUT];
    int64_t b, t, c; // axes of input 0 as [batch, tokens, channels]
    int64_t rows;    // of input 0, all axes but the last
    int64_t count;   // elements of input 0
};

static inline double ref_gelu(double x)
{
    return 0.5 * x * (1 + erf(x / sqrt(2)));
}

static inline void ref_linear(const struct ref_args *a, double *y)
{
    int64_t n = a->in[1]->dim[0], k = a->in[1]->dim[1];
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t j = 0; j < n; j++) {
            double sum = a->src[2] ? a->src[2][j] : 0;
            for (int64_t i = 0; i < k; i++) sum += a->src[0][r * k + i] * a->src[1][j * k + i];
            y[r * n + j] = sum;
        }
}

static inline void ref_norm(const struct ref_args *a, const double *x, const double *gain,
                            const double *bias, double *y, double *means, double *rstds)
{
    for (int64_t r = 0; r < a->rows; r++) {
        double mean = 0, var = 0;
        for (int64_t i = 0; i < a->c; i++) mean += x[r * a->c + i] / (double)a->c;
        for (int64_t i = 0; i < a->c; i++)
            var += (x[r * a->c + i] - mean) * (x[r * a->c + i] - mean) / (double)a->c;
        double rstd = 1 / sqrt(var + (double)a->n->attr.layernorm.eps);
        for (int64_t i = 0; i < a->c; i++)
            y[r * a->c + i] = (x[r * a->c + i] - mean) * rstd * gain[i] + (bias ? bias[i] : 0);
        if (means) means[r] = mean;
        if (rstds) rstds[r] = rstd;
    }
}

/* One query against the keys and values of one head: rows `stride` apart. prob holds tokens. */
static inline void ref_attend(const double *q, const double *k, const double *v, int64_t tokens,
                              int64_t stride, int64_t head, double *prob, double *out, double *lse)
{
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < tokens; j++) {
        prob[j] = 0;
        for (int64_t i = 0; i < head; i++) prob[j] += q[i] * k[j * stride + i] / sqrt((double)head);
        top = fmax(top, prob[j]);
    }
    for (int64_t j = 0; j < tokens; j++) sum += prob[j] = exp(prob[j] - top);
    for (int64_t i = 0; i < head; i++) out[i] = 0;
    for (int64_t j = 0; j < tokens; j++) {
        prob[j] /= sum;
        for (int64_t i = 0; i < head; i++) out[i] += prob[j] * v[j * stride + i];
    }
    if (lse) *lse = top + log(sum);
}

static inline void ref_attention(const struct ref_args *a)
{
    int64_t heads = a->n->attr.attention.heads, c = a->c / 3, head = c / heads;
    double *prob = calloc((size_t)a->t, sizeof *prob);
    for (int64_t b = 0; b < a->b; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t t = 0; t < a->t; t++) {
                const double *x = a->src[0] + b * a->t * a->c + h * head;
                ref_attend(x + t * a->c, x + c, x + 2 * c, a->t, a->c, head, prob,
                           a->dst[0] + (b * a->t + t) * c + h * head,
                           a->dst[1] ? a->dst[1] + (b * heads + h) * a->t + t : NULL);
            }
    free(prob);
}

static inline void ref_attention_pool(const struct ref_args *a)
{
    const int64_t *d = a->in[1]->dim;
    int64_t heads = a->n->attr.attention.heads, c = d[2] / 2, head = c / heads;
    for (int64_t b = 0; b < d[0]; b++)
        for (int64_t h = 0; h < heads; h++) {
            const double *x = a->src[1] + b * d[1] * d[2] + h * head;
            ref_attend(a->src[0] + h * head, x, x + c, d[1], d[2], head,
                       a->dst[1] + (b * heads + h) * d[1], a->dst[0] + b * c + h * head, NULL);
        }
}

static inline void ref_patchify(const struct ref_args *a)
{
    int64_t patch = a->n->attr.patchify.patch, leads = a->n->attr.patchify.leads;
    double clip = (double)a->n->attr.patchify.clip, *y = a->dst[0];
    bool joint = a->n->attr.patchify.layout == PK_LAYOUT_JOINT;
    int64_t tokens = a->n->attr.patchify.tokens;
    for (int64_t b = 0; b < a->b; b++)
        for (int64_t k = 0; k < tokens * leads; k++) {
            int64_t t = joint ? k / leads : k % tokens, l = joint ? k % leads : k / tokens;
            for (int64_t i = 0; i < patch; i++) {
                int64_t row = b * a->t + a->n->attr.patchify.lead[l];
                double raw = a->src[0][row * a->c + (int64_t)a->src[3][b] + t * patch + i];
                double v = raw * a->src[1][row] - a->src[2][row];
                *y++ = raw == -32768 ? 0 : fmin(fmax(v, -clip), clip);
            }
        }
}

static inline void ref_block_mask(const struct ref_args *a)
{
    int32_t tokens = a->n->attr.block_mask.tokens, keep = a->n->attr.block_mask.keep;
    int32_t *index = calloc((size_t)tokens, sizeof *index);
    for (int64_t b = 0; b < a->in[0]->dim[0]; b++) {
        pk_mask_sample(a->n->attr.block_mask.seed, (uint64_t)a->src[0][b], tokens, keep,
                       a->n->attr.block_mask.min_block, index, index + keep);
        for (int64_t i = 0; i < keep; i++) a->dst[0][b * keep + i] = index[i];
        for (int64_t i = keep; i < tokens; i++)
            a->dst[1][b * (tokens - keep) + i - keep] = index[i];
    }
    free(index);
}

static inline void ref_lead_mask(const struct ref_args *a)
{
    int32_t tokens = a->n->attr.lead_mask.tokens, keep = a->n->attr.lead_mask.keep;
    int32_t leads = a->n->attr.lead_mask.leads, *list = calloc((size_t)tokens, sizeof *list);
    for (int64_t r = 0; r < a->in[0]->dim[0] * leads; r++) {
        pk_lead_mask_sample(a->n->attr.lead_mask.seed, (uint64_t)a->src[0][r / leads],
                            (uint32_t)(r % leads), tokens, keep, list, list + keep);
        double *seen = a->dst[2] ? a->dst[2] + r * (keep + 2) : NULL;
        for (int32_t k = 0; k < tokens; k++)
            if (k < keep && a->dst[0])
                a->dst[0][r * keep + k] = list[k];
            else if (k >= keep && a->dst[1])
                a->dst[1][r * (tokens - keep) + k - keep] = list[k];
        if (!seen) continue;
        seen[0] = tokens;
        for (int32_t k = 0; k < keep; k++) seen[k + 1] = list[k];
        seen[keep + 1] = tokens + 1;
    }
    free(list);
}

static inline void ref_lead_present(const struct ref_args *a)
{
    int32_t leads = a->n->attr.lead_present.leads;
    const uint8_t *lead = a->n->attr.lead_present.lead;
    for (int64_t b = 0; b < a->b; b++) {
        int present = 0;
        for (int32_t l = 0; l < leads; l++) present += a->src[0][b * a->c + lead[l]] != 0;
        for (int32_t l = 0; l < leads; l++)
            a->dst[0][b * leads + l] =
                a->src[0][b * a->c + lead[l]] != 0 ? (double)leads / present : 0;
    }
}

static inline void ref_lead_tokens(const struct ref_args *a)
{
    int64_t keep = a->t, places = a->in[1]->dim[0], leads = a->in[3]->dim[0];
    double *y = a->dst[0];
    for (int64_t r = 0; r < a->b; r++)
        for (int64_t k = -1; k <= keep; k++, y += a->c) {
            const double *x = a->src[4];
            int64_t at = k < 0 ? places - 2 : places - 1;
            if (k >= 0 && k < keep) {
                at = a->src[2] ? (int64_t)a->src[2][r * keep + k] : k;
                x = a->src[6][r] != 0 ? a->src[0] + (r * keep + k) * a->c : a->src[5];
            }
            for (int64_t i = 0; i < a->c; i++)
                y[i] = x[i] + a->src[1][at * a->c + i] + a->src[3][r % leads * a->c + i];
        }
}

static inline void ref_lead_pool(const struct ref_args *a)
{
    int64_t leads = a->in[1]->dim[1], run = a->t / leads;
    for (int64_t i = 0; i < a->b * a->c; i++) {
        a->dst[0][i] = 0;
        for (int64_t k = 0; k < a->t; k++)
            if (k % run && k % run < run - 1)
                a->dst[0][i] += a->src[1][i / a->c * leads + k / run] *
                                a->src[0][(i / a->c * a->t + k) * a->c + i % a->c] /
                                (double)(leads * (run - 2));
    }
}

static inline void ref_patch_loss(const struct ref_args *a)
{
    int64_t tokens = a->in[1]->dim[1];
    double sum = 0;
    for (int64_t k = 0; k < a->b * a->t; k++) {
        int64_t r = k / a->t, t = (int64_t)a->src[2][k];
        const double *p = a->src[1] + (r * tokens + t) * a->c, *x = a->src[0] + k * a->c;
        double mean = 0, var = 0, one = 0, weight = 1;
        for (int64_t i = 0; i < a->c; i++) mean += p[i] / (double)a->c;
        for (int64_t i = 0; i < a->c; i++) var += (p[i] - mean) * (p[i] - mean) / (double)a->c;
        double scale = sqrt(var + (double)a->n->attr.layernorm.eps);
        for (int64_t i = 0; i < a->c; i++)
            one += (x[i] - (p[i] - mean) / scale) * (x[i] - (p[i] - mean) / scale);
        if (a->src[3]) weight = a->src[3][pk_value_count(a->in[3]) == a->b ? r : r * tokens + t];
        sum += weight * one / (double)a->count;
    }
    a->dst[0][0] = sum;
}

static inline void ref_dropout(const struct ref_args *a)
{
    int64_t records = a->in[1]->dim[0], each = a->count / records;
    double p = (double)a->n->attr.dropout.p;
    for (int64_t b = 0; b < records; b++) {
        struct pk_rng r = pk_rng_make(a->n->attr.dropout.seed, PK_RNG_DROPOUT,
                                      (uint64_t)a->src[1][b], a->n->attr.dropout.site);
        for (int64_t i = 0; i < each; i++) {
            uint32_t word[4], counter[4];
            memcpy(counter, r.counter, sizeof counter);
            counter[0] = (uint32_t)(i / 4);
            pk_philox(word, counter, r.key);
            bool keeps = (double)word[i % 4] / 0x1p32 >= p;
            a->dst[0][b * each + i] = keeps ? a->src[0][b * each + i] / (1 - p) : 0;
        }
    }
}

/* One token of the output: dst[c] = (x or 0) + (table or 0). */
static inline void ref_token(double *dst, const double *x, const double *table, int64_t c)
{
    for (int64_t i = 0; i < c; i++) dst[i] = x[i] + (table ? table[i] : 0);
}

static inline void ref_tokens(const struct ref_args *a)
{
    const double *x = a->src[0];
    double *y = a->dst[0];
    int64_t c = a->c, t = a->t;
    switch (a->n->op) {
    case PK_OP_GATHER_TOKENS: {
        int64_t k = a->in[1]->dim[1];
        for (int64_t i = 0; i < a->b * k; i++)
            ref_token(y + i * c, x + (i / k * t + (int64_t)a->src[1][i]) * c, NULL, c);
        break;
    }
    case PK_OP_ADD_POSITION:
        for (int64_t i = 0; i < a->b * t; i++)
            ref_token(y + i * c, x + i * c,
                      a->src[1] + (a->src[2] ? (int64_t)a->src[2][i] : i % t) * c, c);
        break;
    case PK_OP_PREPEND_TOKEN: {
        const int64_t *d = a->in[1]->dim;
        for (int64_t b = 0; b < d[0]; b++)
            for (int64_t i = 0; i <= d[1]; i++)
                ref_token(y + (b * (d[1] + 1) + i) * d[2],
                          i ? a->src[1] + (b * d[1] + i - 1) * d[2] : x, NULL, d[2]);
        break;
    }
    case PK_OP_SLICE_TOKENS: {
        int64_t start = a->n->attr.slice.start, count = a->n->attr.slice.count;
        for (int64_t i = 0; i < a->b * count; i++)
            ref_token(y + i * c, x + (i / count * t + start + i % count) * c, NULL, c);
        break;
    }
    case PK_OP_ASSEMBLE_TOKENS: {
        int64_t hide = a->in[4]->dim[1], all = t + hide;
        for (int64_t b = 0; b < a->b; b++)
            for (int64_t i = 0; i < all; i++) {
                int64_t at = (int64_t)(i < t ? a->src[3][b * t + i] : a->src[4][b * hide + i - t]);
                ref_token(y + (b * all + i) * c, i < t ? x + (b * t + i) * c : a->src[1],
                          a->src[2] + at * c, c);
            }
        break;
    }
    default: { // mean pool
        int64_t skip = a->n->attr.pool.skip;
        for (int64_t i = 0; i < a->b * c; i++) {
            y[i] = 0;
            for (int64_t k = skip; k < t; k++)
                y[i] += x[(i / c * t + k) * c + i % c] / (double)(t - skip);
        }
    }
    }
}

static inline void ref_conv1d(const struct ref_args *a)
{
    const int64_t *w = a->in[1]->dim, stride = a->n->attr.conv1d.stride;
    const int64_t left = a->n->attr.conv1d.left, groups = a->n->attr.conv1d.groups;
    const int64_t out = (a->t + left + a->n->attr.conv1d.right - w[2]) / stride + 1;
    for (int64_t i = 0; i < a->b * out * w[0]; i++) {
        const int64_t n = i % w[0], u = i / w[0] % out, b = i / w[0] / out;
        double sum = a->src[2] ? a->src[2][n] : 0;
        for (int64_t k = 0; k < w[2]; k++) {
            const int64_t t = u * stride + k - left;
            if (t < 0 || t >= a->t) continue;
            for (int64_t c = 0; c < w[1]; c++)
                sum += a->src[0][(b * a->t + t) * a->c + n / (w[0] / groups) * w[1] + c] *
                       a->src[1][(n * w[1] + c) * w[2] + k];
        }
        a->dst[0][i] = sum;
    }
}

static inline void ref_batchnorm(const struct ref_args *a)
{
    for (int64_t i = 0; i < a->c; i++) {
        double mean = a->src[3][i], var = a->src[4][i];
        if (a->n->attr.batchnorm.train) {
            mean = var = 0;
            for (int64_t r = 0; r < a->rows; r++) mean += a->src[0][r * a->c + i] / (double)a->rows;
            for (int64_t r = 0; r < a->rows; r++)
                var += pow(a->src[0][r * a->c + i] - mean, 2) / (double)a->rows;
        }
        for (int64_t r = 0; r < a->rows; r++)
            a->dst[0][r * a->c + i] = (a->src[0][r * a->c + i] - mean) /
                                          sqrt(var + (double)a->n->attr.batchnorm.eps) *
                                          a->src[1][i] +
                                      a->src[2][i];
    }
}

static inline double ref_activation(double x, int32_t kind)
{
    if (kind == PK_RELU) return fmax(x, 0);
    return (kind == PK_SILU ? x : 1) / (1 + exp(-x));
}

/* Window u of channel i: its maximum, or its mean. */
static inline double ref_window(const struct ref_args *a, int64_t b, int64_t from, int64_t to,
                                int64_t i, bool mean)
{
    double y = mean ? 0 : -INFINITY;
    from = from < 0 ? 0 : from;
    to = to > a->t ? a->t : to;
    for (int64_t t = from; t < to; t++) {
        const double x = a->src[0][(b * a->t + t) * a->c + i];
        y = mean ? y + x / (double)(to - from) : fmax(y, x);
    }
    return y;
}

static inline void ref_pool1d(const struct ref_args *a)
{
    const int64_t kernel = a->n->attr.pool1d.kernel, stride = a->n->attr.pool1d.stride;
    const int64_t left = a->n->attr.pool1d.left;
    const int64_t out = (a->t + left + a->n->attr.pool1d.right - kernel) / stride + 1;
    for (int64_t r = 0; r < a->b * out; r++)
        for (int64_t i = 0; i < a->c; i++) {
            const int64_t from = r % out * stride - left;
            a->dst[0][r * a->c + i] =
                ref_window(a, r / out, from, from + kernel, i, a->n->attr.pool1d.mean);
        }
}

static inline void ref_losses(const struct ref_args *a)
{
    const double *x = a->src[0], *target = a->src[1];
    double sum = 0;
    if (a->n->op == PK_OP_FEATURE_MOMENTS) {
        for (int64_t i = 0; i < a->c; i++) {
            double mean = 0, var = 0;
            for (int64_t r = 0; r < a->rows; r++) mean += x[r * a->c + i] / (double)a->rows;
            for (int64_t r = 0; r < a->rows; r++)
                var += (x[r * a->c + i] - mean) * (x[r * a->c + i] - mean) / (double)a->rows;
            a->dst[0][i] = mean;
            a->dst[0][a->c + i] = var;
        }
        return;
    }
    for (int64_t i = 0; i < a->count; i++) sum += fabs(x[i] - target[i]) / (double)a->count;
    a->dst[0][0] = sum;
}

/* Label i: NaN where it is not known, as a byte or as a float. */
static inline double ref_label(const struct ref_args *a, int64_t i)
{
    const bool missing = a->in[1]->dtype == PK_U8 && a->src[1][i] == PK_LABEL_MISSING;
    return missing ? (double)NAN : a->src[1][i];
}

static inline double ref_entry(const struct ref_args *a, double x, double y)
{
    const union pk_attr *t = &a->n->attr;
    if (a->n->op == PK_OP_REGRESSION_LOSS) {
        const double d = fabs(x - y), delta = (double)t->regression.delta;
        if (t->regression.kind == PK_REGRESSION_SQUARED) return d * d;
        if (t->regression.kind == PK_REGRESSION_ABSOLUTE) return d;
        return d < delta ? d * d / 2 : delta * (d - delta / 2);
    }
    const double p = 1 / (1 + exp(-x)), n = fmax(p - (double)t->multilabel.margin, 0);
    return -pow(1 - p, (double)t->multilabel.gamma_positive) * y * log(p) -
           pow(n, (double)t->multilabel.gamma_negative) * (1 - y) * log(1 - n);
}

static inline void ref_entries(const struct ref_args *a)
{
    const bool labels = a->n->op == PK_OP_MULTILABEL_LOSS;
    const double *positive = labels ? a->src[2] : NULL, *weight = a->src[labels ? 3 : 2];
    const double alpha = labels ? (double)a->n->attr.multilabel.alpha : 0;
    const double smoothing = labels ? (double)a->n->attr.multilabel.smoothing : 0;
    double sum = 0, known = 0;
    for (int64_t i = 0; i < a->count; i++) {
        const double y = ref_label(a, i), w = weight ? weight[i % a->c] : 1, x = a->src[0][i];
        if (isnan(y)) continue;
        known++;
        if (!labels) {
            sum += w * ref_entry(a, x, y);
            continue;
        }
        // linear in the label: the losses of 1 and of 0
        const double s = y * (1 - smoothing) + smoothing / 2, q = positive ? positive[i % a->c] : 1;
        sum += w * (alpha > 0 ? alpha : 1) * q * s * ref_entry(a, x, 1);
        sum += w * (alpha > 0 ? 1 - alpha : 1) * (1 - s) * ref_entry(a, x, 0);
    }
    a->dst[0][0] = known > 0 ? sum / known : 0;
    a->dst[1][0] = known;
}

static inline void ref_multiclass(const struct ref_args *a)
{
    const double smoothing = (double)a->n->attr.multiclass.smoothing;
    double sum = 0, divisor = 0;
    for (int64_t r = 0; r < a->rows; r++) {
        const double *x = a->src[0] + r * a->c;
        double total = 0, labels = 0, weight = 0;
        for (int64_t i = 0; i < a->c; i++) {
            total += exp(x[i]);
            labels += ref_label(a, r * a->c + i);
            weight += ref_label(a, r * a->c + i) * (a->src[2] ? a->src[2][i] : 1);
        }
        if (!(labels > 0)) continue;
        divisor += weight / labels;
        for (int64_t i = 0; i < a->c; i++) {
            const double y = ref_label(a, r * a->c + i);
            sum += (a->src[2] ? a->src[2][i] : 1) * (log(total) - x[i]) *
                   (y * (1 - smoothing) + smoothing / (double)a->c);
        }
    }
    a->dst[0][0] = divisor > 0 ? sum / divisor : 0;
    a->dst[1][0] = divisor;
}

static inline void ref_mixup(const struct ref_args *a)
{
    const int64_t batch = a->in[1]->dim[0], each = a->count / batch;
    for (int64_t i = 0; i < a->count; i++) {
        const bool byte = a->in[0]->dtype == PK_U8;
        bool none = a->n->attr.mixup.single_label, missing = byte && a->src[0][i] == 255;
        for (int64_t k = i / a->c * a->c; k < (i / a->c + 1) * a->c; k++)
            none = none && a->src[0][k] == 0;
        a->dst[0][i] = none || missing ? (double)NAN : a->src[0][i];
    }
    for (int64_t b = 0; b + 1 < batch; b += 2) {
        const double s =
            pk_mixup_share(a->n->attr.mixup.seed, (uint64_t)a->src[1][b], a->n->attr.mixup.alpha);
        for (int64_t i = b * each; i < (b + 1) * each; i++) {
            const double x = a->dst[0][i], y = a->dst[0][i + each];
            a->dst[0][i] = s * x + (1 - s) * y;
            a->dst[0][i + each] = s * y + (1 - s) * x;
        }
    }
}

static inline double ref_inner(const double *x, const double *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* -log of the softmax of every positive, over all keys but the query itself. */
static inline void ref_contrast(const struct ref_args *a)
{
    const bool self = !a->src[1];
    const double *key = a->src[self ? 0 : 1], *near = a->src[self ? 2 : 3];
    const double t = (double)a->n->attr.contrast.temperature;
    int64_t keys = self ? a->rows : pk_value_count(a->in[1]) / a->c;
    double loss = 0;
    for (int64_t i = 0; i < a->rows; i++) {
        double sum = 0, all = 0, count = 0;
        for (int64_t j = 0; j < keys; j++) {
            if (self && i == j) continue;
            double s = ref_inner(a->src[0] + i * a->c, key + j * a->c, a->c) / t;
            sum += exp(s);
            if (a->src[2][i] == near[j]) all += s, count++;
        }
        if (count > 0) loss += log(sum) - all / count;
        if (a->dst[1]) a->dst[1][i] = log(sum), a->dst[1][a->rows + i] = count;
    }
    a->dst[0][0] = loss * (double)a->n->attr.contrast.weight / (double)a->rows;
}

static inline void ref_koleo(const struct ref_args *a)
{
    double loss = 0;
    for (int64_t i = 0; i < a->rows; i++) {
        double least = INFINITY;
        for (int64_t j = 0; j < a->rows; j++) {
            double d = 0;
            for (int64_t k = 0; k < a->c; k++)
                d += pow(a->src[0][i * a->c + k] - a->src[0][j * a->c + k], 2);
            if (i == j || sqrt(d) >= least) continue;
            least = sqrt(d);
            if (a->dst[1]) a->dst[1][i] = (double)j;
        }
        loss -= log(least + (double)a->n->attr.koleo.eps) / (double)a->rows;
        if (a->dst[2]) a->dst[2][i] = least;
    }
    a->dst[0][0] = loss * (double)a->n->attr.koleo.weight;
}

static inline void ref_normalize(const struct ref_args *a)
{
    for (int64_t i = 0; i < a->count; i++) {
        const double *row = a->src[0] + i / a->c * a->c;
        double norm = sqrt(ref_inner(row, row, a->c));
        a->dst[0][i] = a->src[0][i] / fmax(norm, (double)a->n->attr.normalize.eps);
    }
}

/* False for an op that has no forward meaning here (gradient ops). */
static inline bool ref_node(const struct ref_args *a)
{
    const double *x = a->src[0];
    switch (a->n->op) {
    case PK_OP_PATCHIFY:
        ref_patchify(a);
        return true;
    case PK_OP_BLOCK_MASK:
        ref_block_mask(a);
        return true;
    case PK_OP_LEAD_MASK:
        ref_lead_mask(a);
        return true;
    case PK_OP_LEAD_PRESENT:
        ref_lead_present(a);
        return true;
    case PK_OP_LEAD_TOKENS:
        ref_lead_tokens(a);
        return true;
    case PK_OP_LEAD_POOL:
        ref_lead_pool(a);
        return true;
    case PK_OP_PATCH_LOSS:
        ref_patch_loss(a);
        return true;
    case PK_OP_LINEAR:
        ref_linear(a, a->dst[0]);
        return true;
    case PK_OP_GELU:
        for (int64_t i = 0; i < a->count; i++) a->dst[0][i] = ref_gelu(x[i]);
        return true;
    case PK_OP_LINEAR_GELU: {
        ref_linear(a, a->dst[1]);
        for (int64_t i = 0; i < a->rows * a->in[1]->dim[0]; i++) {
            if (a->dst[0]) a->dst[0][i] = a->dst[1][i];
            a->dst[1][i] = ref_gelu(a->dst[1][i]);
        }
        return true;
    }
    case PK_OP_LAYERNORM:
        ref_norm(a, x, a->src[1], a->src[2], a->dst[0], a->dst[1], a->dst[2]);
        return true;
    case PK_OP_ADD_LAYERNORM:
        for (int64_t i = 0; i < a->count; i++) a->dst[0][i] = x[i] + a->src[1][i];
        ref_norm(a, a->dst[0], a->src[2], a->src[3], a->dst[1], a->dst[2], a->dst[3]);
        return true;
    case PK_OP_ADD:
        for (int64_t i = 0; i < a->count; i++) a->dst[0][i] = x[i] + a->src[1][i];
        return true;
    case PK_OP_COPY:
    case PK_OP_RESHAPE:
        memcpy(a->dst[0], x, (size_t)a->count * sizeof *x);
        return true;
    case PK_OP_DROPOUT:
        ref_dropout(a);
        return true;
    case PK_OP_ATTENTION:
        ref_attention(a);
        return true;
    case PK_OP_ATTENTION_POOL:
        ref_attention_pool(a);
        return true;
    case PK_OP_GATHER_TOKENS:
    case PK_OP_ADD_POSITION:
    case PK_OP_PREPEND_TOKEN:
    case PK_OP_SLICE_TOKENS:
    case PK_OP_ASSEMBLE_TOKENS:
    case PK_OP_MEAN_POOL:
        ref_tokens(a);
        return true;
    case PK_OP_CONV1D:
        ref_conv1d(a);
        return true;
    case PK_OP_BATCHNORM:
        ref_batchnorm(a);
        return true;
    case PK_OP_ACTIVATE:
        for (int64_t i = 0; i < a->count; i++)
            a->dst[0][i] = ref_activation(x[i], a->n->attr.activate.kind);
        return true;
    case PK_OP_CHANNEL_SCALE:
        for (int64_t i = 0; i < a->count; i++)
            a->dst[0][i] = x[i] * a->src[1][i / (a->t * a->c) * a->c + i % a->c];
        return true;
    case PK_OP_POOL1D:
        ref_pool1d(a);
        return true;
    case PK_OP_CONCAT_POOL:
        for (int64_t i = 0; i < a->b * a->c * 2; i++)
            a->dst[0][i] = ref_window(a, i / (2 * a->c), 0, a->t, i % a->c, i / a->c % 2 != 0);
        return true;
    case PK_OP_FEATURE_MOMENTS:
    case PK_OP_L1_LOSS:
        ref_losses(a);
        return true;
    case PK_OP_MULTILABEL_LOSS:
    case PK_OP_REGRESSION_LOSS:
        ref_entries(a);
        return true;
    case PK_OP_MULTICLASS_LOSS:
        ref_multiclass(a);
        return true;
    case PK_OP_MIXUP:
        ref_mixup(a);
        return true;
    case PK_OP_L2_NORMALIZE:
        ref_normalize(a);
        return true;
    case PK_OP_CONTRAST_LOSS:
        ref_contrast(a);
        return true;
    case PK_OP_KOLEO_LOSS:
        ref_koleo(a);
        return true;
    case PK_OP_DOT_LOSS:
        a->dst[0][0] = ref_inner(x, a->src[1], a->count);
        return true;
    default:
        return false;
    }
}

static inline void ref_set_leaf(struct ref *r, int32_t v)
{
    const struct pk_value *x = &r->p->value[v];
    int64_t n = pk_value_count(x);
    if (x->storage == PK_STORE_CONST) {
        double *y = ref_room(r, v);
        for (int64_t i = 0; i < n; i++)
            y[i] = (double)((const float *)(r->p->constants + x->constant))[i];
        return;
    }
    const double *from = x->storage == PK_STORE_PARAM || x->storage == PK_STORE_STATE ? r->weight
                         : x->storage == PK_STORE_EMA                                 ? r->ema
                                                                                      : NULL;
    if (!from || (r->ran && r->stops && !x->needs_grad)) return;
    memcpy(ref_room(r, v), from + r->p->params->item[x->param].offset, (size_t)n * sizeof *from);
}

static inline void ref_args_of(struct ref *r, const struct pk_node *n, struct ref_args *a)
{
    *a = (struct ref_args){.n = n};
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] < 0) continue;
        a->in[i] = &r->p->value[n->in[i]];
        a->src[i] = r->value[n->in[i]];
    }
    const struct pk_value *x = a->in[0];
    a->c = x->dim[x->rank - 1];
    a->count = pk_value_count(x);
    a->rows = a->count / a->c;
    a->b = x->dim[0];
    a->t = x->rank > 2 ? x->dim[1] : 1;
}

/* Runs the forward part; returns the loss (NAN when the program has none). */
static inline double ref_run(struct ref *r)
{
    const struct pk_prog *p = r->p;
    for (int32_t v = 0; v < p->values; v++) ref_set_leaf(r, v);
    for (int64_t k = 0; k < p->nodes; k++) {
        const struct pk_node *n = &p->node[k];
        struct ref_args a;
        bool known = true, constant = true;
        for (int i = 0; i < n->n_in; i++) known &= n->in[i] < 0 || r->value[n->in[i]] != NULL;
        if (!known) continue;
        for (int i = 0; i < n->n_out; i++)
            constant &= n->out[i] < 0 || !p->value[n->out[i]].needs_grad;
        if (constant && r->ran && r->stops) continue;
        ref_args_of(r, n, &a);
        for (int i = 0; i < n->n_out; i++)
            if (n->out[i] >= 0) a.dst[i] = ref_room(r, n->out[i]);
        ref_node(&a);
    }
    r->ran = true;
    return p->loss >= 0 && r->value[p->loss] ? r->value[p->loss][0] : NAN;
}

#endif
