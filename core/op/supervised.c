/* supervised.c -- losses against labels and targets, some of which may be missing: each a mean over
 * what is known, and the divisor of that mean, which the gradient reads. */
#include "core/op/rows.h"

#include <math.h>
#include <string.h>

static int64_t cols_of(const struct pk_value *v)
{
    return v->dim[v->rank - 1];
}

/* Weights of classes or targets in input k, which may be absent. */
static enum pk_status need_weights(struct pk_infer *x, int k)
{
    if (!x->in[k]) return PK_OK;
    PK_TRY(pk_infer_need(x, k, PK_F32, 1));
    PK_TRY(pk_infer_fixed(x, k));
    if (x->in[k]->dim[0] != cols_of(x->in[0]))
        return pk_infer_fail(x, "input %d: %lld weights for %lld columns", k,
                             (long long)x->in[k]->dim[0], (long long)cols_of(x->in[0]));
    return PK_OK;
}

/* Prediction and what it is held against; outputs loss [1] and divisor [1]. */
static enum pk_status infer_loss(struct pk_infer *x, enum pk_dtype also)
{
    const char *what = also == PK_U8 ? "labels" : "targets";
    PK_TRY(pk_infer_need_real(x, 0, 0));
    if (!x->in[1]) return pk_infer_fail(x, "input 1 is missing");
    if (x->in[1]->dtype != PK_F32 && x->in[1]->dtype != also)
        return pk_infer_fail(x, "%s are %s, %s was expected", what, pk_dtype_name(x->in[1]->dtype),
                             also == PK_U8 ? "u8 or f32" : "f32");
    if (x->in[0]->rank != x->in[1]->rank ||
        memcmp(x->in[0]->dim, x->in[1]->dim, sizeof x->in[0]->dim))
        return pk_infer_fail(x, "predictions and %s differ in shape", what);
    PK_TRY(pk_infer_fixed(x, 1));
    for (int k = 2; k < x->n_in; k++) PK_TRY(need_weights(x, k));
    pk_infer_out(x, 0, PK_F32, 1, (int64_t[]){1});
    pk_infer_out(x, 1, PK_F32, 1, (int64_t[]){1});
    return PK_OK;
}

static bool within(float x, float low, float below)
{
    return x >= low && x < below;
}

static enum pk_status infer_multilabel(struct pk_infer *x)
{
    const union pk_attr *a = x->attr;
    PK_TRY(infer_loss(x, PK_U8));
    if (!within(a->multilabel.gamma_positive, 0, INFINITY) ||
        !within(a->multilabel.gamma_negative, 0, INFINITY))
        return pk_infer_fail(x, "focusing exponents %g and %g: 0 or more was expected",
                             (double)a->multilabel.gamma_positive,
                             (double)a->multilabel.gamma_negative);
    if (!within(a->multilabel.margin, 0, 1) || !within(a->multilabel.alpha, 0, 1) ||
        !within(a->multilabel.smoothing, 0, 1))
        return pk_infer_fail(
            x, "margin %g, alpha %g, smoothing %g: numbers from 0 to below 1 were expected",
            (double)a->multilabel.margin, (double)a->multilabel.alpha,
            (double)a->multilabel.smoothing);
    return PK_OK;
}

static enum pk_status infer_multiclass(struct pk_infer *x)
{
    const float smoothing = x->attr->multiclass.smoothing;
    PK_TRY(infer_loss(x, PK_U8));
    if (!within(smoothing, 0, 1))
        return pk_infer_fail(x, "smoothing %g: a number from 0 to below 1 was expected",
                             (double)smoothing);
    return PK_OK;
}

static enum pk_status infer_regression(struct pk_infer *x)
{
    const int32_t kind = x->attr->regression.kind;
    const float delta = x->attr->regression.delta;
    PK_TRY(infer_loss(x, PK_F32));
    if (kind < PK_REGRESSION_SQUARED || kind > PK_REGRESSION_HUBER)
        return pk_infer_fail(x, "%d is no kind of regression", kind);
    if (kind == PK_REGRESSION_HUBER && !(delta > 0 && isfinite(delta)))
        return pk_infer_fail(x, "delta %g of Huber's loss: a number above 0 was expected",
                             (double)delta);
    return PK_OK;
}

/* The gradient op follows its loss in the table, and takes its inputs, then divisor and seed. */
static void grad_loss(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    int32_t in[PK_NODE_IN];
    memcpy(in, n->in, sizeof in);
    in[n->n_in] = n->out[1];
    in[n->n_in + 1] = pk_diff_out(d, n, 0);
    pk_diff_emit(d, (enum pk_op)(n->op + 1), &n->attr, n->n_in + 2, in, 1, &dx);
}

#define LOSS(op)                                                                                   \
    const struct pk_op_row pk_row_##op##_loss = {                                                  \
        .name = #op "_loss", .infer = infer_##op, .grad = grad_loss, .flops = pk_flops_none};      \
    const struct pk_op_row pk_row_##op##_loss_grad = {.name = #op "_loss_grad",                    \
                                                      .infer = pk_infer_given,                     \
                                                      .no_grad = PK_IS_GRAD,                       \
                                                      .flops = pk_flops_none}
LOSS(multilabel);
LOSS(multiclass);
LOSS(regression);

/* Weights as a constant [N of x]; -1 without. */
static int32_t weights(struct pk_build *b, struct pk_val x, const float *weight)
{
    const int64_t n = weight ? pk_dim(b, x, -1) : 0;
    if (n <= 0 || b->err.status != PK_OK) return -1;
    for (int64_t k = 0; k < n; k++)
        if (!within(weight[k], 0, INFINITY)) {
            pk_build_fail(b, PK_ERECIPE, "weight %g of column %lld of a loss: give 0 or more",
                          (double)weight[k], (long long)k);
            return -1;
        }
    return pk_constant(b, 1, &n, weight).id;
}

struct pk_val pk_multilabel_loss(struct pk_build *b, struct pk_val logit, struct pk_val label,
                                 const struct pk_multilabel_spec *a)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr attr = {.raw = {0}}; // hashed as bytes
    attr.multilabel.gamma_positive = a->gamma_positive;
    attr.multilabel.gamma_negative = a->gamma_negative;
    attr.multilabel.margin = a->margin;
    attr.multilabel.alpha = a->alpha;
    attr.multilabel.smoothing = a->smoothing;
    const int32_t positive = weights(b, logit, a->positive_weight);
    const int32_t classes = weights(b, logit, a->class_weight);
    pk_emit(b, PK_OP_MULTILABEL_LOSS, &attr, 4, (int32_t[]){logit.id, label.id, positive, classes},
            out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_bce_loss(struct pk_build *b, struct pk_val logit, struct pk_val label)
{
    return pk_multilabel_loss(b, logit, label, &(struct pk_multilabel_spec){.alpha = 0});
}

struct pk_val pk_multiclass_loss(struct pk_build *b, struct pk_val logit, struct pk_val label,
                                 const struct pk_multiclass_spec *a)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr attr = {.raw = {0}};
    attr.multiclass.smoothing = a->smoothing;
    const int32_t classes = weights(b, logit, a->class_weight);
    pk_emit(b, PK_OP_MULTICLASS_LOSS, &attr, 3, (int32_t[]){logit.id, label.id, classes}, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_softmax_loss(struct pk_build *b, struct pk_val logit, struct pk_val label)
{
    return pk_multiclass_loss(b, logit, label, &(struct pk_multiclass_spec){.smoothing = 0});
}

struct pk_val pk_regression_loss(struct pk_build *b, struct pk_val x, struct pk_val target,
                                 const struct pk_regression_spec *a)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr attr = {.raw = {0}};
    attr.regression.kind = (int32_t)a->kind;
    if (a->kind == PK_REGRESSION_HUBER) attr.regression.delta = a->delta;
    const int32_t targets = weights(b, x, a->weight);
    pk_emit(b, PK_OP_REGRESSION_LOSS, &attr, 3, (int32_t[]){x.id, target.id, targets}, out);
    return (struct pk_val){out[0]};
}
