/* loader.c -- batches in a reproducible order, read ahead by threads (see loader.h).
 *
 * A ring of ahead + 2 slots holds the steps [head - 1, head + ahead]; `head` and the step before
 * are lent to the caller. A slot is planned by one thread (which records, where from, labels), then
 * filled by all of them in small chunks. One mutex guards every state; reading happens outside of
 * it. */
#include "core/loader.h"
#include "core/loader_order.h"

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
    struct pk_order order;
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

/* Which sample of the batch the slice's sample i is. */
static int64_t sample_of(const struct pk_loader_spec *s, int32_t i)
{
    return i / s->stride_count * (s->batch / pk_loader_parts(s)) + s->first + i % s->stride_count;
}

static void plan(const struct pk_loader *l, struct slot *slot, int64_t step)
{
    const struct pk_loader_spec *s = &l->spec;
    struct pk_batch *b = &slot->batch;
    b->step = step;
    for (int32_t i = 0; i < b->n; i++) {
        int64_t g = step * s->batch + sample_of(s, i), row = pk_order_row(&l->order, g);
        b->sample[i] = g;
        b->row[i] = row;
        const uint64_t who = s->data->record[row].patient;
        b->group[i] = who ? (int64_t)(who & INT64_MAX) : -1 - row;
        b->crop[i] = pk_order_start(s, g, row);
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

static enum pk_status alloc_slot(const struct pk_loader_spec *s, struct slot *slot,
                                 struct pk_err *err)
{
    struct pk_batch *b = &slot->batch;
    size_t n = (size_t)s->stride_count * (size_t)pk_loader_parts(s), leads = (size_t)s->data->leads;
    b->n = s->stride_count * pk_loader_parts(s);
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
    PK_TRY(pk_order_open(&l->order, &l->spec, err));
    if (l->spec.threads < 1 || l->spec.threads > PK_THREADS_MAX || l->spec.ahead < 1 ||
        l->spec.ahead > 1024)
        return pk_fail(err, PK_EINVAL,
                       "loader with %d threads and %d batches ahead: 1 to %d and 1 "
                       "to 1024 are possible",
                       l->spec.threads, l->spec.ahead, PK_THREADS_MAX);
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
    pk_order_free(&l->order);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->done);
    free(l);
}
