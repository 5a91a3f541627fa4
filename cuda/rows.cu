/* rows.cu -- the kernels of rows.h. Both take a few microseconds, nearly all of it their launch. */
#include "cuda/device.h"
#include "cuda/rows.h"

namespace
{

enum { THREADS = 256 };

__global__ void __launch_bounds__(THREADS) scale(float *data, int64_t count, float factor)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) data[i] *= factor;
}

__global__ void put_pair(float *to, float a, float b)
{
    to[0] = a;
    to[1] = b;
}

} // namespace

extern "C" {

enum pk_status pk_cuda_scale(const struct pk_queue *q, float *data, int64_t count, float factor,
                             struct pk_err *err)
{
    const int64_t blocks = (count + THREADS - 1) / THREADS;
    if (!blocks) return PK_OK;
    return PK_LAUNCH(scale, (unsigned)blocks, THREADS, 0, q, err, data, count, factor);
}

enum pk_status pk_cuda_put_pair(const struct pk_queue *q, float *to, float a, float b,
                                struct pk_err *err)
{
    return PK_LAUNCH(put_pair, 1, 1, 0, q, err, to, a, b);
}

} // extern "C"
