/* probe.h -- what this machine can do at most, measured in a fraction of a second: the ceilings
 * that 'purkinje plan' predicts from and 'purkinje bench step' compares with. */
#ifndef PK_PROBE_H
#define PK_PROBE_H

#include "core/exec.h"
#include "models/vit.h"

struct pk_probe_tower {          // the linear layers of a transformer
    const struct pk_vit *vit;
    int64_t rows;                // tokens of a micro-batch
    double passes;               // how often it is run in a step: 1 forward, 3 with backward
};
/* FLOP/s of pk_gemm_f32 on these layers, each weighted with its share of the work: `threads`
 * threads at once, each with its own random data, the fastest of the calls made in `seconds`.
 * Errors  PK_ENOMEM; whatever the GEMM library reports */
enum pk_status pk_probe_gemm(const struct pk_probe_tower *tower, int towers, int threads,
                             double seconds, double *flops_per_s, struct pk_err *err);
/* Bytes/s of x += y over two arrays that are `bytes` long together, of all threads; each element
 * counts three times (two reads, one write). Whether that is a cache or memory depends on bytes. */
enum pk_status pk_probe_stream(int threads, size_t bytes, double seconds, double *bytes_per_s,
                               struct pk_err *err);

#endif
