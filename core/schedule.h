/* schedule.h -- a number that changes over a run: learning rate, weight decay, EMA momentum.
 *
 *     value
 *     peak        /\__            step 0           start (peak when there is no warm-up)
 *                /    \__         step warmup      peak
 *     start  ___/        \_ end   step steps on    end
 *            0  warmup    steps
 *
 * Steps count optimizer steps from 0; the last of a run is steps - 1, so `end` is the value that
 * the run approaches, just as with PyTorch's schedulers. The three named points are met exactly;
 * when two are the same step, the lower line above counts. */
#ifndef PK_SCHEDULE_H
#define PK_SCHEDULE_H

#include "core/base.h"

enum pk_shape { PK_SHAPE_CONSTANT, PK_SHAPE_LINEAR, PK_SHAPE_COSINE };

struct pk_schedule {
    enum pk_shape shape; // of the part after the warm-up
    double start;        // not used without warm-up
    double peak;
    double end;     // not used when constant
    int64_t warmup; // steps of linear rise from start to peak; may be 0
    int64_t steps;  // of the whole run
};

/* PK_EINVAL naming `what` ("learning rate") unless steps >= 1, 0 <= warmup <= steps and all three
 * values are finite. */
enum pk_status pk_schedule_check(const struct pk_schedule *s, const char *what, struct pk_err *err);
/* The value at a step >= 0; pure. With part p of the way from warmup to steps behind it, linear is
 * peak + (end - peak) p, cosine is peak + (end - peak) (1 - cos(pi p)) / 2. */
double pk_schedule_at(const struct pk_schedule *s, int64_t step);

#endif
