/* model.h -- a stored model made ready: described, read and, on a dataset, computing.
 *
 * For export, embedding and evaluation, which take a run, a checkpoint or an exported folder. */
#ifndef PK_MODEL_H
#define PK_MODEL_H

#include "tools/evaluate.h"
#include "tools/weights.h"
#include "tools/world.h"

struct pk_model {
    struct pk_model_file file;
    struct pk_classifier net; // head PK_HEAD_NONE for a bare encoder
    struct pk_params params;
    /* with a dataset: */
    const struct pk_backend *backend; // to be set before pk_model_on; NULL: the CPU
    struct pk_comm *comm;             // ranks that share out the records (pk_model_share), or NULL
    struct pk_exec exec;              // exec.weight holds the weights
    struct pk_evaluator eval;
    double (*mean)[PK_LEADS_MAX], (*std)[PK_LEADS_MAX]; // [sources], the model's own, by data lead
};

/* The network that a description stands for. shape: of the signals it is given, whose leads are
 * found by name in any order.
 * Errors  PK_EDATA  another rate, a lead that is not there, a window that is not whole patches */
enum pk_status pk_model_net(struct pk_classifier *out, const struct pk_model_info *m,
                            const struct pk_batch_shape *shape, struct pk_err *err);
/* Opens PATH (see pk_model_open) and reads its weights, all of them and nothing else, into *weight,
 * laid out by m->params; free it. Close m with pk_model_free. */
enum pk_status pk_model_load(struct pk_model *m, const char *path, bool ema, float **weight,
                             struct pk_err *err);
/* Before pk_model_on: the ranks of a job, if there are several, each take a share of the records
 * that are evaluated, and get all scores. */
void pk_model_share(struct pk_model *m, const struct pk_job *job);
/* Makes a model whose file is open (pk_model_open(&m->file, ...), all else zero) ready for windows
 * of records of a dataset: use m->eval with pk_evaluate. window, stride: seconds; 0 stands for the
 * model's own protocol, which for an encoder is windows as long as those of its training, one after
 * the other. Ranks must have the same weights, records, kind of device and instruction set. Close
 * with pk_model_free, after a failure too. */
enum pk_status pk_model_on(struct pk_model *m, const struct pk_dataset *data, double window,
                           double stride, struct pk_err *err);
void pk_model_free(struct pk_model *m);

/* Opens what a command line names as CORPUS: a folder, or synthetic:N for N generated records of
 * 10 s with seed 0 at `rate` Hz. */
enum pk_status pk_dataset_named(struct pk_dataset *out, const char *name, double rate,
                                struct pk_err *err);

#endif
