/* loader_reference.h -- the order of core/loader.h once more, in the plainest way: nothing is
 * indexed, every sample searches all rows. */
#ifndef PK_TESTS_LOADER_REFERENCE_H
#define PK_TESTS_LOADER_REFERENCE_H

#include "core/loader.h"
#include "core/rng.h"

static int64_t ref_rows(const struct pk_loader_spec *s)
{
    return s->rows ? s->row_count : s->data->count;
}

static int64_t ref_row(const struct pk_loader_spec *s, int64_t i)
{
    return s->rows ? s->rows[i] : i;
}

/* Number i of an epoch of n. */
static int64_t ref_permuted(const struct pk_loader_spec *s, int64_t i, int64_t n)
{
    struct pk_rng r = pk_rng_make(s->seed, PK_RNG_ORDER, (uint64_t)(i / n), 0);
    return (int64_t)pk_bijection((uint64_t)(i % n), (uint64_t)n, pk_rng_u64(&r));
}

/* The source of draw g, and which of its count[source] it is. */
static int64_t ref_mixture(const struct pk_loader_spec *s, const int64_t *count, int64_t g,
                           int32_t *source)
{
    struct pk_rng r = pk_rng_make(s->seed, PK_RNG_MIXTURE, (uint64_t)g, 0);
    double total = 0;
    for (int32_t i = 0; i < s->data->sources; i++) total += s->weight[i];
    double u = pk_rng_uniform(&r) * total;
    *source = 0;
    while (u >= s->weight[*source]) u -= s->weight[(*source)++];
    return (int64_t)pk_rng_below(&r, (uint64_t)count[*source]);
}

/* A mixture takes the records of a participant in two sources for those of two people. */
static bool ref_in_source(const struct pk_loader_spec *s, int64_t row, int32_t source)
{
    return !s->weight || s->data->record[row].source == source;
}

/* The smallest participant above `after` with two rows or more (of a mixture's source), and how
 * many; 0: there is none. */
static uint64_t ref_next_participant(const struct pk_loader_spec *s, int32_t source, uint64_t after,
                                     int64_t *rows)
{
    for (uint64_t best = after;; after = best) {
        *rows = 0;
        for (int64_t i = 0; i < ref_rows(s); i++) {
            const uint64_t who = s->data->record[ref_row(s, i)].patient;
            if (!ref_in_source(s, ref_row(s, i), source)) continue;
            if (who <= after || (*rows && who > best)) continue;
            *rows = who == best && *rows ? *rows + 1 : 1;
            best = who;
        }
        if (*rows == 0) return 0;
        if (*rows > 1) return best;
    }
}

static int64_t ref_pair(const struct pk_loader_spec *s, int64_t g)
{
    int64_t rows, count[256] = {0}, k, row = -1;
    uint64_t who = 0;
    int32_t at = 0;
    for (int32_t i = 0; i < (s->weight ? s->data->sources : 1); i++, who = 0)
        while ((who = ref_next_participant(s, i, who, &rows)) != 0) count[i]++;
    k = s->weight ? ref_mixture(s, count, g / 2, &at) : ref_permuted(s, g / 2, count[0]);
    for (who = ref_next_participant(s, at, 0, &rows); k > 0; k--)
        who = ref_next_participant(s, at, who, &rows);
    struct pk_rng r = pk_rng_make(s->seed, PK_RNG_MIXTURE, (uint64_t)(g / 2), 1);
    const int64_t one = (int64_t)pk_rng_below(&r, (uint64_t)rows);
    const int64_t other = (int64_t)pk_rng_below(&r, (uint64_t)rows - 1);
    k = g % 2 == 0 ? one : other < one ? other : other + 1;
    for (int64_t i = 0; k >= 0; i++) {
        row = ref_row(s, i);
        if (s->data->record[row].patient == who && ref_in_source(s, row, at)) k--;
    }
    return row;
}

/* Which record and crop start sample g has. */
static void ref_locate(const struct pk_loader_spec *s, int64_t g, int64_t *row, int32_t *start)
{
    const bool adjacent = s->pair == PK_PAIR_ADJACENT;
    const int64_t n = ref_rows(s), draw = adjacent || s->pair == PK_PAIR_RECORD ? g / 2 : g;
    int64_t count[256] = {0};
    int32_t source;
    *row = ref_row(s, 0);
    if (s->pair == PK_PAIR_PARTICIPANT) {
        *row = ref_pair(s, g);
    } else if (!s->weight) {
        *row = ref_row(s, ref_permuted(s, draw, n));
    } else {
        for (int64_t i = 0; i < n; i++) count[s->data->record[ref_row(s, i)].source]++;
        int64_t k = ref_mixture(s, count, draw, &source);
        for (int64_t i = 0; i < n; i++) {
            *row = ref_row(s, i);
            if (s->data->record[*row].source == source && k-- == 0) break;
        }
    }
    *start = adjacent && g % 2 ? s->crop : 0;
    if (!s->random_crop) return;
    struct pk_rng r = pk_rng_make(s->seed, PK_RNG_CROP, (uint64_t)(adjacent ? g / 2 : g), 0);
    const int32_t room = s->data->record[*row].length - (adjacent ? 2 : 1) * s->crop;
    *start += (int32_t)pk_rng_below(&r, (uint64_t)room + 1);
}

#endif
