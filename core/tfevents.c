/* tfevents.c -- TFRecord framing and the few protobuf fields that scalars need (see tfevents.h). */
#include "core/tfevents.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Protobuf keys: field number << 3 | wire type (0 varint, 1 eight bytes, 2 bytes, 5 four bytes). */
enum {
    EVENT_WALL_TIME = 1 << 3 | 1,
    EVENT_STEP = 2 << 3 | 0,
    EVENT_FILE_VERSION = 3 << 3 | 2,
    EVENT_SUMMARY = 5 << 3 | 2,
    EVENT_SESSION_LOG = 7 << 3 | 2,
    SESSION_LOG_STATUS = 1 << 3 | 0,
    SESSION_LOG_START = 1,
    SUMMARY_VALUE = 1 << 3 | 2,
    VALUE_TAG = 1 << 3 | 2,
    VALUE_SIMPLE = 2 << 3 | 5
};

uint32_t pk_crc32c(uint32_t crc, const void *bytes, size_t n)
{
    static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
                                       0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
                                       0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                       0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    const unsigned char *p = bytes;
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        crc = table[crc & 15] ^ (crc >> 4);
        crc = table[crc & 15] ^ (crc >> 4);
    }
    return ~crc;
}

/* TFRecord stores CRCs rotated and offset, so that a CRC of data with CRCs in it stays a good one.
 */
static uint32_t masked_crc(const void *bytes, size_t n)
{
    uint32_t c = pk_crc32c(0, bytes, n);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static void put_little_endian(struct pk_text *t, uint64_t v, int bytes)
{
    unsigned char b[8];
    for (int i = 0; i < bytes; i++) b[i] = (unsigned char)(v >> 8 * i);
    pk_text_bytes(t, b, (size_t)bytes);
}

static void put_varint(struct pk_text *t, uint64_t v)
{
    unsigned char b[10];
    size_t n = 0;
    for (; v >= 128; v >>= 7) b[n++] = (unsigned char)(v | 128);
    b[n++] = (unsigned char)v;
    pk_text_bytes(t, b, n);
}

static void put_bytes(struct pk_text *t, int key, const void *bytes, size_t n)
{
    put_varint(t, (uint64_t)key);
    put_varint(t, n);
    pk_text_bytes(t, bytes, n);
}

/* Frames one Event, whose field `key` holds the n bytes of what, and writes it. */
static enum pk_status write_event(struct pk_tfevents *w, int64_t step, int key, const void *what,
                                  size_t n, struct pk_err *err)
{
    struct pk_text event = {0}, record = {0};
    struct timespec now;
    uint64_t bits;
    clock_gettime(CLOCK_REALTIME, &now);
    double wall_time = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    memcpy(&bits, &wall_time, sizeof bits);
    put_varint(&event, EVENT_WALL_TIME);
    put_little_endian(&event, bits, 8);
    put_varint(&event, EVENT_STEP);
    put_varint(&event, (uint64_t)step);
    put_bytes(&event, key, what, n);
    if (!event.failed) {
        put_little_endian(&record, event.len, 8);
        put_little_endian(&record, record.failed ? 0 : masked_crc(record.s, 8), 4);
        pk_text_bytes(&record, event.s, event.len);
        put_little_endian(&record, masked_crc(event.s, event.len), 4);
    }
    enum pk_status s = PK_OK;
    if (event.failed || record.failed)
        s = pk_fail(err, PK_ENOMEM, "out of memory: an event for %s", w->path);
    else if ((s = pk_write(w->f, record.s, record.len, w->path, err)) == PK_OK && fflush(w->f) != 0)
        s = pk_fail_errno(err, PK_EWRITE, "cannot write %zu bytes to %s", record.len, w->path);
    pk_text_free(&event);
    pk_text_free(&record);
    return s;
}

/* A host name that is safe in a file name. */
static void host_name(char out[64])
{
    if (gethostname(out, 64) != 0 || !out[0]) snprintf(out, 64, "localhost");
    out[63] = 0;
    for (char *s = out; *s; s++) {
        bool plain = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
                     (*s >= '0' && *s <= '9') || *s == '-' || *s == '.';
        if (!plain) *s = '_';
    }
}

static enum pk_status create(struct pk_tfevents *w, const char *dir, struct pk_err *err)
{
    char host[64];
    long long seconds = (long long)time(NULL);
    int fd = -1;
    host_name(host);
    for (int tries = 0; fd < 0 && tries < 1000; tries++) {
        PK_TRY(pk_path(w->path, err, "%s/events.out.tfevents.%lld.%s", dir, seconds + tries, host));
        fd = open(w->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) break;
    }
    if (fd < 0) return pk_fail_errno(err, PK_EWRITE, "cannot create %s", w->path);
    w->f = fdopen(fd, "wb");
    if (w->f) return PK_OK;
    close(fd);
    return pk_fail_errno(err, PK_EWRITE, "cannot open %s", w->path);
}

enum pk_status pk_tfevents_open(struct pk_tfevents *w, const char *dir, int64_t resume_step,
                                struct pk_err *err)
{
    static const char version[] = "brain.Event:2";
    static const unsigned char start[] = {SESSION_LOG_STATUS, SESSION_LOG_START};
    *w = (struct pk_tfevents){0};
    PK_TRY(pk_mkdirs(dir, err));
    PK_TRY(create(w, dir, err));
    enum pk_status s = write_event(w, 0, EVENT_FILE_VERSION, version, sizeof version - 1, err);
    if (s == PK_OK && resume_step >= 0)
        s = write_event(w, resume_step, EVENT_SESSION_LOG, start, sizeof start, err);
    if (s != PK_OK) {
        fclose(w->f);
        w->f = NULL;
    }
    return s;
}

enum pk_status pk_tfevents_write(struct pk_tfevents *w, int64_t step,
                                 const struct pk_scalar *scalar, int count, struct pk_err *err)
{
    struct pk_text summary = {0}, value = {0};
    if (!w->f || step < 0)
        return pk_fail(err, PK_EINVAL, "scalars of step %lld: %s", (long long)step,
                       w->f ? "a step is not negative" : "the event file is not open");
    for (int i = 0; i < count; i++) {
        float v = (float)scalar[i].value;
        uint32_t bits;
        memcpy(&bits, &v, sizeof bits);
        value.len = 0;
        put_bytes(&value, VALUE_TAG, scalar[i].tag, strlen(scalar[i].tag));
        put_varint(&value, VALUE_SIMPLE);
        put_little_endian(&value, bits, 4);
        if (value.failed) break;
        put_bytes(&summary, SUMMARY_VALUE, value.s, value.len);
    }
    enum pk_status s = PK_OK;
    if (value.failed || summary.failed)
        s = pk_fail(err, PK_ENOMEM, "out of memory: %d scalars for %s", count, w->path);
    else if (count > 0)
        s = write_event(w, step, EVENT_SUMMARY, summary.s, summary.len, err);
    pk_text_free(&value);
    pk_text_free(&summary);
    return s;
}

enum pk_status pk_tfevents_close(struct pk_tfevents *w, struct pk_err *err)
{
    return w->f ? pk_sync_close(&w->f, w->path, err) : PK_OK;
}
