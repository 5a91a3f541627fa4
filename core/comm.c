/* comm.c -- collectives over any transport, and the world of one (see comm.h). */
#include "core/comm.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAGIC = 0x504b4331 };

const char *pk_comm_kind_text(enum pk_comm_kind k)
{
    static const char *const text[] = {
#define PK_X(name, text) text,
        PK_COMM_KINDS(PK_X)
#undef PK_X
    };
    return (unsigned)k < PK_COMM_KIND_COUNT ? text[k] : "an unknown call";
}

enum pk_status pk_comm_fail(const struct pk_comm *c, struct pk_err *err, const char *fmt, ...)
{
    char text[PK_ERR_MAX / 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return pk_fail(err, PK_ERANK, "rank %d of %d: %s: %s", c->rank, c->size,
                   pk_comm_kind_text(c->kind), text);
}

struct pk_comm_head pk_comm_head_make(const struct pk_comm *c, size_t bytes)
{
    return (struct pk_comm_head){
        .magic = MAGIC, .from = c->rank, .kind = c->kind, .call = c->call, .bytes = bytes};
}

enum pk_status pk_comm_head_check(const struct pk_comm *c, const struct pk_comm_head *h, int from,
                                  size_t bytes, struct pk_err *err)
{
    if (h->magic != MAGIC)
        return pk_comm_fail(c, err,
                            "what came from rank %d is no message of this program; are all ranks "
                            "the same version on the same kind of machine?",
                            from);
    if (h->from != from)
        return pk_comm_fail(c, err, "the connection to rank %d leads to rank %d", from, h->from);
    if (h->kind != (int32_t)c->kind || h->call != c->call)
        return pk_comm_fail(c, err,
                            "the ranks have lost step: rank %d is in its call %llu, %s; this one "
                            "in call %llu",
                            from, (unsigned long long)h->call,
                            pk_comm_kind_text((enum pk_comm_kind)h->kind),
                            (unsigned long long)c->call);
    if (h->bytes != bytes)
        return pk_comm_fail(c, err, "rank %d sends %llu bytes, this one expects %zu", from,
                            (unsigned long long)h->bytes, bytes);
    return PK_OK;
}

/* --- a world of one ------------------------------------------------------------------------ */

static enum pk_status no_exchange(struct pk_comm *c, const struct pk_comm_exchange *e,
                                  struct pk_err *err)
{
    (void)e;
    return pk_fail(err, PK_EINTERNAL, "a message in a world of %d rank", c->size);
}

static void no_abort(struct pk_comm *c, const char *why)
{
    (void)c, (void)why;
}

static void free_single(struct pk_comm *c)
{
    free(c);
}

enum pk_status pk_comm_single(struct pk_comm **out, struct pk_err *err)
{
    static const struct pk_comm_ops ops = {"no network", no_exchange, no_abort, free_single};
    *out = NULL;
    PK_TRY(pk_alloc(out, 1, sizeof **out, "communication", err));
    **out = (struct pk_comm){.ops = &ops, .size = 1};
    return PK_OK;
}

void pk_comm_free(struct pk_comm *c)
{
    if (!c) return;
    free(c->scratch);
    c->ops->free(c);
}

void pk_comm_describe(const struct pk_comm *c, struct pk_text *out)
{
    pk_text_add(out, "rank %d of %d over %s", c->rank, c->size, c->ops->name);
}

void pk_comm_abort(struct pk_comm *c, const char *why)
{
    __atomic_store_n(&c->given_up, 1, __ATOMIC_RELEASE);
    c->ops->abort(c, why);
}

bool pk_comm_given_up(const struct pk_comm *c)
{
    return __atomic_load_n(&c->given_up, __ATOMIC_ACQUIRE);
}

/* --- collectives --------------------------------------------------------------------------- */

static void begin(struct pk_comm *c, enum pk_comm_kind kind)
{
    c->kind = kind;
    c->call++;
}

/* out goes to rank + step, in comes from rank - step, around the end. */
static enum pk_status rotate(struct pk_comm *c, int step, const void *out, size_t out_bytes,
                             void *in, size_t in_bytes, struct pk_err *err)
{
    const struct pk_comm_exchange e = {.to = (c->rank + step) % c->size,
                                       .from = (c->rank - step + c->size) % c->size,
                                       .out = out,
                                       .in = in,
                                       .out_bytes = out_bytes,
                                       .in_bytes = in_bytes};
    return c->ops->exchange(c, &e, err);
}

static enum pk_status send_to(struct pk_comm *c, int to, const void *out, size_t bytes,
                              struct pk_err *err)
{
    return c->ops->exchange(
        c, &(struct pk_comm_exchange){.to = to, .from = -1, .out = out, .out_bytes = bytes}, err);
}

static enum pk_status receive_from(struct pk_comm *c, int from, void *in, size_t bytes,
                                   struct pk_err *err)
{
    return c->ops->exchange(
        c, &(struct pk_comm_exchange){.to = -1, .from = from, .in = in, .in_bytes = bytes}, err);
}

/* Dissemination: after the round of distance d each rank has heard of the 2 d before it. */
enum pk_status pk_comm_barrier(struct pk_comm *c, struct pk_err *err)
{
    begin(c, PK_COMM_BARRIER);
    for (int step = 1; step < c->size; step *= 2) PK_TRY(rotate(c, step, NULL, 0, NULL, 0, err));
    return PK_OK;
}

/* A binomial tree, bucket by bucket, so that all levels of the tree are busy. */
enum pk_status pk_comm_broadcast(struct pk_comm *c, int root, void *data, size_t bytes,
                                 struct pk_err *err)
{
    const size_t bucket = PK_COMM_BUCKET * sizeof(float);
    const int me = (c->rank - root + c->size) % c->size;
    begin(c, PK_COMM_BROADCAST);
    int above = 1; // the bit that joins this rank to its parent
    while (above < c->size && !(me & above)) above *= 2;
    for (size_t at = 0; at < bytes && c->size > 1; at += bucket) {
        const size_t n = PK_MIN(bucket, bytes - at);
        if (me) PK_TRY(receive_from(c, (me - above + root) % c->size, (char *)data + at, n, err));
        for (int bit = above / 2; bit > 0; bit /= 2)
            if (me + bit < c->size)
                PK_TRY(send_to(c, (me + bit + root) % c->size, (char *)data + at, n, err));
    }
    return PK_OK;
}

/* Each pair meets once: 2 size - 2 messages of a rank, the least that can be moved. */
enum pk_status pk_comm_all_gather(struct pk_comm *c, void *all, size_t bytes, struct pk_err *err)
{
    char *part = all;
    begin(c, PK_COMM_ALL_GATHER);
    for (int step = 1; step < c->size; step++) {
        const int from = (c->rank - step + c->size) % c->size;
        PK_TRY(rotate(c, step, part + (size_t)c->rank * bytes, bytes, part + (size_t)from * bytes,
                      bytes, err));
    }
    return PK_OK;
}

enum pk_status pk_comm_gather(struct pk_comm *c, int root, const void *mine, void *all,
                              size_t bytes, struct pk_err *err)
{
    begin(c, PK_COMM_GATHER);
    if (c->rank != root) return send_to(c, root, mine, bytes, err);
    char *own = (char *)all + (size_t)root * bytes;
    if (bytes && own != mine) memcpy(own, mine, bytes);
    for (int k = 0; k < c->size; k++)
        if (k != root) PK_TRY(receive_from(c, k, (char *)all + (size_t)k * bytes, bytes, err));
    return PK_OK;
}

static void add(float *restrict to, const float *restrict from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

/* Part k of [count] elements begins here; whole cache lines, so that parts are aligned alike. */
static int64_t part_at(int64_t count, int k, int size)
{
    const int64_t lines = (count + 15) / 16;
    return PK_MIN(lines * k / size * 16, count);
}

/* What ranks have of an array: of a bucket [count], even parts; or, of parts of the caller's, the
 * slices of at most `most` elements that begin `from` elements into each. */
struct parts {
    int64_t count;
    const int64_t *at; // NULL: even parts
    int64_t from, most;
};

static int64_t begin_of(const struct parts *p, int k, int size)
{
    return p->at ? PK_MIN(p->at[k] + p->from, p->at[k + 1]) : part_at(p->count, k, size);
}

static int64_t count_of(const struct parts *p, int k, int size)
{
    if (!p->at) return part_at(p->count, k + 1, size) - part_at(p->count, k, size);
    return PK_MIN(p->at[k + 1] - begin_of(p, k, size), p->most);
}

/* This rank's part: all ranks' copies side by side in the scratch, added in the tree. */
static enum pk_status sum_part(struct pk_comm *c, float *data, const struct parts *p,
                               struct pk_err *err)
{
    const int64_t first = begin_of(p, c->rank, c->size), n = count_of(p, c->rank, c->size);
    float *copy = (float *)(void *)c->scratch; // [size][n]
    for (int step = 1; step < c->size; step++) {
        const int to = (c->rank + step) % c->size, from = (c->rank - step + c->size) % c->size;
        PK_TRY(rotate(c, step, data + begin_of(p, to, c->size),
                      (size_t)count_of(p, to, c->size) * sizeof *data, copy + from * n,
                      (size_t)n * sizeof *data, err));
    }
    if (n) memcpy(copy + c->rank * n, data + first, (size_t)n * sizeof *data);
    for (int step = 1; step < c->size; step *= 2)
        for (int k = 0; k + step < c->size; k += 2 * step)
            add(copy + k * n, copy + (k + step) * n, n);
    if (n) memcpy(data + first, copy, (size_t)n * sizeof *data);
    return PK_OK;
}

static enum pk_status hand_round(struct pk_comm *c, float *data, const struct parts *p,
                                 struct pk_err *err)
{
    const int64_t mine = begin_of(p, c->rank, c->size), n = count_of(p, c->rank, c->size);
    for (int step = 1; step < c->size; step++) {
        const int from = (c->rank - step + c->size) % c->size;
        PK_TRY(rotate(c, step, data + mine, (size_t)n * sizeof *data,
                      data + begin_of(p, from, c->size),
                      (size_t)count_of(p, from, c->size) * sizeof *data, err));
    }
    return PK_OK;
}

static enum pk_status reserve_sum(struct pk_comm *c, int64_t part, struct pk_err *err)
{
    return pk_grow(&c->scratch, &c->scratch_bytes, part * c->size * (int64_t)sizeof(float), 1,
                   "buffer of a sum over ranks", err);
}

enum pk_status pk_comm_sum(struct pk_comm *c, float *data, int64_t count, struct pk_err *err)
{
    begin(c, PK_COMM_SUM);
    if (c->size == 1) return PK_OK;
    const int64_t bucket = PK_MIN(count, (int64_t)PK_COMM_BUCKET);
    PK_TRY(reserve_sum(c, ((bucket + 15) / 16 / c->size + 1) * 16, err));
    for (int64_t at = 0; at < count; at += bucket) {
        const struct parts p = {.count = PK_MIN(bucket, count - at)};
        PK_TRY(sum_part(c, data + at, &p, err));
        PK_TRY(hand_round(c, data + at, &p, err));
    }
    return PK_OK;
}

/* Slices of parts that make about a bucket together. */
static struct parts first_slices(const struct pk_comm *c, const int64_t *at, int64_t *longest)
{
    *longest = 0;
    for (int k = 0; k < c->size; k++) *longest = PK_MAX(*longest, at[k + 1] - at[k]);
    const int64_t most = PK_MIN((int64_t)PK_COMM_BUCKET / c->size, *longest);
    return (struct parts){.at = at, .most = PK_MAX(most, (int64_t)1)};
}

enum pk_status pk_comm_sum_parts(struct pk_comm *c, float *data, const int64_t *at,
                                 struct pk_err *err)
{
    int64_t longest;
    struct parts p = first_slices(c, at, &longest);
    begin(c, PK_COMM_SUM_PARTS);
    if (c->size == 1) return PK_OK;
    PK_TRY(reserve_sum(c, p.most, err));
    for (; p.from < longest; p.from += p.most) PK_TRY(sum_part(c, data, &p, err));
    return PK_OK;
}

enum pk_status pk_comm_gather_parts(struct pk_comm *c, float *data, const int64_t *at,
                                    struct pk_err *err)
{
    int64_t longest;
    struct parts p = first_slices(c, at, &longest);
    begin(c, PK_COMM_PARTS);
    for (; c->size > 1 && p.from < longest; p.from += p.most) PK_TRY(hand_round(c, data, &p, err));
    return PK_OK;
}

/* The same number for all processes under one kernel, containers included. */
static uint64_t this_host(void)
{
    char name[256] = {0}, *text = NULL;
    size_t n = 0;
    uint64_t id = 0;
    if (pk_read_file("/proc/sys/kernel/random/boot_id", 4096, &text, &n, NULL) == PK_OK && n)
        id = pk_hash64(text, n, 0);
    else if (gethostname(name, sizeof name - 1) == 0)
        id = pk_hash64(name, strlen(name), 1);
    free(text);
    return id;
}

enum pk_status pk_comm_locate(struct pk_comm *c, struct pk_err *err)
{
    uint64_t *all;
    PK_TRY(pk_alloc(&all, (size_t)c->size, sizeof *all, "hosts of the ranks", err));
    all[c->rank] = this_host();
    const enum pk_status s = pk_comm_all_gather(c, all, sizeof *all, err);
    c->local_rank = c->local_size = 0;
    for (int k = 0; s == PK_OK && k < c->size; k++) {
        if (all[k] != all[c->rank]) continue;
        c->local_rank += k < c->rank;
        c->local_size++;
    }
    free(all);
    return s;
}

/* --- agreement ----------------------------------------------------------------------------- */

/* The value that most ranks have; of equally many the one of the lowest rank. */
static uint64_t held_by_most(const uint64_t *value, int size)
{
    uint64_t best = value[0];
    int most = 0;
    for (int i = 0; i < size; i++) {
        int n = 0;
        for (int k = 0; k < size; k++) n += value[k] == value[i];
        if (n > most) {
            most = n;
            best = value[i];
        }
    }
    return best;
}

enum pk_status pk_comm_same(struct pk_comm *c, uint64_t value, const char *what, struct pk_err *err)
{
    uint64_t *all;
    struct pk_text who = {0};
    int bad = 0;
    if (c->size == 1) return PK_OK;
    PK_TRY(pk_alloc(&all, (size_t)c->size, sizeof *all, "values of the ranks", err));
    all[c->rank] = value;
    enum pk_status s = pk_comm_all_gather(c, all, sizeof *all, err);
    const uint64_t right = s == PK_OK ? held_by_most(all, c->size) : 0;
    for (int k = 0; s == PK_OK && k < c->size; k++)
        if (all[k] != right) pk_text_add(&who, "%s%d", bad++ ? ", " : "", k);
    free(all);
    if (bad)
        s = pk_fail(err, PK_ERANK,
                    "all ranks should have the same %s: rank%s %.500s differ%s from the other %d",
                    what, bad > 1 ? "s" : "", who.s ? who.s : "?", bad > 1 ? "" : "s",
                    c->size - bad);
    pk_text_free(&who);
    return s;
}

enum pk_status pk_comm_agree(struct pk_comm *c, enum pk_status s, struct pk_err *err)
{
    enum { TEXT = 1000 };
    struct outcome {
        int32_t status;
        char text[TEXT];
    } * all, mine = {.status = (int32_t)s};
    struct pk_err unseen = {0}; // this rank's own error is kept
    if (c->size == 1) return s;
    if (s != PK_OK && err) snprintf(mine.text, sizeof mine.text, "%.*s", TEXT - 1, err->message);
    if (pk_alloc(&all, (size_t)c->size, sizeof *all, "outcomes of the ranks",
                 s == PK_OK ? err : &unseen) != PK_OK) {
        pk_comm_abort(c, "out of memory");
        return s == PK_OK ? PK_ENOMEM : s;
    }
    all[c->rank] = mine;
    enum pk_status gathered = pk_comm_all_gather(c, all, sizeof *all, s == PK_OK ? err : &unseen);
    if (s == PK_OK) s = gathered;
    int first = 0; // that failed
    while (gathered == PK_OK && first < c->size && all[first].status == PK_OK) first++;
    if (gathered == PK_OK && first < c->size) {
        char who[48];
        all[first].text[TEXT - 1] = 0;
        const bool own = s != PK_OK;
        const int n = snprintf(who, sizeof who, "rank %d of %d: ", first, c->size);
        if (!strncmp(all[first].text, who, (size_t)n)) who[0] = 0; // it has said so itself
        if (!own) s = pk_fail(err, (enum pk_status)all[first].status, "%s%s", who, all[first].text);
        if (err) err->said = !own || (first < c->rank && !strcmp(all[first].text, mine.text));
    }
    free(all);
    return s;
}
