/* bench_loader.c -- purkinje bench loader: what the loader delivers against bare pread.
 *
 * Both read the same samples in the same order with the same number of threads into a ring of
 * batches of the same size; the bare side neither plans, sorts, normalises nor waits. Runs of both
 * alternate after one that warms the page cache. */
#include "core/json.h"
#include "core/loader.h"
#include "core/loader_order.h"
#include "datasets/corpus.h"
#include "tools/cli.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bench {
    const struct pk_dataset *d;
    struct pk_loader_spec spec;
    int64_t steps;
    double raw, loader; // s
};

struct raw_job { // one thread's share of the bare reads
    const struct bench *b;
    const struct pk_order *order;
    int first;     // takes samples first, first + threads, ...
    int16_t *ring; // shared, as large as the loader's
    int64_t slots;
    enum pk_status status;
    struct pk_err err;
};

static void *raw_thread(void *arg)
{
    struct raw_job *j = arg;
    const struct pk_loader_spec *s = &j->b->spec;
    size_t size = (size_t)j->b->d->leads * (size_t)s->crop;
    int64_t total = j->b->steps * s->batch;
    for (int64_t g = j->first; g < total && j->status == PK_OK; g += s->threads) {
        const int64_t row = pk_order_row(j->order, g), slot = g % (j->slots * s->batch);
        j->status = j->b->d->read_part(j->b->d, row, pk_order_start(s, g, row), s->crop,
                                       j->ring + (size_t)slot * size, &j->err);
    }
    return NULL;
}

static enum pk_status run_raw(struct bench *b, double *seconds, struct pk_err *err)
{
    struct raw_job job[PK_THREADS_MAX] = {{0}};
    pthread_t id[PK_THREADS_MAX];
    struct pk_order order;
    int16_t *ring = NULL;
    int64_t slots = b->spec.ahead + 1;
    int n = 0;
    PK_TRY(pk_order_open(&order, &b->spec, err));
    enum pk_status s =
        pk_alloc_aligned(&ring, (size_t)(slots * b->spec.batch),
                         (size_t)b->d->leads * (size_t)b->spec.crop * 2, "bench", err);
    double start = pk_seconds();
    for (; n < b->spec.threads && s == PK_OK; n += s == PK_OK) {
        job[n] =
            (struct raw_job){.b = b, .order = &order, .first = n, .ring = ring, .slots = slots};
        if (pthread_create(&id[n], NULL, raw_thread, &job[n]) != 0)
            s = pk_fail(err, PK_ENOMEM, "cannot start a thread");
    }
    for (int t = 0; t < n; t++) {
        pthread_join(id[t], NULL);
        if (s == PK_OK && job[t].status != PK_OK)
            s = pk_fail(err, job[t].status, "%s", job[t].err.message);
    }
    *seconds = pk_seconds() - start;
    free(ring);
    pk_order_free(&order);
    return s;
}

static enum pk_status run_loader(struct bench *b, double *seconds, struct pk_err *err)
{
    struct pk_loader *l;
    const struct pk_batch *batch;
    enum pk_status s = PK_OK;
    PK_TRY(pk_loader_open(&l, &b->spec, err));
    double start = pk_seconds();
    for (int64_t step = 0; step < b->steps && s == PK_OK; step++)
        s = pk_loader_get(l, step, &batch, NULL, err);
    *seconds = pk_seconds() - start;
    pk_loader_close(l);
    return s;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Medians of alternating runs, so that a noisy neighbour hits both sides alike. */
static enum pk_status measure(struct bench *b, int64_t repeats, struct pk_err *err)
{
    double raw[32], loader[32], warm;
    PK_TRY(run_raw(b, &warm, err));
    PK_TRY(run_loader(b, &warm, err));
    for (int64_t i = 0; i < repeats; i++) {
        PK_TRY(run_raw(b, &raw[i], err));
        PK_TRY(run_loader(b, &loader[i], err));
    }
    qsort(raw, (size_t)repeats, sizeof *raw, by_value);
    qsort(loader, (size_t)repeats, sizeof *loader, by_value);
    b->raw = raw[repeats / 2];
    b->loader = loader[repeats / 2];
    return PK_OK;
}

static enum pk_status print(const struct bench *b, bool json, struct pk_err *err)
{
    double bytes = (double)b->steps * b->spec.batch * b->d->leads * b->spec.crop * 2;
    double raw = bytes / b->raw * 1e-6, loader = bytes / b->loader * 1e-6;
    double records = (double)b->steps * b->spec.batch / b->loader;
    if (!json) {
        printf("raw pread  %8.0f MB/s\nloader     %8.0f MB/s  %.0f records/s\nratio      %8.2f\n",
               raw, loader, records, loader / raw);
        return PK_OK;
    }
    struct pk_text t = {0};
    struct pk_json_writer w = {.out = &t, .indent = 2};
    pk_json_open(&w, NULL, '{');
    pk_json_put_i64(&w, "threads", b->spec.threads);
    pk_json_put_i64(&w, "batch", b->spec.batch);
    pk_json_put_i64(&w, "crop", b->spec.crop);
    pk_json_put_i64(&w, "records", b->steps * b->spec.batch);
    pk_json_put_f64(&w, "raw_mb_per_s", raw);
    pk_json_put_f64(&w, "loader_mb_per_s", loader);
    pk_json_put_f64(&w, "ratio", loader / raw);
    pk_json_close(&w);
    return pk_print(&t, err);
}

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    int64_t threads = PK_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L), batch = 256, crop = 0, ahead = 4;
    int64_t records = 0, repeats = 5;
    struct pk_dataset d;
    if (a->count != 1) return pk_fail(err, PK_EUSAGE, "bench loader needs one corpus");
    threads = PK_MIN(threads, (int64_t)PK_THREADS_MAX);
    PK_TRY(pk_arg_i64(a, "threads", 1, PK_THREADS_MAX, &threads, err));
    PK_TRY(pk_arg_i64(a, "batch", 1, 1 << 20, &batch, err));
    PK_TRY(pk_arg_i64(a, "crop", 1, PK_SAMPLES_MAX, &crop, err));
    PK_TRY(pk_arg_i64(a, "ahead", 1, 64, &ahead, err));
    PK_TRY(pk_arg_i64(a, "records", 1, INT64_MAX / 2, &records, err));
    PK_TRY(pk_arg_i64(a, "repeats", 1, 31, &repeats, err));
    PK_TRY(pk_corpus_open(&d, a->word[0], err));
    batch = PK_MIN(batch, d.count);
    struct bench b = {.d = &d};
    b.spec = (struct pk_loader_spec){.data = &d,
                                     .batch = (int32_t)batch,
                                     .stride_count = (int32_t)batch,
                                     .crop = crop ? (int32_t)crop : d.samples,
                                     .random_crop = crop > 0,
                                     .seed = 1,
                                     .threads = (int)threads,
                                     .ahead = (int)ahead};
    b.steps = PK_MAX((records ? records : d.count) / batch, (int64_t)1);
    enum pk_status s = measure(&b, repeats, err);
    if (s == PK_OK) s = print(&b, pk_arg(a, "json") != NULL, err);
    pk_dataset_free(&d);
    return s;
}

static const struct pk_option options[] = {
    {"threads", "N", "readers, all cores unless told"},
    {"batch", "N", "records in a step, 256 unless told"},
    {"crop", "N", "random crops of N samples; whole records unless told"},
    {"ahead", "N", "batches read ahead, 4 unless told"},
    {"records", "N", "records to read, one epoch unless told"},
    {"repeats", "N", "runs of each kind, the median counts; 5 unless told"},
    {"json", NULL, "the result as JSON"},
    {0}};

static const struct pk_example examples[] = {
    {"bench loader demo", "bandwidth of the loader and of bare pread on the corpus demo"},
    {"bench loader demo --crop 250 --batch 64 --threads 2 --json", "with random crops, as JSON"},
    {0}};

const struct pk_command pk_cmd_bench_loader = {
    .name = "bench loader",
    .synopsis = "CORPUS",
    .summary = "bandwidth of the loader against bare pread",
    .details = "The records are in the page cache: this measures the loader, not the disk.",
    .options = options,
    .examples = examples,
    .run = run};
