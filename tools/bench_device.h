/* bench_device.h -- 'purkinje bench ops --device cuda': every different node of a recipe's program,
 * timed by itself on the GPU, against what the GPU can do at most. */
#ifndef PK_BENCH_DEVICE_H
#define PK_BENCH_DEVICE_H

#include "core/exec.h"
#include "core/recipe.h"

struct pk_bench_device {
    const struct pk_backend *backend;
    const char *only; // op name, or NULL for all
    double seconds;   // for each row
    bool json;
};
/* Prints the table, or JSON.
 * Errors  PK_EUSAGE no node of the recipe is of op `only`; else as planning or the device say */
enum pk_status pk_bench_device(const struct pk_recipe *r, const struct pk_bench_device *o,
                               struct pk_err *err);

#endif
