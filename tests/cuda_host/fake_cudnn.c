/* fake_cudnn.c -- a shared library with the functions of cuDNN 9 that cuda/conv_cudnn.c calls,
 * which computes on the CPU what the descriptors say, in double.
 *
 * It knows nothing of records over time, only the header's rules: images of any height in NHWC,
 * filters KRSC, cross-correlation with groups. What the library refuses it refuses: descriptors
 * that were not set or do not fit each other, types that differ, sums that are not float, a handle
 * without its stream, addresses that are not aligned, too little workspace, an algorithm that the
 * layout or the arithmetic does not have. Work is enqueued on the stream, so that it can be
 * captured, and fills its workspace with rubbish. Float operands are cut to TF32 unless the
 * arithmetic is FMA.
 *
 * The heuristic also offers what must not be taken: sums by atomics, transforms, an algorithm that
 * is not supported, one that needs a gigabyte, and one algorithm once for each arithmetic.
 *
 * For tests: fake_cudnn_runs() counts convolutions that were computed, fake_cudnn_live() handles
 * and descriptors that were not destroyed; FAKE_CUDNN_TELL=1 writes the former when the library is
 * left. FAKE_CUDNN_VERSION is another version; FAKE_CUDNN_REFUSE=run refuses every run, =start
 * every handle. */
#include <cudnn.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK          CUDNN_STATUS_SUCCESS
#define BAD         CUDNN_STATUS_BAD_PARAM
#define UNSUPPORTED CUDNN_STATUS_NOT_SUPPORTED

enum magic { HANDLE = 0x48414e44, TENSOR = 0x54454e53, FILTER = 0x46494c54, CONV = 0x434f4e56 };
enum { GIGABYTE = 1 << 30 };

struct cudnnContext {
    enum magic magic;
    cudaStream_t stream;
    bool has_stream;
};
struct cudnnTensorStruct {
    enum magic magic;
    bool set;
    cudnnTensorFormat_t format;
    cudnnDataType_t type;
    int n, c, h, w;
};
struct cudnnFilterStruct {
    enum magic magic;
    bool set;
    cudnnTensorFormat_t format;
    cudnnDataType_t type;
    int k, c, h, w;
};
struct cudnnConvolutionStruct {
    enum magic magic;
    bool set;
    int pad[2], stride[2], groups;
    cudnnDataType_t compute;
    cudnnMathType_t math;
};

static int live_, runs_;
int fake_cudnn_live(void);
int fake_cudnn_runs(void);
int fake_cudnn_live(void)
{
    return live_;
}
int fake_cudnn_runs(void)
{
    return runs_;
}

static bool refuses(const char *what)
{
    const char *s = getenv("FAKE_CUDNN_REFUSE");
    return s && !strcmp(s, what);
}

size_t cudnnGetVersion(void)
{
    const char *s = getenv("FAKE_CUDNN_VERSION");
    return s ? (size_t)strtoul(s, NULL, 10) : CUDNN_VERSION;
}
const char *cudnnGetErrorString(cudnnStatus_t s)
{
    return s == OK ? "success" : "the fake library refused it";
}

/* --- handles and descriptors ----------------------------------------------------------------- */

static cudnnStatus_t make(void *out, size_t size, enum magic magic)
{
    void *p = out ? calloc(1, size) : NULL;
    if (!p) return BAD;
    memcpy(p, &magic, sizeof magic);
    memcpy(out, &p, sizeof p);
    live_++;
    return OK;
}

static cudnnStatus_t destroy(void *p, enum magic magic)
{
    if (!p || memcmp(p, &magic, sizeof magic) != 0) return BAD;
    free(p);
    live_--;
    return OK;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    return refuses("start") ? CUDNN_STATUS_NOT_INITIALIZED : make(h, sizeof **h, HANDLE);
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
    return destroy(h, HANDLE);
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t stream)
{
    if (!h || h->magic != HANDLE) return BAD;
    h->stream = stream, h->has_stream = true;
    return OK;
}

static bool fits(int n, int c, int h, int w)
{
    return n > 0 && c > 0 && h > 0 && w > 0 && (double)n * c * h * w < 2147483648.0;
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *t)
{
    return make(t, sizeof **t, TENSOR);
}
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t t)
{
    return destroy(t, TENSOR);
}
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t t, cudnnTensorFormat_t format,
                                         cudnnDataType_t type, int n, int c, int h, int w)
{
    if (!t || t->magic != TENSOR || !fits(n, c, h, w)) return BAD;
    *t = (struct cudnnTensorStruct){TENSOR, true, format, type, n, c, h, w};
    return OK;
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *f)
{
    return make(f, sizeof **f, FILTER);
}
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t f)
{
    return destroy(f, FILTER);
}
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t f, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int k, int c, int h, int w)
{
    if (!f || f->magic != FILTER || !fits(k, c, h, w)) return BAD;
    *f = (struct cudnnFilterStruct){FILTER, true, format, type, k, c, h, w};
    return OK;
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *c)
{
    const cudnnStatus_t s = make(c, sizeof **c, CONV);
    if (s == OK) (*c)->groups = 1, (*c)->math = CUDNN_DEFAULT_MATH;
    return s;
}
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t c)
{
    return destroy(c, CONV);
}
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t c, int pad_h, int pad_w,
                                              int u, int v, int dilation_h, int dilation_w,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t compute)
{
    if (!c || c->magic != CONV || pad_h < 0 || pad_w < 0 || u < 1 || v < 1 || dilation_h < 1 ||
        dilation_w < 1)
        return BAD;
    if (dilation_h > 1 || dilation_w > 1 || mode != CUDNN_CROSS_CORRELATION) return UNSUPPORTED;
    c->pad[0] = pad_h, c->pad[1] = pad_w, c->stride[0] = u, c->stride[1] = v;
    c->compute = compute, c->set = true;
    return OK;
}
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t c, int groups)
{
    if (!c || c->magic != CONV || groups < 1) return BAD;
    c->groups = groups;
    return OK;
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t c, cudnnMathType_t math)
{
    if (!c || c->magic != CONV || math < CUDNN_DEFAULT_MATH || math > CUDNN_FMA_MATH) return BAD;
    c->math = math;
    return OK;
}

cudnnStatus_t cudnnGetConvolution2dForwardOutputDim(const cudnnConvolutionDescriptor_t c,
                                                    const cudnnTensorDescriptor_t x,
                                                    const cudnnFilterDescriptor_t w, int *n,
                                                    int *channels, int *height, int *width)
{
    if (!c || !c->set || !x || !x->set || !w || !w->set || x->c != w->c * c->groups ||
        w->k % c->groups)
        return BAD;
    const int room_h = x->h + 2 * c->pad[0] - w->h, room_w = x->w + 2 * c->pad[1] - w->w;
    if (room_h < 0 || room_w < 0) return BAD;
    *n = x->n, *channels = w->k;
    *height = room_h / c->stride[0] + 1, *width = room_w / c->stride[1] + 1;
    return OK;
}

/* --- what is supported ----------------------------------------------------------------------- */

enum pass { FORWARD, DX, DW };

struct problem {
    enum pass pass;
    struct cudnnTensorStruct x, y;
    struct cudnnFilterStruct w;
    struct cudnnConvolutionStruct conv;
    const void *a, *b; // x and w; dy and w; x and dy
    void *to, *workspace;
    size_t workspace_bytes;
    double alpha, beta;
    struct problem *next;
};

static cudnnStatus_t pose(struct problem *p, enum pass pass, cudnnHandle_t h,
                          const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t w,
                          const cudnnConvolutionDescriptor_t conv, const cudnnTensorDescriptor_t y)
{
    int n, c, height, width;
    memset(p, 0, sizeof *p);
    if (!h || h->magic != HANDLE || !h->has_stream) return BAD;
    if (!x || x->magic != TENSOR || !y || y->magic != TENSOR || !y->set || !w ||
        w->magic != FILTER || !conv || conv->magic != CONV)
        return BAD;
    const cudnnStatus_t s =
        cudnnGetConvolution2dForwardOutputDim(conv, x, w, &n, &c, &height, &width);
    if (s != OK) return s;
    if (n != y->n || c != y->c || height != y->h || width != y->w) return BAD;
    if (x->type != w->type || x->type != y->type || conv->compute != CUDNN_DATA_FLOAT ||
        (x->type != CUDNN_DATA_FLOAT && x->type != CUDNN_DATA_BFLOAT16) ||
        x->format != CUDNN_TENSOR_NHWC || w->format != CUDNN_TENSOR_NHWC ||
        y->format != CUDNN_TENSOR_NHWC)
        return UNSUPPORTED;
    if (x->type == CUDNN_DATA_BFLOAT16 && conv->math == CUDNN_FMA_MATH) return UNSUPPORTED;
    *p = (struct problem){.pass = pass, .x = *x, .y = *y, .w = *w, .conv = *conv};
    return OK;
}

/* Bytes that an algorithm needs; those by transforms do not take NHWC. */
static cudnnStatus_t need(enum pass pass, int algorithm, size_t *bytes)
{
    if (!bytes) return BAD;
    if (pass == FORWARD && algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM)
        *bytes = 0;
    else if (pass == FORWARD && algorithm == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM)
        *bytes = 4100;
    else if (pass == FORWARD && algorithm == CUDNN_CONVOLUTION_FWD_ALGO_GEMM)
        *bytes = GIGABYTE;
    else if (pass == DX && algorithm <= CUDNN_CONVOLUTION_BWD_DATA_ALGO_1)
        *bytes = 8192;
    else if (pass == DW && (algorithm <= CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1 ||
                            algorithm == CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3))
        *bytes = 10000;
    else
        return UNSUPPORTED;
    return OK;
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(
    cudnnHandle_t h, const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t w,
    const cudnnConvolutionDescriptor_t conv, const cudnnTensorDescriptor_t y,
    cudnnConvolutionFwdAlgo_t algorithm, size_t *bytes)
{
    struct problem p;
    const cudnnStatus_t s = pose(&p, FORWARD, h, x, w, conv, y);
    return s == OK ? need(FORWARD, (int)algorithm, bytes) : s;
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(
    cudnnHandle_t h, const cudnnFilterDescriptor_t w, const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t conv, const cudnnTensorDescriptor_t dx,
    cudnnConvolutionBwdDataAlgo_t algorithm, size_t *bytes)
{
    struct problem p;
    const cudnnStatus_t s = pose(&p, DX, h, dx, w, conv, dy);
    return s == OK ? need(DX, (int)algorithm, bytes) : s;
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(
    cudnnHandle_t h, const cudnnTensorDescriptor_t x, const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t conv, const cudnnFilterDescriptor_t dw,
    cudnnConvolutionBwdFilterAlgo_t algorithm, size_t *bytes)
{
    struct problem p;
    const cudnnStatus_t s = pose(&p, DW, h, x, dw, conv, dy);
    return s == OK ? need(DW, (int)algorithm, bytes) : s;
}

struct offer {
    int algorithm;
    cudnnStatus_t status;
    cudnnDeterminism_t determinism;
};
static const struct offer forward_offers[] = {
    {CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING, OK, CUDNN_DETERMINISTIC},
    {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, UNSUPPORTED, CUDNN_DETERMINISTIC},
    {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, OK, CUDNN_DETERMINISTIC},
    {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, OK, CUDNN_DETERMINISTIC},
    {CUDNN_CONVOLUTION_FWD_ALGO_GEMM, OK, CUDNN_DETERMINISTIC},
    {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, OK, CUDNN_DETERMINISTIC},
};
static const struct offer dx_offers[] = {
    {CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, OK, CUDNN_NON_DETERMINISTIC},
    {CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, OK, CUDNN_NON_DETERMINISTIC},
    {CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD, OK, CUDNN_DETERMINISTIC},
    {CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, OK, CUDNN_DETERMINISTIC},
};
static const struct offer dw_offers[] = {
    {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, OK, CUDNN_DETERMINISTIC},
    {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3, OK, CUDNN_NON_DETERMINISTIC},
    {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, OK, CUDNN_DETERMINISTIC},
};

/* The three answers differ in their types only. */
#define ANSWER(list, Algorithm)                                                                    \
    if (s != OK) return s;                                                                         \
    if (most < 1 || !returned || !perf) return BAD;                                                \
    *returned = 0;                                                                                 \
    for (size_t i = 0; i < sizeof(list) / sizeof *(list) && *returned < most; i++) {               \
        memset(&perf[*returned], 0, sizeof *perf);                                                 \
        perf[*returned].algo = (Algorithm)(list)[i].algorithm;                                     \
        perf[*returned].status = (list)[i].status;                                                 \
        perf[*returned].determinism = (list)[i].determinism;                                       \
        perf[(*returned)++].mathType = i % 2 ? CUDNN_DEFAULT_MATH : conv->math;                    \
    }                                                                                              \
    return OK

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(
    cudnnHandle_t h, const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t w,
    const cudnnConvolutionDescriptor_t conv, const cudnnTensorDescriptor_t y, const int most,
    int *returned, cudnnConvolutionFwdAlgoPerf_t *perf)
{
    struct problem p;
    const cudnnStatus_t s = pose(&p, FORWARD, h, x, w, conv, y);
    ANSWER(forward_offers, cudnnConvolutionFwdAlgo_t);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(
    cudnnHandle_t h, const cudnnFilterDescriptor_t w, const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t conv, const cudnnTensorDescriptor_t dx, const int most,
    int *returned, cudnnConvolutionBwdDataAlgoPerf_t *perf)
{
    struct problem p;
    const cudnnStatus_t s = pose(&p, DX, h, dx, w, conv, dy);
    ANSWER(dx_offers, cudnnConvolutionBwdDataAlgo_t);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(
    cudnnHandle_t h, const cudnnTensorDescriptor_t x, const cudnnTensorDescriptor_t dy,
    const cudnnConvolutionDescriptor_t conv, const cudnnFilterDescriptor_t dw, const int most,
    int *returned, cudnnConvolutionBwdFilterAlgoPerf_t *perf)
{
    struct problem p;
    const cudnnStatus_t s = pose(&p, DW, h, x, dw, conv, dy);
    ANSWER(dw_offers, cudnnConvolutionBwdFilterAlgo_t);
}

/* --- computing ------------------------------------------------------------------------------- */

static double get(const struct problem *p, const void *from, int64_t i)
{
    float v;
    uint32_t bits;
    if (p->x.type == CUDNN_DATA_BFLOAT16) {
        bits = (uint32_t)((const uint16_t *)from)[i] << 16;
    } else {
        memcpy(&bits, (const float *)from + i, sizeof bits);
        if (p->conv.math != CUDNN_FMA_MATH) bits &= 0xffffe000u; // TF32 has 10 bits of mantissa
    }
    memcpy(&v, &bits, sizeof v);
    return (double)v;
}

/* to[i] = alpha sum + beta to[i], rounded once. */
static void put(const struct problem *p, int64_t i, double sum)
{
    const bool low = p->x.type == CUDNN_DATA_BFLOAT16;
    double old = 0;
    uint32_t bits;
    if (p->beta != 0 && low) old = get(p, p->to, i);
    if (p->beta != 0 && !low) old = (double)((const float *)p->to)[i];
    const float v = (float)(p->alpha * sum + p->beta * old);
    memcpy(&bits, &v, sizeof bits);
    if (low)
        ((uint16_t *)p->to)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    else
        ((float *)p->to)[i] = v;
}

/* Elements of x, w and y that tap (r, s) of channel c of filter k joins at output (n, i, j); false
 * in the padding. */
static bool join(const struct problem *p, int n, int i, int j, int k, int c, int r, int s,
                 int64_t at[3])
{
    const int h = i * p->conv.stride[0] + r - p->conv.pad[0];
    const int w = j * p->conv.stride[1] + s - p->conv.pad[1];
    const int channel = k / (p->w.k / p->conv.groups) * p->w.c + c;
    if (h < 0 || h >= p->x.h || w < 0 || w >= p->x.w) return false;
    at[0] = (((int64_t)n * p->x.h + h) * p->x.w + w) * p->x.c + channel;
    at[1] = (((int64_t)k * p->w.h + r) * p->w.w + s) * p->w.c + c;
    at[2] = (((int64_t)n * p->y.h + i) * p->y.w + j) * p->y.c + k;
    return true;
}

static void add_terms(const struct problem *p, double *sum, int n, int i, int j, int k)
{
    int64_t at[3];
    for (int c = 0; c < p->w.c; c++)
        for (int r = 0; r < p->w.h; r++)
            for (int s = 0; s < p->w.w; s++) {
                if (!join(p, n, i, j, k, c, r, s, at)) continue;
                if (p->pass == FORWARD) sum[at[2]] += get(p, p->a, at[0]) * get(p, p->b, at[1]);
                if (p->pass == DX) sum[at[0]] += get(p, p->a, at[2]) * get(p, p->b, at[1]);
                if (p->pass == DW) sum[at[1]] += get(p, p->a, at[0]) * get(p, p->b, at[2]);
            }
}

static void CUDART_CB compute(void *user)
{
    const struct problem *p = user;
    const int64_t counts[] = {(int64_t)p->y.n * p->y.h * p->y.w * p->y.c,
                              (int64_t)p->x.n * p->x.h * p->x.w * p->x.c,
                              (int64_t)p->w.k * p->w.h * p->w.w * p->w.c};
    const int64_t count = counts[p->pass];
    double *sum = calloc((size_t)count, sizeof *sum);
    if (p->workspace_bytes) memset(p->workspace, 0xa5, p->workspace_bytes);
    if (!sum) return; // the output stays as it is, and the test fails
    for (int n = 0; n < p->y.n; n++)
        for (int i = 0; i < p->y.h; i++)
            for (int j = 0; j < p->y.w; j++)
                for (int k = 0; k < p->w.k; k++) add_terms(p, sum, n, i, j, k);
    for (int64_t i = 0; i < count; i++) put(p, i, sum[i]);
    free(sum);
    runs_++;
}

/* A graph may run its work any number of times, so problems live as long as the library. */
static struct problem *all_;
__attribute__((destructor)) static void forget(void)
{
    if (getenv("FAKE_CUDNN_TELL")) fprintf(stderr, "fake cuDNN: %d convolutions\n", runs_);
    while (all_) {
        struct problem *next = all_->next;
        free(all_);
        all_ = next;
    }
}

static cudnnStatus_t enqueue(struct problem *p, cudnnHandle_t h, int algorithm, const void *alpha,
                             const void *beta)
{
    float scale[2];
    size_t bytes = 0;
    const cudnnStatus_t s = need(p->pass, algorithm, &bytes);
    if (s != OK) return s;
    if (refuses("run")) return UNSUPPORTED;
    if (!alpha || !beta || !p->a || !p->b || !p->to || p->to == p->a || p->to == p->b) return BAD;
    if (((uintptr_t)p->a | (uintptr_t)p->b | (uintptr_t)p->to | (uintptr_t)p->workspace) % 16)
        return CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER;
    if (p->workspace_bytes < bytes || (bytes && !p->workspace))
        return CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT;
    memcpy(&scale[0], alpha, sizeof *scale);
    memcpy(&scale[1], beta, sizeof *scale);
    struct problem *kept = malloc(sizeof *kept);
    if (!kept) return CUDNN_STATUS_ALLOC_FAILED;
    *kept = *p;
    kept->alpha = (double)scale[0], kept->beta = (double)scale[1];
    kept->workspace_bytes = bytes; // no more than it asked for
    kept->next = all_, all_ = kept;
    return cudaLaunchHostFunc(h->stream, compute, kept) == cudaSuccess
               ? OK
               : CUDNN_STATUS_EXECUTION_FAILED;
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t h, const void *alpha,
                                      const cudnnTensorDescriptor_t xd, const void *x,
                                      const cudnnFilterDescriptor_t wd, const void *w,
                                      const cudnnConvolutionDescriptor_t conv,
                                      cudnnConvolutionFwdAlgo_t algorithm, void *workspace,
                                      size_t workspace_bytes, const void *beta,
                                      const cudnnTensorDescriptor_t yd, void *y)
{
    struct problem p;
    const cudnnStatus_t s = pose(&p, FORWARD, h, xd, wd, conv, yd);
    p.a = x, p.b = w, p.to = y, p.workspace = workspace, p.workspace_bytes = workspace_bytes;
    return s == OK ? enqueue(&p, h, (int)algorithm, alpha, beta) : s;
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t h, const void *alpha,
                                           const cudnnFilterDescriptor_t wd, const void *w,
                                           const cudnnTensorDescriptor_t dyd, const void *dy,
                                           const cudnnConvolutionDescriptor_t conv,
                                           cudnnConvolutionBwdDataAlgo_t algorithm, void *workspace,
                                           size_t workspace_bytes, const void *beta,
                                           const cudnnTensorDescriptor_t dxd, void *dx)
{
    struct problem p;
    const cudnnStatus_t s = pose(&p, DX, h, dxd, wd, conv, dyd);
    p.a = dy, p.b = w, p.to = dx, p.workspace = workspace, p.workspace_bytes = workspace_bytes;
    return s == OK ? enqueue(&p, h, (int)algorithm, alpha, beta) : s;
}
cudnnStatus_t cudnnConvolutionBackwardFilter(
    cudnnHandle_t h, const void *alpha, const cudnnTensorDescriptor_t xd, const void *x,
    const cudnnTensorDescriptor_t dyd, const void *dy, const cudnnConvolutionDescriptor_t conv,
    cudnnConvolutionBwdFilterAlgo_t algorithm, void *workspace, size_t workspace_bytes,
    const void *beta, const cudnnFilterDescriptor_t dwd, void *dw)
{
    struct problem p;
    const cudnnStatus_t s = pose(&p, DW, h, xd, dwd, conv, dyd);
    p.a = x, p.b = dy, p.to = dw, p.workspace = workspace, p.workspace_bytes = workspace_bytes;
    return s == OK ? enqueue(&p, h, (int)algorithm, alpha, beta) : s;
}
