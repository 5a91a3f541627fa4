/* test_tfevents.c -- CRC-32C and the writer's own checks. With a folder as argument it writes there
 * what test_tfevents_reader.py reads back: a run, interrupted after step 7, resumed from step 5. */
#include "core/tfevents.h"
#include "tests/test.h"

#include <unistd.h>

static void run_and_resume(const char *dir)
{
    struct pk_err err = {0};
    struct pk_tfevents w;
    CHECK_OK(pk_tfevents_open(&w, dir, -1, &err), &err);
    CHECK(strstr(w.path, "/events.out.tfevents.") != NULL);
    for (int64_t step = 1; step <= 7; step++) {
        const struct pk_scalar s[] = {{"train/loss", 1 / (double)step},
                                      {"train/learning_rate \xce\xb7", 1e-3 * (double)step}};
        CHECK_OK(pk_tfevents_write(&w, step, s, 2, &err), &err);
    }
    CHECK_OK(pk_tfevents_write(&w, 7, NULL, 0, &err), &err); // nothing: no event
    CHECK_OK(pk_tfevents_close(&w, &err), &err);
    CHECK_OK(pk_tfevents_open(&w, dir, 6, &err), &err); // in the same second: a later name
    for (int64_t step = 6; step <= 8; step++) {
        const struct pk_scalar s[] = {{"train/loss", -(double)step}};
        CHECK_OK(pk_tfevents_write(&w, step, s, 1, &err), &err);
    }
    const struct pk_scalar odd[] = {{"", (double)NAN}, {"big", 1e300}};
    CHECK_OK(pk_tfevents_write(&w, INT64_MAX, odd, 2, &err), &err);
    CHECK_FAILS(pk_tfevents_write(&w, -1, odd, 1, &err), PK_EINVAL, &err, "not negative");
    CHECK_OK(pk_tfevents_close(&w, &err), &err);
    CHECK_OK(pk_tfevents_close(&w, &err), &err); // harmless
    CHECK_FAILS(pk_tfevents_write(&w, 9, odd, 1, &err), PK_EINVAL, &err, "not open");
}

int main(int argc, char **argv)
{
    struct pk_err err = {0};
    struct pk_tfevents w;
    unsigned char b[32];
    if (argc > 1) {
        run_and_resume(argv[1]);
        return TEST_END();
    }
    CHECK(pk_crc32c(0, "123456789", 9) == 0xe3069283); // the catalogue's check value
    memset(b, 0, sizeof b);
    CHECK(pk_crc32c(0, b, 32) == 0x8a9136aa); // RFC 3720, B.4
    memset(b, 255, sizeof b);
    CHECK(pk_crc32c(0, b, 32) == 0x62a8ab43);
    CHECK(pk_crc32c(pk_crc32c(0, "1234", 4), "56789", 5) == 0xe3069283);
    CHECK(pk_tfevents_open(&w, "/proc/no", -1, &err) == PK_EWRITE && !w.f);
    CHECK(strstr(err.message, "/proc/no") != NULL);
    FILE *full = fopen("/dev/full", "wb"); // a full disk is reported, not lost in a buffer
    if (full) {
        struct pk_tfevents d = {.f = full, .path = "/dev/full"};
        const struct pk_scalar s[] = {{"a", 1}};
        CHECK_FAILS(pk_tfevents_write(&d, 1, s, 1, &err), PK_EWRITE, &err, "/dev/full");
        fclose(full);
    }
    return TEST_END();
}
