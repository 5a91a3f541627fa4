/* ops.h -- what model authors call: each function records one op (or a few) and returns its result.
 *
 * The builder has a sticky error: the first failure is recorded with its scope path, later calls do
 * nothing, and pk_build_finish reports it once. Model code holds no error plumbing. */
#ifndef PK_OPS_H
#define PK_OPS_H

#include "core/augment.h"
#include "core/base.h"
#include "core/dtype.h"
#include "core/param.h"

struct pk_build;
struct pk_prog;

struct pk_val {
    int32_t id; // -1: nothing (an optional argument left out, or after an error)
};
#define PK_NONE ((struct pk_val){-1})

/* A build records into *prog. params is shared by all programs of a model and grows. */
enum pk_status pk_build_begin(struct pk_build **out, struct pk_prog *prog, struct pk_params *params,
                              struct pk_err *err);
/* Ends recording: differentiates when a loss was set, fuses, frees the builder. */
enum pk_status pk_build_finish(struct pk_build *b, struct pk_err *err);
/* Marks the build as failed with a message of the model's own. */
void pk_build_fail(struct pk_build *b, enum pk_status s, const char *fmt, ...) PK_PRINTF(3, 4);

/* Scopes: names of parameters and messages get the path in front ("encoder.blocks.0."). */
void pk_scope(struct pk_build *b, const char *fmt, ...) PK_PRINTF(2, 3);
void pk_scope_end(struct pk_build *b);
/* From on = true to the matching false, which may nest: parameters are read from the EMA copy /
 * are not trained. Ops inside are not differentiated. */
void pk_scope_ema(struct pk_build *b, bool on);
void pk_scope_frozen(struct pk_build *b, bool on);
/* Standard deviation of the truncated normal that weights created from now on start from. */
void pk_init_std(struct pk_build *b, float std);

int64_t pk_dim(struct pk_build *b, struct pk_val v, int axis); // negative axes count from the end

/* Inputs and constants, dims given as a list of rank numbers. */
struct pk_val pk_input(struct pk_build *b, const char *name, enum pk_dtype t, int rank,
                       const int64_t *dim);
struct pk_val pk_constant(struct pk_build *b, int rank, const int64_t *dim, const float *data);
/* A parameter of this scope; the same name again gives the same parameter. */
struct pk_val pk_weight(struct pk_build *b, const char *name, int rank, const int64_t *dim,
                        enum pk_init init, bool decay);
/* Makes a value readable after the run under this name. */
void pk_output(struct pk_build *b, struct pk_val v, const char *name);
/* The value [1] that is minimised; also an output named "loss". */
void pk_loss(struct pk_build *b, struct pk_val loss);

/* [B, leads, samples] i16, gain and offset [B, leads], start [B] i32 -> patches in a layout,
 * normalised = clip(raw * gain - offset); PK_INVALID becomes 0. */
enum pk_layout {
    PK_LAYOUT_JOINT, // [B, T, leads * patch]: a token is a patch of all leads, lead-major
    PK_LAYOUT_PATCH, // [B * leads, T, patch]: a token is a patch of one lead
    PK_LAYOUT_LEAD   // [B, leads, patch]: a token is a lead; T is 1
};
struct pk_patchify {
    int32_t tokens, patch, leads;
    const uint8_t *lead;
    float clip;
    enum pk_layout layout;
};
struct pk_val pk_patchify(struct pk_build *b, struct pk_val signal, struct pk_val gain,
                          struct pk_val offset, struct pk_val start, const struct pk_patchify *a);
/* x [B, 1, leads * samples], a normalised signal (pk_patchify with one token), sample [B] i64 ->
 * patches [B, samples / patch, leads * patch], changed at random as core/augment.h defines, keyed
 * by (seed, sample, view). range: [PK_AUGMENT_KINDS], copied. Not differentiated. */
struct pk_augment {
    int32_t leads, patch;
    uint32_t view;
    float rate; // Hz
    uint64_t seed;
    const struct pk_augment_range *range;
};
struct pk_val pk_augment(struct pk_build *b, struct pk_val x, struct pk_val sample,
                         const struct pk_augment *a);
/* mixup (Zhang et al. 2018), see core/mixup_inline.h: neighbouring records of the micro-batch are
 * mixed with each other, by a share drawn for (seed, sample). x: activations, u8 labels or float
 * ones, the product of its leading axes a multiple of the B numbers of sample [B] i64; the result
 * has the same shape and type, but labels come out as float, NaN where not known in either record.
 * Called for the signal and for its labels with the same seed and sample. Not differentiated;
 * alpha == 0: x. */
struct pk_mixup {
    float alpha;       // Beta(alpha, alpha); .2 in fastai, .1 to .4 in the paper
    bool single_label; // x are labels of a multi-class task: a row of zeros is not known
    uint64_t seed;
};
struct pk_val pk_mixup(struct pk_build *b, struct pk_val x, struct pk_val sample,
                       const struct pk_mixup *a);
/* sample [B] i64 -> kept [B, keep], hidden [B, tokens - keep] i32, ascending, complementary.
 * The multi-block pattern of core/mask.h, keyed by (seed, sample). */
struct pk_mask {
    int32_t tokens, keep, min_block;
    uint64_t seed;
};
void pk_block_mask(struct pk_build *b, struct pk_val sample, const struct pk_mask *a,
                   struct pk_val *kept, struct pk_val *hidden);
/* sample [B] i64 -> for each of `leads` runs of `tokens` of a record: kept [B * leads, keep] and
 * hidden [B * leads, tokens - keep] i32, ascending, complementary; the uniform pattern of
 * core/mask.h, keyed by (seed, sample, lead). seen [B * leads, keep + 2]: tokens, kept, tokens + 1,
 * which are the places of pk_lead_tokens; NULL where nobody asks. */
struct pk_lead_mask {
    int32_t leads, tokens, keep;
    uint64_t seed;
};
void pk_lead_mask(struct pk_build *b, struct pk_val sample, const struct pk_lead_mask *a,
                  struct pk_val *kept, struct pk_val *hidden, struct pk_val *seen);
/* gain [B, leads of the batch] f32 -> [B, leads] f32 for the chosen ones: 0 for a lead that is
 * absent (gain 0), else leads / (leads present), so that the mean over leads weighted by it is the
 * mean over those present. */
struct pk_val pk_lead_present(struct pk_build *b, struct pk_val gain, int32_t leads,
                              const uint8_t *lead);
/* The token sequence of records whose tokens are patches of single leads (ST-MEM, Na et al. 2024):
 * x [B * G, K, C] embedded patches -> [B, G * (K + 2), C]; for each of G leads
 *     separator + table[P - 2],  x + table[index],  separator + table[P - 1],  all + lead[g].
 * table [P, C]; index [B * G, K], or 0.. when PK_NONE; lead [G, C]; separator, absent [C].
 * Where present [B, G] is 0, absent stands for x. */
struct pk_lead_tokens {
    struct pk_val table, index, lead, separator, absent, present;
};
struct pk_val pk_lead_tokens(struct pk_build *b, struct pk_val x, const struct pk_lead_tokens *a);
/* x [B, G * (K + 2), C] as made by pk_lead_tokens -> [B, C]: mean over the patches, weighted by
 * present [B, G] of their lead. */
struct pk_val pk_lead_pool(struct pk_build *b, struct pk_val x, struct pk_val present);
/* Masked reconstruction (He et al. 2022, norm_pix_loss): mean over records and hidden patches of
 * the mean squared difference between x [R, H, P] and the patches [R, T, P] at hidden [R, H], each
 * standardised on its own: (patch - mean) / sqrt(var + eps), var with 1 / P. weight: PK_NONE, or
 * one number per row (R) or per patch (R * T) that multiplies its squares. */
struct pk_val pk_patch_loss(struct pk_build *b, struct pk_val x, struct pk_val patches,
                            struct pk_val hidden, struct pk_val weight, float eps);
/* The same elements in the same order under other dims. */
struct pk_val pk_reshape(struct pk_build *b, struct pk_val x, int rank, const int64_t *dim);

struct pk_val pk_linear(struct pk_build *b, struct pk_val x, int64_t width, const char *name);
struct pk_val pk_linear_bias(struct pk_build *b, struct pk_val x, int64_t width, const char *name);
/* With bias, both starting as PyTorch's default: uniform within +-1 / sqrt(inputs). */
struct pk_val pk_linear_uniform(struct pk_build *b, struct pk_val x, int64_t width,
                                const char *name);
struct pk_val pk_gelu(struct pk_build *b, struct pk_val x); // exact, erf
struct pk_val pk_layernorm(struct pk_build *b, struct pk_val x, float eps, const char *name);
struct pk_val pk_add(struct pk_build *b, struct pk_val x, struct pk_val y);
/* Zeroes with probability p and scales by 1 / (1 - p); keyed by (seed, site, sample). p == 0, and
 * always in frozen and EMA scopes: x. */
struct pk_val pk_dropout(struct pk_build *b, struct pk_val x, struct pk_val sample, float p,
                         uint64_t seed);
/* Stochastic depth (Huang et al. 2016): the branch x [B, ...] of a residual block is zeroed for a
 * whole record with probability p, else scaled by 1 / (1 - p); keyed as pk_dropout, by a draw of
 * its own, and left out where that is. */
struct pk_val pk_drop_path(struct pk_build *b, struct pk_val x, struct pk_val sample, float p,
                           uint64_t seed);
/* x [..., C] -> [..., left + C + right]: channels of zeros before and behind; where left and right
 * are negative, channels taken away instead. */
struct pk_val pk_pad_channels(struct pk_build *b, struct pk_val x, int32_t left, int32_t right);
/* qkv [B, T, 3C] -> [B, T, C], softmax(q k^T / sqrt(head)) v, heads split as PyTorch's ViT. */
struct pk_val pk_attention(struct pk_build *b, struct pk_val qkv, int32_t heads);
/* query [C], kv [B, T, 2C] -> [B, C]: one learnable query over all tokens. */
struct pk_val pk_attention_pool(struct pk_build *b, struct pk_val query, struct pk_val kv,
                                int32_t heads);
struct pk_val pk_gather_tokens(struct pk_build *b, struct pk_val x, struct pk_val index);
/* x [B, T, C] + table [P, C] at index [B, T], or at 0.. when index is PK_NONE. */
struct pk_val pk_add_position(struct pk_build *b, struct pk_val x, struct pk_val table,
                              struct pk_val index);
struct pk_val pk_prepend_token(struct pk_build *b, struct pk_val token, struct pk_val x);
struct pk_val pk_slice_tokens(struct pk_build *b, struct pk_val x, int32_t start, int32_t count);
/* context [B, K, C] first (position added), then mask token + position for each hidden index. */
struct pk_val pk_assemble_tokens(struct pk_build *b, struct pk_val context,
                                 struct pk_val mask_token, struct pk_val table, struct pk_val kept,
                                 struct pk_val hidden);
struct pk_val pk_mean_pool(struct pk_build *b, struct pk_val x, int32_t skip);
/* x [B, T, C] -> [B, U, width], U = (T + left + right - kernel) / stride + 1:
 * y[b, u, n] = bias[n] + sum over k, c of x[b, u stride + k - left, c] weight[n, c, k], zeros
 * outside the record. Channels come last, the weight is PyTorch's [width, C / groups, kernel].
 * groups = C = width is a depthwise convolution. */
/* Elementwise: max(x, 0); x sigmoid(x), also called Swish; 1 / (1 + e^-x). */
struct pk_val pk_relu(struct pk_build *b, struct pk_val x);
struct pk_val pk_silu(struct pk_build *b, struct pk_val x);
struct pk_val pk_logistic(struct pk_build *b, struct pk_val x);
/* x [B, T, C] times gate [B, C], the same for all T: the end of a squeeze-excite (Hu et al. 2018).
 */
struct pk_val pk_channel_scale(struct pk_build *b, struct pk_val x, struct pk_val gate);

/* x [B, T, C] -> [B, U, C], U = (T + left + right - kernel) / stride + 1: maximum or mean of each
 * window's samples that are inside the record. right = 1 where T is odd is PyTorch's ceil_mode for
 * windows of 2. zeros: the padding counts too, as samples of 0. Where several samples are the
 * maximum the gradient goes to the first. */
struct pk_pool1d {
    int32_t kernel, stride, left, right;
    bool zeros;
};
struct pk_val pk_max_pool1d(struct pk_build *b, struct pk_val x, const struct pk_pool1d *a);
struct pk_val pk_mean_pool1d(struct pk_build *b, struct pk_val x, const struct pk_pool1d *a);
/* x [B, T, C] -> [B, 2C]: the maximum over T of every channel, then the means (fastai's head). */
struct pk_val pk_concat_pool(struct pk_build *b, struct pk_val x);

/* Batch norm over all axes but the last (Ioffe & Szegedy 2015), statistics with PyTorch's names.
 * train: statistics of the micro-batch at hand, over its records and samples; each step moves
 * running_mean and running_var (unbiased) to the mean of those of its micro-batches by `momentum`.
 * Else, and always in frozen scopes: the running statistics, which stay as they are. In an EMA
 * scope train takes the micro-batch's statistics, too, but what is averaged there moves with the
 * weights. */
struct pk_batchnorm {
    float eps, momentum; // PyTorch: 1e-5, .1
    float gain;          // where the weight starts: 0 makes a residual branch start as nothing
    bool train;
};
struct pk_val pk_batchnorm(struct pk_build *b, struct pk_val x, const struct pk_batchnorm *a,
                           const char *name);

enum pk_conv1d_init {
    PK_CONV1D_UNIFORM, // +-1 / sqrt(C / groups kernel), weight and bias: PyTorch's default
    PK_CONV1D_HE,      // normal, std sqrt(2 / (C / groups kernel)) (He et al. 2015); bias 0
    PK_CONV1D_HE_OUT   // the same with the fan out: sqrt(2 / (width / groups kernel))
};
struct pk_conv1d {
    int64_t width;
    int32_t kernel, stride, left, right, groups; // stride, groups: 0 means 1
    bool bias;
    enum pk_conv1d_init init;
};
struct pk_val pk_conv1d(struct pk_build *b, struct pk_val x, const struct pk_conv1d *a,
                        const char *name);
/* The padding that keeps U = ceil(T / stride), the odd zero on the right, as TensorFlow's "same".
 */
void pk_conv1d_same(int64_t tokens, struct pk_conv1d *a);
/* [2, C]: mean and variance (1/n) of every channel over all other axes. Not differentiated. */
struct pk_val pk_feature_moments(struct pk_build *b, struct pk_val x);
struct pk_val pk_l1_loss(struct pk_build *b, struct pk_val x, struct pk_val target); // mean |x - t|

/* Supervised losses over predictions [..., N] of the storage type: the mean over what is known.
 * Labels are u8, 0 or 1, PK_LABEL_MISSING where not known, or float within [0, 1] (soft labels, as
 * mixup makes them), NaN where not known; targets are float, NaN where not known. What is not known
 * has no part in the mean and no gradient; where nothing is, the loss and its gradient are 0. The
 * mean is that of the micro-batch, so a step weighs micro-batches alike, however much is known in
 * each. Vectors [N] are copied; NULL: ones. The backward pass reads the divisor of the mean. */

/* Multi-label: each class is a question of its own. With y the label after smoothing,
 * y (1 - s) + s / 2, p = 1 / (1 + e^-logit) and n = max(p - margin, 0), an entry of class c costs
 *
 *     class_weight[c] * (- positive_weight[c] a y (1 - p)^gamma_positive log p
 *                        - b (1 - y) n^gamma_negative log(1 - n))
 *
 * and the loss is the sum over the known entries by their number. All zero: binary cross-entropy;
 * both weights are those of PyTorch's BCEWithLogitsLoss. alpha in (0, 1): a = alpha, b = 1 - alpha,
 * else both 1. Both gammas alike and no margin: focal loss (Lin et al. 2017; 2 and alpha .25
 * there). gamma_negative above gamma_positive and a margin: the asymmetric loss (Ridnik et al.
 * 2021; 4, 0 and .05 there). The gradient goes through the focusing factors too, as in both papers;
 * the code published with the second holds them constant. */
struct pk_multilabel_spec {
    float gamma_positive, gamma_negative, margin, alpha, smoothing;
    const float *positive_weight, *class_weight;
};
struct pk_val pk_multilabel_loss(struct pk_build *b, struct pk_val logit, struct pk_val label,
                                 const struct pk_multilabel_spec *a);
/* Without any of that: binary cross-entropy. */
struct pk_val pk_bce_loss(struct pk_build *b, struct pk_val logit, struct pk_val label);

/* Multi-class: softmax cross-entropy. A row of labels is one-hot, or shares of the classes; one
 * with an entry that is not known, or without any label, is left out. With y a label after
 * smoothing, y (1 - s) + s / N, and w the class weights:
 *
 *     sum over rows and classes of -w y log softmax(logit)
 *       / sum over rows of the mean weight of their labels (before smoothing)
 *
 * which for one-hot rows is PyTorch's CrossEntropyLoss with `weight` and `label_smoothing`. */
struct pk_multiclass_spec {
    float smoothing;
    const float *class_weight;
};
struct pk_val pk_multiclass_loss(struct pk_build *b, struct pk_val logit, struct pk_val label,
                                 const struct pk_multiclass_spec *a);
struct pk_val pk_softmax_loss(struct pk_build *b, struct pk_val logit, struct pk_val label);

/* Regression: with d = x - target, the sum over known targets of weight[n] loss(d) by their number.
 */
enum pk_regression_kind {
    PK_REGRESSION_SQUARED,  // d^2
    PK_REGRESSION_ABSOLUTE, // |d|, of slope 0 at 0
    PK_REGRESSION_HUBER     // d^2 / 2 where |d| < delta, else delta (|d| - delta / 2)
};
struct pk_regression_spec {
    enum pk_regression_kind kind;
    float delta; // of Huber (1964): > 0, in units of the target
    const float *weight;
};
struct pk_val pk_regression_loss(struct pk_build *b, struct pk_val x, struct pk_val target,
                                 const struct pk_regression_spec *a);

/* Losses that couple all rows of a batch: x [..., D] counts as N rows (the product of the leading
 * axes) of the storage type or of float. A program that holds them must see the whole batch
 * (docs/decisions/010-batch-coupled-losses.md).
 *
 * ranks: 1, or as many as the executor has, which then share out the work. All have the rows of the
 * whole batch and get the whole loss, but each compares only its own N / ranks rows, in the order
 * of the ranks, with the others, tells what the rest needs of them (a gather of four numbers a row)
 * and computes the gradient of its own rows; that of the others' rows is 0 here. On the CPU loss
 * and gradient have the bits of ranks = 1. */
/* x / max(|x|, eps) row by row; the gradient goes through the norm. */
struct pk_val pk_l2_normalize(struct pk_build *b, struct pk_val x, float eps);
/* InfoNCE with given positives. query [N, D], key [M, D], groups i64 [N] and [M]:
 *
 *     s_ij = query_i . key_j / temperature        P(i) = {j: key_group_j = query_group_i}
 *     loss = weight / N * sum_i 1 / |P(i)| * sum_{j in P(i)} (log sum_k exp s_ik - s_ij)
 *
 * key PK_NONE (and key_group then too): the queries are the keys, and a row is neither its own
 * positive nor its own negative. Two views per group make that NT-Xent (Chen et al. 2020), several
 * segments per patient CMSC (Kiyasseh et al. 2021) with all of them positives, as in SupCon's L_out
 * (Khosla et al. 2020). With keys from an EMA scope it is MoCo v3 (Chen, Xie & He 2021), whose
 * further factor 2 * temperature is a matter of weight. Rows are used as they are: normalise them
 * first. A row without a positive adds nothing; the mean is over all N rows. */
struct pk_val pk_contrast_loss(struct pk_build *b, struct pk_val query, struct pk_val key,
                               struct pk_val query_group, struct pk_val key_group,
                               float temperature, float weight, int32_t ranks);
/* -weight / N * sum_i log(eps + min_{j != i} |x_i - x_j|): KoLeo (Sablayrolles et al. 2019), for
 * normalised rows. Of several nearest rows the first counts; between equal rows no gradient flows.
 */
struct pk_val pk_koleo_loss(struct pk_build *b, struct pk_val x, float weight, float eps,
                            int32_t ranks);
/* The sum of x * gradient, gradient float of x's shape: its derivative by x is `gradient`, so that
 * a backward pass can start from a gradient that another program computed. */
struct pk_val pk_dot_loss(struct pk_build *b, struct pk_val x, struct pk_val gradient);
/* The gradient of the loss by the input x, which must reach it, becomes an output of this name. */
void pk_input_gradient(struct pk_build *b, struct pk_val x, const char *name);

#endif
