/* kernels.h -- the CUDA kernel table and the flat kernels, without CUDA headers.
 *
 * Storage: S is the program's storage type, float or bf16. Activations, their gradients and the
 * matrices of linear layers are S; vectors (gains, biases, tokens, queries), position tables,
 * statistics (mean, rstd, lse, prob), losses, the seed and all parameter gradients are float.
 * A kernel reads the type from the pk_value it is given. */
#ifndef PK_CUDA_KERNELS_H
#define PK_CUDA_KERNELS_H

#ifdef __cplusplus
extern "C" {
#endif
#include "core/prog.h"

/* As pk_kernel of the CPU, but pk_call.queue says where, and the call returns when the work is
 * enqueued. Same bits on every run on one device. */
extern const pk_kernel pk_cuda_kernels[PK_OP_COUNT];

/* Scratch of one call: partial sums of reductions. Does not depend on the device, so that a plan
 * can be made without one. */
extern const pk_workspace pk_cuda_workspaces[PK_OP_COUNT];

#ifdef __cplusplus
}
#endif

#endif
