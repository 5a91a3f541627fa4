/* data.c -- lookups and ownership of datasets (see data.h). */
#include "core/data.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

void pk_dataset_free(struct pk_dataset *d)
{
    if (d->close) d->close(d);
    for (int32_t i = 0; i < d->tasks; i++) {
        free(d->task[i].class_name);
        free(d->task[i].label);
    }
    for (int32_t i = 0; i < d->targets; i++) free(d->target[i].value);
    free(d->task);
    free(d->target);
    free(d->source);
    free(d->record);
    *d = (struct pk_dataset){0};
}

const struct pk_task *pk_dataset_task(const struct pk_dataset *d, const char *name)
{
    for (int32_t i = 0; i < d->tasks; i++)
        if (!strcmp(d->task[i].name, name)) return &d->task[i];
    return NULL;
}

const struct pk_target *pk_dataset_target(const struct pk_dataset *d, const char *name)
{
    for (int32_t i = 0; i < d->targets; i++)
        if (!strcmp(d->target[i].name, name)) return &d->target[i];
    return NULL;
}

void pk_record_scaling(const struct pk_record *r, int32_t leads, const double *mean,
                       const double *std, float *gain, float *offset)
{
    for (int32_t l = 0; l < leads; l++) {
        bool present = r->lead_mask >> l & 1 && std[l] > 0;
        gain[l] = present ? (float)((double)r->scale[l] / std[l]) : 0;
        offset[l] = present ? (float)(mean[l] / std[l]) : 0;
    }
}

struct pk_moments pk_moments_of(const int16_t *raw, int64_t n, double scale)
{
    int64_t sum = 0, squares = 0, used = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t v = raw[i], valid = v != PK_INVALID;
        v = valid ? v : 0;
        used += valid;
        sum += v;
        squares += v * v;
    }
    if (!used) return (struct pk_moments){0};
    double mean = (double)sum / (double)used;
    double m2 = (double)squares - (double)sum * mean;
    return (struct pk_moments){
        .count = (double)used, .mean = mean * scale, .m2 = m2 > 0 ? m2 * scale * scale : 0};
}

void pk_moments_merge(struct pk_moments *into, const struct pk_moments *more)
{
    double count = into->count + more->count, delta = more->mean - into->mean;
    if (!(more->count > 0)) return;
    into->mean += delta * (more->count / count);
    into->m2 += more->m2 + delta * delta * (into->count * (more->count / count));
    into->count = count;
}

/* --- statistics of many records ------------------------------------------------------------ */

enum { STATS_BLOCK = 256 }; // records summed between two merges; bounds the memory

struct stats_job {
    const struct pk_dataset *d;
    const int64_t *rows;
    int64_t first, count;                       // of this block
    int64_t step, start;                        // this thread takes start, start + step, ...
    struct pk_moments (*moments)[PK_LEADS_MAX]; // [STATS_BLOCK], by place in the block
    int16_t *record;                            // [leads, samples], this thread's
    enum pk_status status;
    struct pk_err err;
};

static void *stats_thread(void *arg)
{
    struct stats_job *j = arg;
    const struct pk_dataset *d = j->d;
    for (int64_t i = j->start; i < j->count && j->status == PK_OK; i += j->step) {
        int64_t row = j->rows ? j->rows[j->first + i] : j->first + i;
        const struct pk_record *r = &d->record[row];
        j->status = d->read(d, row, j->record, &j->err);
        for (int32_t l = 0; l < d->leads && j->status == PK_OK; l++)
            j->moments[i][l] = r->lead_mask >> l & 1
                                   ? pk_moments_of(j->record + (size_t)l * (size_t)d->samples,
                                                   r->length, (double)r->scale[l])
                                   : (struct pk_moments){0};
    }
    return NULL;
}

/* Runs the jobs, job 0 here; a thread that cannot be started is run here too. */
static enum pk_status stats_block(struct stats_job *job, int threads, struct pk_err *err)
{
    pthread_t id[PK_THREADS_MAX];
    bool started[PK_THREADS_MAX] = {false};
    for (int t = 1; t < threads; t++)
        started[t] = pthread_create(&id[t], NULL, stats_thread, &job[t]) == 0;
    for (int t = 0; t < threads; t++)
        if (!started[t]) stats_thread(&job[t]);
    for (int t = 1; t < threads; t++)
        if (started[t]) pthread_join(id[t], NULL);
    for (int t = 0; t < threads; t++)
        if (job[t].status != PK_OK) return pk_fail(err, job[t].status, "%s", job[t].err.message);
    return PK_OK;
}

static enum pk_status stats_run(const struct pk_dataset *d, const int64_t *rows, int64_t count,
                                int threads, struct stats_job *job,
                                struct pk_moments total[PK_LEADS_MAX], struct pk_err *err)
{
    struct pk_moments(*moments)[PK_LEADS_MAX];
    size_t n = (size_t)d->leads * (size_t)d->samples;
    enum pk_status s = PK_OK;
    PK_TRY(pk_alloc(&moments, STATS_BLOCK, sizeof *moments, "statistics", err));
    for (int t = 0; t < threads && s == PK_OK; t++) {
        job[t] = (struct stats_job){
            .d = d, .rows = rows, .start = t, .step = threads, .moments = moments};
        s = pk_alloc(&job[t].record, n, sizeof(int16_t), "record buffer", err);
    }
    for (int64_t first = 0; first < count && s == PK_OK; first += STATS_BLOCK) {
        int64_t block = PK_MIN(count - first, (int64_t)STATS_BLOCK);
        for (int t = 0; t < threads; t++) {
            job[t].first = first;
            job[t].count = block;
        }
        s = stats_block(job, threads, err);
        for (int64_t i = 0; i < block && s == PK_OK; i++)
            for (int32_t l = 0; l < d->leads; l++) pk_moments_merge(&total[l], &moments[i][l]);
    }
    for (int t = 0; t < threads; t++) free(job[t].record);
    free(moments);
    return s;
}

enum pk_status pk_dataset_stats(const struct pk_dataset *d, const int64_t *rows, int64_t count,
                                int threads, double mean[PK_LEADS_MAX], double std[PK_LEADS_MAX],
                                struct pk_err *err)
{
    struct pk_moments total[PK_LEADS_MAX] = {{0}};
    struct stats_job *job;
    if (!rows) count = d->count;
    if (threads < 1) return pk_fail(err, PK_EINVAL, "statistics need at least one thread");
    threads = PK_MIN(threads, (int)PK_THREADS_MAX);
    for (int64_t i = 0; rows && i < count; i++)
        if (rows[i] < 0 || rows[i] >= d->count)
            return pk_fail(err, PK_EINVAL, "record %lld of %lld does not exist", (long long)rows[i],
                           (long long)d->count);
    PK_TRY(pk_alloc(&job, (size_t)threads, sizeof *job, "statistics", err));
    enum pk_status s = stats_run(d, rows, count, threads, job, total, err);
    free(job);
    for (int32_t l = 0; l < d->leads && s == PK_OK; l++) {
        mean[l] = total[l].mean;
        std[l] = total[l].count > 0 ? sqrt(total[l].m2 / total[l].count) : 0;
    }
    return s;
}
