/* device.h -- --device: which backend a command computes on. */
#ifndef PK_DEVICE_H
#define PK_DEVICE_H

#include "core/exec.h"
#include "tools/cli.h"

#define PK_OPTION_DEVICE                                                                           \
    {                                                                                              \
        "device", "auto|cpu|cuda",                                                                 \
            "where to compute (default auto: a GPU if this build and machine have one)"            \
    }

/* choice: the option's value; NULL stands for $PURKINJE_DEVICE, else auto. *out gets NULL for the
 * CPU.
 * Errors  PK_EUSAGE   neither auto, cpu nor cuda
 *         PK_EMISSING cuda was asked for, and this build, driver or machine does not have it */
enum pk_status pk_device_choose(const char *choice, const struct pk_backend **out,
                                struct pk_err *err);
/* The same for planning, which needs no GPU: NULL or cpu is the CPU.
 * Errors  PK_EUSAGE, or PK_EMISSING when this build has no CUDA backend */
enum pk_status pk_device_plan(const char *choice, const struct pk_backend **out,
                              struct pk_err *err);
/* Ranks that put numbers together compute them on the same kind of device, with the same
 * instructions; each takes a device of its own where it is more than the CPU (pk_comm_locate).
 * Errors  PK_ERANK on all of them */
enum pk_status pk_device_alike(const struct pk_backend *backend, struct pk_comm *comm,
                               struct pk_err *err);
/* Lines for 'purkinje doctor' on what can compute here beside the CPU. */
void pk_device_report(struct pk_text *out);

#endif
