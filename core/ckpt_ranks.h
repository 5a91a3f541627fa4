/* ckpt_ranks.h -- one checkpoint written by all ranks, each its share, while training goes on.
 *
 *     training thread, all ranks            background thread, each rank
 *     submit: room, folder, copies
 *             ... steps ...                 its files, synced
 *     settle: all have written; sizes and
 *             checksums go to rank 0
 *             ... steps ...                 rank 0: state.json, MANIFEST.json, the folder's name,
 *                                           older checkpoints
 *
 * Collectives are called by the training thread only. When to settle has to be decided alike on all
 * ranks: after a step in which none has said that it is still writing (pk_ckpt_ranks_writing). A
 * rank that fails fails all of them; the temporary folder goes, earlier checkpoints stay.
 *
 * All ranks must see the same folder; pk_ckpt_ranks_see tells. */
#ifndef PK_CKPT_RANKS_H
#define PK_CKPT_RANKS_H

#include "core/ckpt_async.h"
#include "core/comm.h"

enum { PK_CKPT_RANK_FILES = 6 }; // at most, that a rank writes

struct pk_ckpt_ranks;

/* Collective. *blind: the first rank that does not see, or cannot write to, rank 0's dir (each
 * gives the path under which it knows it), or -1. dir exists or is made at rank 0 alone; what the
 * question leaves there is removed.
 * Errors  PK_EWRITE rank 0 cannot write there;  PK_ERANK */
enum pk_status pk_ckpt_ranks_see(struct pk_comm *comm, const char *dir, int *blind,
                                 struct pk_err *err);
/* comm is borrowed. Not collective. */
enum pk_status pk_ckpt_ranks_start(struct pk_ckpt_ranks **out, struct pk_comm *comm,
                                   const char *dir, struct pk_err *err);
/* As pk_ckpt_writer_tell; called at rank 0 alone. */
void pk_ckpt_ranks_tell(struct pk_ckpt_ranks *r, pk_ckpt_written *fn, void *ctx);
/* Collective. c: the files of this rank, no two ranks' of the same name, copied as by
 * pk_ckpt_writer_submit; step is everybody's. Of rank 0 alone: need, the bytes of all ranks' files
 * together; c->state; keep, which may be NULL. Waits until the checkpoint before is complete, or
 * has failed, which is reported here.
 * Errors  the same everywhere, by pk_comm_agree: those of pk_ckpt_write, of any rank */
enum pk_status pk_ckpt_ranks_submit(struct pk_ckpt_ranks *r, const struct pk_ckpt_content *c,
                                    int64_t need, const struct pk_ckpt_keep *keep,
                                    struct pk_err *err);
/* Whether this rank still writes its share. */
bool pk_ckpt_ranks_writing(struct pk_ckpt_ranks *r);
/* Collective. Waits for all shares and has rank 0 complete the checkpoint; nothing to do when there
 * is none to complete. Errors: those of the writing, at every rank. */
enum pk_status pk_ckpt_ranks_settle(struct pk_ckpt_ranks *r, struct pk_err *err);
/* Collective. Settles, and waits until rank 0 has everything on disk. */
enum pk_status pk_ckpt_ranks_finish(struct pk_ckpt_ranks *r, struct pk_err *err);
/* Step of the newest complete checkpoint that rank 0 knows to be on disk; -1 before the first. */
int64_t pk_ckpt_ranks_done(struct pk_ckpt_ranks *r);
/* Not collective. Frees r; a checkpoint that was not settled is given up. NULL is fine. */
void pk_ckpt_ranks_stop(struct pk_ckpt_ranks *r);

#endif
