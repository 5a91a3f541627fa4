/* cmd_doctor.c -- purkinje doctor: what this machine and this build offer. */
#include "core/cpu/gemm.h"
#include "core/cpu/isa.h"
#include "tools/cli.h"

#include <unistd.h>

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    if (args->count) return pk_fail(err, PK_EUSAGE, "doctor takes no arguments");
    printf("purkinje     %s\n", PK_VERSION);
    printf("compiler     %s\n", __VERSION__);
    printf("cpu cores    %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    printf("kernels      %s\n", pk_isa_name(pk_isa_best()));
    printf("gemm         %s\n", pk_gemm_library());
    printf("backend      cpu, fp32; this build has no GPU backend\n");
    printf("memory       %.1f GiB\n",
           (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 1073741824.0);
    return PK_OK;
}

static const struct pk_example examples[] = {
    {"doctor", "prints cores, memory and the kernel set in use"},
    {"doctor --quiet", "the same; there is no progress to silence"},
    {0}};

const struct pk_command pk_cmd_doctor = {.name = "doctor",
                                         .synopsis = "",
                                         .summary = "what this machine and this build offer",
                                         .examples = examples,
                                         .run = run};
