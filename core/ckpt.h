/* ckpt.h -- checkpoints that a crash at any instant cannot lose.
 *
 *     RUN/checkpoints/step-000012000/
 *         model.safetensors ...   named by the caller
 *         state.json              the caller's JSON
 *         MANIFEST.json           sizes and XXH64 of the above, and of itself
 *     RUN/checkpoints/latest      "step-000012000", for people and scripts
 *
 * What would be NAME.safetensors may be shared out over NAME-00001-of-00004.safetensors ..., which
 * hold whole tensors each; pk_ckpt_read takes either.
 *
 * Writing: everything goes into .tmp-step-..., each file is synced, then the folder, then the
 * manifest is written and synced, and only then the folder gets its name. A folder called step-...
 * is hence complete, and one whose checksums hold is valid. `latest` is never trusted by the
 * reader. Other hidden names: .old-step-... (being replaced by a checkpoint of the same step) and
 * .del-step-... (being deleted); pk_ckpt_clean finishes what a crash left of them.
 *
 * One process writes a folder at a time (core/run.h holds the lock), or several ranks together
 * (core/ckpt_ranks.h); any number may read. */
#ifndef PK_CKPT_H
#define PK_CKPT_H

#include "core/base.h"
#include "core/safetensors.h"

struct pk_ckpt_file {
    const char *name;                   // "model.safetensors"
    const struct pk_tensor_ref *tensor; // [count]
    int64_t count;
};

/* What a checkpoint holds. Everything is borrowed. */
struct pk_ckpt_content {
    int64_t step;
    int32_t files;
    const struct pk_ckpt_file *file; // [files]
    const char *state;               // JSON text: sampler, schedule, recipe hash ...
};

/* Writes DIR/step-.../ and blocks until it is on disk; makes DIR if needed. A checkpoint of the
 * same step is replaced once the new one is complete. On failure nothing is left behind and earlier
 * checkpoints are untouched.
 * Errors  PK_EINVAL  a bad file or tensor name
 *         PK_EDATA   state is not JSON
 *         PK_EWRITE  no space (the message gives needed and free bytes), or the disk refused */
enum pk_status pk_ckpt_write(const char *dir, const struct pk_ckpt_content *c, struct pk_err *err);

struct pk_ckpt_entry {
    char *name;
    int64_t bytes;
    uint64_t hash; // XXH64 of the file
};

/* pk_ckpt_write in steps, for several processes. All need the same folder.
 *     pk_ckpt_begin   one process makes .tmp-step-..., on a disk with room for `need` bytes
 *     pk_ckpt_put     each one writes its files, synced, and gets their entries [c->files], whose
 *                     names are borrowed from c; c->state is not looked at
 *     pk_ckpt_finish  one process, when all have ended well: state.json, manifest over all the
 *                     entries, the folder's name. On failure the temporary folder is gone
 *     pk_ckpt_abandon instead, when one has failed and nobody writes any more
 * pk_ckpt_bytes: what the files of c need on the disk. Errors: those of pk_ckpt_write. */
enum pk_status pk_ckpt_bytes(const struct pk_ckpt_content *c, int64_t *bytes, struct pk_err *err);
enum pk_status pk_ckpt_begin(const char *dir, int64_t step, int64_t need, struct pk_err *err);
enum pk_status pk_ckpt_put(const char *dir, const struct pk_ckpt_content *c,
                           struct pk_ckpt_entry *entry, struct pk_err *err);
enum pk_status pk_ckpt_finish(const char *dir, int64_t step, const char *state,
                              const struct pk_ckpt_entry *file, int32_t files, struct pk_err *err);
enum pk_status pk_ckpt_abandon(const char *dir, int64_t step, struct pk_err *err);

struct pk_ckpt {
    char path[PK_PATH_MAX]; // of the checkpoint's folder
    int64_t step;
    char *state; // state.json
    int32_t files;
    struct pk_ckpt_entry *file; // [files], state.json included
    char warning[PK_ERR_MAX];   // "" or why newer checkpoints were passed over
};

/* Opens and verifies (sizes and checksums of every file) a checkpoint. `path` is a checkpoint's own
 * folder, or a checkpoints folder or a run, of which the newest valid one is taken.
 * Errors  PK_EMISSING  there is no checkpoint
 *         PK_EDATA     none of them verifies; the message says why for each */
enum pk_status pk_ckpt_open(struct pk_ckpt *out, const char *path, struct pk_err *err);
void pk_ckpt_close(struct pk_ckpt *c); // safe on a zeroed struct
bool pk_ckpt_has(const struct pk_ckpt *c, const char *file);
/* Reads the tensors of one file, or of the files that it is shared out over, into the caller's
 * buffers; see pk_safetensors_read. */
enum pk_status pk_ckpt_read(const struct pk_ckpt *c, const char *file,
                            const struct pk_tensor_ref *tensor, int64_t count, bool exact,
                            struct pk_err *err);

/* Which checkpoints to keep. The zero value keeps the last one. */
struct pk_ckpt_keep {
    int32_t last;  // newest ones, at least 1 is assumed
    int64_t every; // and those whose step is a multiple of this; 0 none
    int64_t best;  // and this step; 0 none
};
/* Deletes the others. First the newest one to be kept is verified in full, then the next newest and
 * so on; unless one of them is valid nothing is deleted (PK_EDATA). Broken ones that are newer than
 * the newest valid one stay, for inspection. */
enum pk_status pk_ckpt_prune(const char *dir, const struct pk_ckpt_keep *keep, struct pk_err *err);
/* Removes what an interrupted writer left, and puts back a checkpoint whose replacement was cut
 * short. Call it at start, with the run locked. A folder that does not exist is clean. */
enum pk_status pk_ckpt_clean(const char *dir, struct pk_err *err);
/* Deletes checkpoints with a step above `step`: training goes on from there, and what a later step
 * held belongs to a history that is being rewritten. `step` -1 deletes them all. */
enum pk_status pk_ckpt_drop_after(const char *dir, int64_t step, struct pk_err *err);
/* Steps on disk in ascending order, valid or not; *steps is free()d by the caller. */
enum pk_status pk_ckpt_steps(const char *dir, int64_t **steps, int64_t *count, struct pk_err *err);

#endif
