/* prog.h -- a program: a straight-line list of coarse ops over statically shaped values.
 *
 * recipe -> build -> differentiate -> fuse -> plan -> bind -> step. Model code records through
 * core/ops.h and never sees this file. A value is an index until the planner gives it an address.
 */
#ifndef PK_PROG_H
#define PK_PROG_H

#include "core/base.h"
#include "core/dtype.h"
#include "core/param.h"

enum { PK_DIMS = 4, PK_NODE_IN = 8, PK_NODE_OUT = 5, PK_SCOPE_MAX = 160 };

enum pk_storage {
    PK_STORE_IN,    // one batch; bound by the caller before each run
    PK_STORE_PARAM, // trained weights, by parameter index
    PK_STORE_EMA,   // the same weights in the EMA copy
    PK_STORE_STATE, // running statistics, by parameter index; moved by the optimizer step
    PK_STORE_GRAD,  // gradients in the order of the parameters; kernels add to them
    PK_STORE_CONST, // filled when the program is built (position tables)
    PK_STORE_ACT    // inside a run; placed by the planner
};

/* Op table: X(ENUM, name, family file). The family core/op/<family>.c holds infer, grad and cost,
 * core/cpu/<family>.c the CPU kernels. Append *_GRAD ops after their forward. */
#define PK_OPS(X)                                                                                  \
    X(PATCHIFY, patchify, signal)                                                                  \
    X(BLOCK_MASK, block_mask, signal)                                                              \
    X(LINEAR, linear, linear)                                                                      \
    X(LINEAR_DX, linear_dx, linear)                                                                \
    X(LINEAR_DW, linear_dw, linear)                                                                \
    X(GELU, gelu, linear)                                                                          \
    X(GELU_GRAD, gelu_grad, linear)                                                                \
    X(LINEAR_GELU, linear_gelu, linear)                                                            \
    X(LINEAR_DX_GELU, linear_dx_gelu, linear)                                                      \
    X(LAYERNORM, layernorm, layernorm)                                                             \
    X(ADD_LAYERNORM, add_layernorm, layernorm)                                                     \
    X(LAYERNORM_GRAD, layernorm_grad, layernorm)                                                   \
    X(ADD, add, elementwise)                                                                       \
    X(COPY, copy, elementwise)                                                                     \
    X(DROPOUT, dropout, elementwise)                                                               \
    X(ATTENTION, attention, attention)                                                             \
    X(ATTENTION_GRAD, attention_grad, attention)                                                   \
    X(ATTENTION_POOL, attention_pool, attention)                                                   \
    X(ATTENTION_POOL_GRAD, attention_pool_grad, attention)                                         \
    X(GATHER_TOKENS, gather_tokens, tokens)                                                        \
    X(GATHER_TOKENS_GRAD, gather_tokens_grad, tokens)                                              \
    X(ADD_POSITION, add_position, tokens)                                                          \
    X(PREPEND_TOKEN, prepend_token, tokens)                                                        \
    X(PREPEND_TOKEN_GRAD, prepend_token_grad, tokens)                                              \
    X(SLICE_TOKENS, slice_tokens, tokens)                                                          \
    X(SLICE_TOKENS_GRAD, slice_tokens_grad, tokens)                                                \
    X(ASSEMBLE_TOKENS, assemble_tokens, tokens)                                                    \
    X(ASSEMBLE_TOKENS_GRAD, assemble_tokens_grad, tokens)                                          \
    X(MEAN_POOL, mean_pool, tokens)                                                                \
    X(MEAN_POOL_GRAD, mean_pool_grad, tokens)                                                      \
    X(CONV1D, conv1d, conv1d)                                                                      \
    X(CONV1D_DX, conv1d_dx, conv1d)                                                                \
    X(CONV1D_DW, conv1d_dw, conv1d)                                                                \
    X(BATCHNORM, batchnorm, batchnorm)                                                             \
    X(BATCHNORM_GRAD, batchnorm_grad, batchnorm)                                                   \
    X(BATCHNORM_STATE, batchnorm_state, batchnorm)                                                 \
    X(ACTIVATE, activate, activate)                                                                \
    X(ACTIVATE_GRAD, activate_grad, activate)                                                      \
    X(CHANNEL_SCALE, channel_scale, activate)                                                      \
    X(CHANNEL_SCALE_GRAD, channel_scale_grad, activate)                                            \
    X(POOL1D, pool1d, pool)                                                                        \
    X(POOL1D_GRAD, pool1d_grad, pool)                                                              \
    X(CONCAT_POOL, concat_pool, pool)                                                              \
    X(CONCAT_POOL_GRAD, concat_pool_grad, pool)                                                    \
    X(FEATURE_MOMENTS, feature_moments, loss)                                                      \
    X(L1_LOSS, l1_loss, loss)                                                                      \
    X(L1_LOSS_GRAD, l1_loss_grad, loss)                                                            \
    X(MULTILABEL_LOSS, multilabel_loss, supervised)                                                \
    X(MULTILABEL_LOSS_GRAD, multilabel_loss_grad, supervised)                                      \
    X(MULTICLASS_LOSS, multiclass_loss, supervised)                                                \
    X(MULTICLASS_LOSS_GRAD, multiclass_loss_grad, supervised)                                      \
    X(REGRESSION_LOSS, regression_loss, supervised)                                                \
    X(REGRESSION_LOSS_GRAD, regression_loss_grad, supervised)                                      \
    X(RESHAPE, reshape, elementwise)                                                               \
    X(LEAD_PRESENT, lead_present, leads)                                                           \
    X(LEAD_MASK, lead_mask, leads)                                                                 \
    X(LEAD_TOKENS, lead_tokens, leads)                                                             \
    X(LEAD_TOKENS_GRAD, lead_tokens_grad, leads)                                                   \
    X(LEAD_POOL, lead_pool, leads)                                                                 \
    X(LEAD_POOL_GRAD, lead_pool_grad, leads)                                                       \
    X(PATCH_LOSS, patch_loss, patch)                                                               \
    X(PATCH_LOSS_GRAD, patch_loss_grad, patch)                                                     \
    X(L2_NORMALIZE, l2_normalize, contrast)                                                        \
    X(L2_NORMALIZE_GRAD, l2_normalize_grad, contrast)                                              \
    X(CONTRAST_LOSS, contrast_loss, contrast)                                                      \
    X(CONTRAST_LOSS_GRAD, contrast_loss_grad, contrast)                                            \
    X(KOLEO_LOSS, koleo_loss, contrast)                                                            \
    X(KOLEO_LOSS_GRAD, koleo_loss_grad, contrast)                                                  \
    X(DOT_LOSS, dot_loss, contrast)                                                                \
    X(DOT_LOSS_GRAD, dot_loss_grad, contrast)                                                      \
    X(AUGMENT, augment, augment)                                                                   \
    X(MIXUP, mixup, mixup)                                                                         \
    X(PAD_CHANNELS, pad_channels, elementwise)

enum pk_op {
#define PK_X(name, text, family) PK_OP_##name,
    PK_OPS(PK_X)
#undef PK_X
        PK_OP_COUNT
};

enum pk_activation { PK_RELU, PK_SILU, PK_SIGMOID };

/* Attributes of one node; the op says which member is used. Zero-filled, hashed as bytes. */
union pk_attr {
    struct {
        int32_t tokens;   // patches of a record
        int32_t patch;    // samples of one patch
        int32_t leads;    // selected leads
        float clip;       // normalised values are clipped to +-clip
        uint8_t lead[16]; // [leads] index into the batch's leads
        int32_t layout;   // enum pk_layout
    } patchify;
    struct {
        int32_t tokens, keep, min_block;
        uint64_t seed;
    } block_mask;
    struct {
        int32_t leads;
        uint8_t lead[16]; // [leads] index into the batch's leads
    } lead_present;
    struct {
        int32_t leads, tokens, keep; // of one lead
        uint64_t seed;
    } lead_mask;
    struct {
        int32_t rank;
        int32_t dim[PK_DIMS];
    } reshape;
    struct {
        float eps;
    } layernorm; // and patch_loss
    struct {
        int32_t dtype; // of the output, enum pk_dtype
    } copy;
    struct {
        float p;
        uint32_t site; // which dropout of the model
        uint64_t seed;
        int32_t record; // 1: one draw for all elements of a record
    } dropout;
    struct {
        int32_t left, right; // zeros before and behind; channels taken away where negative
    } pad_channels;
    struct {
        int32_t heads;
        float scale;
    } attention; // attention and attention_pool
    struct {
        int32_t start, count;
    } slice; // tokens [start, start + count)
    struct {
        int32_t skip;
    } pool; // tokens left out at the front
    struct {
        float eps; // norms below it count as it
    } normalize;
    struct {
        float temperature, weight; // logits are divided by one, the loss multiplied by the other
        int32_t ranks;             // that share out the rows; 1: not shared out
    } contrast;
    struct {
        float weight, eps; // eps: added to a distance before its logarithm
        int32_t ranks;     // as above
    } koleo;
    struct {
        int32_t leads, patch; // of the signal; samples of a patch of the output
        uint32_t view;
        float rate; // Hz
        uint64_t seed;
    } augment;
    struct {
        uint64_t seed;
        float alpha;          // shares are drawn from Beta(alpha, alpha)
        int32_t single_label; // 1: a row of labels that are all zero is not known
    } mixup;
    struct {
        float gamma_positive, gamma_negative, margin, alpha, smoothing;
    } multilabel;
    struct {
        float smoothing;
    } multiclass;
    struct {
        int32_t kind; // enum pk_regression_kind
        float delta;
    } regression;
    struct {
        int32_t stride, left, right, groups; // left, right: zeros around each record
    } conv1d;
    struct {
        float eps;
        int32_t train; // 1: statistics of the micro-batch; 0: the running ones
        int64_t rows;  // BATCHNORM_STATE: that the statistics are of
    } batchnorm;
    struct {
        int32_t kind; // enum pk_activation
    } activate;
    struct {
        int32_t mean; // 1: mean; 0: maximum
        int32_t kernel, stride, left, right;
        int32_t zeros; // 1: the padding counts, as zeros; 0: samples inside the record alone
    } pool1d;
    uint64_t raw[5];
};

struct pk_value {
    enum pk_dtype dtype;
    enum pk_storage storage;
    int32_t rank;
    int64_t dim[PK_DIMS];
    int32_t producer; // node index, or -1
    int32_t param;    // PARAM, EMA, STATE, GRAD: parameter index
    int32_t input;    // IN: slot number
    bool needs_grad;  // a trained parameter reaches it
    bool output;      // read by the caller after the run, so it lives to the end
    int64_t constant; // CONST: byte offset in pk_prog.constants
    char name[48];    // IN and outputs: what the caller asks for; else the op's name
};

struct pk_node {
    enum pk_op op;
    int32_t n_in, n_out;
    int32_t in[PK_NODE_IN];   // value index, -1 where an optional input is absent
    int32_t out[PK_NODE_OUT]; // value index, -1 where an optional output is not wanted
    uint32_t accumulate;      // bit k: out[k] is added to, not assigned
    union pk_attr attr;
    int32_t scope; // offset of the scope path in pk_prog.text
};

struct pk_prog {
    struct pk_value *value;
    int64_t values, value_cap;
    struct pk_node *node;
    int64_t nodes, node_cap;
    int64_t forward_nodes;    // nodes before differentiation
    struct pk_params *params; // borrowed
    char *text;               // scope paths, NUL separated
    int64_t text_len, text_cap;
    unsigned char *constants;
    int64_t constant_len, constant_cap;
    int32_t inputs;     // IN slots
    int32_t loss, seed; // value indices, -1 without; seed is d(objective)/d(loss), an IN
};

void pk_prog_free(struct pk_prog *p);
int64_t pk_value_count(const struct pk_value *v); // elements
size_t pk_value_bytes(const struct pk_value *v);
/* Finds an IN value or an output by name; -1 when there is none. */
int32_t pk_prog_find(const struct pk_prog *p, enum pk_storage storage, const char *name);
/* One line per node: "%12 = linear(%3, encoder.blocks.0...weight) [4, 201, 576] # scope". */
void pk_prog_print(const struct pk_prog *p, struct pk_text *out);
uint64_t pk_prog_hash(const struct pk_prog *p);

struct pk_queue; // a device backend's stream and what its kernels share

/* The same node of all ranks at the same time: each at its own micro-batch of as many records, or,
 * where the rows of a loss are shared out, at its part of the rows that all have. */
struct pk_joined {
    int rank, size;
    float *all; // [size][count] of every node's count, where kernels run; each rank fills its row.
                // On the CPU a row of the kernel's own follows
    /* Brings the other ranks' rows of count numbers, the same bits everywhere; on a device in the
     * order of the call's queue. All must call. Errors  PK_ERANK */
    enum pk_status (*gather)(const struct pk_joined *j, int64_t count, struct pk_err *err);
    void *ctx; // of gather
};

/* What a rank tells of a row of a loss that is shared out. The parts of all ranks make up
 * pk_joined.all, so that a row is found by its number. */
struct pk_told_row {
    float of[2]; // log sum exp and positives, or nearest row (exact up to 16 M) and distance
    double term; // of the loss
};
enum { PK_TOLD_FLOATS = sizeof(struct pk_told_row) / sizeof(float) };

/* What a kernel gets: a node with its pointers resolved, run by one thread. */
struct pk_call {
    const struct pk_node *node;
    const struct pk_value *in[PK_NODE_IN];   // NULL where absent
    const struct pk_value *out[PK_NODE_OUT]; // NULL where absent
    const void *src[PK_NODE_IN];
    void *dst[PK_NODE_OUT];         // never overlaps src; out[k] is added to when the
                                    // accumulate bit k is set, assigned otherwise
    void *workspace;                // op row's workspace() bytes, 64-byte aligned
    struct pk_queue *queue;         // where a device backend enqueues it; NULL on the CPU
    const struct pk_joined *joined; // for norms and losses over all ranks; NULL: this rank alone
};
typedef enum pk_status (*pk_kernel)(const struct pk_call *c, struct pk_err *err);

static inline bool pk_call_accumulates(const struct pk_call *c, int k)
{
    return c->node->accumulate >> k & 1;
}

/* The first of this rank's rows / ranks rows. */
static inline int64_t pk_call_first_row(const struct pk_call *c, int32_t ranks, int64_t rows)
{
    return ranks > 1 ? rows / ranks * c->joined->rank : 0;
}

/* Context of shape inference and of differentiation (core/build.c, core/grad.c). */
struct pk_infer;
struct pk_diff;

/* Bytes of scratch that one call of a kernel needs. */
typedef size_t (*pk_workspace)(const struct pk_prog *p, const struct pk_node *n);

struct pk_op_row {
    const char *name;
    /* Checks the inputs and sets the shapes of the outputs. */
    enum pk_status (*infer)(struct pk_infer *x);
    /* Appends nodes that turn gradients of the outputs into gradients of the inputs. */
    void (*grad)(struct pk_diff *d, const struct pk_node *n);
    const char *no_grad; // why grad is NULL: a gradient op, constant by definition, made by fusion
    double (*flops)(const struct pk_prog *p, const struct pk_node *n); // 2 per multiply-add
    pk_workspace workspace; // scratch of one call of the CPU kernel; NULL for none
};
extern const struct pk_op_row *const pk_op_table[PK_OP_COUNT];
/* Bytes moved: inputs read and outputs written once (twice where accumulated). */
double pk_op_bytes(const struct pk_prog *p, const struct pk_node *n);

#endif
