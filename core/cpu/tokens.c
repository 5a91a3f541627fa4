/* tokens.c -- moving and combining rows of tokens. A row is the `cols` features of one token; all
 * arrays are [batch, tokens, cols] unless said otherwise. Sums over rows run in row order. */
#include "core/cpu/kernels.h"
#include "core/view.h"

#include <string.h>

static void row_copy(float *restrict y, const float *restrict x, int64_t n)
{
    memcpy(y, x, (size_t)n * sizeof *y);
}

static void row_zero(float *y, int64_t n)
{
    memset(y, 0, (size_t)n * sizeof *y);
}

static void row_add(float *restrict y, const float *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

static void row_sum(float *restrict y, const float *restrict a, const float *restrict b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

static void row_scale(float *restrict y, const float *restrict x, float scale, bool add, int64_t n)
{
    if (add)
        for (int64_t i = 0; i < n; i++) y[i] += scale * x[i];
    else
        for (int64_t i = 0; i < n; i++) y[i] = scale * x[i];
}

/* y = x or y += x. */
static void row_put(float *restrict y, const float *restrict x, bool add, int64_t n)
{
    if (add)
        row_add(y, x, n);
    else
        row_copy(y, x, n);
}

/* y[cols] = or += the sum of `rows` rows that lie `stride` elements apart, in each of `batch`
 * records `record` elements apart. Columns go in tiles that stay in registers: the running sum is
 * neither loaded nor stored per row. */
static void column_sum(float *restrict y, const float *restrict x, bool add, int64_t cols,
                       int64_t batch, int64_t record, int64_t rows)
{
    enum { TILE = 64 };
    for (int64_t c = 0; c < cols; c += TILE) {
        const int64_t n = PK_MIN((int64_t)TILE, cols - c);
        float sum[TILE] = {0};
        for (int64_t b = 0; b < batch; b++)
            for (int64_t r = 0; r < rows; r++) {
                const float *restrict p = x + b * record + r * cols + c;
                if (n == TILE)
                    for (int k = 0; k < TILE; k++) sum[k] += p[k];
                else
                    for (int64_t k = 0; k < n; k++) sum[k] += p[k];
            }
        row_put(y + c, sum, add, n);
    }
}

static enum pk_status check_index(const int32_t *index, int64_t count, int64_t tokens,
                                  struct pk_err *err)
{
    for (int64_t i = 0; i < count; i++)
        if (index[i] < 0 || index[i] >= tokens)
            return pk_fail(err, PK_EDATA, "token index %d at place %lld is outside 0 to %lld",
                           index[i], (long long)i, (long long)tokens - 1);
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_gather_tokens)(const struct pk_call *c, struct pk_err *err)
{
    const float *x = c->src[0];
    const int32_t *index = c->src[1];
    float *y = c->dst[0];
    const int64_t batch = c->in[0]->dim[0], tokens = c->in[0]->dim[1], cols = c->in[0]->dim[2],
                  keep = c->in[1]->dim[1];
    PK_TRY(check_index(index, batch * keep, tokens, err));
    for (int64_t b = 0; b < batch; b++)
        for (int64_t k = 0; k < keep; k++)
            row_copy(y + (b * keep + k) * cols, x + (b * tokens + index[b * keep + k]) * cols,
                     cols);
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_gather_tokens_grad)(const struct pk_call *c, struct pk_err *err)
{
    const float *dy = c->src[0];
    const int32_t *index = c->src[1];
    const int64_t batch = c->out[0]->dim[0], tokens = c->out[0]->dim[1], cols = c->out[0]->dim[2],
                  keep = c->in[1]->dim[1];
    const bool add = pk_call_accumulates(c, 0);
    PK_TRY(check_index(index, batch * keep, tokens, err));
    for (int64_t b = 0; b < batch; b++) {
        float *dx = (float *)c->dst[0] + b * tokens * cols;
        if (!add) row_zero(dx, tokens * cols);
        for (int64_t k = 0; k < keep; k++)
            row_put(dx + index[b * keep + k] * cols, dy + (b * keep + k) * cols, add, cols);
    }
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_add_position)(const struct pk_call *c, struct pk_err *err)
{
    const float *x = c->src[0], *table = c->src[1];
    const int32_t *index = c->src[2];
    float *y = c->dst[0];
    const int64_t batch = c->in[0]->dim[0], tokens = c->in[0]->dim[1], cols = c->in[0]->dim[2];
    if (index) PK_TRY(check_index(index, batch * tokens, c->in[1]->dim[0], err));
    for (int64_t r = 0; r < batch * tokens; r++)
        row_sum(y + r * cols, x + r * cols, table + (index ? index[r] : r % tokens) * cols, cols);
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_prepend_token)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *token = c->src[0], *x = c->src[1];
    const int64_t batch = c->in[1]->dim[0], tokens = c->in[1]->dim[1], cols = c->in[1]->dim[2];
    for (int64_t b = 0; b < batch; b++) {
        float *y = (float *)c->dst[0] + b * (tokens + 1) * cols;
        row_copy(y, token, cols);
        row_copy(y + cols, x + b * tokens * cols, tokens * cols);
    }
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_prepend_token_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *dy = c->src[0];
    float *dtoken = c->dst[0], *dx = c->dst[1];
    const int64_t batch = c->in[0]->dim[0], tokens = c->in[0]->dim[1] - 1, cols = c->in[0]->dim[2];
    const int64_t record = (tokens + 1) * cols;
    if (dtoken) column_sum(dtoken, dy, pk_call_accumulates(c, 0), cols, batch, record, 1);
    for (int64_t b = 0; dx && b < batch; b++)
        row_put(dx + b * tokens * cols, dy + b * record + cols, pk_call_accumulates(c, 1),
                tokens * cols);
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_slice_tokens)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *x = c->src[0];
    float *y = c->dst[0];
    const int64_t batch = c->in[0]->dim[0], tokens = c->in[0]->dim[1], cols = c->in[0]->dim[2];
    const int64_t start = c->node->attr.slice.start, count = c->node->attr.slice.count;
    for (int64_t b = 0; b < batch; b++)
        row_copy(y + b * count * cols, x + (b * tokens + start) * cols, count * cols);
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_slice_tokens_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *dy = c->src[0];
    const int64_t batch = c->out[0]->dim[0], tokens = c->out[0]->dim[1], cols = c->out[0]->dim[2];
    const int64_t start = c->node->attr.slice.start, count = c->node->attr.slice.count;
    const bool add = pk_call_accumulates(c, 0);
    for (int64_t b = 0; b < batch; b++) {
        float *dx = (float *)c->dst[0] + b * tokens * cols;
        if (!add) {
            row_zero(dx, start * cols);
            row_zero(dx + (start + count) * cols, (tokens - start - count) * cols);
        }
        row_put(dx + start * cols, dy + b * count * cols, add, count * cols);
    }
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_assemble_tokens)(const struct pk_call *c, struct pk_err *err)
{
    const float *context = c->src[0], *mask_token = c->src[1], *table = c->src[2];
    const int32_t *kept = c->src[3], *hidden = c->src[4];
    float *y = c->dst[0];
    const int64_t batch = c->in[0]->dim[0], keep = c->in[0]->dim[1], cols = c->in[0]->dim[2];
    const int64_t hide = c->in[4]->dim[1], positions = c->in[2]->dim[0];
    PK_TRY(check_index(kept, batch * keep, positions, err));
    PK_TRY(check_index(hidden, batch * hide, positions, err));
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t k = 0; k < keep; k++, y += cols)
            row_sum(y, context + (b * keep + k) * cols, table + kept[b * keep + k] * cols, cols);
        for (int64_t k = 0; k < hide; k++, y += cols)
            row_sum(y, mask_token, table + hidden[b * hide + k] * cols, cols);
    }
    return PK_OK;
}

/* in: dy, kept (for its shape); out: dcontext, dmask. */
enum pk_status PK_ISA_NAME(pk_cpu_assemble_tokens_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const float *dy = c->src[0];
    float *dcontext = c->dst[0], *dmask = c->dst[1];
    const int64_t batch = c->in[0]->dim[0], tokens = c->in[0]->dim[1], cols = c->in[0]->dim[2];
    const int64_t keep = c->in[1]->dim[1], record = tokens * cols;
    for (int64_t b = 0; dcontext && b < batch; b++)
        row_put(dcontext + b * keep * cols, dy + b * record, pk_call_accumulates(c, 0),
                keep * cols);
    if (dmask)
        column_sum(dmask, dy + keep * cols, pk_call_accumulates(c, 1), cols, batch, record,
                   tokens - keep);
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_mean_pool)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t batch = c->in[0]->dim[0], tokens = c->in[0]->dim[1], cols = c->in[0]->dim[2];
    const int64_t skip = c->node->attr.pool.skip;
    const float scale = 1 / (float)(tokens - skip);
    for (int64_t b = 0; b < batch; b++) {
        const float *x = (const float *)c->src[0] + (b * tokens + skip) * cols;
        float *y = (float *)c->dst[0] + b * cols;
        column_sum(y, x, false, cols, 1, 0, tokens - skip);
        for (int64_t i = 0; i < cols; i++) y[i] *= scale;
    }
    return PK_OK;
}

enum pk_status PK_ISA_NAME(pk_cpu_mean_pool_grad)(const struct pk_call *c, struct pk_err *err)
{
    (void)err;
    const int64_t batch = c->out[0]->dim[0], tokens = c->out[0]->dim[1], cols = c->out[0]->dim[2];
    const int64_t skip = c->node->attr.pool.skip;
    const bool add = pk_call_accumulates(c, 0);
    const float scale = 1 / (float)(tokens - skip);
    for (int64_t b = 0; b < batch; b++) {
        const float *dy = (const float *)c->src[0] + b * cols;
        float *dx = (float *)c->dst[0] + b * tokens * cols;
        if (!add) row_zero(dx, skip * cols);
        for (int64_t t = skip; t < tokens; t++) row_scale(dx + t * cols, dy, scale, add, cols);
    }
    return PK_OK;
}
