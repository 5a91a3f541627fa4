/* recipe_plan.h -- what a recipe will cost, computed without running it: parameters, work, memory,
 * checkpoints. Builds the same programs as training does and asks the same planner. */
#ifndef PK_RECIPE_PLAN_H
#define PK_RECIPE_PLAN_H

#include "core/exec.h"
#include "tools/model_info.h"
#include "tools/objective.h"

enum { PK_PLAN_PARTS = 8 }; // as many stages as a recipe may have

struct pk_plan_part { // what is repeated: the step of pretraining, or the step of one stage
    char name[64];
    int64_t steps;
    double record_flops;  // work of one record (2 per multiply-add, nothing twice)
    double program_flops; // what the program computes for one record
    double program_bytes; // that its nodes read and write for one record
    int64_t nodes;
};

struct pk_recipe_plan {
    const struct pk_backend *backend;     // NULL: the CPU
    const struct pk_objective *objective; // of pretraining; NULL for a classifier
    struct pk_params params;
    union pk_pretext model;          // of pretraining
    struct pk_classifier classifier; // else
    struct pk_encoder encoder;
    const struct pk_signal *signal;
    int32_t keep[3]; // least, mean, most; 0 for a classifier
    int64_t batch, parts, micro, micros;
    int threads;
    int64_t train_records; // -1: the corpus is not here
    char data_note[512];   // why not, or ""
    struct pk_plan_part part[PK_PLAN_PARTS];
    int part_count;
    struct pk_work_part work[PK_WORK_PARTS]; // of a record at the mean keep, of pretraining
    int works;
    /* bytes */
    int64_t in; // batches of the loader
    int64_t weight, ema, grad, moments, best, constants;
    int64_t arena, arena_bound; // of one thread: as planned, and the least that any plan needs
    struct pk_exec_need need;   // of a device
    int64_t checkpoint;         // tensors; headers and state add a few KB
    struct pk_prog listing;     // of the first part, at the mean keep
    struct pk_plan listing_plan;
    /* Of an objective whose loss couples the batch, where `listing` is the third of three programs:
     * the first, of a micro-batch, and the second, of a part of the batch. */
    struct pk_prog embed, loss;
    int64_t gathered; // floats that the ranks gather for a part, in so many arrays
    int gathers;
};

/* backend: where it will run, NULL for the CPU. classes: of a classifier, 0 takes the corpus's or
 * the known number of the task. r is borrowed. Errors  PK_ERECIPE, PK_EMISSING (init_from),
 * PK_EDATA as training would report them */
enum pk_status pk_recipe_plan_make(struct pk_recipe_plan *out, const struct pk_recipe *r,
                                   const struct pk_backend *backend, int32_t classes,
                                   struct pk_err *err);
void pk_recipe_plan_free(struct pk_recipe_plan *p);
/* All bytes together. */
int64_t pk_recipe_plan_memory(const struct pk_recipe_plan *p);

#endif
