/* resident.h -- records that live in GPU memory: the batch is cut from them on the device. */
#ifndef PK_CUDA_RESIDENT_H
#define PK_CUDA_RESIDENT_H

#include "cuda/queue.h"

#ifdef __cplusplus
extern "C" {
#endif
#include "core/exec.h"

/* out[i] = samples [start[i], start[i] + crop) of every lead of record[i], out [n, leads, crop].
 * All in device memory. A record or window that is not there raises a fault and gives zeros. */
enum pk_status pk_cuda_cut_batch(const struct pk_queue *q, const struct pk_resident *r,
                                 int16_t *out, const int64_t *record, const int32_t *start,
                                 int64_t n, int64_t crop, struct pk_err *err);
#ifdef __cplusplus
}
#endif

#endif
