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

#endif
