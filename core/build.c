/* build.c -- recording: scopes, parameters, shape inference, the sticky error (see ops.h). */
#include "core/build.h"

#include <stdlib.h>
#include <string.h>

enum pk_status pk_build_begin(struct pk_build **out, struct pk_prog *prog, struct pk_params *params,
                              struct pk_err *err)
{
    PK_TRY(pk_alloc(out, 1, sizeof **out, "builder", err));
    *prog = (struct pk_prog){.params = params, .loss = -1, .seed = -1};
    **out = (struct pk_build){.prog = prog, .params = params, .scope_text = -1, .init_std = 0.02f};
    return PK_OK;
}

enum pk_status pk_build_finish(struct pk_build *b, struct pk_err *err)
{
    b->prog->forward_nodes = b->prog->nodes;
    if (b->err.status == PK_OK && b->prog->loss >= 0) pk_differentiate(b);
    if (b->err.status == PK_OK) pk_fuse(b);
    enum pk_status s = b->err.status;
    if (s != PK_OK) {
        pk_fail(err, s, "%s", b->err.message);
        pk_prog_free(b->prog);
    }
    free(b);
    return s;
}

static void fail_at_scope(struct pk_build *b, enum pk_status s, const char *text)
{
    if (b->err.status != PK_OK) return;
    int n = (int)strlen(b->scope);
    pk_fail(&b->err, s, "%.*s%s%s", n ? n - 1 : 0, b->scope, n ? ": " : "", text);
}

void pk_build_fail(struct pk_build *b, enum pk_status s, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fail_at_scope(b, s, text);
}

void pk_scope(struct pk_build *b, const char *fmt, ...)
{
    size_t used = strlen(b->scope), room = sizeof b->scope - used;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(b->scope + used, room, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n + 1 >= room) {
        pk_build_fail(b, PK_EINTERNAL, "scope path longer than %d bytes", PK_SCOPE_MAX);
        return;
    }
    memcpy(b->scope + used + n, ".", 2);
    b->scope_text = -1;
    if (b->scopes == (int)PK_COUNT(b->scope_start)) {
        pk_build_fail(b, PK_EINTERNAL, "more than %d scopes inside each other", b->scopes);
        return;
    }
    b->scope_start[b->scopes++] = (uint8_t)used;
}

void pk_scope_end(struct pk_build *b)
{
    if (b->scopes > 0) b->scope[b->scope_start[--b->scopes]] = 0;
    b->scope_text = -1;
}

void pk_scope_ema(struct pk_build *b, bool on)
{
    b->ema += on ? 1 : -1;
}

void pk_scope_frozen(struct pk_build *b, bool on)
{
    b->frozen += on ? 1 : -1;
}

void pk_init_std(struct pk_build *b, float std)
{
    b->init_std = std;
}

int64_t pk_dim(struct pk_build *b, struct pk_val v, int axis)
{
    if (b->err.status != PK_OK || v.id < 0) return 1;
    const struct pk_value *x = &b->prog->value[v.id];
    if (axis < 0) axis += x->rank;
    return axis >= 0 && axis < x->rank ? x->dim[axis] : 1;
}

int32_t pk_new_value(struct pk_build *b, const struct pk_value *like)
{
    struct pk_prog *p = b->prog;
    if (pk_grow(&p->value, &p->value_cap, p->values + 1, sizeof *p->value, "program values",
                &b->err) != PK_OK)
        return -1;
    struct pk_value *v = &p->value[p->values];
    *v = *like;
    for (int i = v->rank; i < PK_DIMS; i++) v->dim[i] = 0;
    return (int32_t)p->values++;
}

struct pk_val pk_input(struct pk_build *b, const char *name, enum pk_dtype t, int rank,
                       const int64_t *dim)
{
    struct pk_value v = {.dtype = t,
                         .storage = PK_STORE_IN,
                         .rank = rank,
                         .producer = -1,
                         .param = -1,
                         .input = b->prog->inputs};
    if (b->err.status != PK_OK) return PK_NONE;
    memcpy(v.dim, dim, (size_t)rank * sizeof *dim);
    snprintf(v.name, sizeof v.name, "%s", name);
    b->prog->inputs++;
    return (struct pk_val){pk_new_value(b, &v)};
}

struct pk_val pk_constant(struct pk_build *b, int rank, const int64_t *dim, const float *data)
{
    struct pk_prog *p = b->prog;
    struct pk_value v = {.dtype = PK_F32,
                         .storage = PK_STORE_CONST,
                         .rank = rank,
                         .producer = -1,
                         .param = -1,
                         .constant = (p->constant_len + 63) / 64 * 64};
    if (b->err.status != PK_OK) return PK_NONE;
    memcpy(v.dim, dim, (size_t)rank * sizeof *dim);
    int64_t bytes = (int64_t)pk_value_bytes(&v);
    for (int64_t i = 0; i < p->values; i++) { // two towers ask for the same table
        const struct pk_value *u = &p->value[i];
        if (u->storage == PK_STORE_CONST && u->rank == rank &&
            !memcmp(u->dim, v.dim, sizeof v.dim) &&
            !memcmp(p->constants + u->constant, data, (size_t)bytes))
            return (struct pk_val){(int32_t)i};
    }
    if (pk_grow(&p->constants, &p->constant_cap, v.constant + bytes, 1, "constants", &b->err) !=
        PK_OK)
        return PK_NONE;
    memcpy(p->constants + v.constant, data, (size_t)bytes);
    p->constant_len = v.constant + bytes;
    return (struct pk_val){pk_new_value(b, &v)};
}

static int64_t add_param(struct pk_build *b, const char *name, int rank, const int64_t *dim,
                         enum pk_init init, bool decay)
{
    struct pk_params *ps = b->params;
    struct pk_param q = {.rank = rank,
                         .count = 1,
                         .offset = ps->elements,
                         .init = init,
                         .init_std = b->init_std,
                         .decay = decay};
    if (snprintf(q.name, sizeof q.name, "%s%s", b->scope, name) >= (int)sizeof q.name) {
        pk_build_fail(b, PK_EINTERNAL, "parameter name longer than %d bytes", PK_PARAM_NAME_MAX);
        return -1;
    }
    for (int i = 0; i < rank; i++) q.count *= q.dim[i] = dim[i];
    int64_t i = pk_params_find(ps, q.name);
    if (i >= 0) {
        if (ps->item[i].rank != rank || memcmp(ps->item[i].dim, q.dim, sizeof q.dim)) {
            pk_build_fail(b, PK_ESHAPE, "parameter '%s' is used with two shapes", q.name);
            return -1;
        }
        return i;
    }
    if (pk_grow(&ps->item, &ps->cap, ps->count + 1, sizeof *ps->item, "parameters", &b->err) !=
        PK_OK)
        return -1;
    ps->item[ps->count] = q;
    ps->elements += (q.count + 15) / 16 * 16;
    return ps->count++;
}

static struct pk_val weight(struct pk_build *b, const char *name, enum pk_dtype dtype, int rank,
                            const int64_t *dim, enum pk_init init, bool decay)
{
    if (b->err.status != PK_OK) return PK_NONE;
    int64_t q = add_param(b, name, rank, dim, init, decay);
    if (q < 0) return PK_NONE;
    enum pk_storage storage = b->ema ? PK_STORE_EMA : PK_STORE_PARAM;
    bool trained = !b->ema && !b->frozen;
    b->params->item[q].trained |= trained;
    b->params->item[q].ema |= b->ema > 0;
    for (int64_t i = 0; i < b->prog->values; i++) {
        const struct pk_value *u = &b->prog->value[i];
        if (u->storage == storage && u->param == q && u->needs_grad == trained && u->dtype == dtype)
            return (struct pk_val){(int32_t)i};
    }
    struct pk_value v = {.dtype = dtype,
                         .storage = storage,
                         .rank = rank,
                         .producer = -1,
                         .param = (int32_t)q,
                         .needs_grad = trained};
    memcpy(v.dim, dim, (size_t)rank * sizeof *dim);
    return (struct pk_val){pk_new_value(b, &v)};
}

struct pk_val pk_weight(struct pk_build *b, const char *name, int rank, const int64_t *dim,
                        enum pk_init init, bool decay)
{
    return weight(b, name, PK_F32, rank, dim, init, decay);
}

struct pk_val pk_weight_matrix(struct pk_build *b, const char *name, const int64_t dim[2],
                               enum pk_init init)
{
    return weight(b, name, b->params->storage, 2, dim, init, true);
}

struct pk_val pk_weight_kernel(struct pk_build *b, const char *name, int rank, const int64_t *dim,
                               enum pk_init init)
{
    return weight(b, name, b->params->storage, rank, dim, init, true);
}

struct pk_val pk_state(struct pk_build *b, const char *name, int rank, const int64_t *dim,
                       enum pk_init init, float keep, float gain)
{
    if (b->err.status != PK_OK) return PK_NONE;
    int64_t q = add_param(b, name, rank, dim, init, false);
    if (q < 0) return PK_NONE;
    struct pk_param *item = &b->params->item[q];
    item->state = true;
    item->keep = keep;
    item->gain = gain;
    item->ema |= b->ema > 0;
    enum pk_storage storage = b->ema ? PK_STORE_EMA : PK_STORE_STATE;
    for (int64_t i = 0; i < b->prog->values; i++) {
        const struct pk_value *u = &b->prog->value[i];
        if (u->storage == storage && u->param == q) return (struct pk_val){(int32_t)i};
    }
    struct pk_value v = {
        .dtype = PK_F32, .storage = storage, .rank = rank, .producer = -1, .param = (int32_t)q};
    memcpy(v.dim, dim, (size_t)rank * sizeof *dim);
    return (struct pk_val){pk_new_value(b, &v)};
}

void pk_output(struct pk_build *b, struct pk_val v, const char *name)
{
    if (b->err.status != PK_OK || v.id < 0) return;
    struct pk_value *x = &b->prog->value[v.id];
    if (x->storage != PK_STORE_ACT) {
        pk_build_fail(b, PK_EINTERNAL, "output '%s' is not computed by the program", name);
        return;
    }
    x->output = true;
    snprintf(x->name, sizeof x->name, "%s", name);
}

void pk_loss(struct pk_build *b, struct pk_val loss)
{
    if (b->err.status != PK_OK) return;
    if (loss.id < 0 || pk_value_count(&b->prog->value[loss.id]) != 1) {
        pk_build_fail(b, PK_ESHAPE, "the loss must be one number");
        return;
    }
    pk_output(b, loss, "loss");
    b->prog->loss = loss.id;
}

void pk_input_gradient(struct pk_build *b, struct pk_val x, const char *name)
{
    if (b->err.status != PK_OK || x.id < 0) return;
    struct pk_value *v = &b->prog->value[x.id];
    if (v->storage != PK_STORE_IN || (v->dtype != PK_F32 && v->dtype != PK_BF16)) {
        pk_build_fail(b, PK_EINTERNAL, "'%s' is the gradient of something that is no real input",
                      name);
        return;
    }
    for (int64_t k = 0; k < b->prog->nodes; k++)
        for (int i = 0; i < b->prog->node[k].n_in; i++)
            if (b->prog->node[k].in[i] == x.id) {
                pk_build_fail(b, PK_EINTERNAL, "'%s' is asked for after its input was used", name);
                return;
            }
    if (b->wants == (int)PK_COUNT(b->wanted)) {
        pk_build_fail(b, PK_EINTERNAL, "gradients of more than %d inputs", b->wants);
        return;
    }
    v->needs_grad = true;
    b->wanted[b->wants].value = x.id;
    snprintf(b->wanted[b->wants++].name, sizeof b->wanted[0].name, "%s", name);
}

static void print_dims(char *out, size_t size, const struct pk_value *v)
{
    size_t n = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < v->rank && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%lld", i ? ", " : "", (long long)v->dim[i]);
    if (n < size) snprintf(out + n, size - n, "]");
}

enum pk_status pk_infer_fail(struct pk_infer *x, const char *fmt, ...)
{
    char text[1024], why[400], dims[120];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    size_t n = (size_t)snprintf(text, sizeof text, "%s(", pk_op_table[x->op]->name);
    for (int i = 0; i < x->n_in && n < sizeof text; i++) {
        if (x->in[i]) print_dims(dims, sizeof dims, x->in[i]);
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", i ? ", " : "",
                              x->in[i] ? dims : "-");
    }
    if (n < sizeof text) snprintf(text + n, sizeof text - n, "): %s", why);
    fail_at_scope(x->b, PK_ESHAPE, text);
    return PK_ESHAPE;
}

void pk_infer_out(struct pk_infer *x, int k, enum pk_dtype t, int rank, const int64_t *dim)
{
    x->out[k] = (struct pk_value){.dtype = t, .rank = rank};
    memcpy(x->out[k].dim, dim, (size_t)rank * sizeof *dim);
    x->n_out = PK_MAX(x->n_out, k + 1);
}

void pk_infer_like(struct pk_infer *x, int k, const struct pk_value *v)
{
    pk_infer_out(x, k, v->dtype, v->rank, v->dim);
}

enum pk_status pk_infer_need(struct pk_infer *x, int k, enum pk_dtype t, int rank)
{
    if (k >= x->n_in || !x->in[k]) return pk_infer_fail(x, "input %d is missing", k);
    if (x->in[k]->dtype != t)
        return pk_infer_fail(x, "input %d is %s, %s was expected", k,
                             pk_dtype_name(x->in[k]->dtype), pk_dtype_name(t));
    if (rank && x->in[k]->rank != rank)
        return pk_infer_fail(x, "input %d has %d axes, %d were expected", k, x->in[k]->rank, rank);
    return PK_OK;
}

enum pk_status pk_infer_need_real(struct pk_infer *x, int k, int rank)
{
    return pk_infer_need(x, k, x->b->params->storage, rank);
}

enum pk_status pk_infer_fixed(struct pk_infer *x, int k)
{
    if (!x->in[k]->needs_grad || x->b->frozen || x->b->ema) return PK_OK;
    return pk_infer_fail(x,
                         "input %d is trained, but this op passes no gradient to it: make it in a "
                         "frozen or EMA scope",
                         k);
}

enum pk_status pk_infer_given(struct pk_infer *x)
{
    for (int i = 0; i < x->n_in; i++)
        if (x->in[i] && pk_value_count(x->in[i]) <= 0)
            return pk_infer_fail(x, "input %d is empty", i);
    return PK_OK;
}

static int32_t scope_text(struct pk_build *b)
{
    struct pk_prog *p = b->prog;
    int64_t n = (int64_t)strlen(b->scope) + 1;
    if (b->scope_text >= 0) return b->scope_text;
    if (pk_grow(&p->text, &p->text_cap, p->text_len + n, 1, "scope names", &b->err) != PK_OK)
        return -1;
    memcpy(p->text + p->text_len, b->scope, (size_t)n);
    b->scope_text = (int32_t)p->text_len;
    p->text_len += n;
    return b->scope_text;
}

struct pk_node *pk_append_node(struct pk_build *b, enum pk_op op, const union pk_attr *attr,
                               int n_in, const int32_t *in)
{
    struct pk_prog *p = b->prog;
    int32_t scope = scope_text(b);
    if (pk_grow(&p->node, &p->node_cap, p->nodes + 1, sizeof *p->node, "program nodes", &b->err) !=
        PK_OK)
        return NULL;
    struct pk_node *n = &p->node[p->nodes++];
    *n = (struct pk_node){.op = op, .n_in = n_in, .scope = scope};
    if (attr) n->attr = *attr;
    for (int i = 0; i < PK_NODE_IN; i++) n->in[i] = i < n_in ? in[i] : -1;
    for (int i = 0; i < PK_NODE_OUT; i++) n->out[i] = -1;
    return n;
}

void pk_emit(struct pk_build *b, enum pk_op op, const union pk_attr *attr, int n_in,
             const int32_t *in, int32_t out[PK_NODE_OUT])
{
    static const union pk_attr none;
    struct pk_infer x = {.b = b, .op = op, .n_in = n_in, .attr = attr ? attr : &none};
    bool needs_grad = false;
    for (int i = 0; i < PK_NODE_OUT; i++) out[i] = -1;
    if (b->err.status != PK_OK) return;
    for (int i = 0; i < n_in; i++) {
        x.in[i] = in[i] >= 0 ? &b->prog->value[in[i]] : NULL;
        needs_grad |= in[i] >= 0 && x.in[i]->needs_grad;
    }
    if (pk_op_table[op]->infer(&x) != PK_OK) return;
    needs_grad &= pk_op_table[op]->grad != NULL && !b->frozen && !b->ema;
    for (int k = 0; k < x.n_out; k++) {
        x.out[k].storage = PK_STORE_ACT;
        x.out[k].producer = (int32_t)b->prog->nodes;
        x.out[k].param = -1;
        x.out[k].needs_grad = needs_grad && (x.out[k].dtype == PK_F32 || x.out[k].dtype == PK_BF16);
        if ((out[k] = pk_new_value(b, &x.out[k])) < 0) return;
    }
    struct pk_node *n = pk_append_node(b, op, attr, n_in, in);
    if (!n) return;
    n->n_out = x.n_out;
    memcpy(n->out, out, sizeof n->out);
}
