/* cmd_bench_ops.c -- purkinje bench ops: how fast the CPU kernels are at the shapes of a ViT-XS
 * JEPA step. Times single kernels on random data; each thread runs its own copy, as in training.
 * On a GPU the shapes are those of a recipe (tools/bench_device.c). */
#include "core/cpu/gemm.h"
#include "core/cpu/kernels.h"
#include "core/json.h"
#include "core/rng.h"
#include "core/thread.h"
#include "tools/bench_device.h"
#include "tools/device.h"
#include "tools/shape.h"

#include <stdlib.h>
#include <string.h>

/* One line of the table. `a` and `b` are outputs and inputs of a linear layer, width and heads of
 * attention, width of the rest. */
static const struct row {
    enum pk_op op;
    int64_t tokens, a, b;
} rows[] = {
#define ENCODER(t, c, mlp, heads)                                                                  \
    {PK_OP_LINEAR, t, 3 * c, c}, {PK_OP_LINEAR, t, c, c}, {PK_OP_LINEAR_GELU, t, mlp, c},          \
        {PK_OP_LINEAR, t, c, mlp}, {PK_OP_LINEAR_DX, t, 3 * c, c}, {PK_OP_LINEAR_DX, t, c, c},     \
        {PK_OP_LINEAR_DX, t, mlp, c}, {PK_OP_LINEAR_DX_GELU, t, c, mlp},                           \
        {PK_OP_LINEAR_DW, t, 3 * c, c}, {PK_OP_LINEAR_DW, t, c, c}, {PK_OP_LINEAR_DW, t, mlp, c},  \
        {PK_OP_LINEAR_DW, t, c, mlp}, {PK_OP_GELU, t, mlp, 0}, {PK_OP_GELU_GRAD, t, mlp, 0},       \
        {PK_OP_ATTENTION, t, c, heads}, {PK_OP_ATTENTION_GRAD, t, c, heads},                       \
        {PK_OP_ADD_LAYERNORM, t, c, 0},                                                            \
    {                                                                                              \
        PK_OP_LAYERNORM_GRAD, t, c, 0                                                              \
    }
    ENCODER(201, 192, 768, 4),
    ENCODER(41, 192, 768, 4),
    ENCODER(200, 96, 384, 4),
#undef ENCODER
    {PK_OP_ATTENTION, 201, 384, 6}, // ViT-S, heads of 64
    {PK_OP_ATTENTION_GRAD, 201, 384, 6}};

enum { VALUES_MAX = 12, TURNS_MAX = 4096 };

/* A program of one node with everything it needs; one for each thread. */
struct bench {
    struct pk_prog prog;
    struct pk_value value[VALUES_MAX];
    struct pk_node node;
    struct pk_call call;
    void *memory[VALUES_MAX], *workspace;
    pk_kernel kernel;
    int64_t turns;
    enum pk_status status;
    struct pk_err err;
};

static int32_t add_value(struct bench *b, int32_t rank, int64_t d0, int64_t d1, int64_t d2)
{
    b->value[b->prog.values] = (struct pk_value){
        .dtype = PK_F32, .storage = PK_STORE_ACT, .rank = rank, .dim = {d0, d1, d2}};
    return (int32_t)b->prog.values++;
}

static void add_in(struct bench *b, int32_t rank, int64_t d0, int64_t d1, int64_t d2)
{
    b->node.in[b->node.n_in++] = add_value(b, rank, d0, d1, d2);
}

static void add_out(struct bench *b, int32_t rank, int64_t d0, int64_t d1, int64_t d2)
{
    b->node.out[b->node.n_out++] = add_value(b, rank, d0, d1, d2);
}

static void shape_linear(struct bench *b, int64_t rec, int64_t t, int64_t n, int64_t k)
{
    switch (b->node.op) {
    case PK_OP_LINEAR:
    case PK_OP_LINEAR_GELU:
        add_in(b, 3, rec, t, k), add_in(b, 2, n, k, 0), add_in(b, 1, n, 0, 0);
        add_out(b, 3, rec, t, n);
        if (b->node.op == PK_OP_LINEAR_GELU) add_out(b, 3, rec, t, n);
        break;
    case PK_OP_LINEAR_DX:
    case PK_OP_LINEAR_DX_GELU:
        add_in(b, 3, rec, t, n), add_in(b, 2, n, k, 0);
        if (b->node.op == PK_OP_LINEAR_DX_GELU) add_in(b, 3, rec, t, k);
        add_out(b, 3, rec, t, k);
        break;
    default: // LINEAR_DW adds to the gradients, as in a step
        add_in(b, 3, rec, t, n), add_in(b, 3, rec, t, k);
        add_out(b, 2, n, k, 0), add_out(b, 1, n, 0, 0);
        b->node.accumulate = 3;
    }
}

static void shape_attention(struct bench *b, int64_t rec, int64_t t, int64_t c, int64_t heads)
{
    b->node.attr.attention.heads = (int32_t)heads;
    b->node.attr.attention.scale = 0.1f;
    if (b->node.op == PK_OP_ATTENTION) {
        add_in(b, 3, rec, t, 3 * c);
        add_out(b, 3, rec, t, c), add_out(b, 3, rec, heads, t);
    } else {
        add_in(b, 3, rec, t, c), add_in(b, 3, rec, t, 3 * c);
        add_in(b, 3, rec, t, c), add_in(b, 3, rec, heads, t);
        add_out(b, 3, rec, t, 3 * c);
    }
}

static void shape_rowwise(struct bench *b, int64_t rec, int64_t t, int64_t c)
{
    switch (b->node.op) {
    case PK_OP_ADD_LAYERNORM:
        b->node.attr.layernorm.eps = 1e-6f;
        add_in(b, 3, rec, t, c), add_in(b, 3, rec, t, c), add_in(b, 1, c, 0, 0);
        add_in(b, 1, c, 0, 0), add_out(b, 3, rec, t, c), add_out(b, 3, rec, t, c);
        add_out(b, 1, rec * t, 0, 0), add_out(b, 1, rec * t, 0, 0);
        break;
    case PK_OP_LAYERNORM_GRAD:
        add_in(b, 3, rec, t, c), add_in(b, 3, rec, t, c), add_in(b, 1, c, 0, 0);
        add_in(b, 1, rec * t, 0, 0), add_in(b, 1, rec * t, 0, 0);
        add_out(b, 3, rec, t, c), add_out(b, 1, c, 0, 0), add_out(b, 1, c, 0, 0);
        b->node.accumulate = 7;
        break;
    default:
        add_in(b, 3, rec, t, c);
        if (b->node.op == PK_OP_GELU_GRAD) add_in(b, 3, rec, t, c);
        add_out(b, 3, rec, t, c);
    }
}

static void bench_free(struct bench *b)
{
    for (int i = 0; i < VALUES_MAX; i++) free(b->memory[i]);
    free(b->workspace);
}

/* Builds the row for `records` records and fills every value with standard normal numbers. */
static enum pk_status bench_make(struct bench *b, const struct row *r, int64_t records,
                                 enum pk_isa isa, struct pk_err *err)
{
    memset(b, 0, sizeof *b);
    b->node.op = r->op;
    b->prog.value = b->value, b->prog.node = &b->node, b->prog.nodes = 1;
    b->kernel = pk_cpu_table(isa)[r->op];
    if (r->op >= PK_OP_LINEAR && r->op <= PK_OP_LINEAR_DX_GELU && r->b)
        shape_linear(b, records, r->tokens, r->a, r->b);
    else if (r->b)
        shape_attention(b, records, r->tokens, r->a, r->b);
    else
        shape_rowwise(b, records, r->tokens, r->a);
    struct pk_rng rng = pk_rng_make(1, PK_RNG_TEST, (uint64_t)r->op, 0);
    for (int64_t i = 0; i < b->prog.values; i++) {
        int64_t n = pk_value_count(&b->value[i]);
        PK_TRY(pk_alloc_aligned(&b->memory[i], (size_t)n, sizeof(float), "bench values", err));
        float *p = b->memory[i];
        for (int64_t j = 0; j < n; j++) p[j] = (float)pk_rng_normal(&rng);
    }
    b->call.node = &b->node;
    for (int i = 0; i < b->node.n_in; i++)
        b->call.in[i] = &b->value[b->node.in[i]], b->call.src[i] = b->memory[b->node.in[i]];
    for (int i = 0; i < b->node.n_out; i++)
        b->call.out[i] = &b->value[b->node.out[i]], b->call.dst[i] = b->memory[b->node.out[i]];
    const struct pk_op_row *op = pk_op_table[r->op];
    size_t bytes = op->workspace ? op->workspace(&b->prog, &b->node) : 0;
    PK_TRY(pk_alloc_aligned(&b->workspace, bytes + 64, 1, "bench workspace", err));
    b->call.workspace = b->workspace;
    return PK_OK;
}

static void work(void *ctx, int worker)
{
    struct bench *b = (struct bench *)ctx + worker;
    for (int64_t i = 0; i < b->turns && b->status == PK_OK; i++)
        b->status = b->kernel(&b->call, &b->err);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median and least seconds of one kernel call; every thread runs calls of its own at once. */
static enum pk_status measure(struct pk_pool *pool, struct bench *b, int threads, double seconds,
                              double *median, double *least, struct pk_err *err)
{
    double time[TURNS_MAX], start = pk_seconds();
    int64_t turns = 1, n = 0;
    while (n < TURNS_MAX && (n < 3 || pk_seconds() - start < seconds)) {
        for (int i = 0; i < threads; i++) b[i].turns = turns;
        double t = pk_seconds();
        pk_pool_run(pool, work, b);
        t = pk_seconds() - t;
        for (int i = 0; i < threads; i++)
            if (b[i].status != PK_OK) return pk_fail(err, b[i].status, "%s", b[i].err.message);
        if (t < 5e-4 && turns < 1 << 20) { // too short for the clock and the start of the threads
            turns *= 2;
            continue;
        }
        time[n++] = t / (double)turns;
    }
    qsort(time, (size_t)n, sizeof *time, ascending);
    *median = time[n / 2];
    *least = time[0];
    return PK_OK;
}

struct setup {
    enum pk_isa isa;
    int64_t records, threads;
    double seconds;
    const char *only; // op name, or NULL
    struct pk_pool *pool;
    struct bench *bench;         // [threads]
    struct pk_json_writer *json; // NULL: a table
};

static void print_row(const struct setup *s, const struct row *r, double median, double least)
{
    const struct bench *b = &s->bench[0];
    const struct pk_op_row *op = pk_op_table[r->op];
    double flops = op->flops(&b->prog, &b->node) * (double)s->threads;
    double bytes = pk_op_bytes(&b->prog, &b->node) * (double)s->threads;
    if (!s->json) {
        printf("%-16s %5lld %5lld %5lld %10.1f %10.1f %9.1f %9.1f %8.1f\n", op->name,
               (long long)r->tokens, (long long)r->a, (long long)r->b, median * 1e6, least * 1e6,
               flops / median * 1e-9, flops / least * 1e-9, bytes / median * 1e-9);
        return;
    }
    pk_json_open(s->json, NULL, '{');
    pk_json_put_string(s->json, "op", op->name);
    pk_json_put_i64(s->json, "tokens", r->tokens);
    pk_json_put_i64(s->json, "a", r->a);
    pk_json_put_i64(s->json, "b", r->b);
    pk_json_put_f64(s->json, "seconds_median", median);
    pk_json_put_f64(s->json, "seconds_least", least);
    pk_json_put_f64(s->json, "flops_per_second", flops / median);
    pk_json_put_f64(s->json, "bytes_per_second", bytes / median);
    pk_json_close(s->json);
}

static enum pk_status bench_row(const struct setup *s, const struct row *r, struct pk_err *err)
{
    double median, least;
    enum pk_status status = PK_OK;
    int made = 0;
    for (; made < s->threads && status == PK_OK; made++)
        status = bench_make(&s->bench[made], r, s->records, s->isa, err);
    if (status == PK_OK)
        status = measure(s->pool, s->bench, (int)s->threads, s->seconds, &median, &least, err);
    if (status == PK_OK) print_row(s, r, median, least);
    for (int i = 0; i < made; i++) bench_free(&s->bench[i]);
    return status;
}

static enum pk_status bench_rows(struct setup *s, struct pk_err *err)
{
    struct pk_text text = {0};
    struct pk_json_writer json = {.out = &text, .indent = 2};
    enum pk_status status = PK_OK;
    if (s->json) {
        s->json = &json;
        pk_json_open(&json, NULL, '{');
        pk_json_put_string(&json, "isa", pk_isa_name(s->isa));
        pk_json_put_string(&json, "gemm", pk_gemm_library());
        pk_json_put_i64(&json, "records", s->records);
        pk_json_put_i64(&json, "threads", s->threads);
        pk_json_open(&json, "rows", '[');
    } else {
        printf("%s kernels, GEMM by %s, %lld records, %lld threads\n", pk_isa_name(s->isa),
               pk_gemm_library(), (long long)s->records, (long long)s->threads);
        printf("%-16s %5s %5s %5s %10s %10s %9s %9s %8s\n", "op", "T", "a", "b", "median us",
               "least us", "GFLOP/s", "at best", "GB/s");
    }
    for (size_t i = 0; i < PK_COUNT(rows) && status == PK_OK; i++)
        if (!s->only || !strcmp(s->only, pk_op_table[rows[i].op]->name))
            status = bench_row(s, &rows[i], err);
    if (s->json) {
        pk_json_close(&json), pk_json_close(&json);
        if (status == PK_OK) status = pk_print(&text, err);
    }
    pk_text_free(&text);
    return status;
}

static enum pk_status run_cpu(const struct pk_args *args, struct pk_err *err)
{
    struct setup s = {.isa = pk_isa_best(), .records = 2, .threads = 1, .seconds = 0.1};
    const char *isa = pk_arg(args, "isa");
    PK_TRY(pk_arg_i64(args, "records", 1, 1024, &s.records, err));
    PK_TRY(pk_arg_i64(args, "threads", 1, 256, &s.threads, err));
    PK_TRY(pk_arg_f64(args, "seconds", 0, 60, &s.seconds, err));
    if (args->count > 1) return pk_fail(err, PK_EUSAGE, "bench ops takes one op name at most");
    s.only = args->count ? args->word[0] : NULL;
    bool known = !s.only;
    for (size_t i = 0; i < PK_COUNT(rows) && !known; i++)
        known = !strcmp(s.only, pk_op_table[rows[i].op]->name);
    if (!known) return pk_fail(err, PK_EUSAGE, "bench ops has no shapes for '%s'", s.only);
    if (isa) {
        int i = 0;
        while (i <= (int)s.isa && strcmp(isa, pk_isa_name(i))) i++;
        if (i > (int)s.isa)
            return pk_fail(err, PK_EUSAGE, "--isa %s: this machine runs portable to %s", isa,
                           pk_isa_name(s.isa));
        s.isa = i;
    }
    struct pk_json_writer wanted;
    s.json = pk_arg(args, "json") ? &wanted : NULL;
    PK_TRY(pk_alloc(&s.bench, (size_t)s.threads, sizeof *s.bench, "benches", err));
    enum pk_status status = pk_pool_create(&s.pool, (int)s.threads, pk_gemm_thread_init, err);
    if (status == PK_OK) status = bench_rows(&s, err);
    pk_pool_free(s.pool);
    free(s.bench);
    return status;
}

/* OP [key=value ...] or key=value ... */
static enum pk_status run_device(const struct pk_args *args, const struct pk_backend *backend,
                                 struct pk_err *err)
{
    struct pk_recipe *r;
    const char *recipe = pk_arg(args, "recipe");
    const int first = args->count && !strchr(args->word[0], '=');
    struct pk_bench_device o = {.backend = backend,
                                .only = first ? args->word[0] : NULL,
                                .seconds = 0.1,
                                .json = pk_arg(args, "json") != NULL};
    PK_TRY(pk_arg_f64(args, "seconds", 0, 60, &o.seconds, err));
    PK_TRY(pk_recipe_open(&r, recipe ? recipe : "jepa_vit_s_500hz", args->count - first,
                          args->word + first, err));
    enum pk_status s = pk_bench_device(r, &o, err);
    pk_recipe_free(r);
    return s;
}

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    const struct pk_backend *backend;
    const char *device = pk_arg(args, "device");
    PK_TRY(pk_device_choose(device ? device : "cpu", &backend, err));
    if (backend) return run_device(args, backend, err);
    if (pk_arg(args, "recipe"))
        return pk_fail(err, PK_EUSAGE, "--recipe is for --device cuda; here shapes are ViT-XS's");
    return run_cpu(args, err);
}

static const struct pk_option options[] = {
    {"isa", "SET", "portable, avx2 or avx512 (default: the best this machine runs)"},
    {"records", "N", "records of a micro-batch (default 2)"},
    {"threads", "N", "threads that each run the kernel on their own data (default 1)"},
    {"seconds", "S", "time for each row (default 0.1)"},
    {"device", "cpu|cuda", "what to time (default cpu); a GPU takes its shapes from --recipe"},
    {"recipe", "RECIPE", "with --device cuda: whose program (default jepa_vit_s_500hz)"},
    {"json", NULL, "results as JSON"},
    {0}};

static const struct pk_example examples[] = {
    {"bench ops attention --seconds 0.01", "forward attention at the shapes of ViT-XS and ViT-S"},
    {"bench ops gelu --seconds 0.01 --threads 2 --json", "GELU in two threads, for a script"},
    {0}};

const struct pk_command pk_cmd_bench_ops = {
    .name = "bench ops",
    .synopsis = "[OP] [key=value ...]",
    .summary = "speed of single kernels at the shapes of a training step",
    .details =
        "T is tokens; a and b are outputs and inputs of a linear layer, width and heads of\n"
        "attention, width of the rest. GFLOP/s count 2 per multiply-add of the matrix\n"
        "products only; GB/s count every input and output once. Rates are of all threads\n"
        "together, by the median call and by the fastest.\n"
        "With --device cuda, rows are the different nodes of the recipe's program, key=value\n"
        "changes the recipe, and share is of the roofline: the longer of computing a node's\n"
        "FLOPs like the best product and moving its bytes like a copy, both measured in\n"
        "the same run. Each call finds the L2 cache without its inputs.",
    .options = options,
    .examples = examples,
    .run = run};
