/* recipe_node.c -- the YAML tree's memory (see recipe_internal.h). */
#include "core/recipe_internal.h"

#include <stdlib.h>

void pk_node_free(struct pk_node *n)
{
    for (int64_t i = 0; i < n->count; i++) pk_node_free(&n->item[i]);
    free(n->item);
    free(n->text);
    free(n->key);
    *n = (struct pk_node){0};
}
