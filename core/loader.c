/* loader.c -- batches in a reproducible order, read ahead by threads (see loader.h).
 *
 * A ring of ahead + 2 slots holds the steps [head - 1, head + ahead]; `head` and the step before
 * are lent to the caller. A slot is planned by one thread (which records, where from, labels), then
 * filled by all of them in small chunks. One mutex guards every state; reading happens outside of
 * it. */
#include "core/loader.h"

#include "core/rng.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum slot_state { SLOT_FREE, SLOT_PLANNING, SLOT_FILLING, SLOT_READY };

struct item { // one record of a batch, in the order of reading
    int64_t row;
    int32_t place; // in the batch
    int32_t start; // first sample
};

struct slot {
    enum slot_state state;
    int32_t next, done; // items taken by readers, items finished
    struct pk_batch batch;
    struct item *item;     // [n], sorted by row
    enum pk_status status; // of the failed item that comes first
    int32_t failed;        // its number, n when none failed
    struct pk_err err;
};

struct pk_loader {
    struct pk_loader_spec spec;
    int64_t rows;   // spec.row_count, or all
    int64_t *pool;  // [rows] dataset rows grouped by source (mixtures only), or by participant
                    // (pairs of those only; single ones are not in it)
    int64_t *first; // [sources + 1] or [participants + 1] into pool
    int64_t participants; // with two rows or more
    int64_t *of_source;   // [sources + 1] into first: a mixture's participants, by source
    int slots, threads;
    struct slot *slot;
    pthread_t thread[PK_THREADS_MAX];
    pthread_mutex_t lock;
    pthread_cond_t work;         // something to do for readers, or quit
    pthread_cond_t done;         // a slot became ready, or a reader became idle
    int64_t lent, head, planned; // oldest step still lent; newest one; first not yet planned
    int busy;                    // readers outside the lock
    bool hold, quit;             // hold: readers take nothing new
};

/* --- the order ----------------------------------------------------------------------------- */

static int64_t row_of(const struct pk_loader_spec *s, int64_t i)
{
    return s->rows ? s->rows[i] : i;
}

static int64_t count_rows(const struct pk_loader_spec *s)
{
    return s->rows ? s->row_count : s->data->count;
}

static uint64_t epoch_key(uint64_t seed, int64_t epoch)
{
    struct pk_rng r = pk_rng_make(seed, PK_RNG_ORDER, (uint64_t)epoch, 0);
    return pk_rng_u64(&r);
}

/* The source of sample g and which of that source's rows it is; count is by source. */
static int64_t draw_mixture(const struct pk_loader_spec *s, const int64_t *count, int64_t g,
                            int32_t *source)
{
    struct pk_rng r = pk_rng_make(s->seed, PK_RNG_MIXTURE, (uint64_t)g, 0);
    double total = 0;
    for (int32_t i = 0; i < s->data->sources; i++) total += s->weight[i];
    double u = pk_rng_uniform(&r) * total;
    *source = -1;
    for (int32_t i = 0; i < s->data->sources; i++) {
        if (!(s->weight[i] > 0)) continue;
        *source = i; // rounding may leave u at the very end: then it is the last one
        if (u < s->weight[i]) break;
        u -= s->weight[i];
    }
    return (int64_t)pk_rng_below(&r, (uint64_t)count[*source]);
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

static int32_t crop_start(const struct pk_loader_spec *s, int64_t g, int64_t row)
{
    const bool adjacent = s->pair == PK_PAIR_ADJACENT;
    const int32_t second = adjacent && g % 2 ? s->crop : 0;
    if (!s->random_crop) return second;
    struct pk_rng r = pk_rng_make(s->seed, PK_RNG_CROP, (uint64_t)(adjacent ? g / 2 : g), 0);
    const int32_t room = s->data->record[row].length - need_of(s);
    return second + (int32_t)pk_rng_below(&r, (uint64_t)room + 1);
}

/* Which of all participants sample g is of, and which of its `rows` rows: see loader.h. of_source:
 * [sources + 1] the first participant of each, for a mixture. */
static int64_t pair_participant(const struct pk_loader_spec *s, const int64_t *of_source,
                                int64_t participants, int64_t g)
{
    const int64_t p = g / 2;
    int64_t count[256];
    int32_t source;
    if (s->weight) {
        for (int32_t i = 0; i < s->data->sources; i++) count[i] = of_source[i + 1] - of_source[i];
        const int64_t k = draw_mixture(s, count, p, &source);
        return of_source[source] + k;
    }
    return (int64_t)pk_bijection((uint64_t)(p % participants), (uint64_t)participants,
                                 epoch_key(s->seed, p / participants));
}

static int64_t pair_row(const struct pk_loader_spec *s, int64_t rows, int64_t g)
{
    // step 1 of the mixture's stream, which pairs by participant do not use otherwise
    struct pk_rng r = pk_rng_make(s->seed, PK_RNG_MIXTURE, (uint64_t)(g / 2), 1);
    const int64_t i = (int64_t)pk_rng_below(&r, (uint64_t)rows);
    const int64_t j = (int64_t)pk_rng_below(&r, (uint64_t)rows - 1);
    return g % 2 ? j + (j >= i) : i;
}

static int64_t locate_row(const struct pk_loader *l, int64_t g)
{
    const struct pk_loader_spec *s = &l->spec;
    int32_t source;
    if (s->pair == PK_PAIR_PARTICIPANT) {
        const int64_t *first = l->first + pair_participant(s, l->of_source, l->participants, g);
        return l->pool[first[0] + pair_row(s, first[1] - first[0], g)];
    }
    if (one_record(s)) g /= 2;
    if (!s->weight)
        return row_of(s, (int64_t)pk_bijection((uint64_t)(g % l->rows), (uint64_t)l->rows,
                                               epoch_key(s->seed, g / l->rows)));
    int64_t count[256];
    for (int32_t i = 0; i < s->data->sources; i++) count[i] = l->first[i + 1] - l->first[i];
    int64_t k = draw_mixture(s, count, g, &source);
    return l->pool[l->first[source] + k];
}

/* A mixture takes the records of a participant in two sources for those of two people. */
static bool in_source(const struct pk_loader_spec *s, int64_t row, int32_t source)
{
    return !s->weight || s->data->record[row].source == source;
}

/* The smallest participant above `after` with two rows or more (of a mixture's source), and how
 * many; 0: there is none. */
static uint64_t next_participant(const struct pk_loader_spec *s, int32_t source, uint64_t after,
                                 int64_t *rows)
{
    for (uint64_t best = after;; after = best) {
        *rows = 0;
        for (int64_t i = 0; i < count_rows(s); i++) {
            const uint64_t who = s->data->record[row_of(s, i)].patient;
            if (!in_source(s, row_of(s, i), source)) continue;
            if (who <= after || (*rows && who > best)) continue;
            *rows = who == best && *rows ? *rows + 1 : 1;
            best = who;
        }
        if (*rows == 0) return 0;
        if (*rows > 1) return best;
    }
}

static int64_t locate_pair(const struct pk_loader_spec *s, int64_t g)
{
    const int32_t sources = s->weight ? s->data->sources : 1;
    int64_t rows, of_source[257] = {0}, row = -1;
    uint64_t who = 0;
    int32_t at = 0;
    for (int32_t i = 0; i < sources; i++, who = 0) {
        of_source[i + 1] = of_source[i];
        while ((who = next_participant(s, i, who, &rows)) != 0) of_source[i + 1]++;
    }
    int64_t k = pair_participant(s, of_source, of_source[sources], g);
    while (k >= of_source[at + 1]) at++;
    k -= of_source[at];
    for (who = next_participant(s, at, 0, &rows); k > 0; k--)
        who = next_participant(s, at, who, &rows);
    k = pair_row(s, rows, g);
    for (int64_t i = 0; k >= 0; i++) {
        row = row_of(s, i);
        if (s->data->record[row].patient == who && in_source(s, row, at)) k--;
    }
    return row;
}

void pk_loader_locate(const struct pk_loader_spec *spec, int64_t g, int64_t *row, int32_t *start)
{
    int64_t n = count_rows(spec), count[256] = {0}, sample = g;
    int32_t source;
    if (one_record(spec)) g /= 2;
    if (spec->pair == PK_PAIR_PARTICIPANT) {
        *row = locate_pair(spec, g);
    } else if (!spec->weight) {
        *row = row_of(spec, (int64_t)pk_bijection((uint64_t)(g % n), (uint64_t)n,
                                                  epoch_key(spec->seed, g / n)));
    } else {
        for (int64_t i = 0; i < n; i++) count[spec->data->record[row_of(spec, i)].source]++;
        int64_t k = draw_mixture(spec, count, g, &source);
        for (int64_t i = 0; i < n; i++) {
            *row = row_of(spec, i);
            if (spec->data->record[*row].source == source && k-- == 0) break;
        }
    }
    *start = crop_start(spec, sample, *row);
}

/* --- planning and reading (outside the lock) ----------------------------------------------- */

static int by_row(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->row != y->row) return x->row < y->row ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static void plan_record(const struct pk_loader_spec *s, struct pk_batch *b, int32_t i, int64_t row)
{
    const struct pk_dataset *d = s->data;
    const struct pk_record *r = &d->record[row];
    size_t at = (size_t)i * (size_t)d->leads;
    pk_record_scaling(r, d->leads, s->mean ? s->mean[r->source] : d->source[r->source].mean,
                      s->std ? s->std[r->source] : d->source[r->source].std, b->gain + at,
                      b->offset + at);
    if (b->label) {
        size_t k = (size_t)s->task->classes;
        memcpy(b->label + (size_t)i * k, s->task->label + (size_t)row * k, k);
    }
}

static int32_t parts_of(const struct pk_loader_spec *s)
{
    return PK_MAX(s->parts, 1);
}

/* Which sample of the batch the slice's sample i is. */
static int64_t sample_of(const struct pk_loader_spec *s, int32_t i)
{
    return i / s->stride_count * (s->batch / parts_of(s)) + s->first + i % s->stride_count;
}

static void plan(const struct pk_loader *l, struct slot *slot, int64_t step)
{
    const struct pk_loader_spec *s = &l->spec;
    struct pk_batch *b = &slot->batch;
    b->step = step;
    for (int32_t i = 0; i < b->n; i++) {
        int64_t g = step * s->batch + sample_of(s, i), row = locate_row(l, g);
        b->sample[i] = g;
        b->row[i] = row;
        const uint64_t who = s->data->record[row].patient;
        b->group[i] = who ? (int64_t)(who & INT64_MAX) : -1 - row;
        b->crop[i] = crop_start(s, g, row);
        slot->item[i] = (struct item){.row = row, .place = i, .start = b->crop[i]};
        plan_record(s, b, i, row);
    }
    qsort(slot->item, (size_t)b->n, sizeof *slot->item, by_row);
    slot->next = slot->done = 0;
    slot->status = PK_OK;
    slot->failed = b->n;
}

/* Reads items [from, to); returns the number of the first that failed, else `to`. */
static int32_t fill(const struct pk_loader *l, const struct slot *slot, int32_t from, int32_t to,
                    enum pk_status *status, struct pk_err *err)
{
    const struct pk_dataset *d = l->spec.data;
    size_t size = (size_t)d->leads * (size_t)l->spec.crop;
    if (l->spec.plan_only) return to;
    for (int32_t i = from; i < to; i++) {
        const struct item *it = &slot->item[i];
        *status = d->read_part(d, it->row, it->start, l->spec.crop,
                               slot->batch.signal + (size_t)it->place * size, err);
        if (*status != PK_OK) {
            char id[64];
            d->record_id(d, it->row, id);
            pk_err_context(err, "record %s (row %lld)", id, (long long)it->row);
            return i;
        }
    }
    return to;
}

/* --- readers (called with the lock held) --------------------------------------------------- */

static struct slot *slot_of(struct pk_loader *l, int64_t step)
{
    return &l->slot[step % l->slots];
}

static bool work_on_chunk(struct pk_loader *l)
{
    struct slot *slot = NULL;
    for (int64_t step = l->head; step < l->planned && !slot; step++) {
        struct slot *s = slot_of(l, step);
        if (s->state == SLOT_FILLING && s->next < s->batch.n) slot = s;
    }
    if (!slot) return false;
    struct pk_err err = {0};
    enum pk_status status = PK_OK;
    int32_t chunk = slot->batch.n / (4 * l->threads);
    chunk = PK_MAX(1, PK_MIN(chunk, 16));
    int32_t from = slot->next, to = PK_MIN(from + chunk, slot->batch.n);
    slot->next = to;
    pthread_mutex_unlock(&l->lock);
    int32_t end = fill(l, slot, from, to, &status, &err);
    pthread_mutex_lock(&l->lock);
    if (status != PK_OK && end < slot->failed) { // the first one, whoever read it
        slot->failed = end;
        slot->status = status;
        slot->err = err;
    }
    slot->done += to - from;
    if (slot->done == slot->batch.n) {
        slot->state = SLOT_READY;
        pthread_cond_signal(&l->done);
    }
    return true;
}

static bool work_on_plan(struct pk_loader *l)
{
    if (l->planned >= l->lent + l->slots) return false;
    int64_t step = l->planned++;
    struct slot *slot = slot_of(l, step);
    slot->state = SLOT_PLANNING;
    pthread_mutex_unlock(&l->lock);
    plan(l, slot, step);
    pthread_mutex_lock(&l->lock);
    slot->state = SLOT_FILLING;
    pthread_cond_broadcast(&l->work);
    return true;
}

static void *reader(void *arg)
{
    struct pk_loader *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->quit) {
        l->busy++;
        bool worked = !l->hold && (work_on_chunk(l) || work_on_plan(l));
        l->busy--;
        if (l->hold && !l->busy) pthread_cond_signal(&l->done);
        if (!worked && !l->quit) pthread_cond_wait(&l->work, &l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* --- the caller ---------------------------------------------------------------------------- */

/* Readers finish what they have in hand, then everything starts over at `step`. */
static void restart(struct pk_loader *l, int64_t step)
{
    l->hold = true;
    while (l->busy) pthread_cond_wait(&l->done, &l->lock);
    for (int i = 0; i < l->slots; i++) l->slot[i].state = SLOT_FREE;
    l->lent = l->head = l->planned = step;
    l->hold = false;
    pthread_cond_broadcast(&l->work);
}

enum pk_status pk_loader_get(struct pk_loader *l, int64_t step, const struct pk_batch **out,
                             double *waited, struct pk_err *err)
{
    double start = pk_seconds();
    *out = NULL;
    if (step < 0 || step >= ((int64_t)1 << 56) / l->spec.batch)
        return pk_fail(err, PK_EINVAL, "step %lld of a loader is out of range", (long long)step);
    pthread_mutex_lock(&l->lock);
    if (step == l->head + 1 && slot_of(l, l->head)->state == SLOT_READY) {
        if (l->lent < l->head) slot_of(l, l->lent)->state = SLOT_FREE;
        l->lent = l->head;
        l->head = step;
        pthread_cond_broadcast(&l->work);
    } else if (step != l->head) {
        restart(l, step);
    }
    struct slot *slot = slot_of(l, step);
    while (slot->state != SLOT_READY) pthread_cond_wait(&l->done, &l->lock);
    pthread_mutex_unlock(&l->lock);
    if (waited) *waited = pk_seconds() - start;
    if (slot->status != PK_OK) return pk_fail(err, slot->status, "%s", slot->err.message);
    *out = &slot->batch;
    return PK_OK;
}

bool pk_loader_memory(const struct pk_loader *l, int i, void **memory, size_t *bytes)
{
    if (i >= l->slots || l->spec.plan_only) return false;
    const struct pk_batch *b = &l->slot[i].batch;
    *memory = b->signal;
    *bytes = (size_t)b->n * (size_t)b->leads * (size_t)b->samples * sizeof *b->signal;
    return true;
}

/* --- opening and closing ------------------------------------------------------------------- */

static enum pk_status check_spec(const struct pk_loader_spec *s, struct pk_err *err)
{
    const struct pk_dataset *d = s->data;
    int64_t n = count_rows(s);
    if (s->batch < 1 || s->batch % parts_of(s) || s->first < 0 || s->stride_count < 1 ||
        s->stride_count > s->batch / parts_of(s) - s->first)
        return pk_fail(err, PK_EINVAL,
                       "samples %d to %d of each of %d parts of a batch of %d cannot be delivered",
                       s->first, s->first + s->stride_count, parts_of(s), s->batch);
    if (s->crop < 1 || s->crop > d->samples)
        return pk_fail(err, PK_EINVAL, "crop of %d samples: records of %s have %d", s->crop,
                       d->name, d->samples);
    if (s->threads < 1 || s->threads > PK_THREADS_MAX || s->ahead < 1 || s->ahead > 1024)
        return pk_fail(err, PK_EINVAL,
                       "loader with %d threads and %d batches ahead: 1 to %d and 1 "
                       "to 1024 are possible",
                       s->threads, s->ahead, PK_THREADS_MAX);
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
static enum pk_status index_mixture(struct pk_loader *l, struct pk_err *err)
{
    const struct pk_loader_spec *s = &l->spec;
    const struct pk_dataset *d = s->data;
    int64_t at[256] = {0};
    PK_TRY(pk_alloc(&l->pool, (size_t)l->rows, sizeof *l->pool, "mixture", err));
    PK_TRY(pk_alloc(&l->first, (size_t)d->sources + 1, sizeof *l->first, "mixture", err));
    for (int64_t i = 0; i < l->rows; i++) l->first[d->record[row_of(s, i)].source + 1]++;
    for (int32_t i = 0; i < d->sources; i++) {
        l->first[i + 1] += l->first[i];
        at[i] = l->first[i];
    }
    for (int64_t i = 0; i < l->rows; i++) {
        int64_t row = row_of(s, i);
        l->pool[at[d->record[row].source]++] = row;
    }
    return check_weights(s, l->first, "record", err);
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
static enum pk_status group_participants(struct pk_loader *l, const struct owned *all,
                                         int64_t count, struct pk_err *err)
{
    const struct pk_dataset *d = l->spec.data;
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
        if (n == 1 && l->spec.pair_all)
            return pk_fail(
                err, PK_EDATA,
                "record %s of %s is the only one of its participant, so it cannot be "
                "paired\nhelp: objective.single_records=true leaves such participants out",
                id, d->name);
        singles += n == 1;
        if (n == 1) continue;
        l->first[l->participants++] = used;
        if (l->of_source) l->of_source[all[i].source + 1]++;
        for (int64_t k = 0; k < n; k++) l->pool[used++] = all[i + k].row;
    }
    l->first[l->participants] = used;
    if (l->participants >= l->spec.batch / 2) return PK_OK;
    return pk_fail(err, PK_EDATA,
                   "data smaller than a batch: %lld participants of %s have two records or more "
                   "(%lld have a single one), a batch takes %d; choose a smaller batch_size or "
                   "more data",
                   (long long)l->participants, d->name, (long long)singles, l->spec.batch / 2);
}

static enum pk_status index_participants(struct pk_loader *l, struct pk_err *err)
{
    struct owned *all;
    PK_TRY(pk_alloc(&l->pool, (size_t)l->rows, sizeof *l->pool, "participants", err));
    PK_TRY(pk_alloc(&l->first, (size_t)l->rows + 1, sizeof *l->first, "participants", err));
    const int32_t sources = l->spec.weight ? l->spec.data->sources : 0;
    if (sources)
        PK_TRY(pk_alloc(&l->of_source, (size_t)sources + 1, sizeof *l->of_source, "mixture", err));
    PK_TRY(pk_alloc(&all, (size_t)l->rows, sizeof *all, "participants", err));
    int64_t n = 0;
    for (int64_t i = 0; i < l->rows; i++) {
        const int64_t row = row_of(&l->spec, i);
        const struct pk_record *r = &l->spec.data->record[row];
        if (sources && !(l->spec.weight[r->source] > 0)) continue; // never drawn from
        all[n++] = (struct owned){sources ? r->source : 0, r->patient, i, row};
    }
    qsort(all, (size_t)n, sizeof *all, by_patient);
    const enum pk_status s = group_participants(l, all, n, err);
    free(all);
    for (int32_t i = 0; i < sources; i++) l->of_source[i + 1] += l->of_source[i];
    if (s != PK_OK || !sources) return s;
    return check_weights(&l->spec, l->of_source, "participant with two records", err);
}

static enum pk_status alloc_slot(const struct pk_loader_spec *s, struct slot *slot,
                                 struct pk_err *err)
{
    struct pk_batch *b = &slot->batch;
    size_t n = (size_t)s->stride_count * (size_t)parts_of(s), leads = (size_t)s->data->leads;
    b->n = s->stride_count * parts_of(s);
    b->leads = s->data->leads;
    b->samples = s->crop;
    if (!s->plan_only)
        PK_TRY(pk_alloc_aligned(&b->signal, n * leads, (size_t)s->crop * 2, "batch", err));
    PK_TRY(pk_alloc(&b->crop, n, sizeof *b->crop, "batch", err));
    PK_TRY(pk_alloc(&b->gain, n * leads, sizeof *b->gain, "batch", err));
    PK_TRY(pk_alloc(&b->offset, n * leads, sizeof *b->offset, "batch", err));
    PK_TRY(pk_alloc(&b->sample, n, sizeof *b->sample, "batch", err));
    PK_TRY(pk_alloc(&b->row, n, sizeof *b->row, "batch", err));
    PK_TRY(pk_alloc(&b->group, n, sizeof *b->group, "batch", err));
    if (s->task) PK_TRY(pk_alloc(&b->label, n, (size_t)s->task->classes, "batch labels", err));
    return pk_alloc(&slot->item, n, sizeof *slot->item, "batch", err);
}

static enum pk_status start(struct pk_loader *l, struct pk_err *err)
{
    PK_TRY(check_spec(&l->spec, err));
    l->rows = count_rows(&l->spec);
    if (l->spec.pair == PK_PAIR_PARTICIPANT)
        PK_TRY(index_participants(l, err));
    else if (l->spec.weight)
        PK_TRY(index_mixture(l, err));
    l->slots = l->spec.ahead + 2;
    PK_TRY(pk_alloc(&l->slot, (size_t)l->slots, sizeof *l->slot, "batches", err));
    for (int i = 0; i < l->slots; i++) PK_TRY(alloc_slot(&l->spec, &l->slot[i], err));
    pthread_mutex_lock(&l->lock); // a reader divides the work by l->threads
    int wanted = l->spec.threads, failed = 0;
    for (; l->threads < wanted && !failed; l->threads += !failed)
        failed = pthread_create(&l->thread[l->threads], NULL, reader, l);
    pthread_mutex_unlock(&l->lock);
    return failed ? pk_fail(err, PK_ENOMEM, "cannot start reader thread %d of %d", l->threads + 1,
                            wanted)
                  : PK_OK;
}

enum pk_status pk_loader_open(struct pk_loader **out, const struct pk_loader_spec *spec,
                              struct pk_err *err)
{
    struct pk_loader *l;
    *out = NULL;
    PK_TRY(pk_alloc(&l, 1, sizeof *l, "loader", err));
    l->spec = *spec;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->done, NULL);
    enum pk_status s = start(l, err);
    if (s != PK_OK) {
        pk_loader_close(l);
        return s;
    }
    *out = l;
    return PK_OK;
}

void pk_batch_free(struct pk_batch *b)
{
    free(b->signal);
    free(b->crop);
    free(b->gain);
    free(b->offset);
    free(b->sample);
    free(b->row);
    free(b->group);
    free(b->label);
}

void pk_loader_close(struct pk_loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->quit = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->threads; i++) pthread_join(l->thread[i], NULL);
    for (int i = 0; l->slot && i < l->slots; i++) {
        pk_batch_free(&l->slot[i].batch);
        free(l->slot[i].item);
    }
    free(l->slot);
    free(l->pool);
    free(l->first);
    free(l->of_source);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->done);
    free(l);
}
