/* test_lead.c -- lead names and units, quantisation, gaps, flat and absent leads. */
#include "datasets/lead.h"
#include "tests/test.h"

static struct pk_err err;

static void names(void)
{
    static const struct {
        const char *name;
        int32_t index;
    } rows[] = {{"I", 0},   {"i", 0},     {"III", 2},   {"AVR", 3}, {"avr", 3},
                {"aVF", 5}, {" V6 ", 11}, {"v1", 6},    {"", -1},   {"V7", -1},
                {"V", -1},  {"IIII", -1}, {"I II", -1}, {"vx", -1}, {"MLII", -1}};
    for (size_t i = 0; i < PK_COUNT(rows); i++) CHECK(pk_lead_index(rows[i].name) == rows[i].index);
    CHECK_NEAR(pk_lead_millivolts("mV"), 1, 0);
    CHECK_NEAR(pk_lead_millivolts("uv"), 1e-3, 0);
    CHECK_NEAR(pk_lead_millivolts("\xb5V"), 1e-3, 0);
    CHECK_NEAR(pk_lead_millivolts("V"), 1e3, 0);
    CHECK_NEAR(pk_lead_millivolts("mmHg"), 0, 0);
}

static void quantise(void)
{
    int16_t dst[12];
    float scale;
    uint32_t quality = 0;
    bool present;
    double exact[] = {0.001, -0.002, 32.767, -32.767, 0.0004, 0.0006};
    CHECK_OK(pk_lead_quantise(exact, 6, dst, 6, &scale, &quality, &present, &err), &err);
    CHECK(dst[0] == 1 && dst[1] == -2 && dst[2] == 32767 && dst[3] == -32767);
    CHECK(dst[4] == 0 && dst[5] == 1 && scale == 0.001f && quality == 0 && present);

    double large[] = {-100, 50, 32.768, 0}; // does not fit: the LSB grows, nothing clips
    CHECK_OK(pk_lead_quantise(large, 4, dst, 6, &scale, &quality, &present, &err), &err);
    CHECK(dst[0] == -32767 && quality == 0 && scale > 0.00305f && scale < 0.00306f);
    CHECK_NEAR(dst[1] * (double)scale, 50, 0.5 * (double)scale);
    CHECK_NEAR(dst[2] * (double)scale, 32.768, 0.5 * (double)scale);
    CHECK(dst[4] == PK_INVALID && dst[5] == PK_INVALID); // after the end

    double gaps[] = {NAN, NAN, 1, NAN, NAN, NAN, 2, 5, NAN};
    CHECK_OK(pk_lead_quantise(gaps, 9, dst, 9, &scale, &quality, &present, &err), &err);
    static const int16_t filled[] = {1000, 1000, 1000, 1250, 1500, 1750, 2000, 5000, 5000};
    CHECK(!memcmp(dst, filled, sizeof filled) && quality == PK_QUALITY_INVALID && present);

    double flat[] = {0.5, 0.5, NAN};
    quality = 0;
    CHECK_OK(pk_lead_quantise(flat, 3, dst, 3, &scale, &quality, &present, &err), &err);
    CHECK(quality == (PK_QUALITY_FLAT | PK_QUALITY_INVALID) && dst[2] == 500 && present);

    double nothing[] = {NAN, NAN};
    quality = 0;
    CHECK_OK(pk_lead_quantise(nothing, 2, dst, 3, &scale, &quality, &present, &err), &err);
    CHECK(!present && quality == PK_QUALITY_INVALID && scale == 0.001f);
    CHECK(dst[0] == PK_INVALID && dst[1] == PK_INVALID && dst[2] == PK_INVALID);

    double infinite[] = {1, INFINITY};
    CHECK_FAILS(pk_lead_quantise(infinite, 2, dst, 2, &scale, &quality, &present, &err), PK_EDATA,
                &err, "values as large as inf");
}

/* The LSB never lets a peak clip, wherever it lies between two floats. */
static void never_clips(void)
{
    int bad = 0;
    for (int i = 0; i < 20000; i++) {
        double peak = 32.7 * pow(1.0007, i), mv[2] = {peak, -peak / 3};
        int16_t dst[2];
        float scale;
        uint32_t quality = 0;
        bool present;
        if (pk_lead_quantise(mv, 2, dst, 2, &scale, &quality, &present, &err) != PK_OK) bad++;
        if (!(fabs(dst[0] * (double)scale - peak) <= 0.500001 * (double)scale) || dst[0] < 16000)
            bad++;
    }
    CHECK(bad == 0);
}

int main(void)
{
    names();
    quantise();
    never_clips();
    return TEST_END();
}
