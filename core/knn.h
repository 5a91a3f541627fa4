/* knn.h -- the nearest-neighbour probe: how well records that lie close together agree.
 *
 * Weighted vote as in the self-supervised literature (Wu et al. 2018, instance discrimination;
 * Caron et al. 2021, DINO): cosine similarity s of the embeddings as they are (not standardised),
 * the k training rows of largest s, weights exp(s / temperature). The vote of a class is the
 * weights of the neighbours that have it over all weights; of a value, the weighted mean. */
#ifndef PK_KNN_H
#define PK_KNN_H

#include "core/linear_search.h"

struct pk_knn_options {
    int32_t k;          // 1 ..; as many as there are when there are fewer
    double temperature; // > 0
};

/* Votes for rows test [tests] from rows train [trains] of l, out [tests, classes] or [tests]. Among
 * equal similarities the row that comes first in train is nearer; an embedding of zeros has
 * similarity 0 with everything. In double, the same bits for any number of threads.
 * Errors  PK_EINVAL options, no training row;  PK_EDATA NaN or infinite features;  PK_ENOMEM
 * Cost    tests * trains * features multiplications */
enum pk_status pk_knn(double *out, const struct pk_learning *l, const int64_t *train,
                      int64_t trains, const int64_t *test, int64_t tests,
                      const struct pk_knn_options *options, struct pk_pool *pool,
                      struct pk_err *err);

#endif
