/* inputs.h -- the data of a run as its recipe says: dataset, rows by fold and task, normalisation.
 */
#ifndef PK_INPUTS_H
#define PK_INPUTS_H

#include "core/loader.h"
#include "core/recipe.h"
#include "models/signal.h"
#include "tools/rows.h"
#include "tools/targets.h"

struct pk_inputs {
    struct pk_dataset data;
    struct pk_batch_shape shape; // of a batch with the recipe's crop
    struct pk_rows train, validation, test;
    const struct pk_task *task;                         // of data.task, or NULL
    struct pk_targets targets;                          // of data.targets, scaled
    double *weight;                                     // [data.sources] mixture weights, or NULL
    double (*mean)[PK_LEADS_MAX], (*std)[PK_LEADS_MAX]; // [data.sources]
    /* Set before pk_inputs_loader: this process's share of each part of a batch. Zeros: all of it.
     */
    int rank, ranks;
    int64_t parts;
};

/* Opens data.corpus or makes data.synthetic, selects rows and computes the normalisation.
 * crop: seconds, e.g. data.crop. Progress of slow parts goes to stderr unless quiet. */
enum pk_status pk_inputs_open(struct pk_inputs *out, const struct pk_recipe *r, bool quiet,
                              struct pk_err *err);
/* The same without the normalisation, which reads every record: mean and std stay NULL. */
enum pk_status pk_inputs_select(struct pk_inputs *out, const struct pk_recipe *r,
                                struct pk_err *err);
/* Random crops of the training rows in batches of `batch`, by the recipe's seed, threads and
 * read-ahead. task: labels to deliver, or NULL. pair: as in pk_loader_spec. plan_only: as in
 * pk_loader_spec. `in` must outlive the loader. */
enum pk_status pk_inputs_loader(struct pk_loader **out, const struct pk_inputs *in,
                                const struct pk_recipe *r, int64_t batch,
                                const struct pk_task *task, enum pk_pair pair, bool plan_only,
                                struct pk_err *err);
void pk_inputs_close(struct pk_inputs *in);

#endif
