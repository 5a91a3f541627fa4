/* rows.c -- memory on the device that programs are fed from and fetched to (struct pk_exec_rows):
 * what one program hands to the next never leaves the device, and the host waits for none of it.
 *
 * All of it takes place on the compute stream, between the programs. The gather of several ranks is
 * a collective there, while gradients are summed on a stream of their own by the same communicator.
 * Every rank makes its calls in the same order, and that is the order in which collectives are
 * carried out: a step's gathers before its sums, and behind those of the step before, which the
 * compute stream waits for ahead of the update. */
#include "cuda/rows.h"
#include "cuda/state.h"

static struct pk_cuda_block *block_of(struct pk_cuda *c, const void *data)
{
    for (int i = 0; i < PK_CUDA_ROWS; i++) {
        const char *first = c->rows[i].memory;
        if (first && (const char *)data >= first && (const char *)data < first + c->rows[i].bytes)
            return &c->rows[i];
    }
    return NULL;
}

bool pk_cuda_in_rows(struct pk_cuda *c, const void *data)
{
    return block_of(c, data) != NULL;
}

enum pk_status pk_cuda_to_rows(struct pk_cuda *c, float *to, const struct pk_value *v,
                               const void *from, struct pk_err *err)
{
    const int64_t count = pk_value_count(v);
    if (v->dtype == PK_BF16) return pk_cuda_widen(&c->q, to, from, count, err);
    return pk_cuda_check(
        cudaMemcpyAsync(to, from, pk_value_bytes(v), cudaMemcpyDeviceToDevice, c->q.stream),
        v->name, err);
}

enum pk_status pk_cuda_rows(struct pk_exec *x, struct pk_exec_rows *r, const char *what,
                            struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    int i = 0;
    while (i < PK_CUDA_ROWS && c->rows[i].memory) i++;
    if (i == PK_CUDA_ROWS)
        return pk_fail(err, PK_EINTERNAL, "%s: more than %d blocks of rows on a device", what,
                       PK_CUDA_ROWS);
    PK_TRY(pk_cuda_alloc(x, &c->rows[i], r->count * (int64_t)sizeof *r->data, what, err));
    r->data = c->rows[i].memory;
    return PK_OK;
}

void pk_cuda_rows_free(struct pk_exec *x, struct pk_exec_rows *r)
{
    struct pk_cuda *c = x->device;
    struct pk_cuda_block *b = c ? block_of(c, r->data) : NULL;
    if (!b) return; // the executor was closed before
    pk_cuda_quiet(c);
    cudaDeviceSynchronize(); // nothing may still use what is freed now
    pk_cuda_release(b);
}

enum pk_status pk_cuda_rows_gather(struct pk_exec *x, const struct pk_exec_rows *r,
                                   struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    const struct pk_nccl_range all = {.data = r->data,
                                      .count = r->count / x->comm->size,
                                      .type = PK_NCCL_F32,
                                      .kind = PK_NCCL_GATHER};
    if (!c->ranks.nccl) return pk_fail(err, PK_EINTERNAL, "the ranks' devices are not connected");
    return pk_nccl_collect(c->ranks.nccl, &all, 1, c->q.stream, "gathering projections", err);
}

enum pk_status pk_cuda_rows_scale(struct pk_exec *x, const struct pk_exec_rows *r, int64_t first,
                                  int64_t count, float factor, struct pk_err *err)
{
    const struct pk_cuda *c = x->device;
    return pk_cuda_scale(&c->q, r->data + first, count, factor, err);
}

enum pk_status pk_cuda_rows_read(struct pk_exec *x, const struct pk_exec_rows *r, float *out,
                                 struct pk_err *err)
{
    PK_TRY(pk_cuda_finish(x, err));
    return pk_cuda_check(
        cudaMemcpy(out, r->data, (size_t)r->count * sizeof *out, cudaMemcpyDeviceToHost), "rows",
        err);
}
