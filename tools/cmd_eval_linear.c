/* cmd_eval_linear.c -- purkinje eval linear: how much of a task is in frozen embeddings.
 *
 * A convex problem solved to its end on fixed features: no optimiser, no augmentation, no selection
 * on the test folds. docs/evaluation.md says how it differs from the heads that finetune trains. */
#include "core/json.h"
#include "tools/device.h"
#include "tools/linear_eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Falling, so that equal scores go to the stronger regularisation. */
static const double usual_penalties[] = {1e5, 1e4, 1e3, 1e2, 1e1, 1e0, 1e-1, 1e-2};

/* "1,10,100" into numbers in (low, high]. */
static enum pk_status parse_numbers(const char *option, const char *text, double high, double *out,
                                    int *count, int most, struct pk_err *err)
{
    *count = 0;
    for (const char *part = text; part;) {
        const char *comma = strchr(part, ',');
        size_t n = comma ? (size_t)(comma - part) : strlen(part);
        char one[40];
        double v = 0;
        snprintf(one, sizeof one, "%.*s", (int)PK_MIN(n, sizeof one), part);
        if (n >= sizeof one || !pk_parse_f64(one, &v) || !(v > 0) || !(v <= high))
            return pk_fail(err, PK_EUSAGE, "--%s %.80s: '%s' is not a number above 0, at most %g",
                           option, text, one, high);
        for (int i = 0; i < *count; i++)
            if (out[i] == v)
                return pk_fail(err, PK_EUSAGE, "--%s %.80s: %g is there twice", option, text, v);
        if (*count == most)
            return pk_fail(err, PK_EUSAGE, "--%s: at most %d numbers", option, most);
        out[(*count)++] = v;
        part = comma ? comma + 1 : NULL;
    }
    return PK_OK;
}

static int falling(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x > *y ? -1 : *x < *y;
}

static enum pk_status parse_spec(struct pk_linear_spec *s, const struct pk_args *a,
                                 struct pk_err *err)
{
    const char *probe = pk_arg(a, "probe"), *fractions = pk_arg(a, "fractions");
    int64_t folds = 5, k = 20, seed = 0, boot_seed = 0;
    int64_t threads = PK_MIN(PK_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1), 64);
    double temperature = 0.07;
    s->resamples = 1000;
    s->shuffles = 5;
    s->knn = probe && !strcmp(probe, "knn");
    s->single = pk_arg(a, "single-label") != NULL;
    s->train_folds = pk_arg(a, "train") ? pk_arg(a, "train") : "1-8";
    s->test_folds = pk_arg(a, "test") ? pk_arg(a, "test") : "10";
    if (probe && !s->knn && strcmp(probe, "linear"))
        return pk_fail(err, PK_EUSAGE, "--probe %s: it is linear or knn", probe);
    PK_TRY(pk_arg_i64(a, "cv", 2, 100, &folds, err));
    PK_TRY(pk_arg_i64(a, "k", 1, 100000, &k, err));
    PK_TRY(pk_arg_f64(a, "temperature", 1e-6, 1e6, &temperature, err));
    PK_TRY(pk_arg_i64(a, "seed", 0, INT64_MAX, &seed, err));
    PK_TRY(pk_arg_i64(a, "bootstrap", 0, 1000000, &s->resamples, err));
    PK_TRY(pk_arg_i64(a, "bootstrap-seed", 0, INT64_MAX, &boot_seed, err));
    PK_TRY(pk_arg_i64(a, "shuffles", 0, 10000, &s->shuffles, err));
    PK_TRY(pk_arg_i64(a, "threads", 1, 256, &threads, err));
    PK_TRY(parse_numbers("fractions", fractions ? fractions : "100", 100, s->percent, &s->fractions,
                         PK_FRACTIONS_MAX, err));
    if (pk_arg(a, "penalty"))
        PK_TRY(parse_numbers("penalty", pk_arg(a, "penalty"), 1e12, s->penalty, &s->penalties,
                             PK_PENALTIES_MAX, err));
    if (!s->penalties) {
        s->penalties = (int)PK_COUNT(usual_penalties);
        memcpy(s->penalty, usual_penalties, sizeof usual_penalties);
    }
    qsort(s->penalty, (size_t)s->penalties, sizeof *s->penalty, falling);
    s->folds = (int32_t)folds;
    s->neighbours = (struct pk_knn_options){(int32_t)k, temperature};
    s->seed = (uint64_t)seed;
    s->bootstrap_seed = (uint64_t)boot_seed;
    s->threads = (int)threads;
    return PK_OK;
}

static enum pk_status find_target(struct pk_linear_eval *e, const char *name, struct pk_err *err)
{
    e->target = pk_dataset_target(e->data, name);
    if (e->target) return PK_OK;
    struct pk_text have = {0};
    for (int32_t i = 0; i < e->data->targets; i++)
        pk_text_add(&have, "%s%s", i ? ", " : "", e->data->target[i].name);
    enum pk_status s = pk_fail(err, PK_EDATA, "%s has no target '%s'; it has: %s", e->data->name,
                               name, have.s ? have.s : "none");
    pk_text_free(&have);
    return s;
}

struct windows { // where embeddings are computed
    const struct pk_backend *backend;
    double window, stride; // s; 0: the model's own
};

static enum pk_status prepare(struct pk_linear_eval *e, struct pk_embeddings *from,
                              struct pk_dataset *data, const struct pk_args *a, struct windows *w,
                              struct pk_err *err)
{
    struct pk_folds train, test;
    const char *task = pk_arg(a, "task"), *target = pk_arg(a, "target");
    const char *weights = pk_arg(a, "weights");
    bool random = weights && !strcmp(weights, "random");
    bool ema = !weights || random || !strcmp(weights, "ema");
    if (!task == !target)
        return pk_fail(err, PK_EUSAGE,
                       "say with --task or --target what to learn; 'purkinje data info CORPUS' "
                       "lists what there is");
    if (target && pk_arg(a, "single-label"))
        return pk_fail(err, PK_EUSAGE, "--single-label is for a --task");
    if (weights && !ema && strcmp(weights, "online"))
        return pk_fail(err, PK_EUSAGE, "--weights %s: it is ema, online or random", weights);
    PK_TRY(parse_spec(&e->spec, a, err));
    PK_TRY(pk_arg_f64(a, "window", 1e-3, 86400, &w->window, err));
    PK_TRY(pk_arg_f64(a, "stride", 1e-3, 86400, &w->stride, err));
    PK_TRY(pk_folds_parse(&train, e->spec.train_folds, PK_FOLD_MAX, err));
    PK_TRY(pk_folds_parse(&test, e->spec.test_folds, PK_FOLD_MAX, err));
    PK_TRY(pk_embeddings_open(from, a->word[0], ema, err));
    from->random = random;
    from->seed = e->spec.seed;
    if (from->file && (weights || w->window > 0 || w->stride > 0))
        return pk_fail(err, PK_EUSAGE,
                       "--weights, --window and --stride are for a model; %s holds "
                       "embeddings that are made already",
                       from->path);
    PK_TRY(pk_dataset_named(data, a->word[1], isfinite(from->rate) ? from->rate : 100, err));
    e->data = data;
    if (task) PK_TRY(pk_task_find(&e->task, data, task, err));
    if (target) PK_TRY(find_target(e, target, err));
    PK_TRY(pk_linear_eval_rows(e, &train, &test, err));
    return from->file ? PK_OK : pk_device_choose(pk_arg(a, "device"), &w->backend, err);
}

/* What is learned from. Of several ranks each computes its share; all get all of it. */
static enum pk_status embed(struct pk_linear_eval *e, struct pk_embeddings *from,
                            struct pk_dataset *data, const struct pk_args *a, struct pk_job *job,
                            struct pk_err *err)
{
    struct windows w = {0};
    PK_TRY(pk_comm_agree(job->comm, prepare(e, from, data, a, &w, err), err));
    pk_model_share(&from->model, job);
    return pk_embeddings_get(&e->embedding, from, data, &e->rows, w.backend, w.window, w.stride,
                             err);
}

static enum pk_status learn(struct pk_linear_eval *e, struct pk_embeddings *from,
                            const struct pk_args *a, struct pk_err *err)
{
    const char *out = pk_arg(a, "out");
    PK_TRY(pk_linear_eval_run(e, from->width, err));
    if (out) PK_TRY(pk_linear_eval_save(e, out, from, err));
    if (!pk_arg(a, "json")) return pk_linear_eval_print(e, from, err);
    struct pk_text text = {0};
    PK_TRY(pk_linear_eval_json(&text, e, from, err));
    return pk_print(&text, err);
}

static enum pk_status run(const struct pk_args *a, struct pk_err *err)
{
    struct {
        struct pk_linear_eval eval;
        struct pk_embeddings from;
        struct pk_dataset data;
    } * all;
    struct pk_job job;
    if (a->count != 2)
        return pk_fail(err, PK_EUSAGE, "eval linear needs a model or embeddings, and a corpus");
    PK_TRY(pk_alloc(&all, 1, sizeof *all, "evaluation", err));
    enum pk_status s = pk_world_open_command(&job, a, err);
    if (s == PK_OK)
        s = pk_world_close(&job, embed(&all->eval, &all->from, &all->data, a, &job, err), err);
    if (s == PK_OK && job.launch.rank == 0) s = learn(&all->eval, &all->from, a, err);
    pk_linear_eval_free(&all->eval);
    pk_embeddings_close(&all->from);
    pk_dataset_free(&all->data);
    free(all);
    return s;
}

static const struct pk_option options[] = {
    {"task", "NAME", "labels to learn: logistic regression, a class against the rest"},
    {"target", "NAME", "or a number to learn: ridge regression; records without it do not count"},
    {"single-label", NULL, "only records with exactly one label: multinomial regression"},
    {"train", "LIST", "folds to learn from (default 1-8)"},
    {"test", "LIST", "folds to score, once (default 10)"},
    {"probe", "linear|knn", "knn: a vote of the nearest neighbours instead (default linear)"},
    {"fractions", "LIST", "percent of the training subjects, e.g. 1,10,100 (default 100)"},
    {"penalty", "LIST", "L2 penalties to choose from (default 1e5, 1e4, ... 1e-2)"},
    {"cv", "N", "folds of subjects that choose it (default 5)"},
    {"k", "N", "neighbours (default 20)"},
    {"temperature", "T", "of their votes, exp(cosine / T) (default 0.07)"},
    {"seed", "N", "of subsets, shuffled labels and random weights (default 0)"},
    {"bootstrap", "N", "resamples for 95 % intervals, 0 for none (default 1000)"},
    {"bootstrap-seed", "N", "of the resamples (default 0)"},
    {"shuffles", "N", "refits with shuffled labels, for the chance level (default 5)"},
    {"out", "FOLDER", "write result.json, record ids of every subset, predictions and models"},
    {"window", "S", "seconds of a window; the model's own unless told"},
    {"stride", "S", "seconds from one window to the next; the model's own unless told"},
    {"weights", "WHICH", "of a pretraining run: ema (default) or online; random: never trained"},
    {"threads", "N", "of the fits (default: all cores); the result does not depend on it"},
    {"json", NULL, "protocol and results as JSON"},
    PK_OPTION_DEVICE,
    {0}};

static const struct pk_example examples[] = {
    {"eval linear runs/demo synthetic:80 --task rhythm --test 9,10 --bootstrap 200",
     "logistic regression on embeddings of the demo encoder, computed now"},
    {"eval linear runs/demo synthetic:80 --task rhythm --test 9,10 --weights random",
     "the baseline that such a number needs: the same encoder, never trained"},
    {"eval linear embeddings.h5 synthetic:40 --target heart_rate --train 1-6 --test 7-10 --json",
     "ridge regression on embeddings that 'purkinje embed' wrote"},
    {"eval linear embeddings.h5 synthetic:40 --task rhythm --train 1-6 --test 7-10 --probe knn "
     "--k 5 --fractions 10,100 --out runs/knn",
     "nearest neighbours with few labels; runs/knn/train-10.txt lists the records used"},
    {0}};

const struct pk_command pk_cmd_eval_linear = {
    .name = "eval linear",
    .synopsis = "MODEL|EMBEDDINGS.h5 CORPUS",
    .summary = "linear and nearest-neighbour evaluation of frozen embeddings",
    .details =
        "One embedding per record (the mean of the patch tokens over positions and windows) is "
        "all\n"
        "that is learned from. Features are standardised by the training records, the penalty on\n"
        "|w|^2 (scikit-learn's alpha, or 1/C) is chosen by cross-validation over subjects within\n"
        "them, and the problem is solved to convergence. Scores stand beside their chance level.\n"
        "Records of one subject in both training and test are refused (exit code 65).\n"
        "Ranks (purkinje launch, srun, mpirun ...) share out the embedding of records; the result\n"
        "is the same.",
    .options = options,
    .examples = examples,
    .run = run};
