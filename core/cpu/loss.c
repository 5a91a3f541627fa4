/* loss.c -- the loss of predicted features and the statistics that watch for collapse. Sums are in
 * double and in an order that depends on the shape alone, so that a loss compares between runs to
 * the last bit. */
#include "core/cpu/kernels.h"
#include "core/view.h"

#include <math.h>

/* x [rows, cols] -> y [2, cols]: mean and variance (1/n) of every column. Columns go in tiles; sums
 * are taken of the distance to the first row, which keeps the one-pass variance exact enough even
 * when the mean is far from zero. */
enum pk_status PK_ISA_NAME(pk_cpu_feature_moments)(const struct pk_call *c, struct pk_err *err)
{
    enum { TILE = 32 };
    (void)err;
    const float *x = c->src[0];
    float *y = c->dst[0];
    const int64_t rows = pk_view_rows(c->in[0]), cols = pk_view_cols(c->in[0]);
    for (int64_t at = 0; at < cols; at += TILE) {
        const int64_t n = PK_MIN((int64_t)TILE, cols - at);
        double sum[TILE] = {0}, square[TILE] = {0};
        for (int64_t r = 1; r < rows; r++) {
            const float *restrict first = x + at, *restrict row = x + r * cols + at;
            for (int64_t k = 0; k < n; k++) {
                double d = (double)row[k] - (double)first[k];
                sum[k] += d;
                square[k] += d * d;
            }
        }
        for (int64_t k = 0; k < n; k++) {
            const double mean = sum[k] / (double)rows;
            y[at + k] = (float)((double)x[at + k] + mean);
            y[cols + at + k] = (float)fmax(square[k] / (double)rows - mean * mean, 0);
        }
    }
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_l1_loss)(const struct pk_call *c, struct pk_err *err)
{
    enum { LANES = 16 };
    (void)err;
    const float *restrict x = c->src[0], *restrict target = c->src[1];
    const int64_t count = pk_view_count(c->in[0]);
    double sum[LANES] = {0}, total = 0;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; k++) sum[k] += (double)fabsf(x[i + k] - target[i + k]);
    for (; i < count; i++) sum[i % LANES] += (double)fabsf(x[i] - target[i]);
    for (int k = 0; k < LANES; k++) total += sum[k];
    *(float *)c->dst[0] = (float)(total / (double)count);
    return PK_OK;
}

/* seed * sign(x - target) / n, with sign(0) = 0 as PyTorch has it. */
enum pk_status PK_ISA_NAME(pk_cpu_l1_loss_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *restrict x = c->src[0], *restrict target = c->src[1];
    float *restrict dx = c->dst[0];
    const int64_t count = pk_view_count(c->out[0]);
    const float scale = *(const float *)c->src[2] / (float)count;
    const bool add = pk_call_accumulates(c, 0);
    if (add)
        for (int64_t i = 0; i < count; i++)
            dx[i] += scale * (float)((x[i] > target[i]) - (x[i] < target[i]));
    else
        for (int64_t i = 0; i < count; i++)
            dx[i] = scale * (float)((x[i] > target[i]) - (x[i] < target[i]));
    return PK_OK;
}
