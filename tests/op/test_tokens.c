/* test_tokens.c -- gather, positions, prepend, slice, assemble, mean pool, and their gradients. */
#include "tests/op/op_sweep.h"

static const struct {
    int64_t batch, tokens, cols, keep;
    const char *why;
} shapes[] = {
    {1, 1, 1, 1, "one number"},
    {2, 5, 7, 2, "less than a vector"},
    {3, 9, 64, 4, "whole vectors, one tile of columns"},
    {4, 11, 65, 11, "one column beyond a tile; every token kept"},
    {2, 200, 193, 40, "the pretraining mask"},
    {3, 50, 8, 20, "one vector of bf16"},
    {2, 33, 100, 7, "whole vectors of float, not of bf16"},
    {131, 3, 24, 1, "sums over many records"},
    {2, 200, 384, 41, "ViT-S"},
    {1, 4, 3000, 3, "few wide rows"},
};

typedef void (*ref)(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT]);

/* keep distinct indices below tokens for each record, in no order; the rest go to `other`. */
static void fill_indices(struct op_sweep *t, int32_t *index, int32_t *other, size_t s)
{
    const int64_t n = shapes[s].tokens, keep = shapes[s].keep;
    for (int64_t b = 0; b < shapes[s].batch; b++) {
        const uint64_t key = pk_rng_u64(&t->c.rng);
        for (int64_t i = 0; i < n; i++) {
            const int32_t v = (int32_t)pk_bijection((uint64_t)i, (uint64_t)n, key);
            if (i < keep)
                index[b * keep + i] = v;
            else if (other)
                other[b * (n - keep) + i - keep] = v;
        }
    }
}

static int32_t index_at(const struct op_case *t, int k, int64_t i)
{
    return ((const int32_t *)t->data[k])[i];
}

static void zero(double *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = 0;
}

static void gather(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *x = t->in[0].dim, keep = t->in[1].dim[1];
    (void)R;
    for (int64_t b = 0; b < x[0]; b++)
        for (int64_t k = 0; k < keep; k++)
            for (int64_t c = 0; c < x[2]; c++)
                y[0][(b * keep + k) * x[2] + c] =
                    sweep_at(t, 0, (b * x[1] + index_at(t, 1, b * keep + k)) * x[2] + c);
}

static void gather_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *x = t->out[0].dim, keep = t->in[1].dim[1];
    (void)R;
    zero(y[0], x[0] * x[1] * x[2]);
    for (int64_t b = 0; b < x[0]; b++)
        for (int64_t k = 0; k < keep; k++)
            for (int64_t c = 0; c < x[2]; c++)
                y[0][(b * x[1] + index_at(t, 1, b * keep + k)) * x[2] + c] =
                    sweep_at(t, 0, (b * keep + k) * x[2] + c);
}

static void position(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *x = t->in[0].dim;
    for (int64_t r = 0; r < x[0] * x[1]; r++)
        for (int64_t c = 0; c < x[2]; c++) {
            const int64_t p = t->data[2] ? index_at(t, 2, r) : r % x[1];
            y[0][r * x[2] + c] = R(sweep_at(t, 0, r * x[2] + c) + sweep_at(t, 1, p * x[2] + c));
        }
}

static void prepend(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *o = t->out[0].dim;
    (void)R;
    for (int64_t b = 0; b < o[0]; b++)
        for (int64_t i = 0; i < o[1]; i++)
            for (int64_t c = 0; c < o[2]; c++)
                y[0][(b * o[1] + i) * o[2] + c] =
                    i ? sweep_at(t, 1, (b * (o[1] - 1) + i - 1) * o[2] + c) : sweep_at(t, 0, c);
}

static void prepend_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *d = t->in[0].dim;
    if (y[0]) zero(y[0], d[2]);
    for (int64_t b = 0; b < d[0]; b++)
        for (int64_t i = 0; i < d[1]; i++)
            for (int64_t c = 0; c < d[2]; c++) {
                const double v = sweep_at(t, 0, (b * d[1] + i) * d[2] + c);
                if (!i && y[0]) y[0][c] = R(y[0][c] + v);
                if (i && y[1]) y[1][(b * (d[1] - 1) + i - 1) * d[2] + c] = v;
            }
}

static void slice(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *x = t->in[0].dim, n = t->node.attr.slice.count;
    (void)R;
    for (int64_t b = 0; b < x[0]; b++)
        for (int64_t i = 0; i < n * x[2]; i++)
            y[0][b * n * x[2] + i] =
                sweep_at(t, 0, (b * x[1] + t->node.attr.slice.start) * x[2] + i);
}

static void slice_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *x = t->out[0].dim, n = t->node.attr.slice.count;
    (void)R;
    zero(y[0], x[0] * x[1] * x[2]);
    for (int64_t b = 0; b < x[0]; b++)
        for (int64_t i = 0; i < n * x[2]; i++)
            y[0][(b * x[1] + t->node.attr.slice.start) * x[2] + i] =
                sweep_at(t, 0, b * n * x[2] + i);
}

static void assemble(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *x = t->in[0].dim, hide = t->in[4].dim[1], n = x[1] + hide;
    for (int64_t b = 0; b < x[0]; b++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t c = 0; c < x[2]; c++) {
                const bool kept = i < x[1];
                const double v =
                    kept ? sweep_at(t, 0, (b * x[1] + i) * x[2] + c) : sweep_at(t, 1, c);
                const int32_t p =
                    kept ? index_at(t, 3, b * x[1] + i) : index_at(t, 4, b * hide + i - x[1]);
                y[0][(b * n + i) * x[2] + c] = R(v + sweep_at(t, 2, p * x[2] + c));
            }
}

static void assemble_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *d = t->in[0].dim, keep = t->in[1].dim[1];
    if (y[1]) zero(y[1], d[2]);
    for (int64_t b = 0; b < d[0]; b++)
        for (int64_t i = 0; i < d[1]; i++)
            for (int64_t c = 0; c < d[2]; c++) {
                const double v = sweep_at(t, 0, (b * d[1] + i) * d[2] + c);
                if (i < keep && y[0]) y[0][(b * keep + i) * d[2] + c] = v;
                if (i >= keep && y[1]) y[1][c] = R(y[1][c] + v);
            }
}

static void pool(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *x = t->in[0].dim, skip = t->node.attr.pool.skip;
    for (int64_t b = 0; b < x[0]; b++)
        for (int64_t c = 0; c < x[2]; c++) {
            double sum = 0;
            for (int64_t i = skip; i < x[1]; i++)
                sum = R(sum + sweep_at(t, 0, (b * x[1] + i) * x[2] + c));
            y[0][b * x[2] + c] = R(sum * R(1 / (double)(x[1] - skip)));
        }
}

static void pool_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t *x = t->out[0].dim, skip = t->node.attr.pool.skip;
    for (int64_t b = 0; b < x[0]; b++)
        for (int64_t i = 0; i < x[1]; i++)
            for (int64_t c = 0; c < x[2]; c++)
                y[0][(b * x[1] + i) * x[2] + c] =
                    i < skip ? 0 : R(sweep_at(t, 0, b * x[2] + c) * R(1 / (double)(x[1] - skip)));
}

static void start(struct op_sweep *t, enum pk_op op, ref reference, size_t s)
{
    sweep_begin(t, op, shapes[s].why);
    t->reference = reference;
}

static void test_gather(size_t s)
{
    const int64_t B = shapes[s].batch, T = shapes[s].tokens, C = shapes[s].cols, K = shapes[s].keep;
    struct op_sweep t;
    start(&t, PK_OP_GATHER_TOKENS, gather, s);
    t.exact = SWEEP_EXACT;
    sweep_in(&t, DIMS(B, T, C));
    fill_indices(&t, sweep_in_of(&t, PK_I32, DIMS(B, K)), NULL, s);
    sweep_out(&t, false, DIMS(B, K, C));
    sweep_run(&t);
    start(&t, PK_OP_GATHER_TOKENS_GRAD, gather_grad, s);
    t.exact = SWEEP_EXACT;
    sweep_in(&t, DIMS(B, K, C));
    fill_indices(&t, sweep_in_of(&t, PK_I32, DIMS(B, K)), NULL, s);
    sweep_out(&t, true, DIMS(B, T, C));
    sweep_run(&t);
}

static void test_position(size_t s, bool indexed)
{
    const int64_t B = shapes[s].batch, T = shapes[s].tokens, C = shapes[s].cols, K = shapes[s].keep;
    struct op_sweep t;
    start(&t, PK_OP_ADD_POSITION, position, s);
    t.exact = SWEEP_EXACT;
    sweep_in(&t, DIMS(B, K, C));
    sweep_in_vector(&t, DIMS(T, C)); // a table longer than the tokens
    if (indexed)
        fill_indices(&t, sweep_in_of(&t, PK_I32, DIMS(B, K)), NULL, s);
    else
        sweep_in_absent(&t);
    sweep_out(&t, false, DIMS(B, K, C));
    sweep_run(&t);
}

/* wanted: bit k says that output k of the gradient is asked for. */
static void test_prepend(size_t s, int wanted)
{
    const int64_t B = shapes[s].batch, T = shapes[s].tokens, C = shapes[s].cols;
    struct op_sweep t;
    start(&t, PK_OP_PREPEND_TOKEN, prepend, s);
    t.exact = SWEEP_EXACT;
    sweep_in_vector(&t, DIMS(C));
    sweep_in(&t, DIMS(B, T, C));
    sweep_out(&t, false, DIMS(B, T + 1, C));
    sweep_run(&t);
    start(&t, PK_OP_PREPEND_TOKEN_GRAD, prepend_grad, s);
    sweep_in(&t, DIMS(B, T + 1, C));
    if (wanted & 1)
        sweep_out_vector(&t, true, DIMS(C));
    else
        sweep_out_absent(&t);
    if (wanted & 2)
        sweep_out(&t, true, DIMS(B, T, C));
    else
        sweep_out_absent(&t);
    sweep_run(&t);
}

static void test_slice(size_t s, int64_t from, int64_t count)
{
    const int64_t B = shapes[s].batch, T = shapes[s].tokens, C = shapes[s].cols;
    if (from + count > T) return;
    struct op_sweep t;
    start(&t, PK_OP_SLICE_TOKENS, slice, s);
    t.exact = SWEEP_EXACT;
    t.c.node.attr.slice.start = (int32_t)from;
    t.c.node.attr.slice.count = (int32_t)count;
    sweep_in(&t, DIMS(B, T, C));
    sweep_out(&t, false, DIMS(B, count, C));
    sweep_run(&t);
    start(&t, PK_OP_SLICE_TOKENS_GRAD, slice_grad, s);
    t.exact = SWEEP_EXACT;
    t.c.node.attr.slice.start = (int32_t)from;
    t.c.node.attr.slice.count = (int32_t)count;
    sweep_in(&t, DIMS(B, count, C));
    sweep_out(&t, true, DIMS(B, T, C));
    sweep_run(&t);
}

static void test_assemble(size_t s, int wanted)
{
    const int64_t B = shapes[s].batch, T = shapes[s].tokens, C = shapes[s].cols, K = shapes[s].keep;
    struct op_sweep t;
    start(&t, PK_OP_ASSEMBLE_TOKENS, assemble, s);
    t.exact = SWEEP_EXACT;
    sweep_in(&t, DIMS(B, K, C));
    sweep_in_vector(&t, DIMS(C));
    sweep_in_vector(&t, DIMS(T, C));
    int32_t *kept = sweep_in_of(&t, PK_I32, DIMS(B, K)),
            *hidden = sweep_in_of(&t, PK_I32, DIMS(B, T - K));
    fill_indices(&t, kept, hidden, s);
    sweep_out(&t, false, DIMS(B, T, C));
    sweep_run(&t);
    start(&t, PK_OP_ASSEMBLE_TOKENS_GRAD, assemble_grad, s);
    sweep_in(&t, DIMS(B, T, C));
    sweep_in_of(&t, PK_I32, DIMS(B, K));
    if (wanted & 1)
        sweep_out(&t, true, DIMS(B, K, C));
    else
        sweep_out_absent(&t);
    if (wanted & 2)
        sweep_out_vector(&t, true, DIMS(C));
    else
        sweep_out_absent(&t);
    sweep_run(&t);
}

static void test_pool(size_t s, int32_t skip)
{
    const int64_t B = shapes[s].batch, T = shapes[s].tokens, C = shapes[s].cols;
    if (skip >= T) return;
    struct op_sweep t;
    start(&t, PK_OP_MEAN_POOL, pool, s);
    t.c.node.attr.pool.skip = skip;
    sweep_in(&t, DIMS(B, T, C));
    sweep_out(&t, false, DIMS(B, C));
    sweep_run(&t);
    start(&t, PK_OP_MEAN_POOL_GRAD, pool_grad, s);
    t.c.node.attr.pool.skip = skip;
    sweep_in(&t, DIMS(B, C));
    sweep_in(&t, DIMS(B, T, C));
    sweep_out(&t, true, DIMS(B, T, C));
    sweep_run(&t);
}

/* An index out of range is refused, never followed, in every place where one is read. */
static void test_bad_index(enum pk_op op, int index_slot)
{
    struct op_sweep t;
    enum { B = 2, T = 4, K = 2, C = 3 };
    const int64_t tokens = op == PK_OP_GATHER_TOKENS ? T : K;
    const int32_t bad[] = {T, -1, INT32_MAX, INT32_MIN};
    int32_t *index = NULL;
    sweep_begin(&t, op, "index out of range");
    sweep_in(&t, DIMS(B, tokens, C));
    if (op == PK_OP_ASSEMBLE_TOKENS) sweep_in_vector(&t, DIMS(C));
    if (op == PK_OP_ASSEMBLE_TOKENS || op == PK_OP_ADD_POSITION) sweep_in_vector(&t, DIMS(T, C));
    while (t.c.node.n_in <= index_slot || (op == PK_OP_ASSEMBLE_TOKENS && t.c.node.n_in < 5)) {
        int32_t *p = sweep_in_of(&t, PK_I32, DIMS(B, K));
        if (t.c.node.n_in - 1 == index_slot) index = p;
        for (int i = 0; i < B * K; i++) p[i] = i % K; // distinct in a record
    }
    sweep_out(
        &t, false,
        DIMS(B, op == PK_OP_GATHER_TOKENS_GRAD || op == PK_OP_ASSEMBLE_TOKENS ? (int64_t)T : K, C));
    for (size_t k = 0; k < PK_COUNT(bad); k++) {
        char text[32];
        snprintf(text, sizeof text, "index %d ", bad[k]);
        index[3] = bad[k];
        sweep_refused(&t, OP_FAULT_INDEX, 1, bad[k], text);
    }
    sweep_free(&t);
}

int main(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++) {
        test_gather(s);
        test_position(s, false);
        test_position(s, true);
        for (int wanted = 1; wanted < 4; wanted++) {
            test_prepend(s, wanted);
            test_assemble(s, wanted);
        }
        test_slice(s, 0, 1);
        test_slice(s, 1, 3);                // something left out on both sides
        test_slice(s, 0, shapes[s].tokens); // nothing left out
        test_pool(s, 0);
        test_pool(s, 1);
    }
    test_bad_index(PK_OP_GATHER_TOKENS, 1);
    test_bad_index(PK_OP_GATHER_TOKENS_GRAD, 1);
    test_bad_index(PK_OP_ADD_POSITION, 2);
    test_bad_index(PK_OP_ASSEMBLE_TOKENS, 3);
    test_bad_index(PK_OP_ASSEMBLE_TOKENS, 4);
    return op_test_end();
}
