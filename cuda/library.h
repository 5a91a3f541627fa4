/* library.h -- what the libraries that are loaded at run time (NCCL, cuBLASLt, cuDNN) share. */
#ifndef PK_CUDA_LIBRARY_H
#define PK_CUDA_LIBRARY_H

#include "core/base.h"

/* The address of a function of a loaded library into *function, a pointer to a function pointer.
 * Errors  PK_EMISSING "LIBRARY has no SYMBOL: WANTED" */
enum pk_status pk_library_find(void *file, const char *library, const char *wanted,
                               const char *symbol, void *function, struct pk_err *err);

#endif
