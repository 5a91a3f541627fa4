/* fake_cublaslt.c -- a shared library with the functions of cuBLASLt that cuda/matmul_cublaslt.c
 * calls, computing on the CPU what the descriptors it was given say, in double.
 *
 * It knows nothing of how Purkinje maps its matrices, only the header's rules: column-major, D =
 * alpha op(A) op(B) + beta C, bias along the rows of D in the type of D. What the header forbids it
 * refuses: sizes of attributes, leading dimensions, extents that do not fit, alignment, workspace.
 * The heuristic also offers what must not be taken: in-place and output-type reductions, more
 * workspace than allowed, a result whose state is not success. */
#include <cublasLt.h>

#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x70757266 };
#define OK  CUBLAS_STATUS_SUCCESS
#define BAD CUBLAS_STATUS_INVALID_VALUE

struct desc {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    int32_t trans[2];
    uint32_t epilogue;
    const void *bias;
};
struct layout {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
};
struct pref {
    uint64_t workspace;
    uint32_t schemes, alignment[4];
};
struct algo {
    uint64_t magic, scheme, workspace, rest[5];
};
_Static_assert(sizeof(struct algo) == sizeof(cublasLtMatmulAlgo_t), "an algorithm");
_Static_assert(sizeof(struct desc) <= sizeof(cublasLtMatmulDescOpaque_t), "a descriptor");
_Static_assert(sizeof(struct layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "a layout");
_Static_assert(sizeof(struct pref) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "a preference");

static int handle_;

cublasStatus_t cublasLtCreate(cublasLtHandle_t *h)
{
    *h = (cublasLtHandle_t)(void *)&handle_;
    return OK;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    return (void *)h == (void *)&handle_ ? OK : BAD;
}
size_t cublasLtGetVersion(void)
{
    const char *s = getenv("FAKE_CUBLASLT_VERSION");
    return s ? (size_t)strtoul(s, NULL, 10) : CUBLAS_VERSION;
}
const char *cublasLtGetStatusString(cublasStatus_t s)
{
    return s == OK ? "success" : "the fake library refused it";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    struct desc *d = calloc(1, sizeof(cublasLtMatmulDescOpaque_t));
    if (!d) return CUBLAS_STATUS_ALLOC_FAILED;
    *d = (struct desc){.compute = compute, .scale = scale, .epilogue = CUBLASLT_EPILOGUE_DEFAULT};
    *out = (cublasLtMatmulDesc_t)(void *)d;
    return OK;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    free(d);
    return OK;
}

static cublasStatus_t put(void *to, size_t size, const void *from, size_t given)
{
    if (!from || size != given) return BAD;
    memcpy(to, from, size);
    return OK;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attr, const void *buf,
                                              size_t size)
{
    struct desc *d = (struct desc *)(void *)desc;
    switch (attr) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return put(&d->trans[0], 4, buf, size);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return put(&d->trans[1], 4, buf, size);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return put(&d->epilogue, 4, buf, size);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return put(&d->bias, sizeof d->bias, buf, size);
    default:
        return BAD;
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    struct layout *l = calloc(1, sizeof(cublasLtMatrixLayoutOpaque_t));
    if (!l) return CUBLAS_STATUS_ALLOC_FAILED;
    *l = (struct layout){type, rows, cols, ld};
    *out = (cublasLtMatrixLayout_t)(void *)l;
    return OK;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    free(l);
    return OK;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    struct pref *p = calloc(1, sizeof(cublasLtMatmulPreferenceOpaque_t));
    if (!p) return CUBLAS_STATUS_ALLOC_FAILED;
    *p = (struct pref){0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
    *out = (cublasLtMatmulPreference_t)(void *)p;
    return OK;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    free(p);
    return OK;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t attr,
                                                    const void *buf, size_t size)
{
    struct pref *p = (struct pref *)(void *)pref;
    switch (attr) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return put(&p->workspace, 8, buf, size);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return put(&p->schemes, 4, buf, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return put(&p->alignment[0], 4, buf, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return put(&p->alignment[1], 4, buf, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return put(&p->alignment[2], 4, buf, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return put(&p->alignment[3], 4, buf, size);
    default:
        return BAD;
    }
}

/* --- the product ----------------------------------------------------------------------------- */

struct problem {
    uint64_t m, n, k; // D is m x n, column-major
    const struct desc *d;
    const struct layout *a, *b, *c, *out;
};

static cublasStatus_t pose(struct problem *p, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                           cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                           cublasLtMatrixLayout_t d)
{
    const struct desc *e = (const struct desc *)(const void *)desc;
    const struct layout *la = (const struct layout *)(const void *)a,
                        *lb = (const struct layout *)(const void *)b,
                        *lc = (const struct layout *)(const void *)c,
                        *ld = (const struct layout *)(const void *)d;
    const int ta = e->trans[0] == CUBLAS_OP_T, tb = e->trans[1] == CUBLAS_OP_T;
    const struct layout *all[] = {la, lb, lc, ld};
    *p = (struct problem){ld->rows, ld->cols, ta ? la->rows : la->cols, e, la, lb, lc, ld};
    for (int i = 0; i < 4; i++)
        if (all[i]->ld < (int64_t)all[i]->rows) return BAD;
    if ((ta ? la->cols : la->rows) != p->m || (tb ? lb->rows : lb->cols) != p->n ||
        (tb ? lb->cols : lb->rows) != p->k || lc->rows != p->m || lc->cols != p->n)
        return BAD;
    if (e->compute != CUBLAS_COMPUTE_32F || e->scale != CUDA_R_32F || la->type != lb->type ||
        lc->type != ld->type)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (la->type == CUDA_R_16BF) // to bf16 or float
        return ld->type == CUDA_R_16BF || ld->type == CUDA_R_32F ? OK : CUBLAS_STATUS_NOT_SUPPORTED;
    return la->type == CUDA_R_32F && ld->type == CUDA_R_32F ? OK : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t result[],
                                              int *returned)
{
    const struct pref *pref = (const struct pref *)(const void *)preference;
    struct problem p;
    *returned = 0;
    if ((void *)h != (void *)&handle_ || requested <= 0) return BAD;
    const cublasStatus_t s = pose(&p, desc, a, b, c, d);
    if (s != OK) return s;
    for (int i = 0; i < 4; i++)
        if (pref->alignment[i] > 16) return CUBLAS_STATUS_NOT_SUPPORTED; // nothing vouches for it
    const struct {
        uint64_t scheme, workspace;
        cublasStatus_t state;
    } offers[] = {
        {CUBLASLT_REDUCTION_SCHEME_INPLACE, 4096, OK},
        {CUBLASLT_REDUCTION_SCHEME_NONE, 0, CUBLAS_STATUS_NOT_SUPPORTED},
        {CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 1 << 20, OK},
        {CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, 4096, OK},
        {CUBLASLT_REDUCTION_SCHEME_NONE, pref->workspace + 1, OK},
        {CUBLASLT_REDUCTION_SCHEME_NONE, 0, OK},
    };
    for (size_t i = 0; i < sizeof offers / sizeof *offers && *returned < requested; i++) {
        struct algo algo = {MAGIC, offers[i].scheme, offers[i].workspace, {0}};
        cublasLtMatmulHeuristicResult_t *r = &result[(*returned)++];
        memset(r, 0, sizeof *r);
        memcpy(&r->algo, &algo, sizeof algo);
        r->workspaceSize = offers[i].workspace;
        r->state = offers[i].state;
    }
    return OK;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attr,
                                                    void *buf, size_t size, size_t *written)
{
    struct algo a;
    memcpy(&a, algo, sizeof a);
    const uint32_t scheme = (uint32_t)a.scheme;
    if (attr != CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME || size != sizeof scheme || !buf) return BAD;
    memcpy(buf, &scheme, sizeof scheme);
    if (written) *written = sizeof scheme;
    return OK;
}

static double get(const void *p, cudaDataType type, uint64_t i)
{
    if (type == CUDA_R_32F) return (double)((const float *)p)[i];
    const uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static void set(void *p, cudaDataType type, uint64_t i, double value)
{
    const float x = (float)value;
    uint32_t bits;
    if (type == CUDA_R_32F) {
        ((float *)p)[i] = x;
        return;
    }
    memcpy(&bits, &x, sizeof bits);
    ((uint16_t *)p)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t la, const void *B,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *C,
                              cublasLtMatrixLayout_t lc, void *D, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream)
{
    struct problem p;
    struct algo a;
    float x = 0, y = 0;
    if ((void *)h != (void *)&handle_ || !algo) return BAD;
    memcpy(&a, algo, sizeof a);
    memcpy(&x, alpha, sizeof x);
    memcpy(&y, beta, sizeof y);
    const cublasStatus_t s = pose(&p, desc, la, lb, lc, ld);
    if (s != OK) return s;
    const uintptr_t ends = (uintptr_t)A | (uintptr_t)B | (uintptr_t)C | (uintptr_t)D;
    if (a.magic != MAGIC || a.workspace > workspace_bytes || (a.workspace && !workspace) ||
        ends % 16)
        return BAD;
    const int bias = p.d->epilogue == CUBLASLT_EPILOGUE_BIAS;
    if ((!bias && p.d->epilogue != CUBLASLT_EPILOGUE_DEFAULT) || (bias && !p.d->bias)) return BAD;
    if (cudaStreamSynchronize(stream) != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
    const int ta = p.d->trans[0] == CUBLAS_OP_T, tb = p.d->trans[1] == CUBLAS_OP_T;
    for (uint64_t j = 0; j < p.n; j++)
        for (uint64_t i = 0; i < p.m; i++) {
            double sum = 0;
            for (uint64_t k = 0; k < p.k; k++)
                sum +=
                    get(A, p.a->type, ta ? k + i * (uint64_t)p.a->ld : i + k * (uint64_t)p.a->ld) *
                    get(B, p.b->type, tb ? j + k * (uint64_t)p.b->ld : k + j * (uint64_t)p.b->ld);
            sum *= (double)x;
            if (y != 0) sum += (double)y * get(C, p.c->type, i + j * (uint64_t)p.c->ld);
            if (bias) sum += get(p.d->bias, p.out->type, i);
            set(D, p.out->type, i + j * (uint64_t)p.out->ld, sum);
        }
    return OK;
}
