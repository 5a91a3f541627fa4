/* test_synth.c -- synthetic records are deterministic, obey Einthoven, and show what their labels
 * say. */
#include "datasets/synth.h"
#include "tests/test.h"

static struct pk_synth_spec make_spec(int64_t records, int threads)
{
    return (struct pk_synth_spec){
        .records = records, .rate = 500, .seconds = 10, .seed = 11, .threads = threads};
}

static void test_einthoven(const struct pk_dataset *d)
{
    int16_t *x = malloc((size_t)d->leads * (size_t)d->samples * 2);
    struct pk_err err = {0};
    int wrong = 0;
    for (int64_t i = 0; i < 20; i++) {
        CHECK_OK(d->read(d, i, x, &err), &err);
        for (int32_t t = 0; t < d->samples; t++) {
            double v[6];
            for (int l = 0; l < 6; l++) v[l] = x[l * d->samples + t];
            // exact before rounding, so at most half an LSB for every lead that takes part
            wrong += !(fabs(v[0] + v[2] - v[1]) <= 1.51);
            wrong += !(fabs(v[3] + (v[0] + v[1]) / 2) <= 1.01);
            wrong += !(fabs(v[4] - (v[0] - v[1] / 2)) <= 1.26);
            wrong += !(fabs(v[5] - (v[1] - v[0] / 2)) <= 1.26);
        }
    }
    CHECK(wrong == 0);
    free(x);
}

static void test_same_whatever_count_and_threads(const struct pk_dataset *d)
{
    struct pk_err err = {0};
    struct pk_dataset e;
    size_t n = (size_t)d->leads * (size_t)d->samples;
    int16_t *x = malloc(n * 2), *y = malloc(n * 2);
    struct pk_synth_spec spec = make_spec(37, 5);
    CHECK_OK(pk_synth_open(&e, &spec, &err), &err);
    for (int64_t i = 0; i < 37; i++) {
        CHECK_OK(d->read(d, i, x, &err), &err);
        CHECK_OK(e.read(&e, i, y, &err), &err);
        CHECK(!memcmp(x, y, n * 2));
        CHECK(!memcmp(&d->record[i], &e.record[i], sizeof *d->record));
        CHECK(!memcmp(d->task[0].label + i * 5, e.task[0].label + i * 5, 5));
        CHECK(!memcmp(d->task[1].label + i * 7, e.task[1].label + i * 7, 7));
        CHECK(!memcmp(&d->target[0].value[i], &e.target[0].value[i], sizeof(float)));
        CHECK(!memcmp(&d->target[1].value[i], &e.target[1].value[i], sizeof(float)));
    }
    pk_dataset_free(&e);
    spec.seed++;
    CHECK_OK(pk_synth_open(&e, &spec, &err), &err);
    CHECK_OK(d->read(d, 0, x, &err), &err);
    CHECK_OK(e.read(&e, 0, y, &err), &err);
    CHECK(memcmp(x, y, n * 2) != 0);
    pk_dataset_free(&e);
    free(x);
    free(y);
}

static double share(const struct pk_task *t, int64_t count, const char *name)
{
    int64_t n = 0;
    int32_t k = 0;
    while (k < t->classes && strcmp(t->class_name[k], name)) k++;
    if (k == t->classes) return NAN;
    for (int64_t i = 0; i < count; i++) n += t->label[i * t->classes + k];
    return (double)n / (double)count;
}

static void test_labels(const struct pk_dataset *d)
{
    static const struct {
        const char *task, *name;
        double p;
    } expected[] = {{"rhythm", "af", 0.18},
                    {"rhythm", "bradycardia", 0.16},
                    {"rhythm", "pvc", 0.15},
                    {"rhythm", "sinus", 0.50},
                    {"rhythm", "tachycardia", 0.16},
                    {"morphology", "lbbb", 0.10},
                    {"morphology", "lvh", 0.13},
                    {"morphology", "normal", 0.40},
                    {"morphology", "rbbb", 0.12},
                    {"morphology", "st_depression", 0.10 + 0.13 * 0.4},
                    {"morphology", "st_elevation", 0.08},
                    {"morphology", "t_inversion", 0.07 + 0.13 * 0.2}};
    for (size_t i = 0; i < PK_COUNT(expected); i++) {
        double p = expected[i].p, sd = sqrt(p * (1 - p) / (double)d->count);
        const struct pk_task *t = pk_dataset_task(d, expected[i].task);
        CHECK(t != NULL);
        if (t) CHECK_NEAR(share(t, d->count, expected[i].name), p, 4 * sd);
    }
    for (int32_t t = 0; t < d->tasks; t++)
        for (int32_t k = 1; k < d->task[t].classes; k++)
            CHECK(strcmp(d->task[t].class_name[k - 1], d->task[t].class_name[k]) < 0);
}

static void test_people(const struct pk_dataset *d)
{
    const struct pk_target *age = pk_dataset_target(d, "age");
    int64_t fold[11] = {0}, missing = 0, patients = 1, wrong = 0;
    for (int64_t i = 0; i < d->count; i++) {
        fold[d->record[i].fold]++;
        missing += isnan(age->value[i]) != 0;
        if (!i) continue;
        bool same = d->record[i].patient == d->record[i - 1].patient;
        patients += !same;
        wrong += same && d->record[i].fold != d->record[i - 1].fold;
        wrong += same && memcmp(&age->value[i], &age->value[i - 1], sizeof(float)) != 0;
    }
    CHECK(fold[0] == 0 && wrong == 0 && patients == d->count * 4 / 10);
    for (int f = 1; f <= 10; f++) CHECK(fold[f] == d->count / 10);
    CHECK_NEAR((double)missing / (double)d->count, 1.0 / 33, 0.01);
}

/* Beats of one record: local maxima of the squared slope of all precordial leads, smoothed over
 * 60 ms, above a share of the largest, at least 0.25 s apart. */
static int find_beats(const struct pk_dataset *d, const int16_t *x, double *at)
{
    int32_t n = d->samples, half = (int32_t)(0.04 * d->rate), apart = (int32_t)(0.25 * d->rate);
    double *energy = calloc((size_t)n, sizeof *energy), *smooth = calloc((size_t)n, sizeof *smooth);
    double top = 0;
    int beats = 0;
    int32_t last = -apart;
    for (int32_t l = 6; l < 12; l++)
        for (int32_t t = 4; t < n - 4; t++) {
            double slope = x[l * n + t + 4] - x[l * n + t - 4];
            energy[t] += slope * slope;
        }
    for (int32_t t = half; t < n - half; t++) {
        for (int32_t k = -half; k <= half; k++) smooth[t] += energy[t + k];
        top = PK_MAX(top, smooth[t]);
    }
    for (int32_t t = half; t < n - half; t++) {
        bool peak = smooth[t] > 0.12 * top && t - last >= apart;
        for (int32_t k = -apart / 2; k <= apart / 2 && peak; k++)
            peak = t + k < 0 || t + k >= n || smooth[t + k] <= smooth[t];
        if (!peak) continue;
        at[beats++] = last = t;
    }
    free(energy);
    free(smooth);
    return beats;
}

static void test_heart_rate(const struct pk_dataset *d)
{
    const struct pk_target *rate = pk_dataset_target(d, "heart_rate");
    struct pk_err err = {0};
    int16_t *x = malloc((size_t)d->leads * (size_t)d->samples * 2);
    double at[256], spread_af = 0, spread_other = 0, n_af = 0, n_other = 0;
    int64_t good = 0, tried = 200;
    for (int64_t i = 0; i < tried; i++) {
        const uint8_t *rhythm = d->task[0].label + i * 5;
        CHECK_OK(d->read(d, i, x, &err), &err);
        int n = find_beats(d, x, at);
        double hr = n > 1 ? 60 * (n - 1) * d->rate / (at[n - 1] - at[0]) : NAN;
        good += fabs(hr - (double)rate->value[i]) <= 0.05 * (double)rate->value[i];
        double sum = 0, squares = 0;
        for (int k = 1; k < n; k++) {
            double rr = (at[k] - at[k - 1]) / d->rate;
            sum += rr;
            squares += rr * rr;
        }
        double mean = sum / (n - 1), cv = sqrt(squares / (n - 1) - mean * mean) / mean;
        if (rhythm[0])
            spread_af += cv, n_af++;
        else if (!rhythm[2])
            spread_other += cv, n_other++;
        if (rhythm[1]) CHECK(rate->value[i] < 62);
        if (rhythm[4]) CHECK(rate->value[i] > 95);
    }
    CHECK(good >= tried * 95 / 100);
    CHECK(spread_af / n_af > 0.15); // irregular
    CHECK(spread_other / n_other < 0.08);
    free(x);
}

static void test_ppg(void)
{
    struct pk_err err = {0};
    struct pk_dataset d;
    struct pk_synth_spec spec = {
        .records = 50, .rate = 125, .seconds = 30, .ppg = true, .seed = 3, .threads = 2};
    CHECK_OK(pk_synth_open(&d, &spec, &err), &err);
    CHECK(d.leads == 1 && d.samples == 3750 && d.tasks == 1 && !strcmp(d.modality, "ppg"));
    int16_t x[3750];
    int64_t good = 0;
    for (int64_t i = 0; i < d.count; i++) {
        CHECK_OK(d.read(&d, i, x, &err), &err);
        // Autocorrelation over the possible intervals peaks at the mean RR of a regular rhythm.
        double best = -1, lag_at = 0, mean = 0;
        for (int t = 0; t < 3750; t++) mean += x[t] / 3750.0;
        for (int lag = 45; lag < 200; lag++) {
            double sum = 0;
            for (int t = 0; t + lag < 3750; t++) sum += (x[t] - mean) * (x[t + lag] - mean);
            sum /= 3750 - lag;
            if (sum > best) best = sum, lag_at = lag;
        }
        double hr = 60 * 125 / lag_at, want = (double)d.target[0].value[i];
        good += fabs(hr - want) < 0.1 * want;
    }
    CHECK(good >= 30); // AF and PVCs are irregular by intent
    pk_dataset_free(&d);
}

static void test_errors(void)
{
    struct pk_err err = {0};
    struct pk_dataset d;
    struct pk_synth_spec s = make_spec(0, 1);
    CHECK_FAILS(pk_synth_open(&d, &s, &err), PK_EINVAL, &err, "0 synthetic records");
    s = make_spec(1, 1);
    s.rate = NAN;
    CHECK_FAILS(pk_synth_open(&d, &s, &err), PK_EINVAL, &err, "nan Hz");
    s = make_spec(1, 0);
    CHECK_FAILS(pk_synth_open(&d, &s, &err), PK_EINVAL, &err, "thread");
    pk_dataset_free(&d);
}

int main(void)
{
    struct pk_err err = {0};
    struct pk_dataset d;
    struct pk_synth_spec spec = make_spec(2000, 2);
    double start = pk_seconds();
    CHECK_OK(pk_synth_open(&d, &spec, &err), &err);
    fprintf(stderr, "2000 records of 12 x 5000 in %.2f s on 2 threads\n", pk_seconds() - start);
    if (d.count == 2000) {
        test_einthoven(&d);
        test_same_whatever_count_and_threads(&d);
        test_labels(&d);
        test_people(&d);
        test_heart_rate(&d);
    }
    pk_dataset_free(&d);
    test_ppg();
    test_errors();
    return TEST_END();
}
