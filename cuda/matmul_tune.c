/* matmul_tune.c -- candidates for a product and their timing, and the ceiling of the device.
 *
 * Candidates are the own tiles, the rule of thumb's first, and the first algorithms of cuBLASLt's
 * heuristic, with the bias in its epilogue where it can and without. Each is run by the code that
 * will run it in the step, elementwise passes and sums of columns included. */
#include "cuda/matmul_table.h"

#include <string.h>

enum {
    ALGORITHMS = 8, // of the library, fused and not fused each
    CANDIDATES = PK_TILE_COUNT + 2 * ALGORITHMS
};

/* --- candidates of a call -------------------------------------------------------------------- */

static int library_candidates(struct pk_matmul *m, const struct pk_cuda_gemm *g,
                              struct pk_matmul_choice *out)
{
    int n = 0;
    if (!m->library) return 0;
    if (g->bias)
        n = pk_cublaslt_algorithms(m->library, g, true, m->workspace_bytes, out, ALGORITHMS);
    return n +
           pk_cublaslt_algorithms(m->library, g, false, m->workspace_bytes, out + n, ALGORITHMS);
}

static int own_candidates(const struct pk_queue *q, const struct pk_cuda_gemm *g,
                          struct pk_matmul_choice *out)
{
    const int first = pk_cuda_gemm_tile(q, g);
    int n = 0;
    out[n++] = (struct pk_matmul_choice){.tile = first};
    for (int tile = 0; tile < PK_TILE_COUNT && g->dtype == PK_BF16; tile++)
        if (tile != first && pk_cuda_gemm_has(g->product, tile))
            out[n++] = (struct pk_matmul_choice){.tile = tile};
    return n;
}

struct candidates {
    const struct pk_call *call;
    struct pk_matmul_choice choice[CANDIDATES];
};

static enum pk_status run_candidate(void *ctx, int i, struct pk_err *err)
{
    const struct candidates *c = ctx;
    return pk_linear_run(c->call, &c->choice[i], err);
}

enum pk_status pk_matmul_prepare(const struct pk_queue *q, const struct pk_call *c,
                                 struct pk_err *err)
{
    struct pk_matmul *m = q->matmul;
    struct pk_matmul_row row;
    struct pk_cuda_gemm g;
    struct candidates list = {.call = c};
    struct pk_contest_result won;
    memset(&row, 0, sizeof row);
    if (!m || m->mode == PK_CHOOSE_OWN || !pk_matmul_key_of(c, &row.key)) return PK_OK;
    if (row.key.op == PK_OP_LINEAR_DW && !c->out[0]) return PK_OK; // sums of columns only
    if (pk_matmul_find(m, &row.key)) return PK_OK;
    pk_linear_product(c, &g);
    if (m->mode == PK_CHOOSE_LIBRARY) {
        if (!library_candidates(m, &g, list.choice)) return PK_OK;
        row.choice = list.choice[0];
        return pk_matmul_keep(m, &row, err);
    }
    PK_TRY(pk_contest_scatter(q, c, err));
    const int owned = own_candidates(q, &g, list.choice);
    const int count = owned + library_candidates(m, &g, list.choice + owned);
    const struct pk_contest contest = {q, run_candidate, &list, owned, count};
    PK_TRY(pk_contest_hold(&contest, &won, err));
    row.choice = list.choice[won.best];
    row.seconds = won.seconds, row.own_seconds = won.own_seconds;
    return pk_matmul_keep(m, &row, err);
}

/* --- the device's ceiling -------------------------------------------------------------------- */

struct ceiling {
    struct pk_queue q;
    struct pk_cuda_gemm g;
    struct pk_cublaslt *library;
    void *memory, *workspace;
    int64_t workspace_bytes;
    struct pk_matmul_choice choice[CANDIDATES];
};

static enum pk_status run_ceiling(void *ctx, int i, struct pk_err *err)
{
    struct ceiling *c = ctx;
    if (c->choice[i].library)
        return pk_cublaslt_run(c->library, &c->q, &c->g, &c->choice[i], c->workspace,
                               c->workspace_bytes, err);
    c->g.tile = c->choice[i].tile;
    return pk_cuda_gemm(&c->q, &c->g, err);
}

static enum pk_status open_ceiling(struct ceiling *c, int64_t extent, struct pk_err *err)
{
    const int64_t count = extent * extent, bytes = count * (int64_t)pk_dtype_size(PK_BF16);
    c->workspace_bytes = 32 << 20;
    PK_TRY(pk_cuda_check(cudaGetDevice(&c->q.device), "device", err));
    PK_TRY(pk_cuda_check(
        cudaDeviceGetAttribute(&c->q.sms, cudaDevAttrMultiProcessorCount, c->q.device), "device",
        err));
    PK_TRY(pk_cuda_check(cudaStreamCreateWithFlags(&c->q.stream, cudaStreamNonBlocking), "stream",
                         err));
    PK_TRY(pk_cuda_check(cudaMalloc(&c->memory, (size_t)(3 * bytes)), "three matrices", err));
    PK_TRY(pk_cuda_check(cudaMalloc(&c->workspace, (size_t)c->workspace_bytes), "workspace", err));
    char *at = c->memory;
    c->g = (struct pk_cuda_gemm){.product = PK_PRODUCT_NT,
                                 .dtype = PK_BF16,
                                 .m = extent,
                                 .n = extent,
                                 .k = extent,
                                 .a = at,
                                 .b = at + bytes,
                                 .y = at + 2 * bytes};
    PK_TRY(pk_cuda_fill_random(&c->q, at, PK_BF16, count, 1, err));
    return pk_cuda_fill_random(&c->q, at + bytes, PK_BF16, count, 2, err);
}

enum pk_status pk_matmul_ceiling(double *flops_per_s, struct pk_err *err)
{
#ifdef PK_CUDA_HOST
    const int64_t extent = 128; // the host executor has no rate worth waiting for
#else
    const int64_t extent = 8192;
#endif
    struct ceiling c;
    struct pk_contest_result won;
    memset(&c, 0, sizeof c);
    *flops_per_s = 0;
    enum pk_status s = open_ceiling(&c, extent, err);
    if (s == PK_OK && pk_cublaslt_open(&c.library, NULL) != PK_OK) c.library = NULL;
    const int owned = s == PK_OK ? own_candidates(&c.q, &c.g, c.choice) : 0;
    int count = owned;
    if (c.library)
        count += pk_cublaslt_algorithms(c.library, &c.g, false, c.workspace_bytes, c.choice + count,
                                        ALGORITHMS);
    const struct pk_contest contest = {&c.q, run_ceiling, &c, owned, count};
    if (s == PK_OK) s = pk_contest_hold(&contest, &won, err);
    pk_cublaslt_close(c.library);
    if (c.memory) cudaFree(c.memory);
    if (c.workspace) cudaFree(c.workspace);
    if (c.q.stream) cudaStreamDestroy(c.q.stream);
    if (s == PK_OK && !(won.fastest > 0))
        return pk_fail(err, PK_EDEVICE, "no product could be run");
    if (s == PK_OK)
        *flops_per_s = 2.0 * (double)extent * (double)extent * (double)extent / won.fastest;
    return s;
}
