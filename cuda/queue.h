/* queue.h -- what a CUDA kernel's host side gets beside its pk_call: stream, device facts, GEMM.
 *
 * For files under cuda/ that see the CUDA headers; others see struct pk_queue by name only. */
#ifndef PK_CUDA_QUEUE_H
#define PK_CUDA_QUEUE_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "cuda/kernels.h"

struct pk_matmul; // plans of the GEMM library, cuda/matmul.h

/* What a kernel found wrong in its data. Kernels never follow a bad index: they raise the fault and
 * write zeros (or clamp), and the host reports it when it next looks. */
struct pk_cuda_fault {
    int32_t code;   // enum pk_cuda_fault_code, 0 for none; the first one written stays
    int32_t node;   // pk_node.scope of the op, so that the message can name it
    int64_t record; // of the batch
    int64_t value;  // the offending number
};
enum pk_cuda_fault_code { PK_FAULT_NONE, PK_FAULT_INDEX, PK_FAULT_WINDOW, PK_FAULT_LABEL };

struct pk_queue {
    cudaStream_t stream;
    int device, sms, arch;       // arch: 80, 90 ...
    int64_t shared_max;          // bytes of shared memory a block may ask for
    struct pk_cuda_fault *fault; // device memory
    struct pk_matmul *matmul;    // NULL: own GEMM only
};

#ifdef __cplusplus
extern "C" {
#endif
enum pk_status pk_cuda_check(cudaError_t e, const char *what, struct pk_err *err);
enum pk_status pk_cuda_launched(const char *kernel, struct pk_err *err);
enum pk_status pk_cuda_allow_shared(const void *kernel, const char *name, size_t bytes,
                                    struct pk_err *err);
#ifdef __cplusplus
}
#endif

#endif
