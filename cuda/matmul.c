/* matmul.c -- the table of choices: keys, lookup, JSON. Timing is in cuda/matmul_tune.c. */
#include "cuda/matmul_table.h"

#include "core/json.h"
#include "core/view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE_VERSION = 1 };

/* The ops that have a product, under the names that the table is written with. */
static const struct {
    enum pk_op op;
    const char *name;
} products[] = {
    {PK_OP_LINEAR, "linear"},
    {PK_OP_LINEAR_DX, "linear_dx"},
    {PK_OP_LINEAR_DW, "linear_dw"},
    {PK_OP_LINEAR_GELU, "linear_gelu"},
    {PK_OP_LINEAR_DX_GELU, "linear_dx_gelu"},
};

static const char *op_name(enum pk_op op)
{
    for (size_t i = 0; i < PK_COUNT(products); i++)
        if (products[i].op == op) return products[i].name;
    return NULL;
}

bool pk_matmul_key_of(const struct pk_call *c, struct pk_matmul_key *key)
{
    const enum pk_op op = c->node->op;
    const struct pk_value *x = c->in[0], *w = c->in[1];
    if (!op_name(op)) return false;
    memset(key, 0, sizeof *key);
    key->op = op;
    key->dtype = x->dtype;
    key->rows = pk_view_rows(x);
    key->n = op == PK_OP_LINEAR_DW ? pk_view_cols(x) : w->dim[0];
    key->k = pk_view_cols(w); // LINEAR_DW: in[1] is x, of the same width
    key->bias = op == PK_OP_LINEAR_DW                           ? c->out[1] != NULL
                : op == PK_OP_LINEAR || op == PK_OP_LINEAR_GELU ? c->in[2] != NULL
                                                                : false;
    key->keep = op == PK_OP_LINEAR_GELU && c->out[0];
    key->add = op != PK_OP_LINEAR_GELU && pk_call_accumulates(c, 0);
    return true;
}

static bool same(const struct pk_matmul_key *a, const struct pk_matmul_key *b)
{
    return a->op == b->op && a->dtype == b->dtype && a->rows == b->rows && a->n == b->n &&
           a->k == b->k && a->bias == b->bias && a->keep == b->keep && a->add == b->add;
}

const struct pk_matmul_choice *pk_matmul_find(const struct pk_matmul *m,
                                              const struct pk_matmul_key *key)
{
    for (int64_t i = 0; m && i < m->rows; i++)
        if (same(&m->row[i].key, key)) return &m->row[i].choice;
    return NULL;
}

enum pk_status pk_matmul_keep(struct pk_matmul *m, const struct pk_matmul_row *row,
                              struct pk_err *err)
{
    PK_TRY(pk_grow(&m->row, &m->row_cap, m->rows + 1, sizeof *m->row, "GEMM choices", err));
    m->row[m->rows++] = *row;
    return PK_OK;
}

enum pk_status pk_matmul_open(struct pk_matmul **out, const struct pk_queue *q, struct pk_err *err)
{
    struct pk_matmul *m;
    *out = NULL;
    PK_TRY(pk_alloc(&m, 1, sizeof *m, "GEMM choices", err));
    m->q = q;
    enum pk_status s = pk_choose_mode(&m->mode, "PURKINJE_GEMM", "cublaslt", err);
    if (s == PK_OK) s = pk_choose_mode(&m->convs.mode, "PURKINJE_CONV", "cudnn", err);
    if (s == PK_OK && m->mode != PK_CHOOSE_OWN) {
        if (pk_cublaslt_open(&m->library, NULL) == PK_OK) {
            s = pk_cuda_check(cudaMalloc(&m->workspace, PK_MATMUL_WORKSPACE), "GEMM workspace",
                              err);
            m->workspace_bytes = PK_MATMUL_WORKSPACE;
        } else if (m->mode == PK_CHOOSE_LIBRARY) {
            s = pk_cublaslt_open(&m->library, err); // asked for by name, so say why not
        }
    }
    if (s != PK_OK)
        pk_matmul_close(m);
    else
        *out = m;
    return s;
}

void pk_matmul_close(struct pk_matmul *m)
{
    if (!m) return;
    pk_convs_close(&m->convs);
    pk_cublaslt_close(m->library);
    if (m->workspace) cudaFree(m->workspace);
    free(m->row);
    free(m);
}

int64_t pk_matmul_bytes(const struct pk_matmul *m)
{
    return m ? m->workspace_bytes : 0;
}

enum pk_status pk_matmul_library(const struct pk_queue *q, const struct pk_cuda_gemm *g,
                                 const struct pk_matmul_choice *choice, struct pk_err *err)
{
    struct pk_matmul *m = q->matmul;
    if (!m || !m->library)
        return pk_fail(err, PK_EMISSING,
                       "a product was chosen for cuBLASLt, "
                       "which is not loaded");
    return pk_cublaslt_run(m->library, q, g, choice, m->workspace, m->workspace_bytes, err);
}

void pk_matmul_describe(struct pk_text *out)
{
    struct pk_cublaslt *lib = NULL;
    struct pk_err why = {.status = PK_OK};
    if (pk_cublaslt_open(&lib, &why) == PK_OK) {
        const long long v = pk_cublaslt_version(lib);
        pk_text_add(out, "%-12s own, and cuBLASLt %lld.%lld.%lld\n", "gpu products", v / 10000,
                    v / 100 % 100, v % 100);
    } else {
        pk_text_add(out, "%-12s own only: %s\n", "gpu products", why.message);
    }
    pk_cublaslt_close(lib);
    pk_convs_describe(out);
}

void pk_matmul_print(const struct pk_matmul *m, struct pk_text *out)
{
    for (int64_t i = 0; m && i < m->rows; i++) {
        const struct pk_matmul_row *r = &m->row[i];
        const struct pk_matmul_key *k = &r->key;
        const double work = 2.0 * (double)k->rows * (double)k->n * (double)k->k;
        pk_text_add(out, "%-14s %4s %7lld x %4lld x %4lld%s%s%s  ", op_name(k->op),
                    pk_dtype_name(k->dtype), (long long)k->rows, (long long)k->n, (long long)k->k,
                    k->bias ? " bias" : "", k->keep ? " pre" : "", k->add ? " add" : "");
        if (r->choice.library)
            pk_text_add(out, "cuBLASLt%s", r->choice.fused ? " with bias" : "");
        else
            pk_text_add(out, "own %s",
                        r->choice.tile < 0 ? "by rule" : pk_cuda_gemm_tile_name(r->choice.tile));
        if (r->seconds > 0)
            pk_text_add(out, "  %.1f us, %.0f TFLOP/s (own %.1f us)", 1e6 * r->seconds,
                        1e-12 * work / r->seconds, 1e6 * r->own_seconds);
        pk_text_add(out, "\n");
    }
    if (m) pk_convs_print(&m->convs, out);
}

/* --- the table as text ----------------------------------------------------------------------- */

static void write_row(struct pk_json_writer *w, const struct pk_matmul_row *r)
{
    pk_json_open(w, NULL, '{');
    pk_json_put_string(w, "op", op_name(r->key.op));
    pk_json_put_string(w, "type", pk_dtype_name(r->key.dtype));
    pk_json_put_i64(w, "rows", r->key.rows);
    pk_json_put_i64(w, "n", r->key.n);
    pk_json_put_i64(w, "k", r->key.k);
    pk_json_put_bool(w, "bias", r->key.bias);
    pk_json_put_bool(w, "keep", r->key.keep);
    pk_json_put_bool(w, "add", r->key.add);
    pk_json_put_string(w, "by", r->choice.library ? "cublaslt" : "own");
    if (r->choice.library) {
        char hex[8 * 16 + 1];
        for (int i = 0; i < 8; i++) snprintf(hex + 16 * i, 17, "%016" PRIx64, r->choice.algo[i]);
        pk_json_put_bool(w, "fused", r->choice.fused);
        pk_json_put_i64(w, "workspace", r->choice.workspace);
        pk_json_put_string(w, "algorithm", hex);
    } else {
        pk_json_put_i64(w, "tile", r->choice.tile);
    }
    pk_json_put_f64(w, "seconds", r->seconds);
    pk_json_put_f64(w, "own_seconds", r->own_seconds);
    pk_json_close(w);
}

void pk_matmul_write(const struct pk_matmul *m, struct pk_text *text)
{
    struct pk_json_writer w = {.out = text, .indent = 2};
    pk_json_open(&w, NULL, '{');
    pk_json_put_i64(&w, "version", TABLE_VERSION);
    pk_json_put_i64(&w, "cublaslt", pk_cublaslt_version(m->library));
    pk_json_open(&w, "products", '[');
    for (int64_t i = 0; i < m->rows; i++) write_row(&w, &m->row[i]);
    pk_json_close(&w);
    pk_convs_write(&m->convs, &w);
    pk_json_close(&w);
    pk_text_add(text, "\n");
}

static bool read_algorithm(const char *hex, uint64_t algo[8])
{
    if (strlen(hex) != 8 * 16 || strspn(hex, "0123456789abcdef") != 8 * 16) return false;
    for (int i = 0; i < 8; i++) {
        char part[17] = {0};
        memcpy(part, hex + 16 * i, 16);
        algo[i] = strtoull(part, NULL, 16);
    }
    return true;
}

static bool read_key(const struct pk_json *j, struct pk_matmul_key *key)
{
    const char *op = pk_json_string(j, "op", "");
    bool known = false;
    for (size_t i = 0; i < PK_COUNT(products); i++)
        if (!strcmp(op, products[i].name)) key->op = products[i].op, known = true;
    return known && pk_choice_type(j, &key->dtype) &&
           pk_choice_count(j, "rows", 1, INT32_MAX, &key->rows) &&
           pk_choice_count(j, "n", 1, INT32_MAX, &key->n) &&
           pk_choice_count(j, "k", 1, INT32_MAX, &key->k) &&
           pk_choice_flag(j, "bias", &key->bias) && pk_choice_flag(j, "keep", &key->keep) &&
           pk_choice_flag(j, "add", &key->add);
}

static bool read_row(const struct pk_json *j, struct pk_matmul_row *r)
{
    const char *by = pk_json_string(j, "by", "");
    struct pk_matmul_choice *c = &r->choice;
    int64_t tile = -1;
    memset(r, 0, sizeof *r);
    if (j->kind != PK_JSON_OBJECT || !read_key(j, &r->key) ||
        !pk_choice_seconds(j, "seconds", &r->seconds) ||
        !pk_choice_seconds(j, "own_seconds", &r->own_seconds))
        return false;
    c->library = !strcmp(by, "cublaslt");
    c->tile = -1;
    if (c->library)
        return pk_choice_flag(j, "fused", &c->fused) &&
               pk_choice_count(j, "workspace", 0, PK_MATMUL_WORKSPACE, &c->workspace) &&
               read_algorithm(pk_json_string(j, "algorithm", ""), c->algo);
    if (strcmp(by, "own") || !pk_choice_count(j, "tile", -1, PK_TILE_COUNT - 1, &tile))
        return false;
    c->tile = (int)tile;
    return r->key.dtype == PK_BF16 || tile <= 0;
}

/* Fills a table of its own, so that the old one survives a bad text. */
static enum pk_status read_table(struct pk_matmul *fresh, const struct pk_json *j, int64_t here,
                                 struct pk_err *err)
{
    const struct pk_json *list = pk_choice_member(j, "products", PK_JSON_ARRAY);
    int64_t version, library;
    bool uses = false;
    if (!pk_choice_count(j, "version", TABLE_VERSION, TABLE_VERSION, &version) ||
        !pk_choice_count(j, "cublaslt", 0, INT32_MAX, &library) || !list)
        return pk_fail(err, PK_EDATA, "GEMM choices: not a table of version %d", TABLE_VERSION);
    for (int64_t i = 0; i < list->count; i++) {
        struct pk_matmul_row row;
        if (!read_row(&list->item[i], &row))
            return pk_fail(err, PK_EDATA, "GEMM choices: product %lld is damaged", (long long)i);
        if (pk_matmul_find(fresh, &row.key))
            return pk_fail(err, PK_EDATA, "GEMM choices: product %lld is there twice",
                           (long long)i);
        uses = uses || row.choice.library;
        PK_TRY(pk_matmul_keep(fresh, &row, err));
    }
    if (uses && !here)
        return pk_fail(err, PK_EMISSING,
                       "GEMM choices: made with cuBLASLt %lld, which is not loaded here; without "
                       "it the results would differ in the last bits",
                       (long long)library);
    if (uses && here != library)
        return pk_fail(err, PK_EMISSING,
                       "GEMM choices: made with cuBLASLt %lld, but this is %lld, whose results may "
                       "differ in the last bits",
                       (long long)library, (long long)here);
    return PK_OK;
}

enum pk_status pk_matmul_read(struct pk_matmul *m, const char *text, size_t n, struct pk_err *err)
{
    struct pk_json j;
    struct pk_matmul fresh = {0};
    PK_TRY(pk_json_parse(&j, text, n, "GEMM choices", err));
    enum pk_status s = read_table(&fresh, &j, pk_cublaslt_version(m->library), err);
    if (s == PK_OK) s = pk_convs_read(&fresh.convs, &m->convs, m->q, &j, err);
    pk_json_free(&j);
    if (s != PK_OK) {
        free(fresh.row);
        pk_convs_close(&fresh.convs);
        return s;
    }
    pk_convs_replace(&m->convs, &fresh.convs);
    free(m->row);
    m->row = fresh.row, m->rows = fresh.rows, m->row_cap = fresh.row_cap;
    return PK_OK;
}
