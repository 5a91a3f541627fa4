/* test_recipe.c -- recipes: values, units, defaults, extends, overrides, origins, every class of
 * error with its place. */
#include "core/recipe.h"
#include "tests/test.h"

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct pk_err err = {0};
        struct pk_recipe *r;
        struct pk_text t = {0};
        if (pk_recipe_load(&r, argv[i], 0, NULL, NULL, &err) != PK_OK) {
            printf("%s\n", err.message);
            continue;
        }
        CHECK_OK(pk_recipe_print(r, &t, &err), &err);
        printf("%s%016llx\n", t.s, (unsigned long long)pk_recipe_hash(r));
        pk_text_free(&t);
        pk_recipe_free(r);
    }
    return 0;
}
