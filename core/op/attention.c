/* attention.c -- bidirectional self-attention, and pooling by one learnable query. */
#include "core/cpu/workspace.h"
#include "core/op/rows.h"

#include <math.h>

static enum pk_status infer_attention(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    const int64_t *d = x->in[0]->dim;
    int32_t heads = x->attr->attention.heads;
    if (d[2] % 3 || heads < 1 || d[2] / 3 % heads)
        return pk_infer_fail(x, "%d heads do not divide a third of the last axis", heads);
    pk_infer_out(x, 0, x->in[0]->dtype, 3, (int64_t[]){d[0], d[1], d[2] / 3});
    pk_infer_out(x, 1, PK_F32, 3, (int64_t[]){d[0], heads, d[1]});
    return PK_OK;
}

static enum pk_status infer_attention_pool(struct pk_infer *x)
{
    PK_TRY(pk_infer_need(x, 0, PK_F32, 1));
    PK_TRY(pk_infer_need_real(x, 1, 3));
    const int64_t *d = x->in[1]->dim;
    int64_t width = x->in[0]->dim[0];
    int32_t heads = x->attr->attention.heads;
    if (d[2] != 2 * width || heads < 1 || width % heads)
        return pk_infer_fail(x, "keys and values must be twice the query's width, %d heads", heads);
    pk_infer_out(x, 0, x->in[1]->dtype, 2, (int64_t[]){d[0], width});
    pk_infer_out(x, 1, PK_F32, 3, (int64_t[]){d[0], heads, d[1]});
    return PK_OK;
}

static void grad_attention(struct pk_diff *d, const struct pk_node *n)
{
    int32_t in[] = {pk_diff_out(d, n, 0), n->in[0], n->out[0], n->out[1]};
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_ATTENTION_GRAD, &n->attr, 4, in, 1, &dx);
}

static void grad_attention_pool(struct pk_diff *d, const struct pk_node *n)
{
    int32_t in[] = {pk_diff_out(d, n, 0), n->in[0], n->in[1], n->out[1]};
    struct pk_slot out[2] = {pk_diff_into(d, n->in[0]), pk_diff_into(d, n->in[1])};
    pk_diff_emit(d, PK_OP_ATTENTION_POOL_GRAD, &n->attr, 4, in, 2, out);
}

/* Two products of T x T x C forward; backward has four and recomputes one. */
static double flops_attention(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *v = &p->value[n->in[n->op == PK_OP_ATTENTION ? 0 : 1]];
    double products = n->op == PK_OP_ATTENTION ? 2 : 5;
    return products * 2 * (double)v->dim[0] * (double)v->dim[1] * (double)v->dim[1] *
           (double)(v->dim[2] / 3);
}

static double flops_pool(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *kv = &p->value[n->in[n->op == PK_OP_ATTENTION_POOL ? 1 : 2]];
    return (n->op == PK_OP_ATTENTION_POOL ? 2.0 : 4.0) * (double)pk_value_count(kv);
}

static size_t workspace_attention(const struct pk_prog *p, const struct pk_node *n)
{
    const int64_t *d = p->value[n->in[n->op == PK_OP_ATTENTION ? 0 : 1]].dim;
    int64_t head = d[2] / 3 / n->attr.attention.heads;
    return n->op == PK_OP_ATTENTION ? pk_cpu_attention_workspace(d[1], head)
                                    : pk_cpu_attention_grad_workspace(d[1], head);
}

static size_t workspace_pool_grad(const struct pk_prog *p, const struct pk_node *n)
{
    const int64_t *d = p->value[n->in[2]].dim;
    return pk_cpu_attention_pool_grad_workspace(d[1], d[2] / 2 / n->attr.attention.heads);
}

const struct pk_op_row pk_row_attention = {.name = "attention",
                                           .infer = infer_attention,
                                           .grad = grad_attention,
                                           .flops = flops_attention,
                                           .workspace = workspace_attention};
const struct pk_op_row pk_row_attention_grad = {.name = "attention_grad",
                                                .infer = pk_infer_given,
                                                .no_grad = PK_IS_GRAD,
                                                .flops = flops_attention,
                                                .workspace = workspace_attention};
const struct pk_op_row pk_row_attention_pool = {.name = "attention_pool",
                                                .infer = infer_attention_pool,
                                                .grad = grad_attention_pool,
                                                .flops = flops_pool};
const struct pk_op_row pk_row_attention_pool_grad = {.name = "attention_pool_grad",
                                                     .infer = pk_infer_given,
                                                     .no_grad = PK_IS_GRAD,
                                                     .flops = flops_pool,
                                                     .workspace = workspace_pool_grad};

static union pk_attr head_attr(int64_t width, int32_t heads)
{
    union pk_attr a = {.raw = {0}};
    a.attention.heads = heads;
    a.attention.scale = 1.0f / sqrtf((float)width / (float)PK_MAX(heads, 1));
    return a;
}

struct pk_val pk_attention(struct pk_build *b, struct pk_val qkv, int32_t heads)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = head_attr(pk_dim(b, qkv, -1) / 3, heads);
    pk_emit(b, PK_OP_ATTENTION, &a, 1, &qkv.id, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_attention_pool(struct pk_build *b, struct pk_val query, struct pk_val kv,
                                int32_t heads)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = head_attr(pk_dim(b, query, -1), heads);
    query = pk_cast(b, query, PK_F32);
    pk_emit(b, PK_OP_ATTENTION_POOL, &a, 2, (int32_t[]){query.id, kv.id}, out);
    return (struct pk_val){out[0]};
}
