/* table_hdf5.c -- tables in HDF5 (see table.h). */
#include "datasets/table.h"

#include <hdf5.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static hid_t text_type(size_t size)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t >= 0 && H5Tset_size(t, PK_MAX(size, (size_t)1)) >= 0 &&
        H5Tset_strpad(t, H5T_STR_NULLPAD) >= 0 && H5Tset_cset(t, H5T_CSET_UTF8) >= 0)
        return t;
    if (t >= 0) H5Tclose(t);
    return -1;
}

/* A type that the caller closes: in the file little-endian, in memory native. */
static hid_t type_of(const struct pk_table_column *c, bool file)
{
    switch (c->type) {
    case PK_TABLE_F32:
        return H5Tcopy(file ? H5T_IEEE_F32LE : H5T_NATIVE_FLOAT);
    case PK_TABLE_I32:
        return H5Tcopy(file ? H5T_STD_I32LE : H5T_NATIVE_INT32);
    case PK_TABLE_U64:
        return H5Tcopy(file ? H5T_STD_U64LE : H5T_NATIVE_UINT64);
    case PK_TABLE_TEXT:
        return text_type((size_t)c->width);
    }
    return -1;
}

/* count 0 writes a scalar. */
static bool put_attribute(hid_t object, const char *name, hid_t type, hid_t native, int64_t count,
                          const void *value)
{
    hsize_t n = (hsize_t)count;
    hid_t space = count ? H5Screate_simple(1, &n, NULL) : H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = a >= 0 && H5Awrite(a, native, value) >= 0;
    if (a >= 0 && H5Aclose(a) < 0) ok = false;
    if (space >= 0) H5Sclose(space);
    return ok;
}

static bool put_text(hid_t object, const char *name, const char *text, size_t size, int64_t count)
{
    hid_t t = text_type(size);
    bool ok = t >= 0 && put_attribute(object, name, t, t, count, text);
    if (t >= 0) H5Tclose(t);
    return ok;
}

static bool put_column(hid_t file, int64_t rows, const struct pk_table_column *c)
{
    hsize_t dims[2] = {(hsize_t)rows, (hsize_t)c->width};
    int rank = c->width && c->type != PK_TABLE_TEXT ? 2 : 1;
    hid_t space = H5Screate_simple(rank, dims, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
    hid_t type = type_of(c, true), native = type_of(c, false), d = -1;
    bool ok = H5Pset_obj_track_times(plist, false) >= 0; // equal columns must give equal bytes
    if (ok) d = H5Dcreate2(file, c->name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    ok = d >= 0 && H5Dwrite(d, native, H5S_ALL, H5S_ALL, H5P_DEFAULT, c->data) >= 0;
    if (ok && c->labels) ok = put_text(d, "names", c->labels, c->label_size, c->label_count);
    if (d >= 0 && H5Dclose(d) < 0) ok = false;
    if (type >= 0) H5Tclose(type);
    if (native >= 0) H5Tclose(native);
    if (plist >= 0) H5Pclose(plist);
    if (space >= 0) H5Sclose(space);
    return ok;
}

/* Returns the name of what failed, or NULL. */
static const char *fill(const char *path, int64_t rows, const struct pk_table_column *column,
                        int columns, const struct pk_table_attribute *attribute, int attributes)
{
    const char *failed = NULL;
    hid_t create = H5Pcreate(H5P_FILE_CREATE), file = -1;
    if (create >= 0 && H5Pset_obj_track_times(create, false) >= 0)
        file = H5Fcreate(path, H5F_ACC_TRUNC, create, H5P_DEFAULT);
    if (create >= 0) H5Pclose(create);
    if (file < 0) return "the file";
    for (int i = 0; i < attributes && !failed; i++) {
        const struct pk_table_attribute *a = &attribute[i];
        bool ok = a->text ? put_text(file, a->name, a->text, strlen(a->text), 0)
                          : put_attribute(file, a->name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 0,
                                          &a->number);
        if (!ok) failed = a->name;
    }
    for (int i = 0; i < columns && !failed; i++)
        if (!put_column(file, rows, &column[i])) failed = column[i].name;
    if (H5Fclose(file) < 0 && !failed) failed = "the end of the file";
    return failed;
}

enum pk_status pk_table_write(const char *path, int64_t rows, const struct pk_table_column *column,
                              int columns, const struct pk_table_attribute *attribute,
                              int attributes, struct pk_err *err)
{
    char part[PK_PATH_MAX];
    FILE *f;
    H5E_auto2_t print;
    void *data;
    PK_TRY(pk_path(part, err, "%s.part", path));
    H5dont_atexit(); // after a close that failed (full disk), 1.10 crashes in its exit handler
    H5open();
    H5Eget_auto2(H5E_DEFAULT, &print, &data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    const char *failed = fill(part, rows, column, columns, attribute, attributes);
    H5Eclear2(H5E_DEFAULT);
    H5Eset_auto2(H5E_DEFAULT, print, data);
    enum pk_status s = PK_OK;
    if (failed)
        s = pk_fail(err, PK_EWRITE,
                    "%s: libhdf5 cannot write %s; is the folder there and writable, and the disk "
                    "not full?",
                    part, failed);
    if (s == PK_OK) s = pk_open(&f, part, "rb+", err);
    if (s == PK_OK) s = pk_sync_close(&f, part, err);
    if (s == PK_OK) s = pk_rename(part, path, err);
    if (s != PK_OK) unlink(part);
    return s;
}

/* --- reading ------------------------------------------------------------------------------- */

struct quiet { // libhdf5 says nothing by itself, and loads no plugins that a file asks for
    H5E_auto2_t print;
    void *data;
};

static void quiet_begin(struct quiet *q)
{
    H5dont_atexit();
    H5open();
    H5Eget_auto2(H5E_DEFAULT, &q->print, &q->data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
}

static void quiet_end(const struct quiet *q)
{
    H5Eclear2(H5E_DEFAULT);
    H5Eset_auto2(H5E_DEFAULT, q->print, q->data);
}

static enum pk_status open_table(hid_t *file, const char *path, struct pk_err *err)
{
    FILE *f;
    PK_TRY(pk_open(&f, path, "rb", err)); // words for a file that is not there
    fclose(f);
    *file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (*file >= 0) return PK_OK;
    return pk_fail(err, PK_EDATA, "%s is no HDF5 file, or damaged", path);
}

/* The class of values that a column of this type holds in a file, of whatever size. */
static H5T_class_t class_of(enum pk_table_type type)
{
    return type == PK_TABLE_F32 ? H5T_FLOAT : type == PK_TABLE_TEXT ? H5T_STRING : H5T_INTEGER;
}

static enum pk_status read_column(hid_t file, const char *path, const char *column,
                                  enum pk_table_type type, int64_t *rows, int64_t *width,
                                  void **data, struct pk_err *err)
{
    enum pk_status s = PK_OK;
    hsize_t dims[2] = {0, 0};
    hid_t d = H5Dopen2(file, column, H5P_DEFAULT), space = -1, stored = -1, native = -1;
    if (d < 0) return pk_fail(err, PK_EDATA, "%s has no column '%s'", path, column);
    space = H5Dget_space(d);
    stored = H5Dget_type(d);
    int rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    bool text = type == PK_TABLE_TEXT;
    if (stored < 0 || H5Tget_class(stored) != class_of(type) || rank < 1 || rank > 2 - text ||
        (text && H5Tis_variable_str(stored)) || H5Sget_simple_extent_dims(space, dims, NULL) < 0)
        s = pk_fail(err, PK_EDATA, "%s: column '%s' is not what 'purkinje embed' writes", path,
                    column);
    if (s == PK_OK && (dims[0] < 1 || dims[0] > INT32_MAX || dims[1] > INT32_MAX ||
                       (*rows && dims[0] != (hsize_t)*rows)))
        s = pk_fail(err, PK_EDATA, "%s: column '%s' has %llu rows of %llu, %lld rows are expected",
                    path, column, (unsigned long long)dims[0], (unsigned long long)dims[1],
                    (long long)*rows);
    if (s == PK_OK) {
        *rows = (int64_t)dims[0];
        *width = text ? (int64_t)H5Tget_size(stored) : rank == 2 ? (int64_t)dims[1] : 0;
        struct pk_table_column c = {.type = type, .width = *width};
        native = text ? H5Tcopy(stored) : type_of(&c, false); // character sets are not converted
        size_t size = text ? (size_t)*width : native >= 0 ? H5Tget_size(native) : 0;
        size_t each = text ? 1 : (size_t)PK_MAX(*width, (int64_t)1);
        s = pk_alloc(data, (size_t)*rows * each + 1, size, "table", err);
    }
    if (s == PK_OK && (native < 0 || H5Dread(d, native, H5S_ALL, H5S_ALL, H5P_DEFAULT, *data) < 0))
        s = pk_fail(err, PK_EDATA, "%s: libhdf5 cannot read column '%s'; the file is damaged", path,
                    column);
    if (native >= 0) H5Tclose(native);
    if (stored >= 0) H5Tclose(stored);
    if (space >= 0) H5Sclose(space);
    H5Dclose(d);
    return s;
}

enum pk_status pk_table_read(const char *path, const char *column, enum pk_table_type type,
                             int64_t *rows, int64_t *width, void *data, struct pk_err *err)
{
    struct quiet q;
    hid_t file = -1;
    void *values = NULL;
    quiet_begin(&q);
    enum pk_status s = open_table(&file, path, err);
    if (s == PK_OK) s = read_column(file, path, column, type, rows, width, &values, err);
    if (file >= 0) H5Fclose(file);
    quiet_end(&q);
    if (s != PK_OK) {
        free(values);
        values = NULL;
    }
    memcpy(data, &values, sizeof values);
    return s;
}

/* Reads a scalar attribute of the class into out [size]; *there says whether it was one. */
static enum pk_status read_attribute(const char *path, const char *name, H5T_class_t class,
                                     hid_t number, void *out, size_t size, bool *there,
                                     struct pk_err *err)
{
    struct quiet q;
    hid_t file = -1, a = -1, type = -1;
    void *value = NULL;
    *there = false;
    quiet_begin(&q);
    enum pk_status s = open_table(&file, path, err);
    if (s == PK_OK && H5Aexists(file, name) > 0) a = H5Aopen(file, name, H5P_DEFAULT);
    if (a >= 0) type = H5Aget_type(a);
    if (type >= 0 && H5Tget_class(type) == class && !(H5Tis_variable_str(type) > 0) &&
        H5Aget_storage_size(a) <= H5Tget_size(type)) { // a scalar
        s = pk_alloc(&value, PK_MAX(H5Tget_size(type), size) + 1, 1, "attribute", err);
        *there = s == PK_OK && H5Aread(a, number >= 0 ? number : type, value) >= 0;
        if (*there) memcpy(out, value, size);
    }
    free(value);
    if (type >= 0) H5Tclose(type);
    if (a >= 0) H5Aclose(a);
    if (file >= 0) H5Fclose(file);
    quiet_end(&q);
    return s;
}

enum pk_status pk_table_read_text(const char *path, const char *attribute, char *out, size_t size,
                                  struct pk_err *err)
{
    bool there;
    enum pk_status s = read_attribute(path, attribute, H5T_STRING, -1, out, size, &there, err);
    out[there ? size - 1 : 0] = 0;
    return s;
}

enum pk_status pk_table_read_number(const char *path, const char *attribute, double *out,
                                    struct pk_err *err)
{
    bool there;
    double value = 0;
    H5open();
    PK_TRY(read_attribute(path, attribute, H5T_FLOAT, H5T_NATIVE_DOUBLE, &value, sizeof value,
                          &there, err));
    *out = there ? value : (double)NAN;
    return PK_OK;
}
