/* test_gemm.cc -- every tile of the own GEMM, every product and epilogue, at its edges: against
 * double, against the other tiles bit for bit, and with few SMs, so that a CTA walks over several
 * tiles. */
#include "cuda/gemm.h"

#include "cuda/gelu.h"

#include "tests/test.h"

namespace
{
struct shape {
    int64_t m, n, k;
    const char *why;
};

const shape shapes[] = {
    {1, 8, 8, "one chunk"},
    {257, 136, 40, "one row beyond two tiles, depth short of a step"},
    {130, 264, 72, "several tiles of columns"},
    {64, 128, 96, "no edges"},
    {33, 65, 31, "odd everywhere"},
    {9, 24, 2100, "deep: TN in several parts"},
};

/* Device memory is host memory here. */
template <typename T> T *take(int64_t count, uint32_t seed, float scale)
{
    T *p = nullptr;
    CHECK(cudaMalloc(&p, (size_t)count * sizeof(T)) == cudaSuccess);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = from_float<T>(((float)(seed >> 8) * 0x1p-23f - 1.0f) * scale);
    }
    return p;
}

double gelu_of(double x)
{
    return 0.5 * x * erfc(-x * sqrt(0.5));
}
double slope_of(double x)
{
    return 0.5 * erfc(-x * sqrt(0.5)) + x * exp(-0.5 * x * x) / sqrt(2 * acos(-1.0));
}

template <typename S, typename O> struct job {
    struct pk_cuda_gemm g;
    S *a, *b, *pre, *at;
    float *bias, *sums;
    O *y, *before;
    double *product; // in double
    double *column;  // sums of a's columns (TN)
};

template <typename S, typename O> void prepare(job<S, O> &j, const shape &s, pk_product product)
{
    struct pk_cuda_gemm &g = j.g;
    g = {};
    g.product = product, g.dtype = sizeof(S) == 2 ? PK_BF16 : PK_F32;
    g.m = s.m, g.n = s.n, g.k = s.k;
    g.a = j.a = take<S>(s.m * s.k, 1, 1), g.b = j.b = take<S>(s.n * s.k, 2, 1);
    j.bias = take<float>(s.n, 3, 1), j.sums = take<float>(s.m, 4, 1);
    j.pre = take<S>(s.m * s.n, 5, 1), j.at = take<S>(s.m * s.n, 6, 3);
    j.before = take<O>(s.m * s.n, 7, 1), j.y = take<O>(s.m * s.n, 7, 1), g.y = j.y;
    CHECK(cudaMalloc(&g.workspace, pk_cuda_gemm_workspace(s.m, s.n, s.k) + 16) == cudaSuccess);
    j.product = new double[(size_t)(s.m * s.n)], j.column = new double[(size_t)s.m];
    for (int64_t r = 0; r < s.m; r++) {
        j.column[r] = 0;
        for (int64_t i = 0; i < s.k && product == PK_PRODUCT_TN; i++)
            j.column[r] += (double)to_float(j.a[i * s.m + r]);
        for (int64_t c = 0; c < s.n; c++) {
            double sum = 0;
            for (int64_t i = 0; i < s.k; i++)
                sum += (double)to_float(j.a[product == PK_PRODUCT_TN ? i * s.m + r : r * s.k + i]) *
                       (double)to_float(j.b[product == PK_PRODUCT_NT ? c * s.k + i : i * s.n + c]);
            j.product[r * s.n + c] = sum;
        }
    }
}

template <typename S, typename O> void finish(job<S, O> &j)
{
    void *all[] = {j.a, j.b, j.bias, j.sums, j.pre, j.at, j.before, j.y, j.g.workspace};
    for (void *p : all) CHECK(cudaFree(p) == cudaSuccess);
    delete[] j.product;
    delete[] j.column;
}

/* Largest error over the largest value, for a result in T. */
template <typename T>
double error(const T *got, int64_t count, const double *product,
             double (*want)(const void *, int64_t, double), const void *ctx)
{
    double far = 0, largest = 1e-30;
    for (int64_t i = 0; i < count; i++) {
        const double w = want(ctx, i, product[i]), off = fabs((double)to_float(got[i]) - w);
        if (!(off <= far)) far = off;
        largest = fmax(largest, fabs(w));
    }
    return far / largest;
}

struct variant {
    pk_epilogue epilogue;
    bool bias, keep, add;
};

template <typename S, typename O> struct context {
    const job<S, O> *j;
    variant v;
    bool activated;
};

template <typename S, typename O> double wanted(const void *ctx, int64_t i, double product)
{
    const context<S, O> *c = (const context<S, O> *)ctx;
    double x = product;
    if (c->v.bias) x += (double)c->j->bias[i % c->j->g.n];
    if (c->v.epilogue == PK_EPILOGUE_GELU && c->activated) x = gelu_of(x);
    if (c->v.epilogue == PK_EPILOGUE_GELU_GRAD) x *= slope_of((double)to_float(c->j->at[i]));
    if (c->v.add) x += (double)to_float(c->j->before[i]);
    return x;
}

template <typename S, typename O>
void run(job<S, O> &j, const pk_queue *q, const variant &v, int tile, O *first, const char *why)
{
    pk_err err = {};
    struct pk_cuda_gemm g = j.g;
    const int64_t count = g.m * g.n;
    const bool sums = g.product == PK_PRODUCT_TN;
    const double bound = sizeof(O) == 2 ? 0x1p-8 : 3e-6;
    g.tile = tile, g.epilogue = v.epilogue, g.accumulate = v.add;
    g.bias = v.bias ? j.bias : nullptr, g.pre = v.keep ? j.pre : nullptr, g.at = j.at;
    g.sums = sums ? j.sums : nullptr;
    memcpy(j.y, j.before, (size_t)count * sizeof(O));
    CHECK_OK(pk_cuda_gemm(q, &g, &err), &err);
    CHECK(cudaStreamSynchronize(q->stream) == cudaSuccess);
    context<S, O> c = {&j, v, true};
    const double e = error(j.y, count, j.product, wanted<S, O>, &c);
    if (!(e <= bound))
        fprintf(stderr, "%s, product %d, epilogue %d, tile %d: error %g\n", why, (int)g.product,
                (int)v.epilogue, tile, e);
    CHECK(e <= bound);
    c.activated = false;
    if (v.keep) CHECK(error(j.pre, count, j.product, wanted<S, O>, &c) <= bound);
    for (int64_t i = 0; sums && i < g.m; i++)
        CHECK_NEAR((double)j.sums[i], j.column[i], 1e-5 * sqrt((double)g.k));
    if (tile)
        CHECK(!memcmp(first, j.y, (size_t)count * sizeof(O)));
    else
        memcpy(first, j.y, (size_t)count * sizeof(O));
}

template <typename S, typename O>
void test(const pk_queue *q, const shape &s, pk_product product, const variant *list, int variants)
{
    job<S, O> j;
    prepare(j, s, product);
    O *first = new O[(size_t)(s.m * s.n)];
    for (int v = 0; v < variants; v++)
        for (int tile = 0; tile < (sizeof(S) == 2 ? (int)PK_TILE_COUNT : 1); tile++)
            if (sizeof(S) != 2 || pk_cuda_gemm_has(product, tile))
                run(j, q, list[v], tile, first, s.why);
    delete[] first;
    finish(j);
}

template <typename S> void test_type(const pk_queue *q)
{
    const variant forward[] = {{PK_EPILOGUE_PLAIN, false, false, false},
                               {PK_EPILOGUE_PLAIN, true, false, false},
                               {PK_EPILOGUE_GELU, true, true, false},
                               {PK_EPILOGUE_GELU, false, false, false}};
    const variant input[] = {{PK_EPILOGUE_PLAIN, false, false, false},
                             {PK_EPILOGUE_PLAIN, false, false, true},
                             {PK_EPILOGUE_GELU_GRAD, false, false, false}};
    const variant weight[] = {{PK_EPILOGUE_PLAIN, false, false, false},
                              {PK_EPILOGUE_PLAIN, false, false, true}};
    for (const shape &s : shapes) {
        test<S, S>(q, s, PK_PRODUCT_NT, forward, 4);
        test<S, S>(q, s, PK_PRODUCT_NN, input, 3);
        test<S, float>(q, s, PK_PRODUCT_TN, weight, 2);
    }
}

void test_parts()
{
    const int64_t rows = 2048 * 201; // one step of ViT
    const int64_t widths[] = {96, 192, 384, 768, 3072};
    CHECK(pk_cuda_gemm_parts(96, 96, 1) == 1);
    CHECK(pk_cuda_gemm_parts(96, 96, 512) == 1);
    for (int64_t m : widths)
        for (int64_t n : widths) {
            const int64_t parts = pk_cuda_gemm_parts(m, n, rows);
            const int64_t tiles = (m + 127) / 128 * ((n + 127) / 128) * parts;
            CHECK(parts >= 1 && parts <= 264);
            CHECK((double)tiles >= 0.89 * 264 * (double)((tiles + 263) / 264)); // nearly full waves
            CHECK(pk_cuda_gemm_workspace(m, n, rows) <= 200u << 20);
        }
}

void test_refusals(const pk_queue *q)
{
    pk_err err = {};
    float x[16] = {};
    struct pk_cuda_gemm g = {};
    g.dtype = PK_BF16, g.m = g.n = g.k = 8, g.a = g.b = x, g.y = x;
    g.tile = PK_TILE_COUNT;
    CHECK_FAILS(pk_cuda_gemm(q, &g, &err), PK_EINVAL, &err, "no GEMM tile");
    g.tile = PK_TILE_128X128X64, g.product = PK_PRODUCT_TN;
    CHECK_FAILS(pk_cuda_gemm(q, &g, &err), PK_EINVAL, &err, "no GEMM tile");
    g.tile = 0, g.epilogue = PK_EPILOGUE_GELU;
    CHECK_FAILS(pk_cuda_gemm(q, &g, &err), PK_EINVAL, &err, "no such epilogue");
    g.epilogue = PK_EPILOGUE_PLAIN, g.product = PK_PRODUCT_NT, g.accumulate = true;
    CHECK_FAILS(pk_cuda_gemm(q, &g, &err), PK_EINVAL, &err, "not added");
    g.accumulate = false, g.m = INT32_MAX;
    CHECK_FAILS(pk_cuda_gemm(q, &g, &err), PK_ESHAPE, &err, "too many rows");
}
} // namespace

int main(void)
{
    pk_queue q = {};
    CHECK(cudaStreamCreateWithFlags(&q.stream, cudaStreamNonBlocking) == cudaSuccess);
    q.sms = 2;
    test_type<bf16>(&q);
    test_type<float>(&q);
    test_parts();
    test_refusals(&q);
    CHECK(cudaStreamDestroy(q.stream) == cudaSuccess);
    return TEST_END();
}
