/* device.c -- the choice of a backend (see device.h). */
#include "tools/device.h"

#include <stdlib.h>
#include <string.h>

#ifdef PK_WITH_CUDA
#include "cuda/backend.h"
#else
static enum pk_status pk_cuda_usable(struct pk_err *err)
{
    return pk_fail(err, PK_EMISSING,
                   "this build has no CUDA backend: configure it with -DPK_WITH_CUDA=ON where nvcc "
                   "is installed, or give --device cpu");
}
static const struct pk_backend *pk_cuda_backend(void)
{
    return NULL;
}
static void pk_cuda_report(struct pk_text *out, bool measure)
{
    (void)measure;
    pk_text_add(out, "%-12s not in this build (-DPK_WITH_CUDA=ON where nvcc is installed)\n",
                "cuda");
}
#endif

void pk_device_report(struct pk_text *out)
{
    pk_cuda_report(out, true);
}

enum pk_status pk_device_choose(const char *choice, const struct pk_backend **out,
                                struct pk_err *err)
{
    *out = NULL;
    if (!choice) choice = getenv("PURKINJE_DEVICE");
    if (!choice || !*choice) choice = "auto";
    if (!strcmp(choice, "cpu")) return PK_OK;
    bool must = !strcmp(choice, "cuda");
    if (!must && strcmp(choice, "auto"))
        return pk_fail(err, PK_EUSAGE, "--device %s: give auto, cpu or cuda", choice);
    enum pk_status s = pk_cuda_usable(must ? err : NULL);
    if (s == PK_OK) *out = pk_cuda_backend();
    return must ? s : PK_OK;
}

enum pk_status pk_device_plan(const char *choice, const struct pk_backend **out, struct pk_err *err)
{
    *out = NULL;
    if (!choice || !strcmp(choice, "cpu")) return PK_OK;
    if (strcmp(choice, "cuda"))
        return pk_fail(err, PK_EUSAGE, "--device %s: give cpu or cuda", choice);
    *out = pk_cuda_backend();
    return *out ? PK_OK : pk_cuda_usable(err);
}

enum pk_status pk_device_alike(const struct pk_backend *backend, struct pk_comm *comm,
                               struct pk_err *err)
{
    PK_TRY(pk_comm_same(comm, backend != NULL,
                        "device (--device cuda or cpu chooses one that all have)", err));
    PK_TRY(pk_comm_locate(comm, err));
    return pk_comm_same(comm, (uint64_t)pk_isa_best(),
                        "instruction set of the CPU (PURKINJE_ISA=avx2 or portable chooses one "
                        "that all have)",
                        err);
}
