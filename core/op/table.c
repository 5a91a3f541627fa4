/* table.c -- the op table: rows of all families, in the order of PK_OPS. */
#include "core/op/rows.h"

double pk_flops_none(const struct pk_prog *p, const struct pk_node *n)
{
    (void)p;
    (void)n;
    return 0;
}

const struct pk_op_row *const pk_op_table[PK_OP_COUNT] = {
#define PK_X(op, name, family) [PK_OP_##op] = &pk_row_##name,
    PK_OPS(PK_X)
#undef PK_X
};
