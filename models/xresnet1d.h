/* xresnet1d.h -- the residual networks "bag of tricks" (He et al. 2019, arXiv 1812.01187) over
 * time, as helme/ecg_ptbxl_benchmarking trains them on PTB-XL (Strodthoff et al. 2021, arXiv
 * 2004.13701): three convolutions as stem, bottlenecks that halve the samples in their middle
 * convolution, shortcuts that average before their 1 x 1 convolution, the last norm of a branch
 * starting at 0.
 *
 * All stages have the same width there. Parameters have the names of that code's Sequential
 * ("4.0.convs.0.0.weight"), state included. */
#ifndef PK_XRESNET1D_H
#define PK_XRESNET1D_H

#include "core/ops.h"

enum { PK_XRESNET1D_STAGES = 4 };

struct pk_xresnet1d {
    int32_t stem[3];                     // channels of the stem's convolutions
    int32_t width;                       // channels inside of a block; its output has `expansion`
    int32_t expansion;                   // times as many
    int32_t layers[PK_XRESNET1D_STAGES]; // blocks of a stage
    int32_t kernel;                      // of the stem and of the middle convolutions, odd
    bool train;                          // batch norm: statistics of the micro-batch
};
struct pk_xresnet1d pk_xresnet1d50(bool train);  // 3 4 6 3 blocks
struct pk_xresnet1d pk_xresnet1d101(bool train); // 3 4 23 3

/* x [B, T, leads] -> [B, about T / 32, width * expansion] */
struct pk_val pk_xresnet1d_encode(struct pk_build *b, struct pk_val x,
                                  const struct pk_xresnet1d *a);

#endif
