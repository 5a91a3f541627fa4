/* entry.h -- how an op whose template takes the storage type gets into the kernel table
 * (cuda/table.c). */
#ifndef PK_CUDA_ENTRY_H
#define PK_CUDA_ENTRY_H

#include "cuda/device.h"

extern "C" {
#include "core/prog.h"
}

/* Within extern "C": pk_cuda_NAME, which calls name<bf16> or name<float> as the first input is
 * stored, and pk_cuda_NAME_workspace, its scratch: so many doubles, for the partial sums of
 * blocks. */
#define PK_CUDA_ENTRY(name, doubles)                                                               \
    enum pk_status pk_cuda_##name(const struct pk_call *c, struct pk_err *err);                    \
    size_t pk_cuda_##name##_workspace(const struct pk_prog *p, const struct pk_node *n);           \
    enum pk_status pk_cuda_##name(const struct pk_call *c, struct pk_err *err)                     \
    {                                                                                              \
        return c->in[0]->dtype == PK_BF16 ? name<bf16>(c, err) : name<float>(c, err);              \
    }                                                                                              \
    size_t pk_cuda_##name##_workspace(const struct pk_prog *, const struct pk_node *)              \
    {                                                                                              \
        return (doubles) * sizeof(double);                                                         \
    }

/* Within extern "C": an op that needs no scratch. */
#define PK_NO_WORKSPACE(name)                                                                      \
    size_t pk_cuda_##name##_workspace(const struct pk_prog *p, const struct pk_node *n)            \
    {                                                                                              \
        (void)p, (void)n;                                                                          \
        return 0;                                                                                  \
    }

#endif
