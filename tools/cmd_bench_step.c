/* cmd_bench_step.c -- purkinje bench step: how fast a recipe trains when the batch is already in
 * memory. Runs pretraining's own step (tools/step.c) on random data: forward, backward, AdamW
 * and the EMA copy. FLOPs are counted as by every implementation's minimum (models/jepa.h), so that
 * the numbers compare with those of other frameworks. */
#include "core/cpu/gemm.h"
#include "core/rng.h"
#include "tools/device.h"
#include "tools/step.h"
#include "tools/probe.h"
#include "tools/shape.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS_MAX = 100000 };

struct bench {
    struct pk_trainer t;
    struct pk_step s;
    struct pk_batch batch;
    int64_t steps, keep; // keep 0: as drawn in training
    bool profile;
    double *time;         // [steps] seconds
    double flops, total;  // of all timed steps; seconds of all timed steps
    double loss, ceiling; // of the last step; FLOP/s
    double ended;         // pk_seconds when the last step was over
};

/* Random samples of about two standard deviations, all leads present. */
static enum pk_status fill_batch(struct bench *b, struct pk_err *err)
{
    const struct pk_batch_shape *shape = &b->s.model.signal.shape;
    struct pk_batch *a = &b->batch;
    size_t n = (size_t)b->s.batch, leads = (size_t)shape->leads;
    size_t samples = n * leads * (size_t)shape->samples;
    struct pk_rng r = pk_rng_make(1, PK_RNG_TEST, 0, 0);
    *a = (struct pk_batch){.n = (int32_t)n, .leads = shape->leads, .samples = shape->samples};
    PK_TRY(pk_alloc(&a->signal, samples, sizeof *a->signal, "batch", err));
    PK_TRY(pk_alloc(&a->gain, n * leads, sizeof *a->gain, "batch", err));
    PK_TRY(pk_alloc(&a->offset, n * leads, sizeof *a->offset, "batch", err));
    PK_TRY(pk_alloc(&a->sample, n, sizeof *a->sample, "batch", err));
    PK_TRY(pk_alloc(&a->row, n, sizeof *a->row, "batch", err));
    PK_TRY(pk_alloc(&a->group, n, sizeof *a->group, "batch", err));
    for (size_t i = 0; i < n; i++) a->row[i] = a->group[i] = (int64_t)i / 2; // pairs, if need be
    for (size_t i = 0; i < samples; i++)
        a->signal[i] = (int16_t)((int32_t)(pk_rng_u32(&r) >> 16) / 16 - 2048);
    for (size_t i = 0; i < n * leads; i++) a->gain[i] = 1e-3f;
    for (size_t i = 0; i < n; i++) a->sample[i] = (int64_t)i;
    return PK_OK;
}

static int32_t keep_of(const struct bench *b, int64_t step)
{
    return b->keep ? (int32_t)b->keep : b->s.objective->keep(&b->s.model, step);
}

/* All programs that the steps need, so that no timed step builds one. */
static enum pk_status build_programs(struct bench *b, struct pk_err *err)
{
    struct pk_step_program *v;
    int32_t low = b->s.objective->keep_min(&b->s.model),
            high = b->s.objective->keep_max(&b->s.model);
    if (b->keep && (b->keep < low || b->keep > high))
        return pk_fail(err, PK_EUSAGE,
                       "--keep %lld: %s keeps %d to %d of %d tokens; objective.mask.keep=[a, b] "
                       "changes that",
                       (long long)b->keep, pk_recipe_str(b->t.recipe, "name"), low, high,
                       b->s.model.signal.tokens);
    if (b->keep) return pk_step_program(&b->s, (int32_t)b->keep, &v, err);
    for (int32_t k = low; k <= high; k++) PK_TRY(pk_step_program(&b->s, k, &v, err));
    return PK_OK;
}

static enum pk_status start_profile(struct bench *b, struct pk_err *err)
{
    for (int32_t k = 0; k < b->s.programs; k++) {
        struct pk_step_program *v = &b->s.program[k];
        if (v->built)
            PK_TRY(pk_alloc(&v->bound.seconds, (size_t)v->prog.nodes, sizeof *v->bound.seconds,
                            "profile", err));
    }
    return PK_OK;
}

static enum pk_status measure_ceiling(struct bench *b, struct pk_err *err)
{
    double rate;
    PK_TRY(pk_step_ceiling(&b->s, keep_of(b, 0), 0.3, &rate, err));
    b->ceiling = PK_MAX(b->ceiling, rate);
    return PK_OK;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Notes when steps end: a step's time is that from the end of the one before. */
static enum pk_status take_results(struct bench *b, int lag, struct pk_err *err)
{
    struct pk_exec_result r;
    bool have = true;
    for (;;) {
        PK_TRY(pk_exec_result(&b->t.exec, lag, &r, &have, err));
        if (!have) return PK_OK;
        double now = pk_seconds();
        b->loss = r.loss;
        if (r.step > 0) b->time[r.step - 1] = now - b->ended;
        b->ended = now;
        if (!r.taken) return pk_fail(err, r.why.status, "%s", r.why.message);
    }
}

/* One step; on a device several, which raise its clocks, and one of every program, since the first
 * run of each captures its graph. */
static enum pk_status warm_up(struct bench *b, struct pk_err *err)
{
    enum { DEVICE_STEPS = 8 };
    const int steps = b->t.backend ? DEVICE_STEPS : 1;
    const int32_t low = b->s.objective->keep_min(&b->s.model);
    const int32_t high = b->s.objective->keep_max(&b->s.model);
    for (int32_t k = low; b->t.backend && !b->keep && k <= high; k++) {
        PK_TRY(pk_step_run(&b->s, 0, k, &b->batch, false, err));
        PK_TRY(take_results(b, 0, err));
    }
    for (int i = 0; i < steps; i++) {
        PK_TRY(pk_step_run(&b->s, 0, keep_of(b, 0), &b->batch, false, err));
        PK_TRY(take_results(b, 0, err));
    }
    return PK_OK;
}

static enum pk_status time_steps(struct bench *b, struct pk_err *err)
{
    PK_TRY(warm_up(b, err));
    b->s.optimizer_seconds = 0;
    if (b->profile) PK_TRY(start_profile(b, err));
    for (int64_t i = 0; i < b->steps; i++) {
        int32_t keep = keep_of(b, i + 1);
        PK_TRY(pk_step_run(&b->s, i + 1, keep, &b->batch, false, err));
        PK_TRY(take_results(b, pk_exec_lag(&b->t.exec), err));
        b->flops += (double)b->s.batch * pk_objective_flops(b->s.objective, &b->s.model, keep);
    }
    PK_TRY(take_results(b, 0, err));
    for (int64_t i = 0; i < b->steps; i++) b->total += b->time[i];
    qsort(b->time, (size_t)b->steps, sizeof *b->time, ascending);
    return PK_OK;
}

/* A device works on while the host goes on, so the time of its update is that of many in a row. The
 * weights move on, which no number printed depends on. */
static enum pk_status time_updates(struct bench *b, struct pk_err *err)
{
    enum { TURNS = 50 };
    struct pk_exec_result r;
    bool have;
    double begun = pk_seconds();
    for (int64_t i = 0; i < TURNS; i++) {
        struct pk_optim_step o = {.step = b->steps + 1 + i, .ema_momentum = 0.5};
        PK_TRY(pk_exec_update(&b->t.exec, &o, err));
        PK_TRY(pk_exec_result(&b->t.exec, i == TURNS - 1 ? 0 : pk_exec_lag(&b->t.exec), &r, &have,
                              err));
    }
    for (have = true; have;) PK_TRY(pk_exec_result(&b->t.exec, 0, &r, &have, err));
    b->s.optimizer_seconds = (pk_seconds() - begun) / TURNS * (double)b->steps;
    return PK_OK;
}

struct line { // of the profile: all nodes of one op, on one worker
    enum pk_op op;
    int64_t calls;
    double seconds, flops, bytes;
};

static int by_time(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

static int collect(const struct bench *b, struct line line[PK_OP_COUNT])
{
    int lines = 0;
    for (int i = 0; i < PK_OP_COUNT; i++) line[i] = (struct line){.op = (enum pk_op)i};
    for (int32_t k = 0; k < b->s.programs; k++) {
        const struct pk_step_program *v = &b->s.program[k];
        for (int64_t i = 0; v->bound.seconds && i < v->prog.nodes; i++) {
            const struct pk_node *n = &v->prog.node[i];
            struct line *l = &line[n->op];
            double runs = (double)v->bound.profiled;
            l->calls += v->bound.profiled;
            l->seconds += v->bound.seconds[i];
            l->flops += runs * pk_op_table[n->op]->flops(&v->prog, n);
            l->bytes += runs * pk_op_bytes(&v->prog, n);
        }
    }
    for (int i = 0; i < PK_OP_COUNT; i++)
        if (line[i].calls) line[lines++] = line[i];
    qsort(line, (size_t)lines, sizeof *line, by_time);
    return lines;
}

static void print_profile(const struct bench *b)
{
    struct line line[PK_OP_COUNT];
    int lines = collect(b, line);
    double steps = (double)b->steps, rest = b->total - b->s.optimizer_seconds;
    if (b->t.backend)
        printf("\nkernel by kernel, without graphs, per step:\n");
    else
        printf("\nworker 0 of %d, per step:\n", b->t.exec.threads);
    printf("%-22s %9s %10s %7s %9s %8s\n", "op", "calls", "ms", "share", "GFLOP/s", "GB/s");
    for (int i = 0; i < lines; i++) {
        const struct line *l = &line[i];
        rest -= l->seconds;
        printf("%-22s %9.0f %10.3f %6.1f%% %9.1f %8.1f\n", pk_op_table[l->op]->name,
               (double)l->calls / steps, 1e3 * l->seconds / steps, 100 * l->seconds / b->total,
               1e-9 * l->flops / l->seconds, 1e-9 * l->bytes / l->seconds);
    }
    printf("%-22s %9s %10.3f %6.1f%%\n", "AdamW and EMA", "", 1e3 * b->s.optimizer_seconds / steps,
           100 * b->s.optimizer_seconds / b->total);
    printf("%-22s %9s %10.3f %6.1f%%\n",
           b->t.backend ? "rest: inputs, waiting" : "rest: shards, waiting", "", 1e3 * rest / steps,
           100 * rest / b->total);
}

static void put_profile(const struct bench *b, struct pk_json_writer *w)
{
    struct line line[PK_OP_COUNT];
    int lines = collect(b, line);
    double steps = (double)b->steps;
    pk_json_open(w, "profile", '[');
    for (int i = 0; i < lines; i++) {
        pk_json_open(w, NULL, '{');
        pk_json_put_string(w, "op", pk_op_table[line[i].op]->name);
        pk_json_put_f64(w, "calls_per_step", (double)line[i].calls / steps);
        pk_json_put_f64(w, "ms_per_step", 1e3 * line[i].seconds / steps);
        pk_json_put_f64(w, "flops_per_s", line[i].flops / line[i].seconds);
        pk_json_put_f64(w, "bytes_per_s", line[i].bytes / line[i].seconds);
        pk_json_close(w);
    }
    pk_json_close(w);
}

static void put_memory(const struct bench *b, struct pk_json_writer *w)
{
    const struct pk_exec *x = &b->t.exec;
    int64_t flat = x->elements * (int64_t)sizeof(float);
    pk_json_open(w, "memory", '{');
    pk_json_put_i64(w, "param", flat);
    pk_json_put_i64(w, "ema", x->ema ? flat : 0);
    pk_json_put_i64(w, "grad", flat * x->shards);
    pk_json_put_i64(w, "moments", 2 * flat);
    pk_json_put_i64(w, "act_per_thread", x->arena_bytes);
    pk_json_put_i64(w, "threads", x->threads);
    pk_json_close(w);
}

static enum pk_status print_json(const struct bench *b, double median, struct pk_err *err)
{
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    pk_json_open(&w, NULL, '{');
    pk_json_put_string(&w, "recipe", pk_recipe_str(b->t.recipe, "name"));
    pk_json_put_string(&w, "backend", b->t.backend ? b->t.backend->name : "cpu");
    pk_json_put_string(&w, "precision", pk_dtype_name(b->t.params.storage));
    pk_json_put_string(&w, "isa", pk_isa_name(b->t.exec.isa));
    pk_json_put_string(&w, "gemm", pk_gemm_library());
    pk_json_put_i64(&w, "threads", b->t.exec.threads);
    pk_json_put_i64(&w, "batch", b->s.batch);
    pk_json_put_i64(&w, "micro_batch", b->s.micro);
    pk_json_put_i64(&w, "keep", b->keep);
    pk_json_put_i64(&w, "steps", b->steps);
    pk_json_put_f64(&w, "ms", 1e3 * median);
    pk_json_put_f64(&w, "ms_min", 1e3 * b->time[0]);
    pk_json_put_f64(&w, "ms_max", 1e3 * b->time[b->steps - 1]);
    pk_json_put_f64(&w, "records_per_s", (double)b->s.batch / median);
    pk_json_put_f64(&w, "flops_per_record", b->flops / (double)(b->steps * b->s.batch));
    pk_json_put_f64(&w, "flops_per_s", b->flops / (double)b->steps / median);
    pk_json_put_f64(&w, "gemm_flops_per_s", b->ceiling);
    pk_json_put_f64(&w, "share", b->flops / (double)b->steps / median / b->ceiling);
    pk_json_put_f64(&w, "optimizer_ms", 1e3 * b->s.optimizer_seconds / (double)b->steps);
    pk_json_put_f64(&w, "loss", b->loss);
    put_memory(b, &w);
    if (b->profile) put_profile(b, &w);
    pk_json_close(&w);
    return pk_print(&text, err);
}

static void print_table(const struct bench *b, double median)
{
    double rate = b->flops / (double)b->steps / median;
    struct pk_text where = {0};
    pk_exec_describe(&b->t.exec, &where);
    printf("%s: %lld records, micro-batches of %lld, %s%s%s\n", pk_recipe_str(b->t.recipe, "name"),
           (long long)b->s.batch, (long long)b->s.micro, where.s ? where.s : "",
           b->t.backend ? "" : ", GEMM by ", b->t.backend ? "" : pk_gemm_library());
    pk_text_free(&where);
    if (b->keep)
        printf("%lld steps, %lld tokens kept", (long long)b->steps, (long long)b->keep);
    else
        printf("%lld steps, %d to %d tokens kept as in training", (long long)b->steps,
               b->s.objective->keep_min(&b->s.model), b->s.objective->keep_max(&b->s.model));
    printf(" of %d; loss %.4g\n", b->s.model.signal.tokens, b->loss);
    printf("  step     %.2f ms median, %.2f to %.2f\n", 1e3 * median, 1e3 * b->time[0],
           1e3 * b->time[b->steps - 1]);
    printf("  speed    %.1f records/s, %.1f GFLOP/s (%.3f GFLOP per record)\n",
           (double)b->s.batch / median, 1e-9 * rate,
           1e-9 * b->flops / (double)(b->steps * b->s.batch));
    printf("  ceiling  %.1f GFLOP/s of GEMM at these shapes; the step has %.1f %% of it\n",
           1e-9 * b->ceiling, 100 * rate / b->ceiling);
}

static enum pk_status bench_recipe(struct bench *b, bool json, struct pk_err *err)
{
    struct pk_batch_shape shape;
    PK_TRY(pk_shape_of_recipe(&shape, b->t.recipe, err));
    PK_TRY(pk_step_create(&b->s, &b->t, &shape, err));
    PK_TRY(build_programs(b, err));
    PK_TRY(fill_batch(b, err));
    pk_params_init(&b->t.params, (uint64_t)pk_recipe_i64(b->t.recipe, "seed"), b->t.exec.weight);
    if (b->t.exec.ema)
        memcpy(b->t.exec.ema, b->t.exec.weight, (size_t)b->t.params.elements * sizeof(float));
    PK_TRY(pk_exec_push(&b->t.exec, err));
    PK_TRY(pk_alloc(&b->time, (size_t)b->steps, sizeof *b->time, "times", err));
    PK_TRY(measure_ceiling(b, err));
    PK_TRY(time_steps(b, err));
    if (b->t.backend) PK_TRY(time_updates(b, err));
    PK_TRY(measure_ceiling(b, err)); // again: the machine may have been busy before
    double middle = b->time[b->steps / 2];
    double median = b->steps % 2 ? middle : (middle + b->time[b->steps / 2 - 1]) / 2;
    if (json) return print_json(b, median, err);
    print_table(b, median);
    if (b->profile) print_profile(b);
    return PK_OK;
}

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    struct bench *b;
    struct pk_recipe *r;
    if (args->count < 1)
        return pk_fail(err, PK_EUSAGE, "which recipe? 'purkinje recipe ls' lists them");
    PK_TRY(pk_alloc(&b, 1, sizeof *b, "bench", err));
    b->steps = 10;
    b->profile = pk_arg(args, "profile") != NULL;
    enum pk_status s = pk_arg_i64(args, "steps", 1, STEPS_MAX, &b->steps, err);
    if (s == PK_OK) s = pk_arg_i64(args, "keep", 1, INT32_MAX, &b->keep, err);
    if (s == PK_OK) s = pk_recipe_open(&r, args->word[0], args->count - 1, args->word + 1, err);
    if (s != PK_OK) {
        free(b);
        return s;
    }
    b->t.recipe = r;
    s = pk_device_choose(pk_arg(args, "device"), &b->t.backend, err);
    if (s == PK_OK && !pk_objective_named(pk_recipe_str(r, "objective.kind")))
        s = pk_fail(err, PK_ERECIPE, "%s: bench step times recipes of 'purkinje pretrain'",
                    pk_recipe_origin(r, "objective.kind"));
    if (s == PK_OK) s = bench_recipe(b, pk_arg(args, "json") != NULL, err);
    free(b->time);
    pk_batch_free(&b->batch);
    pk_step_free(&b->s);
    pk_trainer_free(&b->t);
    pk_recipe_free(r);
    free(b);
    return s;
}

static const struct pk_option options[] = {
    {"steps", "N", "timed steps after one to warm up, 8 on a GPU (default 10)"},
    {"keep", "N", "tokens kept in every step (default: drawn anew for each, as in training)"},
    {"profile", NULL, "time, GFLOP/s and GB/s of every kind of op"},
    {"json", NULL, "results as JSON"},
    PK_OPTION_DEVICE,
    {0}};

static const struct pk_example examples[] = {
    {"bench step jepa_demo --steps 3 --profile", "where the time of the demo's step goes"},
    {"bench step jepa_vit_tiny_ptbxl_100hz train.batch_size=16 --steps 2 --keep 40 --json",
     "small batches of a ViT, 40 tokens kept, for a script"},
    {0}};

const struct pk_command pk_cmd_bench_step = {
    .name = "bench step",
    .synopsis = "RECIPE [key=value ...]",
    .summary = "speed of a recipe's whole training step",
    .details =
        "Forward, backward, AdamW and EMA on a random batch that is already in memory. GFLOP\n"
        "counts are 2 per multiply-add of linear layers and attention, backward twice the\n"
        "forward, nothing that is computed again. The ceiling is GEMM at the recipe's shapes\n"
        "on all threads at once, measured before and after; the faster counts. With\n"
        "--profile the rates are of one worker and count what its kernels compute. Recipes\n"
        "in bf16 need train.precision=fp32 without a GPU.",
    .options = options,
    .examples = examples,
    .run = run};
