/* net1d.h -- Net1D, RegNet's blocks over time, as ECGFounder trains and publishes it (Li et al.
 * 2024, arXiv 2410.04133; the layout is that of the network's public PyTorch module).
 *
 *     stem    convolution, kernel 16, stride 2, 64 channels; norm; Swish
 *     stages  64 160 160 400 400 1024 1024 channels, 2 2 2 3 3 4 4 blocks; the first block of every
 *             stage halves the samples
 *     block   norm, Swish, convolution of 1 (the very first block starts with the convolution);
 *             norm, Swish, convolution of 16 in groups of 16 channels, with the block's stride;
 *             norm, Swish, convolution of 1;
 *             squeeze-excite: mean over time, linear to half, Swish, linear, sigmoid, times
 *     short   maximum of two samples where the block halves, its padding a sample of 0; zeros
 * around the channels, the odd one behind, where the block widens; added, nothing after it
 *
 * Every convolution has a bias and keeps ceil(T / stride) samples, the odd zero of its padding on
 * the right. Weights start as PyTorch's default.
 *
 * The module makes batch norms in any case, but ECGFounder's public code for its checkpoints does
 * not run them (use_bn is False), hence `norm` is false in pk_net1d_ecgfounder and the bn tensors
 * of such a checkpoint have nothing to go to. With 12 leads the module has 30,665,264 parameters,
 * with a last layer of 150 classes 30,819,014 ("30.8 M"). Here are those that are used: 30,598,896
 * without norms; with them all but the 128 of the very first block's bn1.
 *
 * Parameters have the module's names ("stage_list.0.block_list.0.conv1.conv.weight"); its last
 * layer, "dense", is the caller's. */
#ifndef PK_NET1D_H
#define PK_NET1D_H

#include "core/ops.h"

enum { PK_NET1D_STAGES = 7 };

struct pk_net1d {
    int32_t stem;                    // channels of the first convolution
    int32_t width[PK_NET1D_STAGES];  // channels of a stage, a multiple of `group`
    int32_t blocks[PK_NET1D_STAGES]; // 0: no such stage
    int32_t kernel;                  // of the stem and of the middle convolutions
    int32_t group;                   // channels of a group of the middle convolutions
    int32_t squeeze;                 // channels per channel inside of a squeeze-excite
    bool norm;                       // batch norms are there
    float drop_path;                 // of the last block; rises from 0 at the first
    uint64_t seed;                   // of drop path
    bool train;                      // batch norm by the micro-batch, drop path
};
struct pk_net1d pk_net1d_ecgfounder(bool train); // no norm, no drop path

/* x [B, T, leads] -> [B, about T / 256, width of the last stage]. sample [B]: of drop path, may be
 * PK_NONE without it or without train. */
struct pk_val pk_net1d_encode(struct pk_build *b, struct pk_val x, struct pk_val sample,
                              const struct pk_net1d *a);

#endif
