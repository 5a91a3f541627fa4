/* test_executor_block.cc -- blocks of the host executor: indices, shared memory, barriers, atomics,
 * asynchronous copies, and that it sees what is wrong in a kernel. */
#include "tests/cuda_host/executor_case.h"
#include "tests/cuda_host/fiber.h"

#include <sys/wait.h>
#include <unistd.h>

namespace
{

/* ---- what works ---- */

__global__ void write_indices(uint3 *thread, uint3 *block, int *count)
{
    const unsigned t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned at = b * blockDim.x * blockDim.y * blockDim.z + t;
    thread[at] = threadIdx;
    block[at] = blockIdx;
    atomicAdd(count, 1);
}

void test_indices(enum pk_host_order order)
{
    enum { BLOCKS = 3 * 5 * 2, THREADS = 7 * 4 * 3 };
    uint3 *thread = device_array<uint3>(BLOCKS * THREADS),
          *block = device_array<uint3>(BLOCKS * THREADS);
    int *count = device_array<int>(1);
    OK(cudaMemset(count, 0, sizeof *count));
    pk_host_order(order);
    CHECK_OK(PK_LAUNCH(write_indices, dim3(3, 5, 2), dim3(7, 4, 3), 0, &queue_, &err_, thread,
                       block, count),
             &err_);
    OK(cudaDeviceSynchronize());
    CHECK(*count == BLOCKS * THREADS);
    for (unsigned b = 0; b < BLOCKS; b++)
        for (unsigned t = 0; t < THREADS; t++) {
            const uint3 i = thread[b * THREADS + t], j = block[b * THREADS + t];
            CHECK(i.x == t % 7 && i.y == t / 7 % 4 && i.z == t / 28);
            CHECK(j.x == b % 3 && j.y == b / 3 % 5 && j.z == b / 15);
        }
    OK(cudaFree(thread));
    OK(cudaFree(block));
    OK(cudaFree(count));
    pk_host_order(PK_HOST_ALTERNATE);
}

struct reversal {
    float at[1024];
};
__global__ void reverse(float *x)
{
    PK_SHARED(reversal, s);
    s.at[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s.at[blockDim.x - 1 - threadIdx.x];
}
__global__ void reverse_without_barrier(float *x)
{
    PK_SHARED(reversal, s);
    s.at[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = s.at[blockDim.x - 1 - threadIdx.x];
}

/* Elements that `kernel` reverses wrongly. */
int reversed_wrong(void (*kernel)(float *), int n, enum pk_host_order order)
{
    float *x = device_array<float>((size_t)n);
    int wrong = 0;
    for (int i = 0; i < n; i++) x[i] = (float)i;
    pk_host_order(order);
    CHECK_OK(PK_LAUNCH(kernel, 1, n, sizeof(reversal), &queue_, &err_, x), &err_);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < n; i++)
        if (!(x[i] == (float)(n - 1 - i))) wrong++;
    OK(cudaFree(x));
    pk_host_order(PK_HOST_ALTERNATE);
    return wrong;
}

void test_barrier()
{
    const enum pk_host_order orders[] = {PK_HOST_ASCENDING, PK_HOST_DESCENDING, PK_HOST_RANDOM};
    for (enum pk_host_order order : orders) {
        CHECK(reversed_wrong(reverse, 1024, order) == 0);
        CHECK(reversed_wrong(reverse, 33, order) == 0);
        CHECK(reversed_wrong(reverse_without_barrier, 1024, order) > 0);
    }
}

/* Two sums in a row through one scratch, the barrier between them left out: each order alone may be
 * right, two orders may not agree. */
struct scratch {
    float at[32];
};
template <bool barrier> __global__ void two_sums(float *out)
{
    PK_SHARED(scratch, s);
    const float a = block_sum((float)threadIdx.x, s.at);
    if (barrier) __syncthreads();
    const float b = block_sum(1.0f, s.at);
    out[threadIdx.x] = a + 1000000.0f * b;
}
template <bool barrier> int sums_wrong(enum pk_host_order order)
{
    enum { N = 256 };
    float *out = device_array<float>(N);
    int wrong = 0;
    pk_host_order(order);
    CHECK_OK(PK_LAUNCH(two_sums<barrier>, 1, N, sizeof(scratch), &queue_, &err_, out), &err_);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < N; i++)
        if (!(out[i] == (float)(N * (N - 1) / 2) + 1000000.0f * N)) wrong++;
    OK(cudaFree(out));
    pk_host_order(PK_HOST_ALTERNATE);
    return wrong;
}

void test_reused_scratch()
{
    CHECK(sums_wrong<true>(PK_HOST_ASCENDING) == 0);
    CHECK(sums_wrong<true>(PK_HOST_DESCENDING) == 0);
    CHECK(sums_wrong<true>(PK_HOST_RANDOM) == 0);
    CHECK(sums_wrong<false>(PK_HOST_ASCENDING) + sums_wrong<false>(PK_HOST_DESCENDING) > 0);
}

__global__ void barrier_votes(int *out)
{
    const int odd = threadIdx.x % 2 == 1;
    out[threadIdx.x * 4] = __syncthreads_count(odd);
    out[threadIdx.x * 4 + 1] = __syncthreads_and(odd);
    out[threadIdx.x * 4 + 2] = __syncthreads_or(threadIdx.x == 77);
    out[threadIdx.x * 4 + 3] = __syncthreads_and(threadIdx.x < 1024);
}
void test_votes()
{
    int *out = device_array<int>(4 * 100);
    CHECK_OK(PK_LAUNCH(barrier_votes, 1, 100, 0, &queue_, &err_, out), &err_);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < 100; i++)
        CHECK(out[4 * i] == 50 && out[4 * i + 1] == 0 && out[4 * i + 2] == 1 &&
              out[4 * i + 3] == 1);
    OK(cudaFree(out));
}

/* Threads that leave early do not hold up a barrier. */
__global__ void leave_early(int *out)
{
    if (threadIdx.x >= 40) return;
    out[threadIdx.x] = __syncthreads_count(1);
}
void test_leavers()
{
    int *out = device_array<int>(40);
    CHECK_OK(PK_LAUNCH(leave_early, 1, 96, 0, &queue_, &err_, out), &err_);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < 40; i++) CHECK(out[i] == 40);
    OK(cudaFree(out));
}

__global__ void read_fresh(uint32_t *out)
{
    PK_SHARED(reversal, s);
    out[blockIdx.x * blockDim.x + threadIdx.x] = __float_as_uint(s.at[threadIdx.x]);
    s.at[threadIdx.x] = 1.0f;
}
void test_poison()
{
    uint32_t *out = device_array<uint32_t>(4 * 64);
    for (int i = 0; i < 4 * 64; i++) CHECK(out[i] == 0xffffffffu); // device memory, too
    CHECK_OK(PK_LAUNCH(read_fresh, 4, 64, sizeof(reversal), &queue_, &err_, out), &err_);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < 4 * 64; i++) CHECK(out[i] == 0xffffffffu);
    OK(cudaFree(out));
}

__global__ void atomics(unsigned *u, float *f, unsigned long long *l, int *i)
{
    atomicAdd(u, 1u);
    atomicMax(u + 1, threadIdx.x);
    atomicMin(u + 2, threadIdx.x + 5);
    atomicAdd(f, 0.5f);
    atomicCAS(l, 7ull, 9ull);
    atomicExch(i, 3);
}
void test_atomics()
{
    unsigned *u = device_array<unsigned>(3);
    float *f = device_array<float>(1);
    unsigned long long *l = device_array<unsigned long long>(1);
    int *i = device_array<int>(1);
    u[0] = u[1] = 0, u[2] = 1000, f[0] = 0, l[0] = 7, i[0] = 0;
    CHECK_OK(PK_LAUNCH(atomics, 3, 100, 0, &queue_, &err_, u, f, l, i), &err_);
    OK(cudaDeviceSynchronize());
    CHECK(u[0] == 300 && u[1] == 99 && u[2] == 5 && f[0] == 150.0f && l[0] == 9 && i[0] == 3);
    OK(cudaFree(u));
    OK(cudaFree(f));
    OK(cudaFree(l));
    OK(cudaFree(i));
}

/* ---- asynchronous copies ---- */

struct stage {
    alignas(16) float at[2][256];
};
/* Two stages; `wait` tells how many groups may be pending when the first is read. */
template <int wait> __global__ void copy_stages(float *out, const float *from)
{
    PK_SHARED(stage, s);
    const int i = (int)threadIdx.x * 4;
    copy_async_16(&s.at[0][i], from + i, true);
    copy_async_commit();
    copy_async_16(&s.at[1][i], from + i, threadIdx.x % 2 == 0);
    copy_async_commit();
    copy_async_wait<wait>();
    __syncthreads();
    for (int k = 0; k < 4; k++) out[i + k] = s.at[0][(i + k + 4) % 256];
    copy_async_wait<0>();
    __syncthreads();
    for (int k = 0; k < 4; k++) out[256 + i + k] = s.at[1][(i + k + 4) % 256];
}
__global__ void copy_no_wait(const float *from)
{
    PK_SHARED(stage, s);
    copy_async_16(&s.at[0][threadIdx.x * 4], from + threadIdx.x * 4, true);
    copy_async_commit();
}
__global__ void copy_uncommitted(const float *from)
{
    PK_SHARED(stage, s);
    copy_async_16(&s.at[0][threadIdx.x * 4], from + threadIdx.x * 4, true);
    copy_async_wait<0>();
}
__global__ void copy_unaligned(const float *from)
{
    PK_SHARED(stage, s);
    copy_async_16(&s.at[0][1], from, true);
}
__global__ void copy_outside(float *to, const float *from)
{
    PK_SHARED(stage, s);
    s.at[0][0] = 0;
    copy_async_16(to, from, true);
}

void test_copies()
{
    float *from = device_array<float>(256), *out = device_array<float>(512);
    for (int i = 0; i < 256; i++) from[i] = (float)i;
    CHECK_OK(PK_LAUNCH(copy_stages<1>, 1, 64, sizeof(stage), &queue_, &err_, out, from), &err_);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < 256; i++) {
        const int j = (i + 4) % 256;
        CHECK(out[i] == from[j]);
        CHECK(out[256 + i] == (j / 4 % 2 == 0 ? from[j] : 0.0f));
    }
    // Waiting for one group too few leaves NaN in the first stage.
    CHECK_OK(PK_LAUNCH(copy_stages<2>, 1, 64, sizeof(stage), &queue_, &err_, out, from), &err_);
    OK(cudaDeviceSynchronize());
    // (but where a neighbour has already waited for the rest).
    int missing = 0;
    for (int i = 0; i < 256; i++) missing += isnan(out[i]) && !isnan(out[256 + i]);
    CHECK(missing >= 248);
    CHECK_KERNEL_FAILS(PK_LAUNCH(copy_no_wait, 1, 64, sizeof(stage), &queue_, &err_, from),
                       "asynchronous copies nobody waited for");
    CHECK_KERNEL_FAILS(PK_LAUNCH(copy_uncommitted, 1, 64, sizeof(stage), &queue_, &err_, from),
                       "asynchronous copies nobody waited for");
    CHECK_KERNEL_FAILS(PK_LAUNCH(copy_unaligned, 1, 1, sizeof(stage), &queue_, &err_, from),
                       "unaligned");
    CHECK_KERNEL_FAILS(PK_LAUNCH(copy_outside, 1, 1, sizeof(stage), &queue_, &err_, out, from),
                       "not in the block's shared memory");
    OK(cudaFree(from));
    OK(cudaFree(out));
}

/* ---- what must be refused ---- */

__global__ void half_barrier(int *out)
{
    if (threadIdx.x < 32)
        __syncthreads();
    else
        out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, threadIdx.x == 40 ? 0 : 1);
    if (threadIdx.x >= 32) __syncwarp(0x3u | 1u << (threadIdx.x % 32));
}
__global__ void two_barriers(int *out)
{
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[0] = 1;
}
__global__ void mixed_barriers(int *out)
{
    if (threadIdx.x < 32) __syncthreads();
    if (threadIdx.x >= 32) out[0] = __syncthreads_or(1);
}
__global__ void missing_lane()
{
    if (threadIdx.x != 9) __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
__global__ void lane_at_barrier()
{
    if (threadIdx.x == 9) __syncthreads();
    __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
__global__ void different_masks()
{
    __ballot_sync(threadIdx.x < 16 ? 0xffffffffu : 0xffff0000u, 1);
}
__global__ void own_lane_missing()
{
    __syncwarp(1u);
}
__global__ void short_warp()
{
    __shfl_xor_sync(0xffffffffu, 1, 1);
}
__global__ void foreign_lane()
{
    if (threadIdx.x < 16) __shfl_sync(0xffffu, 1, 20);
}
__global__ void odd_width()
{
    __shfl_sync(0xffffffffu, 1, 0, 12);
}
__global__ void wants_shared(float *out)
{
    PK_SHARED(reversal, s);
    out[0] = s.at[0];
}
__global__ void nothing(float *)
{
}
__global__ void trap(float *x)
{
    if (blockIdx.x == 3 && threadIdx.x == 5) __trap();
    x[blockIdx.x] = 1.0f;
}

void test_divergence()
{
    int *out = device_array<int>(64);
    CHECK_KERNEL_FAILS(PK_LAUNCH(half_barrier, 1, 64, 0, &queue_, &err_, out), "__syncwarp");
    CHECK_KERNEL_FAILS(PK_LAUNCH(two_barriers, 1, 64, 0, &queue_, &err_, out),
                       "waits in __syncthreads at");
    CHECK_KERNEL_FAILS(PK_LAUNCH(mixed_barriers, 1, 64, 0, &queue_, &err_, out),
                       "__syncthreads_or");
    struct same_kernel {
        void (*kernel)();
        unsigned threads;
        const char *text;
    } cases[] = {
        {missing_lane, 32, "waits for lane 9, which has left the kernel"},
        {lane_at_barrier, 32, "waits for lane 9, which waits in __syncthreads"},
        {different_masks, 32, "mask 0xffffffff waits for lane 16, which has left the kernel"},
        {own_lane_missing, 32, "lacks the calling lane 1"},
        {short_warp, 48,
         "thread (32, 0, 0): __shfl_xor_sync with mask 0xffffffff waits for lane 16, "
         "which does not exist"},
        {foreign_lane, 32, "reads lane 20, which the mask lacks"},
        {odd_width, 32, "width 12"},
    };
    for (const same_kernel &c : cases) {
        pk_host_order(PK_HOST_ASCENDING);
        // PK_LAUNCH needs an argument; these have none, so the executor is called as it does.
        pk_host_quiet(true);
        pk_host::launch(c.kernel, "diverge", 1, c.threads, 0, nullptr)();
        CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
        if (!strstr(pk_host_error(), c.text)) {
            test_bad_++;
            fprintf(stderr, "expected '%s', got: %s\n", c.text, pk_host_error());
        }
        CHECK(strstr(pk_host_error(), "kernel diverge, block (0, 0, 0), thread ("));
        pk_host_reset();
        pk_host_quiet(false);
        pk_host_order(PK_HOST_ALTERNATE);
    }
    OK(cudaFree(out));
}

void test_launches()
{
    float *out = device_array<float>(8);
    CHECK_KERNEL_FAILS(PK_LAUNCH(wants_shared, 1, 1, sizeof(reversal) - 1, &queue_, &err_, out),
                       "shared object reversal has 4096 bytes, the launch gave 4095");
    CHECK_KERNEL_FAILS(PK_LAUNCH(wants_shared, 1, 1, 0, &queue_, &err_, out), "the launch gave 0");
    CHECK_LAUNCH_FAILS(PK_LAUNCH(nothing, 1, 1025, 0, &queue_, &err_, out), "threads");
    CHECK_LAUNCH_FAILS(PK_LAUNCH(nothing, 1, 0, 0, &queue_, &err_, out), "threads");
    CHECK_LAUNCH_FAILS(PK_LAUNCH(nothing, 1, dim3(32, 2, 65), 0, &queue_, &err_, out), "threads");
    CHECK_LAUNCH_FAILS(PK_LAUNCH(nothing, 0, 32, 0, &queue_, &err_, out), "blocks");
    CHECK_LAUNCH_FAILS(PK_LAUNCH(nothing, dim3(1, 65536), 32, 0, &queue_, &err_, out), "65536");
    CHECK_LAUNCH_FAILS(PK_LAUNCH(nothing, dim3(1, 1, 65536), 32, 0, &queue_, &err_, out), "65536");
    CHECK_LAUNCH_FAILS(PK_LAUNCH(nothing, (int64_t)1 << 32, 32, 0, &queue_, &err_, out),
                       "4294967296");
    CHECK_LAUNCH_FAILS(PK_LAUNCH(nothing, 1, 32, 227 * 1024 + 1, &queue_, &err_, out),
                       "invalid argument");
    CHECK_OK(PK_LAUNCH(nothing, 1, 32, 227 * 1024, &queue_, &err_, out), &err_);
    OK(cudaDeviceSynchronize());
    // A block that fails ends the kernel: the error sticks, and names the thread.
    pk_host_order(PK_HOST_ASCENDING);
    CHECK_KERNEL_FAILS(PK_LAUNCH(trap, 8, 32, 0, &queue_, &err_, out),
                       "kernel trap, block (3, 0, 0), thread (5, 0, 0): __trap");
    pk_host_order(PK_HOST_ALTERNATE);
    CHECK_OK(PK_LAUNCH(trap, 2, 32, 0, &queue_, &err_, out), &err_); // and all is well again
    OK(cudaDeviceSynchronize());
    CHECK(out[1] == 1.0f);
    OK(cudaFree(out));
}

/* One element past shared memory, past device memory, and into freed memory: AddressSanitizer ends
 * the program, so each runs in a child. */
#ifdef PK_HOST_ASAN
__global__ void overrun(float *x, int what)
{
    PK_SHARED(reversal, s);
    volatile float *at = what == 0 ? &s.at[0] + sizeof(reversal) / sizeof(float) : x;
    at[what == 1 ? 10 : 0] = 1.0f;
}
void test_overruns()
{
    for (int what = 0; what < 3; what++) {
        int status = 0;
        const pid_t child = fork();
        if (child == 0) {
            float *x = device_array<float>(10);
            if (what == 2) cudaFree(x);
            if (!freopen("/dev/null", "w", stderr)) _exit(3);
            (void)PK_LAUNCH(overrun, 1, 1, sizeof(reversal), &queue_, &err_, x, what);
            cudaDeviceSynchronize();
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(!(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3)));
    }
}
#else
void test_overruns()
{
}
#endif

/* A value that is changed after the launch must not reach the kernel. */
struct by_value {
    int x[40];
};
__global__ void copy_value(int *out, const by_value v)
{
    out[threadIdx.x] = v.x[threadIdx.x];
}
void test_arguments()
{
    int *out = device_array<int>(40);
    by_value v;
    for (int i = 0; i < 40; i++) v.x[i] = i;
    pk_host_schedule(PK_HOST_SCHEDULE_LATE);
    CHECK_OK(PK_LAUNCH(copy_value, 1, 40, 0, &queue_, &err_, out, v), &err_);
    v.x[7] = 1000;
    CHECK(out[7] == -1); // not run yet
    OK(cudaDeviceSynchronize());
    pk_host_schedule(PK_HOST_SCHEDULE_RANDOM);
    for (int i = 0; i < 40; i++) CHECK(out[i] == i);
    OK(cudaFree(out));
}

} // namespace

int main()
{
    test_indices(PK_HOST_ASCENDING);
    test_indices(PK_HOST_DESCENDING);
    test_indices(PK_HOST_RANDOM);
    test_barrier();
    test_reused_scratch();
    test_votes();
    test_leavers();
    test_poison();
    test_atomics();
    test_copies();
    test_divergence();
    test_launches();
    test_arguments();
    test_overruns();
    CHECK(pk_host_device_allocations() == 0);
    return TEST_END();
}
