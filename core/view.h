/* view.h -- shapes of a kernel's arguments as plain numbers. */
#ifndef PK_VIEW_H
#define PK_VIEW_H

#include "core/prog.h"

/* Product of the axes [from, to). */
static inline int64_t pk_view_span(const struct pk_value *v, int from, int to)
{
    int64_t n = 1;
    for (int i = from; i < to; i++) n *= v->dim[i];
    return n;
}

static inline int64_t pk_view_count(const struct pk_value *v)
{
    return pk_view_span(v, 0, v->rank);
}

/* The last axis, and the product of all axes before it. */
static inline int64_t pk_view_cols(const struct pk_value *v)
{
    return v->dim[v->rank - 1];
}

static inline int64_t pk_view_rows(const struct pk_value *v)
{
    return pk_view_span(v, 0, v->rank - 1);
}

#endif
