/* matmul_none.c -- a build without cuBLASLt: every function of cuda/matmul_cublaslt.c, weak, so
 * that the real ones win where they are linked. */
#include "cuda/matmul.h"

__attribute__((weak)) enum pk_status pk_cublaslt_open(struct pk_cublaslt **out, struct pk_err *err)
{
    *out = NULL;
    return pk_fail(err, PK_EMISSING, "built without cuBLASLt");
}
__attribute__((weak)) void pk_cublaslt_close(struct pk_cublaslt *lib)
{
    (void)lib;
}
__attribute__((weak)) int64_t pk_cublaslt_version(const struct pk_cublaslt *lib)
{
    (void)lib;
    return 0;
}
__attribute__((weak)) int pk_cublaslt_algorithms(struct pk_cublaslt *lib,
                                                 const struct pk_cuda_gemm *g, bool fused,
                                                 int64_t workspace_bytes,
                                                 struct pk_matmul_choice *out, int most)
{
    (void)lib, (void)g, (void)fused, (void)workspace_bytes, (void)out, (void)most;
    return 0;
}
__attribute__((weak)) enum pk_status
pk_cublaslt_run(struct pk_cublaslt *lib, const struct pk_queue *q, const struct pk_cuda_gemm *g,
                const struct pk_matmul_choice *choice, void *workspace, int64_t workspace_bytes,
                struct pk_err *err)
{
    (void)lib, (void)q, (void)g, (void)choice, (void)workspace, (void)workspace_bytes;
    return pk_fail(err, PK_EMISSING, "built without cuBLASLt");
}
