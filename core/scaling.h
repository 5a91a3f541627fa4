/* scaling.h -- a model of data-parallel steps: when gradients are ready, what sending them costs,
 * how much of that computing hides.
 *
 * Every rank runs the same program, node after node. A gradient is ready when the last node that
 * touches it in the last run of a step is done. Gradients are packed into buckets in that order,
 * and a second stream reduces one bucket after the other, each as soon as it is ready and the one
 * before is done. Meanwhile computing is slower by a factor, since communication takes SMs and
 * bandwidth. The optimizer follows when both are done. Where a loss couples the batch, rows are
 * gathered and compared ahead of all that, which nothing hides. Ranks are alike: no stragglers, no
 * input, no jitter.
 *
 * Costs: a ring inside a node, t = latency + bytes * 2 (g-1)/g / bandwidth for g GPUs. Over several
 * nodes: reduce-scatter inside, all-reduce of each GPU's g-th part with its peers of the m nodes,
 * all-gather inside; between nodes t = latency * ceil(log2 m) + part * 2 (m-1)/m / bandwidth.
 * (Patarasuk and Yuan 2009 for the ring's bytes.) Nothing here is measured. */
#ifndef PK_SCALING_H
#define PK_SCALING_H

#include "core/prog.h"

struct pk_scaling_net {
    int64_t gpus_per_node;
    double latency, bandwidth; // inside a node: s per all-reduce, bytes/s of one GPU
    double net_latency,
        net_bandwidth; // between nodes: s per doubling of the nodes, bytes/s of a GPU
};

struct pk_scaling_gradient {
    double ready; // s after the start of a run; the last run's counts
    int64_t elements;
    int32_t param; // of the program's parameter table
    int64_t node;  // the last one that writes or reads it
};

struct pk_scaling_bucket {
    double ready; // of its last gradient
    int64_t elements;
    int64_t gradients; // consecutive ones of the sorted list
};

enum { PK_SCALING_BUCKETS = 64 };

struct pk_scaling_step {                    // of one rank
    double run_seconds;                     // all nodes once, with nothing else on the GPU
    int64_t runs;                           // micro-batches
    const struct pk_scaling_bucket *bucket; // [buckets], ready in order
    int32_t buckets;
    int32_t element_bytes;    // of a gradient on the wire: 4 or 2
    int32_t weight_bytes;     // of a weight on the wire (zero1)
    double slowdown;          // of computing while a bucket is on its way, at least 1
    double optimizer_seconds; // of all parameters on one rank
    bool zero1;               // gradients are scattered, each rank updates 1/n and gathers weights
    double before_seconds;    // of programs that bring no gradients, ahead of the runs
    double gather_bytes;      // of all ranks' rows, which each must have before the runs
    int32_t gathers;          // in so many messages
};

struct pk_scaling_result {
    double step;            // s
    double alone;           // s of the step of one rank with this work: runs and optimizer
    double comm;            // s that the second stream and the gathering of weights are busy
    double exposed;         // step without what one rank would need for computing and its optimizer
    double inside, between; // bytes that one GPU sends inside its node and out of it
};

/* Seconds of one all-reduce among n ranks; 0 for n = 1. n is at most gpus_per_node or a multiple
 * of it. */
double pk_scaling_allreduce(const struct pk_scaling_net *net, int64_t n, double bytes);

/* When each gradient of the program is ready, in that order: after the last node that writes or
 * reads it. seconds: [p->nodes], or NULL, then ready counts nodes. The executors send gradients in
 * this order (cuda/buckets.c). *out belongs to the caller (free). Errors  PK_EINVAL the program
 * writes no gradient; PK_ENOMEM */
enum pk_status pk_scaling_gradients(struct pk_scaling_gradient **out, int64_t *count,
                                    const struct pk_prog *p, const double *seconds,
                                    struct pk_err *err);

/* Packs gradients, sorted by ready, into at most `want` buckets of about equal size; a gradient is
 * never split. Returns how many there are; want is 1..PK_SCALING_BUCKETS. */
int32_t pk_scaling_pack(struct pk_scaling_bucket *out, int32_t want,
                        const struct pk_scaling_gradient *g, int64_t count);

/* Errors  PK_EINVAL n does not fill nodes, or a number is outside of what it stands for */
enum pk_status pk_scaling_simulate(struct pk_scaling_result *out, const struct pk_scaling_step *s,
                                   const struct pk_scaling_net *net, int64_t n, struct pk_err *err);

#endif
