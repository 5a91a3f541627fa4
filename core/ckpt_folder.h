/* ckpt_folder.h -- names and manifests of checkpoint folders; private to core/ckpt*.c. */
#ifndef PK_CKPT_FOLDER_H
#define PK_CKPT_FOLDER_H

#include "core/ckpt.h"

struct pk_ckpt_name {
    int64_t step;
    bool old; // .old-step-...: set aside while a checkpoint of the same step takes its place
};

/* Checkpoints of a folder, oldest first, a set-aside one before its namesake. A folder that does
 * not exist holds none. *out is free()d by the caller. */
enum pk_status pk_ckpt_list(const char *dir, struct pk_ckpt_name **out, int64_t *count,
                            struct pk_err *err);
enum pk_status pk_ckpt_folder(char out[PK_PATH_MAX], const char *dir, const char *prefix,
                              int64_t step, struct pk_err *err);
/* Deletes a flat folder and the files in it; one that does not exist is fine. */
enum pk_status pk_ckpt_remove(const char *folder, struct pk_err *err);

/* The text of a manifest over these files. */
enum pk_status pk_manifest_text(struct pk_text *out, int64_t step, const struct pk_ckpt_entry *file,
                                int32_t files, struct pk_err *err);
/* A file of a folder has the size that its entry says, and, with `full`, the checksum. */
enum pk_status pk_ckpt_check_file(const struct pk_ckpt_entry *e, const char *folder, bool full,
                                  struct pk_err *err);
/* Reads MANIFEST.json of a folder and checks that it is intact, and that the files have the sizes
 * it says; with `full`, their checksums too. Fills path, step, files and file of *out; on failure
 * nothing is left to free. */
enum pk_status pk_ckpt_verify(struct pk_ckpt *out, const char *folder, bool full,
                              struct pk_err *err);

#endif
