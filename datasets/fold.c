/* fold.c -- see fold.h. */
#include "datasets/fold.h"

#include <stdlib.h>
#include <string.h>

uint64_t pk_subject_hash(const char *database, const char *subject)
{
    uint64_t seed = pk_hash64(database, strlen(database), 0x7375626a65637400u);
    uint64_t h = pk_hash64(subject, strlen(subject), seed);
    return h ? h : 1; // 0 says "unknown"
}

int16_t pk_fold_of_subject(uint64_t patient)
{
    return patient ? (int16_t)(1 + patient % PK_FOLDS_BY_SUBJECT) : 0;
}

struct seen {
    uint64_t patient;
    int64_t record;
};

static int by_patient(const void *a, const void *b)
{
    const struct seen *x = a, *y = b;
    if (x->patient != y->patient) return x->patient > y->patient ? 1 : -1;
    return (x->record > y->record) - (x->record < y->record);
}

enum pk_status pk_fold_leaks(const struct pk_dataset *d, int64_t *leaks, int64_t *first,
                             int64_t *second, struct pk_err *err)
{
    struct seen *s;
    int64_t n = 0;
    *leaks = 0;
    *first = *second = -1;
    PK_TRY(pk_alloc(&s, (size_t)d->count, sizeof *s, "subjects", err));
    for (int64_t i = 0; i < d->count; i++)
        if (d->record[i].patient && d->record[i].fold > 0)
            s[n++] = (struct seen){d->record[i].patient, i};
    qsort(s, (size_t)n, sizeof *s, by_patient);
    for (int64_t i = 0, next; i < n; i = next) {
        bool leak = false;
        for (next = i; next < n && s[next].patient == s[i].patient; next++) {
            if (d->record[s[next].record].fold == d->record[s[i].record].fold) continue;
            leak = true;
            if (*first >= 0) continue;
            *first = s[i].record;
            *second = s[next].record;
        }
        *leaks += leak;
    }
    free(s);
    return PK_OK;
}
