/* fault.h -- how a kernel reports bad data: the first fault found stays, the kernel goes on with
 * zeros. Two threads that find one at the same time may mix their fields; both are true. */
#ifndef PK_CUDA_FAULT_H
#define PK_CUDA_FAULT_H

#include "cuda/device.h"

__device__ __forceinline__ void raise_fault(struct pk_cuda_fault *f, enum pk_cuda_fault_code code,
                                            int32_t node, int64_t record, int64_t value)
{
    if (f->code) return;
    f->node = node;
    f->record = record;
    f->value = value;
    f->code = code;
}

#endif
