/* activate.c -- ReLU, SiLU, sigmoid, and the gate of a squeeze-excite. */
#include "core/op/rows.h"

static enum pk_status infer_activate(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 0));
    pk_infer_like(x, 0, x->in[0]);
    return PK_OK;
}

static enum pk_status infer_channel_scale(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    PK_TRY(pk_infer_need_real(x, 1, 2));
    if (x->in[1]->dim[0] != x->in[0]->dim[0] || x->in[1]->dim[1] != x->in[0]->dim[2])
        return pk_infer_fail(x, "the gate needs one number for each record and channel");
    pk_infer_like(x, 0, x->in[0]);
    return PK_OK;
}

static void grad_activate(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_ACTIVATE_GRAD, &n->attr, 2, (int32_t[]){pk_diff_out(d, n, 0), n->in[0]},
                 1, &dx);
}

static void grad_channel_scale(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot out[2] = {pk_diff_into(d, n->in[0]), pk_diff_into(d, n->in[1])};
    pk_diff_emit(d, PK_OP_CHANNEL_SCALE_GRAD, NULL, 3,
                 (int32_t[]){pk_diff_out(d, n, 0), n->in[0], n->in[1]}, 2, out);
}

const struct pk_op_row pk_row_activate = {
    .name = "activate", .infer = infer_activate, .grad = grad_activate, .flops = pk_flops_none};
const struct pk_op_row pk_row_activate_grad = {.name = "activate_grad",
                                               .infer = pk_infer_given,
                                               .no_grad = PK_IS_GRAD,
                                               .flops = pk_flops_none};
const struct pk_op_row pk_row_channel_scale = {.name = "channel_scale",
                                               .infer = infer_channel_scale,
                                               .grad = grad_channel_scale,
                                               .flops = pk_flops_none};
const struct pk_op_row pk_row_channel_scale_grad = {.name = "channel_scale_grad",
                                                    .infer = pk_infer_given,
                                                    .no_grad = PK_IS_GRAD,
                                                    .flops = pk_flops_none};

static struct pk_val activate(struct pk_build *b, struct pk_val x, enum pk_activation kind)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = {.raw = {0}}; // hashed as bytes
    a.activate.kind = kind;
    pk_emit(b, PK_OP_ACTIVATE, &a, 1, &x.id, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_relu(struct pk_build *b, struct pk_val x)
{
    return activate(b, x, PK_RELU);
}

struct pk_val pk_silu(struct pk_build *b, struct pk_val x)
{
    return activate(b, x, PK_SILU);
}

struct pk_val pk_logistic(struct pk_build *b, struct pk_val x)
{
    return activate(b, x, PK_SIGMOID);
}

struct pk_val pk_channel_scale(struct pk_build *b, struct pk_val x, struct pk_val gate)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_CHANNEL_SCALE, NULL, 2, (int32_t[]){x.id, gate.id}, out);
    return (struct pk_val){out[0]};
}
