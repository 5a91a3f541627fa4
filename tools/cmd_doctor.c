/* cmd_doctor.c -- purkinje doctor: what this machine and this build offer. */
#include "core/cpu/gemm.h"
#include "core/cpu/isa.h"
#include "tools/device.h"

#include <unistd.h>

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    struct pk_text gpu = {0};
    const struct pk_backend *backend;
    if (args->count) return pk_fail(err, PK_EUSAGE, "doctor takes no arguments");
    PK_TRY(pk_device_choose(pk_arg(args, "device"), &backend, err));
    printf("purkinje     %s\n", PK_VERSION);
    printf("compiler     %s\n", __VERSION__);
    printf("cpu cores    %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    printf("kernels      %s\n", pk_isa_name(pk_isa_best()));
    printf("gemm         %s\n", pk_gemm_library());
    printf("backend      %s\n", backend ? backend->name : "cpu");
    printf("memory       %.1f GiB\n",
           (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 1073741824.0);
    pk_device_report(&gpu);
    return pk_print(&gpu, err);
}

static const struct pk_option options[] = {PK_OPTION_DEVICE, {0}};

static const struct pk_example examples[] = {
    {"doctor", "cores, memory, kernel sets, GPUs, and what is missing"},
    {"doctor --device cpu", "the same; fails where the device asked for cannot be used"},
    {0}};

const struct pk_command pk_cmd_doctor = {.name = "doctor",
                                         .synopsis = "",
                                         .summary = "what this machine and this build offer",
                                         .options = options,
                                         .examples = examples,
                                         .run = run};
