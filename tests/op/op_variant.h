/* op_variant.h -- the kernel tables and storage types that a test program runs its cases for. */
#ifndef PK_OP_VARIANT_H
#define PK_OP_VARIANT_H

#include "core/cpu/kernels.h"
#include "cuda/kernels.h"
#include "tests/op/op_device.h"

#include <math.h>

struct op_variant {
    const char *name;
    const pk_kernel *kernel;       // [PK_OP_COUNT]
    const pk_workspace *workspace; // [PK_OP_COUNT], or NULL: the test says how much
    enum pk_dtype storage;         // of activations and matrices
    bool device;                   // enqueues, and raises faults instead of returning PK_EDATA
    double work;                   // multiply-adds that one case may cost
};

/* Whether this binary has kernels for the set and this machine runs them. */
static inline bool op_isa_available(enum pk_isa isa)
{
    if (!pk_cpu_table(isa)) return false;
#if defined(__x86_64__)
    if (isa == PK_ISA_AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == PK_ISA_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return isa == PK_ISA_PORTABLE;
}

/* Float before bf16: a case's values are rounded for bf16 in place. */
static inline const struct op_variant *op_variants(int *count)
{
    static struct op_variant list[PK_ISA_COUNT + 2];
    int n = 0;
#ifdef PK_TEST_CUDA
#ifdef PK_TEST_DEVICE
    const double work = INFINITY;
#else
    const double work = 1.1e7; // each runs some ten times, at about 1e8 a second
#endif
    op_device_queue(); // ends the program here when there is no device
    list[n++] =
        (struct op_variant){"cuda float", pk_cuda_kernels, pk_cuda_workspaces, PK_F32, true, work};
    list[n++] =
        (struct op_variant){"cuda bf16", pk_cuda_kernels, pk_cuda_workspaces, PK_BF16, true, work};
#else
    for (int isa = 0; isa < PK_ISA_COUNT; isa++)
        if (op_isa_available((enum pk_isa)isa))
            list[n++] = (struct op_variant){pk_isa_name((enum pk_isa)isa),
                                            pk_cpu_table((enum pk_isa)isa),
                                            NULL,
                                            PK_F32,
                                            false,
                                            INFINITY};
#endif
    *count = n;
    return list;
}

#endif
