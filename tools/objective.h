/* objective.h -- what pretraining has to know about an objective: one row of a table each.
 *
 * The loop (tools/pretrain.c), the step (tools/step.c), 'purkinje plan' and 'purkinje bench step'
 * are the same for all of them. A new objective is a model in models/, a row in objective.c, and
 * its keys in the recipe schema. */
#ifndef PK_OBJECTIVE_H
#define PK_OBJECTIVE_H

#include "models/contrastive.h"
#include "models/jepa.h"
#include "models/mae.h"
#include "core/loader.h"
#include "tools/probe.h"

/* The model of any objective. All of them begin with the signal. */
union pk_pretext {
    struct pk_signal signal;
    struct pk_jepa jepa;
    struct pk_mae mae;
    struct {
        struct pk_contrastive contrastive;
        double flops[3];      // forward, of a record: encoder, projection, predictor
        struct pk_vit widest; // linear layers of the size of the encoder's, for the GEMM ceiling
    };
};

enum { PK_TOWERS = 3, PK_WORK_PARTS = 3 };

struct pk_work_part { // of one record and one step, 2 FLOPs per multiply-add
    const char *name;
    double flops;
};

struct pk_objective {
    const char *kind;    // of objective.kind and of model descriptions
    const char *partner; // scope of what pretraining needs besides the encoder: "predictor"
    /* The loss compares records of the whole batch: three programs, by `build_coupled`; one number
     * of kept tokens, 0. Else `build`. */
    bool coupled;
    bool moments; // the targets' moments can be fetched: "target_moments"
    enum pk_pair (*pairs)(const struct pk_recipe *r);
    struct pk_encoder (*encoder)(const union pk_pretext *m);
    /* The targets, or keys, come from a moving average of the encoder. */
    bool (*ema)(const union pk_pretext *m);
    void (*describe)(const union pk_pretext *m, char out[96]); // of the partner, for people
    enum pk_status (*config)(union pk_pretext *out, const struct pk_recipe *r,
                             const struct pk_batch_shape *shape, struct pk_err *err);
    /* A step runs one of several programs, named by how many tokens stay visible (of every run of
     * tokens): from least to most, and the one for a step. */
    int32_t (*keep_min)(const union pk_pretext *m);
    int32_t (*keep_max)(const union pk_pretext *m);
    int32_t (*keep)(const union pk_pretext *m, int64_t step);
    int32_t (*tokens)(const union pk_pretext *m); // of a record, for the size of micro-batches
    /* The program of one micro-batch. Takes the inputs of pk_signal_inputs. Outputs: loss,
     * embedding [records, width] and, with moments, target_moments [2, width]. */
    enum pk_status (*build)(struct pk_prog *out, struct pk_params *params,
                            const union pk_pretext *m, int64_t records, int32_t keep,
                            struct pk_err *err);
    /* See pk_contrastive_build. total: records that are compared with each other, by all ranks. */
    enum pk_status (*build_coupled)(const struct pk_contrastive_progs *out,
                                    struct pk_params *params, struct pk_params *none,
                                    const union pk_pretext *m, int64_t records, int64_t total,
                                    int32_t ranks, struct pk_err *err);
    /* The minimum of work, whatever an implementation computes again; returns how many parts. */
    int (*work)(const union pk_pretext *m, int32_t keep, struct pk_work_part out[PK_WORK_PARTS]);
    /* The linear layers of a micro-batch, for the GEMM ceiling; returns how many towers. */
    int (*towers)(const union pk_pretext *m, int64_t records, int32_t keep,
                  struct pk_probe_tower out[PK_TOWERS]);
};

/* The row of a kind, NULL for what is not pretraining. */
const struct pk_objective *pk_objective_named(const char *kind);
/* Forward FLOPs of an encoder for one record. */
enum pk_status pk_encoder_flops(double *out, const struct pk_signal *s, const struct pk_encoder *e,
                                struct pk_err *err);
/* Linear layers as wide as the encoder's features, where it is no transformer. */
struct pk_vit pk_encoder_stand_in(const struct pk_encoder *e);
/* Tokens of a record that the encoder computes on, for the size of micro-batches. */
int32_t pk_encoder_tokens(const struct pk_signal *s, const struct pk_encoder *e);
/* All FLOPs of a record. */
double pk_objective_flops(const struct pk_objective *o, const union pk_pretext *m, int32_t keep);

#endif
