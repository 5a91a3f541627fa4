/* library.c -- functions of libraries that are loaded at run time (see library.h). */
#include "cuda/library.h"

#include <dlfcn.h>
#include <string.h>

enum pk_status pk_library_find(void *file, const char *library, const char *wanted,
                               const char *symbol, void *function, struct pk_err *err)
{
    void *p = dlsym(file, symbol); // POSIX: an object pointer that may be used as a function's
    if (!p) return pk_fail(err, PK_EMISSING, "%s has no %s: %s", library, symbol, wanted);
    memcpy(function, &p, sizeof p);
    return PK_OK;
}
