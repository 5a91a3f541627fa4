/* conv_cudnn.c -- convolutions by cuDNN 9, loaded at run time; the only file that sees its header.
 *
 * Of its two interfaces this is the older one, by descriptors of tensor, filter and convolution.
 * The header calls it deprecated; version 9 has it whole. It is taken because what a run must keep
 * is then one number: an algorithm with a name, documented to be deterministic or not, where the
 * graph interface has engines with knobs that differ from release to release.
 *
 * Algorithms: forward the three that multiply matrices (implicit, implicit with precomputed
 * indices, explicit), ALGO_1 backwards; and of those only what the heuristic marks deterministic.
 * ALGO_0 of both gradients and ALGO_3 of the filter's add atomically. Those by Fourier or Winograd
 * transforms round differently and gain nothing where the image is one row high.
 *
 * Multiplying: float by CUDNN_FMA_MATH, which excludes TF32; float that holds bf16 numbers by
 * CUDNN_DEFAULT_MATH, which includes it, exactly; bf16 by CUDNN_TENSOR_OP_MATH, which does not
 * convert operands. Sums are always float (the convolution's compute type). beta = 1 adds to the
 * output in float and rounds once, as the own kernels do. */
#include "cuda/conv.h"
#include "cuda/library.h"

#include <cudnn.h>

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* Functions of the library: X(field, symbol). Their types are the header's. */
#define FUNCTIONS(X)                                                                               \
    X(create, cudnnCreate)                                                                         \
    X(destroy, cudnnDestroy)                                                                       \
    X(version, cudnnGetVersion)                                                                    \
    X(status_text, cudnnGetErrorString)                                                            \
    X(set_stream, cudnnSetStream)                                                                  \
    X(tensor_create, cudnnCreateTensorDescriptor)                                                  \
    X(tensor_set, cudnnSetTensor4dDescriptor)                                                      \
    X(tensor_destroy, cudnnDestroyTensorDescriptor)                                                \
    X(filter_create, cudnnCreateFilterDescriptor)                                                  \
    X(filter_set, cudnnSetFilter4dDescriptor)                                                      \
    X(filter_destroy, cudnnDestroyFilterDescriptor)                                                \
    X(conv_create, cudnnCreateConvolutionDescriptor)                                               \
    X(conv_set, cudnnSetConvolution2dDescriptor)                                                   \
    X(conv_groups, cudnnSetConvolutionGroupCount)                                                  \
    X(conv_math, cudnnSetConvolutionMathType)                                                      \
    X(conv_destroy, cudnnDestroyConvolutionDescriptor)                                             \
    X(output_dim, cudnnGetConvolution2dForwardOutputDim)                                           \
    X(forward_algorithms, cudnnGetConvolutionForwardAlgorithm_v7)                                  \
    X(dx_algorithms, cudnnGetConvolutionBackwardDataAlgorithm_v7)                                  \
    X(dw_algorithms, cudnnGetConvolutionBackwardFilterAlgorithm_v7)                                \
    X(forward_workspace, cudnnGetConvolutionForwardWorkspaceSize)                                  \
    X(dx_workspace, cudnnGetConvolutionBackwardDataWorkspaceSize)                                  \
    X(dw_workspace, cudnnGetConvolutionBackwardFilterWorkspaceSize)                                \
    X(forward, cudnnConvolutionForward)                                                            \
    X(dx, cudnnConvolutionBackwardData)                                                            \
    X(dw, cudnnConvolutionBackwardFilter)

struct pk_cudnn {
    void *file;
    cudnnHandle_t handle; // NULL: not started
#define X(field, symbol) __typeof__(&(symbol)) field;
    FUNCTIONS(X)
#undef X
};

struct pk_cudnn_plan {
    const struct pk_cudnn *lib;
    enum pk_op op;
    cudnnTensorDescriptor_t x, y;
    cudnnFilterDescriptor_t w;
    cudnnConvolutionDescriptor_t conv;
};

/* --- loading --------------------------------------------------------------------------------- */

static enum pk_status find(void *file, const char *symbol, void *function, struct pk_err *err)
{
    return pk_library_find(file, "cuDNN", "it is not a usable version", symbol, function, err);
}

static enum pk_status load(struct pk_cudnn *lib, struct pk_err *err)
{
    const char *name = getenv("PURKINJE_CUDNN");
    if (!name || !*name) name = "libcudnn.so.9";
    lib->file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!lib->file) {
        const char *why = dlerror(); // lives until the next dlopen
        const enum pk_status s = pk_fail(err, PK_EMISSING, "cuDNN: %s", why ? why : name);
        void *old = dlopen("libcudnn.so.8", RTLD_LAZY | RTLD_LOCAL);
        if (!old) return s;
        dlclose(old);
        return pk_fail(err, PK_EMISSING, "cuDNN: found version 8, but version %d is needed",
                       CUDNN_MAJOR);
    }
#define X(field, symbol) PK_TRY(find(lib->file, #symbol, &lib->field, err));
    FUNCTIONS(X)
#undef X
    const size_t version = lib->version();
    if (version / 10000 == CUDNN_MAJOR) return PK_OK;
    return pk_fail(err, PK_EMISSING, "cuDNN: %s is version %zu, but %d is needed", name,
                   version < 10000 ? version / 1000 : version / 10000, CUDNN_MAJOR);
}

enum pk_status pk_cudnn_load(struct pk_cudnn **out, struct pk_err *err)
{
    struct pk_cudnn *lib;
    *out = NULL;
    PK_TRY(pk_alloc(&lib, 1, sizeof *lib, "cuDNN", err));
    const enum pk_status s = load(lib, err);
    if (s != PK_OK)
        pk_cudnn_close(lib);
    else
        *out = lib;
    return s;
}

enum pk_status pk_cudnn_start(struct pk_cudnn *lib, const struct pk_queue *q, struct pk_err *err)
{
    cudnnStatus_t s = lib->create(&lib->handle);
    if (s != CUDNN_STATUS_SUCCESS)
        lib->handle = NULL;
    else
        s = lib->set_stream(lib->handle, q->stream);
    if (s == CUDNN_STATUS_SUCCESS) return PK_OK;
    return pk_fail(err, PK_EMISSING, "cuDNN cannot start: %s", lib->status_text(s));
}

void pk_cudnn_close(struct pk_cudnn *lib)
{
    if (!lib) return;
    if (lib->handle) lib->destroy(lib->handle);
    if (lib->file) dlclose(lib->file);
    free(lib);
}

int64_t pk_cudnn_version(const struct pk_cudnn *lib)
{
    return lib ? (int64_t)lib->version() : 0;
}

/* --- descriptors ----------------------------------------------------------------------------- */

static enum pk_status check(const struct pk_cudnn *lib, cudnnStatus_t s, const char *what,
                            struct pk_err *err)
{
    if (s == CUDNN_STATUS_SUCCESS) return PK_OK;
    return pk_fail(err, PK_EDEVICE, "cuDNN, %s: %s", what, lib->status_text(s));
}

static enum pk_status describe_tensors(struct pk_cudnn_plan *p, const struct pk_conv_shape *s,
                                       struct pk_err *err)
{
    const struct pk_cudnn *lib = p->lib;
    const cudnnDataType_t type = s->dtype == PK_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    PK_TRY(check(lib, lib->tensor_create(&p->x), "tensor", err));
    PK_TRY(check(lib, lib->tensor_create(&p->y), "tensor", err));
    PK_TRY(check(lib, lib->filter_create(&p->w), "filter", err));
    PK_TRY(check(lib,
                 lib->tensor_set(p->x, CUDNN_TENSOR_NHWC, type, s->batch, s->channels, 1, s->time),
                 "tensor x", err));
    PK_TRY(check(lib,
                 lib->tensor_set(p->y, CUDNN_TENSOR_NHWC, type, s->batch, s->filters, 1, s->out),
                 "tensor y", err));
    return check(lib,
                 lib->filter_set(p->w, type, CUDNN_TENSOR_NHWC, s->filters, s->channels / s->groups,
                                 1, s->kernel),
                 "filter", err);
}

static enum pk_status describe_conv(struct pk_cudnn_plan *p, const struct pk_conv_shape *s,
                                    struct pk_err *err)
{
    const struct pk_cudnn *lib = p->lib;
    const cudnnMathType_t math = s->dtype == PK_BF16 ? CUDNN_TENSOR_OP_MATH
                                 : s->widened        ? CUDNN_DEFAULT_MATH
                                                     : CUDNN_FMA_MATH;
    int n, c, h, w;
    PK_TRY(check(lib, lib->conv_create(&p->conv), "convolution", err));
    PK_TRY(check(lib,
                 lib->conv_set(p->conv, 0, s->pad, 1, s->stride, 1, 1, CUDNN_CROSS_CORRELATION,
                               CUDNN_DATA_FLOAT),
                 "convolution", err));
    PK_TRY(check(lib, lib->conv_groups(p->conv, s->groups), "groups", err));
    PK_TRY(check(lib, lib->conv_math(p->conv, math), "arithmetic", err));
    PK_TRY(check(lib, lib->output_dim(p->conv, p->x, p->w, &n, &c, &h, &w), "output", err));
    if (n == s->batch && c == s->filters && h == 1 && w == s->out) return PK_OK;
    return pk_fail(err, PK_ESHAPE,
                   "cuDNN: its output is [%d, %d, %d, %d], where ours is [%d, 1, %d, %d]", n, h, w,
                   c, s->batch, s->out, s->filters);
}

enum pk_status pk_cudnn_plan_open(struct pk_cudnn_plan **out, struct pk_cudnn *lib,
                                  const struct pk_conv_shape *shape, struct pk_err *err)
{
    struct pk_cudnn_plan *p;
    *out = NULL;
    PK_TRY(pk_alloc(&p, 1, sizeof *p, "cuDNN descriptors", err));
    p->lib = lib, p->op = shape->op;
    enum pk_status s = describe_tensors(p, shape, err);
    if (s == PK_OK) s = describe_conv(p, shape, err);
    if (s != PK_OK)
        pk_cudnn_plan_close(p);
    else
        *out = p;
    return s;
}

void pk_cudnn_plan_close(struct pk_cudnn_plan *p)
{
    if (!p) return;
    if (p->x) p->lib->tensor_destroy(p->x);
    if (p->y) p->lib->tensor_destroy(p->y);
    if (p->w) p->lib->filter_destroy(p->w);
    if (p->conv) p->lib->conv_destroy(p->conv);
    free(p);
}

/* --- algorithms ------------------------------------------------------------------------------ */

/* One line of the heuristic's answer, whatever the pass. */
struct offer {
    int algorithm;
    cudnnStatus_t status;
    cudnnDeterminism_t determinism;
    cudnnMathType_t math;
};
enum { OFFERS = 8 };

#define COLLECT(perf)                                                                              \
    for (int i = 0; i < n && i < OFFERS; i++) out[i] = (struct offer)                              \
        {                                                                                          \
            (int)(perf)[i].algo, (perf)[i].status, (perf)[i].determinism, (perf)[i].mathType       \
        }

/* The heuristic's answer for the plan's pass; how many lines. */
static int ask(const struct pk_cudnn_plan *p, struct offer out[OFFERS])
{
    const struct pk_cudnn *lib = p->lib;
    cudnnStatus_t s;
    int n = 0;
    if (p->op == PK_OP_CONV1D) {
        cudnnConvolutionFwdAlgoPerf_t perf[OFFERS];
        s = lib->forward_algorithms(lib->handle, p->x, p->w, p->conv, p->y, OFFERS, &n, perf);
        if (s == CUDNN_STATUS_SUCCESS) COLLECT(perf);
    } else if (p->op == PK_OP_CONV1D_DX) {
        cudnnConvolutionBwdDataAlgoPerf_t perf[OFFERS];
        s = lib->dx_algorithms(lib->handle, p->w, p->y, p->conv, p->x, OFFERS, &n, perf);
        if (s == CUDNN_STATUS_SUCCESS) COLLECT(perf);
    } else {
        cudnnConvolutionBwdFilterAlgoPerf_t perf[OFFERS];
        s = lib->dw_algorithms(lib->handle, p->x, p->y, p->conv, p->w, OFFERS, &n, perf);
        if (s == CUDNN_STATUS_SUCCESS) COLLECT(perf);
    }
    return s == CUDNN_STATUS_SUCCESS ? PK_MIN(n, OFFERS) : 0;
}

static bool known(enum pk_op op, int algorithm)
{
    if (op == PK_OP_CONV1D)
        return algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM ||
               algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM ||
               algorithm == CUDNN_CONVOLUTION_FWD_ALGO_GEMM;
    return algorithm == (op == PK_OP_CONV1D_DX ? (int)CUDNN_CONVOLUTION_BWD_DATA_ALGO_1
                                               : (int)CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1);
}

/* Bytes that an algorithm needs under the plan's arithmetic; the library's status. */
static cudnnStatus_t need(const struct pk_cudnn_plan *p, int algorithm, size_t *bytes)
{
    const struct pk_cudnn *lib = p->lib;
    if (p->op == PK_OP_CONV1D)
        return lib->forward_workspace(lib->handle, p->x, p->w, p->conv, p->y,
                                      (cudnnConvolutionFwdAlgo_t)algorithm, bytes);
    if (p->op == PK_OP_CONV1D_DX)
        return lib->dx_workspace(lib->handle, p->w, p->y, p->conv, p->x,
                                 (cudnnConvolutionBwdDataAlgo_t)algorithm, bytes);
    return lib->dw_workspace(lib->handle, p->x, p->y, p->conv, p->w,
                             (cudnnConvolutionBwdFilterAlgo_t)algorithm, bytes);
}

int pk_cudnn_algorithms(const struct pk_cudnn_plan *p, int64_t workspace_bytes,
                        struct pk_conv_choice *out, int most)
{
    struct offer offer[OFFERS];
    const int offers = ask(p, offer);
    int n = 0;
    for (int i = 0; i < offers && n < most; i++) {
        size_t bytes = 0;
        bool seen = false; // an algorithm may be listed once for each arithmetic
        for (int k = 0; k < n; k++) seen = seen || out[k].algorithm == offer[i].algorithm;
        if (seen || offer[i].status != CUDNN_STATUS_SUCCESS || !known(p->op, offer[i].algorithm) ||
            offer[i].determinism != CUDNN_DETERMINISTIC ||
            offer[i].math == CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION)
            continue;
        /* The plan's arithmetic is asked for, not the line's: what it cannot do, it says here. */
        if (need(p, offer[i].algorithm, &bytes) != CUDNN_STATUS_SUCCESS ||
            bytes > (size_t)workspace_bytes)
            continue;
        out[n++] = (struct pk_conv_choice){
            .library = true, .algorithm = offer[i].algorithm, .workspace = (int64_t)bytes};
    }
    return n;
}

enum pk_status pk_cudnn_run(const struct pk_cudnn_plan *p, int algorithm, const void *a,
                            const void *b, void *to, bool add, void *workspace,
                            int64_t workspace_bytes, struct pk_err *err)
{
    const struct pk_cudnn *lib = p->lib;
    const float one = 1, beta = add ? 1 : 0;
    const size_t bytes = (size_t)workspace_bytes;
    if (p->op == PK_OP_CONV1D)
        return check(lib,
                     lib->forward(lib->handle, &one, p->x, a, p->w, b, p->conv,
                                  (cudnnConvolutionFwdAlgo_t)algorithm, workspace, bytes, &beta,
                                  p->y, to),
                     "forward", err);
    if (p->op == PK_OP_CONV1D_DX)
        return check(lib,
                     lib->dx(lib->handle, &one, p->w, b, p->y, a, p->conv,
                             (cudnnConvolutionBwdDataAlgo_t)algorithm, workspace, bytes, &beta,
                             p->x, to),
                     "input gradient", err);
    return check(lib,
                 lib->dw(lib->handle, &one, p->x, b, p->y, a, p->conv,
                         (cudnnConvolutionBwdFilterAlgo_t)algorithm, workspace, bytes, &beta, p->w,
                         to),
                 "weight gradient", err);
}
