/* conv_none.c -- a build without cuDNN: every function of cuda/conv_cudnn.c, weak, so that the real
 * ones win where they are linked. */
#include "cuda/conv.h"

__attribute__((weak)) enum pk_status pk_cudnn_load(struct pk_cudnn **out, struct pk_err *err)
{
    *out = NULL;
    return pk_fail(err, PK_EMISSING, "built without cuDNN");
}
__attribute__((weak)) enum pk_status pk_cudnn_start(struct pk_cudnn *lib, const struct pk_queue *q,
                                                    struct pk_err *err)
{
    (void)lib, (void)q;
    return pk_fail(err, PK_EMISSING, "built without cuDNN");
}
__attribute__((weak)) void pk_cudnn_close(struct pk_cudnn *lib)
{
    (void)lib;
}
__attribute__((weak)) int64_t pk_cudnn_version(const struct pk_cudnn *lib)
{
    (void)lib;
    return 0;
}
__attribute__((weak)) enum pk_status pk_cudnn_plan_open(struct pk_cudnn_plan **out,
                                                        struct pk_cudnn *lib,
                                                        const struct pk_conv_shape *shape,
                                                        struct pk_err *err)
{
    (void)lib, (void)shape;
    *out = NULL;
    return pk_fail(err, PK_EMISSING, "built without cuDNN");
}
__attribute__((weak)) void pk_cudnn_plan_close(struct pk_cudnn_plan *p)
{
    (void)p;
}
__attribute__((weak)) int pk_cudnn_algorithms(const struct pk_cudnn_plan *p,
                                              int64_t workspace_bytes, struct pk_conv_choice *out,
                                              int most)
{
    (void)p, (void)workspace_bytes, (void)out, (void)most;
    return 0;
}
__attribute__((weak)) enum pk_status pk_cudnn_run(const struct pk_cudnn_plan *p, int algorithm,
                                                  const void *a, const void *b, void *to, bool add,
                                                  void *workspace, int64_t workspace_bytes,
                                                  struct pk_err *err)
{
    (void)p, (void)algorithm, (void)a, (void)b, (void)to, (void)add, (void)workspace;
    (void)workspace_bytes;
    return pk_fail(err, PK_EMISSING, "built without cuDNN");
}
