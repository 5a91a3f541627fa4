/* recipe_noyaml.c -- stands in for recipe_yaml.c where libyaml is not there (PK_WITH_YAML off). */
#include "core/recipe_internal.h"

enum pk_status pk_yaml_parse(struct pk_node *root, const char *text, size_t size, int source,
                             int shift, struct pk_diags *d, struct pk_err *err)
{
    (void)text, (void)size, (void)source, (void)shift, (void)d;
    *root = (struct pk_node){0};
    return pk_fail(err, PK_EMISSING,
                   "this build cannot read recipes: it was made without libyaml\n"
                   "help: install libyaml (Debian: libyaml-dev) and build with -DPK_WITH_YAML=ON");
}
