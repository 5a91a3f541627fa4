/* table_none.c -- in place of table_hdf5.c in a build without HDF5: says so. */
#include "datasets/table.h"

enum pk_status pk_table_write(const char *path, int64_t rows, const struct pk_table_column *column,
                              int columns, const struct pk_table_attribute *attribute,
                              int attributes, struct pk_err *err)
{
    (void)rows, (void)column, (void)columns, (void)attribute, (void)attributes;
    return pk_fail(err, PK_EMISSING,
                   "%s: this purkinje was built without HDF5 and writes no tables", path);
}

enum pk_status pk_table_read(const char *path, const char *column, enum pk_table_type type,
                             int64_t *rows, int64_t *width, void *data, struct pk_err *err)
{
    (void)column, (void)type, (void)rows, (void)width, (void)data;
    return pk_fail(err, PK_EMISSING, "%s: this purkinje was built without HDF5 and reads no tables",
                   path);
}

enum pk_status pk_table_read_text(const char *path, const char *attribute, char *out, size_t size,
                                  struct pk_err *err)
{
    (void)attribute, (void)out, (void)size;
    return pk_fail(err, PK_EMISSING, "%s: this purkinje was built without HDF5 and reads no tables",
                   path);
}

enum pk_status pk_table_read_number(const char *path, const char *attribute, double *out,
                                    struct pk_err *err)
{
    (void)attribute, (void)out;
    return pk_fail(err, PK_EMISSING, "%s: this purkinje was built without HDF5 and reads no tables",
                   path);
}
