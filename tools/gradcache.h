/* gradcache.h -- gradients of a loss over a whole batch, micro-batch by micro-batch (Gao et al.
 * 2021): forward for the embeddings, the loss over all of them, forward and backward again from the
 * loss's gradient. Exact: the second forward pass computes the same bits, since dropout, masks and
 * augmentation are keyed by sample. Memory: activations of a micro-batch, and a few numbers per
 * record.
 *
 * The loss must not depend on the length of an embedding (it normalises its rows), so that
 * <embedding, gradient> = 0: the third program's "loss" then adds rounding alone to the loss that
 * pk_exec_result tells. pk_gradcache_run reports the exact one.
 *
 * Ranks: each has its micro-batches' rows of the projections and gets the others'; each compares
 * its own rows with all, from which all have the same loss, and goes back through its own records.
 *
 * On a device the rows stay in its memory, between devices they go over what joins these, and the
 * three programs are enqueued one behind the other: the host waits for none of them.
 *
 * Batch norm in its training mode takes the statistics of a micro-batch, which both passes cut
 * alike, so this holds for it too; its running statistics move once, with the third program. */
#ifndef PK_GRADCACHE_H
#define PK_GRADCACHE_H

#include "core/exec.h"
#include "core/heartbeat.h"

struct pk_gradcache {
    struct pk_exec *x;                    // borrowed, as all of these
    struct pk_bound *embed, *loss, *back; // as models/contrastive.h names and shapes them
    int64_t records, micros, width;       // of a micro-batch; of a batch, over all ranks; of a
                                          // projection
    bool keys;                            // embed has "key" and loss wants it
    struct pk_heartbeat *heartbeat;       // is told when this rank waits for the others, or NULL
    int64_t step;                         // of the batch, for the heartbeat
    /* [records * micros, width]; no key without keys. gradient: by the projections, of this rank's
     * rows, as the third program takes them, which is raised by micros. */
    struct pk_exec_rows projected, gradient, key;
};

/* Allocates the rows of a batch. PK_ENOMEM. */
enum pk_status pk_gradcache_create(struct pk_gradcache *out, const struct pk_gradcache *spec,
                                   struct pk_err *err);
void pk_gradcache_free(struct pk_gradcache *g);
/* run->feed, cut: inputs of embed, for micro-batch i at i * stride; also those of back, but
 * "d_projected". fetch: further outputs of embed, filled like pk_exec_run does. loss_scale: of this
 * batch in the step. add: the gradients are added to those of the run before. micros is ignored.
 * more: as in struct pk_exec_batch. group: as the loss program has it, of all ranks; to be kept
 * like the feeds. Afterwards the gradient sum is where pk_exec_run leaves it. loss: NULL, or gets
 * the batch's, unscaled, for which the host waits for a device. */
enum pk_status pk_gradcache_run(struct pk_gradcache *g, const struct pk_exec_batch *run,
                                const int64_t *group, double *loss, struct pk_err *err);

#endif
