/* table.c -- the CUDA kernel table: op NAME is run by pk_cuda_NAME in cuda/<family>.cu, which asks
 * for pk_cuda_NAME_workspace bytes. A missing kernel fails the link. */
#include "cuda/kernels.h"

#define PK_X(op, name, family)                                                                     \
    enum pk_status pk_cuda_##name(const struct pk_call *c, struct pk_err *err);                    \
    size_t pk_cuda_##name##_workspace(const struct pk_prog *p, const struct pk_node *n);
PK_OPS(PK_X)
#undef PK_X

const pk_kernel pk_cuda_kernels[PK_OP_COUNT] = {
#define PK_X(op, name, family) [PK_OP_##op] = pk_cuda_##name,
    PK_OPS(PK_X)
#undef PK_X
};

const pk_workspace pk_cuda_workspaces[PK_OP_COUNT] = {
#define PK_X(op, name, family) [PK_OP_##op] = pk_cuda_##name##_workspace,
    PK_OPS(PK_X)
#undef PK_X
};
