/* test_corpus_rw.c -- a corpus written record by record reads back equal, and says what is wrong.
 */
#include "core/rng.h"
#include "datasets/corpus.h"
#include "tests/test.h"

#include <unistd.h>

enum { RECORDS = 23 };

static char class_a[3][PK_NAME_MAX] = {"alpha", "beta", "gamma"};
static char class_b[2][PK_NAME_MAX] = {"no", "yes"};

struct shape {
    int32_t leads, samples;
    int64_t shard_records;
    const char *why;
};

static struct pk_corpus_spec make_spec(const struct shape *s, struct pk_task task[2])
{
    struct pk_corpus_spec spec = {.modality = "ecg",
                                  .version = "test 1",
                                  .units = "mV",
                                  .preprocessing = "none",
                                  .rate = 100,
                                  .leads = s->leads,
                                  .samples = s->samples,
                                  .sources = 2,
                                  .tasks = 2,
                                  .task = task,
                                  .source_name = {"one", "two"},
                                  .targets = 1,
                                  .target_name = {"age"},
                                  .shard_records = s->shard_records};
    task[0] = (struct pk_task){.name = "first", .classes = 3, .class_name = class_a};
    task[1] = (struct pk_task){.name = "second", .classes = 2, .class_name = class_b};
    for (int32_t l = 0; l < s->leads; l++)
        snprintf(spec.lead_name[l], sizeof spec.lead_name[l], "L%u", (unsigned)l % 16u);
    return spec;
}

/* Record i: every value depends on i, lead and sample, so that any mix-up shows. */
static void make_record(const struct shape *s, int64_t i, struct pk_corpus_record *r,
                        int16_t *signal, uint8_t label[5], float target[1])
{
    struct pk_rng rng = pk_rng_make(5, PK_RNG_TEST, (uint64_t)i, 0);
    *r = (struct pk_corpus_record){.signal = signal, .label = label, .target = target};
    snprintf(r->id, sizeof r->id, "rec-%03d", (int)i);
    snprintf(r->statements, sizeof r->statements, "%.*s", (int)(i % 9), "statement");
    r->meta = (struct pk_record){.patient = pk_rng_u64(&rng),
                                 .source = (int32_t)(i % 2),
                                 .length = s->samples - (int32_t)(i % 3),
                                 .fold = (int16_t)(i % 10),
                                 .lead_mask = (uint16_t)((1u << s->leads) - 1),
                                 .quality = (uint32_t)i};
    for (int32_t l = 0; l < s->leads; l++) r->meta.scale[l] = 0.001f * (float)(l + 1);
    for (int64_t k = 0; k < (int64_t)s->leads * s->samples; k++)
        signal[k] = (int16_t)pk_rng_u32(&rng);
    signal[0] = PK_INVALID;
    for (int k = 0; k < 5; k++) label[k] = (uint8_t)(pk_rng_u32(&rng) & 1);
    target[0] = i % 5 ? (float)i : NAN;
}

static void remove_corpus(const char *dir)
{
    char path[PK_PATH_MAX];
    snprintf(path, sizeof path, "%s/corpus.json", dir);
    remove(path);
    for (int i = 0; i < RECORDS; i++) {
        snprintf(path, sizeof path, "%s/shard-%05d.h5", dir, i);
        remove(path);
    }
    rmdir(dir);
}

static enum pk_status write_corpus(const char *dir, const struct shape *s, struct pk_err *err)
{
    struct pk_task task[2];
    struct pk_corpus_spec spec = make_spec(s, task);
    struct pk_corpus_writer *w;
    struct pk_corpus_record r;
    uint8_t label[5];
    float target[1];
    int16_t *signal = malloc((size_t)s->leads * (size_t)s->samples * 2);
    enum pk_status st = pk_corpus_create(&w, dir, &spec, err);
    for (int64_t i = 0; i < RECORDS && st == PK_OK; i++) {
        make_record(s, i, &r, signal, label, target);
        st = pk_corpus_add(w, &r, err);
    }
    free(signal);
    return st == PK_OK ? pk_corpus_finish(w, err) : st;
}

static void check_record(const struct pk_dataset *d, const struct shape *s, int64_t i,
                         int16_t *want, int16_t *got)
{
    struct pk_corpus_record r;
    struct pk_err err = {0};
    uint8_t label[5];
    float target[1];
    char id[64];
    size_t n = (size_t)s->leads * (size_t)s->samples;
    make_record(s, i, &r, want, label, target);
    CHECK_OK(d->read(d, i, got, &err), &err);
    CHECK(!memcmp(got, want, n * 2));
    int32_t start = s->samples / 3, part = s->samples / 2;
    CHECK_OK(d->read_part(d, i, start, part, got, &err), &err);
    for (int32_t l = 0; l < s->leads; l++)
        CHECK(!memcmp(got + (size_t)l * (size_t)part, want + (size_t)l * (size_t)s->samples + start,
                      (size_t)part * 2));
    const struct pk_record *m = &d->record[i];
    CHECK(m->patient == r.meta.patient && m->source == r.meta.source && m->fold == r.meta.fold);
    CHECK(m->length == r.meta.length && m->lead_mask == r.meta.lead_mask);
    CHECK(m->quality == r.meta.quality && !memcmp(m->scale, r.meta.scale, sizeof m->scale));
    d->record_id(d, i, id);
    CHECK(!strcmp(id, r.id));
    CHECK(!memcmp(d->task[0].label + i * 3, label, 3));
    CHECK(!memcmp(d->task[1].label + i * 2, label + 3, 2));
    float t = d->target[0].value[i];
    CHECK(i % 5 ? t == (float)i : isnan(t));
}

static void check_stats(const struct pk_dataset *d, struct pk_err *err)
{
    for (int32_t s = 0; s < d->sources; s++) {
        int64_t rows[RECORDS], n = 0;
        double mean[2][PK_LEADS_MAX], std[2][PK_LEADS_MAX];
        for (int64_t i = 0; i < d->count; i++)
            if (d->record[i].source == s) rows[n++] = i;
        CHECK(d->source[s].count == n);
        CHECK_OK(pk_dataset_stats(d, rows, n, 1, mean[0], std[0], err), err);
        CHECK_OK(pk_dataset_stats(d, rows, n, 5, mean[1], std[1], err), err);
        for (int32_t l = 0; l < d->leads; l++) {
            CHECK(mean[0][l] == d->source[s].mean[l] && std[0][l] == d->source[s].std[l]);
            CHECK(mean[0][l] == mean[1][l] && std[0][l] == std[1][l]);
        }
    }
}

/* Against the plain two-pass formulas. */
static void check_stats_values(const struct pk_dataset *d, struct pk_err *err)
{
    double mean[PK_LEADS_MAX], std[PK_LEADS_MAX];
    int16_t *x = malloc((size_t)d->leads * (size_t)d->samples * 2);
    CHECK_OK(pk_dataset_stats(d, NULL, 0, 2, mean, std, err), err);
    for (int32_t l = 0; l < d->leads; l++) {
        double sum = 0, n = 0, squares = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t i = 0; i < d->count; i++) {
                CHECK_OK(d->read(d, i, x, err), err);
                for (int32_t t = 0; t < d->record[i].length; t++) {
                    double raw = x[(size_t)l * (size_t)d->samples + (size_t)t];
                    double v = raw * (double)d->record[i].scale[l];
                    if (raw == PK_INVALID) continue;
                    if (pass == 0)
                        n++, sum += v;
                    else
                        squares += (v - sum / n) * (v - sum / n);
                }
            }
        CHECK_NEAR(mean[l], sum / n, 1e-11);
        CHECK_NEAR(std[l], sqrt(squares / n), 1e-11);
    }
    free(x);
}

static void test_shape(const struct shape *s)
{
    char dir[64];
    struct pk_err err = {0};
    struct pk_dataset d;
    struct pk_text report = {0};
    int64_t bad = -1;
    int16_t *want = malloc((size_t)s->leads * (size_t)s->samples * 2);
    int16_t *got = malloc((size_t)s->leads * (size_t)s->samples * 2);
    snprintf(dir, sizeof dir, "corpus_rw_%d", (int)getpid());
    remove_corpus(dir);
    CHECK_OK(write_corpus(dir, s, &err), &err);
    CHECK_FAILS(write_corpus(dir, s, &err), PK_EWRITE, &err, "holds a corpus already");
    CHECK_OK(pk_corpus_open(&d, dir, &err), &err);
    CHECK(d.count == RECORDS && d.leads == s->leads && d.samples == s->samples && d.rate == 100);
    CHECK(d.tasks == 2 && d.targets == 1 && d.sources == 2);
    if (d.count == RECORDS) {
        for (int64_t i = 0; i < RECORDS; i++) check_record(&d, s, i, want, got);
        check_stats(&d, &err);
        check_stats_values(&d, &err);
        CHECK_FAILS(d.read(&d, RECORDS, got, &err), PK_EINVAL, &err, "record 23 of 23");
        CHECK_FAILS(d.read_part(&d, 0, 1, s->samples, got, &err), PK_EINVAL, &err, "do not exist");
    }
    pk_dataset_free(&d);
    CHECK_OK(pk_corpus_verify(dir, &bad, &report, &err), &err);
    CHECK(bad == 0 && report.len == 0);
    pk_text_free(&report);
    remove_corpus(dir);
    free(want);
    free(got);
}

static void test_errors(void)
{
    static const struct shape s = {2, 100, 4, ""};
    struct pk_err err = {0};
    struct pk_dataset d;
    struct pk_task task[2];
    struct pk_corpus_spec spec = make_spec(&s, task);
    struct pk_corpus_writer *w;
    struct pk_corpus_record r;
    int16_t signal[200];
    uint8_t label[5];
    float target[1];
    char dir[64];
    snprintf(dir, sizeof dir, "corpus_err_%d", (int)getpid());
    CHECK_FAILS(pk_corpus_open(&d, dir, &err), PK_EMISSING, &err, "corpus.json is not there");
    CHECK_OK(pk_corpus_create(&w, dir, &spec, &err), &err);
    make_record(&s, 1, &r, signal, label, target);
    r.meta.source = 2;
    CHECK_FAILS(pk_corpus_add(w, &r, &err), PK_EINVAL, &err, "rec-001");
    r.meta.source = 0;
    r.meta.scale[1] = NAN;
    CHECK_FAILS(pk_corpus_add(w, &r, &err), PK_EDATA, &err, "lead L1");
    r.meta.scale[1] = 1;
    CHECK_OK(pk_corpus_add(w, &r, &err), &err);
    CHECK_FAILS(pk_corpus_open(&d, dir, &err), PK_EMISSING, &err, "not finished");
    pk_corpus_abandon(w);
    CHECK(rmdir(dir) == 0); // abandoning left nothing behind
    CHECK_OK(pk_corpus_create(&w, dir, &spec, &err), &err);
    CHECK_FAILS(pk_corpus_finish(w, &err), PK_EDATA, &err, "no record was added");
    CHECK(rmdir(dir) == 0);
    spec.rate = NAN;
    CHECK_FAILS(pk_corpus_create(&w, dir, &spec, &err), PK_EINVAL, &err, "rate");
    make_spec(&s, task);
    spec.rate = 100;
    memcpy(task[0].name, "a/b", 4);
    CHECK_FAILS(pk_corpus_create(&w, dir, &spec, &err), PK_EINVAL, &err, "a/b");
}

int main(void)
{
    static const struct shape shapes[] = {
        {12, 1000, 0, "one shard"},
        {12, 5000, 5, "several shards, the last one partial"},
        {1, 1250, 23, "one lead, exactly one full shard"},
        {3, 7, 1, "tiny records, one a shard"},
        {16, 12000, 10, "gap wider than the scratch of read_part"},
    };
    for (size_t i = 0; i < PK_COUNT(shapes); i++) test_shape(&shapes[i]);
    test_errors();
    return TEST_END();
}
