/* contrast.cu -- losses over the rows of a whole batch, normalised rows, and the injected gradient.
 *
 * The logits of N queries and M keys are written out: 64 MB at the 4,096 rows that are meant as the
 * most, 15 us each way at 4.3 TB/s. What costs is the products, 2 N M D operations each, 8.6 G at
 * 4,096 rows of 256 columns: one for the loss, two (of rows with themselves) or three for the
 * gradients. They are done in float on the CUDA cores (cuda/gemm_f32.cu) whatever the storage: a
 * temperature of .04 magnifies the rounding of a logit by 25, and some 400 us a product at the
 * largest size are little beside an encoder's step over 4,096 records.
 *
 * Nearest rows (KoLeo) are found by differences, not by a product of the rows: between rows that
 * nearly collapsed, which is what the loss is against, |x|^2 + |y|^2 - 2 xy cancels.
 *
 * Determinism: every sum has a fixed order that depends on the shapes alone; no atomics. */
#include "cuda/device.h"
#include "cuda/gemm.h"

extern "C" {
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, WARPS = THREADS / PK_WARP, SUM_PARTS = 1024, TILE = 64, DEPTH = 16 };

struct block_sums {
    double of_warp[32];
};

unsigned blocks_of(int64_t threads)
{
    return (unsigned)((threads + THREADS - 1) / THREADS);
}

/* loss = factor * sum of the terms; one block. */
__global__ void __launch_bounds__(THREADS)
    finish_sum(float *loss, const double *term, int64_t count, double factor)
{
    PK_SHARED(block_sums, scratch);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += THREADS) sum += term[i];
    sum = block_sum(sum, scratch.of_warp);
    if (threadIdx.x == 0) *loss = (float)(sum * factor);
}

enum pk_status finish(const struct pk_call *c, const double *term, int64_t count, double factor,
                      struct pk_err *err)
{
    return PK_LAUNCH(finish_sum, 1, THREADS, sizeof(block_sums), c->queue, err, (float *)c->dst[0],
                     term, count, factor);
}

/* y (+)= factor * x, between types; factor NULL is 1. */
template <typename X, typename Y>
__global__ void __launch_bounds__(THREADS)
    convert(Y *y, const X *x, int64_t count, const float *factor, bool add)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const float v = to_float(x[i]) * (factor ? *factor : 1.0f);
    y[i] = from_float<Y>(add ? to_float(y[i]) + v : v);
}

template <typename X, typename Y>
enum pk_status to_type(const struct pk_call *c, Y *y, const X *x, int64_t count,
                       const float *factor, bool add, struct pk_err *err)
{
    return PK_LAUNCH((convert<X, Y>), blocks_of(count), THREADS, 0, c->queue, err, y, x, count,
                     factor, add);
}

/* --- normalised rows ------------------------------------------------------------------------- */

struct normalizing {
    const void *x, *dy; // [rows, cols]; dy NULL: forward
    void *out;
    int64_t rows, cols;
    float eps;
    bool add;
};

/* A warp per row; the second look at the row comes from the first-level cache. */
template <typename S, bool BACKWARD>
__global__ void __launch_bounds__(THREADS) normalize_rows(const normalizing a)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / PK_WARP;
    if (r >= a.rows) return; // a whole warp
    const int lane = threadIdx.x % PK_WARP;
    const S *const x = (const S *)a.x + r * a.cols;
    const S *const dy = BACKWARD ? (const S *)a.dy + r * a.cols : NULL;
    S *const y = (S *)a.out + r * a.cols;
    float square = 0, along = 0;
    for (int64_t i = lane; i < a.cols; i += PK_WARP) {
        const float v = to_float(x[i]);
        square += v * v;
        if (BACKWARD) along += v * to_float(dy[i]);
    }
    square = warp_sum(square);
    along = warp_sum(along);
    const float norm = sqrtf(square), scale = 1 / (norm < a.eps ? a.eps : norm); // NaN stays
    along = norm > a.eps ? along / square : 0;
    for (int64_t i = lane; i < a.cols; i += PK_WARP) {
        const float v = to_float(x[i]);
        if (!BACKWARD) {
            y[i] = from_float<S>(v * scale);
            continue;
        }
        const float d = (to_float(dy[i]) - v * along) * scale;
        y[i] = from_float<S>(a.add ? to_float(y[i]) + d : d);
    }
}

template <typename S>
enum pk_status normalize(const struct pk_call *c, const normalizing &a, struct pk_err *err)
{
    const unsigned grid = (unsigned)((a.rows + WARPS - 1) / WARPS);
    if (a.dy) return PK_LAUNCH((normalize_rows<S, true>), grid, THREADS, 0, c->queue, err, a);
    return PK_LAUNCH((normalize_rows<S, false>), grid, THREADS, 0, c->queue, err, a);
}

/* --- InfoNCE --------------------------------------------------------------------------------- */

struct contrast {
    int64_t rows, keys, cols;
    bool self, narrow;                      // narrow: bf16, so that float copies are needed
    const int64_t *query_group, *key_group; // [rows], [keys]
    float inverse;                          // 1 / temperature
    /* Parts of the workspace. */
    float *logit;       // [rows, keys], without the temperature
    float *query, *key; // float copies of bf16 rows
    float *out;         // a gradient in float, before it is stored as bf16
    double *term;       // [rows] of the loss
    void *product;      // of the gemm
    size_t bytes;       // of all
};

template <typename T> T *carve(char *base, size_t *at, size_t count)
{
    T *const p = base ? reinterpret_cast<T *>(base + *at) : NULL;
    *at += (count * sizeof(T) + 63) / 64 * 64;
    return p;
}

/* Sizes and the parts of a workspace; base NULL to ask for the bytes alone. */
contrast contrast_sizes(const struct pk_value *q, const struct pk_value *k, bool backward,
                        char *base)
{
    contrast a = {};
    size_t at = 0;
    a.self = !k;
    a.rows = pk_view_rows(q);
    a.keys = k ? pk_view_rows(k) : a.rows;
    a.cols = pk_view_cols(q);
    a.narrow = q->dtype == PK_BF16;
    const size_t rows = (size_t)a.rows, keys = (size_t)a.keys, cols = (size_t)a.cols;
    a.logit = carve<float>(base, &at, rows * keys);
    if (a.narrow) a.query = carve<float>(base, &at, rows * cols);
    if (a.narrow && !a.self) a.key = carve<float>(base, &at, keys * cols);
    if (a.narrow && backward) a.out = carve<float>(base, &at, PK_MAX(rows, keys) * cols);
    if (!backward) a.term = carve<double>(base, &at, rows);
    if (backward && !a.self)
        a.product = carve<char>(base, &at, pk_cuda_gemm_workspace(a.keys, a.cols, a.rows));
    a.bytes = at;
    return a;
}

enum pk_status multiply(const struct pk_call *c, enum pk_product product, const float *x,
                        const float *y, float *out, int64_t m, int64_t n, int64_t k, bool add,
                        void *workspace, struct pk_err *err)
{
    struct pk_cuda_gemm g = {};
    g.product = product;
    g.epilogue = PK_EPILOGUE_PLAIN;
    g.dtype = PK_F32;
    g.tile = -1;
    g.m = m, g.n = n, g.k = k;
    g.a = x, g.b = y, g.y = out;
    g.accumulate = add;
    g.workspace = workspace;
    return pk_cuda_gemm(c->queue, &g, err);
}

/* The call's sizes and pointers, its rows as float, and the logits. */
enum pk_status contrast_begin(const struct pk_call *c, bool backward, contrast *a,
                              struct pk_err *err)
{
    *a = contrast_sizes(c->in[0], c->in[1], backward, (char *)c->workspace);
    a->query_group = (const int64_t *)c->src[2];
    a->key_group = (const int64_t *)c->src[a->self ? 2 : 3];
    a->inverse = 1 / c->node->attr.contrast.temperature;
    if (a->narrow) {
        PK_TRY(to_type(c, a->query, (const bf16 *)c->src[0], a->rows * a->cols, NULL, false, err));
        if (!a->self)
            PK_TRY(
                to_type(c, a->key, (const bf16 *)c->src[1], a->keys * a->cols, NULL, false, err));
    } else {
        a->query = (float *)c->src[0];
        a->key = (float *)c->src[1];
    }
    if (a->self) a->key = a->query;
    return multiply(c, PK_PRODUCT_NT, a->query, a->key, a->logit, a->rows, a->keys, a->cols, false,
                    NULL, err);
}

/* A warp per query: its log sum exp, the number of its positives, its term of the loss. */
__global__ void __launch_bounds__(THREADS) contrast_rows(const contrast a, float *lse)
{
    const int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / PK_WARP;
    if (i >= a.rows) return; // a whole warp
    const int lane = threadIdx.x % PK_WARP;
    const float *const logit = a.logit + i * a.keys;
    const int64_t group = a.query_group[i];
    float top = -INFINITY, count = 0; // counts are exact in float up to 16 M keys
    double sum = 0, near = 0;
    for (int64_t j = lane; j < a.keys; j += PK_WARP)
        if (!a.self || i != j) top = fmaxf(top, logit[j] * a.inverse);
    top = warp_max(top);
    for (int64_t j = lane; j < a.keys; j += PK_WARP) {
        if (a.self && i == j) continue;
        const float s = logit[j] * a.inverse;
        sum += (double)expf(s - top);
        if (a.key_group[j] != group) continue;
        near += (double)s;
        count += 1;
    }
    sum = warp_sum(sum);
    near = warp_sum(near);
    count = warp_sum(count);
    if (lane) return;
    const double l = (double)top + log(sum);
    a.term[i] = count > 0 ? l - near / (double)count : 0;
    if (!lse) return;
    lse[i] = (float)l;
    lse[a.rows + i] = count;
}

/* Softmax minus the share of a positive, for query i and key j. */
__device__ __forceinline__ float slope_of(const float *lse, int64_t rows, int64_t i, float s,
                                          bool near)
{
    const float count = lse[rows + i];
    return count > 0 ? expf(s - lse[i]) - (near ? 1 / count : 0.0f) : 0.0f;
}

/* The logits become d loss / d logit. Rows that are keys as well get both slopes of a pair, so that
 * one product follows. A block per piece of a row. */
__global__ void __launch_bounds__(THREADS)
    contrast_slopes(const contrast a, const float *lse, const float *seed, float weight)
{
    const int64_t pieces = (a.keys + THREADS - 1) / THREADS, i = blockIdx.x / pieces;
    const int64_t j = blockIdx.x % pieces * THREADS + threadIdx.x;
    if (j >= a.keys) return;
    float *const at = a.logit + i * a.keys + j;
    if (a.self && i == j) {
        *at = 0;
        return;
    }
    const float s = *at * a.inverse;
    const bool near = a.query_group[i] == a.key_group[j];
    float slope = slope_of(lse, a.rows, i, s, near);
    if (a.self) slope += slope_of(lse, a.rows, j, s, near);
    *at = slope * (*seed * weight * a.inverse / (float)a.rows);
}

/* Output k (+)= slopes times the other side's rows. */
enum pk_status contrast_product(const struct pk_call *c, const contrast &a, int k,
                                struct pk_err *err)
{
    const bool add = pk_call_accumulates(c, k);
    const int64_t n = k ? a.keys : a.rows;
    float *const out = a.narrow ? a.out : (float *)c->dst[k];
    if (k)
        PK_TRY(multiply(c, PK_PRODUCT_TN, a.logit, a.query, out, a.keys, a.cols, a.rows,
                        add && !a.narrow, a.product, err));
    else
        PK_TRY(multiply(c, PK_PRODUCT_NN, a.logit, a.key, out, a.rows, a.cols, a.keys,
                        add && !a.narrow, NULL, err));
    if (!a.narrow) return PK_OK;
    return to_type(c, (bf16 *)c->dst[k], (const float *)out, n * a.cols, NULL, add, err);
}

/* --- KoLeo ----------------------------------------------------------------------------------- */

struct neighbour {
    float square; // of the distance
    int32_t row;
};

struct koleo {
    const void *x;    // [rows, cols]
    neighbour *part;  // [tiles, rows]: nearest row among each tile's
    double *term;     // [rows]
    int32_t *nearest; // [rows], or NULL
    float *distance;  // the same
    int64_t rows, cols;
    int32_t tiles;
    float eps;
};

struct koleo_tile {
    float a[DEPTH][TILE + 4], b[DEPTH][TILE + 4];
};

/* The 16 columns from k on of 64 rows, turned. */
template <typename S>
__device__ __forceinline__ void stage(float (*to)[TILE + 4], const koleo &a, int64_t row, int64_t k)
{
    const int r = threadIdx.x / 4, first = threadIdx.x % 4 * 4;
    const S *const x = (const S *)a.x + (row + r) * a.cols;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int64_t col = k + first + i;
        to[first + i][r] = row + r < a.rows && col < a.cols ? to_float(x[col]) : 0.0f;
    }
}

__device__ __forceinline__ bool nearer(const neighbour &a, const neighbour &b)
{
    return a.square < b.square || (a.square == b.square && a.row < b.row);
}

/* 64 rows against 64 rows, 4 x 4 distances a thread. */
template <typename S> __global__ void __launch_bounds__(THREADS) nearest_in_tile(const koleo a)
{
    PK_SHARED(koleo_tile, s);
    const int64_t row = (int64_t)blockIdx.x * TILE, col = (int64_t)blockIdx.y * TILE;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    float d[4][4] = {};
    for (int64_t k = 0; k < a.cols; k += DEPTH) {
        stage<S>(s.a, a, row, k);
        stage<S>(s.b, a, col, k);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            const vec<float, 4> p = load<float, 4>(&s.a[i][4 * y]);
            const vec<float, 4> q = load<float, 4>(&s.b[i][4 * x]);
#pragma unroll
            for (int e = 0; e < 16; e++) {
                const float gap = p.at[e / 4] - q.at[e % 4];
                d[e / 4][e % 4] += gap * gap;
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int64_t i = row + 4 * y + r;
        neighbour best = {INFINITY, INT32_MAX};
        for (int e = 0; e < 4; e++) {
            const int64_t j = col + 4 * x + e;
            const neighbour one = {d[r][e], (int32_t)j};
            if (j < a.rows && j != i && nearer(one, best)) best = one;
        }
        for (int lane = 8; lane > 0; lane /= 2) { // over the 16 lanes of the row
            neighbour other;
            other.square = __shfl_xor_sync(0xffffffffu, best.square, lane);
            other.row = __shfl_xor_sync(0xffffffffu, best.row, lane);
            if (nearer(other, best)) best = other;
        }
        if (x == 0 && i < a.rows) a.part[blockIdx.y * a.rows + i] = best;
    }
}

/* A row without any finite distance has NaN for one. */
__global__ void __launch_bounds__(THREADS) finish_nearest(const koleo a)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.rows) return;
    neighbour best = {INFINITY, INT32_MAX};
    for (int32_t t = 0; t < a.tiles; t++) {
        const neighbour one = a.part[t * a.rows + i];
        if (nearer(one, best)) best = one;
    }
    const bool found = best.row < a.rows;
    const float distance = found ? sqrtf(best.square) : nanf("");
    a.term[i] = -log((double)distance + (double)a.eps);
    if (a.nearest) a.nearest[i] = found ? best.row : i == 0;
    if (a.distance) a.distance[i] = distance;
}

struct koleo_grad {
    const void *x;          // [rows, cols]
    const int32_t *nearest; // [rows]
    const float *distance;  // [rows]
    const float *seed;
    void *dx;
    int64_t rows, cols;
    float weight, eps;
    bool add;
};

/* A block per row, a thread per column. All warps go over the rows whose nearest row this is, 32 at
 * a time, in order: rows / 32 votes, 128 at 4,096 rows. */
template <typename S> __global__ void __launch_bounds__(THREADS) koleo_slopes(const koleo_grad a)
{
    const int64_t i = blockIdx.x;
    const int lane = threadIdx.x % PK_WARP;
    const S *const x = (const S *)a.x;
    for (int64_t first = 0; first < a.cols; first += THREADS) {
        const int64_t col = first + threadIdx.x;
        const bool mine = col < a.cols;
        const float here = mine ? to_float(x[i * a.cols + col]) : 0.0f;
        float sum = 0;
        for (int64_t r0 = 0; r0 < a.rows; r0 += PK_WARP) {
            const int64_t r = r0 + lane;
            const bool hit = r < a.rows && (r == i || a.nearest[r] == i);
            for (uint32_t left = __ballot_sync(0xffffffffu, hit); left; left &= left - 1) {
                const int64_t row = r0 + __ffs((int)left) - 1;
                const int64_t other = row == i ? a.nearest[i] : row;
                const float d = a.distance[row];
                if (d == 0 || other < 0 || other >= a.rows || !mine) continue;
                sum += (here - to_float(x[other * a.cols + col])) / (d * (d + a.eps));
            }
        }
        if (!mine) continue;
        S *const dx = (S *)a.dx + i * a.cols + col;
        sum *= -*a.seed * a.weight / (float)a.rows;
        *dx = from_float<S>(a.add ? to_float(*dx) + sum : sum);
    }
}

koleo koleo_sizes(const struct pk_value *x, char *base, size_t *bytes)
{
    koleo a = {};
    *bytes = 0;
    a.rows = pk_view_rows(x);
    a.cols = pk_view_cols(x);
    a.tiles = (int32_t)((a.rows + TILE - 1) / TILE);
    a.part = carve<neighbour>(base, bytes, (size_t)(a.tiles * a.rows));
    a.term = carve<double>(base, bytes, (size_t)a.rows);
    return a;
}

template <typename S> enum pk_status koleo_loss(const struct pk_call *c, struct pk_err *err)
{
    size_t bytes;
    koleo a = koleo_sizes(c->in[0], (char *)c->workspace, &bytes);
    a.x = c->src[0];
    a.nearest = (int32_t *)c->dst[1];
    a.distance = (float *)c->dst[2];
    a.eps = c->node->attr.koleo.eps;
    const dim3 grid((unsigned)a.tiles, (unsigned)a.tiles, 1);
    PK_TRY(PK_LAUNCH(nearest_in_tile<S>, grid, THREADS, sizeof(koleo_tile), c->queue, err, a));
    PK_TRY(PK_LAUNCH(finish_nearest, blocks_of(a.rows), THREADS, 0, c->queue, err, a));
    return finish(c, a.term, a.rows, (double)c->node->attr.koleo.weight / (double)a.rows, err);
}

template <typename S> enum pk_status koleo_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    koleo_grad a = {};
    a.x = c->src[0];
    a.nearest = (const int32_t *)c->src[1];
    a.distance = (const float *)c->src[2];
    a.seed = (const float *)c->src[3];
    a.dx = c->dst[0];
    a.rows = pk_view_rows(c->in[0]);
    a.cols = pk_view_cols(c->in[0]);
    a.weight = c->node->attr.koleo.weight;
    a.eps = c->node->attr.koleo.eps;
    a.add = pk_call_accumulates(c, 0);
    return PK_LAUNCH(koleo_slopes<S>, (unsigned)a.rows, THREADS, 0, c->queue, err, a);
}

/* --- the injected gradient ------------------------------------------------------------------- */

int64_t dot_parts(int64_t count)
{
    return PK_MAX(PK_MIN((count + THREADS - 1) / THREADS, (int64_t)SUM_PARTS), (int64_t)1);
}

template <typename S>
__global__ void __launch_bounds__(THREADS)
    dot_terms(double *partial, const S *x, const float *y, int64_t count)
{
    PK_SHARED(block_sums, scratch);
    double sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count;
         i += (int64_t)gridDim.x * THREADS)
        sum += (double)to_float(x[i]) * (double)y[i];
    sum = block_sum(sum, scratch.of_warp);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <typename S> enum pk_status dot_loss(const struct pk_call *c, struct pk_err *err)
{
    const int64_t count = pk_view_count(c->in[0]), parts = dot_parts(count);
    double *const partial = (double *)c->workspace;
    PK_TRY(PK_LAUNCH(dot_terms<S>, (unsigned)parts, THREADS, sizeof(block_sums), c->queue, err,
                     partial, (const S *)c->src[0], (const float *)c->src[1], count));
    return finish(c, partial, parts, 1, err);
}

} // namespace

extern "C" {

#define PK_CONTRAST_OP(name)                                                                       \
    enum pk_status pk_cuda_##name(const struct pk_call *c, struct pk_err *err);                    \
    size_t pk_cuda_##name##_workspace(const struct pk_prog *p, const struct pk_node *n)
PK_CONTRAST_OP(l2_normalize);
PK_CONTRAST_OP(l2_normalize_grad);
PK_CONTRAST_OP(contrast_loss);
PK_CONTRAST_OP(contrast_loss_grad);
PK_CONTRAST_OP(koleo_loss);
PK_CONTRAST_OP(koleo_loss_grad);
PK_CONTRAST_OP(dot_loss);
PK_CONTRAST_OP(dot_loss_grad);
#undef PK_CONTRAST_OP

enum pk_status pk_cuda_l2_normalize(const struct pk_call *c, struct pk_err *err)
{
    const normalizing a = {c->src[0],
                           NULL,
                           c->dst[0],
                           pk_view_rows(c->in[0]),
                           pk_view_cols(c->in[0]),
                           c->node->attr.normalize.eps,
                           false};
    return c->in[0]->dtype == PK_BF16 ? normalize<bf16>(c, a, err) : normalize<float>(c, a, err);
}

size_t pk_cuda_l2_normalize_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

enum pk_status pk_cuda_l2_normalize_grad(const struct pk_call *c, struct pk_err *err)
{
    const normalizing a = {c->src[1],
                           c->src[0],
                           c->dst[0],
                           pk_view_rows(c->in[1]),
                           pk_view_cols(c->in[1]),
                           c->node->attr.normalize.eps,
                           pk_call_accumulates(c, 0)};
    return c->in[0]->dtype == PK_BF16 ? normalize<bf16>(c, a, err) : normalize<float>(c, a, err);
}

size_t pk_cuda_l2_normalize_grad_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

enum pk_status pk_cuda_contrast_loss(const struct pk_call *c, struct pk_err *err)
{
    contrast a;
    PK_TRY(contrast_begin(c, false, &a, err));
    PK_TRY(PK_LAUNCH(contrast_rows, (unsigned)((a.rows + WARPS - 1) / WARPS), THREADS, 0, c->queue,
                     err, a, (float *)c->dst[1]));
    return finish(c, a.term, a.rows, (double)c->node->attr.contrast.weight / (double)a.rows, err);
}

size_t pk_cuda_contrast_loss_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    return contrast_sizes(&p->value[n->in[0]], n->in[1] >= 0 ? &p->value[n->in[1]] : NULL, false,
                          NULL)
        .bytes;
}

enum pk_status pk_cuda_contrast_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    contrast a;
    PK_TRY(contrast_begin(c, true, &a, err));
    const int64_t blocks = a.rows * ((a.keys + THREADS - 1) / THREADS);
    PK_TRY(PK_LAUNCH(contrast_slopes, (unsigned)blocks, THREADS, 0, c->queue, err, a,
                     (const float *)c->src[4], (const float *)c->src[5],
                     c->node->attr.contrast.weight));
    for (int k = 0; k < 2; k++)
        if (c->dst[k]) PK_TRY(contrast_product(c, a, k, err));
    return PK_OK;
}

size_t pk_cuda_contrast_loss_grad_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    return contrast_sizes(&p->value[n->in[0]], n->in[1] >= 0 ? &p->value[n->in[1]] : NULL, true,
                          NULL)
        .bytes;
}

enum pk_status pk_cuda_koleo_loss(const struct pk_call *c, struct pk_err *err)
{
    return c->in[0]->dtype == PK_BF16 ? koleo_loss<bf16>(c, err) : koleo_loss<float>(c, err);
}

size_t pk_cuda_koleo_loss_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    size_t bytes;
    koleo_sizes(&p->value[n->in[0]], NULL, &bytes);
    return bytes;
}

enum pk_status pk_cuda_koleo_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    return c->in[0]->dtype == PK_BF16 ? koleo_loss_grad<bf16>(c, err)
                                      : koleo_loss_grad<float>(c, err);
}

size_t pk_cuda_koleo_loss_grad_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

enum pk_status pk_cuda_dot_loss(const struct pk_call *c, struct pk_err *err)
{
    return c->in[0]->dtype == PK_BF16 ? dot_loss<bf16>(c, err) : dot_loss<float>(c, err);
}

size_t pk_cuda_dot_loss_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    return (size_t)dot_parts(pk_view_count(&p->value[n->in[0]])) * sizeof(double);
}

enum pk_status pk_cuda_dot_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    const int64_t count = pk_view_count(c->out[0]);
    const float *const g = (const float *)c->src[0], *const seed = (const float *)c->src[1];
    const bool add = pk_call_accumulates(c, 0);
    if (c->out[0]->dtype == PK_BF16) return to_type(c, (bf16 *)c->dst[0], g, count, seed, add, err);
    return to_type(c, (float *)c->dst[0], g, count, seed, add, err);
}

size_t pk_cuda_dot_loss_grad_workspace(const struct pk_prog *, const struct pk_node *)
{
    return 0;
}

} // extern "C"
