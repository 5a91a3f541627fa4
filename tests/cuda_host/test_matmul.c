/* test_matmul.c -- who computes a product: the table of choices as text, refusal of damaged ones,
 * and, where cublasLt.h is there to build it, a fake cuBLASLt that computes what its descriptors
 * say, which shows that Purkinje's row-major products reach it rightly. */
#include "tests/cuda_host/choice_case.h"

/* --- a call of the linear family -------------------------------------------------------------- */

struct shape {
    int64_t rows, n, k;
};

static void make(struct job *j, const struct pk_matmul_key *key)
{
    const enum pk_dtype s = key->dtype;
    const int64_t m = key->rows, n = key->n, k = key->k;
    begin(j, key->op, key->add);
    const bool forward = key->op == PK_OP_LINEAR || key->op == PK_OP_LINEAR_GELU;
    if (key->op == PK_OP_LINEAR_DW) {
        put_in(j, 0, s, DIMS(m, n)), put_in(j, 1, s, DIMS(m, k));
        put_out(j, 0, PK_F32, DIMS(n, k));
        if (key->bias) put_out(j, 1, PK_F32, DIMS(n));
    } else {
        put_in(j, 0, s, DIMS(m, forward ? k : n)), put_in(j, 1, s, DIMS(n, k));
        if (key->bias) put_in(j, 2, PK_F32, DIMS(n));
        if (key->op == PK_OP_LINEAR_DX_GELU) put_in(j, 2, s, DIMS(m, k));
        if (key->keep) put_out(j, 0, s, DIMS(m, n));
        put_out(j, key->op == PK_OP_LINEAR_GELU, s, DIMS(m, forward ? n : k));
    }
    lend_workspace(j, PK_OP_LINEAR_DW);
}

/* Outputs of one run by a choice, or through the kernel table when there is none; caller frees. */
static double *run(struct job *j, const struct pk_matmul_choice *choice)
{
    struct pk_err err = {.status = PK_OK};
    refill(j);
    CHECK_OK(choice ? pk_linear_run(&j->call, choice, &err)
                    : pk_cuda_kernels[j->node.op](&j->call, &err),
             &err);
    return results(j);
}

/* --- the table as text ------------------------------------------------------------------------ */

static const struct pk_matmul_row sample[] = {
    {{PK_OP_LINEAR, PK_BF16, 411648, 576, 192, false, false, false},
     {.tile = PK_TILE_128X128X64},
     3.25e-4,
     3.25e-4},
    {{PK_OP_LINEAR_GELU, PK_BF16, 411648, 768, 192, true, true, false}, {.tile = -1}, 0, 0},
    {{PK_OP_LINEAR_DW, PK_F32, 77, 5, 3, true, false, true}, {.tile = 0}, 1e-6, 1e-6},
};

static void open_table(struct pk_matmul **m, const char *mode)
{
    struct pk_err err = {.status = PK_OK};
    if (mode)
        setenv("PURKINJE_GEMM", mode, 1);
    else
        unsetenv("PURKINJE_GEMM");
    CHECK_OK(pk_matmul_open(m, &queue, &err), &err);
    unsetenv("PURKINJE_GEMM");
}

static void test_round_trip(void)
{
    struct pk_matmul *a, *b;
    struct pk_text first = {0}, second = {0}, lines = {0};
    struct pk_err err = {.status = PK_OK};
    open_table(&a, NULL), open_table(&b, NULL);
    for (size_t i = 0; i < PK_COUNT(sample); i++)
        CHECK_OK(pk_matmul_keep(a, &sample[i], &err), &err);
    CHECK_OK(pk_matmul_keep(b, &sample[2], &err), &err); // is replaced, not added to
    pk_matmul_write(a, &first);
    CHECK_OK(pk_matmul_read(b, first.s, first.len, &err), &err);
    pk_matmul_write(b, &second);
    CHECK(second.s && !strcmp(first.s, second.s));
    CHECK(b->rows == 3 && b->mode == PK_CHOOSE_OWN);
    for (size_t i = 0; i < PK_COUNT(sample); i++) {
        const struct pk_matmul_choice *c = pk_matmul_find(b, &sample[i].key);
        struct pk_matmul_key other = sample[i].key;
        CHECK(c && !c->library && c->tile == sample[i].choice.tile);
        other.rows++;
        CHECK(!pk_matmul_find(b, &other));
        other.rows--, other.add = !other.add;
        CHECK(!pk_matmul_find(b, &other));
    }
    pk_matmul_print(a, &lines);
    CHECK(lines.s &&
          strstr(lines.s, "411648 x  576 x  192  own 128x128x64  325.0 us, 280 TFLOP/s"));
    CHECK(lines.s && strstr(lines.s, "bias pre  own by rule\n"));
    pk_text_free(&first), pk_text_free(&second), pk_text_free(&lines);
    pk_matmul_close(a), pk_matmul_close(b);
}

static void test_damage(void)
{
    static const struct {
        const char *from, *to;
    } edits[] = {
        {"\"version\": 1", "\"version\": 2"},
        {"\"version\": 1,", ""},
        {"\"products\"", "\"product\""},
        {"\"op\": \"linear\"", "\"op\": \"gelu\""},
        {"\"op\": \"linear\",", ""},
        {"\"bf16\"", "\"f16\""},
        {"411648", "0"},
        {"411648", "-1"},
        {"411648", "1.5"},
        {"411648", "\"411648\""},
        {"411648", "9007199254740993"},
        {"\"n\": 576,", ""},
        {"\"bias\": false", "\"bias\": 0"},
        {"\"keep\": false,", ""},
        {"\"own\"", "\"them\""},
        {"\"by\": \"own\",", ""},
        {"\"tile\": 3", "\"tile\": 5"},
        {"\"tile\": 3", "\"tile\": -2"},
        {"\"tile\": 3,", ""},
        {"\"tile\": 0", "\"tile\": 1"}, // float has one tile
        {"\"seconds\": 0.000325", "\"seconds\": null"},
        {"\"seconds\": 0.000325", "\"seconds\": -1"},
        {"\"seconds\": 0.000325", "\"seconds\": 1e300"},
        {"linear_gelu", "linear\", \"op\": \"x"}, // a key twice
    };
    struct pk_matmul *a;
    struct pk_text good = {0}, now = {0};
    struct pk_err err = {.status = PK_OK};
    open_table(&a, NULL);
    for (size_t i = 0; i < PK_COUNT(sample); i++)
        CHECK_OK(pk_matmul_keep(a, &sample[i], &err), &err);
    pk_matmul_write(a, &good);
    for (size_t i = 0; i < PK_COUNT(edits); i++) {
        char *bad = edited(good.s, edits[i].from, edits[i].to);
        if (!bad) continue;
        if (pk_matmul_read(a, bad, strlen(bad), &err) != PK_EDATA)
            fprintf(stderr, "not refused: %s -> %s\n", edits[i].from, edits[i].to);
        CHECK_FAILS(pk_matmul_read(a, bad, strlen(bad), &err), PK_EDATA, &err, "GEMM choices");
        free(bad);
    }
    for (size_t n = 0; n + 2 < good.len; n += 7) // cut off anywhere
        CHECK(pk_matmul_read(a, good.s, n, &err) == PK_EDATA);
    CHECK_OK(pk_matmul_keep(a, &sample[1], &err), &err);
    pk_matmul_write(a, &now);
    CHECK_FAILS(pk_matmul_read(a, now.s, now.len, &err), PK_EDATA, &err, "there twice");
    a->rows--;
    pk_text_free(&now);
    pk_matmul_write(a, &now);
    CHECK(!strcmp(good.s, now.s)); // the table has survived all that
    pk_text_free(&good), pk_text_free(&now);
    pk_matmul_close(a);
}

static void test_modes(void)
{
    struct pk_matmul *m = NULL;
    struct pk_err err = {.status = PK_OK};
    struct pk_text text = {0};
    setenv("PURKINJE_CUBLASLT", "/nowhere/libcublasLt.so.13", 1);
    setenv("PURKINJE_GEMM", "fast", 1);
    CHECK_FAILS(pk_matmul_open(&m, &queue, &err), PK_EINVAL, &err, "own, cublaslt or tune");
    CHECK(!m);
    setenv("PURKINJE_GEMM", "cublaslt", 1);
    CHECK_FAILS(pk_matmul_open(&m, &queue, &err), PK_EMISSING, &err, "cuBLASLt");
    CHECK(!m);
    open_table(&m, "tune"); // does without the library
    CHECK(m && !m->library && pk_matmul_bytes(m) == 0);
    pk_matmul_close(m);
    open_table(&m, "own");
    CHECK(m && m->mode == PK_CHOOSE_OWN);
    pk_matmul_close(m);
    pk_matmul_close(NULL);
    CHECK(pk_matmul_bytes(NULL) == 0);
    pk_matmul_describe(&text);
    CHECK(text.s && strstr(text.s, "own only: "));
    pk_text_free(&text);
    unsetenv("PURKINJE_GEMM"), unsetenv("PURKINJE_CUBLASLT");
}

/* LINEAR_DW of a frozen weight with a trained bias. */
static void test_bias_alone(void)
{
    const struct pk_matmul_key key = {PK_OP_LINEAR_DW, PK_BF16, 300, 24, 16, true, false, false};
    struct job j;
    make(&j, &key);
    double *both = run(&j, NULL);
    void *dw = j.call.dst[0];
    const int64_t skipped = j.count[0];
    j.call.out[0] = NULL, j.call.dst[0] = NULL, j.count[0] = 0;
    double *alone = run(&j, NULL);
    for (int i = 0; i < 24; i++) CHECK_NEAR(alone[i], both[skipped + i], 1e-5);
    j.call.dst[0] = dw;
    free(both), free(alone);
    drop(&j);
}

static void test_tuning_own(void)
{
    const struct pk_matmul_key key = {PK_OP_LINEAR_GELU, PK_BF16, 70, 40, 24, true, true, false};
    struct job j;
    struct pk_matmul *m;
    struct pk_err err = {.status = PK_OK};
    setenv("PURKINJE_CUBLASLT", "/nowhere", 1);
    open_table(&m, "tune");
    make(&j, &key);
    queue.matmul = m;
    CHECK_OK(pk_matmul_prepare(&queue, &j.call, &err), &err);
    CHECK_OK(pk_matmul_prepare(&queue, &j.call, &err), &err);
    CHECK(m->rows == 1 && m->row[0].own_seconds > 0);
    CHECK(0.97 * m->row[0].seconds <= m->row[0].own_seconds); // the first may win by the margin
    const struct pk_matmul_choice *c = pk_matmul_find(m, &key);
    CHECK(c && !c->library && c->tile >= 0);
    j.node.op = PK_OP_GELU;
    CHECK_OK(pk_matmul_prepare(&queue, &j.call, &err), &err); // not a product
    CHECK(m->rows == 1);
    queue.matmul = NULL;
    drop(&j);
    pk_matmul_close(m);
    unsetenv("PURKINJE_CUBLASLT");
}

/* --- the library ------------------------------------------------------------------------------ */

#ifdef PK_FAKE_CUBLASLT
static void compare(struct job *j, const struct pk_matmul_key *key,
                    const struct pk_matmul_choice *choice, const double *own)
{
    double *library = run(j, choice), largest = 0, far = 0;
    const int64_t count = j->count[0] + j->count[1];
    /* In bf16 the unfused passes round once more. */
    const double bound = key->dtype == PK_BF16 && key->op != PK_OP_LINEAR_DW ? 0x1p-6 : 2e-6;
    for (int64_t i = 0; i < count; i++) {
        const double off = fabs(own[i] - library[i]);
        largest = fmax(largest, fabs(own[i]));
        if (!(off <= far)) far = off;
    }
    if (!(far <= bound * largest))
        fprintf(stderr, "op %d, %s, bias %d, add %d, fused %d: off by %g of %g\n", (int)key->op,
                pk_dtype_name(key->dtype), key->bias, key->add, choice->fused, far, largest);
    CHECK(far <= bound * largest);
    free(library);
}

/* Every op, with and without its options, on every algorithm that is offered. */
static void test_library(struct pk_matmul *m)
{
    static const enum pk_op ops[] = {PK_OP_LINEAR, PK_OP_LINEAR_DX, PK_OP_LINEAR_DW,
                                     PK_OP_LINEAR_GELU, PK_OP_LINEAR_DX_GELU};
    static const struct shape shapes[] = {{40, 24, 56}, {19, 16, 8}, {8, 72, 40}};
    const struct pk_matmul_choice own = {.tile = -1};
    for (unsigned c = 0; c < PK_COUNT(ops) * PK_COUNT(shapes) * 16; c++) {
        const struct shape *s = &shapes[c / 16 % PK_COUNT(shapes)];
        const enum pk_op op = ops[c / 16 / PK_COUNT(shapes)];
        const struct pk_matmul_key key = {
            op, c & 1 ? PK_BF16 : PK_F32, s->rows, s->n, s->k, c & 2, c & 4, c & 8};
        const bool forward = op == PK_OP_LINEAR || op == PK_OP_LINEAR_GELU;
        if (key.bias && !forward && op != PK_OP_LINEAR_DW) continue;
        if (key.keep && op != PK_OP_LINEAR_GELU) continue;
        if (key.add && op != PK_OP_LINEAR_DX && op != PK_OP_LINEAR_DW) continue;
        struct pk_matmul_choice list[16];
        struct pk_cuda_gemm g;
        struct pk_matmul_key seen;
        struct job j;
        make(&j, &key);
        struct pk_matmul_row row = {.key = key};
        const struct pk_matmul alone = {.row = &row, .rows = 1};
        CHECK(pk_matmul_key_of(&j.call, &seen) && pk_matmul_find(&alone, &seen));
        pk_linear_product(&j.call, &g);
        const bool fuses = forward && key.bias && key.dtype == PK_F32;
        const int fused = pk_cublaslt_algorithms(m->library, &g, true, 2 << 20, list, 8);
        const int plain = pk_cublaslt_algorithms(m->library, &g, false, 2 << 20, list + fused, 8);
        CHECK(plain == 2 && (!fuses || fused == 2)); // the others may not be taken
        CHECK(key.dtype == PK_F32 || fused == 0);
        CHECK(pk_cublaslt_algorithms(m->library, &g, false, 2 << 20, list + fused, 1) == 1);
        const int first = fuses ? 0 : fused;
        double *want = run(&j, &own);
        for (int i = first; i < fused + plain; i++) compare(&j, &key, &list[i], want);
        free(want);
        drop(&j);
    }
}

static void test_table_with_library(struct pk_matmul *m)
{
    const struct pk_matmul_key key = {
        PK_OP_LINEAR_DX_GELU, PK_BF16, 40, 24, 56, false, false, false};
    struct pk_matmul *other;
    struct pk_text text = {0}, again = {0};
    struct pk_err err = {.status = PK_OK};
    struct job j;
    make(&j, &key);
    queue.matmul = m;
    CHECK_OK(pk_matmul_prepare(&queue, &j.call, &err), &err);
    const struct pk_matmul_choice *c = pk_matmul_find(m, &key);
    CHECK(c && c->library && m->rows == 1);
    if (c) { // the kernel table takes the choice
        double *a = run(&j, c), *b = run(&j, NULL);
        CHECK(!memcmp(a, b, (size_t)j.count[0] * sizeof *a));
        free(a), free(b);
    }
    queue.matmul = NULL;
    pk_matmul_write(m, &text);
    open_table(&other, "cublaslt");
    CHECK_OK(pk_matmul_read(other, text.s, text.len, &err), &err);
    pk_matmul_write(other, &again);
    CHECK(!strcmp(text.s, again.s));
    const struct pk_matmul_choice *d = pk_matmul_find(other, &key);
    CHECK(c && d && d->library && d->fused == c->fused && d->workspace == c->workspace);
    CHECK(c && d && d->tile == c->tile && !memcmp(d->algo, c->algo, sizeof d->algo));
    char *bad = edited(text.s, "\"algorithm\": \"", "\"algorithm\": \"0");
    CHECK_FAILS(pk_matmul_read(other, bad, strlen(bad), &err), PK_EDATA, &err, "damaged");
    free(bad);
    bad = edited(text.s, "\"workspace\": ", "\"workspace\": 99");
    CHECK_FAILS(pk_matmul_read(other, bad, strlen(bad), &err), PK_EDATA, &err, "damaged");
    free(bad);
    setenv("FAKE_CUBLASLT_VERSION", "130201", 1);
    CHECK_FAILS(pk_matmul_read(other, text.s, text.len, &err), PK_EMISSING, &err, "130201");
    unsetenv("FAKE_CUBLASLT_VERSION");
    pk_matmul_close(other);
    open_table(&other, "own");
    CHECK_FAILS(pk_matmul_read(other, text.s, text.len, &err), PK_EMISSING, &err,
                "not loaded here");
    pk_matmul_close(other);
    pk_text_free(&text), pk_text_free(&again);
    drop(&j);
}

static void test_tuning_library(void)
{
    const struct pk_matmul_key key = {PK_OP_LINEAR, PK_F32, 24, 16, 8, true, false, false};
    struct pk_matmul *m;
    struct pk_err err = {.status = PK_OK};
    struct pk_text text = {0};
    struct job j;
    double rate = 0;
    open_table(&m, "tune");
    CHECK(m->library && pk_matmul_bytes(m) == 32 << 20);
    make(&j, &key);
    queue.matmul = m;
    CHECK_OK(pk_matmul_prepare(&queue, &j.call, &err), &err);
    CHECK(m->rows == 1 && m->row[0].own_seconds > 0 && m->row[0].seconds > 0);
    CHECK(0.97 * m->row[0].seconds <= m->row[0].own_seconds);
    queue.matmul = NULL;
    drop(&j);
    pk_matmul_close(m);
    pk_matmul_describe(&text);
    CHECK(text.s && strstr(text.s, "cuBLASLt 13."));
    pk_text_free(&text);
    CHECK_OK(pk_matmul_ceiling(&rate, &err), &err);
    CHECK(rate > 0);
}

static void test_with_library(void)
{
    struct pk_matmul *m;
    struct pk_cublaslt *lib;
    struct pk_err err = {.status = PK_OK};
    setenv("PURKINJE_CUBLASLT", PK_FAKE_CUBLASLT, 1);
    setenv("FAKE_CUBLASLT_VERSION", "120304", 1);
    CHECK_FAILS(pk_cublaslt_open(&lib, &err), PK_EMISSING, &err, "is version 12, but 13 is needed");
    CHECK(!lib);
    unsetenv("FAKE_CUBLASLT_VERSION");
    open_table(&m, "cublaslt");
    CHECK(m && m->library);
    queue.matmul = m;
    test_library(m);
    queue.matmul = NULL;
    test_table_with_library(m);
    pk_matmul_close(m);
    test_tuning_library();
    unsetenv("PURKINJE_CUBLASLT");
}
#endif

int main(void)
{
    CHECK(cudaStreamCreateWithFlags(&queue.stream, cudaStreamNonBlocking) == cudaSuccess);
    queue.sms = 4;
    test_round_trip();
    test_damage();
    test_modes();
    test_bias_alone();
    test_tuning_own();
#ifdef PK_FAKE_CUBLASLT
    test_with_library();
#endif
    CHECK(cudaStreamDestroy(queue.stream) == cudaSuccess);
    CHECK(pk_host_device_bytes() == 0 && pk_host_live_handles() == 0);
    return TEST_END();
}
