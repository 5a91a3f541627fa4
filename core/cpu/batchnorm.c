/* batchnorm.c -- batch norm over the rows of a matrix, columns being channels.
 *
 *     y = xhat * gain + bias,  xhat = (x - mean) * rstd,  rstd = 1 / sqrt(var + eps),  var with 1/n
 *
 * One vector of channels goes down all rows at a time: a cache line per row with AVX-512. The
 * variance takes a second pass: the one-pass form cancels. */
#include "core/cpu/kernels.h"
#include "core/cpu/simd.h"
#include "core/base.h"
#include "core/view.h"

/* Sums run over 32 rows, then over those sums: over a thousand rows a running sum would lose two
 * digits that the deviations need. */
enum { RUN = 32 };

static pk_v column_sum(const float *x, int64_t rows, int64_t cols, int64_t n)
{
    pk_v total = pk_v_zero();
    for (int64_t r = 0; r < rows; r += RUN) {
        pk_v sum = pk_v_zero();
        for (int64_t k = r; k < PK_MIN(r + RUN, rows); k++)
            sum = pk_v_add(sum, pk_v_load_n(x + k * cols, n));
        total = pk_v_add(total, sum);
    }
    return total;
}

/* Variance (1/rows), and *mean, so far a rounded sum's, corrected by the mean of the deviations:
 * its error would be the same in every row, where those of the rows average out. */
static pk_v column_variance(const float *x, pk_v *mean, int64_t rows, int64_t cols, int64_t n)
{
    const pk_v count = pk_v_set((float)rows);
    pk_v squares = pk_v_zero(), rest = pk_v_zero();
    for (int64_t r = 0; r < rows; r += RUN) {
        pk_v square = pk_v_zero(), sum = pk_v_zero();
        for (int64_t k = r; k < PK_MIN(r + RUN, rows); k++) {
            const pk_v d = pk_v_sub(pk_v_load_n(x + k * cols, n), *mean);
            square = pk_v_fma(d, d, square);
            sum = pk_v_add(sum, d);
        }
        squares = pk_v_add(squares, square);
        rest = pk_v_add(rest, sum);
    }
    rest = pk_v_div(rest, count);
    *mean = pk_v_add(*mean, rest);
    return pk_v_fnma(rest, rest, pk_v_div(squares, count));
}

static void own_statistics(const float *x, int64_t rows, int64_t cols, int64_t n, pk_v *mean,
                           pk_v *var)
{
    *mean = pk_v_div(column_sum(x, rows, cols, n), pk_v_set((float)rows));
    *var = column_variance(x, mean, rows, cols, n);
}

static float *row_of(const struct pk_joined *j, int rank, int64_t cols)
{
    return j->all + rank * 2 * cols;
}

/* Of the rows of all ranks, which have as many each: means and variances, [cols] each, in the row
 * after the ranks'. The parts are put together as Chan, Golub and LeVeque (1979) do, in the order
 * of the ranks. */
static enum pk_status joined_statistics(const struct pk_joined *j, const float *x, int64_t rows,
                                        int64_t cols, struct pk_err *err)
{
    float *mine = row_of(j, j->rank, cols), *to = row_of(j, j->size, cols);
    for (int64_t i = 0; i < cols; i += PK_V) {
        const int64_t n = PK_MIN(cols - i, PK_V);
        pk_v mean, var;
        own_statistics(x + i, rows, cols, n, &mean, &var);
        pk_v_store_n(mine + i, n, mean);
        pk_v_store_n(mine + cols + i, n, var);
    }
    PK_TRY(j->gather(j, 2 * cols, err));
    for (int64_t i = 0; i < cols; i++) {
        double mean = 0, var = 0;
        for (int k = 0; k < j->size; k++) mean += (double)row_of(j, k, cols)[i];
        mean /= j->size;
        for (int k = 0; k < j->size; k++) {
            const float *part = row_of(j, k, cols) + i;
            const double off = (double)part[0] - mean;
            var += (double)part[cols] + off * off;
        }
        to[i] = (float)mean;
        to[cols + i] = (float)(var / j->size);
    }
    return PK_OK;
}

static void put(float *to, int64_t i, int64_t n, pk_v v)
{
    if (to) pk_v_store_n(to + i, n, v);
}

/* in: x, gain, bias, running mean, running variance; out: y, mean, rstd, variance (each of the last
 * three may be absent) -- those that were used. Errors  PK_ERANK statistics of all ranks */
enum pk_status PK_ISA_NAME(pk_cpu_batchnorm)(const struct pk_call *c, struct pk_err *err)
{
    const int64_t rows = pk_view_rows(c->in[0]), cols = pk_view_cols(c->in[0]);
    const float *x = c->src[0], *gain = c->src[1], *bias = c->src[2];
    const float *given_mean = c->src[3], *given_var = c->src[4]; // the running ones
    const pk_v eps = pk_v_set(c->node->attr.batchnorm.eps), one = pk_v_set(1);
    const bool train = c->node->attr.batchnorm.train, joined = train && c->joined;
    float *y = c->dst[0];
    if (joined) {
        PK_TRY(joined_statistics(c->joined, x, rows, cols, err));
        given_mean = row_of(c->joined, c->joined->size, cols), given_var = given_mean + cols;
    }
    for (int64_t i = 0; i < cols; i += PK_V) {
        const int64_t n = PK_MIN(cols - i, PK_V);
        pk_v mean = pk_v_load_n(given_mean + i, n), var = pk_v_load_n(given_var + i, n);
        if (train && !joined) own_statistics(x + i, rows, cols, n, &mean, &var);
        const pk_v rstd = pk_v_div(one, pk_v_sqrt(pk_v_add(var, eps)));
        const pk_v g = pk_v_load_n(gain + i, n), b = pk_v_load_n(bias + i, n);
        for (int64_t r = 0; r < rows; r++) {
            const pk_v xhat = pk_v_mul(pk_v_sub(pk_v_load_n(x + r * cols + i, n), mean), rstd);
            pk_v_store_n(y + r * cols + i, n, pk_v_add(pk_v_mul(xhat, g), b));
        }
        put(c->dst[1], i, n, mean);
        put(c->dst[2], i, n, rstd);
        put(c->dst[3], i, n, var);
    }
    return PK_OK;
}

struct backward {
    const float *dy, *x;
    int64_t rows, cols;
    pk_v gain, mean, rstd;
};

static pk_v xhat_at(const struct backward *a, int64_t at, int64_t n)
{
    return pk_v_mul(pk_v_sub(pk_v_load_n(a->x + at, n), a->mean), a->rstd);
}

/* dx (+)= gain rstd (dy - dy_mean - xhat dyx_mean) of columns i to i + n. */
static void input_gradient(const struct backward *a, float *dx, int64_t i, int64_t n, pk_v dy_mean,
                           pk_v dyx_mean, bool add)
{
    const pk_v scale = pk_v_mul(a->gain, a->rstd);
    for (int64_t r = 0; r < a->rows; r++) {
        const int64_t at = r * a->cols + i;
        pk_v d = pk_v_sub(pk_v_load_n(a->dy + at, n), dy_mean);
        d = pk_v_mul(scale, pk_v_fnma(xhat_at(a, at, n), dyx_mean, d));
        pk_v_store_n(dx + at, n, add ? pk_v_add(pk_v_load_n(dx + at, n), d) : d);
    }
}

static void load_channels(struct backward *a, const struct pk_call *c, int64_t i, int64_t n)
{
    a->gain = pk_v_load_n((const float *)c->src[2] + i, n);
    a->mean = pk_v_load_n((const float *)c->src[3] + i, n);
    a->rstd = pk_v_load_n((const float *)c->src[4] + i, n);
}

/* Of dy and of dy xhat over the rows here, of the channels that are loaded. */
static void column_sums(const struct backward *a, int64_t i, int64_t n, pk_v *dy_sum, pk_v *dyx_sum)
{
    *dy_sum = *dyx_sum = pk_v_zero();
    for (int64_t r = 0; r < a->rows; r += RUN) {
        pk_v sum = pk_v_zero(), weighted = pk_v_zero();
        for (int64_t k = r; k < PK_MIN(r + RUN, a->rows); k++) {
            const pk_v dy = pk_v_load_n(a->dy + k * a->cols + i, n);
            sum = pk_v_add(sum, dy);
            weighted = pk_v_fma(dy, xhat_at(a, k * a->cols + i, n), weighted);
        }
        *dy_sum = pk_v_add(*dy_sum, sum);
        *dyx_sum = pk_v_add(*dyx_sum, weighted);
    }
}

/* Leaves these sums in this rank's row, and their means over the rows of all ranks in the row after
 * the ranks'. */
static enum pk_status joined_sums(struct backward *a, const struct pk_call *c, struct pk_err *err)
{
    const struct pk_joined *j = c->joined;
    const int64_t cols = a->cols;
    float *mine = row_of(j, j->rank, cols), *to = row_of(j, j->size, cols);
    for (int64_t i = 0; i < cols; i += PK_V) {
        const int64_t n = PK_MIN(cols - i, PK_V);
        pk_v dy_sum, dyx_sum;
        load_channels(a, c, i, n);
        column_sums(a, i, n, &dy_sum, &dyx_sum);
        pk_v_store_n(mine + i, n, dy_sum);
        pk_v_store_n(mine + cols + i, n, dyx_sum);
    }
    PK_TRY(j->gather(j, 2 * cols, err));
    for (int64_t i = 0; i < 2 * cols; i++) {
        double sum = 0;
        for (int k = 0; k < j->size; k++) sum += (double)row_of(j, k, cols)[i];
        to[i] = (float)(sum / ((double)a->rows * j->size));
    }
    return PK_OK;
}

/* in: dy, x, gain, mean, rstd; out: dx, dgain, dbias, each may be absent, all accumulating. Where
 * the running statistics were used they are constants; those of all ranks carry the gradients of
 * all ranks' rows, but gain's and bias' are of this one's. Errors  PK_ERANK */
enum pk_status PK_ISA_NAME(pk_cpu_batchnorm_grad)(const struct pk_call *c, struct pk_err *err)
{
    struct backward a = {.dy = c->src[0],
                         .x = c->src[1],
                         .rows = pk_view_rows(c->in[0]),
                         .cols = pk_view_cols(c->in[0])};
    const pk_v count = pk_v_set((float)a.rows);
    const bool train = c->node->attr.batchnorm.train, joined = train && c->joined && c->out[0];
    float *dgain = c->dst[1], *dbias = c->dst[2];
    if (joined) PK_TRY(joined_sums(&a, c, err));
    for (int64_t i = 0; i < a.cols; i += PK_V) {
        const int64_t n = PK_MIN(a.cols - i, PK_V);
        pk_v dy_sum, dyx_sum;
        load_channels(&a, c, i, n);
        if (joined) {
            const float *mine = row_of(c->joined, c->joined->rank, a.cols) + i;
            dy_sum = pk_v_load_n(mine, n), dyx_sum = pk_v_load_n(mine + a.cols, n);
        } else {
            column_sums(&a, i, n, &dy_sum, &dyx_sum);
        }
        pk_v dy_mean = pk_v_div(dy_sum, count), dyx_mean = pk_v_div(dyx_sum, count);
        if (!train) dy_mean = dyx_mean = pk_v_zero();
        if (joined) {
            const float *means = row_of(c->joined, c->joined->size, a.cols) + i;
            dy_mean = pk_v_load_n(means, n), dyx_mean = pk_v_load_n(means + a.cols, n);
        }
        if (c->out[0])
            input_gradient(&a, c->dst[0], i, n, dy_mean, dyx_mean, pk_call_accumulates(c, 0));
        if (dgain && pk_call_accumulates(c, 1))
            dyx_sum = pk_v_add(dyx_sum, pk_v_load_n(dgain + i, n));
        if (dbias && pk_call_accumulates(c, 2))
            dy_sum = pk_v_add(dy_sum, pk_v_load_n(dbias + i, n));
        put(dgain, i, n, dyx_sum);
        put(dbias, i, n, dy_sum);
    }
    return PK_OK;
}

/* in: mean, variance, seed [1]; out: terms of the running mean, of the running variance (unbiased)
 * and of the number of batches, accumulating. */
enum pk_status PK_ISA_NAME(pk_cpu_batchnorm_state)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t cols = pk_view_cols(c->in[0]);
    const int64_t rows = c->node->attr.batchnorm.rows * (c->joined ? c->joined->size : 1);
    const float seed = *(const float *)c->src[2];
    const float unbiased = seed * (float)((double)rows / (double)(rows - 1));
    for (int k = 0; k < 3; k++) {
        float *to = c->dst[k];
        const float *from = k < 2 ? c->src[k] : NULL, scale = k == 1 ? unbiased : seed;
        if (!c->out[k]) continue;
        for (int64_t i = 0; i < (from ? cols : 1); i++) {
            const float term = from ? from[i] * scale : scale;
            to[i] = pk_call_accumulates(c, k) ? to[i] + term : term;
        }
    }
    return PK_OK;
}
