/* conv1d.h -- the own convolution kernels: what cuda/conv1d.cu and cuda/conv1d_mma.cu tell each
 * other. Who chooses between these and a library's is conv.h. */
#ifndef PK_CUDA_CONV1D_H
#define PK_CUDA_CONV1D_H

#include "cuda/queue.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One convolution. Sizes are at most half of what 32 bits hold: addresses cost registers. */
struct pk_cuda_conv {
    const void *x, *w, *dy; // whichever the pass reads
    const float *bias;      // [n] or NULL
    void *to;               // y or dx, of the storage type; dw, float
    bool add;               // to `to`: dx and dw
    int32_t batch, in, out; // records; samples of a record of x and of y
    int32_t c, n;           // channels of x and of y, all groups
    int32_t kernel, stride, left, groups;
    int32_t cg, ng;     // channels of one group: c / groups, n / groups
    int32_t parts;      // dw: most ranges of the sum over (b, u)
    void *workspace;    // pk_cuda_conv_mma_workspace; float FMA, dw only: [parts][n cg kernel]
    enum pk_dtype type; // storage of x, w, dy and y
};

/* Tensor cores (cuda/conv1d_mma.cu). Forward and dw of one group take any number of channels of x
 * when the stored channels are padded to 8; dx does not (it would write the padding). */
enum pk_conv_pass { PK_CONV_FORWARD, PK_CONV_DX, PK_CONV_DW };
bool pk_cuda_conv_mma_takes(const struct pk_cuda_conv *v, enum pk_conv_pass pass);
size_t pk_cuda_conv_mma_workspace(const struct pk_cuda_conv *v, enum pk_conv_pass pass);
enum pk_status pk_cuda_conv_mma(const struct pk_queue *q, const struct pk_cuda_conv *v,
                                enum pk_conv_pass pass, struct pk_err *err);

#ifdef __cplusplus
}
#endif

#endif
