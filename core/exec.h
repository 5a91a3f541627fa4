/* exec.h -- runs programs on the CPU: whole micro-batches on each worker's own arena.
 *
 * A batch is cut into micro-batches; each worker runs a micro-batch through the whole program, so
 * its activations stay in its caches and there is no barrier inside a step. Gradients of a batch
 * are summed in PK_SHARDS virtual shards (consecutive micro-batches, in order), which then meet in
 * a fixed tree: the result does not depend on the number of threads or on timing. */
#ifndef PK_EXEC_H
#define PK_EXEC_H

#include "core/cpu/kernels.h"
#include "core/plan.h"
#include "core/thread.h"

enum { PK_SHARDS = 8 };

struct pk_exec { // the arenas of one model, each made once
    const struct pk_params *params;
    const pk_kernel *kernel; // [PK_OP_COUNT]
    const struct pk_cpu_flat *flat;
    enum pk_isa isa;
    struct pk_pool *pool;
    int threads;
    int64_t elements;      // params->elements when the arenas were made; must not have grown
    float *weight;         // [params->elements]
    float *ema;            // the same, or NULL
    float *grad;           // [shards][params->elements]; the sum ends in shard 0; or NULL
    int64_t shards;        // gradient arenas there are
    unsigned char **arena; // [threads] activations
    int64_t arena_bytes;   // of each
};

struct pk_exec_spec {
    const struct pk_params *params;
    int threads;     // 0: one per core
    bool ema, train; // which arenas are wanted
};
enum pk_status pk_exec_create(struct pk_exec *out, const struct pk_exec_spec *spec,
                              struct pk_err *err);
void pk_exec_free(struct pk_exec *x);

struct pk_bound { // a program ready to run: plan and kernels
    const struct pk_prog *prog;
    struct pk_plan plan;
    double *seconds;  // [nodes] time of each node on worker 0, NULL unless profiling
    int64_t profiled; // micro-batches that these times are of
};
/* Plans and checks that every op has a kernel; grows the arenas of activations. prog is borrowed.
 * All programs of a model must be built before pk_exec_create, since they add parameters. */
enum pk_status pk_exec_bind(struct pk_exec *x, struct pk_bound *out, const struct pk_prog *prog,
                            struct pk_err *err);
void pk_bound_free(struct pk_bound *b);

struct pk_feed { // where an input of each micro-batch is
    const char *name;
    const void *data; // micro-batch i starts at data + i * stride bytes
    size_t stride;    // 0: all share it
};
struct pk_fetch { // an output to be copied out after each micro-batch
    const char *name;
    void *data; // micro-batch i goes to data + i * bytes of the value
};
struct pk_exec_batch {
    const struct pk_feed *feed; // all inputs of the program but "seed"
    int feeds;
    const struct pk_fetch *fetch;
    int fetches;
    int64_t micros;    // micro-batches
    double loss_scale; // d objective / d loss of one micro-batch, e.g. 1 / micros
    bool add;          // gradients are added to those of the run before (accumulation)
};
/* Runs all micro-batches. For a program with a loss the gradient sum ends in x->grad[0 ..]. */
enum pk_status pk_exec_run(struct pk_exec *x, struct pk_bound *b, const struct pk_exec_batch *run,
                           struct pk_err *err);

/* Splits [0, count) into one range per worker and runs fn on each, ranges 16-element aligned. */
void pk_exec_range(struct pk_exec *x, int64_t count,
                   void (*fn)(void *ctx, int64_t first, int64_t last), void *ctx);

#endif
