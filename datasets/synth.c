/* synth.c -- a dataset of synthetic records in memory (see synth.h; the model is synth_model.c). */
#include "datasets/synth.h"

#include "datasets/synth_model.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SYNTH_LSB 0.001 // mV; PPG in arbitrary units

struct synth {       // pk_dataset.self
    int16_t *signal; // [count, leads, samples]
};

struct job {
    struct pk_dataset *d;
    const struct pk_synth_spec *spec;
    int64_t start, step; // records start, start + step, ...
    struct pk_synth_beat *beat;
    float *frame;
};

/* --- one record ---------------------------------------------------------------------------- */

/* Ten records belong to four patients, who have 4, 3, 2 and 1 of them. */
static int64_t patient_of(int64_t record)
{
    static const int64_t of[10] = {0, 0, 0, 0, 1, 1, 1, 2, 2, 3};
    return record / 10 * 4 + of[record % 10];
}

/* All records of a patient are in one fold, and a hundred records fill ten folds equally. */
static int16_t fold_of(int64_t patient)
{
    return (int16_t)((patient / 4 + 3 * (patient % 4)) % 10 + 1);
}

static void put_bits(uint8_t *label, unsigned bits, int classes)
{
    for (int k = 0; k < classes; k++) label[k] = bits >> k & 1;
}

static void make_record(const struct job *j, int64_t i)
{
    struct pk_dataset *d = j->d;
    const struct pk_synth_spec *s = j->spec;
    struct synth *self = d->self;
    int64_t patient = patient_of(i);
    struct pk_synth_person person = pk_synth_person(s->seed, patient);
    struct pk_synth_plan plan = {.beat = j->beat};
    int16_t *out = self->signal + (size_t)i * (size_t)d->leads * (size_t)d->samples;

    pk_synth_plan(&plan, &person, s->seed, i, s->seconds);
    (s->ppg ? pk_synth_ppg : pk_synth_ecg)(out, j->frame, &plan, &person, s->seed, i, s->rate,
                                           d->samples, SYNTH_LSB);
    struct pk_record *r = &d->record[i];
    uint64_t key[2] = {s->seed, (uint64_t)patient};
    *r = (struct pk_record){.patient = pk_hash64(key, sizeof key, 0),
                            .length = d->samples,
                            .fold = fold_of(patient),
                            .lead_mask = (uint16_t)((1u << d->leads) - 1)};
    for (int32_t l = 0; l < d->leads; l++) r->scale[l] = (float)SYNTH_LSB;
    put_bits(d->task[0].label + i * PK_SYNTH_RHYTHMS, plan.rhythm, PK_SYNTH_RHYTHMS);
    if (!s->ppg)
        put_bits(d->task[1].label + i * PK_SYNTH_MORPHOLOGIES, plan.morphology,
                 PK_SYNTH_MORPHOLOGIES);
    d->target[0].value[i] = (float)plan.heart_rate;
    d->target[1].value[i] = patient % 33 == 32 ? NAN : (float)person.age;
}

static void *make_records(void *arg)
{
    const struct job *j = arg;
    for (int64_t i = j->start; i < j->spec->records; i += j->step) make_record(j, i);
    return NULL;
}

/* --- the dataset --------------------------------------------------------------------------- */

static enum pk_status read_part(const struct pk_dataset *d, int64_t index, int32_t start,
                                int32_t samples, int16_t *dst, struct pk_err *err)
{
    const struct synth *self = d->self;
    if (index < 0 || index >= d->count || start < 0 || samples < 1 || samples > d->samples - start)
        return pk_fail(err, PK_EINVAL, "record %lld of %lld, samples %d to %d of %d do not exist",
                       (long long)index, (long long)d->count, start, start + samples, d->samples);
    const int16_t *src =
        self->signal + (size_t)index * (size_t)d->leads * (size_t)d->samples + start;
    for (int32_t l = 0; l < d->leads; l++)
        memcpy(dst + (size_t)l * (size_t)samples, src + (size_t)l * (size_t)d->samples,
               (size_t)samples * sizeof *dst);
    return PK_OK;
}

static enum pk_status read_whole(const struct pk_dataset *d, int64_t index, int16_t *dst,
                                 struct pk_err *err)
{
    return read_part(d, index, 0, d->samples, dst, err);
}

static void record_id(const struct pk_dataset *d, int64_t index, char out[64])
{
    (void)d;
    snprintf(out, 64, "synth-%07lld", (long long)index);
}

static void close_synth(struct pk_dataset *d)
{
    struct synth *self = d->self;
    if (self) free(self->signal);
    free(self);
    d->self = NULL;
}

static enum pk_status add_task(struct pk_dataset *d, const char *name, const char *const *classes,
                               int32_t n, struct pk_err *err)
{
    struct pk_task *t = &d->task[d->tasks++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->classes = n;
    PK_TRY(pk_alloc(&t->class_name, (size_t)n, PK_NAME_MAX, "class names", err));
    for (int32_t k = 0; k < n; k++) snprintf(t->class_name[k], PK_NAME_MAX, "%s", classes[k]);
    return pk_alloc(&t->label, (size_t)d->count, (size_t)n, "labels", err);
}

static enum pk_status add_target(struct pk_dataset *d, const char *name, struct pk_err *err)
{
    struct pk_target *t = &d->target[d->targets++];
    snprintf(t->name, sizeof t->name, "%s", name);
    return pk_alloc(&t->value, (size_t)d->count, sizeof *t->value, "targets", err);
}

static enum pk_status alloc_columns(struct pk_dataset *d, bool ppg, struct pk_err *err)
{
    static const char *const rhythm[] = {"af", "bradycardia", "pvc", "sinus", "tachycardia"};
    static const char *const morphology[] = {"lbbb",          "lvh",          "normal",     "rbbb",
                                             "st_depression", "st_elevation", "t_inversion"};
    PK_TRY(pk_alloc(&d->record, (size_t)d->count, sizeof *d->record, "records", err));
    PK_TRY(pk_alloc(&d->source, 1, sizeof *d->source, "sources", err));
    d->sources = 1;
    snprintf(d->source[0].name, PK_NAME_MAX, "synthetic");
    d->source[0].count = d->count;
    PK_TRY(pk_alloc(&d->task, 2, sizeof *d->task, "tasks", err));
    PK_TRY(add_task(d, "rhythm", rhythm, PK_SYNTH_RHYTHMS, err));
    if (!ppg) PK_TRY(add_task(d, "morphology", morphology, PK_SYNTH_MORPHOLOGIES, err));
    PK_TRY(pk_alloc(&d->target, 2, sizeof *d->target, "targets", err));
    PK_TRY(add_target(d, "heart_rate", err));
    return add_target(d, "age", err);
}

static void describe(struct pk_dataset *d, const struct pk_synth_spec *s)
{
    static const char *const ecg[] = {"I",  "II", "III", "aVR", "aVL", "aVF",
                                      "V1", "V2", "V3",  "V4",  "V5",  "V6"};
    snprintf(d->name, sizeof d->name, "synthetic");
    snprintf(d->modality, sizeof d->modality, "%s", s->ppg ? "ppg" : "ecg");
    snprintf(d->units, sizeof d->units, "%s", s->ppg ? "a.u." : "mV");
    snprintf(d->preprocessing, sizeof d->preprocessing, "none: generated");
    snprintf(d->version, sizeof d->version, "synthetic 1, seed %llu", (unsigned long long)s->seed);
    d->count = s->records;
    d->leads = s->ppg ? 1 : PK_SYNTH_ECG_LEADS;
    d->samples = (int32_t)lrint(s->rate * s->seconds);
    d->rate = s->rate;
    for (int32_t l = 0; l < d->leads; l++)
        snprintf(d->lead_name[l], sizeof d->lead_name[l], "%s", s->ppg ? "PPG" : ecg[l]);
    d->read = read_whole;
    d->read_part = read_part;
    d->record_id = record_id;
    d->close = close_synth;
}

/* Runs the jobs, job 0 here; a thread that cannot be started is run here too. */
static void run_jobs(struct job *job, int threads)
{
    pthread_t id[PK_THREADS_MAX];
    bool started[PK_THREADS_MAX] = {false};
    for (int t = 1; t < threads; t++)
        started[t] = pthread_create(&id[t], NULL, make_records, &job[t]) == 0;
    for (int t = 0; t < threads; t++)
        if (!started[t]) make_records(&job[t]);
    for (int t = 1; t < threads; t++)
        if (started[t]) pthread_join(id[t], NULL);
}

static enum pk_status generate(struct pk_dataset *d, const struct pk_synth_spec *s,
                               struct pk_err *err)
{
    struct job job[PK_THREADS_MAX] = {{0}};
    struct synth *self;
    enum pk_status st = PK_OK;
    int threads = PK_MIN(s->threads, (int)PK_THREADS_MAX);
    describe(d, s);
    PK_TRY(alloc_columns(d, s->ppg, err));
    PK_TRY(pk_alloc(&self, 1, sizeof *self, "synthetic data", err));
    d->self = self;
    PK_TRY(pk_alloc(&self->signal, (size_t)d->count * (size_t)d->leads,
                    (size_t)d->samples * sizeof *self->signal, "synthetic signals", err));
    for (int t = 0; t < threads && st == PK_OK; t++) {
        job[t] = (struct job){.d = d, .spec = s, .start = t, .step = threads};
        st = pk_alloc(&job[t].beat, (size_t)PK_SYNTH_BEATS(s->seconds), sizeof *job[t].beat,
                      "beats", err);
        if (st == PK_OK)
            st = pk_alloc(&job[t].frame, 6 * (size_t)d->samples, sizeof(float), "frame", err);
    }
    if (st == PK_OK) run_jobs(job, threads);
    for (int t = 0; t < threads; t++) {
        free(job[t].beat);
        free(job[t].frame);
    }
    PK_TRY(st);
    return pk_dataset_stats(d, NULL, 0, threads, d->source[0].mean, d->source[0].std, err);
}

enum pk_status pk_synth_open(struct pk_dataset *out, const struct pk_synth_spec *s,
                             struct pk_err *err)
{
    *out = (struct pk_dataset){0};
    if (s->records < 1 || s->records > 100000000)
        return pk_fail(err, PK_EINVAL, "%lld synthetic records: 1 to 100000000 are possible",
                       (long long)s->records);
    if (!(s->rate >= 25 && s->rate <= 2000) || !(s->seconds >= 1 && s->seconds <= 3600))
        return pk_fail(err, PK_EINVAL,
                       "synthetic records of %g s at %g Hz: 1 to 3600 s and 25 to 2000 "
                       "Hz are possible",
                       s->seconds, s->rate);
    if (s->threads < 1) return pk_fail(err, PK_EINVAL, "synthetic data need at least one thread");
    enum pk_status st = generate(out, s, err);
    if (st != PK_OK) pk_dataset_free(out);
    return st;
}
