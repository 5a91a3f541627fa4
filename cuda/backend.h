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

struct pk_cuda_info { // for people
    int driver, runtime; // 13000 is CUDA 13.0; driver 0: none
    int devices;
    struct {
        char name[256];
        int major, minor, processors;
        int64_t memory, free; // bytes
    } device[16];
};
/* Never fails: what cannot be found out is 0. */
void pk_cuda_describe(struct pk_cuda_info *out);
/* Copy bandwidth of the device in bytes read and written per second, measured on 1 GiB for about
 * 0.2 s. */
enum pk_status pk_cuda_copy_ceiling(double *bytes_per_s, struct pk_err *err);

/* What x holds on the device: one line per allocation, and the sum. */
void pk_cuda_memory(const struct pk_exec *x, struct pk_text *out);
/* Bytes of all allocations of x. */
int64_t pk_cuda_memory_bytes(const struct pk_exec *x);

#endif
