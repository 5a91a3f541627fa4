/* op_case.h -- runs one kernel on hand-made values and judges what it wrote.
 *
 *     struct op_case t;
 *     op_begin(&t, PK_OP_GELU, variant);
 *     float *x = op_in(&t, 0, OP_DIMS(rows, cols)); // standard normal values, which may be changed
 *     op_out(&t, 0, false, OP_DIMS(rows, cols));    // true: the kernel adds to it
 *     op_settle(&t);                                // x now holds what the kernel will see
 *     ... naive[] and exact[] from x ...
 *     if (op_run(&t, workspace_bytes)) op_check(&t, 0, naive, exact, "65 rows");
 *     op_end(&t);
 *
 * Inputs and outputs are declared in the storage type of the variant (op_in, op_out: activations
 * and matrices), as always float (op_in_vector, op_out_vector: vectors, tables, statistics, losses
 * and gradients of parameters), or of an integer type. The test's own values are always float: for
 * bf16 op_settle rounds them, and the kernel gets a bf16 copy.
 *
 * Every output is poisoned with NaN (or holds known values where the kernel adds to it) and stands
 * between guards; so do the workspace and the inputs, where the guards are NaN and must not be read
 * either. op_run runs the kernel twice, the second time on a workspace with other rubbish in it
 * (and on the host executor with threads in another order), and demands the same bits and untouched
 * inputs. op_check.h judges, op_sweep.h runs one case for all variants and accumulate bits. */
#ifndef PK_OP_CASE_H
#define PK_OP_CASE_H

#include "core/rng.h"
#include "tests/op/op_variant.h"
#include "tests/test.h"

enum { OP_GUARD = 256 }; // guard bytes on each side; keeps values 64-byte aligned

struct op_case {
    union {
        struct {
            struct pk_value in[PK_NODE_IN], out[PK_NODE_OUT];
        };
        struct pk_value value[PK_NODE_IN + PK_NODE_OUT]; // numbered as node.in and node.out
    };
    struct pk_node node;
    struct pk_call call;
    const struct op_variant *variant;
    void *data[PK_NODE_IN];                                // what the test wrote; floats for bf16
    float *before[PK_NODE_OUT];                            // what an accumulated output held
    bool in_storage[PK_NODE_IN], out_storage[PK_NODE_OUT]; // of the variant's storage type
    int64_t parts[PK_NODE_OUT];  // columns are this many parts of different scale; 0 is 1
    char *in_base[PK_NODE_IN];   // guard, what the kernel sees, guard
    char *out_base[PK_NODE_OUT]; // guard, what the kernel writes, guard
    struct pk_rng rng;
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

/* bfloat16 is the upper half of a float, rounded to nearest even. */
static inline uint16_t op_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if (isnan(x)) return (uint16_t)(u >> 16 | 64);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float op_from_bf16(uint16_t h)
{
    const uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float op_round_to(enum pk_dtype dtype, float x)
{
    return dtype == PK_BF16 ? op_from_bf16(op_bf16(x)) : x;
}

/* x as it comes back from a value of the storage type. */
static inline double op_stored(const struct op_case *t, double x)
{
    return t->variant->storage == PK_BF16 ? (double)op_round_to(PK_BF16, (float)x) : x;
}

static inline void op_begin(struct op_case *t, enum pk_op op, const struct op_variant *variant)
{
    memset(t, 0, sizeof *t);
    t->node.op = op;
    t->node.scope = 7; // where the name of the node would be; faults repeat it
    t->call.node = &t->node;
    t->call.queue = op_device_queue();
    t->variant = variant;
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
    op_shape_(&t->in[slot], rank, dim);
    t->in[slot].dtype = dtype;
    const size_t bytes = op_bytes_(&t->in[slot]);
    t->data[slot] = op_alloc((int64_t)bytes, 1);
    memset(t->data[slot], 0, PK_MAX(bytes, 1u));
    t->call.in[slot] = &t->in[slot];
    t->node.in[slot] = slot;
    t->node.n_in = PK_MAX(t->node.n_in, slot + 1);
    return t->data[slot];
}

/* Adds a float input of standard normal values, which the caller may change. */
static inline float *op_in_vector(struct op_case *t, int slot, int32_t rank, const int64_t *dim)
{
    float *p = op_in_of(t, slot, PK_F32, rank, dim);
    for (int64_t i = 0; i < op_count(&t->in[slot]); i++) p[i] = (float)pk_rng_normal(&t->rng);
    return p;
}

/* The same in the storage type. */
static inline float *op_in(struct op_case *t, int slot, int32_t rank, const int64_t *dim)
{
    t->in_storage[slot] = true;
    return op_in_vector(t, slot, rank, dim);
}

/* Adds a float output, or one in the storage type; integer outputs change out[slot].dtype. */
static inline void op_out_vector(struct op_case *t, int slot, bool accumulate, int32_t rank,
                                 const int64_t *dim)
{
    op_shape_(&t->out[slot], rank, dim);
    const int64_t n = op_count(&t->out[slot]);
    t->call.out[slot] = &t->out[slot];
    t->node.out[slot] = PK_NODE_IN + slot;
    t->node.n_out = PK_MAX(t->node.n_out, slot + 1);
    if (!accumulate) return;
    t->node.accumulate |= 1u << slot;
    t->before[slot] = op_floats(n);
    for (int64_t i = 0; i < n; i++) t->before[slot][i] = (float)pk_rng_normal(&t->rng);
}

static inline void op_out(struct op_case *t, int slot, bool accumulate, int32_t rank,
                          const int64_t *dim)
{
    t->out_storage[slot] = true;
    op_out_vector(t, slot, accumulate, rank, dim);
}

/* Rounds the test's values to what the variant's storage type holds. May be called again after
 * further changes. */
static inline void op_settle(struct op_case *t)
{
    const enum pk_dtype storage = t->variant->storage;
    for (int k = 0; k < PK_NODE_IN; k++) {
        float *x = t->data[k];
        if (!x || !t->in_storage[k]) continue;
        t->in[k].dtype = storage;
        for (int64_t i = 0; i < op_count(&t->in[k]); i++) x[i] = op_round_to(storage, x[i]);
    }
    for (int k = 0; k < PK_NODE_OUT; k++) {
        float *x = t->before[k];
        if (!t->out_storage[k]) continue;
        t->out[k].dtype = storage;
        for (int64_t i = 0; x && i < op_count(&t->out[k]); i++) x[i] = op_round_to(storage, x[i]);
    }
}

/* NaN in float and in bf16, and no index: outputs before they are written, guards of inputs. */
static inline void op_poison_bytes_(char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) at[i] = (char)(i % 2 ? 0xff : 0xc5);
}

/* Guards of outputs and workspaces: about 4e-11 in float and in bf16, so that a kernel that adds to
 * them changes them. */
enum { OP_CANARY = 0x2e };

static inline void op_guard_(char *base, size_t bytes)
{
    memset(base, OP_CANARY, OP_GUARD);
    memset(base + OP_GUARD + bytes, OP_CANARY, OP_GUARD);
}

static inline bool op_guard_ok_(const char *base, size_t bytes)
{
    bool ok = true;
    for (size_t i = 0; i < OP_GUARD; i++)
        ok = ok && base[i] == OP_CANARY && base[OP_GUARD + bytes + i] == OP_CANARY;
    return ok;
}

/* n floats into a buffer of the type. */
static inline void op_encode_(void *to, enum pk_dtype dtype, const float *x, int64_t n)
{
    if (dtype == PK_BF16)
        for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[i] = op_bf16(x[i]);
    else
        memcpy(to, x, (size_t)n * sizeof *x);
}

/* Element i of what the kernel wrote into output k. */
static inline double op_got(const struct op_case *t, int k, int64_t i)
{
    const void *y = t->call.dst[k];
    if (t->out[k].dtype == PK_I32) return ((const int32_t *)y)[i];
    if (t->out[k].dtype == PK_BF16) return (double)op_from_bf16(((const uint16_t *)y)[i]);
    return (double)((const float *)y)[i];
}

/* Settles, and lays out what the kernel reads. */
static inline void op_place_(struct op_case *t)
{
    op_settle(t);
    for (int k = 0; k < PK_NODE_IN; k++) {
        const size_t bytes = op_bytes_(&t->in[k]);
        if (!t->data[k]) continue;
        op_device_free(t->in_base[k]);
        t->in_base[k] = op_device_alloc(bytes + 2 * OP_GUARD);
        op_poison_bytes_(t->in_base[k], bytes + 2 * OP_GUARD);
        t->call.src[k] = t->in_base[k] + OP_GUARD;
        if (t->in[k].dtype == PK_BF16)
            op_encode_(t->in_base[k] + OP_GUARD, PK_BF16, t->data[k], op_count(&t->in[k]));
        else
            memcpy(t->in_base[k] + OP_GUARD, t->data[k], bytes);
    }
    for (int k = 0; k < PK_NODE_OUT; k++) {
        if (!t->call.out[k]) continue;
        op_device_free(t->out_base[k]);
        t->out_base[k] = op_device_alloc(op_bytes_(&t->out[k]) + 2 * OP_GUARD);
        t->call.dst[k] = t->out_base[k] + OP_GUARD;
    }
}

/* Poisons the outputs, or gives them what they are to be added to. */
static inline void op_poison_(struct op_case *t)
{
    for (int k = 0; k < PK_NODE_OUT; k++) {
        const size_t bytes = op_bytes_(&t->out[k]);
        if (!t->call.out[k]) continue;
        op_guard_(t->out_base[k], bytes);
        if (t->before[k])
            op_encode_(t->call.dst[k], t->out[k].dtype, t->before[k], op_count(&t->out[k]));
        else
            op_poison_bytes_(t->call.dst[k], bytes);
    }
}

static inline void op_check_guards_(const struct op_case *t)
{
    for (int k = 0; k < PK_NODE_OUT; k++)
        if (t->call.out[k]) CHECK(op_guard_ok_(t->out_base[k], op_bytes_(&t->out[k])));
}

/* The kernel once, done when this returns. */
static inline enum pk_status op_enqueue_(struct op_case *t)
{
    enum pk_status s = t->variant->kernel[t->node.op](&t->call, &t->err);
    const enum pk_status done = op_device_sync(s == PK_OK ? &t->err : NULL);
    return s == PK_OK ? done : s;
}

static inline void op_turn_(struct op_case *t, char *work, size_t scratch, float rubbish)
{
    for (size_t i = 0; i < scratch / sizeof(float); i++)
        memcpy(work + OP_GUARD + i * sizeof(float), &rubbish, sizeof rubbish);
    op_guard_(work, scratch);
    op_poison_(t);
    CHECK_OK(op_enqueue_(t), &t->err);
    CHECK(op_device_fault().code == OP_FAULT_NONE);
    CHECK(op_guard_ok_(work, scratch));
    op_check_guards_(t);
}

/* A hash of each input with its guards. */
static inline void op_hash_inputs_(const struct op_case *t, uint64_t hash[PK_NODE_IN])
{
    for (int i = 0; i < PK_NODE_IN; i++)
        hash[i] =
            t->in_base[i] ? pk_hash64(t->in_base[i], op_bytes_(&t->in[i]) + 2 * OP_GUARD, 0) : 0;
}

/* Ops of the table that have no kernel yet. */
static bool op_missing_[PK_OP_COUNT];

/* False, and remembered for the end, when the table has no kernel for the op. */
static inline bool op_there(const struct op_variant *v, enum pk_op op)
{
    if (!v->kernel[op]) op_missing_[op] = true;
    return v->kernel[op] != NULL;
}

/* Whether the variant has time for a case of so many multiply-adds. */
static inline bool op_affords(const struct op_variant *v, double work)
{
    return work <= v->work;
}

/* Bytes of scratch that the op asks for, in whole floats. */
static inline size_t op_scratch_(struct op_case *t, size_t workspace_bytes)
{
    if (t->variant->workspace) {
        const struct pk_prog p = {.value = t->value,
                                  .values = PK_COUNT(t->value),
                                  .node = &t->node,
                                  .nodes = 1,
                                  .loss = -1,
                                  .seed = -1};
        const pk_workspace ask = t->variant->workspace[t->node.op];
        workspace_bytes = ask ? ask(&p, &t->node) : 0;
    }
    return (workspace_bytes + sizeof(float) - 1) / sizeof(float) * sizeof(float);
}

/* Lends the call a workspace between guards; give it back with op_device_free. */
static inline char *op_lend_(struct op_case *t, size_t scratch)
{
    char *work = op_device_alloc(scratch + 2 * OP_GUARD);
    op_guard_(work, scratch);
    t->call.workspace = work + OP_GUARD;
    return work;
}

/* Runs the kernel twice; true when it succeeded, kept to its outputs and repeated itself.
 * workspace_bytes is for variants that leave it to the test. */
static inline bool op_run(struct op_case *t, size_t workspace_bytes)
{
    if (!op_there(t->variant, t->node.op)) return false;
    const int bad = test_bad_;
    uint64_t inputs[2][PK_NODE_IN];
    void *first[PK_NODE_OUT] = {NULL};
    op_place_(t);
    const size_t scratch = op_scratch_(t, workspace_bytes);
    char *work = op_lend_(t, scratch);
    CHECK_OK(op_device_prepare(&t->call, &t->err), &t->err);
    op_hash_inputs_(t, inputs[0]);
    op_device_order(0);
    op_turn_(t, work, scratch, (float)NAN);
    for (int k = 0; k < PK_NODE_OUT; k++) {
        const size_t bytes = op_bytes_(&t->out[k]);
        if (!t->call.out[k]) continue;
        first[k] = op_alloc((int64_t)bytes, 1);
        memcpy(first[k], t->call.dst[k], bytes);
    }
    op_device_order(1);
    op_turn_(t, work, scratch, -3e38f);
    for (int k = 0; k < PK_NODE_OUT; k++) {
        if (first[k]) CHECK(!memcmp(first[k], t->call.dst[k], op_bytes_(&t->out[k])));
        free(first[k]);
    }
    op_device_free(work);
    op_hash_inputs_(t, inputs[1]);
    CHECK(!memcmp(inputs[0], inputs[1], sizeof inputs[0]));
    if (test_bad_ > bad) fprintf(stderr, "  in %s, %s\n", op_name_(t->node.op), t->variant->name);
    return test_bad_ == bad;
}

/* The kernel once with a workspace, for what op_run does not ask; the caller has checked op_there.
 */
static inline enum pk_status op_call(struct op_case *t)
{
    op_place_(t);
    char *work = op_lend_(t, op_scratch_(t, 0));
    op_poison_(t);
    const enum pk_status s = op_enqueue_(t);
    op_device_free(work);
    return s;
}

/* Data the kernel must refuse. The CPU returns PK_EDATA at once, with this in its message (NULL: it
 * relies on the loader's check and is not asked); a device goes on without reading or writing out
 * of bounds and raises a fault that names the record and the number. */
static inline void op_check_refused(struct op_case *t, enum op_fault_code code, int64_t record,
                                    int64_t value, const char *text)
{
    const int bad = test_bad_;
    if (!t->variant->device && !text) return;
    if (!op_there(t->variant, t->node.op)) return;
    const enum pk_status s = op_call(t);
    if (!t->variant->device) {
        CHECK_FAILS(s, PK_EDATA, &t->err, text ? text : "");
    } else {
        const struct op_fault f = op_device_fault();
        int64_t holes = 0;
        CHECK_OK(s, &t->err);
        CHECK(f.code == code && f.record == record && f.value == value);
        CHECK(f.node == t->node.scope);
        for (int k = 0; k < PK_NODE_OUT; k++)
            for (int64_t i = 0; t->call.out[k] && i < op_count(&t->out[k]); i++)
                holes += isnan(op_got(t, k, i)) != 0;
        CHECK(!holes); // zeros, not what was there before
        if (test_bad_ > bad)
            fprintf(stderr, "  fault %d, record %lld, value %lld; wanted %d, %lld, %lld\n", f.code,
                    (long long)f.record, (long long)f.value, code, (long long)record,
                    (long long)value);
    }
    op_check_guards_(t);
    if (test_bad_ > bad) fprintf(stderr, "  in %s, %s\n", op_name_(t->node.op), t->variant->name);
}

static inline void op_end(struct op_case *t)
{
    for (int k = 0; k < PK_NODE_IN; k++) {
        free(t->data[k]);
        op_device_free(t->in_base[k]);
    }
    for (int k = 0; k < PK_NODE_OUT; k++) {
        op_device_free(t->out_base[k]);
        free(t->before[k]);
    }
}

/* Exit status of the program, after the ops that were asked for and not there: they are failures,
 * or, with PK_TEST_ALLOW_MISSING=1 while kernels are being written, only named; 77 when nothing at
 * all ran. */
static inline int op_test_end(void)
{
    const char *allow = getenv("PK_TEST_ALLOW_MISSING");
    int missing = 0;
    for (int op = 0; op < PK_OP_COUNT; op++) {
        if (!op_missing_[op]) continue;
        fprintf(stderr, "missing kernel: %s\n", op_name_((enum pk_op)op));
        missing++;
    }
    if (allow && !strcmp(allow, "1")) {
        if (missing && !test_bad_ && !test_good_) return 77;
    } else {
        test_bad_ += missing;
    }
    return TEST_END();
}

#include "tests/op/op_check.h"

#endif
