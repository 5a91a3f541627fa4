/* Records of a mixed corpus [I .. V6, PPG] have some of the leads: what is absent must come out of
 * shard, loader and patchify as zeros, whatever its samples hold, and must not count in statistics.
 */
#include "core/cpu/isa.h"
#include "core/cpu/kernels.h"
#include "core/loader.h"
#include "core/prog.h"
#include "datasets/corpus.h"
#include "datasets/lead.h"
#include "tests/test.h"

#include <unistd.h>

enum {
    LEADS = PK_LEADS_ECG + 1,
    PPG = PK_LEADS_ECG,
    SAMPLES = 64,
    RECORDS = 12,
    PATCH = 16,
    CHOSEN = 3
};

static const uint16_t masks[] = {0x1fff, 1u << PPG, 0x0fff, 1u << 1 | 1u << PPG, 1u << 1};

static uint16_t mask_of(int64_t i)
{
    return masks[i % (int64_t)PK_COUNT(masks)];
}

/* Absent leads hold PK_INVALID in even records and nonsense in odd ones. */
static int16_t value(int64_t record, int l, int t)
{
    if (mask_of(record) >> l & 1) return (int16_t)(100 * (t % 7) + 10 * l + record);
    return record % 2 ? 12345 : PK_INVALID;
}

static void write_corpus(const char *dir)
{
    static struct pk_corpus_spec spec = {.modality = "ecg+ppg",
                                         .rate = 64,
                                         .leads = LEADS,
                                         .samples = SAMPLES,
                                         .units = "mV",
                                         .sources = 1,
                                         .source_name = {"mixed"},
                                         .shard_records = 5};
    struct pk_err err = {0};
    struct pk_corpus_writer *w;
    for (int l = 0; l < PK_LEADS_ECG; l++)
        memcpy(spec.lead_name[l], pk_lead_ecg[l], sizeof spec.lead_name[l]);
    snprintf(spec.lead_name[PPG], sizeof spec.lead_name[PPG], "PPG");
    CHECK_OK(pk_corpus_create(&w, dir, &spec, &err), &err);
    for (int64_t i = 0; i < RECORDS; i++) {
        int16_t signal[LEADS * SAMPLES];
        struct pk_corpus_record r = {.signal = signal};
        snprintf(r.id, sizeof r.id, "r%d", (int)i);
        r.meta = (struct pk_record){.patient = 1, .length = SAMPLES, .lead_mask = mask_of(i)};
        for (int l = 0; l < LEADS; l++) {
            r.meta.scale[l] = 0.001f;
            for (int t = 0; t < SAMPLES; t++) signal[l * SAMPLES + t] = value(i, l, t);
        }
        CHECK_OK(pk_corpus_add(w, &r, &err), &err);
    }
    CHECK_OK(pk_corpus_finish(w, &err), &err);
}

static void test_statistics(const struct pk_dataset *d)
{
    struct pk_err err = {0};
    double mean[PK_LEADS_MAX], std[PK_LEADS_MAX];
    CHECK_OK(pk_dataset_stats(d, NULL, 0, 2, mean, std, &err), &err);
    for (int l = 0; l < LEADS; l++) {
        double sum = 0, n = 0;
        for (int64_t i = 0; i < RECORDS; i++)
            for (int t = 0; t < SAMPLES && mask_of(i) >> l & 1; t++, n++)
                sum += 0.001 * value(i, l, t);
        CHECK_NEAR(mean[l], sum / n, 1e-7);
        CHECK_NEAR(d->source[0].mean[l], sum / n, 1e-7);
    }
}

/* Runs patchify of every instruction set on a batch; leads[CHOSEN] of each token. */
static void check_patches(const struct pk_batch *b)
{
    static const uint8_t lead[CHOSEN] = {1, PPG, 6}; // II PPG V1
    const int64_t tokens = SAMPLES / PATCH;
    const struct pk_value in[4] = {{.dtype = PK_I16, .rank = 3, .dim = {b->n, LEADS, SAMPLES}},
                                   {.dtype = PK_F32, .rank = 2, .dim = {b->n, LEADS}},
                                   {.dtype = PK_F32, .rank = 2, .dim = {b->n, LEADS}},
                                   {.dtype = PK_I32, .rank = 1, .dim = {b->n}}};
    const struct pk_value out = {.dtype = PK_F32, .rank = 3, .dim = {b->n, tokens, CHOSEN * PATCH}};
    struct pk_node node = {.op = PK_OP_PATCHIFY};
    struct pk_err err = {0};
    float *y = malloc((size_t)b->n * SAMPLES * CHOSEN * sizeof *y);
    int32_t start[RECORDS] = {0};
    node.attr.patchify.patch = PATCH;
    node.attr.patchify.leads = CHOSEN;
    node.attr.patchify.clip = 100;
    memcpy(node.attr.patchify.lead, lead, sizeof lead);
    for (int isa = 0; isa < (int)PK_ISA_COUNT; isa++) {
        if (isa > (int)pk_isa_best() || !pk_cpu_table((enum pk_isa)isa)) continue;
        struct pk_call c = {.node = &node,
                            .in = {&in[0], &in[1], &in[2], &in[3]},
                            .out = {&out},
                            .src = {b->signal, b->gain, b->offset, start},
                            .dst = {y}};
        memset(y, 0x7f, (size_t)b->n * SAMPLES * CHOSEN * sizeof *y);
        CHECK_OK(pk_cpu_table((enum pk_isa)isa)[PK_OP_PATCHIFY](&c, &err), &err);
        int64_t zeros = 0, moved = 0, wrong = 0;
        for (int64_t i = 0; i < b->n; i++)
            for (int64_t t = 0; t < tokens; t++)
                for (int l = 0; l < CHOSEN; l++)
                    for (int j = 0; j < PATCH; j++) {
                        float v = y[((i * tokens + t) * CHOSEN + l) * PATCH + j];
                        if (mask_of(b->row[i]) >> lead[l] & 1)
                            moved += v != 0;
                        else if (v == 0)
                            zeros++;
                        else
                            wrong++;
                    }
        CHECK(wrong == 0 && zeros > 0 && moved > 0);
    }
    free(y);
}

static void test_loader(const struct pk_dataset *d)
{
    const struct pk_loader_spec spec = {.data = d,
                                        .batch = RECORDS,
                                        .stride_count = RECORDS,
                                        .crop = SAMPLES,
                                        .seed = 3,
                                        .threads = 2,
                                        .ahead = 1};
    struct pk_loader *loader;
    const struct pk_batch *b;
    struct pk_err err = {0};
    CHECK_OK(pk_loader_open(&loader, &spec, &err), &err);
    CHECK_OK(pk_loader_get(loader, 0, &b, NULL, &err), &err);
    for (int i = 0; i < b->n; i++)
        for (int l = 0; l < LEADS; l++) {
            bool present = mask_of(b->row[i]) >> l & 1;
            CHECK((b->gain[i * LEADS + l] > 0) == present);
            CHECK(present || (b->gain[i * LEADS + l] == 0 && b->offset[i * LEADS + l] == 0));
        }
    check_patches(b);
    pk_loader_close(loader);
}

int main(void)
{
    char dir[] = "test_lead_mask.XXXXXX", path[300];
    struct pk_err err = {0};
    struct pk_dataset d;
    if (!mkdtemp(dir)) return 1;
    write_corpus(dir);
    CHECK_OK(pk_corpus_open(&d, dir, &err), &err);
    CHECK(d.count == RECORDS && d.leads == LEADS && !strcmp(d.lead_name[PPG], "PPG"));
    for (int64_t i = 0; i < RECORDS; i++) CHECK(d.record[i].lead_mask == mask_of(i));
    test_statistics(&d);
    test_loader(&d);
    pk_dataset_free(&d);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/shard-%05d.h5", dir, i);
        remove(path);
    }
    snprintf(path, sizeof path, "%s/corpus.json", dir);
    remove(path);
    CHECK(rmdir(dir) == 0);
    return TEST_END();
}
