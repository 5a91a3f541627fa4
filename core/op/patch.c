/* patch.c -- the loss of masked reconstruction, on standardised patches. */
#include "core/op/rows.h"

#include <string.h>

static enum pk_status infer_patch_loss(struct pk_infer *x)
{
    int64_t one = 1;
    PK_TRY(pk_infer_need_real(x, 0, 3));
    PK_TRY(pk_infer_need_real(x, 1, 3));
    PK_TRY(pk_infer_need(x, 2, PK_I32, 2));
    PK_TRY(pk_infer_fixed(x, 1));
    const int64_t *d = x->in[0]->dim, *t = x->in[1]->dim;
    if (d[0] != t[0] || d[2] != t[2] || x->in[2]->dim[0] != d[0] || x->in[2]->dim[1] != d[1])
        return pk_infer_fail(x, "prediction, patches and hidden tokens do not fit");
    if (x->in[3]) {
        PK_TRY(pk_infer_need(x, 3, PK_F32, 2));
        PK_TRY(pk_infer_fixed(x, 3));
        int64_t n = pk_value_count(x->in[3]);
        if (n != d[0] && n != d[0] * t[1])
            return pk_infer_fail(x, "%lld weights are neither of the rows nor of the patches",
                                 (long long)n);
    }
    if (!(x->attr->layernorm.eps > 0)) return pk_infer_fail(x, "eps must be positive");
    pk_infer_out(x, 0, PK_F32, 1, &one);
    return PK_OK;
}

static void grad_patch_loss(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_PATCH_LOSS_GRAD, &n->attr, 5,
                 (int32_t[]){n->in[0], n->in[1], n->in[2], n->in[3], pk_diff_out(d, n, 0)}, 1, &dx);
}

const struct pk_op_row pk_row_patch_loss = {.name = "patch_loss",
                                            .infer = infer_patch_loss,
                                            .grad = grad_patch_loss,
                                            .flops = pk_flops_none};
const struct pk_op_row pk_row_patch_loss_grad = {.name = "patch_loss_grad",
                                                 .infer = pk_infer_given,
                                                 .no_grad = PK_IS_GRAD,
                                                 .flops = pk_flops_none};

struct pk_val pk_patch_loss(struct pk_build *b, struct pk_val x, struct pk_val patches,
                            struct pk_val hidden, struct pk_val weight, float eps)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a;
    memset(&a, 0, sizeof a);
    a.layernorm.eps = eps;
    pk_emit(b, PK_OP_PATCH_LOSS, &a, 4, (int32_t[]){x.id, patches.id, hidden.id, weight.id}, out);
    return (struct pk_val){out[0]};
}
