/* stats.h -- how much of its width an embedding uses: the measures by which collapse is noticed.
 *
 *   mean_std        mean over dimensions of the standard deviation over rows (divided by rows)
 *   mean_variance   mean over dimensions of the variance; of an EMA encoder's outputs this is the
 *                   target variance of JEPA
 *   effective_rank  exp(-sum p log p), p = s / sum(s), s the singular values of the centred rows
 *
 * The effective rank is Roy & Vetterli's (2007), the one RankMe (Garrido et al. 2023) uses, but of
 * the *centred* matrix: a constant offset is not information. It runs from 1 (all rows on a line)
 * to min(rows - 1, width), and is 0 when all rows are the same (complete collapse). The singular
 * values are the roots of the covariance's eigenvalues, so those below 1e-8 of the largest are
 * noise, which moves the effective rank by less than 1e-6 of itself per dimension. */
#ifndef PK_STATS_H
#define PK_STATS_H

#include "core/base.h"

struct pk_embedding_stats {
    double mean_std, mean_variance, effective_rank; // all NaN if an element is not finite
};

/* x [rows, width]. Errors: PK_EINVAL sizes below 1, PK_ENOMEM.
 * Cost: with m = min(rows, width), rows * width * m / 2 + 2/3 m^3 multiply-adds in double on one
 * thread; pass a sample of the rows (2 to 4 x width are plenty) when there are many. */
enum pk_status pk_embedding_stats(struct pk_embedding_stats *out, const float *x, int64_t rows,
                                  int64_t width, struct pk_err *err);

/* How embeddings of pairs lie on the sphere (Wang & Isola 2020, arXiv 2005.10242), after
 * normalisation, over the first at most PK_PAIR_ROWS rows:
 *   alignment   mean over pairs of |a - b|^2: 0 when pairs coincide, 2 when they are unrelated
 *   uniformity  log mean over all two rows that are no pair of exp(-2 |x - y|^2): 0 when all
 *               coincide, near -4 when they spread over many dimensions */
enum { PK_PAIR_ROWS = 1024 };
struct pk_pair_stats {
    double alignment, uniformity;
};
/* x [rows, width], rows 2i and 2i + 1 a pair. A row of zeros stays zeros. Errors  PK_EINVAL rows
 * odd or below 4, PK_ENOMEM */
enum pk_status pk_pair_stats(struct pk_pair_stats *out, const float *x, int64_t rows, int64_t width,
                             struct pk_err *err);

/* Eigenvalues of a symmetric matrix a [n, n] (lower triangle read, all destroyed), rising, into
 * value [n]. Absolute error a few 1e-14 of the largest magnitude; finite input only. */
enum pk_status pk_symmetric_eigenvalues(double *value, double *a, int64_t n, struct pk_err *err);

#endif
