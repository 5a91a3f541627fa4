/* table.c -- the kernel table of one instruction set: op NAME is run by pk_cpu_NAME in
 * core/cpu/<family>.c. */
#include "core/cpu/kernels.h"

#define PK_X(op, name, family)                                                                     \
    enum pk_status PK_ISA_NAME(pk_cpu_##name)(const struct pk_call *c, struct pk_err *err);
PK_OPS(PK_X)
#undef PK_X

extern const pk_kernel PK_ISA_NAME(pk_cpu_kernels)[PK_OP_COUNT];
const pk_kernel PK_ISA_NAME(pk_cpu_kernels)[PK_OP_COUNT] = {
#define PK_X(op, name, family) [PK_OP_##op] = PK_ISA_NAME(pk_cpu_##name),
    PK_OPS(PK_X)
#undef PK_X
};
