/* isa.h -- instruction sets of the CPU backend. Every kernel file in core/cpu is compiled once per
 * set, with PK_ISA naming it; PK_ISA_NAME(f) gives the function its suffix. */
#ifndef PK_CPU_ISA_H
#define PK_CPU_ISA_H

enum pk_isa { PK_ISA_PORTABLE, PK_ISA_AVX2, PK_ISA_AVX512, PK_ISA_COUNT };

/* The best set this machine runs and this binary has, or what the environment variable PURKINJE_ISA
 * (portable, avx2, avx512) asks for if that is available. */
enum pk_isa pk_isa_best(void);
const char *pk_isa_name(enum pk_isa isa);

#define PK_JOIN_(a, b) a##_##b
#define PK_JOIN(a, b)  PK_JOIN_(a, b)
#ifdef PK_ISA
#define PK_ISA_NAME(f) PK_JOIN(f, PK_ISA)
#endif

#endif
