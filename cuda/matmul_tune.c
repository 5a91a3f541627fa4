/* matmul_tune.c -- candidates for a product and their timing, and the ceiling of the device.
 *
 * Candidates are the own tiles, the rule of thumb's first, and the first algorithms of cuBLASLt's
 * heuristic, with the bias in its epilogue where it can and without. Each is run by the code that
 * will run it in the step, elementwise passes and sums of columns included. */
#include "cuda/matmul_table.h"

#include "core/view.h"

#include <math.h>
#include <string.h>

enum {
    ALGORITHMS = 8, // of the library, fused and not fused each
    CANDIDATES = PK_TILE_COUNT + 2 * ALGORITHMS,
    BATCHES = 3, // a candidate's time is the best of as many, since disturbances only add
    LONGEST = 20 // runs of one batch
};
static const double batch_seconds = 1e-3, margin = 0.98; // a later candidate must be 2 % faster

struct timer {
    cudaEvent_t from, to;
    cudaStream_t stream;
    /* Runs candidate number i once. */
    enum pk_status (*run)(void *ctx, int i, struct pk_err *err);
    void *ctx;
};

/* Seconds of one of `count` runs. */
static enum pk_status batch(const struct timer *t, int i, int count, double *seconds,
                            struct pk_err *err)
{
    float ms = 0;
    PK_TRY(pk_cuda_check(cudaEventRecord(t->from, t->stream), "timing a product", err));
    for (int k = 0; k < count; k++) PK_TRY(t->run(t->ctx, i, err));
    PK_TRY(pk_cuda_check(cudaEventRecord(t->to, t->stream), "timing a product", err));
    PK_TRY(pk_cuda_check(cudaEventSynchronize(t->to), "timing a product", err));
    PK_TRY(pk_cuda_check(cudaEventElapsedTime(&ms, t->from, t->to), "timing a product", err));
    *seconds = 1e-3 * (double)ms / count;
    return PK_OK;
}

/* Seconds of candidate i; gives up early on one that is hopeless against `best`. */
static enum pk_status measure(const struct timer *t, int i, double best, double *seconds,
                              struct pk_err *err)
{
    double once;
    PK_TRY(batch(t, i, 1, &once, err)); // the first run loads the kernel
    PK_TRY(batch(t, i, 1, &once, err));
    *seconds = once;
    if (once > 2 * best) return PK_OK;
    const int count = (int)PK_MIN(PK_MAX(batch_seconds / PK_MAX(once, 1e-6), 2), LONGEST);
    for (int k = 0; k < BATCHES; k++) {
        PK_TRY(batch(t, i, count, &once, err));
        *seconds = PK_MIN(*seconds, once);
    }
    return PK_OK;
}

static enum pk_status timer_open(struct timer *t, struct pk_err *err)
{
    PK_TRY(pk_cuda_check(cudaEventCreate(&t->from), "event", err));
    return pk_cuda_check(cudaEventCreate(&t->to), "event", err);
}

static void timer_close(struct timer *t)
{
    if (t->from) cudaEventDestroy(t->from);
    if (t->to) cudaEventDestroy(t->to);
}

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

struct contest {
    const struct pk_call *call;
    struct pk_matmul_choice choice[CANDIDATES];
};

static enum pk_status run_candidate(void *ctx, int i, struct pk_err *err)
{
    const struct contest *c = ctx;
    return pk_linear_run(c->call, &c->choice[i], err);
}

/* Random numbers into the activations that the call reads: all-zero operands run faster. */
static enum pk_status scatter(const struct pk_queue *q, const struct pk_call *c, struct pk_err *err)
{
    for (int i = 0; i < PK_NODE_IN; i++) {
        const struct pk_value *v = c->in[i];
        union {
            const void *from;
            void *to;
        } p = {.from = c->src[i]};
        if (!v || v->storage != PK_STORE_ACT) continue;
        PK_TRY(pk_cuda_fill_random(q, p.to, v->dtype, pk_view_count(v), (uint32_t)i + 1, err));
    }
    return PK_OK;
}

static enum pk_status contend(const struct pk_queue *q, struct contest *c, int owned, int count,
                              struct pk_matmul_row *row, struct pk_err *err)
{
    struct timer t = {.stream = q->stream, .run = run_candidate, .ctx = c};
    double best = INFINITY, own = INFINITY;
    enum pk_status s = timer_open(&t, err);
    for (int i = 0; i < count && s == PK_OK; i++) {
        double seconds;
        struct pk_err why = {.status = PK_OK};
        if (measure(&t, i, best, &seconds, &why) != PK_OK) {
            /* What was refused before it ran is passed over; a broken device is not. */
            s = pk_cuda_check(cudaStreamSynchronize(q->stream), why.message, err);
            continue;
        }
        if (i < owned) own = PK_MIN(own, seconds);
        if (!(seconds < (i ? margin : 1) * best)) continue;
        best = seconds;
        row->choice = c->choice[i];
    }
    timer_close(&t);
    if (s == PK_OK && isinf(best)) return pk_linear_run(c->call, &c->choice[0], err);
    row->seconds = isinf(best) ? 0 : best;
    row->own_seconds = isinf(own) ? 0 : own;
    return s;
}

enum pk_status pk_matmul_prepare(const struct pk_queue *q, const struct pk_call *c,
                                 struct pk_err *err)
{
    struct pk_matmul *m = q->matmul;
    struct pk_matmul_row row;
    struct pk_cuda_gemm g;
    struct contest contest = {.call = c};
    memset(&row, 0, sizeof row);
    if (!m || m->mode == PK_MATMUL_OWN || !pk_matmul_key_of(c, &row.key)) return PK_OK;
    if (row.key.op == PK_OP_LINEAR_DW && !c->out[0]) return PK_OK; // sums of columns only
    if (pk_matmul_find(m, &row.key)) return PK_OK;
    pk_linear_product(c, &g);
    if (m->mode == PK_MATMUL_CUBLASLT) {
        if (!library_candidates(m, &g, contest.choice)) return PK_OK;
        row.choice = contest.choice[0];
        return pk_matmul_keep(m, &row, err);
    }
    PK_TRY(scatter(q, c, err));
    const int owned = own_candidates(q, &g, contest.choice);
    const int count = owned + library_candidates(m, &g, contest.choice + owned);
    PK_TRY(contend(q, &contest, owned, count, &row, err));
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
    double best = INFINITY;
    memset(&c, 0, sizeof c);
    *flops_per_s = 0;
    enum pk_status s = open_ceiling(&c, extent, err);
    struct timer t = {.stream = c.q.stream, .run = run_ceiling, .ctx = &c};
    if (s == PK_OK) s = timer_open(&t, err);
    if (s == PK_OK && pk_cublaslt_open(&c.library, NULL) != PK_OK) c.library = NULL;
    int count = s == PK_OK ? own_candidates(&c.q, &c.g, c.choice) : 0;
    if (c.library)
        count += pk_cublaslt_algorithms(c.library, &c.g, false, c.workspace_bytes, c.choice + count,
                                        ALGORITHMS);
    for (int i = 0; i < count && s == PK_OK; i++) {
        double seconds;
        struct pk_err why = {.status = PK_OK};
        if (measure(&t, i, best, &seconds, &why) == PK_OK)
            best = PK_MIN(best, seconds);
        else
            s = pk_cuda_check(cudaStreamSynchronize(c.q.stream), why.message, err);
    }
    timer_close(&t);
    pk_cublaslt_close(c.library);
    if (c.memory) cudaFree(c.memory);
    if (c.workspace) cudaFree(c.workspace);
    if (c.q.stream) cudaStreamDestroy(c.q.stream);
    if (s == PK_OK && isinf(best)) return pk_fail(err, PK_EDEVICE, "no product could be run");
    if (s == PK_OK) *flops_per_s = 2.0 * (double)extent * (double)extent * (double)extent / best;
    return s;
}
