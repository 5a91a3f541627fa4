/* export.c -- writes exported folders (see export.h). */
#include "tools/export.h"
#include "core/sink.h"
#include "tools/model_card.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const files[] = {"model.safetensors", "config.json", "preprocessor_config.json",
                                    "README.md"};

/* --- the folder ---------------------------------------------------------------------------- */

/* Removes an export and nothing else: its known files, then the folder if that left it empty. */
static void remove_export(const char *dir)
{
    char path[PK_PATH_MAX];
    for (size_t i = 0; i < PK_COUNT(files); i++)
        if (pk_path(path, NULL, "%s/%s", dir, files[i]) == PK_OK) unlink(path);
    rmdir(dir);
}

static bool known(const char *name)
{
    for (size_t i = 0; i < PK_COUNT(files); i++)
        if (!strcmp(name, files[i])) return true;
    return false;
}

/* The destination must be free, an empty folder, or with overwrite an earlier export. */
static enum pk_status check_destination(const char *to, bool overwrite, struct pk_err *err)
{
    DIR *d = opendir(to);
    struct dirent *e;
    enum pk_status s = PK_OK;
    if (!d && errno == ENOENT) return PK_OK;
    if (!d) return pk_fail_errno(err, PK_EWRITE, "cannot export to %s", to);
    while (s == PK_OK && (e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (!overwrite)
            s = pk_fail(err, PK_EUSAGE,
                        "%s is not empty; choose another folder, or --overwrite an earlier export",
                        to);
        else if (!known(e->d_name))
            s = pk_fail(err, PK_EUSAGE,
                        "%s holds '%s', which no export wrote; it is not overwritten", to,
                        e->d_name);
    }
    closedir(d);
    return s;
}

/* Puts the finished folder in place. An earlier export goes aside first and is removed last, so at
 * any instant a complete one is there under one name or the other. */
static enum pk_status put_in_place(const char *made, const char *to, struct pk_err *err)
{
    char aside[PK_PATH_MAX];
    PK_TRY(pk_path(aside, err, "%s.old-%ld", to, (long)getpid()));
    bool had = pk_exists(to);
    if (had) PK_TRY(pk_rename(to, aside, err));
    enum pk_status s = pk_rename(made, to, err);
    if (had && s != PK_OK) pk_rename(aside, to, NULL);
    if (had && s == PK_OK) remove_export(aside);
    return s == PK_OK ? pk_fsync_parent(to, err) : s;
}

/* --- the files ----------------------------------------------------------------------------- */

static enum pk_status write_text(const char *dir, const char *name, struct pk_text *t,
                                 struct pk_err *err)
{
    char path[PK_PATH_MAX];
    if (t->failed) return pk_fail(err, PK_ENOMEM, "out of memory: %s", name);
    PK_TRY(pk_path(path, err, "%s/%s", dir, name));
    return pk_write_file(path, t->s, t->len, err);
}

/* Names lose "encoder.", and the patch embedding gets a convolution's shape (the same bytes). */
static void rename_tensors(struct pk_tensor_ref *ref, int64_t count, const struct pk_model_info *m)
{
    for (int64_t i = 0; i < count; i++) {
        if (!strncmp(ref[i].name, "encoder.", 8)) ref[i].name += 8;
        if (strcmp(ref[i].name, "patch_embed.weight")) continue;
        ref[i].rank = 3;
        ref[i].shape[1] = ref[i].shape[1] / m->patch; // 1 where a token is of one lead
        ref[i].shape[2] = m->patch;
    }
}

static enum pk_status write_weights(const struct pk_model *m, float *weight, const char *dir,
                                    struct pk_err *err)
{
    char path[PK_PATH_MAX], step[24];
    struct pk_tensor_ref *ref;
    int64_t count;
    PK_TRY(pk_path(path, err, "%s/model.safetensors", dir));
    PK_TRY(pk_weights_refs(&ref, &count, &m->params, false, weight, err));
    rename_tensors(ref, count, &m->file.info);
    snprintf(step, sizeof step, "%lld", (long long)m->file.step);
    struct pk_metadata meta[] = {{"format", "pt"}, // what transformers asks for
                                 {"written_by", "purkinje " PK_VERSION},
                                 {"step", step},
                                 {"recipe_hash", m->file.recipe_hash},
                                 {"weights", m->file.weights}};
    enum pk_status s = pk_safetensors_write(path, ref, count, meta, (int64_t)PK_COUNT(meta), err);
    free(ref);
    return s;
}

/* RUN/result.json, if the model comes from a run that has one. */
static enum pk_status load_result(const struct pk_model_file *f, struct pk_json *out, bool *have,
                                  struct pk_err *err)
{
    char path[PK_PATH_MAX];
    *have = false;
    if (!f->run[0]) return PK_OK;
    PK_TRY(pk_path(path, err, "%s/result.json", f->run));
    if (!pk_exists(path)) return PK_OK;
    PK_TRY(pk_json_load(out, path, 16 << 20, err));
    *have = true;
    return PK_OK;
}

static enum pk_status write_texts(const struct pk_model *m, const char *dir, const char *name,
                                  struct pk_err *err)
{
    struct pk_text config = {0}, preprocessor = {0}, card = {0};
    struct pk_json_writer w = {.out = &config, .indent = 2};
    struct pk_json result = {0};
    bool have;
    PK_TRY(load_result(&m->file, &result, &have, err));
    pk_model_info_write(&w, NULL, &m->file.info);
    pk_preprocessor_write(&preprocessor, &m->file.info);
    pk_model_card_write(&card, m, name, have ? &result : NULL);
    enum pk_status s = write_text(dir, "config.json", &config, err);
    if (s == PK_OK) s = write_text(dir, "preprocessor_config.json", &preprocessor, err);
    if (s == PK_OK) s = write_text(dir, "README.md", &card, err);
    pk_text_free(&config);
    pk_text_free(&preprocessor);
    pk_text_free(&card);
    pk_json_free(&result);
    return s;
}

enum pk_status pk_export(const char *from, const char *to, const struct pk_export_options *o,
                         struct pk_err *err)
{
    struct pk_model *m;
    char clean[PK_PATH_MAX], made[PK_PATH_MAX];
    float *weight = NULL;
    PK_TRY(pk_path(clean, err, "%s", to));
    for (size_t n = strlen(clean); n > 1 && clean[n - 1] == '/'; n--) clean[n - 1] = 0;
    PK_TRY(pk_path(made, err, "%s.part-%ld", clean, (long)getpid()));
    PK_TRY(check_destination(clean, o->overwrite, err));
    PK_TRY(pk_alloc(&m, 1, sizeof *m, "model", err));
    enum pk_status s = pk_model_load(m, from, o->ema, &weight, err);
    if (s == PK_OK) {
        const char *name = strrchr(clean, '/');
        s = pk_mkdirs(made, err);
        if (s == PK_OK) s = write_weights(m, weight, made, err);
        if (s == PK_OK) s = write_texts(m, made, name ? name + 1 : clean, err);
        if (s == PK_OK) s = put_in_place(made, clean, err);
        if (s != PK_OK) remove_export(made);
        pk_model_free(m);
    }
    free(weight);
    free(m);
    return s;
}
