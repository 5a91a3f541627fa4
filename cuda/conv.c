/* conv.c -- choices for convolutions: keys, what of them cuDNN can be given, candidates, text. */
#include "cuda/conv.h"

#include "cuda/matmul_table.h"

#include <stdlib.h>
#include <string.h>

enum { ALGORITHMS = 4 }; // of the library; there are at most three

/* The ops of the family, under the names that the table is written with. */
static const struct {
    enum pk_op op;
    const char *name;
} convolutions[] = {
    {PK_OP_CONV1D, "conv1d"},
    {PK_OP_CONV1D_DX, "conv1d_dx"},
    {PK_OP_CONV1D_DW, "conv1d_dw"},
};

static const char *op_name(enum pk_op op)
{
    for (size_t i = 0; i < PK_COUNT(convolutions); i++)
        if (convolutions[i].op == op) return convolutions[i].name;
    return NULL;
}

bool pk_conv_key_of(const struct pk_call *c, struct pk_conv_key *key)
{
    const enum pk_op op = c->node->op;
    const bool forward = op == PK_OP_CONV1D, dw = op == PK_OP_CONV1D_DW;
    if (!op_name(op) || (dw && !c->out[0])) return false;
    const struct pk_value *x = forward ? c->in[0] : dw ? c->in[1] : c->out[0];
    const struct pk_value *w = dw ? c->out[0] : c->in[1];
    memset(key, 0, sizeof *key);
    key->op = op;
    key->dtype = x->dtype;
    key->batch = x->dim[0], key->time = x->dim[1], key->channels = x->dim[2];
    key->filters = w->dim[0], key->kernel = w->dim[2];
    key->stride = c->node->attr.conv1d.stride, key->groups = c->node->attr.conv1d.groups;
    key->left = c->node->attr.conv1d.left, key->right = c->node->attr.conv1d.right;
    key->bias = forward ? c->in[2] != NULL : dw && c->out[1];
    key->add = !forward && pk_call_accumulates(c, 0);
    return true;
}

static bool same(const struct pk_conv_key *a, const struct pk_conv_key *b)
{
    return a->op == b->op && a->dtype == b->dtype && a->batch == b->batch && a->time == b->time &&
           a->channels == b->channels && a->filters == b->filters && a->kernel == b->kernel &&
           a->stride == b->stride && a->left == b->left && a->right == b->right &&
           a->groups == b->groups && a->bias == b->bias && a->add == b->add;
}

struct pk_conv_row *pk_conv_find(struct pk_convs *t, const struct pk_conv_key *key)
{
    for (int64_t i = 0; i < t->rows; i++)
        if (same(&t->row[i].key, key)) return &t->row[i];
    return NULL;
}

static enum pk_status keep(struct pk_convs *t, const struct pk_conv_row *row, struct pk_err *err)
{
    PK_TRY(pk_grow(&t->row, &t->row_cap, t->rows + 1, sizeof *t->row, "convolutions", err));
    t->row[t->rows++] = *row;
    return PK_OK;
}

/* --- what cuDNN is given --------------------------------------------------------------------- */

static int64_t aligned(int64_t bytes)
{
    enum { PART_ALIGN = 256 };
    return (bytes + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
}

/* The most records at a time whose widened operands leave half of the workspace to cuDNN, among the
 * divisors of the batch, so that one set of descriptors does; 0 when one record is too many. */
static int64_t records_at_a_time(int64_t batch, int64_t before, int64_t x, int64_t dy)
{
    for (int64_t turns = 1; turns <= batch; turns++) {
        const int64_t n = batch / turns;
        if (batch % turns) continue;
        if (before + aligned(n * x) + aligned(n * dy) <= PK_CONV_WORKSPACE / 2) return n;
    }
    return 0;
}

bool pk_conv_layout_of(const struct pk_conv_key *key, struct pk_conv_layout *out)
{
    const int64_t pad = PK_MAX(key->left, key->right), size = (int64_t)pk_dtype_size(PK_F32);
    const int64_t taps = key->kernel + 2 * pad - key->left - key->right;
    const int64_t room = key->time + key->left + key->right - key->kernel;
    const int64_t length = room / key->stride + 1, per_group = key->channels / key->groups;
    const int64_t most =
        PK_MAX(key->batch, 1) * PK_MAX(key->time * key->channels, length * key->filters);
    memset(out, 0, sizeof *out);
    if (key->op == PK_OP_CONV1D && key->bias && key->dtype == PK_BF16) return false;
    if (room < 0 || most > INT32_MAX || key->filters * per_group * taps > INT32_MAX) return false;
    const bool dw = key->op == PK_OP_CONV1D_DW, widen = dw && key->dtype == PK_BF16;
    const int64_t element = dw ? size : (int64_t)pk_dtype_size(key->dtype);
    out->taps = (int32_t)key->kernel, out->shift = (int32_t)(pad - key->left);
    out->packed = taps != key->kernel || (taps > 1 && per_group > 1);
    out->x_at = out->packed ? aligned(key->filters * per_group * taps * element) : 0;
    out->dy_at = out->own = out->x_at;
    int64_t records = key->batch;
    if (widen) {
        const int64_t x = key->time * key->channels * size, dy = length * key->filters * size;
        records = records_at_a_time(key->batch, out->x_at, x, dy);
        out->dy_at = out->x_at + aligned(records * x);
        out->own = out->dy_at + aligned(records * dy);
    }
    if (!records || out->own > PK_CONV_WORKSPACE) return false;
    out->turns = key->batch / records;
    out->shape = (struct pk_conv_shape){.op = key->op,
                                        .dtype = dw ? PK_F32 : key->dtype,
                                        .widened = widen,
                                        .batch = (int32_t)records,
                                        .time = (int32_t)key->time,
                                        .out = (int32_t)length,
                                        .channels = (int32_t)key->channels,
                                        .filters = (int32_t)key->filters,
                                        .kernel = (int32_t)taps,
                                        .stride = key->stride,
                                        .pad = (int32_t)pad,
                                        .groups = key->groups};
    return true;
}

/* Vector loads of the library count on this; where a node's addresses are not so, the own kernels
 * run. Addresses of a node are the same in every run of a program. */
static bool well_aligned(const struct pk_call *c)
{
    enum { ALIGNMENT = 16 };
    const uintptr_t all = (uintptr_t)c->src[0] | (uintptr_t)c->src[1] | (uintptr_t)c->dst[0];
    return all % ALIGNMENT == 0;
}

/* --- the library ----------------------------------------------------------------------------- */

/* Loads it once; whether it is there. */
static bool have_library(struct pk_convs *t, const struct pk_queue *q)
{
    if (t->looked) return t->library != NULL;
    t->looked = true;
    enum pk_status s = pk_cudnn_load(&t->library, &t->why);
    if (s == PK_OK) s = pk_cudnn_start(t->library, q, &t->why);
    if (s == PK_OK)
        s = pk_cuda_check(cudaMalloc(&t->workspace, PK_CONV_WORKSPACE), "convolution workspace",
                          &t->why);
    if (s == PK_OK) return true;
    cudaGetLastError(); // is not the next launch's
    pk_cudnn_close(t->library);
    t->library = NULL;
    return false;
}

void pk_convs_close(struct pk_convs *t)
{
    for (int64_t i = 0; i < t->rows; i++) pk_cudnn_plan_close(t->row[i].plan);
    free(t->row);
    pk_cudnn_close(t->library);
    if (t->workspace) cudaFree(t->workspace);
    memset(t, 0, sizeof *t);
}

int64_t pk_conv_bytes(const struct pk_queue *q)
{
    return q->matmul && q->matmul->convs.workspace ? PK_CONV_WORKSPACE : 0;
}

void pk_convs_describe(struct pk_text *out)
{
    struct pk_cudnn *lib = NULL;
    struct pk_err why = {.status = PK_OK};
    if (pk_cudnn_load(&lib, &why) == PK_OK) {
        const long long v = pk_cudnn_version(lib);
        pk_text_add(out, "%-12s own, and cuDNN %lld.%lld.%lld\n", "gpu convs", v / 10000,
                    v / 100 % 100, v % 100);
    } else {
        pk_text_add(out, "%-12s own only: %s\n", "gpu convs", why.message);
    }
    pk_cudnn_close(lib);
}

/* --- choosing -------------------------------------------------------------------------------- */

struct candidates {
    const struct pk_call *call;
    struct pk_convs *table;
    struct pk_conv_row row[1 + ALGORITHMS]; // the own kernels, then the library's
};

/* No choice is in the table yet, so the kernel table's entry is the own kernels. */
static enum pk_status run_candidate(void *ctx, int i, struct pk_err *err)
{
    const struct candidates *c = ctx;
    struct pk_call rest = *c->call;
    if (!c->row[i].choice.library) return pk_cuda_kernels[rest.node->op](c->call, err);
    PK_TRY(pk_conv_library(c->call, c->table, &c->row[i], err));
    if (rest.node->op != PK_OP_CONV1D_DW || !rest.out[1]) return PK_OK;
    rest.out[0] = NULL, rest.dst[0] = NULL; // the bias's gradient is part of the call
    return pk_cuda_kernels[rest.node->op](&rest, err);
}

/* The library's candidates behind the own one, all with the same descriptors; how many in all. */
static int offers(struct candidates *c, const struct pk_conv_key *key)
{
    struct pk_convs *t = c->table;
    struct pk_conv_layout lay;
    struct pk_cudnn_plan *plan;
    struct pk_conv_choice list[ALGORITHMS];
    c->row[0].key = *key;
    if (!t->library || !well_aligned(c->call) || !pk_conv_layout_of(key, &lay) ||
        pk_cudnn_plan_open(&plan, t->library, &lay.shape, NULL) != PK_OK)
        return 1;
    const int n = pk_cudnn_algorithms(plan, PK_CONV_WORKSPACE - lay.own, list, ALGORITHMS);
    for (int i = 0; i < n; i++) {
        list[i].workspace += lay.own;
        c->row[1 + i] = (struct pk_conv_row){.key = *key, .choice = list[i], .plan = plan};
    }
    if (!n) pk_cudnn_plan_close(plan);
    return 1 + n;
}

/* The first of the library's candidates that runs, else the own kernels. */
static enum pk_status first_that_runs(const struct pk_queue *q, struct candidates *c, int count,
                                      int *best, struct pk_err *err)
{
    for (*best = 1; *best < count; ++*best) {
        struct pk_err why = {.status = PK_OK};
        if (run_candidate(c, *best, &why) == PK_OK) return PK_OK;
        PK_TRY(pk_cuda_check(cudaStreamSynchronize(q->stream), why.message, err));
        cudaGetLastError(); // is not the next launch's
    }
    *best = 0;
    return PK_OK;
}

/* The choice among candidates goes into the table, without a time where there is only one. */
static enum pk_status choose(const struct pk_queue *q, struct candidates *c, int count,
                             struct pk_err *err)
{
    struct pk_contest_result won = {.best = 0};
    const struct pk_contest contest = {q, run_candidate, c, 1, count};
    enum pk_status s = PK_OK;
    if (c->table->mode == PK_CHOOSE_LIBRARY) {
        s = first_that_runs(q, c, count, &won.best, err);
    } else if (count > 1) {
        s = pk_contest_scatter(q, c->call, err);
        if (s == PK_OK) s = pk_contest_hold(&contest, &won, err);
    }
    struct pk_conv_row *best = &c->row[won.best];
    best->seconds = won.seconds, best->own_seconds = won.own_seconds;
    if (s == PK_OK) s = keep(c->table, best, err);
    if (count > 1 && (s != PK_OK || !best->plan)) pk_cudnn_plan_close(c->row[1].plan);
    return s;
}

/* Descriptors of a choice that was read. */
static enum pk_status open_plan(struct pk_convs *t, struct pk_conv_row *row, struct pk_err *err)
{
    struct pk_conv_layout lay;
    if (row->plan) return PK_OK;
    if (!t->library || !pk_conv_layout_of(&row->key, &lay) || row->choice.workspace < lay.own)
        return pk_fail(err, PK_EDATA, "GEMM choices: a convolution is damaged");
    return pk_cudnn_plan_open(&row->plan, t->library, &lay.shape, err);
}

/* A choice that was read gets its descriptors and a first run. */
static enum pk_status restore(const struct pk_call *c, struct pk_convs *t, struct pk_conv_row *row,
                              struct pk_err *err)
{
    if (!row->choice.library || row->plan || !well_aligned(c)) return PK_OK;
    PK_TRY(open_plan(t, row, err));
    return pk_conv_library(c, t, row, err);
}

enum pk_status pk_conv_prepare(const struct pk_queue *q, const struct pk_call *c,
                               struct pk_err *err)
{
    struct pk_convs *t = q->matmul ? &q->matmul->convs : NULL;
    struct pk_conv_key key;
    struct candidates list = {.call = c, .table = t};
    if (!t || t->mode == PK_CHOOSE_OWN || !pk_conv_key_of(c, &key)) return PK_OK;
    const bool there = have_library(t, q);
    if (!there && t->mode == PK_CHOOSE_LIBRARY) { // asked for by name, so say why not
        if (err) *err = t->why;
        return t->why.status;
    }
    struct pk_conv_row *row = pk_conv_find(t, &key);
    if (row) return restore(c, t, row, err);
    return choose(q, &list, offers(&list, &key), err);
}

enum pk_status pk_conv_chosen(const struct pk_call *c, bool *done, struct pk_err *err)
{
    struct pk_convs *t = c->queue->matmul ? &c->queue->matmul->convs : NULL;
    struct pk_conv_key key;
    *done = false;
    if (!t || !t->rows || !pk_conv_key_of(c, &key)) return PK_OK;
    struct pk_conv_row *row = pk_conv_find(t, &key);
    if (!row || !row->choice.library || !well_aligned(c)) return PK_OK;
    *done = true;
    PK_TRY(open_plan(t, row, err));
    return pk_conv_library(c, t, row, err);
}

/* --- the table as text ----------------------------------------------------------------------- */

void pk_convs_print(const struct pk_convs *t, struct pk_text *out)
{
    for (int64_t i = 0; i < t->rows; i++) {
        const struct pk_conv_row *r = &t->row[i];
        const struct pk_conv_key *k = &r->key;
        pk_text_add(
            out, "%-14s %4s %lld x %lld x %lld, %lld filters of %lld by %d in %d groups%s%s  ",
            op_name(k->op), pk_dtype_name(k->dtype), (long long)k->batch, (long long)k->time,
            (long long)k->channels, (long long)k->filters, (long long)k->kernel, (int)k->stride,
            (int)k->groups, k->bias ? " bias" : "", k->add ? " add" : "");
        if (r->choice.library)
            pk_text_add(out, "cuDNN algorithm %d", r->choice.algorithm);
        else
            pk_text_add(out, "own");
        if (r->seconds > 0)
            pk_text_add(out, "  %.1f us (own %.1f us)", 1e6 * r->seconds, 1e6 * r->own_seconds);
        pk_text_add(out, "\n");
    }
}

static void write_row(struct pk_json_writer *w, const struct pk_conv_row *r)
{
    const struct pk_conv_key *k = &r->key;
    pk_json_open(w, NULL, '{');
    pk_json_put_string(w, "op", op_name(k->op));
    pk_json_put_string(w, "type", pk_dtype_name(k->dtype));
    pk_json_put_i64(w, "batch", k->batch);
    pk_json_put_i64(w, "time", k->time);
    pk_json_put_i64(w, "channels", k->channels);
    pk_json_put_i64(w, "filters", k->filters);
    pk_json_put_i64(w, "kernel", k->kernel);
    pk_json_put_i64(w, "stride", k->stride);
    pk_json_put_i64(w, "left", k->left);
    pk_json_put_i64(w, "right", k->right);
    pk_json_put_i64(w, "groups", k->groups);
    pk_json_put_bool(w, "bias", k->bias);
    pk_json_put_bool(w, "add", k->add);
    pk_json_put_string(w, "by", r->choice.library ? "cudnn" : "own");
    if (r->choice.library) {
        pk_json_put_i64(w, "algorithm", r->choice.algorithm);
        pk_json_put_i64(w, "workspace", r->choice.workspace);
    }
    pk_json_put_f64(w, "seconds", r->seconds);
    pk_json_put_f64(w, "own_seconds", r->own_seconds);
    pk_json_close(w);
}

void pk_convs_write(const struct pk_convs *t, struct pk_json_writer *w)
{
    if (!t->rows) return;
    pk_json_put_i64(w, "cudnn", pk_cudnn_version(t->library));
    pk_json_open(w, "convolutions", '[');
    for (int64_t i = 0; i < t->rows; i++) write_row(w, &t->row[i]);
    pk_json_close(w);
}

static bool read_key(const struct pk_json *j, struct pk_conv_key *key)
{
    const char *op = pk_json_string(j, "op", "");
    int64_t stride, left, right, groups;
    bool known = false;
    for (size_t i = 0; i < PK_COUNT(convolutions); i++)
        if (!strcmp(op, convolutions[i].name)) key->op = convolutions[i].op, known = true;
    if (!known || !pk_choice_type(j, &key->dtype) ||
        !pk_choice_count(j, "batch", 1, INT32_MAX, &key->batch) ||
        !pk_choice_count(j, "time", 1, INT32_MAX, &key->time) ||
        !pk_choice_count(j, "channels", 1, INT32_MAX, &key->channels) ||
        !pk_choice_count(j, "filters", 1, INT32_MAX, &key->filters) ||
        !pk_choice_count(j, "kernel", 1, INT32_MAX, &key->kernel) ||
        !pk_choice_count(j, "stride", 1, INT32_MAX, &stride) ||
        !pk_choice_count(j, "left", 0, INT32_MAX, &left) ||
        !pk_choice_count(j, "right", 0, INT32_MAX, &right) ||
        !pk_choice_count(j, "groups", 1, INT32_MAX, &groups) ||
        !pk_choice_flag(j, "bias", &key->bias) || !pk_choice_flag(j, "add", &key->add))
        return false;
    key->stride = (int32_t)stride, key->groups = (int32_t)groups;
    key->left = (int32_t)left, key->right = (int32_t)right;
    return key->channels % groups == 0 && key->filters % groups == 0;
}

static bool read_row(const struct pk_json *j, struct pk_conv_row *r)
{
    const char *by = pk_json_string(j, "by", "");
    int64_t algorithm = 0;
    memset(r, 0, sizeof *r);
    if (j->kind != PK_JSON_OBJECT || !read_key(j, &r->key) ||
        !pk_choice_seconds(j, "seconds", &r->seconds) ||
        !pk_choice_seconds(j, "own_seconds", &r->own_seconds))
        return false;
    r->choice.library = !strcmp(by, "cudnn");
    if (!r->choice.library) return !strcmp(by, "own");
    if (!pk_choice_count(j, "algorithm", 0, INT32_MAX, &algorithm) ||
        !pk_choice_count(j, "workspace", 0, PK_CONV_WORKSPACE, &r->choice.workspace))
        return false;
    r->choice.algorithm = (int)algorithm;
    return true;
}

/* Choices of a library are of its version. */
static enum pk_status check_version(struct pk_convs *t, const struct pk_queue *q, int64_t made,
                                    struct pk_err *err)
{
    const bool there = t->mode != PK_CHOOSE_OWN && have_library(t, q);
    const int64_t here = pk_cudnn_version(t->library);
    if (!there)
        return pk_fail(err, PK_EMISSING,
                       "GEMM choices: made with cuDNN %lld, which is not loaded here; without it "
                       "the results would differ in the last bits",
                       (long long)made);
    if (here != made)
        return pk_fail(err, PK_EMISSING,
                       "GEMM choices: made with cuDNN %lld, but this is %lld, whose results may "
                       "differ in the last bits",
                       (long long)made, (long long)here);
    return PK_OK;
}

enum pk_status pk_convs_read(struct pk_convs *fresh, struct pk_convs *t, const struct pk_queue *q,
                             const struct pk_json *j, struct pk_err *err)
{
    const struct pk_json *list = pk_json_get(j, "convolutions");
    int64_t version = 0;
    bool uses = false;
    if (!list) return PK_OK; // older than this table
    if (list->kind != PK_JSON_ARRAY || !pk_choice_count(j, "cudnn", 0, INT32_MAX, &version))
        return pk_fail(err, PK_EDATA, "GEMM choices: the convolutions are damaged");
    for (int64_t i = 0; i < list->count; i++) {
        struct pk_conv_row row;
        if (!read_row(&list->item[i], &row))
            return pk_fail(err, PK_EDATA, "GEMM choices: convolution %lld is damaged",
                           (long long)i);
        if (pk_conv_find(fresh, &row.key))
            return pk_fail(err, PK_EDATA, "GEMM choices: convolution %lld is there twice",
                           (long long)i);
        uses = uses || row.choice.library;
        PK_TRY(keep(fresh, &row, err));
    }
    return uses ? check_version(t, q, version, err) : PK_OK;
}

void pk_convs_replace(struct pk_convs *t, struct pk_convs *fresh)
{
    for (int64_t i = 0; i < t->rows; i++) pk_cudnn_plan_close(t->row[i].plan);
    free(t->row);
    t->row = fresh->row, t->rows = fresh->rows, t->row_cap = fresh->row_cap;
}
