/* plan.c -- lifetimes and addresses (see plan.h). */
#include "core/plan.h"

#include <stdlib.h>
#include <string.h>

struct block {
    int64_t size, offset;
    int32_t first, last;
    int64_t *where; // in the plan
    int64_t number; // in order of values, then nodes
};

static int by_size(const void *a, const void *b)
{
    const struct block *x = a, *y = b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->number < y->number ? -1 : 1; // total order: same plan every time
}

static int by_offset(const void *a, const void *b)
{
    const struct block *const *x = a, *const *y = b;
    return (*x)->offset < (*y)->offset ? -1 : (*x)->offset > (*y)->offset;
}

static void find_lifetimes(struct pk_plan *plan, const struct pk_prog *p)
{
    for (int64_t v = 0; v < p->values; v++) plan->first[v] = plan->last[v] = -1;
    for (int64_t k = 0; k < p->nodes; k++) {
        const struct pk_node *n = &p->node[k];
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] >= 0) plan->last[n->in[i]] = (int32_t)k;
        for (int i = 0; i < n->n_out; i++) {
            if (n->out[i] < 0) continue;
            if (plan->first[n->out[i]] < 0) plan->first[n->out[i]] = (int32_t)k;
            plan->last[n->out[i]] = (int32_t)k;
        }
    }
    for (int64_t v = 0; v < p->values; v++)
        if (p->value[v].output && plan->first[v] >= 0) plan->last[v] = (int32_t)p->nodes;
}

/* Places each block in the first gap between the already placed ones that live at the same time. */
static enum pk_status place(struct block *block, int64_t count, int64_t *arena, struct pk_err *err)
{
    struct block **near;
    PK_TRY(pk_alloc(&near, (size_t)count, sizeof *near, "planner", err));
    qsort(block, (size_t)count, sizeof *block, by_size);
    for (int64_t i = 0; i < count; i++) {
        int64_t n = 0, at = 0;
        for (int64_t j = 0; j < i; j++)
            if (block[j].first <= block[i].last && block[i].first <= block[j].last)
                near[n++] = &block[j];
        qsort(near, (size_t)n, sizeof *near, by_offset);
        for (int64_t j = 0; j < n; j++) {
            if (near[j]->offset >= at + block[i].size) break;
            at = PK_MAX(at, near[j]->offset + near[j]->size);
        }
        block[i].offset = at;
        *block[i].where = at;
        *arena = PK_MAX(*arena, at + block[i].size);
    }
    free(near);
    return PK_OK;
}

static void measure(struct pk_plan *plan, const struct pk_prog *p, const struct block *block,
                    int64_t blocks)
{
    for (int64_t k = 0; k < p->nodes; k++) {
        int64_t live = 0;
        for (int64_t i = 0; i < blocks; i++)
            if (block[i].first <= k && k <= block[i].last) live += block[i].size;
        plan->live = PK_MAX(plan->live, live);
        plan->flops += pk_op_table[p->node[k].op]->flops(p, &p->node[k]);
        plan->bytes += pk_op_bytes(p, &p->node[k]);
    }
    for (int64_t v = 0; v < p->values; v++)
        if (p->value[v].storage == PK_STORE_IN)
            plan->inputs += (int64_t)pk_value_bytes(&p->value[v]);
}

static int64_t aligned(size_t bytes)
{
    return (int64_t)(bytes + PK_ALIGN - 1) / PK_ALIGN * PK_ALIGN;
}

enum pk_status pk_plan_make(struct pk_plan *out, const struct pk_prog *p,
                            const pk_workspace *workspace, struct pk_err *err)
{
    struct block *block = NULL;
    int64_t blocks = 0;
    enum pk_status s;
    *out = (struct pk_plan){0};
    size_t values = (size_t)p->values, nodes = (size_t)p->nodes;
    if ((s = pk_alloc(&out->offset, values, sizeof *out->offset, "plan", err)) != PK_OK) goto fail;
    if ((s = pk_alloc(&out->workspace, nodes, sizeof *out->workspace, "plan", err)) != PK_OK)
        goto fail;
    if ((s = pk_alloc(&out->first, values, sizeof *out->first, "plan", err)) != PK_OK) goto fail;
    if ((s = pk_alloc(&out->last, values, sizeof *out->last, "plan", err)) != PK_OK) goto fail;
    if ((s = pk_alloc(&block, values + nodes, sizeof *block, "plan", err)) != PK_OK) goto fail;
    find_lifetimes(out, p);
    for (int64_t v = 0; v < p->values; v++) {
        out->offset[v] = -1;
        if (p->value[v].storage != PK_STORE_ACT || out->first[v] < 0) continue;
        block[blocks] = (struct block){.size = aligned(pk_value_bytes(&p->value[v])),
                                       .first = out->first[v],
                                       .last = out->last[v],
                                       .where = &out->offset[v],
                                       .number = blocks};
        blocks++;
    }
    for (int32_t k = 0; k < (int32_t)p->nodes; k++) {
        enum pk_op op = p->node[k].op;
        pk_workspace need = workspace ? workspace[op] : pk_op_table[op]->workspace;
        size_t bytes = need ? need(p, &p->node[k]) : 0;
        out->workspace[k] = -1;
        if (!bytes) continue;
        block[blocks] = (struct block){.size = aligned(bytes),
                                       .first = k,
                                       .last = k,
                                       .where = &out->workspace[k],
                                       .number = blocks};
        blocks++;
    }
    if ((s = place(block, blocks, &out->arena, err)) != PK_OK) goto fail;
    measure(out, p, block, blocks);
    free(block);
    return PK_OK;
fail:
    free(block);
    pk_plan_free(out);
    return s;
}

void pk_plan_free(struct pk_plan *plan)
{
    free(plan->offset);
    free(plan->workspace);
    free(plan->first);
    free(plan->last);
    *plan = (struct pk_plan){0};
}

static double node_seconds(const struct pk_prog *p, const struct pk_node *n,
                           const struct pk_plan_rates *rates)
{
    double compute = rates->flops > 0 ? pk_op_table[n->op]->flops(p, n) / rates->flops : 0;
    double move = rates->bytes > 0 ? pk_op_bytes(p, n) / rates->bytes : 0;
    return PK_MAX(compute, move);
}

double pk_plan_seconds(const struct pk_prog *p, const struct pk_plan_rates *rates)
{
    double sum = 0;
    for (int64_t k = 0; k < p->nodes; k++) sum += node_seconds(p, &p->node[k], rates);
    return sum;
}

static void print_columns(const struct pk_plan *plan, const struct pk_prog *p,
                          const struct pk_node *n, const struct pk_plan_rates *rates,
                          struct pk_text *out)
{
    int64_t bytes = 0;
    int32_t first = -1; // the output whose place is shown
    for (int i = 0; i < n->n_out; i++) {
        if (n->out[i] < 0) continue;
        if (first < 0) first = n->out[i];
        bytes += (int64_t)pk_value_bytes(&p->value[n->out[i]]);
    }
    pk_text_add(out, "%10lld %9.3f ", (long long)bytes, 1e-6 * pk_op_table[n->op]->flops(p, n));
    if (first >= 0 && plan->offset[first] >= 0)
        pk_text_add(out, "%4d-%-4d %10lld ", plan->first[first], plan->last[first],
                    (long long)plan->offset[first]);
    else
        pk_text_add(out, "%9s %10s ", "-", "-");
    if (rates->flops > 0 || rates->bytes > 0)
        pk_text_add(out, "%9.1f ", 1e6 * node_seconds(p, n, rates));
}

void pk_plan_print(const struct pk_plan *plan, const struct pk_prog *p,
                   const struct pk_plan_rates *rates, struct pk_text *out)
{
    struct pk_text listing = {0};
    bool timed = rates->flops > 0 || rates->bytes > 0;
    pk_prog_print(p, &listing);
    pk_text_add(out, "%10s %9s %9s %10s %s  node\n", "bytes", "MFLOP", "lives", "offset",
                timed ? "       us" : "");
    const char *line = listing.s ? listing.s : "";
    for (int64_t k = 0; k < p->nodes && *line; k++) {
        size_t length = strcspn(line, "\n");
        print_columns(plan, p, &p->node[k], rates, out);
        pk_text_add(out, "%.*s\n", (int)length, line);
        line += length + (line[length] == '\n');
    }
    if (listing.failed) out->failed = true;
    pk_text_free(&listing);
}
