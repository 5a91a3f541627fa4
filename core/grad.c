/* grad.c -- reverse mode over the recorded list of nodes.
 *
 * Gradients alias where an op passes them on unchanged (add), so a residual stream has one gradient
 * buffer. Adding into a shared buffer is allowed only when every other owner has been
 * differentiated, since nothing recorded later reads it as theirs; else the buffer is copied. */
#include "core/build.h"

#include <stdlib.h>

struct pk_diff {
    struct pk_build *b;
    int32_t *grad; // [values before differentiation] gradient value of each, -1 none yet
    int64_t values;
    int64_t now; // node being differentiated; those above are done
};

int32_t pk_diff_out(struct pk_diff *d, const struct pk_node *n, int k)
{
    return n->out[k] >= 0 && n->out[k] < d->values ? d->grad[n->out[k]] : -1;
}

static int32_t new_gradient(struct pk_diff *d, int32_t v)
{
    struct pk_value g = d->b->prog->value[v];
    g = (struct pk_value){.dtype = g.dtype,
                          .storage = PK_STORE_ACT,
                          .rank = g.rank,
                          .producer = (int32_t)d->b->prog->nodes,
                          .param = -1,
                          .dim = {g.dim[0], g.dim[1], g.dim[2], g.dim[3]}};
    return pk_new_value(d->b, &g);
}

/* Nothing may be added to g in v's name: somebody else reads it later as its own gradient (its
 * producer is not differentiated yet), or it is not the program's to write (the seed). */
static bool shared_buffer(const struct pk_diff *d, int32_t v, int32_t g)
{
    if (d->b->prog->value[g].storage != PK_STORE_ACT) return true;
    for (int64_t u = 0; u < d->values; u++)
        if (u != v && d->grad[u] == g && d->b->prog->value[u].producer <= d->now) return true;
    return false;
}

struct pk_slot pk_diff_into(struct pk_diff *d, int32_t v)
{
    struct pk_slot none = {-1, false};
    if (v < 0 || d->b->err.status != PK_OK || !d->b->prog->value[v].needs_grad) return none;
    int32_t g = d->grad[v];
    if (d->b->prog->value[v].storage == PK_STORE_PARAM) {
        if (g < 0) {
            struct pk_value q = d->b->prog->value[v];
            q.storage = PK_STORE_GRAD;
            q.dtype = PK_F32;
            q.needs_grad = false;
            g = d->grad[v] = pk_new_value(d->b, &q);
        }
        return (struct pk_slot){g, true};
    }
    if (g < 0) return (struct pk_slot){d->grad[v] = new_gradient(d, v), false};
    if (shared_buffer(d, v, g)) {
        int32_t own = new_gradient(d, v);
        pk_diff_emit(d, PK_OP_COPY, NULL, 1, &g, 1, &(struct pk_slot){own, false});
        d->grad[v] = g = own;
    }
    return (struct pk_slot){g, true};
}

struct pk_slot pk_diff_state(struct pk_diff *d, int32_t v)
{
    struct pk_slot none = {-1, false};
    if (v < 0 || d->b->err.status != PK_OK) return none;
    struct pk_value g = d->b->prog->value[v];
    if (g.storage != PK_STORE_STATE) return none;
    if (d->grad[v] < 0) {
        g.storage = PK_STORE_GRAD;
        d->grad[v] = pk_new_value(d->b, &g);
    }
    d->b->params->item[g.param].trained = true;
    return (struct pk_slot){d->grad[v], true};
}

int32_t pk_diff_seed(const struct pk_diff *d)
{
    return d->b->prog->seed;
}

void pk_diff_pass(struct pk_diff *d, int32_t v, int32_t g)
{
    if (v < 0 || g < 0 || d->b->err.status != PK_OK || !d->b->prog->value[v].needs_grad) return;
    bool param = d->b->prog->value[v].storage == PK_STORE_PARAM;
    if (d->grad[v] < 0 && !param) {
        d->grad[v] = g;
        return;
    }
    // never g itself: g is the gradient of the node at hand, so an alias of it is copied first
    struct pk_slot s = pk_diff_into(d, v);
    pk_diff_emit(d, PK_OP_COPY, NULL, 1, &g, 1, &s);
}

void pk_diff_emit(struct pk_diff *d, enum pk_op op, const union pk_attr *attr, int n_in,
                  const int32_t *in, int n_out, const struct pk_slot *out)
{
    bool wanted = false;
    for (int k = 0; k < n_out; k++) wanted |= out[k].value >= 0;
    if (!wanted || d->b->err.status != PK_OK) return;
    struct pk_node *n = pk_append_node(d->b, op, attr, n_in, in);
    if (!n) return;
    n->n_out = n_out;
    for (int k = 0; k < n_out; k++) {
        n->out[k] = out[k].value;
        if (out[k].value >= 0 && out[k].accumulate) n->accumulate |= 1u << k;
    }
}

/* Gradients of inputs become outputs; a copy where the buffer has another name already. */
static void name_gradients(struct pk_diff *d)
{
    struct pk_prog *p = d->b->prog;
    for (int i = 0; i < d->b->wants && d->b->err.status == PK_OK; i++) {
        const int32_t v = d->b->wanted[i].value;
        int32_t g = d->grad[v];
        if (g < 0) {
            pk_build_fail(d->b, PK_EINTERNAL, "the loss does not depend on input '%s'",
                          p->value[v].name);
            return;
        }
        if (p->value[g].storage != PK_STORE_ACT || p->value[g].output) {
            const int32_t own = new_gradient(d, v);
            pk_diff_emit(d, PK_OP_COPY, NULL, 1, &g, 1, &(struct pk_slot){own, false});
            g = own;
        }
        pk_output(d->b, (struct pk_val){g}, d->b->wanted[i].name);
    }
}

/* Reverse mode, once over the recorded list. The first writer of a gradient assigns, later ones
 * accumulate; parameter gradients always accumulate, into an arena that the executor clears. */
enum pk_status pk_differentiate(struct pk_build *b)
{
    struct pk_prog *p = b->prog;
    struct pk_diff d = {.b = b, .values = p->values};
    int64_t one = 1;
    if (!p->value[p->loss].needs_grad) {
        pk_build_fail(b, PK_EINTERNAL, "the loss does not depend on any trained parameter");
        return b->err.status;
    }
    if (pk_alloc(&d.grad, (size_t)p->values, sizeof *d.grad, "gradient map", &b->err) != PK_OK)
        return b->err.status;
    for (int64_t i = 0; i < d.values; i++) d.grad[i] = -1;
    p->seed = d.grad[p->loss] = pk_input(b, "seed", PK_F32, 1, &one).id;
    for (d.now = p->forward_nodes - 1; d.now >= 0 && b->err.status == PK_OK; d.now--) {
        struct pk_node n = p->node[d.now]; // by value: emitting moves the list
        bool reached = false;
        for (int k = 0; k < n.n_out; k++)
            reached |= n.out[k] >= 0 && d.grad[n.out[k]] >= 0 && p->value[n.out[k]].needs_grad;
        if (!reached) continue;
        b->scope_text = n.scope;
        pk_op_table[n.op]->grad(&d, &n);
    }
    name_gradients(&d);
    free(d.grad);
    return b->err.status;
}
