/* cmd_pretrain.c -- purkinje pretrain and purkinje resume. */
#include "tools/device.h"
#include "tools/objective.h"
#include "tools/shape.h"
#include "tools/training.h"
#include "tools/world.h"

#include <stdlib.h>
#include <string.h>

/* What the recipe leaves to init_from comes from the recipe of that run. Elsewhere (an export) the
 * model's own description is all there is, and fine-tuning takes it from there. */
static enum pk_status inherit(struct pk_recipe *r, struct pk_err *err)
{
    char dir[PK_PATH_MAX], path[PK_PATH_MAX];
    struct pk_recipe *from;
    struct pk_text report = {0};
    if (!*pk_recipe_str(r, "init_from")) return PK_OK;
    PK_TRY(pk_recipe_path(r, "init_from", dir, err));
    PK_TRY(pk_path(path, err, "%s/recipe.yaml", dir));
    if (!pk_exists(path)) PK_TRY(pk_path(path, err, "%s/../../recipe.yaml", dir)); // a checkpoint
    if (!pk_exists(path)) return PK_OK;
    PK_TRY(pk_recipe_open(&from, path, 0, NULL, err));
    enum pk_status s = pk_recipe_inherit(r, from, &report, err);
    if (s == PK_ERECIPE && report.s && report.len >= sizeof err->message)
        fprintf(stderr, "%s", report.s);
    pk_text_free(&report);
    pk_recipe_free(from);
    return s;
}

static bool pretrains(const struct pk_recipe *r)
{
    return pk_objective_named(pk_recipe_str(r, "objective.kind")) != NULL;
}

static enum pk_status train_as_rank(const struct pk_recipe *r, enum pk_run_mode mode,
                                    const struct pk_args *a, const struct pk_job *job,
                                    struct pk_err *err)
{
    const struct pk_backend *backend;
    const int size = job->comm->size;
    PK_TRY(pk_device_choose(pk_arg(a, "device"), &backend, err));
    const struct pk_training_options options = {.mode = mode,
                                                .quiet = a->quiet,
                                                .backend = backend,
                                                .comm = size > 1 ? job->comm : NULL,
                                                .heartbeat = job->heartbeat,
                                                .argc = a->argc,
                                                .argv = a->argv};
    return (pretrains(r) ? pk_pretrain : pk_finetune)(r, &options, err);
}

/* The run that --or-resume goes on with has to be the one that was asked for; only its length may
 * have changed. */
static enum pk_status check_same_run(const struct pk_recipe *r, const char *dir, const char *path,
                                     struct pk_err *err)
{
    char here[PK_PATH_MAX + 16], steps[48], theirs[160], ours[160];
    char *override[] = {here, steps};
    struct pk_recipe *had;
    snprintf(here, sizeof here, "output.dir=%s", pk_recipe_str(r, "output.dir"));
    snprintf(steps, sizeof steps, "train.steps=%lld", (long long)pk_recipe_i64(r, "train.steps"));
    PK_TRY(pk_recipe_open(&had, path, pretrains(r) ? 2 : 1, override, err));
    const bool differ = pk_recipe_differs(had, r, theirs, ours);
    pk_recipe_free(had);
    if (!differ) return PK_OK;
    return pk_fail(err, PK_ERECIPE,
                   "%s holds a run of another recipe: '%s' there, '%s' here\n"
                   "help: --or-resume goes on with the same recipe only; 'purkinje resume %s' "
                   "takes the run's own, output.dir=... begins another run",
                   dir, theirs, ours, dir);
}

/* --or-resume: a run whose folder holds none begins, one that ended before its first step begins
 * again, any other goes on. Rank 0 looks, since the others may see the folder appear. */
static enum pk_status find_mode(struct pk_job *job, const struct pk_recipe *r,
                                enum pk_run_mode *mode, struct pk_err *err)
{
    char dir[PK_PATH_MAX], path[PK_PATH_MAX];
    enum pk_status s = PK_OK;
    int32_t found = PK_RUN_NEW;
    if (job->comm->rank == 0) {
        s = pk_recipe_path(r, "output.dir", dir, err);
        if (s == PK_OK) s = pk_path(path, err, "%s/recipe.yaml", dir);
        if (s == PK_OK && pk_exists(path)) {
            found = PK_RUN_RESUME;
            s = check_same_run(r, dir, path, err);
        } else if (s == PK_OK && pk_run_check(dir, PK_RUN_RESUME, NULL) == PK_OK) {
            found = PK_RUN_OVER;
        }
    }
    PK_TRY(pk_comm_agree(job->comm, s, err));
    PK_TRY(pk_comm_broadcast(job->comm, 0, &found, sizeof found, err));
    *mode = (enum pk_run_mode)found;
    return PK_OK;
}

static enum pk_status train(const struct pk_recipe *r, enum pk_run_mode mode,
                            const struct pk_args *a, struct pk_err *err)
{
    struct pk_job job;
    char dir[PK_PATH_MAX];
    const struct pk_world_options world = {.recipe = pk_recipe_hash(r), .quiet = a->quiet};
    PK_TRY(pk_world_open(&job, &world, err));
    const bool leads = job.comm->rank == 0;
    enum pk_status s = pk_arg(a, "or-resume") ? find_mode(&job, r, &mode, err) : PK_OK;
    if (s == PK_OK) s = train_as_rank(r, mode, a, &job, err);
    s = pk_world_close(&job, s, err);
    if (s == PK_OK && leads && pk_recipe_path(r, "output.dir", dir, NULL) == PK_OK)
        printf("%s\n", dir);
    return s;
}

static enum pk_status run_recipe(const struct pk_args *a, bool pretrain, struct pk_err *err)
{
    struct pk_recipe *r;
    if (a->count < 1)
        return pk_fail(err, PK_EUSAGE, "which recipe? 'purkinje recipe ls' lists them");
    if (pk_arg(a, "overwrite") && pk_arg(a, "or-resume"))
        return pk_fail(err, PK_EUSAGE, "--overwrite begins anew, --or-resume goes on: give one");
    PK_TRY(pk_recipe_open(&r, a->word[0], a->count - 1, a->word + 1, err));
    // First of all: what else such a recipe lacks is of no interest then.
    enum pk_status s =
        pretrains(r) == pretrain
            ? PK_OK
            : pk_fail(err, PK_ERECIPE, "%s: this recipe is for 'purkinje %s'",
                      pk_recipe_origin(r, "objective.kind"), pretrain ? "finetune" : "pretrain");
    if (s == PK_OK) s = inherit(r, err);
    if (s == PK_OK) s = train(r, pk_arg(a, "overwrite") ? PK_RUN_OVER : PK_RUN_NEW, a, err);
    pk_recipe_free(r);
    return s;
}

static enum pk_status run_pretrain(const struct pk_args *a, struct pk_err *err)
{
    return run_recipe(a, true, err);
}

static enum pk_status run_finetune(const struct pk_args *a, struct pk_err *err)
{
    return run_recipe(a, false, err);
}

/* The recipe is the run's own; only its length may change, and what does not change a bit of it, so
 * that the run stays one experiment. */
static enum pk_status run_resume(const struct pk_args *a, struct pk_err *err)
{
    char path[PK_PATH_MAX], dir[PK_PATH_MAX + 16];
    struct pk_recipe *r;
    char **override;
    if (a->count < 1) return pk_fail(err, PK_EUSAGE, "which run? give its folder");
    for (int i = 1; i < a->count; i++)
        if (strncmp(a->word[i], "train.steps=", 12) && strncmp(a->word[i], "train.zero1=", 12))
            return pk_fail(err, PK_EUSAGE,
                           "%s: resume changes nothing but train.steps and train.zero1; to start a "
                           "new run from these weights give init_from=%s to pretrain or finetune",
                           a->word[i], a->word[0]);
    PK_TRY(pk_path(path, err, "%s/recipe.yaml", a->word[0]));
    if (!pk_exists(path))
        return pk_fail(err, PK_EMISSING,
                       "%s holds no run that has begun: there is no recipe.yaml; start it with "
                       "'purkinje pretrain' or 'purkinje finetune'",
                       a->word[0]);
    PK_TRY(pk_alloc(&override, (size_t)a->count, sizeof *override, "overrides", err));
    snprintf(dir, sizeof dir, "output.dir=%s", a->word[0]);
    override[0] = dir;
    for (int i = 1; i < a->count; i++) override[i] = a->word[i];
    enum pk_status s = pk_recipe_open(&r, path, a->count, override, err);
    free(override);
    if (s != PK_OK) return s;
    s = train(r, PK_RUN_RESUME, a, err);
    pk_recipe_free(r);
    return s;
}

static const struct pk_option options[] = {
    {"overwrite", NULL, "delete what an earlier run left in output.dir"},
    {"or-resume", NULL, "go on with the run in output.dir if there is one, of the same recipe"},
    PK_OPTION_DEVICE,
    {0}};
static const struct pk_option resume_options[] = {PK_OPTION_DEVICE, {0}};

static const struct pk_example pretrain_examples[] = {
    {"pretrain jepa_demo train.steps=4 train.learning_rate.warmup=1 output.dir=runs/demo",
     "four steps of the demo recipe: synthetic ECGs, no file needed"},
    {"pretrain jepa_demo train.steps=2 train.learning_rate.warmup=0 data.synthetic.records=64 "
     "train.batch_size=16 output.dir=runs/small --quiet",
     "settings of the recipe changed on the command line"},
    {"pretrain mae_demo train.steps=2 train.learning_rate.warmup=0 data.synthetic.records=64 "
     "train.batch_size=16 output.dir=runs/mae --quiet",
     "a masked autoencoder, for 'purkinje reconstruct'"},
    {0}};

const struct pk_command pk_cmd_pretrain = {
    .name = "pretrain",
    .synopsis = "RECIPE [key=value ...]",
    .summary = "train an encoder without labels",
    .details =
        "RECIPE is a file or the name of a recipe that comes along ('purkinje recipe ls').\n"
        "SIGTERM or SIGUSR2 write a checkpoint and end with exit code 75; 'purkinje resume RUN'\n"
        "goes on bit-exactly. Prints the run's folder.\n\n"
        "As one of several ranks ('purkinje launch', srun, mpirun, torchrun) it trains on its "
        "share\n"
        "of each batch. On CPUs the run of 1, 2, 4 or 8 ranks is the same to the last bit; on "
        "GPUs, one\n"
        "for each rank, NCCL (2.14 or later) sums the gradients.",
    .options = options,
    .examples = pretrain_examples,
    .run = run_pretrain};

static const struct pk_example finetune_examples[] = {
    {"finetune probe_attentive data.corpus= data.synthetic.records=200 data.task=rhythm "
     "init_from=runs/demo stages.0.steps=4 evaluation.every=2 evaluation.bootstrap=0 "
     "train.batch_size=16 output.dir=runs/probe",
     "a short probe of the demo run's encoder on synthetic records"},
    {"finetune finetune_scratch data.corpus= data.synthetic.records=200 data.rate=100Hz "
     "data.task=rhythm model.encoder.width=32 model.encoder.depth=1 model.encoder.heads=2 "
     "model.encoder.patch=50ms stages.0.steps=2 stages.0.learning_rate.warmup=0 "
     "evaluation.every=2 evaluation.bootstrap=0 train.batch_size=16 output.dir=runs/scratch "
     "--quiet",
     "the same data, a small encoder from random weights"},
    {0}};

const struct pk_command pk_cmd_finetune = {
    .name = "finetune",
    .synopsis = "RECIPE [key=value ...]",
    .summary = "train a classifier on an encoder: probe, fine-tune, from scratch",
    .details =
        "init_from=RUN|CHECKPOINT|FILE names the encoder. The stages of the recipe follow each\n"
        "other, each from the best checkpoint (validation macro AUC) of the one before. With\n"
        "evaluation.test=true the test folds are scored once at the end; RUN/result.json\n"
        "names the whole protocol.",
    .options = options,
    .examples = finetune_examples,
    .run = run_finetune};

static const struct pk_example resume_examples[] = {
    {"resume runs/demo", "goes on from the newest valid checkpoint; nothing to do when it is done"},
    {"resume runs/demo train.steps=6", "the same run, made longer"},
    {0}};

const struct pk_command pk_cmd_resume = {.name = "resume",
                                         .synopsis = "RUN [train.steps=N] [train.zero1=true]",
                                         .summary = "go on with an interrupted run",
                                         .options = resume_options,
                                         .examples = resume_examples,
                                         .run = run_resume};
