/* weights.c -- reading and naming weights (see weights.h). */
#include "tools/weights.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum pk_status pk_weights_refs(struct pk_tensor_ref **out, int64_t *count,
                               const struct pk_params *p, bool ema, float *arena,
                               struct pk_err *err)
{
    *count = 0;
    PK_TRY(pk_alloc(out, (size_t)p->count, sizeof **out, "tensor list", err));
    for (int64_t i = 0; i < p->count; i++) {
        const struct pk_param *q = &p->item[i];
        if (ema && !q->ema) continue;
        struct pk_tensor_ref *t = &(*out)[(*count)++];
        *t = (struct pk_tensor_ref){
            .name = q->name, .type = PK_TENSOR_F32, .rank = q->rank, .data = arena + q->offset};
        memcpy(t->shape, q->dim, (size_t)q->rank * sizeof *q->dim);
    }
    return PK_OK;
}

static enum pk_status read_info(struct pk_model_file *m, const struct pk_json *root,
                                const char *where, struct pk_err *err)
{
    const struct pk_json *j = pk_json_get(root, "model");
    return pk_model_info_read(&m->info, j ? j : root, where, err);
}

/* The folder of RUN/checkpoints/step-..., if that is where the checkpoint lies. */
static enum pk_status find_run(struct pk_model_file *m, const char *checkpoint, struct pk_err *err)
{
    char recipe[PK_PATH_MAX];
    PK_TRY(pk_path(m->run, err, "%s/../..", checkpoint));
    PK_TRY(pk_path(recipe, err, "%s/recipe.yaml", m->run));
    if (!pk_exists(recipe)) m->run[0] = 0;
    return PK_OK;
}

static enum pk_status open_checkpoint(struct pk_model_file *m, const char *path, bool ema,
                                      struct pk_err *err)
{
    struct pk_ckpt c;
    char file[PK_PATH_MAX];
    struct pk_json state = {0};
    const char *name = "model.safetensors";
    const char *which = "online";
    PK_TRY(pk_ckpt_open(&c, path, err));
    if (pk_ckpt_has(&c, "best.safetensors")) {
        name = "best.safetensors";
        which = "best";
    } else if (ema && pk_ckpt_has(&c, "ema.safetensors")) {
        name = "ema.safetensors";
        which = "ema";
    }
    enum pk_status s = pk_path(file, err, "%s/%s", c.path, name);
    if (s == PK_OK) s = pk_json_parse(&state, c.state, strlen(c.state), c.path, err);
    if (s == PK_OK) s = read_info(m, &state, c.path, err);
    if (s == PK_OK) s = find_run(m, c.path, err);
    if (s == PK_OK) s = pk_safetensors_open(&m->tensors, file, err);
    m->step = c.step;
    snprintf(m->weights, sizeof m->weights, "%s", which);
    snprintf(m->recipe_hash, sizeof m->recipe_hash, "%s",
             pk_json_string(&state, "recipe_hash", ""));
    pk_json_free(&state);
    pk_ckpt_close(&c);
    return s;
}

static enum pk_status open_export(struct pk_model_file *m, const char *path, struct pk_err *err)
{
    char dir[PK_PATH_MAX], file[PK_PATH_MAX], config[PK_PATH_MAX];
    struct pk_json j;
    struct stat st;
    PK_TRY(pk_path(dir, err, "%s", path));
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    char *slash = strrchr(dir, '/');
    if (!folder && slash) *slash = 0;
    if (!folder && !slash) memcpy(dir, ".", 2);
    PK_TRY(pk_path(file, err, "%s%s", path, folder ? "/model.safetensors" : ""));
    PK_TRY(pk_path(config, err, "%s/config.json", dir));
    PK_TRY(pk_json_load(&j, config, 1 << 20, err));
    enum pk_status s = read_info(m, &j, config, err);
    pk_json_free(&j);
    PK_TRY(s);
    PK_TRY(pk_safetensors_open(&m->tensors, file, err));
    const char *step = pk_safetensors_metadata(&m->tensors, "step");
    const char *hash = pk_safetensors_metadata(&m->tensors, "recipe_hash");
    const char *weights = pk_safetensors_metadata(&m->tensors, "weights");
    if (!step || !pk_parse_i64(step, &m->step)) m->step = -1;
    snprintf(m->recipe_hash, sizeof m->recipe_hash, "%s", hash ? hash : "");
    snprintf(m->weights, sizeof m->weights, "%s", weights ? weights : "");
    return PK_OK;
}

enum pk_status pk_model_open(struct pk_model_file *out, const char *path, bool ema,
                             struct pk_err *err)
{
    char probe[PK_PATH_MAX];
    struct stat st;
    memset(out, 0, sizeof *out);
    if (stat(path, &st) != 0)
        return pk_fail_errno(err, PK_EMISSING, "cannot open the model %s", path);
    PK_TRY(pk_path(probe, err, "%s/config.json", path));
    if (!S_ISDIR(st.st_mode) || pk_exists(probe)) return open_export(out, path, err);
    return open_checkpoint(out, path, ema, err);
}

enum pk_status pk_model_open_init(struct pk_model_file *out, const struct pk_recipe *r,
                                  struct pk_err *err)
{
    char path[PK_PATH_MAX];
    PK_TRY(pk_recipe_path(r, "init_from", path, err));
    return pk_model_open(out, path, !strcmp(pk_recipe_str(r, "weights"), "ema"), err);
}

void pk_model_close(struct pk_model_file *m)
{
    pk_safetensors_close(&m->tensors);
}

static const struct pk_tensor_info *find(const struct pk_model_file *m, const char *name)
{
    const struct pk_tensor_info *t = pk_safetensors_find(&m->tensors, name);
    if (!t && !strncmp(name, "encoder.", 8)) t = pk_safetensors_find(&m->tensors, name + 8);
    return t;
}

static bool is_patch_embedding(const char *name)
{
    return !strcmp(name, "patch_embed.weight") || !strcmp(name, "encoder.patch_embed.weight");
}

static bool fits(const struct pk_tensor_info *t, const struct pk_param *q,
                 const struct pk_model_info *info)
{
    if (t->type != PK_TENSOR_F32) return false;
    /* The patch embedding is a convolution's [width, leads, patch] elsewhere: same bytes. */
    if (t->rank == 3 && is_patch_embedding(q->name))
        return t->shape[0] == q->dim[0] && t->shape[2] == info->patch &&
               t->shape[1] * t->shape[2] == q->dim[1];
    return t->rank == q->rank && !memcmp(t->shape, q->dim, (size_t)q->rank * sizeof *q->dim);
}

enum { WRONG_LISTED = 12 }; // differences that a message names; the others are counted

/* Counts a difference; returns whether it still is to be listed. */
static bool another(int64_t *wrongs)
{
    return ++*wrongs <= WRONG_LISTED;
}

/* What stands beside an encoder in a checkpoint. */
static bool is_of_another_part(const char *name)
{
    static const char *const part[] = {"head.", "predictor.", "decoder.", "projector."};
    for (size_t i = 0; i < PK_COUNT(part); i++)
        if (!strncmp(name, part[i], strlen(part[i]))) return true;
    return false;
}

/* Tensors of the file that belong to the wanted part but to no parameter. */
static void list_unexpected(const struct pk_model_file *m, const struct pk_params *p,
                            const char *prefix, struct pk_text *out, int64_t *wrongs)
{
    for (int64_t i = 0; i < m->tensors.count; i++) {
        const char *name = m->tensors.tensor[i].name;
        char full[PK_PARAM_NAME_MAX + 16];
        if (*prefix && is_of_another_part(name)) continue;
        snprintf(full, sizeof full, "encoder.%s", name);
        if (pk_params_find(p, name) < 0 && pk_params_find(p, full) < 0 && another(wrongs))
            pk_text_add(out, "\n  unexpected: %.100s", name);
    }
}

enum pk_status pk_model_read(const struct pk_model_file *m, const struct pk_params *p,
                             const char *prefix, float *arena, struct pk_err *err)
{
    struct pk_text wrong = {0};
    int64_t wrongs = 0;
    enum pk_status s = PK_OK;
    for (int64_t i = 0; i < p->count; i++) {
        const struct pk_param *q = &p->item[i];
        if (strncmp(q->name, prefix, strlen(prefix))) continue;
        const struct pk_tensor_info *t = find(m, q->name);
        char shape[160], wanted[160];
        if (t && fits(t, q, &m->info)) continue;
        if (!another(&wrongs)) continue;
        if (!t) {
            pk_text_add(&wrong, "\n  missing: %s", q->name);
            continue;
        }
        pk_shape_text(shape, t->rank, t->shape);
        pk_shape_text(wanted, q->rank, q->dim);
        pk_text_add(&wrong, "\n  %s is %s %s, F32 %s was expected", q->name,
                    pk_tensor_type_name(t->type), shape, wanted);
    }
    list_unexpected(m, p, prefix, &wrong, &wrongs);
    if (wrongs > WRONG_LISTED)
        pk_text_add(&wrong, "\n  and %lld more", (long long)(wrongs - WRONG_LISTED));
    if (wrongs)
        s = pk_fail(err, PK_EDATA, "%.400s does not hold the weights of this model:%s",
                    m->tensors.path, wrong.s ? wrong.s : "");
    for (int64_t i = 0; s == PK_OK && i < p->count; i++) {
        const struct pk_param *q = &p->item[i];
        if (strncmp(q->name, prefix, strlen(prefix))) continue;
        const struct pk_tensor_info *t = find(m, q->name);
        s = pk_safetensors_pread(&m->tensors, t, 0, arena + q->offset, t->bytes, err);
    }
    pk_text_free(&wrong);
    return s;
}
