/* mixup.c -- records mixed with their neighbours (core/mixup_inline.h). */
#include "core/op/rows.h"

#include <math.h>

static enum pk_status infer_mixup(struct pk_infer *x)
{
    const struct pk_value *v = x->in[0];
    const float alpha = x->attr->mixup.alpha;
    if (!v) return pk_infer_fail(x, "input 0 is missing");
    const bool label = v->dtype == PK_U8 || v->dtype == PK_F32;
    if (x->attr->mixup.single_label && !label)
        return pk_infer_fail(x, "single_label is for labels, which are u8 or f32");
    if (!label) PK_TRY(pk_infer_need_real(x, 0, 0));
    PK_TRY(pk_infer_need(x, 1, PK_I64, 1));
    PK_TRY(pk_infer_fixed(x, 0));
    if (pk_value_count(v) / v->dim[v->rank - 1] % x->in[1]->dim[0])
        return pk_infer_fail(x, "the rows are not whole records: one sample number per record was "
                                "expected");
    if (!(alpha > 0 && isfinite(alpha)))
        return pk_infer_fail(x, "alpha %g: a number above 0 was expected", (double)alpha);
    pk_infer_out(x, 0, label ? PK_F32 : v->dtype, v->rank, v->dim);
    return PK_OK;
}

const struct pk_op_row pk_row_mixup = {
    .name = "mixup", .infer = infer_mixup, .no_grad = PK_IS_CONSTANT, .flops = pk_flops_none};

struct pk_val pk_mixup(struct pk_build *b, struct pk_val x, struct pk_val sample,
                       const struct pk_mixup *a)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr attr = {.raw = {0}}; // hashed as bytes
    if (a->alpha == 0) return x;
    attr.mixup.seed = a->seed;
    attr.mixup.alpha = a->alpha;
    attr.mixup.single_label = a->single_label;
    pk_emit(b, PK_OP_MIXUP, &attr, 2, (int32_t[]){x.id, sample.id}, out);
    return (struct pk_val){out[0]};
}
