/* cmd_inspect.c -- purkinje inspect: what is in a safetensors file, a checkpoint or a run.
 *
 * Files may come from anywhere: control characters in names are shown as '?', so that a file cannot
 * write escape codes to the terminal. */
#include "core/ckpt.h"
#include "core/json.h"
#include "tools/cli.h"
#include "tools/tensor_stats.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { RUN_JSON_MAX = 1 << 20, STATE_SHOWN = 2000 };

struct view {
    bool json, stats;
    struct pk_text text;     // what goes to stdout at the end
    struct pk_json_writer w; // into text, when json
};

static void add_clean(struct pk_text *t, const char *s, int width)
{
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        pk_text_add(t, "%c", c < 32 || c == 127 ? '?' : c);
    }
    pk_text_add(t, "%*s", n < (size_t)width ? width - (int)n : 0, "");
}

static void tensor_json(struct view *v, const struct pk_tensor_info *t,
                        const struct pk_tensor_stats *s)
{
    pk_json_open(&v->w, NULL, '{');
    pk_json_put_string(&v->w, "name", t->name);
    pk_json_put_string(&v->w, "dtype", pk_tensor_type_name(t->type));
    pk_json_open(&v->w, "shape", '[');
    for (int i = 0; i < t->rank; i++) pk_json_put_i64(&v->w, NULL, t->shape[i]);
    pk_json_close(&v->w);
    pk_json_put_i64(&v->w, "offset", t->offset);
    pk_json_put_i64(&v->w, "bytes", t->bytes);
    if (v->stats) {
        pk_json_put_f64(&v->w, "min", s->min);
        pk_json_put_f64(&v->w, "max", s->max);
        pk_json_put_f64(&v->w, "mean", s->mean);
        pk_json_put_f64(&v->w, "std", s->std);
        pk_json_put_i64(&v->w, "nan", s->nan);
        pk_json_put_i64(&v->w, "infinite", s->infinite);
    }
    pk_json_close(&v->w);
}

static void tensor_text(struct view *v, const struct pk_tensor_info *t,
                        const struct pk_tensor_stats *s, int width)
{
    char shape[160];
    pk_shape_text(shape, t->rank, t->shape);
    pk_text_add(&v->text, "  ");
    add_clean(&v->text, t->name, width);
    pk_text_add(&v->text, " %-4s %-20s", pk_tensor_type_name(t->type), shape);
    if (v->stats)
        pk_text_add(&v->text, " %11.4g %11.4g %11.4g %11.4g %6lld", s->min, s->max, s->mean, s->std,
                    (long long)(s->nan + s->infinite));
    pk_text_add(&v->text, "\n");
}

static void file_head(struct view *v, const struct pk_safetensors *st, int64_t elements, int width)
{
    if (v->json) {
        pk_json_put_string(&v->w, "kind", "safetensors");
        pk_json_put_string(&v->w, "path", st->path);
        pk_json_put_i64(&v->w, "bytes", st->file_bytes);
        pk_json_put_i64(&v->w, "elements", elements);
        pk_json_open(&v->w, "metadata", '{');
        for (int64_t i = 0; i < st->metas; i++)
            pk_json_put_string(&v->w, st->meta[i].key, st->meta[i].value);
        pk_json_close(&v->w);
        return;
    }
    pk_text_add(&v->text, "%s: safetensors, %lld tensors, %lld elements, %lld bytes\n", st->path,
                (long long)st->count, (long long)elements, (long long)st->file_bytes);
    for (int64_t i = 0; i < st->metas; i++) {
        pk_text_add(&v->text, "  metadata ");
        add_clean(&v->text, st->meta[i].key, 0);
        pk_text_add(&v->text, " = ");
        add_clean(&v->text, st->meta[i].value, 0);
        pk_text_add(&v->text, "\n");
    }
    pk_text_add(&v->text, "  %-*s type %-20s", width, "tensor", "shape");
    if (v->stats)
        pk_text_add(&v->text, " %11s %11s %11s %11s %6s", "min", "max", "mean", "std", "nan");
    pk_text_add(&v->text, "\n");
}

/* In JSON mode the caller has opened the object that this fills. */
static enum pk_status show_file(struct view *v, const char *path, struct pk_err *err)
{
    struct pk_safetensors st;
    int64_t elements = 0;
    int width = 6;
    enum pk_status s = PK_OK;
    PK_TRY(pk_safetensors_open(&st, path, err));
    for (int64_t i = 0; i < st.count; i++) {
        elements += st.tensor[i].bytes / pk_tensor_type_bytes(st.tensor[i].type);
        width = (int)PK_MAX((size_t)width, PK_MIN(strlen(st.tensor[i].name), (size_t)60));
    }
    file_head(v, &st, elements, width);
    if (v->json) pk_json_open(&v->w, "tensors", '[');
    for (int64_t i = 0; i < st.count && s == PK_OK; i++) {
        const struct pk_tensor_info *t = &st.tensor[i];
        struct pk_tensor_stats stats = {0};
        if (v->stats) s = pk_tensor_stats(&st, t, &stats, err);
        if (s == PK_OK && v->json)
            tensor_json(v, t, &stats);
        else if (s == PK_OK)
            tensor_text(v, t, &stats, width);
    }
    if (v->json) pk_json_close(&v->w);
    pk_safetensors_close(&st);
    return s;
}

static bool is_safetensors(const char *name)
{
    size_t n = strlen(name);
    return n > 12 && !strcmp(name + n - 12, ".safetensors");
}

static void checkpoint_head(struct view *v, const struct pk_ckpt *c)
{
    if (v->json) {
        pk_json_put_string(&v->w, "kind", "checkpoint");
        pk_json_put_string(&v->w, "path", c->path);
        pk_json_put_i64(&v->w, "step", c->step);
        pk_json_put_bool(&v->w, "valid", true);
        pk_json_put_raw(&v->w, "state", c->state);
        return;
    }
    pk_text_add(&v->text, "%s: checkpoint of step %lld, %d files, manifest and checksums hold\n",
                c->path, (long long)c->step, c->files);
    for (int32_t i = 0; i < c->files; i++)
        pk_text_add(&v->text, "  %-24s %14lld bytes  xxh64 %016llx\n", c->file[i].name,
                    (long long)c->file[i].bytes, (unsigned long long)c->file[i].hash);
    pk_text_add(&v->text, "  state ");
    if (strlen(c->state) <= STATE_SHOWN)
        add_clean(&v->text, c->state, 0);
    else
        pk_text_add(&v->text, "of %zu bytes, see state.json", strlen(c->state));
    pk_text_add(&v->text, "\n");
}

static enum pk_status show_checkpoint(struct view *v, const char *path, struct pk_err *err)
{
    struct pk_ckpt c;
    char file[PK_PATH_MAX];
    PK_TRY(pk_ckpt_open(&c, path, err));
    checkpoint_head(v, &c);
    enum pk_status s = PK_OK;
    if (v->json) pk_json_open(&v->w, "files", '[');
    for (int32_t i = 0; i < c.files && s == PK_OK; i++) {
        if (!is_safetensors(c.file[i].name)) continue;
        s = pk_path(file, err, "%s/%s", c.path, c.file[i].name);
        if (v->json)
            pk_json_open(&v->w, NULL, '{');
        else
            pk_text_add(&v->text, "\n");
        if (s == PK_OK) s = show_file(v, file, err);
        if (v->json) pk_json_close(&v->w);
    }
    if (v->json) pk_json_close(&v->w);
    pk_ckpt_close(&c);
    return s;
}

/* One line for each checkpoint of a run, each verified. */
static enum pk_status list_checkpoints(struct view *v, const char *dir, struct pk_err *err)
{
    int64_t *steps, count;
    char path[PK_PATH_MAX];
    PK_TRY(pk_ckpt_steps(dir, &steps, &count, err));
    enum pk_status s = PK_OK;
    for (int64_t i = 0; i < count && s == PK_OK; i++) {
        struct pk_ckpt c;
        struct pk_err why = {0};
        s = pk_path(path, err, "%s/step-%09lld", dir, (long long)steps[i]);
        if (s != PK_OK) break;
        bool valid = pk_ckpt_open(&c, path, &why) == PK_OK;
        if (v->json) {
            pk_json_open(&v->w, NULL, '{');
            pk_json_put_i64(&v->w, "step", steps[i]);
            pk_json_put_bool(&v->w, "valid", valid);
            if (!valid) pk_json_put_string(&v->w, "problem", why.message);
            pk_json_close(&v->w);
        } else {
            pk_text_add(&v->text, "  %s  %s%s\n", path,
                        valid ? "valid" : "BROKEN: ", valid ? "" : why.message);
        }
        pk_ckpt_close(&c);
    }
    free(steps);
    return s;
}

static enum pk_status show_run(struct view *v, const char *dir, struct pk_err *err)
{
    struct pk_json j = {0};
    char path[PK_PATH_MAX], checkpoints[PK_PATH_MAX];
    PK_TRY(pk_path(path, err, "%s/run.json", dir));
    PK_TRY(pk_path(checkpoints, err, "%s/checkpoints", dir));
    if (pk_exists(path)) PK_TRY(pk_json_load(&j, path, RUN_JSON_MAX, err));
    static const char *const keys[] = {"state", "version", "host", "started", "updated"};
    if (v->json) {
        pk_json_put_string(&v->w, "kind", "run");
        pk_json_put_string(&v->w, "path", dir);
    } else {
        pk_text_add(&v->text, "%s: run\n", dir);
    }
    for (size_t i = 0; i < PK_COUNT(keys); i++) {
        const char *value = pk_json_string(&j, keys[i], "unknown");
        if (v->json) {
            pk_json_put_string(&v->w, keys[i], value);
        } else {
            pk_text_add(&v->text, "  %-10s ", keys[i]);
            add_clean(&v->text, value, 0);
            pk_text_add(&v->text, "\n");
        }
    }
    int64_t last = pk_json_i64(&j, "last_step", -1);
    pk_json_free(&j);
    if (v->json)
        pk_json_put_i64(&v->w, "last_step", last);
    else
        pk_text_add(&v->text, "  %-10s %lld\n", "last step", (long long)last);
    if (v->json) pk_json_open(&v->w, "checkpoints", '[');
    enum pk_status s = list_checkpoints(v, checkpoints, err);
    if (v->json) pk_json_close(&v->w);
    return s;
}

static enum pk_status show(struct view *v, const char *path, struct pk_err *err)
{
    struct stat st;
    char inner[PK_PATH_MAX];
    if (stat(path, &st) != 0) return pk_fail_errno(err, PK_EIO, "cannot open %s", path);
    if (!S_ISDIR(st.st_mode)) return show_file(v, path, err);
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    PK_TRY(pk_path(inner, err, "%s/MANIFEST.json", path));
    if (pk_exists(inner) || !strncmp(base, "step-", 5)) return show_checkpoint(v, path, err);
    PK_TRY(pk_path(inner, err, "%s/run.json", path));
    if (pk_exists(inner)) return show_run(v, path, err);
    PK_TRY(pk_path(inner, err, "%s/checkpoints", path));
    if (pk_exists(inner)) return show_run(v, path, err);
    return pk_fail(err, PK_EDATA,
                   "%s is neither a run (no run.json) nor a checkpoint (no MANIFEST.json)", path);
}

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    struct view v = {.json = pk_arg(args, "json") != NULL,
                     .stats = pk_arg(args, "no-stats") == NULL};
    if (args->count != 1)
        return pk_fail(err, PK_EUSAGE, "inspect takes one file or folder, %d were given",
                       args->count);
    v.w = (struct pk_json_writer){.out = &v.text, .indent = 2};
    if (v.json) pk_json_open(&v.w, NULL, '{');
    enum pk_status s = show(&v, args->word[0], err);
    if (v.json) pk_json_close(&v.w);
    if (s == PK_OK) s = pk_print(&v.text, err);
    pk_text_free(&v.text);
    return s;
}

static const struct pk_option options[] = {
    {"json", NULL, "one JSON object on stdout"},
    {"no-stats", NULL, "do not read the tensors for min, max, mean, std and NaN"},
    {0}};

static const struct pk_example examples[] = {
    {"inspect model.safetensors", "lists tensors with shape, range, mean, spread and NaN count"},
    {"inspect runs/demo", "state of a run, and which of its checkpoints verify"},
    {"inspect runs/demo/checkpoints/step-000000006 --json", "a verified checkpoint, for scripts"},
    {0}};

const struct pk_command pk_cmd_inspect = {
    .name = "inspect",
    .synopsis = "FILE|CHECKPOINT|RUN",
    .summary = "what is in a safetensors file, a checkpoint or a run",
    .details =
        "Checkpoints are verified: sizes and checksums against their manifest, which\n"
        "'xxhsum -H64' computes too. A damaged file or checkpoint is reported with exit code 65.",
    .options = options,
    .examples = examples,
    .run = run};
