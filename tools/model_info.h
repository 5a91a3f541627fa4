/* model_info.h -- what a model is, apart from its weights: architecture, input, head.
 *
 * Written into every checkpoint (state.json, "model") and export (config.json), read back by
 * fine-tuning, evaluation, embedding and export. */
#ifndef PK_MODEL_INFO_H
#define PK_MODEL_INFO_H

#include "core/data.h"
#include "core/json.h"
#include "models/classifier.h"
#include "tools/inputs.h"

enum { PK_CLASSES_MAX = 512 };

struct pk_model_info {
    char objective[PK_NAME_MAX]; // "jepa", "mae", "contrastive", "classify", "regress"
    struct pk_encoder encoder;   // of vit: tokenise, qkv_bias, width, depth, heads, mlp_ratio, eps
    int32_t registers;
    double rate;           // Hz
    int32_t patch, tokens; // samples of a patch; positions trained on
    int32_t leads;
    char lead_name[PK_LEADS_MAX][8];
    float clip;
    double mean[PK_LEADS_MAX], std[PK_LEADS_MAX]; // of the first source
    char source[PK_NAME_MAX];                     // whose statistics these are
    char data[256], preprocessing[512];
    char units[16]; // of mean and std
    /* with a head: */
    char head[PK_NAME_MAX]; // "" without
    int32_t hidden;         // of concat_pool
    char task[PK_NAME_MAX], loss[PK_NAME_MAX];
    int32_t classes; // or targets
    char class_name[PK_CLASSES_MAX][PK_NAME_MAX];
    bool regresses; // outputs are targets, (value - mean) / std
    double target_mean[PK_LEARNED_TARGETS_MAX], target_std[PK_LEARNED_TARGETS_MAX];
    bool single_label;     // only records with exactly one label count
    double window, stride; // s, of evaluation
    char aggregation[PK_NAME_MAX];
};

void pk_model_info_write(struct pk_json_writer *w, const char *key, const struct pk_model_info *m);
/* where: named in messages. */
enum pk_status pk_model_info_read(struct pk_model_info *out, const struct pk_json *j,
                                  const char *where, struct pk_err *err);
/* Finds the model's leads in the data, s->shape, by name in any order. Errors  PK_EDATA */
enum pk_status pk_model_info_leads(struct pk_signal *s, const struct pk_model_info *m,
                                   struct pk_err *err);
/* Sets encoder, patch and leads of c from m. c->signal.shape is the data's; r words errors.
 * Errors  PK_EDATA rate or leads of the data are not the encoder's;  PK_ERECIPE crop and patch */
enum pk_status pk_model_info_architecture(struct pk_classifier *c, const struct pk_model_info *m,
                                          const struct pk_recipe *r, struct pk_err *err);
/* The parts that the input side determines. */
void pk_model_info_input(struct pk_model_info *m, const struct pk_signal *s,
                         const struct pk_inputs *in);

#endif
