/* op_sweep.h -- one case run by every variant of this program (op_variant.h) and with every
 * accumulate bit both ways, on top of op_case.h.
 *
 * The reference is written once, with every operation going through R(). With R the identity it
 * runs in double; with R rounding to float it is the naive single-precision algorithm (an operation
 * on floats computed in double and rounded once is the float operation). It reads the inputs by
 * sweep_at, as the variant stores them. */
#ifndef PK_OP_SWEEP_H
#define PK_OP_SWEEP_H

#include "core/view.h"
#include "tests/op/op_case.h"

typedef double (*sweep_round)(double);

enum sweep_exact {
    SWEEP_NEAR,          // within the bound of op_check.h
    SWEEP_EXACT,         // the naive float algorithm to the last bit, once rounded to storage
    SWEEP_EXACT_ASSIGNED // the same where the kernel does not add: an addition may be contracted
};

struct op_sweep {
    struct op_case c;
    const char *why; // what this size is for
    enum sweep_exact exact;
    size_t workspace;            // bytes for the CPU kernels; device tables are asked
    uint32_t can_add;            // bit k: the kernel can add to output k
    float *start[PK_NODE_OUT];   // what it adds to
    double *want[PK_NODE_OUT];   // by the reference
    float *naive[PK_NODE_OUT];   // the same in float
    double *simple[PK_NODE_OUT]; // the same as double
    void (*reference)(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT]);
};

#define DIMS(...) OP_DIMS(__VA_ARGS__)

static inline double sweep_identity(double x)
{
    return x;
}
static inline double sweep_single(double x)
{
    return (double)(float)x;
}

static inline void sweep_begin(struct op_sweep *t, enum pk_op op, const char *why)
{
    int count;
    memset(t, 0, sizeof *t);
    op_begin(&t->c, op, op_variants(&count));
    t->why = why;
}

/* The next input, of the storage type: standard normal values. Returns its data, which the caller
 * may change; always float. */
static inline float *sweep_in(struct op_sweep *t, int32_t rank, const int64_t *dim)
{
    return op_in(&t->c, t->c.node.n_in, rank, dim);
}

/* The next input, float whatever the storage type. */
static inline float *sweep_in_vector(struct op_sweep *t, int32_t rank, const int64_t *dim)
{
    return op_in_vector(&t->c, t->c.node.n_in, rank, dim);
}

/* The next input, of an integer type: zeros. */
static inline void *sweep_in_of(struct op_sweep *t, enum pk_dtype dtype, int32_t rank,
                                const int64_t *dim)
{
    return op_in_of(&t->c, t->c.node.n_in, dtype, rank, dim);
}

static inline void sweep_in_absent(struct op_sweep *t)
{
    t->c.node.n_in++;
}

/* The next output: float, and for sweep_out of the storage type. */
static inline void sweep_out_vector(struct op_sweep *t, bool can_add, int32_t rank,
                                    const int64_t *dim)
{
    const int k = t->c.node.n_out;
    op_out_vector(&t->c, k, can_add, rank, dim);
    const int64_t n = op_count(&t->c.out[k]);
    if (can_add) t->can_add |= 1u << k;
    t->start[k] = t->c.before[k];
    t->want[k] = op_doubles(n);
    t->simple[k] = op_doubles(n);
    t->naive[k] = op_floats(n);
}

static inline void sweep_out(struct op_sweep *t, bool can_add, int32_t rank, const int64_t *dim)
{
    t->c.out_storage[t->c.node.n_out] = true;
    sweep_out_vector(t, can_add, rank, dim);
}

/* The next output, of int32. */
static inline void sweep_out_index(struct op_sweep *t, int32_t rank, const int64_t *dim)
{
    sweep_out_vector(t, false, rank, dim);
    t->c.out[t->c.node.n_out - 1].dtype = PK_I32;
}

static inline void sweep_out_absent(struct op_sweep *t)
{
    t->c.node.n_out++;
}

/* Element i of float input k. */
static inline double sweep_at(const struct op_case *t, int k, int64_t i)
{
    return (double)((const float *)t->data[k])[i];
}

/* The kernel of one variant once, assigning, for what op_run does not ask. */
static inline enum pk_status sweep_call(struct op_sweep *t, const struct op_variant *v)
{
    t->c.node.accumulate = 0;
    for (int k = 0; k < PK_NODE_OUT; k++) t->c.before[k] = NULL;
    t->c.variant = v;
    return op_call(&t->c);
}

/* The same with data that every variant must refuse (op_check_refused). */
static inline void sweep_refused(struct op_sweep *t, enum op_fault_code code, int64_t record,
                                 int64_t value, const char *text)
{
    int count;
    const struct op_variant *v = op_variants(&count);
    t->c.node.accumulate = 0;
    for (int k = 0; k < PK_NODE_OUT; k++) t->c.before[k] = NULL;
    for (int i = 0; i < count; i++) {
        t->c.variant = &v[i];
        op_check_refused(&t->c, code, record, value, text);
    }
}

static inline void sweep_free(struct op_sweep *t)
{
    for (int k = 0; k < PK_NODE_OUT; k++) {
        t->c.before[k] = t->start[k];
        free(t->want[k]);
        free(t->simple[k]);
        free(t->naive[k]);
    }
    op_end(&t->c);
}

static inline void sweep_compare(struct op_sweep *t, int k)
{
    const struct pk_value *v = &t->c.out[k];
    const float *before = t->c.before[k];
    const bool exact = t->exact == SWEEP_EXACT || (t->exact == SWEEP_EXACT_ASSIGNED && !before);
    int64_t bad = 0;
    for (int64_t i = 0; i < op_count(v); i++) {
        const float sum = before ? before[i] + t->naive[k][i] : t->naive[k][i];
        const double want = v->dtype == PK_I32 ? t->want[k][i] : (double)op_round_to(v->dtype, sum);
        if ((exact || v->dtype == PK_I32) && !(op_got(&t->c, k, i) == want)) bad++;
    }
    if (bad)
        fprintf(stderr, "%s, %s, %s: output %d differs at %lld elements\n", op_name_(t->c.node.op),
                t->c.variant->name, t->why, k, (long long)bad);
    CHECK(!bad);
    if (v->dtype != PK_I32) op_check(&t->c, k, t->naive[k], t->want[k], t->why);
}

/* What the reference makes of the inputs as the variant stores them. */
static inline void sweep_refer_(struct op_sweep *t)
{
    op_settle(&t->c);
    t->reference(&t->c, sweep_identity, t->want);
    t->reference(&t->c, sweep_single, t->simple);
    for (int k = 0; k < PK_NODE_OUT; k++)
        for (int64_t i = 0; t->naive[k] && i < op_count(&t->c.out[k]); i++)
            t->naive[k][i] = (float)t->simple[k][i];
}

/* Runs and checks the case, then frees it. */
static inline void sweep_run(struct op_sweep *t)
{
    int count;
    const struct op_variant *v = op_variants(&count);
    for (int i = 0; i < count; i++) {
        t->c.variant = &v[i];
        for (int k = 0; k < PK_NODE_OUT; k++) t->c.before[k] = t->start[k];
        if (!op_there(&v[i], t->c.node.op)) continue;
        if (!i || v[i].storage != v[i - 1].storage) sweep_refer_(t);
        for (uint32_t add = 0; add <= t->can_add; add++) {
            if (add & ~t->can_add) continue;
            t->c.node.accumulate = add;
            for (int k = 0; k < PK_NODE_OUT; k++)
                t->c.before[k] = add >> k & 1 ? t->start[k] : NULL;
            if (!op_run(&t->c, t->workspace)) continue;
            for (int k = 0; k < PK_NODE_OUT; k++)
                if (t->c.call.out[k]) sweep_compare(t, k);
        }
    }
    sweep_free(t);
}

#endif
