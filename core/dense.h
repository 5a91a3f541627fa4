/* dense.h -- the few dense matrix operations that linear models need, in double precision.
 *
 * Matrices are row-major. Every sum has an order that depends on the shapes alone, so results are
 * the same bits for any number of threads. `pool` may be NULL: the caller's thread alone. These are
 * for problems of at most a few thousand features; training uses core/cpu instead. */
#ifndef PK_DENSE_H
#define PK_DENSE_H

#include "core/thread.h"

/* Runs fn(ctx, worker, workers) on the pool, or once in the caller without one. */
void pk_dense_run(struct pk_pool *pool, void (*fn)(void *ctx, int worker, int workers), void *ctx);

/* Sum of a[i] * b[i], in eight interleaved sums. */
double pk_dense_dot(const double *a, const double *b, int64_t n);
/* y += scale * x, [n]. */
void pk_dense_add(double *y, double scale, const double *x, int64_t n);
/* out [p, q] = transpose(a [rows, p]) * b [rows, q]. lower: only tiles that touch the lower
 * triangle are computed (for a == b), the others are left as they were. Cost   rows * p * q
 * multiplications (half of it with lower), about 3 per ns and thread */
void pk_dense_cross(double *out, const double *a, int64_t p, const double *b, int64_t q,
                    int64_t rows, bool lower, struct pk_pool *pool);
/* out [rows_a, rows_b] = a [rows_a, n] * transpose(b [rows_b, n]). */
void pk_dense_dots(double *out, const double *a, int64_t rows_a, const double *b, int64_t rows_b,
                   int64_t n, struct pk_pool *pool);

/* Replaces the lower triangle of the symmetric a [n, n] by its Cholesky factor; the rest is not
 * read. One thread, n^3 / 3.
 * Errors  PK_EDATA  a is not positive definite to working precision (the pivot is named) */
enum pk_status pk_dense_cholesky(double *a, int64_t n, struct pk_err *err);
/* x := inverse(l * transpose(l)) * x for a factor l [n, n]; x [n]. */
void pk_dense_cholesky_solve(const double *l, int64_t n, double *x);

#endif
