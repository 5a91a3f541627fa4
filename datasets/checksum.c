/* checksum.c -- the file checksum (see checksum.h). */
#include "datasets/checksum.h"

#include <stdlib.h>
#include <string.h>

#define P0 UINT64_C(0x9E3779B97F4A7C15) // 2^64 / golden ratio; every multiplier must be odd
#define P1 UINT64_C(0xD6E8FEB86659FD93)

static inline uint64_t rotate(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

static inline uint64_t load64(const unsigned char *p)
{
    uint64_t w;
    memcpy(&w, p, sizeof w);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    w = __builtin_bswap64(w);
#endif
    return w;
}

static void take_in(uint64_t lane[4], const unsigned char *p, size_t blocks)
{
    uint64_t a = lane[0], b = lane[1], c = lane[2], d = lane[3];
    for (; blocks; blocks--, p += 32) {
        a = rotate(a ^ load64(p), 29) * P0;
        b = rotate(b ^ load64(p + 8), 29) * P0;
        c = rotate(c ^ load64(p + 16), 29) * P0;
        d = rotate(d ^ load64(p + 24), 29) * P0;
    }
    lane[0] = a;
    lane[1] = b;
    lane[2] = c;
    lane[3] = d;
}

struct pk_checksum pk_checksum_start(void)
{
    return (struct pk_checksum){.lane = {P0, P1, P0 ^ P1, P0 + P1}};
}

void pk_checksum_update(struct pk_checksum *c, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    size_t have = (size_t)(c->total % 32);
    c->total += n;
    if (have) {
        size_t more = PK_MIN(n, 32 - have);
        memcpy(c->rest + have, p, more);
        p += more;
        n -= more;
        if (have + more < 32) return;
        take_in(c->lane, c->rest, 1);
    }
    take_in(c->lane, p, n / 32);
    if (n % 32) memcpy(c->rest, p + n / 32 * 32, n % 32);
}

uint64_t pk_checksum_end(const struct pk_checksum *c)
{
    struct pk_checksum last = *c;
    size_t have = (size_t)(c->total % 32);
    if (have) { // zeros after the end are told apart by the length below
        memset(last.rest + have, 0, 32 - have);
        take_in(last.lane, last.rest, 1);
    }
    uint64_t h = c->total * P1 + P0;
    for (int i = 0; i < 4; i++) h = (rotate(h, 27) ^ last.lane[i]) * P1 + P0;
    h = (h ^ h >> 32) * P0;
    return h ^ h >> 29;
}

enum pk_status pk_checksum_file(struct pk_checksum *c, int fd, int64_t offset, int64_t n,
                                const char *path, struct pk_err *err)
{
    enum { CHUNK = 1 << 18 }; // stays in the L2 cache between the copy and the sum
    enum pk_status s = PK_OK;
    unsigned char *buffer;
    PK_TRY(pk_alloc(&buffer, CHUNK, 1, "checksum buffer", err));
    while (n > 0 && s == PK_OK) {
        size_t part = (size_t)PK_MIN(n, (int64_t)CHUNK);
        s = pk_pread(fd, buffer, part, offset, path, err);
        if (s == PK_OK) pk_checksum_update(c, buffer, part);
        offset += (int64_t)part;
        n -= (int64_t)part;
    }
    free(buffer);
    return s;
}
