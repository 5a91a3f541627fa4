/* layernorm.c -- layer normalisation over the last axis, alone and behind a residual addition. */
#include "core/op/rows.h"

static enum pk_status infer_norm(struct pk_infer *x, int first)
{
    PK_TRY(pk_infer_need_real(x, 0, 0));
    PK_TRY(pk_infer_need(x, first, PK_F32, 1));
    const struct pk_value *in = x->in[0];
    if (x->in[first]->dim[0] != in->dim[in->rank - 1])
        return pk_infer_fail(x, "the gain does not fit the last axis");
    int k = 0;
    if (first == 2) pk_infer_like(x, k++, in);
    pk_infer_like(x, k++, in);
    int64_t rows = pk_value_count(in) / in->dim[in->rank - 1];
    pk_infer_out(x, k++, PK_F32, 1, &rows);
    pk_infer_out(x, k, PK_F32, 1, &rows);
    return PK_OK;
}

static enum pk_status infer_layernorm(struct pk_infer *x)
{
    return infer_norm(x, 1);
}

static enum pk_status infer_add_layernorm(struct pk_infer *x)
{
    return infer_norm(x, 2);
}

static void grad_layernorm(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot out[3] = {pk_diff_into(d, n->in[0]), pk_diff_into(d, n->in[1]),
                             pk_diff_into(d, n->in[2])};
    int32_t in[] = {pk_diff_out(d, n, 0), n->in[0], n->in[1], n->out[1], n->out[2]};
    pk_diff_emit(d, PK_OP_LAYERNORM_GRAD, &n->attr, 5, in, 3, out);
}

const struct pk_op_row pk_row_layernorm = {
    .name = "layernorm", .infer = infer_layernorm, .grad = grad_layernorm, .flops = pk_flops_none};
const struct pk_op_row pk_row_add_layernorm = {.name = "add_layernorm",
                                               .infer = infer_add_layernorm,
                                               .no_grad = PK_IS_FUSED,
                                               .flops = pk_flops_none};
const struct pk_op_row pk_row_layernorm_grad = {.name = "layernorm_grad",
                                                .infer = pk_infer_given,
                                                .no_grad = PK_IS_GRAD,
                                                .flops = pk_flops_none};

struct pk_val pk_layernorm(struct pk_build *b, struct pk_val x, float eps, const char *name)
{
    int32_t out[PK_NODE_OUT];
    int64_t width = pk_dim(b, x, -1);
    union pk_attr a = {.raw = {0}}; // hashed as bytes
    a.layernorm.eps = eps;
    pk_scope(b, "%s", name);
    struct pk_val gain = pk_weight(b, "weight", 1, &width, PK_INIT_ONE, false);
    pk_emit(b, PK_OP_LAYERNORM, &a, 3, (int32_t[]){x.id, gain.id, -1}, out);
    pk_scope_end(b);
    return (struct pk_val){out[0]};
}
