/* matmul_cublaslt.c -- products by cuBLASLt, loaded at run time; the only file that sees its
 * header.
 *
 * cuBLASLt thinks in columns: a row-major matrix [r, c] is to it a column-major matrix of c rows
 * and r columns with leading dimension c, the transpose. So y[m, n] is asked for as D (n rows, m
 * columns, ld n) = op(A) op(B),   A from our b, B from our a: A, layout        op   B, layout op
 * inner dimension k NT      b: k x n, ld k   T    a: k x m, ld k   N     y = a b^T NN      b: n x
 * k, ld n   N    a: k x m, ld k   N     y = a b TN      b: n x k, ld n   N    a: m x k, ld m   T y
 * = a^T b and a bias along n is one along the rows of D, which is what the BIAS epilogue adds.
 *
 * Types: bf16 operands with bf16 or (TN) float results, or float throughout; always
 * CUBLAS_COMPUTE_32F, which is never TF32. The elements of a bias have the type of D (header,
 * CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE), and ours are float, so the epilogue serves float only.
 *
 * Determinism: no reduction scheme but NONE and COMPUTE_TYPE (parts in the workspace, summed in a
 * separate step); INPLACE, which adds into the output under counters, and OUTPUT_TYPE, which rounds
 * the parts to bf16, are filtered out twice, by the preference and by looking at what came back. */
#include "cuda/matmul.h"
#include "cuda/library.h"

#include <cublasLt.h>

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* Functions of the library: X(field, symbol, result, arguments). */
#define FUNCTIONS(X)                                                                               \
    X(create, cublasLtCreate, cublasStatus_t, (cublasLtHandle_t *))                                \
    X(destroy, cublasLtDestroy, cublasStatus_t, (cublasLtHandle_t))                                \
    X(version, cublasLtGetVersion, size_t, (void))                                                 \
    X(status_text, cublasLtGetStatusString, const char *, (cublasStatus_t))                        \
    X(desc_create, cublasLtMatmulDescCreate, cublasStatus_t,                                       \
      (cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t))                               \
    X(desc_destroy, cublasLtMatmulDescDestroy, cublasStatus_t, (cublasLtMatmulDesc_t))             \
    X(desc_set, cublasLtMatmulDescSetAttribute, cublasStatus_t,                                    \
      (cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t))                \
    X(layout_create, cublasLtMatrixLayoutCreate, cublasStatus_t,                                   \
      (cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t, int64_t))                       \
    X(layout_destroy, cublasLtMatrixLayoutDestroy, cublasStatus_t, (cublasLtMatrixLayout_t))       \
    X(pref_create, cublasLtMatmulPreferenceCreate, cublasStatus_t, (cublasLtMatmulPreference_t *)) \
    X(pref_destroy, cublasLtMatmulPreferenceDestroy, cublasStatus_t, (cublasLtMatmulPreference_t)) \
    X(pref_set, cublasLtMatmulPreferenceSetAttribute, cublasStatus_t,                              \
      (cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *, size_t))    \
    X(heuristic, cublasLtMatmulAlgoGetHeuristic, cublasStatus_t,                                   \
      (cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,     \
       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,            \
       cublasLtMatmulHeuristicResult_t *, int *))                                                  \
    X(algo_get, cublasLtMatmulAlgoConfigGetAttribute, cublasStatus_t,                              \
      (const cublasLtMatmulAlgo_t *, cublasLtMatmulAlgoConfigAttributes_t, void *, size_t,         \
       size_t *))                                                                                  \
    X(matmul, cublasLtMatmul, cublasStatus_t,                                                      \
      (cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *, cublasLtMatrixLayout_t, \
       const void *, cublasLtMatrixLayout_t, const void *, const void *, cublasLtMatrixLayout_t,   \
       void *, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t,               \
       cudaStream_t))

struct pk_cublaslt {
    void *file;
    cublasLtHandle_t handle;
#define X(field, symbol, result, arguments) result(*field) arguments;
    FUNCTIONS(X)
#undef X
};

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof((struct pk_matmul_choice *)0)->algo,
               "a choice holds an algorithm");

/* --- loading --------------------------------------------------------------------------------- */

static enum pk_status find(void *file, const char *symbol, void *function, struct pk_err *err)
{
    return pk_library_find(file, "cuBLASLt", "it is not a usable version", symbol, function, err);
}

static enum pk_status load(struct pk_cublaslt *lib, struct pk_err *err)
{
    const char *name = getenv("PURKINJE_CUBLASLT");
    if (!name || !*name) name = "libcublasLt.so.13";
    lib->file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!lib->file) {
        const char *why = dlerror(); // lives until the next dlopen
        const enum pk_status s = pk_fail(err, PK_EMISSING, "cuBLASLt: %s", why ? why : name);
        void *old = dlopen("libcublasLt.so.12", RTLD_LAZY | RTLD_LOCAL);
        if (!old) return s;
        dlclose(old);
        return pk_fail(err, PK_EMISSING,
                       "cuBLASLt: found version 12, but version %d of the CUDA toolkit is needed",
                       CUBLAS_VER_MAJOR);
    }
#define X(field, symbol, result, arguments) PK_TRY(find(lib->file, #symbol, &lib->field, err));
    FUNCTIONS(X)
#undef X
    const size_t version = lib->version();
    if (version / 10000 != CUBLAS_VER_MAJOR)
        return pk_fail(err, PK_EMISSING, "cuBLASLt: %s is version %zu, but %d is needed", name,
                       version / 10000, CUBLAS_VER_MAJOR);
    const cublasStatus_t s = lib->create(&lib->handle);
    if (s != CUBLAS_STATUS_SUCCESS)
        return pk_fail(err, PK_EMISSING, "cuBLASLt: %s", lib->status_text(s));
    return PK_OK;
}

enum pk_status pk_cublaslt_open(struct pk_cublaslt **out, struct pk_err *err)
{
    struct pk_cublaslt *lib;
    *out = NULL;
    PK_TRY(pk_alloc(&lib, 1, sizeof *lib, "cuBLASLt", err));
    const enum pk_status s = load(lib, err);
    if (s != PK_OK)
        pk_cublaslt_close(lib);
    else
        *out = lib;
    return s;
}

void pk_cublaslt_close(struct pk_cublaslt *lib)
{
    if (!lib) return;
    if (lib->handle) lib->destroy(lib->handle);
    if (lib->file) dlclose(lib->file);
    free(lib);
}

int64_t pk_cublaslt_version(const struct pk_cublaslt *lib)
{
    return lib ? (int64_t)lib->version() : 0;
}

/* --- one product's descriptors --------------------------------------------------------------- */

struct plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d; // D is C as well
};

static void plan_close(const struct pk_cublaslt *lib, struct plan *p)
{
    if (p->a) lib->layout_destroy(p->a);
    if (p->b) lib->layout_destroy(p->b);
    if (p->d) lib->layout_destroy(p->d);
    if (p->desc) lib->desc_destroy(p->desc);
}

static enum pk_status check(const struct pk_cublaslt *lib, cublasStatus_t s, const char *what,
                            struct pk_err *err)
{
    if (s == CUBLAS_STATUS_SUCCESS) return PK_OK;
    return pk_fail(err, PK_EDEVICE, "cuBLASLt, %s: %s", what, lib->status_text(s));
}

static enum pk_status describe(const struct pk_cublaslt *lib, const struct pk_cuda_gemm *g,
                               bool fused, struct plan *p, struct pk_err *err)
{
    const int32_t op_a = g->product == PK_PRODUCT_NT ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int32_t op_b = g->product == PK_PRODUCT_TN ? CUBLAS_OP_T : CUBLAS_OP_N;
    const uint32_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const void *bias = g->bias;
    PK_TRY(
        check(lib, lib->desc_create(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor", err));
    PK_TRY(check(lib, lib->desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a),
                 "operation of A", err));
    PK_TRY(check(lib, lib->desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b),
                 "operation of B", err));
    if (!fused) return PK_OK;
    PK_TRY(check(lib,
                 lib->desc_set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue),
                 "epilogue", err));
    return check(lib, lib->desc_set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias),
                 "bias", err);
}

static enum pk_status plan_open(const struct pk_cublaslt *lib, const struct pk_cuda_gemm *g,
                                bool fused, struct plan *p, struct pk_err *err)
{
    const cudaDataType type = g->dtype == PK_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cudaDataType result = g->product == PK_PRODUCT_TN ? CUDA_R_32F : type;
    const bool a_turned = g->product == PK_PRODUCT_NT, b_turned = g->product == PK_PRODUCT_TN;
    const int64_t a_rows = a_turned ? g->k : g->n, a_cols = a_turned ? g->n : g->k;
    const int64_t b_rows = b_turned ? g->m : g->k, b_cols = b_turned ? g->k : g->m;
    memset(p, 0, sizeof *p);
    enum pk_status s = describe(lib, g, fused, p, err);
    if (s == PK_OK)
        s = check(lib, lib->layout_create(&p->a, type, (uint64_t)a_rows, (uint64_t)a_cols, a_rows),
                  "layout of A", err);
    if (s == PK_OK)
        s = check(lib, lib->layout_create(&p->b, type, (uint64_t)b_rows, (uint64_t)b_cols, b_rows),
                  "layout of B", err);
    if (s == PK_OK)
        s = check(lib, lib->layout_create(&p->d, result, (uint64_t)g->n, (uint64_t)g->m, g->n),
                  "layout of D", err);
    if (s != PK_OK) plan_close(lib, p);
    return s;
}

/* --- algorithms ------------------------------------------------------------------------------ */

enum { ALIGNMENT = 16 }; // bytes that a choice may count on, whatever the node's addresses

static bool well_aligned(const struct pk_cuda_gemm *g, bool fused)
{
    const uintptr_t all =
        (uintptr_t)g->a | (uintptr_t)g->b | (uintptr_t)g->y | (fused ? (uintptr_t)g->bias : 0);
    return all % ALIGNMENT == 0;
}

static cublasStatus_t prefer(const struct pk_cublaslt *lib, cublasLtMatmulPreference_t pref,
                             uint32_t schemes, uint64_t workspace)
{
    static const cublasLtMatmulPreferenceAttributes_t ends[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint32_t alignment = ALIGNMENT;
    cublasStatus_t s =
        lib->pref_set(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lib->pref_set(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                          sizeof schemes);
    for (size_t i = 0; i < PK_COUNT(ends) && s == CUBLAS_STATUS_SUCCESS; i++)
        s = lib->pref_set(pref, ends[i], &alignment, sizeof alignment);
    return s;
}

static bool deterministic(const struct pk_cublaslt *lib, const cublasLtMatmulAlgo_t *algo)
{
    uint32_t scheme = 0;
    size_t written = 0;
    if (lib->algo_get(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme,
                      &written) != CUBLAS_STATUS_SUCCESS)
        return false;
    return scheme == CUBLASLT_REDUCTION_SCHEME_NONE ||
           scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
}

/* What the heuristic offers under a mask of reduction schemes, filtered. */
static int ask(struct pk_cublaslt *lib, const struct plan *p, cublasLtMatmulPreference_t pref,
               bool fused, int64_t workspace_bytes, struct pk_matmul_choice *out, int most)
{
    enum { OFFERS = 16 };
    cublasLtMatmulHeuristicResult_t offer[OFFERS];
    int offers = 0, n = 0;
    memset(offer, 0, sizeof offer);
    if (lib->heuristic(lib->handle, p->desc, p->a, p->b, p->d, p->d, pref, OFFERS, offer,
                       &offers) != CUBLAS_STATUS_SUCCESS)
        return 0;
    for (int i = 0; i < offers && n < most; i++) {
        if (offer[i].state != CUBLAS_STATUS_SUCCESS ||
            offer[i].workspaceSize > (size_t)workspace_bytes || !deterministic(lib, &offer[i].algo))
            continue;
        out[n] = (struct pk_matmul_choice){.library = true, .tile = -1, .fused = fused};
        out[n].workspace = (int64_t)offer[i].workspaceSize;
        memcpy(out[n].algo, &offer[i].algo, sizeof out[n].algo);
        n++;
    }
    return n;
}

int pk_cublaslt_algorithms(struct pk_cublaslt *lib, const struct pk_cuda_gemm *g, bool fused,
                           int64_t workspace_bytes, struct pk_matmul_choice *out, int most)
{
    /* The mask names the schemes that may be used beside none at all; should a version take it for
     * the schemes that must be used, the second question still gets algorithms without any. */
    static const uint32_t schemes[] = {CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
                                       CUBLASLT_REDUCTION_SCHEME_NONE};
    struct plan p;
    cublasLtMatmulPreference_t pref;
    int n = 0;
    if (!well_aligned(g, fused) || (fused && g->dtype != PK_F32)) return 0;
    if (plan_open(lib, g, fused, &p, NULL) != PK_OK) return 0;
    if (lib->pref_create(&pref) == CUBLAS_STATUS_SUCCESS) {
        for (size_t i = 0; i < PK_COUNT(schemes) && !n; i++)
            if (prefer(lib, pref, schemes[i], (uint64_t)workspace_bytes) == CUBLAS_STATUS_SUCCESS)
                n = ask(lib, &p, pref, fused, workspace_bytes, out, most);
        lib->pref_destroy(pref);
    }
    plan_close(lib, &p);
    return n;
}

enum pk_status pk_cublaslt_run(struct pk_cublaslt *lib, const struct pk_queue *q,
                               const struct pk_cuda_gemm *g, const struct pk_matmul_choice *choice,
                               void *workspace, int64_t workspace_bytes, struct pk_err *err)
{
    const float one = 1, beta = g->accumulate ? 1 : 0;
    cublasLtMatmulAlgo_t algo;
    struct plan p;
    if (!well_aligned(g, choice->fused))
        return pk_fail(err, PK_EINVAL,
                       "cuBLASLt: a matrix does not start at a multiple of %d bytes", ALIGNMENT);
    if (choice->workspace > workspace_bytes)
        return pk_fail(err, PK_EINVAL, "cuBLASLt: the algorithm needs %lld bytes of workspace",
                       (long long)choice->workspace);
    memcpy(&algo, choice->algo, sizeof algo);
    PK_TRY(plan_open(lib, g, choice->fused, &p, err));
    const cublasStatus_t s =
        lib->matmul(lib->handle, p.desc, &one, g->b, p.a, g->a, p.b, &beta, g->y, p.d, g->y, p.d,
                    &algo, workspace, (size_t)workspace_bytes, q->stream);
    plan_close(lib, &p);
    return check(lib, s, "product", err);
}
