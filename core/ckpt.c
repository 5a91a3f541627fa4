/* ckpt.c -- writing, keeping and deleting checkpoints (see ckpt.h). */
#include "core/ckpt_folder.h"

#include "core/json.h"
#include "core/sink.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLACK = 65536 }; // bytes that manifest and folder may take

static enum pk_status check_state(const char *state, struct pk_err *err)
{
    struct pk_json j;
    PK_TRY(
        pk_json_parse(&j, state ? state : "", state ? strlen(state) : 0, "checkpoint state", err));
    pk_json_free(&j);
    return PK_OK;
}

enum pk_status pk_ckpt_bytes(const struct pk_ckpt_content *c, int64_t *bytes, struct pk_err *err)
{
    if (c->step < 0)
        return pk_fail(err, PK_EINVAL, "a checkpoint of step %lld", (long long)c->step);
    *bytes = SLACK + (c->state ? (int64_t)strlen(c->state) : 0);
    for (int32_t i = 0; i < c->files; i++) {
        const char *name = c->file[i].name;
        int64_t size;
        bool taken = !strcmp(name, "state.json") || !strcmp(name, "MANIFEST.json");
        for (int32_t k = 0; k < i; k++) taken |= !strcmp(name, c->file[k].name);
        if (taken || !*name || *name == '.' || strchr(name, '/') || strlen(name) >= 200)
            return pk_fail(err, PK_EINVAL, "a checkpoint file cannot be named '%s'", name);
        PK_TRY(pk_safetensors_size(c->file[i].tensor, c->file[i].count, NULL, 0, &size, err));
        *bytes += size;
    }
    return PK_OK;
}

static enum pk_status put_bytes(const char *path, const void *bytes, size_t n,
                                struct pk_ckpt_entry *entry, struct pk_err *err)
{
    struct pk_sink sink;
    enum pk_status s = pk_sink_open(&sink, path, (int64_t)n, err);
    if (s == PK_OK) s = pk_sink_write(&sink, bytes, n, err);
    if (s == PK_OK) s = pk_sink_close(&sink, err);
    if (s == PK_OK && entry) {
        entry->bytes = sink.bytes;
        entry->hash = pk_xxh64_value(&sink.hash);
    }
    if (s != PK_OK) pk_sink_drop(&sink);
    return s;
}

static enum pk_status put_tensors(const char *path, const struct pk_ckpt_file *file, int64_t step,
                                  struct pk_ckpt_entry *entry, struct pk_err *err)
{
    struct pk_sink sink;
    char number[32];
    snprintf(number, sizeof number, "%lld", (long long)step);
    struct pk_metadata meta[] = {{"format", "pt"}, {"step", number}};
    enum pk_status s = pk_sink_open(&sink, path, 0, err);
    if (s == PK_OK)
        s = pk_safetensors_put(&sink, file->tensor, file->count, meta, PK_COUNT(meta), err);
    if (s == PK_OK) s = pk_sink_close(&sink, err);
    if (s == PK_OK) {
        entry->bytes = sink.bytes;
        entry->hash = pk_xxh64_value(&sink.hash);
    } else {
        pk_sink_drop(&sink);
    }
    return s;
}

/* Gives the complete temporary folder its name. A namesake is first set aside under a name that
 * pk_ckpt_open looks at too, so that at every instant one of the two is found. */
static enum pk_status publish(const char *dir, const char *tmp, int64_t step, struct pk_err *err)
{
    char name[PK_PATH_MAX], old[PK_PATH_MAX];
    PK_TRY(pk_ckpt_folder(name, dir, "", step, err));
    PK_TRY(pk_ckpt_folder(old, dir, ".old-", step, err));
    bool replaces = pk_exists(name);
    if (replaces) {
        PK_TRY(pk_ckpt_remove(old, err));
        PK_TRY(pk_rename(name, old, err));
    }
    enum pk_status s = pk_rename(tmp, name, err);
    if (s != PK_OK && replaces) pk_rename(old, name, NULL);
    if (s == PK_OK) s = pk_fsync_dir(dir, err);
    if (s == PK_OK && replaces) s = pk_ckpt_remove(old, err);
    return s;
}

static enum pk_status write_latest(const char *dir, int64_t step, struct pk_err *err)
{
    char path[PK_PATH_MAX], part[PK_PATH_MAX], text[64];
    int n = snprintf(text, sizeof text, "step-%09lld\n", (long long)step);
    PK_TRY(pk_path(path, err, "%s/latest", dir));
    PK_TRY(pk_path(part, err, "%s/latest.part", dir));
    PK_TRY(put_bytes(part, text, (size_t)n, NULL, err));
    PK_TRY(pk_rename(part, path, err));
    return pk_fsync_dir(dir, err);
}

enum pk_status pk_ckpt_abandon(const char *dir, int64_t step, struct pk_err *err)
{
    char tmp[PK_PATH_MAX];
    PK_TRY(pk_ckpt_folder(tmp, dir, ".tmp-", step, err));
    return pk_ckpt_remove(tmp, err);
}

enum pk_status pk_ckpt_begin(const char *dir, int64_t step, int64_t need, struct pk_err *err)
{
    char tmp[PK_PATH_MAX];
    PK_TRY(pk_mkdirs(dir, err));
    PK_TRY(pk_ckpt_folder(tmp, dir, ".tmp-", step, err));
    PK_TRY(pk_ckpt_remove(tmp, err));
    int64_t left = pk_disk_free(dir);
    if (left >= 0 && left < need)
        return pk_fail(err, PK_EWRITE,
                       "cannot write a checkpoint to %s: it needs %lld bytes, %lld are free there; "
                       "make room, keep fewer checkpoints, or point the output at another disk",
                       dir, (long long)need, (long long)left);
    if (mkdir(tmp, 0777) != 0) return pk_fail_errno(err, PK_EWRITE, "cannot create folder %s", tmp);
    return PK_OK;
}

enum pk_status pk_ckpt_put(const char *dir, const struct pk_ckpt_content *c,
                           struct pk_ckpt_entry *entry, struct pk_err *err)
{
    char tmp[PK_PATH_MAX], path[PK_PATH_MAX];
    PK_TRY(pk_ckpt_folder(tmp, dir, ".tmp-", c->step, err));
    for (int32_t i = 0; i < c->files; i++) {
        entry[i].name = (char *)c->file[i].name;
        PK_TRY(pk_path(path, err, "%s/%s", tmp, entry[i].name));
        PK_TRY(put_tensors(path, &c->file[i], c->step, &entry[i], err));
    }
    return pk_fsync_dir(tmp, err);
}

/* The manifest comes last, when everything it names is on disk. */
static enum pk_status seal(const char *folder, int64_t step, const char *state,
                           struct pk_ckpt_entry *entry, int32_t files, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    struct pk_text manifest = {0};
    entry[files].name = (char *)"state.json";
    PK_TRY(pk_path(path, err, "%s/%s", folder, entry[files].name));
    PK_TRY(put_bytes(path, state, strlen(state), &entry[files], err));
    PK_TRY(pk_fsync_dir(folder, err));
    PK_TRY(pk_path(path, err, "%s/MANIFEST.json", folder));
    enum pk_status s = pk_manifest_text(&manifest, step, entry, files + 1, err);
    if (s == PK_OK) s = put_bytes(path, manifest.s, manifest.len, NULL, err);
    if (s == PK_OK) s = pk_fsync_dir(folder, err);
    pk_text_free(&manifest);
    return s;
}

enum pk_status pk_ckpt_finish(const char *dir, int64_t step, const char *state,
                              const struct pk_ckpt_entry *file, int32_t files, struct pk_err *err)
{
    char tmp[PK_PATH_MAX];
    struct pk_ckpt_entry *entry = NULL;
    PK_TRY(pk_ckpt_folder(tmp, dir, ".tmp-", step, err));
    enum pk_status s = check_state(state, err);
    if (s == PK_OK) s = pk_alloc(&entry, (size_t)files + 1, sizeof *entry, "manifest", err);
    for (int32_t i = 0; i < files && s == PK_OK; i++) {
        entry[i] = file[i];
        s = pk_ckpt_check_file(&entry[i], tmp, false, err);
    }
    if (s == PK_OK) s = seal(tmp, step, state, entry, files, err);
    if (s == PK_OK) s = publish(dir, tmp, step, err);
    free(entry);
    if (s != PK_OK) {
        pk_ckpt_remove(tmp, NULL); // best effort: pk_ckpt_clean comes back to it
        return s;
    }
    return write_latest(dir, step, err);
}

enum pk_status pk_ckpt_write(const char *dir, const struct pk_ckpt_content *c, struct pk_err *err)
{
    struct pk_ckpt_entry *entry;
    int64_t need = 0;
    PK_TRY(check_state(c->state, err));
    PK_TRY(pk_ckpt_bytes(c, &need, err));
    PK_TRY(pk_ckpt_begin(dir, c->step, need, err));
    enum pk_status s = pk_alloc(&entry, (size_t)c->files, sizeof *entry, "manifest", err);
    if (s == PK_OK) s = pk_ckpt_put(dir, c, entry, err);
    if (s == PK_OK)
        s = pk_ckpt_finish(dir, c->step, c->state, entry, c->files, err);
    else
        pk_ckpt_abandon(dir, c->step, NULL);
    free(entry);
    return s;
}

/* Takes the folder's name away before its files, so that half a checkpoint never looks like one. */
static enum pk_status delete_step(const char *dir, const char *prefix, int64_t step,
                                  struct pk_err *err)
{
    char name[PK_PATH_MAX], doomed[PK_PATH_MAX];
    PK_TRY(pk_ckpt_folder(name, dir, prefix, step, err));
    PK_TRY(pk_ckpt_folder(doomed, dir, ".del-", step, err));
    PK_TRY(pk_ckpt_remove(doomed, err));
    PK_TRY(pk_rename(name, doomed, err));
    return pk_ckpt_remove(doomed, err);
}

static bool looks_valid(const char *dir, const char *prefix, int64_t step, bool full)
{
    char folder[PK_PATH_MAX];
    struct pk_ckpt c;
    if (pk_ckpt_folder(folder, dir, prefix, step, NULL) != PK_OK ||
        pk_ckpt_verify(&c, folder, full, NULL) != PK_OK)
        return false;
    pk_ckpt_close(&c);
    return true;
}

enum pk_status pk_ckpt_prune(const char *dir, const struct pk_ckpt_keep *keep, struct pk_err *err)
{
    struct pk_ckpt_name *name;
    int64_t count, newest = -1;
    int32_t last = PK_MAX(keep->last, 1);
    bool *kept = NULL;
    PK_TRY(pk_ckpt_list(dir, &name, &count, err));
    enum pk_status s = pk_alloc(&kept, (size_t)count, sizeof *kept, "checkpoint list", err);
    for (int64_t i = count - 1; i >= 0 && s == PK_OK; i--) {
        int64_t step = name[i].step;
        if (name[i].old || !looks_valid(dir, "", step, false)) continue;
        kept[i] = last > 0 || (keep->every > 0 && step % keep->every == 0) ||
                  (keep->best > 0 && step == keep->best);
        last--;
        // The one that everything else may be deleted for is read back in full.
        if (kept[i] && newest < 0 && looks_valid(dir, "", step, true)) newest = i;
    }
    if (s == PK_OK && count && newest < 0)
        s = pk_fail(err, PK_EDATA, "no checkpoint in %s is valid, so none is deleted", dir);
    for (int64_t i = 0; i < newest && s == PK_OK; i++)
        if (!kept[i]) s = delete_step(dir, name[i].old ? ".old-" : "", name[i].step, err);
    if (s == PK_OK && newest > 0) s = pk_fsync_dir(dir, err);
    free(kept);
    free(name);
    return s;
}

enum pk_status pk_ckpt_drop_after(const char *dir, int64_t step, struct pk_err *err)
{
    struct pk_ckpt_name *name;
    int64_t count, newest = -1;
    bool dropped = false;
    char latest[PK_PATH_MAX];
    PK_TRY(pk_ckpt_list(dir, &name, &count, err));
    enum pk_status s = pk_path(latest, err, "%s/latest", dir);
    for (int64_t i = count - 1; i >= 0 && s == PK_OK; i--) {
        if (name[i].step <= step) {
            newest = PK_MAX(newest, name[i].step);
            continue;
        }
        dropped = true;
        s = delete_step(dir, name[i].old ? ".old-" : "", name[i].step, err);
    }
    free(name);
    if (s != PK_OK || !dropped) return s;
    if (newest >= 0) return write_latest(dir, newest, err);
    if (unlink(latest) != 0 && errno != ENOENT)
        return pk_fail_errno(err, PK_EWRITE, "cannot delete %s", latest);
    return pk_fsync_dir(dir, err);
}

/* Finishes or undoes a replacement that was cut short. */
static enum pk_status settle_old(const char *dir, int64_t step, struct pk_err *err)
{
    char name[PK_PATH_MAX], old[PK_PATH_MAX];
    PK_TRY(pk_ckpt_folder(name, dir, "", step, err));
    PK_TRY(pk_ckpt_folder(old, dir, ".old-", step, err));
    if (looks_valid(dir, "", step, true) || !looks_valid(dir, ".old-", step, true))
        return pk_exists(name) ? pk_ckpt_remove(old, err) : pk_rename(old, name, err);
    if (pk_exists(name)) PK_TRY(delete_step(dir, "", step, err));
    return pk_rename(old, name, err);
}

enum pk_status pk_ckpt_clean(const char *dir, struct pk_err *err)
{
    struct pk_ckpt_name *name;
    struct dirent *e;
    char path[PK_PATH_MAX];
    int64_t count;
    PK_TRY(pk_ckpt_list(dir, &name, &count, err));
    enum pk_status s = PK_OK;
    for (int64_t i = 0; i < count && s == PK_OK; i++)
        if (name[i].old) s = settle_old(dir, name[i].step, err);
    free(name);
    if (s != PK_OK) return s;
    DIR *d = opendir(dir);
    if (!d && errno == ENOENT) return PK_OK;
    if (!d) return pk_fail_errno(err, PK_EIO, "cannot list %s", dir);
    while (s == PK_OK && (e = readdir(d))) {
        if (strncmp(e->d_name, ".tmp-step-", 10) != 0 && strncmp(e->d_name, ".del-step-", 10) != 0)
            continue;
        s = pk_path(path, err, "%s/%s", dir, e->d_name);
        if (s == PK_OK) s = pk_ckpt_remove(path, err);
    }
    closedir(d);
    if (s != PK_OK) return s;
    PK_TRY(pk_path(path, err, "%s/latest.part", dir));
    if (unlink(path) != 0 && errno != ENOENT)
        return pk_fail_errno(err, PK_EWRITE, "cannot delete %s", path);
    return PK_OK;
}

enum pk_status pk_ckpt_steps(const char *dir, int64_t **steps, int64_t *count, struct pk_err *err)
{
    struct pk_ckpt_name *name;
    int64_t n;
    *count = 0;
    PK_TRY(pk_ckpt_list(dir, &name, &n, err));
    enum pk_status s = pk_alloc(steps, (size_t)n, sizeof **steps, "checkpoint list", err);
    for (int64_t i = 0; i < n && s == PK_OK; i++)
        if (!name[i].old) (*steps)[(*count)++] = name[i].step;
    free(name);
    return s;
}
