/* test_executor_warp.cc -- warp operations of the host executor against their plain definitions, on
 * random values: shuffles, votes, reductions, matrix products and loads, integer intrinsics. */
#include "tests/cuda_host/executor_case.h"

namespace
{

enum { LANES = 32 };

template <typename T> struct shuffled {
    T idx[64], up[64], down[64], exchanged[64];
};
template <typename T>
__global__ void shuffle_all(shuffled<T> *out, const T *x, const int *by, int width)
{
    const unsigned i = threadIdx.x, all = 0xffffffffu;
    out->idx[i] = __shfl_sync(all, x[i], by[i], width);
    out->up[i] = __shfl_up_sync(all, x[i], (unsigned)by[64], width);
    out->down[i] = __shfl_down_sync(all, x[i], (unsigned)by[64], width);
    out->exchanged[i] = __shfl_xor_sync(all, x[i], by[64], width);
}

template <typename T> bool same(T a, T b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

template <typename T> void test_shuffles()
{
    shuffled<T> *out = device_array<shuffled<T>>(1);
    T *x = device_array<T>(64);
    int *by = device_array<int>(65);
    for (int width = 1; width <= LANES; width *= 2)
        for (int delta = 0; delta < LANES; delta++) {
            for (int i = 0; i < 64; i++) {
                for (size_t k = 0; k < sizeof(T); k++)
                    reinterpret_cast<unsigned char *>(&x[i])[k] = (unsigned char)random_bits();
                by[i] = (int)(random_bits() % 64);
            }
            by[64] = delta;
            CHECK_OK(PK_LAUNCH(shuffle_all<T>, 1, 64, 0, &queue_, &err_, out, x, by, width), &err_);
            OK(cudaDeviceSynchronize());
            for (int i = 0; i < 64; i++) {
                const int lane = i % LANES, base = i - lane, first = lane / width * width;
                const int next = lane ^ delta;
                CHECK(same(out->idx[i], x[base + first + by[i] % width]));
                CHECK(same(out->up[i], lane - delta >= first ? x[i - delta] : x[i]));
                CHECK(same(out->down[i], lane + delta < first + width ? x[i + delta] : x[i]));
                CHECK(same(out->exchanged[i], next < first + width ? x[base + next] : x[i]));
            }
        }
    OK(cudaFree(out));
    OK(cudaFree(x));
    OK(cudaFree(by));
}

/* Half warps under masks of their own, in different numbers of steps. */
__global__ void half_warps(int *out)
{
    const unsigned mask = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
    int x = (int)threadIdx.x;
    for (int i = threadIdx.x < 16 ? 1 : 4; i < 16; i *= 2) x += __shfl_xor_sync(mask, x, i);
    out[threadIdx.x] = x;
}
void test_half_warps()
{
    int *out = device_array<int>(32);
    CHECK_OK(PK_LAUNCH(half_warps, 1, 32, 0, &queue_, &err_, out), &err_);
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < 16; i++) CHECK(out[i] == 120);
    for (int i = 16; i < 32; i++) { // lanes i, i ^ 4, i ^ 8, i ^ 12
        const int sum = i + (i ^ 4) + (i ^ 8) + (i ^ 12);
        CHECK(out[i] == sum);
    }
    OK(cudaFree(out));
}

struct votes {
    unsigned ballot[32], match[32], ureduce[6][32], active[32];
    int any[32], all[32], ireduce[3][32];
};
__global__ void vote(votes *out, const unsigned *x)
{
    const unsigned i = threadIdx.x, all = 0xffffffffu;
    out->active[i] = __activemask();
    out->ballot[i] = __ballot_sync(all, x[i] & 1);
    out->any[i] = __any_sync(all, x[i] % 64 == 7);
    out->all[i] = __all_sync(all, x[i] % 64 != 7);
    out->match[i] = __match_any_sync(all, x[i] % 8);
    out->ureduce[0][i] = __reduce_add_sync(all, x[i]);
    out->ureduce[1][i] = __reduce_min_sync(all, x[i]);
    out->ureduce[2][i] = __reduce_max_sync(all, x[i]);
    out->ureduce[3][i] = __reduce_and_sync(all, x[i] | 0xf0u);
    out->ureduce[4][i] = __reduce_or_sync(all, x[i]);
    out->ureduce[5][i] = __reduce_xor_sync(all, x[i]);
    out->ireduce[0][i] = __reduce_add_sync(all, (int)x[i]);
    out->ireduce[1][i] = __reduce_min_sync(all, (int)x[i]);
    out->ireduce[2][i] = __reduce_max_sync(all, (int)x[i]);
}
void test_votes()
{
    votes *out = device_array<votes>(1);
    unsigned *x = device_array<unsigned>(32);
    for (int round = 0; round < 50; round++) {
        unsigned ballot = 0, sum = 0, low = ~0u, high = 0, both = ~0u, either = 0, odd = 0;
        int seven = 0, least = 0x7fffffff, most = -0x7fffffff - 1;
        for (int i = 0; i < LANES; i++) {
            const unsigned v = x[i] = random_bits();
            ballot |= (v & 1) << i;
            seven |= v % 64 == 7;
            sum += v;
            low = v < low ? v : low;
            high = v > high ? v : high;
            both &= v | 0xf0u;
            either |= v;
            odd ^= v;
            least = (int)v < least ? (int)v : least;
            most = (int)v > most ? (int)v : most;
        }
        CHECK_OK(PK_LAUNCH(vote, 1, 32, 0, &queue_, &err_, out, x), &err_);
        OK(cudaDeviceSynchronize());
        for (int i = 0; i < LANES; i++) {
            unsigned match = 0;
            for (int j = 0; j < LANES; j++) match |= (unsigned)(x[i] % 8 == x[j] % 8) << j;
            CHECK(out->active[i] == 0xffffffffu);
            CHECK(out->ballot[i] == ballot && out->any[i] == seven && out->all[i] == !seven);
            CHECK(out->match[i] == match);
            CHECK(out->ureduce[0][i] == sum && out->ureduce[1][i] == low);
            CHECK(out->ureduce[2][i] == high && out->ureduce[3][i] == both);
            CHECK(out->ureduce[4][i] == either && out->ureduce[5][i] == odd);
            CHECK(out->ireduce[0][i] == (int)sum);
            CHECK(out->ireduce[1][i] == least && out->ireduce[2][i] == most);
        }
    }
    OK(cudaFree(out));
    OK(cudaFree(x));
}

/* ---- matrices: the layouts at the head of cuda/mma.h, element by element ---- */

__global__ void multiply(float *d, const bf16 *a, const bf16 *b)
{
    const int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    float sum[4];
    uint32_t left[4], right[2];
    for (int i = 0; i < 4; i++) sum[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    for (int i = 0; i < 4; i++) {
        const int row = g + i % 2 * 8, col = 2 * t + i / 2 * 8;
        left[i] = pack_bf16(to_float(a[row * 16 + col]), to_float(a[row * 16 + col + 1]));
    }
    for (int i = 0; i < 2; i++) {
        const int k = 2 * t + 8 * i;
        right[i] = pack_bf16(to_float(b[k * 8 + g]), to_float(b[(k + 1) * 8 + g]));
    }
    mma_m16n8k16(sum, left, right);
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

/* The same through shared memory and matrix loads: A by x4, B (k by n) by the transposed x4, two
 * tiles of 8 columns side by side. */
struct tiles {
    alignas(16) bf16 a[16][16 + 8]; // rows of 48 bytes
    alignas(16) bf16 b[16][16];
};
__global__ void multiply_loaded(float *d, const bf16 *a, const bf16 *b)
{
    PK_SHARED(tiles, s);
    const int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    for (int i = lane; i < 256; i += 32) {
        s.a[i / 16][i % 16] = a[i];
        s.b[i / 16][i % 16] = b[i];
    }
    __syncthreads();
    uint32_t left[4], right[4];
    load_matrix_x4(left, &s.a[lane % 16][lane / 16 * 8]);
    load_matrix_x4_transposed(right, &s.b[lane % 16][lane / 16 * 8]);
    for (int tile = 0; tile < 2; tile++) {
        float sum[4] = {0, 0, 0, 0};
        mma_m16n8k16(sum, left, right + 2 * tile);
        for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 16 + tile * 8 + 2 * t + i % 2] = sum[i];
    }
}

void test_matrices()
{
    bf16 *a = device_array<bf16>(256), *b = device_array<bf16>(256);
    float *d = device_array<float>(256), c[128];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 256; i++) a[i] = from_float<bf16>(random_float());
        for (int i = 0; i < 256; i++) b[i] = from_float<bf16>(random_float());
        for (int i = 0; i < 128; i++) c[i] = d[i] = random_float();
        CHECK_OK(PK_LAUNCH(multiply, 1, 32, 0, &queue_, &err_, d, a, b), &err_);
        OK(cudaDeviceSynchronize());
        for (int row = 0; row < 16; row++)
            for (int n = 0; n < 8; n++) {
                float sum = c[row * 8 + n]; // the documented order: k ascending, in float
                for (int k = 0; k < 16; k++)
                    sum += to_float(a[row * 16 + k]) * to_float(b[k * 8 + n]);
                CHECK(d[row * 8 + n] == sum);
            }
        CHECK_OK(PK_LAUNCH(multiply_loaded, 1, 32, sizeof(tiles), &queue_, &err_, d, a, b), &err_);
        OK(cudaDeviceSynchronize());
        for (int row = 0; row < 16; row++)
            for (int n = 0; n < 16; n++) {
                float sum = 0;
                for (int k = 0; k < 16; k++)
                    sum += to_float(a[row * 16 + k]) * to_float(b[k * 16 + n]);
                CHECK(d[row * 16 + n] == sum);
            }
    }
    OK(cudaFree(a));
    OK(cudaFree(b));
    OK(cudaFree(d));
}

__global__ void load_unaligned(int)
{
    PK_SHARED(tiles, s);
    uint32_t r[4];
    load_matrix_x4(r, &s.a[threadIdx.x % 8][1]);
}
__global__ void load_outside(const bf16 *x)
{
    PK_SHARED(tiles, s);
    uint32_t r[4];
    load_matrix_x4(r, threadIdx.x == 31 ? x : &s.a[0][0]);
}
__global__ void load_past_end(int)
{
    PK_SHARED(tiles, s);
    uint32_t r[4];
    load_matrix_x4(r, &s.a[0][0] + sizeof(tiles) / 2);
}
__global__ void multiply_half(int)
{
    float d[4] = {0, 0, 0, 0};
    const uint32_t a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
    if (threadIdx.x < 16) mma_m16n8k16(d, a, b);
}
void test_matrix_errors()
{
    bf16 *x = device_array<bf16>(256);
    CHECK_KERNEL_FAILS(PK_LAUNCH(load_unaligned, 1, 32, sizeof(tiles), &queue_, &err_, 0),
                       "not a multiple of 16");
    CHECK_KERNEL_FAILS(PK_LAUNCH(load_outside, 1, 32, sizeof(tiles), &queue_, &err_, x),
                       "not in the block's shared memory");
    CHECK_KERNEL_FAILS(PK_LAUNCH(load_past_end, 1, 32, sizeof(tiles), &queue_, &err_, 0),
                       "not in the block's shared memory");
    CHECK_KERNEL_FAILS(PK_LAUNCH(multiply_half, 1, 32, 0, &queue_, &err_, 0),
                       "mma_m16n8k16 with mask 0xffffffff waits for lane 16, which has left");
    OK(cudaFree(x));
}

void test_intrinsics()
{
    for (int i = 0; i < 10000; i++) {
        const unsigned a = random_bits() >> random_bits() % 32, b = random_bits();
        unsigned ones = 0, lead = 32, low = 0, flipped = 0;
        for (unsigned k = 0; k < 32; k++) {
            const unsigned bit = a >> k & 1;
            ones += bit;
            if (bit) lead = 31 - k;
            if (bit && !low) low = k + 1;
            flipped |= bit << (31 - k);
        }
        CHECK(__popc(a) == (int)ones && __clz((int)a) == (int)lead && __ffs((int)a) == (int)low);
        CHECK(__brev(a) == flipped && __umulhi(a, b) == (unsigned)((uint64_t)a * b >> 32));
        const uint64_t both = (uint64_t)b << 32 | a;
        CHECK(__funnelshift_r(a, b, i % 32) == (unsigned)(both >> i % 32));
        CHECK(__funnelshift_l(a, b, i % 32) == (unsigned)(both << i % 32 >> 32));
        CHECK(__byte_perm(a, b, 0x5410) == ((a & 0xffff) | (b & 0xffff) << 16));
        CHECK(__float_as_uint(__uint_as_float(a)) == a);
    }
    CHECK(__float2int_rn(2.5f) == 2 && __float2int_rn(3.5f) == 4 && __float2int_rz(-2.9f) == -2);
    CHECK(__float2int_rn(1e20f) == 2147483647 && __float2int_rn(NAN) == 0);
    CHECK(exp2_fast(-INFINITY) == 0.0f && exp2_fast(3.0f) == 8.0f && exp2_fast(-130.0f) == 0.0f);
    CHECK(isnan(exp2_fast(NAN)) && rsqrtf(4.0f) == 0.5f && __saturatef(-NAN) == 0.0f);
    CHECK(min(3, -2) == -2 && max(3u, 7u) == 7u && max(1.0f, NAN) == 1.0f);
}

} // namespace

int main()
{
    test_shuffles<int>();
    test_shuffles<float>();
    test_shuffles<double>();
    test_shuffles<unsigned long long>();
    test_shuffles<bf16>();
    test_half_warps();
    test_votes();
    test_matrices();
    test_matrix_errors();
    test_intrinsics();
    CHECK(pk_host_device_allocations() == 0);
    return TEST_END();
}
