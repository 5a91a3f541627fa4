/* batchnorm.c -- batch norm over all axes but the last, and its running statistics.
 *
 * Running statistics are state in the parameter table: a forward pass reads them, none writes them.
 * Each micro-batch adds its statistics, weighted by the seed (its share in the step), to where a
 * gradient would be; these terms meet as gradients do, in an order that depends neither on threads
 * nor on timing, and the optimizer step moves the state. A step that is not taken moves nothing. */
#include "core/op/rows.h"

#include <string.h>

static enum pk_status infer_batchnorm(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 0));
    const struct pk_value *in = x->in[0];
    const int64_t cols = in->dim[in->rank - 1], rows = pk_value_count(in) / cols;
    for (int k = 1; k < 5; k++) {
        PK_TRY(pk_infer_need(x, k, PK_F32, 1));
        if (x->in[k]->dim[0] != cols)
            return pk_infer_fail(x, "input %d does not fit the last axis", k);
    }
    if (x->attr->batchnorm.train && rows < 2)
        return pk_infer_fail(x, "statistics of one row: a micro-batch has to have more");
    pk_infer_like(x, 0, in);
    for (int k = 1; k < 4; k++) pk_infer_out(x, k, PK_F32, 1, &cols); // mean, rstd, variance
    return PK_OK;
}

static void grad_batchnorm(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot out[3] = {pk_diff_into(d, n->in[0]), pk_diff_into(d, n->in[1]),
                             pk_diff_into(d, n->in[2])};
    int32_t in[] = {pk_diff_out(d, n, 0), n->in[0], n->in[1], n->out[1], n->out[2]};
    pk_diff_emit(d, PK_OP_BATCHNORM_GRAD, &n->attr, 5, in, 3, out);
    if (!n->attr.batchnorm.train) return;
    struct pk_slot state[3] = {pk_diff_state(d, n->in[3]), pk_diff_state(d, n->in[4]),
                               pk_diff_state(d, n->in[5])};
    int32_t of[] = {n->out[1], n->out[3], pk_diff_seed(d)};
    pk_diff_emit(d, PK_OP_BATCHNORM_STATE, &n->attr, 3, of, 3, state);
}

const struct pk_op_row pk_row_batchnorm = {
    .name = "batchnorm", .infer = infer_batchnorm, .grad = grad_batchnorm, .flops = pk_flops_none};
const struct pk_op_row pk_row_batchnorm_grad = {.name = "batchnorm_grad",
                                                .infer = pk_infer_given,
                                                .no_grad = PK_IS_GRAD,
                                                .flops = pk_flops_none};
const struct pk_op_row pk_row_batchnorm_state = {.name = "batchnorm_state",
                                                 .infer = pk_infer_given,
                                                 .no_grad = PK_IS_GRAD,
                                                 .flops = pk_flops_none};

struct pk_val pk_batchnorm(struct pk_build *b, struct pk_val x, const struct pk_batchnorm *a,
                           const char *name)
{
    int32_t out[PK_NODE_OUT];
    const int64_t width = pk_dim(b, x, -1);
    union pk_attr attr;
    memset(&attr, 0, sizeof attr); // hashed as bytes, so padding counts
    attr.batchnorm.eps = a->eps;
    attr.batchnorm.train = a->train && !b->frozen;
    if (b->err.status == PK_OK && x.id >= 0)
        attr.batchnorm.rows = pk_value_count(&b->prog->value[x.id]) / PK_MAX(width, 1);
    pk_scope(b, "%s", name);
    struct pk_val gain =
        pk_weight(b, "weight", 1, &width, a->gain == 0 ? PK_INIT_ZERO : PK_INIT_ONE, false);
    struct pk_val bias = pk_weight(b, "bias", 1, &width, PK_INIT_ZERO, false);
    struct pk_val mean =
        pk_state(b, "running_mean", 1, &width, PK_INIT_ZERO, 1 - a->momentum, a->momentum);
    struct pk_val var =
        pk_state(b, "running_var", 1, &width, PK_INIT_ONE, 1 - a->momentum, a->momentum);
    struct pk_val count = pk_state(b, "num_batches_tracked", 0, &width, PK_INIT_ZERO, 1, 1);
    pk_emit(b, PK_OP_BATCHNORM, &attr, 6,
            (int32_t[]){x.id, gain.id, bias.id, mean.id, var.id, count.id}, out);
    pk_scope_end(b);
    return (struct pk_val){out[0]};
}
