/* conv.h -- who computes a convolution: the own kernels (cuda/conv1d.cu) or an algorithm of cuDNN,
 * chosen by timing when a program is bound.
 *
 * As for products (cuda/matmul.h) a choice belongs to a key, and the choices are kept with those of
 * the products: in struct pk_matmul, in its text, in its memory. The library is loaded and its
 * workspace taken when the first convolution is prepared, so that programs without any pay nothing.
 *
 * The environment variable PURKINJE_CONV, read by pk_matmul_open:
 *     own     own kernels
 *     cudnn   the first algorithm that the library's heuristic offers; own for what it does not
 * take tune    timing, the default on a device (on the host executor `own` is)
 *
 * What cuDNN is given. A record [T, C] is an image of height 1: NHWC with H = 1, W = T. Its filters
 * are [N, K, C / groups], ours [N, C / groups, K], so weights are brought into that order in the
 * workspace, and their gradient back. It pads both sides alike; where ours differ, the filter gets
 * zero taps on one side, which is the same sum. Float storage is computed by FMA, never TF32. bf16
 * is computed as such, with float sums; only the weight's gradient, which cuDNN would round to
 * bf16, is computed from operands widened to float, some records at a time: bf16 numbers are TF32
 * numbers, so their products are exact there. Not given to it: a bf16 convolution with a bias,
 * which would be added to what was rounded already. */
#ifndef PK_CUDA_CONV_H
#define PK_CUDA_CONV_H

#include "cuda/choose.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PK_CONV_WORKSPACE = 64 << 20 }; // bytes, held from the first convolution on

struct pk_conv_key {
    enum pk_op op;       // PK_OP_CONV1D, _DX or _DW, the last with dw
    enum pk_dtype dtype; // of activations
    int64_t batch, time; // of x: [batch, time, channels]
    int64_t channels, filters, kernel;
    int32_t stride, left, right, groups;
    bool bias; // a bias is added, or (CONV1D_DW) its gradient wanted
    bool add;  // output 0 is added to
};

struct pk_conv_choice {
    bool library;      // cuDNN; else the own kernels
    int algorithm;     // library: cudnnConvolutionFwdAlgo_t, ...BwdDataAlgo_t, ...BwdFilterAlgo_t
    int64_t workspace; // library: bytes of all that the call lays out, cuDNN's own included
};

struct pk_cudnn_plan;
struct pk_conv_row {
    struct pk_conv_key key;
    struct pk_conv_choice choice;
    double seconds, own_seconds; // 0 when not measured
    struct pk_cudnn_plan *plan;  // descriptors, once prepared
};

struct pk_cudnn;
struct pk_convs { // in struct pk_matmul
    enum pk_choose_mode mode;
    struct pk_conv_row *row;
    int64_t rows, row_cap;
    struct pk_cudnn *library; // NULL: none, or not looked for
    struct pk_err why;        // looked for in vain
    bool looked;
    void *workspace; // device memory
};

/* --- for cuda/matmul.c ----------------------------------------------------------------------- */

void pk_convs_close(struct pk_convs *t);
/* Members "cudnn" and "convolutions" of the object that is open; nothing without choices. */
void pk_convs_write(const struct pk_convs *t, struct pk_json_writer *w);
/* Fills fresh->row from an object that may have no such members; `t` holds the library. Errors as
 * pk_matmul_read. */
enum pk_status pk_convs_read(struct pk_convs *fresh, struct pk_convs *t, const struct pk_queue *q,
                             const struct pk_json *j, struct pk_err *err);
/* Gives t the rows of fresh instead of its own. */
void pk_convs_replace(struct pk_convs *t, struct pk_convs *fresh);
void pk_convs_print(const struct pk_convs *t, struct pk_text *out);
void pk_convs_describe(struct pk_text *out); // "gpu convs ..." for doctor

/* --- for the executor ------------------------------------------------------------------------ */

/* As pk_matmul_prepare, for the three ops of the family; others pass. Where it chooses the library
 * it runs the call once: what a library loads at its first call it must not load in a capture. */
enum pk_status pk_conv_prepare(const struct pk_queue *q, const struct pk_call *c,
                               struct pk_err *err);
int64_t pk_conv_bytes(const struct pk_queue *q); // of device memory

/* --- for the kernels' host side -------------------------------------------------------------- */

bool pk_conv_key_of(const struct pk_call *c, struct pk_conv_key *key);
struct pk_conv_row *pk_conv_find(struct pk_convs *t, const struct pk_conv_key *key); // or NULL
/* Enqueues the call by cuDNN if that was chosen, and says whether it has. CONV1D_DW: output 0. */
enum pk_status pk_conv_chosen(const struct pk_call *c, bool *done, struct pk_err *err);

/* One convolution as cuDNN sees it: equal padding on both sides. */
struct pk_conv_shape {
    enum pk_op op;
    enum pk_dtype dtype; // of all three operands
    bool widened;        // float that holds bf16 numbers, so that TF32 may be used
    int32_t batch, time, out, channels, filters, kernel, stride, pad, groups;
};

/* A call's way through the workspace: [filter][x and dy as float][cuDNN's]. */
struct pk_conv_layout {
    struct pk_conv_shape shape; // of `batch` records at a time, which divides the key's
    int64_t turns;              // so many times
    int32_t taps, shift;        // ours among the shape's: [shift, shift + taps)
    bool packed;                // the filter's order or number of taps differs
    int64_t x_at, dy_at, own;   // byte offsets: widened operands; where cuDNN's part begins
};
/* false: nothing cuDNN could be given. */
bool pk_conv_layout_of(const struct pk_conv_key *key, struct pk_conv_layout *out);

/* cuda/conv_library.cu: a call by cuDNN, with the passes over weights, operands and bias that it
 * takes. CONV1D_DW: output 0 only. */
enum pk_status pk_conv_library(const struct pk_call *c, struct pk_convs *t,
                               const struct pk_conv_row *row, struct pk_err *err);

/* --- cuda/conv_cudnn.c ----------------------------------------------------------------------- */

/* Loads libcudnn.so.9. PK_EMISSING with the reason when it is not there, not complete or of another
 * major version; PURKINJE_CUDNN names another file to load. */
enum pk_status pk_cudnn_load(struct pk_cudnn **out, struct pk_err *err);
/* Makes it ready to compute on this stream; needs a device. PK_EMISSING with its reason. */
enum pk_status pk_cudnn_start(struct pk_cudnn *lib, const struct pk_queue *q, struct pk_err *err);
void pk_cudnn_close(struct pk_cudnn *lib);
int64_t pk_cudnn_version(const struct pk_cudnn *lib); // 91900 is 9.19.0; 0 for NULL
/* Descriptors of a shape; needs no device. PK_ESHAPE where the library's output would have another
 * length, PK_EDEVICE with its reason for what it refuses. */
enum pk_status pk_cudnn_plan_open(struct pk_cudnn_plan **out, struct pk_cudnn *lib,
                                  const struct pk_conv_shape *shape, struct pk_err *err);
void pk_cudnn_plan_close(struct pk_cudnn_plan *p);
/* Up to `most` deterministic algorithms that multiply as the shape demands, in the heuristic's
 * order, with `workspace` being cuDNN's part of at most workspace_bytes; how many there are. */
int pk_cudnn_algorithms(const struct pk_cudnn_plan *p, int64_t workspace_bytes,
                        struct pk_conv_choice *out, int most);
/* to (+)= the convolution of a and b: x and w (forward), dy and w (dx), dy and x (dw). Enqueued on
 * the stream; no waiting, no allocation. */
enum pk_status pk_cudnn_run(const struct pk_cudnn_plan *p, int algorithm, const void *a,
                            const void *b, void *to, bool add, void *workspace,
                            int64_t workspace_bytes, struct pk_err *err);

#ifdef __cplusplus
}
#endif

#endif
