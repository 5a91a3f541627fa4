/* collectives.h -- what every transport has to do, run by each rank of a world. */
#ifndef PK_TEST_COLLECTIVES_H
#define PK_TEST_COLLECTIVES_H

#include "core/comm.h"
#include "tests/test.h"

/* Element i of a rank: magnitudes that differ so much that every other association rounds
 * otherwise. */
static inline void rank_values(float *x, int64_t n, int rank, int64_t seed)
{
    uint32_t h = (uint32_t)(seed * 7919 + rank * 104729 + 1);
    for (int64_t i = 0; i < n; i++) {
        h = h * 1664525U + 1013904223U;
        x[i] = (float)(int32_t)h / (float)(1U << (h >> 9 & 15));
    }
}

/* The sum that the header promises, from all ranks' values. */
static inline void tree_sum(float *sum, int64_t n, int size, int64_t seed)
{
    float *all = calloc((size_t)(n * size) + 1, sizeof *all);
    for (int k = 0; k < size; k++) rank_values(all + k * n, n, k, seed);
    for (int step = 1; step < size; step *= 2)
        for (int k = 0; k + step < size; k += 2 * step)
            for (int64_t i = 0; i < n; i++) all[k * n + i] += all[(k + step) * n + i];
    memcpy(sum, all, (size_t)n * sizeof *sum);
    free(all);
}

static inline void check_sums(struct pk_comm *c)
{
    static const int64_t counts[] = {
        1,
        15,
        16,
        17, // less than one line for each rank, and one more
        33,
        129,
        4097,                // a last line that is not full
        PK_COMM_BUCKET,      // exactly one bucket
        PK_COMM_BUCKET + 19, // a small second one
    };
    struct pk_err err = {0};
    CHECK_OK(pk_comm_sum(c, NULL, 0, &err), &err);
    for (size_t i = 0; i < PK_COUNT(counts); i++) {
        const int64_t n = counts[i];
        if (n >= PK_COMM_BUCKET && c->size != 3 && c->size != 8) continue; // takes its time
        float *x = calloc((size_t)n + 2, sizeof *x), *want = calloc((size_t)n, sizeof *want);
        rank_values(x + 1, n, c->rank, n);
        x[0] = x[n + 1] = 1234; // guards
        tree_sum(want, n, c->size, n);
        CHECK_OK(pk_comm_sum(c, x + 1, n, &err), &err);
        CHECK(!memcmp(x + 1, want, (size_t)n * sizeof *x));
        CHECK(x[0] == 1234 && x[n + 1] == 1234);
        free(x);
        free(want);
    }
}

/* The halves of a sum, for even, uneven and empty parts: the same bits in the end, and in between
 * only this rank's part has changed. */
static inline void check_parts(struct pk_comm *c)
{
    struct pk_err err = {0};
    int64_t *at = calloc((size_t)c->size + 1, sizeof *at);
    for (int kind = 0; kind < 4; kind++) {
        const int64_t n = kind == 3 ? 3 * (int64_t)PK_COMM_BUCKET / 2 : 1000 + 61 * kind;
        if (kind == 3 && c->size != 3) continue; // takes its time
        for (int k = 0; k <= c->size; k++)       // even; most at the last; all at the first
            at[k] = kind == 1 ? (k == c->size ? n : k) : kind == 2 ? (k ? n : 0) : n * k / c->size;
        float *x = calloc((size_t)n, sizeof *x), *want = calloc((size_t)n, sizeof *want);
        float *own = calloc((size_t)n, sizeof *own);
        const size_t first = (size_t)at[c->rank], last = (size_t)at[c->rank + 1];
        rank_values(x, n, c->rank, n);
        memcpy(own, x, (size_t)n * sizeof *own);
        tree_sum(want, n, c->size, n);
        CHECK_OK(pk_comm_sum_parts(c, x, at, &err), &err);
        memcpy(own + first, want + first, (last - first) * sizeof *own);
        CHECK(!memcmp(x, own, (size_t)n * sizeof *x));
        CHECK_OK(pk_comm_gather_parts(c, x, at, &err), &err);
        CHECK(!memcmp(x, want, (size_t)n * sizeof *x));
        free(x);
        free(want);
        free(own);
    }
    free(at);
}

static inline unsigned char byte_of(int rank, size_t i)
{
    return (unsigned char)(rank * 37 + (int)(i % 251) + 1);
}

static inline void check_copies(struct pk_comm *c, size_t bytes)
{
    const size_t size = (size_t)c->size;
    struct pk_err err = {0};
    unsigned char *all = calloc(bytes * size + 1, 1), *mine = calloc(bytes + 1, 1);
    for (size_t i = 0; i < bytes; i++) mine[i] = byte_of(c->rank, i);
    for (int root = 0; root < c->size; root++) {
        size_t bad = 0;
        memset(all, 0, bytes * size);
        CHECK_OK(pk_comm_gather(c, root, mine, c->rank == root ? all : NULL, bytes, &err), &err);
        for (size_t i = 0; c->rank == root && i < bytes * size; i++)
            bad += all[i] != byte_of((int)(i / bytes), i % bytes);
        memcpy(all, mine, bytes);
        CHECK_OK(pk_comm_broadcast(c, root, all, bytes, &err), &err);
        for (size_t i = 0; i < bytes; i++) bad += all[i] != byte_of(root, i);
        CHECK(bad == 0);
    }
    size_t bad = 0;
    memset(all, 0, bytes * size);
    memcpy(all + bytes * (size_t)c->rank, mine, bytes);
    CHECK_OK(pk_comm_all_gather(c, all, bytes, &err), &err);
    for (size_t i = 0; i < bytes * size; i++) bad += all[i] != byte_of((int)(i / bytes), i % bytes);
    CHECK(bad == 0);
    free(all);
    free(mine);
}

/* Errors that all ranks of a world have to hear of. */
static inline void check_agreement(struct pk_comm *c)
{
    struct pk_err err = {0};
    char text[64];
    CHECK_OK(pk_comm_same(c, 42, "seed", &err), &err);
    CHECK_OK(pk_comm_agree(c, PK_OK, &err), &err);
    if (c->size < 3) return;
    CHECK_FAILS(pk_comm_same(c, c->rank == 1 ? 41 : 42, "seed", &err), PK_ERANK, &err,
                "same seed: rank 1 differs from the other");
    CHECK_FAILS(pk_comm_same(c, c->rank == 0 ? 41 : 42, "seed", &err), PK_ERANK, &err,
                "same seed: rank 0 differs");
    enum pk_status s = PK_OK;
    if (c->rank == 2) s = pk_fail(&err, PK_EDATA, "the shelf is empty");
    snprintf(text, sizeof text, "%sthe shelf is empty",
             c->rank == 2   ? ""
             : c->size == 4 ? "rank 2 of 4: "
                            : "rank 2 of ");
    CHECK_FAILS(pk_comm_agree(c, s, &err), PK_EDATA, &err,
                c->rank == 2 || c->size == 4 ? text : "the shelf is empty");
    CHECK_OK(pk_comm_barrier(c, &err), &err); // disagreement is no failure of the connection
}

static inline void check_collectives(struct pk_comm *c)
{
    static const size_t bytes[] = {0, 1, 7, 100000, 5000000}; // the last is more than a bucket
    struct pk_err err = {0};
    struct pk_text text = {0};
    char want[64];
    pk_comm_describe(c, &text);
    snprintf(want, sizeof want, "rank %d of %d over ", c->rank, c->size);
    CHECK(text.s && !strncmp(text.s, want, strlen(want)));
    pk_text_free(&text);
    for (int i = 0; i < 3; i++) CHECK_OK(pk_comm_barrier(c, &err), &err);
    for (size_t i = 0; i < PK_COUNT(bytes); i++) check_copies(c, bytes[i]);
    check_sums(c);
    check_parts(c);
    check_agreement(c);
}

#endif
