/* efficientnet1d.h -- EfficientNet-B0 (Tan & Le 2019, arXiv 1905.11946) over time: inverted
 * bottlenecks with depthwise convolutions, squeeze-excite and SiLU, 16 of them as in the encoders
 * of Abbaspourazad et al. (2023, arXiv 2312.05409).
 *
 * Their paper gives the kind, the number of blocks, 256 features and 3.3 M parameters, not the
 * widths: these are B0's, which makes 3.5 M. */
#ifndef PK_EFFICIENTNET1D_H
#define PK_EFFICIENTNET1D_H

#include "core/ops.h"

enum { PK_EFFICIENTNET1D_STAGES = 7 };

struct pk_efficientnet1d_stage {
    int32_t expand; // channels inside of a block per channel of its input
    int32_t width;  // of the block's output
    int32_t repeats, stride, kernel;
};

struct pk_efficientnet1d {
    int32_t stem; // channels of the first convolution, kernel 3, stride 2
    struct pk_efficientnet1d_stage stage[PK_EFFICIENTNET1D_STAGES]; // repeats 0: not there
    int32_t features;                                               // of the last convolution
    float drop_path; // block i of n: drop_path * i / n, where there is a shortcut
    uint64_t seed;   // of drop path
    bool train;      // batch norm: statistics of the micro-batch; drop path
};
struct pk_efficientnet1d pk_efficientnet1d_b0(bool train); // 256 features, drop path .2

/* x [B, T, leads] -> [B, about T / 32, features]. sample [B]: of drop path, may be PK_NONE without
 * it or without train. */
struct pk_val pk_efficientnet1d_encode(struct pk_build *b, struct pk_val x, struct pk_val sample,
                                       const struct pk_efficientnet1d *a);

#endif
