/* export.h -- a trained model as a folder that other programs can read.
 *
 *     model.safetensors          weights, float32, PyTorch's names: patch_embed.weight as a
 *                                convolution's [width, leads, patch], register, blocks.N.*,
 *                                norm.weight; of convolutional encoders as in
 *                                docs/examples/conv_encoders.py; a head's under head.*
 *     config.json                the architecture (tools/model_info.h)
 *     preprocessor_config.json   what has to be done to a signal before the model sees it
 *     README.md                  model card
 *
 * docs/examples/load_model.py reads it with PyTorch; every purkinje command that takes a model
 * takes the folder. */
#ifndef PK_EXPORT_H
#define PK_EXPORT_H

#include "core/base.h"

struct pk_export_options {
    bool ema;       // of a pretraining checkpoint: the EMA encoder, else the online one
    bool overwrite; // replace an earlier export; nothing else is ever replaced
};
/* Exports the run, checkpoint or exported folder `from` as the folder `to`, which appears complete
 * or not at all.
 * Errors  PK_EUSAGE  `to` has content and overwrite is off, or content that is no export
 *         PK_EDATA   the weights do not fit their description
 *         PK_EWRITE  the disk refused */
enum pk_status pk_export(const char *from, const char *to, const struct pk_export_options *o,
                         struct pk_err *err);

#endif
