/* matmul.h -- who computes a linear layer's product: the own GEMM with one of its tiles, or an
 * algorithm of cuBLASLt, chosen by timing when a program is bound.
 *
 * A choice belongs to a key: op, extents, type, which optional parts are there. The table of
 * choices is text that a run stores (pk_matmul_write) and gets back when it is resumed
 * (pk_matmul_read): the same choices give the same bits, while new timings may choose otherwise.
 *
 * The environment variable PURKINJE_GEMM, read by pk_matmul_open, switches timing off:
 *     own        the own GEMM with the tile that its rule of thumb gives
 *     cublaslt   the first algorithm that the library's heuristic offers, epilogues included where
 *                it has them; the own GEMM for what it does not take
 *     tune       timing, which is the default on a device (on the host executor `own` is)
 * A product without a choice runs as under `own`. The table also holds the choices for convolutions
 * (cuda/conv.h). */
#ifndef PK_CUDA_MATMUL_H
#define PK_CUDA_MATMUL_H

#include "cuda/gemm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PK_MATMUL_WORKSPACE = 32 << 20 }; // bytes, held where cuBLASLt is

struct pk_matmul_key {
    enum pk_op op;       // of the linear family, with a product
    enum pk_dtype dtype; // of activations and weights
    int64_t rows, n, k;  // the layer: x is [rows, k], w [n, k]
    bool bias;           // a bias is added, or (LINEAR_DW) its gradient wanted
    bool keep;           // LINEAR_GELU: pre is an output
    bool add;            // output 0 is added to
};

struct pk_matmul_choice {
    bool library;      // cuBLASLt; else the own GEMM
    int tile;          // own: enum pk_gemm_tile, -1 for the rule of thumb
    bool fused;        // library: it adds the bias itself
    uint64_t algo[8];  // library: cublasLtMatmulAlgo_t, valid for one version of the library
    int64_t workspace; // library: bytes it needs
};

/* --- for the executor ------------------------------------------------------------------------ */

/* One table with one workspace, for one stream. A missing cuBLASLt is no error; pk_matmul_describe
 * says why. Errors: PK_ENOMEM, PK_EDEVICE for the workspace, PK_EINVAL for PURKINJE_GEMM. */
enum pk_status pk_matmul_open(struct pk_matmul **out, const struct pk_queue *q, struct pk_err *err);
void pk_matmul_close(struct pk_matmul *m);          // NULL is fine
int64_t pk_matmul_bytes(const struct pk_matmul *m); // of device memory
/* Chooses for this call unless its key has a choice; other ops pass. Call with real device pointers
 * before a capture. Where it times, it overwrites outputs and those inputs that are activations
 * (with random numbers: power, and so speed, depends on them), and accumulating outputs keep
 * nothing. Waits for the stream. A candidate that fails is passed over. */
enum pk_status pk_matmul_prepare(const struct pk_queue *q, const struct pk_call *c,
                                 struct pk_err *err);
/* The table as JSON; adds to `text`. */
void pk_matmul_write(const struct pk_matmul *m, struct pk_text *text);
/* Replaces the table by what pk_matmul_write wrote.
 * Errors  PK_EDATA     not such a text; the table is as before
 *         PK_EMISSING  choices of another version of cuBLASLt, or of one that is not here */
enum pk_status pk_matmul_read(struct pk_matmul *m, const char *text, size_t n, struct pk_err *err);
/* One line per choice with its time, TFLOP/s, and the own GEMM's best time. */
void pk_matmul_print(const struct pk_matmul *m, struct pk_text *out);
/* "gpu gemm ..." for doctor: which cuBLASLt was found, or why none. */
void pk_matmul_describe(struct pk_text *out);
/* The best rate of a product of 8,192 x 8,192 x 8,192 in bf16 on random data on the current device,
 * FLOP/s. Takes 400 MB and about a second. */
enum pk_status pk_matmul_ceiling(double *flops_per_s, struct pk_err *err);

/* --- for the kernels' host side -------------------------------------------------------------- */

/* Whether the op has a product, and its key. */
bool pk_matmul_key_of(const struct pk_call *c, struct pk_matmul_key *key);
/* NULL: nothing chosen. */
const struct pk_matmul_choice *pk_matmul_find(const struct pk_matmul *m,
                                              const struct pk_matmul_key *key);
/* The call's product with the epilogue that the own GEMM has for it (cuda/linear.cu). */
void pk_linear_product(const struct pk_call *c, struct pk_cuda_gemm *out);
/* Runs a call of the family by this choice (cuda/linear.cu). */
enum pk_status pk_linear_run(const struct pk_call *c, const struct pk_matmul_choice *choice,
                             struct pk_err *err);
/* y [rows, cols] += bias [cols], after a library that cannot (cuda/linear.cu). */
enum pk_status pk_cuda_add_bias(const struct pk_queue *q, enum pk_dtype dtype, void *y,
                                const float *bias, int64_t rows, int64_t cols, struct pk_err *err);
/* A plain product on the library: y (+)= product (+ bias, if choice->fused), y of type `out`.
 * Only dtype, product, m, n, k, a, b, bias, y and accumulate of g are looked at. */
enum pk_status pk_matmul_library(const struct pk_queue *q, const struct pk_cuda_gemm *g,
                                 const struct pk_matmul_choice *choice, struct pk_err *err);

/* --- cuda/matmul_cublaslt.c ------------------------------------------------------------------ */

struct pk_cublaslt;
/* Loads libcublasLt.so.13. PK_EMISSING with the reason when it is not there or another major
 * version; PURKINJE_CUBLASLT names another file to load. */
enum pk_status pk_cublaslt_open(struct pk_cublaslt **out, struct pk_err *err);
void pk_cublaslt_close(struct pk_cublaslt *lib);
int64_t pk_cublaslt_version(const struct pk_cublaslt *lib); // 130100 is 13.1.0; 0 for NULL
/* Up to `most` deterministic algorithms, in the heuristic's order; how many there are. */
int pk_cublaslt_algorithms(struct pk_cublaslt *lib, const struct pk_cuda_gemm *g, bool fused,
                           int64_t workspace_bytes, struct pk_matmul_choice *out, int most);
enum pk_status pk_cublaslt_run(struct pk_cublaslt *lib, const struct pk_queue *q,
                               const struct pk_cuda_gemm *g, const struct pk_matmul_choice *choice,
                               void *workspace, int64_t workspace_bytes, struct pk_err *err);

#ifdef __cplusplus
}
#endif

#endif
