/* numbers.h -- columns of numbers out of large text files, strictly.
 *
 * For signals: a table with millions of rows, of which a few columns are wanted. (Tables of
 * subjects and labels, with quoted texts, are datasets/csv.h's.) Lines end in LF or CR LF, every
 * row has as many cells as the first line; blanks around a cell do not count. An empty cell, nan
 * and NA are NaN; anything else that is not a decimal number within the range of a float, which
 * is what a corpus holds, is an error with
 * file:line:column (columns count bytes from 1). Only empty lines at the very end are ignored. */
#ifndef PK_NUMBERS_H
#define PK_NUMBERS_H

#include "core/base.h"

enum { PK_NUMBERS_COLUMNS = 32, PK_NUMBERS_LIMIT = 1 << 30 /* bytes of a file */ };

struct pk_numbers_spec {
    char delimiter;            // ',' ';' '\t'; ' ' stands for any number of blanks and tabs
    char comment;              // lines that begin with it are left out; 0: none
    bool header;               // the first line names the columns, which may be in double quotes
    int64_t skip;              // lines before the header (or before the first row)
    int32_t columns;           // wanted
    uint32_t optional;         // bit k: column k may be missing; its values are NULL then
    const char *const *column; // [columns] names, or without a header numbers from 1 as text
};

struct pk_numbers {
    char path[PK_PATH_MAX];
    int64_t rows;
    int32_t columns;
    double *value[PK_NUMBERS_COLUMNS]; // [columns][rows]
    int32_t *line;                     // [rows] in the file, from 1
};

/* Reads the wanted columns. Free with pk_numbers_free (safe on a zeroed struct).
 * Errors  PK_EIO    cannot be read; PK_ENOMEM
 *         PK_EDATA  a column is not there (those that are get listed) or there twice, a row of
 *                   another width, a cell that is no number, a byte 0, no row at all */
enum pk_status pk_numbers_load(struct pk_numbers *out, const char *path,
                               const struct pk_numbers_spec *spec, struct pk_err *err);
void pk_numbers_free(struct pk_numbers *n);

/* All numbers of a file, whatever blanks, tabs and line ends lie between them. *x is owned by the
 * caller. Errors as above. */
enum pk_status pk_numbers_list(double **x, int64_t *count, const char *path, struct pk_err *err);

#endif
