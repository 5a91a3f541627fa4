/* schedule.c -- warm-up, then constant, linear or cosine; one cycle (see schedule.h). */
#include "core/schedule.h"

#include <math.h>

enum pk_status pk_schedule_check(const struct pk_schedule *s, const char *what, struct pk_err *err)
{
    if (s->steps < 1)
        return pk_fail(err, PK_EINVAL, "%s: a schedule over %lld steps; give at least 1", what,
                       (long long)s->steps);
    const bool cycle = s->shape == PK_SHAPE_ONE_CYCLE;
    if (cycle && !(s->rise >= 0 && s->rise < 1))
        return pk_fail(err, PK_EINVAL,
                       "%s: a share of %g of the run rises; give a number from 0 to below 1", what,
                       s->rise);
    if (!cycle && (s->warmup < 0 || s->warmup > s->steps))
        return pk_fail(err, PK_EINVAL, "%s: warm-up of %lld steps in a run of %lld; give 0 to %lld",
                       what, (long long)s->warmup, (long long)s->steps, (long long)s->steps);
    if (!isfinite(s->start) || !isfinite(s->peak) || !isfinite(s->end))
        return pk_fail(err, PK_EINVAL, "%s: start %g, peak %g, end %g: all must be finite", what,
                       s->start, s->peak, s->end);
    return PK_OK;
}

static const double pi = 3.14159265358979323846;

/* The formula is PyTorch's, so that the bits are, too. */
static double one_cycle(const struct pk_schedule *s, int64_t step)
{
    const double top = s->rise * (double)s->steps - 1, last = (double)s->steps - 1;
    const double at = (double)step;
    if (at >= last) return s->end;
    const bool rises = top > 0 && at <= top;
    const double part = rises ? at / top : (at - top) / (last - top);
    const double from = rises ? s->start : s->peak, to = rises ? s->peak : s->end;
    return to + (from - to) / 2 * (cos(pi * part) + 1);
}

double pk_schedule_at(const struct pk_schedule *s, int64_t step)
{
    if (s->shape == PK_SHAPE_ONE_CYCLE) return one_cycle(s, step);
    if (step < s->warmup)
        return s->start + (s->peak - s->start) * ((double)step / (double)s->warmup);
    if (s->shape == PK_SHAPE_CONSTANT) return s->peak;
    if (step >= s->steps) return s->end;
    const double part = (double)(step - s->warmup) / (double)(s->steps - s->warmup);
    if (s->shape == PK_SHAPE_LINEAR) return s->peak + (s->end - s->peak) * part;
    return s->peak + (s->end - s->peak) * 0.5 * (1 - cos(pi * part));
}
