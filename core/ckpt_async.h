/* ckpt_async.h -- checkpoints written by one background thread, so that training goes on.
 *
 * A submit copies the tensors and returns; if the write before it is still under way it waits for
 * that first, so memory is bounded by one copy. A failed write is reported by the next call. */
#ifndef PK_CKPT_ASYNC_H
#define PK_CKPT_ASYNC_H

#include "core/ckpt.h"

struct pk_ckpt_writer;

/* Checkpoints go to `dir`. */
enum pk_status pk_ckpt_writer_start(struct pk_ckpt_writer **out, const char *dir,
                                    struct pk_err *err);
/* From the background thread: the checkpoint of this step is on disk. A failure is one of the
 * writing. To be set before the first submit. */
typedef enum pk_status pk_ckpt_written(void *ctx, int64_t step, struct pk_err *err);
void pk_ckpt_writer_tell(struct pk_ckpt_writer *w, pk_ckpt_written *fn, void *ctx);
/* Copies the content (names are borrowed until the writer is stopped, tensors and state are free to
 * change at once) and queues it, followed by a prune when keep is not NULL.
 * Errors  those of the previous write, in which case nothing was queued; PK_ENOMEM */
enum pk_status pk_ckpt_writer_submit(struct pk_ckpt_writer *w, const struct pk_ckpt_content *c,
                                     const struct pk_ckpt_keep *keep, struct pk_err *err);
/* The same for one of several processes (core/ckpt_ranks.h): queues pk_ckpt_put of its files. */
enum pk_status pk_ckpt_writer_submit_part(struct pk_ckpt_writer *w, const struct pk_ckpt_content *c,
                                          struct pk_err *err);
/* Waits for that part; its entries stay the writer's, until the next submit. */
enum pk_status pk_ckpt_writer_part(struct pk_ckpt_writer *w, const struct pk_ckpt_entry **entry,
                                   int32_t *files, struct pk_err *err);
/* Queues pk_ckpt_finish over the entries of all, which are copied but for their names (borrowed
 * until the writer is idle), and a prune when keep is not NULL. */
enum pk_status pk_ckpt_writer_submit_finish(struct pk_ckpt_writer *w, int64_t step,
                                            const char *state, const struct pk_ckpt_entry *entry,
                                            int32_t files, const struct pk_ckpt_keep *keep,
                                            struct pk_err *err);
bool pk_ckpt_writer_busy(struct pk_ckpt_writer *w); // something is still being written
/* Blocks until everything is on disk, and reports the last write's error. */
enum pk_status pk_ckpt_writer_wait(struct pk_ckpt_writer *w, struct pk_err *err);
/* Step of the newest checkpoint known to be on disk; -1 before the first. */
int64_t pk_ckpt_writer_done(struct pk_ckpt_writer *w);
/* Finishes the pending write, reports its error and frees the writer. NULL is fine. */
enum pk_status pk_ckpt_writer_stop(struct pk_ckpt_writer *w, struct pk_err *err);

#endif
