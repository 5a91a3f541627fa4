/* mixup.cu -- records mixed with their neighbours (core/mixup_inline.h).
 *
 * Two launches: a thread per record draws its share into the workspace, and looks through its rows
 * for those without a label where that counts; then a thread per EACH values mixes. Bytes: S read
 * twice, the second time from the second-level cache at best, and S written. */
#include "cuda/rng.h"

extern "C" {
#include "core/mixup_inline.h"
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, DRAWERS = 64, EACH = 4 };

struct mixing {
    const void *x;         // [batch, each]: S, or bytes
    const int64_t *sample; // [batch]
    void *y;               // [batch, each]: S, or float for bytes
    float *share;          // [batch] of its own that a record keeps
    uint8_t *unlabelled;   // [batch * each / cols], or NULL: no row is
    int64_t batch, each, cols, pieces;
    uint64_t seed;
    float alpha;
};

__device__ __forceinline__ float value_of(float x)
{
    return x;
}
__device__ __forceinline__ float value_of(bf16 x)
{
    return to_float(x);
}
__device__ __forceinline__ float value_of(uint8_t label)
{
    return label == PK_LABEL_MISSING ? NAN : (float)label;
}

template <typename X> __global__ void __launch_bounds__(DRAWERS) draw_shares(const mixing a)
{
    const int64_t b = (int64_t)blockIdx.x * DRAWERS + threadIdx.x;
    if (b >= a.batch) return;
    const int64_t other = pk_mixup_partner(b, a.batch), first = b < other ? b : other;
    a.share[b] = 1;
    if (other != b) a.share[b] = (float)pk_mixup_share(a.seed, (uint64_t)a.sample[first], a.alpha);
    for (int64_t i = b * a.each; a.unlabelled && i < (b + 1) * a.each; i += a.cols) {
        bool none = true;
        for (int64_t k = 0; k < a.cols; k++) none = none && value_of(((const X *)a.x)[i + k]) == 0;
        a.unlabelled[i / a.cols] = none;
    }
}

template <typename X> __device__ __forceinline__ float value_at(const mixing &a, int64_t i)
{
    if (a.unlabelled && a.unlabelled[i / a.cols]) return NAN;
    return value_of(((const X *)a.x)[i]);
}

template <typename X, typename Y> __global__ void __launch_bounds__(THREADS) mix(const mixing a)
{
    const int64_t b = blockIdx.x / a.pieces, other = pk_mixup_partner(b, a.batch);
    const int64_t first = blockIdx.x % a.pieces * EACH * THREADS + threadIdx.x;
    const float s = a.share[b];
    Y *const y = (Y *)a.y + b * a.each;
    for (int k = 0; k < EACH; k++) {
        const int64_t i = first + k * THREADS;
        if (i >= a.each) return;
        const float own = value_at<X>(a, b * a.each + i);
        y[i] = from_float<Y>(other == b ? own
                                        : s * own + (1 - s) * value_at<X>(a, other * a.each + i));
    }
}

template <typename X, typename Y>
enum pk_status run(const struct pk_call *c, mixing a, struct pk_err *err)
{
    PK_TRY(PK_LAUNCH(draw_shares<X>, (unsigned)((a.batch + DRAWERS - 1) / DRAWERS), DRAWERS, 0,
                     c->queue, err, a));
    return PK_LAUNCH((mix<X, Y>), (unsigned)(a.batch * a.pieces), THREADS, 0, c->queue, err, a);
}

} // namespace

extern "C" {

enum pk_status pk_cuda_mixup(const struct pk_call *c, struct pk_err *err);
size_t pk_cuda_mixup_workspace(const struct pk_prog *p, const struct pk_node *n);

enum pk_status pk_cuda_mixup(const struct pk_call *c, struct pk_err *err)
{
    mixing a = {};
    a.x = c->src[0];
    a.sample = (const int64_t *)c->src[1];
    a.y = c->dst[0];
    a.batch = c->in[1]->dim[0];
    a.each = pk_view_count(c->in[0]) / a.batch;
    a.cols = pk_view_cols(c->in[0]);
    a.pieces = (a.each + EACH * THREADS - 1) / (EACH * THREADS);
    a.seed = c->node->attr.mixup.seed;
    a.alpha = c->node->attr.mixup.alpha;
    a.share = (float *)c->workspace;
    if (c->node->attr.mixup.single_label) a.unlabelled = (uint8_t *)(a.share + a.batch);
    if (c->in[0]->dtype == PK_U8) return run<uint8_t, float>(c, a, err);
    if (c->in[0]->dtype == PK_BF16) return run<bf16, bf16>(c, a, err);
    return run<float, float>(c, a, err);
}

size_t pk_cuda_mixup_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    const size_t rows = (size_t)pk_view_rows(&p->value[n->in[0]]);
    return (size_t)p->value[n->in[1]].dim[0] * sizeof(float) +
           (n->attr.mixup.single_label ? rows : 0);
}

} // extern "C"
