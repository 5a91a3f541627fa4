/* ckpt_folder.c -- names and manifests of checkpoint folders (see ckpt_folder.h).
 *
 * The manifest ends with its own checksum: the XXH64 of its text with sixteen zeros in the place of
 * the checksum. A damaged manifest is hence found out like any damaged file. */
#include "core/ckpt_folder.h"

#include "core/json.h"
#include "core/sink.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MANIFEST_MAX = 1 << 20, TAIL = 20 }; // bytes; TAIL is the checksum and "\n}\n after it

static bool parse_name(const char *name, struct pk_ckpt_name *out)
{
    int64_t step;
    out->old = !strncmp(name, ".old-", 5);
    if (out->old) name += 5;
    if (strncmp(name, "step-", 5) != 0 || strlen(name) < 14) return false;
    for (const char *p = name + 5; *p; p++)
        if (*p < '0' || *p > '9') return false;
    if (!pk_parse_i64(name + 5, &step)) return false;
    out->step = step;
    return true;
}

static int by_age(const void *x, const void *y)
{
    const struct pk_ckpt_name *a = x, *b = y;
    if (a->step != b->step) return a->step < b->step ? -1 : 1;
    return (int)b->old - (int)a->old;
}

enum pk_status pk_ckpt_list(const char *dir, struct pk_ckpt_name **out, int64_t *count,
                            struct pk_err *err)
{
    int64_t capacity = 0;
    struct dirent *e;
    enum pk_status s = PK_OK;
    *out = NULL;
    *count = 0;
    DIR *d = opendir(dir);
    if (!d && errno == ENOENT) return PK_OK;
    if (!d) return pk_fail_errno(err, PK_EIO, "cannot list %s", dir);
    while (s == PK_OK && (e = readdir(d))) {
        struct pk_ckpt_name name;
        if (!parse_name(e->d_name, &name)) continue;
        s = pk_grow(out, &capacity, *count + 1, sizeof **out, "checkpoint list", err);
        if (s == PK_OK) (*out)[(*count)++] = name;
    }
    closedir(d);
    if (s != PK_OK) {
        free(*out);
        *out = NULL;
        *count = 0;
    } else if (*count) {
        qsort(*out, (size_t)*count, sizeof **out, by_age);
    }
    return s;
}

enum pk_status pk_ckpt_folder(char out[PK_PATH_MAX], const char *dir, const char *prefix,
                              int64_t step, struct pk_err *err)
{
    return pk_path(out, err, "%s/%sstep-%09lld", dir, prefix, (long long)step);
}

enum pk_status pk_ckpt_remove(const char *folder, struct pk_err *err)
{
    struct dirent *e;
    enum pk_status s = PK_OK;
    char path[PK_PATH_MAX];
    DIR *d = opendir(folder);
    if (!d && errno == ENOENT) return PK_OK;
    if (!d) return pk_fail_errno(err, PK_EWRITE, "cannot delete %s", folder);
    while (s == PK_OK && (e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        s = pk_path(path, err, "%s/%s", folder, e->d_name);
        if (s == PK_OK && unlink(path) != 0 && errno != ENOENT)
            s = pk_fail_errno(err, PK_EWRITE, "cannot delete %s", path);
    }
    closedir(d);
    if (s == PK_OK && rmdir(folder) != 0 && errno != ENOENT)
        s = pk_fail_errno(err, PK_EWRITE, "cannot delete %s", folder);
    return s;
}

static uint64_t checksum(const char *text, size_t n)
{
    struct pk_xxh64 h;
    pk_xxh64_start(&h);
    pk_xxh64_add(&h, text, n);
    return pk_xxh64_value(&h);
}

enum pk_status pk_manifest_text(struct pk_text *out, int64_t step, const struct pk_ckpt_entry *file,
                                int32_t files, struct pk_err *err)
{
    struct pk_json_writer w = {.out = out, .indent = 2};
    char hex[20];
    pk_json_open(&w, NULL, '{');
    pk_json_put_string(&w, "format", "purkinje checkpoint");
    pk_json_put_i64(&w, "version", 1);
    pk_json_put_i64(&w, "step", step);
    pk_json_open(&w, "files", '[');
    for (int32_t i = 0; i < files; i++) {
        pk_json_open(&w, NULL, '{');
        pk_json_put_string(&w, "name", file[i].name);
        pk_json_put_i64(&w, "bytes", file[i].bytes);
        snprintf(hex, sizeof hex, "%016llx", (unsigned long long)file[i].hash);
        pk_json_put_string(&w, "xxh64", hex);
        pk_json_close(&w);
    }
    pk_json_close(&w);
    pk_json_put_string(&w, "self", "0000000000000000");
    pk_json_close(&w);
    if (out->failed) return pk_fail(err, PK_ENOMEM, "out of memory for a manifest");
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)checksum(out->s, out->len));
    memcpy(out->s + out->len - TAIL, hex, 16);
    return PK_OK;
}

/* Checks the manifest's own checksum; puts the zeros back into text. */
static bool intact(char *text, size_t n)
{
    char hex[20], zeros[] = "0000000000000000";
    if (n < TAIL || memcmp(text + n - 4, "\"\n}\n", 4) != 0) return false;
    memcpy(hex, text + n - TAIL, 16);
    memcpy(text + n - TAIL, zeros, 16);
    char want[20];
    snprintf(want, sizeof want, "%016llx", (unsigned long long)checksum(text, n));
    return memcmp(want, hex, 16) == 0;
}

enum pk_status pk_ckpt_check_file(const struct pk_ckpt_entry *e, const char *folder, bool full,
                                  struct pk_err *err)
{
    char path[PK_PATH_MAX];
    struct stat info;
    uint64_t hash;
    int64_t bytes;
    PK_TRY(pk_path(path, err, "%s/%s", folder, e->name));
    if (stat(path, &info) != 0) return pk_fail_errno(err, PK_EDATA, "%s", path);
    if (info.st_size != e->bytes)
        return pk_fail(err, PK_EDATA, "%s has %lld bytes, the manifest says %lld", path,
                       (long long)info.st_size, (long long)e->bytes);
    if (!full) return PK_OK;
    PK_TRY(pk_xxh64_file(path, &hash, &bytes, err));
    if (hash != e->hash || bytes != e->bytes)
        return pk_fail(err, PK_EDATA, "%s is damaged: checksum %016llx, the manifest says %016llx",
                       path, (unsigned long long)hash, (unsigned long long)e->hash);
    return PK_OK;
}

static bool plain_name(const char *name)
{
    return name && *name && *name != '.' && !strchr(name, '/') && strlen(name) < 200;
}

static enum pk_status read_entry(struct pk_ckpt *out, const struct pk_json *j, const char *path,
                                 struct pk_err *err)
{
    struct pk_ckpt_entry *e = &out->file[out->files];
    const char *name = pk_json_string(j, "name", NULL), *hex = pk_json_string(j, "xxh64", "");
    char *end;
    e->bytes = pk_json_i64(j, "bytes", -1);
    e->hash = strtoull(hex, &end, 16);
    if (!plain_name(name) || e->bytes < 0 || strlen(hex) != 16 || *end)
        return pk_fail(err, PK_EDATA, "%s: file entry %d is malformed", path, out->files + 1);
    e->name = pk_strdup(name);
    if (!e->name) return pk_fail(err, PK_ENOMEM, "out of memory reading %s", path);
    out->files++;
    return PK_OK;
}

static enum pk_status read_manifest(struct pk_ckpt *out, const char *path, struct pk_err *err)
{
    char *text;
    size_t n;
    struct pk_json j;
    PK_TRY(pk_read_file(path, MANIFEST_MAX, &text, &n, err));
    enum pk_status s = intact(text, n) ? pk_json_parse(&j, text, n, path, err)
                                       : pk_fail(err, PK_EDATA, "%s is damaged", path);
    free(text);
    if (s != PK_OK) return s;
    const struct pk_json *files = pk_json_get(&j, "files");
    out->step = pk_json_i64(&j, "step", -1);
    if (strcmp(pk_json_string(&j, "format", ""), "purkinje checkpoint") != 0 || !files ||
        files->kind != PK_JSON_ARRAY || out->step < 0)
        s = pk_fail(err, PK_EDATA, "%s is not the manifest of a checkpoint", path);
    else if (pk_json_i64(&j, "version", 0) != 1)
        s = pk_fail(err, PK_EDATA, "%s has version %lld, this program reads version 1", path,
                    (long long)pk_json_i64(&j, "version", 0));
    else
        s = pk_alloc(&out->file, (size_t)files->count, sizeof *out->file, "manifest", err);
    for (int64_t i = 0; s == PK_OK && i < files->count; i++)
        s = read_entry(out, &files->item[i], path, err);
    pk_json_free(&j);
    return s;
}

enum pk_status pk_ckpt_verify(struct pk_ckpt *out, const char *folder, bool full,
                              struct pk_err *err)
{
    char path[PK_PATH_MAX];
    *out = (struct pk_ckpt){0};
    PK_TRY(pk_path(out->path, err, "%s", folder));
    PK_TRY(pk_path(path, err, "%s/MANIFEST.json", folder));
    enum pk_status s = read_manifest(out, path, err);
    for (int32_t i = 0; s == PK_OK && i < out->files; i++)
        s = pk_ckpt_check_file(&out->file[i], folder, full, err);
    if (s != PK_OK) pk_ckpt_close(out);
    return s;
}
