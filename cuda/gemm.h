/* gemm.h -- the own matrix product: tensor cores for bf16, plain float arithmetic for float, with
 * the epilogues that linear layers need fused.
 *
 *     NT   y[m, n] = a[m, k] b[n, k]^T     forward        a = x, b = w
 *     NN   y[m, n] = a[m, k] b[k, n]       LINEAR_DX      a = dy, b = w
 *     TN   y[m, n] = a[k, m]^T b[k, n]     LINEAR_DW      a = dy, b = x, y float
 *
 * All matrices are row-major without padding. A main loop for wgmma (sm_90a) would be one more row
 * of the table of tiles: callers name a tile by its number and nothing else. */
#ifndef PK_CUDA_GEMM_H
#define PK_CUDA_GEMM_H

#include "cuda/queue.h"

#ifdef __cplusplus
extern "C" {
#endif

enum pk_product { PK_PRODUCT_NT, PK_PRODUCT_NN, PK_PRODUCT_TN };
enum pk_epilogue {
    PK_EPILOGUE_PLAIN,    // y = product (+ bias) (+ y)
    PK_EPILOGUE_GELU,     // NT: pre = product + bias; y = gelu(pre), from pre before it is rounded
    PK_EPILOGUE_GELU_GRAD // NN: y = product * gelu'(at)
};

/* Tiles of the bf16 product, rows x columns x depth of a step; float has one tile, number 0. */
enum pk_gemm_tile {
    PK_TILE_64X64X32,
    PK_TILE_128X64X32,
    PK_TILE_128X128X32,
    PK_TILE_128X128X64,
    PK_TILE_256X128X32,
    PK_TILE_COUNT
};

struct pk_cuda_gemm {
    enum pk_product product;
    enum pk_epilogue epilogue;
    enum pk_dtype dtype; // of a, b, pre, at and y; y is float for TN
    int tile;            // enum pk_gemm_tile, or -1: pk_cuda_gemm_tile decides
    int64_t m, n, k;     // all at least 1
    const void *a, *b;
    const float *bias; // [n] or NULL; NT only
    void *pre;         // [m, n] or NULL; GELU only
    const void *at;    // [m, n]; GELU_GRAD only
    void *y;           // [m, n]
    bool accumulate;   // y is added to; PLAIN of NN and TN only
    /* TN: k is cut into `parts` = pk_cuda_gemm_parts(m, n, k) ranges, whose products are summed in
     * order. */
    float *sums; // [m] column sums of a (the bias gradient), or NULL
    bool sums_accumulate;
    void *workspace; // pk_cuda_gemm_workspace bytes
};

/* Enqueues the product. PK_EINVAL for a tile or an epilogue that the product does not have,
 * PK_EDEVICE when a launch is refused.
 * Determinism   bitwise on all devices for one tile number: the order of every sum depends on the
 *               shapes only. Tiles of the same depth agree bitwise with each other as well. */
enum pk_status pk_cuda_gemm(const struct pk_queue *q, const struct pk_cuda_gemm *g,
                            struct pk_err *err);
int pk_cuda_gemm_tile(const struct pk_queue *q, const struct pk_cuda_gemm *g); // without tuning
bool pk_cuda_gemm_has(enum pk_product product, int tile);                      // in bf16
const char *pk_cuda_gemm_tile_name(int tile);                                  // "128x128x32"
int64_t pk_cuda_gemm_parts(int64_t m, int64_t n, int64_t k);
size_t pk_cuda_gemm_workspace(int64_t m, int64_t n, int64_t k); // of TN, with sums

/* Uniform values in [-1, 1), the same for the same seed: data for measurements. */
enum pk_status pk_cuda_fill_random(const struct pk_queue *q, void *out, enum pk_dtype dtype,
                                   int64_t count, uint32_t seed, struct pk_err *err);

#ifdef __cplusplus
}
#endif

#endif
