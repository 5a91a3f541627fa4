/* test_conv_choice.c -- who computes a convolution: what cuDNN would be given, choices as text,
 * damaged ones, and, where cudnn.h is there to build it, a library in cuDNN's place that computes
 * what its descriptors say (fake_cudnn.c). That the results are those of the definition, in every
 * shape, is test_conv1d_cuda_host with PURKINJE_CONV=cudnn. The real library, where it is found,
 * must take the descriptors. */
#include "tests/cuda_host/choice_case.h"

#include <dlfcn.h>
#include <unistd.h>

static void make(struct job *j, const struct pk_conv_key *k)
{
    const int64_t out = (k->time + k->left + k->right - k->kernel) / k->stride + 1;
    const int64_t x[3] = {k->batch, k->time, k->channels}, y[3] = {k->batch, out, k->filters};
    const int64_t w[3] = {k->filters, k->channels / k->groups, k->kernel};
    begin(j, k->op, k->add);
    j->node.attr.conv1d.stride = k->stride, j->node.attr.conv1d.groups = k->groups;
    j->node.attr.conv1d.left = k->left, j->node.attr.conv1d.right = k->right;
    put_in(j, 0, k->dtype, 3, k->op == PK_OP_CONV1D ? x : y);
    if (k->op == PK_OP_CONV1D_DW) {
        put_in(j, 1, k->dtype, 3, x);
        put_out(j, 0, PK_F32, 3, w);
        if (k->bias) put_out(j, 1, PK_F32, 1, w);
    } else {
        put_in(j, 1, k->dtype, 3, w);
        if (k->bias) put_in(j, 2, PK_F32, 1, w);
        put_out(j, 0, k->dtype, 3, k->op == PK_OP_CONV1D ? y : x);
    }
    lend_workspace(j, k->op);
}

static void open_table(struct pk_matmul **m, const char *mode)
{
    struct pk_err err = {.status = PK_OK};
    if (mode)
        setenv("PURKINJE_CONV", mode, 1);
    else
        unsetenv("PURKINJE_CONV");
    CHECK_OK(pk_matmul_open(m, &queue, &err), &err);
    unsetenv("PURKINJE_CONV");
}

/* --- what cuDNN is given ---------------------------------------------------------------------- */

static const struct pk_conv_key body = { // of a network's middle
    PK_OP_CONV1D, PK_BF16, 4, 25, 16, 8, 5, 1, 2, 2, 1, false, false};

static void test_layouts(void)
{
    struct pk_conv_layout lay;
    struct pk_conv_key k = body;
    CHECK(pk_conv_layout_of(&k, &lay) && lay.packed && lay.turns == 1);
    CHECK(lay.shape.pad == 2 && lay.shape.kernel == 5 && lay.shift == 0 && lay.shape.out == 25);
    CHECK(lay.own == (8 * 5 * 16 * 2 + 255) / 256 * 256 && lay.shape.dtype == PK_BF16);
    k.kernel = 16, k.left = 7, k.right = 8; // an even kernel: one zero tap in front
    CHECK(pk_conv_layout_of(&k, &lay) && lay.shape.pad == 8 && lay.shape.kernel == 17);
    CHECK(lay.shift == 1 && lay.taps == 16 && lay.shape.out == 25);
    k.left = 9, k.right = 2, k.stride = 3; // seven behind
    CHECK(pk_conv_layout_of(&k, &lay) && lay.shape.pad == 9 && lay.shape.kernel == 23);
    CHECK(lay.shift == 0 && lay.shape.out == (25 + 11 - 16) / 3 + 1);
    k = body, k.kernel = 1, k.left = k.right = 0, k.stride = 2;
    CHECK(pk_conv_layout_of(&k, &lay) && !lay.packed && lay.own == 0);
    k = body, k.groups = k.filters = 16; // depthwise: one channel a filter, in any order
    CHECK(pk_conv_layout_of(&k, &lay) && !lay.packed);
    k = body, k.bias = true;
    CHECK(!pk_conv_layout_of(&k, &lay)); // would be rounded twice
    k.dtype = PK_F32;
    CHECK(pk_conv_layout_of(&k, &lay));
    k = body, k.op = PK_OP_CONV1D_DW, k.bias = true;
    CHECK(pk_conv_layout_of(&k, &lay) && lay.shape.widened && lay.shape.dtype == PK_F32);
    CHECK(lay.dy_at - lay.x_at == 4 * 25 * 16 * 4 &&
          lay.own - lay.dy_at == (4 * 25 * 8 * 4 + 255) / 256 * 256);
    k.dtype = PK_F32;
    CHECK(pk_conv_layout_of(&k, &lay) && !lay.shape.widened && lay.own == lay.x_at);
    k.dtype = PK_BF16, k.batch = 96, k.time = 10000; // 240 KB of floats each for 16 and 8 channels
    CHECK(pk_conv_layout_of(&k, &lay) && lay.turns == 3 && lay.shape.batch == 32);
    CHECK(lay.own <= PK_CONV_WORKSPACE / 2);
    k.batch = 97; // a prime: one by one
    CHECK(pk_conv_layout_of(&k, &lay) && lay.turns == 97 && lay.shape.batch == 1);
    k.batch = 1, k.time = 1 << 20;
    CHECK(!pk_conv_layout_of(&k, &lay)); // one record is too long
    k = body, k.batch = 1 << 20, k.time = 1 << 10;
    CHECK(!pk_conv_layout_of(&k, &lay)); // more than 2^31 numbers
    k = body, k.filters = 1 << 13, k.channels = 1 << 13;
    CHECK(!pk_conv_layout_of(&k, &lay)); // filters beyond the workspace
}

/* --- the table as text ------------------------------------------------------------------------ */

static const struct pk_conv_row sample[] = {
    {.key = {PK_OP_CONV1D, PK_BF16, 128, 1000, 64, 96, 5, 2, 2, 1, 4, true, false}},
    {.key = {PK_OP_CONV1D_DX, PK_F32, 3, 10, 6, 6, 3, 1, 1, 1, 6, false, true},
     .seconds = 2e-6,
     .own_seconds = 2e-6},
    {.key = {PK_OP_CONV1D_DW, PK_BF16, 3, 10, 6, 6, 3, 1, 1, 1, 6, true, true}},
};

static void fill(struct pk_matmul *m)
{
    struct pk_err err = {.status = PK_OK};
    struct pk_convs *t = &m->convs;
    CHECK_OK(pk_grow(&t->row, &t->row_cap, PK_COUNT(sample), sizeof *t->row, "rows", &err), &err);
    memcpy(t->row, sample, sizeof sample);
    t->rows = PK_COUNT(sample);
}

static void test_round_trip(void)
{
    struct pk_matmul *a, *b;
    struct pk_text first = {0}, second = {0}, lines = {0};
    struct pk_err err = {.status = PK_OK};
    open_table(&a, NULL), open_table(&b, NULL);
    pk_matmul_write(b, &first);
    CHECK(first.s && !strstr(first.s, "convolutions")); // as before there were any
    CHECK_OK(pk_matmul_read(b, first.s, first.len, &err), &err);
    pk_text_free(&first);
    fill(a);
    pk_matmul_write(a, &first);
    CHECK_OK(pk_matmul_read(b, first.s, first.len, &err), &err);
    pk_matmul_write(b, &second);
    CHECK(second.s && !strcmp(first.s, second.s));
    for (size_t i = 0; i < PK_COUNT(sample); i++) {
        struct pk_conv_key k = sample[i].key;
        CHECK(pk_conv_find(&b->convs, &k) == &b->convs.row[i]);
        k.right++;
        CHECK(!pk_conv_find(&b->convs, &k));
        k.right--, k.bias = !k.bias;
        CHECK(!pk_conv_find(&b->convs, &k));
    }
    pk_matmul_print(a, &lines);
    CHECK(lines.s &&
          strstr(lines.s, "3 x 10 x 6, 6 filters of 3 by 1 in 6 groups add  own  2.0 us"));
    pk_text_free(&first), pk_text_free(&second), pk_text_free(&lines);
    pk_matmul_close(a), pk_matmul_close(b);
}

static void test_damage(void)
{
    static const struct {
        const char *from, *to;
    } edits[] = {
        {"\"conv1d\"", "\"conv2d\""},
        {"\"op\": \"conv1d\",", ""},
        {"\"bf16\"", "\"f16\""},
        {"\"batch\": 128", "\"batch\": 0"},
        {"\"time\": 1000", "\"time\": 1.5"},
        {"\"channels\": 64", "\"channels\": 65"}, // not in 4 groups
        {"\"filters\": 96", "\"filters\": -96"},
        {"\"kernel\": 5,", ""},
        {"\"stride\": 2", "\"stride\": 0"},
        {"\"left\": 2", "\"left\": -1"},
        {"\"right\": 1", "\"right\": 4294967296"},
        {"\"groups\": 4", "\"groups\": 0"},
        {"\"bias\": true", "\"bias\": 1"},
        {"\"add\": false,", ""},
        {"\"own\"", "\"cublaslt\""},
        {"\"own\"", "\"cudnn\""}, // without an algorithm
        {"\"seconds\": 0", "\"seconds\": null"},
        {"\"cudnn\": 0,", ""},
        {"\"convolutions\": [", "\"convolutions\": 3, \"x\": ["},
    };
    struct pk_matmul *a;
    struct pk_text good = {0}, now = {0};
    struct pk_err err = {.status = PK_OK};
    open_table(&a, NULL);
    fill(a);
    pk_matmul_write(a, &good);
    for (size_t i = 0; i < PK_COUNT(edits); i++) {
        char *bad = edited(good.s, edits[i].from, edits[i].to);
        if (!bad) continue;
        if (pk_matmul_read(a, bad, strlen(bad), &err) != PK_EDATA)
            fprintf(stderr, "not refused: %s -> %s\n", edits[i].from, edits[i].to);
        CHECK_FAILS(pk_matmul_read(a, bad, strlen(bad), &err), PK_EDATA, &err, "GEMM choices");
        free(bad);
    }
    a->convs.row[2].key = a->convs.row[1].key;
    pk_matmul_write(a, &now);
    CHECK_FAILS(pk_matmul_read(a, now.s, now.len, &err), PK_EDATA, &err, "there twice");
    a->convs.row[2] = sample[2];
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
    struct job j;
    setenv("PURKINJE_CUDNN", "/nowhere/libcudnn.so.9", 1);
    setenv("PURKINJE_CONV", "fast", 1);
    CHECK_FAILS(pk_matmul_open(&m, &queue, &err), PK_EINVAL, &err, "own, cudnn or tune");
    CHECK(!m);
    make(&j, &body);
    open_table(&m, "cudnn"); // asked for by name: refused when a convolution comes
    queue.matmul = m;
    CHECK_FAILS(pk_conv_prepare(&queue, &j.call, &err), PK_EMISSING, &err, "cuDNN");
    CHECK_FAILS(pk_conv_prepare(&queue, &j.call, &err), PK_EMISSING, &err, "cuDNN");
    pk_matmul_close(m);
    open_table(&m, "tune"); // does without
    queue.matmul = m;
    CHECK_OK(pk_conv_prepare(&queue, &j.call, &err), &err);
    CHECK(m->convs.rows == 1 && !m->convs.row[0].choice.library && pk_conv_bytes(&queue) == 0);
    CHECK_OK(pk_cuda_kernels[PK_OP_CONV1D](&j.call, &err), &err);
    j.node.op = PK_OP_GELU;
    CHECK_OK(pk_conv_prepare(&queue, &j.call, &err), &err); // not a convolution
    CHECK(m->convs.rows == 1);
    queue.matmul = NULL;
    pk_matmul_close(m);
    drop(&j);
    pk_matmul_describe(&text);
    CHECK(text.s && strstr(text.s, "gpu convs    own only: "));
    pk_text_free(&text);
    unsetenv("PURKINJE_CONV"), unsetenv("PURKINJE_CUDNN");
}

#ifdef PK_FAKE_CUDNN
/* --- the library ------------------------------------------------------------------------------ */

static int (*fake_runs)(void), (*fake_live)(void);

static void find(void *file, const char *symbol, void *function)
{
    void *p = dlsym(file, symbol);
    CHECK(p != NULL);
    memcpy(function, &p, sizeof p);
}

/* Outputs of one run through the kernel table; the caller frees. */
static double *run(struct job *j)
{
    struct pk_err err = {.status = PK_OK};
    refill(j);
    CHECK_OK(pk_cuda_kernels[j->node.op](&j->call, &err), &err);
    return results(j);
}

static void check_near(const double *a, const double *b, int64_t n, double part)
{
    double largest = 0, far = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs(a[i]));
        if (!(fabs(a[i] - b[i]) <= far)) far = fabs(a[i] - b[i]);
    }
    if (!(far <= part * largest)) fprintf(stderr, "off by %g of %g\n", far, largest);
    CHECK(far <= part * largest && largest > 0);
}

/* Which algorithms are taken of those that are offered. */
static void test_algorithms(struct pk_matmul *m)
{
    static const enum pk_op ops[] = {PK_OP_CONV1D, PK_OP_CONV1D_DX, PK_OP_CONV1D_DW};
    struct pk_err err = {.status = PK_OK};
    struct pk_conv_choice list[8];
    struct pk_cudnn_plan *plan;
    struct pk_conv_layout lay;
    for (unsigned i = 0; i < 6; i++) {
        struct pk_conv_key k = body;
        k.op = ops[i / 2], k.dtype = i % 2 ? PK_BF16 : PK_F32;
        CHECK(pk_conv_layout_of(&k, &lay));
        CHECK_OK(pk_cudnn_plan_open(&plan, m->convs.library, &lay.shape, &err), &err);
        const int n = pk_cudnn_algorithms(plan, 1 << 20, list, 8);
        CHECK(n == (k.op == PK_OP_CONV1D ? 2 : 1) && list[0].library);
        CHECK(list[0].algorithm == 1 && list[0].workspace > 4096);
        CHECK(n < 2 || (list[1].algorithm == 0 && list[1].workspace == 0));
        CHECK(pk_cudnn_algorithms(plan, 4096, list, 8) == n - 1); // no room for number 1
        pk_cudnn_plan_close(plan);
        lay.shape.out++;
        CHECK_FAILS(pk_cudnn_plan_open(&plan, m->convs.library, &lay.shape, &err), PK_ESHAPE, &err,
                    "its output is");
        lay.shape.out--, lay.shape.channels = 15;
        lay.shape.groups = 2;
        CHECK_FAILS(pk_cudnn_plan_open(&plan, m->convs.library, &lay.shape, &err), PK_EDEVICE, &err,
                    "cuDNN");
    }
}

/* Chosen by name, computed there, and as the own kernels compute it. */
static void test_forced(struct pk_matmul *m)
{
    static const struct pk_conv_key keys[] = {
        {PK_OP_CONV1D, PK_F32, 2, 9, 8, 6, 3, 1, 1, 1, 2, true, false},
        {PK_OP_CONV1D, PK_BF16, 2, 9, 8, 6, 4, 2, 1, 2, 1, false, false},
        {PK_OP_CONV1D_DX, PK_BF16, 2, 9, 8, 6, 4, 2, 2, 0, 1, false, true},
        {PK_OP_CONV1D_DW, PK_BF16, 2, 9, 8, 6, 4, 1, 1, 2, 2, true, true},
        {PK_OP_CONV1D_DW, PK_F32, 2, 9, 8, 8, 3, 1, 1, 1, 8, false, true},
    };
    struct pk_err err = {.status = PK_OK};
    for (size_t i = 0; i < PK_COUNT(keys); i++) {
        struct job j;
        make(&j, &keys[i]);
        queue.matmul = NULL;
        double *own = run(&j);
        queue.matmul = m;
        int before = fake_runs();
        CHECK_OK(pk_conv_prepare(&queue, &j.call, &err), &err);
        CHECK(cudaStreamSynchronize(queue.stream) == cudaSuccess);
        CHECK(fake_runs() == before + 1); // what is loaded at the first call is loaded now
        const struct pk_conv_row *row = pk_conv_find(&m->convs, &keys[i]);
        CHECK(row && row->choice.library && row->plan && row->choice.algorithm == 1);
        double *got = run(&j);
        CHECK(fake_runs() == before + 2);
        check_near(own, got, j.count[0], j.out[0].dtype == PK_BF16 ? 0x1p-7 : 1e-6);
        if (j.count[1]) check_near(own + j.count[0], got + j.count[0], j.count[1], 1e-6);
        free(got);
        before = fake_runs();
        const void *aligned = j.call.src[0];
        void *wide;
        const size_t bytes = (size_t)pk_view_count(&j.in[0]) * pk_dtype_size(j.in[0].dtype);
        CHECK(cudaMalloc(&wide, bytes + 8) == cudaSuccess);
        j.call.src[0] = (const char *)wide + 8; // the library would refuse it
        CHECK_OK(pk_cuda_kernels[j.node.op](&j.call, &err), &err);
        CHECK(cudaStreamSynchronize(queue.stream) == cudaSuccess && fake_runs() == before);
        j.call.src[0] = aligned;
        CHECK(cudaFree(wide) == cudaSuccess);
        free(own);
        drop(&j);
    }
    CHECK(pk_conv_bytes(&queue) == PK_CONV_WORKSPACE && m->convs.rows == PK_COUNT(keys));
    queue.matmul = NULL;
}

/* The weight's gradient of records whose floats fill the workspace more than once. */
static void test_turns(struct pk_matmul *m)
{
    const struct pk_conv_key k = {PK_OP_CONV1D_DW, PK_BF16, 6, 100000, 24, 1, 1, 1, 0, 0, 1,
                                  false,           true};
    struct pk_conv_layout lay;
    struct pk_err err = {.status = PK_OK};
    struct job j;
    double want[24], *got;
    make(&j, &k);
    CHECK(pk_conv_layout_of(&k, &lay) && lay.turns == 2);
    CHECK_OK(pk_cuda_fill_random(&queue, j.call.dst[0], PK_F32, 24, 10, &err), &err);
    CHECK(cudaStreamSynchronize(queue.stream) == cudaSuccess);
    for (int c = 0; c < 24; c++) want[c] = value_at(j.call.dst[0], PK_F32, c);
    for (int64_t r = 0; r < k.batch * k.time; r++)
        for (int c = 0; c < 24; c++)
            want[c] +=
                value_at(j.call.src[0], PK_BF16, r) * value_at(j.call.src[1], PK_BF16, r * 24 + c);
    queue.matmul = m;
    const int before = fake_runs();
    CHECK_OK(pk_conv_prepare(&queue, &j.call, &err), &err);
    got = run(&j);
    CHECK(fake_runs() == before + 4);
    check_near(want, got, 24, 1e-6);
    queue.matmul = NULL;
    free(got);
    drop(&j);
}

/* What the library refuses when it runs stays with the own kernels. */
static void test_refusal(void)
{
    struct pk_matmul *m;
    struct pk_err err = {.status = PK_OK};
    struct job j;
    static const char *const modes[] = {"cudnn", "tune"};
    make(&j, &body);
    setenv("FAKE_CUDNN_REFUSE", "run", 1);
    for (size_t i = 0; i < PK_COUNT(modes); i++) {
        open_table(&m, modes[i]);
        queue.matmul = m;
        CHECK_OK(pk_conv_prepare(&queue, &j.call, &err), &err);
        CHECK(m->convs.rows == 1 && !m->convs.row[0].choice.library && m->convs.library);
        CHECK_OK(pk_cuda_kernels[PK_OP_CONV1D](&j.call, &err), &err);
        queue.matmul = NULL;
        pk_matmul_close(m);
    }
    setenv("FAKE_CUDNN_REFUSE", "start", 1); // as without a GPU
    open_table(&m, "cudnn");
    queue.matmul = m;
    CHECK_FAILS(pk_conv_prepare(&queue, &j.call, &err), PK_EMISSING, &err, "cuDNN cannot start");
    queue.matmul = NULL;
    pk_matmul_close(m);
    unsetenv("FAKE_CUDNN_REFUSE");
    drop(&j);
}

/* Time as the test has it: so much for each kernel of ours and each run of the library. */
static double kernel_seconds, library_seconds;
static double priced(void)
{
    return kernel_seconds * (double)pk_host_launches() + library_seconds * (double)fake_runs();
}

static void test_tuning(void)
{
    static const struct {
        enum pk_op op;
        double kernel, library;
        bool wins;
    } cases[] = {
        {PK_OP_CONV1D, 10e-6, 9e-6, true},
        {PK_OP_CONV1D, 10e-6, 9.9e-6, false}, // not by 2 %
        {PK_OP_CONV1D, 1e-6, 0.5e-3, false},  // hopeless
        {PK_OP_CONV1D_DX, 2e-6, 1e-6, true},
        {PK_OP_CONV1D_DW, 1e-6, 1.5e-6, true}, // against two kernels
        {PK_OP_CONV1D_DW, 1e-6, 2.5e-6, false},
    };
    struct pk_err err = {.status = PK_OK};
    pk_host_clock(priced);
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_conv_key k = body;
        struct pk_matmul *m;
        struct pk_text lines = {0};
        struct job j;
        k.op = cases[i].op, k.dtype = PK_F32;
        k.kernel = 1, k.left = k.right = 0, k.stride = 2; // no pass over weights
        kernel_seconds = cases[i].kernel, library_seconds = cases[i].library;
        make(&j, &k);
        open_table(&m, "tune");
        queue.matmul = m;
        CHECK_OK(pk_conv_prepare(&queue, &j.call, &err), &err);
        const struct pk_conv_row *row = pk_conv_find(&m->convs, &k);
        CHECK(row && row->choice.library == cases[i].wins && !row->plan == !cases[i].wins);
        const int own = k.op == PK_OP_CONV1D_DW ? 2 : 1;
        CHECK(row && fabs(row->own_seconds - own * kernel_seconds) < 1e-9);
        CHECK(row && (row->seconds < row->own_seconds) == cases[i].wins);
        const int before = fake_runs();
        CHECK_OK(pk_cuda_kernels[k.op](&j.call, &err), &err);
        CHECK(cudaStreamSynchronize(queue.stream) == cudaSuccess);
        CHECK(fake_runs() == before + cases[i].wins);
        pk_matmul_print(m, &lines);
        CHECK(lines.s && strstr(lines.s, cases[i].wins ? "cuDNN algorithm 1" : "own  "));
        pk_text_free(&lines);
        queue.matmul = NULL;
        pk_matmul_close(m);
        drop(&j);
    }
    pk_host_clock(NULL);
}

/* A run's choices come back: same table, same bits; not with another version, not without. */
static void test_kept(struct pk_matmul *m)
{
    struct pk_matmul *other;
    struct pk_text text = {0}, again = {0};
    struct pk_err err = {.status = PK_OK};
    struct job j;
    const struct pk_conv_row *row = &m->convs.row[0];
    const struct pk_conv_key key = row->key;
    make(&j, &key);
    queue.matmul = m;
    double *first = run(&j);
    pk_matmul_write(m, &text);
    CHECK(text.s && strstr(text.s, "\"cudnn\": 9") && strstr(text.s, "\"by\": \"cudnn\""));
    open_table(&other, "tune");
    CHECK_OK(pk_matmul_read(other, text.s, text.len, &err), &err);
    pk_matmul_write(other, &again);
    CHECK(!strcmp(text.s, again.s));
    queue.matmul = other;
    CHECK_OK(pk_conv_prepare(&queue, &j.call, &err), &err);
    CHECK(cudaStreamSynchronize(queue.stream) == cudaSuccess);
    CHECK(other->convs.rows == m->convs.rows && other->convs.row[0].plan != NULL);
    const int before = fake_runs();
    double *second = run(&j);
    CHECK(fake_runs() == before + 1);
    CHECK(!memcmp(first, second, (size_t)j.count[0] * sizeof *first));
    free(first), free(second);
    char *bad = edited(text.s, "\"workspace\": ", "\"workspace\": 99999");
    CHECK_FAILS(pk_matmul_read(other, bad, strlen(bad), &err), PK_EDATA, &err, "damaged");
    free(bad);
    setenv("FAKE_CUDNN_VERSION", "91200", 1);
    CHECK_FAILS(pk_matmul_read(other, text.s, text.len, &err), PK_EMISSING, &err, "91200");
    unsetenv("FAKE_CUDNN_VERSION");
    queue.matmul = NULL;
    pk_matmul_close(other);
    open_table(&other, "own");
    CHECK_FAILS(pk_matmul_read(other, text.s, text.len, &err), PK_EMISSING, &err,
                "not loaded here");
    pk_matmul_close(other);
    pk_text_free(&text), pk_text_free(&again);
    drop(&j);
}

static void test_with_library(void)
{
    struct pk_matmul *m;
    struct pk_cudnn *lib;
    struct pk_err err = {.status = PK_OK};
    struct pk_text text = {0};
    void *file = dlopen(PK_FAKE_CUDNN, RTLD_NOW | RTLD_LOCAL); // keeps its counts
    CHECK(file != NULL);
    if (!file) return;
    find(file, "fake_cudnn_runs", &fake_runs), find(file, "fake_cudnn_live", &fake_live);
    setenv("PURKINJE_CUDNN", PK_FAKE_CUDNN, 1);
    setenv("FAKE_CUDNN_VERSION", "8907", 1); // how version 8 counted
    CHECK_FAILS(pk_cudnn_load(&lib, &err), PK_EMISSING, &err, "is version 8, but 9 is needed");
    CHECK(!lib);
    unsetenv("FAKE_CUDNN_VERSION");
    open_table(&m, "cudnn");
    CHECK(m && !m->convs.library); // nothing before there is a convolution
    test_forced(m);
    test_algorithms(m);
    test_turns(m);
    test_kept(m);
    pk_matmul_close(m);
    test_refusal();
    test_tuning();
    pk_matmul_describe(&text);
    CHECK(text.s && strstr(text.s, "gpu convs    own, and cuDNN 9."));
    pk_text_free(&text);
    CHECK(fake_live() == 0);
    unsetenv("PURKINJE_CUDNN");
    dlclose(file);
}

/* The library itself, where it is installed: all functions are there, and it takes the descriptors.
 * Without a GPU it says why it cannot start; the shim's stream is none of its own, so where there
 * is one it is not started. */
static void test_real_library(void)
{
    struct pk_cudnn *lib;
    struct pk_cudnn_plan *plan;
    struct pk_conv_layout lay;
    struct pk_err err = {.status = PK_OK};
    struct pk_text text = {0};
    static const struct pk_conv_key keys[] = {
        {PK_OP_CONV1D, PK_BF16, 128, 1000, 12, 32, 5, 2, 2, 2, 1, false, false},
        {PK_OP_CONV1D, PK_F32, 64, 250, 64, 64, 16, 1, 7, 8, 4, true, false},
        {PK_OP_CONV1D_DX, PK_BF16, 64, 250, 64, 64, 16, 2, 7, 7, 4, false, true},
        {PK_OP_CONV1D_DW, PK_BF16, 64, 250, 96, 96, 3, 1, 1, 1, 96, false, true},
        {PK_OP_CONV1D_DW, PK_F32, 1, 8, 4, 4, 3, 3, 0, 0, 1, false, false},
    };
    if (pk_cudnn_load(&lib, &err) != PK_OK) {
        fprintf(stderr, "no cuDNN to look at: %s\n", err.message);
        CHECK(strstr(err.message, "cuDNN") != NULL);
        return;
    }
    CHECK(pk_cudnn_version(lib) / 10000 == 9);
    pk_matmul_describe(&text);
    CHECK(text.s && strstr(text.s, "gpu convs    own, and cuDNN 9."));
    pk_text_free(&text);
    for (size_t i = 0; i < PK_COUNT(keys); i++) {
        CHECK(pk_conv_layout_of(&keys[i], &lay));
        CHECK_OK(pk_cudnn_plan_open(&plan, lib, &lay.shape, &err), &err);
        pk_cudnn_plan_close(plan);
        lay.shape.out++;
        CHECK_FAILS(pk_cudnn_plan_open(&plan, lib, &lay.shape, &err), PK_ESHAPE, &err, "output");
    }
    if (access("/dev/nvidiactl", F_OK) != 0)
        CHECK_FAILS(pk_cudnn_start(lib, &queue, &err), PK_EMISSING, &err,
                    "cuDNN cannot start: CUDNN_STATUS_");
    pk_cudnn_close(lib);
}
#endif

int main(void)
{
    CHECK(cudaStreamCreateWithFlags(&queue.stream, cudaStreamNonBlocking) == cudaSuccess);
    queue.sms = 4;
    setenv("PURKINJE_GEMM", "own", 1);
    test_layouts();
    test_round_trip();
    test_damage();
    test_modes();
#ifdef PK_FAKE_CUDNN
    test_with_library();
    test_real_library();
#endif
    CHECK(cudaStreamDestroy(queue.stream) == cudaSuccess);
    CHECK(pk_host_device_bytes() == 0 && pk_host_live_handles() == 0);
    return TEST_END();
}
