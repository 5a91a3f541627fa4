/* shard_hdf5.c -- the layout of a shard in HDF5 (see shard.h); with table_hdf5.c all that knows libhdf5.
 *
 * One table of columns serves writing and reading. Whatever libhdf5 has to say goes into the error
 * record, never to stderr; its plugins are switched off, since a file could ask for any of them. */
#include "datasets/shard.h"

#include <hdf5.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLUMNS = 16 + PK_TASKS_MAX + PK_TARGETS_MAX };

struct column {
    char path[PK_NAME_MAX + 16]; // "fold", "labels/rhythm"
    hid_t type;                  // in the file; memory holds the native type of the same size
    hid_t native;
    size_t size;         // bytes of one value
    int64_t width;       // values of a row; 0: the column has one dimension
    unsigned char *base; // first row in memory, NULL: not read
    size_t stride;       // bytes from one row to the next
    const void *names;   // attribute of strings, or NULL
    const char *names_key;
    size_t names_size; // bytes of a string, NUL padded
    int64_t names_count;
};

struct h5 { // what every step needs; err is filled by the first failure
    const char *path;
    hid_t file, text; // text: string type of the statements, freed at the end
    struct column column[MAX_COLUMNS];
    int columns;
    struct pk_shard *shard;
    struct pk_err *err;
    H5E_auto2_t old_print;
    void *old_data;
};

/* --- errors -------------------------------------------------------------------------------- */

struct reason {
    char text[128], system[96]; // what libhdf5 says and what errno said to it; "" when unknown
};

static herr_t keep_reason(unsigned n, const H5E_error2_t *e, void *out)
{
    struct reason *r = out;
    if (n != 0 || !e->desc) return 0; // only the innermost: where it was detected
    const char *end = strstr(e->desc, ": time = "), *system = strstr(e->desc, "error message = '");
    size_t size = end ? (size_t)(end - e->desc) : strcspn(e->desc, "\n");
    snprintf(r->text, sizeof r->text, "%.*s", (int)PK_MIN(size, sizeof r->text), e->desc);
    if (!system) return 0;
    system += strlen("error message = '");
    snprintf(r->system, sizeof r->system, ": %.*s", (int)strcspn(system, "'"), system);
    return 0;
}

static enum pk_status refused(struct h5 *h, enum pk_status s, const char *verb, const char *what)
{
    struct reason r = {"", ""};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_reason, &r);
    return pk_fail(h->err, s, "%s: cannot %s %s%s%s%s", h->path, verb, what,
                   r.text[0] ? ": libhdf5 says " : "", r.text, r.system);
}

static enum pk_status bad(struct h5 *h, const char *object, const char *what)
{
    return pk_fail(h->err, PK_EDATA,
                   "%s: '%s' %s; this is not a shard written by purkinje (version %d)", h->path,
                   object, what, PK_SHARD_VERSION);
}

static void quiet_begin(struct h5 *h)
{
    H5dont_atexit(); // after a close that failed (full disk), 1.10 crashes in its exit handler
    H5open();
    H5Eget_auto2(H5E_DEFAULT, &h->old_print, &h->old_data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
}

static void quiet_end(struct h5 *h)
{
    if (h->text > 0) H5Tclose(h->text);
    H5Eclear2(H5E_DEFAULT);
    H5Eset_auto2(H5E_DEFAULT, h->old_print, h->old_data);
}

/* --- the table of columns ------------------------------------------------------------------ */

static struct column *add_column(struct h5 *h, const char *group, const char *name, hid_t type,
                                 hid_t native, size_t size, int64_t width, void *base,
                                 size_t stride)
{
    struct column *c = &h->column[h->columns++];
    snprintf(c->path, sizeof c->path, "%s%s", group, name);
    c->type = type;
    c->native = native;
    c->size = size;
    c->width = width;
    c->base = base;
    c->stride = stride;
    return c;
}

static hid_t string_type(size_t size)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t < 0 || H5Tset_size(t, size) < 0 || H5Tset_strpad(t, H5T_STR_NULLPAD) < 0 ||
        H5Tset_cset(t, H5T_CSET_UTF8) < 0) {
        if (t >= 0) H5Tclose(t);
        return -1;
    }
    return t;
}

static void list_columns(struct h5 *h, hid_t id_type)
{
    const struct pk_corpus_spec *spec = h->shard->spec;
    struct pk_shard *s = h->shard;
    struct pk_record *r = s->record;
    const size_t step = sizeof *r;
    h->columns = 0;
    add_column(h, "", "record_id", id_type, id_type, PK_ID_MAX, 0, s->id, PK_ID_MAX);
    add_column(h, "", "patient_id", H5T_STD_U64LE, H5T_NATIVE_UINT64, 8, 0, &r->patient, step);
    struct column *source =
        add_column(h, "", "dataset", H5T_STD_I32LE, H5T_NATIVE_INT32, 4, 0, &r->source, step);
    source->names = spec->source_name;
    source->names_key = "names";
    source->names_size = PK_NAME_MAX;
    source->names_count = spec->sources;
    add_column(h, "", "length", H5T_STD_I32LE, H5T_NATIVE_INT32, 4, 0, &r->length, step);
    add_column(h, "", "scale", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 4, spec->leads, r->scale, step);
    add_column(h, "", "lead_mask", H5T_STD_U16LE, H5T_NATIVE_UINT16, 2, 0, &r->lead_mask, step);
    add_column(h, "", "quality", H5T_STD_U32LE, H5T_NATIVE_UINT32, 4, 0, &r->quality, step);
    add_column(h, "", "fold", H5T_STD_I16LE, H5T_NATIVE_INT16, 2, 0, &r->fold, step);
    if (s->statements)
        add_column(h, "", "statements", h->text, h->text, s->width, 0, s->statements, s->width);
    for (int32_t t = 0; t < spec->tasks; t++) {
        const struct pk_task *task = &spec->task[t];
        struct column *c = add_column(h, "labels/", task->name, H5T_STD_U8LE, H5T_NATIVE_UINT8, 1,
                                      task->classes, s->label[t], (size_t)task->classes);
        c->names = task->class_name;
        c->names_key = "class_names";
        c->names_size = PK_NAME_MAX;
        c->names_count = task->classes;
    }
    for (int32_t t = 0; t < spec->targets; t++)
        add_column(h, "targets/", spec->target_name[t], H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 4, 0,
                   s->target[t], sizeof(float));
}

/* --- writing ------------------------------------------------------------------------------- */

static bool put_attribute(hid_t object, const char *name, hid_t type, hid_t native, int64_t count,
                          const void *value)
{
    hsize_t n = (hsize_t)count;
    hid_t space = count ? H5Screate_simple(1, &n, NULL) : H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = a >= 0 && H5Awrite(a, native, value) >= 0;
    if (a >= 0) H5Aclose(a);
    if (space >= 0) H5Sclose(space);
    return ok;
}

/* count 0 writes one string, else an array of `count` strings of `size` bytes, NUL padded. */
static bool put_strings(hid_t object, const char *name, const void *text, size_t size,
                        int64_t count)
{
    hid_t t = string_type(size);
    bool ok = t >= 0 && put_attribute(object, name, t, t, count, text);
    if (t >= 0) H5Tclose(t);
    return ok;
}

/* Contiguous, no filter, whole extent in the file from the start, and no time stamps: equal input
 * must give equal bytes. */
static hid_t create_dataset(struct h5 *h, const char *path, hid_t type, int rank,
                            const hsize_t *dims)
{
    hid_t space = H5Screate_simple(rank, dims, NULL), d = -1;
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    if (space >= 0 && plist >= 0 && H5Pset_layout(plist, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY) >= 0 &&
        H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER) >= 0 &&
        H5Pset_obj_track_times(plist, false) >= 0)
        d = H5Dcreate2(h->file, path, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    if (plist >= 0) H5Pclose(plist);
    if (space >= 0) H5Sclose(space);
    return d;
}

static enum pk_status write_signal_header(struct h5 *h)
{
    struct pk_shard *s = h->shard;
    const struct pk_corpus_spec *spec = s->spec;
    hsize_t dims[3] = {(hsize_t)s->count, (hsize_t)spec->leads, (hsize_t)s->padded};
    int32_t samples = spec->samples;
    float lsb = s->record[0].scale[0]; // of all leads and records, else NaN: see column scale
    for (int64_t i = 0; i < s->count; i++)
        for (int32_t l = 0; l < spec->leads; l++)
            if (s->record[i].scale[l] != lsb) lsb = NAN;

    hid_t d = create_dataset(h, "signal", H5T_STD_I16LE, 3, dims);
    if (d < 0) return refused(h, PK_EWRITE, "create", "signal");
    bool ok =
        put_attribute(d, "rate", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 0, &spec->rate) &&
        put_attribute(d, "lsb", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 0, &lsb) &&
        put_attribute(d, "samples", H5T_STD_I32LE, H5T_NATIVE_INT32, 0, &samples) &&
        put_strings(d, "lead_names", spec->lead_name, sizeof spec->lead_name[0], spec->leads) &&
        put_strings(d, "units", spec->units, sizeof spec->units, 0) &&
        put_strings(d, "modality", spec->modality, sizeof spec->modality, 0);
    haddr_t offset = H5Dget_offset(d);
    if (H5Dclose(d) < 0 || !ok || offset == HADDR_UNDEF)
        return refused(h, PK_EWRITE, "write", "attributes of signal");
    if (offset % PK_SHARD_ALIGN)
        return pk_fail(h->err, PK_EINTERNAL, "%s: libhdf5 put 'signal' at byte %llu, not aligned",
                       h->path, (unsigned long long)offset);
    s->offset = (int64_t)offset;
    return PK_OK;
}

static enum pk_status write_column(struct h5 *h, const struct column *c)
{
    int64_t n = h->shard->count;
    hsize_t dims[2] = {(hsize_t)n, (hsize_t)c->width};
    size_t row = c->size * (size_t)(c->width ? c->width : 1);
    unsigned char *packed;
    PK_TRY(pk_alloc(&packed, (size_t)n, row, c->path, h->err));
    for (int64_t i = 0; i < n; i++)
        memcpy(packed + (size_t)i * row, c->base + (size_t)i * c->stride, row);
    hid_t d = create_dataset(h, c->path, c->type, c->width ? 2 : 1, dims);
    bool ok = d >= 0 && H5Dwrite(d, c->native, H5S_ALL, H5S_ALL, H5P_DEFAULT, packed) >= 0;
    if (ok && c->names) ok = put_strings(d, c->names_key, c->names, c->names_size, c->names_count);
    free(packed);
    if (d >= 0 && H5Dclose(d) < 0) ok = false;
    return ok ? PK_OK : refused(h, PK_EWRITE, "write", c->path);
}

static enum pk_status create_file(struct h5 *h)
{
    hid_t create = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
    if (create >= 0 && access >= 0 && H5Pset_obj_track_times(create, false) >= 0 &&
        H5Pset_alignment(access, PK_SHARD_ALIGN, PK_SHARD_ALIGN) >= 0 &&
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0)
        h->file = H5Fcreate(h->path, H5F_ACC_TRUNC, create, access);
    if (create >= 0) H5Pclose(create);
    if (access >= 0) H5Pclose(access);
    return h->file < 0 ? refused(h, PK_EWRITE, "create", "the file") : PK_OK;
}

static enum pk_status create_groups(struct h5 *h)
{
    static const char *const groups[] = {"labels", "targets"};
    int32_t version = PK_SHARD_VERSION;
    hid_t plist = H5Pcreate(H5P_GROUP_CREATE);
    bool ok =
        plist >= 0 && H5Pset_obj_track_times(plist, false) >= 0 &&
        put_attribute(h->file, "purkinje_shard", H5T_STD_I32LE, H5T_NATIVE_INT32, 0, &version);
    for (size_t i = 0; i < PK_COUNT(groups) && ok; i++) {
        hid_t g = H5Gcreate2(h->file, groups[i], H5P_DEFAULT, plist, H5P_DEFAULT);
        ok = g >= 0 && H5Gclose(g) >= 0;
    }
    if (plist >= 0) H5Pclose(plist);
    return ok ? PK_OK : refused(h, PK_EWRITE, "create", "groups");
}

enum pk_status pk_shard_write(const char *path, struct pk_shard *s, struct pk_err *err)
{
    struct h5 h = {.path = path, .file = -1, .shard = s, .err = err};
    quiet_begin(&h);
    hid_t id_type = string_type(PK_ID_MAX);
    h.text = string_type(s->width);
    list_columns(&h, id_type);
    enum pk_status st = create_file(&h);
    if (st == PK_OK) st = write_signal_header(&h);
    if (st == PK_OK) st = create_groups(&h);
    for (int i = 0; i < h.columns && st == PK_OK; i++) st = write_column(&h, &h.column[i]);
    if (h.file >= 0 && H5Fclose(h.file) < 0 && st == PK_OK)
        st = refused(&h, PK_EWRITE, "close", "the file");
    if (id_type >= 0) H5Tclose(id_type);
    quiet_end(&h);
    return st;
}

/* --- reading ------------------------------------------------------------------------------- */

/* Opens a dataset only when each link on the way is a hard one: a soft or external link could name
 * any file of the machine. */
static enum pk_status open_dataset(struct h5 *h, const char *path, hid_t *out)
{
    char part[PK_NAME_MAX + 16];
    H5L_info_t info;
    const char *slash = strchr(path, '/');
    *out = -1;
    snprintf(part, sizeof part, "%.*s", slash ? (int)(slash - path) : (int)strlen(path), path);
    if (H5Lget_info(h->file, part, &info, H5P_DEFAULT) < 0) return bad(h, part, "is missing");
    if (info.type != H5L_TYPE_HARD) return bad(h, part, "is a soft or external link");
    if (slash) {
        if (H5Lget_info(h->file, path, &info, H5P_DEFAULT) < 0) return bad(h, path, "is missing");
        if (info.type != H5L_TYPE_HARD) return bad(h, path, "is a soft or external link");
    }
    *out = H5Dopen2(h->file, path, H5P_DEFAULT);
    return *out < 0 ? bad(h, path, "is no dataset") : PK_OK;
}

/* Type, shape, and bytes that lie in this file as they are. */
static enum pk_status check_dataset(struct h5 *h, hid_t d, const char *path, hid_t type, int rank,
                                    const hsize_t *want)
{
    hsize_t dims[3] = {0};
    hid_t space = H5Dget_space(d), have = H5Dget_type(d), plist = H5Dget_create_plist(d);
    const char *what = NULL;
    if (space < 0 || have < 0 || plist < 0)
        what = "cannot be examined";
    else if (H5Pget_layout(plist) != H5D_CONTIGUOUS)
        what = "is not contiguous";
    else if (H5Pget_external_count(plist) != 0)
        what = "has external storage";
    else if (H5Pget_nfilters(plist) != 0)
        what = "has filters";
    else if (type >= 0 && H5Tequal(have, type) <= 0)
        what = "has another type";
    else if (H5Sget_simple_extent_ndims(space) != rank ||
             H5Sget_simple_extent_dims(space, dims, NULL) < 0)
        what = "has another number of dimensions";
    else if (memcmp(dims, want, (size_t)rank * sizeof *dims) != 0)
        what = "has another shape";
    else if (H5Dget_offset(d) == HADDR_UNDEF)
        what = "has no bytes in the file";
    if (space >= 0) H5Sclose(space);
    if (have >= 0) H5Tclose(have);
    if (plist >= 0) H5Pclose(plist);
    return what ? bad(h, path, what) : PK_OK;
}

static enum pk_status read_column(struct h5 *h, const struct column *c)
{
    int64_t n = h->shard->count;
    hsize_t dims[2] = {(hsize_t)n, (hsize_t)c->width};
    size_t row = c->size * (size_t)(c->width ? c->width : 1);
    unsigned char *packed = NULL;
    hid_t d;
    enum pk_status s = open_dataset(h, c->path, &d);
    if (s == PK_OK) s = check_dataset(h, d, c->path, c->type, c->width ? 2 : 1, dims);
    if (s == PK_OK) s = pk_alloc(&packed, (size_t)n, row, c->path, h->err);
    if (s == PK_OK && H5Dread(d, c->native, H5S_ALL, H5S_ALL, H5P_DEFAULT, packed) < 0)
        s = refused(h, PK_EDATA, "read", c->path);
    for (int64_t i = 0; i < n && s == PK_OK; i++)
        memcpy(c->base + (size_t)i * c->stride, packed + (size_t)i * row, row);
    free(packed);
    if (d >= 0) H5Dclose(d);
    return s;
}

static enum pk_status read_version(struct h5 *h)
{
    int32_t version = -1;
    if (H5Aexists(h->file, "purkinje_shard") <= 0)
        return bad(h, "purkinje_shard", "(the version attribute) is missing");
    hid_t a = H5Aopen(h->file, "purkinje_shard", H5P_DEFAULT), space = -1;
    bool ok = a >= 0 && (space = H5Aget_space(a)) >= 0 &&
              H5Sget_simple_extent_npoints(space) == 1 &&
              H5Aread(a, H5T_NATIVE_INT32, &version) >= 0;
    if (space >= 0) H5Sclose(space);
    if (a >= 0) H5Aclose(a);
    if (!ok) return bad(h, "purkinje_shard", "cannot be read");
    if (version != PK_SHARD_VERSION)
        return pk_fail(h->err, PK_EDATA,
                       "%s: shard version %d, this program reads version %d; import the data again "
                       "or use the program that wrote it",
                       h->path, version, PK_SHARD_VERSION);
    return PK_OK;
}

static enum pk_status find_signal(struct h5 *h)
{
    struct pk_shard *s = h->shard;
    hsize_t size, dims[3] = {(hsize_t)s->count, (hsize_t)s->spec->leads, (hsize_t)s->padded};
    hid_t d;
    enum pk_status st = open_dataset(h, "signal", &d);
    if (st == PK_OK) st = check_dataset(h, d, "signal", H5T_STD_I16LE, 3, dims);
    if (st == PK_OK) {
        haddr_t offset = H5Dget_offset(d);
        hsize_t bytes = dims[0] * dims[1] * dims[2] * 2;
        if (offset % PK_SHARD_ALIGN)
            st = bad(h, "signal", "is not aligned to 4096 bytes");
        else if (H5Fget_filesize(h->file, &size) < 0 || offset > size || bytes > size - offset)
            st = bad(h, "signal", "ends after the file: truncated");
        else
            s->offset = (int64_t)offset;
    }
    if (d >= 0) H5Dclose(d);
    return st;
}

static enum pk_status open_file(struct h5 *h)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access >= 0) {
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
#if H5_VERSION_GE(1, 10, 7)
        H5Pset_file_locking(access, 0, 1); // shards are read only, and NFS often has no locks
#endif
        h->file = H5Fopen(h->path, H5F_ACC_RDONLY, access);
        H5Pclose(access);
    }
    return h->file < 0 ? refused(h, PK_EDATA, "open", "it as HDF5") : PK_OK;
}

enum pk_status pk_shard_read(const char *path, struct pk_shard *s, struct pk_err *err)
{
    struct h5 h = {.path = path, .file = -1, .shard = s, .err = err};
    quiet_begin(&h);
    hid_t id_type = string_type(PK_ID_MAX);
    enum pk_status st = open_file(&h);
    if (st == PK_OK) st = read_version(&h);
    if (st == PK_OK) st = find_signal(&h);
    if (st == PK_OK) st = pk_shard_alloc(s, err);
    if (st == PK_OK) {
        list_columns(&h, id_type);
        for (int i = 0; i < h.columns && st == PK_OK; i++) st = read_column(&h, &h.column[i]);
        for (int64_t i = 0; i < s->count && st == PK_OK; i++) s->id[i][PK_ID_MAX - 1] = 0;
        if (st != PK_OK) pk_shard_free(s);
    }
    if (h.file >= 0) H5Fclose(h.file);
    if (id_type >= 0) H5Tclose(id_type);
    quiet_end(&h);
    return st;
}
