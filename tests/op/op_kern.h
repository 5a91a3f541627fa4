/* op_kern.h -- one harness for the CPU kernel tests: a case is one op with its inputs, and a
 * reference written once, in which every operation goes through R(). With R the identity the
 * reference runs in double; with R rounding to float it is the naive single-precision algorithm
 * (an operation on floats computed in double and rounded once is the float operation).
 *
 * A kernel may be at most twice as far from the double result as the naive one is, plus two
 * roundings of the largest result. case_run tries every instruction set of this machine,
 * with every output assigned (poisoned with NaN before) and added to (random before), checks guard
 * elements around all arrays, unchanged inputs, and equal bits in a second run. */
#ifndef PK_OP_KERN_H
#define PK_OP_KERN_H

#include "core/cpu/kernels.h"
#include "core/cpu/view.h"
#include "core/rng.h"
#include "tests/test.h"

#include <float.h>

enum { GUARD = 64 }; // bytes on either side

typedef double (*case_round)(double);

struct case_array {
    struct pk_value v;
    bool there, can_add;
    size_t bytes;
    unsigned char *block, *data, *copy; // data = block + GUARD; copy: input as made, output before
    double *want, *naive;               // outputs
};

struct op_case {
    const char *why; // what this size is for
    struct pk_node node;
    struct case_array in[PK_NODE_IN], out[PK_NODE_OUT];
    bool exact; // results must equal the reference to the last bit
    void (*reference)(const struct op_case *t, case_round R, double *const y[PK_NODE_OUT]);
    struct pk_rng rng;
};

static inline double case_identity(double x)
{
    return x;
}
static inline double case_single(double x)
{
    return (double)(float)x;
}

static inline void case_begin(struct op_case *t, enum pk_op op, const char *why)
{
    *t = (struct op_case){.why = why, .node.op = op};
    t->rng = pk_rng_make(1, PK_RNG_TEST, (uint64_t)op, 0);
}

static inline void case_shape(struct case_array *a, enum pk_dtype dtype, int rank,
                              const int64_t *dim)
{
    a->there = true;
    a->v.dtype = dtype;
    a->v.rank = rank;
    for (int i = 0; i < rank; i++) a->v.dim[i] = dim[i];
    a->bytes = (size_t)pk_view_count(&a->v) * pk_dtype_size(dtype);
    a->block = malloc(a->bytes + 2 * GUARD);
    a->copy = malloc(a->bytes + 1);
    if (!a->block || !a->copy) exit(1);
    memset(a->block, 0xff, a->bytes + 2 * GUARD); // NaN as float, so that a stray read shows
    a->data = a->block + GUARD;
}

/* A new input; standard normal when float, zero otherwise. Returns its data. */
static inline void *case_in(struct op_case *t, enum pk_dtype dtype, int rank, const int64_t *dim)
{
    struct case_array *a = &t->in[t->node.n_in++];
    case_shape(a, dtype, rank, dim);
    memset(a->data, 0, a->bytes);
    if (dtype == PK_F32)
        for (int64_t i = 0; i < pk_view_count(&a->v); i++)
            ((float *)a->data)[i] = (float)pk_rng_normal(&t->rng);
    return a->data;
}

static inline void case_in_absent(struct op_case *t)
{
    t->node.in[t->node.n_in++] = -1;
}

static inline void case_out(struct op_case *t, enum pk_dtype dtype, bool can_add, int rank,
                            const int64_t *dim)
{
    struct case_array *a = &t->out[t->node.n_out++];
    case_shape(a, dtype, rank, dim);
    a->can_add = can_add;
    size_t n = (size_t)pk_view_count(&a->v);
    a->want = malloc((n + 1) * sizeof *a->want);
    a->naive = malloc((n + 1) * sizeof *a->naive);
    if (!a->want || !a->naive) exit(1);
}

static inline void case_out_absent(struct op_case *t)
{
    t->node.out[t->node.n_out++] = -1;
}

/* Element i of float input k. */
static inline double case_at(const struct op_case *t, int k, int64_t i)
{
    return (double)((const float *)t->in[k].data)[i];
}

static inline void case_free(struct op_case *t)
{
    for (int k = 0; k < PK_NODE_IN; k++) {
        free(t->in[k].block);
        free(t->in[k].copy);
    }
    for (int k = 0; k < PK_NODE_OUT; k++) {
        free(t->out[k].block);
        free(t->out[k].copy);
        free(t->out[k].want);
        free(t->out[k].naive);
    }
}

static inline enum pk_status case_call(struct op_case *t, enum pk_isa isa, struct pk_err *err)
{
    struct pk_call c = {.node = &t->node};
    for (int k = 0; k < t->node.n_in; k++)
        if (t->in[k].there) {
            c.in[k] = &t->in[k].v;
            c.src[k] = t->in[k].data;
        }
    for (int k = 0; k < t->node.n_out; k++)
        if (t->out[k].there) {
            c.out[k] = &t->out[k].v;
            c.dst[k] = t->out[k].data;
        }
    return pk_cpu_table(isa)[t->node.op](&c, err);
}

static inline bool case_guards(const struct case_array *a)
{
    bool good = true;
    for (size_t i = 0; i < GUARD; i++)
        good = good && a->block[i] == 0xff && a->data[a->bytes + i] == 0xff;
    return good;
}

/* Fills the outputs before a run: random where added to, NaN (all ones) where assigned. */
static inline void case_prepare(struct op_case *t)
{
    for (int k = 0; k < t->node.n_out; k++) {
        struct case_array *a = &t->out[k];
        if (!a->there) continue;
        memset(a->data, 0xff, a->bytes);
        if (t->node.accumulate >> k & 1)
            for (size_t i = 0; i < a->bytes / sizeof(float); i++)
                ((float *)a->data)[i] = (float)pk_rng_normal(&t->rng);
        memcpy(a->copy, a->data, a->bytes);
    }
}

static inline void case_compare(const struct op_case *t, int k, const char *isa)
{
    const struct case_array *a = &t->out[k];
    const bool add = t->node.accumulate >> k & 1;
    double kernel = 0, naive = 0, top = 0;
    int64_t bad = 0;
    for (int64_t i = 0; i < pk_view_count(&a->v); i++) {
        const bool whole = a->v.dtype == PK_I32;
        const double got =
            whole ? ((const int32_t *)a->data)[i] : (double)((const float *)a->data)[i];
        const double before = add ? (double)((const float *)a->copy)[i] : 0;
        const double want = a->want[i] + before;
        const double e = fabs(got - want);
        if (!(e >= 0 && e < INFINITY)) bad++; // NaN
        if (whole && e != 0) bad++;
        if (t->exact && got != case_single(a->naive[i] + before)) bad++;
        kernel = fmax(kernel, e);
        naive = fmax(naive, fabs(case_single(a->naive[i] + before) - want));
        top = fmax(top, fabs(want));
    }
    const double limit = 2 * naive + (double)FLT_EPSILON * top;
    if (bad || !(kernel <= limit))
        fprintf(stderr, "%s, %s, output %d%s: off by %g, allowed %g, %lld bad\n", t->why, isa, k,
                add ? " (added)" : "", kernel, limit, (long long)bad);
    CHECK(!bad);
    CHECK(kernel <= limit);
}

static inline void case_once(struct op_case *t, enum pk_isa isa)
{
    struct pk_err err = {0};
    unsigned char *again[PK_NODE_OUT] = {0};
    case_prepare(t);
    CHECK_OK(case_call(t, isa, &err), &err);
    for (int k = 0; k < t->node.n_in; k++)
        if (t->in[k].there) {
            CHECK(case_guards(&t->in[k]));
            CHECK(!memcmp(t->in[k].data, t->in[k].copy, t->in[k].bytes));
        }
    for (int k = 0; k < t->node.n_out; k++)
        if (t->out[k].there) {
            struct case_array *a = &t->out[k];
            case_compare(t, k, pk_isa_name(isa));
            CHECK(case_guards(a));
            again[k] = malloc(a->bytes + 1);
            if (!again[k]) exit(1);
            memcpy(again[k], a->data, a->bytes);
            memcpy(a->data, a->copy, a->bytes);
        }
    CHECK_OK(case_call(t, isa, &err), &err);
    for (int k = 0; k < t->node.n_out; k++)
        if (t->out[k].there) CHECK(!memcmp(again[k], t->out[k].data, t->out[k].bytes));
    for (int k = 0; k < PK_NODE_OUT; k++) free(again[k]);
}

/* Runs and checks the case, then frees it. */
static inline void case_run(struct op_case *t)
{
    double *want[PK_NODE_OUT], *naive[PK_NODE_OUT];
    uint32_t can_add = 0;
    for (int k = 0; k < PK_NODE_OUT; k++) {
        want[k] = t->out[k].want;
        naive[k] = t->out[k].naive;
        if (t->out[k].there && t->out[k].can_add) can_add |= 1u << k;
    }
    for (int k = 0; k < t->node.n_in; k++)
        if (t->in[k].there) memcpy(t->in[k].copy, t->in[k].data, t->in[k].bytes);
    t->reference(t, case_identity, want);
    t->reference(t, case_single, naive);
    for (int isa = 0; isa <= (int)pk_isa_best(); isa++)
        for (uint32_t add = 0; add <= can_add; add++)
            if ((add & ~can_add) == 0) {
                t->node.accumulate = add;
                case_once(t, (enum pk_isa)isa);
            }
    case_free(t);
}

#define DIMS(...)                                                                                  \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[])                         \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

#endif
