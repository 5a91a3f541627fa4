/* pool.c -- maximum and mean over windows of time, and over whole records. */
#include "core/op/rows.h"

static enum pk_status infer_pool1d(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    const int64_t *in = x->in[0]->dim, kernel = x->attr->pool1d.kernel;
    const int64_t left = x->attr->pool1d.left, right = x->attr->pool1d.right;
    const int64_t room = in[1] + left + right - kernel;
    if (kernel < 1 || x->attr->pool1d.stride < 1 || left < 0 || right < 0)
        return pk_infer_fail(x, "window and stride are at least 1, padding is at least 0");
    if (left >= kernel || right >= kernel)
        return pk_infer_fail(x, "a window would lie in the padding alone");
    if (room < 0) return pk_infer_fail(x, "a window is longer than the padded record");
    pk_infer_out(x, 0, x->in[0]->dtype, 3,
                 (int64_t[]){in[0], room / x->attr->pool1d.stride + 1, in[2]});
    return PK_OK;
}

static enum pk_status infer_concat_pool(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    const int64_t *in = x->in[0]->dim;
    pk_infer_out(x, 0, x->in[0]->dtype, 2, (int64_t[]){in[0], 2 * in[2]});
    return PK_OK;
}

static void grad_pool(struct pk_diff *d, const struct pk_node *n, enum pk_op op)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, op, &n->attr, 2, (int32_t[]){pk_diff_out(d, n, 0), n->in[0]}, 1, &dx);
}

static void grad_pool1d(struct pk_diff *d, const struct pk_node *n)
{
    grad_pool(d, n, PK_OP_POOL1D_GRAD);
}

static void grad_concat_pool(struct pk_diff *d, const struct pk_node *n)
{
    grad_pool(d, n, PK_OP_CONCAT_POOL_GRAD);
}

const struct pk_op_row pk_row_pool1d = {
    .name = "pool1d", .infer = infer_pool1d, .grad = grad_pool1d, .flops = pk_flops_none};
const struct pk_op_row pk_row_pool1d_grad = {
    .name = "pool1d_grad", .infer = pk_infer_given, .no_grad = PK_IS_GRAD, .flops = pk_flops_none};
const struct pk_op_row pk_row_concat_pool = {.name = "concat_pool",
                                             .infer = infer_concat_pool,
                                             .grad = grad_concat_pool,
                                             .flops = pk_flops_none};
const struct pk_op_row pk_row_concat_pool_grad = {.name = "concat_pool_grad",
                                                  .infer = pk_infer_given,
                                                  .no_grad = PK_IS_GRAD,
                                                  .flops = pk_flops_none};

static struct pk_val pool1d(struct pk_build *b, struct pk_val x, const struct pk_pool1d *p,
                            bool mean)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = {.raw = {0}}; // hashed as bytes
    a.pool1d.mean = mean;
    a.pool1d.kernel = p->kernel;
    a.pool1d.stride = p->stride;
    a.pool1d.left = p->left;
    a.pool1d.right = p->right;
    a.pool1d.zeros = p->zeros;
    pk_emit(b, PK_OP_POOL1D, &a, 1, &x.id, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_max_pool1d(struct pk_build *b, struct pk_val x, const struct pk_pool1d *p)
{
    return pool1d(b, x, p, false);
}

struct pk_val pk_mean_pool1d(struct pk_build *b, struct pk_val x, const struct pk_pool1d *p)
{
    return pool1d(b, x, p, true);
}

struct pk_val pk_concat_pool(struct pk_build *b, struct pk_val x)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_CONCAT_POOL, NULL, 1, &x.id, out);
    return (struct pk_val){out[0]};
}
