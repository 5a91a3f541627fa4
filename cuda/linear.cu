/* linear.cu -- linear layers, exact GELU, and the two fused, on a product that somebody chose.
 *
 * With the own GEMM every op of the family is one launch (LINEAR_DW two or three: its parts are
 * summed). With cuBLASLt, which has no erf GELU and no float bias for bf16 output, what it lacks
 * follows in one elementwise pass. */
#include "cuda/entry.h"
#include "cuda/gelu.h"
#include "cuda/matmul.h"
#include "cuda/reduce.h"

extern "C" {
#include "core/view.h"
}

namespace
{
enum { THREADS = 256, TURNS = 2 }; // 2 vectors of 16 bytes in flight per thread and operand

struct map_args {
    int64_t count, cols;
    const void *x;     // forward: product or input; backward: pre-activations
    const void *dy;    // backward
    const float *bias; // forward, or NULL
    void *pre;         // forward: x + bias is written, or NULL
    void *y;
    bool activate;   // forward: y = gelu(x + bias); else y = x + bias
    bool accumulate; // backward
};

template <typename S, int N, bool BACKWARD>
__device__ __forceinline__ void map_values(const map_args &g, int64_t at, const vec<S, N> &x)
{
    vec<S, N> y, pre;
    if constexpr (BACKWARD) {
        const vec<S, N> dy = load<S, N>((const S *)g.dy + at);
        vec<S, N> old = dy;
        if (g.accumulate) old = load<S, N>((const S *)g.y + at);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float v = to_float(dy.at[i]) * gelu_slope<S>(to_float(x.at[i]));
            y.at[i] = from_float<S>(g.accumulate ? v + to_float(old.at[i]) : v);
        }
    } else {
        const int64_t col = g.bias ? at % g.cols : 0;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float v = to_float(x.at[i]) + (g.bias ? g.bias[col + i] : 0.0f);
            pre.at[i] = from_float<S>(v);
            y.at[i] = from_float<S>(g.activate ? gelu<S>(v) : v);
        }
        if (g.pre) store((S *)g.pre + at, pre);
    }
    store((S *)g.y + at, y);
}

/* y = gelu(x + bias) and its kin, element by element; may run in place. The elements after the last
 * whole vector are done one by one. N is 1 where a row of `cols` is not made of whole vectors. */
template <typename S, int N, bool BACKWARD>
__global__ __launch_bounds__(THREADS) void map(map_args g)
{
    const int64_t first = (int64_t)blockIdx.x * TURNS * THREADS + threadIdx.x;
    vec<S, N> x[TURNS];
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int64_t at = (first + i * THREADS) * N;
        if (at + N <= g.count) x[i] = load<S, N>((const S *)g.x + at);
    }
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int64_t at = (first + i * THREADS) * N;
        if (at + N <= g.count)
            map_values<S, N, BACKWARD>(g, at, x[i]);
        else
            for (int64_t k = at; k < g.count; k++)
                map_values<S, 1, BACKWARD>(g, k, load<S, 1>((const S *)g.x + k));
    }
}

template <typename S, bool BACKWARD>
enum pk_status map_type(const struct pk_queue *q, const map_args &g, struct pk_err *err)
{
    constexpr int N = 16 / sizeof(S);
    const bool wide = !g.bias || g.cols % N == 0;
    const int64_t each = (int64_t)(wide ? N : 1) * TURNS * THREADS;
    const int64_t blocks = (g.count + each - 1) / each;
    auto linear_map = wide ? map<S, N, BACKWARD> : map<S, 1, BACKWARD>;
    return PK_LAUNCH(linear_map, dim3((unsigned)blocks), dim3(THREADS), 0, q, err, g);
}

enum pk_status run_map(const struct pk_queue *q, enum pk_dtype dtype, bool backward,
                       const map_args &g, struct pk_err *err)
{
    if (dtype == PK_BF16)
        return backward ? map_type<bf16, true>(q, g, err) : map_type<bf16, false>(q, g, err);
    return backward ? map_type<float, true>(q, g, err) : map_type<float, false>(q, g, err);
}

enum pk_status sum_rows(const struct pk_call *c, const struct pk_matmul_key &key,
                        struct pk_err *err)
{
    const struct pk_cuda_rows dy = {c->src[0], key.dtype, 1, key.rows * key.n, key.rows, key.n};
    return pk_cuda_column_sums(c->queue, (float *)c->dst[1], &dy, pk_call_accumulates(c, 1),
                               c->workspace, err);
}

/* By the library, with an elementwise pass for what its product leaves open. */
enum pk_status run_library(const struct pk_call *c, const struct pk_matmul_key &key,
                           struct pk_cuda_gemm g, const struct pk_matmul_choice *choice,
                           struct pk_err *err)
{
    const bool open_bias = g.bias && !choice->fused;
    map_args e = {};
    e.count = g.m * g.n, e.cols = g.n, e.y = g.y;
    switch ((int)key.op) {
    case PK_OP_LINEAR_GELU: // the product goes where pre will be, or into y
        if (g.pre) g.y = g.pre;
        PK_TRY(pk_matmul_library(c->queue, &g, choice, err));
        e.x = g.y, e.bias = open_bias ? g.bias : NULL, e.activate = true;
        e.pre = open_bias ? g.pre : NULL;
        return run_map(c->queue, key.dtype, false, e, err);
    case PK_OP_LINEAR_DX_GELU:
        PK_TRY(pk_matmul_library(c->queue, &g, choice, err));
        e.x = g.at, e.dy = g.y;
        return run_map(c->queue, key.dtype, true, e, err);
    case PK_OP_LINEAR_DW:
        PK_TRY(pk_matmul_library(c->queue, &g, choice, err));
        return g.sums ? sum_rows(c, key, err) : PK_OK;
    default:
        PK_TRY(pk_matmul_library(c->queue, &g, choice, err));
        e.x = g.y, e.bias = g.bias;
        return open_bias ? run_map(c->queue, key.dtype, false, e, err) : PK_OK;
    }
}

enum pk_status run_chosen(const struct pk_call *c, struct pk_err *err)
{
    struct pk_matmul_key key;
    if (!pk_matmul_key_of(c, &key)) return pk_fail(err, PK_EINTERNAL, "not a linear layer");
    const struct pk_matmul_choice own = {false, -1, false, {}, 0};
    const struct pk_matmul_choice *found =
        c->queue->matmul ? pk_matmul_find(c->queue->matmul, &key) : NULL;
    return pk_linear_run(c, found ? found : &own, err);
}
} // namespace

extern "C" {

void pk_linear_product(const struct pk_call *c, struct pk_cuda_gemm *out)
{
    struct pk_matmul_key key;
    struct pk_cuda_gemm g = {};
    *out = g;
    if (!pk_matmul_key_of(c, &key)) return;
    g.dtype = key.dtype;
    g.a = c->src[0], g.b = c->src[1];
    g.y = c->dst[0], g.accumulate = key.add;
    g.m = key.rows, g.n = key.n, g.k = key.k;
    g.bias = key.bias ? (const float *)c->src[2] : NULL;
    g.workspace = c->workspace;
    switch ((int)key.op) {
    case PK_OP_LINEAR_GELU:
        g.epilogue = PK_EPILOGUE_GELU;
        g.pre = c->dst[0], g.y = c->dst[1];
        break;
    case PK_OP_LINEAR_DX_GELU:
    case PK_OP_LINEAR_DX:
        if (key.op == PK_OP_LINEAR_DX_GELU) g.epilogue = PK_EPILOGUE_GELU_GRAD, g.at = c->src[2];
        g.product = PK_PRODUCT_NN;
        g.n = key.k, g.k = key.n;
        break;
    case PK_OP_LINEAR_DW:
        g.product = PK_PRODUCT_TN;
        g.m = key.n, g.n = key.k, g.k = key.rows;
        g.bias = NULL;
        g.sums = key.bias ? (float *)c->dst[1] : NULL;
        g.sums_accumulate = pk_call_accumulates(c, 1);
        break;
    }
    *out = g;
}

enum pk_status pk_linear_run(const struct pk_call *c, const struct pk_matmul_choice *choice,
                             struct pk_err *err)
{
    struct pk_matmul_key key;
    if (!pk_matmul_key_of(c, &key)) return pk_fail(err, PK_EINTERNAL, "not a linear layer");
    struct pk_cuda_gemm g;
    pk_linear_product(c, &g);
    g.tile = choice->tile;
    return choice->library ? run_library(c, key, g, choice, err) : pk_cuda_gemm(c->queue, &g, err);
}

enum pk_status pk_cuda_add_bias(const struct pk_queue *q, enum pk_dtype dtype, void *y,
                                const float *bias, int64_t rows, int64_t cols, struct pk_err *err)
{
    map_args e = {};
    e.count = rows * cols, e.cols = cols, e.x = e.y = y, e.bias = bias;
    return run_map(q, dtype, false, e, err);
}

/* in: x [..., K], w [N, K], bias [N] or absent -> y [..., N] */
enum pk_status pk_cuda_linear(const struct pk_call *c, struct pk_err *err)
{
    return run_chosen(c, err);
}

/* in: dy [..., N], w [N, K] -> dx [..., K], accumulating */
enum pk_status pk_cuda_linear_dx(const struct pk_call *c, struct pk_err *err)
{
    return run_chosen(c, err);
}

/* in: dy [..., N], x [..., K] -> dw [N, K] or absent, dbias [N] or absent, both accumulating */
enum pk_status pk_cuda_linear_dw(const struct pk_call *c, struct pk_err *err)
{
    struct pk_matmul_key key;
    if (c->out[0]) return run_chosen(c, err);
    return c->out[1] && pk_matmul_key_of(c, &key) ? sum_rows(c, key, err) : PK_OK;
}

/* in: x [..., K], w [N, K], bias [N] or absent -> pre [..., N] or absent, y [..., N] */
enum pk_status pk_cuda_linear_gelu(const struct pk_call *c, struct pk_err *err)
{
    return run_chosen(c, err);
}

/* in: dy [..., N], w [N, K], pre [..., K] -> dpre [..., K] = (dy w) gelu'(pre) */
enum pk_status pk_cuda_linear_dx_gelu(const struct pk_call *c, struct pk_err *err)
{
    return run_chosen(c, err);
}

/* in: x -> y */
enum pk_status pk_cuda_gelu(const struct pk_call *c, struct pk_err *err)
{
    map_args g = {};
    g.count = pk_view_count(c->in[0]), g.x = c->src[0], g.y = c->dst[0], g.activate = true;
    return run_map(c->queue, c->in[0]->dtype, false, g, err);
}

/* in: dy, x -> dx, accumulating */
enum pk_status pk_cuda_gelu_grad(const struct pk_call *c, struct pk_err *err)
{
    map_args g = {};
    g.count = pk_view_count(c->in[0]), g.dy = c->src[0], g.x = c->src[1], g.y = c->dst[0];
    g.accumulate = pk_call_accumulates(c, 0);
    return run_map(c->queue, c->in[0]->dtype, true, g, err);
}

/* The parts of the own GEMM, or of the sums of columns beside the library's product. */
size_t pk_cuda_linear_dw_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *dy = &p->value[n->in[0]], *x = &p->value[n->in[1]];
    const int64_t rows = pk_view_rows(dy), width = pk_view_cols(dy);
    const size_t parts = pk_cuda_gemm_workspace(width, pk_view_cols(x), rows);
    const size_t sums = pk_cuda_column_sums_workspace(rows, width);
    return parts > sums ? parts : sums;
}

PK_NO_WORKSPACE(linear)
PK_NO_WORKSPACE(linear_dx)
PK_NO_WORKSPACE(linear_gelu)
PK_NO_WORKSPACE(linear_dx_gelu)
PK_NO_WORKSPACE(gelu)
PK_NO_WORKSPACE(gelu_grad)
}
