/* conv1d.c -- convolution over time of channels-last records, strided, grouped or depthwise. */
#include "core/cpu/workspace.h"
#include "core/op/rows.h"

#include <math.h>
#include <string.h>

static enum pk_status infer_conv1d(struct pk_infer *x)
{
    PK_TRY(pk_infer_need_real(x, 0, 3));
    PK_TRY(pk_infer_need_real(x, 1, 3));
    const int64_t *in = x->in[0]->dim, *w = x->in[1]->dim;
    const int64_t stride = x->attr->conv1d.stride, groups = x->attr->conv1d.groups;
    const int64_t room = in[1] + x->attr->conv1d.left + x->attr->conv1d.right - w[2];
    if (stride < 1 || groups < 1 || x->attr->conv1d.left < 0 || x->attr->conv1d.right < 0)
        return pk_infer_fail(x, "stride and groups are at least 1, padding is at least 0");
    if (in[2] % groups || w[0] % groups || w[1] != in[2] / groups)
        return pk_infer_fail(x, "%lld groups do not fit the channels of input and weight",
                             (long long)groups);
    if (x->in[2] && (x->in[2]->rank != 1 || x->in[2]->dim[0] != w[0]))
        return pk_infer_fail(x, "the bias does not fit the weight");
    if (room < 0)
        return pk_infer_fail(x, "a kernel of %lld is longer than the padded record",
                             (long long)w[2]);
    pk_infer_out(x, 0, x->in[0]->dtype, 3, (int64_t[]){in[0], room / stride + 1, w[0]});
    return PK_OK;
}

static void grad_conv1d(struct pk_diff *d, const struct pk_node *n)
{
    int32_t dy = pk_diff_out(d, n, 0);
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_CONV1D_DX, &n->attr, 2, (int32_t[]){dy, n->in[1]}, 1, &dx);
    struct pk_slot dw[2] = {pk_diff_into(d, n->in[1]), pk_diff_into(d, n->in[2])};
    pk_diff_emit(d, PK_OP_CONV1D_DW, &n->attr, 2, (int32_t[]){dy, n->in[0]}, 2, dw);
}

/* Two for every element of y and every element of its filter; zeros of the padding count. */
static double flops_conv1d(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *w = &p->value[n->in[1]];
    const int32_t y = n->op == PK_OP_CONV1D ? n->out[0] : n->in[0];
    return 2.0 * (double)pk_value_count(&p->value[y]) * (double)(w->dim[1] * w->dim[2]);
}

static double flops_conv1d_dw(const struct pk_prog *p, const struct pk_node *n)
{
    if (n->out[0] < 0) return 0;
    const struct pk_value *dw = &p->value[n->out[0]];
    return 2.0 * (double)pk_value_count(&p->value[n->in[0]]) * (double)(dw->dim[1] * dw->dim[2]);
}

static size_t workspace_conv1d(const struct pk_prog *p, const struct pk_node *n)
{
    const int32_t w = n->op == PK_OP_CONV1D_DW ? n->out[0] : n->in[1];
    const int32_t y = n->op == PK_OP_CONV1D ? n->out[0] : n->in[0];
    if (w < 0) return 0;
    const struct pk_value *out = &p->value[y];
    return pk_cpu_conv1d_workspace(out->dim[0] * out->dim[1], p->value[w].dim);
}

const struct pk_op_row pk_row_conv1d = {.name = "conv1d",
                                        .infer = infer_conv1d,
                                        .grad = grad_conv1d,
                                        .flops = flops_conv1d,
                                        .workspace = workspace_conv1d};
const struct pk_op_row pk_row_conv1d_dx = {.name = "conv1d_dx",
                                           .infer = pk_infer_given,
                                           .no_grad = PK_IS_GRAD,
                                           .flops = flops_conv1d,
                                           .workspace = workspace_conv1d};
const struct pk_op_row pk_row_conv1d_dw = {.name = "conv1d_dw",
                                           .infer = pk_infer_given,
                                           .no_grad = PK_IS_GRAD,
                                           .flops = flops_conv1d_dw,
                                           .workspace = workspace_conv1d};

void pk_conv1d_same(int64_t tokens, struct pk_conv1d *a)
{
    const int64_t stride = PK_MAX(a->stride, 1), out = (tokens + stride - 1) / stride;
    const int64_t zeros = PK_MAX((out - 1) * stride + a->kernel - tokens, 0);
    a->left = (int32_t)(zeros / 2);
    a->right = (int32_t)(zeros - zeros / 2);
}

struct pk_val pk_conv1d(struct pk_build *b, struct pk_val x, const struct pk_conv1d *a,
                        const char *name)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr attr = {.raw = {0}}; // hashed as bytes
    const int32_t groups = PK_MAX(a->groups, 1);
    const int64_t dim[3] = {a->width, pk_dim(b, x, -1) / groups, a->kernel};
    const int64_t per_group = a->init == PK_CONV1D_HE_OUT ? a->width / groups : dim[1];
    const float before = b->init_std, fan = (float)PK_MAX(per_group * dim[2], 1);
    const bool he = a->init != PK_CONV1D_UNIFORM;
    attr.conv1d.stride = PK_MAX(a->stride, 1);
    attr.conv1d.left = a->left;
    attr.conv1d.right = a->right;
    attr.conv1d.groups = groups;
    pk_scope(b, "%s", name);
    pk_init_std(b, sqrtf((he ? 2.0f : 1.0f) / fan));
    struct pk_val w =
        pk_weight_kernel(b, "weight", 3, dim, he ? PK_INIT_TRUNC_NORMAL : PK_INIT_UNIFORM);
    struct pk_val v = PK_NONE;
    if (a->bias) v = pk_weight(b, "bias", 1, dim, he ? PK_INIT_ZERO : PK_INIT_UNIFORM, false);
    pk_init_std(b, before);
    pk_emit(b, PK_OP_CONV1D, &attr, 3, (int32_t[]){x.id, w.id, v.id}, out);
    pk_scope_end(b);
    return (struct pk_val){out[0]};
}
