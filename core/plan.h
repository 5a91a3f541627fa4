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

/* workspace: [PK_OP_COUNT] what the backend's kernels need, NULL for the CPU's. */
enum pk_status pk_plan_make(struct pk_plan *out, const struct pk_prog *p,
                            const pk_workspace *workspace, struct pk_err *err);
void pk_plan_free(struct pk_plan *plan);
/* The listing of pk_prog_print with the plan in front of each node: bytes of its outputs, MFLOP,
 * the nodes between which its first output lives, that output's offset in the arena ("-" for
 * gradients, which live elsewhere), and the microseconds that one thread needs at these rates
 * (the longer of computing and moving bytes; left out where both rates are 0). */
struct pk_plan_rates {
    double flops, bytes; // per second, of one thread
};
void pk_plan_print(const struct pk_plan *plan, const struct pk_prog *p,
                   const struct pk_plan_rates *rates, struct pk_text *out);
/* Seconds of one run at these rates: the sum over nodes of the longer of both. */
double pk_plan_seconds(const struct pk_prog *p, const struct pk_plan_rates *rates);

#endif
