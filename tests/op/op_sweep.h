/* op_sweep.h -- one case run by every instruction set of this machine and with every accumulate bit
 * both ways, on top of op_case.h.
 *
 * The reference is written once, with every operation going through R(). With R the identity it
 * runs in double; with R rounding to float it is the naive single-precision algorithm (an operation
 * on floats computed in double and rounded once is the float operation). */
#ifndef PK_OP_SWEEP_H
#define PK_OP_SWEEP_H

#include "core/view.h"
#include "tests/op/op_case.h"

typedef double (*sweep_round)(double);

struct op_sweep {
    struct op_case c;
    const char *why;             // what this size is for
    bool exact;                  // results must equal the naive float algorithm to the last bit
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
    memset(t, 0, sizeof *t);
    op_begin(&t->c, op, PK_ISA_PORTABLE);
    t->why = why;
}

/* The next input: standard normal when float, zero otherwise. Returns its data. */
static inline void *sweep_in(struct op_sweep *t, enum pk_dtype dtype, int32_t rank,
                             const int64_t *dim)
{
    const int slot = t->c.node.n_in;
    return dtype == PK_F32 ? (void *)op_in(&t->c, slot, rank, dim)
                           : op_in_of(&t->c, slot, dtype, rank, dim);
}

static inline void sweep_in_absent(struct op_sweep *t)
{
    t->c.node.n_in++;
}

/* The next output, of float or int32. */
static inline void sweep_out(struct op_sweep *t, enum pk_dtype dtype, bool can_add, int32_t rank,
                             const int64_t *dim)
{
    const int k = t->c.node.n_out;
    op_out(&t->c, k, can_add, rank, dim);
    t->c.out[k].dtype = dtype;
    const int64_t n = op_count(&t->c.out[k]);
    if (can_add) t->can_add |= 1u << k;
    t->start[k] = t->c.before[k];
    t->want[k] = op_doubles(n);
    t->simple[k] = op_doubles(n);
    t->naive[k] = op_floats(n);
}

static inline void sweep_out_absent(struct op_sweep *t)
{
    t->c.node.n_out++;
}

/* Element i of float input k. */
static inline double sweep_at(const struct op_case *t, int k, int64_t i)
{
    return (double)((const float *)t->call.src[k])[i];
}

/* The kernel of one instruction set once, for what op_run does not ask. */
static inline enum pk_status sweep_call(struct op_sweep *t, enum pk_isa isa, struct pk_err *err)
{
    t->c.node.accumulate = 0;
    return pk_cpu_table(isa)[t->c.node.op](&t->c.call, err);
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
    const float *got = t->c.call.dst[k], *before = t->c.before[k];
    int64_t bad = 0;
    for (int64_t i = 0; i < op_count(v); i++) {
        int32_t whole;
        memcpy(&whole, &got[i], sizeof whole);
        const float want = before ? before[i] + t->naive[k][i] : t->naive[k][i];
        if (v->dtype == PK_I32 ? whole != t->want[k][i] : t->exact && !(got[i] == want)) bad++;
    }
    if (bad)
        fprintf(stderr, "%s, %s: output %d differs at %lld elements\n", pk_isa_name(t->c.isa),
                t->why, k, (long long)bad);
    CHECK(!bad);
    if (v->dtype == PK_F32) op_check(&t->c, k, t->naive[k], t->want[k], t->why);
}

/* Runs and checks the case, then frees it. */
static inline void sweep_run(struct op_sweep *t)
{
    t->reference(&t->c, sweep_identity, t->want);
    t->reference(&t->c, sweep_single, t->simple);
    for (int k = 0; k < PK_NODE_OUT; k++)
        for (int64_t i = 0; t->naive[k] && i < op_count(&t->c.out[k]); i++)
            t->naive[k][i] = (float)t->simple[k][i];
    for (int isa = 0; isa < PK_ISA_COUNT; isa++)
        for (uint32_t add = 0; op_isa_available((enum pk_isa)isa) && add <= t->can_add; add++) {
            if (add & ~t->can_add) continue;
            t->c.isa = (enum pk_isa)isa;
            t->c.node.accumulate = add;
            for (int k = 0; k < PK_NODE_OUT; k++)
                t->c.before[k] = add >> k & 1 ? t->start[k] : NULL;
            if (!op_run(&t->c, 0)) continue;
            for (int k = 0; k < PK_NODE_OUT; k++)
                if (t->c.call.dst[k]) sweep_compare(t, k);
        }
    sweep_free(t);
}

#endif
