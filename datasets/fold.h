/* fold.h -- folds by subject, so that nobody is in two of them.
 *
 * Corpora without official folds get fold 1 + patient_id mod 10, where patient_id is the hash
 * stored in the corpus: it depends on the subject's identifier and the name of the database alone,
 * not on the other records, so a subject stays in its fold when records are added or left out.
 * Folds are equal only on average; with few subjects some are empty. */
#ifndef PK_FOLD_H
#define PK_FOLD_H

#include "core/data.h"

enum { PK_FOLDS_BY_SUBJECT = 10 };

/* The stored identifier of a subject: a hash of both texts, never 0. */
uint64_t pk_subject_hash(const char *database, const char *subject);
/* 1..10; 0 for an unknown subject (0). */
int16_t pk_fold_of_subject(uint64_t patient);

/* Counts the subjects that are in more than one fold (records without fold or subject do not
 * count). *leaks gets the number, *first the first record of a pair, *second the other one (-1 when
 * there is none). Error PK_ENOMEM */
enum pk_status pk_fold_leaks(const struct pk_dataset *d, int64_t *leaks, int64_t *first,
                             int64_t *second, struct pk_err *err);

#endif
