/* conv_library.cu -- a convolution by cuDNN, with the passes that bring its operands into the
 * library's order: filters from [N, C / groups, K] to [N, K, C / groups] with zero taps where the
 * padding is uneven, their gradient back, bf16 operands of that gradient to float, and the bias.
 *
 * The filters' passes move as many bytes as the filters have, little beside the convolution.
 * Widening is a pass over x and dy, 6 bytes for each number. */
#include "cuda/conv.h"
#include "cuda/device.h"
#include "cuda/matmul_table.h"

extern "C" {
#include "core/prog.h"
}

namespace
{
enum { THREADS = 256 };

struct filter {
    const void *from;
    void *to;
    int32_t filters, channels; // channels of one group
    int32_t taps, shift, wide; // ours are [shift, shift + taps) of the library's `wide`
    bool add;                  // back only
};

/* One thread per element of the library's filter. */
template <typename S> __global__ void __launch_bounds__(THREADS) filter_to_library(filter f)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t c = i % f.channels, row = i / f.channels, n = row / f.wide;
    const int32_t k = (int32_t)(row % f.wide) - f.shift;
    if (n >= f.filters) return;
    ((S *)f.to)[i] = k < 0 || k >= f.taps ? from_float<S>(0.0f)
                                          : ((const S *)f.from)[(n * f.channels + c) * f.taps + k];
}

/* One thread per element of our gradient. */
__global__ void __launch_bounds__(THREADS) gradient_from_library(filter f)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t k = i % f.taps, row = i / f.taps, c = row % f.channels, n = row / f.channels;
    if (n >= f.filters) return;
    const float g = ((const float *)f.from)[(n * f.wide + k + f.shift) * f.channels + c];
    float *to = (float *)f.to + i;
    *to = f.add ? *to + g : g;
}

template <int N>
__global__ void __launch_bounds__(THREADS) widen(float *to, const bf16 *from, int64_t count)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    if (i >= count) return;
    const vec<bf16, N> x = load<bf16, N>(from + i);
    float y[N];
    to_floats(y, x);
    constexpr int width = N % 4 == 0 ? 4 : 1;
#pragma unroll
    for (int k = 0; k < N; k += width) {
        vec<float, width> v;
        for (int e = 0; e < width; e++) v.at[e] = y[k + e];
        store(to + i + k, v);
    }
}

unsigned blocks_of(int64_t count)
{
    return (unsigned)((count + THREADS - 1) / THREADS);
}

enum pk_status widen_values(const struct pk_queue *q, void *to, const void *from, int64_t first,
                            int64_t count, struct pk_err *err)
{
    const bf16 *at = (const bf16 *)from + first;
    if (count % 8 == 0 && first % 8 == 0)
        return PK_LAUNCH(widen<8>, blocks_of(count / 8), THREADS, 0, q, err, (float *)to, at,
                         count);
    return PK_LAUNCH(widen<1>, blocks_of(count), THREADS, 0, q, err, (float *)to, at, count);
}

filter filter_of(const struct pk_conv_layout &lay)
{
    filter f = {};
    f.filters = lay.shape.filters, f.channels = lay.shape.channels / lay.shape.groups;
    f.taps = lay.taps, f.shift = lay.shift, f.wide = lay.shape.kernel;
    return f;
}

struct job {
    const struct pk_call *call;
    const struct pk_conv_row *row;
    struct pk_conv_layout lay;
    char *workspace;
};

enum pk_status run(const job &j, const void *a, const void *b, void *to, bool add,
                   struct pk_err *err)
{
    return pk_cudnn_run(j.row->plan, j.row->choice.algorithm, a, b, to, add,
                        j.workspace + j.lay.own, j.row->choice.workspace - j.lay.own, err);
}

/* CONV1D and CONV1D_DX: the second input is the filter. */
enum pk_status run_with_filter(const job &j, struct pk_err *err)
{
    const struct pk_call *c = j.call;
    const void *w = c->src[1];
    if (j.lay.packed) {
        filter f = filter_of(j.lay);
        const unsigned blocks = blocks_of((int64_t)f.filters * f.channels * f.wide);
        f.from = w, f.to = j.workspace, w = j.workspace;
        if (j.lay.shape.dtype == PK_BF16)
            PK_TRY(PK_LAUNCH(filter_to_library<bf16>, blocks, THREADS, 0, c->queue, err, f));
        else
            PK_TRY(PK_LAUNCH(filter_to_library<float>, blocks, THREADS, 0, c->queue, err, f));
    }
    PK_TRY(run(j, c->src[0], w, c->dst[0], j.row->key.add, err));
    if (j.row->key.op != PK_OP_CONV1D || !j.row->key.bias) return PK_OK;
    return pk_cuda_add_bias(c->queue, j.lay.shape.dtype, c->dst[0], (const float *)c->src[2],
                            (int64_t)j.lay.shape.batch * j.lay.shape.out, j.lay.shape.filters, err);
}

/* CONV1D_DW, some records at a time where operands are widened. */
enum pk_status run_for_filter(const job &j, struct pk_err *err)
{
    const struct pk_call *c = j.call;
    const struct pk_conv_shape &s = j.lay.shape;
    const int64_t x = (int64_t)s.batch * s.time * s.channels;
    const int64_t dy = (int64_t)s.batch * s.out * s.filters;
    void *to = j.lay.packed ? j.workspace : c->dst[0];
    for (int64_t i = 0; i < j.lay.turns; i++) {
        const void *a = c->src[0], *b = c->src[1];
        if (s.widened) {
            a = j.workspace + j.lay.dy_at, b = j.workspace + j.lay.x_at;
            PK_TRY(widen_values(c->queue, j.workspace + j.lay.dy_at, c->src[0], i * dy, dy, err));
            PK_TRY(widen_values(c->queue, j.workspace + j.lay.x_at, c->src[1], i * x, x, err));
        }
        PK_TRY(run(j, a, b, to, i || (j.row->key.add && !j.lay.packed), err));
    }
    if (!j.lay.packed) return PK_OK;
    filter f = filter_of(j.lay);
    f.from = to, f.to = c->dst[0], f.add = j.row->key.add;
    return PK_LAUNCH(gradient_from_library, blocks_of((int64_t)f.filters * f.channels * f.taps),
                     THREADS, 0, c->queue, err, f);
}

} // namespace

extern "C" enum pk_status pk_conv_library(const struct pk_call *c, struct pk_convs *t,
                                          const struct pk_conv_row *row, struct pk_err *err)
{
    job j = {c, row, {}, (char *)t->workspace};
    if (!row->plan || !t->workspace || !pk_conv_layout_of(&row->key, &j.lay))
        return pk_fail(err, PK_EINTERNAL, "a convolution was chosen for cuDNN, but not prepared");
    return row->key.op == PK_OP_CONV1D_DW ? run_for_filter(j, err) : run_with_filter(j, err);
}
