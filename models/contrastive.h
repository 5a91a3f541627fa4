/* contrastive.h -- objectives that compare the records of a whole batch: SimCLR (Chen et al. 2020),
 * CMSC (Kiyasseh et al. 2021), participant-level InfoNCE with momentum keys (Abbaspourazad et al.
 * 2023) in the form of MoCo v3.
 *
 * Such a loss does not fit a program that runs per micro-batch. A step therefore has three programs
 * (gradient caching, Gao et al. 2021; docs/decisions/010-batch-coupled-losses.md):
 *     embed   a micro-batch of records -> projections
 *     loss    the projections of the whole batch -> loss and its gradient by them
 *     back    a micro-batch again, forward and backward from its rows of that gradient
 * Records come as consecutive pairs: rows 2i and 2i + 1 are two views, or two segments. */
#ifndef PK_CONTRASTIVE_H
#define PK_CONTRASTIVE_H

#include "models/encoder.h"

struct pk_contrastive {
    struct pk_signal signal;
    struct pk_encoder encoder;
    int32_t hidden, width; // of the projection, linear - GELU - linear, and of its result
    bool norm;             // batch norm behind both linear layers, which then have no bias
    bool momentum;         // keys from the EMA copies of encoder and projection, and a predictor on
                           // the online side; else all rows are each other's keys
    float temperature;
    float koleo; // weight of the KoLeo term, 0 for none
    bool augmented;
    struct pk_augment_range range[PK_AUGMENT_KINDS];
    uint64_t seed; // of it. It is keyed by "sample", so two views of one record need two sample
                   // numbers, such as 2 n and 2 n + 1
};

/* Reads objective.*, and what signal and encoder need. */
enum pk_status pk_contrastive_config(struct pk_contrastive *out, const struct pk_recipe *r,
                                     const struct pk_batch_shape *shape, struct pk_err *err);

struct pk_contrastive_progs { // where the three programs go
    struct pk_prog *embed, *loss, *back;
};

/* Records the three programs: embed and back for `records` a micro-batch, loss for `total` records,
 * an even number, which are those of `ranks` ranks: each computes its part of the loss, and the
 * gradient of its own records (core/ops.h). `none` is an empty table for loss, which has no
 * parameters and is float whatever the storage of params; it lives as long as the program.
 * Inputs besides the signal's:
 *     loss  "projected" [total / 2, 2, width], "group" i64; with momentum "key" like "projected"
 *           "group" is [total], rows with equal numbers are positives; with momentum [total / 2],
 *           and the pairs of one number are
 *     back  "d_projected" [records, width]
 * Outputs of embed "projected", with momentum "key", and "embedding" [records, encoder width]; of
 * loss "loss" and "d_projected".
 * Errors  PK_EINVAL total is odd or below 4; whatever building reports */
enum pk_status pk_contrastive_build(const struct pk_contrastive_progs *out,
                                    struct pk_params *params, struct pk_params *none,
                                    const struct pk_contrastive *c, int64_t records, int64_t total,
                                    int32_t ranks, struct pk_err *err);

#endif
