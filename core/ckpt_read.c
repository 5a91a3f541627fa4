/* ckpt_read.c -- finding, verifying and reading checkpoints (see ckpt.h). */
#include "core/ckpt_folder.h"

#include <stdlib.h>
#include <string.h>

enum { STATE_MAX = 16 << 20 }; // bytes of state.json

void pk_ckpt_close(struct pk_ckpt *c)
{
    for (int32_t i = 0; i < c->files; i++) free(c->file[i].name);
    free(c->file);
    free(c->state);
    *c = (struct pk_ckpt){0};
}

bool pk_ckpt_has(const struct pk_ckpt *c, const char *file)
{
    for (int32_t i = 0; i < c->files; i++)
        if (!strcmp(c->file[i].name, file)) return true;
    return false;
}

static enum pk_status open_one(struct pk_ckpt *out, const char *folder, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    PK_TRY(pk_ckpt_verify(out, folder, true, err));
    enum pk_status s = pk_path(path, err, "%s/state.json", folder);
    if (s == PK_OK && !pk_ckpt_has(out, "state.json"))
        s = pk_fail(err, PK_EDATA, "%s holds no state.json", folder);
    if (s == PK_OK) s = pk_read_file(path, STATE_MAX, &out->state, NULL, err);
    if (s != PK_OK) pk_ckpt_close(out);
    return s;
}

/* The newest valid one of a checkpoints folder; `reasons` collects why others were passed over. */
static enum pk_status open_newest(struct pk_ckpt *out, const char *dir, struct pk_text *reasons,
                                  struct pk_err *err)
{
    struct pk_ckpt_name *name;
    int64_t count;
    char folder[PK_PATH_MAX];
    struct pk_err why = {0};
    PK_TRY(pk_ckpt_list(dir, &name, &count, err));
    enum pk_status s = PK_EMISSING;
    for (int64_t i = count - 1; i >= 0 && s != PK_OK; i--) {
        s = pk_ckpt_folder(folder, dir, name[i].old ? ".old-" : "", name[i].step, &why);
        if (s == PK_OK) s = open_one(out, folder, &why);
        if (s != PK_OK) pk_text_add(reasons, "%s%s", reasons->len ? "; " : "", why.message);
    }
    free(name);
    if (s == PK_OK) return PK_OK;
    if (count == 0) return pk_fail(err, PK_EMISSING, "there is no checkpoint in %s", dir);
    return pk_fail(err, PK_EDATA, "none of the %lld checkpoints in %s is valid: %s",
                   (long long)count, dir, reasons->s ? reasons->s : "");
}

enum pk_status pk_ckpt_open(struct pk_ckpt *out, const char *path, struct pk_err *err)
{
    char inner[PK_PATH_MAX];
    struct pk_text reasons = {0};
    *out = (struct pk_ckpt){0};
    if (!pk_exists(path)) return pk_fail(err, PK_EMISSING, "%s does not exist", path);
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    PK_TRY(pk_path(inner, err, "%s/MANIFEST.json", path));
    if (pk_exists(inner) || !strncmp(base, "step-", 5)) return open_one(out, path, err);
    PK_TRY(pk_path(inner, err, "%s/checkpoints", path));
    enum pk_status s = open_newest(out, pk_exists(inner) ? inner : path, &reasons, err);
    if (s == PK_OK && reasons.s)
        snprintf(out->warning, sizeof out->warning, "going back to the checkpoint of step %lld: %s",
                 (long long)out->step, reasons.s);
    pk_text_free(&reasons);
    return s;
}

/* Whether `name` is NAME-00001-of-00004.safetensors for the NAME.safetensors that `whole` is. */
static bool is_shard(const char *name, const char *whole)
{
    static const char suffix[] = ".safetensors", number[] = "-00000-of-00000";
    const size_t all = strlen(whole), stem = all - PK_MIN(all, sizeof suffix - 1);
    if (strcmp(whole + stem, suffix) != 0 || strncmp(name, whole, stem) != 0) return false;
    const char *p = name + stem;
    for (const char *q = number; *q; p++, q++)
        if (*q == '0' ? *p < '0' || *p > '9' : *p != *q) return false;
    return !strcmp(p, suffix);
}

/* Reads those tensors that the file holds, and marks them. exact: it must hold no others. */
static enum pk_status read_some(const char *path, const struct pk_tensor_ref *tensor, int64_t count,
                                bool exact, bool *found, struct pk_err *err)
{
    struct pk_safetensors st;
    struct pk_tensor_ref *some;
    int64_t n = 0;
    PK_TRY(pk_safetensors_open(&st, path, err));
    enum pk_status s = pk_alloc(&some, (size_t)count, sizeof *some, "tensor list", err);
    for (int64_t i = 0; s == PK_OK && i < count; i++) {
        if (!pk_safetensors_find(&st, tensor[i].name)) continue;
        if (found[i])
            s = pk_fail(err, PK_EDATA, "%s: tensor '%s' is in another shard, too", path,
                        tensor[i].name);
        found[i] = true;
        some[n++] = tensor[i];
    }
    if (s == PK_OK) s = pk_safetensors_read(&st, some, n, exact, err);
    free(some);
    pk_safetensors_close(&st);
    return s;
}

static enum pk_status read_shards(const struct pk_ckpt *c, const char *whole,
                                  const struct pk_tensor_ref *tensor, int64_t count, bool exact,
                                  struct pk_err *err)
{
    char path[PK_PATH_MAX];
    int shards = 0;
    bool *found;
    PK_TRY(pk_alloc(&found, (size_t)count, sizeof *found, "tensor list", err));
    enum pk_status s = PK_OK;
    for (int32_t i = 0; i < c->files && s == PK_OK; i++) {
        if (!is_shard(c->file[i].name, whole)) continue;
        shards++;
        s = pk_path(path, err, "%s/%s", c->path, c->file[i].name);
        if (s == PK_OK) s = read_some(path, tensor, count, exact, found, err);
    }
    if (s == PK_OK && !shards)
        s = pk_fail(err, PK_EDATA, "checkpoint %s holds no %s", c->path, whole);
    for (int64_t i = 0; i < count && s == PK_OK; i++)
        if (!found[i])
            s = pk_fail(err, PK_EDATA, "checkpoint %s: none of the %d shards of %s holds '%s'",
                        c->path, shards, whole, tensor[i].name);
    free(found);
    return s;
}

enum pk_status pk_ckpt_read(const struct pk_ckpt *c, const char *file,
                            const struct pk_tensor_ref *tensor, int64_t count, bool exact,
                            struct pk_err *err)
{
    struct pk_safetensors st;
    char path[PK_PATH_MAX];
    if (!pk_ckpt_has(c, file)) return read_shards(c, file, tensor, count, exact, err);
    PK_TRY(pk_path(path, err, "%s/%s", c->path, file));
    PK_TRY(pk_safetensors_open(&st, path, err));
    enum pk_status s = pk_safetensors_read(&st, tensor, count, exact, err);
    pk_safetensors_close(&st);
    return s;
}
