/* rows.h -- what op families share: each exports its rows as pk_row_NAME, table.c collects them. */
#ifndef PK_OP_ROWS_H
#define PK_OP_ROWS_H

#include "core/build.h"

#define PK_X(op, name, family) extern const struct pk_op_row pk_row_##name;
PK_OPS(PK_X)
#undef PK_X

/* Reasons for a row without grad. */
#define PK_IS_GRAD     "a gradient op"
#define PK_IS_CONSTANT "constant by definition"
#define PK_IS_FUSED    "made by fusion, after differentiation"

double pk_flops_none(const struct pk_prog *p,
                     const struct pk_node *n); // memory-bound: counted as 0

#endif
