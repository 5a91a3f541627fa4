/* linear.c -- y = x w^T + bias over the last axis, exact GELU, and their fused forms. */
#include "core/op/rows.h"

static enum pk_status infer_product(struct pk_infer *x, int outs)
{
    PK_TRY(pk_infer_need_real(x, 0, 0));
    PK_TRY(pk_infer_need_real(x, 1, 2));
    const struct pk_value *in = x->in[0], *w = x->in[1];
    if (in->dim[in->rank - 1] != w->dim[1])
        return pk_infer_fail(x, "the last axis of the input is not the weight's %lld columns",
                             (long long)w->dim[1]);
    if (x->n_in > 2 && x->in[2] && x->in[2]->dim[0] != w->dim[0])
        return pk_infer_fail(x, "the bias does not fit the weight");
    for (int k = 0; k < outs; k++) {
        pk_infer_like(x, k, in);
        x->out[k].dim[in->rank - 1] = w->dim[0];
    }
    return PK_OK;
}

static enum pk_status infer_linear(struct pk_infer *x)
{
    return infer_product(x, 1);
}

static enum pk_status infer_linear_gelu(struct pk_infer *x)
{
    return infer_product(x, 2);
}

static void grad_linear(struct pk_diff *d, const struct pk_node *n)
{
    int32_t dy = pk_diff_out(d, n, 0);
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_LINEAR_DX, NULL, 2, (int32_t[]){dy, n->in[1]}, 1, &dx);
    struct pk_slot dw[2] = {pk_diff_into(d, n->in[1]), pk_diff_into(d, n->in[2])};
    pk_diff_emit(d, PK_OP_LINEAR_DW, NULL, 2, (int32_t[]){dy, n->in[0]}, 2, dw);
}

static enum pk_status infer_gelu(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 0));
    pk_infer_like(x, 0, x->in[0]);
    return PK_OK;
}

static void grad_gelu(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_GELU_GRAD, NULL, 2, (int32_t[]){pk_diff_out(d, n, 0), n->in[0]}, 1, &dx);
}

/* Every product multiplies the elements of the long operand by one dimension of the weight. */
static double flops_product(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *w = &p->value[n->in[1]];
    return 2.0 * (double)pk_value_count(&p->value[n->in[0]]) *
           (double)w->dim[n->op == PK_OP_LINEAR || n->op == PK_OP_LINEAR_GELU ? 0 : 1];
}

static double flops_weight_gradient(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *x = &p->value[n->in[1]];
    return 2.0 * (double)pk_value_count(&p->value[n->in[0]]) * (double)x->dim[x->rank - 1];
}

const struct pk_op_row pk_row_linear = {
    .name = "linear", .infer = infer_linear, .grad = grad_linear, .flops = flops_product};
const struct pk_op_row pk_row_linear_dx = {
    .name = "linear_dx", .infer = pk_infer_given, .no_grad = PK_IS_GRAD, .flops = flops_product};
const struct pk_op_row pk_row_linear_dw = {.name = "linear_dw",
                                           .infer = pk_infer_given,
                                           .no_grad = PK_IS_GRAD,
                                           .flops = flops_weight_gradient};
const struct pk_op_row pk_row_gelu = {
    .name = "gelu", .infer = infer_gelu, .grad = grad_gelu, .flops = pk_flops_none};
const struct pk_op_row pk_row_gelu_grad = {
    .name = "gelu_grad", .infer = pk_infer_given, .no_grad = PK_IS_GRAD, .flops = pk_flops_none};
const struct pk_op_row pk_row_linear_gelu = {.name = "linear_gelu",
                                             .infer = infer_linear_gelu,
                                             .no_grad = PK_IS_FUSED,
                                             .flops = flops_product};
const struct pk_op_row pk_row_linear_dx_gelu = {.name = "linear_dx_gelu",
                                                .infer = pk_infer_given,
                                                .no_grad = PK_IS_GRAD,
                                                .flops = flops_product};

static struct pk_val linear(struct pk_build *b, struct pk_val x, int64_t width, const char *name,
                            bool bias)
{
    int32_t out[PK_NODE_OUT];
    int64_t dim[2] = {width, pk_dim(b, x, -1)};
    pk_scope(b, "%s", name);
    x = pk_cast(b, x, b->params->storage); // a learned query is a vector, so float
    struct pk_val w = pk_weight_matrix(b, "weight", dim, PK_INIT_TRUNC_NORMAL);
    struct pk_val v = bias ? pk_weight(b, "bias", 1, dim, PK_INIT_ZERO, false) : PK_NONE;
    pk_emit(b, PK_OP_LINEAR, NULL, 3, (int32_t[]){x.id, w.id, v.id}, out);
    pk_scope_end(b);
    return (struct pk_val){out[0]};
}

struct pk_val pk_linear(struct pk_build *b, struct pk_val x, int64_t width, const char *name)
{
    return linear(b, x, width, name, false);
}

struct pk_val pk_linear_bias(struct pk_build *b, struct pk_val x, int64_t width, const char *name)
{
    return linear(b, x, width, name, true);
}

struct pk_val pk_gelu(struct pk_build *b, struct pk_val x)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_GELU, NULL, 1, &x.id, out);
    return (struct pk_val){out[0]};
}
