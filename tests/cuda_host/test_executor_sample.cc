/* test_executor_sample.cc -- one kernel from launch to result, as a pattern for kernel tests. */
#include "cuda/mma.h"

#include <pk_host.h>

#include "tests/test.h"

namespace
{

struct rows_shared {
    float scratch[32];
};

/* out[r] = sum of row r, a block per row. */
template <typename T>
__global__ void __launch_bounds__(256) row_sum(const T *__restrict__ x, float *out, int cols)
{
    PK_SHARED(rows_shared, s);
    float sum = 0.0f;
    for (int c = (int)threadIdx.x; c < cols; c += (int)blockDim.x)
        sum += to_float(x[(int64_t)blockIdx.x * cols + c]);
    sum = block_sum(sum, s.scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

template <typename T> void test_row_sum(int rows, int cols)
{
    struct pk_err err = {};
    struct pk_queue q = {};
    T *x = nullptr, *host = new T[(size_t)rows * (size_t)cols];
    float *out = nullptr, *got = new float[(size_t)rows];
    for (int i = 0; i < rows * cols; i++) host[i] = from_float<T>((float)(i % 7));
    CHECK(cudaStreamCreateWithFlags(&q.stream, cudaStreamNonBlocking) == cudaSuccess);
    CHECK(cudaMalloc(&x, sizeof(T) * (size_t)rows * (size_t)cols) == cudaSuccess);
    CHECK(cudaMalloc(&out, sizeof(float) * (size_t)rows) == cudaSuccess);
    CHECK(cudaMemcpyAsync(x, host, sizeof(T) * (size_t)rows * (size_t)cols, cudaMemcpyHostToDevice,
                          q.stream) == cudaSuccess);
    CHECK_OK(PK_LAUNCH(row_sum<T>, rows, 256, sizeof(rows_shared), &q, &err, x, out, cols), &err);
    CHECK(cudaMemcpyAsync(got, out, sizeof(float) * (size_t)rows, cudaMemcpyDeviceToHost,
                          q.stream) == cudaSuccess);
    CHECK(cudaStreamSynchronize(q.stream) == cudaSuccess);
    for (int r = 0; r < rows; r++) {
        float sum = 0.0f;
        for (int c = 0; c < cols; c++) sum += (float)((r * cols + c) % 7);
        CHECK(got[r] == sum);
    }
    CHECK(cudaFree(x) == cudaSuccess);
    CHECK(cudaFree(out) == cudaSuccess);
    CHECK(cudaStreamDestroy(q.stream) == cudaSuccess);
    CHECK(pk_host_device_bytes() == 0);
    delete[] host;
    delete[] got;
}

} // namespace

int main()
{
    test_row_sum<float>(5, 1000);
    test_row_sum<bf16>(3, 37);
    return TEST_END();
}
