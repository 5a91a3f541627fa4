/* cmd_plan.c -- purkinje plan: what a recipe will cost, before anything is run. */
#include "core/cpu/gemm.h"
#include "core/json.h"
#include "tools/device.h"
#include "tools/plan_scaling.h"
#include "tools/probe.h"
#include "tools/recipe_plan.h"
#include "tools/shape.h"

#include <stdlib.h>
#include <string.h>

/* A step is assumed to do its work at this share of the GEMM ceiling: the target set for ViT-XS on
 * the CPU, an assumption and not a measurement. 'purkinje bench step' measures a recipe's own. */
static const double ASSUMED_SHARE = 0.6;

struct ceiling {
    double flops, bytes; // per second of all threads; 0 when not measured
    bool device;         // given for a GPU: times are rooflines
};

/* Traffic of AdamW, EMA and bf16 copies per trained element (cuda/optim.h). */
static const double OPTIMIZER_BYTES = 44;

/* A step in which every node takes the longer of computing like the best product and moving its
 * bytes like a copy, one after the other, and the optimizer moves its bytes. */
static double roofline_seconds(const struct pk_recipe_plan *p, const struct ceiling *c)
{
    struct pk_plan_rates rates = {c->flops, c->bytes};
    return pk_plan_seconds(&p->listing, &rates) * (double)(p->micros * p->parts) +
           OPTIMIZER_BYTES * (double)pk_params_total(&p->params, "") / c->bytes;
}

static enum pk_status measure(struct ceiling *out, const struct pk_recipe_plan *p,
                              struct pk_err *err)
{
    const struct pk_vit layers = pk_encoder_stand_in(&p->encoder);
    struct pk_probe_tower tower[PK_TOWERS] = {{&layers, p->micro * (p->signal->tokens + 1), 1}};
    int towers = 1;
    if (p->objective) towers = p->objective->towers(&p->model, p->micro, p->keep[1], tower);
    enum { STREAM_MAX = 4 << 20 }; // a node's values, not all that ever lived in the arena
    size_t bytes = (size_t)PK_MIN(p->arena, (int64_t)STREAM_MAX);
    PK_TRY(pk_probe_gemm(tower, towers, p->threads, 0.2, &out->flops, err));
    return pk_probe_stream(p->threads, bytes, 0.03, &out->bytes, err);
}

static double step_seconds(const struct pk_recipe_plan *p, int part, const struct ceiling *c)
{
    return p->part[part].record_flops * (double)p->batch / (c->flops * ASSUMED_SHARE);
}

static void print_size(const char *name, int64_t bytes, const char *note)
{
    printf("  %-16s %16lld  %s\n", name, (long long)bytes, note);
}

/* Running statistics of batch norm; they lie among the parameters. */
static int64_t state_bytes(const struct pk_recipe_plan *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->params.count; i++)
        if (p->params.item[i].state) n += p->params.item[i].count;
    return n * (int64_t)sizeof(float);
}

static void print_memory(const struct pk_recipe_plan *p)
{
    char act[160], grad[64];
    if (p->backend) {
        struct pk_text table = {0};
        p->backend->predict(&p->need, &table);
        printf("memory of the GPU\n%s", table.s ? table.s : "");
        pk_text_free(&table);
        print_size("checkpoint", p->checkpoint, "on disk, each; headers and state add a few KB");
        return;
    }
    snprintf(grad, sizeof grad, "%d shards of fp32 gradients", PK_SHARDS);
    snprintf(act, sizeof act, "%d threads of %lld; no plan can do with less than %lld each",
             p->threads, (long long)p->arena, (long long)p->arena_bound);
    printf("memory, bytes\n");
    print_size("IN", p->in, "batches that the loader holds");
    print_size("PARAM", p->weight, "fp32, padded; running statistics are among them");
    print_size("GRAD", p->grad, grad);
    print_size("ACT", p->arena * p->threads, act);
    print_size("CONST", p->constants, "position tables of all programs");
    print_size("AdamW m, v", p->moments, "");
    if (p->ema) print_size("EMA", p->ema, "target encoder, in the layout of all parameters");
    if (!p->objective) print_size("best", p->best, "weights of the best validation");
    print_size("total", pk_recipe_plan_memory(p), "");
    print_size("checkpoint", p->checkpoint, "on disk, each; headers and state add a few KB");
}

static void print_model(const struct pk_recipe_plan *p, const char *name)
{
    char encoder_text[96], partner[96];
    pk_encoder_describe(&p->encoder, encoder_text);
    int64_t encoder = pk_params_total(&p->params, "encoder.");
    int64_t all = pk_params_total(&p->params, "");
    printf("%s\nparameters\n  %-16s %16lld  %s\n", name, "encoder", (long long)encoder,
           encoder_text);
    if (p->objective) {
        p->objective->describe(&p->model, partner);
        printf("  %-16s %16lld  %s\n", p->objective->partner, (long long)(all - encoder), partner);
    } else
        printf("  %-16s %16lld  %d %s\n", "head", (long long)(all - encoder), p->classifier.classes,
               p->classifier.regresses ? "targets" : "classes");
    printf("  %-16s %16lld\n", "total", (long long)all);
    printf("input\n  %d leads, %d samples at %g Hz: %d tokens of %d samples", p->signal->leads,
           p->signal->shape.samples, p->signal->shape.rate, p->signal->tokens, p->signal->patch);
    if (p->encoder.vit.tokenise == PK_TOKENISE_PATCH) printf(" of each lead");
    if (p->objective && p->keep[0] < p->keep[2])
        printf(", %d to %d kept (mean %d)", p->keep[0], p->keep[2], p->keep[1]);
    else if (p->objective && p->keep[1])
        printf(", %d kept", p->keep[1]);
    printf("\n  batch %lld", (long long)p->batch);
    if (p->parts > 1) printf(" in %lld parts", (long long)p->parts);
    printf(", %lld micro-batches of %lld\n", (long long)p->micros, (long long)p->micro);
}

static void print_work(const struct pk_recipe_plan *p)
{
    printf("work\n");
    for (int i = 0; i < p->part_count; i++) {
        const struct pk_plan_part *w = &p->part[i];
        printf("  %-16s %.4f GFLOP per record, %.2f per step; %lld nodes compute %.4f and move "
               "%.2f MB per record\n",
               w->name, 1e-9 * w->record_flops, 1e-9 * w->record_flops * (double)p->batch,
               (long long)w->nodes, 1e-9 * w->program_flops, 1e-6 * w->program_bytes);
    }
    for (int i = 0; i < p->works; i++)
        printf("%s%s %.4f%s", i ? ", " : "                   ", p->work[i].name,
               1e-9 * p->work[i].flops, strcmp(p->work[i].name, "target") ? "" : " (forward)");
    if (p->works) printf(" GFLOP per record\n");
}

static void print_duration(double seconds)
{
    if (seconds < 1)
        printf("%.3g ms", 1e3 * seconds);
    else if (seconds < 120)
        printf("%.3g s", seconds);
    else if (seconds < 7200)
        printf("%.3g min", seconds / 60);
    else if (seconds < 172800)
        printf("%.3g h", seconds / 3600);
    else
        printf("%.3g days", seconds / 86400);
}

static void print_time(const struct pk_recipe_plan *p, const struct ceiling *c)
{
    if (p->train_records >= 0)
        printf("data\n  %lld records to train on: %.2f steps per epoch\n",
               (long long)p->train_records, (double)p->train_records / (double)p->batch);
    else
        printf("data\n  steps per epoch unknown: %s\n", p->data_note);
    if (!(c->flops > 0)) return;
    if (c->device) {
        double step = roofline_seconds(p, c);
        printf("time: a model, every node at %.0f TFLOP/s or %.2f TB/s, whichever takes longer\n"
               "  %-16s ",
               1e-12 * c->flops, 1e-12 * c->bytes, p->part[0].name);
        print_duration(step);
        printf(" per step, %.1f records/s\n", (double)p->batch / step);
        return;
    }
    printf("time: a model, %.0f %% of this machine's %.1f GFLOP/s (GEMM of %s at these shapes, %d "
           "threads)\n",
           100 * ASSUMED_SHARE, 1e-9 * c->flops, pk_gemm_library(), p->threads);
    for (int i = 0; i < p->part_count; i++) {
        double step = step_seconds(p, i, c);
        printf("  %-16s ", p->part[i].name);
        print_duration(step);
        printf(" per step, %.1f records/s, ", (double)p->batch / step);
        print_duration(step * (double)p->part[i].steps);
        printf(" for %lld steps\n", (long long)p->part[i].steps);
    }
}

static void put_model(const struct pk_recipe_plan *p, struct pk_json_writer *w)
{
    int64_t encoder = pk_params_total(&p->params, "encoder.");
    int64_t all = pk_params_total(&p->params, "");
    pk_json_open(w, "parameters", '{');
    pk_json_put_i64(w, "encoder", encoder);
    pk_json_put_i64(w, p->objective ? p->objective->partner : "head", all - encoder);
    pk_json_put_i64(w, "total", all);
    pk_json_close(w);
    pk_json_put_i64(w, "leads", p->signal->leads);
    pk_json_put_i64(w, "tokens", p->signal->tokens);
    pk_json_put_i64(w, "patch_samples", p->signal->patch);
    if (p->objective) {
        pk_json_put_i64(w, "keep_min", p->keep[0]);
        pk_json_put_i64(w, "keep_mean", p->keep[1]);
        pk_json_put_i64(w, "keep_max", p->keep[2]);
    } else {
        pk_json_put_i64(w, p->classifier.regresses ? "targets" : "classes", p->classifier.classes);
    }
    pk_json_put_i64(w, "batch", p->batch);
    pk_json_put_i64(w, "accumulate", p->parts);
    pk_json_put_i64(w, "micro_batch", p->micro);
    pk_json_put_i64(w, "micro_batches", p->micros);
}

static void put_memory(const struct pk_recipe_plan *p, struct pk_json_writer *w)
{
    pk_json_open(w, "memory", '{');
    pk_json_put_i64(w, "in", p->in);
    pk_json_put_i64(w, "param", p->weight);
    pk_json_put_i64(w, "grad", p->grad);
    pk_json_put_i64(w, "state", state_bytes(p));
    pk_json_put_i64(w, "act_per_thread", p->arena);
    pk_json_put_i64(w, "act_bound", p->arena_bound);
    pk_json_put_i64(w, "threads", p->threads);
    pk_json_put_i64(w, "const", p->constants);
    pk_json_put_i64(w, "moments", p->moments);
    pk_json_put_i64(w, "ema", p->ema);
    pk_json_put_i64(w, "best", p->best);
    pk_json_put_i64(w, "total", pk_recipe_plan_memory(p));
    if (p->backend) pk_json_put_i64(w, "device_total", p->backend->predict(&p->need, NULL));
    pk_json_close(w);
    pk_json_put_i64(w, "checkpoint", p->checkpoint);
}

static void put_parts(const struct pk_recipe_plan *p, const struct ceiling *c,
                      struct pk_json_writer *w)
{
    pk_json_open(w, "parts", '[');
    for (int i = 0; i < p->part_count; i++) {
        const struct pk_plan_part *part = &p->part[i];
        pk_json_open(w, NULL, '{');
        pk_json_put_string(w, "name", part->name);
        pk_json_put_i64(w, "steps", part->steps);
        pk_json_put_i64(w, "nodes", part->nodes);
        pk_json_put_f64(w, "flops_per_record", part->record_flops);
        pk_json_put_f64(w, "flops_per_step", part->record_flops * (double)p->batch);
        pk_json_put_f64(w, "program_flops_per_record", part->program_flops);
        pk_json_put_f64(w, "program_bytes_per_record", part->program_bytes);
        if (c->flops > 0 && !c->device)
            pk_json_put_f64(w, "predicted_step_s", step_seconds(p, i, c));
        pk_json_close(w);
    }
    pk_json_close(w);
    for (int i = 0; i < p->works; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s_flops", p->work[i].name);
        pk_json_put_f64(w, key, p->work[i].flops);
    }
}

static enum pk_status print_json(const struct pk_recipe_plan *p, const char *name,
                                 const struct ceiling *c, struct pk_err *err)
{
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    pk_json_open(&w, NULL, '{');
    pk_json_put_string(&w, "recipe", name);
    put_model(p, &w);
    put_parts(p, c, &w);
    put_memory(p, &w);
    if (p->train_records >= 0) {
        pk_json_put_i64(&w, "train_records", p->train_records);
        pk_json_put_f64(&w, "steps_per_epoch", (double)p->train_records / (double)p->batch);
    } else {
        pk_json_put_null(&w, "train_records");
        pk_json_put_string(&w, "data_note", p->data_note);
    }
    if (c->flops > 0) {
        pk_json_put_f64(&w, "gemm_flops_per_s", c->flops);
        pk_json_put_f64(&w, "stream_bytes_per_s", c->bytes);
        if (c->device)
            pk_json_put_f64(&w, "roofline_step_s", roofline_seconds(p, c));
        else
            pk_json_put_f64(&w, "assumed_share", ASSUMED_SHARE);
    }
    pk_json_close(&w);
    return pk_print(&text, err);
}

static enum pk_status print_listing(const struct pk_recipe_plan *p, const struct ceiling *c,
                                    struct pk_err *err)
{
    struct pk_text text = {0};
    const int threads = c->device ? 1 : p->threads;
    struct pk_plan_rates rates = {c->flops / threads, c->bytes / threads};
    printf("program of one micro-batch of %lld, %s", (long long)p->micro, p->part[0].name);
    if (p->objective) printf(" with %d tokens kept", p->keep[1]);
    if (c->flops > 0)
        printf("; %.3f ms in all at %.1f GFLOP/s and %.1f GB/s%s",
               1e3 * pk_plan_seconds(&p->listing, &rates), 1e-9 * rates.flops, 1e-9 * rates.bytes,
               c->device ? "" : " of one thread");
    printf("\n");
    pk_plan_print(&p->listing_plan, &p->listing, &rates, &text);
    return pk_print(&text, err);
}

/* --tflops and --tbps, both or none. */
static enum pk_status given_rates(const struct pk_args *args, struct ceiling *c, struct pk_err *err)
{
    PK_TRY(pk_arg_f64(args, "tflops", 1e-6, 1e6, &c->flops, err));
    PK_TRY(pk_arg_f64(args, "tbps", 1e-6, 1e6, &c->bytes, err));
    if ((c->flops > 0) != (c->bytes > 0))
        return pk_fail(err, PK_EUSAGE, "--tflops and --tbps belong together");
    c->flops *= 1e12;
    c->bytes *= 1e12;
    c->device = true;
    return PK_OK;
}

static enum pk_status report(const struct pk_args *args, const struct pk_recipe_plan *p,
                             const char *name, struct pk_err *err)
{
    struct ceiling c = {0};
    if (p->backend || pk_arg(args, "ranks"))
        PK_TRY(given_rates(args, &c, err));
    else if (!pk_arg(args, "no-probe"))
        PK_TRY(measure(&c, p, err));
    if (pk_arg(args, "ranks"))
        return pk_plan_scaling(args, p, name, &(struct pk_plan_rates){c.flops, c.bytes}, err);
    if (pk_arg(args, "json")) return print_json(p, name, &c, err);
    print_model(p, name);
    print_work(p);
    print_memory(p);
    print_time(p, &c);
    return pk_arg(args, "listing") ? print_listing(p, &c, err) : PK_OK;
}

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    struct pk_recipe_plan *p;
    struct pk_recipe *r;
    int64_t classes = 0;
    if (args->count < 1)
        return pk_fail(err, PK_EUSAGE, "which recipe? 'purkinje recipe ls' lists them");
    const struct pk_backend *backend;
    PK_TRY(pk_device_plan(pk_arg(args, "device"), &backend, err));
    PK_TRY(pk_arg_i64(args, "classes", 1, PK_CLASSES_MAX, &classes, err));
    PK_TRY(pk_recipe_open(&r, args->word[0], args->count - 1, args->word + 1, err));
    enum pk_status s = pk_alloc(&p, 1, sizeof *p, "plan", err);
    if (s == PK_OK) s = pk_recipe_plan_make(p, r, backend, (int32_t)classes, err);
    if (s == PK_OK) {
        s = report(args, p, pk_recipe_str(r, "name"), err);
        pk_recipe_plan_free(p);
    }
    free(p);
    pk_recipe_free(r);
    return s;
}

static const struct pk_option options[] = {
    {"listing", NULL, "the program: every node with bytes, FLOPs, lifetime, address and time"},
    {"classes", "N", "classes of the task, where the corpus is not here to tell"},
    {"no-probe", NULL, "measure nothing and predict no times"},
    {"json", NULL, "results as JSON"},
    {"device", "cpu|cuda", "what to plan for (default cpu); needs no GPU"},
    {"tflops", "X", "with --device cuda: TFLOP/s of the GPU's best product, as 'doctor' measures"},
    {"tbps", "X", "and TB/s that its copies read and write: predicts a step's roofline"},
    {"ranks", "N", "data-parallel steps on up to N GPUs, a model; needs rates or --times"},
    {"gpus-per-node", "N", "of these GPUs (default 8)"},
    {"link", "NAME|US,GBPS", "inside a node: nvlink (default), or us per all-reduce and GB/s"},
    {"net", "NAME|US,GBPS", "between nodes: ib400 (default), or us per doubling and GB/s"},
    {"times", "FILE", "JSON of 'bench ops' on a GPU or of 'bench step --profile', same recipe"},
    {"slowdown", "X", "of computing while gradients are sent (default 1.1, assumed)"},
    {"buckets", "N", "that the gradients are sent in (default 3)"},
    {"node-us", "X",
     "least time of a node (default, assumed: 2 on a GPU, 0 for the CPU's program)"},
    {0}};

static const struct pk_example examples[] = {
    {"plan jepa_vit_s_500hz", "parameters, work, memory and predicted time of a ViT-S run"},
    {"plan jepa_demo train.batch_size=128 --listing --no-probe",
     "the demo's program, node by node"},
    {"plan finetune_scratch data.task=superdiagnostic --json --no-probe",
     "a fine-tuning protocol, for a script"},
    {"plan jepa_vit_s_500hz --ranks 512 --tflops 790 --tbps 4.3",
     "how the step would scale over nodes of 8 GPUs (add --device cuda for the GPU's program)"},
    {0}};

const struct pk_command pk_cmd_plan = {
    .name = "plan",
    .synopsis = "RECIPE [key=value ...]",
    .summary = "what a recipe will cost, without data or GPU",
    .details =
        "Builds the programs of the recipe and plans their memory as training would. Where\n"
        "the corpus is not here, shapes come from data.rate, data.crop and data.leads; the\n"
        "encoder of a protocol comes from its init_from. Times are a model: the work over an\n"
        "assumed share of the GEMM rate, which a measurement of 0.2 s gives at the recipe's\n"
        "shapes. In the listing, a node takes the longer of computing and moving its bytes.\n\n"
        "--ranks models data-parallel steps instead: gradients go off in buckets as they get\n"
        "ready, computing hides what it can. It is no measurement; its head names its inputs.",
    .options = options,
    .examples = examples,
    .run = run};
