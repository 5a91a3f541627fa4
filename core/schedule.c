/* schedule.c -- warm-up, then constant, linear or cosine (see schedule.h). */
#include "core/schedule.h"

#include <math.h>

enum pk_status pk_schedule_check(const struct pk_schedule *s, const char *what, struct pk_err *err)
{
    if (s->steps < 1)
        return pk_fail(err, PK_EINVAL, "%s: a schedule over %lld steps; give at least 1", what,
                       (long long)s->steps);
    if (s->warmup < 0 || s->warmup > s->steps)
        return pk_fail(err, PK_EINVAL, "%s: warm-up of %lld steps in a run of %lld; give 0 to %lld",
                       what, (long long)s->warmup, (long long)s->steps, (long long)s->steps);
    if (!isfinite(s->start) || !isfinite(s->peak) || !isfinite(s->end))
        return pk_fail(err, PK_EINVAL, "%s: start %g, peak %g, end %g: all must be finite", what,
                       s->start, s->peak, s->end);
    return PK_OK;
}

double pk_schedule_at(const struct pk_schedule *s, int64_t step)
{
    if (step < s->warmup)
        return s->start + (s->peak - s->start) * ((double)step / (double)s->warmup);
    if (s->shape == PK_SHAPE_CONSTANT) return s->peak;
    if (step >= s->steps) return s->end;
    const double part = (double)(step - s->warmup) / (double)(s->steps - s->warmup);
    if (s->shape == PK_SHAPE_LINEAR) return s->peak + (s->end - s->peak) * part;
    return s->peak + (s->end - s->peak) * 0.5 * (1 - cos(3.14159265358979323846 * part));
}
