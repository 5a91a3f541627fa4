/* backend.c -- run-time choice of the instruction set and its kernel tables. */
#include "core/cpu/kernels.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"portable", "avx2", "avx512"};

const char *pk_isa_name(enum pk_isa isa)
{
    return (unsigned)isa < PK_ISA_COUNT ? names[isa] : "unknown";
}

enum pk_isa pk_isa_best(void)
{
    enum pk_isa best = PK_ISA_PORTABLE;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = PK_ISA_AVX2;
    if (best == PK_ISA_AVX2 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        best = PK_ISA_AVX512;
#endif
    const char *asked = getenv("PURKINJE_ISA");
    for (int i = 0; asked && i <= (int)best; i++)
        if (!strcmp(asked, names[i])) return (enum pk_isa)i;
    return best;
}

#define PK_TABLES(isa)                                                                             \
    extern const pk_kernel pk_cpu_kernels_##isa[PK_OP_COUNT];                                      \
    extern const struct pk_cpu_flat pk_cpu_flat_##isa;
PK_TABLES(portable)
#if defined(__x86_64__)
PK_TABLES(avx2)
PK_TABLES(avx512)
#endif

const pk_kernel *pk_cpu_table(enum pk_isa isa)
{
#if defined(__x86_64__)
    if (isa == PK_ISA_AVX512) return pk_cpu_kernels_avx512;
    if (isa == PK_ISA_AVX2) return pk_cpu_kernels_avx2;
#endif
    return isa == PK_ISA_PORTABLE ? pk_cpu_kernels_portable : NULL;
}

const struct pk_cpu_flat *pk_cpu_flat(enum pk_isa isa)
{
#if defined(__x86_64__)
    if (isa == PK_ISA_AVX512) return &pk_cpu_flat_avx512;
    if (isa == PK_ISA_AVX2) return &pk_cpu_flat_avx2;
#endif
    return isa == PK_ISA_PORTABLE ? &pk_cpu_flat_portable : NULL;
}
