/* weights.h -- weights in files: from a run, a checkpoint or a safetensors file, by name. */
#ifndef PK_WEIGHTS_H
#define PK_WEIGHTS_H

#include "core/ckpt.h"
#include "core/param.h"
#include "core/safetensors.h"
#include "tools/model_info.h"

/* Tensors of all parameters, or of those that have a moving average, pointing into an arena. Free
 * with free. */
enum pk_status pk_weights_refs(struct pk_tensor_ref **out, int64_t *count,
                               const struct pk_params *p, bool ema, float *arena,
                               struct pk_err *err);

struct pk_model_file {
    struct pk_safetensors tensors;
    struct pk_model_info info;
    int64_t step;          // optimizer steps behind these weights, -1 when unknown
    char recipe_hash[24];  // of the run, "" when unknown
    char weights[8];       // which ones: "best", "ema", "online"; "" when unknown
    char run[PK_PATH_MAX]; // the run's folder, "" for an export
};
/* Opens PATH: a run or checkpoint folder (the newest valid checkpoint; "best" weights of a
 * fine-tuning run are preferred), an exported folder or its .safetensors file with config.json
 * beside it. ema: take the EMA encoder of a pretraining checkpoint. */
enum pk_status pk_model_open(struct pk_model_file *out, const char *path, bool ema,
                             struct pk_err *err);
/* The model that a recipe's init_from names, with the weights that it asks for. */
enum pk_status pk_model_open_init(struct pk_model_file *out, const struct pk_recipe *r,
                                  struct pk_err *err);
void pk_model_close(struct pk_model_file *m);
/* Reads the parameters that start with prefix ("encoder." or "") into the arena. Names may be given
 * with or without "encoder." in the file. Missing or unexpected tensors are an error that lists
 * them; tensors of other parts (predictor, head) are not read when prefix is "encoder.". */
enum pk_status pk_model_read(const struct pk_model_file *m, const struct pk_params *p,
                             const char *prefix, float *arena, struct pk_err *err);

#endif
