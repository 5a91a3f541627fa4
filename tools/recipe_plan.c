/* recipe_plan.c -- planning a recipe without running it (see recipe_plan.h). */
#include "tools/recipe_plan.h"
#include "core/thread.h"
#include "tools/evaluate.h"
#include "tools/shape.h"
#include "tools/trainer.h"
#include "tools/training_settings.h"

#include <string.h>

enum { SYNTHETIC_MAX = 64 << 20 }; // bytes of synthetic records that are worth making to count them

/* The first line of a message. */
static void note(struct pk_recipe_plan *out, const struct pk_err *why)
{
    snprintf(out->data_note, sizeof out->data_note, "%.500s", why->message);
    out->data_note[strcspn(out->data_note, "\n")] = 0;
}

/* Rows and classes of the data if it is here; else out->data_note says why not. */
static bool look_at_data(struct pk_inputs *in, struct pk_recipe_plan *out,
                         const struct pk_recipe *r)
{
    struct pk_err why = {0};
    char dir[PK_PATH_MAX];
    double size = 24 * pk_recipe_f64(r, "data.synthetic.rate") *
                  pk_recipe_f64(r, "data.synthetic.seconds") *
                  (double)pk_recipe_i64(r, "data.synthetic.records");
    out->train_records = -1;
    if (pk_recipe_given(r, "data.synthetic")) {
        if (size > SYNTHETIC_MAX) {
            snprintf(out->data_note, sizeof out->data_note, "the synthetic records are too many");
            return false;
        }
    } else if (pk_recipe_path(r, "data.corpus", dir, &why) != PK_OK) {
        note(out, &why);
        return false;
    } else if (!pk_exists(dir)) {
        snprintf(out->data_note, sizeof out->data_note, "%.400s is not here", dir);
        return false;
    }
    if (pk_inputs_select(in, r, &why) != PK_OK) {
        note(out, &why);
        return false;
    }
    out->train_records = in->train.count;
    return true;
}

/* Targets, or class numbers of the tasks that importers make: PTB-XL's (Wagner et al. 2020) and
 * ours. */
static int32_t known_classes(const struct pk_recipe *r)
{
    static const struct {
        const char *task;
        int32_t ptbxl, synthetic;
    } known[] = {
        {"all", 71, 0},  {"diagnostic", 44, 0}, {"subdiagnostic", 23, 0}, {"superdiagnostic", 5, 0},
        {"form", 19, 0}, {"rhythm", 12, 5},     {"morphology", 0, 7}};
    const char *task = pk_recipe_str(r, "data.task");
    if (!strcmp(pk_recipe_str(r, "objective.kind"), "regress"))
        return (int32_t)pk_recipe_count(r, "data.targets");
    bool synthetic = pk_recipe_given(r, "data.synthetic");
    for (size_t i = 0; i < PK_COUNT(known); i++)
        if (!strcmp(known[i].task, task)) return synthetic ? known[i].synthetic : known[i].ptbxl;
    return 0;
}

/* Frees what a failed build left. */
static enum pk_status built(struct pk_prog *prog, enum pk_status s)
{
    if (s != PK_OK) pk_prog_free(prog);
    return s;
}

/* Plans one program, and frees it unless it goes to *keep; arenas and constants become the largest
 * so far. */
static enum pk_status measure(struct pk_recipe_plan *out, struct pk_prog *prog,
                              struct pk_plan_part *part, int64_t records, struct pk_prog *keep,
                              struct pk_err *err)
{
    struct pk_plan plan;
    enum pk_status s =
        pk_plan_make(&plan, prog, out->backend ? out->backend->workspace : NULL, err);
    if (s != PK_OK) {
        pk_prog_free(prog);
        return s;
    }
    out->arena = PK_MAX(out->arena, plan.arena);
    out->arena_bound = PK_MAX(out->arena_bound, plan.live);
    out->need.inputs = PK_MAX(out->need.inputs, plan.inputs);
    for (int64_t k = 0; k < prog->nodes; k++)
        out->need.convolves = out->need.convolves || prog->node[k].op == PK_OP_CONV1D;
    if (part) {
        part->program_flops = plan.flops / (double)records;
        part->program_bytes = plan.bytes / (double)records;
        part->nodes = prog->nodes;
    }
    if (keep == &out->listing)
        out->listing_plan = plan;
    else
        pk_plan_free(&plan);
    if (keep)
        *keep = *prog;
    else
        pk_prog_free(prog);
    return PK_OK;
}

/* The three programs of an objective whose loss couples the batch; the third, which computes most
 * of the work, is the one that is listed. */
static enum pk_status plan_coupled(struct pk_recipe_plan *out, struct pk_plan_part *part,
                                   struct pk_err *err)
{
    struct pk_prog prog[3] = {{0}};
    struct pk_params none = {0};
    const int64_t total = out->batch / out->parts;
    const int arrays = out->objective->ema(&out->model) ? 3 : 2; // as tools/gradcache.c has them
    const struct pk_contrastive_progs progs = {&prog[0], &prog[1], &prog[2]};
    enum pk_status s = out->objective->build_coupled(&progs, &out->params, &none, &out->model,
                                                     out->micro, total, 1, err);
    struct pk_prog *const keep[3] = {&out->embed, &out->loss, &out->listing};
    struct pk_plan_part one = {0};
    for (int i = 0; s == PK_OK && i < 3; i++) {
        out->constants += prog[i].constant_len;
        s = measure(out, &prog[i], &one, i == 1 ? total : out->micro, keep[i], err);
        prog[i] = (struct pk_prog){0};
        part->program_flops += one.program_flops;
        part->program_bytes += one.program_bytes;
        part->nodes += one.nodes;
    }
    out->need.rows = arrays * total * out->model.contrastive.width;
    out->gathers = arrays - 1; // the gradients stay
    out->gathered = out->gathers * total * out->model.contrastive.width;
    for (int i = 0; i < 3; i++) pk_prog_free(&prog[i]);
    pk_params_free(&none);
    return s;
}

static enum pk_status plan_pretext(struct pk_recipe_plan *out, const struct pk_recipe *r,
                                   const struct pk_batch_shape *shape, struct pk_err *err)
{
    const struct pk_objective *o = out->objective;
    union pk_pretext *m = &out->model;
    struct pk_plan_part *part = &out->part[out->part_count++];
    PK_TRY(o->config(m, r, shape, err));
    out->encoder = o->encoder(m);
    out->signal = &m->signal;
    out->keep[0] = o->keep_min(m);
    out->keep[2] = o->keep_max(m);
    out->keep[1] = (out->keep[0] + out->keep[2]) / 2;
    PK_TRY(pk_micro_batch(r, out->batch, o->tokens(m), &out->encoder, out->backend != NULL,
                          &out->micro, err));
    out->works = o->work(m, out->keep[1], out->work);
    for (int i = 0; i < out->works; i++) part->record_flops += out->work[i].flops;
    part->steps = pk_recipe_i64(r, "train.steps");
    snprintf(part->name, sizeof part->name, "pretrain");
    if (o->coupled) return plan_coupled(out, part, err);
    for (int32_t k = out->keep[0]; k <= out->keep[2]; k++) { // every one has its own constants
        struct pk_prog prog = {0};
        bool mean = k == out->keep[1];
        PK_TRY(built(&prog, o->build(&prog, &out->params, m, out->micro, k, err)));
        out->constants += prog.constant_len;
        PK_TRY(
            measure(out, &prog, mean ? part : NULL, out->micro, mean ? &out->listing : NULL, err));
    }
    return PK_OK;
}

static enum pk_status classifier_flops(double *out, const struct pk_classifier *c,
                                       struct pk_err *err)
{
    double width = c->encoder.width, classes = c->classes, encoder;
    PK_TRY(pk_encoder_flops(&encoder, &c->signal, &c->encoder, err));
    double head = 2 * width * classes;
    if (c->head == PK_HEAD_ATTENTIVE)
        head += pk_encoder_tokens(&c->signal, &c->encoder) * (4 * width * width + 4 * width);
    if (c->head == PK_HEAD_CONCAT && c->hidden) head = 2 * c->hidden * (2 * width + classes);
    *out = (c->frozen ? 1 : 3) * encoder + 3 * head;
    return PK_OK;
}

static enum pk_status configure_classifier(struct pk_recipe_plan *out, const struct pk_recipe *r,
                                           struct pk_inputs *in, bool here, int32_t classes,
                                           struct pk_err *err)
{
    struct pk_batch_shape shape = in->shape;
    struct pk_model_file file;
    if (!*pk_recipe_str(r, "init_from")) {
        if (!here) PK_TRY(pk_shape_of_recipe(&shape, r, err));
        return pk_classifier_config(&out->classifier, r, &shape, classes, err);
    }
    enum pk_status s = pk_model_open_init(&file, r, err);
    if (s != PK_OK) {
        pk_err_context(err, "the encoder comes from init_from");
        return s;
    }
    if (!here) {
        shape = (struct pk_batch_shape){.leads = file.info.leads, .rate = file.info.rate};
        shape.samples = (int32_t)(pk_recipe_f64(r, "data.crop") * shape.rate + 0.5);
        memcpy(shape.lead_name, file.info.lead_name, sizeof shape.lead_name);
    }
    s = pk_classifier_config_head(&out->classifier, r, &shape, classes, err);
    if (s == PK_OK) s = pk_model_info_architecture(&out->classifier, &file.info, r, err);
    pk_model_close(&file);
    return s;
}

static enum pk_status plan_stages(struct pk_recipe_plan *out, const struct pk_recipe *r,
                                  struct pk_err *err)
{
    struct pk_classifier *c = &out->classifier;
    int64_t stages = PK_MIN(pk_recipe_count(r, "stages"), (int64_t)PK_PLAN_PARTS);
    int64_t constants = 0, micro = out->backend ? PK_EVAL_MICRO * PK_EVAL_MICROS : PK_EVAL_MICRO;
    struct pk_prog prog = {0};
    for (int64_t i = 0; i < stages; i++) {
        char path[64];
        struct pk_plan_part *part = &out->part[out->part_count++];
        snprintf(path, sizeof path, "stages.%lld.steps", (long long)i);
        part->steps = pk_recipe_i64(r, path);
        snprintf(path, sizeof path, "stages.%lld.name", (long long)i);
        const char *name = pk_recipe_str(r, path);
        snprintf(part->name, sizeof part->name, "stage %lld%s%.32s", (long long)i + 1,
                 *name ? " " : "", name);
        snprintf(path, sizeof path, "stages.%lld.freeze_encoder", (long long)i);
        c->frozen = pk_recipe_bool(r, path);
        snprintf(path, sizeof path, "stages.%lld.dropout", (long long)i);
        c->encoder.vit.dropout = (float)pk_recipe_f64(r, path);
        PK_TRY(built(&prog, pk_classifier_build(&prog, &out->params, c, out->micro, true, err)));
        constants = PK_MAX(constants, prog.constant_len);
        PK_TRY(classifier_flops(&part->record_flops, c, err));
        PK_TRY(measure(out, &prog, part, out->micro, i ? NULL : &out->listing, err));
        prog = (struct pk_prog){0};
    }
    PK_TRY(built(&prog, pk_classifier_build(&prog, &out->params, c, micro, false, err)));
    out->constants = constants + prog.constant_len;
    return measure(out, &prog, NULL, micro, NULL, err);
}

static enum pk_status plan_classifier(struct pk_recipe_plan *out, const struct pk_recipe *r,
                                      struct pk_inputs *in, bool here, int32_t classes,
                                      struct pk_err *err)
{
    struct pk_classifier *c = &out->classifier;
    if (!classes) classes = here && in->task ? in->task->classes : known_classes(r);
    if (!classes)
        return pk_fail(err, PK_EDATA,
                       "how many classes task '%s' has is only known from its corpus (%s); give "
                       "--classes N",
                       pk_recipe_str(r, "data.task"), out->data_note);
    PK_TRY(configure_classifier(out, r, in, here, classes, err));
    out->encoder = c->encoder;
    out->signal = &c->signal;
    PK_TRY(pk_micro_batch(r, out->batch, pk_encoder_tokens(&c->signal, &c->encoder), &c->encoder,
                          out->backend != NULL, &out->micro, err));
    return plan_stages(out, r, err);
}

static void add_memory(struct pk_recipe_plan *out, const struct pk_recipe *r)
{
    int64_t flat = out->params.elements * (int64_t)sizeof(float);
    int64_t classes = out->objective ? 0 : out->classifier.classes;
    const struct pk_batch_shape *shape = &out->signal->shape;
    int64_t record = (int64_t)shape->leads * shape->samples * 2 + (int64_t)shape->leads * 8 + 16;
    int64_t trained = pk_params_total(&out->params, "") * (int64_t)sizeof(float);
    int64_t averaged = 0;
    for (int64_t i = 0; i < out->params.count; i++)
        if (out->params.item[i].ema) averaged += out->params.item[i].count * (int64_t)sizeof(float);
    out->in = (pk_recipe_i64(r, "data.read_ahead") + 2) * out->batch * (record + classes);
    out->weight = flat;
    const bool ema = out->objective && out->objective->ema(&out->model);
    out->ema = ema ? flat : 0;
    out->grad = flat * PK_SHARDS;
    out->moments = 2 * flat;
    out->best = out->objective ? 0 : flat;
    out->need.elements = out->params.elements;
    out->need.storage = out->params.storage;
    out->need.ema = ema;
    out->need.train = true;
    out->need.arena = out->arena;
    out->need.constants = out->constants;
    out->checkpoint = 3 * trained + (ema ? averaged : out->objective ? 0 : trained);
}

int64_t pk_recipe_plan_memory(const struct pk_recipe_plan *p)
{
    return p->in + p->weight + p->ema + p->grad + p->moments + p->best + p->constants +
           p->arena * p->threads;
}

enum pk_status pk_recipe_plan_make(struct pk_recipe_plan *out, const struct pk_recipe *r,
                                   const struct pk_backend *backend, int32_t classes,
                                   struct pk_err *err)
{
    struct pk_inputs in = {0};
    struct pk_batch_shape shape;
    enum pk_status s = PK_OK;
    int64_t threads = pk_recipe_i64(r, "train.threads");
    *out =
        (struct pk_recipe_plan){.backend = backend,
                                .objective = pk_objective_named(pk_recipe_str(r, "objective.kind")),
                                .batch = pk_recipe_i64(r, "train.batch_size"),
                                .parts = pk_recipe_i64(r, "train.accumulate"),
                                .threads = (int)(threads ? threads : pk_threads_available())};
    if (backend && strcmp(pk_recipe_str(r, "train.precision"), "fp32"))
        out->params.storage = PK_BF16;
    bool here = look_at_data(&in, out, r);
    if (!out->objective) {
        s = plan_classifier(out, r, &in, here, classes, err);
    } else {
        shape = in.shape;
        if (!here) s = pk_shape_of_recipe(&shape, r, err);
        if (s == PK_OK) s = plan_pretext(out, r, &shape, err);
    }
    if (here) pk_inputs_close(&in);
    if (s != PK_OK) {
        pk_recipe_plan_free(out);
        return s;
    }
    out->micros = out->batch / (out->objective ? out->parts : 1) / out->micro;
    add_memory(out, r);
    return PK_OK;
}

void pk_recipe_plan_free(struct pk_recipe_plan *p)
{
    pk_plan_free(&p->listing_plan);
    pk_prog_free(&p->listing);
    pk_prog_free(&p->embed);
    pk_prog_free(&p->loss);
    pk_params_free(&p->params);
    *p = (struct pk_recipe_plan){0};
}
