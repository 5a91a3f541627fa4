/* probe.c -- short measurements of GEMM and of streaming (see probe.h). */
#include "tools/probe.h"
#include "core/cpu/gemm.h"
#include "core/rng.h"

#include <math.h>
#include <stdlib.h>

struct lane { // of one thread
    float *a, *b, *c;
    struct pk_gemm gemm;
    int64_t stream; // elements of x += y; 0: a GEMM
    const struct pk_cpu_flat *flat;
    int64_t turns;
    enum pk_status status;
    struct pk_err err;
};

static void work(void *ctx, int worker)
{
    struct lane *l = (struct lane *)ctx + worker;
    for (int64_t i = 0; i < l->turns && l->status == PK_OK; i++) {
        if (l->stream) l->flat->add(l->a, l->b, l->stream);
        else l->status = pk_gemm_f32(&l->gemm, &l->err);
    }
}

static enum pk_status fill(float **out, size_t n, uint64_t key, struct pk_err *err)
{
    struct pk_rng r = pk_rng_make(1, PK_RNG_TEST, key, 0);
    PK_TRY(pk_alloc_aligned(out, n, sizeof **out, "probe", err));
    for (size_t i = 0; i < n; i++) (*out)[i] = (float)(pk_rng_u32(&r) >> 8) * 0x1p-24f - 0.5f;
    return PK_OK;
}

static void free_lanes(struct lane *lane, int threads)
{
    for (int i = 0; lane && i < threads; i++) {
        free(lane[i].a);
        free(lane[i].b);
        free(lane[i].c);
    }
    free(lane);
}

/* Least seconds of one turn; a turn too short for the clock is repeated within one timing. */
static enum pk_status least_time(struct pk_pool *pool, struct lane *lane, double seconds,
                                 double *least, struct pk_err *err)
{
    int threads = pk_pool_workers(pool);
    double begun = pk_seconds();
    int64_t turns = 1;
    *least = INFINITY;
    for (int n = 0; n < 3 || pk_seconds() - begun < seconds;) {
        for (int i = 0; i < threads; i++) lane[i].turns = turns;
        double t = pk_seconds();
        pk_pool_run(pool, work, lane);
        t = pk_seconds() - t;
        for (int i = 0; i < threads; i++)
            if (lane[i].status != PK_OK)
                return pk_fail(err, lane[i].status, "%s", lane[i].err.message);
        if (t < 2e-4 && turns < 1 << 20) {
            turns *= 2;
            continue;
        }
        *least = PK_MIN(*least, t / (double)turns);
        n++;
    }
    return PK_OK;
}

enum { LAYERS = 4 };

static void layers_of(const struct pk_vit *v, int64_t layer[LAYERS][2])
{
    int64_t c = v->width, hidden = c * v->mlp_ratio;
    const int64_t all[LAYERS][2] = {{3 * c, c}, {c, c}, {hidden, c}, {c, hidden}}; // out, in
    for (int i = 0; i < LAYERS; i++) layer[i][0] = all[i][0], layer[i][1] = all[i][1];
}

static enum pk_status probe_tower(struct pk_pool *pool, struct lane *lane,
                                  const struct pk_probe_tower *t, double seconds, double *flops,
                                  double *time, struct pk_err *err)
{
    int64_t layer[LAYERS][2];
    layers_of(t->vit, layer);
    for (int k = 0; k < LAYERS; k++) {
        int64_t n = layer[k][0], in = layer[k][1];
        double least, weight = t->passes * t->vit->depth;
        for (int i = 0; i < pk_pool_workers(pool); i++)
            lane[i].gemm = (struct pk_gemm){.m = t->rows, .n = n, .k = in, .trans_b = true,
                                            .a = lane[i].a, .lda = in, .b = lane[i].b, .ldb = in,
                                            .c = lane[i].c, .ldc = n};
        PK_TRY(least_time(pool, lane, seconds / LAYERS, &least, err));
        *flops += weight * 2 * (double)t->rows * (double)n * (double)in * pk_pool_workers(pool);
        *time += weight * least;
    }
    return PK_OK;
}

enum pk_status pk_probe_gemm(const struct pk_probe_tower *tower, int towers, int threads,
                             double seconds, double *flops_per_s, struct pk_err *err)
{
    struct pk_pool *pool = NULL;
    struct lane *lane = NULL;
    double flops = 0, time = 0;
    size_t wide = 0, square = 0;
    for (int i = 0; i < towers; i++) {
        size_t c = (size_t)tower[i].vit->width, r = (size_t)PK_MAX(tower[i].vit->mlp_ratio, 3);
        wide = PK_MAX(wide, (size_t)tower[i].rows * r * c);
        square = PK_MAX(square, r * c * c);
    }
    enum pk_status s = pk_pool_create(&pool, threads, pk_gemm_thread_init, err);
    if (s == PK_OK) s = pk_alloc(&lane, (size_t)threads, sizeof *lane, "probe", err);
    for (int i = 0; s == PK_OK && i < threads; i++) {
        s = fill(&lane[i].a, wide, (uint64_t)i, err);
        if (s == PK_OK) s = fill(&lane[i].b, square, 1000 + (uint64_t)i, err);
        if (s == PK_OK) s = fill(&lane[i].c, wide, 2000 + (uint64_t)i, err);
    }
    for (int i = 0; s == PK_OK && i < towers; i++)
        s = probe_tower(pool, lane, &tower[i], seconds / towers, &flops, &time, err);
    free_lanes(lane, threads);
    pk_pool_free(pool);
    *flops_per_s = flops / time;
    return s;
}

enum pk_status pk_probe_stream(int threads, size_t bytes, double seconds, double *bytes_per_s,
                               struct pk_err *err)
{
    struct pk_pool *pool = NULL;
    struct lane *lane = NULL;
    double least = INFINITY;
    size_t n = PK_MAX(bytes / 2 / sizeof(float), (size_t)16);
    enum pk_status s = pk_pool_create(&pool, threads, NULL, err);
    if (s == PK_OK) s = pk_alloc(&lane, (size_t)threads, sizeof *lane, "probe", err);
    for (int i = 0; s == PK_OK && i < threads; i++) {
        lane[i].flat = pk_cpu_flat(pk_isa_best());
        lane[i].stream = (int64_t)n;
        s = fill(&lane[i].a, n, (uint64_t)i, err);
        if (s == PK_OK) s = fill(&lane[i].b, n, 1000 + (uint64_t)i, err);
    }
    if (s == PK_OK) s = least_time(pool, lane, seconds, &least, err);
    free_lanes(lane, threads);
    pk_pool_free(pool);
    *bytes_per_s = 3.0 * sizeof(float) * (double)n * threads / least;
    return s;
}
