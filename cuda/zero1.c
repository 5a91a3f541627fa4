/* zero1.c -- the optimizer step of ranks on GPUs that share out moments and update (ZeRO stage 1,
 * Rajbhandari et al. 2020; docs/decisions/013-data-parallel.md).
 *
 * A bucket's gradients go to the rank that updates them (ranks.c), and only there are they sums.
 * Then, on the compute stream:
 *
 *     sums of squares of the own chunks | all ranks' meet | norm, decision, own update | weights
 * and EMA copy from their owners | bf16 copies
 *
 * The sums of squares are kept by chunk and are 0 elsewhere, so adding up the ranks' is exact, and
 * the norm has the bits that it has without shares. All ranks take the same decision from it. */
#include "cuda/state.h"

#include <stdlib.h>

enum pk_status pk_cuda_join_norms(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    struct pk_nccl_range sums = {.type = PK_NCCL_F64, .kind = PK_NCCL_SUM};
    double *square;
    pk_cuda_optim_sums(c->optim, &square, &sums.count);
    sums.data = square;
    if (!sums.count) return PK_OK;
    return pk_nccl_collect(c->ranks.nccl, &sums, 1, c->q.stream, "the gradient norm", err);
}

enum pk_status pk_cuda_share_weights(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    struct pk_nccl_range *range;
    int n = 0;
    PK_TRY(pk_alloc(&range, (size_t)x->comm->size, sizeof *range, "shares", err));
    for (int k = 0; k < x->comm->size; k++)
        if (x->share[k] < x->share[k + 1])
            range[n++] = (struct pk_nccl_range){.data = (float *)c->weight.memory + x->share[k],
                                                .count = x->share[k + 1] - x->share[k],
                                                .type = PK_NCCL_F32,
                                                .kind = PK_NCCL_SHARE,
                                                .root = k};
    const enum pk_status s =
        pk_nccl_collect(c->ranks.nccl, range, n, c->q.stream, "handing weights round", err);
    free(range);
    return s;
}

struct bad { // as struct pk_cuda_report has it
    int64_t at;
    double value;
};

enum pk_status pk_cuda_find_bad(struct pk_exec *x, struct pk_cuda_report *r, struct pk_err *err)
{
    struct bad *all;
    PK_TRY(pk_alloc(&all, (size_t)x->comm->size, sizeof *all, "gradients of the ranks", err));
    all[x->comm->rank] = (struct bad){r->bad, (double)r->bad_value};
    const enum pk_status s = pk_comm_all_gather(x->comm, all, sizeof *all, err);
    for (int k = 0; s == PK_OK && k < x->comm->size; k++)
        if (all[k].at >= 0) { // one rank's at most: the first bad chunk is its own
            r->bad = all[k].at;
            r->bad_value = (float)all[k].value;
        }
    free(all);
    return s;
}
