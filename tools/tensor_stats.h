/* tensor_stats.h -- minimum, maximum, mean and spread of a tensor in a file, for `inspect`. */
#ifndef PK_TENSOR_STATS_H
#define PK_TENSOR_STATS_H

#include "core/safetensors.h"

struct pk_tensor_stats {
    int64_t elements;
    int64_t nan, infinite;      // how many are not numbers
    double min, max, mean, std; // of the finite ones; NaN when there is none. std over n
};

/* Reads the tensor once, in pieces of 1 MiB; every type is taken as double (64-bit integers round
 * above 2^53). Sums are shifted by the first finite value, so a large mean does not spoil std. */
enum pk_status pk_tensor_stats(const struct pk_safetensors *st, const struct pk_tensor_info *t,
                               struct pk_tensor_stats *out, struct pk_err *err);

#endif
