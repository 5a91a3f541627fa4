/* build.h -- inside of the builder, for op families (core/op), differentiation and fusion only.
 * Model authors use core/ops.h. */
#ifndef PK_BUILD_H
#define PK_BUILD_H

#include "core/ops.h"
#include "core/prog.h"

struct pk_build {
    struct pk_prog *prog;
    struct pk_params *params;
    struct pk_err err;        // sticky: the first failure
    char scope[PK_SCOPE_MAX]; // "encoder.blocks.0."
    uint8_t scope_start[16];  // where each open scope begins in it
    int scopes;
    int32_t scope_text; // offset of the current scope in prog->text, -1 until first used
    int ema, frozen;    // nesting counts
    float init_std;
    uint32_t dropout_sites;
};

/* A node about to be recorded: infer reads the inputs and describes the outputs. */
struct pk_infer {
    struct pk_build *b;
    enum pk_op op;
    int n_in, n_out;
    const struct pk_value *in[PK_NODE_IN]; // NULL where absent
    const union pk_attr *attr;
    struct pk_value out[PK_NODE_OUT]; // dtype, rank, dim to be set; n_out too
};
/* Records the failure with op, input shapes and scope; returns PK_ESHAPE. */
enum pk_status pk_infer_fail(struct pk_infer *x, const char *fmt, ...) PK_PRINTF(2, 3);
/* Describes output k. */
void pk_infer_out(struct pk_infer *x, int k, enum pk_dtype t, int rank, const int64_t *dim);
void pk_infer_like(struct pk_infer *x, int k, const struct pk_value *v);
/* Requires input k to be there with this type and rank (0: any). */
enum pk_status pk_infer_need(struct pk_infer *x, int k, enum pk_dtype t, int rank);
/* Requires input k to be an activation or matrix: of the program's storage type. */
enum pk_status pk_infer_need_real(struct pk_infer *x, int k, int rank);
/* Requires that no gradient would have to flow into input k, which has none in this op. */
enum pk_status pk_infer_fixed(struct pk_infer *x, int k);
/* For *_grad ops, whose outputs are shaped by what they are gradients of. */
enum pk_status pk_infer_given(struct pk_infer *x);

/* Records a node. in: value indices, -1 absent. The outputs' indices go to out[]. */
void pk_emit(struct pk_build *b, enum pk_op op, const union pk_attr *attr, int n_in,
             const int32_t *in, int32_t out[PK_NODE_OUT]);
/* x in another type (core/op/elementwise.c); x itself when it has it. Builders of ops use it, so
 * that models need not know what is stored how. */
struct pk_val pk_cast(struct pk_build *b, struct pk_val x, enum pk_dtype dtype);
/* A parameter [dim[0], dim[1]] of the program's storage type, with weight decay. */
struct pk_val pk_weight_matrix(struct pk_build *b, const char *name, const int64_t dim[2],
                               enum pk_init init);
int32_t pk_new_value(struct pk_build *b, const struct pk_value *like);
/* Appends a bare node of the current scope, outputs absent; NULL after an error. */
struct pk_node *pk_append_node(struct pk_build *b, enum pk_op op, const union pk_attr *attr,
                               int n_in, const int32_t *in);

/* Differentiation, see grad.c. */
struct pk_slot {
    int32_t value; // gradient buffer to write, -1: nobody wants it
    bool accumulate;
};
/* Gradient of the node's output k, -1 when nothing depends on it. */
int32_t pk_diff_out(struct pk_diff *d, const struct pk_node *n, int k);
/* Where the gradient of value v goes. */
struct pk_slot pk_diff_into(struct pk_diff *d, int32_t v);
/* The gradient of v gains g unchanged: an alias where that is safe, else a copy or an addition. */
void pk_diff_pass(struct pk_diff *d, int32_t v, int32_t g);
/* Records a gradient node; does nothing when no slot is wanted. */
void pk_diff_emit(struct pk_diff *d, enum pk_op op, const union pk_attr *attr, int n_in,
                  const int32_t *in, int n_out, const struct pk_slot *out);
enum pk_status pk_differentiate(struct pk_build *b);

/* Peephole fusion and removal of dead nodes, see fuse.c. */
enum pk_status pk_fuse(struct pk_build *b);

#endif
