/* table.h -- one HDF5 file of columns with as many rows each, for what tools compute per record. */
#ifndef PK_TABLE_H
#define PK_TABLE_H

#include "core/base.h"

enum pk_table_type {
    PK_TABLE_F32,
    PK_TABLE_I32,
    PK_TABLE_U64,
    PK_TABLE_TEXT // fixed length, NUL padded, UTF-8
};

struct pk_table_column {
    const char *name; // of the dataset in the file
    enum pk_table_type type;
    int64_t width;      // values of a row, 0: the column has one dimension; TEXT: bytes
    const void *data;   // [rows, width]
    const char *labels; // [label_count][label_size], attribute "names"; or NULL
    size_t label_size;  // bytes, NUL padded
    int64_t label_count;
};

struct pk_table_attribute { // of the file
    const char *name;
    const char *text; // NULL: the number counts
    double number;
};

/* Writes the file atomically; the same columns give the same bytes.
 * Errors  PK_EWRITE    the disk or libhdf5 refused
 *         PK_EMISSING  a build without HDF5 */
enum pk_status pk_table_write(const char *path, int64_t rows, const struct pk_table_column *column,
                              int columns, const struct pk_table_attribute *attribute,
                              int attributes, struct pk_err *err);

/* Reads a column of a file into *data [rows, *width], to be freed. *rows: how many there must be,
 * or 0 to learn it. *width as in pk_table_column; TEXT: bytes of one text, NUL padded, and *data
 * has a further NUL byte at its end. Errors  PK_EIO       no such file PK_EDATA     no HDF5 file,
 * no such column, or of another type, rank or number of rows PK_EMISSING  a build without HDF5;
 * PK_ENOMEM */
enum pk_status pk_table_read(const char *path, const char *column, enum pk_table_type type,
                             int64_t *rows, int64_t *width, void *data, struct pk_err *err);
/* A text attribute of the file, cut to out [size]; "" when there is none. Errors as above. */
enum pk_status pk_table_read_text(const char *path, const char *attribute, char *out, size_t size,
                                  struct pk_err *err);
/* A floating-point attribute; NaN when there is none. */
enum pk_status pk_table_read_number(const char *path, const char *attribute, double *out,
                                    struct pk_err *err);

#endif
