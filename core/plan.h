/* plan.h -- an address for every value of a program: lifetimes, largest first, first gap that fits.
 */
#ifndef PK_PLAN_H
#define PK_PLAN_H

#include "core/prog.h"

enum { PK_ALIGN = 64 };

struct pk_plan {
    int64_t *offset;       // [values] bytes in the arena; -1 for what lives elsewhere
    int64_t *workspace;    // [nodes] byte offset, -1 without
    int32_t *first, *last; // [values] nodes between which an ACT value lives
    int64_t arena;         // bytes of ACT
    int64_t live;          // largest sum of bytes alive at one node: the lower bound of any plan
    int64_t inputs;        // bytes of IN
    double flops, bytes;   // of one run
};

enum pk_status pk_plan_make(struct pk_plan *out, const struct pk_prog *p, struct pk_err *err);
void pk_plan_free(struct pk_plan *plan);

#endif
