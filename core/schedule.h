/* schedule.h -- a number that changes over a run: learning rate, weight decay, EMA momentum, beta1.
 *
 *     value
 *     peak        /\__            step 0           start (peak when there is no warm-up)
 *                /    \__         step warmup      peak
 *     start  ___/        \_ end   step steps on    end
 *            0  warmup    steps
 *
 * Steps count optimizer steps from 0; the last of a run is steps - 1, so `end` is the value that
 * the run approaches, just as with PyTorch's schedulers. The three named points are met exactly;
 * when two are the same step, the lower line above counts.
 *
 * PK_SHAPE_ONE_CYCLE (Smith & Topin 2018) is torch.optim.lr_scheduler.OneCycleLR to the step: from
 * start to peak by half a cosine, then from peak to end by another. The top is at step rise *
 * steps - 1, which need not be whole, and `end` is met at the last step, steps - 1; start is met
 * to rounding. In its words pct_start = rise, max_lr = peak, initial_lr = max_lr / div_factor =
 * start and min_lr = initial_lr / final_div_factor = end; beta1 of AdamW goes the other way, from
 * max_momentum (.95) to base_momentum (.85) and back. fastai's fit_one_cycle draws the same curve
 * with the top at step rise * steps and the end one step after the last; its defaults are rise
 * .25, start = peak / 25, end = peak / 1e5. */
#ifndef PK_SCHEDULE_H
#define PK_SCHEDULE_H

#include "core/base.h"

enum pk_shape { PK_SHAPE_CONSTANT, PK_SHAPE_LINEAR, PK_SHAPE_COSINE, PK_SHAPE_ONE_CYCLE };

struct pk_schedule {
    enum pk_shape shape; // of the part after the warm-up
    double start;        // not used without warm-up
    double peak;
    double end;     // not used when constant
    int64_t warmup; // steps of linear rise from start to peak; may be 0; not of ONE_CYCLE
    int64_t steps;  // of the whole run
    double rise;    // ONE_CYCLE: share of the run before the top
};

/* PK_EINVAL naming `what` ("learning rate") unless steps >= 1, 0 <= warmup <= steps (0 <= rise < 1)
 * and all three values are finite. */
enum pk_status pk_schedule_check(const struct pk_schedule *s, const char *what, struct pk_err *err);
/* The value at a step >= 0; pure. With part p of the way from warmup to steps behind it, linear is
 * peak + (end - peak) p, cosine is peak + (end - peak) (1 - cos(pi p)) / 2. */
double pk_schedule_at(const struct pk_schedule *s, int64_t step);

#endif
