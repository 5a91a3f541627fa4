/* queue_fallback.c -- what PK_LAUNCH needs of cuda/'s executor, weak: kernels can be tested before
 * and without it. The real functions win where they are linked. */
#include "cuda/queue.h"

__attribute__((weak)) enum pk_status pk_cuda_check(cudaError_t e, const char *what,
                                                   struct pk_err *err)
{
    if (e == cudaSuccess) return PK_OK;
    return pk_fail(err, PK_EDEVICE, "%s: %s (%s)", what, cudaGetErrorString(e),
                   cudaGetErrorName(e));
}
__attribute__((weak)) enum pk_status pk_cuda_launched(const char *kernel, struct pk_err *err)
{
    return pk_cuda_check(cudaGetLastError(), kernel, err);
}
__attribute__((weak)) enum pk_status pk_cuda_allow_shared(const void *kernel, const char *name,
                                                          size_t bytes, struct pk_err *err)
{
    if (bytes <= 48 * 1024) return PK_OK;
    return pk_cuda_check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), name,
        err);
}
