/* attention.cu -- which kernels run the four attention ops; shapes are checked here. */
extern "C" {
#include "core/view.h"
}
#include "cuda/attention.h"

namespace
{

/* Shape of qkv (parts 3) or kv (parts 2). */
enum pk_status shape_of(struct attention_shape *s, const struct pk_call *c,
                        const struct pk_value *v, int parts, struct pk_err *err)
{
    const int64_t heads = c->node->attr.attention.heads;
    if (v->rank != 3 || heads < 1 || v->dim[2] % (parts * heads))
        return pk_fail(err, PK_ESHAPE,
                       "attention of %lld heads needs [batch, tokens, %d x heads x head]",
                       (long long)heads, parts);
    const int64_t width = v->dim[2] / parts, head = width / heads, tokens = v->dim[1];
    if (tokens > ATTENTION_MAX_TOKENS)
        return pk_fail(err, PK_ESHAPE, "attention on a GPU takes at most %d tokens, not %lld",
                       ATTENTION_MAX_TOKENS, (long long)tokens);
    if (head > ATTENTION_MAX_HEAD || width > ATTENTION_MAX_WIDTH)
        return pk_fail(err, PK_ESHAPE,
                       "attention on a GPU takes heads of at most %d columns, %d in all, not %lld "
                       "of %lld",
                       ATTENTION_MAX_HEAD, ATTENTION_MAX_WIDTH, (long long)heads, (long long)head);
    if (v->dim[0] * heads > INT32_MAX)
        return pk_fail(err, PK_ESHAPE, "attention of %lld records and %lld heads: too many blocks",
                       (long long)v->dim[0], (long long)heads);
    const float scale = c->node->attr.attention.scale;
    if (!(scale > 0)) return pk_fail(err, PK_EINVAL, "attention scale %g is not positive", scale);
    *s = {(int)v->dim[0], (int)tokens, (int)heads, (int)head, (int)width, scale};
    return PK_OK;
}

bool on_tensor_cores(const struct attention_shape *s, enum pk_dtype type)
{
    return type == PK_BF16 && s->head % 8 == 0 && s->head <= ATTENTION_MAX_MMA_HEAD;
}

} // namespace

extern "C" {

/* in: qkv [B, T, 3C] -> out [B, T, C], lse [B, H, T] or absent. */
enum pk_status pk_cuda_attention(const struct pk_call *c, struct pk_err *err);
size_t pk_cuda_attention_workspace(const struct pk_prog *p, const struct pk_node *n);
enum pk_status pk_cuda_attention(const struct pk_call *c, struct pk_err *err)
{
    struct attention_forward a;
    PK_TRY(shape_of(&a.s, c, c->in[0], 3, err));
    if (a.s.batch == 0 || a.s.tokens == 0) return PK_OK;
    a.qkv = c->src[0];
    a.out = c->dst[0];
    a.lse = c->out[1] ? static_cast<float *>(c->dst[1]) : NULL;
    if (on_tensor_cores(&a.s, c->in[0]->dtype)) return attention_forward_mma(&a, c->queue, err);
    return attention_forward_general(&a, c->in[0]->dtype, c->queue, err);
}
size_t pk_cuda_attention_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

/* in: dout [B, T, C], qkv, out, lse -> dqkv, accumulating. */
enum pk_status pk_cuda_attention_grad(const struct pk_call *c, struct pk_err *err);
size_t pk_cuda_attention_grad_workspace(const struct pk_prog *p, const struct pk_node *n);
enum pk_status pk_cuda_attention_grad(const struct pk_call *c, struct pk_err *err)
{
    struct attention_backward a;
    PK_TRY(shape_of(&a.s, c, c->in[1], 3, err));
    if (a.s.batch == 0 || a.s.tokens == 0) return PK_OK;
    a.dout = c->src[0];
    a.qkv = c->src[1];
    a.out = c->src[2];
    a.lse = static_cast<const float *>(c->src[3]);
    a.dqkv = c->dst[0];
    a.accumulate = pk_call_accumulates(c, 0);
    if (on_tensor_cores(&a.s, c->in[1]->dtype)) return attention_backward_mma(&a, c->queue, err);
    return attention_backward_general(&a, c->in[1]->dtype, c->queue, err);
}
size_t pk_cuda_attention_grad_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

} // extern "C"
