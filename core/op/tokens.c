/* tokens.c -- moving tokens: gather, positions, register and mask tokens, slices, pooling. */
#include "core/op/rows.h"

static enum pk_status need_index(struct pk_infer *x, int k)
{
    PK_TRY(pk_infer_need(x, k, PK_I32, 2));
    if (x->in[k]->dim[0] != x->in[0]->dim[0])
        return pk_infer_fail(x, "input %d has another batch than input 0", k);
    return PK_OK;
}

static enum pk_status infer_gather_tokens(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    PK_TRY(need_index(x, 1));
    pk_infer_like(x, 0, x->in[0]);
    x->out[0].dim[1] = x->in[1]->dim[1];
    return PK_OK;
}

static enum pk_status infer_add_position(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    PK_TRY(pk_infer_need(x, 1, PK_F32, 2));
    if (x->in[2]) PK_TRY(need_index(x, 2));
    PK_TRY(pk_infer_fixed(x, 1));
    if (x->in[1]->dim[1] != x->in[0]->dim[2])
        return pk_infer_fail(x, "the table is of another width");
    int64_t tokens = x->in[0]->dim[1];
    if (x->in[2] ? x->in[2]->dim[1] != tokens : x->in[1]->dim[0] < tokens)
        return pk_infer_fail(x, "positions and tokens differ in number");
    pk_infer_like(x, 0, x->in[0]);
    return PK_OK;
}

static enum pk_status infer_prepend_token(struct pk_infer *x)
{
    PK_TRY(pk_infer_need(x, 0, PK_F32, 1));
    PK_TRY(pk_infer_need_real(x, 1, 3));
    if (x->in[0]->dim[0] != x->in[1]->dim[2])
        return pk_infer_fail(x, "the token is of another width");
    pk_infer_like(x, 0, x->in[1]);
    x->out[0].dim[1]++;
    return PK_OK;
}

static enum pk_status infer_slice_tokens(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    int64_t start = x->attr->slice.start, count = x->attr->slice.count;
    if (start < 0 || count < 1 || start + count > x->in[0]->dim[1])
        return pk_infer_fail(x, "tokens %lld to %lld are not there", (long long)start,
                             (long long)(start + count - 1));
    pk_infer_like(x, 0, x->in[0]);
    x->out[0].dim[1] = count;
    return PK_OK;
}

static enum pk_status infer_assemble_tokens(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    PK_TRY(pk_infer_need(x, 1, PK_F32, 1));
    PK_TRY(pk_infer_need(x, 2, PK_F32, 2));
    PK_TRY(need_index(x, 3));
    PK_TRY(need_index(x, 4));
    PK_TRY(pk_infer_fixed(x, 2));
    int64_t width = x->in[0]->dim[2];
    if (x->in[1]->dim[0] != width || x->in[2]->dim[1] != width ||
        x->in[3]->dim[1] != x->in[0]->dim[1])
        return pk_infer_fail(x, "context, mask token, table and indices do not fit");
    pk_infer_like(x, 0, x->in[0]);
    x->out[0].dim[1] += x->in[4]->dim[1];
    return PK_OK;
}

static enum pk_status infer_mean_pool(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    if (x->attr->pool.skip < 0 || x->attr->pool.skip >= x->in[0]->dim[1])
        return pk_infer_fail(x, "no token is left after skipping %d", x->attr->pool.skip);
    pk_infer_out(x, 0, x->in[0]->dtype, 2, (int64_t[]){x->in[0]->dim[0], x->in[0]->dim[2]});
    return PK_OK;
}

static void grad_gather_tokens(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_GATHER_TOKENS_GRAD, NULL, 2, (int32_t[]){pk_diff_out(d, n, 0), n->in[1]},
                 1, &dx);
}

static void grad_add_position(struct pk_diff *d, const struct pk_node *n)
{
    pk_diff_pass(d, n->in[0], pk_diff_out(d, n, 0));
}

static void grad_prepend_token(struct pk_diff *d, const struct pk_node *n)
{
    int32_t dy = pk_diff_out(d, n, 0);
    struct pk_slot out[2] = {pk_diff_into(d, n->in[0]), pk_diff_into(d, n->in[1])};
    pk_diff_emit(d, PK_OP_PREPEND_TOKEN_GRAD, NULL, 1, &dy, 2, out);
}

static void grad_slice_tokens(struct pk_diff *d, const struct pk_node *n)
{
    int32_t dy = pk_diff_out(d, n, 0);
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_SLICE_TOKENS_GRAD, &n->attr, 1, &dy, 1, &dx);
}

static void grad_assemble_tokens(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot out[2] = {pk_diff_into(d, n->in[0]), pk_diff_into(d, n->in[1])};
    pk_diff_emit(d, PK_OP_ASSEMBLE_TOKENS_GRAD, NULL, 2,
                 (int32_t[]){pk_diff_out(d, n, 0), n->in[3]}, 2, out);
}

static void grad_mean_pool(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_MEAN_POOL_GRAD, &n->attr, 2, (int32_t[]){pk_diff_out(d, n, 0), n->in[0]},
                 1, &dx);
}

#define FORWARD(op)                                                                                \
    const struct pk_op_row pk_row_##op = {                                                         \
        .name = #op, .infer = infer_##op, .grad = grad_##op, .flops = pk_flops_none}
#define BACKWARD(op)                                                                               \
    const struct pk_op_row pk_row_##op = {                                                         \
        .name = #op, .infer = pk_infer_given, .no_grad = PK_IS_GRAD, .flops = pk_flops_none}
FORWARD(gather_tokens);
BACKWARD(gather_tokens_grad);
FORWARD(add_position);
FORWARD(prepend_token);
BACKWARD(prepend_token_grad);
FORWARD(slice_tokens);
BACKWARD(slice_tokens_grad);
FORWARD(assemble_tokens);
BACKWARD(assemble_tokens_grad);
FORWARD(mean_pool);
BACKWARD(mean_pool_grad);

struct pk_val pk_gather_tokens(struct pk_build *b, struct pk_val x, struct pk_val index)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_GATHER_TOKENS, NULL, 2, (int32_t[]){x.id, index.id}, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_add_position(struct pk_build *b, struct pk_val x, struct pk_val table,
                              struct pk_val index)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_ADD_POSITION, NULL, 3, (int32_t[]){x.id, table.id, index.id}, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_prepend_token(struct pk_build *b, struct pk_val token, struct pk_val x)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_PREPEND_TOKEN, NULL, 2, (int32_t[]){token.id, x.id}, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_slice_tokens(struct pk_build *b, struct pk_val x, int32_t start, int32_t count)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = {.raw = {0}};
    a.slice.start = start;
    a.slice.count = count;
    pk_emit(b, PK_OP_SLICE_TOKENS, &a, 1, &x.id, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_assemble_tokens(struct pk_build *b, struct pk_val context,
                                 struct pk_val mask_token, struct pk_val table, struct pk_val kept,
                                 struct pk_val hidden)
{
    int32_t out[PK_NODE_OUT];
    int32_t in[] = {context.id, mask_token.id, table.id, kept.id, hidden.id};
    pk_emit(b, PK_OP_ASSEMBLE_TOKENS, NULL, 5, in, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_mean_pool(struct pk_build *b, struct pk_val x, int32_t skip)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = {.raw = {0}};
    a.pool.skip = skip;
    pk_emit(b, PK_OP_MEAN_POOL, &a, 1, &x.id, out);
    return (struct pk_val){out[0]};
}
