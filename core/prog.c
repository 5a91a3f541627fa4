/* prog.c -- the program as data: sizes, lookup, listing, hash (see prog.h). */
#include "core/prog.h"

#include <stdlib.h>
#include <string.h>

void pk_prog_free(struct pk_prog *p)
{
    free(p->value);
    free(p->node);
    free(p->text);
    free(p->constants);
    *p = (struct pk_prog){.loss = -1, .seed = -1};
}

int64_t pk_value_count(const struct pk_value *v)
{
    int64_t n = 1;
    for (int i = 0; i < v->rank; i++) n *= v->dim[i];
    return n;
}

size_t pk_value_bytes(const struct pk_value *v)
{
    return (size_t)pk_value_count(v) * pk_dtype_size(v->dtype);
}

int32_t pk_prog_find(const struct pk_prog *p, enum pk_storage storage, const char *name)
{
    for (int64_t i = 0; i < p->values; i++) {
        const struct pk_value *v = &p->value[i];
        bool candidate = storage == PK_STORE_IN ? v->storage == storage : v->output;
        if (candidate && !strcmp(v->name, name)) return (int32_t)i;
    }
    return -1;
}

double pk_op_bytes(const struct pk_prog *p, const struct pk_node *n)
{
    double bytes = 0;
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] >= 0) bytes += (double)pk_value_bytes(&p->value[n->in[i]]);
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i] >= 0)
            bytes +=
                (double)pk_value_bytes(&p->value[n->out[i]]) * (n->accumulate >> i & 1 ? 2 : 1);
    return bytes;
}

static void print_value(const struct pk_prog *p, int32_t i, struct pk_text *out)
{
    if (i < 0) {
        pk_text_add(out, "-");
        return;
    }
    const struct pk_value *v = &p->value[i];
    if (v->storage == PK_STORE_PARAM || v->storage == PK_STORE_STATE)
        pk_text_add(out, "%s", p->params->item[v->param].name);
    else if (v->storage == PK_STORE_EMA)
        pk_text_add(out, "ema:%s", p->params->item[v->param].name);
    else if (v->storage == PK_STORE_GRAD)
        pk_text_add(out, "d:%s", p->params->item[v->param].name);
    else if (v->storage == PK_STORE_IN)
        pk_text_add(out, "in:%s", v->name);
    else if (v->storage == PK_STORE_CONST)
        pk_text_add(out, "const%d", i);
    else
        pk_text_add(out, "%%%d", i);
}

static void print_shape(const struct pk_value *v, struct pk_text *out)
{
    pk_text_add(out, "[");
    for (int i = 0; i < v->rank; i++)
        pk_text_add(out, "%s%lld", i ? ", " : "", (long long)v->dim[i]);
    pk_text_add(out, "]%s%s", v->dtype == PK_F32 ? "" : " ",
                v->dtype == PK_F32 ? "" : pk_dtype_name(v->dtype));
}

void pk_prog_print(const struct pk_prog *p, struct pk_text *out)
{
    for (int64_t k = 0; k < p->nodes; k++) {
        const struct pk_node *n = &p->node[k];
        pk_text_add(out, "%4lld  ", (long long)k);
        for (int i = 0; i < n->n_out; i++) {
            if (i) pk_text_add(out, ", ");
            print_value(p, n->out[i], out);
            if (n->out[i] >= 0 && n->accumulate >> i & 1) pk_text_add(out, "+");
        }
        pk_text_add(out, " = %s(", pk_op_table[n->op]->name);
        for (int i = 0; i < n->n_in; i++) {
            if (i) pk_text_add(out, ", ");
            print_value(p, n->in[i], out);
        }
        pk_text_add(out, ") ");
        int first = 0; // an output that nobody reads is absent
        while (first + 1 < n->n_out && n->out[first] < 0) first++;
        if (n->out[first] >= 0) print_shape(&p->value[n->out[first]], out);
        const char *scope = n->scope >= 0 ? p->text + n->scope : "";
        if (*scope) pk_text_add(out, "  # %.*s", (int)strlen(scope) - 1, scope);
        pk_text_add(out, "\n");
    }
}

uint64_t pk_prog_hash(const struct pk_prog *p)
{
    uint64_t h = (uint64_t)p->nodes;
    for (int64_t k = 0; k < p->nodes; k++) {
        const struct pk_node *n = &p->node[k];
        int32_t head[4] = {(int32_t)n->op, n->n_in, n->n_out, (int32_t)n->accumulate};
        h = pk_hash64(head, sizeof head, h);
        h = pk_hash64(n->in, sizeof n->in[0] * (size_t)n->n_in, h);
        h = pk_hash64(n->out, sizeof n->out[0] * (size_t)n->n_out, h);
        h = pk_hash64(&n->attr, sizeof n->attr, h);
    }
    for (int64_t i = 0; i < p->values; i++) {
        const struct pk_value *v = &p->value[i];
        int64_t head[8] = {v->dtype,  v->storage, v->rank,   v->param,
                           v->dim[0], v->dim[1],  v->dim[2], v->dim[3]};
        h = pk_hash64(head, sizeof head, h);
    }
    return pk_hash64(p->constants, (size_t)p->constant_len, h);
}
