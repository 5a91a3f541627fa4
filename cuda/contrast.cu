/* contrast.cu -- losses over the rows of a whole batch, normalised rows, and the injected gradient.
 *
 * The logits of N queries and M keys are written out: 64 MB at the 4,096 rows that are meant as the
 * most, 15 us each way at 4.3 TB/s. What costs is the products, 2 N M D operations each, 8.6 G at
 * 4,096 rows of 256 columns: one for the loss, two (of rows with themselves) or three for the
 * gradients. They are done in float on the CUDA cores (cuda/gemm_f32.cu) whatever the storage: a
 * temperature of .04 magnifies the rounding of a logit by 25, and some 400 us a product at the
 * largest size are little beside an encoder's step over 4,096 records.
 *
 * Determinism: every sum has a fixed order that depends on the shapes alone; no atomics. */
#include "cuda/gemm.h"
#include "cuda/row_losses.h"

namespace
{

enum { WARPS = THREADS / PK_WARP, SUM_PARTS = 1024 };

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
    int32_t ranks;                          // that share them out
    bool self, narrow;                      // narrow: bf16, so that float copies are needed
    const int64_t *query_group, *key_group; // [rows], [keys]
    float inverse;                          // 1 / temperature
    /* Parts of the workspace. */
    float *logit;       // [own rows, others], without the temperature
    float *query, *key; // float copies of bf16 rows
    float *out;         // a gradient in float, before it is stored as bf16
    pk_told_row *told;  // [rows] of the loss
    size_t bytes;       // of all
};

/* One side of the comparison: this rank's rows with all of the other side. */
struct contrast_side {
    int64_t first, count, others; // own rows, and all that they are compared with
    const float *mine, *other;    // [count, cols], [others, cols]
    bool keys;                    // the rows are keys
};

/* Sizes and the parts of a workspace; base NULL to ask for the bytes alone. */
contrast contrast_sizes(const struct pk_node *n, const struct pk_value *q, const struct pk_value *k,
                        bool backward, char *base)
{
    contrast a = {};
    size_t at = 0;
    a.self = !k;
    a.ranks = n->attr.contrast.ranks;
    a.rows = pk_view_rows(q);
    a.keys = k ? pk_view_rows(k) : a.rows;
    a.cols = pk_view_cols(q);
    a.narrow = q->dtype == PK_BF16;
    const size_t rows = (size_t)a.rows, keys = (size_t)a.keys, cols = (size_t)a.cols;
    a.logit = carve<float>(base, &at, rows * keys / (size_t)a.ranks);
    if (a.narrow) a.query = carve<float>(base, &at, rows * cols);
    if (a.narrow && !a.self) a.key = carve<float>(base, &at, keys * cols);
    if (a.narrow && backward) a.out = carve<float>(base, &at, PK_MAX(rows, keys) * cols);
    if (!backward) a.told = carve<pk_told_row>(base, &at, rows);
    a.bytes = at;
    return a;
}

size_t contrast_workspace(const struct pk_prog *p, const struct pk_node *n, bool backward)
{
    return contrast_sizes(n, &p->value[n->in[0]], n->in[1] >= 0 ? &p->value[n->in[1]] : NULL,
                          backward, NULL)
        .bytes;
}

enum pk_status multiply(const struct pk_call *c, enum pk_product product, const float *x,
                        const float *y, float *out, int64_t m, int64_t n, int64_t k, bool add,
                        struct pk_err *err)
{
    struct pk_cuda_gemm g = {};
    g.product = product;
    g.epilogue = PK_EPILOGUE_PLAIN;
    g.dtype = PK_F32;
    g.tile = -1;
    g.m = m, g.n = n, g.k = k;
    g.a = x, g.b = y, g.y = out;
    g.accumulate = add;
    return pk_cuda_gemm(c->queue, &g, err);
}

/* The call's sizes and pointers, and its rows as float. */
enum pk_status contrast_begin(const struct pk_call *c, bool backward, contrast *a,
                              struct pk_err *err)
{
    *a = contrast_sizes(c->node, c->in[0], c->in[1], backward, (char *)c->workspace);
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
    return PK_OK;
}

/* The side of the queries or of the keys, and its logits. */
enum pk_status contrast_logits(const struct pk_call *c, const contrast &a, bool keys,
                               contrast_side *side, struct pk_err *err)
{
    const int64_t rows = keys ? a.keys : a.rows;
    side->keys = keys;
    side->first = pk_call_first_row(c, a.ranks, rows);
    side->count = rows / a.ranks;
    side->others = keys ? a.rows : a.keys;
    side->mine = (keys ? a.key : a.query) + side->first * a.cols;
    side->other = keys ? a.query : a.key;
    return multiply(c, PK_PRODUCT_NT, side->mine, side->other, a.logit, side->count, side->others,
                    a.cols, false, err);
}

/* A warp per query: its log sum exp, the number of its positives, its term of the loss. */
__global__ void __launch_bounds__(THREADS)
    contrast_rows(const contrast a, const contrast_side side, pk_told_row *told)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / PK_WARP, i = side.first + r;
    if (r >= side.count) return; // a whole warp
    const int lane = threadIdx.x % PK_WARP;
    const float *const logit = a.logit + r * a.keys;
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
    told[i].of[0] = (float)l;
    told[i].of[1] = count;
    told[i].term = count > 0 ? l - near / (double)count : 0;
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
    contrast_slopes(const contrast a, const contrast_side side, const float *lse, const float *seed,
                    float weight)
{
    const int64_t pieces = (side.others + THREADS - 1) / THREADS, r = blockIdx.x / pieces;
    const int64_t o = blockIdx.x % pieces * THREADS + threadIdx.x;
    if (o >= side.others) return;
    const int64_t i = side.keys ? o : side.first + r, j = side.keys ? side.first + r : o;
    float *const at = a.logit + r * side.others + o;
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

/* Output k: this rank's rows (+)= slopes times the other side's rows. */
enum pk_status contrast_gradient(const struct pk_call *c, const contrast &a, int k,
                                 struct pk_err *err)
{
    const bool add = pk_call_accumulates(c, k);
    contrast_side side = {};
    PK_TRY(contrast_logits(c, a, k == 1, &side, err));
    PK_TRY(clear_others(c, k, side.first, side.count, err));
    const int64_t blocks = side.count * ((side.others + THREADS - 1) / THREADS);
    PK_TRY(PK_LAUNCH(contrast_slopes, (unsigned)blocks, THREADS, 0, c->queue, err, a, side,
                     (const float *)c->src[4], (const float *)c->src[5],
                     c->node->attr.contrast.weight));
    const int64_t from = side.first * a.cols;
    float *const out = a.narrow ? a.out : (float *)c->dst[k] + from;
    PK_TRY(multiply(c, PK_PRODUCT_NN, a.logit, side.other, out, side.count, a.cols, side.others,
                    add && !a.narrow, err));
    if (!a.narrow) return PK_OK;
    return to_type(c, (bf16 *)c->dst[k] + from, (const float *)out, side.count * a.cols, NULL, add,
                   err);
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
    contrast_side side = {};
    PK_TRY(contrast_begin(c, false, &a, err));
    PK_TRY(contrast_logits(c, a, false, &side, err));
    pk_told_row *const told = told_rows(c, a.ranks, a.told);
    PK_TRY(PK_LAUNCH(contrast_rows, (unsigned)((side.count + WARPS - 1) / WARPS), THREADS, 0,
                     c->queue, err, a, side, told));
    float *const stats = (float *)c->dst[1];
    return take(c, told, a.ranks, a.rows, c->node->attr.contrast.weight, stats, NULL,
                stats ? stats + a.rows : NULL, err);
}

size_t pk_cuda_contrast_loss_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    return contrast_workspace(p, n, false);
}

enum pk_status pk_cuda_contrast_loss_grad(const struct pk_call *c, struct pk_err *err)
{
    contrast a;
    PK_TRY(contrast_begin(c, true, &a, err));
    for (int k = 0; k < 2; k++)
        if (c->dst[k]) PK_TRY(contrast_gradient(c, a, k, err));
    return PK_OK;
}

size_t pk_cuda_contrast_loss_grad_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    return contrast_workspace(p, n, true);
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
