/* launch_env.h -- which rank of how many this process is, from flags and environment.
 *
 * In this order: explicit flags; torchrun and `purkinje launch` (RANK WORLD_SIZE LOCAL_RANK
 * MASTER_ADDR MASTER_PORT); Kubeflow Trainer v2 (PET_*); Slurm; Open MPI (OMPI_COMM_WORLD_*); MPICH
 * and Intel MPI (PMI_*); a Kubernetes Indexed Job (JOB_COMPLETION_INDEX with WORLD_SIZE or
 * PURKINJE_WORLD_SIZE). Where there is nothing of all that, a single process.
 *
 * A process that is one of several must never take itself for rank 0 of 1: so an environment that
 * says half of it, or two different things, is an error that lists what was seen and what to set.
 * docs/decisions/014-launch.md has the rules for launchers inside launchers. */
#ifndef PK_LAUNCH_ENV_H
#define PK_LAUNCH_ENV_H

#include "core/base.h"

#define PK_LAUNCH_SOURCES(X)                                                                       \
    X(SINGLE, "single")                                                                            \
    X(FLAGS, "flags")                                                                              \
    X(TORCHRUN, "torchrun")                                                                        \
    X(KUBEFLOW, "kubeflow")                                                                        \
    X(SLURM, "slurm")                                                                              \
    X(OPENMPI, "openmpi")                                                                          \
    X(MPICH, "mpich")                                                                              \
    X(KUBERNETES, "kubernetes")

enum pk_launch_source {
#define PK_X(name, text) PK_LAUNCH_##name,
    PK_LAUNCH_SOURCES(PK_X)
#undef PK_X
};
const char *pk_launch_source_name(enum pk_launch_source s); // "slurm", static

enum { PK_WORLD_MAX = 65536, PK_LAUNCH_TEXT = 256 };

/* Values of the flags as they were typed, NULL where not given; borrowed. */
struct pk_launch_flags {
    const char *rank, *world_size; // --rank, --world-size: together or not at all
    const char *local_rank;        // --local-rank
    const char *master;            // --master HOST:PORT, [v6]:PORT or HOST
    const char *interface;         // --interface NAME
};

struct pk_launch {
    enum pk_launch_source source;
    int rank, size;
    int local_rank, local_size;     // on this host; -1 while unknown (pk_world_join finds out)
    char master[PK_LAUNCH_TEXT];    // host of rank 0, "" if unknown
    int port;                       // of rank 0, 0 if it is to be published or derived from job
    char file[PK_PATH_MAX];         // PURKINJE_RENDEZVOUS: where rank 0 publishes itself, or ""
    char job[PK_LAUNCH_TEXT];       // what all ranks of this job know and other jobs do not, or ""
    char token[PK_LAUNCH_TEXT];     // PURKINJE_TOKEN, or ""
    char interface[PK_LAUNCH_TEXT]; // --interface, PURKINJE_INTERFACE, or ""
    int listen_fd;                  // rank 0 under `purkinje launch`: already listening; else -1
    double timeout_s;               // to wait for all ranks, PURKINJE_TIMEOUT, 300
};

/* Decides from the flags (or NULL) and an environment, "NAME=VALUE" strings ending with NULL such
 * as environ. Reads nothing else.
 * Errors  PK_EUSAGE  partial, contradictory or malformed; the message lists what was seen */
enum pk_status pk_launch_detect(struct pk_launch *out, const char *const *environment,
                                const struct pk_launch_flags *flags, struct pk_err *err);

#endif
