/* augment.c -- random changes of a normalised signal (core/augment.h). */
#include "core/op/rows.h"

#include <math.h>
#include <string.h>

static enum pk_status infer_augment(struct pk_infer *x)
{
    const int64_t leads = x->attr->augment.leads, patch = x->attr->augment.patch;
    PK_TRY(pk_infer_need_real(x, 0, 3));
    PK_TRY(pk_infer_need(x, 1, PK_I64, 1));
    PK_TRY(pk_infer_need(x, 2, PK_F32, 2));
    PK_TRY(pk_infer_fixed(x, 0));
    const int64_t *d = x->in[0]->dim;
    if (x->in[1]->dim[0] != d[0])
        return pk_infer_fail(x, "one sample number per record was expected");
    if (leads < 1 || leads > PK_AUGMENT_LEADS || d[1] != 1 || d[2] % leads)
        return pk_infer_fail(x, "a signal of %lld leads was expected, as one token",
                             (long long)leads);
    if (patch < 1 || d[2] / leads % patch)
        return pk_infer_fail(x, "patches of %lld samples do not fill it", (long long)patch);
    if (!(x->attr->augment.rate > 0)) return pk_infer_fail(x, "the rate must be above 0");
    pk_infer_out(x, 0, x->in[0]->dtype, 3, (int64_t[]){d[0], d[2] / leads / patch, leads * patch});
    return PK_OK;
}

const struct pk_op_row pk_row_augment = {
    .name = "augment", .infer = infer_augment, .no_grad = PK_IS_CONSTANT, .flops = pk_flops_none};

static const char *const names[PK_AUGMENT_KINDS] = {
    "time warp", "crop and resize", "permutation", "negation",  "magnitude warp",
    "wander",    "powerline",       "noise",       "lead mask", "cut-out"};

/* Probabilities within [0, 1], levels ordered and not negative; some have a most. */
static bool check_ranges(struct pk_build *b, const struct pk_augment_range *range)
{
    for (int k = 0; k < PK_AUGMENT_KINDS; k++) {
        const struct pk_augment_range r = range[k];
        const bool share =
            k == PK_AUGMENT_CROP_RESIZE || k == PK_AUGMENT_LEAD_MASK || k == PK_AUGMENT_CUT_OUT;
        const float most = k == PK_AUGMENT_TIME_WARP ? 0.99f : share ? 1.0f : 1e6f;
        if (r.probability >= 0 && r.probability <= 1 && r.low >= 0 && r.low <= r.high &&
            r.high <= most)
            continue;
        pk_build_fail(b, PK_ERECIPE,
                      "augmentation '%s': probability %g of a level from %g to %g; probabilities "
                      "are 0 to 1, levels 0 to %g, the smaller one first",
                      names[k], (double)r.probability, (double)r.low, (double)r.high, (double)most);
        return false;
    }
    return true;
}

struct pk_val pk_augment(struct pk_build *b, struct pk_val x, struct pk_val sample,
                         const struct pk_augment *a)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr attr;
    float table[PK_AUGMENT_KINDS * 3];
    if (!check_ranges(b, a->range)) return PK_NONE;
    for (int k = 0; k < PK_AUGMENT_KINDS; k++) {
        table[3 * k] = a->range[k].probability;
        table[3 * k + 1] = a->range[k].low;
        table[3 * k + 2] = a->range[k].high;
    }
    memset(&attr, 0, sizeof attr);
    attr.augment.leads = a->leads;
    attr.augment.patch = a->patch;
    attr.augment.view = a->view;
    attr.augment.rate = a->rate;
    attr.augment.seed = a->seed;
    struct pk_val range = pk_constant(b, 2, (int64_t[]){PK_AUGMENT_KINDS, 3}, table);
    pk_emit(b, PK_OP_AUGMENT, &attr, 3, (int32_t[]){x.id, sample.id, range.id}, out);
    return (struct pk_val){out[0]};
}
