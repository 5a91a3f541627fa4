/* test_conv1d_mma.cc -- the tensor cores' convolution with every tile: on a device of one SM, where
 * any number of tiles fills it, on a small one, and on one that is never filled. Against double,
 * and the same bits from all, since the order of sums depends on the shape only. What op tests ask
 * (edges, guards, optional arguments) is asked there. */
#include "cuda/conv1d.h"

#include "cuda/device.h"

#include "tests/test.h"

namespace
{
enum { TURNS = 3, SMALL = 14 }; // SMALL: fewer tiles than this of 128 x 64, no fewer of 64 x 64

struct shape {
    int32_t batch, in, c, n, kernel, stride, left, right, groups;
    const char *why;
};

const shape shapes[] = {
    {2, 150, 40, 136, 3, 1, 1, 1, 1,
     "forward and dw: two tall tiles and a rest, in each direction"},
    {3, 90, 136, 72, 5, 2, 3, 1, 1, "stride 2: phases of unequal length"},
    {1, 300, 160, 160, 3, 1, 2, 0, 2, "groups of 80: a tile of columns and a quarter"},
    {2, 40, 20, 80, 7, 3, 2, 5, 1, "20 channels padded to 24"},
    {4, 65, 96, 96, 4, 1, 1, 2, 3, "groups of 32, even kernel"},
    {2, 80, 64, 64, 16, 1, 7, 8, 4, "groups of 16"},
};

/* Device memory is host memory here. */
template <typename T> T *take(int64_t count, uint32_t seed)
{
    T *p = nullptr;
    CHECK(cudaMalloc(&p, (size_t)count * sizeof(T)) == cudaSuccess);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = from_float<T>((float)(seed >> 8) * 0x1p-23f - 1.0f);
    }
    return p;
}

struct job {
    struct pk_cuda_conv v;
    bf16 *x, *w, *dy;
    float *bias;
    int64_t xs, ws, ys;     // elements
    double *sum, *absolute; // of the products of each output, and of their absolute values
};

/* Sums up one pass in double; returns the number of its outputs. */
int64_t refer(job &j, enum pk_conv_pass pass)
{
    const struct pk_cuda_conv &v = j.v;
    const int64_t count = pass == PK_CONV_FORWARD ? j.ys : pass == PK_CONV_DX ? j.xs : j.ws;
    for (int64_t i = 0; i < count; i++) j.sum[i] = j.absolute[i] = 0;
    for (int64_t i = 0; i < j.ys * v.kernel * v.cg; i++) {
        const int64_t c = i % v.cg, k = i / v.cg % v.kernel, y = i / v.cg / v.kernel;
        const int64_t n = y % v.n, u = y / v.n % v.out, b = y / v.n / v.out;
        const int64_t t = u * v.stride + k - v.left, w = (n * v.cg + c) * v.kernel + k;
        if (t < 0 || t >= v.in) continue;
        const int64_t x = (b * v.in + t) * v.c + n / v.ng * v.cg + c;
        const double left = (double)to_float(pass == PK_CONV_FORWARD ? j.x[x] : j.dy[y]);
        const double right = (double)to_float(pass == PK_CONV_DW ? j.x[x] : j.w[w]);
        const int64_t to = pass == PK_CONV_FORWARD ? y : pass == PK_CONV_DX ? x : w;
        j.sum[to] += left * right;
        j.absolute[to] += fabs(left * right);
    }
    return count;
}

/* Each product of two bf16 is exact in float; a float sum of `terms` of them is off by at most
 * terms * 2^-24 of the sum of their absolute values. A bf16 has 8 significant bits, so that storing
 * moves a value by at most 2^-8 of it (and of what the sum is off by). */
bool near(double got, double want, double absolute, double terms, bool rounded)
{
    const double off = terms * 0x1p-24 * absolute;
    return fabs(got - want) <= off + (rounded ? 0x1p-8 * (fabs(want) + off) : 0);
}

template <typename O> void run(job &j, enum pk_conv_pass pass, bool extra, const struct shape &s)
{
    const int64_t count = refer(j, pass);
    const struct pk_cuda_conv &a = j.v;
    const double terms = 1 + (pass == PK_CONV_FORWARD ? a.cg * a.kernel
                              : pass == PK_CONV_DX    ? a.ng * a.kernel
                                                      : a.batch * a.out);
    const int sms[TURNS] = {1, SMALL, 1 << 20};
    O *to[TURNS];
    for (int turn = 0; turn < TURNS; turn++) {
        pk_err err = {};
        pk_queue q = {};
        struct pk_cuda_conv v = j.v;
        int64_t bad = 0;
        CHECK(cudaStreamCreateWithFlags(&q.stream, cudaStreamNonBlocking) == cudaSuccess);
        q.sms = sms[turn];
        to[turn] = take<O>(count, 7);
        O *before = take<O>(count, 7);
        v.to = to[turn], v.add = extra && pass != PK_CONV_FORWARD;
        v.bias = extra && pass == PK_CONV_FORWARD ? j.bias : nullptr;
        CHECK(cudaMalloc(&v.workspace, pk_cuda_conv_mma_workspace(&v, pass)) == cudaSuccess);
        CHECK(pk_cuda_conv_mma_takes(&v, pass));
        CHECK_OK(pk_cuda_conv_mma(&q, &v, pass, &err), &err);
        CHECK(cudaStreamSynchronize(q.stream) == cudaSuccess);
        for (int64_t i = 0; i < count; i++) {
            const double more = v.add    ? (double)to_float(before[i])
                                : v.bias ? (double)v.bias[i % v.n]
                                         : 0;
            bad += !near((double)to_float(to[turn][i]), j.sum[i] + more, j.absolute[i] + fabs(more),
                         terms, sizeof(O) == 2);
        }
        if (bad)
            fprintf(stderr, "%s, pass %d, %d SMs: %lld of %lld elements wrong\n", s.why, (int)pass,
                    q.sms, (long long)bad, (long long)count);
        CHECK(!bad);
        CHECK(cudaFree(before) == cudaSuccess && cudaFree(v.workspace) == cudaSuccess);
        CHECK(cudaStreamDestroy(q.stream) == cudaSuccess);
    }
    for (int turn = 1; turn < TURNS; turn++)
        CHECK(!memcmp(to[0], to[turn], (size_t)count * sizeof(O)));
    for (O *p : to) CHECK(cudaFree(p) == cudaSuccess);
}

void test(const shape &s)
{
    job j = {};
    struct pk_cuda_conv &v = j.v;
    v.batch = s.batch, v.in = s.in, v.c = s.c, v.n = s.n, v.kernel = s.kernel, v.stride = s.stride;
    v.left = s.left, v.groups = s.groups, v.cg = s.c / s.groups, v.ng = s.n / s.groups;
    v.out = (s.in + s.left + s.right - s.kernel) / s.stride + 1, v.parts = 3, v.type = PK_BF16;
    j.xs = (int64_t)v.batch * v.in * v.c, j.ys = (int64_t)v.batch * v.out * v.n;
    j.ws = (int64_t)v.n * v.cg * v.kernel;
    v.x = j.x = take<bf16>(j.xs, 1), v.w = j.w = take<bf16>(j.ws, 2);
    v.dy = j.dy = take<bf16>(j.ys, 3), j.bias = take<float>(v.n, 4);
    const int64_t most = j.xs > j.ys ? j.xs : j.ys, all = most > j.ws ? most : j.ws;
    j.sum = new double[(size_t)all], j.absolute = new double[(size_t)all];
    for (int extra = 0; extra < 2; extra++) {
        run<bf16>(j, PK_CONV_FORWARD, extra, s);
        if (v.cg % 8 == 0) run<bf16>(j, PK_CONV_DX, extra, s);
        run<float>(j, PK_CONV_DW, extra, s);
    }
    void *taken[] = {j.x, j.w, j.dy, j.bias};
    for (void *p : taken) CHECK(cudaFree(p) == cudaSuccess);
    delete[] j.sum;
    delete[] j.absolute;
}

void test_takes()
{
    struct pk_cuda_conv v = {};
    v.type = PK_BF16, v.groups = 1, v.cg = v.ng = 8;
    CHECK(pk_cuda_conv_mma_takes(&v, PK_CONV_DX));
    v.cg = 12; // padding x is cheap, taking it out of dx is not done
    CHECK(pk_cuda_conv_mma_takes(&v, PK_CONV_FORWARD) && pk_cuda_conv_mma_takes(&v, PK_CONV_DW));
    CHECK(!pk_cuda_conv_mma_takes(&v, PK_CONV_DX));
    v.groups = 2;
    CHECK(!pk_cuda_conv_mma_takes(&v, PK_CONV_FORWARD));
    v.groups = 1, v.cg = 1;
    CHECK(!pk_cuda_conv_mma_takes(&v, PK_CONV_FORWARD));
    v.cg = 8, v.ng = 12;
    CHECK(!pk_cuda_conv_mma_takes(&v, PK_CONV_FORWARD));
    v.ng = 8, v.type = PK_F32; // float stays float
    CHECK(!pk_cuda_conv_mma_takes(&v, PK_CONV_FORWARD));
}
} // namespace

int main(void)
{
    for (const shape &s : shapes) test(s);
    test_takes();
    return TEST_END();
}
