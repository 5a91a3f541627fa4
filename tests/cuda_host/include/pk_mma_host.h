/* pk_mma_host.h -- what cuda/mma.h gives on a device, by plain loops (mma.cc, block.cc).
 *
 * Layouts are those at the head of cuda/mma.h. mma_m16n8k16 adds its 16 products to d one after the
 * other, k ascending, each product of two bf16 exact in float, each sum rounded to float: a tensor
 * core sums in another order and cuts the addends, so its last bits differ. */
#ifndef PK_MMA_HOST_H
#define PK_MMA_HOST_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace pk_host
{
void mma_16_8_16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void load_matrix(uint32_t r[4], const void *row, bool transposed);
} // namespace pk_host

inline void mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    pk_host::mma_16_8_16(d, a, b);
}
inline void load_matrix_x4(uint32_t r[4], const __nv_bfloat16 *row)
{
    pk_host::load_matrix(r, row, false);
}
inline void load_matrix_x4_transposed(uint32_t r[4], const __nv_bfloat16 *row)
{
    pk_host::load_matrix(r, row, true);
}
/* The copy is made at the wait; until then the destination holds NaN. */
inline void copy_async_16(void *to_shared, const void *from, bool valid)
{
    pk_host::copy_async(to_shared, from, valid);
}
inline void copy_async_16_cached(void *to_shared, const void *from, bool valid)
{
    pk_host::copy_async(to_shared, from, valid);
}
inline void copy_async_commit()
{
    pk_host::copy_commit();
}
template <int n> inline void copy_async_wait()
{
    pk_host::copy_wait(n);
}
inline float exp2_fast(float x)
{
    const float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y; // .ftz: subnormal results are 0, inputs too (2^0 = 1)
}

#endif
