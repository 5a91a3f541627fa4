/* backend.c -- the GPU as a place to run: is there one, its memory, and the arenas to and fro. */
#include "cuda/state.h"
#include "cuda/conv.h"
#include "cuda/matmul.h"
#include "cuda/rows.h"

#include <stdlib.h>
#include <string.h>

/* --- is there a GPU -------------------------------------------------------------------------- */

enum pk_status pk_cuda_check(cudaError_t e, const char *what, struct pk_err *err)
{
    if (e == cudaSuccess) return PK_OK;
    return pk_fail(err, PK_EDEVICE, "CUDA: %s: %s (%s)", what, cudaGetErrorString(e),
                   cudaGetErrorName(e));
}

enum pk_status pk_cuda_launched(const char *kernel, struct pk_err *err)
{
    return pk_cuda_check(cudaGetLastError(), kernel, err);
}

enum pk_status pk_cuda_allow_shared(const void *kernel, const char *name, size_t bytes,
                                    struct pk_err *err)
{
    enum { WITHOUT_ASKING = 48 << 10 };
    if (bytes <= WITHOUT_ASKING) return PK_OK;
    return pk_cuda_check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), name,
        err);
}

static enum pk_status check_driver(int runtime, struct pk_err *err)
{
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || !driver)
        return pk_fail(err, PK_EMISSING,
                       "no NVIDIA driver is loaded on this machine; install one for CUDA %d.%d or "
                       "newer, or give --device cpu",
                       runtime / 1000, runtime % 1000 / 10);
    if (driver / 1000 < runtime / 1000)
        return pk_fail(err, PK_EMISSING,
                       "the NVIDIA driver is made for CUDA %d.%d, this build needs one for CUDA "
                       "%d.%d: update the driver, or give --device cpu",
                       driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    return PK_OK;
}

enum pk_status pk_cuda_usable(struct pk_err *err)
{
    int runtime = 0, devices = 0, major = 0, minor = 0;
    cudaRuntimeGetVersion(&runtime);
    PK_TRY(check_driver(runtime, err));
    cudaError_t e = cudaGetDeviceCount(&devices);
    if (e == cudaErrorNoDevice || (e == cudaSuccess && !devices))
        return pk_fail(err, PK_EMISSING,
                       "no NVIDIA GPU is visible (CUDA_VISIBLE_DEVICES=%s); give --device cpu",
                       getenv("CUDA_VISIBLE_DEVICES") ? getenv("CUDA_VISIBLE_DEVICES") : "not set");
    if (e != cudaSuccess)
        return pk_fail(err, PK_EMISSING, "the GPU cannot be used: %s; give --device cpu",
                       cudaGetErrorString(e));
    PK_TRY(pk_cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0),
                         "compute capability", err));
    PK_TRY(pk_cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0),
                         "compute capability", err));
    if (major < 8)
        return pk_fail(err, PK_EMISSING,
                       "the GPU has compute capability %d.%d; the kernels need 8.0 (Ampere) or "
                       "later; give --device cpu",
                       major, minor);
    return PK_OK;
}

/* --- memory ---------------------------------------------------------------------------------- */

struct row { // of the table of allocations
    const char *what;
    int64_t bytes;
};
enum { ROWS = 15 };

static int64_t print_rows(const struct row row[ROWS], struct pk_text *out)
{
    const double mib = 1 << 20;
    int64_t sum = 0;
    for (int i = 0; i < ROWS; i++) {
        sum += row[i].bytes;
        if (row[i].bytes && out)
            pk_text_add(out, "  %-22s %12.1f MiB\n", row[i].what, (double)row[i].bytes / mib);
    }
    if (out) pk_text_add(out, "  %-22s %12.1f MiB\n", "all", (double)sum / mib);
    return sum;
}

int64_t pk_cuda_memory(const struct pk_exec *x, struct pk_text *out)
{
    const struct pk_cuda *c = x->device;
    int64_t rows = 0;
    for (int i = 0; i < PK_CUDA_ROWS; i++) rows += c->rows[i].bytes;
    const struct row row[ROWS] = {{"weights, fp32 masters", c->weight.bytes},
                                  {"weights, bf16", c->weight_low.bytes},
                                  {"EMA weights, fp32", c->ema.bytes},
                                  {"EMA weights, bf16", c->ema_low.bytes},
                                  {"moments", c->m.bytes + c->v.bytes},
                                  {"gradients", c->grad.bytes},
                                  {"gradients on the wire", c->ranks.low.bytes},
                                  {"inputs, twice", c->input.bytes + c->staging.bytes},
                                  {"activations", c->arena.bytes},
                                  {"projections", rows},
                                  {"constants", c->constants},
                                  {"GEMM workspace", pk_matmul_bytes(c->q.matmul)},
                                  {"convolution workspace", pk_conv_bytes(&c->q)},
                                  {"corpus", c->resident},
                                  {"records", c->small.bytes}};
    return print_rows(row, out);
}

static int64_t predict(const struct pk_exec_need *n, struct pk_text *table)
{
    const int64_t flat = n->elements * (int64_t)sizeof(float);
    const int64_t low = n->storage == PK_BF16 ? flat / 2 : 0;
    const struct row row[ROWS] = {{"weights, fp32 masters", flat},
                                  {"weights, bf16", low},
                                  {"EMA weights, fp32", n->ema ? flat : 0},
                                  {"EMA weights, bf16", n->ema ? low : 0},
                                  {"moments", n->train ? 2 * flat : 0},
                                  {"gradients", n->train ? flat : 0},
                                  {"gradients on the wire", 0},
                                  {"inputs, twice", 2 * n->inputs},
                                  {"activations", n->arena},
                                  {"projections", n->rows * (int64_t)sizeof(float)},
                                  {"constants", n->constants},
                                  {"GEMM workspace", PK_MATMUL_WORKSPACE},
                                  {"convolution workspace", n->convolves ? PK_CONV_WORKSPACE : 0},
                                  {"corpus", 0},
                                  {"records", sizeof(struct pk_cuda_small)}};
    return print_rows(row, table);
}

static enum pk_status no_memory(const struct pk_exec *x, int64_t bytes, const char *what,
                                struct pk_err *err)
{
    size_t available = 0, all = 0;
    struct pk_text table = {0};
    cudaGetLastError(); // this one is reported here
    cudaMemGetInfo(&available, &all);
    pk_cuda_memory(x, &table);
    enum pk_status s =
        pk_fail(err, PK_EDEVICE,
                "out of GPU memory: %s need %.1f MiB, %.1f of %.1f MiB are free. Held so far:\n%s"
                "help: a larger train.accumulate computes the same batch in smaller parts",
                what, (double)bytes / 1048576.0, (double)available / 1048576.0,
                (double)all / 1048576.0, table.s ? table.s : "");
    pk_text_free(&table);
    return s;
}

enum pk_status pk_cuda_alloc(struct pk_exec *x, struct pk_cuda_block *b, int64_t bytes,
                             const char *what, struct pk_err *err)
{
    pk_cuda_release(b);
    cudaError_t e = cudaMalloc(&b->memory, (size_t)PK_MAX(bytes, (int64_t)1));
    if (e == cudaErrorMemoryAllocation) return no_memory(x, bytes, what, err);
    PK_TRY(pk_cuda_check(e, what, err));
    b->bytes = bytes;
    return PK_OK;
}

void pk_cuda_release(struct pk_cuda_block *b)
{
    cudaFree(b->memory);
    *b = (struct pk_cuda_block){0};
}

/* --- opening and closing --------------------------------------------------------------------- */

enum pk_status pk_cuda_open_queue(struct pk_queue *q, struct pk_err *err)
{
    const int device = q->device;
    int major = 0, minor = 0, shared = 0;
    PK_TRY(pk_cuda_check(cudaSetDevice(device), "choice of a device", err));
    PK_TRY(pk_cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                         "compute capability", err));
    PK_TRY(pk_cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
                         "compute capability", err));
    PK_TRY(pk_cuda_check(cudaDeviceGetAttribute(&q->sms, cudaDevAttrMultiProcessorCount, device),
                         "multiprocessors", err));
    PK_TRY(pk_cuda_check(
        cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "shared memory", err));
    q->arch = 10 * major + minor;
    q->shared_max = shared;
    return pk_cuda_check(cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking), "stream",
                         err);
}

static enum pk_status open_queue(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    PK_TRY(pk_cuda_open_queue(&c->q, err));
    PK_TRY(
        pk_cuda_check(cudaStreamCreateWithFlags(&c->copy, cudaStreamNonBlocking), "stream", err));
    PK_TRY(
        pk_cuda_check(cudaEventCreateWithFlags(&c->copied, cudaEventDisableTiming), "event", err));
    PK_TRY(pk_cuda_check(cudaEventCreateWithFlags(&c->consumed, cudaEventDisableTiming), "event",
                         err));
    for (int i = 0; i < PK_CUDA_RING; i++)
        PK_TRY(pk_cuda_check(cudaEventCreateWithFlags(&c->done[i], cudaEventDisableTiming), "event",
                             err));
    return PK_OK;
}

static enum pk_status open_memory(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    const int64_t flat = x->elements * (int64_t)sizeof(float), half = flat / 2;
    const bool low = x->params->storage == PK_BF16;
    PK_TRY(pk_cuda_alloc(x, &c->weight, flat, "weights", err));
    if (low) PK_TRY(pk_cuda_alloc(x, &c->weight_low, half, "bf16 weights", err));
    if (x->ema) PK_TRY(pk_cuda_alloc(x, &c->ema, flat, "EMA weights", err));
    if (x->ema && low) PK_TRY(pk_cuda_alloc(x, &c->ema_low, half, "bf16 EMA weights", err));
    const int64_t moments = x->moments * (int64_t)sizeof(float);
    if (x->m) PK_TRY(pk_cuda_alloc(x, &c->m, moments, "first moments", err));
    if (x->v) PK_TRY(pk_cuda_alloc(x, &c->v, moments, "second moments", err));
    if (x->m) PK_TRY(pk_cuda_alloc(x, &c->grad, flat, "gradients", err));
    PK_TRY(pk_cuda_alloc(x, &c->small, sizeof *c->host, "records", err));
    PK_TRY(pk_cuda_check(cudaMemset(c->small.memory, 0, sizeof *c->host), "records", err));
    if (x->m) PK_TRY(pk_cuda_check(cudaMemset(c->grad.memory, 0, (size_t)flat), "gradients", err));
    c->q.fault = &((struct pk_cuda_small *)c->small.memory)->fault;
    PK_TRY(pk_cuda_check(cudaMallocHost((void **)&c->host, PK_CUDA_RING * sizeof *c->host),
                         "pinned records", err));
    memset(c->host, 0, PK_CUDA_RING * sizeof *c->host);
    return PK_OK;
}

static void close_device(struct pk_exec *x)
{
    struct pk_cuda *c = x->device;
    if (!c) return;
    pk_cuda_disconnect(c);
    cudaDeviceSynchronize(); // nothing may still use what is freed now
    pk_cuda_close_join(c);
    for (int i = 0; i < c->pins; i++) cudaHostUnregister(c->pinned[i]);
    pk_cuda_free_graphs(&c->update);
    pk_cuda_optim_free(c->optim);
    pk_matmul_close(c->q.matmul);
    struct pk_cuda_block *all[] = {&c->weight, &c->weight_low, &c->ema,  &c->ema_low,
                                   &c->m,      &c->v,          &c->grad, &c->arena,
                                   &c->input,  &c->staging,    &c->small};
    for (size_t i = 0; i < PK_COUNT(all); i++) pk_cuda_release(all[i]);
    for (int i = 0; i < PK_CUDA_ROWS; i++) pk_cuda_release(&c->rows[i]);
    cudaFreeHost(c->fetch.memory);
    cudaFreeHost(c->host);
    if (c->copied) cudaEventDestroy(c->copied);
    if (c->consumed) cudaEventDestroy(c->consumed);
    for (int i = 0; i < PK_CUDA_RING; i++)
        if (c->done[i]) cudaEventDestroy(c->done[i]);
    if (c->copy) cudaStreamDestroy(c->copy);
    if (c->q.stream) cudaStreamDestroy(c->q.stream);
    free(c);
    x->device = NULL;
}

static enum pk_status open_device(struct pk_exec *x, struct pk_err *err)
{
    struct pk_cuda *c;
    PK_TRY(pk_cuda_usable(err));
    PK_TRY(pk_alloc(&c, 1, sizeof *c, "CUDA backend", err));
    x->device = c;
    PK_TRY(pk_cuda_pick(x, &c->q.device, err));
    PK_TRY(open_queue(x, err));
    PK_TRY(pk_matmul_open(&c->q.matmul, &c->q, err));
    return open_memory(x, err); // pk_exec_create closes after a failure
}

/* --- the arenas to and fro ------------------------------------------------------------------- */

static enum pk_status move(const struct pk_exec *x, const struct pk_cuda_block *device, float *host,
                           bool up, const char *what, struct pk_err *err)
{
    const struct pk_cuda *c = x->device;
    const size_t bytes = (size_t)device->bytes;
    if (!host || !device->memory || !bytes) return PK_OK;
    return pk_cuda_check(
        up ? cudaMemcpyAsync(device->memory, host, bytes, cudaMemcpyHostToDevice, c->q.stream)
           : cudaMemcpyAsync(host, device->memory, bytes, cudaMemcpyDeviceToHost, c->q.stream),
        what, err);
}

static enum pk_status move_all(struct pk_exec *x, bool up, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    PK_TRY(pk_cuda_finish(x, err));
    PK_TRY(move(x, &c->weight, x->weight, up, "weights", err));
    PK_TRY(move(x, &c->ema, x->ema, up, "EMA weights", err));
    PK_TRY(move(x, &c->m, x->m, up, "first moments", err));
    PK_TRY(move(x, &c->v, x->v, up, "second moments", err));
    if (!up) PK_TRY(move(x, &c->grad, x->grad, up, "gradients", err));
    if (up && c->weight_low.memory)
        PK_TRY(pk_cuda_cast(&c->q, c->weight_low.memory, c->weight.memory, x->elements, err));
    if (up && c->ema_low.memory)
        PK_TRY(pk_cuda_cast(&c->q, c->ema_low.memory, c->ema.memory, x->elements, err));
    return pk_cuda_finish(x, err);
}

static enum pk_status push(struct pk_exec *x, struct pk_err *err)
{
    return move_all(x, true, err);
}

static enum pk_status pull(struct pk_exec *x, struct pk_err *err)
{
    return move_all(x, false, err);
}

/* The sum of all words, each mixed with its place: integers, so the order is of no account. */
static enum pk_status hash(struct pk_exec *x, uint64_t *out, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    const struct pk_cuda_block *all[] = {&c->weight, &c->ema, &c->m, &c->v};
    const size_t replicas = x->share ? 2 : PK_COUNT(all); // shares of moments have none
    uint64_t *sum = &((struct pk_cuda_small *)c->small.memory)->hash;
    PK_TRY(pk_cuda_check(cudaMemsetAsync(sum, 0, sizeof *sum, c->q.stream), "hash", err));
    for (size_t i = 0; i < replicas; i++)
        if (all[i]->memory)
            PK_TRY(pk_cuda_add_hash(&c->q, sum, all[i]->memory, x->elements, (uint64_t)i, err));
    PK_TRY(pk_cuda_finish(x, err));
    return pk_cuda_check(cudaMemcpy(out, sum, sizeof *out, cudaMemcpyDeviceToHost), "hash", err);
}

static enum pk_status pin(struct pk_exec *x, void *memory, size_t bytes, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    (void)err;
    if (c->pins == (int)PK_COUNT(c->pinned)) return PK_OK;
    if (cudaHostRegister(memory, bytes, cudaHostRegisterDefault) == cudaSuccess)
        c->pinned[c->pins++] = memory;
    else
        cudaGetLastError(); // copies from pageable memory work too, more slowly
    return PK_OK;
}

static void choices(const struct pk_exec *x, struct pk_text *out)
{
    pk_matmul_write(((const struct pk_cuda *)x->device)->q.matmul, out);
}

static enum pk_status choose(struct pk_exec *x, const char *text, size_t n, struct pk_err *err)
{
    return pk_matmul_read(((struct pk_cuda *)x->device)->q.matmul, text, n, err);
}

static bool resident(struct pk_exec *x, struct pk_resident *r, int64_t reserve)
{
    size_t available = 0, all = 0;
    const int64_t bytes = r->records * r->leads * r->samples * (int64_t)sizeof(int16_t);
    struct pk_cuda_block b = {0};
    struct pk_cuda *c = x->device;
    r->memory = NULL;
    if (cudaMemGetInfo(&available, &all) != cudaSuccess || bytes + reserve > (int64_t)available)
        return false;
    if (pk_cuda_alloc(x, &b, bytes, "records", NULL) != PK_OK) return false;
    r->memory = b.memory;
    c->resident += bytes;
    return true;
}

static enum pk_status resident_write(struct pk_exec *x, const struct pk_resident *r, int64_t first,
                                     int64_t count, const int16_t *signal, struct pk_err *err)
{
    const int64_t row = (int64_t)r->leads * r->samples;
    (void)x;
    return pk_cuda_check(cudaMemcpy((int16_t *)r->memory + first * row, signal,
                                    (size_t)(count * row) * sizeof *signal, cudaMemcpyHostToDevice),
                         "records", err);
}

static void resident_free(struct pk_exec *x, struct pk_resident *r)
{
    struct pk_cuda *c = x->device;
    pk_cuda_quiet(c);
    cudaDeviceSynchronize();
    cudaFree(r->memory);
    c->resident -= r->records * r->leads * r->samples * (int64_t)sizeof(int16_t);
    r->memory = NULL;
}

static enum pk_status optim(struct pk_exec *x, const struct pk_optim_spec *spec, struct pk_err *err)
{
    struct pk_cuda *c = x->device;
    PK_TRY(pk_cuda_finish(x, err));
    pk_cuda_free_graphs(&c->update);
    pk_cuda_optim_free(c->optim);
    c->optim = NULL;
    (void)spec; // its numbers travel with each step
    const int rank = x->share ? x->comm->rank : 0;
    return pk_cuda_optim_create(&c->optim, x->params, x->share ? x->share[rank] : 0,
                                x->share ? x->share[rank + 1] : x->elements, err);
}

static enum pk_status ceiling(struct pk_exec *x, double *flops_per_s, struct pk_err *err)
{
    (void)x;
    return pk_matmul_ceiling(flops_per_s, err);
}

static void describe(const struct pk_exec *x, struct pk_text *out)
{
    const struct pk_cuda *c = x->device;
    struct cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, c->q.device) != cudaSuccess) return;
    pk_text_add(out, "%s, %s, %.1f MiB of its memory", p.name, pk_dtype_name(x->params->storage),
                (double)pk_cuda_memory(x, NULL) / 1048576.0);
}

const struct pk_backend *pk_cuda_backend(void)
{
    static const struct pk_backend backend = {.name = "cuda",
                                              .workspace = pk_cuda_workspaces,
                                              .open = open_device,
                                              .close = close_device,
                                              .bind = pk_cuda_bind,
                                              .unbind = pk_cuda_unbind,
                                              .connect = pk_cuda_connect,
                                              .hash = hash,
                                              .optim = optim,
                                              .run = pk_cuda_run,
                                              .update = pk_cuda_update,
                                              .result = pk_cuda_result,
                                              .push = push,
                                              .pull = pull,
                                              .pin = pin,
                                              .ceiling = ceiling,
                                              .describe = describe,
                                              .rates = pk_cuda_rates,
                                              .time_op = pk_cuda_time_op,
                                              .choices = choices,
                                              .choose = choose,
                                              .resident = resident,
                                              .resident_write = resident_write,
                                              .resident_free = resident_free,
                                              .rows = pk_cuda_rows,
                                              .rows_free = pk_cuda_rows_free,
                                              .rows_gather = pk_cuda_rows_gather,
                                              .rows_scale = pk_cuda_rows_scale,
                                              .rows_read = pk_cuda_rows_read,
                                              .predict = predict};
    return &backend;
}
