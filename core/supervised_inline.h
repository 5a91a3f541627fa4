/* supervised_inline.h -- one entry of the supervised losses and its slope, one text for the host
 * and for devices (see rng_inline.h). All in double: the numbers are few, and the factors of a
 * focal loss span many orders of magnitude. */
#ifndef PK_SUPERVISED_INLINE_H
#define PK_SUPERVISED_INLINE_H

#include "core/ops.h"

#include <math.h>

#ifndef PK_INLINE
#define PK_INLINE static inline
#endif

/* What struct pk_multilabel and the weights say about one entry. */
struct pk_focal {
    double gamma_positive, gamma_negative, margin;
    double positive, negative; // factors of the two terms
};

/* The loss of logit z where the label is y in [0, 1], with p = 1 / (1 + e^-z), m the margin and
 * n = max(p - m, 0):
 *
 *     - positive y (1 - p)^gamma_positive log p - negative (1 - y) n^gamma_negative log(1 - n)
 *
 * *slope (may be NULL) gets the derivative by z, that of the focusing factors included. e^-|z|
 * cannot overflow, and 1 - p = 1 / (1 + e^z) keeps the small side exact. */
PK_INLINE double pk_focal_loss(const struct pk_focal *f, double z, double y, double *slope)
{
    const double e = exp(-fabs(z)), small = e / (1 + e), large = 1 / (1 + e), tail = log1p(e);
    const double p = z > 0 ? large : small, q = z > 0 ? small : large; // q = 1 - p
    const double log_p = (z > 0 ? 0 : z) - tail, log_q = (z > 0 ? -z : 0) - tail;
    const double up = f->positive * y, down = f->negative * (1 - y);
    double loss = 0, by_z = 0;
    if (up != 0) {
        const double focus = f->gamma_positive > 0 ? pow(q, f->gamma_positive) : 1;
        loss -= up * focus * log_p;
        by_z += up * focus * (f->gamma_positive * p * log_p - q);
    }
    const double n = p - f->margin;
    if (down != 0 && (f->margin == 0 || !(n <= 0))) {
        const bool shifted = f->margin > 0;
        const double log_rest = shifted ? log1p(-n) : log_q;
        const double focus = f->gamma_negative > 0 ? pow(n, f->gamma_negative) : 1;
        // dp/dz = p q; without a margin p q / n = q and p q / (1 - n) = p, where n may be 0.
        const double over_n = shifted ? p * q / n : q, over_rest = shifted ? p * q / (1 - n) : p;
        loss -= down * focus * log_rest;
        by_z += down * focus * (over_rest - f->gamma_negative * over_n * log_rest);
    }
    if (slope) *slope = by_z;
    return loss;
}

/* The loss of a difference d and its slope, see enum pk_regression_kind. */
PK_INLINE double pk_distance_loss(int32_t kind, double delta, double d, double *slope)
{
    const double size = fabs(d), sign = (double)((d > 0) - (d < 0));
    if (kind == PK_REGRESSION_SQUARED) {
        if (slope) *slope = 2 * d;
        return d * d;
    }
    if (kind == PK_REGRESSION_ABSOLUTE) {
        if (slope) *slope = sign;
        return size;
    }
    if (slope) *slope = size < delta ? d : delta * sign;
    return size < delta ? d * d / 2 : delta * (size - delta / 2);
}

#endif
