/* resnet1d.h -- ResNet for time series after Wang et al. (2017, arXiv 1611.06455) as
 * helme/ecg_ptbxl_benchmarking has it ("resnet1d_wang"; Strodthoff et al. 2021, arXiv 2004.13701),
 * and the head that those benchmarks put on all their convolutional networks.
 *
 * Parameters have the names of that code's Sequential ("3.0.conv1.weight"), state included. */
#ifndef PK_RESNET1D_H
#define PK_RESNET1D_H

#include "core/ops.h"

struct pk_resnet1d {
    int32_t width;       // channels, of all blocks
    int32_t blocks;      // one after the other, all but the first halve the samples
    int32_t stem_kernel; // of the first convolution, stride 1
    int32_t kernel[2];   // of the two convolutions of a block
    bool train;          // batch norm: statistics of the micro-batch
};
struct pk_resnet1d pk_resnet1d_wang(bool train); // 128 channels, 3 blocks, kernels 7, 5 and 3

/* x [B, T, leads] -> [B, ceil(T / 2^(blocks - 1)), width] */
struct pk_val pk_resnet1d_encode(struct pk_build *b, struct pk_val x, const struct pk_resnet1d *a);

struct pk_concat_head {
    int32_t hidden;  // 0: none
    int32_t classes; // logits
    float dropout;   // before the last layer, half of it before the hidden one
    uint64_t seed;   // of the dropout
    bool he;         // weights start as xresnet1d's; else as PyTorch's default
    bool train;
};
/* x [B, T, C] -> [B, classes]: maximum and mean over T, batch norm, dropout, linear, ReLU, batch
 * norm, dropout, linear. sample [B]: of the dropout, may be PK_NONE without train. */
struct pk_val pk_concat_head(struct pk_build *b, struct pk_val x, struct pk_val sample,
                             const struct pk_concat_head *a);

#endif
