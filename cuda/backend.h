/* backend.h -- the CUDA backend as the rest of the program sees it: no CUDA headers needed. */
#ifndef PK_CUDA_BACKEND_H
#define PK_CUDA_BACKEND_H

#include "core/exec.h"

/* Whether a GPU can be used here and now. The GPU is the first that CUDA_VISIBLE_DEVICES leaves.
 * Errors  PK_EMISSING no driver, one too old for this build, no GPU, or one before compute
 *                     capability 8.0; each with what to do */
enum pk_status pk_cuda_usable(struct pk_err *err);
/* The table for pk_exec_spec.backend. Its programs may be in bf16. */
const struct pk_backend *pk_cuda_backend(void);

/* For people, a line for each fact: driver and runtime, devices and their memory, the GEMM library,
 * what is missing; where a GPU can be used, also its copy bandwidth and its best matrix product,
 * measured for about a second when `measure`. Never fails. */
void pk_cuda_report(struct pk_text *out, bool measure);

/* Bytes that x holds on the device; out (may be NULL) gets one line per allocation, and the sum. */
int64_t pk_cuda_memory(const struct pk_exec *x, struct pk_text *out);

#endif
