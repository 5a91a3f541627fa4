/* bench_device.c -- rows of 'purkinje bench ops' on a device (see bench_device.h).
 *
 * Rows are the nodes of the recipe's first program at the mean number of kept tokens, one for each
 * combination of op, shapes and types, with the number of its nodes. A row's roofline is the longer
 * of computing its FLOPs at the rate of the best product and moving its bytes at the rate of a
 * copy, both measured in the same run; its share is roofline / time. */
#include "tools/bench_device.h"
#include "core/json.h"
#include "tools/cli.h"
#include "tools/recipe_plan.h"

#include <stdlib.h>
#include <string.h>

struct row {
    int64_t node, count; // the first of its kind; how many there are in a micro-batch
    double flops, bytes; // of one
    struct pk_op_timing time;
};

struct table {
    const struct pk_bench_device *o;
    const struct pk_recipe_plan *plan;
    struct row *row;
    int64_t rows;
    double bytes_per_s, flops_per_s;
};

/* --- which nodes ----------------------------------------------------------------------------- */

static bool same_value(const struct pk_prog *p, int32_t a, int32_t b)
{
    if (a < 0 || b < 0) return a < 0 && b < 0;
    const struct pk_value *x = &p->value[a], *y = &p->value[b];
    return x->dtype == y->dtype && x->rank == y->rank &&
           !memcmp(x->dim, y->dim, (size_t)x->rank * sizeof *x->dim);
}

/* Whether both do the same work. Seeds of random ops do not matter to it, nor does what else is in
 * an attribute that shapes do not tell. */
static bool same_work(const struct pk_prog *p, const struct pk_node *x, const struct pk_node *y)
{
    if (x->op != y->op || x->n_in != y->n_in || x->n_out != y->n_out ||
        x->accumulate != y->accumulate)
        return false;
    for (int i = 0; i < x->n_in; i++)
        if (!same_value(p, x->in[i], y->in[i])) return false;
    for (int i = 0; i < x->n_out; i++)
        if (!same_value(p, x->out[i], y->out[i])) return false;
    return true;
}

static enum pk_status collect(struct table *t, struct pk_err *err)
{
    const struct pk_prog *p = &t->plan->listing;
    PK_TRY(pk_alloc(&t->row, (size_t)p->nodes, sizeof *t->row, "rows", err));
    for (int64_t k = 0; k < p->nodes; k++) {
        const struct pk_node *n = &p->node[k];
        const struct pk_op_row *op = pk_op_table[n->op];
        int64_t i = 0;
        if (t->o->only && strcmp(t->o->only, op->name)) continue;
        while (i < t->rows && !same_work(p, &p->node[t->row[i].node], n)) i++;
        if (i == t->rows) {
            t->row[t->rows++] =
                (struct row){.node = k, .flops = op->flops(p, n), .bytes = pk_op_bytes(p, n)};
        }
        t->row[i].count++;
    }
    if (!t->rows)
        return pk_fail(err, PK_EUSAGE, "the recipe's program has no node '%s'", t->o->only);
    return PK_OK;
}

/* --- the output ------------------------------------------------------------------------------ */

static double roofline(const struct table *t, const struct row *r)
{
    return PK_MAX(r->flops / t->flops_per_s, r->bytes / t->bytes_per_s);
}

static void add_shape(char *out, size_t size, const struct pk_value *v)
{
    size_t at = strlen(out);
    for (int i = 0; i < v->rank && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%lld",
                               i    ? "x"
                               : at ? " "
                                    : "",
                               (long long)v->dim[i]);
}

/* The shapes of the first inputs that are not mere vectors, bf16 where anything is, and "+="
 * with the outputs that are added to. */
static void describe(char *out, size_t size, const struct pk_prog *p, const struct pk_node *n)
{
    enum pk_dtype type = PK_F32;
    out[0] = 0;
    for (int i = 0; i < n->n_in && i < 3; i++) {
        if (n->in[i] < 0) continue;
        const struct pk_value *v = &p->value[n->in[i]];
        if (v->dtype == PK_BF16) type = PK_BF16;
        if (v->rank > 1) add_shape(out, size, v);
    }
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i] >= 0 && p->value[n->out[i]].dtype == PK_BF16) type = PK_BF16;
    size_t at = strlen(out);
    at += (size_t)snprintf(out + at, size - at, " %s%s", pk_dtype_name(type),
                           n->accumulate ? " +=" : "");
    for (int i = 0; i < n->n_out && at < size; i++)
        if (n->accumulate >> i & 1) at += (size_t)snprintf(out + at, size - at, "%d", i);
}

static void print_row(const struct table *t, const struct row *r)
{
    const struct pk_prog *p = &t->plan->listing;
    const struct pk_node *n = &p->node[r->node];
    char shape[128];
    describe(shape, sizeof shape, p, n);
    printf("%-20s %-34s %5lld %10.1f %10.1f %8.1f %8.1f %6.1f%%\n", pk_op_table[n->op]->name, shape,
           (long long)r->count, r->time.median * 1e6, r->time.least * 1e6,
           r->flops / r->time.median * 1e-12, r->bytes / r->time.median * 1e-9,
           100 * roofline(t, r) / r->time.median);
    fflush(stdout);
}

static void put_row(const struct table *t, const struct row *r, struct pk_json_writer *w)
{
    const struct pk_prog *p = &t->plan->listing;
    const struct pk_node *n = &p->node[r->node];
    char shape[128];
    describe(shape, sizeof shape, p, n);
    pk_json_open(w, NULL, '{');
    pk_json_put_string(w, "op", pk_op_table[n->op]->name);
    pk_json_put_string(w, "shape", shape);
    pk_json_put_i64(w, "count", r->count);
    pk_json_put_i64(w, "calls", r->time.calls);
    pk_json_put_f64(w, "seconds_median", r->time.median);
    pk_json_put_f64(w, "seconds_least", r->time.least);
    pk_json_put_f64(w, "flops", r->flops);
    pk_json_put_f64(w, "bytes", r->bytes);
    pk_json_put_f64(w, "roofline_seconds", roofline(t, r));
    pk_json_close(w);
}

static void put_head(const struct table *t, const char *recipe, struct pk_json_writer *w)
{
    const struct pk_recipe_plan *p = t->plan;
    pk_json_open(w, NULL, '{');
    pk_json_put_string(w, "recipe", recipe);
    pk_json_put_i64(w, "batch", p->batch);
    pk_json_put_i64(w, "micro_batch", p->micro);
    pk_json_put_string(w, "precision", pk_dtype_name(p->params.storage));
    pk_json_put_i64(w, "keep", p->keep[1]);
    pk_json_put_f64(w, "copy_bytes_per_s", t->bytes_per_s);
    pk_json_put_f64(w, "gemm_flops_per_s", t->flops_per_s);
    pk_json_open(w, "rows", '[');
}

static void print_head(const struct table *t, const char *recipe)
{
    const struct pk_recipe_plan *p = t->plan;
    printf("%s in %s on %s: micro-batches of %lld, %d tokens kept; copy %.3f TB/s, bf16 product "
           "%.1f TFLOP/s\n",
           recipe, pk_dtype_name(p->params.storage), t->o->backend->name, (long long)p->micro,
           p->keep[1], 1e-12 * t->bytes_per_s, 1e-12 * t->flops_per_s);
    printf("%-20s %-34s %5s %10s %10s %8s %8s %7s\n", "op", "shape", "nodes", "median us",
           "least us", "TFLOP/s", "GB/s", "share");
}

static enum pk_status time_rows(struct table *t, struct pk_err *err)
{
    for (int64_t i = 0; i < t->rows; i++) {
        struct row *r = &t->row[i];
        r->time = (struct pk_op_timing){
            .prog = &t->plan->listing, .node = r->node, .seconds = t->o->seconds};
        PK_TRY(t->o->backend->time_op(&r->time, err));
        if (!t->o->json) print_row(t, r);
    }
    return PK_OK;
}

static enum pk_status print_sum(const struct table *t, const char *recipe, struct pk_err *err)
{
    double all = 0, least = 0;
    for (int64_t i = 0; i < t->rows; i++) {
        all += (double)t->row[i].count * t->row[i].time.median;
        least += (double)t->row[i].count * roofline(t, &t->row[i]);
    }
    if (!t->o->json) {
        printf("%lld rows, all nodes one after the other %.3f ms, roofline %.3f ms\n",
               (long long)t->rows, 1e3 * all, 1e3 * least);
        return PK_OK;
    }
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    put_head(t, recipe, &w);
    for (int64_t i = 0; i < t->rows; i++) put_row(t, &t->row[i], &w);
    pk_json_close(&w);
    pk_json_put_f64(&w, "seconds", all);
    pk_json_put_f64(&w, "roofline_seconds", least);
    pk_json_close(&w);
    return pk_print(&text, err);
}

enum pk_status pk_bench_device(const struct pk_recipe *r, const struct pk_bench_device *o,
                               struct pk_err *err)
{
    const char *name = pk_recipe_str(r, "name");
    struct pk_recipe_plan *plan;
    PK_TRY(pk_alloc(&plan, 1, sizeof *plan, "plan", err));
    enum pk_status s = pk_recipe_plan_make(plan, r, o->backend, 0, err);
    if (s == PK_OK) {
        struct table t = {.o = o, .plan = plan};
        s = collect(&t, err);
        if (s == PK_OK) s = o->backend->rates(&t.bytes_per_s, &t.flops_per_s, err);
        if (s == PK_OK && !o->json) print_head(&t, name);
        if (s == PK_OK) s = time_rows(&t, err);
        if (s == PK_OK) s = print_sum(&t, name, err);
        free(t.row);
        pk_recipe_plan_free(plan);
    }
    free(plan);
    return s;
}
