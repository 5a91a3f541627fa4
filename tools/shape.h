/* shape.h -- what commands need of a recipe when there is no data to look at. */
#ifndef PK_SHAPE_H
#define PK_SHAPE_H

#include "core/recipe.h"
#include "models/signal.h"

/* Loads a recipe named on the command line, with overrides, and prints all its errors to stderr
 * when they do not fit into err. */
enum pk_status pk_recipe_open(struct pk_recipe **out, const char *path, int overrides,
                              char *const *override, struct pk_err *err);
/* The batch that a corpus made for this recipe would deliver: data.rate, data.crop, and data.leads
 * (the twelve standard leads when the list is empty, one for synthetic PPG).
 * Errors  PK_ERECIPE data.rate is not given */
enum pk_status pk_shape_of_recipe(struct pk_batch_shape *out, const struct pk_recipe *r,
                                  struct pk_err *err);

#endif
