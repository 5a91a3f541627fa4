/* fuse.c -- removal of what nobody reads, and peephole fusion by one table of patterns.
 *
 * A pattern joins a node with the only later node that follows from it: the pair becomes one node
 * at the first one's place. That is valid whenever the second one's other inputs exist by then. */
#include "core/build.h"

#include <stdlib.h>
#include <string.h>

struct fuse {
    struct pk_prog *p;
    int32_t *uses;   // [values] nodes that read it, plus one for outputs and gradients
    int32_t *writer; // [values] last node that writes it, -1 for what exists before the run
};

static void count_uses(struct fuse *f)
{
    struct pk_prog *p = f->p;
    for (int64_t v = 0; v < p->values; v++) {
        f->uses[v] = p->value[v].output || p->value[v].storage == PK_STORE_GRAD;
        f->writer[v] = -1;
    }
    for (int64_t k = 0; k < p->nodes; k++) {
        const struct pk_node *n = &p->node[k];
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] >= 0) f->uses[n->in[i]]++;
        for (int i = 0; i < n->n_out; i++)
            if (n->out[i] >= 0) f->writer[n->out[i]] = (int32_t)k;
    }
}

/* From the end: a node none of whose outputs is read goes; an output that is not read is absent.
 * An accumulating node reads its output's earlier value, so it counts as a use only of what it adds
 * to while somebody later reads that. */
static void drop_dead(struct fuse *f)
{
    struct pk_prog *p = f->p;
    count_uses(f);
    for (int64_t k = p->nodes - 1; k >= 0; k--) {
        struct pk_node *n = &p->node[k];
        bool alive = false;
        for (int i = 0; i < n->n_out; i++) alive |= n->out[i] >= 0 && f->uses[n->out[i]] > 0;
        if (alive) continue;
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] >= 0) f->uses[n->in[i]]--;
        n->n_out = 0;
    }
    int64_t kept = 0;
    for (int64_t k = 0; k < p->nodes; k++)
        if (p->node[k].n_out) p->node[kept++] = p->node[k];
    p->nodes = kept;
}

/* Outputs that a kernel may leave out when nobody reads them: statistics kept for backward. */
static void drop_optional(struct fuse *f)
{
    struct pk_prog *p = f->p;
    count_uses(f);
    for (int64_t k = 0; k < p->nodes; k++) {
        struct pk_node *n = &p->node[k];
        int from = n->n_out;
        if (n->op == PK_OP_LAYERNORM || n->op == PK_OP_ATTENTION) from = 1;
        if (n->op == PK_OP_BATCHNORM) from = 1;
        if (n->op == PK_OP_ADD_LAYERNORM) from = 2;
        for (int i = from; i < n->n_out; i++)
            if (n->out[i] >= 0 && !f->uses[n->out[i]]) n->out[i] = -1;
        if (n->op == PK_OP_LINEAR_GELU && !f->uses[n->out[0]]) n->out[0] = -1;
    }
}

/* first followed by second becomes fused; `keeps` tells whether the first one's result is still an
 * output of the pair (then others may read it too). */
static const struct pattern {
    enum pk_op first, second, fused;
    bool keeps;
} patterns[] = {
    {PK_OP_LINEAR, PK_OP_GELU, PK_OP_LINEAR_GELU, true},
    {PK_OP_ADD, PK_OP_LAYERNORM, PK_OP_ADD_LAYERNORM, true},
    {PK_OP_LINEAR_DX, PK_OP_GELU_GRAD, PK_OP_LINEAR_DX_GELU, false},
};

/* Complete before node k: gradients count from their last term on. */
static bool exists_before(const struct fuse *f, const struct pk_node *n, int skip, int64_t k)
{
    for (int i = 0; i < n->n_in; i++)
        if (i != skip && n->in[i] >= 0 && f->writer[n->in[i]] >= k) return false;
    return true;
}

static bool matches(const struct fuse *f, const struct pattern *m, int64_t k, int64_t j)
{
    const struct pk_node *a = &f->p->node[k], *b = &f->p->node[j];
    return b->op == m->second && b->n_out && b->in[0] == a->out[0] &&
           f->writer[a->out[0]] == k && // else a is but one term of a sum
           !a->accumulate && !b->accumulate && (m->keeps || f->uses[a->out[0]] == 1) &&
           exists_before(f, b, 0, k);
}

static void join(struct pk_node *a, struct pk_node *b, enum pk_op fused)
{
    struct pk_node n = *a;
    n.op = fused;
    n.attr = b->attr;
    if (fused == PK_OP_LINEAR_DX_GELU) {
        n.n_in = 3;
        n.in[2] = b->in[1];
        n.out[0] = b->out[0];
    } else { // the first one's inputs, then the second one's but its first
        for (int i = 1; i < b->n_in; i++) n.in[n.n_in++] = b->in[i];
        for (int i = 0; i < b->n_out; i++) n.out[n.n_out++] = b->out[i];
    }
    *a = n;
    b->n_out = 0;
}

static void apply_patterns(struct fuse *f)
{
    struct pk_prog *p = f->p;
    enum { WINDOW = 4 }; // the partner follows at once but for nodes on other values
    count_uses(f);
    for (int64_t k = 0; k < p->nodes; k++) {
        for (size_t m = 0; m < PK_COUNT(patterns); m++) {
            if (p->node[k].op != patterns[m].first || p->node[k].out[0] < 0) continue;
            for (int64_t j = k + 1; j < p->nodes && j <= k + WINDOW; j++) {
                if (!matches(f, &patterns[m], k, j)) continue;
                join(&p->node[k], &p->node[j], patterns[m].fused);
                for (int i = 0; i < p->node[k].n_out; i++) {
                    int32_t v = p->node[k].out[i];
                    if (v >= 0 && f->writer[v] == j) f->writer[v] = (int32_t)k;
                }
                break;
            }
        }
    }
}

enum pk_status pk_fuse(struct pk_build *b)
{
    struct fuse f = {.p = b->prog};
    size_t n = (size_t)b->prog->values;
    int32_t *memory;
    PK_TRY(pk_alloc(&memory, 2 * n, sizeof *memory, "fusion", &b->err));
    f.uses = memory;
    f.writer = memory + n;
    drop_dead(&f);
    apply_patterns(&f);
    drop_dead(&f); // joined partners
    drop_optional(&f);
    free(memory);
    return PK_OK;
}
