/* augment.cu -- random changes of a normalised signal, and its patches (core/augment.h).
 *
 * Two launches: a thread per record draws its plan (ten Philox streams) into the workspace, 144
 * bytes a record; then a thread per value of the output gathers, changes and writes it, neighbours
 * next to each other on both sides. Bytes: a read and a write of S a value, 82 M values of a batch
 * of 2,048 x 8 x 5,000 in bf16 328 MB, 76 us at 4.3 TB/s. Arithmetic comes on top where it happens:
 * Box-Muller and Philox, some 120 instructions a value of a record with noise, and two sines in
 * double for one that is warped, about as much again. Whole blocks take the same branches, since
 * what happens is decided by record. */
#include "cuda/rng.h"

extern "C" {
#include "core/augment_inline.h"
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, DRAWERS = 64, EACH = 4 };

struct augmenting {
    const void *x;         // [batch, leads, samples]
    const int64_t *sample; // [batch]
    const struct pk_augment_range *range;
    struct pk_augment_plan *plan; // [batch]
    void *y;                      // [batch, samples / patch, leads, patch]
    int64_t batch, samples;
    uint64_t seed;
    uint32_t view;
    int32_t leads, patch;
    float rate;
};

__global__ void __launch_bounds__(DRAWERS) draw_plans(const augmenting a)
{
    const int64_t b = (int64_t)blockIdx.x * DRAWERS + threadIdx.x;
    if (b >= a.batch) return;
    pk_augment_draw(&a.plan[b], a.range, a.seed, (uint64_t)a.sample[b], a.view, a.leads, a.samples);
}

/* Block (piece, record): EACH * THREADS values of a record. */
template <typename S> __global__ void __launch_bounds__(THREADS) augment_values(const augmenting a)
{
    const int64_t count = a.leads * a.samples,
                  pieces = (count + EACH * THREADS - 1) / (EACH * THREADS);
    const int64_t b = blockIdx.x / pieces, first = blockIdx.x % pieces * EACH * THREADS;
    const struct pk_augment_plan *const p = &a.plan[b];
    const struct pk_rng stream = pk_rng_make_inline(a.seed, PK_RNG_AUGMENT, (uint64_t)a.sample[b],
                                                    a.view * 256 + PK_AUGMENT_SAMPLES);
    const S *const x = (const S *)a.x + b * count;
    S *const y = (S *)a.y + b * count;
    for (int k = 0; k < EACH; k++) {
        const int64_t i = first + k * THREADS + threadIdx.x;
        if (i >= count) return;
        const int64_t token = i / (a.leads * a.patch);
        const int32_t within = (int32_t)(i % (a.leads * a.patch)), l = within / a.patch;
        const int64_t s = token * a.patch + within % a.patch;
        const double t = pk_augment_time(p, s, a.samples);
        const int64_t at = (int64_t)t, next = at + 1 < a.samples ? at + 1 : at;
        const S *const row = x + (int64_t)(p->lead >> 4 * l & 15) * a.samples;
        const float here = to_float(row[at]);
        const float v = here + (to_float(row[next]) - here) * (float)(t - (double)at);
        y[i] = from_float<S>(pk_augment_value(p, &stream, v, l, s, a.samples, (double)a.rate));
    }
}

} // namespace

extern "C" {

enum pk_status pk_cuda_augment(const struct pk_call *c, struct pk_err *err);
size_t pk_cuda_augment_workspace(const struct pk_prog *p, const struct pk_node *n);

enum pk_status pk_cuda_augment(const struct pk_call *c, struct pk_err *err)
{
    augmenting a = {};
    a.x = c->src[0];
    a.sample = (const int64_t *)c->src[1];
    a.range = (const struct pk_augment_range *)c->src[2];
    a.plan = (struct pk_augment_plan *)c->workspace;
    a.y = c->dst[0];
    a.leads = c->node->attr.augment.leads;
    a.patch = c->node->attr.augment.patch;
    a.batch = c->in[0]->dim[0];
    a.samples = c->in[0]->dim[2] / a.leads;
    a.seed = c->node->attr.augment.seed;
    a.view = c->node->attr.augment.view;
    a.rate = c->node->attr.augment.rate;
    const int64_t each = EACH * THREADS;
    const int64_t blocks = a.batch * ((a.leads * a.samples + each - 1) / each);
    PK_TRY(PK_LAUNCH(draw_plans, (unsigned)((a.batch + DRAWERS - 1) / DRAWERS), DRAWERS, 0,
                     c->queue, err, a));
    if (c->in[0]->dtype == PK_BF16)
        return PK_LAUNCH(augment_values<bf16>, (unsigned)blocks, THREADS, 0, c->queue, err, a);
    return PK_LAUNCH(augment_values<float>, (unsigned)blocks, THREADS, 0, c->queue, err, a);
}

size_t pk_cuda_augment_workspace(const struct pk_prog *p, const struct pk_node *n)
{
    return (size_t)p->value[n->in[0]].dim[0] * sizeof(struct pk_augment_plan);
}

} // extern "C"
