/* contrast.c -- losses over the rows of a whole batch (shapes and formulas: core/ops.h).
 *
 * Inner products are summed in double: a temperature of .04 magnifies the rounding of a logit by
 * 25 before it meets an exponential. The cost is rows x keys x columns multiply-adds, with 1,024
 * rows of 128 columns 134 million, and again as many for each gradient. */
#include "core/cpu/kernels.h"
#include "core/view.h"

#include <math.h>
#include <string.h>

enum { LANES = 16, TILE = 256 };

static double dot(const float *restrict x, const float *restrict y, int64_t n)
{
    double sum[LANES] = {0}, total = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) sum[k] += (double)x[i + k] * (double)y[i + k];
    for (; i < n; i++) sum[i % LANES] += (double)x[i] * (double)y[i];
    for (int k = 0; k < LANES; k++) total += sum[k];
    return total;
}

static double distance_squared(const float *restrict x, const float *restrict y, int64_t n)
{
    double sum[LANES] = {0}, total = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            const double d = (double)x[i + k] - (double)y[i + k];
            sum[k] += d * d;
        }
    for (; i < n; i++) {
        const double d = (double)x[i] - (double)y[i];
        sum[i % LANES] += d * d;
    }
    for (int k = 0; k < LANES; k++) total += sum[k];
    return total;
}

/* to = sum (+ to), n of them. */
static void put(float *to, const double *sum, int64_t n, bool add)
{
    for (int64_t i = 0; i < n; i++) to[i] = (add ? to[i] : 0) + (float)sum[i];
}

enum pk_status PK_ISA_NAME(pk_cpu_l2_normalize)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *x = c->src[0];
    float *y = c->dst[0];
    const int64_t rows = pk_view_rows(c->in[0]), cols = pk_view_cols(c->in[0]);
    const double eps = (double)c->node->attr.normalize.eps;
    for (int64_t r = 0; r < rows; r++, x += cols, y += cols) {
        const double norm = sqrt(dot(x, x, cols)), scale = 1 / (norm > eps ? norm : eps);
        for (int64_t i = 0; i < cols; i++) y[i] = (float)((double)x[i] * scale);
        if (isnan(norm)) // the comparison above preferred eps
            for (int64_t i = 0; i < cols; i++) y[i] = (float)norm;
    }
    return PK_OK;
}

/* dx = (dy - xhat (xhat . dy)) / |x|; dy / eps where the norm is below eps. */
enum pk_status PK_ISA_NAME(pk_cpu_l2_normalize_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *dy = c->src[0], *x = c->src[1];
    float *dx = c->dst[0];
    const int64_t rows = pk_view_rows(c->in[1]), cols = pk_view_cols(c->in[1]);
    const bool add = pk_call_accumulates(c, 0);
    const double eps = (double)c->node->attr.normalize.eps;
    for (int64_t r = 0; r < rows; r++, x += cols, dy += cols, dx += cols) {
        const double square = dot(x, x, cols), norm = sqrt(square);
        const double scale = 1 / (norm > eps ? norm : eps);
        const double along = norm > eps ? dot(x, dy, cols) / square : 0;
        for (int64_t i = 0; i < cols; i++) {
            const float d = (float)(((double)dy[i] - (double)x[i] * along) * scale);
            dx[i] = add ? dx[i] + d : d;
        }
    }
    return PK_OK;
}

/* Takes what is known of row i; ctx is of the loss. */
typedef void (*take_row)(void *ctx, int64_t i, const struct pk_told_row *t);
typedef struct pk_told_row (*look_at_row)(const void *ctx, int64_t i);

/* Looks at this rank's rows and takes those of all, in their order. */
static enum pk_status take_rows(const struct pk_call *c, int32_t ranks, int64_t rows,
                                look_at_row look, take_row take, void *ctx, struct pk_err *err)
{
    const int64_t first = pk_call_first_row(c, ranks, rows), count = rows / ranks;
    struct pk_told_row *told = ranks > 1 ? (void *)c->joined->all : NULL;
    for (int64_t i = first; i < first + count; i++) {
        const struct pk_told_row t = look(ctx, i);
        if (told)
            told[i] = t;
        else
            take(ctx, i, &t);
    }
    if (!told) return PK_OK;
    PK_TRY(c->joined->gather(c->joined, count * PK_TOLD_FLOATS, err));
    for (int64_t i = 0; i < rows; i++) take(ctx, i, &told[i]);
    return PK_OK;
}

/* Rows that are another rank's have no gradient here. */
static void clear_others(float *dx, int64_t first, int64_t count, int64_t rows, int64_t cols)
{
    memset(dx, 0, (size_t)(first * cols) * sizeof *dx);
    memset(dx + (first + count) * cols, 0, (size_t)((rows - first - count) * cols) * sizeof *dx);
}

struct contrast {
    const float *query, *key;               // [rows, cols], [keys, cols]
    const int64_t *query_group, *key_group; // [rows], [keys]
    const float *lse, *positives;           // [rows], for the gradient
    float *stats;                           // [2, rows], of the loss; may be NULL
    int64_t rows, keys, cols;
    bool self;      // the keys are the queries
    double inverse; // 1 / temperature
    double total;   // of the terms
};

static struct contrast contrast_of(const struct pk_call *c)
{
    const bool self = !c->in[1];
    struct contrast a = {.query = c->src[0],
                         .key = c->src[self ? 0 : 1],
                         .query_group = c->src[2],
                         .key_group = c->src[self ? 2 : 3],
                         .rows = pk_view_rows(c->in[0]),
                         .keys = pk_view_rows(c->in[self ? 0 : 1]),
                         .cols = pk_view_cols(c->in[0]),
                         .self = self,
                         .inverse = 1 / (double)c->node->attr.contrast.temperature};
    return a;
}

static double logit(const struct contrast *a, int64_t i, int64_t j)
{
    return dot(a->query + i * a->cols, a->key + j * a->cols, a->cols) * a->inverse;
}

static struct pk_told_row look_at_query(const void *ctx, int64_t i)
{
    const struct contrast *a = ctx;
    double top = -INFINITY, sum = 0, near = 0;
    int64_t count = 0;
    for (int64_t j = 0; j < a->keys; j++) {
        if (a->self && i == j) continue;
        const double s = logit(a, i, j);
        if (s > top) { // the sum so far is in units of the old maximum
            sum *= exp(top - s);
            top = s;
        }
        sum += exp(s - top);
        if (a->query_group[i] != a->key_group[j]) continue;
        near += s;
        count++;
    }
    const double l = top + log(sum);
    return (struct pk_told_row){{(float)l, (float)count}, count ? l - near / (double)count : 0};
}

static void take_query(void *ctx, int64_t i, const struct pk_told_row *t)
{
    struct contrast *a = ctx;
    a->total += t->term;
    if (a->stats) a->stats[i] = t->of[0], a->stats[a->rows + i] = t->of[1];
}

enum pk_status PK_ISA_NAME(pk_cpu_contrast_loss)(const struct pk_call *c, struct pk_err *err)
{
    const int32_t ranks = c->node->attr.contrast.ranks;
    struct contrast a = contrast_of(c);
    a.stats = c->dst[1];
    PK_TRY(take_rows(c, ranks, a.rows, look_at_query, take_query, &a, err));
    *(float *)c->dst[0] = (float)(a.total * (double)c->node->attr.contrast.weight / (double)a.rows);
    return PK_OK;
}

/* d loss / d s_ij without the common factor: softmax minus the share of a positive. */
static double contrast_slope(const struct contrast *a, int64_t i, int64_t j, double s)
{
    if (!(a->positives[i] > 0)) return 0;
    const bool near = a->query_group[i] == a->key_group[j];
    return exp(s - (double)a->lse[i]) - (near ? 1 / (double)a->positives[i] : 0);
}

/* This rank's rows of out [n, cols] (+)= scale * sum over the other side's rows of slope * row.
 * k = 1: the gradient is that of the keys. Rows that are keys as well get both slopes of a pair at
 * once. */
static void contrast_gradient(const struct pk_call *c, const struct contrast *a, int k,
                              double scale)
{
    const bool keys = k == 1, add = pk_call_accumulates(c, k);
    const int32_t ranks = c->node->attr.contrast.ranks;
    const int64_t n = keys ? a->keys : a->rows, others = keys ? a->rows : a->keys;
    const int64_t first = pk_call_first_row(c, ranks, n), count = n / ranks;
    const float *other = keys ? a->query : a->key;
    float *out = c->dst[k];
    if (!add) clear_others(out, first, count, n, a->cols);
    for (int64_t at = 0; at < a->cols; at += TILE) {
        const int64_t width = PK_MIN((int64_t)TILE, a->cols - at);
        for (int64_t r = first; r < first + count; r++) {
            double sum[TILE] = {0};
            for (int64_t o = 0; o < others; o++) {
                const int64_t i = keys ? o : r, j = keys ? r : o;
                if (a->self && i == j) continue;
                const double s = logit(a, i, j);
                double slope = contrast_slope(a, i, j, s);
                if (a->self) slope += contrast_slope(a, j, i, s);
                slope *= scale;
                const float *restrict x = other + o * a->cols + at;
                for (int64_t k = 0; k < width; k++) sum[k] += slope * (double)x[k];
            }
            put(out + r * a->cols + at, sum, width, add);
        }
    }
}

/* in: queries, keys, their groups, statistics [2, N], seed; out: d queries, d keys. */
enum pk_status PK_ISA_NAME(pk_cpu_contrast_loss_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    struct contrast a = contrast_of(c);
    a.lse = c->src[4];
    a.positives = a.lse + a.rows;
    const double seed = (double)*(const float *)c->src[5];
    const double scale = seed * (double)c->node->attr.contrast.weight * a.inverse / (double)a.rows;
    for (int k = 0; k < 2; k++)
        if (c->dst[k]) contrast_gradient(c, &a, k, scale);
    return PK_OK;
}

struct koleo {
    const float *x; // [rows, cols]
    int64_t rows, cols;
    int32_t *nearest; // [rows], may be NULL, as distance may
    float *distance;
    double eps, total;
};

static struct pk_told_row look_for_nearest(const void *ctx, int64_t i)
{
    const struct koleo *a = ctx;
    const float *x = a->x + i * a->cols;
    double least = INFINITY;
    int64_t at = i ? 0 : 1;
    for (int64_t j = 0; j < a->rows; j++) {
        const double d = i == j ? INFINITY : distance_squared(x, a->x + j * a->cols, a->cols);
        if (d < least || isnan(d)) least = d, at = j;
    }
    return (struct pk_told_row){{(float)at, (float)sqrt(least)}, -log(sqrt(least) + a->eps)};
}

static void take_nearest(void *ctx, int64_t i, const struct pk_told_row *t)
{
    struct koleo *a = ctx;
    a->total += t->term;
    if (a->nearest) a->nearest[i] = (int32_t)t->of[0];
    if (a->distance) a->distance[i] = t->of[1];
}

enum pk_status PK_ISA_NAME(pk_cpu_koleo_loss)(const struct pk_call *c, struct pk_err *err)
{
    struct koleo a = {.x = c->src[0],
                      .rows = pk_view_rows(c->in[0]),
                      .cols = pk_view_cols(c->in[0]),
                      .nearest = c->dst[1],
                      .distance = c->dst[2],
                      .eps = (double)c->node->attr.koleo.eps};
    PK_TRY(
        take_rows(c, c->node->attr.koleo.ranks, a.rows, look_for_nearest, take_nearest, &a, err));
    *(float *)c->dst[0] = (float)(a.total * (double)c->node->attr.koleo.weight / (double)a.rows);
    return PK_OK;
}

/* sum += (x - y) * d log(eps + distance) / d distance / distance; nothing between equal rows. */
static void koleo_pull(double *sum, const float *x, const float *y, int64_t n, double distance,
                       double scale)
{
    if (distance == 0) return;
    for (int64_t k = 0; k < n; k++) sum[k] += ((double)x[k] - (double)y[k]) * scale / distance;
}

/* A row moves away from its nearest row, and from those whose nearest row it is. */
enum pk_status PK_ISA_NAME(pk_cpu_koleo_loss_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *x = c->src[0], *distance = c->src[2];
    const int32_t *nearest = c->src[1];
    float *dx = c->dst[0];
    const int64_t rows = pk_view_rows(c->in[0]), cols = pk_view_cols(c->in[0]);
    const double eps = (double)c->node->attr.koleo.eps, seed = (double)*(const float *)c->src[3],
                 factor = -seed * (double)c->node->attr.koleo.weight / (double)rows;
    const int32_t ranks = c->node->attr.koleo.ranks;
    const int64_t first = pk_call_first_row(c, ranks, rows), count = rows / ranks;
    if (!pk_call_accumulates(c, 0)) clear_others(dx, first, count, rows, cols);
    for (int64_t at = 0; at < cols; at += TILE) {
        const int64_t width = PK_MIN((int64_t)TILE, cols - at);
        for (int64_t i = first; i < first + count; i++) {
            double sum[TILE] = {0};
            for (int64_t r = 0; r < rows; r++) {
                if (r != i && nearest[r] != i) continue;
                const double d = (double)distance[r];
                const int64_t other = r == i ? nearest[i] : r;
                koleo_pull(sum, x + i * cols + at, x + other * cols + at, width, d,
                           factor / (d + eps));
            }
            put(dx + i * cols + at, sum, width, pk_call_accumulates(c, 0));
        }
    }
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_dot_loss)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    *(float *)c->dst[0] = (float)dot(c->src[0], c->src[1], pk_view_count(c->in[0]));
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_dot_loss_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *restrict g = c->src[0], seed = *(const float *)c->src[1];
    float *restrict dx = c->dst[0];
    const int64_t count = pk_view_count(c->out[0]);
    if (pk_call_accumulates(c, 0))
        for (int64_t i = 0; i < count; i++) dx[i] += seed * g[i];
    else
        for (int64_t i = 0; i < count; i++) dx[i] = seed * g[i];
    return PK_OK;
}
