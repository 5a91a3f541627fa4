/* plan_scaling.c -- 'purkinje plan --ranks' (see plan_scaling.h and core/scaling.h).
 *
 * A node takes the longer of computing and moving its bytes at the given rates, and never less than
 * --node-us. With a smaller share of the records its FLOPs and its activations shrink, its weights
 * do not. --times replaces the sum over each op by what was measured; among the nodes of an op, and
 * with the share of records, measured time goes like the roofline. */
#include "tools/plan_scaling.h"
#include "core/json.h"
#include "core/scaling.h"

#include <stdlib.h>
#include <string.h>

enum { TIMES_MAX = 16 << 20, RANKS_MAX = 65536 };
static const double OPTIMIZER_BYTES = 44; // per parameter: AdamW, EMA, bf16 copies

struct job {
    const struct pk_recipe_plan *p;
    struct pk_plan_rates rates;
    struct pk_scaling_net net;
    int64_t ranks, buckets;
    double node_seconds; // least time of a node
    double slowdown;
    double measured[PK_OP_COUNT]; // s of all nodes of an op in one run
    bool have_times;
    double optimizer; // s
    double *node;     // [nodes] s, for the share of records at hand
    const char *source;
    struct pk_json_writer *json; // NULL: a table
    double alone;                // s of one rank's step with the recipe's batch
};

/* --- times of nodes -------------------------------------------------------------------------- */

static double value_bytes(const struct pk_prog *p, int32_t v, double share)
{
    const enum pk_storage where = p->value[v].storage;
    const bool records = where == PK_STORE_IN || where == PK_STORE_ACT;
    return (double)pk_value_bytes(&p->value[v]) * (records ? share : 1);
}

static double roofline(const struct job *j, const struct pk_prog *p, const struct pk_node *n,
                       double share)
{
    double bytes = 0;
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] >= 0) bytes += value_bytes(p, n->in[i], share);
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i] >= 0)
            bytes += value_bytes(p, n->out[i], share) * (n->accumulate >> i & 1 ? 2 : 1);
    return PK_MAX(pk_op_table[n->op]->flops(p, n) * share / j->rates.flops, bytes / j->rates.bytes);
}

/* Fills j->node for micro-batches of this share of the planned ones; returns their sum. */
static double time_nodes(struct job *j, double share)
{
    const struct pk_prog *p = &j->p->listing;
    double whole[PK_OP_COUNT] = {0}, sum = 0;
    for (int64_t k = 0; k < p->nodes; k++) whole[p->node[k].op] += roofline(j, p, &p->node[k], 1);
    for (int64_t k = 0; k < p->nodes; k++) {
        const enum pk_op op = p->node[k].op;
        double t = roofline(j, p, &p->node[k], share);
        if (j->have_times && whole[op] > 0) t *= j->measured[op] / whole[op];
        sum += j->node[k] = PK_MAX(t, j->node_seconds);
    }
    return sum;
}

/* A program that brings no gradients. */
static double program_seconds(const struct job *j, const struct pk_prog *p, double share)
{
    double sum = 0;
    for (int64_t k = 0; k < p->nodes; k++)
        sum += PK_MAX(roofline(j, p, &p->node[k], share), j->node_seconds);
    return sum;
}

/* Whether an op compares the rows of all ranks; exchanges: they meet there as well. */
static bool compares(enum pk_op op, bool *exchanges)
{
    *exchanges = op == PK_OP_CONTRAST_LOSS || op == PK_OP_KOLEO_LOSS;
    return *exchanges || op == PK_OP_CONTRAST_LOSS_GRAD || op == PK_OP_KOLEO_LOSS_GRAD;
}

/* The loss over the rows of all ranks. Its comparisons grow with their square and are shared out,
 * what is done row by row is done by every rank. Adds what the ranks tell of their rows. */
static double loss_seconds(const struct job *j, struct pk_scaling_step *step, double times,
                           int64_t ranks)
{
    const struct pk_prog *p = &j->p->loss;
    double sum = 0;
    for (int64_t k = 0; k < p->nodes; k++) {
        bool exchanges;
        const struct pk_node *n = &p->node[k];
        const double share = compares(n->op, &exchanges) ? times * times / (double)ranks : times;
        sum += PK_MAX(roofline(j, p, n, share), j->node_seconds);
        if (!exchanges) continue;
        const struct pk_value *rows = &p->value[n->in[0]];
        step->gathers += (int32_t)j->p->parts;
        step->gather_bytes += (double)(pk_value_count(rows) / rows->dim[rows->rank - 1]) * times *
                              (double)j->p->parts * sizeof(struct pk_told_row);
    }
    return sum;
}

/* What a loss that couples the batch asks for ahead of the backward passes: a forward pass, the
 * rows of all ranks, and the loss of them. times: the planned batch. */
static void couple(const struct job *j, struct pk_scaling_step *step, double share, double times,
                   int64_t ranks)
{
    const struct pk_recipe_plan *p = j->p;
    if (!p->gathers) return;
    step->gathers = p->gathers * (int32_t)p->parts;
    step->gather_bytes = (double)(p->gathered * p->parts) * times * sizeof(float);
    step->before_seconds = (double)step->runs * program_seconds(j, &p->embed, share) +
                           (double)p->parts * loss_seconds(j, step, times, ranks);
}

/* Rows of 'bench ops' on a device, or of 'bench step --profile', whose sum is made that of the
 * step without its optimizer. */
static enum pk_status add_rows(struct job *j, const struct pk_json *file, const char *path,
                               struct pk_err *err)
{
    const struct pk_json *rows = pk_json_get(file, "rows"), *profile = pk_json_get(file, "profile");
    const struct pk_json *list = rows ? rows : profile;
    const struct pk_prog *p = &j->p->listing;
    bool used[PK_OP_COUNT] = {false};
    double sum = 0;
    for (int64_t i = 0; list && i < list->count; i++) {
        const char *op = pk_json_string(&list->item[i], "op", "");
        int k = 0;
        while (k < PK_OP_COUNT && strcmp(pk_op_table[k]->name, op)) k++;
        double t = rows ? pk_json_f64(&list->item[i], "seconds_median", -1) *
                              pk_json_f64(&list->item[i], "count", -1)
                        : pk_json_f64(&list->item[i], "ms_per_step", -1);
        if (k == PK_OP_COUNT || !(t >= 0))
            return pk_fail(err, PK_EUSAGE, "%s: row %lld ('%s') is no op with its time", path,
                           (long long)i, op);
        j->measured[k] += t;
        sum += t;
    }
    for (int64_t k = 0; k < p->nodes; k++) used[p->node[k].op] = true;
    for (int k = 0; k < PK_OP_COUNT; k++)
        if (used[k] != (j->measured[k] > 0))
            return pk_fail(err, PK_EUSAGE,
                           "%s %s times of %s, which the program of this recipe %s; give the "
                           "recipe and settings that were measured",
                           path, used[k] ? "has no" : "has", pk_op_table[k]->name,
                           used[k] ? "runs" : "does not run");
    if (rows) return PK_OK;
    const double step = 1e-3 * (pk_json_f64(file, "ms", 0) - pk_json_f64(file, "optimizer_ms", 0));
    if (!(step > 0)) return pk_fail(err, PK_EUSAGE, "%s has no time of a step", path);
    const double runs = (double)(j->p->batch / j->p->micro);
    for (int k = 0; k < PK_OP_COUNT; k++) j->measured[k] *= step / sum / runs;
    j->optimizer = 1e-3 * pk_json_f64(file, "optimizer_ms", 0);
    return PK_OK;
}

static enum pk_status read_times(struct job *j, const char *path, struct pk_err *err)
{
    struct pk_json file;
    PK_TRY(pk_json_load(&file, path, TIMES_MAX, err));
    enum pk_status s = PK_OK;
    if (pk_json_i64(&file, "batch", -1) != j->p->batch ||
        pk_json_i64(&file, "micro_batch", -1) != j->p->micro)
        s = pk_fail(err, PK_EUSAGE,
                    "%s was measured with a batch of %lld in micro-batches of %lld, the recipe has "
                    "%lld and %lld",
                    path, (long long)pk_json_i64(&file, "batch", -1),
                    (long long)pk_json_i64(&file, "micro_batch", -1), (long long)j->p->batch,
                    (long long)j->p->micro);
    if (!(j->rates.flops > 0)) { // 'bench ops' measures both on the same GPU
        j->rates.flops = pk_json_f64(&file, "gemm_flops_per_s", 0);
        j->rates.bytes = pk_json_f64(&file, "copy_bytes_per_s", 0);
    }
    if (s == PK_OK) s = add_rows(j, &file, path, err);
    pk_json_free(&file);
    j->have_times = true;
    j->source = path;
    return s;
}

/* --- options --------------------------------------------------------------------------------- */

/* "nvlink", "ib400", or "US,GB/s". */
static enum pk_status link_of(const struct pk_args *args, const char *option, double *latency,
                              double *bandwidth, struct pk_err *err)
{
    static const struct {
        const char *name;
        double us, gbps;
    } known[] = {{"nvlink", 30, 358.75}, {"ib400", 10, 50}};
    const char *text = pk_arg(args, option), *comma = text ? strchr(text, ',') : NULL;
    char us[32];
    double t, rate;
    if (!text) return PK_OK;
    for (size_t i = 0; i < PK_COUNT(known); i++)
        if (!strcmp(text, known[i].name)) {
            *latency = 1e-6 * known[i].us;
            *bandwidth = 1e9 * known[i].gbps;
            return PK_OK;
        }
    if (comma && (size_t)(comma - text) < sizeof us) {
        snprintf(us, sizeof us, "%.*s", (int)(comma - text), text);
        if (pk_parse_f64(us, &t) && pk_parse_f64(comma + 1, &rate) && t >= 0 && t < 1e6 &&
            rate > 0 && rate < 1e6) {
            *latency = 1e-6 * t;
            *bandwidth = 1e9 * rate;
            return PK_OK;
        }
    }
    return pk_fail(err, PK_EUSAGE,
                   "--%s %s: give nvlink, ib400, or microseconds and GB/s of one GPU as in 30,358",
                   option, text);
}

static enum pk_status options_of(struct job *j, const struct pk_args *args, struct pk_err *err)
{
    double node_us = j->p->backend ? 2 : 0;
    j->net = (struct pk_scaling_net){8, 30e-6, 358.75e9, 10e-6, 50e9};
    j->buckets = 3;
    j->slowdown = 1.1;
    j->source = "roofline";
    PK_TRY(pk_arg_i64(args, "ranks", 1, RANKS_MAX, &j->ranks, err));
    PK_TRY(pk_arg_i64(args, "gpus-per-node", 1, 1024, &j->net.gpus_per_node, err));
    PK_TRY(pk_arg_i64(args, "buckets", 1, PK_SCALING_BUCKETS, &j->buckets, err));
    PK_TRY(pk_arg_f64(args, "slowdown", 1, 100, &j->slowdown, err));
    PK_TRY(pk_arg_f64(args, "node-us", 0, 1e4, &node_us, err));
    PK_TRY(link_of(args, "link", &j->net.latency, &j->net.bandwidth, err));
    PK_TRY(link_of(args, "net", &j->net.net_latency, &j->net.net_bandwidth, err));
    j->node_seconds = 1e-6 * node_us;
    if (j->ranks > j->net.gpus_per_node && j->ranks % j->net.gpus_per_node)
        return pk_fail(err, PK_EUSAGE, "--ranks %lld does not fill nodes of %lld GPUs",
                       (long long)j->ranks, (long long)j->net.gpus_per_node);
    if (j->p->gathers && pk_arg(args, "times"))
        return pk_fail(err, PK_EUSAGE,
                       "--times knows one program, and a loss that couples the batch has three: "
                       "give --tflops and --tbps");
    if (pk_arg(args, "times")) PK_TRY(read_times(j, pk_arg(args, "times"), err));
    if (!(j->rates.flops > 0 && j->rates.bytes > 0))
        return pk_fail(err, PK_EUSAGE,
                       "--ranks needs the rates of one GPU: --tflops and --tbps, or --times with "
                       "a file of 'bench ops'");
    if (!(j->optimizer > 0))
        j->optimizer =
            OPTIMIZER_BYTES * (double)pk_params_total(&j->p->params, "") / j->rates.bytes;
    return PK_OK;
}

/* --- output ---------------------------------------------------------------------------------- */

static void put_row(struct job *j, int64_t n, bool each, const char *way, int64_t records,
                    const struct pk_scaling_result *r)
{
    // ideal: n times the records of one rank in its time, or its records in an n-th of it
    const double rate = (double)records * (double)n / r->step;
    const double efficiency = rate / ((double)n * (double)j->p->batch / j->alone);
    struct pk_json_writer *w = j->json;
    if (!w) {
        printf("  %5lld  %-6s %-14s %9lld %10.3f %10.3f %10.1f%% %12.0f %11.2f %11.2f\n",
               (long long)n, each ? "each" : "shared", way, (long long)records, 1e3 * r->step,
               1e3 * r->exposed, 100 * efficiency, rate, 1e-6 * r->inside, 1e-6 * r->between);
        return;
    }
    pk_json_open(w, NULL, '{');
    pk_json_put_i64(w, "ranks", n);
    pk_json_put_string(w, "batch_is", each ? "each" : "shared");
    pk_json_put_string(w, "reduce", way);
    pk_json_put_i64(w, "records_per_rank", records);
    pk_json_put_f64(w, "step_s", r->step);
    pk_json_put_f64(w, "exposed_s", r->exposed);
    pk_json_put_f64(w, "comm_s", r->comm);
    pk_json_put_f64(w, "efficiency", efficiency);
    pk_json_put_f64(w, "records_per_s", rate);
    pk_json_put_f64(w, "bytes_inside_node", r->inside);
    pk_json_put_f64(w, "bytes_between_nodes", r->between);
    pk_json_close(w);
}

/* The ways of reducing, for n ranks with so many records each. */
static enum pk_status put_ranks(struct job *j, int64_t n, bool each, struct pk_err *err)
{
    static const char *const way[] = {"fp32", "bf16", "zero1 fp32", "zero1 bf16"};
    struct pk_scaling_bucket bucket[PK_SCALING_BUCKETS];
    struct pk_scaling_gradient *g;
    int64_t count;
    const int64_t records = each ? j->p->batch : j->p->batch / n;
    if (!records || (!each && j->p->batch % n)) return PK_OK; // told above the table
    const int64_t runs = (records + j->p->micro - 1) / j->p->micro;
    struct pk_scaling_step step = {.runs = runs,
                                   .bucket = bucket,
                                   .weight_bytes = sizeof(float), // the masters travel
                                   .slowdown = j->slowdown,
                                   .optimizer_seconds = j->optimizer};
    const double share = (double)records / (double)(runs * j->p->micro);
    step.run_seconds = time_nodes(j, share);
    couple(j, &step, share, each ? (double)n : 1, n);
    PK_TRY(pk_scaling_gradients(&g, &count, &j->p->listing, j->node, err));
    step.buckets = pk_scaling_pack(bucket, (int32_t)j->buckets, g, count);
    free(g);
    const int ways = n == 1 ? 1 : j->p->objective ? 4 : 2; // fine-tuning knows no zero1
    for (int i = 0; i < ways; i++) {
        struct pk_scaling_result r;
        step.element_bytes = i & 1 ? 2 : 4;
        step.zero1 = i > 1;
        PK_TRY(pk_scaling_simulate(&r, &step, &j->net, n, err));
        if (n == 1) j->alone = r.step;
        put_row(j, n, each, n == 1 ? "none" : way[i], records, &r);
    }
    return PK_OK;
}

static void put_head(const struct job *j, const char *name)
{
    struct pk_json_writer *w = j->json;
    const struct pk_scaling_net *l = &j->net;
    if (!w) {
        printf("%s: data-parallel steps of %s, a model and no measurement\n"
               "  nodes of its %s program in micro-batches of %lld by %s, at least %g us each; "
               "%.1f TFLOP/s, %.2f TB/s\n"
               "  %lld GPUs in a node: %g us per all-reduce and %.2f GB/s of each; between nodes "
               "%g us per doubling and %.2f GB/s of each\n"
               "  %lld buckets; computing is %.2f times slower while one is sent; optimizer %.3f "
               "ms; ranks alike, input not counted\n"
               "  shared: the recipe's batch over all ranks (left out where it does not divide); "
               "each: one for every rank\n",
               name, j->p->part[0].name, pk_dtype_name(j->p->params.storage),
               (long long)j->p->micro, j->source, 1e6 * j->node_seconds, 1e-12 * j->rates.flops,
               1e-12 * j->rates.bytes, (long long)l->gpus_per_node, 1e6 * l->latency,
               1e-9 * l->bandwidth, 1e6 * l->net_latency, 1e-9 * l->net_bandwidth,
               (long long)j->buckets, j->slowdown, 1e3 * j->optimizer);
        printf("  %5s  %-6s %-14s %9s %10s %10s %11s %12s %11s %11s\n", "ranks", "batch", "reduce",
               "rec/rank", "step ms", "exposed ms", "efficiency", "records/s", "MB inside",
               "MB between");
        return;
    }
    pk_json_open(w, NULL, '{');
    pk_json_put_string(w, "recipe", name);
    pk_json_put_string(w, "kind", "model");
    pk_json_put_string(w, "times", j->source);
    pk_json_put_f64(w, "flops_per_s", j->rates.flops);
    pk_json_put_f64(w, "bytes_per_s", j->rates.bytes);
    pk_json_put_f64(w, "node_s", j->node_seconds);
    pk_json_put_i64(w, "gpus_per_node", l->gpus_per_node);
    pk_json_put_f64(w, "link_s", l->latency);
    pk_json_put_f64(w, "link_bytes_per_s", l->bandwidth);
    pk_json_put_f64(w, "net_s", l->net_latency);
    pk_json_put_f64(w, "net_bytes_per_s", l->net_bandwidth);
    pk_json_put_i64(w, "buckets", j->buckets);
    pk_json_put_f64(w, "slowdown", j->slowdown);
    pk_json_put_f64(w, "optimizer_s", j->optimizer);
    pk_json_put_string(w, "precision", pk_dtype_name(j->p->params.storage));
    pk_json_put_i64(w, "batch", j->p->batch);
    pk_json_put_i64(w, "micro_batch", j->p->micro);
    pk_json_open(w, "rows", '[');
}

static enum pk_status put_all(struct job *j, const char *name, struct pk_err *err)
{
    put_head(j, name);
    PK_TRY(put_ranks(j, 1, true, err)); // what the others are held against
    for (int each = 0; each < 2; each++)
        for (int64_t n = PK_MIN(j->net.gpus_per_node, j->ranks), last = 1; n > last;
             last = n, n = PK_MIN(n * 8, j->ranks))
            PK_TRY(put_ranks(j, n, each, err));
    return PK_OK;
}

enum pk_status pk_plan_scaling(const struct pk_args *args, const struct pk_recipe_plan *p,
                               const char *name, const struct pk_plan_rates *rates,
                               struct pk_err *err)
{
    struct pk_text text = {0};
    struct pk_json_writer json = {.out = &text, .indent = 2};
    struct job j = {.p = p, .rates = *rates};
    PK_TRY(options_of(&j, args, err));
    PK_TRY(pk_alloc(&j.node, (size_t)p->listing.nodes, sizeof *j.node, "times of nodes", err));
    if (pk_arg(args, "json")) j.json = &json;
    enum pk_status s = put_all(&j, name, err);
    free(j.node);
    if (!j.json) return s;
    if (s != PK_OK) {
        pk_text_free(&text);
        return s;
    }
    pk_json_close(&json);
    pk_json_close(&json);
    return pk_print(&text, err);
}
