/* comm_nompi.c -- what a build without MPI says (see comm.h). */
#include "core/comm.h"

enum pk_status pk_comm_mpi(struct pk_comm **out, double timeout_s, struct pk_err *err)
{
    (void)timeout_s;
    *out = NULL;
    return pk_fail(
        err, PK_EMISSING,
        "this build has no MPI (PK_WITH_MPI); install libopenmpi-dev or libmpich-dev and "
        "build again, or let the ranks meet over TCP");
}
