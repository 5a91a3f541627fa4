/* recipe_case.h -- what the tests of recipes share: a good recipe, and files in FOLDER, which the
 * test defines. */
#ifndef PK_TESTS_RECIPE_CASE_H
#define PK_TESTS_RECIPE_CASE_H

#include "core/recipe.h"
#include "tests/test.h"

/* A good recipe that the cases below break in one place. */
static const char good[] = "schema: 1\n"
                           "seed: 7\n"
                           "data:\n"
                           "  corpus: here\n"
                           "  rate: 500 Hz\n"
                           "  crop: 10 s\n"
                           "  leads: [I, II, V1]\n"
                           "  mixture: {a: 0.25, b: 3}\n"
                           "model:\n"
                           "  encoder: {width: 64, depth: 2, heads: 4, patch: 50 ms}\n"
                           "objective:\n"
                           "  kind: jepa\n"
                           "  predictor: {width: 32, depth: 1, heads: 4}\n"
                           "train:\n"
                           "  steps: 100\n"
                           "  batch_size: 64\n"
                           "  learning_rate: {peak: 1e-3, warmup: 10 steps}\n";

static void put(const char *name, const char *text, size_t n)
{
    char path[PK_PATH_MAX];
    struct pk_err err = {0};
    FILE *f;
    CHECK_OK(pk_mkdirs(FOLDER "/base", &err), &err);
    snprintf(path, sizeof path, FOLDER "/%s", name);
    CHECK_OK(pk_open(&f, path, "wb", &err), &err);
    if (!f) return;
    CHECK_OK(pk_write(f, text, n, path, &err), &err);
    fclose(f);
}

static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

static enum pk_status load(struct pk_recipe **r, const char *name, char *override,
                           struct pk_err *err)
{
    char path[PK_PATH_MAX];
    *err = (struct pk_err){0};
    snprintf(path, sizeof path, FOLDER "/%s", name);
    return pk_recipe_load(r, path, override ? 1 : 0, &override, NULL, err);
}

/* Built without libyaml, which is said. */
static bool no_yaml(void)
{
    struct pk_err err = {0};
    struct pk_recipe *r = NULL;
    const enum pk_status s = pk_recipe_load(&r, "jepa_demo", 0, NULL, NULL, &err);
    pk_recipe_free(r);
    if (s != PK_EMISSING) return false;
    fprintf(stderr, "skipped: %s\n", err.message);
    return strstr(err.message, "libyaml") != NULL;
}

#endif
