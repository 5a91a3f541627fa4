/* conv1d.cu -- convolution over time, channels last: which kernel makes it, and those in float FMA.
 *
 *     y[b, u, n] = bias[n] + sum over k, c of x[b, u stride + k - left, c] w[n, c, k]
 *
 * A kernel of one sample without stride is the linear layer's product (gemm.h). In bf16, channels
 * in multiples of 8 go to the tensor cores (conv1d_mma.cu). The rest is here, for every shape and
 * both storage types. Its three passes are one tiled product whose operands are read through the
 * convolution's indices, so that no matrix of windows is ever stored:
 *
 *                 rows          columns          summed over
 *     forward     (b, u)        n                (k, c)        A = x, B = w
 *     dx          (b, t)        c                (k, n)        A = dy, B = w
 *     dw          n             (k, c)           (b, u)        A = dy, B = x, in parts
 *
 * in float on the CUDA cores: 64 x 64 tiles, 4 x 4 sums for each of 256 threads (float storage
 * stays float: no TF32). Depthwise convolutions have nothing to multiply matrices with: one thread
 * per output, neighbouring threads on neighbouring channels. docs/decisions/011-convolution.md. */
#include "cuda/conv.h"
#include "cuda/conv1d.h"
#include "cuda/device.h"
#include "cuda/gemm.h"
#include "cuda/reduce.h"

extern "C" {
#include "core/view.h"
}

namespace
{

enum pass { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT };
enum { THREADS = 256, TILE = 64, DEPTH = 16, LINE = TILE + 4 };

struct conv {
    const void *x, *w, *dy; // whichever the pass reads
    const float *bias;
    void *to;       // y or dx
    float *partial; // [parts][N C / groups K]
    int32_t batch, in, out, c, n, kernel, stride, left, groups, cg, ng;
    int32_t rows, cols, depth; // of one group's product
    int32_t range;             // of depth, for one part
    bool add;
};

struct tiles {
    float a[DEPTH][LINE], b[DEPTH][LINE];
};

/* x of record row / out under tap `tap` of output row % out, 0 in the padding. */
template <typename S>
__device__ __forceinline__ float x_at(const conv &v, int32_t row, int32_t tap, int32_t channel)
{
    const int32_t record = row / v.out, t = (row - record * v.out) * v.stride + tap - v.left;
    if (t < 0 || t >= v.in) return 0;
    return to_float(((const S *)v.x)[((int64_t)record * v.in + t) * v.c + channel]);
}

/* dy of the output that reads sample row % in through tap `tap`, 0 where there is none. */
template <typename S>
__device__ __forceinline__ float dy_at(const conv &v, int32_t row, int32_t tap, int32_t channel)
{
    const int32_t record = row / v.in, from = row - record * v.in + v.left - tap;
    const int32_t u = from / v.stride;
    if (from < 0 || u * v.stride != from || u >= v.out) return 0;
    return to_float(((const S *)v.dy)[((int64_t)record * v.out + u) * v.n + channel]);
}

template <typename S>
__device__ __forceinline__ float w_at(const conv &v, int32_t n, int32_t c, int32_t tap)
{
    return to_float(((const S *)v.w)[((int64_t)n * v.cg + c) * v.kernel + tap]);
}

/* Elements of the product's operands: row m of A and column n of B at depth k. */
template <typename S, int PASS>
__device__ __forceinline__ float left_at(const conv &v, int32_t g, int32_t m, int32_t k)
{
    if constexpr (PASS == FORWARD) return x_at<S>(v, m, k / v.cg, g * v.cg + k % v.cg);
    if constexpr (PASS == INPUT_GRADIENT) return dy_at<S>(v, m, k / v.ng, g * v.ng + k % v.ng);
    return to_float(((const S *)v.dy)[(int64_t)k * v.n + g * v.ng + m]);
}
template <typename S, int PASS>
__device__ __forceinline__ float right_at(const conv &v, int32_t g, int32_t n, int32_t k)
{
    if constexpr (PASS == FORWARD) return w_at<S>(v, g * v.ng + n, k % v.cg, k / v.cg);
    if constexpr (PASS == INPUT_GRADIENT) return w_at<S>(v, g * v.ng + k % v.ng, n, k / v.ng);
    return x_at<S>(v, k, n / v.cg, g * v.cg + n % v.cg);
}

template <typename S, int PASS>
__device__ __forceinline__ void put(const conv &v, int32_t g, int32_t part, int32_t m, int32_t n,
                                    float sum)
{
    if constexpr (PASS == WEIGHT_GRADIENT) {
        const int64_t weights = (int64_t)v.n * v.cg * v.kernel;
        const int64_t filter = (int64_t)(g * v.ng + m) * v.cg + n % v.cg;
        v.partial[part * weights + filter * v.kernel + n / v.cg] = sum;
    } else if constexpr (PASS == FORWARD) {
        const int32_t channel = g * v.ng + n;
        if (v.bias) sum += v.bias[channel];
        ((S *)v.to)[(int64_t)m * v.n + channel] = from_float<S>(sum);
    } else {
        S *dx = (S *)v.to + (int64_t)m * v.c + g * v.cg + n;
        *dx = from_float<S>(v.add ? to_float(*dx) + sum : sum);
    }
}

/* Element i of 4 that the thread brings: neighbouring threads read neighbouring channels, which are
 * along the depth forwards and in dx, along rows and columns in dw. */
template <int PASS> __device__ __forceinline__ void place(int i, int32_t *outer, int32_t *inner)
{
    const int t = (int)threadIdx.x;
    *outer = PASS == WEIGHT_GRADIENT ? t % TILE : t / DEPTH + i * (THREADS / DEPTH);
    *inner = PASS == WEIGHT_GRADIENT ? t / TILE + i * (THREADS / TILE) : t % DEPTH;
}

/* Block (row tile, column tile, group of part): sums over the depth run in order. */
template <typename S, int PASS> __global__ void __launch_bounds__(THREADS) conv_product(conv v)
{
    PK_SHARED(tiles, s);
    const int32_t g = (int32_t)blockIdx.z % v.groups, part = (int32_t)blockIdx.z / v.groups;
    const int32_t row = (int32_t)blockIdx.x * TILE, col = (int32_t)blockIdx.y * TILE;
    const int32_t first = part * v.range, last = min(first + v.range, v.depth);
    const int x = (int)threadIdx.x % 16, y = (int)threadIdx.x / 16;
    float sum[4][4] = {};
    for (int32_t k = first; k < last; k += DEPTH) {
#pragma unroll
        for (int i = 0; i < TILE * DEPTH / THREADS; i++) {
            int32_t outer, inner;
            place<PASS>(i, &outer, &inner);
            const bool inside = k + inner < last;
            s.a[inner][outer] =
                inside && row + outer < v.rows ? left_at<S, PASS>(v, g, row + outer, k + inner) : 0;
            s.b[inner][outer] = inside && col + outer < v.cols
                                    ? right_at<S, PASS>(v, g, col + outer, k + inner)
                                    : 0;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            const vec<float, 4> a = load<float, 4>(&s.a[d][4 * y]);
            const vec<float, 4> b = load<float, 4>(&s.b[d][4 * x]);
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] = fmaf(a.at[i], b.at[j], sum[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (row + 4 * y + i < v.rows && col + 4 * x + j < v.cols)
                put<S, PASS>(v, g, part, row + 4 * y + i, col + 4 * x + j, sum[i][j]);
}

/* One thread per element of y or dx; c == n == groups. */
template <typename S, int PASS> __global__ void __launch_bounds__(THREADS) depthwise(conv v)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int32_t row = (int32_t)(i / v.c), channel = (int32_t)(i % v.c);
    float sum = 0;
    if (row >= v.rows) return;
    for (int32_t k = 0; k < v.kernel; k++) {
        const float at =
            PASS == FORWARD ? x_at<S>(v, row, k, channel) : dy_at<S>(v, row, k, channel);
        sum = fmaf(at, w_at<S>(v, channel, 0, k), sum);
    }
    put<S, PASS>(v, channel, 0, row, 0, sum);
}

enum { CHANNELS = 32, LANES = THREADS / CHANNELS, TAPS = 8 };

struct tap_sums {
    float at[LANES][TAPS][CHANNELS];
};

/* Block (channels, part): lane l adds the terms of rows l, l + 8 ... of the part, eight taps at a
 * time; then the lanes are added in order. */
template <typename S> __global__ void __launch_bounds__(THREADS) depthwise_weights(conv v)
{
    PK_SHARED(tap_sums, s);
    const int lane = (int)threadIdx.x / CHANNELS, local = (int)threadIdx.x % CHANNELS;
    const int32_t channel = (int32_t)blockIdx.x * CHANNELS + local, part = (int32_t)blockIdx.y;
    const int32_t first = part * v.range, last = min(first + v.range, v.depth);
    const bool mine = channel < v.c;
    for (int32_t k = 0; k < v.kernel; k += TAPS) {
        float sum[TAPS] = {};
        for (int32_t row = first + lane; mine && row < last; row += LANES) {
            const float dy = to_float(((const S *)v.dy)[(int64_t)row * v.n + channel]);
#pragma unroll
            for (int i = 0; i < TAPS; i++)
                if (k + i < v.kernel) sum[i] = fmaf(dy, x_at<S>(v, row, k + i, channel), sum[i]);
        }
#pragma unroll
        for (int i = 0; i < TAPS; i++) s.at[lane][i][local] = sum[i];
        __syncthreads();
        if (mine && k + lane < v.kernel) {
            float total = 0;
            for (int l = 0; l < LANES; l++) total += s.at[l][lane][local];
            v.partial[((int64_t)part * v.c + channel) * v.kernel + k + lane] = total;
        }
        __syncthreads();
    }
}

struct shapes {
    const struct pk_value *x, *y;
    int64_t kernel;
};

/* Parts of the weight gradient's sum over rows: at least 128 rows each, and no more weights in all
 * than keep the device busy. */
int64_t parts_of(const struct pk_node *n, const shapes &s)
{
    const int64_t rows = s.y->dim[0] * s.y->dim[1], groups = n->attr.conv1d.groups;
    const int64_t weights = s.y->dim[2] * (s.x->dim[2] / groups) * s.kernel;
    const int64_t useful = PK_MAX((int64_t)PK_CUDA_PARTS * TILE * TILE / weights, 1);
    const int64_t most = PK_MIN(PK_MIN(useful, (int64_t)64), PK_MAX(65535 / groups, 1));
    return PK_MAX(PK_MIN((rows + 127) / 128, most), 1);
}

/* Sizes of a convolution; false where they are too large for 32 bits. */
bool describe(const struct pk_node *n, const shapes &s, struct pk_cuda_conv *v)
{
    const int64_t rows = s.x->dim[0] * PK_MAX(s.x->dim[1], s.y->dim[1]);
    const int64_t channels = PK_MAX(s.x->dim[2] + 7, s.y->dim[2]); // x may be padded to 8
    *v = {};
    if (rows > INT32_MAX / 2 || channels * s.kernel > INT32_MAX / 2) return false;
    v->batch = (int32_t)s.x->dim[0], v->in = (int32_t)s.x->dim[1], v->out = (int32_t)s.y->dim[1];
    v->c = (int32_t)s.x->dim[2], v->n = (int32_t)s.y->dim[2], v->kernel = (int32_t)s.kernel;
    v->stride = n->attr.conv1d.stride, v->left = n->attr.conv1d.left;
    v->groups = n->attr.conv1d.groups, v->type = s.x->dtype;
    v->cg = v->c / v->groups, v->ng = v->n / v->groups;
    v->parts = (int32_t)parts_of(n, s);
    return true;
}

enum pk_status open(const struct pk_call *c, const shapes &s, struct pk_cuda_conv *v,
                    struct pk_err *err)
{
    if (!describe(c->node, s, v))
        return pk_fail(err, PK_ESHAPE, "%lld samples in one batch are too many for a convolution",
                       (long long)(s.x->dim[0] * PK_MAX(s.x->dim[1], s.y->dim[1])));
    v->workspace = c->workspace;
    return PK_OK;
}

bool is_plain(const struct pk_cuda_conv &v)
{
    return v.kernel == 1 && v.stride == 1 && v.groups == 1 && !v.left && v.in == v.out;
}

/* The tensor cores' copies move 16 bytes; values of a program start at multiples of 64. */
bool on_tensor_cores(const struct pk_cuda_conv &v, enum pk_conv_pass pass)
{
    const uintptr_t ends = (uintptr_t)v.x | (uintptr_t)v.w | (uintptr_t)v.dy | (uintptr_t)v.bias |
                           (uintptr_t)v.to | (uintptr_t)v.workspace;
    return ends % 16 == 0 && pk_cuda_conv_mma_takes(&v, pass);
}

template <typename S, int PASS>
enum pk_status launch(const struct pk_queue *q, const conv &v, int64_t parts, struct pk_err *err)
{
    if (v.cg == 1 && v.ng == 1) {
        if constexpr (PASS == WEIGHT_GRADIENT)
            return PK_LAUNCH((depthwise_weights<S>),
                             dim3((unsigned)((v.c + CHANNELS - 1) / CHANNELS), (unsigned)parts),
                             THREADS, sizeof(tap_sums), q, err, v);
        else
            return PK_LAUNCH((depthwise<S, PASS>),
                             (unsigned)(((int64_t)v.rows * v.c + THREADS - 1) / THREADS), THREADS,
                             0, q, err, v);
    }
    const dim3 grid((unsigned)((v.rows + TILE - 1) / TILE), (unsigned)((v.cols + TILE - 1) / TILE),
                    (unsigned)(v.groups * parts));
    return PK_LAUNCH((conv_product<S, PASS>), grid, THREADS, sizeof(tiles), q, err, v);
}

/* One pass by the kernels of this file. */
template <int PASS>
enum pk_status multiply(const struct pk_queue *q, const struct pk_cuda_conv &a, struct pk_err *err)
{
    conv v = {};
    int64_t parts = 1;
    v.x = a.x, v.w = a.w, v.dy = a.dy, v.bias = a.bias, v.to = a.to, v.add = a.add;
    v.batch = a.batch, v.in = a.in, v.out = a.out, v.c = a.c, v.n = a.n, v.kernel = a.kernel;
    v.stride = a.stride, v.left = a.left, v.groups = a.groups, v.cg = a.cg, v.ng = a.ng;
    if constexpr (PASS == FORWARD)
        v.rows = v.batch * v.out, v.cols = v.ng, v.depth = v.cg * v.kernel;
    else if constexpr (PASS == INPUT_GRADIENT)
        v.rows = v.batch * v.in, v.cols = v.cg, v.depth = v.ng * v.kernel;
    else
        v.rows = v.ng, v.cols = v.cg * v.kernel, v.depth = v.batch * v.out;
    v.range = v.depth;
    if constexpr (PASS == WEIGHT_GRADIENT) {
        v.partial = (float *)a.workspace;
        v.range = (v.depth + a.parts - 1) / a.parts;
        parts = (v.depth + v.range - 1) / v.range; // none of them empty
    }
    if (a.type == PK_BF16)
        PK_TRY((launch<bf16, PASS>(q, v, parts, err)));
    else
        PK_TRY((launch<float, PASS>(q, v, parts, err)));
    if (PASS != WEIGHT_GRADIENT) return PK_OK;
    return pk_cuda_sum_parts(q, (float *)a.to, v.partial, parts, (int64_t)v.n * v.cg * v.kernel,
                             a.add, err);
}

/* A kernel of one sample without stride: a and b as the product's row says, y = a.to. */
enum pk_status linear(const struct pk_queue *q, const struct pk_cuda_conv &a,
                      enum pk_product product, struct pk_err *err)
{
    const int64_t rows = (int64_t)a.batch * a.out;
    struct pk_cuda_gemm g = {};
    g.product = product, g.dtype = a.type, g.tile = -1;
    g.m = product == PK_PRODUCT_TN ? a.n : rows;
    g.n = product == PK_PRODUCT_NT ? a.n : a.c;
    g.k = product == PK_PRODUCT_NT ? a.c : product == PK_PRODUCT_NN ? a.n : rows;
    g.a = product == PK_PRODUCT_NT ? a.x : a.dy, g.b = product == PK_PRODUCT_TN ? a.x : a.w;
    g.bias = a.bias, g.y = a.to, g.accumulate = a.add, g.workspace = a.workspace;
    return pk_cuda_gemm(q, &g, err);
}

enum pk_status weight_gradient(const struct pk_call *c, struct pk_err *err)
{
    struct pk_cuda_conv v;
    PK_TRY(open(c, {c->in[1], c->in[0], c->out[0]->dim[2]}, &v, err));
    v.dy = c->src[0], v.x = c->src[1], v.to = c->dst[0], v.add = pk_call_accumulates(c, 0);
    if (is_plain(v)) return linear(c->queue, v, PK_PRODUCT_TN, err);
    if (on_tensor_cores(v, PK_CONV_DW)) return pk_cuda_conv_mma(c->queue, &v, PK_CONV_DW, err);
    return multiply<WEIGHT_GRADIENT>(c->queue, v, err);
}

/* Scratch of a pass other than dw. */
size_t packed(const struct pk_node *n, const shapes &s, enum pk_conv_pass pass)
{
    struct pk_cuda_conv v;
    if (!describe(n, s, &v) || is_plain(v) || !pk_cuda_conv_mma_takes(&v, pass)) return 0;
    return pk_cuda_conv_mma_workspace(&v, pass);
}

} // namespace

extern "C" {

/* in: x [B, T, C], w [N, C / groups, K], bias [N] or absent -> y [B, U, N] */
enum pk_status pk_cuda_conv1d(const struct pk_call *c, struct pk_err *err)
{
    struct pk_cuda_conv v;
    bool done;
    PK_TRY(pk_conv_chosen(c, &done, err));
    if (done) return PK_OK;
    PK_TRY(open(c, {c->in[0], c->out[0], c->in[1]->dim[2]}, &v, err));
    v.x = c->src[0], v.w = c->src[1], v.to = c->dst[0];
    v.bias = c->in[2] ? (const float *)c->src[2] : NULL;
    if (is_plain(v)) return linear(c->queue, v, PK_PRODUCT_NT, err);
    if (on_tensor_cores(v, PK_CONV_FORWARD))
        return pk_cuda_conv_mma(c->queue, &v, PK_CONV_FORWARD, err);
    return multiply<FORWARD>(c->queue, v, err);
}

/* in: dy [B, U, N], w -> dx [B, T, C], accumulating */
enum pk_status pk_cuda_conv1d_dx(const struct pk_call *c, struct pk_err *err)
{
    struct pk_cuda_conv v;
    bool done;
    PK_TRY(pk_conv_chosen(c, &done, err));
    if (done) return PK_OK;
    PK_TRY(open(c, {c->out[0], c->in[0], c->in[1]->dim[2]}, &v, err));
    v.dy = c->src[0], v.w = c->src[1], v.to = c->dst[0], v.add = pk_call_accumulates(c, 0);
    if (is_plain(v)) return linear(c->queue, v, PK_PRODUCT_NN, err);
    if (on_tensor_cores(v, PK_CONV_DX)) return pk_cuda_conv_mma(c->queue, &v, PK_CONV_DX, err);
    return multiply<INPUT_GRADIENT>(c->queue, v, err);
}

/* in: dy [B, U, N], x [B, T, C] -> dw [N, C / groups, K] or absent, dbias [N] or absent, both
 * accumulating. The sums of the bias come when those of the weight have left the workspace. */
enum pk_status pk_cuda_conv1d_dw(const struct pk_call *c, struct pk_err *err)
{
    bool done;
    PK_TRY(pk_conv_chosen(c, &done, err));
    if (c->out[0] && !done) PK_TRY(weight_gradient(c, err));
    if (!c->out[1]) return PK_OK;
    const int64_t rows = pk_view_rows(c->in[0]), cols = pk_view_cols(c->in[0]);
    const struct pk_cuda_rows dy = {c->src[0], c->in[0]->dtype, 1, rows * cols, rows, cols};
    return pk_cuda_column_sums(c->queue, (float *)c->dst[1], &dy, pk_call_accumulates(c, 1),
                               c->workspace, err);
}

size_t pk_cuda_conv1d_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    return packed(n, {&p->value[n->in[0]], &p->value[n->out[0]], p->value[n->in[1]].dim[2]},
                  PK_CONV_FORWARD);
}

size_t pk_cuda_conv1d_dx_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    return packed(n, {&p->value[n->out[0]], &p->value[n->in[0]], p->value[n->in[1]].dim[2]},
                  PK_CONV_DX);
}

size_t pk_cuda_conv1d_dw_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *dy = &p->value[n->in[0]], *x = &p->value[n->in[1]];
    const int64_t rows = pk_view_rows(dy), width = pk_view_cols(dy);
    const size_t sums = n->out[1] < 0 ? 0 : pk_cuda_column_sums_workspace(rows, width);
    struct pk_cuda_conv v;
    size_t parts = 0;
    if (n->out[0] >= 0 && describe(n, {x, dy, p->value[n->out[0]].dim[2]}, &v)) {
        const int64_t weights = pk_view_count(&p->value[n->out[0]]);
        parts = is_plain(v) ? pk_cuda_gemm_workspace(width, pk_view_cols(x), rows)
                : pk_cuda_conv_mma_takes(&v, PK_CONV_DW)
                    ? pk_cuda_conv_mma_workspace(&v, PK_CONV_DW)
                    : (size_t)(v.parts * weights) * sizeof(float);
    }
    return parts > sums ? parts : sums;
}
}
