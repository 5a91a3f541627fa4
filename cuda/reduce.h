/* reduce.h -- the second half of every sum over rows: no atomics, a fixed order.
 *
 * A kernel that sums over many rows writes one partial row per block into its workspace; this adds
 * them up. */
#ifndef PK_CUDA_REDUCE_H
#define PK_CUDA_REDUCE_H

#include "cuda/queue.h"

#ifdef __cplusplus
extern "C" {
#endif
/* out[c] (+)= sum over p of partial[p][c], for c < cols; partial is [parts][cols], on the device.
 */
enum pk_status pk_cuda_sum_parts(const struct pk_queue *q, float *out, const float *partial,
                                 int64_t parts, int64_t cols, bool accumulate, struct pk_err *err);
#ifdef __cplusplus
}
#endif

#endif
