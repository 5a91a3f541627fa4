/* leads.c -- tokens that are patches of single leads: which leads are there, which tokens are kept,
 * the sequence with separators, and its mean. */
#include "core/op/rows.h"

#include <string.h>

static enum pk_status infer_lead_present(struct pk_infer *x)
{
    PK_TRY(pk_infer_need(x, 0, PK_F32, 2));
    PK_TRY(pk_infer_fixed(x, 0));
    int32_t leads = x->attr->lead_present.leads;
    if (leads < 1 || leads > 16) return pk_infer_fail(x, "1 to 16 leads go, not %d", leads);
    for (int i = 0; i < leads; i++)
        if (x->attr->lead_present.lead[i] >= x->in[0]->dim[1])
            return pk_infer_fail(x, "lead %d is not in the batch", x->attr->lead_present.lead[i]);
    pk_infer_out(x, 0, PK_F32, 2, (int64_t[]){x->in[0]->dim[0], leads});
    return PK_OK;
}

static enum pk_status infer_lead_mask(struct pk_infer *x)
{
    PK_TRY(pk_infer_need(x, 0, PK_I64, 1));
    int64_t leads = x->attr->lead_mask.leads, tokens = x->attr->lead_mask.tokens,
            keep = x->attr->lead_mask.keep, rows = x->in[0]->dim[0] * leads;
    if (leads < 1 || keep < 1 || keep >= tokens)
        return pk_infer_fail(x, "cannot keep %lld of %lld tokens", (long long)keep,
                             (long long)tokens);
    pk_infer_out(x, 0, PK_I32, 2, (int64_t[]){rows, keep});
    pk_infer_out(x, 1, PK_I32, 2, (int64_t[]){rows, tokens - keep});
    pk_infer_out(x, 2, PK_I32, 2, (int64_t[]){rows, keep + 2});
    return PK_OK;
}

static enum pk_status infer_lead_tokens(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    PK_TRY(pk_infer_need(x, 1, PK_F32, 2));
    if (x->in[2]) PK_TRY(pk_infer_need(x, 2, PK_I32, 2));
    PK_TRY(pk_infer_need(x, 3, PK_F32, 2));
    PK_TRY(pk_infer_need(x, 4, PK_F32, 1));
    PK_TRY(pk_infer_need(x, 5, PK_F32, 1));
    PK_TRY(pk_infer_need(x, 6, PK_F32, 2));
    PK_TRY(pk_infer_fixed(x, 1));
    PK_TRY(pk_infer_fixed(x, 6));
    const int64_t *d = x->in[0]->dim, leads = x->in[3]->dim[0], width = d[2];
    if (x->in[1]->dim[1] != width || x->in[3]->dim[1] != width || x->in[4]->dim[0] != width ||
        x->in[5]->dim[0] != width)
        return pk_infer_fail(x, "table, lead embedding or separator is of another width");
    if (x->in[6]->dim[1] != leads || x->in[6]->dim[0] * leads != d[0])
        return pk_infer_fail(x, "rows are not records times %lld leads", (long long)leads);
    if (x->in[2] ? x->in[2]->dim[0] != d[0] || x->in[2]->dim[1] != d[1]
                 : x->in[1]->dim[0] != d[1] + 2)
        return pk_infer_fail(x, "positions and tokens differ in number");
    pk_infer_out(x, 0, x->in[0]->dtype, 3, (int64_t[]){d[0] / leads, leads * (d[1] + 2), width});
    return PK_OK;
}

static enum pk_status infer_lead_pool(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    PK_TRY(pk_infer_need(x, 1, PK_F32, 2));
    PK_TRY(pk_infer_fixed(x, 1));
    const int64_t *d = x->in[0]->dim, leads = x->in[1]->dim[1];
    if (x->in[1]->dim[0] != d[0] || d[1] % leads || d[1] / leads < 3)
        return pk_infer_fail(x, "these are not the runs of %lld leads", (long long)leads);
    pk_infer_out(x, 0, x->in[0]->dtype, 2, (int64_t[]){d[0], d[2]});
    return PK_OK;
}

static void grad_lead_tokens(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot out[4] = {pk_diff_into(d, n->in[0]), pk_diff_into(d, n->in[3]),
                             pk_diff_into(d, n->in[4]), pk_diff_into(d, n->in[5])};
    pk_diff_emit(d, PK_OP_LEAD_TOKENS_GRAD, NULL, 2, (int32_t[]){pk_diff_out(d, n, 0), n->in[6]}, 4,
                 out);
}

static void grad_lead_pool(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_LEAD_POOL_GRAD, NULL, 3,
                 (int32_t[]){pk_diff_out(d, n, 0), n->in[1], n->in[0]}, 1, &dx);
}

#define CONSTANT(op)                                                                               \
    const struct pk_op_row pk_row_##op = {                                                         \
        .name = #op, .infer = infer_##op, .no_grad = PK_IS_CONSTANT, .flops = pk_flops_none}
#define FORWARD(op)                                                                                \
    const struct pk_op_row pk_row_##op = {                                                         \
        .name = #op, .infer = infer_##op, .grad = grad_##op, .flops = pk_flops_none};              \
    const struct pk_op_row pk_row_##op##_grad = {.name = #op "_grad",                              \
                                                 .infer = pk_infer_given,                          \
                                                 .no_grad = PK_IS_GRAD,                            \
                                                 .flops = pk_flops_none}
CONSTANT(lead_present);
CONSTANT(lead_mask);
FORWARD(lead_tokens);
FORWARD(lead_pool);

struct pk_val pk_lead_present(struct pk_build *b, struct pk_val gain, int32_t leads,
                              const uint8_t *lead)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a;
    memset(&a, 0, sizeof a);
    a.lead_present.leads = leads;
    if (leads > 0 && leads <= 16) memcpy(a.lead_present.lead, lead, (size_t)leads);
    pk_emit(b, PK_OP_LEAD_PRESENT, &a, 1, &gain.id, out);
    return (struct pk_val){out[0]};
}

void pk_lead_mask(struct pk_build *b, struct pk_val sample, const struct pk_lead_mask *a,
                  struct pk_val *kept, struct pk_val *hidden, struct pk_val *seen)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.lead_mask.leads = a->leads;
    attr.lead_mask.tokens = a->tokens;
    attr.lead_mask.keep = a->keep;
    attr.lead_mask.seed = a->seed;
    pk_emit(b, PK_OP_LEAD_MASK, &attr, 1, &sample.id, out);
    kept->id = out[0];
    hidden->id = out[1];
    if (seen) seen->id = out[2];
}

struct pk_val pk_lead_tokens(struct pk_build *b, struct pk_val x, const struct pk_lead_tokens *a)
{
    int32_t out[PK_NODE_OUT];
    int32_t in[] = {x.id,         a->table.id,  a->index.id, a->lead.id, a->separator.id,
                    a->absent.id, a->present.id};
    pk_emit(b, PK_OP_LEAD_TOKENS, NULL, (int)PK_COUNT(in), in, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_lead_pool(struct pk_build *b, struct pk_val x, struct pk_val present)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_LEAD_POOL, NULL, 2, (int32_t[]){x.id, present.id}, out);
    return (struct pk_val){out[0]};
}
