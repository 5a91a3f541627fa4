/* conv1d.cu -- convolution over time, channels last: an implicit matrix product.
 *
 *     y[b, u, n] = bias[n] + sum over k, c of x[b, u stride + k - left, c] w[n, c, k]
 *
 * All three passes are one tiled product whose operands are read through the convolution's indices,
 * so that no matrix of windows is ever stored:
 *
 *                 rows          columns          summed over
 *     forward     (b, u)        n                (k, c)        A = x, B = w
 *     dx          (b, t)        c                (k, n)        A = dy, B = w
 *     dw          n             (k, c)           (b, u)        A = dy, B = x, in parts
 *
 * A kernel of one sample without stride is the linear layer's product (gemm.h, tensor cores). The
 * others multiply in float on the CUDA cores: 64 x 64 tiles, 4 x 4 sums for each of 256 threads,
 * which is right for every shape and storage type, and not yet what the tensor cores or cuDNN would
 * reach (docs/decisions/011-convolution.md). Depthwise convolutions have nothing to multiply
 * matrices with: one thread per output, neighbouring threads on neighbouring channels. */
#include "cuda/conv.h"
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

bool is_plain(const struct pk_node *n, const shapes &s)
{
    return s.kernel == 1 && n->attr.conv1d.stride == 1 && n->attr.conv1d.groups == 1 &&
           !n->attr.conv1d.left && s.x->dim[1] == s.y->dim[1];
}

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

enum pk_status conv_of(const struct pk_call *c, const shapes &s, conv *out, struct pk_err *err)
{
    conv v = {};
    const int64_t rows = s.x->dim[0] * PK_MAX(s.x->dim[1], s.y->dim[1]);
    if (rows > INT32_MAX / 2 || s.x->dim[2] * s.kernel > INT32_MAX / 2 ||
        s.y->dim[2] * s.kernel > INT32_MAX / 2)
        return pk_fail(err, PK_ESHAPE, "%lld samples in one batch are too many for a convolution",
                       (long long)rows);
    v.batch = (int32_t)s.x->dim[0], v.in = (int32_t)s.x->dim[1], v.out = (int32_t)s.y->dim[1];
    v.c = (int32_t)s.x->dim[2], v.n = (int32_t)s.y->dim[2], v.kernel = (int32_t)s.kernel;
    v.stride = c->node->attr.conv1d.stride, v.left = c->node->attr.conv1d.left;
    v.groups = c->node->attr.conv1d.groups;
    v.cg = v.c / v.groups, v.ng = v.n / v.groups;
    *out = v;
    return PK_OK;
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

/* in: x, w, bias or absent -> y */
enum pk_status forward(const struct pk_call *c, struct pk_err *err)
{
    conv v = {};
    const shapes s = {c->in[0], c->out[0], c->in[1]->dim[2]};
    PK_TRY(conv_of(c, s, &v, err));
    v.x = c->src[0], v.w = c->src[1], v.to = c->dst[0];
    v.bias = c->in[2] ? (const float *)c->src[2] : NULL;
    v.rows = v.batch * v.out, v.cols = v.ng, v.range = v.depth = v.cg * v.kernel;
    if (!is_plain(c->node, s))
        return s.x->dtype == PK_BF16 ? launch<bf16, FORWARD>(c->queue, v, 1, err)
                                     : launch<float, FORWARD>(c->queue, v, 1, err);
    struct pk_cuda_gemm g = {};
    g.product = PK_PRODUCT_NT, g.dtype = s.x->dtype, g.tile = -1;
    g.m = v.rows, g.n = v.n, g.k = v.c;
    g.a = v.x, g.b = v.w, g.bias = v.bias, g.y = v.to, g.workspace = c->workspace;
    return pk_cuda_gemm(c->queue, &g, err);
}

/* in: dy, w -> dx */
enum pk_status input_gradient(const struct pk_call *c, struct pk_err *err)
{
    conv v = {};
    const shapes s = {c->out[0], c->in[0], c->in[1]->dim[2]};
    PK_TRY(conv_of(c, s, &v, err));
    v.dy = c->src[0], v.w = c->src[1], v.to = c->dst[0], v.add = pk_call_accumulates(c, 0);
    v.rows = v.batch * v.in, v.cols = v.cg, v.range = v.depth = v.ng * v.kernel;
    if (!is_plain(c->node, s))
        return s.x->dtype == PK_BF16 ? launch<bf16, INPUT_GRADIENT>(c->queue, v, 1, err)
                                     : launch<float, INPUT_GRADIENT>(c->queue, v, 1, err);
    struct pk_cuda_gemm g = {};
    g.product = PK_PRODUCT_NN, g.dtype = s.x->dtype, g.tile = -1;
    g.m = v.rows, g.n = v.c, g.k = v.n;
    g.a = v.dy, g.b = v.w, g.y = v.to, g.accumulate = v.add, g.workspace = c->workspace;
    return pk_cuda_gemm(c->queue, &g, err);
}

/* in: dy, x -> dw */
enum pk_status weight_gradient(const struct pk_call *c, struct pk_err *err)
{
    conv v = {};
    const shapes s = {c->in[1], c->in[0], c->out[0]->dim[2]};
    PK_TRY(conv_of(c, s, &v, err));
    if (is_plain(c->node, s)) {
        struct pk_cuda_gemm g = {};
        g.product = PK_PRODUCT_TN, g.dtype = s.x->dtype, g.tile = -1;
        g.m = v.n, g.n = v.c, g.k = (int64_t)v.batch * v.out;
        g.a = c->src[0], g.b = c->src[1], g.y = c->dst[0];
        g.accumulate = pk_call_accumulates(c, 0), g.workspace = c->workspace;
        return pk_cuda_gemm(c->queue, &g, err);
    }
    const int64_t most = parts_of(c->node, s), weights = (int64_t)v.n * v.cg * v.kernel;
    v.dy = c->src[0], v.x = c->src[1], v.partial = (float *)c->workspace;
    v.rows = v.ng, v.cols = v.cg * v.kernel, v.depth = v.batch * v.out;
    v.range = (int32_t)((v.depth + most - 1) / most);
    const int64_t parts = (v.depth + v.range - 1) / v.range; // none of them empty
    if (s.x->dtype == PK_BF16)
        PK_TRY((launch<bf16, WEIGHT_GRADIENT>(c->queue, v, parts, err)));
    else
        PK_TRY((launch<float, WEIGHT_GRADIENT>(c->queue, v, parts, err)));
    return pk_cuda_sum_parts(c->queue, (float *)c->dst[0], v.partial, parts, weights,
                             pk_call_accumulates(c, 0), err);
}

} // namespace

extern "C" {

/* in: x [B, T, C], w [N, C / groups, K], bias [N] or absent -> y [B, U, N] */
enum pk_status pk_cuda_conv1d(const struct pk_call *c, struct pk_err *err)
{
    bool done;
    PK_TRY(pk_conv_chosen(c, &done, err));
    return done ? PK_OK : forward(c, err);
}

/* in: dy [B, U, N], w -> dx [B, T, C], accumulating */
enum pk_status pk_cuda_conv1d_dx(const struct pk_call *c, struct pk_err *err)
{
    bool done;
    PK_TRY(pk_conv_chosen(c, &done, err));
    return done ? PK_OK : input_gradient(c, err);
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
    (void)p, (void)n;
    return 0;
}

size_t pk_cuda_conv1d_dx_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    (void)p, (void)n;
    return 0;
}

size_t pk_cuda_conv1d_dw_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *dy = &p->value[n->in[0]], *x = &p->value[n->in[1]];
    const int64_t rows = pk_view_rows(dy), width = pk_view_cols(dy);
    const size_t sums = n->out[1] < 0 ? 0 : pk_cuda_column_sums_workspace(rows, width);
    size_t parts = 0;
    if (n->out[0] >= 0) {
        const struct pk_value *dw = &p->value[n->out[0]];
        const shapes s = {x, dy, dw->dim[2]};
        parts = is_plain(n, s) ? pk_cuda_gemm_workspace(width, pk_view_cols(x), rows)
                               : (size_t)(parts_of(n, s) * pk_view_count(dw)) * sizeof(float);
    }
    return parts > sums ? parts : sums;
}
}
