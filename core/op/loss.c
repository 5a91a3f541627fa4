/* loss.c -- the loss of predicted features, a mean in one number, and statistics of features. */
#include "core/op/rows.h"

#include <string.h>

static enum pk_status infer_l1(struct pk_infer *x)
{
    int64_t one = 1;
    PK_TRY(pk_infer_need_real(x, 0, 0));
    PK_TRY(pk_infer_need_real(x, 1, x->in[0]->rank));
    if (memcmp(x->in[0]->dim, x->in[1]->dim, sizeof x->in[0]->dim))
        return pk_infer_fail(x, "prediction and target differ in shape");
    PK_TRY(pk_infer_fixed(x, 1));
    pk_infer_out(x, 0, PK_F32, 1, &one);
    return PK_OK;
}

static enum pk_status infer_moments(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 0));
    pk_infer_out(x, 0, PK_F32, 2, (int64_t[]){2, x->in[0]->dim[x->in[0]->rank - 1]});
    return PK_OK;
}

static void grad_l1(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_L1_LOSS_GRAD, NULL, 3,
                 (int32_t[]){n->in[0], n->in[1], pk_diff_out(d, n, 0)}, 1, &dx);
}

const struct pk_op_row pk_row_l1_loss = {
    .name = "l1_loss", .infer = infer_l1, .grad = grad_l1, .flops = pk_flops_none};
const struct pk_op_row pk_row_l1_loss_grad = {
    .name = "l1_loss_grad", .infer = pk_infer_given, .no_grad = PK_IS_GRAD, .flops = pk_flops_none};
const struct pk_op_row pk_row_feature_moments = {.name = "feature_moments",
                                                 .infer = infer_moments,
                                                 .no_grad = PK_IS_CONSTANT,
                                                 .flops = pk_flops_none};

struct pk_val pk_l1_loss(struct pk_build *b, struct pk_val x, struct pk_val target)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_L1_LOSS, NULL, 2, (int32_t[]){x.id, target.id}, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_feature_moments(struct pk_build *b, struct pk_val x)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_FEATURE_MOMENTS, NULL, 1, &x.id, out);
    return (struct pk_val){out[0]};
}
