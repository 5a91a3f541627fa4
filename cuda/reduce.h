/* reduce.h -- sums over rows without atomics, in a fixed order: the same bits on every run.
 *
 * A kernel that sums over many rows writes one partial row per block into its workspace;
 * pk_cuda_sum_parts adds them up. pk_cuda_column_sums does both for a matrix that is there already.
 */
#ifndef PK_CUDA_REDUCE_H
#define PK_CUDA_REDUCE_H

#include "cuda/queue.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The most partial rows a kernel should write: blocks of 256 threads with at most 64 registers are
 * then all resident at once on 108 SMs (A100, 4 each) and on 132 (H100, H200), so that no second
 * wave runs at low occupancy. It is a constant, not a device fact, since workspaces are planned
 * without a device and sums should not depend on it. */
enum { PK_CUDA_PARTS = 432 };

/* out[c] (+)= sum over p of partial[p][c], for c < cols; partial is [parts][cols], on the device.
 */
enum pk_status pk_cuda_sum_parts(const struct pk_queue *q, float *out, const float *partial,
                                 int64_t parts, int64_t cols, bool accumulate, struct pk_err *err);

/* The same for two sums of `cols` columns at once; partial is [parts][2][cols]. An out[k] that is
 * NULL is not wanted. */
enum pk_status pk_cuda_sum_parts_of_two(const struct pk_queue *q, float *const out[2],
                                        const bool accumulate[2], const float *partial,
                                        int64_t parts, int64_t cols, struct pk_err *err);

/* Rows in device memory: `batch` records that start `record` elements apart, each with `rows` rows
 * of `cols` elements, one after another. A whole matrix is {x, dtype, 1, rows * cols, rows, cols}.
 */
struct pk_cuda_rows {
    const void *at;      // 16-byte aligned for the fast path; any multiple of the element works
    enum pk_dtype dtype; // PK_F32 or PK_BF16
    int64_t batch, record, rows, cols;
};

/* out[c] (+)= sum over all rows of row[c], in float; two launches, every element read once.
 * workspace: pk_cuda_column_sums_workspace(batch * rows, cols) bytes, 16-byte aligned. */
enum pk_status pk_cuda_column_sums(const struct pk_queue *q, float *out,
                                   const struct pk_cuda_rows *x, bool accumulate, void *workspace,
                                   struct pk_err *err);
size_t pk_cuda_column_sums_workspace(int64_t rows, int64_t cols);

#ifdef __cplusplus
}
#endif

#endif
