/* test_loader.c -- the order is a pure function of (seed, step); threads, ranks and restarts do not
 * change it; every record comes once an epoch; mixtures and crops have the promised frequencies. */
#include "tests/core/loader_reference.h"
#include "tests/test.h"

enum { RECORDS = 103, LEADS = 3, SAMPLES = 40, CLASSES = 2 };

/* A dataset whose sample values tell record, lead and time; some records can be made unreadable. */
struct fake {
    struct pk_dataset d;
    struct pk_record record[RECORDS];
    struct pk_source source[3];
    struct pk_task task;
    uint8_t label[RECORDS * CLASSES];
    bool broken[RECORDS];
};

static int16_t value_at(int64_t row, int32_t lead, int32_t t)
{
    return (int16_t)(row * 200 + lead * 50 + t);
}

static enum pk_status fake_part(const struct pk_dataset *d, int64_t i, int32_t start,
                                int32_t samples, int16_t *dst, struct pk_err *err)
{
    const struct fake *f = d->self;
    if (f->broken[i]) return pk_fail(err, PK_EIO, "the disk is gone");
    for (int32_t l = 0; l < LEADS; l++)
        for (int32_t t = 0; t < samples; t++) *dst++ = value_at(i, l, start + t);
    return PK_OK;
}

static enum pk_status fake_read(const struct pk_dataset *d, int64_t i, int16_t *dst,
                                struct pk_err *err)
{
    return fake_part(d, i, 0, SAMPLES, dst, err);
}

static void fake_id(const struct pk_dataset *d, int64_t i, char out[64])
{
    (void)d;
    snprintf(out, 64, "fake-%03d", (int)i);
}

static void make_fake(struct fake *f)
{
    *f = (struct fake){.task = {.name = "task", .classes = CLASSES}};
    for (int i = 0; i < RECORDS; i++) {
        f->record[i] = (struct pk_record){.source = i % 7 == 0    ? 1
                                                    : i % 10 == 3 ? 2
                                                                  : 0,
                                          .length = SAMPLES - i % 4,
                                          .lead_mask = i == 5 ? 6 : 7};
        for (int l = 0; l < LEADS; l++) f->record[i].scale[l] = 0.5f + (float)l;
        f->label[i * CLASSES] = (uint8_t)(i & 1);
        f->label[i * CLASSES + 1] = (uint8_t)(i % 3 == 0);
        f->source[f->record[i].source].count++;
    }
    for (int s = 0; s < 3; s++)
        for (int l = 0; l < LEADS; l++) {
            f->source[s].mean[l] = s + l;
            f->source[s].std[l] = s == 2 && l == 1 ? 0 : 2 + s;
        }
    f->task.label = f->label;
    f->d = (struct pk_dataset){.name = "fake",
                               .count = RECORDS,
                               .leads = LEADS,
                               .samples = SAMPLES,
                               .rate = 10,
                               .record = f->record,
                               .sources = 3,
                               .source = f->source,
                               .self = f,
                               .read = fake_read,
                               .read_part = fake_part,
                               .record_id = fake_id};
}

static struct pk_loader_spec make_spec(const struct fake *f)
{
    return (struct pk_loader_spec){.data = &f->d,
                                   .task = &f->task,
                                   .batch = 16,
                                   .stride_count = 16,
                                   .crop = 20,
                                   .random_crop = true,
                                   .seed = 9,
                                   .threads = 2,
                                   .ahead = 2};
}

/* Everything in the batch follows from ref_locate. */
static void check_batch(const struct fake *f, const struct pk_loader_spec *s,
                        const struct pk_batch *b, int64_t step)
{
    CHECK(b->step == step && b->n == s->stride_count && b->leads == LEADS && b->samples == s->crop);
    int bad = 0;
    for (int32_t i = 0; i < b->n; i++) {
        int64_t g = step * s->batch + s->first + i, row;
        int32_t start, second = s->pair == PK_PAIR_ADJACENT && g % 2 ? s->crop : 0;
        ref_locate(s, g, &row, &start);
        const struct pk_record *r = &f->record[row];
        bad += b->sample[i] != g || b->row[i] != row;
        bad += r->patient ? b->group[i] != (int64_t)r->patient : b->group[i] != -1 - row;
        bad += start < 0 || start > r->length - s->crop || (!s->random_crop && start != second);
        for (int32_t l = 0; l < LEADS; l++) {
            const struct pk_source *src = &f->source[r->source];
            bool on = (r->lead_mask >> l & 1) && src->std[l] > 0;
            float gain = on ? (float)((double)r->scale[l] / src->std[l]) : 0;
            float offset = on ? (float)(src->mean[l] / src->std[l]) : 0;
            bad += !(b->gain[i * LEADS + l] == gain && b->offset[i * LEADS + l] == offset);
            for (int32_t t = 0; t < s->crop; t++)
                bad += b->signal[(i * LEADS + l) * s->crop + t] != value_at(row, l, start + t);
        }
        bad += memcmp(b->label + i * CLASSES, f->label + row * CLASSES, CLASSES) != 0;
    }
    CHECK(bad == 0);
}

static void test_sequence(const struct fake *f, int threads, int ahead, bool random_crop)
{
    struct pk_err err = {0};
    struct pk_loader *l;
    const struct pk_batch *b;
    double waited = -1;
    struct pk_loader_spec s = make_spec(f);
    s.threads = threads;
    s.ahead = ahead;
    s.random_crop = random_crop;
    CHECK_OK(pk_loader_open(&l, &s, &err), &err);
    for (int64_t step = 0; step < 20; step++) {
        CHECK_OK(pk_loader_get(l, step, &b, &waited, &err), &err);
        if (b) check_batch(f, &s, b, step);
        CHECK(waited >= 0);
    }
    static const int64_t jumps[] = {5, 5, 6, 0, 1000000, 1000001, 3}; // restarts, repeats
    for (size_t i = 0; i < PK_COUNT(jumps); i++) {
        CHECK_OK(pk_loader_get(l, jumps[i], &b, NULL, &err), &err);
        if (b) check_batch(f, &s, b, jumps[i]);
    }
    CHECK_FAILS(pk_loader_get(l, -1, &b, NULL, &err), PK_EINVAL, &err, "out of range");
    pk_loader_close(l);
    CHECK_OK(pk_loader_open(&l, &s, &err), &err); // a fresh one at step 5
    CHECK_OK(pk_loader_get(l, 5, &b, NULL, &err), &err);
    if (b) check_batch(f, &s, b, 5);
    pk_loader_close(l);
}

/* The slices of all ranks, put together, are the batch of one rank. */
static void test_ranks(const struct fake *f)
{
    struct pk_err err = {0};
    const struct pk_batch *whole, *part;
    for (int world = 1; world <= 4; world++) {
        struct pk_loader_spec s = make_spec(f), slice = s;
        struct pk_loader *one, *rank[4];
        int32_t first[5];
        CHECK_OK(pk_loader_open(&one, &s, &err), &err);
        for (int r = 0; r <= world; r++) first[r] = s.batch * r / world;
        for (int r = 0; r < world; r++) {
            slice.first = first[r];
            slice.stride_count = first[r + 1] - first[r];
            CHECK_OK(pk_loader_open(&rank[r], &slice, &err), &err);
        }
        for (int64_t step = 0; step < 8; step++) {
            CHECK_OK(pk_loader_get(one, step, &whole, NULL, &err), &err);
            for (int r = 0; r < world; r++) {
                size_t row = LEADS * (size_t)s.crop, at = (size_t)first[r];
                CHECK_OK(pk_loader_get(rank[r], step, &part, NULL, &err), &err);
                size_t n = (size_t)part->n;
                CHECK(!memcmp(part->signal, whole->signal + at * row, n * row * 2));
                CHECK(!memcmp(part->gain, whole->gain + at * LEADS, n * LEADS * sizeof(float)));
                CHECK(!memcmp(part->sample, whole->sample + at, n * sizeof *part->sample));
                CHECK(!memcmp(part->row, whole->row + at, n * sizeof *part->row));
                CHECK(!memcmp(part->label, whole->label + at * CLASSES, n * CLASSES));
            }
        }
        for (int r = 0; r < world; r++) pk_loader_close(rank[r]);
        pk_loader_close(one);
    }
}

static void test_epochs(const struct fake *f)
{
    int64_t rows[41];
    struct pk_loader_spec s = make_spec(f);
    for (int part = 0; part < 2; part++) {
        int64_t n = part ? 41 : RECORDS, changed = 0, previous[RECORDS] = {0};
        for (int64_t i = 0; i < 41; i++) rows[i] = RECORDS - 1 - 2 * i;
        s.rows = part ? rows : NULL;
        s.row_count = n;
        for (int64_t epoch = 0; epoch < 30; epoch++) {
            int seen[RECORDS] = {0}, wrong = 0;
            for (int64_t i = 0; i < n; i++) {
                int64_t row;
                int32_t start;
                ref_locate(&s, epoch * n + i, &row, &start);
                seen[row]++;
                changed += epoch > 0 && row != previous[i];
                previous[i] = row;
            }
            for (int64_t i = 0; i < n; i++) wrong += seen[part ? rows[i] : i] != 1;
            CHECK(wrong == 0);
        }
        CHECK(changed > 29 * n * 9 / 10); // every epoch has an order of its own
    }
}

static void test_mixture(const struct fake *f)
{
    static const double weight[3] = {2, 1, 5};
    enum { DRAWS = 40000 };
    struct pk_err err = {0};
    struct pk_loader *l;
    const struct pk_batch *b;
    struct pk_loader_spec s = make_spec(f);
    double source[3] = {0}, record[RECORDS] = {0}, start_at[SAMPLES] = {0};
    s.weight = weight;
    for (int64_t g = 0; g < DRAWS; g++) {
        int64_t row;
        int32_t start;
        ref_locate(&s, g, &row, &start);
        source[f->record[row].source]++;
        record[row]++;
        if (f->record[row].length == SAMPLES) start_at[start]++;
    }
    for (int i = 0; i < 3; i++) {
        double p = weight[i] / 8;
        CHECK_NEAR(source[i], DRAWS * p, 4 * sqrt(DRAWS * p * (1 - p)));
    }
    for (int i = 0; i < RECORDS; i++) {
        int src = f->record[i].source;
        double p = weight[src] / 8 / (double)f->source[src].count;
        CHECK_NEAR(record[i], DRAWS * p, 5 * sqrt(DRAWS * p * (1 - p)));
    }
    double full = 0;
    for (int t = 0; t < SAMPLES; t++) full += start_at[t];
    for (int t = 0; t <= SAMPLES - s.crop; t++) // 21 starts, both ends included
        CHECK_NEAR(start_at[t], full / 21, 5 * sqrt(full / 21));
    CHECK_OK(pk_loader_open(&l, &s, &err), &err);
    for (int64_t step = 0; step < 10; step++) {
        CHECK_OK(pk_loader_get(l, step, &b, NULL, &err), &err);
        if (b) check_batch(f, &s, b, step);
    }
    pk_loader_close(l);
}

static void test_errors(struct fake *f)
{
    static const double none[3] = {0, 0, 0}, negative[3] = {1, -1, 1},
                        not_a_number[3] = {NAN, 1, 1};
    struct pk_err err = {0};
    struct pk_loader *l;
    const struct pk_batch *b;
    int64_t rows[20], outside = RECORDS;
    struct pk_loader_spec s = make_spec(f);
    for (int64_t i = 0; i < 20; i++) rows[i] = i;
    s.batch = RECORDS + 1;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EDATA, &err, "data smaller than a batch");
    CHECK(strstr(err.message, "103 records") && strstr(err.message, "104"));
    s = make_spec(f);
    s.crop = SAMPLES - 2;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EDATA, &err, "record fake-003");
    CHECK(strstr(err.message, "data smaller than the crop"));
    s.crop = SAMPLES + 1;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EINVAL, &err, "crop of 41");
    s = make_spec(f);
    s.first = 10;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EINVAL, &err, "samples 10 to 26");
    s = make_spec(f);
    s.threads = 0;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EINVAL, &err, "0 threads");
    s = make_spec(f);
    s.weight = none;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EINVAL, &err, "all mixture weights are 0");
    s.weight = negative;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EINVAL, &err, "mixture weight -1");
    s.weight = not_a_number;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EINVAL, &err, "mixture weight nan");
    s = make_spec(f);
    s.rows = &outside;
    s.row_count = 1;
    s.batch = s.stride_count = 1;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EINVAL, &err, "row 103");

    s = make_spec(f); // one bad record among twenty: its batch fails and names it, others do not
    s.rows = rows;
    s.row_count = 20;
    s.batch = s.stride_count = 4;
    f->broken[11] = true;
    CHECK_OK(pk_loader_open(&l, &s, &err), &err);
    for (int64_t step = 0; step < 10; step++) {
        bool hit = false;
        for (int64_t i = 0; i < 4; i++) {
            int64_t row;
            int32_t start;
            ref_locate(&s, step * 4 + i, &row, &start);
            hit = hit || row == 11;
        }
        if (hit) {
            CHECK_FAILS(pk_loader_get(l, step, &b, NULL, &err), PK_EIO, &err,
                        "record fake-011 (row 11): the disk is gone");
            CHECK(b == NULL);
        } else {
            CHECK_OK(pk_loader_get(l, step, &b, NULL, &err), &err);
            if (b) check_batch(f, &s, b, step);
        }
    }
    pk_loader_close(l);
    f->broken[11] = false;
}

/* Participants 1000, 1001 ...: the first `single` have one record, the others 2, 3, 4, 2, 3, 4 ...
 */
static int64_t make_participants(struct fake *f, int single)
{
    int64_t who = 1000, left = 1, row = 0;
    for (; row < RECORDS; row++) {
        f->record[(row * 10) % RECORDS].patient = (uint64_t)who; // apart from each other
        if (--left) continue;
        who++;
        left = who - 1000 < single ? 1 : 2 + who % 3;
    }
    // the last one may have been cut short
    int64_t rows = 0, i;
    for (i = 0; i < RECORDS; i++) rows += f->record[i].patient == (uint64_t)who;
    for (i = 0; rows == 1 && i < RECORDS; i++)
        if (f->record[i].patient == (uint64_t)who) f->record[i].patient--;
    return who - 1000 + (rows > 1) - single;
}

/* Both records of a pair are of one participant and differ; an epoch has each participant with two
 * records once, single ones never; all ordered pairs of a participant occur equally often. */
static void test_participants(struct fake *f)
{
    enum { EPOCHS = 3000, SINGLE = 5 };
    struct pk_err err = {0};
    struct pk_loader *l;
    const struct pk_batch *b;
    struct pk_loader_spec s = make_spec(f);
    const int64_t n = make_participants(f, SINGLE);
    int64_t seen[RECORDS] = {0}, row[2], other = 0;
    double pairs[4][4] = {{0}};
    int32_t start;
    s.pair = PK_PAIR_PARTICIPANT;
    for (int64_t epoch = 0; epoch < 20; epoch++) {
        int64_t wrong = 0;
        bool met[RECORDS] = {false};
        for (int64_t p = 0; p < n; p++) {
            for (int k = 0; k < 2; k++) ref_locate(&s, 2 * (epoch * n + p) + k, &row[k], &start);
            const uint64_t who = f->record[row[0]].patient;
            wrong += who != f->record[row[1]].patient || row[0] == row[1];
            wrong += who < 1000 + SINGLE || met[who - 1000];
            met[who - 1000] = true;
            seen[row[0]]++;
            seen[row[1]]++;
            other += who != 1000 + SINGLE + (uint64_t)p;
        }
        CHECK(wrong == 0);
    }
    for (int64_t i = 0; i < RECORDS; i++)
        CHECK((seen[i] > 0) == (f->record[i].patient >= 1000 + SINGLE));
    CHECK(other > 20 * n * 8 / 10); // permuted
    int64_t first = 0, mine[4], count = 0;
    while (count != 4) // a participant with four records
        for (count = 0, first++, row[0] = 0; row[0] < RECORDS; row[0]++)
            if (f->record[row[0]].patient == 1000 + SINGLE + (uint64_t)first)
                mine[count++ % 4] = row[0];
    CHECK_OK(pk_loader_open(&l, &s, &err), &err);
    for (int64_t step = 0; l && step < EPOCHS * n / 8; step++) {
        CHECK_OK(pk_loader_get(l, step, &b, NULL, &err), &err);
        if (b && step < 6) check_batch(f, &s, b, step);
        for (int32_t i = 0; b && i < b->n; i += 2) {
            int from = -1, to = -1;
            for (int k = 0; k < 4; k++) {
                if (b->row[i] == mine[k]) from = k;
                if (b->row[i + 1] == mine[k]) to = k;
            }
            CHECK((from < 0) == (to < 0) && b->group[i] == b->group[i + 1]);
            if (from >= 0 && to >= 0) pairs[from][to]++;
        }
    }
    pk_loader_close(l);
    double total = 0;
    for (int i = 0; i < 16; i++) total += pairs[i / 4][i % 4];
    CHECK(total > EPOCHS - 9);
    for (int i = 0; i < 16; i++) {
        const double p = i / 4 == i % 4 ? 0 : total / 12;
        CHECK_NEAR(pairs[i / 4][i % 4], p, 4.5 * sqrt(p));
    }
}

/* Pairs of a mixture: sources by their weights, participants of a source alike, and two sources'
 * participants of one number are two people. A source of weight 0 may hold anything. */
static void test_participants_of_mixture(struct fake *f)
{
    enum { STEPS = 4000, PAIRS = 8 };
    static const double weight[3] = {2, 0, 5};
    struct pk_err err = {0};
    struct pk_loader *l;
    const struct pk_batch *b;
    struct pk_loader_spec s = make_spec(f);
    int64_t rows[3] = {0}, wrong = 0;
    double drawn[3] = {0}, of[RECORDS] = {0};
    s.pair = PK_PAIR_PARTICIPANT;
    s.weight = weight;
    for (int i = 0; i < RECORDS; i++) {
        const int32_t source = f->record[i].source;
        f->record[i].patient = source == 1 ? 0 : 5000 + (uint64_t)(rows[source]++ / 2);
    }
    CHECK_OK(pk_loader_open(&l, &s, &err), &err);
    for (int64_t step = 0; l && step < STEPS; step++) {
        CHECK_OK(pk_loader_get(l, step, &b, NULL, &err), &err);
        if (b && step < 20) check_batch(f, &s, b, step); // also against ref_locate
        for (int32_t i = 0; b && i < b->n; i += 2) {
            const struct pk_record *x = &f->record[b->row[i]], *y = &f->record[b->row[i + 1]];
            wrong += x == y || x->source != y->source || x->patient != y->patient;
            drawn[x->source]++;
            of[x->source * 40 + (int64_t)(x->patient - 5000)]++;
        }
    }
    pk_loader_close(l);
    const double total = drawn[0] + drawn[2];
    CHECK(wrong == 0 && drawn[1] == 0 && total == STEPS * PAIRS);
    CHECK_NEAR(drawn[0], total * 2 / 7, 4.5 * sqrt(total * 2 / 7 * 5 / 7));
    for (int k = 0; k < 3; k += 2) {
        const double each = drawn[k] / (double)(rows[k] / 2);
        for (int64_t i = 0; i < rows[k] / 2; i++)
            CHECK_NEAR(of[k * 40 + i], each, 4.5 * sqrt(each));
    }
}

/* The second window begins where the first ends. */
static void test_adjacent(struct fake *f)
{
    static const double weight[3] = {2, 1, 5};
    struct pk_err err = {0};
    struct pk_loader *l;
    const struct pk_batch *b;
    for (int turn = 0; turn < 4; turn++) {
        struct pk_loader_spec s = make_spec(f);
        int seen[RECORDS] = {0}, starts[SAMPLES] = {0}, wrong = 0;
        s.pair = PK_PAIR_ADJACENT;
        s.crop = 17;
        s.random_crop = turn & 1;
        s.weight = turn & 2 ? weight : NULL;
        CHECK_OK(pk_loader_open(&l, &s, &err), &err);
        for (int64_t step = 0; l && step < RECORDS; step++) { // 8 epochs of pairs
            CHECK_OK(pk_loader_get(l, step, &b, NULL, &err), &err);
            if (!b) continue;
            check_batch(f, &s, b, step);
            for (int32_t i = 0; i < b->n; i += 2) {
                wrong += b->row[i] != b->row[i + 1] || b->group[i] != b->group[i + 1];
                wrong += b->crop[i + 1] != b->crop[i] + s.crop;
                wrong += b->crop[i + 1] + s.crop > f->record[b->row[i]].length;
                seen[b->row[i]]++;
                starts[b->crop[i]]++;
            }
        }
        pk_loader_close(l);
        CHECK(wrong == 0);
        for (int i = 0; !s.weight && i < RECORDS; i++) CHECK(seen[i] == 8);
        CHECK(starts[0] > 0 && (starts[3] > 0) == s.random_crop); // 40 - 3 - 34 is always there
    }
}

/* Both crops are of one record and drawn each by itself; an epoch of pairs has every record once; a
 * loader that is asked for a late step first delivers what one that came there did. */
static void test_record_pairs(struct fake *f)
{
    enum { STEPS = 40 * RECORDS / 8 };
    static const double weight[3] = {2, 1, 5};
    struct pk_err err = {0};
    struct pk_loader *l, *late;
    const struct pk_batch *b, *c;
    for (int turn = 0; turn < 4; turn++) {
        struct pk_loader_spec s = make_spec(f);
        int seen[RECORDS] = {0}, wrong = 0;
        double pairs = 0, sum[2] = {0}, square[2] = {0}, product = 0;
        s.pair = PK_PAIR_RECORD;
        s.random_crop = turn & 1;
        s.weight = turn & 2 ? weight : NULL;
        CHECK_OK(pk_loader_open(&l, &s, &err), &err);
        for (int64_t step = 0; l && step < STEPS; step++) {
            CHECK_OK(pk_loader_get(l, step, &b, NULL, &err), &err);
            if (!b) continue;
            if (step < 6) check_batch(f, &s, b, step);
            for (int32_t i = 0; i < b->n; i += 2) {
                wrong += b->row[i] != b->row[i + 1] || b->sample[i] == b->sample[i + 1];
                seen[b->row[i]]++;
                const int32_t room = f->record[b->row[i]].length - s.crop;
                if (!s.random_crop || !room) continue;
                const double x[2] = {(double)b->crop[i] / room - 0.5,
                                     (double)b->crop[i + 1] / room - 0.5};
                pairs++;
                product += x[0] * x[1];
                for (int k = 0; k < 2; k++) {
                    sum[k] += x[k];
                    square[k] += x[k] * x[k];
                }
            }
        }
        CHECK(wrong == 0);
        for (int i = 0; !s.weight && i < RECORDS; i++) CHECK(seen[i] == 40);
        CHECK((pairs > 0) == s.random_crop);
        for (int k = 0; k < 2; k++) CHECK(fabs(sum[k]) <= 4.5 * sqrt(square[k]));
        CHECK(pairs == 0 || square[0] > pairs / 20); // starts of all kinds: variance of a uniform
        CHECK(fabs(product) <= 4.5 * sqrt(square[0] * square[1] / PK_MAX(pairs, 1)));
        CHECK_OK(pk_loader_open(&late, &s, &err), &err);
        CHECK_OK(pk_loader_get(l, 100000, &b, NULL, &err), &err);
        CHECK_OK(pk_loader_get(late, 100000, &c, NULL, &err), &err);
        if (b && c) {
            check_batch(f, &s, c, 100000);
            CHECK(!memcmp(b->row, c->row, sizeof *b->row * 16));
            CHECK(!memcmp(b->crop, c->crop, sizeof *b->crop * 16));
        }
        pk_loader_close(late);
        pk_loader_close(l);
    }
}

static void test_pair_errors(struct fake *f)
{
    static const double weight[3] = {2, 1, 5};
    struct pk_err err = {0};
    struct pk_loader *l;
    struct pk_loader_spec s = make_spec(f);
    make_participants(f, 5);
    s.pair = PK_PAIR_PARTICIPANT;
    s.batch = s.stride_count = 15;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EINVAL, &err, "15 records in pairs: one would be");
    s.batch = s.stride_count = 2;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EINVAL, &err, "a single pair has nothing");
    s.batch = s.stride_count = 102;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EDATA, &err, "participants of fake have two");
    CHECK(strstr(err.message, "(5 have a single one), a batch takes 51"));
    s = make_spec(f);
    s.pair = PK_PAIR_PARTICIPANT;
    s.weight = weight;
    for (int i = 0; i < RECORDS; i++) // the second source has single records only
        f->record[i].patient =
            f->record[i].source == 1 ? 1000 + (uint64_t)i : 77 + (uint64_t)i / 20;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EINVAL, &err,
                "but no participant with two records of it is selected");
    make_participants(f, 5);
    s.weight = NULL;
    s.pair_all = true;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EDATA, &err, "the only one of its participant");
    CHECK(strstr(err.message, "record fake-000")); // participant 1000
    make_participants(f, 0);
    f->record[7].patient = 0;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EDATA, &err, "record fake-007 of fake belongs");
    s.pair = PK_PAIR_ADJACENT;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EDATA, &err, "samples, two adjacent crops 40");
    for (int i = 0; i < RECORDS; i++) f->record[i].patient = 77;
    s.pair = PK_PAIR_PARTICIPANT;
    CHECK_FAILS(pk_loader_open(&l, &s, &err), PK_EDATA, &err, "1 participants of fake have two");
    for (int i = 0; i < RECORDS; i++) f->record[i].patient = 0;
}

int main(void)
{
    static struct fake f;
    make_fake(&f);
    for (int threads = 1; threads <= 5; threads += 2)
        for (int ahead = 1; ahead <= 4; ahead += 3) test_sequence(&f, threads, ahead, ahead == 1);
    test_ranks(&f);
    test_epochs(&f);
    test_mixture(&f);
    test_errors(&f);
    test_participants(&f);
    test_participants_of_mixture(&f);
    test_adjacent(&f);
    test_record_pairs(&f);
    test_pair_errors(&f);
    pk_loader_close(NULL);
    return TEST_END();
}
