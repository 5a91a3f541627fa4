/* op_case.h -- runs one CPU kernel on hand-made values and judges what it wrote.
 *
 *     struct op_case t;
 *     op_begin(&t, PK_OP_GELU, isa);
 *     float *x = op_in(&t, 0, OP_DIMS(rows, cols)); // standard normal values
 *     op_out(&t, 0, false, OP_DIMS(rows, cols));    // true: the kernel adds to it
 *     if (op_run(&t, workspace_bytes)) op_check(&t, 0, naive, exact, "65 rows");
 *     op_end(&t);
 *
 * Every output is poisoned with NaN (or holds known values where the kernel adds to it) and stands
 * between guard elements; so do the workspace and the inputs, where the guards are NaN and must not
 * be read either. op_run runs the kernel twice, the second time on a workspace with other rubbish
 * in it, and demands the same bits and untouched inputs. op_sweep.h runs one case for all
 * instruction sets and accumulate bits. */
#ifndef PK_OP_CASE_H
#define PK_OP_CASE_H

#include "core/cpu/kernels.h"
#include "core/rng.h"
#include "tests/test.h"

enum { OP_GUARD = 64 }; // guard elements on each side

struct op_case {
    struct pk_value in[PK_NODE_IN], out[PK_NODE_OUT];
    struct pk_node node;
    struct pk_call call;
    float *in_base[PK_NODE_IN];   // guard, values, guard
    float *out_base[PK_NODE_OUT]; // guard, values, guard
    float *before[PK_NODE_OUT];   // what an accumulated output held
    struct pk_rng rng;
    enum pk_isa isa;
    struct pk_err err;
};

/* Rank and extents of a value, for op_in and op_out. */
#define OP_DIMS(...)                                                                               \
    (int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[])                     \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static inline const char *op_name_(enum pk_op op)
{
    static const char *const name[] = {
#define PK_X(up, text, family) #text,
        PK_OPS(PK_X)
#undef PK_X
    };
    return name[op];
}

static inline void op_begin(struct op_case *t, enum pk_op op, enum pk_isa isa)
{
    memset(t, 0, sizeof *t);
    t->node.op = op;
    t->call.node = &t->node;
    t->isa = isa;
    t->rng = pk_rng_make(1, PK_RNG_TEST, (uint64_t)op, 0);
    for (int i = 0; i < PK_NODE_IN; i++) t->node.in[i] = -1;
    for (int i = 0; i < PK_NODE_OUT; i++) t->node.out[i] = -1;
}

static inline void op_shape_(struct pk_value *v, int32_t rank, const int64_t *dim)
{
    v->dtype = PK_F32;
    v->storage = PK_STORE_ACT;
    v->rank = rank;
    for (int32_t i = 0; i < rank; i++) v->dim[i] = dim[i];
}

static inline int64_t op_count(const struct pk_value *v)
{
    int64_t n = 1;
    for (int32_t i = 0; i < v->rank; i++) n *= v->dim[i];
    return n;
}

static inline void *op_alloc(int64_t n, size_t size)
{
    void *p = NULL;
    if (pk_alloc_aligned(&p, (size_t)PK_MAX(n, 1), size, "test values", NULL) != PK_OK) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static inline float *op_floats(int64_t n)
{
    return op_alloc(n, sizeof(float));
}

static inline double *op_doubles(int64_t n)
{
    return op_alloc(n, sizeof(double));
}

static inline size_t op_bytes_(const struct pk_value *v)
{
    return (size_t)op_count(v) * pk_dtype_size(v->dtype);
}

/* Adds an input of zeros, which the caller may change. */
static inline void *op_in_of(struct op_case *t, int slot, enum pk_dtype dtype, int32_t rank,
                             const int64_t *dim)
{
    const size_t guard = OP_GUARD * sizeof(float);
    op_shape_(&t->in[slot], rank, dim);
    t->in[slot].dtype = dtype;
    size_t bytes = op_bytes_(&t->in[slot]);
    char *base = op_alloc((int64_t)(bytes + 2 * guard), 1);
    memset(base, 0xff, bytes + 2 * guard); // NaN as float
    memset(base + guard, 0, bytes);
    t->in_base[slot] = (float *)(void *)base;
    t->call.in[slot] = &t->in[slot];
    t->call.src[slot] = base + guard;
    t->node.in[slot] = slot;
    t->node.n_in = PK_MAX(t->node.n_in, slot + 1);
    return base + guard;
}

/* Adds an input of standard normal values, which the caller may change. */
static inline float *op_in(struct op_case *t, int slot, int32_t rank, const int64_t *dim)
{
    float *p = op_in_of(t, slot, PK_F32, rank, dim);
    for (int64_t i = 0; i < op_count(&t->in[slot]); i++) p[i] = (float)pk_rng_normal(&t->rng);
    return p;
}

static inline void op_out(struct op_case *t, int slot, bool accumulate, int32_t rank,
                          const int64_t *dim)
{
    op_shape_(&t->out[slot], rank, dim);
    int64_t n = op_count(&t->out[slot]);
    t->out_base[slot] = op_floats(n + 2 * OP_GUARD);
    t->call.out[slot] = &t->out[slot];
    t->call.dst[slot] = t->out_base[slot] + OP_GUARD;
    t->node.out[slot] = PK_NODE_IN + slot;
    t->node.n_out = PK_MAX(t->node.n_out, slot + 1);
    if (!accumulate) return;
    t->node.accumulate |= 1u << slot;
    t->before[slot] = op_floats(n);
    for (int64_t i = 0; i < n; i++) t->before[slot][i] = (float)pk_rng_normal(&t->rng);
}

static inline void op_guard_(float *base, int64_t n, float canary)
{
    for (int i = 0; i < OP_GUARD; i++) base[i] = base[OP_GUARD + n + i] = canary;
}

static inline bool op_guard_ok_(const float *base, int64_t n, float canary)
{
    bool ok = true;
    for (int i = 0; i < OP_GUARD; i++)
        ok = ok && base[i] == canary && base[OP_GUARD + n + i] == canary;
    return ok;
}

/* Poisons the outputs, runs the kernel once and checks the guards. */
static inline void op_turn_(struct op_case *t, pk_kernel kernel, float *work, int64_t scratch,
                            float rubbish)
{
    for (int64_t i = 0; i < scratch; i++) work[OP_GUARD + i] = rubbish;
    op_guard_(work, scratch, 1234.5f);
    for (int k = 0; k < PK_NODE_OUT; k++) {
        int64_t n = op_count(&t->out[k]);
        if (!t->out_base[k]) continue;
        op_guard_(t->out_base[k], n, -777.25f);
        for (int64_t i = 0; i < n; i++)
            t->out_base[k][OP_GUARD + i] = t->before[k] ? t->before[k][i] : (float)NAN;
    }
    CHECK_OK(kernel(&t->call, &t->err), &t->err);
    CHECK(op_guard_ok_(work, scratch, 1234.5f));
    for (int k = 0; k < PK_NODE_OUT; k++)
        if (t->out_base[k]) CHECK(op_guard_ok_(t->out_base[k], op_count(&t->out[k]), -777.25f));
}

/* A hash of each input with its guards. */
static inline void op_hash_inputs_(const struct op_case *t, uint64_t hash[PK_NODE_IN])
{
    for (int i = 0; i < PK_NODE_IN; i++)
        hash[i] = t->in_base[i] ? pk_hash64(t->in_base[i],
                                            op_bytes_(&t->in[i]) + 2 * OP_GUARD * sizeof(float), 0)
                                : 0;
}

/* Runs the kernel twice; true when it succeeded, kept to its outputs and repeated itself. */
static inline bool op_run(struct op_case *t, size_t workspace_bytes)
{
    const int64_t scratch = (int64_t)((workspace_bytes + sizeof(float) - 1) / sizeof(float));
    const int bad = test_bad_;
    uint64_t inputs[2][PK_NODE_IN];
    op_hash_inputs_(t, inputs[0]);
    float *work = op_floats(scratch + 2 * OP_GUARD), *first[PK_NODE_OUT] = {NULL};
    pk_kernel kernel = pk_cpu_table(t->isa) ? pk_cpu_table(t->isa)[t->node.op] : NULL;
    t->call.workspace = work + OP_GUARD;
    CHECK(kernel != NULL);
    if (kernel) op_turn_(t, kernel, work, scratch, (float)NAN);
    for (int k = 0; k < PK_NODE_OUT; k++) {
        int64_t n = op_count(&t->out[k]);
        if (!t->out_base[k]) continue;
        first[k] = op_floats(n);
        memcpy(first[k], t->call.dst[k], (size_t)n * sizeof(float));
    }
    if (kernel) op_turn_(t, kernel, work, scratch, -3e38f);
    for (int k = 0; k < PK_NODE_OUT; k++) {
        size_t n = (size_t)op_count(&t->out[k]) * sizeof(float);
        if (first[k]) CHECK(!memcmp(first[k], t->call.dst[k], n));
        free(first[k]);
    }
    free(work);
    op_hash_inputs_(t, inputs[1]);
    CHECK(!memcmp(inputs[0], inputs[1], sizeof inputs[0]));
    if (test_bad_ > bad)
        fprintf(stderr, "  in %s, %s\n", op_name_(t->node.op), pk_isa_name(t->isa));
    return test_bad_ == bad;
}

/* The kernel may be at most twice as far from the double-precision result as the naive algorithm in
 * float, give or take four roundings of the largest value. What an output held before is added
 * here, so that the references need not know about it. */
static inline void op_check(struct op_case *t, int slot, const float *naive, const double *exact,
                            const char *what)
{
    const float *got = t->call.dst[slot], *before = t->before[slot];
    int64_t n = op_count(&t->out[slot]), worst = 0;
    double far = 0, allowed = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        double want = exact[i] + (before ? (double)before[i] : 0);
        double simple = (double)(before ? naive[i] + before[i] : naive[i]);
        double off = fabs((double)got[i] - want);
        if (!(off <= far)) far = off, worst = i;
        allowed = PK_MAX(allowed, fabs(simple - want));
        largest = PK_MAX(largest, fabs(want));
    }
    allowed = 2 * allowed + 4 * largest * 0x1p-24;
    if (far <= allowed) {
        test_good_++;
        return;
    }
    test_bad_++;
    fprintf(stderr, "%s, %s, %s: output %d, element %lld of %lld is %g, off by %g, allowed %g\n",
            op_name_(t->node.op), pk_isa_name(t->isa), what, slot, (long long)worst, (long long)n,
            (double)got[worst], far, allowed);
}

static inline void op_end(struct op_case *t)
{
    for (int i = 0; i < PK_NODE_IN; i++) free(t->in_base[i]);
    for (int k = 0; k < PK_NODE_OUT; k++) {
        free(t->out_base[k]);
        free(t->before[k]);
    }
}

/* Whether this binary has kernels for the set and this machine runs them. */
static inline bool op_isa_available(enum pk_isa isa)
{
#if defined(__x86_64__)
    if (isa == PK_ISA_AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == PK_ISA_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return isa == PK_ISA_PORTABLE;
}

#endif
