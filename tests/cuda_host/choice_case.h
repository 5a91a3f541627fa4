/* choice_case.h -- what the tests of choices (products, convolutions) share: one call of an op on
 * device memory with random numbers, and texts with one thing changed. */
#ifndef PK_TEST_CHOICE_CASE_H
#define PK_TEST_CHOICE_CASE_H

#include "cuda/matmul_table.h"

#include "core/view.h"

#include "tests/test.h"

#include <pk_host.h>

#define DIMS(...)                                                                                  \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[])                         \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static struct pk_queue queue;

struct job {
    struct pk_value in[3], out[2];
    struct pk_node node;
    struct pk_call call;
    int64_t count[2]; // elements of the outputs
};

static inline void *job_take(struct pk_value *v, enum pk_dtype dtype, int rank, const int64_t *dim,
                             uint32_t seed)
{
    void *p = NULL;
    struct pk_err err = {.status = PK_OK};
    *v = (struct pk_value){.dtype = dtype, .storage = PK_STORE_ACT, .rank = rank};
    for (int i = 0; i < rank; i++) v->dim[i] = dim[i];
    CHECK(cudaMalloc(&p, (size_t)pk_view_count(v) * pk_dtype_size(dtype)) == cudaSuccess);
    CHECK_OK(pk_cuda_fill_random(&queue, p, dtype, pk_view_count(v), seed, &err), &err);
    return p;
}

static inline void put_in(struct job *j, int i, enum pk_dtype dtype, int rank, const int64_t *dim)
{
    j->call.src[i] = job_take(&j->in[i], dtype, rank, dim, (uint32_t)i + 1);
    j->call.in[i] = &j->in[i];
}

static inline void put_out(struct job *j, int i, enum pk_dtype dtype, int rank, const int64_t *dim)
{
    j->call.dst[i] = job_take(&j->out[i], dtype, rank, dim, (uint32_t)i + 10);
    j->call.out[i] = &j->out[i];
    j->count[i] = pk_view_count(&j->out[i]);
}

static inline void begin(struct job *j, enum pk_op op, bool add)
{
    memset(j, 0, sizeof *j);
    j->node.op = op;
    j->node.accumulate = add ? 3 : 0;
    j->call.node = &j->node, j->call.queue = &queue;
}

/* Lends the call the workspace that `op` asks for on its first two inputs and its outputs. */
static inline void lend_workspace(struct job *j, enum pk_op op)
{
    struct pk_value value[4] = {j->in[0], j->in[1], j->out[0], j->out[1]};
    const struct pk_prog prog = {.value = value, .values = 4};
    struct pk_node node = j->node;
    node.in[1] = 1;
    for (int i = 0; i < 2; i++) node.out[i] = j->call.out[i] ? 2 + i : -1;
    CHECK(cudaMalloc(&j->call.workspace, pk_cuda_workspaces[op](&prog, &node) + 16) == cudaSuccess);
}

static inline void drop(struct job *j)
{
    for (int i = 0; i < 3; i++) {
        union {
            const void *from;
            void *to;
        } p = {.from = j->call.src[i]};
        CHECK(cudaFree(p.to) == cudaSuccess);
    }
    for (int i = 0; i < 2; i++) CHECK(cudaFree(j->call.dst[i]) == cudaSuccess);
    CHECK(cudaFree(j->call.workspace) == cudaSuccess);
}

static inline double value_at(const void *p, enum pk_dtype dtype, int64_t i)
{
    if (dtype == PK_F32) return (double)((const float *)p)[i];
    const uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

/* What the outputs hold before each run. */
static inline void refill(struct job *j)
{
    struct pk_err err = {.status = PK_OK};
    for (int k = 0; k < 2; k++)
        if (j->count[k])
            CHECK_OK(pk_cuda_fill_random(&queue, j->call.dst[k], j->out[k].dtype, j->count[k],
                                         (uint32_t)k + 10, &err),
                     &err);
}

/* Both outputs, one behind the other, when the stream is done; the caller frees. */
static inline double *results(struct job *j)
{
    double *all = calloc((size_t)(j->count[0] + j->count[1] + 1), sizeof *all);
    CHECK(cudaStreamSynchronize(queue.stream) == cudaSuccess);
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; all && i < j->count[k]; i++)
            all[(k ? j->count[0] : 0) + i] = value_at(j->call.dst[k], j->out[k].dtype, i);
    return all;
}

/* `good` with its first `from` replaced. */
static inline char *edited(const char *good, const char *from, const char *to)
{
    const char *at = strstr(good, from);
    const size_t room = strlen(good) + strlen(to) + 1;
    char *s = malloc(room);
    CHECK(at != NULL);
    if (s && at) snprintf(s, room, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    return s;
}

#endif
