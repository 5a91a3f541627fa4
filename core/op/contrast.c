/* contrast.c -- losses over the rows of a whole batch, normalised rows, and the loss that injects a
 * gradient. Rows may be float in a program whose storage is not: losses are small and worth it. */
#include "core/op/rows.h"

#include <math.h>
#include <string.h>

/* Input k is there, of float or of the storage type, with at least one axis before the last. */
static enum pk_status need_rows(struct pk_infer *x, int k)
{
    if (k >= x->n_in || !x->in[k]) return pk_infer_fail(x, "input %d is missing", k);
    if (x->in[k]->dtype != PK_F32) PK_TRY(pk_infer_need_real(x, k, 0));
    if (x->in[k]->rank < 2) return pk_infer_fail(x, "input %d is one row, several are needed", k);
    return PK_OK;
}

static int64_t cols_of(const struct pk_value *v)
{
    return v->dim[v->rank - 1];
}

static int64_t rows_of(const struct pk_value *v)
{
    return pk_value_count(v) / cols_of(v);
}

static enum pk_status need_groups(struct pk_infer *x, int k, const struct pk_value *rows)
{
    PK_TRY(pk_infer_need(x, k, PK_I64, 0));
    if (pk_value_count(x->in[k]) != rows_of(rows))
        return pk_infer_fail(x, "one group number per row was expected in input %d", k);
    return PK_OK;
}

/* Each rank has as many rows. */
static enum pk_status need_ranks(struct pk_infer *x, int32_t ranks, int64_t rows)
{
    if (ranks >= 1 && rows % ranks == 0) return PK_OK;
    return pk_infer_fail(x, "%lld rows cannot be shared out to %d ranks", (long long)rows, ranks);
}

static enum pk_status infer_normalize(struct pk_infer *x)
{
    PK_TRY(need_rows(x, 0));
    if (!(x->attr->normalize.eps > 0)) return pk_infer_fail(x, "eps must be above 0");
    pk_infer_like(x, 0, x->in[0]);
    return PK_OK;
}

/* out: loss [1]; the log sum exp of every query's logits and the number of its positives [2, N]. */
static enum pk_status infer_contrast(struct pk_infer *x)
{
    const bool self = !x->in[1];
    PK_TRY(need_rows(x, 0));
    PK_TRY(need_groups(x, 2, x->in[0]));
    if (!self) {
        PK_TRY(need_rows(x, 1));
        PK_TRY(need_groups(x, 3, x->in[1]));
        if (x->in[1]->dtype != x->in[0]->dtype || cols_of(x->in[1]) != cols_of(x->in[0]))
            return pk_infer_fail(x, "queries and keys differ in width or type");
    }
    if (self && rows_of(x->in[0]) < 2)
        return pk_infer_fail(x, "a single row has nothing to be compared with");
    if (!(x->attr->contrast.temperature > 0 && isfinite(x->attr->contrast.temperature)))
        return pk_infer_fail(x, "the temperature must be above 0");
    PK_TRY(need_ranks(x, x->attr->contrast.ranks, rows_of(x->in[0])));
    if (!self) PK_TRY(need_ranks(x, x->attr->contrast.ranks, rows_of(x->in[1])));
    pk_infer_out(x, 0, PK_F32, 1, (int64_t[]){1});
    pk_infer_out(x, 1, PK_F32, 2, (int64_t[]){2, rows_of(x->in[0])});
    return PK_OK;
}

/* out: loss [1], index i32 [N] of the nearest other row, its distance [N]. */
static enum pk_status infer_koleo(struct pk_infer *x)
{
    PK_TRY(need_rows(x, 0));
    const int64_t rows = rows_of(x->in[0]);
    if (rows < 2) return pk_infer_fail(x, "%lld rows: two at least are needed", (long long)rows);
    if (rows > 1 << 24) return pk_infer_fail(x, "%lld rows are too many", (long long)rows);
    PK_TRY(need_ranks(x, x->attr->koleo.ranks, rows));
    pk_infer_out(x, 0, PK_F32, 1, (int64_t[]){1});
    pk_infer_out(x, 1, PK_I32, 1, &rows);
    pk_infer_out(x, 2, PK_F32, 1, &rows);
    return PK_OK;
}

static enum pk_status infer_dot(struct pk_infer *x)
{
    PK_TRY(need_rows(x, 0));
    PK_TRY(pk_infer_need(x, 1, PK_F32, x->in[0]->rank));
    if (memcmp(x->in[0]->dim, x->in[1]->dim, sizeof x->in[0]->dim))
        return pk_infer_fail(x, "value and gradient differ in shape");
    PK_TRY(pk_infer_fixed(x, 1));
    pk_infer_out(x, 0, PK_F32, 1, (int64_t[]){1});
    return PK_OK;
}

static void grad_normalize(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_L2_NORMALIZE_GRAD, &n->attr, 2,
                 (int32_t[]){pk_diff_out(d, n, 0), n->in[0]}, 1, &dx);
}

/* Where queries and keys are one value its gradient is written by a node for each, since the
 * outputs of one node must not overlap. */
static void grad_contrast(struct pk_diff *d, const struct pk_node *n)
{
    const int32_t in[] = {n->in[0], n->in[1], n->in[2], n->in[3], n->out[1], pk_diff_out(d, n, 0)};
    struct pk_slot none = {-1, false}, out[2] = {pk_diff_into(d, n->in[0]), none};
    if (n->in[0] == n->in[1]) {
        pk_diff_emit(d, PK_OP_CONTRAST_LOSS_GRAD, &n->attr, 6, in, 2, out);
        out[0] = none;
    }
    out[1] = pk_diff_into(d, n->in[1]);
    pk_diff_emit(d, PK_OP_CONTRAST_LOSS_GRAD, &n->attr, 6, in, 2, out);
}

static void grad_koleo(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_KOLEO_LOSS_GRAD, &n->attr, 4,
                 (int32_t[]){n->in[0], n->out[1], n->out[2], pk_diff_out(d, n, 0)}, 1, &dx);
}

static void grad_dot(struct pk_diff *d, const struct pk_node *n)
{
    struct pk_slot dx = pk_diff_into(d, n->in[0]);
    pk_diff_emit(d, PK_OP_DOT_LOSS_GRAD, NULL, 2, (int32_t[]){n->in[1], pk_diff_out(d, n, 0)}, 1,
                 &dx);
}

/* Every query of a rank with every key, over all columns. */
static double products(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *q = &p->value[n->in[0]];
    const struct pk_value *k = n->in[1] >= 0 ? &p->value[n->in[1]] : q;
    return 2.0 * (double)rows_of(q) * (double)pk_value_count(k) / n->attr.contrast.ranks;
}

static double flops_contrast(const struct pk_prog *p, const struct pk_node *n)
{
    return products(p, n);
}

/* For each gradient the logits again, then a product. */
static double flops_contrast_grad(const struct pk_prog *p, const struct pk_node *n)
{
    return products(p, n) * 2 * ((n->out[0] >= 0) + (n->out[1] >= 0));
}

/* A difference, its square and a sum for every pair and column. */
static double flops_koleo(const struct pk_prog *p, const struct pk_node *n)
{
    const struct pk_value *x = &p->value[n->in[0]];
    return 3.0 * (double)rows_of(x) * (double)pk_value_count(x) / n->attr.koleo.ranks;
}

const struct pk_op_row pk_row_l2_normalize = {.name = "l2_normalize",
                                              .infer = infer_normalize,
                                              .grad = grad_normalize,
                                              .flops = pk_flops_none};
const struct pk_op_row pk_row_contrast_loss = {.name = "contrast_loss",
                                               .infer = infer_contrast,
                                               .grad = grad_contrast,
                                               .flops = flops_contrast};
const struct pk_op_row pk_row_koleo_loss = {
    .name = "koleo_loss", .infer = infer_koleo, .grad = grad_koleo, .flops = flops_koleo};
const struct pk_op_row pk_row_dot_loss = {
    .name = "dot_loss", .infer = infer_dot, .grad = grad_dot, .flops = pk_flops_none};

#define GRADIENT(op, cost)                                                                         \
    const struct pk_op_row pk_row_##op##_grad = {                                                  \
        .name = #op "_grad", .infer = pk_infer_given, .no_grad = PK_IS_GRAD, .flops = cost}
GRADIENT(l2_normalize, pk_flops_none);
GRADIENT(contrast_loss, flops_contrast_grad);
GRADIENT(koleo_loss, pk_flops_none);
GRADIENT(dot_loss, pk_flops_none);

struct pk_val pk_l2_normalize(struct pk_build *b, struct pk_val x, float eps)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = {.raw = {0}}; // hashed as bytes
    a.normalize.eps = eps;
    pk_emit(b, PK_OP_L2_NORMALIZE, &a, 1, &x.id, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_contrast_loss(struct pk_build *b, struct pk_val query, struct pk_val key,
                               struct pk_val query_group, struct pk_val key_group,
                               float temperature, float weight, int32_t ranks)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = {.raw = {0}};
    a.contrast.temperature = temperature;
    a.contrast.weight = weight;
    a.contrast.ranks = ranks;
    pk_emit(b, PK_OP_CONTRAST_LOSS, &a, 4,
            (int32_t[]){query.id, key.id, query_group.id, key_group.id}, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_koleo_loss(struct pk_build *b, struct pk_val x, float weight, float eps,
                            int32_t ranks)
{
    int32_t out[PK_NODE_OUT];
    union pk_attr a = {.raw = {0}};
    a.koleo.weight = weight;
    a.koleo.eps = eps;
    a.koleo.ranks = ranks;
    pk_emit(b, PK_OP_KOLEO_LOSS, &a, 1, &x.id, out);
    return (struct pk_val){out[0]};
}

struct pk_val pk_dot_loss(struct pk_build *b, struct pk_val x, struct pk_val gradient)
{
    int32_t out[PK_NODE_OUT];
    pk_emit(b, PK_OP_DOT_LOSS, NULL, 2, (int32_t[]){x.id, gradient.id}, out);
    return (struct pk_val){out[0]};
}
