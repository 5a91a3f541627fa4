/* recipe_find.c -- where recipes are: folders, names, guesses (see recipe.h). */
#include "core/recipe_internal.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef PK_RECIPE_DIR
#define PK_RECIPE_DIR ""
#endif
#ifndef PK_RECIPE_SHARE
#define PK_RECIPE_SHARE ""
#endif

/* PREFIX/share/purkinje/recipes of a program PREFIX/bin/purkinje, "" where that cannot be told: an
 * installation is found wherever it was moved to. */
static void beside_program(char out[PK_PATH_MAX])
{
    char program[PK_PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    out[0] = 0;
    if (n > 0)
        program[n] = 0;
    else if (!realpath((const char *)getauxval(AT_EXECFN), program)) // a chroot without /proc
        return;
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(program, '/');
        if (!slash) return;
        *slash = 0;
    }
    if (pk_path(out, NULL, "%s/share/purkinje/recipes", program) != PK_OK) out[0] = 0;
}

bool pk_recipe_folder(int i, char out[PK_PATH_MAX])
{
    char beside[PK_PATH_MAX];
    beside_program(beside);
    const char *const built_in[] = {beside, PK_RECIPE_DIR, PK_RECIPE_SHARE};
    const char *list = getenv("PURKINJE_RECIPES");
    for (const char *p = list ? list : ""; *p;) {
        size_t n = strcspn(p, ":");
        if (n && i-- == 0) return snprintf(out, PK_PATH_MAX, "%.*s", (int)n, p) < PK_PATH_MAX;
        p += n + (p[n] == ':');
    }
    for (size_t k = 0; k < PK_COUNT(built_in); k++) {
        if (!*built_in[k] || !pk_exists(built_in[k]) || i-- != 0) continue;
        return snprintf(out, PK_PATH_MAX, "%s", built_in[k]) < PK_PATH_MAX;
    }
    return false;
}

bool pk_recipe_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

bool pk_recipe_in_folders(char out[PK_PATH_MAX], const char *name)
{
    char folder[PK_PATH_MAX];
    for (int i = 0; pk_recipe_folder(i, folder); i++) {
        if (pk_path(out, NULL, "%s/%s", folder, name) == PK_OK && pk_recipe_is_file(out))
            return true;
        if (pk_path(out, NULL, "%s/%s.yaml", folder, name) == PK_OK && pk_recipe_is_file(out))
            return true;
    }
    return false;
}

static void guess_name(const char *name, char guess[256])
{
    char folder[PK_PATH_MAX], stem[256], word[256];
    int best = PK_RECIPE_TEXT_MAX;
    const char *slash = strrchr(name, '/'); // of "recipes/jepa_demo.yaml", its name is meant
    snprintf(word, sizeof word, "%.255s", slash ? slash + 1 : name);
    size_t length = strlen(word);
    if (length > 5 && !strcmp(word + length - 5, ".yaml")) word[length - 5] = 0;
    guess[0] = 0;
    for (int i = 0; pk_recipe_folder(i, folder); i++) {
        DIR *dir = opendir(folder);
        for (struct dirent *e; dir && (e = readdir(dir));) {
            size_t n = strlen(e->d_name);
            if (n < 6 || n > 200 || strcmp(e->d_name + n - 5, ".yaml")) continue;
            snprintf(stem, sizeof stem, "%.*s", (int)n - 5, e->d_name);
            if (pk_better_guess(word, stem, &best)) snprintf(guess, 256, "%s", stem);
        }
        if (dir) closedir(dir);
    }
}

enum pk_status pk_recipe_find(char out[PK_PATH_MAX], const char *name, struct pk_err *err)
{
    char guess[256];
    if (pk_recipe_in_folders(out, name)) return PK_OK;
    guess_name(name, guess);
    if (*guess)
        return pk_fail(err, PK_ERECIPE,
                       "no recipe '%.200s': there is no such file, and no built-in "
                       "of that name\nhelp: did you mean '%s'? ('purkinje recipe ls' lists them)",
                       name, guess);
    return pk_fail(err, PK_ERECIPE,
                   "no recipe '%.200s': there is no such file, and no built-in of "
                   "that name\nhelp: 'purkinje recipe ls' lists the built-in ones",
                   name);
}
