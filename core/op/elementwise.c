/* elementwise.c -- addition, copies, dropout, and channels of zeros. */
#include "core/op/rows.h"

#include <string.h>

static enum pk_status infer_add(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 0));
    PK_TRY(pk_infer_need_real(x, 1, x->in[0]->rank));
    if (memcmp(x->in[0]->dim, x->in[1]->dim, sizeof x->in[0]->dim))
        return pk_infer_fail(x, "the shapes differ");
    pk_infer_like(x, 0, x->in[0]);
    return PK_OK;
}

static enum pk_status infer_copy(struct pk_infer *x)
{
    PK_TRY(pk_infer_need(x, 0, x->in[0] ? x->in[0]->dtype : PK_F32, 0));
    pk_infer_like(x, 0, x->in[0]);
    x->out[0].dtype = (enum pk_dtype)x->attr->copy.dtype;
    return PK_OK;
}

static enum pk_status infer_reshape(struct pk_infer *x)
{
    int64_t dim[PK_DIMS] = {0}, count = 1;
    PK_TRY(pk_infer_need_real(x, 0, 0));
    for (int k = 0; k < x->attr->reshape.rank; k++) count *= dim[k] = x->attr->reshape.dim[k];
    pk_infer_out(x, 0, x->in[0]->dtype, x->attr->reshape.rank, dim);
    if (count != pk_value_count(x->in[0]))
        return pk_infer_fail(x, "%lld elements do not fill the new shape",
                             (long long)pk_value_count(x->in[0]));
    return PK_OK;
}

static enum pk_status infer_dropout(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 0));
    PK_TRY(pk_infer_need(x, 1, PK_I64, 1));
    if (x->in[1]->dim[0] != x->in[0]->dim[0])
        return pk_infer_fail(x, "one sample number per record was expected");
    if (!(x->attr->dropout.p > 0 && x->attr->dropout.p < 1))
        return pk_infer_fail(x, "the probability must be in (0, 1)");
    pk_infer_like(x, 0, x->in[0]);
    return PK_OK;
}

static enum pk_status infer_pad_channels(struct pk_infer *x)
{
    const int32_t left = x->attr->pad_channels.left, right = x->attr->pad_channels.right;
    PK_TRY(pk_infer_need_real(x, 0, 0));
    pk_infer_like(x, 0, x->in[0]);
    int64_t *cols = &x->out[0].dim[x->out[0].rank - 1];
    *cols += (int64_t)left + right;
    if ((left < 0) != (right < 0) && left && right)
        return pk_infer_fail(x, "channels are added or taken away, not both");
    if (*cols < 1) return pk_infer_fail(x, "no channel would be left");
    return PK_OK;
}

static void grad_add(struct pk_diff *d, const struct pk_node *n)
{
    int32_t dy = pk_diff_out(d, n, 0);
    pk_diff_pass(d, n->in[0], dy);
    pk_diff_pass(d, n->in[1], dy);
}

/* A copy changes the type, a reshape the shape, so the gradient is copied back and never an alias.
 */
static void grad_copy(struct pk_diff *d, const struct pk_node *n)
{
    int32_t dy = pk_diff_out(d, n, 0);
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_COPY, NULL, 1, &dy, 1, &dx);
}

static void grad_dropout(struct pk_diff *d, const struct pk_node *n)
{
    int32_t in[] = {pk_diff_out(d, n, 0), n->in[1]};
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_DROPOUT, &n->attr, 2, in, 1, &dx);
}

/* The zeros have no gradient: what was added is taken away. */
static void grad_pad_channels(struct pk_diff *d, const struct pk_node *n)
{
    union pk_attr back = {.raw = {0}};
    int32_t dy = pk_diff_out(d, n, 0);
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    back.pad_channels.left = -n->attr.pad_channels.left;
    back.pad_channels.right = -n->attr.pad_channels.right;
    pk_diff_emit(d, PK_OP_PAD_CHANNELS, &back, 1, &dy, 1, &dx);
}

const struct pk_op_row pk_row_add = {
    .name = "add", .infer = infer_add, .grad = grad_add, .flops = pk_flops_none};
const struct pk_op_row pk_row_copy = {
    .name = "copy", .infer = infer_copy, .grad = grad_copy, .flops = pk_flops_none};
const struct pk_op_row pk_row_reshape = {
    .name = "reshape", .infer = infer_reshape, .grad = grad_copy, .flops = pk_flops_none};
const struct pk_op_row pk_row_dropout = {
    .name = "dropout", .infer = infer_dropout, .grad = grad_dropout, .flops = pk_flops_none};
const struct pk_op_row pk_row_pad_channels = {.name = "pad_channels",
                                              .infer = infer_pad_channels,
                                              .grad = grad_pad_channels,
                                              .flops = pk_flops_none};

struct pk_val pk_add(struct pk_build *b, struct pk_val x, struct pk_val y)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_ADD, NULL, 2, (int32_t[]){x.id, y.id}, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_cast(struct pk_build *b, struct pk_val x, enum pk_dtype dtype)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = {.raw = {0}}; // hashed as bytes
    if (b->err.status != PK_OK || x.id < 0 || b->prog->value[x.id].dtype == dtype) return x;
    a.copy.dtype = (int32_t)dtype;
    pk_emit(b, PK_OP_COPY, &a, 1, &x.id, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_reshape(struct pk_build *b, struct pk_val x, int rank, const int64_t *dim)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = {.raw = {0}};
    if (rank < 1 || rank > PK_DIMS) {
        pk_build_fail(b, PK_ESHAPE, "a value has 1 to %d axes, not %d", PK_DIMS, rank);
        return PK_NONE;
    }
    a.reshape.rank = rank;
    for (int k = 0; k < rank; k++) a.reshape.dim[k] = (int32_t)dim[k];
    pk_emit(b, PK_OP_RESHAPE, &a, 1, &x.id, out);
    return (struct pk_val){out[0]};
}

static struct pk_val dropout(struct pk_build *b, struct pk_val x, struct pk_val sample, float p,
                             uint64_t seed, bool record)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a;
    if (p == 0 || b->frozen || b->ema) return x;
    memset(&a, 0, sizeof a); // hashed as bytes, so padding counts
    a.dropout.p = p;
    a.dropout.site = b->dropout_sites++;
    a.dropout.seed = seed;
    a.dropout.record = record;
    pk_emit(b, PK_OP_DROPOUT, &a, 2, (int32_t[]){x.id, sample.id}, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_dropout(struct pk_build *b, struct pk_val x, struct pk_val sample, float p,
                         uint64_t seed)
{
    return dropout(b, x, sample, p, seed, false);
}

struct pk_val pk_drop_path(struct pk_build *b, struct pk_val x, struct pk_val sample, float p,
                           uint64_t seed)
{
    return dropout(b, x, sample, p, seed, true);
}

struct pk_val pk_pad_channels(struct pk_build *b, struct pk_val x, int32_t left, int32_t right)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = {.raw = {0}}; // hashed as bytes
    if (!left && !right) return x;
    a.pad_channels.left = left;
    a.pad_channels.right = right;
    pk_emit(b, PK_OP_PAD_CHANNELS, &a, 1, &x.id, out);
    return (struct pk_val){out[0]};
}
