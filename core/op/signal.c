/* signal.c -- from a batch of int16 records to patches, and the masks of JEPA. */
#include "core/op/rows.h"

#include <string.h>

static enum pk_status infer_patchify(struct pk_infer *x)
{
    PK_TRY(pk_infer_need(x, 0, PK_I16, 3));
    PK_TRY(pk_infer_need(x, 1, PK_F32, 2));
    PK_TRY(pk_infer_need(x, 2, PK_F32, 2));
    PK_TRY(pk_infer_need(x, 3, PK_I32, 1));
    const int64_t *d = x->in[0]->dim;
    int32_t leads = x->attr->patchify.leads, patch = x->attr->patchify.patch;
    if (leads < 1 || leads > 16 || patch < 1 || d[2] < patch)
        return pk_infer_fail(x, "a patch of %d samples of %d leads cannot be cut", patch, leads);
    for (int i = 0; i < leads; i++)
        if (x->attr->patchify.lead[i] >= d[1])
            return pk_infer_fail(x, "lead %d is not in the batch", x->attr->patchify.lead[i]);
    const int64_t tokens = x->attr->patchify.tokens, layout = x->attr->patchify.layout;
    if (layout == PK_LAYOUT_LEAD && tokens != 1)
        return pk_infer_fail(x, "a token per lead is one patch long, not %lld", (long long)tokens);
    const int64_t dim[][3] = {[PK_LAYOUT_JOINT] = {d[0], tokens, (int64_t)leads * patch},
                              [PK_LAYOUT_PATCH] = {d[0] * leads, tokens, patch},
                              [PK_LAYOUT_LEAD] = {d[0], leads, patch}};
    pk_infer_out(x, 0, x->b->params->storage, 3, dim[layout]);
    return PK_OK;
}

static enum pk_status infer_block_mask(struct pk_infer *x)
{
    PK_TRY(pk_infer_need(x, 0, PK_I64, 1));
    int64_t tokens = x->attr->block_mask.tokens, keep = x->attr->block_mask.keep;
    if (keep < 1 || keep >= tokens || x->attr->block_mask.min_block < 1)
        return pk_infer_fail(x, "cannot keep %lld of %lld tokens", (long long)keep,
                             (long long)tokens);
    pk_infer_out(x, 0, PK_I32, 2, (int64_t[]){x->in[0]->dim[0], keep});
    pk_infer_out(x, 1, PK_I32, 2, (int64_t[]){x->in[0]->dim[0], tokens - keep});
    return PK_OK;
}

const struct pk_op_row pk_row_patchify = {
    .name = "patchify", .infer = infer_patchify, .no_grad = PK_IS_CONSTANT, .flops = pk_flops_none};
const struct pk_op_row pk_row_block_mask = {.name = "block_mask",
                                            .infer = infer_block_mask,
                                            .no_grad = PK_IS_CONSTANT,
                                            .flops = pk_flops_none};

struct pk_val pk_patchify(struct pk_build *b, struct pk_val signal, struct pk_val gain,
                          struct pk_val offset, struct pk_val start, const struct pk_patchify *a)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.patchify.patch = a->patch;
    attr.patchify.leads = a->leads;
    attr.patchify.tokens = a->tokens;
    attr.patchify.clip = a->clip;
    attr.patchify.layout = a->layout;
    if (a->leads > 0 && a->leads <= 16) memcpy(attr.patchify.lead, a->lead, (size_t)a->leads);
    pk_emit(b, PK_OP_PATCHIFY, &attr, 4, (int32_t[]){signal.id, gain.id, offset.id, start.id}, out);
    return (struct pk_val){out[0]};
}

void pk_block_mask(struct pk_build *b, struct pk_val sample, const struct pk_mask *a,
                   struct pk_val *kept, struct pk_val *hidden)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.block_mask.tokens = a->tokens;
    attr.block_mask.keep = a->keep;
    attr.block_mask.min_block = a->min_block;
    attr.block_mask.seed = a->seed;
    pk_emit(b, PK_OP_BLOCK_MASK, &attr, 1, &sample.id, out);
    kept->id = out[0];
    hidden->id = out[1];
}
