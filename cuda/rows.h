/* rows.h -- device memory that programs are fed from and fetched to (struct pk_exec_rows of
 * core/exec.h), and two kernels that need no more than their arguments. Everything is enqueued on
 * the queue's stream; only pk_cuda_rows_free and pk_cuda_rows_read wait. */
#ifndef PK_CUDA_ROWS_H
#define PK_CUDA_ROWS_H

#include "cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "core/exec.h"

struct pk_cuda;

/* Of struct pk_backend. */
enum pk_status pk_cuda_rows(struct pk_exec *x, struct pk_exec_rows *r, const char *what,
                            struct pk_err *err);
void pk_cuda_rows_free(struct pk_exec *x, struct pk_exec_rows *r);
enum pk_status pk_cuda_rows_gather(struct pk_exec *x, const struct pk_exec_rows *r,
                                   struct pk_err *err);
enum pk_status pk_cuda_rows_scale(struct pk_exec *x, const struct pk_exec_rows *r, int64_t first,
                                  int64_t count, float factor, struct pk_err *err);
enum pk_status pk_cuda_rows_read(struct pk_exec *x, const struct pk_exec_rows *r, float *out,
                                 struct pk_err *err);
/* Whether this is not the host's memory, but of rows. */
bool pk_cuda_in_rows(struct pk_cuda *c, const void *data);
/* An output of a program, which is at `from`, to `to` in rows, as float. */
enum pk_status pk_cuda_to_rows(struct pk_cuda *c, float *to, const struct pk_value *v,
                               const void *from, struct pk_err *err);

/* rows.cu. data[i] *= factor, rounded to nearest: the CPU's bits. Traffic: 8 bytes an element. */
enum pk_status pk_cuda_scale(const struct pk_queue *q, float *data, int64_t count, float factor,
                             struct pk_err *err);
/* to[0] = a, to[1] = b. A copy from the host's memory might wait for what is before it. */
enum pk_status pk_cuda_put_pair(const struct pk_queue *q, float *to, float a, float b,
                                struct pk_err *err);

#ifdef __cplusplus
}
#endif

#endif
