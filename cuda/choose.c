/* choose.c -- how a choice between own kernels and a library is made: mode, timing, JSON members.
 */
#include "cuda/choose.h"

#include "core/view.h"
#include "cuda/gemm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum pk_status pk_choose_mode(enum pk_choose_mode *mode, const char *variable, const char *library,
                              struct pk_err *err)
{
    const char *s = getenv(variable);
#ifdef PK_CUDA_HOST
    *mode = PK_CHOOSE_OWN; // times on the host executor mean nothing
#else
    *mode = PK_CHOOSE_TUNE;
#endif
    if (!s || !*s) return PK_OK;
    if (!strcmp(s, "own"))
        *mode = PK_CHOOSE_OWN;
    else if (!strcmp(s, library))
        *mode = PK_CHOOSE_LIBRARY;
    else if (!strcmp(s, "tune"))
        *mode = PK_CHOOSE_TUNE;
    else
        return pk_fail(err, PK_EINVAL, "%s is \"%s\"; it may be own, %s or tune", variable, s,
                       library);
    return PK_OK;
}

/* --- timing ---------------------------------------------------------------------------------- */

enum {
    BATCHES = 3, // a candidate's time is the best of as many, since disturbances only add
    LONGEST = 20 // runs of one batch
};
static const double batch_seconds = 1e-3, margin = 0.98; // a later candidate must be 2 % faster

struct timer {
    cudaEvent_t from, to;
    const struct pk_contest *contest;
};

/* Seconds of one of `count` runs. */
static enum pk_status batch(const struct timer *t, int i, int count, double *seconds,
                            struct pk_err *err)
{
    const struct pk_contest *c = t->contest;
    float ms = 0;
    PK_TRY(pk_cuda_check(cudaEventRecord(t->from, c->q->stream), "timing a candidate", err));
    for (int k = 0; k < count; k++) PK_TRY(c->run(c->ctx, i, err));
    PK_TRY(pk_cuda_check(cudaEventRecord(t->to, c->q->stream), "timing a candidate", err));
    PK_TRY(pk_cuda_check(cudaEventSynchronize(t->to), "timing a candidate", err));
    PK_TRY(pk_cuda_check(cudaEventElapsedTime(&ms, t->from, t->to), "timing a candidate", err));
    *seconds = 1e-3 * (double)ms / count;
    return PK_OK;
}

/* Seconds of candidate i; gives up early on one that is hopeless against `best`. */
static enum pk_status measure(const struct timer *t, int i, double best, double *seconds,
                              struct pk_err *err)
{
    double once;
    PK_TRY(batch(t, i, 1, &once, err)); // the first run loads the kernel
    PK_TRY(batch(t, i, 1, &once, err));
    *seconds = once;
    if (once > 2 * best) return PK_OK;
    const int count = (int)PK_MIN(PK_MAX(batch_seconds / PK_MAX(once, 1e-6), 2), LONGEST);
    for (int k = 0; k < BATCHES; k++) {
        PK_TRY(batch(t, i, count, &once, err));
        *seconds = PK_MIN(*seconds, once);
    }
    return PK_OK;
}

static enum pk_status time_all(const struct timer *t, struct pk_contest_result *out,
                               struct pk_err *err)
{
    const struct pk_contest *c = t->contest;
    double best = INFINITY, own = INFINITY, fastest = INFINITY;
    for (int i = 0; i < c->count; i++) {
        double seconds;
        struct pk_err why = {.status = PK_OK};
        if (measure(t, i, best, &seconds, &why) != PK_OK) {
            /* What was refused before it ran is passed over; a broken device is not. */
            PK_TRY(pk_cuda_check(cudaStreamSynchronize(c->q->stream), why.message, err));
            cudaGetLastError(); // is not the next launch's
            continue;
        }
        fastest = PK_MIN(fastest, seconds);
        if (i < c->own) own = PK_MIN(own, seconds);
        if (!(seconds < (i ? margin : 1) * best)) continue;
        best = seconds;
        out->best = i;
    }
    if (isinf(best)) return c->run(c->ctx, 0, err);
    out->seconds = best;
    out->fastest = fastest;
    out->own_seconds = isinf(own) ? 0 : own;
    return PK_OK;
}

enum pk_status pk_contest_hold(const struct pk_contest *c, struct pk_contest_result *out,
                               struct pk_err *err)
{
    struct timer t = {.contest = c};
    memset(out, 0, sizeof *out);
    enum pk_status s = pk_cuda_check(cudaEventCreate(&t.from), "event", err);
    if (s == PK_OK) s = pk_cuda_check(cudaEventCreate(&t.to), "event", err);
    if (s == PK_OK) s = time_all(&t, out, err);
    if (t.from) cudaEventDestroy(t.from);
    if (t.to) cudaEventDestroy(t.to);
    return s;
}

enum pk_status pk_contest_scatter(const struct pk_queue *q, const struct pk_call *c,
                                  struct pk_err *err)
{
    for (int i = 0; i < PK_NODE_IN; i++) {
        const struct pk_value *v = c->in[i];
        union {
            const void *from;
            void *to;
        } p = {.from = c->src[i]};
        if (!v || v->storage != PK_STORE_ACT) continue;
        PK_TRY(pk_cuda_fill_random(q, p.to, v->dtype, pk_view_count(v), (uint32_t)i + 1, err));
    }
    return PK_OK;
}

/* --- JSON ------------------------------------------------------------------------------------ */

const struct pk_json *pk_choice_member(const struct pk_json *j, const char *key,
                                       enum pk_json_kind kind)
{
    const struct pk_json *v = pk_json_get(j, key);
    return v && v->kind == kind ? v : NULL;
}

bool pk_choice_flag(const struct pk_json *j, const char *key, bool *out)
{
    const struct pk_json *v = pk_choice_member(j, key, PK_JSON_BOOL);
    if (v) *out = v->boolean;
    return v != NULL;
}

bool pk_choice_count(const struct pk_json *j, const char *key, int64_t least, int64_t most,
                     int64_t *out)
{
    const struct pk_json *v = pk_choice_member(j, key, PK_JSON_NUMBER);
    if (!v || !v->is_integer || v->integer < least || v->integer > most) return false;
    *out = v->integer;
    return true;
}

bool pk_choice_seconds(const struct pk_json *j, const char *key, double *out)
{
    const struct pk_json *v = pk_choice_member(j, key, PK_JSON_NUMBER);
    if (!v || !(v->number >= 0 && v->number < 1e6)) return false;
    *out = v->number;
    return true;
}

bool pk_choice_type(const struct pk_json *j, enum pk_dtype *out)
{
    const char *type = pk_json_string(j, "type", "");
    *out = strcmp(type, "f32") ? PK_BF16 : PK_F32;
    return !strcmp(type, "f32") || !strcmp(type, "bf16");
}
