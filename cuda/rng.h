/* rng.h -- Philox and the mask sampler for kernels: the host's own text (core/rng_inline.h,
 * core/mask_inline.h), so that a device draws the same bits. Names end in _inline or are pk_mask_*
 * and pk_bits_*; they may be called from host code of a .cu file too. */
#ifndef PK_CUDA_RNG_H
#define PK_CUDA_RNG_H

#include "cuda/device.h"

#ifdef PK_RNG_INLINE_H
#error "include cuda/rng.h before core/rng_inline.h: it sets the qualifiers of its functions"
#endif
#define PK_INLINE static __host__ __device__ __forceinline__
extern "C" {
#include "core/mask_inline.h"
#include "core/rng_inline.h"
}

#endif
