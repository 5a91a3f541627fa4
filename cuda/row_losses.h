/* row_losses.h -- what the kernels of losses over the rows of a batch share (contrast.cu,
 * koleo.cu): the end of such a loss, from what is told of every row, by several ranks if they share
 * out the rows (core/ops.h). */
#ifndef PK_CUDA_ROW_LOSSES_H
#define PK_CUDA_ROW_LOSSES_H

#include "cuda/device.h"

extern "C" {
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, TAKERS = 1024 };

struct block_sums {
    double of_warp[32];
};

unsigned blocks_of(int64_t threads)
{
    return (unsigned)((threads + THREADS - 1) / THREADS);
}

template <typename T> T *carve(char *base, size_t *at, size_t count)
{
    T *const p = base ? reinterpret_cast<T *>(base + *at) : NULL;
    *at += (count * sizeof(T) + 63) / 64 * 64;
    return p;
}

/* What is told of rows: [rows], all of which count. first and second may be NULL; index instead of
 * first where that is a row's number. One block. */
__global__ void __launch_bounds__(TAKERS)
    take_rows(float *loss, const pk_told_row *told, int64_t rows, double factor, float *first,
              int32_t *index, float *second)
{
    PK_SHARED(block_sums, scratch);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < rows; i += TAKERS) {
        const pk_told_row t = told[i];
        sum += t.term;
        if (first) first[i] = t.of[0];
        if (index) index[i] = (int32_t)t.of[0];
        if (second) second[i] = t.of[1];
    }
    sum = block_sum(sum, scratch.of_warp);
    if (threadIdx.x == 0) *loss = (float)(sum * factor);
}

/* Where the kernels write it: where the ranks meet, or the workspace. */
pk_told_row *told_rows(const struct pk_call *c, int32_t ranks, pk_told_row *own)
{
    return ranks > 1 ? reinterpret_cast<pk_told_row *>(c->joined->all) : own;
}

/* The rows of the other ranks come, and the loss is weight times the mean term. */
enum pk_status take(const struct pk_call *c, const pk_told_row *told, int32_t ranks, int64_t rows,
                    float weight, float *first, int32_t *index, float *second, struct pk_err *err)
{
    if (ranks > 1) PK_TRY(c->joined->gather(c->joined, rows / ranks * PK_TOLD_FLOATS, err));
    return PK_LAUNCH(take_rows, 1, TAKERS, sizeof(block_sums), c->queue, err, (float *)c->dst[0],
                     told, rows, (double)weight / (double)rows, first, index, second);
}

/* Rows that are another rank's have no gradient here. */
enum pk_status clear_others(const struct pk_call *c, int k, int64_t first, int64_t count,
                            struct pk_err *err)
{
    const struct pk_value *v = c->out[k];
    const int64_t rows = pk_view_rows(v);
    const size_t row = pk_value_bytes(v) / (size_t)rows;
    char *const dx = (char *)c->dst[k];
    if (pk_call_accumulates(c, k) || count == rows) return PK_OK;
    PK_TRY(pk_cuda_check(cudaMemsetAsync(dx, 0, (size_t)first * row, c->queue->stream), "gradient",
                         err));
    return pk_cuda_check(cudaMemsetAsync(dx + (size_t)(first + count) * row, 0,
                                         (size_t)(rows - first - count) * row, c->queue->stream),
                         "gradient", err);
}

} // namespace

#endif
