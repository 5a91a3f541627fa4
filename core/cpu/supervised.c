/* supervised.c -- losses against labels and targets, some of which may be missing (core/ops.h).
 * Predictions are few (records x classes), so all is in double and the C library's functions will
 * do; sums run in the order of the elements, so that a loss compares between runs to the last bit.
 */
#include "core/cpu/kernels.h"
#include "core/supervised_inline.h"
#include "core/view.h"

/* Label or target i, NaN where it is not known. */
static double known_at(const struct pk_call *c, int64_t i)
{
    if (c->in[1]->dtype != PK_U8) return (double)((const float *)c->src[1])[i];
    const uint8_t label = ((const uint8_t *)c->src[1])[i];
    return label == PK_LABEL_MISSING ? (double)NAN : label != 0;
}

/* Weight k of input slot `in`, 1 where there are none. */
static double weight_at(const struct pk_call *c, int in, int64_t k)
{
    return c->src[in] ? (double)((const float *)c->src[in])[k] : 1;
}

/* Sets the loss and the divisor of its mean; a mean over nothing is 0. */
static enum pk_status finish(const struct pk_call *c, double sum, double divisor)
{
    *(float *)c->dst[0] = divisor > 0 ? (float)(sum / divisor) : 0;
    *(float *)c->dst[1] = (float)divisor;
    return PK_OK;
}

/* What a gradient kernel multiplies with: the seed, in the last input, by the divisor before it. */
static double scale_of(const struct pk_call *c)
{
    const int last = c->node->n_in - 1;
    const float divisor = *(const float *)c->src[last - 1];
    return divisor > 0 ? (double)*(const float *)c->src[last] / (double)divisor : 0;
}

static void put_slope(const struct pk_call *c, int64_t i, double slope)
{
    float *dx = c->dst[0];
    dx[i] = pk_call_accumulates(c, 0) ? dx[i] + (float)slope : (float)slope;
}

static struct pk_focal focal_of(const struct pk_call *c)
{
    const union pk_attr *a = &c->node->attr;
    const double alpha = (double)a->multilabel.alpha;
    return (struct pk_focal){.gamma_positive = (double)a->multilabel.gamma_positive,
                             .gamma_negative = (double)a->multilabel.gamma_negative,
                             .margin = (double)a->multilabel.margin,
                             .positive = alpha > 0 ? alpha : 1,
                             .negative = alpha > 0 ? 1 - alpha : 1};
}

/* Loss of entry i, or its slope; y is its label before smoothing. */
static double multilabel_at(const struct pk_call *c, int64_t i, double y, double *slope)
{
    const double smoothing = (double)c->node->attr.multilabel.smoothing;
    const int64_t k = i % pk_view_cols(c->in[0]);
    const double weight = weight_at(c, 3, k);
    struct pk_focal f = focal_of(c);
    f.positive *= weight * weight_at(c, 2, k);
    f.negative *= weight;
    return pk_focal_loss(&f, (double)((const float *)c->src[0])[i],
                         y * (1 - smoothing) + smoothing / 2, slope);
}

enum pk_status PK_ISA_NAME(pk_cpu_multilabel_loss)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t count = pk_view_count(c->in[0]);
    double sum = 0, known = 0;
    for (int64_t i = 0; i < count; i++) {
        const double y = known_at(c, i);
        if (isnan(y)) continue;
        sum += multilabel_at(c, i, y, NULL);
        known++;
    }
    return finish(c, sum, known);
}

enum pk_status PK_ISA_NAME(pk_cpu_multilabel_loss_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t count = pk_view_count(c->out[0]);
    const double scale = scale_of(c);
    for (int64_t i = 0; i < count; i++) {
        const double y = known_at(c, i);
        double slope = 0;
        if (!isnan(y)) multilabel_at(c, i, y, &slope);
        put_slope(c, i, scale * slope);
    }
    return PK_OK;
}

/* One row of a softmax loss. */
struct row {
    double labels, weight; // sum of the labels, mean weight of them; 0 for a row left out
    double lse;            // log sum exp of the logits
    double smooth, rest;   // label y counts as smooth y + rest
};

static struct row row_of(const struct pk_call *c, int64_t r)
{
    const int64_t n = pk_view_cols(c->in[0]);
    const float *z = (const float *)c->src[0] + r * n;
    const double smoothing = (double)c->node->attr.multiclass.smoothing;
    struct row row = {.smooth = 1 - smoothing, .rest = smoothing / (double)n};
    for (int64_t k = 0; k < n; k++) {
        const double y = known_at(c, r * n + k);
        row.labels += y;
        row.weight += y * weight_at(c, 2, k);
    }
    if (!(row.labels > 0)) return (struct row){.labels = 0};
    row.weight /= row.labels;
    float top = z[0];
    double sum = 0;
    for (int64_t k = 1; k < n; k++) top = z[k] > top ? z[k] : top;
    for (int64_t k = 0; k < n; k++) sum += exp((double)z[k] - (double)top);
    row.lse = (double)top + log(sum);
    return row;
}

enum pk_status PK_ISA_NAME(pk_cpu_multiclass_loss)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *z = c->src[0];
    const int64_t rows = pk_view_rows(c->in[0]), n = pk_view_cols(c->in[0]);
    double sum = 0, divisor = 0;
    for (int64_t r = 0; r < rows; r++) {
        const struct row row = row_of(c, r);
        divisor += row.weight;
        for (int64_t k = 0; row.labels > 0 && k < n; k++) {
            const double y = row.smooth * known_at(c, r * n + k) + row.rest;
            sum += weight_at(c, 2, k) * y * (row.lse - (double)z[r * n + k]);
        }
    }
    return finish(c, sum, divisor);
}

enum pk_status PK_ISA_NAME(pk_cpu_multiclass_loss_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *z = c->src[0];
    const int64_t rows = pk_view_rows(c->out[0]), n = pk_view_cols(c->out[0]);
    const double scale = scale_of(c);
    for (int64_t r = 0; r < rows; r++) {
        const struct row row = row_of(c, r);
        double pull = 0; // sum of weighted labels
        for (int64_t k = 0; row.labels > 0 && k < n; k++)
            pull += weight_at(c, 2, k) * (row.smooth * known_at(c, r * n + k) + row.rest);
        for (int64_t k = 0; k < n; k++) {
            const int64_t i = r * n + k;
            if (!(row.labels > 0)) {
                put_slope(c, i, 0);
                continue;
            }
            const double y = weight_at(c, 2, k) * (row.smooth * known_at(c, i) + row.rest);
            put_slope(c, i, scale * (pull * exp((double)z[i] - row.lse) - y));
        }
    }
    return PK_OK;
}

static double regression_at(const struct pk_call *c, int64_t i, double target, double *slope)
{
    const union pk_attr *a = &c->node->attr;
    return pk_distance_loss(a->regression.kind, (double)a->regression.delta,
                            (double)((const float *)c->src[0])[i] - target, slope);
}

enum pk_status PK_ISA_NAME(pk_cpu_regression_loss)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t count = pk_view_count(c->in[0]), n = pk_view_cols(c->in[0]);
    double sum = 0, known = 0;
    for (int64_t i = 0; i < count; i++) {
        const double target = known_at(c, i);
        if (isnan(target)) continue;
        sum += weight_at(c, 2, i % n) * regression_at(c, i, target, NULL);
        known++;
    }
    return finish(c, sum, known);
}

enum pk_status PK_ISA_NAME(pk_cpu_regression_loss_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t count = pk_view_count(c->out[0]), n = pk_view_cols(c->out[0]);
    const double scale = scale_of(c);
    for (int64_t i = 0; i < count; i++) {
        const double target = known_at(c, i);
        double slope = 0;
        if (!isnan(target)) regression_at(c, i, target, &slope);
        put_slope(c, i, scale * weight_at(c, 2, i % n) * slope);
    }
    return PK_OK;
}
