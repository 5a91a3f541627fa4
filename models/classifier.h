/* classifier.h -- an encoder with a head on labelled windows: attentive probe, linear probe,
 * fine-tuning, training from scratch (the protocols of Weimann & Conrad 2024); or on windows with
 * numbers to predict (regression). */
#ifndef PK_CLASSIFIER_H
#define PK_CLASSIFIER_H

#include "models/encoder.h"

enum pk_head {
    PK_HEAD_ATTENTIVE,       // one learnable query, cross-attention over register + patches
    PK_HEAD_REGISTER_LINEAR, // register token -> linear
    PK_HEAD_MEAN_LINEAR,     // mean of the patch tokens -> linear
    PK_HEAD_CONCAT,          // their maximum and mean -> batch norm, hidden layer, linear
    PK_HEAD_NONE             // the encoder alone: embeddings without logits
};

struct pk_classifier {
    struct pk_signal signal;
    struct pk_encoder encoder;
    enum pk_head head;
    int32_t hidden;     // of PK_HEAD_CONCAT, 0 for none
    float head_dropout; // of the same
    bool augmented;     // in training
    struct pk_augment_range range[PK_AUGMENT_KINDS];
    uint64_t seed;                        // of augmentation, mixup and the head's dropout
    float mixup;                          // alpha, in training; 0: none
    int32_t classes;                      // or targets
    bool softmax;                         // one label of many, else a question for each class
    struct pk_multilabel_spec multilabel; // its vectors are borrowed
    struct pk_multiclass_spec multiclass; // of softmax
    bool regresses;                       // targets, in deviations of their training values
    struct pk_regression_spec regression; // of them
    bool frozen;                          // the encoder is not trained and runs without dropout
};

enum pk_status pk_classifier_config(struct pk_classifier *out, const struct pk_recipe *r,
                                    const struct pk_batch_shape *shape, int32_t classes,
                                    struct pk_err *err);
/* The same without the encoder and its patches, which then come from a file: sets shape, head,
 * augmentation, loss and classes. */
enum pk_status pk_classifier_config_head(struct pk_classifier *out, const struct pk_recipe *r,
                                         const struct pk_batch_shape *shape, int32_t classes,
                                         struct pk_err *err);
/* The head that a recipe or a model file names, "attentive". */
enum pk_status pk_head_parse(enum pk_head *out, const char *name, struct pk_err *err);
/* train: loss and gradients, dropout on, input label [records, classes], of a regression target
 * [records, classes] instead. Else: forward only.
 * Outputs: logits [records, classes] (or predictions) unless the head is NONE; embedding [records,
 * width] (mean of patch tokens) when not training. Parameters: encoder.* and head.*. */
enum pk_status pk_classifier_build(struct pk_prog *out, struct pk_params *params,
                                   const struct pk_classifier *c, int64_t records, bool train,
                                   struct pk_err *err);

#endif
