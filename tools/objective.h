/* objective.h -- what pretraining has to know about an objective: one row of a table each.
 *
 * The loop (tools/pretrain.c), the step (tools/step.c), 'purkinje plan' and 'purkinje bench step'
 * are the same for all of them. A new objective is a model in models/, a row in objective.c, and
 * its keys in the recipe schema. */
#ifndef PK_OBJECTIVE_H
#define PK_OBJECTIVE_H

#include "models/jepa.h"
#include "models/mae.h"
#include "tools/probe.h"

/* The model of any objective. All of them begin alike. */
union pk_pretext {
    struct {
        struct pk_signal signal;
        struct pk_vit encoder, partner; // partner: what pretraining needs besides the encoder
    };
    struct pk_jepa jepa;
    struct pk_mae mae;
};

enum { PK_TOWERS = 3, PK_WORK_PARTS = 3 };

struct pk_work_part { // of one record and one step, 2 FLOPs per multiply-add
    const char *name;
    double flops;
};

struct pk_objective {
    const char *kind;    // of objective.kind and of model descriptions
    const char *partner; // scope of the partner's parameters: "predictor"
    bool ema;            // the targets come from a moving average of the encoder
    enum pk_status (*config)(union pk_pretext *out, const struct pk_recipe *r,
                             const struct pk_batch_shape *shape, struct pk_err *err);
    /* A step runs one of several programs, named by how many tokens stay visible (of every run of
     * tokens): from least to most, and the one for a step. */
    int32_t (*keep_min)(const union pk_pretext *m);
    int32_t (*keep_max)(const union pk_pretext *m);
    int32_t (*keep)(const union pk_pretext *m, int64_t step);
    int32_t (*tokens)(const union pk_pretext *m); // of a record, for the size of micro-batches
    /* The program of one micro-batch. Takes the inputs of pk_signal_inputs. Outputs: loss,
     * embedding [records, width] and, with ema, target_moments [2, width]. */
    enum pk_status (*build)(struct pk_prog *out, struct pk_params *params,
                            const union pk_pretext *m, int64_t records, int32_t keep,
                            struct pk_err *err);
    /* The minimum of work, whatever an implementation computes again; returns how many parts. */
    int (*work)(const union pk_pretext *m, int32_t keep, struct pk_work_part out[PK_WORK_PARTS]);
    /* The linear layers of a micro-batch, for the GEMM ceiling; returns how many towers. */
    int (*towers)(const union pk_pretext *m, int64_t records, int32_t keep,
                  struct pk_probe_tower out[PK_TOWERS]);
};

/* The row of a kind, NULL for what is not pretraining. */
const struct pk_objective *pk_objective_named(const char *kind);
/* All FLOPs of a record. */
double pk_objective_flops(const struct pk_objective *o, const union pk_pretext *m, int32_t keep);

#endif
