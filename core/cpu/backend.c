/* backend.c -- run-time choice of the instruction set. */
#include "core/cpu/isa.h"

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
