/* bench.c -- the time of one kernel by itself, for 'purkinje bench ops --device cuda'.
 *
 * A node's values get memory of their own, filled with random data: zeros would be faster than any
 * training, since power, and so the clock, depends on the bits that toggle. Before each call the L2
 * cache is overwritten. While that runs, the host enqueues the call between two events, so that
 * launch overhead is hidden as it is in a replayed graph. What remains in the numbers is the time
 * between two neighbouring events, about a microsecond. */
#include "cuda/conv.h"
#include "cuda/matmul.h"
#include "cuda/state.h"

#include "core/rng.h"

#include <stdlib.h>
#include <string.h>

enum {
    PATTERN = 1 << 20, // random elements; larger values repeat them
    GROUP = 20,        // calls between two waits
    SAMPLES_MAX = 1000,
    SAMPLES_MIN = 10
};

struct bench {
    struct pk_queue q;
    struct pk_call call;
    struct pk_cuda_block value[PK_NODE_IN + PK_NODE_OUT], workspace, flush, fault;
    int values;
    cudaEvent_t from[GROUP], to[GROUP];
    double time[SAMPLES_MAX];
};

/* --- data ------------------------------------------------------------------------------------ */

static uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Element i of a value. Whole numbers are such that every op accepts them: token indices ascend
 * from 0 within each record, starts of crops are 0, samples are numbered, labels are 0 or 1. */
static void put(void *at, const struct pk_value *v, int64_t i, struct pk_rng *rng)
{
    const int64_t last = v->rank > 0 ? v->dim[v->rank - 1] : 1;
    switch (v->dtype) {
    case PK_F32:
        ((float *)at)[i] = (float)pk_rng_normal(rng);
        break;
    case PK_BF16:
        ((uint16_t *)at)[i] = to_bf16((float)pk_rng_normal(rng));
        break;
    case PK_I16:
        ((int16_t *)at)[i] = (int16_t)((int32_t)(pk_rng_u32(rng) >> 16) / 16 - 2048);
        break;
    case PK_I32:
        ((int32_t *)at)[i] = v->rank > 1 ? (int32_t)(i % last) : 0;
        break;
    case PK_I64:
        ((int64_t *)at)[i] = i;
        break;
    case PK_U8:
        ((uint8_t *)at)[i] = i % last == 0;
        break;
    }
}

/* Memory for a value: whole numbers in full, others as a random pattern that repeats. */
static enum pk_status fill(struct pk_cuda_block *b, const struct pk_value *v, struct pk_rng *rng,
                           struct pk_err *err)
{
    const bool whole = v->dtype == PK_I32 || v->dtype == PK_I64 || v->dtype == PK_U8;
    const size_t bytes = pk_value_bytes(v);
    const int64_t count = pk_value_count(v), head = whole ? count : PK_MIN(count, (int64_t)PATTERN);
    size_t done = (size_t)head * pk_dtype_size(v->dtype);
    void *host;
    PK_TRY(pk_alloc(&host, (size_t)PK_MAX(head, (int64_t)1), pk_dtype_size(v->dtype),
                    "bench values", err));
    for (int64_t i = 0; i < head; i++) put(host, v, i, rng);
    enum pk_status s =
        pk_cuda_check(cudaMalloc(&b->memory, PK_MAX(bytes, (size_t)1)), v->name, err);
    if (s == PK_OK)
        s = pk_cuda_check(cudaMemcpy(b->memory, host, done, cudaMemcpyHostToDevice), v->name, err);
    free(host);
    for (; s == PK_OK && done < bytes; done += PK_MIN(done, bytes - done))
        s = pk_cuda_check(cudaMemcpy((char *)b->memory + done, b->memory,
                                     PK_MIN(done, bytes - done), cudaMemcpyDeviceToDevice),
                          v->name, err);
    b->bytes = (int64_t)bytes;
    return s;
}

static enum pk_status take(struct pk_cuda_block *b, size_t bytes, const char *what,
                           struct pk_err *err)
{
    PK_TRY(pk_cuda_check(cudaMalloc(&b->memory, PK_MAX(bytes, (size_t)1)), what, err));
    b->bytes = (int64_t)bytes;
    return pk_cuda_check(cudaMemset(b->memory, 0, bytes), what, err);
}

/* --- one node -------------------------------------------------------------------------------- */

static enum pk_status open_call(struct bench *b, const struct pk_op_timing *t, struct pk_err *err)
{
    const struct pk_prog *p = t->prog;
    const struct pk_node *n = &p->node[t->node];
    struct pk_rng rng = pk_rng_make(1, PK_RNG_TEST, (uint64_t)t->node, 0);
    const pk_workspace bytes = pk_cuda_workspaces[n->op];
    b->call = (struct pk_call){.node = n, .queue = &b->q};
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] < 0) continue;
        b->call.in[i] = &p->value[n->in[i]];
        PK_TRY(fill(&b->value[b->values], b->call.in[i], &rng, err));
        b->call.src[i] = b->value[b->values++].memory;
    }
    for (int i = 0; i < n->n_out; i++) {
        if (n->out[i] < 0) continue;
        b->call.out[i] = &p->value[n->out[i]];
        PK_TRY(fill(&b->value[b->values], b->call.out[i], &rng, err));
        b->call.dst[i] = b->value[b->values++].memory;
    }
    PK_TRY(take(&b->workspace, bytes ? bytes(p, n) : 0, "workspace", err));
    b->call.workspace = b->workspace.memory;
    return PK_OK;
}

static enum pk_status open_bench(struct bench *b, const struct pk_op_timing *t, struct pk_err *err)
{
    int cache = 0;
    PK_TRY(pk_cuda_open_queue(&b->q, err));
    PK_TRY(pk_matmul_open(&b->q.matmul, &b->q, err));
    PK_TRY(take(&b->fault, sizeof *b->q.fault, "records", err));
    b->q.fault = b->fault.memory;
    PK_TRY(pk_cuda_check(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, 0), "cache", err));
    PK_TRY(take(&b->flush, 2 * (size_t)cache, "memory to empty the cache", err));
    for (int i = 0; i < GROUP; i++) {
        PK_TRY(pk_cuda_check(cudaEventCreate(&b->from[i]), "event", err));
        PK_TRY(pk_cuda_check(cudaEventCreate(&b->to[i]), "event", err));
    }
    PK_TRY(open_call(b, t, err));
    PK_TRY(pk_matmul_prepare(&b->q, &b->call, err));
    return pk_conv_prepare(&b->q, &b->call, err);
}

static void close_bench(struct bench *b)
{
    cudaDeviceSynchronize();
    for (int i = 0; i < b->values + 1 && i < (int)PK_COUNT(b->value); i++)
        cudaFree(b->value[i].memory); // the last one may have failed half way
    cudaFree(b->workspace.memory);
    cudaFree(b->flush.memory);
    cudaFree(b->fault.memory);
    for (int i = 0; i < GROUP; i++) {
        if (b->from[i]) cudaEventDestroy(b->from[i]);
        if (b->to[i]) cudaEventDestroy(b->to[i]);
    }
    pk_matmul_close(b->q.matmul);
    if (b->q.stream) cudaStreamDestroy(b->q.stream);
    free(b);
}

/* `calls` calls, each on empty caches; their seconds go to time. */
static enum pk_status time_group(struct bench *b, int calls, double *time, struct pk_err *err)
{
    for (int i = 0; i < calls; i++) {
        PK_TRY(
            pk_cuda_check(cudaMemsetAsync(b->flush.memory, i, (size_t)b->flush.bytes, b->q.stream),
                          "cache", err));
        PK_TRY(pk_cuda_check(cudaEventRecord(b->from[i], b->q.stream), "event", err));
        PK_TRY(pk_cuda_kernels[b->call.node->op](&b->call, err));
        PK_TRY(pk_cuda_check(cudaEventRecord(b->to[i], b->q.stream), "event", err));
    }
    PK_TRY(pk_cuda_check(cudaStreamSynchronize(b->q.stream), "kernel", err));
    for (int i = 0; i < calls; i++) {
        float ms = 0;
        PK_TRY(pk_cuda_check(cudaEventElapsedTime(&ms, b->from[i], b->to[i]), "event", err));
        time[i] = 1e-3 * (double)ms;
    }
    return PK_OK;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static enum pk_status measure(struct bench *b, struct pk_op_timing *t, struct pk_err *err)
{
    struct pk_cuda_fault fault;
    double warm[1], spent = 0;
    int n = 0;
    PK_TRY(time_group(b, 1, warm, err)); // loads the kernel
    while (n < SAMPLES_MAX && (n < SAMPLES_MIN || spent < t->seconds)) {
        const double begun = pk_seconds();
        const int calls = PK_MIN(n ? GROUP : SAMPLES_MIN, SAMPLES_MAX - n);
        PK_TRY(time_group(b, calls, b->time + n, err));
        n += calls;
        spent += pk_seconds() - begun;
    }
    PK_TRY(pk_cuda_check(cudaMemcpy(&fault, b->q.fault, sizeof fault, cudaMemcpyDeviceToHost),
                         "records", err));
    if (fault.code)
        return pk_fail(err, PK_EINTERNAL, "the data made for a bench are refused: fault %d, %lld",
                       (int)fault.code, (long long)fault.value);
    qsort(b->time, (size_t)n, sizeof *b->time, ascending);
    t->median = n % 2 ? b->time[n / 2] : (b->time[n / 2 - 1] + b->time[n / 2]) / 2;
    t->least = b->time[0];
    t->calls = n;
    return PK_OK;
}

enum pk_status pk_cuda_time_op(struct pk_op_timing *t, struct pk_err *err)
{
    struct bench *b;
    const enum pk_op op = t->prog->node[t->node].op;
    if (!pk_cuda_kernels[op])
        return pk_fail(err, PK_EMISSING, "there is no CUDA kernel for %s", pk_op_table[op]->name);
    PK_TRY(pk_alloc(&b, 1, sizeof *b, "bench", err));
    enum pk_status s = open_bench(b, t, err);
    if (s == PK_OK) s = measure(b, t, err);
    close_bench(b);
    return s;
}
