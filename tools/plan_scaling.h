/* plan_scaling.h -- 'purkinje plan --ranks': the recipe's step on many GPUs, a model. */
#ifndef PK_PLAN_SCALING_H
#define PK_PLAN_SCALING_H

#include "core/plan.h"
#include "tools/cli.h"
#include "tools/recipe_plan.h"

/* Prints the table, or JSON. rates: of one GPU, zeros when --times brings them.
 * Errors  PK_EUSAGE options, or a file of times that belongs to another program */
enum pk_status pk_plan_scaling(const struct pk_args *args, const struct pk_recipe_plan *p,
                               const char *name, const struct pk_plan_rates *rates,
                               struct pk_err *err);

#endif
