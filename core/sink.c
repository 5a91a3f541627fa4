/* sink.c -- files written for keeps, and their checksum (see sink.h). */
#include "core/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* The five primes of the XXH64 specification. */
#define PRIME1 0x9e3779b185ebca87u
#define PRIME2 0xc2b2ae3d27d4eb4fu
#define PRIME3 0x165667b19e3779f9u
#define PRIME4 0x85ebca77c2b2ae63u
#define PRIME5 0x27d4eb2f165667c5u

enum { CHUNK = 1 << 20 }; // bytes hashed and written at a time: stays in the cache in between

static uint64_t rotate(uint64_t x, int r)
{
    return x << r | x >> (64 - r);
}

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8); // little-endian hosts only, like the tensors themselves
    return v;
}

static uint64_t round64(uint64_t acc, uint64_t input)
{
    return rotate(acc + input * PRIME2, 31) * PRIME1;
}

static void add_stripe(uint64_t lane[4], const uint8_t *p)
{
    for (int i = 0; i < 4; i++) lane[i] = round64(lane[i], load64(p + 8 * i));
}

void pk_xxh64_start(struct pk_xxh64 *h)
{
    *h = (struct pk_xxh64){.lane = {PRIME1 + PRIME2, PRIME2, 0, 0 - PRIME1}};
}

void pk_xxh64_add(struct pk_xxh64 *h, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    h->total += n;
    if (h->tail_len) {
        size_t take = PK_MIN(n, sizeof h->tail - h->tail_len);
        memcpy(h->tail + h->tail_len, p, take);
        h->tail_len += (uint32_t)take;
        p += take;
        n -= take;
        if (h->tail_len < sizeof h->tail) return;
        add_stripe(h->lane, h->tail);
        h->tail_len = 0;
    }
    uint64_t lane[4] = {h->lane[0], h->lane[1], h->lane[2], h->lane[3]};
    for (; n >= 32; p += 32, n -= 32) add_stripe(lane, p);
    memcpy(h->lane, lane, sizeof lane);
    if (n) memcpy(h->tail, p, n);
    h->tail_len = (uint32_t)n;
}

uint64_t pk_xxh64_value(const struct pk_xxh64 *h)
{
    const uint8_t *p = h->tail, *end = h->tail + h->tail_len;
    uint64_t v = PRIME5;
    if (h->total >= 32) {
        v = rotate(h->lane[0], 1) + rotate(h->lane[1], 7) + rotate(h->lane[2], 12) +
            rotate(h->lane[3], 18);
        for (int i = 0; i < 4; i++) v = (v ^ round64(0, h->lane[i])) * PRIME1 + PRIME4;
    }
    v += h->total;
    for (; end - p >= 8; p += 8) v = rotate(v ^ round64(0, load64(p)), 27) * PRIME1 + PRIME4;
    if (end - p >= 4) {
        uint32_t w;
        memcpy(&w, p, 4);
        v = rotate(v ^ w * PRIME1, 23) * PRIME2 + PRIME3;
        p += 4;
    }
    for (; p < end; p++) v = rotate(v ^ *p * PRIME5, 11) * PRIME1;
    v = (v ^ v >> 33) * PRIME2;
    v = (v ^ v >> 29) * PRIME3;
    return v ^ v >> 32;
}

enum pk_status pk_xxh64_file(const char *path, uint64_t *hash, int64_t *bytes, struct pk_err *err)
{
    struct pk_xxh64 h;
    enum pk_status s = PK_OK;
    uint8_t *buffer;
    pk_xxh64_start(&h);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return pk_fail_errno(err, PK_EIO, "cannot open %s", path);
    if ((s = pk_alloc(&buffer, CHUNK, 1, "checksum buffer", err)) != PK_OK) goto done;
    for (;;) {
        ssize_t r = read(fd, buffer, CHUNK);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) s = pk_fail_errno(err, PK_EIO, "cannot read %s", path);
        if (r <= 0) break;
        pk_xxh64_add(&h, buffer, (size_t)r);
    }
    free(buffer);
    *hash = pk_xxh64_value(&h);
    *bytes = (int64_t)h.total;
done:
    close(fd);
    return s;
}

int64_t pk_disk_free(const char *path)
{
    struct statvfs v;
    char dir[PK_PATH_MAX];
    if (statvfs(path, &v) != 0 && (pk_parent(dir, path, NULL) != PK_OK || statvfs(dir, &v) != 0))
        return -1;
    if (v.f_frsize && v.f_bavail > INT64_MAX / v.f_frsize) return INT64_MAX;
    return (int64_t)(v.f_bavail * v.f_frsize);
}

static enum pk_status write_failed(const struct pk_sink *s, struct pk_err *err)
{
    int saved = errno;
    int64_t left = pk_disk_free(s->path);
    errno = saved;
    if (saved != ENOSPC && saved != EDQUOT && saved != EFBIG)
        return pk_fail_errno(err, PK_EWRITE, "cannot write %s at byte %lld", s->path,
                             (long long)s->bytes);
    return pk_fail_errno(err, PK_EWRITE,
                         "cannot write %s: it needs %lld bytes, %lld are written, %lld are free "
                         "there; make room, or point the output at another disk",
                         s->path, (long long)PK_MAX(s->need, s->bytes), (long long)s->bytes,
                         (long long)left);
}

enum pk_status pk_sink_open(struct pk_sink *s, const char *path, int64_t need, struct pk_err *err)
{
    *s = (struct pk_sink){.fd = -1, .need = need};
    pk_xxh64_start(&s->hash);
    PK_TRY(pk_path(s->path, err, "%s", path));
    s->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (s->fd >= 0) return PK_OK;
    s->path[0] = 0; // what could not be opened is not ours to drop
    return pk_fail_errno(err, PK_EWRITE, "cannot create %s", path);
}

enum pk_status pk_sink_write(struct pk_sink *s, const void *bytes, size_t n, struct pk_err *err)
{
    const uint8_t *p = bytes;
    while (n) {
        size_t chunk = PK_MIN(n, (size_t)CHUNK);
        pk_xxh64_add(&s->hash, p, chunk);
        for (size_t done = 0; done < chunk;) {
            ssize_t r = write(s->fd, p + done, chunk - done);
            if (r < 0 && errno == EINTR) continue;
            if (r == 0) errno = ENOSPC; // a file system that neither writes nor says why
            if (r <= 0) return write_failed(s, err);
            done += (size_t)r;
            s->bytes += r;
        }
        p += chunk;
        n -= chunk;
    }
    return PK_OK;
}

enum pk_status pk_sink_close(struct pk_sink *s, struct pk_err *err)
{
    enum pk_status result = PK_OK;
    int fd = s->fd, rc;
    do {
        rc = fsync(fd);
    } while (rc != 0 && errno == EINTR);
    if (rc != 0) result = write_failed(s, err);
    s->fd = -1;
    if (close(fd) != 0 && result == PK_OK) result = write_failed(s, err);
    return result;
}

void pk_sink_drop(struct pk_sink *s)
{
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
    if (s->path[0]) unlink(s->path);
    s->path[0] = 0;
}
