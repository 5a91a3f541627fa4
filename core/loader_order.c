/* loader_order.c -- which record and which crop each sample of a run is (see loader.h,
 * loader_order.h). */
#include "core/loader_order.h"

#include "core/loader.h"
#include "core/rng.h"

#include <math.h>
#include <stdlib.h>

static int64_t row_of(const struct pk_loader_spec *s, int64_t i)
{
    return s->rows ? s->rows[i] : i;
}

static int64_t count_rows(const struct pk_loader_spec *s)
{
    return s->rows ? s->row_count : s->data->count;
}

/* Draws a source by weight, then one of those that first has of it: [first[i], first[i + 1]). */
static int64_t draw_mixture(const struct pk_loader_spec *s, const int64_t *first, int64_t g)
{
    struct pk_rng r = pk_rng_make(s->seed, PK_RNG_MIXTURE, (uint64_t)g, 0);
    double total = 0;
    for (int32_t i = 0; i < s->data->sources; i++) total += s->weight[i];
    double u = pk_rng_uniform(&r) * total;
    int32_t source = 0;
    for (int32_t i = 0; i < s->data->sources; i++) {
        if (!(s->weight[i] > 0)) continue;
        source = i; // rounding may leave u at the very end: then it is the last one
        if (u < s->weight[i]) break;
        u -= s->weight[i];
    }
    const int64_t *at = first + source;
    return at[0] + (int64_t)pk_rng_below(&r, (uint64_t)(at[1] - at[0]));
}

/* Number i of an epoch of n, which comes in an order of its own. */
static int64_t permuted(const struct pk_loader_spec *s, int64_t i, int64_t n)
{
    struct pk_rng key = pk_rng_make(s->seed, PK_RNG_ORDER, (uint64_t)(i / n), 0);
    return (int64_t)pk_bijection((uint64_t)(i % n), (uint64_t)n, pk_rng_u64(&key));
}

/* Both of a pair are of one record. */
static bool one_record(const struct pk_loader_spec *s)
{
    return s->pair == PK_PAIR_RECORD || s->pair == PK_PAIR_ADJACENT;
}

/* Samples that a record must have. */
static int32_t need_of(const struct pk_loader_spec *s)
{
    return s->pair == PK_PAIR_ADJACENT ? 2 * s->crop : s->crop;
}

int32_t pk_order_start(const struct pk_loader_spec *s, int64_t g, int64_t row)
{
    const bool adjacent = s->pair == PK_PAIR_ADJACENT;
    const int32_t second = adjacent && g % 2 ? s->crop : 0;
    if (!s->random_crop) return second;
    struct pk_rng r = pk_rng_make(s->seed, PK_RNG_CROP, (uint64_t)(adjacent ? g / 2 : g), 0);
    const int32_t room = s->data->record[row].length - need_of(s);
    return second + (int32_t)pk_rng_below(&r, (uint64_t)room + 1);
}

/* Which of the participant's rows sample g is: see loader.h. */
static int64_t pair_row(const struct pk_loader_spec *s, int64_t rows, int64_t g)
{
    // step 1 of the mixture's stream, which pairs by participant do not use otherwise
    struct pk_rng r = pk_rng_make(s->seed, PK_RNG_MIXTURE, (uint64_t)(g / 2), 1);
    const int64_t i = (int64_t)pk_rng_below(&r, (uint64_t)rows);
    const int64_t j = (int64_t)pk_rng_below(&r, (uint64_t)rows - 1);
    return g % 2 ? j + (j >= i) : i;
}

int64_t pk_order_row(const struct pk_order *o, int64_t g)
{
    const struct pk_loader_spec *s = o->spec;
    if (s->pair == PK_PAIR_PARTICIPANT) {
        const int64_t who =
            s->weight ? draw_mixture(s, o->of_source, g / 2) : permuted(s, g / 2, o->participants);
        const int64_t *first = o->first + who;
        return o->pool[first[0] + pair_row(s, first[1] - first[0], g)];
    }
    if (one_record(s)) g /= 2;
    return s->weight ? o->pool[draw_mixture(s, o->first, g)] : row_of(s, permuted(s, g, o->rows));
}

/* --- checks and indices -------------------------------------------------------------------- */

static enum pk_status check_spec(const struct pk_loader_spec *s, struct pk_err *err)
{
    const struct pk_dataset *d = s->data;
    int64_t n = count_rows(s);
    if (s->batch < 1 || s->batch % pk_loader_parts(s) || s->first < 0 || s->stride_count < 1 ||
        s->stride_count > s->batch / pk_loader_parts(s) - s->first)
        return pk_fail(err, PK_EINVAL,
                       "samples %d to %d of each of %d parts of a batch of %d cannot be delivered",
                       s->first, s->first + s->stride_count, pk_loader_parts(s), s->batch);
    if (s->crop < 1 || s->crop > d->samples)
        return pk_fail(err, PK_EINVAL, "crop of %d samples: records of %s have %d", s->crop,
                       d->name, d->samples);
    if (d->sources < 1 || d->sources > 256)
        return pk_fail(err, PK_EINVAL, "%s has %d sources, 1 to 256 are possible", d->name,
                       d->sources);
    if (s->pair != PK_PAIR_NONE && (s->batch % 2 || s->batch < 4))
        return pk_fail(err, PK_EINVAL,
                       "a batch of %d records in pairs: %s; choose an even batch_size of 4 or more",
                       s->batch,
                       s->batch % 2 ? "one would be left over"
                                    : "a single pair has nothing to be compared with");
    if (n < (one_record(s) ? s->batch / 2 : s->batch))
        return pk_fail(err, PK_EDATA,
                       "data smaller than a batch: %lld records of %s are selected, a "
                       "batch has %d; choose a smaller batch_size or more data",
                       (long long)n, d->name, s->batch);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = row_of(s, i);
        if (row < 0 || row >= d->count)
            return pk_fail(err, PK_EINVAL, "row %lld of %lld does not exist", (long long)row,
                           (long long)d->count);
        if (d->record[row].length < need_of(s)) {
            char id[64];
            d->record_id(d, row, id);
            return pk_fail(err, PK_EDATA,
                           "data smaller than the crop: record %s of %s has %d valid "
                           "samples, %s %d; shorten the crop or leave the record out",
                           id, d->name, d->record[row].length,
                           s->pair == PK_PAIR_ADJACENT ? "two adjacent crops" : "the crop",
                           need_of(s));
        }
    }
    return PK_OK;
}

/* first[i + 1] - first[i] of what there is to draw from (records, pairs of participants) in source
 * i; each weight must be one that can be honoured. */
static enum pk_status check_weights(const struct pk_loader_spec *s, const int64_t *first,
                                    const char *what, struct pk_err *err)
{
    const struct pk_dataset *d = s->data;
    double total = 0;
    for (int32_t i = 0; i < d->sources; i++) {
        if (!(s->weight[i] >= 0 && isfinite(s->weight[i])))
            return pk_fail(err, PK_EINVAL, "mixture weight %g of %s: 0 or more was expected",
                           s->weight[i], d->source[i].name);
        if (s->weight[i] > 0 && first[i + 1] == first[i])
            return pk_fail(err, PK_EINVAL, "mixture weight %g of %s, but no %s of it is selected",
                           s->weight[i], d->source[i].name, what);
        total += s->weight[i];
    }
    return total > 0 ? PK_OK : pk_fail(err, PK_EINVAL, "all mixture weights are 0");
}

/* Groups the rows by source. */
static enum pk_status index_mixture(struct pk_order *o, struct pk_err *err)
{
    const struct pk_loader_spec *s = o->spec;
    const struct pk_dataset *d = s->data;
    int64_t at[256] = {0};
    PK_TRY(pk_alloc(&o->pool, (size_t)o->rows, sizeof *o->pool, "mixture", err));
    PK_TRY(pk_alloc(&o->first, (size_t)d->sources + 1, sizeof *o->first, "mixture", err));
    for (int64_t i = 0; i < o->rows; i++) o->first[d->record[row_of(s, i)].source + 1]++;
    for (int32_t i = 0; i < d->sources; i++) {
        o->first[i + 1] += o->first[i];
        at[i] = o->first[i];
    }
    for (int64_t i = 0; i < o->rows; i++) {
        int64_t row = row_of(s, i);
        o->pool[at[d->record[row].source]++] = row;
    }
    return check_weights(s, o->first, "record", err);
}

struct owned {      // a row and whose it is
    int32_t source; // of a mixture, whose sources share no people; else 0
    uint64_t patient;
    int64_t at, row; // at: place among the selected rows
};

static int by_patient(const void *a, const void *b)
{
    const struct owned *x = a, *y = b;
    if (x->source != y->source) return x->source < y->source ? -1 : 1;
    if (x->patient != y->patient) return x->patient < y->patient ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Puts the participants with two rows or more into pool and first. */
static enum pk_status group_participants(struct pk_order *o, const struct owned *all, int64_t count,
                                         struct pk_err *err)
{
    const struct pk_dataset *d = o->spec->data;
    int64_t used = 0, singles = 0;
    for (int64_t i = 0, n; i < count; i += n) {
        char id[64];
        for (n = 1; i + n < count && all[i + n].patient == all[i].patient &&
                    all[i + n].source == all[i].source;)
            n++;
        d->record_id(d, all[i].row, id);
        if (!all[i].patient)
            return pk_fail(err, PK_EDATA,
                           "record %s of %s belongs to no known participant, so it cannot be "
                           "paired; leave it out or choose other pairs",
                           id, d->name);
        if (n == 1 && o->spec->pair_all)
            return pk_fail(
                err, PK_EDATA,
                "record %s of %s is the only one of its participant, so it cannot be "
                "paired\nhelp: objective.single_records=true leaves such participants out",
                id, d->name);
        singles += n == 1;
        if (n == 1) continue;
        o->first[o->participants++] = used;
        if (o->of_source) o->of_source[all[i].source + 1]++;
        for (int64_t k = 0; k < n; k++) o->pool[used++] = all[i + k].row;
    }
    o->first[o->participants] = used;
    if (o->participants >= o->spec->batch / 2) return PK_OK;
    return pk_fail(err, PK_EDATA,
                   "data smaller than a batch: %lld participants of %s have two records or more "
                   "(%lld have a single one), a batch takes %d; choose a smaller batch_size or "
                   "more data",
                   (long long)o->participants, d->name, (long long)singles, o->spec->batch / 2);
}

static enum pk_status index_participants(struct pk_order *o, struct pk_err *err)
{
    struct owned *all;
    PK_TRY(pk_alloc(&o->pool, (size_t)o->rows, sizeof *o->pool, "participants", err));
    PK_TRY(pk_alloc(&o->first, (size_t)o->rows + 1, sizeof *o->first, "participants", err));
    const int32_t sources = o->spec->weight ? o->spec->data->sources : 0;
    if (sources)
        PK_TRY(pk_alloc(&o->of_source, (size_t)sources + 1, sizeof *o->of_source, "mixture", err));
    PK_TRY(pk_alloc(&all, (size_t)o->rows, sizeof *all, "participants", err));
    int64_t n = 0;
    for (int64_t i = 0; i < o->rows; i++) {
        const int64_t row = row_of(o->spec, i);
        const struct pk_record *r = &o->spec->data->record[row];
        if (sources && !(o->spec->weight[r->source] > 0)) continue; // never drawn from
        all[n++] = (struct owned){sources ? r->source : 0, r->patient, i, row};
    }
    qsort(all, (size_t)n, sizeof *all, by_patient);
    const enum pk_status s = group_participants(o, all, n, err);
    free(all);
    for (int32_t i = 0; i < sources; i++) o->of_source[i + 1] += o->of_source[i];
    if (s != PK_OK || !sources) return s;
    return check_weights(o->spec, o->of_source, "participant with two records", err);
}

enum pk_status pk_order_open(struct pk_order *out, const struct pk_loader_spec *spec,
                             struct pk_err *err)
{
    struct pk_order *o = out;
    *o = (struct pk_order){.spec = spec};
    PK_TRY(check_spec(spec, err));
    o->rows = count_rows(spec);
    enum pk_status s = PK_OK;
    if (spec->pair == PK_PAIR_PARTICIPANT)
        s = index_participants(o, err);
    else if (spec->weight)
        s = index_mixture(o, err);
    if (s != PK_OK) pk_order_free(o);
    return s;
}

void pk_order_free(struct pk_order *o)
{
    free(o->pool);
    free(o->first);
    free(o->of_source);
    *o = (struct pk_order){0};
}
