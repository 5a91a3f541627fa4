/* dense.c -- small dense linear algebra in double precision (see dense.h).
 *
 * Loops are written so that compilers vectorise them without being allowed to reorder sums: dots
 * keep eight sums, products of columns run over independent outputs. */
#include "core/dense.h"

#include <math.h>

/* A tile of outputs (32 x 64 doubles, 16 KB) stays in the first-level cache while rows stream by,
 * four at a time: one load and store of an output for four multiplications. */
/* Wider vectors where the processor has them. Lanes are fixed in the code and products are not
 * contracted into sums, so the bits are the same on every x86-64. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__) &&       \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define PK_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PK_WIDE
#endif

enum { TILE_P = 32, TILE_Q = 64, LANES = 8, ROW_TILE = 16 };

struct run {
    void (*fn)(void *ctx, int worker, int workers);
    void *ctx;
    int workers;
};

static void run_worker(void *ctx, int worker)
{
    const struct run *r = ctx;
    r->fn(r->ctx, worker, r->workers);
}

void pk_dense_run(struct pk_pool *pool, void (*fn)(void *ctx, int worker, int workers), void *ctx)
{
    struct run r = {fn, ctx, pool ? pk_pool_workers(pool) : 1};
    if (r.workers == 1)
        fn(ctx, 0, 1);
    else
        pk_pool_run(pool, run_worker, &r);
}

PK_WIDE double pk_dense_dot(const double *a, const double *b, int64_t n)
{
    double s[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) s[k] += a[i + k] * b[i + k];
    for (int k = 0; i < n; i++, k++) s[k] += a[i] * b[i];
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

PK_WIDE void pk_dense_add(double *restrict y, double scale, const double *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] += scale * x[i];
}

struct cross {
    double *out;
    const double *a, *b;
    int64_t p, q, rows;
    bool lower;
};

PK_WIDE static void cross_tile(const struct cross *c, int64_t p0, int64_t q0)
{
    int64_t p1 = PK_MIN(p0 + TILE_P, c->p), n = PK_MIN(c->q - q0, TILE_Q), i = 0;
    for (int64_t k = p0; k < p1; k++)
        for (int64_t j = 0; j < n; j++) c->out[k * c->q + q0 + j] = 0;
    for (; i + 4 <= c->rows; i += 4) {
        const double *b0 = c->b + i * c->q + q0;
        const double *b1 = b0 + c->q, *b2 = b1 + c->q, *b3 = b2 + c->q;
        for (int64_t k = p0; k < p1; k++) {
            const double *a = c->a + i * c->p + k;
            double a0 = a[0], a1 = a[c->p], a2 = a[2 * c->p], a3 = a[3 * c->p];
            double *restrict out = c->out + k * c->q + q0;
            for (int64_t j = 0; j < n; j++)
                out[j] += (a0 * b0[j] + a1 * b1[j]) + (a2 * b2[j] + a3 * b3[j]);
        }
    }
    for (; i < c->rows; i++)
        for (int64_t k = p0; k < p1; k++)
            pk_dense_add(c->out + k * c->q + q0, c->a[i * c->p + k], c->b + i * c->q + q0, n);
}

static void cross_worker(void *ctx, int worker, int workers)
{
    const struct cross *c = ctx;
    int64_t tile = 0;
    for (int64_t p0 = 0; p0 < c->p; p0 += TILE_P)
        for (int64_t q0 = 0; q0 < c->q; q0 += TILE_Q) {
            if (c->lower && q0 >= p0 + TILE_P) continue;
            if (tile++ % workers == worker) cross_tile(c, p0, q0);
        }
}

void pk_dense_cross(double *out, const double *a, int64_t p, const double *b, int64_t q,
                    int64_t rows, bool lower, struct pk_pool *pool)
{
    struct cross c = {out, a, b, p, q, rows, lower};
    pk_dense_run(pool, cross_worker, &c);
}

struct dots {
    double *out;
    const double *a, *b;
    int64_t rows_a, rows_b, n;
};

static void dots_worker(void *ctx, int worker, int workers)
{
    const struct dots *d = ctx;
    for (int64_t first = worker * ROW_TILE; first < d->rows_a; first += workers * ROW_TILE) {
        int64_t last = PK_MIN(first + ROW_TILE, d->rows_a);
        for (int64_t j = 0; j < d->rows_b; j++) // a row of b meets all rows of the tile
            for (int64_t i = first; i < last; i++)
                d->out[i * d->rows_b + j] = pk_dense_dot(d->a + i * d->n, d->b + j * d->n, d->n);
    }
}

void pk_dense_dots(double *out, const double *a, int64_t rows_a, const double *b, int64_t rows_b,
                   int64_t n, struct pk_pool *pool)
{
    struct dots d = {out, a, b, rows_a, rows_b, n};
    pk_dense_run(pool, dots_worker, &d);
}

enum pk_status pk_dense_cholesky(double *a, int64_t n, struct pk_err *err)
{
    for (int64_t i = 0; i < n; i++) {
        double *row = a + i * n;
        for (int64_t j = 0; j < i; j++)
            row[j] = (row[j] - pk_dense_dot(row, a + j * n, j)) / a[j * n + j];
        double pivot = row[i] - pk_dense_dot(row, row, i);
        if (!(pivot > 0) || !isfinite(pivot))
            return pk_fail(err, PK_EDATA,
                           "pivot %lld of %lld is %g: the matrix is not positive definite; a "
                           "larger penalty makes it so",
                           (long long)i, (long long)n, pivot);
        row[i] = sqrt(pivot);
    }
    return PK_OK;
}

void pk_dense_cholesky_solve(const double *l, int64_t n, double *x)
{
    for (int64_t i = 0; i < n; i++) x[i] = (x[i] - pk_dense_dot(l + i * n, x, i)) / l[i * n + i];
    for (int64_t i = n - 1; i >= 0; i--) {
        x[i] /= l[i * n + i];
        pk_dense_add(x, -x[i], l + i * n, i);
    }
}
