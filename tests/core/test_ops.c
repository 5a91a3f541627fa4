/* test_ops.c -- walks the op table: no op without shape inference, cost, CPU kernels for every
 * instruction set, a CUDA kernel (in a build that has them, for the host executor or a GPU), a
 * gradient or the reason why there is none, and a test of its kernel. */
#include "core/build.h"
#include "core/cpu/kernels.h"
#include "cuda/kernels.h"
#include "tests/test.h"

static const struct {
    const char *name, *up, *test; // "linear", "PK_OP_LINEAR", "tests/op/test_linear.c"
} listed[] = {
#define PK_X(up, text, family) {#text, "PK_OP_" #up, "tests/op/test_" #family ".c"},
    PK_OPS(PK_X)
#undef PK_X
};

/* The file names the op, as a whole word. */
static bool mentions(const char *text, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = strstr(text, word); at; at = strstr(at + n, word)) {
        char next = at[n];
        bool longer = (next >= 'A' && next <= 'Z') || next == '_';
        if (!longer) return true;
    }
    return false;
}

static void test_rows(void)
{
    for (int op = 0; op < PK_OP_COUNT; op++) {
        const struct pk_op_row *row = pk_op_table[op];
        CHECK(row != NULL);
        if (!row) continue;
        bool good = row->name && !strcmp(row->name, listed[op].name) && row->infer && row->flops;
        bool reason = row->no_grad && strlen(row->no_grad) > 5;
        if (!good || (row->grad != NULL) == reason)
            fprintf(stderr, "row of op '%s' has a hole\n", listed[op].name);
        CHECK(good);
        CHECK((row->grad != NULL) != reason);
    }
}

static void test_kernels(void)
{
    for (int isa = 0; isa < PK_ISA_COUNT; isa++) {
        const pk_kernel *kernel = pk_cpu_table((enum pk_isa)isa);
        const struct pk_cpu_flat *flat = pk_cpu_flat((enum pk_isa)isa);
        if (isa == PK_ISA_PORTABLE || isa <= (int)pk_isa_best()) CHECK(kernel && flat);
        if (!kernel || !flat) continue;
        for (int op = 0; op < PK_OP_COUNT; op++) {
            if (!kernel[op])
                fprintf(stderr, "op '%s' has no %s kernel\n", listed[op].name,
                        pk_isa_name((enum pk_isa)isa));
            CHECK(kernel[op]);
        }
        CHECK(flat->adamw && flat->ema && flat->add && flat->square_sum);
    }
}

/* A kernel that was not written fails the link; this is the table itself. */
#ifdef PK_TEST_CUDA
static void test_cuda_kernels(void)
{
    for (int op = 0; op < PK_OP_COUNT; op++) {
        const bool there = pk_cuda_kernels[op] && pk_cuda_workspaces[op];
        if (!there)
            fprintf(stderr, "op '%s' has no CUDA kernel%s\n", listed[op].name,
                    pk_cuda_kernels[op] ? " workspace" : "");
        CHECK(there);
    }
}
#endif

static void test_tests(void)
{
    for (int op = 0; op < PK_OP_COUNT; op++) {
        struct pk_err err = {0};
        char path[PK_PATH_MAX], *text = NULL;
        size_t size;
        CHECK_OK(pk_path(path, &err, "%s/%s", PK_SOURCE_DIR, listed[op].test), &err);
        CHECK_OK(pk_read_file(path, 1 << 20, &text, &size, &err), &err);
        bool there = text && mentions(text, listed[op].up);
        if (!there) fprintf(stderr, "%s does not test %s\n", listed[op].test, listed[op].up);
        CHECK(there);
        free(text);
    }
}

/* Costs of one node, counted by hand. */
static void test_costs(void)
{
    struct pk_prog p;
    struct pk_params params = {0};
    struct pk_err err = {0};
    struct pk_build *b;
    CHECK_OK(pk_build_begin(&b, &p, &params, &err), &err);
    struct pk_val x = pk_input(b, "x", PK_F32, 3, (int64_t[]){2, 5, 8});
    struct pk_val label = pk_input(b, "label", PK_U8, 3, (int64_t[]){2, 5, 3});
    struct pk_val h = pk_attention(b, pk_linear(b, x, 24, "qkv"), 2);
    pk_loss(b, pk_bce_loss(b, pk_linear(b, h, 3, "out"), label));
    CHECK_OK(pk_build_finish(b, &err), &err);
    static const struct {
        enum pk_op op;
        double flops, bytes;
    } cost[] = {
        {PK_OP_LINEAR, 2.0 * 10 * 8 * 24, 4 * (80 + 192 + 240)},
        {PK_OP_ATTENTION, 2 * 2.0 * 2 * 5 * 5 * 8, 4 * (240 + 80 + 20)},
        {PK_OP_ATTENTION_GRAD, 5 * 2.0 * 2 * 5 * 5 * 8, 4 * (80 + 240 + 80 + 20 + 240)},
        {PK_OP_LINEAR_DX, 2.0 * 10 * 3 * 8, 4 * (30 + 24 + 80)},
        {PK_OP_LINEAR_DW, 2.0 * 10 * 3 * 8, 4 * (30 + 80 + 2 * 24)}, // accumulates
    };
    for (size_t i = 0; i < PK_COUNT(cost); i++) {
        int64_t k = 0;
        while (k < p.nodes && p.node[k].op != cost[i].op) k++;
        CHECK(k < p.nodes);
        if (k == p.nodes) continue;
        CHECK_NEAR(pk_op_table[cost[i].op]->flops(&p, &p.node[k]), cost[i].flops, 0);
        CHECK_NEAR(pk_op_bytes(&p, &p.node[k]), cost[i].bytes, 0);
    }
    pk_prog_free(&p);
    pk_params_free(&params);
}

int main(void)
{
    test_rows();
    test_kernels();
#ifdef PK_TEST_CUDA
    test_cuda_kernels();
#endif
    test_tests();
    test_costs();
    return TEST_END();
}
