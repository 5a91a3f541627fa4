/* loader_order.h -- which record and which crop each sample of a run is, as core/loader.h defines
 * it. */
#ifndef PK_LOADER_ORDER_H
#define PK_LOADER_ORDER_H

#include "core/base.h"

struct pk_loader_spec;

struct pk_order {
    const struct pk_loader_spec *spec; // borrowed
    int64_t rows;                      // that are selected
    int64_t *pool;  // [rows] dataset rows grouped by source (mixtures only), or by participant
                    // (pairs of those only; single ones are not in it)
    int64_t *first; // [sources + 1] or [participants + 1] into pool
    int64_t participants; // with two rows or more
    int64_t *of_source;   // [sources + 1] into first: a mixture's participants, by source
};

/* Checks what says which samples there are, and groups the rows. Free with pk_order_free, which is
 * safe on a zeroed struct. Errors  as pk_loader_open */
enum pk_status pk_order_open(struct pk_order *out, const struct pk_loader_spec *spec,
                             struct pk_err *err);
void pk_order_free(struct pk_order *o);

/* The record of sample g, and where its crop starts; pure. */
int64_t pk_order_row(const struct pk_order *o, int64_t g);
int32_t pk_order_start(const struct pk_loader_spec *spec, int64_t g, int64_t row);

#endif
